"""Dots: what a model gives against what it costs, scores of seeds, and predicted against true IoUs."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from labhelpers.plots.style import (
    FAINT,
    INK,
    SERIES_COLOURS,
    WIDTH,
    legend_below,
    logarithmic_ticks,
    new_figure,
    series_style,
    styled,
    to_array,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LARGEST = 1400  # points squared, the area of the largest dot
_FONT = 9
_GAPS = (3, 8, 14, 21, 30, 40)  # points between a dot and its name, nearest first; a thin line bridges the wider ones
_BINS = 20  # bars of a histogram from 0 to 1
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))  # (across, up)


@styled
def scatter(
    x: Sequence[float],
    y: Sequence[float],
    names: Sequence[str],
    sizes: Sequence[float],
    xlabel: str,
    ylabel: str,
    size_label: str,
    groups: Sequence[str] | None = None,
    front: Sequence[int] | None = None,
    errors: Sequence[float] | None = None,
    title: str | None = None,
    log_x: bool = False,
) -> "Figure":
    """Draw named dots, for example IoU against latency with an area proportional to the number of parameters.

    The mark in a dot's centre is where its numbers are; colour and mark tell the group. Names are put where they cover
    no dot and no other name, as far as there is room. Put the units into the labels: "latency (ms)".

    Args:
        x, y: (N,) numbers.
        names: (N,), written beside the dots.
        sizes: (N,) positive numbers; the area of a dot is proportional to its number.
        size_label: what the sizes are, above the legend that explains them: "parameters (M)".
        groups: (N,) names, such as the architecture; dots of one group share colour and mark.
        front: indices of the dots that a line connects: those that no other dot beats in both quantities.
        errors: (N,) half widths of vertical error bars, for example the spread over seeds; NaN for none.
        title: written above.
        log_x: a logarithmic horizontal axis, for models between a millisecond and a second.

    Raises:
        ValueError: not one value of each kind per name, no dots at all, x or y not finite, a size not above zero, or an
            x not above zero on a logarithmic axis.
    """
    xs, ys, areas = (to_array(values).astype(float) for values in (x, y, sizes))
    groups = [""] * len(names) if groups is None else groups
    spread = np.zeros(len(names)) if errors is None else np.nan_to_num(to_array(errors).astype(float))
    columns: dict[str, Any] = {"names": names, "x": xs, "y": ys, "sizes": areas, "groups": groups, "errors": spread}
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) != 1 or len(names) == 0:
        raise ValueError(f"scatter needs as many values of each kind as names, at least one; got {lengths}.")
    if not np.isfinite([xs, ys]).all():
        raise ValueError("scatter got x or y that is NaN or infinite: leave out the dots that have no place.")
    if log_x and not (xs > 0).all():
        raise ValueError(f"a logarithmic axis has no place for x = {xs.min():g}: it must be above zero.")
    if not (areas > 0).all():
        raise ValueError(f"scatter draws areas: sizes must be above zero, got {areas.min():g}.")

    figure = new_figure(4.6 + (0.3 if title else 0), width=WIDTH)
    axes = figure.subplots()
    largest, areas = areas.max(), _LARGEST * areas / areas.max()
    points = np.column_stack([xs, ys])
    path = points[sorted(front or [], key=lambda index: xs[index])]
    if front:
        axes.plot(*path.T, color=FAINT, linestyle=":", linewidth=1.5, label="Pareto front", zorder=1)
    if spread.any():
        axes.errorbar(xs, ys, yerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=3, zorder=2)
    for index, group in enumerate(dict.fromkeys(groups)):
        chosen = np.array([each == group for each in groups])
        look = {"color": series_style(index)["color"], "linewidths": 0}
        axes.scatter(xs[chosen], ys[chosen], areas[chosen], alpha=0.3, zorder=3, **look)
        axes.scatter(xs[chosen], ys[chosen], 28, marker=series_style(index)["marker"], label=group, zorder=4, **look)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title or "")
    if log_x:
        axes.set_xscale("log")
        logarithmic_ticks(axes.xaxis)
    axes.margins(0.14, 0.16)
    _legends(axes, size_label, largest)
    _place_names(figure, axes, points, names, np.sqrt(areas) / 2, path, spread)
    figure.set_label(
        f"{title or ylabel + ' against ' + xlabel}: "
        + ", ".join(f"{name} {b:.3g} at {a:.3g}" for name, a, b in zip(names, xs, ys, strict=True))
    )
    return figure


def _legends(axes: "Axes", size_label: str, largest: float) -> None:
    """Right of the axes: what the colours are, and below it what the areas are."""
    if axes.get_legend_handles_labels()[1]:
        axes.add_artist(axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False))
    examples = _round_examples(largest)
    look: dict[str, Any] = {"color": FAINT, "alpha": 0.4, "linewidths": 0}
    axes.legend(
        [axes.scatter([], [], _LARGEST * size / largest, **look) for size in examples],
        [f"{size:,g}" for size in examples],
        title=size_label,
        title_fontsize=_FONT,
        loc="lower left",
        bbox_to_anchor=(1.01, 0),
        frameon=False,
        labelspacing=2.3,
        handletextpad=1.2,
        borderpad=1,
        alignment="left",
    )


def _round_examples(largest: float) -> list[float]:
    """Three round numbers: 1, 2 or 5 times a power of ten, the first of them at most the largest size."""
    power = 10.0 ** math.floor(math.log10(largest))
    step = max(step for step in (1, 2, 5) if step * power <= largest)
    return [step * power, step * power / (2.5 if step == 5 else 2), step * power / 10]


def _place_names(
    figure: "Figure",
    axes: "Axes",
    points: np.ndarray,
    names: Sequence[str],
    radii: np.ndarray,
    path: np.ndarray,
    errors: np.ndarray,
) -> None:
    """Write each name beside its dot, crowded dots first, at the place that covers least.

    `points` and `path` (the front) are (N, 2) in the axes' units, `radii` in typographical points.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # now the axes have their size
    scale = figure.dpi / 72
    radii = radii * scale
    centres = axes.transData.transform(points)
    lines = [np.array([(x, y - e), (x, y + e)]) for (x, y), e in zip(points, errors, strict=True) if e > 0]
    lines += map(np.array, zip(path, path[1:], strict=False))
    obstacles = np.concatenate([_squares(centres, radii), *(_along(axes.transData.transform(ends)) for ends in lines)])
    frame = np.array([axes.get_window_extent().extents])
    taken = np.empty((0, 4))
    gaps, ways = map(np.array, zip(*product(_GAPS, _DIRECTIONS), strict=True))
    shorter = np.where(ways.all(1), math.sqrt(0.5), 1)  # as far from the dot on a diagonal
    distance = np.linalg.norm(centres[:, None] - centres, axis=-1)
    for index in np.argsort(distance.sum(1), kind="stable"):
        probe = axes.text(0, 0, names[index], fontsize=_FONT)
        size = np.array(probe.get_window_extent(renderer).size)
        probe.remove()
        reach = (radii[index] + gaps * scale) * shorter
        corners = centres[index] + ways * reach[:, None] + (ways - 1) / 2 * size
        places = np.concatenate([corners, corners + size], axis=1)
        outside = size.prod() - _covered(places, frame)
        best = int(np.argmin(10 * outside + 10 * _covered(places, taken) + _covered(places, obstacles)))
        line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        text = axes.annotate(
            names[index],
            points[index],
            xytext=(places[best][:2] - centres[index]) / scale,
            textcoords="offset points",
            fontsize=_FONT,
            ha="left",
            va="bottom",
            arrowprops={**line, "relpos": tuple((1 - ways[best]) / 2)} if gaps[best] > _GAPS[1] else None,
            zorder=5,
        )
        apart = places[best] + [-4, -4, 4, 4]  # so that each name is seen with its own dot
        taken = np.concatenate([taken, [apart]])
        text.set_in_layout(False)  # the axes must keep the size for which the names were placed


def _covered(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,): how many square pixels each of (N, 4) boxes shares with (M, 4) others, summed over these."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    return sides.clip(0).prod(-1).sum(1)


def _squares(centres: np.ndarray, halves: np.ndarray | float) -> np.ndarray:
    """(N, 2) centres -> (N, 4) boxes."""
    halves = np.broadcast_to(halves, len(centres))[:, None]
    return np.concatenate([centres - halves, centres + halves], axis=1)


def _along(ends: np.ndarray) -> np.ndarray:
    """Squares of 6 pixels along a line: what a name should leave free."""
    return _squares(np.linspace(ends[0], ends[1], 30), 3)


@styled
def seed_dots(scores: Mapping[str, Sequence[float]], xlabel: str) -> "Figure":
    """Draw the score of each seed as a dot, one row per variant, with the mean as a line and as a number.

    Args:
        scores: variant -> (N,) numbers, one per seed, from top to bottom; NaN is left out.
        xlabel: what was scored, with its unit.

    Raises:
        ValueError: no variants, or one without a number.
    """
    found = {name: to_array(values).astype(float) for name, values in scores.items()}
    empty = [name for name, values in found.items() if np.isnan(values).all()]
    if not found or empty:
        raise ValueError(f"seed_dots needs a score of each variant; none of {', '.join(empty) or 'any variant'}.")
    figure = new_figure(0.36 * len(found) + 1.0, width=8)
    axes = figure.subplots()
    means = {name: float(np.nanmean(values)) for name, values in found.items()}
    largest = max(map(abs, means.values()))
    digits = max(0, 2 - math.floor(math.log10(largest))) if largest else 0  # three of the largest, as many of each
    for row, (name, values) in enumerate(found.items()):
        axes.plot([means[name]] * 2, (row - 0.3, row + 0.3), color=INK, linewidth=1.8)
        look: dict[str, Any] = {"color": SERIES_COLOURS[0], "alpha": 0.6, "markersize": 7}
        axes.plot(values, np.full(len(values), row), "o", **look)
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": _FONT}
        axes.annotate(f"mean {means[name]:.{digits}f}", (1.01, row), **place)
    axes.set(yticks=range(len(found)), yticklabels=list(found), xlabel=xlabel, ylim=(len(found) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    written = ", ".join(f"{name} {mean:.{digits}f}" for name, mean in means.items())
    figure.set_label(f"{xlabel}, a dot for each seed; means: {written}")
    return figure


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
    figure = new_figure(6.2, width=5.4, below=0.3)
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
    legend_below(figure, upper.get_legend_handles_labels()[0], 2)
    edges = np.linspace(0, 1, _BINS + 1)
    lower.hist(predicted, edges, color=colour, alpha=0.35)
    lower.hist(true, edges, histtype="step", color=other, linewidth=1.5)
    lower.set(xlabel="predicted IoU (outline: true IoU)", ylabel="answers")
    figure.set_label(
        f"{title or 'Calibration'}: true against predicted IoU of {len(true)} answers, "
        f"Pearson {calibration.pearson:.2f}, expected calibration error {calibration.error:.3f}"
    )
    return figure
