"""The machinery of the checks: run an answer, compare what it gives, turn a mistake into a hint.

An inspection is an ordinary function ``inspect(check, answer)``, registered by :func:`exercise` under its own name. It
talks to a :class:`Check`, which runs the student's code, compares and counts; the first mistake ends it with a hint.
"""

import linecache
import os
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labhelpers.course.checks.compare import copied, difference, unchanged

Inspection = Callable[["Check", Any], None]

# What lies in these folders was not written by the student.
_INSTALLED = tuple(
    f"{folder}{os.sep}"
    for folder in (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), Path(__file__).parents[2])
)


class Mistake(Exception):
    """Its message is the hint: the likely mistake, what was expected, what was found."""


@dataclass
class Exercise:
    """One exercise: its name in the notebook, the answer of the library, how answers are inspected."""

    title: str
    reference: Callable
    inspect: Inspection
    last_hint: str = ""  # of the answer that the reference replaced, so that grading can still name it


EXERCISES: dict[str, Exercise] = {}


class Check:
    """What an inspection uses: each method that finds nothing wrong counts as one passed check."""

    def __init__(self):
        self.passed = 0

    def call(
        self, function: Callable, *arguments: Any, when: str = "", errors: Mapping[str, str] | None = None, **named: Any
    ) -> Any:
        """Run the student's code on copies of the arguments that are tensors or arrays; not counted.

        Args:
            function: the student's function, class or model.
            when: the situation in words ("for a target of 65x97"), for the hint when an exception is raised.
            errors: hints for known exceptions, by a part of the exception's message.

        Raises:
            Mistake: an exception was raised, nothing was returned, or the arguments were changed in place.
        """
        given = [copied(argument) for argument in arguments]
        try:
            result = function(*given, **named)
        except Mistake:  # raised on purpose by the inspection, in the midst of the student's code
            raise
        except Exception as error:
            raise Mistake(_exception_hint(error, when, errors or {})) from error
        if result is None or result is Ellipsis:
            raise Mistake(f"not written yet: it returns {result}. If it is written, is a `return` missing?")
        for position, (before, after) in enumerate(zip(arguments, given, strict=True), 1):
            if not unchanged(before, after):
                raise Mistake(
                    f"it changes its argument number {position} in place, so the caller's data is different "
                    "afterwards. Work on a copy (`.clone()`, `.copy()`) or use an operation that returns a new one."
                )
        return result

    def that(self, condition: bool, hint: str) -> None:
        """One check: ``condition`` holds, else the hint."""
        if not condition:
            raise Mistake(hint)
        self.passed += 1

    def equal(
        self,
        found: Any,
        expected: Any,
        what: str,
        mistakes: Iterable[tuple[Any, str]] = (),
        tolerance: float = 1e-5,
    ) -> None:
        """One check: ``found`` is ``expected`` in kind, shape, dtype and every value (see ``compare.difference``)."""
        hint = difference(found, expected, what, mistakes, tolerance)
        self.that(not hint, hint)


def exercise(title: str, reference: Callable) -> Callable[[Inspection], Callable]:
    """Register an inspection as the exercise of its own name, and make it the check that notebooks call.

    Args:
        title: the name of the function or class in the notebook.
        reference: the library's answer, handed on when the student's is not right yet.
    """

    def register(inspect: Inspection) -> Callable[[Any], Any]:
        item = Exercise(title, reference, inspect)
        EXERCISES[inspect.__name__] = item

        def check(answer: Any) -> Any:
            return _check(item, answer)

        check.__name__ = check.__qualname__ = inspect.__name__
        check.__module__, check.__doc__ = inspect.__module__, inspect.__doc__
        return check

    return register


def is_reference(answer: Any) -> bool:
    """Whether ``answer`` is the library's own answer to an exercise, not a student's."""
    return any(answer is item.reference for item in EXERCISES.values())


def grade(name: str, answer: Any) -> None:
    """Accept a student's own right answer, silently; for the graded cells.

    Args:
        name: the exercise, as its check is called: "decode_target", "fcn8s", ...

    Raises:
        AssertionError: with the hint, when the answer is wrong, or is the reference that replaced a wrong one.
        ValueError: for an unknown name; the message lists the known.
    """
    if name not in EXERCISES:
        raise ValueError(f"unknown exercise {name!r}; known: {', '.join(sorted(EXERCISES))}")
    item = EXERCISES[name]
    if is_reference(answer):
        raise AssertionError(f"{item.title}: {item.last_hint or 'this is the reference, not an answer of your own.'}")
    _, hint = _inspect(item, answer)
    if hint:
        raise AssertionError(f"{item.title}: {hint}")


def _check(item: Exercise, answer: Any) -> Any:
    if is_reference(answer):
        print(
            f"{item.title}: this is the reference, not your answer (an earlier check handed it on). Run the cell with "
            "your answer again, then this one."
        )
        return item.reference
    passed, item.last_hint = _inspect(item, answer)
    if item.last_hint:
        print(f"{item.title}: {item.last_hint}")
        print(f"{item.title}: going on with the reference. Change your cell, then run it and this one again.")
        return item.reference
    print(f"{item.title}: passed ({passed} checks)")
    return answer


def _inspect(item: Exercise, answer: Any) -> tuple[int, str]:
    """The number of checks passed, and the hint ("" when the answer is right). The global random state is kept."""
    check = Check()
    if answer is None or answer is Ellipsis:
        return 0, f"not written yet: {item.title} is {answer}."
    if not callable(answer):
        kind = type(answer).__name__
        return 0, f"this is a value of type {kind}; hand over the function or class itself, without calling it."
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            item.inspect(check, answer)
        except Mistake as mistake:
            return check.passed, str(mistake)
    return check.passed, ""


def _exception_hint(error: Exception, when: str, errors: Mapping[str, str]) -> str:
    message = str(error).strip().split("\n")[0][:300]
    place, line = _place(error)
    # torch raises NotImplementedError too: in a line of the student's that is no `raise` it means something else.
    if isinstance(error, NotImplementedError) and (not message or not line or line.startswith("raise")):
        return f"not written yet{place}."
    found = f"{type(error).__name__}{' ' + when if when else ''}{place}: {message}"
    known = [hint for part, hint in errors.items() if part in str(error)]
    return f"{known[0]} ({found})" if known else found


def _place(error: Exception) -> tuple[str, str]:
    """Where in the student's own code the error arose, in words, and that line of code."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*_INSTALLED, "<frozen"))
    ]
    if not own:
        return "", ""
    line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
    return f" in line {own[-1].lineno}" + (f" (`{line}`)" if line else ""), line
