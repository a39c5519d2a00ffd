"""The networks of the course: one file for each architecture, written to be read beside its paper."""

from typing import Any

from torch import nn

from labhelpers.models.deeplab import (
    ASPP,
    DeepLabHead,
    DeepLabHeadPlus,
    DeepLabV3,
    DeepLabV3Plus,
    from_torchvision,
    published_deeplabv3,
)
from labhelpers.models.encoders import MobileNetV3Encoder, ResNetEncoder, build_encoder
from labhelpers.models.fcn import FCN8s, FCN16s, FCN32s, bilinear_kernel
from labhelpers.models.library import ARCHITECTURES, LibraryNetwork, build_smp, build_swin_unetr
from labhelpers.models.mini_sam import MiniSAM
from labhelpers.models.unet import UNet, UNetBilinear

__all__ = [
    "ARCHITECTURES",
    "ASPP",
    "MODELS",
    "DeepLabHead",
    "DeepLabHeadPlus",
    "DeepLabV3",
    "DeepLabV3Plus",
    "FCN8s",
    "FCN16s",
    "FCN32s",
    "LibraryNetwork",
    "MiniSAM",
    "MobileNetV3Encoder",
    "ResNetEncoder",
    "UNet",
    "UNetBilinear",
    "bilinear_kernel",
    "build",
    "build_encoder",
    "build_smp",
    "build_swin_unetr",
    "from_torchvision",
    "published_deeplabv3",
]

MODELS: dict[str, type[nn.Module]] = {
    "fcn32s": FCN32s,
    "fcn16s": FCN16s,
    "fcn8s": FCN8s,
    "deeplabv3": DeepLabV3,
    "deeplabv3plus": DeepLabV3Plus,
    "unet": UNet,
    "unet_bilinear": UNetBilinear,
    "mini_sam": MiniSAM,
}


def build(name: str, num_classes: int = 21, pretrained: bool = False, **options: Any) -> nn.Module:
    """The model ``name``, mapping images (B, 3, H, W) float to logits (B, K, H, W); Mini-SAM takes prompts as well.

    Args:
        name: one of ``MODELS``.
        num_classes: K.
        pretrained: ImageNet weights for the encoder (without a network: random ones, and one sentence that says so).
        **options: the model's own, such as ``backbone="resnet50"`` and ``width=64``.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    if name == "mini_sam":
        return MiniSAM(build_encoder("mobilenet_v3_small", pretrained), num_classes, **options)
    return MODELS[name](num_classes=num_classes, pretrained=pretrained, **options)
