"""Checks of lab 02's networks: FCN-32s, FCN-16s and FCN-8s as classes ``(encoder, num_classes)``.

One inspection serves all three; what differs is the list of layers. Narrow encoders (width 8), laid out as
ResNet-18 and ResNet-50, show numbers of channels written by hand; the forward pass is judged on the small one.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from labhelpers import models
from labhelpers.course.checks.compare import difference, kind_of
from labhelpers.course.checks.core import Check, exercise
from labhelpers.course.checks.fcn_mistakes import STAGES, wrong_logits, wrong_odd_logits
from labhelpers.course.checks.networks import calibrated, check_gradients, make, tolerance

_NUM_CLASSES = 5
_ERRORS = {
    "channels, but got": "a layer meets features of another stage: encoder(images) lists them with strides 4, 8, 16, "
    "32.",
    "values to unpack": "encoder(images) is a list of four features, with strides 4, 8, 16, 32.",
}


@exercise("FCN32s", models.FCN32s)
def fcn32s(check: Check, answer) -> None:
    """Layers, bilinear start, output size, gradients, and the same numbers from the same weights, odd sizes too."""
    _inspect(check, answer, models.FCN32s, {"upscore32": 32})


@exercise("FCN16s", models.FCN16s)
def fcn16s(check: Check, answer) -> None:
    """Layers, bilinear start, output size, gradients, and the same numbers from the same weights, odd sizes too."""
    _inspect(check, answer, models.FCN16s, {"upscore2": 2, "upscore16": 16})


@exercise("FCN8s", models.FCN8s)
def fcn8s(check: Check, answer) -> None:
    """Layers, bilinear start, output size, gradients, and the same numbers from the same weights, odd sizes too."""
    _inspect(check, answer, models.FCN8s, {"upscore2": 2, "upscore_pool4": 2, "upscore8": 8})


def _inspect(check: Check, answer: Callable, reference: Callable, factors: Mapping[str, int]) -> None:
    scores = list(STAGES)[: len(factors)]
    for backbone in ("resnet18", "resnet50"):
        encoder = models.ResNetEncoder(backbone, width=8)
        model = make(check, answer, encoder, _NUM_CLASSES)
        check.that(
            getattr(model, "encoder", None) is encoder,
            "it does not keep the encoder it is given as `self.encoder`: training finds the encoder by that name, to "
            "give it a learning rate of its own.",
        )
        _check_score_layers(check, model, scores, encoder.channels)
        for name, factor in factors.items():
            _check_upsampling_layer(check, model, name, factor)
    encoder = calibrated(models.ResNetEncoder("resnet18", width=8), torch.randn(2, 3, 64, 64))
    right = reference(copy.deepcopy(encoder), _NUM_CLASSES).eval()
    model = check.call(answer, encoder, _NUM_CLASSES).eval()
    _copy_weights(right, model, [*scores, *factors])
    _check_forward(check, model, right, factors)
    _check_odd_size(check, model, right, factors)


def _check_score_layers(check: Check, model: nn.Module, names: list[str], channels: tuple[int, ...]) -> None:
    layers = {name: getattr(model, name, None) for name in names}
    for name, layer in layers.items():
        check.that(layer is not None, f"it has no layer `self.{name}` (1x1 convolution from features to class scores).")
        check.that(isinstance(layer, nn.Conv2d), f"{name} is to be an nn.Conv2d, found {kind_of(layer)}.")
    found = {name: layer.in_channels for name, layer in layers.items()}
    expected = {name: channels[STAGES[name]] for name in names}
    check.that(
        found == expected or sorted(found.values()) != sorted(expected.values()),
        f"two stages are exchanged: the score layers take {found} channels, expected {expected}.",
    )
    # From the finest on: the handout's mistake sits there, and its other numbers only fit another backbone.
    for name in reversed(names):
        check.that(found[name] == expected[name], _channels_hint(name, found[name], channels))
    for name, layer in layers.items():
        by_hand = " (21 is written by hand: use num_classes)" if layer.out_channels == 21 else ""
        check.that(
            layer.out_channels == _NUM_CLASSES,
            f"{name} gives {layer.out_channels} channels, expected num_classes = {_NUM_CLASSES}{by_hand}.",
        )
        check.that(
            (layer.kernel_size, layer.stride, layer.bias is not None) == ((1, 1), (1, 1), True),
            f"{name} is to be a 1x1 convolution of stride 1 with a bias; found kernel {layer.kernel_size}, stride "
            f"{layer.stride}, {'a' if layer.bias is not None else 'no'} bias.",
        )


def _channels_hint(name: str, found: int, channels: tuple[int, ...]) -> str:
    stage = STAGES[name]
    hint = f"{name} takes {found} channels, expected encoder.channels[{stage}] = {channels[stage]}"
    handout = {"score_pool3": 1024, "score_pool4": 2048}
    if name in handout and found in (handout[name], channels[stage + 1]):
        return (
            f"{hint}: the handout's stub is one stage too deep, with 1024 for pool3 and 2048 for pool4. ResNet-50 has "
            "512 at stride 8 (pool3) and 1024 at stride 16 (pool4); take the numbers from encoder.channels."
        )
    if found in channels:
        return f"{hint}: that is another stage; the four stages have the strides 4, 8, 16, 32."
    if found in (64, 128, 256, 512, 1024, 2048):
        return f"{hint}: the number is written by hand and fits one backbone only; take it from encoder.channels."
    return f"{hint}."


def _check_upsampling_layer(check: Check, model: nn.Module, name: str, factor: int) -> None:
    layer = getattr(model, name, None)
    check.that(
        layer is not None, f"it has no layer `self.{name}` (transposed convolution that enlarges {factor} times)."
    )
    check.that(isinstance(layer, nn.ConvTranspose2d), f"{name} is to be an nn.ConvTranspose2d, found {kind_of(layer)}.")
    k, side = _NUM_CLASSES, 2 * factor
    concatenated = ": are scores concatenated? FCN adds them" if layer.in_channels in (2 * k, 3 * k) else ""
    check.that(
        (layer.in_channels, layer.out_channels) == (k, k),
        f"{name} maps {layer.in_channels} to {layer.out_channels} channels, expected num_classes = {k} to "
        f"{k}{concatenated}.",
    )
    check.that(layer.groups == 1, f"{name} has groups={layer.groups}: use one group, so that classes can learn to mix.")
    check.that(
        (layer.kernel_size, layer.stride) == ((side, side), (factor, factor)),
        f"{name} has kernel {layer.kernel_size} and stride {layer.stride}: to enlarge {factor} times it needs kernel "
        f"{side}, stride {factor}, padding {factor // 2}.",
    )
    weight = models.bilinear_kernel(k, side)
    pairs = weight[0, 0].expand(k, k, side, side)
    own = f"{name} starts with the tent between all pairs of classes: only weight[c, c] holds it, the rest is 0."
    mistakes = [
        (pairs, own),
        (pairs / k, own),
        (weight / weight[0, 0].sum(), f"{name} starts with tents of sum 1: do not normalise the bilinear kernel."),
        (
            layer.weight,
            f"{name} does not start as bilinear interpolation: under torch.no_grad(), set its weight to zero, then "
            "copy bilinear_kernel(size) into weight[c, c] for each class c.",
        ),
    ]
    check.equal(layer.weight, weight, f"the start of {name}", mistakes)


def _copy_weights(right: nn.Module, model: nn.Module, names: list[str]) -> None:
    """Random weights for both: bilinear ones would hide which layers a forward pass uses."""
    with torch.no_grad():
        for name in names:
            source, destination = getattr(right, name), getattr(model, name)
            source.weight.normal_(std=0.1)
            destination.weight.copy_(source.weight)
            if source.bias is not None:
                destination.bias.copy_(source.bias.normal_())
            elif destination.bias is not None:  # an upsampling layer may have a bias; the reference's has none
                destination.bias.zero_()


def _check_forward(check: Check, model: nn.Module, right: nn.Module, factors: Mapping[str, int]) -> None:
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = right(images)
    sizes = {
        "must match the size": "two summands differ in size: enlarge the coarser scores before adding; an upsampling "
        "layer enlarges exactly n times with kernel 2n, stride n, padding n / 2."
    }
    logits = check.call(model, images, when="in forward for 64x64 images", errors=_ERRORS | sizes)
    check.that(isinstance(logits, Tensor), f"forward returns {kind_of(logits)}, expected the logits, one tensor.")
    shape = tuple(logits.shape)
    check.that(shape == tuple(expected.shape), _shape_hint(shape, tuple(expected.shape)))
    layers = [*list(STAGES)[: len(factors)], *factors]
    unused = "{} gets no gradient: forward does not use it, or its result does not enter the sum."
    check_gradients(check, model, logits, {name: getattr(model, name).weight for name in layers}, unused)
    frozen = "the encoder gets no gradient: is it run under no_grad, detached or frozen in __init__?"
    trained = model.encoder.conv1.weight.grad
    check.that(trained is not None and bool(trained.any()), frozen)
    check.equal(logits, expected, "the logits", wrong_logits(right, images, list(factors)), tolerance(expected))


def _shape_hint(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    hint = f"forward gives shape {found} for 64x64 images, expected {expected}"
    if len(found) == 3:
        return f"{hint}: logits keep one channel for each class, leave the argmax out."
    if len(found) == 4 and found[:2] == expected[:2]:
        if found[2] > 64:
            return f"{hint}: an upsampling layer of factor n needs padding n / 2 (or crop what is left over)."
        if found[2] and 64 % found[2] == 0:
            return f"{hint}: the logits stay at stride {64 // found[2]}, the last enlargement is missing."
    return f"{hint}."


def _check_odd_size(check: Check, model: nn.Module, right: nn.Module, factors: Mapping[str, int]) -> None:
    images = torch.randn(1, 3, 65, 97)
    sizes = {
        "must match the size": "for an odd size the enlarged scores are a little larger than what they are added to, "
        "because strides round up: crop them first, x[..., :h, :w]."
    }
    with torch.no_grad():
        logits = check.call(model, images, when="in forward for a 65x97 image", errors=_ERRORS | sizes)
        expected = right(images)
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else kind_of(logits)
        check.that(
            shape == tuple(expected.shape),
            f"a 65x97 image gives logits of shape {shape}, expected {tuple(expected.shape)}: crop the last "
            "enlargement to the height and width of the image.",
        )
        rounding = tolerance(expected)
        # Padding the image to a multiple of 32 and cropping the logits is as right, and differs near the border.
        padded = right(functional.pad(images, (0, -97 % 32, 0, -65 % 32)))[..., :65, :97]
        if not difference(logits, padded, "", tolerance=rounding):
            expected = padded
        mistakes = wrong_odd_logits(right, images, list(factors))
        check.equal(logits, expected, "for a 65x97 image the logits", mistakes, rounding)
