"""The checks of parameter groups, the poly schedule and the exponential loss accept right answers, name mistakes."""

import math

import numpy as np
import pytest
import torch
from judging import assert_hint, assert_passes
from torch.nn import functional

# ----------------------------------------------------------- parameter_groups


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
        {"params": torch.nn.ParameterList(rest), "lr": lr, "name": "head"},
    ]


def by_set(model, lr, backbone_factor=0.1):
    encoder = set(model.encoder.parameters())
    rest = filter(lambda p: p not in encoder, model.parameters())
    return [{"params": rest, "lr": lr}, {"params": [*encoder], "lr": lr * backbone_factor}]


@pytest.mark.parametrize("answer", [by_identity, by_prefix, by_children, by_object, by_set])
def test_groups_accept(answer):
    assert_passes("parameter_groups", answer)


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


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
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
        (
            groups(split=lambda m: lists(m, lambda name: name.startswith("encoder"))),
            "the rate of encoder_scale",
        ),
        (
            groups(split=lambda m: (lists(m)[0], lists(m, lambda name: "encoder" in name)[1])),
            "is in no group: it has `encoder` in its name",
        ),
        (groups(lambda lr, factor: lr, lambda lr, factor: lr * factor), "the factor is on the wrong part"),
        (groups(lambda lr, factor: lr), "all parts have the same rate"),
        (groups(rest_rate=lambda lr, factor: lr * factor), "only the encoder's is multiplied"),
        (groups(lambda lr, factor: factor), "the factor itself"),
        (groups(lambda lr, factor: lr / factor), "divided by the factor"),
        (groups(lambda lr, factor: lr * 0.1), "0.1 is written by hand"),
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
)
def test_groups_reject(answer, hint):
    assert_hint("parameter_groups", answer, hint)


# -------------------------------------------------------------------- poly_lr


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
        (lambda s, n, lr, power=0.9: lr * (1 - s / n), "the power is left out"),
        (lambda s, n, lr, power=0.9: lr * (1 - s // n) ** power, "rounds step / steps down"),
        (lambda s, n, lr, power=0.9: lr * (1 - (s / n) ** power), "on the whole bracket"),
        (lambda s, n, lr, power=0.9: (lr * (1 - s / n)) ** power, "lr is raised to the power, too"),
        (lambda s, n, lr, power=0.9: lr * (1 - s / (n - 1)) ** power, "the denominator is steps - 1"),
        (lambda s, n, lr, power=0.9: lr * (1 - (s + 1) / n) ** power, "one step ahead"),
        (lambda s, n, lr, power=0.9: (1 - s / n) ** power, "lr is left out"),
        (lambda s, n, lr, power=0.9: lr * (1 - s / n) * power, "`**` raises"),
        (lambda s, n, lr, power=0.9: lr * (1 - s / n) ** 0.9, "0.9 is written by hand"),
        (lambda s, n, lr, power=2.0: poly(s, n, lr, power), "poly_lr(30, 100, 0.02) is 0.0098, expected"),
        (lambda s, n, lr, power: poly(s, n, lr, power), "TypeError for poly_lr(0, 100, 0.02)"),
        (lambda s, n, lr, power=0.9: lr * (1 - s / n**power), "`**` binds before `/`"),
        (lambda s, n, lr, power=0.9: lr * (1 - s / n) ** (1 / power), "the exponent is 1 / power"),
        (lambda s, n, lr, power=1.0: poly(s, n, lr, power), "the default of power is 0.9"),
        (lambda s, n, lr, power=0.9: torch.tensor(poly(s, n, lr, power)), "`.item()`"),
    ],
)
def test_poly_rejects(answer, hint):
    assert_hint("poly_lr", answer, hint)


# -------------------------------------------------- exponential_cross_entropy


def exponential(
    logits,
    target,
    beta=1.0,
    ignore_index=255,
    *,
    weight=lambda p, beta: torch.exp(beta * (1 - p)),
    p=lambda logits, labels: logits.softmax(1).gather(1, labels[:, None])[:, 0],
    nll=lambda p, ce: ce,
    mean=lambda losses, valid: losses[valid].sum() / valid.sum().clamp_min(1),
):
    valid = target != ignore_index
    labels = target.where(valid, torch.tensor(0))
    p_t = p(logits, labels)
    ce = functional.cross_entropy(logits, labels, reduction="none")
    return mean(weight(p_t, beta) * nll(p_t, ce), valid)


def exponential_by_cross_entropy(logits, target, beta=1.0, ignore_index=255):
    ce = functional.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    return ((1 - (-ce).exp()) * beta).exp().mul(ce).sum() / max(1, int((target != ignore_index).sum()))


def exponential_of_pixels(logits, target, beta=1.0, ignore_index=255):
    valid = target != ignore_index
    log_p = logits.movedim(1, -1)[valid].log_softmax(-1)[torch.arange(int(valid.sum())), target[valid]]
    if not valid.any():
        return (logits * 0).sum()
    return -(log_p * torch.exp(beta - beta * log_p.exp())).mean()


def exponential_of_one_hot(logits, target, beta=1.0, ignore_index=255):
    """The true class by a mask; void becomes a row of zeros; in float64."""
    log_p = logits.double() - logits.double().logsumexp(1, keepdim=True)
    classes = torch.arange(logits.shape[1])[None, :, None, None]
    valid = (target != ignore_index)[:, None]
    hit = (target[:, None] == classes) & valid
    losses = torch.where(hit, -log_p * math.e ** (beta * (1 - log_p.exp())), 0.0)
    return losses.sum() / valid.sum().clamp_min(1)


def exponential_by_image(logits, target, beta=1.0, ignore_index=255):
    total, valid = 0 * logits.mean(), 0
    for scores, labels in zip(logits, target, strict=True):
        nll = functional.nll_loss(
            scores.log_softmax(0)[None], labels[None], ignore_index=ignore_index, reduction="none"
        )
        total = total + torch.masked_select(nll * torch.exp(beta * (1 - torch.exp(-nll))), nll > 0).sum()
        valid += int((labels != ignore_index).sum())
    return total / max(valid, 1)


@pytest.mark.parametrize(
    "answer",
    [exponential, exponential_by_cross_entropy, exponential_of_pixels, exponential_of_one_hot, exponential_by_image],
)
def test_exponential_accepts(answer):
    assert_passes("exponential_cross_entropy", answer)


def changed(**parts):
    return lambda *given, **named: exponential(*given, **named, **parts)


def per_image(losses, valid):
    return torch.stack([x[v].sum() / v.sum().clamp_min(1) for x, v in zip(losses, valid, strict=True)]).mean()


def picked(activation):
    return lambda logits, labels: activation(logits).gather(1, labels[:, None])[:, 0]


def by_hand(p, ce):
    return -p.log()


def normalised(logits, target, beta=1.0, ignore_index=255):
    weights = []

    def remember(p, beta):
        weights.append(torch.exp(beta * (1 - p)))
        return weights[0]

    def mean(losses, valid):
        return losses[valid].sum() / weights[0][valid].sum()

    return exponential(logits, target, beta, ignore_index, weight=remember, mean=mean)


def unmasked(fill):
    def answer(logits, target, beta=1.0, ignore_index=255):
        return exponential(logits, target.where(target != ignore_index, torch.tensor(fill)), beta, -1)

    return answer


def averaged_first(logits, target, beta=1.0, ignore_index=255):
    nll = functional.cross_entropy(logits, target, ignore_index=ignore_index)
    return torch.exp(beta * (1 - torch.exp(-nll))) * nll


def multiplied_in_place(logits, target, beta=1.0, ignore_index=255):
    """The right number, but what exp gave has changed before its gradient is asked for."""
    nll = functional.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    losses = torch.exp(beta * (1 - torch.exp(-nll)))
    losses *= nll
    return losses.sum() / (target != ignore_index).sum().clamp_min(1)


def zero_constant(logits, target, beta=1.0, ignore_index=255):
    if (target == ignore_index).all():
        return torch.tensor(0.0)
    return exponential(logits, target, beta, ignore_index)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        # void and the mean
        (changed(mean=lambda losses, valid: (losses * valid).mean()), "void pixels are counted in the mean"),
        (changed(mean=lambda losses, valid: losses.mean()), "void pixels are counted as background"),
        (changed(mean=lambda losses, valid: losses.sum() / valid.sum()), "void pixels are counted as background"),
        (unmasked(0), "void pixels are counted as background"),
        (unmasked(3), "void pixels are counted as the last class"),
        (changed(mean=lambda losses, valid: losses[valid].sum()), "it is the sum over pixels"),
        (changed(mean=per_image), "averaged within each image first"),
        (normalised, "the sum of the weights"),
        (changed(mean=lambda losses, valid: losses[valid].mean()), "a batch of void alone gives nan, expected 0"),
        (zero_constant, "void alone gives a loss without a gradient"),
        (
            lambda logits, target, beta=1.0, ignore_index=255: exponential(logits, target, beta),
            "is 255 written by hand?",
        ),
        (
            lambda logits, target, beta=1.0, ignore_index=255: logits.softmax(1).gather(1, target[:, None]).mean(),
            "void (255) is used as a class index",
        ),
        # the weight
        (changed(weight=lambda p, beta: torch.exp(beta * p)), "exp(beta * p_t) favours easy"),
        (changed(weight=lambda p, beta: torch.exp(-beta * (1 - p))), "the exponent has the wrong sign"),
        (changed(weight=lambda p, beta: torch.exp(-beta * p)), "the weight is exp(-beta * p_t)"),
        (changed(weight=lambda p, beta: torch.exp(1 - p)), "beta is not used"),
        (changed(weight=lambda p, beta: 1), "the weight is missing"),
        (changed(weight=lambda p, beta: beta * (1 - p)), "exp is missing"),
        (changed(weight=lambda p, beta: (1 - p) ** beta), "would be the focal loss"),
        (changed(weight=lambda p, beta: torch.exp(beta * 1 - p)), "the exponent is beta - p_t"),
        (changed(weight=lambda p, beta: math.e**beta * (1 - p)), "the weight is e^beta * (1 - p_t)"),
        (changed(weight=lambda p, beta: torch.exp(beta * (1 + p.log()))), "the weight has -log p_t for p_t"),
        (changed(weight=lambda p, beta: torch.exp(beta * (1 - p.log()))), "the weight has log p_t for p_t"),
        (changed(weight=lambda p, beta: torch.exp(-beta * p.log())), "the weight is exp(-beta * log p_t)"),
        (changed(weight=lambda p, beta: 1 + beta * (1 - p)), "exp is missing"),
        (averaged_first, 'reduction="none" gives that of each pixel'),
        (changed(nll=lambda p, ce: 1), "the logarithm is missing"),
        (changed(nll=lambda p, ce: -ce), "the sign is wrong"),
        # p_t
        (changed(p=lambda logits, labels: logits.softmax(1).max(1).values), "the highest probability"),
        (changed(p=lambda logits, labels: logits.softmax(1).max(1).values, nll=by_hand), "p_t is the highest"),
        (changed(p=picked(torch.sigmoid)), "p_t comes from a sigmoid"),
        (changed(p=picked(torch.sigmoid), nll=by_hand), "it uses sigmoid"),
        (changed(p=picked(lambda x: x.softmax(2)), nll=by_hand), "wrong axis"),
        (changed(p=picked(lambda x: x.softmax(-1)), nll=by_hand), "wrong axis"),
        (changed(p=picked(lambda x: x.softmax(0))), "wrong axis"),
        (changed(p=picked(lambda x: x.softmax(1).softmax(1)), nll=by_hand), "softmax is taken twice"),
        (changed(nll=by_hand), "take log_softmax"),
        (changed(nll=lambda p, ce: -(p + 1e-9).log()), "take log_softmax"),
        # gradients
        (changed(weight=lambda p, beta: torch.exp(beta * (1 - p.detach()))), "p_t in the weight is detached"),
        (changed(nll=lambda p, ce: ce.detach()), "p_t in the logarithm is detached"),
        (multiplied_in_place, "an operation in place"),
        (lambda logits, target, **named: exponential(logits.sub_(1.0), target, **named), "changes the logits in place"),
        (changed(weight=lambda p, beta: torch.from_numpy(np.exp(p))), "NumPy knows no gradients"),
        (lambda *given, **named: exponential(*given, **named).detach(), "no gradient comes back"),
        (lambda *given, **named: exponential(*given, **named).item(), "expected a torch tensor"),
        (lambda *given, **named: exponential(*given, **named).view(1), "has shape (1,), expected ()"),
    ],
)
def test_exponential_rejects(answer, hint):
    assert_hint("exponential_cross_entropy", answer, hint)
