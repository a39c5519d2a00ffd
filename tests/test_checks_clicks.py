"""The check of the simulated next click accepts right answers and names the mistake of wrong ones."""

import numpy as np
import pytest
import torch
from judging import assert_hint, assert_passes
from scipy import ndimage

from labhelpers.prompting import sampling


def depth(mask):
    return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]


def plain(prediction, truth):
    fn, fp = truth & ~prediction, prediction & ~truth
    if not fn.any() and not fp.any():
        return None
    d_fn, d_fp = depth(fn), depth(fp)
    if d_fn.max() > d_fp.max():
        d, label = d_fn, 1
    else:
        d, label = d_fp, 0
    y, x = np.unravel_index(d.argmax(), d.shape)
    return np.array([x, y], dtype=np.float32), label


def last_of_equals(prediction, truth):
    """Another of the points that are as deep, integers, a list."""
    found = None
    deepest = 0.0
    for label, region in (
        (0, np.logical_and(prediction, np.logical_not(truth))),
        (1, np.logical_and(truth, ~prediction)),
    ):
        inside = depth(region)
        if inside.max() > deepest:
            deepest = inside.max()
            y, x = np.argwhere(inside == deepest)[-1]
            found = [np.array([x, y]), label]
    return found


def by_brute_force(prediction, truth):
    """Distances to every pixel that is not in the region, the frame around the image included."""
    best, click = 0, None
    height, width = truth.shape
    for label in (0, 1):
        region = np.zeros((height + 2, width + 2), dtype=bool)
        region[1:-1, 1:-1] = (truth != prediction) & (truth == bool(label))
        outside = np.argwhere(~region)
        for y, x in np.argwhere(region):
            squared = ((outside - (y, x)) ** 2).sum(1).min()
            if squared > best:
                best, click = squared, (np.array([x - 1.0, y - 1.0]), label)
    return click


def by_codes(prediction, truth):
    error = truth.astype(int) - prediction.astype(int)
    if not error.any():
        return
    stack = np.stack([depth(error == -1), depth(error == 1)])
    label, y, x = (int(i) for i in np.unravel_index(np.argmax(stack), stack.shape))
    return np.asarray((x, y), dtype="float64"), label


def with_numpy_label(prediction, truth):
    found = plain(prediction, truth)
    return found and (found[0], np.int64(found[1]))


@pytest.mark.parametrize("answer", [plain, last_of_equals, by_brute_force, by_codes, with_numpy_label])
def test_accepts(answer):
    assert_passes("next_click", answer)


def click(
    prediction,
    truth,
    *,
    deep=depth,
    order=lambda y, x: (x, y),
    label=lambda label: label,
    bigger=lambda region, deep: deep(region).max(),
    regions=lambda p, t: (p & ~t, t & ~p),
    place=None,
    none=True,
    kind=np.array,
):
    """A student's answer with a place for each mistake."""
    both = regions(prediction, truth)
    if none and not (both[0].any() or both[1].any()):
        return None
    chosen = int(bigger(both[1], deep) > bigger(both[0], deep))
    inside = deep(both[chosen])
    y, x = place(both[chosen]) if place else np.unravel_index(inside.argmax(), inside.shape)
    return kind(order(y, x)), label(chosen)


def clicked(**changes):
    return lambda prediction, truth: click(prediction, truth, **changes)


def pixels(region):
    return np.argwhere(region)


def no_border(mask):
    return ndimage.distance_transform_edt(mask) if not mask.all() else mask.astype(float)


def padding_left_in(mask):
    return ndimage.distance_transform_edt(np.pad(mask, 1))


def metric(name):
    return lambda mask: ndimage.distance_transform_cdt(np.pad(mask, 1), name)[1:-1, 1:-1]


def joint(prediction, truth):
    inside = depth(prediction != truth)
    if not inside.any():
        return None
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return np.array([x, y]), int(truth[y, x])


def largest_component(prediction, truth):
    error = prediction != truth
    if not error.any():
        return None
    labels, _ = ndimage.label(error)
    region = labels == np.bincount(labels.ravel())[1:].argmax() + 1
    inside = depth(region)
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return np.array([x, y]), int(truth[y, x])


def only_missed(prediction, truth):
    missed = truth & ~prediction
    return (sampling.centre_click(missed), 1) if missed.any() else None


def only_missed_without_none(prediction, truth):
    inside = depth(truth & ~prediction)
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return np.array([x, y]), 1


def missed_first(prediction, truth):
    """Too much is looked at only where nothing is missed."""
    found = only_missed(prediction, truth)
    return found or (None if (prediction == truth).all() else (sampling.centre_click(prediction & ~truth), 0))


def centre_of_truth(prediction, truth):
    return None if (prediction == truth).all() or not truth.any() else (sampling.centre_click(truth), 1)


def random_pixel(prediction, truth):
    places = np.argwhere(prediction != truth)
    if not len(places):
        return None
    y, x = places[len(places) // 3]
    return np.array([x, y]), int(truth[y, x])


WRONG = [
    (clicked(order=lambda y, x: (y, x)), "x and y are exchanged"),
    (clicked(label=lambda label: 1 - label), "the label is wrong: 1 (foreground) where the truth was missed"),
    (clicked(label=lambda label: 1), "too much marked, nothing missed", "Is it always 1?"),
    (clicked(label=lambda label: 0), "the label is wrong"),
    (clicked(regions=lambda p, t: (t & ~p, p & ~t)), "the label is wrong"),
    (clicked(place=lambda region: pixels(region).mean(0).round()), "the mean of the pixels"),
    (clicked(place=lambda region: pixels(region).mean(0)), "the mean of the pixels"),
    (
        clicked(place=lambda region: (pixels(region).min(0) + pixels(region).max(0)) // 2),
        "the middle of the bounding box",
    ),
    (clicked(place=lambda region: pixels(region)[0]), "the first pixel of the error"),
    (clicked(place=lambda region: pixels(region)[-1]), "is not the deepest of the error"),
    (clicked(bigger=lambda region, deep: region.sum()), "the middle of the shallower error"),
    (clicked(bigger=lambda region, deep: -deep(region).max()), "the shallower error"),
    (clicked(deep=no_border), "the image's edge counts as a border"),
    (clicked(deep=padding_left_in), "the padding is still counted"),
    (clicked(deep=lambda mask: ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1]), "border"),
    (clicked(deep=lambda mask: ndimage.distance_transform_edt(~mask) * (~mask).any()), "found (", "label"),
    (joint, "two kinds of error: take the depth of each alone"),
    (largest_component, "the middle of the shallower error"),
    (only_missed, "for too much marked, nothing missed it returns None"),
    (only_missed_without_none, "for too much marked, nothing missed"),
    (missed_first, "longer, thinner part missed: this is the middle of the shallower error"),
    (centre_of_truth, "the middle of the truth"),
    (random_pixel, "not the deepest"),
    (clicked(none=False), "it returns (array([", "expected None: there is no error"),
    (lambda p, t: click(p, t) if t.any() else (np.array([0, 0]), 0), "an image without the object it returns"),
    (clicked(deep=metric("chessboard")), "a missed diamond and a square: the point is not the deepest", "Euclidean"),
    (clicked(deep=metric("taxicab")), "for a missed square and a smaller diamond: the point is not", "Euclidean"),
    (clicked(kind=tuple), "the point is a value of type tuple, expected np.array([x, y])"),
    (clicked(kind=lambda xy: torch.tensor(xy)), "the point is a torch tensor"),
    (clicked(kind=lambda xy: np.array([xy])), "the point has shape (1, 2)"),
    (clicked(kind=lambda xy: np.array([f"{v}" for v in xy])), "expected two numbers"),
    (clicked(kind=lambda xy: np.array(xy) + 0.5), "found (6.5, 5.5)"),
    (clicked(kind=lambda xy: np.array(xy) + 100), "outside the image, where x ends at 23"),
    (clicked(kind=lambda xy: np.array(xy) * np.nan), "outside the image"),
    (clicked(label=bool), "the label is a value of type bool, expected 1 or 0"),
    (clicked(label=float), "the label is a Python float, expected 1 or 0"),
    (lambda p, t: click(p, t) and click(p, t)[0], "expected the pair (point, label)"),
    (lambda p, t: click(p, t) and (*click(p, t), 0), "expected the pair"),
    (lambda p, t: click(p, t, regions=lambda p, t: (p - t, t - p)), "TypeError for a missed part"),
    (lambda p, t: None, "not written yet"),
    (lambda p, t: ..., "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG])
def test_rejects(answer, hints):
    assert_hint("next_click", answer, *hints)


def test_mask_changed_in_place_is_named():
    def answer(prediction, truth):
        prediction &= ~truth
        return click(prediction, truth)

    assert_hint("next_click", answer, "argument number 1 in place")
