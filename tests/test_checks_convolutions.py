"""The checks of convolutions by hand: answers written in different ways pass, the mistakes of wrong ones are named."""

import pytest
import torch
from judging import assert_hint, assert_passes
from torch import nn
from torch.nn import functional

# ------------------------------------------------------------- linear_to_conv


def to_conv(linear, channels, height, width, order=None, bias=True, **options):
    conv = nn.Conv2d(channels, linear.out_features, (height, width), bias=bias, **options)
    weight = linear.weight.reshape(-1, channels, height, width) if order is None else order(linear.weight)
    conv.weight.data = weight.detach().clone()
    if bias:
        conv.bias.data = linear.bias.detach().clone()
    return conv


def to_conv_by_state(linear, channels, height, width):
    conv = nn.Conv2d(channels, linear.out_features, kernel_size=(height, width))
    weight = torch.stack([row.view(channels, height, width) for row in linear.weight])
    conv.load_state_dict({"weight": weight, "bias": linear.bias})
    return conv


@pytest.mark.parametrize("answer", [to_conv, to_conv_by_state])
def test_linear_to_conv_accepts(answer):
    assert_passes("linear_to_conv", answer)


def to_conv_random_bias(linear, *shape):
    conv = to_conv(linear, *shape)
    conv.bias.data.uniform_()
    return conv


def to_conv_random_weight(linear, *shape):
    conv = to_conv(linear, *shape)
    conv.weight.data.uniform_()
    return conv


def to_conv_one_by_one(linear, channels, height, width):
    return nn.Conv2d(channels * height * width, linear.out_features, 1)


def to_conv_changing(linear, *shape):
    conv = to_conv(linear, *shape)
    linear.weight.data.zero_()
    return conv


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (
            lambda lin, c, h, w: to_conv(lin, c, h, w, lambda x: x.view(-1, h, w, c).permute(0, 3, 1, 2)),
            "(height, width, channels)",
        ),
        (
            lambda lin, c, h, w: to_conv(lin, c, h, w, lambda x: x.view(-1, c, w, h).transpose(2, 3)),
            "(channels, width, height)",
        ),
        (lambda lin, c, h, w: to_conv(lin, c, h, w, lambda x: x.view(-1, c, h, w).flip(2, 3)), "180 degrees"),
        (lambda lin, c, h, w: to_conv(lin, c, w, h), "height and width are exchanged"),
        (lambda lin, c, h, w: to_conv(lin, c, h, w, bias=False), "the bias is forgotten"),
        (lambda lin, c, h, w: to_conv(lin, c, h, w, padding=1), "no padding"),
        (to_conv_random_bias, "the bias is forgotten"),
        (to_conv_random_weight, "the weights are not those"),
        (to_conv_one_by_one, "not 1 x 1"),
        (to_conv_changing, "only copy from it"),
        (lambda lin, c, h, w: to_conv(lin, c, h, w).weight, "expected an nn.Conv2d"),
    ],
)
def test_linear_to_conv_rejects(answer, hint):
    assert_hint("linear_to_conv", answer, hint)


# ----------------------------------------------------- transposed_output_size


def size_by_formula(size, kernel, stride, padding=0):
    return stride * (size - 1) + kernel - 2 * padding


def size_by_counting(size, kernel, stride, padding=0):
    return len({i * stride + k for i in range(size) for k in range(max(kernel, stride))}) + (
        min(0, kernel - stride) - 2 * padding
    )


@pytest.mark.parametrize("answer", [size_by_formula, size_by_counting])
def test_output_size_accepts(answer):
    assert_passes("transposed_output_size", answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda n, k, s, p=0: n * s, "this is size * stride"),
        (lambda n, k, s, p=0: n * s + k - 2 * p, "n - 1 steps"),
        (lambda n, k, s, p=0: (n + 2 * p - k) // s + 1, "ordinary convolution"),
        (lambda n, k, s, p=0: (n - 1) * s + k - p, "both sides"),
        (lambda n, k, s, p=0: (n - 1) * s + k + 2 * p, "not +"),
        (lambda n, k, s, p=0: (n - 1) * s + k, "padding is left out"),
        (lambda n, k, s, p=0: (n - 1) * s + k - 2 * p - 1, "one too few"),
        (lambda n, k, s, p=0: size_by_formula(n, k, s, p) / 1, "integer arithmetic"),
        (lambda n, k, s, p: size_by_formula(n, k, s, p), "TypeError"),
        (lambda n, k, s, p=0: size_by_formula(n, k, s, p) + (n == 9), "(9, 5, 2, 2) is 18, expected 17"),
    ],
)
def test_output_size_rejects(answer, hint):
    assert_hint("transposed_output_size", answer, hint)


# ------------------------------------------------------------ transposed_conv


def stamp(x, kernel, stride, add=True, turn=lambda kernel: kernel):
    (height, width), k = x.shape, len(kernel)
    out = torch.zeros((height - 1) * stride + k, (width - 1) * stride + k)
    for i in range(height):
        for j in range(width):
            window = out[i * stride : i * stride + k, j * stride : j * stride + k]
            window.copy_((window if add else 0) + x[i, j] * turn(kernel))
    return out


def insert_zeros(x, kernel, stride, gap=None, flip=True):
    """An ordinary convolution, by unfold, of the input with zeros between its pixels."""
    gap = stride if gap is None else gap
    k = len(kernel)
    apart = torch.zeros((x.shape[0] - 1) * gap + 1, (x.shape[1] - 1) * gap + 1)
    apart[::gap, ::gap] = x
    windows = functional.pad(apart, (k - 1,) * 4).unfold(0, k, 1).unfold(1, k, 1)
    return (windows * (kernel.flip(0, 1) if flip else kernel)).sum((2, 3))


@pytest.mark.parametrize("answer", [stamp, insert_zeros])
def test_transposed_conv_accepts(answer):
    assert_passes("transposed_conv", answer)


def stamp_on_small_canvas(x, kernel, stride):
    return stamp(x, kernel, stride)[: x.shape[0] * stride, : x.shape[1] * stride]


def by_library(x, kernel, stride):
    return functional.conv_transpose2d(x[None, None], kernel[None, None], stride=stride)[0, 0]


def stamp_one_off(x, kernel, stride):
    out = stamp(x, kernel, stride)
    out[-1, -1] += 1e-2
    return out


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, kernel, stride: stamp(x, kernel, stride, add=False), "add them"),
        (lambda x, kernel, stride: stamp(x, kernel, stride, turn=lambda k: k.flip(0, 1)), "180 degrees"),
        (lambda x, kernel, stride: stamp(x, kernel, stride, turn=lambda k: k.T), "transposed"),
        (lambda x, kernel, stride: stamp(x, kernel, stride, turn=torch.ones_like), "values are not used"),
        (lambda x, kernel, stride: insert_zeros(x, kernel, stride, flip=False), "180 degrees"),
        (lambda x, kernel, stride: insert_zeros(x, kernel, stride, gap=stride + 1), "too many zeros"),
        (lambda x, kernel, stride: stamp(x, kernel, 1), "stride is not used"),
        (stamp_on_small_canvas, "cut to size * stride"),
        (stamp_one_off, "differs in 1 of"),
        (by_library, "conv_transpose2d: write the sum yourself"),
        (lambda x, kernel, stride: stamp(x, kernel, stride).numpy(), "torch.from_numpy"),
    ],
)
def test_transposed_conv_rejects(answer, hint):
    assert_hint("transposed_conv", answer, hint)


# ------------------------------------------------------------ bilinear_kernel


def tent(size, centre=None, reach=None):
    centre = (size - 1) / 2 if centre is None else centre
    return 1 - (torch.arange(size) - centre).abs() / (size / 2 if reach is None else reach)


def kernel(size, **options):
    return tent(size, **options)[:, None] * tent(size, **options)


def kernel_by_upsampling(size):
    """What bilinear interpolation makes of one bright pixel."""
    factor = size // 2
    pixel = torch.zeros(1, 1, 5, 5)
    pixel[0, 0, 2, 2] = 1
    big = functional.interpolate(pixel, scale_factor=factor, mode="bilinear")[0, 0]
    start = 2 * factor - factor // 2 if factor > 1 else 2
    window = big[start : start + size, start : start + size]
    return window if factor > 1 else torch.full((2, 2), 0.25)


@pytest.mark.parametrize("answer", [kernel, kernel_by_upsampling])
def test_bilinear_kernel_accepts(answer):
    assert_passes("bilinear_kernel", answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda size: kernel(size, centre=size / 2), "(size - 1) / 2, so that it is symmetric"),
        (lambda size: kernel(size, centre=size // 2 - 1).clamp_min(0), "size / 2 - 1"),
        (lambda size: kernel(size, reach=size), "over the stride"),
        (lambda size: kernel(size, reach=(size - 1) / 2), "outermost"),
        (lambda size: kernel(size) / kernel(size).sum(), "sum 1"),
        (lambda size: kernel(size) / kernel(size).max(), "largest value"),
        (lambda size: kernel(size)[None, None], "without the axes"),
        (tent, "one axis"),
        (lambda size: kernel(size).double(), "expected torch.float32"),
        (lambda size: kernel(size).numpy(), "torch.from_numpy"),
        (lambda size: kernel(size) if size == 4 else torch.ones(size, size), "bilinear_kernel(16)"),
    ],
)
def test_bilinear_kernel_rejects(answer, hint):
    assert_hint("bilinear_kernel", answer, hint)
