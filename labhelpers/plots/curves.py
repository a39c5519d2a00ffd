"""Lines: training histories, the trimap curve, and anything else against something."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labhelpers.plots.style import new_figure, series_style, styled, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_AXIS_LABELS = {
    "step": "optimizer step",
    "loss": "training loss",
    "lr": "learning rate",
    "val_loss": "validation loss",
    "mean_iou": "validation mean IoU",
    "box_iou": "validation IoU, box",
    "click_iou": "validation IoU, one click",
}
_FEW_POINTS = 6
_WIDE = 50  # a loss that spans such a factor is drawn on a logarithmic axis
_MANY_POINTS = 60  # beyond this a series is shown faint, with a running mean on top


@styled
def curves(
    histories: Mapping[str, Any],
    x: str = "step",
    y: Sequence[str] = ("loss", "mean_iou"),
    title: str | None = None,
) -> "Figure":
    """Draw training histories side by side, one panel per quantity.

    A series of more than 60 points is drawn faint, with the mean of the last twentieth of them on top as a line. A loss
    that varies more than fifty-fold is on a logarithmic axis.

    Args:
        histories: name -> rows (dicts), or an object with `.rows`, such as `History`. Rows without a quantity, or with
            None for it, are left out of its panel: validation scores stand in few rows.
        x: the quantity on the horizontal axis.
        y: one quantity per panel.
        title: written above the panels.

    Raises:
        ValueError: no history has one of the quantities; the message lists those there are.
    """
    from matplotlib.ticker import MaxNLocator

    rows = {name: list(getattr(history, "rows", history)) for name, history in histories.items()}
    figure = new_figure(3.8 + (0.3 if title else 0))
    panels = figure.subplots(1, len(y), squeeze=False)[0]
    for axes, quantity in zip(panels, y, strict=True):
        drawn = [_history_line(axes, index, name, *_column(rows[name], x, quantity)) for index, name in enumerate(rows)]
        if not any(drawn):
            known = sorted({key for history in rows.values() for row in history for key in row})
            raise ValueError(f"no history has {quantity!r} against {x!r}; they have: {', '.join(known) or 'nothing'}.")
        axes.set(xlabel=_AXIS_LABELS.get(x, x), ylabel=_AXIS_LABELS.get(quantity, quantity))
        values = np.concatenate([_column(of_run, x, quantity)[1] for of_run in rows.values()])
        if quantity.endswith("loss") and 0 < _WIDE * values.min() < values.max():  # one jump would flatten the rest
            axes.set(yscale="log", ylabel=f"{axes.get_ylabel()}, log scale")
            axes.yaxis.set_major_formatter("{x:g}")
        if x == "step":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if quantity.endswith("iou"):
            axes.set_ylim(bottom=0)
        axes.legend()
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    figure.set_label(f"{title or 'Training'}: {', '.join(y)} against {x} for {', '.join(rows)}")
    return figure


@styled
def lines(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    log_y: bool = False,
) -> "Figure":
    """Draw series against a common x. Put the units into the labels: "throughput (images/s)".

    Args:
        x: (N,) numbers.
        series: name -> (N,) numbers; NaN leaves a gap.
        log_y: a logarithmic vertical axis, on which zeros and negative numbers leave gaps too.
    """
    figure = new_figure(3.8, width=7)
    axes = figure.subplots()
    for index, (name, values) in enumerate(series.items()):
        _line(axes, index, name, to_array(x), to_array(values))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title or "", yscale="log" if log_y else "linear")
    if len(x) <= _FEW_POINTS:
        axes.set_xticks(to_array(x))  # what was measured, and nothing in between
    axes.legend()
    figure.set_label(f"{title or ylabel}: {ylabel} against {xlabel} for {', '.join(series)}")
    return figure


@styled
def trimap_curve(
    curves: Mapping[str, Mapping[int, float]], ylabel: str = "mean IoU in the band", title: str | None = None
) -> "Figure":
    """Draw a score inside a band around the true edges against the band's width (Krähenbühl and Koltun, NIPS 2011).

    Args:
        curves: model -> {width in pixels: score}; models may have different widths.
    """
    figure = new_figure(3.8, width=7)
    axes = figure.subplots()
    for index, (name, scores) in enumerate(curves.items()):
        widths = sorted(scores)
        _line(axes, index, name, np.array(widths), np.array([scores[width] for width in widths]))
    axes.set(xlabel="width of the band around true edges (pixels)", ylabel=ylabel, title=title or "")
    axes.legend()
    figure.set_label(f"{title or 'Trimap curve'}: {ylabel} against the band's width for {', '.join(curves)}")
    return figure


def _column(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    found = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
    return np.array([float(row[x]) for row in found]), np.array([float(row[y]) for row in found])


def _history_line(axes: "Axes", index: int, name: str, x: np.ndarray, y: np.ndarray) -> bool:
    """Draw one series of a history; False where it has no points."""
    if len(x) > _MANY_POINTS:
        axes.plot(x, y, color=series_style(index)["color"], linewidth=0.7, alpha=0.3)
        window = len(y) // 20
        y = np.array([y[max(0, i - window + 1) : i + 1].mean() for i in range(len(y))])
    if len(x):
        _line(axes, index, name, x, y)
    return len(x) > 0


def _line(axes: "Axes", index: int, name: str, x: np.ndarray, y: np.ndarray) -> None:
    # On dense series a dozen markers, shifted from series to series so that they do not cover each other.
    every = max(1, len(x) // 12)
    axes.plot(
        x,
        y,
        label=name,
        markevery=(index * every // 4 % every if every > 1 else 0, every),
        **series_style(index),
    )
