"""What the checks of loss functions share: a value with its gradient, and the batch that is nothing but void."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from labhelpers.course.checks.core import Check
from labhelpers.course.checks.networks import IN_PLACE


def run_loss(
    check: Check, answer: Callable, logits: Tensor, target: Tensor, errors: Mapping[str, str], **settings
) -> tuple[Tensor, Tensor | None]:
    """The answer's loss, in float32, and its gradient at the logits; None where none comes back."""
    given = []

    def watched(logits: Tensor, target: Tensor) -> Tensor:
        given.append(logits)  # the check hands over a copy, whose gradient is asked for
        return answer(logits, target, **settings)

    found = check.call(watched, logits, target, errors=errors)
    wanted = isinstance(found, Tensor) and found.requires_grad and found.ndim == 0
    in_float32 = found.float() if isinstance(found, Tensor) and found.is_floating_point() else found
    if not wanted:
        return in_float32, None

    def gradients() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(found, given[0], allow_unused=True)

    return in_float32, check.call(gradients, when="in backward", errors=IN_PLACE)[0]


def check_void_alone(check: Check, answer: Callable, logits: Tensor, target: Tensor, errors: Mapping[str, str]) -> None:
    """A batch without a valid pixel: loss 0, which backward() accepts, and no gradient."""
    found, gradient = run_loss(check, answer, logits, torch.full_like(target, 255), errors)
    remedy = "divide by the number of valid pixels or 1, whichever is larger, as with clamp_min(1)."
    nan = [(torch.tensor(torch.nan), f"a batch of void alone gives nan, expected 0: {remedy}")]
    check.equal(found, torch.zeros(()), "the loss of void alone", nan)
    still = "a batch of void alone gives a loss without a gradient; training calls backward(): (logits * 0).sum()."
    check.that(found.requires_grad, still)
    zero = gradient is None or not gradient.any()
    check.that(zero, f"a batch of void alone gives a gradient that is not 0: {remedy}")
