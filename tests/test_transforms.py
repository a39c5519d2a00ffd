"""Joint transforms: whatever is done to the image is done to its mask, points and boxes, exactly."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from labhelpers.data.augment import IMAGENET_MEAN, Augmentation, Elastic, denormalize, sample_rng, to_input

OUTSIDE = torch.tensor([124, 116, 104], dtype=torch.uint8)  # the ImageNet mean colour
GEOMETRY = {
    "window": {},
    "rotation": {"rotation": 30.0},
    "elastic": {"elastic": 4.0},
    "all": {"rotation": 10.0, "elastic": 3.0},
}
sizes, seeds = st.integers(40, 120), st.integers(0, 2**31)
quick = settings(max_examples=40, deadline=None)
geometries = pytest.mark.parametrize("geometry", GEOMETRY)


def any_picture(test):
    return quick(given(height=sizes, width=sizes, seed=seeds)(test))


def view_of(geometry, height, width, seed, crop=64, **changes):
    return Augmentation(crop=crop, **GEOMETRY[geometry], **changes).sample(height, width, sample_rng(seed, 0, 0))


def ramps(height, width):
    """Two label maps that hold each pixel's own column and row."""
    columns = torch.arange(width, dtype=torch.uint8).repeat(height, 1)
    rows = torch.arange(height, dtype=torch.uint8)[:, None].repeat(1, width)
    return columns, rows


def output_pixels(view):
    """Coordinates in the image of every pixel of the output: (h, w, 2)."""
    height, width = view.size
    xy = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    return view.to_image(xy).reshape(height, width, 2)


@geometries
@any_picture
def test_every_target_pixel_comes_from_where_the_map_says(geometry, height, width, seed):
    view = view_of(geometry, height, width, seed)
    at, size = output_pixels(view), torch.tensor([width, height])
    inside = ((at > -0.499) & (at < size - 0.501)).all(-1)
    outside = ((at < -0.501) | (at > size - 0.499)).any(-1)
    for axis, labels in enumerate(ramps(height, width)):
        moved = view.target(labels)
        assert (moved.shape, moved.dtype) == ((64, 64), torch.uint8)
        assert (moved[outside] == 255).all()
        assert (moved[inside] != 255).all()
        assert (moved[inside].float() - at[..., axis][inside]).abs().max() < 0.501


@geometries
@any_picture
def test_several_maps_of_an_image_move_as_each_alone(geometry, height, width, seed):
    view = view_of(geometry, height, width, seed)
    maps = torch.stack(list(ramps(height, width)))
    assert torch.equal(view.target(maps), torch.stack([view.target(labels) for labels in maps]))


@geometries
@any_picture
def test_every_image_pixel_comes_from_where_the_map_says(geometry, height, width, seed):
    """Interpolation keeps a linear ramp, so that the colour tells the position to within the rounding of two steps."""
    view = view_of(geometry, height, width, seed)
    at, size = output_pixels(view), torch.tensor([width, height])
    columns, rows = ramps(height, width)
    moved = view.image(torch.stack([columns, rows, rows]))
    assert (moved.shape, moved.dtype) == ((3, 64, 64), torch.uint8)
    inner = ((at > 4) & (at < size - 5)).all(-1)  # near the edge the antialias filter is cut off
    outside = ((at < -3) | (at > size + 2)).any(-1)
    assert (moved[:, outside] == OUTSIDE[:, None]).all()
    if inner.any():
        assert (moved[:2].float() - at.movedim(-1, 0))[:, inner].abs().max() < 1.3


@geometries
@any_picture
def test_a_blob_lands_at_one_place_in_image_mask_and_points(geometry, height, width, seed):
    view = view_of(geometry, height, width, seed, scale=(0.8, 1.2))
    x, y = width // 2, height // 2
    target = torch.zeros(height, width, dtype=torch.uint8)
    target[y - 4 : y + 5, x - 4 : x + 5] = 1
    image, mask = view.image(target.repeat(3, 1, 1) * 255), view.target(target)
    moved = view.points(np.array([[x, y]]))[0]
    if not ((moved > 10) & (moved < 53)).all():
        return  # partly outside: the centres of what is left say nothing
    grid = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="xy"), -1)
    in_image = grid[image[1] > 127].mean(0)  # the colour of the outside is darker
    in_mask = grid[mask == 1].mean(0)
    assert (in_image - in_mask).abs().max() < 0.6
    assert (in_mask - moved).abs().max() < 0.8


@geometries
@any_picture
def test_points_come_back(geometry, height, width, seed):
    view = view_of(geometry, height, width, seed)
    xy = np.random.default_rng(seed).uniform(-0.5, [width - 0.5, height - 0.5], (20, 2))
    assert np.abs(view.to_image(view.points(xy)).numpy() - xy).max() < 1e-3


def rectangle(height, width, rng):
    x0, y0 = rng.integers([width - 1, height - 1])
    x1, y1 = rng.integers([x0, y0], [width, height])
    target = torch.zeros(height, width, dtype=torch.uint8)
    target[y0 : y1 + 1, x0 : x1 + 1] = 1
    return target, np.array([[x0, y0, x1, y1]])


def bounding_box(mask):
    y, x = np.nonzero(mask.numpy() == 1)
    return np.array([x.min(), y.min(), x.max(), y.max()])


@any_picture
@example(height=40, width=41, seed=4668206)  # mirrored, with an edge exactly on a pixel's centre
def test_box_is_the_bounding_box_of_the_moved_mask(height, width, seed):
    target, box = rectangle(height, width, np.random.default_rng(seed))
    view = view_of("window", height, width, seed, crop=48)
    mask, moved = view.target(target), view.boxes(box)[0]
    if (mask == 1).any():
        np.testing.assert_array_equal(moved, bounding_box(mask))
    else:
        assert moved.isnan().all()


@pytest.mark.parametrize("geometry", ["rotation", "elastic", "all"])
@any_picture
def test_box_encloses_the_warped_mask_and_no_more_than_its_outline(geometry, height, width, seed):
    target, box = rectangle(height, width, np.random.default_rng(seed))
    view = view_of(geometry, height, width, seed)
    mask, moved = view.target(target), view.boxes(box)[0].numpy()
    if not (mask == 1).any():
        return  # the box of the outline may still touch the window
    inside = bounding_box(mask)
    assert (moved[:2] <= inside[:2] + 1).all()
    assert (moved[2:] >= inside[2:] - 1).all()
    corners = view.points(box[0][[[0, 1], [2, 1], [0, 3], [2, 3]]]).numpy()
    slack = 2 + 2 * GEOMETRY[geometry].get("elastic", 0)  # half a magnified pixel, and edges that bend
    assert (moved[:2] >= np.clip(corners.min(0) - slack, 0, None)).all()
    assert (moved[2:] <= np.clip(corners.max(0) + slack, None, 63)).all()


def test_boxes_that_leave_are_nan_and_keep_their_row():
    view = Augmentation(crop=20, scale=(1, 1), flip=False).sample(100, 100, sample_rng(0, 0, 0))
    x, y = (s.start for s in view.source)
    far = [(x + 50) % 100] * 2 + [(x + 50) % 100 + 3] * 2
    boxes = view.boxes(np.array([far, [x + 2, y + 3, x + 40, y + 5]], dtype=float))
    assert boxes[0].isnan().all()
    assert boxes[1].tolist() == [2, 3, 19, 5]
    assert view.boxes(torch.empty(0, 4)).shape == (0, 4)
    assert view.points(torch.empty(0, 2)).shape == (0, 2)


IMAGE = torch.randint(0, 256, (3, 37, 53), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGET = IMAGE[0].flip(0)


def test_whole_image_at_scale_one_is_the_image_or_its_mirror_image():
    views = [Augmentation(crop=None, scale=(1, 1)).sample(37, 53, sample_rng(0, 0, i)) for i in range(20)]
    never = Augmentation(crop=None, scale=(1, 1), flip=False).sample(37, 53, sample_rng(0, 0, 0))
    assert {view.flip for view in views} == {True, False}
    for view in [*views, never]:
        assert torch.equal(view.image(IMAGE), IMAGE.flip(-1) if view.flip else IMAGE)
        assert torch.equal(view.target(TARGET), TARGET.flip(-1) if view.flip else TARGET)
        points, boxes = view.points(np.array([[0.0, 5.0], [52, 36]])), view.boxes(np.array([[0.0, 1.0, 7.0, 8.0]]))
        assert points.tolist() == ([[52, 5], [0, 36]] if view.flip else [[0, 5], [52, 36]])
        assert boxes.tolist() == ([[45, 1, 52, 8]] if view.flip else [[0, 1, 7, 8]])
    assert not never.flip


def test_a_quarter_turn_moves_whole_pixels():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    view = Augmentation(crop=None, scale=(1, 1), flip=False, rotation=180).sample(32, 32, sample_rng(0, 0, 0))
    object.__setattr__(view, "angle", np.pi / 2)
    assert torch.equal(view.image(image), torch.rot90(image, 1, (1, 2)))  # counter-clockwise
    assert torch.equal(view.target(image[0]), torch.rot90(image[0]))


@geometries
def test_shrinking_does_not_alias(geometry):
    """One-pixel stripes become even grey at half size; without antialias they would stay black and white."""
    image = (torch.arange(160) % 2 * 255).to(torch.uint8).repeat(3, 160, 1)
    out = view_of(geometry, 160, 160, 3, scale=(0.45, 0.5)).image(image)[:, 8:-8, 8:-8].float()
    assert (out.mean() - 127.5).abs() < 2
    assert out.std() < 32


@quick
@given(seed=seeds, low=st.floats(0.3, 1.5), high=st.floats(1.5, 3))
def test_scale_stays_in_its_range(seed, low, high):
    view = Augmentation(crop=64, scale=(low, high)).sample(200, 150, sample_rng(seed, 0, 0))
    for source, placed in zip(view.source, view.placed, strict=True):
        scale = (placed.stop - placed.start) / (source.stop - source.start)
        assert low * 0.97 < scale < high * 1.03  # whole pixels


def test_randomness_follows_from_seed_epoch_and_index_alone():
    augmentation = Augmentation(crop=32, rotation=10, elastic=2, brightness=0.2)
    image = torch.randint(0, 256, (3, 80, 80), dtype=torch.uint8)

    def out(*key):
        return augmentation.sample(80, 80, sample_rng(*key)).image(image)

    assert torch.equal(out(1, 2, 3), out(1, 2, 3))
    for other in [(0, 2, 3), (1, 0, 3), (1, 2, 0), (1, 2, 3, 1), (2, 1, 3)]:
        assert not torch.equal(out(1, 2, 3), out(*other))


@quick
@given(seed=seeds, amplitude=st.floats(0.5, 40))
def test_elastic_is_bounded_smooth_and_invertible(seed, amplitude):
    rng = np.random.default_rng(seed)
    elastic = Elastic.sample((70, 90), amplitude, rng)
    x, y = np.arange(90) + 0.5, np.arange(70) + 0.5
    field = elastic.on_grid(x, y)
    assert np.abs(field).max() <= amplitude
    assert np.abs(np.diff(field, axis=1)).max() <= 0.25 + 1e-9  # half the slope at which it could fold
    assert np.abs(np.diff(field, axis=2)).max() <= 0.25 + 1e-9
    np.testing.assert_allclose(elastic.at(np.array([[x[7], y[3]]]))[0], field[:, 3, 7], atol=1e-12)
    xy = rng.uniform(0, [90, 70], (30, 2))
    p = elastic.inverse(xy)
    assert np.abs(p + elastic.at(p) - xy).max() <= amplitude / 2**16


COLOUR = torch.tensor([[1.1, 0.9, 1.2], [0.8, 1.0, 1.0]])


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_to_input_normalises_in_float32(precision):
    images = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, [0.229, 0.224, 0.225]))
    expected = (images.float() / 255 - mean) / std
    coloured = to_input(images, COLOUR)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        for batch in (images, images.contiguous(memory_format=torch.channels_last)):
            for colour in (None, torch.ones(2, 3), np.ones((2, 3), np.float32)):
                assert (to_input(batch, colour) - expected).abs().max() < 1e-5
        assert torch.equal(denormalize(to_input(images)), images)
        assert torch.equal(to_input(images, COLOUR), coloured)


@quick
@given(seed=seeds)
@example(seed=3991)
def test_colour_is_brightness_then_contrast_then_saturation(seed):
    """As PIL's operations in that order, on colours that do not reach 0 or 255.

    PIL cuts fractions off three times, and a later factor of 1.3 enlarges what was cut: below 1.3 (1.3 + 1) + 1 = 4.
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(90, 150, (3, 8, 8, 3), dtype=np.uint8)
    colour = rng.uniform(0.7, 1.3, (3, 3))
    out = denormalize(to_input(torch.from_numpy(images).permute(0, 3, 1, 2), colour)).permute(0, 2, 3, 1)
    for image, (brightness, contrast, saturation), result in zip(images, colour, out.numpy(), strict=True):
        expected = ImageEnhance.Brightness(Image.fromarray(image)).enhance(brightness)
        expected = ImageEnhance.Contrast(expected).enhance(contrast)
        expected = ImageEnhance.Color(expected).enhance(saturation)
        assert np.abs(result.astype(int) - np.asarray(expected).astype(int)).max() <= 4


VIEW = Augmentation(crop=8).sample(20, 30, sample_rng(0, 0, 0))
NOTHING = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: Augmentation(crop=0), "crop"),
        (lambda: Augmentation(scale=(2, 1)), "scale"),
        (lambda: Augmentation(scale=(0, 1)), "scale"),
        (lambda: Augmentation(rotation=-1), "rotation"),
        (lambda: Augmentation(elastic=-1), "elastic"),
        (lambda: Augmentation(contrast=1.5), "contrast"),
        (lambda: VIEW.image(torch.zeros(3, 30, 20, dtype=torch.uint8)), "30x20"),
        (lambda: VIEW.target(torch.zeros(20, 30)), "float32"),
        (lambda: VIEW.points(np.zeros((2, 3))), r"points \(N, 2\)"),
        (lambda: to_input(torch.rand(2, 3, 8, 8)), "uint8 images"),
        (lambda: to_input(NOTHING, torch.ones(3)), "one row per image"),
    ],
)
def test_what_does_not_fit_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
