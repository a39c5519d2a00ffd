"""Checks of lab 04, before the network: the sizes of the unpadded U-Net, its double convolution, padding to fit."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from labhelpers.course.checks import references
from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise
from labhelpers.course.checks.formulas import check_formula
from labhelpers.course.checks.networks import (
    IN_PLACE,
    ConvNorm,
    Mistakes,
    check_conv,
    check_gradients,
    conv_norms,
    tolerance,
)
from labhelpers.models import unet

_ACTIVATIONS = (
    functional.leaky_relu,
    functional.relu6,
    functional.gelu,
    functional.silu,
    functional.elu,
    torch.sigmoid,
    torch.tanh,
)


@exercise("valid_output_size", references.valid_output_size)
def valid_output_size(check: Check, answer) -> None:
    """Sizes that halve four times; then sizes that do not, and sizes of which nothing is left."""
    formulas = [
        (lambda n: n, "the output is as large as the input: without padding each 3x3 convolution takes 2 pixels off."),
        (
            lambda n: _output(n, down=2, bottom=2, up=2),
            "each level takes 2 pixels off: it has two 3x3 convolutions, so it takes 4.",
        ),
        (
            lambda n: _output(n, down=8, bottom=8, up=8),
            "each level takes 8 pixels off: a 3x3 convolution takes 1 off each side, so two take 4.",
        ),
        (lambda n: _output(n, ups=0), "this is the map at the bottom: go on with four up-convolutions."),
        (
            lambda n: _output(n, ups=0, bottom=0),
            "this is what the bottom is given: its two convolutions and the way up follow.",
        ),
        (lambda n: _output(n, up=0), "the convolutions on the way up are left out: two on each level."),
        (lambda n: _output(n, up=2), "a level on the way up has two convolutions, too, and takes 4 pixels off."),
        (lambda n: _output(n, down=0), "the convolutions on the way down are left out: two on each level."),
        (lambda n: _output(n, down=2), "a level on the way down has two convolutions, and takes 4 pixels off."),
        (lambda n: _output(n, bottom=0), "the two convolutions at the bottom, after the fourth pooling, are left out."),
        (lambda n: _output(n, bottom=2), "the bottom has two convolutions, too, and takes 4 pixels off."),
        (lambda n: _output(n, bottom=8), "the bottom has two convolutions, not four."),
        (lambda n: _output(n, halvings=3, ups=3), "it halves three times: the U-Net of the figure four times."),
        (lambda n: _output(n, halvings=5, ups=5), "it halves five times: the U-Net of the figure four times."),
        (lambda n: _output(n, up=5), "an up-convolution of 2x2 with stride 2 doubles the size exactly."),
        (lambda n: _output(n, ups=3), "it halves four times and doubles three times: as often as it halves."),
        (
            lambda n: 16 * _output(n, ups=0) - 120,
            "on the way up the convolutions come after each doubling, not before it.",
        ),
    ]

    def without_error(size: int) -> int:
        try:
            return answer(size)
        except ValueError as error:
            raise Mistake(
                f"valid_output_size({size}) raises ValueError ({error}), but this size halves four times: every level "
                "takes 4 pixels off before it is pooled, which leaves an even side each time."
            ) from error

    cases = [(572,), (188,), (204,), (700,)]
    check_formula(check, without_error, "valid_output_size", cases, references.valid_output_size, formulas)
    odd = "a max-pool meets an odd side: raise ValueError instead of rounding"
    nothing = "no pixel is left on the way: raise ValueError"
    for size in (573, 574, 576, 580, 4, 20, 140, 172):
        found = check.call(_raised, answer, size, when=f"for valid_output_size({size})")
        why = odd if size > 188 else nothing
        check.that(found == "ValueError", f"valid_output_size({size}) gives {found}: {why}.")


def _raised(answer: Callable, size: int) -> str:
    try:
        return repr(answer(size))
    except ValueError:
        return "ValueError"
    except AssertionError:
        return "AssertionError, expected ValueError (`raise ValueError(...)` instead of `assert`)"


def _output(size: int, *, halvings: int = 4, ups: int = 4, down: int = 4, bottom: int = 4, up: int = 4) -> int:
    """The size with one thing wrong in it; down, bottom and up are the pixels that a level takes off."""
    for _ in range(halvings):
        size = (size - down) // 2
    size -= bottom
    for _ in range(ups):
        size = 2 * size - up
    return size


@exercise("double_conv", unet.double_conv)
def double_conv(check: Check, answer) -> None:
    """Layers, size, the same numbers from the same weights, gradients; more and fewer channels out than in."""
    for channels in ((3, 5), (6, 4)):
        block = check.call(answer, *channels, when="while it is made")
        given = f"{kind_of(block)}: return nn.Sequential(...) with the layers in their order"
        check.that(isinstance(block, nn.Sequential), f"it returns {given}.")
        pair = double_layers(check, block, "the block", channels)
        for number, layer in enumerate(pair, 1):
            check.that(
                layer.conv.bias is None,
                f"convolution {number} has a bias, which the batch norm behind it takes off again: bias=False.",
            )
            layer.vary()
            layer.norm.weight.data.mul_(5)  # values beyond 6 tell ReLU from ReLU6
        x = torch.randn(2, channels[0], 6, 7)
        for training in (True, False):
            block.train(training)
            what = f"in {'training' if training else 'evaluation'} mode the output"
            found = check.call(block, x, when=what.removesuffix(" the output"), errors=IN_PLACE)
            check.that(isinstance(found, Tensor), f"{what} is {kind_of(found)}, expected one tensor.")
            expected = pair[1](pair[0](x)).detach()
            check.equal(found, expected, what, wrong_doubles(pair, x, "the block"), tolerance(expected))
        weights = {f"convolution {number}": layer.conv.weight for number, layer in enumerate(pair, 1)}
        check_gradients(check, block, found, weights, "{} gets no gradient.")


def double_layers(
    check: Check, block: nn.Module, name: str, channels: tuple[int, int], known: dict[int, str] | None = None
) -> list[ConvNorm]:
    """The two convolutions of a block with their batch norms, checked for channels (in, out), kernel and padding."""
    pair = conv_norms(check, block, name, 2)
    first, second = (f"the {number} convolution of {name}" for number in ("first", "second"))
    check_conv(check, pair[0].conv, first, channels, 3, known)
    made = {channels[0]: "the first convolution has made out_channels of them"}
    check_conv(check, pair[1].conv, second, (channels[1], channels[1]), 3, made)
    for layer, words in zip(pair, (first, second), strict=True):
        conv = layer.conv
        found = f"found padding {conv.padding}, dilation {conv.dilation[0]}, padding_mode {conv.padding_mode!r}"
        plain = conv.padding in ((1, 1), "same") and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        check.that(plain, f"{words} is to keep the size, with padding=1 (zeros) and nothing else; {found}.")
    return pair


@torch.no_grad()
def wrong_doubles(pair: list[ConvNorm], x: Tensor, name: str) -> Mistakes:
    """What known mistakes in a double convolution make of x."""
    first, second = pair
    for wrong, hint in first.wrong_outputs(x, f"{name}, first half"):
        yield second(wrong), hint
    for wrong, hint in second.wrong_outputs(first(x), f"{name}, second half"):
        yield wrong, hint
    for place, (half, hint) in enumerate(first.wrong_outputs(x, f"both halves of {name}")):
        yield list(second.wrong_outputs(half, name))[place][0], hint
    yield first(x), f"the second half of {name} is not used: convolution, batch norm, ReLU, twice."
    for activation in _ACTIVATIONS:
        half = activation(first.norm(first.conv(x)))
        other = activation(second.norm(second.conv(half)))
        yield other, f"the activation in {name} is {activation.__name__}: the U-Net has ReLU."
    shared = second._replace(norm=first.norm)
    yield shared(first(x)), f"{name} uses the first batch norm twice: each convolution has its own."


@exercise("pad_to_multiple", references.pad_to_multiple)
def pad_to_multiple(check: Check, answer) -> None:
    """Sides below, above and at a multiple, which differ; a single pixel; the multiple's default."""
    errors = {"Unrecognised padding mode": 'torch calls it mode="replicate".'}
    for size, multiple in (((5, 9), 4), ((8, 12), 4), ((7, 6), 3), ((1, 1), 8), ((17, 20), None), ((16, 40), None)):
        images = torch.randn(2, 3, *size)
        words = f"of {size[0]}x{size[1]} pixels, multiple={multiple or 16}"
        given = (images,) if multiple is None else (images, multiple)
        found = check.call(answer, *given, when=f"for images {words}", errors=errors)
        expected = references.pad_to_multiple(*given)
        check.equal(found, expected, f"the result for images {words}", wrong_padding(images, multiple or 16))


def wrong_padding(images: Tensor, multiple: int) -> Mistakes:
    """What known mistakes in padding to a multiple make of images (B, C, H, W)."""
    height, width = images.shape[-2:]
    down, right = -height % multiple, -width % multiple

    def padded(left: int, right: int, top: int, bottom: int, **mode) -> Tensor:
        return functional.pad(images, (left, right, top, bottom), **(mode or {"mode": "replicate"}))

    order = "functional.pad takes (left, right, top, bottom)"
    yield (
        padded(0, multiple - width % multiple, 0, multiple - height % multiple),
        "a side that fits gets one multiple more: -side % multiple is 0 there, multiple - side % multiple is not.",
    )
    yield padded(0, down, 0, right), f"height and width are exchanged: {order}, the last axis first."
    yield padded(right, 0, down, 0), f"it pads at the left and at the top: at the right and at the bottom; {order}."
    yield padded(0, right, down, 0), f"it pads at the top: at the bottom; {order}."
    yield padded(right, 0, 0, down), f"it pads at the left: at the right; {order}."
    centred = (right // 2, right - right // 2, down // 2, down - down // 2)
    yield (
        padded(*centred),
        "it pads on all sides: at the right and at the bottom alone, so that [:height, :width] crops.",
    )
    yield padded(0, right, 0, down, mode="constant"), 'it pads with zeros: mode="replicate" repeats the last pixels.'
    for mode in ("reflect", "circular"):
        if down < height and right < width:
            yield padded(0, right, 0, down, mode=mode), f'it pads with mode="{mode}": mode="replicate" is asked for.'
    side = max(height + down, width + right)
    yield padded(0, side - width, 0, side - height), "it makes a square: each side grows to its own next multiple."
    yield images, "nothing is padded: each side grows to the next multiple."
    yield images[..., : height - height % multiple, : width - width % multiple], "it crops: pad instead."
    for mode in ("bilinear", "nearest", "bicubic"):
        resized = functional.interpolate(images, (height + down, width + right), mode=mode)
        yield resized, "it resizes, which changes every pixel: pad instead, and the image stays as it is."
