"""Checks of lab 06's simulated user, before the model answers: points and a box drawn from a mask.

A random answer has no one right number. What a draw must fulfil is looked at, and, over many draws, how often each
pixel comes and how the sides of the box spread; the bounds are so wide that no right answer meets them by bad luck.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise
from labhelpers.prompting import sampling

_DRAWS = 600  # boxes, in which a standard deviation is known to 3 % and a correlation to 0.04
_NO_BACKGROUND = "nothing is left to draw from: where the mask covers the whole image, all points are foreground."
_GENERATOR = "rng is a np.random.Generator: rng.integers, rng.choice, rng.standard_normal."
_CLIPPED_WRONG = "it is clipped with width and height exchanged: the mask's shape is (H, W), x ends at W - 1."
_ERRORS = {
    "larger sample than population": "a small mask has fewer pixels than points are asked for: draw with replacement.",
    "Sample larger than population": f"a small mask has fewer pixels than points are asked for; and {_GENERATOR}",
    "high <= 0": _NO_BACKGROUND,
    "low >= high": _NO_BACKGROUND,
    "a must be a positive": _NO_BACKGROUND,
    "cannot be empty": _NO_BACKGROUND,
    "empty sequence": _NO_BACKGROUND,
    "Generator' object has no attribute": _GENERATOR,
}


def _hook() -> np.ndarray:
    """A mask of two bars, right and top: half of its bounding box, and nowhere where it were with x and y exchanged."""
    mask = np.zeros((9, 14), dtype=bool)
    mask[1:3, 7:13] = True
    mask[3:5, 11:13] = True
    return mask


def _one_pixel() -> np.ndarray:
    mask = np.zeros((5, 8), dtype=bool)
    mask[3, 6] = True
    return mask


@exercise("sample_points", sampling.sample_points)
def sample_points(check: Check, answer) -> None:
    """Odd and even numbers, a mask of one pixel, all but one, all of them; each pixel equally often; the generator."""
    rng = np.random.default_rng(0)
    cases = [
        ("7 points", _hook(), 7),
        ("6 points", _hook(), 6),
        ("1 point", _hook(), 1),
        ("5 points on a mask of one pixel", _one_pixel(), 5),
        ("9 points and one pixel of background", ~_one_pixel(), 9),
    ]
    for words, mask, n in cases:
        points, labels = _drawn(check, answer, mask, n, rng, words)
        _check_labels(check, points, labels, mask, words)
        _check_places(check, points, labels, mask, words)
    everywhere = np.ones((4, 6), dtype=bool)
    points, labels = _drawn(check, answer, everywhere, 5, rng, "a mask that covers the whole image")
    check.that(bool((labels == 1).all()), "a mask that covers the whole image has no background, so all labels are 1.")
    _check_places(check, points, labels, everywhere, "a mask that covers the whole image")
    _check_generator(check, answer)
    _check_uniform(check, answer, rng)


def _drawn(check: Check, answer: Callable, mask: np.ndarray, n: int, rng: Any, words: str) -> tuple:
    """The answer's points and labels, once their kind and shape are right."""
    found = check.call(answer, mask, n, rng, when=f"for {words}", errors=_ERRORS)
    pair = isinstance(found, (tuple, list)) and len(found) == 2
    check.that(pair, f"it returns {kind_of(found)}, expected the pair (points, labels).")
    for name, part, kinds, shape, kind in (
        ("points", found[0], "f", (n, 2), "a float"),
        ("labels", found[1], "iu", (n,), "an integer"),
    ):
        array = isinstance(part, np.ndarray)
        check.that(array, f"the {name} are {kind_of(part)}, expected a NumPy array.")
        turned = ": one row for each point, np.stack([x, y], axis=1)" if part.shape == shape[::-1] != shape else ""
        check.that(part.shape == shape, f"the {name} for {words} have shape {part.shape}, expected {shape}{turned}.")
        right_kind = part.dtype.kind in kinds
        check.that(right_kind, f"the {name} have dtype {part.dtype}, expected {kind} type (`.astype(...)`).")
    whole = bool((found[0] % 1 == 0).all())
    check.that(whole, "a point is not in the middle of a pixel: pixel (x, y) has whole numbers as coordinates.")
    return found[0], found[1]


def _hits(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Whether each point (x, y) lies on the mask; outside the image it does not."""
    x, y = points.T.astype(int)
    height, width = mask.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return inside & mask[y.clip(0, height - 1), x.clip(0, width - 1)]


def _check_labels(check: Check, points: np.ndarray, labels: np.ndarray, mask: np.ndarray, words: str) -> None:
    known = bool(np.isin(labels, (0, 1)).all())
    check.that(known, f"the labels are {np.unique(labels).tolist()}, expected 1 for foreground and 0 for background.")
    n, expected, found = len(labels), (len(labels) + 1) // 2, int(labels.sum())
    on, mixed = _hits(points, mask), 0 < found < n
    swapped = mixed and bool((on == (labels == 0)).all()) and bool(_hits(points, ~mask)[labels == 1].all())
    check.that(not swapped, "the labels are exchanged: 1 is foreground, on the object, 0 background.")
    hint = f"for {words} {found} have label 1, expected {expected}: half of them, rounded up"
    if n > 1 and found in (0, n):
        hint = f"for {words} all labels are {labels[0]}: half of the points are foreground (1), half background (0)"
    elif found == n // 2:
        hint += " ((n + 1) // 2; round() rounds 2.5 down to 2)"
    check.that(found == expected, f"{hint}.")


def _check_places(check: Check, points: np.ndarray, labels: np.ndarray, mask: np.ndarray, words: str) -> None:
    """Foreground points lie on the mask, the others in the image beside it."""
    for name, chosen, region in (("foreground", labels == 1, mask), ("background", labels == 0, ~mask)):
        own = points[chosen]
        wrong = own[~_hits(own, region)]
        if len(wrong) and _hits(own[:, ::-1], region).all():
            why = "x and y are exchanged. A point is (x, y), column first; np.nonzero and np.argwhere give (y, x)."
        elif len(wrong) and not _hits(wrong, np.ones_like(mask)).all():
            why = f"it lies outside the image: x runs to {mask.shape[1] - 1}, y to {mask.shape[0] - 1} here."
        elif name == "foreground":
            why = "it lies beside the object: draw from the pixels of the mask, not from its bounding box or the image."
        else:
            why = "it lies on the object: draw background from where the mask is False."
        first = f"({wrong[0, 0]:g}, {wrong[0, 1]:g})" if len(wrong) else ""
        check.that(not len(wrong), f"for {words} the {name} has the point {first}, and {why}")


def _check_generator(check: Check, answer: Callable) -> None:
    one, same, other = (_drawn(check, answer, _hook(), 9, np.random.default_rng(s), "9 points")[0] for s in (1, 1, 2))
    y, x = np.nonzero(_hook())
    first = np.array_equal(one[:5], np.stack([x, y], 1)[:5])
    fixed = "these are always the first pixels of the mask: draw them with rng." if first else _SAME
    check.that(not np.array_equal(one, other), fixed)
    check.that(np.array_equal(one, same), _NOT_FROM_RNG)


_SAME = "two generators with different seeds give the same: draw with the rng that is given, not with one of your own."
_NOT_FROM_RNG = (
    "two generators with the same seed give different results: draw with the rng that is given, not with "
    "np.random or random."
)


def _check_uniform(check: Check, answer: Callable, rng: np.random.Generator) -> None:
    """A chi-square test, whose bound a right answer exceeds once in a million."""
    mask, n = _hook(), 2000
    points, labels = _drawn(check, answer, mask, n, rng, f"{n} points")
    _check_places(check, points, labels, mask, f"{n} points")
    for label, region in ((1, mask), (0, ~mask)):
        x, y = points[labels == label].T.astype(int)
        counts = np.zeros(mask.shape)
        np.add.at(counts, (y, x), 1)
        counts, expected = counts[region], n / 2 / region.sum()
        excess = ((counts - expected) ** 2 / expected).sum() - len(counts)
        at_y, at_x = (place[np.abs(counts - expected).argmax()] for place in np.nonzero(region))
        check.that(
            excess < 8 * np.sqrt(2 * len(counts)),
            f"of {n} points with n // 2 for label {label}, {counts[np.abs(counts - expected).argmax()]:.0f} fall on "
            f"pixel ({at_x}, {at_y}), expected about {expected:.0f}: each pixel must be drawn with the same "
            "probability, independently of the others.",
        )


@exercise("box_from_mask", sampling.box_from_mask)
def box_from_mask(check: Check, answer) -> None:
    """Without jitter: a hook, one pixel, two parts, the whole image. With it: spread, clipping, order, generator."""
    two = np.zeros((7, 12), dtype=bool)
    two[0, 9:], two[4:, 2:5] = True, True
    cases = [("a hook", _hook()), ("one pixel", _one_pixel()), ("two parts", two), ("all", np.ones((4, 6), dtype=bool))]
    for words, mask in cases:
        found = _box(check, answer, mask, 0.0, np.random.default_rng(0))
        if isinstance(found, np.ndarray) and found.dtype.kind in "iuf":
            found = found.astype(np.float32)  # without jitter integers are no mistake
        expected = sampling.box_from_mask(mask)
        what = f"the box of a mask ({words}), without jitter,"
        check.equal(found, expected, what, _box_mistakes(mask, expected))
    _check_spread(check, answer)
    _check_clipping(check, answer)


def _box(check: Check, answer: Callable, mask: np.ndarray, jitter: float, rng: np.random.Generator) -> np.ndarray:
    return check.call(answer, mask, jitter, rng, when=f"for jitter={jitter}", errors=_ERRORS)


def _jittered(check: Check, answer: Callable, mask: np.ndarray, jitter: float, rng: np.random.Generator) -> np.ndarray:
    box = _box(check, answer, mask, jitter, rng)
    if not (isinstance(box, np.ndarray) and box.shape == (4,) and box.dtype.kind in "iuf"):
        raise Mistake(f"the box with jitter is {kind_of(box)} ({box!r:.60}), expected four floats in an array.")
    return box


def _box_mistakes(mask: np.ndarray, right: np.ndarray) -> list[tuple[np.ndarray, str]]:
    x0, y0, x1, y1 = right
    height, width = mask.shape
    size = "this is (x0, y0, width, height): return the corners, (x0, y0, x1, y1)."
    first_row = np.flatnonzero(mask[np.flatnonzero(mask.any(1))[0]])
    return [
        (np.array([y0, x0, y1, x1]), "x and y are exchanged: (x0, y0, x1, y1), x counts columns (axis 1 of the mask)."),
        (np.array([x0, x1, y0, y1]), "this is (x0, x1, y0, y1): return (x0, y0, x1, y1)."),
        (np.array([y0, y1, x0, x1]), "this is (y0, y1, x0, x1): return (x0, y0, x1, y1)."),
        (np.array([x1, y1, x0, y0]), "the corners are exchanged: the smaller coordinates come first."),
        (right + [0, 0, 1, 1], "x1 and y1 are one too large: they are the last pixel of the mask, inclusive."),
        (right + [-0.5, -0.5, 0.5, 0.5], "the sides are those of the pixels' squares: return pixel indices."),
        (np.array([x0, y0, x1 - x0, y1 - y0]), size),
        (np.array([x0, y0, x1 - x0 + 1, y1 - y0 + 1]), size),
        (np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]), "this is centre and size: return the corners."),
        (right / [width, height, width, height], "it is divided by the image's size: return pixels."),
        (np.array([first_row[0], y0, first_row[-1], y1]), "only the mask's first row gives x0 and x1: look at all."),
        (np.minimum(right, [height - 1, width - 1] * 2), _CLIPPED_WRONG),
        (np.array([0, 0, width - 1, height - 1]), "this is the box of the whole image: where is the mask?"),
    ]


def _check_spread(check: Check, answer: Callable) -> None:
    """Many draws around one box, far from the image's edges."""
    mask = np.zeros((80, 120), dtype=bool)
    mask[30:50, 40:80] = True
    exact, jitter, rng = np.array([40, 30, 79, 49]), 0.1, np.random.default_rng(0)
    first, again = (_jittered(check, answer, mask, jitter, np.random.default_rng(5)) for _ in range(2))
    check.that(first.dtype.kind == "f", f"the box with jitter has dtype {first.dtype}, expected floats: do not round.")
    moved = np.stack([_jittered(check, answer, mask, jitter, rng) for _ in range(_DRAWS)]) - exact
    check.that(bool(moved.any()), "jitter is not used: every side moves by jitter times its length times a normal.")
    check.that(bool((moved != moved[0]).any()), _SAME)
    check.that(np.array_equal(first, again), _NOT_FROM_RNG)
    spread = moved.std(0) / jitter
    still = [name for name, value in zip(("x0", "y0", "x1", "y1"), spread, strict=True) if value == 0]
    check.that(not still, f"{', '.join(still)} never moves: each of the four sides moves on its own.")
    together = np.corrcoef(moved.T) - np.eye(4)
    tied = [
        ((0, 2), (1, 3), together > 0.5, "both ends move together, so the box is shifted and keeps its size"),
        ((0, 2), (1, 3), together < -0.5, "both ends move in opposite ways, so the box only grows or shrinks"),
        ((0, 1), (2, 3), together > 0.5, "x and y move together"),
    ]
    hint = next((text for a, b, related, text in tied if related[a] or related[b]), "the sides depend on each other")
    check.that(np.abs(together).max() < 0.3, f"{hint}: draw four numbers, one for each side.")
    score = moved / moved.std(0)
    uneven = "the sides move one way more often than the other: take a standard normal as it is, without abs()."
    check.that(bool((abs(score.mean(0)) < 0.3).all()), uneven)
    _check_sizes(check, spread)
    share = (abs(score) < 1).mean()
    check.that(
        0.63 < share < 0.74,
        f"{share:.0%} of the draws lie within one standard deviation, of a normal distribution 68 %: is it one "
        "(rng.standard_normal)?",
    )


def _check_sizes(check: Check, spread: np.ndarray) -> None:
    """How far the sides move: standard deviation / jitter, in pixels."""
    expected = np.array([40, 20, 40, 20])  # one less is the side's length, too
    relative = "jitter is relative: each side moves by jitter * (side length of the box) * normal"
    for wrong, why in (
        (np.ones(4), f"it moves by jitter in pixels. {relative}."),
        (expected[[1, 0, 3, 2]], "width and height are exchanged: x moves with the box's width, y with its height."),
        (expected / np.sqrt(3), "the numbers are drawn from -1 to 1: take a standard normal (rng.standard_normal)."),
        (np.array([120, 80, 120, 80]), f"the image's size is taken. {relative}."),
        (expected / 2, "the sides move half as far as they should: by the whole length of the side, times jitter."),
        (expected * 0.1, "jitter is multiplied twice, or squared."),
        (np.full(4, 40), f"the longer side is taken for all. {relative}, 40 for x and 20 for y here."),
        (np.full(4, 20), f"the shorter side is taken for all. {relative}, 40 for x and 20 for y here."),
        (np.full(4, 30), f"the mean side is taken for all. {relative}, 40 for x and 20 for y here."),
    ):
        check.that(not np.allclose(spread, wrong, rtol=0.12), why)
    words = "(standard deviations over jitter, x0, y0, x1, y1)"
    found = ", ".join(f"{value:.1f}" for value in spread)
    check.that(np.allclose(spread, expected, rtol=0.18), f"the sides move by {found} px {words}, expected 40, 20.")


def _check_clipping(check: Check, answer: Callable) -> None:
    """A jitter so large that the box leaves the image and turns around."""
    mask, rng = np.zeros((20, 30), dtype=bool), np.random.default_rng(0)
    mask[6:14, 10:20] = True
    boxes = np.stack([_jittered(check, answer, mask, 2.0, rng) for _ in range(200)])
    check.that(bool(np.isfinite(boxes).all()), "with a large jitter a side is not finite.")
    low, high = boxes.min(0), boxes.max(0)
    end = bool((high[2:] == [30, 20]).any())
    check.that(not end, "it is clipped one pixel too late: the last pixels are x = W - 1 and y = H - 1.")
    exchanged = bool((high[2:] == [19, 29]).all() or (high[2:] == [20, 30]).all())
    check.that(not exchanged, _CLIPPED_WRONG)
    inside = bool((low >= 0).all() and (high <= [29, 19, 29, 19]).all())
    check.that(inside, f"with a large jitter the box leaves the image ({low.min():.1f} to {high.max():.1f}): clip it.")
    ordered = bool((boxes[:, :2] <= boxes[:, 2:]).all())
    check.that(ordered, "after a large jitter x0 > x1 or y0 > y1: put the corners in order again (minimum, maximum).")
    reached = bool((low[:2] == 0).all() and (high[2:] == [29, 19]).all())
    check.that(reached, f"clipped to less than the image: x0 and y0 reach {low[:2]}, x1 and y1 {high[2:]}.")
