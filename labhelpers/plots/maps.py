"""Arrays as pictures: labels over a photograph, where a prediction errs, where two differ, any number per pixel.

Each function gives a picture for `image_grid`; where colours need names, a function beside it gives them for its
`legend`. Right pixels stay in the background, as a faded grey picture, so that errors stand out.
"""

from collections.abc import Mapping

import numpy as np
import torch

from labhelpers.data.base import IGNORE_INDEX, decode_target
from labhelpers.plots.style import to_array

Array = np.ndarray | torch.Tensor
Legend = Mapping[str, tuple[int, int, int]]

# Far apart in lightness too, so that they differ for every reader and in print.
_RIGHT, _MISSING = (225, 225, 225), (118, 118, 118)
_HIT, _MISS, _FALSE_ALARM = (86, 180, 233), (213, 94, 0), (93, 58, 155)
_ONLY_A, _ONLY_B, _BOTH_WRONG = (0, 114, 178), (230, 159, 0), (34, 34, 34)
_DARKEST = 0.85  # of the colour map; its end is black, which is the background of label maps


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
    """A picture, or integer or boolean labels (H, W) in their colours: uint8 RGB (H, W, 3)."""
    array = to_array(item)
    return decode_target(array.astype(np.uint8) if array.dtype == bool else array) if array.ndim == 2 else rgb(array)


def overlay(image: Array, target: Array, alpha: float = 0.6) -> np.ndarray:
    """Paint label colours over a picture, background left as it is: uint8 RGB (H, W, 3).

    Args:
        image: uint8 (3, H, W) or (H, W, 3).
        target: integer labels (H, W); void gets the rim colour.
        alpha: opacity of the paint, 0 to 1.
    """
    labels = to_array(target)
    return blend(rgb(image), decode_target(labels), labels != 0, alpha)


def blend(picture: np.ndarray, paint: np.ndarray, where: np.ndarray, alpha: float) -> np.ndarray:
    """A picture uint8 (H, W, 3) under paint, RGB of a shape that fits, `where` (H, W) is True."""
    mixed = np.rint((1 - alpha) * picture + alpha * paint).astype(np.uint8)
    return np.where(where[..., None], mixed, picture)


def error_map(
    prediction: Array, target: Array, image: Array | None = None, num_classes: int = 2, ignore_index: int = IGNORE_INDEX
) -> np.ndarray:
    """Paint where a prediction is wrong: uint8 RGB (H, W, 3). `error_legend` has the colours.

    With two classes hits, misses and false alarms of class 1 differ; with more, wrong pixels have one colour. Void has
    its usual colour.

    Args:
        prediction, target: integer or boolean labels (H, W).
        image: uint8 (3, H, W) or (H, W, 3), shown in faded grey where nothing is painted; None leaves white.
        num_classes: K.
        ignore_index: the label of void in the target.

    Raises:
        ValueError: the shapes differ, or there is a label that is no class.
    """
    labels, truth = _labels(prediction, target, num_classes, ignore_index)
    if num_classes == 2:
        painted = {_HIT: (labels == 1) & (truth == 1), _MISS: (labels != 1) & (truth == 1)}
        painted[_FALSE_ALARM] = (labels == 1) & (truth != 1)
    else:
        painted = {_MISS: labels != truth}
    return _paint(image, truth == ignore_index, painted)


def error_legend(num_classes: int = 2) -> Legend:
    """Name the colours of `error_map`."""
    if num_classes == 2:
        return {"hit": _HIT, "miss": _MISS, "false alarm": _FALSE_ALARM}
    return {"right": _RIGHT, "wrong": _MISS}


def difference_map(
    a: Array,
    b: Array,
    target: Array,
    image: Array | None = None,
    num_classes: int = 2,
    ignore_index: int = IGNORE_INDEX,
) -> np.ndarray:
    """Paint where only one of two predictions is right, and where both are wrong: uint8 RGB (H, W, 3).

    `difference_legend` has the colours; arguments and errors are those of `error_map`.
    """
    first, truth = _labels(a, target, num_classes, ignore_index)
    second, _ = _labels(b, target, num_classes, ignore_index)
    painted = {
        _ONLY_A: (first == truth) & (second != truth),
        _ONLY_B: (first != truth) & (second == truth),
        _BOTH_WRONG: (first != truth) & (second != truth),
    }
    return _paint(image, truth == ignore_index, painted)


def difference_legend(a: str, b: str) -> Legend:
    """Name the colours of `difference_map` for two models of these names."""
    only = {f"only {a} right": _ONLY_A, f"only {b} right": _ONLY_B}
    return {"both right": _RIGHT, **only, "both wrong": _BOTH_WRONG}


def heat_map(values: Array, high: float = 1.0, low: float = 0.0) -> np.ndarray:
    """Turn numbers per pixel into colours, for example how much models disagree: uint8 RGB (H, W, 3).

    Args:
        values: (H, W), `low` pale to `high` dark; what lies beyond is clipped, NaN is grey.

    Raises:
        ValueError: the values are not (H, W), or `high` is not above `low`.
    """
    from matplotlib import colormaps

    numbers = to_array(values).astype(float)
    if numbers.ndim != 2:
        raise ValueError(f"heat_map needs one number per pixel, (H, W), got shape {numbers.shape}.")
    if not high > low:
        raise ValueError(f"heat_map got high={high}, which is not above low={low}.")
    missing = np.isnan(numbers)
    shares = np.where(missing, 0, (numbers - low) / (high - low)).clip(0, 1)
    colours = colormaps["magma_r"](_DARKEST * shares, bytes=True)[..., :3].copy()
    colours[missing] = _MISSING
    return colours


def heat_legend(high: float = 1.0, low: float = 0.0, unit: str = "", steps: int = 5) -> Legend:
    """Name `steps` colours of `heat_map`, from `low` to `high`; `unit` follows each number."""
    values = np.linspace(low, high, steps)
    colours = heat_map(values[None], high, low)[0]
    return {
        f"{value:.3g} {unit}".strip(): tuple(colour.tolist()) for value, colour in zip(values, colours, strict=True)
    }


def _labels(prediction: Array, target: Array, num_classes: int, ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
    labels, truth = to_array(prediction).astype(int), to_array(target).astype(int)
    if labels.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"prediction and target must both be (H, W), got {labels.shape} and {truth.shape}.")
    unknown = np.setdiff1d(np.union1d(labels, truth[truth != ignore_index]), np.arange(num_classes))
    if unknown.size:
        raise ValueError(f"label {unknown[0]} is none of {num_classes} classes: give num_classes of the data set.")
    return labels, truth


def _paint(image: Array | None, void: np.ndarray, painted: Mapping[tuple[int, int, int], np.ndarray]) -> np.ndarray:
    """Fill the masks with their colours, and void with its own, on a faded grey picture or on white."""
    if image is None:
        canvas = np.full((*void.shape, 3), 255, dtype=np.uint8)
    else:
        grey = rgb(image).mean(axis=2, keepdims=True)
        canvas = np.rint(165 + 0.35 * grey).astype(np.uint8).repeat(3, axis=2)  # 165 to 254: paler than any paint
        if canvas.shape[:2] != void.shape:
            raise ValueError(f"the picture has {canvas.shape[:2]} pixels, prediction and target have {void.shape}.")
    for colour, mask in painted.items():
        canvas[mask] = colour
    canvas[void] = decode_target(np.array([[IGNORE_INDEX]]))[0, 0]
    return canvas
