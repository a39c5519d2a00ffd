"""The checks of points and boxes drawn from a mask accept right answers, and name the mistake of wrong ones."""

import random

import numpy as np
import pytest
import torch
from judging import assert_hint, assert_passes, judge
from scipy import ndimage

# -------------------------------------------------------------- sample_points


def points_by_index(mask, n, rng):
    k = (n + 1) // 2 if (~mask).any() else n
    fg, bg = np.argwhere(mask), np.argwhere(~mask)
    points = [fg[rng.integers(0, len(fg), k)][:, ::-1]]
    if n > k:
        points.append(bg[rng.integers(0, len(bg), n - k)][:, ::-1])
    return np.concatenate(points).astype(np.float32), np.array([1] * k + [0] * (n - k))


def points_by_choice(mask, n, rng):
    """With replacement only where it must be, and in another order."""
    count = n - n // 2 if not mask.all() else n
    points, labels = [], []
    for label, size in ((0, n - count), (1, count)):
        flat = np.flatnonzero(mask.ravel() == label)
        if size:
            chosen = rng.choice(flat, size, replace=size > len(flat))
            points.append(np.column_stack([chosen % mask.shape[1], chosen // mask.shape[1]]))
            labels += [label] * size
    return np.vstack(points).astype(float), np.asarray(labels, dtype=np.int32)


def points_by_rejection(mask, n, rng):
    height, width = mask.shape
    wanted = {1: -(-n // 2), 0: n // 2}
    if mask.all():
        wanted = {1: n, 0: 0}
    points, labels = [], []
    while len(points) < n:
        x, y = int(rng.random() * width), int(rng.random() * height)
        label = int(mask[y, x])
        if wanted[label]:
            wanted[label] -= 1
            points.append((x, y))
            labels.append(label)
    return [np.array(points, dtype=float), np.array(labels, dtype=np.uint8)]


def points_by_shuffle(mask, n, rng):
    """A permutation of the pixels, again and again until there are enough."""
    k = int(np.ceil(n / 2)) if mask.sum() < mask.size else n

    def pick(region, count):
        y, x = np.where(region)
        order = np.concatenate([rng.permutation(len(x)) for _ in range(count // len(x) + 1)])[:count]
        return np.c_[x[order], y[order]]

    points = np.r_[pick(mask, k), pick(~mask, n - k)] if n > k else pick(mask, k)
    return points.astype("float32"), np.r_[np.ones(k, int), np.zeros(n - k, int)]


def points_by_permuted_rows(mask, n, rng):
    fg, bg = [np.stack(np.nonzero(part)[::-1], 1).astype(np.float64) for part in (mask, ~mask)]
    n_bg = n // 2 if len(bg) else 0
    indices = (rng.random(n - n_bg) * len(fg)).astype(int)
    points = np.concatenate([fg[indices]] + [bg[rng.choice(len(bg), n_bg)]] * (n_bg > 0))
    labels = (np.arange(n) < n - n_bg).astype(np.int64)
    order = rng.permutation(n)
    return points[order], labels[order]


@pytest.mark.parametrize(
    "answer", [points_by_index, points_by_choice, points_by_rejection, points_by_shuffle, points_by_permuted_rows]
)
def test_sample_points_accepts(answer):
    assert_passes("sample_points", answer)


def sample(
    mask,
    n,
    rng,
    *,
    order=(1, 0),
    half=lambda n: (n + 1) // 2,
    labels=(1, 0),
    on=lambda mask: mask,
    off=lambda mask: ~mask,
    draw=lambda rng, count, k: rng.integers(0, count, k),
    whole=True,
    shape=lambda points: points.astype(np.float32),
    number=lambda labels: labels,
):
    """A student's answer with a place for each mistake."""
    k = n if whole and mask.all() else half(n)
    points = []
    for region, count in ((on(mask), k), (off(mask), n - k)):
        places = np.argwhere(region)
        if count:
            points.append(places[draw(rng, len(places), count)][:, order])
    return shape(np.concatenate(points)), number(np.repeat(labels, (k, n - k)))


def sampled(**changes):
    return lambda mask, n, rng: sample(mask, n, rng, **changes)


def bounding_box(mask):
    box = np.zeros_like(mask)
    y, x = np.nonzero(mask)
    box[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
    return box


def row_then_column(mask, n, rng):
    """Draws a row first, so that pixels of short rows come more often."""

    def pick(region):
        rows = np.flatnonzero(region.any(1))
        y = rows[rng.integers(len(rows))]
        columns = np.flatnonzero(region[y])
        return columns[rng.integers(len(columns))], y

    k = n if mask.all() else (n + 1) // 2
    points = [pick(mask) for _ in range(k)] + [pick(~mask) for _ in range(n - k)]
    return np.array(points, float), np.array([1] * k + [0] * (n - k))


def with_own_generator(mask, n, rng):
    return sample(mask, n, np.random.default_rng(0))


def with_global_state(mask, n, rng):
    return sample(mask, n, rng, draw=lambda rng, count, k: np.random.randint(0, count, k))  # noqa: NPY002


def with_random_module(mask, n, rng):
    return sample(mask, n, rng, draw=lambda rng, count, k: [random.randrange(count) for _ in range(k)])


WRONG_POINTS = [
    (sampled(order=(0, 1)), "the foreground has the point", "x and y are exchanged"),
    (sampled(labels=(0, 1)), "the labels are exchanged"),
    (sampled(half=lambda n: n), "all labels are 1: half of the points are foreground"),
    (sampled(half=lambda n: 0), "all labels are 0"),
    (sampled(half=lambda n: n // 2), "for 7 points 3 have label 1, expected 4", "(n + 1) // 2"),
    (sampled(half=lambda n: round(n / 2)), "for 1 point 0 have label 1, expected 1"),
    (sampled(half=lambda n: n // 2 + 1), "for 6 points 4 have label 1, expected 3"),
    (sampled(on=bounding_box), "it lies beside the object", "not from its bounding box"),
    (sampled(on=np.ones_like), "beside the object"),
    (sampled(on=lambda mask: ~mask, off=lambda mask: mask), "the labels are exchanged"),
    (sampled(off=np.ones_like), "it lies on the object"),
    (sampled(draw=lambda rng, count, k: np.arange(k) % count), "always the first pixels of the mask"),
    (sampled(draw=lambda rng, count, k: np.full(k, count // 2)), "two generators with different seeds"),
    (sampled(draw=lambda rng, count, k: np.full(k, rng.integers(count))), "of 2000 points", "same probability"),
    (sampled(draw=lambda rng, count, k: rng.integers(0, max(count - 1, 1), k)), "of 2000 points"),
    (sampled(draw=lambda rng, count, k: (rng.random(k) ** 2 * count).astype(int)), "of 2000 points"),
    (sampled(draw=lambda rng, count, k: rng.permutation(count)[:k]), "for 5 points on a mask of one pixel"),
    (sampled(draw=lambda rng, count, k: rng.choice(count, k, replace=False)), "draw with replacement"),
    (sampled(draw=lambda rng, count, k: rng.randint(0, count, k)), "rng is a np.random.Generator: rng.integers"),
    (sampled(draw=lambda rng, count, k: random.sample(range(count), k)), "asked for; and rng is a"),
    (row_then_column, "same probability"),
    (with_own_generator, "two generators with different seeds give the same"),
    (with_global_state, "not with np.random or random"),
    (with_random_module, "not with np.random or random"),
    (sampled(whole=False), "covers the whole image"),
    (sampled(whole=False, draw=lambda rng, count, k: rng.choice(count, k)), "covers the whole image"),
    (sampled(shape=lambda points: points), "points have dtype int64, expected a float"),
    (sampled(shape=lambda points: points.T.astype(float)), "one row for each point"),
    (sampled(shape=lambda points: points + 0.5), "not in the middle of a pixel"),
    (sampled(shape=lambda points: points / 14), "not in the middle of a pixel"),
    (sampled(shape=lambda points: points + 7.0), "outside the image"),
    (sampled(shape=torch.from_numpy), "the points are a torch tensor, expected a NumPy array"),
    (sampled(shape=list), "the points are a value of type list"),
    (sampled(number=lambda labels: labels == 1), "labels have dtype bool, expected an integer"),
    (sampled(number=lambda labels: labels.astype(float)), "labels have dtype float64"),
    (sampled(number=lambda labels: 2 * labels - 1), "the labels are [-1, 1], expected 1 for foreground"),
    (sampled(number=lambda labels: labels[:, None]), "labels for 7 points have shape (7, 1), expected (7,)"),
    (lambda mask, n, rng: sample(mask, n + 1, rng), "points for 7 points have shape (8, 2), expected (7, 2)"),
    (lambda mask, n, rng: sample(mask, n, rng)[0], "expected the pair (points, labels)"),
    (lambda mask, n, rng: sample(mask, n, rng)[::-1], "the points for 7 points have shape (7,)"),
    (lambda mask, n: sample(mask, n, np.random.default_rng()), "TypeError"),
    (lambda mask, n, rng: print(n), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_POINTS])
def test_sample_points_rejects(answer, hints):
    assert_hint("sample_points", answer, *hints)


def test_mask_changed_in_place_is_named():
    def answer(mask, n, rng):
        mask[0] = True
        return sample(mask, n, rng)

    assert_hint("sample_points", answer, "argument number 1 in place")


# -------------------------------------------------------------- box_from_mask


def box_by_where(mask, jitter, rng):
    y, x = np.where(mask)
    box = np.array([x.min(), y.min(), x.max(), y.max()], dtype=float)
    side = np.array([box[2] - box[0], box[3] - box[1]] * 2) + 1
    box += rng.normal(0, 1, size=4) * jitter * side
    box[[0, 2]] = np.sort(box[[0, 2]].clip(0, mask.shape[1] - 1))
    box[[1, 3]] = np.sort(box[[1, 3]].clip(0, mask.shape[0] - 1))
    return box


def box_one_side_at_a_time(mask, jitter, rng):
    height, width = mask.shape
    rows = [i for i in range(height) if mask[i].any()]
    columns = [j for j in range(width) if mask[:, j].any()]
    w, h = columns[-1] - columns[0], rows[-1] - rows[0]
    x0 = min(max(columns[0] + jitter * w * rng.standard_normal(), 0), width - 1)
    y0 = min(max(rows[0] + jitter * h * rng.standard_normal(), 0), height - 1)
    x1 = min(max(columns[-1] + jitter * w * rng.standard_normal(), 0), width - 1)
    y1 = min(max(rows[-1] + jitter * h * rng.standard_normal(), 0), height - 1)
    return np.array([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], dtype=np.float32)


def box_by_find_objects(mask, jitter, rng):
    """Integers where nothing is added, whole pixels with jitter, and no exchange of corners: the later is moved up."""
    rows, columns = ndimage.find_objects(mask.astype(int))[0]
    x0, y0, x1, y1 = found = [columns.start, rows.start, columns.stop - 1, rows.stop - 1]
    if not jitter:
        return np.array(found)
    z = rng.normal(0.0, jitter, 4) * ([x1 - x0 + 1, y1 - y0 + 1] * 2)
    limit = [mask.shape[1] - 1, mask.shape[0] - 1] * 2
    x0, y0, x1, y1 = [min(max(round(v + d), 0), end) for v, d, end in zip(found, z, limit, strict=True)]
    return np.array([x0, y0, max(x0, x1), max(y0, y1)], dtype="float32")


def box_by_corners(mask, jitter, rng):
    places = np.argwhere(mask)[:, ::-1]
    corners = np.stack([places.min(0), places.max(0)]).astype(np.float64)
    size = corners[1] - corners[0] + 1
    corners += rng.normal(scale=jitter * size, size=(2, 2)) if jitter > 0 else 0
    corners = np.clip(corners, 0, np.array(mask.shape)[::-1] - 1)
    return np.concatenate([corners.min(0), corners.max(0)])


def box_by_argmax(mask, jitter, rng):
    columns, rows = mask.any(axis=0), mask.any(axis=1)
    x0, y0 = columns.argmax(), rows.argmax()
    x1, y1 = len(columns) - 1 - columns[::-1].argmax(), len(rows) - 1 - rows[::-1].argmax()
    noise = jitter * rng.standard_normal((2, 2)) * [x1 - x0 + 1, y1 - y0 + 1]
    (x0, y0), (x1, y1) = (x0, y0) + noise[0], (x1, y1) + noise[1]
    if x0 > x1:
        x0, x1 = x1, x0
    if y0 > y1:
        y0, y1 = y1, y0
    box = np.array([x0, y0, x1, y1])
    return np.maximum(np.minimum(box, [mask.shape[1] - 1, mask.shape[0] - 1] * 2), 0)


@pytest.mark.parametrize(
    "answer", [box_by_where, box_one_side_at_a_time, box_by_find_objects, box_by_corners, box_by_argmax]
)
def test_box_accepts(answer):
    assert_passes("box_from_mask", answer)


def box(
    mask,
    jitter,
    rng,
    *,
    exact=lambda x0, y0, x1, y1: [x0, y0, x1, y1],
    noise=lambda rng: rng.standard_normal(4),
    side=lambda w, h: [w, h, w, h],
    scale=lambda jitter: jitter,
    clip=lambda mask: [mask.shape[1] - 1, mask.shape[0] - 1],
    low=0,
    order=True,
    kind=np.float32,
):
    """A student's answer with a place for each mistake."""
    y, x = np.nonzero(mask)
    found = np.array([x.min(), y.min(), x.max(), y.max()], dtype=float)
    found += scale(jitter) * np.array(side(found[2] - found[0] + 1, found[3] - found[1] + 1)) * noise(rng)
    if clip:
        found = np.clip(found, low, clip(mask) * 2)
    if order:
        found = np.concatenate([np.minimum(found[:2], found[2:]), np.maximum(found[:2], found[2:])])
    return np.array(exact(*found), dtype=kind)


def boxed(**changes):
    return lambda mask, jitter, rng: box(mask, jitter, rng, **changes)


def clipped_after_ordering_first(mask, jitter, rng):
    found = box(mask, jitter, rng, clip=None, order=False)
    return np.clip(found, 0, [mask.shape[1] - 1, mask.shape[0] - 1] * 2).astype(np.float32)


def first_object(mask, jitter, rng):
    """Only the rows down to the first empty one."""
    rows = mask.any(1)
    start = rows.argmax()
    stop = start + (~rows[start:]).argmax() if (~rows[start:]).any() else len(rows)
    part = np.zeros_like(mask)
    part[start:stop] = mask[start:stop]
    return box(part, jitter, rng)


WRONG_BOXES = [
    (boxed(exact=lambda a, b, c, d: [b, a, d, c]), "x and y are exchanged"),
    (boxed(exact=lambda a, b, c, d: [a, c, b, d]), "this is (x0, x1, y0, y1)"),
    (boxed(exact=lambda a, b, c, d: [b, d, a, c]), "this is (y0, y1, x0, x1)"),
    (boxed(exact=lambda a, b, c, d: [c, d, a, b]), "the corners are exchanged"),
    (boxed(exact=lambda a, b, c, d: [a, b, c + 1, d + 1]), "one too large"),
    (boxed(exact=lambda a, b, c, d: [a, b, c - a, d - b]), "(x0, y0, width, height)"),
    (boxed(exact=lambda a, b, c, d: [a, b, c - a + 1, d - b + 1]), "(x0, y0, width, height)"),
    (boxed(exact=lambda a, b, c, d: [(a + c) / 2, (b + d) / 2, c - a, d - b]), "centre and size"),
    (boxed(exact=lambda a, b, c, d: [a - 0.5, b - 0.5, c + 0.5, d + 0.5]), "return pixel indices"),
    (first_object, "the box of a mask (two parts), without jitter, differs in 2 of 4"),
    (boxed(scale=lambda jitter: 0), "jitter is not used"),
    (boxed(side=lambda w, h: 1), "it moves by jitter in pixels"),
    (boxed(side=lambda w, h: [h, w, h, w]), "width and height are exchanged"),
    (boxed(side=lambda w, h: [w, w, w, w]), "the longer side is taken for all"),
    (boxed(side=lambda w, h: [h, h, h, h]), "the shorter side is taken for all"),
    (boxed(side=lambda w, h: [w / 2, h / 2, w / 2, h / 2]), "move half as far"),
    (boxed(scale=lambda jitter: jitter**2), "squared"),
    (boxed(scale=lambda jitter: 2 * jitter), "the sides move by"),
    (boxed(noise=lambda rng: np.tile(rng.standard_normal(2), 2)), "the box is shifted and keeps its size"),
    (boxed(noise=lambda rng: np.full(4, rng.standard_normal())), "the box is shifted"),
    (boxed(noise=lambda rng: np.array([-1, -1, 1, 1]) * np.tile(rng.standard_normal(2), 2)), "only grows or shrinks"),
    (boxed(noise=lambda rng: np.repeat(rng.standard_normal(2), 2)), "x and y move together"),
    (boxed(noise=lambda rng: np.r_[rng.standard_normal(2), 0, 0]), "x1, y1 never moves"),
    (boxed(noise=lambda rng: rng.uniform(-1, 1, 4)), "drawn from -1 to 1"),
    (boxed(noise=lambda rng: rng.uniform(-(3**0.5), 3**0.5, 4)), "of a normal distribution 68 %"),
    (boxed(noise=lambda rng: rng.standard_exponential(4) - 1), "of a normal distribution 68 %"),
    (boxed(noise=lambda rng: rng.standard_normal(4) + 1), "without abs()"),
    (boxed(noise=lambda rng: abs(rng.standard_normal(4))), "without abs()"),
    (boxed(noise=lambda rng: rng.random(4)), "one way more often"),
    (boxed(noise=lambda rng: np.random.default_rng(0).standard_normal(4)), "two generators with different seeds"),
    (boxed(noise=lambda rng: np.random.standard_normal(4)), "not with np.random"),  # noqa: NPY002
    (boxed(noise=lambda rng: rng.randn(4)), "rng is a np.random.Generator"),
    (boxed(clip=None), "the box leaves the image"),
    (boxed(clip=lambda mask: [mask.shape[1], mask.shape[0]]), "one pixel too late"),
    (boxed(clip=lambda mask: [mask.shape[0] - 1, mask.shape[1] - 1]), "width and height exchanged"),
    (boxed(clip=lambda mask: [mask.shape[1] - 2, mask.shape[0] - 2], kind=float), "without jitter"),
    (boxed(low=-5), "the box leaves the image"),
    (boxed(order=False), "put the corners in order"),
    (clipped_after_ordering_first, "put the corners in order"),
    (boxed(kind=int), "the box with jitter has dtype int64, expected floats"),
    (lambda mask, jitter, rng: box(mask, jitter, rng)[: 3 if jitter else 4], "expected four floats in an array"),
    (lambda mask, jitter, rng: tuple(box(mask, jitter, rng)), "a value of type tuple"),
    (lambda mask, jitter, rng: torch.from_numpy(box(mask, jitter, rng)), "`.numpy()`"),
    (lambda mask, jitter, rng: box(mask, jitter, rng).reshape(2, 2), "has shape (2, 2), expected (4,)"),
    (lambda mask, jitter, rng: box(np.ones_like(mask), jitter, rng), "the box of the whole image"),
    (lambda mask, jitter, rng: print(jitter), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_BOXES])
def test_box_rejects(answer, hints):
    assert_hint("box_from_mask", answer, *hints)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_drawn_by_chance_does_not_decide(seed):
    """The same right answers on other streams of random numbers."""

    def other(rng):
        return np.random.default_rng([seed, rng.integers(2**32)])

    assert ": passed (" in judge("sample_points", lambda mask, n, rng: points_by_index(mask, n, other(rng)))
    assert ": passed (" in judge("box_from_mask", lambda mask, jitter, rng: box_by_where(mask, jitter, other(rng)))
