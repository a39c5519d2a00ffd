"""What all figures share: fonts, colours, line styles, ticks, the legend below, and the stamp of a few steps."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from labhelpers.config import profile

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH = 10.0
"""Inches across, at `STYLE["figure.dpi"]`: the width of a notebook's output area."""

INK, FAINT, GRID = "#222222", "#767676", "#E3E3E3"

# Colours are spelled out, so that a student's own plt.style.use (a dark one, say) cannot leave white text on white.
STYLE: Any = {
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure everywhere
    "font.size": 10,
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.edgecolor": GRID,
    "legend.facecolor": "white",
    "figure.titlesize": 12,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}

# Okabe and Ito, "Color universal design" (2008), without the yellow that white paper swallows.
SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")  # 4 and 7 have no common factor: 28 series before a look comes back

STAMP = "a handful of steps: nothing is learned here"


def series_style(index: int) -> dict[str, Any]:
    """Keyword arguments for `ax.plot` of the series with this place in the fixed order."""
    return {
        "color": SERIES_COLOURS[index % len(SERIES_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": _DASHES[index % len(_DASHES)],
    }


def styled(make: Callable[..., "Figure"]) -> Callable[..., "Figure"]:
    """Decorate a function that makes a figure: it runs in the course's style, and the result is stamped if need be."""

    @functools.wraps(make)
    def wrapper(*args: Any, **kwargs: Any) -> "Figure":
        import matplotlib

        with matplotlib.rc_context(STYLE):
            figure = make(*args, **kwargs)
        stamp(figure)
        return figure

    return wrapper


def new_figure(
    height: float,
    *,
    width: float = WIDTH,
    below: float = 0.0,
    layout: Literal["constrained"] | None = "constrained",
) -> "Figure":
    """Make a figure of so many inches without pyplot, which would keep it alive until someone closes it.

    The layout leaves `below` inches at the lower edge to a legend.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    if below:
        engine: Any = figure.get_layout_engine()
        engine.set(rect=(0, below / height, 1, 1 - below / height))
    return figure


def legend_below(figure: "Figure", handles: Sequence["Artist"], columns: int, **options: Any) -> None:
    """Put a legend into the middle of a figure's lower edge; `options` are those of `figure.legend`."""
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=figure.transFigure,  # else it moves with the tight picture's edge, onto the stamp
        ncols=columns,
        frameon=False,
        **options,
    )


def integer_ticks(axis: "Axis", **options: Any) -> None:
    """Ticks at whole numbers only; `options` are those of `MaxNLocator`."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, **options))


def logarithmic_ticks(axis: "Axis") -> None:
    """Plain numbers at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def stamp(figure: "Figure") -> None:
    """In a profile that learns nothing, write that under the figure (once)."""
    if profile().learns or any(text.get_text() == STAMP for text in figure.texts):
        return
    # Below the lower edge, where it covers nothing: pictures are encoded with bbox_inches="tight", which takes it in.
    figure.text(1, -0.06 / figure.get_figheight(), STAMP, ha="right", va="top", fontsize=9, color="#B03A2E")


def to_array(values: Any) -> np.ndarray:
    """Turn a tensor on any device, or anything array-like, into a NumPy array."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
