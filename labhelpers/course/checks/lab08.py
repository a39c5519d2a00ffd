"""Checks of lab 08: anchors and boxes, suppression, RoI Align and RoI Pool, masks, average precision, merging."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from labhelpers.course.checks.core import Case, Check, Exercise, Parts, run_tuple
from labhelpers.course.checks.layers import NO_GRADIENT, rounding, run_loss
from labhelpers.data.instances import Instances


def _random_boxes(count: int, size: float, least: float, most: float) -> Tensor:
    low = torch.rand(count, 2) * (size - least)
    return torch.cat([low, (low + least + torch.rand(count, 2) * (most - least)).clamp_max(size)], dim=1)


# ---------------------------------------------------------------------- nms


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """boxes (N, 4), scores (N,) -> int64 (M,): the kept, best first; no two of them have an IoU above `threshold`."""
    from torchvision.ops import box_iou

    iou = box_iou(boxes, boxes)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if not (iou[index, kept] > threshold).any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)


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
    chance, order = _random_boxes(40, 40, 8, 25), torch.randperm(40) / 40
    for threshold in (0.2, 0.6):
        yield Case((chance, order, threshold), f"for 40 boxes and threshold {threshold}", "what it keeps")
    yield Case((torch.zeros(0, 4), torch.zeros(0), 0.5), "for no boxes at all", "what it keeps")


nms = Exercise(
    "nms",
    _nms,
    _nms_cases,
    errors={"only integer tensors of a single element": "an index is a whole number: `.tolist()` or `.item()`."},
    wrong={
        "the boxes are visited in the order in which they come: begin with the highest score.": {
            "scores.argsort(descending=True)": "torch.arange(len(scores))"
        },
        "it begins with the lowest score: `argsort(descending=True)`.": {"descending=True": ""},
        "an IoU of exactly the threshold is suppressed: only a greater one is.": {"> threshold": ">= threshold"},
        "it keeps what overlaps and drops the rest: turn it around.": {"> threshold": "< threshold"},
        "each overlap suppresses: only one above `threshold` does.": {"> threshold": "> 0"},
        "0.5 is written by hand: take `threshold`.": {"> threshold": "> 0.5"},
        "nothing is suppressed: compare each box with the kept ones.": {"> threshold": "> 1"},
        "a box that was suppressed still suppresses others: only kept ones do.": {
            "iou[index, kept]": "iou[index, scores > scores[index]]"
        },
        "each box is compared with the best one only: compare it with all that are kept.": {"kept]": "kept[:1]]"},
        "each box is compared with the last kept one only: compare it with all that are kept.": {"kept]": "kept[-1:]]"},
        "an empty list becomes a float tensor: `torch.tensor(kept, dtype=torch.int64)`.": {", dtype=torch.int64": ""},
        "the overlap is divided by the area of one box: by that of the union, `box_iou`.": {
            # The intersection is the share IoU / (1 + IoU) of the sum of both areas.
            "box_iou(boxes, boxes)": "box_iou(boxes, boxes)\n"
            "    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)\n"
            "    both = iou / (1 + iou) * (area[:, None] + area)\n"
            "    iou = both / area.minimum(area[:, None])"
        },
        "these are the boxes: return their indices.": {"torch.tensor(kept, dtype=torch.int64)": "boxes[kept]"},
        "these are the scores: return the indices of the kept.": {
            "torch.tensor(kept, dtype=torch.int64)": "scores[kept]"
        },
        "the indices are in the order of the boxes: return the best first.": {"tensor(kept": "tensor(sorted(kept)"},
        "it keeps the best box alone: go on with the next that is left.": {"tensor(kept": "tensor(kept[:1]"},
        "this is True or False for each box: return the indices of the kept, best first.": {
            "torch.tensor(kept, dtype=torch.int64)": "torch.isin(torch.arange(len(boxes)), torch.tensor(kept).long())"
        },
        "these are places in the sorted list: return indices into `boxes`, `order[place]`.": {
            "torch.tensor(kept, dtype=torch.int64)": "scores.argsort(descending=True).argsort()[kept]"
        },
    },
)


# ------------------------------------------------------ bilinear, roi_align


def _bilinear(features: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """features (C, H, W), x and y (...) in cells, 0 the centre of the first -> (C, ...); edges go on outside."""
    height, width = features.shape[1:]
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    of_right, of_bottom = x - left, y - top
    of_left, of_top = 1 - of_right, 1 - of_bottom
    above = of_left * features[:, top, left] + of_right * features[:, top, right]
    below = of_left * features[:, bottom, left] + of_right * features[:, bottom, right]
    return of_top * above + of_bottom * below


_CLAMPED = "x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)"
_OF_SECOND = "of_right, of_bottom = x - left, y - top"
_OF_FIRST = "of_left, of_top = 1 - of_right, 1 - of_bottom"


def _extrapolated(features: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The line through the two outermost cells goes on outside."""
    height, width = features.shape[1:]
    around = F.pad(features, (1, 1, 1, 1), mode="replicate")
    around[:, :, 0] += around[:, :, 1] - around[:, :, 2]
    around[:, :, -1] += around[:, :, -2] - around[:, :, -3]
    around[:, 0] += around[:, 1] - around[:, 2]
    around[:, -1] += around[:, -2] - around[:, -3]
    return _bilinear(around, x.clamp(-1, width) + 1, y.clamp(-1, height) + 1)


def _bilinear_cases() -> Iterator[Case]:
    """Centres, midway, anywhere in a grid of points, and up to half a cell outside."""
    features = torch.randn(3, 5, 7)
    for words, x, y in (
        ("at the centres of cells", [0.0, 3, 6], [4.0, 1, 0]),
        ("midway between cells", [0.5, 2, 5.5], [2.0, 1.5, 3.5]),
        ("anywhere inside", [[0.2, 3.7], [5.1, 1.4]], [[2.6, 0.3], [3.9, 1.8]]),
        ("up to half a cell outside", [-0.4, 6.3, 2.2, -0.5], [1.3, 2.7, 4.4, -0.3]),
        ("far outside", [-3.6, 11.2, 2.5], [1.4, 8.0, -4.1]),
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
    wrong={
        "x and y are exchanged: features are indexed `[:, y, x]`.": {_CLAMPED: f"x, y = y, x\n    {_CLAMPED}"},
        "the weights are exchanged: the cell at distance d gets 1 - d, so the nearer one gets more.": {
            _OF_SECOND: "of_left, of_top = x - left, y - top",
            _OF_FIRST: "of_right, of_bottom = 1 - of_left, 1 - of_top",
        },
        "all four cells count alike: the nearer ones get more weight.": {_OF_SECOND: "of_right = of_bottom = 0.5"},
        "it takes the cell above and to the left alone: weigh the four cells around.": {
            _OF_SECOND: "of_right = of_bottom = 0"
        },
        "it takes the nearest cell alone, which is RoI Pool's rounding: weigh the four cells around.": {
            "x - left, y - top": "(x - left >= 0.5).float(), (y - top >= 0.5).float()"
        },
        "the four cells are added up: their weights are products, and 1 together.": {
            _OF_FIRST: "of_left = of_top = of_right = of_bottom = 1"
        },
        "the weights are squared: they are (1 - d) and d in each direction, and 1 together.": {
            "1 - of_right, 1 - of_bottom": "(1 - of_right) ** 2, (1 - of_bottom) ** 2\n"
            "    of_right, of_bottom = of_right**2, of_bottom**2"
        },
        "all is shifted by half a cell: (0, 0) is the centre of the first cell here, not its corner.": {
            "x.clamp(": "(x - 0.5).clamp(",
            "y.clamp(": "(y - 0.5).clamp(",
        },
        "all is shifted by half a cell: (0, 0) is the centre of the first cell, so nothing is added.": {
            "x.clamp(": "(x + 0.5).clamp(",
            "y.clamp(": "(y + 0.5).clamp(",
        },
        "the last row and column are never reached: clamp to H - 1 and W - 1.": {
            _CLAMPED: "x, y = x.clamp(0, width - 2), y.clamp(0, height - 2)"
        },
        "outside it is 0: up to half a cell beyond the outermost centres the edge goes on; clamp the coordinates.": {
            _CLAMPED: f"inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)\n    {_CLAMPED}",
            "return of_top * above + of_bottom * below": "return inside * (of_top * above + of_bottom * below)",
        },
        "left of and above the first cell an index of -1 reads the last one: clamp the coordinates first.": {
            _CLAMPED: "x, y = x.clamp(-1, width - 1), y.clamp(-1, height - 1)"
        },
        "outside the slope goes on: clamp the coordinates before the distance is taken, so that the edge goes on.": (
            _extrapolated
        ),
        "the second cell of a pair lies on the wrong side: it is the one after, `floor() + 1`.": {
            "(left + 1).clamp(max=width - 1)": "(left - 1).clamp(min=0)",
            "(top + 1).clamp(max=height - 1)": "(top - 1).clamp(min=0)",
        },
        "the channels are averaged: each keeps its own value, (C, ...).": (
            lambda features, x, y: _bilinear(features, x, y).mean(0)
        ),
        "the channels come last: the result is (C, ...), as `features[:, y, x]` gives it.": (
            lambda features, x, y: _bilinear(features, x, y).movedim(0, -1)
        ),
    },
)


def _roi_align(features: Tensor, box: Tensor, size: int, scale: float) -> Tensor:
    """features (C, H, W), box (4,) in pixels -> (C, size, size): four points a bin, aligned."""
    x0, y0, x1, y1 = box * scale - 0.5
    shares = ((torch.arange(size)[:, None] + torch.tensor([0.25, 0.75])) / size).flatten()
    y, x = torch.meshgrid(y0 + shares * (y1 - y0), x0 + shares * (x1 - x0), indexing="ij")
    points = _bilinear(features, x, y)
    return F.avg_pool2d(points, 2)


def _pooled(features: Tensor, box: Tensor, size: int, scale: float) -> Tensor:
    from torchvision.ops import roi_pool

    return roi_pool(features[None], [box[None]], size, scale)[0]


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
    wrong={
        "it reads half a cell too far to the right and below: the centre of the first cell is 0 for `bilinear`, and "
        "0.5 cells from the image's corner, so subtract 0.5.": {"box * scale - 0.5": "box * scale"},
        "`scale` is not used: the box is in pixels, the features in cells.": {"box * scale": "box"},
        "it divides by `scale`: pixels times scale are cells.": {"box * scale": "box / scale"},
        "it subtracts half a pixel: half a cell, after scaling.": {"box * scale - 0.5": "(box - 0.5) * scale"},
        "the box is rounded to whole cells: that is RoI Pool, and RoI Align is there to avoid it.": {
            "box * scale": "(box * scale).round()"
        },
        "x and y are exchanged: (x1, y1, x2, y2).": {"x0, y0, x1, y1": "y0, x0, y1, x1"},
        "a side is taken as a cell at least: a box smaller than a cell keeps its size.": {
            "(y1 - y0)": "(y1 - y0).clamp_min(1)",
            "(x1 - x0)": "(x1 - x0).clamp_min(1)",
        },
        "the sides are one cell too long: they are x2 - x1 and y2 - y1, no + 1.": {
            "(y1 - y0)": "(y1 - y0 + 1)",
            "(x1 - x0)": "(x1 - x0 + 1)",
        },
        "a side is divided into size - 1 bins: there are `size`.": {"/ size": "/ (size - 1)"},
        "one point a bin, in its middle: take 2 x 2, at 1/4 and 3/4 of its sides.": {"0.25, 0.75": "0.5, 0.5"},
        "the points begin at the corner of a bin: they lie at 1/4 and 3/4 of its sides.": {"0.25, 0.75": "0.0, 0.5"},
        "the points are the corners of a bin: they lie at 1/4 and 3/4 of its sides.": {"0.25, 0.75": "0.0, 1.0"},
        "the points lie at 1/3 and 2/3 of a bin: its halves have their middles at 1/4 and 3/4.": {
            "0.25, 0.75": "1 / 3, 2 / 3"
        },
        "it takes 3 x 3 points a bin: take 2 x 2.": {"0.25, 0.75": "1 / 6, 1 / 2, 5 / 6", "(points, 2)": "(points, 3)"},
        "it takes the greatest of the points, as RoI Pool does: take the mean.": {"avg_pool2d": "max_pool2d"},
        "the points of a bin are added up: take their mean.": {"F.avg_pool2d(": "4 * F.avg_pool2d("},
        "rows and columns are exchanged: the result is (C, row, column).": {"(points, 2)": "(points, 2).mT"},
        "this is RoI Pool, whole cells and their maxima: read 2 x 2 points a bin between the cells.": _pooled,
        "these are the points themselves, 2 x 2 a bin: take the mean of each four.": {
            "F.avg_pool2d(points, 2)": "points"
        },
    },
)


# --------------------------------------------------------------- paste_mask


def _paste_mask(small: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """small (M, M), 0 to 1, box (4,) in pixels, size (H, W) -> bool (H, W): where it is at least 0.5 in the box."""
    x1, y1, x2, y2 = box
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    x, y = (x - x1) / (x2 - x1), (y - y1) / (y2 - y1)
    values = _bilinear(small[None], x * small.shape[1] - 0.5, y * small.shape[0] - 0.5)[0]
    inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
    return (values >= 0.5) & inside


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
    wrong={
        "it takes the upper left corners of pixels: the centre of pixel i lies at i + 0.5, as a box counts.": {
            "arange(size[0]) + 0.5": "arange(size[0])",
            "arange(size[1]) + 0.5": "arange(size[1])",
        },
        "the mask is shifted by half a cell: `bilinear` counts from the first centre, so subtract 0.5.": {
            "small.shape[1] - 0.5": "small.shape[1]",
            "small.shape[0] - 0.5": "small.shape[0]",
        },
        "the mask is stretched from its first to its last centre: its cells fill the box, share * M - 0.5.": {
            "small.shape[1] - 0.5": "(small.shape[1] - 1)",
            "small.shape[0] - 0.5": "(small.shape[0] - 1)",
        },
        "shares of the box are taken for cells: times M, the mask's side.": {
            "x * small.shape[1]": "x",
            "y * small.shape[0]": "y",
        },
        "the mask goes on outside of the box: where a pixel's centre is not in the box it is False.": {" & inside": ""},
        "above and below the box it goes on: a pixel's centre must be in the box in both directions.": {
            " & (y >= 0) & (y < 1)": ""
        },
        "left and right of the box it goes on: a pixel's centre must be in the box in both directions.": {
            "(x >= 0) & (x < 1) & ": ""
        },
        "the mask fills the image: it belongs into the box.": {"= box": "= 0, 0, size[1], size[0]"},
        "the mask lies in the image's corner: it begins at x1, y1.": {"= box": "= 0, 0, *(box[2:] - box[:2])"},
        "the box is rounded: nothing is, as in RoI Align.": {"= box": "= box.round()"},
        "the box is rounded down: nothing is, as in RoI Align.": {"= box": "= box.floor()"},
        "x and y are exchanged: a box is (x1, y1, x2, y2).": {"x1, y1, x2, y2": "y1, x1, y2, x2"},
        "it takes the nearest cell: read between cells with `bilinear`.": {
            "x * small.shape[1] - 0.5": "(x * small.shape[1]).floor()",
            "y * small.shape[0] - 0.5": "(y * small.shape[0]).floor()",
        },
        "the mask is turned: `bilinear` takes x first, then y.": {"small[None]": "small.T[None]"},
        "it decides before it enlarges: read between cells first, then `>= 0.5`.": {
            "small[None]": "(small >= 0.5).float()[None]"
        },
        "these are probabilities: a pixel belongs to the object from 0.5 on.": {
            "(values >= 0.5) & inside": "values * inside"
        },
        "all that is above 0 belongs to the mask: from 0.5 on.": {"values >= 0.5": "values > 0"},
        "the mask is turned around: True is from 0.5 on.": {"(values >= 0.5) & inside": "(values < 0.5) | ~inside"},
    },
)


# ----------------------------------------------------------- roi_pool_error


def _roi_pool_error(box: Tensor, stride: int) -> Tensor:
    """box (4,) in pixels -> (4,): the edges of the cells that RoI Pool reads, minus those of the box, in pixels."""
    first = (box[:2] / stride + 0.5).floor()
    last = (box[2:] / stride + 0.5).floor()
    window = torch.cat([first * stride, (last + 1) * stride])
    return window - box


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
    wrong={
        "the window ends before its last cell: that of the lower right corner is read as well, so the window ends a "
        "cell later.": {"last + 1": "last"},
        "the window ends a pixel behind the last cell's beginning: it ends a whole cell behind, + stride.": {
            "(last + 1) * stride": "last * stride + 1"
        },
        "the sign is turned around: window minus box.": {"window - box": "box - window"},
        "the sign is lost: negative is to the left or above.": {"window - box": "(window - box).abs()"},
        "these are cells: times stride they are pixels.": {"window - box": "(window - box) / stride"},
        "this is the window: subtract the box.": {"window - box": "window"},
        "cells minus pixels: bring both to pixels first.": {"window - box": "window / stride - box"},
        "the first cell is rounded down: RoI Pool rounds to the nearest.": {
            "box[:2] / stride + 0.5": "box[:2] / stride"
        },
        "the upper left corner is not rounded: RoI Pool takes whole cells.": {
            "(box[:2] / stride + 0.5).floor()": "box[:2] / stride"
        },
        "the last cell is rounded down: RoI Pool rounds to the nearest.": {
            "box[2:] / stride + 0.5": "box[2:] / stride"
        },
        "the last cell is rounded up: RoI Pool rounds to the nearest.": {
            "(box[2:] / stride + 0.5).floor()": "(box[2:] / stride).ceil()"
        },
        "the lower right corner is not rounded: RoI Pool takes whole cells.": {
            "(box[2:] / stride + 0.5).floor()": "box[2:] / stride"
        },
        "both corners are rounded down: RoI Pool rounds to the nearest cell.": {"/ stride + 0.5": "/ stride"},
        "these are all cells that the box touches: RoI Pool rounds both corners to the nearest cell, and the last one "
        "is read as well.": {
            "box[:2] / stride + 0.5": "box[:2] / stride",
            "(box[2:] / stride + 0.5).floor()": "(box[2:] / stride).ceil()",
            "last + 1": "last",
        },
    },
)


# ------------------------------------------------------------ match_anchors


def _match_anchors(iou: Tensor, high: float = 0.7, low: float = 0.3) -> tuple[Tensor, Tensor]:
    """iou (N, A) of objects and anchors -> int64 (A,) 1, 0 or -1 (neither), and int64 (A,): each anchor's object."""
    greatest, objects = iou.max(0)
    best = (iou == iou.amax(1, keepdim=True)).any(0)
    labels = torch.full((iou.shape[1],), -1)
    labels[greatest < low] = 0
    labels[(greatest >= high) | best] = 1
    return labels, objects


def _best_objects(iou: Tensor, high: float = 0.7, low: float = 0.3) -> tuple[Tensor, Tensor]:
    """An anchor that is best for an object belongs to that one."""
    labels, objects = _match_anchors(iou, high, low)
    objects[iou.argmax(1)] = torch.arange(len(iou))
    return labels, objects


def _match_cases() -> Iterator[Case]:
    """Thresholds met exactly, an object without a good anchor, ties, an anchor that two objects want, by chance.

    No anchor has the same IoU with two objects: the exercise does not say which of them is its object.
    """
    for words, iou in (
        ("of one object", [[0.9, 0.5, 0.1, 0.7, 0.3, 0.29]]),
        ("where no anchor fits the second object well", [[0.8, 0.2, 0.1, 0.4], [0.0, 0.1, 0.25, 0.15]]),
        ("where two anchors fit equally well", [[0.45, 0.2, 0.45, 0.1]]),
        ("where an object's best anchor fits another object better", [[0.4, 0.1, 0.2], [0.5, 0.6, 0.1]]),
        ("of an object that no anchor fits", [[0.05, 0.09, 0.02], [0.8, 0.05, 0.4]]),
    ):
        yield Case((torch.tensor(iou),), words)
    chance = torch.rand(5, 40) ** 2
    yield Case((chance,), "of 5 objects and 40 anchors")
    yield Case((chance, 0.5, 0.1), "of 5 objects and 40 anchors, for high=0.5 and low=0.1")


match_anchors = Exercise(
    "match_anchors",
    _match_anchors,
    _match_cases,
    run=run_tuple(
        "two tensors: the labels of the anchors, and the objects that they belong to",
        "the labels",
        "the objects of the anchors",
    ),
    wrong={
        "an object of which no anchor has an IoU of `high` gets none: its best anchors are positive, too.": {
            " | best": ""
        },
        "of several equally good anchors only the first is taken: all that reach the object's greatest IoU are "
        "positive.": {
            "(iou == iou.amax(1, keepdim=True)).any(0)": "torch.isin(torch.arange(iou.shape[1]), iou.argmax(1))"
        },
        "an object's best anchor is positive only from some IoU on: it is positive in any case.": [
            {"| best": "| best & (greatest >= 0.1)"},
            {"| best": "| best & (greatest >= 0.2)"},
        ],
        "only the best anchor of all is taken: each object has its own best, `iou.amax(1)`.": {
            "iou.amax(1, keepdim=True)": "iou.max()"
        },
        "an object's best anchors are negative if their IoU is below `low`: make them positive last.": {
            "| best": "| best & (greatest >= low)"
        },
        "an object's best anchor is left out if it fits another object better: it is positive, too.": {
            "(iou == iou.amax(1, keepdim=True))": "((iou == iou.amax(1, keepdim=True)) & (iou == iou.amax(0)))"
        },
        "all anchors are positive: is the best of each anchor taken for the best of each object?": {
            "iou.amax(1, keepdim=True)": "iou.amax(0)"
        },
        "what lies between the thresholds is negative: it is neither, -1.": {", -1)": ", 0)"},
        "negative and neither are exchanged: negative is 0, neither -1.": {", -1)": ", 0)", "low] = 0": "low] = -1"},
        "negative is 0: only what lies between the thresholds is -1.": {"low] = 0": "low] = -1"},
        "positive and negative are exchanged: positive is 1.": {"low] = 0": "low] = 1", "best] = 1": "best] = 0"},
        "these are torchvision's numbers: here negative is 0, and neither is -1.": {
            ", -1)": ", -2)",
            "low] = 0": "low] = -1",
        },
        "an IoU of exactly `high` is positive, too: `>=`.": {">= high": "> high"},
        "an IoU of exactly `low` is not negative yet: `<`.": {"< low": "<= low"},
        "an anchor's object is the one with which its own IoU is greatest, also if it is another's best.": (
            _best_objects
        ),
        "anchors that are not positive get -1 as their object: give each its best one, `iou.argmax(0)`.": {
            "return labels, objects": "return labels, torch.where(labels == 1, objects, -1)"
        },
        "the objects are counted from 1: the first has index 0.": {
            "return labels, objects": "return labels, objects + 1"
        },
        "these are the best anchors of the objects: return the best object of each anchor, `argmax(0)`.": {
            "return labels, objects": "return labels, iou.argmax(1)"
        },
        "`high` and `low` are not used: are 0.7 and 0.3 written by hand?": {"< low": "< 0.3", ">= high": ">= 0.7"},
        "labels and objects are exchanged: labels come first.": {"return labels, objects": "return objects, labels"},
    },
)


# ------------------------------------------------- encode_boxes, decode_boxes


def _encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """boxes and anchors (N, 4), corners in pixels -> (N, 4): tx, ty, tw, th (Girshick et al., 2014, appendix C)."""
    from torchvision.ops import box_convert

    boxes, anchors = (box_convert(corners, "xyxy", "cxcywh") for corners in (boxes, anchors))
    unit = anchors[:, 2:]
    shift = (boxes[:, :2] - anchors[:, :2]) / unit
    growth = (boxes[:, 2:] / anchors[:, 2:]).log()
    return torch.cat([shift, growth], dim=1)


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
    wrong={
        "boxes and anchors are exchanged: the code says how the anchor is to move and grow to become the box.": (
            lambda boxes, anchors: _encode_boxes(anchors, boxes)
        ),
        "it compares the upper left corners: the shift is that of the centres, (x1 + x2) / 2.": {
            "(boxes[:, :2] - anchors[:, :2])": "(boxes[:, :2] - boxes[:, 2:] / 2 - anchors[:, :2] + anchors[:, 2:] / 2)"
        },
        "half a side is taken for the centre: it is x1 + w / 2.": {
            "shift = (boxes[:, :2] - anchors[:, :2])": "shift = (boxes[:, 2:] / 2 - anchors[:, 2:] / 2)"
        },
        "the centre is (x1 + x2) / 2: is the half missing?": {"shift = (": "shift = 2 * ("},
        "the sign of the shift is turned around: box minus anchor.": {"shift = (": "shift = -("},
        "a side is one pixel too long: x2 is exclusive here, so a side is x2 - x1.": {
            "unit = anchors[:, 2:]": "unit = anchors[:, 2:] + 1",
            "boxes[:, 2:] / anchors[:, 2:])": "(boxes[:, 2:] + 1) / (anchors[:, 2:] + 1))",
        },
        "width and height are exchanged: the width belongs to x.": {
            "unit = anchors[:, 2:]": "unit = anchors[:, [3, 2]]",
            "boxes[:, 2:] / anchors[:, 2:])": "boxes[:, [3, 2]] / anchors[:, [3, 2]])",
        },
        "the shift is divided by the sides of the box: by the anchor's.": {"unit = anchors": "unit = boxes"},
        "the shift is in pixels: divide it by the anchor's sides, so that it means the same at each size.": {
            "unit = anchors[:, 2:]": "unit = 1"
        },
        "both shifts are divided by the anchor's width: ty is divided by its height.": {
            "unit = anchors[:, 2:]": "unit = anchors[:, 2:3]"
        },
        "the logarithm of the sides' ratio is missing: log(w / w_a).": {".log()": ""},
        "the ratio is turned upside down: log(w of the box / w of the anchor).": {".log()": ".log().neg()"},
        "this is the logarithm to base 2: `torch.log`.": {".log()": ".log2()"},
        "this is the logarithm to base 10: `torch.log`.": {".log()": ".log10()"},
        "this is the relative growth: take the logarithm of the ratio.": {".log()": " - 1"},
        "the anchor's sides are missing in tw and th: log(w / w_a).": {
            "boxes[:, 2:] / anchors[:, 2:])": "boxes[:, 2:])"
        },
        "the order is tx, tw, ty, th: put both shifts first.": {
            "torch.cat([shift, growth], dim=1)": "torch.stack([shift, growth], dim=2).flatten(1)"
        },
        "the scales come first: shifts come first.": {"[shift, growth]": "[growth, shift]"},
        "the code is weighted by 10 and 5, as in torchvision's second stage: here all weights are 1.": {
            "[shift, growth]": "[10 * shift, 5 * growth]"
        },
        "this is (4, N): a box is a row.": {"dim=1)": "dim=1).T"},
    },
)


def _decode_boxes(codes: Tensor, anchors: Tensor) -> Tensor:
    """codes and anchors (N, 4) -> boxes (N, 4), corners in pixels; tw and th count as at most log(1000 / 16)."""
    from torchvision.ops import box_convert

    anchors = box_convert(anchors, "xyxy", "cxcywh")
    centres = anchors[:, :2] + anchors[:, 2:] * codes[:, :2]
    growth = codes[:, 2:].clamp(max=math.log(1000 / 16))
    sides = anchors[:, 2:] * growth.exp()
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


def _decode_cases() -> Iterator[Case]:
    anchor = torch.tensor([[10.0, 20.0, 50.0, 40.0]])
    for words, code in (
        ("of the code 0, 0, 0, 0", (0.0, 0, 0, 0)),
        ("of the code 0.25, 0, 0, 0", (0.25, 0, 0, 0)),
        ("of the code 0, 0, 0, log 2", (0, 0, 0, math.log(2))),
        ("of the code 5, -6, -6, 0: only tw and th are limited, and only above", (5, -6, -6, 0)),
    ):
        yield Case((torch.tensor([code]), anchor), words, "the box")
    boxes, anchors = _pairs()
    yield Case((_encode_boxes(boxes, anchors), anchors), "of 6 codes", "the boxes")
    yield Case(
        (torch.tensor([[0.1, -0.2, 80.0, 6.0]]), anchor),
        "where tw is 80, as an untrained network may say",
        "the box",
        remedy=f"clamp tw and th to at most log(1000 / 16) = {math.log(1000 / 16):.2f} before `exp`.",
    )


decode_boxes = Exercise(
    "decode_boxes",
    _decode_boxes,
    _decode_cases,
    tolerance=rounding,
    wrong={
        "a great tw makes a box infinitely wide: clamp tw and th to at most log(1000 / 16) before `exp`.": {
            ".clamp(max=math.log(1000 / 16))": ""
        },
        "tw and th are clamped to 1000 / 16: to its logarithm.": {"math.log(1000 / 16))": "1000 / 16)"},
        "the limit of tw and th is a logarithm to base 10: take the natural one, `math.log`.": {
            "math.log(": "math.log10("
        },
        "`exp` is missing: a side is the anchor's times exp(t).": {"growth.exp()": "growth"},
        "a side is exp(t) alone: times the anchor's side.": {"anchors[:, 2:] * growth.exp()": "growth.exp()"},
        "exp(t) is added to the side: it multiplies it.": {"* growth.exp()": "+ growth.exp()"},
        "a side is the anchor's times exp(t), not times 1 + t.": {"growth.exp()": "(1 + growth)"},
        "this is a power of 2: `torch.exp`.": {"growth.exp()": "growth.exp2()"},
        "the side is divided by exp(t): multiply.": {"* growth.exp()": "/ growth.exp()"},
        "the box keeps the anchor's sides: they grow by exp(tw) and exp(th).": {" * growth.exp()": ""},
        "the shift is taken as pixels: it is in sides of the anchor, tx times its width.": {
            "anchors[:, 2:] * codes": "codes"
        },
        "the shift goes the other way: add it.": {"+ anchors[:, 2:] * codes": "- anchors[:, 2:] * codes"},
        "width and height are exchanged: tx is times the width, ty times the height.": {
            "anchors[:, 2:] * codes": "anchors[:, [3, 2]] * codes"
        },
        "tx and ty are clamped, too: only tw and th are, and only from above.": [
            {"codes[:, :2]": "codes[:, :2].clamp(max=math.log(1000 / 16))"},
            {"codes[:, :2]": "codes[:, :2].clamp(-math.log(1000 / 16), math.log(1000 / 16))"},
        ],
        "tw and th are clamped from below, too: a very small box is no harm, `clamp(max=...)`.": {
            "clamp(max=": "clamp(-math.log(1000 / 16), "
        },
        "the box stays where the anchor is: its centre moves by tx and ty.": {" + anchors[:, 2:] * codes[:, :2]": ""},
        "these are centres and sides: return corners, the centre minus and plus half a side.": {
            "[centres - sides / 2, centres + sides / 2]": "[centres, sides]"
        },
        "the box is twice as large: corners lie half a side from the centre.": {"sides / 2": "sides"},
        "the centre is taken for the upper left corner: that lies half a side before.": {
            "[centres - sides / 2, centres + sides / 2]": "[centres, centres + sides]"
        },
        "x2 and y2 are exclusive here: without the - 1.": {"centres + sides / 2": "centres + sides / 2 - 1"},
        "it starts from the anchor's upper left corner: the shift is that of the centre.": {
            "= anchors[:, :2]": "= anchors[:, :2] - anchors[:, 2:] / 2"
        },
        "half a side is taken for the anchor's centre: add x1 and y1.": {"= anchors[:, :2]": "= anchors[:, 2:] / 2"},
    },
)


# ------------------------------------------------------------------ propose


def _propose(
    scores: Tensor, codes: Tensor, anchors: Tensor, size: tuple[int, int], count: int, threshold: float
) -> tuple[Tensor, Tensor]:
    """scores (A,), codes and anchors (A, 4), size (H, W) -> boxes (M, 4) and their scores (M,), best first."""
    from torchvision.ops import clip_boxes_to_image

    best = scores.topk(min(count, len(scores))).indices
    boxes = _decode_boxes(codes[best], anchors[best])
    boxes, scores = clip_boxes_to_image(boxes, size), scores[best]
    kept = _nms(boxes, scores, threshold)
    return boxes[kept], scores[kept]


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


propose = Exercise(
    "propose",
    _propose,
    _proposal_cases,
    run=run_tuple("two tensors: the boxes that are kept, and their scores", "the boxes", "the scores"),
    tolerance=1e-3,
    errors={"selected index k out of range": "a level may have fewer anchors than `count`: min(count, len(scores))."},
    wrong={
        "all anchors are decoded: take the `count` best first, `scores.topk(...)`.": {
            "scores.topk(min(count, len(scores))).indices": "torch.arange(len(scores))"
        },
        "the first anchors are taken: take the best, `scores.topk(...)`.": {
            "scores.topk(min(count, len(scores))).indices": "torch.arange(min(count, len(scores)))"
        },
        "the anchors with the lowest scores are taken: take the best.": {"len(scores))": "len(scores)), largest=False"},
        "the anchors are not corrected: `decode_boxes(codes, anchors)`.": {
            "_decode_boxes(codes[best], anchors[best])": "anchors[best]"
        },
        "the boxes move the other way: `decode_boxes(codes, anchors)` does it right.": {"codes[best]": "-codes[best]"},
        "boxes reach beyond the image: clip them to 0 ... width and 0 ... height, before they are suppressed.": {
            "clip_boxes_to_image(boxes, size)": "boxes"
        },
        "height and width are exchanged: size is (H, W), and x goes to W.": {"boxes, size)": "boxes, size[::-1])"},
        "boxes are clipped a pixel too early: x2 and y2 lie behind the last pixel, so up to width and height.": {
            "boxes, size)": "boxes, (size[0] - 1, size[1] - 1))"
        },
        "boxes are clipped at 0 only: to width and height, too.": {
            "clip_boxes_to_image(boxes, size)": "boxes.clamp(min=0)"
        },
        "nothing is suppressed: `nms(boxes, scores, threshold)` tells which to keep.": {
            "_nms(boxes, scores, threshold)": "torch.arange(len(boxes))"
        },
        "0.7 is written by hand: take `threshold`.": {"_nms(boxes, scores, threshold)": "_nms(boxes, scores, 0.7)"},
        "the worst suppress the best: nms takes the scores as they are.": {"(boxes, scores,": "(boxes, -scores,"},
        "the scores are not those of the kept boxes: index both in the same way, `[kept]`.": {
            "scores[kept]": "scores[: len(kept)]"
        },
        "the worst comes first: the best first, as `nms` gives it.": {
            "_nms(boxes, scores, threshold)": "_nms(boxes, scores, threshold).flip(0)"
        },
        "boxes and scores are exchanged: boxes come first.": {"boxes[kept], scores[kept]": "scores[kept], boxes[kept]"},
        "the scores went through a sigmoid: hand them on as they came in.": {"scores[kept]": "scores[kept].sigmoid()"},
        "the boxes are clipped after suppression: before, since clipped boxes overlap differently.": {
            "clip_boxes_to_image(boxes, size)": "boxes",
            "boxes[kept]": "clip_boxes_to_image(boxes, size)[kept]",
        },
    },
)


# ---------------------------------------------------------------- mask_loss


def _mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """logits (N, K, h, w), labels int64 (N,), targets float (N, h, w), 0 to 1 -> scalar; 0 for no objects."""
    x = logits[torch.arange(len(labels)), labels]
    y = targets
    terms = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    return terms.sum() / max(terms.numel(), 1)


_TRUE = "[torch.arange(len(labels)), labels]"
_TERMS = 'F.binary_cross_entropy_with_logits(x, y, reduction="none")'
_COUNT = "terms.sum() / max(terms.numel(), 1)"


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
    wrong={
        NO_GRADIENT: {_COUNT: f"({_COUNT}).detach()"},
        "all K maps are compared, those of other classes with zeros: only the map of the true class has a loss, so "
        "that classes do not compete.": {
            _TRUE: "",
            "y = targets": "y = targets[:, None] * F.one_hot(labels, logits.shape[1])[:, :, None, None]",
        },
        "all K maps are compared with the mask: only that of the true class is, `logits[arange, labels]`.": {
            _TRUE: "",
            "y = targets": "y = targets[:, None].expand_as(logits)",
        },
        "it takes the greatest logit of each pixel, whatever the class: take the map of the true class.": {
            _TRUE: ".amax(1)"
        },
        "it takes the map that is greatest on the whole: the class is told, `labels`.": {
            ", labels]": ", logits.mean((2, 3)).argmax(1)]"
        },
        "the maps of all classes are averaged: take the map of the true class.": {_TRUE: ".mean(1)"},
        "it takes the map before that of the class: map k belongs to label k, background included.": {
            ", labels]": ", labels - 1]"
        },
        "it takes the map behind that of the class: map k belongs to label k.": {
            ", labels]": ", (labels + 1) % logits.shape[1]]"
        },
        "it takes map 0 of each object: take the map of its class.": {_TRUE: "[:, 0]"},
        "it takes the class of the first object for all: each has its own, `logits[arange, labels]`.": {
            ", labels]": ", labels[:1]]"
        },
        "the mask is turned around: it is 1 where the object is.": {"y = targets": "y = 1 - targets"},
        "the mask is rounded: its values between 0 and 1, where an edge runs through a cell, are targets as they "
        "are.": {"y = targets": "y = (targets > 0.5).float()"},
        "the sigmoid is taken twice: `..._with_logits` takes logits.": {"(x, y": "(x.sigmoid(), y"},
        "very sure logits give a sigmoid of exactly 0 or 1, and no gradient: `binary_cross_entropy_with_logits` stays "
        "exact.": {"_with_logits(x": "(x.sigmoid()"},
        "only pixels of the object count: (1 - y) log(1 - p) is missing.": {_TERMS: "-y * F.logsigmoid(x)"},
        "only pixels beside the object count: y log p is missing.": {_TERMS: "-(1 - y) * F.logsigmoid(-x)"},
        "the sign is wrong: the loss is minus the mean of the logarithms.": {_TERMS: f"-{_TERMS}"},
        "this is the squared error: take binary cross-entropy.": {_TERMS: "(x.sigmoid() - y) ** 2"},
        "it is the sum: take the mean over objects and pixels.": {_COUNT: "terms.sum()"},
        "it is summed over the pixels of an object: take the mean over them, too.": {"terms.numel()": "len(terms)"},
        "without an object the mean is nan: divide the sum by the number of terms or 1.": {_COUNT: "terms.mean()"},
        "this is cross-entropy with a softmax over classes, in which they compete: take a sigmoid of the true class's "
        "map alone.": lambda logits, labels, targets: F.cross_entropy(logits, (targets > 0.5) * labels[:, None, None]),
    },
)


# --------------------------------------- match_detections, average_precision


def _match_detections(iou: np.ndarray, threshold: float) -> np.ndarray:
    """iou (N, M) of detections, best score first, and targets -> bool (N,): which are hits."""
    hits = np.zeros(len(iou), dtype=bool)
    free = np.ones(iou.shape[1], dtype=bool)
    for i in range(len(iou)):
        good = np.where(free & (iou[i] >= threshold), iou[i], -1)
        if (good >= 0).any():
            hits[i] = True
            free[good.argmax()] = False
    return hits


def _by_targets(iou: np.ndarray, threshold: float) -> np.ndarray:
    """Each target takes the detection that fits it best."""
    hits = np.zeros(len(iou), dtype=bool)
    for column in iou.T if len(iou) else ():
        hits[column.argmax()] |= column.max() >= threshold
    return hits


def _best_pair_first(iou: np.ndarray, threshold: float) -> np.ndarray:
    hits, left = np.zeros(len(iou), dtype=bool), iou.astype(float)
    while left.max(initial=-1) >= threshold:
        row, column = np.unravel_index(left.argmax(), left.shape)
        hits[row] = True
        left[row], left[:, column] = -1, -1
    return hits


def _best_on_the_whole(iou: np.ndarray, threshold: float) -> np.ndarray:
    """By the Hungarian algorithm."""
    hits = np.zeros(len(iou), dtype=bool)
    rows, columns = linear_sum_assignment(np.where(iou >= threshold, iou, 0), maximize=True)
    hits[rows] = iou[rows, columns] >= threshold
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
    wrong={
        "a target is found twice: the second detection of an object is a double, and wrong.": {"= False": "= True"},
        "a detection whose best target is taken is wrong at once: it takes the best of the free ones.": {
            "free & (iou[i] >= threshold)": "free & (iou[i] >= max(threshold, iou[i].max(initial=0)))"
        },
        "a detection takes the first target that is good enough: it takes the best of the free ones.": {
            "iou[i], -1": "1, -1"
        },
        "an IoU of exactly the threshold is a hit, too: `>=`.": {">= threshold": "> threshold"},
        "the worst detection chooses first: the rows are in order of score, go from the first to the last.": {
            "range(len(iou))": "reversed(range(len(iou)))"
        },
        "each target takes the detection that fits best: detections choose, in order of their scores.": _by_targets,
        "the pair of the greatest IoU is matched first: detections choose, in order of their scores.": _best_pair_first,
        "the matching is the best on the whole: detections choose, in order of their scores.": _best_on_the_whole,
        "hits and misses are exchanged: True is a hit.": {"return hits": "return ~hits"},
        "0.5 is written by hand: take `threshold`.": {">= threshold": ">= 0.5"},
        "these are the indices of the hits: return True or False for each detection.": {
            "return hits": "return np.flatnonzero(hits)"
        },
        "this is the number of hits: return True or False for each detection.": {
            "return hits": "return np.float64(hits.sum())"
        },
        "rows and columns are exchanged: a row belongs to a detection.": (
            lambda iou, threshold: _match_detections(iou.T, threshold)
        ),
    },
)


def _average_precision(scores: np.ndarray, hits: np.ndarray, num_targets: int) -> float:
    """scores (N,), hits bool (N,) -> mean precision at the recalls 0, 0.01, ..., 1; nan without targets."""
    if num_targets == 0:
        return math.nan
    order = np.argsort(-scores, kind="stable")
    found = hits[order].cumsum()
    precision = found / np.arange(1, len(hits) + 1)
    recall = found / num_targets
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101))
    return float(np.append(precision, 0)[places].mean())


_ENVELOPE = "np.maximum.accumulate(precision[::-1])[::-1]"
_MEAN = "np.append(precision, 0)[places].mean()"
_AREA = "(np.diff(recall, prepend=0) * precision).sum()"


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
        ("for recalls that are multiples of 0.01", [0.9, 0.8, 0.7, 0.6, 0.5], [1, 0, 1, 1, 0], 4),
        ("for no targets", [0.9], [0], 0),
        ("for no targets and no detections", [], [], 0),
    ):
        yield Case((np.array(scores), np.array(hits, dtype=bool), targets), words, "the average precision")


average_precision = Exercise(
    "average_precision",
    _average_precision,
    _precision_cases,
    errors={"out of bounds": "some recalls are never reached: the precision there is 0."},
    wrong={
        "the detections are not in order of score: sort first, the best first.": {"hits[order]": "hits"},
        "the worst detection comes first: sort by falling score, `argsort(-scores)`.": {"-scores": "scores"},
        "precision is divided by the number of targets: by the detections so far, 1, 2, 3, ...": {
            "np.arange(1, len(hits) + 1)": "num_targets"
        },
        "precision is divided by the number of all detections: by those so far, 1, 2, 3, ...": {
            "np.arange(1, len(hits) + 1)": "len(hits)"
        },
        "the detections so far are counted from 0: the first is number 1.": {
            "np.arange(1, len(hits) + 1)": "np.maximum(np.arange(len(hits)), 1)"
        },
        "recall is the share of what was found: divide by `num_targets`, so that missed ones count.": {
            "/ num_targets": "/ max(hits.sum(), 1)"
        },
        "recall is divided by the number of detections: by `num_targets`.": {"/ num_targets": "/ max(len(hits), 1)"},
        "precision is taken as it is: at each recall it is the greatest at this recall or a higher one, "
        "`np.maximum.accumulate` from the right.": {_ENVELOPE: "precision"},
        "the greatest precision is taken from the left: at this recall or a higher one, from the right.": {
            _ENVELOPE: "np.maximum.accumulate(precision)"
        },
        "the greatest precision of all is taken everywhere: at this recall or a higher one.": {
            _ENVELOPE: "np.full_like(precision, precision.max(initial=0))"
        },
        "this is the area under the curve: take the mean precision at the 101 recalls 0, 0.01, ..., 1.": [
            {_MEAN: _AREA},
            {_MEAN: "np.trapezoid(precision, recall)"},
        ],
        "precision is interpolated between recalls: it is the greatest at this recall or a higher one, a staircase.": {
            _MEAN: "np.interp(np.linspace(0, 1, 101), [*recall, 2], [*precision, 0], right=0).mean()"
        },
        "without targets it is undefined, also without detections: nan first.": {
            "    if num_targets == 0:": "    if len(scores) == 0:\n        return 0.0\n    if num_targets == 0:"
        },
        "these are the 11 recalls of VOC 2007: COCO takes 101, 0, 0.01, ..., 1.": {"101))": "11))"},
        "these are 100 recalls: 0, 0.01, ..., 1 are 101.": {"101))": "100))"},
        "recalls that are never reached are left out: the precision there is 0.": {
            _MEAN: "np.append(precision, 0)[places[places < len(hits)]].sum() / max((places < len(hits)).sum(), 1)"
        },
        "recalls that are never reached get the last precision: it is 0 there.": {
            _MEAN: "np.append(precision, 0)[places.clip(max=max(len(hits) - 1, 0))].mean()"
        },
        "this is the mean over detections: take the mean over the recalls 0, 0.01, ..., 1.": {
            _MEAN: "precision.sum() / max(len(hits), 1)"
        },
        "a recall that is reached exactly counts as not reached: search from the left, `>=`.": {
            "101))": '101), "right")'
        },
        "without targets it is undefined: nan.": [{"math.nan": "0.0"}, {"math.nan": "1.0"}],
        "this is the precision of all detections: average it over recalls.": (
            lambda scores, hits, num_targets: float(hits.sum() / max(len(hits), 1))
        ),
        "these are percent: return a share, 0 to 1.": {"float(": "100 * float("},
        "this is the area under the raw curve: take the greatest precision at this recall or a higher one, and the "
        "mean at the 101 recalls.": {_ENVELOPE: "precision", _MEAN: _AREA},
    },
)


# ----------------------------------------------------------- merge_panoptic


def _merge_panoptic(semantic: Tensor, objects: Instances) -> tuple[Tensor, Tensor]:
    """semantic uint8 (H, W), objects by falling score -> labels uint8 (H, W), 255 void, and ids int32 (H, W)."""
    labels = torch.where(semantic == 0, 0, 255).to(torch.uint8)
    ids = torch.zeros(semantic.shape, dtype=torch.int32)
    for index in range(len(objects)):
        mask = objects.masks[index]
        free = mask & (ids == 0)
        if free.sum() > 0.5 * mask.sum():
            labels[free] = int(objects.labels[index])
            ids[free] = index + 1
    return labels, ids


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
    scores = torch.linspace(0.9, 0.3, len(objects))
    return Case((semantic, Instances(boxes, labels, masks, scores)), words)


def _panoptic_cases() -> Iterable[Case]:
    return [
        _panoptic_case("of one object", (9, 14), [(7, (2, 1, 6, 5))]),
        _panoptic_case("of two objects apart", (9, 14), [(7, (2, 1, 6, 5)), (15, (8, 5, 13, 8))]),
        _panoptic_case("of two objects that overlap", (9, 14), [(7, (2, 1, 6, 5)), (15, (4, 2, 12, 6))]),
        _panoptic_case(
            "of one object behind another, half of it free", (9, 14), [(7, (0, 0, 4, 4)), (7, (2, 0, 6, 4))]
        ),
        _panoptic_case(
            "of an object that is mostly covered, and a third below it",
            (9, 14),
            [(7, (0, 0, 6, 4)), (15, (1, 1, 6, 6)), (12, (3, 3, 8, 8))],
        ),
        _panoptic_case("of an object over void", (9, 14), [(15, (0, 5, 4, 9))]),
        _panoptic_case("of no object", (9, 14), []),
    ]


merge_panoptic = Exercise(
    "merge_panoptic",
    _merge_panoptic,
    _panoptic_cases,
    run=run_tuple("two maps: the labels, and the numbers of the objects", "the labels", "the numbers"),
    wrong={
        "the lowest score is laid down first: the objects come by falling score, take them in order.": {
            "range(len(objects))": "reversed(range(len(objects)))"
        },
        "a later object takes pixels of an earlier one: it gets only what is free.": {"mask & (ids == 0)": "mask"},
        "an object that is mostly covered is kept: leave it out unless more than half of it is free.": {
            "> 0.5 * mask.sum()": ">= 0"
        },
        "an object of which exactly half is free is kept: it needs more than half.": {"> 0.5": ">= 0.5"},
        "an object that is covered at all is left out: only if no more than half of it is free.": {"> 0.5 *": "=="},
        "only pixels that the label map calls the same are taken: objects win, the map counts where no object is.": [
            {"mask & (ids == 0)": "mask & (ids == 0) & (semantic == objects.labels[index])"},
            {"mask & (ids == 0)": "mask & (ids == 0) & (semantic != 0)"},
            {"labels[free] =": "free = free & (semantic == objects.labels[index])\n            labels[free] ="},
        ],
        "void of the label map stays void where an object lies: the objects win, the map counts where no object is.": {
            "return labels, ids": "return torch.where(semantic == 255, 255, labels).to(torch.uint8), ids"
        },
        "objects with a low score are left out: which ones to merge was decided before.": {
            "> 0.5 * mask.sum()": "> 0.5 * mask.sum() and objects.scores[index] >= 0.5"
        },
        "the numbers begin with 0, which means no object: index + 1.": {"index + 1": "index"},
        "objects of a class share a number: the number is index + 1.": {"index + 1": "int(objects.labels[index])"},
        "what the label map calls a thing, and no object claims, keeps its label: it has no number, so it is void, "
        "255.": {"torch.where(semantic == 0, 0, 255)": "semantic.clone()"},
        "void of the label map becomes background: only 0 is background, all else that is left is void.": {
            "semantic == 0": "(semantic == 0) | (semantic == 255)"
        },
        "all that is left is void: where the label map says background it is 0.": {"0, 255)": "255, 255)"},
        "all that is left is background: where the label map says otherwise it is void, 255.": {"0, 255)": "0, 0)"},
        "an object that is left out still keeps its pixels from later ones: they stay free.": {
            "free = mask & (ids == 0)": "free = mask & ~objects.masks[:index].any(0)"
        },
        "labels and numbers are exchanged: labels come first.": {"return labels, ids": "return ids, labels"},
    },
)
