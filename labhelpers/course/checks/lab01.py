"""Checks of lab 01: colours, reading VOC, joint augmentation; confusion matrix, mean IoU, class weights."""

from collections.abc import Callable

import torch
from torch import Tensor

from labhelpers.course.checks.core import Case, Exercise

# -------------------------------------------------------------- class_weights


def _class_weights(pixels: Tensor) -> Tensor:
    """pixels (K,) int64 -> float32 (K,): inverse square root of frequency, mean 1 over classes that occur, else 0."""
    occurs = pixels > 0
    weights = torch.where(occurs, pixels.clamp_min(1).double().rsqrt(), 0)
    return (weights / weights[occurs].mean()).float()


def _weights(of: Callable[[Tensor], Tensor], absent: float = 0.0) -> Callable[[Tensor], Tensor]:
    """The answer whose weights for the classes that occur are made of their frequencies, a tensor of sum 1."""

    def answer(pixels: Tensor) -> Tensor:
        occurs = pixels > 0
        counts = pixels[occurs].float()
        return torch.full(pixels.shape, absent).masked_scatter(occurs, of(counts / counts.sum()))

    return answer


def _mean_one(weights: Tensor) -> Tensor:
    return weights / weights.mean()


def _averaged_with_absent(pixels: Tensor) -> Tensor:
    return _mean_one(_weights(torch.rsqrt)(pixels))


def _not_normalised_counts(pixels: Tensor) -> Tensor:
    return torch.where(pixels > 0, pixels.float().rsqrt(), 0)


_UNFINISHED = "divide by the mean over the classes that occur, so that the loss keeps its size."
_ABSENT = "the absent classes have weight {}: they occur nowhere and get 0, before anything is averaged."

class_weights = Exercise(
    "class_weights",
    _class_weights,
    cases=lambda: [
        Case((torch.tensor([7300, 0, 400, 25, 0, 1600]),), what="the weights"),
        Case(
            (torch.tensor([7300, 0, 400, 25, 0, 1600]) * 10**7,),
            "for 10**7 times as many pixels, which should be the same",
            "the weights",
        ),
        Case((torch.tensor([50, 50, 0]),), "of two equally frequent classes", "the weights"),
    ],
    wrong=[
        (_weights(lambda f: _mean_one(1 / f)), "this is the inverse frequency: the square root of it is missing."),
        (
            _weights(lambda f: _mean_one(f.sqrt())),
            "frequent classes get the larger weight: it is the inverse of the square root.",
        ),
        (_weights(torch.rsqrt), f"the weights are not normalised: {_UNFINISHED}"),
        (_not_normalised_counts, f"the weights are not normalised: {_UNFINISHED}"),
        (
            _weights(torch.reciprocal),
            f"neither square root nor normalisation: take the square root, then {_UNFINISHED}",
        ),
        (
            _weights(lambda f: f.rsqrt() / f.rsqrt().sum()),
            "the weights sum to 1: their mean over the classes that occur is to be 1.",
        ),
        (
            _weights(lambda f: f.rsqrt() / f.rsqrt().max()),
            "the largest weight is 1: the mean over the classes that occur is to be 1.",
        ),
        (
            _weights(lambda f: f.rsqrt() / f.rsqrt().min()),
            "the smallest weight is 1: the mean over the classes that occur is to be 1.",
        ),
        (_averaged_with_absent, "the mean includes the absent classes: average only those that occur."),
        (_weights(lambda f: _mean_one(f.rsqrt()), absent=1.0), _ABSENT.format(1)),
        (_weights(torch.rsqrt, absent=torch.inf), _ABSENT.format("inf")),
        (_weights(lambda f: _mean_one(f.rsqrt()), absent=torch.inf), _ABSENT.format("inf")),
        (
            _weights(torch.zeros_like, absent=torch.nan),
            _ABSENT.format("inf, which makes the mean inf and them nan"),
        ),
        (_weights(lambda f: _mean_one(f.rsqrt()), absent=torch.nan), _ABSENT.format("nan")),
    ],
)
