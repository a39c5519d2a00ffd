"""The checks of stability and suppression accept right answers and name the mistake of wrong ones."""

import numpy as np
import pytest
from judging import assert_hint, assert_passes
from scipy.special import expit


def iou(a, b):
    return np.logical_and(a, b).sum() / max(np.logical_or(a, b).sum(), 1)


def stability_by_sets(logits, offset=1.0):
    return np.array([iou(one > offset, one > -offset) for one in logits])


def stability_by_flattening(logits, offset=1.0):
    flat = logits.reshape(len(logits), -1)
    higher, lower = np.count_nonzero(flat > offset, axis=1), np.count_nonzero(flat > -offset, axis=1)
    return np.divide(higher, lower, out=np.zeros(len(flat)), where=lower > 0)


def stability_in_float32(logits, offset=1.0):
    return stability_by_sets(logits.astype(np.float32), offset).astype(np.float32)


@pytest.mark.parametrize("answer", [stability_by_sets, stability_by_flattening, stability_in_float32])
def test_stability_accepts(answer):
    assert_passes("stability_score", answer)


def ratio(upper, lower):
    """Areas above two thresholds, given the offset, and their ratio."""

    def answer(logits, offset=1.0):
        area = [(logits > threshold(offset)).sum((1, 2)) for threshold in (upper, lower)]
        return area[0] / np.maximum(area[1], 1)

    return answer


UNSTABLE = [
    (ratio(lambda d: -d, lambda d: d), "this is the inverse"),
    (ratio(lambda d: d, lambda d: 0), "compare with the one above -offset"),
    (ratio(lambda d: 0, lambda d: -d), "take the one above +offset"),
    (ratio(lambda d: d / 2, lambda d: -d / 2), "not half of that"),
    (ratio(lambda d: 1, lambda d: -1), "it ignores `offset`"),
    (ratio(lambda d: d, lambda d: d), "1 for every mask"),
    (lambda z, d=1.0: ratio(lambda d: d, lambda d: -d)(expit(z), d), "thresholds probabilities"),
    (lambda z, d=1.0: stability_by_sets(z, d).mean(), "expected a NumPy array"),
    (lambda z, d=1.0: np.array(stability_by_sets(z, d).mean()), "this is one number"),
    (lambda z, d=1.0: (z > d).sum((1, 2)).astype(float), "the area of the smaller mask"),
    (lambda z, d=1.0: (z > d).mean((1, 2)), "divides by the area of the image"),
    (lambda z, d=1.0: 1 - stability_by_sets(z, d), "this is 1 minus the IoU"),
    (lambda z, d=1.0: (abs(z) > d).mean((1, 2)), "the share of the image that is sure"),
    (lambda z, d=0.5: stability_by_sets(z, d), "the default of `offset` is 1, not 0.5"),
    (lambda z, d=1.0: (z > d).sum((1, 2)) / (z > -d).sum((1, 2)), "the stability of no mask at all is 0"),
    (lambda z, d=1.0: list(stability_by_sets(z, d)), "expected a NumPy array"),
    (lambda z, d=1.0: None, "not written yet"),
]


@pytest.mark.parametrize(("answer", "hint"), UNSTABLE)
def test_stability_rejects(answer, hint):
    assert_hint("stability_score", answer, hint)


def nms_by_removal(masks, scores, threshold=0.7):
    left, kept = list(range(len(masks))), []
    while left:
        best = max(left, key=lambda i: scores[i])
        kept.append(best)
        left = [i for i in left if i != best and iou(masks[i], masks[best]) <= threshold]
    return kept


def nms_by_matrix(masks, scores, threshold=0.7):
    order = np.argsort(scores)[::-1]
    overlap = np.array([[iou(masks[i], masks[j]) for j in order] for i in order]).reshape(len(order), len(order))
    alive = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= overlap[i, i + 1 :] <= threshold
    return order[alive]


@pytest.mark.parametrize("answer", [nms_by_removal, nms_by_matrix, lambda *a: tuple(nms_by_removal(*a))])
def test_suppression_accepts(answer):
    assert_passes("non_maximum_suppression", answer)


def nms(
    order=lambda scores: np.argsort(-scores),
    overlap=iou,
    drop=lambda overlap, threshold: overlap > threshold,
    against=lambda kept, seen: kept,
    default=0.7,
):
    """A student's answer with a place for each mistake."""

    def answer(masks, scores, threshold=default):
        kept, seen = [], []
        for i in order(scores):
            if not any(drop(overlap(masks[i], masks[j]), threshold) for j in against(kept, seen)):
                kept.append(int(i))
            seen.append(i)
        return kept

    return answer


def as_flags(masks, scores, threshold=0.7):
    return np.isin(np.arange(len(masks)), nms_by_removal(masks, scores, threshold))


UNSUPPRESSED = [
    (nms(drop=lambda overlap, threshold: False), "nothing is suppressed"),
    (nms(order=np.argsort), "begins with the lowest score"),
    (nms(order=lambda scores: range(len(scores))), "as they come"),
    (nms(against=lambda kept, seen: seen), "because of one that was dropped itself"),
    (nms(overlap=lambda a, b: (a & b).sum() / min(a.sum(), b.sum())), "divides by the smaller area"),
    (nms(overlap=lambda a, b: (a & b).sum() / (a.sum() + b.sum())), "counts what both share once"),
    (nms(drop=lambda overlap, threshold: overlap >= threshold), "exactly the threshold is not above it"),
    (nms(drop=lambda overlap, threshold: overlap < threshold), "drop what overlaps"),
    (nms(default=0.5), "without a threshold it does not use 0.7"),
    (lambda m, s, t=0.7: sorted(nms_by_removal(m, s, t)), "the right masks in another order"),
    (lambda m, s, t=0.7: nms_by_removal(m, s, t)[:1], "only the best mask is kept"),
    (as_flags, "True or False for each of 2 masks"),
    (lambda m, s, t=0.7: m[nms_by_removal(m, s, t)], "not the masks themselves"),
    (lambda m, s, t=0.7: s[nms_by_removal(m, s, t)], "expected whole numbers"),
    (lambda m, s, t=0.7: {*nms_by_removal(m, s, t)}, "expected a list of indices"),
    (lambda m, s, t=0.7: nms_by_removal(m, s, t) or [0], "for no masks at all it keeps [0]"),
    (lambda m, s, t=0.7: nms_by_removal(m.reshape(len(m), -1), s, t), "no masks at all", "say H * W"),
    (lambda m, s, t=0.7: ..., "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in UNSUPPRESSED])
def test_suppression_rejects(answer, hints):
    assert_hint("non_maximum_suppression", answer, *hints)


def test_masks_changed_in_place_are_named():
    def answer(masks, scores, threshold=0.7):
        kept = nms_by_removal(masks, scores, threshold)
        masks[:] = False
        return kept

    assert_hint("non_maximum_suppression", answer, "argument number 1 in place")
