"""SAM behind the same interface as Mini-SAM: `set_image` once, `predict` at every click."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from labhelpers.models.sam import SAM, SamEmbedding, SamUnavailable, build_sam
from labhelpers.prompting.predictor import checked, checked_image

__all__ = ["SamPredictor", "load_sam"]

KEPT_IMAGES = 5  # embeddings kept, 4 MB each for SAM: as many as a comparison shows
KEPT_ANSWERS = 16  # logits of answers kept, 256 kB each, for the clicks that refine them


class SamPredictor:
    """A SAM behind the interface of :class:`labhelpers.prompting.Predictor`.

    The embeddings of the last few images are kept by content, so that going back to an image costs nothing. A click
    alone may mean a part, an object or several: SAM draws three masks for it, and that of the highest predicted IoU is
    the answer. For a box, several points or an earlier mask it is the one mask that SAM draws for prompts that leave
    nothing open (Kirillov et al., 2023, appendix A). A ``mask_input`` that is an earlier answer goes back as SAM's own
    logits, any other as logits of two values. Predicted IoUs are clipped to 0..1, in which SAM's head does not keep.

    Args:
        model: with its weights.

    Raises:
        ValueError: from ``set_image`` and ``predict``, for arrays of another kind, or without any prompt.
        RuntimeError: from ``predict``, before an image is set.
    """

    def __init__(self, model: SAM, name: str = "sam_vit_b"):
        self.model, self.name = model, name
        self.image: np.ndarray | None = None
        self.class_name: str | None = None  # SAM knows no classes
        self._embeddings: dict[str, SamEmbedding] = {}
        self._answers: dict[str, Tensor] = {}

    @property
    def parameters(self) -> int:
        """How many there are, 94 M in SAM ViT-B."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def with_own_decoder(self, name: str) -> "SamPredictor":
        """The same predictor with a copy of the mask decoder, to be tuned; encoder and embeddings are shared."""
        twin = SamPredictor(self.model.with_own_decoder(), name)
        twin._embeddings = self._embeddings
        return twin

    def set_image(self, image: np.ndarray) -> None:
        """As :meth:`Predictor.set_image`."""
        checked_image(image)
        key = _digest(image)
        embedding = self._embeddings.pop(key, None)
        if embedding is None:
            pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            embedding = self.model.encode(pixels[None])
        _keep(self._embeddings, key, embedding, KEPT_IMAGES)
        self.image, self._embedding, self._key = image, embedding, key

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
        points, labels, box, mask = checked(points, labels, box, mask_input, self.image.shape[:2])
        open_to_reading = len(points) == 1 and box is None and mask is None
        low, ious = self._decode(points, labels, box, mask, multimask or open_to_reading)
        order = ious.argsort(descending=True) if multimask else ious.argmax()[None]
        low, ious = low[order], ious[order].clamp(0, 1).cpu().numpy()
        masks = (self.model.enlarge(low[None], self._embedding)[0] > 0).cpu().numpy()
        for answer, logits in zip(masks, low, strict=True):
            _keep(self._answers, self._answer_key(answer), logits[None, None], KEPT_ANSWERS)
        return (masks, ious) if multimask else (masks[0], float(ious[0]))

    @torch.no_grad()
    def _decode(
        self, points: np.ndarray, labels: np.ndarray, box: np.ndarray | None, mask: np.ndarray | None, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Logits (M, h, w) of the network's square and predicted IoUs (M,)."""
        clicks = (torch.from_numpy(points)[None], torch.from_numpy(labels)[None]) if len(points) else (None, None)
        boxes = None if box is None else torch.from_numpy(box)[None]
        low, ious = self.model.decode(self._embedding, *clicks, boxes, self._mask_logits(mask), multimask)
        return low[0], ious[0]

    def _mask_logits(self, mask: np.ndarray | None) -> Tensor | None:
        if mask is None:
            return None
        known = self._answers.get(self._answer_key(mask))
        return self.model.mask_logits(torch.from_numpy(mask), self._embedding) if known is None else known

    def _answer_key(self, mask: np.ndarray) -> str:
        return self._key + _digest(mask)


def load_sam(name: str = "sam_vit_b", device: str | torch.device | None = None) -> SamPredictor | None:
    """The SAM ``name``, one of ``models.sam.SAM_MODELS``; None, and one printed sentence, if it cannot be had.

    With ``LAB_SAM_WEIGHTS`` set it is the SAM in that folder instead, whatever ``name`` says, and is named after it.

    Args:
        device: by default a GPU where there is one.

    Raises:
        ValueError, FileNotFoundError: an unknown name, or a folder without a SAM, as ``models.sam_weights.build_sam``.
    """
    try:
        return sam_predictor(name, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except SamUnavailable as error:
        print(error)
        return None


def sam_predictor(name: str, device: str | torch.device) -> SamPredictor:
    """As :func:`load_sam`, but raises SamUnavailable with that sentence."""
    return SamPredictor(*build_sam(name, device))


def _digest(array: np.ndarray) -> str:
    kind = f"{array.dtype} {array.shape}".encode()
    return hashlib.sha256(kind + np.ascontiguousarray(array).tobytes()).hexdigest()


def _keep(kept: dict, key: str, value: object, most: int) -> None:
    """Puts a value at the end of a dict, and drops the oldest beyond ``most``."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]
