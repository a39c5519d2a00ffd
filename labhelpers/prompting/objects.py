"""The objects of a data set, one by one: what prompts are drawn from, and what answers to them are judged by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset
from labhelpers.data.instances import objects_and_classes
from labhelpers.data.voc import ObjectDataset
from labhelpers.evaluation.evaluator import BOUNDS
from labhelpers.evaluation.intervals import Interval
from labhelpers.prompting.sampling import box_from_mask

MIN_SIDE = 32
"""Pixels: objects whose box is narrower or lower are not judged, since a pixel at their edge decides too much."""


@dataclass(frozen=True, eq=False)
class ObjectRef:
    """One object in one image of a data set.

    Attributes:
        index: the image's place in the data set.
        number: the object's number in `instances`.
        label: its class.
        instances: uint8 (H, W), all objects of the image, 0 background, 255 void.
    """

    dataset: SegmentationDataset = field(repr=False)
    index: int
    number: int
    label: int
    instances: np.ndarray = field(repr=False)

    @property
    def mask(self) -> np.ndarray:
        """The object's pixels, bool (H, W)."""
        return self.instances == self.number

    @property
    def ignore(self) -> np.ndarray:
        """Void pixels, bool (H, W): they count neither for an answer nor against it."""
        return self.instances == IGNORE_INDEX

    @property
    def image(self) -> np.ndarray:
        """The picture, uint8 (H, W, 3), RGB; read each time."""
        return np.ascontiguousarray(self.dataset.load_image(self.index).permute(1, 2, 0).numpy())

    @property
    def size(self) -> str:
        """The name in `evaluator.BOUNDS` for its share of the picture: small, medium or large, as COCO has them."""
        share = float(self.mask.mean())
        return next(name for name, bound in BOUNDS.items() if share <= bound)


def objects(dataset: SegmentationDataset, min_side: int = MIN_SIDE) -> list[ObjectRef]:
    """List all objects of a data set whose bounding box is at least `min_side` pixels wide and high, in order.

    Args:
        dataset: one with instance masks, or an `ObjectDataset`: `ObjectDataset(camvid, by="class")` makes all pixels of
            a class in an image one object, where nobody has told the cars apart.

    Raises:
        FileNotFoundError: the data set has no instance masks.
        ValueError: no object is that large.
    """
    found = []
    classes = dataset.dataset if isinstance(dataset, ObjectDataset) else dataset
    for index in range(len(dataset)):
        instances, labels = objects_and_classes(dataset.instances(index), classes.load_target(index))
        for number, label in labels.items():
            x0, y0, x1, y1 = box_from_mask(instances == number)
            if min(x1 - x0, y1 - y0) + 1 >= min_side:
                found.append(ObjectRef(dataset, index, number, label, instances))
    if not found:
        raise ValueError(
            f"{dataset.name}/{dataset.split} has no object whose box is at least {min_side}x{min_side} pixels: "
            "lower min_side, or judge on larger pictures."
        )
    return found


def as_objects(judged: SegmentationDataset | Sequence[ObjectRef]) -> list[ObjectRef]:
    """The objects themselves, or those of a data set."""
    found = objects(judged) if isinstance(judged, SegmentationDataset) else list(judged)
    if not found:
        raise ValueError("there is no object to judge: the list is empty.")
    return found


def by_image(judged: Sequence[ObjectRef]) -> Iterator[list[int]]:
    """Yield the positions in the list of each image's objects, so that an image is encoded once for all of them."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, item in enumerate(judged):
        groups.setdefault((id(item.dataset), item.index), []).append(position)
    yield from groups.values()


def clusters(judged: Sequence[ObjectRef]) -> np.ndarray:
    """The number of each object's image, int64 (N,): objects of one image are no independent sample."""
    numbers = np.zeros(len(judged), dtype=np.int64)
    for number, positions in enumerate(by_image(judged)):
        numbers[positions] = number
    return numbers


def mask_iou(prediction: np.ndarray, truth: np.ndarray, ignore: np.ndarray | None = None) -> float:
    """Intersection over union of two masks, bool (H, W), without the pixels in `ignore`; NaN if both are empty.

    Raises:
        ValueError: the prediction is not a bool array of the truth's shape.
    """
    if prediction.dtype != bool or prediction.shape != truth.shape:
        raise ValueError(
            f"a predicted mask must be bool {truth.shape}, got {prediction.dtype} {prediction.shape}. Threshold the "
            "logits at the image's own resolution: mask = logits > 0."
        )
    if ignore is not None:
        prediction, truth = prediction & ~ignore, truth & ~ignore
    union = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / union if union else float("nan")


def clustered_bootstrap(values: np.ndarray, clusters: np.ndarray, n: int = 1000, seed: int = 0) -> Interval:
    """Return the mean of a number per object, with its 95 % interval over the choice of images.

    A resample draws images, and takes all objects of each: two objects of one photograph share its light and its
    clutter, so drawing single objects would make the interval too narrow. For two models on the same objects, the
    interval of `values_a - values_b` tells whether they differ.

    Args:
        values: (N,), without NaN; with N = 0 all of the interval is NaN.
        clusters: int (N,), the image of each: `clusters(objects)`.
        n: number of resamples.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan, np.nan)
    _, member = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(member, values), np.bincount(member)
    draws = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=n)
    means = draws @ sums / (draws @ counts)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high), float(means.mean()), float(values.mean()))
