"""Checks of lab 03: atrous convolution by hand, ASPP, DeepLab's heads, schedules, losses."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial, reduce
from itertools import permutations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers import models
from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, calls, difference, kind_of
from labhelpers.course.checks.layers import (
    NO_GRADIENT,
    ORDERS,
    ConvNorm,
    Rewired,
    activated,
    calibrated,
    check_conv,
    check_gradients,
    check_unshared,
    conv_norms,
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
        "this is kernel * rate, but only the gaps between weights grow: kernel weights have kernel - 1 "
        "gaps.": lambda k, r: k * r,
        "a rate of r puts r - 1 zeros between two weights, not r: at rate 1 nothing grows.": {"(rate - 1)": "rate"},
        "one too few: from the first weight to the last are (kernel - 1) * rate steps, + 1.": lambda k, r: (k - 1) * r,
        "the weights themselves are missing: kernel weights and the zeros between.": {"kernel + ": ""},
        "there are kernel - 1 gaps, each with rate - 1 zeros, not one.": {"(kernel - 1) *": "1 *"},
        "there are kernel - 1 gaps, each with rate - 1 zeros.": lambda k, r: k + r,
        "this is right for a kernel of 3 only: use `kernel`, (kernel - 1) * rate + 1.": lambda k, r: 2 * r + 1,
        "this is right for a kernel of 3 only: there are kernel - 1 gaps, not 2.": {"(kernel - 1) *": "2 *"},
        "this is right for odd kernels only: (kernel - 1) * rate + 1.": [
            lambda k, r: 2 * (k // 2) * r + 1,
            lambda k, r: 2 * ((k - 1) // 2) * r + 1,
        ],
        "this is how far it reaches to one side of the middle: count the whole side.": lambda k, r: r * (k - 1) // 2,
        "this is the window's area: its side is asked for.": lambda k, r: ((k - 1) * r + 1) ** 2,
        "the rate is not used: the weights move apart, and the window grows with them.": lambda k, r: k,
    },
)

# ---------------------------------------------------------------- atrous_conv


def _atrous_conv(x: Tensor, kernel: Tensor, rate: int) -> Tensor:
    """x (H, W), kernel (k, k) of odd k -> (H, W): each weight times the image shifted by its place, zeros outside."""
    (height, width), side = x.shape, rate * (len(kernel) - 1) // 2
    padded, out = F.pad(x[None], (side,) * 4)[0], torch.zeros_like(x)
    for u, row in enumerate(kernel):
        for v, weight in enumerate(row):
            out += weight * padded[u * rate : u * rate + height, v * rate : v * rate + width]
    return out


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
        "the kernel is turned by 180 degrees: torch's convolutions do not flip their kernel, use it as it is.": {
            "(kernel)": "(kernel.flip(0, 1))"
        },
        "the kernel is transposed (rows and columns exchanged): use it as it is.": {"(kernel)": "(kernel.T)"},
        "the kernel is transposed and turned: use it as it is.": {"(kernel)": "(kernel.T.flip(0, 1))"},
        "neighbouring weights lie one pixel apart, as at rate 1: they are to be `rate` pixels "
        "apart.": lambda x, kernel, rate: _atrous_conv(x, kernel, 1),
        "one too far: weights lie `rate` pixels apart, with rate - 1 zeros between them.": lambda x, kernel, rate: (
            _atrous_conv(x, kernel, rate + 1)
        ),
        _OFF.format("first"): {"(side,) * 4": "(0, 2 * side) * 2"},
        _OFF.format("last"): {"(side,) * 4": "(2 * side, 0) * 2"},
        "the padding is that of the rate, but the shifts are not: the copy of weight (u, v) is shifted by u * rate and "
        "v * rate.": {"u * rate": "u", "v * rate": "v"},
        "only the last weight is left: add what each weight gives to what is there (`+=`).": {"+=": "="},
        "the kernel's values are not used: multiply each copy by its weight.": {"weight * ": ""},
        "outside the image lie zeros; found pixels from inside it there.": [
            {"(side,) * 4": f"(side,) * 4, '{mode}'"} for mode in ("replicate", "circular", "reflect")
        ],
    },
)

# ------------------------------------------------------------------ looked_at


def _looked_at(network: nn.Module, images: Tensor) -> Tensor:
    """network, images (B, C, H, W) -> (H, W): how much the winning score in the middle depends on each pixel."""
    x = images.clone().requires_grad_()
    logits = network(x)
    row, column = (side // 2 for side in logits.shape[2:])
    scores = logits[..., row, column].amax(1)
    return torch.autograd.grad(scores.sum(), x)[0].abs().sum((0, 1))


def _look_cases() -> Iterable[Case]:
    """Two channels in and three classes; the sign of the weights differs."""
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)).eval()
    for side in ((9, 12), (11, 10)):
        yield Case((network, torch.randn(2, 2, *side)), f"for images of {side[0]}x{side[1]}", "the map")


def _run_look(check: Check, answer: Callable, case: Case) -> Any:
    network, _ = case.args
    found = check.call(answer, *case.args, when=case.when)
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
        "the signs are kept, so that influences cancel: take abs() before adding up.": {".abs()": ""},
        "abs() comes too late: images and channels have cancelled each other by then, take it before the sum.": {
            ".abs().sum((0, 1))": ".sum((0, 1)).abs()"
        },
        "it is the mean over images and channels: add them up, sum((0, 1)).": {"sum((0, 1))": "mean((0, 1))"},
        "the gradient is squared: take abs().": {"abs()": "square()"},
        "all classes are added up: take the highest score, amax(1).": {".amax(1)": ""},
        "the score of class 0 is taken: take the highest one, amax(1).": {".amax(1)": "[:, 0]"},
        "one image counts: take the highest class of each, amax(1), and add up.": {"amax(1)": "amax()"},
        "a probability is taken: the score is the logit itself, before softmax.": {"amax(1)": "softmax(1).amax(1)"},
        "the whole map is taken: only its middle, [..., H // 2, W // 2].": {"[..., row, column]": ""},
        "the first position is taken: the middle is [..., H // 2, W // 2].": {"side // 2": "0"},
        "for even sizes it is one too early: the middle is H // 2, W // 2.": {"side // 2": "(side - 1) // 2"},
    },
)

# --------------------------------------------------------------------- dilate


def _dilate(stage: Any) -> nn.Module:
    """A ResNet's stage of stride 2 -> the same stage without it: 3x3 convolutions behind the stride at rate 2."""
    behind = False
    for conv in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
        if conv.kernel_size == (3, 3):
            rate = 2 if behind else 1
            conv.dilation = conv.padding = (rate, rate)
            behind = behind or conv.stride == (2, 2)
        conv.stride = (1, 1)
    return stage


def _resnets(when: str, what: str = "") -> list[Case]:
    """A case each for the names of a ResNet of basic blocks and of one of bottlenecks."""
    return [Case((f"resnet{depth}",), f"{when} ResNet-{depth}", what) for depth in (18, 50)]


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
    cases=lambda: _resnets("for a stage of", "what the stage gives"),
    run=_run_dilate,
    tolerance=rounding,
    errors={
        "must match the size": "the two ways through a block give maps of different sizes: the 1x1 convolution beside "
        "gives up its stride too, and padding must equal the rate.",
        "Kernel size can't be greater": "the map shrinks: padding must equal the rate.",
    },
    wrong={
        "the convolution that gives up its stride has rate 2 as well: "
        "it still reads the map that it read before, so it keeps rate 1.": {"else 1": "else 2"},
        "no convolution has rate 2: what stands behind the stride now meets a map twice as fine, "
        "and must reach twice as far.": {"2 if behind": "1 if behind"},
        "the first block keeps rate 1 throughout: of ResNet-18's, the second 3x3 convolution already stands behind the "
        "stride.": {"if behind": "if behind and conv not in stage[0].modules()"},
        "the rate behind the stride is 4: one stride of 2 is gone, so the rate is 2.": {"2 if behind": "4 if behind"},
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
_SIZE = f"{_MAP[0]}x{_MAP[1]}"
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
    given = f"{prefix}atrous_convs has {len(branches)} branches, expected {len(rates)} for the rates {rates}"
    by_hand = ": are the rates written by hand? Make one for each of `rates`" if len(branches) == len(_BY_HAND) else ""
    check.that(len(branches) == len(rates), f"{given}{by_hand}.")
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
    """Channels, kernels and rates of what `_aspp_layers` found, which comes first in `layers`."""
    n = 2 + len(rates)
    *branches, last = list(layers)[: n + 1]
    chained = "is it chained behind another branch? Every branch takes x itself"
    for name in branches:
        kernel = 3 if "atrous" in name else 1
        check_conv(check, layers[name].conv, name, (in_channels, out_channels), kernel, {out_channels: chained})
    found = [layers[name].conv.dilation[0] for name in branches[1:-1]]
    wrong = f"the branches of atrous_convs have the rates {found}, expected {list(rates)}"
    if set(found) == {1}:
        wrong += ": dilation is missing, dilation=rate (and padding=rate)"
    elif tuple(found) == _BY_HAND[: len(found)]:
        wrong += ": they are written by hand, take them from `rates`"
    elif sorted(found) == sorted(rates):
        wrong += ": keep the order they are given in"
    check.that(found == list(rates), f"{wrong}.")
    known = {
        out_channels: "are the branches added? They are concatenated",
        (n - 1) * out_channels: f"one of the {n} branches is forgotten (1x1, one for each rate, pooling)",
        len(rates) * out_channels: "conv1 and the pooling branch count too",
        5 * out_channels: f"5 branches are written by hand, here are {n}: (2 + len(rates)) * out_channels",
        in_channels: "it takes the concatenated branches, not x",
    }
    check_conv(check, layers[last].conv, last, (n * out_channels, out_channels), 1, known)


def _same_weights(right: Layers, layers: Layers) -> dict[str, Tensor]:
    """The reference's layers get random scales and shifts, the student's the same weights; the student's, by name."""
    for own, other in zip(right.values(), layers.values(), strict=True):  # in the same order
        own.vary()
        own.copy_to(other)
    return {name: layer.conv.weight for name, layer in layers.items()}


def _inspect_aspp(check: Check, answer: Callable) -> None:
    """Layers, their sizes, dropout, and the size of each atrous branch."""
    for arguments in _ASPP_CASES:
        model: Any = make(check, answer, *arguments)
        layers = _aspp_layers(check, model, arguments[-1])
        _check_aspp_sizes(check, layers, *arguments)
        found = [m for m in model.modules() if isinstance(m, _DROPOUTS)]
        check.that(bool(found), "it has no layer nn.Dropout: conv_out ends with nn.Dropout(0.1).")
        check.that(len(found) == 1, f"there are {len(found)} dropouts: only conv_out has one, behind its ReLU.")
        kind = type(found[0]).__name__
        check.that(isinstance(found[0], nn.Dropout), f"it has {kind}: expected nn.Dropout, which drops single values.")
        check.that(found[0].p == 0.1, f"the dropout has p={found[0].p:g}, expected 0.1.")
        for name, branch in zip(list(layers)[1:-2], model.atrous_convs, strict=True):
            given = check.call(branch, torch.randn(_BATCH, arguments[0], *_MAP), when=f"in {name}")
            check.that(isinstance(given, Tensor), f"{name} gives {kind_of(given)}, expected a torch tensor.")
            size, conv = "x".join(map(str, given.shape[-2:])), layers[name].conv
            padding = f"is padding equal to the rate? Its padding is {conv.padding}, its dilation {conv.dilation}."
            check.that(size == _SIZE, f"your branch {name} is {size}, expected {_SIZE}: {padding}")


def _run_aspp(check: Check, answer: Callable, case: Case) -> Parts:
    """The same weights in: what conv_out is given of each branch, the result, in training mode too."""
    in_channels, out_channels, rates = case.args
    model = make(check, answer, *case.args)
    torch.default_generator.manual_seed(0)  # whatever the student's layers have drawn
    x = torch.randn(_BATCH, in_channels, *_MAP)
    right: Any = calibrated(models.ASPP(*case.args), x)
    layers = _aspp_layers(Check(), model, rates)
    weights = _same_weights(_aspp_layers(Check(), right, rates), layers)
    found, (seen,) = run_watched(check, model, [layers["conv_out"].conv], x, when="in forward")
    check.that(isinstance(found, Tensor), f"forward returns {kind_of(found)}, expected one tensor.")
    shape, expected = tuple(found.shape), (_BATCH, out_channels, *_MAP)
    unmixed = ": is conv_out left out?" if shape[1:2] == ((2 + len(rates)) * out_channels,) else "."
    check.that(shape == expected, f"forward gives shape {shape} for x {tuple(x.shape)}, expected {expected}{unmixed}")
    unused = "{} gets no gradient: forward does not use it, or its result is not concatenated."
    check_gradients(check, model, found, weights, unused)
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


def _rewired(network: type, layers: Mapping[str, list[str]], parts: str = "{}") -> dict[str, Any]:
    """Wrong answers for the hints in `ORDERS`: layers with convolution, batch norm and ReLU in another order.

    `layers` has the places in the network by the name in hints, those of one answer in one string; `parts` is all that
    the layers have, with a place for the three.
    """

    def wrong(places: str, order: str) -> type:
        change = partial(Rewired, order=parts.format(order))
        return reduce(lambda answer, place: replaced(answer, place, change), places.split(), network)

    return {
        hint.format(name): [wrong(places, order) for places in answers]
        for name, answers in layers.items()
        for order, hint in ORDERS.items()
    }


_VIEWS = {  # parts of what `ASPP.branches` gives, by their names
    "conv1": "[:1]",
    "atrous_convs[0], atrous_convs[1], atrous_convs[2]": "[1:-1]",
    "atrous_convs[2], atrous_convs[1], atrous_convs[0]": "[-2:0:-1]",
    "global_avg_pool": "[-1:]",
}
_ORDER, *_OTHER_ORDERS = (order for order in permutations(_VIEWS, 3) if {"conv1", "global_avg_pool"} < set(order))
_POOL = "nn.AdaptiveAvgPool2d(1)"
_CAT = "torch.cat([...], 1) puts all branches side by side as channels"
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
        "Sizes of tensors must match": f"the branches differ in size, each is to be {_SIZE} as x is: 1x1 convolutions "
        "have no padding, the pooling branch is enlarged to x.shape[-2:], height first.",
        "but got 4 channels": f"conv_out gets 4 channels, those of one branch: are the branches added? {_CAT}.",
        **{
            f"but got {4 * m} channels": f"conv_out gets {4 * m} channels, those of {m} of the 5 branches: {_CAT}, "
            "1x1, the rates in order, pooling."
            for m in (2, 3, 4)
        },
    },
    wrong={
        **{
            f"the parts are concatenated in the order {', '.join(order)}; expected {', '.join(_ORDER)}.": {
                "self.branches(x)": " + ".join(f"self.branches(x){_VIEWS[view]}" for view in order)
            }
            for order in _OTHER_ORDERS
        },
        "global_avg_pool takes the maximum over the map: take the mean.": {_POOL: "nn.AdaptiveMaxPool2d(1)"},
        "global_avg_pool takes the sum over the map: take the mean.": {_POOL: f"nn.LPPool2d(1, {_MAP})"},
        "global_avg_pool does not pool: it takes the mean first, nn.AdaptiveAvgPool2d(1).": {_POOL: "nn.Identity()"},
        "global_avg_pool pools last: the mean over the map comes before the convolution.": [
            replaced(models.ASPP, "global_avg_pool", partial(Rewired, order=order)) for order in ("cnrp", "cnpr")
        ],
        **_rewired(models.ASPP, {"conv1": ["conv1"]} | {f"atrous_convs[{i}]": [f"atrous_convs.{i}"] for i in range(4)}),
        **_rewired(models.ASPP, {"global_avg_pool": ["global_avg_pool"]}, "p{}"),
        **_rewired(models.ASPP, {"conv_out": ["conv_out"]}, "{}d"),
    },
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
_EXCHANGED = "in_channels and low_level_channels are exchanged"
_PROJECTED = 48
_IN, _LOW = 10, 7  # channels of the last and of the low-level features
_HEAD_CASES = [  # arguments, size of the features, of the low-level ones
    Case(((_IN, 5, (1, 2, 3), 6), (4, 6), ()), "for features 4x6"),
    Case(((_IN, 3, (2, 1), 4), (5, 7), ()), "for features 5x7"),
]
_PLUS_CASES = [
    Case(((_IN, _LOW, 5, (1, 2, 3), 6), (4, 6), (16, 24)), "for low-level features 16x24, features 4x6"),
    Case(((_IN, _LOW, 3, (2, 1), 4), (5, 7), (17, 25)), "for low-level features 17x25, features 5x7"),
]


def _convs(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def _head_layers(check: Check, model: Any, arguments: tuple, exchanged: str = _EXCHANGED) -> Layers:
    """Every convolution with batch norm, by the name a hint gives it, those of aspp, of the right sizes, first."""
    *_, rates, channels = arguments
    plus = len(arguments) == 5
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
    convs = _convs(model.classifier)
    check.that(len(convs) == 1, f"classifier holds {len(convs) or 'no'} convolutions, expected one.")
    norm = next((type(m).__name__ for m in model.classifier.modules() if isinstance(m, _NORMS)), "")
    check.that(not norm, f"classifier holds {norm}: class scores come from the convolution alone.")
    check.that(convs[0].bias is not None, "the classifier has no bias: no batch norm follows that would replace it.")
    check_conv(check, layers["aspp.conv1"].conv, "aspp.conv1", (_IN, channels), 1, {_LOW: exchanged})
    _check_aspp_sizes(check, layers, _IN, channels, rates)
    return layers


def _inspect_head(check: Check, answer: Callable, cases: list[Case] = _HEAD_CASES) -> None:
    """Channels and kernels of the layers, and that only ASPP has a dropout."""
    for arguments in (case.args[0] for case in cases):
        *_, num_classes, _, channels = arguments
        both = channels + _PROJECTED
        model: Any = make(check, answer, *arguments)
        layers = _head_layers(check, model, arguments)
        if cases is _HEAD_CASES:
            check_conv(check, layers["refine"].conv, "refine", (channels, channels), 3)
        else:
            few = "the low-level features are projected to few channels, 48, so that they do not outweigh the rest"
            known = dict.fromkeys((_LOW, channels, 256, 64, 32), few) | {_IN: _EXCHANGED}
            check_conv(check, layers["project"].conv, "project", (_LOW, _PROJECTED), 1, known)
            known = {
                channels: "are the two parts added instead of concatenated, or is one refined before",
                channels + _LOW: "are the low-level features concatenated without being projected",
                2 * channels: "are the projected features taken to have as many channels as the others",
            }
            known = {number: f"{hint}? It takes both, channels + {_PROJECTED}" for number, hint in known.items()}
            first, second = (f"the {place} convolution of refine" for place in ("first", "second"))
            check_conv(check, layers["refine, first"].conv, first, (both, channels), 3, known)
            check_conv(check, layers["refine, second"].conv, second, (channels, channels), 3)
        known = {both: "refine comes between concatenation and classifier, and gives `channels`"}
        known[21] = "21 is written by hand, use num_classes"
        check_conv(check, _convs(model.classifier)[0], "classifier", (channels, num_classes), 1, known)
        inside = set(model.aspp.modules())
        others = [type(m).__name__ for m in model.modules() if isinstance(m, _DROPOUTS) and m not in inside]
        outside = f"there is a dropout outside aspp ({', '.join(others)}): leave it out, ASPP has one already."
        check.that(not others, outside)


def _same_head(right: Any, head: Any, arguments: tuple) -> dict[str, Tensor]:
    """As `_same_weights`, for the heads themselves, which have these arguments."""
    weights = _same_weights(*(_head_layers(Check(), model, arguments) for model in (right, head)))
    (classifier,) = _convs(head.classifier)
    classifier.load_state_dict(right.classifier.state_dict())
    return weights | {"classifier": classifier.weight}


def _run_head(check: Check, answer: Callable, case: Case) -> Parts:
    """The same weights in: ASPP's result, what refine is given, the logits, in training mode too."""
    arguments, size, low_size = case.args
    *_, num_classes, _, channels = arguments
    model: Any = make(check, answer, *arguments)
    torch.default_generator.manual_seed(0)  # whatever the student's layers have drawn
    features = torch.randn(_BATCH, _IN, *size)
    inputs = [torch.randn(_BATCH, _LOW, *low_size), features] if low_size else [features]
    right: Any = calibrated((models.DeepLabHeadPlus if low_size else models.DeepLabHead)(*arguments), *inputs)
    weights = _same_head(right, model, arguments)
    logits, (seen,) = run_watched(check, model, _convs(model.refine)[:1], *inputs, when=f"in forward {case.when}")
    check.that(isinstance(logits, Tensor), f"forward returns {kind_of(logits)}, expected the logits, one tensor.")
    expected = (_BATCH, num_classes, *(low_size or size))
    shape = f"forward gives shape {tuple(logits.shape)} {case.when}, expected {expected}"
    check.that(logits.shape == expected, f"{shape}{_shape_hint(logits.shape, expected, size)}.")
    unused = "{} gets no gradient: forward does not use it, or its result does not reach the logits."
    check_gradients(check, model, logits, weights, unused)
    if seen is None:  # the student's code runs refine's convolution in a way of its own
        _, (seen,) = run_watched(check, right, _convs(right.refine)[:1], *inputs, when="")
    assert seen is not None
    names = ["the enlarged ASPP", "the projected low-level features"] if low_size else ["ASPP"]
    given = zip(names, seen.tensor_split([channels], 1), strict=False)
    with torch.no_grad():
        own = check.call(model.aspp, features, when="in aspp")
        for module in model.train().modules():
            if isinstance(module, _DROPOUTS):
                module.p = 0.0
        trained = check.call(model, *inputs, when="in training mode")
    others = "is there another dropout or norm, or an eval()?"
    return Parts(
        {"the result of self.aspp (has ASPP passed its own check?)": own}
        | {f"what refine is given of {name}": part for name, part in given}
        | {f"the logits {case.when}": logits.detach()}
        | {f"in training mode, with ASPP's dropout off ({others}), the result": trained}
    )


def _shape_hint(found: torch.Size, expected: tuple[int, ...], coarse: tuple[int, int]) -> str:
    """Why the logits of a head do not have the expected shape; `coarse` is the size of its features."""
    v3 = expected[2:] == coarse
    size = found[2:] if len(found) == 4 else (0, 0)
    lost, lost_width = (side - own for side, own in zip(expected[2:], size, strict=True))
    reasons = {
        "logits keep one channel for each class, leave the argmax out": len(found) == 3,
        "the head leaves the logits at the features' size, the network enlarges them to the image's": lost < 0 and v3,
        "the low-level features are shrunk, which loses their edges. Enlarge the ASPP's result instead": size == coarse,
        "do the 3x3 convolutions of refine lack padding=1?": 0 < lost == lost_width <= 4,
        "the logits stay at the low-level features' size, the model enlarges them to the image's": lost < 0,
    }
    return next((f": {reason}" for reason, holds in reasons.items() if holds), "")


_JOINED = f"refine takes 6 + {_PROJECTED} channels, the enlarged ASPP and the projected features concatenated"
_BILINEAR = 'mode="bilinear", align_corners=False'

deeplab_head = Exercise(
    "DeepLabHead",
    models.DeepLabHead,
    cases=lambda: _HEAD_CASES,
    inspect=_inspect_head,
    run=_run_head,
    tolerance=rounding,
    wrong={
        **activated(models.DeepLabHead),
        **_rewired(models.DeepLabHead, {"refine": ["refine"]}),
    },
)

deeplab_head_plus = Exercise(
    "DeepLabHeadPlus",
    models.DeepLabHeadPlus,
    cases=lambda: _PLUS_CASES,
    inspect=partial(_inspect_head, cases=_PLUS_CASES),
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
    wrong={
        "the parts are concatenated in the order the projected low-level features, the enlarged ASPP: exchange them.": {
            "[x, self.project(low_level)]": "[self.project(low_level), x]"
        },
        "the enlargement has align_corners=True: leave it at False, as in DeepLab, or the grids drift apart.": {
            "align_corners=False": "align_corners=True"
        },
        'the enlargement takes the nearest value, as interpolate does by default: pass mode="bilinear".': [
            {_BILINEAR: 'mode="nearest"'},
            {_BILINEAR: 'mode="nearest-exact"'},
        ],
        'the enlargement is bicubic: pass mode="bilinear".': {_BILINEAR: 'mode="bicubic"'},
        "the features are enlarged before ASPP: enlarge what ASPP gives, its rates count in the coarse grid.": {
            "F.interpolate(self.aspp(features)": "self.aspp(F.interpolate(features",
            _BILINEAR: f"{_BILINEAR})",
        },
        "the two parts differ in size: enlarge the ASPP's result to the low-level features' size 17x25 with "
        "size=low_level.shape[-2:]; scale_factor=4 misses it, since strides round "
        "up.": {"low_level.shape[-2:]": "scale_factor=4"},
        "it enlarges 4 times and crops: use size=low_level.shape[-2:], which fits any size.": {
            "low_level.shape[-2:]": "scale_factor=4",
            "cat([x,": "cat([x[..., : low_level.shape[2], : low_level.shape[3]],",
        },
        **_rewired(models.DeepLabHeadPlus, {"project": ["project"]}),
        **activated(models.DeepLabHeadPlus),
        **_rewired(models.DeepLabHeadPlus, {"refine": ["refine.0", "refine.1", "refine.0 refine.1"]}),
    },
)

# -------------------------------------------------------------- deeplab_v3plus

_IMAGE = (49, 66)


class _Encoder(nn.Module):
    """Features of strides 4, 8, 16 and 16, or only the first and the last, made by a mean and a 1x1 convolution."""

    def __init__(self, count: int) -> None:
        super().__init__()
        every = 1 if count == 4 else 3
        self.strides, self.channels = (4, 8, 16, 16)[::every], (_LOW, 6, 8, _IN)[::every]
        convs = [nn.Conv2d(3, channels, 1) for channels in self.channels]
        means = [nn.AvgPool2d(stride, ceil_mode=True) for stride in self.strides]
        self.stages = nn.ModuleList(map(nn.Sequential, means, convs))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [stage(images) for stage in self.stages]


def _run_network(check: Check, answer: Callable, case: Case) -> Any:
    """The logits for images whose sides no stride divides, the same weights in."""
    count, *arguments = case.args
    encoder, head = _Encoder(count), (_IN, _LOW, *arguments)
    model: Any = make(check, answer, encoder, *arguments)
    torch.default_generator.manual_seed(0)  # whatever the student's layers have drawn
    images = torch.randn(_BATCH, 3, *_IMAGE)
    right: Any = calibrated(models.DeepLabV3Plus(encoder, *arguments), images)  # type: ignore[arg-type]
    found = getattr(model, "encoder", None)
    check.that(found is encoder, "self.encoder is not the encoder that it is given: self.encoder = encoder.")
    check.that(isinstance(getattr(model, "head", None), nn.Module), "it has no `self.head`, a DeepLabHeadPlus.")
    exchanged = "channels[0] and channels[-1] are exchanged: those of the last features come first"
    _head_layers(check, model.head, head, exchanged)
    _same_head(right.head, model.head, head)
    logits = check.call(model, images, when=case.when)
    check.that(isinstance(logits, Tensor), f"forward returns {kind_of(logits)}, expected the logits, one tensor.")
    expected = (_BATCH, arguments[0], *_IMAGE)
    why = ": enlarge the logits to images.shape[-2:]; scale_factor=4 misses sizes that 4 does not divide"
    check.that(logits.shape == expected, f"forward gives shape {tuple(logits.shape)}, expected {expected}{why}.")
    return logits.detach()


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
        "index out of range": "an encoder may have fewer than four features (section 6 cuts one): take the first and "
        "the last, [0] and [-1].",
    },
    wrong={
        'the logits are enlarged by the nearest value: pass mode="bilinear".': {_BILINEAR: 'mode="nearest"'},
        "the enlargement has align_corners=True: leave it at False.": {"align_corners=False": "align_corners=True"},
        **activated(models.DeepLabV3Plus),
    },
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
    kept, front, behind = (
        {parameter for part in parts for parameter in part.parameters()}
        for parts in ([model], [encoder.conv1, encoder.layer1, encoder.layer2], [encoder.layer3, encoder.layer4])
    )
    whole = (
        "it still holds the third or fourth stage, whose weights would be stored and counted: keep the parts in front."
    )
    check.that(not kept & behind, whole)
    lost = "weights of the front part are missing: assign the encoder's own modules to attributes of self."
    check.that(front <= kept, lost)
    features = check.call(model, images, when=case.when)
    listed = isinstance(features, (list, tuple)) and len(features) == 2
    check.that(listed, f"forward returns {kind_of(features)}: return the list [stride 4, stride 8].")
    first, second = features
    return Parts({"the features of stride 4": first, "the features of stride 8": second})


_RETURNED = "[low_level, self.layer2(low_level)]"

cut_encoder = Exercise(
    "CutEncoder",
    models.CutEncoder,
    cases=lambda: _resnets("for"),
    run=_run_cut,
    tolerance=rounding,
    wrong={
        "the max pooling is left out: the stem is conv1, bn1, relu, maxpool.": {", encoder.maxpool": ""},
        "the batch norm of the stem is left out: conv1, bn1, relu, maxpool.": {", encoder.bn1": ""},
        "the ReLU of the stem is left out: conv1, bn1, relu, maxpool.": {", encoder.relu": ""},
        "the two are in the wrong order: stride 4 first, then stride 8.": {_RETURNED: f"{_RETURNED}[::-1]"},
        "these are the stem's and the first stage's features: return those of layer1 and layer2.": {
            _RETURNED: "[self.stem(images), low_level]"
        },
    },
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
        "the rate falls at each step: `//` counts the whole intervals that are over.": {"//": "/"},
        "it falls one step early: steps count from 0, so the first interval ends before step `every`.": {
            "step //": "(step + 1) //"
        },
        "it begins with lr * gamma: the first interval has lr itself.": {"step // every": "step // every + 1"},
        "it multiplies by the number of intervals: gamma is raised to it, gamma ** (step // every).": {"**": "*"},
        "it falls once: after each interval it is multiplied again, gamma ** (step // every).": {"//": ">="},
        "lr is raised to the power, too: lr * gamma ** (step // every).": {"lr * gamma": "(lr * gamma)"},
        "lr is left out: this is the factor it is multiplied by.": {"lr * ": ""},
        "0.1 is written by hand: use `gamma`.": {"lr * gamma": "lr * 0.1"},
        "the rate rises: multiply by gamma, which is below 1.": {"lr * gamma": "lr / gamma"},
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
        "the rate rises: 1 - step / steps is what is left of training.": {"1 - step": "step"},
        "the power is left out: (1 - step / steps) ** power.": {" ** power": ""},
        "`//` rounds step / steps down to 0, so the rate never falls: divide with `/`.": {"/ steps": "// steps"},
        "the exponent is on step / steps alone: it belongs on the whole bracket, (1 - step / steps) ** power.": {
            "step / steps) ** power": "(step / steps) ** power)"
        },
        "lr is raised to the power, too: lr * (...) ** power, the power binds first.": {
            "lr * (1 - step / steps)": "(lr * (1 - step / steps))"
        },
        "the denominator is steps - 1, so the last step has rate 0 and teaches nothing: divide by steps.": {
            "/ steps": "/ (steps - 1)"
        },
        "it is one step ahead: steps count from 0, and the first has the full rate.": {"step /": "(step + 1) /"},
        "`**` binds before `/` and `-`: put the bracket around 1 - step / steps, (1 - step / steps) ** power.": {
            "steps) ** power": "steps**power)"
        },
        "the exponent is 1 / power: it is power.": {"** power": "** (1 / power)"},
        "the default of power is 0.9, as in the signature.": {"power: float = 0.9": "power: float = 1.0"},
        "lr is left out: this is the factor it is multiplied by.": {"lr * ": ""},
        "it multiplies by power: `**` raises to it.": {"**": "*"},
        "0.9 is written by hand: use `power`.": {"** power": "** 0.9"},
    },
)

# ----------------------------------------------------------------- focal_loss


def _focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, ignore_index: int = 255) -> Tensor:
    """Mean of (1 - p_t)^gamma (-log p_t) over the valid pixels; logits (B, K, H, W), target (B, H, W) int64."""
    valid = target != ignore_index
    index = torch.where(valid, target, 0)[:, None]
    p_t = logits.softmax(1).gather(1, index)[:, 0]
    log_p = logits.log_softmax(1).gather(1, index)[:, 0]
    weight = (1 - p_t) ** gamma
    losses = -weight * log_p
    return losses[valid].sum() / valid.sum().clamp_min(1)


def _averaged_first(logits: Tensor, target: Tensor, gamma: float = 2.0, ignore_index: int = 255) -> Tensor:
    nll = F.cross_entropy(logits, target, ignore_index=ignore_index)
    return (1 - torch.exp(-nll)) ** gamma * nll


_K = 4  # classes
_EXACT = "softmax gives 0 for very wrong pixels: take log_softmax, or cross_entropy, for log p_t"


def _focal_cases() -> Iterable[Case]:
    """Uneven void, another gamma, another void; very wrong pixels; a batch of void alone."""
    logits = (2 * torch.randn(2, _K, 5, 6)).requires_grad_()
    target = torch.randint(0, _K, (2, 5, 6))
    target[0, :3], target[1, 4] = 255, 255
    yield Case((logits, target), what="the loss")
    for gamma in (1.5, 0.0):
        yield Case((logits, target), f"for gamma={gamma:g}", "the loss", {"gamma": gamma})
    yield Case((logits, torch.where(target == 255, 0, target)), "for ignore_index=1", "the loss", {"ignore_index": 1})
    extreme = torch.tensor([[200.0, -200.0, 0.0, 0.0]])[..., None, None].expand(1, _K, 2, 2)
    ones = torch.ones(1, 2, 2, dtype=torch.int64)
    yield Case((extreme, ones), "for logits of 200 and -200", "the loss", remedy=_EXACT)
    yield Case((logits, torch.full_like(target, 255)))


_MEAN = "divide the sum by the number of valid pixels"
_OF_VALID = "losses[valid].sum() / valid.sum().clamp_min(1)"
_FIXED = "the value is right, but p_t in the {} is detached, so the gradient lacks that part: leave out detach()."
_AXES = "the softmax runs over the wrong axis: over the classes, dim=1 of (B, K, H, W)."
_ONLY_WEIGHT = "the weight is wrong, {}: the weight needs the same p_t as the logarithm, softmax over the classes."
_HIGHEST = {"logits.softmax(1).gather(1, index)[:, 0]": "logits.softmax(1).amax(1)"}
_SIGMOID = {"logits.softmax(1)": "logits.sigmoid()"}
_TWICE = {"logits.softmax(1)": "logits.softmax(1).softmax(1)"}
_OTHER_AXES = [{"logits.softmax(1)": f"logits.softmax({axis})"} for axis in (0, 2, 3)]
_ITS_LOG = {"* log_p": "* p_t.log()"}
_VOID = "void pixels are counted as"

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
    wrong={
        f"the logarithm is that of a softmax: {_EXACT}.": _ITS_LOG,
        f"void pixels are counted in the mean, as zeros: {_MEAN}.": {_OF_VALID: "(losses * valid).mean()"},
        f"{_VOID} background: mask them, and {_MEAN}.": [{"losses[valid]": "losses"}, {_OF_VALID: "losses.mean()"}],
        f"it is the sum over pixels: {_MEAN}.": {_OF_VALID: "losses[valid].sum()"},
        f"it is averaged within each image first, though void is uneven: {_MEAN} of the batch.": {
            _OF_VALID: "((losses * valid).sum((1, 2)) / valid.sum((1, 2))).mean()"
        },
        f"it is divided by the sum of the weights, which takes their effect away: {_MEAN}.": {
            "valid.sum()": "weight[valid].sum()"
        },
        f"{_VOID} the last class: mask them, and {_MEAN}.": {
            "target, 0)": f"target, {_K - 1})",
            _OF_VALID: "losses.mean()",
        },
        "the sign is wrong: log p_t is negative, the loss is its weight times -log p_t.": {"-weight": "weight"},
        "the weight p_t ** gamma favours easy pixels: (1 - p_t) ** gamma.": {"(1 - p_t)": "p_t"},
        "it multiplies by gamma: 1 - p_t is raised to it, (1 - p_t) ** gamma.": {"**": "*"},
        "the exponent is on p_t alone: put 1 - p_t in a bracket, (1 - p_t) ** gamma.": {"(1 - p_t) **": "1 - p_t **"},
        "gamma is not used: (1 - p_t) ** gamma.": {"** gamma": "** 2"},
        "the weight is missing, this is cross-entropy: times (1 - p_t) ** gamma.": {"-weight * log_p": "-log_p"},
        "there is a factor of 0.25, the paper's alpha: leave it out, it would only scale the loss.": {
            "-weight": "-0.25 * weight"
        },
        "the weight is e^(gamma (1 - p_t)): a power of 1 - p_t is asked for, (1 - p_t) ** gamma.": {
            "(1 - p_t) ** gamma": "torch.exp(gamma * (1 - p_t))"
        },
        _FIXED.format("weight"): {"1 - p_t": "1 - p_t.detach()"},
        "the logarithm is missing: the weight is multiplied by -log p_t.": {"-weight * log_p": "weight"},
        _FIXED.format("logarithm"): {"* log_p": "* log_p.detach()"},
        "p_t is the highest probability: take that of the target's class.": _HIGHEST | _ITS_LOG,
        "it uses sigmoid: classes exclude each other, softmax.": _SIGMOID | _ITS_LOG,
        "softmax is taken twice: once.": _TWICE | _ITS_LOG,
        _AXES: [axis | _ITS_LOG for axis in _OTHER_AXES],
        _ONLY_WEIGHT.format("it has the highest probability"): _HIGHEST,
        _ONLY_WEIGHT.format("its p_t comes from a sigmoid"): _SIGMOID,
        _ONLY_WEIGHT.format("its softmax is taken twice"): _TWICE,
        _ONLY_WEIGHT.format("its softmax runs over another axis"): _OTHER_AXES,
        'the cross-entropy is averaged too early: reduction="none" gives that of each pixel.': _averaged_first,
        "ignore_index is not used: is 255 written by hand?": {"!= ignore_index": "!= 255"},
        NO_GRADIENT: {"losses[valid]": "losses[valid].detach()"},
    },
)

# ------------------------------------------------------------------- own_loss


def _own_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One loss of many: cross-entropy, a mean over the pixels that are not void."""
    return _focal_loss(logits, target, gamma=0.0)


_VOID_COUNTS = (
    "void pixels (255) count: the loss changes with their logits. Leave them out, and divide by the number of the "
    "others."
)


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
    scalar = isinstance(loss, Tensor) and loss.ndim == 0
    hint = difference(loss, loss.detach() if scalar else torch.zeros(()), "the loss")
    check.that(not hint, hint)
    check.that(gradient is not None, NO_GRADIENT)
    infinite = (
        f"the loss is {loss:.4g}, or its gradient is not finite: is a logarithm taken of a softmax, or divided by 0?"
    )
    check.that(bool(loss.isfinite()) and bool(gradient.isfinite().all()), infinite)
    moved, _ = run_loss(check, answer, logits + 3 * torch.randn_like(logits) * ~valid, target)
    check.that(torch.allclose(moved, loss, rtol=1e-4), _VOID_COUNTS)
    sure, unsure, wrong = (
        run_loss(check, answer, (factor * right).requires_grad_(), target)[0] for factor in (8.0, 0.0, -8.0)
    )
    values = f"right, unsure and wrong logits cost {sure:.3g}, {unsure:.3g} and {wrong:.3g}"
    check.that(bool(sure < unsure < wrong), f"a better answer must cost less: {values}; is the sign wrong?")
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
    wrong={
        _VOID_COUNTS: {"logits, target, gamma": "logits, torch.where(target == 255, 0, target), gamma"},
        NO_GRADIENT: {"gamma=0.0)": "gamma=0.0).detach()"},
    },
)
