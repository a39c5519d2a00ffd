"""The check of ASPP accepts modules written in different ways and names the mistake of wrong ones."""

import pytest
import torch
from judging import assert_hint, assert_passes
from torch import nn
from torch.nn import functional


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
        return functional.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=False)

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
        views = [functional.relu(self.conv1(x))]
        for branch in self.atrous_convs:
            views.append(branch(x).relu_())
        views.append(self.global_avg_pool(x))
        return functional.relu(self.conv_out(torch.cat(views, dim=1)))


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
        return dropout(relu(norm(functional.conv2d(self.combine(self.views(x)), conv.weight, conv.bias))))


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


def variant(base=ASPP, **methods):
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


class PoolsFirst(ASPP):
    def views(self, x):
        *views, pooled = super().views(x)
        return [pooled, *views]


class Detaches(ASPP):
    def views(self, x):
        *views, pooled = super().views(x)
        return [*views, pooled.detach()]


class PoolsAfter(ASPP):
    def __init__(self, *given):
        super().__init__(*given)
        pool, *layers = self.global_avg_pool
        self.global_avg_pool = nn.Sequential(*layers, pool)


class NoReLUInPooling(ASPP):
    def __init__(self, *given):
        super().__init__(*given)
        del self.global_avg_pool[-1]


class NoReLUInSecond(ASPP):
    def __init__(self, *given):
        super().__init__(*given)
        del self.atrous_convs[1][-1]


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
        return functional.dropout(ASPP.forward(self, x), 0.1, self.training)


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


WRONG = [
    # layers that are shared, or not there yet
    (variant(branches=lambda self, c, out, rates: [self.atrous(c, out, 1)] * len(rates)), "share one convolution"),
    (SharesBatchNorm, "conv1 and atrous_convs[0] share one batch norm"),
    (SharesConvolution, "conv1 and global_avg_pool share one convolution"),
    (ModuleLists, "atrous_convs[0] is an nn.ModuleList, which cannot be called"),
    (variant(block=staticmethod(lazy)), "conv1 holds LazyConv2d"),
    (LosesItself, "return self"),
    (ChangesInPlace, "an operation in place"),
    (PadsOneByOne, "the branches differ in size, each is to be 16x14", "1x1 convolutions have no padding"),
    (variant(__init__=lambda self, c, out, rates: ASPP.__init__(self, out, c, rates)), "in and out are exchanged"),
    (PoolsChannels, "something else than x (pooling: than its mean over height and width)"),
    (PoolsTheBatch, "one branch has a batch of one"),
    (variant(forward=lambda self, x: self.combine(self.views(x))), "is conv_out left out?"),
    (variant(combine=lambda self, views: views), "conv2d() received an invalid combination"),
    # convolutions
    (variant(block=sizes(padding=1)), "atrous_convs[1] is 14x12, expected 16x14: is padding equal to the rate?"),
    (variant(block=sizes(padding=0)), "atrous_convs[0] is 14x12, expected 16x14: is padding equal to the rate?"),
    (variant(block=sizes(dilation=1)), "rates [1, 1, 1], expected [1, 2, 3]: dilation is missing"),
    (variant(block=sizes(dilation=1, padding=1)), "dilation is missing"),
    (variant(branches=hard_coded_branches), "rates [6, 12, 18]", "written by hand"),
    (variant(branches=reversed_branches), "rates [3, 2, 1]", "keep the order"),
    (variant(branches=sorted_branches), "rates [1, 2, 4, 6], expected [4, 1, 6, 2]", "keep the order"),
    (variant(branches=lambda self, *given: ASPP.branches(self, *given)[:3]), "3 branches, expected 4", "by hand"),
    (variant(branches=lambda self, *given: ASPP.branches(self, *given)[1:]), "2 branches, expected 3"),
    (variant(atrous=lambda self, c, out, rate: self.block(c, out)), "3x3 convolution", "found kernel (1, 1)"),
    (variant(branches=chained_branches), "chained behind another branch"),
    (variant(block=staticmethod(two_convs)), "conv1 holds 2 convolutions"),
    # batch norm and ReLU
    (variant(block=block_of("conv", "relu")), "batch norm is missing in conv1: it holds no"),
    (variant(last=block_of("conv", "relu")), "batch norm is missing in conv_out: it holds no"),
    (variant(block=staticmethod(norm_first)), "batch norm of conv1 has 6 channels"),
    (variant(block=block_of("conv", "norm")), "ReLU is missing in conv1"),
    (variant(last=block_of("conv", "norm")), "ReLU is missing in conv_out"),
    (variant(ByHand, last=block_of("conv", "relu", "norm")), "ReLU comes before batch norm in conv_out"),
    (variant(block=block_of("conv", "relu", "norm")), "ReLU comes before batch norm in conv1"),
    (NoReLUInPooling, "ReLU is missing in global_avg_pool"),
    (NoReLUInSecond, "ReLU is missing in atrous_convs[1]"),
    # pooling
    (variant(pool=nn.AdaptiveMaxPool2d), "takes the maximum over the map: take the mean"),
    (variant(pool=staticmethod(lambda size: nn.Identity())), "does not pool"),
    (PoolsAfter, "pools last"),
    (variant(enlarge=lambda self, pooled, x: pooled), "the pooling branch is not enlarged", "16x14"),
    (
        variant(enlarge=lambda self, pooled, x: functional.interpolate(pooled, (x.shape[3], x.shape[2]))),
        "the branches differ in size",
    ),
    (SkipsPooling, "16 channels, those of 4 of the 5 branches"),
    # how the branches come together
    (variant(combine=lambda self, views: sum(views)), "4 channels, those of one branch: are the branches added?"),
    (variant(combine=lambda self, views: torch.cat(views)), "4 channels, those of one branch", "torch.cat([...], 1)"),
    (variant(concatenated=lambda self, c, out, rates: out), "are the branches added?"),
    (variant(concatenated=lambda self, c, out, rates: 1280), "conv_out takes 1280 channels", "written by hand"),
    (variant(concatenated=lambda self, c, out, rates: 5 * out), "conv_out takes 15 channels, expected 18: 5 branches"),
    (variant(concatenated=lambda self, c, out, rates: (1 + len(rates)) * out), "one of the 5 branches is forgotten"),
    (variant(concatenated=lambda self, c, out, rates: len(rates) * out), "conv1 and the pooling branch count"),
    (variant(container=list), "a Python list hides its layers"),
    (variant(container=staticmethod(lambda branches: nn.Sequential(*branches))), "one after another"),
    (Chained, "are the branches chained one after another?"),
    (ForgetsABranch, "atrous_convs[1] gets no gradient"),
    (Detaches, "global_avg_pool gets no gradient"),
    (PoolsFirst, "in the order global_avg_pool, conv1, atrous_convs[0]"),
    (variant(views=lambda self, x: ASPP.views(self, x)[::-1]), "in the order global_avg_pool, atrous_convs[2]"),
    # dropout
    (variant(dropout=nn.Identity), "no layer nn.Dropout"),
    (FunctionalDropout, "no layer nn.Dropout"),
    (UnusedDropout, "dropout is not used at the end"),
    (variant(dropout=nn.Dropout), "p=0.5, expected 0.1"),
    (variant(dropout=lambda self: nn.Dropout2d(0.1)), "it has Dropout2d"),
    (DropoutFirst, "dropout is not used at the end"),
    (DropoutEverywhere, "there are 2 dropouts"),
    # the rest
    (OtherNames, "no `self.global_avg_pool`"),
    (PlainFunction, "global_avg_pool is a value of type function"),
    (FrozenStatistics, "dropout is not used"),
    (variant(forward=lambda self, x: ASPP.forward(self, x).mean((2, 3))), "shape (2, 4) for x (2, 6, 16, 14)"),
    (variant(forward=lambda self, x: ASPP.forward(self, x).detach()), "no gradient comes back"),
    (variant(forward=lambda self, x: ASPP.forward(self, x.relu_())), "in place"),
    (variant(forward=lambda self, x: ASPP.forward(self, 2 * x)), "what conv_out is given of conv1 differs"),
    (variant(forward=lambda self, x: 2 * ASPP.forward(self, x)), "the result of forward differs"),
    (variant(forward=nn.Module.forward), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG])
def test_aspp_rejects(answer, hints):
    assert_hint("aspp", answer, *hints)
