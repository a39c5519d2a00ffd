"""The machinery of the checks, and what holds for every exercise: each wrong answer gets the hint that it is told."""

import itertools
import linecache
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import judge
from torch import nn

from labhelpers import data
from labhelpers.course import checks
from labhelpers.course.checks import core
from labhelpers.course.checks.core import EXERCISES, difference

every_exercise = pytest.mark.parametrize("name", sorted(EXERCISES))
_cells = itertools.count()


def own(reference):
    """An answer as right as the reference, but not the same object."""
    if isinstance(reference, type):
        return type(reference.__name__, (reference,), {})
    return lambda *given, **named: reference(*given, **named)


def run_cell(source: str) -> dict:
    """Executes a cell as a notebook does, with its source known to tracebacks."""
    source = textwrap.dedent(source).strip()
    name = f"<cell {next(_cells)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace = {}
    exec(compile(source, name, "exec"), namespace)
    return namespace


def share_of(x, y):
    return x / (x + y)


def test_changes_of_the_source_are_made_everywhere_and_all_at_once():
    assert core.edited(share_of, {"x + y": "y"})(1, 2) == 0.5
    assert core.edited(share_of, {"return x": "return y", "x + y": "x - y"})(3, 2) == 2
    with pytest.raises(AssertionError, match=r"share_of has no 'z'"):
        core.edited(share_of, {"z": "x"})
    with pytest.raises(AssertionError, match=r"share_of has no '\+ y'"):
        core.edited(share_of, {"x + y": "x", "+ y": "- y"})  # the longer one takes it


def test_each_exercise_has_its_own_name_and_is_called_in_a_notebook():
    assert len(EXERCISES) == sum(map(len, checks.BY_LAB.values()))
    labs = (Path(__file__).parent.parent / "notebooks").glob("0*.ipynb")
    called = {name for lab in labs for name in re.findall(r"checks\.(\w+)\(", lab.read_text("utf-8"))}
    assert called == set(EXERCISES) | {"grade"}
    assert all(getattr(checks, name) is exercise for name, exercise in EXERCISES.items())


def test_what_is_changed_in_the_place_of_a_reference_says_the_same():
    sources = {name: exercise.source for name, exercise in EXERCISES.items() if exercise.source}
    assert sources
    for name, source in sources.items():
        assert ": passed (" in judge(name, own(source))


def test_wrong_answers_that_cannot_be_made_leave_the_general_hint():
    exercise = core.Exercise("share_of", share_of, lambda: core.calls("share_of", (1, 2)), wrong={"a hint": {"z": "x"}})
    assert exercise.judge(lambda x, y: x / y)[1] == "share_of(1, 2) is 0.5, expected 0.333333."


@every_exercise
def test_right_answer_passes_and_the_line_is_always_the_same(name):
    answer = own(EXERCISES[name].reference)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    text = judge(name, answer)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    assert text.startswith(f"{EXERCISES[name].title}: passed (")
    torch.manual_seed(1)
    assert judge(name, answer) == text
    assert checks.grade(name, answer) is None


@every_exercise
def test_each_wrong_answer_gets_its_own_hint(name):
    wrong = EXERCISES[name].wrong_answers
    hints = [judge(name, answer).splitlines()[0] for answer in wrong]
    for hint, said in zip(wrong.values(), hints, strict=True):
        assert said.endswith(hint)
        assert len(said) < 600
        assert hint.endswith((".", "?", ".)", "?)"))
        assert any(mark in hint for mark in (":", ",", ";", "`", "("))  # what is wrong, and what to do


@every_exercise
def test_every_argument_changed_in_place_is_noticed(name):
    reference = EXERCISES[name].reference
    if isinstance(reference, type):
        return
    changed = []

    def answer(*given, **named):
        result = reference(*given, **named)
        for argument in given:
            if isinstance(argument, (torch.Tensor, np.ndarray)) and argument.size and not changed:
                changed.append(True)
                with torch.no_grad():
                    argument[...] = 1 - 1 * argument
        return result

    assert ("in place" in judge(name, answer)) == bool(changed)


def test_wrong_answer_hands_on_the_reference_and_fails_the_grade_with_its_hint(capsys):
    wrong = lambda target: data.decode_target(target)[..., ::-1]  # noqa: E731
    handed_on = checks.decode_target(wrong)
    assert handed_on is data.decode_target
    assert checks.is_reference(handed_on)
    assert not checks.is_reference(wrong)
    for answer in (wrong, handed_on):
        with pytest.raises(AssertionError, match="decode_target: red and blue"):
            checks.grade("decode_target", answer)
    capsys.readouterr()
    assert checks.decode_target(handed_on) is handed_on
    assert "not your answer" in capsys.readouterr().out


def test_handing_in_the_library_function_is_not_an_answer():
    with pytest.raises(AssertionError, match="reference"):
        checks.grade("voc_palette", data.voc_palette)


def test_unknown_exercise_lists_the_known():
    with pytest.raises(ValueError, match="decode_taget.*known: .*decode_target"):
        checks.grade("decode_taget", None)


def test_exception_is_reported_with_its_line_in_the_cell():
    cell = run_cell(
        """
        def helper(matrix):
            return matrix.no_such_thing

        def mean_iou(matrix):
            return helper(matrix)
        """
    )
    text = judge("mean_iou", cell["mean_iou"])
    assert "AttributeError in line 2 (`return matrix.no_such_thing`)" in text
    assert "has no attribute 'no_such_thing'" in text


def test_exception_inside_a_library_points_at_the_line_that_called_it():
    cell = run_cell(
        """
        import torch

        def class_weights(pixels):
            return torch.nn.functional.cross_entropy(pixels, "no")
        """
    )
    assert "in line 4 (`return torch.nn.functional" in judge("class_weights", cell["class_weights"])


STUBS = [
    "def mean_iou(matrix):\n    raise NotImplementedError()",
    "def mean_iou(matrix):\n    # your code here\n    raise NotImplementedError('write it')",
    "def mean_iou(matrix):\n    ...",
    "def mean_iou(matrix):\n    return ...",
    "def mean_iou(matrix):\n    pass",
    "mean_iou = None",
    "mean_iou = ...",
]


@pytest.mark.parametrize("stub", STUBS)
def test_stub_is_not_written_yet(stub):
    assert "mean_iou: not written yet" in judge("mean_iou", run_cell(stub)["mean_iou"])


def test_torch_saying_not_implemented_is_an_ordinary_error():
    cell = run_cell(
        """
        import torch

        def class_weights(pixels):
            return torch.empty(3, device="meta").to("cpu")
        """
    )
    text = judge("class_weights", cell["class_weights"])
    assert "not written yet" not in text
    assert "NotImplementedError in line 4" in text


def test_an_answer_that_never_ends_is_stopped_and_the_limit_said(monkeypatch):
    monkeypatch.setattr(core, "CHECK_SECONDS", 0.2)
    cell = run_cell("def mean_iou(matrix):\n    while True:\n        pass")
    assert "mean_iou: not done after 0.2 seconds, the limit: does a loop never end?" in judge(
        "mean_iou", cell["mean_iou"]
    )
    with pytest.raises(AssertionError, match="the limit"):
        checks.grade("mean_iou", cell["mean_iou"])


def test_value_instead_of_function():
    assert "without calling it" in judge("voc_palette", data.voc_palette())


def test_wrong_number_of_arguments():
    assert "TypeError" in judge("transposed_conv", lambda x: x)


def test_argument_changed_in_place_is_named():
    def add_in_place(matrix):
        matrix += 1
        return 0.5

    assert "argument number 1 in place" in judge("mean_iou", add_in_place)


class Odd:
    def __getattr__(self, name):
        raise RuntimeError("odd")


ODD_RESULTS = [
    0,
    1.5,
    True,
    "text",
    (),
    (1, 2),
    [torch.zeros(2), None],
    {"out": torch.zeros(2)},
    Odd,
    object(),
    np.zeros(0),
    np.array("text"),
    np.array([None, 1]),
    torch.zeros(()),
    torch.full((3, 4), torch.nan),
    torch.zeros(2, 3, dtype=torch.complex64),
    torch.zeros(2, 3, dtype=torch.bfloat16),
    torch.zeros(2, 3, dtype=torch.bool),
    (torch.zeros(3, 5, 5), np.zeros((5, 5))),
    nn.Linear(2, 2),
    nn.Conv2d(3, 5, (2, 4)),
    None,
    2**64,
    -(10**400),
    [2**64],
    torch.eye(3).to_sparse(),
    torch.zeros(2, 3, device="meta"),
    (torch.zeros(3, 5, 5, device="meta"), torch.eye(3).to_sparse()),
]


def raises(*given, **named):
    raise KeyError("odd")


@every_exercise
def test_whatever_comes_back_the_check_ends_with_a_hint(name):
    results = [lambda *given, odd=odd, **named: odd for odd in ODD_RESULTS]
    for answer in (None, 3, "text", raises, lambda a, b, c, d, e, f, g: a, lambda *, named: named, *results):
        text = judge(name, answer)
        assert "going on with the reference" in text
        assert len(text.splitlines()[0]) < 600


ARRAYS = {
    "voc_palette": (256, 3),
    "decode_target": (7, 9, 3),
    "confusion_matrix": (21, 21),
    "class_weights": (6,),
    "transposed_conv": (5, 6),
    "bilinear_kernel": (4, 4),
}


@given(st.sampled_from(sorted(ARRAYS)), st.data())
@settings(max_examples=60, deadline=None)
def test_one_wrong_value_anywhere_is_rejected_and_located(name, draw):
    place = tuple(draw.draw(st.integers(0, side - 1)) for side in ARRAYS[name])

    def answer(*given, **named):
        out = EXERCISES[name].reference(*given, **named)
        out = out.copy() if isinstance(out, np.ndarray) else out.clone()
        if out.shape == ARRAYS[name]:
            out[place] = out[place] + 1 if out.dtype not in (np.uint8, torch.uint8) else 255 - out[place]
        return out

    assert f"differs in 1 of {np.prod(ARRAYS[name])} values, first at {list(place)}" in judge(name, answer)


@pytest.mark.parametrize(
    ("found", "expected", "hint"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), ""),
        (torch.ones(2, 3) + 1e-7, torch.ones(2, 3), ""),
        (torch.ones(3, 2), torch.ones(2, 3), "axes in another order"),
        (torch.ones(2, 4), torch.ones(2, 3), "shape (2, 4), expected (2, 3)"),
        (torch.ones(2, 3).double(), torch.ones(2, 3), "dtype is torch.float64; expected torch.float32"),
        (torch.ones(2, 3).bfloat16(), torch.ones(2, 3), "dtype is torch.bfloat16"),
        (np.ones((2, 3)), torch.ones(2, 3), "is a NumPy array, expected a torch tensor"),
        (torch.tensor([0.0, torch.nan]), torch.zeros(2), "first at [1]: expected 0, found nan"),
        (np.uint8([250]), np.uint8([4]), "first at [0]: expected 4, found 250"),
        (np.float64(0.5), 0.5, ""),
        (1, 1.0, "is a Python int, expected a Python float"),
        (True, 1, "a value of type bool"),
        (torch.zeros(2, dtype=torch.complex64), torch.zeros(2), "dtype torch.complex64"),
    ],
)
def test_difference(found, expected, hint):
    text = difference(found, expected, "it")
    assert hint in text
    assert bool(text) == bool(hint)


@pytest.mark.parametrize(
    "odd", [2**64, -(10**400), [2**70, 1], torch.eye(3).to_sparse(), torch.empty(2, device="meta")]
)
def test_odd_numbers_are_named(odd):
    kind = "sparse" if getattr(odd, "is_sparse", False) else "meta" if isinstance(odd, torch.Tensor) else "expected"
    for name in ("transposed_output_size", "class_weights"):
        assert kind in judge(name, lambda *given, **named: odd)
