"""Objects instead of classes: the same images, with a number for each thing that can be pointed at."""

import hashlib

import numpy as np
import torch

from labhelpers.data.base import SegmentationDataset
from labhelpers.data.loader import SubsetDataset

__all__ = ["ObjectDataset", "visible_objects"]


class ObjectDataset(SubsetDataset):
    """A data set whose label maps number objects: items are `(image, objects)`, uint8 (3, H, W) and uint8 (H, W).

    In `objects` 0 is background, 255 void, and every other number one object.

    Args:
        dataset: a data set with `instances(index)`, if `by` is "instance".
        by: "instance": each thing on its own. "class": all pixels of a class are one object, as in "the cars".

    Raises:
        ValueError: an unknown `by`.
        FileNotFoundError: when an item is read that has no instance map.
    """

    def __init__(self, dataset: SegmentationDataset, by: str = "instance"):
        if by not in ("instance", "class"):
            raise ValueError(f"unknown by={by!r}; known: instance, class")
        super().__init__(dataset, range(len(dataset)))
        self.by = by
        self.class_names, self.num_classes = ("background", "object"), 2

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.load_image(index), self.load_target(index)

    def load_target(self, index: int) -> torch.Tensor:
        index = self.indices[index]
        return self.dataset.instances(index) if self.by == "instance" else self.dataset.load_target(index)

    def instances(self, index: int) -> torch.Tensor:
        """The objects of item `index`, uint8 (H, W)."""
        return self.load_target(index)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.dataset.fingerprint()} by {self.by}".encode()).hexdigest()[:16]


def visible_objects(objects: torch.Tensor | np.ndarray, smallest: int = 1) -> list[int]:
    """The numbers in an object map (H, W), uint8, of objects with at least `smallest` pixels; void is none."""
    counts = np.bincount(np.asarray(objects).ravel(), minlength=256)
    counts[[0, 255]] = 0
    return np.flatnonzero(counts >= max(1, smallest)).tolist()
