"""The checks of offset maps and of the IoU head accept right answers and name the mistake of wrong ones."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import assert_hint, assert_passes
from torch import nn

from labhelpers.course.checks import lab06 as prompt_references
from labhelpers.models import prompt_maps

# ---------------------------------------------------------------- offset_maps


def by_loops(points, size, stride=8):
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


def by_broadcasting(points, size, stride=8):
    scale = 1.0 / max(*size)
    xs = torch.arange(stride / 2, (size[1] + stride - 1) // stride * stride, stride)
    ys = torch.arange(stride / 2, (size[0] + stride - 1) // stride * stride, stride)
    dx = (xs[None, None, None, :] - points[..., 0, None, None] - 0.5) * scale
    dy = (ys[None, None, :, None] - points[..., 1, None, None] - 0.5) * scale
    dx, dy = torch.broadcast_tensors(dx, dy)
    return torch.stack((dx, dy, torch.hypot(dx, dy)), dim=-1)


def by_linspace(points, size, stride=8):
    h, w = (-(-side // stride) for side in size)
    y = torch.linspace(0.5, h - 0.5, h) * stride
    x = torch.linspace(0.5, w - 0.5, w) * stride
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    offset = (grid.view(1, 1, h, w, 2) - (points + 0.5).view(*points.shape[:2], 1, 1, 2)) / max(size)
    return torch.cat([offset, offset.pow(2).sum(-1, keepdim=True).sqrt()], dim=-1)


def by_cdist(points, size, stride=8):
    rows, columns = (torch.arange(0, side, stride) + stride / 2 for side in size)
    places = torch.cartesian_prod(rows, columns).flip(1) / max(size)
    at = (points + 0.5) / max(size)
    offset = places - at.unsqueeze(2)
    distance = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
    return torch.cat((offset, distance), -1).unflatten(2, (len(rows), len(columns)))


@pytest.mark.parametrize("answer", [by_loops, by_broadcasting, by_linspace, by_cdist])
def test_offsets_accept(answer):
    assert_passes("offset_maps", answer)


def offsets(
    points,
    size,
    stride=8,
    *,
    count=lambda side, stride: -(-side // stride),
    centre=lambda index, stride: (index + 0.5) * stride,
    half=0.5,
    divide=lambda xy, h, w: xy / max(h, w),
    sign=1,
    distance=lambda d: d.norm(dim=-1),
    order=(0, 1, 2),
    after=lambda maps: maps,
):
    """A student's answer with a place for each mistake."""
    rows, columns = (torch.arange(count(side, stride)) for side in size)
    y, x = torch.meshgrid(centre(rows, stride), centre(columns, stride), indexing="ij")
    offset = sign * (divide(torch.stack([x, y], -1), *size) - divide(points + half, *size)[:, :, None, None])
    return after(torch.cat([offset, distance(offset)[..., None]], -1)[..., order])


def changed(**changes):
    return lambda points, size, stride=8: offsets(points, size, stride, **changes)


def square_map(points, size, stride=8):
    side = -(-max(size) // stride)
    return offsets(points, (side * stride, side * stride), stride, divide=lambda xy, h, w: xy / max(size))


def only_pixels_of_points(points, size, stride=8):
    return offsets(points / max(size), size, stride, half=0.5 / max(size), divide=lambda xy, h, w: xy)


WRONG_OFFSETS = [
    (changed(sign=-1), "the sign is wrong"),
    (changed(order=(1, 0, 2)), "dx and dy are exchanged"),
    (changed(order=(1, 0, 2), sign=-1), "exchanged, and the sign is wrong"),
    (changed(order=(2, 0, 1)), "the distance comes last"),
    (changed(order=(0, 1)), "the distance is missing"),
    (changed(after=lambda maps: maps.transpose(2, 3)), "h and w are exchanged"),
    (changed(after=lambda maps: maps.movedim(-1, 2)), "the three numbers come last"),
    (changed(after=lambda maps: maps.flatten(2, 3)), "has shape (2, 3, 15, 3), expected (2, 3, 3, 5, 3)"),
    (changed(after=lambda maps: maps.sum(1)), "has shape"),
    (changed(after=lambda maps: maps.numpy()), "torch.from_numpy"),
    (changed(after=lambda maps: maps.double()), "dtype is torch.float64"),
    (changed(after=lambda maps: None), "not written yet"),
    (changed(centre=lambda i, s: i * s), "this is the corner of the position"),
    (changed(centre=lambda i, s: i * s, half=0), "this is the corner of the position", "And a point's"),
    (changed(centre=lambda i, s: (i + 0.5) * s - 0.5), "0.5 is taken off too much"),
    (changed(centre=lambda i, s: (i + 1) * s), "the position's far corner"),
    (changed(centre=lambda i, s: i * s + 0.5), "this is the corner", "And a point's"),
    (changed(centre=lambda i, s: (i + 0.5) * 8), "for stride=4", "first at"),
    (changed(half=0), "the half pixel of the point is missing"),
    (changed(divide=lambda xy, h, w: xy), "it is not normalised"),
    (changed(divide=lambda xy, h, w: xy / 8), "in units of the stride"),
    (changed(divide=lambda xy, h, w: xy / torch.tensor([w, h])), "divided by its own side"),
    (changed(divide=lambda xy, h, w: xy / torch.tensor([h, w])), "height and width are mixed up"),
    (changed(divide=lambda xy, h, w: xy / min(h, w)), "by the shorter side"),
    (changed(divide=lambda xy, h, w: xy / w), "for a tall image", "by the shorter side"),
    (changed(divide=lambda xy, h, w: xy / h), "by the shorter side"),
    (only_pixels_of_points, "the positions' centres are not divided"),
    (changed(distance=lambda d: d.square().sum(-1)), "the squared distance"),
    (changed(distance=lambda d: d.abs().sum(-1)), "|dx| + |dy|"),
    (changed(distance=lambda d: d.abs().amax(-1)), "the larger of |dx|, |dy|"),
    (changed(distance=lambda d: (-d.square().sum(-1)).exp()), "a bump around the point"),
    (changed(distance=lambda d: d.norm(dim=-1) * 40), "the distance is in pixels"),
    (changed(count=lambda side, s: side // s), "for a tall image whose sides do not divide", "rounded up"),
    (
        changed(count=lambda side, s: side // s + 1),
        "for a wide image has shape (2, 3, 4, 6, 3), expected (2, 3, 3, 5, 3)",
    ),
    (lambda points, size, stride=8: offsets(points, size), "for stride=4: stride is not used"),
    (lambda points, size, stride=8: offsets(points, size[::-1], stride), "h and w"),
    (square_map, "has shape (2, 3, 5, 5, 3), expected (2, 3, 3, 5, 3)"),
    (lambda points, size, stride=8: offsets(points, size, stride) + 1e-3, "differs in 270 of 270"),
    (lambda points, size, stride=8: torch.zeros(3, 5, 2) - points, "shapes do not fit"),
    (lambda points, size, stride: offsets(points, size, stride), "missing 1 required positional argument"),
    (lambda points, size, stride=8: points.add_(1), "argument number 1 in place"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_OFFSETS])
def test_offsets_reject(answer, hints):
    assert_hint("offset_maps", answer, *hints)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 70), st.integers(8, 70), st.integers(0, 1000))
def test_reference_offsets_are_those_of_mini_sam(height, width, seed):
    size = (height, width)
    points = torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([width, height])
    maps = prompt_references.offset_maps.reference(points, size)
    h, w = maps.shape[2:4]
    where = prompt_maps.positions(h, w, size, points.device).unflatten(0, (h, w))
    expected = where - prompt_maps.normalize(points, size)[:, :, None, None]
    torch.testing.assert_close(maps[..., :2], expected)
    torch.testing.assert_close(maps[..., 2].square(), expected.square().sum(-1))


# -------------------------------------------------------------------- IoUHead


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


@pytest.mark.parametrize("answer", [Head, HeadByLoop, HeadByMatmul, HeadByWeightsFirst, HeadWithEpsilon])
def test_head_accepts(answer):
    assert_passes("iou_head", answer)


def head(**methods):
    return type("IoUHead", (Head,), methods)


def weights(function):
    return head(weights=lambda self, logits: function(logits.detach()))


def end(function):
    return head(end=lambda self, x: function(x))


def join(function):
    return head(join=lambda self, whole, inside: function(whole, inside))


class NoGradient(Head):
    @torch.no_grad()
    def forward(self, features, logits):
        return super().forward(features, logits)


class FeaturesDetached(Head):
    def forward(self, features, logits):
        return super().forward(features.detach(), logits)


WRONG_HEADS = [
    (end(lambda x: x), "the sigmoid at the end is missing"),
    (end(lambda x: x.softmax(1)), "there is a softmax at the end"),
    (end(lambda x: x.clamp(0, 1)), "the result is cut off (ReLU or clamp)"),
    (end(lambda x: x.relu()), "the result is cut off (ReLU or clamp)"),
    (end(lambda x: x.sigmoid().sigmoid()), "at the end is taken twice"),
    (end(lambda x: x.tanh()), "the IoU for 3 masks differs"),
    (weights(lambda x: (x > 0).float()), "the logits are thresholded: the weights are sigmoid(logits)"),
    (weights(lambda x: (x.sigmoid() > 0.5) * x.sigmoid()), "cut off below 0.5"),
    (weights(lambda x: (x > 0.5).float()), "thresholded, at 0.5"),
    (weights(lambda x: x), "the logits themselves are the weights"),
    (weights(torch.relu), "relu(logits)"),
    (weights(lambda x: x.sigmoid().sigmoid()), "of the logits is taken twice"),
    (weights(lambda x: x.flatten(2).softmax(2).view_as(x)), "a softmax over the pixels"),
    (weights(lambda x: x.softmax(1)), "a softmax over the masks"),
    (weights(lambda x: 1 - x.sigmoid()), "outside the masks"),
    (weights(torch.ones_like), "the masks are not used"),
    (head(weights=lambda self, logits: logits.sigmoid()), "a gradient reaches the logits: detach them"),
    (head(divided=lambda self, w: w[0, 0].numel()), "by the number of pixels"),
    (head(divided=lambda self, w: w.sum((2, 3)).clamp_min(1)[..., None]), "add up to less than 1"),
    (head(divided=lambda self, w: w.sum((2, 3))[..., None] + 1e-3), "1e-3 is added to every sum"),
    (head(divided=lambda self, w: 1), "this is the weighted sum"),
    (head(divided=lambda self, w: w.sum((1, 2, 3))[:, None, None]), "by the sum of all masks"),
    (head(divided=lambda self, w: w.sum((0, 2, 3))[None, :, None]), "by the sum over the batch"),
    (head(divided=lambda self, w: w.sum((2, 3))[..., None]), "a mask without a pixel has nan", "or 1e-3"),
    (head(whole=lambda self, features: features.sum((2, 3))), "the image's features are summed"),
    (head(whole=lambda self, features: features.amax((2, 3))), "the maximum over the image"),
    (join(lambda whole, inside: torch.cat([inside.flatten(1), whole], 1)), "the image's mean comes last"),
    (join(lambda whole, inside: torch.cat([whole, inside.flip(1).flatten(1)], 1)), "in reverse order"),
    (
        join(lambda whole, inside: torch.cat([whole[:, None], inside], 1).transpose(1, 2).flatten(1)),
        "the numbers are in another order",
    ),
    (
        join(lambda whole, inside: torch.cat([whole, inside.transpose(1, 2).flatten(1)], 1)),
        "the numbers are in another order",
    ),
    (join(lambda whole, inside: inside.flatten(1)), "iou_head takes channels * (1 + masks) numbers"),
    (FeaturesDetached, "no gradient, or a wrong one, reaches the features"),
    (head(whole=lambda self, features: features.detach().mean((2, 3))), "or a wrong one, reaches the features"),
    (NoGradient, "no gradient comes back through forward"),
    (
        head(layers=lambda self, c, m: nn.Sequential(nn.Linear(c * (1 + m), c), nn.Linear(c, m))),
        "the ReLU between the two layers is left out",
    ),
    (
        head(layers=lambda self, c, m: nn.Sequential(nn.Linear(c * m, c), nn.ReLU(), nn.Linear(c, m))),
        "iou_head has weights of shapes [(5, 15)",
    ),
    (
        head(layers=lambda self, c, m: nn.Sequential(nn.Linear(4 * c, c), nn.ReLU(), nn.Linear(c, 3))),
        "expected [(4, 8), (4,), (1, 4), (1,)]",
    ),
    (head(layers=lambda self, c, m: None), "it has no `self.iou_head`"),
    (lambda channels: Head(channels, 3), "TypeError while it is made"),
    (lambda channels, masks: Head(channels, masks).iou_head, "it has no `self.iou_head`"),
    (lambda channels, masks: None, "not written yet"),
    (head(forward=lambda self, features, logits: None), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_HEADS])
def test_head_rejects(answer, hints):
    assert_hint("iou_head", answer, *hints)
