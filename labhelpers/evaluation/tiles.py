"""Patch-wise inference: an image too large for the memory is segmented in overlapping tiles, blended without seams.

The overlap-tile strategy of Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image
Segmentation, MICCAI 2015, Section 2 and Figure 2. There each tile's valid part is cut out; here, where convolutions are
padded, the part near a tile's border is left out and the rest fades over into the next tile.
"""

from collections.abc import Iterator
from itertools import product

import torch
from torch import nn

from labhelpers.evaluation.evaluator import compute_logits, inference


def tiled_logits(
    model: nn.Module,
    image: torch.Tensor,
    tile: int = 512,
    overlap: int = 128,
    *,
    batch_size: int = 4,
    multiple: int = 16,
    precision: str = "no",
) -> torch.Tensor:
    """Compute the logits of one image of any size from overlapping tiles, with the memory of `batch_size` tiles.

    Each tile counts nothing in the quarter of the overlap next to its border, where it lacks context, and fades in
    linearly over the half after it; at the image's own border it counts fully. The weights of all tiles add up to one
    at every pixel. Where a network sees at most `overlap / 4` pixels far, the result is that of the whole image, up to
    rounding (a U-Net of four halvings sees 107 pixels far, one that interpolates 137). It never is with what looks at
    the whole map at once: global pooling (ASPP), batch norm with batch statistics, and `align_corners=True`, whose
    sampling grid depends on the size of the map.

    Args:
        model: maps float (B, 3, h, w) of any size to logits (B, K, h, w); it runs in eval mode, where it is.
        image: uint8 (3, H, W), larger or smaller than a tile.
        tile: side of a tile in pixels.
        overlap: pixels that neighbouring tiles share at least.
        batch_size: tiles that are computed at once.
        multiple: the total stride of the network. Tiles start at multiples of it, so that pooling groups the same
            pixels as in the whole image.
        precision: "no" (float32), "bf16" or "fp16" autocast.

    Returns:
        float32 (K, H, W) on the CPU.

    Raises:
        ValueError: the image is not uint8 (3, H, W); tile and overlap do not fit (see `tile_starts`); batch_size is
            below 1; the model returns anything but logits of the tile's size.
    """
    if image.dtype is not torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
        raise ValueError(f"tiled_logits needs a uint8 image (3, H, W), got {image.dtype} {tuple(image.shape)}.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least one tile must be computed at once.")
    height, width = image.shape[1:]
    rows = _weighted_windows(height, tile, overlap, multiple)
    columns = _weighted_windows(width, tile, overlap, multiple)
    blended = torch.empty(0)
    with inference(model, precision) as device:
        for group in _equal_sizes(rows, columns, batch_size):
            tiles = torch.stack([image[:, y, x] for (y, _), (x, _) in group]).to(device)
            logits = compute_logits(model, tiles).float().cpu()
            if not len(blended):
                blended = torch.zeros(logits.shape[1], height, width)
            for ((y, vertical), (x, horizontal)), part in zip(group, logits, strict=True):
                blended[:, y, x] += part * vertical[:, None] * horizontal
    return blended


def tile_starts(length: int, tile: int, overlap: int, multiple: int = 1) -> list[int]:
    """Return where the tiles along one axis begin: rising multiples of `multiple`, the first one 0.

    Neighbours share `overlap` pixels; the last tile is moved back until it is flush with the end, so it shares more.
    Where that is no multiple of `multiple`, it begins at the next one, and the end of the image cuts it short by fewer
    than `multiple` pixels. An axis no longer than a tile has one tile, as long as the axis.

    Args:
        length, tile, overlap: in pixels.
        multiple: the grid; `tile` and `overlap` are multiples of it.

    Raises:
        ValueError: a length is below 1, the overlap is not in 0..tile - 1, or tile or overlap is off the grid.
    """
    if length < 1 or tile < 1 or multiple < 1:
        raise ValueError(f"length={length}, tile={tile} and multiple={multiple} must be at least 1.")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap={overlap} must be at least 0 and below tile={tile}: else no tile moves on.")
    for name, value in {"tile": tile, "overlap": overlap}.items():
        if value % multiple:
            raise ValueError(
                f"{name}={value} is not a multiple of {multiple}, the network's stride; "
                f"take {value // multiple * multiple} or {-(-value // multiple) * multiple}."
            )
    last = max(0, -(-(length - tile) // multiple) * multiple)
    return [*range(0, last, tile - overlap), last]


_Window = tuple[slice, torch.Tensor]  # the pixels of a tile along one axis, and its weight at each of them


def _weighted_windows(length: int, tile: int, overlap: int, multiple: int) -> list[_Window]:
    """Cut one axis into tiles, with weights that add up to one at every pixel."""
    windows = [slice(start, min(start + tile, length)) for start in tile_starts(length, tile, overlap, multiple)]
    weights, total = [], torch.zeros(length)
    for window in windows:
        centres = torch.arange(window.start, window.stop) + 0.5
        weight = torch.ones(len(centres))
        if window.start > 0:
            weight = _ramp(centres - window.start, overlap)
        if window.stop < length:
            weight = weight * _ramp(window.stop - centres, overlap)
        total[window] += weight
        weights.append(weight)
    return [(window, weight / total[window]) for window, weight in zip(windows, weights, strict=True)]


def _ramp(distance: torch.Tensor, overlap: int) -> torch.Tensor:
    """Weigh by the distance to the tile's border: 0 up to a quarter of the overlap, 1 from three quarters on."""
    return ((distance - overlap / 4) / (overlap / 2)).clamp(0, 1)


def _equal_sizes(
    rows: list[_Window], columns: list[_Window], batch_size: int
) -> Iterator[list[tuple[_Window, _Window]]]:
    """Yield batches of (row, column); only the last row and column may differ in size, and they come by themselves."""
    sizes: dict[tuple[int, ...], list[tuple[_Window, _Window]]] = {}
    for place in product(rows, columns):
        sizes.setdefault(tuple(len(weights) for _, weights in place), []).append(place)
    for places in sizes.values():
        for first in range(0, len(places), batch_size):
            yield places[first : first + batch_size]
