"""Bars and matrices: how often classes occur, how well each is segmented, what is taken for what, and any 2-D maps."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from labhelpers.data.base import decode_target
from labhelpers.data.voc import VOC_CLASSES
from labhelpers.plots.style import FAINT, GRID, SERIES_COLOURS, WIDTH, new_figure, styled, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_HATCHES = ("", "////", "....", "xxxx", "----")  # tell models apart where colours fail
_SHARES = {
    "target": (1, "% of the target's pixels\n(a row adds up to 100)"),
    "prediction": (0, "% of the predicted pixels\n(a column adds up to 100)"),
}


@styled
def class_distribution(stats: Any, names: Sequence[str] = VOC_CLASSES) -> "Figure":
    """Draw each class's share of the labelled pixels (log axis) and the number of images it occurs in, largest first.

    Args:
        stats: has `pixels` (K,) and `images` (K,), counts per class; void is not among them.
        names: K class names.

    Raises:
        ValueError: there are not as many names as classes.
    """
    pixels, images = to_array(stats.pixels).astype(float), to_array(stats.images).astype(int)
    _same_length(names, pixels, "class_distribution")
    share = 100 * pixels / max(pixels.sum(), 1)
    order = np.argsort(-share, kind="stable")
    colours = decode_target(order[:, None])[:, 0] / 255
    figure = new_figure(0.21 * len(order) + 1.1)
    left, right = figure.subplots(1, 2, sharey=True)

    present = share[share > 0]
    left.set_xscale("log")
    left.set_xlim(min(present, default=1) / 3, 600)  # 100 % and room for its label
    _horizontal(left, share[order], [_percent(value) for value in share[order]], colours)
    left.set(xlabel="share of labelled pixels (%), log scale", yticks=range(len(order)))
    left.set_yticklabels([names[label] for label in order])
    left.set_xticks([tick for tick in (0.001, 0.01, 0.1, 1, 10, 100) if tick >= left.get_xlim()[0]])
    left.xaxis.set_major_formatter("{x:g}")
    left.minorticks_off()

    _horizontal(right, images[order], [f"{count:,}" for count in images[order]], colours)
    right.set(xlabel="images that contain the class", xlim=(0, max(images.max(), 1) * 1.12))
    left.invert_yaxis()  # shared: the most frequent class on top
    counts = (f"{names[label]} {share[label]:.2g} % of pixels in {images[label]} images" for label in order)
    figure.set_label(f"Class distribution: {', '.join(counts)}")
    return figure


@styled
def class_bars(
    scores: Mapping[str, Sequence[float]], names: Sequence[str] = VOC_CLASSES, ylabel: str = "IoU"
) -> "Figure":
    """Draw a score per class, one bar per model; NaN (class in neither prediction nor target) is marked "absent".

    Args:
        scores: model -> (K,) such as `Scores.class_iou`; the legend gives the mean of those that are defined.
        names: K class names.

    Raises:
        ValueError: there are not as many names as values.
    """
    table = np.array([to_array(values) for values in scores.values()], dtype=float)  # (models, K)
    _same_length(names, table[0], "class_bars")
    width = min(WIDTH, max(6.0, 0.4 * len(names) + 1.6))
    figure = new_figure(4.0, width=width)
    axes = figure.subplots()
    nowhere = np.isnan(table).all(axis=0)
    thick = 0.84 / len(scores)
    for index, (model, values) in enumerate(zip(scores, table, strict=True)):
        defined = ~np.isnan(values)
        mean = f"{values[defined].mean():.3f}" if defined.any() else "undefined"
        place = np.arange(len(values)) + (index - (len(scores) - 1) / 2) * thick
        look: dict[str, Any] = {"color": SERIES_COLOURS[index % len(SERIES_COLOURS)], "edgecolor": "white"}
        look |= {"linewidth": 0.5, "hatch": _HATCHES[index % len(_HATCHES)]}
        axes.bar(place[defined], values[defined], thick, label=f"{model} (mean {mean})", **look)
        for x in place[~defined & ~nowhere]:  # as small as its bar is thin
            _absent(axes, x, min(8, 72 * 0.9 * thick * width / len(names)))
    for x in np.flatnonzero(nowhere):
        _absent(axes, float(x), 8)
    axes.set(ylabel=ylabel, ylim=(0, 1), xlim=(-0.6, len(names) - 0.4), xticks=range(len(names)))
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(names) > 5 else {}
    axes.set_xticklabels(names, **turned)
    axes.grid(axis="x", visible=False)
    columns = math.ceil(len(scores) / math.ceil(len(scores) / 4))
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=columns, frameon=False)
    figure.set_label(f"{ylabel} per class for {', '.join(scores)}")
    return figure


@styled
def bars(labels: Sequence[str], values: Sequence[float], xlabel: str) -> "Figure":
    """Draw one horizontal bar per label, its value at the end. Put the unit into `xlabel`: "throughput (images/s)".

    Args:
        labels: (N,) names.
        values: (N,) numbers; NaN is marked "undefined".
    """
    numbers = to_array(values).astype(float)
    _same_length(labels, numbers, "bars")
    figure = new_figure(0.36 * len(numbers) + 1.0, width=8)
    axes = figure.subplots()
    texts = [f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" for value in numbers]
    texts = ["undefined" if text == "nan" else text for text in texts]
    ends = np.nan_to_num(numbers)
    _horizontal(axes, ends, texts, SERIES_COLOURS[0])
    axes.set(yticks=range(len(labels)), yticklabels=labels, xlabel=xlabel, xlim=(0, max(ends.max(), 1e-9) * 1.15))
    axes.invert_yaxis()
    figure.set_label(f"{xlabel}: " + ", ".join(f"{label} {text}" for label, text in zip(labels, texts, strict=True)))
    return figure


def _horizontal(axes: "Axes", values: np.ndarray, texts: Sequence[str], colours: Any) -> None:
    """Draw horizontal bars with a text at the end of each."""
    axes.barh(range(len(values)), values, height=0.72, color=colours, edgecolor=FAINT, linewidth=0.5)
    for row, (end, text) in enumerate(zip(values, texts, strict=True)):
        anchor = max(end, axes.get_xlim()[0])  # on a log axis, zero has no place of its own
        axes.annotate(text, (anchor, row), (5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_ylim(-0.6, len(values) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _absent(axes: "Axes", x: float, fontsize: float) -> None:
    axes.text(x, 0.01, "absent", rotation=90, ha="center", va="bottom", fontsize=fontsize, color=FAINT)


def _percent(value: float) -> str:
    if value == 0:
        return "none"
    return f"{value:.1f} %" if value >= 10 else f"{value:#.2g} %"


def _same_length(names: Sequence[str], values: np.ndarray, function: str) -> None:
    if len(names) != len(values):
        raise ValueError(f"{function} got {len(values)} values but {len(names)} names: give one name per value.")


@styled
def confusion_heatmap(
    matrix: np.ndarray | torch.Tensor, names: Sequence[str] = VOC_CLASSES, normalise: str | None = "target"
) -> "Figure":
    """Draw a confusion matrix; each cell of at least half a percent (or one pixel) bears its number.

    Args:
        matrix: (K, K) pixel counts, rows = target, columns = prediction.
        names: K class names. A class without a pixel to divide by is grey and called "absent".
        normalise: "target" divides rows (the diagonal is the recall), "prediction" divides columns (precision),
            None shows counts.

    Raises:
        ValueError: the matrix is not (K, K) for K names, or `normalise` is unknown.
    """
    counts = to_array(matrix).astype(float)
    if counts.shape != (len(names), len(names)):
        raise ValueError(f"confusion_heatmap got a matrix of shape {counts.shape} for {len(names)} names.")
    if normalise is not None and normalise not in _SHARES:
        raise ValueError(f"unknown normalise={normalise!r}; known: {', '.join(_SHARES)}, None.")

    rows, columns = list(names), list(names)
    if normalise is None:
        shown, label, limit = counts, "pixels", counts.max()
    else:
        axis, label = _SHARES[normalise]
        total = counts.sum(axis=axis, keepdims=True)
        shown = 100 * np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
        limit = 100.0
        marked = rows if normalise == "target" else columns
        marked[:] = [name if n else f"{name} (absent)" for name, n in zip(names, total.ravel(), strict=True)]

    size = 0.3 if len(names) > 8 else 0.75  # inches a cell
    figure = new_figure(size * len(names) + 1.8, width=min(WIDTH, size * len(names) + 3.2))
    axes = figure.subplots()
    drawn = axes.imshow(np.ma.masked_invalid(shown), cmap="Blues", vmin=0, vmax=max(limit, 1))
    axes.set_facecolor(GRID)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xlabel="prediction", ylabel="target", xticks=range(len(names)), yticks=range(len(names)))
    axes.set_xticklabels(columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(rows)
    _write_cells(axes, shown, lambda value: f"{value:,.0f}" if value >= 0.5 else "", 7.5 if size < 0.5 else 10)
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.8).outline.set_visible(False)
    figure.set_label(f"Confusion matrix, {len(names)} classes, {' '.join(label.split())}")
    return figure


@styled
def heat_images(
    images: Sequence[np.ndarray | torch.Tensor],
    titles: Sequence[str],
    cmap: str | None = None,
    label: str = "",
    shared: bool = False,
) -> "Figure":
    """Draw 2-D arrays as colours, up to five across, each with its colour bar; arrays up to 8 by 8 show their numbers.

    Args:
        images: (H, W) numbers each; NaN is grey.
        titles: one per array.
        cmap: a matplotlib colour map. None takes blue-white-red around zero for arrays with negative numbers,
            else viridis.
        label: what the numbers are, with the unit, at the colour bars.
        shared: one colour scale for all, with one colour bar, so that colours compare.
    """
    arrays = [to_array(image).astype(float) for image in images]
    if len(arrays) != len(titles) or any(array.ndim != 2 for array in arrays):
        shapes = [array.shape for array in arrays]
        raise ValueError(
            f"heat_images needs 2-D arrays and one title each, got shapes {shapes} and {len(titles)} titles."
        )
    across = len(arrays) if len(arrays) <= 5 else 4
    down = math.ceil(len(arrays) / across)
    width = min(WIDTH / across, 4.2)
    tall = max(array.shape[0] / array.shape[1] for array in arrays)
    figure = new_figure(down * (width * 0.78 * min(tall, 1.4) + 0.45), width=width * across)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    scales = [_scale(arrays if shared else [array], cmap) for array in arrays]
    for axes, array, name, scale in zip(panels, arrays, titles, scales, strict=False):
        drawn = axes.imshow(np.ma.masked_invalid(array), interpolation="nearest", **scale)
        axes.set(xticks=[], yticks=[], facecolor=GRID)
        axes.set_title(name, loc="center", fontsize=10)
        axes.grid(False)
        axes.spines[:].set(visible=True, color=FAINT, linewidth=0.5)
        if max(array.shape) <= 8:
            _write_cells(axes, array, "{:.2g}".format, min(10, 75 * width / 4 / array.shape[1]))
        if not shared:
            figure.colorbar(drawn, ax=axes, label=label, shrink=0.85).outline.set_visible(False)
    for axes in panels[len(arrays) :]:
        axes.set_axis_off()
    if shared:
        figure.colorbar(drawn, ax=list(panels), label=label, shrink=0.85).outline.set_visible(False)
    figure.set_label(f"Maps: {', '.join(titles)}")
    return figure


def _scale(arrays: Sequence[np.ndarray], cmap: str | None) -> dict[str, Any]:
    finite = np.concatenate([array[np.isfinite(array)] for array in arrays])
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    if cmap is None and low < 0:
        bound = max(-low, high)
        return {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}
    return {"cmap": cmap or "viridis", "vmin": low, "vmax": high}


def _write_cells(axes: "Axes", values: np.ndarray, form: Callable[[float], str], fontsize: float) -> None:
    """Write each finite number into its cell, in black or white, whichever the cell's colour lets one read."""
    image = axes.images[0]
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = image.to_rgba(value)
            light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
            colour = "black" if light else "white"
            axes.text(column, row, form(value), ha="center", va="center", fontsize=fontsize, color=colour)
