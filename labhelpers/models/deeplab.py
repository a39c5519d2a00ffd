"""DeepLabV3 and DeepLabV3+: atrous spatial pyramid pooling, and a decoder with features of stride 4.

V3: Chen, Papandreou, Schroff, Adam: Rethinking Atrous Convolution for Semantic Image Segmentation, arXiv:1706.05587,
2017. V3+: Chen, Zhu, Papandreou, Schroff, Adam: Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation, ECCV 2018. The boxes have the papers' names.
"""

import math
import re

import torch
from torch import Tensor, nn
from torch.nn import functional

from labhelpers.models.encoders import build_encoder, published_state
from labhelpers.models.fcn import score_layer

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Atrous rates by output stride, V3, Section 3.3: a grid twice as fine needs rates twice as large to reach equally far.

Rates must also fit the map: a 3x3 kernel whose rate is near the map's side reads zeros with eight of its nine weights.
That is the reason for smaller ones, (3, 6, 9) say, when crops are small.
"""


class ASPPConv(nn.Sequential):
    """3x3 convolution at an atrous rate, norm, ReLU; the size stays, because padding equals the rate.

    ``separable`` splits it into a 3x3 convolution for each channel by itself and a 1x1 across channels (V3+, Section
    3.1): about a ninth of the weights.
    """

    def __init__(self, in_channels: int, out_channels: int, rate: int, separable: bool = False, norm: str = "batch"):
        super().__init__(
            conv3x3(in_channels, out_channels, rate, separable), norm_layer(norm, out_channels), nn.ReLU(inplace=True)
        )


class ASPPPooling(nn.Sequential):
    """Mean over the whole map, 1x1 convolution, norm, ReLU, and the one value back to every position."""

    def __init__(self, in_channels: int, out_channels: int, norm: str = "batch"):
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            PooledBatchNorm2d(out_channels) if norm == "batch" else norm_layer(norm, out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, out_channels, h, w); bilinear enlargement of a single value is that value."""
        return functional.interpolate(super().forward(x), size=x.shape[-2:], mode="bilinear", align_corners=False)


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that in training with one value per channel uses its running statistics.

    Behind global pooling a batch of one image has one value per channel: its own mean, with no spread, so the
    normalised value would be 0 whatever the image (PyTorch refuses it).
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(x)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling, V3, Figure 5: five views of the same features, concatenated and mixed.

    Args:
        in_channels: of the features, 2048 for ResNet-50.
        out_channels: of each branch and of the result, 256 in the paper.
        rates: atrous rates of the 3x3 branches; see ``RATES``. () leaves only the 1x1 and the pooling branch.
        separable: depthwise-separable 3x3 branches.
        norm: ``"batch"`` or ``"group"`` (for batches too small for batch statistics).
        dropout: on the result.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        rates: tuple[int, ...] = (6, 12, 18),
        separable: bool = False,
        norm: str = "batch",
        dropout: float = 0.1,
    ):
        super().__init__()
        self.conv1 = conv1x1(in_channels, out_channels, norm)
        self.atrous_convs = nn.ModuleList(ASPPConv(in_channels, out_channels, r, separable, norm) for r in rates)
        self.global_avg_pool = ASPPPooling(in_channels, out_channels, norm)
        self.conv_out = conv1x1((2 + len(rates)) * out_channels, out_channels, norm)
        self.conv_out.append(nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h, w)."""
        return self.conv_out(torch.cat(self.branches(x), 1))

    def branches(self, x: Tensor) -> list[Tensor]:
        """What each branch makes of x, (B, out_channels, h, w) each: 1x1, the rates in order, pooling."""
        return [self.conv1(x), *(conv(x) for conv in self.atrous_convs), self.global_avg_pool(x)]


class DeepLabHead(nn.Module):
    """V3: ASPP, a 3x3 convolution, class scores. Arguments as for :class:`ASPP`."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        rates: tuple[int, ...] = (6, 12, 18),
        channels: int = 256,
        separable: bool = False,
        norm: str = "batch",
    ):
        super().__init__()
        self.aspp = ASPP(in_channels, channels, rates, separable, norm)
        self.refine = ASPPConv(channels, channels, 1, separable, norm)
        self.classifier = score_layer(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, in_channels, h, w) -> logits (B, K, h, w)."""
        return self.classifier(self.refine(self.aspp(features)))


class DeepLabHeadPlus(nn.Module):
    """V3+, Figure 2: the ASPP's result, enlarged to stride 4, beside low-level features; 3x3 refinement, class scores.

    The low-level features are projected to few channels (48 in the paper, Table 1), so that they can tell where an edge
    runs without outweighing what the encoder says.

    Args:
        low_level_channels: channels of the features of stride 4, 256 for ResNet-50.
        others: see :class:`ASPP`.
    """

    def __init__(
        self,
        in_channels: int,
        low_level_channels: int,
        num_classes: int,
        rates: tuple[int, ...] = (6, 12, 18),
        channels: int = 256,
        separable: bool = False,
        norm: str = "batch",
        projected: int = 48,
    ):
        super().__init__()
        self.aspp = ASPP(in_channels, channels, rates, separable, norm)
        self.project = conv1x1(low_level_channels, projected, norm)
        self.refine = nn.Sequential(
            ASPPConv(channels + projected, channels, 1, separable, norm),
            ASPPConv(channels, channels, 1, separable, norm),
        )
        self.classifier = score_layer(channels, num_classes)

    def forward(self, low_level: Tensor, features: Tensor) -> Tensor:
        """Features of stride 4 (B, low_level_channels, H4, W4), and the last -> logits (B, K, H4, W4)."""
        x = functional.interpolate(self.aspp(features), low_level.shape[-2:], mode="bilinear", align_corners=False)
        return self.classifier(self.refine(torch.cat([x, self.project(low_level)], 1)))


class DeepLabV3(nn.Module):
    """Encoder at a small output stride, ASPP, class scores, bilinear enlargement to the image's size.

    Args:
        num_classes: K.
        pretrained, backbone, width, output_stride: see :func:`~labhelpers.models.encoders.build_encoder`.
        rates: atrous rates; None for those of ``RATES`` at this output stride.
        channels, separable, norm: see :class:`ASPP`.

    Raises:
        ValueError: unknown backbone or norm; an output stride other than 8 and 16 without rates.
    """

    def __init__(
        self,
        num_classes: int = 21,
        pretrained: bool = False,
        backbone: str = "resnet50",
        width: int = 64,
        output_stride: int = 16,
        rates: tuple[int, ...] | None = None,
        channels: int = 256,
        separable: bool = False,
        norm: str = "batch",
    ):
        super().__init__()
        self.encoder = build_encoder(backbone, pretrained, width, output_stride)
        rates = published_rates(output_stride) if rates is None else tuple(rates)
        self.head = DeepLabHead(self.encoder.channels[3], num_classes, rates, channels, separable, norm)
        initialize(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) float -> logits (B, K, H, W), any H and W."""
        logits = self.head(self.encoder(images)[3])
        return functional.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


class DeepLabV3Plus(nn.Module):
    """DeepLabV3 with a decoder that adds features of stride 4. Arguments as for :class:`DeepLabV3`."""

    def __init__(
        self,
        num_classes: int = 21,
        pretrained: bool = False,
        backbone: str = "resnet50",
        width: int = 64,
        output_stride: int = 16,
        rates: tuple[int, ...] | None = None,
        channels: int = 256,
        separable: bool = False,
        norm: str = "batch",
    ):
        super().__init__()
        self.encoder = build_encoder(backbone, pretrained, width, output_stride)
        rates = published_rates(output_stride) if rates is None else tuple(rates)
        low_level, *_, last = self.encoder.channels
        self.head = DeepLabHeadPlus(last, low_level, num_classes, rates, channels, separable, norm)
        initialize(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) float -> logits (B, K, H, W), any H and W."""
        low_level, *_, last = self.encoder(images)
        logits = self.head(low_level, last)
        return functional.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


def published_rates(output_stride: int) -> tuple[int, ...]:
    """The paper's rates; raises ValueError where it has none."""
    if output_stride not in RATES:
        raise ValueError(
            f"output_stride={output_stride} has no published rates; use {' or '.join(map(str, RATES))}, or give rates"
        )
    return RATES[output_stride]


def conv1x1(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    """1x1 convolution, norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, bias=False), norm_layer(norm, out_channels), nn.ReLU(inplace=True)
    )


def conv3x3(in_channels: int, out_channels: int, rate: int, separable: bool) -> nn.Module:
    """3x3 convolution at an atrous rate that keeps the size."""
    if not separable:
        return nn.Conv2d(in_channels, out_channels, 3, padding=rate, dilation=rate, bias=False)
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=rate, dilation=rate, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
    )


def norm_layer(norm: str, channels: int) -> nn.Module:
    """``"batch"``, or ``"group"``: 32 groups (Wu and He, Group Normalization, ECCV 2018), or as many as divide.

    A group has at least two channels: behind global pooling a group of one would be a single number minus itself.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        groups = math.gcd(32, channels)
        return nn.GroupNorm(groups if groups < channels else max(1, groups // 2), channels)
    raise ValueError(f"unknown norm {norm!r}; known: batch, group")


def initialize(head: nn.Module) -> None:
    """Kaiming initialisation of the convolutions before a norm (He et al., ICCV 2015); the classifier has its own."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


# torchvision's published DeepLabV3 in this course's DeepLabV3: other names, the same numbers.


# torchvision's names, and ours. Its auxiliary classifier takes part in training only and is left out.
_NAMES = (
    (r"backbone\.", "encoder."),
    (r"classifier\.0\.convs\.0\.", "head.aspp.conv1."),
    (r"classifier\.0\.convs\.([123])\.", lambda match: f"head.aspp.atrous_convs.{int(match[1]) - 1}."),
    (r"classifier\.0\.convs\.4\.", "head.aspp.global_avg_pool."),
    (r"classifier\.0\.project\.", "head.aspp.conv_out."),
    (r"classifier\.1\.", "head.refine.0."),
    (r"classifier\.2\.", "head.refine.1."),
    (r"classifier\.4\.", "head.classifier."),
)


def published_deeplabv3(backbone: str = "resnet50") -> DeepLabV3:
    """DeepLabV3 at output stride 8 with rates 12, 24, 36, as torchvision trained it (COCO images with VOC's 21 labels).

    Without a network one sentence says so and the weights stay random; ``model.weights`` is ``"coco"`` or ``"random"``.

    Args:
        backbone: ``resnet50`` or ``resnet101``.

    Raises:
        ValueError: for another backbone.
    """
    if backbone not in ("resnet50", "resnet101"):
        raise ValueError(f"no published DeepLabV3 for backbone {backbone!r}; known: resnet50, resnet101")
    from torchvision.models import get_model_weights

    name = f"deeplabv3_{backbone}"
    model = DeepLabV3(num_classes=21, backbone=backbone, output_stride=8)
    model.weights = "random"
    state = published_state(get_model_weights(name).DEFAULT, name, "torchvision's")
    if state is not None:
        model.load_state_dict(from_torchvision(state))
        model.weights = "coco"
    return model


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a torchvision ``deeplabv3_resnet*`` under the names of :class:`DeepLabV3`.

    Raises:
        ValueError: for a name that is no part of torchvision's DeepLabV3.
    """
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("aux_classifier."):
            continue
        for pattern, ours in _NAMES:
            new, count = re.subn(rf"^{pattern}", ours, name)
            if count:
                renamed[new] = tensor
                break
        else:
            raise ValueError(f"{name!r} is not part of torchvision's DeepLabV3: is this another model's state dict?")
    return renamed
