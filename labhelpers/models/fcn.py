"""FCN-32s, FCN-16s and FCN-8s on a ResNet.

Long, Shelhamer, Darrell: Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, Figure 3. The paper's
VGG-16 has pool3, pool4 and conv7 at strides 8, 16 and 32; in a ResNet these are the stages layer2, layer3 and layer4.
The attribute names are the paper's (score_fr, score_pool4, upscore2, ...).
"""

import torch
from torch import Tensor, nn

from labhelpers.models.encoders import Encoder


class FCN32s(nn.Module):
    """Scores at stride 32, upsampled 32 times in one step.

    Args:
        encoder: gives four features, of strides 4, 8, 16 and 32; see `labhelpers.models.build_encoder`.
        num_classes: K.
        upsampling: `"transposed"` (learned, starting as bilinear) or `"bilinear"` (fixed, behind a 1x1 convolution).
    """

    def __init__(self, encoder: Encoder, num_classes: int, upsampling: str = "transposed"):
        super().__init__()
        self.encoder = encoder
        self.score_fr = score_layer(encoder.channels[3], num_classes)
        self.upscore32 = upsample_layer(num_classes, 32, upsampling)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) float -> logits (B, K, H, W), any H and W from 1 pixel."""
        *_, layer4 = self.encoder(images)
        return crop_like(self.upscore32(self.score_fr(layer4)), images)


class FCN16s(nn.Module):
    """Adds the scores of stride 16 to the upsampled scores of stride 32. Arguments as for `FCN32s`."""

    def __init__(self, encoder: Encoder, num_classes: int, upsampling: str = "transposed"):
        super().__init__()
        self.encoder = encoder
        self.score_fr = score_layer(encoder.channels[3], num_classes)
        self.score_pool4 = score_layer(encoder.channels[2], num_classes)
        self.upscore2 = upsample_layer(num_classes, 2, upsampling)
        self.upscore16 = upsample_layer(num_classes, 16, upsampling)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) float -> logits (B, K, H, W), any H and W from 1 pixel."""
        *_, layer3, layer4 = self.encoder(images)
        x = crop_like(self.upscore2(self.score_fr(layer4)), layer3) + self.score_pool4(layer3)
        return crop_like(self.upscore16(x), images)


class FCN8s(nn.Module):
    """Adds the scores of strides 16 and 8 on the way up. Arguments as for `FCN32s`."""

    def __init__(self, encoder: Encoder, num_classes: int, upsampling: str = "transposed"):
        super().__init__()
        self.encoder = encoder
        self.score_fr = score_layer(encoder.channels[3], num_classes)
        self.score_pool4 = score_layer(encoder.channels[2], num_classes)
        self.score_pool3 = score_layer(encoder.channels[1], num_classes)
        self.upscore2 = upsample_layer(num_classes, 2, upsampling)
        self.upscore_pool4 = upsample_layer(num_classes, 2, upsampling)
        self.upscore8 = upsample_layer(num_classes, 8, upsampling)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) float -> logits (B, K, H, W), any H and W from 1 pixel."""
        _, layer2, layer3, layer4 = self.encoder(images)
        x = crop_like(self.upscore2(self.score_fr(layer4)), layer3) + self.score_pool4(layer3)
        x = crop_like(self.upscore_pool4(x), layer2) + self.score_pool3(layer2)
        return crop_like(self.upscore8(x), images)


def score_layer(in_channels: int, num_classes: int) -> nn.Conv2d:
    """1x1 convolution from features to class scores, Kaiming initialised (He et al., ICCV 2015)."""
    layer = nn.Conv2d(in_channels, num_classes, 1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def upsample_layer(num_classes: int, factor: int, upsampling: str = "transposed") -> nn.Module:
    """Enlarges (B, K, h, w) to (B, K, factor * h, factor * w)."""
    if upsampling == "transposed":
        # output = (h - 1) * stride - 2 * padding + kernel = factor * h for these three numbers
        layer = nn.ConvTranspose2d(num_classes, num_classes, 2 * factor, stride=factor, padding=factor // 2, bias=False)
        with torch.no_grad():
            layer.weight.copy_(bilinear_kernel(num_classes, 2 * factor))
        return layer
    if upsampling == "bilinear":
        enlarge = nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
        return nn.Sequential(score_layer(num_classes, num_classes), enlarge)
    raise ValueError(f"unknown upsampling {upsampling!r}; known: transposed, bilinear")


def bilinear_kernel(channels: int, size: int) -> Tensor:
    """Weights (channels, channels, size, size) with which a transposed convolution interpolates each channel by itself.

    The tent of Long et al., Section 3.3: `1 - |i - centre| / stride` along each axis, stride = size / 2, size even.
    """
    centre = (size - 1) / 2
    tent = 1 - (torch.arange(size) - centre).abs() / (size / 2)
    weight = torch.zeros(channels, channels, size, size)
    index = torch.arange(channels)
    weight[index, index] = tent[:, None] * tent[None, :]
    return weight


def crop_like(x: Tensor, reference: Tensor) -> Tensor:
    """Cuts what an odd size left over at the bottom and at the right: strides round up, so x is never too small."""
    if x.shape[-2:] == reference.shape[-2:]:
        return x  # slicing would copy the whole gradient on the way back
    return x[..., : reference.shape[-2], : reference.shape[-1]]
