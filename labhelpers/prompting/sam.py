"""SAM behind the same interface as Mini-SAM: `set_image` once, `predict` at every click."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from labhelpers.evaluation.confusion import require_finite
from labhelpers.models.sam import SAM, SamEmbedding, SamUnavailable, build_sam
from labhelpers.prompting.predictor import Predictor, Prompt, as_tensor

KEPT_IMAGES = 64  # embeddings kept, 4 MB each for SAM, 17 for SAM 2: so many that a lab encodes each image once
KEPT_ANSWERS = 16  # logits of answers kept, 256 kB each, for the clicks that refine them


class SamPredictor(Predictor):
    """A SAM as a predictor; it knows no classes.

    The embeddings of the last `KEPT_IMAGES` images are kept by content, so that going back to an image costs nothing. A
    click alone may mean a part, an object or several: SAM draws three masks for it, and that of the highest predicted
    IoU is the answer. For a box, several points or an earlier mask it is the one mask that SAM draws for prompts that
    leave nothing open (Kirillov et al., 2023, appendix A). A `mask_input` that is an earlier answer goes back as SAM's
    own logits, any other as logits of two values. Predicted IoUs are clipped to 0..1, in which SAM's head does not
    keep.

    Args:
        model: with its weights.
    """

    model: SAM

    def __init__(self, model: SAM, name: str = "sam"):
        super().__init__(model, name)
        self._embeddings: dict[str, SamEmbedding] = {}
        self._answers: dict[str, Tensor] = {}

    def with_own_decoder(self, name: str) -> "SamPredictor":
        """The same predictor with a copy of the mask decoder, to be tuned; encoder and embeddings are shared."""
        twin = SamPredictor(self.model.with_own_decoder(), name)
        twin._embeddings = self._embeddings
        return twin

    def encode(self, image: np.ndarray) -> None:
        self._key = _digest(image)
        known = self._embeddings.pop(self._key, None)
        self._embedding = self.model.encode(as_tensor(image)[None]) if known is None else known
        _keep(self._embeddings, self._key, self._embedding, KEPT_IMAGES)

    @property
    def embedding(self) -> SamEmbedding:
        """Of the image that was set last."""
        return self._embedding

    @torch.no_grad()
    def answer(self, prompt: Prompt, multimask: bool) -> tuple[np.ndarray, np.ndarray]:
        given = (prompt.points, prompt.labels) if len(prompt.points) else (None, None)
        points, labels, box = (None if a is None else torch.from_numpy(a)[None] for a in (*given, prompt.box))
        multimask_output = multimask or (len(prompt.points) == 1 and prompt.box is None and prompt.mask is None)
        earlier = self._mask_logits(prompt.mask)
        low, ious = self.model.decode(self._embedding, points, labels, box, earlier, multimask_output)
        for output in (low, ious):
            require_finite(output, ["this prompt"])
        low, ious = low[0], ious[0]
        order = ious.argsort(descending=True) if multimask else ious.argmax()[None]
        masks = (self.model.enlarge(low[order][None], self._embedding)[0] > 0).cpu().numpy()
        for mask, logits in zip(masks, low[order], strict=True):
            _keep(self._answers, self._key + _digest(mask), logits[None, None], KEPT_ANSWERS)
        return masks, ious[order].clamp(0, 1).cpu().numpy()

    def _mask_logits(self, mask: np.ndarray | None) -> Tensor | None:
        if mask is None:
            return None
        key = self._key + _digest(mask)
        if key not in self._answers:
            return self.model.mask_logits(torch.from_numpy(mask), self._embedding)
        _keep(self._answers, key, self._answers[key], KEPT_ANSWERS)  # what is refined stays, however often it is tried
        return self._answers[key]


def load_sam(name: str = "sam", device: str | torch.device | None = None) -> SamPredictor | None:
    """The SAM `name`, "sam" or one of `models.sam.SAM_MODELS`; None, and one printed sentence, if it cannot be had.

    With `LAB_SAM_WEIGHTS` set it is the SAM in that folder instead, whatever `name` says, and is named after it.

    Args:
        name: see `models.sam.build_sam`.
        device: by default a GPU where there is one.

    Raises:
        ValueError, FileNotFoundError: an unknown name, or files that are not that SAM's, as `models.sam.build_sam`.
    """
    try:
        return SamPredictor(*build_sam(name, device or ("cuda" if torch.cuda.is_available() else "cpu")))
    except SamUnavailable as error:
        print(error)
        return None


def _digest(array: np.ndarray) -> str:
    kind = f"{array.dtype} {array.shape}".encode()
    return hashlib.sha256(kind + np.ascontiguousarray(array).tobytes()).hexdigest()


def _keep(kept: dict, key: str, value: object, most: int) -> None:
    """Puts a value at the end of a dict, and drops the oldest beyond `most`."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]
