"""Dilation in place of stride: features as deep as before, on a finer grid.

Chen et al.: DeepLab, TPAMI 2018, Section 3.1, and Rethinking Atrous Convolution (DeepLabV3), 2017, Section 3.2.
"""

from collections.abc import Sequence

from torch import nn


def dilate(stages: Sequence[nn.Module], output_stride: int) -> tuple[int, ...]:
    """Brings the stages, of strides 4, 8, 16 and 32, to ``output_stride`` in place; returns the strides they end with.

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
