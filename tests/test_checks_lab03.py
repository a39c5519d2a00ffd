"""The checks of lab 03 accept answers written in different ways; wrong ones, written anew, get the hint they need."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from judging import assert_hint, assert_passes
from torch import nn

from labhelpers import models

# ----------------------------------------------- effective_kernel, atrous_conv


def by_counting(kernel, rate):
    return len(range((kernel - 1) * rate + 1))


@pytest.mark.parametrize("answer", [lambda k, r: k + (k - 1) * (r - 1), by_counting])
def test_effective_kernel_accepts(answer):
    assert_passes("effective_kernel", answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda k, r: k * r, "this is kernel * rate"),
        (lambda k, r: (k - 1) * r, "one too few"),
        (lambda k, r: 2 * r + 1, "for a kernel of 3 only"),
        (lambda k, r: 2 * (k // 2) * r + 1, "for odd kernels only"),
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
    padded = F.pad(x, (half,) * 4)
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
    columns = F.unfold(x[None, None], k, dilation=rate, padding=rate * (k - 1) // 2)
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
    padded = F.pad(x, (side // 2,) * 4)
    return torch.einsum("ijuv,uv->ij", padded.unfold(0, side, 1).unfold(1, side, 1), large)


@pytest.mark.parametrize("answer", [by_taps, by_pixels, by_unfold, by_slices, by_large_kernel])
def test_atrous_conv_accepts(answer):
    assert_passes("atrous_conv", answer)


def by_library(x, kernel, rate):
    return F.conv2d(x[None, None], kernel[None, None], padding=rate * (len(kernel) // 2), dilation=rate)[0, 0]


def by_layer(x, kernel, rate):
    layer = torch.nn.Conv2d(1, 1, len(kernel), padding="same", dilation=rate, bias=False)
    layer.weight.data = kernel[None, None]
    return layer(x[None, None])[0, 0]


def strided(x, kernel, rate):
    k = len(kernel)
    windows = F.pad(x, (k // 2,) * 4).unfold(0, k, rate).unfold(1, k, rate)
    return (windows * kernel).sum((2, 3))


def corner(x, kernel, rate):
    """Tap (0, 0) reads the pixel itself."""
    reach = rate * (len(kernel) - 1)
    return by_taps(F.pad(x, (0, reach, 0, reach)), kernel, rate, pad=0)


def cut_short(padding, step=lambda rate: rate):
    """Slices as large as the output, whatever the padding."""

    def answer(x, kernel, rate):
        padded, (height, width) = F.pad(x, (padding(len(kernel), rate),) * 4), x.shape
        out = torch.zeros_like(x)
        for u in range(len(kernel)):
            for v in range(len(kernel)):
                top, left = u * step(rate), v * step(rate)
                out += kernel[u, v] * padded[top : top + height, left : left + width]
        return out

    return answer


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
        (lambda x, kernel, rate: by_taps(x, kernel, rate, turn=torch.ones_like), "values are not used"),
        (cut_short(lambda k, rate: k // 2), "the shifted copies differ in size: is padding equal to"),
        (cut_short(lambda k, rate: rate), "the shifted copies differ in size: is padding equal to"),
        (cut_short(lambda k, rate: rate * (k - 1) // 2, step=lambda rate: 1), "shifted by u * rate and v * rate"),
        (beyond_the_kernel, "an index lies outside the kernel"),
        (beyond_its_columns, "an index lies outside the kernel"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate).T, "expected 9x11: height and width are exchanged"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, pad=0), "5x7 for x 9x11"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, pad=0), "is padding equal to rate * (k - 1) / 2 = 2"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, pad=len(kernel) // 2), "7x9 for x 9x11"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, pad=rate), "expected 11x12: is padding equal to"),
        (lambda x, kernel, rate: by_taps(x, kernel, rate, pad=rate * (len(kernel) - 1)), "13x15 for x 9x11"),
        (corner, "found the first weight there"),
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


# ------------------------------------------------------------------------ aspp


def conv_bn_relu(in_channels, out_channels, kernel=1, bias=False, **options):
    conv = nn.Conv2d(in_channels, out_channels, kernel, bias=bias, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


class ASPP(nn.Module):
    """A student's module, with a place for each mistake."""

    block = staticmethod(conv_bn_relu)
    last = staticmethod(conv_bn_relu)
    container = nn.ModuleList
    pool = nn.AdaptiveAvgPool2d
    dropout = staticmethod(lambda: nn.Dropout(0.1))

    def __init__(self, in_channels, out_channels, rates):
        super().__init__()
        self.conv1 = self.block(in_channels, out_channels)
        self.atrous_convs = self.container(self.branches(in_channels, out_channels, rates))
        self.global_avg_pool = nn.Sequential(self.pool(1), *self.block(in_channels, out_channels))
        self.conv_out = nn.Sequential(
            *self.last(self.concatenated(in_channels, out_channels, rates), out_channels), self.dropout()
        )

    def branches(self, in_channels, out_channels, rates):
        return [self.atrous(in_channels, out_channels, rate) for rate in rates]

    def atrous(self, in_channels, out_channels, rate):
        return self.block(in_channels, out_channels, 3, padding=rate, dilation=rate)

    def concatenated(self, in_channels, out_channels, rates):
        return (2 + len(rates)) * out_channels

    def forward(self, x):
        return self.conv_out(self.combine(self.views(x)))

    def views(self, x):
        return [self.conv1(x), *[branch(x) for branch in self.atrous_convs], self.enlarge(self.global_avg_pool(x), x)]

    def enlarge(self, pooled, x):
        return F.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=False)

    def combine(self, views):
        return torch.cat(views, 1)


class Pooling(nn.Module):
    """Pools and enlarges by itself, with a bias in the convolution."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(out_channels)
        self.project = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        pooled = self.project(x.mean((2, 3), keepdim=True))
        return self.norm(pooled).clamp_min(0).expand(-1, -1, x.shape[2], x.shape[3])


class Branch(nn.Sequential):
    """Padding "same", batch norm with settings of its own, and ReLU left to the caller."""

    def __init__(self, in_channels, out_channels, kernel, rate=1):
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding="same", dilation=rate)
        super().__init__(nn.Sequential(conv), nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01))


class OwnModules(nn.Module):
    def __init__(self, in_channels, out_channels, rates):
        super().__init__()
        self.global_avg_pool = Pooling(in_channels, out_channels)
        self.conv_out = nn.Sequential(Branch((len(rates) + 2) * out_channels, out_channels, 1), nn.Dropout(p=0.1))
        self.atrous_convs = nn.ModuleList()
        for rate in rates:
            self.atrous_convs.append(Branch(in_channels, out_channels, 3, rate))
        self.conv1 = Branch(in_channels, out_channels, 1)

    def forward(self, x):
        views = [F.relu(self.conv1(x))]
        for branch in self.atrous_convs:
            views.append(branch(x).relu_())
        views.append(self.global_avg_pool(x))
        return F.relu(self.conv_out(torch.cat(views, dim=1)))


class OneByOne(ASPP):
    """Fills one tensor instead of concatenating; calls the layers of conv_out one after another."""

    def combine(self, views):
        width = views[0].shape[1]
        out = views[0].new_zeros(views[0].shape[0], width * len(views), *views[0].shape[2:])
        for i, view in enumerate(views):
            out[:, i * width : (i + 1) * width] = view
        return out

    def forward(self, x):
        out = self.combine(self.views(x))
        for layer in self.conv_out:
            out = layer(out)
        return out


class ByHand(ASPP):
    """The last convolution is not called as a layer."""

    def forward(self, x):
        conv, norm, relu, dropout = self.conv_out
        return dropout(relu(norm(F.conv2d(self.combine(self.views(x)), conv.weight, conv.bias))))


class DropoutApart(ASPP):
    """Dropout is an attribute of its own, behind conv_out."""

    def __init__(self, *given):
        super().__init__(*given)
        del self.conv_out[-1]
        self.behind = nn.Dropout(0.1)

    def forward(self, x):
        return self.behind(super().forward(x))


class PadsFirst(ASPP):
    """Zeros around the map by a layer, pooling in forward, branches stacked and flattened."""

    def __init__(self, *given):
        super().__init__(*given)
        self.global_avg_pool = self.global_avg_pool[1:]

    def atrous(self, in_channels, out_channels, rate):
        return nn.Sequential(nn.ZeroPad2d(rate), *conv_bn_relu(in_channels, out_channels, 3, True, dilation=rate))

    def views(self, x):
        pooled = self.global_avg_pool(x.mean((2, 3), keepdim=True))
        return [self.conv1(x), *(branch(x) for branch in self.atrous_convs), pooled.expand(-1, -1, *x.shape[2:])]

    def combine(self, views):
        return torch.stack(views, 1).flatten(1, 2)


@pytest.mark.parametrize("answer", [ASPP, OwnModules, OneByOne, ByHand, DropoutApart, PadsFirst])
def test_aspp_accepts(answer):
    assert_passes("aspp", answer)


def aspp_of(base=ASPP, **methods):
    return type("ASPP", (base,), methods)


def sizes(**changed):
    """A block without padding, dilation, ..."""

    def block(in_channels, out_channels, kernel=1, **options):
        return conv_bn_relu(in_channels, out_channels, kernel, **(options | (changed if kernel == 3 else {})))

    return staticmethod(block)


def block_of(*kinds):
    """A block of these parts: "conv", "norm", "relu"."""

    def block(in_channels, out_channels, kernel=1, **options):
        parts = {
            "conv": nn.Conv2d(in_channels, out_channels, kernel, bias=False, **options),
            "norm": nn.BatchNorm2d(out_channels),
            "relu": nn.ReLU(),
        }
        return nn.Sequential(*[parts[kind] for kind in kinds])

    return staticmethod(block)


def norm_first(in_channels, out_channels, kernel=1, **options):
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, out_channels, kernel, **options))


def two_convs(in_channels, out_channels, kernel=1, **options):
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, kernel, groups=in_channels, **options),
        *conv_bn_relu(in_channels, out_channels),
    )


def hard_coded_branches(self, in_channels, out_channels, rates):
    return [self.atrous(in_channels, out_channels, rate) for rate in (6, 12, 18)]


def reversed_branches(self, in_channels, out_channels, rates):
    return [self.atrous(in_channels, out_channels, rate) for rate in reversed(rates)]


def sorted_branches(self, in_channels, out_channels, rates):
    return [self.atrous(in_channels, out_channels, rate) for rate in sorted(rates)]


def chained_branches(self, in_channels, out_channels, rates):
    return [self.atrous(out_channels, out_channels, rate) for rate in rates]


class Chained(ASPP):
    def views(self, x):
        views = [self.conv1(x)]
        for branch in self.atrous_convs:
            views.append(branch(views[-1]))
        return [*views, self.enlarge(self.global_avg_pool(x), x)]


class SkipsPooling(ASPP):
    def views(self, x):
        return super().views(x)[:-1]


class ForgetsABranch(ASPP):
    """Uses the first atrous branch twice."""

    def views(self, x):
        first, second, _, *rest = super().views(x)
        return [first, second, second, *rest]


class Detaches(ASPP):
    def views(self, x):
        *views, pooled = super().views(x)
        return [*views, pooled.detach()]


class NoReLUInPooling(ASPP):
    def __init__(self, *given):
        super().__init__(*given)
        del self.global_avg_pool[-1]


class DropoutFirst(ASPP):
    def __init__(self, *given):
        super().__init__(*given)
        self.conv_out = nn.Sequential(self.conv_out[-1], *self.conv_out[:-1])


class DropoutEverywhere(ASPP):
    def __init__(self, *given):
        super().__init__(*given)
        self.conv1.append(nn.Dropout(0.1))


class OtherNames(ASPP):
    def __init__(self, *given):
        super().__init__(*given)
        self.pooling = self.global_avg_pool
        del self.global_avg_pool


class PlainFunction(ASPP):
    """The pooling branch is a function on layers that are elsewhere."""

    def __init__(self, *given):
        super().__init__(*given)
        layers = self.global_avg_pool
        del self.global_avg_pool
        self.global_avg_pool = lambda x: layers(x)


class FrozenStatistics(ASPP):
    """Evaluation mode for ever."""

    def train(self, mode=True):
        return super().train(False)


class FunctionalDropout(DropoutApart):
    def __init__(self, *given):
        super().__init__(*given)
        del self.behind

    def forward(self, x):
        return F.dropout(ASPP.forward(self, x), 0.1, self.training)


class UnusedDropout(DropoutApart):
    def forward(self, x):
        return ASPP.forward(self, x)


class ChangesInPlace(ASPP):
    """The gradient cannot be computed: what sigmoid gave has changed."""

    def forward(self, x):
        weight = torch.sigmoid(super().forward(x))
        weight *= 2
        return weight


class SharesBatchNorm(ASPP):
    def __init__(self, *given):
        super().__init__(*given)
        self.atrous_convs[0][1] = self.conv1[1]


class SharesConvolution(ASPP):
    def __init__(self, *given):
        super().__init__(*given)
        self.global_avg_pool = nn.Sequential(self.global_avg_pool[0], self.conv1)


class PadsOneByOne(ASPP):
    def __init__(self, in_channels, out_channels, rates):
        super().__init__(in_channels, out_channels, rates)
        self.conv1 = self.block(in_channels, out_channels, padding=1)


class ModuleLists(ASPP):
    def __init__(self, *given):
        super().__init__(*given)
        self.atrous_convs = nn.ModuleList(nn.ModuleList(branch) for branch in self.atrous_convs)


class PoolsChannels(ASPP):
    def views(self, x):
        return [*super().views(x)[:-1], self.global_avg_pool(x.mean(1, keepdim=True))]


class PoolsTheBatch(ASPP):
    def views(self, x):
        return [*super().views(x)[:-1], self.enlarge(self.global_avg_pool(x.mean(0, keepdim=True)), x)]


class LosesItself(ASPP):
    def train(self, mode=True):
        super().train(mode)


def lazy(in_channels, out_channels, kernel=1, **options):
    return nn.Sequential(nn.LazyConv2d(out_channels, kernel, **options), nn.LazyBatchNorm2d(), nn.ReLU())


WRONG_ASPP = [
    # layers that are shared, or not there yet
    (aspp_of(branches=lambda self, c, out, rates: [self.atrous(c, out, 1)] * len(rates)), "share one convolution"),
    (SharesBatchNorm, "conv1 and atrous_convs[0] share one batch norm"),
    (SharesConvolution, "conv1 and global_avg_pool share one convolution"),
    (ModuleLists, "atrous_convs[0] is an nn.ModuleList, which cannot be called"),
    (aspp_of(block=staticmethod(lazy)), "conv1 holds LazyConv2d"),
    (LosesItself, "return self"),
    (ChangesInPlace, "an operation in place"),
    (PadsOneByOne, "the branches differ in size, each is to be 16x14", "1x1 convolutions have no padding"),
    (aspp_of(__init__=lambda self, c, out, rates: ASPP.__init__(self, out, c, rates)), "in and out are exchanged"),
    (PoolsChannels, "something else than x (pooling: than its mean over height and width)"),
    (PoolsTheBatch, "one branch has a batch of one"),
    (aspp_of(forward=lambda self, x: self.combine(self.views(x))), "is conv_out left out?"),
    (aspp_of(combine=lambda self, views: views), "conv2d() received an invalid combination"),
    # convolutions
    (aspp_of(block=sizes(padding=1)), "atrous_convs[1] is 14x12, expected 16x14: is padding equal to the rate?"),
    (aspp_of(block=sizes(padding=0)), "atrous_convs[0] is 14x12, expected 16x14: is padding equal to the rate?"),
    (aspp_of(block=sizes(dilation=1)), "rates [1, 1, 1], expected [1, 2, 3]: dilation is missing"),
    (aspp_of(block=sizes(dilation=1, padding=1)), "dilation is missing"),
    (aspp_of(branches=hard_coded_branches), "rates [6, 12, 18]", "written by hand"),
    (aspp_of(branches=reversed_branches), "rates [3, 2, 1]", "keep the order"),
    (aspp_of(branches=sorted_branches), "rates [1, 2, 4, 6], expected [4, 1, 6, 2]", "keep the order"),
    (aspp_of(branches=lambda self, *given: ASPP.branches(self, *given)[:3]), "3 branches, expected 4", "by hand"),
    (aspp_of(branches=lambda self, *given: ASPP.branches(self, *given)[1:]), "2 branches, expected 3"),
    (aspp_of(atrous=lambda self, c, out, rate: self.block(c, out)), "3x3 convolution", "found kernel (1, 1)"),
    (aspp_of(branches=chained_branches), "chained behind another branch"),
    (aspp_of(block=staticmethod(two_convs)), "conv1 holds 2 convolutions"),
    # batch norm and ReLU
    (aspp_of(block=block_of("conv", "relu")), "batch norm is missing in conv1: it holds no"),
    (aspp_of(last=block_of("conv", "relu")), "batch norm is missing in conv_out: it holds no"),
    (aspp_of(block=staticmethod(norm_first)), "batch norm of conv1 has 6 channels"),
    (aspp_of(block=block_of("conv", "norm")), "ReLU is missing in conv1"),
    (aspp_of(ByHand, last=block_of("conv", "relu", "norm")), "ReLU comes before batch norm in conv_out"),
    (NoReLUInPooling, "ReLU is missing in global_avg_pool"),
    # pooling
    (aspp_of(pool=nn.AdaptiveMaxPool2d), "takes the maximum over the map: take the mean"),
    (aspp_of(enlarge=lambda self, pooled, x: pooled), "the pooling branch is not enlarged", "16x14"),
    (
        aspp_of(enlarge=lambda self, pooled, x: F.interpolate(pooled, (x.shape[3], x.shape[2]))),
        "the branches differ in size",
    ),
    (SkipsPooling, "16 channels, those of 4 of the 5 branches"),
    # how the branches come together
    (aspp_of(combine=lambda self, views: sum(views)), "4 channels, those of one branch: are the branches added?"),
    (aspp_of(combine=lambda self, views: torch.cat(views)), "4 channels, those of one branch", "torch.cat([...], 1)"),
    (aspp_of(concatenated=lambda self, c, out, rates: out), "are the branches added?"),
    (aspp_of(concatenated=lambda self, c, out, rates: 1280), "conv_out takes 1280 channels", "written by hand"),
    (
        aspp_of(concatenated=lambda self, c, out, rates: 5 * out),
        "conv_out takes 15 channels, expected 18: 5 branches",
    ),
    (aspp_of(concatenated=lambda self, c, out, rates: (1 + len(rates)) * out), "one of the 5 branches is forgotten"),
    (aspp_of(concatenated=lambda self, c, out, rates: len(rates) * out), "conv1 and the pooling branch count"),
    (aspp_of(container=list), "a Python list hides its layers"),
    (aspp_of(container=staticmethod(lambda branches: nn.Sequential(*branches))), "one after another"),
    (Chained, "are the branches chained one after another?"),
    (ForgetsABranch, "atrous_convs[1] gets no gradient"),
    (Detaches, "global_avg_pool gets no gradient"),
    # dropout
    (aspp_of(dropout=nn.Identity), "no layer nn.Dropout"),
    (FunctionalDropout, "no layer nn.Dropout"),
    (UnusedDropout, "dropout is not used at the end"),
    (aspp_of(dropout=nn.Dropout), "p=0.5, expected 0.1"),
    (aspp_of(dropout=lambda self: nn.Dropout2d(0.1)), "it has Dropout2d"),
    (DropoutFirst, "dropout is not used at the end"),
    (DropoutEverywhere, "there are 2 dropouts"),
    # the rest
    (OtherNames, "no `self.global_avg_pool`"),
    (PlainFunction, "global_avg_pool is a value of type function"),
    (FrozenStatistics, "dropout is not used"),
    (aspp_of(forward=lambda self, x: ASPP.forward(self, x).mean((2, 3))), "shape (2, 4) for x (2, 6, 16, 14)"),
    (aspp_of(forward=lambda self, x: ASPP.forward(self, x).detach()), "no gradient comes back"),
    (aspp_of(forward=lambda self, x: ASPP.forward(self, x.relu_())), "in place"),
    (aspp_of(forward=lambda self, x: ASPP.forward(self, 2 * x)), "what conv_out is given of conv1 differs"),
    (aspp_of(forward=lambda self, x: 2 * ASPP.forward(self, x)), "the result of forward differs"),
    (aspp_of(forward=nn.Module.forward), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_ASPP])
def test_aspp_rejects(answer, hints):
    assert_hint("aspp", answer, *hints)


# -------------------------------------------- deeplab_head, deeplab_head_plus


def head_block(in_channels, out_channels, kernel=1):
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class Head(nn.Module):
    """A student's decoder, with a place for each mistake."""

    block = staticmethod(head_block)
    projected = 48
    bias = True
    resize = {"mode": "bilinear", "align_corners": False}

    def __init__(self, in_channels, low_level_channels, num_classes, rates, channels):
        super().__init__()
        self.aspp = self.make_aspp(in_channels, channels, rates)
        self.project = self.make_project(low_level_channels)
        self.refine = self.make_refine(channels, self.beside(low_level_channels))
        self.classifier = nn.Conv2d(channels, self.classes(num_classes), 1, bias=self.bias)

    def make_aspp(self, in_channels, channels, rates):
        return models.ASPP(in_channels, channels, rates)

    def make_project(self, low_level_channels):
        return self.block(low_level_channels, self.projected)

    def make_refine(self, channels, beside):
        return nn.Sequential(self.block(channels + beside, channels, 3), self.block(channels, channels, 3))

    def beside(self, low_level_channels):
        return self.projected

    def classes(self, num_classes):
        return num_classes

    def forward(self, low_level, features):
        x = self.enlarge(self.aspp(features), low_level)
        return self.finish(self.classifier(self.refine(self.combine(x, self.project(low_level)))))

    def enlarge(self, x, low_level):
        return F.interpolate(x, size=low_level.shape[-2:], **self.resize)

    def combine(self, x, low):
        return torch.cat([x, low], 1)

    def finish(self, logits):
        return logits


class OwnASPP(models.ASPP):
    """As a student's: no other arguments."""

    def __init__(self, in_channels, out_channels, rates):
        super().__init__(in_channels, out_channels, rates)


class Flat(nn.Module):
    """Other order of registration, biases, ReLU in forward, one flat Sequential, a classifier in a Sequential."""

    def __init__(self, in_channels, low_level_channels, num_classes, rates, channels):
        super().__init__()
        self.classifier = nn.Sequential(nn.Conv2d(channels, num_classes, kernel_size=1))
        self.refine = nn.Sequential(
            nn.Conv2d(channels + 48, channels, 3, padding="same"),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding="same"),
            nn.BatchNorm2d(channels),
        )
        self.project = nn.Sequential(nn.Conv2d(low_level_channels, 48, 1), nn.BatchNorm2d(48))
        self.aspp = OwnASPP(in_channels, channels, rates)

    def forward(self, low_level, features):
        low = F.relu(self.project(low_level))
        up = nn.Upsample(size=low.shape[2:], mode="bilinear")
        return self.classifier(self.refine(torch.cat((up(self.aspp(features)), low), dim=1)).relu())


@pytest.mark.parametrize("answer", [Head, Flat])
def test_head_accepts(answer):
    assert_passes("deeplab_head_plus", answer)


def head(base=Head, **methods):
    return type("DeepLabHeadPlus", (base,), methods)


def without(*kinds):
    def block(in_channels, out_channels, kernel=1):
        return nn.Sequential(*[m for m in head_block(in_channels, out_channels, kernel) if not isinstance(m, kinds)])

    return block


class NoReLUInProject(Head):
    make_project = lambda self, low: without(nn.ReLU)(low, 48)  # noqa: E731


class Shrinks(Head):
    """Brings the low-level features to the size of the others."""

    def forward(self, low_level, features):
        x = self.aspp(features)
        low = F.interpolate(self.project(low_level), x.shape[-2:], mode="bilinear")
        return self.classifier(self.refine(torch.cat([x, low], 1)))


class RefinesFirst(Head):
    def make_refine(self, channels, beside):
        return nn.Sequential(self.block(channels, channels, 3), self.block(channels, channels, 3))

    def __init__(self, *given):
        super().__init__(*given)
        self.classifier = nn.Conv2d(given[4] + 48, given[2], 1)

    def forward(self, low_level, features):
        x = self.enlarge(self.refine(self.aspp(features)), low_level)
        return self.classifier(torch.cat([x, self.project(low_level)], 1))


class NotConcatenated(Head):
    """Layers as they should be; what they are given is not."""

    def forward(self, low_level, features):
        return self.classifier(self.refine(self.enlarge(self.aspp(features), low_level)))


class NotProjected(Head):
    def forward(self, low_level, features):
        x = self.enlarge(self.aspp(features), low_level)
        return self.classifier(self.refine(torch.cat([x, low_level], 1)))


class NotEnlarged(Head):
    def enlarge(self, x, low_level):
        return x


class Exchanged(Head):
    def forward(self, features, low_level):
        return super().forward(low_level, features)


class ExchangedChannels(Head):
    def __init__(self, low_level_channels, in_channels, *others):
        super().__init__(in_channels, low_level_channels, *others)


class SkipsSecond(Head):
    def forward(self, low_level, features):
        x = self.enlarge(self.aspp(features), low_level)
        return self.classifier(self.refine[0](torch.cat([x, self.project(low_level)], 1)))


class OtherASPP(models.ASPP):
    def branches(self, x):
        return [branch * 2 for branch in super().branches(x)]


def doubled(self, low_level, features):
    x = Head.forward(self, low_level, features)
    return F.interpolate(x, scale_factor=4)


def refine_once(self, channels, beside):
    return self.block(channels + beside, channels, 3)


def refine_one_by_one(self, channels, beside):
    return nn.Sequential(self.block(channels + beside, channels), self.block(channels, channels))


class ExtraDropout(Head):
    def make_refine(self, channels, beside):
        return super().make_refine(channels, beside).append(nn.Dropout(0.5))


class NormOnScores(Head):
    def __init__(self, *given):
        super().__init__(*given)
        self.classifier = nn.Sequential(self.classifier, nn.BatchNorm2d(given[2]))


class NormBehind(Head):
    """A batch norm that a check in evaluation mode would not see."""

    def __init__(self, *given):
        super().__init__(*given)
        self.last = nn.BatchNorm2d(given[2])

    def finish(self, logits):
        return self.last(logits)


class AlwaysEvaluates(Head):
    def forward(self, low_level, features):
        self.eval()
        return super().forward(low_level, features)


class SharedNorm(Head):
    def make_refine(self, channels, beside):
        first, second = super().make_refine(channels, beside)
        return nn.Sequential(first, nn.Sequential(second[0], first[1], second[2]))


def unpadded(in_channels, out_channels, kernel=1):
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel), nn.BatchNorm2d(out_channels), nn.ReLU())


def head_in_place(self, logits):
    weight = logits.sigmoid()
    weight *= logits
    return weight


WRONG_HEADS = [
    # what evaluation mode alone would not show
    (ExtraDropout, "there is a dropout outside aspp (Dropout)"),
    (
        head(finish=lambda self, x: F.dropout(x, 0.5, self.training)),
        "in training mode, with ASPP's dropout",
    ),
    (NormOnScores, "classifier holds BatchNorm2d"),
    (NormBehind, "in training mode, with ASPP's dropout off"),
    (AlwaysEvaluates, "or an eval()?"),
    (SharedNorm, "refine: it holds 1 nn.BatchNorm2d, expected 2 (one used twice counts once)"),
    (head(finish=head_in_place), "an operation in place"),
    (head(block=staticmethod(unpadded)), "do the 3x3 convolutions of refine lack padding=1?"),
    (head(combine=lambda self, x, low: torch.cat([x, low])), "joined along another axis than the channels"),
    (head(combine=lambda self, x, low: torch.cat([x, low], 2)), "joined along another axis than the channels"),
    (head(resize={"mode": "area"}), 'nearest value, as interpolate does by default: pass mode="bilinear"'),
    # enlargement
    (head(resize={"mode": "bicubic"}), "bicubic"),
    (NotEnlarged, "enlarge the ASPP's result"),
    (Shrinks, "(2, 5, 4, 6)", "expected (2, 5, 16, 24): the low-level features are shrunk"),
    (head(forward=doubled), "the logits stay at the low-level features' size"),
    # how the parts come together
    (head(combine=lambda self, x, low: x + low), "are the two parts added?"),
    (head(combine=lambda self, x, low: x + low.mean(1, keepdim=True)), "refine takes 6 + 48 channels"),
    (head(beside=lambda self, low: 0), "are the two parts added instead of concatenated, or"),
    (head(beside=lambda self, low: low), "are the low-level features concatenated without being projected?"),
    (RefinesFirst, "or is one refined before?"),
    (NotConcatenated, "refine takes 6 + 48 channels"),
    (NotProjected, "not projected"),
    (Exchanged, "the two arguments are exchanged"),
    (ExchangedChannels, "in_channels and low_level_channels are exchanged"),
    # layers
    (head(projected=32), "project gives 32 channels, expected 48"),
    (head(make_project=lambda self, low: nn.Conv2d(low, 48, 1)), "batch norm is missing in project"),
    (head(make_project=lambda self, low: self.block(low, 48, 3)), "project is to be a 1x1 convolution"),
    (NoReLUInProject, "ReLU is missing in project"),
    (head(block=staticmethod(without(nn.BatchNorm2d))), "batch norm is missing in project"),
    (head(make_refine=refine_once), "refine holds 1 convolutions", "expected 2"),
    (head(make_refine=refine_one_by_one), "3x3 convolution"),
    (SkipsSecond, "refine, second gets no gradient"),
    (head(classes=lambda self, k: 21), "21 is written by hand"),
    (head(bias=False), "the classifier has no bias"),
    (head(make_aspp=lambda self, c, out, rates: models.ASPP(c, out)), "rates [6, 12, 18]", "written by hand"),
    (head(make_aspp=lambda self, c, out, rates: models.ASPP(c, 256, rates)), "aspp.conv1 gives 256 channels"),
    (head(make_aspp=lambda self, c, out, rates: head_block(c, out)), "no `self.aspp.conv1`"),
    (head(make_aspp=lambda self, c, out, rates: OtherASPP(c, out, rates)), "has ASPP passed its own check?"),
    (head(make_project=lambda self, low: None), "no `self.project`"),
    # logits
    (head(finish=lambda self, x: x.argmax(1)), "leave the argmax out"),
    (head(finish=lambda self, x: x.detach()), "no gradient comes back"),
    (head(finish=lambda self, x: x * 1.01), "the logits for low-level features 16x24, features 4x6 differs"),
    (head(finish=lambda self, x: [x]), "forward returns a value of type list"),
    (head(forward=nn.Module.forward), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_HEADS])
def test_head_rejects(answer, hints):
    assert_hint("deeplab_head_plus", answer, *hints)


# ------------------------------------------------------------ step_lr, poly_lr


def step_by_loop(step, every, lr, gamma=0.1):
    for _ in range(step // every):
        lr *= gamma
    return lr


@pytest.mark.parametrize("answer", [step_by_loop, lambda s, n, lr, gamma=0.1: lr * math.pow(gamma, math.floor(s / n))])
def test_step_accepts(answer):
    assert_passes("step_lr", answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda s, n, lr, gamma=0.1: lr * gamma ** ((s - 1) // n), "step_lr(0, 10, 0.02) is 0.2, expected 0.02"),
        (lambda s, n, lr, gamma=0.1: lr * gamma ** round(s / n), "step_lr(9, 10, 0.02)"),
        (lambda s, n, lr, gamma=0.1: lr if s < n else lr * gamma, "it falls once"),
    ],
)
def test_step_rejects(answer, hint):
    assert_hint("step_lr", answer, hint)


def poly(step, steps, lr, power=0.9):
    return lr * ((steps - step) / steps) ** power


def poly_by_logarithm(step, steps, lr, power=0.9):
    left = torch.tensor(1 - step / steps, dtype=torch.float64)
    return (lr * torch.exp(power * left.log())).item()


def poly_of_logarithms(step, steps, lr, power=0.9):
    """Not defined behind the last step."""
    return lr * math.exp(power * math.log1p(-step / steps))


def poly_in_float32(step, steps, lr, power=0.9):
    return (lr * torch.linspace(1, 0, steps + 1)[step] ** power).item()


@pytest.mark.parametrize("answer", [poly, poly_by_logarithm, poly_of_logarithms, poly_in_float32])
def test_poly_accepts(answer):
    assert_passes("poly_lr", answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda s, n, lr, power=0.9: lr * (s / n) ** power, "the rate rises"),
        (lambda s, n, lr, power=0.9: lr * (1 - (s / n) ** power), "on the whole bracket"),
        (lambda s, n, lr, power=0.9: lr * (1 - (s + 1) / n) ** power, "one step ahead"),
        (lambda s, n, lr, power=0.9: lr * (1 - s / n) ** 0.9, "0.9 is written by hand"),
        (lambda s, n, lr, power=2.0: poly(s, n, lr, power), "poly_lr(30, 100, 0.02) is 0.0098, expected"),
        (lambda s, n, lr, power: poly(s, n, lr, power), "TypeError for poly_lr(0, 100, 0.02)"),
        (lambda s, n, lr, power=0.9: torch.tensor(poly(s, n, lr, power)), "`.item()`"),
    ],
)
def test_poly_rejects(answer, hint):
    assert_hint("poly_lr", answer, hint)


# ---------------------------------------------------------------- focal_loss


def focal(
    logits,
    target,
    gamma=2.0,
    ignore_index=255,
    *,
    weight=lambda p, gamma: (1 - p) ** gamma,
    p=lambda logits, labels: logits.softmax(1).gather(1, labels[:, None])[:, 0],
    nll=lambda p, ce: ce,
    mean=lambda losses, valid: losses[valid].sum() / valid.sum().clamp_min(1),
):
    valid = target != ignore_index
    labels = target.where(valid, torch.tensor(0))
    p_t = p(logits, labels)
    ce = F.cross_entropy(logits, labels, reduction="none")
    return mean(weight(p_t, gamma) * nll(p_t, ce), valid)


def focal_by_cross_entropy(logits, target, gamma=2.0, ignore_index=255):
    ce = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    return (1 - (-ce).exp()).pow(gamma).mul(ce).sum() / max(1, int((target != ignore_index).sum()))


def focal_of_pixels(logits, target, gamma=2.0, ignore_index=255):
    valid = target != ignore_index
    log_p = logits.movedim(1, -1)[valid].log_softmax(-1)[torch.arange(int(valid.sum())), target[valid]]
    if not valid.any():
        return (logits * 0).sum()
    return -(log_p * (1 - log_p.exp()) ** gamma).mean()


def focal_of_one_hot(logits, target, gamma=2.0, ignore_index=255):
    """The true class by a mask; void becomes a row of zeros; in float64."""
    log_p = logits.double() - logits.double().logsumexp(1, keepdim=True)
    classes = torch.arange(logits.shape[1])[None, :, None, None]
    valid = (target != ignore_index)[:, None]
    hit = (target[:, None] == classes) & valid
    losses = torch.where(hit, -log_p * (1 - log_p.exp()) ** gamma, 0.0)
    return losses.sum() / valid.sum().clamp_min(1)


@pytest.mark.parametrize("answer", [focal, focal_by_cross_entropy, focal_of_pixels, focal_of_one_hot])
def test_focal_accepts(answer):
    assert_passes("focal_loss", answer)


def changed(**parts):
    return lambda *given, **named: focal(*given, **named, **parts)


def picked(activation):
    return lambda logits, labels: activation(logits).gather(1, labels[:, None])[:, 0]


def multiplied_in_place(logits, target, gamma=2.0, ignore_index=255):
    """The right number, but p has changed before its gradient is asked for."""
    nll = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    p = torch.exp(-nll)
    losses = (1 - p) ** gamma * nll
    p *= 2
    return losses.sum() / (target != ignore_index).sum().clamp_min(1)


def zero_constant(logits, target, gamma=2.0, ignore_index=255):
    if (target == ignore_index).all():
        return torch.tensor(0.0)
    return focal(logits, target, gamma, ignore_index)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        # void and the mean
        (changed(mean=lambda losses, valid: (losses * valid).mean()), "void pixels are counted in the mean"),
        (changed(mean=lambda losses, valid: losses[valid].mean()), "a batch of void alone gives nan, expected 0"),
        (zero_constant, "void alone gives a loss without a gradient"),
        (
            lambda logits, target, gamma=2.0, ignore_index=255: logits.softmax(1).gather(1, target[:, None]).mean(),
            "void (255) is used as a class index",
        ),
        # the weight
        (changed(weight=lambda p, gamma: p**gamma), "p_t ** gamma favours easy"),
        (changed(weight=lambda p, gamma: 0.25 * (1 - p) ** gamma), "the paper's alpha"),
        # p_t
        (changed(p=picked(torch.sigmoid)), "p_t comes from a sigmoid"),
        # gradients
        (multiplied_in_place, "an operation in place"),
        (lambda logits, target, **named: focal(logits.sub_(1.0), target, **named), "changes the logits in place"),
        (changed(weight=lambda p, gamma: torch.from_numpy(np.exp(p))), "NumPy knows no gradients"),
        (lambda *given, **named: focal(*given, **named).item(), "expected a torch tensor"),
        (lambda *given, **named: focal(*given, **named).view(1), "has shape (1,), expected ()"),
    ],
)
def test_focal_rejects(answer, hint):
    assert_hint("focal_loss", answer, hint)


# ----------------------------------------------- looked_at, dilate, cut_encoder


def look_by_backward(network, images):
    x = images.clone().requires_grad_()
    logits = network(x)
    logits[:, :, logits.shape[2] // 2, logits.shape[3] // 2].max(1).values.sum().backward()
    network.zero_grad()
    return x.grad.abs().sum(0).sum(0)


def look_one_by_one(network, images):
    total = 0
    for image in images:
        x = image[None].clone().requires_grad_()
        scores = network(x)[0, :, x.shape[2] // 2, x.shape[3] // 2]
        total = total + torch.autograd.grad(scores[scores.argmax()], x)[0][0].abs().sum(0)
    return total


@pytest.mark.parametrize("answer", [look_by_backward, look_one_by_one])
def test_look_accepts(answer):
    assert_passes("looked_at", answer)


def keeps_gradients(network, images):
    x = images.clone().requires_grad_()
    network(x)[..., x.shape[2] // 2, x.shape[3] // 2].amax(1).sum().backward()
    return x.grad.abs().sum((0, 1))


def without_a_gradient(network, images):
    return torch.autograd.grad(network(images)[..., 4, 4].amax(1).sum(), images)[0].abs().sum((0, 1))


def of_many(network, images):
    x = images.clone().requires_grad_()
    return torch.autograd.grad(network(x)[..., 4, 4].amax(1), x)[0].abs().sum((0, 1))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (keeps_gradients, "leaves gradients in the network's weights"),
        (without_a_gradient, "requires_grad_()"),
        (of_many, "add up the scores of all images"),
        (lambda network, images: look_by_backward(network, images)[None, None], "expected (H, W)"),
        (lambda network, images: look_by_backward(network, images).T, "axes in another order"),
    ],
)
def test_look_rejects(answer, hint):
    assert_hint("looked_at", answer, hint)


def dilate_by_name(stage):
    """Of torchvision's blocks the convolution with the stride has a name."""
    for number, block in enumerate(stage):
        strided = block.conv2 if hasattr(block, "conv3") else block.conv1
        for conv in (block.conv1, block.conv2):
            if conv.kernel_size == (3, 3) and (number > 0 or conv is not strided):
                conv.dilation = conv.padding = (2, 2)
        strided.stride = (1, 1)
        if block.downsample is not None:
            block.downsample[0].stride = (1, 1)
    return stage


def test_dilate_accepts():
    assert_passes("dilate", dilate_by_name)


def shortcut_keeps_its_stride(stage):
    shortcut = stage[0].downsample[0]
    dilate_by_name(stage)
    shortcut.stride = (2, 2)
    return stage


def unpadded_stage(stage):
    for conv in (m for m in dilate_by_name(stage).modules() if isinstance(m, nn.Conv2d)):
        conv.padding = (conv.kernel_size[0] // 2,) * 2
    return stage


def dilate_from_second_block(stage):
    """As torchvision does it, where only ResNets with bottlenecks are dilated."""
    dilate_by_name(stage)
    stage[0].conv2.dilation = stage[0].conv2.padding = (1, 1)
    return stage


def new_weights(stage):
    nn.init.zeros_(dilate_by_name(stage)[1].conv2.weight)
    return stage


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (shortcut_keeps_its_stride, "maps of different sizes"),
        (unpadded_stage, "padding must equal the rate"),
        (dilate_from_second_block, "the first block keeps rate 1 throughout"),
        (new_weights, "the weights are others afterwards"),
        (lambda stage: stage, "still halves the map"),
        (lambda stage: nn.Sequential(*dilate_by_name(stage)), "change the stage that is given"),
        (lambda stage: None, "not written yet"),
    ],
)
def test_dilate_rejects(answer, hint):
    assert_hint("dilate", answer, hint)


class Cut(nn.Module):
    """The parts of the stem one by one."""

    parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2")

    def __init__(self, encoder):
        super().__init__()
        for name in self.parts:
            setattr(self, name, getattr(encoder, name))
        self.channels = list(encoder.channels[:2])

    def forward(self, images):
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        return x, self.layer2(x)


class KeepsAll(Cut):
    parts = (*Cut.parts, "layer3")


class Borrows(nn.Module):
    """Hides the encoder in a list, so that its weights are nobody's."""

    def __init__(self, encoder):
        super().__init__()
        self.hidden, self.channels = [encoder], encoder.channels[:2]

    def forward(self, images):
        return self.hidden[0](images)[:2]


def cut(base=Cut, **methods):
    return type("CutEncoder", (base,), methods)


def test_cut_accepts():
    assert_passes("cut_encoder", Cut)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (KeepsAll, "it still holds the third or fourth stage"),
        (Borrows, "weights of the front part are missing"),
        (cut(channels=property(lambda self: (4, 8, 16), lambda self, value: None)), "expected (4, 8)"),
        (cut(forward=lambda self, images: Cut.forward(self, images)[1]), "return the list [stride 4, stride 8]"),
    ],
)
def test_cut_rejects(answer, hint):
    assert_hint("cut_encoder", answer, hint)


# --------------------------------------------------- deeplab_head, deeplab_v3plus


class V3Head(nn.Module):
    """Layers in other containers, ReLU in forward."""

    def __init__(self, in_channels, num_classes, rates, channels):
        super().__init__()
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.refine = nn.Sequential(nn.Conv2d(channels, channels, 3, padding="same"), nn.BatchNorm2d(channels))
        self.aspp = models.ASPP(in_channels, channels, rates)

    def forward(self, features):
        return self.finish(self.classifier(self.refine(self.aspp(features)).relu()))

    def finish(self, logits):
        return logits


def v3_head(**methods):
    return type("DeepLabHead", (V3Head,), methods)


def test_v3_head_accepts():
    assert_passes("deeplab_head", V3Head)


class RefinesTwice(V3Head):
    def __init__(self, in_channels, num_classes, rates, channels):
        super().__init__(in_channels, num_classes, rates, channels)
        self.refine = nn.Sequential(head_block(channels, channels, 3), head_block(channels, channels, 3))


class WideKernel(V3Head):
    def __init__(self, in_channels, num_classes, rates, channels):
        super().__init__(in_channels, num_classes, rates, channels)
        self.refine = head_block(channels, channels, 1)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (v3_head(forward=lambda self, x: self.classifier(self.aspp(x))), "refine gets no gradient"),
        (v3_head(finish=lambda self, x: F.interpolate(x, scale_factor=16)), "the network enlarges them"),
        (v3_head(finish=lambda self, x: x.argmax(1)), "leave the argmax out"),
        (RefinesTwice, "refine holds 2 convolutions"),
        (WideKernel, "refine is to be a 3x3 convolution"),
    ],
)
def test_v3_head_rejects(answer, hint):
    assert_hint("deeplab_head", answer, hint)


class Network(nn.Module):
    def __init__(self, encoder, num_classes, rates, channels):
        super().__init__()
        self.encoder = encoder
        self.head = Head(encoder.channels[-1], encoder.channels[0], num_classes, rates, channels)

    def forward(self, images):
        features = self.encoder(images)
        return nn.Upsample(images.shape[2:], mode="bilinear")(self.head(features[0], features[-1]))


def network(**methods):
    return type("DeepLabV3Plus", (Network,), methods)


def test_network_accepts():
    assert_passes("deeplab_v3plus", Network)


def four_features(self, images):
    features = self.encoder(images)
    return F.interpolate(self.head(features[0], features[3]), images.shape[2:], mode="bilinear")


class Copies(Network):
    def __init__(self, encoder, *rest):
        super().__init__(encoder, *rest)
        self.encoder = nn.Sequential(encoder)


class Exchanged(Network):
    def __init__(self, encoder, num_classes, rates, channels):
        super().__init__(encoder, num_classes, rates, channels)
        self.head = Head(encoder.channels[0], encoder.channels[-1], num_classes, rates, channels)


class RatesByHand(Network):
    def __init__(self, encoder, num_classes, rates, channels):
        super().__init__(encoder, num_classes, tuple(range(1, len(rates) + 1)), channels)


class NoHead(Network):
    def __init__(self, *given):
        super().__init__(*given)
        self.decoder = self.head
        del self.head


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (network(forward=lambda self, x: self.head(self.encoder(x)[0], self.encoder(x)[3])), "images.shape[-2:]"),
        (network(forward=lambda self, x: self.head(self.encoder(x)[0], self.encoder(x)[2])), "other features than the"),
        (
            network(forward=lambda self, x: self.head(self.encoder(x)[1], self.encoder(x)[3])),
            "other low-level features",
        ),
        (network(forward=lambda self, x: Network.forward(self, x).softmax(1)), "a softmax inside forward"),
        (network(forward=four_features), "may have fewer than four features"),
        (Copies, "self.encoder = encoder"),
        (NoHead, "it has no `self.head`"),
        (Exchanged, "channels[0] and channels[-1] are exchanged"),
        (RatesByHand, "have the rates [1, 2], expected [2, 1]"),
    ],
)
def test_network_rejects(answer, hint):
    assert_hint("deeplab_v3plus", answer, hint)


# ------------------------------------------------------------------ own_loss


def soft_iou(logits, target):
    valid = (target != 255)[:, None]
    truth = F.one_hot(torch.where(valid[:, 0], target, 0), logits.shape[1]).movedim(3, 1) * valid
    p = logits.softmax(1) * valid
    both, predicted, true = (x.sum((0, 2, 3)) for x in (p * truth, p, truth))
    iou = (both + 1) / (predicted + true - both + 1)
    return F.cross_entropy(logits, target, ignore_index=255) + 1 - iou[true > 0].mean()


@pytest.mark.parametrize(
    "answer",
    [
        soft_iou,
        lambda logits, target: F.cross_entropy(logits, target, torch.linspace(0.1, 3, 21), ignore_index=255),
        lambda logits, target: F.cross_entropy(logits, target, ignore_index=255, label_smoothing=0.1),
    ],
)
def test_own_loss_accepts(answer):
    assert_passes("own_loss", answer)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda logits, target: F.cross_entropy(logits, target.clamp_max(20)), "void pixels (255) count"),
        (lambda logits, target: F.cross_entropy(logits, target), "void (255)"),
        (lambda logits, target: -soft_iou(logits, target), "is the sign wrong?"),
        (
            lambda logits, target: F.nll_loss(logits.softmax(1).log(), target, ignore_index=255),
            "for logits of -300 on the true class it is inf",
        ),
        (
            lambda logits, target: F.cross_entropy(logits.argmax(1)[:, None].float(), target * 0),
            "no gradient comes back",
        ),
        (lambda logits, target: F.cross_entropy(logits, target, ignore_index=255, reduction="none"), "shape"),
        (lambda logits, target: soft_iou(logits, target).item(), "a Python float"),
    ],
)
def test_own_loss_rejects(answer, hint):
    assert_hint("own_loss", answer, hint)
