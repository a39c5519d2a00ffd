"""The networks of the course: one file for each architecture, written to be read beside its paper."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from labhelpers.models.deeplab import (
    ASPP,
    DeepLabHeadPlus,
    DeepLabV3,
    DeepLabV3Plus,
    from_torchvision,
    published_deeplabv3,
)
from labhelpers.models.encoders import Encoder, MobileNetV3Encoder, ResNetEncoder, build_encoder
from labhelpers.models.fcn import FCN8s, FCN16s, FCN32s, bilinear_kernel
from labhelpers.models.library import ARCHITECTURES, LibraryNetwork, build_smp, build_swin_unetr
from labhelpers.models.mini_sam import MiniSAM
from labhelpers.models.unet import UNet

__all__ = [
    "ARCHITECTURES",
    "ASPP",
    "MODELS",
    "DeepLabHeadPlus",
    "DeepLabV3",
    "DeepLabV3Plus",
    "Encoder",
    "FCN8s",
    "FCN16s",
    "FCN32s",
    "LibraryNetwork",
    "MiniSAM",
    "MobileNetV3Encoder",
    "ResNetEncoder",
    "UNet",
    "bilinear_kernel",
    "build",
    "build_encoder",
    "build_smp",
    "build_swin_unetr",
    "from_torchvision",
    "published_deeplabv3",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "fcn32s": FCN32s,
    "fcn16s": FCN16s,
    "fcn8s": FCN8s,
    "deeplabv3": DeepLabV3,
    "deeplabv3plus": DeepLabV3Plus,
    "unet": UNet,
    "unet_bilinear": partial(UNet, up="bilinear"),
    "mini_sam": MiniSAM,
}


def build(name: str, num_classes: int = 21, pretrained: bool = False, **options: Any) -> nn.Module:
    """The model `name`, mapping images (B, 3, H, W) float to logits (B, K, H, W); Mini-SAM takes prompts as well.

    Args:
        name: one of `MODELS`.
        num_classes: K.
        pretrained: ImageNet weights for the encoder (without a network: random ones, and one sentence that says so).
        **options: of FCN's and DeepLab's encoder `backbone` (default `"resnet50"`) and `width`, of DeepLab's also
            `output_stride` (16), see `build_encoder`; and the model's own, such as U-Net's `base_channels`.

    Raises:
        ValueError: for an unknown name, the message lists the known ones; for pretrained weights of a U-Net; and as
            the encoders and models do.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    if name == "mini_sam":
        return MiniSAM(num_classes, pretrained, **options)
    if name.startswith("unet"):
        if pretrained:
            raise ValueError("pretrained=True: nobody published weights of this U-Net; see build_smp for one with them")
        return MODELS[name](num_classes, **options)
    defaults = {"backbone": "resnet50", "width": 64} | ({"output_stride": 16} if name.startswith("deeplab") else {})
    encoder = build_encoder(pretrained=pretrained, **{key: options.pop(key, value) for key, value in defaults.items()})
    return MODELS[name](encoder, num_classes, **options)
