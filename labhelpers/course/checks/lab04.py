"""Checks of lab 04: sizes without padding, U-Net and its parts, losses and scores of two classes, training, tiles."""

import copy
import math
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers import models
from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, calls, kind_of, run_function
from labhelpers.course.checks.layers import (
    IN_PLACE,
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
    run_loss,
    run_loss_case,
    run_watched,
)
from labhelpers.evaluation import tiles
from labhelpers.evaluation.confusion import ConfusionMatrix
from labhelpers.models import unet as library
from labhelpers.training.losses import build_loss

# ---------------------------------------------------------- valid_output_size


def _valid_output_size(size: int) -> int:
    """Side of the map that the U-Net of 2015 makes of an image of this side, without padding: 572 -> 388.

    Raises:
        ValueError: a max-pool meets an odd side, or no pixel is left.
    """
    side = size
    for _ in range(4):
        side -= 4  # two 3x3 convolutions
        if side <= 0 or side % 2:
            raise ValueError(f"size={size}: a max-pool meets a side of {side}, which cannot be halved")
        side //= 2
    side -= 4
    for _ in range(4):
        side = 2 * side - 4
    if side <= 0:
        raise ValueError(f"size={size}: no pixel is left, the smallest size is 188")
    return side


def _size(halvings: int = 4, ups: int = 4, down: int = 4, bottom: int = 4, up: int = 4) -> Callable[[int], int]:
    """A wrong answer; down, bottom and up are the pixels that a level takes off."""

    def answer(size: int) -> int:
        for _ in range(halvings):
            size = (size - down) // 2
        size -= bottom
        for _ in range(ups):
            size = 2 * size - up
        return size

    return answer


_FITTING = (572, 188, 204, 700)


def _run_size(check: Check, answer: Callable, case: Case) -> Any:
    def without_error(size: int) -> Any:
        try:
            return answer(size)
        except (ValueError, AssertionError) as error:
            return error

    (size,) = case.args
    found = check.call(without_error, size, when=f"for {case.what}")
    if size in _FITTING:
        if isinstance(found, Exception):
            raise Mistake(
                f"{case.what} raises {type(found).__name__} ({found}), but this size halves four times: every level "
                "takes 4 pixels off before it is pooled, which leaves an even side each time."
            )
        return found
    if any(without_error(n) != _valid_output_size(n) for n in _FITTING):
        return Parts()  # what is wrong with the numbers comes first
    odd, nothing = "a max-pool meets an odd side", "no pixel is left on the way"
    why = f"{odd}: raise ValueError instead of rounding" if size > 188 else f"{nothing}: raise ValueError"
    if isinstance(found, AssertionError):
        found = "AssertionError, expected ValueError (`raise ValueError(...)` instead of `assert`)"
    check.that(isinstance(found, ValueError), f"{case.what} gives {found}: {why}.")
    return Parts()


valid_output_size = Exercise(
    "valid_output_size",
    _valid_output_size,
    cases=lambda: calls(
        "valid_output_size",
        *((size,) for size in (*_FITTING, 573, 574, 576, 580, 4, 20, 140, 172)),
    ),
    run=_run_size,
    wrong={
        (lambda n: n): "the output is as large as the input: without padding each 3x3 convolution takes 2 pixels off.",
        _size(down=2, bottom=2, up=2): "each level takes 2 pixels off: it has two 3x3 convolutions, so it takes 4.",
        _size(down=8, bottom=8, up=8): "each level takes 8 pixels off: a 3x3 convolution takes 1 off each side, so two "
        "take 4.",
        _size(ups=0): "this is the map at the bottom: go on with four up-convolutions.",
        _size(ups=0, bottom=0): "this is what the bottom is given: its two convolutions and the way up follow.",
        _size(up=0): "the convolutions on the way up are left out: two on each level.",
        _size(up=2): "a level on the way up has two convolutions, too, and takes 4 pixels off.",
        _size(down=0): "the convolutions on the way down are left out: two on each level.",
        _size(down=2): "a level on the way down has two convolutions, and takes 4 pixels off.",
        _size(bottom=0): "the two convolutions at the bottom, after the fourth pooling, are left out: 4 pixels more.",
        _size(bottom=2): "the bottom has two convolutions, too, and takes 4 pixels off.",
        _size(bottom=8): "the bottom has two convolutions, not four.",
        _size(halvings=3, ups=3): "it halves three times: the U-Net of the figure four times.",
        _size(halvings=5, ups=5): "it halves five times: the U-Net of the figure four times.",
        _size(up=5): "an up-convolution of 2x2 with stride 2 doubles the size exactly: nothing is taken off.",
        _size(ups=3): "it halves four times and doubles three times: as often as it halves.",
        (lambda n: 16 * _size(ups=0)(n) - 120): "on the way up the convolutions come after each doubling, not before.",
    },
)

# ---------------------------------------------------------------- double_conv

Change = Callable[[nn.Module], nn.Module]
_ACTIVATIONS = {nn.LeakyReLU: "leaky_relu", nn.ReLU6: "relu6", nn.GELU: "gelu", nn.SiLU: "silu", nn.ELU: "elu"}
_ACTIVATIONS |= {nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}


def _with_activation(kind: type[nn.Module], block: nn.Module) -> nn.Module:
    return nn.Sequential(*(kind() if isinstance(part, nn.ReLU) else part for part in block.children()))


_WRONG_DOUBLES: list[tuple[Change, str]] = [
    *((partial(Rewired, order=f"{order}CNR"), hint.format("{}, first half")) for order, hint in ORDERS.items()),
    *(
        (partial(Rewired, order=f"cnr{order.upper()}"), hint.format("{}, second half"))
        for order, hint in ORDERS.items()
    ),
    *(
        (partial(Rewired, order=order + order.upper()), hint.format("both halves of {}"))
        for order, hint in ORDERS.items()
    ),
    (partial(Rewired, order="cnr"), "the second half of {} is not used: convolution, batch norm, ReLU, twice."),
    (partial(Rewired, order="cnrCnR"), "{} uses the first batch norm twice: each convolution has its own."),
    *(
        (partial(_with_activation, kind), f"the activation in {{}} is {name}: the U-Net has ReLU.")
        for kind, name in _ACTIVATIONS.items()
    ),
]
"""What may be wrong in a double convolution; a hint has a place for the block's name."""


def _double_layers(
    check: Check, block: nn.Module, name: str, channels: tuple[int, int], known: dict[int, str] | None = None
) -> list[ConvNorm]:
    """The two convolutions of a block with their batch norms, checked for channels (in, out), kernel and padding."""
    pair = conv_norms(check, block, name, 2)
    first, second = (f"the {number} convolution of {name}" for number in ("first", "second"))
    check_conv(check, pair[0].conv, first, channels, 3, known)
    made = {channels[0]: "the first convolution has made out_channels of them"}
    check_conv(check, pair[1].conv, second, (channels[1], channels[1]), 3, made)
    for layer, words in zip(pair, (first, second), strict=True):
        conv = layer.conv
        found = f"found padding {conv.padding}, dilation {conv.dilation[0]}, padding_mode {conv.padding_mode!r}"
        plain = conv.padding in ((1, 1), "same") and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        check.that(plain, f"{words} is to keep the size, with padding=1 (zeros) and nothing else; {found}.")
    return pair


def _inspect_double(check: Check, answer: Callable) -> None:
    for channels in ((3, 5), (6, 4)):
        block = check.call(answer, *channels, when="while it is made")
        given = f"it returns {kind_of(block)}: return nn.Sequential(...) with the layers in their order."
        check.that(isinstance(block, nn.Sequential), given)
        for number, layer in enumerate(_double_layers(check, block, "the block", channels), 1):
            biased = f"convolution {number} has a bias, which the batch norm behind it takes off again: bias=False."
            check.that(layer.conv.bias is None, biased)


def _run_double(check: Check, answer: Callable, case: Case) -> Parts:
    """The same weights in: the output in both modes, and gradients."""
    x = torch.randn(2, case.args[0], 6, 7)
    pair = _double_layers(Check(), library.double_conv(*case.args), "", case.args)
    for layer in pair:
        layer.vary()
        layer.norm.weight.data.mul_(5)  # values beyond 6 tell ReLU from ReLU6
    block = check.call(answer, *case.args)
    own = _double_layers(Check(), block, "", case.args)
    for source, destination in zip(pair, own, strict=True):
        source.copy_to(destination)
    parts = Parts()
    for mode in ("evaluation", "training"):  # before training changes the statistics
        block.train(mode == "training")
        found = check.call(block, x, when=f"in {mode} mode")
        check.that(isinstance(found, Tensor), f"in {mode} mode the output is {kind_of(found)}, expected one tensor.")
        parts[f"in {mode} mode the output"] = found.detach()
    weights = {f"convolution {number}": layer.conv.weight for number, layer in enumerate(own, 1)}
    check_gradients(check, block, found, weights, "{} gets no gradient.")
    return parts


double_conv = Exercise(
    "double_conv",
    library.double_conv,
    cases=lambda: [Case((3, 5)), Case((6, 4))],
    inspect=_inspect_double,
    run=_run_double,
    tolerance=rounding,
    errors=IN_PLACE,
    wrong=[
        (lambda a, b, change=change: change(library.double_conv(a, b)), hint.format("the block"))
        for change, hint in _WRONG_DOUBLES
    ],
)

# ------------------------------------------------------------ pad_to_multiple


def _pad_to_multiple(images: Tensor, multiple: int = 16) -> Tensor:
    """images (B, C, H, W), the last row and column repeated until both sides are multiples."""
    return library.pad_to_multiple(images, multiple)


def _padded(amounts: Callable[[int, int], tuple[int, ...]], mode: str = "replicate") -> Callable[..., Tensor]:
    """Pads (left, right, top, bottom) by amounts from what is missing in (height, width)."""

    def answer(images: Tensor, multiple: int = 16) -> Tensor:
        missing = amounts(-images.shape[-2] % multiple, -images.shape[-1] % multiple)
        return F.pad(images, missing, mode=mode)

    return answer


def _one_more(images: Tensor, multiple: int = 16) -> Tensor:
    height, width = images.shape[-2:]
    return F.pad(images, (0, multiple - width % multiple, 0, multiple - height % multiple), mode="replicate")


def _square(images: Tensor, multiple: int = 16) -> Tensor:
    height, width = images.shape[-2:]
    side = max(height + -height % multiple, width + -width % multiple)
    return F.pad(images, (0, side - width, 0, side - height), mode="replicate")


def _cropped(images: Tensor, multiple: int = 16) -> Tensor:
    height, width = images.shape[-2:]
    return images[..., : height - height % multiple, : width - width % multiple]


def _resized(mode: str) -> Callable[..., Tensor]:
    def answer(images: Tensor, multiple: int = 16) -> Tensor:
        size = [side + -side % multiple for side in images.shape[-2:]]
        return F.interpolate(images, size, mode=mode)

    return answer


_SIDES = "F.pad takes (left, right, top, bottom)"
_WRONG_PADDING: list[tuple[Callable[..., Tensor], str]] = [
    (
        _one_more,
        "a side that fits gets one multiple more: -side % multiple is 0 there, multiple - side % multiple not.",
    ),
    (_padded(lambda h, w: (0, h, 0, w)), f"height and width are exchanged: {_SIDES}, the last axis first."),
    (lambda images, multiple=16: images.clone(), "nothing is padded: each side grows to the next multiple."),
    (_padded(lambda h, w: (w, 0, h, 0)), f"it pads at the left and at the top: at the right and the bottom; {_SIDES}."),
    (_padded(lambda h, w: (0, w, h, 0)), f"it pads at the top: at the bottom; {_SIDES}."),
    (_padded(lambda h, w: (w, 0, 0, h)), f"it pads at the left: at the right; {_SIDES}."),
    (
        _padded(lambda h, w: (w // 2, w - w // 2, h // 2, h - h // 2)),
        "it pads on all sides: at the right and at the bottom alone, so that [:height, :width] crops.",
    ),
    (
        _padded(lambda h, w: (0, w, 0, h), "constant"),
        'it pads with zeros: mode="replicate" repeats the last pixels.',
    ),
    *(
        (_padded(lambda h, w: (0, w, 0, h), mode), f'it pads with mode="{mode}": mode="replicate" is asked for.')
        for mode in ("reflect", "circular")
    ),
    (_square, "it makes a square: each side grows to its own next multiple."),
    (_cropped, "it crops: pad instead."),
    *(
        (_resized(mode), "it resizes, which changes every pixel: pad instead, and the image stays as it is.")
        for mode in ("bilinear", "nearest", "bicubic")
    ),
]


def _padding_cases() -> Iterable[Case]:
    """Sides below, above and at a multiple, which differ; a single pixel; the multiple's default."""
    for size, multiple in (((5, 9), 4), ((8, 12), 4), ((7, 6), 3), ((1, 1), 8), ((17, 20), None), ((16, 40), None)):
        images = torch.randn(2, 3, *size)
        when = f"for images of {size[0]}x{size[1]} pixels, multiple={multiple or 16}"
        yield Case((images, multiple) if multiple else (images,), when)


pad_to_multiple = Exercise(
    "pad_to_multiple",
    _pad_to_multiple,
    cases=_padding_cases,
    errors={"Unrecognised padding mode": 'torch calls it mode="replicate".'},
    wrong=[
        *_WRONG_PADDING,
        (lambda images, multiple=16: _pad_to_multiple(images), "`multiple` is not used: is 16 written by hand?"),
    ],
)

# ----------------------------------------------------------------------- unet

_LISTS = {
    "contracting": (5, "double convolutions, the first at full size, the last at the bottom"),
    "up": (4, "up-convolutions, the first at the bottom"),
    "expanding": (4, "double convolutions, the first just above the bottom, the last at full size"),
}


class _Layers(NamedTuple):
    """The layers with weights, by the names that hints give them."""

    blocks: dict[str, list[ConvNorm]]
    ups: dict[str, nn.ConvTranspose2d]
    score: nn.Conv2d

    def entrances(self) -> dict[str, Any]:
        """The layers that take what enters each part, in the order of the forward pass."""
        first: dict[str, Any] = {name: pair[0].conv for name, pair in self.blocks.items()} | self.ups
        return {name: first[name] for name in _ENTRANCES} | {"score": self.score}


_ENTRANCES = [
    *(f"contracting[{level}]" for level in range(5)),
    *(f"{part}[{place}]" for place in range(4) for part in ("up", "expanding")),
]


def _unet_layers(check: Check, model: nn.Module, num_classes: int, base: int) -> _Layers:
    parts = {name: _listed(check, model, name) for name in _LISTS}
    channels = [base * 2**level for level in range(5)]
    known = {64 * 2**level: f"the number is written by hand, use base_channels = {base}" for level in range(5)} | {
        base: "channels double with each level"
    }
    blocks, ups = {}, {}
    for level, block in enumerate(parts["contracting"]):
        name = f"contracting[{level}]"
        sides = (channels[level - 1] if level else 3, channels[level])
        blocks[name] = _double_layers(check, block, name, sides, known)
    for place, layer in enumerate(parts["up"]):
        ups[f"up[{place}]"] = _up_convolution(check, layer, f"up[{place}]", channels[4 - place], channels)
    for place, block in enumerate(parts["expanding"]):
        name, (width, wide) = f"expanding[{place}]", channels[3 - place : 5 - place]
        joined = {
            width: f"skip and enlarged map are concatenated, {width} + {width} channels, not added or left out",
            width + wide: f"the up-convolution halves the channels to {width}, so that it takes {width} + {width}",
        }
        first = {2 * base: "the list begins just above the bottom, not at full size"} if place == 0 else {}
        blocks[name] = _double_layers(check, block, name, (wide, width), known | first | joined)
    check_unshared({f"{name}, {i}": layer for name, pair in blocks.items() for i, layer in enumerate(pair)})
    score = _only(check, getattr(model, "score", None), nn.Conv2d, "score", "1x1 convolution to num_classes")
    double = {2 * base: "it comes after the last double convolution, which gives base_channels"}
    check_conv(check, score, "score", (base, num_classes), 1, known | double | {21: "21 is written by hand"})
    check.that(score.bias is not None, "score has no bias: no batch norm follows that would replace it.")
    return _Layers(blocks, ups, score)


def _listed(check: Check, model: nn.Module, name: str) -> list[nn.Module]:
    count, what = _LISTS[name]
    part: Any = getattr(model, name, None)
    check.that(part is not None, f"it has no `self.{name}`: an nn.ModuleList of {count} {what}.")
    hidden = "" if isinstance(part, nn.Module) else ", which hides its parameters from the optimizer"
    listed = isinstance(part, (nn.ModuleList, nn.Sequential))
    check.that(listed, f"{name} is {kind_of(part)}{hidden}: make it an nn.ModuleList.")
    check.that(len(part) == count, f"{name} holds {len(part)} modules, expected {count} {what}.")
    return list(part)


def _only(check: Check, module: Any, kind: type, name: str, what: str) -> Any:
    """The one layer of a kind in a student's module."""
    check.that(module is not None, f"it has no `self.{name}` ({what}).")
    check.that(isinstance(module, nn.Module), f"{name} is {kind_of(module)}, expected an nn.Module ({what}).")
    found = [m for m in module.modules() if isinstance(m, kind)]
    check.that(len(found) == 1, f"{name} holds {len(found) or 'no'} nn.{kind.__name__}, expected one ({what}).")
    return found[0]


def _up_convolution(check: Check, module: nn.Module, name: str, wide: int, channels: list[int]) -> nn.ConvTranspose2d:
    layer = _only(check, module, nn.ConvTranspose2d, name, "2x2 transposed convolution of stride 2")
    found, expected = (layer.in_channels, layer.out_channels), (wide, wide // 2)
    why = ""
    if name == "up[0]" and found in ((channels[1], channels[0]), (channels[1], channels[1])):
        why = ": the list begins at the bottom, not at full size"
    elif found == (wide, wide):
        why = ": an up-convolution halves the channels"
    elif found == expected[::-1]:
        why = ": channels in and out are exchanged"
    elif wide == channels[4] and layer.in_channels in (1024, 512):
        why = ": the number is written by hand, use base_channels"
    check.that(
        found == expected, f"{name} maps {found[0]} to {found[1]} channels, expected {wide} to {wide // 2}{why}."
    )
    plain = (layer.padding, layer.output_padding, layer.dilation, layer.groups) == ((0, 0), (0, 0), (1, 1), 1)
    check.that(
        (layer.kernel_size, layer.stride) == ((2, 2), (2, 2)) and plain,
        f"{name} is to have kernel 2, stride 2 and nothing else, which doubles the size exactly; found {layer}.",
    )
    return layer


def _inspect_unet(check: Check, answer: Callable) -> None:
    for num_classes, base in ((2, 5), (5, 3)):
        _unet_layers(check, make(check, answer, num_classes, base), num_classes, base)


@torch.no_grad()
def _copy_weights(right: _Layers, own: _Layers) -> None:
    for name, pair in right.blocks.items():
        for source, destination in zip(pair, own.blocks[name], strict=True):
            source.copy_to(destination)
    for name, up in right.ups.items():
        own.ups[name].weight.copy_(up.weight)
        bias = own.ups[name].bias
        if bias is not None:
            bias.zero_()
    own.score.load_state_dict(right.score.state_dict())


_UNUSED = "{} gets no gradient: is it frozen, run under no_grad, or does its result not reach the logits?"
_JOIN = "expanding[0] joins what contracting[3] gives (before it is pooled), expanding[3] what contracting[0] gives"
_ODD_ERRORS = {
    "must match": "for a size that does not halve four times skip and enlarged map differ in size: pad the images to a "
    "multiple of 16 first, and crop the logits back."
}
_NORMED = "in training mode (is there a dropout, another norm, or an eval()?) the result"


@lru_cache(maxsize=4)
def _right_unet(num_classes: int, base: int, size: tuple[int, int, int]) -> tuple[Tensor, models.UNet, _Layers]:
    """Images (B, 3, H, W), and the library's network for them with weights that let every mistake show."""
    images, model = torch.randn(size[0], 3, *size[1:]), models.UNet(num_classes, base)
    layers = _unet_layers(Check(), model, num_classes, base)
    for pair in layers.blocks.values():
        for layer in pair:
            layer.vary()
    for up in layers.ups.values():  # the student's may do without a bias: the block behind it has batch norm
        up.register_parameter("bias", nn.Parameter(torch.zeros(up.out_channels)))
    calibrated(model, images)
    return images, model, layers


def _run_unet(check: Check, answer: Callable, case: Case) -> Parts:
    """The same weights in: what each layer is given, in the order of the forward pass, and the logits."""
    num_classes, base, size = case.args
    images, _, right_layers = _right_unet(num_classes, base, size)
    model = make(check, answer, num_classes, base)
    layers = _unet_layers(Check(), model, num_classes, base)
    _copy_weights(right_layers, layers)
    entrances = layers.entrances()
    if case.what:
        return _run_training(check, model, _right_training(*case.args), entrances, images)
    fits = size[1] % 16 == size[2] % 16 == 0
    when = f"in forward for {'' if fits else 'a '}{size[1]}x{size[2]} image{'s' if fits else ''}"
    errors = {} if fits else _ODD_ERRORS
    with torch.no_grad():
        logits, seen = run_watched(check, model, entrances.values(), images, when=when, errors=errors)
    check.that(isinstance(logits, Tensor), f"{when} it returns {kind_of(logits)}, expected the logits, one tensor.")
    if fits:
        _check_logits_shape(check, tuple(logits.shape), (size[0], num_classes, *size[1:]))
    parts, where = Parts(), "" if fits else f" {when}"
    for name, given in zip(entrances, seen, strict=True):
        if given is None:
            raise Mistake(f"forward does not use {name}, or uses it more than once.")
        if name.startswith("expanding"):
            skip, enlarged = given.chunk(2, 1)
            parts[f"what {name} is given of the skip{where}"] = skip
            parts[f"what {name} is given of the enlarged map{where}"] = enlarged
        else:
            parts[f"what {name} is given{where}"] = given
    return Parts(parts | {f"the {'logits' if fits else 'result'} {when}": logits})


@lru_cache(maxsize=2)
def _right_training(num_classes: int, base: int, size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """The logits of the library's network in training mode, and the gradient farthest from them."""
    images, right, _ = _right_unet(num_classes, base, size)
    network = copy.deepcopy(right).train()
    logits = network(images)
    return logits.detach(), _far_gradient(logits, network.contracting[0][0].weight)[0]


def _far_gradient(logits: Tensor, weight: Tensor) -> tuple[Tensor | None, ...]:
    weighting = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad((logits * weighting).sum(), weight, allow_unused=True)


def _run_training(
    check: Check, model: nn.Module, right: tuple[Tensor, Tensor], entrances: dict[str, Any], images: Tensor
) -> Parts:
    """Gradients for every layer; then the logits in training mode, and the gradient farthest from them."""
    evaluated = check.call(model, images)
    if not isinstance(evaluated, Tensor):
        return Parts()  # the case before this one says so
    check_gradients(check, model, evaluated, {name: layer.weight for name, layer in entrances.items()}, _UNUSED)
    logits = check.call(model.train(), images, when="in training mode")
    parts = Parts({_NORMED: logits.detach() if isinstance(logits, Tensor) else logits})
    first, (right_logits, right_one) = entrances["contracting[0]"].weight, right
    found = check.call(
        lambda: logits.requires_grad and _far_gradient(logits, first), when="in backward", errors=IN_PLACE
    )
    check.that(found and found[0] is not None, "in training mode " + _UNUSED.format("contracting[0]"))
    if isinstance(logits, Tensor) and torch.allclose(logits, right_logits, rtol=0, atol=rounding(right_logits)):
        lacks = "the gradient of contracting[0] lacks a part: is a skip detached, or made under no_grad?"
        check.that(torch.allclose(found[0], right_one, rtol=0, atol=10 * rounding(right_one)), lacks)
    return parts


def _check_logits_shape(check: Check, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    why = ""
    if 0 in found:
        why = ": [..., :-0] is empty, so crop with [..., :height, :width], which fits any padding"
    elif len(found) == 3:
        why = ": logits keep one channel for each class, leave the argmax out"
    elif len(found) == 4 and found[2:] == tuple(n // 2 for n in expected[2:]):
        why = ": is the image pooled before contracting[0]? It works at full size"
    elif len(found) == 4 and found[2] > expected[2]:
        why = ": an image whose size fits already is not padded"
    size = "x".join(map(str, expected[2:]))
    check.that(found == expected, f"forward gives shape {found} for images {size}, expected {expected}{why}.")


class _UNet(models.UNet):
    """The library's network in steps; a wrong one does another thing in one of them."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.contracting[0](self.pad(images))
        skips = []
        for level, block in enumerate(self.contracting[1:], 1):
            skips.append(self.keep(x, level - 1))
            x = block(self.pool(x, level))
        x = self.bottom(x)
        for place, (up, block) in enumerate(zip(self.up, self.expanding, strict=True)):
            x = block(self.join(skips.pop(), up(x), place))
        return self.crop(self.score(x), *images.shape[-2:])

    def pad(self, images: Tensor) -> Tensor:
        return library.pad_to_multiple(images, 16)

    def keep(self, x: Tensor, level: int) -> Tensor:
        return x

    def pool(self, x: Tensor, level: int) -> Tensor:
        return F.max_pool2d(x, 2)

    def bottom(self, x: Tensor) -> Tensor:
        return x

    def join(self, skip: Tensor, x: Tensor, place: int) -> Tensor:
        return torch.cat([skip, x], 1)

    def crop(self, x: Tensor, height: int, width: int) -> Tensor:
        return x[..., :height, :width]


def _at(step: str, number: int | None, other: Callable) -> type:
    """The network whose step "pool" or "join" is another at one level or place, or at all of them (None)."""
    right = getattr(_UNet, step)

    def method(self: _UNet, *given: Any) -> Tensor:
        return other(*given[:-1]) if number in (None, given[-1]) else right(self, *given)

    return changed(_UNet, **{step: method})


def _one_convolution(place: int) -> type:
    """The network with the skip of one place taken in the midst of its block."""

    class Network(_UNet):
        def __init__(self, num_classes: int, base_channels: int):
            super().__init__(num_classes, base_channels)
            block: Any = self.contracting[3 - place]
            block[2].register_forward_hook(self.remember)

        def remember(self, module: nn.Module, given: Any, half: Tensor) -> None:
            self.between = half.clone()

        def keep(self, x: Tensor, level: int) -> Tensor:
            return self.between if level == 3 - place else x

    return Network


def _pad_the_map(self: _UNet, skip: Tensor, x: Tensor, place: int) -> Tensor:
    return torch.cat([skip, F.pad(x, (0, skip.shape[3] - x.shape[3], 0, skip.shape[2] - x.shape[2]))], 1)


def _centre(self: _UNet, x: Tensor, height: int, width: int) -> Tensor:
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[..., top : top + height, left : left + width]


def _back(mode: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda skip, x: torch.cat([F.interpolate(F.max_pool2d(skip, 2), scale_factor=2, mode=mode), x], 1)


_POOLED_TWICE = "the skip of expanding[{0}] is pooled and enlarged again: take what contracting[{1}] gives."
_WRONG_JOINS: list[tuple[Callable[[Tensor, Tensor], Tensor], str]] = [
    (
        lambda skip, x: torch.cat([x, skip], 1),
        "the parts are concatenated in the order the enlarged map, the skip for expanding[{0}]: the skip comes first.",
    ),
    (lambda skip, x: torch.cat([skip + x] * 2, 1), "expanding[{0}] is given skip + enlarged map: concatenate the two."),
    (
        lambda skip, x: torch.cat([skip, x.relu()], 1),
        "there is a ReLU after the up-convolution before expanding[{0}]: leave it out.",
    ),
    (lambda skip, x: torch.cat([skip] * 2, 1), "expanding[{0}] is given the skip twice, without the enlarged map."),
    (lambda skip, x: torch.cat([x] * 2, 1), "expanding[{0}] is given the enlarged map twice, without the skip."),
    (
        lambda skip, x: torch.cat([0 * skip, x], 1),
        "expanding[{0}] is given zeros for the skip: it is what contracting[{1}] gives.",
    ),
    (_back("nearest"), _POOLED_TWICE),
    (_back("bilinear"), _POOLED_TWICE),
]
_WRONG_POOLS: list[tuple[Callable[[Tensor], Tensor], str]] = [
    (lambda x: F.avg_pool2d(x, 2), "there is an average before contracting[{}]: nn.MaxPool2d(2)."),
    (lambda x: F.max_pool2d(x, 3, 2, 1), "there is a pooling of 3x3 before contracting[{}]: nn.MaxPool2d(2)."),
    (lambda x: x[..., ::2, ::2], "every other pixel is taken before contracting[{}]: nn.MaxPool2d(2)."),
    (lambda x: x[..., 1::2, 1::2], "every other pixel is taken before contracting[{}]: nn.MaxPool2d(2)."),
]
_CROP = "crop the logits back to the size of the image, [..., :height, :width]"


def _resize(mode: str) -> Callable[[_UNet, Tensor, int, int], Tensor]:
    return lambda self, x, height, width: F.interpolate(x, (height, width), mode=mode)


unet = Exercise(
    "UNet",
    models.UNet,
    cases=lambda: [
        Case((num_classes, base, size), what=what)
        for num_classes, base, fitting in ((2, 5, (2, 32, 48)), (5, 3, (2, 48, 16)))
        for size, what in ((fitting, ""), ((1, 37, 51), ""), (fitting, "in training mode"))
    ],
    inspect=_inspect_unet,
    run=_run_unet,
    tolerance=rounding,
    errors=IN_PLACE
    | {
        "must match except in dimension 1": f"skip and enlarged map differ in size: {_JOIN}.",
        "must match except in dimension": "skip and enlarged map are joined along another axis than the channels: "
        "torch.cat([skip, x], 1).",
        "must match the size": "are skip and enlarged map added? They are concatenated, torch.cat([skip, x], 1).",
        "channels, but got": "a layer is given another number of channels than it was made for: contracting[0] takes "
        f"the image; each up the map below it; each expanding [skip, enlarged map]. {_JOIN}.",
    },
    wrong=[
        (
            changed(
                _UNet, pad=lambda self, x: library.pad_to_multiple(F.max_pool2d(x, 2), 16), crop=_resize("nearest")
            ),
            "the image is pooled before contracting[0]: after it.",
        ),
        (
            changed(_UNet, pad=lambda self, x: _one_more(x)),
            "an image whose size fits is padded, too: leave it as it is.",
        ),
        *((_at("pool", level, pool), hint.format(level)) for level in range(1, 5) for pool, hint in _WRONG_POOLS),
        (
            changed(_UNet, bottom=lambda self, x: F.interpolate(F.max_pool2d(x, 2), x.shape[-2:])),
            "the bottom is pooled once more: there are four poolings, none after contracting[4].",
        ),
        *(
            (_at("join", place, join), hint.format(place or 0, 3 - (place or 0)))
            for place in (None, 0, 1, 2, 3)
            for join, hint in _WRONG_JOINS
        ),
        *(
            (
                _one_convolution(place),
                f"the skip of expanding[{place}] is taken after the first convolution of contracting[{3 - place}]: "
                "after both.",
            )
            for place in range(4)
        ),
        *activated(_UNet),
        *(
            (replaced(_UNet, name.replace("[", ".").replace("]", ""), change), hint.format(name))
            for name in _ENTRANCES
            if not name.startswith("up")
            for change, hint in (_WRONG_DOUBLES if name == "contracting[0]" else _WRONG_DOUBLES[:14])
            if "relu6" not in hint  # values are below 6 here
        ),
        *(
            (changed(_UNet, pad=lambda self, images, pad=pad: pad(images)), f"for a 37x51 image {hint}")
            for pad, hint in _WRONG_PADDING[3:]  # the first ones do not fit together
        ),
        (
            changed(_UNet, pad=lambda self, images: images, join=_pad_the_map),
            "for a 37x51 image nothing is padded: each side grows to the next multiple.",
        ),
        (
            changed(_UNet, crop=lambda self, x, height, width: x),
            f"the logits keep the size of the padded image: {_CROP}.",
        ),
        (
            changed(_UNet, crop=lambda self, x, height, width: x[..., x.shape[2] - height :, x.shape[3] - width :]),
            f"the logits are cropped at the left and at the top: {_CROP}.",
        ),
        (changed(_UNet, crop=_centre), f"the logits are cropped on all sides: {_CROP}."),
        *(
            (changed(_UNet, crop=_resize(mode)), f"the logits are resized, which moves every edge: {_CROP}.")
            for mode in ("bilinear", "nearest")
        ),
    ],
)

# ------------------------------------------------------- binary_cross_entropy


def _binary_cross_entropy(logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
    """logits (B, K, H, W), target (B, H, W) int64 -> the mean over valid pixels and maps, a scalar."""
    return build_loss("bce", ignore_index=ignore_index)(logits, target)


def _is_class(p: Tensor, y: Tensor) -> Tensor:
    return -y * p.log()


def _is_not(p: Tensor, y: Tensor) -> Tensor:
    return (y - 1) * (1 - p).log()


def _both(p: Tensor, y: Tensor) -> Tensor:
    return _is_class(p, y) + _is_not(p, y)


def _over_valid(terms: Tensor, valid: Tensor) -> Tensor:
    return terms[valid.expand_as(terms)].sum() / (valid.sum() * terms.shape[1]).clamp_min(1)


def _over_pixels(terms: Tensor, valid: Tensor) -> Tensor:
    return terms.shape[1] * _over_valid(terms, valid)


def _with_zeros(terms: Tensor, valid: Tensor) -> Tensor:
    return (terms * valid).mean()


def _binary(
    activation: Callable[[Tensor], Tensor] = lambda x: x.softmax(1),
    labels: Callable[[Tensor], Tensor] = lambda y: y,
    terms: Callable[..., Tensor] = _both,
    mean: Callable[[Tensor, Tensor], Tensor] = _over_valid,
    void: str = "left out",
) -> Callable[..., Tensor]:
    """The loss made of its parts, one of which is wrong.

    Args:
        labels: changes the one-hot target (B, K, H, W).
        terms: from probabilities and target; mean: from the terms and which pixels are valid (B, 1, H, W).
        void: "left out", or the class as which it counts: "background", "the last class", "no class at all".
    """

    def answer(logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
        k, valid = logits.shape[1], (target != ignore_index)[:, None]
        label = {"background": 0, "the last class": k - 1}.get(void, -1)
        y = torch.where(valid, target[:, None], label) == torch.arange(k)[:, None, None]
        counted = valid if void == "left out" else torch.ones_like(valid)
        return mean(terms(activation(logits), labels(y.float())), counted)

    return answer


def _run_binary(check: Check, answer: Callable, case: Case) -> Parts:
    """Very sure logits may give different large losses: finite ones, with a finite gradient."""
    logits, target = case.args
    if logits.detach().abs().max() < 100:
        return run_loss_case(check, answer, case)
    found, gradient = run_loss(check, answer, logits, target)
    remedy = "take log_softmax for the logarithms, or keep p from 0 and 1 (binary_cross_entropy and clamp do)."
    extreme = f"for logits of 100 and -100, {case.when}, softmax gives exactly 0 and 1"
    if isinstance(found, Tensor):
        check.that(bool(found.isfinite().all()), f"{extreme}, and the loss {found.sum().item():g}: {remedy}")
    if isinstance(gradient, Tensor):
        check.that(bool(gradient.isfinite().all()), f"{extreme}, and the gradient is not finite: {remedy}")
    return Parts()


def _binary_cases() -> Iterable[Case]:
    """Two and three maps, uneven void, another void; very sure logits; a batch of void alone."""
    for k, settings in ((3, {}), (2, {}), (3, {"ignore_index": 1})):
        logits = (2 * torch.randn(2, k, 3, 4)).requires_grad_()
        target = torch.randint(0, k, (2, 3, 4))
        if not settings:
            target[0, :2], target[1, 2, 1:] = 255, 255
        yield Case((logits, target), f"of {k} maps" + " for ignore_index=1" * bool(settings), "the loss", settings)
    sure = torch.tensor([[100.0, -100.0], [-100.0, 100.0]])[..., None, None].expand(2, 2, 2, 2).requires_grad_()
    yield Case((sure, torch.zeros(2, 2, 2, dtype=torch.int64)), "right and wrong")
    yield Case((sure, torch.ones(2, 2, 2, dtype=torch.int64)), "wrong and right")
    yield Case((logits, torch.full_like(target, 255)))


def _per_image(terms: Tensor, valid: Tensor) -> Tensor:
    return ((terms.mean(1, keepdim=True) * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3))).mean()


def _numbers(y: Tensor) -> Tensor:
    return (y * torch.arange(y.shape[1])[:, None, None]).sum(1, keepdim=True).expand_as(y)


_TERMS = "-(y log p + (1 - y) log(1 - p)), a term for what is the class and one for what is not"
_SIGMOID = "it uses sigmoid (is it ..._with_logits?): p is the softmax over the maps."
_ONE_HOT = "the target is not one-hot: map k of y is 1 where the target is k (one_hot, movedim)."
_VOID_ZEROS = "void pixels are counted in the mean, as zeros: divide by the number of valid ones."
_AXIS = "the softmax runs over the wrong axis: over the maps, dim=1 of (B, K, H, W)."

binary_cross_entropy = Exercise(
    "binary_cross_entropy",
    _binary_cross_entropy,
    cases=_binary_cases,
    run=_run_binary,
    tolerance=lambda expected: 10 * rounding(expected),  # log(p + 1e-6) is right, too
    errors={
        "leaf Variable that requires grad": "it changes the logits in place: use an operation that returns a new "
        "tensor.",
        "Can't call numpy()": "NumPy knows no gradients: take torch's functions.",
        "255 is out of bounds": "void (255) is used as a class index: leave void pixels out first, or replace them and "
        "multiply by a mask.",
        "Class values must be smaller than num_classes": "void (255) goes into one_hot as if it were a class: replace "
        "it first, and leave those pixels out of the mean.",
        "all elements of target should be between 0 and 1": "the target is not one-hot: map k of y is 1 where the "
        "target is k, and 0 elsewhere; void is left out.",
        "Using a target size": "the target is not one-hot: it needs a map for each class, as the logits have.",
        "all elements of input should be between 0 and 1": "binary_cross_entropy takes probabilities: the softmax of "
        "the logits.",
    },
    wrong=[
        detached(_binary_cross_entropy),
        (
            _binary(terms=lambda p, y: _is_class(p, y) + _is_not(p.detach(), y)),
            "the value is right, the gradient is not: is a part of it detached? Both logarithms must learn.",
        ),
        (
            lambda logits, target, ignore_index=255: -_binary_cross_entropy(logits, target, ignore_index),
            "the sign is wrong: logarithms of probabilities are negative, the loss is minus their mean.",
        ),
        (
            _binary(mean=lambda terms, valid: (terms * valid).sum()),
            "it is the sum: take the mean over valid pixels and maps.",
        ),
        (
            _binary(mean=_over_pixels),
            "it is summed over the maps: take the mean over them, too, as binary_cross_entropy does.",
        ),
        (_binary(mean=_with_zeros), _VOID_ZEROS),
        (
            _binary(mean=_per_image),
            "it is averaged within each image first: divide once, by the valid pixels of the batch.",
        ),
        (
            lambda logits, target, ignore_index=255: F.cross_entropy(logits, target, ignore_index=ignore_index),
            f"this is cross-entropy, which is the same for two maps only: {_TERMS}.",
        ),
        *(
            pair
            for mean in (_over_valid, _over_pixels)
            for pair in (
                (_binary(terms=_is_class, mean=mean), f"(1 - y) log(1 - p) is missing: {_TERMS}."),
                (_binary(terms=_is_not, mean=mean), f"y log p is missing: {_TERMS}."),
            )
        ),
        (_binary(torch.sigmoid), _SIGMOID),
        (_binary(torch.sigmoid, mean=_with_zeros), f"{_SIGMOID} And {_VOID_ZEROS}"),
        *(
            pair
            for void in ("background", "the last class", "no class at all")
            for pair in (
                (_binary(void=void), f"void pixels are counted as {void}: leave them out."),
                (
                    _binary(torch.sigmoid, void=void),
                    f"{_SIGMOID} And void pixels are counted as {void}: leave them out.",
                ),
            )
        ),
        *((_binary(partial(torch.softmax, dim=axis)), _AXIS) for axis in (0, 2, 3)),
        (_binary(lambda x: x.softmax(1).softmax(1)), "softmax is taken twice: logits go in, once."),
        (_binary(lambda x: x.softmax(1).sigmoid()), "there is a sigmoid after the softmax: p is the softmax."),
        (_binary(labels=_numbers), _ONE_HOT),
        (_binary(labels=lambda y: y[:, 1:2].expand_as(y)), _ONE_HOT),
        (
            _binary(labels=lambda y: y.flip(1)),
            "the maps of the target are in the wrong order: y[:, k] is target == k.",
        ),
        (_binary(labels=lambda y: 1 - y), "y is turned around: y is 1 for the class itself."),
        *(
            (
                _binary(terms=lambda p, y, only=only: _both(p, y)[:, only : only + 1]),
                f"only map {only} is compared: each of the K maps has its own term.",
            )
            for only in (1, 0)
        ),
        (
            lambda logits, target, ignore_index=255: _binary()(logits, target),
            "ignore_index is not used: is 255 written by hand?",
        ),
    ],
)

# -------------------------------------------------------------- binary_scores


def _binary_scores(prediction: Tensor, target: Tensor, ignore_index: int = 255) -> dict[str, float]:
    """Labels 0 and 1, uint8 (H, W) or (N, H, W) -> the share of right pixels, and four scores of class 1."""
    counter = ConfusionMatrix(2, ignore_index)
    counter.update(prediction, target)
    found = counter.compute()
    names = {"accuracy": found.pixel_accuracy, "precision": found.precision, "recall": found.recall, "f1": found.f1}
    return names | {"iou": float(found.class_iou[1])}


Score = Callable[[float, float, float, float], float]


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan


_SCORES: dict[str, Score] = {
    "accuracy": lambda tp, fp, fn, tn: _ratio(tp + tn, tp + fp + fn + tn),
    "precision": lambda tp, fp, fn, tn: _ratio(tp, tp + fp) if tp or not fn else 0.0,
    "recall": lambda tp, fp, fn, tn: _ratio(tp, tp + fn) if tp or not fp else 0.0,
    "f1": lambda tp, fp, fn, tn: _ratio(2 * tp, 2 * tp + fp + fn),
    "iou": lambda tp, fp, fn, tn: _ratio(tp, tp + fp + fn),
}


def _from_counts(
    change: Callable[[Score], Score] = lambda score: score,
    fill: int | None = None,
    void: int | None = None,
    scores: dict[str, Score] | None = None,
) -> Callable[..., dict[str, float]]:
    """The scores from true positives, false positives, false negatives and true negatives, with one thing wrong.

    Args:
        change: of all scores' formulas.
        fill: the class as which void pixels count.
        void: instead of `ignore_index`.
        scores: other formulas of single scores.
    """

    def answer(prediction: Tensor, target: Tensor, ignore_index: int = 255) -> dict[str, float]:
        valid = target != (ignore_index if void is None else void)
        if fill is not None:
            target, valid = torch.where(valid, target, fill), torch.ones_like(valid)
        one, true = prediction == 1, target == 1
        counts = [float((mask & valid).sum()) for mask in (one & true, one & ~true, ~one & true, ~one & ~true)]
        return {name: change(score)(*counts) for name, score in (_SCORES | (scores or {})).items()}

    return answer


def _per_image_scores(prediction: Tensor, target: Tensor, ignore_index: int = 255) -> dict[str, float]:
    images = zip(prediction, target, strict=True) if target.ndim == 3 else [(prediction, target)]
    each = [_binary_scores(p, t, ignore_index) for p, t in images]
    return {name: sum(scores[name] for scores in each) / len(each) for name in _SCORES}


def _undefined_as(value: float) -> Callable[[Score], Score]:
    def change(score: Score) -> Score:
        return lambda *counts: value if math.isnan(score(*counts)) else score(*counts)

    return change


def _scores_cases() -> Iterable[Case]:
    """Void, one image and several, another void; class 1 absent from prediction, target, both; void alone."""
    target = torch.tensor([[0, 0, 0, 1, 1, 255], [0, 1, 0, 0, 0, 255], [0, 0, 1, 1, 255, 0]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1, 0, 1, 1, 1], [1, 0, 0, 1, 0, 1], [0, 0, 0, 1, 1, 0]], dtype=torch.uint8)
    nothing = torch.zeros_like(target)
    large = torch.stack([target, target.flip(1)]).repeat(1, 20, 20)
    yield Case((prediction, target), "for one image")
    yield Case((torch.stack([prediction, 1 - nothing]).repeat(1, 20, 20), large), "for two images")
    other = torch.where(target == 255, 7, target)
    yield Case((prediction, other), "for ignore_index=7", kwargs={"ignore_index": 7})
    yield Case((nothing, target), "for a prediction without class 1")
    yield Case((prediction, nothing), "for a target without class 1")
    yield Case((nothing, nothing), "for class 1 in neither")
    yield Case((prediction, torch.full_like(target, 255)), "for void alone")
    yield Case(((target == 1).to(torch.uint8), target), "for a perfect prediction")


def _run_scores(check: Check, answer: Callable, case: Case) -> Parts:
    found, names = run_function(check, answer, case), ", ".join(_SCORES)
    check.that(isinstance(found, dict), f"it returns {kind_of(found)}, expected a dict with {names}.")
    missing = [name for name in _SCORES if name not in found]
    check.that(not missing, f"the dict has no {', '.join(missing)}; expected {names}.")
    return Parts({f"{name} {case.when}": found[name] for name in _SCORES})


_MISSED = "class 1 is in the prediction or in the target, and no pixel is hit: 0, not nan."
_WRONG_SCORES: dict[str, dict[Score, str]] = {
    "accuracy": {
        (lambda tp, fp, fn, tn: _ratio(tp, tp + fp + fn + tn)): "pixels of class 0 that are right count, too.",
        _SCORES["recall"]: "this is recall: accuracy is the share of all valid pixels.",
        _SCORES["iou"]: "this is the IoU: accuracy counts class 0 as well.",
        (lambda tp, fp, fn, tn: (_ratio(tp, tp + fn) + _ratio(tn, tn + fp)) / 2): "this is the mean of both classes' "
        "accuracy: the share of all valid pixels that are right.",
    },
    "precision": {
        _SCORES["recall"]: "this is recall: precision divides by the pixels predicted as 1, TP / (TP + FP).",
        _SCORES["accuracy"]: "this is accuracy: precision is TP / (TP + FP).",
        (lambda tp, fp, fn, tn: _ratio(tp, tp + fp)): _MISSED,
    },
    "recall": {
        _SCORES["precision"]: "this is precision: recall divides by the pixels that are 1, TP / (TP + FN).",
        _SCORES["accuracy"]: "this is accuracy: recall is TP / (TP + FN).",
        (lambda tp, fp, fn, tn: _ratio(tn, tn + fp)): "this is specificity, the recall of class 0: TP / (TP + FN).",
        (lambda tp, fp, fn, tn: _ratio(tp, tp + fn)): _MISSED,
    },
    "f1": {
        (lambda tp, fp, fn, tn: (_ratio(tp, tp + fp) + _ratio(tp, tp + fn)) / 2): "this is the arithmetic mean of "
        "precision and recall: the harmonic one, 2 P R / (P + R).",
        (lambda tp, fp, fn, tn: _ratio(tp, 2 * tp + fp + fn)): "the 2 is missing: 2 P R / (P + R).",
        _SCORES["iou"]: "this is the IoU: F1 is 2 TP / (2 TP + FP + FN).",
        (lambda tp, fp, fn, tn: _ratio(2 * tp, tp + fp + fn)): "TP is counted once below: 2 TP / (2 TP + FP + FN).",
        (lambda tp, fp, fn, tn: math.sqrt(_ratio(tp, tp + fp) * _ratio(tp, tp + fn))): "this is the geometric mean of "
        "precision and recall: the harmonic one, 2 P R / (P + R).",
    },
    "iou": {
        _SCORES["f1"]: "this is F1 (Dice): IoU is TP / (TP + FP + FN).",
        (lambda tp, fp, fn, tn: _ratio(tp, 2 * tp + fp + fn)): "the union counts the intersection twice: "
        "TP / (TP + FP + FN).",
        _SCORES["accuracy"]: "this is accuracy: IoU leaves out what is class 0 in both.",
        (lambda tp, fp, fn, tn: (_ratio(tp, tp + fp + fn) + _ratio(tn, tn + fp + fn)) / 2): "this is the mean of both "
        "classes: that of class 1 alone is asked for.",
        (lambda tp, fp, fn, tn: _ratio(tn, tn + fp + fn)): "this is that of class 0: class 1 is what is looked for.",
        (lambda tp, fp, fn, tn: _ratio(tp + tn, tp + tn + 2 * (fp + fn))): "it sums over both classes: class 1 alone.",
    },
}
_ABSENT = "class 1 is in neither prediction nor target, so the score is undefined: float('nan')."

binary_scores = Exercise(
    "binary_scores",
    _binary_scores,
    cases=_scores_cases,
    run=_run_scores,
    tolerance=1e-6,
    errors={
        "division by zero": "0 / 0: where class 1 is in neither prediction nor target a score is float('nan'), where "
        "it is in one of them it is 0."
    },
    wrong=[
        (_from_counts(_undefined_as(0.0)), _ABSENT),
        (_from_counts(_undefined_as(1.0)), _ABSENT),
        *(
            (_from_counts(scores={name: wrong}), hint)
            for name, formulas in _WRONG_SCORES.items()
            for wrong, hint in formulas.items()
        ),
        (_from_counts(void=255), "ignore_index is not used: is 255 written by hand?"),
        (
            _from_counts(lambda score: lambda tp, fp, fn, tn: score(tn, fn, fp, tp)),
            "this is that of class 0: class 1 is what is looked for.",
        ),
        (
            _from_counts(lambda score: lambda tp, fp, fn, tn: (score(tp, fp, fn, tn) + score(tn, fn, fp, tp)) / 2),
            "this is the mean of both classes: that of class 1 alone is asked for.",
        ),
        *((_from_counts(fill=k), f"void pixels are counted as class {k}: leave them out.") for k in (0, 1)),
        (_per_image_scores, "this is the mean over images: count the pixels of all of them first."),
        (
            _from_counts(lambda score: lambda *counts: 100 * score(*counts)),
            "this is in percent: a fraction between 0 and 1.",
        ),
    ],
)

# ---------------------------------------------------------------- should_stop


def _should_stop(scores: list[float], patience: int) -> bool:
    """Whether none of the last `patience` scores (1 or more) is above the best one before them."""
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])


_STOP_CASES = [
    ([0.6, 0.5], 2),
    ([0.6], 1),
    ([], 2),
    ([0.5, 0.6, 0.6, 0.59], 2),
    ([0.5, 0.6, 0.59, 0.61], 2),
    ([0.5, 0.6, 0.55, 0.58], 3),
    ([0.6, 0.5, 0.52, 0.54], 3),
    ([0.6, 0.5, 0.52, 0.54], 2),
    ([0.5, 0.7, 0.6], 2),
    ([0.5, 0.6, 0.4], 2),
    ([0.5, 0.4, 0.4, 0.6], 2),
    ([0.5, 0.4, 0.6, 0.55, 0.7, 0.65], 3),
    ([0.5, 0.4, 0.6, 0.45], 3),
    ([0.6, 0.5, 0.5], 2),
    ([0.3, 0.3, 0.3], 2),
    ([0.6, 0.6, 0.5, 0.5], 2),
    ([0.6, 0.5], 1),
    ([0.6, 0.6], 1),
    ([0.5, 0.6], 1),
    ([-0.5, -0.6, -0.7], 2),
    ([-0.7, -0.6, -0.5], 2),
    ([0.7, 0.5, 0.4, 0.45, 0.55], 2),
    ([0.2, 0.1, 0.3, 0.25, 0.26, 0.29], 3),
]


def _since_best(scores: Sequence[float], last: bool = False) -> int:
    """Evaluations since the first or the last of the best."""
    places = [i for i, score in enumerate(scores) if score == max(scores)] or [-1]
    return len(scores) - 1 - places[-1 if last else 0]


def _falls(scores: Sequence[float], ties: bool = True) -> list[bool]:
    return [b <= a if ties else b < a for a, b in pairwise(scores)]


def _not_best(scores: Sequence[float], best: float = -math.inf) -> list[bool]:
    """For each evaluation whether it is no better than the best before it."""
    found = []
    for score in scores:
        found.append(score <= best)
        best = max(best, score)
    return found


def _run_rule(check: Check, answer: Callable, case: Case) -> bool:
    value = run_function(check, answer, case)
    check.that(isinstance(value, (bool, np.bool_)), f"{case.what} is {kind_of(value)}, expected True or False.")
    return bool(value)


_NEIGHBOUR = "each score is compared with the one before it: compare the last ones with the best before them."
_LAST_ALONE = "only the last score is looked at: all the last `patience`."

should_stop = Exercise(
    "should_stop",
    _should_stop,
    cases=lambda: calls("should_stop", *_STOP_CASES),
    run=_run_rule,
    errors={
        "empty": "there may be `patience` scores or fewer, or none: False then, before max() is asked.",
        "out of range": "there may be `patience` scores or fewer, or none: False then, before anything is looked up.",
    },
    wrong={
        (lambda s, n: bool(s) and _since_best(s, last=True) >= n): "an equal score counts as better here: only a "
        "higher one does.",
        (lambda s, n: _since_best(s) > n): "it waits one evaluation too long: `patience` without a better one suffice.",
        (lambda s, n: _since_best(s) >= n - 1): "it stops one evaluation too early: `patience` without a better one.",
        (lambda s, n: len(s) > 1 and _since_best(s) >= n - 1): "it stops one evaluation too early: `patience` of them.",
        (lambda s, n: _since_best(s, last=True) > n): "equal counts as better, and it waits one evaluation too long.",
        (lambda s, n: len(s) > n and all(_falls(s)[-n:])): _NEIGHBOUR,
        (lambda s, n: len(s) > n and all(_falls(s, ties=False)[-n:])): _NEIGHBOUR,
        (lambda s, n: len(s) > n and s[-1] <= s[-n - 1]): "only the last score is compared with the one `patience` "
        "before it: all of the last with the best before.",
        (lambda s, n: len(s) > n and s[-1] <= max(s[:-n])): _LAST_ALONE,
        (lambda s, n: len(s) > 1 and s[-1] <= max(s[:-1])): _LAST_ALONE,
        (lambda s, n: s[-1] < max(s)): f"`patience` is not used: {_LAST_ALONE}",
        (lambda s, n: bool(s) and s[-1] < max(s)): f"`patience` is not used: {_LAST_ALONE}",
        (lambda s, n: len(s) > n and max(s[-n:]) <= s[-n - 1]): "the last scores are compared with the one before "
        "them: with the best of all before them.",
        (lambda s, n: len(s) > n and s[-1] <= s[-2]): "only the last two scores are compared: all the last `patience`.",
        (lambda s, n: len(s) > n and max(s[-n:]) <= min(s[:-n])): "compare with the best before them, the highest.",
        (lambda s, n: len(s) > n and min(s[-n:]) >= min(s[:-n])): "higher is better here: this is the rule for a loss.",
        (lambda s, n: sum(_not_best(s)) >= n): "it counts all evaluations without a better score: a better one starts "
        "the count again.",
        (lambda s, n: any(all(_not_best(s)[i : i + n]) for i in range(1, len(s) - n + 1))): "it looks for a pause "
        "anywhere in the past: only the last `patience` evaluations count.",
        (lambda s, n: len(s) >= n and all(_not_best(s, 0.0)[-n:])): "the best so far starts at 0: scores may be "
        "negative.",
        (lambda s, n: len(s) >= n and max(s[-n:]) <= max(s)): "the last scores are compared with all, themselves "
        "included.",
        (lambda s, n: len(s) > n): "it stops after `patience` evaluations, whatever they bring.",
        (lambda s, n: not _should_stop(s, n)): "it is the wrong way round: True is to stop.",
        (lambda s, n: False): "it never stops: `patience` evaluations without a better one are enough.",
        (lambda s, n: True): "it always stops: only after `patience` evaluations without a better one.",
    },
)

# ---------------------------------------------------------------- tile_starts

# The cases without overlap come last: who takes overlap for the step would never end there.
_TILE_CASES = [(10, 4, 1), (11, 4, 1), (9, 4, 1), (20, 8, 6), (100, 32, 8), (4, 4, 2), (3, 4, 2), (5, 4, 2)]
_TILE_CASES += [(8, 4, 0), (9, 4, 0)]


def _inspect_tiles(check: Check, answer: Callable) -> None:
    """Lengths that fit exactly, that leave a rest, that are no longer than a tile; large overlap and none.

    Any list with the properties passes: starts spread evenly as well as a last tile that is moved back.
    """
    for case in calls("tile_starts", *_TILE_CASES):
        starts = run_function(check, answer, case)
        check.that(isinstance(starts, list), f"{case.what} is {kind_of(starts)}, expected a list.")
        whole = all(kind_of(start) == "a Python int" for start in starts)
        check.that(whole, f"{case.what} holds something that is no int: use integer arithmetic (`//`, `range`).")
        check.that(bool(starts), f"{case.what} is empty: a length that fits into one tile has the one start 0.")
        _check_starts(check, [int(start) for start in starts], case)


def _check_starts(check: Check, starts: list[int], case: Case) -> None:
    length, tile, overlap = case.args
    found, step = f"{case.what} is {starts}", tile - overlap
    if length <= tile:
        check.that(starts == [0], f"{found}, expected [0]: the length fits into one tile.")
        return
    first = starts[1] - starts[0] if len(starts) > 1 else step
    known = {tile: "tile, so that neighbours share nothing", overlap: "overlap", tile + overlap: "tile + overlap"}
    why = f" The step is {known[first]}: it is tile - overlap = {step}." if first != step and first in known else ""
    check.that(starts[0] == 0, f"{found}: the first tile starts at 0.")
    check.that(sorted(set(starts)) == starts, f"{found}: starts rise, and none occurs twice.{why}")
    end, flush = starts[-1] + tile, f"the last tile starts at length - tile = {length - tile}, flush with the end"
    check.that(end <= length, f"{found}: the last tile ends at {end}, beyond the length {length}; {flush}.{why}")
    check.that(end == length, f"{found}: pixels {end} to {length - 1} are in no tile; {flush}.{why}")
    for a, b in pairwise(starts):
        shared = f"{max(0, a + tile - b)} pixels, expected at least {overlap}"
        check.that(b - a <= step, f"{found}: the tiles at {a} and {b} share {shared}.{why}")
    enough = -(-(length - tile) // step) + 1
    more = f"{found}: {len(starts)} tiles, {enough} are enough. Is one added though the one before ends flush already?"
    check.that(len(starts) == enough, f"{found}: {len(starts)} tiles, {enough} are enough.{why}" if why else more)


tile_starts = Exercise(
    "tile_starts",
    tiles.tile_starts,
    inspect=_inspect_tiles,
    errors={"must not be zero": "the step from tile to tile is tile - overlap, not overlap."},
)

# --------------------------------------------------------------- BilinearUNet


class _BilinearUNet(models.UNet):
    """U-Net whose up-convolutions interpolate and convolve."""

    def __init__(self, num_classes: int, base_channels: int):
        super().__init__(num_classes, base_channels, up="bilinear")


def _run_bilinear(check: Check, answer: Callable, case: Case) -> Parts:
    """What each of `up` makes of a map, with the right weights, and the size of the logits."""
    num_classes, base = case.args
    model = make(check, answer, num_classes, base)
    torch.manual_seed(0)  # making it draws as many numbers as the student likes
    found = Parts()
    before = any(isinstance(layer, nn.ConvTranspose2d) for layer in model.modules()) or not hasattr(model, "up")
    check.that(
        not before, "not written yet: `up` is still a transposed convolution: replace it after super().__init__."
    )
    for place, module in enumerate(_listed(check, model, "up")):
        wide, name = base * 2 ** (4 - place), f"up[{place}]"
        conv = _only(check, module, nn.Conv2d, name, "3x3 convolution behind the interpolation")
        check_conv(
            check, conv, name, (wide, wide // 2), 3, {2 * base: "the list begins at the bottom, not at full size"}
        )
        leaves = [layer for layer in module.modules() if not list(layer.children())]
        other = [type(m).__name__ for m in leaves if not isinstance(m, (nn.Upsample, nn.Conv2d, nn.Identity))]
        check.that(not other, f"{name} holds {', '.join(other)}: an nn.Upsample and an nn.Conv2d, nothing else.")
        check.that(conv.bias is not None, f"the convolution of {name} has no bias: no batch norm follows it.")
        with torch.no_grad():
            x = torch.randn(1, wide, 3, 5)
            conv.weight.copy_(torch.randn_like(conv.weight))
            conv.bias.copy_(torch.randn_like(conv.bias))  # type: ignore[union-attr]
            enlarged = check.call(module, x, when=f"in {name}")
        size = tuple(enlarged.shape)
        check.that(
            size == (1, wide // 2, 6, 10),
            f"{name} makes {size} of {tuple(x.shape)}: twice the size, half the channels.",
        )
        found[f"what {name} makes of a map"] = enlarged
    with torch.no_grad():
        found["the size of the logits"] = tuple(check.call(model, torch.randn(1, 3, 37, 50), when="in forward").shape)
    return found


def _enlarging(enlarge: Callable[[Tensor], Tensor], padding: str = "zeros", first: bool = True) -> type:
    """The answer with another way to enlarge, `first` or after the convolution."""

    class Up(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[0](enlarge(x)) if first else enlarge(self[0](x))

    class Other(_BilinearUNet):
        def __init__(self, num_classes: int, base_channels: int):
            super().__init__(num_classes, base_channels)
            for _, conv in self.up:
                conv.padding_mode = padding
            self.up = nn.ModuleList(Up(conv) for _, conv in self.up)

    return Other


def _interpolated(**options: Any) -> Callable[[Tensor], Tensor]:
    return partial(F.interpolate, scale_factor=2, **options)


bilinear_unet = Exercise(
    "BilinearUNet",
    _BilinearUNet,
    cases=lambda: [Case((2, 3))],
    run=_run_bilinear,
    tolerance=rounding,
    wrong=[
        (_enlarging(_interpolated(mode="nearest")), 'this is nearest neighbour: mode="bilinear".'),
        (
            _enlarging(_interpolated(mode="bilinear", align_corners=True)),
            "this has align_corners=True: the course takes False.",
        ),
        (
            _enlarging(_interpolated(mode="bilinear"), first=False),
            "the convolution comes before the interpolation: enlarge first, then convolve.",
        ),
        (_enlarging(_interpolated(mode="bicubic")), 'this is bicubic: mode="bilinear".'),
        (
            _enlarging(_interpolated(mode="bilinear"), "replicate"),
            "the convolution pads by repetition: leave padding_mode as it is, zeros.",
        ),
        (
            _enlarging(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear").relu()),
            "there is a ReLU in it: an interpolation and a convolution, nothing else.",
        ),
    ],
)

# ------------------------------------------------------------------------ fit


class _Watched(nn.Module):
    """Two convolutions with batch norm between; remembers in which mode it was run, and whether that made a graph."""

    def __init__(self) -> None:
        super().__init__()
        score = nn.Conv2d(4, 3, 1)
        nn.init.normal_(score.weight)  # so that pixels differ
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), score)
        self.modes: list[bool] = []
        self.graphs: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layers(images)
        self.modes.append(self.training)
        self.graphs.append(logits.requires_grad)
        return logits


def _fitting(
    zero: str = "before",
    schedule: str = "step",
    better: Callable[[list[float]], bool] = lambda scores: scores[-1] > max(scores[:-1], default=-math.inf),
    stop: Callable[[list[float], int], bool] = _should_stop,
    load: bool = True,
    number: Callable[[Tensor], Any] = Tensor.item,
    due: Callable[[int, int], bool] = lambda step, every: step % every == 0,
) -> Callable:
    """The answer with one of its parts in another way."""

    def answer(
        model: Any,
        batches: Iterable,
        loss_function: Callable,
        optimizer: Any,
        scheduler: Any,
        validate: Callable,
        eval_every: int,
        patience: int,
        path: Any,
    ) -> tuple:
        losses, scores = [], []
        for step, (images, targets) in enumerate(batches, start=1):
            model.train()
            loss = loss_function(model(images), targets)
            if zero == "before":
                optimizer.zero_grad()
            loss.backward()
            if zero == "after":
                optimizer.zero_grad()
            if schedule == "before":
                scheduler.step()
            optimizer.step()
            if schedule == "step":
                scheduler.step()
            losses.append(number(loss))
            if due(step, eval_every):
                if schedule == "evaluation":
                    scheduler.step()
                scores.append(validate(model.eval()))
                if better(scores):
                    torch.save(model.state_dict(), path)
                if stop(scores, patience):
                    break
        if load:
            model.load_state_dict(torch.load(path, weights_only=True))
        model.eval()
        return losses, scores

    return answer


def _fit(
    model: Any,
    batches: Iterable,
    loss_function: Callable,
    optimizer: Any,
    scheduler: Any,
    validate: Callable,
    eval_every: int,
    patience: int,
    path: Any,
) -> tuple[list[float], list[float]]:
    """Trains with validation, a checkpoint of the best weights and an early stop -> losses, scores."""
    return _fitting()(model, batches, loss_function, optimizer, scheduler, validate, eval_every, patience, path)


def _fit_cases() -> Iterable[Case]:
    batches = [(torch.randn(2, 3, 6, 7), torch.randint(0, 2, (2, 6, 7))) for _ in range(13)]
    model = _Watched()
    yield Case((model, batches, [0.5, 0.7, 0.6, 0.7, 0.65, 0.9], 2, 3), "where it stops early")
    yield Case((model, batches[:7], [0.5, 0.4, 0.6], 2, 3), "where the batches end first")
    yield Case((model, batches[:4], [0.0, 0.0], 2, 3), "where no score is above 0")


_WHOLE = "the file must hold model.state_dict(), nothing around it"


def _run_fit(check: Check, answer: Callable, case: Case) -> Parts:
    """Losses, scores, and the weights at the end; in which mode the network ran is checked on the way."""
    model, batches, promised, eval_every, patience = copy.deepcopy(case.args[0]), *case.args[1:]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.8**step)
    asked: dict[int, bool] = {}  # whether an evaluation is in train mode, by the number of forward passes before it

    def validate(network: Any) -> float:
        check.that(network is model, f"validate is given {kind_of(network)}: hand the model over.")
        check.that(len(model.modes) not in asked, "validate is called twice in one evaluation: keep its score.")
        asked[len(model.modes)] = any(module.training for module in network.modules())
        often = f"{case.when} it validates too often: where step % eval_every is 0; count steps from 1."
        check.that(len(asked) <= len(promised), often)
        return promised[len(asked) - 1]

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):  # of the order of steps
        path = Path(folder, "best.pt")
        loss = nn.CrossEntropyLoss()
        settings = (validate, eval_every, patience, path)
        given = check.call(answer, model, batches, loss, optimizer, scheduler, *settings, when=case.when)
        try:
            kept = torch.load(path, weights_only=True) if path.exists() else {}
        except pickle.UnpicklingError:  # more than tensors
            kept = None
    pair = isinstance(given, (tuple, list)) and len(given) == 2 and all(isinstance(part, list) for part in given)
    check.that(pair, f"it returns {kind_of(given)}, expected two lists, the losses and the scores.")
    losses, scores = given
    check.that(
        all(model.modes), "a step runs in eval mode: model.train() at its beginning, for validation has changed it."
    )
    check.that(not any(asked.values()), "validate gets a model in train mode: validate(model.eval()).")
    check.that(kept != {}, "the file `path` is not written: torch.save(model.state_dict(), path) at a better score.")
    check.that(isinstance(kept, dict) and kept.keys() == model.state_dict().keys(), f"{_WHOLE}.")
    check.that(not any(module.training for module in model.modules()), "the model ends in train mode: model.eval().")
    found = Parts({f"{case.when} the number of losses": len(losses), f"{case.when} the list of scores": scores})
    found |= {f"{case.when} the loss of step {step}": value for step, value in enumerate(losses, 1)}
    found |= {f"{case.when} at the end {name}": tensor for name, tensor in model.state_dict().items()}
    return Parts(found | {f"{case.when} in the file {name}": tensor for name, tensor in kept.items()})


fit = Exercise(
    "fit",
    _fit,
    cases=_fit_cases,
    run=_run_fit,
    tolerance=1e-4,
    errors={
        "weights_only": f"{_WHOLE}.",
        "No such file": "nothing was saved: save at each score above the best so far, which starts at -math.inf.",
    },
    wrong=[
        (_fitting(load=False), "it ends with the last weights: load those of the file, which are the best."),
        (
            _fitting(better=lambda scores: scores[-1] >= max(scores)),
            "of equal scores the last is kept: only a better one (>) replaces the file.",
        ),
        (_fitting(better=lambda scores: True), "each evaluation's weights are saved: only those of a better score."),
        (
            _fitting(better=lambda scores: scores[-1] <= min(scores)),
            "the weights of the lowest score are kept: higher is better.",
        ),
        (_fitting(stop=lambda scores, patience: False), "it never stops early: break where should_stop says so."),
        (
            _fitting(stop=lambda scores, patience: _should_stop(scores, patience - 1)),
            "it stops an evaluation too early: should_stop(scores, patience).",
        ),
        (_fitting(zero="never"), "gradients of the steps before are still there: optimizer.zero_grad()."),
        (
            _fitting(zero="after"),
            "zero_grad() comes between backward() and step(), so that nothing is learned: before.",
        ),
        (
            _fitting(schedule="before"),
            "scheduler.step() comes before optimizer.step(), so that the first rate is never used: after it.",
        ),
        (_fitting(schedule="never"), "the rate never changes: scheduler.step() after each optimizer.step()."),
        (
            _fitting(schedule="evaluation"),
            "the rate changes at evaluations only: scheduler.step() after each optimizer.step().",
        ),
        (_fitting(number=lambda loss: loss), "the losses are tensors: loss.item()."),
        (
            _fitting(due=lambda step, every: (step - 1) % every == 0),
            "it validates at other steps: count steps from 1, enumerate(batches, start=1).",
        ),
        (
            _fitting(due=lambda step, every: True),
            "it validates after every step: only where step % eval_every is 0.",
        ),
    ],
)

# ------------------------------------------- log_confidence, feature_gradients


def _confidence(
    softmax: Callable[[Tensor], Tensor] = lambda logits: logits.softmax(1),
    summary: Callable[[Tensor], Tensor] = lambda probabilities: probabilities.amax(1).mean(),
    number: Callable[[Tensor], Any] = Tensor.item,
    always: bool = False,
    evaluating: bool = True,
) -> Callable:
    """The answer with one of its parts in another way."""

    def answer(event: Any, images: Tensor, log: Callable) -> None:
        if event.evaluation is None and not always:
            return
        if evaluating:
            event.model.eval()
        with torch.no_grad():
            log({"confidence": number(summary(softmax(event.model(images))))}, step=event.step)

    return answer


def _log_confidence(event: Any, images: Tensor, log: Callable[..., None]) -> None:
    """After an evaluation: log({"confidence": c}, step=...), c the mean of the largest softmax probability."""
    _confidence()(event, images, log)


def _run_confidence(check: Check, answer: Callable, case: Case) -> Parts:
    """What is logged of four steps of a training, two of them with an evaluation."""
    model, images = copy.deepcopy(case.args[0]), case.args[1]
    found = Parts()
    for step in range(1, 5):
        model.train()
        scored = SimpleNamespace(scores=None) if step % 2 == 0 else None
        logged: list[tuple] = []
        event = SimpleNamespace(step=step, row={"step": step}, model=model, evaluation=scored)
        log = _recorder(logged)
        check.call(lambda x, e=event, log=log: answer(e, x, log) or True, images, when=f"after step {step}")
        if scored is None:
            check.that(
                not logged,
                "it logs after a step without evaluation: if event.evaluation is None: return.",
            )
            continue
        check.that(len(logged) == 1, f"it calls log {len(logged)} times after an evaluation, expected once.")
        values, at = logged[0]
        named = isinstance(values, dict) and set(values) == {"confidence"}
        check.that(named, f"it logs {values!r}, expected {{'confidence': a number}}.")
        check.that(at == step, f"it logs with step={at}, expected step=event.step, here {step}.")
        check.that(not any(model.graphs), "the forward pass makes a graph: with torch.no_grad() around it.")
        found[f"the confidence after step {step}"] = values["confidence"]
    return found


def _recorder(logged: list[tuple]) -> Callable[..., None]:
    def log(values: Any, step: Any = None) -> None:
        logged.append((values, step))

    return log


def _confidence_cases() -> Iterable[Case]:
    images = torch.randn(2, 3, 6, 7)
    yield Case((calibrated(_Watched(), 3 * images + 1), images))


log_confidence = Exercise(
    "log_confidence",
    _log_confidence,
    cases=_confidence_cases,
    run=_run_confidence,
    wrong=[
        (_confidence(evaluating=False), "the network is in train mode: event.model.eval() before it is asked."),
        (_confidence(softmax=lambda logits: logits), "these are logits: take their softmax over the classes first."),
        (_confidence(softmax=torch.sigmoid), "this is a sigmoid: take the softmax over the classes."),
        (
            _confidence(softmax=lambda logits: logits.softmax(-1)),
            "the softmax is over columns: take it over dim 1.",
        ),
        (_confidence(summary=lambda p: p.amax()), "this is one pixel's: take the mean over pixels and images."),
        (_confidence(summary=lambda p: p.mean()), "this is the mean of all: of each pixel the largest, then the mean."),
        (_confidence(summary=lambda p: p[:, 1].mean()), "this is class 1's probability: of each pixel the largest."),
        (_confidence(summary=lambda p: 100 * p.amax(1).mean()), "this is in percent: as a share from 0 to 1."),
        (_confidence(number=lambda value: value), "it logs a tensor: .item() makes a number of it."),
    ],
)


def _gradients(
    measure: Callable[[Tensor], Tensor] = Tensor.norm, order: int = 1, of_inputs: bool = False, of_loss: bool = True
) -> Callable:
    """The answer with one of its parts in another way."""

    def answer(model: Any, images: Tensor, loss_of: Callable[[Tensor], Tensor]) -> list[float]:
        features: list[Tensor] = []

        def keep(_: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
            features.append(given[0] if of_inputs else out)

        hooks = [block.register_forward_hook(keep) for block in model.contracting]
        loss = loss_of(model(images.requires_grad_(of_inputs)))
        for hook in hooks:
            hook.remove()
        return [measure(x).item() for x in (torch.autograd.grad(loss, features) if of_loss else features)][::order]

    return answer


def _feature_gradients(model: Any, images: Tensor, loss_of: Callable[[Tensor], Tensor]) -> list[float]:
    """L2 norms of the gradients of the loss with respect to what the blocks of `model.contracting` give."""
    return _gradients()(model, images, loss_of)


def _of_weights(weights: Callable[[nn.Module], Iterable[Tensor]]) -> Callable:
    """A wrong answer: the norms of the gradients of each block's weights."""

    def answer(model: Any, images: Tensor, loss_of: Callable[[Tensor], Tensor]) -> list[float]:
        loss = loss_of(model(images))
        of_blocks = [torch.autograd.grad(loss, list(weights(b)), retain_graph=True) for b in model.contracting]
        return [torch.cat([gradient.flatten() for gradient in block]).norm().item() for block in of_blocks]

    return answer


def _run_gradients(check: Check, answer: Callable, case: Case) -> Parts:
    model, images = copy.deepcopy(case.args[0]), case.args[1]
    given = check.call(answer, model, images, lambda logits: logits.square().mean())
    check.that(isinstance(given, list), f"it returns {kind_of(given)}, expected a list of numbers.")
    check.that(len(given) == 5, f"it returns {len(given)} numbers, expected five: one for each block of contracting.")
    left = any(hooks for m in model.modules() for kind, hooks in vars(m).items() if kind.endswith("_hooks"))
    check.that(not left, "its hooks stay on the network: keep what register_forward_hook returns, and remove() each.")
    return Parts({f"the norm at contracting[{level}]": norm for level, norm in enumerate(given)})


def _gradient_cases() -> Iterable[Case]:
    images = torch.randn(2, 3, 32, 48)
    yield Case((calibrated(models.UNet(2, 2), images), images))


feature_gradients = Exercise(
    "feature_gradients",
    _feature_gradients,
    cases=_gradient_cases,
    run=_run_gradients,
    errors={
        "does not require grad": "the image asks for no gradient: take the blocks' outputs, not their inputs.",
        "'NoneType' object has no attribute": "a gradient is None: retain_grad() on each block's output keeps it; a "
        "backward hook is given it in grad_output.",
    },
    wrong=[
        (_gradients(order=-1), "the order is reversed: from the image to the bottom."),
        (
            _gradients(measure=lambda g: g.square().mean().sqrt()),
            "this is the root mean square: take the root of the sum, gradient.norm().",
        ),
        (_gradients(measure=lambda g: g.abs().mean()), "this is the mean of absolute values: take the L2 norm."),
        (_gradients(measure=lambda g: g.abs().sum()), "this is the L1 norm: take the L2 norm, gradient.norm()."),
        (_gradients(measure=lambda g: g.square().sum()), "this is the square of the norm: take its root."),
        (_gradients(measure=lambda g: g.abs().max()), "this is the largest value: take the L2 norm."),
        *(
            (
                _of_weights(weights),
                "these are gradients of the weights: take those of each block's output, as a hook sees it.",
            )
            for weights in (nn.Module.parameters, lambda block: [next(block.parameters())])
        ),
        (
            _gradients(of_inputs=True),
            "these are gradients of the blocks' inputs: of their outputs, which a forward hook is given last.",
        ),
        (
            _gradients(of_loss=False),
            "these are norms of the features themselves: take those of their gradients, torch.autograd.grad(loss, "
            "features).",
        ),
    ],
)
