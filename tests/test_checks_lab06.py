"""Checks of lab 06: right answers in several styles pass, and wrong ones of another make get their hint, too."""

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import assert_hint, assert_passes, judge
from scipy import ndimage
from torch import nn

from labhelpers.course import checks
from labhelpers.models import prompt_maps
from labhelpers.prompting import sampling
from labhelpers.prompting.task import prompt_loss, true_iou


def changed(network, **methods):
    """A student's module in which some methods are wrong."""
    return type(network.__name__, (network,), methods)


# ------------------------------------------------------------- sample_points


def points_by_index(mask, n, rng):
    k = (n + 1) // 2 if (~mask).any() else n
    fg, bg = np.argwhere(mask), np.argwhere(~mask)
    points = [fg[rng.integers(0, len(fg), k)][:, ::-1]]
    if n > k:
        points.append(bg[rng.integers(0, len(bg), n - k)][:, ::-1])
    return np.concatenate(points).astype(np.float32), np.array([1] * k + [0] * (n - k))


def points_by_choice(mask, n, rng):
    """With replacement only where it must be, and in another order."""
    count = n - n // 2 if not mask.all() else n
    points, labels = [], []
    for label, size in ((0, n - count), (1, count)):
        flat = np.flatnonzero(mask.ravel() == label)
        if size:
            chosen = rng.choice(flat, size, replace=size > len(flat))
            points.append(np.column_stack([chosen % mask.shape[1], chosen // mask.shape[1]]))
            labels += [label] * size
    return np.vstack(points).astype(float), np.asarray(labels, dtype=np.int32)


def points_by_rejection(mask, n, rng):
    height, width = mask.shape
    wanted = {1: -(-n // 2), 0: n // 2}
    if mask.all():
        wanted = {1: n, 0: 0}
    points, labels = [], []
    while len(points) < n:
        x, y = int(rng.random() * width), int(rng.random() * height)
        label = int(mask[y, x])
        if wanted[label]:
            wanted[label] -= 1
            points.append((x, y))
            labels.append(label)
    return [np.array(points, dtype=float), np.array(labels, dtype=np.uint8)]


def points_by_shuffle(mask, n, rng):
    """A permutation of the pixels, again and again until there are enough."""
    k = int(np.ceil(n / 2)) if mask.sum() < mask.size else n

    def pick(region, count):
        y, x = np.where(region)
        order = np.concatenate([rng.permutation(len(x)) for _ in range(count // len(x) + 1)])[:count]
        return np.c_[x[order], y[order]]

    points = np.r_[pick(mask, k), pick(~mask, n - k)] if n > k else pick(mask, k)
    return points.astype("float32"), np.r_[np.ones(k, int), np.zeros(n - k, int)]


def points_by_permuted_rows(mask, n, rng):
    fg, bg = [np.stack(np.nonzero(part)[::-1], 1).astype(np.float64) for part in (mask, ~mask)]
    n_bg = n // 2 if len(bg) else 0
    indices = (rng.random(n - n_bg) * len(fg)).astype(int)
    points = np.concatenate([fg[indices]] + [bg[rng.choice(len(bg), n_bg)]] * (n_bg > 0))
    labels = (np.arange(n) < n - n_bg).astype(np.int64)
    order = rng.permutation(n)
    return points[order], labels[order]


def sampled(
    order=(1, 0),
    half=lambda n: (n + 1) // 2,
    labels=(1, 0),
    on=lambda mask: mask,
    off=lambda mask: ~mask,
    draw=lambda rng, count, k: rng.integers(0, count, k),
    whole=True,
    points=lambda points: points.astype(np.float32),
    number=lambda labels: labels,
):
    """A student's answer with a place for each mistake."""

    def answer(mask, n, rng):
        k = n if whole and mask.all() else half(n)
        drawn = []
        for region, count in ((on(mask), k), (off(mask), n - k)):
            places = np.argwhere(region)
            if count:
                drawn.append(places[draw(rng, len(places), count)][:, order])
        return points(np.concatenate(drawn)), number(np.repeat(labels, (k, n - k)))

    return answer


def bounding_box(mask):
    box = np.zeros_like(mask)
    y, x = np.nonzero(mask)
    box[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
    return box


def row_then_column(mask, n, rng):
    """Draws a row first, so that pixels of short rows come more often."""

    def pick(region):
        rows = np.flatnonzero(region.any(1))
        y = rows[rng.integers(len(rows))]
        columns = np.flatnonzero(region[y])
        return columns[rng.integers(len(columns))], y

    k = n if mask.all() else (n + 1) // 2
    points = [pick(mask) for _ in range(k)] + [pick(~mask) for _ in range(n - k)]
    return np.array(points, float), np.array([1] * k + [0] * (n - k))


WRONG_POINTS = [
    (sampled(order=(0, 1)), "the foreground has the point", "x and y are exchanged"),
    (sampled(labels=(0, 1)), "the labels are exchanged"),
    (sampled(half=lambda n: n), "all labels are 1: half of the points are foreground"),
    (sampled(half=lambda n: 0), "all labels are 0"),
    (sampled(half=lambda n: n // 2), "for 7 points 3 have label 1, expected 4", "(n + 1) // 2"),
    (sampled(half=lambda n: round(n / 2)), "for 1 point 0 have label 1, expected 1"),
    (sampled(half=lambda n: n // 2 + 1), "for 6 points 4 have label 1, expected 3"),
    (sampled(on=bounding_box), "it lies beside the object", "not from its bounding box"),
    (sampled(on=lambda mask: ~mask, off=lambda mask: mask), "the labels are exchanged"),
    (sampled(off=np.ones_like), "it lies on the object"),
    (sampled(draw=lambda rng, count, k: np.arange(k) % count), "always the first pixels of the mask"),
    (sampled(draw=lambda rng, count, k: np.full(k, count // 2)), "two generators with different seeds"),
    (sampled(draw=lambda rng, count, k: np.full(k, rng.integers(count))), "of 2000 points", "same probability"),
    (sampled(draw=lambda rng, count, k: rng.integers(0, max(count - 1, 1), k)), "of 2000 points"),
    (sampled(draw=lambda rng, count, k: (rng.random(k) ** 2 * count).astype(int)), "of 2000 points"),
    (sampled(draw=lambda rng, count, k: rng.permutation(count)[:k]), "for 5 points on a mask of one pixel"),
    (sampled(draw=lambda rng, count, k: rng.choice(count, k, replace=False)), "draw with replacement"),
    (sampled(draw=lambda rng, count, k: rng.randint(0, count, k)), "rng is a np.random.Generator: rng.integers"),
    (sampled(draw=lambda rng, count, k: random.sample(range(count), k)), "asked for; and rng is a"),
    (row_then_column, "same probability"),
    (
        lambda mask, n, rng: points_by_index(mask, n, np.random.default_rng(0)),
        "two generators with different seeds give the same",
    ),
    (sampled(draw=lambda rng, count, k: np.random.randint(0, count, k)), "not with np.random or random"),  # noqa: NPY002
    (sampled(draw=lambda rng, count, k: [random.randrange(count) for _ in range(k)]), "not with np.random or random"),
    (sampled(whole=False), "covers the whole image"),
    (sampled(points=lambda points: points), "points have dtype int64, expected a float"),
    (sampled(points=lambda points: points.T.astype(float)), "one row for each point"),
    (sampled(points=lambda points: points + 0.5), "not in the middle of a pixel"),
    (sampled(points=lambda points: points + 7.0), "outside the image"),
    (sampled(points=torch.from_numpy), "the points are a torch tensor, expected a NumPy array"),
    (sampled(points=list), "the points are a value of type list"),
    (sampled(number=lambda labels: labels == 1), "labels have dtype bool, expected an integer"),
    (sampled(number=lambda labels: labels.astype(float)), "labels have dtype float64"),
    (sampled(number=lambda labels: 2 * labels - 1), "the labels are [-1, 1], expected 1 for foreground"),
    (sampled(number=lambda labels: labels[:, None]), "labels for 7 points have shape (7, 1), expected (7,)"),
    (lambda mask, n, rng: points_by_index(mask, n + 1, rng), "points for 7 points have shape (8, 2), expected (7, 2)"),
    (lambda mask, n, rng: points_by_index(mask, n, rng)[0], "expected the pair (points, labels)"),
    (lambda mask, n, rng: points_by_index(mask, n, rng)[::-1], "the points for 7 points have shape (7,)"),
    (lambda mask, n: points_by_index(mask, n, np.random.default_rng()), "TypeError"),
]

# ------------------------------------------------------------- box_from_mask


def box_by_where(mask, jitter, rng):
    y, x = np.where(mask)
    box = np.array([x.min(), y.min(), x.max(), y.max()], dtype=float)
    side = np.array([box[2] - box[0], box[3] - box[1]] * 2) + 1
    box += rng.normal(0, 1, size=4) * jitter * side
    box[[0, 2]] = np.sort(box[[0, 2]].clip(0, mask.shape[1] - 1))
    box[[1, 3]] = np.sort(box[[1, 3]].clip(0, mask.shape[0] - 1))
    return box


def box_one_side_at_a_time(mask, jitter, rng):
    height, width = mask.shape
    rows = [i for i in range(height) if mask[i].any()]
    columns = [j for j in range(width) if mask[:, j].any()]
    w, h = columns[-1] - columns[0], rows[-1] - rows[0]
    x0 = min(max(columns[0] + jitter * w * rng.standard_normal(), 0), width - 1)
    y0 = min(max(rows[0] + jitter * h * rng.standard_normal(), 0), height - 1)
    x1 = min(max(columns[-1] + jitter * w * rng.standard_normal(), 0), width - 1)
    y1 = min(max(rows[-1] + jitter * h * rng.standard_normal(), 0), height - 1)
    return np.array([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], dtype=np.float32)


def box_by_find_objects(mask, jitter, rng):
    """Integers where nothing is added, whole pixels with jitter, and no exchange of corners: the later is moved up."""
    rows, columns = ndimage.find_objects(mask.astype(int))[0]
    x0, y0, x1, y1 = found = [columns.start, rows.start, columns.stop - 1, rows.stop - 1]
    if not jitter:
        return np.array(found)
    z = rng.normal(0.0, jitter, 4) * ([x1 - x0 + 1, y1 - y0 + 1] * 2)
    limit = [mask.shape[1] - 1, mask.shape[0] - 1] * 2
    x0, y0, x1, y1 = [min(max(round(v + d), 0), end) for v, d, end in zip(found, z, limit, strict=True)]
    return np.array([x0, y0, max(x0, x1), max(y0, y1)], dtype="float32")


def box_by_corners(mask, jitter, rng):
    places = np.argwhere(mask)[:, ::-1]
    corners = np.stack([places.min(0), places.max(0)]).astype(np.float64)
    size = corners[1] - corners[0] + 1
    corners += rng.normal(scale=jitter * size, size=(2, 2)) if jitter > 0 else 0
    corners = np.clip(corners, 0, np.array(mask.shape)[::-1] - 1)
    return np.concatenate([corners.min(0), corners.max(0)])


def box_by_argmax(mask, jitter, rng):
    columns, rows = mask.any(axis=0), mask.any(axis=1)
    x0, y0 = columns.argmax(), rows.argmax()
    x1, y1 = len(columns) - 1 - columns[::-1].argmax(), len(rows) - 1 - rows[::-1].argmax()
    noise = jitter * rng.standard_normal((2, 2)) * [x1 - x0 + 1, y1 - y0 + 1]
    (x0, y0), (x1, y1) = (x0, y0) + noise[0], (x1, y1) + noise[1]
    if x0 > x1:
        x0, x1 = x1, x0
    if y0 > y1:
        y0, y1 = y1, y0
    box = np.array([x0, y0, x1, y1])
    return np.maximum(np.minimum(box, [mask.shape[1] - 1, mask.shape[0] - 1] * 2), 0)


def boxed(change=lambda box: box, noise=lambda rng: rng.standard_normal(4), scale=1, clip=1):
    """A student's answer with a place for each mistake."""

    def answer(mask, jitter, rng):
        x0, y0, x1, y1 = sampling.box_from_mask(mask)
        box = np.array([x0, y0, x1, y1]) + scale * jitter * np.tile([x1 - x0 + 1, y1 - y0 + 1], 2) * noise(rng)
        box = np.clip(box, 0, [mask.shape[1] - clip, mask.shape[0] - clip] * 2)
        return change(np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])]))

    return answer


def box_of_the_first_object(mask, jitter, rng):
    """Only the rows down to the first empty one."""
    rows = mask.any(1)
    start = rows.argmax()
    stop = start + (~rows[start:]).argmax() if (~rows[start:]).any() else len(rows)
    part = np.zeros_like(mask)
    part[start:stop] = mask[start:stop]
    return box_by_where(part, jitter, rng)


def box_clipped_after_ordering(mask, jitter, rng):
    """Not even ordered: the corners turn around with a large jitter."""
    y, x = np.where(mask)
    box = np.array([x.min(), y.min(), x.max(), y.max()], dtype=float)
    box += rng.normal(0, jitter, 4) * np.tile(np.ptp(np.argwhere(mask), axis=0)[::-1] + 1, 2)
    return np.clip(box, 0, [mask.shape[1] - 1, mask.shape[0] - 1] * 2)


WRONG_BOXES = [
    (box_of_the_first_object, "the box of a mask (two parts), without jitter, differs in 2 of 4"),
    (box_clipped_after_ordering, "put the corners in order"),
    (boxed(scale=0), "jitter is not used"),
    (boxed(scale=2), "what x0 moves by"),
    (boxed(noise=lambda rng: np.r_[rng.standard_normal(2), 0, 0]), "x1, y1 never moves"),
    (boxed(noise=lambda rng: np.random.default_rng(0).standard_normal(4)), "two generators with different seeds"),
    (boxed(noise=lambda rng: np.random.standard_normal(4)), "not with np.random"),  # noqa: NPY002
    (boxed(noise=lambda rng: rng.randn(4)), "rng is a np.random.Generator"),
    (boxed(noise=lambda rng: rng.laplace(scale=0.5**0.5, size=4)), "of a normal distribution 68 %"),
    (boxed(clip=2), "without jitter"),
    (boxed(lambda box: box.astype(int)), "the box with jitter has dtype int64, expected floats"),
    (
        lambda mask, jitter, rng: box_by_where(mask, jitter, rng)[: 3 if jitter else 4],
        "expected four floats in an array",
    ),
    (boxed(tuple), "a value of type tuple"),
    (boxed(torch.from_numpy), "`.numpy()`"),
    (boxed(lambda box: box.reshape(2, 2)), "has shape (2, 2), expected (4,)"),
]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_drawn_by_chance_does_not_decide(seed):
    """The same right answers on other streams of random numbers."""

    def other(rng):
        return np.random.default_rng([seed, rng.integers(2**32)])

    assert ": passed (" in judge("sample_points", lambda mask, n, rng: points_by_index(mask, n, other(rng)))
    assert ": passed (" in judge("box_from_mask", lambda mask, jitter, rng: box_by_where(mask, jitter, other(rng)))


# ------------------------------------------------------------ PointEmbedding


class Points(nn.Module):
    """A student's module, with a place for each mistake."""

    kinds, bias = 2, True

    def __init__(self, channels):
        super().__init__()
        self.point_type_embed = nn.Embedding(self.kinds, channels)
        self.point_pos_embed = nn.Linear(2, channels, bias=self.bias)

    def at(self, points, size):
        return (points + 0.5) / max(size)

    def kind(self, labels):
        return self.point_type_embed(labels.clamp(min=0))

    def place(self, points, size):
        return self.point_pos_embed(self.at(points, size))

    def said(self, points, labels, size):
        return self.kind(labels) + self.place(points, size)

    def counted(self, labels):
        return (labels != -1).float()[..., None]

    def divided(self, labels):
        return self.counted(labels).sum(1).clamp(min=1)

    def forward(self, points, labels, size):
        return (self.said(points, labels, size) * self.counted(labels)).sum(1) / self.divided(labels)


class PointsByLoop(Points):
    def forward(self, points, labels, size):
        height, width = size
        rows = []
        for xy, kinds in zip(points, labels, strict=True):
            given = kinds >= 0
            if not given.any():
                rows.append(torch.zeros(self.point_pos_embed.out_features))
                continue
            at = (xy[given] + 0.5) / (height if height > width else width)
            rows.append((self.point_type_embed(kinds[given]) + self.point_pos_embed(at)).mean(0))
        return torch.stack(rows)


class PointsByWhere(Points):
    def forward(self, points, labels, size):
        given = labels.ge(0)
        safe = torch.where(given.unsqueeze(-1), points, torch.zeros_like(points))
        vectors = self.point_type_embed(torch.where(given, labels, 0)) + self.point_pos_embed(self.at(safe, size))
        vectors = vectors.masked_fill(~given.unsqueeze(-1), 0.0)
        number = given.sum(dim=1, keepdim=True)
        return vectors.sum(dim=1) / torch.maximum(number, torch.ones_like(number))


class PointsByMatrix(Points):
    """Shares of the types times the embedding's weight; the mean position once through the layer."""

    def forward(self, points, labels, size):
        given = (labels > -1).float()
        n = given.sum(1, keepdim=True)
        weights = given / n.clamp_min(1)
        kinds = torch.stack([(weights * (labels == k)).sum(1) for k in (0, 1)], 1) @ self.point_type_embed.weight
        mean = torch.einsum("bn,bnc->bc", weights, self.at(points, size))
        return kinds + (n > 0) * self.point_pos_embed(mean)


class PointsByNanMean(Points):
    def forward(self, points, labels, size):
        said = self.said(points, labels, torch.Size(size))
        total = (said * (labels >= 0)[:, :, None]).sum(-2)
        return total / ((labels >= 0).sum(-1)[:, None] + 1e-9)


class OneMore(Points):
    def __init__(self, channels):
        super().__init__(channels)
        self.mix = nn.Linear(channels, channels)


class Parameter(Points):
    def __init__(self, channels):
        super().__init__(channels)
        del self.point_type_embed
        self.point_type_embed = nn.Parameter(torch.zeros(2, channels))


class OtherName(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.embed = nn.Embedding(2, channels)


class PlainMean(Points):
    def forward(self, points, labels, size):
        return self.said(points, labels, size).mean(1)


def place_detached(self, xy, labels, size):
    return self.kind(labels) + self.place(xy, size).detach()


WRONG_POINT_EMBEDDINGS = [
    (PlainMean, "padding (label -1) is counted as a background point"),
    (changed(Points, counted=lambda self, labels: labels.float()[..., None]), "label 0) are left out"),
    (changed(Points, kind=lambda self, labels: self.point_type_embed(labels)), "-1 is used as an index"),
    (
        changed(Points, divided=lambda self, x: self.counted(x).sum(1)),
        "a row of padding alone has nan or inf",
        "clamp_min(1)",
    ),
    (changed(Points, divided=lambda self, x: self.counted(x).sum(1) + 1), "the vector for a wide image differs"),
    (changed(Points, said=place_detached), "the gradient of point_pos_embed.weight is not: is a part of it detached?"),
    (changed(Points, counted=lambda self, labels: (labels >= 0).float()), "need a third axis"),
    (OneMore, "weights of its own besides point_type_embed, point_pos_embed: mix"),
    (Parameter, "point_type_embed is a torch tensor, expected nn.Embedding(2, channels)"),
    (OtherName, "it has no `self.point_type_embed`: nn.Embedding(2, channels)"),
    (changed(Points, kinds=3), "point_type_embed has weights of shapes [(3, 6)], expected [(2, 6)]"),
    (changed(Points, bias=False), "point_pos_embed has weights of shapes [(6, 2)], expected [(6, 2), (6,)]"),
    (Points(6), "TypeError while it is made"),
    (changed(Points, forward=lambda self, points, labels: points), "TypeError for a wide image"),
]

# -------------------------------------------------------------- BoxEmbedding


class Box(nn.Module):
    """A student's module, with a place for each mistake."""

    def __init__(self, channels):
        super().__init__()
        self.box_embed = self.layers(channels)

    def layers(self, channels):
        return nn.Sequential(nn.Linear(4, channels), nn.ReLU(), nn.Linear(channels, channels))

    def at(self, boxes, size):
        return (boxes + 0.5) / max(size)

    def embed(self, at):
        return self.box_embed(at)

    def forward(self, boxes, size):
        given = ~boxes.isnan().any(1, keepdim=True)
        return self.embed(self.at(boxes.nan_to_num(0.0), size)) * given


class BoxInNestedSequentials(Box):
    def layers(self, channels):
        return nn.Sequential(nn.Sequential(nn.Linear(4, channels), nn.ReLU()), nn.Linear(channels, channels))


class BoxByRows(Box):
    def forward(self, boxes, size):
        known = torch.isfinite(boxes).all(dim=1)
        out = torch.zeros(len(boxes), self.box_embed[0].out_features)
        out[known] = self.box_embed((boxes[known] + 0.5) / float(max(size)))
        return out


class BoxByCorners(Box):
    def layers(self, channels):
        return nn.Sequential(nn.Linear(4, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels))

    def forward(self, boxes, size):
        missing = boxes != boxes
        corners = boxes.masked_fill(missing, 7.0).view(-1, 2, 2)
        vectors = self.box_embed(((corners + 0.5) / max(size)).flatten(start_dim=1))
        return vectors.masked_fill(missing[:, :1], 0)


class BoxByLoop(Box):
    def forward(self, boxes, size):
        zero = torch.zeros(self.box_embed[-1].out_features)
        rows = [zero if box[0].isnan() else self.box_embed((box + 0.5) / max(size)) + zero for box in boxes]
        return torch.stack(rows) + 0 * self.box_embed[0].weight.sum()  # a graph, also without a box


class BoxByWhere(Box):
    def forward(self, boxes, size):
        given = torch.logical_not(torch.isnan(boxes[:, 0]))[:, None]
        safe = torch.where(given, boxes, torch.ones(()))
        return torch.where(given, self.box_embed(self.at(safe, size)), torch.zeros(()))


class NanTimesZero(Box):
    def forward(self, boxes, size):
        return self.embed(self.at(boxes, size)) * ~boxes.isnan().any(1, keepdim=True)


class NanAfterwards(Box):
    """The values are right: NaN only hides in the gradient."""

    def forward(self, boxes, size):
        return self.embed(self.at(boxes, size)).nan_to_num(0.0)


class BiasLeft(Box):
    def forward(self, boxes, size):
        return self.embed(self.at(boxes.nan_to_num(0.0), size))


def box_layers(*layers):
    return changed(Box, layers=lambda self, c: nn.Sequential(*(layer(c) for layer in layers)))


def sigmoid(channels):
    return nn.Sigmoid()


WRONG_BOX_EMBEDDINGS = [
    (BiasLeft, "since the layers have biases"),
    (NanTimesZero, "a row without a box has nan or inf", "a row of NaN is no box"),
    (NanTimesZero, "NaN times 0 is NaN"),
    (NanAfterwards, "the gradient of box_embed.0.weight has nan", "replace it before the layers"),
    (
        changed(Box, layers=lambda self, c: nn.Linear(4, c)),
        "box_embed is a value of type Linear, expected nn.Sequential",
    ),
    (box_layers(lambda c: nn.Linear(4, c)), "box_embed has weights of shapes [(6, 4), (6,)]"),
    (box_layers(lambda c: nn.Linear(4, c), lambda c: nn.Linear(c, c)), "the ReLU between the two layers is left out"),
    (box_layers(lambda c: nn.Linear(4, c), sigmoid, lambda c: nn.Linear(c, c)), "the vector for a wide image differs"),
    (box_layers(lambda c: nn.Linear(2, c), lambda c: nn.Linear(c, c)), "expected [(6, 4), (6,), (6, 6), (6,)]"),
    (changed(Box, at=lambda self, xy, size: xy.unflatten(1, (2, 2)) / max(size)), "as (B, 2, 2), then flatten"),
    (changed(Box, embed=lambda self, x: self.box_embed(x).detach()), "no gradient comes back through forward"),
]

# --------------------------------------------------------------- offset_maps


def offsets_by_loops(points, size, stride=8):
    h, w = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
    out = torch.zeros(*points.shape[:2], h, w, 3)
    for b in range(points.shape[0]):
        for n in range(points.shape[1]):
            for i in range(h):
                for j in range(w):
                    dx = ((j + 0.5) * stride - (points[b, n, 0] + 0.5)) / max(size)
                    dy = ((i + 0.5) * stride - (points[b, n, 1] + 0.5)) / max(size)
                    out[b, n, i, j] = torch.stack([dx, dy, (dx * dx + dy * dy).sqrt()])
    return out


def offsets_by_broadcasting(points, size, stride=8):
    scale = 1.0 / max(*size)
    xs = torch.arange(stride / 2, (size[1] + stride - 1) // stride * stride, stride)
    ys = torch.arange(stride / 2, (size[0] + stride - 1) // stride * stride, stride)
    dx = (xs[None, None, None, :] - points[..., 0, None, None] - 0.5) * scale
    dy = (ys[None, None, :, None] - points[..., 1, None, None] - 0.5) * scale
    dx, dy = torch.broadcast_tensors(dx, dy)
    return torch.stack((dx, dy, torch.hypot(dx, dy)), dim=-1)


def offsets_by_linspace(points, size, stride=8):
    h, w = (-(-side // stride) for side in size)
    y = torch.linspace(0.5, h - 0.5, h) * stride
    x = torch.linspace(0.5, w - 0.5, w) * stride
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    offset = (grid.view(1, 1, h, w, 2) - (points + 0.5).view(*points.shape[:2], 1, 1, 2)) / max(size)
    return torch.cat([offset, offset.pow(2).sum(-1, keepdim=True).sqrt()], dim=-1)


def offsets_by_cdist(points, size, stride=8):
    rows, columns = (torch.arange(0, side, stride) + stride / 2 for side in size)
    places = torch.cartesian_prod(rows, columns).flip(1) / max(size)
    at = (points + 0.5) / max(size)
    offset = places - at.unsqueeze(2)
    distance = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
    return torch.cat((offset, distance), -1).unflatten(2, (len(rows), len(columns)))


def offsets(change):
    """The right maps, changed afterwards."""
    return lambda points, size, stride=8: change(offsets_by_linspace(points, size, stride))


def square_map(points, size, stride=8):
    return offsets_by_linspace(points, (max(size), max(size)), stride)


def by_width(points, size, stride=8):
    return offsets_by_loops(points, size, stride) * max(size) / size[1]


WRONG_OFFSETS = [
    (offsets(lambda maps: -maps * torch.tensor([1, 1, -1])), "the sign is wrong"),
    (by_width, "for a tall image", "by the shorter side"),
    (offsets(lambda maps: maps.flatten(2, 3)), "has shape (2, 3, 15, 3), expected (2, 3, 3, 5, 3)"),
    (offsets(lambda maps: maps.numpy()), "torch.from_numpy"),
    (offsets(lambda maps: maps.double()), "dtype is torch.float64"),
    (offsets(lambda maps: maps + 1e-3), "differs in 270 of 270"),
    (
        lambda points, size, stride=8: offsets_by_linspace(points + 0.3 * (stride < 8), size, stride),
        "for stride=4",
        "first at",
    ),
    (
        lambda points, size, stride=8: offsets_by_loops(points, [side + stride for side in size], stride),
        "for a wide image has shape (2, 3, 4, 6, 3), expected (2, 3, 3, 5, 3)",
    ),
    (square_map, "has shape (2, 3, 5, 5, 3), expected (2, 3, 3, 5, 3)"),
    (lambda points, size, stride=8: torch.zeros(3, 5, 2) - points, "shapes do not fit"),
    (lambda points, size, stride: points, "missing 1 required positional argument"),
    (lambda points, size, stride=8: points.add_(1), "argument number 1 in place"),
]


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 70), st.integers(8, 70), st.integers(0, 1000))
def test_reference_offsets_are_those_of_mini_sam(height, width, seed):
    size = (height, width)
    points = torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([width, height])
    maps = checks.offset_maps.reference(points, size)
    h, w = maps.shape[2:4]
    where = prompt_maps.grid_positions(h, w, size, points.device).unflatten(0, (h, w))
    expected = where - prompt_maps.normalize(points, size)[:, :, None, None]
    torch.testing.assert_close(maps[..., :2], expected)
    torch.testing.assert_close(maps[..., 2].square(), expected.square().sum(-1))


# ------------------------------------------------------------------- IoUHead


class Head(nn.Module):
    """A student's module, with a place for each mistake."""

    def __init__(self, channels, masks):
        super().__init__()
        self.iou_head = self.layers(channels, masks)

    def layers(self, c, m):
        return nn.Sequential(nn.Linear(c * (1 + m), c), nn.ReLU(), nn.Linear(c, m))

    def weights(self, logits):
        return logits.detach().sigmoid()

    def divided(self, weights):
        return weights.sum((2, 3)).clamp(min=1e-3)[..., None]

    def whole(self, features):
        return features.mean((2, 3))

    def join(self, whole, inside):
        return torch.cat([whole, inside.flatten(1)], 1)

    def end(self, x):
        return x.sigmoid()

    def forward(self, features, logits):
        w = self.weights(logits)
        inside = torch.einsum("bmhw,bchw->bmc", w, features) / self.divided(w)
        return self.end(self.iou_head(self.join(self.whole(features), inside)))


class HeadByLoop(Head):
    def forward(self, features, logits):
        with torch.no_grad():
            probabilities = torch.sigmoid(logits)
        parts = [features.mean(dim=(-1, -2))]
        for m in range(logits.shape[1]):
            w = probabilities[:, m : m + 1]
            parts.append((features * w).sum(dim=(-1, -2)) / w.sum(dim=(-1, -2)).clamp(min=1e-3))
        return torch.sigmoid(self.iou_head(torch.cat(parts, dim=-1)))


class HeadByMatmul(Head):
    """The whole image as one more mask of ones."""

    def forward(self, features, logits):
        w = logits.data.sigmoid().flatten(2)
        w = torch.cat([torch.ones_like(w[:, :1]), w], 1)
        w = w / torch.maximum(w.sum(-1, keepdim=True), torch.tensor(1e-3))
        return self.iou_head((w @ features.flatten(2).transpose(1, 2)).flatten(1)).sigmoid()


class HeadByWeightsFirst(Head):
    def forward(self, features, logits):
        b, c = features.shape[:2]
        w = torch.special.expit(logits.clone().detach())
        total = w.sum(dim=[2, 3], keepdim=True)
        pooled = ((w / total.clamp_min(0.001))[:, :, None] * features[:, None]).sum(dim=[3, 4])
        average = nn.functional.adaptive_avg_pool2d(features, 1).view(b, 1, c)
        seen = torch.cat((average, pooled), dim=1).reshape(b, -1)
        x = self.iou_head[0](seen).clamp_min(0)
        return 1 / (1 + torch.exp(-self.iou_head[2](x)))


class HeadWithEpsilon(Head):
    def divided(self, weights):
        return weights.sum((2, 3))[..., None] + 1e-6


class NoGradient(Head):
    @torch.no_grad()
    def forward(self, features, logits):
        return super().forward(features, logits)


class FeaturesDetached(Head):
    def forward(self, features, logits):
        return super().forward(features.detach(), logits)


def head_layers(c_in, c_out):
    return changed(
        Head, layers=lambda self, c, m: nn.Sequential(nn.Linear(c_in(c, m), c), nn.ReLU(), nn.Linear(c, c_out(m)))
    )


WRONG_HEADS = [
    (changed(Head, weights=lambda self, logits: (logits.detach() > 0).float()), "the logits are thresholded"),
    (changed(Head, end=lambda self, x: x.tanh()), "the IoU for 3 masks differs"),
    (changed(Head, weights=lambda self, logits: logits.sigmoid()), "a gradient reaches the logits: detach them"),
    (changed(Head, divided=lambda self, w: w.sum((2, 3))[..., None]), "a mask without a pixel has nan", "or 1e-3"),
    (
        changed(Head, join=lambda self, whole, inside: inside.flatten(1)),
        "iou_head takes channels * (1 + masks) numbers",
    ),
    (FeaturesDetached, "no gradient, or a wrong one, reaches the features"),
    (changed(Head, whole=lambda self, f: f.detach().mean((2, 3))), "or a wrong one, reaches the features"),
    (NoGradient, "no gradient comes back through forward"),
    (head_layers(lambda c, m: c * m, lambda m: m), "iou_head has weights of shapes [(5, 15)"),
    (head_layers(lambda c, m: 4 * c, lambda m: 3), "expected [(4, 8), (4,), (1, 4), (1,)]"),
    (changed(Head, layers=lambda self, c, m: None), "it has no `self.iou_head`"),
    (lambda channels: Head(channels, 3), "TypeError while it is made"),
    (lambda channels, masks: Head(channels, masks).iou_head, "it has no `self.iou_head`"),
]

# --------------------------------------------------------------- prompt_loss


def loss_plain(logits, predicted_iou, target, weight):
    y, w = target[:, None].expand_as(logits), weight[:, None]
    ce = (w * F.binary_cross_entropy_with_logits(logits, y, reduction="none")).sum((2, 3)) / w.sum((2, 3)).clamp(min=1)
    p = torch.sigmoid(logits)
    dice = 1 - (2 * (w * p * y).sum((2, 3)) + 1) / ((w * p).sum((2, 3)) + (w * y).sum((2, 3)) + 1)
    loss = ce + dice
    with torch.no_grad():
        m, t = logits > 0, y > 0.5
        iou = (w * (m & t)).sum((2, 3)) / (w * (m | t)).sum((2, 3)).clamp(min=1e-6)
    return (loss.min(dim=1).values + 0.1 * loss.mean(dim=1)).mean() + 0.1 * ((predicted_iou - iou) ** 2).mean()


def loss_by_loops(logits, predicted_iou, target, weight):
    batch, masks = logits.shape[:2]
    total = 0
    for i in range(batch):
        y, w, losses = target[i], weight[i], []
        for j in range(masks):
            x = logits[i, j]
            ce = F.binary_cross_entropy_with_logits(x, y, weight=w, reduction="sum") / max(w.sum().item(), 1)
            p = x.sigmoid()
            losses.append(ce + 1 - (2 * (w * p * y).sum() + 1) / ((w * (p + y)).sum() + 1))
            m, t = (x.detach() > 0).float(), (y > 0.5).float()
            both, either = (w * m * t).sum(), (w * torch.maximum(m, t)).sum()
            iou = both / either if either > 0 else torch.tensor(1.0)
            total = total + 0.1 * (predicted_iou[i, j] - iou).square() / (batch * masks)
        losses = torch.stack(losses)
        total = total + (losses[losses.argmin()] + 0.1 * losses.mean()) / batch
    return total


def loss_by_flat_tensors(logits, predicted_iou, target, weight):
    x, y, w = logits.flatten(2), target.flatten(1).unsqueeze(1), weight.flatten(1).unsqueeze(1)
    nll = F.softplus(x) - x * y
    ce = torch.einsum("bmp,bkp->bm", nll, w) / torch.clamp_min(w.sum(-1), 1.0)
    p = torch.exp(F.logsigmoid(x))
    dice = (((p + y - 2 * p * y) * w).sum(-1)) / (((p + y) * w).sum(-1) + 1)
    loss = torch.sort(ce + dice, dim=1).values
    hard, truth = torch.heaviside(x.detach(), torch.tensor(0.0)), y.gt(0.5).float()
    both = (hard * truth * w).sum(-1)
    iou = both / (((hard + truth) * w).sum(-1) - both).clamp_min(1)
    return loss[:, 0].mean() + loss.mean() / 10 + F.mse_loss(predicted_iou, iou) / 10


def loss_in_double(logits, predicted_iou, target, weight):
    return loss_plain(logits.double(), predicted_iou.double(), target.double(), weight.double()).float()


def loss_with_gather(logits, predicted_iou, target, weight):
    """The best is chosen without a gradient, then picked out."""
    w = weight.unsqueeze(1)
    y = target.unsqueeze(1).repeat(1, logits.size(1), 1, 1)
    p = logits.sigmoid()
    ce = F.binary_cross_entropy(p, y, reduction="none")
    losses = (ce * w).sum(dim=(-2, -1)) / w.sum(dim=(-2, -1)).clamp(1)
    losses = losses - (2 * (p * y * w).sum(dim=(-2, -1)) + 1) / ((p * w + y * w).sum(dim=(-2, -1)) + 1) + 1
    best = losses.detach().argmin(1, keepdim=True)
    m = (p.detach() > 0.5) & (w > 0)
    t = (y > 0.5) & (w > 0)
    iou = ((m & t) * w).sum((2, 3)) / (((m | t) * w).sum((2, 3)) + 1e-8)
    return losses.gather(1, best).mean() + 0.1 * losses.mean() + 0.1 * (iou - predicted_iou).pow(2).mean()


def by_logarithms(x, i, t, w):
    """Right but for its cross-entropy where sigmoid gives exactly 0 or 1."""
    y, w4 = t[:, None], w[:, None]
    p = x.sigmoid()
    nll = -(y * p.log() + (1 - y) * (1 - p).log())
    dice = 1 - (2 * (w4 * p * y).sum((2, 3)) + 1) / ((w4 * (p + y)).sum((2, 3)) + 1)
    loss = (w4 * nll).sum((2, 3)) / w4.sum((2, 3)).clamp_min(1) + dice
    return loss.amin(1).mean() + 0.1 * loss.mean() + 0.1 * F.mse_loss(i, true_iou(x, t, w))


def without_clamp(x, i, t, w):
    return prompt_loss(x, i, t, w) + 0 * (x * w[:, None]).sum((2, 3)).div(w.sum((1, 2))[:, None]).sum()


def in_place(x, i, t, w):
    t[w == 0] = 0.25
    return prompt_loss(x, i, t, w)


WRONG_LOSSES = [
    (lambda x, i, t, w: prompt_loss(x.sigmoid(), i, t, w), "it is taken twice"),
    (lambda x, i, t, w: prompt_loss(x, i, t, w) - 0.1 * F.mse_loss(i, true_iou(x, t, w)), "IoU is left out"),
    (lambda *given: prompt_loss(*given).item(), "expected a torch tensor"),
    (lambda *given: prompt_loss(*given)[None], "has shape (1,), expected ()"),
    (lambda x, i, t, w: prompt_loss(x, i, t, w) + 0 * torch.exp(-x).sum(), "instead of exp and log"),
    (by_logarithms, "instead of exp and log"),
    (without_clamp, "or its gradient, is not finite: divide by"),
    (in_place, "argument number 3 in place"),
    (lambda x, i, t, w: F.binary_cross_entropy_with_logits(x, t), "target[:, None].expand_as(logits)"),
    (lambda x, i, t, w: (t * x.sigmoid()).sum(), "need a second axis"),
]

# ------------------------------------------------------------- training_step


def step_plain(model, optimizer, images, points, labels, boxes, target, weight):
    model.train()
    logits, iou = model(images, points, labels, boxes)
    loss = prompt_loss(logits, iou, target, weight)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimizer.step()
    return loss.item()


def step_by_names(model, optimizer, images, points, labels, boxes, target, weight):
    """Keywords, zeroed afterwards, clipped by hand."""
    output = model.train()(images, points=points, point_labels=labels, boxes=boxes)
    loss = prompt_loss(*output, target=target, weight=weight)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.sqrt(sum(g.square().sum() for g in gradients)).item()
    if norm > 1:
        for gradient in gradients:
            gradient.mul_(1 / norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return float(loss.detach())


def step_of_any_resolution(model, optimizer, images, points, labels, boxes, target, weight):
    """Resizes the target where the logits are smaller; here they are not."""
    model.train(True)
    for parameter in model.parameters():
        parameter.grad = None
    with torch.enable_grad():
        logits, predicted = model(images, points, labels, boxes)
        size = logits.shape[-2:]
        small = [F.interpolate(x[:, None], size, mode="area")[:, 0] for x in (target, weight)]
        loss = prompt_loss(logits, predicted, *small)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1)
    optimizer.step()
    return loss.detach().cpu().numpy().item()


def step(
    mode=True,
    given=lambda *given: given,
    logits=lambda x: x,
    between=lambda model, optimizer: None,
    backward=True,
    norm=1.0,
    steps=1,
    result=lambda loss: loss.item(),
):
    """A student's step with a place for each mistake."""

    def answer(model, optimizer, images, points, labels, boxes, target, weight):
        model.train(mode)
        optimizer.zero_grad()
        x, iou = model(*given(images, points, labels, boxes))
        loss = prompt_loss(logits(x), iou, target, weight)
        if backward:
            loss.backward()
        between(model, optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), norm)
        for _ in range(steps):
            optimizer.step()
        return result(loss)

    return answer


def twice(model, optimizer, images, points, labels, boxes, *rest):
    model.train()
    model(images, points, labels, boxes)
    return step_plain(model, optimizer, images, points, labels, boxes, *rest)


def without_gradient(*given):
    with torch.no_grad():
        return step_plain(*given)


def clipped_too_late(model, optimizer, *batch):
    model.train()
    optimizer.zero_grad()
    loss = prompt_loss(*model(*batch[:4]), *batch[4:])
    loss.backward()
    optimizer.step()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    return loss.item()


class Kept(list):
    """Adds up the losses of all steps."""

    def __call__(self, model, optimizer, *batch):
        model.train()
        self.append(prompt_loss(*model(*batch[:4]), *batch[4:]))
        optimizer.zero_grad()
        sum(self).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return self[-1].item()


WRONG_STEPS = [
    (clipped_too_late, "the gradient is not clipped", "or after the step"),
    (Kept(), "the graph of an earlier step is kept"),
    (step(between=lambda model, optimizer: optimizer.zero_grad()), "does zero_grad() come between it and step()?"),
    (step(backward=False), "is backward() missing"),
    (step(steps=0), "optimizer.step() is called 0 times"),
    (step(steps=2), "optimizer.step() is called 2 times in a step"),
    (step(norm=3), "after the first step the weight"),
    (step(mode=False), "evaluation mode"),
    (step(result=lambda loss: loss), "expected a Python float. Convert it with `.item()`, which also lets go"),
    (step(logits=torch.detach), "after the first step the weight"),
    (step(given=lambda *prompts: prompts[:1]), "model(images, points, labels, boxes)"),
    (step(given=lambda *prompts: prompts[:3]), "model(images, points, labels, boxes)"),
    (step(given=lambda x, points, labels, boxes: (x, boxes, points, labels)), "given something else"),
    (step(given=lambda x, points, labels, boxes: (x, points.flip(-1), labels, boxes)), "something else"),
    (twice, "run more than once"),
    (without_gradient, "the loss has no gradient"),
    (lambda model, _, *batch: step_plain(model, torch.optim.SGD(model.parameters(), 0.1), *batch), "is called 0 times"),
    (lambda model, optimizer, *batch: 0.0, "the model is not run"),
    (lambda model, optimizer, images, targets: 0.0, "TypeError in the first step"),
]

# ---------------------------------------------------------------- next_click


def depth(mask):
    return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]


def click_plain(prediction, truth):
    fn, fp = truth & ~prediction, prediction & ~truth
    if not fn.any() and not fp.any():
        return None
    d_fn, d_fp = depth(fn), depth(fp)
    if d_fn.max() > d_fp.max():
        d, label = d_fn, 1
    else:
        d, label = d_fp, 0
    y, x = np.unravel_index(d.argmax(), d.shape)
    return np.array([x, y], dtype=np.float32), label


def click_last_of_equals(prediction, truth):
    """Another of the points that are as deep, integers, a list."""
    found = None
    deepest = 0.0
    for label, region in (
        (0, np.logical_and(prediction, np.logical_not(truth))),
        (1, np.logical_and(truth, ~prediction)),
    ):
        inside = depth(region)
        if inside.max() > deepest:
            deepest = inside.max()
            y, x = np.argwhere(inside == deepest)[-1]
            found = [np.array([x, y]), label]
    return found


def click_by_brute_force(prediction, truth):
    """Distances to every pixel that is not in the region, the frame around the image included."""
    best, click = 0, None
    height, width = truth.shape
    for label in (0, 1):
        region = np.zeros((height + 2, width + 2), dtype=bool)
        region[1:-1, 1:-1] = (truth != prediction) & (truth == bool(label))
        outside = np.argwhere(~region)
        for y, x in np.argwhere(region):
            squared = ((outside - (y, x)) ** 2).sum(1).min()
            if squared > best:
                best, click = squared, (np.array([x - 1.0, y - 1.0]), label)
    return click


def click_by_codes(prediction, truth):
    error = truth.astype(int) - prediction.astype(int)
    if not error.any():
        return
    stack = np.stack([depth(error == -1), depth(error == 1)])
    label, y, x = (int(i) for i in np.unravel_index(np.argmax(stack), stack.shape))
    return np.asarray((x, y), dtype="float64"), label


def click_with_numpy_label(prediction, truth):
    found = click_plain(prediction, truth)
    return found and (found[0], np.int64(found[1]))


def clicked(point=lambda xy: xy, label=lambda label: label, deep=depth):
    """A student's answer with a place for each mistake."""

    def answer(prediction, truth):
        if (prediction == truth).all():
            return None
        missed, excess = deep(truth & ~prediction), deep(prediction & ~truth)
        inside = missed if missed.max() > excess.max() else excess
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        return point(np.array([x, y])), label(int(inside is missed))

    return answer


def metric(name):
    return lambda mask: ndimage.distance_transform_cdt(np.pad(mask, 1), name)[1:-1, 1:-1]


def largest_component(prediction, truth):
    error = prediction != truth
    if not error.any():
        return None
    labels, _ = ndimage.label(error)
    region = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    inside = depth(region)
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return np.array([x, y]), int(truth[y, x])


def only_missed(prediction, truth):
    missed = truth & ~prediction
    return (sampling.centre_click(missed), 1) if missed.any() else None


def only_missed_without_none(prediction, truth):
    inside = depth(truth & ~prediction)
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return np.array([x, y]), 1


def missed_first(prediction, truth):
    """Too much is looked at only where nothing is missed."""
    found = only_missed(prediction, truth)
    return found or (None if (prediction == truth).all() else (sampling.centre_click(prediction & ~truth), 0))


def a_third_of_the_way(prediction, truth):
    places = np.argwhere(prediction != truth)
    if not len(places):
        return None
    y, x = places[len(places) // 3]
    return np.array([x, y]), int(truth[y, x])


def mask_changed(prediction, truth):
    prediction &= ~truth
    return click_plain(prediction, truth)


WRONG_CLICKS = [
    (clicked(point=lambda xy: xy[::-1]), "x and y are exchanged", "found (5, 6) with label 1"),
    (clicked(label=lambda label: 1 - label), "the label is wrong: 1 (foreground) where the truth was missed"),
    (clicked(label=lambda label: 1), "too much marked, nothing missed", "Is it always 1?"),
    (clicked(deep=lambda mask: mask * mask.sum()), "is not the deepest of the error"),
    (largest_component, "the middle of the shallower error"),
    (only_missed, "for too much marked, nothing missed it returns None"),
    (only_missed_without_none, "for too much marked, nothing missed"),
    (missed_first, "longer, thinner part missed: this is the middle of the shallower error"),
    (a_third_of_the_way, "not the deepest"),
    (
        lambda p, t: click_plain(p, t) or (np.array([0, 0]), 0),
        "it returns (array([",
        "expected None: there is no error",
    ),
    (lambda p, t: click_plain(p, t) if t.any() else (np.array([0, 0]), 0), "an image without the object it returns"),
    (clicked(deep=metric("chessboard")), "a missed diamond and a square: the point is not the deepest", "Euclidean"),
    (clicked(deep=metric("taxicab")), "for a missed square and a smaller diamond: the point is not", "Euclidean"),
    (clicked(point=tuple), "the point is a value of type tuple, expected np.array([x, y])"),
    (clicked(point=torch.tensor), "the point is a torch tensor"),
    (clicked(point=lambda xy: xy[None]), "the point has shape (1, 2)"),
    (clicked(point=lambda xy: xy.astype(str)), "expected two numbers"),
    (clicked(point=lambda xy: xy + 0.5), "found (6.5, 5.5)"),
    (clicked(point=lambda xy: xy + 100), "outside the image, where x ends at 23"),
    (clicked(point=lambda xy: xy * np.nan), "outside the image"),
    (clicked(label=bool), "the label is a value of type bool, expected 1 or 0"),
    (clicked(label=float), "the label is a Python float, expected 1 or 0"),
    (lambda p, t: click_plain(p, t) and click_plain(p, t)[0], "expected the pair (point, label)"),
    (lambda p, t: click_plain(p, t) and (*click_plain(p, t), 0), "expected the pair"),
    (lambda p, t: p - t, "TypeError for a missed part"),
    (lambda p, t: None, "not written yet"),
    (mask_changed, "argument number 1 in place"),
]

# ---------------------------------------------------------------------- all

RIGHT = {
    "sample_points": [
        points_by_index,
        points_by_choice,
        points_by_rejection,
        points_by_shuffle,
        points_by_permuted_rows,
    ],
    "box_from_mask": [box_by_where, box_one_side_at_a_time, box_by_find_objects, box_by_corners, box_by_argmax],
    "point_embedding": [Points, PointsByLoop, PointsByWhere, PointsByMatrix, PointsByNanMean],
    "box_embedding": [Box, BoxInNestedSequentials, BoxByRows, BoxByCorners, BoxByLoop, BoxByWhere],
    "offset_maps": [offsets_by_loops, offsets_by_broadcasting, offsets_by_linspace, offsets_by_cdist],
    "iou_head": [Head, HeadByLoop, HeadByMatmul, HeadByWeightsFirst, HeadWithEpsilon],
    "prompt_loss": [loss_plain, loss_by_loops, loss_by_flat_tensors, loss_in_double, loss_with_gather],
    "training_step": [step_plain, step_by_names, step_of_any_resolution],
    "next_click": [
        click_plain,
        click_last_of_equals,
        click_by_brute_force,
        click_by_codes,
        click_with_numpy_label,
    ],
}
WRONG = {
    "sample_points": WRONG_POINTS,
    "box_from_mask": WRONG_BOXES,
    "point_embedding": WRONG_POINT_EMBEDDINGS,
    "box_embedding": WRONG_BOX_EMBEDDINGS,
    "offset_maps": WRONG_OFFSETS,
    "iou_head": WRONG_HEADS,
    "prompt_loss": WRONG_LOSSES,
    "training_step": WRONG_STEPS,
    "next_click": WRONG_CLICKS,
}


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name, answers in RIGHT.items() for answer in answers])
def test_right_answer_passes(name, answer):
    assert_passes(name, answer)


@pytest.mark.parametrize(
    ("name", "answer", "hints"), [(name, answer, hints) for name, rows in WRONG.items() for answer, *hints in rows]
)
def test_wrong_answer_gets_its_hint(name, answer, hints):
    assert_hint(name, answer, *hints)
