"""The confusion matrix and its scores, against torchmetrics, scikit-learn and plain loops."""

import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labhelpers.evaluation import METRICS, ConfusionMatrix, Scores, confusion_matrix, foreground_iou, scores

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
MACRO = ("pixel_accuracy", "mean_accuracy", "freq_weighted_iou", "mean_iou", "precision", "recall", "f1")


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


def test_one_class():
    gathered = ConfusionMatrix(1)
    gathered.update(torch.zeros(2, 3, dtype=torch.uint8), torch.tensor([[0, 0, 255], [0, 255, 0]], dtype=torch.uint8))
    assert gathered.matrix.tolist() == [[4]]
    assert all(np.all(value == 1) for value in asdict(gathered.compute()).values())


def test_nothing_seen_is_undefined_and_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = ConfusionMatrix(5).compute()
        assert all(np.isnan(METRICS[name](np.zeros((5, 5)))) for name in METRICS)
    assert all(np.isnan(getattr(empty, name)) for name in MACRO)


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


def test_another_ignore_index_even_among_the_classes():
    target = torch.tensor([[0, 1, 2, 2]], dtype=torch.uint8)
    assert confusion_matrix(target, target, 3, ignore_index=0).diagonal().tolist() == [0, 1, 2]


def test_boolean_masks_are_two_classes():
    mask = torch.tensor([[True, False, True]])
    assert confusion_matrix(mask, mask, 2).tolist() == [[1, 0], [0, 2]]


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


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_classes must be 1 to 256"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="ignore_index must be 0 to 255"):
        ConfusionMatrix(3, ignore_index=-100)


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
