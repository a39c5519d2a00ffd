"""The loss that SAM was trained with: focal + Dice on the mask, and the error of the predicted IoU.

Kirillov et al., Segment Anything, ICCV 2023, appendix A, with the weights given there.
"""

from torch import Tensor
from torch.nn import functional

from labhelpers.training.prompt_loss import true_iou

FOCAL_WEIGHT, DICE_WEIGHT, IOU_WEIGHT = 20.0, 1.0, 1.0
ALPHA, GAMMA = 0.25, 2.0


def sam_loss(logits: Tensor, predicted_iou: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """20 x focal + Dice + squared error of the predicted IoU, a mean over P masks.

    Focal: Lin et al. (2017), equation 5, alpha 0.25 for the object and 0.75 beside it, gamma 2, a mean over the pixels
    that count. Dice: Milletari et al., V-Net (2016), with plain sums and 1 added above and below the fraction bar.

    Args:
        logits: float (P, h, w), one mask for each prompt.
        predicted_iou: float (P,).
        target: float (P, h, w), the share of each position that the object covers, 0..1.
        weight: float (P, h, w), how much each position counts, 0 for void and padding.
    """
    p = logits.sigmoid()
    nll = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = p + target - 2 * p * target  # 1 - p_t
    alpha = ALPHA * target + (1 - ALPHA) * (1 - target)
    focal = (weight * alpha * wrong**GAMMA * nll).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)
    overlap, areas = (weight * p * target).sum((1, 2)), (weight * (p + target)).sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (areas + 1)
    iou_error = (predicted_iou - true_iou(logits[:, None], target, weight)[:, 0]) ** 2
    return (FOCAL_WEIGHT * focal + DICE_WEIGHT * dice + IOU_WEIGHT * iou_error).mean()
