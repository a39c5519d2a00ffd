"""Checks of lab 03: atrous convolution by hand, ASPP, DeepLab's heads, schedules, losses."""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import permutations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers import models
from labhelpers.course.checks.core import (
    Case,
    Check,
    Exercise,
    Mistake,
    Parts,
    calls,
    difference,
    kind_of,
    run_function,
)
from labhelpers.course.checks.layers import (
    ORDERS,
    ConvNorm,
    Rewired,
    activated,
    calibrated,
    changed,
    check_conv,
    check_gradients,
    check_unshared,
    conv_norms,
    detached,
    make,
    replaced,
    rounding,
    run_by_hand,
    run_loss,
    run_loss_case,
    run_watched,
)

# ----------------------------------------------------------- effective_kernel


def _effective_kernel(kernel: int, rate: int) -> int:
    """Pixels along one side of the window that a kernel with weights `rate` apart covers."""
    return kernel + (kernel - 1) * (rate - 1)


effective_kernel = Exercise(
    "effective_kernel",
    _effective_kernel,
    cases=lambda: calls("effective_kernel", (3, 1), (3, 2), (3, 6), (3, 12), (3, 18), (5, 2), (7, 3), (2, 5), (1, 4)),
    wrong={
        (lambda k, r: k * r): "this is kernel * rate, but only the gaps between weights grow: kernel weights have "
        "kernel - 1 gaps.",
        (lambda k, r: k + (k - 1) * r): "a rate of r puts r - 1 zeros between two weights, not r: at rate 1 nothing "
        "grows.",
        (
            lambda k, r: (k - 1) * r
        ): "one too few: from the first weight to the last are (kernel - 1) * rate steps, + 1.",
        (lambda k, r: (k - 1) * (r - 1)): "the weights themselves are missing: kernel weights and the zeros between.",
        (lambda k, r: k + r - 1): "there are kernel - 1 gaps, each with rate - 1 zeros, not one.",
        (lambda k, r: k + r): "there are kernel - 1 gaps, each with rate - 1 zeros.",
        (lambda k, r: 2 * r + 1): "this is right for a kernel of 3 only: use `kernel`, (kernel - 1) * rate + 1.",
        (lambda k, r: k + 2 * (r - 1)): "this is right for a kernel of 3 only: there are kernel - 1 gaps, not 2.",
        (lambda k, r: 2 * (k // 2) * r + 1): "this is right for odd kernels only: (kernel - 1) * rate + 1.",
        (lambda k, r: 2 * ((k - 1) // 2) * r + 1): "this is right for odd kernels only: (kernel - 1) * rate + 1.",
        (lambda k, r: r * (k - 1) // 2): "this is how far it reaches to one side of the middle: count the whole side.",
        (lambda k, r: ((k - 1) * r + 1) ** 2): "this is the window's area: its side is asked for.",
        (lambda k, r: k): "the rate is not used: the weights move apart, and the window grows with them.",
    },
)

# ---------------------------------------------------------------- atrous_conv


def _copies(
    turn: Callable[[Tensor], Tensor] = lambda kernel: kernel,
    step: Callable[[int], int] = lambda rate: rate,
    sides: tuple[int, int] = (1, 1),
    mode: str = "constant",
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Adds up shifted copies of the padded image, one for each weight, `step(rate)` pixels apart.

    Args:
        turn: what is done to the kernel first.
        sides: half the kernel's reach is padded so many times before and behind the image.
    """

    def answer(x: Tensor, kernel: Tensor, rate: int) -> Tensor:
        (height, width), k, apart = x.shape, len(kernel), step(rate)
        padding = tuple(side * (rate * (k - 1) // 2) for side in sides)
        padded, out = F.pad(x[None], padding * 2, mode=mode)[0], torch.zeros_like(x)
        for u, row in enumerate(turn(kernel)):
            for v, weight in enumerate(row):
                out += weight * padded[u * apart : u * apart + height, v * apart : v * apart + width]
        return out

    return answer


_atrous_conv = _copies()
"""x (H, W), kernel (k, k) of odd k -> (H, W): each weight times the image shifted by its place, zeros outside."""


def _last_alone(kernel: Tensor) -> Tensor:
    return F.pad(kernel[-1:, -1:], (len(kernel) - 1, 0, len(kernel) - 1, 0))


def _atrous_cases() -> Iterable[Case]:
    """Kernels of 3, 5 and 1 at several rates on inputs that are not square, one smaller than the reach."""
    for (height, width), k, rate in (((9, 11), 3, 2), ((7, 6), 3, 1), ((11, 12), 5, 2), ((5, 4), 3, 4), ((3, 5), 1, 3)):
        when = f"for x {height}x{width}, kernel {k}x{k}, rate {rate}"
        yield Case((torch.randn(height, width), torch.randn(k, k), rate), when, "the output")


def _run_atrous(check: Check, answer: Callable, case: Case) -> Any:
    found = run_by_hand(check, answer, case)
    x, kernel, rate = case.args
    if isinstance(found, Tensor) and found.shape != x.shape:
        shape, k = tuple(found.shape), len(kernel)
        why = f"is padding equal to rate * (k - 1) / 2 = {rate * (k - 1) // 2} on each side?"
        if rate > 1 and shape in (x[::rate, ::rate].shape, tuple((n - k) // rate + 1 for n in x.shape)):
            why = "the rate is used as a stride; it spreads the weights, while the window moves by one pixel."
        elif shape == x.T.shape:
            why = "height and width are exchanged."
        elif len(shape) != 2:
            why = "expected two axes, (H, W)."
        size = "x".join(map(str, shape)) or "one number"
        raise Mistake(f"the output is {size} {case.when}, expected {x.shape[0]}x{x.shape[1]}: {why}")
    return found


_PADDING = "is padding equal to rate * (k - 1) / 2 on each side?"
_OUTSIDE = "outside the image lie zeros; found pixels from inside it there."
_OFF = "the weights are not centred: weight (k // 2, k // 2) reads the pixel itself; found the {} weight there."

atrous_conv = Exercise(
    "atrous_conv",
    _atrous_conv,
    cases=_atrous_cases,
    run=_run_atrous,
    errors={
        "with size 3": "an index lies outside the kernel, which has k rows and columns, 0 to k - 1.",
        "out of bounds": f"it reads outside the image: {_PADDING}",
        "must match the size": f"the shifted copies differ in size: {_PADDING}",
    },
    wrong={
        _copies(lambda kernel: kernel.flip(0, 1)): "the kernel is turned by 180 degrees: torch's convolutions do not "
        "flip their kernel, use it as it is.",
        _copies(lambda kernel: kernel.T): "the kernel is transposed (rows and columns exchanged): use it as it is.",
        _copies(lambda kernel: kernel.T.flip(0, 1)): "the kernel is transposed and turned: use it as it is.",
        (lambda x, kernel, rate: _atrous_conv(x, kernel, 1)): "neighbouring weights lie one pixel apart, as at rate 1: "
        "they are to be `rate` pixels apart.",
        (lambda x, kernel, rate: _atrous_conv(x, kernel, rate + 1)): "one too far: weights lie `rate` pixels apart, "
        "with rate - 1 zeros between them.",
        _copies(sides=(0, 2)): _OFF.format("first"),
        _copies(sides=(2, 0)): _OFF.format("last"),
        _copies(step=lambda rate: 1): "the padding is that of the rate, but the shifts are not: the copy of weight "
        "(u, v) is shifted by u * rate and v * rate.",
        _copies(_last_alone): "only the last weight is left: add what each weight gives to what is there (`+=`).",
        _copies(torch.ones_like): "the kernel's values are not used: multiply each copy by its weight.",
        **dict.fromkeys([_copies(mode=mode) for mode in ("replicate", "circular", "reflect")], _OUTSIDE),
    },
)

# ------------------------------------------------------------------ looked_at


def _looking(
    scores: Callable[[Tensor], Tensor] = lambda logits: logits.amax(1).sum(),
    middle: Callable[[Tensor], Tensor] = lambda logits: logits[..., logits.shape[2] // 2, logits.shape[3] // 2],
    total: Callable[[Tensor], Tensor] = lambda gradient: gradient.abs().sum((0, 1)),
) -> Callable[[nn.Module, Tensor], Tensor]:
    """The gradient of `scores` in the `middle` of the logits at the images, made one map by `total`."""

    def answer(network: nn.Module, images: Tensor) -> Tensor:
        x = images.clone().requires_grad_()
        return total(torch.autograd.grad(scores(middle(network(x))), x)[0])

    return answer


_looked_at = _looking()
"""network, images (B, C, H, W) -> (H, W): how much the winning score in the middle depends on each pixel."""


def _look_cases() -> Iterable[Case]:
    """Two channels in and three classes; the sign of the weights differs."""
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)).eval()
    for side in ((9, 12), (11, 10)):
        yield Case((network, torch.randn(2, 2, *side)), f"for images of {side[0]}x{side[1]}", "the map")


def _run_look(check: Check, answer: Callable, case: Case) -> Any:
    network, images = case.args
    found = run_function(check, answer, case)
    unused = all(weight.grad is None for weight in network.parameters())
    network.zero_grad()
    keep = (
        "it leaves gradients in the network's weights: ask for that of the images alone, torch.autograd.grad(score, x)."
    )
    check.that(unused, keep)
    if isinstance(found, Tensor) and found.ndim == 4:
        raise Mistake(f"the map has shape {tuple(found.shape)}, expected (H, W): add up images and channels.")
    return found.detach() if isinstance(found, Tensor) else found


looked_at = Exercise(
    "looked_at",
    _looked_at,
    cases=_look_cases,
    run=_run_look,
    tolerance=rounding,
    errors={
        "does not require grad": "the input asks for no gradient: x = images.clone().requires_grad_().",
        "grad can be implicitly created only for scalar": "a gradient is that of one number: add up the scores of all "
        "images first.",
        "unsupported operand type(s) for": "x.grad is None: has backward() been called, and on a copy of the images?",
    },
    wrong={
        _looking(total=lambda gradient: gradient.sum((0, 1))): "the signs are kept, so that influences cancel: take "
        "abs() before adding up.",
        _looking(total=lambda gradient: gradient.sum((0, 1)).abs()): "abs() comes too late: images and channels have "
        "cancelled each other by then, take it before the sum.",
        _looking(total=lambda gradient: gradient.abs().mean((0, 1))): "it is the mean over images and channels: add "
        "them up, sum((0, 1)).",
        _looking(total=lambda gradient: (gradient**2).sum((0, 1))): "the gradient is squared: take abs().",
        _looking(lambda logits: logits.sum()): "all classes are added up: take the highest score, amax(1).",
        _looking(lambda logits: logits[:, 0].sum()): "the score of class 0 is taken: take the highest one, amax(1).",
        _looking(
            lambda logits: logits.amax()
        ): "one image counts: take the highest class of each, amax(1), and add up.",
        _looking(lambda logits: logits.softmax(1).amax(1).sum()): "a probability is taken: the score is the logit "
        "itself, before softmax.",
        _looking(middle=lambda logits: logits): "the whole map is taken: only its middle, [..., H // 2, W // 2].",
        _looking(middle=lambda logits: logits[..., 0, 0]): "the first position is taken: the middle is [..., H // 2, "
        "W // 2].",
        _looking(middle=lambda logits: logits[..., (logits.shape[2] - 1) // 2, (logits.shape[3] - 1) // 2]): "for even "
        "sizes it is one too early: the middle is H // 2, W // 2.",
    },
)

# --------------------------------------------------------------------- dilate


def _dilating(rate: int = 2, first: int = 1, by_block: bool = False) -> Callable:
    """Takes the stride out of a stage.

    Args:
        rate: of the 3x3 convolutions behind the one that gives up its stride.
        first: of that one itself.
        by_block: whether the rate begins with the second block.
    """

    def answer(stage: Any) -> nn.Module:
        spared = list(stage[0].modules()) if by_block else []
        behind = False
        for conv in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
            if conv.kernel_size == (3, 3):
                own = rate if behind and conv not in spared else first
                behind = behind or conv.stride == (2, 2)
                conv.dilation = conv.padding = (own, own)
            conv.stride = (1, 1)
        return stage

    return answer


_dilate = _dilating()
"""A ResNet's stage of stride 2 -> the same stage without it: 3x3 convolutions behind the stride at rate 2."""


def _run_dilate(check: Check, answer: Callable, case: Case) -> Any:
    """The features that the changed stage gives; the weights must be the old ones."""
    (kind,) = case.args
    stage: Any = models.build_encoder(kind, width=4).layer4.eval()  # batch norms as they start let all through
    before = [parameter.clone() for parameter in stage.parameters()]
    x = torch.randn(1, stage[0].conv1.in_channels, 8, 9)
    found = check.call(answer, stage, when=case.when)
    check.that(found is stage, f"it returns {kind_of(found)}: change the stage that is given, and return it.")
    same = len(before) == len(list(stage.parameters())) and all(map(torch.equal, before, stage.parameters()))
    check.that(same, "the weights are others afterwards: change stride, dilation and padding only.")
    with torch.no_grad():
        features = check.call(stage, x, when=f"in the changed stage {case.when}")
    if isinstance(features, Tensor) and features.shape[-2:] == (4, 5):
        raise Mistake("the stage still halves the map: does every convolution of stride 2 get stride (1, 1)?")
    return features


dilate = Exercise(
    "dilate",
    _dilate,
    cases=lambda: [
        Case((kind,), f"for a stage of {kind.replace('resnet', 'ResNet-')}", "what the stage gives")
        for kind in ("resnet18", "resnet50")
    ],
    run=_run_dilate,
    tolerance=rounding,
    errors={
        "must match the size": "the two ways through a block give maps of different sizes: the 1x1 convolution beside "
        "gives up its stride too, and padding must equal the rate.",
        "Kernel size can't be greater": "the map shrinks: padding must equal the rate.",
    },
    wrong={
        _dilating(
            first=2
        ): "the convolution that gives up its stride has rate 2 as well: it still reads the map that it "
        "read before, so it keeps rate 1.",
        _dilating(
            rate=1
        ): "no convolution has rate 2: what stands behind the stride now meets a map twice as fine, and "
        "must reach twice as far.",
        _dilating(by_block=True): "the first block keeps rate 1 throughout: of ResNet-18's, the second 3x3 convolution "
        "already stands behind the stride.",
        _dilating(rate=4): "the rate behind the stride is 4: one stride of 2 is gone, so the rate is 2.",
    },
)

# ----------------------------------------------------------------------- aspp

Layers = dict[str, ConvNorm]

_ASPP_PARTS = {
    "conv1": "1x1 convolution, batch norm, ReLU",
    "atrous_convs": "an nn.ModuleList with one 3x3 branch for each rate",
    "global_avg_pool": "mean over the map, 1x1 convolution, batch norm, ReLU",
    "conv_out": "1x1 convolution over all branches, batch norm, ReLU, dropout",
}
_ASPP_CASES = [(6, 4, (1, 2, 3)), (5, 3, (4, 1, 6, 2))]  # channels in and out, rates
_BY_HAND = (6, 12, 18)
_MAP = (16, 14)
_BATCH = 2
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def _aspp_layers(check: Check, model: nn.Module, rates: tuple[int, ...], prefix: str = "") -> Layers:
    """The convolution and batch norm of each branch and of `conv_out`, by the name a hint gives them."""
    for name, what in _ASPP_PARTS.items():
        check.that(hasattr(model, name), f"it has no `self.{prefix}{name}` ({what}).")
    branches: Any = model.atrous_convs
    unseen = "a Python list hides its layers from PyTorch: nobody would train, move or save their weights. Use "
    side_by_side = "nn.Sequential runs its layers one after another, but branches stand side by side. Use "
    why = {list: unseen, tuple: unseen, nn.Sequential: side_by_side}.get(type(branches), "expected ")
    given = f"{prefix}atrous_convs is {kind_of(branches)}: {why}nn.ModuleList([...])."
    check.that(isinstance(branches, nn.ModuleList), given)
    by_hand = ": are the rates written by hand? Make one for each of `rates`" if len(branches) == len(_BY_HAND) else ""
    check.that(
        len(branches) == len(rates),
        f"{prefix}atrous_convs has {len(branches)} branches, expected {len(rates)} for the rates {rates}{by_hand}.",
    )
    parts = {"conv1": model.conv1, **{f"atrous_convs[{i}]": branch for i, branch in enumerate(branches)}}
    parts |= {"global_avg_pool": model.global_avg_pool, "conv_out": model.conv_out}
    for name, part in parts.items():
        check.that(isinstance(part, nn.Module), f"{prefix}{name} is {kind_of(part)}, expected an nn.Module.")
        if name != "conv_out" and type(part).forward is nn.Module.forward:
            raise Mistake(f"{prefix}{name} is an nn.{type(part).__name__}, which cannot be called: use nn.Sequential.")
    layers = {f"{prefix}{name}": conv_norms(check, part, f"{prefix}{name}")[0] for name, part in parts.items()}
    check_unshared(layers)
    return layers


def _check_aspp_sizes(
    check: Check, layers: Layers, in_channels: int, out_channels: int, rates: tuple[int, ...]
) -> None:
    """Channels, kernels and rates of what `_aspp_layers` found."""
    *branches, last = layers
    chained = "is it chained behind another branch? Every branch takes x itself"
    for name in branches:
        kernel = 3 if "atrous" in name else 1
        check_conv(check, layers[name].conv, name, (in_channels, out_channels), kernel, {out_channels: chained})
    found = [layers[name].conv.dilation[0] for name in branches if "atrous" in name]
    wrong = f"the branches of atrous_convs have the rates {found}, expected {list(rates)}"
    if set(found) == {1}:
        wrong += ": dilation is missing, dilation=rate (and padding=rate)"
    elif tuple(found) == _BY_HAND[: len(found)]:
        wrong += ": they are written by hand, take them from `rates`"
    elif sorted(found) == sorted(rates):
        wrong += ": keep the order they are given in"
    check.that(found == list(rates), f"{wrong}.")
    n = len(branches)
    known = {
        out_channels: "are the branches added? They are concatenated",
        (n - 1) * out_channels: f"one of the {n} branches is forgotten (1x1, one for each rate, pooling)",
        len(rates) * out_channels: "conv1 and the pooling branch count too",
        5 * out_channels: f"5 branches are written by hand, here are {n}: (2 + len(rates)) * out_channels",
        in_channels: "it takes the concatenated branches, not x",
    }
    check_conv(check, layers[last].conv, last, (n * out_channels, out_channels), 1, known)


def _varied(layers: Layers) -> Layers:
    """The layers with random scales and shifts, before their weights are copied into the student's."""
    for layer in layers.values():
        layer.vary()
    return layers


def _copy_layers(source: Layers, destination: Layers) -> None:
    """Same weights in; the layers come in the same order."""
    for own, other in zip(source.values(), destination.values(), strict=True):
        own.copy_to(other)


def _inspect_aspp(check: Check, answer: Callable) -> None:
    """Layers, their sizes, dropout, and the size of each atrous branch."""
    for in_channels, out_channels, rates in _ASPP_CASES:
        model: Any = make(check, answer, in_channels, out_channels, rates)
        layers = _aspp_layers(check, model, rates)
        _check_aspp_sizes(check, layers, in_channels, out_channels, rates)
        found = [m for m in model.modules() if isinstance(m, _DROPOUTS)]
        check.that(bool(found), "it has no layer nn.Dropout: conv_out ends with nn.Dropout(0.1).")
        check.that(len(found) == 1, f"there are {len(found)} dropouts: only conv_out has one, behind its ReLU.")
        name = type(found[0]).__name__
        check.that(isinstance(found[0], nn.Dropout), f"it has {name}: expected nn.Dropout, which drops single values.")
        check.that(found[0].p == 0.1, f"the dropout has p={found[0].p:g}, expected 0.1.")
        for name in list(layers)[1:-2]:
            conv, branch = layers[name].conv, model.atrous_convs[int(name[-2])]
            given = check.call(branch, torch.randn(_BATCH, in_channels, *_MAP), when=f"in {name}")
            check.that(isinstance(given, Tensor), f"{name} gives {kind_of(given)}, expected a torch tensor.")
            size = "x".join(map(str, given.shape[-2:]))
            check.that(
                size == f"{_MAP[0]}x{_MAP[1]}",
                f"your branch {name} is {size}, expected {_MAP[0]}x{_MAP[1]}: is padding equal to the rate? Its "
                f"padding is {conv.padding}, its dilation {conv.dilation}.",
            )


def _run_aspp(check: Check, answer: Callable, case: Case) -> Parts:
    """The same weights in: what conv_out is given of each branch, the result, in training mode too."""
    in_channels, out_channels, rates = case.args
    x = torch.randn(_BATCH, in_channels, *_MAP)
    right: Any = calibrated(models.ASPP(*case.args), x)
    right_layers = _varied(_aspp_layers(Check(), right, rates))
    model = make(check, answer, *case.args)
    layers = _aspp_layers(Check(), model, rates)
    _copy_layers(right_layers, layers)
    found, (seen,) = run_watched(check, model, [layers["conv_out"].conv], x, when="in forward")
    check.that(isinstance(found, Tensor), f"forward returns {kind_of(found)}, expected one tensor.")
    shape, expected = tuple(found.shape), (_BATCH, out_channels, *_MAP)
    unmixed = ": is conv_out left out?" if shape[1:2] == ((2 + len(rates)) * out_channels,) else "."
    check.that(shape == expected, f"forward gives shape {shape} for x {tuple(x.shape)}, expected {expected}{unmixed}")
    unused = "{} gets no gradient: forward does not use it, or its result is not concatenated."
    check_gradients(check, model, found, {name: layer.conv.weight for name, layer in layers.items()}, unused)
    if seen is None:  # the student's code runs conv_out's convolution in a way of its own
        seen = torch.cat(right.branches(x), 1)
    given = zip(layers, seen.split(out_channels, 1), strict=False)
    parts = Parts({f"what conv_out is given of {name}": part for name, part in given})
    parts["the result of forward"] = found.detach()
    dropout = next(m for m in model.train().modules() if isinstance(m, nn.Dropout))
    with torch.no_grad():
        dropout.p = 1.0
        dropped = check.call(model, x, when="in training mode")
        at_the_end = "dropout is not used at the end of conv_out: it comes behind the ReLU, as the last step."
        check.that(not dropped.any(), at_the_end)
        dropout.p = 0.0
        parts["in training mode, with dropout off, the result"] = check.call(model, x, when="in training mode")
    return parts


def _concatenated(order: tuple[int, ...], step: int) -> tuple[type, str]:
    """A wrong order of the three kinds of branches, atrous ones backwards where `step` is -1."""

    def ordered(conv1: Any, atrous: list, pooled: Any) -> list:
        kinds = [conv1], atrous[::step], [pooled]
        return [branch for kind in order for branch in kinds[kind]]

    def branches(self: models.ASPP, x: Tensor) -> list[Tensor]:
        first, *atrous, last = models.ASPP.branches(self, x)
        return ordered(first, atrous, last)

    names = ["conv1", *(f"atrous_convs[{i}]" for i in range(3)), "global_avg_pool"]
    found = ", ".join(ordered(names[0], names[1:-1], names[-1]))
    hint = f"the parts are concatenated in the order {found}; expected {', '.join(names)}."
    return changed(models.ASPP, branches=branches), hint


def _pooled(part: nn.Module) -> type:
    return replaced(models.ASPP, "global_avg_pool.0", lambda _: part)


def _rewired(name: str, order: str) -> type:
    """The branch of a name with its parts in another order."""
    path = name.replace("[", ".").replace("]", "")
    order = f"p{order}" if name == "global_avg_pool" else f"{order}d" if name == "conv_out" else order
    return replaced(models.ASPP, path, partial(Rewired, order=order))


_POOLS_LAST = "global_avg_pool pools last: the mean over the map comes before the convolution."
_CAT = "torch.cat([...], 1) puts all branches side by side as channels"
_SIZE = f"{_MAP[0]}x{_MAP[1]}"
_NOT_ENLARGED = (
    "the pooling branch is not enlarged: it gives one value for each channel, 1x1, and needs the map's size "
    f"{_SIZE} (interpolate to x.shape[-2:])."
)

aspp = Exercise(
    "ASPP",
    models.ASPP,
    cases=lambda: [Case(args) for args in _ASPP_CASES],
    inspect=_inspect_aspp,
    run=_run_aspp,
    tolerance=rounding,
    errors={  # the numbers of channels are those of the first case
        "to have 6 channels, but got 4 channels": "a branch is given something else than x: are the branches chained "
        "one after another? They stand side by side.",
        "to have 6 channels, but got": "a branch is given something else than x (pooling: than its mean over height "
        "and width).",
        "Expected size 2 but got size 1 for": "one branch has a batch of one: pooling is the mean over height and "
        "width, of each image by itself.",
        "but got size 1 for": _NOT_ENLARGED,
        "Expected size 1 but got": _NOT_ENLARGED,
        "Sizes of tensors must match": f"the branches differ in size, each is to be {_SIZE} as x is: 1x1 "
        "convolutions have no padding, the pooling branch is enlarged to x.shape[-2:], height first.",
        "but got 4 channels": f"conv_out gets 4 channels, those of one branch: are the branches added? {_CAT}.",
        **{
            f"but got {4 * m} channels": f"conv_out gets {4 * m} channels, those of {m} of the 5 branches: {_CAT}, "
            "1x1, the rates in order, pooling."
            for m in (2, 3, 4)
        },
    },
    wrong=[*(_concatenated(order, step) for order in permutations(range(3)) for step in (1, -1))][1:]
    + [
        (_pooled(nn.AdaptiveMaxPool2d(1)), "global_avg_pool takes the maximum over the map: take the mean."),
        (_pooled(nn.LPPool2d(1, _MAP)), "global_avg_pool takes the sum over the map: take the mean."),
        (_pooled(nn.Identity()), "global_avg_pool does not pool: it takes the mean first, nn.AdaptiveAvgPool2d(1)."),
        (replaced(models.ASPP, "global_avg_pool", partial(Rewired, order="cnrp")), _POOLS_LAST),
        (replaced(models.ASPP, "global_avg_pool", partial(Rewired, order="cnpr")), _POOLS_LAST),
        *(
            (_rewired(name, order), hint.format(name))
            for name in ("conv1", *(f"atrous_convs[{i}]" for i in range(4)), "global_avg_pool", "conv_out")
            for order, hint in ORDERS.items()
        ),
    ],
)

# -------------------------------------------- deeplab_head, deeplab_head_plus

_HEAD_PARTS = {
    "aspp": "ASPP of the encoder's last features",
    "refine": "3x3 convolution, batch norm, ReLU",
    "classifier": "1x1 convolution to num_classes, with a bias",
}
_PLUS_PARTS = _HEAD_PARTS | {
    "project": "1x1 convolution of the low-level features to 48 channels, batch norm, ReLU",
    "refine": "two times 3x3 convolution, batch norm, ReLU",
}
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_OTHERS = "is there another dropout or norm, or an eval()?"
_PROJECTED = 48
_IN, _LOW = 10, 7  # channels of the last and of the low-level features
_HEAD_CASES = [(_IN, 5, (1, 2, 3), 6), (_IN, 3, (2, 1), 4)]
_PLUS_CASES = [(_IN, _LOW, *rest) for _, *rest in _HEAD_CASES]


def _head_layers(check: Check, model: Any, rates: tuple[int, ...], plus: bool) -> tuple[Layers, nn.Conv2d]:
    """Every convolution with batch norm, by the name a hint gives it, those of aspp first; and the classifier."""
    for name, what in (_PLUS_PARTS if plus else _HEAD_PARTS).items():
        part = getattr(model, name, None)
        check.that(part is not None, f"it has no `self.{name}` ({what}).")
        check.that(isinstance(part, nn.Module), f"{name} is {kind_of(part)}, expected an nn.Module ({what}).")
    layers = _aspp_layers(check, model.aspp, rates, "aspp.")
    if plus:
        layers["project"] = conv_norms(check, model.project, "project")[0]
    names = ["refine, first", "refine, second"] if plus else ["refine"]
    layers |= zip(names, conv_norms(check, model.refine, "refine", len(names)), strict=True)
    check_unshared(layers)
    convs = [m for m in model.classifier.modules() if isinstance(m, nn.Conv2d)]
    check.that(len(convs) == 1, f"classifier holds {len(convs) or 'no'} convolutions, expected one.")
    norm = next((type(m).__name__ for m in model.classifier.modules() if isinstance(m, _NORMS)), "")
    check.that(not norm, f"classifier holds {norm}: class scores come from the convolution alone.")
    check.that(convs[0].bias is not None, "the classifier has no bias: no batch norm follows that would replace it.")
    return layers, convs[0]


def _inspect_head(check: Check, answer: Callable) -> None:
    """Channels and kernels of the layers, and that only ASPP has a dropout."""
    for arguments in _HEAD_CASES:
        model: Any = make(check, answer, *arguments)
        layers = _inspect_aspp_inside(check, model, arguments, {})
        check_conv(check, layers["refine"].conv, "refine", (arguments[-1], arguments[-1]), 3)
        _inspect_scores(check, model, arguments, {})


def _inspect_plus(check: Check, answer: Callable) -> None:
    """As `_inspect_head`."""
    for arguments in _PLUS_CASES:
        channels = arguments[-1]
        both = channels + _PROJECTED
        model: Any = make(check, answer, *arguments)
        exchanged = "in_channels and low_level_channels are exchanged"
        layers = _inspect_aspp_inside(check, model, arguments, {_LOW: exchanged})
        few = "the low-level features are projected to few channels, 48, so that they do not outweigh the rest"
        known = dict.fromkeys((_LOW, channels, 256, 64, 32), few) | {_IN: exchanged}
        check_conv(check, layers["project"].conv, "project", (_LOW, _PROJECTED), 1, known)
        known = {
            channels: "are the two parts added instead of concatenated, or is one refined before",
            channels + _LOW: "are the low-level features concatenated without being projected",
            2 * channels: "are the projected features taken to have as many channels as the others",
        }
        known = {number: f"{hint}? It takes both, channels + {_PROJECTED}" for number, hint in known.items()}
        check_conv(check, layers["refine, first"].conv, "the first convolution of refine", (both, channels), 3, known)
        second = "the second convolution of refine"
        check_conv(check, layers["refine, second"].conv, second, (channels, channels), 3)
        known = {both: "refine comes between concatenation and classifier, and gives `channels`"}
        _inspect_scores(check, model, arguments, known)


def _inspect_aspp_inside(check: Check, model: Any, arguments: tuple, known: dict[int, str]) -> Layers:
    """All layers of a head made with these arguments; those of its ASPP have the right sizes."""
    *_, rates, channels = arguments
    layers, _ = _head_layers(check, model, rates, plus=len(arguments) == len(_PLUS_CASES[0]))
    check_conv(check, layers["aspp.conv1"].conv, "aspp.conv1", (_IN, channels), 1, known)
    _check_aspp_sizes(check, {k: v for k, v in layers.items() if k.startswith("aspp.")}, _IN, channels, rates)
    return layers


def _inspect_scores(check: Check, model: Any, arguments: tuple, known: dict[int, str]) -> None:
    """The classifier's channels, and no dropout outside ASPP."""
    *_, num_classes, _, channels = arguments
    (classifier,) = (m for m in model.classifier.modules() if isinstance(m, nn.Conv2d))
    known = known | {21: "21 is written by hand, use num_classes"}
    check_conv(check, classifier, "classifier", (channels, num_classes), 1, known)
    inside = set(model.aspp.modules())
    others = [type(m).__name__ for m in model.modules() if isinstance(m, _DROPOUTS) and m not in inside]
    check.that(
        not others, f"there is a dropout outside aspp ({', '.join(others)}): leave it out, ASPP has one already."
    )


def _right_head(head: nn.Module, rates: tuple[int, ...], plus: bool) -> tuple[Layers, nn.Conv2d]:
    """The layers of a reference, their batch norms varied: before the answer is made, which draws random numbers."""
    layers, classifier = _head_layers(Check(), head, rates, plus)
    return _varied(layers), classifier


def _copy_head(
    right: tuple[Layers, nn.Conv2d], head: nn.Module, rates: tuple[int, ...], plus: bool
) -> dict[str, nn.Conv2d]:
    """Same weights in; the student's convolutions, by the names in hints."""
    layers, classifier = _head_layers(Check(), head, rates, plus)
    _copy_layers(right[0], layers)
    classifier.load_state_dict(right[1].state_dict())
    return {name: layer.conv for name, layer in layers.items()} | {"classifier": classifier}


def _run_head(check: Check, answer: Callable, case: Case) -> Parts:
    """The same weights in: ASPP's result, what refine is given, the logits, in training mode too."""
    arguments, size, low_size = case.args  # no low-level size: the head of V3
    *_, num_classes, rates, channels = arguments
    features = torch.randn(_BATCH, _IN, *size)
    low_level = [torch.randn(_BATCH, _LOW, *low_size)] if low_size else []
    right: Any = (models.DeepLabHeadPlus if low_level else models.DeepLabHead)(*arguments)
    right_layers = _right_head(calibrated(right, *low_level, features), rates, plus=bool(low_level))
    model: Any = make(check, answer, *arguments)
    convs = _copy_head(right_layers, model, rates, plus=bool(low_level))
    first = convs["refine, first" if low_level else "refine"]
    logits, (seen,) = run_watched(check, model, [first], *low_level, features, when=f"in forward {case.when}")
    check.that(isinstance(logits, Tensor), f"forward returns {kind_of(logits)}, expected the logits, one tensor.")
    expected = (_BATCH, num_classes, *(low_size or size))
    _check_logits_shape(check, tuple(logits.shape), expected, size, case.when)
    unused = "{} gets no gradient: forward does not use it, or its result does not reach the logits."
    check_gradients(check, model, logits, {name: conv.weight for name, conv in convs.items()}, unused)
    with torch.no_grad():
        own = check.call(model.aspp, features, when="in aspp")
        if seen is None:  # the student's code runs refine's convolution in a way of its own
            seen = right.aspp(features)
            if low_level:
                enlarged = F.interpolate(seen, low_size, mode="bilinear")
                seen = torch.cat([enlarged, right.project(*low_level)], 1)
        for module in model.train().modules():
            if isinstance(module, _DROPOUTS):
                module.p = 0.0
        trained = check.call(model, *low_level, features, when="in training mode")
    parts = Parts({"the result of self.aspp (has ASPP passed its own check?)": own})
    if low_level:
        parts["what refine is given of the enlarged ASPP"] = seen[:, :channels]
        parts["what refine is given of the projected low-level features"] = seen[:, channels:]
    else:
        parts["what refine is given of ASPP"] = seen
    parts[f"the logits {case.when}"] = logits.detach()
    parts[f"in training mode, with ASPP's dropout off ({_OTHERS}), the result"] = trained
    return parts


def _check_logits_shape(
    check: Check, found: tuple[int, ...], expected: tuple[int, ...], coarse: tuple[int, int], when: str
) -> None:
    why = ""
    if len(found) == 3:
        why = ": logits keep one channel for each class, leave the argmax out"
    elif expected[2:] == coarse and len(found) == 4 and found[2] > expected[2]:
        why = ": the head leaves the logits at the features' size, the network enlarges them to the image's"
    elif found[2:] == coarse:
        why = ": the low-level features are shrunk, which loses their edges. Enlarge the ASPP's result instead"
    elif len(found) == 4 and 0 < expected[2] - found[2] == expected[3] - found[3] <= 4:
        why = ": do the 3x3 convolutions of refine lack padding=1?"
    elif len(found) == 4 and found[2] > expected[2]:
        why = ": the logits stay at the low-level features' size, the model enlarges them to the image's"
    check.that(found == expected, f"forward gives shape {found} {when}, expected {expected}{why}.")


def _enlarging(enlarge: Callable[[models.DeepLabHeadPlus, Tensor, torch.Size], Tensor]) -> type:
    """The head that brings the features to the size of the low-level ones in another way."""

    def forward(self: models.DeepLabHeadPlus, low_level: Tensor, features: Tensor) -> Tensor:
        x = enlarge(self, features, low_level.shape[-2:])
        return self.classifier(self.refine(torch.cat([x, self.project(low_level)], 1)))

    return changed(models.DeepLabHeadPlus, forward=forward)


def _interpolated(mode: str, **options: Any) -> type:
    return _enlarging(lambda self, x, size: F.interpolate(self.aspp(x), size, mode=mode, **options))


def _four_times(self: models.DeepLabHeadPlus, x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(self.aspp(x), scale_factor=4, mode="bilinear")


def _low_level_first(self: models.DeepLabHeadPlus, low_level: Tensor, features: Tensor) -> Tensor:
    x = F.interpolate(self.aspp(features), low_level.shape[-2:], mode="bilinear")
    return self.classifier(self.refine(torch.cat([self.project(low_level), x], 1)))


def _rewired_head(*paths: str, order: str, network: type = models.DeepLabHeadPlus) -> type:
    for path in paths:
        network = replaced(network, path, partial(Rewired, order=order))
    return network


_JOINED = f"refine takes 6 + {_PROJECTED} channels, the enlarged ASPP and the projected features concatenated"
_ORDER = "the parts are concatenated in the order the projected low-level features, the enlarged ASPP: exchange them."
_ALIGNED = "the enlargement has align_corners=True: leave it at False, as in DeepLab, or the grids drift apart."
_EARLY = "the features are enlarged before ASPP: enlarge what ASPP gives, its rates count in the coarse grid."
_SCALED = (
    "the two parts differ in size: enlarge the ASPP's result to the low-level features' size 17x25 with "
    "size=low_level.shape[-2:]; scale_factor=4 misses it, since strides round up."
)
_NEAREST = 'the enlargement takes the nearest value, as interpolate does by default: pass mode="bilinear".'

deeplab_head = Exercise(
    "DeepLabHead",
    models.DeepLabHead,
    cases=lambda: [
        Case((_HEAD_CASES[0], (4, 6), ()), "for features 4x6"),
        Case((_HEAD_CASES[1], (5, 7), ()), "for features 5x7"),
    ],
    inspect=_inspect_head,
    run=_run_head,
    tolerance=rounding,
    wrong=[
        *activated(models.DeepLabHead),
        *(
            (_rewired_head("refine", order=order, network=models.DeepLabHead), hint.format("refine"))
            for order, hint in ORDERS.items()
        ),
    ],
)

deeplab_head_plus = Exercise(
    "DeepLabHeadPlus",
    models.DeepLabHeadPlus,
    cases=lambda: [
        Case((_PLUS_CASES[0], (4, 6), (16, 24)), "for low-level features 16x24, features 4x6"),
        Case((_PLUS_CASES[1], (5, 7), (17, 25)), "for low-level features 17x25, features 5x7"),
    ],
    inspect=_inspect_plus,
    run=_run_head,
    tolerance=rounding,
    errors={  # the numbers of channels are those of the first case
        f"to have {_IN} channels, but got {_LOW}": "the two arguments are exchanged: forward(low_level, features), and "
        "ASPP takes the features.",
        f"to have {_LOW} channels, but got {_IN}": "the two arguments are exchanged: forward(low_level, features), and "
        "project takes the low-level ones.",
        f"but got {6 + _LOW} channels": f"the low-level features are not projected: {_JOINED}.",
        "but got 6 channels": f"{_JOINED}: is it applied before the concatenation?",
        f"but got {_PROJECTED} channels": f"{_JOINED}: is it applied before the concatenation?",
        "must match except in dimension 1": "the two parts differ in size: enlarge the ASPP's result to the low-level "
        "features' size with size=low_level.shape[-2:].",
        "must match except in dimension": "the two parts are joined along another axis than the channels: "
        "torch.cat([enlarged, projected], 1).",
        "must match the size": "are the two parts added? They are concatenated, torch.cat([enlarged, projected], 1).",
    },
    wrong=[
        (changed(models.DeepLabHeadPlus, forward=_low_level_first), _ORDER),
        (_interpolated("bilinear", align_corners=True), _ALIGNED),
        (_interpolated("nearest"), _NEAREST),
        (_interpolated("nearest-exact"), _NEAREST),
        (_interpolated("bicubic"), 'the enlargement is bicubic: pass mode="bilinear".'),
        (_enlarging(lambda self, x, size: self.aspp(F.interpolate(x, size, mode="bilinear"))), _EARLY),
        (_enlarging(_four_times), _SCALED),
        (
            _enlarging(lambda self, x, size: _four_times(self, x, size)[..., : size[0], : size[1]]),
            "it enlarges 4 times and crops: use size=low_level.shape[-2:], which fits any size.",
        ),
        *((_rewired_head("project", order=order), hint.format("project")) for order, hint in ORDERS.items()),
        *activated(models.DeepLabHeadPlus),
        *(
            (_rewired_head(*paths, order=order), hint.format("refine"))
            for order, hint in ORDERS.items()
            for paths in (["refine.0"], ["refine.1"], ["refine.0", "refine.1"])
        ),
    ],
)

_K = 4  # classes of the toys below

# -------------------------------------------------------------- deeplab_v3plus

_IMAGE = (49, 66)


class _Encoder(nn.Module):
    """Features of strides 4, 8, 16 and 16, or only the first and the last, made by a mean and a 1x1 convolution."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.strides, self.channels = ((4, 8, 16, 16), (_LOW, 6, 8, _IN)) if count == 4 else ((4, 16), (_LOW, _IN))
        self.convs = nn.ModuleList(nn.Conv2d(3, channels, 1) for channels in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        coarse = [F.avg_pool2d(images, stride, ceil_mode=True) for stride in self.strides]
        return [conv(x) for conv, x in zip(self.convs, coarse, strict=True)]


def _run_network(check: Check, answer: Callable, case: Case) -> Any:
    """The logits for images whose sides no stride divides, the same weights in."""
    count, *arguments = case.args
    num_classes, rates, _ = arguments
    encoder, images = _Encoder(count), torch.randn(_BATCH, 3, *_IMAGE)
    right: Any = calibrated(models.DeepLabV3Plus(encoder, *arguments), images)  # type: ignore[arg-type]
    right_layers = _right_head(right.head, rates, plus=True)
    model: Any = make(check, answer, encoder, *arguments)
    found = getattr(model, "encoder", None)
    check.that(found is encoder, "self.encoder is not the encoder that it is given: self.encoder = encoder.")
    check.that(isinstance(getattr(model, "head", None), nn.Module), "it has no `self.head`, a DeepLabHeadPlus.")
    exchanged = "channels[0] and channels[-1] are exchanged: those of the last features come first"
    _inspect_aspp_inside(check, model.head, (_IN, _LOW, *arguments), {_LOW: exchanged})
    _copy_head(right_layers, model.head, rates, plus=True)
    logits = check.call(model, images, when=case.when)
    check.that(isinstance(logits, Tensor), f"forward returns {kind_of(logits)}, expected the logits, one tensor.")
    expected = (_BATCH, num_classes, *_IMAGE)
    why = ": enlarge the logits to images.shape[-2:]; scale_factor=4 misses sizes that 4 does not divide"
    check.that(logits.shape == expected, f"forward gives shape {tuple(logits.shape)}, expected {expected}{why}.")
    return logits.detach()


def _forwarding(**options: Any) -> type:
    """The network that enlarges the logits in another way."""

    def forward(self: models.DeepLabV3Plus, images: Tensor) -> Tensor:
        low_level, *_, last = self.encoder(images)
        logits = self.head(low_level, last)
        return F.interpolate(logits, images.shape[-2:], **{"mode": "bilinear", **options})

    return changed(models.DeepLabV3Plus, forward=forward)


deeplab_v3plus = Exercise(
    "DeepLabV3Plus",
    models.DeepLabV3Plus,
    cases=lambda: [
        Case((4, 5, (1, 2, 3), 6), f"for images of {_IMAGE[0]}x{_IMAGE[1]}", "the result of forward"),
        Case((2, 3, (2, 1), 4), "for an encoder of two features", "the result of forward"),
    ],
    run=_run_network,
    tolerance=rounding,
    errors={
        f"to have {_IN} channels, but got": "the head is given other features than the encoder's last: "
        "head(features[0], features[-1]).",
        f"to have {_LOW} channels, but got": "the head is given other low-level features than the encoder's first, of "
        "stride 4: head(features[0], features[-1]).",
        "index out of range": "an encoder may have fewer than four features (section 6 cuts one): take the "
        "first and the last, [0] and [-1].",
    },
    wrong=[
        (_forwarding(mode="nearest"), 'the logits are enlarged by the nearest value: pass mode="bilinear".'),
        (_forwarding(align_corners=True), "the enlargement has align_corners=True: leave it at False."),
        *activated(models.DeepLabV3Plus),
    ],
)

# ---------------------------------------------------------------- cut_encoder


def _run_cut(check: Check, answer: Callable, case: Case) -> Parts:
    """The two features, their channels, and that nothing behind the second stage is kept."""
    (kind,) = case.args
    images = torch.randn(1, 3, 32, 48)
    encoder: Any = calibrated(models.build_encoder(kind, width=4), images)
    model: Any = make(check, answer, encoder)
    channels = getattr(model, "channels", None)
    hint = f"self.channels is {channels}, expected {encoder.channels[:2]}, those of the first two features."
    check.that(isinstance(channels, (tuple, list)) and tuple(channels) == encoder.channels[:2], hint)
    kept = {id(parameter) for parameter in model.parameters()}
    behind = [p for stage in (encoder.layer3, encoder.layer4) for p in stage.parameters()]
    whole = (
        "it still holds the third or fourth stage, whose weights would be stored and counted: keep the parts in front."
    )
    check.that(not any(id(parameter) in kept for parameter in behind), whole)
    front = [p for part in (encoder.conv1, encoder.layer1, encoder.layer2) for p in part.parameters()]
    lost = "weights of the front part are missing: assign the encoder's own modules to attributes of self."
    check.that(all(id(parameter) in kept for parameter in front), lost)
    features = check.call(model, images, when=case.when)
    listed = isinstance(features, (list, tuple)) and len(features) == 2
    check.that(listed, f"forward returns {kind_of(features)}: return the list [stride 4, stride 8].")
    first, second = features
    return Parts({"the features of stride 4": first, "the features of stride 8": second})


def _cutting(parts: Callable[[models.CutEncoder, Tensor], tuple[Tensor, ...]]) -> type:
    return changed(models.CutEncoder, forward=lambda self, images: list(parts(self, images)))


def _without(stem: int) -> type:
    """Leaves one part of the stem out."""
    return _cutting(
        lambda self, x: _two_stages(self, nn.Sequential(*(m for i, m in enumerate(self.stem) if i != stem))(x))
    )


def _two_stages(model: models.CutEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    low_level = model.layer1(x)
    return low_level, model.layer2(low_level)


cut_encoder = Exercise(
    "CutEncoder",
    models.CutEncoder,
    cases=lambda: [Case((kind,), f"for {kind.replace('resnet', 'ResNet-')}") for kind in ("resnet18", "resnet50")],
    run=_run_cut,
    tolerance=rounding,
    wrong=[
        (_without(3), "the max pooling is left out: the stem is conv1, bn1, relu, maxpool."),
        (_without(1), "the batch norm of the stem is left out: conv1, bn1, relu, maxpool."),
        (_without(2), "the ReLU of the stem is left out: conv1, bn1, relu, maxpool."),
        (
            _cutting(lambda self, x: _two_stages(self, self.stem(x))[::-1]),
            "the two are in the wrong order: stride 4 first, then stride 8.",
        ),
        (
            _cutting(lambda self, x: (self.stem(x), self.layer1(self.stem(x)))),
            "these are the stem's and the first stage's features: return those of layer1 and layer2.",
        ),
    ],
)

# ------------------------------------------------------------ step_lr, poly_lr


def _step_lr(step: int, every: int, lr: float, gamma: float = 0.1) -> float:
    """The learning rate of a step (the first is 0): multiplied by gamma after every so many steps."""
    return lr * gamma ** (step // every)


step_lr = Exercise(
    "step_lr",
    _step_lr,
    cases=lambda: calls(
        "step_lr", (0, 10, 0.02), (9, 10, 0.02), (10, 10, 0.02), (35, 10, 0.5), (7, 3, 0.5, 0.9), (999, 1000, 1.0, 0.5)
    ),
    tolerance=1e-6,
    wrong={
        (
            lambda s, n, lr, g=0.1: lr * g ** (s / n)
        ): "the rate falls at each step: `//` counts the whole intervals that are over.",
        (lambda s, n, lr, g=0.1: lr * g ** ((s + 1) // n)): "it falls one step early: steps count from 0, so the first "
        "interval ends before step `every`.",
        (
            lambda s, n, lr, g=0.1: lr * g ** (s // n + 1)
        ): "it begins with lr * gamma: the first interval has lr itself.",
        (lambda s, n, lr, g=0.1: lr * g * (s // n)): "it multiplies by the number of intervals: gamma is raised to it, "
        "gamma ** (step // every).",
        (
            lambda s, n, lr, g=0.1: lr * (g if s >= n else 1)
        ): "it falls once: after each interval it is multiplied again, gamma ** (step // every).",
        (
            lambda s, n, lr, g=0.1: (lr * g) ** (s // n)
        ): "lr is raised to the power, too: lr * gamma ** (step // every).",
        (lambda s, n, lr, g=0.1: g ** (s // n)): "lr is left out: this is the factor it is multiplied by.",
        (lambda s, n, lr, g=0.1: lr * 0.1 ** (s // n)): "0.1 is written by hand: use `gamma`.",
        (lambda s, n, lr, g=0.1: lr / g ** (s // n)): "the rate rises: multiply by gamma, which is below 1.",
    },
)


def _poly_lr(step: int, steps: int, lr: float, power: float = 0.9) -> float:
    """The learning rate of a step (0 to steps - 1): falls from lr to 0, at first nearly linearly (DeepLab, 2017)."""
    return lr * (1 - step / steps) ** power


_PLAIN = [(0, 100, 0.02), (30, 100, 0.02), (99, 100, 0.02), (6, 7, 0.5)]
_POWERS = [(0, 50, 0.5, 2.0), (10, 50, 0.5, 2.0), (49, 50, 0.5, 2.0), (3, 7, 1.5, 0.5)]

poly_lr = Exercise(
    "poly_lr",
    _poly_lr,
    cases=lambda: calls("poly_lr", *_PLAIN, *_POWERS),
    tolerance=1e-6,  # of float32
    wrong={
        (lambda s, n, lr, p=0.9: lr * (s / n) ** p): "the rate rises: 1 - step / steps is what is left of training.",
        (lambda s, n, lr, p=0.9: lr * (1 - s / n)): "the power is left out: (1 - step / steps) ** power.",
        (lambda s, n, lr, p=0.9: lr * (1 - s // n) ** p): "`//` rounds step / steps down to 0, so the rate never "
        "falls: divide with `/`.",
        (lambda s, n, lr, p=0.9: lr * (1 - (s / n) ** p)): "the exponent is on step / steps alone: it belongs on the "
        "whole bracket, (1 - step / steps) ** power.",
        (lambda s, n, lr, p=0.9: (lr * (1 - s / n)) ** p): "lr is raised to the power, too: lr * (...) ** power, the "
        "power binds first.",
        (lambda s, n, lr, p=0.9: lr * (1 - s / (n - 1)) ** p): "the denominator is steps - 1, so the last step has "
        "rate 0 and teaches nothing: divide by steps.",
        (lambda s, n, lr, p=0.9: lr * (1 - (s + 1) / n) ** p): "it is one step ahead: steps count from 0, and the "
        "first has the full rate.",
        (lambda s, n, lr, p=0.9: lr * (1 - s / n**p)): "`**` binds before `/` and `-`: put the bracket around 1 - step "
        "/ steps, (1 - step / steps) ** power.",
        (lambda s, n, lr, p=0.9: _poly_lr(s, n, lr, 1 / p)): "the exponent is 1 / power: it is power.",
        (lambda s, n, lr, p=1.0: _poly_lr(s, n, lr, p)): "the default of power is 0.9, as in the signature.",
        (lambda s, n, lr, p=0.9: _poly_lr(s, n, 1, p)): "lr is left out: this is the factor it is multiplied by.",
        (lambda s, n, lr, p=0.9: lr * (1 - s / n) * p): "it multiplies by power: `**` raises to it.",
        (lambda s, n, lr, p=0.9: _poly_lr(s, n, lr)): "0.9 is written by hand: use `power`.",
    },
)

# ----------------------------------------------------------------- focal_loss


def _of_target(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, index: activation(logits).gather(1, index)


def _likeliest(logits: Tensor, index: Tensor) -> Tensor:
    return logits.softmax(1).amax(1, keepdim=True)


def _over_valid(losses: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
    return losses[valid].sum() / valid.sum().clamp_min(1)


def _weighted(
    weight: Callable[[Tensor, float], Tensor] = lambda p, gamma: (1 - p) ** gamma,
    p_t: Callable[[Tensor, Tensor], Tensor] = lambda logits, index: logits.softmax(1).gather(1, index),
    nll: Callable[[Tensor, Tensor], Tensor] = lambda p, right: right,
    mean: Callable[[Tensor, Tensor, Tensor], Tensor] = _over_valid,
    void: int = 0,
) -> Callable[..., Tensor]:
    """The loss made of its parts, one of which is wrong.

    Args:
        weight: from p_t and gamma.
        p_t: from the logits and the class of each pixel (B, 1, H, W).
        nll: from p_t and the right -log p_t.
        mean: from the losses of all pixels, which of them are valid, and the weights, (B, 1, H, W) each.
        void: the class that void pixels get.
    """

    def answer(logits: Tensor, target: Tensor, gamma: float = 2.0, ignore_index: int = 255) -> Tensor:
        valid = (target != ignore_index)[:, None]
        index = torch.where(valid, target[:, None], void)
        p = p_t(logits, index)
        weights = weight(p, gamma)
        return mean(weights * nll(p, -logits.log_softmax(1).gather(1, index)), valid, weights)

    return answer


def _per_image(losses: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
    return ((losses * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))).mean()


def _averaged_first(logits: Tensor, target: Tensor, gamma: float = 2.0, ignore_index: int = 255) -> Tensor:
    nll = F.cross_entropy(logits, target, ignore_index=ignore_index)
    return (1 - torch.exp(-nll)) ** gamma * nll


_focal_loss = _weighted()
"""Mean of (1 - p_t)^gamma (-log p_t) over the valid pixels; logits (B, K, H, W), target (B, H, W) int64."""


_EXACT = "softmax gives 0 for very wrong pixels: take log_softmax, or cross_entropy, for log p_t"


def _focal_cases() -> Iterable[Case]:
    """Uneven void, another gamma, another void; very wrong pixels; a batch of void alone."""
    logits = (2 * torch.randn(2, _K, 5, 6)).requires_grad_()
    target = torch.randint(0, _K, (2, 5, 6))
    target[0, :3], target[1, 4] = 255, 255
    yield Case((logits, target), what="the loss")
    yield Case((logits, target), "for gamma=1.5", "the loss", {"gamma": 1.5})
    yield Case((logits, target), "for gamma=0", "the loss", {"gamma": 0.0})
    yield Case((logits, torch.where(target == 255, 0, target)), "for ignore_index=1", "the loss", {"ignore_index": 1})
    extreme = torch.tensor([[200.0, -200.0, 0.0, 0.0]])[..., None, None].expand(1, _K, 2, 2)
    yield Case(
        (extreme, torch.ones(1, 2, 2, dtype=torch.int64)), "for logits of 200 and -200", "the loss", remedy=_EXACT
    )
    yield Case((logits, torch.full_like(target, 255)))


_MEAN = "divide the sum by the number of valid pixels"
_HALF = "the weight needs the same p_t as the logarithm, softmax over the classes"
_FIXED = "the value is right, but p_t in the {} is detached, so the gradient lacks that part: leave out detach()."
_AXES = "the softmax runs over the wrong axis: over the classes, dim=1 of (B, K, H, W)."
_WRONG_MEANS = {
    (
        lambda losses, valid, weights: (losses * valid).mean()
    ): f"void pixels are counted in the mean, as zeros: {_MEAN}.",
    (lambda losses, valid, weights: losses.sum() / valid.sum()): "void pixels are counted as background: mask them, "
    f"and {_MEAN}.",
    (lambda losses, valid, weights: losses.mean()): f"void pixels are counted as background: mask them, and {_MEAN}.",
    (lambda losses, valid, weights: losses[valid].sum()): f"it is the sum over pixels: {_MEAN}.",
    _per_image: f"it is averaged within each image first, though void is uneven: {_MEAN} of the batch.",
    (lambda losses, valid, weights: losses[valid].sum() / weights[valid].sum()): "it is divided by the sum of the "
    f"weights, which takes their effect away: {_MEAN}.",
}
_WRONG_WEIGHTS = {
    (lambda p, g: p**g): "the weight p_t ** gamma favours easy pixels: (1 - p_t) ** gamma.",
    (lambda p, g: g * (1 - p)): "it multiplies by gamma: 1 - p_t is raised to it, (1 - p_t) ** gamma.",
    (lambda p, g: 1 - p**g): "the exponent is on p_t alone: put 1 - p_t in a bracket, (1 - p_t) ** gamma.",
    (lambda p, g: (1 - p) ** 2): "gamma is not used: (1 - p_t) ** gamma.",
    (lambda p, g: torch.ones_like(p)): "the weight is missing, this is cross-entropy: times (1 - p_t) ** gamma.",
    (
        lambda p, g: 0.25 * (1 - p) ** g
    ): "there is a factor of 0.25, the paper's alpha: leave it out, it would only scale the loss.",
    (
        lambda p, g: torch.exp(g * (1 - p))
    ): "the weight is e^(gamma (1 - p_t)): a power of 1 - p_t is asked for, (1 - p_t) ** gamma.",
    (lambda p, g: (1 - p.detach()) ** g): _FIXED.format("weight"),
}
_WRONG_P = {  # where only the weight has it, and where the logarithm has it, too
    _likeliest: ("it has the highest probability", "p_t is the highest probability: take that of the target's class."),
    _of_target(torch.sigmoid): (
        "its p_t comes from a sigmoid",
        "it uses sigmoid: classes exclude each other, softmax.",
    ),
    _of_target(lambda x: x.softmax(1).softmax(1)): ("its softmax is taken twice", "softmax is taken twice: once."),
    **{_of_target(partial(torch.softmax, dim=axis)): (_AXES, _AXES) for axis in (0, 2, 3)},
}

focal_loss = Exercise(
    "focal_loss",
    _focal_loss,
    cases=_focal_cases,
    run=run_loss_case,
    tolerance=rounding,
    errors={
        "leaf Variable that requires grad": "it changes the logits in place: use an operation that returns a new "
        "tensor.",
        "Can't call numpy()": "NumPy knows no gradients: take torch.exp and torch.log, not NumPy's.",
        "255 is out of bounds": "void (255) is used as a class index: leave void pixels out first, or replace them and "
        "multiply by a mask.",
        "Class values must be smaller than num_classes": "void (255) goes into one_hot as if it were a class.",
    },
    wrong=[
        (_weighted(nll=lambda p, right: -p.log()), f"the logarithm is that of a softmax: {_EXACT}."),
        *((_weighted(mean=mean), hint) for mean, hint in _WRONG_MEANS.items()),
        (
            _weighted(void=_K - 1, mean=lambda losses, valid, weights: losses.mean()),
            f"void pixels are counted as the last class: mask them, and {_MEAN}.",
        ),
        (
            lambda *given, **settings: -_focal_loss(*given, **settings),
            "the sign is wrong: log p_t is negative, the loss is its weight times -log p_t.",
        ),
        *((_weighted(weight), hint) for weight, hint in _WRONG_WEIGHTS.items()),
        (
            _weighted(nll=lambda p, right: torch.ones_like(p)),
            "the logarithm is missing: the weight is multiplied by -log p_t.",
        ),
        (_weighted(nll=lambda p, right: right.detach()), _FIXED.format("logarithm")),
        *((_weighted(p_t=p, nll=lambda p, right: -p.log()), hint) for p, (_, hint) in _WRONG_P.items()),
        *((_weighted(p_t=p), f"the weight is wrong, {hint}: {_HALF}.") for p, (hint, _) in _WRONG_P.items()),
        (_averaged_first, 'the cross-entropy is averaged too early: reduction="none" gives that of each pixel.'),
        (
            lambda logits, target, gamma=2.0, ignore_index=255: _focal_loss(logits, target, gamma),
            "ignore_index is not used: is 255 written by hand?",
        ),
        detached(_focal_loss),
    ],
)

# ------------------------------------------------------------------- own_loss


def _own_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One loss of many: cross-entropy, a mean over the pixels that are not void."""
    return _focal_loss(logits, target, gamma=0.0)


def _inspect_own_loss(check: Check, answer: Callable) -> None:
    """What any loss must do: one number with a gradient, void left out, less for a better answer, never nan.

    On 21 classes: it may use the class weights of lab 01.
    """
    target = torch.randint(0, 21, (2, 6, 8))
    target[0, :3] = 255
    valid = (target != 255)[:, None]
    logits = torch.randn(2, 21, 6, 8, requires_grad=True)
    right = F.one_hot(target.where(target != 255, torch.tensor(0)), 21).movedim(3, 1)
    loss, gradient = run_loss(check, answer, logits, target)
    hint = difference(
        loss, loss.detach() if isinstance(loss, Tensor) and loss.ndim == 0 else torch.zeros(()), "the loss"
    )
    check.that(not hint, hint)
    check.that(gradient is not None, detached(_own_loss)[1])
    check.that(
        bool(loss.isfinite()) and bool(gradient.isfinite().all()),
        f"the loss is {loss:.4g}, or its gradient is not finite: is a logarithm taken of a softmax, or divided by 0?",
    )
    moved, _ = run_loss(check, answer, logits + 3 * torch.randn_like(logits) * ~valid, target)
    check.that(
        torch.allclose(moved, loss, rtol=1e-4),
        "void pixels (255) count: the loss changes with their logits. "
        "Leave them out, and divide by the number of the others.",
    )
    values = []
    for factor in (8.0, 0.0, -8.0):  # sure and right, unsure, sure and wrong
        value, _ = run_loss(check, answer, (factor * right).requires_grad_(), target)
        values.append(value.item())
    rising = values[0] < values[1] < values[2]
    check.that(
        rising,
        f"a better answer must cost less: right, unsure and wrong logits cost {values[0]:.3g}, "
        f"{values[1]:.3g} and {values[2]:.3g}; is the sign wrong?",
    )
    far, _ = run_loss(check, answer, (-300.0 * right).requires_grad_(), target)
    check.that(bool(far.isfinite()), f"for logits of -300 on the true class it is {far:.4g}: {_EXACT}.")


own_loss = Exercise(
    "own_loss",
    _own_loss,
    inspect=_inspect_own_loss,
    errors={
        "255 is out of bounds": "void (255) is used as a class index: leave void pixels out first.",
        "Class values must be smaller than num_classes": "void (255) goes into one_hot as if it were a class.",
    },
    wrong=[
        (
            lambda logits, target: _own_loss(logits, torch.where(target == 255, 0, target)),
            "void pixels (255) count: the "
            "loss changes with their logits. Leave them out, and divide by the number of the others.",
        ),
        detached(_own_loss),
    ],
)
