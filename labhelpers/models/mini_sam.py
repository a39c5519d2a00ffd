"""Mini-SAM: a network of five million parameters that segments what the user points at.

The plan is that of Kirillov et al., Segment Anything, ICCV 2023: a heavy image encoder that runs once for each image,
a prompt encoder, and a light decoder that runs at every click and returns three candidate masks, each with a predicted
IoU. Three things differ, so that it can be trained on a laptop: the encoder is an EfficientNet-Lite; prompts become
maps instead of tokens (see `prompt_maps`); three convolutions take the place of the two-way transformer.

What a click has to compute is thin; what the decoder computes from the image alone is computed in `MiniSAM.encode`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.data.augment import to_input
from labhelpers.models.deeplab import conv_norm
from labhelpers.models.encoders import Encoder
from labhelpers.models.prompt_maps import BroadcastPrompts, Size, SpatialPrompts, check_prompts

FUSIONS: dict[str, type[SpatialPrompts] | type[BroadcastPrompts]]
FUSIONS = {"spatial": SpatialPrompts, "broadcast": BroadcastPrompts}
EMBEDDING = 256  # channels of the image embedding
DECODER = 96  # channels of all that is computed at a click
KEYS = 64  # channels by which positions are compared with what was clicked
FINE = 32  # channels at stride 4
CANDIDATES = 3  # masks for one object: a click on a wheel may mean the wheel, the car or the row of cars


@dataclass(frozen=True)
class Embedding:
    """What is computed once for each image; h = ceil(H / 8), w = ceil(W / 8), B images."""

    features: Tensor  # (B, 256, h, w), the image embedding
    decoder_part: Tensor  # (B, 96, h, w), the image's share in the decoder's first layer
    keys: Tensor  # (B, 64, h, w), see `prompt_maps.SpatialPrompts`
    fine: Tensor  # (B, 32, 2h, 2w), features of stride 4 for the mask's edge
    size: Size  # (H, W) of the images

    def repeat(self, count: int) -> "Embedding":
        """Each image `count` times in a row, for as many prompts on it: B * count."""
        parts = (self.features, self.decoder_part, self.keys, self.fine)
        features, decoder_part, keys, fine = (part.repeat_interleave(count, dim=0) for part in parts)
        return Embedding(features, decoder_part, keys, fine, self.size)


class MiniSAM(nn.Module):
    """Masks for points and a box.

    Args:
        encoder: the part with ImageNet weights, which a training may freeze or train at a lower rate: features of
            strides 4, 8, 16 and 32, as `build_encoder("efficientnet_lite0")` gives them.
        num_classes: 1: the mask of the prompted object, in three candidates. More: logits of so many classes.
        fusion: `"spatial"`: what the prompt says depends on each position's offset to each point and to the box.
            `"broadcast"`: one vector for all prompts, the same at every position, so that the decoder cannot tell
            where the click was; it is here to show that.

    Raises:
        ValueError: for an unknown fusion or `num_classes` below 1.
    """

    def __init__(self, encoder: Encoder, num_classes: int = 1, fusion: str = "spatial"):
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {fusion!r}; known: {', '.join(FUSIONS)}")
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes, self.fusion = num_classes, fusion
        masks, ious = (CANDIDATES, CANDIDATES) if num_classes == 1 else (num_classes, 1)

        self.image_encoder = ImageEncoder(encoder)
        self.img_proj = separable(EMBEDDING)
        self.key_proj = nn.Conv2d(EMBEDDING, KEYS, 1)
        self.decoder_proj = nn.Conv2d(EMBEDDING, DECODER, 1)
        self.fine_proj = nn.Conv2d(encoder.channels[0], FINE, 1)

        self.prompt_encoder = FUSIONS[fusion](DECODER)
        self.decoder = nn.Sequential(
            nn.BatchNorm2d(DECODER),
            nn.ReLU(inplace=True),
            conv_norm(DECODER, DECODER, 3),
            conv_norm(DECODER, DECODER, 3, rate=2),
            conv_norm(DECODER, DECODER, 3, rate=4),
        )
        self.to_fine = nn.ConvTranspose2d(DECODER, FINE, 2, stride=2)
        self.mask_head = nn.Sequential(
            nn.BatchNorm2d(FINE), nn.ReLU(inplace=True), nn.Conv2d(FINE, masks, 3, padding=1)
        )
        self.iou_head = nn.Sequential(
            nn.Linear(DECODER * (1 + masks), DECODER), nn.ReLU(inplace=True), nn.Linear(DECODER, ious)
        )

    @property
    def encoder(self) -> Encoder:
        """The encoder that was given."""
        return self.image_encoder.backbone

    @property
    def point_type_embed(self) -> nn.Embedding:
        """What a point is, 0 background, 1 foreground, as a vector."""
        return self.prompt_encoder.point_type_embed

    @property
    def point_pos_embed(self) -> nn.Linear:
        """Where a point is, as a vector or, with spatial fusion, as one for each position of the image."""
        return self.prompt_encoder.point_pos_embed

    @property
    def box_embed(self) -> nn.Module:
        """Where the box is, likewise."""
        return self.prompt_encoder.box_embed

    def forward(
        self,
        images: Tensor,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images and prompts -> masks and how good they are.

        Args:
            images: uint8 (B, 3, H, W), RGB; or float, normalised as `to_input` does.
            points: float (B, N, 2), pixels (x, y) of these images; the centre of the first pixel is (0, 0).
            point_labels: integers (B, N): 1 foreground, 0 background, -1 padding, which changes nothing.
            boxes: float (B, 4), pixels (x0, y0, x1, y1); a row of NaN is no box.
            mask_input: float (B, 1, h, w), logits of an earlier answer, of the images' size or of any resolution of
                the stride-8 map; one that holds a NaN is none.
            Any of them may be missing, all of them too.

        Returns:
            Logits (B, 3, H, W), of which a mask is what is above 0, and IoUs (B, 3) in 0..1; with `num_classes` K > 1
            class logits (B, K, H, W) and one IoU (B, 1).

        Raises:
            ValueError: shapes that do not fit each other.
        """
        return self.decode(self.encode(images), points, point_labels, boxes, mask_input)

    def encode(self, images: Tensor) -> Embedding:
        """Images (B, 3, H, W) as for `forward` -> all that does not depend on a prompt."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must have shape (B, 3, H, W), got {tuple(images.shape)}")
        x = to_input(images) if images.dtype == torch.uint8 else images
        x, f4 = self.image_encoder(x)
        x = self.img_proj(x)
        # An odd number of rows at stride 4 is completed, so that there are twice as many as at stride 8.
        missing_y, missing_x = 2 * x.shape[2] - f4.shape[2], 2 * x.shape[3] - f4.shape[3]
        fine = self.fine_proj(F.pad(f4, (0, missing_x, 0, missing_y), mode="replicate"))
        return Embedding(x, self.decoder_proj(x), self.key_proj(x), fine, (images.shape[2], images.shape[3]))

    def decode(
        self,
        embedding: Embedding,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        full_size: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Prompts on encoded images; arguments and result as for `forward`.

        `full_size=False` leaves the logits at stride 4, (B, 3, 2h, 2w): a sixteenth of the values for a loss.
        """
        check_prompts(len(embedding.keys), points, point_labels, boxes, mask_input)
        prompt = self.prompt_encoder(embedding.keys, embedding.size, points, point_labels, boxes, mask_input)
        x = self.decoder(embedding.decoder_part + prompt)
        logits = self.mask_head(self.to_fine(x) + embedding.fine)
        iou = self.iou_head(self._summary(x, logits)).sigmoid()
        return (self.enlarge(logits, embedding.size) if full_size else logits), iou

    @staticmethod
    def enlarge(logits: Tensor, size: Size) -> Tensor:
        """Logits of stride 4 at the images' own resolution: (B, C, 2h, 2w) -> (B, C, H, W)."""
        logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        return logits[..., : size[0], : size[1]]

    def _summary(self, x: Tensor, logits: Tensor) -> Tensor:
        """The mean of the decoder's features over the image and over each mask: (B, C * (1 + masks)).

        The masks only say where to look: no gradient of the IoU's error reaches them this way.
        """
        weights = F.avg_pool2d(logits.detach(), 2)
        weights = weights.sigmoid() if self.num_classes == 1 else weights.softmax(1)
        weights = weights.flatten(2)  # (B, masks, hw)
        weights = weights / weights.sum(2, keepdim=True).clamp_min(1e-3)
        inside = torch.einsum("bmp,bcp->bmc", weights, x.flatten(2))
        return torch.cat([x.mean((2, 3))[:, None], inside], dim=1).flatten(1)


class ImageEncoder(nn.Module):
    """An encoder, its features fused from stride 32 up to 8 as in a feature pyramid (Lin et al., FPN, 2017)."""

    def __init__(self, backbone: Encoder):
        super().__init__()
        self.backbone = backbone
        _, c8, c16, c32 = backbone.channels
        self.context = nn.Sequential(conv_norm(c32, EMBEDDING, 1), Residual(EMBEDDING))
        self.lateral16 = nn.Conv2d(c16, EMBEDDING, 1)
        self.smooth16 = separable(EMBEDDING)
        self.lateral8 = nn.Conv2d(c8, EMBEDDING, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, H, W) -> (B, 256, h, w) of stride 8, (B, 16, ceil(H / 4), ceil(W / 4))."""
        f4, f8, f16, f32 = self.backbone(x)
        x = self.smooth16(twice(self.context(f32), f16) + self.lateral16(f16))
        return twice(x, f8) + self.lateral8(f8), f4


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity (He et al., 2016, Fig. 2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(channels, channels, 3),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def separable(channels: int) -> nn.Sequential:
    """A 3x3 convolution in two: each channel on its own, then across channels (Howard et al., 2017)."""
    each = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    norm = nn.Sequential(each, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
    return nn.Sequential(norm, conv_norm(channels, channels, 1))


def twice(x: Tensor, like: Tensor) -> Tensor:
    """`x` at twice its size, cut to the size of `like`, which may be odd."""
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return x[..., : like.shape[2], : like.shape[3]]
