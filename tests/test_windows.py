"""Windows: what is cut, where points go, and how an answer comes back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prompting_toys import boxes_in_images

from labhelpers.prompting.windows import Window

NOTHING = torch.zeros(1, 1, 1)


@given(boxes_in_images(), st.floats(1.1, 3))
def test_a_window_is_a_square_around_the_box_inside_the_image_where_it_can_be(case, margin):
    (height, width), box = case
    window = Window.around(box, margin, (height, width), 128)
    side = window.x1 - window.x0
    assert side == window.y1 - window.y0
    longer = max(box[2] - box[0], box[3] - box[1]) + 1
    # An eighth of a step of 19 % either way: no window is much larger than was asked for.
    assert longer <= side <= max(1.25 * margin * max(longer, 24) + 8, 32)
    for low, high, length, first, last in (
        (window.x0, window.x1, width, box[0], box[2]),
        (window.y0, window.y1, height, box[1], box[3]),
    ):
        assert (low >= 0 and high <= length) if side <= length else (low <= 0 and high >= length)
        assert low <= first
        assert last < high


def test_a_box_a_pixel_wider_often_gives_the_same_window():
    """Else no embedding would ever be used twice while a mask grows click by click."""
    windows = {Window.around(np.array([100, 100, 160 + k, 160]), 1.8, (400, 400), 128) for k in range(8)}
    assert len(windows) <= 3


@settings(max_examples=40, deadline=None)
@given(boxes_in_images(), st.floats(1.1, 3), st.integers(0, 10**6))
def test_points_and_boxes_go_where_the_pixels_go(case, margin, seed):
    size, box = case
    window = Window.around(box, margin, size, 64)
    pixel = (window.x1 - window.x0) / 64  # pixels of the image per pixel of the window
    # The outer corner of the first pixel is that of the window's first pixel, likewise the last.
    corners = np.array([[window.x0 - 0.5, window.y0 - 0.5], [window.x1 - 0.5, window.y1 - 0.5]])
    np.testing.assert_allclose(window.points(corners), [[-0.5, -0.5], [63.5, 63.5]], atol=1e-4)
    moved = window.box(box)
    np.testing.assert_allclose(moved[2:] - moved[:2] + 1, (box[2:] - box[:2] + 1) / pixel, rtol=1e-4)
    np.testing.assert_allclose((moved[:2] + moved[2:]) / 2, window.points((box[:2] + box[2:]) / 2), atol=1e-3)
    # A picture that holds its own coordinates: what is found at the moved point says where it came from.
    rng = np.random.default_rng(seed)
    point = rng.integers(box[:2], box[2:] + 1)
    y, x = np.mgrid[: size[0], : size[1]]
    seen = window.cut(torch.from_numpy(np.stack([x, y]).astype(np.uint8)), outside=NOTHING).float()
    column, row = np.clip(window.points(point).round(), 0, 63).astype(int)
    first = 3 * pixel + np.maximum([window.x0, window.y0], 0)
    last = np.minimum([window.x1, window.y1], size[::-1]) - 3 * pixel
    if (first <= point).all() and (point <= last).all():  # at an edge the antialiasing mixes in what lies beyond
        assert seen[:, row, column].numpy() == pytest.approx(point, abs=1 + pixel)


@settings(max_examples=30, deadline=None)
@given(boxes_in_images())
def test_what_is_cut_and_pasted_lies_where_it_was(case):
    (height, width), box = case
    window = Window.around(box, 1.4, (height, width), 128)
    x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    ramps = torch.stack([x, y]).to(torch.uint8)
    pasted = window.paste(window.cut(ramps, NOTHING).float(), (height, width), outside=-1.0)
    seen = (x >= window.x0) & (x < window.x1) & (y >= window.y0) & (y < window.y1)
    assert (pasted[:, ~seen] == -1).all()
    margin = 4  # of the window's edge, and the image's, where interpolation lacks a neighbour
    edges = [max(window.x0, 0), max(window.y0, 0), min(window.x1, width), min(window.y1, height)]
    inner = (x >= edges[0] + margin) & (x < edges[2] - margin) & (y >= edges[1] + margin) & (y < edges[3] - margin)
    if inner.any():
        assert (pasted - ramps)[:, inner].abs().max() < 1.1


@given(st.integers(20, 150), st.integers(20, 150))
def test_the_whole_image_keeps_its_proportions(height, width):
    window = Window.whole((height, width), 96)
    assert max(window.width, window.height) == 96
    assert abs(window.width / window.height - width / height) < 0.06 * width / height
    assert window.cut(torch.zeros(3, height, width, dtype=torch.uint8)).shape == (3, window.height, window.width)
    far = [window.width - 0.5, window.height - 0.5]
    assert window.points(np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]]))[1] == pytest.approx(far, abs=1e-3)
    whole = window.box(np.array([0, 0, width - 1, height - 1]))
    assert whole == pytest.approx(np.array([0, 0, window.width - 1, window.height - 1]), abs=1e-3)


def test_what_sticks_out_has_the_mean_colour_and_comes_back_as_background():
    image = torch.full((3, 40, 80), 9, dtype=torch.uint8)
    window = Window(0, -20, 80, 60, 80, 80)
    cut = window.cut(image)
    assert (cut[:, 20:60] == 9).all()
    assert cut[:, :20].flatten(1).float().mean(1).tolist() == [124, 116, 104]
    back = window.paste(torch.ones(2, 80, 80), (40, 80), -8.0)
    assert back.shape == (2, 40, 80)
    assert (back == 1).all()


def test_contains_counts_edges_once():
    window = Window(10, 10, 20, 20, 64, 64)
    assert window.contains(np.array([[10, 10], [19, 19], [20, 10], [9, 10]])).tolist() == [True, True, False, False]
