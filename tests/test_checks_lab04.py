"""The checks of lab 04 accept answers written in different ways; wrong ones, written anew, get the hint they need."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import assert_hint, assert_passes
from torch import nn

from labhelpers import models
from labhelpers.course import checks

# ----------------------------- valid_output_size, double_conv, pad_to_multiple


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
            x = F.max_pool2d(x, 2) if level else x
            x = F.avg_pool2d(F.avg_pool2d(x, 3, 1), 3, 1)
            if level < 4 and x.shape[-1] % 2:
                raise ValueError("odd")
        for _ in range(4):
            x = F.interpolate(x, scale_factor=2)
            x = F.avg_pool2d(F.avg_pool2d(x, 3, 1), 3, 1)
    except RuntimeError as error:
        raise ValueError(size) from error
    return x.shape[-1]


@pytest.mark.parametrize(
    "answer", [step_by_step, in_closed_form, recursive, by_layers, lambda size: np.int64(step_by_step(int(size)))]
)
def test_valid_output_size_accepts(answer):
    assert_passes("valid_output_size", answer)


def sizes_with(**options):
    return lambda size: step_by_step(size, **options)


def only_odd_is_an_error(size):
    for _ in range(4):
        size -= 4
        if size % 2:
            raise ValueError
        size //= 2
    return 16 * (size - 4) - 60


def asserts(size):
    assert (size - 188) % 16 == 0
    return in_closed_form(size)


WRONG_SIZES = [
    (lambda size: size, "as large as the input"),
    (sizes_with(convs=1, up_convs=1, bottom=1), "raises ValueError (283 cannot be halved)", "every level takes 4"),
    (sizes_with(taken=1, strict=False), "each level takes 2 pixels off"),
    (sizes_with(way_up=False, bottom=0), "this is what the bottom is given"),
    (sizes_with(bottom=0), "the two convolutions at the bottom, after"),
    (sizes_with(strict=False), "valid_output_size(573) gives", "odd side: raise ValueError"),
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
    (layers("cnrCrN"), "ReLU comes before batch norm in the block, second half"),
    (layers("cnCNr"), "ReLU is missing in the block, first half"),
    (
        layers("cnrCnr"),
        "holds 1 nn.BatchNorm2d, expected 2 (one used twice counts once): each convolution has its own behind it.",
    ),
    (layers("crCr"), "batch norm is missing in the block"),
    (layers("cnrCr"), "holds 1 nn.BatchNorm2d, expected 2"),
    (layers("cnr"), "holds 1 convolutions", "expected 2"),
    (layers("cnrCNrd"), "in training mode the output"),
    (layers("cnlCNl"), "the activation in the block is leaky_relu"),
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
    return F.pad(images, (0, -width % multiple, 0, -height % multiple), "replicate")


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
    return F.pad(images, [0, right, 0, bottom], mode="replicate")


@pytest.mark.parametrize("answer", [by_remainder, by_ceil, by_index, by_concatenation, only_when_needed])
def test_pad_accepts(answer):
    assert_passes("pad_to_multiple", answer)


def padded(amounts, **mode):
    def pad_to_multiple(images, multiple=16):
        h, w = images.shape[-2:]
        return F.pad(images, amounts(-h % multiple, -w % multiple), **(mode or {"mode": "replicate"}))

    return pad_to_multiple


def one_more(images, multiple=16):
    h, w = images.shape[-2:]
    return F.pad(images, (0, multiple - w % multiple, 0, multiple - h % multiple), mode="replicate")


def resized(mode):
    def pad_to_multiple(images, multiple=16):
        h, w = images.shape[-2:]
        return F.interpolate(images, (h + -h % multiple, w + -w % multiple), mode=mode)

    return pad_to_multiple


def to_remainder(images, multiple=16):
    h, w = images.shape[-2:]
    return F.pad(images, (0, w % multiple, 0, h % multiple), mode="replicate")


def fixed(images, multiple=16):
    return by_remainder(images, 16)


WRONG_PADDING = [
    (one_more, "a side that fits gets one multiple more"),
    (padded(lambda h, w: (w, 0, 0, h)), "at the left"),
    (padded(lambda h, w: (0, w, 0, h), mode="constant"), "zeros"),
    (padded(lambda h, w: (0, 0, 0, w, 0, h)), "expected (2, 3, 8, 12)"),
    (resized("bilinear"), "it resizes"),
    (padded(lambda h, w: (0, w, 0, h), mode="edge"), 'torch calls it mode="replicate"'),
    (to_remainder, "expected (2, 3, 8, 12)"),
    (fixed, "`multiple` is not used"),
    (lambda images, multiple=8: by_remainder(images, multiple), "expected (2, 3, 32, 32)"),
    (lambda images, multiple: by_remainder(images, multiple), "missing 1 required positional argument"),
    (lambda images, multiple=16: by_remainder(images, multiple).double(), "expected torch.float32"),
    (lambda images, multiple=16: by_remainder(images, multiple).numpy(), "torch.from_numpy"),
    (lambda images, multiple=16: by_remainder(images, multiple).shape, "expected a torch tensor"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_PADDING])
def test_pad_rejects(answer, hints):
    assert_hint("pad_to_multiple", answer, *hints)


# ------------------------------------------------------------------------ unet


def double_conv(a, b):
    layers = []
    for channels in (a, b):
        layers += [nn.Conv2d(channels, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def pad(images, multiple=16, mode="replicate"):
    return F.pad(images, (0, -images.shape[3] % multiple, 0, -images.shape[2] % multiple), mode=mode)


class UNet(nn.Module):
    """A student's network, with a place for each mistake."""

    block = staticmethod(double_conv)
    pad = staticmethod(pad)
    images = 3

    def __init__(self, num_classes, base_channels):
        super().__init__()
        c = self.widths(base_channels)
        self.contracting = nn.ModuleList(self.block(a, b) for a, b in zip([self.images, *c], c, strict=False))
        self.up = nn.ModuleList(self.make_up(2 * a, a) for a in c[-2::-1])
        self.expanding = nn.ModuleList(self.block(self.joined(a), a) for a in c[-2::-1])
        self.score = self.make_score(c[0], num_classes)

    def widths(self, base):
        return [base * 2**level for level in range(5)]

    def make_up(self, a, b):
        return nn.ConvTranspose2d(a, b, 2, stride=2)

    def joined(self, a):
        return 2 * a

    def make_score(self, a, num_classes):
        return nn.Conv2d(a, num_classes, 1)

    def down(self, x):
        return F.max_pool2d(x, 2)

    def join(self, skip, x):
        return torch.cat([skip, x], 1)

    def crop(self, x, images):
        return x[..., : images.shape[2], : images.shape[3]]

    def finish(self, logits):
        return logits

    def forward(self, images):
        skips, x = [], self.pad(images)
        for level, block in enumerate(self.contracting):
            x = block(self.down(x) if level else x)
            skips.append(x)
        for up, block, skip in zip(self.up, self.expanding, skips[-2::-1], strict=True):
            x = block(self.join(skip, up(x)))
        return self.finish(self.crop(self.score(x), images))


class WrittenOut(nn.Module):
    """No loops, another order of registration, pools as modules, biases, no bias in one up-convolution."""

    def __init__(self, n, c):
        super().__init__()

        def conv2(a, b):
            return nn.Sequential(
                nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), nn.BatchNorm2d(b), nn.ReLU()),
                nn.Sequential(nn.Conv2d(b, b, 3, 1, "same"), nn.BatchNorm2d(b), nn.ReLU()),
            )

        def up(a):
            return nn.ConvTranspose2d(2 * a, a, kernel_size=2, stride=2, bias=a != 5)

        self.score = nn.Conv2d(c, n, kernel_size=(1, 1))
        self.up = nn.ModuleList([up(8 * c), up(4 * c), up(2 * c), up(c)])
        self.expanding = nn.ModuleList(
            [conv2(16 * c, 8 * c), conv2(8 * c, 4 * c), conv2(4 * c, 2 * c), conv2(2 * c, c)]
        )
        self.pools = nn.ModuleList([nn.MaxPool2d(kernel_size=2, stride=2) for _ in range(4)])
        self.contracting = nn.ModuleList(
            [conv2(3, c), conv2(c, 2 * c), conv2(2 * c, 4 * c), conv2(4 * c, 8 * c), conv2(8 * c, 16 * c)]
        )

    def forward(self, images):
        h, w = images.shape[-2:]
        x1 = self.contracting[0](nn.ReplicationPad2d((0, (16 - w % 16) % 16, 0, (16 - h % 16) % 16))(images))
        x2 = self.contracting[1](self.pools[0](x1))
        x3 = self.contracting[2](self.pools[1](x2))
        x4 = self.contracting[3](self.pools[2](x3))
        x5 = self.contracting[4](self.pools[3](x4))
        y = self.expanding[0](torch.cat((x4, self.up[0](x5)), dim=1))
        y = self.expanding[1](torch.cat((x3, self.up[1](y)), dim=1))
        y = self.expanding[2](torch.cat((x2, self.up[2](y)), dim=1))
        y = self.expanding[3](torch.cat((x1, self.up[3](y)), dim=1))
        return self.score(y)[:, :, :h, :w]


class PoolsInBlocks(nn.Module):
    """Sequentials for lists, the pooling in front of the blocks, a recursive forward, other initial weights."""

    def __init__(self, num_classes, base_channels):
        super().__init__()
        c = [base_channels << level for level in range(5)]
        first, *others = [double_conv(a, b) for a, b in zip([3, *c[:4]], c, strict=True)]
        self.contracting = nn.Sequential(first, *(nn.Sequential(nn.MaxPool2d(2), block) for block in others))
        self.up = nn.Sequential(*(nn.Sequential(nn.ConvTranspose2d(2 * a, a, 2, 2)) for a in reversed(c[:4])))
        self.expanding = nn.Sequential(*(double_conv(2 * a, a) for a in reversed(c[:4])))
        self.score = nn.Sequential(nn.Conv2d(c[0], num_classes, 1))
        self.apply(lambda m: nn.init.xavier_uniform_(m.weight) if isinstance(m, nn.Conv2d) else None)

    def forward(self, images):
        return self.score(self.level(0, pad(images)))[..., : images.shape[-2], : images.shape[-1]]

    def level(self, number, x):
        skip = self.contracting[number](x)
        if number == 4:
            return skip
        below = self.up[3 - number](self.level(number + 1, skip))
        return self.expanding[3 - number](torch.cat([skip, below], -3))


class Popping(UNet):
    """A stack of skips; registers what needs no weights, too; crops with narrow."""

    def __init__(self, *given):
        super().__init__(*given)
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.dropout = nn.Identity()

    def forward(self, images):
        skips, x = [], self.pad(images - self.mean)
        for level, block in enumerate(self.contracting):
            x = block(self.down(x) if level else x)
            skips.append(x)
        skips.pop()
        for up, block in zip(self.up, self.expanding, strict=True):
            x = block(self.join(skips.pop(), up(x)))
        return torch.narrow(torch.narrow(self.score(x), 2, 0, images.size(2)), 3, 0, images.size(3))


class NormsFirst(UNet):
    """Blocks with a forward of their own, in which the norms are registered before the convolutions."""

    class Half(nn.Module):
        def __init__(self, a, b):
            super().__init__()
            self.norm = nn.BatchNorm2d(b)
            self.conv = nn.Conv2d(a, b, 3, padding=1, bias=False)

        def forward(self, x):
            return torch.relu(self.norm(self.conv(x)))

    block = staticmethod(lambda a, b: nn.Sequential(NormsFirst.Half(a, b), NormsFirst.Half(b, b)))


class WrittenInto(UNet):
    """Pads only when needed; joins by writing into one tensor."""

    def pad(self, images):
        if images.shape[2] % 16 == 0 and images.shape[3] % 16 == 0:
            return images
        return pad(images)

    def join(self, skip, x):
        together = skip.new_empty(len(skip), 2 * skip.shape[1], *skip.shape[2:])
        together[:, : skip.shape[1]] = skip
        together[:, skip.shape[1] :] = x
        return together

    def down(self, x):
        b, c, h, w = x.shape
        return x.view(b, c, h // 2, 2, w // 2, 2).amax((3, 5))


@pytest.mark.parametrize("answer", [UNet, WrittenOut, PoolsInBlocks, Popping, NormsFirst, WrittenInto])
def test_unet_accepts(answer):
    assert_passes("unet", answer)


def unet_with(base=UNet, **methods):
    return type("UNet", (base,), methods)


def block_of(order, **options):
    """Blocks from a string: c and C the convolutions, n and N the norms, r ReLU."""

    def block(a, b):
        options_ = {"padding": 1, "bias": False, **options}
        made = {"n": nn.BatchNorm2d(b), "N": nn.BatchNorm2d(b), "d": nn.Dropout(0.5)}
        made |= {"c": nn.Conv2d(a, b, 3, **options_), "C": nn.Conv2d(b, b, 3, **options_)}
        return nn.Sequential(*[made.get(letter) or nn.ReLU() for letter in order])

    return staticmethod(block)


class PlainLists(UNet):
    def __init__(self, *given):
        super().__init__(*given)
        blocks = list(self.contracting)
        del self.contracting
        self.contracting = blocks


class Keyed(UNet):
    def __init__(self, *given):
        super().__init__(*given)
        self.expanding = nn.ModuleDict({str(i): block for i, block in enumerate(self.expanding)})


class FrozenScore(UNet):
    def __init__(self, *given):
        super().__init__(*given)
        self.score.requires_grad_(False)


class ThreeHalvings(UNet):
    def widths(self, base):
        return super().widths(base)[:4]


class SeparateBottom(UNet):
    def __init__(self, *given):
        super().__init__(*given)
        *others, self.bottom = self.contracting
        self.contracting = nn.ModuleList(others)


class Reversed(UNet):
    """The lists run from full size to the bottom."""

    def __init__(self, *given):
        super().__init__(*given)
        self.up = self.up[::-1]
        self.expanding = self.expanding[::-1]


class ReversedExpanding(UNet):
    def __init__(self, *given):
        super().__init__(*given)
        self.expanding = self.expanding[::-1]


class SkipsInTheOrderOfTheWayDown(UNet):
    def forward(self, images):
        skips, x = [], self.pad(images)
        for level, block in enumerate(self.contracting):
            x = block(self.down(x) if level else x)
            skips.append(x)
        for up, block, skip in zip(self.up, self.expanding, skips[:4], strict=True):
            x = block(self.join(skip, up(x)))
        return self.score(x)


class PooledSkips(UNet):
    """What is joined is what the next level takes."""

    def forward(self, images):
        skips, x = [], self.pad(images)
        for block in self.contracting[:4]:
            x = self.down(block(x))
            skips.append(x)
        x = self.contracting[4](x)
        for up, block, skip in zip(self.up, self.expanding, skips[::-1], strict=True):
            x = block(self.join(skip, up(x)))
        return self.score(x)


class SkipsBeforeTheBlock(UNet):
    def forward(self, images):
        skips, x = [], self.pad(images)
        for level, block in enumerate(self.contracting):
            x = self.down(x) if level else x
            skips.append(x)
            x = block(x)
        for up, block, skip in zip(self.up, self.expanding, skips[-2::-1], strict=True):
            x = block(self.join(skip, up(x)))
        return self.score(x)


class UsesOneUpTwice(UNet):
    """Forgets expanding[3] and score sees the wrong number of channels."""

    def forward(self, images):
        skips, x = [], self.pad(images)
        for level, block in enumerate(self.contracting):
            x = block(self.down(x) if level else x)
            skips.append(x)
        for up, block, skip in zip(self.up[:3], self.expanding[:3], skips[-2:0:-1], strict=True):
            x = block(self.join(skip, up(x)))
        return self.score(self.join(skips[0], self.up[3](x)))


class ForgetsTheSkips(UNet):
    def join(self, skip, x):
        return x


class PoolsFirst(UNet):
    def forward(self, images):
        return F.interpolate(super().forward(self.down(self.pad(images))), scale_factor=2)


class Interpolates(UNet):
    """up is there, and used for its shape only."""

    def forward(self, images):
        skips, x = [], self.pad(images)
        for level, block in enumerate(self.contracting):
            x = block(self.down(x) if level else x)
            skips.append(x)
        for block, skip in zip(self.expanding, skips[-2::-1], strict=True):
            enlarged = F.interpolate(x, scale_factor=2, mode="bilinear")
            x = block(self.join(skip, enlarged[:, : skip.shape[1]]))
        return self.crop(self.score(x), images)


class SharedBlock(UNet):
    def __init__(self, *given):
        super().__init__(*given)
        self.expanding[0][4] = self.contracting[3][4]


class DetachedSkips(UNet):
    def join(self, skip, x):
        return torch.cat([skip.detach(), x], 1)


class AlwaysEvaluates(UNet):
    def forward(self, images):
        self.eval()
        return super().forward(images)


class DetachedWhenTrained(UNet):
    def finish(self, logits):
        return logits.detach() if self.training else logits


class NormOnLogits(UNet):
    def make_score(self, a, num_classes):
        return nn.Sequential(nn.Conv2d(a, num_classes, 1), nn.BatchNorm2d(num_classes))


class PadsTheMap(UNet):
    """Pads on the way up instead of the image, as many published U-Nets do."""

    pad = staticmethod(lambda images: images)

    def join(self, skip, x):
        return torch.cat([skip, pad_to(x, skip)], 1)


def pad_to(x, like):
    return F.pad(x, (0, like.shape[3] - x.shape[3], 0, like.shape[2] - x.shape[2]))


def fill(amounts, crop=None, **mode):
    """A network that pads by these amounts of (down, right), and crops in this way."""

    def padded(self, images):
        return F.pad(images, amounts(-images.shape[2] % 16, -images.shape[3] % 16), **mode)

    return unet_with(pad=padded, **({"crop": crop} if crop else {}))


def by_negative(self, x, images):
    return x[..., : -(-images.shape[2] % 16), : -(-images.shape[3] % 16)]


WRONG_NETWORKS = [
    # layers
    (PlainLists, "contracting is a value of type list, which hides its parameters from the optimizer"),
    (Keyed, "expanding is a value of type ModuleDict: make it an nn.ModuleList"),
    (FrozenScore, "score gets no gradient: is it frozen"),
    (ThreeHalvings, "contracting holds 4 modules, expected 5 double convolutions"),
    (SeparateBottom, "contracting holds 4 modules, expected 5 double convolutions", "the last at the bottom"),
    (Reversed, "up[0] maps 10 to 5 channels, expected 80 to 40: the list begins at the bottom"),
    (ReversedExpanding, "expanding[0] takes 10 channels, expected 80", "the list begins just above the bottom"),
    (
        unet_with(widths=lambda self, base: [base] * 5),
        "contracting[1] gives 5 channels, expected 10: channels double with each level",
    ),
    (unet_with(widths=lambda self, base: [64 * 2**i for i in range(5)]), "gives 64 channels", "written by hand"),
    (unet_with(images=1), "the first convolution of contracting[0] takes 1 channels, expected 3"),
    (unet_with(joined=lambda self, a: a), "are concatenated, 40 + 40 channels, not added or left out"),
    (unet_with(joined=lambda self, a: 3 * a), "takes 120 channels, expected 80: the up-convolution halves"),
    (unet_with(make_up=lambda self, a, b: nn.ConvTranspose2d(a, a, 2, 2)), "an up-convolution halves the channels"),
    (unet_with(make_up=lambda self, a, b: nn.ConvTranspose2d(b, a, 2, 2)), "channels in and out are exchanged"),
    (unet_with(make_up=lambda self, a, b: nn.ConvTranspose2d(a, b, 3, 2, 1, 1)), "kernel 2, stride 2"),
    (unet_with(make_up=lambda self, a, b: nn.ConvTranspose2d(a, b, 4, 2, 1)), "kernel 2, stride 2"),
    (unet_with(make_up=lambda self, a, b: nn.ConvTranspose2d(a, b, 2)), "kernel 2, stride 2"),
    (unet_with(make_up=lambda self, a, b: nn.Upsample(scale_factor=2)), "up[0] holds no nn.ConvTranspose2d"),
    (
        unet_with(make_up=lambda self, a, b: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 1))),
        "up[0] holds no nn.ConvTranspose2d",
    ),
    (unet_with(make_score=lambda self, a, n: nn.Conv2d(2 * a, n, 1)), "after the last double convolution"),
    (unet_with(make_score=lambda self, a, n: nn.Conv2d(a, n, 3, padding=1)), "score is to be a 1x1 convolution"),
    (unet_with(make_score=lambda self, a, n: nn.Conv2d(a, n, 1, bias=False)), "score has no bias"),
    (unet_with(make_score=lambda self, a, n: nn.Conv2d(a, 21, 1)), "21 is written by hand"),
    (unet_with(make_score=lambda self, a, n: nn.Conv2d(a, 1, 1)), "score gives 1 channels, expected 2"),
    (unet_with(make_score=lambda self, a, n: None), "it has no `self.score`"),
    (NormOnLogits, "in training mode"),
    (SharedBlock, "share one batch norm"),
    # double convolutions
    (unet_with(block=block_of("cnrCNr", padding=0)), "keep the size, with padding=1"),
    (unet_with(block=block_of("cnr")), "contracting[0] holds 1 convolutions"),
    (unet_with(block=block_of("crCr")), "batch norm is missing in contracting[0]"),
    (unet_with(block=block_of("crnCrN")), "ReLU comes before batch norm in both halves of contracting[0]"),
    (unet_with(block=block_of("cnrCNrd")), "in training mode (is there a dropout"),
    # pooling
    (unet_with(down=lambda self, x: x), "skip and enlarged map differ in size"),
    (PoolsFirst, "the image is pooled before contracting[0]: after it"),
    # what is joined
    (
        SkipsInTheOrderOfTheWayDown,
        "skip and enlarged map differ in size",
        "expanding[0] joins what contracting[3] gives",
    ),
    (PooledSkips, "skip and enlarged map differ in size", "before it is pooled"),
    (SkipsBeforeTheBlock, "another number of channels"),
    (UsesOneUpTwice, "another number of channels"),
    (ForgetsTheSkips, "another number of channels", "each expanding [skip, enlarged map]"),
    (unet_with(join=lambda self, skip, x: torch.cat([skip, x])), "another number of channels"),
    (unet_with(join=lambda self, skip, x: torch.cat([skip, x], 2)), "another number of channels"),
    (unet_with(join=lambda self, skip, x: skip + x), "another number of channels"),
    (unet_with(join=lambda self, skip, x: torch.cat([0 * skip, x], 1)), "given zeros for the skip"),
    (unet_with(join=lambda self, skip, x: torch.cat([0.9 * skip, x], 1)), "expanding[0] is given of the skip differs"),
    (Interpolates, "forward does not use up[0]"),
    (DetachedSkips, "is a skip detached"),
    # logits
    (unet_with(finish=lambda self, x: x.argmax(1)), "leave the argmax out"),
    (unet_with(finish=lambda self, x: x.detach()), "no gradient comes back"),
    (unet_with(finish=lambda self, x: {"out": x}), "a value of type dict"),
    (unet_with(finish=lambda self, x: None), "a `return` missing"),
    (DetachedWhenTrained, "in training mode contracting[0] gets no gradient"),
    (AlwaysEvaluates, "or an eval()?"),
    # sizes
    (unet_with(pad=staticmethod(lambda images: images)), "pad the images to a multiple of 16 first"),
    (PadsTheMap, "for a 37x51 image nothing is padded"),
    (unet_with(crop=by_negative), "[..., :-0] is empty"),
    (unet_with(pad=staticmethod(lambda images: pad(images, 32))), "(2, 3, 32, 64), expected (2, 3, 32, 48)"),
    (fill(lambda h, w: (0, h, 0, w), mode="replicate"), "pad the images to a multiple of 16 first"),
    # not a class of the right kind
    (lambda num_classes, base_channels: torch.zeros(1), "make it a class of nn.Module"),
    (type("UNet", (nn.Module,), {}), "TypeError while it is made"),
    (unet_with(forward=nn.Module.forward), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_NETWORKS])
def test_unet_rejects(answer, hints):
    assert_hint("unet", answer, *hints)


# ----------------------------------------- binary_cross_entropy, binary_scores


def one_hot(target, k):
    return F.one_hot(target, k).movedim(-1, 1).float()


def library(logits, target, ignore_index=255):
    """With torch's own function, whose logarithms end at -100."""
    valid = target != ignore_index
    y = one_hot(torch.where(valid, target, 0), logits.shape[1]).to(logits)
    losses = F.binary_cross_entropy(logits.softmax(1), y, reduction="none")
    return (losses * valid[:, None]).sum() / (valid.sum() * logits.shape[1]).clamp_min(1)


def selected(logits, target, ignore_index=255):
    """Leaves void pixels out before anything is computed."""
    valid = target != ignore_index
    if not valid.any():
        return (logits * 0).sum()
    p = torch.softmax(logits, dim=1).permute(0, 2, 3, 1)[valid]
    return F.binary_cross_entropy(p, F.one_hot(target[valid], logits.shape[1]).to(p.dtype))


def clamped(logits, target, ignore_index=255):
    p = logits.softmax(1).clamp(1e-7, 1 - 1e-7)
    total = 0.0
    count = 0
    for k in range(logits.shape[1]):
        y = (target == k).float()
        terms = -(y * torch.log(p[:, k]) + (1 - y) * torch.log(1 - p[:, k]))
        total = total + terms[target != ignore_index].sum()
        count += (target != ignore_index).sum()
    return total / max(int(count), 1)


def with_epsilon(logits, target, ignore_index=255, epsilon=1e-8):
    p, valid = logits.softmax(1), (target != ignore_index).unsqueeze(1)
    y = target.unsqueeze(1) == torch.arange(logits.size(1)).view(1, -1, 1, 1)
    terms = torch.where(y, (p + epsilon).log(), (1 - p + epsilon).log()) * valid
    return -terms.sum() / torch.clamp(valid.sum() * logits.size(1), min=1)


def by_other_classes(logits, target, ignore_index=255):
    """log(1 - p_k) as what the other maps have together; exact everywhere."""
    k, all_of_them = logits.shape[1], logits.logsumexp(1)
    losses = torch.zeros(())
    valid = target != ignore_index
    for c in range(k):
        others = logits[:, [i for i in range(k) if i != c]].logsumexp(1) - all_of_them
        losses = losses - torch.where(target == c, logits[:, c] - all_of_them, others)[valid].sum()
    return losses / (k * valid.sum().clamp_min(1))


def by_logits(logits, target, ignore_index=255):
    """binary_cross_entropy_with_logits of the logit of the softmax."""
    k, valid = logits.shape[1], target != ignore_index
    y = one_hot(torch.where(valid, target, 0), k)
    others = torch.stack([logits[:, [i for i in range(k) if i != c]].logsumexp(1) for c in range(k)], 1)
    losses = F.binary_cross_entropy_with_logits(logits - others, y, reduction="none").mean(1)
    return (losses * valid).sum() / valid.sum().clamp(min=1)


@pytest.mark.parametrize(
    "answer",
    [
        library,
        selected,
        clamped,
        with_epsilon,
        partial(with_epsilon, epsilon=1e-6),
        by_other_classes,
        by_logits,
    ],
)
def test_binary_cross_entropy_accepts(answer):
    assert_passes("binary_cross_entropy", answer)


def changed(
    *,
    activation=lambda x: x.softmax(1),
    labels=one_hot,
    positive=True,
    negative=True,
    fill=0,
    masked=True,
    finish=None,
    finite=True,
):
    def answer(logits, target, ignore_index=255):
        valid = target != ignore_index
        y = labels(torch.where(valid, target, fill), logits.shape[1])
        p = activation(logits)
        p = p.clamp(1e-7, 1 - 1e-7) if finite else p
        terms = -(positive * y * p.log() + negative * (1 - y) * (1 - p).log())
        counted = valid if masked else torch.ones_like(valid)
        if finish:
            return finish(terms * counted[:, None], counted)
        return (terms * counted[:, None]).sum() / (terms.shape[1] * counted.sum()).clamp_min(1)

    return answer


def first_map_only(logits, target, ignore_index=255, labels=lambda target: target == 1):
    valid = target != ignore_index
    return F.binary_cross_entropy(logits.softmax(1)[:, 1][valid], labels(target[valid]).float())


def nan_when_void(logits, target, ignore_index=255):
    valid = target != ignore_index
    p = logits.softmax(1).movedim(1, -1)[valid]
    return F.binary_cross_entropy(p, F.one_hot(target[valid], logits.shape[1]).float())


def constant_when_void(logits, target, ignore_index=255):
    return library(logits, target, ignore_index) if (target != ignore_index).any() else torch.tensor(0.0)


def in_place(logits, target, ignore_index=255):
    return library(logits.sub_(logits.amax(1, keepdim=True)), target, ignore_index)


def minus_log(logits, target, ignore_index=255):
    """Finite value, gradient nan: where() hides the infinite branch of the value alone."""
    p, valid = logits.softmax(1), target != ignore_index
    y = one_hot(torch.where(valid, target, 0), logits.shape[1])
    log_p = torch.where(p > 0, p.log(), -100.0)
    log_q = torch.where(p < 1, (1 - p).log(), -100.0)
    return (-(y * log_p + (1 - y) * log_q).mean(1) * valid).sum() / valid.sum().clamp_min(1)


WRONG_LOSSES = [
    (changed(activation=torch.sigmoid), "it uses sigmoid"),
    (changed(activation=lambda x: x.softmax(1).sigmoid()), "a sigmoid after the softmax"),
    (partial(with_epsilon, epsilon=1e-3), "the loss of 3 maps"),
    (changed(negative=False), "(1 - y) log(1 - p) is missing"),
    (first_map_only, "only map 1 is compared"),
    (
        lambda logits, target, ignore_index=255: F.binary_cross_entropy(logits.softmax(1), target.float()),
        "it needs a map for each class",
    ),
    (changed(finite=False), "and the loss nan: take log_softmax"),
    (minus_log, "the gradient is not finite"),
    (nan_when_void, "void alone gives nan"),
    (constant_when_void, "a loss without a gradient"),
    (in_place, "in place"),
    (lambda logits, target, ignore_index=255: library(logits, target, ignore_index).item(), "expected a torch tensor"),
    (lambda logits, target, ignore_index=255: one_hot(target, 2), "void (255) goes into one_hot"),
    (
        lambda logits, target, ignore_index=255: F.binary_cross_entropy(logits, logits),
        "binary_cross_entropy takes probabilities",
    ),
    (lambda logits, target, ignore_index=255: library(logits, target, ignore_index)[None], "has shape (1,)"),
    (lambda logits, target: library(logits, target), "unexpected keyword argument 'ignore_index'"),
    (lambda logits, target, ignore_index=255: None, "not written yet"),
]


@pytest.mark.parametrize(("answer", "hint"), WRONG_LOSSES)
def test_binary_cross_entropy_rejects(answer, hint):
    assert_hint("binary_cross_entropy", answer, hint)


@given(st.integers(2, 5), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_reference_loss_is_that_of_torch_and_cross_entropy_for_two_maps(k, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, k, 3, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(0, k, (2, 3, 5), generator=generator)
    target[0, 0] = 255
    loss = checks.binary_cross_entropy.reference(logits, target)
    torch.testing.assert_close(loss, library(logits, target))
    if k == 2:
        torch.testing.assert_close(loss, F.cross_entropy(logits, target, ignore_index=255))


# -------------------------------------------------------------- binary_scores


def divide(a, b, empty=0.0):
    return a / b if b else empty


def by_counts(prediction, target, ignore_index=255):
    valid = target != ignore_index
    p, t = prediction[valid] == 1, target[valid] == 1
    tp, fp, fn = (int(x.sum()) for x in (p & t, p & ~t, ~p & t))
    absent = math.nan if tp + fp + fn == 0 else 0.0
    return {
        "accuracy": divide((p == t).sum().item(), t.numel(), math.nan),
        "precision": divide(tp, tp + fp, absent),
        "recall": divide(tp, tp + fn, absent),
        "f1": divide(2 * tp, 2 * tp + fp + fn, absent),
        "iou": divide(tp, tp + fp + fn, absent),
    }


def scores_by_numpy(prediction, target, ignore_index=255):
    """np.float64, a confusion matrix, further keys, another order."""
    p, t = np.asarray(prediction).ravel(), np.asarray(target).ravel()
    matrix = np.bincount(2 * t[t != ignore_index].astype(int) + p[t != ignore_index], minlength=4).reshape(2, 2)
    tp, fp, fn = matrix[1, 1], matrix[0, 1], matrix[1, 0]
    with np.errstate(invalid="ignore"):
        iou = np.float64(tp) / (tp + fp + fn)
        accuracy = np.float64(np.trace(matrix)) / matrix.sum()
    known = tp + fp + fn > 0
    precision, recall = (np.float64(tp) / max(tp + x, 1) if known else np.nan for x in (fp, fn))
    f1 = 2 * iou / (1 + iou)
    return {"iou": iou, "f1": f1, "precision": precision, "recall": recall, "accuracy": accuracy, "support": tp + fn}


def by_means(prediction, target, ignore_index=255):
    """F1 from precision and recall, with their zeros taken care of; tensors until the end."""
    valid = (target != ignore_index).float()
    p, t = (prediction == 1) * valid, (target == 1) * valid
    hits, union = (p * t).sum(), ((p + t) > 0).float().sum()
    if union == 0:
        accuracy = 1.0 if valid.sum() else float("nan")
        return dict.fromkeys(("precision", "recall", "f1", "iou"), float("nan")) | {"accuracy": accuracy}
    precision, recall = hits / p.sum().clamp(min=1), hits / t.sum().clamp(min=1)
    f1 = 2 * precision * recall / (precision + recall) if hits > 0 else torch.zeros(())
    accuracy = ((prediction == target) * valid).sum() / valid.sum()
    found = {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1, "iou": hits / union}
    return {name: value.item() for name, value in found.items()}


@pytest.mark.parametrize("answer", [by_counts, scores_by_numpy, by_means])
def test_binary_scores_accepts(answer):
    assert_passes("binary_scores", answer)


def other(key, score):
    """The right scores but for one, computed from the counts of true positives, false ones, negatives."""

    def answer(prediction, target, ignore_index=255):
        valid = target != ignore_index
        p, t = prediction[valid] == 1, target[valid] == 1
        counts = (float(x.sum()) for x in (p & t, p & ~t, ~p & t, ~p & ~t))
        found = by_counts(prediction, target, ignore_index)
        return found | {key: float(score(*counts, found))}

    return answer


def swapped(prediction, target, ignore_index=255):
    found = by_counts(prediction, target, ignore_index)
    return found | {"precision": found["recall"], "recall": found["precision"]}


def void_in_prediction(prediction, target, ignore_index=255):
    """Leaves void out of the target only: a void pixel predicted as 1 is a false positive."""
    p, t = prediction == 1, target == 1
    tp, fp, fn = (p & t).sum().item(), (p & ~t).sum().item(), (~p & t).sum().item()
    found = by_counts(prediction, target, ignore_index)
    return found | {"precision": divide(tp, tp + fp), "iou": divide(tp, tp + fp + fn)}


def unguarded(prediction, target, ignore_index=255):
    valid = target != ignore_index
    p, t = prediction[valid] == 1, target[valid] == 1
    tp, fp, fn = ((x.sum().item()) for x in (p & t, p & ~t, ~p & t))
    return {
        "accuracy": (p == t).sum().item() / t.numel(),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
    }


def mapped(function):
    return lambda *given, **named: {key: function(value) for key, value in by_counts(*given, **named).items()}


WRONG_SCORES = [
    (swapped, "precision for one image", "this is recall: precision divides by the pixels predicted as 1"),
    (other("f1", lambda tp, fp, fn, tn, s: s["iou"]), "this is the IoU"),
    (other("accuracy", lambda tp, fp, fn, tn, s: divide(tp, tp + fp + fn + tn)), "pixels of class 0 that are right"),
    (void_in_prediction, "precision for one image", "void pixels are counted as class 0: leave them out"),
    (lambda p, t, ignore_index=255: by_counts(p, t), "for ignore_index=7", "ignore_index is not used"),
    (unguarded, "0 / 0: where class 1 is in neither prediction nor target", "ZeroDivisionError"),
    (mapped(torch.tensor), "Convert it with `.item()`"),
    (mapped(str), "a value of type str, expected a Python float"),
    (lambda *given, **named: list(by_counts(*given, **named).values()), "expected a dict with accuracy, precision"),
    (lambda *given, **named: {"accuracy": 1.0, "F1": 1.0}, "the dict has no precision, recall, f1, iou"),
    (lambda prediction, target, ignore_index=255: None, "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_SCORES])
def test_binary_scores_rejects(answer, hints):
    assert_hint("binary_scores", answer, *hints)


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_reference_scores_follow_from_the_counts(seed, predicted, there):
    rng = np.random.default_rng(seed)
    prediction = torch.from_numpy((rng.random((5, 6)) < predicted).astype(np.uint8))
    target = torch.from_numpy((rng.random((5, 6)) < there).astype(np.uint8))
    target[0, :3] = 255
    expected = by_counts(prediction, target)
    assert checks.binary_scores.reference(prediction, target) == pytest.approx(expected, nan_ok=True)


# ----------------------------------------------------------------- should_stop


def by_maximum(scores, patience):
    if len(scores) <= patience:
        return False
    return max(scores[-patience:]) <= max(scores[:-patience])


def by_counter(scores, patience):
    best, waited = -math.inf, 0
    for score in scores:
        best, waited = (score, 0) if score > best else (best, waited + 1)
    return waited >= patience


def by_place_of_the_best(scores, patience):
    return bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= patience


def stop_by_numpy(scores, patience):
    if len(scores) == 0:
        return False
    return len(scores) - 1 - np.argmax(scores) >= patience


def by_loops(scores, patience):
    if len(scores) < patience + 1:
        return False
    for late in scores[len(scores) - patience :]:
        better = True
        for early in scores[: len(scores) - patience]:
            if late <= early:
                better = False
        if better:
            return True is False
    return True


def not_any(scores, patience):
    before, last = scores[:-patience], scores[-patience:]
    return bool(before) and not any(score > max(before) for score in last)


RIGHT = [by_maximum, by_counter, by_place_of_the_best, stop_by_numpy, by_loops, not_any]


@pytest.mark.parametrize("answer", RIGHT)
def test_should_stop_accepts(answer):
    assert_passes("should_stop", answer)


def counter(*, best=-math.inf, better=lambda a, b: a > b, reset=True, more=0, follow=False, ever=False):
    def should_stop(scores, patience):
        top, waited, stopped = best, 0, False
        for score in scores:
            if better(score, top):
                top, waited = score, 0 if reset else waited
            else:
                waited += 1
                top = score if follow else top
            stopped |= waited >= patience + more
        return stopped if ever else waited >= patience + more

    return should_stop


def sorts(scores, patience):
    result = by_maximum(scores, patience)
    scores.sort()
    return result


WRONG_RULES = [
    (lambda s, n: len(s) > n and s[-1] <= s[-2], "only the last two scores are compared"),
    (counter(more=1), "it waits one evaluation too long"),
    (counter(best=0.0), "the best so far starts at 0"),
    (lambda s, n: len(s) > n and max(s[-n:]) <= s[-n - 1], "compared with the one before them"),
    (lambda s, n: max(s[-n:]) <= max(s[:-n]), "there may be `patience` scores or fewer, or none"),
    (lambda s, n: s[-n - 1] >= max(s[-n:]), "there may be `patience` scores or fewer, or none"),
    (lambda s, n: len(s) >= n and max(s[-n:]) <= max(s[:-n]), "there may be `patience` scores or fewer, or none"),
    (lambda s, n: len(s) > n and max(s[-n], s[-1]) <= max(s[:-n]), "is True, expected False"),
    (sorts, "in place"),
    (lambda s, n: int(by_maximum(s, n)), "a Python int, expected True or False"),
    (lambda s, n: torch.tensor(by_maximum(s, n)), "a torch tensor, expected True or False"),
    (lambda s, n: True if by_maximum(s, n) else None, "a `return` missing"),
]


@pytest.mark.parametrize(("answer", "hint"), WRONG_RULES)
def test_should_stop_rejects(answer, hint):
    assert_hint("should_stop", answer, hint)


@given(st.lists(st.integers(-3, 3), max_size=9), st.integers(1, 4))
@settings(deadline=None)
def test_reference_agrees_with_every_other_way_to_say_it(scores, patience):
    assert {bool(rule(scores, patience)) for rule in [*RIGHT, checks.should_stop.reference]} == {
        by_counter(scores, patience)
    }


# ----------------------------------------------------------------- tile_starts


def by_range(length, tile, overlap):
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def by_while(length, tile, overlap):
    starts = [0]
    while starts[-1] + tile < length:
        starts.append(min(starts[-1] + tile - overlap, length - tile))
    return starts


def spread(length, tile, overlap):
    """The same number of tiles, as evenly as whole pixels allow."""
    gaps = max(0, math.ceil((length - tile) / (tile - overlap)))
    return [i * (length - tile) // gaps for i in range(gaps + 1)] if gaps else [0]


def tiles_by_numpy(length, tile, overlap):
    starts = np.arange(0, max(length - overlap, 1), tile - overlap)
    return list(np.minimum(starts, max(length - tile, 0)))


def from_the_end(length, tile, overlap):
    """The first tile is the one that shares more."""
    starts = []
    start = length - tile
    while start > 0:
        starts.insert(0, start)
        start -= tile - overlap
    return [0, *starts]


def as_a_set(length, tile, overlap):
    step = tile - overlap
    return sorted({max(0, min(i * step, length - tile)) for i in range(length)})


@pytest.mark.parametrize("answer", [by_range, by_while, spread, tiles_by_numpy, from_the_end, as_a_set])
def test_tile_starts_accepts(answer):
    assert_passes("tile_starts", answer)


def guarded(starts):
    return lambda length, tile, overlap: [0] if length <= tile else starts(length, tile, overlap)


WRONG_TILES = [
    (
        lambda n, t, o: list(range(0, n, t - o)),
        "tile_starts(10, 4, 1) is [0, 3, 6, 9]: the last tile ends at 13, beyond",
    ),
    (
        guarded(lambda n, t, o: list(range(0, n - o, t - o))),
        "tile_starts(11, 4, 1) is [0, 3, 6, 9]",
        "ends at 13, beyond",
    ),
    (guarded(lambda n, t, o: list(range(0, n - t + 1, t - o))), "pixels 10 to 10 are in no tile"),
    (guarded(lambda n, t, o: list(range(0, n - t, t - o))), "pixels 7 to 9 are in no tile", "flush with the end"),
    (
        guarded(lambda n, t, o: [*range(0, n - t + 1, t - o), n - t]),
        "tile_starts(10, 4, 1) is [0, 3, 6, 6]: starts rise, and none occurs twice",
    ),
    (guarded(lambda n, t, o: [*range(0, n - t, t), n - t]), "The step is tile, so that", "tile - overlap = 3"),
    (lambda n, t, o: list(range(0, n, t)), "The step is tile, so that neighbours share nothing"),
    (guarded(lambda n, t, o: [*range(0, n - t, o), n - t]), "7 tiles, 3 are enough. The step is overlap"),
    (guarded(lambda n, t, o: [*range(0, n - t, t + o), n - t]), "The step is tile + overlap"),
    (guarded(lambda n, t, o: [*range(0, n - t, t - o - 1 or 1), n - t]), "4 tiles, 3 are enough"),
    (guarded(lambda n, t, o: [*range(0, n - t, t - o + 1), n - t]), "share 0 pixels, expected at least 1"),
    (guarded(lambda n, t, o: [*range(0, n - t, max(1, t // 2)), n - t]), "4 tiles, 3 are enough"),
    (guarded(lambda n, t, o: [*range(1, n - t, t - o), n - t]), "the first tile starts at 0"),
    (guarded(lambda n, t, o: by_range(n, t, o)[::-1]), "the first tile starts at 0"),
    (guarded(lambda n, t, o: [0, n - t]), "the tiles at 0 and 6 share 0 pixels"),
    (guarded(lambda n, t, o: sorted({*range(n - t), n - t})), "tiles, 3 are enough"),
    (lambda n, t, o: [*range(0, n - t, t - o), n - t], "tile_starts(3, 4, 2) is [-1], expected [0]"),
    (lambda n, t, o: list(range(0, n - t, t - o)) + ([n - t] if n > t else []), "tile_starts(4, 4, 2) is empty"),
    (lambda n, t, o: [*by_range(n, t, o), 0][: -1 if n > t else None], "is [0, 0], expected [0]"),
    (lambda n, t, o: range(0, n, t), "a value of type range, expected a list"),
    (lambda n, t, o: np.array(by_range(n, t, o)), "a NumPy array, expected a list"),
    (lambda n, t, o: [float(s) for s in by_range(n, t, o)], "holds something that is no int"),
    (lambda n, t, o: [(s, s + t) for s in by_range(n, t, o)], "holds something that is no int"),
    (lambda n, t, o: print(n), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_TILES])
def test_tile_starts_rejects(answer, hints):
    assert_hint("tile_starts", answer, *hints)


# ------------------- BilinearUNet, fit, log_confidence, feature_gradients


class Interpolating(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="bilinear"))


def bilinear_unet(make):
    class BilinearUNet(models.UNet):
        def __init__(self, num_classes, base_channels):
            super().__init__(num_classes, base_channels)
            self.up = nn.ModuleList(make(base_channels * 2**level) for level in (3, 2, 1, 0))

    return BilinearUNet


def enlarge_and(*layers):
    return nn.Sequential(nn.UpsamplingBilinear2d(scale_factor=2), *layers)


def halving(channels, **options):
    return nn.Conv2d(2 * channels, channels, 3, padding=1, **options)


def test_bilinear_unets_written_in_other_ways_pass():
    assert_passes("bilinear_unet", bilinear_unet(Interpolating))


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda c: enlarge_and(halving(c)), "align_corners=True"),  # what UpsamplingBilinear2d has
        (
            lambda c: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), halving(c), nn.BatchNorm2d(c)),
            "BatchNorm2d",
        ),
        (lambda c: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), halving(c, bias=False)), "has no bias"),
        (lambda c: nn.ConvTranspose2d(2 * c, c, 2, stride=2), "still a transposed convolution"),
        (lambda c: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2 * c, c, 1)), "3x3 convolution"),
        (
            lambda c: nn.Sequential(halving(c), nn.Upsample(scale_factor=2, mode="bilinear")),
            "enlarge first, then convolve",
        ),
    ],
)
def test_bilinear_unet_hints(make, hint):
    assert_hint("bilinear_unet", bilinear_unet(make), hint)


def load(model, path):
    model.load_state_dict(torch.load(path))


def in_another_order(
    model,
    batches,
    loss_function,
    optimizer,
    scheduler,
    validate,
    eval_every,
    patience,
    path,
    best=-math.inf,
    number=float,
    counted_from=1,
    due=lambda step, every: step % every == 0,
    scored=lambda validate, model: validate(model),
    save=lambda model, path: torch.save(model.state_dict(), str(path)),
    load=load,
):
    waited, losses, scores = 0, [], []
    for step, (images, targets) in enumerate(batches, counted_from):
        model.train().zero_grad()
        loss = loss_function(model(images), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(number(loss.detach()))
        if not due(step, eval_every):
            continue
        scores.append(scored(validate, model.eval()))
        waited += 1
        if scores[-1] > best:
            best, waited = scores[-1], 0
            save(model, path)
        if waited >= patience:
            break
    load(model, path)
    return losses, scores if not model.eval().training else None


def test_a_loop_written_in_another_order_passes():
    assert_passes("fit", in_another_order)


def wrapped(model, path):
    torch.save({"model": model.state_dict(), "step": 1}, path)


def whole(model, path):
    torch.save(model, path)


def load_wrapped(model, path):
    model.load_state_dict(torch.load(path)["model"])


def load_whole(model, path):
    model.load_state_dict(torch.load(path, weights_only=False).state_dict())


WRONG_LOOPS = [
    ({"save": wrapped, "load": load_wrapped}, "the file must hold model.state_dict(), nothing around it"),
    ({"save": whole, "load": load_whole}, "the file must hold model.state_dict(), nothing around it"),
    ({"save": whole}, "the file must hold model.state_dict(), nothing around it", "options, do those steps"),
    ({"scored": lambda validate, model: max(validate(model), validate(model))}, "validate is called twice"),
    ({"counted_from": 0}, "is 9, expected 10: it validates at other steps: count steps from 1"),
    ({"due": lambda step, every: True}, "it validates after every step: only where step % eval_every is 0"),
    ({"number": torch.clone}, "fit: the losses are tensors: loss.item()"),
    ({"best": 0}, "nothing was saved", "-math.inf"),
    ({"best": 0, "load": lambda model, path: path.exists() and load(model, path)}, "the file `path` is not written"),
]


@pytest.mark.parametrize(("parts", "hints"), [(parts, hints) for parts, *hints in WRONG_LOOPS])
def test_fit_rejects(parts, hints):
    assert_hint("fit", partial(in_another_order, **parts), *hints)


def test_a_loop_that_validates_after_every_step_and_never_stops_is_told_so():
    def answer(*given):
        *settings, _, path = given
        return in_another_order(*settings, math.inf, path, due=lambda step, every: True)

    assert_hint("fit", answer, "it validates too often: where step % eval_every is 0")


def test_a_loop_that_never_validates_is_told_so():
    def answer(model, batches, loss_function, optimizer, scheduler, validate, eval_every, patience, path):
        torch.save(model.state_dict(), path)
        return [loss_function(model.train()(x), y).item() for x, y in batches], []

    assert_hint("fit", answer, "ends in train mode")


def by_max(event, images, log):
    if event.evaluation:
        with torch.inference_mode():
            log(
                {"confidence": float(F.softmax(event.model.eval()(images), dim=1).max(dim=1).values.mean())}, event.step
            )


def without_asking(event, images, log):
    with torch.no_grad():
        log({"confidence": event.model.eval()(images).softmax(1).amax(1).mean().item()}, step=event.step)


def with_a_graph(event, images, log):
    if event.evaluation:
        confidence = event.model.eval()(images).softmax(1).max(1).values.mean().item()
        log({"confidence": confidence}, step=event.step)


def test_confidence():
    assert_hint("log_confidence", with_a_graph, "with torch.no_grad() around it")
    assert_passes("log_confidence", by_max)
    assert_hint("log_confidence", without_asking, "a step without evaluation")
    assert_hint("log_confidence", lambda event, images, log: None, "it calls log 0 times")


def by_retaining(model, images, loss_of):
    kept = []

    def keep(block, given, out):
        out.retain_grad()
        kept.append(out)

    hooks = [block.register_forward_hook(keep) for block in model.contracting]
    loss_of(model(images)).backward()
    for hook in hooks:
        hook.remove()
    return [float(out.grad.square().sum().sqrt()) for out in kept]


def by_backward_hooks(model, images, loss_of, remove=True, outputs=True):
    """Norms of what the blocks' backward hooks are given, which come from the bottom to the image."""
    norms = []

    def keep(block, of_inputs, of_outputs):
        norms.insert(0, float((of_outputs if outputs else of_inputs)[0].norm()))

    hooks = [block.register_full_backward_hook(keep) for block in model.contracting]
    loss_of(model(images)).backward()
    for hook in hooks if remove else []:
        hook.remove()
    return norms


def with_pre_hooks(model, images, loss_of, remove=True, image_too=True):
    """Gradients of what the blocks are given."""
    kept = []
    hooks = [block.register_forward_pre_hook(lambda block, given: kept.append(given[0])) for block in model.contracting]
    loss = loss_of(model(images.requires_grad_() if image_too else images))
    for hook in hooks if remove else []:
        hook.remove()
    return [float(gradient.norm()) for gradient in torch.autograd.grad(loss, kept)]


def with_hooks_left(model, images, loss_of):
    kept = []
    for block in model.contracting:
        block.register_forward_hook(lambda block, given, out: kept.append(out))
    return [float(gradient.norm()) for gradient in torch.autograd.grad(loss_of(model(images)), kept)]


def of_kept(formula):
    """An answer from a formula of the loss and of what the blocks give."""

    def answer(model, images, loss_of):
        kept = []
        hooks = [block.register_forward_hook(lambda block, given, out: kept.append(out)) for block in model.contracting]
        loss = loss_of(model(images))
        for hook in hooks:
            hook.remove()
        return [value.item() for value in formula(loss, kept)]

    return answer


def of_first_weights(model, images, loss_of):
    loss_of(model(images)).backward()
    return [float(block[0].weight.grad.norm()) for block in model.contracting]


def never_retained(loss, kept):
    loss.backward()
    return [out.grad.norm() for out in kept]


WRONG_GRADIENTS = [
    (with_hooks_left, "its hooks stay on the network"),
    (partial(by_backward_hooks, remove=False), "its hooks stay on the network"),
    (partial(with_pre_hooks, remove=False), "its hooks stay on the network"),
    (lambda model, images, loss_of: [0.0] * 4, "expected five"),
    (with_pre_hooks, "gradients of the blocks' inputs"),
    (partial(with_pre_hooks, image_too=False), "the image asks for no gradient"),
    (partial(by_backward_hooks, outputs=False), "a backward hook is given it in grad_output"),
    (of_first_weights, "gradients of the weights"),
    (of_kept(lambda loss, kept: [out.norm() for out in kept]), "norms of the features themselves"),
    (of_kept(never_retained), "retain_grad() on each block's output"),
    (
        of_kept(lambda loss, kept: [g.square().mean().sqrt() for g in torch.autograd.grad(loss, kept)]),
        "the root mean square: take the root of the sum",
    ),
]


@pytest.mark.parametrize("answer", [by_retaining, by_backward_hooks])
def test_feature_gradients_accepts(answer):
    assert_passes("feature_gradients", answer)


@pytest.mark.parametrize(("answer", "hint"), WRONG_GRADIENTS)
def test_feature_gradients_rejects(answer, hint):
    assert_hint("feature_gradients", answer, hint)
