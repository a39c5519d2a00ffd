"""Checks of lab 07, scores of masks: class maps from masks without classes, and the number of clicks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labhelpers.course.checks import mask_references as references
from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise

_VOID = 255


@exercise("label_masks", references.label_masks)
def label_masks(check: Check, answer) -> None:
    """Masks apart, nested in either order, half on void, on void alone, mostly on background; none at all."""
    for words, masks, guide in _label_cases():
        expected = references.label_masks(masks, guide)
        found = check.call(answer, masks, guide, when=f"for {words}")
        check.equal(found, expected, f"the class map for {words}", _label_mistakes(masks, guide, expected))


def _label_cases() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Words, masks, guide. No two masks of an image are equally large, no two classes in one equally frequent."""
    guide = np.zeros((16, 24), dtype=np.uint8)
    guide[2:12, 2:10] = 7
    guide[4:8, 4:8] = 12
    guide[3:13, 13:22] = 15
    rimmed = guide.copy()
    rimmed[2:12, 2:5] = rimmed[3:13, 13:19] = _VOID

    def boxes(*windows: tuple[slice, slice]) -> np.ndarray:
        masks = np.zeros((len(windows), *guide.shape), dtype=bool)
        for mask, window in zip(masks, windows, strict=True):
            mask[window] = True
        return masks

    s = np.s_
    whole, part, other = s[1:12, 2:11], s[4:8, 3:8], s[3:12, 12:22]
    return [
        ("two masks apart", boxes(whole, other), guide),
        ("three masks inside each other, the middle one first", boxes(part, s[0:16, 0:12], s[5:7, 3:5]), guide),
        ("a small mask after the large one that holds it", boxes(whole, part), guide),
        ("a mask of three classes", boxes(s[3:12, 8:19]), guide),
        ("a mask of which most is void", boxes(other, s[9:12, 5:9]), rimmed),
        ("a mask on void alone", boxes(s[4:9, 13:18], whole), rimmed),
        ("a mask of which most is background", boxes(s[0:16, 8:14], other), guide),
        ("no masks at all", boxes(), guide),
    ]


def _label_mistakes(masks: np.ndarray, guide: np.ndarray, expected: np.ndarray) -> list[tuple[Any, str]]:
    def most(inside: np.ndarray) -> int:
        return int(np.bincount(inside).argmax())

    def painted(
        order: Callable = lambda m: sorted(m, key=np.count_nonzero, reverse=True),
        name: Callable = most,
        void: Callable = lambda inside: inside[inside != _VOID],
        ground: int = 0,
    ) -> np.ndarray:
        """The class map with a place for each mistake."""
        labels = np.full(guide.shape, ground, dtype=np.uint8)
        for mask in order(masks):
            inside = void(guide[mask])
            if len(inside):
                labels[mask] = name(inside)
        return labels

    def most_object(inside: np.ndarray) -> int:
        counts = np.bincount(inside, minlength=2)
        return 0 if not counts[1:].any() else int(counts[1:].argmax()) + 1

    copied = np.where(masks.any(0), guide, 0).astype(np.uint8)
    outside = np.where(masks.any(0), expected, guide).astype(np.uint8)
    on_top = "small masks belong on top of large ones: paint the largest first."
    return [
        (painted(order=lambda m: sorted(m, key=np.count_nonzero)), f"large masks cover small ones: {on_top}"),
        (painted(order=lambda m: m), f"masks are painted in the order in which they come: {on_top}"),
        (painted(order=lambda m: m[::-1]), f"masks are painted from the last to the first: {on_top}"),
        (painted(void=lambda inside: inside), "void is counted as a class: leave 255 out before you count."),
        (
            painted(void=lambda inside: np.where(inside == _VOID, 0, inside)),
            "void is counted as background: leave 255 out before you count.",
        ),
        (painted(name=most_object), "background is not counted: a mask that lies mostly on background is background."),
        (painted(name=lambda inside: int(inside.max())), "this is the largest label: labels are names; count them."),
        (
            painted(name=lambda inside: round(inside.mean())),
            "this is the mean of labels: labels are names; count them.",
        ),
        (
            painted(name=lambda inside: int(np.median(inside))),
            "this is the median label: labels are names; count them.",
        ),
        (copied, "it copies the guide into the masks: the whole of a mask gets one class."),
        (outside, "pixels without a mask have the guide's class: they are background, 0."),
        (painted(ground=_VOID), "pixels without a mask are void: they are background, 0, and count."),
    ]


@exercise("number_of_clicks", references.number_of_clicks)
def number_of_clicks(check: Check, answer) -> None:
    """The first click, the last, never, an IoU of just the threshold, one that falls again; all and none get there."""
    ious = np.array(
        [
            [0.50, 0.86, 0.91, 0.93, 0.95, 0.96],
            [0.92, 0.94, 0.95, 0.97, 0.97, 0.98],
            [0.30, 0.40, 0.88, 0.70, 0.80, 0.84],
            [0.20, 0.50, 0.85, 0.90, 0.93, 0.94],
            [0.10, 0.20, 0.30, 0.30, 0.40, 0.35],
        ]
    )
    cases = [(ious[rows], threshold) for threshold in (0.85, 0.9) for rows in (slice(None), slice(0, 2), slice(4, 5))]
    whens = [f"for {len(chosen)} objects, 6 clicks and threshold {threshold:g}" for chosen, threshold in cases]
    pairs = [_pair(check.call(answer, *case, when=when), when) for case, when in zip(cases, whens, strict=True)]
    hint = _known([clicks for clicks, _ in pairs], cases)
    for case, when, (clicks, failures) in zip(cases, whens, pairs, strict=True):
        expected = references.number_of_clicks(*case)
        check.equal(clicks, expected[0], f"the number of clicks {when}", [(clicks, hint)] if hint else ())
        mistakes = [(len(case[0]) - expected[1], "these are the objects that get there: return how many do not.")]
        check.equal(failures, expected[1], f"the number of failures {when}", mistakes)


def _pair(found: Any, when: str) -> tuple[Any, Any]:
    if not isinstance(found, tuple) or len(found) != 2:
        what = f"a tuple of {len(found)}" if isinstance(found, tuple) else kind_of(found)
        raise Mistake(f"{when} it returns {what}, expected the pair (clicks, failures).")
    return found


def _known(found: Sequence[Any], cases: Sequence[tuple[np.ndarray, float]]) -> str:
    """The hint of the mistake that gives these numbers in all cases, "" if none does."""
    if not all(isinstance(value, (float, np.floating)) for value in found):
        return ""
    for wrong, hint in _CLICK_MISTAKES:
        if np.allclose(found, [wrong(*case) for case in cases], equal_nan=True):
            return hint
    return ""


def _clicks(ious: np.ndarray, threshold: float, reached: Callable = np.greater_equal, failed: float = 0) -> np.ndarray:
    """The first click that reaches the threshold, one for each object; `failed` where none does."""
    there = reached(ious, threshold)
    return np.where(there.any(1), there.argmax(1) + 1.0, failed)


def _without_failures(ious: np.ndarray, threshold: float) -> float:
    clicks = _clicks(ious, threshold)
    return float(clicks[clicks > 0].mean()) if clicks.any() else float("nan")


def _of_the_mean(ious: np.ndarray, threshold: float) -> float:
    return float(_clicks(ious.mean(0, keepdims=True), threshold, failed=ious.shape[1])[0])


_CLICK_MISTAKES = [
    (
        lambda ious, t: float((_clicks(ious, t, failed=ious.shape[1] + 1) - 1).mean()),
        "clicks are counted from 0: column 0 is the IoU after one click.",
    ),
    (
        lambda ious, t: float((_clicks(ious, t, failed=ious.shape[1]) - 1).mean()),
        "clicks are counted from 0: column 0 is the IoU after one click.",
    ),
    (_without_failures, "objects that never get there are left out: each counts as many clicks as were allowed."),
    (
        lambda ious, t: float(_clicks(ious, t, failed=1).mean()),
        "an object that never gets there counts 1: argmax of a row without True is 0. It counts all clicks allowed.",
    ),
    (
        lambda ious, t: float(_clicks(ious, t, failed=0).mean()),
        "an object that never gets there counts 0: it counts as many clicks as were allowed.",
    ),
    (
        lambda ious, t: float(_clicks(ious, t, failed=ious.shape[1] + 1).mean()),
        "a failure counts one click more than were allowed: it counts as many as were allowed.",
    ),
    (
        lambda ious, t: float(_clicks(ious, t, np.greater, ious.shape[1]).mean()),
        "an IoU of exactly the threshold counts as reached (>=).",
    ),
    (
        lambda ious, t: float(np.minimum((ious < t).sum(1) + 1, ious.shape[1]).mean()),
        "it counts the clicks below the threshold; an IoU may fall again. Take the first click that gets there.",
    ),
    (_of_the_mean, "this is when the mean curve gets there: count for each object, then take the mean."),
]
