"""The networks of the course: one file for each architecture, written to be read beside its paper."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from labhelpers.models.deeplab import (
    ASPP,
    DeepLabHead,
    DeepLabHeadPlus,
    DeepLabV3,
    DeepLabV3Plus,
    published_deeplabv3,
)
from labhelpers.models.encoders import (
    CutEncoder,
    EfficientNetLiteEncoder,
    MobileNetV3Encoder,
    ResNetEncoder,
    build_encoder,
)
from labhelpers.models.fcn import FCN8s, FCN16s, FCN32s, bilinear_kernel
from labhelpers.models.library import build_smp, build_swin_unetr
from labhelpers.models.mask_rcnn import instances_of, mask_rcnn
from labhelpers.models.mini_sam import BaseMiniSAM, MiniSAM
from labhelpers.models.unet import UNet

__all__ = [
    "ASPP",
    "MODELS",
    "BaseMiniSAM",
    "CutEncoder",
    "DeepLabHead",
    "DeepLabHeadPlus",
    "DeepLabV3",
    "DeepLabV3Plus",
    "EfficientNetLiteEncoder",
    "FCN8s",
    "FCN16s",
    "FCN32s",
    "MiniSAM",
    "MobileNetV3Encoder",
    "ResNetEncoder",
    "UNet",
    "bilinear_kernel",
    "build",
    "build_encoder",
    "build_smp",
    "build_swin_unetr",
    "instances_of",
    "mask_rcnn",
    "published_deeplabv3",
]

_RESNET = {"backbone": "resnet50", "width": 64, "frozen": False}
_DILATED = {**_RESNET, "output_stride": 16}
# name: the class, and which options go to its encoder, with their defaults; U-Nets have none
MODELS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "fcn32s": (FCN32s, _RESNET),
    "fcn16s": (FCN16s, _RESNET),
    "fcn8s": (FCN8s, _RESNET),
    "deeplabv3": (DeepLabV3, _DILATED),
    "deeplabv3plus": (DeepLabV3Plus, _DILATED),
    "unet": (UNet, {}),
    "unet_bilinear": (partial(UNet, up="bilinear"), {}),
    "mini_sam": (MiniSAM, {"backbone": "efficientnet_lite0"}),
}


def build(name: str, num_classes: int = 21, pretrained: bool | str = False, **options: Any) -> nn.Module:
    """The model `name`, mapping images (B, 3, H, W) float to logits (B, K, H, W); Mini-SAM takes prompts as well.

    Args:
        name: one of `MODELS`.
        num_classes: K.
        pretrained: weights for the encoder, see `Encoder`: ImageNet's, or for narrow ones those that saw drawings.
        **options: the encoder's, see `build_encoder` (`backbone`, `width`, `frozen`, of DeepLab `output_stride` too),
            and the model's own, such as U-Net's `base_channels`.

    Raises:
        ValueError: for an unknown name, the message lists the known ones; for pretrained weights of a U-Net; and as
            the encoders and models do.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    model, of_encoder = MODELS[name]
    if of_encoder:
        chosen = {option: options.pop(option, default) for option, default in of_encoder.items()}
        return model(build_encoder(pretrained=pretrained, **chosen), num_classes, **options)
    if pretrained:
        raise ValueError("pretrained=True: nobody published weights of this U-Net; see build_smp for one with them")
    return model(num_classes, **options)
