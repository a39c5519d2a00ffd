"""Check of lab 04's early stopping: a rule about the scores of the evaluations so far."""

from collections.abc import Callable, Sequence

import numpy as np

from labhelpers.course.checks import references
from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise

_CASES = [
    ([0.5, 0.6, 0.6, 0.59], 2),
    ([0.5, 0.6, 0.59, 0.61], 2),
    ([0.5, 0.6, 0.55, 0.58], 3),
    ([0.6, 0.5, 0.52, 0.54], 3),
    ([0.6, 0.5, 0.52, 0.54], 2),
    ([0.5, 0.7, 0.6], 2),
    ([0.5, 0.6, 0.4], 2),
    ([0.5, 0.4, 0.4, 0.6], 2),
    ([0.5, 0.4, 0.6, 0.55, 0.7, 0.65], 3),
    ([0.5, 0.4, 0.6, 0.45], 3),
    ([0.6, 0.5], 2),
    ([0.6, 0.5, 0.5], 2),
    ([0.3, 0.3, 0.3], 2),
    ([0.6], 1),
    ([0.6, 0.5], 1),
    ([0.6, 0.6], 1),
    ([0.5, 0.6], 1),
    ([], 2),
    ([-0.5, -0.6, -0.7], 2),
    ([-0.7, -0.6, -0.5], 2),
    ([0.7, 0.5, 0.4, 0.45, 0.55], 2),
    ([0.2, 0.1, 0.3, 0.25, 0.26, 0.29], 3),
]
_Rule = Callable[[Sequence[float], int], bool]


def _since_best(scores: Sequence[float], last: bool = False) -> int:
    """Evaluations since the first or the last of the best."""
    if not scores:
        return 0
    places = [i for i, score in enumerate(scores) if score == max(scores)]
    return len(scores) - 1 - places[-1 if last else 0]


def _falls(scores: Sequence[float], ties: bool = True) -> list[bool]:
    return [b <= a if ties else b < a for a, b in zip(scores, scores[1:], strict=False)]


def _not_best(scores: Sequence[float], best: float = -np.inf) -> list[bool]:
    """For each evaluation whether it is no better than the best before it."""
    found = []
    for score in scores:
        found.append(score <= best)
        best = max(best, score)
    return found


_MISTAKES: list[tuple[_Rule, str]] = [
    (lambda s, n: _since_best(s, last=True) >= n, "an equal score counts as better here: only a higher one does."),
    (lambda s, n: _since_best(s) > n, "it waits one evaluation too long: `patience` without a better one are enough."),
    (lambda s, n: _since_best(s) >= n - 1, "it stops one evaluation too early."),
    (lambda s, n: _since_best(s) >= n - 1 and len(s) > 1, "it stops one evaluation too early."),
    (lambda s, n: _since_best(s, last=True) > n, "equal counts as better, and it waits one evaluation too long."),
    (
        lambda s, n: len(s) > n and all(_falls(s)[-n:]),
        "each score is compared with the one before it: compare the last ones with the best before them.",
    ),
    (
        lambda s, n: len(s) > n and all(_falls(s, ties=False)[-n:]),
        "each score is compared with the one before it: compare the last ones with the best before them.",
    ),
    (
        lambda s, n: len(s) > n and s[-1] <= s[-n - 1],
        "only the last score is compared with the one `patience` before it: all of the last with the best before.",
    ),
    (lambda s, n: len(s) > n and s[-1] <= max(s[:-n]), "only the last score is looked at: all the last `patience`."),
    (lambda s, n: len(s) > 1 and s[-1] <= max(s[:-1]), "only the last score is looked at: all the last `patience`."),
    (
        lambda s, n: len(s) > n and max(s[-n:]) <= s[-n - 1],
        "the last scores are compared with the one before them: with the best of all before them.",
    ),
    (lambda s, n: len(s) > n and s[-1] <= s[-2], "only the last two scores are compared: all the last `patience`."),
    (lambda s, n: len(s) > n and max(s[-n:]) <= min(s[:-n]), "compare with the best before them, the highest."),
    (lambda s, n: len(s) > n and min(s[-n:]) >= min(s[:-n]), "higher is better here: this is the rule for a loss."),
    (
        lambda s, n: sum(_not_best(s)) >= n,
        "it counts all evaluations without a better score: a better one starts the count again.",
    ),
    (
        lambda s, n: any(all(_not_best(s)[i : i + n]) for i in range(1, len(s) - n + 1)),
        "it looks for a pause anywhere in the past: only the last `patience` evaluations count.",
    ),
    (lambda s, n: len(s) >= n and all(_not_best(s, 0.0)[-n:]), "the best so far starts at 0: scores may be negative."),
    (lambda s, n: len(s) >= n and max(s[-n:]) <= max(s), "the last scores are compared with all, themselves included."),
    (lambda s, n: len(s) > n, "it stops after `patience` evaluations, whatever they bring."),
    (lambda s, n: not references.should_stop(list(s), n), "it is the wrong way round: True is to stop."),
    (lambda s, n: False, "it never stops."),
    (lambda s, n: True, "it always stops."),
]


@exercise("should_stop", references.should_stop)
def should_stop(check: Check, answer) -> None:
    """Ties, a late rise, pauses long past, patience 1, too few scores, none at all, negative ones."""
    errors = {
        "empty": "there may be fewer scores than `patience`, or none: False then, before max() is asked.",
        "out of range": "there may be fewer scores than `patience`, or none: False then, before anything is looked up.",
    }
    found = []
    for scores, patience in _CASES:
        given, case = list(scores), f"should_stop({scores}, {patience})"
        value = check.call(answer, given, patience, when=f"for {case}", errors=errors)
        if given != scores:
            raise Mistake("it changes the list of scores, which the caller still needs: sorted() makes a new one.")
        check.that(isinstance(value, (bool, np.bool_)), f"{case} is {kind_of(value)}, expected True or False.")
        found.append(bool(value))
    known = [hint for rule, hint in _MISTAKES if found == [bool(rule(*case)) for case in _CASES]]
    for (scores, patience), value in zip(_CASES, found, strict=True):
        expected = references.should_stop(scores, patience)
        hint = f"should_stop({scores}, {patience}) is {value}, expected {expected}"
        check.that(value == expected, f"{hint}: {known[0]}" if known else f"{hint}.")
