"""The checks of sizes, double convolution and padding accept right answers, name the mistake of wrong ones."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import assert_hint, assert_passes
from torch import nn
from torch.nn import functional

from labhelpers.course import checks

# ---------------------------------------------------------- valid_output_size


def step_by_step(size, *, levels=4, convs=2, taken=2, way_up=True, bottom=2, strict=True, up_convs=2):
    for _ in range(levels):
        for _ in range(convs):
            size -= taken
        if strict and (size < 1 or size % 2 == 1):
            raise ValueError(f"{size} cannot be halved")
        size //= 2
    size -= bottom * taken
    for _ in range(levels if way_up else 0):
        size = size * 2 - up_convs * taken
    if strict and size < 1:
        raise ValueError("nothing is left")
    return size


def in_closed_form(size):
    if size < 188 or (size - 188) % 16:
        raise ValueError(size)
    return size - 184


def recursive(size, level=0):
    size -= 4
    if level < 4:
        half, odd = divmod(size, 2)
        if odd or half <= 0:
            raise ValueError
        size = 2 * recursive(half, level + 1) - 4
    if size <= 0:
        raise ValueError
    return size


def by_layers(size):
    """Runs the layers, on one channel."""
    x = torch.zeros(1, 1, size, size)
    try:
        for level in range(5):
            x = functional.max_pool2d(x, 2) if level else x
            x = functional.avg_pool2d(functional.avg_pool2d(x, 3, 1), 3, 1)
            if level < 4 and x.shape[-1] % 2:
                raise ValueError("odd")
        for _ in range(4):
            x = functional.interpolate(x, scale_factor=2)
            x = functional.avg_pool2d(functional.avg_pool2d(x, 3, 1), 3, 1)
    except RuntimeError as error:
        raise ValueError(size) from error
    return x.shape[-1]


@pytest.mark.parametrize(
    "answer", [step_by_step, in_closed_form, recursive, by_layers, lambda size: np.int64(step_by_step(int(size)))]
)
def test_valid_output_size_accepts(answer):
    assert_passes("valid_output_size", answer)


def variant(**options):
    return lambda size: step_by_step(size, **options)


def only_odd_is_an_error(size):
    for _ in range(4):
        size -= 4
        if size % 2:
            raise ValueError
        size //= 2
    return 16 * (size - 4) - 60


def up_before_convolutions(size):
    size = step_by_step(size, way_up=False)
    for _ in range(4):
        size = (size - 4) * 2
    return size


def by_fours(size, up):
    for _ in range(4):
        size = (size - 4) // 2
    size -= 4
    for _ in range(4):
        size = 2 * size - up
    return size


def asserts(size):
    assert (size - 188) % 16 == 0
    return in_closed_form(size)


WRONG_SIZES = [
    (lambda size: size, "as large as the input"),
    (variant(convs=1, up_convs=1, bottom=1, strict=False), "each level takes 2 pixels off"),
    (variant(convs=1, up_convs=1, bottom=1), "raises ValueError (283 cannot be halved)", "every level takes 4"),
    (variant(bottom=1), "the bottom has two convolutions, too"),
    (variant(taken=1, strict=False), "each level takes 2 pixels off"),
    (variant(taken=4, strict=False), "takes 1 off each side"),
    (variant(way_up=False), "go on with four up-convolutions"),
    (variant(way_up=False, bottom=0), "this is what the bottom is given"),
    (variant(up_convs=0), "way up are left out"),
    (variant(up_convs=1), "on the way up has two convolutions, too"),
    (variant(bottom=0), "the two convolutions at the bottom, after"),
    (variant(bottom=4, strict=False), "the bottom has two convolutions, not four"),
    (variant(levels=3, strict=False), "it halves three times"),
    (variant(levels=5, strict=False), "it halves five times"),
    (lambda size: by_fours(size, up=5), "doubles the size exactly"),
    (up_before_convolutions, "after each doubling, not before"),
    (variant(strict=False), "valid_output_size(573) gives", "odd side: raise ValueError"),
    (only_odd_is_an_error, "no pixel is left on the way: raise ValueError"),
    (lambda size: size - 184, "valid_output_size(573) gives 389", "odd side"),
    (asserts, "AssertionError, expected ValueError"),
    (lambda size: float(step_by_step(size)), "Use integer arithmetic"),
    (lambda size: 388, "valid_output_size(188) is 388, expected 4"),
    (lambda size: print(size), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_SIZES])
def test_valid_output_size_rejects(answer, hints):
    assert_hint("valid_output_size", answer, *hints)


@given(st.integers(-20, 2000))
@settings(deadline=None)
def test_reference_size_is_that_of_the_layers(size):
    def result(function):
        try:
            return function(size)
        except ValueError:
            return None

    expected = result(in_closed_form)
    assert result(checks.valid_output_size.reference) == expected
    if 0 < size < 300:
        assert result(by_layers) == expected


# ---------------------------------------------------------------- double_conv


def conv(a, b, kernel=3, **options):
    return nn.Conv2d(a, b, kernel, **{"padding": kernel // 2, "bias": False, **options})


def plain(a, b):
    return nn.Sequential(conv(a, b), nn.BatchNorm2d(b), nn.ReLU(), conv(b, b), nn.BatchNorm2d(b), nn.ReLU())


def nested(a, b):
    halves = [
        nn.Sequential(conv(c, b, padding="same"), nn.BatchNorm2d(b, momentum=0.01), nn.ReLU(inplace=True))
        for c in (a, b)
    ]
    return nn.Sequential(*halves)


def one_relu_object(a, b):
    relu = nn.ReLU(True)
    return nn.Sequential(conv(a, b), nn.BatchNorm2d(b), relu, conv(b, b), nn.BatchNorm2d(b), relu)


def appended(a, b):
    block = nn.Sequential()
    for name, channels in (("first", a), ("second", b)):
        block.add_module(f"{name}_conv", nn.Conv2d(channels, b, (3, 3), 1, (1, 1), bias=False))
        block.add_module(f"{name}_norm", nn.BatchNorm2d(b, eps=1e-3))
        block.add_module(f"{name}_relu", nn.Threshold(0.0, 0.0))
    return block


class DoubleConv(nn.Sequential):
    def __init__(self, a, b):
        super().__init__(*plain(a, b))


def kaiming(a, b):
    block = plain(a, b)
    nn.init.kaiming_normal_(block[0].weight)
    nn.init.zeros_(block[4].bias)
    return block


@pytest.mark.parametrize("answer", [plain, nested, one_relu_object, appended, DoubleConv, kaiming])
def test_double_conv_accepts(answer):
    assert_passes("double_conv", answer)


def layers(order, **options):
    """A block from a string: c and C the convolutions, n and N the norms, r ReLU."""

    def block(a, b):
        made = {
            "c": conv(a, b, **options),
            "C": conv(b, b, **options),
            "n": nn.BatchNorm2d(b),
            "N": nn.BatchNorm2d(b),
            "d": nn.Dropout(0.1),
            "l": nn.LeakyReLU(),
            "6": nn.ReLU6(),
        }
        return nn.Sequential(*[made[letter] if letter in made else nn.ReLU() for letter in order])

    return block


WRONG_BLOCKS = [
    (layers("cnrCNr", padding=0), "keep the size, with padding=1"),
    (layers("cnrCNr", padding=2), "keep the size, with padding=1"),
    (layers("cnrCNr", dilation=2, padding=2), "dilation 2"),
    (layers("cnrCNr", padding_mode="reflect"), "padding_mode 'reflect'"),
    (layers("cnrCNr", bias=True), "convolution 1 has a bias"),
    (layers("cnrCNr", kernel=1), "3x3 convolution"),
    (layers("cnrCNr", kernel=5), "3x3 convolution"),
    (layers("cnrCNr", stride=2), "stride 1"),
    (layers("crnCrN"), "ReLU comes before batch norm in both halves of the block"),
    (layers("crnCNr"), "ReLU comes before batch norm in the block, first half"),
    (layers("cnrCrN"), "ReLU comes before batch norm in the block, second half"),
    (layers("cnrCN"), "ReLU is missing in the block, second half"),
    (layers("cnCNr"), "ReLU is missing in the block, first half"),
    (layers("cnCN"), "ReLU is missing in both halves"),
    (layers("cnrCnr"), "holds 1 nn.BatchNorm2d, expected 2 (one used twice counts once)"),
    (layers("crCr"), "batch norm is missing in the block"),
    (layers("cnrCr"), "holds 1 nn.BatchNorm2d, expected 2"),
    (layers("cnr"), "holds 1 convolutions", "expected 2"),
    (layers("cnrCNrd"), "in training mode the output"),
    (layers("cnlCNl"), "the activation in the block is leaky_relu"),
    (layers("cn6CN6"), "the activation in the block is relu6"),
    (
        lambda a, b: nn.Sequential(conv(a, b), nn.BatchNorm2d(b), nn.ReLU(), conv(a, b), nn.BatchNorm2d(b), nn.ReLU()),
        "the first convolution has made out_channels of them",
    ),
    (
        lambda a, b: nn.Sequential(conv(a, a), nn.BatchNorm2d(a), nn.ReLU(), conv(a, b), nn.BatchNorm2d(b), nn.ReLU()),
        "the first convolution of the block gives 3 channels, expected 5",
    ),
    (lambda a, b: plain(b, a), "channels in and out are exchanged"),
    (lambda a, b: plain(3, 64), "gives 64 channels, expected 5"),
    (lambda a, b: list(plain(a, b)), "return nn.Sequential(...)"),
    (lambda a, b: nn.ModuleList(plain(a, b)), "return nn.Sequential(...)"),
    (lambda a, b: plain(a, b)(torch.zeros(1, a, 4, 4)), "return nn.Sequential(...)"),
    (lambda a, b: None, "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_BLOCKS])
def test_double_conv_rejects(answer, hints):
    assert_hint("double_conv", answer, *hints)


# ------------------------------------------------------------ pad_to_multiple


def by_remainder(images, multiple=16):
    height, width = images.shape[-2:]
    return functional.pad(images, (0, -width % multiple, 0, -height % multiple), "replicate")


def by_ceil(images, multiple=16):
    h, w = (math.ceil(n / multiple) * multiple for n in images.shape[2:])
    return nn.ReplicationPad2d((0, w - images.size(3), 0, h - images.size(2)))(images)


def by_index(images, multiple=16):
    h, w = images.shape[2:]
    rows = torch.arange((h + multiple - 1) // multiple * multiple).clamp(max=h - 1)
    columns = torch.arange((w + multiple - 1) // multiple * multiple).clamp(max=w - 1)
    return images[:, :, rows][:, :, :, columns]


def by_concatenation(images, multiple=16):
    while images.shape[2] % multiple:
        images = torch.cat([images, images[:, :, -1:]], 2)
    while images.shape[3] % multiple:
        images = torch.cat([images, images[..., -1:]], 3)
    return images


def only_when_needed(images, multiple=16):
    h, w = images.shape[-2:]
    if h % multiple == 0 and w % multiple == 0:
        return images
    bottom = multiple - h % multiple if h % multiple else 0
    right = (multiple - w % multiple) % multiple
    return functional.pad(images, [0, right, 0, bottom], mode="replicate")


@pytest.mark.parametrize("answer", [by_remainder, by_ceil, by_index, by_concatenation, only_when_needed])
def test_pad_accepts(answer):
    assert_passes("pad_to_multiple", answer)


def padded(amounts, **mode):
    def pad_to_multiple(images, multiple=16):
        h, w = images.shape[-2:]
        return functional.pad(images, amounts(-h % multiple, -w % multiple), **(mode or {"mode": "replicate"}))

    return pad_to_multiple


def one_more(images, multiple=16):
    h, w = images.shape[-2:]
    return functional.pad(images, (0, multiple - w % multiple, 0, multiple - h % multiple), mode="replicate")


def resized(mode):
    def pad_to_multiple(images, multiple=16):
        h, w = images.shape[-2:]
        return functional.interpolate(images, (h + -h % multiple, w + -w % multiple), mode=mode)

    return pad_to_multiple


def square(images, multiple=16):
    side = max(n + -n % multiple for n in images.shape[-2:])
    return functional.pad(images, (0, side - images.shape[3], 0, side - images.shape[2]), mode="replicate")


def cropped(images, multiple=16):
    h, w = images.shape[-2:]
    return images[..., : h // multiple * multiple, : w // multiple * multiple]


def to_remainder(images, multiple=16):
    h, w = images.shape[-2:]
    return functional.pad(images, (0, w % multiple, 0, h % multiple), mode="replicate")


def fixed(images, multiple=16):
    return by_remainder(images, 16)


WRONG_PADDING = [
    (one_more, "a side that fits gets one multiple more"),
    (padded(lambda h, w: (w, 0, h, 0)), "at the left and at the top"),
    (padded(lambda h, w: (0, w, h, 0)), "at the top"),
    (padded(lambda h, w: (w, 0, 0, h)), "at the left"),
    (padded(lambda h, w: (0, h, 0, w)), "height and width are exchanged"),
    (padded(lambda h, w: (w // 2, w - w // 2, h // 2, h - h // 2)), "on all sides"),
    (padded(lambda h, w: (0, w, 0, h), mode="constant"), "zeros"),
    (padded(lambda h, w: (0, w, 0, h), mode="reflect"), 'mode="reflect"'),
    (padded(lambda h, w: (0, w, 0, h), mode="circular"), 'mode="circular"'),
    (padded(lambda h, w: (0, 0, 0, w, 0, h)), "expected (2, 3, 8, 12)"),
    (resized("bilinear"), "it resizes"),
    (resized("nearest"), "it resizes"),
    (padded(lambda h, w: (0, w, 0, h), mode="edge"), 'torch calls it mode="replicate"'),
    (square, "it makes a square"),
    (cropped, "it crops: pad"),
    (to_remainder, "expected (2, 3, 8, 12)"),
    (fixed, "(2, 3, 16, 16), expected (2, 3, 8, 12)"),
    (lambda images, multiple=16: images, "nothing is padded"),
    (lambda images, multiple=8: by_remainder(images, multiple), "expected (2, 3, 32, 32)"),
    (lambda images, multiple: by_remainder(images, multiple), "missing 1 required positional argument"),
    (lambda images, multiple=16: by_remainder(images, multiple).double(), "expected torch.float32"),
    (lambda images, multiple=16: by_remainder(images, multiple).numpy(), "torch.from_numpy"),
    (lambda images, multiple=16: by_remainder(images, multiple).shape, "expected a torch tensor"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_PADDING])
def test_pad_rejects(answer, hints):
    assert_hint("pad_to_multiple", answer, *hints)
