"""Check of lab 06's simulated user, once the model has answered: where to click next."""

from collections.abc import Callable, Iterator

import numpy as np

from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise
from labhelpers.prompting import sampling
from labhelpers.prompting.sampling import depth

_SIZE = (14, 24)
_Click = tuple[np.ndarray, int]
_Region = tuple[slice, slice] | np.ndarray


@exercise("next_click", sampling.next_click)
def next_click(check: Check, answer) -> None:
    """Missed and marked too much, alone, both, side by side; a C, a pixel, the image's edge; no error at all."""
    cases = _cases()
    first, (prediction, truth) = next(iter(cases.items()))
    check.call(answer, prediction, truth, when=f"for {first}")  # here None means that nothing is written yet
    for words, (prediction, truth) in cases.items():
        point, label = _clicked(check, answer, prediction, truth, words)
        missed, excess = depth(truth & ~prediction), depth(prediction & ~truth)
        right = int(missed.max() > excess.max())
        deepest = _deepest(missed if right else excess)
        if label != right or not _among(point, deepest):
            y, x = deepest[0]
            hint = _hint(point, label, prediction, truth)
            found = f"found ({point[0]:g}, {point[1]:g}) with label {label}, expected ({x}, {y}) with label {right}"
            raise Mistake(f"for {words}: {hint} ({found}{' or one as deep' if len(deepest) > 1 else ''}).")
        check.passed += 1
    nothing = np.zeros(_SIZE, dtype=bool)
    for words, mask in (("an object", truth), ("an image without the object", nothing)):
        agree = f"prediction and truth agree on {words}"
        found = check.call(_wrapped(answer), mask, mask, when=f"when {agree}")[0]
        check.that(found is None, f"when {agree} it returns {found!r:.60}, expected None: there is no error.")


def _cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Prediction and truth, by words; no two kinds of error are equally deep."""

    def case(agreed: list[_Region], missed: list[_Region], excess: list[_Region]) -> tuple[np.ndarray, np.ndarray]:
        prediction, truth = np.zeros((2, *_SIZE), dtype=bool)
        for masks, regions in (((prediction, truth), agreed), ((truth,), missed), ((prediction,), excess)):
            for mask in masks:
                for region in regions:
                    mask[region] = True
        return prediction, truth

    def diamond(radius: int) -> np.ndarray:
        y, x = np.ogrid[: _SIZE[0], : _SIZE[1]]
        return abs(x - 6) + abs(y - 6) <= radius

    s = np.s_
    bow = [s[1:12, 2:5], s[1:4, 2:13], s[9:12, 2:13]]
    return {
        "a missed part and a little too much": case([s[2:9, 10:14]], [s[2:9, 3:10]], [s[10:13, 18:21]]),
        "a missed C, nothing marked": case([], bow, []),
        "too much marked, nothing missed": case([s[8:12, 12:21]], [], [s[3:8, 12:21]]),
        "too much marked, and a longer, thinner part missed": case([], [s[11:13, 1:23]], [s[4:9, 15:20]]),
        "too much marked beside a missed part": case([s[10:12, 3:8]], [s[3:10, 3:8]], [s[3:10, 8:15]]),
        "a missed diamond and a square": case([], [diamond(5), s[3:10, 14:21]], []),
        "a missed square and a smaller diamond": case([], [diamond(4), s[3:10, 14:21]], []),
        "a missed part at the image's edge": case([s[6:9, 8:17]], [s[0:6, 8:17]], []),
        "the last pixel of the image missed": case([s[5:13, 12:23]], [s[13:, 23:]], []),
        "the whole image missed": case([], [s[:, :]], []),
    }


def _wrapped(answer: Callable) -> Callable:
    """An answer of None is right where there is no error, so it must not be taken for a forgotten return."""
    return lambda prediction, truth: (answer(prediction, truth),)


def _clicked(check: Check, answer: Callable, prediction: np.ndarray, truth: np.ndarray, words: str) -> _Click:
    """The answer's point and label, once their kind and shape are right."""
    found = check.call(_wrapped(answer), prediction, truth, when=f"for {words}")[0]
    check.that(found is not None, f"for {words} it returns None: pixels missed and pixels marked too much are errors.")
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


def _hint(point: np.ndarray, label: int, prediction: np.ndarray, truth: np.ndarray) -> str:
    """What is wrong with the point or the label."""
    regions = [prediction & ~truth, truth & ~prediction]  # in the order of their labels
    depths = [depth(region) for region in regions]
    right = int(depths[1].max() > depths[0].max())
    deepest = _deepest(depths[right])
    if _among(point, deepest):
        return (
            "the label is wrong: 1 (foreground) where the truth was missed, 0 (background) where too much was marked"
            + (". Is it always 1?" if right == 0 else "")
        )
    if _among(point[::-1], deepest):
        return "x and y are exchanged: np.unravel_index and np.argwhere give (y, x), the point is (x, y)"
    if _among(point - 1, deepest):
        return "the padding is still counted: take it off again before you look for the place"
    other = _deepest(depths[1 - right])
    if regions[1 - right].any() and _among(point, other) and label == 1 - right:
        return "this is the middle of the shallower error: the deeper one, not the one with more pixels, is clicked"
    return next(
        (hint for place, hint in _wrong_points(regions, right, prediction, truth) if _among(point, place)), ""
    ) or _where(point, regions, right)


def _wrong_points(
    regions: list[np.ndarray], right: int, prediction: np.ndarray, truth: np.ndarray
) -> Iterator[tuple[np.ndarray, str]]:
    """Places (n, 2) as (y, x) to which known mistakes lead."""
    from scipy.ndimage import distance_transform_edt

    error, both = regions[right], regions[0] | regions[1]
    border = "the image's edge counts as a border: pad the error with one pixel of False before the distance transform"
    yield _deepest(distance_transform_edt(error)) if not error.all() else np.argwhere(error[:1, :1]), border
    yield _deepest(distance_transform_edt(np.pad(error, 1, mode="edge")))[:1] - 1, border
    centre = "this is the mean of the pixels, which may lie beside the error: take the deepest point"
    for region in (error, both):
        pixels = np.argwhere(region)
        mean, middle = pixels.mean(0), (pixels.min(0) + pixels.max(0)) / 2
        yield np.stack([mean, mean.round(), mean // 1]), centre
        yield np.stack([middle, middle // 1]), "this is the middle of the bounding box: take the deepest point"
    joint = "missed pixels and pixels marked too much are two kinds of error: take the depth of each alone"
    yield _deepest(depth(both)), joint
    yield _deepest(depth(~both)), "this is the point farthest from the error: the distance is that inside of it"
    for mask, name in ((truth, "truth"), (prediction, "prediction")):
        if mask.any():
            yield _deepest(depth(mask)), f"this is the middle of the {name}: take the middle of the error"
    yield np.argwhere(error)[:1], "this is the first pixel of the error: take the deepest point"


def _where(point: np.ndarray, regions: list[np.ndarray], right: int) -> str:
    x, y = point
    height, width = regions[0].shape
    if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
        return f"the point lies outside the image, where x ends at {width - 1} and y at {height - 1}"
    if not regions[right][int(y), int(x)]:
        kind = ("marked too much", "missed")[right]
        return f"the point does not lie on the pixels that were {kind}, the deeper of the two errors"
    return (
        "the point is not the deepest of the error, the farthest (by Euclidean distance) from its border, the image's "
        "edge included"
    )
