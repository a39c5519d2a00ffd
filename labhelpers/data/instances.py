"""Objects one by one: the boxes, classes and masks that a detector learns from, and those that it predicts."""

import hashlib
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset
from labhelpers.data.loader import SubsetDataset
from labhelpers.data.voc import visible_objects


@dataclass(frozen=True, eq=False)
class Instances:
    """The N objects of one image, true ones or predicted ones; N may be 0.

    Attributes:
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels; x2 and y2 are exclusive, so x2 - x1 is the width.
        labels: int64 (N,), the classes 1..K-1; 0 is background and no object has it.
        masks: bool (N, H, W).
        scores: float32 (N,), descending, of predictions; None for true objects.
        void: bool (H, W), of true objects: where a prediction is neither right nor wrong; None for predictions.

    Raises:
        ValueError: a shape or dtype is another one, a box has no width or height, a label is 0, or the scores are not
            finite and descending.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    scores: Tensor | None = None
    void: Tensor | None = None

    def __post_init__(self):
        n, size = len(self.labels), tuple(self.masks.shape[1:])
        wanted = {
            "boxes": (torch.float32, (n, 4)),
            "labels": (torch.int64, (n,)),
            "masks": (torch.bool, (n, *size[:2])),
            "scores": (torch.float32, (n,)),
            "void": (torch.bool, size),
        }
        for name, (dtype, shape) in wanted.items():
            value = getattr(self, name)
            if value is not None and (value.dtype is not dtype or tuple(value.shape) != shape):
                raise ValueError(
                    f"Instances needs {name} {dtype} {shape}, as it has {n} labels and masks of {size}; got "
                    f"{value.dtype} {tuple(value.shape)}."
                )
        flat = ~(self.boxes[:, 2:] > self.boxes[:, :2]).all(1)  # NaN is caught, too
        if flat.any():
            raise ValueError(
                f"the box {self.boxes[flat][0].tolist()} has no width or no height. Boxes are (x1, y1, x2, y2) with x2 "
                "and y2 behind the last pixel: take them from boxes_of_masks, and leave such predictions out."
            )
        if (self.labels < 1).any():
            raise ValueError(f"labels are classes from 1 on, got {int(self.labels.min())}: background is no object.")
        if self.scores is not None and not (self.scores.isfinite().all() and (self.scores.diff() <= 0).all()):
            raise ValueError("scores must be finite and descending: sort by scores.argsort(descending=True) before.")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Instances":
        """The same objects on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in values.items() if value is not None})

    def above(self, score: float) -> "Instances":
        """The predictions with at least this score; true objects have none, so all of them."""
        if self.scores is None:
            return self
        n = int((self.scores >= score).sum())
        return Instances(self.boxes[:n], self.labels[:n], self.masks[:n], self.scores[:n])


def boxes_of_masks(masks: Tensor) -> Tensor:
    """The smallest boxes around masks, bool (N, H, W): float32 (N, 4), x1, y1, x2, y2 with x2 and y2 exclusive.

    torchvision's `masks_to_boxes` names the last pixel itself, so the box of a mask one pixel wide has no width there.

    Raises:
        ValueError: a mask is empty.
    """
    from torchvision.ops import masks_to_boxes

    empty = ~masks.flatten(1).any(1)
    if empty.any():
        raise ValueError(f"mask {int(empty.nonzero()[0])} of {len(masks)} is empty, so it has no box: leave it out.")
    return masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1], device=masks.device)


def objects_and_classes(objects: Tensor, labels: Tensor) -> tuple[np.ndarray, dict[int, int]]:
    """Find the class of each object of an image: the commonest label of its pixels that are not void.

    Args:
        objects: uint8 (H, W), 0 background, 255 void, else the object's number.
        labels: uint8 (H, W), classes, 255 void.

    Returns:
        A copy of `objects`, uint8 (H, W), which is void where either map is; and {number: class} of the objects that
        have pixels left. The class is 0 for an object of a category that the label map does not have.
    """
    numbers, classes = torch.as_tensor(objects).numpy().copy(), torch.as_tensor(labels).numpy()
    numbers[classes == IGNORE_INDEX] = IGNORE_INDEX
    return numbers, {n: int(np.bincount(classes[numbers == n]).argmax()) for n in visible_objects(numbers)}


def instance_target(dataset: SegmentationDataset, index: int, smallest: int = 1) -> Instances:
    """The true objects of item `index`.

    Void is what is void in either map (rims, crowds), and the pixels of objects that are left out: those of no class
    of the set, and those with fewer than `smallest` pixels.

    Raises:
        FileNotFoundError: the data set, or this item, has no instance mask.
    """
    return instances_of_maps(dataset.instances(index), dataset.load_target(index), smallest)


def instances_of_maps(objects: Tensor, labels: Tensor, smallest: int = 1) -> Instances:
    """As `instance_target`, of maps uint8 (H, W) that one has already, from a file or after augmentation."""
    numbers, classes = objects_and_classes(objects, labels)
    kept = [n for n, label in classes.items() if label and np.count_nonzero(numbers == n) >= smallest]
    masks = torch.from_numpy(numbers == np.array(kept, dtype=np.uint8)[:, None, None])
    return Instances(
        boxes=boxes_of_masks(masks),
        labels=torch.tensor([classes[n] for n in kept], dtype=torch.int64),
        masks=masks,
        void=torch.from_numpy(numbers != 0) & ~masks.any(0),
    )


class InstanceDataset(SubsetDataset):
    """A data set seen as objects: items are `(image, instances)`, uint8 (3, H, W) and `Instances`.

    Args:
        dataset: one with instance masks, see `instance_target`.
        smallest: objects with fewer pixels are void.

    Raises:
        ValueError: the data set has no instance masks.
    """

    def __init__(self, dataset: SegmentationDataset, smallest: int = 1):
        if not dataset.has_instances:
            raise ValueError(
                f"{dataset.name}/{dataset.split} does not tell objects apart: not every image has an instance mask. "
                "Take a VOC-layout folder with SegmentationObject (VOC's own splits and the scenes have it; SBD's "
                "trainaug does not)."
            )
        super().__init__(dataset, range(len(dataset)))
        self.smallest = smallest

    def __getitem__(self, index: int) -> tuple[Tensor, Instances]:  # type: ignore[override]
        return self.load_image(index), self.load_instances(index)

    def load_instances(self, index: int) -> Instances:
        """The objects of item `index` alone, without decoding its picture."""
        return instance_target(self.dataset, self.indices[index], self.smallest)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.dataset.fingerprint()} instances {self.smallest}".encode()).hexdigest()[:16]
