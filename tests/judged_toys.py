"""Objects in memory, and predictors that answer by a known rule."""

import numpy as np
import torch

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
    """Asks `rule(image, **prompt)` for (mask, predicted IoU), and keeps what it was asked."""

    name, class_name = "toy", None

    def __init__(self, rule):
        self.rule = rule
        self.images = 0
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


def clicked_label(image, points, labels, box, mask_input):
    """All pixels of the same colour as the last foreground click."""
    x, y = points[labels == 1][-1].astype(int)
    return image[..., 0] == image[y, x, 0], 0.5
