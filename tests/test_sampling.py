"""Prompts drawn from masks: where they lie, masks that leave no choice, and that prompts follow every transform."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from labhelpers.data.augment import Augmentation, sample_rng
from labhelpers.prompting.sampling import box_from_mask, centre_click, depth, next_click, random_click, sample_points

shapes = array_shapes(min_dims=2, max_dims=2, max_side=12)
masks = shapes.flatmap(lambda shape: arrays(bool, shape)).filter(np.any)
triples = shapes.flatmap(lambda shape: st.tuples(*[arrays(bool, shape)] * 3))
seeds = st.integers(0, 2**31)
quick = settings(max_examples=60, deadline=None)


def at(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """What the mask says at points (..., 2) as (x, y), which must be whole pixels inside it."""
    x, y = np.moveaxis(points.astype(int), -1, 0)
    assert (points == points.astype(int)).all()
    assert ((points >= 0) & (points < mask.shape[::-1])).all()
    return mask[y, x]


def slow_depth(mask: np.ndarray) -> np.ndarray:
    """Each pixel's distance to the nearest pixel that is not in the mask, beyond the edge or not, one by one."""
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    found = np.zeros(mask.shape)
    for y, x in np.argwhere(mask):
        found[y, x] = np.sqrt(((outside - [y, x]) ** 2).sum(1)).min()
    return found


# --- one mask ---
@quick
@given(masks, st.integers(1, 12), seeds)
def test_half_of_the_points_rounded_up_lie_on_the_object_and_half_beside_it(mask, n, seed):
    points, labels = sample_points(mask, n, np.random.default_rng(seed))
    assert (points.shape, points.dtype) == ((n, 2), np.float32)
    assert (labels.shape, labels.dtype) == ((n,), np.int64)
    np.testing.assert_array_equal(at(mask, points), labels == 1)
    assert labels.sum() == (n if mask.all() else (n + 1) // 2)
    np.testing.assert_array_equal(labels, np.sort(labels)[::-1])


def test_points_are_drawn_uniformly():
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 1:5] = True
    points, labels = sample_points(mask, 8000, np.random.default_rng(0))
    for label, pixels in ((1, 8), (0, 16)):
        _, counts = np.unique(points[labels == label], axis=0, return_counts=True)
        assert len(counts) == pixels
        assert np.abs(counts / counts.mean() - 1).max() < 0.25  # four standard deviations of a draw of 250


@quick
@given(masks, st.floats(0.01, 3), seeds)
def test_the_box_touches_the_mask_on_all_sides_and_jittered_it_stays_in_the_image(mask, jitter, seed):
    box, jittered = box_from_mask(mask), box_from_mask(mask, jitter, np.random.default_rng(seed))
    assert (box.shape, box.dtype) == (jittered.shape, jittered.dtype) == ((4,), np.float32)
    x0, y0, x1, y1 = box.astype(int)
    outside = mask.copy()
    outside[y0 : y1 + 1, x0 : x1 + 1] = False
    assert not outside.any()
    assert all(edge.any() for edge in (mask[y0], mask[y1], mask[:, x0], mask[:, x1]))
    x0, y0, x1, y1 = jittered
    assert 0 <= x0 <= x1 <= mask.shape[1] - 1
    assert 0 <= y0 <= y1 <= mask.shape[0] - 1


def test_jitter_is_a_share_of_the_box_on_its_own_axis():
    mask = np.zeros((200, 400), dtype=bool)
    mask[90:110, 100:300] = True  # 200 wide, 20 high
    rng = np.random.default_rng(0)
    moved = np.stack([box_from_mask(mask, 0.05, rng) for _ in range(2000)]) - box_from_mask(mask)
    np.testing.assert_allclose(moved.std(0), [10, 1, 10, 1], rtol=0.1)
    np.testing.assert_allclose(moved.mean(0) / [10, 1, 10, 1], 0, atol=0.1)


@quick
@given(masks, seeds)
def test_clicks_are_on_the_mask_and_the_centre_click_at_its_deepest_point(mask, seed):
    for point in (centre := centre_click(mask), random_click(mask, np.random.default_rng(seed))):
        assert (point.shape, point.dtype) == ((2,), np.float32)
        assert at(mask, point)
    expected = slow_depth(mask)  # counts the image's edge as outside
    np.testing.assert_allclose(depth(mask), expected)
    assert at(expected, centre) == pytest.approx(expected.max())


def test_equal_generators_draw_equal_prompts():
    mask = np.random.default_rng(0).random((12, 12)) < 0.4
    for draw in (
        lambda rng: sample_points(mask, 9, rng)[0],
        lambda rng: box_from_mask(mask, 0.1, rng),
        lambda rng: random_click(mask, rng),
        lambda rng: next_click(~mask, mask, rng=rng)[0],
    ):
        np.testing.assert_array_equal(draw(np.random.default_rng(7)), draw(np.random.default_rng(7)))
        assert len({tuple(draw(np.random.default_rng(seed)).ravel()) for seed in range(6)}) > 1


# --- the next click ---
def thin_and_thick() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A missed square of 9, a wrong one of 5, and thin lines that have more pixels than either but are not deep."""
    truth, prediction, void = np.zeros((3, 30, 40), dtype=bool)
    truth[4:13, 4:13] = True
    prediction[18:23, 30:35] = prediction[[25, 27, 29], :] = True
    return prediction, truth, void


@quick
@given(triples)
@example(thin_and_thick())
def test_the_next_click_is_the_deepest_point_of_the_deeper_error_and_none_where_nothing_is_wrong(three):
    prediction, truth, void = before = [array.copy() for array in three]
    assert next_click(truth, truth) is next_click(truth ^ void, truth, void) is None  # wrong only where nobody knows
    click = next_click(*three)
    for array, copy in zip(three, before, strict=True):  # masks are not written to
        np.testing.assert_array_equal(array, copy)
    missed, excess = truth & ~prediction & ~void, prediction & ~truth & ~void
    if not (missed | excess).any():
        assert click is None
        return
    point, label = click
    assert (point.shape, point.dtype) == ((2,), np.float32)
    assert label in (0, 1)
    depths = {1: slow_depth(missed), 0: slow_depth(excess)}
    assert at(depths[label], point) == pytest.approx(max(d.max() for d in depths.values()))


@quick
@given(triples, seeds)
def test_a_person_s_next_click_is_at_least_half_as_deep_in_the_same_error(three, seed):
    prediction, truth, void = three
    exact = next_click(prediction, truth, void)
    assume(exact is not None)
    point, label = next_click(prediction, truth, void, np.random.default_rng(seed))
    assert label == exact[1]
    region = (truth & ~prediction if label else prediction & ~truth) & ~void
    assert at(slow_depth(region), point) >= at(slow_depth(region), exact[0]) / 2


# --- mistakes ---
@pytest.mark.parametrize(
    "draw",
    [
        lambda mask: sample_points(mask, 3, np.random.default_rng(0)),
        box_from_mask,
        centre_click,
        lambda mask: random_click(mask, np.random.default_rng(0)),
    ],
    ids=["sample_points", "box_from_mask", "centre_click", "random_click"],
)
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((4, 5), bool), "mask is empty"),
        (np.ones((4, 5), np.uint8), r"mask must be a bool array \(H, W\), got uint8 of shape \(4, 5\)"),
        (np.ones((1, 4, 5), bool), r"mask must be a bool array \(H, W\), got bool of shape \(1, 4, 5\)"),
        (torch.ones(4, 5, dtype=torch.bool), r"mask must be a bool array \(H, W\), got Tensor"),
    ],
    ids=["empty", "labels", "three axes", "tensor"],
)
def test_a_mask_that_is_none(draw, mask, message):
    with pytest.raises(ValueError, match=message):
        draw(mask)


def test_too_few_points_and_jitter_without_randomness():
    mask = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        sample_points(mask, 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="needs rng to jitter"):
        box_from_mask(mask, jitter=0.1)


# --- prompts follow the image ----------------------------------------------------------------------------------------

GEOMETRY = {
    "flip": {"scale": (1, 1)},
    "scale": {"flip": False, "scale": (0.7, 1.6)},
    "rotation": {"rotation": 30.0, "scale": (0.9, 1.3)},
    "elastic": {"elastic": 2.0, "scale": (0.9, 1.3)},
    "all": {"rotation": 15.0, "elastic": 2.0, "scale": (0.7, 1.6)},
}


def ellipse(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    middle, axes = rng.uniform(0.35, 0.65, 2) * [width, height], rng.uniform(7, 16, 2)
    return ((x - middle[0]) / axes[0]) ** 2 + ((y - middle[1]) / axes[1]) ** 2 <= 1


def view_of(geometry: str, height: int, width: int, seed: int):
    return Augmentation(crop=64, **GEOMETRY[geometry]).sample(height, width, sample_rng(seed, 0, 0))


def moved_mask(view, mask: np.ndarray) -> np.ndarray:
    """0 outside the object, 1 on it, 255 beyond the image."""
    return view.target(torch.from_numpy(mask.astype(np.uint8))).numpy()


@pytest.mark.parametrize("geometry", GEOMETRY)
@settings(max_examples=25, deadline=None)
@given(height=st.integers(50, 90), width=st.integers(50, 90), seed=seeds)
def test_prompts_find_their_object_in_the_transformed_mask(geometry, height, width, seed):
    rng = np.random.default_rng(seed)
    mask, view = ellipse(height, width, rng), view_of(geometry, height, width, seed)
    target = moved_mask(view, mask)

    points, labels = sample_points(mask, 10, rng)
    moved = view.points(points).numpy()
    np.testing.assert_allclose(view.to_image(moved).numpy(), points, atol=1e-3)
    near = 0 if geometry == "flip" else 1  # scaled, the edge may pass between a point and its pixel's centre
    for (x, y), label in zip(np.round(moved).astype(int), labels, strict=True):
        if near <= x < 64 - near and near <= y < 64 - near:
            assert label in target[y - near : y + near + 1, x - near : x + near + 1]

    # A click deep inside is exact, unlike at the edge: a prompt that was not transformed shows at once.
    x, y = np.round(view.points(centre_click(mask)[None]).numpy()[0]).astype(int)
    if 0 <= x < 64 and 0 <= y < 64:
        assert target[y, x] == 1

    if (target == 1).any():
        box, own = view.boxes(box_from_mask(mask)[None]).numpy()[0], box_from_mask(target == 1)
        tolerance = 1 if geometry in ("elastic", "all") else 0
        assert (box[:2] <= own[:2] + tolerance).all()
        assert (box[2:] >= own[2:] - tolerance).all()
        whole = (own[:2] > 0).all() and (own[2:] < 63).all()
        if geometry in ("flip", "scale") and whole:  # no larger than needed, but for a pixel that shrinking left out
            assert np.abs(box - own).max() <= 1
