"""How well a predictor answers one prompt: a box, a click, a few points; and whether it answers the one that was asked.

The prompts are drawn from the true masks, as in Kirillov et al., Segment Anything, ICCV 2023, section 7.1. So a score
says how well a mask follows from a good prompt, not how well an object is found.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from labhelpers.data.base import SegmentationDataset
from labhelpers.evaluation.costs import Size, count_parameters, peak_memory_mb, size_text, total_flops, weights_mb
from labhelpers.evaluation.evaluator import BOUNDS, Evaluation, evaluate, share
from labhelpers.evaluation.intervals import Interval
from labhelpers.evaluation.results import Table
from labhelpers.prompting.everything import paint
from labhelpers.prompting.objects import (
    ObjectRef,
    as_objects,
    by_image,
    clustered_bootstrap,
    clusters,
    mask_iou,
    objects,
)
from labhelpers.prompting.predictor import Predictor
from labhelpers.prompting.sampling import box_from_mask, centre_click, next_click, random_click, sample_points

JITTER = 0.1
"""Standard deviation of each edge of a jittered box, as a fraction of its width or height, as SAM was trained."""


def _click(point: np.ndarray) -> dict[str, Any]:
    return {"points": point[None], "labels": np.ones(1, dtype=np.int64)}


def _jittered_click(mask: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    click = next_click(np.zeros_like(mask), mask, rng=rng)
    assert click is not None  # since an object has pixels
    return _click(click[0])


def _points(mask: np.ndarray, rng: np.random.Generator, n: int) -> dict[str, Any]:
    points, labels = sample_points(mask, n, rng)
    return {"points": points, "labels": labels}


PROMPTS: dict[str, Callable[[np.ndarray, np.random.Generator], dict[str, Any]]] = {
    "box": lambda mask, rng: {"box": box_from_mask(mask)},
    "jittered_box": lambda mask, rng: {"box": box_from_mask(mask, JITTER, rng)},
    "centre_click": lambda mask, rng: _click(centre_click(mask)),
    "jittered_click": _jittered_click,
    "random_click": lambda mask, rng: _click(random_click(mask, rng)),
    **{f"{n}_points": partial(_points, n=n) for n in range(3, 11)},
}
"""How each kind of prompt is drawn from a mask, bool (H, W), as keyword arguments of `Predictor.predict`.

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
        sizes: (N,) names in `BOUNDS`.
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
        sizes = [f"{size} ({count})" for size, count in counts.items()]
        header = [self.predictor, f"mean IoU [95 %], {len(self.images)} objects", *sizes]
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
    seed: int = 0,
    accelerator: Any = None,
) -> PromptScores:
    """Ask for every object of a set with one prompt of each kind, and compare the answers with the true masks.

    An object's prompts depend on the seed and on its place in the data set only: every predictor is asked the same.

    Args:
        judged: a data set with instance masks (its objects of at least 32x32 pixels are taken), or a list of objects.
        prompts: names in `PROMPTS`.
        accelerator: as for `evaluate`: several processes share the images, and return the same scores.

    Raises:
        ValueError: an unknown kind of prompt, no objects, or an answer that is no mask of the image's size.
    """
    unknown = [kind for kind in prompts if kind not in PROMPTS]
    if unknown or not prompts:
        raise ValueError(f"unknown prompt {unknown[0] if unknown else ''!r}; known: {', '.join(PROMPTS)}.")
    judged = as_objects(judged)
    ious, predicted = ({kind: np.zeros(len(judged)) for kind in prompts} for _ in range(2))
    for positions in list(by_image(judged))[share(accelerator)]:
        predictor.set_image(judged[positions[0]].image)
        for position in positions:
            item = judged[position]
            for kind in prompts:
                prompt = PROMPTS[kind](item.mask, np.random.default_rng([seed, item.index, item.number]))
                mask, predicted[kind][position] = predictor.predict(**prompt)
                ious[kind][position] = mask_iou(mask, item.mask, item.ignore)
    if accelerator is not None and accelerator.num_processes > 1:  # each has filled its own places: the sum holds all
        for found, kind in product((ious, predicted), prompts):
            values = torch.from_numpy(found[kind]).to(accelerator.device)
            found[kind] = accelerator.reduce(values, "sum").cpu().numpy()
    drawn = f"prompts drawn from the truth (seed {seed}"
    drawn += f", box edges moved by {JITTER:g} of its sides)" if "jittered_box" in prompts else ")"
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


# The mean IoU of predictors that know no classes, with who named their masks on the score.


def evaluate_prompted_classes(predictor: Predictor, dataset: SegmentationDataset, **options: Any) -> Evaluation:
    """Ask for every true object with its box, name the answer as the truth does, and score the class map.

    Where the objects are and what they are is told; only their outlines are the predictor's. So the score says how good
    the outlines are, in the unit of semantic segmentation, and cannot be compared with a network that finds and names
    objects itself: the protocol keeps the two apart. Answers that overlap are put on top of each other as in `paint`.

    Args:
        dataset: one with instance masks; all of its objects are asked for, however small.
        options: `bands` and `per_image` of `evaluate`.

    Raises:
        FileNotFoundError: the data set has no instance masks.
        ValueError: what `evaluate` raises, or there is no object at all.
    """
    judged = objects(dataset, min_side=1)

    def class_map(index: int) -> np.ndarray:
        items = [item for item in judged if item.index == index]
        if not items:
            return np.zeros(dataset.load_target(index).shape, dtype=np.uint8)
        predictor.set_image(items[0].image)
        masks, ious = zip(*(predictor.predict(box=box_from_mask(item.mask)) for item in items), strict=True)
        return paint(np.stack(masks), np.array(ious), np.array([item.label for item in items]))

    evaluation = _evaluate_maps(class_map, predictor, dataset, options)
    return _prompted(evaluation, "the box of every true object, whose class the answer gets")


def _prompted(evaluation: Evaluation, prompts: str) -> Evaluation:
    return replace(evaluation, protocol=replace(evaluation.protocol, prompts=prompts))


def _evaluate_maps(
    class_map: Callable[[int], np.ndarray], predictor: Predictor, dataset: SegmentationDataset, options: dict[str, Any]
) -> Evaluation:
    """Score one label map (H, W) an image, as logits that are 1 for a pixel's label and 0 for the others."""

    def logits(index: int, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False):  # predictors keep embeddings, which may be trained on later
            labels = torch.from_numpy(class_map(index)).long().to(images.device)
        return F.one_hot(labels, dataset.num_classes).permute(2, 0, 1)[None].float()

    return evaluate(_OneByOne(predictor.model, logits, range(len(dataset))), dataset, batch_size=1, **options)


class _OneByOne(nn.Module):
    """Answers the images `indices` of a set by `logits(index, images)`; the protocol has the device of `model`."""

    def __init__(self, model: nn.Module, logits: Callable[[int, torch.Tensor], torch.Tensor], indices: Iterable[int]):
        super().__init__()
        self.model, self.logits, self.indices = model, logits, iter(indices)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits(next(self.indices), images)


# Does a network know how good its masks are? Its predicted IoU against the true one.


@dataclass(frozen=True, eq=False)
class Calibration:
    """Predicted against true IoU of N answers.

    Attributes:
        pearson, spearman: correlation of the numbers, and of their ranks; NaN where one of the two is constant. The
            ranks are what chooses the best of several masks.
        error: the expected calibration error: the mean distance of predicted and true IoU over the bins, weighted by
            their answers (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3, with bins of equal
            count instead of equal width, so that each mean is equally sure).
        bias: mean predicted minus mean true IoU; above 0 the network is too sure of itself.
        predicted, true: float64 (N,).
        bin_predicted, bin_true: float64 (bins,), means in the bins, from the lowest predicted IoU up.
        bin_counts: int64 (bins,).
    """

    pearson: float
    spearman: float
    error: float
    bias: float
    predicted: np.ndarray = field(repr=False)
    true: np.ndarray = field(repr=False)
    bin_predicted: np.ndarray = field(repr=False)
    bin_true: np.ndarray = field(repr=False)
    bin_counts: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        return (
            f"predicted against true IoU over {len(self.true)} answers: Pearson {self.pearson:.2f}, Spearman "
            f"{self.spearman:.2f}, expected calibration error {self.error:.3f}, bias {self.bias:+.3f}"
        )


def calibration(predicted: np.ndarray, true: np.ndarray, bins: int = 10) -> Calibration:
    """Compare predicted with true IoUs, answer by answer.

    Args:
        predicted, true: of the same shape, any: `scores.predicted["box"]` and `scores.ious["box"]`, or those of a
            `ClickCurve`. Where the prediction is NaN (nothing was asked) both are left out.
        bins: of equal count; as many as there are answers if that is fewer.

    Raises:
        ValueError: shapes that differ, no answer with a prediction, or fewer than one bin.
    """
    from scipy.stats import rankdata

    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if predicted.shape != true.shape or bins < 1:
        raise ValueError(
            f"calibration needs predicted and true IoUs of the same shape and at least 1 bin, got {predicted.shape}, "
            f"{true.shape} and {bins} bins."
        )
    asked = ~np.isnan(predicted)
    if not asked.any():
        raise ValueError("no answer has a predicted IoU: this predictor says nothing about its masks.")
    predicted, true = predicted[asked], true[asked]
    order = np.argsort(predicted, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    counts = np.array([len(part) for part in parts])
    bin_predicted, bin_true = (np.array([values[part].mean() for part in parts]) for values in (predicted, true))
    pearson, spearman = _correlation(predicted, true), _correlation(rankdata(predicted), rankdata(true))
    error = float(np.average(np.abs(bin_predicted - bin_true), weights=counts))
    bias = float(predicted.mean() - true.mean())
    return Calibration(pearson, spearman, error, bias, predicted, true, bin_predicted, bin_true, counts)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")


# The mean IoU of a promptable network with a head for all classes, such as Mini-SAM with 21.


def evaluate_semantic(
    model: nn.Module,
    dataset: SegmentationDataset,
    prompts: str = "none",
    points: int = 5,
    seed: int = 0,
    **options: Any,
) -> Evaluation:
    """Score the class logits of a promptable model on every image of a set, as `evaluate` does with other models.

    Args:
        model: `model(images, points, point_labels)` returns logits (1, K, H, W) and a predicted IoU; images are float
            (1, 3, H, W), points float (1, N, 2), pixels (x, y), labels int64 (1, N), 1 foreground and 0 background.
        prompts: "truth": half of the points (rounded up) lie on objects and half beside them, each labelled as the
            truth says; an image without objects gets background points only. "random": as many points of either label,
            anywhere. "none": no points.
        points: how many in each image.
        options: `device`, `precision`, `bands`, `per_image`, `loss` and `accelerator` of `evaluate`.

    Returns:
        An evaluation whose protocol names the prompts' source in `prompts`, so that tables keep the sources apart;
        without prompts it is the protocol of an ordinary network.

    Raises:
        ValueError: an unknown source, fewer than one point, and what `evaluate` raises.
    """
    if prompts not in ("truth", "none", "random") or points < 1:
        raise ValueError(f"prompts must be one of truth, none, random, with points >= 1; got {prompts!r}, {points}.")

    def logits(index: int, images: torch.Tensor) -> torch.Tensor:
        if prompts == "none":
            return model(images, None, None)[0]
        target, rng = dataset.load_target(index).numpy(), np.random.default_rng([seed, index])
        there = (target != 0) & (target != dataset.ignore_index)
        told = prompts == "truth" and there.any()
        xy, labels = sample_points(there if told else np.ones_like(there), points, rng)
        if not told:
            foreground = (points + 1) // 2 if prompts == "random" else 0
            labels = (np.arange(points) < foreground).astype(np.int64)
        return model(images, *(torch.from_numpy(array)[None].to(images.device) for array in (xy, labels)))[0]

    indices = range(len(dataset))[share(options.get("accelerator"))]
    evaluation = evaluate(_OneByOne(model, logits, indices), dataset, batch_size=1, **options)
    if prompts == "none":
        return evaluation
    source = "drawn from the truth" if prompts == "truth" else "at random places with random labels"
    return _prompted(evaluation, f"{points} points {source} (seed {seed})")


def prompt_costs(predictor: Predictor, size: Size = (512, 512), *, warmup: int = 1, runs: int = 5) -> dict[str, Any]:
    """What one image and one box in it cost a promptable network: as `costs`, from `set_image` to the mask.

    The embedding is computed anew each time; a second prompt on the same image costs only the decoder's share.

    Args:
        predictor: in its own precision.
        size: height and width of the image in pixels; what the network makes of it inside is its own choice.
    """
    height, width = size
    rng = np.random.default_rng()
    box = np.array([width // 4, height // 4, 3 * width // 4, 3 * height // 4], dtype=np.float64)

    def ask() -> None:
        # A new picture each time and in each call: a predictor keeps embeddings, and others may share them.
        predictor.set_image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        predictor.predict(box=box)

    times = []
    for _ in range(warmup + runs):
        start = time.perf_counter()
        ask()  # the mask is an array in the computer's memory, so the device has finished
        times.append(time.perf_counter() - start)
    held = [copy.copy(value) for value in vars(predictor).values()]  # else the last embedding's end counts as a gain
    peak = peak_memory_mb(ask, predictor.device)
    del held
    return {
        "parameters": count_parameters(predictor.model),
        "flops": total_flops(ask),
        "inference_ms": 1000 * statistics.median(times[warmup:]),
        "memory_mb": weights_mb(predictor.model) + peak,
        "cost_size": size_text(size),
    }
