"""Checks of lab 05: smp's U-Net of its parts, training on a frozen encoder, averages of IoU, the Pareto front."""

import copy
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import combinations, pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, calls, kind_of, run_function
from labhelpers.course.checks.layers import activated, calibrated, check_gradients, make, rounding
from labhelpers.evaluation.confusion import confusion_matrix

# ------------------------------------------------------------ micro_macro_iou


def _micro_macro_iou(matrix: Tensor) -> tuple[float, float]:
    """matrix (K, K) int64, rows target -> all intersections over all unions; mean IoU over the classes that occur."""
    hit, row, column = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
    union = row + column - hit
    micro = hit.sum() / union.sum()
    macro = (hit / union).nanmean()
    return micro.item(), macro.item()


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
_MICRO, _MACRO = "hit.sum() / union.sum()", "(hit / union).nanmean()"
_WEIGHTED = "(row * hit / union).nansum() / row.sum()"

micro_macro_iou = Exercise(
    "micro_macro_iou",
    _micro_macro_iou,
    cases=lambda: [
        Case((torch.tensor(_ROWS),)),
        Case((torch.diag(torch.tensor([7, 0, 2])),), "of a perfect prediction"),
        Case((torch.tensor([[3, 1], [1, 1]]) * 10**10,), "of counts beyond 32 bits"),
    ],
    run=_run_averages,
    wrong={
        "this is the macro IoU: sum the intersections and the unions first, then divide once.": {_MICRO: _MACRO},
        "this is pixel accuracy, or Dice (equal here). The unions add up to more: a wrong pixel lies in two of them, "
        "that of its true class and that of the predicted one.": {"/ union.sum()": "/ row.sum()"},
        "its union is row sum + column sum, which counts each intersection twice: subtract the diagonal.": {
            "row + column - hit": "row + column"
        },
        "the diagonal is subtracted twice: row sum + column sum - hits.": {"union.sum()": "(union - hit).sum()"},
        "it leaves out class 0: all classes enter.": {_MICRO: "hit[1:].sum() / union[1:].sum()"},
        f"{_INVENTED} its union counts, too.": {_MICRO: "hit.sum() / union[row > 0].sum()"},
        "it leaves out classes with no hit: their unions count, too.": {_MICRO: "hit.sum() / union[hit > 0].sum()"},
        "this is mean IoU weighted by frequency: sum, then divide.": {_MICRO: _WEIGHTED},
        "it is in percent: return a fraction between 0 and 1.": {_MICRO: f"100 * {_MICRO}", _MACRO: f"100 * {_MACRO}"},
        "the two are exchanged: micro comes first, macro second.": {_MICRO: _MACRO, _MACRO: _MICRO},
        "it counts the absent class as 0: leave it out of the mean.": {"nanmean()": "nan_to_num(0).mean()"},
        "it counts the absent class as a perfect 1: leave it out.": {"nanmean()": "nan_to_num(1).mean()"},
        "it is nan, because of 0 / 0 for a class that occurs nowhere: leave that out.": {"nanmean": "mean"},
        "this is Dice, 2 I / (row + column): divide by the union.": {"(hit / union)": "(2 * hit / (row + column))"},
        f"{_INVENTED} it counts, as 0.": {"/ union)": "/ union)[row > 0]"},
        f"{_MISSED} it counts, as 0.": {"/ union)": "/ union)[column > 0]"},
        "it leaves out classes that occur but have no hit: they count, as 0.": {"/ union)": "/ union)[hit > 0]"},
        "it leaves out class 0: the background is a class like the others.": {"/ union)": "/ union)[1:]"},
        "this is mean accuracy (diagonal / row sum): divide by the union.": {"/ union)": "/ row)"},
        "this is mean precision (diagonal / column sum): divide by the union.": {"/ union)": "/ column)"},
        "it weights classes by frequency: each counts the same.": {_MACRO: _WEIGHTED},
        "it is the micro IoU again: take the IoU of each class, then their mean.": {_MACRO: _MICRO},
    },
)

# --------------------------------------------------------------- always_first


def _always_first(matrix: Tensor) -> Tensor:
    """matrix (K, K), rows target -> that of a network which says class 0 everywhere on the same images."""
    always = torch.zeros_like(matrix)
    always[:, 0] = matrix.sum(1)
    return always


always_first = Exercise(
    "always_first",
    _always_first,
    cases=lambda: [
        Case((torch.tensor(_ROWS),), what="the matrix"),
        Case((torch.diag(torch.tensor([7, 0, 2])),), "of a perfect prediction", "the matrix"),
    ],
    wrong={
        "column 0 holds how often each class was predicted: the target's counts are the row sums, matrix.sum(1).": {
            "matrix.sum(1)": "matrix.sum(0)"
        },
        "row 0 is filled: what is predicted stands in the columns, and class 0 is predicted everywhere.": {
            "always[:, 0]": "always[0]"
        },
        "only what the network had right is counted: all pixels of the images stay, matrix.sum(1).": {
            "matrix.sum(1)": "matrix.diagonal()"
        },
        "only what the network itself called class 0 is counted: sum each row.": {"matrix.sum(1)": "matrix[:, 0]"},
        "the other columns still hold the network's predictions: no other class is predicted any more.": {
            "torch.zeros_like(matrix)": "matrix.clone()"
        },
        "all pixels are counted as class 0 in the target: the target stays as it is, in the rows.": {
            "always[:, 0] = matrix.sum(1)": "always[0, 0] = matrix.sum()"
        },
        "these are the row sums alone: they go into column 0 of a matrix of zeros.": {
            "return always": "return matrix.sum(1)"
        },
    },
)

# ----------------------------------------------------------------- best_epoch


def _best_epoch(val_losses: list[float]) -> int:
    """The evaluation, the first is 1, with the lowest loss: the first of several equal ones, nan left out."""
    best, lowest = 0, math.inf
    for number, loss in enumerate(val_losses, start=1):
        if loss < lowest:
            best, lowest = number, loss
    return best


def _epoch_cases() -> list[Case]:
    """First lists without nan, so that what is wrong in the later ones alone is about nan."""
    plain = [[0.9, 0.6, 0.7, 0.4, 0.5], [0.8, 0.5, 0.6, 0.5, 0.7], [0.4, 0.0, 0.2], [25e3, 18e3, 19e3], [2.5]]
    with_nan = calls("best_epoch", ([math.nan, 0.9, 0.4, math.nan, 0.6],), ([0.7, math.nan, 0.3, 0.8],))
    remedy = "it is right but where a loss is nan: leave nan out (`math.isnan`)."
    return calls("best_epoch", *((x,) for x in plain)) + [replace(case, remedy=remedy) for case in with_nan]


_START = "the lowest so far starts with a fixed number, which losses may exceed: start with math.inf."
_FIXED: list[Any] = [{"0, math.inf": f"{best}, {lowest}"} for lowest in (0, 1, 1000) for best in (0, 1)]

best_epoch = Exercise(
    "best_epoch",
    _best_epoch,
    cases=_epoch_cases,
    wrong={
        "it counts from 0: the first evaluation is 1.": {"start=1": "start=0"},
        "this is the highest loss: the lowest is the best.": lambda x: 1 + int(np.nanargmax(x)),
        "this is the highest loss, counted from 0: the lowest is the best.": lambda x: int(np.nanargmax(x)),
        "nan counts as the lowest: leave it out (or take np.nanargmin).": lambda x: 1 + int(np.argmin(x)),
        "nan counts as the lowest, and it counts from 0: leave nan out, count from 1.": lambda x: int(np.argmin(x)),
        "nothing is less than nan, so min() keeps it where it comes first, as does a loop that starts with the first "
        "loss: leave nan out, start with math.inf.": {"0, math.inf": "1, val_losses[0]"},
        "it counts from 0, and min() keeps a nan that comes first: leave nan out.": lambda x: x.index(min(x)),
        "nan is taken out too early, so all places behind it move up.": {
            "enumerate(val_losses": "enumerate([loss for loss in val_losses if not math.isnan(loss)]"
        },
        "of equal losses it takes the last: the first counts.": {"loss <": "loss <="},
        "of equal losses it takes the last (`<=`), and nothing is less than a nan that comes first: `<`, and start "
        "with math.inf.": {"0, math.inf": "1, val_losses[0]", "loss <": "loss <="},
        _START: _FIXED,
        f"{_START} And of equal losses the first counts: `<`.": [{**fixed, "loss <": "loss <="} for fixed in _FIXED],
        "this is the last evaluation: return the one with the lowest loss.": len,
        "this is the lowest loss itself: return at which evaluation it was reached.": {"return best": "return lowest"},
        "it stops at the first rise: the loss may fall again, look at all evaluations.": lambda x: next(
            (i for i in range(1, len(x)) if x[i] > x[i - 1]), len(x)
        ),
    },
)

# --------------------------------------------------------------- pareto_front


def _pareto_front(latency: list[float], score: list[float]) -> list[int]:
    """Indices of the models that none beats (not slower, not worse, better in one of the two), fastest first."""

    def beats(i: int, j: int) -> bool:
        no_worse = latency[i] <= latency[j] and score[i] >= score[j]
        better = latency[i] < latency[j] or score[i] > score[j]
        return no_worse and better

    models = range(len(latency))
    front = [j for j in models if not any(beats(i, j) for i in models if i != j)]
    return sorted(front, key=lambda i: latency[i])


def _sweep(better: Callable, ties: int, latency: list[float], score: list[float], last: int = 0) -> list[int]:
    """Sorted by latency, of equal ones by `ties` * score: what is better than all, or the `last`, before it."""
    order = sorted(range(len(score)), key=lambda i: (latency[i], ties * score[i]))
    return [i for place, i in enumerate(order) if all(better(score[i], score[j]) for j in order[:place][-last:])]


def _hull(latency: list[float], score: list[float]) -> list[int]:
    front = _pareto_front(latency, score)
    lines = [([latency[a], latency[b]], [score[a], score[b]]) for a, b in combinations(front, 2)]
    return [i for i in front if all(score[i] >= np.interp(latency[i], *line, left=0) - 1e-9 for line in lines)]


def _pareto_cases() -> list[Case]:
    """Equal latencies, equal scores, equal models, one below the straight line between two; then many ties."""
    latency = [30.0, 10.0, 20.0, 20.0, 50.0, 30.0, 20.0, 60.0, 55.0]
    score = [0.70, 0.50, 0.45, 0.62, 0.70, 0.66, 0.62, 0.80, 0.71]
    ties = [([10.0 * x for x in fast], [x / 8 for x in good]) for fast, good in torch.randint(1, 6, (4, 2, 9)).tolist()]
    models = [(latency, score), *ties, ([3.0, 2.0], [0.0, 0.0]), ([5.0], [0.5])]
    return [Case(case, what="pareto_front(latency={}, score={})".format(*case)) for case in models]


def _run_front(check: Check, answer: Callable, case: Case) -> list[int]:
    """The list as it is; the right models, of which equally fast ones come in any order, as the reference's list."""
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
    latency, found, expected = case.args[0], list(map(int, result)), _pareto_front(*case.args)
    if sorted(found) != sorted(expected):
        return found
    if any(latency[i] > latency[j] for i, j in pairwise(found)):
        raise Mistake(f"{case.what} is {found}: the right models in another order: by latency, the fastest first.")
    return expected


_BOTH = "not slower, not worse, and better in one of the two is enough to beat a model."
_WORSE_FIRST = "of equally fast models a worse one stays where it comes first, and "
_SORT = "sort by latency, then by falling score; equal models both stay."
_EQUAL = "equal models on the front {}: neither beats the other, so both stay."
_WRONG_BEATS = {
    "these are the models that another one beats: return the others.": {"if not any": "if any"},
    f"only better in both counts as beating: {_BOTH}": {" or score": " and score"},
    "of two models equally fast, the worse one stays: it is beaten.": {"<=": "<"},
    "of two models with equal scores, the slower one stays: it is beaten.": {">=": ">"},
    f"better in one alone counts as beating (`or`): {_BOTH}": {"no_worse and better": "better"},
    _EQUAL.format("throw each other out"): {"no_worse and better": "no_worse"},
    "a higher score is better, not a lower.": {"score[i] >": "score[i] <"},
    "a lower latency is better, not a higher.": {"latency[i] <": "latency[i] >"},
    "better and worse are exchanged: what is fast and good beats a model.": {"any(beats(i, j)": "any(beats(j, i)"},
}
_IN_ORDER = {"sorted(front, key=lambda i: latency[i])": "front"}

pareto_front = Exercise(
    "pareto_front",
    _pareto_front,
    cases=_pareto_cases,
    run=_run_front,
    wrong={
        "the indices count from 1: they count from 0 here.": lambda x, y: [1 + i for i in _pareto_front(x, y)],
        "these are the fastest and the best alone: between them lie models that none beats either.": lambda x, y: list(
            dict.fromkeys((x.index(min(x)), y.index(max(y))))
        ),
        "this is every model: leave out those that another beats.": lambda x, y: list(range(len(y))),
        "it is empty. Is each model compared with itself, or a model with its equal?": lambda x, y: [],
        **{hint: [change, {**change, **_IN_ORDER}] for hint, change in _WRONG_BEATS.items()},
        _EQUAL.format("are one too few, only the first is kept"): {"and better": "and (better or i < j)"},
        _EQUAL.format("are one too few, only the last is kept"): {"and better": "and (better or i > j)"},
        f"{_WORSE_FIRST}of equal models one is lost: {_SORT}": [partial(_sweep, operator.gt, n) for n in (0, 1)],
        f"{_WORSE_FIRST}slower ones with an equal score, too: {_SORT}": [
            partial(_sweep, operator.ge, n) for n in (0, 1)
        ],
        "it looks at the next faster model alone: compare with all of them.": partial(_sweep, operator.gt, -1, last=1),
        "these are the corners of the convex hull: a model below the line between two others is not beaten.": _hull,
    },
)

# --------------------------------------------------------------- disagreement


def _disagreement(predictions: Tensor, num_classes: int) -> Tensor:
    """predictions (M, H, W) uint8 -> float32 (H, W), the share of models not of the most frequent opinion."""
    models = len(predictions)
    votes = F.one_hot(predictions.long(), num_classes).sum(0)
    most = votes.amax(-1)
    return 1 - most / models


def _disagreement_cases() -> list[Case]:
    guesses = torch.randint(0, 4, (7, 5, 6), dtype=torch.uint8)
    far = torch.tensor([0, 3, 20], dtype=torch.uint8)[torch.randint(0, 3, (4, 5, 8))]
    return [
        Case((guesses, 4), "of seven models", "the map"),
        Case((far, 21), "of four models and labels up to 20", "the map"),
        Case((guesses[:1].expand(3, -1, -1).clone(), 4), "of models that all agree", "the map"),
        Case((guesses[:1], 4), "of one model alone", "the map"),
    ]


_NAMES = "labels are names, not amounts: 1 and 20 are as different as 1 and 2. Count how often each label occurs."
_MODEL = "it compares with the {} model: compare with the most frequent label at the pixel."
_AXIS = "the models are axis 0, as in predictions.mode(0)."
_DIVIDE = "it divides by the number of {}: divide by the number of models."
_SHARE = "1 - most / models"

disagreement = Exercise(
    "disagreement",
    _disagreement,
    cases=_disagreement_cases,
    errors={
        "one_hot is only applicable to index tensor": "one_hot wants int64 labels: predictions.long().",
        "must be smaller than num_classes": "one_hot counts labels up to num_classes - 1.",
        "must match the size of tensor": f"these shapes do not fit: {_AXIS}",
        "bool value of Tensor": "a comparison of tensors is a tensor of True and False: take its mean over the models.",
    },
    wrong={
        "this is the share that agrees: the disagreement is 1 minus that, 0 where all agree.": {"1 - most": "most"},
        "this is the share of the rarest label: 1 minus the share of the most frequent.": {
            _SHARE: "votes.amin(-1) / models"
        },
        "this is 1 minus the rarest label's share: take the most frequent label's.": {"amax": "amin"},
        "this is a number of models: divide by how many there are.": {_SHARE: "models - most"},
        "these are the votes for the most frequent label: divide by the models, then 1 minus.": {_SHARE: "most"},
        "this is the most frequent label: return the share that does not vote for it.": {_SHARE: "votes.argmax(-1)"},
        "this is the number of different labels: how many vote for which counts, too.": {_SHARE: "(votes > 0).sum(-1)"},
        "it counts different labels: how many models vote for which counts, too.": [
            {_SHARE: "(votes > 0).sum(-1) / models"},
            {_SHARE: "((votes > 0).sum(-1) - 1) / (models - 1)"},
        ],
        "it is 1 wherever not all agree: return the share of the models.": {_SHARE: "(most < models).float()"},
        "this is the entropy of the votes: return the share that differs.": {
            _SHARE: "torch.special.entr(votes / models).sum(-1)"
        },
        _DIVIDE.format("classes"): [{"/ models": "/ num_classes"}, {_SHARE: "(models - most) / num_classes"}],
        _DIVIDE.format("models minus 1"): {_SHARE: "(models - most) / (models - 1)"},
        "votes for class 0 are not counted: background is an opinion, too.": {".amax": "[..., 1:].amax"},
        "votes for the last class are not counted: labels go to num_classes - 1.": {".amax": "[..., :-1].amax"},
        "this is 1 minus the second most frequent: take the most frequent.": {"amax(-1)": "topk(2).values[..., 1]"},
        "this is the lead of the first label over the second: take 1 - the share of the first.": {
            _SHARE: "(most - votes.topk(2).values[..., 1]) / models"
        },
        "this is one number for the whole image: return one for each pixel.": {_SHARE: f"({_SHARE}).mean()"},
        "it is in percent: return a fraction between 0 and 1.": {_SHARE: f"100 * ({_SHARE})"},
        f"this is their standard deviation: {_NAMES}": [
            {_SHARE: f"predictions.float().std(0, correction={n})"} for n in (0, 1)
        ],
        f"this is their variance: {_NAMES}": [{_SHARE: f"predictions.float().var(0, correction={n})"} for n in (0, 1)],
        f"it compares with the mean label, rounded: {_NAMES}": {
            _SHARE: "(predictions != predictions.float().mean(0).round()).float().mean(0)"
        },
        f"it compares with the mean of the labels: {_NAMES}": lambda p, k: (p != p.float().mean(0)).float().mean(0),
        f"it compares with the median label: {_NAMES}": lambda p, k: (p != p.median(0).values).float().mean(0),
        f"the mode is over pixels: {_AXIS}": [
            {_SHARE: f"(predictions != predictions.mode({n}, True).values).float().mean(0)"} for n in (1, 2)
        ],
        "it compares models in pairs: compare each with the most frequent label at the pixel.": [
            lambda p, k: (p[:, None] != p).float().mean((0, 1)),
            lambda p, k: (p[:, None] != p).float().sum((0, 1)) / (len(p) * (len(p) - 1)),
        ],
        _MODEL.format("first"): [
            lambda p, k: (p != p[0]).float().mean(0),
            lambda p, k: (p[1:] != p[0]).float().mean(0),
        ],
        _MODEL.format("last"): [
            lambda p, k: (p != p[-1]).float().mean(0),
            lambda p, k: (p[:-1] != p[-1]).float().mean(0),
        ],
    },
)

# -------------------------------------------------------------- vote_by_level


def _vote_by_level(predictions: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """predictions (M, H, W) uint8, target (H, W) -> (M, K, K), the vote's matrix for each number of models against."""
    models = len(predictions)
    against = (models * _disagreement(predictions, num_classes)).round()
    vote = predictions.mode(0).values
    levels = [confusion_matrix(vote, target.where(against == k, 255), num_classes) for k in range(models)]
    return torch.stack(levels)


def _vote_cases() -> list[Case]:
    """Six models of two classes, draws among them, then five of four, whose most frequent label is always one alone."""
    six = (torch.rand(6, 12, 13) < torch.rand(12, 13)).to(torch.uint8)
    five = torch.randint(0, 4, (5, 12, 13), dtype=torch.uint8)
    votes = F.one_hot(five.long(), 4).sum(0).sort(-1).values
    five = torch.where(votes[..., -1] == votes[..., -2], five[:1], five)
    cases = []
    for predictions, classes in ((six, 2), (five, 4)):
        target = torch.randint(0, classes, predictions.shape[1:], dtype=torch.uint8)
        target[:2] = 255
        cases.append(Case((predictions, target, classes), f"of {len(predictions)} models", "the matrices"))
    return cases


vote_by_level = Exercise(
    "vote_by_level",
    _vote_by_level,
    cases=_vote_cases,
    errors={"must have shape": "evaluation.confusion_matrix takes the vote (H, W), the target (H, W) and num_classes."},
    wrong={
        "pixels are lost: 6 * (1 - 5 / 6) is not exactly 1 in float32, so round() the count before comparing.": {
            ".round()": ""
        },
        "pixels are on a wrong level: int() cuts 1.9999999 off to 1, round() does not.": {".round()": ".int()"},
        "the levels count the models for the vote: the first matrix is of no model against it.": {
            "against == k": "against == models - k"
        },
        "the levels are shares: multiply by the number of models.": {"models * ": "", ".round()": ""},
        "the first model is scored: score the vote, the most frequent label of each pixel.": {
            "predictions.mode(0).values": "predictions[0]"
        },
        "the mean label is scored: labels are names, take the most frequent one.": {
            "predictions.mode(0).values": "predictions.float().mean(0).round().to(torch.uint8)"
        },
        "the largest label is scored: score the vote, the most frequent label.": {"mode(0).values": "amax(0)"},
        "a level also holds the pixels of the higher ones: compare with ==, not >=.": {"==": ">="},
        "a level also holds the pixels of the lower ones: compare with ==, not <=.": {"==": "<="},
        "a level holds all pixels but its own: void, 255, is what is not on the level.": {"==": "!="},
        "rows and columns are exchanged: rows are the target, columns the vote.": {"stack(levels)": "stack(levels).mT"},
        "it is one matrix of all levels: return one for each, torch.stack.": {"torch.stack(levels)": "sum(levels)"},
        "the level where all agree is left out: it comes first.": {"range(models)": "range(1, models)"},
    },
)

# ------------------------------------------------------------------ hand_unet

_SIZES = ("mobilenet_v2", 3), ("efficientnet-b0", 2)  # what is written by hand shows in the second


class _HandUNet(nn.Module):
    """smp's U-Net of its parts: images (B, 3, H, W), sides multiples of 32 -> logits (B, num_classes, H, W)."""

    def __init__(self, encoder_name: str, num_classes: int):
        import segmentation_models_pytorch as smp  # it takes seconds, and the other labs do without it
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        super().__init__()
        channels = (256, 128, 64, 32, 16)
        self.encoder = smp.encoders.get_encoder(encoder_name, weights=None)
        self.decoder = UnetDecoder(self.encoder.out_channels, channels)
        self.segmentation_head = SegmentationHead(channels[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.encoder(images)
        logits = self.segmentation_head(self.decoder(features))
        return logits


_REMEDIES = {
    "encoder": "smp.encoders.get_encoder(encoder_name, weights=None)",
    "decoder": "UnetDecoder(self.encoder.out_channels, decoder_channels=(256, 128, 64, 32, 16))",
    "segmentation_head": "SegmentationHead(16, num_classes), its kernel_size 3 as by default",
}
_UNUSED = {"encoder": "encoder_name is not used, ", "segmentation_head": "num_classes is not used, "}


@cache
def _smp_weights(encoder_name: str, num_classes: int) -> dict[str, Tensor]:
    """The state dict of smp.Unet, its batch norms with the statistics of noise like the images of the check."""
    import segmentation_models_pytorch as smp

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = smp.Unet(encoder_name, encoder_weights=None, classes=num_classes)
        return calibrated(model, torch.randn(2, 3, 64, 32)).state_dict()


def _make_unet(check: Check, answer: Callable, *size: Any) -> nn.Module:
    """The student's network; nothing is downloaded for it."""
    import segmentation_models_pytorch as smp

    pretrained = Mistake(
        "the encoder asks for pretrained weights, which would come from the network: weights=None builds it, weights "
        "are loaded into it afterwards."
    )
    whole = Mistake("this is smp.Unet itself: put its encoder, decoder and head together yourself.")
    with (
        patch.object(smp.encoders, "hf_hub_download", side_effect=pretrained),
        patch.object(smp.encoders, "load_url", create=True, side_effect=pretrained),  # smp 0.5.0 tries this next
        patch.object(smp.Unet, "__init__", side_effect=whole),
    ):
        return make(check, answer, *size)


def _inspect_unet(check: Check, answer: Callable) -> None:
    """The three parts by smp's names, each with the weights that smp.Unet's has."""
    shapes = [{name: tuple(weight.shape) for name, weight in _smp_weights(*size).items()} for size in _SIZES]
    for size, expected in zip(_SIZES, shapes, strict=True):
        model = _make_unet(check, answer, *size)
        found = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        children = dict(model.named_children())
        for part in _REMEDIES:
            held = ", ".join(children) or "none"
            there = f"it has no self.{part}, which smp.Unet's weights are loaded into: its parts are {held}."
            check.that(part in children, there)
        for part, remedy in _REMEDIES.items():
            names = (n for n in {**expected, **found} if n.startswith(f"{part}.") and found.get(n) != expected.get(n))
            name = next(names, "")
            here, there = (f"has shape {x[name]}" if name in x else "is missing" for x in (found, expected))
            unused = _UNUSED.get(part, "") if found.get(name) == shapes[0].get(name) else ""
            check.that(not name, f"of HandUNet{size} {name} {here}, in smp.Unet it {there}: {unused}{remedy}.")
        beside = [name for name in found if name not in expected]
        check.that(not beside, f"beside encoder, decoder and segmentation_head it has {beside[:1]}: leave it out.")


def _run_unet(check: Check, answer: Callable, case: Case) -> Tensor:
    """The logits with the weights of smp.Unet, after a look at the gradients in training mode."""
    model = _make_unet(check, answer, *_SIZES[0])
    model.load_state_dict(_smp_weights(*_SIZES[0]))
    logits = check.call(model, *case.args, when="in forward")
    trained = check.call(model.train(), *case.args, when="in forward in training mode")
    for output in (logits, trained):
        check.that(isinstance(output, Tensor), f"forward returns {kind_of(output)}, expected the logits, one tensor.")
    first = {part: next(model.get_submodule(part).parameters()) for part in _REMEDIES}
    cut = "no gradient comes back to {}: is it frozen, detached or under no_grad?"
    check_gradients(check, model, trained, first, cut)
    return logits


_LIST = "give it the list of all six, from the image to the deepest: self.decoder(features)."

hand_unet = Exercise(
    "HandUNet",
    _HandUNet,
    cases=lambda: [Case((torch.randn(2, 3, 64, 32),), what="the output")],
    inspect=_inspect_unet,
    run=_run_unet,
    tolerance=rounding,
    wrong={
        **activated(_HandUNet),
        f"the decoder is given the last feature alone: {_LIST}": {"(features)": "(features[-1])"},
        f"the decoder is given the last feature alone, in a list: {_LIST}": {"(features)": "(features[-1:])"},
        f"the decoder is given the features as six arguments: {_LIST}": {"(features)": "(*features)"},
        f"the features are in reversed order; the decoder reverses them itself: {_LIST}": {
            "(features)": "(features[::-1])"
        },
        f"the first feature, the image, is left out; the decoder does that itself: {_LIST}": {
            "(features)": "(features[1:])"
        },
        "the head is not run: self.segmentation_head comes last.": {
            "self.segmentation_head(self.decoder(features))": "self.decoder(features)"
        },
        "the logits are enlarged once more: the decoder's last block is at full size, as the images are.": {
            "return logits": "return F.interpolate(logits, scale_factor=2)"
        },
        "the decoder enlarges bilinearly: leave interpolation_mode out.": {
            "out_channels, channels": "out_channels, channels, interpolation_mode='bilinear'"
        },
    },
)

# ------------------------------------------------- count_parts, freeze_encoder


class _Net(nn.Module):
    """An encoder and a decoder with batch norm, a head, a part without weights, and a parameter of its own."""

    def __init__(self, *frozen: str):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.encoder_scale = nn.Parameter(torch.ones(4, 1, 1))
        self.decoder = nn.Sequential(nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)), nn.ReLU())
        self.segmentation_head = nn.Conv2d(5, 3, 1)
        self.activation = nn.Identity()
        for part in frozen:
            self.get_submodule(part).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.activation(self.segmentation_head(self.decoder(self.encoder_scale * self.encoder(images))))


def _count_parts(model: nn.Module) -> dict[str, int]:
    """The number of parameters of each direct child, by its name."""
    return {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}


count_parts = Exercise(
    "count_parts",
    _count_parts,
    cases=lambda: [
        Case((_Net(),), "of the check's network", "the dict"),
        Case((_Net("encoder"),), "of a network whose encoder is frozen", "the dict"),
    ],
    wrong={
        "parameters of a frozen part are left out: they count, too.": {"p.numel()": "p.numel() * p.requires_grad"},
        "buffers are counted, which batch norm has for its statistics: parameters() alone, no state_dict().": {
            "part.parameters()": "part.state_dict().values()"
        },
        "only parameters that lie directly in a part are counted: parameters() gives those further down, too.": {
            "part.parameters()": "part.parameters(recurse=False)"
        },
        "it counts tensors: sum their numbers of elements, parameter.numel().": {"p.numel()": "1"},
        "it counts rows, the first number of each shape: sum parameter.numel(), the product of all.": {
            "p.numel()": "len(p)"
        },
        "parameters with one axis are left out: biases and batch norm's scale and shift count, too.": {
            "part.parameters()": "part.parameters() if p.dim() > 1"
        },
        "it counts the tensors of the state dict: sum parameter.numel() over parameters().": {
            "sum(p.numel() for p in part.parameters())": "len(part.state_dict())"
        },
        "it counts the modules of every depth: named_children() gives the direct ones.": {"children": "modules"},
        "it counts each parameter by itself: sum them for each of named_children().": lambda model: {
            name: p.numel() for name, p in model.named_parameters()
        },
        "a part without parameters is left out: it has 0 of them.": lambda model: {
            name: count for name, count in _count_parts(model).items() if count
        },
        "the names of parameters are no list of parts (encoder_scale is a parameter, activation has none): take "
        "named_children().": lambda model: dict(
            sum((Counter({name.split(".")[0]: p.numel()}) for name, p in model.named_parameters()), Counter())
        ),
        "the keys are the types of the parts: take their names.": {"{name:": "{type(part).__name__:"},
    },
)


def _freeze_encoder(model: Any) -> list[nn.Parameter]:
    """Freeze `model.encoder`; the parameters that still ask for a gradient."""
    model.encoder.requires_grad_(False)
    return [p for p in model.parameters() if p.requires_grad]


def _run_freeze(check: Check, answer: Callable, case: Case) -> Parts:
    """For each parameter: does it ask for a gradient afterwards, and how often is it in the list?"""
    model = _Net(*case.args)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = check.call(answer, model)
    check.that(isinstance(listed, list), f"it returns {kind_of(listed)}, expected a list of parameters.")
    for value in listed:
        check.that(id(value) in names, f"the list holds {kind_of(value)} that is no parameter of the model.")
    counts = Counter(names[id(value)] for value in listed)
    asks = {f"whether {n} {case.when} asks for a gradient": p.requires_grad for n, p in model.named_parameters()}
    return Parts(asks | {f"how often the list {case.when} holds {name}": counts[name] for name in names.values()})


_FREEZE, _LEARNING = "model.encoder.requires_grad_(False)", "model.parameters() if p.requires_grad"
_NOT_OF_ENCODER = "set(model.parameters()) - set(model.encoder.parameters())"

freeze_encoder = Exercise(
    "freeze_encoder",
    _freeze_encoder,
    cases=lambda: [Case((), "of the check's network"), Case(("decoder.0.1",), "of one whose decoder.0.1 was frozen")],
    run=_run_freeze,
    wrong={
        "nothing is frozen (an attribute set on the module is not enough): model.encoder.requires_grad_(False), or "
        "requires_grad = False for each of its parameters.": {_FREEZE: "model.encoder.requires_grad = False"},
        "the encoder is left out of the list, but its parameters still ask for gradients: requires_grad = False.": {
            _FREEZE: "",
            _LEARNING: _NOT_OF_ENCODER,
        },
        "the list is made before the encoder is frozen: freeze first, then take those that ask for a gradient.": (
            lambda model: ([p for p in model.parameters() if p.requires_grad], model.encoder.requires_grad_(False))[0]
        ),
        "the list holds all parameters: return those that still ask for a gradient (requires_grad).": {
            _LEARNING: "model.parameters()"
        },
        "the list holds the encoder's parameters: return those that still ask for a gradient, the others.": {
            _LEARNING: "model.encoder.parameters()"
        },
        "the whole model is frozen: freeze model.encoder alone.": {_FREEZE: "model.requires_grad_(False)"},
        "the encoder is the part that is not frozen: the others learn, it does not.": {
            _FREEZE: "model.requires_grad_(False).encoder.requires_grad_(True)"
        },
        "encoder_scale has `encoder` in its name, but is no part of model.encoder: take its parameters().": {
            _FREEZE: "[p.requires_grad_(False) for name, p in model.named_parameters() if 'encoder' in name]"
        },
        "the encoder's convolutions are frozen, its batch norm is not: its scale and shift are parameters, too.": {
            _FREEZE: "model.encoder[0].requires_grad_(False)"
        },
        "the list is made of known parts alone, and a layer that was frozen stays in it: take all of "
        "model.parameters() that ask for a gradient.": {
            _LEARNING: "[*model.decoder.parameters(), *model.segmentation_head.parameters()]"
        },
        "the list holds a layer that was frozen before: take those that ask for a gradient, not all the others.": {
            _LEARNING: _NOT_OF_ENCODER
        },
        "a layer that was frozen before asks for a gradient again: leave all but the encoder as it is.": {
            _FREEZE: "model.requires_grad_(True).encoder.requires_grad_(False)"
        },
    },
)

# -------------------------------------------------------------- train_decoder


def _train_decoder(
    model: Any, batches: Iterable, optimizer: torch.optim.Optimizer, validate: Callable, eval_every: int
) -> tuple[list[float], list[float]]:
    """Trains on `batches` with a frozen encoder in eval mode; keeps the weights of the lowest validation loss."""
    losses, val_losses, best = [], [], {}
    for step, (images, targets) in enumerate(batches, start=1):
        model.train()
        model.encoder.eval()
        loss = F.cross_entropy(model(images), targets, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % eval_every == 0:
            val_losses.append(validate(model.eval()))
            if val_losses[-1] == min(val_losses):
                best = copy.deepcopy(model.state_dict())
    model.eval().load_state_dict(best)
    return losses, val_losses


def _decoder_cases() -> Iterator[Case]:
    """The best evaluation in the middle, then the last; more steps after the last evaluation, then none.

    No two losses are equal: of equal lowest ones an answer may keep either.
    """
    for steps, every, val_losses in ((7, 2, [2.9, 2.4, 2.7]), (3, 1, [0.3, 0.6, 0.2])):
        targets = torch.randint(0, 3, (steps, 2, 6, 7))
        targets[..., :2] = 255
        images = 1 + 2 * torch.randn(steps, 2, 3, 6, 7)
        yield Case((_Net("encoder"), images, targets, every, val_losses), f"with {steps} steps, eval_every={every}")


def _run_decoder(check: Check, answer: Callable, case: Case) -> Parts:
    """The losses, and what the model is like at the end; `validate` looks at its mode and says a prepared loss.

    Of which evaluation its weights are is told before each of them is compared: wherever they come from, that is true.
    """
    net, images, targets, every, prepared = copy.deepcopy(case.args)
    remaining, evaluated = iter(prepared), []
    optimizer = torch.optim.SGD((p for p in net.parameters() if p.requires_grad), lr=0.3)

    def validate(model: nn.Module) -> float:
        if any(module.training for module in model.modules()):
            raise Mistake("validate is given a model in train mode: model.eval() comes before.")
        evaluated.append(copy.deepcopy(net.state_dict()))
        return next(remaining, 9.0)

    result = check.call(answer, net, zip(images, targets, strict=True), optimizer, validate, every, when=case.when)
    pair = isinstance(result, (tuple, list)) and len(result) == 2 and all(isinstance(x, list) for x in result)
    check.that(pair, f"it returns {kind_of(result)}, expected two lists: `return losses, val_losses`.")
    at_end, best = net.state_dict(), 1 + prepared.index(min(prepared))
    same = [all(state[name].equal(weight) for name, weight in at_end.items()) for state in evaluated]
    lowest = (
        f"that of evaluation {best}, whose loss is the lowest: copy.deepcopy the whole state dict there (else it "
        "follows the training), load_state_dict it into the model at the end"
    )
    state = f"that of evaluation {1 + same.index(True)}" if True in same else "that of no evaluation as a whole"
    return Parts(
        {f"the number of losses {case.when}": len(result[0])}
        | {f"the number of validation losses {case.when}": len(result[1])}
        | {f"the loss of step {step} {case.when}": loss for step, loss in enumerate(result[0], 1)}
        | {f"the loss of evaluation {number} {case.when}": loss for number, loss in enumerate(result[1], 1)}
        | {f"the state at the end {case.when}": lowest if any(same[best - 1 : best]) else state}
        | {f"{name} at the end {case.when}": weight for name, weight in at_end.items()}
        | {f"whether a part is in train mode at the end {case.when}": any(m.training for m in net.modules())}
    )


train_decoder = Exercise(
    "train_decoder",
    _train_decoder,
    cases=_decoder_cases,
    run=_run_decoder,
    tolerance=1e-4,
    errors={
        "Expected state_dict to be dict-like": "no weights were kept: is each loss compared with the lowest so far? "
        "Begin with math.inf.",
        "has no len()": "batches is an iterator, without a length: take enumerate(batches, start=1).",
        "does not require grad": "the loss has no graph: does the forward pass run under no_grad?",
    },
    wrong={
        "the encoder is in train mode, so its batch norm takes the statistics of the batch and moves its own: "
        "model.encoder.eval() after model.train(), which sets all parts.": {"model.encoder.eval()": ""},
        "the encoder is in train mode after the first validation: model.encoder.eval() after each model.train().": {
            "model.encoder.eval()": "model.encoder.train(step > eval_every)"
        },
        "the decoder stays in eval mode after the first validation: model.train(), then model.encoder.eval(), before "
        "each step.": {"model.train()": "model.train(step <= eval_every)"},
        "the decoder is in eval mode: model.train(), then model.encoder.eval(), before each step.": {
            "model.train()": "model.eval()"
        },
        "void, 255, is not left out: F.cross_entropy(..., ignore_index=255).": {", ignore_index=255": ""},
        "void counts as class 0: leave it out with ignore_index=255.": {", ignore_index=255": " * (targets != 255)"},
        "void counts as the last class: leave it out with ignore_index=255.": {", ignore_index=255": ".clamp(max=2)"},
        "the mean is over void pixels, too: take that of F.cross_entropy, over the valid ones.": {
            "=255)": "=255, reduction='none').mean()"
        },
        "the losses of the pixels are added up: take their mean.": {"=255)": "=255, reduction='sum')"},
        "there is a softmax before the loss: cross_entropy takes logits.": {"(images)": "(images).softmax(1)"},
        "the gradients of earlier steps are added: optimizer.zero_grad() before each backward().": {".zero_grad()": ""},
        "the weights do not change: zero_grad(), then backward(), then step(), in this order.": {".step()": ""},
        "it validates after every step: only where step % eval_every is 0.": {"step % eval_every == 0": "True"},
        "it validates at other steps: count them from 1, validate where step % eval_every is 0.": {
            "start=1": "start=0"
        },
        "the model ends in train mode: model.eval() after the best weights are loaded.": {
            "model.eval().load": "model.train().load"
        },
    },
)
