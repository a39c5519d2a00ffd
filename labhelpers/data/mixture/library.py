"""Labelled images in memory, and the objects in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset
from labhelpers.data.objects import visible_objects

SMALLEST = 200  # pixels of an object worth cutting out
LARGEST_OBJECT_NUMBER = 254  # 255 is void


@dataclass(frozen=True)
class Picture:
    """An image and its numbered objects."""

    image: np.ndarray  # uint8 (H, W, 3)
    objects: np.ndarray  # uint8 (H, W), 0 background, 255 void
    boxes: dict[int, tuple[int, int, int, int]]  # of each object: x0, y0, x1, y1, ends excluded
    weights: np.ndarray  # float (len(boxes),), how often each is drawn


class Library:
    """The images of one or more data sets that hold at least one object, to draw from.

    Args:
        datasets: data sets with instance masks; a data set without any is made of :func:`components`.
        smallest: pixels below which an object is left out.

    Raises:
        ValueError: no image holds such an object.
    """

    def __init__(self, datasets: Sequence[SegmentationDataset], smallest: int = SMALLEST):
        self.pictures: list[Picture] = []
        for dataset in datasets:
            for index in range(len(dataset)):
                image = np.ascontiguousarray(dataset.load_image(index).permute(1, 2, 0).numpy())
                try:
                    objects = dataset.instances(index).numpy()
                except (FileNotFoundError, AttributeError):
                    objects = components(dataset.load_target(index).numpy())
                boxes = {number: _box(objects == number) for number in visible_objects(objects, smallest)}
                if boxes:
                    weights = np.sqrt(np.bincount(objects.ravel())[list(boxes)])
                    self.pictures.append(Picture(image, objects, boxes, weights / weights.sum()))
        if not self.pictures:
            raise ValueError(f"no object of at least {smallest} pixels in {', '.join(d.name for d in datasets)}")

    def draw(self, rng: np.random.Generator) -> tuple[Picture, int]:
        """A picture, and one of its objects: the larger, the more often (by the root of its area)."""
        picture = self.pictures[int(rng.integers(len(self.pictures)))]
        return picture, list(picture.boxes)[int(rng.choice(len(picture.boxes), p=picture.weights))]


def components(target: np.ndarray, smallest: int = 150, most: int = 120) -> np.ndarray:
    """Connected regions of one class as objects, where nobody has told the objects apart.

    Args:
        target: uint8 labels (H, W), 255 void.
        smallest: pixels; smaller regions are background.
        most: only so many are kept, the largest.

    Returns:
        uint8 (H, W), 0 background, 255 void, else the region's number.
    """
    from scipy.ndimage import label

    regions = []
    for value in np.unique(target[target != IGNORE_INDEX]):
        numbered, count = label(target == value)
        areas = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
        regions += [(int(area), numbered == n + 1) for n, area in enumerate(areas) if area >= smallest]
    regions.sort(key=lambda region: -region[0])
    objects = np.zeros(target.shape, dtype=np.uint8)
    for number, (_, mask) in enumerate(regions[: min(most, LARGEST_OBJECT_NUMBER)], start=1):
        objects[mask] = number
    objects[target == IGNORE_INDEX] = IGNORE_INDEX
    return objects


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
