"""Objects in memory, and predictors without a network: every mask follows from the prompts by a known rule."""

import numpy as np
import torch
from hypothesis import strategies as st

from labhelpers.data.base import SegmentationDataset


class MemoryDataset(SegmentationDataset):
    """Label maps with object maps (uint8 (H, W) each); where a picture is red (channel 0) tells its label times ten."""

    def __init__(self, maps: list[tuple[np.ndarray, np.ndarray]], num_classes: int = 4):
        names = [f"class {k}" for k in range(num_classes)]
        super().__init__("toys", "val", names, [str(i) for i in range(len(maps))], [], [])
        self.maps = maps

    def load_image(self, index):
        labels = self.maps[index][0]
        picture = np.zeros((3, *labels.shape), dtype=np.uint8)
        picture[0] = np.where(labels == 255, 200, labels * 10)
        return torch.from_numpy(picture)

    def load_target(self, index):
        return torch.from_numpy(self.maps[index][0])

    def instances(self, index):
        return torch.from_numpy(self.maps[index][1])

    def __getitem__(self, index):
        return self.load_image(index), self.load_target(index)


def rectangles(height: int, width: int, *boxes: tuple[int, int, int, int, int], void: int = 0):
    """(labels, objects): boxes (x0, y0, x1, y1, label), inclusive, numbered from 1, with a rim of void inside."""
    labels, numbers = (np.zeros((height, width), dtype=np.uint8) for _ in range(2))
    for number, (x0, y0, x1, y1, label) in enumerate(boxes, 1):
        labels[y0 : y1 + 1, x0 : x1 + 1] = numbers[y0 : y1 + 1, x0 : x1 + 1] = 255
        inner = np.s_[y0 + void : y1 + 1 - void, x0 + void : x1 + 1 - void]
        labels[inner], numbers[inner] = label, number
    return labels, numbers


class Answers:
    """Asks `rule(image, points, labels, box, mask_input)` for (mask, predicted IoU), and keeps what it was asked.

    Unlike a real predictor it checks nothing, so that what reaches `predict` can be seen as it was.
    """

    class_name = None
    model = torch.nn.Conv2d(3, 1, 1)  # asked for its device only

    def __init__(self, rule, name: str = "toy"):
        self.rule, self.name = rule, name
        self.image: np.ndarray | None = None
        self.images = 0  # set so far
        self.asked: list[dict] = []

    def set_image(self, image):
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        self.image = image
        self.images += 1

    def predict(self, points=None, labels=None, box=None, mask_input=None, multimask=False):
        prompt = {"points": points, "labels": labels, "box": box, "mask_input": mask_input}
        self.asked.append(prompt)
        return self.rule(self.image, **prompt)


class DiscPredictor(Answers):
    """The earlier mask, or else the box, plus a disc at each foreground point, less one at each background point."""

    def __init__(self, name: str = "discs", radius: float = 6):
        super().__init__(self.discs, name)
        self.radius = radius

    def discs(self, image, points, labels, box, mask_input):
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        mask = np.zeros(image.shape[:2], dtype=bool) if mask_input is None else mask_input.copy()
        if box is not None and mask_input is None:
            mask |= (box[0] <= x) & (x <= box[2]) & (box[1] <= y) & (y <= box[3])
        for point, label in zip(points, labels, strict=True):
            disc = (x - point[0]) ** 2 + (y - point[1]) ** 2 <= self.radius**2
            mask = mask | disc if label else mask & ~disc
        return mask, float(mask.mean())


def clicked_label(image, points, labels, box, mask_input):
    """All pixels of the same colour as the last foreground click."""
    x, y = points[labels == 1][-1].astype(int)
    return image[..., 0] == image[y, x, 0], 0.5


def picture(height: int = 48, width: int = 64, shade: int = 90) -> np.ndarray:
    """A plain image, uint8 (H, W, 3), brighter to the right and redder to the bottom."""
    y, x = np.mgrid[:height, :width]
    return np.stack([shade + y, shade + x, np.full_like(x, shade)], axis=-1).astype(np.uint8)


TOY_IMAGES = {"wide": picture(96, 128), "tall": picture(120, 80, shade=30)}


class Nested(DiscPredictor):
    """One radius after the other, where it is asked for candidates."""

    def predict(self, points=None, labels=None, box=None, mask_input=None, multimask=False):
        radii = [self.radius, self.radius + 4, self.radius + 8] if multimask else [self.radius]
        asked = {"points": points, "labels": labels, "box": box, "mask_input": mask_input}
        masks, ious = zip(*(type(self)(radius=radius).discs(self.image, **asked) for radius in radii), strict=True)
        return (np.array(masks), np.array(ious)) if multimask else (masks[0], ious[0])


class Unsure(DiscPredictor):
    """Estimates no IoU, as GrabCut."""

    def discs(self, *image, **prompt):
        return super().discs(*image, **prompt)[0], float("nan")


def toy_predictors() -> dict[str, DiscPredictor]:
    return {
        "small": DiscPredictor("small", 10),
        "large": DiscPredictor("large", 25),
        "unsure": Unsure("unsure"),
        "nested": Nested("nested", 10),
    }


def photo(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """Noise, uint8 (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@st.composite
def boxes_in_images(draw):
    """An image's size (H, W), and a box in it: extreme indices, inclusive, float (4,)."""
    height, width = draw(st.integers(20, 150)), draw(st.integers(20, 150))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0, width - 1)), draw(st.integers(y0, height - 1))
    return (height, width), np.array([x0, y0, x1, y1], float)
