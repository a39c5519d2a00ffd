"""Scores of prompted masks: IoU against the number of clicks or points, and predicted against true IoU."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labhelpers.plots.style import FAINT, SERIES_COLOURS, new_figure, series_style, styled, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_THRESHOLDS = (0.85, 0.90)  # where NoC@85 and NoC@90 stop counting
_BINS = 20  # bars of a histogram from 0 to 1


@styled
def click_curves(curves: Mapping[str, Any], title: str | None = None) -> "Figure":
    """Draw the mean IoU after 1, 2, ... clicks, each curve with the band of its 95 % interval.

    Args:
        curves: name -> an object with `.mean` (C,) and `.band` (2, C), such as a `ClickCurve`; C may differ.
        title: written above.

    Raises:
        ValueError: no curves.
    """
    if not curves:
        raise ValueError("click_curves needs at least one curve: {'Mini-SAM': click_curve(predictor, objects)}.")
    figure = new_figure(4.0, width=7)
    axes = figure.subplots()
    for threshold in _THRESHOLDS:
        axes.axhline(threshold, color=FAINT, linewidth=0.9, linestyle=":")
        text = {"ha": "left", "va": "center", "fontsize": 8, "color": FAINT}
        axes.text(1.01, threshold, f"IoU {threshold:.2f}", transform=axes.get_yaxis_transform(), **text)
    for index, (name, curve) in enumerate(curves.items()):
        mean = to_array(curve.mean)
        _banded(axes, index, name, np.arange(1, len(mean) + 1), mean, to_array(curve.band))
    _finish(axes, "clicks", title)
    ends = ", ".join(f"{name} from {curve.mean[0]:.2f} to {curve.mean[-1]:.2f}" for name, curve in curves.items())
    figure.set_label(f"{title or 'Clicks'}: mean IoU against the number of clicks, {ends}")
    return figure


@styled
def interval_curves(
    x: Sequence[int], curves: Mapping[str, Sequence[Any]], xlabel: str, title: str | None = None
) -> "Figure":
    """Draw mean IoUs against a number of something, each curve with the band of its 95 % interval.

    Args:
        x: (N,) whole numbers, such as the points of a prompt.
        curves: name -> N objects with `.value`, `.low` and `.high`, such as `Interval`.
        xlabel: what was counted.
        title: written above.

    Raises:
        ValueError: no curves, or one of another length than `x`.
    """
    wrong = {name: len(intervals) for name, intervals in curves.items() if len(intervals) != len(x)}
    if not curves or wrong:
        raise ValueError(f"interval_curves needs curves of {len(x)} intervals, as many as x has numbers; got {wrong}.")
    figure = new_figure(4.0, width=7)
    axes = figure.subplots()
    for index, (name, intervals) in enumerate(curves.items()):
        band = np.array([[each.low, each.high] for each in intervals]).T
        _banded(axes, index, name, to_array(x), np.array([each.value for each in intervals]), band)
    _finish(axes, xlabel, title)
    ends = ", ".join(f"{name} from {each[0].value:.2f} to {each[-1].value:.2f}" for name, each in curves.items())
    figure.set_label(f"{title or 'Mean IoU'}: mean IoU against {xlabel}, {ends}")
    return figure


def _banded(axes: "Axes", index: int, name: str, x: np.ndarray, mean: np.ndarray, band: np.ndarray) -> None:
    style = series_style(index)
    axes.fill_between(x, *band, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, mean, label=name, **style)


def _finish(axes: "Axes", xlabel: str, title: str | None) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel=xlabel, ylabel="mean IoU, with its 95 % interval", title=title or "", ylim=(0, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="lower right")


@styled
def calibration_plot(calibration: Any, title: str | None = None) -> "Figure":
    """Draw true against predicted IoU: every answer faint, the means of the bins on top, the diagonal; counts below.

    Below the diagonal a network is too sure of itself.

    Args:
        calibration: an object with `.predicted` and `.true` (N,), `.bin_predicted` and `.bin_true` (bins,), and the
            numbers `.pearson`, `.spearman` and `.error`, such as a `Calibration`.
        title: written above.
    """
    predicted, true = to_array(calibration.predicted), to_array(calibration.true)
    figure = new_figure(6.2, width=5.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    colour, other = SERIES_COLOURS[:2]
    upper.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--", label="as good as predicted")
    upper.scatter(predicted, true, s=9, color=colour, alpha=min(1.0, max(0.08, 40 / len(true))), linewidths=0)
    count = len(calibration.bin_predicted)
    label = f"mean of {count} bins of equal count"
    upper.plot(calibration.bin_predicted, calibration.bin_true, color=other, marker="o", markersize=6, label=label)
    upper.set(ylabel="true IoU", title=title or "", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    # The numbers and the legend stand outside: an answer may lie anywhere inside.
    numbers = f"Pearson {calibration.pearson:.2f}, Spearman {calibration.spearman:.2f}, ECE {calibration.error:.3f}"
    upper.set_title(numbers, loc="right", fontsize=9)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    edges = np.linspace(0, 1, _BINS + 1)
    lower.hist(predicted, edges, color=colour, alpha=0.35)
    lower.hist(true, edges, histtype="step", color=other, linewidth=1.5)
    lower.set(xlabel="predicted IoU (outline: true IoU)", ylabel="answers")
    figure.set_label(
        f"{title or 'Calibration'}: true against predicted IoU of {len(true)} answers, "
        f"Pearson {calibration.pearson:.2f}, expected calibration error {calibration.error:.3f}"
    )
    return figure
