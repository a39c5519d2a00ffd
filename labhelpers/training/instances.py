"""Training a network that finds objects one by one: torchvision's five losses, scored by average precision."""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labhelpers.data.base import SegmentationDataset
from labhelpers.data.instances import Instances, instances_of_maps
from labhelpers.data.loader import SubsetDataset
from labhelpers.data.voc import comparison_indices
from labhelpers.evaluation.average_precision import InstanceEvaluation, evaluate_instances
from labhelpers.models.mask_rcnn import instances_of
from labhelpers.training.recipe import require, require_count
from labhelpers.training.task import Task, TrainingState

LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")
"""torchvision's names, in the order of the network: whether an anchor has an object and how its box differs from it;
which class a proposal is and how its box differs; the pixels of its mask. Training minimises their sum."""


class ObjectMaps(SubsetDataset):
    """A data set to train on: items are `(image, maps)`, uint8 (3, H, W) and uint8 (2, H, W), classes and objects.

    Both maps are as in the files, and augmentation moves them together. Objects are told apart only afterwards, so that
    a box always fits the mask that is left of its object.

    Args:
        dataset: one with `instances(index)`.
    """

    def __init__(self, dataset: SegmentationDataset):
        super().__init__(dataset, range(len(dataset)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.load_image(index), self.load_target(index)

    def load_target(self, index: int) -> Tensor:
        return torch.stack([super().load_target(index), self.instances(index)])

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.dataset.fingerprint()} object maps".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class InstanceTask(Task):
    """A detector learns boxes, classes and masks; the recipe's `loss` is not used, and `best_metric` is "mask_ap".

    It trains on `ObjectMaps` and is scored on `data.InstanceDataset`. The best evaluation is that of the highest mask
    AP. An image without objects teaches what background is. So do rims and crowds: torchvision's detectors know no void
    in training, only the scores leave it out.
    """

    smallest: int = 16  # pixels: what is smaller after augmentation is background

    def __post_init__(self) -> None:
        require_count(self, "smallest")

    def build_loss(self, run: TrainingState) -> None:
        for name, value in {"best_metric": "mask_ap", "loss": "ce", "score_train": 0, "oversample_rare": False}.items():
            require(run.recipe, name, f"{value!r} for instances", getattr(run.recipe, name) == value)
        if run.accelerator.num_processes > 1:
            raise ValueError("instances are trained by one process; start without accelerate launch")

    def prepare(self, run: TrainingState) -> None:
        run.parts = dict.fromkeys(LOSSES, 0.0)

    def total(self, run: TrainingState, targets: Tensor) -> Tensor:
        """The number of images.

        Raises:
            ValueError: the targets are not those of `ObjectMaps`.
        """
        if targets.ndim != 4 or targets.shape[1] != 2:
            raise ValueError(
                f"instances are learned from maps (B, 2, H, W), got {tuple(targets.shape)}: train on "
                "ObjectMaps(train_set)."
            )
        return torch.tensor(len(targets))

    def step(self, run: TrainingState, x: Tensor, y: Tensor, total: Tensor, rng: np.random.Generator) -> Tensor:
        """The sum of the five losses, each of which is added to `run.parts`."""
        targets = [as_target(instances_of_maps(o, c, self.smallest), run.device) for c, o in y.cpu()]
        with run.accelerator.autocast():
            losses = run.model(list(x), targets)
        shares = {name: losses[name] * len(x) / total for name in LOSSES}
        for name, share in shares.items():
            run.parts[name] += share.item()
        return torch.stack(list(shares.values())).sum()

    def columns(self, run: TrainingState) -> list[str]:
        return [*LOSSES, "mask_ap", "mask_ap50", "box_ap50"]

    def score(self, run: TrainingState) -> tuple[InstanceEvaluation, dict[str, float]]:
        """Average precision of masks and boxes, whole images."""
        objects: Any = run.val_set  # a `data.InstanceDataset`
        scored = evaluate_instances(partial(instances_of, run.model), objects, device=run.device)
        return scored, {"mask_ap": scored.mask.ap, "mask_ap50": scored.mask.ap50, "box_ap50": scored.box.ap50}

    def predictions(self, run: TrainingState) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(image (3, H, W), target (H, W), prediction (H, W)), uint8: the classes of all objects, as one map."""
        shown = []
        for index in comparison_indices(run.val_set, say=False):
            image, target = run.val_set.load_image(index), run.val_set.load_target(index)
            shown.append((image, target, painted(instances_of(run.model, image).above(0.5))))
        return shown


def as_target(instances: Instances, device: torch.device) -> dict[str, Tensor]:
    """True objects as torchvision's detectors take them: masks are uint8."""
    moved = instances.to(device)
    return {"boxes": moved.boxes, "labels": moved.labels, "masks": moved.masks.to(torch.uint8)}


def painted(instances: Instances) -> Tensor:
    """The classes of objects as one map, uint8 (H, W): the first, of the highest score, lies on top."""
    labels: Any = torch.zeros(instances.masks.shape[1:], dtype=torch.uint8)
    for mask, label in zip(instances.masks.flip(0), instances.labels.flip(0), strict=True):
        labels[mask] = label.to(torch.uint8)
    return labels
