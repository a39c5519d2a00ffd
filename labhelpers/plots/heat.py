"""Arrays as colours: the confusion matrix, and any 2-D maps (kernels, logits, checkerboards)."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from labhelpers.data.voc import VOC_CLASSES
from labhelpers.plots.style import FAINT, GRID, WIDTH, new_figure, styled, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARES = {
    "target": (1, "% of the target's pixels\n(a row adds up to 100)"),
    "prediction": (0, "% of the predicted pixels\n(a column adds up to 100)"),
}


@styled
def confusion_heatmap(
    matrix: np.ndarray | torch.Tensor,
    names: Sequence[str] = VOC_CLASSES,
    normalise: str | None = "target",
    title: str | None = None,
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
    axes.set(
        xlabel="prediction", ylabel="target", xticks=range(len(names)), yticks=range(len(names)), title=title or ""
    )
    axes.set_xticklabels(columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(rows)
    _write_cells(axes, shown, lambda value: f"{value:,.0f}" if value >= 0.5 else "", 7.5 if size < 0.5 else 10)
    bar = figure.colorbar(drawn, ax=axes, label=label, shrink=0.8)
    bar.outline.set_visible(False)
    figure.set_label(f"{title or 'Confusion matrix'}, {len(names)} classes, {' '.join(label.split())}")
    return figure


@styled
def heat_images(
    images: Sequence[np.ndarray | torch.Tensor],
    titles: Sequence[str],
    cmap: str | None = None,
    label: str = "",
    shared: bool = False,
    title: str | None = None,
) -> "Figure":
    """Draw 2-D arrays as colours, up to five across, each with its colour bar; arrays up to 8 by 8 show their numbers.

    Args:
        images: (H, W) numbers each; NaN is grey.
        titles: one per array.
        cmap: a matplotlib colour map. None takes blue-white-red around zero for arrays with negative numbers,
            else viridis.
        label: what the numbers are, with the unit, at the colour bars.
        shared: one colour scale for all, with one colour bar, so that colours compare.
        title: written above the panels.
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
    figure = new_figure(down * (width * 0.78 * min(tall, 1.4) + 0.45) + (0.3 if title else 0), width=width * across)
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
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    figure.set_label(f"{title or 'Maps'}: {', '.join(titles)}")
    return figure


def _scale(arrays: Sequence[np.ndarray], cmap: str | None) -> dict:
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
