"""Intervals and paired comparisons over images."""

import numpy as np
import pytest

from labhelpers.evaluation import METRICS, bootstrap, paired_bootstrap


def matrices(images: int, recall: float, seed: int, spread: float = 0.15) -> np.ndarray:
    """Two-class images of 1,000 pixels, half of them foreground, of which about `recall` is found."""
    rng = np.random.default_rng(seed)
    hit = (500 * np.clip(rng.normal(recall, spread, images), 0, 1)).astype(int)
    result = np.zeros((images, 2, 2), dtype=np.int32)
    result[:, 0, 0], result[:, 1, 1], result[:, 1, 0] = 500, hit, 500 - hit
    return result


def test_resamples_are_sums_of_images():
    """Against the plain loop: draw images, add their matrices, score the sum."""
    a = matrices(20, 0.7, seed=0)
    interval = bootstrap(a, "mean_iou", n=120, seed=5)
    draws = np.random.default_rng(5).multinomial(20, np.full(20, 1 / 20), size=120)
    values = [METRICS["mean_iou"](a[np.repeat(np.arange(20), draw)].sum(0)) for draw in draws]
    assert interval.low == pytest.approx(np.percentile(values, 2.5))
    assert interval.high == pytest.approx(np.percentile(values, 97.5))
    assert interval.mean == pytest.approx(np.mean(values))
    assert interval.value == METRICS["mean_iou"](a.sum(0))
    assert str(interval).startswith(f"{interval.value:.3f} [")


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = METRICS["recall"](matrices(200_000, 0.7, seed=0).sum(0))
    intervals = [bootstrap(matrices(60, 0.7, seed=seed), "recall", n=200) for seed in range(1, 101)]
    assert 88 <= sum(interval.low <= truth <= interval.high for interval in intervals) <= 99


def test_pairing_sees_what_separate_intervals_miss():
    a = matrices(80, 0.6, seed=2)
    better = a.copy()
    better[:, 1, 1] += (better[:, 1, 0] * 0.1).astype(int)  # each image a little better
    better[:, 1, 0] = 500 - better[:, 1, 1]
    alone = [bootstrap(m) for m in (a, better)]
    assert alone[0].high > alone[1].low
    comparison = paired_bootstrap(better, a)
    assert comparison.significant
    assert comparison.share == 1
    assert comparison.difference.value == pytest.approx(alone[1].value - alone[0].value)
    assert paired_bootstrap(a, better).share == 0


def test_noise_is_called_noise():
    comparison = paired_bootstrap(matrices(80, 0.6, seed=3), matrices(80, 0.6, seed=4))
    assert not comparison.significant
    assert 0.01 < comparison.share < 0.99
    assert "do not tell which is better" in str(comparison)


def test_a_class_that_resamples_may_lack():
    """One image in ten holds class 2: resamples without it score the other classes only, and nothing is NaN."""
    a = np.zeros((10, 3, 3), dtype=np.int32)
    a[:, 0, 0] = 100
    a[0, 2, 2] = 50
    interval = bootstrap(a)
    assert (interval.low, interval.high, interval.value) == (1, 1, 1)
    assert np.isnan(bootstrap(np.zeros((3, 2, 2))).low)


def test_bad_arguments():
    a = matrices(5, 0.5, seed=0)
    with pytest.raises(ValueError, match="unknown metric 'miou'; known: pixel_accuracy"):
        bootstrap(a, "miou")
    with pytest.raises(ValueError, match="per_image=True"):
        bootstrap(None)
    with pytest.raises(ValueError, match="one matrix per image"):
        bootstrap(a.sum(0))
    with pytest.raises(ValueError, match="same images"):
        paired_bootstrap(a, a[:4])
    with pytest.raises(ValueError, match="same images"):
        paired_bootstrap(a, a * 2)
