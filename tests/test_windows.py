"""Windows: what is cut, where points go, and how an answer comes back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labhelpers.prompting.windows import Window


@st.composite
def boxes(draw):
    """An image size (H, W) and a box inside, extreme indices, inclusive."""
    height, width = draw(st.integers(20, 90)), draw(st.integers(20, 90))
    x0, x1 = sorted(draw(st.tuples(*[st.integers(0, width - 1)] * 2)))
    y0, y1 = sorted(draw(st.tuples(*[st.integers(0, height - 1)] * 2)))
    return (height, width), np.array([x0, y0, x1, y1])


@given(boxes(), st.floats(1.1, 3))
def test_a_window_is_square_holds_its_box_and_lies_inside_where_it_fits(case, margin):
    (height, width), box = case
    window = Window.around(box, margin, (height, width), 128)
    side = window.x1 - window.x0
    assert side == window.y1 - window.y0
    longer = max(box[2] - box[0] + 1, box[3] - box[1] + 1)
    assert side >= longer
    # An eighth of a step of 19 % either way: no window is much larger than was asked for.
    assert side <= max(1.25 * margin * max(longer, 24) + 8, 32)
    for low, high, first, last, length in (
        (window.x0, window.x1, box[0], box[2], width),
        (window.y0, window.y1, box[1], box[3], height),
    ):
        if side <= length:
            assert low >= 0
            assert high <= length
            assert low <= first
            assert last < high
        else:
            assert low <= 0
            assert high >= length


def test_a_box_a_pixel_wider_often_gives_the_same_window():
    """Else no embedding would ever be used twice while a mask grows click by click."""
    windows = {Window.around(np.array([100, 100, 160 + k, 160]), 1.8, (400, 400), 128) for k in range(8)}
    assert len(windows) <= 3


@given(boxes(), st.floats(1.1, 3), st.integers(0, 10**6))
@settings(max_examples=40)
def test_points_and_boxes_go_where_the_pixels_go(case, margin, seed):
    size, box = case
    rng = np.random.default_rng(seed)
    window = Window.around(box, margin, size, 64)
    point = np.array([[rng.integers(box[0], box[2] + 1), rng.integers(box[1], box[3] + 1)]])
    # A picture that holds its own coordinates: what is found at the moved point says where it came from.
    y, x = np.mgrid[: size[0], : size[1]]
    picture = torch.from_numpy(np.stack([2 * x, 2 * y]).astype(np.uint8))
    seen = window.cut(picture, outside=torch.zeros(2, 1, 1)).float() / 2
    at = window.points(point)[0]
    column, row = (int(v) for v in np.clip(at.round(), 0, 63))
    pixel = (window.x1 - window.x0) / 64  # pixels of the image per pixel of the window
    first = 3 * pixel + np.maximum([window.x0, window.y0], 0)
    last = np.minimum([window.x1, window.y1], size[::-1]) - 3 * pixel
    if (first <= point[0]).all() and (point[0] <= last).all():  # at an edge the antialiasing mixes in what lies beyond
        assert seen[:, row, column].numpy() == pytest.approx(point[0], abs=1 + pixel)
    corners = window.box(box)
    assert corners[2] - corners[0] + 1 == pytest.approx((box[2] - box[0] + 1) * 64 / (window.x1 - window.x0), rel=1e-5)


def test_the_whole_image_maps_corner_to_corner():
    window = Window.whole((50, 100), 200)
    assert (window.width, window.height) == (200, 100)
    assert window.points(np.array([[0, 0], [99, 49]])) == pytest.approx(np.array([[0.5, 0.5], [198.5, 98.5]]))
    assert window.box(np.array([0, 0, 99, 49])) == pytest.approx(np.array([0, 0, 199, 99]))


def test_what_sticks_out_has_the_mean_colour_and_comes_back_as_background():
    image = torch.full((3, 40, 80), 9, dtype=torch.uint8)
    window = Window(0, -20, 80, 60, 80, 80)
    cut = window.cut(image)
    assert (cut[:, 20:60] == 9).all()
    assert cut[:, :20].flatten(1).float().mean(1).tolist() == [124, 116, 104]
    back = window.paste(torch.ones(2, 80, 80), (40, 80), -8.0)
    assert back.shape == (2, 40, 80)
    assert (back == 1).all()


@given(boxes(), st.floats(1.1, 2))
@settings(max_examples=30)
def test_an_answer_comes_back_to_its_place(case, margin):
    size, box = case
    window = Window.around(box, margin, size, 64)
    mask = torch.zeros(1, *size, dtype=torch.uint8)
    mask[0, box[1] : box[3] + 1, box[0] : box[2] + 1] = 255
    seen = window.cut(mask, outside=torch.zeros(1, 1, 1)).float() / 127.5 - 1
    back = window.paste(seen, size, -1.0)[0] > 0
    truth = mask[0] > 0
    wrong = (back != truth).numpy()
    # Only pixels at the box's edge may have changed sides.
    inner = np.zeros(size, bool)
    inner[box[1] + 2 : box[3] - 1, box[0] + 2 : box[2] - 1] = True
    outer = np.ones(size, bool)
    outer[max(0, box[1] - 2) : box[3] + 3, max(0, box[0] - 2) : box[2] + 3] = False
    assert not (wrong & (inner | outer)).any()


def test_contains_counts_edges_once():
    window = Window(10, 10, 20, 20, 64, 64)
    assert window.contains(np.array([[10, 10], [19, 19], [20, 10], [9, 10]])).tolist() == [True, True, False, False]
