"""Checks of lab 03: atrous convolution by hand, ASPP, the decoder of DeepLabV3+, optimizer and schedule, a loss."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from itertools import permutations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers import models
from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, calls, kind_of
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
    run_loss_case,
    run_watched,
)
from labhelpers.training.losses import exponential_cross_entropy as _exponential_cross_entropy

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

# ---------------------------------------------------------- deeplab_head_plus

_HEAD_PARTS = {
    "aspp": "ASPP of the encoder's last features",
    "project": "1x1 convolution of the low-level features to 48 channels, batch norm, ReLU",
    "refine": "two times 3x3 convolution, batch norm, ReLU",
    "classifier": "1x1 convolution to num_classes, with a bias",
}
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_OTHERS = "is there another dropout or norm, or an eval()?"
_PROJECTED = 48
_IN, _LOW = 10, 7  # channels of the last and of the low-level features
_HEAD_CASES = [(_IN, _LOW, 5, (1, 2, 3), 6), (_IN, _LOW, 3, (2, 1), 4)]


def _head_layers(check: Check, model: Any, rates: tuple[int, ...]) -> tuple[Layers, nn.Conv2d]:
    """Every convolution with batch norm, by the name a hint gives it, those of aspp first; and the classifier."""
    for name, what in _HEAD_PARTS.items():
        part = getattr(model, name, None)
        check.that(part is not None, f"it has no `self.{name}` ({what}).")
        check.that(isinstance(part, nn.Module), f"{name} is {kind_of(part)}, expected an nn.Module ({what}).")
    layers = _aspp_layers(check, model.aspp, rates, "aspp.")
    layers["project"] = conv_norms(check, model.project, "project")[0]
    layers["refine, first"], layers["refine, second"] = conv_norms(check, model.refine, "refine", 2)
    check_unshared(layers)
    convs = [m for m in model.classifier.modules() if isinstance(m, nn.Conv2d)]
    check.that(len(convs) == 1, f"classifier holds {len(convs) or 'no'} convolutions, expected one.")
    norm = next((type(m).__name__ for m in model.classifier.modules() if isinstance(m, _NORMS)), "")
    check.that(not norm, f"classifier holds {norm}: class scores come from the convolution alone.")
    check.that(convs[0].bias is not None, "the classifier has no bias: no batch norm follows that would replace it.")
    return layers, convs[0]


def _inspect_head(check: Check, answer: Callable) -> None:
    """Channels and kernels of the layers, and that only ASPP has a dropout."""
    for _, _, num_classes, rates, channels in _HEAD_CASES:
        model: Any = make(check, answer, _IN, _LOW, num_classes, rates, channels)
        layers, classifier = _head_layers(check, model, rates)
        exchanged = "in_channels and low_level_channels are exchanged"
        check_conv(check, layers["aspp.conv1"].conv, "aspp.conv1", (_IN, channels), 1, {_LOW: exchanged})
        _check_aspp_sizes(check, {k: v for k, v in layers.items() if k.startswith("aspp.")}, _IN, channels, rates)
        few = "the low-level features are projected to few channels, 48, so that they do not outweigh the rest"
        known = dict.fromkeys((_LOW, channels, 256, 64, 32), few) | {_IN: exchanged}
        check_conv(check, layers["project"].conv, "project", (_LOW, _PROJECTED), 1, known)
        both = channels + _PROJECTED
        known = {
            channels: "are the two parts added instead of concatenated, or is one refined before",
            channels + _LOW: "are the low-level features concatenated without being projected",
            2 * channels: "are the projected features taken to have as many channels as the others",
        }
        known = {number: f"{hint}? It takes both, channels + {_PROJECTED}" for number, hint in known.items()}
        check_conv(check, layers["refine, first"].conv, "the first convolution of refine", (both, channels), 3, known)
        second = "the second convolution of refine"
        check_conv(check, layers["refine, second"].conv, second, (channels, channels), 3)
        known = {
            both: "refine comes between concatenation and classifier, and gives `channels`",
            21: "21 is written by hand, use num_classes",
        }
        check_conv(check, classifier, "classifier", (channels, num_classes), 1, known)
        inside = set(model.aspp.modules())
        others = [type(m).__name__ for m in model.modules() if isinstance(m, _DROPOUTS) and m not in inside]
        check.that(
            not others, f"there is a dropout outside aspp ({', '.join(others)}): leave it out, ASPP has one already."
        )


def _run_head(check: Check, answer: Callable, case: Case) -> Parts:
    """The same weights in: ASPP's result, what refine is given, the logits, in training mode too."""
    *arguments, low_size, size = case.args
    _, _, num_classes, rates, channels = arguments
    low_level, features = torch.randn(_BATCH, _LOW, *low_size), torch.randn(_BATCH, _IN, *size)
    right: Any = calibrated(models.DeepLabHeadPlus(*arguments), low_level, features)
    right_layers, right_classifier = _head_layers(Check(), right, rates)
    _varied(right_layers)
    model: Any = make(check, answer, *arguments)
    layers, classifier = _head_layers(Check(), model, rates)
    _copy_layers(right_layers, layers)
    classifier.load_state_dict(right_classifier.state_dict())
    first = layers["refine, first"].conv
    logits, (seen,) = run_watched(check, model, [first], low_level, features, when=f"in forward {case.when}")
    check.that(isinstance(logits, Tensor), f"forward returns {kind_of(logits)}, expected the logits, one tensor.")
    _check_logits_shape(check, tuple(logits.shape), (_BATCH, num_classes, *low_size), size, case.when)
    weights = {name: layer.conv.weight for name, layer in layers.items()} | {"classifier": classifier.weight}
    unused = "{} gets no gradient: forward does not use it, or its result does not reach the logits."
    check_gradients(check, model, logits, weights, unused)
    with torch.no_grad():
        own = check.call(model.aspp, features, when="in aspp")
        if seen is None:  # the student's code runs refine's convolution in a way of its own
            enlarged = F.interpolate(right.aspp(features), low_size, mode="bilinear")
            seen = torch.cat([enlarged, right.project(low_level)], 1)
        for module in model.train().modules():
            if isinstance(module, _DROPOUTS):
                module.p = 0.0
        trained = check.call(model, low_level, features, when="in training mode")
    return Parts(
        {
            "the result of self.aspp (has ASPP passed its own check?)": own,
            "what refine is given of the enlarged ASPP": seen[:, :channels],
            "what refine is given of the projected low-level features": seen[:, channels:],
            f"the logits {case.when}": logits.detach(),
            f"in training mode, with ASPP's dropout off ({_OTHERS}), the result": trained,
        }
    )


def _check_logits_shape(
    check: Check, found: tuple[int, ...], expected: tuple[int, ...], coarse: tuple[int, int], when: str
) -> None:
    why = ""
    if len(found) == 3:
        why = ": logits keep one channel for each class, leave the argmax out"
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


def _rewired_head(*paths: str, order: str) -> type:
    network: type = models.DeepLabHeadPlus
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

deeplab_head_plus = Exercise(
    "DeepLabHeadPlus",
    models.DeepLabHeadPlus,
    cases=lambda: [
        Case((*_HEAD_CASES[0], (16, 24), (4, 6)), "for low-level features 16x24, features 4x6"),
        Case((*_HEAD_CASES[1], (17, 25), (5, 7)), "for low-level features 17x25, features 5x7"),
    ],
    inspect=_inspect_head,
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

# ----------------------------------------------------------- parameter_groups


def _groups(
    encoder_rate: Callable[[float, float], float] = lambda lr, factor: lr * factor,
    rest_rate: Callable[[float, float], float] = lambda lr, factor: lr,
    is_encoder: Callable[[str], bool] = lambda name: name.startswith("encoder."),
) -> Callable[..., list[dict]]:
    """Two groups, with rates from `lr` and `backbone_factor`, divided by the parameters' names."""

    def answer(model: nn.Module, lr: float, backbone_factor: float = 0.1) -> list[dict]:
        named = list(model.named_parameters())
        return [
            {"params": [p for name, p in named if is_encoder(name)], "lr": encoder_rate(lr, backbone_factor)},
            {"params": [p for name, p in named if not is_encoder(name)], "lr": rest_rate(lr, backbone_factor)},
        ]

    return answer


_parameter_groups = _groups()
"""Groups for an optimizer: the parameters of `model.encoder` at lr * backbone_factor, all others at lr."""


class _Net(nn.Module):
    """An encoder, and other layers and parameters of which two have "encoder" in their names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1))
        )
        self.head = nn.ModuleDict({"encoder_projection": nn.Conv2d(4, 4, 1), "classifier": nn.Conv2d(4, 2, 1)})
        self.encoder_scale = nn.Parameter(torch.ones(4))
        self.offset = nn.Parameter(torch.zeros(4))


def _run_groups(check: Check, answer: Callable, case: Case) -> Parts:
    """The rate of each parameter of a network: every parameter once, left as it is; an optimizer takes the groups."""
    model = _Net()
    groups = _listed(check, check.call(answer, model, *case.args, **case.kwargs))
    _check_membership(check, model, groups)
    kept = all(parameter.requires_grad for parameter in model.parameters())
    check.that(kept, "it changes requires_grad: a lower learning rate is no freezing, leave the parameters alone.")
    check.call(torch.optim.SGD, groups, when="when torch.optim.SGD is given the groups")
    rates = {id(parameter): float(group["lr"]) for group in groups for parameter in group["params"]}
    return Parts({f"the rate of {name} {case.when}": rates[id(p)] for name, p in model.named_parameters()})


def _listed(check: Check, groups: Any) -> list[dict]:
    """The groups with their parameters in lists: an iterator can be read once, and the optimizer comes later."""
    expected = 'expected a list of dicts, [{"params": ..., "lr": ...}, ...]'
    dicts = isinstance(groups, (list, tuple)) and all(isinstance(group, dict) for group in groups)
    check.that(dicts, f"it returns {kind_of(groups)}: {expected}.")
    listed = []
    for number, group in enumerate(groups):
        for key in ("params", "lr"):
            check.that(key in group, f'group {number} has no "{key}": {expected}.')
        parameters = group["params"]
        several = isinstance(parameters, Iterable) and not isinstance(parameters, (set, frozenset, str, nn.Module))
        if isinstance(parameters, Tensor):
            parameters = [parameters]
        elif several or isinstance(parameters, nn.ParameterList):  # as optimizers do
            parameters = list(parameters)
        is_list = isinstance(parameters, list)
        other = next((p for p in parameters if not isinstance(p, Tensor)), None) if is_list else None
        found = kind_of(parameters) if other is None else f"a list that holds {kind_of(other)}"
        hint = "expected a list of parameters: parameters(), not named_parameters(), and no set."
        check.that(is_list and other is None, f'the "params" of group {number} are {found}; {hint}')
        rate = group["lr"]
        check.that(isinstance(rate, float), f'the "lr" of group {number} is {kind_of(rate)}, expected a Python float.')
        listed.append({**group, "params": parameters})
    return listed


def _check_membership(check: Check, model: _Net, groups: list[dict]) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    encoder = {name for name in names.values() if name.startswith("encoder.")}
    held = [id(parameter) for group in groups for parameter in group["params"]]
    own = all(parameter in names for parameter in held)
    check.that(own, "a group holds something that is no parameter of the model: a copy, or a buffer of batch norm?")
    counts = Counter(names[parameter] for parameter in held)
    twice = next((name for name in counts if counts[name] > 1), "")
    rest = "is model.parameters() taken for the rest? It holds the encoder's, too"
    check.that(not twice, f"{twice} occurs in the groups more than once: {rest}.")
    missing = [name for name in names.values() if name not in counts]
    if encoder <= set(missing):
        hint = "no parameter of model.encoder is in a group (is a generator read twice? It is empty the second time)."
    elif missing and all("encoder" in name and name not in encoder for name in missing):
        hint = f"{missing[0]} is in no group: it has `encoder` in its name, but is no part of model.encoder."
    else:
        hint = f"{missing[:1]} is in no group: take all of model.encoder.parameters(), and all that are not among them."
    check.that(not missing, hint.replace("['", "").replace("']", ""))


_IN_LIST = "`in` a list compares values, not objects: compare with `is`, or look for id(parameter) in a set of ids."
_NAMED = "it has `encoder` in its name, but is no part of model.encoder. Take model.encoder.parameters()."

parameter_groups = Exercise(
    "parameter_groups",
    _parameter_groups,
    cases=lambda: [
        Case((0.02,), "for lr=0.02, backbone_factor=0.1"),
        Case((0.5,), "for lr=0.5, backbone_factor=0.3", kwargs={"backbone_factor": 0.3}),
    ],
    run=_run_groups,
    tolerance=1e-9,
    errors={"must match the size": _IN_LIST, "value of Tensor with more than one value is ambiguous": _IN_LIST},
    wrong={
        _groups(lambda lr, factor: lr, lambda lr, factor: lr * factor): "the factor is on the wrong part: the encoder, "
        "pretrained, learns slower.",
        _groups(lambda lr, factor: lr): "all parts have the same rate: the encoder's is lr * backbone_factor.",
        _groups(rest_rate=lambda lr, factor: lr * factor): "all parts have the encoder's rate: only the encoder's is "
        "multiplied by backbone_factor.",
        _groups(lambda lr, factor: factor): "the encoder's rate is the factor itself: it is lr * backbone_factor.",
        _groups(lambda lr, factor: lr / factor): "the encoder's rate is divided by the factor: it is lr * "
        "backbone_factor.",
        _groups(lambda lr, factor: lr * 0.1): "backbone_factor is not used, 0.1 is written by hand: lr * "
        "backbone_factor.",
        _groups(is_encoder=lambda name: name.startswith("encoder")): _NAMED,
        _groups(is_encoder=lambda name: "encoder" in name): _NAMED,
    },
)

# -------------------------------------------------------------------- poly_lr


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

# -------------------------------------------------- exponential_cross_entropy

_K = 4


def _of_target(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, index: activation(logits).gather(1, index)


def _likeliest(logits: Tensor, index: Tensor) -> Tensor:
    return logits.softmax(1).amax(1, keepdim=True)


def _over_valid(losses: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
    return losses[valid].sum() / valid.sum().clamp_min(1)


def _weighted(
    weight: Callable[[Tensor, float], Tensor] = lambda p, beta: torch.exp(beta * (1 - p)),
    p_t: Callable[[Tensor, Tensor], Tensor] = lambda logits, index: logits.softmax(1).gather(1, index),
    nll: Callable[[Tensor, Tensor], Tensor] = lambda p, right: right,
    mean: Callable[[Tensor, Tensor, Tensor], Tensor] = _over_valid,
    void: int = 0,
) -> Callable[..., Tensor]:
    """The loss made of its parts, one of which is wrong.

    Args:
        weight: from p_t and beta.
        p_t: from the logits and the class of each pixel (B, 1, H, W).
        nll: from p_t and the right -log p_t.
        mean: from the losses of all pixels, which of them are valid, and the weights, (B, 1, H, W) each.
        void: the class that void pixels get.
    """

    def answer(logits: Tensor, target: Tensor, beta: float = 1.0, ignore_index: int = 255) -> Tensor:
        valid = (target != ignore_index)[:, None]
        index = torch.where(valid, target[:, None], void)
        p = p_t(logits, index)
        weights = weight(p, beta)
        return mean(weights * nll(p, -logits.log_softmax(1).gather(1, index)), valid, weights)

    return answer


def _per_image(losses: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
    return ((losses * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))).mean()


def _averaged_first(logits: Tensor, target: Tensor, beta: float = 1.0, ignore_index: int = 255) -> Tensor:
    nll = F.cross_entropy(logits, target, ignore_index=ignore_index)
    return torch.exp(beta * (1 - torch.exp(-nll))) * nll


_EXACT = "softmax gives 0 for very wrong pixels: take log_softmax, or cross_entropy, for log p_t"


def _exponential_cases() -> Iterable[Case]:
    """Uneven void, another beta, another void; very wrong pixels; a batch of void alone."""
    logits = (2 * torch.randn(2, _K, 5, 6)).requires_grad_()
    target = torch.randint(0, _K, (2, 5, 6))
    target[0, :3], target[1, 4] = 255, 255
    yield Case((logits, target), what="the loss")
    yield Case((logits, target), "for beta=2.5", "the loss", {"beta": 2.5})
    yield Case((logits, target), "for beta=0", "the loss", {"beta": 0.0})
    yield Case((logits, torch.where(target == 255, 0, target)), "for ignore_index=1", "the loss", {"ignore_index": 1})
    extreme = torch.tensor([[200.0, -200.0, 0.0, 0.0]])[..., None, None].expand(1, _K, 2, 2)
    yield Case(
        (extreme, torch.ones(1, 2, 2, dtype=torch.int64)), "for logits of 200 and -200", "the loss", remedy=_EXACT
    )
    yield Case((logits, torch.full_like(target, 255)))


_MEAN = "divide the sum by the number of valid pixels"
_BOTH = "p_t = exp(-cross-entropy) is the probability, and the weight is exp(beta * (1 - p_t))"
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
    (lambda p, b: torch.exp(b * p)): "the weight exp(beta * p_t) favours easy pixels: exp(beta * (1 - p_t)).",
    (lambda p, b: torch.exp(-b * (1 - p))): "the exponent has the wrong sign, which favours easy pixels: "
    "exp(beta * (1 - p_t)).",
    (lambda p, b: torch.exp(-b * p)): "the weight is exp(-beta * p_t): the exponent is beta * (1 - p_t), 0 for easy "
    "pixels.",
    (lambda p, b: torch.exp(b - p)): "the exponent is beta - p_t: put 1 - p_t in a bracket, beta * (1 - p_t).",
    (lambda p, b: math.exp(b) * (1 - p)): "the weight is e^beta * (1 - p_t): the whole of beta * (1 - p_t) is the "
    "exponent.",
    (lambda p, b: torch.exp(b * (1 + p.log()))): f"the weight has -log p_t for p_t: {_BOTH}.",
    (lambda p, b: torch.exp(b * (1 - p.log()))): f"the weight has log p_t for p_t: {_BOTH}.",
    (lambda p, b: torch.exp(-b * p.log())): f"the weight is exp(-beta * log p_t): {_BOTH}.",
    (lambda p, b: 1 + b * (1 - p)): "exp is missing: the weight is exp(beta * (1 - p_t)).",
    (lambda p, b: torch.exp(1 - p)): "beta is not used: exp(beta * (1 - p_t)).",
    (lambda p, b: 1): "the weight is missing, this is cross-entropy: times exp(beta * (1 - p_t)).",
    (lambda p, b: b * (1 - p)): "exp is missing: the weight is exp(beta * (1 - p_t)).",
    (lambda p, b: (1 - p) ** b): "exp is missing: the weight is exp(beta * (1 - p_t)); a power of 1 - p_t would be the "
    "focal loss.",
    (lambda p, b: torch.exp(b * (1 - p.detach()))): _FIXED.format("weight"),
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

exponential_cross_entropy = Exercise(
    "exponential_cross_entropy",
    _exponential_cross_entropy,
    cases=_exponential_cases,
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
            lambda *given, **settings: -_exponential_cross_entropy(*given, **settings),
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
            lambda logits, target, beta=1.0, ignore_index=255: _weighted()(logits, target, beta),
            "ignore_index is not used: is 255 written by hand?",
        ),
        detached(_exponential_cross_entropy),
    ],
)
