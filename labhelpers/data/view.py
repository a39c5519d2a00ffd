"""One view of an image, applied alike to pixels, labels, points and boxes.

A view is geometry (a window, or a warped window) and three colour factors; the colour is left to `to_input`, which does
it on the batch. Only the part of the image that the output shows is read.

Coordinates are pixel indices (x, y): the centre of the first pixel is (0, 0). Inside this file positions are measured
from the image's corner instead (index + 0.5), because scaling keeps the corner in place, not the first pixel's centre.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, cos, floor, sin

import numpy as np
import torch
from torch.nn import functional as F

from labhelpers.data.base import IGNORE_INDEX
from labhelpers.data.colour import IMAGENET_MEAN
from labhelpers.data.elastic import Elastic

__all__ = ["View"]

# Outside the picture: the ImageNet mean colour, which normalisation turns into (almost) zero.
_OUTSIDE = torch.tensor([float(round(255 * m)) for m in IMAGENET_MEAN])[:, None, None]
_OUTLINE_STEPS = 8  # points per edge of a box when its outline is warped


@dataclass(frozen=True, eq=False)
class View:
    """One way to look at an image: applied alike to all that belongs to it.

    In this order, seen from the image: window `source` (x, y) is scaled to `placed` (x, y) in the output, the output
    is turned about its centre by `angle` radians, deformed by `elastic`, and mirrored if `flip`.

    Attributes:
        image_size: (H, W) of the images it was drawn for.
        size: (h, w) of the output.
        colour: float32 (3,), factors of brightness, contrast and saturation, for `to_input`.
    """

    image_size: tuple[int, int]
    size: tuple[int, int]
    source: tuple[slice, slice]
    placed: tuple[slice, slice]
    flip: bool
    angle: float
    elastic: Elastic | None
    colour: np.ndarray

    def image(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 (3, H, W) to uint8 (3, h, w): bilinear, antialiased when shrinking, mean colour outside."""
        self._check(image)
        if self._warped:
            return self._warp_image(image)
        (source_x, source_y), (x, y) = self.source, self.placed
        out = torch.empty((3, *self.size), dtype=torch.uint8)
        if (y.stop - y.start, x.stop - x.start) != self.size:
            out[:] = _OUTSIDE
        out[:, y, x] = _resize(image[:, source_y, source_x], y.stop - y.start, x.stop - x.start)
        return out.flip(-1) if self.flip else out

    def target(self, target: torch.Tensor) -> torch.Tensor:
        """uint8 labels (H, W) -> uint8 (h, w): the nearest label, by the same geometry; outside is 255."""
        self._check(target)
        if self._warped:
            return self._warp_target(target)
        (source_x, source_y), (x, y) = self.source, self.placed
        columns, rows = _nearest(source_x, x), _nearest(source_y, y)
        if self.flip:
            columns, x = columns[::-1], slice(self.size[1] - x.stop, self.size[1] - x.start)
        labels = target.numpy().take(rows, axis=0).take(columns, axis=1)
        if labels.shape == self.size:
            return torch.from_numpy(labels)
        out = np.full(self.size, IGNORE_INDEX, dtype=np.uint8)
        out[y, x] = labels
        return torch.from_numpy(out)

    def points(self, xy: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Move points (N, 2) of the image to the output: float32 (N, 2).

        Points that fall outside are kept, with coordinates outside. Exact but for rounding; with `elastic`, to within
        1/1000 pixel for amplitudes up to 64.
        """
        return torch.from_numpy(self._mirror(self._forward(_array(xy, 2) + 0.5)) - 0.5).float()

    def to_image(self, xy: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The inverse of `points`: from pixels of the output back to pixels of the image, float32 (N, 2)."""
        return torch.from_numpy(self._backward(_array(xy, 2) + 0.5) - 0.5).float()

    def boxes(self, xyxy: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Move boxes (N, 4) of the image to the output: float32 (N, 4), in the same order.

        A box (x0, y0, x1, y1) holds the extreme pixel indices, inclusive. The result does too: the pixels of the
        output whose centres lie in the bounding box of the moved outline, clipped to the output. Without rotation and
        elastic that is exactly the bounding box of a rectangle in the moved mask; with them it encloses the object
        (elastic: to within a pixel). A box of which no pixel is left becomes a row of NaN.
        """
        boxes = _array(xyxy, 4)
        low, high = boxes[:, None, :2], boxes[:, None, 2:] + 1  # from the corner of the first pixel to that of the last
        outline = self._forward((low + (high - low) * _OUTLINE).reshape(-1, 2)).reshape(-1, len(_OUTLINE), 2)
        limit = np.array(self.size[::-1]) - 1
        first = np.clip(np.ceil(_snap(outline.min(1)) - 0.5), 0, None)
        last = np.clip(np.ceil(_snap(outline.max(1)) - 0.5) - 1, None, limit)
        moved = np.concatenate([first, last], axis=1)
        moved[(first > last).any(1)] = np.nan
        if self.flip:  # only now, so that an edge on a pixel's centre is decided as the mask decides it
            moved[:, [2, 0]] = limit[0] - moved[:, [0, 2]]
        return torch.from_numpy(moved).float()

    @property
    def _warped(self) -> bool:
        return self.angle != 0 or self.elastic is not None

    def _check(self, array: torch.Tensor) -> None:
        if tuple(array.shape[-2:]) != self.image_size or array.dtype != torch.uint8:
            raise ValueError(
                f"this view was drawn for uint8 of {self.image_size[1]}x{self.image_size[0]} pixels (width x height), "
                f"got {array.dtype} of shape {tuple(array.shape)}. Draw one per image: augmentation.sample(H, W, rng)."
            )

    # Positions from the corner of the image or the output, float64 (N, 2).

    def _scale(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Magnification, and the origins of window and placed window, each (x, y)."""
        source, placed = (np.array([(s.start, s.stop) for s in axes], float) for axes in (self.source, self.placed))
        return (placed[:, 1] - placed[:, 0]) / (source[:, 1] - source[:, 0]), source[:, 0], placed[:, 0]

    def _turn(self, p: np.ndarray, angle: float) -> np.ndarray:
        """Turn positions (..., 2) about the output's centre; a positive angle is counter-clockwise on the screen."""
        c, s, centre = cos(angle), sin(angle), np.array(self.size[::-1]) / 2
        return (p - centre) @ np.array([[c, -s], [s, c]]) + centre

    def _mirror(self, p: np.ndarray) -> np.ndarray:
        return np.stack([self.size[1] - p[:, 0], p[:, 1]], axis=1) if self.flip else p

    def _forward(self, p: np.ndarray) -> np.ndarray:
        """From the image to the output, as it is before mirroring."""
        scale, source, placed = self._scale()
        p = (p - source) * scale + placed
        if self.angle:
            p = self._turn(p, self.angle)
        if self.elastic is not None:
            p = self.elastic.inverse(p)
        return p

    def _backward(self, p: np.ndarray) -> np.ndarray:
        scale, source, placed = self._scale()
        p = self._mirror(p)
        if self.elastic is not None:
            p = p + self.elastic.at(p)
        if self.angle:
            p = self._turn(p, -self.angle)
        return (p - placed) / scale + source

    # Warping: only the region that the output needs is read, shrunk with antialias if at all, then sampled once.

    @cached_property
    def _region(self) -> tuple[slice, slice]:
        """The part (x, y) of the image that the output may read, in whole pixels."""
        reach = self.elastic.amplitude if self.elastic is not None else 0.0
        height, width = self.size
        corners = np.array([(x, y) for x in (-reach, width + reach) for y in (-reach, height + reach)])
        scale, source, placed = self._scale()
        corners = (self._turn(corners, -self.angle) - placed) / scale + source
        margin = ceil(2 / min(1.0, *scale))  # so that neither interpolation nor antialias sees the region's edge
        return tuple(
            slice(max(0, floor(low) - margin), min(length, ceil(high) + margin))
            for low, high, length in zip(corners.min(0), corners.max(0), self.image_size[::-1], strict=True)
        )

    @cached_property
    def _grid(self) -> torch.Tensor:
        """Where each pixel of the output reads, from -1 to 1 across the region, for grid_sample: (1, h, w, 2)."""
        height, width = self.size
        x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
        if self.flip:
            x = x[::-1]
        scale, source, placed = self._scale()
        # The way back from output to region is affine but for the displacement: find the affine map by three points.
        span = np.array([(s.stop - s.start) / 2 for s in self._region])
        start = np.array([s.start for s in self._region])
        probes = self._turn(np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]), -self.angle)
        origin, along_x, along_y = ((probes - placed) / scale + source - start) / span - 1
        along_x, along_y = along_x - origin, along_y - origin
        grid = np.empty((height, width, 2), dtype=np.float32)
        displacement = None if self.elastic is None else self.elastic.on_grid(x, y)
        for axis in (0, 1):
            from_x, from_y = origin[axis] + x * along_x[axis], y * along_y[axis]
            np.add(from_x.astype(np.float32), from_y.astype(np.float32)[:, None], out=grid[..., axis])
            if displacement is not None:
                grid[..., axis] += along_x[axis] * displacement[0] + along_y[axis] * displacement[1]
        return torch.from_numpy(grid)[None]

    def _warp_image(self, image: torch.Tensor) -> torch.Tensor:
        pixels = image[:, self._region[1], self._region[0]]
        shrink = np.minimum(1.0, self._scale()[0])
        if (shrink < 1).any():
            width, height = (max(1, round(n * s)) for n, s in zip(pixels.shape[:0:-1], shrink, strict=True))
            pixels = _resize(pixels, height, width)
        # grid_sample reads zero outside: with the outside colour taken off before and added after, that is the colour.
        pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format).sub_(_OUTSIDE)
        out = F.grid_sample(pixels[None], self._grid, align_corners=False)[0]
        return out.add_(_OUTSIDE + 0.5).to(torch.uint8)  # to the nearest whole number

    def _warp_target(self, target: torch.Tensor) -> torch.Tensor:
        labels = target[self._region[1], self._region[0]].float().sub_(IGNORE_INDEX)
        out = F.grid_sample(labels[None, None], self._grid, mode="nearest", align_corners=False)
        return out[0, 0].add_(IGNORE_INDEX).to(torch.uint8)


def _resize(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Bilinear with antialias. torch's uint8 kernel is fastest on memory in the order (H, W, 3), as in the cache."""
    if image.shape[1:] == (height, width):
        return image
    image = image[None].contiguous(memory_format=torch.channels_last)
    return F.interpolate(image, size=(height, width), mode="bilinear", antialias=True)[0]


def _nearest(source: slice, placed: slice) -> np.ndarray:
    """The source pixel under the centre of each placed pixel, along one axis, in whole numbers."""
    n, m = source.stop - source.start, placed.stop - placed.start
    return source.start + (2 * np.arange(m) + 1) * n // (2 * m)


def _outline() -> np.ndarray:
    """Points around the unit square, (N, 2), its corners among them."""
    t = np.linspace(0, 1, _OUTLINE_STEPS + 1)
    return np.concatenate([np.stack([t, 0 * t + e], 1) for e in (0, 1)] + [np.stack([0 * t + e, t], 1) for e in (0, 1)])


_OUTLINE = _outline()


def _snap(p: np.ndarray) -> np.ndarray:
    """Round away the last bits, so that an edge that lies on a pixel's centre is not a matter of rounding errors."""
    return np.round(p, 9)


def _array(values: torch.Tensor | np.ndarray, columns: int) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != columns:
        what = "points (N, 2)" if columns == 2 else "boxes (N, 4)"
        raise ValueError(f"expected {what} in pixels, got an array of shape {array.shape}.")
    return array
