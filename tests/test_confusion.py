"""The confusion matrix and its scores, against torchmetrics, scikit-learn and plain loops."""

import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labhelpers.evaluation import (
    METRICS,
    ConfusionMatrix,
    Scores,
    bootstrap,
    confusion_matrix,
    foreground_iou,
    paired_bootstrap,
    scores,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@st.composite
def batches(draw):
    """Some (prediction, target) uint8 batches: void, absent classes, one class, and a last batch of another size."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_classes = draw(st.integers(2, 40))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    present = rng.permutation(num_classes)[: draw(st.integers(1, num_classes))]
    guessed = rng.permutation(num_classes)[: draw(st.integers(1, num_classes))]
    right, void = draw(st.sampled_from([0.0, 0.5, 1.0])), draw(st.sampled_from([0.0, 0.1, 0.3, 0.9]))
    pairs = []
    for size in [draw(st.integers(1, 3))] * draw(st.integers(0, 2)) + [draw(st.integers(1, 3))]:
        target = rng.choice(present, (size, height, width)).astype(np.uint8)
        prediction = np.where(rng.random(target.shape) < right, target, rng.choice(guessed, target.shape))
        target[rng.random(target.shape) < void] = 255
        pairs.append((torch.from_numpy(prediction.astype(np.uint8)), torch.from_numpy(target)))
    return num_classes, pairs


def by_loop(num_classes: int, pairs: list) -> np.ndarray:
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    for prediction, target in pairs:
        for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
            if t != 255:
                matrix[t, p] += 1
    return matrix


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches())
@example((4, [(torch.tensor([[[0, 0, 1, 1, 1, 3]]]), torch.tensor([[[0, 0, 0, 1, 2, 255]]]))]))  # one class is absent
def test_equals_torchmetrics_scikit_learn_and_a_loop(case):
    from sklearn import metrics as sk
    from torchmetrics.functional import classification as tm

    num_classes, pairs = case
    gathered = ConfusionMatrix(num_classes)
    for prediction, target in pairs:
        gathered.update(prediction, target)
    ours = gathered.compute()
    np.testing.assert_array_equal(gathered.matrix, by_loop(num_classes, pairs))

    prediction = torch.cat([p.flatten() for p, _ in pairs]).long()
    target = torch.cat([t.flatten() for _, t in pairs]).long()
    if (target == 255).all():
        assert all(np.isnan(value).all() for value in asdict(ours).values())
        return
    prediction, target = prediction[target != 255], target[target != 255]
    labels = np.arange(num_classes)
    absent = ~np.isin(labels, torch.cat([prediction, target]))

    def near(value, expected):
        np.testing.assert_allclose(value, np.asarray(expected, dtype=np.float64), rtol=2e-6, atol=1e-7)

    def near_by_class(values, expected):
        np.testing.assert_array_equal(np.isnan(values), absent)
        near(values[~absent], np.asarray(expected)[~absent])

    options = {"num_classes": num_classes, "validate_args": False}
    near(ours.pixel_accuracy, tm.multiclass_accuracy(prediction, target, average="micro", **options))
    near(ours.mean_accuracy, tm.multiclass_accuracy(prediction, target, average="macro", **options))
    near(ours.mean_iou, tm.multiclass_jaccard_index(prediction, target, average="macro", **options))
    near(ours.freq_weighted_iou, tm.multiclass_jaccard_index(prediction, target, average="weighted", **options))
    near_by_class(ours.class_iou, tm.multiclass_jaccard_index(prediction, target, average="none", **options))
    near_by_class(ours.class_f1, tm.multiclass_f1_score(prediction, target, average="none", **options))

    prediction, target = prediction.numpy(), target.numpy()
    np.testing.assert_array_equal(gathered.matrix, sk.confusion_matrix(target, prediction, labels=labels))
    by_class = sk.precision_recall_fscore_support(target, prediction, labels=labels, zero_division=0)
    for name, expected in zip(("precision", "recall", "f1"), by_class, strict=False):
        near_by_class(getattr(ours, f"class_{name}"), expected)
        expected = np.where(absent, np.nan, expected)
        near(getattr(ours, name), expected[1] if num_classes == 2 else np.nanmean(expected))


def test_two_classes_report_the_foreground():
    matrix = np.array([[90, 2], [4, 4]])
    ours = scores(matrix)
    assert (ours.precision, ours.recall, ours.f1) == (4 / 6, 4 / 8, pytest.approx(8 / 14))
    assert ours.mean_iou == pytest.approx((90 / 96 + 4 / 10) / 2)
    assert ours.class_iou[1] == foreground_iou(matrix) == pytest.approx(4 / 10)
    assert "precision 0.6667" in str(ours)


@pytest.mark.parametrize(
    ("prediction", "target", "options", "expected"),
    [
        ([0, 0, 0, 0], [0, 255, 255, 0], {"num_classes": 1}, [[2]]),
        ([0, 1, 2, 2], [0, 1, 2, 2], {"num_classes": 3, "ignore_index": 0}, [[0, 0, 0], [0, 1, 0], [0, 0, 2]]),
        ([True, False, True], [True, False, True], {"num_classes": 2}, [[1, 0], [0, 2]]),
    ],
)
def test_one_class_a_class_to_ignore_and_boolean_masks(prediction, target, options, expected):
    matrix = confusion_matrix(torch.tensor([prediction]), torch.tensor([target]), **options).numpy()
    assert matrix.tolist() == expected
    assert all(np.nanmin(value) == np.nanmax(value) == 1 for value in asdict(scores(matrix)).values())


def test_nothing_seen_is_undefined_and_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = ConfusionMatrix(5).compute()
        assert all(np.isnan(metric(np.zeros((5, 5)))) for metric in METRICS.values())
    assert all(np.isnan(value).all() for value in asdict(empty).values())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_classes", [1, 2, 21, 32, 33, 150, 255])
def test_logits_labels_and_integer_types_agree(num_classes, device):
    rng = torch.Generator().manual_seed(num_classes)
    logits = torch.randn(3, num_classes, 11, 13, generator=rng).to(device)
    target = torch.randint(0, num_classes, (3, 11, 13), generator=rng, dtype=torch.uint8).to(device)
    target[0, :4] = 255
    labels = logits.argmax(1)
    expected = by_loop(num_classes, [(labels, target)])
    for prediction in (logits, logits.to(memory_format=torch.channels_last), labels, labels.to(torch.uint8)):
        for truth in (target, target.long(), target.to(torch.int32)):
            np.testing.assert_array_equal(confusion_matrix(prediction, truth, num_classes), expected)
    one = confusion_matrix(logits[0], target[0], num_classes)
    np.testing.assert_array_equal(one, by_loop(num_classes, [(labels[0], target[0])]))
    turned = confusion_matrix(labels.transpose(1, 2), target.transpose(1, 2), num_classes)
    np.testing.assert_array_equal(turned, expected)


GOOD = torch.zeros(2, 4, 5, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (GOOD, torch.full_like(GOOD, 7), "target holds the label 7 in 40 pixels.*neither in 0..2 nor ignore_index 255"),
        (GOOD, torch.full_like(GOOD, 254), "target holds the label 254"),
        (GOOD, GOOD.long() - 1, "target holds the label -1"),
        (GOOD, GOOD.long() + 300, "target holds the label 300"),
        (GOOD + 3, GOOD, "prediction holds the label 3, but labels are 0..2"),
        (GOOD.long() - 2, GOOD, "prediction holds the label -2"),
        (GOOD.float(), GOOD, "prediction must hold integer labels, got torch.float32"),
        (GOOD, GOOD.float(), "target must hold integer labels"),
        (GOOD[:, :3], GOOD, r"\(2, 3, 5\) and target \(2, 4, 5\) differ in size"),
        (torch.zeros(2, 3, 8, 8), GOOD, "differ in size"),
        (torch.zeros(2, 4, 4, 5), GOOD, r"expected float logits \(B, 3, H, W\)"),
        (torch.zeros(2, 3, 4, 5, dtype=torch.long), GOOD, "expected float logits"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(prediction, target, message):
    gathered = ConfusionMatrix(3)
    gathered.update(GOOD, GOOD)
    with pytest.raises(ValueError, match=message):
        gathered.update(prediction, target)
    assert gathered.matrix.sum() == GOOD.numel()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_stacked_matrices_are_scored_one_by_one(num_classes, seed):
    matrices = np.random.default_rng(seed).integers(0, 4, (6, num_classes, num_classes))
    for name, metric in METRICS.items():
        together = metric(matrices)
        np.testing.assert_array_equal(together, [metric(matrix) for matrix in matrices])
        if name in Scores.__dataclass_fields__:
            np.testing.assert_array_equal(together, [getattr(scores(matrix), name) for matrix in matrices])
    iou, f1 = scores(matrices[0]).class_iou, scores(matrices[0]).class_f1
    np.testing.assert_allclose(f1, 2 * iou / (1 + iou))


# --- intervals ---


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


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda a: bootstrap(a, "miou"), "unknown metric 'miou'; known: pixel_accuracy"),
        (lambda a: bootstrap(None), "per_image=True"),
        (lambda a: bootstrap(a.sum(0)), "one matrix per image"),
        (lambda a: paired_bootstrap(a, a[:4]), "same images"),
        (lambda a: paired_bootstrap(a, a * 2), "same images"),
        (lambda a: ConfusionMatrix(0), "num_classes must be 1 to 256"),
        (lambda a: ConfusionMatrix(3, ignore_index=-100), "ignore_index must be 0 to 255"),
    ],
)
def test_bad_arguments(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(matrices(5, 0.5, seed=0))
