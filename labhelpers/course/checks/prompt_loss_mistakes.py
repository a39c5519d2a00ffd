"""What known mistakes in the loss of lab 06 give, so that a check can name them by their numbers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from labhelpers.course.checks.networks import Mistakes

_Per = Callable[[Tensor], Tensor]


def wrong_losses(logits: Tensor, predicted_iou: Tensor, target: Tensor, weight: Tensor) -> Mistakes:
    """Losses and hints, each computed only when asked for."""
    for changes, hint in _MISTAKES:
        yield _loss(logits, predicted_iou, target, weight, **changes), hint


def _sums(x: Tensor) -> Tensor:
    """(B, M, h, w) -> (B, M)."""
    return x.sum((2, 3))


def _batch_sums(x: Tensor) -> Tensor:
    """The sum over the batch, for each of its images: (B, M, h, w) -> (B, M)."""
    return x.sum((0, 2, 3)).expand(x.shape[:2])


def _loss(
    logits: Tensor,
    predicted: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    ce_logits: _Per = lambda x: x,
    activation: _Per = torch.sigmoid,
    label: _Per = lambda y: y,
    ce: float = 1,
    dice: float = 1,
    ce_weight: _Per = lambda w: w,
    ce_total: _Per = lambda w: w,
    dice_weight: _Per = lambda w: w,
    area_weight: _Per | None = None,
    iou_weight: _Per = lambda w: w,
    ce_sums: _Per = _sums,
    dice_sums: _Per = _sums,
    smooth: tuple[float, float] = (1, 1),
    factor: float = 2,
    power: int = 1,
    union: bool = False,
    choose: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None,
    mask: _Per = lambda x: (x > 0).float(),
    truth: _Per = lambda y: (y > 0.5).float(),
    score: Callable[[Tensor, Tensor], Tensor] = lambda both, areas: both / (areas - both).clamp_min(1),
    iou_sums: _Per = _sums,
    error: _Per = lambda e: 0.1 * e.square().mean(),
) -> Tensor:
    """The loss with one thing wrong in it, to recognise the mistake by its number."""
    w, y = weight[:, None].expand_as(logits), label(target[:, None].expand_as(logits))
    nll = functional.binary_cross_entropy_with_logits(ce_logits(logits), y, reduction="none")
    cross_entropy = ce_sums(ce_weight(w) * nll) / ce_sums(ce_total(w)).clamp_min(1)
    p, v = activation(logits), dice_weight(w)
    overlap, true = dice_sums(v * p * y), dice_sums(v * y)
    areas = dice_sums((area_weight(w) if area_weight else v) * p**power) + true
    areas = areas - overlap if union else areas
    dices = 1 - (factor * overlap + smooth[0]) / (areas + smooth[1])
    u, m, t = iou_weight(w), mask(logits), truth(target[:, None].expand_as(logits))
    iou = score(iou_sums(u * m * t), iou_sums(u * m) + iou_sums(u * t))
    parts = ce * cross_entropy, dice * dices
    return (choose or _best)(*parts, predicted, iou) + error(predicted - iou)


def _best(ce: Tensor, dice: Tensor, predicted: Tensor, iou: Tensor) -> Tensor:
    return _of_both(lambda loss: loss.amin(1).mean() + 0.1 * loss.mean())(ce, dice, predicted, iou)


def _of_both(choose: _Per) -> Callable[..., Tensor]:
    return lambda ce, dice, predicted, iou: choose(ce + dice)


def _picked(by: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The candidate that another number than the loss picks."""

    def choose(ce: Tensor, dice: Tensor, predicted: Tensor, iou: Tensor) -> Tensor:
        loss = ce + dice
        return loss.gather(1, by(predicted, iou).argmax(1, keepdim=True)).mean() + 0.1 * loss.mean()

    return choose


def _over_candidates(x: Tensor) -> Tensor:
    return x.softmax(1)


_ONE: _Per = torch.ones_like
_NO_GRADIENT = "the true IoU comes from masks: logits > 0 and target > 0.5."
_SIGMOID_TWICE = (
    "a sigmoid before binary_cross_entropy_with_logits, which applies its own: it is taken twice. Give it the logits."
)
_EXCLUSIVE = "candidates do not exclude each other: a sigmoid for each, no softmax over them."
_IN_EACH_IMAGE = "is summed over the batch before dividing: each image and candidate has its own quotient."
_VOID = "void is counted in {}: multiply by the weight, which is 0 there."
_CHOICE = "Minimum over the candidates of each image, then the mean over the batch, + 0.1 * the mean of all."

_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"ce_logits": torch.sigmoid}, _SIGMOID_TWICE),
    ({"activation": lambda x: x.sigmoid().sigmoid()}, "the sigmoid is taken twice in Dice: once, of the logits."),
    ({"ce_logits": torch.sigmoid, "activation": lambda x: x.sigmoid().sigmoid()}, _SIGMOID_TWICE),
    (
        {
            "ce_logits": torch.sigmoid,
            "activation": lambda x: x.sigmoid().sigmoid(),
            "mask": lambda x: (x.sigmoid() > 0).float(),
        },
        _SIGMOID_TWICE,
    ),
    ({"ce_logits": lambda x: x.softmax(1)}, f"a softmax comes before binary_cross_entropy_with_logits. {_EXCLUSIVE}"),
    ({"ce_logits": lambda x: x.softmax(1), "activation": _over_candidates}, f"there is a softmax, twice. {_EXCLUSIVE}"),
    (
        {"ce_logits": lambda x: x.softmax(1).logit(), "activation": _over_candidates},
        f"there is a softmax. {_EXCLUSIVE}",
    ),
    ({"activation": _over_candidates}, f"there is a softmax in Dice. {_EXCLUSIVE}"),
    ({"activation": lambda x: x}, "the sigmoid is missing in Dice: it needs probabilities, not logits."),
    ({"activation": lambda x: (x > 0).float()}, "Dice is that of thresholded masks, without a gradient: sigmoid."),
    ({"label": lambda y: (y > 0.5).float()}, "the target is thresholded in the loss: only for the true IoU."),
    ({"dice": 0}, "Dice is left out: cross-entropy + Dice for each candidate."),
    ({"ce": 0}, "cross-entropy is left out: cross-entropy + Dice for each candidate."),
    ({"dice": -1}, "Dice is subtracted: the loss is cross-entropy + (1 - the Dice score)."),
    ({"choose": lambda c, d, p, i: _best(c, 1 - d, p, i)}, "this is the Dice score, which grows: 1 - it is the loss."),
    ({"ce": 0.5, "dice": 0.5}, "cross-entropy and Dice are averaged: add them."),
    ({"factor": 1}, "the 2 is missing in Dice: 2 overlap over the sum of both areas."),
    ({"power": 2}, "the predicted area is a sum of squares: this definition sums the probabilities themselves."),
    ({"factor": 1, "union": True}, "this is the soft Jaccard loss: Dice is 2 overlap over the sum of both areas."),
    ({"smooth": (0, 0)}, "the 1 is missing in Dice: (2 overlap + 1) / (areas + 1)."),
    ({"smooth": (0, 1)}, "the 1 above the fraction bar is missing in Dice: (2 overlap + 1) / (areas + 1)."),
    ({"smooth": (1, 0)}, "the 1 below the fraction bar is missing in Dice: (2 overlap + 1) / (areas + 1)."),
    ({"dice_sums": _batch_sums}, f"Dice {_IN_EACH_IMAGE}"),
    ({"ce_sums": _batch_sums}, f"the cross-entropy {_IN_EACH_IMAGE}"),
    ({"dice_sums": _batch_sums, "ce_sums": _batch_sums}, f"everything {_IN_EACH_IMAGE}"),
    ({"ce_total": lambda w: torch.zeros_like(w)}, "the cross-entropy is a sum: divide it by the sum of the weights."),
    # the choice among the candidates
    ({"choose": _of_both(lambda loss: loss.mean())}, f"this is the mean over the candidates. {_CHOICE}"),
    ({"choose": _of_both(lambda loss: 1.1 * loss.mean())}, f"this is the mean over the candidates, twice. {_CHOICE}"),
    (
        {"choose": _of_both(lambda loss: loss.mean(0).amin() + 0.1 * loss.mean())},
        f"the mean over the batch comes before the minimum. {_CHOICE}",
    ),
    (
        {"choose": _of_both(lambda loss: loss.amin() + 0.1 * loss.mean())},
        f"this is the minimum over the whole batch. {_CHOICE}",
    ),
    (
        {"choose": _of_both(lambda loss: loss.amin(0).mean() + 0.1 * loss.mean())},
        f"the minimum runs over the batch: dim=1 of (B, M). {_CHOICE}",
    ),
    (
        {"choose": _of_both(lambda loss: loss.amax(1).mean() + 0.1 * loss.mean())},
        f"this is the worst candidate: take the minimum. {_CHOICE}",
    ),
    (
        {"choose": lambda ce, dice, p, i: ce.amin(1).mean() + dice.amin(1).mean() + 0.1 * (ce + dice).mean()},
        "cross-entropy and Dice each have their own minimum: add them first, so that one candidate is the best.",
    ),
    ({"choose": _of_both(lambda loss: loss.amin(1).mean())}, f"the mean of the candidates is missing. {_CHOICE}"),
    (
        {"choose": _of_both(lambda loss: loss.amin(1).mean() + loss.mean())},
        f"the mean over the candidates has weight 1. {_CHOICE}",
    ),
    (
        {"choose": _of_both(lambda loss: loss.amin(1).mean() + 0.1 * loss.sum(1).mean())},
        f"0.1 * the sum over the candidates is added. {_CHOICE}",
    ),
    (
        {"choose": _of_both(lambda loss: loss.amin(1).sum() + 0.1 * loss.mean(1).sum())},
        f"it is summed over the batch. {_CHOICE}",
    ),
    ({"choose": _of_both(lambda loss: loss[:, 0].mean() + 0.1 * loss.mean())}, f"only candidate 0 learns. {_CHOICE}"),
    (
        {"choose": _picked(lambda predicted, iou: predicted)},
        f"the candidate of the highest predicted IoU is taken, which need not be the best. {_CHOICE}",
    ),
    ({"choose": _picked(lambda predicted, iou: iou)}, f"the candidate of the highest true IoU is taken. {_CHOICE}"),
    # the predicted IoU
    ({"error": lambda e: 0 * e.sum()}, "the term of the predicted IoU is left out."),
    ({"error": lambda e: e.square().mean()}, "the squared error of the IoU has weight 1, expected 0.1."),
    ({"error": lambda e: 0.1 * e.square().sum()}, "the squared error of the IoU is summed: take the mean."),
    ({"error": lambda e: 0.1 * e.square().sum(1).mean()}, "the IoU's error is summed over the candidates: mean."),
    ({"error": lambda e: 0.1 * e.square().sum(0).mean()}, "the IoU's error is summed over the batch: take the mean."),
    ({"error": lambda e: 0.1 * e.abs().mean()}, "the IoU's error is taken without its square: the squared error."),
    ({"error": lambda e: 0.1 * e.square().mean().sqrt()}, "the root of the IoU's squared error is taken: leave it."),
    ({"error": lambda e: 0.01 * e.square().mean()}, "the IoU's error is multiplied by 0.1 twice."),
    ({"mask": lambda x: x}, f"the IoU is computed from the logits. {_NO_GRADIENT}"),
    ({"mask": torch.sigmoid}, f"the IoU is that of soft masks. {_NO_GRADIENT}"),
    ({"mask": torch.sigmoid, "truth": lambda y: y}, f"the IoU is that of soft masks. {_NO_GRADIENT}"),
    ({"mask": lambda x: (x > 0.5).float()}, "the logits are thresholded at 0.5: sigmoid(0) = 0.5, so logits > 0."),
    ({"mask": lambda x: (x.sigmoid() > 0).float()}, "a probability above 0 is taken for the mask: logits > 0."),
    ({"mask": lambda x: 1.0 * (x == x.amax(1, True))}, f"there is an argmax over the candidates. {_NO_GRADIENT}"),
    ({"truth": lambda y: y}, "the target of the true IoU is not thresholded: target > 0.5."),
    ({"truth": lambda y: (y > 0).float()}, "the target of the true IoU is thresholded at 0: target > 0.5."),
    ({"truth": lambda y: (y == 1).float()}, "only positions covered wholly count in the true IoU: target > 0.5."),
    ({"score": lambda both, areas: 2 * both / areas.clamp_min(1)}, "this is Dice (F1), not the IoU: both / either."),
    ({"score": lambda both, areas: both / areas}, "the union of the IoU counts the overlap twice: both / either."),
    ({"iou_sums": _batch_sums}, f"the true IoU {_IN_EACH_IMAGE}"),
    # void
    (
        {"ce_weight": _ONE, "ce_total": _ONE, "dice_weight": _ONE, "iou_weight": _ONE},
        _VOID.format("everything: weight is not used"),
    ),
    ({"ce_weight": _ONE, "ce_total": _ONE, "dice_weight": _ONE}, _VOID.format("cross-entropy and Dice")),
    ({"ce_weight": _ONE, "ce_total": _ONE}, _VOID.format("the cross-entropy")),
    ({"ce_weight": _ONE}, "void is counted in the cross-entropy above the fraction bar: multiply by the weight."),
    (
        {"ce_total": _ONE},
        "void is counted in the mean of the cross-entropy, as zeros: divide by the sum of the weights.",
    ),
    ({"dice_weight": _ONE}, _VOID.format("Dice")),
    (
        {"area_weight": _ONE},
        _VOID.format("the predicted area of Dice"),
    ),
    ({"iou_weight": _ONE}, _VOID.format("the true IoU")),
    (
        {name: lambda w: (w > 0).float() for name in ("ce_weight", "ce_total", "dice_weight", "iou_weight")},
        "the weight is used as a mask: a position of weight 0.5 counts half.",
    ),
    ({"iou_weight": lambda w: (w > 0).float()}, "the weight is used as a mask in the IoU: 0.5 counts half."),
]
