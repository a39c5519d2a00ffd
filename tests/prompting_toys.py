"""Predictors that need no network: every mask follows from the prompts by a rule that a test can repeat."""

import numpy as np


class DiscPredictor:
    """The earlier mask, or else the box, plus a disc at each foreground point, less one at each background point."""

    class_name = None

    def __init__(self, name: str = "discs", radius: float = 6):
        self.name, self.radius = name, radius
        self.image: np.ndarray | None = None
        self.encoded = 0  # images set so far
        self.asked: list[dict] = []  # what predict was called with

    def set_image(self, image: np.ndarray) -> None:
        self.image = image
        self.encoded += 1

    def predict(self, points=None, labels=None, box=None, mask_input=None, multimask=False):
        self.asked.append({"points": points, "labels": labels, "box": box, "mask_input": mask_input})
        height, width = self.image.shape[:2]
        y, x = np.mgrid[:height, :width]
        mask = np.zeros((height, width), dtype=bool) if mask_input is None else mask_input.copy()
        if box is not None and mask_input is None:
            mask |= (box[0] <= x) & (x <= box[2]) & (box[1] <= y) & (y <= box[3])
        for point, label in zip(
            points if points is not None else (), labels if labels is not None else (), strict=True
        ):
            disc = (x - point[0]) ** 2 + (y - point[1]) ** 2 <= self.radius**2
            mask = mask | disc if label else mask & ~disc
        return mask, float(mask.mean())


def picture(height: int = 48, width: int = 64, shade: int = 90) -> np.ndarray:
    """A plain image, uint8 (H, W, 3), brighter to the right and redder to the bottom."""
    y, x = np.mgrid[:height, :width]
    return np.stack([shade + y, shade + x, np.full_like(x, shade)], axis=-1).astype(np.uint8)
