"""Figures of prompts and their scores: marks where the clicks were, bands, counts, and no wrong input drawn."""

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from labhelpers import plots
from labhelpers.evaluation import Interval
from labhelpers.prompting import ClickCurve, calibration

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
MASK = np.zeros((48, 64), dtype=bool)
MASK[10:30, 20:50] = True
PANEL = {"image": IMAGE, "points": [(25, 20), (3, 40), (30, 12)], "labels": [1, 0, 1], "box": (20, 10, 49, 29)}


@pytest.fixture(autouse=True)
def _smoke(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "smoke")


def marks(axes) -> dict[str, list]:
    """Marker -> where it was drawn."""
    return {line.get_marker(): np.column_stack(line.get_data()).tolist() for line in axes.lines}


def prompt(**panel):
    return plots.prompt_grid([panel])


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


# --- prompt_grid ---


def test_clicks_of_the_two_kinds_differ_in_shape_and_colour():
    figure = prompt(**PANEL)
    axes = figure.axes[0]
    assert marks(axes) == {"o": [[25, 20], [30, 12]], "X": [[3, 40]]}
    assert len({line.get_color() for line in axes.lines}) == 2
    assert legend(figure) == ["box", "foreground click", "background click"]
    assert legend(prompt(image=IMAGE, points=[(1, 2)], labels=[0])) == ["background click"]


def test_a_box_encloses_its_extreme_pixels():
    boxes = [patch for patch in prompt(**PANEL).axes[0].patches if isinstance(patch, Rectangle)]
    assert {(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in boxes} == {(19.5, 9.5, 30, 20)}


def test_a_mask_is_painted_over_the_picture_and_nothing_else_changes():
    for mask in (MASK, torch.from_numpy(MASK)):
        shown = prompt(image=IMAGE, mask=mask).axes[0].images[0].get_array()
        assert np.array_equal(shown[~MASK], IMAGE[~MASK])
        magenta = np.array([0xD6, 0x27, 0x8A])
        np.testing.assert_allclose(shown[MASK], (IMAGE[MASK] + magenta) / 2, atol=0.5)


@pytest.mark.parametrize(("kind", "name"), [("truth", "true outline"), ("mask", "mask")])
def test_outlines_are_closed_at_the_edge_of_the_picture(kind, name):
    corner = np.zeros((48, 64), dtype=bool)
    corner[30:, 40:] = True
    figure = prompt(image=torch.from_numpy(IMAGE).permute(2, 0, 1), **{kind: corner})
    for line in figure.axes[0].collections:
        outline = np.concatenate([path.vertices for path in line.get_paths()])
        assert np.allclose(outline.min(0), [39.5, 29.5])
        assert np.allclose(outline.max(0), [63.5, 47.5])
    assert len(figure.axes[0].collections) == 2  # black under colour
    assert legend(figure) == [name]
    assert figure.axes[0].get_xlim() == (-0.5, 63.5)


def test_mask_and_truth_differ_in_colour_and_dashes():
    rim, outline = (
        figure.axes[0].collections[1] for figure in (prompt(image=IMAGE, mask=MASK), prompt(image=IMAGE, truth=MASK))
    )
    assert not np.array_equal(rim.get_edgecolor(), outline.get_edgecolor())
    assert rim.get_linestyle()[0][1] is None  # solid
    assert outline.get_linestyle()[0][1] is not None


def test_an_empty_mask_has_no_rim(recwarn):
    figure = prompt(image=IMAGE, mask=np.zeros_like(MASK), truth=np.zeros_like(MASK))
    assert not figure.axes[0].collections
    assert np.array_equal(figure.axes[0].images[0].get_array(), IMAGE)
    assert not recwarn.list


def test_a_grid_has_one_legend_for_all_panels():
    panels = [{"image": IMAGE, "mask": MASK}, PANEL, {"image": IMAGE}]
    figure = plots.prompt_grid(panels, titles=["one", "two", "three"], columns=2)
    assert len(figure.axes) == 3
    assert legend(figure) == ["mask", "box", "foreground click", "background click"]
    written = [text.get_text() for text in figure.texts]
    assert written == ["one", "two", "three"]
    first, second, third = (axes.get_position() for axes in figure.axes)
    assert first.y0 == pytest.approx(second.y0)
    assert third.y1 < first.y0
    assert first.x1 < second.x0
    assert third.x0 == pytest.approx(first.x0)
    assert figure.get_label() == "3 pictures of one; two; three, with mask, box, foreground, background"


def test_pictures_of_several_shapes_do_not_overlap():
    tall, wide = np.zeros((90, 40, 3), dtype=np.uint8), np.zeros((30, 120, 3), dtype=np.uint8)
    figure = plots.prompt_grid([{"image": wide}, {"image": tall}, {"image": wide}, {"image": tall}], columns=2)
    boxes = [axes.get_position() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not figure.legends
    assert figure.get_label() == "4 pictures, with no prompt"


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        ({"points": [(1, 2)]}, "points and labels belong together"),
        ({"labels": [1]}, "points and labels belong together"),
        (
            {"points": [(1, 2)], "labels": [2]},
            r"labels must be 1 \(foreground\) or 0 \(background\), one for each of 1",
        ),
        ({"points": [(1, 2)], "labels": [1, 0]}, "one for each of 1 points"),
        ({"mask": MASK.astype(float)}, r"mask must be bool of the picture's size \(48, 64\), got float64"),
        ({"truth": MASK[:-1]}, r"truth must be bool of the picture's size \(48, 64\), got bool \(47, 64\)"),
    ],
)
def test_wrong_panels(panel, message):
    with pytest.raises(ValueError, match=message):
        prompt(image=IMAGE, **panel)


def test_wrong_grids():
    with pytest.raises(ValueError, match="needs panels, and a title for each; got 0"):
        plots.prompt_grid([])
    with pytest.raises(ValueError, match="got 1 and titles"):
        plots.prompt_grid([PANEL], titles=["a", "b"])


# --- click_curves ---


def curve(seed: int, clicks: int) -> ClickCurve:
    ious = np.sort(np.random.default_rng(seed).random((12, clicks)), axis=1)
    return ClickCurve("toy", "toys", ious, ious, np.arange(12))


def test_curves_show_the_mean_after_each_click_and_its_band():
    long, short = curve(0, 20), curve(1, 6)
    figure = plots.click_curves({"Mini-SAM": long, "broadcast": short}, "Clicks")
    axes = figure.axes[0]
    drawn = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    for name, expected in (("Mini-SAM", long), ("broadcast", short)):
        assert drawn[name].get_xdata().tolist() == list(range(1, len(expected.mean) + 1))
        np.testing.assert_array_equal(drawn[name].get_ydata(), expected.mean)
    for band, expected in zip(axes.collections, (long, short), strict=True):
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.min() == expected.band[0].min()
        assert heights.max() == expected.band[1].max()
    assert sorted(line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":") == [0.85, 0.90]
    assert f"Mini-SAM from {long.mean[0]:.2f} to {long.mean[-1]:.2f}" in figure.get_label()


def test_no_curves():
    with pytest.raises(ValueError, match="needs at least one curve"):
        plots.click_curves({})


# --- interval_curves ---


def intervals(*values: float) -> list[Interval]:
    return [Interval(value - 0.1, value + 0.05, value, value) for value in values]


def test_intervals_are_drawn_from_zero_where_they_belong():
    figure = plots.interval_curves((3, 4, 10), {"a": intervals(0.5, 0.6, 0.7), "b": intervals(0.3, 0.2, 0.4)}, "points")
    axes = figure.axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.5, 0.6, 0.7], [0.3, 0.2, 0.4]]
    assert all(line.get_xdata().tolist() == [3, 4, 10] for line in axes.lines)
    corners = [tuple(corner.round(6)) for corner in axes.collections[1].get_paths()[0].vertices]
    assert {(3, 0.2), (3, 0.35), (4, 0.1), (4, 0.25), (10, 0.3), (10, 0.45)} <= set(corners)
    assert axes.get_ylim() == (0, 1.02)
    assert axes.get_xlabel() == "points"
    assert figure.get_label() == "Mean IoU: mean IoU against points, a from 0.50 to 0.70, b from 0.30 to 0.40"


def test_intervals_that_do_not_fit():
    with pytest.raises(ValueError, match=r"needs curves of 2 intervals, as many as x has numbers; got \{'b': 1\}"):
        plots.interval_curves((1, 2), {"a": intervals(0.1, 0.2), "b": intervals(0.1)}, "points")
    with pytest.raises(ValueError, match=r"needs curves of 2 intervals.*got \{\}"):
        plots.interval_curves((1, 2), {}, "points")


# --- calibration_plot ---


def test_calibration_shows_bins_answers_and_counts():
    rng = np.random.default_rng(0)
    predicted = rng.random(200)
    found = calibration(predicted, predicted**2)
    upper, lower = plots.calibration_plot(found).axes
    diagonal, bins = upper.lines
    assert diagonal.get_xdata().tolist() == list(diagonal.get_ydata()) == [0, 1]
    np.testing.assert_array_equal(bins.get_xdata(), found.bin_predicted)
    np.testing.assert_array_equal(bins.get_ydata(), found.bin_true)
    np.testing.assert_array_equal(upper.collections[0].get_offsets(), np.column_stack([predicted, predicted**2]))
    assert f"ECE {found.error:.3f}" in upper.get_title(loc="right")
    assert not upper.texts
    assert upper.get_legend() is None  # neither numbers nor legend lie inside, where an answer may be
    assert upper.get_xlim() == lower.get_xlim()
    counts = [patch.get_height() for patch in lower.patches[:20]]
    assert counts == np.histogram(predicted, np.linspace(0, 1, 21))[0].tolist()
