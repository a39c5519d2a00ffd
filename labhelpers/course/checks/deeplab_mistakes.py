"""What known mistakes in ASPP and in the decoder give, so that a check can name them by their numbers.

Everything is computed with layers that have the reference's weights, and one by one, so that a right answer costs
nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional

from labhelpers.course.checks.core import Check
from labhelpers.course.checks.networks import ConvNorm, Mistakes, tolerance


def check_concatenation(
    check: Check,
    found: Tensor,
    blocks: Mapping[str, Tensor],
    mistakes: Callable[[str], Iterable[tuple[Tensor, str]]],
    into: str,
) -> None:
    """What the student's ``into`` was given is the concatenation of the blocks, each compared by itself.

    Args:
        found: (B, C, H, W).
        blocks: what is concatenated, in order, by name.
        mistakes: what known mistakes make of the block of a name, with their hints.
    """
    right = torch.cat(list(blocks.values()), 1)
    rounding = tolerance(right)
    check.that(
        found.shape == right.shape, f"{into} is given shape {tuple(found.shape)}, expected {tuple(right.shape)}."
    )
    for order in permutations(blocks):
        if torch.allclose(found, torch.cat([blocks[name] for name in order], 1), rtol=0, atol=rounding):
            hint = f"the parts are concatenated in the order {', '.join(order)}; expected {', '.join(blocks)}."
            check.that(order == tuple(blocks), hint)
            return
    parts = found.split([block.shape[1] for block in blocks.values()], 1)
    for part, (name, block) in zip(parts, blocks.items(), strict=True):
        check.equal(part, block, f"what {into} is given of {name}", mistakes(name), rounding)


@torch.no_grad()
def wrong_pooling(layer: ConvNorm, x: Tensor) -> Mistakes:
    """What ASPP's pooling branch may become; the map of x has more than one position."""

    def spread(pooled: Tensor) -> Tensor:
        return pooled.expand(-1, -1, *x.shape[-2:])

    yield spread(layer(x.amax((2, 3), keepdim=True))), "global_avg_pool takes the maximum over the map: take the mean."
    yield spread(layer(x.sum((2, 3), keepdim=True))), "global_avg_pool takes the sum over the map: take the mean."
    yield layer(x), "global_avg_pool does not pool: it takes the mean over the map first, nn.AdaptiveAvgPool2d(1)."
    first = "global_avg_pool pools last: the mean over the map comes before the convolution."
    yield spread(layer(x).mean((2, 3), keepdim=True)), first
    yield spread(layer.norm(layer.conv(x)).mean((2, 3), keepdim=True).relu()), first


@torch.no_grad()
def wrong_enlargement(aspp: nn.Module, features: Tensor, size: tuple[int, int]) -> Mistakes:
    """What the decoder may make of the ASPP's result on its way to ``size``."""
    x = aspp(features)
    sides = "the enlargement has align_corners=True: leave it at False, as in DeepLab, or the grids drift apart."
    yield functional.interpolate(x, size, mode="bilinear", align_corners=True), sides
    for mode in ("nearest", "nearest-exact"):
        blocky = 'the enlargement takes the nearest value, as interpolate does by default: pass mode="bilinear".'
        yield functional.interpolate(x, size, mode=mode), blocky
    yield functional.interpolate(x, size, mode="bicubic"), 'the enlargement is bicubic: pass mode="bilinear".'
    early = "the features are enlarged before ASPP: enlarge what ASPP gives, its rates count in the coarse grid."
    yield aspp(functional.interpolate(features, size, mode="bilinear")), early
    cropped = functional.interpolate(x, scale_factor=4, mode="bilinear")[..., : size[0], : size[1]]
    yield cropped, "it enlarges 4 times and crops: use size=low_level.shape[-2:], which fits any size."
