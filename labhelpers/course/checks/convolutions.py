"""Checks of lab 02, before the networks: a linear layer as a convolution, transposed convolutions, bilinear weights."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from labhelpers.course.checks import references
from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise
from labhelpers.course.checks.formulas import check_formula


@exercise("linear_to_conv", references.linear_to_conv)
def linear_to_conv(check: Check, answer) -> None:
    """Kernel, channels, bias and numbers of the convolution; then slid over a larger input. Height and width differ."""
    channels, height, width, features = 3, 2, 4, 5
    linear = nn.Linear(channels * height * width, features)
    given = copy.deepcopy(linear)
    conv = check.call(answer, given, channels, height, width)
    same = torch.equal(given.weight, linear.weight) and torch.equal(given.bias, linear.bias)
    check.that(same, "the linear layer itself has changed: only copy from it.")
    check.that(isinstance(conv, nn.Conv2d), f"it returns {kind_of(conv)}, expected an nn.Conv2d.")
    layout = (conv.in_channels, conv.out_channels, *conv.kernel_size)
    known = {
        (channels, features, width, height): "height and width are exchanged: kernel_size is (height, width).",
        (channels * height * width, features, 1, 1): "the kernel must cover all height x width positions, not 1 x 1: "
        "only then does the layer see the map it used to flatten.",
    }
    expected = (channels, features, height, width)
    check.that(
        layout == expected,
        known.get(layout, "what the linear layer flattened is the kernel: (channels, height, width).")
        + f" Found in channels, out channels, kernel height, kernel width = {layout}, expected {expected}.",
    )
    unpadded = conv.padding in ((0, 0), "valid")
    plain = unpadded and (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
    check.that(plain, "stride 1, no padding, no dilation, one group: a linear layer that slides, nothing else.")
    check.that(conv.bias is not None, "the bias is forgotten: the convolution has none, the linear layer has.")

    weight, bias = linear.weight.detach(), linear.bias.detach()
    kernel = weight.view(features, channels, height, width)
    by_height = weight.view(features, height, width, channels).permute(0, 3, 1, 2)
    by_width = weight.view(features, channels, width, height).transpose(2, 3)
    x = torch.randn(2, channels, height, width)
    mistakes = [
        (
            functional.conv2d(x, by_height, bias),
            "the weights are read in the order (height, width, channels): flatten() of (C, H, W) has the channels "
            "first, so view(out, C, H, W).",
        ),
        (
            functional.conv2d(x, by_width, bias),
            "the weights are read in the order (channels, width, height): view(out, C, H, W).",
        ),
        (
            functional.conv2d(x, kernel.flip(2, 3), bias),
            "the kernel is turned by 180 degrees: torch's convolutions do not flip their kernel, leave it as it is.",
        ),
        (functional.conv2d(x, kernel, conv.bias), "the bias is forgotten: copy linear.bias into conv.bias."),
        (
            functional.conv2d(x, conv.weight, bias),
            "the bias is right, the weights are not those of the linear layer: copy them in its order (C, H, W).",
        ),
    ]
    flat = linear(x.flatten(1))[..., None, None]
    check.equal(check.call(conv, x), flat, "the output for one window", mistakes)
    large = torch.randn(1, channels, height + 2, width + 3)
    windows = [[linear(large[:, :, i : i + height, j : j + width].flatten(1)) for j in range(4)] for i in range(3)]
    slid = torch.stack([torch.stack(row, -1) for row in windows], -2)
    check.equal(check.call(conv, large), slid, "the output slid over a larger input")


@exercise("transposed_output_size", references.transposed_output_size)
def transposed_output_size(check: Check, answer) -> None:
    """Sizes, kernels, strides and paddings, each compared with what torch's layer gives."""
    cases = [(16, 4, 2, 1), (16, 4, 2, 0), (7, 16, 8, 4), (1, 64, 32, 16), (5, 3, 1, 0), (3, 2, 3, 0), (9, 5, 2, 2)]
    formulas = [
        (lambda n, k, s, p: n * s - 2 * p + k, "between n pixels lie n - 1 steps: start from (size - 1) * stride."),
        (lambda n, k, s, p: n * s, "this is size * stride: true only when kernel = stride + 2 * padding."),
        (
            lambda n, k, s, p: (n + 2 * p - k) // s + 1,
            "this is the formula of an ordinary convolution: run it backwards.",
        ),
        (lambda n, k, s, p: (n - 1) * s - p + k, "padding takes pixels off both sides: - 2 * padding."),
        (lambda n, k, s, p: (n - 1) * s + 2 * p + k, "padding takes pixels off here: - 2 * padding, not +."),
        (lambda n, k, s, p: (n - 1) * s + k, "padding is left out: it takes 2 * padding pixels off."),
        (
            lambda n, k, s, p: (n - 1) * s - 2 * p + k - 1,
            "one too few: the last pixel stamps a whole kernel, + kernel.",
        ),
        (lambda n, k, s, p: (n - 1) * s - 2 * p + k + 1, "one too many: the last pixel stamps one kernel, no more."),
    ]

    def right(n, k, s, p):
        return nn.ConvTranspose2d(1, 1, k, stride=s, padding=p)(torch.zeros(1, 1, n, n)).shape[-1]

    check_formula(check, answer, "transposed_output_size", cases, right, formulas)
    check.equal(check.call(answer, 10, 2, 2), 20, "the size without a padding argument (10, 2, 2)")


class NoLibraryConvolution(TorchFunctionMode):
    """Refuses torch's convolutions while it is active."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name.startswith("conv"):
            raise Mistake(f"it calls torch's {name}: write the sum yourself, that is the point of this exercise.")
        return function(*args, **(kwargs or {}))


@exercise("transposed_conv", references.transposed_conv)
def transposed_conv(check: Check, answer) -> None:
    """Strides smaller than, equal to and larger than the kernel, on an input that is not square; no library call."""
    for (height, width), k, stride in (((3, 4), 3, 1), ((3, 4), 3, 2), ((4, 2), 2, 2), ((2, 3), 2, 3), ((5, 3), 4, 2)):
        x, kernel = torch.randn(height, width), torch.randn(k, k)
        case = f"for x {height}x{width}, kernel {k}x{k}, stride {stride}"
        with NoLibraryConvolution():
            found = check.call(answer, x, kernel, stride, when=case)
        check.equal(
            found, _transposed(x, kernel, stride), f"the output {case}", _transposed_mistakes(x, kernel, stride)
        )


def _transposed(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return functional.conv_transpose2d(x[None, None], kernel[None, None], stride=stride)[0, 0]


def _transposed_mistakes(x: Tensor, kernel: Tensor, stride: int) -> list:
    right = _transposed(x, kernel, stride)
    k = len(kernel)
    assigned = torch.zeros_like(right)
    for i, row in enumerate(x):
        for j, value in enumerate(row):
            assigned[i * stride : i * stride + k, j * stride : j * stride + k] = value * kernel
    apart = x.new_zeros((len(x) - 1) * (stride + 1) + 1, (x.shape[1] - 1) * (stride + 1) + 1)
    apart[:: stride + 1, :: stride + 1] = x
    height, width = x.shape[0] * stride, x.shape[1] * stride
    return [
        (assigned, "where two stamps overlap the later one replaces the earlier: add them (`+=`)."),
        (
            _transposed(x, kernel.flip(0, 1), stride),
            "the kernel is turned by 180 degrees: each pixel stamps it as it is.",
        ),
        (_transposed(x, kernel.T, stride), "the kernel is transposed (rows and columns exchanged): stamp it as it is."),
        (
            functional.conv2d(apart[None, None], kernel.flip(0, 1)[None, None], padding=k - 1)[0, 0],
            "too many zeros are inserted: stride - 1 between neighbouring pixels, so that they lie `stride` apart.",
        ),
        (
            right[:height, :width],
            "the output is cut to size * stride: its size is (size - 1) * stride + kernel, the last stamp lies whole "
            "on it.",
        ),
        (
            _transposed(x, kernel, 1),
            "the stride is not used: pixel (i, j) stamps the kernel at (i * stride, j * stride).",
        ),
        (_transposed(x, torch.ones_like(kernel), stride), "the kernel's values are not used: stamp x[i, j] * kernel."),
    ]


@exercise("bilinear_kernel", references.bilinear_kernel)
def bilinear_kernel(check: Check, answer) -> None:
    """Sizes 4 (factor 2), 16 (factor 8), 2 and 64; float32 (size, size)."""
    for size in (4, 16, 2, 64):
        expected = references.bilinear_kernel(size)

        def tent(centre, reach, size=size):
            line = (1 - (torch.arange(size) - centre).abs() / reach).clamp_min(0)
            return line[:, None] * line

        mistakes = [
            (
                tent(size / 2, size / 2),
                "its centre is at size / 2: the middle of the pixels 0 .. size - 1 is (size - 1) / 2, so that it is "
                "symmetric.",
            ),
            (
                tent(size // 2 - 1, size / 2),
                "its centre is at size / 2 - 1: it lies between two pixels, (size - 1) / 2.",
            ),
            (
                tent((size - 1) / 2, size),
                "the tent falls off over `size` pixels: it falls to zero over the stride, size / 2.",
            ),
            (
                tent((size - 1) / 2, (size - 1) / 2),
                "the tent reaches zero at the outermost pixels: it falls off over the stride, size / 2.",
            ),
            (
                expected / expected.sum(),
                "it is normalised to sum 1: stride**2 outputs share each input, so its sum is stride**2. Do not "
                "normalise.",
            ),
            (expected / expected.max(), "its largest value is 1: do not rescale it, the centre lies between pixels."),
            (expected[None, None], f"expected one kernel ({size}, {size}), without the axes for channels."),
            (expected.sqrt(), "it is the square root of the right kernel: multiply the two tents, one for each axis."),
            (
                expected.diagonal().sqrt(),
                "it is the tent of one axis: multiply two of them, tent[:, None] * tent[None, :].",
            ),
        ]
        check.equal(check.call(answer, size), expected, f"bilinear_kernel({size})", mistakes)
