"""Check of lab 04's network: U-Net as a class ``(num_classes, base_channels)``.

The same weights are copied into the student's network and the library's. Then what each layer is given is compared, in
the order of the forward pass: the first that differs says where the mistake is.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from labhelpers import models
from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, exercise
from labhelpers.course.checks.deeplab_mistakes import check_concatenation
from labhelpers.course.checks.networks import (
    IN_PLACE,
    ConvNorm,
    calibrated,
    check_conv,
    check_gradients,
    check_unshared,
    make,
    run_watched,
    tolerance,
    wrong_activations,
)
from labhelpers.course.checks.unet_mistakes import (
    ERRORS,
    ODD_ERRORS,
    UNUSED,
    given_to_layers,
    logits_shape_hint,
    wrong_crops,
    wrong_inputs,
    wrong_parts,
)
from labhelpers.course.checks.unet_parts import double_layers, wrong_padding
from labhelpers.models.unet import pad_to_multiple

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

    def entrances(self) -> dict[str, nn.Module]:
        """The layers that take what enters each part, in the order of the forward pass."""
        first = {name: pair[0].conv for name, pair in self.blocks.items()}
        names = [
            *(f"contracting[{i}]" for i in range(5)),
            *(f"{part}[{i}]" for i in range(4) for part in ("up", "expanding")),
        ]
        return {name: (first | self.ups)[name] for name in names} | {"score": self.score}


@exercise("UNet", models.UNet)
def unet(check: Check, answer) -> None:
    """Layers, sizes, gradients, and the same numbers from the same weights at each layer; then a size that is odd."""
    for num_classes, base, size in ((2, 5, (32, 48)), (5, 3, (48, 16))):
        model = make(check, answer, num_classes, base)
        layers = _layers(check, model, num_classes, base)
        images = torch.randn(2, 3, *size)
        right = models.UNet(num_classes, base)
        for pair in _layers(Check(), right, num_classes, base).blocks.values():
            for layer in pair:
                layer.vary()
        _copy_weights(_layers(Check(), calibrated(right, images), num_classes, base), layers)
        _check_forward(check, model, right, layers, images)
        _check_odd_size(check, model, right, layers, torch.randn(1, 3, 37, 51))
        _check_training(check, model, right, layers, images)


def _layers(check: Check, model: nn.Module, num_classes: int, base: int) -> _Layers:
    parts = {name: _listed(check, model, name) for name in _LISTS}
    channels = [base * 2**level for level in range(5)]
    known = {64 * 2**level: f"the number is written by hand, use base_channels = {base}" for level in range(5)} | {
        base: "channels double with each level"
    }
    blocks, ups = {}, {}
    for level, block in enumerate(parts["contracting"]):
        name = f"contracting[{level}]"
        sides = (channels[level - 1] if level else 3, channels[level])
        blocks[name] = double_layers(check, block, name, sides, known)
    for place, layer in enumerate(parts["up"]):
        ups[f"up[{place}]"] = _up_convolution(check, layer, f"up[{place}]", channels[4 - place], channels)
    for place, block in enumerate(parts["expanding"]):
        name, (width, wide) = f"expanding[{place}]", channels[3 - place : 5 - place]
        joined = {
            width: f"skip and enlarged map are concatenated, {width} + {width} channels, not added or left out",
            width + wide: f"the up-convolution halves the channels to {width}, so that it takes {width} + {width}",
        }
        first = {2 * base: "the list begins just above the bottom, not at full size"} if place == 0 else {}
        blocks[name] = double_layers(check, block, name, (wide, width), known | first | joined)
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


@torch.no_grad()
def _copy_weights(right: _Layers, own: _Layers) -> None:
    for name, pair in right.blocks.items():
        for source, destination in zip(pair, own.blocks[name], strict=True):
            source.copy_to(destination)
    for source, destination in zip((*right.ups.values(), right.score), (*own.ups.values(), own.score), strict=True):
        destination.weight.copy_(source.weight)
        if destination.bias is None:  # an up-convolution may do without: the block behind it has batch norm
            source.bias.zero_()
        else:
            destination.bias.copy_(source.bias)


def _check_forward(check: Check, model: nn.Module, right: nn.Module, layers: _Layers, images: Tensor) -> None:
    when = f"in forward for {images.shape[2]}x{images.shape[3]} images"
    logits = check.call(model, images, when=when, errors=ERRORS)
    with torch.no_grad():
        expected = right(images)
    check.that(isinstance(logits, Tensor), f"forward returns {kind_of(logits)}, expected the logits, one tensor.")
    check.that(logits.shape == expected.shape, logits_shape_hint(logits, expected, images))
    _check_given(check, model, right, layers, images)
    check.equal(logits, expected, f"the logits {when}", wrong_activations(expected), tolerance(expected))
    weights = {name: layer.weight for name, layer in layers.entrances().items()}
    check_gradients(check, model, logits, weights, UNUSED)


@torch.no_grad()
def _check_given(check: Check, model: nn.Module, right: nn.Module, layers: _Layers, images: Tensor) -> None:
    """What each layer is given, one run for each: the first that differs shows where forward leaves the figure."""
    given = given_to_layers(right, images)
    blocks = _layers(Check(), right, layers.score.out_channels, layers.score.in_channels).blocks
    for name, layer in layers.entrances().items():
        _, found = run_watched(check, model, layer, images, when="in forward", errors=ERRORS)
        check.that(found is not None, f"forward does not use {name}, or uses it more than once.")
        if name.startswith("expanding"):
            parts = given.parts[name]
            check_concatenation(check, found, parts, lambda part, at=name: wrong_parts(given, blocks, at, part), name)
        else:
            expected = given.inputs[name]
            mistakes = wrong_inputs(given, blocks, name)
            check.equal(found, expected, f"what {name} is given", mistakes, tolerance(expected))


def _check_odd_size(check: Check, model: nn.Module, right: nn.Module, layers: _Layers, images: Tensor) -> None:
    """A size that is no multiple of 16: padded at the right and at the bottom, cropped there again."""
    first = layers.blocks["contracting[0]"][0].conv
    size = tuple(images.shape[-2:])
    when = f"in forward for a {size[0]}x{size[1]} image"
    with torch.no_grad():
        logits, found = run_watched(check, model, first, images, when=when, errors=ODD_ERRORS | ERRORS)
        padded = pad_to_multiple(images, 16)
        expected, whole = right(images), right(padded)
    if found is not None:
        what = f"what contracting[0] is given {when}"
        check.equal(found, padded, what, ((x, f"{when} {hint}") for x, hint in wrong_padding(images, 16)))
    check.that(isinstance(logits, Tensor), f"{when} it returns {kind_of(logits)}, expected the logits, one tensor.")
    mistakes = wrong_crops(whole, images)
    check.equal(logits, expected, f"the result {when}", mistakes, tolerance(expected))


def _check_training(check: Check, model: nn.Module, right: nn.Module, layers: _Layers, images: Tensor) -> None:
    """Training mode: the same logits, and the same gradient at the layer that is farthest from them."""
    logits = check.call(model.train(), images, when="in training mode", errors=ERRORS)
    expected = right.train()(images)
    what = "in training mode (is there a dropout, another norm, or an eval()?) the result"
    check.equal(logits, expected, what, (), tolerance(expected))
    weighting = torch.randn_like(expected)

    def gradient(output: Tensor, weight: Tensor) -> Tensor | None:
        return torch.autograd.grad((output * weighting).sum(), weight, allow_unused=True)[0]

    own = layers.blocks["contracting[0]"][0].conv.weight
    found = check.call(lambda: logits.requires_grad and (gradient(logits, own),), when="in backward", errors=IN_PLACE)
    check.that(found and found[0] is not None, "in training mode " + UNUSED.format("contracting[0]"))
    right_one = gradient(expected, right.contracting[0][0].weight)
    part = "the gradient of contracting[0] lacks a part: is a skip detached, or made under no_grad?"
    check.that(torch.allclose(found[0], right_one, rtol=0, atol=10 * tolerance(right_one)), part)
