"""Does a network know how good its masks are? Its predicted IoU against the true one."""

from dataclasses import dataclass, field

import numpy as np

BINS = 10


@dataclass(frozen=True, eq=False)
class Calibration:
    """Predicted against true IoU of N answers.

    Attributes:
        pearson, spearman: correlation of the numbers, and of their ranks; NaN where one of the two is constant. The
            ranks are what chooses the best of several masks.
        error: the expected calibration error: the mean distance of predicted and true IoU over the bins, weighted by
            their answers (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3, with bins of equal
            count instead of equal width, so that each mean is equally sure).
        bias: mean predicted minus mean true IoU; above 0 the network is too sure of itself.
        predicted, true: float64 (N,).
        bin_predicted, bin_true: float64 (bins,), means in the bins, from the lowest predicted IoU up.
        bin_counts: int64 (bins,).
    """

    pearson: float
    spearman: float
    error: float
    bias: float
    predicted: np.ndarray = field(repr=False)
    true: np.ndarray = field(repr=False)
    bin_predicted: np.ndarray = field(repr=False)
    bin_true: np.ndarray = field(repr=False)
    bin_counts: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        return (
            f"predicted against true IoU over {len(self.true)} answers: Pearson {self.pearson:.2f}, Spearman "
            f"{self.spearman:.2f}, expected calibration error {self.error:.3f}, bias {self.bias:+.3f}"
        )


def calibration(predicted: np.ndarray, true: np.ndarray, bins: int = BINS) -> Calibration:
    """Compare predicted with true IoUs, answer by answer.

    Args:
        predicted, true: of the same shape, any: `scores.predicted["box"]` and `scores.ious["box"]`, or those of a
            `ClickCurve`. Where the prediction is NaN (nothing was asked) both are left out.
        bins: of equal count; as many as there are answers if that is fewer.

    Raises:
        ValueError: shapes that differ, no answer with a prediction, or fewer than one bin.
    """
    from scipy.stats import rankdata

    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if predicted.shape != true.shape or bins < 1:
        raise ValueError(
            f"calibration needs predicted and true IoUs of the same shape and at least 1 bin, got {predicted.shape}, "
            f"{true.shape} and {bins} bins."
        )
    asked = ~np.isnan(predicted)
    if not asked.any():
        raise ValueError("no answer has a predicted IoU: this predictor says nothing about its masks.")
    predicted, true = predicted[asked], true[asked]
    order = np.argsort(predicted, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    counts = np.array([len(part) for part in parts])
    bin_predicted, bin_true = (np.array([values[part].mean() for part in parts]) for values in (predicted, true))
    return Calibration(
        pearson=_correlation(predicted, true),
        spearman=_correlation(rankdata(predicted), rankdata(true)),
        error=float(np.average(np.abs(bin_predicted - bin_true), weights=counts)),
        bias=float(predicted.mean() - true.mean()),
        predicted=predicted,
        true=true,
        bin_predicted=bin_predicted,
        bin_true=bin_true,
        bin_counts=counts,
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")
