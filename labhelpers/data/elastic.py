"""A smooth random deformation that never folds: displacements on a coarse grid, joined by cubic B-splines.

U-Net trains on few images by displacing a coarse grid at random and interpolating between (Ronneberger et al., MICCAI
2015, section 3.1). B-splines (the free-form deformation of Rueckert et al., IEEE TMI 1999) make it provably invertible.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Elastic"]

# Knots at least this many amplitudes apart. A cubic B-spline's slope is at most the largest difference of neighbouring
# knots over their distance, 2a / 8a, in x and in y: so the displacement changes by at most half of what the position
# does, the deformation cannot fold, and fixed-point iteration inverts it, halving the error each time.
_AMPLITUDES_PER_KNOT = 8
_SMALLEST_SPACING = 32  # pixels
_INVERSE_ITERATIONS = 16


@dataclass(frozen=True, eq=False)
class Elastic:
    """A displacement field over an output of some size.

    Attributes:
        knots: float64 (2, rows, columns), displacement in x and in y, pixels.
        spacing: distance between knots, pixels.
    """

    knots: np.ndarray
    spacing: float

    @classmethod
    def sample(cls, size: tuple[int, int], amplitude: float, rng: np.random.Generator) -> "Elastic":
        """Draw a field for an output of `size` (height, width); nothing moves by more than `amplitude` in x or y."""
        spacing = max(_SMALLEST_SPACING, _AMPLITUDES_PER_KNOT * amplitude)
        rows, columns = (int(n / spacing) + 4 for n in size)
        return cls(rng.uniform(-amplitude, amplitude, (2, rows, columns)), spacing)

    @property
    def amplitude(self) -> float:
        """The largest displacement, pixels."""
        return float(np.abs(self.knots).max())

    def on_grid(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Displacement at every pair of `x` (W,) and `y` (H,): float64 (2, H, W)."""
        return self._basis(y, 1) @ self.knots @ self._basis(x, 2).T

    def at(self, xy: np.ndarray) -> np.ndarray:
        """Displacement at points (N, 2), the same function as `on_grid`: float64 (N, 2)."""
        return np.einsum("nr,drc,nc->nd", self._basis(xy[:, 1], 1), self.knots, self._basis(xy[:, 0], 2))

    def inverse(self, xy: np.ndarray) -> np.ndarray:
        """Solve p + at(p) = xy for p, (N, 2), to within amplitude / 2**16."""
        p = xy
        for _ in range(_INVERSE_ITERATIONS):
            p = xy - self.at(p)
        return p

    def _basis(self, x: np.ndarray, axis: int) -> np.ndarray:
        """Weights of the knots along `axis` at positions `x`, (N, knots); positions outside take the edge's."""
        n = self.knots.shape[axis]
        t = np.clip(np.asarray(x, dtype=np.float64) / self.spacing, 0, n - 3 - 1e-9)
        d = np.abs(t[:, None] - (np.arange(n) - 1))  # distance to each knot; the first lies one spacing outside
        near, far = 2 / 3 - d**2 * (1 - d / 2), np.clip(2 - d, 0, None) ** 3 / 6
        return np.where(d < 1, near, far)
