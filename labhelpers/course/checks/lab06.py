"""Exercises of lab 06: prompts drawn from a mask, said to a network, answered, learned from, with the next click."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, Run, difference, kind_of, variants
from labhelpers.course.checks.layers import IN_PLACE, calibrated, changed, make, replaced, rounding
from labhelpers.data.augment import to_input
from labhelpers.models import BaseMiniSAM, prompt_maps
from labhelpers.models.deeplab import conv_norm
from labhelpers.models.mini_sam import Embedding, IoUHead
from labhelpers.models.prompt_maps import EDGE, SIGMAS, normalize
from labhelpers.prompting import sampling
from labhelpers.prompting.sampling import depth
from labhelpers.prompting.task import Prompts, true_iou
from labhelpers.prompting.task import prompt_loss as right_loss
from labhelpers.prompting.task import step_loss as right_step

_Size = tuple[int, int]
_Per = Callable[[Tensor], Tensor]


def _same(x: Any) -> Any:
    return x


def _twice(x: Tensor) -> Tensor:
    return x.sigmoid().sigmoid()


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(1)


def _hard(x: Tensor) -> Tensor:
    return (x > 0).float()


# A random answer has no one right number. What a draw must fulfil is looked at, and, over many draws, how often each
# pixel comes and how the sides of the box spread; the bounds are so wide that no right answer meets them by bad luck.

_NO_BACKGROUND = "nothing is left to draw from: where the mask covers the whole image, all points are foreground."
_GENERATOR = "rng is a np.random.Generator: rng.integers, rng.choice, rng.standard_normal."
_SAME = "two generators with different seeds give the same: draw with the rng that is given, not with one of your own."
_NOT_FROM_RNG = (
    "two generators with the same seed give different results: draw with the rng that is given, not with "
    "np.random or random."
)
_DRAWING = {
    "larger sample than population": "a small mask has fewer pixels than points are asked for: draw with replacement.",
    "Sample larger than population": f"a small mask has fewer pixels than points are asked for; and {_GENERATOR}",
    "high <= 0": _NO_BACKGROUND,
    "low >= high": _NO_BACKGROUND,
    "a must be a positive": _NO_BACKGROUND,
    "cannot be empty": _NO_BACKGROUND,
    "empty sequence": _NO_BACKGROUND,
    "Generator' object has no attribute": _GENERATOR,
}


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
    y, x = np.nonzero(_HOOK)
    first = np.array_equal(one[:5], np.stack([x, y], 1)[:5])
    fixed = "these are always the first pixels of the mask: draw them with rng." if first else _SAME
    check.that(not np.array_equal(one, other), fixed)
    check.that(np.array_equal(one, same), _NOT_FROM_RNG)
    _check_uniform(check, answer, rng)


sample_points = Exercise("sample_points", sampling.sample_points, inspect=_inspect_sampling)


def _drawn(check: Check, answer: Callable, mask: np.ndarray, n: int, rng: Any, words: str) -> tuple:
    """The answer's points and labels, once their kind and shape are right."""
    found = check.call(answer, mask, n, rng, when=f"for {words}", errors=_DRAWING)
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
    if mask.all():
        check.that(bool((labels == 1).all()), f"{words} has no background, so all labels are 1.")
        return
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


def _check_uniform(check: Check, answer: Callable, rng: np.random.Generator) -> None:
    """A chi-square test, whose bound a right answer exceeds once in a million."""
    n = 2000
    points, labels = _drawn(check, answer, _HOOK, n, rng, f"{n} points")
    _check_places(check, points, labels, _HOOK, f"{n} points")
    for label, region in ((1, _HOOK), (0, ~_HOOK)):
        x, y = points[labels == label].T.astype(int)
        counts = np.zeros(region.shape)
        np.add.at(counts, (y, x), 1)
        counts, expected = counts[region], n / 2 / region.sum()
        excess = ((counts - expected) ** 2 / expected).sum() - len(counts)
        worst = np.abs(counts - expected).argmax()
        at_y, at_x = np.argwhere(region)[worst]
        check.that(
            excess < 8 * np.sqrt(2 * len(counts)),
            f"of {n} points with n // 2 for label {label}, {counts[worst]:.0f} fall on pixel ({at_x}, {at_y}), "
            f"expected about {expected:.0f}: each pixel must be drawn with the same probability, independently of the "
            "others.",
        )


# ------------------------------------------------------------- box_from_mask

_DRAWS = {0.0: 0, 0.1: 600, 2.0: 200}  # by jitter; with the greatest the boxes leave the image


_REMEDY = "each side moves by jitter * (side length of the box) * a standard normal of its own, and is clipped then."


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


_BOX_SIDES = ("x0", "y0", "x1", "y1")


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
    still = [name for name, value in zip(_BOX_SIDES, deviation, strict=True) if value == 0]
    check.that(not still, f"{', '.join(still)} never moves: each of the four sides moves on its own.")
    score, depend = moved / deviation, np.corrcoef(moved.T)
    parts = {}
    for i, j in combinations(range(4), 2):
        words = f"the correlation of {_BOX_SIDES[i]} and {_BOX_SIDES[j]} (draw a number for each side)"
        parts[words] = (depend[i, j], 0.36)
    for i, side in enumerate(_BOX_SIDES):
        parts[f"the mean of what {side} moves by, over its standard deviation,"] = (score[:, i].mean(), 0.36)
    for i, (side, length) in enumerate(zip(_BOX_SIDES, (40, 20, 40, 20), strict=True)):
        words = f"the standard deviation of what {side} moves by, over jitter times the length of that side of the box,"
        ratio = min(deviation[i] / (0.1 * length), 3)
        parts[words] = (ratio, 0.18 * max(1, ratio))
    words = "the share of draws within one standard deviation (of a normal distribution 68 %)"
    parts[words] = ((abs(score) < 1).mean(), 0.06)
    return Parts({words: _Rough(*value) for words, value in parts.items()})


def _reach(boxes: np.ndarray) -> Parts:
    """How far the boxes reach in an image of 20x30, and whether their corners are in order."""
    ordered = bool((boxes[:, :2] <= boxes[:, 2:]).all())
    parts: dict[str, Any] = {}
    for i, (side, last) in enumerate(zip(_BOX_SIDES, (29, 19, 29, 19), strict=True)):
        for words, value, end in (("least", boxes[:, i].min(), 0), ("greatest", boxes[:, i].max(), last)):
            name = f"the {words} {side} with jitter=2 in an image of 30x20 (width x height)"
            parts[name] = _Rough(np.clip(value, end - 5, end + 5), 0.18)
    return Parts({**parts, "that the corners are in order after a large jitter": ordered})


def _box(
    exact: Callable = lambda x0, y0, x1, y1: [x0, y0, x1, y1],
    noise: Callable = lambda rng: rng.standard_normal(4),
    side: Callable = lambda w, h: [w, h, w, h],
    clip: Callable | None = lambda height, width: [width - 1, height - 1],
    order: bool = True,
) -> Callable:
    """A box with one thing wrong in it."""

    def answer(mask: np.ndarray, jitter: float, rng: np.random.Generator) -> np.ndarray:
        box = sampling.box_from_mask(mask)
        box = box + jitter * np.array(side(box[2] - box[0] + 1, box[3] - box[1] + 1)) * noise(rng)
        box = np.clip(box, 0, clip(*mask.shape) * 2) if clip else box
        if order:
            box = np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])])
        return np.array(exact(*box), dtype=np.float64)

    return answer


def _by_mask(change: Callable[[np.ndarray, np.ndarray], Any]) -> Callable:
    """A box that is changed with regard to the mask."""
    return lambda mask, jitter, rng: np.array(change(sampling.box_from_mask(mask, jitter, rng), mask), np.float64)


def _first_row(box: np.ndarray, mask: np.ndarray) -> list:
    columns = np.flatnonzero(mask[np.flatnonzero(mask.any(1))[0]])
    return [columns[0], box[1], columns[-1], box[3]]


_RELATIVE = "jitter is relative: each side moves by jitter * (side length of the box) * normal."
_WIDTH_HEIGHT = "this is (x0, y0, width, height): return the corners, (x0, y0, x1, y1)."
_FOUR = "draw four numbers, one for each side."
_UNEVEN = "the sides move one way more often than the other: take a standard normal as it is, without abs()."
_NOT_NORMAL = "of a normal distribution 68 % lie within one standard deviation, not so here: rng.standard_normal"

box_from_mask = Exercise(
    "box_from_mask",
    sampling.box_from_mask,
    _box_cases,
    run=_run_box,
    errors=_DRAWING,
    tolerance=lambda expected: getattr(expected, "within", 1e-5),
    wrong=variants(
        _box,
        exact=[
            (lambda a, b, c, d: [b, a, d, c], "x and y are exchanged: (x0, y0, x1, y1), x counts columns (axis 1)."),
            (lambda a, b, c, d: [a, c, b, d], "this is (x0, x1, y0, y1): return (x0, y0, x1, y1)."),
            (lambda a, b, c, d: [b, d, a, c], "this is (y0, y1, x0, x1): return (x0, y0, x1, y1)."),
            (lambda a, b, c, d: [c, d, a, b], "the corners are exchanged: the smaller coordinates come first."),
            (lambda a, b, c, d: [a, b, c + 1, d + 1], "x1 and y1 are one too large: the mask's last pixel is inside."),
            (
                lambda a, b, c, d: [a - 0.5, b - 0.5, c + 0.5, d + 0.5],
                "these are the pixels' squares: return pixel indices.",
            ),
            (lambda a, b, c, d: [a, b, c - a, d - b], _WIDTH_HEIGHT),
            (lambda a, b, c, d: [a, b, c - a + 1, d - b + 1], _WIDTH_HEIGHT),
            (lambda a, b, c, d: [(a + c) / 2, (b + d) / 2, c - a, d - b], "this is centre and size: return corners."),
        ],
        clip=[
            (
                lambda height, width: [height - 1, width - 1],
                "it is clipped with width and height exchanged: the mask's shape is (H, W), x ends at W - 1.",
            ),
            (None, "with a large jitter the box leaves the image: clip it."),
            (lambda height, width: [width, height], "it is clipped one pixel too late: x ends at W - 1, y at H - 1."),
        ],
        order=[(False, "after a large jitter x0 > x1 or y0 > y1: put the corners in order again (minimum, maximum).")],
        side=[
            (lambda w, h: [1] * 4, f"it moves by jitter in pixels. {_RELATIVE}"),
            (lambda w, h: [h, w] * 2, "width and height are exchanged: x moves with the width, y with the height."),
            (lambda w, h: [max(w, h)] * 4, f"the longer side is taken for all. {_RELATIVE}"),
            (lambda w, h: [min(w, h)] * 4, f"the shorter side is taken for all. {_RELATIVE}"),
            (lambda w, h: [(w + h) / 2] * 4, f"the mean side is taken for all. {_RELATIVE}"),
            (lambda w, h: [9 * w, 9 * h] * 2, f"it moves much too far: is the image's size taken? {_RELATIVE}"),
            (lambda w, h: [w / 2, h / 2] * 2, "the sides move half as far as they should: by their whole length."),
            (lambda w, h: [0.1 * w, 0.1 * h] * 2, "jitter is multiplied twice, or squared."),
        ],
        noise=[
            (
                lambda rng: np.tile(rng.standard_normal(2), 2),
                f"both ends move together, so the box is shifted and keeps its size: {_FOUR}",
            ),
            (lambda rng: np.full(4, rng.standard_normal()), f"the box is shifted and keeps its size: {_FOUR}"),
            (
                lambda rng: np.array([-1, -1, 1, 1]) * np.tile(rng.standard_normal(2), 2),
                f"both ends move in opposite ways, so the box only grows or shrinks: {_FOUR}",
            ),
            (lambda rng: np.repeat(rng.standard_normal(2), 2), f"x and y move together: {_FOUR}"),
            (lambda rng: rng.uniform(-1, 1, 4), "the numbers are drawn from -1 to 1: take rng.standard_normal."),
            (lambda rng: rng.uniform(-(3**0.5), 3**0.5, 4), f"{_NOT_NORMAL}, not uniform."),
            (lambda rng: rng.standard_exponential(4) - 1, f"{_NOT_NORMAL}, not exponential."),
            (lambda rng: rng.standard_normal(4) + 1, _UNEVEN),
            (lambda rng: abs(rng.standard_normal(4)), _UNEVEN),
            (lambda rng: rng.random(4), f"{_UNEVEN} (rng.random gives 0 to 1.)"),
        ],
    )
    + [
        (_by_mask(lambda box, mask: box / np.tile(mask.shape[::-1], 2)), "it is divided by the image: pixels."),
        (_by_mask(_first_row), "only the mask's first row gives x0 and x1: look at all."),
        (
            _by_mask(lambda box, mask: [0, 0, mask.shape[1] - 1, mask.shape[0] - 1]),
            "this is the box of the whole image: where is the mask?",
        ),
    ],
)


# --------------------------------------------------------------- next_click

_PICTURE = (14, 24)
_Click = tuple[np.ndarray, int]


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
    if (prediction == truth).all():  # None is right, and must not be taken for a forgotten return
        found = check.call(lambda *masks: (answer(*masks),), prediction, truth, when=case.when)[0]
        check.that(found is None, f"{case.when} it returns {found!r:.60}, expected None: there is no error.")
        return Parts()
    if not case.when.startswith("for a missed part and"):  # else None means that nothing is written yet
        nothing = f"{case.when} it returns None: pixels missed and pixels marked too much are errors."
        answer = _without_none(answer, nothing)
    found = check.call(answer, prediction, truth, when=case.when)
    point, label = _checked_click(check, found)
    regions = [prediction & ~truth, truth & ~prediction]  # in the order of their labels
    depths = [depth(region) for region in regions]
    right = int(depths[1].max() > depths[0].max())
    deepest = _deepest(depths[right])
    if label != right or not _among(point, deepest):
        y, x = deepest[0]
        expected = f"expected ({x}, {y}) with label {right}{' or one as deep' if len(deepest) > 1 else ''}"
        hint = _about_click(point, label, regions, right)
        raise Mistake(f"{case.when}: {hint} (found ({point[0]:g}, {point[1]:g}) with label {label}, {expected}).")
    check.passed += 1
    return Parts()


def _without_none(answer: Callable, hint: str) -> Callable:
    def checked(prediction: np.ndarray, truth: np.ndarray) -> Any:
        found = answer(prediction, truth)
        if found is None:
            raise Mistake(hint)
        return found

    return checked


def _checked_click(check: Check, found: Any) -> _Click:
    """The answer's point and label, once their kind and shape are right."""
    pair = isinstance(found, (tuple, list)) and len(found) == 2
    check.that(pair, f"it returns {kind_of(found)}, expected the pair (point, label).")
    point, label = found
    check.that(isinstance(point, np.ndarray), f"the point is {kind_of(point)}, expected np.array([x, y]).")
    numbers = point.shape == (2,) and point.dtype.kind in "fiu"
    check.that(numbers, f"the point has shape {point.shape} and dtype {point.dtype}, expected two numbers, (x, y).")
    check.that(kind_of(label) == "a Python int", f"the label is {kind_of(label)}, expected 1 or 0: int(...).")
    return point, int(label)


def _deepest(inside: np.ndarray) -> np.ndarray:
    """All places (y, x) of the greatest depth, row by row."""
    return np.argwhere(inside > inside.max() - 1e-6)


def _among(point: np.ndarray, places: np.ndarray) -> bool:
    return bool((places == point[::-1]).all(1).any())


def _about_click(point: np.ndarray, label: int, regions: list[np.ndarray], right: int) -> str:
    """What is wrong with the point or the label; `regions` are marked too much and missed, the deeper is `right`."""
    x, y = point
    height, width = regions[0].shape
    if _among(point, _deepest(depth(regions[right]))):
        always = ". Is it always 1?" if right == 0 else ""
        return (
            "the label is wrong: 1 (foreground) where the truth was missed, 0 (background) where too much was marked"
            + always
        )
    if regions[1 - right].any() and label == 1 - right and _among(point, _deepest(depth(regions[1 - right]))):
        return "this is the middle of the shallower error: the deeper one, not the one with more pixels, is clicked"
    if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        return f"the point lies outside the image, where x ends at {width - 1} and y at {height - 1}"
    if not regions[right][int(y), int(x)]:
        kind = ("marked too much", "missed")[right]
        return f"the point does not lie on the pixels that were {kind}, the deeper of the two errors"
    return (
        "the point is not the deepest of the error, the farthest (by Euclidean distance) from its border, the image's "
        "edge included"
    )


def _clicked(
    place: Callable | None = None,
    deep: Callable[[np.ndarray], np.ndarray] = depth,
    order: Callable[[Any], Any] = lambda place: place[::-1],
) -> Callable[[np.ndarray, np.ndarray], _Click | None]:
    """A click with one thing wrong in it; `place` gives (y, x) from the deeper error, prediction and truth."""

    def answer(prediction: np.ndarray, truth: np.ndarray) -> _Click | None:
        if (prediction == truth).all():
            return None
        regions = [prediction & ~truth, truth & ~prediction]
        label = int(deep(regions[1]).max() > deep(regions[0]).max())
        error = regions[label]
        return np.array(order(place(error, prediction, truth) if place else _middle(deep(error)))), label

    return answer


def _middle(inside: np.ndarray) -> Any:
    return np.unravel_index(inside.argmax(), inside.shape)


def _centre(error: np.ndarray) -> np.ndarray:
    """(y, x) of the middle of the bounding box."""
    places = np.argwhere(error)
    return (places.min(0) + places.max(0)) / 2


def _distance(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(mask)


def _jointly(prediction: np.ndarray, truth: np.ndarray) -> _Click | None:
    y, x = _middle(depth(prediction != truth))
    return None if (prediction == truth).all() else (np.array([x, y]), int(truth[y, x]))


_BORDER = "the image's edge counts as a border: pad the error with one pixel of False before the distance transform."
_MEAN = "this is the mean of the pixels, which may lie beside the error: take the deepest point."
_BOX = "this is the middle of the bounding box: take the deepest point."
_KINDS = "missed pixels and pixels marked too much are two kinds of error: take the depth of each alone."
_TRUTH = "this is the middle of the truth: take the middle of the error."

next_click = Exercise(
    "next_click",
    sampling.next_click,
    _click_cases,
    run=_run_click,
    wrong=[
        *variants(
            _clicked,
            order=[
                (_same, "x and y are exchanged: np.unravel_index and np.argwhere give (y, x), the point is (x, y).")
            ],
            deep=[
                (
                    lambda error: _distance(np.pad(error, 1)),
                    "the padding is still counted: take it off again before you look for the place.",
                ),
                (lambda error: error.astype(float) if error.all() else _distance(error), _BORDER),
                (lambda error: _distance(np.pad(error, 1, mode="edge"))[1:-1, 1:-1], _BORDER),
            ],
            place=[
                (lambda error, p, t: np.argwhere(error).mean(0), _MEAN),
                (lambda error, p, t: np.argwhere(error).mean(0).round(), _MEAN),
                (lambda error, p, t: np.argwhere(error).mean(0) // 1, _MEAN),
                (lambda error, p, t: _centre(error), _BOX),
                (lambda error, p, t: _centre(error) // 1, _BOX),
                (lambda error, p, t: np.argwhere(error)[0], "this is the first pixel of the error: take the deepest."),
                (
                    lambda error, p, t: _middle(depth(p == t)),
                    "this is the point farthest from the error: the distance is that inside of it.",
                ),
                (lambda error, p, t: _middle(depth(t)), _TRUTH),
                (lambda error, p, t: _middle(depth(p)), "this is the middle of the prediction: take the error's."),
            ],
        ),
        (lambda p, t: None if (p == t).all() else (sampling.centre_click(t), 1), _TRUTH),
        (_jointly, _KINDS),
    ],
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
            for source, destination in zip(reference.parameters(), own.parameters(), strict=True):
                destination.copy_(source)
    more = sorted({name.split(".")[0] for name, _ in model.named_parameters()} - set(specs))
    check.that(not more, f"it has weights of its own besides {', '.join(specs)}: {', '.join(more)}. Leave them out.")


def _run_module(reference: Callable[..., nn.Module], specs: Mapping[str, str], nan: str) -> Run:
    """With the weights of a reference, what a module gives; its gradients are looked at once that is right.

    Args:
        reference: the class; a case's arguments are those that make it, and the inputs.
        specs: the attributes that the module must have, in the words of the exercise.
        nan: the hint for what is not finite.
    """

    def run(check: Check, answer: Callable, case: Case) -> Any:
        sizes, inputs = case.args
        right = reference(*sizes)
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


def _check_gradients(
    check: Check, found: Tensor, expected: Tensor, weights: list[Tensor], right: nn.Module, words: str, nan: str
) -> None:
    """One check for each weight: its gradient is that of the reference's."""
    lost = "no gradient comes back through forward: is there a no_grad or a detach? The weights must learn."
    check.that(found.requires_grad, lost)
    weighting = torch.randn_like(expected)
    right_ones = torch.autograd.grad((expected * weighting).sum(), [*right.parameters()], allow_unused=True)

    def backward() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad((found * weighting).sum(), weights, allow_unused=True)

    gradients = check.call(backward, when="in backward", errors=IN_PLACE)
    for (name, weight), gradient, right_one in zip(right.named_parameters(), gradients, right_ones, strict=True):
        gradient, right_one = (torch.zeros_like(weight) if g is None else g for g in (gradient, right_one))
        check.that(bool(gradient.isfinite().all()), f"{words} the gradient of {name} has nan or inf in it: {nan}")
        same = torch.allclose(gradient, right_one, rtol=0, atol=rounding(right_one))
        check.that(same, f"{words} the gradient of {name} is not: is a part of it detached?")


_C = 6
_WIDE, _TALL = (24, 40), (37, 20)
_RULE = "(xy + 0.5) / the longer side of the image"
_OWN_SIDES = f"each axis is divided by its own side: {_RULE}, the same for both, so that circles stay round."
_MIXED = f"height and width are mixed up, size is (H, W), and a position is {_RULE}."


def _by(xy: Tensor, *sides: int) -> Tensor:
    return (xy + 0.5) / xy.new_tensor(sides)


_WRONG_POSITIONS: list[tuple[Callable[[Tensor, _Size], Tensor], str]] = [
    (lambda xy, size: xy, f"pixel coordinates go in as they are: {_RULE}."),
    (lambda xy, size: xy + 0.5, f"the positions are not divided: {_RULE}."),
    (lambda xy, size: xy / max(size), f"the half pixel is missing: {_RULE}."),
    (lambda xy, size: _by(xy, size[1], size[0]), _OWN_SIDES),
    (lambda xy, size: xy / xy.new_tensor(size[::-1]), _OWN_SIDES),
    (lambda xy, size: _by(xy, *size), _MIXED),
    (lambda xy, size: xy / xy.new_tensor(size), _MIXED),
    (lambda xy, size: _by(xy, min(size)), f"for this image it divides by the shorter side: {_RULE}."),
    (lambda xy, size: xy / (max(size) - 1), f"it divides by the longer side minus 1: {_RULE}."),
    (lambda xy, size: (xy - 0.5) / max(size), f"half a pixel is taken off, not added: {_RULE}."),
    (lambda xy, size: xy / max(size) + 0.5, f"0.5 is added after the division: {_RULE}."),
    (lambda xy, size: normalize(xy, size).flip(-1), "x and y are exchanged: (x, y) goes in, in this order."),
    (lambda xy, size: 2 * normalize(xy, size) - 1, f"positions run from -1 to 1: {_RULE}."),
]
"""What known mistakes make of pixels (..., 2), and their hints."""


# ----------------------------------------------------------- PointEmbedding


class _PointEmbedding(nn.Module):
    """Points -> one vector, the mean over the points of what their type and their position say."""

    def __init__(self, channels: int):
        super().__init__()
        self.point_type_embed = nn.Embedding(2, channels)  # 0 background, 1 foreground
        self.point_pos_embed = nn.Linear(2, channels)

    def forward(self, points: Tensor, labels: Tensor, size: _Size) -> Tensor:
        """points float (B, N, 2), labels int64 (B, N), -1 padding, size (H, W) -> (B, C), zeros without a point."""
        given = (labels >= 0)[..., None]
        said = self.point_type_embed(labels.clamp_min(0)) + self.point_pos_embed(normalize(points, size))
        return (said * given).sum(1) / given.sum(1).clamp_min(1)


def _point_cases() -> Iterator[Case]:
    for words, labels, size in (
        ("a wide image", torch.tensor([[1, 0, 0], [1, 1, 0]]), _WIDE),
        ("a tall image", torch.tensor([[1, 0, 0], [1, 1, 0]]), _TALL),
        ("points with padding", torch.tensor([[1, -1, 0, -1, 0], [-1, 0, 1, 1, -1]]), _WIDE),
        ("a row of padding alone", torch.tensor([[1, 0, 1], [-1, -1, -1]]), _WIDE),
        ("no points at all", torch.zeros(2, 0, dtype=torch.int64), _WIDE),
    ):
        points = (torch.rand(*labels.shape, 2) * torch.tensor([size[1] - 1, size[0] - 1])).round()
        points[labels < 0] = -700.0  # padding lies far outside, where it does most harm
        yield Case(((_C,), (points, labels, size)), f"for {words}", "the vector")


def _given(labels: Tensor) -> Tensor:
    return (labels >= 0).float()[..., None]


def _everyone(labels: Tensor) -> Tensor:
    return torch.ones_like(labels).float()[..., None]


def _points(
    at: Callable[[Tensor, _Size], Tensor] = normalize,
    kind: Callable[[Tensor], Tensor] = lambda labels: labels.clamp_min(0),
    said: Callable[..., Tensor] = lambda kind, place, given: kind + place,
    counted: Callable[[Tensor], Tensor] = _given,
    divided: Callable[[Tensor], Any] = lambda labels: _given(labels).sum(1).clamp_min(1),
    pool: _Per = lambda vectors: vectors.sum(1),
) -> type[nn.Module]:
    """A point's embedding with one thing wrong in it."""

    class Points(_PointEmbedding):
        def forward(self, points: Tensor, labels: Tensor, size: _Size) -> Tensor:
            place = self.point_pos_embed(at(points, size))
            vectors = said(self.point_type_embed(kind(labels)), place, _given(labels))
            return pool(vectors * counted(labels)) / divided(labels)

    return Points


class _PointsOfMeans(_PointEmbedding):
    def forward(self, points: Tensor, labels: Tensor, size: _Size) -> Tensor:
        weight = _given(labels) / _given(labels).sum(1, keepdim=True).clamp_min(1)
        kinds, place = self.point_type_embed(labels.clamp_min(0)), normalize(points, size)
        return (weight * kinds).sum(1) + self.point_pos_embed((weight * place).sum(1))


class _LargestPoint(_PointEmbedding):
    def forward(self, points: Tensor, labels: Tensor, size: _Size) -> Tensor:
        said = self.point_type_embed(labels.clamp_min(0)) + self.point_pos_embed(normalize(points, size))
        return said.masked_fill(_given(labels) == 0, -torch.inf).amax(1) if labels.numel() else said.sum(1)


def _number_of_points(labels: Tensor) -> Tensor:
    return labels.new_tensor(max(labels.shape[1], 1))


_PADDING = "padding (label -1) is counted {}: it must change nothing. Multiply by labels >= 0."
_LEFT_OUT = "background points (label 0) are left out: they count, too."
_PADDED = [
    (_points(**what, counted=_everyone, **divided), _PADDING.format(words))
    for divided in ({"divided": _number_of_points}, {}, {"divided": lambda labels: 1})
    for what, words in (
        ({}, "as a background point"),
        ({"kind": lambda labels: labels % 2}, "as a foreground point (-1 is the last row)"),
        ({"said": lambda kind, place, given: kind * given + place}, "with its position"),
        ({"said": lambda kind, place, given: kind + place * given}, "with its type"),
    )
]

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
    wrong=variants(
        _points,
        at=_WRONG_POSITIONS,
        said=[
            (lambda kind, place, given: place, "the type is left out: add point_type_embed of the label."),
            (lambda kind, place, given: kind, "the position is left out: add point_pos_embed of it."),
            (lambda kind, place, given: kind * place, "type and position are multiplied: add them."),
            (lambda kind, place, given: torch.cat([kind, place], -1), "type and position are concatenated: add them."),
        ],
        kind=[
            (
                lambda labels: 1 - labels.clamp_min(0),
                "foreground and background are exchanged: row 0 of point_type_embed is background.",
            )
        ],
        divided=[
            (lambda labels: 1, "this is the sum over the points: take their mean."),
            (
                lambda labels: _given(labels).sum().clamp_min(1),
                "divided by all points of the batch: each row by its own.",
            ),
            (_number_of_points, "padding is counted in the mean: divide by the number of points given."),
        ],
        counted=[
            (lambda labels: (labels == 1).float()[..., None], _LEFT_OUT),
            (
                lambda labels: _given(labels) * (2.0 * labels[..., None] - 1),
                "background points are subtracted: their type says what they are.",
            ),
        ],
    )
    + _PADDED
    + [
        (
            _points(
                counted=lambda labels: (labels == 1).float()[..., None],
                divided=lambda labels: (labels == 1).sum(1, keepdim=True).clamp_min(1),
            ),
            _LEFT_OUT,
        ),
        (_PointsOfMeans, "without a point the bias of point_pos_embed is left over: the vector is zeros then."),
        (_points(pool=_same, divided=lambda labels: 1), "this is a vector for each point: return their mean."),
        (_LargestPoint, "this is the maximum over the points: take their mean."),
    ],
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
        known = torch.where(given, boxes, 0)
        return self.box_embed(normalize(known, size)) * given


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


def _boxes(
    at: Callable[[Tensor, _Size], Tensor] = normalize,
    layers: Callable[[nn.Sequential, Tensor], Tensor] = lambda layers, x: layers(x),
    given: Callable[[Tensor], Any] = lambda boxes: ~boxes.isnan().any(1, keepdim=True),
) -> type[nn.Module]:
    """A box's embedding with one thing wrong in it; `at` gets corners (B, 2, 2)."""

    class Boxes(_BoxEmbedding):
        def forward(self, boxes: Tensor, size: _Size) -> Tensor:
            corners = boxes.nan_to_num().unflatten(1, (2, 2))
            return layers(self.box_embed, at(corners, size).flatten(1)) * given(boxes)

    return Boxes


def _sides(start: Callable[[Tensor], Tensor], more: int) -> Callable[[Tensor, _Size], Tensor]:
    """The corner or the centre of a box, and its width and height."""
    return lambda corners, size: torch.cat(
        [start(normalize(corners, size)), (corners[:, 1] - corners[:, 0] + more) / max(size)], 1
    )


class _ZerosInstead(_BoxEmbedding):
    def forward(self, boxes: Tensor, size: _Size) -> Tensor:
        return self.box_embed(normalize(boxes, size).nan_to_num())


_SIDES = "width and height go in: the four numbers are the corners, (x0, y0, x1, y1)."
_BIAS = "a row of NaN still says something, since the layers have biases: multiply its vector by 0."

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
    wrong=variants(
        _boxes,
        at=[
            *_WRONG_POSITIONS,
            *(
                (_sides(start, more), _SIDES)
                for start in (lambda at: at[:, 0], lambda at: at.mean(1))
                for more in (0, 1)
            ),
            (
                lambda xy, size: normalize(xy, size).transpose(1, 2),
                "this is (x0, x1, y0, y1): (x0, y0, x1, y1) goes in.",
            ),
        ],
        layers=[
            (lambda m, x: m[2](m[0](x)), "the ReLU between the two layers is left out: put it there."),
            (lambda m, x: m[2](m[0](x)).relu(), "the ReLU comes after the second layer: it stands between them."),
            (lambda m, x: m(x).relu(), "there is a ReLU after the second layer: leave it out."),
        ],
        given=[(lambda boxes: 1, _BIAS)],
    )
    + [(_ZerosInstead, _BIAS)],
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
        said = zip(names, found.split(list(names.values()), dim=-1), strict=True)
        return Parts({**parts, **{f"{name} {case.when}": part for name, part in said}})

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


def _here(
    size: _Size,
    stride: int,
    centre: Callable[[int], float] = lambda stride: 0.5,
    count: Callable[[int, int], int] = lambda side, stride: -(-side // stride),
) -> Tensor:
    """The centres of all positions in pixels, measured from the image's corner: (h, w, 2), x first."""
    y, x = ((torch.arange(count(side, stride)) + centre(stride)) * stride for side in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


_WRONG_HERE: list[tuple[Callable[[_Size, int], Tensor], str]] = [
    (
        lambda size, stride: _here(size, stride, lambda s: 0.5 - 0.5 / s),
        "the centre is at (j + 0.5) * stride; 0.5 is taken off too much.",
    ),
    (
        lambda size, stride: _here(size, stride, lambda s: 1),
        "this is the position's far corner: its centre is at (j + 0.5) * stride.",
    ),
    (
        lambda size, stride: _here(size, stride, lambda s: 0),
        "this is the corner of the position: its centre is at (j + 0.5) * stride.",
    ),
    (
        lambda size, stride: _here(size, stride, count=lambda side, s: side // s),
        "h is the height over the stride, rounded up, -(-H // stride), as a convolution with padding leaves it.",
    ),
    (lambda size, stride: _here(size[::-1], stride), "h and w are exchanged: size is (H, W)."),
    (lambda size, stride: _here(size, 4), "stride is not used: is 4 written by hand?"),
    (lambda size, stride: _here(size, 8), "stride is not used: is 8 written by hand?"),
]
"""What known mistakes make of the positions, and their hints."""

_LONGER = "pixels are divided by the longer side of the image."
_WRONG_UNITS: list[tuple[Callable[[Tensor, _Size, int], Tensor], str]] = [
    (lambda xy, hw, s: xy, f"it is not normalised: {_LONGER}"),
    (lambda xy, hw, s: xy / s, f"it is in units of the stride: {_LONGER}"),
    (
        lambda xy, hw, s: xy / xy.new_tensor(hw[::-1]),
        "each axis is divided by its own side: by the longer one both, so that circles stay round.",
    ),
    (lambda xy, hw, s: xy / xy.new_tensor(hw), f"height and width are mixed up: {_LONGER}"),
    (lambda xy, hw, s: xy / min(hw), f"it divides by the shorter side: {_LONGER}"),
    (lambda xy, hw, s: xy / hw[0], f"it divides by the height, for a wide image by the shorter side: {_LONGER}"),
    (lambda xy, hw, s: xy / hw[1], f"it divides by the width, for a tall image by the shorter side: {_LONGER}"),
    (lambda xy, hw, s: xy / (-(-max(hw) // s) * s), f"it divides by the map's longer side: {_LONGER}"),
]
"""What known mistakes make of pixels in an image (H, W) at a stride, and their hints."""


def _offsets(
    here: Callable[[_Size, int], Tensor] = _here,
    half: float = 0.5,
    divide: Callable[[Tensor, _Size, int], Tensor] = lambda xy, size, stride: xy / max(size),
    only_points: bool = False,
    distance: Callable[[Tensor], Tensor] = lambda d: d.norm(dim=-1),
    bump: Callable[[Tensor, float], Tensor] = lambda d, sigma: (-d.square() / (2 * sigma**2)).exp(),
    after: Callable[[Tensor], Tensor] = _same,
) -> Callable[..., Tensor]:
    """The maps with one thing wrong in them."""

    def answer(points: Tensor, size: _Size, stride: int) -> Tensor:
        at = here(size, stride)
        offset = at if only_points else divide(at, size, stride)
        offset = offset - divide(points + half, size, stride)[:, :, None, None]
        bumps = [bump(offset.norm(dim=-1), sigma) for sigma in SIGMAS]
        return after(torch.cat([offset, torch.stack([distance(offset), *bumps], -1)], -1))

    return answer


_SIGN = "the sign is wrong: from the point to the position, position - point."
_ALL_FIVE = "dx, dy, distance, two bumps."
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
    wrong=variants(
        _offsets,
        after=[
            (lambda m: m * m.new_tensor([-1, -1, 1, 1, 1]), _SIGN),
            (lambda m: m[..., [1, 0, 2, 3, 4]], "dx and dy are exchanged: dx first, along the columns."),
            (
                lambda m: m[..., [1, 0, 2, 3, 4]] * m.new_tensor([-1, -1, 1, 1, 1]),
                f"dx and dy are exchanged, and {_SIGN}",
            ),
            (lambda m: m[..., [2, 0, 1, 3, 4]], f"the distance comes third: {_ALL_FIVE}"),
            (lambda m: m[..., [3, 4, 0, 1, 2]], f"the bumps come last: {_ALL_FIVE}"),
            (lambda m: m[..., [0, 1, 2, 4, 3]], "the bumps are exchanged: the narrow one, of sigma 0.03, comes first."),
            (lambda m: m[..., :2], f"distance and bumps are missing: {_ALL_FIVE}"),
            (lambda m: m[..., :3], f"the bumps are missing: {_ALL_FIVE}"),
            (lambda m: m[..., [0, 1, 3, 4]], f"the distance is missing: {_ALL_FIVE}"),
            (lambda m: m.transpose(2, 3), "h and w are exchanged: the shape is (B, N, h, w, 5), rows first."),
            (lambda m: m.movedim(-1, 2), "the five numbers come last: the shape is (B, N, h, w, 5)."),
        ],
        here=_WRONG_HERE,
        half=[(0, "the half pixel of the point is missing: (xy + 0.5) / longer side.")],
        divide=_WRONG_UNITS,
        only_points=[(True, "the positions' centres are not divided: they are pixels, too.")],
        distance=[
            (lambda d: d.square().sum(-1), "this is the squared distance: take the root."),
            (lambda d: d.abs().sum(-1), "this is |dx| + |dy|: the distance is the root of dx² + dy²."),
            (lambda d: d.abs().amax(-1), "this is the larger of |dx|, |dy|: the root of dx² + dy²."),
        ],
        bump=[
            (lambda d, s: (-d / (2 * s**2)).exp(), f"the distance is not squared: {_BUMP}"),
            (lambda d, s: (-d.square() / (2 * s)).exp(), f"sigma is not squared: {_BUMP}"),
            (lambda d, s: (-d / (2 * s)).exp(), f"neither distance nor sigma is squared: {_BUMP}"),
            (lambda d, s: (-d.square() / s**2).exp(), f"the factor 2 is missing: {_BUMP}"),
            (lambda d, s: (-d.square() / s).exp(), f"the factor 2 is missing, and sigma is not squared: {_BUMP}"),
            (lambda d, s: (-d.square() / 2 * s**2).exp(), f"it multiplies by sigma**2, brackets are missing: {_BUMP}"),
            (lambda d, s: (-d.square() / (2 * s) ** 2).exp(), f"the 2 is squared, too: {_BUMP}"),
            (lambda d, s: (d.square() / (2 * s**2)).exp(), f"the minus sign is missing: {_BUMP}"),
            (lambda d, s: (-d.pow(4) / (2 * s**2)).exp(), f"the distance is squared twice: {_BUMP}"),
            (lambda d, s: 1 - (-d.square() / (2 * s**2)).exp(), f"it is 0 at the point, expected 1: {_BUMP}"),
        ],
    )
    + [
        (
            _offsets(here=lambda size, stride: _here(size, stride, lambda s: 0), half=0),
            "this is the corner of the position: its centre is at (j + 0.5) * stride. And a point's: (xy + 0.5) / "
            "longer side.",
        ),
        (
            lambda xy, size, stride: prompt_maps.point_maps(xy, size, stride) * xy.new_tensor([1, 1, max(size), 1, 1]),
            "the distance is in pixels: from dx and dy as divided.",
        ),
        (
            lambda xy, size, stride: prompt_maps.point_maps(xy, size[::-1], stride).transpose(2, 3),
            "height and width are exchanged: size is (H, W), and x runs along the columns, the last axis but one.",
        ),
    ],
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


def _box_map(
    here: Callable[[_Size, int], Tensor] = _here,
    corners: Callable[[Tensor], tuple[Tensor, Tensor]] = lambda b: (b[:, :2], b[:, 2:] + 1),
    divide: Callable[[Tensor, _Size, int], Tensor] = lambda xy, size, stride: xy / max(size),
    relative: Callable[[Tensor, Tensor], Tensor] = lambda start, extent: 2 * start / extent - 1,
    clamp: _Per = lambda x: x.clamp(-2, 2),
    nearer: Callable[[Tensor, Tensor], Tensor] = torch.minimum,
    edge: _Per = lambda inner: inner.amin(-1, keepdim=True),
    step: _Per = lambda edge: (edge / EDGE).sigmoid(),
    shown: _Per = _same,
    share: Callable[[Tensor, Tensor], Tensor] = lambda inner, extent: inner / extent,
    after: Callable[[Tensor], Tensor] = _same,
) -> Callable[..., Tensor]:
    """The maps with one thing wrong in them; `corners` gives those of the box in pixels from the image's corner."""

    def answer(boxes: Tensor, size: _Size, stride: int) -> Tensor:
        at = divide(here(size, stride), size, stride)
        low, high = (divide(corner, size, stride)[:, None, None] for corner in corners(boxes))
        extent, inner = high - low, nearer(at - low, high - at)
        nearest, sides = edge(inner), shown(extent).expand_as(inner)
        maps = [clamp(relative(at - low, extent)), nearest, step(nearest), sides, share(inner, extent)]
        return after(torch.cat(maps, -1))

    return answer


_OUTWARD = "the box ends half a pixel beyond its pixels' centres: from (x0 - 0.5 + 0.5) to (x1 + 0.5 + 0.5)."
_RELATIVE_TO_BOX = "2 * (position - low) / (high - low) - 1, that is -1 at one edge and 1 at the other."
_NEAREST = (
    "the distance to the nearest of the four edges, negative outside: the minimum of position - low, high - here."
)
_STEP = "a step of width 0.02: sigmoid(edge / 0.02)."
_INNER = "the distances to the nearer edges, each divided by the box's own side: inner / (high - low)."
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
    wrong=variants(
        _box_map,
        after=[
            (lambda m: m[..., [1, 0, 2, 3, 4, 5, 6, 7]], "x and y relative to the box are exchanged: x comes first."),
            (lambda m: m[..., [2, 0, 1, 3, 4, 5, 6, 7]], f"the edge comes third: {_ALL_EIGHT}"),
            (lambda m: m[..., [0, 1, 3, 2, 4, 5, 6, 7]], f"edge and step are exchanged: {_ALL_EIGHT}"),
            (lambda m: m[..., [0, 1, 2, 3, 6, 7, 4, 5]], f"the last two pairs are exchanged: {_ALL_EIGHT}"),
            (lambda m: m[..., :6], f"the distances over width and height are missing: {_ALL_EIGHT}"),
            (lambda m: m[..., [0, 1, 2, 3, 6, 7]], f"width and height are missing: {_ALL_EIGHT}"),
            (lambda m: m.transpose(1, 2), "rows and columns are exchanged: the shape is (B, h, w, 8), rows first."),
            (lambda m: m.movedim(-1, 1), "the eight numbers come last: the shape is (B, h, w, 8)."),
        ],
        here=_WRONG_HERE,
        divide=_WRONG_UNITS,
        corners=[
            (lambda b: (b[:, :2] + 0.5, b[:, 2:] + 0.5), f"the half pixels outward are missing. {_OUTWARD}"),
            (lambda b: (b[:, :2], b[:, 2:]), f"the corners are divided as they are. {_OUTWARD}"),
            (lambda b: (b[:, :2] - 0.5, b[:, 2:] + 0.5), f"the + 0.5 of every pixel's centre is missing. {_OUTWARD}"),
            (lambda b: (b[:, :2] + 1, b[:, 2:]), f"the half pixels go inward. {_OUTWARD}"),
            (lambda b: (b[:, [1, 0]], b[:, [3, 2]] + 1), "x and y of the box are exchanged: (x0, y0, x1, y1)."),
        ],
        relative=[
            (lambda start, extent: start / extent, f"x and y run from 0 to 1 in the box: {_RELATIVE_TO_BOX}"),
            (lambda start, extent: start / extent - 0.5, f"x and y run from -0.5 to 0.5: {_RELATIVE_TO_BOX}"),
            (
                lambda start, extent: 2 * start - extent,
                f"x and y are not divided by the box's sides: {_RELATIVE_TO_BOX}",
            ),
            (
                lambda start, extent: start - extent / 2,
                f"x and y are not divided by the box's sides: {_RELATIVE_TO_BOX}",
            ),
            (lambda start, extent: 1 - 2 * start / extent, f"the sign of x and y is wrong: {_RELATIVE_TO_BOX}"),
            (
                lambda start, extent: 2 * start / extent.flip(-1) - 1,
                "x is divided by the height, y by the width: flip.",
            ),
        ],
        clamp=[
            (_same, "x and y are not clamped: .clamp(-2, 2), so that a small box does not make huge numbers."),
            (
                lambda x: x.clamp(-1, 1),
                "x and y are clamped at 1, so that the near outside looks like the far: .clamp(-2, 2).",
            ),
        ],
        nearer=[
            (torch.maximum, f"this is the farther edge: {_NEAREST}"),
            (lambda low, high: low, f"only the left and the upper edge are looked at: {_NEAREST}"),
            (lambda low, high: high, f"only the right and the lower edge are looked at: {_NEAREST}"),
            (lambda low, high: torch.minimum(low, high).abs(), f"the sign is lost (abs): {_NEAREST}"),
            (lambda low, high: torch.minimum(low.abs(), high.abs()), f"the sign is lost (abs): {_NEAREST}"),
            (lambda low, high: torch.minimum(low, high).relu(), f"it is 0 outside: {_NEAREST}"),
        ],
        edge=[
            (
                lambda inner: inner.amax(-1, keepdim=True),
                f"the larger of the distances in x and in y is taken: {_NEAREST}",
            ),
            (lambda inner: inner.abs().amin(-1, keepdim=True), f"the sign is lost (abs): {_NEAREST}"),
            (lambda inner: inner.amin(-1, keepdim=True).abs(), f"the sign is lost (abs): {_NEAREST}"),
            (lambda inner: inner.mean(-1, keepdim=True), f"this is the mean of x and y: {_NEAREST}"),
            (lambda inner: -inner.amin(-1, keepdim=True), f"it is positive outside: {_NEAREST}"),
        ],
        step=[
            (torch.sigmoid, f"the step is not divided by its width: {_STEP}"),
            (lambda edge: (edge * EDGE).sigmoid(), f"it is multiplied by the width: {_STEP}"),
            (lambda edge: (-edge / EDGE).sigmoid(), f"the step is 1 outside: {_STEP}"),
            (lambda edge: (edge > 0).float(), f"the step is hard: {_STEP}"),
            (lambda edge: edge / EDGE, f"the sigmoid is missing: {_STEP}"),
        ],
        shown=[
            (lambda extent: extent.flip(-1), "height and width are exchanged: the width comes first, as x does."),
            (lambda extent: extent / 2, "half the width and height are shown: all of them, high - low."),
            (torch.log, "the logarithm of width and height is shown: high - low as they are."),
        ],
        share=[
            (lambda inner, extent: inner, f"the last two are not divided: {_INNER}"),
            (lambda inner, extent: inner / extent.flip(-1), f"width and height are exchanged: {_INNER}"),
            (lambda inner, extent: (inner / extent).flip(-1), f"the last two are exchanged, x comes first: {_INNER}"),
            (lambda inner, extent: 2 * inner / extent, f"the last two are twice as large: {_INNER}"),
            (lambda inner, extent: (inner / extent).abs(), f"the sign of the last two is lost (abs): {_INNER}"),
            (lambda inner, extent: inner * extent, f"the last two are multiplied: {_INNER}"),
        ],
    ),
)


# ------------------------------------------------------------------ IoUHead


class _SureHead(IoUHead):
    """Larger weights, so that a mistake in one of the numbers shows after the sigmoid."""

    def __init__(self, channels: int, masks: int, ious: int):
        super().__init__(channels, masks, ious)
        with torch.no_grad():
            for weight in self.parameters():
                weight.mul_(3)


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
    given = tuple(x.clone().requires_grad_() for x in inputs)
    expected = right(*given)
    weighting = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weighting).sum(), given[0])[0]

    def backward() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad((model(*given) * weighting).sum(), given, allow_unused=True)

    at_features, at_logits = check.call(backward, when="in backward", errors=IN_PLACE)
    cut = "a gradient reaches the logits: detach them. The masks must not change only to be judged better."
    check.that(at_logits is None or not at_logits.any(), cut)
    lost = "no gradient, or a wrong one, reaches the features: only the logits are detached."
    check.that(at_features is not None and torch.allclose(at_features, wanted, atol=1e-5), lost)


def _head(
    weights: Callable[[Tensor], Tensor] = torch.sigmoid,
    divided: Callable[[Tensor], Any] = lambda w: w.sum((2, 3)).clamp_min(1e-3)[..., None],
    whole: Callable[[Tensor], Tensor] = lambda features: features.mean((2, 3)),
    join: Callable[[Tensor, Tensor], Tensor] = lambda whole, inside: torch.cat([whole[:, None], inside], 1),
    layers: Callable[[nn.Sequential, Tensor], Tensor] = lambda layers, x: layers(x),
    end: Callable[[Tensor], Tensor] = torch.sigmoid,
) -> type[nn.Module]:
    """A judge with one thing wrong in it."""

    class Head(IoUHead):
        def forward(self, features: Tensor, logits: Tensor) -> Tensor:
            w = weights(logits.detach())
            inside = torch.einsum("bmhw,bchw->bmc", w, features) / divided(w)
            return end(layers(self.layers, join(whole(features), inside).flatten(1)))

    return Head


_LEAST = "{}: divide by the sum of the weights or 1e-3, whichever is larger, clamp_min(1e-3)."
_CUT_OFF = "the result is cut off (ReLU or clamp), and has no gradient there: take the sigmoid."
_IN_TURN = "the numbers are in another order: all channels of the image, then all channels of mask 0, and so on."

iou_head = Exercise(
    "IoUHead",
    IoUHead,
    _head_cases,
    run=_run_module(
        _SureHead,
        {"layers": "nn.Sequential(nn.Linear(channels * (1 + masks), channels), nn.ReLU(), nn.Linear(channels, ious))"},
        "a mask with hardly a pixel gives 0 / 0: divide by the sum of its weights or 1e-3, whichever is larger.",
    ),
    tolerance=rounding,
    errors={
        "mat1 and mat2": "layers take channels * (1 + masks) numbers: the mean over the image and one inside each "
        "mask, concatenated."
    },
    wrong=variants(
        _head,
        end=[
            (_same, "the sigmoid at the end is missing: an IoU lies between 0 and 1."),
            (lambda x: x.softmax(1), "there is a softmax at the end: each mask has an IoU of its own, sigmoid."),
            (lambda x: x.clamp(0, 1), _CUT_OFF),
            (torch.relu, _CUT_OFF),
            (_twice, "the sigmoid at the end is taken twice: once is enough."),
        ],
        weights=[
            (_hard, "the logits are thresholded: the weights are sigmoid(logits)."),
            (lambda x: (x > 0) * x.sigmoid(), "the weights are cut off below 0.5: all of sigmoid(logits) counts."),
            (lambda x: (x > 0.5).float(), "the logits are thresholded, at 0.5: the weights are sigmoid(logits)."),
            (_same, "the logits themselves are the weights, sigmoid is missing: they may be negative."),
            (torch.relu, "the weights are relu(logits): take sigmoid(logits)."),
            (_twice, "the sigmoid of the logits is taken twice: once is enough."),
            (lambda x: x.flatten(2).softmax(2).view_as(x), "there is a softmax over the pixels: sigmoid."),
            (_softmax, "there is a softmax over the masks: each stands for itself, sigmoid."),
            (lambda x: (-x).sigmoid(), "the features outside the masks are averaged: inside, by sigmoid(logits)."),
            (torch.ones_like, "the masks are not used: each mean is weighted by sigmoid(logits)."),
        ],
        divided=[
            (lambda w: w[0, 0].numel(), "divided by the number of pixels: by the sum of the weights."),
            (
                lambda w: w.sum((2, 3)).clamp_min(1)[..., None],
                _LEAST.format("a small mask's weights add up to less than 1"),
            ),
            (lambda w: w.sum((2, 3))[..., None] + 1e-3, _LEAST.format("1e-3 is added to every sum")),
            (lambda w: 1, "this is the weighted sum: divide by the sum of the weights."),
            (lambda w: w.sum((1, 2, 3))[:, None, None].clamp_min(1e-3), "by the sum of all masks: each by its own."),
            (lambda w: w.sum((0, 2, 3))[None, :, None], "divided by the sum over the batch: each by its own."),
        ],
        whole=[
            (lambda f: f.sum((2, 3)), "the image's features are summed: take their mean."),
            (lambda f: f.amax((2, 3)), "this is the maximum over the image: take the mean."),
        ],
        join=[
            (
                lambda whole, inside: torch.cat([inside, whole[:, None]], 1),
                "the image's mean comes last: first, then one mean for each mask.",
            ),
            (
                lambda whole, inside: torch.cat([whole[:, None], inside.flip(1)], 1),
                "the masks are in reverse order: mask 0 comes first.",
            ),
            (lambda whole, inside: torch.cat([whole[:, None], inside], 1).transpose(1, 2), _IN_TURN),
            (lambda whole, inside: torch.cat([whole, inside.transpose(1, 2).flatten(1)], 1), _IN_TURN),
        ],
        layers=[(lambda m, x: m[2](m[0](x)), "the ReLU between the two layers is left out: put it there.")],
    ),
)


# -------------------------------------------------------------- prompt_loss


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


_VOID_ALONE = "an image that is void everywhere"
_SURE = "for logits of 100 and -100"


def _run_loss(check: Check, answer: Callable, case: Case) -> Any:
    """The loss, and its gradients at logits and predicted IoUs, zeros where none comes back."""
    given: list[Tensor] = []

    def watched(logits: Tensor, iou: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        given.extend((logits, iou))  # the check hands over copies, whose gradients are asked for
        return answer(logits, iou, target, weight)

    def backward() -> tuple[Tensor, ...]:
        found = torch.autograd.grad(loss, given, allow_unused=True)
        return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(found, given, strict=True))

    loss = check.call(watched, *case.args, when=case.when)
    if not (isinstance(loss, Tensor) and loss.ndim == 0):
        return loss
    gradients = tuple(map(torch.zeros_like, given))
    if loss.requires_grad:
        gradients = check.call(backward, when="in backward", errors=IN_PLACE)
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
    detached = "(is a part detached, or the true IoU not?)"
    at = {f"the gradient at the {n} {case.when} {detached}": g for n, g in zip(_GIVEN, gradients, strict=True)}
    if _VOID_ALONE in case.when:
        at = dict(list(at.items())[:1])
    return Parts({case.words: loss.detach(), **at})


_GIVEN = ("logits", "predicted IoUs")


def _sums(x: Tensor) -> Tensor:
    """(B, M, h, w) -> (B, M)."""
    return x.sum((2, 3))


def _batch_sums(x: Tensor) -> Tensor:
    """The sum over the batch, for each of its images: (B, M, h, w) -> (B, M)."""
    return x.sum((0, 2, 3)).expand(x.shape[:2])


def _ce(
    of: _Per = _same, share: float = 1, weight: _Per = _same, total: _Per = _same, sums: _Per = _sums
) -> Callable[..., Tensor]:
    """Cross-entropy of each candidate, with one thing wrong in it."""

    def answer(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        nll = F.binary_cross_entropy_with_logits(of(x), y, reduction="none")
        return share * sums(weight(w) * nll) / sums(total(w)).clamp_min(1)

    return answer


def _dice(
    p: _Per = torch.sigmoid,
    share: float = 1,
    weight: _Per = _same,
    area: _Per = _same,
    area_weight: _Per = _same,
    smooth: tuple[float, float] = (1, 1),
    factor: float = 2,
    jaccard: bool = False,
    sums: _Per = _sums,
) -> Callable[..., Tensor]:
    """Dice of each candidate, with one thing wrong in it."""

    def answer(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        w = weight(w)
        overlap, areas = sums(w * p(x) * y), sums(area_weight(w) * area(p(x))) + sums(w * y)
        if jaccard:
            return 1 - (overlap + 1) / (areas - overlap + 1)
        return share * (1 - (factor * overlap + smooth[0]) / (areas + smooth[1]))

    return answer


def _iou(
    mask: _Per = lambda x: (x > 0).float(),
    truth: _Per = lambda y: (y > 0.5).float(),
    weight: _Per = _same,
    score: Callable[[Tensor, Tensor], Tensor] = lambda both, areas: both / (areas - both).clamp_min(1),
    sums: _Per = _sums,
) -> Callable[..., Tensor]:
    """The true IoU of each candidate, with one thing wrong in it."""

    def answer(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        m, t, w = mask(x), truth(y), weight(w)
        return score(sums(w * m * t), sums(w * m) + sums(w * t))

    return answer


def _best(loss: Tensor) -> Tensor:
    return loss.amin(1).mean() + 0.1 * loss.mean()


_CE, _DICE, _IOU = _ce(), _dice(), _iou()


def _loss(
    ce: Callable[..., Tensor] = _CE,
    dice: Callable[..., Tensor] = _DICE,
    iou: Callable[..., Tensor] = _IOU,
    best: _Per = _best,
    choose: Callable[..., Tensor] | None = None,
    error: _Per = lambda e: 0.1 * e.square().mean(),
) -> Callable[..., Tensor]:
    """The loss with one of its parts wrong; `choose` is a choice by more than the sum of both losses."""

    def answer(logits: Tensor, predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        maps = logits, target[:, None].expand_as(logits), weight[:, None].expand_as(logits)
        true = iou(*maps)
        losses = ce(*maps), dice(*maps)
        chosen = choose(*losses, predicted, true) if choose else best(losses[0] + losses[1])
        return chosen + error(predicted - true)

    return answer


def _called(change: Callable[..., tuple]) -> Callable[..., Tensor]:
    """The right loss of other arguments."""
    return lambda logits, iou, target, weight: right_loss(*change(logits, iou, target, weight))


def _picked(by: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The candidate that another number than the loss picks."""

    def choose(ce: Tensor, dice: Tensor, predicted: Tensor, iou: Tensor) -> Tensor:
        loss = ce + dice
        return loss.gather(1, by(predicted, iou).argmax(1, keepdim=True)).mean() + 0.1 * loss.mean()

    return choose


_one: _Per = torch.ones_like
_NO_GRADIENT = "the true IoU comes from masks: logits > 0 and target > 0.5."
_SIGMOID_TWICE = (
    "a sigmoid before binary_cross_entropy_with_logits, which applies its own: it is taken twice. Give it the logits."
)
_EXCLUSIVE = "candidates do not exclude each other: a sigmoid for each, no softmax over them."
_IN_EACH_IMAGE = "is summed over the batch before dividing: each image and candidate has its own quotient."
_VOID = "void is counted in {}: multiply by the weight, which is 0 there."
_CHOICE = "Minimum over the candidates of each image, then the mean over the batch, + 0.1 * the mean of all."
_BAR = "the 1 {}is missing in Dice: (2 overlap + 1) / (areas + 1)."
_LOST = "is there an argmax, a detach or an `.item()`? Only the true IoU is without a gradient."

_WRONG_LOSSES = variants(
    _loss,
    ce=[
        (_ce(of=torch.sigmoid), _SIGMOID_TWICE),
        (_ce(of=_softmax), f"a softmax comes before binary_cross_entropy_with_logits. {_EXCLUSIVE}"),
        (_ce(share=0), "cross-entropy is left out: cross-entropy + Dice for each candidate."),
        (_ce(sums=_batch_sums), f"the cross-entropy {_IN_EACH_IMAGE}"),
        (_ce(total=torch.zeros_like), "the cross-entropy is a sum: divide it by the sum of the weights."),
        (_ce(weight=_one, total=_one), _VOID.format("the cross-entropy")),
        (_ce(weight=_one), _VOID.format("the cross-entropy above the fraction bar")),
        (_ce(total=_one), "void is counted in the mean of the cross-entropy: divide by the sum of the weights."),
    ],
    dice=[
        (_dice(_twice), "the sigmoid is taken twice in Dice: once, of the logits."),
        (_dice(_softmax), f"there is a softmax in Dice. {_EXCLUSIVE}"),
        (_dice(_same), "the sigmoid is missing in Dice: it needs probabilities, not logits."),
        (_dice(_hard), "Dice is that of thresholded masks, without a gradient: sigmoid."),
        (_dice(share=0), "Dice is left out: cross-entropy + Dice for each candidate."),
        (_dice(share=-1), "Dice is subtracted: the loss is cross-entropy + (1 - the Dice score)."),
        (lambda *maps: 1 - _DICE(*maps), "this is the Dice score, which grows: 1 - it is the loss."),
        (_dice(factor=1), "the 2 is missing in Dice: 2 overlap over the sum of both areas."),
        (_dice(area=torch.square), "the predicted area is a sum of squares: sum the probabilities themselves."),
        (_dice(jaccard=True), "this is the soft Jaccard loss: Dice is 2 overlap over the sum of both areas."),
        (_dice(smooth=(0, 0)), _BAR.format("")),
        (_dice(smooth=(0, 1)), _BAR.format("above the fraction bar ")),
        (_dice(smooth=(1, 0)), _BAR.format("below the fraction bar ")),
        (_dice(sums=_batch_sums), f"Dice {_IN_EACH_IMAGE}"),
        (_dice(weight=_one), _VOID.format("Dice")),
        (_dice(area_weight=_one), _VOID.format("the predicted area of Dice")),
    ],
    best=[
        (lambda x: _best(x) / 2, "cross-entropy and Dice are averaged: add them."),
        (lambda x: x.mean(), f"this is the mean over the candidates. {_CHOICE}"),
        (lambda x: 1.1 * x.mean(), f"this is the mean over the candidates, twice. {_CHOICE}"),
        (lambda x: x.mean(0).amin() + 0.1 * x.mean(), f"the mean over the batch comes before the minimum. {_CHOICE}"),
        (lambda x: x.amin() + 0.1 * x.mean(), f"this is the minimum over the whole batch. {_CHOICE}"),
        (lambda x: x.amin(0).mean() + 0.1 * x.mean(), f"the minimum runs over the batch: dim=1 of (B, M). {_CHOICE}"),
        (lambda x: x.amax(1).mean() + 0.1 * x.mean(), f"this is the worst candidate: take the minimum. {_CHOICE}"),
        (lambda x: x.amin(1).mean(), f"the mean of the candidates is missing. {_CHOICE}"),
        (lambda x: x.amin(1).mean() + x.mean(), f"the mean over the candidates has weight 1. {_CHOICE}"),
        (lambda x: x.amin(1).mean() + 0.1 * x.sum(1).mean(), f"the sum over the candidates is added. {_CHOICE}"),
        (lambda x: len(x) * _best(x), f"it is summed over the batch. {_CHOICE}"),
        (lambda x: x[:, 0].mean() + 0.1 * x.mean(), f"only candidate 0 learns. {_CHOICE}"),
    ],
    choose=[
        (
            lambda ce, dice, p, i: ce.amin(1).mean() + dice.amin(1).mean() + 0.1 * (ce + dice).mean(),
            "cross-entropy and Dice each have their own minimum: add them first, so that one candidate is the best.",
        ),
        (_picked(lambda predicted, iou: predicted), f"the candidate of the highest predicted IoU is taken. {_CHOICE}"),
        (_picked(lambda predicted, iou: iou), f"the candidate of the highest true IoU is taken. {_CHOICE}"),
    ],
    error=[
        (lambda e: 0 * e.sum(), "the term of the predicted IoU is left out: 0.1 * the mean of its squared error."),
        (lambda e: e.square().mean(), "the squared error of the IoU has weight 1, expected 0.1."),
        (lambda e: 0.1 * e.square().sum(), "the squared error of the IoU is summed: take the mean."),
        (lambda e: 0.1 * e.square().sum(1).mean(), "the IoU's error is summed over the candidates: mean."),
        (lambda e: 0.1 * e.square().sum(0).mean(), "the IoU's error is summed over the batch: take the mean."),
        (lambda e: 0.1 * e.abs().mean(), "the IoU's error is taken without its square: the squared error."),
        (lambda e: 0.1 * e.square().mean().sqrt(), "the root of the IoU's squared error is taken: leave it."),
        (lambda e: 0.01 * e.square().mean(), "the IoU's error is multiplied by 0.1 twice: once is enough."),
    ],
    iou=[
        (_iou(_same), f"the IoU is computed from the logits. {_NO_GRADIENT}"),
        (_iou(torch.sigmoid), f"the IoU is that of soft masks. {_NO_GRADIENT}"),
        (_iou(torch.sigmoid, truth=_same), f"the IoU is that of soft masks. {_NO_GRADIENT}"),
        (_iou(lambda x: (x > 0.5).float()), "the logits are thresholded at 0.5: sigmoid(0) = 0.5, so logits > 0."),
        (_iou(lambda x: (x.sigmoid() > 0).float()), "a probability above 0 is taken for the mask: logits > 0."),
        (_iou(lambda x: 1.0 * (x == x.amax(1, True))), f"there is an argmax over the candidates. {_NO_GRADIENT}"),
        (_iou(truth=_same), "the target of the true IoU is not thresholded: target > 0.5."),
        (_iou(truth=_hard), "the target of the true IoU is thresholded at 0: target > 0.5."),
        (_iou(truth=lambda y: (y == 1).float()), "only positions covered wholly count in the true IoU: target > 0.5."),
        (
            _iou(score=lambda both, areas: 2 * both / areas.clamp_min(1)),
            "this is Dice (F1), not the IoU: both / either.",
        ),
        (
            _iou(score=lambda both, areas: both / areas.clamp_min(1)),
            "the union counts the overlap twice: both / either.",
        ),
        (_iou(sums=_batch_sums), f"the true IoU {_IN_EACH_IMAGE}"),
        (_iou(weight=_one), _VOID.format("the true IoU")),
        (_iou(weight=_hard), "the weight is used as a mask in the IoU: 0.5 counts half."),
    ],
) + [
    (_loss(ce=_ce(of=torch.sigmoid), dice=_dice(_twice)), _SIGMOID_TWICE),
    (_loss(ce=_ce(of=_softmax), dice=_dice(_softmax)), f"there is a softmax, twice. {_EXCLUSIVE}"),
    (_loss(ce=_ce(of=lambda x: x.softmax(1).logit()), dice=_dice(_softmax)), f"there is a softmax. {_EXCLUSIVE}"),
    (_loss(ce=_ce(sums=_batch_sums), dice=_dice(sums=_batch_sums)), f"everything {_IN_EACH_IMAGE}"),
    (_loss(ce=_ce(weight=_one, total=_one), dice=_dice(weight=_one)), _VOID.format("cross-entropy and Dice")),
    (_called(lambda x, i, t, w: (x.sigmoid(), i, t, w)), _SIGMOID_TWICE),
    (_called(lambda x, i, t, w: (x, i, (t > 0.5).float(), w)), "the target is thresholded: only for the true IoU."),
    (_called(lambda x, i, t, w: (x, i, t, _one(w))), _VOID.format("everything: weight is not used")),
    (_called(lambda x, i, t, w: (x, i, t, _hard(w))), "the weight is used as a mask: 0.5 counts half."),
    (_called(lambda x, i, t, w: (x, i.detach(), t, w)), f"no gradient comes back to the predicted IoUs: {_LOST}"),
    (lambda *given: right_loss(*given).detach(), f"no gradient comes back to the logits: {_LOST}"),
]

prompt_loss = Exercise(
    "prompt_loss",
    right_loss,
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
    wrong=_WRONG_LOSSES,
)


# ------------------------------------------------------------------ MiniSAM

_CHANNELS = 8
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


class _ToyEncoder(nn.Module):
    """Features of strides 4, 8, 16 and 32."""

    channels = (2, 3, 4, 5)

    def __init__(self):
        super().__init__()
        kinds = zip((3, *self.channels), self.channels, (4, 2, 2, 2), strict=False)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, stride, padding=1) for a, b, stride in kinds)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x).relu()
            features.append(x)
        return features


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
        wrong = [path for path in [*expected, *found] if found.get(path) != expected.get(path)]
        what = ""
        if wrong and wrong[0] in expected:
            other = f"`{wrong[0]}` of shape {found[wrong[0]]}" if wrong[0] in found else f"no `{wrong[0]}`"
            what = f"{other}, expected shape {expected[wrong[0]]} for num_classes={right.num_classes}"
        elif wrong:
            what = f"a weight `{wrong[0]}` too many"
        check.that(not wrong, f"{name} has {what}: {spec}.")
    more = sorted({name.split(".")[0] for name in _shapes(model)} - set(_PARTS))
    check.that(not more, f"it has weights of its own besides {', '.join(_PARTS)}: {', '.join(more)}. Leave them out.")
    classes = getattr(model, "num_classes", None)
    check.that(classes == right.num_classes, f"its num_classes is {classes}: self.num_classes = num_classes.")


def _inspect_mini_sam(check: Check, answer: Callable) -> None:
    for given in ((), (1, 5), (21, _CHANNELS)):
        encoder = _ToyEncoder()
        _check_parts(check, make(check, answer, encoder, *given), BaseMiniSAM(encoder, *given))


_PROMPTED = "with points, padding and boxes"


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
    with torch.no_grad():
        for name in ("point_type_embed", "point_pos_embed", "box_embed", "mix", "mask_head", "iou_head"):
            for weight in model.get_submodule(name).parameters():
                weight.mul_(2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
    points, labels = 30 * torch.rand(4, 2, 2), torch.tensor([[1, 0]] * 4)
    calibrated(model, torch.randn(4, 3, 32, 32), points, labels, torch.tensor([[4.0, 6, 20, 25]] * 4))
    return model


_NAN_PROMPTS = (
    "NaN times 0 is NaN, in the gradient too: replace the coordinates of padded points, and boxes of NaN, before "
    "anything is computed from them (torch.where), then leave those points and boxes out."
)


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
    if features.shape != right.encode(images).features.shape:
        return Parts({f"what encode gives {case.when}": features})
    found = check.call(model.decode, embedding, *prompts, when=f"in decode {case.when}")
    logits, ious = _checked_answer(check, found, "decode")
    again = (
        "decode changes the embedding in place: every click needs it as it was. x = embedding.features + ... instead."
    )
    check.that(torch.equal(embedding.features.detach(), features), again)
    finite = bool(logits.isfinite().all() and ious.isfinite().all())
    check.that(finite, f"{case.when} there is nan or inf in what decode gives: {_NAN_PROMPTS}")
    parts = Parts({f"what encode gives {case.when}": features, f"the logits {case.when}": logits.detach()})
    if num_classes > 1:  # of classes the library's judges softmax weights
        return Parts({**parts, "the shape of the IoUs for 21 classes": list(ious.shape)})
    whole = _checked_answer(check, check.call(model, images, *prompts, when=f"in forward {case.when}"), "forward")
    agree = all(
        a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, (logits, ious), strict=True)
    )
    check.that(agree, f"{case.when} forward gives another result than decode(encode(images), points, labels, boxes).")
    expected = torch.cat([x.flatten() for x in right(images, *prompts)])
    mine = torch.cat([logits.flatten(), ious.flatten()])
    if (
        case.when == _PROMPTED
        and mine.shape == expected.shape
        and not difference(mine, expected, "", rounding(expected))
    ):
        _check_sam_gradients(check, model, right, logits, ious, expected)
    return Parts({**parts, f"the IoUs {case.when}": ious.detach()})


def _checked_answer(check: Check, found: Any, name: str) -> tuple[Tensor, Tensor]:
    pair = isinstance(found, (tuple, list)) and len(found) == 2 and all(isinstance(x, Tensor) for x in found)
    check.that(pair, f"{name} returns {kind_of(found)}, expected the pair (logits, ious), two tensors.")
    return found[0], found[1]


def _check_sam_gradients(
    check: Check, model: nn.Module, right: BaseMiniSAM, logits: Tensor, ious: Tensor, expected: Tensor
) -> None:
    at_masks = torch.autograd.grad(ious.sum(), model.mask_head.weight, allow_unused=True, retain_graph=True)[0]
    cut = "a gradient of the IoUs reaches mask_head: IoUHead detaches the logits. Masks must not change to be judged."
    check.that(at_masks is None or not at_masks.any(), cut)
    own = dict(model.named_parameters())
    weights = [own[name] for name, _ in right.named_parameters()]
    mine, words = torch.cat([logits.flatten(), ious.flatten()]), f"{_PROMPTED} the values are right, but"
    _check_gradients(check, mine, expected, weights, right, words, _NAN_PROMPTS)


class _Steps(BaseMiniSAM):
    """The network in steps; a wrong one does another thing in one of them."""

    def encode(self, images: Tensor) -> Embedding:
        features = self.image_encoder(self.normal(images) if images.dtype == torch.uint8 else images)
        return Embedding(self.img_proj(self.join(features)), tuple(images.shape[2:]))

    def decode(self, embedding: Embedding, points: Any = None, labels: Any = None, boxes: Any = None) -> Any:
        features, size = embedding.features, embedding.size
        said = []
        if points is not None and points.shape[1]:
            points = self.known(points, labels)
            said.append(self.embed_points(prompt_maps.point_maps(points, size, self.stride), labels))
        if boxes is not None:
            maps = prompt_maps.box_maps(torch.where(boxes.isnan(), 0, boxes), size, self.stride)
            said.append(self.embed_boxes(maps, boxes))
        x = self.fuse(features, said or [torch.zeros_like(features).movedim(1, 3)])
        logits = self.mask_head(x)
        return self.end(self.enlarge(logits, size), self.judge(x, logits, features))

    stride = 4
    normal = staticmethod(to_input)

    def join(self, features: list[Tensor]) -> Tensor:
        return torch.cat([self.to_first(part, features[0].shape[2:]) for part in features], 1)

    def to_first(self, part: Tensor, size: Any) -> Tensor:
        return F.interpolate(part, size, mode="bilinear")

    def known(self, points: Tensor, labels: Tensor) -> Tensor:
        return torch.where((labels < 0)[..., None], 0, points)

    def fuse(self, features: Tensor, said: list[Tensor]) -> Tensor:
        return self.decoder(features + self.mix(torch.stack(said).sum(0)).movedim(3, 1))

    def judge(self, x: Tensor, logits: Tensor, features: Tensor) -> Tensor:
        return self.iou_head(x, logits)

    def end(self, logits: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
        return logits, ious


def _embed_points(
    said: Callable[..., Tensor] = lambda place, kind: place + kind,
    relu: _Per = torch.relu,
    masked: Callable[[Tensor, Tensor], Tensor] = lambda vectors, given: vectors * given,
    kinds: _Per = lambda labels: labels.clamp_min(0),
    pool: Callable[[Tensor, Tensor], Tensor] = lambda vectors, given: vectors.amax(1),
) -> Callable[..., Tensor]:
    def embed(self: _Steps, maps: Tensor, labels: Tensor) -> Tensor:
        given = (labels >= 0)[:, :, None, None, None]
        kind = self.point_type_embed(kinds(labels))[:, :, None, None]
        return pool(masked(relu(said(self.point_pos_embed(maps), kind)), given), given)

    return embed


def _embed_boxes(relu: _Per = torch.relu, given: _Per = lambda boxes: ~boxes.isnan().any(1)) -> Callable[..., Tensor]:
    return lambda self, maps, boxes: relu(self.box_embed(maps)) * given(boxes)[:, None, None, None]


def _to(mode: str | None, align: bool | None = None, cut: bool = True, scale: bool = True) -> Any:
    """How logits of stride 4 are enlarged."""

    def enlarge(logits: Tensor, size: _Size) -> Tensor:
        how: dict[str, Any] = {"scale_factor": 4} if scale else {"size": size}
        logits = F.interpolate(logits, **how, mode=mode, align_corners=align) if mode else logits
        return logits[..., : size[0], : size[1]] if cut else logits

    return staticmethod(enlarge)


class _Idle(nn.BatchNorm2d):
    """A batch norm that is not used."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _rates(*rates: int) -> type[nn.Module]:
    network: type[nn.Module] = _Steps
    for place, rate in enumerate(rates, 2):
        network = replaced(network, f"decoder.{place}", partial(_at_rate, rate))
    return network


def _at_rate(rate: int, layer: Any) -> nn.Module:
    channels = layer[1].num_features
    return conv_norm(channels, channels, 3, rate)


_UNHEARD = "padded points (label -1) are counted: multiply by labels >= 0 after the ReLU, so that they are silent."
_ENLARGE = 'F.interpolate(logits, scale_factor=4, mode="bilinear"), then [..., :H, :W].'
_LARGEST = "The maximum over the points, dim 1, hears every point however many there are."
_BYTES = "images of uint8 go through data.to_input first, those of float stay as they are."
_BEFORE = "self.decoder(features + self.mix(prompt).movedim(3, 1))."
_STRIDE = "the maps have another size than the features: positions have stride 4 here, point_maps(points, size, 4)."

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
    wrong=[
        (changed(_Steps, normal=staticmethod(lambda images: images.float())), _BYTES),
        (changed(_Steps, normal=staticmethod(lambda images: images / 255)), _BYTES),
        *(
            (changed(_Steps, embed_points=embed), hint)
            for embed, hint in variants(
                _embed_points,
                masked=[(lambda vectors, given: vectors, _UNHEARD)],
                pool=[
                    (lambda v, given: v.sum(1), f"points are summed. {_LARGEST}"),
                    (lambda v, given: v.mean(1), f"this is the mean of the points. {_LARGEST}"),
                    (
                        lambda v, given: v.sum(1) / given.sum(1).clamp_min(1),
                        f"this is the mean of the points that are given. {_LARGEST}",
                    ),
                    (lambda v, given: v[:, 0], f"only the first point is heard. {_LARGEST}"),
                    (lambda v, given: v[:, -1], f"only the last point is heard. {_LARGEST}"),
                ],
                relu=[(_same, "the ReLU before the maximum is missing: without it silence, 0, may be the largest.")],
                said=[
                    (lambda place, kind: place, "point_type_embed is not used: add it to what the position says."),
                    (
                        lambda place, kind: kind.expand_as(place),
                        "point_pos_embed is not used: add it to what the type says.",
                    ),
                    (lambda place, kind: place * kind, "type and position are multiplied: add them."),
                    (
                        lambda place, kind: place.relu() + kind,
                        "the ReLU comes before the type is added: relu(position + type).",
                    ),
                ],
                kinds=[
                    (
                        lambda labels: 1 - labels.clamp_min(0),
                        "foreground and background are exchanged: row 0 of point_type_embed is background.",
                    )
                ],
            )
        ),
        (
            changed(
                _Steps,
                embed_points=_embed_points(masked=lambda vectors, given: vectors),
                known=lambda self, points, labels: points,
            ),
            _UNHEARD,
        ),
        (
            changed(
                _Steps,
                embed_points=_embed_points(relu=_same, masked=lambda v, given: v.masked_fill(~given, -torch.inf)),
            ),
            "the ReLU before the maximum is missing: relu of what a point says, so that 0 is silence.",
        ),
        *(
            (changed(_Steps, embed_boxes=embed), hint)
            for embed, hint in variants(
                _embed_boxes,
                relu=[(_same, "the ReLU after box_embed is missing: as for the points.")],
                given=[
                    (
                        lambda boxes: torch.ones(len(boxes)),
                        "a box of NaN is none, but still says something, since box_embed has a bias: times 0.",
                    )
                ],
            )
        ),
        *(
            (changed(_Steps, fuse=fuse), hint)
            for fuse, hint in (
                (
                    lambda self, x, said: self.decoder(x) + self.mix(sum(said)).movedim(3, 1),
                    f"the prompt is added after the decoder, which must see it: {_BEFORE}",
                ),
                (lambda self, x, said: self.decoder(x + sum(said).movedim(3, 1)), f"mix is not used: {_BEFORE}"),
                (
                    lambda self, x, said: self.decoder(x + sum(self.mix(part) for part in said).movedim(3, 1)),
                    "points and box go through mix one by one: their sum does, once.",
                ),
                (lambda self, x, said: self.decoder(x), f"the prompt is not used: {_BEFORE}"),
                (
                    lambda self, x, said: self.decoder(x * self.mix(sum(said)).movedim(3, 1)),
                    f"features and prompt are multiplied: {_BEFORE}",
                ),
                (
                    lambda self, x, said: self.decoder(x + self.mix(sum(said)).relu().movedim(3, 1)),
                    f"there is a ReLU after mix: {_BEFORE}",
                ),
                (
                    lambda self, x, said: self.decoder(x + self.mix(torch.stack(said).amax(0)).movedim(3, 1)),
                    "of points and box the maximum is taken: add them.",
                ),
                (
                    lambda self, x, said: self.decoder(x + self.mix(said[0]).movedim(3, 1)),
                    "the box is not used where points are given, too: add both.",
                ),
                (
                    lambda self, x, said: self.decoder(x + self.mix(said[-1]).movedim(3, 1)),
                    "points are not used where a box is given, too: add both.",
                ),
            )
        ),
        *(
            (changed(_Steps, enlarge=enlarge), hint)
            for enlarge, hint in (
                (
                    _to("bilinear", True),
                    f"the logits are enlarged with align_corners=True, which shifts them: {_ENLARGE}",
                ),
                (_to(None), f"the logits are left at stride 4: {_ENLARGE}"),
                (_to("bilinear", cut=False), f"the logits are not cut to the images' size: {_ENLARGE}"),
                (
                    _to("bilinear", scale=False),
                    f"the logits are stretched to a size that is no multiple of 4: {_ENLARGE}",
                ),
                (_to("nearest"), f'the logits are enlarged by "nearest", so edges are steps: {_ENLARGE}'),
                (_to("bicubic"), f'the logits are enlarged by "bicubic": {_ENLARGE}'),
            )
        ),
        *(
            (changed(_Steps, end=end), hint)
            for end, hint in (
                (
                    lambda self, logits, ious: (logits.sigmoid(), ious),
                    "there is a sigmoid on the masks: return logits, prompt_loss applies it.",
                ),
                (
                    lambda self, logits, ious: ((logits > 0).float(), ious),
                    "the masks are thresholded: return logits, prompt_loss needs them.",
                ),
                (
                    lambda self, logits, ious: (ious, logits),
                    "masks and IoUs are returned in the wrong order: (logits, ious).",
                ),
                (
                    lambda self, logits, ious: (logits, ious.sigmoid()),
                    "the IoUs have a second sigmoid: IoUHead applies it.",
                ),
            )
        ),
        *(
            (changed(_Steps, judge=judge), hint)
            for judge, hint in (
                (
                    lambda self, x, logits, features: self.iou_head(features, logits),
                    "iou_head is given the image's features: it takes what the decoder gives.",
                ),
                (
                    lambda self, x, logits, features: self.iou_head(x, logits.sigmoid()),
                    "iou_head is given probabilities: it takes logits, and applies the sigmoid itself.",
                ),
            )
        ),
        *(
            (changed(_Steps, to_first=to_first), hint)
            for to_first, hint in (
                (
                    lambda self, part, size: F.interpolate(part, size),
                    'the features are enlarged by "nearest", the default: mode="bilinear".',
                ),
                (
                    lambda self, part, size: F.interpolate(part, size, mode="bilinear", align_corners=True),
                    "the features are enlarged with align_corners=True, which shifts them: leave it out.",
                ),
            )
        ),
        (
            changed(
                _Steps,
                join=lambda self, features: torch.cat(
                    [self.to_first(part, features[0].shape[2:]) for part in features[::-1]], 1
                ),
            ),
            "the features are joined in reverse order: stride 4 first.",
        ),
        (changed(_Steps, stride=8), _STRIDE),
        (_rates(1, 1, 1), "the decoder's convolutions all have rate 1: rates 1, 2 and 4, to see farther."),
        (_rates(1, 2, 2), "the decoder's last convolution has rate 2: rates 1, 2 and 4, to see farther."),
        (_rates(1, 2, 3), "the decoder's last convolution has rate 3: rates 1, 2 and 4."),
        (_rates(2, 4, 8), "the decoder's rates are 2, 4 and 8: 1, 2 and 4."),
        (_rates(4, 2, 1), "the decoder's rates are in reverse order: 1, 2 and 4."),
        (
            replaced(_Steps, "decoder.1", lambda _: nn.Identity()),
            "the ReLU at the decoder's beginning is missing: batch norm, ReLU, then the convolutions.",
        ),
        (
            replaced(_Steps, "decoder.0", lambda norm: _Idle(len(norm.weight))),
            "the batch norm at the decoder's beginning is not used: batch norm, ReLU, then the convolutions.",
        ),
    ],
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
        self.encoded = 0
        self.asked: list[int] = []  # how many points, padding included

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
        self.asked.append(points.shape[1])
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
    often = f"decode is called {len(model.asked)} times {case.when}: once in each round."
    check.that(len(model.asked) == rounds, often)
    parts = Parts()
    for row, clicks in enumerate(prompts.clicks):
        pairs = all(isinstance(click, (tuple, list)) and len(click) == 2 for click in clicks)
        check.that(
            pairs, f"{case.when} prompts.clicks[{row}] holds something that is no pair (point, label): {_NONE_LEFT}"
        )
        numbers = [torch.tensor([*map(float, point), float(label)]) for point, label in clicks]
        words = f"{case.when} what prompt {row} has for clicks, (x, y, label) each,"
        parts[words] = torch.stack(numbers) if clicks else torch.zeros(0, 3)
    parts |= {f"the loss {case.when}": loss.detach() if isinstance(loss, Tensor) else loss}
    if not (isinstance(loss, Tensor) and loss.ndim == 0):
        return parts
    check.that(loss.requires_grad, "the loss has no gradient: is it computed under no_grad, or detached?")
    weights = dict(model.named_parameters())

    def backward() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(loss, list(weights.values()), allow_unused=True)

    gradients = check.call(backward, when="in backward", errors=IN_PLACE)
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        words = f"the gradient at {name} {case.when} (is a part detached?)"
        parts[words] = torch.zeros_like(weight) if gradient is None else gradient
    return parts


def _step(
    repeat: Callable[[Embedding, int], Embedding] = lambda embedding, count: embedding.repeat(count),
    given: Callable[..., tuple] = lambda *given: given,
    best: Callable[..., Tensor] = lambda logits, ious, true: ious.argmax(1),
    marked: _Per = lambda x: x > 0,
    click: Callable[..., _Click | None] = lambda mask, truth, void: sampling.next_click(mask & ~void, truth),
    add: Callable[[list, Any], Any] = lambda clicks, click: clicks.append(click),
    total: Callable[[list[Tensor]], Tensor] = lambda losses: torch.stack(losses).mean(),
    more: int = 0,
    rounds: Callable[[int], int] = _same,
) -> Callable[..., Tensor]:
    """A step's loss with one thing wrong in it; `more` clicks after the last round."""

    def answer(model: Any, images: Tensor, prompts: Prompts, wanted: int) -> Tensor:
        embedding = repeat(model.encode(images), len(prompts.masks) // len(images))
        target, weight = (torch.from_numpy(part).float() for part in (prompts.masks, ~prompts.void))
        losses = []
        for left in reversed(range(rounds(wanted))):
            logits, ious = model.decode(embedding, *prompts.tensors(images.device))
            losses.append(right_loss(*given(logits, ious, target, weight)))
            if left + more:
                chosen = best(logits.detach(), ious, true_iou(logits, target, weight))
                masks = marked(logits.detach()[torch.arange(len(ious)), chosen]).numpy()
                for row in range(len(masks)):
                    found = click(masks[row], prompts.masks[row], prompts.void[row])
                    if found is not None:
                        add(prompts.clicks[row], found)
        return total(losses)

    return answer


_NONE_LEFT = "next_click gives None where there is no error: then nothing is appended."
_CHOSEN = "the mask of the highest predicted IoU, ious.argmax(1), is what a user would see."
_EACH_ROUND = "loss = loss + prompt_loss(...) / rounds."
_BETWEEN = "prompts.clicks[row].append(click), between one round and the next."

step_loss = Exercise(
    "step_loss",
    right_step,
    lambda: [Case((rounds,), f"for rounds={rounds}") for rounds in (1, 2, 3)],
    run=_run_step,
    errors={
        "NoneType": _NONE_LEFT,
        "the size of the logits, got": "target and weight have the size of the logits, (N, H, W): prompts.masks and "
        "~prompts.void.",
        "Can't call numpy()": "a mask for next_click knows no gradient: (logits > 0) has none, or detach() first.",
        "bitwise_not": "prompts.void is bool, as are the masks for next_click: ~void before .float().",
        "invert": "prompts.void is bool, as are the masks for next_click: ~void before .float().",
    },
    wrong=variants(
        _step,
        repeat=[
            (
                lambda embedding, count: replace(embedding, features=embedding.features.repeat(count, 1, 1, 1)),
                "the images are repeated in turn, 0 1 0 1; the prompts lie image by image, 0 0 1 1: embedding.repeat.",
            ),
            (
                lambda embedding, count: replace(embedding, features=embedding.features.detach()).repeat(count),
                "the embedding is detached: the encoder learns from every round, too.",
            ),
        ],
        given=[
            (
                lambda x, i, t, w: (x, i, t, _one(w)),
                "void is trained: the weight is ~prompts.void, as float, (N, H, W).",
            ),
            (lambda x, i, t, w: (x, i, t, 1 - w), "only void is trained: the weight is ~prompts.void."),
            (lambda x, i, t, w: (x, i, w, t), "target and weight are exchanged: (logits, ious, target, weight)."),
            (lambda x, i, t, w: (x.sigmoid(), i, t, w), "there is a sigmoid before prompt_loss: give it the logits."),
            (lambda x, i, t, w: (x, i.detach(), t, w), "the predicted IoU is detached: it must learn from its error."),
            (
                lambda x, i, t, w: (x.detach(), i, t, w),
                "the logits are detached before the loss: only for the click they may be.",
            ),
        ],
        best=[
            (lambda x, i, true: i.argmin(1), f"the candidate of the lowest predicted IoU is clicked: {_CHOSEN}"),
            (lambda x, i, true: 0 * i.argmax(1), f"candidate 0 is clicked: {_CHOSEN}"),
            (lambda x, i, true: 0 * i.argmax(1) + 2, f"the last candidate is clicked: {_CHOSEN}"),
            (lambda x, i, true: true.argmax(1), f"the best by the truth, which no user knows, is clicked: {_CHOSEN}"),
        ],
        marked=[
            (
                lambda x: x.sigmoid() > 0,
                "a probability is always above 0: the mask is logits > 0, which is sigmoid(logits) > 0.5.",
            ),
            (lambda x: x > 0.5, "the logits are thresholded at 0.5: the mask is logits > 0."),
            (lambda x: x < 0, "the mask is turned inside out: logits > 0."),
        ],
        click=[
            (
                lambda mask, truth, void: sampling.next_click(truth, mask & ~void),
                "truth and prediction are exchanged, so the labels are the wrong ones: next_click(prediction, truth).",
            ),
            (
                lambda mask, truth, void: sampling.next_click(mask, truth),
                "void is clicked: it is no error, so it is taken off the prediction first, mask & ~void.",
            ),
            (
                lambda mask, truth, void: (sampling.centre_click(truth), 1),
                "the middle of the truth is clicked, as if nothing were predicted: next_click(mask & ~void, truth).",
            ),
        ],
        add=[
            (lambda clicks, click: None, f"the clicks are not added to the prompts: {_BETWEEN}"),
            (
                lambda clicks, click: clicks.__setitem__(slice(None), [click]),
                f"the earlier clicks are lost: {_BETWEEN}",
            ),
            (lambda clicks, click: clicks.extend([click, click]), f"each click is added twice: {_BETWEEN}"),
            (lambda clicks, click: clicks.append((click[0], 1)), "the label is always 1: the one of next_click."),
            (
                lambda clicks, click: clicks.append((click[0][::-1], click[1])),
                "x and y of the click are exchanged: next_click gives (x, y) already.",
            ),
        ],
        total=[
            (lambda losses: torch.stack(losses).sum(), f"the losses are summed, not divided by rounds: {_EACH_ROUND}"),
            (lambda losses: losses[-1], f"this is the last round's loss alone: {_EACH_ROUND}"),
            (lambda losses: losses[-1] / len(losses), f"only the last round's loss is left: {_EACH_ROUND}"),
            (lambda losses: losses[0], f"this is the first round's loss alone: {_EACH_ROUND}"),
            (
                lambda losses: torch.stack([loss.detach() for loss in losses[:-1]] + losses[-1:]).mean(),
                "only the last round has a gradient: every round learns, add the losses as they are.",
            ),
            (
                lambda losses: torch.stack(losses[:1] + [loss.detach() for loss in losses[1:]]).mean(),
                "only the first round has a gradient: every round learns, add the losses as they are.",
            ),
        ],
        more=[(1, "there is a click after the last round, which nobody answers: leave it out.")],
    ),
)
