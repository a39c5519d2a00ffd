"""The checks of points and boxes as vectors accept right answers and name the mistake of wrong ones."""

import pytest
import torch
from judging import assert_hint, assert_passes
from torch import nn

# ------------------------------------------------------------- PointEmbedding


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


@pytest.mark.parametrize("answer", [Points, PointsByLoop, PointsByWhere, PointsByMatrix, PointsByNanMean])
def test_points_accept(answer):
    assert_passes("point_embedding", answer)


def points(**methods):
    return type("PointEmbedding", (Points,), methods)


def at(function):
    return points(at=lambda self, xy, size: function(xy, *size))


def everyone(self, labels):
    return torch.ones_like(labels).float()[..., None]


def detached(self, xy, labels, size):
    return self.kind(labels) + self.place(xy, size).detach()


def nan_without_points(self, labels):
    return self.counted(labels).sum(1)


class PlainMean(Points):
    def forward(self, points, labels, size):
        return self.said(points, labels, size).mean(1)


class Maximum(Points):
    def forward(self, points, labels, size):
        return self.said(points, labels, size).masked_fill(labels[..., None] < 0, -torch.inf).amax(1)


class EachPoint(Points):
    def forward(self, points, labels, size):
        return self.said(points, labels, size) * self.counted(labels)


class OfMeans(Points):
    def forward(self, points, labels, size):
        w = self.counted(labels) / self.divided(labels)[:, None]
        return (w * self.kind(labels)).sum(1) + self.point_pos_embed((w * self.at(points, size)).sum(1))


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


WRONG_POINTS = [
    (at(lambda xy, h, w: xy), "pixel coordinates go in as they are"),
    (at(lambda xy, h, w: xy + 0.5), "the positions are not divided"),
    (at(lambda xy, h, w: xy / max(h, w)), "the half pixel is missing"),
    (at(lambda xy, h, w: (xy + 0.5) / torch.tensor([w, h])), "each axis is divided by its own side"),
    (at(lambda xy, h, w: xy / torch.tensor([w, h])), "each axis is divided by its own side"),
    (at(lambda xy, h, w: (xy + 0.5) / torch.tensor([h, w])), "height and width are mixed up"),
    (at(lambda xy, h, w: (xy + 0.5) / min(h, w)), "by the shorter side"),
    (at(lambda xy, h, w: (xy + 0.5) / w), "for this image it divides by the shorter side"),
    (at(lambda xy, h, w: (xy + 0.5) / h), "shorter side"),
    (at(lambda xy, h, w: (xy - 0.5) / max(h, w)), "half a pixel is taken off"),
    (at(lambda xy, h, w: xy / max(h, w) + 0.5), "0.5 is added after the division"),
    (at(lambda xy, h, w: xy / (max(h, w) - 1)), "the longer side minus 1"),
    (at(lambda xy, h, w: (xy.flip(-1) + 0.5) / max(h, w)), "x and y are exchanged"),
    (at(lambda xy, h, w: 2 * (xy + 0.5) / max(h, w) - 1), "positions run from -1 to 1"),
    (points(said=lambda self, xy, labels, size: self.kind(labels)), "the position is left out"),
    (points(said=lambda self, xy, labels, size: self.place(xy, size)), "the type is left out"),
    (points(said=lambda self, xy, labels, size: self.kind(labels) * self.place(xy, size)), "multiplied: add them"),
    (
        points(said=lambda self, xy, labels, size: torch.cat([self.kind(labels), self.place(xy, size)], -1)),
        "concatenated: add them",
    ),
    (points(kind=lambda self, labels: self.point_type_embed(1 - labels.clamp(min=0))), "background are exchanged"),
    (points(kind=lambda self, labels: self.point_type_embed(labels)), "-1 is used as an index"),
    (points(counted=everyone), "padding (label -1) is counted as a background point"),
    (
        points(counted=everyone, kind=lambda self, labels: self.point_type_embed.weight[labels]),
        "as a foreground point (-1 is the last row)",
    ),
    (
        points(counted=everyone, kind=lambda self, x: self.point_type_embed(x.clamp(min=0)) * (x >= 0)[..., None]),
        "with",
    ),
    (points(divided=lambda self, labels: labels.shape[1]), "padding is counted in the mean"),
    (points(divided=lambda self, labels: self.counted(labels).sum()), "each row by its own"),
    (points(divided=lambda self, labels: 1), "this is the sum over the points"),
    (points(divided=nan_without_points), "a row of padding alone has nan or inf", "clamp_min(1)"),
    (points(divided=lambda self, labels: self.counted(labels).sum(1) + 1), "the vector for a wide image differs"),
    (points(counted=lambda self, labels: (labels > 0).float()[..., None]), "background points (label 0) are left out"),
    (points(counted=lambda self, labels: labels.float()[..., None]), "label 0) are left out"),
    (points(said=detached), "the gradient of point_pos_embed.weight is not: is a part of it detached?"),
    (points(counted=lambda self, labels: (labels >= 0).float()), "need a third axis"),
    (PlainMean, "padding (label -1) is counted as a background point"),
    (Maximum, "this is the maximum over the points"),
    (EachPoint, "this is a vector for each point"),
    (OfMeans, "the bias of point_pos_embed is left over"),
    (OneMore, "weights of its own besides point_type_embed, point_pos_embed: mix"),
    (Parameter, "point_type_embed is a torch tensor, expected nn.Embedding(2, channels)"),
    (OtherName, "it has no `self.point_type_embed`: nn.Embedding(2, channels)"),
    (points(kinds=3), "point_type_embed has weights of shapes [(3, 6)], expected [(2, 6)]"),
    (points(bias=False), "point_pos_embed has weights of shapes [(6, 2)], expected [(6, 2), (6,)]"),
    (Points(6), "TypeError while it is made"),
    (lambda channels: None, "not written yet"),
    (points(forward=lambda self, points, labels, size: None), "not written yet"),
    (points(forward=lambda self, points, labels: points), "TypeError for a wide image"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_POINTS])
def test_points_reject(answer, hints):
    assert_hint("point_embedding", answer, *hints)


# --------------------------------------------------------------- BoxEmbedding


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


@pytest.mark.parametrize("answer", [Box, BoxInNestedSequentials, BoxByRows, BoxByCorners, BoxByLoop, BoxByWhere])
def test_boxes_accept(answer):
    assert_passes("box_embedding", answer)


def boxes(**methods):
    return type("BoxEmbedding", (Box,), methods)


def box_at(function):
    return boxes(at=lambda self, xy, size: function(xy, *size))


class NanOut(Box):
    def forward(self, boxes, size):
        return self.embed(self.at(boxes, size))


class NanTimesZero(Box):
    def forward(self, boxes, size):
        return self.embed(self.at(boxes, size)) * ~boxes.isnan().any(1, keepdim=True)


class NanAfterwards(Box):
    """The values are right: NaN only hides in the gradient."""

    def forward(self, boxes, size):
        return self.embed(self.at(boxes, size)).nan_to_num(0.0)


class WhereAfterwards(Box):
    def forward(self, boxes, size):
        vectors = self.embed(self.at(boxes, size))
        return torch.where(boxes.isnan().any(1, keepdim=True), torch.zeros_like(vectors), vectors)


class BiasLeft(Box):
    def forward(self, boxes, size):
        return self.embed(self.at(boxes.nan_to_num(0.0), size))


class BiasLeftOfZeros(Box):
    def forward(self, boxes, size):
        return self.embed(self.at(boxes, size).nan_to_num(0.0))


def corners_to_size(boxes, h, w, more=0):
    x0, y0, x1, y1 = boxes.unbind(1)
    s = max(h, w)
    return torch.stack([(x0 + 0.5) / s, (y0 + 0.5) / s, (x1 - x0 + more) / s, (y1 - y0 + more) / s], 1)


WRONG_BOXES = [
    (box_at(lambda xy, h, w: xy), "pixel coordinates go in as they are"),
    (box_at(lambda xy, h, w: xy / max(h, w)), "the half pixel is missing"),
    (box_at(lambda xy, h, w: (xy + 0.5) / torch.tensor([w, h, w, h])), "each axis is divided by its own side"),
    (box_at(lambda xy, h, w: xy / torch.tensor([w, h, w, h])), "each axis is divided by its own side"),
    (box_at(lambda xy, h, w: (xy + 0.5) / torch.tensor([h, w, h, w])), "height and width are mixed up"),
    (box_at(lambda xy, h, w: (xy + 0.5) / min(h, w)), "shorter side"),
    (box_at(lambda xy, h, w: (xy + 0.5) / w), "shorter side"),
    (box_at(lambda xy, h, w: (xy[:, [1, 0, 3, 2]] + 0.5) / max(h, w)), "x and y are exchanged"),
    (box_at(lambda xy, h, w: (xy[:, [0, 2, 1, 3]] + 0.5) / max(h, w)), "(x0, y0, x1, y1) goes in"),
    (box_at(corners_to_size), "width and height go in"),
    (box_at(lambda xy, h, w: corners_to_size(xy, h, w, 1)), "width and height go in"),
    (box_at(lambda xy, h, w: 2 * (xy + 0.5) / max(h, w) - 1), "positions run from -1 to 1"),
    (
        boxes(embed=lambda self, x: self.box_embed[2](self.box_embed[0](x))),
        "the ReLU between the two layers is left out",
    ),
    (boxes(embed=lambda self, x: self.box_embed(x).relu()), "a ReLU after the second layer"),
    (NanOut, "a row without a box has nan or inf", "a row of NaN is no box"),
    (NanTimesZero, "NaN times 0 is NaN"),
    (NanAfterwards, "the gradient of box_embed.0.weight has nan", "replace it before the layers"),
    (WhereAfterwards, "the gradient of box_embed.0.weight has nan", "replace it before the layers"),
    (BiasLeft, "since the layers have biases"),
    (BiasLeftOfZeros, "since the layers have biases"),
    (boxes(layers=lambda self, c: nn.Linear(4, c)), "box_embed is a value of type Linear, expected nn.Sequential"),
    (boxes(layers=lambda self, c: nn.Sequential(nn.Linear(4, c))), "box_embed has weights of shapes [(6, 4), (6,)]"),
    (
        boxes(layers=lambda self, c: nn.Sequential(nn.Linear(4, c), nn.Linear(c, c))),
        "the ReLU between the two layers is left out",
    ),
    (
        boxes(layers=lambda self, c: nn.Sequential(nn.Linear(4, c), nn.Sigmoid(), nn.Linear(c, c))),
        "the vector for a wide image differs",
    ),
    (
        boxes(layers=lambda self, c: nn.Sequential(nn.Linear(2, c), nn.ReLU(), nn.Linear(c, c))),
        "expected [(6, 4), (6,), (6, 6), (6,)]",
    ),
    (boxes(at=lambda self, xy, size: xy.unflatten(1, (2, 2)) / max(size)), "as (B, 2, 2), then flatten"),
    (boxes(forward=lambda self, boxes, size: ...), "not written yet"),
    (boxes(embed=lambda self, x: self.box_embed(x).detach()), "no gradient comes back through forward"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_BOXES])
def test_boxes_reject(answer, hints):
    assert_hint("box_embedding", answer, *hints)
