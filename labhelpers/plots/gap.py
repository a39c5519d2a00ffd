"""The gap between training and validation: how overfitting looks in the curves of a run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labhelpers.plots.style import FAINT, GRID, INK, SERIES_COLOURS, WIDTH, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEGEND = 0.3  # inches
_MOST_RUNS = 3  # side by side in a notebook's width


@styled
def training_gap(
    histories: Mapping[str, Any], metrics: Sequence[str] = ("loss", "mean_iou"), title: str | None = None
) -> "Figure":
    """Draw the training and the validation curve of each run, the area between them shaded: how much it overfits.

    One column per run, one row per metric; axes are shared, so that runs compare and an early stop shows as a curve
    that ends. Above each panel stand the best validation value, which is also marked, and the gap at the last
    evaluation: by how much training is better than validation (negative where it is worse).

    Args:
        histories: one to three runs, name -> rows (dicts) or an object with `.rows`, such as `History`. Evaluations of
            a run of `Recipe(score_train=n)` have a value for both curves: `train_loss` and `val_loss` for "loss",
            `train_mean_iou` and `mean_iou` for "mean_iou", and so on.
        metrics: one per row: "loss" (smaller is better, on a logarithmic axis) or scores (larger is better).
        title: written above the panels.

    Raises:
        ValueError: there are no runs or more than three, or a run has no evaluation with both values.
    """
    if not 1 <= len(histories) <= _MOST_RUNS:
        raise ValueError(f"training_gap draws 1 to {_MOST_RUNS} runs side by side, got {len(histories)}.")
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    pairs = [[_pair(name, history, metric) for name, history in histories.items()] for metric in metrics]
    columns = len(histories)
    width = min(WIDTH, 3.7 * columns + 1)
    height = 2.5 * len(metrics) + 0.7 + (0.3 if title else 0)
    figure = new_figure(height, width=width)
    below = _LEGEND / height
    figure.get_layout_engine().set(rect=(0, below, 1, 1 - below))
    panels = figure.subplots(len(metrics), columns, sharex=True, sharey="row", squeeze=False)
    summary = []
    for row, metric in enumerate(metrics):
        for axes, name, (steps, training, validation) in zip(panels[row], histories, pairs[row], strict=True):
            handles = _draw(axes, steps, training, validation, metric)
            best = _best(validation, metric)
            gap = (training[-1] - validation[-1]) * _sign(metric)
            numbers = f"best {validation[best]:.3f} at step {steps[best]}, final gap {gap:.3f}"
            axes.set_title(f"{name}\n{numbers}" if row == 0 else numbers, fontsize=9.5)
            summary.append(f"{name}: {metric} {numbers}")
        panels[row][0].set_ylabel(_label(metric))
        if metric == "loss":  # falls by factors, and a single jump would flatten all the rest
            panels[row][0].set(yscale="log")
            panels[row][0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panels[row][0].yaxis.set_major_formatter("{x:g}")
            panels[row][0].yaxis.set_minor_formatter(NullFormatter())
        else:
            panels[row][0].set_ylim(bottom=0)  # last: from here on the shared axis no longer follows the curves
    for axes in panels[-1]:
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=figure.transFigure,  # else it moves with the tight picture's edge, onto the stamp
        ncols=len(handles),
        frameon=False,
    )
    figure.set_label(f"{title or 'Training and validation'}; " + "; ".join(summary))
    return figure


def _pair(name: str, history: Any, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps and both values of the evaluations that have both."""
    rows = list(getattr(history, "rows", history))
    training, validation = f"train_{metric}", "val_loss" if metric == "loss" else metric
    found = [[row.get(key) for key in ("step", training, validation)] for row in rows]
    found = [values for values in found if None not in values]
    if not found:
        known = sorted({key for row in rows for key in row})
        raise ValueError(
            f"{name!r} has no evaluation with both {training!r} and {validation!r}; it has: "
            f"{', '.join(known) or 'nothing'}. Recipe(score_train=10) scores ten training images at each evaluation."
        )
    steps, first, second = np.array(found, dtype=float).T
    return steps.astype(int), first, second


def _draw(axes: "Axes", steps: np.ndarray, training: np.ndarray, validation: np.ndarray, metric: str) -> list:
    """Draw one panel; returns what its legend shows."""
    blue, orange = SERIES_COLOURS[:2]
    every = max(1, len(steps) // 8)
    area = axes.fill_between(steps, training, validation, color=orange, alpha=0.18, linewidth=0, label="gap")
    (first,) = axes.plot(steps, training, color=blue, marker="o", markevery=every, label="training")
    (second,) = axes.plot(
        steps, validation, color=orange, marker="s", markevery=every, linestyle="--", label="validation"
    )
    best = _best(validation, metric)
    axes.axvline(steps[best], color=FAINT, linestyle=":", linewidth=1.2, zorder=1)
    (mark,) = axes.plot(
        steps[best],
        validation[best],
        color=INK,
        marker="*",
        markersize=12,
        markeredgecolor="white",
        linestyle=":",
        label="best validation",
    )
    axes.grid(color=GRID)
    return [first, second, area, mark]


def _best(values: np.ndarray, metric: str) -> int:
    return int((values * _sign(metric)).argmax())


def _sign(metric: str) -> int:
    return -1 if metric == "loss" else 1


def _label(metric: str) -> str:
    return "loss, log scale" if metric == "loss" else metric.replace("_", " ").replace("iou", "IoU")
