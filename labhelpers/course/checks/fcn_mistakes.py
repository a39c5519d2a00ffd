"""What known mistakes in an FCN's forward pass give, so that a check can name them by their numbers.

Everything is computed with the layers of the reference, which has the same weights as the student's network, and one by
one, so that an answer that is right costs nothing.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from labhelpers.course.checks.networks import Mistakes, wrong_activations

STAGES = {"score_fr": 3, "score_pool4": 2, "score_pool3": 1}
"""Score layers in the order in which they enter the sum, and the index of their input in the encoder's features."""


@torch.no_grad()
def wrong_logits(model: nn.Module, images: Tensor, ups: Sequence[str]) -> Mistakes:
    """Wrong logits for a size divisible by 32; ``ups`` names the upsampling layers in their order."""
    features = model.encoder(images)
    logits = _forward(model, features, images, ups)
    yield from wrong_activations(logits)
    for unpadded in (ups, ups[-1:]):
        shifted = "the logits are shifted to the bottom right: an upsampling layer of factor n needs padding n / 2."
        yield _forward(model, features, images, ups, unpadded=unpadded), shifted
    if len(ups) == 3:
        hint = "upscore2 and upscore_pool4 are exchanged: upscore2 enlarges score_fr, upscore_pool4 the sum."
        yield _forward(model, features, images, [ups[1], ups[0], ups[2]]), hint
    if len(ups) > 1:
        for combine, hint in (
            (torch.mul, "the scores are multiplied: add them."),
            (torch.sub, "the scores are subtracted: add them."),
            (lambda x, skip: (x + skip) / 2, "the scores are averaged: add them."),
            (lambda x, skip: (x + skip).relu(), "there is a ReLU after the sum: scores are added as they are."),
        ):
            yield _forward(model, features, images, ups, combine=combine), hint


@torch.no_grad()
def wrong_odd_logits(model: nn.Module, images: Tensor, ups: Sequence[str]) -> Mistakes:
    """Wrong logits for a size that is not divisible by 32."""
    features = model.encoder(images)
    where = "strides round up, so what is left over lies at the bottom and at the right: crop there, x[..., :h, :w]."
    for fit, what in (
        (_keep_centre, "crop around the centre"),
        (_keep_bottom_right, "crop at the top and at the left"),
        (_resize, "resize, which shifts the scores"),
        (_resize_corners, "resize, which shifts the scores"),
    ):
        yield _forward(model, features, images, ups, fit=fit), f"for an odd size you {what}: {where}"


def _keep_top_left(x: Tensor, like: Tensor) -> Tensor:
    return x[..., : like.shape[-2], : like.shape[-1]]


def _keep_centre(x: Tensor, like: Tensor) -> Tensor:
    top, left = ((a - b) // 2 for a, b in zip(x.shape[-2:], like.shape[-2:], strict=True))
    return _keep_top_left(x[..., top:, left:], like)


def _keep_bottom_right(x: Tensor, like: Tensor) -> Tensor:
    return x[..., x.shape[-2] - like.shape[-2] :, x.shape[-1] - like.shape[-1] :]


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def _resize_corners(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)


def _forward(
    model: nn.Module,
    features: list[Tensor],
    images: Tensor,
    ups: Sequence[str],
    *,
    fit: Callable[[Tensor, Tensor], Tensor] = _keep_top_left,
    combine: Callable[[Tensor, Tensor], Tensor] = torch.add,
    unpadded: Sequence[str] = (),
) -> Tensor:
    """What follows the encoder in any of the three networks, with one thing done in another way."""

    def enlarge(name: str, x: Tensor) -> Tensor:
        layer = getattr(model, name)
        return functional.conv_transpose2d(x, layer.weight, stride=layer.stride) if name in unpadded else layer(x)

    scores = [getattr(model, name)(features[stage]) for name, stage in list(STAGES.items())[: len(ups)]]
    x = scores[0]
    for name, skip in zip(ups[:-1], scores[1:], strict=True):
        x = combine(fit(enlarge(name, x), skip), skip)
    return fit(enlarge(ups[-1], x), images)
