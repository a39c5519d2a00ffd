"""Checks of lab 07: a grid of clicks, which of many masks to keep, what classes they get, how two networks compare."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import nn

from labhelpers.course.checks.core import (
    Case,
    Check,
    Exercise,
    Mistake,
    calls,
    edited,
    kind_of,
    run_function,
    run_tuple,
)
from labhelpers.prompting import mask_iou, next_click
from labhelpers.prompting.grabcut import BoxEllipse
from labhelpers.prompting.predictor import Predictor, Prompt

_SIZE = (18, 26)
_rows, _columns = np.mgrid[: _SIZE[0], : _SIZE[1]]
_VOID = 255
_NO_MASKS = {"cannot reshape array of size 0": "for no masks at all `reshape(0, -1)` does not know the -1: say H * W."}


def _boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    """Masks bool (N, H, W) of rectangles (x0, y0, x1, y1), the last row and column excluded."""
    inside = [(_columns >= x0) & (_columns < x1) & (_rows >= y0) & (_rows < y1) for x0, y0, x1, y1 in corners]
    return np.array(inside, dtype=bool).reshape(-1, *_SIZE)


def _random_boxes(rng: np.random.Generator, count: int, least: int, most: int) -> np.ndarray:
    """Masks bool (count, H, W) of rectangles whose sides are `least` to `most - 1`, some cut off by the image."""
    low = rng.integers(0, 12, (count, 2))
    return _boxes(*np.hstack([low, low + rng.integers(least, most, (count, 2))]).tolist())


def _hills(*places: tuple[float, float, float, float]) -> np.ndarray:
    """Logits float64 (N, H, W) that fall from a centre: (y, x, radius of the mask, slope)."""
    return np.stack([slope * (radius - np.hypot(_rows - y, _columns - x)) for y, x, radius, slope in places])


def _as_double(found: Any) -> Any:
    """An array of half or single precision is as good as one of double."""
    return found.astype(np.float64) if isinstance(found, np.ndarray) and found.dtype.kind == "f" else found


def _run_array(check: Check, answer: Callable, case: Case) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return _as_double(run_function(check, answer, case))


# --------------------------------------------------------------- click_grid


def _click_grid(height: int, width: int, grid: int) -> np.ndarray:
    """float64 (grid * grid, 2): pixels (x, y) of the centres of equal cells, row by row from the top left."""
    share = (np.arange(grid) + 0.5) / grid
    x, y = (share * side - 0.5 for side in (width, height))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


click_grid = Exercise(
    "click_grid",
    _click_grid,
    lambda: calls("click_grid", (8, 8, 1), (30, 40, 2), (128, 96, 5), (7, 9, 3)),
    run=_run_array,
    tolerance=1e-4,  # what single precision leaves
    wrong={
        "these are (y, x): a point is (x, y).": {"meshgrid(x, y)": "meshgrid(x, y)[::-1]"},
        "x goes over the height and y over the width: x belongs to the width.": {"(width, height)": "(height, width)"},
        "all points lie half a pixel too far to the right and below: the first pixel's centre is (0, 0), its edge "
        "-0.5.": {" - 0.5": ""},
        "the points go column by column: go row by row, x the faster.": {"grid(x, y)": "grid(x, y, indexing='ij')"},
        "these are the corners of the cells: their centres lie half a cell further.": {" + 0.5": ""},
        "the grid reaches from the first to the last pixel: its points are the centres of equal cells.": {
            "share * side - 0.5": "np.linspace(0, side - 1, grid)"
        },
        "the grid reaches from one edge of the image to the other: its points are the centres of equal cells.": {
            "share * side": "np.linspace(0, side, grid)"
        },
        "the cells divide width - 1 pixels: the image is `width` wide, from -0.5 to width - 0.5.": {
            "share * side - 0.5": "share * (side - 1)"
        },
        "the cells have whole sides: divide with `/`, and put the point half a cell further, minus 0.5.": {
            "share * side - 0.5": "np.arange(grid) * (side // grid) + side // grid // 2"
        },
        "these are the points of the diagonal: put each x together with each y, `np.meshgrid`.": {"np.meshgrid": ""},
        "these are the lines between grid + 1 cells: there are `grid` cells, and a point in each centre.": {
            "+ 0.5) / grid": "+ 1) / (grid + 1)"
        },
        "this is (grid, grid, 2): put all points in one list, `.reshape(-1, 2)`.": {".reshape(-1, 2)": ""},
        "this is (2, grid * grid): a point is a row, so stack along axis 1.": {".reshape(-1, 2)": ".reshape(-1, 2).T"},
        "these are whole pixels: a point may lie between two, do not round it.": {"(x, y)": "(x.round(), y.round())"},
        "these are shares of the image: multiply by width and height, and subtract 0.5.": {" * side - 0.5": ""},
    },
)


# --------------------------------------------------------------- iou_matrix


def _iou_matrix(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """masks bool (N, H, W), others bool (M, H, W) -> float64 (N, M): IoU of each with each, 0 for two empty ones."""
    both = np.tensordot(masks.astype(float), others.astype(float), axes=((1, 2), (1, 2)))
    a, b = masks.sum((1, 2))[:, None], others.sum((1, 2))
    union = a + b - both
    return both / np.maximum(union, 1)


def _matrix_cases() -> Iterator[Case]:
    """Not as many of the one as of the other, none, empty ones, equal ones, parts."""
    chance = _random_boxes(np.random.default_rng(3), 9, 3, 14)
    whole, part, empty = (1, 1, 20, 16), (4, 4, 8, 9), (0, 0, 0, 0)
    for words, masks, others in (
        ("4 masks and 5 others", chance[:4], chance[4:]),
        ("a mask and itself, its part and an empty one", _boxes(whole), _boxes(whole, part, empty)),
        ("two empty masks", _boxes(empty, part), _boxes(empty)),
        ("no masks and 3 others", _boxes(), chance[:3]),
        ("masks and themselves", chance, chance),
    ):
        yield Case((masks, others), f"for {words}", "the matrix")


def _over_both(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    return edited(_iou_matrix, {"a + b - both": "a + b"})(masks, others)


def _over_smaller(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    return edited(_iou_matrix, {"a + b - both": "np.minimum(a, b)"})(masks, others)


iou_matrix = Exercise(
    "iou_matrix",
    _iou_matrix,
    _matrix_cases,
    run=_run_array,
    errors=_NO_MASKS,
    wrong={
        "rows and columns are exchanged: a row belongs to a mask.": lambda masks, others: _iou_matrix(others, masks),
        "it divides by both areas: the union counts what both share once.": _over_both,
        "this is Dice, 2 intersection / both areas: IoU divides by the union.": {"a + b - both": "(a + b) / 2"},
        "it divides by the smaller area: IoU divides by the union.": _over_smaller,
        "it divides by the mask's own area: IoU divides by the union.": {"a + b - both": "a"},
        "it divides by the other's area: IoU divides by the union.": {"a + b - both": "b"},
        "it divides by all pixels of the image: IoU divides by the union.": {"a + b - both": "others[0].size"},
        "these are the pixels of both: divide by the union.": {" / np.maximum(union, 1)": ""},
        "a product of booleans is True or False, no count: `astype(float)` makes numbers of them.": {"float": "bool"},
        "counts above 255 start again from 0 in uint8: `astype(float)` holds them.": {"float": "np.uint8"},
        "where both are empty, 0 is divided by 0: that IoU is 0 here.": [
            {"np.maximum(union, 1)": "union"},
            {"both / np.maximum(union, 1)": "np.where(union > 0, both / union, 1)"},
        ],
        "this is the best of each mask, one number: return the whole matrix (N, M).": {
            "both / np.maximum(union, 1)": "(both / np.maximum(union, 1)).max(1, initial=0)"
        },
    },
)


# ---------------------------------------------------------- stability_score


def _stability_score(logits: np.ndarray, offset: float = 1.0) -> np.ndarray:
    """logits (N, H, W) -> float64 (N,): IoU of the masks above `offset` and above `-offset`; 0 without a pixel."""
    smaller = (logits > offset).sum((1, 2))
    larger = (logits > -offset).sum((1, 2))  # it holds all of the smaller one
    return smaller / np.maximum(larger, 1)


def _stability_cases() -> Iterator[Case]:
    """Logits that fall off at different rates from a centre; one is high everywhere, one is low everywhere."""
    hills = _hills((6, 7, 4.6, 3.1), (9, 14, 6.2, 0.83), (11, 18, 5.1, 0.37), (8, 10, 2.7, 0.57))
    logits = np.concatenate([hills, np.full((1, *_SIZE), 7.0)])
    for offset in (1.0, 0.25):
        yield Case((logits, offset), f"for five masks and offset {offset:g}", "the stability")
    yield Case((logits,), "without an offset", "the stability")
    yield Case((np.stack([np.full(_SIZE, -9.0), logits[0]]), 1.0), "of a mask without a pixel", "the stability")


stability_score = Exercise(
    "stability_score",
    _stability_score,
    _stability_cases,
    run=_run_array,
    wrong={
        "this is one number: return one for each mask, an array (N,).": {
            "smaller / np.maximum(larger, 1)": "np.array((smaller / np.maximum(larger, 1)).mean())"
        },
        "this is one number for all masks together: return one for each, sum over axes 1 and 2.": {"(1, 2)": ""},
        "it divides by both areas: the larger mask holds the smaller, so it is the union.": {
            "np.maximum(larger, 1)": "np.maximum(smaller + larger, 1)"
        },
        "it divides by what lies below -offset: the larger mask is what lies above it.": {"> -offset": "< -offset"},
        "`//` leaves whole numbers: divide with `/`.": {"smaller / np": "smaller // np"},
        "this is the inverse: the smaller mask (above +offset) is on top.": {
            "smaller / np.maximum(larger, 1)": "larger / np.maximum(smaller, 1)"
        },
        "it compares with the mask above 0: compare with the one above -offset.": {"> -offset": "> 0"},
        "it compares the mask above 0: take the one above +offset.": {"> offset": "> 0"},
        "this is the area of the smaller mask: divide by that of the larger.": {" / np.maximum(larger, 1)": ""},
        "it divides by the area of the image: take the mask above -offset.": {"> -offset": "> -np.inf"},
        "this is 1 minus the IoU: a stable mask has a stability near 1.": {"smaller / np": "1 - smaller / np"},
        "the thresholds are +offset and -offset, not half of that.": {"offset)": "offset / 2)"},
        "it thresholds probabilities: the offset belongs to the logits, without a sigmoid.": {
            "(logits >": "(1 / (1 + np.exp(-logits)) >"
        },
        "this is the share of the image that is sure of itself, background included: compare two masks.": {
            "smaller / np.maximum(larger, 1)": "(abs(logits) > offset).mean((1, 2))"
        },
        "it is 1 for every mask: are both thresholds the same?": {"> -offset": "> offset"},
        "it ignores `offset` and takes 1.": {"offset)": "1)"},
        "the default of `offset` is 1, not 0.5.": {"offset: float = 1.0": "offset: float = 0.5"},
        "where no logit is above -offset, 0 is divided by 0: the stability of no mask at all is 0.": [
            {"smaller / np.maximum(larger, 1)": f"np.where(larger > 0, smaller / larger, {value})"}
            for value in ("np.nan", "np.inf", "1")
        ],
    },
)


# -------------------------------------------------- non_maximum_suppression


def _non_maximum_suppression(masks: np.ndarray, scores: np.ndarray, threshold: float = 0.7) -> list[int]:
    """masks bool (N, H, W), scores (N,) -> indices of the kept, best first: no two have an IoU above `threshold`."""
    ious = _iou_matrix(masks, masks)
    kept: list[int] = []
    for index in np.argsort(-scores):
        if (ious[index, kept] <= threshold).all():
            kept.append(int(index))
    return kept


def _nms_cases() -> Iterator[Case]:
    """A chain, a part in a whole, an IoU of just the threshold, one box, rectangles by chance; no two scores equal."""
    rng = np.random.default_rng(5)
    chance = _random_boxes(rng, 40, 4, 12)
    chain = _boxes((0, 2, 10, 8), (3, 2, 13, 8), (6, 2, 16, 8))  # IoUs 7/13, 7/13, 4/16
    box = (_columns < 16) & (_rows < 16)
    half = box & ((_columns > _rows) | (_columns == 0) | (_rows == 15))  # both halves touch all sides of the box
    for words, masks, scores, threshold in (
        ("two masks that are nearly the same", _boxes((2, 2, 12, 10), (2, 2, 12, 11)), [0.6, 0.9], 0.7),
        ("a chain: the middle one overlaps both others", chain, [0.9, 0.8, 0.7], 0.5),
        ("a small mask inside a large one", _boxes((1, 1, 20, 16), (4, 4, 8, 8)), [0.7, 0.8], 0.7),
        ("an IoU of exactly the threshold", _boxes((0, 0, 4, 4), (0, 0, 4, 8)), [0.9, 0.8], 0.5),
        ("two halves of one box", np.stack([half, box & ~half]), [0.8, 0.9], 0.5),
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


non_maximum_suppression = Exercise(
    "non_maximum_suppression",
    _non_maximum_suppression,
    _nms_cases,
    run=_run_nms,
    errors=_NO_MASKS,
    wrong={
        "nothing is suppressed: leave out what overlaps a kept mask.": {"<= threshold": "<= 1"},
        "only the best mask is kept: go on with the others.": {"return kept": "return kept[:1]"},
        "it begins with the lowest score: begin with the highest.": {"argsort(-scores)": "argsort(scores)"},
        "it takes the masks as they come: sort them by score, best first.": {"np.argsort(-scores)": "range(len(ious))"},
        "a mask is dropped because of one that was dropped itself: compare with those kept.": {
            "ious[index, kept]": "ious[index, scores > scores[index]]"
        },
        "it divides by the smaller area, so a part is dropped for its whole: IoU divides by the union.": {
            "_iou_matrix": "_over_smaller"
        },
        "it divides by both areas: the union counts what both share once.": {"_iou_matrix": "_over_both"},
        "nothing is kept: the IoU of a mask with itself is 1, so compare it only with those that were kept before.": {
            "return kept": "return []"
        },
        "these are places in the sorted list: return the indices that the masks had before.": {
            "return kept": "return np.argsort(np.argsort(-scores))[kept].tolist()"
        },
        "it compares boxes: two masks of one box may share nothing, take the IoU of the masks.": {
            "_iou_matrix(masks, masks)": "_iou_matrix(boxes := masks.any(1)[:, None] & masks.any(2)[:, :, None], boxes)"
        },
        "one kept mask that it hardly overlaps is enough for it to stay: it has to be all, not any.": {
            "(ious[index, kept] <= threshold).all()": "not kept or (ious[index, kept] <= threshold).any()"
        },
        "masks of a low score are left out: the threshold is one of the IoU.": {
            "np.argsort(-scores)": "[index for index in np.argsort(-scores) if scores[index] > threshold]"
        },
        "an IoU of exactly the threshold is not above it: both stay.": {"<= threshold": "< threshold"},
        "it drops what overlaps little: drop what overlaps.": {"<= threshold": ">= threshold"},
        "the right masks in another order: the one with the highest score first.": {
            "return kept": "return sorted(kept)"
        },
        **{
            f"without a threshold it does not use 0.7: is its default {other}?": {"= 0.7": f"= {other}"}
            for other in (0.5, 0.6, 0.9)
        },
    },
)


# ---------------------------------------------------------------- good_masks


def _good_masks(logits: np.ndarray, ious: np.ndarray, min_stability: float) -> np.ndarray:
    """logits (N, H, W), predicted IoUs (N,) -> bool (M, H, W): the stable masks without doubles, the best first."""
    stable = _stability_score(logits) >= min_stability
    masks, scores = logits[stable] > 0, ious[stable]
    kept = _non_maximum_suppression(masks, scores)
    return masks[kept]


def _good_cases() -> Iterator[Case]:
    """Hills in three places, of different slopes; the best is not stable, one is just as stable as asked for."""
    logits = _hills((5, 6, 4.6, 3.0), (5, 6, 4.9, 0.4), (12, 16, 5.2, 2.0), (12, 17, 5.3, 5.0), (8, 21, 3.4, 1.5))
    ious = np.array([0.81, 0.97, 0.74, 0.86, 0.9])
    for least in (0.0, 0.5, 0.7, float(np.sort(_stability_score(logits))[1]), 0.999):
        yield Case((logits, ious, least), f"for five candidates and a stability of at least {least:g}", "the masks")
    yield Case((logits[:0], ious[:0], 0.7), "for no candidates", "the masks")


good_masks = Exercise(
    "good_masks",
    _good_masks,
    _good_cases,
    errors={"out of bounds": "masks and scores must belong together: `ious[stable]` goes with `masks[stable]`."},
    wrong={
        "masks that are not stable stay: leave out those whose stability is below `min_stability`.": {"[stable]": ""},
        "the stable masks are left out: keep those whose stability is at least `min_stability`.": {">=": "<"},
        "doubles stay: `non_maximum_suppression` tells which to keep.": {"masks[kept]": "masks[np.argsort(-scores)]"},
        "the right masks in another order: the best first, as the indices come.": {"[kept]": "[sorted(kept)]"},
        "the worst of two stays: suppress by the predicted IoUs, the highest first.": {", scores)": ", -scores)"},
        "these are logits: a mask is what lies above 0.": {"masks[kept]": "logits[stable][kept]"},
        "a mask that is just as stable as asked for is left out: keep those of *at least* `min_stability`.": {
            ">=": ">"
        },
        "`min_stability` is handed over as the offset of the stability: the offset stays 1.": {
            "_stability_score(logits)": "_stability_score(logits, min_stability)"
        },
        "doubles are suppressed by their stability: the scores are the predicted IoUs.": {
            "ious[stable]": "_stability_score(logits[stable])"
        },
        "the indices count the stable masks: take them from `masks[stable]`, not from all masks.": {
            "masks[kept]": "(logits > 0)[kept]"
        },
        "`min_stability` is handed over as the threshold of the IoU: that one stays 0.7.": {
            "(masks, scores)": "(masks, scores, min_stability)"
        },
        "it filters by predicted IoU as well: here only by stability, and doubles.": {
            "_stability_score(logits) >= min_stability": "(_stability_score(logits) >= min_stability) & (ious >= 0.88)"
        },
        "what is not stable suppresses what is: leave it out first, then the doubles.": lambda logits, ious, least: (
            _good_masks(logits[kept := _non_maximum_suppression(logits > 0, ious)], ious[kept], least)
        ),
        "these are indices: return the masks themselves.": {"masks[kept]": "np.array(kept)"},
    },
)


# --------------------------------------------------------------- label_masks


def _label_masks(masks: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """masks bool (N, H, W), guide uint8 (H, W), 255 void -> class map uint8 (H, W), small masks on top of large."""
    labels = np.zeros_like(guide)
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


_ON_TOP = "small masks belong on top of large ones: paint the largest first."
_ORDER, _LABEL = "sorted(masks, key=np.count_nonzero, reverse=True)", "np.bincount(inside).argmax()"

label_masks = Exercise(
    "label_masks",
    _label_masks,
    _label_cases,
    errors={"argmax of an empty sequence": "a mask on void alone has no label to count: leave it out."},
    wrong={
        f"large masks cover small ones: {_ON_TOP}": {", reverse=True": ""},
        f"masks are painted in the order in which they come: {_ON_TOP}": {_ORDER: "masks"},
        f"masks are painted from the last to the first: {_ON_TOP}": {_ORDER: "masks[::-1]"},
        "void is counted as a class: leave 255 out before you count.": {" & (guide != _VOID)": ""},
        "void is counted as background: leave 255 out before you count.": {
            "guide[mask & (guide != _VOID)]": "np.where(guide == _VOID, 0, guide)[mask]"
        },
        "a mask on void alone is painted as background: leave it out, what is below it stays.": {
            "len(inside)": "mask.any()",
            "bincount(inside)": "bincount(inside, minlength=1)",
        },
        f"what is painted already stays: {_ON_TOP[:-1]}, and the others over it.": {"[mask]": "[mask & (labels == 0)]"},
        "void is cut out of the masks: the whole mask gets its class, void has only no vote.": {
            "[mask]": "[mask & (guide != _VOID)]"
        },
        "background is not counted: a mask mostly on background is background.": {
            "bincount(inside)": "bincount(inside[inside > 0], minlength=1)"
        },
        "this is the largest label: labels are names; count them.": {_LABEL: "inside.max()"},
        "this is the mean of labels: labels are names; count them.": {_LABEL: "round(inside.mean())"},
        "this is the median label: labels are names; count them.": {_LABEL: "np.median(inside)"},
        "it copies the guide into the masks: a mask gets one class.": lambda masks, guide: guide * masks.any(0),
        "pixels without a mask have the guide's class: they are background, 0.": {"zeros_like": "copy"},
        "pixels without a mask are void: they are background, 0, and count.": {"np.zeros": "_VOID * np.ones"},
    },
)


# -------------------------------------------------------- classes_from_boxes


def _run_prompted(check: Check, answer: Callable, case: Case) -> Any:
    """What the answer returns, given a new predictor and an image beside the arguments of the case."""
    predictor, truth, *others = case.args
    image = np.zeros((*truth.shape, 3), dtype=np.uint8)
    return check.call(answer, predictor(), image, truth, *others, when=case.when)


def _classes_from_boxes(predictor: Any, image: np.ndarray, target: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Class map uint8 (H, W): the answers to the boxes of the true objects, each with its object's class."""
    predictor.set_image(image)
    answers = []
    for number in np.setdiff1d(instances, [0, 255]):
        inside = instances == number
        y, x = np.nonzero(inside)
        mask, _ = predictor.predict(box=np.array([x.min(), y.min(), x.max(), y.max()]))
        label = np.bincount(target[inside & (target != 255)], minlength=1).argmax()
        answers.append((mask.sum(), mask, label))
    class_map = np.zeros(target.shape, dtype=np.uint8)
    for _, mask, label in sorted(answers, key=lambda answer: -answer[0]):
        class_map[mask] = label
    return class_map


def _box_cases() -> Iterator[Case]:
    """No two objects of an image have boxes of one size; rims of void belong to no object."""
    apart = [(2, 14, 2, 20, 7, 2), (5, 9, 6, 11, 12, 1), (11, 17, 15, 24, 7, 3)]
    corner = [(15, 17, 2, 23, 5, 1), (2, 17, 2, 4, 5, 1), (4, 13, 8, 18, 9, 2)]  # more pixels in the smaller box
    for words, size, areas in (
        ("three objects, two of one class", _SIZE, apart),
        ("objects with rims of void", _SIZE, [*apart, (11, 16, 15, 24, _VOID, 3), (5, 9, 9, 11, _VOID, _VOID)]),
        ("an image without objects", _SIZE, []),
        ("an object with a hole", (11, 17), [(0, 11, 0, 17, 9, 1), (4, 8, 6, 12, 0, 0)]),
        ("a thin object around a compact one", _SIZE, corner),
    ):
        target, instances = np.zeros((2, *size), dtype=np.uint8)
        for top, bottom, left, right, label, number in areas:
            target[top:bottom, left:right], instances[top:bottom, left:right] = label, number
        yield Case((BoxEllipse, target, instances), f"for {words}", "the class map")


classes_from_boxes = Exercise(
    "classes_from_boxes",
    _classes_from_boxes,
    _box_cases,
    run=_run_prompted,
    errors={
        "no image yet": "the predictor has no image: call `predictor.set_image(image)` once, before the first box.",
        "four numbers": "a box is x0, y0, x1, y1, four numbers, and `predict(box=...)` takes one box.",
    },
    wrong={
        "the boxes have x and y exchanged: `np.nonzero` gives rows (y) first.": {"y, x =": "x, y ="},
        "the boxes are a pixel too large: x1 and y1 are the last pixels of the object, no `+ 1`.": {
            "x.max(), y.max()": "x.max() + 1, y.max() + 1"
        },
        "these boxes are (x, y, width, height): a box is x0, y0, x1, y1.": {"x.max(), y.max()": "np.ptp(x), np.ptp(y)"},
        "void is taken for an object: in `instances` 255 is void, leave it out.": {"[0, 255]": "[0]"},
        "the background is taken for an object: in `instances` 0 is none, leave it out.": {"[0, 255]": "[255]"},
        "large masks cover small ones: paint the largest first, and the others over it.": {"-answer[0]": "answer[0]"},
        "the answers are painted in the order of their numbers: paint the largest first.": {
            "sorted(answers, key=lambda answer: -answer[0])": "answers"
        },
        "the objects are sorted, not the answers: paint the largest *answer* first.": {"(mask.sum()": "(inside.sum()"},
        "void is counted as a class: leave 255 out before you count.": {" & (target != 255)": ""},
        "the labels are counted inside the answer: the class is that of the object, `target[inside]`.": {
            "target[inside &": "target[mask &"
        },
        "it paints the numbers of the objects: their classes stand in `target`.": {"mask, label))": "mask, number))"},
        "void is cut out of the answers: paint the whole mask.": {"[mask]": "[mask & (target != 255)]"},
        "it copies the true object into the map: what counts is the mask that is answered.": {
            "(mask.sum(), mask,": "(inside.sum(), inside,"
        },
        "the class map is of another integer type: make it uint8, as targets are.": {"np.uint8": "np.int64"},
    },
)


# ---------------------------------------------------------------- click_ious


class _Discs(Predictor):
    """Marks a disc around each foreground click, a larger one if it is given an earlier mask."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), "discs")

    def encode(self, image: np.ndarray) -> None:
        self.rows, self.columns = np.mgrid[: image.shape[0], : image.shape[1]]

    def answer(self, prompt: Prompt, multimask: bool) -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros(self.rows.shape, dtype=bool)
        for (x, y), kind in zip(prompt.points, prompt.labels, strict=True):
            mask[np.hypot(self.columns - x, self.rows - y) <= (2.2 if prompt.mask is None else 3.1)] = kind == 1
        return mask[None], np.array([0.123])


def _click_ious(predictor: Any, image: np.ndarray, truth: np.ndarray, ignore: np.ndarray, clicks: int) -> np.ndarray:
    """IoUs float64 (clicks,) after 1, 2, ... clicks into the middle of the largest error; void is none."""
    predictor.set_image(image)
    ious: list[float] = []
    mask, points, labels = np.zeros_like(truth), [], []
    for _ in range(clicks):
        click = next_click(mask, truth, ignore)
        if click is not None:
            points.append(click[0])
            labels.append(click[1])
            earlier = mask if ious else None
            mask, score = predictor.predict(points=np.stack(points), labels=np.array(labels), mask_input=earlier)
        ious.append(mask_iou(mask, truth, ignore))
    return np.array(ious)


def _user_cases() -> Iterator[Case]:
    """Two objects that take several clicks of both kinds, one that the first click gets right, one beside void."""
    for words, truth in (
        ("a long object", _boxes((3, 4, 22, 9))[0]),
        ("an object with a corner", _boxes((2, 2, 9, 16), (2, 11, 20, 16)).any(0)),
        ("an object that one click gets right", np.hypot(_columns - 9, _rows - 8) <= 2.2),
        ("an object beside void", _boxes((3, 4, 10, 9))[0]),
    ):
        ignore = np.zeros_like(truth)
        ignore[4:9, 10:22] = "void" in words
        yield Case((_Discs, truth, ignore, 6), f"for {words} and 6 clicks", "the IoUs")


click_ious = Exercise(
    "click_ious",
    _click_ious,
    _user_cases,
    run=lambda check, answer, case: _as_double(_run_prompted(check, answer, case)),
    errors={
        "no image yet": "the predictor has no image: call `predictor.set_image(image)` once, before the first click.",
        "points must be (N, 2)": "points are (N, 2) and labels (N,), also for one click: stack all clicks so far.",
        "cannot unpack non-iterable NoneType": "`next_click` returns None when nothing is wrong: then do not click.",
        "'NoneType' object is not": "`next_click` returns None when nothing is wrong: then do not click.",
    },
    wrong={
        "the earlier mask is not handed over: give it as `mask_input`.": {"mask_input=earlier": "mask_input=None"},
        "the empty mask is handed over with the first click: there is no answer yet, `mask_input=None`.": {
            " if ious else None": ""
        },
        "only the newest click is given: give all clicks so far.": {
            "stack(points)": "stack(points[-1:])",
            "array(labels)": "array(labels[-1:])",
        },
        "the points have x and y exchanged: `next_click` gives (x, y), as `predict` takes it.": {"[0]": "[0][::-1]"},
        "every click says foreground: give the labels that `next_click` gives with the points.": {"click[1]": "1"},
        "these are the best IoUs so far: a click may make it worse, note each as it is.": {
            "np.array(ious)": "np.maximum.accumulate(ious)"
        },
        "these are the IoUs before each click: measure after it.": {"np.array(ious)": "np.array([0.0, *ious[:-1]])"},
        "these are predicted IoUs: compare the mask with the truth.": {"mask_iou(mask, truth, ignore)": "score"},
        "it ends where nothing is wrong: one IoU for each of `clicks`, the last one repeated.": {
            "click = next_click(mask, truth, ignore)": "if (click := next_click(mask, truth, ignore)) is None: break"
        },
        "it begins with a full mask: nothing is marked before the first click.": {"zeros_like": "ones_like"},
        "void counts in the IoU: give `ignore` to `mask_iou` as well.": {
            "mask_iou(mask, truth, ignore)": "mask_iou(mask, truth)"
        },
        "it clicks on void: give `ignore` to `next_click` as well.": {
            "next_click(mask, truth, ignore)": "next_click(mask, truth)"
        },
        "void counts as an error: give `ignore` to `next_click` and to `mask_iou`.": {"truth, ignore)": "truth)"},
    },
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


number_of_clicks = Exercise(
    "number_of_clicks",
    _number_of_clicks,
    _click_cases,
    run=run_tuple("the pair (clicks, failures)", "the number of clicks", "the number of failures"),
    tolerance=1e-8,
    wrong={
        "clicks are counted from 0: column 0 is the IoU after one click.": [
            {"argmax(1) + 1": "argmax(1)"},
            {"argmax(1) + 1": "argmax(1)", "ious.shape[1]": "ious.shape[1] - 1"},
        ],
        "objects that never get there are left out: each counts as many clicks as were allowed.": {
            "clicks.mean()": "clicks[reached.any(1)].mean() if reached.any() else 'nan'"
        },
        "an object that never gets there counts 1: argmax of a row without True is 0. It counts all clicks allowed.": {
            "ious.shape[1]": "1"
        },
        "an object that never gets there counts 0: it counts as many as were allowed.": {"ious.shape[1]": "0"},
        "a failure counts one click more than were allowed: it counts as many as were allowed.": {
            "ious.shape[1]": "ious.shape[1] + 1"
        },
        "an IoU of exactly the threshold counts as reached (>=).": {">= threshold": "> threshold"},
        "it counts the clicks below the threshold; an IoU may fall again. Take the first click that gets there.": {
            "reached.argmax(1) + 1": "(~reached).sum(1) + 1"
        },
        "this is when the mean curve gets there: count for each object, then take the mean.": {
            "clicks.mean()": "next((i for i, iou in enumerate(ious.mean(0), 1) if iou >= threshold), ious.shape[1])"
        },
        "this is the median: take the mean.": {"clicks.mean()": "np.median(clicks)"},
        "an object that gets there with the last click is counted as a failure: it is none.": {
            "~reached.any(1)": "clicks == ious.shape[1]"
        },
        "these are the objects that get there: return how many do not.": {"~reached.any(1)": "reached.any(1)"},
    },
)


# --------------------------------------------------------- paired_difference


def _paired_difference(a: np.ndarray, b: np.ndarray, draws: np.ndarray) -> tuple[float, float, float]:
    """Scores (N,) of the same objects, draws int (R, N) -> mean of a - b, 2.5 and 97.5 % points of its resamples."""
    gains = a - b
    means = gains[draws].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(gains.mean()), float(low), float(high)


def _difference_cases() -> Iterator[Case]:
    """Scores that rise and fall together, so that pairs matter, and skewed gains, some of them below 0."""
    rng = np.random.default_rng(11)
    for objects, times in ((12, 200), (40, 150)):
        easy = rng.random(objects)
        a, b = np.clip(easy + rng.exponential(0.1, objects) - 0.05, 0, 1), easy
        draws = rng.integers(0, objects, (times, objects))
        yield Case((a, b, draws), f"for {objects} objects and {times} resamples")


_ENDS = "np.percentile(means, (2.5, 97.5))"

paired_difference = Exercise(
    "paired_difference",
    _paired_difference,
    _difference_cases,
    run=run_tuple("(difference, low, high)", "the difference", "the lower end", "the upper end"),
    tolerance=1e-8,
    wrong={
        "this is b - a: the difference is a - b, above 0 where a is better.": {"a - b": "b - a"},
        "this is the size of the differences: keep their signs, b is better on some objects.": {"a - b": "abs(a - b)"},
        "both ends are the mean of all resamples together: take the mean of each, axis 1.": {"mean(1)": "mean()"},
        "it subtracts the ends of two intervals: take the differences first, then the interval of their means.": {
            _ENDS: "np.subtract(*(np.percentile(of[draws].mean(1), (2.5, 97.5)) for of in (a, b)))"
        },
        "this is the mean plus and minus 1.96 standard deviations: take the percentiles of the resamples.": [
            {_ENDS: "means.mean() + np.array([-1.96, 1.96]) * means.std()"},
            {_ENDS: "gains.mean() + np.array([-1.96, 1.96]) * means.std()"},
        ],
        "a and b are resampled apart: a pair stays together, resample the differences.": {
            "gains[draws].mean(1)": "a[draws].mean(1) - b[draws[::-1]].mean(1)"
        },
        "the interval holds 90 %: take the 2.5 and 97.5 % points.": {"(2.5, 97.5)": "(5, 95)"},
        "`np.percentile` wants percent: 2.5 and 97.5, not 0.025 and 0.975.": {"(2.5, 97.5)": "(0.025, 0.975)"},
        "the ends are exchanged: the lower one comes first.": {"low, high =": "high, low ="},
        "these are the least and the greatest: take the 2.5 and 97.5 % points.": {"(2.5, 97.5)": "(0, 100)"},
        "this is the spread of single objects: take the mean of each resample first.": {"[draws].mean(1)": ""},
        "the mean is over the resamples: take it over the objects of each, axis 1.": {"mean(1)": "mean(0)"},
        "this is the median: take the mean, of the objects and of each resample.": {
            "gains[draws].mean(1)": "np.median(gains[draws], axis=1)",
            "gains.mean()": "np.median(gains)",
        },
        "the difference is the mean of the resamples: take that of the objects themselves.": {
            "gains.mean()": "means.mean()"
        },
        "this is the mean plus and minus 1.96 standard errors: take the percentiles of the resamples.": {
            _ENDS: "gains.mean() + np.array([-1.96, 1.96]) * gains.std() / len(gains) ** 0.5"
        },
    },
)


# --------------------------------------------------------------- median_time


class _Watch:
    """A clock in seconds that only goes on while something runs, so many milliseconds at each call."""

    def __init__(self, durations: tuple[float, ...]):
        self.durations, self.now, self.calls, self.looks = iter(durations), 3.0, 0, 0

    def clock(self) -> float:
        self.looks += 1
        return self.now

    def run(self) -> None:
        self.calls += 1
        self.now += next(self.durations, 1000.0) / 1000


def _median_time(action: Callable, runs: int, clock: Callable) -> float:
    """The median duration of `runs` calls in milliseconds, after one that is not counted."""
    action()  # cold
    times = []
    for _ in range(runs):
        start = clock()
        action()
        times.append(1000 * (clock() - start))
    return float(np.median(times))


def _run_timing(check: Check, answer: Callable, case: Case) -> Any:
    durations, runs = case.args
    watch = _Watch(durations)
    found = check.call(answer, watch.run, runs, watch.clock, when=case.when)
    check.that(watch.looks > 0, f"{case.when} it never looks at the clock that it was given: call `clock()`.")
    check.that(
        watch.calls in (runs, runs + 1),
        f"{case.when} it calls `action` {watch.calls} times, expected {runs + 1}: once to warm up, then {runs} times.",
    )
    return found


median_time = Exercise(
    "median_time",
    _median_time,
    lambda: [
        Case(((90.0, 12.0, 14.0, 70.0), 3), "for 3 runs that take 12, 14 and 70 ms, and 90 ms at first", "the time"),
        Case(((5.0, 2.0, 4.0, 8.0, 30.0), 4), "for 4 runs that take 2, 4, 8 and 30 ms, and 5 ms at first", "the time"),
    ],
    run=_run_timing,
    tolerance=1e-6,
    wrong={
        "of an even number of runs the median is the mean of the two in the middle: `statistics.median`.": {
            "np.median(times)": "sorted(times)[len(times) // 2]"
        },
        "this is the mean: take the median, which one slow run does not move.": {"np.median": "np.mean"},
        "this is the fastest run: take the median.": {"np.median": "np.min"},
        "this is the slowest run: take the median.": {"np.median": "np.max"},
        "this is the time of all runs together: take the median of single ones.": {"np.median": "np.sum"},
        "these are seconds: return milliseconds, 1000 times as many.": {"1000 * ": ""},
        "the first call counts, which is slower: call `action` once before you measure.": {"action()  # cold": "pass"},
        "the first call counts among the others: call `action` once without a look at the clock.": {
            "action()  # cold": "pass",
            "range(runs)": "range(runs + 1)",
        },
    },
)
