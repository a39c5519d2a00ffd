"""The check of lab 06's loss accepts right answers written in different ways and names the mistake of wrong ones."""

import pytest
import torch
from judging import assert_hint, assert_passes
from torch.nn import functional
from torch.nn.functional import binary_cross_entropy_with_logits as bce_with_logits

from labhelpers.prompting import true_iou


def plain(logits, predicted_iou, target, weight):
    y, w = target[:, None].expand_as(logits), weight[:, None]
    ce = (w * bce_with_logits(logits, y, reduction="none")).sum((2, 3)) / w.sum((2, 3)).clamp(min=1)
    p = torch.sigmoid(logits)
    dice = 1 - (2 * (w * p * y).sum((2, 3)) + 1) / ((w * p).sum((2, 3)) + (w * y).sum((2, 3)) + 1)
    loss = ce + dice
    with torch.no_grad():
        m, t = logits > 0, y > 0.5
        iou = (w * (m & t)).sum((2, 3)) / (w * (m | t)).sum((2, 3)).clamp(min=1e-6)
    return (loss.min(dim=1).values + 0.1 * loss.mean(dim=1)).mean() + 0.1 * ((predicted_iou - iou) ** 2).mean()


def by_loops(logits, predicted_iou, target, weight):
    batch, masks = logits.shape[:2]
    total = 0
    for i in range(batch):
        y, w, losses = target[i], weight[i], []
        for j in range(masks):
            x = logits[i, j]
            ce = functional.binary_cross_entropy_with_logits(x, y, weight=w, reduction="sum") / max(w.sum().item(), 1)
            p = x.sigmoid()
            losses.append(ce + 1 - (2 * (w * p * y).sum() + 1) / ((w * (p + y)).sum() + 1))
            m, t = (x.detach() > 0).float(), (y > 0.5).float()
            both, either = (w * m * t).sum(), (w * torch.maximum(m, t)).sum()
            iou = both / either if either > 0 else torch.tensor(1.0)
            total = total + 0.1 * (predicted_iou[i, j] - iou).square() / (batch * masks)
        losses = torch.stack(losses)
        total = total + (losses[losses.argmin()] + 0.1 * losses.mean()) / batch
    return total


def by_flat_tensors(logits, predicted_iou, target, weight):
    x, y, w = logits.flatten(2), target.flatten(1).unsqueeze(1), weight.flatten(1).unsqueeze(1)
    nll = functional.softplus(x) - x * y
    ce = torch.einsum("bmp,bkp->bm", nll, w) / torch.clamp_min(w.sum(-1), 1.0)
    p = torch.exp(functional.logsigmoid(x))
    dice = (((p + y - 2 * p * y) * w).sum(-1)) / (((p + y) * w).sum(-1) + 1)
    loss = torch.sort(ce + dice, dim=1).values
    hard, truth = torch.heaviside(x.detach(), torch.tensor(0.0)), y.gt(0.5).float()
    both = (hard * truth * w).sum(-1)
    iou = both / (((hard + truth) * w).sum(-1) - both).clamp_min(1)
    return loss[:, 0].mean() + loss.mean() / 10 + functional.mse_loss(predicted_iou, iou) / 10


def in_double(logits, predicted_iou, target, weight):
    return plain(logits.double(), predicted_iou.double(), target.double(), weight.double()).float()


def with_gather(logits, predicted_iou, target, weight):
    """The best is chosen without a gradient, then picked out."""
    w = weight.unsqueeze(1)
    y = target.unsqueeze(1).repeat(1, logits.size(1), 1, 1)
    p = logits.sigmoid()
    ce = functional.binary_cross_entropy(p, y, reduction="none")
    losses = (ce * w).sum(dim=(-2, -1)) / w.sum(dim=(-2, -1)).clamp(1)
    losses = losses - (2 * (p * y * w).sum(dim=(-2, -1)) + 1) / ((p * w + y * w).sum(dim=(-2, -1)) + 1) + 1
    best = losses.detach().argmin(1, keepdim=True)
    m = (p.detach() > 0.5) & (w > 0)
    t = (y > 0.5) & (w > 0)
    iou = ((m & t) * w).sum((2, 3)) / (((m | t) * w).sum((2, 3)) + 1e-8)
    return losses.gather(1, best).mean() + 0.1 * losses.mean() + 0.1 * (iou - predicted_iou).pow(2).mean()


@pytest.mark.parametrize("answer", [plain, by_loops, by_flat_tensors, in_double, with_gather])
def test_accepts(answer):
    assert_passes("prompt_loss", answer)


def loss(
    logits,
    predicted_iou,
    target,
    weight,
    *,
    ce_of=bce_with_logits,
    p_of=torch.sigmoid,
    mask=lambda x: (x > 0).float(),
    truth=lambda y: (y > 0.5).float(),
    least=1,
    ce_weight=None,
    dice_weight=None,
    iou_weight=None,
    axes=(2, 3),
    above=1,
    below=1,
    two=2,
    ce_share=1,
    dice_share=1,
    choose=lambda loss: (loss.amin(1) + 0.1 * loss.mean(1)).mean(),
    error=lambda a, b: 0.1 * functional.mse_loss(a, b),
):
    """A student's loss with a place for each mistake."""
    y, w = target[:, None].expand_as(logits), weight[:, None].expand_as(logits)
    cw, dw, iw = (w if own is None else own(w) for own in (ce_weight, dice_weight, iou_weight))
    ce = (cw * ce_of(logits, y, reduction="none")).sum((2, 3)) / cw.sum((2, 3)).clamp_min(least)
    p = p_of(logits)
    dice = 1 - (two * (dw * p * y).sum(axes) + above) / ((dw * p).sum(axes) + (dw * y).sum(axes) + below)
    m, t = mask(logits), truth(y)
    both, sizes = (iw * m * t).sum((2, 3)), (iw * m + iw * t).sum((2, 3))
    iou = both / (sizes - both).clamp_min(1)
    return choose(ce_share * ce + dice_share * dice) + error(predicted_iou, iou)


def changed(**changes):
    return lambda *given: loss(*given, **changes)


def on_probabilities(logits, y, reduction):
    return bce_with_logits(logits.sigmoid(), y, reduction=reduction)


def on_softmax(logits, y, reduction):
    return bce_with_logits(logits.softmax(1), y, reduction=reduction)


def by_logarithms(logits, y, reduction):
    p = logits.sigmoid()
    return -(y * p.log() + (1 - y) * (1 - p).log())


def minimum_apart(logits, predicted_iou, target, weight):
    ce = changed(dice_share=0)(logits, predicted_iou, target, weight)
    dice = changed(ce_share=0, error=lambda a, b: 0)(logits, predicted_iou, target, weight)
    return ce + dice


def best_by(number):
    """The candidate that another number than the loss calls the best."""

    def answer(logits, predicted_iou, target, weight):
        best = number(logits, predicted_iou, target, weight).argmax(1)
        return loss(
            *(logits, predicted_iou, target, weight),
            choose=lambda x: x[torch.arange(len(x)), best].mean() + 0.1 * x.mean(),
        )

    return answer


def iou_of_void(logits, predicted_iou, target, weight):
    y, w = target[:, None], weight[:, None]
    m, t = logits > 0, y > 0.5
    iou = (w * (m & t)).sum((2, 3)) / (w * (m | t)).sum((2, 3))
    rest = loss(logits, predicted_iou, target, weight, error=lambda a, b: 0)
    return rest + 0.1 * (predicted_iou - iou).square().mean()


def in_place(logits, predicted_iou, target, weight):
    target[weight == 0] = 0.25
    return loss(logits, predicted_iou, target, weight)


def boolean_index(logits, predicted_iou, target, weight):
    """Weights as a mask: right for 0 and 1 alone."""
    return loss(logits, predicted_iou, target, (weight > 0).float())


WRONG = [
    (changed(ce_of=on_probabilities), "applies its own: it is taken twice"),
    (changed(ce_of=on_probabilities, p_of=lambda x: x.sigmoid().sigmoid()), "it is taken twice"),
    (changed(p_of=lambda x: x.sigmoid().sigmoid()), "taken twice in Dice"),
    (lambda x, i, t, w: loss(x.sigmoid(), i, t, w), "it is taken twice"),
    (changed(ce_of=on_softmax), "a softmax comes before"),
    (changed(ce_of=on_softmax, p_of=lambda x: x.softmax(1)), "there is a softmax, twice"),
    (changed(p_of=lambda x: x.softmax(1)), "there is a softmax in Dice"),
    (changed(p_of=lambda x: x), "the sigmoid is missing in Dice"),
    (changed(p_of=lambda x: (x > 0).float()), "Dice is that of thresholded masks"),
    (changed(dice_share=0), "Dice is left out"),
    (changed(ce_share=0), "cross-entropy is left out"),
    (changed(dice_share=-1), "Dice is subtracted"),
    (changed(two=1), "the 2 is missing"),
    (changed(above=0, below=0), "the 1 is missing in Dice"),
    (changed(above=0), "above the fraction bar is missing"),
    (changed(below=0), "below the fraction bar is missing"),
    (changed(axes=(0, 2, 3)), "Dice is summed over the batch"),
    (changed(choose=lambda x: x.mean()), "this is the mean over the candidates."),
    (changed(choose=lambda x: 1.1 * x.mean()), "this is the mean over the candidates"),
    (changed(choose=lambda x: x.mean(0).min() + 0.1 * x.mean()), "comes before the minimum"),
    (changed(choose=lambda x: x.min() + 0.1 * x.mean()), "the minimum over the whole batch"),
    (changed(choose=lambda x: x.amin(0).mean() + 0.1 * x.mean()), "the minimum runs over the batch"),
    (changed(choose=lambda x: x.amax(1).mean() + 0.1 * x.mean()), "the worst candidate"),
    (changed(choose=lambda x: x.amin(1).mean()), "the mean of the candidates is missing"),
    (changed(choose=lambda x: x.amin(1).mean() + x.mean()), "has weight 1"),
    (changed(choose=lambda x: (x.amin(1) + 0.1 * x.sum(1)).mean()), "the sum over the candidates"),
    (changed(choose=lambda x: (x.amin(1) + 0.1 * x.mean(1)).sum()), "it is summed over the batch"),
    (changed(choose=lambda x: x[:, 0].mean() + 0.1 * x.mean()), "only candidate 0 learns"),
    (best_by(lambda x, i, t, w: i), "the candidate of the highest predicted IoU"),
    (best_by(lambda x, i, t, w: true_iou(x, t, w)), "the candidate of the highest true IoU"),
    (minimum_apart, "each have their own minimum"),
    (changed(error=lambda a, b: 0), "the term of the predicted IoU is left out"),
    (changed(error=functional.mse_loss), "has weight 1, expected 0.1"),
    (changed(error=lambda a, b: 0.1 * (a - b).square().sum()), "is summed: take the mean"),
    (changed(error=lambda a, b: 0.1 * (a - b).abs().mean()), "without its square"),
    (changed(mask=lambda x: x), "computed from the logits"),
    (changed(mask=torch.sigmoid), "that of soft masks"),
    (changed(mask=torch.sigmoid, truth=lambda y: y), "that of soft masks"),
    (changed(mask=lambda x: (x > 0.5).float()), "thresholded at 0.5"),
    (changed(mask=lambda x: (x.sigmoid() > 0).float()), "a probability above 0"),
    (changed(truth=lambda y: y), "is not thresholded: target > 0.5"),
    (changed(truth=lambda y: (y > 0).float()), "thresholded at 0: target > 0.5"),
    (
        changed(error=lambda a, b: 0.1 * (a.detach() - b).square().mean()),
        "no gradient comes back to the predicted IoUs",
    ),
    (lambda *given: loss(*given).detach(), "no gradient comes back to the logits"),
    (lambda *given: loss(*given).item(), "expected a torch tensor"),
    (lambda *given: loss(*given)[None], "has shape (1,), expected ()"),
    (changed(ce_weight=torch.ones_like), "void is counted in the cross-entropy"),
    (changed(dice_weight=torch.ones_like), "void is counted in Dice"),
    (changed(iou_weight=torch.ones_like), "void is counted in the true IoU"),
    (lambda x, i, t, w: loss(x, i, t, torch.ones_like(w)), "weight is not used"),
    (boolean_index, "the weight is used as a mask"),
    (lambda x, i, t, w: loss(x, i, t, w) + 0 * torch.exp(-x).sum(), "instead of exp and log"),
    (changed(ce_of=by_logarithms), "instead of exp and log"),
    (changed(least=0), "or its gradient, is not finite: divide by"),
    (iou_of_void, "or its gradient, is not finite: divide by"),
    (in_place, "argument number 3 in place"),
    (lambda x, i, t, w: bce_with_logits(x, t), "target[:, None].expand_as(logits)"),
    (lambda x, i, t, w: (t * x.sigmoid()).sum(), "need a second axis"),
    (lambda x, i, t, w: print(), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG])
def test_rejects(answer, hints):
    assert_hint("prompt_loss", answer, *hints)
