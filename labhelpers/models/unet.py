"""U-Net from scratch, and the variants that lab 04 compares.

Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015, Figure 1. The
attribute names are the paper's: a contracting path (left), an expanding one (right). Two things differ, as in most of
today's U-Nets: convolutions are padded, so that sizes halve and double exactly and the output is as large as the input
(the paper's 572 pixels become 388), and batch norm follows each of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LEVELS = 4  # halvings
MULTIPLE = 2**LEVELS  # sides that halve so often without a rest


class UNet(nn.Module):
    """U-Net with four halvings: c, 2c, 4c, 8c and 16c channels for `base_channels` c.

    Args:
        num_classes: K.
        base_channels: c, 64 in the paper.
        batch_norm: False: convolutions with a bias instead, as in the paper.
        skip: how a level of the contracting path joins the expanding one: `"concat"` (the paper), `"add"`, or
            `"none"` for what the network is without.
        down: `"max"` pooling (the paper), or `"conv"`, a learned 2x2 convolution of stride 2.
        up: `"transposed"`, a 2x2 transposed convolution of stride 2 (the paper), or `"bilinear"`, interpolation and
            a 3x3 convolution.
        checkpointing: keep only what enters a double convolution and compute the rest again for the gradient (Chen et
            al., Training Deep Nets with Sublinear Memory Cost, 2016): the same numbers, less memory, more time.

    Raises:
        ValueError: for an unknown variant.
    """

    def __init__(
        self,
        num_classes: int,
        base_channels: int = 64,
        batch_norm: bool = True,
        skip: str = "concat",
        down: str = "max",
        up: str = "transposed",
        checkpointing: bool = False,
    ):
        super().__init__()
        for name, value, known in (
            ("skip", skip, ("concat", "add", "none")),
            ("down", down, ("max", "conv")),
            ("up", up, ("transposed", "bilinear")),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        self.skip, self.checkpointing = skip, checkpointing
        channels = [base_channels * 2**level for level in range(LEVELS + 1)]
        pairs = list(zip(channels, channels[1:], strict=False))  # (c, 2c), ..., (8c, 16c)

        self.contracting = nn.ModuleList(double_conv(a, b, batch_norm) for a, b in [(3, channels[0]), *pairs])
        self.down = nn.ModuleList(nn.MaxPool2d(2) if down == "max" else nn.Conv2d(a, a, 2, stride=2) for a, _ in pairs)
        self.up = nn.ModuleList(up_conv(b, a, up) for a, b in reversed(pairs))
        self.expanding = nn.ModuleList(
            double_conv(b if skip == "concat" else a, a, batch_norm) for a, b in reversed(pairs)
        )
        self.score = nn.Conv2d(channels[0], num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # the paper's Section 3
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) float -> logits (B, K, H, W), any H and W from 1 pixel."""
        height, width = images.shape[-2:]
        x = self._run(self.contracting[0], pad_to_multiple(images, MULTIPLE))
        skips = []
        for down, block in zip(self.down, self.contracting[1:], strict=True):
            skips.append(x)
            x = self._run(block, down(x))
        for up, block in zip(self.up, self.expanding, strict=True):
            x, left = up(x), skips.pop()
            if self.skip == "concat":
                x = torch.cat([left, x], 1)
            elif self.skip == "add":
                x = left + x
            x = self._run(block, x)
        return self.score(x)[..., :height, :width]

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return block(x)
        return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), frozen_statistics(block)))


def double_conv(in_channels: int, out_channels: int, batch_norm: bool = True) -> nn.Sequential:
    """Twice a 3x3 convolution with padding 1, batch norm if wanted, and ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers.append(nn.Conv2d(channels, out_channels, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def up_conv(in_channels: int, out_channels: int, up: str) -> nn.Module:
    """(B, in_channels, h, w) -> (B, out_channels, 2h, 2w)."""
    if up == "transposed":
        return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
    enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(enlarge, nn.Conv2d(in_channels, out_channels, 3, padding=1))


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W), enlarged to multiples of so many pixels by repeating the last row and the last column."""
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images


@contextmanager
def frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Inside, batch norm in training leaves its running statistics alone: they must see a batch once, not twice."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.get_buffer("num_batches_tracked").clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.get_buffer("num_batches_tracked").copy_(count)
