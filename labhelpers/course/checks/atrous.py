"""Checks of lab 03, before the networks: how far an atrous kernel reaches, and the convolution itself by hand."""

import torch
from torch import Tensor
from torch.nn import functional

from labhelpers.course.checks import references
from labhelpers.course.checks.core import Check, exercise
from labhelpers.course.checks.formulas import check_formula
from labhelpers.course.checks.layers import NoLibraryConvolution


@exercise("effective_kernel", references.effective_kernel)
def effective_kernel(check: Check, answer) -> None:
    """Kernels and rates, the rates of DeepLab among them; a kernel of one tap reaches no further at any rate."""
    cases = [(3, 1), (3, 2), (3, 6), (3, 12), (3, 18), (5, 2), (7, 3), (2, 5), (1, 4)]
    mistakes = [
        (
            lambda k, r: k * r,
            "this is kernel * rate, but only the gaps between taps grow: kernel taps have kernel - 1 gaps.",
        ),
        (
            lambda k, r: k + (k - 1) * r,
            "a rate of r puts r - 1 zeros between two taps, not r: at rate 1 nothing grows.",
        ),
        (lambda k, r: (k - 1) * r, "one too few: from the first tap to the last are (kernel - 1) * rate steps, + 1."),
        (lambda k, r: (k - 1) * (r - 1), "the taps themselves are missing: kernel taps and the zeros between them."),
        (lambda k, r: k + r - 1, "there are kernel - 1 gaps, each with rate - 1 zeros, not one."),
        (lambda k, r: k + r, "there are kernel - 1 gaps, each with rate - 1 zeros."),
        (lambda k, r: 2 * r + 1, "this is right for a kernel of 3 only: use `kernel`, (kernel - 1) * rate + 1."),
        (lambda k, r: k + 2 * (r - 1), "this is right for a kernel of 3 only: there are kernel - 1 gaps, not 2."),
        (lambda k, r: 2 * (k // 2) * r + 1, "this is right for odd kernels only: (kernel - 1) * rate + 1."),
        (lambda k, r: 2 * ((k - 1) // 2) * r + 1, "this is right for odd kernels only: (kernel - 1) * rate + 1."),
        (lambda k, r: r * (k - 1) // 2, "this is how far it reaches to one side of the middle: count the whole side."),
        (lambda k, r: ((k - 1) * r + 1) ** 2, "this is the window's area: its side is asked for."),
        (lambda k, r: k, "the rate is not used: the taps move apart, and the window grows with them."),
    ]
    check_formula(check, answer, "effective_kernel", cases, references.effective_kernel, mistakes)


@exercise("atrous_conv", references.atrous_conv)
def atrous_conv(check: Check, answer) -> None:
    """Kernels of 3, 5 and 1 at several rates on inputs that are not square, one smaller than the reach; no library."""
    for (height, width), k, rate in (((9, 11), 3, 2), ((7, 6), 3, 1), ((11, 12), 5, 2), ((5, 4), 3, 4), ((3, 5), 1, 3)):
        x, kernel = torch.randn(height, width), torch.randn(k, k)
        case = f"for x {height}x{width}, kernel {k}x{k}, rate {rate}"
        padding = f"is padding equal to rate * (k - 1) / 2 = {rate * (k - 1) // 2} on each side?"
        errors = {
            f"with size {k}": "an index lies outside the kernel, which has k rows and columns, 0 to k - 1.",
            "out of bounds": f"it reads outside the image: {padding}",
            "must match the size": f"the shifted pieces differ in size: {padding}",
        }
        with NoLibraryConvolution():
            found = check.call(answer, x, kernel, rate, when=case, errors=errors)
        if isinstance(found, Tensor):
            shape = tuple(found.shape)
            check.that(
                shape == (height, width),
                f"the output is {'x'.join(map(str, shape)) or 'one number'} {case}, expected {height}x{width}: "
                f"{_size_hint(shape, x, k, rate) or padding}",
            )
        check.equal(found, references.atrous_conv(x, kernel, rate), f"the output {case}", _mistakes(x, kernel, rate))


def _size_hint(shape: tuple[int, ...], x: Tensor, k: int, rate: int) -> str:
    """What a wrong size tells beyond a wrong padding; "" for nothing."""
    strided = tuple((n + rate - 1) // rate for n in x.shape)
    if rate > 1 and shape in (strided, tuple((n - k) // rate + 1 for n in x.shape)):
        return "the rate is used as a stride; it spreads the taps, while the window moves by one pixel."
    if shape == (x.shape[1], x.shape[0]):
        return "height and width are exchanged."
    return "expected two axes, (H, W)." if len(shape) != 2 else ""


def _mistakes(x: Tensor, kernel: Tensor, rate: int) -> list[tuple[Tensor, str]]:
    """What known mistakes give, in the right size."""
    reach = rate * (len(kernel) - 1)
    half = reach // 2
    k, last_tap = len(kernel), torch.zeros_like(kernel)
    last_tap[-1, -1] = kernel[-1, -1]
    unshifted = (half, k - 1 - half, half, k - 1 - half)
    off = "the taps are not centred: tap (k // 2, k // 2) reads the pixel itself; found the"
    return [
        (
            _conv(x, kernel.flip(0, 1), rate),
            "the kernel is turned by 180 degrees: torch's convolutions do not flip their kernel, use it as it is.",
        ),
        (_conv(x, kernel.T, rate), "the kernel is transposed (rows and columns exchanged): use it as it is."),
        (_conv(x, kernel.T.flip(0, 1), rate), "the kernel is transposed and turned: use it as it is."),
        (
            _conv(x, kernel, 1),
            "neighbouring taps lie one pixel apart, as at rate 1: they are to be `rate` pixels apart.",
        ),
        (_conv(x, kernel, rate + 1), "one too far: taps lie `rate` pixels apart, with rate - 1 zeros between them."),
        (_conv(x, kernel, rate, (0, reach, 0, reach)), f"{off} first tap there (rows i + u * rate - {half})."),
        (_conv(x, kernel, rate, (reach, 0, reach, 0)), f"{off} last tap there (rows i + u * rate - {half})."),
        (
            _conv(x, kernel, 1, unshifted),
            "the padding is that of the rate, but the shifts are not: tap (u, v) is shifted by u * rate and v * rate.",
        ),
        (_conv(x, last_tap, rate), "only the last tap is left: add what each tap gives to what is there (`+=`)."),
        (_conv(x, torch.ones_like(kernel), rate), "the kernel's values are not used: multiply each tap by its own."),
        *(
            (_conv(x, kernel, rate, mode=mode), "outside the image lie zeros; found pixels from inside it there.")
            for mode in ("replicate", "circular", "reflect")
            if half < min(x.shape)  # torch can reflect no further
        ),
    ]


def _conv(
    x: Tensor, kernel: Tensor, rate: int, padding: tuple[int, ...] | None = None, mode: str = "constant"
) -> Tensor:
    """The right answer, with another padding (left, right, top, bottom) or another rule for what lies outside."""
    half = rate * (len(kernel) - 1) // 2
    padded = functional.pad(x[None, None], padding or (half,) * 4, mode=mode)
    return functional.conv2d(padded, kernel[None, None], dilation=rate)[0, 0]
