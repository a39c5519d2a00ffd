"""The checks of the Dice loss and of a training step: right answers pass, mistakes are named."""

import pytest
import torch
from judging import assert_hint, assert_passes
from torch.nn import functional

# ------------------------------------------------------------------ dice_loss


def dice(
    logits,
    target,
    ignore_index=255,
    smooth=1.0,
    *,
    activation=lambda x: x.softmax(1),
    mask=True,
    above=True,
    below=True,
    factor=2,
    everything=False,
    power=1,
):
    p = activation(logits)
    valid = (target != ignore_index)[:, None]
    truth = functional.one_hot(target * valid[:, 0], logits.shape[1]).movedim(-1, 1) * valid
    if mask:
        p = p * valid
    overlap, areas = (p * truth).sum((0, 2, 3)), (p**power + truth).sum((0, 2, 3))
    values = (factor * overlap + smooth * above) / (areas + smooth * below)
    return 1 - values[(truth.sum((0, 2, 3)) > 0) | everything].mean()


def dice_by_class(logits, target, ignore_index=255, smooth=1.0):
    valid = target != ignore_index
    p = torch.exp(torch.log_softmax(logits, 1)).movedim(1, -1)[valid]
    losses = [
        1 - (2 * p[target[valid] == k, k].sum() + smooth) / (p[:, k].sum() + (target[valid] == k).sum() + smooth)
        for k in target[valid].unique()
    ]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("answer", [dice, dice_by_class])
def test_dice_accepts(answer):
    assert_passes("dice_loss", answer)


def changed(**options):
    return lambda *given, **named: dice(*given, **named, **options)


def dice_per_image(logits, target, ignore_index=255, smooth=1.0):
    pairs = zip(logits, target, strict=True)
    return torch.stack([dice(x[None], y[None], ignore_index, smooth) for x, y in pairs]).mean()


def dice_one_hot_of_void(logits, target, ignore_index=255, smooth=1.0):
    return functional.one_hot(target, logits.shape[1]).float().mean()


def dice_void_in_place(logits, target, ignore_index=255, smooth=1.0):
    target[target == ignore_index] = 0
    return dice(logits, target)


def hard_dice(logits, target, ignore_index=255, smooth=1.0):
    labels = 50 * functional.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).float()
    return dice(labels, target, ignore_index, smooth)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (changed(activation=lambda x: x), "softmax is missing"),
        (changed(activation=torch.sigmoid), "sigmoid"),
        (changed(activation=lambda x: x.softmax(2)), "wrong axis"),
        (changed(mask=False), "mask the probabilities"),
        (changed(above=False, below=False), "`smooth` is missing: add it above and below"),
        (changed(above=False), "missing in the numerator"),
        (changed(below=False), "missing in the denominator"),
        (changed(factor=1), "the 2 is missing"),
        (changed(everything=True), "only over those present"),
        (changed(power=2), "sums of squares"),
        (lambda *given, **named: 1 - dice(*given, **named), "the loss is 1 - it"),
        (lambda *given, **named: dice(*given, **named) - 1, "minus the Dice score"),
        (lambda *given, **named: dice(*given, **named).item(), "expected a torch tensor"),
        (lambda *given, **named: dice(*given, **named).detach(), "no gradient"),
        (lambda x, y, ignore_index=255, smooth=1.0: dice(x, y, 255, smooth), "ignore_index=1"),
        (lambda x, y, ignore_index=255, smooth=1.0: dice(x, y, ignore_index), "smooth=10"),
        (
            lambda x, y, ignore_index=255, smooth=1.0: dice(x, torch.where(y == ignore_index, 0, y), 99, smooth),
            "counted as background",
        ),
        (dice_per_image, "averaged over images"),
        (dice_one_hot_of_void, "one_hot"),
        (dice_void_in_place, "in place"),
        (hard_dice, "expected 0."),
        (lambda *given, **named: dice(*given, **named) + 0.01, "the loss is 0."),
    ],
)
def test_dice_rejects(answer, hint):
    assert_hint("dice_loss", answer, hint)


# ----------------------------------------------------------------- train_step


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
    steps=1,
):
    model.train(mode)
    if zero == "before":
        optimizer.zero_grad()
    loss = functional.cross_entropy(change(model(images)), targets, ignore_index=ignore_index, reduction=reduction)
    if backward:
        loss.backward()
    if zero == "between":
        optimizer.zero_grad()
    for _ in range(steps):
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


@pytest.mark.parametrize("answer", [step, changed_step(zero="after"), step_by_nll])
def test_train_step_accepts(answer):
    assert_passes("train_step", answer)


def step_returning_tensor(model, images, targets, optimizer):
    model.train()
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(images), targets, ignore_index=255)
    loss.backward()
    optimizer.step()
    return loss


def step_without_mode(model, images, targets, optimizer):
    return step(model, images, targets, optimizer, mode=model.training)


def step_on_background(model, images, targets, optimizer):
    return step(model, images, torch.where(targets == 255, 0, targets), optimizer)


def step_twice_forward(model, images, targets, optimizer):
    model.train()
    model(images)
    return step(model, images, targets, optimizer)


def step_clipped(model, images, targets, optimizer):
    model.train()
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(images), targets, ignore_index=255)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (changed_step(zero="never"), "zero_grad() before backward"),
        (changed_step(zero="between"), "come between them"),
        (changed_step(mode=False), "call model.train()"),
        (step_without_mode, "call model.train()"),
        (changed_step(ignore_index=-100), "ignore_index=255"),
        (changed_step(change=lambda logits: logits.softmax(1)), "softmax before cross_entropy"),
        (changed_step(change=torch.sigmoid), "sigmoid before cross_entropy"),
        (changed_step(reduction="sum"), "take the mean"),
        (changed_step(backward=False), "backward()"),
        (changed_step(steps=0), "optimizer.step() missing"),
        (changed_step(steps=2), "called twice"),
        (step_on_background, "as background"),
        (step_returning_tensor, "`.item()`"),
        (step_twice_forward, "more than once"),
        (step_clipped, "the weight layers.0.weight"),
        (lambda *given: 0.0, "the model is not run"),
        (lambda *given: None, "not written yet"),
    ],
)
def test_train_step_rejects(answer, hint):
    assert_hint("train_step", answer, hint)
