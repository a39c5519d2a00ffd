"""Grids of pictures and label maps: models compared, one example per category, augmented views."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labhelpers.data.base import IGNORE_INDEX, decode_target
from labhelpers.data.voc import VOC_CLASSES
from labhelpers.plots.images import (
    LEGEND_ROW,
    Array,
    as_colours,
    class_legend,
    column_title,
    draw_tile,
    legend_height,
    present_labels,
    rgb,
    tile_axes,
)
from labhelpers.plots.style import FAINT, GRID, WIDTH, new_figure, styled, to_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP = 0.06  # inches between tiles
_TITLE = 0.3  # inches above a row of tiles
_MAX_TILE = 3.2  # inches: two columns need not fill the page
_MAX_TALL = 1.25  # height over width of a tile; taller pictures stand narrower in it
_MAX_HEIGHT = 10.0  # inches of all rows together


@styled
def image_grid(
    columns: Mapping[str, Sequence[Array]],
    names: Sequence[str] | None = VOC_CLASSES,
    row_titles: Sequence[str] | None = None,
    title: str | None = None,
    legend: Mapping[str, Sequence[int]] | None = None,
) -> "Figure":
    """Compare pictures and label maps: one column per entry, one row per item, one legend of the classes present.

    Args:
        columns: column title -> items; an item is a uint8 picture, (3, H, W) or (H, W, 3), or integer or boolean
            labels (H, W). For example `{"image": images, "truth": targets, "FCN-8s": predictions}`.
        names: class names in label order; None leaves the legend out (for object numbers).
        row_titles: one name per row, written along its left edge.
        title: written above the grid.
        legend: what other colours mean, name -> RGB (0 to 255), after the classes: `error_legend()` for error maps.

    Raises:
        ValueError: no columns, columns of different lengths, an item of another shape or type, a label without a name.
    """
    lengths = {column: len(items) for column, items in columns.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"image_grid needs columns with the same number of items, at least one; got {lengths}.")
    tiles = [[as_colours(item) for item in row] for row in zip(*columns.values(), strict=True)]
    present = present_labels([item for items in columns.values() for item in items]) if names is not None else []

    left = 0.25 if row_titles else 0.0
    tall = [_tallness(row) for row in tiles]
    width = min(_tile_width(len(columns), left), _MAX_HEIGHT / sum(tall))
    heights = [width * ratio for ratio in tall]
    full_width = left + len(columns) * (width + _GAP) - _GAP
    top = _TITLE + (0.25 if title else 0)
    below = legend_height(full_width, present, names, legend)
    figure = new_figure(top + sum(heights) + _GAP * len(heights) + below, width=full_width, layout=None)

    y = top
    for r, (row, height) in enumerate(zip(tiles, heights, strict=True)):
        for c, (tile, column) in enumerate(zip(row, columns, strict=True)):
            axes = tile_axes(figure, left + c * (width + _GAP), y, width, height)
            draw_tile(axes, tile, labels=to_array(columns[column][r]).ndim == 2)
            if r == 0:
                column_title(figure, left + c * (width + _GAP) + width / 2, top, column)
        if row_titles:
            figure.text(
                0.12 / full_width,
                1 - (y + height / 2) / figure.get_figheight(),
                row_titles[r],
                rotation=90,
                ha="center",
                va="center",
                fontsize=9,
            )
        y += height + _GAP
    if title:
        figure.text(0, 1, title, ha="left", va="top", fontsize=12)
    if present or legend:
        class_legend(figure, present, names or (), legend)
    figure.set_label(f"{title or 'Comparison'} of {', '.join(columns)}; rows: {len(tiles)}")
    return figure


@styled
def category_grid(
    examples: Mapping[int, tuple[Array, Array]], names: Sequence[str] = VOC_CLASSES, title: str | None = None
) -> "Figure":
    """Show one picture of every category above its label map, ten categories across: 10 by 4 tiles for VOC's twenty.

    The square beside each name is the category's colour in the label maps.

    Args:
        examples: label -> (uint8 picture, integer labels (H, W)); a category that is missing gets a tile "no image".
        names: class names in label order, background first (it gets no tile).
        title: written above the grid.
    """
    across = 10
    width = _tile_width(across)
    tiles = {label: (rgb(image), as_colours(target)) for label, (image, target) in examples.items()}
    shapes = [image.shape for image, _ in tiles.values()]
    height = width * float(np.clip(np.median([h / w for h, w, _ in shapes]), 0.6, 1.2)) if shapes else width
    rows = math.ceil((len(names) - 1) / across)
    block = 0.24 + 2 * (height + _GAP)  # a name, a picture, a label map
    top = _TITLE if title else 0.0
    figure = new_figure(top + rows * (block + _GAP) + LEGEND_ROW, layout=None)

    for label in range(1, len(names)):
        row, column = divmod(label - 1, across)
        x, y = column * (width + _GAP), top + row * (block + _GAP)
        _swatch_title(figure, x, y, label, names[label])
        for i in range(2):
            axes = tile_axes(figure, x, y + 0.24 + i * (height + _GAP), width, height)
            if label in tiles:
                draw_tile(axes, tiles[label][i], labels=i == 1)
            else:
                axes.patch.set_facecolor(GRID)
                axes.text(
                    0.5,
                    0.5,
                    "no image",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="#555555",
                    transform=axes.transAxes,
                )
    if title:
        figure.text(0, 1, title, ha="left", va="top", fontsize=12)
    class_legend(figure, [0, IGNORE_INDEX], names)
    missing = [names[label] for label in range(1, len(names)) if label not in tiles]
    figure.set_label(
        f"One picture and its label map for each of {len(names) - 1} categories"
        + (f"; no image for {', '.join(missing)}" if missing else "")
    )
    return figure


@styled
def augmentation_grid(
    images: Sequence[Array],
    targets: Sequence[Array],
    points: Sequence[Array] | None = None,
    boxes: Sequence[Array] | None = None,
    titles: Sequence[str] | None = None,
    names: Sequence[str] = VOC_CLASSES,
) -> "Figure":
    """Show several views of one picture, each above its label map, with the same points and boxes on both.

    Args:
        images, targets: one uint8 picture and one label map (H, W) per view; views may differ in size.
        points: per view (N, 2), float pixels (x, y), (0, 0) the centre of the first pixel; what lies outside the view,
            or is NaN, is not drawn.
        boxes: per view (M, 4), (x0, y0, x1, y1), the inclusive extreme pixel indices.
        titles: one per view.
        names: class names in label order.
    """
    from matplotlib.patches import Rectangle

    count = len(images)
    width = _tile_width(count)
    pairs = [(rgb(image), as_colours(target)) for image, target in zip(images, targets, strict=True)]
    height = width * _tallness([image for image, _ in pairs])
    present = present_labels(targets)
    full_width = count * (width + _GAP) - _GAP
    top = _TITLE if titles else 0.0
    legend = legend_height(full_width, present, names)
    figure = new_figure(top + 2 * (height + _GAP) + legend, width=full_width, layout=None)
    for view, pair in enumerate(pairs):
        x = view * (width + _GAP)
        if titles:
            column_title(figure, x + width / 2, top, titles[view])
        for i, tile in enumerate(pair):
            axes = tile_axes(figure, x, top + i * (height + _GAP), width, height)
            draw_tile(axes, tile, labels=i == 1)
            if points is not None:
                xy = to_array(points[view]).reshape(-1, 2)
                axes.scatter(*xy.T, s=55, marker="o", c="#FFFFFF", edgecolors="#000000", linewidths=1.5, zorder=3)
                axes.scatter(*xy.T, s=8, marker="o", c="#000000", zorder=4)
            for x0, y0, x1, y1 in to_array(boxes[view]).reshape(-1, 4) if boxes is not None else ():
                # Two lines, black under white: visible on any ground. Half a pixel out, to the pixels' outer edges.
                for colour, line in (("black", 3.5), ("white", 1.5)):
                    outline = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, fill=False, ec=colour, lw=line)
                    axes.add_patch(outline)
    class_legend(figure, present, names)
    figure.set_label(f"{count} views, each above its label map" + (f": {', '.join(titles)}" if titles else ""))
    return figure


def _tile_width(count: int, left: float = 0.0) -> float:
    return min((WIDTH - left - _GAP * (count - 1)) / count, _MAX_TILE)


def _tallness(tiles: Sequence[np.ndarray]) -> float:
    return min(max(tile.shape[0] / tile.shape[1] for tile in tiles), _MAX_TALL)


def _swatch_title(figure: "Figure", x: float, y: float, label: int, name: str) -> None:
    from matplotlib.patches import Rectangle

    across, down = figure.get_size_inches()
    colour = decode_target(np.array([[label]]))[0, 0] / 255
    size = 0.1
    corner = (x / across, 1 - (y + 0.17) / down)
    figure.add_artist(Rectangle(corner, size / across, size / down, facecolor=colour, edgecolor=FAINT, linewidth=0.5))
    figure.text((x + size + 0.04) / across, 1 - (y + 0.19) / down, name, ha="left", va="bottom", fontsize=8.5)
