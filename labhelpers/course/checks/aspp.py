"""Check of lab 03's ASPP: its layers, then the same numbers from the same weights, branch by branch."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from labhelpers import models
from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise
from labhelpers.course.checks.deeplab_mistakes import check_concatenation, wrong_pooling
from labhelpers.course.checks.networks import (
    ConvNorm,
    calibrated,
    check_conv,
    check_gradients,
    check_unshared,
    conv_norms,
    make,
    run_watched,
    tolerance,
)

_PARTS = {
    "conv1": "1x1 convolution, batch norm, ReLU",
    "atrous_convs": "an nn.ModuleList with one 3x3 branch for each rate",
    "global_avg_pool": "mean over the map, 1x1 convolution, batch norm, ReLU",
    "conv_out": "1x1 convolution over all branches, batch norm, ReLU, dropout",
}
_BY_HAND = (6, 12, 18)
_MAP = (16, 14)
_BATCH = 2
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)

Layers = dict[str, ConvNorm]


@exercise("ASPP", models.ASPP)
def aspp(check: Check, answer) -> None:
    """Three and four rates, in and out of order: layers, paddings, gradients; same numbers, training mode too."""
    for in_channels, out_channels, rates in ((6, 4, (1, 2, 3)), (5, 3, (4, 1, 6, 2))):
        model = make(check, answer, in_channels, out_channels, rates).eval()
        layers = aspp_layers(check, model, rates)
        check_sizes(check, layers, in_channels, out_channels, rates)
        _check_dropout(check, model)
        x = torch.randn(_BATCH, in_channels, *_MAP)
        _check_paddings(check, model, layers, x)
        right = calibrated(models.ASPP(in_channels, out_channels, rates), x)
        copy_layers(aspp_layers(Check(), right, rates), layers)
        _check_forward(check, model, right, layers, x)
        _check_training(check, model, right, x)


def aspp_layers(check: Check, model: nn.Module, rates: tuple[int, ...], prefix: str = "") -> Layers:
    """The convolution and batch norm of each branch and of ``conv_out``, by the name a hint gives them."""
    for name, what in _PARTS.items():
        check.that(hasattr(model, name), f"it has no `self.{prefix}{name}` ({what}).")
    branches = model.atrous_convs
    unseen = "a Python list hides its layers from PyTorch: nobody would train, move or save their weights. Use "
    known = {
        list: unseen,
        tuple: unseen,
        nn.Sequential: "nn.Sequential runs its layers one after another, but branches stand side by side. Use ",
    }
    check.that(
        isinstance(branches, nn.ModuleList),
        f"{prefix}atrous_convs is {kind_of(branches)}: {known.get(type(branches), 'expected ')}nn.ModuleList([...]).",
    )
    by_hand = ": are the rates written by hand? Make one for each of `rates`" if len(branches) == len(_BY_HAND) else ""
    check.that(
        len(branches) == len(rates),
        f"{prefix}atrous_convs has {len(branches)} branches, expected {len(rates)} for the rates {rates}{by_hand}.",
    )
    parts = {
        "conv1": model.conv1,
        **{f"atrous_convs[{i}]": branch for i, branch in enumerate(branches)},
        "global_avg_pool": model.global_avg_pool,
        "conv_out": model.conv_out,
    }
    for name, part in parts.items():
        check.that(isinstance(part, nn.Module), f"{prefix}{name} is {kind_of(part)}, expected an nn.Module.")
        if name != "conv_out" and type(part).forward is nn.Module.forward:
            raise Mistake(f"{prefix}{name} is an nn.{type(part).__name__}, which cannot be called: use nn.Sequential.")
    layers = {f"{prefix}{name}": conv_norms(check, part, f"{prefix}{name}")[0] for name, part in parts.items()}
    check_unshared(layers)
    return layers


def check_sizes(check: Check, layers: Layers, in_channels: int, out_channels: int, rates: tuple[int, ...]) -> None:
    """Channels, kernels and rates of what :func:`aspp_layers` found."""
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


def copy_layers(source: Layers, destination: Layers) -> None:
    """Same weights in, with random scales and shifts; the layers come in the same order."""
    for own, other in zip(source.values(), destination.values(), strict=True):
        own.vary()
        own.copy_to(other)


def _check_dropout(check: Check, model: nn.Module) -> None:
    found = [m for m in model.modules() if isinstance(m, DROPOUTS)]
    check.that(bool(found), "it has no layer nn.Dropout: conv_out ends with nn.Dropout(0.1).")
    check.that(len(found) == 1, f"there are {len(found)} dropouts: only conv_out has one, behind its ReLU.")
    name = type(found[0]).__name__
    check.that(isinstance(found[0], nn.Dropout), f"it has {name}: expected nn.Dropout, which drops single values.")
    check.that(found[0].p == 0.1, f"the dropout has p={found[0].p:g}, expected 0.1.")


def _check_paddings(check: Check, model: nn.Module, layers: Layers, x: Tensor) -> None:
    height, width = x.shape[-2:]
    for i, branch in enumerate(model.atrous_convs):
        name = f"atrous_convs[{i}]"
        conv = layers[name].conv
        found = check.call(branch, x, when=f"in {name}")
        check.that(isinstance(found, Tensor), f"{name} gives {kind_of(found)}, expected a torch tensor.")
        size = "x".join(map(str, found.shape[-2:]))
        check.that(
            size == f"{height}x{width}",
            f"your branch {name} is {size}, expected {height}x{width}: is padding equal to the rate? Its padding is "
            f"{conv.padding}, its dilation {conv.dilation}.",
        )


def _check_forward(check: Check, model: nn.Module, right: models.ASPP, layers: Layers, x: Tensor) -> None:
    *names, last = layers
    n, (in_channels, out_channels) = len(names), (layers["conv1"].conv.in_channels, layers["conv1"].conv.out_channels)
    found, seen = run_watched(
        check, model, layers[last].conv, x, when="in forward", errors=_errors(in_channels, out_channels, n)
    )
    with torch.no_grad():
        branches = dict(zip(names, right.branches(x), strict=True))
        concatenated = torch.cat(list(branches.values()), 1)
        expected = right(x)
    check.that(isinstance(found, Tensor), f"forward returns {kind_of(found)}, expected one tensor.")
    unmixed = ": is conv_out left out?" if found.shape[1:2] == concatenated.shape[1:2] else "."
    check.that(
        found.shape == expected.shape,
        f"forward gives shape {tuple(found.shape)} for x {tuple(x.shape)}, expected {tuple(expected.shape)}{unmixed}",
    )
    unused = "{} gets no gradient: forward does not use it, or its result is not concatenated."
    check_gradients(check, model, found, {name: layer.conv.weight for name, layer in layers.items()}, unused)
    if seen is not None:  # else the student's code runs conv_out's convolution in a way of its own
        check_concatenation(check, seen, branches, lambda name: _wrong_branch(layers[name], x, name), "conv_out")
    mistakes = layers[last].wrong_outputs(concatenated, last)
    check.equal(found, expected, "the result of forward", mistakes, tolerance(expected))


def _wrong_branch(layer: ConvNorm, x: Tensor, name: str):
    if name == "global_avg_pool":
        yield from wrong_pooling(layer, x)
        x = x.mean((2, 3), keepdim=True)
        for wrong, hint in layer.wrong_outputs(x, name):
            yield wrong.expand(-1, -1, *_MAP), hint
    else:
        yield from layer.wrong_outputs(x, name)


def _errors(in_channels: int, out_channels: int, n: int) -> Mapping[str, str]:
    """Hints for what torch says when the branches do not fit together."""
    cat = "torch.cat([...], 1) puts all branches side by side as channels"
    one = f"conv_out gets {out_channels} channels, those of one branch: are the branches added? {cat}."
    fewer = {
        f"but got {m * out_channels} channels": f"conv_out gets {m * out_channels} channels, those of {m} of the {n} "
        f"branches: {cat}, 1x1, the rates in order, pooling."
        for m in range(2, n)
    }
    pooled = (
        "the pooling branch is not enlarged: it gives one value for each channel, 1x1, and needs the map's size "
        f"{_MAP[0]}x{_MAP[1]} (interpolate to x.shape[-2:])."
    )
    return {
        f"to have {in_channels} channels, but got {out_channels} channels": "a branch is given something else than x: "
        "are the branches chained one after another? They stand side by side.",
        f"to have {in_channels} channels, but got": "a branch is given something else than x (pooling: than its mean "
        "over height and width).",
        f"Expected size {_BATCH} but got size 1 for": "one branch has a batch of one: pooling is the mean over height "
        "and width, of each image by itself.",
        "but got size 1 for": pooled,
        "Expected size 1 but got": pooled,
        "Sizes of tensors must match": f"the branches differ in size, each is to be {_MAP[0]}x{_MAP[1]} as x is: 1x1 "
        "convolutions have no padding, the pooling branch is enlarged to x.shape[-2:], height first.",
        f"but got {out_channels} channels": one,
        **fewer,
    }


def _check_training(check: Check, model: nn.Module, right: models.ASPP, x: Tensor) -> None:
    """Dropout behind everything else, then switched off for the same numbers from the statistics of the batch."""
    for network in (model, right):
        network.train()
    dropout, own = (next(m for m in net.modules() if isinstance(m, nn.Dropout)) for net in (model, right))
    with torch.no_grad():
        dropout.p = 1.0
        dropped = check.call(model, x, when="in training mode")
        at_the_end = "dropout is not used at the end of conv_out: it comes behind the ReLU, as the last step."
        check.that(not dropped.any(), at_the_end)
        dropout.p = own.p = 0.0
        found, expected = check.call(model, x, when="in training mode"), right(x)
    check.equal(found, expected, "in training mode, with dropout off, the result", (), tolerance(expected))
