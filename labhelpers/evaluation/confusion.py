"""One confusion matrix, and every pixel score that follows from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

_LANES = 4


def to_labels(prediction: torch.Tensor, num_classes: int, names: Sequence[str] = ()) -> torch.Tensor:
    """Turn logits into labels: float (B, K, H, W) or (K, H, W) becomes uint8 without the K axis; K = num_classes.

    Args:
        names: what an error calls each image of the batch.

    Raises:
        ValueError: the tensor is not float, its class axis has another length, or a logit is NaN or infinite.
    """
    axis = prediction.dim() - 3
    if not prediction.is_floating_point() or axis not in (0, 1) or prediction.shape[axis] != num_classes:
        raise ValueError(
            f"expected float logits (B, {num_classes}, H, W), got {prediction.dtype} {tuple(prediction.shape)}. "
            f"Give the model num_classes={num_classes}, and upsample its logits to the size of the label map."
        )
    require_finite(prediction[None] if axis == 0 else prediction, names)
    # On a CPU max() is several times faster than argmax() along an axis that is not the last one.
    return prediction.max(axis).indices.to(torch.uint8)


def require_finite(logits: torch.Tensor, names: Sequence[str] = ()) -> None:
    """Raise ValueError, naming the first such image, where logits or scores (B, ...) are NaN or infinite.

    Args:
        names: of the images; by default their places in the batch.
    """
    if logits.sum(dtype=torch.float32).isfinite():  # the quickest look at all of them; it may overflow
        return
    broken = (~logits.isfinite()).flatten(1).any(1).nonzero()
    if len(broken):
        first = int(broken[0])
        raise ValueError(
            f"the model's logits for {names[first] if names else f'image {first} of the batch'} hold NaN or infinity, "
            "which is no prediction. Look for weights that are not finite (training that diverged: lower lr), or run "
            "it with precision='no'."
        )


def confusion_matrix(
    prediction: torch.Tensor, target: torch.Tensor, num_classes: int, ignore_index: int = 255
) -> torch.Tensor:
    """Count how often each true label was predicted as each label, void left out.

    Args:
        prediction: float logits (B, K, H, W), or integer labels of the target's shape, in 0..K-1 everywhere.
        target: integer labels, in 0..K-1 or `ignore_index`; uint8 is fastest.
        num_classes: K, 1 to 256.
        ignore_index: the label of void, 0 to 255; it may be one of the classes, which is then not scored.

    Returns:
        int64 (K, K) on the CPU: rows are the true label, columns the predicted one.

    Raises:
        ValueError: shapes differ, labels are floats, logits are not finite, or a label is neither a class nor void.
    """
    prediction, target = torch.as_tensor(prediction), torch.as_tensor(target)
    if prediction.dim() == target.dim() + 1:
        prediction = to_labels(prediction, num_classes)
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in size. Upsample the "
            "logits to the label map; never resize the label map to the prediction."
        )
    if target.numel() == 0:
        return torch.zeros(num_classes, num_classes, dtype=torch.int64)
    valid = f"0..{num_classes - 1}"
    prediction = _as_bytes(prediction, "prediction", valid)
    target = _as_bytes(target, "target", f"{valid} or ignore_index {ignore_index}")
    if prediction.max() >= num_classes:
        raise ValueError(
            f"prediction holds the label {int(prediction.max())}, but labels are {valid}: a prediction has no void. "
            "Build the model and the confusion matrix with the same num_classes."
        )

    # Every pixel becomes one bin of a (lane, target, prediction) histogram. All 256 target values have bins, so that
    # neither void nor a wrong label needs a mask. The narrowest integer type is fastest, and neighbouring pixels go to
    # different lanes: a run of equal pixels would otherwise wait for its own last addition each time.
    bins = 256 * num_classes
    dtype = torch.int16 if _LANES * bins <= 2**15 else torch.int32
    lane = torch.arange(target.shape[-1], dtype=dtype, device=target.device) % _LANES * bins
    index = target.to(dtype)
    torch.add(lane, index, alpha=num_classes, out=index).add_(prediction)
    counts = torch.bincount(index.reshape(-1), minlength=_LANES * bins)
    counts = counts.view(_LANES, 256, num_classes).sum(0).cpu()

    counts[ignore_index] = 0
    if counts[num_classes:].any():
        unknown = int(counts.sum(1)[num_classes:].nonzero()[0]) + num_classes
        raise ValueError(
            f"target holds the label {unknown} in {int(counts[unknown].sum())} pixels, which is neither in {valid} nor "
            f"ignore_index {ignore_index}. Correct the label map, or raise num_classes."
        )
    return counts[:num_classes].clone()


def _as_bytes(labels: torch.Tensor, name: str, valid: str) -> torch.Tensor:
    if labels.dtype is torch.uint8:
        return labels
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"{name} must hold integer labels, got {labels.dtype}. Use logits.argmax(1), or cast to uint8."
        )
    if labels.dtype is not torch.bool:
        low, high = (int(bound) for bound in labels.aminmax())
        if low < 0 or high > 255:
            raise ValueError(
                f"{name} holds the label {low if low < 0 else high}; labels are {valid}, in one byte. "
                "Mark void as 255 in the label map."
            )
    return labels.to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Scores:
    """What one confusion matrix says.

    With TP, FP and FN the true positive, false positive and false negative pixels of a class:
    `class_iou` = TP / (TP + FP + FN), `class_precision` = TP / (TP + FP), `class_recall` = TP / (TP + FN),
    `class_f1` = 2 TP / (2 TP + FP + FN), which is also called Dice; float64 (K,).

    One rule for what is undefined: a class absent from both prediction and target is NaN and left out of every mean. A
    class absent from one of them has no true positives and scores 0. `pixel_accuracy`, `mean_accuracy`, `mean_iou` and
    `freq_weighted_iou` are those of Long et al., "Fully convolutional networks for semantic segmentation" (CVPR 2015),
    section 5, under that rule.

    `precision`, `recall` and `f1` are means over the classes. For two classes, a foreground and a background,
    they are those of class 1; `mean_iou` and `mean_accuracy` stay means of both, and the foreground's IoU is
    `class_iou[1]`. With num_classes=1 every scored pixel is right by definition.
    """

    pixel_accuracy: float
    mean_accuracy: float
    freq_weighted_iou: float
    mean_iou: float
    precision: float
    recall: float
    f1: float
    class_iou: np.ndarray
    class_precision: np.ndarray
    class_recall: np.ndarray
    class_f1: np.ndarray

    def __str__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{name} {value:.4f}" for name, value in values.items() if isinstance(value, float))


class ConfusionMatrix:
    """The confusion matrix of a whole data set, gathered batch by batch.

    Scores are computed once, from the sum: the mean of the batches' scores is another number, and not the set's score.

    Attributes:
        matrix: int64 (K, K) on the CPU; rows are the true label, columns the predicted one.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255):
        if not 1 <= num_classes <= 256:
            raise ValueError(f"num_classes must be 1 to 256 (labels are bytes), got {num_classes}.")
        if not 0 <= ignore_index <= 255:
            raise ValueError(f"ignore_index must be 0 to 255 (labels are bytes), got {ignore_index}. VOC uses 255.")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch: see `confusion_matrix`. A batch that is refused changes nothing."""
        self.matrix += confusion_matrix(prediction, target, self.num_classes, self.ignore_index)

    def compute(self) -> Scores:
        """Return the scores of everything seen so far; all NaN when nothing was."""
        return scores(self.matrix.numpy())


def scores(matrix: np.ndarray) -> Scores:
    """Return the scores of a confusion matrix (K, K), rows true, columns predicted."""
    return Scores(
        **{name: float(metric(matrix)) for name, metric in METRICS.items() if name in Scores.__dataclass_fields__},
        class_iou=class_iou(matrix),
        class_precision=class_precision(matrix),
        class_recall=class_recall(matrix),
        class_f1=class_f1(matrix),
    )


# From here on matrices are (..., K, K): a resampling method scores a thousand of them in one call.


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, (..., K, K) to (..., K); NaN where the class is absent."""
    tp, true, predicted = _marginals(matrix)
    return _ratio(tp, true + predicted - tp)


def class_f1(matrix: np.ndarray) -> np.ndarray:
    """Dice of each class, which is 2 IoU / (1 + IoU); (..., K, K) to (..., K)."""
    tp, true, predicted = _marginals(matrix)
    return _ratio(2 * tp, true + predicted)


def class_precision(matrix: np.ndarray) -> np.ndarray:
    """The share of the pixels predicted as a class that are of it; (..., K, K) to (..., K)."""
    tp, true, predicted = _marginals(matrix)
    return np.where(true + predicted > 0, tp / np.maximum(predicted, 1), np.nan)


def class_recall(matrix: np.ndarray) -> np.ndarray:
    """The share of a class's pixels that are predicted as it; (..., K, K) to (..., K)."""
    tp, true, predicted = _marginals(matrix)
    return np.where(true + predicted > 0, tp / np.maximum(true, 1), np.nan)


def foreground_iou(matrix: np.ndarray) -> np.ndarray:
    """IoU of "any label but 0", whichever it is: (..., K, K) to (...). It measures edges apart from class mistakes."""
    matrix = np.asarray(matrix)
    everything = matrix.sum((-2, -1))
    return _ratio(matrix[..., 1:, 1:].sum((-2, -1)), everything - matrix[..., 0, 0])


def _pixel_accuracy(matrix: np.ndarray) -> np.ndarray:
    tp, true, _ = _marginals(matrix)
    return _ratio(tp.sum(-1), true.sum(-1))


def _freq_weighted_iou(matrix: np.ndarray) -> np.ndarray:
    _, true, _ = _marginals(matrix)
    return _ratio((true * np.nan_to_num(class_iou(matrix))).sum(-1), true.sum(-1))


def _mean(class_score: Callable) -> Callable:
    def mean(matrix: np.ndarray) -> np.ndarray:
        values = class_score(matrix)
        defined = ~np.isnan(values)
        return _ratio(np.where(defined, values, 0.0).sum(-1), defined.sum(-1))

    return mean


def _reported(class_score: Callable) -> Callable:
    def reported(matrix: np.ndarray) -> np.ndarray:
        return class_score(matrix)[..., 1] if matrix.shape[-1] == 2 else _mean(class_score)(matrix)

    return reported


METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pixel_accuracy": _pixel_accuracy,
    "mean_accuracy": _mean(class_recall),
    "freq_weighted_iou": _freq_weighted_iou,
    "mean_iou": _mean(class_iou),
    "precision": _reported(class_precision),
    "recall": _reported(class_recall),
    "f1": _reported(class_f1),
    "foreground_iou": foreground_iou,
}
"""Scores of matrices (..., K, K) by name."""


def _marginals(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    matrix = np.asarray(matrix, dtype=np.float64)
    return np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(-1), matrix.sum(-2)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)
