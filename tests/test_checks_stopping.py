"""The check of early stopping accepts the rule in any words and names the mistake of other rules."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import assert_hint, assert_passes

from labhelpers.course import checks


def by_maximum(scores, patience):
    if len(scores) <= patience:
        return False
    return max(scores[-patience:]) <= max(scores[:-patience])


def by_counter(scores, patience):
    best, waited = -math.inf, 0
    for score in scores:
        best, waited = (score, 0) if score > best else (best, waited + 1)
    return waited >= patience


def by_place_of_the_best(scores, patience):
    return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= patience


def by_numpy(scores, patience):
    if len(scores) == 0:
        return False
    return len(scores) - 1 - np.argmax(scores) >= patience


def by_loops(scores, patience):
    if len(scores) < patience + 1:
        return False
    for late in scores[len(scores) - patience :]:
        better = True
        for early in scores[: len(scores) - patience]:
            if late <= early:
                better = False
        if better:
            return True is False
    return True


def not_any(scores, patience):
    before, last = scores[:-patience], scores[-patience:]
    return bool(before) and not any(score > max(before) for score in last)


RIGHT = [by_maximum, by_counter, by_place_of_the_best, by_numpy, by_loops, not_any]


@pytest.mark.parametrize("answer", RIGHT)
def test_should_stop_accepts(answer):
    assert_passes("should_stop", answer)


def counter(*, best=-math.inf, better=lambda a, b: a > b, reset=True, more=0, follow=False, ever=False):
    def should_stop(scores, patience):
        top, waited, stopped = best, 0, False
        for score in scores:
            if better(score, top):
                top, waited = score, 0 if reset else waited
            else:
                waited += 1
                top = score if follow else top
            stopped |= waited >= patience + more
        return stopped if ever else waited >= patience + more

    return should_stop


def sorts(scores, patience):
    result = by_maximum(scores, patience)
    scores.sort()
    return result


WRONG = [
    (lambda s, n: len(s) > n and s[-1] <= s[-2], "only the last two scores are compared"),
    (counter(follow=True), "compared with the one before it"),
    (counter(follow=True, better=lambda a, b: a >= b), "compared with the one before it"),
    (counter(better=lambda a, b: a >= b), "an equal score counts as better"),
    (lambda s, n: len(s) > n and max(s[-n:]) < max(s[:-n]), "an equal score counts as better"),
    (counter(more=1), "it waits one evaluation too long"),
    (lambda s, n: len(s) > n + 1 and max(s[-n - 1 :]) <= max(s[: -n - 1]), "it waits one evaluation too long"),
    (counter(more=-1), "it stops one evaluation too early"),
    (counter(reset=False), "a better one starts the count again"),
    (counter(ever=True), "it looks for a pause anywhere in the past"),
    (counter(best=0.0), "the best so far starts at 0"),
    (counter(best=math.inf, better=lambda a, b: a < b), "this is the rule for a loss"),
    (lambda s, n: len(s) > n and s[-1] <= max(s[:-n]), "only the last score is looked at"),
    (lambda s, n: len(s) > 1 and s[-1] <= max(s[:-1]), "only the last score is looked at"),
    (lambda s, n: len(s) > n and s[-1] <= s[-n - 1], "`patience` before it"),
    (lambda s, n: len(s) > n and max(s[-n:]) <= s[-n - 1], "compared with the one before them"),
    (lambda s, n: len(s) > n and max(s[-n:]) <= max(s), "it stops after `patience` evaluations"),
    (lambda s, n: len(s) > n, "it stops after `patience` evaluations"),
    (lambda s, n: not by_maximum(s, n), "the wrong way round"),
    (lambda s, n: False, "it never stops"),
    (lambda s, n: True, "it always stops"),
    (lambda s, n: max(s[-n:]) <= max(s[:-n]), "there may be fewer scores than `patience`, or none"),
    (lambda s, n: s[-n - 1] >= max(s[-n:]), "there may be fewer scores than `patience`, or none"),
    (lambda s, n: len(s) > n and max(s[-n], s[-1]) <= max(s[:-n]), "is True, expected False"),
    (sorts, "in place"),
    (lambda s, n: int(by_maximum(s, n)), "a Python int, expected True or False"),
    (lambda s, n: torch.tensor(by_maximum(s, n)), "a torch tensor, expected True or False"),
    (lambda s, n: True if by_maximum(s, n) else None, "a `return` missing"),
]


@pytest.mark.parametrize(("answer", "hint"), WRONG)
def test_should_stop_rejects(answer, hint):
    assert_hint("should_stop", answer, hint)


@given(st.lists(st.integers(-3, 3), max_size=9), st.integers(1, 4))
@settings(deadline=None)
def test_reference_agrees_with_every_other_way_to_say_it(scores, patience):
    assert {bool(rule(scores, patience)) for rule in [*RIGHT, checks.should_stop.reference]} == {
        by_counter(scores, patience)
    }
