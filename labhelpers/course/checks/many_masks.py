"""Checks of lab 07, segmenting everything: how stable a mask is, and which of many masks to keep."""

from collections.abc import Callable
from typing import Any

import numpy as np

from labhelpers.course.checks import mask_references as references
from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise

_SIZE = (18, 26)


@exercise("stability_score", references.stability_score)
def stability_score(check: Check, answer) -> None:
    """Sharp and blurred edges, two offsets, a mask of the whole image; logits that are nowhere above an offset."""
    logits = _hills()
    for offset in (1.0, 0.25):
        when = f"for five masks and offset {offset:g}"
        found = _as_float64(check.call(answer, logits, offset, when=when))
        expected = references.stability_score(logits, offset)
        check.equal(found, expected, f"the stability {when}", _stability_mistakes(logits, offset))
    check.equal(
        _as_float64(check.call(answer, logits, when="without an offset")),
        references.stability_score(logits),
        "the stability without an offset",
        [(references.stability_score(logits, 0.5), "the default of `offset` is 1, not 0.5.")],
    )
    empty = np.stack([np.full(_SIZE, -9.0), logits[0]])
    nothing = "where no logit is above -offset, 0 is divided by 0: the stability of no mask at all is 0."
    expected = references.stability_score(empty)
    mistakes = [(np.array([wrong, expected[1]]), nothing) for wrong in (np.nan, np.inf, 1.0)]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = _as_float64(check.call(answer, empty, 1.0, when="for a mask without a pixel"))
    check.equal(found, expected, "the stability of a mask without a pixel", mistakes)


def _hills() -> np.ndarray:
    """Logits that fall off at different rates from a centre, float64 (5, H, W); the last is high everywhere."""
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    centres, radii, slopes = ((6, 7), (9, 14), (11, 18), (8, 10)), (4.6, 6.2, 5.1, 2.7), (3.1, 0.83, 0.37, 0.57)
    hills = [
        slope * (radius - np.hypot(y - cy, x - cx))
        for (cy, cx), radius, slope in zip(centres, radii, slopes, strict=True)
    ]
    return np.stack([*hills, np.full(_SIZE, 7.0)])


def _as_float64(value: Any) -> Any:
    """Half or single precision is as good."""
    return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def _stability_mistakes(logits: np.ndarray, offset: float) -> list[tuple[Any, str]]:
    def above(threshold: float) -> np.ndarray:
        return (logits > threshold).sum((1, 2)).astype(np.float64)

    right = references.stability_score(logits, offset)
    pixels = _SIZE[0] * _SIZE[1]
    p = 1 / (1 + np.exp(-logits))
    with np.errstate(divide="ignore", invalid="ignore"):
        return [
            (right.mean(), "this is one number: return one for each mask, an array (N,)."),
            (above(-offset) / above(offset), "this is the inverse: the smaller mask (above +offset) is on top."),
            (above(offset) / above(0), "it compares with the mask above 0: compare with the one above -offset."),
            (above(0) / above(-offset), "it compares the mask above 0: take the one above +offset."),
            (above(offset), "this is the area of the smaller mask: divide by that of the larger one."),
            (above(offset) / pixels, "it divides by the area of the image: divide by that of the mask above -offset."),
            (1 - right, "this is 1 minus the IoU: a stable mask has a stability near 1."),
            (above(offset / 2) / above(-offset / 2), "the thresholds are +offset and -offset, not half of that."),
            (
                (p > offset).sum((1, 2)) / np.maximum((p > -offset).sum((1, 2)), 1),
                "it thresholds probabilities: the offset belongs to the logits, without a sigmoid.",
            ),
            (
                (np.abs(logits) > offset).mean((1, 2)),
                "this is the share of the image that is sure of itself, background included: compare two masks.",
            ),
            (np.ones(len(logits)), "it is 1 for every mask. Are both thresholds the same?"),
            (references.stability_score(logits), "it ignores `offset` and takes 1."),
        ]


@exercise("non_maximum_suppression", references.non_maximum_suppression)
def non_maximum_suppression(check: Check, answer) -> None:
    """A chain of three, a part in a whole, an IoU of just the threshold, rectangles by chance; no mask at all."""
    cases = _nms_cases()
    found = [
        _indices(check.call(answer, *case, when=f"for {words}"), len(case[0]), words) for words, case in cases.items()
    ]
    hint = next((hint for wrong, hint in _NMS_MISTAKES if found == [wrong(*case) for case in cases.values()]), "")
    for (words, (masks, scores, threshold)), kept in zip(cases.items(), found, strict=True):
        expected = references.non_maximum_suppression(masks, scores, threshold)
        said = f" with scores {scores.tolist()}" if len(scores) < 6 else ""
        what = f"for {words}{said} it keeps {kept}, expected {expected}."
        check.that(kept == expected, f"{hint} {what}" if hint else what)
    masks = np.zeros((0, *_SIZE), dtype=bool)
    errors = {"cannot reshape array of size 0": "for no masks at all `reshape(0, -1)` does not know the -1: say H * W."}
    nothing = check.call(answer, masks, np.zeros(0), 0.7, when="for no masks at all", errors=errors)
    found = _indices(nothing, 0, "no masks at all")
    check.that(found == [], f"for no masks at all it keeps {found}, expected [].")
    masks, scores, _ = cases["40 rectangles, best last"]
    check.that(
        _indices(check.call(answer, masks, scores, when="without a threshold"), len(masks), "the default threshold")
        == references.non_maximum_suppression(masks, scores),
        "without a threshold it does not use 0.7.",
    )


def _nms_cases() -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Masks, scores and threshold, by words. No two scores are equal."""

    def boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
        masks = np.zeros((len(corners), *_SIZE), dtype=bool)
        for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
            mask[y0:y1, x0:x1] = True
        return masks

    rng = np.random.default_rng(5)
    low = rng.integers(0, 12, (40, 2))
    chance = boxes(*np.concatenate([low, low + rng.integers(4, 12, (40, 2))], axis=1).tolist())
    chain = boxes((0, 2, 10, 8), (3, 2, 13, 8), (6, 2, 16, 8))  # IoUs 7/13, 7/13, 4/16
    return {
        "two masks that are nearly the same": (boxes((2, 2, 12, 10), (2, 2, 12, 11)), np.array([0.6, 0.9]), 0.7),
        "a chain: the middle one overlaps both others": (chain, np.array([0.9, 0.8, 0.7]), 0.5),
        "a small mask inside a large one": (boxes((1, 1, 20, 16), (4, 4, 8, 8)), np.array([0.7, 0.8]), 0.7),
        "an IoU of exactly the threshold": (boxes((0, 0, 4, 4), (0, 0, 4, 8)), np.array([0.9, 0.8]), 0.5),
        "40 rectangles": (chance, rng.permutation(40) / 40, 0.3),
        "40 rectangles, best last": (chance, np.arange(40) / 40, 0.6),
    }


def _indices(found: Any, count: int, words: str) -> list[int]:
    """The answer as a list of ints."""
    if not isinstance(found, (list, tuple, np.ndarray)):
        raise Mistake(f"for {words} it returns {kind_of(found)}, expected a list of indices.")
    try:
        array = np.asarray(found)
    except ValueError as error:  # a list of things of several shapes
        raise Mistake(f"for {words} it returns a list of other things than whole numbers: indices.") from error
    if array.ndim > 1:
        raise Mistake(f"for {words} it returns shape {array.shape}: return indices, not the masks themselves.")
    if array.dtype == bool:
        raise Mistake(
            f"for {words} it returns True or False for each of {count} masks: return the indices of those it keeps, "
            "best first."
        )
    if array.size and array.dtype.kind not in "iu":
        raise Mistake(f"for {words} it returns values of type {array.dtype}, expected whole numbers: indices.")
    return array.tolist()


def _nms(
    order: Callable = lambda scores: np.argsort(-scores),
    over: Callable = lambda both, a, b: both / max(a + b - both, 1),
    beaten: Callable = lambda overlap, threshold: overlap > threshold,
    against_all: bool = False,
) -> Callable[[np.ndarray, np.ndarray, float], list[int]]:
    """Suppression with a place for each mistake."""

    def keep(masks: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
        kept, seen = [], []
        for index in order(scores):
            others = seen if against_all else kept
            overlaps = [
                over(int((masks[index] & masks[k]).sum()), int(masks[index].sum()), int(masks[k].sum())) for k in others
            ]
            if not any(beaten(overlap, threshold) for overlap in overlaps):
                kept.append(int(index))
            seen.append(index)
        return kept

    return keep


_NMS_MISTAKES = [
    (lambda masks, scores, threshold: np.argsort(-scores).tolist(), "nothing is suppressed."),
    (lambda masks, scores, threshold: [int(scores.argmax())], "only the best mask is kept: go on with the others."),
    (_nms(order=np.argsort), "it begins with the lowest score: begin with the highest."),
    (_nms(order=lambda scores: range(len(scores))), "it takes the masks as they come: sort them by score, best first."),
    (
        _nms(against_all=True),
        "a mask is dropped because of one that was dropped itself: compare with the masks that are kept.",
    ),
    (
        _nms(over=lambda both, a, b: both / min(a, b)),
        "it divides by the smaller area, so a part is dropped for its whole: IoU divides by the union.",
    ),
    (
        _nms(over=lambda both, a, b: both / (a + b)),
        "it divides by the sum of both areas: the union counts what both share once.",
    ),
    (
        _nms(beaten=lambda overlap, threshold: overlap >= threshold),
        "an IoU of exactly the threshold is not above it: both stay.",
    ),
    (_nms(beaten=lambda overlap, threshold: overlap < threshold), "it drops what overlaps little: drop what overlaps."),
    (
        lambda masks, scores, threshold: sorted(references.non_maximum_suppression(masks, scores, threshold)),
        "the right masks in another order: the one with the highest score first.",
    ),
]
