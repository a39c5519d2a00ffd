"""Check of lab 06's loss: the best of several candidate masks, and the judge of their IoU."""

from collections.abc import Callable

import torch
from torch import Tensor

from labhelpers.course.checks.core import Check, exercise
from labhelpers.course.checks.networks import IN_PLACE, tolerance
from labhelpers.course.checks.prompt_loss_mistakes import wrong_losses
from labhelpers.prompting.task import prompt_loss as right_loss

_ERRORS = {
    "leaf Variable that requires grad": "it changes an argument in place: use an operation that returns a new tensor.",
    "Can't call numpy()": "NumPy knows no gradients: take torch's functions.",
    "Using a target size": "the target is (B, h, w), the logits (B, M, h, w): the same target for every candidate, "
    "target[:, None].expand_as(logits).",
    "all elements of input should be between 0 and 1": "binary_cross_entropy takes probabilities: "
    "binary_cross_entropy_with_logits takes logits.",
    "must match the size": "shapes do not fit: target and weight (B, h, w) need a second axis, target[:, None], to "
    "meet the candidates (B, M, h, w).",
}


@exercise("prompt_loss", right_loss)
def prompt_loss(check: Check, answer) -> None:
    """Values and gradients for several candidates and for one, with void, with weights; sure logits; void alone."""
    every, half = torch.ones(4, 6, 7), torch.randint(0, 3, (4, 6, 7)) / 2
    some = every.clone()
    some[0, :2], some[1, :, 4:], some[3, 1:5, 1:4] = 0, 0, 0
    for words, masks, weight in (
        ("three candidates", 3, every),
        ("one candidate", 1, every),
        ("three candidates with void", 3, some),
        ("five candidates with weights between 0 and 1", 5, half),
    ):
        logits, iou, target = _batch(masks)
        found, gradients = _run(check, answer, words, logits, iou, target, weight)
        expected = right_loss(logits, iou, target, weight)
        mistakes = wrong_losses(logits.detach(), iou.detach(), target, weight)
        check.equal(found, expected, f"the loss for {words}", mistakes)
        _check_gradients(check, gradients, torch.autograd.grad(expected, (logits, iou)), words)
    _check_sure(check, answer)
    _check_void(check, answer)


def _batch(masks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and predicted IoUs with gradients, soft targets; not the same candidate is best everywhere."""
    target = torch.rand(4, 6, 7)
    logits = torch.randn(4, masks, 6, 7)
    for i in range(4):
        logits[i, (i + 1) % masks] += 4 * target[i] - 2
    if masks > 1:
        logits[1, 0] = (3 * logits[1, 2]).clamp(-6, 6)  # a mask again, surer: better by Dice, worse by cross-entropy
    return logits.requires_grad_(), torch.rand(4, masks).requires_grad_(), target


def _run(
    check: Check, answer: Callable, words: str, logits: Tensor, iou: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """The answer's loss, and its gradients at logits and predicted IoUs; None where none comes back."""
    given = []

    def watched(logits: Tensor, iou: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        given.extend((logits, iou))  # the check hands over copies, whose gradients are asked for
        return answer(logits, iou, target, weight)

    found = check.call(watched, logits, iou, target, weight, when=f"for {words}", errors=_ERRORS)
    if not (isinstance(found, Tensor) and found.requires_grad and found.ndim == 0):
        return found, (None, None)

    def gradients() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(found, given, allow_unused=True)

    return found, check.call(gradients, when="in backward", errors=IN_PLACE)


def _check_gradients(
    check: Check, found: tuple[Tensor | None, Tensor | None], right: tuple[Tensor, Tensor], words: str
) -> None:
    lost = "is there an argmax, a detach or an `.item()`? Only the true IoU is without a gradient."
    for name, gradient, right_one in zip(("logits", "predicted IoUs"), found, right, strict=True):
        check.that(gradient is not None, f"no gradient comes back to the {name}: {lost}")
        what = f"the gradient at the {name} for {words} (is a part detached, or the true IoU not?)"
        check.equal(gradient, right_one, what, (), max(tolerance(right_one), 1e-7))


def _check_sure(check: Check, answer: Callable) -> None:
    """Logits of which sigmoid gives exactly 0 and 1."""
    logits = torch.tensor([100.0, -100.0, 100.0, -100.0]).view(1, 1, 2, 2).requires_grad_()
    iou, target = torch.full((1, 1), 0.5, requires_grad=True), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    found, gradients = _run(check, answer, "logits of 100 and -100", logits, iou, target, torch.ones(1, 2, 2))
    check.that(
        _finite(found, *gradients),
        "for logits of 100 and -100, right and wrong, sigmoid gives exactly 1 and 0, and the loss or its "
        "gradient is not finite: take binary_cross_entropy_with_logits and torch.sigmoid instead of exp and log.",
    )


def _check_void(check: Check, answer: Callable) -> None:
    """A batch of which one image is void everywhere."""
    logits, iou, target = _batch(3)
    weight = torch.ones_like(target)
    weight[1] = 0
    with torch.no_grad():
        iou[1] = 0.5  # as far from 0 as from 1: which of them is the IoU of nothing with nothing is left open
    words = "an image that is void everywhere"
    found, gradients = _run(check, answer, words, logits, iou, target, weight)
    remedy = "divide by the sum of the weights or 1, whichever is larger (clamp_min(1)), for the IoU, too."
    check.that(_finite(found, *gradients), f"the loss for {words}, or its gradient, is not finite: {remedy}")
    expected = right_loss(logits, iou, target, weight)
    check.equal(found, expected, f"the loss for {words}")
    check.that(not gradients[0][1].any(), f"{words} changes its logits: it has nothing to teach, gradient 0.")


def _finite(*values: Tensor | None) -> bool:
    return all(isinstance(value, Tensor) and bool(value.isfinite().all()) for value in values)
