"""A small exact rasteriser: polygons, strokes and ellipses by signed distance, and what they are filled with.

Scenes must be the same on every platform, so everything here uses only + - * /, square root, floor, comparisons and
table constants, element by element in float32. IEEE 754 rounds each of these correctly, hence identically everywhere;
sine, exp, matrix products and sums over floats, whose last bit depends on the library or the order, are not used.

Coordinates are (x, y) in pixels, y down; the centre of the first pixel is (0.5, 0.5).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Points = Sequence[tuple[float, float]]
Colour = tuple[int, ...]
Shader = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""`shader(x, y, distance)` with x (1, w), y (h, 1), distance (h, w) gives RGB (h, w, 3) in 0..255 as float32."""


@dataclass(frozen=True, slots=True)
class Part:
    """One drawn piece of an object.

    `kind` is "polygon" (closed), "stroke" (open line), "ellipse" or "ring" (the outline of an ellipse). An ellipse's
    points are its centre and the ends of two perpendicular half-axes, so that moving an object moves all alike.
    `radius` inflates polygons, and is half the width of strokes and rings.
    """

    kind: str
    points: Points
    radius: float
    shader: Shader

    def placed(self, x: float, y: float, scale: float, flip: bool, tilt: float, thinnest: float) -> "Part":
        """Return the part at pixel (x, y): figure units (y up) times `scale`, mirrored, turned by 2 atan(tilt).

        No stroke or ring gets a radius under `thinnest` pixels.
        """
        cos, sin = (1 - tilt * tilt) / (1 + tilt * tilt), 2 * tilt / (1 + tilt * tilt)  # no library sine needed
        mirror = -1 if flip else 1
        points = [
            (x + scale * (cos * mirror * u - sin * v), y - scale * (sin * mirror * u + cos * v)) for u, v in self.points
        ]
        radius = self.radius * scale
        if self.kind in ("stroke", "ring"):
            radius = max(radius, thinnest)
        return Part(self.kind, points, radius, self.shader)

    def box(self) -> tuple[float, float, float, float]:
        """Return the bounding box (x0, y0, x1, y1)."""
        points = self.points
        if self.kind in ("ellipse", "ring"):
            (cx, cy), (ax, ay), (bx, by) = points
            dx, dy = abs(ax - cx) + abs(bx - cx), abs(ay - cy) + abs(by - cy)
            points = [(cx - dx, cy - dy), (cx + dx, cy + dy)]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return min(xs) - self.radius, min(ys) - self.radius, max(xs) + self.radius, max(ys) + self.radius

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the signed distance in pixels, negative inside, at x (1, w) and y (h, 1): float32 (h, w)."""
        points = np.array(self.points, dtype=np.float32)
        if self.kind in ("ellipse", "ring"):
            distance = _ellipse_distance(points, x, y)
            return distance if self.kind == "ellipse" else np.abs(distance) - np.float32(self.radius)
        return _line_distance(points, x, y, closed=self.kind == "polygon") - np.float32(self.radius)


def _line_distance(points: np.ndarray, x: np.ndarray, y: np.ndarray, closed: bool) -> np.ndarray:
    """Distance to a chain of segments (one per entry of axis 0); inside a closed one (even-odd rule) it is negative."""
    ends = np.concatenate([points[1:], points[:1]]) if closed else points[1:]
    starts = points[: len(ends)]
    ax, ay = starts[:, 0, None, None], starts[:, 1, None, None]
    dx, dy = ends[:, 0, None, None] - ax, ends[:, 1, None, None] - ay
    px, py = x - ax, y - ay
    shorten = 1 / np.maximum(dx * dx + dy * dy, np.float32(1e-6))
    t = px * (dx * shorten) + py * (dy * shorten)
    t = np.minimum(np.maximum(t, 0), 1)
    ex, ey = px - t * dx, py - t * dy
    distance = np.sqrt(np.minimum.reduce(ex * ex + ey * ey, axis=0))
    if not closed:
        return distance
    slope = dx / np.where(dy == 0, np.float32(1), dy)  # a level edge is never crossed
    crossed = ((py < 0) != (py < dy)) & (px < py * slope)
    return np.where(np.logical_xor.reduce(crossed, axis=0), -distance, distance)


def _ellipse_distance(points: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """First-order distance to an ellipse, f |p| / |grad f|: exact on the outline and for circles."""
    (cx, cy), (ax, ay), (bx, by) = points[0], points[1] - points[0], points[2] - points[0]
    a2, b2 = ax * ax + ay * ay, bx * bx + by * by
    px, py = x - cx, y - cy
    u, v = px * (ax / a2) + py * (ay / a2), px * (bx / b2) + py * (by / b2)
    u, v = u * u, v * v
    k = np.sqrt(u + v)
    slope = np.sqrt(u / a2 + v / b2)
    return np.where(k > np.float32(0.05), k * (k - 1) / np.maximum(slope, np.float32(1e-6)), -np.sqrt(min(a2, b2)))


def window(
    box: tuple[float, float, float, float], height: int, width: int
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Return the (rows, columns) of a picture that `box` touches, and their pixel centres x (1, w) and y (h, 1)."""
    x0, y0, x1, y1 = box
    left, top = min(max(0, math.floor(x0) - 1), width), min(max(0, math.floor(y0) - 1), height)
    right, bottom = max(left, min(width, math.ceil(x1) + 1)), max(top, min(height, math.ceil(y1) + 1))
    x = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5)
    return (slice(top, bottom), slice(left, right)), x, y


def blend(
    view: np.ndarray, colour: np.ndarray | np.float32, distance: np.ndarray, opacity: float = 1.0, soft: float = 1.0
) -> None:
    """Lay `colour` over `view` (h, w, 3) where the distance (h, w) is negative, fading out over `soft` pixels."""
    alpha = np.minimum(np.maximum(np.float32(0.5) - distance / np.float32(soft), 0), 1) * np.float32(opacity)
    view += (colour - view) * alpha[:, :, None]


def paint(picture: np.ndarray, part: Part, mask: np.ndarray | None = None, opacity: float = 1.0) -> None:
    """Draw `part` onto `picture` (float32 (H, W, 3)), anti-aliased, and mark its pixels in `mask` (bool (H, W))."""
    where, x, y = window(part.box(), *picture.shape[:2])
    if x.size == 0 or y.size == 0:
        return
    distance = part.distance(x, y)
    blend(picture[where], part.shader(x, y, distance), distance, opacity)
    if mask is not None:
        mask[where] |= distance <= 0


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return `mask` (bool (H, W)) enlarged by `pixels` steps to the 8 neighbours, clipped at the picture's edge."""
    for _ in range(pixels):
        wide = mask.copy()
        wide[:, 1:] |= mask[:, :-1]
        wide[:, :-1] |= mask[:, 1:]
        mask = wide.copy()
        mask[1:] |= wide[:-1]
        mask[:-1] |= wide[1:]
    return mask


# Colours and textures: solid, stripes, checks, spots, and noise, as exact as the shapes.


@dataclass(frozen=True)
class Look:
    """A shader: a colour, or two in a pattern with a period in pixels, slightly darker at the rim."""

    colour: Colour
    second: Colour | None = None
    pattern: str = "solid"
    period: float = 5.0
    outline: float = 1.5  # pixels over which the rim darkens: what makes a flat silhouette look like an object

    def __call__(self, x: np.ndarray, y: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """RGB (h, w, 3) float32 in 0..255 at x (1, w), y (h, 1), for the signed distance to the outline (h, w)."""
        rim = np.minimum(np.maximum(1 + distance * np.float32(1 / self.outline), 0), 1)
        shade = 1 - np.float32(0.3) * rim
        colour = np.asarray(self.colour, dtype=np.float32)
        if self.pattern != "solid":
            ink = _PATTERNS[self.pattern](x, y, np.float32(self.period))
            colour = colour + (np.asarray(self.second, dtype=np.float32) - colour) * ink[:, :, None]
        return colour * shade[:, :, None]


def shadow(x: np.ndarray, y: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """A shader of near-black, for soft shadows (drawn with an opacity)."""
    return np.broadcast_to(np.asarray((18, 18, 26), dtype=np.float32), (*distance.shape, 3))


def _wave(v: np.ndarray, period: np.float32) -> np.ndarray:
    """Anti-aliased square wave in 0..1, half a period on."""
    phase = v / period
    phase = phase - np.floor(phase)
    return np.clip((np.abs(2 * phase - 1) - np.float32(0.5)) * period / 2 + np.float32(0.5), 0, 1)


def _checks(x: np.ndarray, y: np.ndarray, period: np.float32) -> np.ndarray:
    a, b = _wave(x, period), _wave(y, period)
    return a + b - 2 * a * b


def _spots(x: np.ndarray, y: np.ndarray, period: np.float32) -> np.ndarray:
    row = np.floor(y / period)
    u = x / period + row / 2  # every other row half a step aside
    u, v = u - np.floor(u) - np.float32(0.5), y / period - row - np.float32(0.5)
    return np.clip((np.float32(0.36) - np.sqrt(u * u + v * v)) * period + np.float32(0.5), 0, 1)


_PATTERNS = {
    "upright": lambda x, y, period: _wave(x, period) + 0 * y,
    "level": lambda x, y, period: _wave(y, period) + 0 * x,
    "slanted": lambda x, y, period: _wave(x + y, period * np.float32(1.25)),
    "checks": _checks,
    "spots": _spots,
}


def smooth_noise(rng: np.random.Generator, height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """Return float32 noise (height, width) in 0..1 with about `rows` x `columns` blobs (interpolated grid)."""
    grid = rng.random((rows + 2, columns + 2), dtype=np.float32)
    i, u = _grid_position(height, rows)
    j, v = _grid_position(width, columns)
    upper = grid[i][:, j] + (grid[i][:, j + 1] - grid[i][:, j]) * v[None, :]
    lower = grid[i + 1][:, j] + (grid[i + 1][:, j + 1] - grid[i + 1][:, j]) * v[None, :]
    return upper + (lower - upper) * u[:, None]


def _grid_position(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    position = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) * np.float32(cells / pixels)
    cell = np.floor(position)
    u = position - cell
    return cell.astype(np.int64), u * u * (3 - 2 * u)


def two_tone(noise: np.ndarray, first: Colour, second: Colour) -> np.ndarray:
    """Return RGB float32 (H, W, 3): two colours in patches, where noise (H, W) is below or above one half."""
    mix = np.clip((noise - np.float32(0.5)) * 4 + np.float32(0.5), 0, 1)[:, :, None]
    a, b = np.asarray(first, dtype=np.float32), np.asarray(second, dtype=np.float32)
    return a + (b - a) * mix


def grain(rng: np.random.Generator, picture: np.ndarray, amount: int) -> None:
    """Add grey noise of -amount..amount to every pixel of `picture` (float32 (H, W, 3)), in place."""
    height, width = picture.shape[:2]
    picture += rng.integers(-amount, amount + 1, size=(height, width, 1), dtype=np.int16).astype(np.float32)


def finish(picture: np.ndarray) -> np.ndarray:
    """Round float RGB to uint8."""
    return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
