"""How sure a score is: resampling the images of the set.

A validation set is a sample: other images would have given another score. The bootstrap (Efron, "Bootstrap methods:
another look at the jackknife", Annals of Statistics 1979) draws N of the N images with replacement, many times, and
looks at how the score spreads. It covers the choice of images only; another training seed adds its own spread.
"""

from dataclasses import dataclass

import numpy as np

from labhelpers.evaluation.confusion import METRICS

_CHUNK = 50


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % percentile interval; `mean` is the mean of the resamples, `value` the score of the set."""

    low: float
    high: float
    mean: float
    value: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images: `difference` is A - B, `share` that of the resamples in which A is better."""

    metric: str
    difference: Interval
    share: float

    @property
    def significant(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return self.difference.low > 0 or self.difference.high < 0

    def __str__(self) -> str:
        verdict = "" if self.significant else "; the interval contains 0, so these images do not tell which is better"
        return f"{self.metric}: A - B = {self.difference}, A is better in {self.share:.1%} of the resamples{verdict}"


def bootstrap(matrices: np.ndarray, metric: str = "mean_iou", n: int = 1000, seed: int = 0) -> Interval:
    """Return the 95 % interval of a score over the choice of images.

    Each resample sums the matrices of its images and scores the sum, as the evaluator does with the whole set.

    Args:
        matrices: counts (N, K, K), one confusion matrix per image: `Evaluation.matrices`, or `.band_matrices[width]`.
        metric: a name in `METRICS`.
        n: number of resamples.
    """
    matrices = _checked(matrices, metric)
    return _interval(_resampled(matrices, metric, n, seed), float(METRICS[metric](matrices.sum(0))))


def paired_bootstrap(
    a: np.ndarray | None, b: np.ndarray | None, metric: str = "mean_iou", n: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two models on the same images, resampled together.

    Both find the same images hard, so the difference is far surer than two separate intervals suggest.

    Args:
        a, b: counts (N, K, K) of either model, images in the same order.

    Raises:
        ValueError: the two were not measured on the same images.
    """
    a, b = _checked(a, metric), _checked(b, metric)
    if a.shape != b.shape or not np.array_equal(a.sum(2), b.sum(2)):
        raise ValueError(
            f"a {a.shape} and b {b.shape} were not measured on the same images: their true pixel counts differ. "
            "Evaluate both models on the same data set, without shuffling."
        )
    difference = _resampled(a, metric, n, seed) - _resampled(b, metric, n, seed)
    value = float(METRICS[metric](a.sum(0)) - METRICS[metric](b.sum(0)))
    return Comparison(metric, _interval(difference, value), float(np.mean(difference > 0)))


def _checked(matrices: np.ndarray | None, metric: str) -> np.ndarray:
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}.")
    if matrices is None or np.ndim(matrices) != 3 or len(matrices) == 0:
        found = "none" if matrices is None else np.shape(matrices)
        raise ValueError(
            f"the bootstrap needs one matrix per image, (N, K, K), got {found}. "
            "Call evaluate with per_image=True and pass its matrices."
        )
    return np.asarray(matrices, dtype=np.int64)


def _resampled(matrices: np.ndarray, metric: str, n: int, seed: int) -> np.ndarray:
    """Score n resamples; equal seeds draw equal images. A draw is how often each image is taken: (n, N) @ (N, K K)."""
    images, k, _ = matrices.shape
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=n)
    flat = matrices.reshape(images, k * k).astype(np.float64)  # exact up to 2^53 pixels
    chunks = (draws[start : start + _CHUNK] @ flat for start in range(0, n, _CHUNK))
    return np.concatenate([METRICS[metric](chunk.reshape(-1, k, k)) for chunk in chunks])


def _interval(resamples: np.ndarray, value: float) -> Interval:
    defined = resamples[~np.isnan(resamples)]
    if len(defined) == 0:
        return Interval(np.nan, np.nan, np.nan, value)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(float(low), float(high), float(defined.mean()), value)
