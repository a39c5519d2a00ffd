"""Encoders: a ResNet or MobileNetV3 without its classifier, as a list of four features.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016. Howard et al.: Searching for MobileNetV3,
ICCV 2019. The blocks and the parameter names are torchvision's, so that its published ImageNet weights load unchanged;
what is added is the list of features, the output stride, and for ResNets a `width` for networks small enough to train
on a CPU.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labhelpers.files import reachable


def dilate(stages: Sequence[nn.Module], output_stride: int) -> tuple[int, ...]:
    """Brings the stages, of strides 4, 8, 16 and 32, to `output_stride` in place; returns the strides they end with.

    Where a convolution gives up its stride of 2, everything behind it sees a grid twice as fine, so its kernels must
    reach twice as far in it: dilation 2, and 4 after the second one. (The convolution itself still reads the grid it
    read before, at the dilation before.) The weights stay as they are, and where nothing pools over the whole image,
    the new features, read at every second position, are the old ones.

    Raises:
        ValueError: for an output stride other than 8, 16 or 32.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride={output_stride}: known are 8, 16 and 32")
    strides, dilation = [], 1
    for stride, stage in zip((4, 8, 16, 32), stages, strict=True):
        strides.append(min(stride, output_stride))
        if stride <= output_stride:
            continue
        before, dilation = dilation, 2 * dilation
        passed = False  # the convolution that gives up its stride
        for conv in (m for m in stage.modules() if isinstance(m, nn.Conv2d)):
            if conv.kernel_size != (1, 1):
                rate = dilation if passed else before
                passed = passed or conv.stride == (2, 2)
                reach = rate * (conv.kernel_size[0] - 1) // 2
                conv.dilation, conv.padding = (rate, rate), (reach, reach)
            conv.stride = (1, 1)
    return tuple(strides)


# name: (kind of block, blocks per stage), He et al., Table 1
RESNETS = {
    "resnet18": ("BasicBlock", (2, 2, 2, 2)),
    "resnet34": ("BasicBlock", (3, 4, 6, 3)),
    "resnet50": ("Bottleneck", (3, 4, 6, 3)),
    "resnet101": ("Bottleneck", (3, 4, 23, 3)),
}
# name: where the feature of each stride ends in torchvision's list of layers, Howard et al., Tables 1 and 2
MOBILENETS = {"mobilenet_v3_large": (4, 7, 13, 17), "mobilenet_v3_small": (2, 4, 9, 13)}
ENCODERS = (*RESNETS, *MOBILENETS)


class Encoder(nn.Module):
    """A classification network without its classifier: images (B, 3, H, W) -> four features.

    Args:
        name: `resnet18`, ... or `mobilenet_v3_large`, ...
        pretrained: load torchvision's ImageNet weights; without a network one sentence says so and the weights stay
            random.
        output_stride: stride of the last feature, 32, 16 or 8; below 32, dilation replaces stride (see `dilate`).

    Attributes:
        channels: channels of the four features, for ResNet-50 `(256, 512, 1024, 2048)`.
        strides: their strides, `(4, 8, 16, 32)`, none above the output stride.
        weights: `"imagenet"` or `"random"`.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    weights: str

    def _start(self, name: str, pretrained: bool, classifier: str) -> None:
        """The weights before training; of the published ones those whose name begins with `classifier` are left out."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        state = published_state(name, "ImageNet's") if pretrained else None
        if state is not None:
            self.load_state_dict({k: v for k, v in state.items() if not k.startswith(classifier)})
        self.weights = "random" if state is None else "imagenet"


class ResNetEncoder(Encoder):
    """A ResNet without its classifier; see `Encoder`.

    Args:
        width: channels of the first stage, 64 in the paper. Only 64 has pretrained weights.

    Raises:
        ValueError: for an unknown name or output stride, or for pretrained weights of another width than 64.
    """

    def __init__(self, name: str = "resnet50", pretrained: bool = False, width: int = 64, output_stride: int = 32):
        super().__init__()
        if name not in RESNETS:
            raise ValueError(f"unknown backbone {name!r}; known: {', '.join(ENCODERS)}")
        if pretrained and width != 64:
            raise ValueError(f"pretrained=True needs width=64 (got width={width}): no other width was published")
        from torchvision.models import resnet

        block_name, depths = RESNETS[name]
        block = getattr(resnet, block_name)
        self.channels = tuple(width * block.expansion * 2**i for i in range(4))

        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, width, width, depths[0], stride=1)
        self.layer2 = _stage(block, self.channels[0], 2 * width, depths[1], stride=2)
        self.layer3 = _stage(block, self.channels[1], 4 * width, depths[2], stride=2)
        self.layer4 = _stage(block, self.channels[2], 8 * width, depths[3], stride=2)
        self.strides = dilate([self.layer1, self.layer2, self.layer3, self.layer4], output_stride)
        self._start(name, pretrained, "fc.")

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) float -> features (B, C_i, ceil(H / s), ceil(W / s)) for s in `strides`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


class MobileNetV3Encoder(Encoder):
    """MobileNetV3 without its classifier, a tenth of ResNet-50's parameters; see `Encoder`."""

    def __init__(self, name: str = "mobilenet_v3_large", pretrained: bool = False, output_stride: int = 32):
        super().__init__()
        if name not in MOBILENETS:
            raise ValueError(f"unknown backbone {name!r}; known: {', '.join(ENCODERS)}")
        from torchvision.models import get_model

        self.features = get_model(name, weights=None).features
        self._ends = MOBILENETS[name]
        stages = [self.features[a:b] for a, b in zip((0, *self._ends), self._ends, strict=False)]
        convs = [[m for m in stage.modules() if isinstance(m, nn.Conv2d)] for stage in stages]
        self.channels = tuple(conv[-1].out_channels for conv in convs)
        self.strides = dilate(stages, output_stride)
        self._start(name, pretrained, "classifier.")

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) float -> features (B, C_i, ceil(H / s), ceil(W / s)) for s in `strides`."""
        x = images
        features = []
        for index, layer in enumerate(self.features, start=1):
            x = layer(x)
            if index in self._ends:
                features.append(x)
        return features


def build_encoder(
    backbone: str = "resnet50", pretrained: bool = False, width: int = 64, output_stride: int = 32
) -> Encoder:
    """The encoder `backbone`, one of `ENCODERS`; `width` is for ResNets. Raises ValueError as the encoders do."""
    if backbone in MOBILENETS:
        if width != 64:
            raise ValueError(f"width={width} is for ResNets; {backbone} has one width, leave the default")
        return MobileNetV3Encoder(backbone, pretrained, output_stride)
    return ResNetEncoder(backbone, pretrained, width, output_stride)


def _stage(block: Any, inplanes: int, planes: int, depth: int, stride: int) -> nn.Sequential:
    outplanes = planes * block.expansion
    shortcut = None
    if stride != 1 or inplanes != outplanes:
        shortcut = nn.Sequential(nn.Conv2d(inplanes, outplanes, 1, stride, bias=False), nn.BatchNorm2d(outplanes))
    first = block(inplanes, planes, stride, shortcut)
    return nn.Sequential(first, *(block(outplanes, planes) for _ in range(depth - 1)))


def published_state(name: str, whose: str) -> dict[str, Tensor] | None:
    """The state dict that torchvision publishes for its model `name`, verified by the hash in its file name.

    None when it is neither cached nor reachable within a second; one printed sentence, in which `whose` weights it is
    about, then says so.
    """
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name)
    file = weights.DEFAULT.url.rsplit("/", 1)[-1]
    if not (Path(torch.hub.get_dir()) / "checkpoints" / file).exists() and not reachable(weights.DEFAULT.url):
        print(f"No network: {name} starts from random weights instead of {whose} (looked for {file}).")
        return None
    return weights.DEFAULT.get_state_dict(progress=True, check_hash=True, weights_only=True)
