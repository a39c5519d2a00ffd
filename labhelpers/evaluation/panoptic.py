"""Panoptic segmentation: each pixel has a class, and those of things a number, too.

Kirillov, He, Girshick, Rother & Dollár, "Panoptic segmentation", CVPR 2019. A panoptic map is a pair of tensors:
labels uint8 (H, W), 255 where nothing is said, and ids int32 (H, W), the number of the thing, 0 for stuff. Pixels with
the same label and id are one segment. Things can be counted (a car); stuff cannot (sky). VOC and the scenes name
things alone, so their only stuff is the background, label 0.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from labhelpers.data.base import IGNORE_INDEX
from labhelpers.data.instances import Instances

PanopticMap = tuple[torch.Tensor, torch.Tensor]


def merge_panoptic(
    semantic: torch.Tensor,
    instances: Instances,
    *,
    stuff: Collection[int] = (0,),
    score: float = 0.5,
    overlap: float = 0.5,
) -> PanopticMap:
    """Merge a label map and objects into a panoptic map, by the rule of section 7 of the paper.

    Objects are laid down in order of their scores. Each takes those of its pixels that are still free; if they are no
    more than `overlap` of its mask, it is left out. The remaining pixels take their label from the label map where it
    is stuff; where it names a thing that is no object, they stay 255.

    True objects and the true label map give the true panoptic map: masks do not overlap there, and void is 255.

    Args:
        semantic: uint8 (H, W), labels.
        instances: with masks (N, H, W).
        stuff: the labels that are stuff.
        score: predictions below it are left out.

    Returns:
        labels uint8 (H, W) and ids int32 (H, W); id i + 1 is object i of `instances`.

    Raises:
        ValueError: the label map has another size than the masks, or an object is of a class of stuff.
    """
    if semantic.shape != instances.masks.shape[1:]:
        raise ValueError(
            f"the label map is {tuple(semantic.shape)}, the masks are {tuple(instances.masks.shape[1:])}: predict both "
            "at the image's own size."
        )
    if wrong := set(instances.labels.tolist()) & set(stuff):
        raise ValueError(f"an object has the label {min(wrong)}, which is stuff: things and stuff share no label.")
    labels = torch.full_like(semantic, IGNORE_INDEX)
    ids = torch.zeros_like(semantic, dtype=torch.int32)
    kept = instances.above(score)
    for number, (label, mask) in enumerate(zip(kept.labels.tolist(), kept.masks, strict=True), start=1):
        free = mask & (ids == 0)
        if free.sum() > overlap * mask.sum():
            labels[free], ids[free] = label, number
    rest = (ids == 0) & torch.isin(semantic, torch.tensor(list(stuff), dtype=torch.uint8, device=semantic.device))
    if instances.void is not None:
        rest &= ~instances.void
    labels[rest] = semantic[rest]
    return labels, ids


@dataclass(frozen=True, eq=False)
class PanopticQuality:
    """Panoptic quality (eq. 1 and 2 of the paper), in 0..1, NaN where a class does not occur.

    For a class, `pq` is the sum of the IoU of its matched segments / (matches + false positives / 2 + false negatives
    / 2). It is the product of `sq`, segmentation quality, the mean IoU of matches, and `rq`, recognition quality, the
    F1 score of segments. `sq` is 0 where nothing was matched.

    `pq`, `sq` and `rq` are means over the classes that occur, in truth or prediction, `pq_things` and `pq_stuff` over a
    part of them; `class_pq`, `class_sq` and `class_rq` float64 (K,). The mean of products is not the product of means.
    """

    pq: float
    sq: float
    rq: float
    pq_things: float
    pq_stuff: float
    class_pq: np.ndarray = field(repr=False)
    class_sq: np.ndarray = field(repr=False)
    class_rq: np.ndarray = field(repr=False)


def panoptic_quality(
    pairs: Iterable[tuple[PanopticMap, PanopticMap]], num_classes: int, *, stuff: Collection[int] = (0,)
) -> PanopticQuality:
    """Score panoptic maps of a whole set, given as (prediction, target) for each image.

    Two segments of a class match if their IoU is above .5, so each has at most one match. By section 4.2, void pixels
    of the target are taken from the prediction before, and an unmatched prediction of which more than half is void is
    no error.

    Raises:
        ValueError: a prediction and its target differ in size, or a label is unknown.
    """
    iou_sum, matches, unmatched, missed = np.zeros((4, num_classes))
    for prediction, target in pairs:
        predicted, true = _segments(prediction, num_classes), _segments(target, num_classes)
        if predicted.shape != true.shape:
            raise ValueError(f"the prediction is {predicted.shape}, the target {true.shape}: both must be (H, W).")
        # Row i, column j of `common` counts the pixels that the segments i and j share.
        (rows, row), (columns, column) = (np.unique(codes, return_inverse=True) for codes in (predicted, true))
        joint = row.ravel() * len(columns) + column.ravel()
        common = np.bincount(joint, minlength=len(rows) * len(columns)).reshape(len(rows), len(columns))
        in_void = common[:, columns == _VOID].sum(1)
        area, true_area = common.sum(1), common.sum(0)
        segments, objects = rows != _VOID, columns != _VOID
        common, in_void, area = common[segments][:, objects], in_void[segments], area[segments]
        iou = common / ((area - in_void)[:, None] + true_area[objects] - common)
        classes, true_classes = rows[segments] >> 32, columns[objects] >> 32
        match = (classes[:, None] == true_classes) & (iou > 0.5)

        wrong = ~match.any(1) & (2 * in_void <= area)
        np.add.at(iou_sum, true_classes, (iou * match).sum(0))
        np.add.at(matches, true_classes, match.sum(0))
        np.add.at(unmatched, classes, wrong)
        np.add.at(missed, true_classes, ~match.any(0))
    total = matches + unmatched / 2 + missed / 2
    occurs = total > 0
    rq = np.divide(matches, total, where=occurs, out=np.full(num_classes, np.nan))
    sq = np.where(occurs, iou_sum / np.maximum(matches, 1), np.nan)
    is_stuff = np.isin(np.arange(num_classes), list(stuff))

    def mean(values: np.ndarray, part: np.ndarray | bool = True) -> float:
        return float(values[occurs & part].mean()) if (occurs & part).any() else float("nan")

    pq = sq * rq
    return PanopticQuality(mean(pq), mean(sq), mean(rq), mean(pq, ~is_stuff), mean(pq, is_stuff), pq, sq, rq)


_VOID = -1


def _segments(panoptic: PanopticMap, num_classes: int) -> np.ndarray:
    """One number for each segment, int64 (H, W): its label above bit 32, its id below; -1 for void."""
    labels, ids = (part.cpu().numpy().astype(np.int64) for part in panoptic)
    void = labels == IGNORE_INDEX
    if (labels[~void] >= num_classes).any():
        raise ValueError(
            f"a panoptic map holds the label {labels[~void].max()}, but there are the labels 0..{num_classes - 1} and "
            "255: give as many classes as the data set has."
        )
    return np.where(void, _VOID, labels << 32 | ids)
