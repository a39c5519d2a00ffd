"""Check of lab 06's step of training: a model that takes prompts, one loss, a gradient that is clipped."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from labhelpers.course.checks import prompt_references as references
from labhelpers.course.checks.compare import unchanged
from labhelpers.course.checks.core import Check, Mistake, exercise
from labhelpers.prompting.task import prompt_loss

_MASKS = 3
_LR = 0.5


class _ToySAM(nn.Module):
    """A model with the prompts and results of Mini-SAM; remembers its mode, and what it must be given."""

    def __init__(self):
        super().__init__()
        self.image = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.prompt = nn.Linear(2 * 2 + 2 + 4, 6)
        self.mask_head = nn.Conv2d(6, _MASKS, 1)
        self.iou_head = nn.Linear(6, _MASKS)
        self.modes: list[bool] = []
        self.batch: tuple[Tensor, ...] = ()
        self.steepness = 1.0

    def forward(
        self, images: Tensor, points: Tensor = None, point_labels: Tensor = None, boxes: Tensor = None
    ) -> tuple[Tensor, Tensor]:
        given = (images, points, point_labels, boxes)
        same = all(isinstance(x, Tensor) and unchanged(y, x) for x, y in zip(given, self.batch, strict=False))
        if not same:
            raise Mistake("the model is given something else: call it as model(images, points, labels, boxes).")
        self.modes.append(self.training)
        said = self.prompt(torch.cat([points.flatten(1) / 8, point_labels, boxes / 8], 1))
        x = (self.norm(self.image(images)) + said[..., None, None]).relu()
        return self.steepness * self.mask_head(x), self.iou_head(x.mean((2, 3))).sigmoid()


@exercise("training_step", references.training_step)
def training_step(check: Check, answer) -> None:
    """Three steps of a toy model: mode, loss, and every weight after each; two steep ones that are clipped, one not."""
    start = _ToySAM().eval()
    batches = [(_batch(), steepness) for steepness in (20.0, 12.0, 0.1)]
    model, right = copy.deepcopy(start), copy.deepcopy(start)
    optimizer, right_optimizer = (torch.optim.SGD(net.parameters(), lr=_LR) for net in (model, right))
    steps: list[int] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    errors = {
        "backward through the graph a second time": "the graph of an earlier step is kept: compute the loss anew in "
        "each step.",
        "does not require grad": "the loss has no gradient: is the model run under no_grad, or the loss detached?",
    }
    for number, (batch, steepness) in enumerate(batches):
        step = f"the {('first', 'second', 'third')[number]} step"
        for net in (model, right):
            net.batch, net.steepness = batch, steepness
        before = copy.deepcopy(model.state_dict())
        loss = check.call(answer, model, optimizer, *batch, when=f"in {step}", errors=errors)
        expected = references.training_step(right, right_optimizer, *batch)
        check.that(bool(model.modes), "the model is not run: logits, iou = model(images, points, labels, boxes).")
        evaluating = "the model runs in evaluation mode, so batch norm does not train: call model.train()."
        check.that(all(model.modes), evaluating)
        once = len(model.modes) == number + 1
        check.that(once, "the model is run more than once in a step: one forward pass is enough.")
        seen = batches[: number + 1]
        wrong = ((value, hint) for value, _, hint in _wrong_steps(start, seen))
        check.equal(loss, expected, f"the loss of {step} (is it prompt_loss?)", wrong)
        weights = dict(model.named_parameters())
        once = f"optimizer.step() is called {len(steps) - number} times in a step, expected once."
        check.that(len(steps) == number + 1, once)
        moved = any(not torch.equal(weight, before[name]) for name, weight in weights.items())
        missing = "is backward() missing, or does zero_grad() come between it and step()?"
        check.that(moved, f"the weights are the same after {step}: {missing}")
        for name, weight in right.named_parameters():
            mistakes = ((state[name], hint) for _, state, hint in _wrong_steps(start, seen))
            check.equal(weights[name], weight, f"after {step} the weight {name}", mistakes)


def _batch() -> tuple[Tensor, ...]:
    """images, points, labels, boxes, target, weight."""
    target, weight = (torch.rand(2, 6, 7) > 0.6).float(), torch.ones(2, 6, 7)
    weight[:, :2] = 0
    points, labels = torch.randint(0, 6, (2, 2, 2)).float(), torch.tensor([[1, 0], [1, -1]])
    return torch.randn(2, 3, 6, 7), points, labels, 6 * torch.rand(2, 4), target, weight


def _wrong_steps(start: nn.Module, batches: list) -> Iterator[tuple[float, dict[str, Tensor], str]]:
    """The last loss, the weights and the hint for each wrong way to train on the batches."""
    for changes, hint in _MISTAKES:
        model = copy.deepcopy(start).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=_LR)
        for batch, model.steepness in batches:
            model.batch = batch
            loss = _step(model, optimizer, batch, **changes)
        yield loss, model.state_dict(), hint


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, ...], **changes: Any) -> float:
    """A step with one thing wrong in it, to recognise the mistake by its numbers."""
    if changes.get("zero", True):
        optimizer.zero_grad()
    *given, target, weight = batch
    logits, iou = model(*given)
    loss = changes.get("loss", prompt_loss)(logits, iou, target, weight)
    loss.backward()
    clip = changes.get("clip", lambda parameters: nn.utils.clip_grad_norm_(parameters, 1.0))
    clip(list(model.parameters()))
    optimizer.step()
    return loss.item()


def _none(parameters: list[nn.Parameter]) -> None:
    pass


def _by_value(parameters: list[nn.Parameter]) -> None:
    nn.utils.clip_grad_value_(parameters, 1.0)


def _each(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        nn.utils.clip_grad_norm_(parameter, 1.0)


def _always(parameters: list[nn.Parameter]) -> None:
    norm = torch.stack([parameter.grad.norm() for parameter in parameters]).norm()
    for parameter in parameters:
        parameter.grad /= norm


_CLIPPING = "clip_grad_norm_(model.parameters(), 1.0) between backward() and step()."
_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"zero": False}, "the gradient of the step before is still there: call optimizer.zero_grad() before backward()."),
    ({"clip": _none}, f"the gradient is not clipped, or before backward() has made it, or after the step: {_CLIPPING}"),
    ({"clip": _by_value}, f"each value of the gradient is clipped, which turns it: the norm is, {_CLIPPING}"),
    ({"clip": _each}, f"each weight's gradient is clipped on its own: the norm of all together is, {_CLIPPING}"),
    ({"clip": _always}, f"the gradient is always scaled to norm 1: only a larger one is, {_CLIPPING}"),
    *(
        (
            {"clip": lambda p, norm=norm: nn.utils.clip_grad_norm_(p, norm)},
            f"clipped at {norm}, expected 1.0: {_CLIPPING}",
        )
        for norm in (0.1, 0.5, 2.0, 5.0, 10.0)
    ),
    (
        {"loss": lambda logits, iou, target, weight: prompt_loss(logits, iou, target, torch.ones_like(weight))},
        "void is trained: hand the weight on to prompt_loss.",
    ),
    (
        {"loss": lambda logits, iou, target, weight: prompt_loss(logits, iou, weight, target)},
        "target and weight are exchanged: prompt_loss(logits, predicted_iou, target, weight).",
    ),
    (
        {"loss": lambda logits, iou, target, weight: prompt_loss(logits.sigmoid(), iou, target, weight)},
        "there is a sigmoid before prompt_loss, which applies its own: give it the logits.",
    ),
    (
        {"loss": lambda logits, iou, target, weight: prompt_loss(logits.softmax(1), iou, target, weight)},
        "there is a softmax before prompt_loss: give it the logits.",
    ),
    (
        {"loss": lambda logits, iou, target, weight: prompt_loss(logits, iou.detach(), target, weight)},
        "the predicted IoU is detached: it must learn from its error.",
    ),
    (
        {"loss": lambda logits, iou, target, weight: len(logits) * prompt_loss(logits, iou, target, weight)},
        "the loss is multiplied by the size of the batch: it is a mean already.",
    ),
]
