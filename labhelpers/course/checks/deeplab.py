"""Check of lab 03's decoder: the head of DeepLabV3+ as a class of ASPP, projection, refinement and classifier."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from labhelpers import models
from labhelpers.course.checks.aspp import DROPOUTS, Layers, aspp_layers, check_sizes, copy_layers
from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise
from labhelpers.course.checks.deeplab_mistakes import check_concatenation, wrong_enlargement
from labhelpers.course.checks.networks import (
    calibrated,
    check_conv,
    check_gradients,
    check_unshared,
    conv_norms,
    make,
    run_watched,
    tolerance,
    wrong_activations,
)

_PARTS = {
    "aspp": "ASPP of the encoder's last features",
    "project": "1x1 convolution of the low-level features to 48 channels, batch norm, ReLU",
    "refine": "two times 3x3 convolution, batch norm, ReLU",
    "classifier": "1x1 convolution to num_classes, with a bias",
}
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_PROJECTED = 48
_IN, _LOW, _BATCH = 10, 7, 2  # channels of the last and of the low-level features


@exercise("DeepLabHeadPlus", models.DeepLabHeadPlus)
def deeplab_head_plus(check: Check, answer) -> None:
    """Layers, gradients, the concatenation and the logits from the same weights; then sizes that are no multiples."""
    cases = ((5, (1, 2, 3), 6, (16, 24), (4, 6)), (3, (2, 1), 4, (17, 25), (5, 7)))
    for num_classes, rates, channels, low_size, size in cases:
        model = make(check, answer, _IN, _LOW, num_classes, rates, channels).eval()
        layers = _layers(check, model, rates)
        _check_sizes(check, layers, model, num_classes, rates, channels)
        low_level, features = torch.randn(_BATCH, _LOW, *low_size), torch.randn(_BATCH, _IN, *size)
        right = models.DeepLabHeadPlus(_IN, _LOW, num_classes, rates, channels)
        calibrated(right, low_level, features)
        copy_layers(_layers(Check(), right, rates), layers)
        _classifier(check, model).load_state_dict(right.classifier.state_dict())
        _check_forward(check, model, right, layers, low_level, features)
        _check_training(check, model, right, low_level, features)


def _layers(check: Check, model: nn.Module, rates: tuple[int, ...]) -> Layers:
    """Every convolution with batch norm, by the name a hint gives it; those of aspp first."""
    for name, what in _PARTS.items():
        part = getattr(model, name, None)
        check.that(part is not None, f"it has no `self.{name}` ({what}).")
        check.that(isinstance(part, nn.Module), f"{name} is {kind_of(part)}, expected an nn.Module ({what}).")
    layers = aspp_layers(check, model.aspp, rates, "aspp.")
    layers["project"] = conv_norms(check, model.project, "project")[0]
    first, second = conv_norms(check, model.refine, "refine", 2)
    layers |= {"refine, first": first, "refine, second": second}
    check_unshared(layers)
    return layers


def _classifier(check: Check, model: nn.Module) -> nn.Conv2d:
    convs = [m for m in model.classifier.modules() if isinstance(m, nn.Conv2d)]
    check.that(len(convs) == 1, f"classifier holds {len(convs) or 'no'} convolutions, expected one.")
    norm = next((type(m).__name__ for m in model.classifier.modules() if isinstance(m, _NORMS)), "")
    if norm:
        raise Mistake(f"classifier holds {norm}: class scores come from the convolution alone.")
    check.that(convs[0].bias is not None, "the classifier has no bias: no batch norm follows that would replace it.")
    return convs[0]


def _check_sizes(
    check: Check, layers: Layers, model: nn.Module, num_classes: int, rates: tuple[int, ...], channels: int
) -> None:
    exchanged = "in_channels and low_level_channels are exchanged"
    conv = layers["aspp.conv1"].conv
    check_conv(check, conv, "aspp.conv1", (_IN, channels), 1, {_LOW: exchanged})
    check_sizes(check, {k: v for k, v in layers.items() if k.startswith("aspp.")}, _IN, channels, rates)
    few = f"the low-level features are projected to few channels, {_PROJECTED}, so that they do not outweigh the rest"
    known = {_IN: exchanged, _LOW: few, channels: few, 256: few, 64: few, 32: few}
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
    check_conv(check, _classifier(check, model), "classifier", (channels, num_classes), 1, known)


def _check_forward(
    check: Check, model: nn.Module, right: nn.Module, layers: Layers, low_level: Tensor, features: Tensor
) -> None:
    channels, num_classes = right.classifier.in_channels, right.classifier.out_channels
    size = tuple(low_level.shape[-2:])
    sizes = f"for low-level features {size[0]}x{size[1]}, features {features.shape[2]}x{features.shape[3]}"
    first = layers["refine, first"].conv
    errors = _errors(channels, size)
    logits, seen = run_watched(check, model, first, low_level, features, when=f"in forward {sizes}", errors=errors)
    check.that(isinstance(logits, Tensor), f"forward returns {kind_of(logits)}, expected the logits, one tensor.")
    shape, expected_shape = tuple(logits.shape), (_BATCH, num_classes, *size)
    check.that(shape == expected_shape, _shape_hint(shape, expected_shape, tuple(features.shape[-2:]), sizes))
    weights = {name: layer.conv.weight for name, layer in layers.items()}
    weights["classifier"] = _classifier(check, model).weight
    unused = "{} gets no gradient: forward does not use it, or its result does not reach the logits."
    check_gradients(check, model, logits, weights, unused)

    with torch.no_grad():
        expected = right(low_level, features)
        context = right.aspp(features)
        own = check.call(model.aspp, features, when="in aspp")
        check.equal(own, context, "the result of self.aspp (has ASPP passed its own check?)", (), tolerance(context))
        enlarged = nn.functional.interpolate(context, size, mode="bilinear", align_corners=False)
        blocks = {"the enlarged ASPP": enlarged, "the projected low-level features": right.project(low_level)}
        together = torch.cat(list(blocks.values()), 1)

    def wrong(name: str):
        if name == "the enlarged ASPP":
            return wrong_enlargement(right.aspp, features, size)
        return layers["project"].wrong_outputs(low_level, "project")

    if seen is not None:
        check_concatenation(check, seen, blocks, wrong, "refine")
    mistakes = _wrong_logits(layers, right, together, expected)
    check.equal(logits, expected, f"the logits {sizes}", mistakes, tolerance(expected))


def _check_training(check: Check, model: nn.Module, right: nn.Module, low_level: Tensor, features: Tensor) -> None:
    """The same numbers in training mode, with ASPP's dropout off; only ASPP has one."""
    inside = set(model.aspp.modules())
    dropouts = [type(m).__name__ for m in model.modules() if isinstance(m, DROPOUTS) and m not in inside]
    if dropouts:
        raise Mistake(f"there is a dropout outside aspp ({', '.join(dropouts)}): leave it out, ASPP has one already.")
    for network in (model, right):
        network.train()
        for module in network.modules():
            if isinstance(module, DROPOUTS):
                module.p = 0.0
    with torch.no_grad():
        found = check.call(model, low_level, features, when="in training mode")
        expected = right(low_level, features)
    what = "in training mode, with ASPP's dropout off (is there another dropout or norm, or an eval()?), the result"
    check.equal(found, expected, what, (), tolerance(expected))


def _wrong_logits(layers: Layers, right: nn.Module, together: Tensor, logits: Tensor):
    yield from wrong_activations(logits)
    first, second = layers["refine, first"], layers["refine, second"]
    with torch.no_grad():
        for wrong, hint in first.wrong_outputs(together, "refine"):
            yield right.classifier(second(wrong)), hint
            for both, _ in second.wrong_outputs(wrong, "refine"):
                yield right.classifier(both), hint
        for wrong, hint in second.wrong_outputs(first(together), "refine"):
            yield right.classifier(wrong), hint


def _errors(channels: int, size: tuple[int, int]) -> Mapping[str, str]:
    """Hints for what torch says when the two parts do not fit together."""
    cat = f"refine takes {channels} + {_PROJECTED} channels, the enlarged ASPP and the projected features concatenated"
    return {
        f"to have {_IN} channels, but got {_LOW}": "the two arguments are exchanged: forward(low_level, features), "
        "and ASPP takes the features.",
        f"to have {_LOW} channels, but got {_IN}": "the two arguments are exchanged: forward(low_level, features), "
        "and project takes the low-level ones.",
        f"but got {channels + _LOW} channels": f"the low-level features are not projected: {cat}.",
        f"but got {channels} channels": f"{cat}: is it applied before the concatenation?",
        f"but got {_PROJECTED} channels": f"{cat}: is it applied before the concatenation?",
        "must match except in dimension 1": "the two parts differ in size: enlarge the ASPP's result to the low-level "
        f"features' size {size[0]}x{size[1]} with size=low_level.shape[-2:]; scale_factor=4 misses it, since strides "
        "round up.",
        "must match except in dimension": "the two parts are joined along another axis than the channels: "
        "torch.cat([enlarged, projected], 1).",
        "must match the size": "are the two parts added? They are concatenated, torch.cat([enlarged, projected], 1).",
    }


def _shape_hint(found: tuple[int, ...], expected: tuple[int, ...], coarse: tuple[int, int], sizes: str) -> str:
    hint = f"forward gives shape {found} {sizes}, expected {expected}"
    if len(found) == 3:
        return f"{hint}: logits keep one channel for each class, leave the argmax out."
    if found[2:] == coarse:
        return f"{hint}: the low-level features are shrunk, which loses their edges. Enlarge the ASPP's result instead."
    if len(found) == 4 and 0 < expected[2] - found[2] == expected[3] - found[3] <= 4:
        return f"{hint}: do the 3x3 convolutions of refine lack padding=1?"
    if len(found) == 4 and found[2] > expected[2]:
        return f"{hint}: the logits stay at the low-level features' size, the model enlarges them to the image's."
    return f"{hint}."
