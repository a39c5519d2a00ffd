"""Losses for dense prediction: (binary) cross-entropy, focal, exponential-weighted, Dice, weighted sums, one's own.

Every loss maps `logits` (B, K, H, W) and `target` (B, H, W) to one number; the terms of a sum share a log-softmax.
Each term is a sum over pixels divided by a total over the same pixels (their number, or their class weights); the
total may come from outside, so that the micro-batches of one step, and the processes of several GPUs, add up to the
loss of the whole batch: see `Loss`.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labhelpers.data.base import IGNORE_INDEX

LossFunction = Callable[[Tensor, Tensor], Tensor]  # logits (B, K, H, W), target (B, H, W) -> a scalar
_Weights = Sequence[float] | Tensor | None


class Term:
    """A part of a loss, here a mean over valid pixels: of log-probabilities, what each pixel costs."""

    def __init__(self, ignore_index: int = IGNORE_INDEX, class_weights: Tensor | None = None):
        self.ignore_index, self.class_weights = ignore_index, class_weights

    def total(self, target: Tensor) -> Tensor:
        """What the sum is divided by; adds up over parts of a batch."""
        return (target != self.ignore_index).sum()

    def __call__(self, log_p: Tensor, target: Tensor, total: Tensor) -> Tensor:
        """log_p (B, K, N) float, target (B, N) int64 -> scalar, 0 where everything is void."""
        total = total.to(log_p.dtype)
        return self.pixels(log_p, target).sum() / torch.where(total > 0, total, 1)

    def pixels(self, log_p: Tensor, target: Tensor) -> Tensor:
        """The loss of each pixel, 0 where it is void: (B, N)."""
        raise NotImplementedError

    def nll(self, log_p: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Cross-entropy of each pixel, 0 where it is void: (B, N)."""
        return F.nll_loss(log_p, target, weight, ignore_index=self.ignore_index, reduction="none")


def _index_and_valid(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The target with void as class 0, and where it is valid, bool."""
    valid = target != ignore_index
    return torch.where(valid, target, 0), valid


class CrossEntropy(Term):
    """Sum over valid pixels of w_t (-log p_t), over the sum of w_t; w = 1 without class weights."""

    def total(self, target: Tensor) -> Tensor:
        if self.class_weights is None:
            return super().total(target)
        index, valid = _index_and_valid(target, self.ignore_index)
        return (self.class_weights.to(target.device)[index] * valid).sum()

    def pixels(self, log_p: Tensor, target: Tensor) -> Tensor:
        return self.nll(log_p, target, None if self.class_weights is None else self.class_weights.to(log_p))


class BinaryCrossEntropy(Term):
    """Mean over valid pixels and the K maps of -(y_k log p_k + (1 - y_k) log(1 - p_k)), p the softmax, y one-hot.

    Each of the K maps is asked "this class or not?". For two classes 1 - p_0 = p_1: both maps say the same, and the
    loss is the cross-entropy itself. For more, being sure of a wrong class costs more than in cross-entropy, which
    looks at the true class only.
    """

    def pixels(self, log_p: Tensor, target: Tensor) -> Tensor:
        index, valid = _index_and_valid(target, self.ignore_index)
        index = index[:, None]
        return -log_one_minus(log_p).scatter(1, index, log_p.gather(1, index)).mean(1) * valid


def log_one_minus(log_p: Tensor) -> Tensor:
    """log(1 - p) from log-probabilities (B, K, N) that add up to one over K, exact also where p rounds to 1.

    1 - p of the most probable class is the sum of the others; every other p is at most 1/2, so that 1 - p is harmless.
    """
    top = log_p.argmax(1, keepdim=True)
    others = log_p.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    rest = log_p.scatter(1, top, -1.0)  # any harmless number: its result and its gradient are not used
    return torch.log(-torch.expm1(rest)).scatter(1, top, others)


class Focal(Term):
    """Softmax focal loss, -alpha_t (1 - p_t)^gamma log p_t, a mean over valid pixels.

    Lin et al., Focal Loss for Dense Object Detection (2017), equation 5, with the softmax probability of the target's
    class as p_t. `alpha` is one number or one for each class. The modulating factor comes from the cross-entropy
    itself, 1 - p_t = 1 - exp(-CE), so that focal costs little more than cross-entropy.
    """

    def __init__(self, ignore_index: int = IGNORE_INDEX, alpha: float | Tensor = 0.25, gamma: float = 2.0):
        if gamma != 0 and gamma < 1:
            raise ValueError(f"gamma={gamma}: must be 0 or at least 1 (between them the gradient is infinite at p = 1)")
        super().__init__(ignore_index, alpha if isinstance(alpha, Tensor) else None)
        self.alpha, self.gamma = alpha, gamma

    def pixels(self, log_p: Tensor, target: Tensor) -> Tensor:
        nll = self.nll(log_p, target)
        loss = (-torch.expm1(-nll)) ** self.gamma * nll
        if self.class_weights is not None:
            return loss * self.class_weights.to(log_p)[_index_and_valid(target, self.ignore_index)[0]]
        return loss * self.alpha


class ExponentialCrossEntropy(Term):
    """Cross-entropy weighted by how wrong a pixel is, e^(beta (1 - p_t)) (-log p_t), a mean over valid pixels.

    The weight rises from 1 where the model is sure and right (p_t = 1) to e^beta where it is sure and wrong (p_t = 0):
    hard pixels count more and, unlike in focal loss, easy ones are never turned off. "Exponential cross-entropy" has no
    single published definition. Wong et al., 3D Segmentation with Exponential Logarithmic Loss (MICCAI 2018), take a
    power of the logarithm instead, (-log p_t)^gamma. As in `Focal`, 1 - p_t comes from the cross-entropy itself.
    """

    def __init__(self, ignore_index: int = IGNORE_INDEX, beta: float = 1.0):
        if not 0 <= beta < math.inf:
            raise ValueError(
                f"beta={beta}: must be a number >= 0 (a negative one would favour the pixels already right)"
            )
        super().__init__(ignore_index)
        self.beta = beta

    def pixels(self, log_p: Tensor, target: Tensor) -> Tensor:
        nll = self.nll(log_p, target)
        return torch.exp(-self.beta * torch.expm1(-nll)) * nll


class Dice(Term):
    """Soft Dice loss: 1 - (2 sum p g + s) / (sum p + sum g + s), sums over the batch's valid pixels, s = 1.

    A mean over the classes present in the batch's target (Milletari et al., V-Net (2016), with plain instead of
    squared sums): an absent class has no overlap to gain, and its pixels are already pushed down through the others.
    A ratio of sums does not add up over parts of a batch: with micro-batches each part's loss counts by its share of
    valid pixels, which is close to the whole batch's Dice loss, not equal to it.
    """

    def __init__(self, ignore_index: int = IGNORE_INDEX, smooth: float = 1.0):
        super().__init__(ignore_index)
        self.smooth = smooth

    def __call__(self, log_p: Tensor, target: Tensor, total: Tensor) -> Tensor:
        share = self.total(target).to(log_p.dtype) / total.to(log_p.dtype).clamp_min(1)
        return _SoftDice.apply(log_p, target, self.ignore_index, self.smooth) * share


class _SoftDice(torch.autograd.Function):
    """1 - mean soft Dice, from log-probabilities, with its gradient written out.

    It keeps nothing but its inputs for the backward pass, and log_softmax keeps `log_p` anyway: autograd through
    `exp` and a one-hot target would hold three more tensors of the size of the logits.
    """

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, target: Tensor, ignore_index: int, smooth: float) -> Tensor:
        """log_p (B, K, N) float, target (B, N) int64 -> scalar."""
        predicted, hit, true = log_p.new_zeros(3, len(log_p), log_p.shape[1])
        p = torch.empty_like(log_p[0])
        for i, (log_p_i, target_i) in enumerate(zip(log_p, target, strict=True)):  # one image stays in a CPU's cache
            index, valid = _index_and_valid(target_i, ignore_index)
            weight = valid.to(log_p.dtype)
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
            index, valid = _index_and_valid(target_i, ctx.ignore_index)
            torch.exp(log_p_i, out=grad_i)  # p, and dL/dlog_p = p dL/dp
            own = grad_i.gather(0, index[None]) * own_class[index]
            grad_i.mul_(every_class[:, None]).scatter_add_(0, index[None], own).mul_(valid.to(log_p.dtype))
        return grad, None, None, None


@dataclass(frozen=True)
class Loss:
    """A weighted sum of terms on one log-softmax. Called with logits (B, K, H, W) and target (B, H, W), gives a scalar.

    `loss.total(target)` has one number for each term and adds up over parts of a batch. With `total` of the whole
    batch, the losses of its parts add up to the loss of the whole (exactly for means over pixels, see `Dice`):

        total = loss.total(target)
        sum(loss(x, y, total) for x, y in zip(logits.chunk(4), target.chunk(4))) == loss(logits, target)

    A batch that is void everywhere has loss 0 and gradient 0.
    """

    terms: tuple[tuple[float, Term], ...]

    def total(self, target: Tensor) -> Tensor:
        """target (B, H, W) uint8 or int64 -> (T,) float, the divisor of each of the T terms."""
        return torch.stack([term.total(target.long()).float() for _, term in self.terms])

    def __call__(self, logits: Tensor, target: Tensor, total: Tensor | None = None) -> Tensor:
        if total is None:
            self._check(logits, target)
            check_target(target, logits.shape[1], self.terms[0][1].ignore_index)
            total = self.total(target)
        return self.parts(logits, target, total).sum()

    def parts(self, logits: Tensor, target: Tensor, total: Tensor) -> Tensor:
        """The T terms one by one, (T,). With `total` one they are plain sums, from which a whole set's loss follows:
        add them up over batches, divide by the added `total(target)`.
        """
        self._check(logits, target)
        with torch.autocast(logits.device.type, enabled=False):  # sums over a million pixels need float32
            log_p = F.log_softmax(_at_least_float32(logits).flatten(2), 1)
            flat = target.flatten(1).long()
            weighted = [w * term(log_p, flat, t) for (w, term), t in zip(self.terms, total, strict=True)]
        return torch.stack(weighted)

    def _check(self, logits: Tensor, target: Tensor) -> None:
        _check_shapes(logits, target)
        for _, term in self.terms:
            check_class_weights(term.class_weights, logits.shape[1])


class OwnLoss:
    """A function of one's own as a `Loss`: called with logits and target, gives a scalar.

    `function(logits, target)` gets logits (B, K, H, W) float32 (float64 stays) and target (B, H, W) int64 with void
    as `ignore_index`, autocast off, and returns its mean over the valid pixels. As for Dice, the value of a part of a
    batch counts by its share of valid pixels, which adds up to the whole exactly if it is a plain mean over pixels. A
    part that is void everywhere counts 0, and the function is not asked.
    """

    def __init__(self, function: LossFunction, ignore_index: int = IGNORE_INDEX):
        self.function, self.ignore_index = function, ignore_index

    def total(self, target: Tensor) -> Tensor:
        """target (B, H, W) uint8 or int64 -> (1,) float, the number of valid pixels."""
        return (target != self.ignore_index).sum().float()[None]

    def __call__(self, logits: Tensor, target: Tensor, total: Tensor | None = None) -> Tensor:
        _check_shapes(logits, target)
        if total is None:
            check_target(target, logits.shape[1], self.ignore_index)
        own = self.total(target)
        with torch.autocast(logits.device.type, enabled=False):
            logits = _at_least_float32(logits)
            if own == 0:
                return (logits * 0).sum()
            value = self.function(logits, target.long())
            self._check(value, differentiable=logits.requires_grad and torch.is_grad_enabled())
            return value if total is None else value * (own / total).squeeze()

    def parts(self, logits: Tensor, target: Tensor, total: Tensor) -> Tensor:
        """As `Loss.parts`, (1,)."""
        return self(logits, target, total)[None]

    def _check(self, value: object, differentiable: bool) -> None:
        if not isinstance(value, Tensor):
            found = f"a {type(value).__name__}"
        elif value.ndim:
            found = f"a tensor of shape {tuple(value.shape)}"
        elif differentiable and not value.requires_grad:
            found = "a tensor without a gradient"
        else:
            return
        raise ValueError(
            f"the loss function {function_name(self.function)} returned {found}; it must return a scalar tensor with a "
            "gradient: the mean over the valid pixels, computed from logits without item(), detach() or argmax()"
        )


def function_name(function: Callable) -> str:
    """`my_loss`, for a `functools.partial` of it too."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def check_target(target: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX) -> None:
    """Raises ValueError unless a target (B, H, W) holds integers 0..K-1 and `ignore_index` only."""
    _check_integer(target)
    wrong = ((target < 0) | (target >= num_classes)) & (target != ignore_index)
    if wrong.any():
        raise ValueError(
            f"the target holds the label {int(target[wrong][0])}, which is neither of the K = {num_classes} classes "
            f"0..{num_classes - 1} nor ignore_index {ignore_index}. Correct the label map, or raise num_classes"
        )


def check_class_weights(weights: Sequence[float] | Tensor | None, num_classes: int) -> None:
    """Raises ValueError unless there is one weight for each class."""
    if weights is not None and len(weights) != num_classes:
        raise ValueError(
            f"class_weights holds {len(weights)} numbers, and there are K = {num_classes} classes: give one for each"
        )


def _check_integer(target: Tensor) -> None:
    if target.is_floating_point() or target.is_complex():
        raise ValueError(
            f"the target must hold integer labels, got {target.dtype}: take the label map as it was read (uint8), or "
            "target.long() where the numbers are whole"
        )


def _check_shapes(logits: Tensor, target: Tensor) -> None:
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
        kinds = f"{type(logits).__name__} and {type(target).__name__}"
        raise ValueError(f"logits and target must be tensors, got {kinds}: torchvision's logits are output['out']")
    _check_integer(target)
    if logits.ndim != 4 or target.shape != (len(logits), *logits.shape[2:]):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and target {tuple(target.shape)}; expected (B, K, H, W) and "
            "(B, H, W). Logits of another size must be resized to the target's first; an axis of one channel goes by "
            "target[:, 0]."
        )


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


# How each term is made of the label to ignore and the class weights, which those whose name begins with weighted_ use.
_TERMS: dict[str, Callable[[int, Any], Term]] = {
    "ce": lambda ignore, weights: CrossEntropy(ignore),
    "weighted_ce": CrossEntropy,
    "bce": lambda ignore, weights: BinaryCrossEntropy(ignore),
    "dice": lambda ignore, weights: Dice(ignore),
    "focal": lambda ignore, weights: Focal(ignore),
    "weighted_focal": Focal,  # the class weights are alpha
    "exp_ce": lambda ignore, weights: ExponentialCrossEntropy(ignore),
}
LOSSES = tuple(_TERMS)


def parse_loss(name: str) -> list[tuple[float, str]]:
    """`"ce+0.5*dice"` -> `[(1.0, "ce"), (0.5, "dice")]`.

    Raises:
        ValueError: for an unknown term; the message lists the known ones.
    """
    terms = []
    for part in name.split("+"):
        match = re.fullmatch(r"\s*(?:(\d+\.?\d*|\.\d+)\s*\*)?\s*(\w+)\s*", part)
        if match is None or match[2] not in _TERMS:
            raise ValueError(
                f"unknown loss {part.strip()!r} in loss={name!r}; known: {', '.join(LOSSES)}, and sums of them such as "
                "'ce+0.5*dice'"
            )
        terms.append((float(match[1] or 1), match[2]))
    return terms


def build_loss(
    loss: str | LossFunction, class_weights: _Weights = None, ignore_index: int = IGNORE_INDEX
) -> Loss | OwnLoss:
    """The loss of that name, or the loss that a function of one's own computes.

    Args:
        loss: one of `LOSSES`, a sum of them with weights, such as `"ce+0.5*dice"`, or a function of logits and target
            as `OwnLoss` describes.
        class_weights: (K,) positive numbers, for the terms whose name starts with `weighted_`.

    Raises:
        ValueError: unknown name (the message lists the known), class weights missing, wrong or used by no term.
    """
    if not isinstance(loss, str):
        if class_weights is not None:
            raise ValueError(
                f"class_weights given, but the loss function {function_name(loss)} is not told of them; use the "
                "weights inside the function"
            )
        return OwnLoss(loss, ignore_index)
    parsed = parse_loss(loss)
    weighted = any(term.startswith("weighted_") for _, term in parsed)
    if weighted and class_weights is None:
        raise ValueError(f"loss={loss!r} needs class_weights (one number for each class); see data.class_weights")
    if class_weights is not None:
        if not weighted:
            raise ValueError(f"class_weights given, but loss={loss!r} uses none; use 'weighted_ce' or 'weighted_focal'")
        class_weights = torch.as_tensor(class_weights, dtype=torch.float32)
        if class_weights.ndim != 1 or not bool((class_weights.isfinite() & (class_weights >= 0)).all()):
            raise ValueError(f"class_weights must be finite numbers >= 0, one for each class, got {class_weights}")
    return Loss(tuple((weight, _TERMS[term](ignore_index, class_weights)) for weight, term in parsed))


def cross_entropy(
    logits: Tensor, target: Tensor, class_weights: _Weights = None, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Mean cross-entropy over valid pixels, weighted by class if asked. logits (B, K, H, W), target (B, H, W)."""
    return build_loss("ce" if class_weights is None else "weighted_ce", class_weights, ignore_index)(logits, target)


def dice(logits: Tensor, target: Tensor, ignore_index: int = IGNORE_INDEX, smooth: float = 1.0) -> Tensor:
    """Soft Dice loss over the classes present, see `Dice`. logits (B, K, H, W), target (B, H, W)."""
    return Loss(((1.0, Dice(ignore_index, smooth)),))(logits, target)


def focal(
    logits: Tensor,
    target: Tensor,
    alpha: float | Sequence[float] | Tensor = 0.25,
    gamma: float = 2.0,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Softmax focal loss, see `Focal`. logits (B, K, H, W), target (B, H, W), alpha one number or (K,)."""
    alpha = alpha if isinstance(alpha, float | int) else torch.as_tensor(alpha, dtype=torch.float32)
    return Loss(((1.0, Focal(ignore_index, alpha, gamma)),))(logits, target)


def exponential_cross_entropy(
    logits: Tensor, target: Tensor, beta: float = 1.0, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Mean of e^(beta (1 - p_t)) (-log p_t), see `ExponentialCrossEntropy`. Shapes as for the others."""
    return Loss(((1.0, ExponentialCrossEntropy(ignore_index, beta)),))(logits, target)
