"""Bars: how often classes occur, how well each is segmented, and numbers beside each other."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labhelpers.data.base import decode_target
from labhelpers.data.voc import VOC_CLASSES
from labhelpers.plots.style import FAINT, SERIES_COLOURS, WIDTH, new_figure, styled, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_HATCHES = ("", "////", "....", "xxxx", "----")  # tell models apart where colours fail


@styled
def class_distribution(stats: Any, names: Sequence[str] = VOC_CLASSES, title: str | None = None) -> "Figure":
    """Draw each class's share of the labelled pixels (log axis) and the number of images it occurs in, largest first.

    Args:
        stats: has `pixels` (K,) and `images` (K,), counts per class; void is not among them.
        names: K class names.
        title: written above the panels.

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
    _heading(figure, title)
    figure.set_label(
        f"{title or 'Class distribution'}: "
        + ", ".join(f"{names[label]} {share[label]:.2g} % of pixels in {images[label]} images" for label in order)
    )
    return figure


@styled
def class_bars(
    scores: Mapping[str, Sequence[float]],
    names: Sequence[str] = VOC_CLASSES,
    ylabel: str = "IoU",
    title: str | None = None,
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
    figure = new_figure(4.0 + (0.3 if title else 0), width=width)
    axes = figure.subplots()
    thick = 0.84 / len(scores)
    for index, (model, values) in enumerate(zip(scores, table, strict=True)):
        defined = ~np.isnan(values)
        mean = f"{values[defined].mean():.3f}" if defined.any() else "undefined"
        place = np.arange(len(values)) + (index - (len(scores) - 1) / 2) * thick
        axes.bar(
            place[defined],
            values[defined],
            thick,
            label=f"{model} (mean {mean})",
            color=SERIES_COLOURS[index % len(SERIES_COLOURS)],
            edgecolor="white",
            linewidth=0.5,
            hatch=_HATCHES[index % len(_HATCHES)],
        )
        for x in place[~defined & ~np.isnan(table).all(axis=0)]:  # as small as its bar is thin
            _absent(axes, x, min(8, 72 * 0.9 * thick * width / len(names)))
    for x in np.flatnonzero(np.isnan(table).all(axis=0)):
        _absent(axes, x, 8)
    axes.set(ylabel=ylabel, ylim=(0, 1), xlim=(-0.6, len(names) - 0.4), xticks=range(len(names)))
    if len(names) > 5:
        axes.set_xticklabels(names, rotation=40, ha="right", rotation_mode="anchor")
    else:
        axes.set_xticklabels(names)
    axes.grid(axis="x", visible=False)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1),
        ncols=math.ceil(len(scores) / math.ceil(len(scores) / 4)),
        frameon=False,
    )
    _heading(figure, title)
    figure.set_label(f"{title or ylabel + ' per class'} for {', '.join(scores)}")
    return figure


@styled
def bars(
    labels: Sequence[str],
    values: Sequence[float],
    xlabel: str,
    errors: Sequence[float] | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw one horizontal bar per label, its value at the end. Put the unit into `xlabel`: "throughput (images/s)".

    Args:
        labels: (N,) names.
        values: (N,) numbers; NaN is marked "undefined".
        errors: (N,) half widths or (2, N) distances below and above, for example of a bootstrap interval.
    """
    values = to_array(values).astype(float)
    _same_length(labels, values, "bars")
    figure = new_figure(0.36 * len(values) + 1.0 + (0.3 if title else 0), width=8)
    axes = figure.subplots()
    texts = ["undefined" if np.isnan(value) else _number(value) for value in values]
    ends = np.nan_to_num(values)
    if errors is not None:
        errors = to_array(errors)
        axes.errorbar(ends, range(len(ends)), xerr=errors, fmt="none", ecolor="black", elinewidth=1.3, capsize=4)
        ends = ends + np.nan_to_num(errors[-1] if errors.ndim == 2 else errors)
    _horizontal(axes, np.nan_to_num(values), texts, SERIES_COLOURS[0], ends)
    axes.set(yticks=range(len(labels)), yticklabels=labels, xlabel=xlabel, xlim=(0, max(ends.max(), 1e-9) * 1.15))
    axes.invert_yaxis()
    _heading(figure, title)
    summary = ", ".join(f"{label} {text}" for label, text in zip(labels, texts, strict=True))
    figure.set_label(f"{title or xlabel}: {summary}")
    return figure


def _horizontal(
    axes: "Axes", values: np.ndarray, texts: Sequence[str], colours: Any, ends: np.ndarray | None = None
) -> None:
    """Draw horizontal bars with a text at the end of each, or at `ends`, where error bars end."""
    axes.barh(range(len(values)), values, height=0.72, color=colours, edgecolor=FAINT, linewidth=0.5)
    for row, (end, text) in enumerate(zip(values if ends is None else ends, texts, strict=True)):
        anchor = max(end, axes.get_xlim()[0])  # on a log axis, zero has no place of its own
        axes.annotate(text, (anchor, row), (5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_ylim(-0.6, len(values) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def _absent(axes: "Axes", x: float, fontsize: float) -> None:
    axes.text(x, 0.01, "absent", rotation=90, ha="center", va="bottom", fontsize=fontsize, color=FAINT)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _percent(value: float) -> str:
    if value == 0:
        return "none"
    return f"{value:.1f} %" if value >= 10 else f"{value:#.2g} %"


def _heading(figure: "Figure", title: str | None) -> None:
    if title:
        figure.suptitle(title, x=0.01, ha="left")


def _same_length(names: Sequence[str], values: np.ndarray, function: str) -> None:
    if len(names) != len(values):
        raise ValueError(f"{function} got {len(values)} values but {len(names)} names: give one name per value.")
