"""Checks of lab 05: smp's U-Net of its parts, training on a frozen encoder, averages of IoU, the Pareto front."""

import copy
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, calls, kind_of, run_function, variants
from labhelpers.course.checks.layers import activated, calibrated, changed, check_gradients, make, rounding
from labhelpers.evaluation.confusion import confusion_matrix, scores

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
    "this is pixel accuracy, or Dice (equal here). The unions add up to more: a wrong pixel lies in two of them, that "
    "of its true class and that of the predicted one."
)
_WRONG_MICRO = [
    (_macro, "this is the macro IoU: sum the intersections and the unions first, then divide once."),
    (lambda i, r, c, u: i.sum() / r.sum(), _ACCURACY),  # 2 I / (r + c) is the same
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

# --------------------------------------------------------------- always_first


def _always_first(matrix: Tensor) -> Tensor:
    """matrix (K, K), rows target -> that of a network which says class 0 everywhere on the same images."""
    always = torch.zeros_like(matrix)
    always[:, 0] = matrix.sum(1)
    return always


def _in_column(counts: Callable[[Tensor], Tensor], transposed: bool = False) -> Callable:
    """A wrong answer: other counts in column 0, or in row 0."""

    def answer(matrix: Tensor) -> Tensor:
        always = torch.zeros_like(matrix)
        always[:, 0] = counts(matrix)
        return always.T if transposed else always

    return answer


def _kept(matrix: Tensor) -> Tensor:
    always = matrix.clone()
    always[:, 0] = matrix.sum(1)
    return always


always_first = Exercise(
    "always_first",
    _always_first,
    cases=lambda: [
        Case((torch.tensor(_ROWS),), what="the matrix"),
        Case((torch.diag(torch.tensor([7, 0, 2])),), "of a perfect prediction", "the matrix"),
    ],
    wrong=[
        (
            _in_column(lambda m: m.sum(0)),
            "column 0 holds how often each class was predicted: the target's counts are the row sums, matrix.sum(1).",
        ),
        (
            _in_column(lambda m: m.sum(1), transposed=True),
            "row 0 is filled: what is predicted stands in the columns, and class 0 is predicted everywhere.",
        ),
        (
            _in_column(lambda m: m.diagonal()),
            "only what the network had right is counted: all pixels of the images stay, matrix.sum(1).",
        ),
        (_in_column(lambda m: m[:, 0]), "only what the network itself called class 0 is counted: sum each row."),
        (_kept, "the other columns still hold the network's predictions: no other class is predicted any more."),
        (
            lambda m: F.pad(m.sum()[None, None], (0, len(m) - 1, 0, len(m) - 1)),
            "all pixels are counted as class 0 in the target: the target stays as it is, in the rows.",
        ),
        (lambda m: m.sum(1), "these are the row sums alone: they go into column 0 of a matrix of zeros."),
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


def _lowest_so_far(start: Callable[[list[float]], float], below: Callable, place: int = 0) -> Callable:
    """A wrong answer, a loop that begins with the loss `start` as that of the evaluation `place`."""

    def answer(losses: list[float]) -> int:
        best, lowest = place, start(losses)
        for number, loss in enumerate(losses, start=1):
            if below(loss, lowest):
                best, lowest = number, loss
        return best

    return answer


def _epoch_cases() -> list[Case]:
    """First lists without nan, so that what is wrong in the later ones alone is about nan."""
    plain = [[0.9, 0.6, 0.7, 0.4, 0.5], [0.8, 0.5, 0.6, 0.5, 0.7], [0.4, 0.0, 0.2], [25e3, 18e3, 19e3], [2.5]]
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
        (
            lambda x: 1 + x.index(min(x)),
            "nothing is less than nan, so min() keeps it where it comes first, as does a loop that starts with the "
            "first loss: leave nan out, start with math.inf.",
        ),
        (lambda x: x.index(min(x)), "it counts from 0, and min() keeps a nan that comes first: leave nan out."),
        (lambda x: 1 + _known(x).index(min(_known(x))), "nan is taken out too early, so all places behind it move up."),
        (lambda x: len(x) - x[::-1].index(min(_known(x))), "of equal losses it takes the last: the first counts."),
        (
            _lowest_so_far(lambda x: x[0], operator.le, place=1),
            "of equal losses it takes the last (`<=`), and nothing is less than a nan that comes first: `<`, and start "
            "with math.inf.",
        ),
        *(
            (
                _lowest_so_far(lambda x, start=start: start, below, place),
                f"the lowest so far starts with a fixed number, which losses may exceed: start with math.inf.{equal}",
            )
            for below, equal in ((operator.lt, ""), (operator.le, " And of equal losses the first counts: `<`."))
            for start in (0.0, 1.0, 1e3)
            for place in (0, 1)
        ),
        (len, "this is the last evaluation: return the one with the lowest loss."),
        (lambda x: min(_known(x)), "this is the lowest loss itself: return at which evaluation it was reached."),
        (_first_dip, "it stops at the first rise: the loss may fall again, look at all evaluations."),
    ],
)

# --------------------------------------------------------------- pareto_front

Front = Callable[[list[float], list[float]], list[int]]


def _unless(beats: Callable[[float, float, float, float], bool], fastest_first: bool = True) -> Front:
    """The models that no other beats; `beats` has latency and score of the other, then of the one."""

    def front(latency: list[float], score: list[float]) -> list[int]:
        models = list(enumerate(zip(latency, score, strict=True)))
        kept = [i for i, one in models if not any(beats(*other, *one) for j, other in models if j != i)]
        return sorted(kept, key=lambda i: latency[i]) if fastest_first else kept

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


def _sweep(ties: int, better: Callable[[float, float], bool]) -> Front:
    """Sorted by latency, of equal ones by `ties` * score: each model that is better than the best so far."""

    def front(latency: list[float], score: list[float]) -> list[int]:
        kept: list[int] = []
        for i in sorted(range(len(score)), key=lambda i: (latency[i], ties * score[i])):
            if all(better(score[i], score[j]) for j in kept):
                kept.append(i)
        return kept

    return front


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
        *((_unless(beats, first), hint) for beats, hint in _WRONG_BEATS for first in (True, False)),
        (_one_of_equals(min), _EQUAL.format("are one too few, only the first is kept")),
        (_one_of_equals(max), _EQUAL.format("are one too few, only the last is kept")),
        *((_sweep(n, operator.gt), f"{_WORSE_FIRST}of equal models one is lost: {_SORT}") for n in (0, 1)),
        *((_sweep(n, operator.ge), f"{_WORSE_FIRST}slower ones with an equal score, too: {_SORT}") for n in (0, 1)),
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
_AXIS = "the models are axis 0, as in predictions.mode(0)."
_DIVIDE = "it divides by the number of {}: divide by the number of models."
_WRONG_VOTES = [
    (lambda v, m: v.amax(0) / m, "this is the share that agrees: the disagreement is 1 minus that, 0 where all agree."),
    (lambda v, m: v.amin(0) / m, "this is the share of the rarest label: 1 minus the share of the most frequent."),
    (lambda v, m: 1 - v.amin(0) / m, "this is 1 minus the rarest label's share: take the most frequent label's."),
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
    (lambda p: (p != p.mean(0)).float().mean(0), f"it compares with the mean of the labels: {_NAMES}"),
    (lambda p: (p != p.median(0).values).float().mean(0), f"it compares with the median label: {_NAMES}"),
    *(
        (lambda p, n=n: (p != p.mode(n, keepdim=True).values).float().mean(0), f"the mode is over pixels: {_AXIS}")
        for n in (1, 2)
    ),
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
        "must match the size of tensor": f"these shapes do not fit: {_AXIS}",
        "bool value of Tensor": "a comparison of tensors is a tensor of True and False: take its mean over the models.",
    },
    wrong=[
        *((_of_votes(formula), hint) for formula, hint in _WRONG_VOTES),
        *((_of_labels(formula), hint) for formula, hint in _WRONG_LABELS),
    ],
)

# -------------------------------------------------------------- vote_by_level


def _vote_by(
    level: Callable[[Tensor, int, int], Tensor] = lambda p, k, m: (m * _disagreement(p, k)).round(),
    vote: Callable[[Tensor, int], Tensor] = lambda p, k: p.mode(0).values,
    at: Callable[[Tensor, int], Tensor] = torch.eq,
    finish: Callable[[Tensor], Tensor] = lambda matrices: matrices,
) -> Callable:
    """The answer with one of its parts in another way."""

    def answer(predictions: Tensor, target: Tensor, num_classes: int) -> Tensor:
        models = len(predictions)
        levels, said = level(predictions, num_classes, models), vote(predictions, num_classes)
        targets = (target.where(at(levels, k), 255) for k in range(models))
        return finish(torch.stack([confusion_matrix(said, only, num_classes) for only in targets]))

    return answer


_vote_by_level = _vote_by()
"""predictions (M, H, W) uint8, target (H, W) -> (M, K, K), the vote's matrix for each number of models against it."""


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
    wrong=variants(
        _vote_by,
        level=[
            (
                lambda p, k, m: m * _disagreement(p, k),
                "pixels are lost: 6 * (1 - 5 / 6) is not exactly 1 in float32, so round() the count before comparing.",
            ),
            (
                lambda p, k, m: (m * _disagreement(p, k)).int(),
                "pixels are on a wrong level: int() cuts 1.9999999 off to 1, round() does not.",
            ),
            (
                lambda p, k, m: m - (m * _disagreement(p, k)).round(),
                "the levels count the models for the vote: the first matrix is of no model against it.",
            ),
            (lambda p, k, m: _disagreement(p, k), "the levels are shares: multiply by the number of models."),
        ],
        vote=[
            (lambda p, k: p[0], "the first model is scored: score the vote, the most frequent label of each pixel."),
            (
                lambda p, k: p.float().mean(0).round().to(torch.uint8),
                "the mean label is scored: labels are names, take the most frequent one.",
            ),
            (lambda p, k: p.amax(0), "the largest label is scored: score the vote, the most frequent label."),
        ],
        at=[
            (torch.ge, "a level also holds the pixels of the higher ones: compare with ==, not >=."),
            (torch.le, "a level also holds the pixels of the lower ones: compare with ==, not <=."),
            (torch.ne, "a level holds all pixels but its own: void, 255, is what is not on the level."),
        ],
        finish=[
            (lambda matrices: matrices.mT, "rows and columns are exchanged: rows are the target, columns the vote."),
            (lambda matrices: matrices.sum(0), "it is one matrix of all levels: return one for each, torch.stack."),
            (lambda matrices: matrices[1:], "the level where all agree is left out: it comes first."),
        ],
    ),
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
        return self.segmentation_head(self.decoder(self.encoder(images)))


_REMEDIES = {
    "encoder": "smp.encoders.get_encoder(encoder_name, weights=None)",
    "decoder": "UnetDecoder(self.encoder.out_channels, decoder_channels=(256, 128, 64, 32, 16))",
    "segmentation_head": "SegmentationHead(16, num_classes), its kernel_size 3 as by default",
}


_UNUSED = {"encoder": "encoder_name is not used, ", "segmentation_head": "num_classes is not used, "}


def _unet_case() -> Case:
    return Case((torch.randn(2, 3, 64, 32),), what="the output")


@cache
def _smp_weights(encoder_name: str, num_classes: int) -> dict[str, Tensor]:
    """The state dict of smp.Unet, its batch norms with the statistics of the images that the check takes."""
    import segmentation_models_pytorch as smp

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = smp.Unet(encoder_name, encoder_weights=None, classes=num_classes)
        return calibrated(model, *_unet_case().args).state_dict()


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
        children = [name for name, _ in model.named_children()]
        for part in _REMEDIES:
            held = ", ".join(children) or "none"
            there = f"it has no self.{part}, which smp.Unet's weights are loaded into: its parts are {held}."
            check.that(part in children, there)
        found = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        for part, remedy in _REMEDIES.items():
            names = [name for name in {**expected, **found} if name.startswith(f"{part}.")]
            name = next((name for name in names if found.get(name) != expected.get(name)), "")
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


def _of_features(forward: Callable[[Any, list[Tensor]], Tensor]) -> type:
    """A wrong answer: its forward from the network and the encoder's features, the image first."""
    return changed(_HandUNet, forward=lambda self, images: forward(self, self.encoder(images)))


def _interpolating(self: Any, *arguments: Any) -> None:
    _HandUNet.__init__(self, *arguments)
    for block in self.decoder.blocks:
        block.interpolation_mode = "bilinear"


_LIST = "give it the list of all six, from the image to the deepest: self.decoder(features)."
_WRONG_FEATURES = [
    (lambda features: (features[-1],), f"the decoder is given the last feature alone: {_LIST}"),
    (lambda features: (features[-1:],), f"the decoder is given the last feature alone, in a list: {_LIST}"),
    (lambda features: features, f"the decoder is given the features as six arguments: {_LIST}"),
    (
        lambda features: (features[::-1],),
        f"the features are in reversed order; the decoder reverses them itself: {_LIST}",
    ),
    (
        lambda features: (features[1:],),
        f"the first feature, the image, is left out; the decoder does that itself: {_LIST}",
    ),
]


def _fed(arguments: Callable[[list[Tensor]], Iterable]) -> type:
    """A wrong answer: its decoder is given something else of the encoder's features."""
    return _of_features(lambda net, features: net.segmentation_head(net.decoder(*arguments(features))))


hand_unet = Exercise(
    "HandUNet",
    _HandUNet,
    cases=lambda: [_unet_case()],
    inspect=_inspect_unet,
    run=_run_unet,
    tolerance=rounding,
    wrong=[
        *activated(_HandUNet),
        *((_fed(arguments), hint) for arguments, hint in _WRONG_FEATURES),
        (
            _of_features(lambda net, features: net.decoder(features)),
            "the head is not run: self.segmentation_head comes last.",
        ),
        (
            _of_features(
                lambda net, features: F.interpolate(net.segmentation_head(net.decoder(features)), scale_factor=2)
            ),
            "the logits are enlarged once more: the decoder's last block is at full size, as the images are.",
        ),
        (changed(_HandUNet, __init__=_interpolating), "the decoder enlarges bilinearly: leave interpolation_mode out."),
    ],
)

# ------------------------------------------------- count_parts, freeze_encoder


class _Net(nn.Module):
    """An encoder and a decoder with batch norm, a head, a part without weights, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.encoder_scale = nn.Parameter(torch.ones(4, 1, 1))
        self.decoder = nn.Sequential(nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)), nn.ReLU())
        self.segmentation_head = nn.Conv2d(5, 3, 1)
        self.activation = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.activation(self.segmentation_head(self.decoder(self.encoder_scale * self.encoder(images))))


def _count_parts(model: nn.Module) -> dict[str, int]:
    """The number of parameters of each direct child, by its name."""
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in model.named_children()}


def _counted(tensors: Callable[[nn.Module], Iterable[Tensor]]) -> Callable:
    """A wrong answer: the elements of other tensors of each part."""
    return lambda model: {name: sum(t.numel() for t in tensors(part)) for name, part in model.named_children()}


def _by_first_name(model: nn.Module) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[name.split(".")[0]] += parameter.numel()
    return dict(counts)


def _frozen(*parts: str) -> _Net:
    net = _Net()
    for part in parts:
        net.get_submodule(part).requires_grad_(False)
    return net


count_parts = Exercise(
    "count_parts",
    _count_parts,
    cases=lambda: [
        Case((_frozen(),), "of the check's network", "the dict"),
        Case((_frozen("encoder"),), "of a network whose encoder is frozen", "the dict"),
    ],
    wrong=[
        (
            _counted(lambda part: [p for p in part.parameters() if p.requires_grad]),
            "parameters of a frozen part are left out: they count, too.",
        ),
        (
            _counted(lambda part: part.state_dict().values()),
            "buffers are counted, which batch norm has for its statistics: parameters() alone, no state_dict().",
        ),
        (
            _counted(lambda part: part.parameters(recurse=False)),
            "only parameters that lie directly in a part are counted: parameters() gives those further down, too.",
        ),
        (
            lambda model: {name: len(list(part.parameters())) for name, part in model.named_children()},
            "it counts tensors: sum their numbers of elements, parameter.numel().",
        ),
        (
            lambda model: {n: sum(len(p) for p in m.parameters()) for n, m in model.named_children()},
            "it counts rows, the first number of each shape: sum parameter.numel(), the product of all.",
        ),
        (
            _counted(lambda part: [p for p in part.parameters() if p.dim() > 1]),
            "parameters with one axis are left out: biases and batch norm's scale and shift count, too.",
        ),
        (
            lambda model: {name: len(part.state_dict()) for name, part in model.named_children()},
            "it counts the tensors of the state dict: sum parameter.numel() over parameters().",
        ),
        (
            lambda model: {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_modules()},
            "it counts the modules of every depth: named_children() gives the direct ones.",
        ),
        (
            lambda model: {name: parameter.numel() for name, parameter in model.named_parameters()},
            "it counts each parameter by itself: sum them for each of named_children().",
        ),
        (
            lambda model: {name: count for name, count in _count_parts(model).items() if count},
            "a part without parameters is left out: it has 0 of them.",
        ),
        (
            _by_first_name,
            "the names of parameters are no list of parts (encoder_scale is a parameter, activation has none): take "
            "named_children().",
        ),
        (
            lambda model: {type(m).__name__: _count_parts(model)[n] for n, m in model.named_children()},
            "the keys are the types of the parts: take their names.",
        ),
    ],
)


def _freeze_encoder(model: Any) -> list[nn.Parameter]:
    """Freeze `model.encoder`; the parameters that still ask for a gradient."""
    model.encoder.requires_grad_(False)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _in_encoder(name: str) -> bool:
    return name.startswith("encoder.")


def _frozen_where(
    freezes: Callable[[str], bool],
    lists: Callable[[str, nn.Parameter], bool] = lambda name, parameter: parameter.requires_grad,
    thaw: bool = False,
) -> Callable:
    """A wrong answer that freezes and lists by the parameters' names; with `thaw` the others are to learn."""

    def answer(model: nn.Module) -> list[nn.Parameter]:
        for name, parameter in model.named_parameters():
            if thaw or freezes(name):
                parameter.requires_grad_(not freezes(name))
        return [parameter for name, parameter in model.named_parameters() if lists(name, parameter)]

    return answer


def _run_freeze(check: Check, answer: Callable, case: Case) -> Parts:
    """For each parameter: does it ask for a gradient afterwards, and how often is it in the list?"""
    model = _frozen(*case.args)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = check.call(answer, model)
    check.that(isinstance(listed, list), f"it returns {kind_of(listed)}, expected a list of parameters.")
    for value in listed:
        check.that(id(value) in names, f"the list holds {kind_of(value)} that is no parameter of the model.")
    counts = Counter(names[id(value)] for value in listed)
    asks = {f"whether {n} {case.when} asks for a gradient": p.requires_grad for n, p in model.named_parameters()}
    return Parts(asks | {f"how often the list {case.when} holds {name}": counts[name] for name in names.values()})


freeze_encoder = Exercise(
    "freeze_encoder",
    _freeze_encoder,
    cases=lambda: [Case((), "of the check's network"), Case(("decoder.0.1",), "of one whose decoder.0.1 was frozen")],
    run=_run_freeze,
    wrong=[
        (
            _frozen_where(lambda name: False),
            "nothing is frozen (an attribute set on the module is not enough): model.encoder.requires_grad_(False), or "
            "requires_grad = False for each of its parameters.",
        ),
        (
            _frozen_where(lambda name: False, lambda name, p: not name.startswith("encoder.")),
            "the encoder is left out of the list, but its parameters still ask for gradients: requires_grad = False.",
        ),
        (
            _frozen_where(_in_encoder, lambda name, p: p.requires_grad or _in_encoder(name)),
            "the list is made before the encoder is frozen: freeze first, then take those that ask for a gradient.",
        ),
        (
            _frozen_where(_in_encoder, lambda name, p: True),
            "the list holds all parameters: return those that still ask for a gradient (requires_grad).",
        ),
        (
            _frozen_where(_in_encoder, lambda name, p: _in_encoder(name)),
            "the list holds the encoder's parameters: return those that still ask for a gradient, the others.",
        ),
        (_frozen_where(lambda name: True), "the whole model is frozen: freeze model.encoder alone."),
        (
            _frozen_where(lambda name: not _in_encoder(name)),
            "the encoder is the part that is not frozen: the others learn, it does not.",
        ),
        (
            _frozen_where(lambda name: "encoder" in name),
            "encoder_scale has `encoder` in its name, but is no part of model.encoder: take its parameters().",
        ),
        (
            _frozen_where(lambda name: name == "encoder.0.weight"),
            "the encoder's convolutions are frozen, its batch norm is not: its scale and shift are parameters, too.",
        ),
        (
            _frozen_where(_in_encoder, lambda name, p: name.split(".")[0] in ("decoder", "segmentation_head")),
            "the list is made of known parts alone, and a layer that was frozen stays in it: take all of "
            "model.parameters() that ask for a gradient.",
        ),
        (
            _frozen_where(_in_encoder, lambda name, p: not _in_encoder(name)),
            "the list holds a layer that was frozen before: take those that ask for a gradient, not all the others.",
        ),
        (
            _frozen_where(_in_encoder, thaw=True),
            "a layer that was frozen before asks for a gradient again: leave all but the encoder as it is.",
        ),
    ],
)

# -------------------------------------------------------------- train_decoder


def _modes(model: Any, step: int, every: int) -> None:
    model.train()
    model.encoder.eval()


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, ignore_index=255)


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _trained(
    modes: Callable[[Any, int, int], Any] = _modes,
    loss_of: Callable[[Tensor, Tensor], Tensor] = _cross_entropy,
    update: Callable[[torch.optim.Optimizer, Tensor], Any] = _update,
    due: Callable[[int, int], bool] = lambda step, every: step % every == 0,
    end: Callable[[nn.Module], Any] = nn.Module.eval,
) -> Callable:
    """The answer with one of its parts in another way."""

    def answer(
        model: nn.Module, batches: Iterable, optimizer: torch.optim.Optimizer, validate: Callable, eval_every: int
    ) -> tuple[list[float], list[float]]:
        losses, val_losses, kept = [], [], {}
        for step, (images, targets) in enumerate(batches, start=1):
            modes(model, step, eval_every)
            loss = loss_of(model(images), targets)
            update(optimizer, loss)
            losses.append(loss.item())
            if due(step, eval_every):
                val_losses.append(validate(model.eval()))
                if val_losses[-1] == min(val_losses):
                    kept = copy.deepcopy(model.state_dict())
        model.load_state_dict(kept)
        end(model)
        return losses, val_losses

    return answer


_train_decoder = _trained()
"""Trains on `batches` with a frozen encoder in eval mode; keeps the weights of the lowest validation loss."""


def _decoder_cases() -> Iterator[Case]:
    """The best evaluation in the middle, then the last; more steps after the last evaluation, then none.

    No two losses are equal: of equal lowest ones an answer may keep either.
    """
    for steps, every, val_losses in ((7, 2, [2.9, 2.4, 2.7]), (3, 1, [0.3, 0.6, 0.2])):
        targets = torch.randint(0, 3, (steps, 2, 6, 7))
        targets[..., :2] = 255
        images = 1 + 2 * torch.randn(steps, 2, 3, 6, 7)
        yield Case((_frozen("encoder"), images, targets, every, val_losses), f"with {steps} steps, eval_every={every}")


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
        {
            f"the number of losses {case.when}": len(result[0]),
            f"the number of validation losses {case.when}": len(result[1]),
        }
        | {f"the loss of step {step} {case.when}": loss for step, loss in enumerate(result[0], 1)}
        | {f"the loss of evaluation {number} {case.when}": loss for number, loss in enumerate(result[1], 1)}
        | {f"the state at the end {case.when}": lowest if any(same[best - 1 : best]) else state}
        | {f"{name} at the end {case.when}": weight.clone() for name, weight in at_end.items()}
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
    wrong=variants(
        _trained,
        modes=[
            (
                lambda model, step, every: model.train(),
                "the encoder is in train mode, so its batch norm takes the statistics of the batch and moves its own: "
                "model.encoder.eval() after model.train(), which sets all parts.",
            ),
            (
                lambda model, step, every: model.train() if step > every else _modes(model, step, every),
                "the encoder is in train mode after the first validation: model.encoder.eval() after each "
                "model.train().",
            ),
            (
                lambda model, step, every: None if step > every else _modes(model, step, every),
                "the decoder stays in eval mode after the first validation: model.train(), then model.encoder.eval(), "
                "before each step.",
            ),
            (
                lambda model, step, every: model.eval(),
                "the decoder is in eval mode: model.train(), then model.encoder.eval(), before each step.",
            ),
        ],
        loss_of=[
            (F.cross_entropy, "void, 255, is not left out: F.cross_entropy(..., ignore_index=255)."),
            (
                lambda logits, targets: F.cross_entropy(logits, targets.where(targets != 255, 0)),
                "void counts as class 0: leave it out with ignore_index=255.",
            ),
            (
                lambda logits, targets: F.cross_entropy(logits, targets.clamp(max=2)),
                "void counts as the last class: leave it out with ignore_index=255.",
            ),
            (
                lambda logits, targets: F.cross_entropy(logits, targets, ignore_index=255, reduction="none").mean(),
                "the mean is over void pixels, too: take that of F.cross_entropy, over the valid ones.",
            ),
            (
                lambda logits, targets: F.cross_entropy(logits, targets, ignore_index=255, reduction="sum"),
                "the losses of the pixels are added up: take their mean.",
            ),
            (
                lambda logits, targets: _cross_entropy(logits.softmax(1), targets),
                "there is a softmax before the loss: cross_entropy takes logits.",
            ),
        ],
        update=[
            (
                lambda optimizer, loss: (loss.backward(), optimizer.step()),
                "the gradients of earlier steps are added: optimizer.zero_grad() before each backward().",
            ),
            (
                lambda optimizer, loss: None,
                "the weights do not change: zero_grad(), then backward(), then step(), in this order.",
            ),
        ],
        due=[
            (
                lambda step, every: True,
                "it validates after every step: only where step % eval_every is 0.",
            ),
            (
                lambda step, every: step % every == 1 % every,
                "it validates at other steps: count them from 1, validate where step % eval_every is 0.",
            ),
        ],
        end=[(nn.Module.train, "the model ends in train mode: model.eval() after the best weights are loaded.")],
    ),
)
