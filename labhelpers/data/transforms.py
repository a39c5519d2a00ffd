"""Joint augmentation of image, mask, points and boxes: first sample what to look at, then read only that.

`Augmentation` says what may happen, `Augmentation.sample` draws one `View` of an image of a given size, and the view is
applied to the image and to everything that belongs to it.

Randomness comes from `sample_rng(seed, epoch, index)` alone: no state is carried from sample to sample, so that the
number of workers and a restart change nothing.
"""

from dataclasses import dataclass
from math import radians

import numpy as np

from labhelpers.data.elastic import Elastic
from labhelpers.data.view import View

__all__ = ["Augmentation", "sample_rng"]


def sample_rng(seed: int, epoch: int, index: int, repeat: int = 0) -> np.random.Generator:
    """The generator for one sample: a function of its arguments alone, on every platform and in every process.

    Args:
        repeat: how often image `index` was drawn before in this epoch; only oversampling draws an image twice.
    """
    return np.random.default_rng((seed, epoch, index, repeat))


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image. The defaults are the course's: scale 0.5 to 2, crop 256, flip.

    Attributes:
        crop: side of the square output in pixels; None keeps the size of the image.
        scale: range of the magnification, drawn uniformly; where it leaves the image smaller than the crop, the image
            is placed at random in the crop and the rest is void (255; in the image the ImageNet mean colour).
        flip: mirror left to right, half of the time.
        rotation: largest angle in degrees, either way, about the centre of the crop.
        elastic: largest displacement in pixels of a smooth random deformation, for very small sets; crop / 32 is mild.
        brightness, contrast, saturation: largest change f of each factor, drawn from 1 - f to 1 + f.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    crop: int | None = 256
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    rotation: float = 0.0
    elastic: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self):
        if self.crop is not None and self.crop < 1:
            raise ValueError(f"crop must be at least 1 pixel (or None for the whole image), got {self.crop}.")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high, got {self.scale}.")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation must be in 0..180 degrees, got {self.rotation}.")
        if self.elastic < 0:
            raise ValueError(f"elastic must be 0 (off) or a displacement in pixels, got {self.elastic}.")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1 (0 is off), got {getattr(self, name)}.")

    def sample(self, height: int, width: int, rng: np.random.Generator) -> View:
        """Draw one view of an image of `height` x `width` pixels."""
        size = (height, width) if self.crop is None else (self.crop, self.crop)
        scale = rng.uniform(*self.scale)
        y, placed_y = _window(height, size[0], scale, rng)
        x, placed_x = _window(width, size[1], scale, rng)
        flip = self.flip and rng.random() < 0.5
        angle = radians(rng.uniform(-self.rotation, self.rotation)) if self.rotation else 0.0
        elastic = Elastic.sample(size, self.elastic, rng) if self.elastic else None
        change = np.array([self.brightness, self.contrast, self.saturation])
        colour = (1 + change * rng.uniform(-1, 1, 3)).astype(np.float32)
        return View((height, width), size, (x, y), (placed_x, placed_y), flip, angle, elastic, colour)


def _window(length: int, out: int, scale: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """Along one axis: which pixels of the image (`length`) go where in the output (`out`), at about this scale.

    Both are whole pixels, so that nothing is read in part: the scale that results is within half a pixel of the one
    asked for. Either the window lies inside the image and fills the output, or it is the whole image, somewhere inside.
    """
    window = max(1, round(out / scale))
    if window <= length:
        start = int(rng.integers(length - window + 1))
        return slice(start, start + window), slice(0, out)
    placed = max(1, round(length * out / window))
    start = int(rng.integers(out - placed + 1))
    return slice(0, length), slice(start, start + placed)
