"""One image, many prompts: `set_image` once, `predict` at every click.

A click says where, but not how large. So the answer is found in two looks: one at the whole image, and one at a window
around what the first look found, in which the object has the size that the network knows best. A box says how large;
there one look, at a window around the box, is enough.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from labhelpers.data.voc import VOC_CLASSES
from labhelpers.models.mini_sam import Embedding, MiniSAM
from labhelpers.prompting.windows import Window

__all__ = ["MiniSamPredictor", "Predictor"]

OVERVIEW = 192  # pixels of the longer side at which the whole image is seen
WINDOW = 128  # pixels of a window's side, as in training
BOX_MARGIN = 1.2  # side of the window around a box, in units of the box's longer side
CLICK_MARGIN = 1.6  # the same for what the first look found
SURE = 8.0  # the logit of a pixel that is taken as certain
KEPT = 8  # embeddings of windows kept for further clicks


class Predictor(Protocol):
    """What Mini-SAM, SAM and the baselines have in common. Coordinates are pixels (x, y) of the image."""

    name: str
    image: np.ndarray | None  # the array that was set last
    class_name: str | None  # of the last answer, where the network knows classes

    def set_image(self, image: np.ndarray) -> None:
        """Takes an image, uint8 (H, W, 3), RGB, and computes what does not depend on a prompt."""

    def predict(
        self,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask: bool = False,
    ) -> tuple[np.ndarray, float] | tuple[np.ndarray, np.ndarray]:
        """The mask, bool (H, W), and its predicted IoU.

        Args:
            points, labels: (N, 2) and (N,), 1 foreground, 0 background.
            box: (4,), x0, y0, x1, y1.
            mask_input: the earlier mask, bool (H, W), that further clicks refine.
            multimask: return all candidates, the best first: masks (3, H, W) and IoUs (3,).
        """


class MiniSamPredictor:
    """Mini-SAM behind the interface of :class:`Predictor`.

    Args:
        model: of one class (candidates for the mask of an object) or of VOC's 21 (the mask of the class that is there;
            ``multimask`` has then one candidate).
        zoom: look twice, see above. Without it every prompt costs one run of the decoder; small objects come out worse.
        overview: pixels of the longer side at which the whole image is seen, about as large as in training.

    Raises:
        ValueError: from ``set_image`` and ``predict``, for arrays of another kind, or without any prompt.
        RuntimeError: from ``predict``, before an image is set.
    """

    def __init__(self, model: MiniSAM, name: str = "mini_sam", zoom: bool = True, overview: int = OVERVIEW):
        self.model, self.name, self.zoom, self.overview = model.eval(), name, zoom, overview
        self.image: np.ndarray | None = None
        self.class_name: str | None = None
        self._embeddings: dict[Window, Embedding] = {}

    def set_image(self, image: np.ndarray) -> None:
        """As :meth:`Predictor.set_image`."""
        checked_image(image)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        self.image, self._pixels = image, pixels.to(next(self.model.parameters()).device)
        self._size = image.shape[:2]
        self._whole = Window.whole(self._size, self.overview)
        self._embeddings = {}
        self._embed(self._whole)

    def predict(
        self,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask: bool = False,
    ) -> tuple[np.ndarray, float] | tuple[np.ndarray, np.ndarray]:
        """As :meth:`Predictor.predict`."""
        if self.image is None:
            raise RuntimeError("no image yet: call set_image first")
        points, labels, box, mask = checked(points, labels, box, mask_input, self._size)
        prompts = (points, labels, box, mask)
        if not self.zoom:
            logits, ious = self._look(self._whole, *prompts, multimask)
        elif box is not None:
            around = _enclosing(box, points[labels == 1])
            logits, ious = self._look(Window.around(around, BOX_MARGIN, self._size, WINDOW), *prompts, multimask)
        else:
            logits, ious = self._look_twice(points, labels, mask, multimask)
        masks, ious = (logits > 0).cpu().numpy(), ious.cpu().numpy()
        return (masks, ious) if multimask else (masks[0], float(ious[0]))

    # --- where to look -----------------------------------------------------------------------------------------------

    def _look_twice(
        self, points: np.ndarray, labels: np.ndarray, mask: np.ndarray | None, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """First at the whole image, unless an earlier mask is there, then at what was found, which is refined."""
        found, first = mask, None
        if found is None:
            first = self._look(self._whole, points, labels, None, None, multimask)
            found = (first[0][0] > 0).cpu().numpy()
        clicked = points[labels == 1]
        if not found.any() and not len(clicked):
            return first or self._look(self._whole, points, labels, None, mask, multimask)
        window = Window.around(_enclosing(_box_of(found), clicked), CLICK_MARGIN, self._size, WINDOW)
        if window.x1 - window.x0 >= max(self._size):
            return first or self._look(self._whole, points, labels, None, mask, multimask)
        return self._look(window, points, labels, None, found if found.any() else mask, multimask)

    # --- one look ----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _look(
        self,
        window: Window,
        points: np.ndarray,
        labels: np.ndarray,
        box: np.ndarray | None,
        mask: np.ndarray | None,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Logits (C, H, W) of the image, the best of the candidates first, and their IoUs (C,); C = 1 or all."""
        embedding = self._embed(window)
        seen = window.contains(points)
        device = embedding.features.device
        at = torch.from_numpy(window.points(points[seen]))[None].to(device)
        kind = torch.from_numpy(labels[seen])[None].to(device)
        boxes = None if box is None else torch.from_numpy(window.box(box))[None].to(device)
        earlier = None
        if mask is not None:
            # As a picture of bytes, so that it is cut like the image.
            layer = torch.from_numpy(mask)[None].to(device, torch.uint8).mul(255)
            earlier = SURE * (window.cut(layer, outside=torch.zeros(1, 1, 1))[None].float() / 127.5 - 1)
        logits, ious = self.model.decode(embedding, at, kind, boxes, earlier, full_size=False)
        logits, ious = logits[0], ious[0]
        if self.model.num_classes > 1:
            logits = self._prompted_class(logits, at[0][kind[0] == 1], boxes)
        order = ious.argsort(descending=True) if multimask else ious.argmax()[None]
        own = self.model.enlarge(logits[order][None], (window.height, window.width))[0]
        return window.paste(own, self._size, -SURE), ious[order]

    def _embed(self, window: Window) -> Embedding:
        if window not in self._embeddings:
            if len(self._embeddings) > KEPT:
                del self._embeddings[next(key for key in self._embeddings if key != self._whole)]
            with torch.inference_mode():
                self._embeddings[window] = self.model.encode(window.cut(self._pixels)[None])
        return self._embeddings[window]

    def _prompted_class(self, logits: Tensor, points: Tensor, boxes: Tensor | None) -> Tensor:
        """Logits (1, h, w) of the class that is most likely at the points, or else in the box, against all others."""
        scores = logits.log_softmax(0)
        height, width = scores.shape[1:]
        if len(points):
            x, y = ((points + 0.5) / 4).floor().long().unbind(1)
            there = scores[:, y.clamp(0, height - 1), x.clamp(0, width - 1)]
        elif boxes is not None:
            low = ((boxes[0, :2] + 0.5) / 4).floor().long().clamp_min(0)
            high = ((boxes[0, 2:] + 0.5) / 4).floor().long()
            (x0, y0), (x1, y1) = low.clamp_max(low.new_tensor([width - 1, height - 1])).tolist(), high.tolist()
            there = scores[:, y0 : y1 + 1, x0 : x1 + 1].flatten(1)
        else:
            there = scores.flatten(1)
        best = int(there.mean(1)[1:].argmax()) + 1  # of the objects: a prompt does not ask for the background
        self.class_name = VOC_CLASSES[best] if len(scores) == len(VOC_CLASSES) else f"class {best}"
        others = torch.cat([scores[:best], scores[best + 1 :]]).logsumexp(0)
        return (scores[best] - others)[None]


def checked_image(image: np.ndarray) -> None:
    """Raises ValueError unless it is a uint8 array (H, W, 3)."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"set_image needs a uint8 array (H, W, 3), RGB, got {what}")


def checked(
    points: np.ndarray | None,
    labels: np.ndarray | None,
    box: np.ndarray | None,
    mask: np.ndarray | None,
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Prompts as arrays: points float64 (N, 2), labels int64 (N,), box float64 (4,), mask bool (H, W).

    Raises:
        ValueError: shapes or labels that do not fit, or no prompt at all.
    """
    if (points is None) != (labels is None):
        raise ValueError("points and labels belong together: give both or none")
    points = np.empty((0, 2)) if points is None else np.asarray(points, dtype=np.float64)
    labels = np.empty(0, dtype=np.int64) if labels is None else np.asarray(labels).astype(np.int64)
    if points.ndim != 2 or points.shape[1] != 2 or labels.shape != (len(points),):
        raise ValueError(f"points must be (N, 2) and labels (N,), got {points.shape} and {labels.shape}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 1 (foreground) or 0 (background), got {sorted(set(labels.tolist()))}")
    inside = (points >= -0.5) & (points < np.array(size[::-1]) - 0.5)  # false for NaN
    if not inside.all():
        outside = points[~inside.all(1)][0].tolist()
        raise ValueError(
            f"points must lie in the image of {size[1]} x {size[0]} pixels (width x height), got {outside}"
        )
    if box is not None:
        box = np.asarray(box, dtype=np.float64)
        if box.shape != (4,) or not np.isfinite(box).all() or (box[:2] > box[2:]).any():
            raise ValueError(f"box must be x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, got {box.tolist()}")
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape != size or mask.dtype != bool:
            raise ValueError(f"mask_input must be bool of the image's size {size}, got {mask.dtype} {mask.shape}")
    if not len(points) and box is None and mask is None:
        raise ValueError("no prompt: give points with labels, a box, or both")
    return points, labels, box, mask


def _box_of(mask: np.ndarray) -> np.ndarray | None:
    if not mask.any():
        return None
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float64)


def _enclosing(box: np.ndarray | None, points: np.ndarray) -> np.ndarray:
    """The smallest box around a box and points (N, 2), either of which may be missing."""
    corners = np.concatenate([points] if box is None else [points, box.reshape(2, 2)])
    return np.concatenate([corners.min(0), corners.max(0)])
