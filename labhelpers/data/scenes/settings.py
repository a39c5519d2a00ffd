"""The places of the synthetic scenes: meadow, street, railway, sea and room, with what stands where in them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from labhelpers.data.scenes.drawing import Colour, Look, Part, Points, Shader, paint, smooth_noise, two_tone


@dataclass(frozen=True)
class Setting:
    """A place. `ground` and `sky` list (class name, weight) of what may stand on the ground or fly above it."""

    draw: Callable[["Backdrop"], None]
    horizon: tuple[float, float]  # range of its height, 0 top to 1 bottom
    ground: tuple[tuple[str, int], ...]
    sky: tuple[tuple[str, int], ...] = ()
    nearest: float = 0.97  # lowest place for feet
    farthest: float = 0.06  # highest, as a share of the way from the horizon down to `nearest`


class Backdrop:
    """The picture before any object is in it. `picture` is float32 (size, size, 3), `horizon` a row in 0..1."""

    def __init__(self, rng: np.random.Generator, size: int, horizon: float):
        self.rng, self.size, self.horizon = rng, size, horizon
        self.unit = size / 128
        self.row = int(horizon * size)
        self.picture = np.zeros((size, size, 3), dtype=np.float32)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def fill(self, top: int, bottom: int, first: Colour, second: Colour, rows: int, columns: int) -> None:
        """Two-tone noise over the rows `top` to `bottom`."""
        noise = smooth_noise(self.rng, max(bottom - top, 0), self.size, rows, columns)
        self.picture[top:bottom] = two_tone(noise, first, second)

    def shade(self, top: int, bottom: int, start: float, end: float) -> None:
        """Multiply the brightness by a ramp from `start` to `end` down the rows."""
        ramp = np.arange(bottom - top, dtype=np.float32) / np.float32(max(bottom - top, 1))
        self.picture[top:bottom] *= (np.float32(start) + ramp * np.float32(end - start))[:, None, None]

    def shape(self, kind: str, shader: Shader, points: Points, radius: float = 0.0, opacity: float = 1.0) -> None:
        """Draw a part given in fractions of the picture, y down."""
        points = [(x * self.size, y * self.size) for x, y in points]
        paint(self.picture, Part(kind, points, radius * self.size, shader), opacity=opacity)

    def look(self, colour: Colour, second: Colour | None = None, pattern: str = "solid", period: float = 6) -> Look:
        return Look(colour, second, pattern, period * self.unit, 0.8 * self.unit)

    def sky(self) -> None:
        """A blue sky with clouds and a sun."""
        self.fill(0, self.row, (122, 182, 232), (150, 202, 240), 2, 4)
        self.shade(0, self.row, 0.9, 1.08)
        if self.rng.random() < 0.5:
            x, y = self.uniform(0.1, 0.9), self.uniform(0.06, 0.14)
            self.shape("ellipse", self.look((255, 238, 160)), [(x, y), (x + 0.05, y), (x, y + 0.05)])
        for _ in range(int(self.rng.integers(1, 4))):
            x, y = self.uniform(0, 1), self.uniform(0.05, max(0.06, self.horizon - 0.14))
            for dx, dy, r in ((-0.06, 0.01, 0.035), (0.0, 0.0, 0.05), (0.06, 0.012, 0.032)):
                points = [(x + dx, y + dy), (x + dx + r * 1.5, y + dy), (x + dx, y + dy + r * 0.6)]
                self.shape("ellipse", cloud, points, opacity=0.8)

    def hills(self, colour: Colour) -> None:
        for _ in range(3):
            x, r = self.uniform(0, 1), self.uniform(0.2, 0.4)
            height = self.uniform(0.04, 0.11)
            y = self.horizon
            self.shape("ellipse", self.look(colour), [(x, y), (x + r, y), (x, y + height)])


def cloud(x: np.ndarray, y: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """A shader of plain white."""
    return np.broadcast_to(np.float32(246), (*distance.shape, 3))


def meadow(b: Backdrop) -> None:
    b.sky()
    b.hills((92, 140, 110))
    b.fill(b.row, b.size, (104, 150, 66), (128, 170, 78), 5, 7)
    b.shade(b.row, b.size, 1.08, 0.9)
    for _ in range(14):
        x, y = b.uniform(0, 1), b.uniform(b.horizon + 0.06, 1)
        b.shape("stroke", b.look((84, 130, 54)), [(x - 0.012, y - 0.02), (x, y), (x + 0.014, y - 0.024)], 0.004)


def street(b: Backdrop) -> None:
    b.sky()
    x = -0.05
    while x < 1:
        width, height = b.uniform(0.12, 0.2), b.uniform(0.12, 0.26)
        tone = int(b.uniform(120, 165))
        house = b.look((tone + 12, tone, tone - 8), (tone - 22, tone - 20, tone - 14), "checks", 7)
        top = max(0.02, b.horizon - height)
        b.shape("polygon", house, [(x, top), (x + width, top), (x + width, b.horizon), (x, b.horizon)])
        x += width + 0.01
    b.fill(b.row, b.size, (112, 112, 118), (124, 124, 128), 4, 6)
    curb = b.row + max(1, int(0.06 * b.size))
    b.picture[b.row : curb] = (176, 170, 160)
    b.shade(b.row, b.size, 1.05, 0.92)
    middle = b.horizon + 0.45 * (1 - b.horizon)
    for i in range(5):
        x = i * 0.25 + 0.02
        b.shape("polygon", b.look((226, 222, 206)), [(x, middle), (x + 0.13, middle), (x + 0.12, middle + 0.018),
                                                     (x - 0.01, middle + 0.018)])  # fmt: skip


def railway(b: Backdrop) -> None:
    b.sky()
    b.hills((120, 138, 96))
    b.fill(b.row, b.size, (150, 128, 104), (168, 146, 120), 9, 12)
    b.shade(b.row, b.size, 1.05, 0.92)
    for track in (0.2, 0.48, 0.8):
        y = b.horizon + track * (1 - b.horizon)
        gap = 0.05 + 0.05 * track
        x = -b.uniform(0, gap)
        while x < 1.05:
            b.shape("polygon", b.look((92, 66, 48)), [(x, y - gap / 3), (x + gap / 2.5, y - gap / 3),
                                                      (x + gap / 2.5, y + gap / 2), (x, y + gap / 2)])  # fmt: skip
            x += gap
        for dy in (-gap / 6, gap / 3):
            b.shape("stroke", b.look((196, 198, 206)), [(-0.1, y + dy), (1.1, y + dy)], 0.006)


def sea(b: Backdrop) -> None:
    b.sky()
    shore = b.row + int(0.78 * (b.size - b.row))
    b.fill(b.row, shore, (38, 110, 150), (54, 130, 166), 6, 3)
    b.shade(b.row, shore, 0.92, 1.1)
    b.fill(shore, b.size, (222, 202, 150), (232, 214, 168), 3, 8)
    for _ in range(16):
        x, y = b.uniform(0, 1), b.uniform(b.horizon + 0.02, shore / b.size - 0.02)
        w = 0.02 + 0.08 * (y - b.horizon)
        wave = [(x - w, y), (x, y - 0.006), (x + w, y)]
        b.shape("stroke", b.look((150, 202, 220)), wave, 0.004)
    b.shape("stroke", b.look((238, 244, 240)), [(-0.1, shore / b.size), (1.1, shore / b.size)], 0.008)


def room(b: Backdrop) -> None:
    wall = ((206, 196, 170), (196, 184, 156)) if b.rng.random() < 0.5 else ((176, 196, 186), (164, 186, 176))
    b.fill(0, b.row, *wall, 3, 3)
    stripe = (np.arange(b.size) // max(1, int(5 * b.unit))) % 2 == 0
    b.picture[: b.row, stripe] *= np.float32(0.965)
    x, y = b.uniform(0.06, 0.62), b.uniform(0.05, 0.12)
    w, h = b.uniform(0.2, 0.3), b.horizon * b.uniform(0.4, 0.55)
    b.shape("polygon", b.look((236, 232, 222)), [(x, y), (x + w, y), (x + w, y + h), (x, y + h)], 0.012)
    for i in range(2):
        left, right = x + i * w / 2 + 0.008, x + (i + 1) * w / 2 - 0.008
        b.shape("polygon", b.look((150, 202, 236)), [(left, y), (right, y), (right, y + h), (left, y + h)])
    b.fill(b.row, b.size, (156, 116, 78), (170, 128, 88), 4, 2)
    planks = (np.arange(b.size - b.row) // max(1, int(7 * b.unit))) % 2 == 0
    b.picture[b.row :][planks] *= np.float32(0.95)
    b.shade(b.row, b.size, 0.92, 1.06)
    b.picture[max(0, b.row - int(2 * b.unit)) : b.row] = (120, 92, 66)


SETTINGS: dict[str, Setting] = {
    "meadow": Setting(
        meadow,
        (0.30, 0.46),
        (("person", 9), ("cow", 3), ("horse", 3), ("sheep", 3), ("dog", 3), ("bird", 2), ("bicycle", 1)),
        (("bird", 2), ("aeroplane", 2)),
    ),
    "street": Setting(
        street,
        (0.32, 0.46),
        (("person", 12), ("car", 6), ("bus", 3), ("motorbike", 3), ("bicycle", 3), ("dog", 1)),
        (("bird", 1), ("aeroplane", 1)),
    ),
    "railway": Setting(railway, (0.32, 0.46), (("person", 6), ("train", 4)), (("bird", 1), ("aeroplane", 1))),
    "sea": Setting(
        sea, (0.34, 0.48), (("boat", 1),), (("bird", 1), ("aeroplane", 1)), nearest=0.84, farthest=0.1
    ),
    "room": Setting(
        room,
        (0.46, 0.56),
        (("person", 9), ("chair", 5), ("sofa", 2), ("diningtable", 2), ("tvmonitor", 2), ("bottle", 3), ("cat", 3),
         ("pottedplant", 3)),
        nearest=0.98,
        farthest=0.22,
    ),
}  # fmt: skip
