"""One image, many prompts: `set_image` once, `predict` at every click.

Mini-SAM answers a click in two looks. A click says where, but not how large, so one look is at the whole image, and one
at a window around what the first found, in which the object has the size that the network knows best. A box says how
large; there one look, at a window around the box, is enough.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labhelpers.data.voc import VOC_CLASSES
from labhelpers.evaluation.confusion import require_finite
from labhelpers.models.mini_sam import BaseMiniSAM, Embedding, MiniSAM
from labhelpers.prompting.sampling import box_from_mask
from labhelpers.prompting.windows import Window

OVERVIEW = 192  # pixels of the longer side at which the whole image is seen
WINDOW = 160  # pixels of a window's side, as in training
BOX_MARGIN = 1.2  # side of the window around a box, in units of the box's longer side
CLICK_MARGIN = 1.6  # the same for what the first look found
SURE = 8.0  # the logit of a pixel that is taken as certain
KEPT = 8  # embeddings of windows kept for further clicks


@dataclass(frozen=True, eq=False)
class Prompt:
    """What is asked about an image, in its pixels (x, y); the centre of the first pixel is (0, 0).

    Attributes:
        points: float64 (N, 2); N may be 0.
        labels: int64 (N,), 1 foreground, 0 background.
        box: float64 (4,), x0, y0, x1, y1, or None.
        mask: the earlier mask, bool (H, W), or None.
    """

    points: np.ndarray
    labels: np.ndarray
    box: np.ndarray | None
    mask: np.ndarray | None

    @classmethod
    def checked(cls, size: tuple[int, int], points: Any, labels: Any, box: Any, mask: Any) -> "Prompt":
        """Anything like arrays, or None for what is not given, as a prompt on an image of `size` (H, W).

        A point lies anywhere on the image's pixels, from -0.5 to W - 0.5. A box that sticks out is cut at the first and
        the last pixel of the image; one beside it is none.

        Raises:
            ValueError: no numbers, shapes or labels that do not fit, or a point or box outside the image.
        """
        image = f"the image of {size[1]} x {size[0]} pixels (width x height)"
        last = np.array(size[::-1]) - 1
        if (points is None) != (labels is None):
            raise ValueError("points and labels belong together: give both or none")
        points = _numbers("points", np.empty((0, 2)) if points is None else points, "iuf")
        points = points.reshape(0, 2) if points.shape == (0,) else points
        labels = _numbers("labels", [] if labels is None else labels, "biuf")
        if points.ndim != 2 or points.shape[1] != 2 or labels.shape != (len(points),):
            raise ValueError(f"points must be (N, 2) and labels (N,), got {points.shape} and {labels.shape}")
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(f"labels must be 1 (foreground) or 0 (background), got {sorted(set(labels.tolist()))}")
        inside = (points >= -0.5) & (points < last + 0.5)  # false for NaN
        if not inside.all():
            raise ValueError(f"points must lie in {image}, got {points[~inside.all(1)][0].tolist()}")
        if box is not None:
            box = _numbers("box", box, "iuf")
            if box.shape != (4,):
                raise ValueError(f"box must be x0, y0, x1, y1, four numbers, got the shape {box.shape}; ask box by box")
            if not np.isfinite(box).all() or (box[:2] > box[2:]).any():
                raise ValueError(
                    f"box must be x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, got {box.tolist()}: sort its corners"
                )
            if not ((box[:2] < last + 0.5) & (box[2:] >= -0.5)).all():
                raise ValueError(f"box must lie in {image} or overlap it, got {box.tolist()}")
            box = np.clip(box, 0, np.tile(last, 2))
        if mask is not None:
            mask = _numbers("mask_input", mask, "biuf")
            if mask.shape != size or mask.dtype != bool:
                raise ValueError(f"mask_input must be bool of the image's size {size}, got {mask.dtype} {mask.shape}")
        points, labels = points.astype(np.float64), labels.astype(np.int64)
        return cls(points, labels, None if box is None else box.astype(np.float64), mask)

    @property
    def foreground(self) -> np.ndarray:
        """The points of the object, float64 (M, 2)."""
        return self.points[self.labels == 1]


class Predictor(ABC):
    """What Mini-SAM, SAM and the baselines have in common: what is set and asked is checked here.

    Another one implements `encode` and `answer`.

    Attributes:
        model: the network; one without parameters where none is asked.
        image: the array that was set last.
        class_name: of the last answer, where the network knows classes.
    """

    image: np.ndarray | None = None
    class_name: str | None = None

    def __init__(self, model: nn.Module, name: str):
        self.model, self.name = model, name

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))

    def set_image(self, image: np.ndarray) -> None:
        """Takes an image, uint8 (H, W, 3), RGB, and computes what does not depend on a prompt.

        Raises:
            ValueError: an array of another kind.
        """
        check_image(image)
        self.image = None  # should encoding fail
        self.encode(image)
        self.image = image

    def predict(
        self,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """The mask, bool (H, W), and its predicted IoU, a float; NaN from a predictor that estimates none.

        Args:
            points, labels: (N, 2), pixels (x, y) of the image, and (N,), 1 foreground, 0 background.
            box: (4,), x0, y0, x1, y1.
            mask_input: the earlier mask, bool (H, W), that further clicks refine.
            multimask: return all candidates, the best first: masks (3, H, W) and IoUs (3,).

        Raises:
            RuntimeError: no image is set.
            ValueError: see `Prompt.checked`; or there is no prompt at all, or one that this predictor does not take.
        """
        if self.image is None:
            raise RuntimeError("no image yet: call set_image first")
        prompt = Prompt.checked(self.image.shape[:2], points, labels, box, mask_input)
        self.check(prompt, multimask)
        masks, ious = self.answer(prompt, multimask)
        return (masks, ious) if multimask else (masks[0], float(ious[0]))

    def check(self, prompt: Prompt, multimask: bool) -> None:
        """Raises ValueError for a prompt that this predictor cannot answer."""
        if not len(prompt.points) and prompt.box is None and prompt.mask is None:
            raise ValueError("no prompt: give points with labels, a box, or both")

    @abstractmethod
    def encode(self, image: np.ndarray) -> None:
        """Computes what does not depend on a prompt, for an image uint8 (H, W, 3)."""

    @abstractmethod
    def answer(self, prompt: Prompt, multimask: bool) -> tuple[np.ndarray, np.ndarray]:
        """Masks (M, H, W), bool, the best first, and their predicted IoUs (M,); M = 1 without `multimask`."""


class OneLook(Predictor):
    """One look at the whole image, whatever is asked: a prompt costs one run of the decoder; what is small suffers.

    All points are given at each click; an earlier mask is not looked at.

    Args:
        model: one class, with the methods `encode` and `decode` of `models.BaseMiniSAM` or `models.MiniSAM`.
        overview: pixels of the longer side at which the image is seen, about as large as in training.
    """

    model: BaseMiniSAM

    def __init__(self, model: nn.Module, name: str = "mini_sam, one look", overview: int = OVERVIEW):
        super().__init__(model.eval(), name)
        self.overview = overview

    def check(self, prompt: Prompt, multimask: bool) -> None:
        super().check(replace(prompt, mask=None), multimask)

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> None:
        self._size = image.shape[:2]
        self._window = Window.whole(self._size, self.overview)
        self._embedding = self.model.encode(self._window.cut(as_tensor(image).to(self.device))[None])

    @torch.inference_mode()
    def answer(self, prompt: Prompt, multimask: bool) -> tuple[np.ndarray, np.ndarray]:
        logits, ious = self.model.decode(self._embedding, *_tensors(self._window, prompt, self.device))
        for output in (logits, ious):
            require_finite(output, ["this prompt"])
        order = ious[0].argsort(descending=True)[: None if multimask else 1]
        masks = self._window.paste(logits[0, order], self._size, -SURE) > 0
        return masks.cpu().numpy(), ious[0, order].cpu().numpy()


class MiniSamPredictor(Predictor):
    """Mini-SAM as a predictor that looks closer, see above.

    Args:
        model: of one class (candidates for the mask of an object) or of VOC's 21 (the mask of the class that is there;
            `multimask` has then one candidate).
    """

    model: MiniSAM

    def __init__(self, model: MiniSAM, name: str = "mini_sam"):
        super().__init__(model.eval(), name)

    def encode(self, image: np.ndarray) -> None:
        self._pixels, self._size = as_tensor(image).to(self.device), image.shape[:2]
        self._whole = Window.whole(self._size, OVERVIEW)
        self._embeddings: dict[Window, Embedding] = {}
        self._embed(self._whole)

    def answer(self, prompt: Prompt, multimask: bool) -> tuple[np.ndarray, np.ndarray]:
        if prompt.box is None:
            logits, ious = self._look_twice(prompt, multimask)
        else:
            around = _enclosing(prompt.box, prompt.foreground)
            logits, ious = self._look(Window.around(around, BOX_MARGIN, self._size, WINDOW), prompt, multimask)
        return (logits > 0).cpu().numpy(), ious.cpu().numpy()

    def _look_twice(self, prompt: Prompt, multimask: bool) -> tuple[Tensor, Tensor]:
        """First at the whole image, unless an earlier mask is there, then at what was found, which is refined."""
        found, first = prompt.mask, None
        if found is None:
            first = self._look(self._whole, prompt, multimask)
            found = (first[0][0] > 0).cpu().numpy()
        if found.any() or len(prompt.foreground):
            around = _enclosing(box_from_mask(found) if found.any() else None, prompt.foreground)
            window = Window.around(around, CLICK_MARGIN, self._size, WINDOW)
            if window.x1 - window.x0 < max(self._size):
                return self._look(window, replace(prompt, mask=found if found.any() else prompt.mask), multimask)
        return first or self._look(self._whole, prompt, multimask)

    @torch.inference_mode()
    def _look(self, window: Window, prompt: Prompt, multimask: bool) -> tuple[Tensor, Tensor]:
        """Logits (C, H, W) of the image, the best of the candidates first, and their IoUs (C,); C = 1 or all."""
        embedding, device, earlier = self._embed(window), self.device, None
        points, labels, boxes = _tensors(window, prompt, device)
        if prompt.mask is not None:
            # As a picture of bytes, so that it is cut like the image.
            layer = torch.from_numpy(prompt.mask)[None].to(device, torch.uint8).mul(255)
            earlier = SURE * (window.cut(layer, outside=torch.zeros(1, 1, 1))[None].float() / 127.5 - 1)
        logits, ious = self.model.decode(embedding, points, labels, boxes, earlier, full_size=False)
        for output in (logits, ious):
            require_finite(output, ["this prompt"])
        logits, ious = logits[0], ious[0]
        if self.model.num_classes > 1:
            clicked = torch.empty(0, 2) if points is None or labels is None else points[0][labels[0] == 1]
            logits = self._prompted_class(logits, clicked, boxes)
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


def _tensors(
    window: Window, prompt: Prompt, device: torch.device
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Points (1, N, 2), labels (1, N), box (1, 4) in the window's pixels; None for what is not given or not seen."""
    seen, points, labels, boxes = window.contains(prompt.points), None, None, None
    if seen.any():
        points = torch.from_numpy(window.points(prompt.points[seen]))[None].to(device)
        labels = torch.from_numpy(prompt.labels[seen])[None].to(device)
    if prompt.box is not None:
        boxes = torch.from_numpy(window.box(prompt.box))[None].to(device)
    return points, labels, boxes


def _numbers(name: str, given: Any, kinds: str) -> np.ndarray:
    """Anything like an array whose dtype is of one of NumPy's `kinds`, as an array."""
    try:
        array = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of unequal length, a dtype that NumPy lacks
        raise ValueError(f"{name} must be an array of numbers, or lists of them: {error}") from error
    if array.dtype.kind not in kinds:
        raise ValueError(f"{name} must be an array of numbers, got {array.dtype}: give integers or floats")
    return array


def check_image(image: object, what: str = "set_image needs") -> None:
    """Raises ValueError, with a message that begins with `what`, unless it is a uint8 array (H, W, 3)."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"{what} a uint8 array (H, W, 3), RGB, got {kind}")


def as_tensor(image: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> (3, H, W)."""
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def _enclosing(box: np.ndarray | None, points: np.ndarray) -> np.ndarray:
    """The smallest box around a box and points (N, 2), either of which may be missing."""
    corners = np.concatenate([points] if box is None else [points, box.reshape(2, 2)])
    return np.concatenate([corners.min(0), corners.max(0)])
