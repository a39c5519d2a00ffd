"""Loss of a network that answers a prompt with several candidate masks and says how good each of them is.

Kirillov et al., Segment Anything, ICCV 2023, appendix A: a click may mean the wheel, the car or the row of cars, so the
network draws several masks, and only the best of them is held to the target (the minimum over the candidates). Here
each of the others learns a little, too: a candidate that is never the best would otherwise never change.
"""

from torch import Tensor
from torch.nn import functional

MEAN_WEIGHT = 0.1  # of the mean over the candidates, beside the minimum
IOU_WEIGHT = 0.1  # of the squared error of the predicted IoU


def prompt_loss(logits: Tensor, predicted_iou: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy + Dice of the best candidate, a tenth of their mean, a tenth of the predicted IoU's squared error.

    Dice is that of Milletari et al., V-Net (2016), with plain instead of squared sums and 1 added above and below the
    fraction bar; like the cross-entropy it is computed for each image on its own.

    Args:
        logits: float (B, M, h, w), M candidate masks for each prompt.
        predicted_iou: float (B, M), what the network says their IoUs are, 0..1.
        target: (B, h, w), the share of each position that the object covers, 0..1; bool will do.
        weight: (B, h, w), how much each position counts, 0 for void; bool will do.

    Returns:
        A scalar, the mean over the batch, in float32 also for logits of half precision. An image that is void
        everywhere counts 0 but for its predicted IoUs, whose true value is 0 then.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    _check_shapes(logits, predicted_iou, target, weight)
    logits, predicted_iou = logits.float(), predicted_iou.float()
    target, weight = target.to(logits.dtype), weight.to(logits.dtype)
    candidates = _mask_loss(logits, target[:, None], weight[:, None])
    masks = candidates.amin(1) + MEAN_WEIGHT * candidates.mean(1)
    iou_error = functional.mse_loss(predicted_iou, true_iou(logits, target, weight))
    return masks.mean() + IOU_WEIGHT * iou_error


def true_iou(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """IoU of each candidate, thresholded at logit 0, with the target, thresholded at 0.5: float (B, M).

    Arguments as for :func:`prompt_loss`. No gradient comes back from it: masks that are thresholded have none. Where
    neither mask nor target has a pixel that counts it is 0.
    """
    predicted, truth, weight = logits > 0, target[:, None] > 0.5, weight[:, None]
    both = (weight * (predicted & truth)).sum((2, 3))
    either = (weight * (predicted | truth)).sum((2, 3))
    return both / either.clamp_min(1)


def _mask_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy + Dice of each candidate: (B, M, h, w) with (B, 1, h, w) -> (B, M)."""
    nll = functional.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    cross_entropy = (weight * nll).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1)
    predicted, true = weight * logits.sigmoid(), weight * target
    overlap, areas = (predicted * target).sum((2, 3)), predicted.sum((2, 3)) + true.sum((2, 3))
    return cross_entropy + 1 - (2 * overlap + 1) / (areas + 1)


def _check_shapes(logits: Tensor, predicted_iou: Tensor, target: Tensor, weight: Tensor) -> None:
    if logits.ndim != 4:
        raise ValueError(f"logits must have shape (B, M, h, w), got {tuple(logits.shape)}")
    masks, pixels = logits.shape[:2], (len(logits), *logits.shape[2:])
    if predicted_iou.shape != masks:
        raise ValueError(f"predicted_iou must have shape {tuple(masks)}, got {tuple(predicted_iou.shape)}")
    for name, given in (("target", target), ("weight", weight)):
        if given.shape != pixels:
            raise ValueError(
                f"{name} must have shape {pixels}, the size of the logits, got {tuple(given.shape)}; resize it first"
            )
