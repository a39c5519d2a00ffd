"""Checks of lab 05, comparing models: the best epoch, the Pareto front, where several models disagree."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labhelpers.course.checks import references
from labhelpers.course.checks.compare import difference, kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise

NAN = math.nan


@exercise("best_epoch", references.best_epoch)
def best_epoch(check: Check, answer) -> None:
    """A dip before the lowest, equal ones, nan in every place, a loss of 0, large losses, a single one."""
    cases = [
        [0.9, 0.6, 0.7, 0.4, 0.5],
        [0.8, 0.5, 0.6, 0.5, 0.7],
        [NAN, 0.9, 0.4, NAN, 0.6],
        [0.7, NAN, 0.3, 0.8],
        [0.4, 0.0, 0.2],
        [250.0, 180.0, 190.0],
        [2.5],
    ]

    def known(losses: list[float]) -> list[float]:
        return [loss for loss in losses if loss == loss]

    mistakes = [
        (lambda x: int(np.nanargmin(x)), "it counts from 0: the first evaluation is 1."),
        (lambda x: 1 + int(np.nanargmax(x)), "this is the highest loss: the lowest is the best."),
        (lambda x: int(np.nanargmax(x)), "this is the highest loss, counted from 0: the lowest is the best."),
        (lambda x: 1 + int(np.argmin(x)), "nan counts as the lowest: leave it out (`math.isnan`, or np.nanargmin)."),
        (lambda x: int(np.argmin(x)), "nan counts as the lowest, and it counts from 0: leave nan out, count from 1."),
        (
            lambda x: 1 + x.index(min(x)),
            "it is right but where the first loss is nan: nothing is less than nan, so min() keeps it. Leave nan out.",
        ),
        (lambda x: x.index(min(x)), "it counts from 0, and min() keeps a nan that comes first: leave nan out."),
        (
            lambda x: 1 + known(x).index(min(known(x))),
            "nan is taken out before the places are counted, so all behind it move up.",
        ),
        (
            lambda x: len(x) - x[::-1].index(min(known(x))),
            "of several equal losses it takes the last: the first counts.",
        ),
        (lambda x: len(x), "this is the last evaluation: return the one with the lowest loss."),
        (lambda x: min(known(x)), "this is the lowest loss itself: return at which evaluation it was reached."),
        (_first_dip, "it stops at the first rise: the loss may fall again, look at all evaluations."),
    ]
    found = [_on_lists(check, answer, case) for case in cases]
    hint = _recognised(found, [(case,) for case in cases], mistakes)
    wrong = [
        difference(value, references.best_epoch(case), f"best_epoch({case})")
        for value, case in zip(found, cases, strict=True)
    ]
    if not hint and not any(text for text, case in zip(wrong, cases, strict=True) if known(case) == case):
        hint = "it is right but where a loss is nan: leave nan out (`math.isnan`)."
    for text, value, case in zip(wrong, found, cases, strict=True):
        expected = references.best_epoch(case)
        check.that(not text, f"{hint} best_epoch({case}) is {_short(value)}, expected {expected}." if hint else text)


def _first_dip(losses: list[float]) -> int:
    rises = (i for i in range(1, len(losses)) if losses[i] > losses[i - 1])
    return next(rises, len(losses))


@exercise("pareto_front", references.pareto_front)
def pareto_front(check: Check, answer) -> None:
    """Equal latencies, equal scores, equal models, one below the straight line between two; then many ties."""
    latency = [30.0, 10.0, 20.0, 20.0, 50.0, 30.0, 20.0, 60.0, 55.0]
    score = [0.70, 0.50, 0.45, 0.62, 0.70, 0.66, 0.62, 0.80, 0.71]
    ties = torch.randint(1, 6, (4, 2, 9)).tolist()
    cases = [
        (latency, score),
        *(([10.0 * x for x in fast], [x / 8 for x in good]) for fast, good in ties),
        ([3.0, 2.0], [0.0, 0.0]),
        ([5.0], [0.5]),
    ]
    found = [_indices(_on_lists(check, answer, *case)) for case in cases]
    hint = _recognised([sorted(indices) for indices in found], cases, _pareto_mistakes())
    for indices, (latency, score) in zip(found, cases, strict=True):
        expected = references.pareto_front(latency, score)
        what = f"pareto_front(latency={latency}, score={score}) is {_short(indices)}, expected {expected}."
        check.that(sorted(indices) == sorted(expected), f"{hint} {what}" if hint else what)
        in_order = [latency[i] for i in indices] == [latency[i] for i in expected]
        check.that(in_order, f"the right models in another order: by latency, the fastest first. {what}")


def _pareto_mistakes() -> list[tuple[Callable[[list, list], list[int]], str]]:
    def unless(beats: Callable) -> Callable[[list, list], list[int]]:
        """The models that no other one beats; ``beats`` has latency and score of the other, then of the one."""

        def front(latency: list[float], score: list[float]) -> list[int]:
            models = list(enumerate(zip(latency, score, strict=True)))
            return [i for i, one in models if not any(beats(*other, *one) for j, other in models if j != i)]

        return front

    def without(keep: Callable) -> Callable[[list, list], list[int]]:
        """The right front with only one of several equal models."""

        def front(latency: list[float], score: list[float]) -> list[int]:
            right = references.pareto_front(latency, score)
            groups = {(latency[i], score[i]): [] for i in right}
            for i in right:
                groups[latency[i], score[i]].append(i)
            return sorted(keep(group) for group in groups.values())

        return front

    def beaten(latency: list[float], score: list[float]) -> list[int]:
        return sorted(set(range(len(score))) - set(references.pareto_front(latency, score)))

    def best_two(latency: list[float], score: list[float]) -> list[int]:
        return sorted({int(np.argmin(latency)), int(np.argmax(score))})

    def from_one(latency: list[float], score: list[float]) -> list[int]:
        return sorted(1 + i for i in references.pareto_front(latency, score))

    both = "not slower, not worse, and better in one of the two is enough to beat a model."
    equal = "{} equal models on the front {}: neither beats the other, so both stay."
    return [
        (from_one, "indices count from 0."),
        (best_two, "these are the fastest and the best alone: between them lie models that none beats either."),
        (lambda latency, score: list(range(len(score))), "this is every model: leave out those that another beats."),
        (beaten, "these are the models that another one beats: return the others."),
        (lambda latency, score: [], "it is empty. Is each model compared with itself, or a model with its equal?"),
        (unless(lambda a, s, b, t: a < b and s > t), f"only better in both counts as beating: {both}"),
        (
            unless(lambda a, s, b, t: a < b and s >= t),
            "of two models equally fast, the one with the lower score stays.",
        ),
        (unless(lambda a, s, b, t: a <= b and s > t), "of two models with equal scores, the slower one stays."),
        (unless(lambda a, s, b, t: a < b or s > t), f"better in one alone counts as beating (`or`): {both}"),
        (unless(lambda a, s, b, t: a <= b and s >= t), equal.format("two", "throw each other out")),
        (without(min), equal.format("of", "only the first is kept")),
        (without(max), equal.format("of", "only the last is kept")),
        (unless(lambda a, s, b, t: a <= b and s <= t and (a, s) != (b, t)), "a higher score is better, not a lower."),
        (unless(lambda a, s, b, t: a >= b and s >= t and (a, s) != (b, t)), "a lower latency is better, not a higher."),
        (unless(lambda a, s, b, t: a >= b and s <= t and (a, s) != (b, t)), "fast and good is what beats a model."),
        (_above_neighbour, "it looks at the next faster model alone: compare with all of them."),
        (_hull, "these are the corners of the convex hull: a model below the line between two others is not beaten."),
    ]


def _above_neighbour(latency: list[float], score: list[float]) -> list[int]:
    order = sorted(range(len(score)), key=lambda i: (latency[i], -score[i]))
    pairs = zip(order, order[1:], strict=False)
    return sorted(order[:1] + [i for before, i in pairs if score[i] > score[before]])


def _hull(latency: list[float], score: list[float]) -> list[int]:
    front = references.pareto_front(latency, score)
    points = [np.array([latency[i], score[i]]) for i in front]

    def below(i: int) -> bool:
        spans = ((a, b) for a in points for b in points if a[0] < points[i][0] < b[0])
        return any(points[i][1] < a[1] + (b[1] - a[1]) * (points[i][0] - a[0]) / (b[0] - a[0]) - 1e-9 for a, b in spans)

    return sorted(index for i, index in enumerate(front) if not below(i))


def _indices(result: Any) -> list[int]:
    if isinstance(result, (Tensor, np.ndarray)):
        raise Mistake(f"it returns {kind_of(result)}, expected a list of indices. Convert it with `.tolist()`.")
    if isinstance(result, set):
        raise Mistake("it returns a set, which has no order: return a list, the fastest model first.")
    if not isinstance(result, (list, tuple)):
        raise Mistake(f"it returns {kind_of(result)}, expected a list of indices.")
    for value in result:
        if isinstance(value, (bool, np.bool_)):
            raise Mistake("it returns True and False for the models: return the indices of those on the front.")
        if kind_of(value) != "a Python int":
            raise Mistake(f"the list holds {kind_of(value)}: return the models' indices, not their numbers or names.")
    return [int(value) for value in result]


@exercise("disagreement", references.disagreement)
def disagreement(check: Check, answer) -> None:
    """Seven models that guess, labels far apart, ties, one model alone, models that all agree."""
    guesses = torch.randint(0, 4, (7, 5, 6), dtype=torch.uint8)
    far = torch.tensor([0, 3, 20], dtype=torch.uint8)[torch.randint(0, 3, (4, 5, 8))]
    cases = {
        "of seven models": (guesses, 4),
        "of four models and labels up to 20": (far, 21),
        "of models that all agree": (guesses[:1].expand(3, -1, -1).clone(), 4),
        "of one model alone": (guesses[:1], 4),
    }
    errors = {
        "one_hot is only applicable to index tensor": "one_hot wants int64 labels: predictions.long().",
        "must be smaller than num_classes": "one_hot counts labels up to num_classes - 1.",
        "bool value of Tensor": "a comparison of tensors is a tensor of True and False: take its mean over the models.",
    }
    for words, (predictions, num_classes) in cases.items():
        found = check.call(answer, predictions, num_classes, when=words, errors=errors)
        expected = references.disagreement(predictions, num_classes)
        mistakes = _vote_mistakes(predictions, num_classes) if predictions is guesses else ()
        check.equal(found, expected, f"the map {words}", mistakes)


def _vote_mistakes(predictions: Tensor, num_classes: int) -> list[tuple[Tensor, str]]:
    models, labels = len(predictions), predictions.float()
    votes = torch.stack([(predictions == k).sum(0) for k in range(num_classes)])
    most, share = votes.amax(0).float(), votes / models
    right = 1 - most / models
    majority, median, mean = votes.argmax(0), labels.median(0).values, labels.mean(0).round()
    distinct = (votes > 0).sum(0).float()
    pairs = (predictions[:, None] != predictions[None]).float()
    names = "labels are names, not amounts: 1 and 20 are as different as 1 and 2. Count how often each label occurs."
    in_pairs = "it compares models in pairs: compare each with the most frequent label at the pixel."
    others = models - 1
    return [
        (most / models, "this is the share that agrees: the disagreement is 1 minus that, 0 where all agree."),
        (models - most, "this is a number of models: divide by how many there are."),
        (
            most,
            "this is the number of votes for the most frequent label: divide by the number of models, then 1 minus.",
        ),
        (majority, "this is the most frequent label: return the share of the models that do not vote for it."),
        (labels.std(0), f"this is the standard deviation of the labels: {names}"),
        (labels.std(0, correction=0), f"this is the standard deviation of the labels: {names}"),
        (labels.var(0), f"this is the variance of the labels: {names}"),
        (labels.var(0, correction=0), f"this is the variance of the labels: {names}"),
        (
            (labels != mean).float().mean(0),
            f"it compares with the mean label, rounded, not with the most frequent one: {names}",
        ),
        ((labels != median).float().mean(0), f"it compares with the median label, not with the most frequent: {names}"),
        (pairs.mean((0, 1)), in_pairs),
        (
            pairs.sum((0, 1)) / (models * others),
            in_pairs,
        ),
        *(
            (wrong, f"it compares with the {place} model: compare with the most frequent label at the pixel.")
            for place, i in (("first", 0), ("last", -1))
            for wrong in (pairs[i].mean(0), pairs[i].sum(0) / others)
        ),
        (distinct, "this is the number of different labels: how many models vote for which counts, too."),
        (distinct / models, "it counts different labels: how many models vote for which counts, too."),
        ((distinct - 1) / others, "it counts different labels: how many models vote for which counts, too."),
        ((distinct > 1).float(), "it is 1 wherever not all agree: return the share of the models."),
        (torch.special.entr(share).sum(0), "this is the entropy of the votes: return the share that differs."),
        (1 - most / num_classes, "it divides by the number of classes: divide by the number of models."),
        ((models - most) / num_classes, "it divides by the number of classes: divide by the number of models."),
        ((models - most) / others, "it divides by the number of models minus 1: divide by the number of models."),
        (1 - votes[1:].amax(0) / models, "votes for class 0 are not counted: background is an opinion, too."),
        (1 - votes[:-1].amax(0) / models, "votes for the last class are not counted: labels go to num_classes - 1."),
        (1 - share.topk(2, 0).values[1], "this is 1 minus the second most frequent: take the most frequent label."),
        (share.topk(2, 0).values.diff(dim=0)[0].neg(), "this is the lead of the first label over the second."),
        (right.mean(), "this is one number for the whole image: return a map, one number for each pixel."),
        (100 * right, "it is in percent: return a fraction between 0 and 1."),
    ]


def _on_lists(check: Check, answer: Callable, *lists: list[float]) -> Any:
    """The answer for copies of the lists, which it must leave as they are."""
    given = [list(numbers) for numbers in lists]
    result = check.call(answer, *given, when=f"for {_short(lists[0] if len(lists) == 1 else lists)}")
    for before, after in zip(lists, given, strict=True):
        if repr(before) != repr(after):
            raise Mistake("it changes its argument in place, so the caller's list is different afterwards: copy it.")
    return result


def _recognised(found: Sequence[Any], cases: Sequence[tuple], mistakes: Iterable[tuple[Callable, str]]) -> str:
    """The hint of the first wrong formula that gives what was found, in all cases; one case alone fits several."""
    return next(
        (
            hint
            for wrong, hint in mistakes
            if all(_equal(value, wrong(*case)) for value, case in zip(found, cases, strict=True))
        ),
        "",
    )


def _equal(value: Any, wrong: Any) -> bool:
    return value == wrong if isinstance(wrong, list) else not difference(value, wrong, "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:119]}…"
