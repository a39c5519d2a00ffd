"""What a model gives against what it costs: dots whose area is a third quantity, with names beside them."""

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from labhelpers.plots.style import FAINT, INK, WIDTH, new_figure, series_style, styled, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure

_LARGEST = 1400  # points squared, the area of the largest dot
_FONT = 9
_GAPS = (3, 8, 14, 21, 30, 40)  # points between a dot and its name, nearest first; a thin line bridges the wider ones
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
    x, y, sizes = (to_array(values).astype(float) for values in (x, y, sizes))
    groups = [""] * len(names) if groups is None else groups
    errors = np.zeros(len(names)) if errors is None else np.nan_to_num(to_array(errors).astype(float))
    columns = {"names": names, "x": x, "y": y, "sizes": sizes, "groups": groups, "errors": errors}
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) != 1 or len(names) == 0:
        raise ValueError(f"scatter needs as many values of each kind as names, at least one; got {lengths}.")
    if not np.isfinite([x, y]).all():
        raise ValueError("scatter got x or y that is NaN or infinite: leave out the dots that have no place.")
    if log_x and not (x > 0).all():
        raise ValueError(f"a logarithmic axis has no place for x = {x.min():g}: it must be above zero.")
    if not (sizes > 0).all():
        raise ValueError(f"scatter draws areas: sizes must be above zero, got {sizes.min():g}.")

    figure = new_figure(4.6 + (0.3 if title else 0), width=WIDTH)
    axes = figure.subplots()
    areas = _LARGEST * sizes / sizes.max()
    kinds = list(dict.fromkeys(groups))
    points = np.column_stack([x, y])
    path = points[sorted(front or [], key=lambda index: x[index])]
    if front:
        axes.plot(*path.T, color=FAINT, linestyle=":", linewidth=1.5, label="Pareto front", zorder=1)
    if errors.any():
        axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=INK, elinewidth=1, capsize=3, zorder=2)
    for index, kind in enumerate(kinds):
        chosen = np.array([group == kind for group in groups])
        style = series_style(index)
        axes.scatter(*points[chosen].T, areas[chosen], color=style["color"], alpha=0.3, linewidths=0, zorder=3)
        axes.scatter(
            *points[chosen].T, 28, color=style["color"], marker=style["marker"], label=kind, linewidths=0, zorder=4
        )
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title or "")
    if log_x:
        _logarithmic(axes)
    axes.margins(0.14, 0.16)
    _legends(axes, size_label, sizes)
    _place_names(figure, axes, points, names, np.sqrt(areas) / 2, path, errors)
    figure.set_label(
        f"{title or ylabel + ' against ' + xlabel}: "
        + ", ".join(f"{name} {b:.3g} at {a:.3g}" for name, a, b in zip(names, x, y, strict=True))
    )
    return figure


def _logarithmic(axes: "Axes") -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legends(axes: "Axes", size_label: str, sizes: np.ndarray) -> None:
    """Right of the axes: what the colours are, and below it what the areas are."""
    if axes.get_legend_handles_labels()[1]:
        upper = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
        axes.add_artist(upper)
    examples = _round_examples(sizes.max())
    dots = [
        axes.scatter([], [], _LARGEST * size / sizes.max(), color=FAINT, alpha=0.4, linewidths=0) for size in examples
    ]
    axes.legend(
        dots,
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
    lines = [[(x, y - error), (x, y + error)] for (x, y), error in zip(points, errors, strict=True) if error > 0]
    lines += zip(path, path[1:], strict=False)
    obstacles = np.concatenate([_squares(centres, radii), *(_along(axes.transData.transform(ends)) for ends in lines)])
    frame = np.array([axes.get_window_extent().extents])
    taken = np.empty((0, 4))
    distance = np.linalg.norm(centres[:, None] - centres, axis=-1)
    for index in np.argsort(distance.sum(1), kind="stable"):
        width, height = _text_size(axes, names[index], renderer)
        ways = list(product(_GAPS, _DIRECTIONS))
        places = np.array(
            [_place(centres[index], radii[index] + gap * scale, width, height, *way) for gap, way in ways]
        )
        outside = width * height - _covered(places, frame)
        best = int(np.argmin(10 * outside + 10 * _covered(places, taken) + _covered(places, obstacles)))
        gap, (across, up) = ways[best]
        line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
        text = axes.annotate(
            names[index],
            points[index],
            xytext=(places[best][:2] - centres[index]) / scale,
            textcoords="offset points",
            fontsize=_FONT,
            ha="left",
            va="bottom",
            arrowprops={**line, "relpos": ((1 - across) / 2, (1 - up) / 2)} if gap > _GAPS[1] else None,
            zorder=5,
        )
        apart = places[best] + [-4, -4, 4, 4]  # so that each name is seen with its own dot
        taken = np.concatenate([taken, [apart]])
        text.set_in_layout(False)  # the axes must keep the size for which the names were placed


def _text_size(axes: "Axes", name: str, renderer: "RendererAgg") -> tuple[float, float]:
    """Width and height in pixels of a name."""
    text = axes.text(0, 0, name, fontsize=_FONT)
    box = text.get_window_extent(renderer)
    text.remove()
    return box.width, box.height


def _place(centre: np.ndarray, reach: float, width: float, height: float, across: int, up: int) -> np.ndarray:
    """The box (x0, y0, x1, y1) of a text in this direction from a dot."""
    if across and up:
        reach *= math.sqrt(0.5)
    corner = centre + np.array([across, up]) * reach + np.array([across - 1, up - 1]) / 2 * [width, height]
    return np.concatenate([corner, corner + [width, height]])


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
    return _squares(np.linspace(*ends, 30), 3)
