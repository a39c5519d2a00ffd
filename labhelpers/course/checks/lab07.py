"""Checks of lab 07: a grid of clicks, which of many masks to keep, what classes they get, how two networks compare."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, calls, kind_of, run_function, variants

_SIZE = (18, 26)
_VOID = 255


def _boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    """Masks bool (N, H, W) of rectangles (x0, y0, x1, y1), the last row and column excluded."""
    masks = np.zeros((len(corners), *_SIZE), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def _as_double(found: Any) -> Any:
    """An array of half or single precision is as good as one of double."""
    return found.astype(np.float64) if isinstance(found, np.ndarray) and found.dtype.kind == "f" else found


# --------------------------------------------------------------- click_grid


def _click_grid(height: int, width: int, grid: int) -> np.ndarray:
    """float64 (grid * grid, 2): pixels (x, y) of the centres of equal cells, row by row from the top left."""
    return _grid(height, width, grid)


def _grid(
    height: int,
    width: int,
    grid: int,
    share: Callable = lambda k, n: (k + 0.5) / n,
    shift: float = 0.5,
    indexing: Any = "xy",
    order: Callable = lambda x, y: (x, y),
) -> np.ndarray:
    shares = share(np.arange(grid), grid)
    x, y = np.meshgrid(shares * width - shift, shares * height - shift, indexing=indexing)
    return np.stack([axis.ravel() for axis in order(x, y)], axis=1)


def _other_grid(**changes: Any) -> Callable:
    return lambda height, width, grid: _grid(height, width, grid, **changes)


click_grid = Exercise(
    "click_grid",
    _click_grid,
    lambda: calls("click_grid", (8, 8, 1), (30, 40, 2), (128, 96, 5), (7, 9, 3)),
    run=lambda check, answer, case: _as_double(run_function(check, answer, case)),
    tolerance=1e-4,  # what single precision leaves
    wrong=[
        (_other_grid(order=lambda x, y: (y, x)), "these are (y, x): a point is (x, y)."),
        (
            lambda height, width, grid: _grid(width, height, grid),
            "x goes over the height and y over the width: x belongs to the width.",
        ),
        (
            _other_grid(shift=0),
            "all points lie half a pixel too far to the right and below: the first pixel's centre is (0, 0), its edge "
            "-0.5.",
        ),
        (_other_grid(indexing="ij"), "the points go column by column: go row by row, x the faster."),
        (
            _other_grid(share=lambda k, n: k / n),
            "these are the corners of the cells: their centres lie half a cell further.",
        ),
        (
            lambda height, width, grid: _grid(height - 1, width - 1, grid, lambda k, n: k / max(n - 1, 1), shift=0),
            "the grid reaches from the first to the last pixel: its points are the centres of equal cells.",
        ),
        (
            lambda height, width, grid: _grid(height, width, grid, lambda k, n: k / max(n - 1, 1)),
            "the grid reaches from one edge of the image to the other: its points are the centres of equal cells.",
        ),
        (
            lambda height, width, grid: _grid(height - 1, width - 1, grid, shift=0),
            "the cells divide width - 1 pixels: the image is `width` wide, from -0.5 to width - 0.5.",
        ),
        (
            lambda height, width, grid: (
                _grid(height // grid * grid, width // grid * grid, grid, lambda k, n: k / n, shift=0)
                + [width // grid // 2, height // grid // 2]
            ),
            "the cells have whole sides: divide with `/`, and put the point half a cell further, minus 0.5.",
        ),
        (
            lambda height, width, grid: _grid(height, width, grid)[:: grid + 1],
            "these are the points of the diagonal: put each x together with each y, `np.meshgrid`.",
        ),
        (
            lambda height, width, grid: _grid(height, width, grid, lambda k, n: (k + 1) / (n + 1)),
            "these are the lines between grid + 1 cells: there are `grid` cells, and a point in each centre.",
        ),
        (
            lambda height, width, grid: _grid(height, width, grid).reshape(grid, grid, 2),
            "this is (grid, grid, 2): put all points in one list, `.reshape(-1, 2)`.",
        ),
        (
            lambda height, width, grid: _grid(height, width, grid).T,
            "this is (2, grid * grid): a point is a row, so stack along axis 1.",
        ),
        (
            lambda height, width, grid: np.round(_grid(height, width, grid)),
            "these are whole pixels: a point may lie between two, do not round it.",
        ),
        (
            lambda height, width, grid: _grid(1, 1, grid, shift=0),
            "these are shares of the image: multiply by width and height, and subtract 0.5.",
        ),
    ],
)


# --------------------------------------------------------------- iou_matrix


def _iou_matrix(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """masks bool (N, H, W), others bool (M, H, W) -> float64 (N, M): IoU of each with each, 0 for two empty ones."""
    both, first, second = _shared(masks, others)
    return both / np.maximum(first[:, None] + second - both, 1)


def _shared(masks: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of both (N, M), of the masks (N,) and of the others (M,)."""
    pixels = masks.shape[1] * masks.shape[2]
    a, b = masks.reshape(len(masks), pixels).astype(np.float64), others.reshape(len(others), pixels)
    return a @ b.T.astype(np.float64), a.sum(1), b.sum(1)


def _matrix_cases() -> Iterator[Case]:
    """Not as many of the one as of the other, none, empty ones, equal ones, parts."""
    rng = np.random.default_rng(3)
    low = rng.integers(0, 12, (9, 2))
    chance = _boxes(*np.concatenate([low, low + rng.integers(3, 14, (9, 2))], axis=1).tolist())
    whole, part, empty = (1, 1, 20, 16), (4, 4, 8, 9), (0, 0, 0, 0)
    for words, masks, others in (
        ("4 masks and 5 others", chance[:4], chance[4:]),
        ("a mask and itself, its part and an empty one", _boxes(whole), _boxes(whole, part, empty)),
        ("two empty masks", _boxes(empty, part), _boxes(empty)),
        ("no masks and 3 others", _boxes(), chance[:3]),
        ("masks and themselves", chance, chance),
    ):
        yield Case((masks, others), f"for {words}", "the matrix")


def _run_matrix(check: Check, answer: Callable, case: Case) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return _as_double(check.call(answer, *case.args, when=case.when))


def _over(denominator: Callable) -> Callable:
    """What two masks share over another number: `denominator(shared, first, second, pixels)`."""

    def answer(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
        both, first, second = _shared(masks, others)
        return both / np.maximum(denominator(both, first[:, None], second[None], _SIZE[0] * _SIZE[1]), 1)

    return answer


def _counted_as(dtype: Any) -> Callable:
    """The IoUs where the matrix product is that of another type."""

    def answer(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
        a, b = (of.reshape(len(of), _SIZE[0] * _SIZE[1]) for of in (masks, others))
        both = a.astype(dtype) @ b.T.astype(dtype)
        return both / np.maximum(a.sum(1)[:, None] + b.sum(1) - both, 1)

    return answer


def _of_two_empty(value: float) -> Callable:
    def answer(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
        both, first, second = _shared(masks, others)
        union = first[:, None] + second - both
        return np.where(union > 0, both / np.maximum(union, 1), value)

    return answer


iou_matrix = Exercise(
    "iou_matrix",
    _iou_matrix,
    _matrix_cases,
    run=_run_matrix,
    errors={"cannot reshape array of size 0": "for no masks at all `reshape(0, -1)` does not know the -1: say H * W."},
    wrong=[
        (lambda masks, others: _iou_matrix(others, masks), "rows and columns are exchanged: a row belongs to a mask."),
        (_over(lambda both, a, b, pixels: a + b), "it divides by both areas: the union counts what both share once."),
        (
            lambda masks, others: 2 * _over(lambda both, a, b, pixels: a + b)(masks, others),
            "this is Dice, 2 intersection / both areas: IoU divides by the union.",
        ),
        (
            _over(lambda both, a, b, pixels: np.minimum(a, b)),
            "it divides by the smaller area: IoU divides by the union.",
        ),
        (_over(lambda both, a, b, pixels: a + 0 * b), "it divides by the mask's own area: IoU divides by the union."),
        (_over(lambda both, a, b, pixels: b + 0 * a), "it divides by the other's area: IoU divides by the union."),
        (
            _over(lambda both, a, b, pixels: np.full_like(both, pixels)),
            "it divides by all pixels of the image: IoU divides by the union.",
        ),
        (lambda masks, others: _shared(masks, others)[0], "these are the pixels of both: divide by the union."),
        (
            _counted_as(bool),
            "a product of booleans is True or False, no count: `astype(float)` makes numbers of them.",
        ),
        (_counted_as(np.uint8), "counts above 255 start again from 0 in uint8: `astype(float)` holds them."),
        *(
            (_of_two_empty(value), "where both are empty, 0 is divided by 0: that IoU is 0 here.")
            for value in (np.nan, 1.0)
        ),
        (
            lambda masks, others: _iou_matrix(masks, others).max(1, initial=0),
            "this is the best of each mask, one number: return the whole matrix (N, M).",
        ),
    ],
)


# ---------------------------------------------------------- stability_score


def _stability_score(logits: np.ndarray, offset: float = 1.0) -> np.ndarray:
    """logits (N, H, W) -> float64 (N,): IoU of the masks above `offset` and above `-offset`; 0 without a pixel."""
    larger = _above(logits, -offset)  # it holds all of the smaller one
    return _above(logits, offset) / np.maximum(larger, 1)


def _above(logits: np.ndarray, threshold: float) -> np.ndarray:
    return (logits > threshold).sum((1, 2))


def _stability_cases() -> Iterator[Case]:
    """Logits that fall off at different rates from a centre; one is high everywhere, one is low everywhere."""
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    centres, radii, slopes = ((6, 7), (9, 14), (11, 18), (8, 10)), (4.6, 6.2, 5.1, 2.7), (3.1, 0.83, 0.37, 0.57)
    hills = [
        slope * (radius - np.hypot(y - cy, x - cx))
        for (cy, cx), radius, slope in zip(centres, radii, slopes, strict=True)
    ]
    logits = np.stack([*hills, np.full(_SIZE, 7.0)])
    for offset in (1.0, 0.25):
        yield Case((logits, offset), f"for five masks and offset {offset:g}", "the stability")
    yield Case((logits,), "without an offset", "the stability")
    yield Case((np.stack([np.full(_SIZE, -9.0), logits[0]]), 1.0), "of a mask without a pixel", "the stability")


def _run_stability(check: Check, answer: Callable, case: Case) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return _as_double(check.call(answer, *case.args, when=case.when))


def _ratio(upper: Callable[[float], float], lower: Callable[[float], float]) -> Callable:
    """The area above one threshold over that above another; both depend on the offset."""
    return lambda logits, offset=1.0: _above(logits, upper(offset)) / np.maximum(_above(logits, lower(offset)), 1)


def _of_nothing(value: float) -> Callable:
    """The right stability, but for another value where there is no pixel."""

    def answer(logits: np.ndarray, offset: float = 1.0) -> np.ndarray:
        return np.where(_above(logits, -offset) > 0, _stability_score(logits, offset), value)

    return answer


stability_score = Exercise(
    "stability_score",
    _stability_score,
    _stability_cases,
    run=_run_stability,
    wrong=[
        (
            lambda z, d=1.0: np.array(_stability_score(z, d).mean()),
            "this is one number: return one for each mask, an array (N,).",
        ),
        (
            lambda z, d=1.0: float((z > d).sum() / max((z > -d).sum(), 1)),
            "this is one number for all masks together: return one for each, sum over axes 1 and 2.",
        ),
        (
            lambda z, d=1.0: _above(z, d) / np.maximum(_above(z, d) + _above(z, -d), 1),
            "it divides by both areas: the larger mask holds the smaller, so it is the union.",
        ),
        (
            lambda z, d=1.0: _above(z, d) / np.maximum((z < -d).sum((1, 2)), 1),
            "it divides by what lies below -offset: the larger mask is what lies above it.",
        ),
        (
            lambda z, d=1.0: _above(z, d) // np.maximum(_above(z, -d), 1),
            "`//` leaves whole numbers: divide with `/`.",
        ),
        (_ratio(lambda d: -d, lambda d: d), "this is the inverse: the smaller mask (above +offset) is on top."),
        (_ratio(lambda d: d, lambda d: 0), "it compares with the mask above 0: compare with the one above -offset."),
        (_ratio(lambda d: 0, lambda d: -d), "it compares the mask above 0: take the one above +offset."),
        (
            lambda z, d=1.0: _above(z, d).astype(float),
            "this is the area of the smaller mask: divide by that of the larger.",
        ),
        (lambda z, d=1.0: (z > d).mean((1, 2)), "it divides by the area of the image: take the mask above -offset."),
        (lambda z, d=1.0: 1 - _stability_score(z, d), "this is 1 minus the IoU: a stable mask has a stability near 1."),
        (_ratio(lambda d: d / 2, lambda d: -d / 2), "the thresholds are +offset and -offset, not half of that."),
        (
            lambda z, d=1.0: _stability_score(1 / (1 + np.exp(-z)), d),
            "it thresholds probabilities: the offset belongs to the logits, without a sigmoid.",
        ),
        (
            lambda z, d=1.0: (abs(z) > d).mean((1, 2)),
            "this is the share of the image that is sure of itself, background included: compare two masks.",
        ),
        (_ratio(lambda d: d, lambda d: d), "it is 1 for every mask: are both thresholds the same?"),
        (lambda z, d=1.0: _stability_score(z), "it ignores `offset` and takes 1."),
        (lambda z, d=0.5: _stability_score(z, d), "the default of `offset` is 1, not 0.5."),
        *(
            (
                _of_nothing(value),
                "where no logit is above -offset, 0 is divided by 0: the stability of no mask at all is 0.",
            )
            for value in (np.nan, np.inf, 1.0)
        ),
    ],
)


# -------------------------------------------------- non_maximum_suppression


def _non_maximum_suppression(masks: np.ndarray, scores: np.ndarray, threshold: float = 0.7) -> list[int]:
    """masks bool (N, H, W), scores (N,) -> indices of the kept, best first: no two have an IoU above `threshold`."""
    ious = _iou_matrix(masks, masks)
    kept: list[int] = []
    for index in np.argsort(-scores):
        if all(ious[index, other] <= threshold for other in kept):
            kept.append(int(index))
    return kept


def _nms_cases() -> Iterator[Case]:
    """A chain, a part in a whole, an IoU of just the threshold, one box, rectangles by chance; no two scores equal."""
    rng = np.random.default_rng(5)
    low = rng.integers(0, 12, (40, 2))
    chance = _boxes(*np.concatenate([low, low + rng.integers(4, 12, (40, 2))], axis=1).tolist())
    chain = _boxes((0, 2, 10, 8), (3, 2, 13, 8), (6, 2, 16, 8))  # IoUs 7/13, 7/13, 4/16
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    half = (x < 16) & (y < 16) & ((x > y) | (x == 0) | (y == 15))  # both halves touch all sides of the box
    for words, masks, scores, threshold in (
        ("two masks that are nearly the same", _boxes((2, 2, 12, 10), (2, 2, 12, 11)), [0.6, 0.9], 0.7),
        ("a chain: the middle one overlaps both others", chain, [0.9, 0.8, 0.7], 0.5),
        ("a small mask inside a large one", _boxes((1, 1, 20, 16), (4, 4, 8, 8)), [0.7, 0.8], 0.7),
        ("an IoU of exactly the threshold", _boxes((0, 0, 4, 4), (0, 0, 4, 8)), [0.9, 0.8], 0.5),
        ("two halves of one box", np.stack([half, (x < 16) & (y < 16) & ~half]), [0.8, 0.9], 0.5),
    ):
        yield Case((masks, np.array(scores), threshold), f"for {words} (scores {scores})", "what it keeps")
    yield Case((chance, rng.permutation(40) / 40, 0.3), "for 40 rectangles", "what it keeps")
    best_last = np.arange(40) / 40
    yield Case((chance, best_last, 0.6), "for 40 rectangles, best last", "what it keeps")
    yield Case((_boxes(), np.zeros(0), 0.7), "for no masks at all", "what it keeps")
    yield Case((chance, best_last), "without a threshold", "what it keeps")


def _run_nms(check: Check, answer: Callable, case: Case) -> list[int]:
    """The answer as a list of ints."""
    found, words, count = check.call(answer, *case.args, when=case.when), case.when, len(case.args[0])
    indices = isinstance(found, (list, tuple, np.ndarray))
    check.that(indices, f"{words} it returns {kind_of(found)}, expected a list of indices.")
    try:
        array = np.asarray(found)
    except ValueError as error:  # a list of things of several shapes
        raise Mistake(f"{words} it returns a list of other things than whole numbers: indices.") from error
    check.that(array.ndim <= 1, f"{words} it returns shape {array.shape}: return indices, not the masks themselves.")
    check.that(
        array.dtype != bool,
        f"{words} it returns True or False for each of {count} masks: return the indices of those it keeps, best "
        "first.",
    )
    whole = not array.size or array.dtype.kind in "iu"
    check.that(whole, f"{words} it returns values of type {array.dtype}, expected whole numbers: indices.")
    check.that(bool(count) or not array.size, f"{words} it keeps {array.tolist()}, expected [].")
    return array.tolist()


def _nms(
    order: Callable = lambda scores: np.argsort(-scores),
    over: Callable = lambda both, a, b: both / max(a + b - both, 1),
    beaten: Callable = lambda overlap, threshold: overlap > threshold,
    against_all: bool = False,
) -> Callable[..., list[int]]:
    """Suppression with one thing wrong in it."""

    def keep(masks: np.ndarray, scores: np.ndarray, threshold: float = 0.7) -> list[int]:
        kept: list[int] = []
        seen: list[int] = []
        for index in order(scores):
            overlaps = [
                over(int((masks[index] & masks[k]).sum()), int(masks[index].sum()), int(masks[k].sum()))
                for k in (seen if against_all else kept)
            ]
            if not any(beaten(overlap, threshold) for overlap in overlaps):
                kept.append(int(index))
            seen.append(index)
        return kept

    return keep


def _of_boxes(masks: np.ndarray, scores: np.ndarray, threshold: float = 0.7) -> list[int]:
    filled = np.zeros_like(masks)
    for mask, box in zip(masks, filled, strict=True):
        y, x = np.nonzero(mask)
        box[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
    return _non_maximum_suppression(filled, scores, threshold)


def _apart_from_one(masks: np.ndarray, scores: np.ndarray, threshold: float = 0.7) -> list[int]:
    ious, kept = _iou_matrix(masks, masks), []
    for index in np.argsort(-scores):
        if not kept or any(ious[index, other] <= threshold for other in kept):
            kept.append(int(index))
    return kept


def _of_high_score(masks: np.ndarray, scores: np.ndarray, threshold: float = 0.7) -> list[int]:
    high = np.flatnonzero(scores > threshold)
    return high[_non_maximum_suppression(masks[high], scores[high], threshold)].tolist()


non_maximum_suppression = Exercise(
    "non_maximum_suppression",
    _non_maximum_suppression,
    _nms_cases,
    run=_run_nms,
    errors={"cannot reshape array of size 0": "for no masks at all `reshape(0, -1)` does not know the -1: say H * W."},
    wrong=[
        (_nms(beaten=lambda overlap, threshold: False), "nothing is suppressed: leave out what overlaps a kept mask."),
        (
            lambda masks, scores, threshold=0.7: _non_maximum_suppression(masks, scores, threshold)[:1],
            "only the best mask is kept: go on with the others.",
        ),
        (_nms(order=np.argsort), "it begins with the lowest score: begin with the highest."),
        (_nms(order=lambda s: range(len(s))), "it takes the masks as they come: sort them by score, best first."),
        (_nms(against_all=True), "a mask is dropped because of one that was dropped itself: compare with those kept."),
        (
            _nms(over=lambda both, a, b: both / min(a, b)),
            "it divides by the smaller area, so a part is dropped for its whole: IoU divides by the union.",
        ),
        (
            _nms(over=lambda both, a, b: both / (a + b)),
            "it divides by both areas: the union counts what both share once.",
        ),
        (
            lambda masks, scores, threshold=0.7: [],
            "nothing is kept: the IoU of a mask with itself is 1, so compare it only with those that were kept before.",
        ),
        (
            lambda masks, scores, threshold=0.7: np.argsort(np.argsort(-scores))[
                _non_maximum_suppression(masks, scores, threshold)
            ].tolist(),
            "these are places in the sorted list: return the indices that the masks had before.",
        ),
        (_of_boxes, "it compares boxes: two masks of one box may share nothing, take the IoU of the masks."),
        (_apart_from_one, "one kept mask that it hardly overlaps is enough for it to stay: it has to be all, not any."),
        (_of_high_score, "masks of a low score are left out: the threshold is one of the IoU."),
        (_nms(beaten=lambda iou, t: iou >= t), "an IoU of exactly the threshold is not above it: both stay."),
        (_nms(beaten=lambda iou, t: iou < t), "it drops what overlaps little: drop what overlaps."),
        (
            lambda masks, scores, threshold=0.7: sorted(_non_maximum_suppression(masks, scores, threshold)),
            "the right masks in another order: the one with the highest score first.",
        ),
        *(
            (
                lambda masks, scores, threshold=other: _non_maximum_suppression(masks, scores, threshold),
                f"without a threshold it does not use 0.7: is its default {other}?",
            )
            for other in (0.5, 0.6, 0.9)
        ),
    ],
)


# ---------------------------------------------------------------- good_masks


def _good_masks(logits: np.ndarray, ious: np.ndarray, min_stability: float) -> np.ndarray:
    """logits (N, H, W), predicted IoUs (N,) -> bool (M, H, W): the stable masks without doubles, the best first."""
    return _filtered(logits, ious, min_stability)


def _filtered(
    logits: np.ndarray,
    ious: np.ndarray,
    min_stability: float,
    stable: Callable = lambda logits, least: _stability_score(logits) >= least,
    kept: Callable = _non_maximum_suppression,
    mask: Callable = lambda logits: logits > 0,
) -> np.ndarray:
    good = stable(logits, min_stability)
    masks = mask(logits[good])
    return masks[kept(logits[good] > 0, ious[good])]


def _other_filter(**changes: Any) -> Callable:
    return lambda logits, ious, min_stability: _filtered(logits, ious, min_stability, **changes)


def _good_cases() -> Iterator[Case]:
    """Hills in three places, of different slopes; the best is not stable, one is just as stable as asked for."""
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    places = ((5, 6, 4.6, 3.0), (5, 6, 4.9, 0.4), (12, 16, 5.2, 2.0), (12, 17, 5.3, 5.0), (8, 21, 3.4, 1.5))
    logits = np.stack([slope * (radius - np.hypot(y - cy, x - cx)) for cy, cx, radius, slope in places])
    ious = np.array([0.81, 0.97, 0.74, 0.86, 0.9])
    for least in (0.0, 0.5, 0.7, float(np.sort(_stability_score(logits))[1]), 0.999):
        yield Case((logits, ious, least), f"for five candidates and a stability of at least {least:g}", "the masks")
    yield Case((logits[:0], ious[:0], 0.7), "for no candidates", "the masks")


def _stable_of_kept(logits: np.ndarray, ious: np.ndarray, least: float) -> np.ndarray:
    kept = logits[_non_maximum_suppression(logits > 0, ious)]
    return kept[_stability_score(kept) >= least] > 0


def _of(chosen: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
    return [array[chosen] for array in arrays]


good_masks = Exercise(
    "good_masks",
    _good_masks,
    _good_cases,
    errors={"out of bounds": "masks and scores must belong together: `ious[stable]` goes with `masks[stable]`."},
    wrong=[
        *variants(
            _other_filter,
            stable=[
                (
                    lambda logits, least: np.ones(len(logits), dtype=bool),
                    "masks that are not stable stay: leave out those whose stability is below `min_stability`.",
                ),
                (
                    lambda logits, least: _stability_score(logits) < least,
                    "the stable masks are left out: keep those whose stability is at least `min_stability`.",
                ),
            ],
            kept=[
                (lambda masks, ious: np.argsort(-ious), "doubles stay: `non_maximum_suppression` tells which to keep."),
                (
                    lambda masks, ious: sorted(_non_maximum_suppression(masks, ious)),
                    "the right masks in another order: the best first, as the indices come.",
                ),
                (
                    lambda masks, ious: _non_maximum_suppression(masks, -ious),
                    "the worst of two stays: suppress by the predicted IoUs, the highest first.",
                ),
            ],
            mask=[(lambda logits: logits, "these are logits: a mask is what lies above 0.")],
        ),
        (
            _other_filter(stable=lambda logits, least: _stability_score(logits) > least),
            "a mask that is just as stable as asked for is left out: keep those of *at least* `min_stability`.",
        ),
        (
            _other_filter(stable=lambda logits, least: _stability_score(logits, least) >= least),
            "`min_stability` is handed over as the offset of the stability: the offset stays 1.",
        ),
        (
            lambda logits, ious, least: _good_masks(logits, _stability_score(logits), least),
            "doubles are suppressed by their stability: the scores are the predicted IoUs.",
        ),
        (
            lambda logits, ious, least: (logits > 0)[
                _non_maximum_suppression(*_of(_stability_score(logits) >= least, logits > 0, ious))
            ],
            "the indices count the stable masks: take them from `masks[stable]`, not from all masks.",
        ),
        (
            lambda logits, ious, least: _filtered(
                logits, ious, least, kept=lambda masks, scores: _non_maximum_suppression(masks, scores, least)
            ),
            "`min_stability` is handed over as the threshold of the IoU: that one stays 0.7.",
        ),
        (
            lambda logits, ious, least: _good_masks(*_of(ious >= 0.88, logits, ious), least),
            "it filters by predicted IoU as well: here only by stability, and doubles.",
        ),
        (_stable_of_kept, "what is not stable suppresses what is: leave it out first, then the doubles."),
        (
            lambda logits, ious, least: np.array(_non_maximum_suppression(logits > 0, ious)),
            "these are indices: return the masks themselves.",
        ),
    ],
)


# --------------------------------------------------------------- label_masks


def _label_masks(masks: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """masks bool (N, H, W), guide uint8 (H, W), 255 void -> class map uint8 (H, W), small masks on top of large."""
    labels = np.zeros(guide.shape, dtype=np.uint8)
    for mask in sorted(masks, key=np.count_nonzero, reverse=True):
        inside = guide[mask & (guide != _VOID)]
        if len(inside):
            labels[mask] = np.bincount(inside).argmax()
    return labels


def _label_cases() -> Iterator[Case]:
    """No two masks of an image are equally large, no two classes in one equally frequent."""
    guide = np.zeros(_SIZE, dtype=np.uint8)
    guide[2:12, 2:10] = 7
    guide[4:8, 4:8] = 12
    guide[3:13, 13:22] = 15
    rimmed = guide.copy()
    rimmed[2:12, 2:5] = rimmed[3:13, 13:19] = _VOID
    whole, part, other = (2, 1, 11, 12), (3, 4, 8, 8), (12, 3, 22, 12)
    for words, masks, truth in (
        ("two masks apart", [whole, other], guide),
        ("three masks inside each other, the middle one first", [part, (0, 0, 12, 16), (3, 5, 5, 7)], guide),
        ("a small mask after the large one that holds it", [whole, part], guide),
        ("a mask of three classes", [(8, 3, 19, 12)], guide),
        ("a mask of which most is void", [other, (5, 9, 9, 12)], rimmed),
        ("a mask on void alone", [(13, 4, 18, 9), whole], rimmed),
        ("a mask on void alone inside a larger one", [(2, 3, 5, 7), whole], rimmed),
        ("a mask of which most is background", [(8, 0, 14, 16), other], guide),
        ("no masks at all", [], guide),
    ):
        yield Case((_boxes(*masks), truth), f"for {words}", "the class map")


def _painted(
    order: Callable = lambda masks: sorted(masks, key=np.count_nonzero, reverse=True),
    name: Callable = lambda inside: np.bincount(inside).argmax(),
    seen: Callable = lambda inside: inside[inside != _VOID],
    ground: int = 0,
    where: Callable = lambda mask, labels, guide: mask,
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A class map with one thing wrong in it."""

    def answer(masks: np.ndarray, guide: np.ndarray) -> np.ndarray:
        labels = np.full(guide.shape, ground, dtype=np.uint8)
        for mask in order(masks):
            inside = seen(guide[mask])
            if len(inside):
                labels[where(mask, labels, guide)] = int(name(inside))
        return labels

    return answer


def _most_frequent_object(inside: np.ndarray) -> int:
    counts = np.bincount(inside, minlength=2)
    return int(counts[1:].argmax()) + 1 if counts[1:].any() else 0


_ON_TOP = "small masks belong on top of large ones: paint the largest first."
_NAMES = "labels are names; count them."

label_masks = Exercise(
    "label_masks",
    _label_masks,
    _label_cases,
    errors={"argmax of an empty sequence": "a mask on void alone has no label to count: leave it out."},
    wrong=[
        (_painted(order=lambda masks: sorted(masks, key=np.count_nonzero)), f"large masks cover small ones: {_ON_TOP}"),
        (_painted(order=lambda masks: masks), f"masks are painted in the order in which they come: {_ON_TOP}"),
        (_painted(order=lambda masks: masks[::-1]), f"masks are painted from the last to the first: {_ON_TOP}"),
        (_painted(seen=lambda inside: inside), "void is counted as a class: leave 255 out before you count."),
        (
            _painted(seen=lambda inside: np.where(inside == _VOID, 0, inside)),
            "void is counted as background: leave 255 out before you count.",
        ),
        (
            _painted(seen=lambda inside: inside[inside != _VOID] if (inside != _VOID).any() else np.zeros(1, np.uint8)),
            "a mask on void alone is painted as background: leave it out, what is below it stays.",
        ),
        (
            _painted(where=lambda mask, labels, guide: mask & (labels == 0)),
            f"what is painted already stays: {_ON_TOP[:-1]}, and the others over it.",
        ),
        (
            _painted(where=lambda mask, labels, guide: mask & (guide != _VOID)),
            "void is cut out of the masks: the whole mask gets its class, void has only no vote.",
        ),
        (_painted(name=_most_frequent_object), "background is not counted: a mask mostly on background is background."),
        (_painted(name=np.max), f"this is the largest label: {_NAMES}"),
        (_painted(name=lambda inside: round(inside.mean())), f"this is the mean of labels: {_NAMES}"),
        (_painted(name=np.median), f"this is the median label: {_NAMES}"),
        (lambda m, guide: np.where(m.any(0), guide, 0), "it copies the guide into the masks: a mask gets one class."),
        (
            lambda masks, guide: np.where(masks.any(0), _label_masks(masks, guide), guide),
            "pixels without a mask have the guide's class: they are background, 0.",
        ),
        (_painted(ground=_VOID), "pixels without a mask are void: they are background, 0, and count."),
    ],
)


# -------------------------------------------------------- classes_from_boxes


class _Ellipses:
    """A predictor whose answer to a box is the ellipse in it; `set_image` must have been called before."""

    def __init__(self) -> None:
        self.image: np.ndarray | None = None

    def set_image(self, image: np.ndarray) -> None:
        self.image = image

    def predict(self, points: Any = None, labels: Any = None, box: Any = None) -> tuple[np.ndarray, float]:
        if self.image is None:
            raise RuntimeError("no image yet: call set_image first")
        if box is None or np.shape(box) != (4,):
            raise ValueError(f"box must be x0, y0, x1, y1, four numbers, got {box!r}")
        x0, y0, x1, y1 = (float(value) for value in box)
        y, x = np.mgrid[: self.image.shape[0], : self.image.shape[1]]
        across, down = (x1 - x0) / 2 + 0.6, (y1 - y0) / 2 + 0.6
        mask = ((x - (x0 + x1) / 2) / across) ** 2 + ((y - (y0 + y1) / 2) / down) ** 2 <= 1
        return mask, 0.9


def _from_boxes(
    box: Callable = lambda x, y: (x.min(), y.min(), x.max(), y.max()),
    left_out: tuple[int, ...] = (0, _VOID),
    order: Callable = lambda masks, objects: np.argsort([-mask.sum() for mask in masks], kind="stable"),
    voters: Callable = lambda target, inside, mask, number: target[inside],
    name: Callable = lambda labels: np.bincount(labels[labels != _VOID], minlength=1).argmax(),
    where: Callable = lambda mask, target: mask,
    copied: bool = False,
) -> Callable:
    """A class map from boxes, with at most one thing wrong in it."""

    def answer(predictor: Any, image: np.ndarray, target: np.ndarray, instances: np.ndarray) -> np.ndarray:
        predictor.set_image(image)
        numbers = [number for number in np.unique(instances) if number not in left_out]
        masks, objects, classes = [], [], []
        for number in numbers:
            inside = instances == number
            y, x = np.nonzero(inside)
            mask = predictor.predict(box=np.array(box(x, y)))[0]
            masks.append(inside if copied else mask)
            objects.append(inside)
            classes.append(int(name(voters(target, inside, mask, number))))
        class_map = np.zeros(target.shape, dtype=np.uint8)
        for index in order(masks, objects):
            class_map[where(masks[index], target)] = classes[index]
        return class_map

    return answer


def _classes_from_boxes(predictor: Any, image: np.ndarray, target: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Class map uint8 (H, W): the answers to the boxes of the true objects, each with its object's class."""
    return _from_boxes()(predictor, image, target, instances)


def _box_cases() -> Iterator[Case]:
    """No two objects of an image have boxes of one size; rims of void belong to no object."""
    target, instances = np.zeros(_SIZE, dtype=np.uint8), np.zeros(_SIZE, dtype=np.uint8)
    target[2:14, 2:20], instances[2:14, 2:20] = 7, 2
    target[5:9, 6:11], instances[5:9, 6:11] = 12, 1
    target[11:17, 15:24], instances[11:17, 15:24] = 7, 3
    yield Case((_Ellipses, target, instances), "for three objects, two of one class", "the class map")
    rimmed, objects = target.copy(), instances.copy()
    rimmed[11:16, 15:24] = rimmed[5:9, 9:11] = _VOID
    objects[5:9, 9:11] = _VOID
    yield Case((_Ellipses, rimmed, objects), "for objects with rims of void", "the class map")
    nothing = np.zeros(_SIZE, dtype=np.uint8)
    yield Case((_Ellipses, nothing, nothing), "for an image without objects", "the class map")
    ring, hole = np.full((11, 17), 9, dtype=np.uint8), np.ones((11, 17), dtype=np.uint8)
    ring[4:8, 6:12] = hole[4:8, 6:12] = 0
    yield Case((_Ellipses, ring, hole), "for an object with a hole", "the class map")
    thin, corner = (np.zeros(_SIZE, dtype=np.uint8) for _ in range(2))
    thin[15:17, 2:23] = thin[2:17, 2:4] = 5
    corner[thin == 5] = 1
    thin[4:13, 8:18], corner[4:13, 8:18] = 9, 2  # of more pixels than the other, in a smaller box
    yield Case((_Ellipses, thin, corner), "for a thin object around a compact one", "the class map")


def _run_boxes(check: Check, answer: Callable, case: Case) -> Any:
    predictor, target, instances = case.args
    image = np.zeros((*target.shape, 3), dtype=np.uint8)
    return check.call(answer, predictor(), image, target, instances, when=case.when)


classes_from_boxes = Exercise(
    "classes_from_boxes",
    _classes_from_boxes,
    _box_cases,
    run=_run_boxes,
    errors={
        "no image yet": "the predictor has no image: call `predictor.set_image(image)` once, before the first box.",
        "four numbers": "a box is x0, y0, x1, y1, four numbers, and `predict(box=...)` takes one box.",
    },
    wrong=[
        *variants(
            _from_boxes,
            box=[
                (
                    lambda x, y: (y.min(), x.min(), y.max(), x.max()),
                    "the boxes have x and y exchanged: `np.nonzero` gives rows (y) first.",
                ),
                (
                    lambda x, y: (x.min(), y.min(), x.max() + 1, y.max() + 1),
                    "the boxes are a pixel too large: x1 and y1 are the last pixels of the object, no `+ 1`.",
                ),
                (
                    lambda x, y: (x.min(), y.min(), np.ptp(x), np.ptp(y)),
                    "these boxes are (x, y, width, height): a box is x0, y0, x1, y1.",
                ),
            ],
            left_out=[
                ((0,), "void is taken for an object: in `instances` 255 is void, leave it out."),
                ((_VOID,), "the background is taken for an object: in `instances` 0 is none, leave it out."),
            ],
            order=[
                (
                    lambda masks, objects: np.argsort([mask.sum() for mask in masks], kind="stable"),
                    "large masks cover small ones: paint the largest first, and the others over it.",
                ),
                (
                    lambda masks, objects: range(len(masks)),
                    "the answers are painted in the order of their numbers: paint the largest first.",
                ),
                (
                    lambda masks, objects: np.argsort([-inside.sum() for inside in objects], kind="stable"),
                    "the objects are sorted, not the answers: paint the largest *answer* first.",
                ),
            ],
            name=[
                (
                    lambda labels: np.bincount(labels).argmax(),
                    "void is counted as a class: leave 255 out before you count.",
                ),
            ],
            voters=[
                (
                    lambda target, inside, mask, number: target[mask],
                    "the labels are counted inside the answer: the class is that of the object, `target[inside]`.",
                ),
                (
                    lambda target, inside, mask, number: np.array([number]),
                    "it paints the numbers of the objects: their classes stand in `target`.",
                ),
            ],
            where=[
                (
                    lambda mask, target: mask & (target != _VOID),
                    "void is cut out of the answers: paint the whole mask.",
                ),
            ],
            copied=[(True, "it copies the true object into the map: what counts is the mask that is answered.")],
        ),
        (
            lambda predictor, image, target, instances: _classes_from_boxes(predictor, image, target, instances).astype(
                np.int64
            ),
            "the class map is of another integer type: make it uint8, as targets are.",
        ),
    ],
)


# ---------------------------------------------------------------- click_ious


class _Discs:
    """A predictor that marks a disc around each foreground click, a larger one if it is given an earlier mask."""

    def __init__(self) -> None:
        self.image: np.ndarray | None = None

    def set_image(self, image: np.ndarray) -> None:
        self.image = image

    def predict(
        self, points: Any = None, labels: Any = None, box: Any = None, mask_input: Any = None
    ) -> tuple[np.ndarray, float]:
        if self.image is None:
            raise RuntimeError("no image yet: call set_image first")
        xy, kinds = np.asarray(points, dtype=np.float64), np.asarray(labels)
        if xy.ndim != 2 or xy.shape[1:] != (2,) or kinds.shape != (len(xy),):
            raise ValueError(f"points must be (N, 2) and labels (N,), got {xy.shape} and {kinds.shape}")
        y, x = np.mgrid[: self.image.shape[0], : self.image.shape[1]]
        mask = np.zeros(y.shape, dtype=bool)
        for (px, py), kind in zip(xy, kinds, strict=True):
            mask[np.hypot(x - px, y - py) <= (2.2 if mask_input is None else 3.1)] = kind == 1
        return mask, 0.123


def _clicked(
    first: Callable = np.zeros_like,
    given: Callable = lambda clicks: clicks,
    earlier: Callable = lambda mask, count: mask if count else None,
    kept: Callable = lambda before, after, predicted: after,
    stop: bool = False,
    void: tuple[bool, bool] = (True, True),
    noted: Callable = np.array,
) -> Callable:
    """The IoUs after each click, with at most one thing wrong in them."""
    from labhelpers.prompting import mask_iou, next_click

    def answer(predictor: Any, image: np.ndarray, truth: np.ndarray, ignore: np.ndarray, most: int) -> np.ndarray:
        predictor.set_image(image)
        of_click, of_score = (ignore if heeded else np.zeros_like(ignore) for heeded in void)
        mask, clicks, ious = first(truth), [], []
        for count in range(most):
            click = next_click(mask, truth, of_click)
            if click is None and stop:
                break
            before, predicted = mask_iou(mask, truth, of_score), 1.0
            if click is not None:
                clicks.append(click)
                points, labels = zip(*given(clicks), strict=True)
                mask, predicted = predictor.predict(
                    points=np.stack(points), labels=np.array(labels), mask_input=earlier(mask, count)
                )
            ious.append(kept(before, mask_iou(mask, truth, of_score), predicted))
        return noted(ious)

    return answer


def _click_ious(predictor: Any, image: np.ndarray, truth: np.ndarray, ignore: np.ndarray, clicks: int) -> np.ndarray:
    """IoUs float64 (clicks,) after 1, 2, ... clicks into the middle of the largest error; void is none."""
    return _clicked()(predictor, image, truth, ignore, clicks)


def _user_cases() -> Iterator[Case]:
    """Two objects that take several clicks of both kinds, one that the first click gets right, one beside void."""
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    disc = np.hypot(x - 9, y - 8) <= 2.2
    for words, truth in (
        ("a long object", _boxes((3, 4, 22, 9))[0]),
        ("an object with a corner", _boxes((2, 2, 9, 16))[0] | _boxes((2, 11, 20, 16))[0]),
        ("an object that one click gets right", disc),
        ("an object beside void", _boxes((3, 4, 10, 9))[0]),
    ):
        ignore = np.zeros_like(truth)
        ignore[4:9, 10:22] = "void" in words
        yield Case((_Discs, truth, ignore, 6), f"for {words} and 6 clicks", "the IoUs")


def _run_user(check: Check, answer: Callable, case: Case) -> Any:
    predictor, truth, ignore, clicks = case.args
    image = np.zeros((*_SIZE, 3), dtype=np.uint8)
    return _as_double(check.call(answer, predictor(), image, truth, ignore, clicks, when=case.when))


_ALL = "give all clicks so far"

click_ious = Exercise(
    "click_ious",
    _click_ious,
    _user_cases,
    run=_run_user,
    errors={
        "no image yet": "the predictor has no image: call `predictor.set_image(image)` once, before the first click.",
        "points must be (N, 2)": "points are (N, 2) and labels (N,), also for one click: stack all clicks so far.",
        "cannot unpack non-iterable NoneType": "`next_click` returns None when nothing is wrong: then do not click.",
        "'NoneType' object is not": "`next_click` returns None when nothing is wrong: then do not click.",
    },
    wrong=variants(
        _clicked,
        earlier=[
            (lambda mask, count: None, "the earlier mask is not handed over: give it as `mask_input`."),
            (
                lambda mask, count: mask,
                "the empty mask is handed over with the first click: there is no answer yet, `mask_input=None`.",
            ),
        ],
        given=[
            (lambda clicks: clicks[-1:], f"only the newest click is given: {_ALL}."),
            (
                lambda clicks: [(point[::-1], label) for point, label in clicks],
                "the points have x and y exchanged: `next_click` gives (x, y), as `predict` takes it.",
            ),
            (
                lambda clicks: [(point, 1) for point, _ in clicks],
                "every click says foreground: give the labels that `next_click` gives with the points.",
            ),
        ],
        noted=[
            (np.maximum.accumulate, "these are the best IoUs so far: a click may make it worse, note each as it is.")
        ],
        kept=[
            (lambda before, after, predicted: before, "these are the IoUs before each click: measure after it."),
            (lambda before, after, predicted: predicted, "these are predicted IoUs: compare the mask with the truth."),
        ],
        stop=[(True, "it ends where nothing is wrong: one IoU for each of `clicks`, the last one repeated.")],
        first=[(np.ones_like, "it begins with a full mask: nothing is marked before the first click.")],
        void=[
            ((True, False), "void counts in the IoU: give `ignore` to `mask_iou` as well."),
            ((False, True), "it clicks on void: give `ignore` to `next_click` as well."),
            ((False, False), "void counts as an error: give `ignore` to `next_click` and to `mask_iou`."),
        ],
    ),
)


# ---------------------------------------------------------- number_of_clicks


def _number_of_clicks(ious: np.ndarray, threshold: float) -> tuple[float, int]:
    """ious (N, C) after 1 .. C clicks -> mean clicks to the threshold, a failure counting C, and the failures."""
    reached = ious >= threshold
    clicks = np.where(reached.any(1), reached.argmax(1) + 1, ious.shape[1])
    return float(clicks.mean()), int((~reached.any(1)).sum())


def _click_cases() -> Iterator[Case]:
    """The first click, the last, never, an IoU of just the threshold, one that falls again; all and none get there."""
    ious = np.array(
        [
            [0.50, 0.60, 0.70, 0.86, 0.91, 0.93],
            [0.92, 0.94, 0.95, 0.97, 0.97, 0.98],
            [0.30, 0.40, 0.88, 0.70, 0.80, 0.84],
            [0.20, 0.50, 0.85, 0.90, 0.93, 0.94],
            [0.10, 0.20, 0.30, 0.30, 0.40, 0.35],
            [0.05, 0.30, 0.60, 0.70, 0.80, 0.92],
            [0.40, 0.50, 0.60, 0.65, 0.70, 0.75],
        ]
    )
    for threshold in (0.85, 0.9):
        for rows in (slice(None), slice(0, 2), slice(4, 5)):
            words = f"for {len(ious[rows])} objects, 6 clicks and threshold {threshold:g}"
            yield Case((ious[rows], threshold), words)


def _run_clicks(check: Check, answer: Callable, case: Case) -> Parts:
    found = check.call(answer, *case.args, when=case.when)
    what = f"a tuple of {len(found)}" if isinstance(found, tuple) else kind_of(found)
    pair = isinstance(found, tuple) and len(found) == 2
    check.that(pair, f"{case.when} it returns {what}, expected the pair (clicks, failures).")
    return Parts(
        {f"the number of {name} {case.when}": n for name, n in zip(("clicks", "failures"), found, strict=True)}
    )


def _counted(
    failed: Callable[[int], int] = lambda allowed: allowed, first: int = 1, reached: Callable = np.greater_equal
) -> Callable[[np.ndarray, float], tuple[float, int]]:
    """The mean number of clicks with one thing wrong in it; `failed` is what an object counts that fails."""

    def answer(ious: np.ndarray, threshold: float) -> tuple[float, int]:
        there = reached(ious, threshold)
        clicks = np.where(there.any(1), there.argmax(1) + first, failed(ious.shape[1]))
        return float(clicks.mean()), int((~there.any(1)).sum())

    return answer


def _with_failures(clicks: Callable[[np.ndarray, float], float]) -> Callable[[np.ndarray, float], tuple[float, int]]:
    """The right number of failures beside another number of clicks."""
    return lambda ious, threshold: (clicks(ious, threshold), _number_of_clicks(ious, threshold)[1])


def _of_those_that_get_there(ious: np.ndarray, threshold: float) -> float:
    there = ious[(ious >= threshold).any(1)]
    return _number_of_clicks(there, threshold)[0] if len(there) else float("nan")


_FROM_0 = "clicks are counted from 0: column 0 is the IoU after one click."

number_of_clicks = Exercise(
    "number_of_clicks",
    _number_of_clicks,
    _click_cases,
    run=_run_clicks,
    tolerance=1e-8,
    wrong=[
        (_counted(first=0), _FROM_0),
        (_counted(first=0, failed=lambda allowed: allowed - 1), _FROM_0),
        (
            _with_failures(_of_those_that_get_there),
            "objects that never get there are left out: each counts as many clicks as were allowed.",
        ),
        (
            _counted(failed=lambda allowed: 1),
            "an object that never gets there counts 1: argmax of a row without True is 0. It counts all clicks "
            "allowed.",
        ),
        (
            _counted(failed=lambda allowed: 0),
            "an object that never gets there counts 0: it counts as many as were allowed.",
        ),
        (
            _counted(failed=lambda allowed: allowed + 1),
            "a failure counts one click more than were allowed: it counts as many as were allowed.",
        ),
        (_counted(reached=np.greater), "an IoU of exactly the threshold counts as reached (>=)."),
        (
            _with_failures(lambda ious, t: float(np.minimum((ious < t).sum(1) + 1, ious.shape[1]).mean())),
            "it counts the clicks below the threshold; an IoU may fall again. Take the first click that gets there.",
        ),
        (
            _with_failures(lambda ious, t: _number_of_clicks(ious.mean(0, keepdims=True), t)[0]),
            "this is when the mean curve gets there: count for each object, then take the mean.",
        ),
        (
            _with_failures(lambda ious, t: float(np.median([_number_of_clicks(row[None], t)[0] for row in ious]))),
            "this is the median: take the mean.",
        ),
        (
            lambda ious, threshold: (
                _number_of_clicks(ious, threshold)[0],
                sum(_number_of_clicks(row[None], threshold)[0] == ious.shape[1] for row in ious),
            ),
            "an object that gets there with the last click is counted as a failure: it is none.",
        ),
        (
            lambda ious, threshold: (
                _number_of_clicks(ious, threshold)[0],
                len(ious) - _number_of_clicks(ious, threshold)[1],
            ),
            "these are the objects that get there: return how many do not.",
        ),
    ],
)


# --------------------------------------------------------- paired_difference


def _paired_difference(a: np.ndarray, b: np.ndarray, draws: np.ndarray) -> tuple[float, float, float]:
    """Scores (N,) of the same objects, draws int (R, N) -> mean of a - b, 2.5 and 97.5 % points of its resamples."""
    return _paired(a, b, draws)


def _paired(
    a: np.ndarray,
    b: np.ndarray,
    draws: np.ndarray,
    gain: Callable = lambda a, b: a - b,
    middle: Callable = np.mean,
    bounds: tuple[float, float] = (2.5, 97.5),
    resampled: Callable = lambda gains, draws: gains[draws].mean(1),
) -> tuple[float, float, float]:
    gains = gain(a, b)
    low, high = np.percentile(resampled(gains, draws), bounds)
    return float(middle(gains)), float(low), float(high)


def _otherwise(**changes: Any) -> Callable:
    return lambda a, b, draws: _paired(a, b, draws, **changes)


def _as_if_normal(middle: Callable) -> Callable:
    def answer(a: np.ndarray, b: np.ndarray, draws: np.ndarray) -> tuple[float, float, float]:
        means = (a - b)[draws].mean(1)
        centre = middle(a - b, means)
        return float((a - b).mean()), float(centre - 1.96 * means.std()), float(centre + 1.96 * means.std())

    return answer


def _difference_cases() -> Iterator[Case]:
    """Scores that rise and fall together, so that pairs matter, and skewed gains, some of them below 0."""
    rng = np.random.default_rng(11)
    for objects, times in ((12, 200), (40, 150)):
        easy = rng.random(objects)
        a, b = np.clip(easy + rng.exponential(0.1, objects) - 0.05, 0, 1), easy
        draws = rng.integers(0, objects, (times, objects))
        yield Case((a, b, draws), f"for {objects} objects and {times} resamples")


def _run_difference(check: Check, answer: Callable, case: Case) -> Parts:
    found = check.call(answer, *case.args, when=case.when)
    three = isinstance(found, tuple) and len(found) == 3
    what = f"a tuple of {len(found)}" if isinstance(found, tuple) else kind_of(found)
    check.that(three, f"{case.when} it returns {what}, expected (difference, low, high).")
    names = ("the difference", "the lower end", "the upper end")
    return Parts(
        {f"{name} {case.when}": float(value) if isinstance(value, np.floating) else value
         for name, value in zip(names, found, strict=True)}
    )  # fmt: skip


paired_difference = Exercise(
    "paired_difference",
    _paired_difference,
    _difference_cases,
    run=_run_difference,
    tolerance=1e-8,
    wrong=[
        (_otherwise(gain=lambda a, b: b - a), "this is b - a: the difference is a - b, above 0 where a is better."),
        (
            _otherwise(gain=lambda a, b: np.abs(a - b)),
            "this is the size of the differences: keep their signs, b is better on some objects.",
        ),
        (
            _otherwise(resampled=lambda gains, draws: gains[draws].mean(keepdims=True)),
            "both ends are the mean of all resamples together: take the mean of each, axis 1.",
        ),
        (
            lambda a, b, draws: (
                float((a - b).mean()),
                *(float(np.percentile(a[draws].mean(1), p) - np.percentile(b[draws].mean(1), p)) for p in (2.5, 97.5)),
            ),
            "it subtracts the ends of two intervals: take the differences first, then the interval of their means.",
        ),
        *(
            (
                _as_if_normal(middle),
                "this is the mean plus and minus 1.96 standard deviations: take the percentiles of the resamples.",
            )
            for middle in (lambda gains, means: means.mean(), lambda gains, means: gains.mean())
        ),
        (
            lambda a, b, draws: (
                float((a - b).mean()),
                *map(float, np.percentile(a[draws].mean(1) - b[draws[::-1]].mean(1), (2.5, 97.5))),
            ),
            "a and b are resampled apart: a pair stays together, resample the differences.",
        ),
        (_otherwise(bounds=(5, 95)), "the interval holds 90 %: take the 2.5 and 97.5 % points."),
        (_otherwise(bounds=(0.025, 0.975)), "`np.percentile` wants percent: 2.5 and 97.5, not 0.025 and 0.975."),
        (_otherwise(bounds=(97.5, 2.5)), "the ends are exchanged: the lower one comes first."),
        (_otherwise(bounds=(0, 100)), "these are the least and the greatest: take the 2.5 and 97.5 % points."),
        (
            _otherwise(resampled=lambda gains, draws: gains),
            "this is the spread of single objects: take the mean of each resample first.",
        ),
        (
            _otherwise(resampled=lambda gains, draws: gains[draws].mean(0)),
            "the mean is over the resamples: take it over the objects of each, axis 1.",
        ),
        (
            _otherwise(middle=np.median, resampled=lambda gains, draws: np.median(gains[draws], axis=1)),
            "this is the median: take the mean, of the objects and of each resample.",
        ),
        (
            lambda a, b, draws: (float((a - b)[draws].mean()), *_paired(a, b, draws)[1:]),
            "the difference is the mean of the resamples: take that of the objects themselves.",
        ),
        (
            lambda a, b, draws: (
                (mean := float((a - b).mean())),
                mean - 1.96 * float((a - b).std() / len(a) ** 0.5),
                mean + 1.96 * float((a - b).std() / len(a) ** 0.5),
            ),
            "this is the mean plus and minus 1.96 standard errors: take the percentiles of the resamples.",
        ),
    ],
)


# --------------------------------------------------------------- median_time


class _Watch:
    """A clock in seconds that only goes on while something runs, so many milliseconds at each call."""

    def __init__(self, durations: tuple[float, ...]):
        self.left, self.now, self.calls, self.looks = list(durations), 3.0, 0, 0

    def clock(self) -> float:
        self.looks += 1
        return self.now

    def run(self) -> None:
        self.calls += 1
        self.now += (self.left.pop(0) if self.left else 1000.0) / 1000


def _median_time(action: Callable, runs: int, clock: Callable) -> float:
    """The median duration of `runs` calls in milliseconds, after one that is not counted."""
    return _timed()(action, runs, clock)


def _timed(middle: Callable = np.median, unit: float = 1000, warm: int = 1) -> Callable:
    def answer(action: Callable, runs: int, clock: Callable) -> float:
        for _ in range(warm):
            action()
        times = []
        for _ in range(runs):
            start = clock()
            action()
            times.append(unit * (clock() - start))
        return float(middle(times))

    return answer


def _run_timing(check: Check, answer: Callable, case: Case) -> Any:
    durations, runs = case.args
    watch = _Watch(durations)
    found = check.call(answer, watch.run, runs, watch.clock, when=case.when)
    check.that(watch.looks > 0, f"{case.when} it never looks at the clock that it was given: call `clock()`.")
    check.that(
        watch.calls in (runs, runs + 1),
        f"{case.when} it calls `action` {watch.calls} times, expected {runs + 1}: once to warm up, then {runs} times.",
    )
    return float(found) if isinstance(found, np.floating) else found


median_time = Exercise(
    "median_time",
    _median_time,
    lambda: [
        Case(((90.0, 12.0, 14.0, 70.0), 3), "for 3 runs that take 12, 14 and 70 ms, and 90 ms at first", "the time"),
        Case(((5.0, 2.0, 4.0, 8.0, 30.0), 4), "for 4 runs that take 2, 4, 8 and 30 ms, and 5 ms at first", "the time"),
    ],
    run=_run_timing,
    tolerance=1e-6,
    wrong=variants(
        _timed,
        middle=[
            (
                lambda times: sorted(times)[len(times) // 2],
                "of an even number of runs the median is the mean of the two in the middle: `statistics.median`.",
            ),
            (np.mean, "this is the mean: take the median, which one slow run does not move."),
            (np.min, "this is the fastest run: take the median."),
            (np.max, "this is the slowest run: take the median."),
            (np.sum, "this is the time of all runs together: take the median of single ones."),
        ],
        unit=[(1, "these are seconds: return milliseconds, 1000 times as many.")],
        warm=[(0, "the first call counts, which is slower: call `action` once before you measure.")],
    )
    + [
        (
            lambda action, runs, clock: _timed(warm=0)(action, runs + 1, clock),
            "the first call counts among the others: call `action` once without a look at the clock.",
        )
    ],
)
