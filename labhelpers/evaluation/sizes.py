"""Scores by object size: does a network see small things?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from labhelpers.evaluation.evaluator import predict

BOUNDS = {"small": 32**2 / (640 * 480), "medium": 96**2 / (640 * 480), "large": float("inf")}
"""Largest share of the picture that an object of each size covers: COCO's 32x32 and 96x96 pixels in one of 640x480."""


@dataclass(frozen=True)
class SizeScore:
    """The objects of one size.

    `objects` counts them, `recall` is the mean share of an object's pixels that got its class, and `found` the share of
    the objects of which at least half of the pixels did; NaN without objects.
    """

    objects: int
    recall: float
    found: float


def object_recall(prediction: torch.Tensor, target: torch.Tensor, instances: torch.Tensor) -> np.ndarray:
    """Score each object of an image.

    The score is recall, not IoU: a label map does not say which object a false positive pixel belongs to (Cordts et
    al., "The Cityscapes dataset", CVPR 2016, section 4.2, do not weight false positives by object for the same reason).
    So read it beside the mean IoU: a network that calls everything a chair finds each chair.

    Args:
        prediction, target: uint8 labels (H, W).
        instances: uint8 (H, W), 0 background, 255 void, else the object's number.

    Returns:
        float64 (objects, 2): the share of the picture that the object covers, and the share of its pixels with the
        right label. Void pixels belong to no object.
    """
    if not prediction.shape == target.shape == instances.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)}, target {tuple(target.shape)} and instances "
            f"{tuple(instances.shape)} differ in size; all must be (H, W) at the label's own resolution."
        )
    right = torch.bincount(instances.flatten()[(prediction == target).flatten()], minlength=256)
    area = torch.bincount(instances.flatten()[(target != 255).flatten()], minlength=256)
    objects = torch.arange(1, 255)
    objects = objects[area[objects] > 0]
    return torch.stack([area[objects] / target.numel(), right[objects] / area[objects]], 1).double().numpy()


def scores_by_size(model: nn.Module, dataset, *, precision: str = "no") -> dict[str, SizeScore]:
    """Score a model's objects by size, over a data set with instance masks.

    Sizes are COCO's (Lin et al., ECCV 2014), as shares of the picture, so that they mean the same at 128 pixels and at
    500: see `BOUNDS`.

    Raises:
        FileNotFoundError: the data set has no instance masks.
    """
    scored = [np.empty((0, 2))]
    for index in range(len(dataset)):
        image, target = dataset[index]
        instances = torch.as_tensor(dataset.instances(index))
        scored.append(object_recall(predict(model, image, precision=precision), target, instances))
    area, recall = np.concatenate(scored).T
    bucket = np.searchsorted(list(BOUNDS.values()), area)  # a bound itself belongs to the smaller size
    return {size: _summary(recall[bucket == number]) for number, size in enumerate(BOUNDS)}


def _summary(recall: np.ndarray) -> SizeScore:
    if len(recall) == 0:
        return SizeScore(0, float("nan"), float("nan"))
    return SizeScore(len(recall), float(recall.mean()), float((recall >= 0.5).mean()))
