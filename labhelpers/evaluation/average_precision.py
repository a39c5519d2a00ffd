"""How we judge objects: average precision as COCO defines it, and what kind of failure each error is.

Lin et al., "Microsoft COCO: Common objects in context", ECCV 2014; the rules are those of its evaluation code,
`pycocotools`, from which all reported numbers come. `match_detections` and `average_precision` say the same in a few
lines, to be read; a test holds the two together.

Void (rims, crowds, objects of no class of the set) is neither right nor wrong, by the rule of panoptic quality
(Kirillov et al., CVPR 2019, section 4.2): its pixels are taken from predicted masks before any IoU, and an unmatched
prediction of which at least a share as large as the IoU threshold lies in void is no error. COCO treats its crowds so.
"""

import hashlib
import io
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
import torch

from labhelpers.data.instances import InstanceDataset, Instances
from labhelpers.evaluation.evaluator import Protocol, device_name, size_range
from labhelpers.evaluation.results import DASH, Table

RECALLS = np.linspace(0, 1, 101)
"""The recalls at which precision is read."""

MAX_DETECTIONS = 100
"""Of each image and class, only so many predictions are judged: those with the highest scores."""


# The definition, to be read.


def match_detections(
    iou: np.ndarray, threshold: float = 0.5, ignored: np.ndarray | None = None, crowd: np.ndarray | None = None
) -> np.ndarray:
    """Match the predictions of one image and class to its true objects, as COCO does.

    The predictions choose in order of their scores. Each takes the free object with the highest IoU, if that is at
    least `threshold`. Ignored objects are taken only where no other one fits.

    Args:
        iou: (P, T), the predictions in descending order of their scores.
        ignored: bool (T,), objects that count neither when they are found nor when they are missed.
        crowd: bool (T,), ignored objects that any number of predictions may match; their column of `iou` holds the
            share of each prediction that lies in them.

    Returns:
        int64 (P,): the object of each prediction, -1 for none.
    """
    free = np.ones(iou.shape[1], dtype=bool)
    ignored = np.zeros_like(free) if ignored is None else ignored
    crowd = np.zeros_like(free) if crowd is None else crowd
    matches = np.full(len(iou), -1)
    for prediction, overlap in enumerate(iou):
        fits = (free | crowd) & (overlap >= threshold)
        for allowed in (fits & ~ignored, fits & ignored):
            if allowed.any():
                # COCO takes the last of equals.
                best = np.flatnonzero(allowed & (overlap == overlap[allowed].max()))[-1]
                matches[prediction], free[best] = best, False
                break
    return matches


def average_precision(scores: np.ndarray, hits: np.ndarray, num_targets: int) -> float:
    """Average precision of one class at one IoU threshold: the mean of precision at 101 recalls.

    Sort all predictions of the whole set by score. After each, precision is the share of hits among the predictions
    so far, recall the share of the true objects found so far. Precision at a recall r is the highest precision at any
    recall >= r (Everingham et al., IJCV 2010, eq. 2), and 0 where r is never reached.

    Args:
        scores: (P,), of the predictions of all images; equal scores keep their order.
        hits: bool (P,), whether each found an object. Predictions that found an ignored one are left out of both.
        num_targets: the true objects that are not ignored.

    Returns:
        A number in 0..1; NaN if there is no object to find.
    """
    if num_targets == 0:
        return float("nan")
    found = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    recall, precision = found / num_targets, found / np.arange(1, len(found) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS)  # the first prediction with at least this recall
    return float(np.append(best_from_here, 0)[at].mean())


# The numbers that are reported.


@dataclass(frozen=True, eq=False)
class AveragePrecision:
    """COCO's scores in 0..1, NaN where there is no object to find.

    `ap` is the mean over the IoU thresholds .50, .55, ..., .95 and over the classes that occur, `ap50` and `ap75` that
    at one threshold, `class_ap` float64 (K,) that of each class (NaN for background). small, medium and large are
    objects of up to 32 x 32 pixels, up to 96 x 96, and above; their area is that of the mask for box AP, too. COCO's
    pictures are about 640 pixels wide: in one of 128 pixels nearly every object is small or medium.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    class_ap: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class InstanceEvaluation:
    """The average precision of a model on a set, for masks and for boxes, and how it was measured.

    `seconds_per_image` is the median time of one prediction, without reading.
    """

    mask: AveragePrecision
    box: AveragePrecision
    protocol: Protocol
    seconds_per_image: float
    _sizes: list[tuple[int, int]] = field(repr=False)
    _predictions: list[tuple[Instances, list[dict[str, Any]]]] = field(repr=False)

    @property
    def scores(self) -> dict[str, float | None]:
        """All scores by name, "mask_ap" to "box_ap_large", as a results file wants them: None where undefined."""
        kinds = {"mask": self.mask, "box": self.box}
        named = {f"{kind}_{name}": getattr(scores, name) for kind, scores in kinds.items() for name in _HEADS}
        return {name: None if np.isnan(value) else value for name, value in named.items()}

    def prediction(self, index: int) -> Instances:
        """What the model predicted for image `index` of the set. Masks are kept as run lengths and unpacked here."""
        from pycocotools import mask as coco_mask

        (width, height), (rest, runs) = self._sizes[index], self._predictions[index]
        masks = torch.zeros(len(rest), height, width, dtype=torch.bool)
        for mask, lengths in zip(masks, runs, strict=True):
            mask[:] = torch.from_numpy(coco_mask.decode(lengths))
        return replace(rest, masks=masks)


_HEADS = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "small", "ap_medium": "medium", "ap_large": "large"}


def evaluate_instances(
    predict: Callable[[torch.Tensor], Instances],
    dataset: InstanceDataset,
    *,
    device: torch.device | str = "cpu",
    precision: str = "no",
    seed: int | None = None,
    minutes: float | None = None,
) -> InstanceEvaluation:
    """Score what a model predicts for every image of a set, at the image's own resolution, by pycocotools.

    Args:
        predict: from a uint8 image (3, H, W) to scored `Instances` with masks (N, H, W), on any device.
        dataset: its items are `(image, Instances)`.
        device, precision, seed, minutes: where and how `predict` runs, and how it was trained; for the protocol only.

    Raises:
        ValueError: the set is empty, or predictions have no scores, another size, or a class that the set lacks.
    """
    if len(dataset) == 0:
        raise ValueError(f"{dataset.name} {dataset.split} holds no image to evaluate. Check the split's list.")
    sizes: list[tuple[int, int]] = []
    seconds: list[float] = []
    kept: list[tuple[Instances, list[dict[str, Any]]]] = []
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        image, target = dataset[index]
        start = time.perf_counter()
        prediction = predict(image).to("cpu")
        seconds.append(time.perf_counter() - start)
        _refuse_misfits(prediction, target, f"image {dataset.ids[index]!r} of {dataset.name}", dataset.num_classes)
        height, width = target.masks.shape[1:]
        sizes.append((width, height))
        truth += _targets(index, target, dataset.num_classes)
        found += _detections(index, prediction, target.void)
        kept.append((replace(prediction, masks=prediction.masks[:, :0, :0]), _run_lengths(prediction.masks)))
    protocol = Protocol(
        dataset=dataset.name,
        split=dataset.split,
        images=len(dataset),
        num_classes=dataset.num_classes,
        labels=hashlib.sha256(repr((sizes, truth)).encode()).hexdigest()[:12],
        size=size_range(sizes),
        void="void pixels ignored, predictions in void are no errors",
        averaging=f"COCO's average precision over IoU .50 to .95 (AP50, AP75: at one), at most {MAX_DETECTIONS} "
        "predictions per image and class, mean over the classes that occur",
        device=device_name(torch.device(device)),
        precision=precision,
        seed=seed,
        minutes=minutes,
    )
    mask, box = (_average_precision(truth, found, sizes, dataset.num_classes, kind) for kind in ("segm", "bbox"))
    return InstanceEvaluation(mask, box, protocol, float(np.median(seconds)), sizes, kept)


def instance_table(evaluations: Mapping[str, InstanceEvaluation]) -> Table:
    """The scores of several models as a table, in percent, with the protocol below; masks and boxes have a row each.

    Raises:
        ValueError: there is no evaluation, or two cannot be compared.
    """
    if not evaluations:
        raise ValueError("instance_table needs at least one evaluation: {name: evaluate_instances(...)}.")
    protocol = next(iter(evaluations.values())).protocol
    for name, evaluation in evaluations.items():
        if differences := evaluation.protocol.differences(protocol):
            raise ValueError(
                f"{name} cannot join this table: its protocol differs in {', '.join(differences)}. Evaluate all models "
                "on the same images."
            )
    rows = []
    for name, evaluation in evaluations.items():
        protocol = evaluation.protocol
        conditions = {
            "ms per image": f"{1000 * evaluation.seconds_per_image:.0f}",
            "Training (min)": DASH if protocol.minutes is None else f"{protocol.minutes:.1f}",
            "Seed": DASH if protocol.seed is None else str(protocol.seed),
            "Device": protocol.device_text,
        }
        for kind in ("mask", "box"):
            scores = {head: evaluation.scores[f"{kind}_{score}"] for score, head in _HEADS.items()}
            shown = {head: DASH if score is None else f"{100 * score:.1f}" for head, score in scores.items()}
            rows.append({"Model": f"{name}, {'masks' if kind == 'mask' else 'boxes'}", **shown, **conditions})
    said = [
        head for head in rows[0] if head not in ("Training (min)", "Seed") or any(row[head] != DASH for row in rows)
    ]
    cells = [[row[head] for head in said] for row in rows]
    return Table(said, cells, f"{protocol}. Scores in percent, {DASH} where no object is of that size.")


def boxes_ap50(objects: torch.Tensor, detected: torch.Tensor, scores: Sequence[float]) -> float:
    """Average precision at IoU .5 of boxes of one class in one image, by pycocotools: for an example by hand.

    Args:
        objects, detected: (T, 4) and (P, 4), x1, y1, x2, y2 in pixels, x2 and y2 exclusive.
        scores: P of them.
    """
    one = {"image_id": 0, "category_id": 1, "iscrowd": 0}
    truth = [{**one, "bbox": box, "area": box[2] * box[3]} for box in _xywh(objects)]
    columns = zip(_xywh(detected), scores, strict=True)
    found = [{**one, "bbox": box, "score": float(score)} for box, score in columns]
    return _average_precision(truth, found, [(0, 0)], 2, "bbox").ap50


def _refuse_misfits(prediction: Instances, target: Instances, name: str, num_classes: int) -> None:
    if prediction.scores is None:
        raise ValueError(f"the prediction for {name} has no scores, without which precision has no order: add them.")
    if prediction.masks.shape[1:] != target.masks.shape[1:]:
        raise ValueError(
            f"the masks predicted for {name} are {tuple(prediction.masks.shape[1:])}, the image is "
            f"{tuple(target.masks.shape[1:])}: paste the masks at the image's own size."
        )
    if len(prediction) and prediction.labels.max() >= num_classes:
        raise ValueError(
            f"class {int(prediction.labels.max())} was predicted for {name}, but the set has the classes 1 to "
            f"{num_classes - 1}: build the model with num_classes={num_classes}."
        )


# Objects in the form of pycocotools: one dictionary each, masks as run lengths, boxes as x, y, width, height.


def _targets(image: int, target: Instances, num_classes: int) -> list[dict[str, Any]]:
    """The true objects of an image, and its void as a crowd of each class."""
    columns = zip(target.labels.tolist(), _xywh(target.boxes), _run_lengths(target.masks), strict=True)
    found = [
        {"image_id": image, "category_id": label, "bbox": box, "area": _area(runs), "segmentation": runs, "iscrowd": 0}
        for label, box, runs in columns
    ]
    if target.void is None or not target.void.any():
        return found
    [runs] = _run_lengths(target.void[None])
    void = {"image_id": image, "bbox": [0, 0, 0, 0], "area": _area(runs), "segmentation": runs, "iscrowd": 1}
    return found + [{**void, "category_id": label} for label in range(1, num_classes)]


def _detections(image: int, prediction: Instances, void: torch.Tensor | None) -> list[dict[str, Any]]:
    """The predictions for an image, their masks without void pixels, and the share of each that was void."""
    assert prediction.scores is not None
    columns = {
        "bbox": _xywh(prediction.boxes),
        "category_id": prediction.labels.tolist(),
        "segmentation": _run_lengths(prediction.masks if void is None else prediction.masks & ~void),
        "score": prediction.scores.tolist(),
        "void": _void_share(prediction.masks, void),
    }
    return [{"image_id": image, **dict(zip(columns, row, strict=True))} for row in zip(*columns.values(), strict=True)]


def _average_precision(
    truth: list[dict[str, Any]], found: list[dict[str, Any]], sizes: list[tuple[int, int]], num_classes: int, kind: str
) -> AveragePrecision:
    """Have pycocotools score "segm" or "bbox"; `sizes` is (width, height) of each image."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def dataset(annotations: list[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "width": width, "height": height} for i, (width, height) in enumerate(sizes)],
            "categories": [{"id": label} for label in range(1, num_classes)],
            # COCOeval takes the number 0 for "no match".
            "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)],
        }
        coco.createIndex()
        return coco

    class Judge(COCOeval):
        def computeIoU(self, image: int, category: int) -> np.ndarray | list:  # noqa: N802
            iou = super().computeIoU(image, category)
            crowd = [bool(annotation["iscrowd"]) for annotation in self._gts[image, category]]
            if len(iou) and any(crowd):  # void has no box, so the share of the mask counts for boxes, too
                detections = self._dts[image, category][: len(iou)]  # already in the order of their scores
                iou[:, crowd] = np.array([detection["void"] for detection in detections])[:, None]
            return iou

    def area(detection: dict[str, Any]) -> float:
        return _area(detection["segmentation"]) if kind == "segm" else detection["bbox"][2] * detection["bbox"][3]

    with redirect_stdout(io.StringIO()):  # pycocotools reports each of its steps
        judge = Judge(dataset(truth), dataset([{**one, "area": area(one)} for one in found]), kind)
        judge.params.maxDets = [MAX_DETECTIONS]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., 0]  # (thresholds, recalls, classes, areas), -1 where undefined

    def mean(values: np.ndarray) -> float:
        return float(values[values > -1].mean()) if (values > -1).any() else float("nan")

    everything, small, medium, large = np.moveaxis(precision, 3, 0)
    return AveragePrecision(
        ap=mean(everything),
        ap50=mean(everything[0]),
        ap75=mean(everything[5]),
        ap_small=mean(small),
        ap_medium=mean(medium),
        ap_large=mean(large),
        class_ap=np.array([np.nan, *(mean(everything[..., k]) for k in range(num_classes - 1))]),
    )


def _xywh(boxes: torch.Tensor) -> list[list[float]]:
    corners = boxes.double()
    return torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()


def _run_lengths(masks: torch.Tensor) -> list[dict[str, Any]]:
    """Masks, bool (N, H, W), as pycocotools packs them."""
    from pycocotools import mask as coco_mask

    return coco_mask.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8)))


def _area(runs: dict[str, Any]) -> int:
    from pycocotools import mask as coco_mask

    return int(coco_mask.area(runs))


def _void_share(masks: torch.Tensor, void: torch.Tensor | None) -> list[float]:
    """The share of each mask, bool (N, H, W), that is void; 0 for an empty mask."""
    if void is None:
        return [0.0] * len(masks)
    return ((masks & void).sum((1, 2)).double() / masks.sum((1, 2)).clamp(min=1)).tolist()


# What went wrong: each prediction and each object is of one kind.


class FailureKind(StrEnum):
    """What became of an object or a prediction; see `failures`."""

    FOUND = "found"
    MISSED = "missed"
    DOUBLED = "doubled"
    MERGED = "merged"
    WRONG_CLASS = "wrong class"
    BACKGROUND = "background"
    VOID = "void"


@dataclass(frozen=True)
class Failures:
    """The kind of each prediction with a high enough score, in their order, and of each true object."""

    predictions: tuple[FailureKind, ...]
    targets: tuple[FailureKind, ...]

    @property
    def counts(self) -> Counter[FailureKind]:
        """How often each kind occurs; sum them over images. FOUND and MISSED count objects, all others predictions."""
        objects = [kind for kind in self.targets if kind in (FailureKind.FOUND, FailureKind.MISSED)]
        return Counter(objects) + Counter(kind for kind in self.predictions if kind != FailureKind.FOUND)


def failures(prediction: Instances, target: Instances, score: float = 0.5, iou: float = 0.5) -> Failures:
    """Sort the predictions of an image with at least `score`, and its objects, into kinds. Each has one.

    A prediction is, in this order,
    FOUND if `match_detections` gives it an object of its class, so if it is a hit of AP at this IoU;
    VOID if at least a share of `iou` of its pixels is void;
    DOUBLED if it fits (has at least that IoU with) an object of its class, which another prediction has found;
    WRONG_CLASS if it fits an object of another class;
    MERGED if it covers more than half of each of two or more objects, of any class;
    BACKGROUND otherwise.

    An object is FOUND; else WRONG_CLASS or MERGED if such a prediction fits or covers it; else MISSED.
    """
    kept = prediction.above(score).to("cpu")
    target = target.to("cpu")
    seen = kept.masks if target.void is None else kept.masks & ~target.void
    overlap, covered = _overlaps(seen, target.masks)
    same = kept.labels.numpy()[:, None] == target.labels.numpy()
    matches = match_detections(np.where(same, overlap, 0), iou)
    fits, covers = overlap >= iou, covered > 0.5

    def kind(p: int, void: float) -> FailureKind:
        if matches[p] >= 0:
            return FailureKind.FOUND
        if void >= iou:
            return FailureKind.VOID
        if (fits & same)[p].any():
            return FailureKind.DOUBLED
        if fits[p].any():
            return FailureKind.WRONG_CLASS
        return FailureKind.MERGED if covers[p].sum() > 1 else FailureKind.BACKGROUND

    kinds = [kind(p, void) for p, void in enumerate(_void_share(kept.masks, target.void))]
    of_targets = np.full(len(target), FailureKind.MISSED, dtype=object)
    for p, found in enumerate(kinds):
        if found == FailureKind.MERGED:
            of_targets[covers[p]] = FailureKind.MERGED
    for p, found in enumerate(kinds):
        if found == FailureKind.WRONG_CLASS:
            of_targets[fits[p]] = FailureKind.WRONG_CLASS
    of_targets[matches[matches >= 0]] = FailureKind.FOUND
    return Failures(tuple(kinds), tuple(of_targets.tolist()))


def _overlaps(masks: torch.Tensor, others: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of masks (P, H, W) with others (T, H, W): their IoU, and the share of the other that is covered, (P, T)."""
    a, b = masks.flatten(1).float(), others.flatten(1).float()
    common, area = (a @ b.T).double(), b.sum(1).double()
    union = a.sum(1).double()[:, None] + area - common
    return (common / union.clamp(min=1)).numpy(), (common / area.clamp(min=1)).numpy()
