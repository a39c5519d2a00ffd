"""Cutting windows and objects out of pictures, changing their colours, pasting them elsewhere."""

import numpy as np

from labhelpers.data.colour import IMAGENET_MEAN
from labhelpers.data.mixture.library import Picture

OUTSIDE = tuple(round(255 * m) for m in IMAGENET_MEAN)


def window(picture: Picture, x0: float, y0: float, side: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The square of ``side`` pixels at (x0, y0), at ``size`` pixels: image (size, size, 3), objects (size, size).

    Outside the picture lies the mean colour and no object.
    """
    import cv2

    scale = size / side
    move = np.array([[scale, 0, -x0 * scale + 0.5 * scale - 0.5], [0, scale, -y0 * scale + 0.5 * scale - 0.5]])
    nearest = {"flags": cv2.INTER_NEAREST, "borderMode": cv2.BORDER_CONSTANT, "borderValue": 0}
    objects = cv2.warpAffine(picture.objects, move, (size, size), **nearest)
    if scale >= 0.5:
        linear = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_CONSTANT, "borderValue": OUTSIDE}
        return cv2.warpAffine(picture.image, move, (size, size), **linear), objects
    # Shrunk by more than two: average over areas, or fine textures turn into noise.
    height, width = picture.objects.shape
    left, right = int(max(0, np.floor(x0))), int(min(width, np.ceil(x0 + side)))
    top, bottom = int(max(0, np.floor(y0))), int(min(height, np.ceil(y0 + side)))
    x, y = max(round((left - x0) * scale), 0), max(round((top - y0) * scale), 0)
    shape = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    small = cv2.resize(picture.image[top:bottom, left:right], shape, interpolation=cv2.INTER_AREA)
    image = np.full((size, size, 3), OUTSIDE, dtype=np.uint8)
    image[y : y + shape[1], x : x + shape[0]] = small[: size - y, : size - x]
    return image, objects


def place(picture: Picture, number: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A window in which the object lies somewhere and takes all to a fifth of the side, or the whole picture."""
    height, width = picture.objects.shape
    x0, y0, x1, y1 = picture.boxes[number]
    longer = max(x1 - x0, y1 - y0)
    kind = rng.random()
    if kind < 0.25:
        side = max(height, width) * rng.uniform(0.8, 1.05)
    elif kind < 0.6:  # as the predictor looks at a box, and again at what a click found
        side = longer * rng.uniform(1.05, 1.6)
    else:
        side = longer * np.exp(rng.uniform(np.log(1.3), np.log(4.5)))
    side = min(max(side, 40), max(height, width) * 1.1)
    room = max(0, (side - longer) / 2) + 0.12 * longer  # the object may be cut off a little
    corner = np.array([x0 + x1 - side, y0 + y1 - side]) / 2 + rng.uniform(-1, 1, 2) * room
    inside = rng.random() < 0.85
    starts = [_shift(c, side, length, inside, rng) for c, length in zip(corner, (width, height), strict=True)]
    return window(picture, *starts, side, size)


def _shift(start: float, side: float, length: int, inside: bool, rng: np.random.Generator) -> float:
    """Along one axis: the window inside the picture where it fits, else about its middle; or up to a fifth outside."""
    if not inside:
        return float(np.clip(start, *sorted((-0.2 * side, length - 0.8 * side))))
    if side <= length:
        return float(np.clip(start, 0, length - side))
    return (length - side) / 2 + rng.uniform(-0.05, 0.05) * side


def cutout(picture: Picture, number: int, longer: int) -> tuple[np.ndarray, np.ndarray]:
    """One object, its longer side at ``longer`` pixels: colours uint8 (h, w, 3) and opacity float32 (h, w), 0..1."""
    import cv2

    x0, y0, x1, y1 = picture.boxes[number]
    scale = longer / max(x1 - x0, y1 - y0)
    shape = (max(3, round((x1 - x0) * scale)), max(3, round((y1 - y0) * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    mask = (picture.objects[y0:y1, x0:x1] == number).astype(np.float32)
    return cv2.resize(picture.image[y0:y1, x0:x1], shape, interpolation=how), cv2.resize(mask, shape, interpolation=how)


def paste(
    image: np.ndarray,
    objects: np.ndarray,
    number: int,
    colours: np.ndarray,
    opacity: np.ndarray,
    rng: np.random.Generator,
) -> bool:
    """Paste a cutout at a random place, as object ``number``; in place. False: it would have been out of sight."""
    import cv2

    size, (height, width) = len(image), opacity.shape
    y = int(rng.integers(-height // 5, max(1, size - height + height // 5)))
    x = int(rng.integers(-width // 5, max(1, size - width + width // 5)))
    top, left, bottom, right = max(0, y), max(0, x), min(size, y + height), min(size, x + width)
    if min(bottom - top, right - left) < 6:
        return False
    part = (slice(top - y, bottom - y), slice(left - x, right - x))
    colours, opacity = colours[part], opacity[part]
    # A soft edge, else the seam would give every object away.
    soft = cv2.GaussianBlur(opacity, (0, 0), rng.uniform(0.4, 0.9)) if rng.random() < 0.7 else opacity
    area = (slice(top, bottom), slice(left, right))
    image[area] = (image[area] * (1 - soft[..., None]) + colours * soft[..., None]).astype(np.uint8)
    objects[area][opacity > 0.5] = number
    return True


def recolour(colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another hue, saturation and brightness: uint8 (h, w, 3)."""
    import cv2

    hsv = cv2.cvtColor(colours, cv2.COLOR_RGB2HSV).astype(np.int32)
    hsv[..., 0] = (hsv[..., 0] + int(rng.integers(180))) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.4, 1.6), 0, 255)
    hsv[..., 2] = np.clip(hsv[..., 2] * rng.uniform(0.5, 1.5), 0, 255)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)


def expose(colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another light, another camera: exposure, contrast, saturation, white balance, blur, noise; uint8 (h, w, 3)."""
    import cv2

    x = colours.astype(np.float32)
    if rng.random() < 0.8:
        x = x * rng.uniform(0.65, 1.4)
        x = (x - x.mean()) * rng.uniform(0.6, 1.4) + x.mean()
        grey = (x @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]
        x = grey + (x - grey) * (rng.uniform(0.3, 1.5) if rng.random() < 0.85 else 0)
        x = x * rng.uniform(0.85, 1.15, (1, 1, 3)).astype(np.float32)
    if rng.random() < 0.2:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.3:
        x = x + rng.normal(0, rng.uniform(1, 8), x.shape).astype(np.float32)
    return np.clip(x, 0, 255).astype(np.uint8)


def turn(
    colours: np.ndarray, mask: np.ndarray, degrees: float, scale: float, border: int, stretch: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Turn colours (h, w, 3) and what belongs to them (h, w) about their middle; labels stay labels.

    Before that they become ``stretch`` times as wide and as much lower.
    """
    import cv2

    height, width = mask.shape
    move = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, scale)
    middle = move @ [width / 2, height / 2, 1]
    move[:, :2] *= [stretch, 1 / stretch]
    move[:, 2] += middle - move @ [width / 2, height / 2, 1]
    how = cv2.INTER_NEAREST if mask.dtype == np.uint8 else cv2.INTER_LINEAR
    colours = cv2.warpAffine(np.ascontiguousarray(colours), move, (width, height), borderMode=border)
    return colours, cv2.warpAffine(np.ascontiguousarray(mask), move, (width, height), flags=how, borderMode=border)
