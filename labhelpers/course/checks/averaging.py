"""Check of lab 05's two averages: one IoU of all classes together, and the mean over the classes."""

from typing import Any

import torch
from torch import Tensor

from labhelpers.course.checks import references
from labhelpers.course.checks.compare import difference, kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise


@exercise("micro_macro_iou", references.micro_macro_iou)
def micro_macro_iou(check: Check, answer) -> None:
    """A matrix with an absent class, two never found and one invented; a perfect one; large counts."""
    # class 2 occurs nowhere, classes 3 and 5 are never predicted, class 4 is predicted but never there
    rows = [[60, 3, 0, 0, 2, 0], [4, 20, 0, 0, 1, 0], [0] * 6, [6, 2, 0, 0, 0, 0], [0] * 6, [3, 0, 0, 0, 1, 0]]
    matrix = torch.tensor(rows)
    micro, macro = references.micro_macro_iou(matrix)
    found = _pair(check.call(answer, matrix))
    swapped = all(not difference(value, wrong, "") for value, wrong in zip(found, (macro, micro), strict=True))
    check.that(not swapped, "the two are exchanged: micro comes first, macro second.")
    check.equal(found[0], micro, "micro", _micro_mistakes(matrix))
    check.equal(found[1], macro, "macro", _macro_mistakes(matrix))
    for words, other in {
        "of a perfect prediction": torch.diag(torch.tensor([7, 0, 2])),
        "of counts beyond 32 bits": torch.tensor([[3, 1], [1, 1]]) * 10**10,
    }.items():
        found = _pair(check.call(answer, other))
        for name, value, expected in zip(("micro", "macro"), found, references.micro_macro_iou(other), strict=True):
            check.equal(value, expected, f"{name} {words}")


def _pair(result: Any) -> tuple[Any, Any]:
    if isinstance(result, (tuple, list)) and len(result) == 2:
        return tuple(result)
    size = f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
    raise Mistake(f"it returns {kind_of(result)}{size}, expected a tuple of two floats: `return micro, macro`.")


def _parts(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hit, row, column = (x.double() for x in (matrix.diagonal(), matrix.sum(1), matrix.sum(0)))
    return hit, row, column, row + column - hit


def _micro_mistakes(matrix: Tensor) -> list[tuple[float, str]]:
    hit, row, column, union = _parts(matrix)
    total, seen = row.sum(), row > 0
    return [
        (value.item(), f"micro: {hint}")
        for value, hint in (
            (
                hit.sum() / total,
                "this is pixel accuracy, hits over pixels. The unions add up to more: a wrong pixel lies in two of "
                "them, that of its true class and that of the predicted one.",
            ),
            (
                hit.sum() / (row + column).sum(),
                "its union is row sum + column sum, which counts each intersection twice: subtract the diagonal.",
            ),
            (hit.sum() / (union.sum() - hit.sum()), "the diagonal is subtracted twice: row sum + column sum - hits."),
            (hit[1:].sum() / union[1:].sum(), "it leaves out class 0: all classes enter."),
            (hit[seen].sum() / union[seen].sum(), "class 4 is predicted but not in the target: its union counts, too."),
            (
                hit[hit > 0].sum() / union[hit > 0].sum(),
                "it leaves out classes that have no hit: their unions count, too.",
            ),
            (
                (row * hit / union.clamp_min(1)).sum() / total,
                "this is the mean IoU weighted by frequency: sum first, then divide once.",
            ),
            (100 * hit.sum() / union.sum(), "it is in percent: return a fraction between 0 and 1."),
        )
    ]


def _macro_mistakes(matrix: Tensor) -> list[tuple[float, str]]:
    hit, row, column, union = _parts(matrix)
    occurs = union > 0
    iou = hit / union.clamp_min(1)
    return [
        (value.item(), f"macro: {hint}")
        for value, hint in (
            (
                iou.mean(),
                "it counts the absent class (neither in target nor prediction) as 0: leave it out of the mean.",
            ),
            ((iou + ~occurs).mean(), "it counts the absent class as a perfect 1: leave it out of the mean."),
            ((hit / union).mean(), "it is nan, because of 0 / 0 for the class that occurs nowhere: leave that out."),
            (
                (hit / (row + column))[occurs].mean(),
                "its union is row sum + column sum, which counts each intersection twice: subtract the diagonal.",
            ),
            ((2 * hit / (row + column))[occurs].mean(), "this is Dice, 2 I / (row + column): divide by the union."),
            (iou[row > 0].mean(), "class 4 is predicted but not in the target: it counts, as 0."),
            (iou[column > 0].mean(), "class 3 is in the target though never predicted: it counts, as 0."),
            (iou[hit > 0].mean(), "it leaves out classes that occur but have no hit: they count, as 0."),
            (iou[1:].sum() / occurs[1:].sum(), "it leaves out class 0: the background is a class like the others."),
            ((hit / row)[row > 0].mean(), "this is mean accuracy (diagonal / row sum): divide by the union."),
            ((hit / column)[column > 0].mean(), "this is mean precision (diagonal / column sum): divide by the union."),
            ((row * iou).sum() / row.sum(), "it weights classes by frequency: each class counts the same."),
            (hit.sum() / union.sum(), "it is the micro IoU again: take the IoU of each class, then their mean."),
            (100 * iou[occurs].mean(), "it is in percent: return a fraction between 0 and 1."),
        )
    ]
