"""What a box gives without a network: the box itself, an ellipse in it, and GrabCut.

All three are predictors, so that they are asked exactly what Mini-SAM and SAM are asked. They need a box: a click alone
does not tell them where the background is. None of them estimates its IoU.
"""

from abc import abstractmethod

import numpy as np
from torch import nn

from labhelpers.prompting.predictor import Predictor, Prompt

ITERATIONS = 5  # rounds of colours and cut


class BoxBaseline(Predictor):
    """A predictor that answers a box with one mask, and nothing else; its predicted IoU is NaN."""

    name: str

    def __init__(self) -> None:
        super().__init__(nn.Identity(), self.name)

    def check(self, prompt: Prompt, multimask: bool) -> None:
        """Raises ValueError unless there is a box and nothing beside it."""
        given = ["points", "labels"] * (len(prompt.points) > 0) + ["mask_input"] * (prompt.mask is not None)
        given = given or ["multimask"] * multimask
        if prompt.box is None or given:
            found = f"got {', '.join(given) or 'nothing'}" + (" beside it" if prompt.box is not None else "")
            raise ValueError(f"{self.name} needs a box and takes nothing else, {found}: it cannot answer clicks.")

    def encode(self, image: np.ndarray) -> None:
        self._pixels = image

    def answer(self, prompt: Prompt, multimask: bool) -> tuple[np.ndarray, np.ndarray]:
        return self.mask(self._pixels, np.asarray(prompt.box))[None], np.array([np.nan])

    @abstractmethod
    def mask(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) and (4,) -> bool (H, W)."""


class FilledBox(BoxBaseline):
    """All pixels of the box."""

    name = "filled box"

    def mask(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        return filled_box(image.shape[:2], box)


class BoxEllipse(BoxBaseline):
    """The ellipse that touches the four edges of the box."""

    name = "ellipse in the box"

    def mask(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        y, x = np.ogrid[: image.shape[0], : image.shape[1]]
        x0, y0, x1, y1 = box
        across, down = (2 * x - x0 - x1) / (x1 - x0 + 1), (2 * y - y0 - y1) / (y1 - y0 + 1)
        return across**2 + down**2 <= 1


class GrabCut(BoxBaseline):
    """See `grabcut_box`."""

    name = "GrabCut"

    def mask(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        return grabcut_box(image, box)


def grabcut_box(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Segment the object in a box by its colours: OpenCV's GrabCut.

    Rother et al., "GrabCut": interactive foreground extraction using iterated graph cuts, SIGGRAPH 2004. Two mixtures
    of colours, of what lies outside the box and of what lies inside, take turns with a cut between them that prefers to
    run along edges. Nothing outside the box is ever foreground. Where the box leaves nothing of the image outside,
    there is no background to learn, and the mask is the box. It takes a second or two for a photograph.

    Args:
        image: uint8 (H, W, 3), RGB.
        box: (4,), x0, y0, x1, y1, the extreme pixel indices; fractions are rounded.

    Returns:
        bool (H, W); the same each time, as the mixtures start from a fixed seed.
    """
    import cv2

    inside = filled_box(image.shape[:2], box)
    if inside.all():
        return inside
    labels = np.where(inside, np.uint8(cv2.GC_PR_FGD), np.uint8(cv2.GC_BGD))
    cv2.setRNGSeed(0)
    mixtures = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(image), labels, (0, 0, 0, 0), *mixtures, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return (labels == cv2.GC_PR_FGD) | (labels == cv2.GC_FGD)


def filled_box(size: tuple[int, int], box: np.ndarray) -> np.ndarray:
    """The pixels of a box (x0, y0, x1, y1), both ends inclusive and rounded to whole pixels: bool (H, W) = `size`.

    Raises:
        ValueError: as `Prompt.checked`.
    """
    x0, y0, x1, y1 = np.rint(np.asarray(Prompt.checked(size, None, None, box, None).box)).astype(int)
    mask = np.zeros(size, dtype=bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask
