"""ResNet encoders that return features at strides 4, 8, 16 and 32.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016. The blocks are torchvision's and the
parameter names are torchvision's too, so that its published ImageNet weights load unchanged; what is added is the list
of features and a ``width`` for networks small enough to train on a CPU.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from labhelpers.network import reachable

# name: (kind of block, blocks per stage), He et al., Table 1
RESNETS = {
    "resnet18": ("BasicBlock", (2, 2, 2, 2)),
    "resnet34": ("BasicBlock", (3, 4, 6, 3)),
    "resnet50": ("Bottleneck", (3, 4, 6, 3)),
    "resnet101": ("Bottleneck", (3, 4, 23, 3)),
}


class ResNetEncoder(nn.Module):
    """A ResNet without its classifier.

    Args:
        name: ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101``.
        pretrained: load torchvision's ImageNet weights; without a network one sentence says so and the weights stay
            random. ``self.weights`` tells which it is: ``"imagenet"`` or ``"random"``.
        width: channels of the first stage, 64 in the paper. Only 64 has pretrained weights.

    Attributes:
        channels: channels of the four features, for ResNet-50 ``(256, 512, 1024, 2048)``.

    Raises:
        ValueError: for an unknown name, or for pretrained weights of another width than 64.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, name: str = "resnet50", pretrained: bool = False, width: int = 64):
        super().__init__()
        if name not in RESNETS:
            raise ValueError(f"unknown backbone {name!r}; known: {', '.join(RESNETS)}")
        if pretrained and width != 64:
            raise ValueError(f"pretrained=True needs width=64 (got width={width}): no other width was published")
        from torchvision.models import resnet

        block_name, depths = RESNETS[name]
        block = getattr(resnet, block_name)
        self.name = name
        self.channels = tuple(width * block.expansion * 2**i for i in range(4))

        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(block, width, width, depths[0], stride=1)
        self.layer2 = _stage(block, self.channels[0], 2 * width, depths[1], stride=2)
        self.layer3 = _stage(block, self.channels[1], 4 * width, depths[2], stride=2)
        self.layer4 = _stage(block, self.channels[2], 8 * width, depths[3], stride=2)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.weights = "random"
        if pretrained:
            state = imagenet_state(name)
            if state is not None:
                self.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
                self.weights = "imagenet"

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) float -> features (B, C_i, ceil(H / s), ceil(W / s)) for s in 4, 8, 16, 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


def _stage(block: type[nn.Module], inplanes: int, planes: int, depth: int, stride: int) -> nn.Sequential:
    outplanes = planes * block.expansion
    shortcut = None
    if stride != 1 or inplanes != outplanes:
        shortcut = nn.Sequential(nn.Conv2d(inplanes, outplanes, 1, stride, bias=False), nn.BatchNorm2d(outplanes))
    first = block(inplanes, planes, stride, shortcut)
    return nn.Sequential(first, *(block(outplanes, planes) for _ in range(depth - 1)))


def imagenet_state(name: str) -> dict[str, Tensor] | None:
    """torchvision's published state dict for ``name``, verified by the hash in its file name.

    None when it is neither cached nor reachable within a second; one printed sentence then says so.
    """
    from torchvision.models import get_model_weights

    weights = get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    if not cached.exists() and not reachable(weights.url):
        print(f"No network: {name} starts from random weights instead of ImageNet's (looked for {cached.name}).")
        return None
    return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
