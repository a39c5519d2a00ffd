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


def size_by_formula(size, kernel, stride, padding=0, output_padding=0):
    return stride * (size - 1) + kernel - 2 * padding + output_padding


def size_by_counting(size, kernel, stride, padding=0, output_padding=0):
    return len({i * stride + k for i in range(size) for k in range(max(kernel, stride))}) + (
        min(0, kernel - stride) - 2 * padding + output_padding
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


# ----------------------------------------------------------------- the encoder


class Features(nn.Module):
    """Stages by name; a tuple of features."""

    channels = (256, 512, 1024, 2048)
    kept = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")

    def __init__(self, resnet):
        super().__init__()
        for name in self.kept:
            setattr(self, name, getattr(resnet, name))

    def forward(self, images):
        x, found = images, {}
        for name, layer in self.named_children():
            x = found[name] = layer(x)
        return tuple(found[f"layer{i}"] for i in range(1, 5))


class InSequence(nn.Sequential):
    def forward(self, images):
        return [x := images] and [x := layer(x) for layer in self][4:]


class Whole(nn.Module):
    def __init__(self, resnet):
        super().__init__()
        self.resnet = resnet


def features_then(change):
    return type("Features", (Features,), {"forward": lambda self, images: change(Features.forward(self, images))})


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


# ------------------------------------------------------------------ its layers


def score(in_channels, num_classes, init=nn.init.kaiming_normal_, bias=nn.init.zeros_, kernel=1, **options):
    layer = nn.Conv2d(in_channels, num_classes, kernel)
    init(layer.weight, **options)
    bias(layer.bias)
    return layer


class Enlarges(nn.Module):
    """Bilinear first, then the convolution, written as a matrix product."""

    def __init__(self, num_classes, factor):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(num_classes)[:, :, None, None])
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.factor = factor

    def forward(self, x):
        x = F.interpolate(x, scale_factor=self.factor, mode="bilinear")
        return torch.einsum("kchw,bcij->bkij", self.weight, x) + self.bias[:, None, None]


def one_by_one(num_classes, factor, mode="bilinear", init=nn.init.dirac_):
    conv = nn.Conv2d(num_classes, num_classes, 1)
    nn.init.zeros_(conv.bias)
    init(conv.weight)
    return nn.Sequential(conv, nn.Upsample(scale_factor=factor, mode=mode))


def shares_by_loop(target, stride, num_classes):
    rows, columns = (-(-side // stride) for side in target.shape)
    out = torch.zeros(num_classes, rows, columns)
    for i in range(rows):
        for j in range(columns):
            cell = target[i * stride : (i + 1) * stride, j * stride : (j + 1) * stride].flatten()
            counts = torch.bincount(cell[cell != 255].long(), minlength=num_classes)
            out[:, i, j] = counts / counts.sum().clamp_min(1)
    return out


def shares_by_sum(target, stride, num_classes, ceil=True, valid=True):
    one_hot = F.one_hot(target.long().clamp_max(num_classes), num_classes + 1)[..., :num_classes].movedim(-1, 0)
    sums = F.avg_pool2d(one_hot[None].double(), stride, ceil_mode=ceil)[0]
    return (sums / (sums.sum(0).clamp_min(1e-9) if valid else 1)).float()


# ------------------------------------------------------------- groups and loop


def by_identity(model, lr, backbone_factor=0.1):
    encoder = set(map(id, model.encoder.parameters()))
    return [
        {"params": (p for p in model.parameters() if id(p) in encoder), "lr": lr * backbone_factor},
        {"params": (p for p in model.parameters() if id(p) not in encoder), "lr": lr},
    ]


def by_prefix(model, lr, backbone_factor=0.1):
    """One group for each parameter."""
    return [
        {"params": parameter, "lr": lr * (backbone_factor if name.startswith("encoder.") else 1.0)}
        for name, parameter in model.named_parameters()
    ]


def by_children(model, lr, backbone_factor=0.1):
    """Head before encoder, with weight decay of its own."""
    own = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
    return (
        {"params": own, "lr": lr, "weight_decay": 1e-4},
        {"params": model.encoder.parameters(), "lr": backbone_factor * lr},
    )


def by_object(model, lr, backbone_factor=0.1):
    """Named groups, objects compared with `is`, a view of a dict and a ParameterList."""
    encoder = dict(model.encoder.named_parameters())
    rest = [p for p in model.parameters() if not any(p is own for own in encoder.values())]
    return [
        {"params": encoder.values(), "lr": lr * backbone_factor, "name": "backbone"},
        {"params": nn.ParameterList(rest), "lr": lr, "name": "head"},
    ]


def by_set(model, lr, backbone_factor=0.1):
    encoder = set(model.encoder.parameters())
    rest = filter(lambda p: p not in encoder, model.parameters())
    return [{"params": rest, "lr": lr}, {"params": [*encoder], "lr": lr * backbone_factor}]


def lists(model, is_encoder=lambda name: name.startswith("encoder.")):
    named = list(model.named_parameters())
    return [p for name, p in named if is_encoder(name)], [p for name, p in named if not is_encoder(name)]


def groups(encoder_rate=lambda lr, factor: lr * factor, rest_rate=lambda lr, factor: lr, split=lists):
    def answer(model, lr, backbone_factor=0.1):
        encoder, rest = split(model)
        return [
            {"params": encoder, "lr": encoder_rate(lr, backbone_factor)},
            {"params": rest, "lr": rest_rate(lr, backbone_factor)},
        ]

    return answer


def generator_read_twice(model, lr, backbone_factor=0.1):
    encoder = model.encoder.parameters()
    known = {id(p) for p in encoder}
    rest = [p for p in model.parameters() if id(p) not in known]
    return [{"params": encoder, "lr": lr * backbone_factor}, {"params": rest, "lr": lr}]


def by_value(model):
    """Equal numbers for the same object."""
    encoder = list(model.encoder.parameters())
    return encoder, [p for p in model.parameters() if not any(torch.equal(p, own) for own in encoder)]


def in_a_list(model):
    encoder = list(model.encoder.parameters())
    return encoder, [p for p in model.parameters() if p not in encoder]


def freezes(model, lr, backbone_factor=0.1):
    model.encoder.requires_grad_(False)
    return by_identity(model, lr, backbone_factor)


def without_rate(model, lr, backbone_factor=0.1):
    encoder, rest = lists(model)
    return [{"params": encoder, "lr": lr * backbone_factor}, {"params": rest}]


def warmup_poly(step, steps, warmup, power=0.9):
    left = (steps - step) / (steps - warmup)
    return min((step + 1) / warmup, 1.0) if step < warmup else left**power


def loop_by_scheduler(model, batches, recipe):
    optimizer = torch.optim.AdamW(
        by_identity(model, recipe.lr, recipe.backbone_factor), weight_decay=recipe.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: warmup_poly(s, recipe.steps, recipe.warmup_steps)
    )
    losses = []
    for images, targets in batches:
        losses.append(step(model, images, targets, optimizer))
        scheduler.step()
    return losses


def plain_loop(model, batches, recipe, factor=warmup_poly, split=by_identity, keep=lambda losses: losses):
    optimizer = torch.optim.AdamW(split(model, recipe.lr, recipe.backbone_factor), weight_decay=recipe.weight_decay)
    full = [group["lr"] for group in optimizer.param_groups]
    losses = []
    for number, batch in enumerate(batches):
        for group, lr in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = lr * factor(number, recipe.steps, recipe.warmup_steps)
        losses.append(step(model, *batch, optimizer))
    return keep(losses)


def changed_loop(**options):
    return lambda *given: plain_loop(*given, **options)


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
    "resnet_features": [Features],
    "score_layer": [
        lambda c, k: score(c, k, nonlinearity="linear"),
        score,
        lambda c, k: score(c, k, nn.init.kaiming_uniform_, nonlinearity="linear"),
    ],
    "upsample_layer": [
        lambda k, n: bilinear(k, 2 * n, n, n // 2, bias=False),
        lambda k, n: bilinear(k, 2 * n, n, n // 2),
    ],
    "bilinear_layer": [one_by_one, Enlarges],
    "crop_like": [crop, lambda x, like: x.narrow(2, 0, like.shape[2]).narrow(3, 0, like.shape[3])],
    "shares": [shares_by_loop, shares_by_sum],
    "parameter_groups": [by_identity, by_prefix, by_children, by_object, by_set],
    "warmup_poly": [warmup_poly],
    "train_loop": [plain_loop, loop_by_scheduler],
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
        (lambda n, k, s, p=0, o=0: n * s, "this is size * stride"),
        (lambda n, k, s, p=0, o=0: n * s + k - 2 * p + o, "n - 1 steps"),
        (lambda n, k, s, p=0, o=0: (n - 1) * s + k - 2 * p + o - 1, "one too few"),
        (lambda n, k, s, p=0, o=0: size_by_formula(n, k, s, p), "output_padding is left out"),
        (lambda n, k, s, p=0, o=0: size_by_formula(n, k, s, p, o) / 1, "integer arithmetic"),
        (lambda n, k, s, p=0: size_by_formula(n, k, s, p), "TypeError"),
        (lambda n, k, s, p=0, o=0: size_by_formula(n, k, s, p, o) + (n == 9), "(9, 5, 2, 2) is 18, expected 17"),
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
    "resnet_features": [
        (lambda resnet: InSequence(*list(resnet.children())[:-2]), "layer as an attribute"),
        (Whole, "the classifier `fc` is still in it"),
        (type("Features", (Features,), {"kept": Features.kept[:-1]}), "differ in layer4"),
        (type("Features", (Features,), {"kept": ("conv1", "bn1", "relu", *Features.kept[4:])}), "maxpool is left out"),
        (features_then(lambda features: features[-1]), "expected a list"),
        (features_then(lambda features: features[1:]), "returns 3 features"),
        (features_then(lambda features: features[::-1]), "come in reverse"),
        (features_then(lambda features: [x.detach() + 1e-2 for x in features]), "the feature of stride 4 differs"),
    ],
    "score_layer": [
        (nn.Conv2d, "TypeError"),
        (lambda c, k: nn.Conv2d(c, k, 1), "the bias does not start at 0"),
        (lambda c, k: score(c, k, nn.init.normal_, std=0.01), "Kaiming"),
        (lambda c, k: score(c, k, nn.init.kaiming_uniform_, a=5**0.5), "PyTorch's own"),
        (lambda c, k: score(c, k, kernel=3), "a 1x1 convolution"),
        (lambda c, k: score(k, c), "expected 400 (in_channels)"),
        (lambda c, k: nn.Linear(c, k), "expected an nn.Conv2d"),
    ],
    "upsample_layer": [
        (lambda k, n: bilinear(k, 2 * n, n, 0, bias=False), "padding is missing"),
        (lambda k, n: bilinear(k, n, n, 0, bias=False), "needs kernel 4"),
        (lambda k, n: random_up(k, 2 * n, n, n // 2, bias=False), "does not start as bilinear"),
        (lambda k, n: every_pair(k, 2 * n, n, n // 2, bias=False), "between all pairs"),
        (lambda k, n: one_by_one(k, n), "nn.ConvTranspose2d"),
    ],
    "bilinear_layer": [
        (lambda k, n: one_by_one(k, n, mode="nearest"), "repeats pixels"),
        (lambda k, n: one_by_one(k, n, init=nn.init.kaiming_normal_), "does not start as the identity"),
        (lambda k, n: nn.Upsample(scale_factor=n, mode="bilinear"), "expected those of one 1x1 convolution"),
        (lambda k, n: bilinear(k, 2 * n, n, n // 2), "expected those of one 1x1 convolution"),
    ],
    "crop_like": [
        (lambda x, like: x, "shape (2, 5, 6, 8), expected (2, 5, 4, 5)"),
        (resized, "resize, which shifts"),
        (lambda x, like: x[..., -like.shape[2] :, -like.shape[3] :], "at the top and at the left"),
    ],
    "shares": [
        (lambda t, s, k: shares_by_sum(t, s, k, ceil=False), "ceil_mode=True"),
        (lambda t, s, k: shares_by_sum(t, s, k, valid=False), "count in the size of a cell"),
        (lambda t, s, k: shares_by_sum(torch.where(t == 255, 0, t), s, k), "counted as background"),
        (lambda t, s, k: F.one_hot(t.long(), k), "void (255) is used as a class"),
        (lambda t, s, k: shares_by_loop(t, s, k)[None], "shape (1, 5, 2, 3), expected (5, 2, 3)"),
    ],
    "parameter_groups": [
        (groups(split=lambda m: (m.encoder.parameters(), m.parameters())), "is model.parameters() taken for the rest?"),
        (groups(split=lambda m: ([], lists(m)[1])), "no parameter of model.encoder is in a group"),
        (generator_read_twice, "is a generator read twice?"),
        (
            groups(split=lambda m: (m.encoder.parameters(), m.head.parameters())),
            "encoder_scale is in no group: take all",
        ),
        (groups(split=lambda m: (lists(m)[0], lists(m)[1][1:])), "encoder_scale is in no group: it has"),
        (groups(split=by_value), "encoder_scale is in no group: take all"),
        (groups(split=in_a_list), "`in` a list compares values"),
        (groups(split=lambda m: (lists(m)[0], lists(m)[1][:-1])), "head.classifier.bias is in no group: take all"),
        (groups(split=lambda m: (lists(m)[0][:1], lists(m)[1])), "encoder.1.weight is in no group: take all"),
        (groups(split=lambda m: lists(m, lambda name: "encoder" in name)), "but is no part of model.encoder"),
        (groups(split=lambda m: lists(m, lambda name: name.startswith("encoder"))), "the rate of encoder_scale"),
        (
            groups(split=lambda m: (lists(m)[0], lists(m, lambda name: "encoder" in name)[1])),
            "is in no group: it has `encoder` in its name",
        ),
        (groups(lambda lr, factor: lr, lambda lr, factor: lr * factor), "the factor is on the wrong part"),
        (groups(lambda lr, factor: lr), "all parts have the same rate"),
        (groups(rest_rate=lambda lr, factor: lr * factor), "only the encoder's is multiplied"),
        (groups(lambda lr, factor: torch.tensor(lr * factor)), '"lr" of group 0 is a torch tensor'),
        (without_rate, 'group 1 has no "lr"'),
        (lambda model, lr, backbone_factor=0.1: [{"lr": lr}], 'group 0 has no "params"'),
        (lambda model, lr, backbone_factor=0.1: torch.optim.SGD(model.parameters(), lr=lr), "a list of dicts"),
        (lambda model, lr, backbone_factor=0.1: {"params": model.parameters(), "lr": lr}, "a list of dicts"),
        (groups(split=lambda m: (m.encoder.named_parameters(), lists(m)[1])), "not named_parameters()"),
        (groups(split=lambda m: (set(m.encoder.parameters()), lists(m)[1])), "no set"),
        (
            groups(split=lambda m: ([name for name, _ in m.named_parameters()], [])),
            "a list that holds a value of type str",
        ),
        (groups(split=lambda m: (m.encoder, m.head)), "are a value of type Sequential"),
        (groups(split=lambda m: (list(m.encoder.state_dict().values()), lists(m)[1])), "a copy, or a buffer"),
        (freezes, "it changes requires_grad"),
    ],
    "warmup_poly": [
        (lambda s, n, w, p=0.9: (1 - s / n) ** p, "the warm-up is left out"),
        (lambda s, n, w, p=0.9: (s + 1) / w if s < w else (1 - s / n) ** p, "the rate jumps"),
        (lambda s, n, w, p=0.9: s / w if s < w else warmup_poly(s, n, w, p), "the first step has rate 0"),
        (lambda s, n, w, p=0.9: (s + 1) / w if s <= w else warmup_poly(s, n, w, p), "one step too long"),
        (lambda s, n, w, p=0.9: min((s + 1) / w, warmup_poly(s, n, w, p)), "without warm-up"),
    ],
    "train_loop": [
        (changed_loop(factor=lambda s, n, w: 1.0), "do not follow the schedule"),
        (changed_loop(split=lambda m, lr, f: [{"params": m.parameters(), "lr": lr}]), "the same rate"),
        (changed_loop(factor=lambda s, n, w: warmup_poly(s, n, 0)), "the warm-up is left out"),
        (changed_loop(keep=lambda losses: losses[-1]), "expected the list"),
        (changed_loop(keep=lambda losses: losses[:1]), "1 losses for 6 batches"),
        (changed_loop(keep=torch.tensor), "expected the list"),
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
