"""Checks of lab 06's prompts as vectors: points and a box, each said in ``channels`` numbers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from labhelpers.course.checks import prompt_references as references
from labhelpers.course.checks.core import Check, exercise
from labhelpers.course.checks.networks import Mistakes, make
from labhelpers.course.checks.same_weights import check_same_gradients, check_values, copy_weights

_C = 6
_WIDE, _TALL = (24, 40), (37, 20)
_RULE = "(xy + 0.5) / the longer side of the image"
_NO_POINT = "without a point it is 0 / 0: divide by the number of points or 1, whichever is larger (clamp_min(1))."
_NO_BOX = (
    "a row of NaN is no box. NaN times 0 is NaN, in the gradient too: replace it before the layers "
    "(torch.where, nan_to_num), then multiply the row's vector by 0."
)
_Size = tuple[int, int]


@exercise("PointEmbedding", references.PointEmbedding)
def point_embedding(check: Check, answer) -> None:
    """Layers; wide and tall images; padding; a row of padding alone, and no points at all; gradients."""
    model, right = make(check, answer, _C), references.PointEmbedding(_C)
    specs = {
        "point_type_embed": "nn.Embedding(2, channels), 0 background and 1 foreground",
        "point_pos_embed": "nn.Linear(2, channels)",
    }
    copy_weights(check, model, right, specs)
    errors = {
        "index out of range": "the label -1 is used as an index: replace it first (clamp_min(0)), and leave those "
        "points out of sum and mean.",
        "must match the size": "shapes do not fit: labels (B, N) need a third axis, labels[..., None], to meet vectors "
        "(B, N, channels).",
        "mat1 and mat2": "point_pos_embed takes the last axis of (B, N, 2), the two coordinates of a point.",
    }
    full, padded = torch.tensor([[1, 0, 0], [1, 1, 0]]), torch.tensor([[1, -1, 0, -1, 0], [-1, 0, 1, 1, -1]])
    empty = torch.zeros(2, 0, dtype=torch.int64)
    alone = torch.tensor([[1, 0, 1], [-1, -1, -1]])
    for words, labels, size in (
        ("a wide image", full, _WIDE),
        ("a tall image", full, _TALL),
        ("points with padding", padded, _WIDE),
        ("a row of padding alone", alone, _WIDE),
        ("no points at all", empty, _WIDE),
    ):
        points = _pixels(labels, size)
        found = check.call(model, points, labels, size, when=f"for {words}", errors=errors)
        expected = right(points, labels, size)
        mistakes = _wrong_points(right, points, labels, size)
        check_values(check, found, expected, f"the vector for {words}", mistakes, _NO_POINT)
        if len(labels[0]):
            check_same_gradients(check, model, right, found, expected, words, _NO_POINT)


def _pixels(labels: Tensor, size: _Size) -> Tensor:
    """A pixel of the image for each label; those of padding lie far outside, where they do most harm."""
    points = (torch.rand(*labels.shape, 2) * torch.tensor([size[1] - 1, size[0] - 1])).round()
    return torch.where((labels < 0)[..., None], -700.0, points)


def _wrong_points(right: nn.Module, points: Tensor, labels: Tensor, size: _Size) -> Mistakes:
    """What known mistakes give, computed only when asked for."""
    given, known = (labels >= 0).float()[..., None], labels.clamp_min(0)
    place = right.point_pos_embed(references.normalize(points, size))
    said = right.point_type_embed(known) + place
    everyone, nobody = torch.ones_like(given), torch.zeros_like(given)

    def mean(vectors: Tensor, counted: Tensor = given, divided: Tensor | None = None) -> Tensor:
        return (vectors * counted).sum(1) / (counted if divided is None else divided).sum(1).clamp_min(1)

    for position, hint in _WRONG_POSITIONS:
        yield mean(right.point_type_embed(known) + right.point_pos_embed(position(points, size))), hint
    yield mean(place), "the type is left out: point_type_embed of the label is added to the position's vector."
    yield mean(right.point_type_embed(known)), "the position is left out: point_pos_embed of it is added to the type's."
    exchanged = mean(right.point_type_embed(1 - known) + place)
    yield exchanged, "foreground and background are exchanged: row 0 of point_type_embed is background, row 1 is not."
    yield mean(said, divided=nobody), "this is the sum over the points: take their mean."
    yield (said * given).sum(1) / given.sum().clamp_min(1), "divided by the points of the batch: each row by its own."
    yield mean(said, divided=everyone), "padding is counted in the mean: divide by the number of points given."
    padding = "padding (label -1) is counted {}: it must change nothing. Multiply by labels >= 0."
    for counted, divided in ((everyone, everyone), (everyone, given), (everyone, nobody)):
        yield mean(said, counted, divided), padding.format("as a background point")
        as_foreground = right.point_type_embed(labels % 2) + place
        yield mean(as_foreground, counted, divided), padding.format("as a foreground point (-1 is the last row)")
        only_place = right.point_type_embed(known) * given + place
        yield mean(only_place, counted, divided), padding.format("with its position")
        only_type = right.point_type_embed(known) + place * given
        yield mean(only_type, counted, divided), padding.format("with its type")
    yield mean(said, (labels == 1).float()[..., None]), "background points (label 0) are left out: they count, too."
    yield mean(said, labels[..., None].float().clamp_min(0), given), "background points (label 0) are left out."
    yield mean(said * (2.0 * known[..., None] - 1)), "background points are subtracted: their type says what they are."
    of_means = mean(right.point_type_embed(known)) + right.point_pos_embed(mean(references.normalize(points, size)))
    yield of_means, "without a point the bias of point_pos_embed is left over: the vector is zeros then."
    yield mean(right.point_type_embed(known) * place), "type and position are multiplied: add them."
    yield mean(torch.cat([right.point_type_embed(known), place], -1)), "type and position are concatenated: add them."
    yield said * given, "this is a vector for each point: return their mean, (B, channels)."
    if points.shape[1]:
        yield said.masked_fill(given == 0, -torch.inf).amax(1), "this is the maximum over the points: take their mean."


@exercise("BoxEmbedding", references.BoxEmbedding)
def box_embedding(check: Check, answer) -> None:
    """Layers; wide and tall images; a row without a box among others, and alone; gradients without NaN."""
    model, right = make(check, answer, _C), references.BoxEmbedding(_C)
    spec = "nn.Sequential(nn.Linear(4, channels), nn.ReLU(), nn.Linear(channels, channels))"
    copy_weights(check, model, right, {"box_embed": spec})
    none = [torch.nan] * 4
    boxes = torch.tensor([[3.0, 5, 17, 12], [0, 1, 19, 21], [6, 2, 9, 18]])
    errors = {"mat1 and mat2": "box_embed takes the four numbers of a box: normalise them as (B, 2, 2), then flatten."}
    for words, given, size in (
        ("a wide image", boxes, _WIDE),
        ("a tall image", boxes, _TALL),
        ("a row without a box", torch.cat([boxes, torch.tensor([none])]), _WIDE),
        ("no box at all", torch.tensor([none, none]), _WIDE),
    ):
        found = check.call(model, given, size, when=f"for {words}", errors=errors)
        expected = right(given, size)
        check_values(check, found, expected, f"the vector for {words}", _wrong_boxes(right, given, size), _NO_BOX)
        check_same_gradients(check, model, right, found, expected, words, _NO_BOX)


def _wrong_boxes(right: nn.Module, boxes: Tensor, size: _Size) -> Mistakes:
    given = ~boxes.isnan().any(1, keepdim=True)
    corners = boxes.nan_to_num().unflatten(1, (2, 2))
    first, _, second = right.box_embed
    at = references.normalize(corners, size)
    for position, hint in _WRONG_POSITIONS:
        yield right.box_embed(position(corners, size).flatten(1)) * given, hint
    sides = "width and height go in: the four numbers are the corners, (x0, y0, x1, y1)."
    extent = (corners[:, 1] - corners[:, 0]) / max(size)
    for start in (at[:, 0], at.mean(1)):
        for more in (0, 1):
            yield right.box_embed(torch.cat([start, extent + more / max(size)], 1)) * given, sides
    yield right.box_embed(at.transpose(1, 2).flatten(1)) * given, "this is (x0, x1, y0, y1): (x0, y0, x1, y1) goes in."
    yield second(first(at.flatten(1))) * given, "the ReLU between the two layers is left out."
    yield second(first(at.flatten(1))).relu() * given, "the ReLU comes after the second layer: it stands between them."
    yield right.box_embed(at.flatten(1)).relu() * given, "there is a ReLU after the second layer: leave it out."
    bias = "a row of NaN still says something, since the layers have biases: multiply its vector by 0."
    yield right.box_embed(at.flatten(1)), bias
    yield right.box_embed(at.flatten(1) * given), bias


def _by(xy: Tensor, *sides: int) -> Tensor:
    return (xy + 0.5) / xy.new_tensor(sides)


_OWN_SIDES = f"each axis is divided by its own side: {_RULE}, the same for both, so that circles stay round."
_MIXED = f"height and width are mixed up, size is (H, W), and a position is {_RULE}."
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
    (lambda xy, size: _by(xy, max(size)).flip(-1), "x and y are exchanged: (x, y) goes in, in this order."),
    (lambda xy, size: 2 * _by(xy, max(size)) - 1, f"positions run from -1 to 1: {_RULE}."),
]
"""What known mistakes make of pixels (..., 2), and their hints."""
