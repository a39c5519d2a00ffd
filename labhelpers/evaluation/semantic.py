"""The mean IoU of a promptable network with a head for all classes, such as Mini-SAM with 21.

What it is prompted with decides what its score means: points drawn from the truth tell it where the objects are. So the
protocol names their source, and without prompts the score can be compared with that of an ordinary network.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from labhelpers.data.base import SegmentationDataset
from labhelpers.evaluation.evaluator import Evaluation, evaluate
from labhelpers.prompting.sampling import sample_points

SOURCES = ("truth", "none", "random")

Points = tuple[torch.Tensor | None, torch.Tensor | None]


def evaluate_semantic(
    model: nn.Module,
    dataset: SegmentationDataset,
    prompts: str = "none",
    points: int = 5,
    seed: int = 0,
    **options,
) -> Evaluation:
    """Score the class logits of a promptable model on every image of a set, as `evaluate` does with other models.

    Args:
        model: `model(images, points, point_labels)` returns logits (1, K, H, W) and a predicted IoU; images are float
            (1, 3, H, W), points float (1, N, 2), pixels (x, y), labels int64 (1, N), 1 foreground and 0 background.
        prompts: "truth": half of the points (rounded up) lie on objects and half beside them, each labelled as the
            truth says; an image without objects gets background points only. "random": as many points of either label,
            anywhere. "none": no points.
        points: how many in each image.
        options: `device`, `precision`, `bands`, `per_image` and `loss` of `evaluate`.

    Returns:
        An evaluation whose protocol names the prompts' source in `prompts`, so that tables keep the sources apart;
        without prompts it is the protocol of an ordinary network.

    Raises:
        ValueError: an unknown source, fewer than one point, and what `evaluate` raises.
    """
    if prompts not in SOURCES or points < 1:
        raise ValueError(f"prompts must be one of {', '.join(SOURCES)}, with points >= 1; got {prompts!r}, {points}.")
    # One image at a time, in the set's order: then the prompts, which are drawn in that order, are those of the image.
    asked = _Asked(model, _draw(dataset, prompts, points, seed))
    evaluation = evaluate(asked, dataset, batch_size=1, **options)
    if prompts == "none":
        return evaluation
    drawn = "drawn from the truth" if prompts == "truth" else "at random places with random labels"
    protocol = replace(evaluation.protocol, prompts=f"{points} points {drawn} (seed {seed})")
    return replace(evaluation, protocol=protocol)


class _Asked(nn.Module):
    """Asks the model about each image with the next of the prompts."""

    def __init__(self, model: nn.Module, prompts: Iterator[Points]):
        super().__init__()
        self.model, self.prompts = model, prompts

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        points, labels = next(self.prompts)
        if points is not None:
            points, labels = points.to(images.device), labels.to(images.device)
        return self.model(images, points, labels)[0]


def _draw(dataset: SegmentationDataset, source: str, n: int, seed: int) -> Iterator[Points]:
    """The points (1, N, 2) and labels (1, N) of each image, in order."""
    for index in range(len(dataset)):
        if source == "none":
            yield None, None
            continue
        target, rng = dataset.load_target(index).numpy(), np.random.default_rng([seed, index])
        objects = (target != 0) & (target != dataset.ignore_index)
        if source == "truth" and objects.any():
            points, labels = sample_points(objects, n, rng)
        else:
            points, _ = sample_points(np.ones_like(objects), n, rng)
            labels = np.arange(n) < (n + 1) // 2 if source == "random" else np.zeros(n)
        yield torch.from_numpy(points)[None], torch.from_numpy(labels.astype(np.int64))[None]
