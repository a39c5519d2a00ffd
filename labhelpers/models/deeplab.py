"""DeepLabV3 and DeepLabV3+: atrous spatial pyramid pooling, and a decoder with features of stride 4.

V3: Chen, Papandreou, Schroff, Adam: Rethinking Atrous Convolution for Semantic Image Segmentation, arXiv:1706.05587,
2017. V3+: Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation, ECCV 2018. The boxes have the papers' names.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.models.encoders import Encoder, build_encoder, published_state
from labhelpers.models.fcn import score_layer

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Atrous rates by output stride, V3, Section 3.3: a grid twice as fine needs rates twice as large to reach equally far.

Rates must also fit the map: a 3x3 kernel whose rate is near the map's side reads zeros with eight of its nine weights.
That is the reason for smaller ones, (3, 6, 9) say, when crops are small.
"""


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, rate: int = 1, separable: bool = False
) -> nn.Sequential:
    """Convolution at an atrous rate, batch norm, ReLU; the size stays, because padding equals the rate.

    `separable` splits it into a convolution for each channel by itself and a 1x1 across channels (V3+, Section 3.1):
    of 3x3 kernels about a ninth of the weights is left.
    """
    outputs, groups = (in_channels, in_channels) if separable else (out_channels, 1)
    padding = rate * (kernel - 1) // 2
    layer: nn.Module = nn.Conv2d(in_channels, outputs, kernel, 1, padding, rate, groups, bias=False)
    if separable:
        layer = nn.Sequential(layer, nn.Conv2d(in_channels, out_channels, 1, bias=False))
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that in training with one value per channel uses its running statistics.

    Behind global pooling a batch of one image has one value per channel: its own mean, with no spread, so the
    normalised value would be 0 whatever the image (PyTorch refuses it).
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(x)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling, V3, Figure 5: five views of the same features, concatenated and mixed.

    Args:
        in_channels: of the features, 2048 for ResNet-50.
        out_channels: of each branch and of the result, 256 in the paper.
        rates: atrous rates of the 3x3 branches; see `RATES`. () leaves only the 1x1 and the pooling branch.
        separable: depthwise-separable 3x3 branches.
    """

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, ...], separable: bool = False):
        super().__init__()
        self.conv1 = conv_norm(in_channels, out_channels, 1)
        self.atrous_convs = nn.ModuleList(conv_norm(in_channels, out_channels, 3, rate, separable) for rate in rates)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            PooledBatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.conv_out = conv_norm((2 + len(rates)) * out_channels, out_channels, 1)
        self.conv_out.append(nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        return self.conv_out(torch.cat(self.branches(x), 1))

    def branches(self, x: Tensor) -> list[Tensor]:
        """What each branch makes of x, (B, out_channels, h, w) each: 1x1, the rates in order, pooling."""
        branches = [self.conv1(x), *(conv(x) for conv in self.atrous_convs)]
        pooled = self.global_avg_pool(x)  # bilinear enlargement of a single value is that value everywhere
        return [*branches, F.interpolate(pooled, x.shape[-2:], mode="bilinear", align_corners=False)]


class DeepLabHead(nn.Module):
    """V3, Section 3: ASPP, a 3x3 convolution, class scores at the features' own stride. Arguments as for the next."""

    def __init__(
        self, in_channels: int, num_classes: int, rates: tuple[int, ...], channels: int, separable: bool = False
    ):
        super().__init__()
        self.aspp = ASPP(in_channels, channels, rates, separable)
        self.refine = conv_norm(channels, channels, 3, separable=separable)
        self.classifier = score_layer(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """The encoder's last features (B, in_channels, h, w) -> logits (B, K, h, w)."""
        return self.classifier(self.refine(self.aspp(features)))


class DeepLabHeadPlus(nn.Module):
    """V3+, Figure 2: the ASPP's result, enlarged to stride 4, beside low-level features; 3x3 refinement, class scores.

    The low-level features are projected to few channels (48 in the paper, Table 1), so that they can tell where an edge
    runs without outweighing what the encoder says.

    Args:
        in_channels, rates, separable: see `ASPP`.
        low_level_channels: channels of the features of stride 4, 256 for ResNet-50.
        num_classes: K.
        channels: of ASPP and of the refinement.
    """

    def __init__(
        self,
        in_channels: int,
        low_level_channels: int,
        num_classes: int,
        rates: tuple[int, ...],
        channels: int,
        separable: bool = False,
    ):
        super().__init__()
        self.aspp = ASPP(in_channels, channels, rates, separable)
        self.project = conv_norm(low_level_channels, 48, 1)
        self.refine = nn.Sequential(
            conv_norm(channels + 48, channels, 3, separable=separable),
            conv_norm(channels, channels, 3, separable=separable),
        )
        self.classifier = score_layer(channels, num_classes)

    def forward(self, low_level: Tensor, features: Tensor) -> Tensor:
        """Features of stride 4 (B, low_level_channels, H4, W4), and the last -> logits (B, K, H4, W4)."""
        x = F.interpolate(self.aspp(features), low_level.shape[-2:], mode="bilinear", align_corners=False)
        return self.classifier(self.refine(torch.cat([x, self.project(low_level)], 1)))


class DeepLabV3(nn.Module):
    """ASPP behind an encoder, a 3x3 convolution, class scores, bilinear enlargement to the image's size.

    Args:
        encoder: gives four features, the last at a small output stride; see `labhelpers.models.build_encoder`.
        num_classes: K.
        rates: atrous rates; None for those of `RATES` at the encoder's output stride.
        channels: of ASPP and what follows, 256 in the paper.
        separable: depthwise-separable 3x3 convolutions.

    Raises:
        ValueError: an output stride other than 8 and 16 without rates.
    """

    weights: str  # "coco" or "random", of `published_deeplabv3`

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        rates: tuple[int, ...] | None = None,
        channels: int = 256,
        separable: bool = False,
    ):
        super().__init__()
        self.encoder = encoder
        rates = published_rates(encoder) if rates is None else rates
        self.head = DeepLabHead(encoder.channels[3], num_classes, rates, channels, separable)
        initialize(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) float -> logits (B, K, H, W), any H and W."""
        logits = self.head(self.encoder(images)[3])
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


class DeepLabV3Plus(nn.Module):
    """DeepLabV3 with a decoder that adds features of stride 4. Arguments as for `DeepLabV3`."""

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        rates: tuple[int, ...] | None = None,
        channels: int = 256,
        separable: bool = False,
    ):
        super().__init__()
        self.encoder = encoder
        rates = published_rates(encoder) if rates is None else rates
        low_level, *_, last = encoder.channels
        self.head = DeepLabHeadPlus(last, low_level, num_classes, rates, channels, separable)
        initialize(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) float -> logits (B, K, H, W), any H and W."""
        low_level, *_, last = self.encoder(images)
        logits = self.head(low_level, last)
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


def published_rates(encoder: Encoder) -> tuple[int, ...]:
    """The paper's rates for the encoder's output stride; raises ValueError where it has none."""
    output_stride = encoder.strides[3]
    if output_stride not in RATES:
        raise ValueError(
            f"output_stride={output_stride} has no published rates; use {' or '.join(map(str, RATES))}, or give rates"
        )
    return RATES[output_stride]


def initialize(head: nn.Module) -> None:
    """Kaiming initialisation of the convolutions before a norm (He et al., ICCV 2015); the classifier has its own."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# torchvision's names of its DeepLabV3's parameters, and ours. Its auxiliary classifier takes part in training only.
_NAMES = {
    "backbone.": "encoder.",
    "classifier.0.convs.0.": "head.aspp.conv1.",
    "classifier.0.convs.1.": "head.aspp.atrous_convs.0.",
    "classifier.0.convs.2.": "head.aspp.atrous_convs.1.",
    "classifier.0.convs.3.": "head.aspp.atrous_convs.2.",
    "classifier.0.convs.4.": "head.aspp.global_avg_pool.",
    "classifier.0.project.": "head.aspp.conv_out.",
    "classifier.1.": "head.refine.0.",
    "classifier.2.": "head.refine.1.",
    "classifier.4.": "head.classifier.",
}


def published_deeplabv3(backbone: str = "resnet50") -> DeepLabV3:
    """DeepLabV3 at output stride 8 with rates 12, 24, 36, as torchvision trained it (COCO images with VOC's 21 labels).

    Without a network one sentence says so and the weights stay random; `model.weights` is `"coco"` or `"random"`.

    Args:
        backbone: `resnet50` or `resnet101`.

    Raises:
        ValueError: for another backbone.
    """
    if backbone not in ("resnet50", "resnet101"):
        raise ValueError(f"no published DeepLabV3 for backbone {backbone!r}; known: resnet50, resnet101")
    model = DeepLabV3(build_encoder(backbone, output_stride=8), num_classes=21)
    state = published_state(f"deeplabv3_{backbone}", "torchvision's")
    if state is not None:
        model.load_state_dict(from_torchvision(state))
    model.weights = "random" if state is None else "coco"
    return model


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a torchvision `deeplabv3_resnet*` under the names of `DeepLabV3`.

    Raises:
        ValueError: for a name that is no part of torchvision's DeepLabV3.
    """
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("aux_classifier."):
            continue
        theirs = next((prefix for prefix in _NAMES if name.startswith(prefix)), None)
        if theirs is None:
            raise ValueError(f"{name!r} is not part of torchvision's DeepLabV3: is this another model's state dict?")
        renamed[_NAMES[theirs] + name.removeprefix(theirs)] = tensor
    return renamed
