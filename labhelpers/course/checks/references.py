"""The answers that notebooks go on with when a student's is not right yet: the library's where it has one."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from labhelpers.evaluation.confusion import ConfusionMatrix
from labhelpers.models import unet
from labhelpers.training.losses import build_loss


def valid_output_size(size: int) -> int:
    """Side of the map that the U-Net of 2015 makes of an image of this side, without padding: 572 -> 388.

    Raises:
        ValueError: a max-pool meets an odd side, or no pixel is left.
    """
    side = size
    for _ in range(4):
        side -= 4  # two 3x3 convolutions
        if side <= 0 or side % 2:
            raise ValueError(f"size={size}: a max-pool meets a side of {side}, which cannot be halved")
        side //= 2
    side -= 4
    for _ in range(4):
        side = 2 * side - 4
    if side <= 0:
        raise ValueError(f"size={size}: no pixel is left, the smallest size is 188")
    return side


def pad_to_multiple(images: Tensor, multiple: int = 16) -> Tensor:
    """images (B, C, H, W), the last row and column repeated until both sides are multiples."""
    return unet.pad_to_multiple(images, multiple)


def binary_cross_entropy(logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
    """logits (B, K, H, W), target (B, H, W) int64 -> the mean over valid pixels and maps, a scalar."""
    return build_loss("bce", ignore_index=ignore_index)(logits, target)


def binary_scores(prediction: Tensor, target: Tensor, ignore_index: int = 255) -> dict[str, float]:
    """Labels 0 and 1, uint8 (H, W) or (N, H, W) -> the share of right pixels, and four scores of class 1."""
    counter = ConfusionMatrix(2, ignore_index)
    counter.update(prediction, target)
    found = counter.compute()
    return {
        "accuracy": found.pixel_accuracy,
        "precision": found.precision,
        "recall": found.recall,
        "f1": found.f1,
        "iou": float(found.class_iou[1]),
    }


def should_stop(scores: list[float], patience: int) -> bool:
    """Whether none of the last ``patience`` scores (1 or more) is above the best one before them."""
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])
