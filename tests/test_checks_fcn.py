"""The checks of the FCN classes accept networks written in different ways and name the mistake of wrong ones."""

import pytest
import torch
from judging import assert_hint, assert_passes
from torch import nn
from torch.nn import functional


def bilinear(channels, kernel, stride, padding, **options):
    layer = nn.ConvTranspose2d(channels, channels, kernel, stride, padding, **options)
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    centre = (kernel - 1) / 2
    tent = 1 - (torch.arange(kernel) - centre).abs() / stride
    with torch.no_grad():
        for c in range(channels):
            layer.weight[c, c] = tent[:, None] * tent
    return layer


def crop(x, like):
    return x[..., : like.shape[2], : like.shape[3]]


class FCN8s(nn.Module):
    """A student's network, with a place for each mistake."""

    up = staticmethod(bilinear)
    fit = staticmethod(crop)
    padding = (1, 1, 4)

    def __init__(self, encoder, num_classes):
        super().__init__()
        self.encoder = encoder
        self.make_scores(encoder, num_classes)
        self.upscore2 = self.up(num_classes, 4, 2, self.padding[0], bias=False)
        self.upscore_pool4 = self.up(num_classes, 4, 2, self.padding[1], bias=False)
        self.upscore8 = self.up(num_classes, 16, 8, self.padding[2], bias=False)

    def make_scores(self, encoder, num_classes):
        self.score_fr = nn.Conv2d(encoder.channels[3], num_classes, 1)
        self.score_pool4 = nn.Conv2d(encoder.channels[2], num_classes, 1)
        self.score_pool3 = nn.Conv2d(encoder.channels[1], num_classes, 1)

    def forward(self, images):
        _, f8, f16, f32 = self.encoder(images)
        x = self.fit(self.upscore2(self.score_fr(f32)), f16) + self.score_pool4(f16)
        x = self.fit(self.upscore_pool4(x), f8) + self.score_pool3(f8)
        return self.finish(self.fit(self.upscore8(x), images))

    def finish(self, logits):
        return logits


def stages(encoder, images):
    """The features without calling the encoder as a whole."""
    x = encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(images))))
    for name in ("layer1", "layer2", "layer3", "layer4"):
        x = getattr(encoder, name)(x)
        yield x


class Paper8s(nn.Module):
    """As in the paper's code: no padding but crops, layers with a bias, features from the encoder's stages."""

    def __init__(self, encoder, num_classes):
        super().__init__()
        self.encoder = encoder
        _, c8, c16, c32 = encoder.channels
        self.score_pool3, self.score_pool4, self.score_fr = (nn.Conv2d(c, num_classes, 1) for c in (c8, c16, c32))
        self.upscore2, self.upscore_pool4 = (bilinear(num_classes, 4, 2, 0) for _ in range(2))
        self.upscore8 = bilinear(num_classes, 16, 8, 0)

    def forward(self, images):
        _, pool3, pool4, last = stages(self.encoder, images)
        x = self.upscore2(self.score_fr(last))[:, :, 1:, 1:]
        x = self.score_pool4(pool4).add(crop(x, pool4))
        x = self.upscore_pool4(x)[:, :, 1:, 1:]
        x = self.score_pool3(pool3).add(crop(x, pool3))
        return crop(self.upscore8(x)[:, :, 4:, 4:], images)


class Padded8s(FCN8s):
    """Pads the image to a multiple of 32 instead of cropping on the way."""

    fit = staticmethod(lambda x, like: x)

    def forward(self, images):
        height, width = images.shape[2:]
        return super().forward(functional.pad(images, (0, -width % 32, 0, -height % 32)))[:, :, :height, :width]


class PadsTheSkips(FCN8s):
    """Grows the skips to the size of what is enlarged, and crops once at the end."""

    def forward(self, images):
        def add(x, skip):
            return x + functional.pad(skip, (0, x.shape[3] - skip.shape[3], 0, x.shape[2] - skip.shape[2]))

        _, f8, f16, f32 = self.encoder(images)
        x = add(self.upscore2(self.score_fr(f32)), self.score_pool4(f16))
        x = add(self.upscore_pool4(x), self.score_pool3(f8))
        return crop(self.upscore8(x), images)


@pytest.mark.parametrize("answer", [FCN8s, Paper8s, Padded8s, PadsTheSkips])
def test_fcn8s_accepts(answer):
    assert_passes("fcn8s", answer)


def scores(fr, pool4, pool3):
    """A make_scores with these numbers of channels: given numbers, or indices into encoder.channels below 4."""

    def make_scores(self, encoder, num_classes):
        numbers = [encoder.channels[c] if c < 4 else c for c in (fr, pool4, pool3)]
        self.score_fr, self.score_pool4, self.score_pool3 = (nn.Conv2d(c, num_classes, 1) for c in numbers)

    return make_scores


def variant(**methods):
    return type("FCN8s", (FCN8s,), methods)


def random_up(channels, *sizes, **options):
    return nn.ConvTranspose2d(channels, channels, *sizes, **options)


def every_pair(channels, *sizes, **options):
    layer = bilinear(channels, *sizes, **options)
    with torch.no_grad():
        layer.weight.copy_(layer.weight[0, 0].clone().expand_as(layer.weight))
    return layer


def sum_one(channels, *sizes, **options):
    layer = bilinear(channels, *sizes, **options)
    with torch.no_grad():
        layer.weight /= layer.weight[0, 0].sum()
    return layer


def centre(x, like):
    top, left = (x.shape[2] - like.shape[2]) // 2, (x.shape[3] - like.shape[3]) // 2
    return crop(x[:, :, top:, left:], like)


def resized(x, like):
    return functional.interpolate(x, like.shape[2:], mode="bilinear")


class Concatenates(FCN8s):
    def __init__(self, encoder, num_classes):
        super().__init__(encoder, num_classes)
        self.upscore_pool4 = nn.ConvTranspose2d(2 * num_classes, num_classes, 4, 2, 1)

    def forward(self, images):
        _, _, f16, f32 = self.encoder(images)
        return self.upscore_pool4(torch.cat([self.upscore2(self.score_fr(f32)), self.score_pool4(f16)], 1))


class SwappedUp(FCN8s):
    def forward(self, images):
        _, f8, f16, f32 = self.encoder(images)
        x = crop(self.upscore_pool4(self.score_fr(f32)), f16) + self.score_pool4(f16)
        return crop(self.upscore8(crop(self.upscore2(x), f8) + self.score_pool3(f8)), images)


class NoPool4(FCN8s):
    def forward(self, images):
        _, f8, f16, f32 = self.encoder(images)
        x = crop(self.upscore2(self.score_fr(f32)), f16)
        return crop(self.upscore8(crop(self.upscore_pool4(x), f8) + self.score_pool3(f8)), images)


class AddsTooEarly(FCN8s):
    def forward(self, images):
        _, f8, f16, f32 = self.encoder(images)
        x = self.upscore2(self.score_fr(f32) + self.score_pool4(f16))
        return self.upscore8(self.upscore_pool4(x) + self.score_pool3(f8))


class InterpolatesAtTheEnd(FCN8s):
    def forward(self, images):
        _, f8, f16, f32 = self.encoder(images)
        x = crop(self.upscore2(self.score_fr(f32)), f16) + self.score_pool4(f16)
        return resized(crop(self.upscore_pool4(x), f8) + self.score_pool3(f8), images)


class StopsAtStride8(FCN8s):
    def forward(self, images):
        _, f8, f16, f32 = self.encoder(images)
        x = crop(self.upscore2(self.score_fr(f32)), f16) + self.score_pool4(f16)
        return crop(self.upscore_pool4(x), f8) + self.score_pool3(f8)


class WrongFeatures(FCN8s):
    def forward(self, images):
        _, f16, f8, f32 = self.encoder(images)
        return self.upscore2(self.score_fr(f32)) + self.score_pool4(f16) + self.score_pool3(f8)


class ThreeFeatures(FCN8s):
    def forward(self, images):
        f8, f16, f32 = self.encoder(images)


class NoGrad(FCN8s):
    @torch.no_grad()
    def forward(self, images):
        return super().forward(images)


class FrozenEncoder(FCN8s):
    def __init__(self, encoder, num_classes):
        super().__init__(encoder, num_classes)
        encoder.requires_grad_(False)


class Backbone(FCN8s):
    def __init__(self, encoder, num_classes):
        super().__init__(encoder, num_classes)
        del self.encoder
        self.backbone = encoder


class AddsBiasAtTheEnd(FCN8s):
    def finish(self, logits):
        corner = torch.zeros_like(logits)
        corner[0, 0, 0, 0] = 1
        return logits + corner


class NoPool3Layer(FCN8s):
    def make_scores(self, encoder, num_classes):
        FCN8s.make_scores(self, encoder, num_classes)
        del self.score_pool3


def twenty_one(self, encoder, num_classes):
    FCN8s.make_scores(self, encoder, 21)


def three_by_three(self, encoder, num_classes):
    FCN8s.make_scores(self, encoder, num_classes)
    self.score_pool4 = nn.Conv2d(encoder.channels[2], num_classes, 3, padding=1)


WRONG_FCN8S = [
    # numbers of channels
    (variant(make_scores=scores(2048, 2048, 1024)), "score_pool3 takes 1024", "handout", "one stage too deep"),
    (variant(make_scores=scores(3, 2048, 1)), "score_pool4 takes 2048", "handout", "one stage too deep"),
    (variant(make_scores=scores(3, 3, 2)), "score_pool3", "handout", "encoder.channels[1] = 16"),
    (variant(make_scores=scores(2048, 1024, 512)), "score_pool3 takes 512", "written by hand"),
    (variant(make_scores=scores(2048, 2, 1)), "score_fr takes 2048", "written by hand"),
    (variant(make_scores=scores(3, 1, 2)), "exchanged"),
    (variant(make_scores=scores(3, 2, 0)), "score_pool3 takes 8", "another stage"),
    (variant(make_scores=twenty_one), "21 is written by hand"),
    (variant(make_scores=three_by_three), "1x1"),
    (NoPool3Layer, "no layer `self.score_pool3`"),
    # upsampling layers
    (variant(up=staticmethod(random_up)), "does not start as bilinear"),
    (variant(up=staticmethod(every_pair)), "between all pairs"),
    (variant(up=staticmethod(sum_one)), "do not normalise"),
    (variant(up=staticmethod(lambda c, k, s, p, bias: nn.Upsample(scale_factor=s))), "nn.ConvTranspose2d"),
    (variant(up=staticmethod(lambda c, k, s, p, bias: nn.ConvTranspose2d(c, c, s, s))), "needs kernel 4"),
    (variant(up=staticmethod(lambda c, k, s, p, bias: nn.ConvTranspose2d(c, c, k, s, p, groups=c))), "groups=5"),
    (Concatenates, "concatenated"),
    # forward
    (variant(finish=lambda self, x: x.softmax(1)), "softmax inside forward"),
    (variant(finish=lambda self, x: x.log_softmax(1)), "log_softmax inside forward"),
    (variant(finish=lambda self, x: x.sigmoid()), "sigmoid inside forward"),
    (variant(finish=lambda self, x: x.argmax(1)), "argmax"),
    (variant(finish=lambda self, x: x.detach()), "no gradient"),
    (variant(finish=lambda self, x: {"out": x}), "a value of type dict"),
    (variant(finish=lambda self, x: None), "a `return` missing"),
    (NoGrad, "no gradient"),
    (FrozenEncoder, "the encoder gets no gradient"),
    (Backbone, "`self.encoder`"),
    (SwappedUp, "upscore2 and upscore_pool4 are exchanged"),
    (NoPool4, "score_pool4 gets no gradient"),
    (AddsTooEarly, "enlarge the coarser scores before adding"),
    (InterpolatesAtTheEnd, "upscore8 gets no gradient"),
    (StopsAtStride8, "stay at stride 8"),
    (WrongFeatures, "another stage"),
    (ThreeFeatures, "four features"),
    (variant(forward=nn.Module.forward), "not written yet"),
    (AddsBiasAtTheEnd, "first at [0, 0, 0, 0]"),
    # sizes
    (variant(padding=(0, 0, 0)), "shifted"),
    (variant(padding=(0, 0, 0), fit=staticmethod(lambda x, like: x)), "padding n / 2"),
    (variant(fit=staticmethod(lambda x, like: x)), "crop them first"),
    (variant(fit=staticmethod(centre)), "crop around the centre"),
    (variant(fit=staticmethod(resized)), "resize"),
    # not a class of the right kind
    (lambda encoder, num_classes: encoder(torch.zeros(1, 3, 32, 32))[0], "make it a class of nn.Module"),
    (type("FCN8s", (nn.Module,), {}), "TypeError while it is made"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_FCN8S])
def test_fcn8s_rejects(answer, hints):
    assert_hint("fcn8s", answer, *hints)


class FCN16s(nn.Module):
    up16 = (32, 16, 8)
    channels = 2

    def __init__(self, encoder, num_classes):
        super().__init__()
        self.encoder = encoder
        self.score_fr = nn.Conv2d(encoder.channels[-1], num_classes, 1)
        self.score_pool4 = nn.Conv2d(encoder.channels[self.channels], num_classes, 1)
        self.upscore2 = bilinear(num_classes, 4, 2, 1)
        self.upscore16 = bilinear(num_classes, *self.up16)

    def forward(self, images):
        features = self.encoder(images)
        return crop(self.upscore16(self.combine(self.upscore2(self.score_fr(features[3])), features[2])), images)

    def combine(self, x, f16):
        return crop(x, f16) + self.score_pool4(f16)


class FCN32s(nn.Module):
    kernel = 64

    def __init__(self, encoder, num_classes):
        super().__init__()
        self.encoder = encoder
        self.score_fr = nn.Conv2d(encoder.channels[-1], num_classes, kernel_size=1)
        self.upscore32 = bilinear(num_classes, self.kernel, 32, (self.kernel - 32) // 2)

    def forward(self, images):
        return self.upscore32(self.score_fr(self.encoder(images)[-1]))[..., : images.shape[-2], : images.shape[-1]]


def derived(base, **methods):
    return type(base.__name__, (base,), methods)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("fcn16s", FCN16s),
        ("fcn16s", derived(FCN16s, combine=lambda self, x, f16: self.score_pool4(f16).add_(crop(x, f16)))),
        ("fcn32s", FCN32s),
        ("fcn32s", derived(FCN32s, forward=lambda self, x: crop(self.upscore32(self.score_fr(self.encoder(x)[3])), x))),
    ],
)
def test_smaller_networks_accepted(name, answer):
    assert_passes(name, answer)


@pytest.mark.parametrize(
    ("name", "answer", "hint"),
    [
        ("fcn16s", derived(FCN16s, combine=lambda self, x, f16: crop(x, f16)), "score_pool4 gets no gradient"),
        ("fcn16s", derived(FCN16s, combine=lambda self, x, f16: x + self.score_pool4(f16)), "crop them first"),
        ("fcn16s", derived(FCN16s, combine=lambda self, x, f16: crop(x, f16) * self.score_pool4(f16)), "multiplied"),
        ("fcn16s", derived(FCN16s, combine=lambda self, x, f16: FCN16s.combine(self, x, f16).relu()), "ReLU after"),
        ("fcn16s", derived(FCN16s, combine=lambda self, x, f16: FCN16s.combine(self, x, f16) / 2), "averaged"),
        ("fcn16s", derived(FCN16s, channels=3), "handout"),
        ("fcn16s", derived(FCN16s, channels=1), "another stage"),
        ("fcn16s", derived(FCN16s, up16=(32, 16, 0)), "shifted"),
        ("fcn16s", FCN32s, "no layer `self.score_pool4`"),
        ("fcn32s", derived(FCN32s, forward=lambda self, x: self.upscore32(self.score_fr(self.encoder(x)[3]))), "65x97"),
        ("fcn32s", derived(FCN32s, forward=lambda self, x: FCN32s.forward(self, x).softmax(1)), "softmax inside"),
        ("fcn32s", derived(FCN32s, forward=lambda self, x: self.score_fr(self.encoder(x)[3])), "stay at stride 32"),
        ("fcn32s", derived(FCN32s, kernel=32), "needs kernel 64"),
        ("fcn32s", derived(FCN32s, forward=lambda self, x: resized(self.score_fr(self.encoder(x)[3]), x)), "upscore32"),
    ],
)
def test_smaller_networks_rejected(name, answer, hint):
    assert_hint(name, answer, hint)
