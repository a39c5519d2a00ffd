"""Check of lab 06's judge: how good does the network think that its own masks are?"""

import torch
from torch import Tensor, nn

from labhelpers.course.checks import prompt_references as references
from labhelpers.course.checks.core import Check, exercise
from labhelpers.course.checks.networks import IN_PLACE, Mistakes, make
from labhelpers.course.checks.same_weights import check_same_gradients, check_values, copy_weights

_EMPTY = "a mask with hardly a pixel gives 0 / 0: divide by the sum of its weights or 1e-3, whichever is larger."


@exercise("IoUHead", references.IoUHead)
def iou_head(check: Check, answer) -> None:
    """Layers; one mask and several, an empty one; gradients to weights and features, none to the logits."""
    for channels, masks in ((5, 3), (4, 1)):
        model, right = make(check, answer, channels, masks), references.IoUHead(channels, masks)
        spec = "nn.Sequential(nn.Linear(channels * (1 + masks), channels), nn.ReLU(), nn.Linear(channels, masks))"
        copy_weights(check, model, right, {"iou_head": spec})
        with torch.no_grad():  # larger weights, so that a mistake in one of the numbers shows after the sigmoid
            for own in (model, right):
                for weight in own.iou_head.parameters():
                    weight.mul_(3)
        features, logits = torch.randn(2, channels, 4, 6), 2 * torch.randn(2, masks, 4, 6)
        logits[0, -1] -= 7  # a small mask, whose weights add up to less than 1
        words = f"{masks} masks" if masks > 1 else "one mask"
        _check_once(check, model, right, features, logits, words)
    logits[0] = -200.0  # sigmoid gives exactly 0
    _check_once(check, model, right, features, logits, "a mask without a pixel")


def _check_once(check: Check, model: nn.Module, right: nn.Module, features: Tensor, logits: Tensor, words: str) -> None:
    errors = {
        "mat1 and mat2": "iou_head takes channels * (1 + masks) numbers: the mean over the image and one inside each "
        "mask, concatenated.",
    }
    given = features.clone().requires_grad_(), logits.clone().requires_grad_()
    found, expected = check.call(model, *given, when=f"for {words}", errors=errors), right(*given)
    check_values(check, found, expected, f"the IoU for {words}", _mistakes(right, features, logits), _EMPTY)
    check_same_gradients(check, model, right, found, expected, words, _EMPTY)
    weighting = torch.randn_like(expected)
    wanted = torch.autograd.grad((right(*given) * weighting).sum(), given[0])[0]

    def backward() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad((model(*given) * weighting).sum(), given, allow_unused=True)

    at_features, at_logits = check.call(backward, when="in backward", errors=IN_PLACE)
    cut = "a gradient reaches the logits: detach them. The masks must not change only to be judged better."
    check.that(at_logits is None or not at_logits.any(), cut)
    lost = "no gradient, or a wrong one, reaches the features: only the logits are detached."
    check.that(at_features is not None and torch.allclose(at_features, wanted, atol=1e-5), lost)


def _mistakes(right: nn.Module, features: Tensor, logits: Tensor) -> Mistakes:
    """What known mistakes give, computed only when asked for."""
    soft, image = logits.sigmoid(), features.mean((2, 3))[:, None]

    def judged(weights: Tensor, whole: Tensor = image, divided: float | Tensor | None = None) -> Tensor:
        total = weights.sum((2, 3)).clamp_min(1e-3)[..., None] if divided is None else divided
        inside = torch.einsum("bmhw,bchw->bmc", weights, features) / total
        return right.iou_head(torch.cat([whole, inside], 1).flatten(1)).sigmoid()

    def mixed(seen: Tensor) -> Tensor:
        return right.iou_head(seen.flatten(1)).sigmoid()

    pixels = logits[0, 0].numel()
    total = soft.sum((2, 3)).clamp_min(1e-3)[..., None]
    inside = torch.einsum("bmhw,bchw->bmc", soft, features) / total
    raw = right.iou_head(torch.cat([image, inside], 1).flatten(1))
    yield raw, "the sigmoid at the end is missing: an IoU lies between 0 and 1."
    yield raw.softmax(1), "there is a softmax at the end: each mask has an IoU of its own, sigmoid."
    for cut in (raw.clamp(0, 1), raw.relu()):
        yield cut, "the result is cut off (ReLU or clamp), and has no gradient there: take the sigmoid."
    yield raw.sigmoid().sigmoid(), "the sigmoid at the end is taken twice."
    hard = (logits > 0).float()
    yield judged(hard), "the logits are thresholded: the weights are sigmoid(logits)."
    yield judged((soft > 0.5).float() * soft), "the weights are cut off below 0.5: all of sigmoid(logits) counts."
    yield judged((logits > 0.5).float()), "the logits are thresholded, at 0.5: the weights are sigmoid(logits)."
    yield judged(logits), "the logits themselves are the weights, sigmoid is missing: they may be negative."
    yield judged(logits.relu()), "the weights are relu(logits): take sigmoid(logits)."
    yield judged(soft.sigmoid()), "the sigmoid of the logits is taken twice."
    yield judged(logits.flatten(2).softmax(2).view_as(logits)), "there is a softmax over the pixels: sigmoid."
    yield judged(logits.softmax(1)), "there is a softmax over the masks: each stands for itself, sigmoid."
    yield judged(1 - soft), "the features outside the masks are averaged: inside, weighted by sigmoid(logits)."
    yield judged(torch.ones_like(soft)), "the masks are not used: each mean is weighted by sigmoid(logits)."
    yield judged(soft, divided=pixels), "divided by the number of pixels: by the sum of the weights."
    least = "{}: divide by the sum of the weights or 1e-3, whichever is larger, clamp_min(1e-3)."
    yield judged(soft, divided=total.clamp_min(1)), least.format("the weights of a small mask add up to less than 1")
    yield judged(soft, divided=soft.sum((2, 3))[..., None] + 1e-3), least.format("1e-3 is added to every sum")
    yield judged(soft, divided=1.0), "this is the weighted sum: divide by the sum of the weights."
    yield judged(soft, divided=soft.sum((1, 2, 3))[:, None, None]), "divided by the sum of all masks: each by its own."
    yield (
        judged(soft, divided=soft.sum((0, 2, 3))[None, :, None]),
        "divided by the sum over the batch: each by its own.",
    )
    yield judged(soft, whole=features.sum((2, 3))[:, None]), "the image's features are summed: take their mean."
    yield judged(soft, whole=features.amax((2, 3))[:, None]), "this is the maximum over the image: take the mean."
    yield mixed(torch.cat([inside, image], 1)), "the image's mean comes last: first, then one mean for each mask."
    yield mixed(torch.cat([image, inside.flip(1)], 1)), "the masks are in reverse order."
    in_turn = "the numbers are in another order: all channels of the image, then all channels of mask 0, and so on."
    yield mixed(torch.cat([image, inside], 1).transpose(1, 2)), in_turn
    yield mixed(torch.cat([image.flatten(1), inside.transpose(1, 2).flatten(1)], 1)), in_turn
    first, _, second = right.iou_head
    without = second(first(torch.cat([image, inside], 1).flatten(1))).sigmoid()
    yield without, "the ReLU between the two layers is left out."
