"""Checks of lab 06: right answers in several styles pass, and wrong ones of another make get their hint, too."""

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from judging import assert_hint, assert_passes, judge
from scipy import ndimage
from torch import nn

from labhelpers.data.augment import to_input
from labhelpers.models.deeplab import conv_norm
from labhelpers.models.mini_sam import Embedding
from labhelpers.models.prompt_maps import box_maps, point_maps
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

# ---------------------------------------------------------------- point_maps


def offsets_by_loops(points, size, stride):
    h, w = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
    out = torch.zeros(*points.shape[:2], h, w, 5)
    for b, n, i, j in np.ndindex(*out.shape[:4]):
        dx = ((j + 0.5) * stride - (points[b, n, 0] + 0.5)) / max(size)
        dy = ((i + 0.5) * stride - (points[b, n, 1] + 0.5)) / max(size)
        d = (dx * dx + dy * dy).sqrt()
        out[b, n, i, j] = torch.stack([dx, dy, d, *(math.e ** (-0.5 * (d / sigma) ** 2) for sigma in (0.03, 0.12))])
    return out


def offsets_by_broadcasting(points, size, stride=4):
    scale = 1.0 / max(*size)
    xs = torch.arange(stride / 2, (size[1] + stride - 1) // stride * stride, stride)
    ys = torch.arange(stride / 2, (size[0] + stride - 1) // stride * stride, stride)
    dx = (xs[None, None, None, :] - points[..., 0, None, None] - 0.5) * scale
    dy = (ys[None, None, :, None] - points[..., 1, None, None] - 0.5) * scale
    dx, dy = torch.broadcast_tensors(dx, dy)
    d = torch.hypot(dx, dy)
    return torch.stack((dx, dy, d, torch.exp(-d * d / 0.0018), torch.exp(-d * d / 0.0288)), dim=-1)


def offsets_by_linspace(points, size, stride):
    h, w = (-(-side // stride) for side in size)
    y = torch.linspace(0.5, h - 0.5, h) * stride
    x = torch.linspace(0.5, w - 0.5, w) * stride
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    offset = (grid.view(1, 1, h, w, 2) - (points + 0.5).view(*points.shape[:2], 1, 1, 2)) / max(size)
    squared = offset.pow(2).sum(-1, keepdim=True)
    sigma = torch.tensor([0.03, 0.12])
    return torch.cat([offset, squared.sqrt(), (-squared / (2 * sigma**2)).exp()], dim=-1)


def offsets_by_norm(points, size, stride):
    rows, columns = (torch.arange(0, side, stride) + stride / 2 for side in size)
    places = torch.cartesian_prod(rows, columns).flip(1) / max(size)
    at = (points + 0.5) / max(size)
    offset = places - at.unsqueeze(2)
    distance = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
    bumps = [torch.exp(-(distance**2) / (2 * s**2)) for s in (0.03, 0.12)]
    return torch.cat((offset, distance, *bumps), -1).unflatten(2, (len(rows), len(columns)))


def offsets(change):
    """The right maps, changed afterwards."""
    return lambda points, size, stride: change(offsets_by_linspace(points, size, stride))


def square_map(points, size, stride):
    return offsets_by_linspace(points, (max(size), max(size)), stride)


def by_width(points, size, stride):
    offset = offsets_by_loops(points, size, stride)[..., :2] * max(size) / size[1]
    d = offset.norm(dim=-1, keepdim=True)
    return torch.cat([offset, d, *(torch.exp(-(d**2) / (2 * s**2)) for s in (0.03, 0.12))], -1)


WRONG_OFFSETS = [
    (offsets(lambda maps: maps * torch.tensor([-1, -1, 1, 1, 1])), "the sign is wrong"),
    (by_width, "for a tall image", "by the shorter side"),
    (offsets(lambda maps: maps.flatten(2, 3)), "is [2, 3, 60, 5], expected [2, 3, 6, 10, 5]"),
    (offsets(lambda maps: maps.numpy()), "torch.from_numpy"),
    (offsets(lambda maps: maps.double()), "dtype is torch.float64"),
    (offsets(lambda maps: maps + 1e-3), "dx and dy for a wide image differs in 720 of 720"),
    (offsets(lambda maps: maps[..., :3]), "the bumps are missing"),
    # Two mistakes: the first is named.
    (offsets(lambda maps: maps[..., [1, 0, 2, 4, 3]]), "dx and dy are exchanged"),
    (
        lambda points, size, stride: offsets_by_linspace(points + 0.3 * (stride > 4), size, stride),
        "for stride=8",
        "first at",
    ),
    (square_map, "is [2, 3, 10, 10, 5], expected [2, 3, 6, 10, 5]"),
    (lambda points, size, stride: torch.zeros(3, 5, 2) - points, "shapes do not fit"),
    (
        lambda points, size, stride: torch.cat([points, points[..., :1, :]], -1),
        "distance and bumps are (B, N, h, w, 1)",
    ),
    (lambda points, size: points, "TypeError for a wide image"),
    (lambda points, size, stride: points.add_(1), "argument number 1 in place"),
]

# ------------------------------------------------------------------ box_maps


def box_by_loops(boxes, size, stride):
    h, w = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
    out, side = torch.zeros(len(boxes), h, w, 8), max(size)
    for b, i, j in np.ndindex(*out.shape[:3]):
        x, y = (j + 0.5) * stride / side, (i + 0.5) * stride / side
        x0, y0, x1, y1 = boxes[b, 0] / side, boxes[b, 1] / side, (boxes[b, 2] + 1) / side, (boxes[b, 3] + 1) / side
        width, height = x1 - x0, y1 - y0
        dx, dy = torch.min(x - x0, x1 - x), torch.min(y - y0, y1 - y)
        u = ((2 * x - x0 - x1) / width).clamp(-2, 2)
        v = ((2 * y - y0 - y1) / height).clamp(-2, 2)
        edge = min(dx, dy)
        out[b, i, j] = torch.stack([u, v, edge, torch.sigmoid(50 * edge), width, height, dx / width, dy / height])
    return out


def box_by_centre(boxes, size, stride=4):
    """From centre and half side: the distance to the nearer edge is half the side minus that to the centre."""
    longest = max(size)
    corners = boxes.unflatten(1, (2, 2))
    centre = (corners.mean(1) + 0.5) / longest
    half = (corners[:, 1] - corners[:, 0] + 1) / 2 / longest
    y, x = (torch.arange(stride / 2, math.ceil(n / stride) * stride, stride) / longest for n in size)
    here = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
    from_centre = here - centre[:, None, None]
    half = half[:, None, None].expand_as(from_centre)
    inner = half - from_centre.abs()
    edge = inner.min(-1, keepdim=True).values
    relative = torch.clamp(from_centre / half, min=-2, max=2)
    return torch.cat([relative, edge, 1 / (1 + torch.exp(-edge / 0.02)), 2 * half, inner / (2 * half)], -1)


def box_by_sides(boxes, size, stride):
    """x and y one by one, stacked at the end."""
    parts = []
    for axis in (0, 1):
        length = size[1 - axis]
        at = (torch.arange(math.ceil(length / stride)) * stride + stride / 2) / max(size)
        at = at[None, None, :] if axis == 0 else at[None, :, None]
        low = (boxes[:, axis] - 0.5 + 0.5)[:, None, None] / max(size)
        high = (boxes[:, axis + 2] + 0.5 + 0.5)[:, None, None] / max(size)
        inner = torch.where(at - low < high - at, at - low, high - at)
        parts.append((2 * (at - low) / (high - low) - 1, inner, high - low, inner / (high - low)))
    (u, dx, w, x), (v, dy, h, y) = parts
    edge = torch.minimum(dx, dy)
    every = torch.broadcast_tensors(u.clamp(-2, 2), v.clamp(-2, 2), edge, (edge / 0.02).sigmoid(), w, h, x, y)
    return torch.stack(every, dim=-1)


def boxed_maps(change):
    return lambda boxes, size, stride: change(box_by_sides(boxes, size, stride))


WRONG_BOX_MAPS = [
    (lambda boxes, size, stride: box_by_centre(boxes + 0.5, size, stride), "0.5 is taken off too much"),
    (boxed_maps(lambda maps: maps.clamp(-1, 1)), "x and y are clamped at 1"),
    (boxed_maps(lambda maps: maps[..., :4]), "is [3, 6, 10, 4], expected [3, 6, 10, 8]"),
    (boxed_maps(lambda maps: maps[..., [0, 1, 2, 3, 5, 4, 6, 7]]), "height and width are exchanged: the width"),
    (boxed_maps(lambda maps: maps.abs()), "x and y relative to the box for a wide image differs"),
    (boxed_maps(lambda maps: maps.numpy()), "torch.from_numpy"),
    (lambda boxes, size, stride: box_by_sides(boxes, size, 4), "stride is not used: is 4 written by hand?"),
    (lambda boxes, size, stride: box_by_sides(boxes[:, [0, 2, 1, 3]], size, stride), "x and y relative to the box"),
    (lambda boxes, size, stride: torch.zeros(6, 10, 2) - boxes[:, :2], "boxes[:, None, None, :2]"),
    (lambda boxes, size, stride: torch.cat([boxes[:, :2], boxes[:1]], 1), "keepdim=True for the minimum"),
    (lambda boxes, size, stride: boxes.add_(1), "argument number 1 in place"),
]


# ------------------------------------------------------------------- IoUHead


class Head(nn.Module):
    """A student's module, with a place for each mistake."""

    def __init__(self, channels, masks, ious):
        super().__init__()
        self.layers = self.make(channels, masks, ious)

    def make(self, c, m, n):
        return nn.Sequential(nn.Linear(c * (1 + m), c), nn.ReLU(), nn.Linear(c, n))

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
        return self.end(self.layers(self.join(self.whole(features), inside)))


class HeadByLoop(Head):
    def forward(self, features, logits):
        with torch.no_grad():
            probabilities = torch.sigmoid(logits)
        parts = [features.mean(dim=(-1, -2))]
        for m in range(logits.shape[1]):
            w = probabilities[:, m : m + 1]
            parts.append((features * w).sum(dim=(-1, -2)) / w.sum(dim=(-1, -2)).clamp(min=1e-3))
        return torch.sigmoid(self.layers(torch.cat(parts, dim=-1)))


class HeadByMatmul(Head):
    """The whole image as one more mask of ones."""

    def forward(self, features, logits):
        w = logits.data.sigmoid().flatten(2)
        w = torch.cat([torch.ones_like(w[:, :1]), w], 1)
        w = w / torch.maximum(w.sum(-1, keepdim=True), torch.tensor(1e-3))
        return self.layers((w @ features.flatten(2).transpose(1, 2)).flatten(1)).sigmoid()


class HeadByWeightsFirst(Head):
    def forward(self, features, logits):
        b, c = features.shape[:2]
        w = torch.special.expit(logits.clone().detach())
        total = w.sum(dim=[2, 3], keepdim=True)
        pooled = ((w / total.clamp_min(0.001))[:, :, None] * features[:, None]).sum(dim=[3, 4])
        average = nn.functional.adaptive_avg_pool2d(features, 1).view(b, 1, c)
        seen = torch.cat((average, pooled), dim=1).reshape(b, -1)
        x = self.layers[0](seen).clamp_min(0)
        return 1 / (1 + torch.exp(-self.layers[2](x)))


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
        Head, make=lambda self, c, m, n: nn.Sequential(nn.Linear(c_in(c, m), c), nn.ReLU(), nn.Linear(c, c_out(m, n)))
    )


WRONG_HEADS = [
    (changed(Head, weights=lambda self, logits: (logits.detach() > 0).float()), "the logits are thresholded"),
    (changed(Head, end=lambda self, x: x.tanh()), "the IoU for 3 masks differs"),
    (changed(Head, weights=lambda self, logits: logits.sigmoid()), "a gradient reaches the logits: detach them"),
    (changed(Head, divided=lambda self, w: w.sum((2, 3))[..., None]), "a mask without a pixel has nan", "or 1e-3"),
    (
        changed(Head, join=lambda self, whole, inside: inside.flatten(1)),
        "layers take channels * (1 + masks) numbers",
    ),
    (FeaturesDetached, "no gradient, or a wrong one, reaches the features"),
    (changed(Head, whole=lambda self, f: f.detach().mean((2, 3))), "or a wrong one, reaches the features"),
    (NoGradient, "no gradient comes back through forward"),
    (head_layers(lambda c, m: c * m, lambda m, n: n), "layers has weights of shapes [(5, 15)"),
    (head_layers(lambda c, m: 4 * c, lambda m, n: 3), "expected [(4, 8), (4,), (1, 4), (1,)]"),
    (head_layers(lambda c, m: c * (1 + m), lambda m, n: m), "expected [(3, 15), (3,), (1, 3), (1,)]"),
    (changed(Head, make=lambda self, c, m, n: None), "it has no `self.layers`"),
    (lambda channels, masks: Head(channels, masks, 3), "TypeError while it is made"),
    (lambda channels, masks, ious: Head(channels, masks, ious).layers, "it has no `self.layers`"),
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

# ------------------------------------------------------------------ MiniSAM


class Network(nn.Module):
    """A student's network, with a place for each mistake."""

    def __init__(self, image_encoder, num_classes=1, channels=48):
        super().__init__()
        self.num_classes = num_classes
        masks, ious = (3, 3) if num_classes == 1 else (num_classes, 1)
        self.image_encoder = image_encoder
        self.img_proj = conv_norm(sum(image_encoder.channels), channels, 1)
        self.point_type_embed = nn.Embedding(2, channels)
        self.point_pos_embed = nn.Linear(5, channels)
        self.box_embed = nn.Linear(8, channels)
        self.mix = nn.Linear(channels, channels)
        norm = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.decoder = nn.Sequential(*norm, *(conv_norm(channels, channels, 3, rate=rate) for rate in (1, 2, 4)))
        self.mask_head = nn.Conv2d(channels, masks, 1)
        self.iou_head = self.judge(channels, masks, ious)

    judge = Head

    def encode(self, images):
        features = self.image_encoder(to_input(images) if images.dtype == torch.uint8 else images)
        size = features[0].shape[-2:]
        features = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in features]
        return Embedding(self.img_proj(torch.cat(features, 1)), tuple(images.shape[-2:]))

    def said_by_points(self, points, labels, size):
        given = labels >= 0
        points = torch.where(given[..., None], points, torch.zeros_like(points))
        vectors = (
            self.point_pos_embed(point_maps(points, size, 4))
            + self.point_type_embed(labels.clamp(min=0))[:, :, None, None]
        )
        return (vectors.relu() * given[:, :, None, None, None]).max(dim=1).values

    def said_by_boxes(self, boxes, size):
        given = ~boxes.isnan().any(1)
        return self.box_embed(box_maps(boxes.nan_to_num(0.0), size, 4)).relu() * given[:, None, None, None]

    def prompt(self, embedding, points, labels, boxes):
        b, c, h, w = embedding.features.shape
        prompt = torch.zeros(b, h, w, c)
        if points is not None and points.shape[1] > 0:
            prompt = prompt + self.said_by_points(points, labels, embedding.size)
        if boxes is not None:
            prompt = prompt + self.said_by_boxes(boxes, embedding.size)
        return prompt

    def decode(self, embedding, points=None, labels=None, boxes=None):
        prompt = self.mix(self.prompt(embedding, points, labels, boxes)).permute(0, 3, 1, 2)
        x = self.decoder(embedding.features + prompt)
        logits = self.mask_head(x)
        h, w = embedding.size
        return F.interpolate(logits, scale_factor=4, mode="bilinear")[:, :, :h, :w], self.iou_head(x, logits)

    def forward(self, images, points=None, labels=None, boxes=None):
        return self.decode(self.encode(images), points, labels, boxes)


class NetworkByLoop(Network):
    """Each point of each image by itself; a box likewise; the ReLU after the maximum."""

    def said_by_points(self, points, labels, size):
        rows = []
        for places, kinds in zip(points, labels, strict=True):
            h, w = (-(-side // 4) for side in size)
            loudest = torch.zeros(h, w, self.mix.in_features)
            for place, kind in zip(places, kinds, strict=True):
                if kind >= 0:
                    said = self.point_pos_embed(point_maps(place[None, None], size, 4))[0, 0]
                    loudest = torch.maximum(loudest, said + self.point_type_embed(kind))
            rows.append(loudest)
        return torch.stack(rows)

    def said_by_boxes(self, boxes, size):
        h, w = (-(-side // 4) for side in size)
        nothing = torch.zeros(h, w, self.mix.in_features)
        return torch.stack(
            [nothing if box.isnan().any() else F.relu(self.box_embed(box_maps(box[None], size, 4)))[0] for box in boxes]
        )


class NetworkOfParts(Network):
    """Masked by -inf; maps moved to the front; interpolated to the padded size."""

    def said_by_points(self, points, labels, size):
        hidden = (labels == -1)[..., None]
        kinds = F.embedding(labels.masked_fill(labels == -1, 1), self.point_type_embed.weight)
        vectors = self.point_pos_embed(point_maps(points.masked_fill(hidden, 0.0), size, stride=4))
        vectors = (vectors + kinds.unsqueeze(2).unsqueeze(2)).masked_fill(hidden[..., None, None], float("-inf"))
        return vectors.amax(dim=1).clamp_min(0)

    def decode(self, embedding, points=None, labels=None, boxes=None):
        prompt = self.prompt(embedding, points, labels, boxes)
        features = embedding.features.permute(0, 2, 3, 1) + self.mix(prompt)
        x = self.decoder(features.permute(0, 3, 1, 2).contiguous())
        logits, (height, width) = self.mask_head(x), embedding.size
        whole = F.interpolate(logits, size=[4 * side for side in logits.shape[2:]], mode="bilinear")
        return [whole[..., :height, :width], self.iou_head(x, logits)]


def network(**parts):
    """The network with other parts: `network(mix=lambda channels: ...)`; None leaves one out."""

    def __init__(self, image_encoder, num_classes=1, channels=48):
        Network.__init__(self, image_encoder, num_classes, channels)
        for name, part in parts.items():
            if hasattr(self, name):
                delattr(self, name)
            setattr(self, name, part and part(channels))

    return changed(Network, __init__=__init__)


class Nan(Network):
    """NaN times 0."""

    def said_by_boxes(self, boxes, size):
        return self.box_embed(box_maps(boxes, size, 4)).relu() * ~boxes.isnan().any(1)[:, None, None, None]


class NanInGradient(Network):
    """Right values: what is NaN is replaced too late."""

    def said_by_boxes(self, boxes, size):
        return self.box_embed(box_maps(boxes, size, 4)).relu().nan_to_num(0.0)


class InPlace(Network):
    def decode(self, embedding, points=None, labels=None, boxes=None):
        embedding.features.add_(self.mix(self.prompt(embedding, points, labels, boxes)).movedim(3, 1))
        return super().decode(Embedding(embedding.features, embedding.size))


class Undetached(Head):
    def weights(self, logits):
        return logits.sigmoid()


def mean_of_points(self, points, labels, size):
    given = (labels >= 0)[:, :, None, None, None]
    points = torch.where((labels >= 0)[..., None], points, 0)
    kinds = self.point_type_embed(labels.clamp(min=0))[:, :, None, None]
    vectors = F.relu(self.point_pos_embed(point_maps(points, size, 4)) + kinds) * given
    return vectors.sum(1) / given.sum(1).clamp(min=1)


def stretched(self, embedding, points=None, labels=None, boxes=None):
    x = self.decoder(embedding.features + self.mix(self.prompt(embedding, points, labels, boxes)).movedim(3, 1))
    logits = self.mask_head(x)
    return F.interpolate(logits, size=embedding.size, mode="bilinear"), self.iou_head(x, logits)


def empty_maximum(self, embedding, points, labels, boxes):
    prompt = torch.zeros_like(embedding.features).movedim(1, 3)
    if points is not None:
        prompt = prompt + self.said_by_points(points, labels, embedding.size)
    return prompt if boxes is None else prompt + self.said_by_boxes(boxes, embedding.size)


def always_points(self, embedding, points, labels, boxes):
    return self.said_by_points(points, labels, embedding.size)


WRONG_NETWORKS = [
    (network(mix=None), "it has no `self.mix`: nn.Linear(channels, channels)"),
    (network(mix=lambda c: nn.Linear(c, c, bias=False)), "mix has no `bias`, expected shape (48,) for num_classes=1"),
    (network(box_embed=lambda c: nn.Linear(4, c)), "box_embed has `weight` of shape (48, 4), expected shape (48, 8)"),
    (network(mix=lambda c: torch.relu), "mix is a value of type builtin_function_or_method, expected nn.Linear"),
    (network(decoder=lambda c: nn.Sequential(conv_norm(c, c, 3))), "decoder has no `0.weight`"),
    (network(mask_head=lambda c: nn.Conv2d(c, 3, 1)), "expected shape (21, 8, 1, 1) for num_classes=21"),
    (network(iou_head=lambda c: Head(c, 3, 3)), "iou_head has `layers.0.weight` of shape (8, 32)"),
    (network(more=lambda c: nn.Linear(c, c)), "besides", "more. Leave them out"),
    (network(num_classes=lambda c: 3), "its num_classes is 3: self.num_classes = num_classes"),
    (changed(Network, encode=lambda self, x: self.img_proj(x)), "img_proj takes the features of all four strides"),
    (changed(Network, encode=lambda self, x: self.image_encoder(x)), "expected Embedding(features, size)"),
    (Nan, "NaN for the second) there is nan or inf", "NaN times 0 is NaN"),
    (NanInGradient, "the gradient of box_embed.weight has nan", "NaN times 0 is NaN"),
    (InPlace, "decode changes the embedding in place"),
    (changed(Network, judge=Undetached), "a gradient of the IoUs reaches mask_head"),
    (changed(Network, said_by_points=mean_of_points), "this is the mean of the points that are given"),
    (changed(Network, decode=stretched), "the logits are stretched to a size"),
    (changed(Network, prompt=empty_maximum), "points may be (B, 0, 2)"),
    (changed(Network, prompt=always_points), "may be None, all of them, too"),
    (changed(Network, forward=lambda self, x, *prompts: self.decode(self.encode(x))), "forward gives another result"),
    (
        changed(Network, decode=lambda self, embedding, *prompts: self.mask_head(embedding.features)),
        "expected the pair",
    ),
    (changed(Network, said_by_boxes=lambda self, boxes, size: self.box_embed(boxes)), "mat1 and mat2"),
    (lambda image_encoder: Network(image_encoder), "TypeError while it is made"),
]

# ----------------------------------------------------------------- step_loss


def step_plain(model, images, prompts, rounds):
    n = len(prompts.masks)
    embedding = model.encode(images).repeat(n // len(images))
    target = torch.from_numpy(prompts.masks).float().to(images.device)
    weight = torch.from_numpy(~prompts.void).float().to(images.device)
    loss = 0.0
    for k in range(rounds):
        logits, ious = model.decode(embedding, *prompts.tensors(images.device))
        loss = loss + prompt_loss(logits, ious, target, weight) / rounds
        if k == rounds - 1:
            break
        for row in range(n):
            mask = (logits[row, ious[row].argmax()] > 0).cpu().numpy()
            click = click_plain(mask & ~prompts.void[row], prompts.masks[row])
            if click is not None:
                prompts.clicks[row].append(click)
    return loss


def step_by_rows(model, images, prompts, rounds):
    """One image after the other is repeated; points are lists, labels of another type; the mean of a list."""
    embedding = model.encode(images)
    count = len(prompts.clicks) // images.shape[0]
    rows = torch.arange(len(images)).repeat_interleave(count)
    embedding = Embedding(embedding.features[rows], embedding.size)
    valid = np.logical_not(prompts.void)
    losses = []
    while len(losses) < rounds:
        points, labels, boxes = prompts.tensors("cpu")
        logits, ious = model.decode(embedding, points, labels, boxes)
        losses.append(loss_plain(logits, ious, torch.tensor(prompts.masks).float(), torch.tensor(valid).float()))
        if len(losses) < rounds:
            with torch.no_grad():
                best = logits.gather(1, ious.argmax(1)[:, None, None, None].expand(-1, 1, *logits.shape[2:]))[:, 0]
                masks = best.sigmoid().numpy() > 0.5
            for clicks, mask, truth, void in zip(prompts.clicks, masks, prompts.masks, prompts.void, strict=True):
                found = click_last_of_equals(mask & ~void, truth)
                if found:
                    clicks += [tuple(found)]
    return sum(losses) / len(losses)


def step_of_logits(model, images, prompts, rounds):
    """Clicks by the library, with void as what is ignored."""
    embedding = model.encode(images).repeat(len(prompts.masks) // len(images))
    target, weight = torch.as_tensor(prompts.masks) * 1.0, 1.0 - torch.as_tensor(prompts.void) * 1.0
    total = torch.zeros(())
    for answer in range(rounds):
        if answer:
            chosen = torch.stack([x[i] for x, i in zip(logits, ious.max(1).indices, strict=True)])  # noqa: F821
            prompts.add_next_click((chosen > 0).numpy())
        logits, ious = model.decode(embedding, *prompts.tensors(images.device))
        total += prompt_loss(logits, ious, target, weight)
    return total / rounds


def stepped(
    encode=lambda model, images, prompts: model.encode(images).repeat(len(prompts.masks) // len(images)),
    again=False,
    prompts_of=lambda prompts: prompts.tensors("cpu"),
    target=lambda prompts: torch.from_numpy(prompts.masks).float(),
    weight=lambda prompts: torch.from_numpy(~prompts.void).float(),
    mask=lambda logits, ious: (logits[ious.argmax()] > 0).numpy(),
    append=lambda clicks, click: click and clicks.append(click),
    result=lambda loss: loss,
):
    """A student's step with a place for each mistake."""

    def answer(model, images, prompts, rounds):
        embedding = encode(model, images, prompts)
        loss = 0
        for left in reversed(range(rounds)):
            if again:
                embedding = encode(model, images, prompts)
            logits, ious = model.decode(embedding, *prompts_of(prompts))
            loss = loss + prompt_loss(logits, ious, target(prompts), weight(prompts)) / rounds
            for row in range(len(logits) if left else 0):
                seen = mask(logits[row], ious[row]) & ~prompts.void[row]
                append(prompts.clicks[row], click_plain(seen, prompts.masks[row]))
        return result(loss)

    return answer


def under_no_grad(*given):
    with torch.no_grad():
        return step_plain(*given)


WRONG_STEPS = [
    (stepped(again=True), "encode is called 2 times for rounds=1: once, before the loop"),
    (lambda *given: step_plain(*given[:3], 2), "decode is called 2 times for rounds=1: once in each round"),
    (stepped(encode=lambda model, images, prompts: model.encode(images)), "2 images for 4 prompts", "repeat(N // B)"),
    (stepped(encode=lambda model, images, prompts: model(images)), "the whole model is called"),
    (stepped(prompts_of=lambda prompts: prompts.tensors("cpu")[:2]), "decode is given something else"),
    (stepped(prompts_of=lambda prompts: prompts.tensors("cpu")[::-1]), "decode is given something else"),
    (stepped(append=lambda clicks, click: clicks.append(click)), "then nothing is appended", "NoneType"),
    (
        stepped(append=lambda clicks, click: clicks.append(click and click[0])),
        "for rounds=2 prompts.clicks[0] holds something that is no pair",
    ),
    (stepped(target=lambda prompts: torch.from_numpy(prompts.masks[0]).float()), "target and weight have the size"),
    (stepped(weight=lambda prompts: ~torch.from_numpy(prompts.void).float()), "~void before .float()"),
    (stepped(mask=lambda logits, ious: logits[ious.argmax()].numpy() > 0), "knows no gradient"),
    (stepped(result=lambda loss: loss.item()), "the loss for rounds=1 is a Python float, expected a torch tensor"),
    (stepped(result=lambda loss: loss[None]), "has shape (1,), expected ()"),
    (stepped(result=lambda loss: loss / 2), "the loss for rounds=1 is"),
    (stepped(mask=lambda logits, ious: (logits[ious.argmin()] > 0).numpy()), "the lowest predicted IoU is clicked"),
    (under_no_grad, "the loss has no gradient"),
    (lambda model, images, prompts, rounds: torch.zeros(()), "encode is not called"),
    (lambda model, images, prompts: None, "TypeError for rounds=1"),
    (lambda model, images, prompts, rounds: None, "not written yet"),
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
    "point_maps": [offsets_by_loops, offsets_by_broadcasting, offsets_by_linspace, offsets_by_norm],
    "box_maps": [box_by_loops, box_by_centre, box_by_sides],
    "iou_head": [Head, HeadByLoop, HeadByMatmul, HeadByWeightsFirst, HeadWithEpsilon],
    "prompt_loss": [loss_plain, loss_by_loops, loss_by_flat_tensors, loss_in_double, loss_with_gather],
    "mini_sam": [Network, NetworkByLoop, NetworkOfParts],
    "step_loss": [step_plain, step_by_rows, step_of_logits],
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
    "point_maps": WRONG_OFFSETS,
    "box_maps": WRONG_BOX_MAPS,
    "iou_head": WRONG_HEADS,
    "prompt_loss": WRONG_LOSSES,
    "mini_sam": WRONG_NETWORKS,
    "step_loss": WRONG_STEPS,
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
