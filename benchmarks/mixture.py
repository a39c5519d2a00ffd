"""What Mini-SAM's shipped weights learn from: windows of photographs, pasted objects, shapes with textures."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from labhelpers.data.augment import IMAGENET_MEAN
from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset
from labhelpers.data.reading import read_image, read_labels
from labhelpers.data.voc import visible_objects


@dataclass(frozen=True)
class Picture:
    """An image and its numbered objects."""

    image: np.ndarray  # uint8 (H, W, 3)
    objects: np.ndarray  # uint8 (H, W), 0 background, 255 void
    boxes: dict[int, tuple[int, int, int, int]]  # of each object: x0, y0, x1, y1, ends excluded
    weights: np.ndarray  # float (len(boxes),), how often each is drawn


def blob(size: int, rng: np.random.Generator) -> np.ndarray:
    """A wobbly disc, a polygon or an ellipse, turned and stretched, one in five with a hole: uint8 (h, w)."""
    import cv2

    kind = rng.random()
    if kind < 0.75:  # a circle whose radius is a sum of waves
        angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        wobble, radius = rng.uniform(0.05, 0.5), np.ones(96)
        for k in range(1, 7):
            radius += wobble / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
        radius = np.clip(radius, 0.12, None)
    elif kind < 0.9:
        corners = int(rng.integers(3, 8))
        angle, radius = np.sort(rng.uniform(0, 2 * np.pi, corners)), rng.uniform(0.5, 1, corners)
    else:
        angle, radius = np.linspace(0, 2 * np.pi, 96, endpoint=False), np.ones(96)
    x, y = radius * np.cos(angle), radius * np.sin(angle) * rng.uniform(0.3, 1)
    turn = rng.uniform(0, 2 * np.pi)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    x, y = (x - x.min()) / (np.ptp(x) + 1e-6), (y - y.min()) / (np.ptp(y) + 1e-6)
    aspect = np.exp(rng.uniform(-0.7, 0.7))
    width, height = (1, aspect) if aspect < 1 else (1 / aspect, 1)
    mask = np.zeros((size, size), dtype=np.uint8)
    outline = np.stack([x * width * (size - 1), y * height * (size - 1)], axis=1)
    cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
    if rng.random() < 0.2:
        centre = (int(size * width / 2), int(size * height / 2))
        cv2.circle(mask, centre, max(1, int(size * rng.uniform(0.08, 0.2))), 0, -1)
    if not mask.any():  # nothing but a hole
        return np.ones_like(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def pattern(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A colour with soft noise, a slope of brightness and, one in three, stripes: uint8 (height, width, 3)."""
    import cv2

    cells = (max(2, height // int(rng.integers(2, 9))), max(2, width // int(rng.integers(2, 9))))
    noise = rng.normal(size=(*cells, 1 if rng.random() < 0.6 else 3)).astype(np.float32)
    noise = cv2.resize(noise, (width, height)).reshape(height, width, -1)
    y, x = np.mgrid[:height, :width]
    direction = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(direction) + y * np.sin(direction)
    out = rng.uniform(0, 255, 3) + noise * rng.uniform(3, 50)
    out = out + (along / max(height, width) * rng.uniform(-60, 60))[..., None]
    if rng.random() < 0.3:
        out = out + (np.sign(np.sin(2 * np.pi * along / rng.uniform(3, 12))) * rng.uniform(10, 60))[..., None]
    return np.clip(out, 0, 255).astype(np.uint8)


# Cutting windows and objects out of pictures, changing their colours, pasting them elsewhere.


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


# Labelled images in memory, and the objects in them.


SMALLEST = 200  # pixels of an object worth cutting out
LARGEST_OBJECT_NUMBER = 254  # 255 is void


class ObjectFolder:
    """A folder in VOC layout of which only pictures and objects count: what they are called need not be known."""

    def __init__(self, root: Path, split: str):
        self.root, self.name = root, root.name
        self.ids = (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()

    def __len__(self) -> int:
        return len(self.ids)

    def load_image(self, index: int) -> torch.Tensor:
        return torch.from_numpy(read_image(self.root / "JPEGImages" / f"{self.ids[index]}.jpg").copy()).permute(2, 0, 1)

    def instances(self, index: int) -> torch.Tensor:
        return torch.from_numpy(
            read_labels(self.root / "SegmentationObject" / f"{self.ids[index]}.png", voc_labels=255)
        )


class Library:
    """The images of one or more data sets that hold at least one object, to draw from.

    Args:
        datasets: data sets with instance masks; a data set without any is made of :func:`components`.
        smallest: pixels below which an object is left out.

    Raises:
        ValueError: no image holds such an object.
    """

    def __init__(self, datasets: Sequence["SegmentationDataset | ObjectFolder"], smallest: int = SMALLEST):
        self.pictures: list[Picture] = []
        for dataset in datasets:
            for index in range(len(dataset)):
                image = np.ascontiguousarray(dataset.load_image(index).permute(1, 2, 0).numpy())
                try:
                    objects = dataset.instances(index).numpy()
                except (FileNotFoundError, AttributeError):
                    objects = components(dataset.load_target(index).numpy())
                boxes = {number: _box(objects == number) for number in visible_objects(objects, smallest)}
                if boxes:
                    weights = np.sqrt(np.bincount(objects.ravel())[list(boxes)])
                    self.pictures.append(Picture(image, objects, boxes, weights / weights.sum()))
        if not self.pictures:
            raise ValueError(f"no object of at least {smallest} pixels in {', '.join(d.name for d in datasets)}")
        counts = np.sqrt([len(picture.boxes) for picture in self.pictures])
        self.weights = counts / counts.sum()

    def draw(self, rng: np.random.Generator) -> tuple[Picture, int]:
        """A picture, by the root of how many objects it has, and one of them, by the root of its area."""
        picture = self.pictures[int(rng.choice(len(self.pictures), p=self.weights))]
        return picture, list(picture.boxes)[int(rng.choice(len(picture.boxes), p=picture.weights))]


def components(target: np.ndarray, smallest: int = 150, most: int = 120) -> np.ndarray:
    """Connected regions of one class as objects, where nobody has told the objects apart.

    Args:
        target: uint8 labels (H, W), 255 void.
        smallest: pixels; smaller regions are background.
        most: only so many are kept, the largest.

    Returns:
        uint8 (H, W), 0 background, 255 void, else the region's number.
    """
    from scipy.ndimage import label

    regions = []
    for value in np.unique(target[target != IGNORE_INDEX]):
        numbered, count = label(target == value)
        areas = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
        regions += [(int(area), numbered == n + 1) for n, area in enumerate(areas) if area >= smallest]
    regions.sort(key=lambda region: -region[0])
    objects = np.zeros(target.shape, dtype=np.uint8)
    for number, (_, mask) in enumerate(regions[: min(most, LARGEST_OBJECT_NUMBER)], start=1):
        objects[mask] = number
    objects[target == IGNORE_INDEX] = IGNORE_INDEX
    return objects


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


# The mixture as a data set: item i is drawn from (seed, i) alone.


KINDS = ("photos", "regions", "scenes", "blobs", "pasted")


class ObjectMixture(SegmentationDataset):
    """Windows of pictures with numbered objects: items `(image, objects)`, uint8 (3, S, S) and uint8 (S, S).

    Args:
        photos: photographs with instances, to look at and to cut out from.
        regions: pictures whose regions count as objects, ground and sky among them; may be missing.
        scenes: the synthetic scenes; may be missing.
        shares: of the kinds of pictures: windows of photos, of regions, of scenes; blobs with textures; objects pasted.
        size: S, pixels.
        length: how many items there are to draw; none is kept.

    Raises:
        ValueError: the shares are not five numbers >= 0, or one is above 0 for a library that is missing.
    """

    def __init__(
        self,
        photos: Library,
        regions: Library | None = None,
        scenes: Library | None = None,
        shares: tuple[float, ...] = (0.5, 0.15, 0.08, 0.05, 0.22),
        size: int = 128,
        length: int = 1_000_000,
        seed: int = 0,
    ):
        self.libraries: Mapping[str, Library | None] = {"photos": photos, "regions": regions, "scenes": scenes}
        missing = [
            k for k, share in zip(KINDS, shares, strict=False) if share and self.libraries.get(k, photos) is None
        ]
        if len(shares) != len(KINDS) or min(shares) < 0 or not sum(shares) or missing:
            raise ValueError(
                f"shares must be {len(KINDS)} numbers >= 0, of {', '.join(KINDS)}, and 0 for what is missing "
                f"({', '.join(missing) or 'nothing'}); got {shares}"
            )
        self.shares, self.size, self.length, self.seed = np.array(shares) / sum(shares), size, length, seed
        self.name, self.split = "object mixture", "train"
        self.class_names, self.num_classes = ("background", "object"), 2
        self.ids = range(length)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(f"item {index} of {self.length}")
        rng = np.random.default_rng((self.seed, index))
        kind = KINDS[rng.choice(len(KINDS), p=self.shares)]
        if kind in self.libraries:
            image, objects = place(*self.libraries[kind].draw(rng), self.size, rng)
        else:
            image, objects = self._pasted(kind == "blobs", rng)
        if rng.random() < 0.5:
            image, objects = image[:, ::-1], objects[:, ::-1]
        if kind in self.libraries and rng.random() < 0.5:
            import cv2

            stretch = np.exp(rng.uniform(-0.25, 0.25))
            how = {"scale": rng.uniform(0.85, 1.2), "stretch": stretch, "border": cv2.BORDER_REFLECT_101}
            image, objects = turn(image, objects, rng.uniform(-25, 25), **how)
        if kind in self.libraries and rng.random() < 0.25:
            image = recolour(image, rng)  # few photographs are soon known by their colours
        image = np.ascontiguousarray(expose(image, rng).transpose(2, 0, 1))
        return torch.from_numpy(image), torch.from_numpy(np.ascontiguousarray(objects))

    def load_image(self, index: int) -> torch.Tensor:
        return self[index][0]

    def load_target(self, index: int) -> torch.Tensor:
        return self[index][1]

    instances = load_target

    def fingerprint(self) -> str:
        pictures = [picture for library in self.libraries.values() if library for picture in library.pictures]
        sums = [int(picture.image.sum()) + int(picture.objects.sum()) for picture in pictures]
        facts = (sums, self.shares.tolist(), self.size, self.length, self.seed)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def _pasted(self, blobs: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One to three objects on a picture; with ``blobs`` shapes, on a picture that then counts as background."""
        if rng.random() < 0.5:
            image, objects = place(*self._any(rng, (0.7, 0.3, 0)).draw(rng), self.size, rng)
            if blobs:
                objects = np.zeros_like(objects)
        else:
            image, objects = self._background(rng), np.zeros((self.size, self.size), dtype=np.uint8)
        taken = set(np.unique(objects).tolist())
        for _ in range(int(rng.integers(1, 4))):
            longer = int(self.size * np.exp(rng.uniform(np.log(0.15), np.log(0.95))))
            colours, opacity = self._shape(longer, rng) if blobs else self._object(longer, rng)
            if rng.random() < 0.5:
                colours, opacity = colours[:, ::-1], opacity[:, ::-1]
            if rng.random() < 0.3:
                colours, opacity = turn(colours, opacity, rng.uniform(-40, 40), scale=0.9, border=0)
            number = next(n for n in range(1, 255) if n not in taken)
            if paste(image, objects, number, colours, opacity, rng):
                taken.add(number)
        return image, objects

    def _shape(self, longer: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        opacity = blob(longer, rng).astype(np.float32)
        colours = self._texture(*opacity.shape, rng)
        return recolour(colours, rng) if rng.random() < 0.5 else colours, opacity

    def _object(self, longer: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        colours, opacity = cutout(*self._any(rng, (0.75, 0.125, 0.125)).draw(rng), longer)
        draw = rng.random()
        if draw < 0.12:
            return self._texture(*opacity.shape, rng), opacity
        if draw < 0.45:
            return recolour(colours, rng), opacity
        return expose(colours, rng) if draw < 0.75 else colours, opacity

    def _texture(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """A piece of any picture at any size, or a pattern: uint8 (height, width, 3)."""
        import cv2

        if rng.random() >= 0.7:
            return pattern(height, width, rng)
        image = self._any(rng, (0.6, 0.3, 0.1)).draw(rng)[0].image
        scale = rng.uniform(0.25, 1.5)
        rows, columns = (int(min(n, max(8, m / scale))) for n, m in zip(image.shape, (height, width), strict=False))
        y, x = int(rng.integers(image.shape[0] - rows + 1)), int(rng.integers(image.shape[1] - columns + 1))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return cv2.resize(image[y : y + rows, x : x + columns], (width, height), interpolation=how)

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        picture, _ = self._any(rng, (0.6, 0.3, 0.1)).draw(rng)
        height, width = picture.objects.shape
        side = min(height, width) * rng.uniform(0.4, 1)
        return window(picture, rng.uniform(0, width - side), rng.uniform(0, height - side), side, self.size)[0]

    def _any(self, rng: np.random.Generator, shares: tuple[float, float, float]) -> Library:
        """One of the libraries that are there, by these shares."""
        there = [(library, share) for library, share in zip(self.libraries.values(), shares, strict=True) if library]
        weights = np.array([share for _, share in there])
        return there[int(rng.choice(len(there), p=weights / weights.sum()))][0]
