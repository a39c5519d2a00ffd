"""Checks of lab 01, the numbers: confusion matrix, mean IoU, class weights."""

import numpy as np
import torch
from torch import Tensor

from labhelpers import evaluation
from labhelpers.course.checks import references
from labhelpers.course.checks.core import Check, exercise


@exercise("mean_iou", references.mean_iou)
def mean_iou(check: Check, answer) -> None:
    """A matrix with an absent class, two never found and one invented; then a perfect one; then large counts."""
    # class 2 occurs nowhere, classes 3 and 5 are never predicted, class 4 is predicted but never there
    rows = [[50, 3, 0, 0, 2, 0], [4, 20, 0, 0, 1, 0], [0] * 6, [6, 2, 0, 0, 0, 0], [0] * 6, [3, 0, 0, 0, 1, 0]]
    matrix = torch.tensor(rows)
    hit, row, column = (x.double() for x in (matrix.diagonal(), matrix.sum(1), matrix.sum(0)))
    union = row + column - hit
    present = union > 0
    iou = torch.where(present, hit / union.clamp_min(1), 0)
    total = row.sum()
    mistakes = [
        (value.item(), hint)
        for value, hint in (
            (
                iou.mean(),
                "it counts the absent class (neither in target nor prediction) as 0: leave it out of the mean.",
            ),
            ((iou + ~present).mean(), "it counts the absent class as a perfect 1: leave it out of the mean."),
            (
                (hit / union).mean(),
                "it is nan, because 0 / 0 for the class that occurs nowhere enters the mean: leave that class out.",
            ),
            (
                (hit / (row + column))[present].mean(),
                "its union is row sum + column sum, which counts the intersection twice: subtract the diagonal once.",
            ),
            (
                (2 * hit / (row + column))[present].mean(),
                "this is Dice, 2 I / (row + column): IoU divides by the union.",
            ),
            (iou.sum() / (row > 0).sum(), "class 4 is predicted but not in the target: it counts, as 0."),
            (iou.sum() / (column > 0).sum(), "class 3 is in the target though never predicted: it counts, as 0."),
            (iou.sum() / (hit > 0).sum(), "it leaves out classes that occur but have no hit: they count, as 0."),
            ((hit / row)[row > 0].mean(), "this is mean accuracy (diagonal / row sum): IoU divides by the union."),
            ((hit / column)[column > 0].mean(), "this is mean precision (diagonal / column sum): divide by the union."),
            (hit.sum() / total, "this is pixel accuracy: take the IoU of each class first, then their mean."),
            (
                hit.sum() / union.sum(),
                "it sums over classes before dividing: take the IoU of each class, then their mean.",
            ),
            ((row * iou).sum() / total, "it weights classes by frequency: in the mean IoU each class counts the same."),
            (100 * iou[present].mean(), "it is in percent: return a fraction between 0 and 1."),
            (torch.zeros(()), "it is 0: is that an integer division (`//`)?"),
        )
    ]
    check.equal(check.call(answer, matrix), iou[present].mean().item(), "the mean IoU", mistakes)
    check.equal(check.call(answer, torch.diag(torch.tensor([7, 0, 2]))), 1.0, "the mean IoU of a perfect prediction")
    large = torch.tensor([[3, 1], [1, 1]]) * 10**10
    check.equal(check.call(answer, large), (3 / 5 + 1 / 3) / 2, "the mean IoU of counts beyond 32 bits")


@exercise("confusion_matrix", evaluation.confusion_matrix)
def confusion_matrix(check: Check, answer) -> None:
    """Labels of 21 classes in one byte, a single picture, another ignore_index; rows are the target."""
    rng = np.random.default_rng(0)
    errors = {
        "invalid for input of size": "bincount counts only up to the largest value it meets: use "
        "minlength=num_classes**2, after leaving out void."
    }
    for num_classes, shape, ignore_index, dtype in (
        (21, (2, 12, 15), 255, torch.int64),
        (21, (12, 15), 255, torch.uint8),
        (3, (5, 4), 255, torch.uint8),
        (4, (2, 6, 5), 2, torch.int64),
    ):
        prediction = torch.from_numpy(rng.integers(0, num_classes, shape)).to(dtype)
        target = torch.from_numpy(rng.integers(0, num_classes, shape)).to(torch.uint8)
        target[..., :2, :] = ignore_index
        target[..., -1] = num_classes - 1
        when = f"for {num_classes} classes, void {ignore_index}, shape {tuple(shape)}, predictions of {dtype}"
        found = check.call(answer, prediction, target, num_classes, ignore_index, when=when, errors=errors)
        expected = evaluation.confusion_matrix(prediction, target, num_classes, ignore_index)
        mistakes = _confusion_mistakes(prediction, target, num_classes, ignore_index, expected)
        check.equal(found, expected, f"the matrix {when}", mistakes)
    expected = evaluation.confusion_matrix(prediction, target, num_classes)
    check.equal(
        check.call(answer, prediction, target, num_classes), expected, "the matrix for the default ignore_index"
    )


def _confusion_mistakes(prediction: Tensor, target: Tensor, k: int, ignore_index: int, expected: Tensor) -> list:
    valid = target != ignore_index

    def count(index):
        return torch.bincount(index.flatten().long(), minlength=k * k)[: k * k].view(k, k)

    def with_void_as(label):
        changed = torch.where(valid, target, label).long()
        return count(changed * k + prediction)

    return [
        (expected.T, "rows and columns are exchanged: rows are the target, columns the prediction."),
        (with_void_as(0), "void pixels are counted as background: leave them out."),
        (with_void_as(k - 1), "void pixels are counted as the last class: leave them out."),
        (
            count((target * k + prediction)[valid]),
            "target * num_classes overflows: in uint8 it wraps around at 256. Turn the labels into int64 first "
            "(`.long()`).",
        ),
        (count((target.long() * k + prediction)[target != 255]), "it leaves out 255 always: leave out `ignore_index`."),
        (
            count(target[valid].long() * (k + 1)),
            "it counts the target alone: each pixel belongs at (target, prediction).",
        ),
        (expected / expected.sum(), "it is normalised: return the counts."),
        (expected / expected.sum(1, keepdim=True), "its rows are normalised: return the counts."),
    ]
