"""How well a predictor answers one prompt: a box, a click, a few points; and whether it answers the one that was asked.

The prompts are drawn from the true masks, as in Kirillov et al., Segment Anything, ICCV 2023, section 7.1. So a score
says how well a mask follows from a good prompt, not how well an object is found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from labhelpers.data.base import SegmentationDataset
from labhelpers.evaluation.instances import ObjectRef, as_objects, by_image, clustered_bootstrap, clusters, mask_iou
from labhelpers.evaluation.intervals import Interval
from labhelpers.evaluation.sizes import BOUNDS
from labhelpers.evaluation.table import Table
from labhelpers.prompting.predictor import Predictor
from labhelpers.prompting.sampling import box_from_mask, centre_click, next_click, random_click, sample_points

Prompt = dict[str, np.ndarray]  # keyword arguments of `Predictor.predict`

JITTER = 0.1
"""Standard deviation of each edge of a jittered box, as a fraction of its width or height, as SAM was trained."""


def _click(point: np.ndarray) -> Prompt:
    return {"points": point[None], "labels": np.ones(1, dtype=np.int64)}


def _points(mask: np.ndarray, rng: np.random.Generator, jitter: float, n: int) -> Prompt:
    points, labels = sample_points(mask, n, rng)
    return {"points": points, "labels": labels}


PROMPTS: dict[str, Callable[[np.ndarray, np.random.Generator, float], Prompt]] = {
    "box": lambda mask, rng, jitter: {"box": box_from_mask(mask)},
    "jittered_box": lambda mask, rng, jitter: {"box": box_from_mask(mask, jitter, rng)},
    "centre_click": lambda mask, rng, jitter: _click(centre_click(mask)),
    "jittered_click": lambda mask, rng, jitter: _click(next_click(np.zeros_like(mask), mask, rng=rng)[0]),
    "random_click": lambda mask, rng, jitter: _click(random_click(mask, rng)),
    **{f"{n}_points": partial(_points, n=n) for n in range(3, 11)},
}
"""How each kind of prompt is drawn from a mask, bool (H, W).

A centre click is the deepest point of the object, a jittered click one at least half as deep, a random click any. Of
`n_points` half (rounded up) lie on the object and half beside it.
"""


@dataclass(frozen=True, eq=False)
class PromptScores:
    """The answers to one prompt of each kind per object; N objects, in the order in which they were given.

    Attributes:
        predictor: its name.
        protocol: under what conditions, in one sentence without a full stop.
        ious: kind of prompt -> float64 (N,), against the object's true mask, void ignored.
        predicted: kind of prompt -> float64 (N,), the predictor's own estimate; NaN if it gives none.
        images: int64 (N,), the number of each object's image.
        sizes: (N,) names in `sizes.BOUNDS`.
    """

    predictor: str
    protocol: str
    ious: dict[str, np.ndarray] = field(repr=False)
    predicted: dict[str, np.ndarray] = field(repr=False)
    images: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)

    def mean(self, kind: str, size: str | None = None) -> Interval:
        """The mean IoU over objects, of all or of one size, with its 95 % interval over images; NaN without objects.

        Raises:
            ValueError: this kind of prompt was not asked, or there is no such size.
        """
        if kind not in self.ious:
            raise ValueError(f"{kind!r} was not among the prompts; asked were: {', '.join(self.ious)}.")
        if size is not None and size not in BOUNDS:
            raise ValueError(f"unknown size {size!r}; known: {', '.join(BOUNDS)}.")
        chosen = np.full(len(self.images), True) if size is None else self.sizes == size
        return clustered_bootstrap(self.ious[kind][chosen], self.images[chosen])

    def table(self) -> Table:
        """One row per kind of prompt: the mean IoU with its interval, then that of small, medium and large objects."""
        counts = {size: int((self.sizes == size).sum()) for size in BOUNDS}
        header = [self.predictor, f"mean IoU [95 %], {len(self.images)} objects"]
        header += [f"{size} ({count})" for size, count in counts.items()]
        rows = [
            [kind.replace("_", " "), str(self.mean(kind))]
            + [f"{self.mean(kind, size).value:.3f}" if count else "–" for size, count in counts.items()]
            for kind in self.ious
        ]
        return Table(header, rows, f"{self.protocol}.")

    def __str__(self) -> str:
        scores = "; ".join(f"{kind.replace('_', ' ')} {self.mean(kind)}" for kind in self.ious)
        return f"{self.predictor}, mean IoU: {scores} ({self.protocol})"


def evaluate_prompts(
    predictor: Predictor,
    judged: SegmentationDataset | Sequence[ObjectRef],
    prompts: Sequence[str] = ("box", "centre_click", "random_click"),
    jitter: float = JITTER,
    seed: int = 0,
) -> PromptScores:
    """Ask for every object of a set with one prompt of each kind, and compare the answers with the true masks.

    An object's prompts depend on the seed and on its place in the data set only: every predictor is asked the same.

    Args:
        judged: a data set with instance masks (its objects of at least 32x32 pixels are taken), or a list of objects.
        prompts: names in `PROMPTS`.
        jitter: of "jittered_box", see `box_from_mask`.

    Raises:
        ValueError: an unknown kind of prompt, no objects, or an answer that is no mask of the image's size.
    """
    unknown = [kind for kind in prompts if kind not in PROMPTS]
    if unknown or not prompts:
        raise ValueError(f"unknown prompt {unknown[0] if unknown else ''!r}; known: {', '.join(PROMPTS)}.")
    judged = as_objects(judged)
    ious, predicted = ({kind: np.zeros(len(judged)) for kind in prompts} for _ in range(2))
    for positions in by_image(judged):
        predictor.set_image(judged[positions[0]].image)
        for position in positions:
            item = judged[position]
            for kind in prompts:
                prompt = PROMPTS[kind](item.mask, np.random.default_rng([seed, item.index, item.number]), jitter)
                mask, predicted[kind][position] = predictor.predict(**prompt)
                ious[kind][position] = mask_iou(mask, item.mask, item.ignore)
    drawn = f"prompts drawn from the truth (seed {seed}"
    drawn += f", box edges moved by {jitter:g} of its sides)" if "jittered_box" in prompts else ")"
    sizes = np.array([item.size for item in judged])
    return PromptScores(predictor.name, protocol(judged, drawn), ious, predicted, clusters(judged), sizes)


@dataclass(frozen=True)
class RightObject:
    """Whether the clicked one of two objects was marked: `share` of the `pairs`, with its interval over images."""

    share: float
    pairs: int
    interval: Interval
    protocol: str

    def __str__(self) -> str:
        return f"the clicked object of two in {self.interval} of {self.pairs} clicks ({self.protocol})"


def right_object(predictor: Predictor, judged: SegmentationDataset | Sequence[ObjectRef]) -> RightObject:
    """Click on each of two objects of an image: how often is the IoU with the clicked one higher than with the other?

    Every ordered pair of objects in an image counts once; the click is on the deepest point of the object. A predictor
    that ignores where the click was gives both clicks the same mask and is right in half of the pairs at most; one that
    marks neither is never right.

    Raises:
        ValueError: no image holds two of the objects.
    """
    judged = as_objects(judged)
    right, images = [], []
    for number, positions in enumerate(by_image(judged)):
        if len(positions) < 2:
            continue
        predictor.set_image(judged[positions[0]].image)
        for clicked in positions:
            item = judged[clicked]
            mask, _ = predictor.predict(**_click(centre_click(item.mask)))
            ious = {other: mask_iou(mask, judged[other].mask, item.ignore) for other in positions}
            right += [ious[clicked] > ious[other] for other in positions if other != clicked]
            images += [number] * (len(positions) - 1)
    if not right:
        raise ValueError("no image holds two of these objects: give a data set with several objects in an image.")
    interval = clustered_bootstrap(np.array(right), np.array(images))
    return RightObject(interval.value, len(right), interval, protocol(judged, "clicks drawn from the truth"))


def protocol(judged: Sequence[ObjectRef], prompts: str) -> str:
    """What a score over objects must be printed with, without a full stop."""
    sets = ", ".join(sorted({f"{item.dataset.name} {item.dataset.split}" for item in judged}))
    boxes = [box_from_mask(item.mask) for item in judged]
    smallest = min(int(min(box[2:] - box[:2])) + 1 for box in boxes)
    return (
        f"{sets}, {len(judged)} objects in {clusters(judged).max() + 1} images, no side of a box below {smallest} "
        f"pixels; {prompts}; void ignored; intervals over images"
    )
