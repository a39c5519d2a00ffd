"""Binary cross-entropy on the softmax: each of the K maps is asked "this class or not?"."""

import torch
from torch import Tensor


class BinaryCrossEntropy:
    """Mean over valid pixels and the K maps of -(y_k log p_k + (1 - y_k) log(1 - p_k)), p the softmax, y one-hot.

    For two classes 1 - p_0 = p_1: both maps say the same, and the loss is the cross-entropy itself. For more, being
    sure of a wrong class costs more than in cross-entropy, which looks at the true class only.
    """

    def __init__(self, ignore_index: int):
        self.ignore_index = ignore_index

    def total(self, target: Tensor) -> Tensor:
        return (target != self.ignore_index).sum()

    def __call__(self, log_p: Tensor, target: Tensor, total: Tensor) -> Tensor:
        """log_p (B, K, N) float, target (B, N) int64 -> scalar."""
        valid = target != self.ignore_index
        index = torch.where(valid, target, 0)[:, None]
        likelihood = log_one_minus(log_p).scatter(1, index, log_p.gather(1, index)).mean(1)
        return -(likelihood * valid).sum() / total.to(log_p.dtype).clamp_min(1)


def log_one_minus(log_p: Tensor) -> Tensor:
    """log(1 - p) from log-probabilities (B, K, N) that add up to one over K, exact also where p rounds to 1.

    1 - p of the most probable class is the sum of the others; every other p is at most 1/2, so that 1 - p is harmless.
    """
    top = log_p.argmax(1, keepdim=True)
    others = log_p.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    rest = log_p.scatter(1, top, -1.0)  # any harmless number: its result and its gradient are not used
    return torch.log(-torch.expm1(rest)).scatter(1, top, others)
