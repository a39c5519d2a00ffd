"""SAM, SAM-HQ and SAM 2 from `transformers`, in two parts: encode an image once, decode prompts on it often.

Kirillov et al., Segment Anything, ICCV 2023; Ke et al., Segment Anything in High Quality, NeurIPS 2023; Ravi et al.,
SAM 2, 2024. Networks and preprocessing are the library's. What is added is the interface of Mini-SAM: coordinates in
pixels of the image, prompts in one call, masks of the image's own size. How weights are found: see ``sam_weights``.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SAM", "SAM_MODELS", "SamEmbedding"]

SURE = 8.0  # the logit of a pixel that is taken as certain

# Repository on the hub, and the commit whose files are taken.
SAM_MODELS: dict[str, tuple[str, str]] = {
    "sam_vit_b": ("facebook/sam-vit-base", "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f"),
    "sam_vit_l": ("facebook/sam-vit-large", "6851e0441005b0fb96f2cc4dfac472f3d1b14af1"),
    "sam_vit_h": ("facebook/sam-vit-huge", "87aecf0df4ce6b30cd7de76e87673c49644bdf67"),
    "sam_hq_vit_b": ("syscv-community/sam-hq-vit-base", "main"),
    "sam2_hiera_tiny": ("facebook/sam2.1-hiera-tiny", "de431c4043854a71d8101e17995dfe596bf101a5"),
}


@dataclass(frozen=True)
class SamEmbedding:
    """What is computed once for an image."""

    features: tuple[Tensor, ...]  # float32; SAM: (1, 256, 64, 64), then what a variant's decoder wants besides
    size: tuple[int, int]  # (H, W) of the image
    seen: tuple[int, int]  # (h, w) to which it was resized; the rest of the network's square is padding


class SAM(nn.Module):
    """A Segment Anything model with coordinates in pixels of the image.

    Args:
        network: ``SamModel``, ``SamHQModel`` or ``Sam2Model`` of `transformers`. It is frozen and put in eval mode.
        processor: the library's image processor for it.

    Attributes:
        side: pixels of the square that the network sees, 1024 in all published weights.
        low_side: pixels of the square of the decoder's logits, 256.
    """

    def __init__(self, network: nn.Module, processor: Any):
        super().__init__()
        self.network, self.processor = network.requires_grad_(False), processor
        self.eval()
        self.side = network.prompt_encoder.input_image_size
        self.low_side = 4 * network.prompt_encoder.image_embedding_size[0]

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def decoder(self) -> nn.Module:
        """The mask decoder, the part that is fine-tuned."""
        return self.network.mask_decoder

    def with_own_decoder(self) -> "SAM":
        """The same network with a copy of the mask decoder; the encoders are shared, not copied."""
        others = [part for name, part in self.network.named_children() if name != "mask_decoder"]
        return SAM(copy.deepcopy(self.network, {id(part): part for part in others}), self.processor)

    def forward(
        self,
        images: Tensor,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """One image (1, 3, H, W) and prompts -> logits (P, M, H, W) and IoUs (P, M), see :meth:`decode`."""
        embedding = self.encode(images)
        logits, ious = self.decode(embedding, points, point_labels, boxes, multimask=multimask)
        return self.enlarge(logits, embedding), ious

    @torch.no_grad()
    def encode(self, images: Tensor) -> SamEmbedding:
        """All that does not depend on a prompt, without gradients.

        Args:
            images: one image, uint8 (1, 3, H, W), RGB; or float, normalised as ``data.colour.to_input`` does.

        Raises:
            ValueError: another shape.
        """
        if images.ndim != 4 or images.shape[:2] != (1, 3):
            raise ValueError(f"SAM encodes one image (1, 3, H, W) at a time, got {tuple(images.shape)}")
        raw = images.dtype == torch.uint8
        prepared = self.processor(
            images.to(self.device), return_tensors="pt", input_data_format="channels_first", do_convert_rgb=False,
            do_rescale=raw, do_normalize=raw,
        )  # fmt: skip
        features = self.network.get_image_embeddings(prepared["pixel_values"])
        if isinstance(features, tuple):  # SAM-HQ: its decoder looks at the first of the intermediate ones only
            features = (features[0], features[1][0])
        elif isinstance(features, Tensor):
            features = (features,)
        seen = prepared.get("reshaped_input_sizes", [(self.side, self.side)])[0]
        height, width = (int(length) for length in seen)
        return SamEmbedding(tuple(features), tuple(images.shape[2:]), (height, width))

    def decode(
        self,
        embedding: SamEmbedding,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """P prompts on one encoded image.

        Args:
            points: (P, N, 2), pixels (x, y) of the image; the centre of the first pixel is (0, 0).
            point_labels: integers (P, N): 1 foreground, 0 background.
            boxes: (P, 4), pixels (x0, y0, x1, y1), extreme pixel indices, inclusive.
            mask_input: logits (1, 1, low_side, low_side) of an earlier answer, with P = 1.
            multimask: M = 3 masks for a prompt that may mean several things; else M = 1.

        Returns:
            Logits (P, M, low_side, low_side) of the network's square, see :meth:`enlarge`, and predicted IoUs (P, M),
            which no function holds within 0..1.
        """
        given: dict[str, Any] = {"input_masks": mask_input, "multimask_output": multimask}
        if points is not None:
            given["input_points"] = self._to_seen(points, embedding)[None]
            given["input_labels"] = point_labels.to(self.device)[None]
        if boxes is not None:
            given["input_boxes"] = self._boxes_to_seen(boxes, embedding)[None]
        features, kind = embedding.features, type(self.network).__name__
        given["image_embeddings"] = list(features) if kind == "Sam2Model" else features[0]
        if kind == "SamHQModel":
            given["intermediate_embeddings"] = [features[1]]
        answer = self.network(**given)
        return answer.pred_masks[0], answer.iou_scores[0]

    def enlarge(self, logits: Tensor, embedding: SamEmbedding) -> Tensor:
        """Logits of the network's square as logits of the image: (P, M, low_side, low_side) -> (P, M, H, W)."""
        sizes = {"original_sizes": [embedding.size], "reshaped_input_sizes": [embedding.seen]}
        return self.processor.post_process_masks([logits], **sizes, binarize=False)[0]

    def shrink(self, masks: Tensor, embedding: SamEmbedding) -> Tensor:
        """The share of each position of the network's square that a mask covers, 0 in the padding.

        (P, H, W), bool or float -> float (P, low_side, low_side), what :meth:`enlarge` turns back.
        """
        masks = masks.to(self.device, torch.float32)[:, None]
        height, width = embedding.seen
        seen = F.interpolate(masks, (height, width), mode="bilinear", antialias=True)
        square = F.pad(seen, (0, self.side - width, 0, self.side - height))
        return F.interpolate(square, (self.low_side, self.low_side), mode="area")[:, 0]

    def mask_logits(self, mask: Tensor, embedding: SamEmbedding) -> Tensor:
        """A mask without logits, bool (H, W), as ``mask_input``: (1, 1, low_side, low_side)."""
        return SURE * (2 * self.shrink(mask[None], embedding)[None] - 1)

    def _to_seen(self, xy: Tensor, embedding: SamEmbedding) -> Tensor:
        return (xy.to(self.device, torch.float32) + 0.5) * self._scale(embedding) - 0.5

    def _boxes_to_seen(self, boxes: Tensor, embedding: SamEmbedding) -> Tensor:
        """From the first pixel's outer corner to the last one's, and back to the extreme pixels of what is seen."""
        boxes, scale = boxes.to(self.device, torch.float32), self._scale(embedding)
        return torch.cat([boxes[:, :2] * scale, (boxes[:, 2:] + 1) * scale - 1], dim=1)

    def _scale(self, embedding: SamEmbedding) -> Tensor:
        (height, width), (seen_height, seen_width) = embedding.size, embedding.seen
        return torch.tensor([seen_width / width, seen_height / height], device=self.device)
