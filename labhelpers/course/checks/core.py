"""The machinery of the checks: run an answer, compare what it gives with the reference, turn a mistake into a hint.

An exercise is data: a reference, the cases in which answers are run, and wrong answers with their hints. A mistake is
recognised by running the wrong answers on the same cases: the one that gives what the student's gives lends its hint.
Most wrong answers are written as what differs from the source of the reference: {"> threshold": ">= threshold"}.
"""

import contextlib
import inspect
import linecache
import math
import os
import re
import signal
import sys
import sysconfig
import textwrap
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CHECK_SECONDS = 120.0
"""What one check may take: many times what the slowest takes on a slow machine."""

# What lies in these folders was not written by the student.
_INSTALLED = tuple(
    f"{folder}{os.sep}"
    for folder in (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), Path(__file__).parents[2])
)
_KINDS = {
    np.ndarray: "a NumPy array",
    torch.Tensor: "a torch tensor",
    float: "a Python float",
    int: "a Python int",
}
_CONVERSIONS = {
    (torch.Tensor, np.ndarray): " Convert it with `.numpy()`.",
    (np.ndarray, torch.Tensor): " Convert it with `torch.from_numpy(...)`.",
    (torch.Tensor, float): " Convert it with `.item()`, which also lets go of the graph behind it.",
    (torch.Tensor, int): " Convert it with `.item()`.",
    (torch.Tensor, bool): " Convert it with `.item()`.",
    (float, int): " Use integer arithmetic (`//` instead of `/`).",
    (int, float): " Convert it with `float(...)`.",
}


class Mistake(Exception):
    """Its message is the hint: the likely mistake, what was expected, what was found."""


class TimeIsUp(BaseException):
    """A check has taken `CHECK_SECONDS`; no `except Exception` of the student's keeps it."""


class Parts(dict[str, Any]):
    """Several values of one case, each by the words that begin a sentence about it: "the image of the window"."""


@dataclass(frozen=True)
class Case:
    """One situation in which an answer is run.

    Args:
        args: positional arguments, handed over as copies; changing them in place is a mistake.
        when: the situation in words, "for a target of 65x97".
        what: the result in words, the beginning of the sentence about a difference: "the weights".
        kwargs: named arguments.
        remedy: ends the sentence about a difference that no wrong answer explains: "copy the weights".
    """

    args: tuple
    when: str = ""
    what: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""

    @property
    def words(self) -> str:
        """The beginning of the sentence about a difference: "the weights for equal frequencies"."""
        return f"{self.what or 'the result'} {self.when}".strip()


def calls(name: str, *arguments: tuple) -> list[Case]:
    """A case for each tuple of arguments, its result called "poly_lr(3, 7, 0.5)"."""
    return [Case(args, what=f"{name}({', '.join(map(str, args))})") for args in arguments]


def edited(reference: Any, changes: Mapping[str, str]) -> Any:
    """The function or class `reference` with parts of its source replaced, everywhere in it (also in its signature and
    docstring) and all at once.

    The names of its module are known in it, and math, np, torch, F and nn. Its own name means the changed one.

    Raises:
        AssertionError: a part is not in the source, or overlaps another; the message names it. Or there are none.
    """
    assert changes, f"{reference.__qualname__}: nothing is changed"
    longest_first = sorted(changes, key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, longest_first))})", _source(reference))
    for old in changes:
        assert old in pieces[1::2], f"{reference.__qualname__} has no {old!r}"
    source = "".join(changes[piece] if index % 2 else piece for index, piece in enumerate(pieces))
    space = {"math": math, "np": np, "torch": torch, "F": F, "nn": nn, **vars(sys.modules[reference.__module__])}
    exec(compile(source, f"<{reference.__qualname__}, changed>", "exec"), space)
    return space[reference.__name__]


@cache  # of a class the whole file is parsed each time
def _source(reference: Any) -> str:
    return textwrap.dedent(inspect.getsource(reference))


class Check:
    """What runs a student's code: each method that finds nothing wrong counts as one passed check."""

    def __init__(self, errors: Mapping[str, str] | None = None):
        self.errors = errors or {}
        self.passed = 0

    def call(
        self, function: Callable, *arguments: Any, when: str = "", errors: Mapping[str, str] | None = None, **named: Any
    ) -> Any:
        """Run the student's code on copies of the arguments that are tensors, arrays or lists; not counted.

        Args:
            function: the student's function, class or model.
            when: the situation in words ("for a target of 65x97"), for the hint when an exception is raised.
            errors: hints for known exceptions, by a part of the exception's message, before those of the exercise.

        Raises:
            Mistake: an exception was raised, nothing was returned, or the arguments were changed in place.
        """
        given, given_named = _copied(arguments), {name: _copied(value) for name, value in named.items()}
        try:
            result = function(*given, **given_named)
        except Mistake:  # raised on purpose by the exercise, in the midst of the student's code
            raise
        except Exception as error:
            raise Mistake(exception_hint(error, when, {**(errors or {}), **self.errors})) from error
        if result is None or result is Ellipsis:
            raise Mistake(f"not written yet: it returns {result}. If it is written, is a `return` missing?")
        before, after = [*arguments, *named.values()], [*given, *given_named.values()]
        for position, (old, new) in enumerate(zip(before, after, strict=True), 1):
            if not _unchanged(old, new):
                raise Mistake(
                    f"it changes its argument number {position} in place, so the caller's data is different "
                    "afterwards. Work on a copy (`.clone()`, `.copy()`) or use an operation that returns a new one."
                )
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, torch.Tensor) and (part.is_meta or part.layout != torch.strided):
                kind = "lies on the device 'meta' and has no values" if part.is_meta else "is sparse"
                raise Mistake(f"the tensor that it returns {kind}: return an ordinary one, with all its values.")
        return result

    def that(self, condition: bool, hint: str) -> None:
        """One check: `condition` holds, else the hint."""
        if not condition:
            raise Mistake(hint)
        self.passed += 1


Run = Callable[[Check, Any, Case], Any]
Wrong = Callable | Mapping[str, str]


def run_function(check: Check, answer: Callable, case: Case) -> Any:
    """What the answer, a function, returns for the arguments of the case."""
    when = f"for {case.what}" if case.what.endswith(")") else case.when  # "for poly_lr(3, 7, 0.5)"
    return check.call(answer, *case.args, when=when, **case.kwargs)


def run_tuple(expected: str, *names: str) -> Run:
    """Compares the values of the tuple that the answer, a function, returns, by their names.

    `expected` is that tuple in words: "the pair (image, target)".
    """

    def run(check: Check, answer: Callable, case: Case) -> Parts:
        found = check.call(answer, *case.args, when=case.when, **case.kwargs)
        several = isinstance(found, (tuple, list))
        what = f"a {type(found).__name__} of {len(found)}" if several else kind_of(found)
        right = several and len(found) == len(names)
        check.that(right, f"{case.when} it returns {what}, expected {expected}.".strip())
        return Parts({f"{name} {case.when}": value for name, value in zip(names, found, strict=True)})

    return run


@dataclass(eq=False)
class Exercise:
    """One exercise; called with an answer it is the check of the notebooks: `FCN8s = checks.fcn8s(FCN8s)`.

    Args:
        title: the name of the function or class in the notebook.
        reference: the right answer, handed on when the student's is not right yet.
        cases: makes the situations in which answers are run; the random state is the same each time.
        wrong: what the student is told, and the answer with that wrong in it, or a list of several; the likely ones
            first. An answer is a function, a class, or the changes that make the reference wrong, as `edited` has them.
        source: what is changed, where the reference itself cannot be: it says in parts, or faster, what this says.
        errors: hints for known exceptions, by a part of the exception's message.
        run: gives what is compared of an answer in a case, one value or `Parts`.
        inspect: looks, before anything is compared, at what no value shows (layers, channels); raises `Mistake`.
        tolerance: greatest absolute difference that counts as equal, or a function of the expected value.
    """

    title: str
    reference: Callable
    cases: Callable[[], Iterable[Case]] = tuple
    wrong: Mapping[str, Wrong | Sequence[Wrong]] = field(default_factory=dict)
    source: Callable | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    run: Run = run_function
    inspect: Callable[[Check, Any], None] | None = None
    tolerance: float | Callable[[Any], float] = 1e-5
    last_hint: str = field(default="", init=False)  # of the answer that the reference replaced, for grading

    def __call__(self, answer: Any) -> Any:
        """Hand a right answer back, the reference for any other, and print which, with a hint."""
        if is_reference(answer):
            print(
                f"{self.title}: this is the reference, not your answer (an earlier check handed it on). Run the cell "
                "with your answer again, then this one."
            )
            return self.reference
        passed, self.last_hint = self.judge(answer)
        if self.last_hint:
            print(f"{self.title}: {self.last_hint}")
            print(f"{self.title}: going on with the reference. Change your cell, then run it and this one again.")
            return self.reference
        print(f"{self.title}: passed ({passed} check{'s' * (passed != 1)})")
        return answer

    @cached_property
    def wrong_answers(self) -> dict[Callable, str]:
        """The hint of each wrong answer, which are made when they are first asked for."""
        return {
            edited(self.source or self.reference, answer) if isinstance(answer, Mapping) else answer: hint
            for hint, answers in self.wrong.items()
            for answer in (answers if isinstance(answers, Sequence) else [answers])
        }

    def judge(self, answer: Any) -> tuple[int, str]:
        """The number of checks passed, and the hint ("" for a right answer). The global random state is kept."""
        if answer is None or answer is Ellipsis:
            return 0, f"not written yet: {self.title} is {answer}."
        if not callable(answer):
            kind = type(answer).__name__
            return 0, f"this is a value of type {kind}; hand over the function or class itself, without calling it."
        check = Check(self.errors)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            try:
                with _limit_of_time():
                    if self.inspect:
                        self.inspect(check, answer)
                    self._compare(check, answer)
            except Mistake as mistake:
                return check.passed, str(mistake)
            except TimeIsUp:
                return check.passed, f"not done after {CHECK_SECONDS:g} seconds, the limit: does a loop never end?"
            except Exception as error:  # what came back is so odd that looking at it fails
                return check.passed, f"what it returns cannot be looked at: {exception_hint(error, '', {})}"
        return check.passed, ""

    def _compare(self, check: Check, answer: Any) -> None:
        torch.default_generator.manual_seed(0)
        cases = list(self.cases())
        found = [self._outcome(check, answer, case) for case in cases]
        for number, case in enumerate(cases):
            expected = self._outcome(Check(), self.reference, case)
            assert isinstance(expected, Parts), f"{self.title}: the reference itself fails, {expected}"
            mine = found[number]
            if isinstance(mine, Mistake):
                raise Mistake(self._known(cases, found, number, "", None) or str(mine))
            for words, value in expected.items():
                hint = difference(mine[words], value, words, self._tolerance(value))
                if hint:
                    general = f"{hint[:-1]}: {case.remedy}" if case.remedy else hint
                    raise Mistake(self._known(cases, found, number, words, value) or general)
                check.passed += 1

    def _outcome(self, check: Check, answer: Any, case: Case) -> Parts | Mistake:
        """The values of an answer in a case, or how it failed; always from the same random state."""
        torch.default_generator.manual_seed(0)
        try:
            value = self.run(check, answer, case)
        except Mistake as mistake:
            return mistake
        return value if isinstance(value, Parts) else Parts({case.words: value})

    def _known(self, cases: list[Case], found: list[Parts | Mistake], number: int, words: str, expected: Any) -> str:
        """The hint of the first wrong answer that gives in every case what was found, "" where none does.

        Else of the first that gives it where the answer first went wrong (in case `number`, in the value `words`),
        unless that is a whole number or a truth value, which agree by chance. Also "" where the wrong answers cannot be
        made or run, as after an upgrade under a running kernel: what is wrong can still be said in general words.
        """
        unsure = ""
        # Their warnings are not the student's.
        with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
            for answer, hint in self.wrong_answers.items():
                given = self._outcome(Check(self.errors), answer, cases[number])
                if not self._agree(found[number], given, words, expected):
                    continue
                others = (
                    _agree_throughout(mine, self._outcome(Check(self.errors), answer, case), self._tolerance)
                    for other, (mine, case) in enumerate(zip(found, cases, strict=True))
                    if other != number
                )
                said = f"{_numbers_apart(found[number], words, expected)}{hint}"
                if _agree_throughout(found[number], given, self._tolerance) and all(others):
                    return said
                if isinstance(expected, (float, np.ndarray, torch.Tensor)):
                    unsure = unsure or said
        return unsure

    def _agree(self, found: Parts | Mistake, wrong: Parts | Mistake, words: str, expected: Any) -> bool:
        """Whether a wrong answer gives, where the answer first went wrong, the same wrong value or failure."""
        if not words or isinstance(wrong, Mistake) or isinstance(found, Mistake):
            return _agree_throughout(found, wrong, self._tolerance)
        if words not in wrong:
            return False
        mine, theirs, tolerance = found[words], wrong[words], self._tolerance(expected)
        if _other_kind(mine, expected, "") or _alike(mine, expected, tolerance):  # kind or dtype alone is wrong
            return not difference(mine, theirs, "", tolerance)
        return _alike(mine, theirs, tolerance)

    def _tolerance(self, expected: Any) -> float:
        return self.tolerance(expected) if callable(self.tolerance) else self.tolerance


EXERCISES: dict[str, Exercise] = {}
"""Every exercise by the name of its check: "decode_target", "fcn8s", ..."""


def is_reference(answer: Any) -> bool:
    """Whether `answer` is the library's own answer to an exercise, not a student's."""
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
    _, hint = item.judge(answer)
    if hint:
        raise AssertionError(f"{item.title}: {hint}")


# ---------------------------------------------------------------- comparing


def difference(found: Any, expected: Any, what: str, tolerance: float = 1e-5) -> str:
    """The hint that tells `found` from `expected`; "" when kind, shape, dtype and every value agree.

    Args:
        expected: an array, a tensor, a number, a truth value, or a tuple, list or dictionary of such; `found` must be
            of the same kind.
        what: what is compared, in words, the beginning of the sentence.
        tolerance: greatest absolute difference that counts as equal.
    """
    hint = _other_kind(found, expected, what)
    if hint:
        return hint
    if isinstance(expected, (tuple, list, dict)):
        return _difference_inside(found, expected, what, tolerance)
    if isinstance(expected, (bool, str)):
        return "" if found == expected else f"{what} is {found}, expected {expected}."
    a, b = _numbers(found), _numbers(expected)
    if _same(a, b, tolerance):
        if _dtype(found) != _dtype(expected):
            return f"{what} has the right values, but its dtype is {found.dtype}; expected {expected.dtype}."
        return ""
    if a.ndim == b.ndim <= 4:
        for axes in permutations(range(a.ndim)):
            if _same(a.transpose(axes), b, tolerance):
                return (
                    f"{what} holds the right values with its axes in another order: its shape is {a.shape}, expected "
                    f"{b.shape}."
                )
    if a.shape != b.shape:
        return f"{what} has shape {a.shape}, expected {b.shape}."
    if a.ndim == 0:
        return f"{what} is {float(a):.6g}, expected {float(b):.6g}."
    places = np.argwhere(~_close(a, b, tolerance))
    first = tuple(int(i) for i in places[0])
    return (
        f"{what} differs in {len(places)} of {a.size} values, first at {list(first)}: expected {float(b[first]):.6g}, "
        f"found {float(a[first]):.6g}."
    )


def kind_of(value: Any) -> str:
    """What a value is, in words: "a torch tensor", "a value of type dict"."""
    return next(
        (words for kind, words in _KINDS.items() if _is(value, kind)), f"a value of type {type(value).__name__}"
    )


def _difference_inside(found: Any, expected: Any, what: str, tolerance: float) -> str:
    if isinstance(expected, dict):
        if set(found) != set(expected):
            return f"{what} has the keys {list(found)}, expected {list(expected)}."
        pairs = {f"{what}[{key!r}]": (found[key], value) for key, value in expected.items()}
    elif expected and all(_is(value, int) for value in expected):
        return "" if list(found) == list(expected) else f"{what} is {found}, expected {expected}."
    elif len(found) != len(expected):
        return f"{what} has {len(found)} parts, expected {len(expected)}."
    else:
        pairs = {f"{what}[{i}]": pair for i, pair in enumerate(zip(found, expected, strict=True))}
    hints = (difference(mine, right, words, tolerance) for words, (mine, right) in pairs.items())
    return next(filter(None, hints), "")


def _other_kind(found: Any, expected: Any, what: str) -> str:
    if isinstance(expected, (tuple, list)) and isinstance(found, (tuple, list)):
        return ""
    kind = next((kind for kind in (*_KINDS, bool) if _is(expected, kind)), type(expected))
    if _is(found, kind):
        odd = kind in (np.ndarray, torch.Tensor) and _numbers(found).dtype.kind not in "biuf"
        return f"{what} has dtype {found.dtype}, expected {expected.dtype}." if odd else ""
    conversion = next((text for (a, b), text in _CONVERSIONS.items() if b is kind and _is(found, a)), "")
    return f"{what} is {kind_of(found)}, expected {kind_of(expected)}.{conversion}"


def _is(value: Any, kind: type) -> bool:
    if kind is bool:
        return isinstance(value, (bool, np.bool_))
    numbers = {float: (float, np.floating), int: (int, np.integer)}
    return isinstance(value, numbers.get(kind, kind)) and not isinstance(value, bool)


def _numbers(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()  # NumPy has no bfloat16
    if isinstance(value, int) and abs(value) >= 2**63:
        return np.asarray(float(max(min(value, 10**300), -(10**300))))
    return np.asarray(value)


def _dtype(value: Any) -> Any:
    return value.dtype if isinstance(value, (np.ndarray, torch.Tensor)) else None


def _same(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return a.shape == b.shape and bool(_close(a, b, tolerance).all())


def _close(a: np.ndarray, b: np.ndarray, tolerance: float) -> np.ndarray:
    """Elementwise, in float64 so that unsigned bytes do not wrap around; NaN equals NaN and inf equals inf."""
    return np.isclose(a.astype(np.float64), b.astype(np.float64), rtol=0, atol=tolerance, equal_nan=True)


def _alike(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two values agree in all their numbers, whatever their kinds and dtypes."""
    if all(any(_is(x, kind) for kind in _KINDS) for x in (a, b)):
        numbers = _numbers(a), _numbers(b)
        return all(x.dtype.kind in "biuf" for x in numbers) and _same(*numbers, tolerance)
    return not difference(a, b, "", tolerance)


def _agree_throughout(found: Parts | Mistake, wrong: Parts | Mistake, tolerance: Callable[[Any], float]) -> bool:
    """Whether two outcomes of a case are the same: the same values, or exceptions of the same kind."""
    if isinstance(found, Mistake) or isinstance(wrong, Mistake):
        return (
            isinstance(found, Mistake)
            and isinstance(wrong, Mistake)
            and (type(found.__cause__), str(found.__cause__ or found))
            == (type(wrong.__cause__), str(wrong.__cause__ or wrong))
        )
    same_parts = found.keys() == wrong.keys()
    return same_parts and all(_alike(found[words], value, tolerance(value)) for words, value in wrong.items())


def _numbers_apart(found: Parts | Mistake, words: str, expected: Any) -> str:
    """ "the loss is 0.3, expected 0.5: " where a number, a short list or the like says more than the hint alone."""
    if isinstance(found, Mistake) or not words:
        return f"{found} " if isinstance(found, Mistake) and not found.__cause__ else ""
    a, b = found[words], expected
    if isinstance(b, list) and isinstance(a, list) and max(len(a), len(b)) < 6:
        return f"{words} is {a}, expected {b}: "
    if not all(_is(x, int) or _is(x, float) or (isinstance(x, torch.Tensor) and x.ndim == 0) for x in (a, b)):
        return ""
    mine, right = (f"{float(_numbers(x)):.6g}" for x in (a, b))
    return f"{words} is {mine}, expected {right}: " if mine != right else ""  # the same where the kind alone is wrong


# ------------------------------------------------------------- running code


@contextlib.contextmanager
def _limit_of_time() -> Iterator[None]:
    """Raises `TimeIsUp` in the student's code after `CHECK_SECONDS`; a signal does it, which Windows has not."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, CHECK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _copied(value: Any) -> Any:
    """A copy of a tensor or array, also of those in a list or tuple; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        return value.copy()
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def _unchanged(before: Any, after: Any) -> bool:
    """Whether `after`, once a copy of `before`, still equals it; also inside a list or tuple."""
    if isinstance(before, (np.ndarray, torch.Tensor)):
        return _same(_numbers(after), _numbers(before), 0.0)
    if type(before) in (list, tuple):
        return len(before) == len(after) and all(map(_unchanged, before, after))
    return before is after or bool(before == after)


def exception_hint(error: Exception, when: str, errors: Mapping[str, str]) -> str:
    message = re.sub(r"\x1b\[\d*m", "", str(error)).strip().split("\n")[0][:300]  # torch sets words in bold
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
