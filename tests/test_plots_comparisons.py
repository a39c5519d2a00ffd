"""Figures that compare: the gap between training and validation, cost against quality, error and difference maps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from labhelpers import plots

HIT, MISS, FALSE_ALARM = plots.error_legend().values()
WHITE, VOID = (255, 255, 255), (224, 224, 192)


@pytest.fixture(autouse=True)
def _smoke(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "smoke")


# --- training_gap ---


def rows(validation, training, metric="mean_iou"):
    name = "val_loss" if metric == "loss" else metric
    found = []
    for i, (v, t) in enumerate(zip(validation, training, strict=True), 1):
        found += [{"step": 10 * i - 5, "loss": 1.0}, {"step": 10 * i, "loss": 1.0, name: v, f"train_{metric}": t}]
    return found


def test_the_best_validation_is_marked_and_the_final_gap_written():
    score = plots.training_gap({"a": rows([0.5, 0.7, 0.6], [0.5, 0.8, 0.95])}, metrics=["mean_iou"]).axes[0]
    assert score.get_title(loc="left") == "a\nbest 0.700 at step 20, final gap 0.350"
    loss = plots.training_gap({"a": rows([0.5, 0.3, 0.4], [0.5, 0.2, 0.1], "loss")}, metrics=["loss"]).axes[0]
    assert loss.get_title(loc="left") == "a\nbest 0.300 at step 20, final gap 0.300"
    for axes, value in ((score, 0.7), (loss, 0.3)):
        stars = [line for line in axes.lines if line.get_marker() == "*"]
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in stars] == [(20, value)]


def test_validation_above_training_is_a_negative_gap():
    axes = plots.training_gap({"a": rows([0.5, 0.7], [0.4, 0.6])}, metrics=["mean_iou"]).axes[0]
    assert axes.get_title(loc="left").endswith("final gap -0.100")


def test_runs_share_axes_and_keep_their_own_curves():
    long, short = rows([0.2, 0.5, 0.4], [0.3, 0.6, 0.9]), rows([0.3], [0.8])
    both = [a | b for a, b in zip(long, rows([3.0, 2.0, 1.0], [2.0, 1.0, 0.5], "loss"), strict=True)]
    stopped = [a | b for a, b in zip(short, rows([2.0], [0.5], "loss"), strict=True)]
    figure = plots.training_gap({"long": both, "stopped early": stopped})
    upper, upper_right, lower, lower_right = figure.axes
    assert upper.get_ylim() == upper_right.get_ylim()
    assert lower.get_ylim() == lower_right.get_ylim() != upper.get_ylim()
    assert upper.get_xlim() == lower_right.get_xlim()
    for axes in figure.axes:  # no curve is cut off by the limits of another panel
        for line in axes.lines[:2]:
            assert axes.get_ylim()[0] <= min(line.get_ydata())
            assert max(line.get_ydata()) <= axes.get_ylim()[1]
    assert (upper.get_yscale(), lower.get_yscale()) == ("log", "linear")
    assert lower.get_ylim()[0] == 0
    assert lower.lines[0].get_ydata().tolist() == [0.3, 0.6, 0.9]
    assert lower.lines[1].get_ydata().tolist() == [0.2, 0.5, 0.4]
    assert lower_right.lines[0].get_xdata().tolist() == [10]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "training",
        "validation",
        "gap",
        "best validation",
    ]


# --- scatter ---


def label_boxes(figure):
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    return [Text.get_window_extent(text, renderer) for text in figure.axes[0].texts]  # without the line to the dot


@pytest.mark.parametrize(("count", "width"), [(1, 50), (6, 10), (12, 50), (12, 15)])
def test_names_stay_inside_and_do_not_cover_each_other(count, width):
    rng = np.random.default_rng(0)
    x, y, sizes = rng.uniform(30, 30 + width, count), rng.uniform(0.6, 0.8, count), rng.uniform(3, 30, count)
    x[0], y[0] = 5, 0.5  # one apart, so that the others crowd
    names = [f"DeepLabV3+, ResNet-{i}" for i in range(count)]
    figure = plots.scatter(x, y, names, sizes, "ms", "IoU", "M", groups=names)
    boxes = label_boxes(figure)
    frame = figure.axes[0].get_window_extent()
    for i, box in enumerate(boxes):
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1 + 1
        assert frame.y0 <= box.y0
        assert box.y1 <= frame.y1 + 1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_names_stand_beside_their_dots():
    figure = plots.scatter([1, 2, 3], [1, 2, 3], ["one", "two", "three"], [1, 1, 9], "x", "y", "size")
    boxes = label_boxes(figure)
    centres = figure.axes[0].transData.transform([(1, 1), (2, 2), (3, 3)])
    texts = [text.get_text() for text in figure.axes[0].texts]
    for name, centre in zip(["one", "two", "three"], centres, strict=True):
        box = boxes[texts.index(name)]
        nearest = np.clip(centre, [box.x0, box.y0], [box.x1, box.y1])
        assert 5 < np.linalg.norm(nearest - centre) < 40  # outside of the mark, but next to it


def test_areas_are_proportional_and_the_legend_uses_the_same_scale():
    figure = plots.scatter([1, 2, 3], [1, 2, 3], "abc", [2, 8, 24], "x", "y", "parameters (M)", groups=["u", "u", "v"])
    axes = figure.axes[0]
    areas = np.concatenate([axes.collections[0].get_sizes(), axes.collections[2].get_sizes()])
    np.testing.assert_allclose(areas / areas[0], [1, 4, 12])
    sizes = axes.get_legend()
    assert sizes.get_title().get_text() == "parameters (M)"
    shown = [float(text.get_text()) for text in sizes.get_texts()]
    assert shown == [20, 10, 2]
    drawn = [handle.get_sizes()[0] for handle in sizes.legend_handles]
    np.testing.assert_allclose(np.array(drawn) / areas[0], np.array(shown) / 2)


@pytest.mark.parametrize(
    ("largest", "shown"), [(1, ["1", "0.5", "0.1"]), (7.3, ["5", "2", "0.5"]), (39_640_000, None), (0.03, None)]
)
def test_the_legend_of_sizes_has_round_numbers(largest, shown):
    figure = plots.scatter([1], [1], "a", [largest], "x", "y", "size")
    written = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert shown is None or written == shown
    assert all(0 < float(text.replace(",", "")) <= largest for text in written)


def test_groups_differ_in_colour_and_mark_and_the_front_is_a_line_in_order():
    figure = plots.scatter(
        [3, 1, 2], [3, 1, 2], "abc", [1, 1, 1], "x", "y", "M", groups=["u", "v", "u"], front=[0, 1, 2], errors=[0.1] * 3
    )
    axes = figure.axes[0]
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 3]
    upper = next(artist for artist in axes.artists if hasattr(artist, "get_texts"))
    assert [text.get_text() for text in upper.get_texts()] == ["Pareto front", "u", "v"]
    marks = [collection for collection in axes.collections if collection.get_label() in ("u", "v")]
    assert marks[0].get_facecolor().tolist() != marks[1].get_facecolor().tolist()
    assert not np.array_equal(marks[0].get_paths()[0].vertices, marks[1].get_paths()[0].vertices)


def test_a_logarithmic_axis_has_plain_numbers_and_names_beside_their_dots():
    names = ["fast", "slow", "slower"]
    figure = plots.scatter([9, 90, 900], [1, 2, 3], names, [1, 1, 9], "ms", "y", "size", log_x=True)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    shown = [text.get_text() for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high]
    assert shown == ["5", "10", "20", "50", "100", "200", "500", "1000"]
    spots = axes.transData.transform([(9, 1), (90, 2), (900, 3)])[:, 0]
    assert np.diff(spots)[0] == pytest.approx(np.diff(spots)[1])
    boxes = {text.get_text(): box for text, box in zip(axes.texts, label_boxes(figure), strict=True)}
    for name, spot in zip(names, spots, strict=True):
        assert abs(np.clip(spot, boxes[name].x0, boxes[name].x1) - spot) < 40


# --- maps ---


def test_two_classes_show_hits_misses_and_false_alarms():
    target = torch.tensor([[1, 1, 0, 0, 255, 255]])
    prediction = torch.tensor([[1, 0, 1, 0, 1, 0]])
    found = plots.error_map(prediction, target)
    assert found.dtype == np.uint8
    assert [tuple(pixel) for pixel in found[0].tolist()] == [HIT, MISS, FALSE_ALARM, WHITE, VOID, VOID]
    assert np.array_equal(plots.error_map(prediction == 1, target), found)  # boolean masks too


def test_many_classes_show_wrong_pixels_alone():
    found = plots.error_map([[3, 2, 0, 5]], [[3, 3, 0, 255]], num_classes=6)
    wrong = plots.error_legend(6)["wrong"]
    assert [tuple(pixel) for pixel in found[0].tolist()] == [WHITE, wrong, WHITE, VOID]


def test_differences_tell_who_is_right():
    found = plots.difference_map([[1, 1, 2, 2, 1]], [[1, 0, 1, 0, 0]], [[1, 1, 1, 1, 255]], num_classes=3)
    legend = plots.difference_legend("U-Net", "FCN")
    only_a, only_b = legend["only U-Net right"], legend["only FCN right"]
    assert [tuple(pixel) for pixel in found[0].tolist()] == [WHITE, only_a, only_b, legend["both wrong"], VOID]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_the_picture_below_is_grey_and_paler_than_any_paint(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (3, 6, 7), dtype=np.uint8)
    target, prediction = rng.integers(0, 2, (2, 6, 7))
    found = plots.error_map(prediction, target, torch.from_numpy(image)).astype(int)
    plain = (prediction == 0) & (target == 0)
    assert (found[plain].min(1) == found[plain].max(1)).all()
    assert (found[plain] >= 165).all()
    assert np.array_equal(found[~plain], plots.error_map(prediction, target)[~plain])
    for colours in (plots.error_legend(), plots.error_legend(21)):
        assert all(min(colour) < 165 for name, colour in colours.items() if name != "right")


def test_heat_maps_go_from_pale_to_dark_and_agree_with_their_legend():
    found = plots.heat_map([[0.0, 0.25, 0.5, 0.75, 1.0]])
    assert [tuple(pixel) for pixel in found[0].tolist()] == list(plots.heat_legend().values())
    assert (np.diff(found.astype(int).sum(2)) < 0).all()
    assert list(plots.heat_legend(6, unit="models")) == ["0 models", "1.5 models", "3 models", "4.5 models", "6 models"]
    beyond = plots.heat_map([[-1.0, 2.0, np.nan]])
    assert beyond[0, :2].tolist() == found[0, [0, 4]].tolist()
    assert beyond[0, 2].tolist() == [118] * 3


def test_a_grid_explains_the_colours_after_its_classes():
    target = np.array([[0, 1, 255]], dtype=np.uint8)
    error = plots.error_map([[1, 1, 1]], target)
    figure = plots.image_grid(
        {"truth": [target], "errors": [error]}, names=["table", "piece"], legend=plots.error_legend()
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "table",
        "piece",
        "void",
        "hit",
        "miss",
        "false alarm",
    ]
    face = figure.legends[0].get_patches()[-1].get_facecolor()
    np.testing.assert_allclose(np.array(face[:3]) * 255, FALSE_ALARM)
    alone = plots.image_grid({"errors": [error]}, legend=plots.error_legend())
    assert len(alone.legends[0].get_texts()) == 3
    alone.draw_without_rendering()
    assert alone.legends[0].get_window_extent().y1 <= alone.axes[0].get_window_extent().y0


# --- bad input ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plots.training_gap({}), "1 to 3 runs side by side, got 0"),
        (lambda: plots.training_gap(dict.fromkeys("abcd", [])), "got 4"),
        (
            lambda: plots.training_gap({"a": [{"step": 1, "loss": 0.5, "mean_iou": 0.3}]}, ["mean_iou"]),
            r"'a' has no evaluation with both 'train_mean_iou' and 'mean_iou'; it has: loss, mean_iou, step",
        ),
        (lambda: plots.scatter([1], [1, 2], "ab", [1, 1], "x", "y", "s"), "as many values"),
        (lambda: plots.scatter([], [], [], [], "x", "y", "s"), "at least one"),
        (lambda: plots.scatter([1], [np.nan], "a", [1], "x", "y", "s"), "NaN or infinite"),
        (lambda: plots.scatter([1], [1], "a", [0], "x", "y", "s"), "above zero, got 0"),
        (lambda: plots.scatter([0], [1], "a", [1], "x", "y", "s", log_x=True), "no place for x = 0"),
        (lambda: plots.error_map([[0, 1]], [[0]]), r"got \(1, 2\) and \(1, 1\)"),
        (lambda: plots.error_map([[0, 7]], [[0, 1]]), "label 7 is none of 2 classes"),
        (lambda: plots.error_map([[0]], [[1]], np.zeros((3, 4, 4), np.uint8)), r"picture has \(4, 4\) pixels"),
        (lambda: plots.difference_map([[0]], [[1, 1]], [[1]]), "must both be"),
        (lambda: plots.heat_map([1.0]), r"\(H, W\), got shape \(1,\)"),
        (lambda: plots.heat_map([[1.0]], high=0), "not above low"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
