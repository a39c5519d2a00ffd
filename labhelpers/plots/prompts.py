"""Prompts on pictures: clicks, box, the mask that answers them, and the true outline beside it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labhelpers.plots.grids import LEGEND_ROW, Sheet, draw_box, draw_tile, tallness, tile_width
from labhelpers.plots.maps import Array, blend, rgb
from labhelpers.plots.style import INK, legend_below, styled, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Foreground and background clicks differ in shape as well, so that nobody needs to see the colours.
_CLICKS: dict[str, tuple[int, dict[str, Any]]] = {
    "foreground": (1, {"marker": "o", "color": "#009E73"}),
    "background": (0, {"marker": "X", "color": "#D55E00"}),
}
_RIM: dict[str, Any] = {"markeredgecolor": "#FFFFFF", "markeredgewidth": 1.3, "linestyle": "none"}
# The mask: magenta as on the canvas, since photographs hardly have it, and a rim, since dark grounds darken the fill.
_MASK, _MASK_RGB, _MASK_ALPHA, _BOX, _TRUTH = "#D6278A", np.array([0xD6, 0x27, 0x8A]), 0.5, "#F0E442", "#FFFFFF"
_GAP, _TITLE = 0.08, 0.28  # inches between tiles, and for the title above one
_MAX_TILE = 4.0  # inches across


@styled
def prompt_grid(
    panels: Sequence[Mapping[str, Any]], titles: Sequence[str] | None = None, columns: int | None = None
) -> "Figure":
    """Draw pictures with a prompt and its answer side by side, with one legend.

    A circle is a foreground click, a cross a background click.

    Args:
        panels: for each a dict such as `{"image": photo, "mask": mask}`, with
            image: uint8 (3, H, W) or (H, W, 3).
            points: (N, 2), float pixels (x, y), (0, 0) the centre of the first pixel; what lies outside is not drawn.
            labels: (N,), 1 foreground, 0 background.
            box: (4,), x0, y0, x1, y1, the extreme pixel indices.
            mask: bool (H, W), painted over the picture, with a solid rim.
            truth: bool (H, W), drawn as a dashed outline.
        titles: one above each panel.
        columns: panels in a row; None puts up to four side by side.

    Raises:
        ValueError: no panels, another number of titles, points without labels, labels other than 0 and 1, or a mask of
            another type or size.
    """
    if not panels or (titles is not None and len(titles) != len(panels)):
        raise ValueError(f"prompt_grid needs panels, and a title for each; got {len(panels)} and titles {titles}.")
    columns = columns or min(4, len(panels))
    pictures = [rgb(panel["image"]) for panel in panels]
    width = tile_width(columns, gap=_GAP, most=_MAX_TILE)
    heights = [width * tallness(pictures[first : first + columns]) for first in range(0, len(panels), columns)]
    above = _TITLE if titles else 0.0
    sheet = Sheet(columns * (width + _GAP) - _GAP, sum(above + height + _GAP for height in heights) + LEGEND_ROW)
    handles: dict[str, Any] = {}
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        x, y = column * (width + _GAP), sum(above + height + _GAP for height in heights[:row]) + above
        handles |= _draw(sheet.tile(x, y, width, heights[row]), **panel)
        if titles:
            sheet.title(x + width / 2, y, titles[number])
    if handles:
        legend_below(sheet.figure, list(handles.values()), len(handles), borderpad=0.1, columnspacing=1.2)
    about = f"{len(panels)} picture{'s' * (len(panels) != 1)}" + (f" of {'; '.join(titles)}" if titles else "")
    sheet.figure.set_label(f"{about}, with {', '.join(handles) or 'no prompt'}")
    return sheet.figure


def _draw(
    axes: "Axes",
    image: Array,
    points: Array | None = None,
    labels: Array | None = None,
    box: Array | None = None,
    mask: Array | None = None,
    truth: Array | None = None,
) -> dict[str, Any]:
    """Draw one panel and return what a legend needs to know of it: name -> handle."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    picture = rgb(image)
    handles: dict[str, Any] = {}
    region = None if mask is None else _region(mask, "mask", picture.shape[:2])
    draw_tile(axes, picture if region is None else blend(picture, _MASK_RGB, region, _MASK_ALPHA), labels=False)
    if region is not None:
        handles["mask"] = Patch(facecolor=(_MASK, _MASK_ALPHA), edgecolor=_MASK, linewidth=1.8, label="mask")
        _outline(axes, region, _MASK, "solid")
    if truth is not None:
        _outline(axes, _region(truth, "truth", picture.shape[:2]), _TRUTH, "dashed")
        handles["truth"] = Patch(facecolor="none", edgecolor=INK, linestyle="--", label="true outline")
    if box is not None:
        draw_box(axes, to_array(box), _BOX, 1.8)
        handles["box"] = Patch(facecolor="none", edgecolor=_BOX, linewidth=1.8, label="box")
    if points is not None or labels is not None:
        xy, kind = _clicks(points, labels)
        for name, (label, look) in _CLICKS.items():
            if (kind == label).any():
                axes.plot(*xy[kind == label].T, **look, **_RIM, markersize=10, zorder=4)
                handles[name] = Line2D([], [], **look, **_RIM, markersize=8, label=f"{name} click")
    return handles


def _clicks(points: Array | None, labels: Array | None) -> tuple[np.ndarray, np.ndarray]:
    if points is None or labels is None:
        raise ValueError("points and labels belong together: give both or none.")
    xy, kind = to_array(points).reshape(-1, 2), to_array(labels).ravel()
    if len(xy) != len(kind) or not np.isin(kind, (0, 1)).all():
        raise ValueError(
            f"labels must be 1 (foreground) or 0 (background), one for each of {len(xy)} points, got {kind}."
        )
    return xy, kind


def _region(mask: Array, name: str, size: tuple[int, ...]) -> np.ndarray:
    array = to_array(mask)
    if array.dtype != bool or array.shape != size:
        raise ValueError(f"{name} must be bool of the picture's size {size}, got {array.dtype} {array.shape}.")
    return array


def _outline(axes: "Axes", region: np.ndarray, colour: str, dashes: str) -> None:
    if not region.any():
        return
    # With a frame of background around it, a region that touches the picture's edge is closed there too.
    framed = np.pad(region, 1).astype(float)
    x, y = np.arange(-1, region.shape[1] + 1), np.arange(-1, region.shape[0] + 1)
    # Two lines, black under colour: visible on any ground.
    axes.contour(x, y, framed, levels=[0.5], colors="black", linewidths=2.2)
    axes.contour(x, y, framed, levels=[0.5], colors=colour, linewidths=1.2, linestyles=dashes)
