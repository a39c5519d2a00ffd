"""Segment everything: click on every point of a grid, and keep the masks that are good, stable and not said twice.

Kirillov et al., Segment Anything, ICCV 2023, section 5 and appendix B.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from labhelpers.prompting.predictor import Predictor, checked_image
from labhelpers.prompting.sam import SamPredictor
from labhelpers.prompting.sampling import box_from_mask

__all__ = ["FoundMasks", "segment_everything"]

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
    checked_image(image)
    if grid < 1:
        raise ValueError(f"grid must be at least 1, got {grid}")
    how = f"{grid} x {grid} clicks, predicted IoU above {min_iou:g}"
    if isinstance(predictor, SamPredictor):
        masks, ious = _by_pipeline(predictor, image, grid, min_iou, min_stability, max_overlap)
        how += f", stability at least {min_stability:g}"
    else:
        masks, ious = _click_by_click(predictor, image, grid, min_iou, max_overlap)
    return FoundMasks(masks, ious, f"{how}, box overlap at most {max_overlap:g}")


def _by_pipeline(
    predictor: SamPredictor, image: np.ndarray, grid: int, min_iou: float, min_stability: float, max_overlap: float
) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image
    from transformers import MaskGenerationPipeline

    from labhelpers.models.sam_weights import quiet

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
    masks = [np.asarray(mask, dtype=bool) for mask in found["masks"]]
    ious = found["scores"].cpu().float().clamp(0, 1).numpy()
    return (np.stack(masks), ious) if masks else _nothing(image)


def _click_by_click(
    predictor: Predictor, image: np.ndarray, grid: int, min_iou: float, max_overlap: float
) -> tuple[np.ndarray, np.ndarray]:
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
    if not masks:
        return _nothing(image)
    boxes = torch.from_numpy(np.stack([box_from_mask(mask) for mask in masks]))
    kept = nms(boxes, torch.tensor(ious, dtype=torch.float32), max_overlap).numpy()
    return np.stack(masks)[kept], np.array(ious, dtype=np.float32)[kept]


def _nothing(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((0, *image.shape[:2]), dtype=bool), np.zeros(0, dtype=np.float32)
