"""Runs a check on an answer, for the tests of the checks."""

import contextlib
import io
from collections.abc import Iterator
from unittest.mock import patch

from labhelpers.course import checks
from labhelpers.course.checks.core import EXERCISES, Exercise


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Inside, each wrong answer that an exercise knows is run in a case once, with whatever it is compared.

    The cases are made anew for each answer, always the same ones, so that their number tells which one it is.
    """
    outcome, memory, numbers = Exercise._outcome, {}, {}
    known = {id(answer) for exercise in EXERCISES.values() for answer in exercise.wrong_answers}

    def numbered(make):
        def cases():
            made = list(make())
            numbers.update((id(case), number) for number, case in enumerate(made))
            return made

        return cases

    def once(self, check, answer, case):
        if id(answer) not in known:
            return outcome(self, check, answer, case)
        key = id(self), id(answer), numbers[id(case)]
        if key not in memory:
            memory[key] = outcome(self, check, answer, case)
        return memory[key]

    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(Exercise, "_outcome", once))
        for exercise in EXERCISES.values():
            stack.enter_context(patch.object(exercise, "cases", numbered(exercise.cases)))
        yield


def judge(name: str, answer) -> str:
    """What the check ``name`` prints about an answer; the answer must be handed back exactly when it passed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        handed_back = getattr(checks, name)(answer)
    text = printed.getvalue()
    if ": passed (" in text:
        assert handed_back is answer
        assert text.count("\n") == 1
    else:
        assert checks.is_reference(handed_back)
        assert "going on with the reference" in text
    return text


def assert_passes(name: str, answer) -> None:
    text = judge(name, answer)
    assert ": passed (" in text, text


def assert_hint(name: str, answer, *keywords: str) -> None:
    """The answer is rejected, and the hint has all the keywords."""
    text = judge(name, answer)
    assert ": passed (" not in text
    for keyword in keywords:
        assert keyword in text, text


def rows(answers: dict[str, list]) -> list[tuple]:
    """The tables of a lab, {exercise: [answer, ...]} or {exercise: [(answer, key word, ...), ...]}, for parametrize."""
    flat = [(name, row) for name, table in answers.items() for row in table]
    return [(name, row[0], row[1:]) if isinstance(row, tuple) else (name, row) for name, row in flat]
