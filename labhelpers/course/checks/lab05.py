"""Checks of lab 05: a library network by hand and its training; averages of IoU, best epoch, front, disagreement."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, calls, kind_of, run_function
from labhelpers.course.checks.layers import calibrated, changed, rounding
from labhelpers.evaluation.confusion import scores

# ------------------------------------------------------------ micro_macro_iou


def _micro_macro_iou(matrix: Tensor) -> tuple[float, float]:
    """matrix (K, K) int64, rows target -> all intersections over all unions; mean IoU over the classes that occur."""
    hit = matrix.diagonal().double()
    union = matrix.sum(1) + matrix.sum(0) - hit
    return (hit.sum() / union.sum()).item(), scores(matrix.numpy()).mean_iou


def _micro(hit: Tensor, row: Tensor, column: Tensor, union: Tensor) -> Tensor:
    return hit.sum() / union.sum()


def _macro(hit: Tensor, row: Tensor, column: Tensor, union: Tensor) -> Tensor:
    return (hit / union)[union > 0].mean()


def _averages(micro: Callable[..., Tensor] = _micro, macro: Callable[..., Tensor] = _macro) -> Callable:
    """Both averages by formulas of hits, row sums, column sums and unions, (K,) each."""

    def answer(matrix: Tensor) -> tuple[float, float]:
        hit, row, column = (x.double() for x in (matrix.diagonal(), matrix.sum(1), matrix.sum(0)))
        parts = hit, row, column, row + column - hit
        return micro(*parts).item(), macro(*parts).item()

    return answer


def _run_averages(check: Check, answer: Callable, case: Case) -> Parts:
    result = run_function(check, answer, case)
    if not (isinstance(result, (tuple, list)) and len(result) == 2):
        size = f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
        raise Mistake(f"it returns {kind_of(result)}{size}, expected a tuple of two floats: `return micro, macro`.")
    return Parts(zip((f"micro {case.when}".strip(), f"macro {case.when}".strip()), result, strict=True))


# Class 2 occurs nowhere, classes 3 and 5 are never predicted, class 4 is predicted but never there.
_ROWS = [[60, 3, 0, 0, 2, 0], [4, 20, 0, 0, 1, 0], [0] * 6, [6, 2, 0, 0, 0, 0], [0] * 6, [3, 0, 0, 0, 1, 0]]
_INVENTED = f"class 4 of the check's matrix {_ROWS} is predicted but not in the target (row 0, column not):"
_MISSED = f"class 3 of the check's matrix {_ROWS} is in the target but never predicted (column 0, row not):"
_TWICE = "its union is row sum + column sum, which counts each intersection twice: subtract the diagonal."
_PERCENT = "it is in percent: return a fraction between 0 and 1."
_ACCURACY = (
    "this is pixel accuracy, hits over pixels. The unions add up to more: a wrong pixel lies in two of them, that of "
    "its true class and that of the predicted one."
)
_WRONG_MICRO = [
    (_macro, "this is the macro IoU: sum the intersections and the unions first, then divide once."),
    (lambda i, r, c, u: i.sum() / r.sum(), _ACCURACY),
    (lambda i, r, c, u: i.sum() / (r + c).sum(), _TWICE),
    (lambda i, r, c, u: i.sum() / (u - i).sum(), "the diagonal is subtracted twice: row sum + column sum - hits."),
    (lambda i, r, c, u: i[1:].sum() / u[1:].sum(), "it leaves out class 0: all classes enter."),
    (lambda i, r, c, u: i[r > 0].sum() / u[r > 0].sum(), f"{_INVENTED} its union counts, too."),
    (lambda i, r, c, u: i[i > 0].sum() / u[i > 0].sum(), "it leaves out classes with no hit: their unions count, too."),
    (lambda i, r, c, u: (r * i / u).nansum() / r.sum(), "this is mean IoU weighted by frequency: sum, then divide."),
    (lambda i, r, c, u: 100 * i.sum() / u.sum(), _PERCENT),
]
_WRONG_MACRO = [
    (lambda i, r, c, u: (i / u).nan_to_num(0).mean(), "it counts the absent class as 0: leave it out of the mean."),
    (lambda i, r, c, u: (i / u).nan_to_num(1).mean(), "it counts the absent class as a perfect 1: leave it out."),
    (lambda i, r, c, u: (i / u).mean(), "it is nan, because of 0 / 0 for a class that occurs nowhere: leave that out."),
    (lambda i, r, c, u: (i / (r + c)).nanmean(), _TWICE),
    (lambda i, r, c, u: (2 * i / (r + c)).nanmean(), "this is Dice, 2 I / (row + column): divide by the union."),
    (lambda i, r, c, u: (i / u)[r > 0].mean(), f"{_INVENTED} it counts, as 0."),
    (lambda i, r, c, u: (i / u)[c > 0].mean(), f"{_MISSED} it counts, as 0."),
    (lambda i, r, c, u: (i / u)[i > 0].mean(), "it leaves out classes that occur but have no hit: they count, as 0."),
    (lambda i, r, c, u: (i / u)[1:].nanmean(), "it leaves out class 0: the background is a class like the others."),
    (lambda i, r, c, u: (i / r).nanmean(), "this is mean accuracy (diagonal / row sum): divide by the union."),
    (lambda i, r, c, u: (i / c).nanmean(), "this is mean precision (diagonal / column sum): divide by the union."),
    (lambda i, r, c, u: (r * i / u).nansum() / r.sum(), "it weights classes by frequency: each counts the same."),
    (_micro, "it is the micro IoU again: take the IoU of each class, then their mean."),
    (lambda i, r, c, u: 100 * (i / u).nanmean(), _PERCENT),
]

micro_macro_iou = Exercise(
    "micro_macro_iou",
    _micro_macro_iou,
    cases=lambda: [
        Case((torch.tensor(_ROWS),)),
        Case((torch.diag(torch.tensor([7, 0, 2])),), "of a perfect prediction"),
        Case((torch.tensor([[3, 1], [1, 1]]) * 10**10,), "of counts beyond 32 bits"),
    ],
    run=_run_averages,
    wrong=[
        *((_averages(micro=formula), hint) for formula, hint in _WRONG_MICRO),
        (_averages(micro=_macro, macro=_micro), "the two are exchanged: micro comes first, macro second."),
        *((_averages(macro=formula), hint) for formula, hint in _WRONG_MACRO),
    ],
)

# ----------------------------------------------------------------- best_epoch


def _known(losses: list[float]) -> list[float]:
    return [loss for loss in losses if not math.isnan(loss)]


def _best_epoch(val_losses: list[float]) -> int:
    """The evaluation, the first is 1, with the lowest loss: the first of several equal ones, nan left out."""
    return 1 + val_losses.index(min(_known(val_losses)))


def _first_dip(losses: list[float]) -> int:
    return next((i for i in range(1, len(losses)) if losses[i] > losses[i - 1]), len(losses))


def _epoch_cases() -> list[Case]:
    """First lists without nan, so that what is wrong in the later ones alone is about nan."""
    plain = [[0.9, 0.6, 0.7, 0.4, 0.5], [0.8, 0.5, 0.6, 0.5, 0.7], [0.4, 0.0, 0.2], [250.0, 180.0, 190.0], [2.5]]
    with_nan = calls("best_epoch", ([math.nan, 0.9, 0.4, math.nan, 0.6],), ([0.7, math.nan, 0.3, 0.8],))
    remedy = "it is right but where a loss is nan: leave nan out (`math.isnan`)."
    return calls("best_epoch", *((x,) for x in plain)) + [replace(case, remedy=remedy) for case in with_nan]


best_epoch = Exercise(
    "best_epoch",
    _best_epoch,
    cases=_epoch_cases,
    wrong=[
        (lambda x: int(np.nanargmin(x)), "it counts from 0: the first evaluation is 1."),
        (lambda x: 1 + int(np.nanargmax(x)), "this is the highest loss: the lowest is the best."),
        (lambda x: int(np.nanargmax(x)), "this is the highest loss, counted from 0: the lowest is the best."),
        (lambda x: 1 + int(np.argmin(x)), "nan counts as the lowest: leave it out (or take np.nanargmin)."),
        (lambda x: int(np.argmin(x)), "nan counts as the lowest, and it counts from 0: leave nan out, count from 1."),
        (lambda x: 1 + x.index(min(x)), "nothing is less than nan, so min() keeps it where it comes first."),
        (lambda x: x.index(min(x)), "it counts from 0, and min() keeps a nan that comes first: leave nan out."),
        (lambda x: 1 + _known(x).index(min(_known(x))), "nan is taken out too early, so all places behind it move up."),
        (lambda x: len(x) - x[::-1].index(min(_known(x))), "of equal losses it takes the last: the first counts."),
        (len, "this is the last evaluation: return the one with the lowest loss."),
        (lambda x: min(_known(x)), "this is the lowest loss itself: return at which evaluation it was reached."),
        (_first_dip, "it stops at the first rise: the loss may fall again, look at all evaluations."),
    ],
)

# --------------------------------------------------------------- pareto_front

Front = Callable[[list[float], list[float]], list[int]]


def _unless(beats: Callable[[float, float, float, float], bool]) -> Front:
    """The models that no other beats, fastest first; `beats` has latency and score of the other, then of the one."""

    def front(latency: list[float], score: list[float]) -> list[int]:
        models = list(enumerate(zip(latency, score, strict=True)))
        kept = [i for i, one in models if not any(beats(*other, *one) for j, other in models if j != i)]
        return sorted(kept, key=lambda i: latency[i])

    return front


def _pareto_front(latency: list[float], score: list[float]) -> list[int]:
    """Indices of the models that none beats (not slower, not worse, better in one of the two), fastest first."""
    return _unless(lambda a, s, b, t: a <= b and s >= t and (a, s) != (b, t))(latency, score)


def _ends(latency: list[float], score: list[float]) -> list[int]:
    fastest, best = latency.index(min(latency)), score.index(max(score))
    return [fastest] if fastest == best else [fastest, best]


def _one_of_equals(keep: Callable[[list[int]], int]) -> Front:
    def front(latency: list[float], score: list[float]) -> list[int]:
        groups: dict[tuple[float, float], list[int]] = {}
        for i in _pareto_front(latency, score):
            groups.setdefault((latency[i], score[i]), []).append(i)
        return [keep(group) for group in groups.values()]

    return front


def _above_neighbour(latency: list[float], score: list[float]) -> list[int]:
    order = sorted(range(len(score)), key=lambda i: (latency[i], -score[i]))
    return order[:1] + [i for before, i in pairwise(order) if score[i] > score[before]]


def _hull(latency: list[float], score: list[float]) -> list[int]:
    points = {i: (latency[i], score[i]) for i in _pareto_front(latency, score)}

    def below(x: float, y: float) -> bool:
        spans = ((a, b) for a in points.values() for b in points.values() if a[0] < x < b[0])
        return any(y < a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0]) - 1e-9 for a, b in spans)

    return [i for i, point in points.items() if not below(*point)]


def _pareto_cases() -> list[Case]:
    """Equal latencies, equal scores, equal models, one below the straight line between two; then many ties."""
    latency = [30.0, 10.0, 20.0, 20.0, 50.0, 30.0, 20.0, 60.0, 55.0]
    score = [0.70, 0.50, 0.45, 0.62, 0.70, 0.66, 0.62, 0.80, 0.71]
    ties = [([10.0 * x for x in fast], [x / 8 for x in good]) for fast, good in torch.randint(1, 6, (4, 2, 9)).tolist()]
    models = [(latency, score), *ties, ([3.0, 2.0], [0.0, 0.0]), ([5.0], [0.5])]
    return [Case(case, what="pareto_front(latency={}, score={})".format(*case)) for case in models]


def _run_front(check: Check, answer: Callable, case: Case) -> list[int]:
    result = run_function(check, answer, case)
    if isinstance(result, set):
        raise Mistake("it returns a set, which has no order: return a list, the fastest model first.")
    if not isinstance(result, (list, tuple)):
        convert = " Convert it with `.tolist()`." if isinstance(result, (Tensor, np.ndarray)) else ""
        raise Mistake(f"it returns {kind_of(result)}, expected a list of indices.{convert}")
    for value in result:
        if isinstance(value, (bool, np.bool_)):
            raise Mistake("it returns True and False for the models: return the indices of those on the front.")
        if kind_of(value) != "a Python int":
            raise Mistake(f"the list holds {kind_of(value)}: return the models' indices, not their numbers or names.")
    latency, found = case.args[0], sorted(map(int, result))
    if found == sorted(_pareto_front(*case.args)) and any(latency[i] > latency[j] for i, j in pairwise(result)):
        raise Mistake(f"{case.what} is {result}: the right models in another order: by latency, the fastest first.")
    return found


_BOTH = "not slower, not worse, and better in one of the two is enough to beat a model."
_EQUAL = "equal models on the front {}: neither beats the other, so both stay."
_WRONG_BEATS: list[tuple[Callable[[float, float, float, float], bool], str]] = [
    (lambda a, s, b, t: a < b and s > t, f"only better in both counts as beating: {_BOTH}"),
    (lambda a, s, b, t: a < b and s >= t, "of two models equally fast, the worse one stays: it is beaten."),
    (lambda a, s, b, t: a <= b and s > t, "of two models with equal scores, the slower one stays: it is beaten."),
    (lambda a, s, b, t: a < b or s > t, f"better in one alone counts as beating (`or`): {_BOTH}"),
    (lambda a, s, b, t: a <= b and s >= t, _EQUAL.format("throw each other out")),
    (lambda a, s, b, t: a <= b and s <= t and (a, s) != (b, t), "a higher score is better, not a lower."),
    (lambda a, s, b, t: a >= b and s >= t and (a, s) != (b, t), "a lower latency is better, not a higher."),
    (
        lambda a, s, b, t: a >= b and s <= t and (a, s) != (b, t),
        "better and worse are exchanged: what is fast and good beats a model.",
    ),
]

pareto_front = Exercise(
    "pareto_front",
    _pareto_front,
    cases=_pareto_cases,
    run=_run_front,
    wrong=[
        (lambda x, y: [1 + i for i in _pareto_front(x, y)], "the indices count from 1: they count from 0 here."),
        (_ends, "these are the fastest and the best alone: between them lie models that none beats either."),
        (lambda x, y: list(range(len(y))), "this is every model: leave out those that another beats."),
        (
            lambda x, y: sorted(set(range(len(y))) - set(_pareto_front(x, y))),
            "these are the models that another one beats: return the others.",
        ),
        (lambda x, y: [], "it is empty. Is each model compared with itself, or a model with its equal?"),
        *((_unless(beats), hint) for beats, hint in _WRONG_BEATS),
        (_one_of_equals(min), _EQUAL.format("are one too few, only the first is kept")),
        (_one_of_equals(max), _EQUAL.format("are one too few, only the last is kept")),
        (_above_neighbour, "it looks at the next faster model alone: compare with all of them."),
        (_hull, "these are the corners of the convex hull: a model below the line between two others is not beaten."),
    ],
)

# --------------------------------------------------------------- disagreement


def _disagreement(predictions: Tensor, num_classes: int) -> Tensor:
    """predictions (M, H, W) uint8 -> float32 (H, W), the share of models not of the most frequent opinion."""
    votes = F.one_hot(predictions.long(), num_classes).sum(0)
    return 1 - votes.amax(-1) / len(predictions)


def _of_votes(formula: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """An answer from a formula of the votes (K, H, W) and the number of models."""
    return lambda p, k: formula(F.one_hot(p.long(), k).permute(0, 3, 1, 2).sum(0), len(p))


def _of_labels(formula: Callable[[Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """An answer from a formula of the labels (M, H, W) as float32."""
    return lambda p, k: formula(p.float())


def _disagreement_cases() -> list[Case]:
    guesses = torch.randint(0, 4, (7, 5, 6), dtype=torch.uint8)
    far = torch.tensor([0, 3, 20], dtype=torch.uint8)[torch.randint(0, 3, (4, 5, 8))]
    cases: dict[str, tuple[Any, ...]] = {
        "of seven models": (guesses, 4),
        "of four models and labels up to 20": (far, 21),
        "of models that all agree": (guesses[:1].expand(3, -1, -1).clone(), 4),
        "of one model alone": (guesses[:1], 4),
    }
    return [Case(args, when, "the map") for when, args in cases.items()]


_NAMES = "labels are names, not amounts: 1 and 20 are as different as 1 and 2. Count how often each label occurs."
_MODEL = "it compares with the {} model: compare with the most frequent label at the pixel."
_PAIRS = "it compares models in pairs: compare each with the most frequent label at the pixel."
_DISTINCT = "it counts different labels: how many models vote for which counts, too."
_DIVIDE = "it divides by the number of {}: divide by the number of models."
_WRONG_VOTES = [
    (lambda v, m: v.amax(0) / m, "this is the share that agrees: the disagreement is 1 minus that, 0 where all agree."),
    (lambda v, m: m - v.amax(0), "this is a number of models: divide by how many there are."),
    (lambda v, m: v.amax(0), "these are the votes for the most frequent label: divide by the models, then 1 minus."),
    (lambda v, m: v.argmax(0), "this is the most frequent label: return the share that does not vote for it."),
    (lambda v, m: (v > 0).sum(0), "this is the number of different labels: how many vote for which counts, too."),
    (lambda v, m: (v > 0).sum(0) / m, _DISTINCT),
    (lambda v, m: ((v > 0).sum(0) - 1) / (m - 1), _DISTINCT),
    (lambda v, m: ((v > 0).sum(0) > 1).float(), "it is 1 wherever not all agree: return the share of the models."),
    (lambda v, m: torch.special.entr(v / m).sum(0), "this is the entropy of the votes: return the share that differs."),
    (lambda v, m: 1 - v.amax(0) / len(v), _DIVIDE.format("classes")),
    (lambda v, m: (m - v.amax(0)) / len(v), _DIVIDE.format("classes")),
    (lambda v, m: (m - v.amax(0)) / (m - 1), _DIVIDE.format("models minus 1")),
    (lambda v, m: 1 - v[1:].amax(0) / m, "votes for class 0 are not counted: background is an opinion, too."),
    (lambda v, m: 1 - v[:-1].amax(0) / m, "votes for the last class are not counted: labels go to num_classes - 1."),
    (lambda v, m: 1 - v.sort(0).values[-2] / m, "this is 1 minus the second most frequent: take the most frequent."),
    (
        lambda v, m: v.sort(0).values[-2:].diff(dim=0)[0] / m,
        "this is the lead of the first label over the second: take 1 - the share of the first.",
    ),
    (lambda v, m: (1 - v.amax(0) / m).mean(), "this is one number for the whole image: return one for each pixel."),
    (lambda v, m: 100 * (1 - v.amax(0) / m), _PERCENT),
]
_WRONG_LABELS = [
    *((lambda p, n=n: p.std(0, correction=n), f"this is their standard deviation: {_NAMES}") for n in (0, 1)),
    *((lambda p, n=n: p.var(0, correction=n), f"this is their variance: {_NAMES}") for n in (0, 1)),
    (lambda p: (p != p.mean(0).round()).float().mean(0), f"it compares with the mean label, rounded: {_NAMES}"),
    (lambda p: (p != p.median(0).values).float().mean(0), f"it compares with the median label: {_NAMES}"),
    (lambda p: (p[:, None] != p[None]).float().mean((0, 1)), _PAIRS),
    (lambda p: (p[:, None] != p[None]).float().sum((0, 1)) / (len(p) * (len(p) - 1)), _PAIRS),
    (lambda p: (p != p[0]).float().mean(0), _MODEL.format("first")),
    (lambda p: (p[1:] != p[0]).float().mean(0), _MODEL.format("first")),
    (lambda p: (p != p[-1]).float().mean(0), _MODEL.format("last")),
    (lambda p: (p[:-1] != p[-1]).float().mean(0), _MODEL.format("last")),
]

disagreement = Exercise(
    "disagreement",
    _disagreement,
    cases=_disagreement_cases,
    errors={
        "one_hot is only applicable to index tensor": "one_hot wants int64 labels: predictions.long().",
        "must be smaller than num_classes": "one_hot counts labels up to num_classes - 1.",
        "bool value of Tensor": "a comparison of tensors is a tensor of True and False: take its mean over the models.",
    },
    wrong=[
        *((_of_votes(formula), hint) for formula, hint in _WRONG_VOTES),
        *((_of_labels(formula), hint) for formula, hint in _WRONG_LABELS),
    ],
)

# ------------------------------------------- HandUNet, count_parts, freeze_encoder

_ENCODER = "mobilenet_v2"  # quick to build


@lru_cache(maxsize=1)
def _library_unet() -> tuple[Tensor, Any]:
    """Images (B, 3, H, W) and smp's U-Net of five classes, with statistics that fit them."""
    import segmentation_models_pytorch as smp

    images = torch.randn(2, 3, 64, 96)
    return images, calibrated(smp.Unet(_ENCODER, encoder_weights=None, classes=5), images)


class _HandUNet(nn.Module):
    """smp's U-Net: images (B, 3, H, W), sides multiples of 32 -> logits (B, num_classes, H, W)."""

    def __init__(self, encoder_name: str, num_classes: int):
        super().__init__()
        import segmentation_models_pytorch as smp
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        self.encoder = smp.encoders.get_encoder(encoder_name, weights=None)
        self.decoder = UnetDecoder(self.encoder.out_channels, decoder_channels=(256, 128, 64, 32, 16))
        self.segmentation_head = SegmentationHead(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.segmentation_head(self.decoder(self.encoder(images)))


def _run_hand_unet(check: Check, answer: Callable, case: Case) -> Tensor:
    """The logits, with the weights of the library's network."""
    images, right = _library_unet()
    with _without_downloads():
        model = check.call(answer, _ENCODER, 5, when="when it is built")
    check.that(isinstance(model, nn.Module), f"building it gives {kind_of(model)}, expected an nn.Module.")
    expected, found = right.state_dict(), model.state_dict()
    for name in ("encoder", "decoder", "segmentation_head"):
        has = any(key.startswith(f"{name}.") for key in found)
        check.that(has, f"it has no `self.{name}` with weights: encoder, decoder, segmentation_head are smp's names.")
    other = next(iter(sorted(expected.keys() ^ found.keys())), "")
    check.that(
        not other,
        f"its state dict and that of smp.Unet differ in {other}: encoder, decoder and segmentation_head, nothing else.",
    )
    for key, tensor in expected.items():
        check.that(
            found[key].shape == tensor.shape,
            f"{key} has the shape {tuple(found[key].shape)}, in smp.Unet {tuple(tensor.shape)}: decoder_channels are "
            "(256, 128, 64, 32, 16), and the head makes num_classes of 16 channels by a 3 x 3 convolution.",
        )
    model.load_state_dict(expected)
    with torch.no_grad():
        return check.call(model.eval(), images)


@contextmanager
def _without_downloads() -> Iterator[None]:
    """Inside, the hub's library looks at its cache alone: an encoder that asks for weights fails instead of loading."""
    from huggingface_hub import constants

    with mock.patch.object(constants, "HF_HUB_OFFLINE", True):
        yield


def _hand(forward: Callable[[Any, list[Tensor]], Tensor]) -> type:
    """The answer with another way from the encoder's features to the logits."""
    return changed(_HandUNet, forward=lambda self, images: forward(self, self.encoder(images)))


_NO_WEIGHTS = "get_encoder asks the network for weights: weights=None here, they are loaded afterwards."

hand_unet = Exercise(
    "HandUNet",
    _HandUNet,
    cases=lambda: [Case((), what="the result")],
    run=_run_hand_unet,
    tolerance=rounding,
    errors={
        "offline mode": _NO_WEIGHTS,
        "disabled": _NO_WEIGHTS,
        "LocalEntryNotFound": _NO_WEIGHTS,
        "Wrong encoder name": "take the encoder whose name is handed over: get_encoder(encoder_name, weights=None).",
        "object has no attribute 'shape'": "the encoder gives a list of maps, for the decoder as a whole.",
    },
    wrong=[
        (
            _hand(lambda m, x: m.segmentation_head(m.decoder(x)).softmax(1)),
            "a softmax follows the head: take it out.",
        ),
        (_hand(lambda m, x: m.segmentation_head(m.decoder(x)).sigmoid()), "a sigmoid follows the head: take it out."),
        (
            _hand(lambda m, x: m.segmentation_head(m.decoder([*x[:-1], torch.zeros_like(x[-1])]))),
            "the encoder's last feature does not reach the decoder: hand over the whole list.",
        ),
        (
            _hand(lambda m, x: m.segmentation_head(m.decoder([*map(torch.zeros_like, x[:-1]), x[-1]]))),
            "the skips are empty: hand the encoder's whole list of features to the decoder.",
        ),
    ],
)


class _Parts(nn.Module):
    """An encoder with batch norm, a decoder and a head; remembers in which mode encoder and decoder were run."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.decoder = nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.segmentation_head = nn.Conv2d(6, 4, 1)
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append((self.encoder.training, self.decoder.training))
        return self.segmentation_head(self.decoder(self.encoder(images)))


def _counted(
    parameters: Callable[[nn.Module], Iterable[Tensor]] = nn.Module.parameters,
    parts: Callable[[nn.Module], Iterable[tuple[str, nn.Module]]] = nn.Module.named_children,
    number: Callable[[Tensor], int] = Tensor.numel,
) -> Callable[[nn.Module], dict[str, int]]:
    return lambda model: {name: sum(map(number, parameters(part))) for name, part in parts(model)}


def _count_parts(model: nn.Module) -> dict[str, int]:
    """The number of parameters of each direct child, by its name."""
    return _counted()(model)


def _counts_of_one_frozen() -> Iterator[Case]:
    yield Case((nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)), nn.ReLU()),))
    model = _Parts()
    model.encoder.requires_grad_(False)
    yield Case((model,), "for a network whose encoder is frozen")


count_parts = Exercise(
    "count_parts",
    _count_parts,
    cases=_counts_of_one_frozen,
    wrong=[
        (
            _counted(lambda m: (p for p in m.parameters() if p.requires_grad)),
            "frozen parameters are left out: count them, too.",
        ),
        (
            _counted(lambda m: m.state_dict().values()),
            "batch norm's statistics (of the state dict) are counted: they are no parameters.",
        ),
        (_counted(number=lambda tensor: 1), "these are numbers of tensors: add up p.numel()."),
        (
            _counted(parts=nn.Module.named_modules),
            "it lists all modules, inner ones and the network itself: named_children() gives the direct ones.",
        ),
        (
            lambda model: {name: p.numel() for name, p in model.named_parameters()},
            "it lists each tensor: add up those of a child.",
        ),
        (
            lambda model: sum(p.numel() for p in model.parameters()),
            "this is one number: return a dictionary with an entry for each child.",
        ),
    ],
)


def _frozen(
    freeze: Callable[[Any], object] = lambda m: m.encoder.requires_grad_(False),
    chosen: Callable[[Any], Iterable] = lambda m: (p for p in m.parameters() if p.requires_grad),
) -> Callable[[Any], list]:
    def answer(model: Any) -> list:
        freeze(model)
        return list(chosen(model))

    return answer


def _freeze_encoder(model: Any) -> list[nn.Parameter]:
    """No parameter of model.encoder asks for a gradient any more; the others, for the optimizer."""
    return _frozen()(model)


def _run_freeze(check: Check, answer: Callable, case: Case) -> Parts:
    """Which parameters ask for a gradient, and which are returned, by their names."""
    model = _Parts()
    names = {id(p): name for name, p in model.named_parameters()}
    given = check.call(answer, model)
    listed = isinstance(given, Iterable) and not isinstance(given, (Tensor, dict))
    check.that(listed, f"it returns {kind_of(given)}, expected a list of parameters.")
    returned = [names.get(id(p), "") for p in given]
    check.that(all(returned), "it returns what is no parameter of the network: p for p in model.parameters() if ...")
    return Parts(
        {
            "the list of what asks for a gradient": [name for name, p in model.named_parameters() if p.requires_grad],
            "the list of what is returned": sorted(returned),
        }
    )


freeze_encoder = Exercise(
    "freeze_encoder",
    _freeze_encoder,
    cases=lambda: [Case(())],
    run=_run_freeze,
    wrong=[
        (_frozen(lambda m: m.encoder.eval()), "eval() holds statistics only: model.encoder.requires_grad_(False)."),
        (_frozen(chosen=nn.Module.parameters), "frozen parameters are returned, too: those with p.requires_grad only."),
        (_frozen(lambda m: m.requires_grad_(False)), "the whole network is frozen: only model.encoder."),
        (
            _frozen(chosen=lambda m: m.encoder.parameters()),
            "these are the frozen ones: return those that still ask for a gradient.",
        ),
        (
            _frozen(chosen=lambda m: m.segmentation_head.parameters()),
            "the decoder is left out: return all that still ask for a gradient.",
        ),
        (
            _frozen(
                lambda m: [p.requires_grad_(False) for n in ("encoder", "decoder") for p in getattr(m, n).parameters()]
            ),
            "the decoder is frozen, too: only model.encoder.",
        ),
        (
            _frozen(lambda m: m.decoder.requires_grad_(False)),
            "the decoder is frozen: freeze model.encoder.",
        ),
    ],
)

# -------------------------------------------------------------- train_decoder


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, ignore_index=255)


def _decoder_loop(
    loss: Callable[[Tensor, Tensor], Tensor] = _cross_entropy,
    zero: bool = True,
    best: Callable[[list[float]], bool] = lambda losses: losses[-1] == min(losses),
    load: bool = True,
    number: Callable[[Tensor], Any] = Tensor.item,
) -> Callable:
    """The answer with one of its parts in another way."""

    def answer(model: Any, batches: Iterable, optimizer: Any, validate: Callable, eval_every: int) -> tuple:
        losses, val_losses, kept = [], [], {}
        for step, (images, targets) in enumerate(batches, start=1):
            model.train()
            model.encoder.eval()
            value = loss(model(images), targets)
            if zero:
                optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(number(value))
            if step % eval_every == 0:
                val_losses.append(validate(model.eval()))
                if best(val_losses):
                    kept = copy.deepcopy(model.state_dict())
        if load:
            model.load_state_dict(kept)
        model.eval()
        return losses, val_losses

    return answer


def _train_decoder(
    model: Any, batches: Iterable, optimizer: Any, validate: Callable, eval_every: int
) -> tuple[list[float], list[float]]:
    """Cross-entropy over `batches` (images, targets), the encoder in eval mode -> losses, validation losses.

    The model ends with the weights of the lowest validation loss, in eval mode.
    """
    return _decoder_loop()(model, batches, optimizer, validate, eval_every)


def _seven_batches() -> Iterator[Case]:
    batches = [(torch.randn(2, 3, 6, 7), torch.randint(0, 4, (2, 6, 7))) for _ in range(7)]
    for _, targets in batches:
        targets[:, :2] = 255
    yield Case((_Parts(), batches, [0.9, 0.5, 0.7]))


def _run_decoder_loop(check: Check, answer: Callable, case: Case) -> Parts:
    """Losses, and the weights and statistics at the end; in which mode each part ran is checked on the way."""
    model, batches, promised = copy.deepcopy(case.args[0]), *case.args[1:]
    model.encoder.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    asked: list[bool] = []

    def validate(network: Any) -> float:
        check.that(network is model, f"validate is given {kind_of(network)}: hand the model over.")
        check.that(len(asked) < len(promised), "validate is called too often: once after every eval_every steps.")
        asked.append(any(module.training for module in network.modules()))
        return promised[len(asked) - 1]

    given = check.call(answer, model, batches, optimizer, validate, 2)
    pair = isinstance(given, (tuple, list)) and len(given) == 2 and isinstance(given[0], list)
    check.that(pair, f"it returns {kind_of(given)}, expected two lists: losses, and validation losses.")
    losses, val_losses = given
    check.that(len(losses) == len(batches), f"it returns {len(losses)} losses for {len(batches)} batches: one a step.")
    check.that(
        not any(encoder for encoder, _ in model.modes),
        "the encoder runs in train mode, and its batch norm's statistics move: model.encoder.eval() after "
        "model.train().",
    )
    check.that(
        all(decoder for _, decoder in model.modes),
        "the decoder runs in eval mode: model.train() at the beginning of each step, for validation has changed it.",
    )
    check.that(not any(asked), "validate gets a model in train mode: validate(model.eval()).")
    check.that(len(asked) == 3, f"validate is called {len(asked)} times in 7 steps with eval_every=2, expected 3.")
    check.that(not any(module.training for module in model.modules()), "the model ends in train mode: model.eval().")
    found = {f"the loss of step {step}": loss for step, loss in enumerate(losses, 1)}
    found |= {"the list of validation losses": list(val_losses)}
    return Parts(found | {f"at the end {name}": tensor for name, tensor in model.state_dict().items()})


train_decoder = Exercise(
    "train_decoder",
    _train_decoder,
    cases=_seven_batches,
    run=_run_decoder_loop,
    errors={
        "255 is out of bounds": "void (255) reaches cross_entropy as a class: pass ignore_index=255.",
        "backward through the graph a second time": "the graph of an earlier step is kept: compute the loss anew.",
    },
    wrong=[
        (
            _decoder_loop(load=False),
            "it ends with the last weights: load those of the lowest validation loss (kept by copy.deepcopy, for "
            "later steps change what state_dict() gives).",
        ),
        (
            _decoder_loop(best=lambda losses: losses[-1] == max(losses)),
            "the weights of the highest validation loss are kept: the lowest is the best.",
        ),
        (_decoder_loop(zero=False), "gradients of the steps before are still there: optimizer.zero_grad()."),
        (
            _decoder_loop(loss=lambda x, y: F.cross_entropy(x, torch.where(y == 255, 0, y))),
            "void pixels (255) are trained as class 0: ignore_index=255.",
        ),
        (
            _decoder_loop(loss=partial(F.cross_entropy, ignore_index=255, reduction="sum")),
            "the loss is a sum over pixels: take the mean.",
        ),
        (
            _decoder_loop(loss=lambda x, y: F.cross_entropy(x.softmax(1), y, ignore_index=255)),
            "there is a softmax before cross_entropy, which applies its own: give it the logits.",
        ),
        (_decoder_loop(number=lambda loss: loss), "the losses are tensors with their graphs: loss.item()."),
    ],
)
