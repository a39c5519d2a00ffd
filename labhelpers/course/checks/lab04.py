"""Checks of lab 04: sizes without padding, U-Net and its parts, losses and scores of two classes, training, tiles."""

import copy
import math
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers import models
from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, calls, edited, kind_of, run_function
from labhelpers.course.checks.layers import (
    IN_PLACE,
    NO_GRADIENT,
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
    make,
    replaced,
    rounding,
    run_loss,
    run_loss_case,
    run_watched,
)
from labhelpers.evaluation import tiles
from labhelpers.models import unet as library
from labhelpers.training.losses import log_one_minus

# ---------------------------------------------------------- valid_output_size


def _valid_output_size(size: int) -> int:
    """Side of the map that the U-Net of 2015 makes of an image of this side, without padding: 572 -> 388.

    Raises:
        ValueError: a max-pool meets an odd side, or no pixel is left.
    """
    if size < 188 or (size - 188) % 16:
        raise ValueError(f"size={size}: a max-pool meets an odd side, or no pixel is left; 188, 204, 220, ... fit")
    for _ in range(4):  # down
        size = (size - 4) // 2  # two 3x3 convolutions, and a max-pool
    size = size - 4
    for _ in range(4):  # up
        size = 2 * size - 4
    return size


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
    cases=lambda: calls("valid_output_size", *((n,) for n in (*_FITTING, 573, 574, 576, 580, 4, 20, 140, 172))),
    run=_run_size,
    wrong={
        "the output is as large as the input: without padding each 3x3 convolution takes 2 pixels off.": lambda n: n,
        "each level takes 2 pixels off: it has two 3x3 convolutions, so it takes 4.": {"- 4": "- 2"},
        "each level takes 8 pixels off: a 3x3 convolution takes 1 off each side, so two take 4.": {"- 4": "- 8"},
        "this is the map at the bottom: go on with four up-convolutions.": {"2 * size - 4": "size"},
        "this is what the bottom is given: its two convolutions and the way up follow.": {
            "= size - 4": "= size",
            "2 * size - 4": "size",
        },
        "the convolutions on the way up are left out: two on each level.": {"2 * size - 4": "2 * size"},
        "a level on the way up has two convolutions, too, and takes 4 pixels off.": {"2 * size - 4": "2 * size - 2"},
        "the convolutions on the way down are left out: two on each level.": {"(size - 4)": "size"},
        "a level on the way down has two convolutions, and takes 4 pixels off.": {"(size - 4)": "(size - 2)"},
        "the two convolutions at the bottom, after the fourth pooling, are left out: 4 pixels more.": {
            "= size - 4": "= size"
        },
        "the bottom has two convolutions, too, and takes 4 pixels off.": {"= size - 4": "= size - 2"},
        "the bottom has two convolutions, not four.": {"= size - 4": "= size - 8"},
        "it halves three times: the U-Net of the figure four times.": {"range(4)": "range(3)"},
        "it halves five times: the U-Net of the figure four times.": {"range(4)": "range(5)"},
        "an up-convolution of 2x2 with stride 2 doubles the size exactly: nothing is taken off.": {
            "2 * size - 4": "2 * size - 5"
        },
        "it halves four times and doubles three times: as often as it halves.": {"range(4):  # up": "range(3):"},
        "on the way up the convolutions come after each doubling, not before.": {"2 * size - 4": "2 * (size - 4)"},
    },
)

# ---------------------------------------------------------------- double_conv

_HALVES = {"{}, first half": "{0}CNR", "{}, second half": "cnr{1}", "both halves of {}": "{0}{1}"}
_WRONG_ORDERS = {
    hint.format(half): whole.format(order, order.upper())
    for half, whole in _HALVES.items()
    for order, hint in ORDERS.items()
} | {
    "the second half of {} is not used: convolution, batch norm, ReLU, twice.": "cnr",
    "{} uses the first batch norm twice: each convolution has its own.": "cnrCnR",
}
"""How `Rewired` runs a double convolution that is wrong; a hint has a place for the block's name."""

_ACTIVATIONS = {"LeakyReLU": "leaky_relu", "ReLU6": "relu6", "GELU": "gelu", "SiLU": "silu", "ELU": "elu"}
_ACTIVATIONS |= {"Sigmoid": "sigmoid", "Tanh": "tanh"}
_WRONG_ACTIVATIONS = {
    f"the activation in {{}} is {name}: the U-Net has ReLU.": f"nn.{kind}()" for kind, name in _ACTIVATIONS.items()
}


def _double_layers(
    check: Check, block: nn.Module, name: str, channels: tuple[int, int], known: dict[int, str] | None = None
) -> list[ConvNorm]:
    """The two convolutions of a block with their batch norms, checked for channels (in, out), kernel and padding."""
    pair = conv_norms(check, block, name, 2)
    first, second = (f"the {number} convolution of {name}" for number in ("first", "second"))
    check_conv(check, pair[0].conv, first, channels, 3, known)
    made = {channels[0]: "the first convolution has made out_channels of them"}
    check_conv(check, pair[1].conv, second, (channels[1], channels[1]), 3, made)
    for (conv, _), words in zip(pair, (first, second), strict=True):
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
    wrong={
        **{
            hint.format("the block"): lambda a, b, order=order: Rewired(library.double_conv(a, b), order)
            for hint, order in _WRONG_ORDERS.items()
        },
        **{hint.format("the block"): {"nn.ReLU(inplace=True)": other} for hint, other in _WRONG_ACTIVATIONS.items()},
    },
)

# ------------------------------------------------------------ pad_to_multiple


def _pad_to_multiple(images: Tensor, multiple: int = 16) -> Tensor:
    """images (B, C, H, W), the last row and column repeated until both sides are multiples."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom), mode="replicate")


_SIDES = "F.pad takes (left, right, top, bottom)"

_WRONG_PADDINGS: dict[str, Any] = {
    f"it pads at the left and at the top: at the right and the bottom; {_SIDES}.": {
        "0, right, 0, bottom": "right, 0, bottom, 0"
    },
    f"it pads at the top: at the bottom; {_SIDES}.": {"0, right, 0, bottom": "0, right, bottom, 0"},
    f"it pads at the left: at the right; {_SIDES}.": {"0, right, 0, bottom": "right, 0, 0, bottom"},
    "it pads on all sides: at the right and at the bottom alone, so that [:height, :width] crops.": {
        "0, right, 0, bottom": "right // 2, right - right // 2, bottom // 2, bottom - bottom // 2"
    },
    'it pads with zeros: mode="replicate" repeats the last pixels.': {"replicate": "constant"},
    **{
        f'it pads with mode="{mode}": mode="replicate" is asked for.': {"replicate": mode}
        for mode in ("reflect", "circular")
    },
    "it makes a square: each side grows to its own next multiple.": {
        "-height %": "max(height, width) - height + -max(height, width) %",
        "-width %": "max(height, width) - width + -max(height, width) %",
    },
    "it crops: pad instead.": lambda images, multiple=16: images[
        ..., : images.shape[2] // multiple * multiple, : images.shape[3] // multiple * multiple
    ],
    "it resizes, which changes every pixel: pad instead, and the image stays as it is.": [
        {"F.pad": "F.interpolate", "0, right, 0, bottom": "height + bottom, width + right", "replicate": mode}
        for mode in ("bilinear", "nearest", "bicubic")
    ],
}

pad_to_multiple = Exercise(
    "pad_to_multiple",
    _pad_to_multiple,
    cases=lambda: [  # sides below, above and at a multiple, which differ; a single pixel; the multiple's default
        Case((torch.randn(2, 3, h, w), *given), f"for images of {h}x{w} pixels, multiple={[*given, 16][0]}")
        for h, w, *given in ((5, 9, 4), (8, 12, 4), (7, 6, 3), (1, 1, 8), (17, 20), (16, 40))
    ],
    errors={"Unrecognised padding mode": 'torch calls it mode="replicate".'},
    wrong={
        "a side that fits gets one multiple more: -side % multiple is 0 there, multiple - side % multiple not.": {
            "-height %": "multiple - height %",
            "-width %": "multiple - width %",
        },
        f"height and width are exchanged: {_SIDES}, the last axis first.": {"right, 0, bottom": "bottom, 0, right"},
        "nothing is padded: each side grows to the next multiple.": lambda images, multiple=16: images.clone(),
        **_WRONG_PADDINGS,
        "`multiple` is not used: is 16 written by hand?": {"% multiple": "% 16"},
    },
)

# ----------------------------------------------------------------------- unet

_LISTS = {
    "contracting": (5, "double convolutions, the first at full size, the last at the bottom"),
    "up": (4, "up-convolutions, the first at the bottom"),
    "expanding": (4, "double convolutions, the first just above the bottom, the last at full size"),
}


def _unet_layers(check: Check, model: nn.Module, num_classes: int, base: int) -> dict[str, list[Any]]:
    """The layers with weights by the names that hints give them, in the order of the forward pass; two of a block."""
    parts = {name: _listed(check, model, name) for name in _LISTS}
    sides = list(pairwise([3, *(base * 2**level for level in range(5))]))  # (3, c), (c, 2c), ..., (8c, 16c)
    known = dict.fromkeys((64, 128, 256, 512, 1024), f"the number is written by hand, use base_channels = {base}")
    known[base] = "channels double with each level"
    layers: dict[str, list[Any]] = {}
    for level, block in enumerate(parts["contracting"]):
        name = f"contracting[{level}]"
        layers[name] = _double_layers(check, block, name, sides[level], known)
    for place, (width, wide) in enumerate(sides[:0:-1]):
        layers[f"up[{place}]"] = [_up_convolution(check, parts["up"][place], place, base)]
        joined = {
            width: f"skip and enlarged map are concatenated, {width} + {width} channels, not added or left out",
            width + wide: f"the up-convolution halves the channels to {width}, so that it takes {width} + {width}",
        }
        if place == 0:
            joined |= {2 * base: "the list begins just above the bottom, not at full size"}
        name = f"expanding[{place}]"
        layers[name] = _double_layers(check, parts["expanding"][place], name, (wide, width), known | joined)
    check_unshared(
        {f"{name}, {i}": layer for name, pair in layers.items() for i, layer in enumerate(pair) if len(pair) == 2}
    )
    score = _only(check, getattr(model, "score", None), nn.Conv2d, "score", "1x1 convolution to num_classes")
    known |= {2 * base: "it comes after the last double convolution, which gives base_channels"}
    check_conv(check, score, "score", (base, num_classes), 1, known | {21: "21 is written by hand"})
    check.that(score.bias is not None, "score has no bias: no batch norm follows that would replace it.")
    return layers | {"score": [score]}


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


def _up_convolution(check: Check, module: nn.Module, place: int, base: int) -> nn.ConvTranspose2d:
    name, wide, half = f"up[{place}]", base * 2 ** (4 - place), base * 2 ** (3 - place)
    layer = _only(check, module, nn.ConvTranspose2d, name, "2x2 transposed convolution of stride 2")
    known = {
        (wide, wide): ": an up-convolution halves the channels",
        (half, wide): ": channels in and out are exchanged",
    }
    if place == 0:
        known |= {(2 * base, n): ": the list begins at the bottom, not at full size" for n in (base, 2 * base)}
    by_hand = ": the number is written by hand, use base_channels" if layer.in_channels in (1024, 512) else ""
    found = layer.in_channels, layer.out_channels
    why = known.get(found, "" if place else by_hand)
    check.that(found == (wide, half), f"{name} maps {found[0]} to {found[1]} channels, expected {wide} to {half}{why}.")
    settings = layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups
    check.that(
        settings == ((2, 2), (2, 2), (0, 0), (0, 0), (1, 1), 1),
        f"{name} is to have kernel 2, stride 2 and nothing else, which doubles the size exactly; found {layer}.",
    )
    return layer


def _inspect_unet(check: Check, answer: Callable) -> None:
    for num_classes, base in ((2, 5), (5, 3)):
        _unet_layers(check, make(check, answer, num_classes, base), num_classes, base)


@lru_cache(maxsize=4)
def _right_unet(num_classes: int, base: int, size: tuple[int, int, int]) -> tuple[Tensor, dict[str, list], Tensor, Any]:
    """Images (B, 3, H, W), the library's layers with weights that let every mistake show, and how those are trained."""
    images, model = torch.randn(size[0], 3, *size[1:]), models.UNet(num_classes, base)
    layers = _unet_layers(Check(), model, num_classes, base)
    for layer in chain(*layers.values()):
        if isinstance(layer, ConvNorm):
            layer.vary()
        elif isinstance(layer, nn.ConvTranspose2d):  # the student's may lack the bias: batch norm follows in the block
            layer.load_state_dict({"bias": torch.zeros(layer.out_channels)}, strict=False)
    trained = copy.deepcopy(calibrated(model, images)).train()
    logits = trained(images)
    return images, layers, logits.detach(), _far_gradient(logits, next(trained.parameters()))


def _far_gradient(logits: Tensor, weight: Tensor) -> Any:
    weighting = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad((logits * weighting).sum(), weight, allow_unused=True)


def _run_unet(check: Check, answer: Callable, case: Case) -> Parts:
    """The same weights in: what each layer is given, in the order of the forward pass, and the logits."""
    num_classes, base, size = case.args
    images, right_layers, *right = _right_unet(num_classes, base, size)
    model = make(check, answer, num_classes, base)
    layers = _unet_layers(Check(), model, num_classes, base)
    for source, own in zip(chain(*right_layers.values()), chain(*layers.values()), strict=True):
        if isinstance(source, ConvNorm):
            source.copy_to(own)
        else:
            own.load_state_dict(source.state_dict(), strict=False)
    entrances = {name: getattr(first, "conv", first) for name, (first, *_) in layers.items()}
    if case.what:
        return _run_training(check, model, right, entrances, images)
    fits = size[1] % 16 == size[2] % 16 == 0
    when = f"in forward for {'' if fits else 'a '}{size[1]}x{size[2]} image{'s' if fits else ''}"
    unpadded = {
        "must match": "for a size that does not halve four times skip and enlarged map differ in size: pad the images "
        "to a multiple of 16 first, and crop the logits back."
    }
    with torch.no_grad():
        logits, seen = run_watched(check, model, entrances.values(), images, when=when, errors={} if fits else unpadded)
    check.that(isinstance(logits, Tensor), f"{when} it returns {kind_of(logits)}, expected the logits, one tensor.")
    if fits:
        _check_logits_shape(check, tuple(logits.shape), (size[0], num_classes, *size[1:]))
    parts, where = Parts(), "" if fits else f" {when}"
    for name, given in zip(entrances, seen, strict=True):
        if given is None:
            raise Mistake(f"forward does not use {name}, or uses it more than once.")
        halves = zip((" of the skip", " of the enlarged map"), given.chunk(2, 1), strict=True)
        for half, part in halves if name.startswith("expanding") else [("", given)]:
            parts[f"what {name} is given{half}{where}"] = part
    return Parts(parts | {f"the {'logits' if fits else 'result'} {when}": logits})


def _run_training(
    check: Check, model: nn.Module, right: Sequence[Any], entrances: dict[str, Any], images: Tensor
) -> Parts:
    """Gradients for every layer; then the logits in training mode, and the gradient farthest from them."""
    evaluated = check.call(model, images)
    if not isinstance(evaluated, Tensor):
        return Parts()  # the case before this one says so
    unused = "{} gets no gradient: is it frozen, run under no_grad, or does its result not reach the logits?"
    check_gradients(check, model, evaluated, {name: layer.weight for name, layer in entrances.items()}, unused)
    logits = check.call(model.train(), images, when="in training mode")
    first = entrances["contracting[0]"].weight
    found = check.call(lambda: logits.requires_grad and _far_gradient(logits, first), when="in backward")
    check.that(found and found[0] is not None, "in training mode " + unused.format("contracting[0]"))
    right_logits, (right_gradient,) = right
    if isinstance(logits, Tensor) and torch.allclose(logits, right_logits, rtol=0, atol=rounding(right_logits)):
        lacks = "the gradient of contracting[0] lacks a part: is a skip detached, or made under no_grad?"
        check.that(torch.allclose(found[0], right_gradient, rtol=0, atol=10 * rounding(right_gradient)), lacks)
    words = "in training mode (is there a dropout, another norm, or an eval()?) the result"
    return Parts({words: logits.detach() if isinstance(logits, Tensor) else logits})


def _check_logits_shape(check: Check, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    half = tuple(n // 2 for n in expected[2:])
    reasons = {
        ": [..., :-0] is empty, so crop with [..., :height, :width], which fits any padding": 0 in found,
        ": logits keep one channel for each class, leave the argmax out": len(found) == 3,
        ": is the image pooled before contracting[0]? It works at full size": found[2:] == half,
        ": an image whose size fits already is not padded": len(found) == 4 and found[2] > expected[2],
    }
    why = next((why for why, holds in reasons.items() if holds), "")
    size = "x".join(map(str, expected[2:]))
    check.that(found == expected, f"forward gives shape {found} for images {size}, expected {expected}{why}.")


def _also(statement: str) -> dict[str, str]:
    """The change of a network that does one thing more while it is made."""
    return {"self.score = ": f"{statement}\n        self.score = "}


def _padding_as(answers: Any) -> list[Any]:
    """Networks that pad like these wrong answers to `pad_to_multiple`."""

    def network(answer: Any) -> type:
        def forward(self: nn.Module, images: Tensor) -> Tensor:
            pad = answer if callable(answer) else edited(_pad_to_multiple, answer)
            return models.UNet.forward(self, pad(images))[..., : images.shape[2], : images.shape[3]]

        return changed(models.UNet, forward=forward)

    return [network(answer) for answer in (answers if isinstance(answers, list) else [answers])]


_WRONG_POOLS = {
    "there is an average before contracting[{}]: nn.MaxPool2d(2).": ["F.avg_pool2d(x, 2)"],
    "there is a pooling of 3x3 before contracting[{}]: nn.MaxPool2d(2).": ["F.max_pool2d(x, 3, 2, 1)"],
    "every other pixel is taken before contracting[{}]: nn.MaxPool2d(2).": ["x[..., ::2, ::2]", "x[..., 1::2, 1::2]"],
}
_WRONG_JOINS = {
    "the parts are concatenated in the order the enlarged map, the skip for expanding[{0}]: the skip comes first.": [
        "[x, left]"
    ],
    "expanding[{0}] is given skip + enlarged map: concatenate the two.": ["[left + x] * 2"],
    "there is a ReLU after the up-convolution before expanding[{0}]: leave it out.": ["[left, x.relu()]"],
    "expanding[{0}] is given the skip twice, without the enlarged map.": ["[left] * 2"],
    "expanding[{0}] is given the enlarged map twice, without the skip.": ["[x] * 2"],
    "expanding[{0}] is given zeros for the skip: it is what contracting[{1}] gives.": ["[0 * left, x]"],
    "the skip of expanding[{0}] is pooled and enlarged again: take what contracting[{1}] gives.": [
        f"[F.interpolate(F.max_pool2d(left, 2), scale_factor=2, mode={mode!r}), x]" for mode in ("nearest", "bilinear")
    ],
}
_JOIN = "expanding[0] joins what contracting[3] gives (before it is pooled), expanding[3] what contracting[0] gives"
_PLACES = [("True", "len(skips) == 3"), ("len(skips) == 2",), ("len(skips) == 1",), ("len(skips) == 0",)]
"""Where expanding[place] is joined; the mistake of the first place may be one of all."""

_PADDED, _CROPPED = "pad_to_multiple(images, MULTIPLE)", "self.score(x)[..., :height, :width]"
_CROP = "crop the logits back to the size of the image, [..., :height, :width]"

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
    wrong={
        "the image is pooled before contracting[0]: after it.": {
            _PADDED: "pad_to_multiple(F.max_pool2d(images, 2), MULTIPLE)",
            _CROPPED: "F.interpolate(self.score(x), (height, width))",
        },
        "an image whose size fits is padded, too: leave it as it is.": {
            _PADDED: "F.pad(images, (0, 16 - width % 16, 0, 16 - height % 16), mode='replicate')"
        },
        **{
            hint.format(level): [{"down(x)": f"{pool} if len(skips) == {level} else down(x)"} for pool in pools]
            for level in range(1, 5)
            for hint, pools in _WRONG_POOLS.items()
        },
        "the bottom is pooled once more: there are four poolings, none after contracting[4].": {
            "for up, block": "x = F.interpolate(F.max_pool2d(x, 2), x.shape[-2:])\n        for up, block"
        },
        **{
            hint.format(place, 3 - place): [
                {"[left, x]": f"{join} if {where} else [left, x]"} for join in joins for where in places
            ]
            for place, places in enumerate(_PLACES)
            for hint, joins in _WRONG_JOINS.items()
        },
        **{
            f"the skip of expanding[{3 - level}] is taken after the first convolution of contracting[{level}]: after "
            "both.": _also(
                f"self.contracting[{level}][2].register_forward_hook(lambda *given: setattr(self, 'half', given[-1]))"
            )
            | {"skips.append(x)": f"skips.append(self.half if len(skips) == {level} else x)"}
            for level in range(4)
        },
        **activated(models.UNet),
        **{
            hint.format(f"{part}[{i}]"): replaced(models.UNet, f"{part}.{i}", partial(Rewired, order=order))
            for part, count in (("contracting", 5), ("expanding", 4))
            for i in range(count)
            for hint, order in _WRONG_ORDERS.items()
        },
        **{
            hint.format("contracting[0]"): _also(f"self.contracting[0][2] = self.contracting[0][5] = {other}")
            for hint, other in _WRONG_ACTIVATIONS.items()
            if "relu6" not in hint  # values are below 6 here
        },
        **{f"for a 37x51 image {hint}": _padding_as(answers) for hint, answers in _WRONG_PADDINGS.items()},
        "for a 37x51 image nothing is padded: each side grows to the next multiple.": {
            _PADDED: "images",
            "[left, x]": "[left, F.pad(x, (0, left.shape[3] - x.shape[3], 0, left.shape[2] - x.shape[2]))]",
        },
        f"the logits keep the size of the padded image: {_CROP}.": {_CROPPED: "self.score(x)"},
        f"the logits are cropped at the left and at the top: {_CROP}.": {":height, :width": "-height:, -width:"},
        f"the logits are cropped on all sides: {_CROP}.": {
            "[..., :height": "[..., (x.shape[2] - height) // 2 :, (x.shape[3] - width) // 2 :][..., :height"
        },
        f"the logits are resized, which moves every edge: {_CROP}.": [
            {_CROPPED: f"F.interpolate(self.score(x), (height, width), mode={mode!r})"}
            for mode in ("bilinear", "nearest")
        ],
    },
)

# ------------------------------------------------------- binary_cross_entropy


def _binary_cross_entropy(logits: Tensor, target: Tensor, ignore_index: int = 255) -> Tensor:
    """logits (B, K, H, W), target (B, H, W) int64 -> the mean over valid pixels and maps, a scalar."""
    k, valid = logits.shape[1], target != ignore_index
    y = F.one_hot(torch.where(valid, target, 0), k).movedim(-1, 1)
    log_p = logits.log_softmax(1)
    log_q = log_one_minus(log_p)
    terms = -(y * log_p + (1 - y) * log_q)
    return (terms * valid[:, None]).sum() / (valid.sum() * k).clamp_min(1)


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


def _p_is(p: str) -> dict[str, str]:
    """The change of the loss whose p is another; the maps of that need not add up to one."""
    return {"log_softmax(1)": f"{p}.log()", "log_one_minus(log_p)": "(1 - log_p.exp()).log()"}


_MEAN = "(terms * valid[:, None]).sum() / (valid.sum() * k).clamp_min(1)"
_WITH_ZEROS = "(terms * valid[:, None]).mean()"
_TERMS = "-(y log p + (1 - y) log(1 - p)), a term for what is the class and one for what is not"
_SIGMOID = "it uses sigmoid (is it ..._with_logits?): p is the softmax over the maps."
_VOID_ZEROS = "void pixels are counted in the mean, as zeros: divide by the number of valid ones."

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
    wrong={
        NO_GRADIENT: {_MEAN: f"({_MEAN}).detach()"},
        "the value is right, the gradient is not: is a part of it detached? Both logarithms must learn.": {
            "log_one_minus(log_p)": "log_one_minus(log_p).detach()"
        },
        "the sign is wrong: logarithms of probabilities are negative, the loss is minus their mean.": {"-(y *": "(y *"},
        "it is the sum: take the mean over valid pixels and maps.": {" / (valid.sum() * k).clamp_min(1)": ""},
        "it is summed over the maps: take the mean over them, too, as binary_cross_entropy does.": {" * k": ""},
        _VOID_ZEROS: {_MEAN: _WITH_ZEROS},
        "it is averaged within each image first: divide once, by the valid pixels of the batch.": {
            _MEAN: "((terms.mean(1) * valid).sum((1, 2)) / valid.sum((1, 2))).mean()"
        },
        **{
            f"{which} is missing: {_TERMS}.": [{term: ""}, {term: "", " * k": ""}]
            for which, term in {"(1 - y) log(1 - p)": " + (1 - y) * log_q", "y log p": "y * log_p + "}.items()
        },
        f"this is cross-entropy, which is the same for two maps only: {_TERMS}.": {
            _MEAN: "F.cross_entropy(logits, target, ignore_index=ignore_index)"
        },
        _SIGMOID: _p_is("sigmoid()"),
        f"{_SIGMOID} And {_VOID_ZEROS}": _p_is("sigmoid()") | {_MEAN: _WITH_ZEROS},
        **{
            f"{also}void pixels are counted as {name}: leave them out.": {_MEAN: "terms.mean()"} | labels | activation
            for name, labels in {
                "background": {},
                "the last class": {"target, 0)": "target, k - 1)"},
                "no class at all": {"movedim(-1, 1)": "movedim(-1, 1) * valid[:, None]"},
            }.items()
            for also, activation in {"": {}, f"{_SIGMOID} And ": _p_is("sigmoid()")}.items()
        },
        "the softmax runs over the wrong axis: over the maps, dim=1 of (B, K, H, W).": [
            _p_is(f"softmax({axis})") for axis in (0, 2, 3)
        ],
        "softmax is taken twice: logits go in, once.": {"log_softmax(1)": "softmax(1).log_softmax(1)"},
        "there is a sigmoid after the softmax: p is the softmax.": _p_is("softmax(1).sigmoid()"),
        "the target is not one-hot: map k of y is 1 where the target is k (one_hot, movedim).": [
            {"1 - y": "1 - target[:, None]", "y *": "target[:, None] *"},
            {"1 - y": "(target != 1)[:, None]", "y *": "(target == 1)[:, None] *"},
        ],
        "the maps of the target are in the wrong order: y[:, k] is target == k.": {
            "movedim(-1, 1)": "movedim(-1, 1).flip(1)"
        },
        "y is turned around: y is 1 for the class itself.": {"F.one_hot": "1 - F.one_hot"},
        **{
            f"only map {only} is compared: each of the K maps has its own term.": {
                "terms * valid[:, None]": f"terms[:, {only}] * valid",
                " * k": "",
            }
            for only in (1, 0)
        },
        "ignore_index is not used: is 255 written by hand?": {"!= ignore_index": "!= 255"},
    },
)

# -------------------------------------------------------------- binary_scores


def _binary_scores(prediction: Tensor, target: Tensor, ignore_index: int = 255) -> dict[str, float]:
    """Labels 0 and 1, uint8 (H, W) or (N, H, W) -> the share of right pixels, and four scores of class 1."""
    valid = target != ignore_index
    one, true = prediction[valid] == 1, target[valid] == 1
    tp, fp, fn, tn = (mask.sum().double() for mask in (one & true, one & ~true, ~one & true, ~one & ~true))
    accuracy = (tp + tn) / (tp + fp + fn + tn)
    precision = tp / (tp + fp) if tp or not fn else 0 * fn  # 0 / 0 is nan
    recall = tp / (tp + fn) if tp or not fp else 0 * fp
    f1 = 2 * tp / (2 * tp + fp + fn)
    iou = tp / (tp + fp + fn)
    scores = {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1, "iou": iou}
    return {name: score.item() for name, score in scores.items()}


def _mean_scores(each: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(scores[name] for scores in each) / len(each) for name in each[0]}


def _of_both_classes(prediction: Tensor, target: Tensor, ignore_index: int = 255) -> dict[str, float]:
    of_class_0 = edited(_binary_scores, {"== 1": "== 0"})
    return _mean_scores([scores(prediction, target, ignore_index) for scores in (_binary_scores, of_class_0)])


def _of_each_image(prediction: Tensor, target: Tensor, ignore_index: int = 255) -> dict[str, float]:
    images = zip(prediction, target, strict=True) if target.ndim == 3 else [(prediction, target)]
    return _mean_scores([_binary_scores(p, t, ignore_index) for p, t in images])


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
    names = ("accuracy", "precision", "recall", "f1", "iou")
    found, listed = run_function(check, answer, case), ", ".join(names)
    check.that(isinstance(found, dict), f"it returns {kind_of(found)}, expected a dict with {listed}.")
    missing = [name for name in names if name not in found]
    check.that(not missing, f"the dict has no {', '.join(missing)}; expected {listed}.")
    return Parts({f"{name} {case.when}": found[name] for name in names})


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
    wrong={
        "class 1 is in neither prediction nor target, so the score is undefined: float('nan').": [
            {"score.item()": "score.nan_to_num(0.0).item()"},
            {"score.item()": "score.nan_to_num(1.0).item()"},
        ],
        "pixels of class 0 that are right count, too.": {"(tp + tn) /": "tp /"},
        "this is recall: accuracy is the share of all valid pixels.": {": accuracy": ": recall"},
        "this is the IoU: accuracy counts class 0 as well.": {": accuracy": ": iou"},
        "this is the mean of both classes' accuracy: the share of all valid pixels that are right.": {
            "(tp + tn) / (tp + fp + fn + tn)": "(tp / (tp + fn) + tn / (tn + fp)) / 2"
        },
        "this is recall: precision divides by the pixels predicted as 1, TP / (TP + FP).": {": precision": ": recall"},
        "this is accuracy: precision is TP / (TP + FP).": {": precision": ": accuracy"},
        "class 1 is in the prediction or in the target, and no pixel is hit: 0, not nan.": [
            {" if tp or not fn else 0 * fn": ""},
            {" if tp or not fp else 0 * fp": ""},
        ],
        "this is precision: recall divides by the pixels that are 1, TP / (TP + FN).": {": recall": ": precision"},
        "this is accuracy: recall is TP / (TP + FN).": {": recall": ": accuracy"},
        "this is specificity, the recall of class 0: TP / (TP + FN).": {": recall": ": tn / (tn + fp)"},
        "this is the arithmetic mean of precision and recall: the harmonic one, 2 P R / (P + R).": {
            ": f1": ": (precision + recall) / 2"
        },
        "the 2 is missing: 2 P R / (P + R).": {": f1": ": f1 / 2"},
        "this is the IoU: F1 is 2 TP / (2 TP + FP + FN).": {": f1": ": iou"},
        "TP is counted once below: 2 TP / (2 TP + FP + FN).": {": f1": ": 2 * iou"},
        "this is the geometric mean of precision and recall: the harmonic one, 2 P R / (P + R).": {
            ": f1": ": (precision * recall).sqrt()"
        },
        "this is F1 (Dice): IoU is TP / (TP + FP + FN).": {": iou": ": f1"},
        "the union counts the intersection twice: TP / (TP + FP + FN).": {": iou": ": f1 / 2"},
        "this is accuracy: IoU leaves out what is class 0 in both.": {": iou": ": accuracy"},
        "this is the mean of both classes: that of class 1 alone is asked for.": [
            {": iou": ": (iou + tn / (tn + fp + fn)) / 2"},
            _of_both_classes,
        ],
        "this is that of class 0: class 1 is what is looked for.": [
            {": iou": ": tn / (tn + fp + fn)"},
            {"== 1": "== 0"},
        ],
        "it sums over both classes: class 1 alone.": {": iou": ": (tp + tn) / (tp + tn + 2 * (fp + fn))"},
        "ignore_index is not used: is 255 written by hand?": {"!= ignore_index": "!= 255"},
        "void pixels are counted as class 0: leave them out.": {"[valid]": ""},
        "void pixels are counted as class 1: leave them out.": {
            "prediction[valid] == 1, target[valid] == 1": "prediction == 1, (target == 1) | ~valid"
        },
        "this is the mean over images: count the pixels of all of them first.": _of_each_image,
        "this is in percent: a fraction between 0 and 1.": {"score.item()": "100 * score.item()"},
    },
)

# ---------------------------------------------------------------- should_stop


def _should_stop(scores: list[float], patience: int) -> bool:
    """Whether none of the last `patience` scores (1 or more) is above the best one before them."""
    best, waited = -math.inf, 0
    for score in scores:
        waited = 0 if score > best else waited + 1
        best = max(best, score)
    return waited >= patience


_STOP_CASES = [([0.6, 0.5], 2), ([0.6], 1), ([], 2), ([0.5, 0.6, 0.6, 0.59], 2), ([0.5, 0.6, 0.59, 0.61], 2)]
_STOP_CASES += [([0.5, 0.6, 0.55, 0.58], 3), ([0.6, 0.5, 0.52, 0.54], 3), ([0.6, 0.5, 0.52, 0.54], 2)]
_STOP_CASES += [([0.5, 0.7, 0.6], 2), ([0.5, 0.6, 0.4], 2), ([0.5, 0.4, 0.4, 0.6], 2)]
_STOP_CASES += [([0.5, 0.4, 0.6, 0.55, 0.7, 0.65], 3), ([0.5, 0.4, 0.6, 0.45], 3), ([0.6, 0.5, 0.5], 2)]
_STOP_CASES += [([0.3, 0.3, 0.3], 2), ([0.6, 0.6, 0.5, 0.5], 2), ([0.6, 0.5], 1), ([0.6, 0.6], 1), ([0.5, 0.6], 1)]
_STOP_CASES += [([-0.5, -0.6, -0.7], 2), ([-0.7, -0.6, -0.5], 2), ([0.7, 0.5, 0.4, 0.45, 0.55], 2)]
_STOP_CASES += [([0.2, 0.1, 0.3, 0.25, 0.26, 0.29], 3)]


def _run_rule(check: Check, answer: Callable, case: Case) -> bool:
    value = run_function(check, answer, case)
    check.that(isinstance(value, (bool, np.bool_)), f"{case.what} is {kind_of(value)}, expected True or False.")
    return bool(value)


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
        "an equal score counts as better here: only a higher one does.": {"score > best": "score >= best"},
        "it waits one evaluation too long: `patience` without a better one suffice.": {">= patience": "> patience"},
        "it stops one evaluation too early: `patience` without a better one.": {">= patience": ">= patience - 1"},
        "it stops one evaluation too early: `patience` of them.": {
            "waited >= patience": "len(scores) > 1 and waited >= patience - 1"
        },
        "equal counts as better, and it waits one evaluation too long.": {
            "score > best": "score >= best",
            ">= patience": "> patience",
        },
        "each score is compared with the one before it: compare the last ones with the best before them.": [
            {"max(best, score)": "score"},
            {"max(best, score)": "score", "score > best": "score >= best"},
        ],
        "only the last score is compared with the one `patience` before it: all of the last with the best before.": (
            lambda s, n: len(s) > n and s[-1] <= s[-n - 1]
        ),
        _LAST_ALONE: [
            lambda s, n: len(s) > n and s[-1] <= max(s[:-n]),
            lambda s, n: len(s) > 1 and s[-1] <= max(s[:-1]),
        ],
        f"`patience` is not used: {_LAST_ALONE}": [
            lambda s, n: s[-1] < max(s),
            lambda s, n: bool(s) and s[-1] < max(s),
        ],
        "the last scores are compared with the one before them: with the best of all before them.": (
            lambda s, n: len(s) > n and max(s[-n:]) <= s[-n - 1]
        ),
        "only the last two scores are compared: all the last `patience`.": lambda s, n: len(s) > n and s[-1] <= s[-2],
        "compare with the best before them, the highest.": lambda s, n: len(s) > n and max(s[-n:]) <= min(s[:-n]),
        "higher is better here: this is the rule for a loss.": {
            "-math.inf": "math.inf",
            "score > best": "score < best",
            "max(best": "min(best",
        },
        "it counts all evaluations without a better score: a better one starts the count again.": {
            "0 if score": "waited if score"
        },
        "it looks for a pause anywhere in the past: only the last `patience` evaluations count.": lambda s, n: any(
            _should_stop(s[:end], n) for end in range(len(s) + 1)
        ),
        "the best so far starts at 0: scores may be negative.": {"-math.inf": "0.0"},
        "the last scores are compared with all, themselves included.": lambda s, n: (
            len(s) >= n and max(s[-n:]) <= max(s)
        ),
        "it stops after `patience` evaluations, whatever they bring.": lambda s, n: len(s) > n,
        "it is the wrong way round: True is to stop.": {">= patience": "< patience"},
        "it never stops: `patience` evaluations without a better one are enough.": lambda s, n: False,
        "it always stops: only after `patience` evaluations without a better one.": lambda s, n: True,
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
        super().__init__(num_classes, base_channels)
        self.up = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(2 * a, a, 3, padding=1))
            for a in (8 * base_channels, 4 * base_channels, 2 * base_channels, base_channels)
        )


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
        known = {2 * base: "the list begins at the bottom, not at full size"}
        check_conv(check, conv, name, (wide, wide // 2), 3, known)
        leaves = [layer for layer in module.modules() if not list(layer.children())]
        other = [type(m).__name__ for m in leaves if not isinstance(m, (nn.Upsample, nn.Conv2d, nn.Identity))]
        check.that(not other, f"{name} holds {', '.join(other)}: an nn.Upsample and an nn.Conv2d, nothing else.")
        check.that(conv.bias is not None, f"the convolution of {name} has no bias: no batch norm follows it.")
        x = torch.randn(1, wide, 3, 5)
        for parameter in conv.parameters():
            parameter.data = torch.randn_like(parameter)
        with torch.no_grad():
            enlarged = check.call(module, x, when=f"in {name}")
        size = tuple(enlarged.shape)
        twice = f"{name} makes {size} of {tuple(x.shape)}: twice the size, half the channels."
        check.that(size == (1, wide // 2, 6, 10), twice)
        found[f"what {name} makes of a map"] = enlarged
    with torch.no_grad():
        found["the size of the logits"] = tuple(check.call(model, torch.randn(1, 3, 37, 50), when="in forward").shape)
    return found


bilinear_unet = Exercise(
    "BilinearUNet",
    _BilinearUNet,
    cases=lambda: [Case((2, 3))],
    run=_run_bilinear,
    tolerance=rounding,
    wrong={
        'this is nearest neighbour: mode="bilinear".': {"bilinear": "nearest"},
        "this has align_corners=True: the course takes False.": {'"bilinear"': '"bilinear", align_corners=True'},
        "the convolution comes before the interpolation: enlarge first, then convolve.": {
            'nn.Upsample(scale_factor=2, mode="bilinear")': "nn.Conv2d(2 * a, a, 3, padding=1)",
            "nn.Conv2d(2 * a, a, 3, padding=1)": 'nn.Upsample(scale_factor=2, mode="bilinear")',
        },
        'this is bicubic: mode="bilinear".': {"bilinear": "bicubic"},
        "the convolution pads by repetition: leave padding_mode as it is, zeros.": {
            "padding=1": 'padding=1, padding_mode="replicate"'
        },
        "there is a ReLU in it: an interpolation and a convolution, nothing else.": {
            "nn.Upsample(": "changed(nn.Upsample, forward=lambda self, x: nn.Upsample.forward(self, x).relu())("
        },
    },
)

# ------------------------------------------------------------------------ fit


class _Watched(nn.Sequential):
    """Two convolutions with batch norm between; remembers in which mode it was run, and whether that made a graph."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
        nn.init.normal_(self.get_parameter("3.weight"))  # so that pixels differ
        self.modes: list[bool] = []
        self.graphs: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        self.modes.append(self.training)
        self.graphs.append(logits.requires_grad)
        return logits


def _fit(
    model, batches, loss_function, optimizer, scheduler, validate, eval_every: int, patience: int, path
) -> tuple[list[float], list[float]]:
    """Trains with validation, a checkpoint of the best weights and an early stop -> losses, scores."""
    best, losses, scores = -math.inf, [], []
    for step, (images, targets) in enumerate(batches, start=1):
        model.train()
        loss = loss_function(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        if step % eval_every == 0:
            scores.append(validate(model.eval()))
            if scores[-1] > best:
                best = scores[-1]
                torch.save(model.state_dict(), path)
            if _should_stop(scores, patience):
                break
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval()
    return losses, scores


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
        settings = (nn.CrossEntropyLoss(), optimizer, scheduler, validate, eval_every, patience, path)
        given = check.call(answer, model, batches, *settings, when=case.when)
        try:
            kept: Any = torch.load(path, weights_only=True) if path.exists() else {}
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
    found = {"the number of losses": len(losses), "the list of scores": scores}
    found |= {f"the loss of step {step}": value for step, value in enumerate(losses, 1)}
    found |= {f"at the end {name}": tensor for name, tensor in model.state_dict().items()}
    found |= {f"in the file {name}": tensor for name, tensor in kept.items()}
    return Parts({f"{case.when} {words}": value for words, value in found.items()})


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
    wrong={
        "it ends with the last weights: load those of the file, which are the best.": {
            "model.load_state_dict(torch.load(path, weights_only=True))": "pass"
        },
        "of equal scores the last is kept: only a better one (>) replaces the file.": {"> best": ">= best"},
        "each evaluation's weights are saved: only those of a better score.": {"scores[-1] > best": "True"},
        "the weights of the lowest score are kept: higher is better.": {"-math.inf": "math.inf", "> best": "<= best"},
        "it never stops early: break where should_stop says so.": {"_should_stop(scores, patience)": "False"},
        "it stops an evaluation too early: should_stop(scores, patience).": {"patience)": "patience - 1)"},
        "gradients of the steps before are still there: optimizer.zero_grad().": {"optimizer.zero_grad()": "pass"},
        "zero_grad() comes between backward() and step(), so that nothing is learned: before.": {
            "optimizer.step()": "optimizer.zero_grad(); optimizer.step()"
        },
        "scheduler.step() comes before optimizer.step(), so that the first rate is never used: after it.": {
            "optimizer.step()": "scheduler.step()",
            "scheduler.step()": "optimizer.step()",
        },
        "the rate never changes: scheduler.step() after each optimizer.step().": {"scheduler.step()": "pass"},
        "the rate changes at evaluations only: scheduler.step() after each optimizer.step().": {
            "scheduler.step()": "step % eval_every or scheduler.step()"
        },
        "the losses are tensors: loss.item().": {"loss.item()": "loss"},
        "it validates at other steps: count steps from 1, enumerate(batches, start=1).": {"start=1": "start=0"},
        "it validates after every step: only where step % eval_every is 0.": {"step % eval_every == 0": "True"},
    },
)

# ------------------------------------------- log_confidence, feature_gradients


def _log_confidence(event: Any, images: Tensor, log: Callable[..., None]) -> None:
    """After an evaluation: log({"confidence": c}, step=...), c the mean of the largest softmax probability."""
    if event.evaluation is None:
        return
    event.model.eval()
    with torch.no_grad():
        p = event.model(images).softmax(1)
    log({"confidence": p.amax(1).mean().item()}, step=event.step)


def _run_confidence(check: Check, answer: Callable, case: Case) -> Parts:
    """What is logged of four steps of a training, two of them with an evaluation."""
    model, images = copy.deepcopy(case.args[0]), case.args[1]
    found, logged = Parts(), []

    def log(values: Any, step: Any = None) -> None:
        logged.append((values, step))

    for step in range(1, 5):
        model.train()
        logged.clear()
        scored = SimpleNamespace(scores=None) if step % 2 == 0 else None
        event = SimpleNamespace(step=step, row={"step": step}, model=model, evaluation=scored)
        check.call(lambda x, event=event: answer(event, x, log) or True, images, when=f"after step {step}")
        if scored is None:
            check.that(not logged, "it logs after a step without evaluation: if event.evaluation is None: return.")
            continue
        check.that(len(logged) == 1, f"it calls log {len(logged)} times after an evaluation, expected once.")
        values, at = logged[0]
        named = isinstance(values, dict) and set(values) == {"confidence"}
        check.that(named, f"it logs {values!r}, expected {{'confidence': a number}}.")
        check.that(at == step, f"it logs with step={at}, expected step=event.step, here {step}.")
        check.that(not any(model.graphs), "the forward pass makes a graph: with torch.no_grad() around it.")
        found[f"the confidence after step {step}"] = values["confidence"]
    return found


log_confidence = Exercise(
    "log_confidence",
    _log_confidence,
    cases=lambda: [Case((calibrated(_Watched(), 3 * x + 1), x)) for x in [torch.randn(2, 3, 6, 7)]],
    run=_run_confidence,
    wrong={
        "the network is in train mode: event.model.eval() before it is asked.": {"event.model.eval()": "pass"},
        "these are logits: take their softmax over the classes first.": {".softmax(1)": ""},
        "this is a sigmoid: take the softmax over the classes.": {"softmax(1)": "sigmoid()"},
        "the softmax is over columns: take it over dim 1.": {"softmax(1)": "softmax(-1)"},
        "this is one pixel's: take the mean over pixels and images.": {"p.amax(1).mean()": "p.amax()"},
        "this is the mean of all: of each pixel the largest, then the mean.": {"p.amax(1)": "p"},
        "this is class 1's probability: of each pixel the largest.": {"p.amax(1)": "p[:, 1]"},
        "this is in percent: as a share from 0 to 1.": {"p.amax(1)": "100 * p.amax(1)"},
        "it logs a tensor: .item() makes a number of it.": {".item()": ""},
    },
)


def _feature_gradients(model: Any, images: Tensor, loss_of: Callable[[Tensor], Tensor]) -> list[float]:
    """L2 norms of the gradients of the loss with respect to what the blocks of `model.contracting` give."""
    features: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, given, out: features.append(out)) for block in model.contracting]
    loss = loss_of(model(images))
    for hook in hooks:
        hook.remove()
    return [g.norm().item() for g in torch.autograd.grad(loss, features)]


def _run_gradients(check: Check, answer: Callable, case: Case) -> Parts:
    model, images = copy.deepcopy(case.args[0]), case.args[1]
    given = check.call(answer, model, images, lambda logits: logits.square().mean())
    check.that(isinstance(given, list), f"it returns {kind_of(given)}, expected a list of numbers.")
    check.that(len(given) == 5, f"it returns {len(given)} numbers, expected five: one for each block of contracting.")
    left = any(hooks for m in model.modules() for kind, hooks in vars(m).items() if kind.endswith("_hooks"))
    check.that(not left, "its hooks stay on the network: keep what register_forward_hook returns, and remove() each.")
    return Parts({f"the norm at contracting[{level}]": norm for level, norm in enumerate(given)})


_GRADIENTS = "torch.autograd.grad(loss, features)"

feature_gradients = Exercise(
    "feature_gradients",
    _feature_gradients,
    cases=lambda: [Case((calibrated(models.UNet(2, 2), x), x)) for x in [torch.randn(2, 3, 32, 48)]],
    run=_run_gradients,
    errors={
        "does not require grad": "the image asks for no gradient: take the blocks' outputs, not their inputs.",
        "'NoneType' object has no attribute": "a gradient is None: retain_grad() on each block's output keeps it; a "
        "backward hook is given it in grad_output.",
    },
    wrong={
        "the order is reversed: from the image to the bottom.": {_GRADIENTS: f"reversed({_GRADIENTS})"},
        "this is the root mean square: take the root of the sum, gradient.norm().": {"norm()": "pow(2).mean().sqrt()"},
        "this is the mean of absolute values: take the L2 norm.": {"norm()": "abs().mean()"},
        "this is the L1 norm: take the L2 norm, gradient.norm().": {"norm()": "abs().sum()"},
        "this is the square of the norm: take its root.": {"norm()": "square().sum()"},
        "this is the largest value: take the L2 norm.": {"norm()": "abs().max()"},
        "these are gradients of the weights: take those of each block's output, as a hook sees it.": [
            {"(loss, features)": "(loss, [block[0].weight for block in model.contracting])"},
            {
                _GRADIENTS: "(nn.utils.parameters_to_vector(torch.autograd.grad(loss, [*b.parameters()], "
                "retain_graph=True)) for b in model.contracting)"
            },
        ],
        "these are gradients of the blocks' inputs: of their outputs, which a forward hook is given last.": {
            "append(out)": "append(given[0])",
            "model(images)": "model(images.requires_grad_())",
        },
        "these are norms of the features themselves: take those of their gradients, torch.autograd.grad(loss, "
        "features).": {_GRADIENTS: "features"},
    },
)
