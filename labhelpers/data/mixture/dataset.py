"""The mixture as a data set: item i is drawn from (seed, i) alone."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch

from labhelpers.data.base import SegmentationDataset
from labhelpers.data.mixture.blobs import blob, pattern
from labhelpers.data.mixture.cut import cutout, expose, paste, place, recolour, turn, window
from labhelpers.data.mixture.library import Library

KINDS = ("photos", "streets", "scenes", "blobs", "pasted")


class ObjectMixture(SegmentationDataset):
    """Windows of pictures with numbered objects: items `(image, objects)`, uint8 (3, S, S) and uint8 (S, S).

    Args:
        photos: photographs with instances, to look at and to cut out from.
        streets: street scenes (CamVid), whose regions count as objects; may be missing.
        scenes: the synthetic scenes; may be missing.
        shares: of the kinds of pictures: windows of photos, of streets, of scenes; blobs with textures; objects pasted.
        size: S, pixels.
        length: how many items there are to draw; none is kept.

    Raises:
        ValueError: the shares are not five numbers >= 0, or one is above 0 for a library that is missing.
    """

    def __init__(
        self,
        photos: Library,
        streets: Library | None = None,
        scenes: Library | None = None,
        shares: tuple[float, ...] = (0.3, 0.15, 0.1, 0.15, 0.3),
        size: int = 128,
        length: int = 100_000,
        seed: int = 0,
    ):
        self.libraries: Mapping[str, Library | None] = {"photos": photos, "streets": streets, "scenes": scenes}
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
