"""The checks of lab 02 accept answers written in different ways; wrong ones, written anew, get the hint they need."""

import pytest
import torch
import torch.nn.functional as F
from judging import assert_hint, assert_passes, rows
from torch import nn

# -------------------------------------------------------- convolutions by hand


def to_conv(linear, channels, height, width, order=None, bias=True, **options):
    conv = nn.Conv2d(channels, linear.out_features, (height, width), bias=bias, **options)
    weight = linear.weight.reshape(-1, channels, height, width) if order is None else order(linear.weight)
    conv.weight.data = weight.detach().clone()
    if bias:
        conv.bias.data = linear.bias.detach().clone()
    return conv


def to_conv_by_state(linear, channels, height, width):
    conv = nn.Conv2d(channels, linear.out_features, kernel_size=(height, width))
    weight = torch.stack([row.view(channels, height, width) for row in linear.weight])
    conv.load_state_dict({"weight": weight, "bias": linear.bias})
    return conv


def to_conv_random_bias(linear, *shape):
    conv = to_conv(linear, *shape)
    conv.bias.data.uniform_()
    return conv


def to_conv_random_weight(linear, *shape):
    conv = to_conv(linear, *shape)
    conv.weight.data.uniform_()
    return conv


def to_conv_one_by_one(linear, channels, height, width):
    return nn.Conv2d(channels * height * width, linear.out_features, 1)


def to_conv_changing(linear, *shape):
    conv = to_conv(linear, *shape)
    linear.weight.data.zero_()
    return conv


def size_by_formula(size, kernel, stride, padding=0):
    return stride * (size - 1) + kernel - 2 * padding


def size_by_counting(size, kernel, stride, padding=0):
    return len({i * stride + k for i in range(size) for k in range(max(kernel, stride))}) + (
        min(0, kernel - stride) - 2 * padding
    )


def stamp(x, kernel, stride, add=True, turn=lambda kernel: kernel):
    (height, width), k = x.shape, len(kernel)
    out = torch.zeros((height - 1) * stride + k, (width - 1) * stride + k)
    for i in range(height):
        for j in range(width):
            window = out[i * stride : i * stride + k, j * stride : j * stride + k]
            window.copy_((window if add else 0) + x[i, j] * turn(kernel))
    return out


def insert_zeros(x, kernel, stride, gap=None, flip=True):
    """An ordinary convolution, by unfold, of the input with zeros between its pixels."""
    gap = stride if gap is None else gap
    k = len(kernel)
    apart = torch.zeros((x.shape[0] - 1) * gap + 1, (x.shape[1] - 1) * gap + 1)
    apart[::gap, ::gap] = x
    windows = F.pad(apart, (k - 1,) * 4).unfold(0, k, 1).unfold(1, k, 1)
    return (windows * (kernel.flip(0, 1) if flip else kernel)).sum((2, 3))


def by_library(x, kernel, stride):
    return F.conv_transpose2d(x[None, None], kernel[None, None], stride=stride)[0, 0]


def stamp_one_off(x, kernel, stride):
    out = stamp(x, kernel, stride)
    out[-1, -1] += 1e-2
    return out


def tent(size, centre=None, reach=None):
    centre = (size - 1) / 2 if centre is None else centre
    return 1 - (torch.arange(size) - centre).abs() / (size / 2 if reach is None else reach)


def kernel(size, **options):
    return tent(size, **options)[:, None] * tent(size, **options)


def kernel_by_upsampling(size):
    """What bilinear interpolation makes of one bright pixel."""
    factor = size // 2
    pixel = torch.zeros(1, 1, 5, 5)
    pixel[0, 0, 2, 2] = 1
    big = F.interpolate(pixel, scale_factor=factor, mode="bilinear")[0, 0]
    start = 2 * factor - factor // 2 if factor > 1 else 2
    window = big[start : start + size, start : start + size]
    return window if factor > 1 else torch.full((2, 2), 0.25)


# -------------------------------------------------------- FCN32s, FCN16s, FCN8s


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
        return super().forward(F.pad(images, (0, -width % 32, 0, -height % 32)))[:, :, :height, :width]


class PadsTheSkips(FCN8s):
    """Grows the skips to the size of what is enlarged, and crops once at the end."""

    def forward(self, images):
        def add(x, skip):
            return x + F.pad(skip, (0, x.shape[3] - skip.shape[3], 0, x.shape[2] - skip.shape[2]))

        _, f8, f16, f32 = self.encoder(images)
        x = add(self.upscore2(self.score_fr(f32)), self.score_pool4(f16))
        x = add(self.upscore_pool4(x), self.score_pool3(f8))
        return crop(self.upscore8(x), images)


def scores(fr, pool4, pool3):
    """A make_scores with these numbers of channels: given numbers, or indices into encoder.channels below 4."""

    def make_scores(self, encoder, num_classes):
        numbers = [encoder.channels[c] if c < 4 else c for c in (fr, pool4, pool3)]
        self.score_fr, self.score_pool4, self.score_pool3 = (nn.Conv2d(c, num_classes, 1) for c in numbers)

    return make_scores


def derived(base, **methods):
    return type(base.__name__, (base,), methods)


def variant(**methods):
    return derived(FCN8s, **methods)


def random_up(channels, *sizes, **options):
    return nn.ConvTranspose2d(channels, channels, *sizes, **options)


def every_pair(channels, *sizes, **options):
    layer = bilinear(channels, *sizes, **options)
    layer.weight.data = layer.weight.data[0, 0].expand_as(layer.weight).clone()
    return layer


def sum_one(channels, *sizes, **options):
    layer = bilinear(channels, *sizes, **options)
    layer.weight.data /= layer.weight[0, 0].sum()
    return layer


def resized(x, like):
    return F.interpolate(x, like.shape[2:], mode="bilinear")


class Concatenates(FCN8s):
    def __init__(self, encoder, num_classes):
        super().__init__(encoder, num_classes)
        self.upscore_pool4 = nn.ConvTranspose2d(2 * num_classes, num_classes, 4, 2, 1)

    def forward(self, images):
        _, _, f16, f32 = self.encoder(images)
        return self.upscore_pool4(torch.cat([self.upscore2(self.score_fr(f32)), self.score_pool4(f16)], 1))


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


# -------------------------------------------------------- dice_loss, train_step


def dice(
    logits,
    target,
    ignore_index=255,
    smooth=1.0,
    *,
    activation=lambda x: x.softmax(1),
    mask=True,
    everything=False,
    constant=1,
):
    p = activation(logits)
    valid = (target != ignore_index)[:, None]
    truth = F.one_hot(target * valid[:, 0], logits.shape[1]).movedim(-1, 1) * valid
    if mask:
        p = p * valid
    overlap, areas = (p * truth).sum((0, 2, 3)), (p + truth).sum((0, 2, 3))
    values = (2 * overlap + smooth * constant) / (areas + smooth * constant)
    return 1 - values[(truth.sum((0, 2, 3)) > 0) | everything].mean()


def dice_by_class(logits, target, ignore_index=255, smooth=1.0):
    valid = target != ignore_index
    p = torch.exp(torch.log_softmax(logits, 1)).movedim(1, -1)[valid]
    losses = [
        1 - (2 * p[target[valid] == k, k].sum() + smooth) / (p[:, k].sum() + (target[valid] == k).sum() + smooth)
        for k in target[valid].unique()
    ]
    return torch.stack(losses).mean()


def changed(**options):
    return lambda *given, **named: dice(*given, **named, **options)


def dice_one_hot_of_void(logits, target, ignore_index=255, smooth=1.0):
    return F.one_hot(target, logits.shape[1]).float().mean()


def dice_void_in_place(logits, target, ignore_index=255, smooth=1.0):
    target[target == ignore_index] = 0
    return dice(logits, target)


def hard_dice(logits, target, ignore_index=255, smooth=1.0):
    labels = 50 * F.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).float()
    return dice(labels, target, ignore_index, smooth)


def step(
    model,
    images,
    targets,
    optimizer,
    *,
    mode=True,
    zero="before",
    change=lambda logits: logits,
    ignore_index=255,
    reduction="mean",
    backward=True,
    steps=True,
):
    model.train(mode)
    if zero == "before":
        optimizer.zero_grad()
    loss = F.cross_entropy(change(model(images)), targets, ignore_index=ignore_index, reduction=reduction)
    if backward:
        loss.backward()
    if zero == "between":
        optimizer.zero_grad()
    if steps:
        optimizer.step()
    if zero == "after":
        optimizer.zero_grad()
    return loss.item()


def step_by_nll(model, images, targets, optimizer):
    model.train()
    log_p = model(images).log_softmax(1).movedim(1, -1)
    valid = targets != 255
    loss = -log_p[valid].gather(1, targets[valid][:, None]).mean()
    for weight in model.parameters():
        weight.grad = None
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def changed_step(**options):
    return lambda *given: step(*given, **options)


def step_returning_tensor(model, images, targets, optimizer):
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), targets, ignore_index=255)
    loss.backward()
    optimizer.step()
    return loss


def step_without_mode(model, images, targets, optimizer):
    return step(model, images, targets, optimizer, mode=model.training)


def step_twice_forward(model, images, targets, optimizer):
    model.train()
    model(images)
    return step(model, images, targets, optimizer)


def step_clipped(model, images, targets, optimizer):
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), targets, ignore_index=255)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()
    return loss.item()


RIGHT = {
    "linear_to_conv": [to_conv, to_conv_by_state],
    "transposed_output_size": [size_by_formula, size_by_counting],
    "transposed_conv": [stamp, insert_zeros],
    "bilinear_kernel": [kernel, kernel_by_upsampling],
    "fcn8s": [FCN8s, Paper8s, Padded8s, PadsTheSkips],
    "fcn16s": [FCN16s, derived(FCN16s, combine=lambda self, x, f16: self.score_pool4(f16).add_(crop(x, f16)))],
    "fcn32s": [
        FCN32s,
        derived(FCN32s, forward=lambda self, x: crop(self.upscore32(self.score_fr(self.encoder(x)[3])), x)),
    ],
    "dice_loss": [dice, dice_by_class],
    "train_step": [step, changed_step(zero="after"), step_by_nll],
}
WRONG = {
    "linear_to_conv": [
        (
            lambda lin, c, h, w: to_conv(lin, c, h, w, lambda x: x.view(-1, h, w, c).permute(0, 3, 1, 2)),
            "(height, width, channels)",
        ),
        (lambda lin, c, h, w: to_conv(lin, c, w, h), "height and width are exchanged"),
        (lambda lin, c, h, w: to_conv(lin, c, h, w, bias=False), "the bias is forgotten"),
        (lambda lin, c, h, w: to_conv(lin, c, h, w, padding=1), "no padding"),
        (to_conv_random_bias, "the bias is forgotten"),
        (to_conv_random_weight, "the weights are not those"),
        (to_conv_one_by_one, "not 1 x 1"),
        (to_conv_changing, "only copy from it"),
        (lambda lin, c, h, w: to_conv(lin, c, h, w).weight, "expected an nn.Conv2d"),
    ],
    "transposed_output_size": [
        (lambda n, k, s, p=0: n * s, "this is size * stride"),
        (lambda n, k, s, p=0: n * s + k - 2 * p, "n - 1 steps"),
        (lambda n, k, s, p=0: (n - 1) * s + k - 2 * p - 1, "one too few"),
        (lambda n, k, s, p=0: size_by_formula(n, k, s, p) / 1, "integer arithmetic"),
        (lambda n, k, s, p: size_by_formula(n, k, s, p), "TypeError"),
        (lambda n, k, s, p=0: size_by_formula(n, k, s, p) + (n == 9), "(9, 5, 2, 2) is 18, expected 17"),
    ],
    "transposed_conv": [
        (lambda x, kernel, stride: stamp(x, kernel, stride, add=False), "add them"),
        (lambda x, kernel, stride: stamp(x, kernel, stride, turn=lambda k: k.T), "transposed"),
        (lambda x, kernel, stride: insert_zeros(x, kernel, stride, flip=False), "180 degrees"),
        (lambda x, kernel, stride: insert_zeros(x, kernel, stride, gap=stride + 1), "too many zeros"),
        (stamp_one_off, "differs in 1 of"),
        (by_library, "conv_transpose2d: write the sum yourself"),
        (lambda x, kernel, stride: stamp(x, kernel, stride).numpy(), "torch.from_numpy"),
    ],
    "bilinear_kernel": [
        (lambda size: kernel(size, centre=size / 2), "(size - 1) / 2, so that it is symmetric"),
        (lambda size: kernel(size, reach=size), "over the stride"),
        (lambda size: kernel(size)[None, None], "without the axes"),
        (tent, "one axis"),
        (lambda size: kernel(size).double(), "expected torch.float32"),
        (lambda size: kernel(size).numpy(), "torch.from_numpy"),
        (lambda size: kernel(size) if size == 4 else torch.ones(size, size), "bilinear_kernel(16)"),
    ],
    "dice_loss": [
        (changed(activation=lambda x: x), "softmax is missing"),
        (changed(mask=False), "mask the probabilities"),
        (changed(constant=0), "`smooth` is missing: add it above and below"),
        (changed(everything=True), "only over those present"),
        (lambda *given, **named: 1 - dice(*given, **named), "the loss is 1 - it"),
        (lambda *given, **named: dice(*given, **named).item(), "expected a torch tensor"),
        (lambda *given, **named: dice(*given, **named).detach(), "no gradient"),
        (lambda x, y, ignore_index=255, smooth=1.0: dice(x, y, 255, smooth), "ignore_index=1"),
        (dice_one_hot_of_void, "one_hot"),
        (dice_void_in_place, "in place"),
        (hard_dice, "expected 0."),
        (lambda *given, **named: dice(*given, **named) + 0.01, "the loss is 0."),
    ],
    "train_step": [
        (changed_step(zero="never"), "zero_grad() before backward"),
        (changed_step(zero="between"), "come between them"),
        (step_without_mode, "call model.train()"),
        (changed_step(ignore_index=-100), "ignore_index=255"),
        (changed_step(change=lambda logits: logits.softmax(1)), "softmax before cross_entropy"),
        (changed_step(reduction="sum"), "take the mean"),
        (changed_step(backward=False), "backward()"),
        (changed_step(steps=False), "optimizer.step() missing"),
        (step_returning_tensor, "`.item()`"),
        (step_twice_forward, "more than once"),
        (step_clipped, "the weight layers.0.weight"),
        (lambda *given: 0.0, "the model is not run"),
        (lambda *given: None, "not written yet"),
    ],
    "fcn16s": [
        (derived(FCN16s, combine=lambda self, x, f16: crop(x, f16)), "score_pool4 gets no gradient"),
        (derived(FCN16s, combine=lambda self, x, f16: x + self.score_pool4(f16)), "crop them first"),
        (derived(FCN16s, combine=lambda self, x, f16: crop(x, f16) * self.score_pool4(f16)), "multiplied"),
        (derived(FCN16s, channels=3), "one stage deeper"),
        (derived(FCN16s, channels=1), "another stage"),
        (derived(FCN16s, up16=(32, 16, 0)), "shifted"),
        (FCN32s, "no layer `self.score_pool4`"),
    ],
    "fcn32s": [
        (derived(FCN32s, forward=lambda self, x: self.upscore32(self.score_fr(self.encoder(x)[3]))), "65x97"),
        (derived(FCN32s, forward=lambda self, x: FCN32s.forward(self, x).softmax(1)), "softmax inside"),
        (derived(FCN32s, forward=lambda self, x: self.score_fr(self.encoder(x)[3])), "stay at stride 32"),
        (derived(FCN32s, kernel=32), "needs kernel 64"),
        (derived(FCN32s, forward=lambda self, x: resized(self.score_fr(self.encoder(x)[3]), x)), "upscore32"),
    ],
    "fcn8s": [
        # numbers of channels
        (variant(make_scores=scores(2048, 2048, 1024)), "score_pool3 takes 1024", "one stage deeper"),
        (variant(make_scores=scores(3, 2048, 1)), "score_pool4 takes 2048", "one stage deeper"),
        (variant(make_scores=scores(3, 3, 2)), "score_pool3", "one stage deeper", "encoder.channels[1] = 16"),
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
        (variant(finish=lambda self, x: x.argmax(1)), "argmax"),
        (variant(finish=lambda self, x: x.detach()), "no gradient"),
        (variant(finish=lambda self, x: {"out": x}), "a value of type dict"),
        (variant(finish=lambda self, x: None), "a `return` missing"),
        (NoGrad, "no gradient"),
        (FrozenEncoder, "the encoder gets no gradient"),
        (Backbone, "`self.encoder`"),
        (NoPool4, "score_pool4 gets no gradient"),
        (AddsTooEarly, "enlarge the coarser scores before adding"),
        (InterpolatesAtTheEnd, "upscore8 gets no gradient"),
        (StopsAtStride8, "stay at stride 8"),
        (ThreeFeatures, "four features"),
        (variant(forward=nn.Module.forward), "not written yet"),
        (AddsBiasAtTheEnd, "first at [0, 0, 0, 0]"),
        # sizes
        (variant(padding=(0, 0, 0)), "shifted"),
        (variant(padding=(0, 0, 0), fit=staticmethod(lambda x, like: x)), "padding n / 2"),
        (variant(fit=staticmethod(lambda x, like: x)), "crop them first"),
        (variant(fit=staticmethod(resized)), "resize"),
        # not a class of the right kind
        (lambda encoder, num_classes: encoder(torch.zeros(1, 3, 32, 32))[0], "make it a class of nn.Module"),
        (type("FCN8s", (nn.Module,), {}), "TypeError while it is made"),
    ],
}


@pytest.mark.parametrize(("name", "answer"), rows(RIGHT))
def test_accepts(name, answer):
    assert_passes(name, answer)


@pytest.mark.parametrize(("name", "answer", "words"), rows(WRONG))
def test_rejects(name, answer, words):
    assert_hint(name, answer, *words)
