"""Checks of exercises that are one formula: numbers in, one number out."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check

Formula = Callable[..., float]


def check_formula(
    check: Check,
    answer: Callable,
    name: str,
    cases: Sequence[tuple],
    right: Formula,
    mistakes: Iterable[tuple[Formula, str]],
    tolerance: float = 1e-9,
) -> None:
    """One check for each case; a wrong formula is recognised by all cases together, since one alone fits several.

    Args:
        name: the function's, for the hints: "poly_lr(3, 7, 0.5) is 0.5, expected ...".
        cases: tuples of positional arguments.
        right: the formula that is right, with the kind of its result, int or float.
        mistakes: pairs (wrong formula, its hint).
    """
    calls = [f"{name}({', '.join(map(str, case))})" for case in cases]
    found = [check.call(answer, *case, when=f"for {call}") for call, case in zip(calls, cases, strict=True)]
    known = [hint for formula, hint in mistakes if _agrees(found, formula, cases, tolerance)]
    for call, case, value in zip(calls, cases, found, strict=True):
        expected = right(*case)
        wrong = [(value, f"{call} is {value:.6g}, expected {expected:.6g}: {hint}") for hint in known]
        check.equal(value, expected, call, wrong, tolerance)


def _agrees(found: list[Any], formula: Formula, cases: Sequence[tuple], tolerance: float) -> bool:
    numbers = all(kind_of(value) in ("a Python int", "a Python float") for value in found)
    return numbers and all(abs(value - formula(*case)) <= tolerance for value, case in zip(found, cases, strict=True))
