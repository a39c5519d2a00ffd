"""Exercises of lab 06: prompts drawn from a mask, said to a network, learned from and answered with the next click."""

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, Run, difference, kind_of, variants
from labhelpers.course.checks.layers import IN_PLACE, make, rounding
from labhelpers.prompting import sampling
from labhelpers.prompting.sampling import depth
from labhelpers.prompting.task import prompt_loss as right_loss

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


# ------------------------------------------------------ modules with weights


def _normalize(xy: Tensor, size: _Size) -> Tensor:
    """Pixels (..., 2) to positions measured from the image's corner, its longer side being 1."""
    return (xy + 0.5) / max(size)


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

    def run(check: Check, answer: Callable, case: Case) -> Tensor:
        sizes, inputs = case.args
        right = reference(*sizes)
        model = make(check, answer, *sizes)
        _copy_weights(check, model, right, specs)
        found, expected = check.call(model, *inputs, when=case.when), right(*inputs)
        if not isinstance(found, Tensor) or not found.is_floating_point():
            return found
        check.that(bool(found.isfinite().all()), f"{case.words} has nan or inf in it: {nan}")
        empty = any(isinstance(x, Tensor) and not x.numel() for x in inputs)  # then no weight has a gradient
        if found.shape == expected.shape and not empty and not difference(found, expected, "", rounding(expected)):
            weights = [weight for name in specs for weight in getattr(model, name).parameters()]
            _check_gradients(check, found, expected, weights, right, f"{case.when} the values are right, but", nan)
            if isinstance(right, _IoUHead):
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
    (lambda xy, size: _normalize(xy, size).flip(-1), "x and y are exchanged: (x, y) goes in, in this order."),
    (lambda xy, size: 2 * _normalize(xy, size) - 1, f"positions run from -1 to 1: {_RULE}."),
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
        said = self.point_type_embed(labels.clamp_min(0)) + self.point_pos_embed(_normalize(points, size))
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
    at: Callable[[Tensor, _Size], Tensor] = _normalize,
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
        kinds, place = self.point_type_embed(labels.clamp_min(0)), _normalize(points, size)
        return (weight * kinds).sum(1) + self.point_pos_embed((weight * place).sum(1))


class _LargestPoint(_PointEmbedding):
    def forward(self, points: Tensor, labels: Tensor, size: _Size) -> Tensor:
        said = self.point_type_embed(labels.clamp_min(0)) + self.point_pos_embed(_normalize(points, size))
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
        return self.box_embed(_normalize(known, size)) * given


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
    at: Callable[[Tensor, _Size], Tensor] = _normalize,
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
        [start(_normalize(corners, size)), (corners[:, 1] - corners[:, 0] + more) / max(size)], 1
    )


class _ZerosInstead(_BoxEmbedding):
    def forward(self, boxes: Tensor, size: _Size) -> Tensor:
        return self.box_embed(_normalize(boxes, size).nan_to_num())


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
                lambda xy, size: _normalize(xy, size).transpose(1, 2),
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


# -------------------------------------------------------------- offset_maps


def _offset_maps(points: Tensor, size: _Size, stride: int = 8) -> Tensor:
    """dx, dy, distance from each point to each position of a map, the image's longer side being 1.

    points float (B, N, 2), size (H, W) -> (B, N, h, w, 3), h = ceil(H / stride), w = ceil(W / stride). The centre of
    position (i, j) lies at x = (j + 0.5) stride, y = (i + 0.5) stride, measured from the image's corner.
    """
    rows, columns = (torch.arange(-(-side // stride), device=points.device) for side in size)
    y, x = torch.meshgrid((rows + 0.5) * stride, (columns + 0.5) * stride, indexing="ij")
    offset = torch.stack([x, y], -1) / max(size) - _normalize(points, size)[:, :, None, None]
    return torch.cat([offset, offset.norm(dim=-1, keepdim=True)], -1)


def _offset_cases() -> Iterator[Case]:
    for words, size, count, stride in (
        ("a wide image", (24, 40), 3, {}),
        ("a tall image whose sides do not divide", (37, 20), 2, {}),
        ("stride=4", (18, 24), 1, {"stride": 4}),
        ("no points", (16, 24), 0, {}),
    ):
        points = torch.rand(2, count, 2) * torch.tensor([size[1] - 1, size[0] - 1])
        yield Case((points, size), f"for {words}", "the map", stride)


def _offsets(
    centre: Callable[[int], float] = lambda stride: 0.5,
    half: float = 0.5,
    divide: Callable[[Tensor, _Size, int], Tensor] = lambda xy, size, stride: xy / max(size),
    only_points: bool = False,
    distance: Callable[[Tensor], Tensor] = lambda d: d.norm(dim=-1),
    count: Callable[[int, int], int] = lambda side, stride: -(-side // stride),
    after: Callable[[Tensor], Tensor] = lambda maps: maps,
) -> Callable:
    """The maps with one thing wrong in them."""

    def answer(points: Tensor, size: _Size, stride: int = 8) -> Tensor:
        rows, columns = (torch.arange(count(side, stride)) for side in size)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        at = (torch.stack([x, y], -1) + centre(stride)) * stride
        at = at if only_points else divide(at, size, stride)
        offset = at - divide(points + half, size, stride)[:, :, None, None]
        return after(torch.cat([offset, distance(offset)[..., None]], -1))

    return answer


_LONGER = "pixels are divided by the longer side of the image."
_SIGN = "the sign is wrong: from the point to the position, position - point."
_CORNER = "this is the corner of the position: its centre is at (j + 0.5) * stride."
_H = (
    "for a tall image whose sides do not divide: h is the height over the stride, rounded up, -(-H // stride), as a "
    "convolution with padding leaves it."
)

offset_maps = Exercise(
    "offset_maps",
    _offset_maps,
    _offset_cases,
    errors={
        "must match the size": "shapes do not fit: points (B, N, 2) become (B, N, 1, 1, 2) to meet the centres (h, w, "
        "2), for example points[:, :, None, None]."
    },
    wrong=variants(
        _offsets,
        after=[
            (lambda m: m * m.new_tensor([-1, -1, 1]), _SIGN),
            (lambda m: m[..., [1, 0, 2]], "dx and dy are exchanged: dx first, along the columns."),
            (lambda m: m[..., [1, 0, 2]] * m.new_tensor([-1, -1, 1]), f"dx and dy are exchanged, and {_SIGN}"),
            (lambda m: m[..., [2, 0, 1]], "the distance comes last: dx, dy, distance."),
            (lambda m: m[..., :2], "the distance is missing: dx, dy, distance."),
            (lambda m: m.transpose(2, 3), "h and w are exchanged: the shape is (B, N, h, w, 3), rows first."),
            (lambda m: m.movedim(-1, 2), "the three numbers come last: the shape is (B, N, h, w, 3)."),
        ],
        centre=[
            (lambda stride: 0.5 - 0.5 / stride, "the centre is at (j + 0.5) * stride; 0.5 is taken off too much."),
            (lambda stride: 1, "this is the position's far corner: its centre is at (j + 0.5) * stride."),
            (lambda stride: 0, _CORNER),
        ],
        half=[(0, "the half pixel of the point is missing: (xy + 0.5) / longer side.")],
        divide=[
            (lambda xy, hw, s: xy, f"it is not normalised: {_LONGER}"),
            (lambda xy, hw, s: xy / s, f"it is in units of the stride: {_LONGER}"),
            (
                lambda xy, hw, s: xy / xy.new_tensor(hw[::-1]),
                "each axis is divided by its own side: by the longer one both, so that circles stay round.",
            ),
            (lambda xy, hw, s: xy / xy.new_tensor(hw), f"height and width are mixed up: {_LONGER}"),
            (lambda xy, hw, s: xy / min(hw), f"it divides by the shorter side: {_LONGER}"),
            (
                lambda xy, hw, s: xy / hw[0],
                f"it divides by the height, for a wide image by the shorter side: {_LONGER}",
            ),
            (lambda xy, hw, s: xy / hw[1], f"it divides by the width, for a tall image by the shorter side: {_LONGER}"),
            (lambda xy, hw, s: xy / (-(-max(hw) // s) * s), f"it divides by the map's longer side: {_LONGER}"),
        ],
        only_points=[(True, "the positions' centres are not divided: they are pixels, too.")],
        distance=[
            (lambda d: d.square().sum(-1), "this is the squared distance: take the root."),
            (lambda d: d.abs().sum(-1), "this is |dx| + |dy|: the distance is the root of dx² + dy²."),
            (lambda d: d.abs().amax(-1), "this is the larger of |dx|, |dy|: the root of dx² + dy²."),
            (lambda d: (-d.square().sum(-1)).exp(), "this is a bump around the point: return the distance."),
        ],
        count=[(lambda side, stride: side // stride, _H)],
    )
    + [
        (_offsets(centre=lambda stride: 0, half=0), f"{_CORNER} And a point's: (xy + 0.5) / longer side."),
        (lambda xy, size, stride=8: _offset_maps(xy, size[::-1], stride), "h and w are exchanged: size is (H, W)."),
        (
            lambda xy, size, stride=8: _offset_maps(xy, size, stride) * xy.new_tensor([1, 1, max(size)]),
            "the distance is in pixels: from dx and dy as divided.",
        ),
        (lambda xy, size, stride=8: _offset_maps(xy, size), "for stride=4: stride is not used: is 8 written by hand?"),
    ],
)


# ------------------------------------------------------------------ IoUHead


class _IoUHead(nn.Module):
    """How good are these masks? Judged by the features inside each of them."""

    def __init__(self, channels: int, masks: int):
        super().__init__()
        self.iou_head = nn.Sequential(
            nn.Linear(channels * (1 + masks), channels), nn.ReLU(), nn.Linear(channels, masks)
        )

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """features float (B, C, h, w), logits (B, M, h, w) -> predicted IoUs (B, M), 0..1."""
        weights = logits.detach().sigmoid()  # the masks say where to look, and do not change to please the judge
        total = weights.sum((2, 3)).clamp_min(1e-3)
        inside = torch.einsum("bmhw,bchw->bmc", weights, features) / total[..., None]
        seen = torch.cat([features.mean((2, 3))[:, None], inside], 1)
        return self.iou_head(seen.flatten(1)).sigmoid()


class _SureHead(_IoUHead):
    """Larger weights, so that a mistake in one of the numbers shows after the sigmoid."""

    def __init__(self, channels: int, masks: int):
        super().__init__(channels, masks)
        with torch.no_grad():
            for weight in self.parameters():
                weight.mul_(3)


def _head_cases() -> Iterator[Case]:
    for words, channels, masks in (("3 masks", 5, 3), ("one mask", 4, 1), ("a mask without a pixel", 4, 1)):
        features, logits = torch.randn(2, channels, 4, 6), 2 * torch.randn(2, masks, 4, 6)
        logits[0, -1] -= 7  # a small mask, whose weights add up to less than 1
        if "without" in words:
            logits[0] = -200.0  # sigmoid gives exactly 0
        yield Case(((channels, masks), (features, logits)), f"for {words}", "the IoU")


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

    class Head(_IoUHead):
        def forward(self, features: Tensor, logits: Tensor) -> Tensor:
            w = weights(logits.detach())
            inside = torch.einsum("bmhw,bchw->bmc", w, features) / divided(w)
            return end(layers(self.iou_head, join(whole(features), inside).flatten(1)))

    return Head


_LEAST = "{}: divide by the sum of the weights or 1e-3, whichever is larger, clamp_min(1e-3)."
_CUT_OFF = "the result is cut off (ReLU or clamp), and has no gradient there: take the sigmoid."
_IN_TURN = "the numbers are in another order: all channels of the image, then all channels of mask 0, and so on."

iou_head = Exercise(
    "IoUHead",
    _IoUHead,
    _head_cases,
    run=_run_module(
        _SureHead,
        {
            "iou_head": "nn.Sequential(nn.Linear(channels * (1 + masks), channels), nn.ReLU(), "
            "nn.Linear(channels, masks))"
        },
        "a mask with hardly a pixel gives 0 / 0: divide by the sum of its weights or 1e-3, whichever is larger.",
    ),
    tolerance=rounding,
    errors={
        "mat1 and mat2": "iou_head takes channels * (1 + masks) numbers: the mean over the image and one inside each "
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


# ------------------------------------------------------------ training_step

_MASKS = 3


def _training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    points: Tensor,
    labels: Tensor,
    boxes: Tensor,
    target: Tensor,
    weight: Tensor,
) -> float:
    """One step of `prompt_loss` with the gradient's norm clipped at 1; target and weight (B, H, W) -> the loss."""
    model.train()
    optimizer.zero_grad()
    logits, predicted_iou = model(images, points, labels, boxes)
    loss = right_loss(logits, predicted_iou, target, weight)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


class _ToySAM(nn.Module):
    """A model with the prompts and results of Mini-SAM; remembers its mode, and what it must be given."""

    def __init__(self):
        super().__init__()
        self.image = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.prompt = nn.Linear(2 * 2 + 2 + 4, 6)
        self.mask_head = nn.Conv2d(6, _MASKS, 1)
        self.iou_head = nn.Linear(6, _MASKS)
        self.modes: list[bool] = []
        self.batch: tuple[Tensor, ...] = ()
        self.steepness = 1.0

    def forward(
        self, images: Tensor, points: Any = None, point_labels: Any = None, boxes: Any = None
    ) -> tuple[Tensor, Tensor]:
        given = (images, points, point_labels, boxes)
        same = all(isinstance(x, Tensor) and torch.equal(x, y) for x, y in zip(given, self.batch, strict=False))
        if not same:
            raise Mistake("the model is given something else: call it as model(images, points, labels, boxes).")
        self.modes.append(self.training)
        said = self.prompt(torch.cat([points.flatten(1) / 8, point_labels, boxes / 8], 1))
        x = (self.norm(self.image(images)) + said[..., None, None]).relu()
        return self.steepness * self.mask_head(x), self.iou_head(x.mean((2, 3))).sigmoid()


def _step_batch() -> tuple[Tensor, ...]:
    """images, points, labels, boxes, target, weight."""
    target, weight = (torch.rand(2, 6, 7) > 0.6).float(), torch.ones(2, 6, 7)
    weight[:, :2] = 0
    points, labels = torch.randint(0, 6, (2, 2, 2)).float(), torch.tensor([[1, 0], [1, -1]])
    return torch.randn(2, 3, 6, 7), points, labels, 6 * torch.rand(2, 4), target, weight


def _run_steps(check: Check, answer: Callable, case: Case) -> Parts:
    """The loss of each of three steps of a toy model and every weight after it; the last one need not be clipped."""
    model = _ToySAM().eval()
    batches = [(_step_batch(), steepness) for steepness in (20.0, 12.0, 0.1)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    steps: list[int] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    parts = Parts()
    for number, (batch, model.steepness) in enumerate(batches):
        step, model.batch = f"the {('first', 'second', 'third')[number]} step", batch[:4]
        before = copy.deepcopy(model.state_dict())
        parts[f"the loss of {step} (is it prompt_loss?)"] = check.call(
            answer, model, optimizer, *batch, when=f"in {step}"
        )
        check.that(bool(model.modes), "the model is not run: logits, iou = model(images, points, labels, boxes).")
        evaluating = "the model runs in evaluation mode, so batch norm does not train: call model.train()."
        check.that(all(model.modes), evaluating)
        once = len(model.modes) == number + 1
        check.that(once, "the model is run more than once in a step: one forward pass is enough.")
        often = f"optimizer.step() is called {len(steps) - number} times in a step, expected once."
        check.that(len(steps) == number + 1, often)
        weights = dict(model.named_parameters())
        moved = any(not torch.equal(weight, before[name]) for name, weight in weights.items())
        missing = "is backward() missing, or does zero_grad() come between it and step()?"
        check.that(moved, f"the weights are the same after {step}: {missing}")
        parts |= {f"after {step} the weight {name}": w.detach().clone() for name, w in weights.items()}
    return parts


def _step(
    given: Callable[..., tuple] = lambda *given: given,
    clip: Callable[[list[nn.Parameter]], Any] = lambda weights: nn.utils.clip_grad_norm_(weights, 1.0),
    zero: bool = True,
    factor: float = 1,
) -> Callable[..., float]:
    """A step with one thing wrong in it."""

    def answer(model: nn.Module, optimizer: torch.optim.Optimizer, *batch: Tensor) -> float:
        model.train()
        if zero:
            optimizer.zero_grad()
        *prompts, target, weight = batch
        loss = factor * right_loss(*given(*model(*prompts), target, weight))
        loss.backward()
        clip(list(model.parameters()))
        optimizer.step()
        return loss.item()

    return answer


def _each(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        nn.utils.clip_grad_norm_(parameter, 1.0)


def _always(parameters: list[nn.Parameter]) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient /= norm


_CLIPPING = "clip_grad_norm_(model.parameters(), 1.0) between backward() and step()."

training_step = Exercise(
    "training_step",
    _training_step,
    lambda: [Case(())],
    run=_run_steps,
    errors={
        "backward through the graph a second time": "the graph of an earlier step is kept: compute the loss anew in "
        "each step.",
        "does not require grad": "the loss has no gradient: is the model run under no_grad, or the loss detached?",
    },
    wrong=variants(
        _step,
        zero=[(False, "the gradient of the step before is still there: call optimizer.zero_grad() before backward().")],
        clip=[
            (_same, f"the gradient is not clipped, or before backward() has made it, or after the step: {_CLIPPING}"),
            (
                lambda weights: nn.utils.clip_grad_value_(weights, 1.0),
                f"each value of the gradient is clipped, which turns it: the norm is, {_CLIPPING}",
            ),
            (_each, f"each weight's gradient is clipped on its own: the norm of all together is, {_CLIPPING}"),
            (_always, f"the gradient is always scaled to norm 1: only a larger one is, {_CLIPPING}"),
            *(
                (partial(nn.utils.clip_grad_norm_, max_norm=norm), f"clipped at {norm}, expected 1.0: {_CLIPPING}")
                for norm in (0.1, 0.5, 2.0, 5.0)
            ),
        ],
        given=[
            (lambda x, i, t, w: (x, i, t, _one(w)), "void is trained: hand the weight on to prompt_loss."),
            (
                lambda x, i, t, w: (x, i, w, t),
                "target and weight are exchanged: (logits, predicted_iou, target, weight).",
            ),
            (
                lambda x, i, t, w: (x.sigmoid(), i, t, w),
                "there is a sigmoid before prompt_loss, which applies its own: give it the logits.",
            ),
            (lambda x, i, t, w: (x.softmax(1), i, t, w), "there is a softmax before prompt_loss: give it the logits."),
            (lambda x, i, t, w: (x, i.detach(), t, w), "the predicted IoU is detached: it must learn from its error."),
        ],
        factor=[(2, "the loss is multiplied by the size of the batch: it is a mean already.")],
    ),
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
