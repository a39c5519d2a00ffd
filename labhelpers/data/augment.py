"""Joint augmentation of image, mask, points and boxes: first sample what to look at, then read only that.

`Augmentation` says what may happen, `Augmentation.sample` draws one `View` of an image of a given size, and the view is
applied to the image and to everything that belongs to it.

Randomness comes from `sample_rng(seed, epoch, index)` alone: no state is carried from sample to sample, so that the
number of workers and a restart change nothing.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, cos, floor, radians, sin

import numpy as np
import torch
import torch.nn.functional as F

from labhelpers.data.base import IGNORE_INDEX

# From bytes to the numbers a network sees: ImageNet normalisation and colour jitter, as one matrix per sample.

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of R, G, B in 0..1 over ImageNet; pretrained encoders expect them taken out."""

# How much red, green and blue count in a pixel's grey (ITU-R BT.601), as in PIL and torchvision.
_GREY = (0.299, 0.587, 0.114)


def to_input(images: torch.Tensor, colour: torch.Tensor | np.ndarray | None = None) -> torch.Tensor:
    """Normalise a batch by the ImageNet statistics, with colour jitter in the same pass, on the batch's own device.

    Brightness, then contrast about the sample's mean grey, then saturation about the pixel's own grey, then the
    normalisation are all affine in (R, G, B), so that together they are one 3x3 matrix and one offset per sample.
    With factors b, c, s, grey weights w, and the mean grey m of the sample before jitter (x in 0..1):

        y = c b (s I + (1 - s) 1 w^T) x + (1 - c) b m 1,        out = (y - mean) / std

    Unlike a chain of uint8 operations, values beyond 0..1 are kept, not clipped between the steps.

    Args:
        images: uint8 (B, 3, H, W), RGB.
        colour: (B, 3) factors of brightness, contrast and saturation, 1 for "as it is"; None normalises only.

    Returns:
        float32 (B, 3, H, W).

    Raises:
        ValueError: the images are not uint8 (B, 3, H, W), or `colour` is not (B, 3).
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"to_input needs uint8 images of shape (B, 3, H, W), got {images.dtype} {tuple(images.shape)}. "
            "Give it what the loader yields (for one image: image[None]); it normalises, so do not do so before."
        )
    mean, std = (torch.tensor(x, device=images.device)[:, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    if colour is None:
        return images.float().sub_(255 * mean[..., None]).div_(255 * std[..., None])
    colour = torch.as_tensor(colour, dtype=torch.float32, device=images.device)
    if colour.shape != (len(images), 3):
        raise ValueError(f"colour must have shape ({len(images)}, 3), one row per image, got {tuple(colour.shape)}.")

    brightness, contrast, saturation = colour[:, :, None, None].unbind(1)
    grey = torch.tensor([_GREY] * 3, device=images.device)
    mix = contrast * brightness * (saturation * torch.eye(3, device=images.device) + (1 - saturation) * grey)
    mix, from_mean = mix / (255 * std), (1 - contrast) * brightness * grey / (255 * std)

    out = torch.empty(images.shape, device=images.device)
    with torch.autocast(images.device.type, enabled=False):  # colours stay float32 also inside a mixed-precision block
        for image, matrix, mean_matrix, result in zip(images, mix, from_mean, out, strict=True):
            # One sample at a time stays in a CPU's cache: five times as fast as the product over the whole batch.
            pixels = image.to(torch.float32, memory_format=torch.contiguous_format).view(3, -1)
            offset = torch.addmm(-mean / std, mean_matrix, pixels.mean(1, keepdim=True))
            torch.addmm(offset, matrix, pixels, out=result.view(3, -1))
    return out


def denormalize(x: torch.Tensor) -> torch.Tensor:
    """Undo `to_input`, for looking at its result: float (..., 3, H, W) to uint8, rounded and clipped."""
    mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((x.float() * std + mean) * 255).round_().clamp_(0, 255).to(torch.uint8)


# A smooth random deformation that never folds: displacements on a coarse grid, joined by cubic B-splines.

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


# One view of an image, applied alike to pixels, labels, points and boxes.

# Outside the picture: the ImageNet mean colour, which normalisation turns into (almost) zero.
_OUTSIDE = torch.tensor([float(round(255 * m)) for m in IMAGENET_MEAN])[:, None, None]
# Points around the unit square, (N, 2), nine on an edge with its corners: the outline of a box, to be warped.
_EDGE = np.linspace(0, 1, 9)
_OUTLINE = np.array([point for t in _EDGE for end in (0.0, 1.0) for point in ((t, end), (end, t))])


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
        """uint8 labels (H, W) -> uint8 (h, w): the nearest label, by the same geometry; outside is 255.

        Several maps of one image, (C, H, W), go together and stay on each other: (C, h, w).
        """
        self._check(target)
        if self._warped:
            return self._warp_target(target)
        (source_x, source_y), (x, y) = self.source, self.placed
        columns, rows = _nearest(source_x, x), _nearest(source_y, y)
        if self.flip:
            columns, x = columns[::-1], slice(self.size[1] - x.stop, self.size[1] - x.start)
        labels = target.numpy().take(rows, axis=-2).take(columns, axis=-1)
        if labels.shape[-2:] == self.size:
            return torch.from_numpy(labels)
        out = np.full((*labels.shape[:-2], *self.size), IGNORE_INDEX, dtype=np.uint8)
        out[..., y, x] = labels
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

    # Positions from here on are measured from the corner of the image or the output, float64 (N, 2).

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
        x, y = (
            slice(max(0, floor(low) - margin), min(length, ceil(high) + margin))
            for low, high, length in zip(corners.min(0), corners.max(0), self.image_size[::-1], strict=True)
        )
        return x, y

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
        moved = None if self.elastic is None else self.elastic.on_grid(x, y)
        for axis in (0, 1):
            from_x, from_y = origin[axis] + x * along_x[axis], y * along_y[axis]
            np.add(from_x.astype(np.float32), from_y.astype(np.float32)[:, None], out=grid[..., axis])
            if moved is not None:
                grid[..., axis] += along_x[axis] * moved[0] + along_y[axis] * moved[1]
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
        labels = target[..., self._region[1], self._region[0]].float().sub_(IGNORE_INDEX)
        maps = labels.view(1, -1, *labels.shape[-2:])
        out = F.grid_sample(maps, self._grid, mode="nearest", align_corners=False)
        return out.view(*target.shape[:-2], *self.size).add_(IGNORE_INDEX).to(torch.uint8)


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


def _snap(p: np.ndarray) -> np.ndarray:
    """Round away the last bits, so that an edge that lies on a pixel's centre is not a matter of rounding errors."""
    return np.round(p, 9)


def _array(values: torch.Tensor | np.ndarray, columns: int) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != columns:
        what = "points (N, 2)" if columns == 2 else "boxes (N, 4)"
        raise ValueError(f"expected {what} in pixels, got an array of shape {array.shape}.")
    return array


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
