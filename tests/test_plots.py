"""Figures: exact colours, honest gaps, marks where they belong, the stamp of the tiny profile, at most 100 kB."""

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from labhelpers import plots
from labhelpers.data.voc import VOC_CLASSES, VOCSegmentation
from labhelpers.evaluation import Interval
from labhelpers.plots.output import MAX_BYTES, SHOWN_BYTES, encode
from labhelpers.plots.schematics import SCHEMATICS, Block, crossed, path, schematic
from labhelpers.plots.style import STAMP, series_style, stamp
from labhelpers.prompting import ClickCurve, calibration

RNG = np.random.default_rng(0)
IMAGE = torch.from_numpy(RNG.integers(0, 256, (3, 48, 64), dtype=np.uint8))
PICTURE = IMAGE.permute(1, 2, 0).numpy()
TARGET = torch.zeros(48, 64, dtype=torch.uint8)
TARGET[8:30, 10:40] = 15
TARGET[30:33, 10:40] = 255
MASK = (TARGET == 15).numpy()
SCORES = np.linspace(0.2, 0.9, 21)
SCORES[[5, 9]] = np.nan
STATISTICS = SimpleNamespace(pixels=np.array([730, 0, 270]), images=np.array([12, 0, 7]))
THREE = ["background", "cat", "dog"]
ROWS = [{"step": s, "loss": 1 / s, "mean_iou": 0.1 * s if s % 2 == 0 else None} for s in range(1, 9)]
GAP_ROWS = [
    {"step": s, "loss": 1 / s, "train_loss": 1 / s, "val_loss": 0.3 + (s - 4) ** 2 / 50, "mean_iou": 0.1 * s}
    | {"train_mean_iou": 0.12 * s}
    for s in range(1, 9)
]
PANEL = {"image": IMAGE, "points": [(25, 20), (3, 40), (30, 12)], "labels": [1, 0, 1], "box": (10, 8, 39, 32)}
FULL_PANEL = {**PANEL, "mask": TARGET == 15, "truth": TARGET > 0}
OBJECTS = {"image": IMAGE, "boxes": [(10, 8, 40, 30), (0, 0, 12, 9)], "words": ["cat .9", "dog"]}
INTERVALS = {
    name: [Interval(v - 0.1, v + 0.05, v, v) for v in values]
    for name, values in {"a": (0.5, 0.6, 0.7), "b": (0.3, 0.2, 0.4)}.items()
}
HIT, MISS, FALSE_ALARM = plots.error_legend().values()
WHITE, VOID = (255, 255, 255), (224, 224, 192)


def one_curve(*mean: float) -> dict:
    return {"a": SimpleNamespace(mean=list(mean), band=[[v - 0.1 for v in mean], [v + 0.1 for v in mean]])}


FIGURES = {
    "architecture": lambda: plots.architecture("fcn8s"),
    "image_grid": lambda: plots.image_grid({"image": [IMAGE] * 2, "truth": [TARGET] * 2}, row_titles=["a", "b"]),
    "category_grid": lambda: plots.category_grid({15: (IMAGE, TARGET)}),
    "augmentation_grid": lambda: plots.augmentation_grid(
        [IMAGE] * 2, [TARGET] * 2, points=[[(3, 5)]] * 2, boxes=[[(10, 8, 39, 32)]] * 2, titles=["one", "two"]
    ),
    "curves": lambda: plots.curves({"FCN-8s": ROWS, "FCN-16s": SimpleNamespace(rows=ROWS)}),
    "lines_log": lambda: plots.lines([0, 1, 2], {"a": [0.1, 1, 0]}, "x (s)", "y (m)", log_y=True),
    "lines": lambda: plots.lines([0, 1, 2], {"a": [0, 1, 2], "b": [1, np.nan, 3]}, "x (s)", "y (m)"),
    "trimap_curve": lambda: plots.trimap_curve({"FCN-8s": {1: 0.4, 5: 0.6}, "FCN-32s": {2: 0.1}}),
    "class_distribution": lambda: plots.class_distribution(STATISTICS, THREE),
    "class_bars": lambda: plots.class_bars({"FCN-8s": SCORES, "FCN-32s": SCORES / 2}),
    "bars": lambda: plots.bars(["a", "b", "c"], [1.5, np.nan, 1050], "throughput (images/s)"),
    "confusion_heatmap": lambda: plots.confusion_heatmap(np.diag([5, 0, 3]), THREE),
    "heat_images": lambda: plots.heat_images([np.eye(4), -np.eye(20)], ["kernel", "logits"], label="weight"),
    "training_gap": lambda: plots.training_gap({"plain": GAP_ROWS, "augmented": GAP_ROWS[:5]}),
    "scatter": lambda: plots.scatter(
        [3, 9, 12],
        [0.4, 0.7, 0.6],
        ["fast", "a rather long name", "big"],
        [1, 5, 30],
        "ms",
        "IoU",
        "M",
        ["a", "b", "a"],
    ),
    "error_maps": lambda: plots.image_grid(
        {"image": [IMAGE], "errors": [plots.error_map(TARGET == 255, TARGET == 15, IMAGE)]}, legend=plots.error_legend()
    ),
    "prompt_grid": lambda: plots.prompt_grid([FULL_PANEL] * 5, titles=["a"] * 5),
    "object_grid": lambda: plots.object_grid([OBJECTS, {"image": IMAGE, "boxes": [(1, 1, 9, 9)] * 31}], ["a", "b"]),
    "click_curves": lambda: plots.click_curves(one_curve(0.5, 0.6)),
    "one_click": lambda: plots.click_curves(one_curve(0.5)),
    "interval_curves": lambda: plots.interval_curves((3, 4, 10), INTERVALS, "points"),
    "seed_dots": lambda: plots.seed_dots({"a": [0.5, 0.6, np.nan], "longer name": [0.4, 0.4, 0.7]}, "mean IoU"),
    "calibration_plot": lambda: plots.calibration_plot(calibration(np.linspace(0, 1, 30), np.linspace(0, 1, 30) ** 2)),
    "calibration_undefined": lambda: plots.calibration_plot(calibration(np.full(3, 0.5), np.full(3, 0.5))),
}


@pytest.fixture(autouse=True)
def _smoke(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "smoke")


def texts(figure) -> list[str]:
    """Everything that is written in a figure."""
    return [text.get_text() for text in figure.findobj(Text)]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def decoded(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encode(figure)[0])).convert("RGB"))


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_small_described_whole_and_not_left_open(name):
    figure = FIGURES[name]()
    data, mime = encode(figure)
    picture = Image.open(io.BytesIO(data))
    assert len(data) <= MAX_BYTES
    assert picture.get_format_mimetype() == mime
    assert picture.width <= 1030
    pixels = np.asarray(picture.convert("RGB"))
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert border.min() > 240  # white, but for JPEG's noise: no letter and no picture is cut off
    assert len(figure.get_label()) > 10
    assert STAMP not in texts(figure)
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("name", FIGURES)
def test_tiny_stamps_every_figure_once_and_covers_nothing(name, monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    figure = FIGURES[name]()
    stamp(figure)  # a second time changes nothing
    assert [text.get_text() for text in figure.texts].count(STAMP) == 1
    pixels = decoded(figure).astype(int)
    dark = pixels.min(axis=2) < 180  # beyond JPEG's noise
    bottom = np.flatnonzero(dark.any(axis=1))[-1]
    top = np.flatnonzero(~dark.any(axis=1)[:bottom])[-1] + 1  # the lowest rows that hold anything
    assert bottom - top < 16  # one line of text ...
    red, green, _ = pixels[top : bottom + 1][dark[top : bottom + 1]].T
    assert (red > green + 10).all()  # ... in the stamp's colour and nothing else


def test_tiny_stamps_figures_made_by_students_too(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    figure, _ = pyplot.subplots()
    plots.save(figure, tmp_path / "own.png")
    assert STAMP in texts(figure)
    assert pyplot.get_fignums() == []


def test_a_student_style_does_not_change_the_look():
    with pyplot.style.context("dark_background"):
        dark = decoded(FIGURES["lines"]())
    assert np.array_equal(dark, decoded(FIGURES["lines"]()))


def test_importing_plots_leaves_matplotlib_out():
    code = "import labhelpers.plots, sys; assert not [m for m in sys.modules if m.startswith('matplotlib')]"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


# --- colours ---
def test_colorize_and_overlay_are_exact():
    colours = plots.colorize(TARGET)
    assert colours.dtype == np.uint8
    assert colours[10, 12].tolist() == [192, 128, 128]  # person
    assert colours[31, 12].tolist() == [224, 224, 192]  # void
    painted = plots.overlay(IMAGE, TARGET, alpha=0.5)
    assert np.array_equal(painted[TARGET == 0], PICTURE[TARGET == 0])
    assert np.array_equal(painted[10, 12], np.rint((PICTURE[10, 12].astype(float) + [192, 128, 128]) / 2))
    assert np.array_equal(plots.overlay(PICTURE, TARGET, alpha=0.5), painted)  # either order of axes


def test_a_grid_of_label_maps_keeps_the_exact_colours():
    pixels = decoded(plots.image_grid({"truth": [TARGET], "FCN-8s": [TARGET]})).reshape(-1, 3)
    for colour in ([0, 0, 0], [192, 128, 128], [224, 224, 192]):
        assert (pixels == colour).all(axis=1).sum() > 200


def test_pixels_that_can_be_counted_have_lines_between_them():
    few, many = (np.zeros((3, side), dtype=np.uint8) for side in (4, 40))
    tiles = plots.image_grid({"few": [few], "picture": [few[..., None].repeat(3, 2)], "many": [many]}).axes
    assert [len(axes.lines) for axes in tiles] == [3 + 2, 0, 0]


@settings(max_examples=8, deadline=None)
@given(st.sets(st.sampled_from([*range(21), 255]), min_size=1, max_size=22))
def test_the_legend_holds_the_classes_present_and_no_others(labels):
    target = np.array([sorted(labels)], dtype=np.uint8)
    figure = plots.image_grid({"truth": [target]})
    assert legend(figure) == ["void" if label == 255 else VOC_CLASSES[label] for label in sorted(labels)]
    faces = np.array([patch.get_facecolor()[:3] for patch in figure.legends[0].get_patches()])
    assert np.array_equal(np.rint(faces * 255), plots.colorize(target)[0])


def test_a_grid_explains_its_colours_below_the_tiles():
    every_class = [np.arange(21, dtype=np.uint8)[None].repeat(21, 0)]
    error = plots.error_map([[1, 1, 1]], [[0, 1, 255]])
    both = {"truth": [np.array([[0, 1, 255]], dtype=np.uint8)], "errors": [error]}
    full, classes, alone = (
        plots.image_grid({"truth": every_class}),
        plots.image_grid(both, names=["table", "piece"], legend=plots.error_legend()),
        plots.image_grid({"errors": [error]}, legend=plots.error_legend()),
    )
    assert (
        legend(classes)
        == ["table", "piece", "void", *legend(alone)]
        == ["table", "piece", "void", "hit", "miss", "false alarm"]
    )
    face = classes.legends[0].get_patches()[-1].get_facecolor()
    np.testing.assert_allclose(np.array(face[:3]) * 255, FALSE_ALARM)
    for figure in (full, classes, alone):
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.axes[0].get_window_extent().y0


def test_series_look_different():
    styles = [tuple(series_style(i).values()) for i in range(28)]
    assert len(set(styles)) == 28
    assert len({colour for colour, _, _ in styles[:7]}) == 7


# --- gaps are shown as gaps ---


def test_undefined_scores_are_absent_and_left_out_of_the_mean():
    figure = plots.class_bars({"FCN-8s": SCORES})
    assert texts(figure).count("absent") == 2
    assert f"FCN-8s (mean {np.nanmean(SCORES):.3f})" in texts(figure)
    other = SCORES.copy()
    other[0] = np.nan
    assert texts(plots.class_bars({"a": SCORES, "b": other})).count("absent") == 3  # two shared, one of b's own
    assert "a (mean undefined)" in texts(plots.class_bars({"a": [np.nan]}, ["cat"]))


def test_class_distribution_tells_percentages_counts_and_classes_without_a_pixel():
    written = texts(plots.class_distribution(STATISTICS, THREE))
    assert {"73.0 %", "27.0 %", "none", "12", "7", "0"} <= set(written)
    assert written.index("background") < written.index("dog") < written.index("cat")  # by share


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [("target", {"75", "25", "100", "cat (absent)"}), ("prediction", {"60", "40", "100"}), (None, {"3", "1", "2"})],
)
def test_confusion_heatmap_numbers(normalise, expected):
    matrix = torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 0]])  # a cat is predicted once, but there is none
    figure = plots.confusion_heatmap(matrix, THREE, normalise=normalise)
    written = set(texts(figure))
    assert expected <= written
    assert ("dog (absent)" in written) == (normalise == "prediction")


def test_a_category_without_an_image_says_so():
    figure = plots.category_grid({1: (IMAGE, TARGET), 15: (IMAGE, TARGET)})
    assert len(figure.axes) == 40
    assert texts(figure).count("no image") == 36
    assert set(VOC_CLASSES[1:]) <= set(texts(figure))
    assert {"background", "void"} <= set(texts(figure))


def test_curves_leave_out_rows_without_a_value_and_average_long_series():
    figure = FIGURES["curves"]()
    loss, score = figure.axes
    assert [len(line.get_xdata()) for line in loss.lines] == [8, 8]
    assert score.lines[0].get_xdata().tolist() == [2, 4, 6, 8]
    values = RNG.random(200)
    long = [{"step": s, "loss": value} for s, value in enumerate(values)]
    raw, mean = plots.curves({"a": long}, y=["loss"]).axes[0].lines
    assert np.array_equal(raw.get_ydata(), values)
    assert mean.get_ydata()[50] == pytest.approx(values[41:51].mean())
    assert mean.get_ydata()[0] == pytest.approx(values[0])


def test_ticks_and_axes_fit_the_values():
    assert plots.lines([1, 2, 5], {"a": [3, 1, 2]}, "level", "value").axes[0].get_xticks().tolist() == [1, 2, 5]
    for first, scale in ((2.0, "linear"), (200.0, "log")):  # a loss that jumps
        rows = [{"step": 1, "val_loss": first}, {"step": 2, "val_loss": 0.5}]
        assert plots.curves({"a": rows}, y=("val_loss",)).axes[0].get_yscale() == scale
    for axes in FIGURES["curves"]().axes:
        assert axes.get_xticks().tolist() == [2, 4, 6, 8]  # the evaluated steps, for both quantities
    signed, positive = plots.heat_images([[[-1.0, 3.0]], [[1.0, 3.0]]], ["a", "b"]).axes[:2]
    assert (signed.images[0].get_clim(), positive.images[0].get_clim()) == ((-3, 3), (1, 3))  # zero in the middle
    first, second = plots.heat_images([[[-1.0, 3.0]], [[1.0, np.nan]]], ["a", "b"], shared=True).axes[:2]
    assert first.images[0].get_clim() == second.images[0].get_clim() == (-3, 3)


def test_points_and_boxes_keep_the_pixel_convention_and_the_view():
    figure = plots.augmentation_grid([IMAGE], [TARGET], points=[[(3, 5), (500, 5)]], boxes=[[(10, 8, 39, 32)]])
    for axes in figure.axes:
        assert axes.get_xlim() == (-0.5, 63.5)
        assert axes.collections[0].get_offsets()[0].tolist() == [3, 5]
        box = axes.patches[0]
        assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (9.5, 7.5, 30, 25)


# --- output ---


def noise_grid():
    """Pictures that hardly compress."""
    noise = RNG.integers(0, 256, (400, 400, 3), dtype=np.uint8)
    return plots.image_grid({"a": [noise], "b": [noise]})


def test_pictures_that_do_not_fit_as_png_become_jpeg():
    data, mime = encode(noise_grid())
    assert mime == "image/jpeg"
    assert len(data) <= SHOWN_BYTES
    assert encode(FIGURES["class_bars"]())[1] == "image/png"


def test_save_keeps_the_limit_and_the_format(tmp_path):
    saved = plots.save(FIGURES["lines"](), tmp_path / "new" / "lines.png")
    assert Image.open(saved).format == "PNG"
    saved = plots.save(noise_grid(), tmp_path / "noise.jpg")
    assert Image.open(saved).format == "JPEG"
    assert saved.stat().st_size <= MAX_BYTES
    with pytest.raises(ValueError, match=r"name it \.jpg"):
        plots.save(noise_grid(), tmp_path / "noise.png")
    with pytest.raises(ValueError, match="must end in"):
        plots.save(FIGURES["lines"](), tmp_path / "lines.bmp")
    assert not (tmp_path / "noise.png").exists()


def test_show_displays_a_described_picture_in_ipython_and_closes(monkeypatch):
    import IPython
    import IPython.display

    shown = []
    figure, _ = pyplot.subplots()  # before: pyplot's first figure asks a true IPython for its events
    monkeypatch.setattr(IPython, "get_ipython", object)
    monkeypatch.setattr(IPython.display, "display", lambda data, **options: shown.append((data, options)))
    assert plots.show(FIGURES["lines"](), alt="two lines") is None
    plots.show(figure)
    assert pyplot.get_fignums() == []
    assert [set(data) for data, _ in shown] == [{"image/png", "text/plain"}] * 2
    assert shown[0][0]["text/plain"] == "two lines"
    assert shown[0][1] == {"metadata": {"image/png": {"alt": "two lines"}}, "raw": True}


def test_show_outside_ipython_only_closes(capsys):
    figure, _ = pyplot.subplots()
    assert plots.show(figure) is None
    assert pyplot.get_fignums() == []
    assert capsys.readouterr().out == ""


@pytest.mark.real_data
def test_five_photographs_compared_fit_and_stay_sharp(real_data):
    dataset = VOCSegmentation(real_data / "voc_style_photos", "val")
    images, targets = zip(*(dataset[i] for i in range(5)), strict=True)
    data, mime = encode(plots.image_grid({"image": images, "truth": targets, "FCN-8s": targets, "U-Net": targets}))
    assert len(data) <= MAX_BYTES
    assert mime == "image/jpeg"
    assert Image.open(io.BytesIO(data)).width > 600  # fitted by its quality, not by shrinking


# --- training_gap ---


def rows(validation, training, metric="mean_iou"):
    name = "val_loss" if metric == "loss" else metric
    found = []
    for i, (v, t) in enumerate(zip(validation, training, strict=True), 1):
        found += [{"step": 10 * i - 5, "loss": 1.0}, {"step": 10 * i, "loss": 1.0, name: v, f"train_{metric}": t}]
    return found


@pytest.mark.parametrize(
    ("metric", "validation", "training", "best", "gap"),
    [
        ("mean_iou", [0.5, 0.7, 0.6], [0.5, 0.8, 0.95], 0.7, "0.350"),
        ("loss", [0.5, 0.3, 0.4], [0.5, 0.2, 0.1], 0.3, "0.300"),
        ("mean_iou", [0.5, 0.7], [0.4, 0.6], 0.7, "-0.100"),  # validation above training
    ],
)
def test_the_best_validation_is_marked_and_the_final_gap_written(metric, validation, training, best, gap):
    axes = plots.training_gap({"a": rows(validation, training, metric)}, metrics=[metric]).axes[0]
    assert axes.get_title(loc="left") == f"a\nbest {best:.3f} at step 20, final gap {gap}"
    stars = [line for line in axes.lines if line.get_marker() == "*"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in stars] == [(20, best)]


def test_runs_share_axes_and_keep_their_own_curves():
    score, loss = rows([0.2, 0.5, 0.4], [0.3, 0.6, 0.9]), rows([3.0, 2.0, 1.0], [2.0, 1.0, 0.5], "loss")
    both = [a | b for a, b in zip(score, loss, strict=True)]
    figure = plots.training_gap({"long": both, "stopped early": both[:2]})
    upper, upper_right, lower, lower_right = figure.axes
    assert upper.get_ylim() == upper_right.get_ylim()
    assert lower.get_ylim() == lower_right.get_ylim() != upper.get_ylim()
    assert upper.get_xlim() == lower_right.get_xlim()
    for axes in figure.axes:  # no curve is cut off by the limits of another panel
        low, high = axes.get_ylim()
        assert all(low <= min(line.get_ydata()) <= max(line.get_ydata()) <= high for line in axes.lines[:2])
    assert (upper.get_yscale(), lower.get_yscale()) == ("log", "linear")
    assert lower.get_ylim()[0] == 0
    assert [line.get_ydata().tolist() for line in lower.lines[:2]] == [[0.3, 0.6, 0.9], [0.2, 0.5, 0.4]]
    assert lower_right.lines[0].get_xdata().tolist() == [10]
    assert legend(figure) == ["training", "validation", "gap", "best validation"]


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
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1 + 1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1 + 1
        assert not any(box.overlaps(other) for other in boxes[:i])


@pytest.mark.parametrize(("x", "log_x"), [([1, 2, 3], False), ([9, 90, 900], True)])
def test_names_stand_beside_their_dots(x, log_x):
    names = ["one", "two", "three"]
    figure = plots.scatter(x, [1, 2, 3], names, [1, 1, 9], "x", "y", "size", log_x=log_x)
    axes, boxes = figure.axes[0], label_boxes(figure)
    centres = axes.transData.transform(list(zip(x, (1, 2, 3), strict=True)))
    assert np.diff(centres[:, 0])[0] == pytest.approx(np.diff(centres[:, 0])[1])
    texts = [text.get_text() for text in axes.texts]
    for name, centre in zip(names, centres, strict=True):
        box = boxes[texts.index(name)]
        nearest = np.clip(centre, [box.x0, box.y0], [box.x1, box.y1])
        assert 5 < np.linalg.norm(nearest - centre) < 40  # outside of the mark, but next to it
    if log_x:  # plain numbers
        low, high = axes.get_xlim()
        shown = [text.get_text() for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high]
        assert shown == ["5", "10", "20", "50", "100", "200", "500", "1000"]


def test_areas_are_proportional_and_the_legend_uses_the_same_scale():
    figure = plots.scatter([1, 2, 3], [1, 2, 3], "abc", [2, 8, 24], "x", "y", "parameters (M)", groups=["u", "u", "v"])
    axes = figure.axes[0]
    areas = np.concatenate([axes.collections[0].get_sizes(), axes.collections[2].get_sizes()])
    np.testing.assert_allclose(areas / areas[0], [1, 4, 12])
    sizes = axes.get_legend()
    assert sizes.get_title().get_text() == "parameters (M)"
    assert [text.get_text() for text in sizes.get_texts()] == ["20", "10", "2"]
    drawn = np.array([handle.get_sizes()[0] for handle in sizes.legend_handles])
    np.testing.assert_allclose(drawn / areas[0], [10, 5, 1])


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


# --- maps ---
def shown(colours: np.ndarray) -> list[tuple]:
    return [tuple(pixel) for pixel in colours[0].tolist()]


def test_maps_of_errors_and_differences_tell_who_is_right():
    target, prediction = torch.tensor([[1, 1, 0, 0, 255, 255]]), torch.tensor([[1, 0, 1, 0, 1, 0]])
    found = plots.error_map(prediction, target)
    assert found.dtype == np.uint8
    assert shown(found) == [HIT, MISS, FALSE_ALARM, WHITE, VOID, VOID]
    assert np.array_equal(plots.error_map(prediction == 1, target), found)  # boolean masks too
    many = plots.error_map([[3, 2, 0, 5]], [[3, 3, 0, 255]], num_classes=6)  # wrong pixels alone
    assert shown(many) == [WHITE, plots.error_legend(6)["wrong"], WHITE, VOID]
    names = plots.difference_legend("U-Net", "FCN")
    found = plots.difference_map([[1, 1, 2, 2, 1]], [[1, 0, 1, 0, 0]], [[1, 1, 1, 1, 255]], num_classes=3)
    assert shown(found) == [WHITE, names["only U-Net right"], names["only FCN right"], names["both wrong"], VOID]


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


# --- prompts and their scores ---
def prompt(**panel):
    return plots.prompt_grid([panel])


def test_clicks_differ_in_shape_and_colour_and_a_box_encloses_its_extreme_pixels():
    figure = prompt(**PANEL)
    axes = figure.axes[0]
    marks = {line.get_marker(): np.column_stack(line.get_data()).tolist() for line in axes.lines}
    assert marks == {"o": [[25, 20], [30, 12]], "X": [[3, 40]]}
    assert len({line.get_color() for line in axes.lines}) == 2
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert {(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in boxes} == {(9.5, 7.5, 30, 25)}
    assert legend(figure) == ["box", "foreground click", "background click"]
    assert legend(prompt(image=PICTURE, points=[(1, 2)], labels=[0])) == ["background click"]


def test_a_mask_is_painted_over_the_picture_and_nothing_else_changes(recwarn):
    for mask in (MASK, torch.from_numpy(MASK), np.zeros_like(MASK)):
        axes = prompt(image=PICTURE, mask=mask, truth=mask).axes[0]
        painted, inside = axes.images[0].get_array(), np.asarray(mask)
        assert np.array_equal(painted[~inside], PICTURE[~inside])
        np.testing.assert_allclose(painted[inside], (PICTURE[inside] + np.array([0xD6, 0x27, 0x8A])) / 2, atol=0.5)
        assert bool(axes.collections) == inside.any()  # an empty mask has no rim
    assert not recwarn.list


@pytest.mark.parametrize(("kind", "name"), [("truth", "true outline"), ("mask", "mask")])
def test_outlines_are_closed_at_the_edge_of_the_picture(kind, name):
    corner = np.zeros((48, 64), dtype=bool)
    corner[30:, 40:] = True
    figure = prompt(image=IMAGE, **{kind: corner})
    for line in figure.axes[0].collections:
        outline = np.concatenate([path.vertices for path in line.get_paths()])
        assert np.allclose(outline.min(0), [39.5, 29.5])
        assert np.allclose(outline.max(0), [63.5, 47.5])
    assert len(figure.axes[0].collections) == 2  # black under colour
    assert legend(figure) == [name]
    assert figure.axes[0].get_xlim() == (-0.5, 63.5)


def test_mask_and_truth_differ_in_colour_and_dashes():
    rim, outline = (prompt(image=PICTURE, **{kind: MASK}).axes[0].collections[1] for kind in ("mask", "truth"))
    assert not np.array_equal(rim.get_edgecolor(), outline.get_edgecolor())
    assert rim.get_linestyle()[0][1] is None  # solid
    assert outline.get_linestyle()[0][1] is not None


def test_objects_have_boxes_behind_their_last_pixel_masks_of_their_colours_and_names():
    masks = np.zeros((2, 48, 64), dtype=bool)
    masks[0, 8:30, 10:40] = masks[1, :9, :12] = True
    axes = plots.object_grid([{**OBJECTS, "masks": masks}]).axes[0]
    boxes = {tuple(patch.get_bbox().extents) for patch in axes.patches}
    assert boxes == {(9.5, 7.5, 39.5, 29.5), (-0.5, -0.5, 11.5, 8.5)}
    assert {"cat .9", "dog"} <= set(texts(axes.figure))
    drawn = axes.images[0].get_array()
    assert (drawn[~masks.any(0)] == PICTURE[~masks.any(0)]).all()
    first, second = np.array((0, 114, 178)), np.array((213, 94, 0))
    grounds = {(20, 20): (PICTURE, first), (2, 2): (PICTURE, second), (8, 11): ((PICTURE + second) / 2, first)}
    for place, (under, over) in grounds.items():
        assert (abs(drawn[place] - (under[place] + over) / 2) <= 1).all()


def test_segments_are_divided_where_the_object_changes_and_not_elsewhere():
    labels, ids = np.full((6, 8), 8), np.ones((6, 8), dtype=int)
    ids[:, 4:] = 2
    painted = plots.segment_map(labels, ids)
    assert (painted[:, 3] == WHITE).all()
    rest = np.delete(painted, 3, axis=1)
    assert (rest == plots.colorize(np.array([[8]]))[0, 0]).all()


def test_a_grid_has_one_legend_for_all_panels():
    panels = [{"image": PICTURE, "mask": MASK}, PANEL, {"image": PICTURE}]
    figure = plots.prompt_grid(panels, titles=["one", "two", "three"], columns=2)
    assert legend(figure) == ["mask", "box", "foreground click", "background click"]
    assert [text.get_text() for text in figure.texts] == ["one", "two", "three"]
    first, second, third = (axes.get_position() for axes in figure.axes)
    assert (first.y0, first.x0) == pytest.approx((second.y0, third.x0))
    assert third.y1 < first.y0
    assert first.x1 < second.x0
    assert figure.get_label() == "3 pictures of one; two; three, with mask, box, foreground, background"


def test_pictures_of_several_shapes_do_not_overlap():
    tall, wide = np.zeros((90, 40, 3), dtype=np.uint8), np.zeros((30, 120, 3), dtype=np.uint8)
    figure = plots.prompt_grid([{"image": wide}, {"image": tall}, {"image": wide}, {"image": tall}], columns=2)
    boxes = [axes.get_position() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not figure.legends
    assert figure.get_label() == "4 pictures, with no prompt"


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


def test_intervals_are_drawn_from_zero_where_they_belong():
    figure = FIGURES["interval_curves"]()
    axes = figure.axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.5, 0.6, 0.7], [0.3, 0.2, 0.4]]
    assert all(line.get_xdata().tolist() == [3, 4, 10] for line in axes.lines)
    corners = [tuple(corner.round(6)) for corner in axes.collections[1].get_paths()[0].vertices]
    assert {(3, 0.2), (3, 0.35), (4, 0.1), (4, 0.25), (10, 0.3), (10, 0.45)} <= set(corners)
    assert (axes.get_ylim(), axes.get_xlabel()) == ((0, 1.02), "points")
    assert figure.get_label() == "Mean IoU: mean IoU against points, a from 0.50 to 0.70, b from 0.30 to 0.40"


def test_each_seed_is_a_dot_in_the_row_of_its_variant():
    figure = FIGURES["seed_dots"]()
    (axes,) = figure.axes
    dots = [line.get_xydata() for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_equal(dots, [[[0.5, 0], [0.6, 0], [np.nan, 0]], [[0.4, 1], [0.4, 1], [0.7, 1]]])
    assert [text.get_text() for text in axes.texts] == ["mean 0.550", "mean 0.500"]
    assert axes.get_ylim() == (1.5, -0.5)  # the first on top


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


# --- mistakes ---
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plots.image_grid({}), "at least one"),
        (lambda: plots.image_grid({"image": [IMAGE], "truth": []}), "same number of items"),
        (lambda: plots.image_grid({"image": [IMAGE.float()]}), "denormalize"),
        (lambda: plots.image_grid({"truth": [TARGET]}, names=["background", "piece"]), "label 15 has no name"),
        (lambda: plots.curves({"a": ROWS}, y=["dice"]), "they have: loss, mean_iou, step"),
        (lambda: plots.class_bars({"a": SCORES}, ["cat"]), "21 values but 1 names"),
        (lambda: plots.confusion_heatmap(np.eye(3), ["a", "b"]), "shape"),
        (lambda: plots.confusion_heatmap(np.eye(2), ["a", "b"], normalise="rows"), "known: target, prediction"),
        (lambda: plots.heat_images([np.eye(3)], ["a", "b"]), "one title each"),
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
        (lambda: prompt(image=IMAGE, points=[(1, 2)]), "points and labels belong together"),
        (lambda: prompt(image=IMAGE, labels=[1]), "points and labels belong together"),
        (
            lambda: prompt(image=IMAGE, points=[(1, 2)], labels=[2]),
            r"labels must be 1 \(foreground\) or 0 \(background\), one for each of 1",
        ),
        (lambda: prompt(image=IMAGE, points=[(1, 2)], labels=[1, 0]), "one for each of 1 points"),
        (
            lambda: prompt(image=IMAGE, mask=MASK.astype(float)),
            r"mask must be bool of the picture's size \(48, 64\), got float64",
        ),
        (
            lambda: prompt(image=IMAGE, truth=MASK[:-1]),
            r"truth must be bool of the picture's size \(48, 64\), got bool \(47, 64\)",
        ),
        (lambda: plots.object_grid([]), "needs panels, and a title for each; got 0"),
        (lambda: plots.prompt_grid([]), "needs panels, and a title for each; got 0"),
        (lambda: plots.prompt_grid([PANEL], titles=["a", "b"]), "got 1 and titles"),
        (lambda: plots.click_curves({}), "needs at least one curve"),
        (lambda: plots.seed_dots({}, "IoU"), "a score of each variant; none of any variant"),
        (lambda: plots.seed_dots({"a": [0.1], "b": [np.nan], "c": []}, "IoU"), "none of b, c"),
        (
            lambda: plots.interval_curves((1, 2, 3), {**INTERVALS, "b": INTERVALS["b"][:1]}, "points"),
            r"needs curves of 3 intervals, as many as x has numbers; got \{'b': 1\}",
        ),
        (lambda: plots.interval_curves((1, 2), {}, "points"), r"needs curves of 2 intervals.*got \{\}"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- schematics ---


@pytest.mark.parametrize("name", SCHEMATICS)
def test_a_schematic_has_no_box_on_another_and_no_arrow_through_one(name):
    blocks, arrows, alt = SCHEMATICS[name]()
    for title, block in blocks.items():
        (x0, x1), (y0, y1) = block.sides
        diagonals = [[(x0, block.y), (x1, block.y)], [(block.x, y0), (block.x, y1)]]
        assert {other for line in diagonals for other in crossed(line, blocks)} == {title}
    assert {name for arrow in arrows for name in arrow[:2]} == set(blocks)
    for start, end, *_ in arrows:
        assert not crossed(path(blocks, start, end), blocks), (start, end)
    assert plots.architecture(name).get_label() == alt


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="no schematic of 'vgg'; there are: fcn8s"):
        plots.architecture("vgg")
    with pytest.raises(ValueError, match="'b', which is no block; there are: a"):
        schematic({"a": Block("a", 0, 0)}, [("a", "b")], "one box")


def test_words_beside_objects_stay_inside_of_the_picture():
    image = torch.zeros(3, 128, 128, dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 10, 60, 60], [110, 20, 127, 60], [60, 122, 120, 128], [-5, -9, 40, 30]])
    words = ["pottedplant 0.91", "diningtable 0.80", "motorbike 0.60", "person"]
    figure = plots.object_grid([{"image": image, "boxes": boxes, "words": words}] * 4)
    for axes in figure.axes:
        frame = axes.get_window_extent()
        assert sorted(text.get_text() for text in axes.texts) == sorted(words)
        for text in axes.texts:
            extent = text.get_window_extent()
            assert frame.x0 <= extent.x0 <= extent.x1 <= frame.x1
            assert frame.y0 <= extent.y0 <= extent.y1 <= frame.y1
