"""Checks of lab 02: convolutions by hand, the encoder, FCN and its layers, losses, everything that training needs."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers import models
from labhelpers.course.checks.core import Case, Check, Exercise, Parts, calls, difference, kind_of
from labhelpers.course.checks.layers import (
    activated,
    calibrated,
    changed,
    check_gradients,
    make,
    rounding,
    run_by_hand,
)
from labhelpers.models import fcn
from labhelpers.training import Recipe
from labhelpers.training.losses import dice

# ------------------------------------------------------------- linear_to_conv


def _linear_to_conv(linear: nn.Linear, channels: int, height: int, width: int) -> nn.Conv2d:
    """The convolution that gives what flattening (channels, height, width) and `linear` give."""
    conv = nn.Conv2d(channels, linear.out_features, (height, width))
    weight = linear.weight.view(-1, channels, height, width)
    conv.load_state_dict({"weight": weight, "bias": linear.bias})
    return conv


def _linear_layers() -> Iterator[Case]:
    """One window, then a larger input over which the layer slides; height and width differ."""
    linear = nn.Linear(3 * 2 * 4, 5)
    remedy = "the weights are not those of the linear layer, copy them in its order (C, H, W)."
    yield Case((linear, torch.randn(2, 3, 2, 4)), what="the output for one window", remedy=remedy)
    yield Case((linear, torch.randn(1, 3, 4, 7)), what="the output slid over a larger input", remedy=remedy)


def _slide(check: Check, answer: Callable, case: Case) -> Tensor:
    """What the convolution gives, once its kernel, channels and bias are right."""
    linear, x = case.args
    given, expected = copy.deepcopy(linear), (3, 5, 2, 4)
    channels, features, height, width = expected
    conv = check.call(answer, given, channels, height, width)
    same = torch.equal(given.weight, linear.weight) and torch.equal(given.bias, linear.bias)
    check.that(same, "the linear layer itself has changed: only copy from it.")
    check.that(isinstance(conv, nn.Conv2d), f"it returns {kind_of(conv)}, expected an nn.Conv2d.")
    layout = (conv.in_channels, conv.out_channels, *conv.kernel_size)
    known = {
        (channels, features, width, height): "height and width are exchanged: kernel_size is (height, width).",
        (channels * height * width, features, 1, 1): "the kernel must cover all height x width positions, not 1 x 1: "
        "only then does the layer see the map it used to flatten.",
    }
    hint = known.get(layout, "what the linear layer flattened is the kernel: (channels, height, width).")
    found = f"Found in channels, out channels, kernel height, kernel width = {layout}, expected {expected}."
    check.that(layout == expected, f"{hint} {found}")
    unpadded = conv.padding in ((0, 0), "valid")
    plain = unpadded and (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
    check.that(plain, "stride 1, no padding, no dilation, one group: a linear layer that slides, nothing else.")
    check.that(conv.bias is not None, "the bias is forgotten: the convolution has none, the linear layer has.")
    check.that(torch.allclose(conv.bias, linear.bias), "the bias is forgotten: copy linear.bias into conv.bias.")
    return check.call(conv, x)


linear_to_conv = Exercise(
    "linear_to_conv",
    _linear_to_conv,
    cases=_linear_layers,
    run=_slide,
    wrong={
        "the weights are read in the order (height, width, channels): flatten() of (C, H, W) has the channels "
        "first, so view(out, C, H, W).": {
            "view(-1, channels, height, width)": "view(-1, height, width, channels).permute(0, 3, 1, 2)"
        },
        "the weights are read in the order (channels, width, height): view(out, C, H, W).": {
            "view(-1, channels, height, width)": "view(-1, channels, width, height).mT"
        },
        "the kernel is turned by 180 degrees: torch's convolutions do not flip their kernel, leave it as it is.": {
            '"weight": weight': '"weight": weight.flip(2, 3)'
        },
    },
)

# ----------------------------------------------------- transposed_output_size


def _transposed_output_size(size: int, kernel: int, stride: int, padding: int = 0, output_padding: int = 0) -> int:
    """Pixels along one side of a transposed convolution's output."""
    return (size - 1) * stride - 2 * padding + kernel + output_padding


_SIZES = [(16, 4, 2, 1), (16, 4, 2, 0), (7, 16, 8, 4), (1, 64, 32, 16), (5, 3, 1, 0), (3, 2, 3, 0), (9, 5, 2, 2)]
transposed_output_size = Exercise(
    "transposed_output_size",
    _transposed_output_size,
    cases=lambda: calls("transposed_output_size", *_SIZES, (10, 2, 2), (16, 3, 2, 1, 1), (5, 5, 4, 1, 3)),
    wrong={
        "between n pixels lie n - 1 steps: (size - 1) * stride.": {"(size - 1)": "size"},
        "this is size * stride: true only when kernel = stride + 2 * padding.": lambda n, k, s, p=0, o=0: n * s,
        "this is the formula of an ordinary convolution: run it backwards.": (
            lambda n, k, s, p=0, o=0: (n + 2 * p - k) // s + 1
        ),
        "padding takes pixels off both sides: - 2 * padding.": {"2 * padding": "padding"},
        "padding takes pixels off here: - 2 * padding, not +.": {"- 2 * padding": "+ 2 * padding"},
        "padding is left out: it takes 2 * padding pixels off.": {"- 2 * padding": ""},
        "one too few: the last pixel adds a whole kernel, + kernel.": {"+ kernel": "+ kernel - 1"},
        "one too many: the last pixel adds one kernel, no more.": {"+ kernel": "+ kernel + 1"},
        "output_padding is left out: it adds its pixels, at one end.": {"+ output_padding": ""},
        "output_padding is added at one end only: once, not twice.": {"+ output_padding": "+ 2 * output_padding"},
        "output_padding adds pixels: + output_padding, not -.": {"+ output_padding": "- output_padding"},
    },
)

# ------------------------------------------------------------ transposed_conv


def _transposed_conv(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """x (H, W), kernel (k, k) -> ((H - 1) stride + k, (W - 1) stride + k): each pixel adds x times the kernel."""
    (height, width), k = x.shape, len(kernel)
    out = x.new_zeros((height - 1) * stride + k, (width - 1) * stride + k)
    for i in range(height):
        for j in range(width):
            out[i * stride : i * stride + k, j * stride : j * stride + k] += x[i, j] * kernel
    return out


transposed_conv = Exercise(
    "transposed_conv",
    _transposed_conv,
    cases=lambda: [
        Case((torch.randn(h, w), torch.randn(k, k), s), f"for x {h}x{w}, kernel {k}x{k}, stride {s}", "the output")
        # strides smaller than, equal to and larger than the kernel
        for h, w, k, s in ((3, 4, 3, 1), (3, 4, 3, 2), (4, 2, 2, 2), (2, 3, 2, 3), (5, 3, 4, 2))
    ],
    run=run_by_hand,
    wrong={
        "where two copies overlap the later one replaces the earlier: add them (`+=`).": {"+=": "="},
        "the kernel is turned by 180 degrees: each pixel adds a copy of it as it is.": {
            "* kernel": "* kernel.flip(0, 1)"
        },
        "the kernel is transposed (rows and columns exchanged): add copies of it as it is.": {"* kernel": "* kernel.T"},
        "too many zeros are inserted: stride - 1 between neighbouring pixels, so that they lie `stride` apart.": {
            "* stride": "* (stride + 1)"
        },
        "the output is cut to size * stride: its size is (size - 1) * stride + kernel, the last copy lies whole on "
        "it.": {"return out": "return out[: height * stride, : width * stride]"},
        "the stride is not used: pixel (i, j) adds its copy of the kernel at (i * stride, j * stride).": {
            "* stride": ""
        },
        "the kernel's values are not used: add x[i, j] * kernel.": {"* kernel": ""},
    },
)

# ------------------------------------------------------------ bilinear_kernel


def _bilinear_kernel(size: int) -> Tensor:
    """float32 (size, size), the tent of bilinear interpolation by the factor size / 2."""
    centre = (size - 1) / 2
    tent = 1 - (torch.arange(size) - centre).abs() / (size / 2)
    return tent[:, None] * tent


bilinear_kernel = Exercise(
    "bilinear_kernel",
    _bilinear_kernel,
    cases=lambda: calls("bilinear_kernel", (4,), (16,), (2,), (64,)),
    wrong={
        "its centre is at size / 2: the middle of the pixels 0 .. size - 1 is (size - 1) / 2, so that it is "
        "symmetric.": {"centre = (size - 1) / 2": "centre = size / 2"},
        "its centre is at size / 2 - 1: it lies between two pixels, (size - 1) / 2.": {
            "centre = (size - 1) / 2": "centre = size / 2 - 1"
        },
        "the tent falls off over `size` pixels: it falls to zero over the stride, size / 2.": {"(size / 2)": "size"},
        "the tent reaches zero at the outermost pixels: it falls off over the stride, size / 2.": {
            "(size / 2)": "centre"
        },
        "it is normalised to sum 1: stride**2 outputs share each input, so its sum is stride**2. Do not normalise.": {
            "* tent": "* tent / tent.sum() ** 2"
        },
        "its largest value is 1: do not rescale it, the centre lies between pixels.": {
            "* tent": "* tent / tent.max() ** 2"
        },
        "expected one kernel (size, size), without the axes for channels.": {"[:, None]": "[None, None, :, None]"},
        "it is the square root of the right kernel: multiply the two tents, one for each axis.": {
            "tent[:, None] * tent": "(tent[:, None] * tent).sqrt()"
        },
        "it is the tent of one axis: multiply two of them, tent[:, None] * tent[None, :].": {"tent[:, None] * ": ""},
    },
)

# ------------------------------------------------------------- ResNetFeatures


class _ResNetFeatures(nn.Module):
    """torchvision's ResNet without its classifier; the layers keep their names."""

    channels = (256, 512, 1024, 2048)

    def __init__(self, resnet: Any):
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) -> the features of strides 4, 8, 16, 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


def _resnets() -> Iterator[Case]:
    """A ResNet with the channels of ResNet-50, each stage one narrow block."""
    from torchvision.models import resnet

    network = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=2, width_per_group=8)
    yield Case((calibrated(network, torch.randn(2, 3, 64, 96)), torch.randn(1, 3, 64, 96)))


def _run_resnet(check: Check, answer: Callable, case: Case) -> Parts:
    """The four features, once the names of the weights are torchvision's."""
    resnet, images = case.args
    model = make(check, answer, copy.deepcopy(resnet))
    found, own = set(model.state_dict()), {name for name in resnet.state_dict() if not name.startswith("fc.")}
    check.that(
        not any("fc." in name for name in found),
        "the classifier `fc` is still in it: keep only the layers that forward runs, up to layer4.",
    )
    other = next(iter(sorted(found - own) or sorted(own - found)), "")
    check.that(
        not other,
        f"its state dict and torchvision's differ in {other}: keep each layer as an attribute of torchvision's name "
        "(self.conv1 = resnet.conv1, ... self.layer4), so that published weights load by name.",
    )
    errors = {"channels, but got": "the stages follow each other: each gets what the one before it gives."}
    features = check.call(model, images, errors=errors)
    listed = isinstance(features, (list, tuple))
    check.that(listed, f"forward returns {kind_of(features)}, expected a list of four features.")
    after = "those after layer1, layer2, layer3 and layer4"
    check.that(len(features) == 4, f"forward returns {len(features)} features, expected four: {after}.")
    return Parts({f"the feature of stride {stride}": x for stride, x in zip((4, 8, 16, 32), features, strict=True)})


resnet_features = Exercise(
    "ResNetFeatures",
    _ResNetFeatures,
    cases=_resnets,
    run=_run_resnet,
    tolerance=rounding,
    wrong={
        "maxpool is left out: so all strides are half as large.": {"self.maxpool(": "("},
        "ReLU is left out behind bn1: conv1, bn1, relu, maxpool.": {"self.relu(": "("},
        "bn1 is not run: conv1, bn1, relu, maxpool.": {"self.bn1(": "("},
        "the features come in reverse: stride 4 first, 32 last.": {"return features": "return features[::-1]"},
        "the last feature is pooled to 1x1: avgpool belongs to the classifier, leave it out.": {
            "return features": "return [*features[:3], F.adaptive_avg_pool2d(x, 1)]"
        },
    },
)

# --------------------------------- score_layer, upsample_layer, bilinear_layer, crop_like

_K = 5


def _check_one_by_one(check: Check, layer: nn.Conv2d, name: str) -> None:
    bias = "no" if layer.bias is None else "a"
    check.that(
        (layer.kernel_size, layer.stride, bias) == ((1, 1), (1, 1), "a"),
        f"{name} is to be a 1x1 convolution of stride 1 with a bias; found kernel {layer.kernel_size}, stride "
        f"{layer.stride}, {bias} bias.",
    )


def _run_score_layer(check: Check, answer: Callable, case: Case) -> Parts:
    """Kind, channels and start of the layer; its weights are random, so that there is nothing to compare."""
    channels, classes = case.args
    layer: Any = check.call(answer, channels, classes)
    check.that(isinstance(layer, nn.Conv2d), f"it returns {kind_of(layer)}, expected an nn.Conv2d.")
    check.that(
        (layer.in_channels, layer.out_channels) == (channels, classes),
        f"it maps {layer.in_channels} to {layer.out_channels} channels, expected {channels} (in_channels) to {classes} "
        "(num_classes).",
    )
    _check_one_by_one(check, layer, "the layer")
    check.that(not layer.bias.any(), "the bias does not start at 0: nn.init.zeros_(layer.bias).")
    gain = float(layer.weight.detach().float().std()) * channels**0.5
    default = " (these are PyTorch's own, three times smaller in variance)" if abs(gain - 3**-0.5) < 0.05 else ""
    kaiming = any(abs(gain - right) < 0.1 for right in (1, 2**0.5))  # either gain is a Kaiming initialisation
    check.that(
        kaiming,
        f"the weights have a standard deviation of {gain:.2f} / sqrt(in_channels){default}: Kaiming's is 1 / "
        'sqrt(in_channels), nn.init.kaiming_normal_(layer.weight, nonlinearity="linear").',
    )
    return Parts()


score_layer = Exercise("score_layer", fcn.score_layer, cases=lambda: [Case((400, 100))], run=_run_score_layer)


def _factors() -> Iterator[Case]:
    for factor in (2, 8):
        yield Case((_K, factor, torch.randn(1, _K, 3, 4)), f"for factor {factor}", "what the layer makes of scores")


def _run_upsample_layer(check: Check, answer: Callable, case: Case) -> Tensor:
    """What the layer, which is to start as bilinear interpolation, makes of scores."""
    *sizes, scores = case.args
    layer = check.call(answer, *sizes, when=case.when)
    _check_upsampling_layer(check, layer, "the layer", sizes[1])
    return layer(scores)


upsample_layer = Exercise(
    "upsample_layer",
    fcn.upsample_layer,
    cases=_factors,
    run=_run_upsample_layer,
    tolerance=rounding,
    wrong={
        "padding is missing: the size is multiplied by the factor with padding=factor // 2.": {
            "padding=factor // 2": "padding=0"
        },
        "output_padding makes the output one too large: leave it out.": {
            "padding=factor // 2": "padding=factor // 2, output_padding=1"
        },
    },
)


def _bilinear_layer(num_classes: int, factor: int) -> nn.Module:
    """A 1x1 convolution that starts as the identity, then bilinear interpolation."""
    conv = fcn.score_layer(num_classes, num_classes)  # its bias starts at 0
    nn.init.dirac_(conv.weight)
    return nn.Sequential(conv, nn.Upsample(scale_factor=factor, mode="bilinear"))


def _run_bilinear_layer(check: Check, answer: Callable, case: Case) -> Tensor:
    """What the layer makes of scores, with weights other than those of its start."""
    *sizes, scores = case.args
    layer = check.call(answer, *sizes, when=case.when)
    check.that(isinstance(layer, nn.Module), f"it returns {kind_of(layer)}, expected a module such as nn.Sequential.")
    shapes = [tuple(weight.shape) for weight in layer.parameters()]
    check.that(
        shapes == [(_K, _K, 1, 1), (_K,)],
        f"its weights have the shapes {shapes}, expected those of one 1x1 convolution from num_classes to num_classes "
        f"channels, {(_K, _K, 1, 1)} and {(_K,)}.",
    )
    weight, bias = layer.parameters()
    identity = "nn.init.dirac_(conv.weight) and nn.init.zeros_(conv.bias)"
    starts = torch.equal(weight[:, :, 0, 0], torch.eye(_K)) and not bias.any()
    check.that(starts, f"the convolution does not start as the identity: {identity}.")
    torch.default_generator.manual_seed(1)
    for parameter in (weight, bias):
        nn.init.normal_(parameter)
    return check.call(layer, scores, when=f"in forward {case.when}")


bilinear_layer = Exercise(
    "bilinear_layer",
    _bilinear_layer,
    cases=_factors,
    run=_run_bilinear_layer,
    tolerance=rounding,
    wrong={
        'it repeats pixels (nearest): mode="bilinear".': {'mode="bilinear"': 'mode="nearest"'},
        "align_corners=True stretches the map to its corner pixels: leave it False.": {
            'mode="bilinear"': 'mode="bilinear", align_corners=True'
        },
        "it enlarges 2 times whatever the factor: scale_factor=factor.": {"scale_factor=factor": "scale_factor=2"},
    },
)


def _keep_centre(x: Tensor, like: Tensor) -> Tensor:
    top, left = ((a - b) // 2 for a, b in zip(x.shape[-2:], like.shape[-2:], strict=True))
    return fcn.crop_like(x[..., top:, left:], like)


_WHERE = "strides round up, so what is left over lies at the bottom and at the right: crop there, x[..., :h, :w]."
_WRONG_CROPS: dict[str, list[Any]] = {
    f"you crop around the centre: {_WHERE}": [_keep_centre],
    f"you crop at the top and at the left: {_WHERE}": [lambda x, like: x[..., -like.shape[-2] :, -like.shape[-1] :]],
    f"you resize, which shifts the scores: {_WHERE}": [
        lambda x, like: F.interpolate(x, like.shape[-2:], mode="bilinear"),
        lambda x, like: F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True),
    ],
}
crop_like = Exercise(
    "crop_like",
    fcn.crop_like,
    cases=lambda: [  # both sides too long, one side, none; the reference has other channels
        Case((torch.randn(2, _K, 6, 8), torch.zeros(2, 9, h, w)), f"for 6x8 and a reference of {h}x{w}")
        for h, w in ((4, 5), (6, 7), (6, 8))
    ],
    wrong=_WRONG_CROPS,
)

# -------------------------------------------------------- FCN32s, FCN16s, FCN8s

_STAGES = {"score_fr": 3, "score_pool4": 2, "score_pool3": 1}
"""Score layers in the order in which they enter the sum, and the index of their input in the encoder's features."""


def _images() -> Iterator[Case]:
    """A size divisible by 32, and one that is odd."""
    encoder = calibrated(models.ResNetEncoder("resnet18", width=8), torch.randn(2, 3, 64, 64))
    yield Case((encoder, torch.randn(2, 3, 64, 64)), what="the logits")
    yield Case((encoder, torch.randn(1, 3, 65, 97)), what="for a 65x97 image the logits")


def _inspect_fcn(check: Check, answer: Callable, factors: Mapping[str, int]) -> None:
    """The layers; narrow encoders, laid out as ResNet-18 and ResNet-50, show numbers of channels written by hand."""
    for backbone in ("resnet18", "resnet50"):
        encoder = models.ResNetEncoder(backbone, width=8)
        model = make(check, answer, encoder, _K)
        check.that(
            getattr(model, "encoder", None) is encoder,
            "it does not keep the encoder it is given as `self.encoder`: training finds the encoder by that name, to "
            "give it a learning rate of its own.",
        )
        _check_score_layers(check, model, list(_STAGES)[: len(factors)], encoder.channels)
        for name, factor in factors.items():
            layer = getattr(model, name, None)
            missing = f"it has no layer `self.{name}` (transposed convolution that enlarges {factor} times)."
            check.that(layer is not None, missing)
            _check_upsampling_layer(check, layer, name, factor)


def _check_score_layers(check: Check, model: nn.Module, names: list[str], channels: tuple[int, ...]) -> None:
    layers: dict[str, Any] = {name: getattr(model, name, None) for name in names}
    for name, layer in layers.items():
        check.that(layer is not None, f"it has no layer `self.{name}` (1x1 convolution from features to class scores).")
        check.that(isinstance(layer, nn.Conv2d), f"{name} is to be an nn.Conv2d, found {kind_of(layer)}.")
    found = {name: layer.in_channels for name, layer in layers.items()}
    expected = {name: channels[_STAGES[name]] for name in names}
    exchanged = found != expected and sorted(found.values()) == sorted(expected.values())
    hint = f"two stages are exchanged: the score layers take {found} channels, expected {expected}."
    check.that(not exchanged, hint)
    # From the finest on: the handout's mistake sits there, and its other numbers only fit another backbone.
    for name in reversed(names):
        check.that(found[name] == expected[name], _channels_hint(name, found[name], channels))
    for name, layer in layers.items():
        by_hand = " (21 is written by hand: use num_classes)" if layer.out_channels == 21 else ""
        hint = f"{name} gives {layer.out_channels} channels, expected num_classes = {_K}{by_hand}."
        check.that(layer.out_channels == _K, hint)
        _check_one_by_one(check, layer, name)


def _channels_hint(name: str, found: int, channels: tuple[int, ...]) -> str:
    stage = _STAGES[name]
    hint = f"{name} takes {found} channels, expected encoder.channels[{stage}] = {channels[stage]}"
    handout = {"score_pool3": 1024, "score_pool4": 2048}
    if name in handout and found in (handout[name], channels[stage + 1]):
        return (
            f"{hint}: these are the channels one stage deeper. ResNet-50 has 512 at stride 8 (pool3) and 1024 at "
            "stride 16 (pool4); take the numbers from encoder.channels."
        )
    if found in channels:
        return f"{hint}: that is another stage; the four stages have the strides 4, 8, 16, 32."
    if found in (64, 128, 256, 512, 1024, 2048):
        return f"{hint}: the number is written by hand and fits one backbone only; take it from encoder.channels."
    return f"{hint}."


def _check_upsampling_layer(check: Check, layer: Any, name: str, factor: int) -> None:
    side = 2 * factor
    check.that(isinstance(layer, nn.ConvTranspose2d), f"{name} is to be an nn.ConvTranspose2d, found {kind_of(layer)}.")
    concatenated = ": are scores concatenated? FCN adds them" if layer.in_channels in (2 * _K, 3 * _K) else ""
    check.that(
        (layer.in_channels, layer.out_channels) == (_K, _K),
        f"{name} maps {layer.in_channels} to {layer.out_channels} channels, expected num_classes = {_K} to "
        f"{_K}{concatenated}.",
    )
    check.that(layer.groups == 1, f"{name} has groups={layer.groups}: use one group, so that classes can learn to mix.")
    check.that(
        (layer.kernel_size, layer.stride) == ((side, side), (factor, factor)),
        f"{name} has kernel {layer.kernel_size} and stride {layer.stride}: to enlarge {factor} times it needs kernel "
        f"{side}, stride {factor}, padding {factor // 2}.",
    )
    check.that(layer.bias is None or not layer.bias.any(), f"{name} has a bias that does not start at 0: bias=False.")
    weight = models.bilinear_kernel(_K, side)
    pairs = weight[0, 0].expand_as(weight)
    own = f"{name} starts with the tent between all pairs of classes: only weight[c, c] holds it, the rest is 0."
    general = (
        f"{name} does not start as bilinear interpolation: under torch.no_grad(), set its weight to zero, then copy "
        "bilinear_kernel(size) into weight[c, c] for each class c."
    )
    known = [
        (pairs, own),
        (pairs / _K, own),
        (weight / weight[0, 0].sum(), f"{name} starts with tents of sum 1: do not normalise the bilinear kernel."),
    ]
    alike = partial(torch.allclose, layer.weight.detach().float(), rtol=0, atol=1e-5)
    check.that(alike(weight), next((hint for start, hint in known if alike(start)), general))


@torch.no_grad()
def _vary(model: nn.Module, names: Sequence[str]) -> None:
    """Always the same random weights: bilinear ones would hide which layers a forward pass uses."""
    torch.default_generator.manual_seed(1)
    for name in names:
        layer = getattr(model, name)
        layer.weight.normal_(std=0.1)
        if layer.bias is not None:  # an upsampling layer may have a bias; the reference's has none
            layer.bias.normal_() if name in _STAGES else layer.bias.zero_()


def _run_fcn(check: Check, answer: Callable, case: Case, reference: Callable, factors: Mapping[str, int]) -> Tensor:
    encoder, images = case.args
    layers = [*list(_STAGES)[: len(factors)], *factors]
    model: Any = make(check, answer, copy.deepcopy(encoder), _K)
    _vary(model, layers)
    height, width = images.shape[-2:]
    odd = width % 32 > 0
    when = f"in forward for {'a ' * odd}{height}x{width} image{'s' * (not odd)}"
    sizes = (
        "for an odd size the enlarged scores are a little larger than what they are added to, because strides "
        "round up: crop them first, x[..., :h, :w]."
        if odd
        else "two summands differ in size: enlarge the coarser scores before adding; an upsampling layer enlarges "
        "exactly n times with kernel 2n, stride n, padding n / 2."
    )
    logits = check.call(model, images, when=when, errors={"must match the size": sizes})
    check.that(isinstance(logits, Tensor), f"forward returns {kind_of(logits)}, expected the logits, one tensor.")
    found, expected = tuple(logits.shape), (len(images), _K, height, width)
    check.that(found == expected, _shape_hint(found, expected))
    if odd:
        right = reference(copy.deepcopy(encoder), _K).eval()
        _vary(right, layers)
        # Padding the image to a multiple of 32 and cropping the logits is as right, and differs near the border.
        padded = right(F.pad(images, (0, -width % 32, 0, -height % 32)))[..., :height, :width]
        as_right = not difference(logits, padded, "", rounding(padded))
        return right(images) if as_right else logits
    unused = "{} gets no gradient: forward does not use it, or its result does not enter the sum."
    check_gradients(check, model, logits, {name: getattr(model, name).weight for name in layers}, unused)
    frozen = "the encoder gets no gradient: is it run under no_grad, detached or frozen in __init__?"
    trained = model.encoder.conv1.weight.grad
    check.that(trained is not None and bool(trained.any()), frozen)
    return logits


def _shape_hint(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    height, width = expected[2:]
    hint = f"forward gives shape {found} for {height}x{width} images, expected {expected}"
    if len(found) == 3:
        return f"{hint}: logits keep one channel for each class, leave the argmax out."
    if height % 32:
        return f"{hint}: crop the last enlargement to the height and width of the image."
    if len(found) == 4 and found[:2] == expected[:2]:
        if found[2] > height:
            return f"{hint}: an upsampling layer of factor n needs padding n / 2 (or crop what is left over)."
        if found[2] and height % found[2] == 0:
            return f"{hint}: the logits stay at stride {height // found[2]}, the last enlargement is missing."
    return f"{hint}."


def _fcn(title: str, reference: Any, wrong: Mapping[str, Mapping[str, str]], **factors: int) -> Exercise:
    """Layers, bilinear start, output size, gradients, and the same numbers from the same weights, odd sizes too."""
    # What a factory gives is changed as soon as it is made.
    unpadded = "upsampling).apply(lambda layer: setattr(layer, 'padding', (0, 0)))"
    last = [*factors.values()][-1]

    def fitting(crop: Callable) -> type:  # the network with `crop` in the place of `crop_like`
        forward = FunctionType(reference.forward.__code__, vars(fcn) | {"crop_like": crop})
        return changed(reference, forward=forward)

    return Exercise(
        title,
        reference,
        cases=_images,
        errors={
            "channels, but got": "a layer meets features of another stage: encoder(images) lists them with strides 4, "
            "8, 16, 32.",
            "values to unpack": "encoder(images) is a list of four features, with strides 4, 8, 16, 32.",
        },
        run=partial(_run_fcn, reference=reference, factors=factors),
        inspect=partial(_inspect_fcn, factors=factors),
        tolerance=rounding,
        wrong={
            **activated(reference),
            "the logits are shifted to the bottom right: an upsampling layer of factor n needs padding n / 2.": [
                {"upsampling)": unpadded},
                {f"{last}, upsampling)": f"{last}, {unpadded}"},
            ],
            **wrong,
            **{f"for an odd size {hint}": list(map(fitting, crops)) for hint, crops in _WRONG_CROPS.items()},
        },
    )


_SUMS = {
    "the scores are multiplied: add them.": {" + self.": " * self."},
    "the scores are subtracted: add them.": {" + self.": " - self."},
    "the scores are averaged: add them.": {"x = ": "x = 0.5 * ", " + self.": " + 0.5 * self."},
    "there is a ReLU after the sum: scores are added as they are.": {"(x)": "(x.relu())"},
}
_EXCHANGED = {
    "upscore2 and upscore_pool4 are exchanged: upscore2 enlarges score_fr, upscore_pool4 the sum.": {
        "self.upscore2(": "self.upscore_pool4(",
        "self.upscore_pool4(": "self.upscore2(",
    }
}

fcn32s = _fcn("FCN32s", models.FCN32s, {}, upscore32=32)
fcn16s = _fcn("FCN16s", models.FCN16s, _SUMS, upscore2=2, upscore16=16)
fcn8s = _fcn("FCN8s", models.FCN8s, _EXCHANGED | _SUMS, upscore2=2, upscore_pool4=2, upscore8=8)

# --------------------------------------------------------------------- shares


def _shares(target: Tensor, stride: int, num_classes: int) -> Tensor:
    """target (H, W), void 255 -> float (K, cells, cells): a class's share of a cell's valid pixels, 0 without any."""
    truth = (target == torch.arange(num_classes)[:, None, None]).float()
    covered = F.avg_pool2d(truth[None], stride, ceil_mode=True)[0]
    valid = covered.sum(0).clamp(min=1e-6)
    return covered / valid


def _labels() -> Iterator[Case]:
    """Sizes that the stride divides and does not, cells with some void and with nothing else."""
    for (height, width), stride in (((8, 12), 4), ((7, 10), 3)):
        target = torch.randint(0, 4, (height, width)).to(torch.uint8)
        target[:5, : stride + 1] = 255
        yield Case((target, stride, 5), f"for a target of {height}x{width} and stride {stride}", "the shares")


shares = Exercise(
    "shares",
    _shares,
    cases=_labels,
    wrong={
        "the cells at the border are cut off: strides round up, avg_pool2d(..., ceil_mode=True).": {
            "ceil_mode=True": "ceil_mode=False"
        },
        "void pixels are counted as background: 255 is no class, leave them out.": {
            "(target ==": "(torch.where(target == 255, 0, target) =="
        },
        "void pixels count in the size of a cell: divide by the sum over the classes.": {"/ valid": ""},
        "it looks at one pixel of each cell: average over all of its pixels.": {
            "F.avg_pool2d(truth[None], stride, ceil_mode=True)[0]": "truth[:, ::stride, ::stride]"
        },
        "it gives the most frequent class alone: a share for each class is wanted.": {
            "covered / valid": "(covered == covered.amax(0)).float() * (covered > 0)"
        },
    },
    errors=dict.fromkeys(
        ("255", "one_hot is only applicable to index tensor"),
        "void (255) is used as a class: compare with each class, (target == k), and 255 drops out.",
    ),
)

# ------------------------------------------------------------------ dice_loss


def _batches() -> Iterator[Case]:
    """A batch with void, an absent class and images that differ; other smoothing, other void; a perfect prediction."""
    logits = 2 * torch.randn(2, 4, 5, 6)
    target = torch.randint(0, 3, (2, 5, 6))  # class 3 is absent
    target[0, :3], target[1, 3:], target[1, 0] = 0, 1, 255
    yield Case((logits, target), what="the loss")
    counted = torch.where(target == 255, 0, target)
    yield Case((logits, counted), "for smooth=10", "the loss", {"smooth": 10.0})
    yield Case((logits, counted), "for ignore_index=1", "the loss", {"ignore_index": 1})
    perfect = 50 * F.one_hot(target.clamp_max(3), 4).permute(0, 3, 1, 2).float()
    yield Case((perfect, target), "of a perfect prediction", "the loss")
    yield Case((logits.requires_grad_(), target), what="the gradient")


def _run_dice(check: Check, answer: Callable, case: Case) -> Any:
    found = check.call(answer, *case.args, when=case.when, **case.kwargs)
    if case.what == "the gradient":
        lost = "no gradient comes back: is there an argmax, a detach or an `.item()`? Soft Dice uses the probabilities."
        check.that(getattr(found, "requires_grad", False), lost)
    return found


def _soft_dice(logits: Tensor, target: Tensor, ignore_index: int = 255, smooth: float = 1.0) -> Tensor:
    """What students write; wrong answers are changes of it, not of the reference, which writes its gradient out."""
    valid = (target != ignore_index)[:, None]
    truth = F.one_hot(torch.where(valid[:, 0], target, 0), logits.shape[1]).movedim(-1, 1) * valid
    p, present = logits.softmax(1), truth.sum((0, 2, 3)) > 0
    overlap, areas = (p * truth).sum((0, 2, 3)), (p * valid + truth).sum((0, 2, 3))
    losses = 1 - (2 * overlap + smooth) / (areas + smooth)
    return losses[present].mean()


_FRACTION = "2 overlap + smooth, over the areas + smooth."
dice_loss = Exercise(
    "dice_loss",
    dice,
    cases=_batches,
    run=_run_dice,
    errors={
        "Class values must be smaller than num_classes": "void (255) goes into one_hot as if it were a class: leave "
        "void pixels out first, or replace them and multiply by a mask.",
        "index 255 is out of bounds": "void (255) is used as a class index: leave void pixels out first.",
    },
    source=_soft_dice,
    wrong={
        "this is the Dice score, which grows with overlap: the loss is 1 - it.": {"losses = 1 - ": "losses = "},
        "this is minus the Dice score: the loss is 1 - it, 0 when all is right.": {"losses = 1 - ": "losses = -"},
        "softmax is missing: Dice needs probabilities, not logits.": {"logits.softmax(1)": "logits"},
        "it uses sigmoid: classes exclude each other here, softmax over the channels.": {"softmax(1)": "sigmoid()"},
        "the softmax runs over the wrong axis: over the classes, dim=1 of (B, K, H, W).": {"softmax(1)": "softmax(2)"},
        "it uses log-probabilities: Dice needs probabilities, softmax.": {"softmax(1)": "log_softmax(1)"},
        "void pixels are counted in the predicted area: mask the probabilities as well.": {"p * valid": "p"},
        "void pixels are counted as background: leave them out of target and prediction.": {" * valid": ""},
        f"`smooth` is missing in the numerator: {_FRACTION}": {"2 * overlap + smooth": "2 * overlap"},
        f"`smooth` is missing in the denominator: {_FRACTION}": {"areas + smooth": "areas"},
        "`smooth` is missing: add it above and below the fraction bar.": {" + smooth": ""},
        "classes absent from the target enter the mean: average only over those present.": {"[present]": ""},
        "the 2 is missing: 2 overlap over the sum of both areas.": {"2 * overlap": "overlap"},
        "the areas are sums of squares: this definition sums the probabilities themselves.": {
            "p * valid": "p**2 * valid"
        },
        "this is the soft Jaccard loss (overlap over union): Dice is 2 overlap over both areas.": {
            "2 * overlap": "overlap",
            "areas + smooth": "areas - overlap + smooth",
        },
        "it sums over the classes before dividing: one fraction for each class, then their mean.": {"(0, 2, 3)": ""},
        "it does not use its argument smooth: add that number, not 1.": {"+ smooth": "+ 1"},
        "it does not use its argument ignore_index: leave out the pixels with that label, not 255.": {
            "!= ignore_index": "!= 255"
        },
        "it is averaged over images: sum overlap and areas over the whole batch first, then divide.": (
            lambda logits, target, **settings: torch.stack(
                [dice(x[None], y[None], **settings) for x, y in zip(logits, target, strict=True)]
            ).mean()
        ),
    },
)

# ----------------------------------------------------------------- train_step


def _two_steps() -> Iterator[Case]:
    """A network in evaluation mode, and two batches with void."""
    layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    batches = [(torch.randn(2, 3, 6, 7), torch.randint(0, 4, (2, 6, 7))) for _ in range(2)]
    for _, targets in batches:
        targets[:, :2] = 255
    yield Case((nn.Sequential(OrderedDict(layers=layers)).eval(), *batches))


def _run_steps(check: Check, answer: Callable, case: Case) -> Parts:
    """Loss and weights after each step."""
    start, *batches = case.args
    model, modes, found = copy.deepcopy(start), [], Parts()
    model.layers.register_forward_pre_hook(lambda layers, _: modes.append(layers.training))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    evaluating = "the model runs in evaluation mode, so batch norm and dropout do not train: call model.train()."
    missing = "is backward() or optimizer.step() missing, or does zero_grad() come between them?"
    for step, (images, targets) in zip(("the first step", "the second step"), batches, strict=True):
        before, passes = copy.deepcopy(model.state_dict()), len(modes)
        loss = check.call(answer, model, images, targets, optimizer, when=f"in {step}")
        check.that(len(modes) > passes, "the model is not run: start with logits = model(images).")
        check.that(all(modes), evaluating)
        once = len(modes) == passes + 1
        check.that(once, "the model is run more than once in a step: one forward pass is enough.")
        moved = any(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())
        check.that(moved, f"the weights are the same after {step}: {missing}")
        found[f"the loss of {step}"] = loss
        for name, weight in model.named_parameters():
            found[f"after {step} the weight {name}"] = weight.detach().clone()
    return found


def _train_step(model: nn.Module, images: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """One step of cross-entropy that ignores 255; images (B, 3, H, W) float, targets (B, H, W) int64 -> the loss."""
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), targets, ignore_index=255)
    loss.backward()
    optimizer.step()
    return loss.item()


train_step = Exercise(
    "train_step",
    _train_step,
    cases=_two_steps,
    run=_run_steps,
    errors={
        "255 is out of bounds": "void (255) reaches cross_entropy as a class: pass ignore_index=255.",
        "backward through the graph a second time": "the graph of an earlier step is kept: compute the loss anew "
        "each time.",
    },
    wrong={
        "the gradients of the step before are still there: call optimizer.zero_grad() before backward().": {
            "optimizer.zero_grad()": ""
        },
        "there is a softmax before cross_entropy, which applies its own: give it the logits.": {
            "model(images)": "model(images).softmax(1)"
        },
        "there is a sigmoid before cross_entropy, which applies softmax itself: give it the logits.": {
            "model(images)": "model(images).sigmoid()"
        },
        "void pixels (255) are trained as background: leave them out with ignore_index=255.": {
            "targets, ignore_index=255": "torch.where(targets == 255, 0, targets)"
        },
        "void pixels (255) are trained as the last class: leave them out with ignore_index=255.": {
            "targets, ignore_index=255": "targets.clamp_max(3)"
        },
        "the loss is the sum over pixels: take the mean, else the step grows with the image.": {
            "ignore_index=255": 'ignore_index=255, reduction="sum"'
        },
        "void pixels enter the mean (as zeros): divide by the number of valid pixels, as ignore_index=255 does.": {
            "ignore_index=255)": 'ignore_index=255, reduction="none").mean()'
        },
        "optimizer.step() is called twice: once a batch.": {"optimizer.step()": "optimizer.step(), optimizer.step()"},
    },
)

# ----------------------------------------------------------- parameter_groups


def _parameter_groups(model: nn.Module, lr: float, backbone_factor: float = 0.1) -> list[dict]:
    """Groups for an optimizer: the parameters of `model.encoder` at lr * backbone_factor, all others at lr."""
    named = list(model.named_parameters())
    encoder = [p for name, p in named if name.startswith("encoder.")]
    rest = [p for name, p in named if not name.startswith("encoder.")]
    return [{"params": encoder, "lr": lr * backbone_factor}, {"params": rest, "lr": lr}]


def _net() -> nn.Module:
    """An encoder, and other layers and parameters of which two have "encoder" in their names."""
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1)))
    head = nn.ModuleDict({"encoder_projection": nn.Conv2d(4, 4, 1), "classifier": nn.Conv2d(4, 2, 1)})
    model = nn.ModuleDict({"encoder": encoder, "head": head})
    model.encoder_scale, model.offset = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))
    return model


def _run_groups(check: Check, answer: Callable, case: Case) -> Parts:
    """The rate of each parameter of a network: every parameter once, left as it is; an optimizer takes the groups."""
    model = _net()
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
        parameters, rate = group["params"], group["lr"]
        several = isinstance(parameters, Iterable) and not isinstance(parameters, (set, frozenset, str, nn.Module))
        if isinstance(parameters, Tensor):
            parameters = [parameters]
        elif several or isinstance(parameters, nn.ParameterList):  # as optimizers do
            parameters = list(parameters)
        others = [kind_of(parameters)]
        if isinstance(parameters, list):
            others = [f"a list that holds {kind_of(p)}" for p in parameters if not isinstance(p, Tensor)]
        hint = "expected a list of parameters: parameters(), not named_parameters(), and no set."
        check.that(not others, f'the "params" of group {number} are {"".join(others[:1])}; {hint}')
        check.that(isinstance(rate, float), f'the "lr" of group {number} is {kind_of(rate)}, expected a Python float.')
        listed.append({**group, "params": parameters})
    return listed


def _check_membership(check: Check, model: nn.Module, groups: list[dict]) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [id(parameter) for group in groups for parameter in group["params"]]
    own = names.keys() >= set(held)
    check.that(own, "a group holds something that is no parameter of the model: a copy, or a buffer of batch norm?")
    twice = next((names[parameter] for parameter in held if held.count(parameter) > 1), "")
    rest = "is model.parameters() taken for the rest? It holds the encoder's, too"
    check.that(not twice, f"{twice} occurs in the groups more than once: {rest}.")
    missing = [name for parameter, name in names.items() if parameter not in held]
    hint = f"{next(iter(missing), '')} is in no group: "
    if all(name in missing for name in names.values() if name.startswith("encoder.")):
        hint = "no parameter of model.encoder is in a group (is a generator read twice? It is empty the second time)."
    elif all("encoder" in name and not name.startswith("encoder.") for name in missing):
        hint += "it has `encoder` in its name, but is no part of model.encoder."
    else:
        hint += "take all of model.encoder.parameters(), and all that are not among them."
    check.that(not missing, hint)


_IN_LIST = "`in` a list compares values, not objects: compare with `is`, or look for id(parameter) in a set of ids."
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
        "the factor is on the wrong part: the encoder, pretrained, learns slower.": {
            '"params": encoder': '"params": rest',
            '"params": rest': '"params": encoder',
        },
        "all parts have the same rate: the encoder's is lr * backbone_factor.": {" * backbone_factor": ""},
        "all parts have the encoder's rate: only the encoder's is multiplied by backbone_factor.": {
            '"lr": lr}': '"lr": lr * backbone_factor}'
        },
        "the encoder's rate is the factor itself: it is lr * backbone_factor.": {"lr * backbone": "backbone"},
        "the encoder's rate is divided by the factor: it is lr * backbone_factor.": {"* backbone": "/ backbone"},
        "backbone_factor is not used, 0.1 is written by hand: lr * backbone_factor.": {"* backbone_factor": "* 0.1"},
        "it has `encoder` in its name, but is no part of model.encoder. Take model.encoder.parameters().": [
            {'"encoder."': '"encoder"'},
            {'name.startswith("encoder.")': '"encoder" in name'},
        ],
    },
)

# ---------------------------------------------------- warmup_poly, train_loop


def _warmup_poly(step: int, steps: int, warmup: int, power: float = 0.9) -> float:
    """By what the rates are multiplied in a step (0 to steps - 1): up to 1 in `warmup` steps, then down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    return (1 - progress) ** power


_STEPS = [*((step, 100, 10) for step in (0, 4, 9, 10, 55, 99)), (0, 7, 0), (6, 7, 0), (20, 50, 5, 2.0), (3, 50, 5, 2.0)]
warmup_poly = Exercise(
    "warmup_poly",
    _warmup_poly,
    cases=lambda: calls("warmup_poly", *_STEPS),
    tolerance=1e-6,
    errors={"division by zero": "without warm-up (warmup=0) there is nothing to divide by: go straight to the fall."},
    wrong={
        "the first step has rate 0: steps count from 0, (step + 1) / warmup.": {"(step + 1)": "step"},
        "the fall counts from step 0, so the rate jumps after the warm-up: (step - warmup) / (steps - warmup).": {
            "(step - warmup) / (steps - warmup)": "step / steps"
        },
        "the fall is divided by all steps: steps - warmup are left for it.": {"(steps - warmup)": "steps"},
        "the warm-up is left out: step < warmup rises, (step + 1) / warmup.": lambda s, n, w, p=0.9: (1 - s / n) ** p,
        "the power is left out: (1 - progress) ** power.": {" ** power": ""},
        "0.9 is written by hand: use `power`.": {"** power": "** 0.9"},
        "it rises after the warm-up: 1 - progress falls.": {"(1 - progress)": "progress"},
        "the exponent belongs on the whole bracket: (1 - progress) ** power.": {"(1 - progress)": "1 - progress"},
        "the warm-up is one step too long: step < warmup, not <=.": {"step < warmup": "step <= warmup"},
    },
)


def _train_loop(model: nn.Module, batches: Iterable, recipe: Recipe) -> list[float]:
    """AdamW with the recipe's rates, a step for each of `batches` (images, targets) -> the losses."""
    groups = _parameter_groups(model, recipe.lr, recipe.backbone_factor)
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
    full = [group["lr"] for group in optimizer.param_groups]
    losses = []
    for step, (images, targets) in enumerate(batches):
        for group, lr in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = lr * _warmup_poly(step, recipe.steps, recipe.warmup_steps)
        losses.append(_train_step(model, images, targets, optimizer))
    return losses


def _six_batches() -> Iterator[Case]:
    encoder = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    model = nn.Sequential(OrderedDict(encoder=encoder, head=nn.Conv2d(6, 4, 1)))
    batches = [(torch.randn(2, 3, 8, 9), torch.randint(0, 4, (2, 6, 7))) for _ in range(6)]
    recipe = Recipe(steps=8, lr=0.05, backbone_factor=0.3, warmup_steps=3, weight_decay=2.0)
    yield Case((model, batches, recipe))


def _run_loop(check: Check, answer: Callable, case: Case) -> Parts:
    """The loss of each step, and the weights afterwards."""
    model, batches, recipe = copy.deepcopy(case.args[0]), *case.args[1:]
    losses = check.call(answer, model, batches, recipe)
    check.that(isinstance(losses, list), f"it returns {kind_of(losses)}, expected the list of the losses.")
    check.that(len(losses) == len(batches), f"it returns {len(losses)} losses for {len(batches)} batches: one a step.")
    found = {f"the loss of step {step}": loss for step, loss in enumerate(losses)}
    weights = {f"after the last step {name}": weight.detach() for name, weight in model.named_parameters()}
    return Parts(found | weights)


train_loop = Exercise(
    "train_loop",
    _train_loop,
    cases=_six_batches,
    run=_run_loop,
    tolerance=1e-4,
    wrong={
        'the rates do not follow the schedule: set group["lr"] before each step.': {
            " * _warmup_poly(step, recipe.steps, recipe.warmup_steps)": ""
        },
        "the factor is applied to a rate that was multiplied before: keep the full rates, and multiply those.": {
            "= lr * _warmup_poly": "*= _warmup_poly"
        },
        "the rates are set after the step: each step needs its own before, the first one too.": {
            "_warmup_poly(step,": "_warmup_poly(step - 1 if step else recipe.warmup_steps,"  # full in the first step
        },
        "encoder and head have the same rate: parameter_groups(model, recipe.lr, recipe.backbone_factor).": {
            "recipe.backbone_factor": "1.0"
        },
        "the warm-up is left out: warmup_poly(step, recipe.steps, recipe.warmup_steps).": {"recipe.warmup_steps": "0"},
        "the schedule ends with the batches: it is recipe.steps long.": {"recipe.steps": "len(batches)"},
        "this is SGD: take AdamW.": {"AdamW": "SGD"},
        "this is Adam: take AdamW.": {"AdamW": "Adam"},
        "the weight decay is forgotten: weight_decay=recipe.weight_decay.": {", weight_decay=recipe.weight_decay": ""},
        "the steps are counted from 1: the first one is 0.": {"_warmup_poly(step,": "_warmup_poly(step + 1,"},
        "the encoder's factor is left at its default: parameter_groups(model, recipe.lr, recipe.backbone_factor).": {
            ", recipe.backbone_factor": ""
        },
    },
)
