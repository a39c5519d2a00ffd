"""What the silhouettes of the synthetic scenes are put together with."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from labhelpers.data.scenes.shapes import Part, Points
from labhelpers.data.scenes.textures import Colour, Look

T = TypeVar("T")

LIMB = 0.0225  # half the width of thin parts: limbs are 4.5 % of the size


class Kit:
    """Collects the parts of one figure. `unit` is a pixel at 128 px image size; `rng` decides the variations."""

    def __init__(self, rng: np.random.Generator, unit: float):
        self.rng = rng
        self.unit = unit
        self.parts: list[Part] = []
        self._light = 0.92 + 0.16 * rng.random()
        self._period = (4 + 3 * rng.random()) * unit

    def pick(self, choices: Sequence[T]) -> T:
        """Choose one of `choices`."""
        return choices[int(self.rng.integers(len(choices)))]

    def look(self, colour: Colour, second: Colour | None = None, pattern: str = "solid", coarse: float = 1.0) -> Look:
        """Return a shader whose brightness and period (4 to 7 px at 128, times `coarse`) are this object's own."""
        first, second = (c and tuple(min(255, int(v * self._light)) for v in c) for c in (colour, second))
        return Look(first, second, pattern, coarse * self._period, 1.5 * self.unit)

    def poly(self, look: Look, points: Points, rounding: float = 0.0) -> None:
        self.parts.append(Part("polygon", points, rounding, look))

    def stroke(self, look: Look, points: Points, radius: float = LIMB) -> None:
        self.parts.append(Part("stroke", points, radius, look))

    def oval(self, look: Look, x: float, y: float, rx: float, ry: float) -> None:
        self.parts.append(Part("ellipse", [(x, y), (x + rx, y), (x, y + ry)], 0.0, look))

    def ring(self, look: Look, x: float, y: float, r: float, radius: float = LIMB) -> None:
        self.parts.append(Part("ring", [(x, y), (x + r, y), (x, y + r)], radius, look))

    def box(self, look: Look, x0: float, y0: float, x1: float, y1: float, rounding: float = 0.0) -> None:
        x0, y0, x1, y1 = x0 + rounding, y0 + rounding, x1 - rounding, y1 - rounding
        self.poly(look, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], rounding)
