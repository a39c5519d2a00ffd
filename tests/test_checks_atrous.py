"""The checks of atrous convolution by hand: answers written in different ways pass, mistakes are named."""

import numpy as np
import pytest
import torch
from judging import assert_hint, assert_passes
from torch.nn import functional

# ----------------------------------------------------------- effective_kernel


def by_counting(kernel, rate):
    return len(range((kernel - 1) * rate + 1))


@pytest.mark.parametrize("answer", [lambda k, r: k + (k - 1) * (r - 1), by_counting])
def test_effective_kernel_accepts(answer):
    assert_passes("effective_kernel", answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda k, r: k * r, "this is kernel * rate"),
        (lambda k, r: k + k * (r - 1), "kernel weights have kernel - 1 gaps"),
        (lambda k, r: k + (k - 1) * r, "r - 1 zeros between two weights"),
        (lambda k, r: (k - 1) * r, "one too few"),
        (lambda k, r: (k - 1) * (r - 1), "the weights themselves are missing"),
        (lambda k, r: k + r - 1, "there are kernel - 1 gaps"),
        (lambda k, r: 2 * r + 1, "for a kernel of 3 only"),
        (lambda k, r: k, "the rate is not used"),
        (lambda k, r: k + 2 * (r - 1), "there are kernel - 1 gaps, not 2"),
        (lambda k, r: 2 * (k // 2) * r + 1, "for odd kernels only"),
        (lambda k, r: 2 * ((k - 1) // 2) * r + 1, "for odd kernels only"),
        (lambda k, r: r * (k - 1) // 2, "to one side of the middle"),
        (lambda k, r: ((k - 1) * r + 1) ** 2, "this is the window's area"),
        (lambda k, r: ((k - 1) * r + 1) / 1, "integer arithmetic"),
        (lambda k, r: (k - 1) * r + 1 + (r == 18), "effective_kernel(3, 18) is 38, expected 37"),
        (lambda k: k, "TypeError for effective_kernel(3, 1)"),
    ],
)
def test_effective_kernel_rejects(answer, hint):
    assert_hint("effective_kernel", answer, hint)


# ---------------------------------------------------------------- atrous_conv


def by_taps(x, kernel, rate, turn=lambda kernel: kernel, pad=None):
    """Adds the shifted image once for each tap."""
    k = len(kernel)
    half = rate * (k - 1) // 2 if pad is None else pad
    padded = functional.pad(x, (half,) * 4)
    height, width = (n + 2 * half - rate * (k - 1) for n in x.shape)
    out = torch.zeros(height, width)
    for u, row in enumerate(turn(kernel)):
        for v, weight in enumerate(row):
            top, left = u * rate, v * rate
            out = out + weight * padded[top : top + height, left : left + width]
    return out


def by_pixels(x, kernel, rate):
    """Every output pixel by itself, reading zeros outside the image; taps counted from the middle."""
    (height, width), middle = x.shape, len(kernel) // 2
    out = x.new_zeros(height, width)
    for i in range(height):
        for j in range(width):
            for u in range(-middle, middle + 1):
                for v in range(-middle, middle + 1):
                    row, column = i + rate * u, j + rate * v
                    if 0 <= row < height and 0 <= column < width:
                        out[i, j] += kernel[u + middle, v + middle] * x[row, column]
    return out


def by_unfold(x, kernel, rate):
    k = len(kernel)
    columns = functional.unfold(x[None, None], k, dilation=rate, padding=rate * (k - 1) // 2)
    return (kernel.flatten() @ columns[0]).view(x.shape)


def by_slices(x, kernel, rate):
    """Adds the part of the image that stays inside for each shift, without padding."""
    (height, width), middle = x.shape, len(kernel) // 2
    out = torch.zeros(height, width)
    for (u, v), weight in np.ndenumerate(kernel.numpy()):
        down, right = rate * (u - middle), rate * (v - middle)
        rows = slice(max(0, -down), max(0, min(height, height - down)))
        columns = slice(max(0, -right), max(0, min(width, width - right)))
        shifted = x[max(0, down) : max(0, height + down), max(0, right) : max(0, width + right)]
        out[rows, columns] += float(weight) * shifted
    return out


def by_large_kernel(x, kernel, rate):
    """A kernel with the holes written into it."""
    side = (len(kernel) - 1) * rate + 1
    large = torch.zeros(side, side)
    large[::rate, ::rate] = kernel
    padded = functional.pad(x, (side // 2,) * 4)
    return torch.einsum("ijuv,uv->ij", padded.unfold(0, side, 1).unfold(1, side, 1), large)


@pytest.mark.parametrize("answer", [by_taps, by_pixels, by_unfold, by_slices, by_large_kernel])
def test_atrous_conv_accepts(answer):
    assert_passes("atrous_conv", answer)


def by_library(x, kernel, rate):
    return functional.conv2d(x[None, None], kernel[None, None], padding=rate * (len(kernel) // 2), dilation=rate)[0, 0]


def by_layer(x, kernel, rate):
    layer = torch.nn.Conv2d(1, 1, len(kernel), padding="same", dilation=rate, bias=False)
    layer.weight.data = kernel[None, None]
    return layer(x[None, None])[0, 0]


def strided(x, kernel, rate):
    k = len(kernel)
    windows = functional.pad(x, (k // 2,) * 4).unfold(0, k, rate).unfold(1, k, rate)
    return (windows * kernel).sum((2, 3))


def corner(x, kernel, rate):
    """Tap (0, 0) reads the pixel itself."""
    reach = rate * (len(kernel) - 1)
    return by_taps(functional.pad(x, (0, reach, 0, reach)), kernel, rate, pad=0)


def last_corner(x, kernel, rate):
    reach = rate * (len(kernel) - 1)
    return by_taps(functional.pad(x, (reach, 0, reach, 0)), kernel, rate, pad=0)


def replicate(x, kernel, rate):
    half = rate * (len(kernel) - 1) // 2
    return by_taps(functional.pad(x[None], (half,) * 4, mode="replicate")[0], kernel, rate, pad=0)


def cut_short(padding, step=lambda rate: rate):
    """Slices as large as the output, whatever the padding."""

    def answer(x, kernel, rate):
        padded, (height, width) = functional.pad(x, (padding(len(kernel), rate),) * 4), x.shape
        out = torch.zeros_like(x)
        for u in range(len(kernel)):
            for v in range(len(kernel)):
                top, left = u * step(rate), v * step(rate)
                out += kernel[u, v] * padded[top : top + height, left : left + width]
        return out

    return answer


def replaces(x, kernel, rate):
    """`=` for `+=`: only the last weight is left."""
    last = torch.zeros_like(kernel)
    last[-1, -1] = kernel[-1, -1]
    return by_taps(x, last, rate)


def beyond_the_kernel(x, kernel, rate):
    return sum(kernel[u, 0] * x for u in range(len(kernel) + 1))


def beyond_its_columns(x, kernel, rate):
    return sum(kernel[0, u] * x for u in range(len(kernel) + 1))


def reads_outside(x, kernel, rate):
    return torch.stack([x[i : i + 1, x.shape[1]] for i in range(len(x))])


def in_place(x, kernel, rate):
    out = by_taps(x, kernel, rate)
    return x.copy_(out)


def one_off(x, kernel, rate):
    out = by_taps(x, kernel, rate)
    out[-1, -1] += 1e-2
    return out


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, kernel, rate: by_taps(x, kernel, rate, turn=lambda k: k.flip(0, 1)), "180 degrees"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, turn=lambda k: k.T), "is transposed (rows"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, turn=lambda k: k.T.flip(0, 1)), "transposed and turned"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, turn=torch.ones_like), "values are not used"),
        (lambda x, kernel, rate: by_taps(x, kernel, 1), "neighbouring weights lie one pixel apart"),
        (lambda x, kernel, rate: by_taps(x, kernel, max(1, rate - 1)), "neighbouring weights lie one pixel apart"),
        (cut_short(lambda k, rate: k // 2), "the shifted copies differ in size: is padding equal to"),
        (cut_short(lambda k, rate: rate), "the shifted copies differ in size: is padding equal to"),
        (cut_short(lambda k, rate: rate * (k - 1) // 2, step=lambda rate: 1), "shifted by u * rate and v * rate"),
        (replaces, "only the last weight is left"),
        (beyond_the_kernel, "an index lies outside the kernel"),
        (beyond_its_columns, "an index lies outside the kernel"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate).T, "expected 9x11: height and width are exchanged"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate + 1), "one too far"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, pad=0), "5x7 for x 9x11"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, pad=0), "is padding equal to rate * (k - 1) / 2 = 2"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, pad=len(kernel) // 2), "7x9 for x 9x11"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, pad=rate), "expected 11x12: is padding equal to"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, pad=rate * (len(kernel) - 1)), "13x15 for x 9x11"),
        (corner, "found the first weight there"),
        (last_corner, "found the last weight there"),
        (replicate, "outside the image lie zeros"),
        (strided, "used as a stride"),
        (by_library, "conv2d: write the sum yourself"),
        (by_layer, "conv2d: write the sum yourself"),
        (reads_outside, "it reads outside the image: is padding"),
        (in_place, "in place"),
        (one_off, "differs in 1 of"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate)[None, None], "expected two axes"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate).numpy(), "torch.from_numpy"),
    ],
)
def test_atrous_conv_rejects(answer, hint):
    assert_hint("atrous_conv", answer, hint)
