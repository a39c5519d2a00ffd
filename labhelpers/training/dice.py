"""Soft Dice loss in one pass over the log-probabilities, with its gradient written out."""

from typing import Any

import torch
from torch import Tensor


class Dice:
    """Soft Dice loss: 1 - (2 sum p g + s) / (sum p + sum g + s), sums over the batch's valid pixels, s = 1.

    A mean over the classes present in the batch's target (Milletari et al., V-Net (2016), with plain instead of
    squared sums): an absent class has no overlap to gain, and its pixels are already pushed down through the others.
    A ratio of sums does not add up over parts of a batch: with micro-batches each part's loss counts by its share of
    valid pixels, which is close to the whole batch's Dice loss, not equal to it.
    """

    def __init__(self, ignore_index: int, smooth: float = 1.0):
        self.ignore_index, self.smooth = ignore_index, smooth

    def total(self, target: Tensor) -> Tensor:
        return (target != self.ignore_index).sum()

    def __call__(self, log_p: Tensor, target: Tensor, total: Tensor) -> Tensor:
        share = self.total(target).to(log_p.dtype) / total.to(log_p.dtype).clamp_min(1)
        return _SoftDice.apply(log_p, target, self.ignore_index, self.smooth) * share


class _SoftDice(torch.autograd.Function):
    """1 - mean soft Dice, from log-probabilities, with its gradient written out.

    It keeps nothing but its inputs for the backward pass, and log_softmax keeps ``log_p`` anyway: autograd through
    ``exp`` and a one-hot target would hold three more tensors of the size of the logits.
    """

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, target: Tensor, ignore_index: int, smooth: float) -> Tensor:
        """log_p (B, K, N) float, target (B, N) int64 -> scalar."""
        predicted, hit, true = log_p.new_zeros(3, len(log_p), log_p.shape[1])
        p = torch.empty_like(log_p[0])
        for i, (log_p_i, target_i) in enumerate(zip(log_p, target, strict=True)):  # one image stays in a CPU's cache
            index, weight = _index_and_weight(target_i, ignore_index, log_p.dtype)
            torch.exp(log_p_i, out=p)
            predicted[i] = p @ weight
            hit[i].scatter_add_(0, index, p.gather(0, index[None])[0] * weight)
            true[i].scatter_add_(0, index, weight)
        predicted, hit, true = predicted.sum(0), hit.sum(0), true.sum(0)

        counted = (true > 0).to(log_p.dtype)
        counted /= counted.sum().clamp_min(1)
        size = predicted + true + smooth
        dice = (2 * hit + smooth) / size
        # dL/dp at a pixel of class t: -2/size_t on its own class, + dice_k/size_k on every class k.
        ctx.save_for_backward(log_p, target, counted * dice / size, -2 * counted / size)
        ctx.ignore_index = ignore_index
        return (counted * (1 - dice)).sum()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        log_p, target, every_class, own_class = ctx.saved_tensors
        every_class, own_class = grad_output * every_class, grad_output * own_class
        grad = torch.empty_like(log_p)
        for log_p_i, target_i, grad_i in zip(log_p, target, grad, strict=True):
            index, weight = _index_and_weight(target_i, ctx.ignore_index, log_p.dtype)
            torch.exp(log_p_i, out=grad_i)  # p, and dL/dlog_p = p dL/dp
            own = grad_i.gather(0, index[None]) * own_class[index]
            grad_i.mul_(every_class[:, None]).scatter_add_(0, index[None], own).mul_(weight)
        return grad, None, None, None


def _index_and_weight(target: Tensor, ignore_index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """target (N,) -> class (N,) int64 with void as 0, weight (N,) 1 and for void 0."""
    valid = target != ignore_index
    return torch.where(valid, target, 0), valid.to(dtype)
