"""Same weights in, same numbers and same gradients out: for small modules whose attributes have given names."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, Mistake
from labhelpers.course.checks.networks import IN_PLACE, tolerance


def copy_weights(check: Check, model: nn.Module, right: nn.Module, specs: Mapping[str, str]) -> None:
    """The student's layers get the weights of the reference's, once their kinds and shapes are right.

    Args:
        specs: the attributes that both have, in the words of the exercise: ``{"box_embed": "nn.Linear(4, channels)"}``.
    """
    for name, spec in specs.items():
        own, reference = getattr(model, name, None), getattr(right, name)
        check.that(own is not None, f"it has no `self.{name}`: {spec}.")
        kind = type(reference)
        check.that(isinstance(own, kind), f"{name} is {kind_of(own)}, expected {spec}.")
        found, expected = ([tuple(weight.shape) for weight in part.parameters()] for part in (own, reference))
        check.that(found == expected, f"{name} has weights of shapes {found}, expected {expected}: {spec}.")
        with torch.no_grad():
            for source, destination in zip(reference.parameters(), own.parameters(), strict=True):
                destination.copy_(source)
    more = sorted({name.split(".")[0] for name, _ in model.named_parameters()} - set(specs))
    check.that(not more, f"it has weights of its own besides {', '.join(specs)}: {', '.join(more)}. Leave them out.")


def check_values(
    check: Check, found: Any, expected: Tensor, what: str, mistakes: Iterable[tuple[Tensor, str]], nan: str
) -> None:
    """One check: the values agree; ``nan`` is the hint for a result that is not finite."""
    if isinstance(found, Tensor) and found.is_floating_point() and not found.isfinite().all():
        raise Mistake(f"{what} has nan or inf in it: {nan}")
    check.equal(found, expected, what, mistakes, max(tolerance(expected) if expected.numel() else 0, 1e-6))


def check_same_gradients(
    check: Check, model: nn.Module, right: nn.Module, found: Tensor, expected: Tensor, words: str, nan: str
) -> None:
    """One check for each weight: its gradient is that of the reference's."""
    check.that(
        found.requires_grad,
        "no gradient comes back through forward: is there a no_grad or a detach? The weights must learn.",
    )
    weighting = torch.randn_like(expected)
    names = [name for name, _ in right.named_parameters()]
    attributes = {name.split(".")[0]: None for name in names}
    own = [weight for attribute in attributes for weight in getattr(model, attribute).parameters()]
    right_ones = torch.autograd.grad((expected * weighting).sum(), right.parameters())

    def backward() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad((found * weighting).sum(), own, allow_unused=True)

    gradients = check.call(backward, when=f"in backward for {words}", errors=IN_PLACE)
    for name, gradient, right_one in zip(names, gradients, right_ones, strict=True):
        gradient = torch.zeros_like(right_one) if gradient is None else gradient
        check.that(bool(gradient.isfinite().all()), f"for {words} the gradient of {name} has nan or inf in it: {nan}")
        same = torch.allclose(gradient, right_one, rtol=0, atol=max(tolerance(right_one), 1e-6))
        hint = f"for {words} the values are right, but the gradient of {name} is not: is a part of it detached?"
        check.that(same, hint)
