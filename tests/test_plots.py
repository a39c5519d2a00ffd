"""Figures: exact colours, honest gaps, the stamp of the tiny profile, and never more than 100 kB."""

import io
import os
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
from matplotlib.text import Text
from PIL import Image

from labhelpers import plots
from labhelpers.data.voc import VOC_CLASSES, VOCSegmentation
from labhelpers.evaluation import Interval
from labhelpers.plots.output import MAX_BYTES, SHOWN_BYTES, encode
from labhelpers.plots.style import STAMP, series_style, stamp
from labhelpers.prompting import calibration

RNG = np.random.default_rng(0)
IMAGE = torch.from_numpy(RNG.integers(0, 256, (3, 48, 64), dtype=np.uint8))
TARGET = torch.zeros(48, 64, dtype=torch.uint8)
TARGET[8:30, 10:40] = 15
TARGET[30:33, 10:40] = 255
SCORES = np.linspace(0.2, 0.9, 21)
SCORES[[5, 9]] = np.nan
STATISTICS = SimpleNamespace(pixels=np.array([730, 0, 270]), images=np.array([12, 0, 7]))
ROWS = [{"step": s, "loss": 1 / s, "mean_iou": 0.1 * s if s % 2 == 0 else None} for s in range(1, 9)]
GAP_ROWS = [
    {"step": s, "loss": 1 / s, "train_loss": 1 / s, "val_loss": 0.3 + (s - 4) ** 2 / 50, "mean_iou": 0.1 * s}
    | {"train_mean_iou": 0.12 * s}
    for s in range(1, 9)
]

PANEL = {
    "image": IMAGE,
    "points": [(25, 20), (3, 40)],
    "labels": [1, 0],
    "box": (10, 8, 39, 32),
    "mask": TARGET == 15,
    "truth": TARGET > 0,
}

FIGURES = {
    "image_grid": lambda: plots.image_grid({"image": [IMAGE] * 2, "truth": [TARGET] * 2}, row_titles=["a", "b"]),
    "category_grid": lambda: plots.category_grid({15: (IMAGE, TARGET)}),
    "augmentation_grid": lambda: plots.augmentation_grid(
        [IMAGE] * 2, [TARGET] * 2, points=[[(3, 5)]] * 2, boxes=[[(10, 8, 39, 32)]] * 2, titles=["one", "two"]
    ),
    "curves": lambda: plots.curves({"FCN-8s": ROWS, "FCN-16s": SimpleNamespace(rows=ROWS)}),
    "lines_log": lambda: plots.lines([0, 1, 2], {"a": [0.1, 1, 0]}, "x (s)", "y (m)", log_y=True),
    "lines": lambda: plots.lines([0, 1, 2], {"a": [0, 1, 2], "b": [1, np.nan, 3]}, "x (s)", "y (m)"),
    "trimap_curve": lambda: plots.trimap_curve({"FCN-8s": {1: 0.4, 5: 0.6}, "FCN-32s": {2: 0.1}}),
    "class_distribution": lambda: plots.class_distribution(STATISTICS, ["background", "cat", "dog"]),
    "class_bars": lambda: plots.class_bars({"FCN-8s": SCORES, "FCN-32s": SCORES / 2}),
    "bars": lambda: plots.bars(["a", "b", "c"], [1.5, np.nan, 1050], "throughput (images/s)"),
    "confusion_heatmap": lambda: plots.confusion_heatmap(np.diag([5, 0, 3]), ["background", "cat", "dog"]),
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
    "prompt_grid": lambda: plots.prompt_grid([PANEL] * 5, titles=["a"] * 5),
    "click_curves": lambda: plots.click_curves({"a": SimpleNamespace(mean=[0.5, 0.6], band=[[0.4, 0.5], [0.6, 0.8]])}),
    "one_click": lambda: plots.click_curves({"a": SimpleNamespace(mean=[0.5], band=[[0.4], [0.6]])}),
    "interval_curves": lambda: plots.interval_curves((3, 4), {"a": [Interval(0.4, 0.6, 0.5, 0.5)] * 2}, "points"),
    "calibration_plot": lambda: plots.calibration_plot(calibration(np.linspace(0, 1, 30), np.linspace(0, 1, 30) ** 2)),
    "calibration_undefined": lambda: plots.calibration_plot(calibration(np.full(3, 0.5), np.full(3, 0.5))),
}


@pytest.fixture(autouse=True)
def _smoke(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "smoke")


def texts(figure) -> list[str]:
    """Everything that is written in a figure."""
    return [text.get_text() for text in figure.findobj(Text)]


def legend_entries(figure) -> list[str]:
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
    picture = IMAGE.numpy().transpose(1, 2, 0)
    painted = plots.overlay(IMAGE, TARGET, alpha=0.5)
    assert np.array_equal(painted[TARGET == 0], picture[TARGET == 0])
    expected = np.rint((picture[10, 12].astype(float) + [192, 128, 128]) / 2)
    assert np.array_equal(painted[10, 12], expected)
    assert np.array_equal(plots.overlay(picture, TARGET, alpha=0.5), painted)  # either order of axes


def test_a_grid_of_label_maps_keeps_the_exact_colours():
    pixels = decoded(plots.image_grid({"truth": [TARGET], "FCN-8s": [TARGET]})).reshape(-1, 3)
    for colour in ([0, 0, 0], [192, 128, 128], [224, 224, 192]):
        assert (pixels == colour).all(axis=1).sum() > 200


@settings(max_examples=8, deadline=None)
@given(st.sets(st.sampled_from([*range(21), 255]), min_size=1, max_size=22))
def test_the_legend_holds_the_classes_present_and_no_others(labels):
    target = np.array([sorted(labels)], dtype=np.uint8)
    figure = plots.image_grid({"truth": [target]})
    assert legend_entries(figure) == ["void" if label == 255 else VOC_CLASSES[label] for label in sorted(labels)]
    patches = figure.legends[0].get_patches()
    faces = [np.rint(np.array(patch.get_facecolor()[:3]) * 255).tolist() for patch in patches]
    assert faces == plots.colorize(target)[0].tolist()


def test_a_legend_lies_inside_its_figure_and_below_the_tiles():
    figure = plots.image_grid({"truth": [np.arange(21, dtype=np.uint8)[None].repeat(21, 0)]})
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.x1
    assert legend.y1 <= figure.axes[0].get_window_extent().y0


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
    written = texts(plots.class_distribution(STATISTICS, ["background", "cat", "dog"]))
    assert {"73.0 %", "27.0 %", "none", "12", "7", "0"} <= set(written)
    assert written.index("background") < written.index("dog") < written.index("cat")  # by share


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [("target", {"75", "25", "100", "cat (absent)"}), ("prediction", {"60", "40", "100"}), (None, {"3", "1", "2"})],
)
def test_confusion_heatmap_numbers(normalise, expected):
    matrix = torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 0]])  # a cat is predicted once, but there is none
    figure = plots.confusion_heatmap(matrix, ["background", "cat", "dog"], normalise=normalise)
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


def test_points_and_boxes_keep_the_pixel_convention_and_the_view():
    figure = plots.augmentation_grid([IMAGE], [TARGET], points=[[(3, 5), (500, 5)]], boxes=[[(10, 8, 39, 32)]])
    for axes in figure.axes:
        assert axes.get_xlim() == (-0.5, 63.5)
        assert axes.collections[0].get_offsets()[0].tolist() == [3, 5]
        box = axes.patches[0]
        assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (9.5, 7.5, 30, 25)


def test_signed_maps_are_centred_on_zero():
    signed, positive = plots.heat_images([[[-1.0, 3.0]], [[1.0, 3.0]]], ["a", "b"]).axes[:2]
    assert signed.images[0].get_clim() == (-3, 3)
    assert positive.images[0].get_clim() == (1, 3)
    first, second = plots.heat_images([[[-1.0, 3.0]], [[1.0, np.nan]]], ["a", "b"], shared=True).axes[:2]
    assert first.images[0].get_clim() == second.images[0].get_clim() == (-3, 3)


# --- bad input ---


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
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


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
    monkeypatch.setattr(IPython, "get_ipython", object)
    monkeypatch.setattr(IPython.display, "display", lambda data, **options: shown.append((data, options)))
    assert plots.show(FIGURES["lines"](), alt="two lines") is None
    figure, _ = pyplot.subplots()
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
def test_five_photographs_compared_fit_and_stay_sharp():
    root = os.environ.get("LAB_REAL_DATA")
    if not root:
        pytest.skip("LAB_REAL_DATA names no folder with photographs")
    dataset = VOCSegmentation(Path(root) / "voc_style_photos", "val")
    images, targets = zip(*(dataset[i] for i in range(5)), strict=True)
    data, mime = encode(plots.image_grid({"image": images, "truth": targets, "FCN-8s": targets, "U-Net": targets}))
    picture = Image.open(io.BytesIO(data))
    assert len(data) <= MAX_BYTES
    assert mime == "image/jpeg"
    assert picture.width > 600  # fitted by its quality, not by shrinking


def test_a_loss_that_jumps_is_on_a_logarithmic_axis():
    calm = [{"step": s, "val_loss": v} for s, v in ((1, 2.0), (2, 0.5))]
    jump = [{"step": s, "val_loss": v} for s, v in ((1, 200.0), (2, 0.5))]
    scales = [plots.curves({"a": rows}, y=("val_loss",)).axes[0].get_yscale() for rows in (calm, jump)]
    assert scales == ["linear", "log"]


def test_few_points_are_the_ticks():
    axes = plots.lines([1, 2, 5], {"a": [3, 1, 2]}, "level", "value").axes[0]
    assert axes.get_xticks().tolist() == [1, 2, 5]
