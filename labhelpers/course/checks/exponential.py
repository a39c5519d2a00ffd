"""Check of lab 03's loss of one's own: cross-entropy that counts a pixel the more, the more wrong it is."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from labhelpers.course.checks.core import Check, exercise
from labhelpers.course.checks.losses import check_void_alone, run_loss
from labhelpers.course.checks.networks import tolerance
from labhelpers.training.losses import exponential_cross_entropy as reference

_K = 4
_ERRORS = {
    "leaf Variable that requires grad": "it changes the logits in place: use an operation that returns a new tensor.",
    "Can't call numpy()": "NumPy knows no gradients: take torch.exp and torch.log, not NumPy's.",
    "255 is out of bounds": "void (255) is used as a class index: leave void pixels out first, or replace them and "
    "multiply by a mask.",
    "Class values must be smaller than num_classes": "void (255) goes into one_hot as if it were a class.",
}


@exercise("exponential_cross_entropy", reference)
def exponential_cross_entropy(check: Check, answer) -> None:
    """Uneven void, another beta, another void, values and gradients; very wrong pixels; a batch of void alone."""
    logits = (2 * torch.randn(2, _K, 5, 6)).requires_grad_()
    target = torch.randint(0, _K, (2, 5, 6))
    target[0, :3], target[1, 4] = 255, 255
    for settings in ({}, {"beta": 2.5}, {"beta": 0.0}, {"ignore_index": 1}):
        words = "the loss" + "".join(f" for {name}={value:g}" for name, value in settings.items())
        labels = torch.where(target == 255, 0, target) if "ignore_index" in settings else target
        found, gradient = run_loss(check, answer, logits, labels, _ERRORS, **settings)
        expected = reference(logits, labels, **settings)
        mistakes = _mistakes(logits.detach(), labels, **settings)
        check.equal(found, expected, words, ((wrong(), hint) for wrong, hint in mistakes), tolerance(expected))
        _check_gradient(check, found, gradient, logits, labels, words, settings)

    extreme = torch.tensor([[200.0, -200.0, 0.0, 0.0]])[..., None, None].expand(1, _K, 2, 2)
    wrong = torch.ones(1, 2, 2, dtype=torch.int64)
    found, _ = run_loss(check, answer, extreme, wrong, _ERRORS)
    expected = reference(extreme, wrong)
    what = (
        "for logits of 200 and -200 (softmax gives 0 there: take log_softmax, or cross_entropy, for log p_t) the loss"
    )
    check.equal(found, expected, what, (), tolerance(expected))

    check_void_alone(check, answer, logits, target, _ERRORS)


def _check_gradient(
    check: Check, found: Tensor, gradient: Tensor | None, logits: Tensor, target: Tensor, words: str, settings: dict
) -> None:
    check.that(
        gradient is not None,
        "no gradient comes back: is there an argmax, a detach or an `.item()`? The logits must learn from the loss.",
    )
    right = torch.autograd.grad(reference(logits, target, **settings), logits)[0]
    fixed = "the value is right, but p_t in {} is detached, so the gradient lacks that part: leave out {}."
    known = [
        ({"fixed": "weight"}, fixed.format("the weight", "detach() and no_grad()")),
        ({"fixed": "nll"}, fixed.format("the logarithm", "detach() and no_grad()")),
    ]
    wrong = (
        (torch.autograd.grad(_exponential(logits, target, **settings, **variant), logits)[0], hint)
        for variant, hint in known
    )
    check.equal(gradient, right, f"the gradient of {words}", wrong)


def _mistakes(logits: Tensor, target: Tensor, **settings) -> list[tuple[Callable[[], Tensor], str]]:
    """What known mistakes give, computed only when asked for, and their hints."""
    wrong = partial(partial, _exponential, logits, target, **settings)
    beta = settings.get("beta", 1.0)
    axes = "the softmax runs over the wrong axis: over the classes, dim=1 of (B, K, H, W)."

    def averaged() -> Tensor:
        nll = functional.cross_entropy(logits, target, ignore_index=settings.get("ignore_index", 255))
        return torch.exp(beta * (1 - torch.exp(-nll))) * nll

    mean = "divide the sum by the number of valid pixels"
    both = "p_t = exp(-cross-entropy) is the probability, and the weight is exp(beta * (1 - p_t))"
    half = "the weight needs the same p_t as the logarithm, softmax over the classes"
    return [
        (wrong(over="all"), f"void pixels are counted in the mean, as zeros: {mean}."),
        (wrong(void=_K - 1, over="all"), f"void pixels are counted as the last class: mask them, and {mean}."),
        (wrong(void=0), f"void pixels are counted as background: mask them, and {mean}."),
        (wrong(void=0, over="all"), f"void pixels are counted as background: mask them, and {mean}."),
        (wrong(over="sum"), f"it is the sum over pixels: {mean}."),
        (wrong(over="images"), f"it is averaged within each image first, though void is uneven: {mean} of the batch."),
        (wrong(over="weights"), f"it is divided by the sum of the weights, which takes their effect away: {mean}."),
        (lambda: -wrong()(), "the sign is wrong: log p_t is negative, the loss is its weight times -log p_t."),
        (wrong(weight=lambda p: beta * p), "the weight exp(beta * p_t) favours easy pixels: exp(beta * (1 - p_t))."),
        (
            wrong(weight=lambda p: -beta * (1 - p)),
            "the exponent has the wrong sign, which favours easy pixels: exp(beta * (1 - p_t)).",
        ),
        (
            wrong(weight=lambda p: -beta * p),
            "the weight is exp(-beta * p_t): the exponent is beta * (1 - p_t), 0 for easy pixels.",
        ),
        (wrong(weight=lambda p: beta - p), "the exponent is beta - p_t: put 1 - p_t in a bracket, beta * (1 - p_t)."),
        (
            wrong(weight=lambda p: beta + (1 - p).log()),
            "the weight is e^beta * (1 - p_t): the whole of beta * (1 - p_t) is the exponent.",
        ),
        (wrong(weight=lambda p: beta * (1 + p.log())), f"the weight has -log p_t for p_t: {both}."),
        (wrong(weight=lambda p: beta * (1 - p.log())), f"the weight has log p_t for p_t: {both}."),
        (wrong(weight=lambda p: -beta * p.log()), f"the weight is exp(-beta * log p_t): {both}."),
        (wrong(weight=lambda p: (1 + beta * (1 - p)).log()), "exp is missing: the weight is exp(beta * (1 - p_t))."),
        (wrong(weight=lambda p: 1 - p), "beta is not used: exp(beta * (1 - p_t))."),
        (wrong(weight=lambda p: 0 * p), "the weight is missing, this is cross-entropy: times exp(beta * (1 - p_t))."),
        (
            wrong(weight=lambda p: (beta * (1 - p)).log()),
            "exp is missing: the weight is exp(beta * (1 - p_t)); a power of 1 - p_t would be the focal loss.",
        ),
        (wrong(log=False), "the logarithm is missing: the weight is multiplied by -log p_t."),
        (wrong(of="likeliest"), "p_t is the highest probability: take that of the target's class, with gather."),
        (wrong(of="likeliest", nll_too=False), f"the weight has the highest probability: {half}."),
        (
            wrong(activation=torch.sigmoid),
            "it uses sigmoid: classes exclude each other, softmax over the channels.",
        ),
        (wrong(activation=torch.sigmoid, nll_too=False), f"the weight's p_t comes from a sigmoid: {half}."),
        *((wrong(activation=partial(torch.softmax, dim=axis)), axes) for axis in (0, 2, 3)),
        *((wrong(activation=partial(torch.softmax, dim=axis), nll_too=False), axes) for axis in (0, 2, 3)),
        (wrong(activation=lambda x: x.softmax(1).softmax(1)), "softmax is taken twice: cross_entropy takes logits."),
        (averaged, 'the cross-entropy is averaged before it is weighted: reduction="none" gives that of each pixel.'),
        (wrong(ignore_index=255), "ignore_index is not used: is 255 written by hand?"),
    ]


def _exponential(
    logits: Tensor,
    target: Tensor,
    beta: float = 1.0,
    ignore_index: int = 255,
    *,
    over: str = "valid",
    void: int | None = None,
    weight: Callable[[Tensor], Tensor] | None = None,
    log: bool = True,
    of: str = "target",
    activation: Callable[[Tensor], Tensor] = lambda x: x.softmax(1),
    nll_too: bool = True,
    fixed: str = "",
) -> Tensor:
    """The loss with one thing wrong in it, to recognise the mistake by its number or its gradient."""
    valid = target != ignore_index
    index = torch.where(valid, target, 0 if void is None else void)[:, None]

    def picked(p: Tensor, which: str) -> Tensor:
        return (p.amax(1, keepdim=True) if which == "likeliest" else p.gather(1, index))[:, 0]

    p = picked(activation(logits), of)
    nll = -(p if nll_too else picked(logits.softmax(1), "target")).log()
    if fixed == "weight":
        p = p.detach()
    if fixed == "nll":
        nll = nll.detach()
    factor = torch.exp(weight(p) if weight else beta * (1 - p))
    losses = factor * nll if log else factor
    if void is None:
        losses, factor = losses * valid, factor * valid
    if over == "sum":
        return losses.sum()
    if over == "images":
        return (losses.sum((1, 2)) / valid.sum((1, 2))).mean()
    if over == "weights":
        return losses.sum() / factor.sum()
    return losses.sum() / (valid.sum() if over == "valid" else valid.numel())
