"""The checks of lab 01's scores and weights accept right answers and name the mistakes of wrong ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import assert_hint, assert_passes
from torch.nn import functional

from labhelpers.course import checks
from labhelpers.evaluation import ConfusionMatrix

# ------------------------------------------------------------------- mean_iou


def parts(matrix):
    m = matrix.double()
    return m.diagonal(), m.sum(1), m.sum(0)


def iou_nanmean(matrix):
    hit, row, column = parts(matrix)
    return torch.nanmean(hit / (row + column - hit)).item()


def iou_loop(matrix):
    m, values = matrix.numpy(), []
    for k in range(len(m)):
        union = m[k].sum() + m[:, k].sum() - m[k, k]
        if union:
            values.append(m[k, k] / union)
    return np.mean(values)


@pytest.mark.parametrize("answer", [iou_nanmean, iou_loop])
def test_mean_iou_accepts(answer):
    assert_passes("mean_iou", answer)


def score(formula):
    """An answer from a formula of (hit, row sums, column sums)."""
    return lambda matrix: float(formula(*parts(matrix)))


WRONG_MEAN_IOU = [
    (score(lambda i, r, c: torch.nan_to_num(i / (r + c - i)).mean()), "absent class", "as 0"),
    (score(lambda i, r, c: (i / (r + c - i + 1e-9)).mean()), "absent class", "as 0"),
    (score(lambda i, r, c: ((i + 1e-9) / (r + c - i + 1e-9)).mean()), "absent class", "perfect 1"),
    (score(lambda i, r, c: (i / (r + c - i)).mean()), "nan"),
    (score(lambda i, r, c: torch.nanmean(i / (r + c))), "subtract the diagonal"),
    (score(lambda i, r, c: torch.nanmean(2 * i / (r + c))), "Dice"),
    (score(lambda i, r, c: torch.nanmean(i / r)), "mean accuracy"),
    (score(lambda i, r, c: torch.nanmean(i / c)), "mean precision"),
    (score(lambda i, r, c: i.sum() / r.sum()), "pixel accuracy"),
    (score(lambda i, r, c: i.sum() / (r + c - i).sum()), "before dividing"),
    (score(lambda i, r, c: (i / (r + c - i))[r > 0].mean()), "class 4"),
    (score(lambda i, r, c: (i / (r + c - i))[c > 0].mean()), "class 3"),
    (score(lambda i, r, c: (i / (r + c - i))[i > 0].mean()), "no hit"),
    (score(lambda i, r, c: 100 * torch.nanmean(i / (r + c - i))), "percent"),
    (lambda matrix: torch.tensor(iou_nanmean(matrix)), "`.item()`"),
    (lambda matrix: iou_nanmean(matrix) + 0.01, "expected 0.2"),
    (lambda matrix: iou_nanmean(matrix.int()), "beyond 32 bits"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_MEAN_IOU])
def test_mean_iou_rejects(answer, hints):
    assert_hint("mean_iou", answer, *hints)


# ----------------------------------------------------------- confusion_matrix


def matrix_by_bincount(prediction, target, num_classes, ignore_index=255):
    valid = target != ignore_index
    index = target[valid].long() * num_classes + prediction[valid].long()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def matrix_by_one_hot(prediction, target, num_classes, ignore_index=255):
    valid = (target != ignore_index).flatten()
    rows = functional.one_hot(target.flatten()[valid].long(), num_classes)
    columns = functional.one_hot(prediction.flatten()[valid].long(), num_classes)
    return rows.T @ columns


@pytest.mark.parametrize("answer", [matrix_by_bincount, matrix_by_one_hot])
def test_confusion_matrix_accepts(answer):
    assert_passes("confusion_matrix", answer)


def matrix_void_as_background(prediction, target, num_classes, ignore_index=255):
    return matrix_by_bincount(prediction, torch.where(target == ignore_index, 0, target), num_classes)


def matrix_overflow(prediction, target, num_classes, ignore_index=255):
    valid = target != ignore_index
    index = target[valid] * num_classes + prediction[valid]
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def matrix_no_minlength(prediction, target, num_classes, ignore_index=255):
    valid = target != ignore_index
    return torch.bincount(target[valid].long() * num_classes + prediction[valid]).view(num_classes, num_classes)


def matrix_with_void(prediction, target, num_classes, ignore_index=255):
    index = target.flatten().long() * num_classes + prediction.flatten()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def matrix_in_place(prediction, target, num_classes, ignore_index=255):
    target[target == ignore_index] = 0
    return matrix_by_bincount(prediction, target, num_classes)


def matrix_one_off(*given):
    matrix = matrix_by_bincount(*given)
    matrix[-1, 0] += 1
    return matrix


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda *given: matrix_by_bincount(*given).T, "rows are the target"),
        (matrix_void_as_background, "as background"),
        (matrix_overflow, "overflows"),
        (matrix_no_minlength, "minlength"),
        (matrix_with_void, "leaving out void"),
        (matrix_in_place, "in place"),
        (lambda p, t, k, ignore_index=255: matrix_by_bincount(p, t, k, 255), "leave out `ignore_index`"),
        (lambda *given: matrix_by_bincount(*given) / matrix_by_bincount(*given).sum(), "return the counts"),
        (lambda *given: matrix_by_bincount(*given).float(), "expected torch.int64"),
        (lambda *given: matrix_by_bincount(*given).numpy(), "torch.from_numpy"),
        (matrix_one_off, "first at [20, 0]"),
    ],
)
def test_confusion_matrix_rejects(answer, hint):
    assert_hint("confusion_matrix", answer, hint)


# -------------------------------------------------------------- class_weights


def weights_by_mask(pixels):
    frequency = pixels / pixels.sum()
    weights = torch.zeros(len(pixels))
    weights[pixels > 0] = frequency[pixels > 0].rsqrt()
    return weights / weights[pixels > 0].mean()


def weights_by_list(pixels):
    raw = [count**-0.5 if count else 0.0 for count in pixels.tolist()]
    mean = sum(raw) / sum(1 for weight in raw if weight)
    return torch.tensor([weight / mean for weight in raw])


@pytest.mark.parametrize("answer", [weights_by_mask, weights_by_list])
def test_class_weights_accepts(answer):
    assert_passes("class_weights", answer)


def weights_all_averaged(pixels):
    weights = torch.where(pixels > 0, pixels.float().rsqrt(), 0)
    return weights / weights.mean()


def weights_one_off(pixels):
    weights = weights_by_mask(pixels)
    weights[-1] += 0.001
    return weights


WRONG_WEIGHTS = [
    (lambda n: torch.where(n > 0, 1 / n, 0) / (1 / n[n > 0]).mean(), "square root of it is missing"),
    (lambda n: n.sqrt() / n[n > 0].sqrt().mean(), "inverse of the square root"),
    (lambda n: torch.where(n > 0, (n / n.sum()).rsqrt(), 0), "not normalised"),
    (lambda n: torch.where(n > 0, n.float().rsqrt(), 0), "not normalised"),
    (lambda n: torch.where(n > 0, n.sum() / n, 0), "neither square root nor"),
    (lambda n: weights_by_mask(n) / weights_by_mask(n).sum(), "sum to 1"),
    (lambda n: weights_by_mask(n) / weights_by_mask(n).max(), "largest weight is 1"),
    (weights_all_averaged, "average only those that occur"),
    (lambda n: (n / n.sum()).rsqrt(), "weight inf"),
    (lambda n: n.float().rsqrt() / n.float().rsqrt().mean(), "nan"),
    (lambda n: torch.where(n > 0, weights_by_mask(n), 1.0), "weight 1"),
    (lambda n: weights_by_mask(n).double(), "expected torch.float32"),
    (lambda n: weights_by_mask(n).numpy(), "torch.from_numpy"),
    (weights_one_off, "first at [5]"),
]


@pytest.mark.parametrize(("answer", "hint"), WRONG_WEIGHTS)
def test_class_weights_rejects(answer, hint):
    assert_hint("class_weights", answer, hint)


# ----------------------------------------------------------------- references


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=21).filter(any))
@settings(max_examples=50, deadline=None)
def test_reference_weights_have_mean_one_over_classes_that_occur(pixels):
    weights = checks.class_weights.reference(torch.tensor(pixels))
    occurs = torch.tensor(pixels) > 0
    assert weights[occurs].mean().item() == pytest.approx(1, rel=1e-5)
    assert not weights[~occurs].any()


def test_reference_mean_iou_is_the_one_of_the_evaluator():
    counter = ConfusionMatrix(5)
    counter.update(torch.randint(0, 4, (30, 30)), torch.randint(0, 4, (30, 30)))
    assert checks.mean_iou.reference(counter.matrix) == counter.compute().mean_iou
