"""Prompts on pictures: clicks, box, the mask that answers them, and the true outline beside it."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labhelpers.plots.images import LEGEND_ROW, Array, column_title, draw_tile, rgb, tile_axes
from labhelpers.plots.style import INK, WIDTH, new_figure, styled, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Foreground and background clicks differ in shape as well, so that nobody needs to see the colours.
_FOREGROUND = {"marker": "o", "color": "#009E73"}
_BACKGROUND = {"marker": "X", "color": "#D55E00"}
_RIM = {"markeredgecolor": "#FFFFFF", "markeredgewidth": 1.3, "markersize": 10, "linestyle": "none"}
# The mask: magenta as on the canvas, since photographs hardly have it, and a rim, since dark grounds darken the fill.
_MASK, _MASK_ALPHA, _BOX, _TRUTH = "#D6278A", 0.5, "#F0E442", "#FFFFFF"
_GAP, _TITLE = 0.08, 0.28  # inches between tiles, and for the title above one
_MAX_TILE, _MAX_TALL = 4.0, 1.25  # inches across; height over width


@styled
def prompt_overlay(
    image: Array,
    points: Array | None = None,
    labels: Array | None = None,
    box: Array | None = None,
    mask: Array | None = None,
    truth: Array | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw a picture with a prompt and its answer: a circle is a foreground click, a cross a background click.

    Args:
        image: uint8 (3, H, W) or (H, W, 3).
        points: (N, 2), float pixels (x, y), (0, 0) the centre of the first pixel; what lies outside is not drawn.
        labels: (N,), 1 foreground, 0 background.
        box: (4,), x0, y0, x1, y1, the extreme pixel indices.
        mask: bool (H, W), painted over the picture, with a solid rim.
        truth: bool (H, W), drawn as a dashed outline.
        title: written above.

    Raises:
        ValueError: points without labels, labels other than 0 and 1, or a mask of another type or size.
    """
    panel = {"image": image, "points": points, "labels": labels, "box": box, "mask": mask, "truth": truth}
    return _grid([panel], [title] if title else None, columns=1)


@styled
def prompt_grid(
    panels: Sequence[Mapping[str, Any]], titles: Sequence[str] | None = None, columns: int | None = None
) -> "Figure":
    """Draw several prompts and their answers side by side, with one legend.

    Args:
        panels: for each the arguments of `prompt_overlay` by name, without the title: `{"image": photo, "mask": mask}`.
        titles: one above each panel.
        columns: panels in a row; None puts up to four side by side.

    Raises:
        ValueError: no panels, another number of titles, and as `prompt_overlay` does.
    """
    if not panels or (titles is not None and len(titles) != len(panels)):
        raise ValueError(f"prompt_grid needs panels, and a title for each; got {len(panels)} and titles {titles}.")
    return _grid(panels, titles, columns or min(4, len(panels)))


def _grid(panels: Sequence[Mapping[str, Any]], titles: Sequence[str] | None, columns: int) -> "Figure":
    pictures = [rgb(panel["image"]) for panel in panels]
    width = min((WIDTH - _GAP * (columns - 1)) / columns, _MAX_TILE)
    rows = math.ceil(len(panels) / columns)
    tall = [
        min(max(p.shape[0] / p.shape[1] for p in pictures[r * columns :][:columns]), _MAX_TALL) for r in range(rows)
    ]
    above = _TITLE if titles else 0.0
    height = sum(above + width * ratio + _GAP for ratio in tall)
    figure = new_figure(height + LEGEND_ROW, width=columns * (width + _GAP) - _GAP, layout=None)
    handles: dict[str, Any] = {}
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        x, y = column * (width + _GAP), sum(above + width * ratio + _GAP for ratio in tall[:row]) + above
        axes = tile_axes(figure, x, y, width, width * tall[row])
        handles |= _draw(axes, **panel)
        if titles:
            column_title(figure, x + width / 2, y, titles[number])
    if handles:
        figure.legend(
            handles=list(handles.values()),
            loc="lower center",
            bbox_to_anchor=(0.5, 0),
            bbox_transform=figure.transFigure,  # else it moves with the tight picture's edge, onto the stamp
            ncols=len(handles),
            frameon=False,
            borderpad=0.1,
            columnspacing=1.2,
        )
    about = f"{len(panels)} picture{'s' * (len(panels) != 1)}" + (f" of {'; '.join(titles)}" if titles else "")
    figure.set_label(f"{about}, with {', '.join(handles) or 'no prompt'}")
    return figure


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
    from matplotlib.patches import Patch, Rectangle

    picture, handles = rgb(image), {}
    size = picture.shape[:2]
    if mask is not None:
        mask = _region(mask, "mask", size)
        picture = _paint(picture, mask)
        handles["mask"] = Patch(facecolor=(_MASK, _MASK_ALPHA), edgecolor=_MASK, linewidth=1.8, label="mask")
    draw_tile(axes, picture, labels=False)
    if mask is not None:
        _outline(axes, mask, _MASK, "solid")
    if truth is not None:
        _outline(axes, _region(truth, "truth", size), _TRUTH, "dashed")
        handles["truth"] = Patch(facecolor="none", edgecolor=INK, linestyle="--", label="true outline")
    if box is not None:
        x0, y0, x1, y1 = to_array(box)
        # Two lines, black under colour: visible on any ground. Half a pixel out, to the pixels' outer edges.
        for colour, line in (("black", 3.5), (_BOX, 1.8)):
            axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, fill=False, ec=colour, lw=line))
        handles["box"] = Patch(facecolor="none", edgecolor=_BOX, linewidth=1.8, label="box")
    if points is not None or labels is not None:
        xy, kind = _clicks(points, labels)
        for name, label, look in (("foreground", 1, _FOREGROUND), ("background", 0, _BACKGROUND)):
            if (kind == label).any():
                axes.plot(*xy[kind == label].T, **look, **_RIM, zorder=4)
                handles[name] = Line2D([], [], **look, **(_RIM | {"markersize": 8}), label=f"{name} click")
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


def _region(mask: Array, name: str, size: tuple[int, int]) -> np.ndarray:
    array = to_array(mask)
    if array.dtype != bool or array.shape != size:
        raise ValueError(f"{name} must be bool of the picture's size {size}, got {array.dtype} {array.shape}.")
    return array


def _paint(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    colour = np.array([int(_MASK[i : i + 2], 16) for i in (1, 3, 5)])
    mixed = np.rint((1 - _MASK_ALPHA) * picture + _MASK_ALPHA * colour).astype(np.uint8)
    return np.where(mask[..., None], mixed, picture)


def _outline(axes: "Axes", region: np.ndarray, colour: str, dashes: str) -> None:
    if not region.any():
        return
    # With a frame of background around it, a region that touches the picture's edge is closed there too.
    framed = np.pad(region, 1).astype(float)
    x, y = np.arange(-1, region.shape[1] + 1), np.arange(-1, region.shape[0] + 1)
    # Two lines, black under colour: visible on any ground.
    axes.contour(x, y, framed, levels=[0.5], colors="black", linewidths=2.2)
    axes.contour(x, y, framed, levels=[0.5], colors=colour, linewidths=1.2, linestyles=dashes)
