"""Objects on pictures: any number of boxes and masks with words beside them, and maps in which each object shows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labhelpers.data.base import decode_target
from labhelpers.plots.grids import Sheet, draw_box, draw_tile, tallness, tile_width
from labhelpers.plots.maps import Array, blend, rgb
from labhelpers.plots.style import SERIES_COLOURS, styled, to_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP, _TITLE = 0.08, 0.28  # inches between tiles, and for the title above one
_ALPHA = 0.5  # of a mask
_FEW = 12  # boxes up to which each has a rim and a colour of its own


@styled
def object_grid(
    panels: Sequence[Mapping[str, Any]], titles: Sequence[str] | None = None, columns: int | None = None
) -> "Figure":
    """Draw pictures with the boxes, masks and names of objects; box and mask of one object have one colour.

    Args:
        panels: for each a dict with
            image: uint8 (3, H, W) or (H, W, 3).
            boxes: (N, 4), x1, y1, x2, y2 in pixels, x2 and y2 exclusive; more than 12 are thin lines of one colour.
            masks: bool (N, H, W), the first on top.
            words: N texts, one at each box.
        titles: one above each panel.
        columns: panels in a row; None puts up to four side by side.

    Raises:
        ValueError: there are no panels, or another number of titles.
    """
    if not panels or (titles is not None and len(titles) != len(panels)):
        raise ValueError(f"object_grid needs panels, and a title for each; got {len(panels)} and titles {titles}.")
    columns = columns or min(4, len(panels))
    pictures = [rgb(panel["image"]) for panel in panels]
    width = tile_width(columns, gap=_GAP)
    heights = [width * tallness(pictures[first : first + columns]) for first in range(0, len(panels), columns)]
    above = _TITLE if titles else 0.0
    sheet = Sheet(columns * (width + _GAP) - _GAP, sum(above + height + _GAP for height in heights))
    counts = []
    for number, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
        row, column = divmod(number, columns)
        x, y = column * (width + _GAP), sum(above + height + _GAP for height in heights[:row]) + above
        axes = sheet.tile(x, y, width, heights[row])
        boxes, words = to_array(panel.get("boxes", np.zeros((0, 4)))), panel.get("words", ())
        for index, mask in reversed(list(enumerate(to_array(panel.get("masks", ()))))):
            picture = blend(picture, _colour(index), mask, _ALPHA)
        draw_tile(axes, picture, labels=False)
        for index, box in enumerate(boxes):
            draw_box(axes, box - [0, 0, 1, 1], _series(index, len(boxes)), 1.2, rim=len(boxes) <= _FEW)
        axes.apply_aspect()
        for index, word in reversed(list(enumerate(words))):  # the first, as of the masks, on top
            look: dict[str, Any] = {"facecolor": _series(index, 1), "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
            place = boxes[index, :2].clip(0)
            text = axes.text(*place, word, fontsize=7.5, color="white", va="top", bbox=look, clip_on=True)
            (_, low), (right, _) = axes.transData.inverted().transform(text.get_window_extent())
            size = np.array(picture.shape[1::-1])
            beyond = (np.array([right, low]) - 0.97 * size).clip(0)  # 3 % for the frame around a word
            text.set_position((place - beyond).clip(0))  # whole, inside of the picture
        if titles:
            sheet.title(x + width / 2, y, titles[number])
        counts.append(f"{len(boxes)} boxes")
    sheet.figure.set_label(f"{len(panels)} pictures with objects: {'; '.join(titles or counts)}")
    return sheet.figure


def segment_map(labels: Array, ids: Array) -> np.ndarray:
    """Class colours with a white line where one object meets another or its ground: uint8 RGB (H, W, 3).

    Args:
        labels: integer (H, W), classes, 255 void.
        ids: integer (H, W), a number for each object of a class.
    """
    classes, numbers = to_array(labels).astype(int), to_array(ids).astype(int)
    segments = np.pad(classes + 256 * numbers, ((0, 1), (0, 1)), mode="edge")
    edge = (segments[:-1, :-1] != segments[1:, :-1]) | (segments[:-1, :-1] != segments[:-1, 1:])
    return np.where(edge[..., None], np.uint8(255), decode_target(classes))


def _series(index: int, count: int) -> str:
    return SERIES_COLOURS[index % len(SERIES_COLOURS)] if count <= _FEW else SERIES_COLOURS[4]


def _colour(index: int) -> np.ndarray:
    text = _series(index, 1)
    return np.array([int(text[k : k + 2], 16) for k in (1, 3, 5)])
