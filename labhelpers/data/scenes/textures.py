"""Colours and textures of the synthetic pictures: solid, stripes, checks, spots, and noise. Exact as in shapes.py."""

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """A shader (see shapes.py): a colour, or two in a pattern with a period in pixels, slightly darker at the rim."""

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
