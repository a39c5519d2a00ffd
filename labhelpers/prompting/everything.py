"""Segment everything: click on every point of a grid, and keep the masks that are good, stable and not said twice.

Kirillov et al., Segment Anything, ICCV 2023, section 5 and appendix B.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from labhelpers.data.base import IGNORE_INDEX
from labhelpers.models.sam import quiet
from labhelpers.prompting.predictor import Predictor, check_image
from labhelpers.prompting.sam import SamPredictor
from labhelpers.prompting.sampling import box_from_mask

POINTS_AT_ONCE = 16  # of SAM: each costs three masks of 1024 x 1024 logits, 12 MB


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

    For SAM it is the mask-generation pipeline of `transformers`. Any other predictor is asked click by click, with the
    same filters but one: stability needs logits, which predictors do not give away.

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
    if isinstance(predictor, SamPredictor):
        masks, ious = _by_pipeline(predictor, image, grid, min_iou, min_stability, max_overlap)
        how += f", stability at least {min_stability:g}"
    else:
        masks, ious = _click_by_click(predictor, image, grid, min_iou, max_overlap)
    stack = np.array(masks, dtype=bool).reshape(-1, *image.shape[:2])  # for no masks, too
    return FoundMasks(stack, np.array(ious, dtype=np.float32), f"{how}, box overlap at most {max_overlap:g}")


def _by_pipeline(
    predictor: SamPredictor, image: np.ndarray, grid: int, min_iou: float, min_stability: float, max_overlap: float
) -> tuple[list[np.ndarray], list[float]]:
    from PIL import Image
    from transformers import MaskGenerationPipeline

    model = predictor.model
    with quiet(), torch.no_grad():
        pipeline = MaskGenerationPipeline(
            model=model.network, image_processor=model.processor, device=model.device, task="mask-generation"
        )
        found = pipeline(
            Image.fromarray(image),
            points_per_crop=grid,
            points_per_batch=POINTS_AT_ONCE,
            pred_iou_thresh=min_iou,
            stability_score_thresh=min_stability,
            crops_nms_thresh=max_overlap,
        )
    return found["masks"], found["scores"].cpu().float().clamp(0, 1).tolist()


def _click_by_click(
    predictor: Predictor, image: np.ndarray, grid: int, min_iou: float, max_overlap: float
) -> tuple[list[np.ndarray], list[float]]:
    from torchvision.ops import nms

    height, width = image.shape[:2]
    share = (np.arange(grid) + 0.5) / grid
    predictor.set_image(image)
    masks, ious = [], []
    for y in share * height - 0.5:
        for x in share * width - 0.5:
            candidates, estimates = predictor.predict(np.array([[x, y]]), np.ones(1, dtype=np.int64), multimask=True)
            for mask, iou in zip(candidates, estimates, strict=True):
                if iou > min_iou and mask.any():
                    masks.append(mask)
                    ious.append(iou)
    boxes = torch.tensor(np.array([box_from_mask(mask) for mask in masks]).reshape(-1, 4))
    kept = nms(boxes, torch.tensor(ious, dtype=boxes.dtype), max_overlap).tolist()
    return [masks[index] for index in kept], [ious[index] for index in kept]


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
