"""Checks of lab 08: anchors and boxes, suppression, RoI Align and RoI Pool, masks, average precision, merging."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from labhelpers import evaluation
from labhelpers.course.checks.core import Case, Check, Exercise, Parts, run_function, variants
from labhelpers.course.checks.layers import detached, rounding, run_loss
from labhelpers.data.instances import Instances


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Upper left and lower right corners, (N, 2) each."""
    return boxes[:, :2], boxes[:, 2:]


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of each with each, (N, M)."""
    low, high = torch.max(boxes[:, None, :2], others[:, :2]), torch.min(boxes[:, None, 2:], others[:, 2:])
    both = (high - low).clamp_min(0).prod(2)
    area, other = ((b - a).prod(1) for a, b in map(_corners, (boxes, others)))
    return both / (area[:, None] + other - both)


def _random_boxes(count: int, size: float, least: float, most: float) -> Tensor:
    low = torch.rand(count, 2) * (size - least)
    return torch.cat([low, (low + least + torch.rand(count, 2) * (most - least)).clamp_max(size)], dim=1)


# ---------------------------------------------------------------------- nms


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """boxes (N, 4), scores (N,) -> int64 (M,): the kept, best first; no two of them have an IoU above `threshold`."""
    return _suppression()(boxes, scores, threshold)


def _kept(seen: list[int], kept: list[int]) -> list[int]:
    return kept


def _suppression(
    order: Callable[[Tensor], Tensor] = lambda scores: scores.argsort(descending=True),
    beaten: Callable[[Tensor, float], Tensor] = lambda iou, threshold: iou > threshold,
    rivals: Callable[[list[int], list[int]], list[int]] = _kept,
    handed_on: Callable[[list[int], Tensor, Tensor], Any] = lambda kept, boxes, scores: torch.tensor(
        kept, dtype=torch.int64
    ),
) -> Callable[..., Any]:
    """Suppression made of its parts, one of which is wrong.

    Args:
        order: in which boxes are visited.
        beaten: whether a box goes, from its IoUs with its rivals.
        rivals: of the boxes seen before and of those kept.
        handed_on: from the kept, the boxes and the scores.
    """

    def answer(boxes: Tensor, scores: Tensor, threshold: float) -> Any:
        iou = _iou(boxes, boxes)
        kept: list[int] = []
        seen: list[int] = []
        for index in order(scores).tolist():
            others = rivals(seen, kept)
            if not (others and beaten(iou[index, others], threshold).any()):
                kept.append(index)
            seen.append(index)
        return handed_on(kept, boxes, scores)

    return answer


def _nms_cases() -> Iterator[Case]:
    """Doubles, a chain, an IoU of just the threshold, boxes by chance, none at all; no two scores are equal."""
    for words, boxes, scores, threshold in (
        ("two boxes that are nearly the same", [[2, 2, 12, 10], [2, 2, 12, 11]], [0.6, 0.9], 0.7),
        ("a chain: the middle one overlaps both others", [[0, 2, 10, 8], [3, 2, 13, 8], [6, 2, 16, 8]], [0.9, 0.8, 0.7],
         0.5),
        ("a small box inside a large one", [[1, 1, 20, 16], [4, 4, 8, 8]], [0.7, 0.8], 0.5),
        ("an IoU of exactly the threshold", [[0, 0, 4, 4], [0, 0, 4, 8]], [0.9, 0.8], 0.5),
    ):  # fmt: skip
        yield Case((torch.tensor(boxes).float(), torch.tensor(scores), threshold), f"for {words}", "what it keeps")
    chance, scores = _random_boxes(40, 40, 8, 25), torch.randperm(40) / 40
    for threshold in (0.2, 0.6):
        yield Case((chance, scores, threshold), f"for 40 boxes and threshold {threshold}", "what it keeps")
    yield Case((torch.zeros(0, 4), torch.zeros(0), 0.5), "for no boxes at all", "what it keeps")


nms = Exercise(
    "nms",
    _nms,
    _nms_cases,
    errors={"only integer tensors of a single element": "an index is a whole number: `.tolist()` or `.item()`."},
    wrong=[
        *variants(
            _suppression,
            order=[
                (
                    lambda scores: torch.arange(len(scores)),
                    "the boxes are visited in the order in which they come: begin with the highest score.",
                ),
                (lambda scores: scores.argsort(), "it begins with the lowest score: `argsort(descending=True)`."),
            ],
            beaten=[
                (
                    lambda iou, threshold: iou >= threshold,
                    "an IoU of exactly the threshold is suppressed: only a greater one is.",
                ),
                (lambda iou, threshold: iou < threshold, "it keeps what overlaps and drops the rest: turn it around."),
                (lambda iou, threshold: iou > 0, "each overlap suppresses: only one above `threshold` does."),
                (lambda iou, threshold: iou > 0.5, "0.5 is written by hand: take `threshold`."),
                (lambda iou, threshold: iou > 1, "nothing is suppressed: compare each box with the kept ones."),
            ],
            rivals=[
                (lambda seen, kept: seen, "a box that was suppressed still suppresses others: only kept ones do."),
                (
                    lambda seen, kept: kept[:1],
                    "each box is compared with the best one only: compare it with all that are kept.",
                ),
                (
                    lambda seen, kept: kept[-1:],
                    "each box is compared with the last kept one only: compare it with all that are kept.",
                ),
            ],
            handed_on=[
                (
                    lambda kept, boxes, scores: torch.tensor(kept),
                    "an empty list becomes a float tensor: `torch.tensor(kept, dtype=torch.int64)`.",
                ),
                (lambda kept, boxes, scores: boxes[kept], "these are the boxes: return their indices."),
                (lambda kept, boxes, scores: scores[kept], "these are the scores: return the indices of the kept."),
                (
                    lambda kept, boxes, scores: torch.tensor(sorted(kept)),
                    "the indices are in the order of the boxes: return the best first.",
                ),
                (
                    lambda kept, boxes, scores: torch.tensor(kept[:1]),
                    "it keeps the best box alone: go on with the next that is left.",
                ),
                (
                    lambda kept, boxes, scores: torch.isin(torch.arange(len(boxes)), torch.tensor(kept).long()),
                    "this is True or False for each box: return the indices of the kept, best first.",
                ),
                (
                    lambda kept, boxes, scores: scores.argsort(descending=True).argsort()[kept],
                    "these are places in the sorted list: return indices into `boxes`, `order[place]`.",
                ),
            ],
        ),
    ],
)


# ------------------------------------------------------ bilinear, roi_align


def _bilinear(features: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """features (C, H, W), x and y (...) in cells, 0 the centre of the first -> (C, ...); edges go on outside."""
    return _interpolated()(features, x, y)


def _cell_weights(distance: Tensor) -> tuple[Tensor, Tensor]:
    return 1 - distance, distance


def _interpolated(
    clamp: Callable[[Tensor, int], Tensor] = lambda x, n: x.clamp(0, n - 1),
    weights: Callable[[Tensor], tuple[Any, Any]] = _cell_weights,
    exchanged: bool = False,
    step: int = 1,
) -> Callable[..., Tensor]:
    """Bilinear interpolation made of its parts, one of which is wrong; what lies outside is read at the edge.

    Args:
        clamp: keeps coordinates inside, from them and the number of cells.
        weights: of the nearer and the farther cell, from the distance to the one before.
        exchanged: x counts rows.
        step: from a cell to the other of the pair.
    """

    def answer(features: Tensor, x: Tensor, y: Tensor) -> Tensor:
        if exchanged:
            x, y = y, x
        height, width = features.shape[1:]
        total: Any = 0
        x, y = clamp(x, width), clamp(y, height)
        left, top = x.floor().long(), y.floor().long()
        for dy, of_row in zip((0, step), weights(y - top), strict=True):
            for dx, of_column in zip((0, step), weights(x - left), strict=True):
                rows, columns = (top + dy).clamp(0, height - 1), (left + dx).clamp(0, width - 1)
                total = total + features[:, rows, columns] * of_row * of_column
        return total

    return answer


def _wrapped(features: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Left of and above the first cell index -1 reads the last one."""
    height, width = features.shape[1:]
    around = features[:, torch.arange(-1, height)][:, :, torch.arange(-1, width)]
    return _bilinear(around, x.clamp(-1, width - 1) + 1, y.clamp(-1, height - 1) + 1)


def _extrapolated(features: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The line through the two outermost cells goes on outside."""
    height, width = features.shape[1:]
    around = F.pad(features, (1, 1, 1, 1), mode="replicate")
    around[:, :, 0] += around[:, :, 1] - around[:, :, 2]
    around[:, :, -1] += around[:, :, -2] - around[:, :, -3]
    around[:, 0] += around[:, 1] - around[:, 2]
    around[:, -1] += around[:, -2] - around[:, -3]
    return _bilinear(around, x.clamp(-1, width) + 1, y.clamp(-1, height) + 1)


def _zero_outside(features: Tensor, x: Tensor, y: Tensor) -> Tensor:
    height, width = features.shape[1:]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return _bilinear(features, x, y) * inside


def _bilinear_cases() -> Iterator[Case]:
    """Centres, midway, anywhere in a grid of points, and up to half a cell outside."""
    features = torch.randn(3, 5, 7)
    for words, x, y in (
        ("at the centres of cells", [0.0, 3, 6], [4.0, 1, 0]),
        ("midway between cells", [0.5, 2, 5.5], [2.0, 1.5, 3.5]),
        ("anywhere inside", [[0.2, 3.7], [5.1, 1.4]], [[2.6, 0.3], [3.9, 1.8]]),
        ("up to half a cell outside", [-0.4, 6.3, 2.2, -0.5], [1.3, 2.7, 4.4, -0.3]),
    ):
        yield Case((features, torch.tensor(x), torch.tensor(y)), words, "the features")


bilinear = Exercise(
    "bilinear",
    _bilinear,
    _bilinear_cases,
    errors={
        "out of bounds": "right and below the last cell there is none: clamp the coordinates to 0 ... W - 1 and "
        "0 ... H - 1, and so the index of the next cell.",
        "tensors used as indices must be": "an index is whole: `.long()` after `.floor()`.",
    },
    wrong=[
        (_interpolated(exchanged=True), "x and y are exchanged: features are indexed `[:, y, x]`."),
        *variants(
            _interpolated,
            weights=[
                (
                    lambda d: (d, 1 - d),
                    "the weights are exchanged: the cell at distance d gets 1 - d, so the nearer one gets more.",
                ),
                (lambda d: (0.5, 0.5), "all four cells count alike: the nearer ones get more weight."),
                (lambda d: (1, 0), "it takes the cell above and to the left alone: weigh the four cells around."),
                (
                    lambda d: ((d < 0.5).float(), (d >= 0.5).float()),
                    "it takes the nearest cell alone, which is RoI Pool's rounding: weigh the four cells around.",
                ),
                (lambda d: (1, 1), "the four cells are added up: their weights are products, and 1 together."),
                (
                    lambda d: ((1 - d) ** 2, d**2),
                    "the weights are squared: they are (1 - d) and d in each direction, and 1 together.",
                ),
            ],
            clamp=[
                (
                    lambda x, n: (x - 0.5).clamp(0, n - 1),
                    "all is shifted by half a cell: (0, 0) is the centre of the first cell here, not its corner.",
                ),
                (
                    lambda x, n: (x + 0.5).clamp(0, n - 1),
                    "all is shifted by half a cell: (0, 0) is the centre of the first cell, so nothing is added.",
                ),
                (
                    lambda x, n: x.clamp(0, n - 2),
                    "the last row and column are never reached: clamp to H - 1 and W - 1.",
                ),
            ],
        ),
        (
            _zero_outside,
            "outside it is 0: up to half a cell beyond the outermost centres the edge goes on; clamp the coordinates.",
        ),
        (
            _wrapped,
            "left of and above the first cell an index of -1 reads the last one: clamp the coordinates first.",
        ),
        (
            _extrapolated,
            "outside the slope goes on: clamp the coordinates before the distance is taken, so that the edge goes on.",
        ),
        (
            _interpolated(step=-1),
            "the second cell of a pair lies on the wrong side: it is the one after, `floor() + 1`.",
        ),
        (
            lambda f, x, y: _bilinear(f, x, y).mean(0),
            "the channels are averaged: each keeps its own value, (C, ...).",
        ),
        (
            lambda f, x, y: _bilinear(f, x, y).movedim(0, -1),
            "the channels come last: the result is (C, ...), as `features[:, y, x]` gives it.",
        ),
    ],
)


def _roi_align(features: Tensor, box: Tensor, size: int, scale: float) -> Tensor:
    """features (C, H, W), box (4,) in pixels -> (C, size, size): four points a bin, aligned, by torchvision."""
    from torchvision.ops import roi_align as library

    return library(features[None], [box[None]], size, scale, sampling_ratio=2, aligned=True)[0]


def _aligned(
    to_cells: Callable[[Tensor, float], Tensor] = lambda box, scale: box * scale - 0.5,
    side: Callable[[Tensor], Tensor] = lambda length: length,
    bins: Callable[[int], int] = lambda size: size,
    places: Sequence[float] = (0.25, 0.75),
    pool: Callable[[Tensor], Tensor] = lambda points: points.mean((2, 4)),
) -> Callable[..., Tensor]:
    """RoI Align made of its parts, one of which is wrong.

    Args:
        to_cells: the box on the features, from pixels and scale.
        side: changes the sides of the box.
        bins: into how many a side is divided.
        places: of points in a bin, as shares of its side.
        pool: from (C, size, points, size, points).
    """

    def answer(features: Tensor, box: Tensor, size: int, scale: float) -> Tensor:
        x0, y0, x1, y1 = to_cells(box, scale)
        shares = ((torch.arange(size)[:, None] + torch.tensor(places)) / bins(size)).flatten()
        x, y = x0 + shares * side(x1 - x0), y0 + shares * side(y1 - y0)
        points = _bilinear(features, x.expand(len(y), -1), y[:, None].expand(-1, len(x)))
        n = len(places)
        return pool(points.reshape(-1, size, n, size, n))

    return answer


def _align_cases() -> Iterator[Case]:
    """Boxes between the cells, in another stride, at the edges, smaller than a cell, on whole cells."""
    features = torch.randn(2, 12, 16)
    for words, box, size, scale in (
        ("of a box between the cells", [13.3, 21.8, 90.1, 77.4], 4, 1 / 8),
        ("of the same box in 7 x 7 bins", [13.3, 21.8, 90.1, 77.4], 7, 1 / 8),
        ("at stride 4", [3.1, 5.6, 50.2, 40.9], 3, 1 / 4),
        ("of the whole image", [0.0, 0, 128, 96], 5, 1 / 8),
        ("of a box smaller than a cell", [20.5, 30.2, 25.0, 34.1], 2, 1 / 8),
        ("of a box on the edges of cells", [16.0, 8, 80, 72], 4, 1 / 8),
    ):
        yield Case((features, torch.tensor(box), size, scale), words, "RoI Align")


roi_align = Exercise(
    "roi_align",
    _roi_align,
    _align_cases,
    tolerance=1e-4,
    wrong=[
        *variants(
            _aligned,
            to_cells=[
                (
                    lambda box, scale: box * scale,
                    "it reads half a cell too far to the right and below: the centre of the first cell is 0 for "
                    "`bilinear`, and 0.5 cells from the image's corner, so subtract 0.5.",
                ),
                (lambda box, scale: box - 0.5, "`scale` is not used: the box is in pixels, the features in cells."),
                (lambda box, scale: box / scale - 0.5, "it divides by `scale`: pixels times scale are cells."),
                (lambda box, scale: (box - 0.5) * scale, "it subtracts half a pixel: half a cell, after scaling."),
                (
                    lambda box, scale: (box * scale).round() - 0.5,
                    "the box is rounded to whole cells: that is RoI Pool, and RoI Align is there to avoid it.",
                ),
                (lambda box, scale: (box * scale - 0.5)[[1, 0, 3, 2]], "x and y are exchanged: (x1, y1, x2, y2)."),
            ],
            side=[
                (
                    lambda length: length.clamp_min(1),
                    "a side is taken as a cell at least: a box smaller than a cell keeps its size.",
                ),
                (lambda length: length + 1, "the sides are one cell too long: they are x2 - x1 and y2 - y1, no + 1."),
            ],
            bins=[
                (lambda size: size - 1 if size > 1 else 1, "a side is divided into size - 1 bins: there are `size`."),
            ],
            places=[
                ((0.5,), "one point a bin, in its middle: take 2 x 2, at 1/4 and 3/4 of its sides."),
                ((0.0, 0.5), "the points begin at the corner of a bin: they lie at 1/4 and 3/4 of its sides."),
                ((0.0, 1.0), "the points are the corners of a bin: they lie at 1/4 and 3/4 of its sides."),
                (
                    (1 / 3, 2 / 3),
                    "the points lie at 1/3 and 2/3 of a bin: its halves have their middles at 1/4 and 3/4.",
                ),
                ((1 / 6, 0.5, 5 / 6), "it takes 3 x 3 points a bin: take 2 x 2."),
            ],
            pool=[
                (
                    lambda points: points.amax((2, 4)),
                    "it takes the greatest of the points, as RoI Pool does: take the mean.",
                ),
                (lambda points: points.sum((2, 4)), "the points of a bin are added up: take their mean."),
                (
                    lambda points: points.mean((2, 4)).mT,
                    "rows and columns are exchanged: the result is (C, row, column).",
                ),
                (
                    lambda points: points.flatten(3).flatten(1, 2),
                    "these are the points themselves, 2 x 2 a bin: take the mean of each four.",
                ),
            ],
        ),
    ],
)


# --------------------------------------------------------------- paste_mask


def _paste_mask(small: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """small (M, M), 0 to 1, box (4,) in pixels, size (H, W) -> bool (H, W): where it is at least 0.5 in the box."""
    return _pasted()(small, box, size)


def _pasted(
    centre: float = 0.5,
    to_cells: Callable[[Tensor, int], Tensor] = lambda share, cells: share * cells - 0.5,
    inside: Callable[[Tensor, Tensor], Tensor] = lambda x, y: (x >= 0) & (x < 1) & (y >= 0) & (y < 1),
    frame: Callable[[Tensor, tuple[int, int]], Tensor] = lambda box, size: box,
    read: Callable[[Tensor, Tensor, Tensor], Tensor] = _bilinear,
    decide: Callable[[Tensor], Tensor] = lambda values: values >= 0.5,
) -> Callable[..., Tensor]:
    """Pasting made of its parts, one of which is wrong.

    Args:
        centre: of a pixel, from its index.
        to_cells: from a share of the box's side to cells of the mask.
        inside: which shares lie in the box.
        frame: the box that the mask fills.
        read: the mask at points.
        decide: from its values to True and False.
    """

    def answer(small: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
        x1, y1, x2, y2 = frame(box, size)
        y, x = torch.meshgrid(torch.arange(size[0]) + centre, torch.arange(size[1]) + centre, indexing="ij")
        x, y = (x - x1) / (x2 - x1), (y - y1) / (y2 - y1)
        values = read(small[None], to_cells(x, small.shape[1]), to_cells(y, small.shape[0]))[0]
        return decide(values * inside(x, y))

    return answer


def _paste_cases() -> Iterator[Case]:
    """Boxes between pixels, over the edge, smaller and larger than the mask; a mask of one side, of a corner."""
    noise = torch.rand(4, 4)
    half = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    for words, small, box, size in (
        ("of a mask whose left half is 1", half, [4.0, 2, 12, 10], (12, 16)),
        ("of a box between pixels", noise, [3.3, 2.6, 13.8, 9.1], (12, 16)),
        ("of a box that reaches beyond the image", noise, [-4.2, -2.0, 9.7, 20.0], (12, 16)),
        ("of a box smaller than the mask", torch.rand(8, 8), [5.2, 4.1, 9.9, 7.6], (12, 16)),
        ("of a mask that is 1 everywhere", torch.ones(3, 3), [5.0, 3, 9, 8], (10, 14)),
    ):
        yield Case((small, torch.tensor(box), size), words, "the mask")


paste_mask = Exercise(
    "paste_mask",
    _paste_mask,
    _paste_cases,
    wrong=variants(
        _pasted,
        centre=[
            (
                0.0,
                "it takes the upper left corners of pixels: the centre of pixel i lies at i + 0.5, as a box counts.",
            ),
        ],
        to_cells=[
            (
                lambda share, cells: share * cells,
                "the mask is shifted by half a cell: `bilinear` counts from the first centre, so subtract 0.5.",
            ),
            (
                lambda share, cells: share * (cells - 1),
                "the mask is stretched from its first to its last centre: its cells fill the box, share * M - 0.5.",
            ),
            (lambda share, cells: share - 0.5, "shares of the box are taken for cells: times M, the mask's side."),
        ],
        inside=[
            (
                lambda x, y: torch.ones_like(x),
                "the mask goes on outside of the box: where a pixel's centre is not in the box it is False.",
            ),
            (
                lambda x, y: (x >= 0) & (x < 1),
                "above and below the box it goes on: a pixel's centre must be in the box in both directions.",
            ),
            (
                lambda x, y: (y >= 0) & (y < 1),
                "left and right of the box it goes on: a pixel's centre must be in the box in both directions.",
            ),
        ],
        frame=[
            (
                lambda box, size: torch.tensor([0.0, 0, size[1], size[0]]),
                "the mask fills the image: it belongs into the box.",
            ),
            (
                lambda box, size: torch.tensor([0.0, 0, *(box[2:] - box[:2])]),
                "the mask lies in the image's corner: it begins at x1, y1.",
            ),
            (lambda box, size: box.round(), "the box is rounded: nothing is, as in RoI Align."),
            (lambda box, size: box.floor(), "the box is rounded down: nothing is, as in RoI Align."),
            (lambda box, size: box[[1, 0, 3, 2]], "x and y are exchanged: a box is (x1, y1, x2, y2)."),
        ],
        read=[
            (
                _interpolated(weights=lambda d: ((d < 0.5).float(), (d >= 0.5).float())),
                "it takes the nearest cell: read between cells with `bilinear`.",
            ),
            (
                lambda f, x, y: _bilinear(f, y, x),
                "the mask is turned: `bilinear` takes x first, then y.",
            ),
            (
                lambda f, x, y: _bilinear((f >= 0.5).float(), x, y),
                "it decides before it enlarges: read between cells first, then `>= 0.5`.",
            ),
        ],
        decide=[
            (lambda values: values, "these are probabilities: a pixel belongs to the object from 0.5 on."),
            (lambda values: values > 0, "all that is above 0 belongs to the mask: from 0.5 on."),
            (lambda values: values < 0.5, "the mask is turned around: True is from 0.5 on."),
        ],
    ),
)


# ----------------------------------------------------------- roi_pool_error


def _roi_pool_error(box: Tensor, stride: int) -> Tensor:
    """box (4,) in pixels -> (4,): the edges of the cells that RoI Pool reads, minus those of the box, in pixels."""
    return _pooled_window()(box, stride)


def _half_up(cells: Tensor) -> Tensor:
    return (cells + 0.5).floor()


def _pooled_window(
    first: Callable[[Tensor], Tensor] = _half_up,
    last: Callable[[Tensor], Tensor] = _half_up,
    after: Callable[[Tensor, int], Tensor] = lambda last, stride: (last + 1) * stride,
    error: Callable[[Tensor, Tensor, int], Tensor] = lambda window, box, stride: window - box,
) -> Callable[..., Tensor]:
    """RoI Pool's window made of its parts, one of which is wrong.

    Args:
        first, last: the cell of an edge, from its place in cells.
        after: the window's right and lower edge, from the last cell.
        error: from the window's edges and the box's.
    """

    def answer(box: Tensor, stride: int) -> Tensor:
        cells = box / stride
        return error(torch.cat([first(cells[:2]) * stride, after(last(cells[2:]), stride)]), box, stride)

    return answer


roi_pool_error = Exercise(
    "roi_pool_error",
    _roi_pool_error,
    lambda: [
        Case((torch.tensor(box), stride), f"of the box {box} at stride {stride}", "the error")
        for box, stride in (
            ([13.0, 22.0, 90.0, 77.0], 8),
            ([13.0, 22.0, 90.0, 77.0], 16),
            ([30.5, 1.2, 61.9, 45.1], 4),
            ([16.0, 32.0, 48.0, 64.0], 16),
            ([37.0, 21.0, 43.0, 26.0], 32),
        )
    ],
    tolerance=1e-4,
    wrong=variants(
        _pooled_window,
        after=[
            (
                lambda last, stride: last * stride,
                "the window ends before its last cell: that of the lower right corner is read as well, so the "
                "window ends a cell later.",
            ),
            (
                lambda last, stride: last * stride + 1,
                "the window ends a pixel behind the last cell's beginning: it ends a whole cell behind, + stride.",
            ),
        ],
        error=[
            (lambda window, box, stride: box - window, "the sign is turned around: window minus box."),
            (lambda window, box, stride: (window - box).abs(), "the sign is lost: negative is to the left or above."),
            (lambda window, box, stride: (window - box) / stride, "these are cells: times stride they are pixels."),
            (lambda window, box, stride: window, "this is the window: subtract the box."),
            (lambda window, box, stride: window / stride - box, "cells minus pixels: bring both to pixels first."),
        ],
        first=[
            (torch.floor, "the first cell is rounded down: RoI Pool rounds to the nearest."),
            (lambda cells: cells, "the upper left corner is not rounded: RoI Pool takes whole cells."),
        ],
        last=[
            (torch.floor, "the last cell is rounded down: RoI Pool rounds to the nearest."),
            (torch.ceil, "the last cell is rounded up: RoI Pool rounds to the nearest."),
            (lambda cells: cells, "the lower right corner is not rounded: RoI Pool takes whole cells."),
        ],
    )
    + [
        (
            _pooled_window(first=torch.floor, last=torch.floor),
            "both corners are rounded down: RoI Pool rounds to the nearest cell.",
        ),
        (
            _pooled_window(first=torch.floor, last=torch.ceil, after=lambda last, stride: last * stride),
            "these are all cells that the box touches: RoI Pool rounds both corners to the nearest cell, and the last "
            "one is read as well.",
        ),
    ],
)


# ------------------------------------------------------------ match_anchors


def _match_anchors(iou: Tensor, high: float = 0.7, low: float = 0.3) -> tuple[Tensor, Tensor]:
    """iou (N, A) of objects and anchors -> int64 (A,) 1, 0 or -1 (neither), and int64 (A,): each anchor's object."""
    return _matched()(iou, high, low)


def _ties(iou: Tensor) -> Tensor:
    return (iou == iou.amax(1, keepdim=True)).any(0)


def _matched(
    positive: Callable[[Tensor, float], Tensor] = torch.ge,
    negative: Callable[[Tensor, float], Tensor] = torch.lt,
    rescued: Callable[[Tensor], Tensor] = _ties,
    values: tuple[int, int, int] = (1, 0, -1),
    of: Callable[[Tensor, Tensor], Tensor] = lambda iou, labels: iou.argmax(0),
) -> Callable[..., Any]:
    """Matching made of its parts, one of which is wrong.

    Args:
        rescued: bool (A,), which anchors are positive for being some object's best.
        values: of positive, negative and neither.
        of: the object of each anchor.
    """

    def answer(iou: Tensor, high: float = 0.7, low: float = 0.3) -> tuple[Tensor, Tensor]:
        best = iou.amax(0)
        labels = torch.full((iou.shape[1],), values[2])
        labels[negative(best, low)] = values[1]
        labels[positive(best, high) | rescued(iou)] = values[0]
        return labels, of(iou, labels)

    return answer


def _best_objects(iou: Tensor, labels: Tensor) -> Tensor:
    """As `argmax(0)`, but an anchor that is best for an object belongs to that one."""
    index = iou.argmax(0)
    index[iou.argmax(1)] = torch.arange(len(iou))
    return index


def _match_cases() -> Iterator[Case]:
    """Thresholds met exactly, an object without a good anchor, ties, an anchor that two objects want, by chance.

    No anchor has the same IoU with two objects: the exercise does not say which of them is its object.
    """
    for words, iou in (
        ("of one object", [[0.9, 0.5, 0.1, 0.7, 0.3, 0.29]]),
        ("where no anchor fits the second object well", [[0.8, 0.2, 0.1, 0.4], [0.0, 0.1, 0.25, 0.15]]),
        ("where two anchors fit equally well", [[0.45, 0.2, 0.45, 0.1]]),
        ("where an object's best anchor fits another object better", [[0.4, 0.1, 0.2], [0.5, 0.6, 0.1]]),
    ):
        yield Case((torch.tensor(iou),), words)
    chance = torch.rand(5, 40) ** 2
    yield Case((chance,), "of 5 objects and 40 anchors")
    yield Case((chance, 0.5, 0.1), "of 5 objects and 40 anchors, for high=0.5 and low=0.1")


def _run_match(check: Check, answer: Callable, case: Case) -> Any:
    found = run_function(check, answer, case)
    pair = isinstance(found, (tuple, list)) and len(found) == 2
    check.that(pair, "return two tensors: the labels of the anchors, and the objects that they belong to.")
    return Parts({f"the labels {case.when}": found[0], f"the objects of the anchors {case.when}": found[1]})


match_anchors = Exercise(
    "match_anchors",
    _match_anchors,
    _match_cases,
    run=_run_match,
    wrong=[
        *variants(
            _matched,
            rescued=[
                (
                    lambda iou: torch.zeros(iou.shape[1], dtype=torch.bool),
                    "an object of which no anchor has an IoU of `high` gets none: its best anchors are positive, too.",
                ),
                (
                    lambda iou: torch.isin(torch.arange(iou.shape[1]), iou.argmax(1)),
                    "of several equally good anchors only the first is taken: all that reach the object's greatest IoU "
                    "are positive.",
                ),
                (
                    lambda iou: (iou == iou.max()).any(0),
                    "only the best anchor of all is taken: each object has its own best, `iou.amax(1)`.",
                ),
                (
                    lambda iou: _ties(iou) & (iou.amax(0) >= 0.3),
                    "an object's best anchors are negative if their IoU is below `low`: make them positive last.",
                ),
                (
                    lambda iou: ((iou == iou.amax(1, keepdim=True)) & (iou == iou.amax(0))).any(0),
                    "an object's best anchor is left out if it fits another object better: it is positive, too.",
                ),
                (
                    lambda iou: torch.ones(iou.shape[1], dtype=torch.bool),
                    "all anchors are positive: is the best of each anchor taken for the best of each object?",
                ),
            ],
            values=[
                ((1, 0, 0), "what lies between the thresholds is negative: it is neither, -1."),
                ((1, -1, 0), "negative and neither are exchanged: negative is 0, neither -1."),
                ((1, -1, -1), "negative is 0: only what lies between the thresholds is -1."),
                ((0, 1, -1), "positive and negative are exchanged: positive is 1."),
                ((1, -1, -2), "these are torchvision's numbers: here negative is 0, and neither is -1."),
            ],
            positive=[(torch.gt, "an IoU of exactly `high` is positive, too: `>=`.")],
            negative=[(torch.le, "an IoU of exactly `low` is not negative yet: `<`.")],
            of=[
                (
                    _best_objects,
                    "an anchor's object is the one with which its own IoU is greatest, also if it is another's best.",
                ),
                (
                    lambda iou, labels: torch.where(labels == 1, iou.argmax(0), -1),
                    "anchors that are not positive get -1 as their object: give each its best one, `iou.argmax(0)`.",
                ),
                (
                    lambda iou, labels: iou.argmax(0) + 1,
                    "the objects are counted from 1: the first has index 0.",
                ),
                (
                    lambda iou, labels: iou.argmax(1),
                    "these are the best anchors of the objects: return the best object of each anchor, `argmax(0)`.",
                ),
            ],
        ),
        (
            lambda iou, high=0.7, low=0.3: _match_anchors(iou),
            "`high` and `low` are not used: are 0.7 and 0.3 written by hand?",
        ),
        (
            lambda iou, high=0.7, low=0.3: _match_anchors(iou, high, low)[::-1],
            "labels and objects are exchanged: labels come first.",
        ),
    ],
)


# ------------------------------------------------- encode_boxes, decode_boxes

_LIMIT = math.log(1000 / 16)


def _encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """boxes and anchors (N, 4), corners in pixels -> (N, 4): tx, ty, tw, th (Girshick et al., 2014, appendix C)."""
    return _encoded()(boxes, anchors)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sides, (N, 2) each."""
    low, high = _corners(boxes)
    return (low + high) / 2, high - low


def _encoded(
    place: Callable[[Tensor], Tensor] = lambda boxes: _centres(boxes)[0],
    sides: Callable[[Tensor], Tensor] = lambda boxes: _centres(boxes)[1],
    unit: Callable[[Tensor, Tensor], Any] = lambda of_box, of_anchor: of_anchor,
    scale: Callable[[Tensor, Tensor], Tensor] = lambda of_box, of_anchor: (of_box / of_anchor).log(),
    joined: Callable[[Tensor, Tensor], Tensor] = lambda shift, scale: torch.cat([shift, scale], dim=1),
) -> Callable[..., Tensor]:
    """The coding made of its parts, one of which is wrong: place and sides of a box, the unit of a shift, the scale."""

    def answer(boxes: Tensor, anchors: Tensor) -> Tensor:
        of_box, of_anchor = sides(boxes), sides(anchors)
        shift = (place(boxes) - place(anchors)) / unit(of_box, of_anchor)
        return joined(shift, scale(of_box, of_anchor))

    return answer


def _pairs() -> tuple[Tensor, Tensor]:
    """Boxes, and anchors near them."""
    anchors = _random_boxes(6, 100, 10, 60)
    return anchors + 2 * torch.randn(6, 4), anchors


def _encode_cases() -> Iterator[Case]:
    anchor = torch.tensor([[10.0, 20.0, 50.0, 40.0]])
    for words, moved in (
        ("of the anchor itself", (0, 0, 0, 0)),
        ("of the anchor, 10 pixels to the right", (10, 0, 10, 0)),
        ("of a box of twice the anchor's height around the same centre", (0, -10, 0, 10)),
    ):
        yield Case((anchor + torch.tensor(moved), anchor), words, "the code")
    yield Case(_pairs(), "of 6 boxes", "the code")


encode_boxes = Exercise(
    "encode_boxes",
    _encode_boxes,
    _encode_cases,
    tolerance=1e-4,
    wrong=[
        (
            lambda boxes, anchors: _encode_boxes(anchors, boxes),
            "boxes and anchors are exchanged: the code says how the anchor is to move and grow to become the box.",
        ),
        *variants(
            _encoded,
            place=[
                (
                    lambda boxes: boxes[:, :2],
                    "it compares the upper left corners: the shift is that of the centres, (x1 + x2) / 2.",
                ),
                (
                    lambda boxes: _centres(boxes)[1] / 2,
                    "half a side is taken for the centre: it is x1 + w / 2.",
                ),
                (lambda boxes: _centres(boxes)[0] * 2, "the centre is (x1 + x2) / 2: is the half missing?"),
                (lambda boxes: -_centres(boxes)[0], "the sign of the shift is turned around: box minus anchor."),
            ],
            sides=[
                (
                    lambda boxes: _centres(boxes)[1] + 1,
                    "a side is one pixel too long: x2 is exclusive here, so a side is x2 - x1.",
                ),
                (
                    lambda boxes: _centres(boxes)[1].flip(1),
                    "width and height are exchanged: the width belongs to x.",
                ),
            ],
            unit=[
                (lambda of_box, of_anchor: of_box, "the shift is divided by the sides of the box: by the anchor's."),
                (
                    lambda of_box, of_anchor: 1,
                    "the shift is in pixels: divide it by the anchor's sides, so that it means the same at each size.",
                ),
                (
                    lambda of_box, of_anchor: of_anchor[:, :1],
                    "both shifts are divided by the anchor's width: ty is divided by its height.",
                ),
            ],
            scale=[
                (
                    lambda of_box, of_anchor: of_box / of_anchor,
                    "the logarithm of the sides' ratio is missing: log(w / w_a).",
                ),
                (
                    lambda of_box, of_anchor: (of_anchor / of_box).log(),
                    "the ratio is turned upside down: log(w of the box / w of the anchor).",
                ),
                (
                    lambda of_box, of_anchor: (of_box / of_anchor).log2(),
                    "this is the logarithm to base 2: `torch.log`.",
                ),
                (
                    lambda of_box, of_anchor: (of_box / of_anchor).log10(),
                    "this is the logarithm to base 10: `torch.log`.",
                ),
                (
                    lambda of_box, of_anchor: of_box / of_anchor - 1,
                    "this is the relative growth: take the logarithm of the ratio.",
                ),
                (lambda of_box, of_anchor: of_box.log(), "the anchor's sides are missing in tw and th: log(w / w_a)."),
            ],
            joined=[
                (
                    lambda shift, scale: torch.stack([shift, scale], dim=2).flatten(1),
                    "the order is tx, tw, ty, th: put both shifts first.",
                ),
                (lambda shift, scale: torch.cat([scale, shift], dim=1), "the scales come first: shifts come first."),
                (
                    lambda shift, scale: torch.cat([10 * shift, 5 * scale], dim=1),
                    "the code is weighted by 10 and 5, as in torchvision's second stage: here all weights are 1.",
                ),
                (
                    lambda shift, scale: torch.cat([shift, scale], dim=1).T,
                    "this is (4, N): a box is a row.",
                ),
            ],
        ),
    ],
)


def _decode_boxes(codes: Tensor, anchors: Tensor) -> Tensor:
    """codes and anchors (N, 4) -> boxes (N, 4), corners in pixels; tw and th count as at most log(1000 / 16)."""
    return _decoded()(codes, anchors)


def _decoded(
    limit: Callable[[Tensor], Tensor] = lambda t: t.clamp(max=_LIMIT),
    grow: Callable[[Tensor, Tensor], Tensor] = lambda sides, t: sides * t.exp(),
    move: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda centres, sides, t: centres + sides * t,
    joined: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda c, s: (c - s / 2, c + s / 2),
    start: Callable[[Tensor], Tensor] = lambda anchors: _centres(anchors)[0],
) -> Callable[..., Tensor]:
    """The decoding made of its parts, one of which is wrong."""

    def answer(codes: Tensor, anchors: Tensor) -> Tensor:
        sides = _centres(anchors)[1]
        grown = grow(sides, limit(codes[:, 2:]))
        return torch.cat(joined(move(start(anchors), sides, codes[:, :2]), grown), dim=1)

    return answer


def _decode_cases() -> Iterator[Case]:
    anchor = torch.tensor([[10.0, 20.0, 50.0, 40.0]])
    for words, code in (
        ("of the code 0, 0, 0, 0", (0.0, 0, 0, 0)),
        ("of the code 0.25, 0, 0, 0", (0.25, 0, 0, 0)),
        ("of the code 0, 0, 0, log 2", (0, 0, 0, math.log(2))),
    ):
        yield Case((torch.tensor([code]), anchor), words, "the box")
    boxes, anchors = _pairs()
    yield Case((_encode_boxes(boxes, anchors), anchors), "of 6 codes", "the boxes")
    yield Case(
        (torch.tensor([[0.1, -0.2, 80.0, 6.0]]), anchor),
        "where tw is 80, as an untrained network may say",
        "the box",
        remedy=f"clamp tw and th to at most log(1000 / 16) = {_LIMIT:.2f} before `exp`.",
    )


decode_boxes = Exercise(
    "decode_boxes",
    _decode_boxes,
    _decode_cases,
    tolerance=rounding,
    wrong=variants(
        _decoded,
        limit=[
            (
                lambda t: t,
                "a great tw makes a box infinitely wide: clamp tw and th to at most log(1000 / 16) before `exp`.",
            ),
            (
                lambda t: t.clamp(max=1000 / 16),
                "tw and th are clamped to 1000 / 16: to its logarithm.",
            ),
            (
                lambda t: t.clamp(max=math.log10(1000 / 16)),
                "the limit of tw and th is a logarithm to base 10: take the natural one, `math.log`.",
            ),
        ],
        grow=[
            (lambda sides, t: sides * t, "`exp` is missing: a side is the anchor's times exp(t)."),
            (lambda sides, t: t.exp(), "a side is exp(t) alone: times the anchor's side."),
            (lambda sides, t: sides + t.exp(), "exp(t) is added to the side: it multiplies it."),
            (lambda sides, t: sides * (1 + t), "a side is the anchor's times exp(t), not times 1 + t."),
            (lambda sides, t: sides * 2**t, "this is a power of 2: `torch.exp`."),
            (lambda sides, t: sides / t.exp(), "the side is divided by exp(t): multiply."),
            (lambda sides, t: sides, "the box keeps the anchor's sides: they grow by exp(tw) and exp(th)."),
        ],
        move=[
            (
                lambda centres, sides, t: centres + t,
                "the shift is taken as pixels: it is in sides of the anchor, tx times its width.",
            ),
            (lambda centres, sides, t: centres - sides * t, "the shift goes the other way: add it."),
            (
                lambda centres, sides, t: centres + sides.flip(1) * t,
                "width and height are exchanged: tx is times the width, ty times the height.",
            ),
            (lambda centres, sides, t: centres, "the box stays where the anchor is: its centre moves by tx and ty."),
        ],
        joined=[
            (
                lambda c, s: (c, s),
                "these are centres and sides: return corners, the centre minus and plus half a side.",
            ),
            (lambda c, s: (c - s, c + s), "the box is twice as large: corners lie half a side from the centre."),
            (lambda c, s: (c, c + s), "the centre is taken for the upper left corner: that lies half a side before."),
            (lambda c, s: (c - s / 2, c + s / 2 - 1), "x2 and y2 are exclusive here: without the - 1."),
        ],
        start=[
            (
                lambda anchors: anchors[:, :2],
                "it starts from the anchor's upper left corner: the shift is that of the centre.",
            ),
            (lambda anchors: _centres(anchors)[1] / 2, "half a side is taken for the anchor's centre: add x1 and y1."),
        ],
    ),
)


# ------------------------------------------------------------------ propose


def _propose(
    scores: Tensor, codes: Tensor, anchors: Tensor, size: tuple[int, int], count: int, threshold: float
) -> tuple[Tensor, Tensor]:
    """scores (A,), codes and anchors (A, 4), size (H, W) -> boxes (M, 4) and their scores (M,), best first."""
    return _proposed()(scores, codes, anchors, size, count, threshold)


def _clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    return boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))


def _best(scores: Tensor, count: int) -> Tensor:
    return scores.topk(min(count, len(scores))).indices


def _proposed(
    chosen: Callable[[Tensor, int], Tensor] = _best,
    decode: Callable[[Tensor, Tensor], Tensor] = lambda codes, anchors: _decode_boxes(codes, anchors),
    clip: Callable[[Tensor, tuple[int, int]], Tensor] = _clipped,
    suppress: Callable[[Tensor, Tensor, float], Tensor] = _nms,
    clip_after: Callable[[Tensor, tuple[int, int]], Tensor] = lambda boxes, size: boxes,
    handed_on: Callable[[Tensor, Tensor, Tensor], Any] = lambda boxes, scores, kept: (boxes[kept], scores[kept]),
) -> Callable[..., Any]:
    """Proposals made of their parts, one of which is wrong."""

    def answer(
        scores: Tensor, codes: Tensor, anchors: Tensor, size: tuple[int, int], count: int, threshold: float
    ) -> Any:
        best = chosen(scores, count)
        boxes = clip(decode(codes[best], anchors[best]), size)
        kept = suppress(boxes, scores[best], threshold)
        return handed_on(clip_after(boxes, size), scores[best], kept)

    return answer


def _proposal_cases() -> Iterator[Case]:
    """Boxes that reach beyond the image, none that lies outside altogether."""
    anchors = _random_boxes(60, 50, 12, 30) - 4
    codes, scores = 0.15 * torch.randn(60, 4), torch.randperm(60) / 30 - 1
    for words, count, threshold in (
        ("of the best 20 of 60 anchors", 20, 0.5),
        ("of all 60 anchors at threshold 0.2", 60, 0.2),
        ("where fewer anchors are there than asked for", 100, 0.7),
    ):
        yield Case((scores, codes, anchors, (36, 42), count, threshold), words)


def _run_proposals(check: Check, answer: Callable, case: Case) -> Any:
    found = run_function(check, answer, case)
    pair = isinstance(found, (tuple, list)) and len(found) == 2
    check.that(pair, "return two tensors: the boxes that are kept, and their scores.")
    return Parts({f"the boxes {case.when}": found[0], f"the scores {case.when}": found[1]})


propose = Exercise(
    "propose",
    _propose,
    _proposal_cases,
    run=_run_proposals,
    tolerance=1e-3,
    errors={"selected index k out of range": "a level may have fewer anchors than `count`: min(count, len(scores))."},
    wrong=variants(
        _proposed,
        chosen=[
            (
                lambda scores, count: torch.arange(len(scores)),
                "all anchors are decoded: take the `count` best first, `scores.topk(...)`.",
            ),
            (
                lambda scores, count: torch.arange(min(count, len(scores))),
                "the first anchors are taken: take the best, `scores.topk(...)`.",
            ),
            (
                lambda scores, count: scores.topk(min(count, len(scores)), largest=False).indices,
                "the anchors with the lowest scores are taken: take the best.",
            ),
        ],
        decode=[
            (lambda codes, anchors: anchors, "the anchors are not corrected: `decode_boxes(codes, anchors)`."),
            (
                lambda codes, anchors: _decode_boxes(-codes, anchors),
                "the boxes move the other way: `decode_boxes(codes, anchors)` does it right.",
            ),
        ],
        clip=[
            (
                lambda boxes, size: boxes,
                "boxes reach beyond the image: clip them to 0 ... width and 0 ... height, before they are suppressed.",
            ),
            (
                lambda boxes, size: _clipped(boxes, size[::-1]),
                "height and width are exchanged: size is (H, W), and x goes to W.",
            ),
            (
                lambda boxes, size: _clipped(boxes, (size[0] - 1, size[1] - 1)),
                "boxes are clipped a pixel too early: x2 and y2 lie behind the last pixel, so up to width and height.",
            ),
            (lambda boxes, size: boxes.clamp(min=0), "boxes are clipped at 0 only: to width and height, too."),
        ],
        suppress=[
            (
                lambda boxes, scores, threshold: torch.arange(len(boxes)),
                "nothing is suppressed: `nms(boxes, scores, threshold)` tells which to keep.",
            ),
            (lambda boxes, scores, threshold: _nms(boxes, scores, 0.7), "0.7 is written by hand: take `threshold`."),
            (
                lambda boxes, scores, threshold: _nms(boxes, -scores, threshold),
                "the worst suppress the best: nms takes the scores as they are.",
            ),
        ],
        handed_on=[
            (
                lambda boxes, scores, kept: (boxes[kept], scores[: len(kept)]),
                "the scores are not those of the kept boxes: index both in the same way, `[kept]`.",
            ),
            (
                lambda boxes, scores, kept: (boxes[kept].flip(0), scores[kept].flip(0)),
                "the worst comes first: the best first, as `nms` gives it.",
            ),
            (
                lambda boxes, scores, kept: (scores[kept], boxes[kept]),
                "boxes and scores are exchanged: boxes come first.",
            ),
            (
                lambda boxes, scores, kept: (boxes[kept], scores[kept].sigmoid()),
                "the scores went through a sigmoid: hand them on as they came in.",
            ),
        ],
    )
    + [
        (
            _proposed(clip=lambda boxes, size: boxes, clip_after=_clipped),
            "the boxes are clipped after suppression: before, since clipped boxes overlap differently.",
        )
    ],
)


# ---------------------------------------------------------------- mask_loss


def _mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """logits (N, K, h, w), labels int64 (N,), targets float (N, h, w), 0 to 1 -> scalar; 0 for no objects."""
    return _masked()(logits, labels, targets)


def _true_class(logits: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return logits[torch.arange(len(labels)), labels], targets


def _one_hot(logits: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return logits, targets[:, None] * F.one_hot(labels, logits.shape[1])[:, :, None, None]


def _mean(terms: Tensor) -> Tensor:
    return terms.sum() / max(terms.numel(), 1)


def _masked(
    compared: Callable[..., tuple[Tensor, Tensor]] = _true_class,
    terms: Callable[[Tensor, Tensor], Tensor] = lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
    mean: Callable[[Tensor], Tensor] = _mean,
) -> Callable[..., Tensor]:
    """The loss made of its parts, one of which is wrong: what is compared with what, the terms, their mean."""

    def answer(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        return mean(terms(*compared(logits, labels, targets)))

    return answer


def _across_classes(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Softmax: a pixel of the object is of its class, any other background."""
    return F.cross_entropy(logits, (targets > 0.5) * labels[:, None, None])


def _of_label(change: Callable[[Tensor, int], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda logits, labels, targets: _true_class(logits, change(labels, logits.shape[1]), targets)


def _mask_cases() -> Iterator[Case]:
    """Each object of another class, soft edges, very sure logits, no object at all."""
    for words, labels, shape in (("of 4 objects", [2, 0, 1, 2], (3, 5, 6)), ("of one object", [1], (2, 4, 4))):
        logits = (2 * torch.randn(len(labels), *shape)).requires_grad_()
        targets = torch.rand(len(labels), *shape[1:])
        targets = torch.where(targets > 0.6, 1.0, torch.where(targets < 0.4, 0.0, targets))
        yield Case((logits, torch.tensor(labels), targets), words, "the loss")
    sure = torch.tensor([[[-200.0]], [[200.0]]])[None].expand(1, 2, 3, 3).clone().requires_grad_()
    yield Case((sure, torch.tensor([1]), torch.zeros(1, 3, 3)), "of logits of 200 that are wrong", "the loss",
               remedy="take `binary_cross_entropy_with_logits`, which stays exact.")  # fmt: skip
    nothing = torch.zeros(0, 3, 5, 6).requires_grad_()
    yield Case((nothing, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 5, 6)), "of no object at all", "the loss",
               remedy="divide the sum by the number of terms or 1, whichever is greater.")  # fmt: skip


def _run_mask(check: Check, answer: Callable, case: Case) -> Parts:
    logits, labels, targets = case.args
    found, gradient = run_loss(check, lambda x, y: answer(x, labels, y), logits, targets)
    return Parts({case.words: found, f"the gradient of {case.words}": gradient})


mask_loss = Exercise(
    "mask_loss",
    _mask_loss,
    _mask_cases,
    run=_run_mask,
    tolerance=rounding,
    errors={
        "Target size": "logits and targets are not of one shape: take of each object the map of its class, "
        "`logits[torch.arange(len(labels)), labels]`, (N, h, w).",
        "all elements of input should be between 0 and 1": "binary_cross_entropy takes probabilities: take "
        "`binary_cross_entropy_with_logits`.",
        "leaf Variable that requires grad": "it changes the logits in place: use an operation that returns a new "
        "tensor.",
    },
    wrong=[
        detached(_mask_loss),
        *variants(
            _masked,
            compared=[
                (
                    _one_hot,
                    "all K maps are compared, those of other classes with zeros: only the map of the true class has a "
                    "loss, so that classes do not compete.",
                ),
                (
                    lambda logits, labels, targets: (logits, targets[:, None].expand_as(logits)),
                    "all K maps are compared with the mask: only that of the true class is, `logits[arange, labels]`.",
                ),
                (
                    lambda logits, labels, targets: (logits.amax(1), targets),
                    "it takes the greatest logit of each pixel, whatever the class: take the map of the true class.",
                ),
                (
                    lambda logits, labels, targets: _true_class(logits, logits.mean((2, 3)).argmax(1), targets),
                    "it takes the map that is greatest on the whole: the class is told, `labels`.",
                ),
                (
                    lambda logits, labels, targets: (logits.mean(1), targets),
                    "the maps of all classes are averaged: take the map of the true class.",
                ),
                (
                    _of_label(lambda labels, k: labels - 1),
                    "it takes the map before that of the class: map k belongs to label k, background included.",
                ),
                (
                    _of_label(lambda labels, k: (labels + 1) % k),
                    "it takes the map behind that of the class: map k belongs to label k.",
                ),
                (
                    _of_label(lambda labels, k: torch.zeros_like(labels)),
                    "it takes map 0 of each object: take the map of its class.",
                ),
                (
                    _of_label(lambda labels, k: labels[:1].expand_as(labels)),
                    "it takes the class of the first object for all: each has its own, `logits[arange, labels]`.",
                ),
                (
                    lambda logits, labels, targets: (_true_class(logits, labels, targets)[0], 1 - targets),
                    "the mask is turned around: it is 1 where the object is.",
                ),
                (
                    lambda logits, labels, targets: (_true_class(logits, labels, targets)[0], (targets > 0.5).float()),
                    "the mask is rounded: its values between 0 and 1, where an edge runs through a cell, are targets "
                    "as they are.",
                ),
            ],
            terms=[
                (
                    lambda x, y: F.binary_cross_entropy_with_logits(x.sigmoid(), y, reduction="none"),
                    "the sigmoid is taken twice: `..._with_logits` takes logits.",
                ),
                (
                    lambda x, y: F.binary_cross_entropy(x.sigmoid(), y, reduction="none"),
                    "very sure logits give a sigmoid of exactly 0 or 1, and no gradient: "
                    "`binary_cross_entropy_with_logits` stays exact.",
                ),
                (
                    lambda x, y: -y * F.logsigmoid(x),
                    "only pixels of the object count: (1 - y) log(1 - p) is missing.",
                ),
                (
                    lambda x, y: -(1 - y) * F.logsigmoid(-x),
                    "only pixels beside the object count: y log p is missing.",
                ),
                (
                    lambda x, y: -F.binary_cross_entropy_with_logits(x, y, reduction="none"),
                    "the sign is wrong: the loss is minus the mean of the logarithms.",
                ),
                (lambda x, y: (x.sigmoid() - y) ** 2, "this is the squared error: take binary cross-entropy."),
            ],
            mean=[
                (Tensor.sum, "it is the sum: take the mean over objects and pixels."),
                (
                    lambda terms: terms.sum() / max(len(terms), 1),
                    "it is summed over the pixels of an object: take the mean over them, too.",
                ),
                (Tensor.mean, "without an object the mean is nan: divide the sum by the number of terms or 1."),
            ],
        ),
        (
            _across_classes,
            "this is cross-entropy with a softmax over classes, in which they compete: take a sigmoid of the true "
            "class's map alone.",
        ),
    ],
)


# --------------------------------------- match_detections, average_precision


def _match_detections(iou: np.ndarray, threshold: float) -> np.ndarray:
    """iou (N, M) of detections, best score first, and targets -> bool (N,): which are hits."""
    return evaluation.match_detections(iou, threshold) >= 0


def _best_free(row: np.ndarray, free: np.ndarray, threshold: float) -> int | None:
    """The free target with the greatest IoU, if that reaches the threshold."""
    inside = np.where(free, row, -1.0)
    best = int(inside.argmax()) if len(row) else -1
    return best if best >= 0 and inside[best] >= threshold else None


def _greedy(
    choose: Callable[[np.ndarray, np.ndarray, float], int | None] = _best_free,
    order: Callable[[int], Iterable[int]] = range,
    claimed: bool = True,
) -> Callable[..., np.ndarray]:
    """Greedy matching made of its parts, one of which is wrong: a detection's choice, their order, whether it lasts."""

    def answer(iou: np.ndarray, threshold: float) -> np.ndarray:
        hits, free = np.zeros(len(iou), dtype=bool), np.ones(iou.shape[1], dtype=bool)
        for row in order(len(iou)):
            chosen = choose(iou[row], free, threshold)
            if chosen is not None:
                hits[row] = True
                free[chosen] = not claimed
        return hits

    return answer


def _best_of_all(row: np.ndarray, free: np.ndarray, threshold: float) -> int | None:
    best = int(row.argmax()) if len(row) else -1
    return best if best >= 0 and free[best] and row[best] >= threshold else None


def _first_free(row: np.ndarray, free: np.ndarray, threshold: float) -> int | None:
    return next((k for k in range(len(row)) if free[k] and row[k] >= threshold), None)


def _above(row: np.ndarray, free: np.ndarray, threshold: float) -> int | None:
    best = _best_free(row, free, threshold)
    return best if best is not None and row[best] > threshold else None


def _by_targets(iou: np.ndarray, threshold: float) -> np.ndarray:
    """Each target takes the detection that fits it best."""
    hits = np.zeros(len(iou), dtype=bool)
    for column in iou.T if len(iou) else ():
        hits[column.argmax()] |= column.max() >= threshold
    return hits


def _detection_cases() -> Iterator[Case]:
    """A double, a threshold met exactly, a second choice, a choice that matters later, by chance, nothing."""
    rng = np.random.default_rng(4)
    for words, iou, threshold in (
        ("for two detections of one object", [[0.6, 0.0], [0.9, 0.1], [0.0, 0.8]], 0.5),
        ("for an IoU of exactly the threshold", [[0.5], [0.2]], 0.5),
        ("for a second one whose best target is taken", [[0.9, 0.6], [0.8, 0.7]], 0.5),
        ("for a first one that fits two targets", [[0.6, 0.8], [0.7, 0.1]], 0.5),
        ("for 30 detections and 12 targets", rng.random((30, 12)) ** 2, 0.5),
        ("for 30 detections and 12 targets at threshold 0.75", rng.random((30, 12)), 0.75),
        ("for an image without targets", np.zeros((3, 0)), 0.5),
        ("for an image without detections", np.zeros((0, 2)), 0.5),
    ):
        yield Case((np.array(iou), threshold), words, "the hits")


match_detections = Exercise(
    "match_detections",
    _match_detections,
    _detection_cases,
    errors={
        "argmax of an empty sequence": "an image without targets has no best one: all detections are wrong.",
        "zero-size array to reduction": "an image without targets has no best one: all detections are wrong.",
    },
    wrong=[
        (
            _greedy(claimed=False),
            "a target is found twice: the second detection of an object is a double, and wrong.",
        ),
        (
            _greedy(choose=_best_of_all),
            "a detection whose best target is taken is wrong at once: it takes the best of the free ones.",
        ),
        (
            _greedy(choose=_first_free),
            "a detection takes the first target that is good enough: it takes the best of the free ones.",
        ),
        (_greedy(choose=_above), "an IoU of exactly the threshold is a hit, too: `>=`."),
        (
            _greedy(order=lambda count: range(count)[::-1]),
            "the worst detection chooses first: the rows are in order of score, go from the first to the last.",
        ),
        (
            _by_targets,
            "each target takes the detection that fits best: detections choose, in order of their scores.",
        ),
        (
            lambda iou, threshold: ~_match_detections(iou, threshold),
            "hits and misses are exchanged: True is a hit.",
        ),
        (
            lambda iou, threshold: _match_detections(iou, 0.5),
            "0.5 is written by hand: take `threshold`.",
        ),
        (
            lambda iou, threshold: np.flatnonzero(_match_detections(iou, threshold)),
            "these are the indices of the hits: return True or False for each detection.",
        ),
        (
            lambda iou, threshold: np.float64(_match_detections(iou, threshold).sum()),
            "this is the number of hits: return True or False for each detection.",
        ),
        (
            lambda iou, threshold: _match_detections(iou.T, threshold),
            "rows and columns are exchanged: a row belongs to a detection.",
        ),
    ],
)


def _average_precision(scores: np.ndarray, hits: np.ndarray, num_targets: int) -> float:
    """scores (N,), hits bool (N,) -> mean precision at the recalls 0, 0.01, ..., 1; nan without targets."""
    return evaluation.average_precision(scores, hits, num_targets)


def _from_the_right(precision: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(precision[::-1])[::-1]


def _at_points(recall: np.ndarray, precision: np.ndarray, points: int = 101) -> float:
    places = np.searchsorted(recall, np.linspace(0, 1, points))
    return float(np.append(precision, 0.0)[places].mean())


def _averaged(
    order: Callable[[np.ndarray], np.ndarray] = lambda scores: np.argsort(-scores, kind="stable"),
    shown: Callable[[np.ndarray, int], Any] = lambda hits, num_targets: np.arange(1, len(hits) + 1),
    targets: Callable[[np.ndarray, int], float] = lambda hits, num_targets: num_targets,
    envelope: Callable[[np.ndarray], np.ndarray] = _from_the_right,
    mean: Callable[[np.ndarray, np.ndarray], float] = _at_points,
    of_none: float = math.nan,
) -> Callable[..., float]:
    """Average precision made of its parts, one of which is wrong.

    Args:
        shown: by what the number of hits is divided for precision; targets: for recall.
        envelope: of the precisions, in order of score.
        mean: from recalls and precisions.
        of_none: the value where there are no targets.
    """

    def answer(scores: np.ndarray, hits: np.ndarray, num_targets: int) -> float:
        if num_targets == 0:
            return of_none
        found = hits[order(scores)].cumsum()
        recall = found / max(targets(hits, num_targets), 1)
        return mean(recall, envelope(found / shown(hits, num_targets)))

    return answer


def _step_area(recall: np.ndarray, precision: np.ndarray) -> float:
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _reached_only(recall: np.ndarray, precision: np.ndarray) -> float:
    points = np.linspace(0, 1, 101)
    reached = points[points <= recall.max(initial=0)]
    return float(precision[np.searchsorted(recall, reached)].mean()) if len(precision) else 0.0


def _held(recall: np.ndarray, precision: np.ndarray) -> float:
    """Beyond the greatest recall the last precision goes on."""
    if not len(precision):
        return 0.0
    return float(precision[np.searchsorted(recall, np.linspace(0, 1, 101)).clip(max=len(precision) - 1)].mean())


def _precision_cases() -> Iterator[Case]:
    """By hand, out of order, a late hit, nothing found, nothing there, by chance."""
    rng = np.random.default_rng(6)
    for words, scores, hits, targets in (
        ("for hit, miss, hit of 3 targets", [0.9, 0.8, 0.7], [1, 0, 1], 3),
        ("for all hits", [0.9, 0.8, 0.7], [1, 1, 1], 3),
        ("for scores that are not in order", [0.3, 0.9, 0.5, 0.7], [1, 1, 0, 0], 3),
        ("for misses before the hits", [0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1], 7),
        ("for misses alone", [0.9, 0.8], [0, 0], 3),
        ("for no detections", [], [], 3),
        ("for 60 detections of 37 targets", rng.permutation(60) / 60, rng.random(60) < 0.5, 37),
        ("for no targets", [0.9], [0], 0),
    ):
        yield Case((np.array(scores), np.array(hits, dtype=bool), targets), words, "the average precision")


average_precision = Exercise(
    "average_precision",
    _average_precision,
    _precision_cases,
    errors={"out of bounds": "some recalls are never reached: the precision there is 0."},
    wrong=[
        *variants(
            _averaged,
            order=[
                (
                    lambda scores: np.arange(len(scores)),
                    "the detections are not in order of score: sort first, the best first.",
                ),
                (np.argsort, "the worst detection comes first: sort by falling score, `argsort(-scores)`."),
            ],
            shown=[
                (
                    lambda hits, num_targets: num_targets,
                    "precision is divided by the number of targets: by the detections so far, 1, 2, 3, ...",
                ),
                (
                    lambda hits, num_targets: len(hits),
                    "precision is divided by the number of all detections: by those so far, 1, 2, 3, ...",
                ),
                (
                    lambda hits, num_targets: np.maximum(np.arange(len(hits)), 1),
                    "the detections so far are counted from 0: the first is number 1.",
                ),
            ],
            targets=[
                (
                    lambda hits, num_targets: hits.sum(),
                    "recall is the share of what was found: divide by `num_targets`, so that missed ones count.",
                ),
                (
                    lambda hits, num_targets: len(hits),
                    "recall is divided by the number of detections: by `num_targets`.",
                ),
            ],
            envelope=[
                (
                    lambda precision: precision,
                    "precision is taken as it is: at each recall it is the greatest at this recall or a higher one, "
                    "`np.maximum.accumulate` from the right.",
                ),
                (
                    np.maximum.accumulate,
                    "the greatest precision is taken from the left: at this recall or a higher one, from the right.",
                ),
                (
                    lambda precision: np.full_like(precision, precision.max(initial=0)),
                    "the greatest precision of all is taken everywhere: at this recall or a higher one.",
                ),
            ],
            mean=[
                (
                    _step_area,
                    "this is the area under the curve: take the mean precision at the 101 recalls 0, 0.01, ..., 1.",
                ),
                (
                    lambda recall, precision: _at_points(recall, precision, 11),
                    "these are the 11 recalls of VOC 2007: COCO takes 101, 0, 0.01, ..., 1.",
                ),
                (
                    lambda recall, precision: _at_points(recall, precision, 100),
                    "these are 100 recalls: 0, 0.01, ..., 1 are 101.",
                ),
                (
                    _reached_only,
                    "recalls that are never reached are left out: the precision there is 0.",
                ),
                (_held, "recalls that are never reached get the last precision: it is 0 there."),
                (
                    lambda recall, precision: float(precision.mean()) if len(precision) else 0.0,
                    "this is the mean over detections: take the mean over the recalls 0, 0.01, ..., 1.",
                ),
                (
                    lambda recall, precision: float(
                        np.append(precision, 0.0)[np.searchsorted(recall, np.linspace(0, 1, 101), "right")].mean()
                    ),
                    "a recall that is reached exactly counts as not reached: search from the left, `>=`.",
                ),
            ],
            of_none=[(0.0, "without targets it is undefined: nan."), (1.0, "without targets it is undefined: nan.")],
        ),
        (
            lambda scores, hits, num_targets: float(hits.sum() / max(len(hits), 1)),
            "this is the precision of all detections: average it over recalls.",
        ),
        (
            lambda scores, hits, num_targets: 100 * _average_precision(scores, hits, num_targets),
            "these are percent: return a share, 0 to 1.",
        ),
        (
            lambda scores, hits, num_targets: _averaged(envelope=lambda p: p, mean=_step_area)(
                scores, hits, num_targets
            ),
            "this is the area under the raw curve: take the greatest precision at this recall or a higher one, and the "
            "mean at the 101 recalls.",
        ),
    ],
)


# ----------------------------------------------------------- merge_panoptic


def _merge_panoptic(semantic: Tensor, objects: Instances) -> tuple[Tensor, Tensor]:
    """semantic uint8 (H, W), objects by falling score -> labels uint8 (H, W), 255 void, and ids int32 (H, W)."""
    return evaluation.merge_panoptic(semantic, objects, score=0.0)


def _merged(
    order: Callable[[int], Iterable[int]] = range,
    enough: Callable[[Tensor, Tensor], Tensor] = lambda free, mask: free.sum() > 0.5 * mask.sum(),
    taken: Callable[[Tensor, Tensor], Tensor] = lambda mask, ids: mask & (ids == 0),
    number: Callable[[int, int], int] = lambda index, label: index + 1,
    rest: Callable[[Tensor], Tensor] = lambda semantic: torch.where(semantic == 0, 0, 255),
    left_out_takes: bool = False,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Merging made of its parts, one of which is wrong.

    Args:
        order: in which objects are laid down.
        enough: whether what is free of an object is enough of it.
        taken: the pixels that an object asks for.
        number: its id, from its index and class.
        rest: labels where no object lies.
        left_out_takes: an object that is left out keeps others from its pixels all the same.
    """

    def answer(semantic: Tensor, objects: Instances) -> tuple[Tensor, Tensor]:
        labels, ids = rest(semantic).to(torch.uint8), torch.zeros(semantic.shape, dtype=torch.int32)
        blocked = torch.zeros_like(ids)
        for index in order(len(objects)):
            mask, label = objects.masks[index], int(objects.labels[index])
            free = taken(mask, ids + blocked)
            if enough(free, mask):
                labels[free], ids[free] = label, number(index, label)
            elif left_out_takes:
                blocked[mask] = 1
        return labels, ids

    return answer


def _panoptic_case(words: str, size: tuple[int, int], objects: Sequence[tuple[int, tuple[int, int, int, int]]]) -> Case:
    """Rectangles (class, (x1, y1, x2, y2)) by falling score on a label map of background, two things and void."""
    semantic = torch.zeros(size, dtype=torch.uint8)
    semantic[1:5, 2:9] = 7
    semantic[5:8, 8:13] = 15
    semantic[8, :3] = 255
    masks = torch.zeros(len(objects), *size, dtype=torch.bool)
    for mask, (_, (x1, y1, x2, y2)) in zip(masks, objects, strict=True):
        mask[y1:y2, x1:x2] = True
    boxes = torch.tensor([box for _, box in objects]).reshape(-1, 4).float()
    labels = torch.tensor([label for label, _ in objects], dtype=torch.int64)
    scores = torch.linspace(0.9, 0.6, len(objects))
    return Case((semantic, Instances(boxes, labels, masks, scores)), words)


def _panoptic_cases() -> Iterable[Case]:
    return [
        _panoptic_case("of one object", (9, 14), [(7, (2, 1, 6, 5))]),
        _panoptic_case("of two objects that overlap", (9, 14), [(7, (2, 1, 6, 5)), (15, (4, 2, 12, 6))]),
        _panoptic_case(
            "of one object behind another, half of it free", (9, 14), [(7, (0, 0, 4, 4)), (7, (2, 0, 6, 4))]
        ),
        _panoptic_case(
            "of an object that is mostly covered, and a third below it",
            (9, 14),
            [(7, (0, 0, 6, 4)), (15, (1, 1, 6, 6)), (12, (3, 3, 8, 8))],
        ),
        _panoptic_case("of no object", (9, 14), []),
    ]


def _run_panoptic(check: Check, answer: Callable, case: Case) -> Any:
    found = run_function(check, answer, case)
    pair = isinstance(found, (tuple, list)) and len(found) == 2
    check.that(pair, "return two maps: the labels, and the numbers of the objects.")
    return Parts({f"the labels {case.when}": found[0], f"the numbers {case.when}": found[1]})


merge_panoptic = Exercise(
    "merge_panoptic",
    _merge_panoptic,
    _panoptic_cases,
    run=_run_panoptic,
    wrong=[
        *variants(
            _merged,
            order=[
                (
                    lambda count: range(count)[::-1],
                    "the lowest score is laid down first: the objects come by falling score, take them in order.",
                ),
            ],
            taken=[
                (
                    lambda mask, ids: mask,
                    "a later object takes pixels of an earlier one: it gets only what is free.",
                ),
            ],
            enough=[
                (
                    lambda free, mask: free.sum() >= 0,
                    "an object that is mostly covered is kept: leave it out unless more than half of it is free.",
                ),
                (
                    lambda free, mask: free.sum() >= 0.5 * mask.sum(),
                    "an object of which exactly half is free is kept: it needs more than half.",
                ),
                (
                    lambda free, mask: free.sum() == mask.sum(),
                    "an object that is covered at all is left out: only if no more than half of it is free.",
                ),
            ],
            number=[
                (lambda index, label: index, "the numbers begin with 0, which means no object: index + 1."),
                (lambda index, label: label, "objects of a class share a number: the number is index + 1."),
            ],
            rest=[
                (
                    lambda semantic: semantic,
                    "what the label map calls a thing, and no object claims, keeps its label: it has no number, so it "
                    "is void, 255.",
                ),
                (
                    lambda semantic: torch.where((semantic == 0) | (semantic == 255), 0, 255),
                    "void of the label map becomes background: only 0 is background, all else that is left is void.",
                ),
                (
                    lambda semantic: torch.full_like(semantic, 255),
                    "all that is left is void: where the label map says background it is 0.",
                ),
                (
                    torch.zeros_like,
                    "all that is left is background: where the label map says otherwise it is void, 255.",
                ),
            ],
            left_out_takes=[
                (True, "an object that is left out still keeps its pixels from later ones: they stay free."),
            ],
        ),
        (
            lambda semantic, objects: _merge_panoptic(semantic, objects)[::-1],
            "labels and numbers are exchanged: labels come first.",
        ),
    ],
)
