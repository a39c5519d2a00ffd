"""What exercises on networks and losses share: a network is made, its layers are found, wrong ones are derived."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.overrides import TorchFunctionMode

from labhelpers.course.checks.core import Case, Check, Mistake, Parts, difference, kind_of

IN_PLACE = {
    "modified by an inplace operation": "an operation in place (`+=`, `*=`, `x[...] = `, `relu_`) changes numbers that "
    "the gradient needs: use one that returns a new tensor."
}
"""The hint for what torch says when a gradient cannot be computed any more, for `Check.call`."""


def changed(network: type, **methods: Any) -> type:
    """A wrong answer: the network with some of its methods or attributes replaced."""
    return type(network.__name__, (network,), methods)


def activated(network: type) -> dict[str, Any]:
    """Wrong answers, by their hints: a network that gives logits, ended by an activation, which belongs in the loss."""
    applied = "inside forward: return logits, the loss applies it (applied twice it still trains, but badly)."
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        f"there is a softmax {applied}": lambda logits: logits.softmax(1),
        f"there is a log_softmax {applied}": lambda logits: logits.log_softmax(1),
        f"there is a sigmoid {applied}": torch.sigmoid,
        "there is a ReLU on the logits: scores may be negative, leave it out.": torch.relu,
    }

    def ending(activation: Callable[[Tensor], Tensor]) -> type:
        return changed(network, forward=lambda self, *inputs: activation(network.forward(self, *inputs)))  # type: ignore[attr-defined]

    return {hint: ending(activation) for hint, activation in activations.items()}


def replaced(network: type, path: str, change: Callable[[nn.Module], nn.Module]) -> type:
    """A wrong answer: the network in which another module takes the place of the one at `path`, if it has that."""

    def make_wrong(self: nn.Module, *arguments: Any) -> None:
        network.__init__(self, *arguments)  # type: ignore[misc]
        parent, _, name = path.rpartition(".")
        if path in dict(self.named_modules()):
            setattr(self.get_submodule(parent), name, change(self.get_submodule(path)))

    return changed(network, __init__=make_wrong)


class Rewired(nn.Sequential):
    """The parts of a layer, run in another order: p pooling, c convolution, n batch norm, r ReLU, d dropout.

    A capital is the second of its kind. A part that `order` leaves out keeps its weights and is not run.
    """

    def __init__(self, layer: Iterable[nn.Module], order: str):
        super().__init__(*layer)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        letters = {"Conv2d": "c", "BatchNorm2d": "n", "PooledBatchNorm2d": "n", "ReLU": "r", "Dropout": "d"}
        parts: dict[str, nn.Module] = {}
        for part in self:
            letter = letters.get(type(part).__name__, "p")
            parts[letter.upper() if letter in parts else letter] = part
        for letter in self.order:
            x = parts[letter](x)
        return x


ORDERS = {
    "cn": "ReLU is missing in {}: convolution, batch norm, ReLU.",
    "crn": "ReLU comes before batch norm in {}: convolution, batch norm, ReLU.",
    "cr": "batch norm is not used in {}: convolution, batch norm, ReLU.",
    "c": "batch norm and ReLU are not used in {}: convolution, batch norm, ReLU.",
}
"""Wrong orders of the parts of a layer for `Rewired`, with what the student is told."""


class NoLibraryConvolution(TorchFunctionMode):
    """Refuses torch's convolutions while it is active."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name.startswith("conv"):
            raise Mistake(f"it calls torch's {name}: write the sum yourself, that is the point of this exercise.")
        return function(*args, **(kwargs or {}))


def run_by_hand(check: Check, answer: Callable, case: Case) -> Any:
    """What the answer returns for the arguments of the case; a mistake where it leaves the sum to torch."""
    with NoLibraryConvolution():
        return check.call(answer, *case.args, when=case.when)


def make(check: Check, answer: Callable, *arguments: Any) -> nn.Module:
    """The network that the student's class makes, in evaluation mode."""
    model = check.call(answer, *arguments, when="while it is made")
    check.that(isinstance(model, nn.Module), f"calling it gives {kind_of(model)}: make it a class of nn.Module.")
    if check.call(lambda: model.eval() is None):
        raise Mistake("its own train() or eval() returns nothing: end it with `return self`, as nn.Module's does.")
    return model


def calibrated(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """The model in evaluation mode, its batch norms with the statistics of these inputs, so that values keep a size."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the running statistics become those of the one batch
    with torch.no_grad():
        model.train()(*inputs)
    return model.eval()


def check_gradients(check: Check, model: nn.Module, output: Tensor, weights: Mapping[str, Tensor], hint: str) -> None:
    """One check for each weight: a gradient comes back to it; `hint` has a place for its name."""
    check.that(
        output.requires_grad,
        "no gradient comes back through forward: is there a no_grad, a detach or an argmax? Training needs all of it.",
    )
    model.zero_grad()
    weighted = (output * torch.randn_like(output)).sum()
    check.call(lambda: weighted.backward() or True, when="in backward", errors=IN_PLACE)
    for name, weight in weights.items():
        check.that(weight.grad is not None and bool(weight.grad.any()), hint.format(name))


def rounding(expected: Any) -> float:
    """The difference that rounding may make, the tolerance of exercises that compare float32."""
    floats = isinstance(expected, Tensor) and expected.is_floating_point() and expected.numel()
    return max(1e-4 * expected.detach().abs().max().item(), 1e-6) if floats else 1e-5


# ------------------------------------------------- convolution, batch norm, ReLU


class ConvNorm(NamedTuple):
    """A convolution and the batch norm behind it; ReLU has no weights and may be anywhere in the student's code."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d

    @torch.no_grad()
    def copy_to(self, other: "ConvNorm") -> None:
        """Same weights in: `other` gets these weights and statistics; a bias that batch norm takes off again, 0."""
        other.conv.weight.copy_(self.conv.weight)
        if other.conv.bias is not None:
            other.conv.bias.zero_()
        other.norm.load_state_dict(self.norm.state_dict())
        other.norm.eps = self.norm.eps

    @torch.no_grad()
    def vary(self) -> None:
        """Random scale and shift for the batch norm: with 1 and 0 some mistakes would not show."""
        self.norm.weight.uniform_(0.5, 1.5)
        self.norm.bias.normal_(std=0.3)

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


def conv_norms(check: Check, module: nn.Module, name: str, count: int = 1) -> list[ConvNorm]:
    """The `count` convolutions with batch norm in a student's module, however deep they lie in it."""
    lazy = next((type(m).__name__ for m in module.modules() if isinstance(m, LazyModuleMixin)), "")
    if lazy:
        raise Mistake(f"{name} holds {lazy}: give the number of channels, so that its weights exist before any data.")
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    expected = "one" if count == 1 else str(count)
    check.that(len(convs) == count, f"{name} holds {len(convs) or 'no'} convolutions (nn.Conv2d), expected {expected}.")
    missing = f"batch norm is missing in {name}: it" if len(norms) < count else name
    once, where = (" (one used twice counts once)", "") if count > 1 else ("", ", in the same attribute")
    check.that(
        len(norms) == count,
        f"{missing} holds {len(norms) or 'no'} nn.BatchNorm2d, expected {expected}{once}: each convolution has its own "
        f"behind it{where}.",
    )
    pairs = [ConvNorm(*pair) for pair in zip(convs, norms, strict=True)]
    for conv, norm in pairs:
        check.that(
            norm.num_features == conv.out_channels,
            f"the batch norm of {name} has {norm.num_features} channels, its convolution gives {conv.out_channels}: "
            "batch norm comes behind the convolution.",
        )
        plain = norm.affine and norm.track_running_stats
        check.that(plain, f"the batch norm of {name} is to have weights and running statistics, as it has by default.")
    return pairs


def check_unshared(layers: Mapping[str, ConvNorm]) -> None:
    """Raise a mistake where two branches have a layer in common; not counted."""
    owner: dict[int, str] = {}
    for name, layer in layers.items():
        for part, words in zip(layer, ("convolution", "batch norm"), strict=True):
            other = owner.setdefault(id(part), name)
            if other != name:
                raise Mistake(
                    f"{other} and {name} share one {words}: make new layers for each (`[layer] * n` is n times the "
                    "same one)."
                )


def check_conv(
    check: Check,
    conv: nn.Conv2d,
    name: str,
    channels: tuple[int, int],
    kernel: int,
    known: Mapping[int, str] | None = None,
) -> None:
    """Channels (in, out), kernel and stride of a convolution; `known` has hints for wrong numbers of channels."""
    for found, expected, verb in zip((conv.in_channels, conv.out_channels), channels, ("takes", "gives"), strict=True):
        hint = f"{name} {verb} {found} channels, expected {expected}"
        by_hand = "the number is written by hand, use the arguments" if found in (21, 256, 304, 1280, 2048) else ""
        why = (known or {}).get(found) or by_hand
        if (conv.out_channels, conv.in_channels) == channels:
            why = "channels in and out are exchanged, nn.Conv2d(in_channels, out_channels, ...)"
        check.that(found == expected, f"{hint}: {why}." if why else f"{hint}.")
    check.that(
        (conv.kernel_size, conv.stride, conv.groups) == ((kernel, kernel), (1, 1), 1),
        f"{name} is to be a {kernel}x{kernel} convolution of stride 1 in one group; found kernel {conv.kernel_size}, "
        f"stride {conv.stride}, groups {conv.groups}.",
    )


def run_watched(
    check: Check,
    model: nn.Module,
    layers: Iterable[nn.Module],
    *inputs: Tensor,
    when: str,
    errors: Mapping[str, str] | None = None,
) -> tuple[Any, list[Tensor | None]]:
    """What the student's model gives, and what each of `layers` was given on the way (None unless it ran once)."""
    watched = list(layers)
    seen: list[list[Tensor]] = [[] for _ in watched]

    def look(place: int, given: tuple) -> None:
        if given and isinstance(given[0], Tensor):
            seen[place].append(given[0].detach().clone())

    handles = [
        layer.register_forward_pre_hook(lambda module, given, place=place: look(place, given))
        for place, layer in enumerate(watched)
    ]
    try:
        output = check.call(model, *inputs, when=when, errors=errors)
    finally:
        for handle in handles:
            handle.remove()
    return output, [given[0] if len(given) == 1 else None for given in seen]


# ------------------------------------------------------------------ losses


def run_loss(check: Check, answer: Callable, logits: Tensor, target: Tensor, **settings: Any) -> tuple[Any, Any]:
    """The answer's loss, in float32, and its gradient at the logits; None where none comes back."""
    given = []

    def watched(logits: Tensor, target: Tensor) -> Tensor:
        given.append(logits)  # the check hands over a copy, whose gradient is asked for
        return answer(logits, target, **settings)

    found = check.call(watched, logits, target)
    wanted = isinstance(found, Tensor) and found.requires_grad and found.ndim == 0
    in_float32 = found.float() if isinstance(found, Tensor) and found.is_floating_point() else found
    if not wanted:
        return in_float32, None

    def gradients() -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(found, given[0], allow_unused=True)

    return in_float32, check.call(gradients, when="in backward", errors=IN_PLACE)[0]


def check_void_alone(check: Check, answer: Callable, logits: Tensor, target: Tensor) -> None:
    """A batch without a valid pixel: loss 0, which backward() accepts, and no gradient."""
    found, gradient = run_loss(check, answer, logits, torch.full_like(target, 255))
    remedy = "divide by the number of valid pixels or 1, whichever is larger, as with clamp_min(1)."
    nan = isinstance(found, Tensor) and bool(found.isnan().any())
    check.that(not nan, f"a batch of void alone gives nan, expected 0: {remedy}")
    hint = difference(found, torch.zeros(()), "the loss of void alone")
    check.that(not hint, hint)
    still = "a batch of void alone gives a loss without a gradient; training calls backward(): (logits * 0).sum()."
    check.that(found.requires_grad, still)
    zero = gradient is None or not gradient.any()
    check.that(zero, f"a batch of void alone gives a gradient that is not 0: {remedy}")


def run_loss_case(check: Check, answer: Callable, case: Case) -> Parts:
    """The loss and its gradient, for `Exercise.run`; of a target of void alone both are to be 0."""
    logits, target = case.args
    if (target == 255).all():
        check_void_alone(check, answer, logits, target)
        return Parts()
    found, gradient = run_loss(check, answer, logits, target, **case.kwargs)
    return Parts({case.words: found} | ({f"the gradient of {case.words}": gradient} if logits.requires_grad else {}))


NO_GRADIENT = (
    "no gradient comes back: is there an argmax, a detach or an `.item()`? The logits must learn from the loss."
)
"""The hint for a loss with the right value that is detached."""
