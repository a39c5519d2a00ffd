"""Exercises of lab 06: prompts drawn from a mask, said to a network, answered, learned from, with the next click."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate, combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, Run, difference, kind_of
from labhelpers.course.checks.layers import IN_PLACE, calibrated, make, rounding
from labhelpers.models import BaseMiniSAM, prompt_maps
from labhelpers.models.mini_sam import Embedding, IoUHead
from labhelpers.models.prompt_maps import SIGMAS
from labhelpers.prompting import sampling, task
from labhelpers.prompting.sampling import depth
from labhelpers.prompting.task import Prompts

_Size = tuple[int, int]


# A random answer has no one right number. What a draw must fulfil is looked at, and, over many draws, how often each
# pixel comes and how the sides of the box spread; the bounds are so wide that no right answer meets them by bad luck.

_GENERATOR = "rng is a np.random.Generator: rng.integers, rng.choice, rng.standard_normal."
_SAME = "two generators with different seeds give the same: draw with the rng that is given, not with one of your own."
_NOT_FROM_RNG = (
    "two generators with the same seed give different results: draw with the rng that is given, not with "
    "np.random or random."
)
_DRAWING = {
    "larger sample than population": "a small mask has fewer pixels than points are asked for: draw with replacement.",
    "Sample larger than population": f"a small mask has fewer pixels than points are asked for; and {_GENERATOR}",
    "Generator' object has no attribute": _GENERATOR,
    **dict.fromkeys(
        ("high <= 0", "low >= high", "a must be a positive", "cannot be empty", "empty sequence"),
        "nothing is left to draw from: where the mask covers the whole image, all points are foreground.",
    ),
}


def _pair(check: Check, found: Any, words: str, who: str = "it", kind: type = object) -> tuple:
    """The two values that the answer, or `who`, returns, once they are two."""
    pair = isinstance(found, (tuple, list)) and len(found) == 2 and all(isinstance(x, kind) for x in found)
    check.that(pair, f"{who} returns {kind_of(found)}, expected the pair {words}.")
    return found[0], found[1]


def _mask(size: _Size, *windows: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    for window in windows:
        mask[window] = True
    return mask


# Half of its bounding box, and nowhere where it were with x and y exchanged.
_HOOK = _mask((9, 14), np.s_[1:3, 7:13], np.s_[3:5, 11:13])
_PIXEL = _mask((5, 8), np.s_[3:4, 6:7])
_EVERYWHERE = np.ones((4, 6), dtype=bool)


# ------------------------------------------------------------- sample_points


def _inspect_sampling(check: Check, answer: Callable) -> None:
    """Odd and even numbers, a mask of one pixel, all but one, all of them; each pixel equally often; the generator."""
    rng = np.random.default_rng(0)
    for words, mask, n in (
        ("7 points", _HOOK, 7),
        ("6 points", _HOOK, 6),
        ("1 point", _HOOK, 1),
        ("5 points on a mask of one pixel", _PIXEL, 5),
        ("9 points and one pixel of background", ~_PIXEL, 9),
        ("a mask that covers the whole image", _EVERYWHERE, 5),
    ):
        points, labels = _drawn(check, answer, mask, n, rng, words)
        _check_labels(check, points, labels, mask, words)
        _check_places(check, points, labels, mask, words)
    one, same, other = (_drawn(check, answer, _HOOK, 9, np.random.default_rng(s), "9 points")[0] for s in (1, 1, 2))
    first = np.array_equal(one[:5], np.argwhere(_HOOK)[:5, ::-1])
    fixed = "these are always the first pixels of the mask: draw them with rng." if first else _SAME
    check.that(not np.array_equal(one, other), fixed)
    check.that(np.array_equal(one, same), _NOT_FROM_RNG)
    _check_uniform(check, answer, rng)


sample_points = Exercise("sample_points", sampling.sample_points, inspect=_inspect_sampling)


def _drawn(check: Check, answer: Callable, mask: np.ndarray, n: int, rng: Any, words: str) -> tuple:
    """The answer's points and labels, once their kind and shape are right."""
    found = check.call(answer, mask, n, rng, when=f"for {words}", errors=_DRAWING)
    points, labels = _pair(check, found, "(points, labels)")
    for name, part, kinds, shape, kind in (
        ("points", points, "f", (n, 2), "a float"),
        ("labels", labels, "iu", (n,), "an integer"),
    ):
        check.that(isinstance(part, np.ndarray), f"the {name} are {kind_of(part)}, expected a NumPy array.")
        turned = ": one row for each point, np.stack([x, y], axis=1)" if part.shape == shape[::-1] != shape else ""
        check.that(part.shape == shape, f"the {name} for {words} have shape {part.shape}, expected {shape}{turned}.")
        other = f"the {name} have dtype {part.dtype}, expected {kind} type (`.astype(...)`)."
        check.that(part.dtype.kind in kinds, other)
    whole = bool((points % 1 == 0).all())
    check.that(whole, "a point is not in the middle of a pixel: pixel (x, y) has whole numbers as coordinates.")
    return points, labels


def _hits(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Whether each point (x, y) lies on the mask; outside the image it does not."""
    places = (points[:, ::-1].astype(int) + 1).clip(0, np.add(mask.shape, 1))  # in the mask with a frame of False
    return np.pad(mask, 1)[tuple(places.T)]


def _check_labels(check: Check, points: np.ndarray, labels: np.ndarray, mask: np.ndarray, words: str) -> None:
    known = bool(np.isin(labels, (0, 1)).all())
    check.that(known, f"the labels are {np.unique(labels).tolist()}, expected 1 for foreground and 0 for background.")
    if mask.all():
        check.that(bool((labels == 1).all()), f"{words} has no background, so all labels are 1.")
        return
    n, expected, found = len(labels), (len(labels) + 1) // 2, int(labels.sum())
    on, beside = _hits(points, mask)[labels == 0], _hits(points, ~mask)[labels == 1]
    swapped = 0 < found < n and on.all() and beside.all()
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


def _check_uniform(check: Check, answer: Callable, rng: np.random.Generator) -> None:
    """A chi-square test, whose bound a right answer exceeds once in a million."""
    n = 2000
    points, labels = _drawn(check, answer, _HOOK, n, rng, f"{n} points")
    _check_places(check, points, labels, _HOOK, f"{n} points")
    for label, region in ((1, _HOOK), (0, ~_HOOK)):
        places, own = np.argwhere(region)[:, ::-1], points[labels == label]
        counts, expected = (own[:, None] == places).all(2).sum(0), n / 2 / len(places)
        excess = ((counts - expected) ** 2 / expected).sum() - len(counts)
        worst = np.abs(counts - expected).argmax()
        x, y = places[worst]
        check.that(
            excess < 8 * np.sqrt(2 * len(counts)),
            f"of {n} points with n // 2 for label {label}, {counts[worst]} fall on pixel ({x}, {y}), expected "
            f"about {expected:.0f}: each pixel must be drawn with the same probability, independently of the others.",
        )


# ------------------------------------------------------------- box_from_mask

_BOX_SIDES = ("x0", "y0", "x1", "y1")
_REMEDY = "each side moves by jitter * (side length of the box) * a standard normal of its own, and is clipped then."
_DRAWS = {0.0: 0, 0.1: 600, 2.0: 200}  # by jitter; with the greatest the boxes leave the image


def _box_cases() -> Iterator[Case]:
    two = _mask((7, 12), np.s_[0:1, 9:], np.s_[4:, 2:5])
    for words, mask in (("a hook", _HOOK), ("one pixel", _PIXEL), ("two parts", two), ("all", _EVERYWHERE)):
        yield Case((mask, 0.0), f"of a mask ({words}), without jitter,", "the box")
    yield Case((_mask((80, 160), np.s_[30:50, 60:100]), 0.1), remedy=_REMEDY)
    yield Case((_mask((20, 30), np.s_[6:14, 10:20]), 2.0))


def _run_box(check: Check, answer: Callable, case: Case) -> Any:
    """The box as it is without jitter, else what many boxes have in common, in float64."""
    mask, jitter = case.args
    rng = np.random.default_rng(274)  # with which the library's box spreads as much as it should

    def draw(mask: np.ndarray) -> list:
        first, again = (answer(mask, jitter, np.random.default_rng(5)) for _ in range(2))
        return [first, again, *(answer(mask.copy(), jitter, rng) for _ in range(_DRAWS[jitter]))]

    first, again, *boxes = check.call(draw, mask, when=f"for jitter={jitter}")
    check.that(first is not None, "not written yet: it returns None. If it is written, is a `return` missing?")
    if not jitter:
        without = isinstance(first, np.ndarray) and first.dtype.kind in "iuf"  # here integers are no mistake
        return first.astype(np.float32) if without else first
    four = all(isinstance(box, np.ndarray) and box.shape == (4,) and box.dtype.kind in "iuf" for box in boxes)
    check.that(four, f"the box with jitter is {kind_of(first)} ({first!r:.60}), expected four floats in an array.")
    check.that(first.dtype.kind == "f", f"the box with jitter has dtype {first.dtype}, expected floats: do not round.")
    drawn = np.stack(boxes).astype(np.float64)
    check.that(bool(np.isfinite(drawn).all()), "with jitter a side is not finite.")
    return _spread(check, drawn, np.array_equal(first, again)) if jitter < 1 else _reach(drawn)


class _Rough(float):
    """A statistic of many draws, known `within` so much."""

    within: float

    def __new__(cls, value: float, within: float) -> "_Rough":
        self = super().__new__(cls, value)
        self.within = within
        return self


def _spread(check: Check, boxes: np.ndarray, same: bool) -> Parts:
    """How each side moves around (60, 30, 99, 49)."""
    moved = boxes - [60, 30, 99, 49]
    check.that(bool(moved.any()), "jitter is not used: every side moves by jitter times its length times a normal.")
    check.that(bool((moved != moved[0]).any()), _SAME)
    check.that(same, _NOT_FROM_RNG)
    deviation = moved.std(0)
    still = [side for side, value in zip(_BOX_SIDES, deviation, strict=True) if value == 0]
    check.that(not still, f"{', '.join(still)} never moves: each of the four sides moves on its own.")
    score, depend = moved / deviation, np.corrcoef(moved.T)
    parts = {}
    for (i, a), (j, b) in combinations(enumerate(_BOX_SIDES), 2):
        parts[f"the correlation of {a} and {b} (draw a number for each side)"] = _Rough(depend[i, j], 0.36)
    for side, mean in zip(_BOX_SIDES, score.mean(0), strict=True):
        parts[f"the mean of what {side} moves by, over its standard deviation,"] = _Rough(mean, 0.36)
    for side, ratio in zip(_BOX_SIDES, np.minimum(deviation / [4, 2, 4, 2], 3), strict=True):
        words = f"the standard deviation of what {side} moves by, over jitter times the length of that side of the box,"
        parts[words] = _Rough(ratio, 0.18 * max(1, ratio))
    words = "the share of draws within one standard deviation (of a normal distribution 68 %)"
    return Parts({**parts, words: _Rough((abs(score) < 1).mean(), 0.06)})


def _reach(boxes: np.ndarray) -> Parts:
    """How far the boxes reach in an image of 20x30, and whether their corners are in order."""
    parts = Parts()
    for side, values, last in zip(_BOX_SIDES, boxes.T, (29, 19, 29, 19), strict=True):
        for words, value, end in (("least", values.min(), 0), ("greatest", values.max(), last)):
            name = f"the {words} {side} with jitter=2 in an image of 30x20 (width x height)"
            parts[name] = _Rough(np.clip(value, end - 5, end + 5), 0.18)
    parts["that the corners are in order after a large jitter"] = bool((boxes[:, :2] <= boxes[:, 2:]).all())
    return parts


_RELATIVE = "jitter is relative: each side moves by jitter * (side length of the box) * normal."
_UNEVEN = "the sides move one way more often than the other: take a standard normal as it is, without abs()."
_FOUR = "draw four numbers, one for each side."
_NOT_NORMAL = "of a normal distribution 68 % lie within one standard deviation, not so here: rng.standard_normal"
_BOX, _NOISE = "box.astype(np.float32)", "rng.standard_normal(4)"

box_from_mask = Exercise(
    "box_from_mask",
    sampling.box_from_mask,
    _box_cases,
    run=_run_box,
    errors=_DRAWING,
    tolerance=lambda expected: getattr(expected, "within", 1e-5),
    wrong={
        "x and y are exchanged: (x0, y0, x1, y1), x counts columns (axis 1).": {_BOX: "box[[1, 0, 3, 2]]"},
        "this is (x0, x1, y0, y1): return (x0, y0, x1, y1).": {_BOX: "box[[0, 2, 1, 3]]"},
        "this is (y0, y1, x0, x1): return (x0, y0, x1, y1).": {_BOX: "box[[1, 3, 0, 2]]"},
        "the corners are exchanged: the smaller coordinates come first.": {_BOX: "box[[2, 3, 0, 1]]"},
        "x1 and y1 are one too large: the mask's last pixel is inside.": {_BOX: "box + [0, 0, 1, 1]"},
        "these are the pixels' squares: return pixel indices.": {_BOX: "box + [-0.5, -0.5, 0.5, 0.5]"},
        "this is (x0, y0, width, height): return the corners, (x0, y0, x1, y1).": [
            {_BOX: "np.append(box[:2], box[2:] - box[:2])"},
            {_BOX: "np.append(box[:2], box[2:] - box[:2] + 1)"},
        ],
        "this is centre and size: return corners.": {_BOX: "np.append((box[:2] + box[2:]) / 2, box[2:] - box[:2])"},
        "it is clipped with width and height exchanged: the mask's shape is (H, W), x ends at W - 1.": {
            "if jitter": "if True",
            "mask.shape[::-1]": "mask.shape",
        },
        "with a large jitter the box leaves the image: clip it.": {"0, limit": "-np.inf, np.inf"},
        "it is clipped one pixel too late: x ends at W - 1, y at H - 1.": {"[::-1]) - 1": "[::-1])"},
        "after a large jitter x0 > x1 or y0 > y1: put the corners in order again (minimum, maximum).": {
            "np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])": "box[:2], box[2:]"
        },
        f"it moves by jitter in pixels. {_RELATIVE}": {"jitter * sides": "jitter"},
        "width and height are exchanged: x moves with the width, y with the height.": {"* sides": "* sides[::-1]"},
        f"the longer side is taken for all. {_RELATIVE}": {"* sides": "* sides.max()"},
        f"the shorter side is taken for all. {_RELATIVE}": {"* sides": "* sides.min()"},
        f"the mean side is taken for all. {_RELATIVE}": {"* sides": "* sides.mean()"},
        f"it moves much too far: is the image's size taken? {_RELATIVE}": {"* sides": "* 9 * sides"},
        "the sides move half as far as they should: by their whole length.": {"* sides": "* sides / 2"},
        "jitter is multiplied twice, or squared.": {"* sides": "* 0.1 * sides"},
        f"both ends move together, so the box is shifted and keeps its size: {_FOUR}": {
            _NOISE: "np.tile(rng.standard_normal(2), 2)"
        },
        f"the box is shifted and keeps its size: {_FOUR}": {_NOISE: "rng.standard_normal()"},
        f"both ends move in opposite ways, so the box only grows or shrinks: {_FOUR}": {
            _NOISE: "np.kron([-1, 1], rng.standard_normal(2))"
        },
        f"x and y move together: {_FOUR}": {_NOISE: "np.repeat(rng.standard_normal(2), 2)"},
        "the numbers are drawn from -1 to 1: take rng.standard_normal.": {_NOISE: "rng.uniform(-1, 1, 4)"},
        f"{_NOT_NORMAL}, not uniform.": {_NOISE: "rng.uniform(-(3**0.5), 3**0.5, 4)"},
        f"{_NOT_NORMAL}, not exponential.": {_NOISE: "(rng.standard_exponential(4) - 1)"},
        _UNEVEN: [{_NOISE: f"({_NOISE} + 1)"}, {_NOISE: f"abs({_NOISE})"}],
        f"{_UNEVEN} (rng.random gives 0 to 1.)": {_NOISE: "rng.random(4)"},
        "it is divided by the image: pixels.": {_BOX: "box / np.tile(mask.shape[::-1], 2)"},
        "only the mask's first row gives x0 and x1: look at all.": {"mask.any(0)": "mask[mask.any(1).argmax()]"},
        "this is the box of the whole image: where is the mask?": {"_checked(mask)": "np.ones_like(mask)"},
    },
)


# --------------------------------------------------------------- next_click

_PICTURE = (14, 24)


def _click_cases() -> Iterator[Case]:
    """Missed and marked too much, alone, both, side by side; a C, a pixel, the image's edge; no error at all.

    No two kinds of error are equally deep.
    """
    s = np.s_
    y, x = np.ogrid[: _PICTURE[0], : _PICTURE[1]]
    bow = [s[1:12, 2:5], s[1:4, 2:13], s[9:12, 2:13]]
    agreed: list
    for words, agreed, missed, excess in (
        ("a missed part and a little too much", [s[2:9, 10:14]], [s[2:9, 3:10]], [s[10:13, 18:21]]),
        ("a missed C, nothing marked", [], bow, []),
        ("too much marked, nothing missed", [s[8:12, 12:21]], [], [s[3:8, 12:21]]),
        ("too much marked, and a longer, thinner part missed", [], [s[11:13, 1:23]], [s[4:9, 15:20]]),
        ("too much marked beside a missed part", [s[10:12, 3:8]], [s[3:10, 3:8]], [s[3:10, 8:15]]),
        ("a missed diamond and a square", [], [abs(x - 6) + abs(y - 6) <= 5, s[3:10, 14:21]], []),
        ("a missed square and a smaller diamond", [], [abs(x - 6) + abs(y - 6) <= 4, s[3:10, 14:21]], []),
        ("a missed part at the image's edge", [s[6:9, 8:17]], [s[0:6, 8:17]], []),
        ("the last pixel of the image missed", [s[5:13, 12:23]], [s[13:, 23:]], []),
        ("the whole image missed", [], [s[:, :]], []),
    ):
        yield Case((_mask(_PICTURE, *agreed, *excess), _mask(_PICTURE, *agreed, *missed)), f"for {words}")
    nothing = np.zeros(_PICTURE, dtype=bool)
    for words, mask in (("an object", ~nothing), ("an image without the object", nothing)):
        yield Case((mask, mask), f"when prediction and truth agree on {words}")


def _run_click(check: Check, answer: Callable, case: Case) -> Parts:
    """Nothing for a right click, any of the deepest points; for another a mistake that says where it lies."""
    prediction, truth = case.args
    agree, first = (prediction == truth).all(), case.when.startswith("for a missed part and")

    def asked(*masks: np.ndarray) -> Any:
        found = answer(*masks)
        if found is None and not (agree or first):  # in the first case None means that nothing is written yet
            raise Mistake(f"{case.when} it returns None: pixels missed and pixels marked too much are errors.")
        return (found,) if agree else found  # None is right, and must not be taken for a forgotten return

    found = check.call(asked, prediction, truth, when=case.when)
    if agree:
        check.that(found[0] is None, f"{case.when} it returns {found[0]!r:.60}, expected None: there is no error.")
        return Parts()
    point, label = _pair(check, found, "(point, label)")
    check.that(isinstance(point, np.ndarray), f"the point is {kind_of(point)}, expected np.array([x, y]).")
    numbers = point.shape == (2,) and point.dtype.kind in "fiu"
    check.that(numbers, f"the point has shape {point.shape} and dtype {point.dtype}, expected two numbers, (x, y).")
    check.that(kind_of(label) == "a Python int", f"the label is {kind_of(label)}, expected 1 or 0: int(...).")
    x, y = point
    height, width = truth.shape
    regions = [prediction & ~truth, truth & ~prediction]  # in the order of their labels
    deepest = [np.argwhere(inside > inside.max() - 1e-6) for inside in map(depth, regions)]
    right = int(depth(regions[1]).max() > depth(regions[0]).max())
    in_middle = [
        bool(region.any() and (places == [y, x]).all(1).any()) for region, places in zip(regions, deepest, strict=True)
    ]
    if in_middle[right]:
        always = ". Is it always 1?" if right == 0 else ""
        hint = (
            "the label is wrong: 1 (foreground) where the truth was missed, 0 (background) where too much was marked"
            + always
        )
    elif in_middle[1 - right] and label == 1 - right:
        hint = "this is the middle of the shallower error: the deeper one, not the one with more pixels, is clicked"
    elif not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        hint = f"the point lies outside the image, where x ends at {width - 1} and y at {height - 1}"
    elif not regions[right][int(y), int(x)]:
        kind = ("marked too much", "missed")[right]
        hint = f"the point does not lie on the pixels that were {kind}, the deeper of the two errors"
    else:
        hint = (
            "the point is not the deepest of the error, the farthest (by Euclidean distance) from its border, the "
            "image's edge included"
        )
    (right_y, right_x), *others = deepest[right]
    expected = f"expected ({right_x}, {right_y}) with label {right}{' or one as deep' if others else ''}"
    found_at = f"found ({x:g}, {y:g}) with label {label}"
    check.that(in_middle[right] and label == right, f"{case.when}: {hint} ({found_at}, {expected}).")
    return Parts()


def _plain_click(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, int] | None:
    """`next_click` written out."""
    from scipy.ndimage import distance_transform_edt as distances

    if (prediction == truth).all():
        return None
    errors = [prediction & ~truth, truth & ~prediction]
    depths = [distances(np.pad(error, 1))[1:-1, 1:-1] for error in errors]
    label = int(depths[1].max() > depths[0].max())
    inside = depths[label]
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return np.array([x, y]), label


_INSIDE, _LABEL = "depths[label]", "]), label"
_DEEPEST, _PLACES = "np.unravel_index(inside.argmax(), inside.shape)", "np.argwhere(errors[label])"

next_click = Exercise(
    "next_click",
    sampling.next_click,
    _click_cases,
    run=_run_click,
    source=_plain_click,
    wrong={
        "x and y are exchanged: np.unravel_index and np.argwhere give (y, x), the point is (x, y).": {"x, y": "y, x"},
        "the padding is still counted: take it off again before you look for the place.": {"[1:-1, 1:-1]": ""},
        "the image's edge counts as a border: pad the error with one pixel of False before the distance transform.": [
            {"distances(np.pad(error, 1))[1:-1, 1:-1]": "distances(error) if not error.all() else error"},
            {"np.pad(error, 1)": 'np.pad(error, 1, mode="edge")'},
        ],
        "this is the mean of the pixels, which may lie beside the error: take the deepest point.": [
            {_DEEPEST: f"{_PLACES}.mean(0){rounded}"} for rounded in ("", ".round()", " // 1")
        ],
        "this is the middle of the bounding box: take the deepest point.": [
            {_DEEPEST: f"({_PLACES}.min(0) + {_PLACES}.max(0)) {divided} 2"} for divided in ("/", "//")
        ],
        "this is the first pixel of the error: take the deepest.": {_DEEPEST: f"{_PLACES}[0]"},
        "this is the point farthest from the error: the distance is that inside of it.": {
            _INSIDE: "depth(prediction == truth)"
        },
        "this is the middle of the truth: take the middle of the error.": [
            {_INSIDE: "depth(truth)"},
            {_INSIDE: "depth(truth)", _LABEL: "]), 1"},
        ],
        "this is the middle of the prediction: take the error's.": {_INSIDE: "depth(prediction)"},
        "missed pixels and pixels marked too much are two kinds of error: take the depth of each alone.": {
            _INSIDE: "depth(prediction != truth)",
            _LABEL: "]), int(truth[y, x])",
        },
    },
)


# ------------------------------------------------------ modules with weights


def _copy_weights(check: Check, model: nn.Module, right: nn.Module, specs: Mapping[str, str]) -> None:
    """The layers of `model` get the weights of those of `right`, once their kinds and shapes are right."""
    for name, spec in specs.items():
        own: Any = getattr(model, name, None)
        reference = getattr(right, name)
        check.that(own is not None, f"it has no `self.{name}`: {spec}.")
        check.that(isinstance(own, type(reference)), f"{name} is {kind_of(own)}, expected {spec}.")
        found, expected = ([tuple(weight.shape) for weight in part.parameters()] for part in (own, reference))
        check.that(found == expected, f"{name} has weights of shapes {found}, expected {expected}: {spec}.")
        with torch.no_grad():
            nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(reference.parameters()), own.parameters())
    more = sorted({name.split(".")[0] for name, _ in model.named_parameters()} - set(specs))
    check.that(not more, f"it has weights of its own besides {', '.join(specs)}: {', '.join(more)}. Leave them out.")


def _run_module(reference: Callable[..., nn.Module], specs: Mapping[str, str], nan: str, scale: float = 1) -> Run:
    """With the weights of a reference, what a module gives; its gradients are looked at once that is right.

    Args:
        reference: the class; a case's arguments are those that make it, and the inputs.
        specs: the attributes that the module must have, in the words of the exercise.
        nan: the hint for what is not finite.
        scale: of the weights; with larger ones a mistake in one of the numbers shows also after a sigmoid.
    """

    def run(check: Check, answer: Callable, case: Case) -> Any:
        sizes, inputs = case.args
        right = reference(*sizes)
        for weight in right.parameters():
            weight.data.mul_(scale)
        model = make(check, answer, *sizes)
        _copy_weights(check, model, right, specs)
        found, expected = check.call(model, *inputs, when=case.when), right(*inputs)
        if not isinstance(found, Tensor) or not found.is_floating_point():
            return found
        check.that(bool(found.isfinite().all()), f"{case.words} has nan or inf in it: {nan}")
        if isinstance(right, IoUHead) and not right.of_objects:  # the library weighs classes in a way of its own
            return Parts({f"the shape {case.when}": list(found.shape)})
        empty = any(isinstance(x, Tensor) and not x.numel() for x in inputs)  # then no weight has a gradient
        if found.shape == expected.shape and not empty and not difference(found, expected, "", rounding(expected)):
            weights = [weight for name in specs for weight in getattr(model, name).parameters()]
            _check_gradients(check, found, expected, weights, right, f"{case.when} the values are right, but", nan)
            if isinstance(right, IoUHead):
                _check_detached(check, model, right, inputs)
        return found.detach()

    return run


def _gradients(check: Check, value: Callable[[], Tensor], at: Iterable[Tensor]) -> list[Tensor]:
    """Of what the student's code computes; zeros where none comes back."""
    inputs = list(at)

    def backward() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(value(), inputs, retain_graph=True, allow_unused=True)

    found = check.call(backward, when="in backward", errors=IN_PLACE)
    return [torch.zeros_like(x) if gradient is None else gradient for gradient, x in zip(found, inputs, strict=True)]


def _check_gradients(
    check: Check, found: Tensor, expected: Tensor, weights: list[Tensor], right: nn.Module, words: str, nan: str
) -> None:
    """One check for each weight: its gradient is that of the reference's."""
    lost = "no gradient comes back through forward: is there a no_grad or a detach? The weights must learn."
    check.that(found.requires_grad, lost)
    weighting = torch.randn_like(expected)
    right_ones = _gradients(check, lambda: (expected * weighting).sum(), right.parameters())
    gradients = _gradients(check, lambda: (found * weighting).sum(), weights)
    names = [name for name, _ in right.named_parameters()]
    for name, gradient, right_one in zip(names, gradients, right_ones, strict=True):
        check.that(bool(gradient.isfinite().all()), f"{words} the gradient of {name} has nan or inf in it: {nan}")
        same = torch.allclose(gradient, right_one, rtol=0, atol=rounding(right_one))
        check.that(same, f"{words} the gradient of {name} is not: is a part of it detached?")


# ----------------------------------------------------------- PointEmbedding

_C = 6
_WIDE, _TALL = (24, 40), (37, 20)
_RULE = "(xy + 0.5) / the longer side of the image"
_OWN_SIDES = f"each axis is divided by its own side: {_RULE}, the same for both, so that circles stay round."
_MIXED = f"height and width are mixed up, size is (H, W), and a position is {_RULE}."
_POSITION = "(points + 0.5) / max(size)"
_WRONG_POSITIONS: dict[str, Any] = {
    f"pixel coordinates go in as they are: {_RULE}.": {_POSITION: "points"},
    f"the positions are not divided: {_RULE}.": {_POSITION: "points + 0.5"},
    f"the half pixel is missing: {_RULE}.": {_POSITION: "points / max(size)"},
    _OWN_SIDES: [{"max(size)": "torch.tensor(size[::-1])"}, {_POSITION: "points / torch.tensor(size[::-1])"}],
    _MIXED: [{"max(size)": "torch.tensor(size)"}, {_POSITION: "points / torch.tensor(size)"}],
    f"for this image it divides by the shorter side: {_RULE}.": {"max(size)": "min(size)"},
    f"it divides by the longer side minus 1: {_RULE}.": {_POSITION: "points / (max(size) - 1)"},
    f"half a pixel is taken off, not added: {_RULE}.": {"points + 0.5": "points - 0.5"},
    f"0.5 is added after the division: {_RULE}.": {_POSITION: "points / max(size) + 0.5"},
    "x and y are exchanged: (x, y) goes in, in this order.": {"points + 0.5": "points.flip(-1) + 0.5"},
    f"positions run from -1 to 1: {_RULE}.": {_POSITION: f"2 * {_POSITION} - 1"},
}
"""Of points and of the corners of boxes, which are points, too."""


class _PointEmbedding(nn.Module):
    """Points -> one vector, the mean over the points of what their type and their position say."""

    def __init__(self, channels: int):
        super().__init__()
        self.point_type_embed = nn.Embedding(2, channels)  # 0 background, 1 foreground
        self.point_pos_embed = nn.Linear(2, channels)

    def forward(self, points: Tensor, labels: Tensor, size: _Size) -> Tensor:
        """points float (B, N, 2), labels int64 (B, N), -1 padding, size (H, W) -> (B, C), zeros without a point."""
        given = (labels >= 0)[..., None]
        at = (points + 0.5) / max(size)
        kind, place = self.point_type_embed(labels.clamp_min(0)), self.point_pos_embed(at)
        return ((kind + place) * given).sum(1) / given.sum(1).clamp_min(1)


def _point_cases() -> Iterator[Case]:
    for words, kinds, size in (
        ("a wide image", [[1, 0, 0], [1, 1, 0]], _WIDE),
        ("a tall image", [[1, 0, 0], [1, 1, 0]], _TALL),
        ("points with padding", [[1, -1, 0, -1, 0], [-1, 0, 1, 1, -1]], _WIDE),
        ("a row of padding alone", [[1, 0, 1], [-1, -1, -1]], _WIDE),
        ("no points at all", [[], []], _WIDE),
    ):
        labels = torch.tensor(kinds, dtype=torch.int64)
        points = (torch.rand(*labels.shape, 2) * torch.tensor([size[1] - 1, size[0] - 1])).round()
        points[labels < 0] = -700.0  # padding lies far outside, where it does most harm
        yield Case(((_C,), (points, labels, size)), f"for {words}", "the vector")


_MEAN_OVER = " / given.sum(1).clamp_min(1)"
_ALL_COUNTED = {"given.sum(1)": "torch.ones_like(given).sum(1)"}
_PADDING = {  # as if there were no `given`, or as if it were only for the type or the position
    "as a background point": {") * given": ")"},
    "as a foreground point (-1 is the last row)": {") * given": ")", "labels.clamp_min(0)": "labels % 2"},
    "with its position": {"kind + place) * given": "kind * given + place)"},
    "with its type": {"kind + place) * given": "kind + place * given)"},
}

point_embedding = Exercise(
    "PointEmbedding",
    _PointEmbedding,
    _point_cases,
    run=_run_module(
        _PointEmbedding,
        {
            "point_type_embed": "nn.Embedding(2, channels), 0 background and 1 foreground",
            "point_pos_embed": "nn.Linear(2, channels)",
        },
        "without a point it is 0 / 0: divide by the number of points or 1, whichever is larger (clamp_min(1)).",
    ),
    tolerance=rounding,
    errors={
        "index out of range": "the label -1 is used as an index: replace it first (clamp_min(0)), and leave those "
        "points out of sum and mean.",
        "must match the size": "shapes do not fit: labels (B, N) need a third axis, labels[..., None], to meet vectors "
        "(B, N, channels).",
        "mat1 and mat2": "point_pos_embed takes the last axis of (B, N, 2), the two coordinates of a point.",
    },
    wrong={
        **_WRONG_POSITIONS,
        "the type is left out: add point_type_embed of the label.": {"kind + place": "place"},
        "the position is left out: add point_pos_embed of it.": {"kind + place": "kind"},
        "type and position are multiplied: add them.": {"kind + place": "kind * place"},
        "type and position are concatenated: add them.": {"kind + place": "torch.cat([kind, place], -1)"},
        "foreground and background are exchanged: row 0 of point_type_embed is background.": {
            "labels.clamp_min(0)": "1 - labels.clamp_min(0)"
        },
        "this is the sum over the points: take their mean.": {_MEAN_OVER: ""},
        "divided by all points of the batch: each row by its own.": {"given.sum(1)": "given.sum()"},
        "padding is counted in the mean: divide by the number of points given.": _ALL_COUNTED,
        "background points (label 0) are left out: they count, too.": [
            {") * given": ") * (labels == 1)[..., None]"},
            {"labels >= 0": "labels == 1"},
        ],
        "background points are subtracted: their type says what they are.": {
            ") * given": ") * given * (2 * labels - 1)[..., None]"
        },
        **{
            f"padding (label -1) is counted {words}: it must change nothing. Multiply by labels >= 0.": [
                counted | mean for mean in (_ALL_COUNTED, {}, {_MEAN_OVER: ""})
            ]
            for words, counted in _PADDING.items()
        },
        "without a point the bias of point_pos_embed is left over: the vector is zeros then.": {
            _MEAN_OVER: f"{_MEAN_OVER} + ~given.any(1) * self.point_pos_embed.bias"
        },
        "this is a vector for each point: return their mean.": {f").sum(1){_MEAN_OVER}": ")"},
        "this is the maximum over the points: take their mean.": {
            f" * given).sum(1){_MEAN_OVER}": ").masked_fill(~given, -torch.inf).amax(1)"
        },
    },
)


# ------------------------------------------------------------- BoxEmbedding


class _BoxEmbedding(nn.Module):
    """A box -> a vector."""

    def __init__(self, channels: int):
        super().__init__()
        self.box_embed = nn.Sequential(nn.Linear(4, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, boxes: Tensor, size: _Size) -> Tensor:
        """boxes float (B, 4), pixels (x0, y0, x1, y1), a row of NaN for none, size (H, W) -> (B, C)."""
        given = ~boxes.isnan().any(1, keepdim=True)
        # Replaced before the layers: what comes out of them for NaN has a gradient of NaN, even if it is not used.
        points = torch.where(given, boxes, 0).unflatten(1, (2, 2))
        corners = (points + 0.5) / max(size)
        return self.box_embed(corners.flatten(1)) * given


def _embedding_cases() -> Iterator[Case]:
    none = [torch.nan] * 4
    boxes = torch.tensor([[3.0, 5, 17, 12], [0, 1, 19, 21], [6, 2, 9, 18]])
    for words, given, size in (
        ("a wide image", boxes, _WIDE),
        ("a tall image", boxes, _TALL),
        ("a row without a box", torch.cat([boxes, torch.tensor([none])]), _WIDE),
        ("no box at all", torch.tensor([none, none]), _WIDE),
    ):
        yield Case(((_C,), (given, size)), f"for {words}", "the vector")


_OUT = "nn.Linear(channels, channels)"

box_embedding = Exercise(
    "BoxEmbedding",
    _BoxEmbedding,
    _embedding_cases,
    run=_run_module(
        _BoxEmbedding,
        {"box_embed": "nn.Sequential(nn.Linear(4, channels), nn.ReLU(), nn.Linear(channels, channels))"},
        "a row of NaN is no box. NaN times 0 is NaN, in the gradient too: replace it before the layers (torch.where, "
        "nan_to_num), then multiply the row's vector by 0.",
    ),
    tolerance=rounding,
    errors={"mat1 and mat2": "box_embed takes the four numbers of a box: normalise them as (B, 2, 2), then flatten."},
    wrong={
        **_WRONG_POSITIONS,
        "width and height go in: the four numbers are the corners, (x0, y0, x1, y1).": [
            {"corners.flatten(1)": f"torch.cat([{start}, corners[:, 1] - corners[:, 0]{more}], 1)"}
            for start in ("corners[:, 0]", "corners.mean(1)")
            for more in ("", " + 1 / max(size)")
        ],
        "this is (x0, x1, y0, y1): (x0, y0, x1, y1) goes in.": {"corners.flatten": "corners.mT.flatten"},
        "the ReLU between the two layers is left out: put it there.": {"nn.ReLU(), ": ""},
        "the ReLU comes after the second layer: it stands between them.": {f"nn.ReLU(), {_OUT}": f"{_OUT}, nn.ReLU()"},
        "there is a ReLU after the second layer: leave it out.": {_OUT: f"{_OUT}, nn.ReLU()"},
        "a row of NaN still says something, since the layers have biases: multiply its vector by 0.": [
            {" * given": ""},
            {
                "torch.where(given, boxes, 0)": "boxes",
                "corners.flatten(1)": "corners.flatten(1).nan_to_num()",
                " * given": "",
            },
        ],
    },
)


# --------------------------------------------------------------- point_maps


def _run_maps(reference: Callable[..., Tensor], names: Mapping[str, int]) -> Run:
    """The maps' shape, then, one after the other, what they say: `names` has the numbers that each takes."""

    def run(check: Check, answer: Callable, case: Case) -> Parts:
        found, expected = check.call(answer, *case.args, when=case.when), reference(*case.args)
        if not isinstance(found, Tensor):
            raise Mistake(difference(found, expected, case.words))
        parts = Parts({f"the shape {case.when}": list(found.shape)})
        if found.shape != expected.shape:
            return Parts({**parts, case.words: found})
        for name, part in zip(names, found.split(list(names.values()), dim=-1), strict=True):
            parts[f"{name} {case.when}"] = part
        return parts

    return run


def _map_cases() -> Iterator[Case]:
    for words, size, count, stride in (
        ("for a wide image", (24, 40), 3, 4),
        ("for a tall image whose sides do not divide", (37, 18), 2, 4),
        ("for stride=8", (24, 40), 1, 8),
        ("without points", (16, 24), 0, 4),
    ):
        points = torch.rand(2, count, 2) * torch.tensor([size[1] - 1, size[0] - 1])
        yield Case((points, size, stride), words, "the map")


_CORNER = "this is the corner of the position: its centre is at (j + 0.5) * stride."
_EACH_BY_ITS_OWN = "each axis is divided by its own side: by the longer one both, so that circles stay round."
_LONGER = "pixels are divided by the longer side of the image."
_WRONG_GRIDS: dict[str, Any] = {
    "the centre is at (j + 0.5) * stride; 0.5 is taken off too much.": {"positions(": "-0.5 / max(size) + positions("},
    "this is the position's far corner: its centre is at (j + 0.5) * stride.": {
        "positions(": "0.5 * stride / max(size) + positions("
    },
    _CORNER: {"positions(": "-0.5 * stride / max(size) + positions("},
    "h is the height over the stride, rounded up, -(-H // stride), as a convolution with padding leaves it.": {
        "device)": "device)[: size[0] // stride, : size[1] // stride]"
    },
    "h and w are exchanged: size is (H, W).": {"positions(size": "positions(size[::-1]"},
    "stride is not used: is 4 written by hand?": {"positions(size, stride": "positions(size, 4"},
    "stride is not used: is 8 written by hand?": {"positions(size, stride": "positions(size, 8"},
    **{
        hint: {old: f"max(size) / {divisor} * {old}" for old in ("positions(", "normalize(")}
        for hint, divisor in {
            f"it is not normalised: {_LONGER}": "1",
            f"it is in units of the stride: {_LONGER}": "stride",
            _EACH_BY_ITS_OWN: "torch.tensor(size[::-1])",
            f"height and width are mixed up: {_LONGER}": "torch.tensor(size)",
            f"it divides by the shorter side: {_LONGER}": "min(size)",
            f"it divides by the height, for a wide image by the shorter side: {_LONGER}": "size[0]",
            f"it divides by the width, for a tall image by the shorter side: {_LONGER}": "size[1]",
            f"it divides by the map's longer side: {_LONGER}": "(-(-max(size) // stride) * stride)",
        }.items()
    },
}
"""Of both maps: where the positions lie, and by what they and the prompt are divided."""

_SIGN = "the sign is wrong: from the point to the position, position - point."
_ALL_FIVE = "dx, dy, distance, two bumps."
_ROOT, _BUMPS = "squared.sqrt()", "-squared / (2 * sigma**2)"
_BUMP = "a bump is exp(-distance**2 / (2 * sigma**2))."

point_maps = Exercise(
    "point_maps",
    prompt_maps.point_maps,
    _map_cases,
    run=_run_maps(
        prompt_maps.point_maps,
        {"dx and dy": 2, "the distance": 1, **{f"the bump of sigma {sigma}": 1 for sigma in SIGMAS}},
    ),
    errors={
        "must match the size": "shapes do not fit: points (B, N, 2) become (B, N, 1, 1, 2) to meet the centres (h, w, "
        "2), for example points[:, :, None, None].",
        "Sizes of tensors must match": "shapes do not fit: distance and bumps are (B, N, h, w, 1) to be joined with "
        "dx and dy, for example by sum(-1, keepdim=True).",
    },
    wrong={
        _SIGN: {"[offset,": "[-offset,"},
        "dx and dy are exchanged: dx first, along the columns.": {"[offset,": "[offset.flip(-1),"},
        f"dx and dy are exchanged, and {_SIGN}": {"[offset,": "[-offset.flip(-1),"},
        f"the distance comes third: {_ALL_FIVE}": {f"offset, {_ROOT}": f"{_ROOT}, offset"},
        f"the bumps come last: {_ALL_FIVE}": {f"offset, {_ROOT}, *bumps": f"*bumps, offset, {_ROOT}"},
        "the bumps are exchanged: the narrow one, of sigma 0.03, comes first.": {"*bumps": "*bumps[::-1]"},
        f"distance and bumps are missing: {_ALL_FIVE}": {f", {_ROOT}, *bumps": ""},
        f"the bumps are missing: {_ALL_FIVE}": {", *bumps": ""},
        f"the distance is missing: {_ALL_FIVE}": {f"{_ROOT}, ": ""},
        "h and w are exchanged: the shape is (B, N, h, w, 5), rows first.": {"dim=-1)": "dim=-1).transpose(2, 3)"},
        "the five numbers come last: the shape is (B, N, h, w, 5).": {"dim=-1)": "dim=-1).movedim(-1, 2)"},
        **_WRONG_GRIDS,
        "the half pixel of the point is missing: (xy + 0.5) / longer side.": {"(points, size)": "(points - 0.5, size)"},
        "the positions' centres are not divided: they are pixels, too.": {"positions(": "max(size) * positions("},
        "this is the squared distance: take the root.": {_ROOT: "squared"},
        "this is |dx| + |dy|: the distance is the root of dx² + dy².": {_ROOT: "offset.abs().sum(-1, keepdim=True)"},
        "this is the larger of |dx|, |dy|: the root of dx² + dy².": {_ROOT: "offset.abs().amax(-1, keepdim=True)"},
        f"the distance is not squared: {_BUMP}": {"-squared": "-squared.sqrt()"},
        f"sigma is not squared: {_BUMP}": {"sigma**2": "sigma"},
        f"neither distance nor sigma is squared: {_BUMP}": {_BUMPS: "-squared.sqrt() / (2 * sigma)"},
        f"the factor 2 is missing: {_BUMP}": {_BUMPS: "-squared / sigma**2"},
        f"the factor 2 is missing, and sigma is not squared: {_BUMP}": {_BUMPS: "-squared / sigma"},
        f"it multiplies by sigma**2, brackets are missing: {_BUMP}": {_BUMPS: "-squared / 2 * sigma**2"},
        f"the 2 is squared, too: {_BUMP}": {_BUMPS: "-squared / (2 * sigma) ** 2"},
        f"the minus sign is missing: {_BUMP}": [
            {"-squared": "squared"},
            {"-squared": "offset.norm(dim=-1, keepdim=True).square()"},  # exp of so much shows how it was rounded
        ],
        f"the distance is squared twice: {_BUMP}": {"-squared": "-squared.square()"},
        f"it is 0 at the point, expected 1: {_BUMP}": {"torch.exp(": "1 - torch.exp("},
        f"{_CORNER} And a point's: (xy + 0.5) / longer side.": {
            "positions(": "-0.5 * stride / max(size) + positions(",
            "(points, size)": "(points - 0.5, size)",
        },
        "the distance is in pixels: from dx and dy as divided.": {_ROOT: f"max(size) * {_ROOT}"},
        "height and width are exchanged: size is (H, W), and x runs along the columns, the last axis but one.": {
            "positions(size": "positions(size[::-1]",
            "dim=-1)": "dim=-1).transpose(2, 3)",
        },
    },
)


# ----------------------------------------------------------------- box_maps


def _box_map_cases() -> Iterator[Case]:
    """Boxes of any shape, one of a single pixel, one that is the image; small ones leave much of it far away."""
    wide = torch.tensor([[3.0, 5, 16, 12.6], [20.3, 1, 27, 22], [0, 0, 39, 23]])
    tall = torch.tensor([[1.0, 4, 6.4, 30], [8, 9, 8, 9]])
    for words, boxes, size, stride in (
        ("for a wide image", wide, (24, 40), 4),
        ("for a tall image whose sides do not divide", tall, (37, 18), 4),
        ("for stride=8", wide, (24, 40), 8),
    ):
        yield Case((boxes, size, stride), words, "the map")


_LOW, _HIGH = ":2] - 0.5", "2:] + 0.5"
_OUTWARD = "the box ends half a pixel beyond its pixels' centres: from (x0 - 0.5 + 0.5) to (x1 + 0.5 + 0.5)."
_RELATIVE_TO_BOX = "2 * (position - low) / (high - low) - 1, that is -1 at one edge and 1 at the other."
_TO_BOX = "2 * (here - low) / extent - 1"
_NEAREST = (
    "the distance to the nearest of the four edges, negative outside: the minimum of position - low, high - here."
)
_NEARER = "torch.minimum(here - low, high - here)"
_SIGMOID, _EXTENT = "torch.sigmoid(edge / EDGE)", "extent.expand_as"
_STEP = "a step of width 0.02: sigmoid(edge / 0.02)."
_SIDES = "extent.expand_as(relative)"
_INNER = "the distances to the nearer edges, each divided by the box's own side: inner / (high - low)."
_SHARES = "inner / extent"
_ALL_EIGHT = "x and y, edge, step, width and height, two distances over width and height."

box_maps = Exercise(
    "box_maps",
    prompt_maps.box_maps,
    _box_map_cases,
    run=_run_maps(
        prompt_maps.box_maps,
        {
            "x and y relative to the box": 2,
            "the distance to the nearest edge": 1,
            "the soft step": 1,
            "the box's width and height": 2,
            "the distances over width and height": 2,
        },
    ),
    tolerance=lambda expected: 1e-4 if isinstance(expected, Tensor) else 0,  # a box of one pixel: distances of 30 sides
    errors={
        "must match the size": "shapes do not fit: corners (B, 2) become (B, 1, 1, 2) to meet the centres (h, w, 2), "
        "for example boxes[:, None, None, :2].",
        "Sizes of tensors must match": "shapes do not fit: every part is (B, h, w, 1) or (B, h, w, 2) before they are "
        "joined: keepdim=True for the minimum, expand_as for width and height.",
    },
    wrong={
        "x and y relative to the box are exchanged: x comes first.": {"[relative": "[relative.flip(-1)"},
        f"the edge comes third: {_ALL_EIGHT}": {"relative, edge": "edge, relative"},
        f"edge and step are exchanged: {_ALL_EIGHT}": {f"edge, {_SIGMOID}": f"{_SIGMOID}, edge"},
        f"the last two pairs are exchanged: {_ALL_EIGHT}": {f"{_SIDES}, {_SHARES}": f"{_SHARES}, {_SIDES}"},
        f"the distances over width and height are missing: {_ALL_EIGHT}": {f", {_SHARES}": ""},
        f"width and height are missing: {_ALL_EIGHT}": {f"{_SIDES}, ": ""},
        "rows and columns are exchanged: the shape is (B, h, w, 8), rows first.": {"dim=-1)": "dim=-1).swapaxes(1, 2)"},
        "the eight numbers come last: the shape is (B, h, w, 8).": {"dim=-1)": "dim=-1).movedim(-1, 1)"},
        **_WRONG_GRIDS,
        f"the half pixels outward are missing. {_OUTWARD}": {_LOW: ":2]", _HIGH: "2:]"},
        f"the corners are divided as they are. {_OUTWARD}": {_HIGH: "2:] - 0.5"},
        f"the + 0.5 of every pixel's centre is missing. {_OUTWARD}": {_LOW: ":2] - 1", _HIGH: "2:]"},
        f"the half pixels go inward. {_OUTWARD}": {_LOW: ":2] + 0.5", _HIGH: "2:] - 0.5"},
        "x and y of the box are exchanged: (x0, y0, x1, y1).": {":2]": "[1, 0]]", "2:]": "[3, 2]]"},
        f"x and y run from 0 to 1 in the box: {_RELATIVE_TO_BOX}": {_TO_BOX: "(here - low) / extent"},
        f"x and y run from -0.5 to 0.5: {_RELATIVE_TO_BOX}": {_TO_BOX: "(here - low) / extent - 0.5"},
        f"x and y are not divided by the box's sides: {_RELATIVE_TO_BOX}": [
            {_TO_BOX: "2 * (here - low) - extent"},
            {_TO_BOX: "(here - low) - extent / 2"},
        ],
        f"the sign of x and y is wrong: {_RELATIVE_TO_BOX}": {_TO_BOX: "1 - 2 * (here - low) / extent"},
        "x is divided by the height, y by the width: flip.": {"- low) / extent": "- low) / extent.flip(-1)"},
        "x and y are not clamped: .clamp(-2, 2), so that a small box does not make huge numbers.": {
            ".clamp(-2, 2)": ""
        },
        "x and y are clamped at 1, so that the near outside looks like the far: .clamp(-2, 2).": {
            "clamp(-2, 2)": "clamp(-1, 1)"
        },
        f"this is the farther edge: {_NEAREST}": {"torch.minimum": "torch.maximum"},
        f"only the left and the upper edge are looked at: {_NEAREST}": {_NEARER: "here - low"},
        f"only the right and the lower edge are looked at: {_NEAREST}": {_NEARER: "high - here"},
        f"the sign is lost (abs): {_NEAREST}": [
            {_NEARER: f"{_NEARER}.abs()"},
            {_NEARER: "torch.minimum((here - low).abs(), (high - here).abs())"},
            {"inner.amin": "inner.abs().amin"},
            {"keepdim=True)": "keepdim=True).abs()"},
        ],
        f"it is 0 outside: {_NEAREST}": {_NEARER: f"{_NEARER}.relu()"},
        f"the larger of the distances in x and in y is taken: {_NEAREST}": {"inner.amin": "inner.amax"},
        f"this is the mean of x and y: {_NEAREST}": {"inner.amin": "inner.mean"},
        f"it is positive outside: {_NEAREST}": {"inner.amin": "-inner.amin"},
        f"the step is not divided by its width: {_STEP}": {"edge / EDGE": "edge"},
        f"it is multiplied by the width: {_STEP}": {"edge / EDGE": "edge * EDGE"},
        f"the step is 1 outside: {_STEP}": {"edge / EDGE": "-edge / EDGE"},
        f"the step is hard: {_STEP}": {_SIGMOID: "(edge > 0).float()"},
        f"the sigmoid is missing: {_STEP}": {_SIGMOID: "edge / EDGE"},
        "height and width are exchanged: the width comes first, as x does.": {_EXTENT: "extent.flip(-1).expand_as"},
        "half the width and height are shown: all of them, high - low.": {_EXTENT: "(extent / 2).expand_as"},
        "the logarithm of width and height is shown: high - low as they are.": {_EXTENT: "extent.log().expand_as"},
        f"the last two are not divided: {_INNER}": {_SHARES: "inner"},
        f"width and height are exchanged: {_INNER}": {_SHARES: "inner / extent.flip(-1)"},
        f"the last two are exchanged, x comes first: {_INNER}": {_SHARES: "(inner / extent).flip(-1)"},
        f"the last two are twice as large: {_INNER}": {_SHARES: "2 * inner / extent"},
        f"the sign of the last two is lost (abs): {_INNER}": {_SHARES: "(inner / extent).abs()"},
        f"the last two are multiplied: {_INNER}": {_SHARES: "inner * extent"},
    },
)


# ------------------------------------------------------------------ IoUHead


def _head_cases() -> Iterator[Case]:
    for words, channels, masks, ious in (
        ("3 masks", 5, 3, 3),
        ("one mask", 4, 1, 1),
        ("a mask without a pixel", 4, 1, 1),
        ("4 masks and one IoU", 3, 4, 1),
    ):
        features, logits = torch.randn(2, channels, 4, 6), 2 * torch.randn(2, masks, 4, 6)
        logits[0, -1] -= 7  # a small mask, whose weights add up to less than 1
        if "without" in words:
            logits[0] = -200.0  # sigmoid gives exactly 0
        yield Case(((channels, masks, ious), (features, logits)), f"for {words}", "the IoU")


def _check_detached(check: Check, model: nn.Module, right: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
    given = [x.clone().requires_grad_() for x in inputs]
    weighting = torch.randn_like(right(*given))
    at_features, at_logits = _gradients(check, lambda: (model(*given) * weighting).sum(), given)
    wanted, _ = _gradients(check, lambda: (right(*given) * weighting).sum(), given)
    cut = "a gradient reaches the logits: detach them. The masks must not change only to be judged better."
    check.that(not at_logits.any(), cut)
    lost = "no gradient, or a wrong one, reaches the features: only the logits are detached."
    check.that(torch.allclose(at_features, wanted, atol=1e-5), lost)


_LEAST = "{}: divide by the sum of the weights or 1e-3, whichever is larger, clamp_min(1e-3)."
_END, _WHOLE = "(summary).sigmoid()", "features.mean((2, 3))[:, None]"
_SOFT, _SUM = "weights.sigmoid()", "weights.sum(2, keepdim=True).clamp_min(1e-3)"
_JOINED = f"{_WHOLE}, inside"

iou_head = Exercise(
    "IoUHead",
    IoUHead,
    _head_cases,
    run=_run_module(
        IoUHead,
        {"layers": "nn.Sequential(nn.Linear(channels * (1 + masks), channels), nn.ReLU(), nn.Linear(channels, ious))"},
        "a mask with hardly a pixel gives 0 / 0: divide by the sum of its weights or 1e-3, whichever is larger.",
        scale=3,
    ),
    tolerance=rounding,
    errors={
        "mat1 and mat2": "layers take channels * (1 + masks) numbers: the mean over the image and one inside each "
        "mask, concatenated."
    },
    wrong={
        "the sigmoid at the end is missing: an IoU lies between 0 and 1.": {_END: "(summary)"},
        "there is a softmax at the end: each mask has an IoU of its own, sigmoid.": {_END: "(summary).softmax(1)"},
        "the result is cut off (ReLU or clamp), and has no gradient there: take the sigmoid.": [
            {_END: "(summary).clamp(0, 1)"},
            {_END: "(summary).relu()"},
        ],
        "the sigmoid at the end is taken twice: once is enough.": {_END: "(summary).sigmoid().sigmoid()"},
        "the logits are thresholded: the weights are sigmoid(logits).": {_SOFT: "(weights > 0).float()"},
        "the weights are cut off below 0.5: all of sigmoid(logits) counts.": {_SOFT: f"(weights > 0) * {_SOFT}"},
        "the logits are thresholded, at 0.5: the weights are sigmoid(logits).": {_SOFT: "(weights > 0.5).float()"},
        "the logits themselves are the weights, sigmoid is missing: they may be negative.": {_SOFT: "weights"},
        "the weights are relu(logits): take sigmoid(logits).": {_SOFT: "weights.relu()"},
        "the sigmoid of the logits is taken twice: once is enough.": {_SOFT: "weights.sigmoid().sigmoid()"},
        "there is a softmax over the pixels: sigmoid.": {_SOFT: "weights.flatten(2).softmax(2)"},
        "there is a softmax over the masks: each stands for itself, sigmoid.": {_SOFT: "weights.softmax(1)"},
        "the features outside the masks are averaged: inside, by sigmoid(logits).": {_SOFT: "(-weights).sigmoid()"},
        "the masks are not used: each mean is weighted by sigmoid(logits).": {_SOFT: "torch.ones_like(weights)"},
        "divided by the number of pixels: by the sum of the weights.": {_SUM: "weights.shape[2]"},
        _LEAST.format("a small mask's weights add up to less than 1"): {"clamp_min(1e-3)": "clamp_min(1)"},
        _LEAST.format("1e-3 is added to every sum"): {_SUM: "(weights.sum(2, keepdim=True) + 1e-3)"},
        "this is the weighted sum: divide by the sum of the weights.": {f" / {_SUM}": ""},
        "by the sum of all masks: each by its own.": {"weights.sum(2,": "weights.sum((1, 2),"},
        "divided by the sum over the batch: each by its own.": {"weights.sum(2,": "weights.sum((0, 2),"},
        "the image's features are summed: take their mean.": {"features.mean": "features.sum"},
        "this is the maximum over the image: take the mean.": {"features.mean": "features.amax"},
        "the image's mean comes last: first, then one mean for each mask.": {_JOINED: f"inside, {_WHOLE}"},
        "the masks are in reverse order: mask 0 comes first.": {_JOINED: f"{_WHOLE}, inside.flip(1)"},
        "the numbers are in another order: all channels of the image, then all channels of mask 0, and so on.": [
            {"dim=1).flatten(1)": "dim=1).mT.flatten(1)"},
            {_JOINED: "features.mean((2, 3)), inside.mT.flatten(1)"},
        ],
        "the ReLU between the two layers is left out: put it there.": {"nn.ReLU(inplace=True), ": ""},
    },
)


# -------------------------------------------------------------- prompt_loss

_VOID_ALONE = "an image that is void everywhere"
_SURE = "for logits of 100 and -100"


def _loss_cases() -> Iterator[Case]:
    """Several candidates and one, with void, with weights; sure logits; an image of void alone."""
    every, half = torch.ones(4, 6, 7), torch.randint(0, 3, (4, 6, 7)) / 2
    some, one = every.clone(), every.clone()
    some[0, :2], some[1, :, 4:], some[3, 1:5, 1:4], one[1] = 0, 0, 0, 0
    for words, masks, weight in (
        ("three candidates", 3, every),
        ("one candidate", 1, every),
        ("three candidates with void", 3, some),
        ("five candidates with weights between 0 and 1", 5, half),
        (_VOID_ALONE, 3, one),
    ):
        target = torch.rand(4, 6, 7)
        logits = torch.randn(4, masks, 6, 7)
        for i in range(4):  # not the same candidate is best everywhere
            logits[i, (i + 1) % masks] += 4 * target[i] - 2
        if masks > 1:
            logits[1, 0] = (3 * logits[1, 2]).clamp(-6, 6)  # a mask again, surer: better by Dice, not by cross-entropy
        iou = torch.rand(4, masks)
        if words == _VOID_ALONE:
            iou[1] = 0.5  # as far from 0 as from 1: which of them is the IoU of nothing with nothing is left open
        yield Case((logits.requires_grad_(), iou.requires_grad_(), target, weight), f"for {words}", "the loss")
    sure = torch.tensor([100.0, -100.0, 100.0, -100.0]).view(1, 1, 2, 2)  # sigmoid gives exactly 1 and 0
    target, iou = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.full((1, 1), 0.5)
    yield Case((sure.requires_grad_(), iou.requires_grad_(), target, torch.ones(1, 2, 2)), _SURE)


def _run_loss(check: Check, answer: Callable, case: Case) -> Any:
    """The loss, and its gradients at logits and predicted IoUs, zeros where none comes back."""
    given: list[Tensor] = []

    def watched(logits: Tensor, iou: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        given.extend((logits, iou))  # the check hands over copies, whose gradients are asked for
        return answer(logits, iou, target, weight)

    loss = check.call(watched, *case.args, when=case.when)
    if not (isinstance(loss, Tensor) and loss.ndim == 0):
        return loss
    gradients = _gradients(check, lambda: loss, given) if loss.requires_grad else list(map(torch.zeros_like, given))
    finite = all(bool(value.isfinite().all()) for value in (loss, *gradients))
    if case.when == _SURE:
        check.that(
            finite,
            "for logits of 100 and -100, right and wrong, sigmoid gives exactly 1 and 0, and the loss or its "
            "gradient is not finite: take binary_cross_entropy_with_logits and torch.sigmoid instead of exp and log.",
        )
        return Parts()
    remedy = "divide by the sum of the weights or 1, whichever is larger (clamp_min(1)), for the IoU, too."
    check.that(finite, f"the loss {case.when}, or its gradient, is not finite: {remedy}")
    words = f"{case.when} (is a part detached, or the true IoU not?)"
    parts = Parts({case.words: loss.detach(), f"the gradient at the logits {words}": gradients[0]})
    if _VOID_ALONE not in case.when:
        parts[f"the gradient at the predicted IoUs {words}"] = gradients[1]
    return parts


def _plain_loss(logits: Tensor, predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """`prompt_loss` written out."""
    y, w = target[:, None].expand_as(logits), weight[:, None].expand_as(logits)
    nll = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    ce = (w * nll).sum((2, 3)) / w.sum((2, 3)).clamp_min(1)
    p = logits.sigmoid()
    overlap, areas = (w * p * y).sum((2, 3)), (w * p).sum((2, 3)) + (w * y).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (areas + 1)
    loss = ce + dice
    m, t = (logits > 0).float(), (y > 0.5).float()
    both = (w * m * t).sum((2, 3))
    either = (w * (m + t)).sum((2, 3)) - both
    error = predicted - both / either.clamp_min(1)
    return loss.amin(1).mean() + 0.1 * loss.mean() + 0.1 * error.square().mean()


_THRESHOLDED = "the true IoU comes from masks: logits > 0 and target > 0.5."
_SIGMOID_TWICE = (
    "a sigmoid before binary_cross_entropy_with_logits, which applies its own: it is taken twice. Give it the logits."
)
_EXCLUSIVE = "candidates do not exclude each other: a sigmoid for each, no softmax over them."
_IN_EACH_IMAGE = "is summed over the batch before dividing: each image and candidate has its own quotient."
_VOID = "void is counted in {}: multiply by the weight, which is 0 there."
_CHOICE = "Minimum over the candidates of each image, then the mean over the batch, + 0.1 * the mean of all."
_BAR = "the 1 {}is missing in Dice: (2 overlap + 1) / (areas + 1)."
_LOST = "is there an argmax, a detach or an `.item()`? Only the true IoU is without a gradient."

_NLL, _P, _MEAN = "with_logits(logits", "p = logits.sigmoid()", "/ w.sum((2, 3)).clamp_min(1)"
_BEST, _ERROR = "loss.amin(1)", "0.1 * error.square().mean()"
_MASK, _TRUTH = "(logits > 0).float()", "(y > 0.5).float()"
_BATCH = "sum((0, 2, 3))"
_CE_OF_BATCH = {"(w * nll).sum((2, 3))": f"(w * nll).{_BATCH}", "/ w.sum((2, 3))": f"/ w.{_BATCH}"}
_DICE_OF_BATCH = {f"(w * {x}).sum((2, 3))": f"(w * {x}).{_BATCH}" for x in ("p", "y", "p * y")}
_CE_OF_ALL = {f"(w * nll).sum((2, 3)) {_MEAN}": "nll.mean((2, 3))"}
_DICE_OF_ALL = {"w * p": "p", "w * y": "y"}

prompt_loss = Exercise(
    "prompt_loss",
    task.prompt_loss,
    _loss_cases,
    run=_run_loss,
    tolerance=lambda expected: 1e-5 if expected.ndim == 0 else max(1e-4 * expected.abs().max().item(), 1e-7),
    errors={
        "leaf Variable that requires grad": "it changes an argument in place: use an operation that returns a new "
        "tensor.",
        "Can't call numpy()": "NumPy knows no gradients: take torch's functions.",
        "Using a target size": "the target is (B, h, w), the logits (B, M, h, w): the same target for every candidate, "
        "target[:, None].expand_as(logits).",
        "all elements of input should be between 0 and 1": "binary_cross_entropy takes probabilities: "
        "binary_cross_entropy_with_logits takes logits.",
        "must match the size": "shapes do not fit: target and weight (B, h, w) need a second axis, target[:, None], to "
        "meet the candidates (B, M, h, w).",
    },
    source=_plain_loss,
    wrong={
        _SIGMOID_TWICE: [
            {_NLL: f"{_NLL}.sigmoid()"},
            {_NLL: f"{_NLL}.sigmoid()", _P: f"{_P}.sigmoid()"},
            lambda x, i, t, w: task.prompt_loss(x.sigmoid(), i, t, w),
        ],
        f"a softmax comes before binary_cross_entropy_with_logits. {_EXCLUSIVE}": {_NLL: f"{_NLL}.softmax(1)"},
        "cross-entropy is left out: cross-entropy + Dice for each candidate.": {"ce + dice": "dice"},
        f"the cross-entropy {_IN_EACH_IMAGE}": _CE_OF_BATCH,
        "the cross-entropy is a sum: divide it by the sum of the weights.": {_MEAN: ""},
        _VOID.format("the cross-entropy"): _CE_OF_ALL,
        _VOID.format("the cross-entropy above the fraction bar"): {"w * nll": "nll"},
        "void is counted in the mean of the cross-entropy: divide by the sum of the weights.": {
            f"(w * nll).sum((2, 3)) {_MEAN}": "(w * nll).mean((2, 3))"
        },
        "the sigmoid is taken twice in Dice: once, of the logits.": {_P: f"{_P}.sigmoid()"},
        f"there is a softmax in Dice. {_EXCLUSIVE}": {_P: "p = logits.softmax(1)"},
        "the sigmoid is missing in Dice: it needs probabilities, not logits.": {_P: "p = logits"},
        "Dice is that of thresholded masks, without a gradient: sigmoid.": {_P: f"p = {_MASK}"},
        "Dice is left out: cross-entropy + Dice for each candidate.": {"ce + dice": "ce"},
        "Dice is subtracted: the loss is cross-entropy + (1 - the Dice score).": {"ce + dice": "ce - dice"},
        "this is the Dice score, which grows: 1 - it is the loss.": {"dice = 1 - ": "dice = "},
        "the 2 is missing in Dice: 2 overlap over the sum of both areas.": {"2 * overlap": "overlap"},
        "the predicted area is a sum of squares: sum the probabilities themselves.": {"(w * p)": "(w * p**2)"},
        "this is the soft Jaccard loss: Dice is 2 overlap over the sum of both areas.": {
            "(2 * overlap + 1) / (areas + 1)": "(overlap + 1) / (areas - overlap + 1)"
        },
        _BAR.format(""): {"(2 * overlap + 1) / (areas + 1)": "2 * overlap / areas"},
        _BAR.format("above the fraction bar "): {"(2 * overlap + 1)": "2 * overlap"},
        _BAR.format("below the fraction bar "): {"(areas + 1)": "areas"},
        f"Dice {_IN_EACH_IMAGE}": _DICE_OF_BATCH,
        _VOID.format("Dice"): _DICE_OF_ALL,
        _VOID.format("the predicted area of Dice"): {"(w * p).sum": "p.sum"},
        "cross-entropy and Dice are averaged: add them.": {"ce + dice": "(ce + dice) / 2"},
        f"this is the mean over the candidates. {_CHOICE}": {f"{_BEST}.mean() + 0.1 * loss.mean()": "loss.mean()"},
        f"this is the mean over the candidates, twice. {_CHOICE}": {_BEST: "loss"},
        f"the mean over the batch comes before the minimum. {_CHOICE}": {f"{_BEST}.mean()": "loss.mean(0).amin()"},
        f"this is the minimum over the whole batch. {_CHOICE}": {_BEST: "loss.amin()"},
        f"the minimum runs over the batch: dim=1 of (B, M). {_CHOICE}": {_BEST: "loss.amin(0)"},
        f"this is the worst candidate: take the minimum. {_CHOICE}": {_BEST: "loss.amax(1)"},
        f"the mean of the candidates is missing. {_CHOICE}": {" + 0.1 * loss.mean()": ""},
        f"the mean over the candidates has weight 1. {_CHOICE}": {"0.1 * loss.mean()": "loss.mean()"},
        f"the sum over the candidates is added. {_CHOICE}": {"0.1 * loss.mean()": "0.1 * loss.sum(1).mean()"},
        f"it is summed over the batch. {_CHOICE}": {
            "loss.amin(1).mean() + 0.1 * loss.mean()": "loss.amin(1).sum() + 0.1 * loss.mean(1).sum()"
        },
        f"only candidate 0 learns. {_CHOICE}": {_BEST: "loss[:, 0]"},
        "cross-entropy and Dice each have their own minimum: add them first, so that one candidate is the best.": {
            _BEST: "(ce.amin(1) + dice.amin(1))"
        },
        f"the candidate of the highest predicted IoU is taken. {_CHOICE}": {
            _BEST: "loss.gather(1, predicted.argmax(1, True))"
        },
        f"the candidate of the highest true IoU is taken. {_CHOICE}": {
            _BEST: "loss.gather(1, (predicted - error).argmax(1, True))"
        },
        "the term of the predicted IoU is left out: 0.1 * the mean of its squared error.": {f" + {_ERROR}": ""},
        "the squared error of the IoU has weight 1, expected 0.1.": {"0.1 * error": "error"},
        "the squared error of the IoU is summed: take the mean.": {_ERROR: "0.1 * error.square().sum()"},
        "the IoU's error is summed over the candidates: mean.": {_ERROR: "0.1 * error.square().sum(1).mean()"},
        "the IoU's error is summed over the batch: take the mean.": {_ERROR: "0.1 * error.square().sum(0).mean()"},
        "the IoU's error is taken without its square: the squared error.": {"error.square()": "error.abs()"},
        "the root of the IoU's squared error is taken: leave it.": {_ERROR: f"{_ERROR}.sqrt()"},
        "the IoU's error is multiplied by 0.1 twice: once is enough.": {"0.1 * error": "0.01 * error"},
        f"the IoU is computed from the logits. {_THRESHOLDED}": {_MASK: "logits"},
        f"the IoU is that of soft masks. {_THRESHOLDED}": [
            {_MASK: "logits.sigmoid()"},
            {_MASK: "logits.sigmoid()", _TRUTH: "y"},
        ],
        "the logits are thresholded at 0.5: sigmoid(0) = 0.5, so logits > 0.": {"logits > 0": "logits > 0.5"},
        "a probability above 0 is taken for the mask: logits > 0.": {"logits > 0": "logits.sigmoid() > 0"},
        f"there is an argmax over the candidates. {_THRESHOLDED}": {"logits > 0": "logits == logits.amax(1, True)"},
        "the target of the true IoU is not thresholded: target > 0.5.": {_TRUTH: "y"},
        "the target of the true IoU is thresholded at 0: target > 0.5.": {"y > 0.5": "y > 0"},
        "only positions covered wholly count in the true IoU: target > 0.5.": {"y > 0.5": "y == 1"},
        "this is Dice (F1), not the IoU: both / either.": {"both / either": "2 * both / (either + both)"},
        "the union counts the overlap twice: both / either.": {"both / either": "both / (either + both)"},
        f"the true IoU {_IN_EACH_IMAGE}": {
            "(w * m * t).sum((2, 3))": f"(w * m * t).{_BATCH}",
            "(w * (m + t)).sum((2, 3))": f"(w * (m + t)).{_BATCH}",
        },
        _VOID.format("the true IoU"): {"w * m * t": "m * t", "w * (m + t)": "m + t"},
        "the weight is used as a mask in the IoU: 0.5 counts half.": {"w * m": "(w > 0) * m", "w * (m": "(w > 0) * (m"},
        f"there is a softmax, twice. {_EXCLUSIVE}": {_NLL: f"{_NLL}.softmax(1)", _P: "p = logits.softmax(1)"},
        f"there is a softmax. {_EXCLUSIVE}": {_NLL: f"{_NLL}.softmax(1).logit()", _P: "p = logits.softmax(1)"},
        f"everything {_IN_EACH_IMAGE}": {
            **_CE_OF_BATCH,
            **_DICE_OF_BATCH,
            "ce + dice": "(ce + dice).expand_as(predicted)",
        },
        _VOID.format("cross-entropy and Dice"): _CE_OF_ALL | _DICE_OF_ALL,
        "the target is thresholded: only for the true IoU.": {"target[:, None]": "(target > 0.5).float()[:, None]"},
        _VOID.format("everything: weight is not used"): {"weight[:, None]": "torch.ones_like(weight)[:, None]"},
        "the weight is used as a mask: 0.5 counts half.": {"weight[:, None]": "(weight > 0)[:, None]"},
        f"no gradient comes back to the predicted IoUs: {_LOST}": {"predicted - both": "predicted.detach() - both"},
        f"no gradient comes back to the logits: {_LOST}": lambda *given: task.prompt_loss(*given).detach(),
    },
)


# ------------------------------------------------------------------ MiniSAM

_CHANNELS = 8
_PROMPTED = "with points, padding and boxes"
_NAN_PROMPTS = (
    "NaN times 0 is NaN, in the gradient too: replace the coordinates of padded points, and boxes of NaN, before "
    "anything is computed from them (torch.where), then leave those points and boxes out."
)
_PARTS = {
    "image_encoder": "the encoder that is given",
    "img_proj": "conv_norm(sum(image_encoder.channels), channels, 1)",
    "point_type_embed": "nn.Embedding(2, channels), 0 background and 1 foreground",
    "point_pos_embed": "nn.Linear(5, channels), for what point_maps gives",
    "box_embed": "nn.Linear(8, channels), for what box_maps gives",
    "mix": "nn.Linear(channels, channels)",
    "decoder": "nn.Sequential of nn.BatchNorm2d(channels), nn.ReLU() and three conv_norm(channels, channels, 3), of "
    "rates 1, 2 and 4",
    "mask_head": "nn.Conv2d(channels, masks, 1), 3 masks for num_classes=1, else num_classes",
    "iou_head": "IoUHead(channels, masks, ious), 3 IoUs for num_classes=1, else one",
}


class _ToyEncoder(nn.Sequential):
    """Features of strides 4, 8, 16 and 32."""

    channels = (2, 3, 4, 5)

    def __init__(self):
        kinds = ((3, 2, 4), (2, 3, 2), (3, 4, 2), (4, 5, 2))
        super().__init__(*(nn.Conv2d(a, b, 3, stride, padding=1) for a, b, stride in kinds))

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(accumulate(self, lambda x, stage: stage(x).relu(), initial=x))[1:]


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of weights and statistics, by their names."""
    return {name: tuple(x.shape) for name, x in module.state_dict().items() if not name.endswith("batches_tracked")}


def _check_parts(check: Check, model: Any, right: BaseMiniSAM) -> None:
    """Names and shapes are the reference's, so that its weights load; of what kind a layer is shows in the numbers."""
    for name, spec in _PARTS.items():
        own: Any = getattr(model, name, None)
        check.that(own is not None, f"it has no `self.{name}`: {spec}.")
        check.that(isinstance(own, nn.Module), f"{name} is {kind_of(own)}, expected {spec}.")
        found, expected = _shapes(own), _shapes(getattr(right, name))
        wrong = next((path for path in [*expected, *found] if found.get(path) != expected.get(path)), "")
        what = f"`{wrong}` of shape {found[wrong]}" if wrong in found else f"no `{wrong}`"
        wanted = f", expected shape {expected.get(wrong)} for num_classes={right.num_classes}"
        what = what + wanted if wrong in expected else f"a weight `{wrong}` too many"
        check.that(not wrong, f"{name} has {what}: {spec}.")
    more = sorted({name.split(".")[0] for name in _shapes(model)} - set(_PARTS))
    check.that(not more, f"it has weights of its own besides {', '.join(_PARTS)}: {', '.join(more)}. Leave them out.")
    classes = getattr(model, "num_classes", None)
    check.that(classes == right.num_classes, f"its num_classes is {classes}: self.num_classes = num_classes.")


def _inspect_mini_sam(check: Check, answer: Callable) -> None:
    for given in ((), (1, 5), (21, _CHANNELS)):
        encoder = _ToyEncoder()
        _check_parts(check, make(check, answer, encoder, *given), BaseMiniSAM(encoder, *given))


def _sam_cases() -> Iterator[Case]:
    """Two images each; their sides are multiples of 4, or not."""
    for words, num_classes, size, points, boxes in (
        ("without any prompt", 1, (24, 40), None, None),
        ("with images of uint8", 1, (24, 40), None, None),
        ("with points", 1, (24, 40), ((1, 0, 1), (0, 1, 1)), None),
        ("with boxes", 1, (24, 40), None, 2),
        ("with points and boxes", 1, (24, 40), ((1, 0), (0, 1)), 2),
        ("with padding (label -1) among the points", 1, (24, 40), ((1, -1, 0), (-1, -1, 1)), None),
        ("with padding alone for the second image", 1, (24, 40), ((0, 1), (-1, -1)), None),
        ("with padding whose coordinates are NaN", 1, (24, 40), ((1, -1, 0), (-1, -1, -1)), None),
        ("with a box for the first image alone (NaN for the second)", 1, (24, 40), None, 1),
        ("with no more than 0 points, (B, 0, 2), and boxes", 1, (24, 40), ((), ()), 1),
        ("for images of 22x37", 1, (22, 37), ((1, 0), (0, 1)), 2),
        (_PROMPTED, 1, (24, 40), ((1, 0, -1), (1, -1, -1)), 1),
        ("for 21 classes", 21, (22, 37), ((1, 0), (0, 1)), 2),
    ):
        yield Case((num_classes, size, points, boxes), words)


@lru_cache(maxsize=16)
def _situation(words: str, num_classes: int, size: _Size, kinds: Any, boxes: int | None) -> tuple[Tensor, tuple]:
    """The images (2, 3, H, W), and points, labels and boxes, or () without any."""
    images, points, labels, corners = torch.randn(2, 3, *size), None, None, None
    if "uint8" in words:
        images = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    if kinds is not None:
        labels = torch.tensor(kinds, dtype=torch.int64)
        points = (torch.rand(*labels.shape, 2) * torch.tensor([size[1] - 1, size[0] - 1])).round()
        # Padding lies where it does harm.
        rubbish = torch.nan if "NaN" in words or words == _PROMPTED else 5.0 if "alone" in words else 400.0
        points = points.masked_fill((labels < 0)[..., None], rubbish)
    if boxes is not None:
        corners = torch.tensor([[3.0, 5, 17, 12], [10, 1, 33, 19]])
        corners[boxes:] = torch.nan
    nothing = kinds is boxes is None
    return images, () if nothing else (points, labels, corners)


@lru_cache(maxsize=2)
def _right_mini_sam(num_classes: int) -> BaseMiniSAM:
    """The reference with weights and statistics that let every mistake show; the random state is that of the run."""
    model = BaseMiniSAM(_ToyEncoder(), num_classes, _CHANNELS)
    for name in ("point_type_embed", "point_pos_embed", "box_embed", "mix", "mask_head", "iou_head"):
        for weight in model.get_submodule(name).parameters():
            weight.data.mul_(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.3)
    points, labels = 30 * torch.rand(4, 2, 2), torch.tensor([[1, 0]] * 4)
    calibrated(model, torch.randn(4, 3, 32, 32), points, labels, torch.tensor([[4.0, 6, 20, 25]] * 4))
    return model


def _run_mini_sam(check: Check, answer: Callable, case: Case) -> Parts:
    """The same weights in: the features, the logits and the IoUs; then that forward is the two, and gradients."""
    num_classes = case.args[0]
    right, (images, prompts) = _right_mini_sam(num_classes), _situation(case.when, *case.args)
    model: Any = make(check, answer, copy.deepcopy(right.image_encoder), num_classes, _CHANNELS)
    _check_parts(Check(), model, right)
    for name in _PARTS:
        getattr(model, name).load_state_dict(getattr(right, name).state_dict())
    embedding = check.call(model.encode, images, when=f"in encode {case.when}")
    kept = isinstance(embedding, Embedding) and isinstance(embedding.features, Tensor)
    check.that(kept, f"encode returns {kind_of(embedding)}, expected Embedding(features, size), of the library.")
    size = tuple(images.shape[2:])
    check.that(tuple(embedding.size) == size, f"the embedding's size is {embedding.size}, expected (H, W), {size}.")
    features = embedding.features.detach().clone()
    parts = Parts({f"what encode gives {case.when}": features})
    if features.shape != right.encode(images).features.shape:
        return parts
    found = check.call(model.decode, embedding, *prompts, when=f"in decode {case.when}")
    logits, ious = mine = _pair(check, found, "(logits, ious), two tensors", "decode", Tensor)
    again = (
        "decode changes the embedding in place: every click needs it as it was. x = embedding.features + ... instead."
    )
    check.that(torch.equal(embedding.features.detach(), features), again)
    finite = bool(logits.isfinite().all() and ious.isfinite().all())
    check.that(finite, f"{case.when} there is nan or inf in what decode gives: {_NAN_PROMPTS}")
    parts[f"the logits {case.when}"] = logits.detach()
    if num_classes > 1:  # of classes the library's judges softmax weights
        return Parts({**parts, "the shape of the IoUs for 21 classes": list(ious.shape)})
    found = check.call(model, images, *prompts, when=f"in forward {case.when}")
    whole = _pair(check, found, "(logits, ious), two tensors", "forward", Tensor)
    agree = all(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, mine, strict=True))
    check.that(agree, f"{case.when} forward gives another result than decode(encode(images), points, labels, boxes).")
    expected = right(images, *prompts)
    if case.when == _PROMPTED and not difference(mine, expected, "", rounding(expected[0])):
        at_masks = _gradients(check, ious.sum, [model.mask_head.weight])[0]
        cut = (
            "a gradient of the IoUs reaches mask_head: IoUHead detaches the logits. Masks must not change to be judged."
        )
        check.that(not at_masks.any(), cut)
        own, words = dict(model.named_parameters()), f"{_PROMPTED} the values are right, but"
        weights = [own[name] for name, _ in right.named_parameters()]
        found, expected = (torch.cat([x.flatten() for x in pair]) for pair in (mine, expected))
        _check_gradients(check, found, expected, weights, right, words, _NAN_PROMPTS)
    return Parts({**parts, f"the IoUs {case.when}": ious.detach()})


_ENLARGE = 'F.interpolate(logits, scale_factor=4, mode="bilinear"), then [..., :H, :W].'
_LARGEST = "The maximum over the points, dim 1, hears every point however many there are."
_BYTES = "images of uint8 go through data.to_input first, those of float stay as they are."
_BEFORE = "self.decoder(features + self.mix(prompt).movedim(3, 1))."
_STRIDE = "the maps have another size than the features: positions have stride 4 here, point_maps(points, size, 4)."

_TIMES_GIVEN = " * (labels >= 0)[:, :, None, None, None]"
_PLACE, _KIND, _ADDED = "self.point_pos_embed(maps)", "self.point_type_embed", " + self.prompt_map("
_MASKS, _IOUS = "self.enlarge(logits, embedding.size)", "self.iou_head(x, logits)"

mini_sam = Exercise(
    "MiniSAM",
    BaseMiniSAM,
    _sam_cases,
    inspect=_inspect_mini_sam,
    run=_run_mini_sam,
    tolerance=rounding,
    errors=IN_PLACE
    | {
        "index out of range": "the label -1 is used as an index: replace it first (clamp_min(0)), and silence those "
        "points afterwards.",
        "Expected reduction dim": "points may be (B, 0, 2), where only boxes are given: there is no maximum then, so "
        "leave points out.",
        "must match the size": f"shapes do not fit: maps are (B, h, w, C), features (B, C, h, w), or {_STRIDE}",
        "Sizes of tensors must match": "features are of strides 4, 8, 16, 32: enlarge all to the size of the first, "
        "which is ceil(H / 4), by F.interpolate(part, features[0].shape[2:]).",
        "channels, but got": "img_proj takes the features of all four strides, enlarged to that of the first, which "
        "is ceil(H / 4), and joined along the channels.",
        "'NoneType'": "any of points, labels and boxes may be None, all of them, too: then nothing is added.",
        "should be the same": _BYTES,
    },
    wrong={
        _BYTES: [
            {"_checked_input(images)": "images.float()"},
            {"_checked_input(images)": "images / 255 if images.dtype == torch.uint8 else images"},
        ],
        "padded points (label -1) are counted: multiply by labels >= 0 after the ReLU, so that they are silent.": [
            {_TIMES_GIVEN: ""},
            {_TIMES_GIVEN: "", "_given(points, point_labels)": "points"},
        ],
        f"points are summed. {_LARGEST}": {".amax(1)": ".sum(1)"},
        f"this is the mean of the points. {_LARGEST}": {".amax(1)": ".mean(1)"},
        f"this is the mean of the points that are given. {_LARGEST}": {
            ".amax(1)": ".sum(1) / (labels >= 0).sum(1).clamp_min(1)[:, None, None, None]"
        },
        f"only the first point is heard. {_LARGEST}": {".amax(1)": "[:, 0]"},
        f"only the last point is heard. {_LARGEST}": {".amax(1)": "[:, -1]"},
        "the ReLU before the maximum is missing: without it silence, 0, may be the largest.": {
            f"F.relu({_PLACE}": f"({_PLACE}"
        },
        "point_type_embed is not used: add it to what the position says.": {f"+ {_KIND}": f"+ 0 * {_KIND}"},
        "point_pos_embed is not used: add it to what the type says.": {_PLACE: f"0 * {_PLACE}"},
        "type and position are multiplied: add them.": {f"+ {_KIND}": f"* {_KIND}"},
        "the ReLU comes before the type is added: relu(position + type).": {f"F.relu({_PLACE}": f"(F.relu({_PLACE})"},
        "foreground and background are exchanged: row 0 of point_type_embed is background.": {
            "labels.clamp_min(0)": "1 - labels.clamp_min(0)"
        },
        "the ReLU before the maximum is missing: relu of what a point says, so that 0 is silence.": {
            f"F.relu({_PLACE}": f"({_PLACE}",
            f"vectors{_TIMES_GIVEN}": "vectors.masked_fill((labels < 0)[:, :, None, None, None], -torch.inf)",
        },
        "the ReLU after box_embed is missing: as for the points.": {"F.relu(self.box_embed": "(self.box_embed"},
        "a box of NaN is none, but still says something, since box_embed has a bias: times 0.": {
            " * ~boxes.isnan().any(1)[:, None, None, None]": ""
        },
        f"the prompt is added after the decoder, which must see it: {_BEFORE}": {_ADDED: ") + (self.prompt_map("},
        f"mix is not used: {_BEFORE}": {"self.mix(prompt)": "prompt"},
        "points and box go through mix one by one: their sum does, once.": {  # which adds its bias twice
            "self.mix(prompt)": "(self.mix(prompt) + (points is not None and boxes is not None) * self.mix.bias)"
        },
        f"the prompt is not used: {_BEFORE}": {_ADDED: " + 0 * self.prompt_map("},
        f"features and prompt are multiplied: {_BEFORE}": {_ADDED: " * self.prompt_map("},
        f"there is a ReLU after mix: {_BEFORE}": {"self.mix(prompt)": "self.mix(prompt).relu()"},
        "of points and box the maximum is taken: add them.": {
            "prompt + self.embed_boxes(": "prompt.maximum(self.embed_boxes(",
            "stride=4), boxes)": "stride=4), boxes))",
        },
        "the box is not used where points are given, too: add both.": {
            "+ self.embed_boxes": "+ (not prompt.any()) * self.embed_boxes"
        },
        "points are not used where a box is given, too: add both.": {"prompt + self.embed_boxes": "self.embed_boxes"},
        f"the logits are enlarged with align_corners=True, which shifts them: {_ENLARGE}": {
            "align_corners=False": "align_corners=True"
        },
        f"the logits are left at stride 4: {_ENLARGE}": {"scale_factor=4": "scale_factor=1"},
        f"the logits are not cut to the images' size: {_ENLARGE}": {"[..., : size[0], : size[1]]": ""},
        f"the logits are stretched to a size that is no multiple of 4: {_ENLARGE}": {"scale_factor=4": "size=size"},
        f'the logits are enlarged by "nearest", so edges are steps: {_ENLARGE}': {
            'mode="bilinear", align_corners=False': 'mode="nearest"'
        },
        f'the logits are enlarged by "bicubic": {_ENLARGE}': {'mode="bilinear", align': 'mode="bicubic", align'},
        "there is a sigmoid on the masks: return logits, prompt_loss applies it.": {_MASKS: f"{_MASKS}.sigmoid()"},
        "the masks are thresholded: return logits, prompt_loss needs them.": {_MASKS: f"({_MASKS} > 0).float()"},
        "masks and IoUs are returned in the wrong order: (logits, ious).": {f"{_MASKS}, {_IOUS}": f"{_IOUS}, {_MASKS}"},
        "the IoUs have a second sigmoid: IoUHead applies it.": {_IOUS: f"{_IOUS}.sigmoid()"},
        "iou_head is given the image's features: it takes what the decoder gives.": {
            _IOUS: "self.iou_head(embedding.features, logits)"
        },
        "iou_head is given probabilities: it takes logits, and applies the sigmoid itself.": {
            _IOUS: "self.iou_head(x, logits.sigmoid())"
        },
        'the features are enlarged by "nearest", the default: mode="bilinear".': {', mode="bilinear")': ")"},
        "the features are enlarged with align_corners=True, which shifts them: leave it out.": {
            'mode="bilinear")': 'mode="bilinear", align_corners=True)'
        },
        "the features are joined in reverse order: stride 4 first.": {"in features]": "in features[::-1]]"},
        _STRIDE: {
            "stride=4": "stride=8",
            ".movedim(1, 3)": ".movedim(1, 3)[:, :1, :1]",  # so that the sizes meet where features and prompt do
        },
        "the decoder's convolutions all have rate 1: rates 1, 2 and 4, to see farther.": {
            "rate=2": "rate=1",
            "rate=4": "rate=1",
        },
        "the decoder's last convolution has rate 2: rates 1, 2 and 4, to see farther.": {"rate=4": "rate=2"},
        "the decoder's last convolution has rate 3: rates 1, 2 and 4.": {"rate=4": "rate=3"},
        "the decoder's rates are 2, 4 and 8: 1, 2 and 4.": {
            "channels, 3)": "channels, 3, rate=2)",
            "rate=2": "rate=4",
            "rate=4": "rate=8",
        },
        "the decoder's rates are in reverse order: 1, 2 and 4.": {
            "channels, 3)": "channels, 3, rate=4)",
            "rate=4": "rate=1",
        },
        "the ReLU at the decoder's beginning is missing: batch norm, ReLU, then the convolutions.": {
            "nn.ReLU(inplace=True)": "nn.Identity()"
        },
        "the batch norm at the decoder's beginning is not used: batch norm, ReLU, then the convolutions.": {
            "self.decoder(": "self.decoder[1:]("
        },
    },
)


# ---------------------------------------------------------------- step_loss

_TRUTH_AT, _VOID_AT = np.s_[3:14, 3:20], np.s_[15:22, 2:9]
_LARGEST_COUNT = 5


def _answered() -> np.ndarray:
    """Candidate masks by prompt, number of clicks so far and candidate: bool (4, 5, 3, 24, 32).

    In each a square of 5x5 is missed and one of 3x3 marked too much, or the other way round, so that the deepest point
    of the error is one pixel; void is marked, and would be a deeper error. After two clicks prompt 3 is answered
    without an error.
    """
    masks = np.zeros((4, _LARGEST_COUNT, 3, 24, 32), dtype=bool)
    for row, count, k in np.ndindex(masks.shape[:3]):
        mask, top = masks[row, count, k], 4 + (count + row) % 5
        mask[_TRUTH_AT] = mask[_VOID_AT] = True
        if row < 3 or count < 2:
            missed, excess = (5, 3) if (row + count + k) % 2 else (3, 5)
            mask[top : top + missed, 4 + 5 * k : 4 + 5 * k + missed] = False
            mask[top : top + excess, 22 + 2 * k : 22 + 2 * k + excess] = True
    return masks


def _asked() -> Prompts:
    """Four prompts, two on each image: a click, a box, two clicks, a click and a box."""
    truth, void = _mask((24, 32), _TRUTH_AT), _mask((24, 32), _VOID_AT)
    click, other, box = (np.float32([11, 8]), 1), (np.float32([28, 3]), 0), np.float32([3, 3, 19, 13])
    none = np.full(4, np.nan, dtype=np.float32)
    clicks = [[click], [], [click, other], [(np.float32([6, 5]), 1)]]
    return Prompts(np.stack([truth] * 4), np.stack([void] * 4), clicks, [none, box, none, box])


class _ToySAM(nn.Module):
    """Answers as a table says, a little otherwise for another image and other clicks; remembers how it was asked."""

    def __init__(self):
        super().__init__()
        self.answers = torch.from_numpy(_answered())
        self.sharpness = nn.Parameter(torch.tensor([0.6, 0.7, 0.8]))
        self.see = nn.Conv2d(3, 3, 1)
        self.hear = nn.Linear(6, 3)
        self.confidence = nn.Parameter(torch.zeros(3))
        self.encoded = self.decoded = 0  # how often

    def forward(self, *given: Any) -> None:
        raise Mistake("the whole model is called: encode the images once, then decode in each round.")

    def encode(self, images: Tensor) -> Embedding:
        self.encoded += 1
        return Embedding(self.see(images).tanh(), (images.shape[2], images.shape[3]))

    def decode(self, embedding: Embedding, points: Any = None, labels: Any = None, boxes: Any = None) -> Any:
        n = len(self.answers)
        fit = all(isinstance(x, Tensor) for x in (points, labels, boxes)) and boxes.shape == (n, 4)
        if not fit or points.ndim != 3 or labels.shape != points.shape[:2]:
            raise Mistake("decode is given something else: model.decode(embedding, *prompts.tensors(images.device)).")
        if len(embedding.features) != n:
            raise Mistake(
                f"decode is given {len(embedding.features)} images for {n} prompts: embedding.repeat(N // B)."
            )
        self.decoded += 1
        given = (labels >= 0)[..., None]
        clicks = (torch.cat([points, torch.ones_like(points[..., :1])], 2) * (2 * labels[..., None] - 1) * given).sum(1)
        said = self.hear(torch.cat([clicks, boxes[:, :3].nan_to_num()], 1) / 32).tanh()
        rows, count = torch.arange(n), given[..., 0].sum(1)
        best = F.one_hot((rows + count + 1) % 3, 3) - F.one_hot((rows + count + 2) % 3, 3)
        marked = 2.0 * self.answers[rows, count.clamp_max(_LARGEST_COUNT - 1)] - 1
        marked = marked * (1 + 0.15 * count[:, None, None, None])
        logits = self.sharpness[:, None, None] * marked + 0.25 * embedding.features + 0.25 * said[..., None, None]
        return logits, (self.confidence + 2 * best).sigmoid()


def _run_step(check: Check, answer: Callable, case: Case) -> Parts:
    """How the model is asked; then the clicks that were added, the loss and its gradients."""
    (rounds,) = case.args
    model, prompts, images = _ToySAM(), _asked(), torch.randn(2, 3, 24, 32)
    loss = check.call(answer, model, images, prompts, rounds, when=case.when)
    check.that(model.encoded > 0, "encode is not called: embedding = model.encode(images).")
    often = f"encode is called {model.encoded} times {case.when}: once, before the loop. The images stay the same."
    check.that(model.encoded == 1, often)
    often = f"decode is called {model.decoded} times {case.when}: once in each round."
    check.that(model.decoded == rounds, often)
    parts = Parts()
    for row, clicks in enumerate(prompts.clicks):
        pairs = all(isinstance(click, (tuple, list)) and len(click) == 2 for click in clicks)
        odd = f"{case.when} prompts.clicks[{row}] holds something that is no pair (point, label): {_NONE_LEFT}"
        check.that(pairs, odd)
        numbers = [[*map(float, point), float(label)] for point, label in clicks]
        words = f"{case.when} what prompt {row} has for clicks, (x, y, label) each,"
        parts[words] = torch.tensor(numbers) if clicks else torch.zeros(0, 3)
    parts[f"the loss {case.when}"] = loss.detach() if isinstance(loss, Tensor) else loss
    if not (isinstance(loss, Tensor) and loss.ndim == 0):
        return parts
    check.that(loss.requires_grad, "the loss has no gradient: is it computed under no_grad, or detached?")
    gradients = _gradients(check, lambda: loss, model.parameters())
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        parts[f"the gradient at {name} {case.when} (is a part detached?)"] = gradient
    return parts


def _plain_step(model: Any, images: Tensor, prompts: Prompts, rounds: int) -> Tensor:
    """`step_loss` written out."""
    embedding, count = model.encode(images), len(prompts.masks) // len(images)
    embedding = embedding.repeat(count)
    target, weight = (torch.from_numpy(part).float() for part in (prompts.masks, ~prompts.void))
    losses = []
    for left in reversed(range(rounds)):
        logits, ious = model.decode(embedding, *prompts.tensors(images.device))
        losses.append(task.prompt_loss(logits, ious, target, weight))
        if left:
            best = logits.detach()[torch.arange(len(ious)), ious.argmax(1)]
            for row, mask in enumerate((best > 0).numpy()):
                truth, void, clicks = prompts.masks[row], prompts.void[row], prompts.clicks[row]
                click = sampling.next_click(mask & ~void, truth)
                if click:
                    clicks.append(click)
    return torch.stack(losses).mean()


_NONE_LEFT = "next_click gives None where there is no error: then nothing is appended."
_BOOL = "prompts.void is bool, as are the masks for next_click: ~void before .float()."
_CHOSEN = "the mask of the highest predicted IoU, ious.argmax(1), is what a user would see."
_EACH_ROUND = "loss = loss + prompt_loss(...) / rounds."
_BETWEEN = "prompts.clicks[row].append(click), between one round and the next."

_WEIGHTED = "target, weight))"
_TOTAL = "torch.stack(losses).mean()"

step_loss = Exercise(
    "step_loss",
    task.step_loss,
    lambda: [Case((rounds,), f"for rounds={rounds}") for rounds in (1, 2, 3)],
    run=_run_step,
    errors={
        "NoneType": _NONE_LEFT,
        "the size of the logits, got": "target and weight have the size of the logits, (N, H, W): prompts.masks and "
        "~prompts.void.",
        "Can't call numpy()": "a mask for next_click knows no gradient: (logits > 0) has none, or detach() first.",
        "bitwise_not": _BOOL,
        "invert": _BOOL,
    },
    source=_plain_step,
    wrong={
        "the images are repeated in turn, 0 1 0 1; the prompts lie image by image, 0 0 1 1: embedding.repeat.": {
            "embedding.repeat(count)": "Embedding(embedding.features.repeat(count, 1, 1, 1), embedding.size)"
        },
        "the embedding is detached: the encoder learns from every round, too.": {
            "embedding.repeat(count)": "Embedding(embedding.features.detach(), embedding.size).repeat(count)"
        },
        "void is trained: the weight is ~prompts.void, as float, (N, H, W).": {
            _WEIGHTED: "target, torch.ones_like(weight)))"
        },
        "only void is trained: the weight is ~prompts.void.": {_WEIGHTED: "target, 1 - weight))"},
        "target and weight are exchanged: (logits, ious, target, weight).": {_WEIGHTED: "weight, target))"},
        "there is a sigmoid before prompt_loss: give it the logits.": {"(logits, ious": "(logits.sigmoid(), ious"},
        "the predicted IoU is detached: it must learn from its error.": {"(logits, ious": "(logits, ious.detach()"},
        "the logits are detached before the loss: only for the click they may be.": {
            "(logits, ious": "(logits.detach(), ious"
        },
        f"the candidate of the lowest predicted IoU is clicked: {_CHOSEN}": {"ious.argmax(1)": "ious.argmin(1)"},
        f"candidate 0 is clicked: {_CHOSEN}": {"ious.argmax(1)": "0"},
        f"the last candidate is clicked: {_CHOSEN}": {"ious.argmax(1)": "-1"},
        f"the best by the truth, which no user knows, is clicked: {_CHOSEN}": {
            "ious.argmax(1)": "task.true_iou(logits, target, weight).argmax(1)"
        },
        "a probability is always above 0: the mask is logits > 0, which is sigmoid(logits) > 0.5.": {
            "best > 0": "best.sigmoid() > 0"
        },
        "the logits are thresholded at 0.5: the mask is logits > 0.": {"best > 0": "best > 0.5"},
        "the mask is turned inside out: logits > 0.": {"best > 0": "best < 0"},
        "truth and prediction are exchanged, so the labels are the wrong ones: next_click(prediction, truth).": {
            "mask & ~void, truth": "truth, mask & ~void"
        },
        "void is clicked: it is no error, so it is taken off the prediction first, mask & ~void.": {" & ~void": ""},
        "the middle of the truth is clicked, as if nothing were predicted: next_click(mask & ~void, truth).": {
            "mask & ~void": "np.zeros_like(truth)"
        },
        f"the clicks are not added to the prompts: {_BETWEEN}": {"clicks.append(click)": "pass"},
        f"the earlier clicks are lost: {_BETWEEN}": {"clicks.append(click)": "clicks[:] = [click]"},
        f"each click is added twice: {_BETWEEN}": {"clicks.append(click)": "clicks.extend([click, click])"},
        "the label is always 1: the one of next_click.": {"append(click)": "append((click[0], 1))"},
        "x and y of the click are exchanged: next_click gives (x, y) already.": {
            "append(click)": "append((click[0][::-1], click[1]))"
        },
        f"the losses are summed, not divided by rounds: {_EACH_ROUND}": {_TOTAL: "sum(losses)"},
        f"this is the last round's loss alone: {_EACH_ROUND}": {_TOTAL: "losses[-1]"},
        f"only the last round's loss is left: {_EACH_ROUND}": {_TOTAL: "losses[-1] / rounds"},
        f"this is the first round's loss alone: {_EACH_ROUND}": {_TOTAL: "losses[0]"},
        "only the last round has a gradient: every round learns, add the losses as they are.": {
            _TOTAL: "torch.stack([loss.detach() for loss in losses[:-1]] + losses[-1:]).mean()"
        },
        "only the first round has a gradient: every round learns, add the losses as they are.": {
            _TOTAL: "torch.stack(losses[:1] + [loss.detach() for loss in losses[1:]]).mean()"
        },
        "there is a click after the last round, which nobody answers: leave it out.": {"if left:": "if True:"},
    },
)
