"""Segment everything: click on every point of a grid, and keep the masks that are good, stable and not said twice.

Kirillov et al., Segment Anything, ICCV 2023, section 5 and appendix B.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from labhelpers.data.base import IGNORE_INDEX
from labhelpers.prompting.predictor import SURE, MiniSamPredictor, Predictor, as_tensor, check_image
from labhelpers.prompting.sam import SamPredictor
from labhelpers.prompting.sampling import box_from_mask
from labhelpers.prompting.windows import Window

CLICKS_AT_ONCE = 16  # each costs three masks of 1024 x 1024 logits in SAM, 12 MB


@dataclass(frozen=True, eq=False)
class FoundMasks:
    """Masks of an image, the best first; they may overlap, and no class is known."""

    masks: np.ndarray = field(repr=False)  # bool (N, H, W)
    ious: np.ndarray = field(repr=False)  # float32 (N,), predicted by the model
    how: str  # in one sentence without a full stop

    def __len__(self) -> int:
        return len(self.masks)


def segment_everything(
    predictor: Predictor,
    image: np.ndarray,
    grid: int = 16,
    min_iou: float = 0.88,
    min_stability: float = 0.95,
    max_overlap: float = 0.7,
) -> FoundMasks:
    """All masks that a predictor finds from a grid of clicks; each click has three candidates.

    SAM's logits are filtered as in its paper. Any other predictor is asked click by click, with the same filters but
    one: stability needs logits, which predictors do not give away.

    Args:
        image: uint8 (H, W, 3), RGB.
        grid: clicks along each side; the paper has 32. The cost is that of grid * grid answers.
        min_iou: predicted IoU a mask must exceed. Mini-SAM is less sure of itself than SAM: 0.7 suits it.
        min_stability: of SAM only: the IoU of the mask at logit +1 and at logit -1.
        max_overlap: of two masks whose boxes have an IoU above it, the one of lower predicted IoU is dropped
            (non-maximum suppression).

    Returns:
        Possibly no masks at all.

    Raises:
        ValueError: another kind of image, or a grid below 1.
    """
    check_image(image)
    if grid < 1:
        raise ValueError(f"grid must be at least 1, got {grid}")
    how = f"{grid} x {grid} clicks, predicted IoU above {min_iou:g}"
    clicks = _grid(image.shape[:2], grid)
    if isinstance(predictor, SamPredictor):
        logits, ious = click_candidates(predictor, image, clicks, min_iou)
        stable = (logits > 1).sum((1, 2)) >= min_stability * np.maximum((logits > -1).sum((1, 2)), 1)
        masks, ious = logits[stable] > 0, ious[stable]
        how += f", stability at least {min_stability:g}"
    else:
        masks, ious = _click_by_click(predictor, image, clicks, min_iou)
    masks, ious = _without_doubles(masks, ious, max_overlap)
    return FoundMasks(masks, ious, f"{how}, box overlap at most {max_overlap:g}")


def _grid(size: tuple[int, int], grid: int) -> np.ndarray:
    """The centres of grid x grid equal cells of an image (H, W), pixels (x, y): (grid * grid, 2)."""
    share = (np.arange(grid) + 0.5) / grid
    x, y = np.meshgrid(share * size[1] - 0.5, share * size[0] - 0.5)
    return np.stack([x.ravel(), y.ravel()], axis=1)


@torch.no_grad()
def click_candidates(
    predictor: MiniSamPredictor | SamPredictor, image: np.ndarray, clicks: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """The candidates that a network draws for each of many clicks, each click asked alone, in one look at the image.

    Args:
        image: uint8 (H, W, 3), RGB.
        clicks: (P, 2), pixels (x, y) of the image, on the object.
        min_iou: candidates whose predicted IoU is not above it are left out, before they are enlarged.

    Returns:
        Logits float32 (N, H, W), of which a mask is what is above 0, and predicted IoUs float32 (N,) in 0..1; N is at
        most 3 P.
    """
    check_image(image)
    size, device = image.shape[:2], predictor.device
    if isinstance(predictor, SamPredictor):
        sam = predictor.model
        predictor.set_image(image)
        seen = predictor.embedding

        def decode(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return sam.decode(seen, points, labels)

        def enlarge(logits: Tensor) -> Tensor:
            return sam.enlarge(logits, seen)[0]
    else:
        mini, whole = predictor.model, Window.whole(size, predictor.overview)
        once = mini.encode(whole.cut(as_tensor(image).to(device))[None])
        clicks = whole.points(clicks)

        def decode(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return mini.decode(once.repeat(len(points)), points, labels, full_size=False)

        def enlarge(logits: Tensor) -> Tensor:
            return whole.paste(mini.enlarge(logits, (whole.height, whole.width))[0], size, -SURE)

    found = [(np.zeros((0, *size), dtype=np.float32), np.zeros(0, dtype=np.float32))]
    for points in torch.from_numpy(clicks)[:, None].to(device).split(CLICKS_AT_ONCE):
        logits, ious = decode(points, torch.ones(points.shape[:2], dtype=torch.int64, device=device))
        good = ious > min_iou
        if good.any():
            full = enlarge(logits[good][None])
            found.append((full.float().cpu().numpy(), ious[good].clamp(0, 1).float().cpu().numpy()))
    return np.concatenate([logits for logits, _ in found]), np.concatenate([ious for _, ious in found])


def _click_by_click(
    predictor: Predictor, image: np.ndarray, clicks: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    predictor.set_image(image)
    masks, ious = [np.zeros((0, *image.shape[:2]), dtype=bool)], [np.zeros(0, dtype=np.float32)]
    for click in clicks:
        candidates, estimates = predictor.predict(click[None], np.ones(1, dtype=np.int64), multimask=True)
        masks.append(candidates[estimates > min_iou])
        ious.append(estimates[estimates > min_iou])
    return np.concatenate(masks), np.concatenate(ious)


def _without_doubles(masks: np.ndarray, ious: np.ndarray, max_overlap: float) -> tuple[np.ndarray, np.ndarray]:
    """The masks that are not empty, the best first, each of them with the highest IoU among those of its box."""
    from torchvision.ops import nms

    there = masks.any((1, 2))
    masks, ious = masks[there], ious[there].astype(np.float32)
    boxes = torch.tensor(np.array([box_from_mask(mask) for mask in masks]).reshape(-1, 4))
    kept = nms(boxes, torch.from_numpy(ious).to(boxes.dtype), max_overlap).numpy()
    return masks[kept], ious[kept]


# Class maps from masks without classes: somebody else has to name them before there can be a mean IoU.


def by_overlap(
    masks: np.ndarray, scores: np.ndarray, target: np.ndarray, ignore_index: int | None = IGNORE_INDEX
) -> np.ndarray:
    """Give each mask the class of the truth that most of its pixels have: an oracle, an upper bound for any namer.

    Args:
        masks: bool (N, H, W), any number of them, which may overlap.
        scores: (N,), a predicted IoU each; see `paint`.
        target: uint8 (H, W), the truth. Its void has no vote: a mask with nothing but void is left out. Of equally
            frequent classes a mask gets the lowest.

    Returns:
        uint8 (H, W) as `paint` makes it; it has no void.

    Raises:
        ValueError: the shapes do not fit, or the masks are not bool.
    """
    masks, scores = np.asarray(masks), np.asarray(scores)
    if len(masks) == 0:
        masks, scores = np.zeros((0, *target.shape), dtype=bool), np.zeros(0)
    if masks.dtype != bool or masks.ndim != 3 or masks.shape[1:] != target.shape or scores.shape != (len(masks),):
        raise ValueError(
            f"masks must be bool (N, {target.shape[0]}, {target.shape[1]}), as large as the label map, with one score "
            f"each; got {masks.dtype} {masks.shape} and scores {scores.shape}. Threshold logits at the image's size."
        )
    classes = np.full(len(masks), -1)
    for index, mask in enumerate(masks):
        counts = np.bincount(target[mask], minlength=256)
        if ignore_index is not None:
            counts[ignore_index] = 0
        if counts.any():
            classes[index] = counts.argmax()
    return paint(masks, scores, classes)


def by_vote(masks: np.ndarray, scores: np.ndarray, class_map: np.ndarray) -> np.ndarray:
    """Give each mask the class that a semantic network sees in most of its pixels.

    Args:
        masks, scores: as in `by_overlap`.
        class_map: uint8 (H, W), the network's prediction for the same image: `evaluation.predict`.

    Returns:
        uint8 (H, W) as `paint` makes it. Where no mask is there is background, whatever the network saw there.

    Raises:
        ValueError: the shapes do not fit, or the masks are not bool.
    """
    return by_overlap(masks, scores, class_map, ignore_index=None)


def paint(masks: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Put masks on top of each other, the largest first, so that a small one is seen on the one that holds it.

    Of two of the same size the one with the higher score is on top. Pixels in no mask are background, 0.

    Args:
        masks: bool (N, H, W).
        scores: (N,).
        classes: int (N,), 0..254, or -1 for a mask to leave out.

    Returns:
        uint8 (H, W).
    """
    painted = np.zeros(masks.shape[1:], dtype=np.uint8)
    sizes = masks.sum((1, 2))
    for index in np.lexsort((scores, -sizes)):
        if classes[index] >= 0:
            painted[masks[index]] = classes[index]
    return painted
