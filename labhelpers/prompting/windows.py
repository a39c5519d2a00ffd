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
            padded = outside.to(image).expand(len(image), self.y1 - self.y0, self.x1 - self.x0).clone()
            padded[:, y0 - self.y0 : y1 - self.y0, x0 - self.x0 : x1 - self.x0] = part
            part = padded
        if part.shape[1:] == (self.height, self.width):
            return part
        part = part if part.device.type == "cpu" else part.float()  # bytes can be antialiased on a CPU only
        cut = F.interpolate(part[None], (self.height, self.width), mode="bilinear", antialias=True)[0]
        return cut if cut.dtype == torch.uint8 else cut.round().to(torch.uint8)

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
        own = F.interpolate(logits[None], (self.y1 - self.y0, self.x1 - self.x0), mode="bilinear", antialias=True)[0]
        height, width = image_size
        x0, y0, x1, y1 = max(self.x0, 0), max(self.y0, 0), min(self.x1, width), min(self.y1, height)
        own = own[:, y0 - self.y0 : y1 - self.y0, x0 - self.x0 : x1 - self.x0]
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
