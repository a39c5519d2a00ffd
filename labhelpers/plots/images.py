"""Pictures and label maps as tiles of a figure, and the legend of their classes: what the grids are made of."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from labhelpers.data.base import IGNORE_INDEX, decode_target
from labhelpers.data.voc import VOC_CLASSES
from labhelpers.plots.style import FAINT, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = np.ndarray | torch.Tensor

LEGEND_ROW = 0.24  # inches


def overlay(image: Array, target: Array, alpha: float = 0.6) -> np.ndarray:
    """Paint label colours over a picture, background left as it is: uint8 RGB (H, W, 3).

    Args:
        image: uint8 (3, H, W) or (H, W, 3).
        target: integer labels (H, W); void gets the rim colour.
        alpha: opacity of the paint, 0 to 1.
    """
    picture, labels = rgb(image), to_array(target)
    mixed = (1 - alpha) * picture + alpha * decode_target(labels)
    return np.where(labels[..., None] == 0, picture, np.rint(mixed).astype(np.uint8))


def class_legend(
    place: "Axes | Figure",
    labels: Sequence[int],
    names: Sequence[str] = VOC_CLASSES,
    more: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Put a legend of these classes, in label order, under a figure or beside axes; 255 is called "void".

    Args:
        labels: which classes.
        names: class names in label order.
        more: entries after the classes: name -> RGB, 0 to 255.

    Raises:
        ValueError: a label has no name.
    """
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=np.array(colour) / 255, edgecolor=FAINT, linewidth=0.5, label=name)
        for name, colour in _entries(labels, names, more).items()
    ]
    if isinstance(place, Axes):
        place.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)
    else:
        columns = _legend_columns(place.get_figwidth(), [handle.get_label() for handle in handles])
        place.legend(
            handles=handles,
            loc="lower center",
            bbox_to_anchor=(0.5, 0),
            bbox_transform=place.transFigure,  # else it moves with the tight picture's edge, onto the stamp
            ncols=columns,
            fontsize=9,
            frameon=False,
            borderpad=0.1,
        )


def rgb(image: Array) -> np.ndarray:
    """Check a picture and bring it into the order (H, W, 3)."""
    array = to_array(image)
    if array.ndim == 3 and array.dtype == np.uint8 and 3 in (array.shape[0], array.shape[2]):
        return array if array.shape[2] == 3 else array.transpose(1, 2, 0)
    raise ValueError(
        f"a picture must be uint8 of shape (3, H, W) or (H, W, 3), got {array.dtype} of shape {array.shape}; "
        "labhelpers.data.denormalize turns a normalised tensor back into one."
    )


def as_colours(item: Array) -> np.ndarray:
    array = to_array(item)
    return decode_target(array.astype(np.uint8) if array.dtype == bool else array) if array.ndim == 2 else rgb(array)


def present_labels(items: Sequence[Array]) -> list[int]:
    """Labels in any of the label maps among the items, sorted; 255 last."""
    maps = [to_array(item) for item in items]
    return sorted({int(label) for labels in maps if labels.ndim == 2 for label in np.unique(labels)})


def _named(labels: Sequence[int], names: Sequence[str]) -> dict[int, str]:
    unknown = [label for label in labels if label != IGNORE_INDEX and not 0 <= label < len(names)]
    if unknown:
        raise ValueError(
            f"label {unknown[0]} has no name: {len(names)} names were given, for labels 0..{len(names) - 1}."
        )
    return {label: "void" if label == IGNORE_INDEX else names[label] for label in sorted(set(labels))}


def _entries(
    labels: Sequence[int], names: Sequence[str], more: Mapping[str, Sequence[int]] | None
) -> dict[str, Sequence[int]]:
    """Name -> RGB of each entry of a legend."""
    classes = {name: decode_target(np.array([[label]]))[0, 0] for label, name in _named(labels, names).items()}
    return classes | dict(more or {})


def _legend_columns(width: float, entries: Sequence[str]) -> int:
    """Entries side by side in so many inches, rows balanced: 9 pt letters take about 0.08 in, patch and gaps 0.6 in."""
    fitting = max(1, int(width / (0.08 * max(map(len, entries)) + 0.6)))
    return math.ceil(len(entries) / math.ceil(len(entries) / fitting))


def legend_height(
    width: float,
    labels: Sequence[int],
    names: Sequence[str] | None,
    more: Mapping[str, Sequence[int]] | None = None,
) -> float:
    entries = list(_entries(labels, names or (), more))
    if not entries:
        return 0.0
    return LEGEND_ROW * math.ceil(len(entries) / _legend_columns(width, entries)) + 0.06


def tile_axes(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Bare axes at a place given in inches from the upper left corner."""
    across, down = figure.get_size_inches()
    axes = figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return axes


def draw_tile(axes: "Axes", tile: np.ndarray, labels: bool) -> None:
    # Smoothing would invent colours between two classes; a photograph needs it when it shrinks.
    axes.imshow(tile, interpolation="nearest" if labels else "antialiased")
    axes.autoscale(False)  # points and boxes beyond the picture must not widen the view


def column_title(figure: "Figure", x: float, y: float, text: str) -> None:
    across, down = figure.get_size_inches()
    figure.text(x / across, 1 - (y - 0.07) / down, text, ha="center", va="bottom", fontsize=10.5)
