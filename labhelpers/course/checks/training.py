"""Checks of lab 02's training exercises: a loss that counts area, and one step of training."""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from labhelpers.course.checks import references
from labhelpers.course.checks.core import Check, exercise
from labhelpers.training.losses import dice

_K = 4


@exercise("dice_loss", dice)
def dice_loss(check: Check, answer) -> None:
    """A batch with void, an absent class and images that differ; other smoothing, other void, all void; gradients."""
    logits = 2 * torch.randn(2, _K, 5, 6)
    target = torch.randint(0, _K - 1, (2, 5, 6))  # class 3 is absent
    target[0, :3], target[1, 3:], target[1, 0] = 0, 1, 255
    errors = {
        "Class values must be smaller than num_classes": "void (255) goes into one_hot as if it were a class: leave "
        "void pixels out first, or replace them and multiply by a mask.",
        "index 255 is out of bounds": "void (255) is used as a class index: leave void pixels out first.",
    }
    logits.requires_grad_()
    found = check.call(answer, logits, target, errors=errors)
    check.equal(found, dice(logits, target), "the loss", _dice_mistakes(logits, target))
    check.that(
        found.requires_grad,
        "no gradient comes back: is there an argmax, a detach or an `.item()`? Soft Dice uses the probabilities.",
    )
    for settings in ({"smooth": 10.0}, {"ignore_index": 1}):
        counted = torch.where(target == 255, 0, target)
        found = check.call(answer, logits, counted, errors=errors, **settings)
        words = ", ".join(f"{name}={value:g}" for name, value in settings.items())
        ignored = [(dice(logits, counted), f"it does not use its argument in {words}.")]
        mistakes = ignored + _dice_mistakes(logits, counted, **settings)
        check.equal(found, dice(logits, counted, **settings), f"the loss for {words}", mistakes)
    perfect = 50 * functional.one_hot(target.clamp_max(_K - 1), _K).permute(0, 3, 1, 2).float()
    check.equal(check.call(answer, perfect, target, errors=errors), torch.zeros(()), "the loss of a perfect prediction")


def _dice_mistakes(logits: Tensor, target: Tensor, ignore_index: int = 255, smooth: float = 1.0) -> list:
    wrong = partial(_soft_dice, logits.detach(), target, ignore_index, smooth)
    return [
        (1 - wrong(), "this is the Dice score, which grows with overlap: the loss is 1 - it."),
        (-(1 - wrong()), "this is minus the Dice score: the loss is 1 - it, 0 when all is right."),
        (wrong(activation=lambda x: x), "softmax is missing: Dice needs probabilities, not logits."),
        (
            wrong(activation=torch.sigmoid),
            "it uses sigmoid: classes exclude each other here, softmax over the channels.",
        ),
        (
            wrong(activation=lambda x: x.softmax(2)),
            "the softmax runs over the wrong axis: over the classes, dim=1 of (B, K, H, W).",
        ),
        (wrong(activation=lambda x: x.log_softmax(1)), "it uses log-probabilities: Dice needs probabilities, softmax."),
        (wrong(void="counted"), "void pixels are counted in the predicted area: mask the probabilities as well."),
        (wrong(void="background"), "void pixels are counted as background: leave them out of target and prediction."),
        (wrong(smooth_above=0.0), "`smooth` is missing in the numerator: 2 overlap + smooth, over the areas + smooth."),
        (
            wrong(smooth_below=0.0),
            "`smooth` is missing in the denominator: 2 overlap + smooth, over the areas + smooth.",
        ),
        (wrong(smooth_above=0.0, smooth_below=0.0), "`smooth` is missing: add it above and below the fraction bar."),
        (
            wrong(per_image=True),
            "it is averaged over images: sum overlap and areas over the whole batch first, then divide.",
        ),
        (
            wrong(every_class=True),
            "classes absent from the target enter the mean: average only over those present.",
        ),
        (wrong(factor=1), "the 2 is missing: 2 overlap over the sum of both areas."),
        (wrong(square=True), "the areas are sums of squares: this definition sums the probabilities themselves."),
        (wrong(union=True), "this is the soft Jaccard loss (overlap over union): Dice is 2 overlap over both areas."),
        (wrong(micro=True), "it sums over the classes before dividing: one fraction for each class, then their mean."),
    ]


def _soft_dice(
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    smooth: float,
    *,
    activation: Callable[[Tensor], Tensor] = lambda x: x.softmax(1),
    void: str = "out",
    smooth_above: float | None = None,
    smooth_below: float | None = None,
    per_image: bool = False,
    every_class: bool = False,
    factor: int = 2,
    square: bool = False,
    union: bool = False,
    micro: bool = False,
) -> Tensor:
    """Soft Dice with one thing wrong in it, to recognise the mistake by its number."""
    above = smooth if smooth_above is None else smooth_above
    below = smooth if smooth_below is None else smooth_below
    p = activation(logits)
    valid = target != ignore_index
    truth = functional.one_hot(torch.where(valid, target, 0), _K).permute(0, 3, 1, 2).float()
    if void != "background":
        truth = truth * valid[:, None]
    if void == "out":
        p = p * valid[:, None]
    axes = (2, 3) if per_image else (0, 2, 3)
    overlap = (p * truth).sum(axes)
    areas = ((p**2 + truth) if square else (p + truth)).sum(axes)
    if union:
        areas, factor = areas - overlap, 1
    present = truth.sum(axes) > 0
    if micro:
        return 1 - (factor * overlap.sum() + above) / (areas.sum() + below)
    score = (factor * overlap + above) / (areas + below)
    if every_class:
        return 1 - score.mean()
    if per_image:
        return 1 - torch.stack([s[seen].mean() for s, seen in zip(score, present, strict=True)]).mean()
    return 1 - score[present].mean()


class _TinyNet(nn.Module):
    """Two convolutions with batch norm between; remembers in which mode it was run."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, _K, 1))
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        return self.layers(images)


@exercise("train_step", references.train_step)
def train_step(check: Check, answer) -> None:
    """Two steps of a tiny network that was in evaluation mode: mode, loss, and every weight after each step."""
    start = _TinyNet().eval()
    batches = [(torch.randn(2, 3, 6, 7), torch.randint(0, _K, (2, 6, 7))) for _ in range(2)]
    for _, targets in batches:
        targets[:, :2] = 255
    model, right = copy.deepcopy(start), copy.deepcopy(start)
    optimizer, right_optimizer = (torch.optim.SGD(net.parameters(), lr=0.5) for net in (model, right))
    errors = {
        "255 is out of bounds": "void (255) reaches cross_entropy as a class: pass ignore_index=255.",
        "backward through the graph a second time": "the graph of an earlier step is kept: compute the loss anew "
        "each time.",
    }
    for number, (images, targets) in enumerate(batches):
        step = ("the first step", "the second step")[number]
        wrong = partial(_wrong_steps, start, batches[: number + 1])
        before = copy.deepcopy(model.state_dict())
        loss = check.call(answer, model, images, targets, optimizer, when=f"in {step}", errors=errors)
        expected = references.train_step(right, images, targets, right_optimizer)
        check.that(bool(model.modes), "the model is not run: start with logits = model(images).")
        evaluating = "the model runs in evaluation mode, so batch norm and dropout do not train: call model.train()."
        check.that(all(model.modes), evaluating)
        once = len(model.modes) == number + 1
        check.that(once, "the model is run more than once in a step: one forward pass is enough.")
        check.equal(loss, expected, f"the loss of {step}", ((value, hint) for value, _, hint in wrong()))
        weights = dict(model.named_parameters())
        moved = any(not torch.equal(weight, before[name]) for name, weight in weights.items())
        missing = "is backward() or optimizer.step() missing, or does zero_grad() come between them?"
        check.that(moved, f"the weights are the same after {step}: {missing}")
        for name, weight in right.named_parameters():
            mistakes = ((state[name], hint) for _, state, hint in wrong())
            check.equal(weights[name], weight, f"after {step} the weight {name}", mistakes)


def _wrong_steps(start: nn.Module, batches: list) -> Iterator[tuple[float, dict[str, Tensor], str]]:
    """The last loss, the weights and the hint for each wrong way to train on the batches."""
    for variant, hint in _STEP_MISTAKES:
        model = copy.deepcopy(start).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for images, targets in batches:
            loss = variant(model, images, targets, optimizer)
        yield loss, model.state_dict(), hint


def _step(model, images, targets, optimizer, *, loss=functional.cross_entropy, zero=True, repeat=1):
    if zero:
        optimizer.zero_grad()
    value = loss(model(images), targets)
    value.backward()
    for _ in range(repeat):
        optimizer.step()
    return value.item()


def _loss(change_logits=lambda logits: logits, change_targets=lambda targets: targets, reduction="mean"):
    def loss(logits, targets):
        logits, targets = change_logits(logits), change_targets(targets)
        return functional.cross_entropy(logits, targets, ignore_index=255, reduction=reduction)

    return loss


def _mean_with_void(logits, targets):
    return _loss(reduction="none")(logits, targets).mean()


_STEP_MISTAKES = [
    (
        partial(_step, loss=_loss(), zero=False),
        "the gradients of the step before are still there: call optimizer.zero_grad() before backward().",
    ),
    (
        partial(_step, loss=_loss(lambda logits: logits.softmax(1))),
        "there is a softmax before cross_entropy, which applies its own: give it the logits.",
    ),
    (
        partial(_step, loss=_loss(torch.sigmoid)),
        "there is a sigmoid before cross_entropy, which applies softmax itself: give it the logits.",
    ),
    (
        partial(_step, loss=_loss(change_targets=lambda targets: torch.where(targets == 255, 0, targets))),
        "void pixels (255) are trained as background: leave them out with ignore_index=255.",
    ),
    (
        partial(_step, loss=_loss(change_targets=lambda targets: targets.clamp_max(_K - 1))),
        "void pixels (255) are trained as the last class: leave them out with ignore_index=255.",
    ),
    (
        partial(_step, loss=_loss(reduction="sum")),
        "the loss is the sum over pixels: take the mean, else the step grows with the image.",
    ),
    (
        partial(_step, loss=_mean_with_void),
        "void pixels enter the mean (as zeros): divide by the number of valid pixels, as ignore_index=255 does.",
    ),
    (partial(_step, loss=_loss(), repeat=2), "optimizer.step() is called twice: once a batch."),
]
