"""The check of DeepLabV3+'s decoder accepts heads written in different ways and names the mistake of others."""

import pytest
import torch
from judging import assert_hint, assert_passes
from torch import nn
from torch.nn import functional

from labhelpers.models import ASPP


def conv_bn_relu(in_channels, out_channels, kernel=1):
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class Head(nn.Module):
    """A student's decoder, with a place for each mistake."""

    block = staticmethod(conv_bn_relu)
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
        return ASPP(in_channels, channels, rates)

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
        return functional.interpolate(x, size=low_level.shape[-2:], **self.resize)

    def combine(self, x, low):
        return torch.cat([x, low], 1)

    def finish(self, logits):
        return logits


class OwnASPP(ASPP):
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
        low = functional.relu(self.project(low_level))
        up = nn.Upsample(size=low.shape[2:], mode="bilinear")
        return self.classifier(self.refine(torch.cat((up(self.aspp(features)), low), dim=1)).relu())


@pytest.mark.parametrize("answer", [Head, Flat])
def test_head_accepts(answer):
    assert_passes("deeplab_head_plus", answer)


def variant(base=Head, **methods):
    return type("DeepLabHeadPlus", (base,), methods)


def scaled(self, x, low_level):
    return functional.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)


def scaled_and_cropped(self, x, low_level):
    return scaled(self, x, low_level)[..., : low_level.shape[2], : low_level.shape[3]]


def without(*kinds):
    def block(in_channels, out_channels, kernel=1):
        return nn.Sequential(*[m for m in conv_bn_relu(in_channels, out_channels, kernel) if not isinstance(m, kinds)])

    return block


class NoReLUInProject(Head):
    make_project = lambda self, low: without(nn.ReLU)(low, 48)  # noqa: E731


class Shrinks(Head):
    """Brings the low-level features to the size of the others."""

    def forward(self, low_level, features):
        x = self.aspp(features)
        low = functional.interpolate(self.project(low_level), x.shape[-2:], mode="bilinear")
        return self.classifier(self.refine(torch.cat([x, low], 1)))


class EnlargesFirst(Head):
    def forward(self, low_level, features):
        x = self.aspp(self.enlarge(features, low_level))
        return self.classifier(self.refine(torch.cat([x, self.project(low_level)], 1)))


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


class OtherASPP(ASPP):
    def branches(self, x):
        return [branch * 2 for branch in super().branches(x)]


def doubled(self, low_level, features):
    x = Head.forward(self, low_level, features)
    return functional.interpolate(x, scale_factor=4)


def last_without_relu(self, channels, beside):
    return nn.Sequential(self.block(channels + beside, channels, 3), without(nn.ReLU)(channels, channels, 3))


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


def in_place(self, logits):
    weight = logits.sigmoid()
    weight *= logits
    return weight


WRONG = [
    # what evaluation mode alone would not show
    (ExtraDropout, "there is a dropout outside aspp (Dropout)"),
    (
        variant(finish=lambda self, x: functional.dropout(x, 0.5, self.training)),
        "in training mode, with ASPP's dropout",
    ),
    (NormOnScores, "classifier holds BatchNorm2d"),
    (NormBehind, "in training mode, with ASPP's dropout off"),
    (AlwaysEvaluates, "or an eval()?"),
    (SharedNorm, "refine: it holds 1 nn.BatchNorm2d, expected 2 (one used twice counts once)"),
    (variant(finish=in_place), "an operation in place"),
    (variant(block=staticmethod(unpadded)), "do the 3x3 convolutions of refine lack padding=1?"),
    (variant(combine=lambda self, x, low: torch.cat([x, low])), "joined along another axis than the channels"),
    (variant(combine=lambda self, x, low: torch.cat([x, low], 2)), "joined along another axis than the channels"),
    (variant(resize={"mode": "area"}), 'nearest value, as interpolate does by default: pass mode="bilinear"'),
    # enlargement
    (variant(resize={"mode": "bilinear", "align_corners": True}), "align_corners=True"),
    (variant(resize={}), "nearest value"),
    (variant(resize={"mode": "bicubic"}), "bicubic"),
    (variant(enlarge=scaled), "17x25 with size=low_level.shape[-2:]; scale_factor=4 misses it"),
    (variant(enlarge=scaled_and_cropped), "enlarges 4 times and crops"),
    (NotEnlarged, "enlarge the ASPP's result"),
    (EnlargesFirst, "enlarged before ASPP"),
    (Shrinks, "(2, 5, 4, 6)", "expected (2, 5, 16, 24): the low-level features are shrunk"),
    (variant(forward=doubled), "the logits stay at the low-level features' size"),
    # how the parts come together
    (variant(combine=lambda self, x, low: torch.cat([low, x], 1)), "in the order the projected low-level"),
    (variant(combine=lambda self, x, low: x + low), "are the two parts added?"),
    (variant(combine=lambda self, x, low: x + low.mean(1, keepdim=True)), "refine takes 6 + 48 channels"),
    (variant(beside=lambda self, low: 0), "are the two parts added instead of concatenated, or"),
    (variant(beside=lambda self, low: low), "are the low-level features concatenated without being projected?"),
    (RefinesFirst, "or is one refined before?"),
    (NotConcatenated, "refine takes 6 + 48 channels"),
    (NotProjected, "not projected"),
    (Exchanged, "the two arguments are exchanged"),
    (ExchangedChannels, "in_channels and low_level_channels are exchanged"),
    # layers
    (variant(projected=32), "project gives 32 channels, expected 48"),
    (variant(make_project=lambda self, low: nn.Conv2d(low, 48, 1)), "batch norm is missing in project"),
    (variant(make_project=lambda self, low: self.block(low, 48, 3)), "project is to be a 1x1 convolution"),
    (NoReLUInProject, "ReLU is missing in project"),
    (variant(block=staticmethod(without(nn.BatchNorm2d))), "batch norm is missing in project"),
    (variant(make_refine=refine_once), "refine holds 1 convolutions", "expected 2"),
    (variant(make_refine=refine_one_by_one), "3x3 convolution"),
    (variant(make_refine=last_without_relu), "ReLU is missing in refine"),
    (SkipsSecond, "refine, second gets no gradient"),
    (variant(classes=lambda self, k: 21), "21 is written by hand"),
    (variant(bias=False), "the classifier has no bias"),
    (variant(make_aspp=lambda self, c, out, rates: ASPP(c, out)), "rates [6, 12, 18]", "written by hand"),
    (variant(make_aspp=lambda self, c, out, rates: ASPP(c, 256, rates)), "aspp.conv1 gives 256 channels"),
    (variant(make_aspp=lambda self, c, out, rates: conv_bn_relu(c, out)), "no `self.aspp.conv1`"),
    (variant(make_aspp=lambda self, c, out, rates: OtherASPP(c, out, rates)), "has ASPP passed its own check?"),
    (variant(make_project=lambda self, low: None), "no `self.project`"),
    # logits
    (variant(finish=lambda self, x: x.relu()), "ReLU on the logits"),
    (variant(finish=lambda self, x: x.softmax(1)), "softmax inside forward"),
    (variant(finish=lambda self, x: x.log_softmax(1)), "log_softmax inside forward"),
    (variant(finish=lambda self, x: x.argmax(1)), "leave the argmax out"),
    (variant(finish=lambda self, x: x.detach()), "no gradient comes back"),
    (variant(finish=lambda self, x: x * 1.01), "the logits for low-level features 16x24, features 4x6 differs"),
    (variant(finish=lambda self, x: [x]), "forward returns a value of type list"),
    (variant(forward=nn.Module.forward), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG])
def test_head_rejects(answer, hints):
    assert_hint("deeplab_head_plus", answer, *hints)
