"""Lines: training histories and how far they overfit, scores with their intervals, anything against anything else."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labhelpers.plots.style import (
    FAINT,
    GRID,
    INK,
    SERIES_COLOURS,
    WIDTH,
    integer_ticks,
    legend_below,
    logarithmic_ticks,
    new_figure,
    series_style,
    styled,
    to_array,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELS = {
    "loss": "training loss",
    "lr": "learning rate",
    "val_loss": "validation loss",
    "mean_iou": "validation mean IoU",
    "box_iou": "validation IoU, box",
    "click_iou": "validation IoU, one click",
}
_FEW_POINTS = 6
_MOST_TICKS = 10
_WIDE = 50  # a loss that spans such a factor is drawn on a logarithmic axis
_MANY_POINTS = 60  # beyond this a series is shown faint, with a running mean on top
_MOST_RUNS = 3  # side by side in a notebook's width
_THRESHOLDS = (0.85, 0.90)  # where NoC@85 and NoC@90 stop counting


@styled
def curves(histories: Mapping[str, Any], y: Sequence[str] = ("loss", "mean_iou")) -> "Figure":
    """Draw training histories against the optimizer step, one panel per quantity.

    A series of more than 60 points is drawn faint, with the mean of the last twentieth of them on top as a line. A loss
    that varies more than fifty-fold is on a logarithmic axis. Ticks stand at 3 to 10 evaluations.

    Args:
        histories: name -> rows (dicts), or an object with `.rows`, such as `History`. Rows without a quantity, or with
            None for it, are left out of its panel: validation scores stand in few rows.
        y: one quantity per panel.

    Raises:
        ValueError: no history has one of the quantities; the message lists those there are.
    """
    figure = new_figure(3.8)
    drawn = [[_columns(history, "step", quantity) for history in histories.values()] for quantity in y]
    evaluated = sorted(min(({float(step) for each in panel for step in each[0]} for panel in drawn), key=len))
    for axes, quantity, panel in zip(figure.subplots(1, len(y), squeeze=False)[0], y, drawn, strict=True):
        series = dict(zip(histories, panel, strict=True))
        values = np.concatenate([each[1] for each in series.values()])
        if not len(values):
            known = sorted({key for history in histories.values() for row in _rows(history) for key in row})
            raise ValueError(f"no history has {quantity!r} against 'step'; they have: {', '.join(known) or 'nothing'}.")
        for index, (name, (steps, of_run)) in enumerate(series.items()):
            if len(steps) > _MANY_POINTS:
                axes.plot(steps, of_run, color=series_style(index)["color"], linewidth=0.7, alpha=0.3)
                window = len(steps) // 20
                of_run = np.array([of_run[max(0, i - window + 1) : i + 1].mean() for i in range(len(steps))])
            if len(steps):
                _line(axes, index, name, steps, of_run)
        axes.set(xlabel="optimizer step", ylabel=_LABELS.get(quantity, quantity))
        if quantity.endswith("loss") and 0 < _WIDE * values.min() < values.max():  # one jump would flatten the rest
            axes.set(yscale="log", ylabel=f"{axes.get_ylabel()}, log scale")
            axes.yaxis.set_major_formatter("{x:g}")
        if len(evaluated) >= 3 and _MOST_TICKS * np.diff(evaluated).min() >= evaluated[-1]:
            axes.set_xticks(evaluated)
        else:
            integer_ticks(axes.xaxis)
        if quantity.endswith("iou"):
            axes.set_ylim(bottom=0)
        axes.legend()
    figure.set_label(f"Training: {', '.join(y)} against step for {', '.join(histories)}")
    return figure


@styled
def training_gap(histories: Mapping[str, Any], metrics: Sequence[str] = ("loss", "mean_iou")) -> "Figure":
    """Draw the training and the validation curve of each run, the area between them shaded: how much it overfits.

    One column per run, one row per metric; axes are shared, so that runs compare and an early stop shows as a curve
    that ends. Above each panel stand the best validation value, which is also marked, and the gap at the last
    evaluation: by how much training is better than validation (negative where it is worse).

    Args:
        histories: one to three runs, name -> rows (dicts) or an object with `.rows`, such as `History`. Evaluations of
            a run of `Recipe(score_train=n)` have a value for both curves: `train_loss` and `val_loss` for "loss",
            `train_mean_iou` and `mean_iou` for "mean_iou", and so on.
        metrics: one per row: "loss" (smaller is better, on a logarithmic axis) or scores (larger is better).

    Raises:
        ValueError: there are no runs or more than three, or a run has no evaluation with both values.
    """
    if not 1 <= len(histories) <= _MOST_RUNS:
        raise ValueError(f"training_gap draws 1 to {_MOST_RUNS} runs side by side, got {len(histories)}.")
    pairs = [[_pair(name, history, metric) for name, history in histories.items()] for metric in metrics]
    columns = len(histories)
    figure = new_figure(2.5 * len(metrics) + 0.7, width=min(WIDTH, 3.7 * columns + 1), below=0.3)
    panels = figure.subplots(len(metrics), columns, sharex=True, sharey="row", squeeze=False)
    summary, handles = [], []
    for row, metric in enumerate(metrics):
        sign = -1 if metric == "loss" else 1
        for axes, name, (steps, training, validation) in zip(panels[row], histories, pairs[row], strict=True):
            best = int((sign * validation).argmax())
            handles = _draw_gap(axes, steps, training, validation, best)
            gap = sign * (training[-1] - validation[-1])
            numbers = f"best {validation[best]:.3f} at step {steps[best]:.0f}, final gap {gap:.3f}"
            axes.set_title(f"{name}\n{numbers}" if row == 0 else numbers, fontsize=9.5)
            summary.append(f"{name}: {metric} {numbers}")
        if metric == "loss":  # falls by factors, and a single jump would flatten all the rest
            panels[row][0].set(ylabel="loss, log scale", yscale="log")
            logarithmic_ticks(panels[row][0].yaxis)
        else:
            panels[row][0].set(ylabel=metric.replace("_", " ").replace("iou", "IoU"))
            panels[row][0].set_ylim(bottom=0)  # last: from here on the shared axis no longer follows the curves
    for axes in panels[-1]:
        axes.set_xlabel("optimizer step")
        integer_ticks(axes.xaxis, nbins=5)
    legend_below(figure, handles, len(handles))
    figure.set_label("Training and validation; " + "; ".join(summary))
    return figure


def _pair(name: str, history: Any, metric: str) -> np.ndarray:
    """Steps and both values, (3, N), of the evaluations that have both."""
    training, validation = f"train_{metric}", "val_loss" if metric == "loss" else metric
    found = _columns(history, "step", training, validation)
    if not found.size:
        known = sorted({key for row in _rows(history) for key in row})
        raise ValueError(
            f"{name!r} has no evaluation with both {training!r} and {validation!r}; it has: "
            f"{', '.join(known) or 'nothing'}. Recipe(score_train=10) scores ten training images at each evaluation."
        )
    return found


def _draw_gap(
    axes: "Axes", steps: np.ndarray, training: np.ndarray, validation: np.ndarray, best: int
) -> list["Artist"]:
    """Draw one panel; returns what its legend shows."""
    blue, orange = SERIES_COLOURS[:2]
    every = max(1, len(steps) // 8)
    area = axes.fill_between(steps, training, validation, color=orange, alpha=0.18, linewidth=0, label="gap")
    (first,) = axes.plot(steps, training, color=blue, marker="o", markevery=every, label="training")
    (second,) = axes.plot(
        steps, validation, color=orange, marker="s", markevery=every, linestyle="--", label="validation"
    )
    axes.axvline(steps[best], color=FAINT, linestyle=":", linewidth=1.2, zorder=1)
    star: dict[str, Any] = {"color": INK, "marker": "*", "markersize": 12, "markeredgecolor": "white", "linestyle": ":"}
    (mark,) = axes.plot(steps[best], validation[best], **star, label="best validation")
    axes.grid(color=GRID)
    return [first, second, area, mark]


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
    figure, axes = _one_panel({name: (to_array(x), to_array(values)) for name, values in series.items()})
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title or "", yscale="log" if log_y else "linear")
    if len(x) <= _FEW_POINTS:
        axes.set_xticks(to_array(x))  # what was measured, and nothing in between
    figure.set_label(f"{title + ': ' if title else ''}{ylabel} against {xlabel} for {', '.join(series)}")
    return figure


@styled
def trimap_curve(curves: Mapping[str, Mapping[int, float]], ylabel: str = "mean IoU in the band") -> "Figure":
    """Draw a score inside a band around the true edges against the band's width (Krähenbühl and Koltun, NIPS 2011).

    Args:
        curves: model -> {width in pixels: score}; models may have different widths.
    """
    series = {name: np.array(sorted(scores.items())).reshape(-1, 2).T for name, scores in curves.items()}
    figure, axes = _one_panel(series)
    axes.set(xlabel="width of the band around true edges (pixels)", ylabel=ylabel)
    integer_ticks(axes.xaxis)
    figure.set_label(f"Trimap curve: {ylabel} against the band's width for {', '.join(curves)}")
    return figure


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
    bands = {
        name: (np.arange(1, len(curve.mean) + 1), to_array(curve.mean), to_array(curve.band))
        for name, curve in curves.items()
    }
    about = f"{title or 'Clicks'}: mean IoU against the number of clicks"
    return _banded(bands, "clicks", about, title, _THRESHOLDS)


@styled
def interval_curves(x: Sequence[int], curves: Mapping[str, Sequence[Any]], xlabel: str) -> "Figure":
    """Draw mean IoUs against a number of something, each curve with the band of its 95 % interval.

    Args:
        x: (N,) whole numbers, such as the points of a prompt.
        curves: name -> N objects with `.value`, `.low` and `.high`, such as `Interval`.
        xlabel: what was counted.

    Raises:
        ValueError: no curves, or one of another length than `x`.
    """
    wrong = {name: len(intervals) for name, intervals in curves.items() if len(intervals) != len(x)}
    if not curves or wrong:
        raise ValueError(f"interval_curves needs curves of {len(x)} intervals, as many as x has numbers; got {wrong}.")
    bands = {}
    for name, intervals in curves.items():
        low, value, high = np.array([[each.low, each.value, each.high] for each in intervals]).T
        bands[name] = to_array(x), value, np.stack([low, high])
    return _banded(bands, xlabel, f"Mean IoU: mean IoU against {xlabel}")


def _banded(
    bands: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    xlabel: str,
    about: str,
    title: str | None = None,
    thresholds: Sequence[float] = (),
) -> "Figure":
    """Name -> x (N,), mean (N,) and band (2, N), as curves; `about` begins the figure's description."""
    figure = new_figure(4.0, width=7)
    axes = figure.subplots()
    for threshold in thresholds:
        axes.axhline(threshold, color=FAINT, linewidth=0.9, linestyle=":")
        text: dict[str, Any] = {"ha": "left", "va": "center", "fontsize": 8, "color": FAINT}
        axes.text(1.01, threshold, f"IoU {threshold:.2f}", transform=axes.get_yaxis_transform(), **text)
    for index, (name, (x, mean, band)) in enumerate(bands.items()):
        style = series_style(index)
        axes.fill_between(x, *band, color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(x, mean, label=name, **style)
    axes.set(xlabel=xlabel, ylabel="mean IoU, with its 95 % interval", title=title or "", ylim=(0, 1.02))
    integer_ticks(axes.xaxis)
    axes.legend(loc="lower right")
    ends = ", ".join(f"{name} from {mean[0]:.2f} to {mean[-1]:.2f}" for name, (_, mean, _) in bands.items())
    figure.set_label(f"{about}, {ends}")
    return figure


def _one_panel(series: Mapping[str, Any]) -> tuple["Figure", "Axes"]:
    """Name -> x and y, (N,) each, with a legend."""
    figure = new_figure(3.8, width=7)
    axes = figure.subplots()
    for index, (name, (x, y)) in enumerate(series.items()):
        _line(axes, index, name, x, y)
    axes.legend()
    return figure, axes


def _line(axes: "Axes", index: int, name: str, x: np.ndarray, y: np.ndarray) -> None:
    # On dense series a dozen markers, shifted from series to series so that they do not cover each other.
    every = max(1, len(x) // 12)
    first = index * every // 4 % every if every > 1 else 0
    axes.plot(x, y, label=name, markevery=(first, every), **series_style(index))


def _rows(history: Any) -> list[Mapping[str, Any]]:
    return list(getattr(history, "rows", history))


def _columns(history: Any, *keys: str) -> np.ndarray:
    """(len(keys), N) numbers: those of the rows that have all of these quantities."""
    found = [[row.get(key) for key in keys] for row in _rows(history)]
    return np.array([values for values in found if None not in values], dtype=float).reshape(-1, len(keys)).T
