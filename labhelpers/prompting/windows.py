"""Windows of an image: the whole of it, or a square around something, at the size at which a network sees it."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from labhelpers.data.augment import IMAGENET_MEAN

_OUTSIDE = torch.tensor([255 * m for m in IMAGENET_MEAN]).round()[:, None, None]


@dataclass(frozen=True)
class Window:
    """The pixels from (x0, y0) to (x1, y1), the latter excluded, seen at `width` x `height`; it may stick out."""

    x0: int
    y0: int
    x1: int
    y1: int
    width: int
    height: int

    @classmethod
    def whole(cls, image_size: tuple[int, int], side: int) -> "Window":
        """All of an image of size (H, W), its longer side at `side` pixels."""
        height, width = image_size
        scale = side / max(image_size)
        return cls(0, 0, width, height, max(1, round(width * scale)), max(1, round(height * scale)))

    @classmethod
    def around(cls, box: np.ndarray, margin: float, image_size: tuple[int, int], side: int) -> "Window":
        """The square around a box (x0, y0, x1, y1), inclusive, `margin` times its longer side, at `side` pixels.

        Its place and size are rounded to an eighth of it, so that a box a little different gives the same window.
        Where it can it lies inside the image.
        """
        box = np.asarray(box, dtype=np.float64)
        extent = margin * max(box[2] - box[0] + 1, box[3] - box[1] + 1, 24)
        extent = 8 * max(4, round(2 ** (np.ceil(4 * np.log2(extent)) / 4) / 8))
        step = extent // 8
        starts = []
        for low, high, length in ((box[0], box[2], image_size[1]), (box[1], box[3], image_size[0])):
            start = step * round(((low + high + 1 - extent) / 2) / step)
            starts.append(min(max(start, 0), length - extent) if extent <= length else (length - extent) // 2)
        return cls(starts[0], starts[1], starts[0] + extent, starts[1] + extent, side, side)

    def cut(self, image: Tensor, outside: Tensor = _OUTSIDE) -> Tensor:
        """uint8 (C, H, W) -> uint8 (C, height, width); beyond the image: `outside`, by default the mean colour."""
        _, height, width = image.shape
        x0, y0, x1, y1 = max(self.x0, 0), max(self.y0, 0), min(self.x1, width), min(self.y1, height)
        part = image[:, y0:y1, x0:x1]
        if (x0, y0, x1, y1) != (self.x0, self.y0, self.x1, self.y1):
            # A square around something very long is mostly beyond the image: it is put together at a smaller size.
            fold = max(1, (self.x1 - self.x0) // (8 * self.width))
            if fold > 1:
                part = _resized(part, max(1, (y1 - y0) // fold), max(1, (x1 - x0) // fold))
            top, left = (y0 - self.y0) // fold, (x0 - self.x0) // fold
            size = [-(-length // fold) for length in (self.y1 - self.y0, self.x1 - self.x0)]
            padded = outside.to(image).expand(len(image), *size).clone()
            padded[:, top : top + part.shape[1], left : left + part.shape[2]] = part
            part = padded
        return _resized(part, self.height, self.width)

    def points(self, xy: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of the image as pixels of the window, float32."""
        origin, scale = np.array([self.x0, self.y0]), self._scale()
        return ((xy + 0.5 - origin) * scale - 0.5).astype(np.float32)

    def box(self, box: np.ndarray) -> np.ndarray:
        """A box (4,), extreme pixel indices, inclusive, of the image -> of the window, float32."""
        corners = np.array([[box[0], box[1]], [box[2] + 1, box[3] + 1]])  # from the first pixel's corner to the last's
        (x0, y0), (x1, y1) = (corners - [self.x0, self.y0]) * self._scale()
        return np.array([x0, y0, x1 - 1, y1 - 1], dtype=np.float32)

    def paste(self, logits: Tensor, image_size: tuple[int, int], outside: float) -> Tensor:
        """Logits (C, h, w) of the window, at any resolution -> (C, H, W) of the image; beyond it `outside`."""
        spans = (self.y0, self.y1), (self.x0, self.x1)
        seen = [(max(low, 0), min(high, end)) for (low, high), end in zip(spans, image_size, strict=True)]
        own = logits[None]
        # One axis after the other, the rows first if few are seen: a square around something long is never made whole.
        for axis in (0, 1) if 4 * (seen[0][1] - seen[0][0]) < self.y1 - self.y0 else (1, 0):
            (low, high), (start, stop), size = spans[axis], seen[axis], list(own.shape[2:])
            size[axis] = high - low
            own = F.interpolate(own, size, mode="bilinear", antialias=True).narrow(2 + axis, start - low, stop - start)
        own, ((y0, y1), (x0, x1)) = own[0], seen
        if own.shape[1:] == image_size:
            return own
        out = logits.new_full((len(logits), *image_size), outside)
        out[:, y0:y1, x0:x1] = own
        return out

    def contains(self, xy: np.ndarray) -> np.ndarray:
        """Whether points (N, 2) of the image lie in the window: bool (N,). A pixel reaches half a pixel either way."""
        return np.all((xy + 0.5 >= [self.x0, self.y0]) & (xy + 0.5 < [self.x1, self.y1]), axis=1)

    def _scale(self) -> np.ndarray:
        return np.array([self.width / (self.x1 - self.x0), self.height / (self.y1 - self.y0)])


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """uint8 (C, H, W) -> uint8 (C, height, width)."""
    if image.shape[1:] == (height, width):
        return image
    image = image if image.device.type == "cpu" else image.float()  # bytes can be antialiased on a CPU only
    resized = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
    return resized if resized.dtype == torch.uint8 else resized.round().to(torch.uint8)
