"""The check of U-Net accepts networks written in different ways and names the mistake of wrong ones."""

import pytest
import torch
from judging import assert_hint, assert_passes
from torch import nn
from torch.nn import functional


def double_conv(a, b):
    layers = []
    for channels in (a, b):
        layers += [nn.Conv2d(channels, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def pad(images, multiple=16, mode="replicate"):
    return functional.pad(images, (0, -images.shape[3] % multiple, 0, -images.shape[2] % multiple), mode=mode)


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
        return functional.max_pool2d(x, 2)

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


def variant(base=UNet, **methods):
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


class SkipsAfterOneConvolution(UNet):
    def forward(self, images):
        skips, x = [], self.pad(images)
        for level, block in enumerate(self.contracting):
            first = block[:3](self.down(x) if level else x)
            skips.append(first.clone())
            x = block[3:](first)
        for up, block, skip in zip(self.up, self.expanding, skips[-2::-1], strict=True):
            x = block(self.join(skip, up(x)))
        return self.crop(self.score(x), images)


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
        return functional.interpolate(super().forward(self.down(self.pad(images))), scale_factor=2)


class PoolsTheBottom(UNet):
    """Five poolings, and an enlargement to make up for the last."""

    def forward(self, images):
        skips, x = [], self.pad(images)
        for block in self.contracting:
            x = block(x)
            skips.append(x)
            x = self.down(x)
        x = functional.interpolate(x, skips[-1].shape[2:])
        for up, block, skip in zip(self.up, self.expanding, skips[-2::-1], strict=True):
            x = block(self.join(skip, up(x)))
        return self.crop(self.score(x), images)


class Interpolates(UNet):
    """up is there, and used for its shape only."""

    def forward(self, images):
        skips, x = [], self.pad(images)
        for level, block in enumerate(self.contracting):
            x = block(self.down(x) if level else x)
            skips.append(x)
        for block, skip in zip(self.expanding, skips[-2::-1], strict=True):
            enlarged = functional.interpolate(x, scale_factor=2, mode="bilinear")
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


class SoftmaxWhenEvaluated(UNet):
    def finish(self, logits):
        return logits if self.training else logits.softmax(1)


class NormOnLogits(UNet):
    def make_score(self, a, num_classes):
        return nn.Sequential(nn.Conv2d(a, num_classes, 1), nn.BatchNorm2d(num_classes))


class PadsTheMap(UNet):
    """Pads on the way up instead of the image, as many published U-Nets do."""

    pad = staticmethod(lambda images: images)

    def join(self, skip, x):
        return torch.cat([skip, pad_to(x, skip)], 1)


def pad_to(x, like):
    return functional.pad(x, (0, like.shape[3] - x.shape[3], 0, like.shape[2] - x.shape[2]))


def fill(amounts, crop=None, **mode):
    """A network that pads by these amounts of (down, right), and crops in this way."""

    def padded(self, images):
        return functional.pad(images, amounts(-images.shape[2] % 16, -images.shape[3] % 16), **mode)

    return variant(pad=padded, **({"crop": crop} if crop else {}))


def bottom_right(self, x, images):
    return x[..., x.shape[2] - images.shape[2] :, x.shape[3] - images.shape[3] :]


def by_negative(self, x, images):
    return x[..., : -(-images.shape[2] % 16), : -(-images.shape[3] % 16)]


def centre(self, x, images):
    (h, w), (top, left) = images.shape[2:], ((a - b) // 2 for a, b in zip(x.shape[2:], images.shape[2:], strict=True))
    return x[..., top : top + h, left : left + w]


def always_padded(images):
    return functional.pad(images, (0, 16 - images.shape[3] % 16, 0, 16 - images.shape[2] % 16), mode="replicate")


WRONG = [
    # layers
    (PlainLists, "contracting is a value of type list, which hides its parameters from the optimizer"),
    (Keyed, "expanding is a value of type ModuleDict: make it an nn.ModuleList"),
    (FrozenScore, "score gets no gradient: is it frozen"),
    (ThreeHalvings, "contracting holds 4 modules, expected 5 double convolutions"),
    (SeparateBottom, "contracting holds 4 modules, expected 5 double convolutions", "the last at the bottom"),
    (Reversed, "up[0] maps 10 to 5 channels, expected 80 to 40: the list begins at the bottom"),
    (ReversedExpanding, "expanding[0] takes 10 channels, expected 80", "the list begins just above the bottom"),
    (
        variant(widths=lambda self, base: [base] * 5),
        "contracting[1] gives 5 channels, expected 10: channels double with each level",
    ),
    (variant(widths=lambda self, base: [64 * 2**i for i in range(5)]), "gives 64 channels", "written by hand"),
    (variant(images=1), "the first convolution of contracting[0] takes 1 channels, expected 3"),
    (variant(joined=lambda self, a: a), "are concatenated, 40 + 40 channels, not added or left out"),
    (variant(joined=lambda self, a: 3 * a), "takes 120 channels, expected 80: the up-convolution halves"),
    (variant(make_up=lambda self, a, b: nn.ConvTranspose2d(a, a, 2, 2)), "an up-convolution halves the channels"),
    (variant(make_up=lambda self, a, b: nn.ConvTranspose2d(b, a, 2, 2)), "channels in and out are exchanged"),
    (variant(make_up=lambda self, a, b: nn.ConvTranspose2d(a, b, 3, 2, 1, 1)), "kernel 2, stride 2"),
    (variant(make_up=lambda self, a, b: nn.ConvTranspose2d(a, b, 4, 2, 1)), "kernel 2, stride 2"),
    (variant(make_up=lambda self, a, b: nn.ConvTranspose2d(a, b, 2)), "kernel 2, stride 2"),
    (variant(make_up=lambda self, a, b: nn.Upsample(scale_factor=2)), "up[0] holds no nn.ConvTranspose2d"),
    (
        variant(make_up=lambda self, a, b: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 1))),
        "up[0] holds no nn.ConvTranspose2d",
    ),
    (variant(make_score=lambda self, a, n: nn.Conv2d(2 * a, n, 1)), "after the last double convolution"),
    (variant(make_score=lambda self, a, n: nn.Conv2d(a, n, 3, padding=1)), "score is to be a 1x1 convolution"),
    (variant(make_score=lambda self, a, n: nn.Conv2d(a, n, 1, bias=False)), "score has no bias"),
    (variant(make_score=lambda self, a, n: nn.Conv2d(a, 21, 1)), "21 is written by hand"),
    (variant(make_score=lambda self, a, n: nn.Conv2d(a, 1, 1)), "score gives 1 channels, expected 2"),
    (variant(make_score=lambda self, a, n: None), "it has no `self.score`"),
    (NormOnLogits, "in training mode"),
    (SharedBlock, "share one batch norm"),
    # double convolutions
    (variant(block=block_of("cnrCNr", padding=0)), "keep the size, with padding=1"),
    (variant(block=block_of("cnr")), "contracting[0] holds 1 convolutions"),
    (variant(block=block_of("crCr")), "batch norm is missing in contracting[0]"),
    (variant(block=block_of("crnCrN")), "ReLU comes before batch norm in both halves of contracting[0]"),
    (variant(block=block_of("cnCNr")), "ReLU is missing in contracting[0], first half"),
    (variant(block=block_of("cnrCN")), "ReLU is missing in contracting[0], second half"),
    (variant(block=block_of("cnrCNrd")), "in training mode (is there a dropout"),
    # pooling
    (variant(down=lambda self, x: functional.avg_pool2d(x, 2)), "there is an average before contracting[1]"),
    (variant(down=lambda self, x: x[..., ::2, ::2]), "every other pixel is taken before contracting[1]"),
    (variant(down=lambda self, x: functional.max_pool2d(x, 3, 2, 1)), "there is a pooling of 3x3 before"),
    (variant(down=lambda self, x: functional.interpolate(x, scale_factor=0.5)), "every other pixel is taken before"),
    (variant(down=lambda self, x: x), "skip and enlarged map differ in size"),
    (PoolsFirst, "the image is pooled before contracting[0]: after it"),
    (PoolsTheBottom, "the bottom is pooled once more"),
    # what is joined
    (
        SkipsInTheOrderOfTheWayDown,
        "skip and enlarged map differ in size",
        "expanding[0] joins what contracting[3] gives",
    ),
    (PooledSkips, "skip and enlarged map differ in size", "before it is pooled"),
    (SkipsBeforeTheBlock, "another number of channels"),
    (SkipsAfterOneConvolution, "is taken after the first convolution of contracting[3]: after both"),
    (UsesOneUpTwice, "another number of channels"),
    (ForgetsTheSkips, "another number of channels", "each expanding [skip, enlarged map]"),
    (variant(join=lambda self, skip, x: torch.cat([x, skip], 1)), "in the order the enlarged map, the skip"),
    (variant(join=lambda self, skip, x: torch.cat([skip, x])), "another number of channels"),
    (variant(join=lambda self, skip, x: torch.cat([skip, x], 2)), "another number of channels"),
    (variant(join=lambda self, skip, x: skip + x), "another number of channels"),
    (variant(join=lambda self, skip, x: torch.cat([x, x], 1)), "the enlarged map twice, without the skip"),
    (variant(join=lambda self, skip, x: torch.cat([skip, skip], 1)), "the skip twice, without the enlarged map"),
    (variant(join=lambda self, skip, x: torch.cat([skip + x] * 2, 1)), "given skip + enlarged map"),
    (variant(join=lambda self, skip, x: torch.cat([0 * skip, x], 1)), "given zeros for the skip"),
    (variant(join=lambda self, skip, x: torch.cat([skip, x.relu()], 1)), "there is a ReLU after the up-convolution"),
    (variant(join=lambda self, skip, x: torch.cat([0.9 * skip, x], 1)), "expanding[0] is given of the skip differs"),
    (Interpolates, "forward does not use up[0]"),
    (DetachedSkips, "is a skip detached"),
    # logits
    (variant(finish=lambda self, x: x.softmax(1)), "softmax inside forward"),
    (variant(finish=lambda self, x: x.log_softmax(1)), "log_softmax inside forward"),
    (variant(finish=lambda self, x: x.sigmoid()), "sigmoid inside forward"),
    (variant(finish=lambda self, x: x.relu()), "ReLU on the logits"),
    (variant(finish=lambda self, x: x.argmax(1)), "leave the argmax out"),
    (variant(finish=lambda self, x: x.detach()), "no gradient comes back"),
    (variant(finish=lambda self, x: {"out": x}), "a value of type dict"),
    (variant(finish=lambda self, x: None), "a `return` missing"),
    (SoftmaxWhenEvaluated, "softmax inside forward"),
    (DetachedWhenTrained, "in training mode contracting[0] gets no gradient"),
    (AlwaysEvaluates, "or an eval()?"),
    # sizes
    (variant(pad=staticmethod(lambda images: images)), "pad the images to a multiple of 16 first"),
    (PadsTheMap, "for a 37x51 image nothing is padded"),
    (variant(crop=lambda self, x, images: x), "the logits keep the size of the padded image"),
    (variant(crop=by_negative), "[..., :-0] is empty"),
    (variant(crop=bottom_right), "cropped at the left and at the top"),
    (variant(crop=centre), "cropped on all sides"),
    (variant(crop=lambda self, x, i: functional.interpolate(x, i.shape[2:])), "the logits are resized"),
    (variant(pad=staticmethod(always_padded)), "an image whose size fits is padded, too"),
    (variant(pad=staticmethod(lambda images: pad(images, 32))), "(2, 3, 32, 64), expected (2, 3, 32, 48)"),
    (variant(pad=staticmethod(lambda images: pad(images, mode="constant"))), "it pads with zeros"),
    (variant(pad=staticmethod(lambda images: pad(images, mode="reflect"))), 'it pads with mode="reflect"'),
    (fill(lambda h, w: (w, 0, h, 0), bottom_right, mode="replicate"), "it pads at the left and at the top"),
    (fill(lambda h, w: (0, h, 0, w), mode="replicate"), "pad the images to a multiple of 16 first"),
    # not a class of the right kind
    (lambda num_classes, base_channels: torch.zeros(1), "make it a class of nn.Module"),
    (type("UNet", (nn.Module,), {}), "TypeError while it is made"),
    (variant(forward=nn.Module.forward), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG])
def test_unet_rejects(answer, hints):
    assert_hint("unet", answer, *hints)
