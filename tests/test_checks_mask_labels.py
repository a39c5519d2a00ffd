"""The checks of names for masks and of the number of clicks accept right answers and name the mistake of wrong ones."""

import numpy as np
import pytest
from judging import assert_hint, assert_passes

from labhelpers.course.checks import lab07 as mask_references
from labhelpers.prompting import ClickCurve, by_overlap


def label_by_unique(masks, guide):
    out = np.zeros_like(guide)
    for index in np.argsort([-mask.sum() for mask in masks]):
        inside = guide[masks[index]]
        values, counts = np.unique(inside[inside < 255], return_counts=True)
        if len(values):
            out[masks[index]] = values[counts.argmax()]
    return out


def label_smallest_first(masks, guide):
    """Small masks first, and nothing is painted twice."""
    out, free = np.zeros(guide.shape, np.uint8), np.ones(guide.shape, bool)
    for mask in sorted(masks, key=lambda mask: mask.sum()):
        counts = np.bincount(guide[mask], minlength=256)[:255]
        if counts.any():
            out[mask & free] = counts.argmax()
            free &= ~mask
    return out


@pytest.mark.parametrize("answer", [label_by_unique, label_smallest_first])
def test_labels_accepts(answer):
    assert_passes("label_masks", answer)


def test_the_exercise_is_what_the_library_does():
    rng = np.random.default_rng(0)
    masks = rng.random((6, 20, 30)) < rng.random((6, 1, 1))
    guide = rng.choice(np.array([0, 3, 9, 255], np.uint8), (20, 30))
    assert np.array_equal(mask_references.label_masks.reference(masks, guide), by_overlap(masks, np.ones(6), guide))


def label(
    order=lambda masks: sorted(masks, key=np.count_nonzero, reverse=True),
    name=lambda inside: np.bincount(inside).argmax(),
    seen=lambda inside: inside[inside != 255],
    ground=0,
    kind=np.uint8,
):
    """A student's answer with a place for each mistake."""

    def answer(masks, guide):
        out = np.full(guide.shape, ground, dtype=kind)
        for mask in order(masks):
            inside = seen(guide[mask])
            if len(inside):
                out[mask] = name(inside)
        return out

    return answer


def without_background(inside):
    return np.bincount(inside[inside > 0]).argmax() if (inside > 0).any() else 0


MISNAMED = [
    (label(order=lambda masks: sorted(masks, key=np.count_nonzero)), "large masks cover small ones"),
    (label(order=lambda masks: masks), "in the order in which they come"),
    (label(order=lambda masks: masks[::-1]), "from the last to the first"),
    (label(seen=lambda inside: inside), "void is counted as a class"),
    (label(seen=lambda inside: np.where(inside == 255, 0, inside)), "void is counted as background"),
    (label(name=without_background), "background is not counted"),
    (label(name=np.max), "this is the largest label"),
    (label(name=lambda inside: round(inside.mean())), "this is the mean of labels"),
    (label(name=np.median), "this is the median label"),
    (label(ground=255), "pixels without a mask are void"),
    (label(kind=np.int64), "its dtype is int64; expected uint8"),
    (lambda masks, guide: np.where(masks.any(0), guide, 0).astype(np.uint8), "it copies the guide into the masks"),
    (lambda masks, guide: np.where(masks.any(0), label()(masks, guide), guide), "have the guide's class"),
    (lambda masks, guide: label()(masks, guide).tolist(), "expected a NumPy array"),
    (label(seen=lambda inside: inside[inside != 255], name=lambda inside: None), "TypeError"),
    (lambda masks, guide: None, "not written yet"),
]


@pytest.mark.parametrize(("answer", "hint"), MISNAMED)
def test_labels_rejects(answer, hint):
    assert_hint("label_masks", answer, hint)


def test_a_mask_on_void_alone_is_asked_for():
    def answer(masks, guide):
        out = np.zeros_like(guide)
        for mask in sorted(masks, key=lambda mask: -mask.sum()):
            out[mask] = np.bincount(guide[mask & (guide != 255)]).argmax()  # argmax of nothing
        return out

    assert_hint("label_masks", answer, "ValueError for a mask on void alone")


def clicks_by_loop(ious, threshold):
    counts, failures = [], 0
    for row in ious:
        for click, value in enumerate(row, start=1):
            if value >= threshold:
                counts.append(click)
                break
        else:
            counts.append(len(row))
            failures += 1
    return sum(counts) / len(counts), failures


def clicks_by_maximum(ious, threshold):
    below = np.maximum.accumulate(ious, axis=1) < threshold
    failed = below[:, -1]
    return np.where(failed, ious.shape[1], below.sum(1) + 1).mean(), np.int64(failed.sum())


@pytest.mark.parametrize("answer", [clicks_by_loop, clicks_by_maximum])
def test_clicks_accepts(answer):
    assert_passes("number_of_clicks", answer)


def test_the_exercise_is_what_the_library_reports():
    ious = np.random.default_rng(1).random((30, 7))
    curve = ClickCurve("", "", ious, ious, np.arange(30))
    for threshold in (0.5, 0.85, 0.99):
        expected = curve.noc_capped(threshold), curve.failures(threshold)
        assert mask_references.number_of_clicks.reference(ious, threshold) == expected


def clicks(failed=lambda most: most, add=1, reached=np.greater_equal, count=lambda there: int((~there).sum())):
    """A student's answer with a place for each mistake."""

    def answer(ious, threshold):
        passed = reached(ious, threshold)
        there = passed.any(1)
        first = np.where(there, passed.argmax(1) + add, failed(ious.shape[1]))
        return float(first.mean()), count(there)

    return answer


def left_out(ious, threshold):
    there = (ious >= threshold).any(1)
    first = (ious >= threshold).argmax(1)[there] + 1
    return (float(first.mean()) if len(first) else float("nan")), int((~there).sum())


def of_the_mean(ious, threshold):
    mean, failures = ious.mean(0), clicks_by_loop(ious, threshold)[1]
    return float(np.argmax(mean >= threshold) + 1 if (mean >= threshold).any() else len(mean)), failures


def last_below(ious, threshold):
    """Counts the clicks below the threshold, which is another number where the IoU falls again."""
    return float(np.minimum((ious < threshold).sum(1) + 1, ious.shape[1]).mean()), clicks_by_loop(ious, threshold)[1]


MISCOUNTED = [
    (clicks(add=0), "counted from 0"),
    (clicks(add=0, failed=lambda most: most - 1), "counted from 0"),
    (clicks(failed=lambda most: 0), "counts 0: it counts as many"),
    (clicks(failed=lambda most: 1), "argmax of a row without True is 0"),
    (clicks(failed=lambda most: most + 1), "one click more than were allowed"),
    (clicks(reached=np.greater), "exactly the threshold counts as reached"),
    (left_out, "are left out"),
    (of_the_mean, "when the mean curve gets there"),
    (last_below, "an IoU may fall again"),
    (clicks(count=lambda there: float((~there).mean())), "a Python float"),
    (clicks(count=lambda there: int(there.sum())), "return how many do not"),
    (lambda ious, threshold: clicks()(ious, threshold)[0], "expected the pair (clicks, failures)"),
    (lambda ious, threshold: [*clicks()(ious, threshold)], "expected the pair (clicks, failures)"),
    (lambda ious, threshold: (np.array([1.0]), 0), "is a NumPy array, expected a Python float"),
    (lambda ious, threshold: None, "not written yet"),
]


@pytest.mark.parametrize(("answer", "hint"), MISCOUNTED)
def test_clicks_rejects(answer, hint):
    assert_hint("number_of_clicks", answer, hint)
