"""Check of lab 06's prompts as maps: where does each position of the feature map lie, seen from a point?"""

from collections.abc import Callable

import torch
from torch import Tensor

from labhelpers.course.checks import prompt_references as references
from labhelpers.course.checks.core import Check, exercise
from labhelpers.course.checks.networks import Mistakes

_Size = tuple[int, int]


@exercise("offset_maps", references.offset_maps)
def offset_maps(check: Check, answer) -> None:
    """Wide and tall images, sides that are no multiples of the stride, another stride, one point, no points."""
    errors = {
        "must match the size": "shapes do not fit: points (B, N, 2) become (B, N, 1, 1, 2) to meet the centres (h, w, "
        "2), for example points[:, :, None, None]."
    }
    for words, size, count, settings in (
        ("a wide image", (24, 40), 3, {}),
        ("a tall image whose sides do not divide", (37, 20), 2, {}),
        ("stride=4", (18, 24), 1, {"stride": 4}),
        ("no points", (16, 24), 0, {}),
    ):
        points = torch.rand(2, count, 2) * torch.tensor([size[1] - 1, size[0] - 1])
        found = check.call(answer, points, size, when=f"for {words}", errors=errors, **settings)
        expected = references.offset_maps(points, size, **settings)
        mistakes = _mistakes(points, size, **settings)
        check.equal(found, expected, f"the map for {words}", ((x, f"for {words}: {hint}") for x, hint in mistakes))


def _mistakes(points: Tensor, size: _Size, stride: int = 8) -> Mistakes:
    def wrong(**changes) -> Tensor:
        return _offsets(points, size, **({"stride": stride} | changes))

    longer = "pixels are divided by the longer side of the image"
    right = wrong()
    sign = "the sign is wrong: from the point to the position, position - point."
    yield right * right.new_tensor([-1, -1, 1]), sign
    yield right[..., [1, 0, 2]], "dx and dy are exchanged: dx first, along the columns."
    yield right[..., [1, 0, 2]] * right.new_tensor([-1, -1, 1]), f"dx and dy are exchanged, and {sign}"
    yield right[..., [2, 0, 1]], "the distance comes last: dx, dy, distance."
    yield right[..., :2], "the distance is missing: dx, dy, distance."
    yield right.transpose(2, 3), "h and w are exchanged: the shape is (B, N, h, w, 3), rows first."
    yield _offsets(points, size[::-1], stride=stride), "h and w are exchanged: size is (H, W), rows first."
    yield right.movedim(-1, 2), "the three numbers come last: the shape is (B, N, h, w, 3)."
    corner = "this is the corner of the position: its centre is at (j + 0.5) * stride."
    yield wrong(centre=0.0), corner
    yield wrong(centre=0.0, half=0.0), f"{corner} And a point's: (xy + 0.5) / longer side."
    yield wrong(centre=0.5 - 0.5 / stride), "the centre of a position is (j + 0.5) * stride; 0.5 is taken off too much."
    yield wrong(half=0.0), "the half pixel of the point is missing: (xy + 0.5) / longer side."
    yield wrong(centre=1.0), "this is the position's far corner: its centre is at (j + 0.5) * stride."
    yield wrong(divide=lambda xy: xy), f"it is not normalised: {longer}."
    yield wrong(divide=lambda xy: xy / stride), f"it is in units of the stride: {longer}."
    own = "each axis is divided by its own side: by the longer one both, so that circles stay round."
    yield wrong(divide=lambda xy: xy / xy.new_tensor(size[::-1])), own
    yield (
        wrong(divide=lambda xy: xy / xy.new_tensor(size)),
        "height and width are mixed up: size is (H, W), and " + longer,
    )
    yield wrong(divide=lambda xy: xy / min(size)), f"it divides by the shorter side: {longer}."
    yield wrong(divide=lambda xy: xy / size[0]), f"it divides by the height: {longer}."
    yield wrong(divide=lambda xy: xy / size[1]), f"it divides by the width: {longer}."
    padded = max(-(-side // stride) for side in size) * stride
    yield wrong(divide=lambda xy: xy / padded), f"it divides by the map's longer side: {longer}."
    yield wrong(only_points=True), "the positions' centres are not divided: they are pixels, too."
    yield wrong(distance=lambda d: d.square().sum(-1)), "this is the squared distance: take the root."
    yield wrong(distance=lambda d: d.abs().sum(-1)), "this is |dx| + |dy|: the distance is the root of dx² + dy²."
    yield wrong(distance=lambda d: d.abs().amax(-1)), "this is the larger of |dx|, |dy|: the root of dx² + dy²."
    yield wrong(distance=lambda d: (-d.square().sum(-1)).exp()), "this is a bump around the point: return the distance."
    yield wrong(distance=lambda d: d.norm(dim=-1) * max(size)), "the distance is in pixels: from dx and dy as divided."
    rounded = "h is the height over the stride, rounded up: -(-H // stride), as a convolution with padding leaves it."
    yield wrong(floor=True), rounded
    yield wrong(stride=8), "stride is not used: is 8 written by hand?"


def _offsets(
    points: Tensor,
    size: _Size,
    *,
    stride: int,
    centre: float = 0.5,
    half: float = 0.5,
    divide: Callable[[Tensor], Tensor] | None = None,
    only_points: bool = False,
    distance: Callable[[Tensor], Tensor] = lambda d: d.norm(dim=-1),
    floor: bool = False,
) -> Tensor:
    """The maps with one thing wrong in them, to recognise the mistake by its numbers."""
    divide = divide or (lambda xy: xy / max(size))
    rows, columns = (torch.arange(side // stride if floor else -(-side // stride)) for side in size)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    at = (torch.stack([x, y], -1) + centre) * stride
    offset = (at if only_points else divide(at)) - divide(points + half)[:, :, None, None]
    return torch.cat([offset, distance(offset)[..., None]], -1)
