"""Checks of lab 07: right answers in several styles pass, and wrong ones of another make get their hint, too."""

import statistics
import time

import numpy as np
import pytest
from judging import assert_hint, assert_passes
from scipy.special import expit

from labhelpers.course import checks
from labhelpers.course.checks.lab07 import _Discs
from labhelpers.prompting import ClickCurve, mask_iou, next_click, paint

stability = checks.stability_score.reference
nms = checks.non_maximum_suppression.reference
label = checks.label_masks.reference
clicks = checks.number_of_clicks.reference


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


def grid_by_loop(height, width, grid):
    steps = [(k + 0.5) / grid for k in range(grid)]
    return np.array([(x * width - 0.5, y * height - 0.5) for y in steps for x in steps])


def matrix_by_loop(masks, others):
    return np.array([[iou(a, b) for b in others] for a in masks]).reshape(len(masks), len(others))


def matrix_by_einsum(masks, others):
    both = np.einsum("nhw,mhw->nm", masks.astype(np.float32), others.astype(np.float32))
    union = masks.sum((1, 2))[:, None] + others.sum((1, 2)) - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def classes_by_sorting(predictor, image, target, instances):
    """As `paint` of the library does, with a predictor that is told the whole image first."""
    predictor.set_image(image)
    found = []
    for number in set(instances.ravel().tolist()) - {0, 255}:
        inside = instances == number
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        mask, _ = predictor.predict(box=[columns[0], rows[0], columns[-1], rows[-1]])
        values, counts = np.unique(target[inside & (target < 255)], return_counts=True)
        found.append((mask.sum(), values[counts.argmax()], mask))
    out = np.zeros_like(target)
    for _, value, mask in sorted(found, key=lambda item: -item[0]):
        out[mask] = value
    return out


def difference_by_quantiles(a, b, draws):
    means = sorted(np.mean([a[i] - b[i] for i in row]) for row in draws)
    return np.mean(a) - np.mean(b), np.quantile(means, 0.025), np.quantile(means, 0.975)


def good_by_loop(logits, ious, min_stability):
    kept = []
    for index in sorted(range(len(logits)), key=lambda i: -ious[i]):
        mask = logits[index] > 0
        steady = iou(logits[index] > 1, logits[index] > -1)
        if steady >= min_stability and all(iou(mask, other) <= 0.7 for other in kept):
            kept.append(mask)
    return np.array(kept, dtype=bool).reshape(-1, *logits.shape[1:])


def user_by_lists(predictor, image, truth, ignore, clicks):
    """Stops clicking for good once nothing is wrong, and fills up."""
    predictor.set_image(image)
    mask, asked, found = None, [], []
    while len(found) < clicks:
        click = next_click(np.zeros_like(truth) if mask is None else mask, truth, ignore)
        if click is None:
            found += [found[-1]] * (clicks - len(found))
            break
        asked.append(click)
        mask = predictor.predict(
            points=[point.tolist() for point, _ in asked], labels=[label for _, label in asked], mask_input=mask
        )[0]
        found.append(mask_iou(mask, truth, ignore))
    return np.array(found)


def time_by_ends(action, runs, clock):
    ends = []
    for _ in range(runs + 1):
        action()
        ends.append(clock())
    return statistics.median((after - before) * 1e3 for before, after in zip(ends, ends[1:], strict=False))


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


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("click_grid", grid_by_loop),
        ("click_grid", lambda *given: grid_by_loop(*given).astype(np.float32)),
        ("iou_matrix", matrix_by_loop),
        ("iou_matrix", matrix_by_einsum),
        ("classes_from_boxes", classes_by_sorting),
        ("paired_difference", difference_by_quantiles),
        ("paired_difference", lambda a, b, draws: [*difference_by_quantiles(a, b, draws)]),
        ("good_masks", good_by_loop),
        ("click_ious", user_by_lists),
        ("click_ious", lambda *given: user_by_lists(*given).astype(np.float32)),
        ("median_time", time_by_ends),
        ("stability_score", stability_by_sets),
        ("stability_score", stability_by_flattening),
        ("stability_score", stability_in_float32),
        ("non_maximum_suppression", nms_by_removal),
        ("non_maximum_suppression", nms_by_matrix),
        ("non_maximum_suppression", lambda *given: tuple(nms_by_removal(*given))),
        ("label_masks", label_by_unique),
        ("label_masks", label_smallest_first),
        ("number_of_clicks", clicks_by_loop),
        ("number_of_clicks", clicks_by_maximum),
    ],
)
def test_right_answer_passes(name, answer):
    assert_passes(name, answer)


def test_the_exercises_are_what_the_library_does():
    rng = np.random.default_rng(0)
    masks = rng.random((6, 20, 30)) < rng.random((6, 1, 1))
    guide = rng.choice(np.array([0, 3, 9, 255], np.uint8), (20, 30))
    classes = np.array([np.bincount(guide[mask & (guide != 255)], minlength=1).argmax() for mask in masks])
    assert np.array_equal(label(masks, guide), paint(masks, np.ones(6), classes))
    ious = np.random.default_rng(1).random((30, 7))
    curve = ClickCurve("", "", ious, ious, np.arange(30))
    for threshold in (0.5, 0.85, 0.99):
        assert clicks(ious, threshold) == (curve.noc_capped(threshold), curve.failures(threshold))


def greedy_against_all(masks, scores, threshold=0.7):
    order = np.argsort(-scores)
    return [
        int(i)
        for rank, i in enumerate(order)
        if all(iou(masks[i], masks[j]) <= threshold for j in order[:rank])  # also against those that were dropped
    ]


def argmax_of_nothing(masks, guide):
    out = np.zeros_like(guide)
    for mask in sorted(masks, key=lambda mask: -mask.sum()):
        out[mask] = np.bincount(guide[mask & (guide != 255)]).argmax()
    return out


def largest_last(masks, guide):
    out = np.zeros_like(guide)
    for mask in sorted(masks, key=lambda mask: mask.sum()):
        values = [value for value in guide[mask].tolist() if value != 255]
        if values:
            out[mask] = max(set(values), key=values.count)
    return out


def last_below(ious, threshold):
    """Counts the clicks below the threshold, which is another number where the IoU falls again."""
    counts = [min(sum(value < threshold for value in row) + 1, len(row)) for row in ious]
    return sum(counts) / len(counts), clicks_by_loop(ious, threshold)[1]


def left_out(ious, threshold):
    found = [next(i for i, v in enumerate(row, 1) if v >= threshold) for row in ious if max(row) >= threshold]
    return (sum(found) / len(found) if found else float("nan")), len(ious) - len(found)


def masks_emptied(masks, scores, threshold=0.7):
    kept = nms_by_removal(masks, scores, threshold)
    masks[:] = False
    return kept


def without_image(predictor, image, target, instances):
    predictor.set_image = lambda _: None
    return classes_by_sorting(predictor, image, target, instances)


def boxes_with_exclusive_ends(predictor, image, target, instances):
    predict = predictor.predict
    predictor.predict = lambda box: predict(box=np.array(box) + [0, 0, 1, 1])
    return classes_by_sorting(predictor, image, target, instances)


def whole_cells(height, width, grid):
    return np.array([(width // grid * (k + 0.5), height // grid * (i + 0.5)) for i in range(grid) for k in range(grid)])


def small_integers(masks, others, dtype=np.uint8):
    a, b = (of.reshape(len(of), of.shape[1] * of.shape[2]).astype(dtype) for of in (masks, others))
    union = a.sum(1, dtype=int)[:, None] + b.sum(1, dtype=int) - a @ b.T
    return (a @ b.T) / np.maximum(union, 1)


def indices_of_the_sorted(masks, scores, threshold=0.7):
    order = np.argsort(-scores)
    return nms_by_removal(masks[order], scores[order], threshold)


def scores_of_all(logits, ious, min_stability):
    stable = stability(logits) >= min_stability
    return (logits[stable] > 0)[nms(logits[stable] > 0, ious)]


def void_wins(masks, guide):
    out = np.zeros_like(guide)
    for mask in sorted(masks, key=lambda mask: -mask.sum()):
        counts = np.bincount(guide[mask], minlength=256)
        out[mask] = counts[:255].argmax()
    return out


def class_under_the_answer(predictor, image, target, instances):
    predict, inside = predictor.predict, instances.copy()
    for number in set(instances.ravel().tolist()) - {0, 255}:
        rows, columns = np.nonzero(instances == number)
        predictor.set_image(image)
        mask, _ = predict(box=[columns.min(), rows.min(), columns.max(), rows.max()])
        labels = target[mask & (target < 255)]
        inside[instances == number] = np.bincount(labels, minlength=1).argmax()
    return classes_by_sorting(predictor, image, np.where(target == 255, target, inside), instances)


def failures_at_the_end(ious, threshold):
    return clicks(ious, threshold)[0], sum(clicks(row[None], threshold)[0] == len(row) for row in ious)


def forgetful(predictor):
    predict = predictor.predict
    predictor.predict = lambda points, labels, mask_input: predict(points, labels)
    return predictor


WRONG = [
    ("click_grid", lambda h, w, n: grid_by_loop(h, w, n) + 0.5, "half a pixel too far"),
    ("click_grid", lambda h, w, n: grid_by_loop(h, w, n)[:, ::-1].copy(), "(y, x)"),
    ("click_grid", lambda h, w, n: grid_by_loop(h, w, n).tolist(), "expected a NumPy array"),
    ("click_grid", whole_cells, "half a pixel too far"),
    ("click_grid", lambda h, w, n: grid_by_loop(h, w, n)[:: n + 1], "`np.meshgrid`"),
    ("iou_matrix", lambda a, b: matrix_by_loop(a, b).T.copy(), "rows and columns are exchanged"),
    ("iou_matrix", small_integers, "in uint8"),
    ("iou_matrix", lambda a, b: small_integers(a, b, bool), "a product of booleans"),
    ("iou_matrix", lambda a, b: (a[:, None] & b).sum((2, 3)) / (a[:, None] | b).sum((2, 3)), "0 is divided by 0"),
    ("classes_from_boxes", without_image, "call `predictor.set_image(image)` once"),
    ("classes_from_boxes", boxes_with_exclusive_ends, "a pixel too large"),
    ("good_masks", lambda z, s, t: good_by_loop(z, s, 0), "masks that are not stable stay"),
    ("good_masks", lambda z, s, t: good_by_loop(z, -s, t), "the worst of two stays"),
    ("good_masks", scores_of_all, "`ious[stable]` goes with `masks[stable]`"),
    ("good_masks", lambda z, s, t: good_by_loop(z, s, np.nextafter(t, 1)), "*at least*"),
    ("classes_from_boxes", class_under_the_answer, "counted inside the answer"),
    (
        "click_ious",
        lambda p, image, truth, ignore, n: user_by_lists(p, image, truth, np.zeros_like(ignore), n),
        "void counts as an error",
    ),
    (
        "click_ious",
        lambda p, *given: user_by_lists(forgetful(p), *given),
        "the earlier mask is not handed over",
    ),
    ("click_ious", lambda p, *given: user_by_lists(_Discs(), *given).tolist(), "expected a NumPy array"),
    ("click_ious", lambda *given: np.maximum.accumulate(user_by_lists(*given)), "best IoUs so far"),
    ("median_time", lambda action, runs, clock: time_by_ends(action, runs, time.perf_counter), "call `clock()`"),
    ("median_time", lambda action, runs, clock: time_by_ends(action, runs, clock) / 1000, "these are seconds"),
    ("median_time", lambda action, runs, clock: time_by_ends(action, runs + 3, clock), "it calls `action` 7 times"),
    ("paired_difference", lambda a, b, draws: difference_by_quantiles(b, a, draws), "b - a"),
    ("paired_difference", lambda a, b, draws: difference_by_quantiles(abs(a - b), 0 * b, draws), "keep their signs"),
    ("paired_difference", lambda a, b, draws: difference_by_quantiles(a, b, draws)[1:], "a tuple of 2"),
    ("stability_score", lambda z, d=1.0: stability_by_sets(expit(z), d), "thresholds probabilities"),
    ("stability_score", lambda z, d=1.0: (z > d).sum((1, 2)) / (z > -d).sum((1, 2)), "of no mask at all is 0"),
    ("stability_score", lambda z, d=1.0: stability_by_sets(z, d).mean(), "expected a NumPy array"),
    ("stability_score", lambda z, d=1.0: list(stability_by_sets(z, d)), "expected a NumPy array"),
    ("non_maximum_suppression", greedy_against_all, "because of one that was dropped itself"),
    ("non_maximum_suppression", lambda m, s, t=0.7: nms_by_removal(m, -s, t), "begins with the lowest score"),
    ("non_maximum_suppression", indices_of_the_sorted, "places in the sorted list"),
    (
        "non_maximum_suppression",
        lambda m, s, t=0.7: np.isin(np.arange(len(m)), nms(m, s, t)),
        "True or False for each of 2 masks",
    ),
    ("non_maximum_suppression", lambda m, s, t=0.7: m[nms(m, s, t)], "not the masks themselves"),
    ("non_maximum_suppression", lambda m, s, t=0.7: s[nms(m, s, t)], "expected whole numbers"),
    ("non_maximum_suppression", lambda m, s, t=0.7: [*nms(m, s, t), [1, 2]], "other things than whole numbers"),
    ("non_maximum_suppression", lambda m, s, t=0.7: {*nms(m, s, t)}, "expected a list of indices"),
    ("non_maximum_suppression", lambda m, s, t=0.7: nms(m, s, t) or [0], "for no masks at all it keeps [0]"),
    (
        "non_maximum_suppression",
        lambda m, s, t=0.7: nms_by_removal(m.reshape(len(m), -1), s, t),
        "no masks at all",
        "say H * W",
    ),
    ("non_maximum_suppression", masks_emptied, "argument number 1 in place"),
    ("label_masks", largest_last, "large masks cover small ones"),
    ("label_masks", void_wins, "a mask on void alone is painted as background"),
    ("label_masks", lambda masks, guide: label(masks, guide).astype(np.int64), "its dtype is int64; expected uint8"),
    ("label_masks", lambda masks, guide: label(masks, guide).tolist(), "expected a NumPy array"),
    ("label_masks", argmax_of_nothing, "leave it out. (ValueError for a mask on void alone"),
    ("label_masks", lambda masks, guide: np.int64(None), "TypeError"),
    ("number_of_clicks", last_below, "an IoU may fall again"),
    ("number_of_clicks", left_out, "are left out"),
    ("number_of_clicks", failures_at_the_end, "with the last click is counted as a failure"),
    ("number_of_clicks", lambda ious, t: (clicks(ious, t)[0], clicks(ious, t)[1] / len(ious)), "a Python float"),
    ("number_of_clicks", lambda ious, t: clicks(ious, t)[0], "expected the pair (clicks, failures)"),
    ("number_of_clicks", lambda ious, t: (np.array([1.0]), 0), "is a NumPy array, expected a Python float"),
]


@pytest.mark.parametrize(("name", "answer", "hints"), [(name, answer, hints) for name, answer, *hints in WRONG])
def test_wrong_answer_gets_its_hint(name, answer, hints):
    assert_hint(name, answer, *hints)
