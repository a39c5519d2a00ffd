"""The check of a training step with prompts accepts right answers and names the mistake of wrong ones."""

import pytest
import torch
from judging import assert_hint, assert_passes
from torch import nn

from labhelpers.prompting import prompt_loss


def plain(model, optimizer, images, points, labels, boxes, target, weight):
    model.train()
    logits, iou = model(images, points, labels, boxes)
    loss = prompt_loss(logits, iou, target, weight)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimizer.step()
    return loss.item()


def by_names(model, optimizer, images, points, labels, boxes, target, weight):
    """Keywords, zeroed afterwards, clipped by hand."""
    output = model.train()(images, points=points, point_labels=labels, boxes=boxes)
    loss = prompt_loss(*output, target=target, weight=weight)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.sqrt(sum(g.square().sum() for g in gradients)).item()
    if norm > 1:
        for gradient in gradients:
            gradient.mul_(1 / norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return float(loss.detach())


def of_any_resolution(model, optimizer, images, points, labels, boxes, target, weight):
    """Resizes the target where the logits are smaller; here they are not."""
    model.train(True)
    for parameter in model.parameters():
        parameter.grad = None
    with torch.enable_grad():
        logits, predicted = model(images, points, labels, boxes)
        size = logits.shape[-2:]
        small = [nn.functional.interpolate(x[:, None], size, mode="area")[:, 0] for x in (target, weight)]
        loss = prompt_loss(logits, predicted, *small)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1)
    optimizer.step()
    return loss.detach().cpu().numpy().item()


@pytest.mark.parametrize("answer", [plain, by_names, of_any_resolution])
def test_accepts(answer):
    assert_passes("training_step", answer)


def step(
    model,
    optimizer,
    images,
    points,
    labels,
    boxes,
    target,
    weight,
    *,
    mode=True,
    given=lambda images, points, labels, boxes: (images, points, labels, boxes),
    logits_of=lambda x: x,
    iou_of=lambda x: x,
    loss_of=prompt_loss,
    zero="before",
    clip="after backward",
    clipping=lambda model: nn.utils.clip_grad_norm_(model.parameters(), 1.0),
    backward=True,
    steps=1,
    result=lambda loss: loss.item(),
):
    """A student's step with a place for each mistake."""
    model.train(mode)
    if zero == "before":
        optimizer.zero_grad()
    logits, iou = model(*given(images, points, labels, boxes))
    loss = loss_of(logits_of(logits), iou_of(iou), target, weight)
    if clip == "before backward":
        clipping(model)
    if backward:
        loss.backward()
    if zero == "between":
        optimizer.zero_grad()
    if clip == "after backward":
        clipping(model)
    for _ in range(steps):
        optimizer.step()
    if clip == "after step":
        clipping(model)
    return result(loss)


def changed(**changes):
    return lambda *given: step(*given, **changes)


def twice(model, optimizer, images, points, labels, boxes, target, weight):
    model.train()
    model(images, points, labels, boxes)
    return plain(model, optimizer, images, points, labels, boxes, target, weight)


def no_gradient(model, optimizer, images, points, labels, boxes, target, weight):
    with torch.no_grad():
        return plain(model, optimizer, images, points, labels, boxes, target, weight)


def own_optimizer(model, optimizer, *batch):
    return plain(model, torch.optim.SGD(model.parameters(), lr=0.1), *batch)


def each_weight(model):
    for parameter in model.parameters():
        nn.utils.clip_grad_norm_([parameter], 1.0)


def always(model):
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    for p in model.parameters():
        p.grad /= norm


def only_heads(model):
    nn.utils.clip_grad_norm_(model.mask_head.parameters(), 1.0)


WRONG = [
    (changed(zero="never"), "the gradient of the step before is still there"),
    (changed(zero="between"), "does zero_grad() come between it and step()?"),
    (changed(backward=False), "is backward() missing"),
    (changed(steps=0), "optimizer.step() is called 0 times"),
    (changed(steps=2), "optimizer.step() is called 2 times in a step"),
    (changed(clip="never"), "the gradient is not clipped"),
    (changed(clip="before backward"), "or before backward() has made it"),
    (changed(clip="after step"), "or after the step"),
    (changed(clip="never", zero="never"), "the gradient is not clipped"),
    (changed(clipping=lambda model: nn.utils.clip_grad_value_(model.parameters(), 1.0)), "each value of the gradient"),
    (changed(clipping=each_weight), "each weight's gradient is clipped on its own"),
    (changed(clipping=always), "always scaled to norm 1"),
    (changed(clipping=lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.1)), "clipped at 0.1, expected 1.0"),
    (changed(clipping=lambda model: nn.utils.clip_grad_norm_(model.parameters(), 5)), "clipped at 5.0, expected 1.0"),
    (
        changed(clipping=lambda model: nn.utils.clip_grad_norm_(model.parameters(), 3)),
        "after the first step the weight",
    ),
    (changed(clipping=only_heads), "the gradient is not clipped"),
    (changed(mode=False), "evaluation mode"),
    (changed(result=lambda loss: loss), "expected a Python float. Convert it with `.item()`, which also lets go"),
    (changed(result=lambda loss: loss.detach()), "expected a Python float"),
    (changed(result=lambda loss: None), "not written yet"),
    (changed(logits_of=torch.sigmoid), "a sigmoid before prompt_loss"),
    (changed(logits_of=lambda x: x.softmax(1)), "a softmax before prompt_loss"),
    (changed(logits_of=torch.detach), "after the first step the weight"),
    (changed(iou_of=torch.detach), "the predicted IoU is detached"),
    (changed(loss_of=lambda x, i, t, w: prompt_loss(x, i, w, t)), "target and weight are exchanged"),
    (changed(loss_of=lambda x, i, t, w: prompt_loss(x, i, t, torch.ones_like(w))), "void is trained"),
    (changed(loss_of=lambda x, i, t, w: 2 * prompt_loss(x, i, t, w)), "multiplied by the size of the batch"),
    (
        changed(loss_of=lambda x, i, t, w: prompt_loss(x, i, t, w) + 0.1),
        "the loss of the first step (is it prompt_loss?)",
    ),
    (changed(given=lambda images, points, labels, boxes: (images,)), "model(images, points, labels, boxes)"),
    (
        changed(given=lambda images, points, labels, boxes: (images, points, labels)),
        "model(images, points, labels, boxes)",
    ),
    (changed(given=lambda images, points, labels, boxes: (images, boxes, points, labels)), "given something else"),
    (changed(given=lambda images, points, labels, boxes: (images, points.flip(-1), labels, boxes)), "something else"),
    (changed(given=lambda images, points, labels, boxes: (images / 255, points, labels, boxes)), "something else"),
    (twice, "run more than once"),
    (no_gradient, "the loss has no gradient"),
    (own_optimizer, "optimizer.step() is called 0 times"),
    (lambda model, optimizer, *batch: 0.0, "the model is not run"),
    (lambda model, images, *rest: 0.0, "the model is not run"),
    (lambda model, optimizer, images, targets: 0.0, "TypeError in the first step"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG])
def test_rejects(answer, hints):
    assert_hint("training_step", answer, *hints)


def test_loss_kept_from_the_step_before_is_named():
    kept = []

    def answer(model, optimizer, images, points, labels, boxes, target, weight):
        model.train()
        loss = prompt_loss(*model(images, points, labels, boxes), target, weight)
        kept.append(loss)
        optimizer.zero_grad()
        sum(kept).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    assert_hint("training_step", answer, "the graph of an earlier step is kept")
