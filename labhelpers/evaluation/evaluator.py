"""The one evaluator of all labs: whole set, one matrix, the label's own resolution."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from labhelpers.data.augment import to_input
from labhelpers.data.base import SegmentationDataset
from labhelpers.evaluation.boundary import band_matrices, band_scores, boundary_counts, boundary_iou
from labhelpers.evaluation.confusion import Scores, confusion_matrix, scores, to_labels

# The conditions of a score, without which it cannot be compared with another.

COMPARABLE = ("dataset", "split", "images", "num_classes", "labels", "size", "void", "averaging", "prompts")
"""Two scores that differ in one of these fields answer different questions and never share a table."""


@dataclass(frozen=True)
class Protocol:
    """How a score was measured.

    The fields in `COMPARABLE` must agree between rows of a table; the others are shown and may differ.
    """

    dataset: str
    split: str
    images: int
    num_classes: int
    labels: str
    """Hash of the true pixel counts of every image: scenes of another seed and other subsets have another one."""
    size: str
    """Width x height in pixels; scores are always taken at the label's own resolution."""
    void: str = "255 ignored"
    averaging: str = "one matrix over the whole set, mean over the classes that occur"
    seed: int | None = None
    device: str = "cpu"
    precision: str = "no"
    minutes: float | None = None
    """Minutes of training."""
    prompts: str = "none"
    """What the model was told besides the image, and where the classes of its masks come from if it knows none."""

    def __str__(self) -> str:
        """What a score must be printed with, without a full stop: "camvid val, 101 images, 480x360 pixels, ..."."""
        prompts = "" if self.prompts == "none" else f"; prompted with {self.prompts}"
        return (
            f"{self.dataset} {self.split}, {self.images} images, {self.size} pixels, {self.num_classes} classes, "
            f"{self.void}; {self.averaging}{prompts}"
        )

    @property
    def device_text(self) -> str:
        """The device and the precision, as tables show them: "cpu, fp32"."""
        return f"{self.device}, {'fp32' if self.precision == 'no' else self.precision}"

    @property
    def key(self) -> str:
        """A short name that two protocols share exactly when their scores are comparable; for file names."""
        fields = [getattr(self, name) for name in COMPARABLE]
        if self.prompts == "none":
            fields.pop()  # the key that such scores had before there were prompts: they stay in their table
        return f"{self.dataset}-{self.split}-{hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:8]}"

    def differences(self, other: "Protocol") -> list[str]:
        """Name the fields that make the two incomparable, with both values; empty when they are comparable."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in COMPARABLE)
        return [f"{name} ({mine} against {theirs})" for name, mine, theirs in pairs if mine != theirs]


def size_range(sizes: Sequence[tuple[int, int]]) -> str:
    """The smallest and the largest (width, height) as a protocol has them: "128x128", "333x500 to 500x375"."""
    return " to ".join(f"{width}x{height}" for width, height in sorted({min(sizes), max(sizes)}))


def device_name(device: torch.device) -> str:
    """The device as a protocol has it: "cpu", or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


_AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_MAX_WAITING = 64


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of a model on a set, and under what conditions they were measured.

    `matrices` int32 (N, K, K) and `band_matrices` {width: int32 (N, K, K)} hold the images in the set's order, for
    intervals and paired comparisons; None and {} without per_image. `loss` is that of the whole set, None if none was
    asked for. `boundary_iou` is Boundary IoU, see `boundary.boundary_counts`; None without bands. `seconds` is the wall
    time, reading included.
    """

    scores: Scores
    band_mean_iou: dict[int, float]
    band_foreground_iou: dict[int, float]
    protocol: Protocol
    seconds: float
    matrix: np.ndarray = field(repr=False)
    matrices: np.ndarray | None = field(repr=False)
    band_matrices: dict[int, np.ndarray] = field(repr=False)
    loss: float | None = None
    boundary_iou: float | None = None


def evaluate(
    model: nn.Module,
    dataset: SegmentationDataset,
    *,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    precision: str = "no",
    bands: Sequence[int] = (5,),
    per_image: bool = True,
    loss: Any = None,
    accelerator: Any = None,
) -> Evaluation:
    """Score a model on every image of a set at its own resolution.

    Images of equal size share a batch. They are never padded to a common size: zeros change what batch statistics and
    global pooling (ASPP's image branch) see, and with it the predictions inside the image.

    Args:
        model: maps float (B, 3, H, W) to logits (B, K, H, W); it runs in eval mode and leaves in the mode it came in.
        device: where to run, and where the model is moved to; by default where the model is.
        precision: "no" (float32), "bf16" or "fp16" autocast.
        bands: widths in pixels of the boundary bands to score; () for none, and no Boundary IoU either.
        per_image: keep each image's matrices (4 N K K bytes per band and for the whole).
        loss: a `training.Loss` to be computed too, each term over the whole set at once, as the scores are.
        accelerator: an `accelerate.Accelerator`; each of its processes then takes its share of the images, and all of
            them return the same evaluation.

    Raises:
        ValueError: the model does not return finite logits of the label's size, the set is empty, or a label is
            unknown.
    """
    start = time.perf_counter()
    if len(dataset) == 0:
        raise ValueError(f"{dataset.name} {dataset.split} holds no image to evaluate. Check the split's list.")
    if accelerator is not None:
        model = accelerator.unwrap_model(model)
    num_classes, bands = dataset.num_classes, tuple(bands)

    shape = (len(dataset), 1 + len(bands), num_classes, num_classes)
    kept = torch.zeros(shape if per_image else (1, *shape[1:]), dtype=torch.int32 if per_image else torch.int64)
    facts = torch.zeros(len(dataset), num_classes + 2, dtype=torch.int64)  # true pixels per class, height, width
    terms = 0 if loss is None else len(loss.total(torch.zeros(1, 1, 1, dtype=torch.uint8)))
    near_edges = torch.zeros(3, num_classes, dtype=torch.int64)
    loss_parts = torch.zeros(2, terms, dtype=torch.float64)  # of each term: the sum, and what it is divided by
    with inference(model, precision, device) as device:
        for indices, images, targets in _equal_sizes(dataset, range(len(dataset))[share(accelerator)], batch_size):
            targets = targets.to(device)
            logits = compute_logits(model, images.to(device), num_classes)
            names = [f"image {dataset.ids[i]!r} (number {i} of {dataset.name} {dataset.split})" for i in indices]
            predictions = to_labels(logits, num_classes, names)
            for index, prediction, target in zip(indices, predictions, targets, strict=True):
                matrix = confusion_matrix(prediction, target, num_classes, dataset.ignore_index)
                facts[index] = torch.cat([matrix.sum(1), torch.tensor(target.shape)])
                row = kept[index if per_image else 0]
                row[0] += matrix
                if bands:
                    row[1:] += band_matrices(prediction, target, num_classes, bands, dataset.ignore_index)
                    near_edges += boundary_counts(prediction, target, num_classes, dataset.ignore_index)
            if loss is not None:
                parts = loss.parts(logits, targets, torch.ones(terms, device=device))
                loss_parts += torch.stack([parts, loss.total(targets)]).cpu()
    if accelerator is not None and accelerator.num_processes > 1:  # each has filled its own rows: the sum holds all
        parts = (kept, facts, near_edges, loss_parts)
        kept, facts, near_edges, loss_parts = (accelerator.reduce(part.to(device), "sum").cpu() for part in parts)

    protocol = Protocol(
        dataset=dataset.name,
        split=dataset.split,
        images=len(dataset),
        num_classes=num_classes,
        labels=hashlib.sha256(facts.numpy().tobytes()).hexdigest()[:12],
        size=size_range([(width, height) for height, width in facts[:, -2:].tolist()]),
        void=f"{dataset.ignore_index} ignored",
        device=device_name(device),
        precision=precision,
    )
    total = kept.sum(0, dtype=torch.int64).numpy()
    band_mean_iou, band_foreground_iou = band_scores(bands, total[1:])
    return Evaluation(
        scores=scores(total[0]),
        band_mean_iou=band_mean_iou,
        band_foreground_iou=band_foreground_iou,
        protocol=protocol,
        seconds=time.perf_counter() - start,
        matrix=total[0],
        matrices=kept[:, 0].numpy() if per_image else None,
        band_matrices={w: kept[:, 1 + i].numpy() for i, w in enumerate(bands)} if per_image else {},
        loss=None if loss is None else float((loss_parts[0] / loss_parts[1]).sum()),
        boundary_iou=boundary_iou(near_edges.numpy()) if bands else None,
    )


def share(accelerator: Any) -> slice:
    """Which of a set's images one of several processes scores: every n-th; all of them without an accelerator."""
    return slice(None) if accelerator is None else slice(accelerator.process_index, None, accelerator.num_processes)


def predict(model: nn.Module, image: torch.Tensor, *, precision: str = "no") -> torch.Tensor:
    """Label one image, uint8 (3, H, W), at its own resolution, where the model is; returns uint8 (H, W) on the CPU.

    Raises:
        ValueError: another kind of image, or the model does not return finite logits of its size.
    """
    if image.dtype is not torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(
            f"predict needs a uint8 image (3, H, W), got {image.dtype} {tuple(image.shape)}. "
            "Take it from the data set as it is: normalising happens in here."
        )
    with inference(model, precision) as device:
        logits = compute_logits(model, image[None].to(device))
        return to_labels(logits, logits.shape[1], ["the image"])[0].cpu()


def side_by_side(
    models: Mapping[str, nn.Module], dataset: SegmentationDataset, indices: Sequence[int]
) -> dict[str, list[torch.Tensor]]:
    """Columns for `plots.image_grid`: "image", "truth", and what each model says to these images, by its name."""
    items = [dataset[i] for i in indices]
    columns = {"image": [image for image, _ in items], "truth": [target for _, target in items]}
    return columns | {name: [predict(model, image) for image, _ in items] for name, model in models.items()}


@contextmanager
def inference(
    model: nn.Module, precision: str = "no", device: torch.device | str | None = None
) -> Iterator[torch.device]:
    """Inside, the model runs in eval mode, without gradients, in the given precision; yields its device.

    Afterwards every module has its own mode back: a frozen encoder stays frozen inside a model that trains.
    """
    if precision not in _AUTOCAST:
        raise ValueError(f"unknown precision {precision!r}; known: {', '.join(_AUTOCAST)}.")
    if device is not None:
        model.to(device)
    anchor = next(model.parameters(), None)
    device = anchor.device if anchor is not None else torch.device(device or "cpu")
    modes = [(module, module.training) for module in model.modules()]
    autocast = torch.autocast(device.type, dtype=_AUTOCAST[precision], enabled=precision != "no")
    model.eval()
    try:
        with torch.inference_mode(), autocast:
            yield device
    finally:
        for module, training in modes:
            module.training = training


def compute_logits(
    model: Callable[[torch.Tensor], Any], images: torch.Tensor, num_classes: int | None = None
) -> torch.Tensor:
    """Run the model on uint8 images (B, 3, H, W) and return its logits (B, K, H, W), their shape checked."""
    return check_logits(model(to_input(images)), images, num_classes)


def check_logits(output: Any, images: torch.Tensor, num_classes: int | None = None) -> torch.Tensor:
    """Return what a model made of images (B, 3, H, W), if it is logits (B, K, H, W) with K = num_classes, if given.

    Raises:
        ValueError: it is something else; the message says what to change in the model.
    """
    if not isinstance(output, torch.Tensor):
        parts = (
            output.items()
            if isinstance(output, Mapping)
            else enumerate(output)
            if isinstance(output, tuple | list)
            else ()
        )
        maps = [f"[{key!r}]" for key, part in parts if isinstance(part, torch.Tensor) and part.dim() == 4]
        where = maps[0] if maps else ".logits" if hasattr(output, "logits") else "[...]"
        raise ValueError(
            f"the model returned a {type(output).__name__} instead of logits (B, K, H, W). Have it return them, here: "
            f"model.register_forward_hook(lambda module, given, output: output{where})."
        )
    found, wanted = tuple(output.shape), (len(images), num_classes or "K", *images.shape[-2:])
    if len(found) == 4 and num_classes not in (None, found[1]):
        raise ValueError(
            f"the model returned logits {found}, so it has K = {found[1]} classes, but the data has {num_classes}: "
            f"build the model with num_classes={num_classes}."
        )
    if len(found) != 4 or found[0] != wanted[0] or found[2:] != wanted[2:]:
        raise ValueError(
            f"the model returned logits {found} for images {tuple(images.shape)}; wanted {wanted}. "
            "Upsample the logits to the input's size inside the model."
        )
    return output


def _equal_sizes(
    dataset: SegmentationDataset, indices: Sequence[int], batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Yield (indices, images (B, 3, H, W), targets (B, H, W)): each image once, only equal sizes together."""

    def batch(group: list) -> tuple[list[int], torch.Tensor, torch.Tensor]:
        indices, images, targets = zip(*group, strict=True)
        return list(indices), torch.stack(images), torch.stack(targets)

    waiting: dict[torch.Size, list] = {}
    for index in indices:
        image, target = dataset[index]
        group = waiting.setdefault(image.shape, [])
        group.append((index, image, target))
        full = sum(map(len, waiting.values())) >= _MAX_WAITING
        if full:  # sets of many sizes: do not hold them all in memory
            group = max(waiting.values(), key=len)
        if full or len(group) >= batch_size:
            yield batch(waiting.pop(group[0][1].shape))
    yield from map(batch, waiting.values())


# Scores by object size: does a network see small things?

BOUNDS = {"small": 32**2 / (640 * 480), "medium": 96**2 / (640 * 480), "large": float("inf")}
"""Largest share of the picture that an object of each size covers, the same at 128 pixels and at 500: COCO's 32x32 and
96x96 pixels (Lin et al., ECCV 2014) in a picture of 640x480."""


@dataclass(frozen=True)
class SizeScore:
    """The objects of one size; NaN without any."""

    objects: int
    recall: float  # mean share of an object's pixels that got its class
    found: float  # share of the objects of which at least half of the pixels did


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
    area, right = _object_pixels(prediction, target, instances)
    objects = area > 0
    return torch.stack([area[objects] / target.numel(), right[objects] / area[objects]], 1).double().numpy()


def _object_pixels(
    prediction: torch.Tensor, target: torch.Tensor, instances: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scored pixels of each object, and those with the right label, int64 (256,): 0 where there is no object."""
    right = torch.bincount(instances[prediction == target], minlength=256)
    area = torch.bincount(instances[target != 255], minlength=256)
    for counts in (area, right):
        counts[[0, 255]] = 0
    return area, right


def scores_by_size(model: nn.Module, dataset: SegmentationDataset, *, precision: str = "no") -> dict[str, SizeScore]:
    """Score a model's objects by size (see `BOUNDS`), over a data set with instance masks.

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
    by_size = {size: recall[bucket == number] for number, size in enumerate(BOUNDS)}
    return {
        size: SizeScore(len(r), float(r.mean()), float((r >= 0.5).mean())) if len(r) else SizeScore(0, np.nan, np.nan)
        for size, r in by_size.items()
    }


@dataclass(frozen=True)
class FoundEdges:
    """How well models draw the edges of objects that all of them found."""

    objects: int
    found: int  # of these, by every model
    band_foreground_iou: dict[str, dict[int, float]]  # model -> width in pixels -> score


def edges_of_found(models: Mapping[str, nn.Module], dataset: SegmentationDataset, widths: Sequence[int]) -> FoundEdges:
    """Score models in bands around true edges, as `evaluate` does, but without the objects that one of them missed.

    A model has found an object if at least half of its pixels got their class. The pixels of a missed object become
    void: that it is missing says nothing about where edges were drawn, and every model is scored on the same pixels.

    Raises:
        FileNotFoundError: the data set has no instance masks.
    """
    shape = (len(widths), dataset.num_classes, dataset.num_classes)
    matrices = {name: torch.zeros(shape, dtype=torch.int64) for name in models}
    objects = found = 0
    for index in range(len(dataset)):
        image, target = dataset[index]
        instances = torch.as_tensor(dataset.instances(index))
        predictions = {name: predict(model, image) for name, model in models.items()}
        pixels = [_object_pixels(prediction, target, instances) for prediction in predictions.values()]
        area = pixels[0][0]
        by_all = torch.stack([2 * right >= area for _, right in pixels]).all(0)
        objects += int((area > 0).sum())
        found += int((by_all & (area > 0)).sum())
        target = target.masked_fill(~by_all[instances.long()], dataset.ignore_index)
        for name, prediction in predictions.items():
            matrices[name] += band_matrices(prediction, target, dataset.num_classes, widths, dataset.ignore_index)
    scored = {name: band_scores(widths, matrix.numpy())[1] for name, matrix in matrices.items()}
    return FoundEdges(objects, found, scored)
