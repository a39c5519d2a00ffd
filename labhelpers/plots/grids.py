"""Grids of pictures and label maps: models compared, one example per category, augmented views."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labhelpers.data.base import IGNORE_INDEX, decode_target
from labhelpers.data.voc import VOC_CLASSES
from labhelpers.plots.maps import Array, as_colours, rgb
from labhelpers.plots.style import FAINT, GRID, WIDTH, legend_below, new_figure, styled, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND_ROW = 0.24  # inches
_GAP = 0.06  # inches between tiles
_TITLE = 0.3  # inches above a row of tiles
_MAX_TILE = 3.2  # inches: two columns need not fill the page
_MAX_TALL = 1.25  # height over width of a tile; taller pictures stand narrower in it
_MAX_HEIGHT = 10.0  # inches of all rows together
_COUNTABLE = 24  # pixels a side up to which lines stand between the pixels of a label map, so that they can be counted


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
    rows = list(zip(*columns.values(), strict=True))
    figure, _ = _table(rows, list(columns), names, row_titles, title, legend)
    figure.set_label(f"{title or 'Comparison'}: {', '.join(columns)}; rows: {len(rows)}")
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
    figure, rows = _table([images, targets], titles, names)
    for row in rows:
        for view, axes in enumerate(row):
            if points is not None:
                xy = to_array(points[view]).reshape(-1, 2).T
                axes.scatter(xy[0], xy[1], s=55, marker="o", c="#FFFFFF", edgecolors="black", linewidths=1.5, zorder=3)
                axes.scatter(xy[0], xy[1], s=8, marker="o", c="#000000", zorder=4)
            for box in to_array(boxes[view]).reshape(-1, 4) if boxes is not None else ():
                draw_box(axes, box, "white", 1.5)
    figure.set_label(f"{len(images)} views, each above its label map" + (f": {', '.join(titles)}" if titles else ""))
    return figure


@styled
def category_grid(examples: Mapping[int, tuple[Array, Array]], names: Sequence[str] = VOC_CLASSES) -> "Figure":
    """Show one picture of every category above its label map, ten categories across: 10 by 4 tiles for VOC's twenty.

    The square beside each name is the category's colour in the label maps.

    Args:
        examples: label -> (uint8 picture, integer labels (H, W)); a category that is missing gets a tile "no image".
        names: class names in label order, background first (it gets no tile).
    """
    from matplotlib.patches import Rectangle

    across = 10
    width = tile_width(across)
    tiles = {label: (rgb(image), as_colours(target)) for label, (image, target) in examples.items()}
    shapes = [image.shape for image, _ in tiles.values()]
    height = width * float(np.clip(np.median([h / w for h, w, _ in shapes]), 0.6, 1.2)) if shapes else width
    rows = math.ceil((len(names) - 1) / across)
    block = 0.24 + 2 * (height + _GAP)  # a name, a picture, a label map
    sheet = Sheet(WIDTH, rows * (block + _GAP) + LEGEND_ROW)
    for label in range(1, len(names)):
        row, column = divmod(label - 1, across)
        x, y = column * (width + _GAP), row * (block + _GAP)
        corner, size = (x / sheet.width, 1 - (y + 0.17) / sheet.height), 0.1
        look: dict[str, Any] = {"facecolor": _colour(label) / 255, "edgecolor": FAINT, "linewidth": 0.5}
        sheet.figure.add_artist(Rectangle(corner, size / sheet.width, size / sheet.height, **look))
        sheet.write(x + size + 0.04, y + 0.19, names[label], ha="left", va="bottom", fontsize=8.5)
        for i in range(2):
            axes = sheet.tile(x, y + 0.24 + i * (height + _GAP), width, height)
            if label in tiles:
                draw_tile(axes, tiles[label][i], labels=i == 1)
            else:
                axes.patch.set_facecolor(GRID)
                centred: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes}
                axes.text(0.5, 0.5, "no image", fontsize=9, color="#555555", **centred)
    draw_legend(sheet.figure, legend_entries([0, IGNORE_INDEX], names))
    missing = [names[label] for label in range(1, len(names)) if label not in tiles]
    sheet.figure.set_label(
        f"One picture and its label map for each of {len(names) - 1} categories"
        + (f"; no image for {', '.join(missing)}" if missing else "")
    )
    return sheet.figure


def _table(
    rows: Sequence[Sequence[Array]],
    titles: Sequence[str] | None,
    names: Sequence[str] | None,
    row_titles: Sequence[str] | None = None,
    title: str | None = None,
    legend: Mapping[str, Sequence[int]] | None = None,
) -> tuple["Figure", list[list["Axes"]]]:
    """Rows of tiles as large as the page allows, under the `titles` of their columns; the axes of each row."""
    tiles = [[as_colours(item) for item in row] for row in rows]
    maps = [] if names is None else [to_array(item) for row in rows for item in row]
    present = {int(label) for labels in maps if labels.ndim == 2 for label in np.unique(labels)}
    entries = legend_entries(present, names or (), legend)

    left = 0.25 if row_titles else 0.0
    tall = [tallness(row) for row in tiles]
    width = min(tile_width(len(tiles[0]), left), _MAX_HEIGHT / sum(tall))
    heights = [width * ratio for ratio in tall]
    full_width = left + len(tiles[0]) * (width + _GAP) - _GAP
    top = (_TITLE if titles else 0) + (0.25 if title else 0)
    below = LEGEND_ROW * math.ceil(len(entries) / _legend_columns(full_width, entries)) + 0.06 if entries else 0
    sheet = Sheet(full_width, top + sum(heights) + _GAP * len(heights) + below)
    for c, name in enumerate(titles or ()):
        sheet.title(left + c * (width + _GAP) + width / 2, top, name)
    y, drawn = top, []
    for r, (row, height) in enumerate(zip(tiles, heights, strict=True)):
        drawn.append([sheet.tile(left + c * (width + _GAP), y, width, height) for c in range(len(row))])
        for axes, tile, item in zip(drawn[-1], row, rows[r], strict=True):
            draw_tile(axes, tile, labels=to_array(item).ndim == 2)
        if row_titles:
            sheet.write(0.12, y + height / 2, row_titles[r], rotation=90, ha="center", va="center", fontsize=9)
        y += height + _GAP
    if title:
        sheet.write(0, 0, title, ha="left", va="top", fontsize=12)
    draw_legend(sheet.figure, entries)
    return sheet.figure, drawn


class Sheet:
    """A figure laid out in inches from its upper left corner."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = new_figure(height, width=width, layout=None)

    def tile(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Bare axes."""
        across, down = self.width, self.height
        axes = self.figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.grid(False)
        return axes

    def write(self, x: float, y: float, text: str, **look: Any) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, text, **look)

    def title(self, x: float, y: float, text: str) -> None:
        """Of a column or tile that is `x` in its middle and begins at `y`."""
        self.write(x, y - 0.07, text, ha="center", va="bottom", fontsize=10.5)


def tile_width(count: int, left: float = 0.0, gap: float = _GAP, most: float = _MAX_TILE) -> float:
    """Inches, of so many tiles across a page."""
    return min((WIDTH - left - gap * (count - 1)) / count, most)


def tallness(tiles: Sequence[np.ndarray]) -> float:
    """Height over width of a row of tiles."""
    return min(max(tile.shape[0] / tile.shape[1] for tile in tiles), _MAX_TALL)


def draw_tile(axes: "Axes", tile: np.ndarray, labels: bool) -> None:
    # Smoothing would invent colours between two classes; a photograph needs it when it shrinks.
    axes.imshow(tile, interpolation="nearest" if labels else "antialiased")
    axes.autoscale(False)  # points and boxes beyond the picture must not widen the view
    if labels and max(tile.shape[:2]) <= _COUNTABLE:
        for line, side in ((axes.axvline, tile.shape[1]), (axes.axhline, tile.shape[0])):
            for edge in range(1, side):
                line(edge - 0.5, color=FAINT, linewidth=0.6)


def draw_box(axes: "Axes", box: np.ndarray, colour: str, width: float, rim: bool = True) -> None:
    """The outline of a box (x0, y0, x1, y1), the extreme pixel indices; with `rim` on any ground to be seen."""
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = box
    # Two lines, black under colour. Half a pixel out, to the pixels' outer edges.
    for edge, line in (("black", 3.5), (colour, width))[0 if rim else 1 :]:
        axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, fill=False, ec=edge, lw=line))


def legend_entries(
    labels: Sequence[int] | set[int], names: Sequence[str], more: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Sequence[int]]:
    """Name -> RGB of these classes in label order, 255 called "void", and of what comes after them.

    Raises:
        ValueError: a label has no name.
    """
    unknown = [label for label in labels if label != IGNORE_INDEX and not 0 <= label < len(names)]
    if unknown:
        raise ValueError(
            f"label {unknown[0]} has no name: {len(names)} names were given, for labels 0..{len(names) - 1}."
        )
    classes = {"void" if label == IGNORE_INDEX else names[label]: _colour(label) for label in sorted(labels)}
    return classes | dict(more or {})


def draw_legend(figure: "Figure", entries: Mapping[str, Sequence[int]]) -> None:
    """Name -> RGB, 0 to 255, under a figure."""
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=tuple(np.array(colour) / 255), edgecolor=FAINT, linewidth=0.5, label=name)
        for name, colour in entries.items()
    ]
    if patches:
        legend_below(figure, patches, _legend_columns(figure.get_figwidth(), entries), borderpad=0.1)


def _legend_columns(width: float, entries: Mapping[str, Sequence[int]]) -> int:
    """Entries side by side in so many inches, rows balanced: 9 pt letters take about 0.08 in, patch and gaps 0.6 in."""
    fitting = max(1, int(width / (0.08 * max(map(len, entries)) + 0.6)))
    return math.ceil(len(entries) / math.ceil(len(entries) / fitting))


def _colour(label: int) -> Any:
    return decode_target(np.array([[label]]))[0, 0]
