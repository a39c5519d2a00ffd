"""Mini-SAM: a network of five million parameters that segments what the user points at.

The plan is that of Kirillov et al., Segment Anything, ICCV 2023: a heavy image encoder that runs once for each image,
a prompt encoder, and a light decoder that runs at every click and returns three candidate masks, each with a predicted
IoU. Three things differ, so that it can be trained on a laptop: the encoder is small; prompts become maps instead of
tokens (see `prompt_maps`); three convolutions take the place of the two-way transformer.

`BaseMiniSAM` is the network that lab 06 builds. `MiniSAM` is the one that ships: the same, and what makes it better or
faster; benchmarks/mini_sam_additions.py measures what each addition buys.
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.data.augment import to_input
from labhelpers.models.deeplab import conv_norm
from labhelpers.models.encoders import Encoder
from labhelpers.models.prompt_maps import BOX, EDGE, POINT, Size, at_points, box_maps, check_prompts, point_maps

CANDIDATES = 3  # masks for one object: a click on a wheel may mean the wheel, the car or the row of cars
CHANNELS = 48  # of all that `BaseMiniSAM` computes behind its encoder
EMBEDDING = 256  # channels of the image embedding of `MiniSAM`
DECODER = 96  # channels of all that it computes at a click
KEYS = 64  # channels by which positions are compared with what was clicked,
HEADS = 8  # in so many groups, each of which compares in its own way
FINE = 32  # channels at stride 4


@dataclass(frozen=True)
class Embedding:
    """What is computed once for each image: features (B, C, h, w), and the images' size (H, W)."""

    features: Tensor
    size: Size

    def repeat(self, count: int) -> "Embedding":
        """Each image `count` times in a row, for as many prompts on it: B * count."""
        parts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "size"}
        return replace(self, **{name: part.repeat_interleave(count, dim=0) for name, part in parts.items()})


class BaseMiniSAM(nn.Module):
    """Masks for points and a box, as plain as it works; positions have stride 4.

    Args:
        image_encoder: features of strides 4, 8, 16 and 32, as `build_encoder` gives them.
        num_classes: 1: the mask of the prompted object, in three candidates. More: logits of so many classes.
        channels: of all that comes behind the encoder.

    Raises:
        ValueError: `num_classes` below 1.
    """

    def __init__(self, image_encoder: "Encoder | ImageEncoder", num_classes: int = 1, channels: int = CHANNELS):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        masks, ious = (CANDIDATES, CANDIDATES) if num_classes == 1 else (num_classes, 1)
        self.image_encoder = image_encoder
        self.img_proj: nn.Module = conv_norm(sum(image_encoder.channels), channels, 1)
        self.point_type_embed = nn.Embedding(2, channels)  # background, foreground
        self.point_pos_embed = nn.Linear(POINT, channels)
        self.box_embed = nn.Linear(BOX, channels)
        self.mix = nn.Linear(channels, channels)
        self.decoder = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            conv_norm(channels, channels, 3),
            conv_norm(channels, channels, 3, rate=2),
            conv_norm(channels, channels, 3, rate=4),
        )
        self.mask_head: nn.Module = nn.Conv2d(channels, masks, 1)
        self.iou_head = IoUHead(channels, masks, ious)

    def forward(
        self,
        images: Tensor,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images and prompts -> masks and how good they are.

        Args:
            images: uint8 (B, 3, H, W), RGB; or float, normalised as `to_input` does.
            points: float (B, N, 2), pixels (x, y) of these images; the centre of the first pixel is (0, 0).
            point_labels: integers (B, N): 1 foreground, 0 background, -1 padding, which changes nothing.
            boxes: float (B, 4), pixels (x0, y0, x1, y1); a row of NaN is no box.
            Any of them may be missing, all of them too.

        Returns:
            Logits (B, 3, H, W), of which a mask is what is above 0, and IoUs (B, 3) in 0..1; with `num_classes` K > 1
            class logits (B, K, H, W) and one IoU (B, 1).

        Raises:
            ValueError: shapes that do not fit each other.
        """
        return self.decode(self.encode(images), points, point_labels, boxes)

    def encode(self, images: Tensor) -> Embedding:
        """Images (B, 3, H, W) as for `forward` -> all that does not depend on a prompt."""
        features = self.image_encoder(_checked_input(images))
        enlarged = [F.interpolate(part, features[0].shape[2:], mode="bilinear") for part in features]
        return Embedding(self.img_proj(torch.cat(enlarged, dim=1)), _size(images))

    def decode(
        self,
        embedding: Embedding,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Prompts on encoded images; arguments and result as for `forward`."""
        check_prompts(len(embedding.features), points, point_labels, boxes)
        x = self.decoder(embedding.features + self.prompt_map(embedding, points, point_labels, boxes))
        logits = self.mask_head(x)
        return self.enlarge(logits, embedding.size), self.iou_head(x, logits)

    def prompt_map(
        self, embedding: Embedding, points: Tensor | None, point_labels: Tensor | None, boxes: Tensor | None
    ) -> Tensor:
        """What the prompts say at each position: (B, C, h, w), to be added to the features."""
        prompt = torch.zeros_like(embedding.features).movedim(1, 3)
        if points is not None and point_labels is not None and points.shape[1]:
            maps = point_maps(_given(points, point_labels), embedding.size, stride=4)
            prompt = prompt + self.embed_points(maps, point_labels)
        if boxes is not None:
            prompt = prompt + self.embed_boxes(box_maps(_given_boxes(boxes), embedding.size, stride=4), boxes)
        return self.mix(prompt).movedim(3, 1)

    def embed_points(self, maps: Tensor, labels: Tensor) -> Tensor:
        """What points say at each position: maps (B, N, h, w, F), labels (B, N) -> (B, h, w, C).

        The maximum over the points; none is below 0, so a padded point is silent.
        """
        vectors = F.relu(self.point_pos_embed(maps) + self.point_type_embed(labels.clamp_min(0))[:, :, None, None])
        return (vectors * (labels >= 0)[:, :, None, None, None]).amax(1)

    def embed_boxes(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """What a box says at each position: maps (B, h, w, F), boxes (B, 4) -> (B, h, w, C), 0 for no box."""
        return F.relu(self.box_embed(maps)) * ~boxes.isnan().any(1)[:, None, None, None]

    @staticmethod
    def enlarge(logits: Tensor, size: Size) -> Tensor:
        """Logits of stride 4 at the images' own resolution: (B, C, h, w) -> (B, C, H, W)."""
        logits = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
        return logits[..., : size[0], : size[1]]


class IoUHead(nn.Module):
    """Predicts how good masks are from the decoder's features over the whole image and over each mask.

    The masks only say where to look: no gradient of the IoU's error reaches them this way.
    """

    def __init__(self, channels: int, masks: int, ious: int):
        super().__init__()
        self.of_objects = ious == masks
        self.layers = nn.Sequential(
            nn.Linear(channels * (1 + masks), channels), nn.ReLU(inplace=True), nn.Linear(channels, ious)
        )

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Features (B, C, h, w), logits (B, M, h, w) or of twice that resolution -> IoUs in 0..1: (B, ious)."""
        weights = F.adaptive_avg_pool2d(logits.detach(), (features.shape[2], features.shape[3]))
        weights = (weights.sigmoid() if self.of_objects else weights.softmax(1)).flatten(2)  # (B, M, hw)
        weights = weights / weights.sum(2, keepdim=True).clamp_min(1e-3)
        inside = torch.einsum("bmp,bcp->bmc", weights, features.flatten(2))
        summary = torch.cat([features.mean((2, 3))[:, None], inside], dim=1).flatten(1)
        return self.layers(summary).sigmoid()


@dataclass(frozen=True)
class FineEmbedding(Embedding):
    """The embedding of `MiniSAM`: features (B, 256, h, w) of stride 8, and what else a click needs of the image."""

    decoder_part: Tensor  # (B, 96, h, w), the image's share in the decoder's first layer
    keys: Tensor  # (B, 64, h, w), by which positions are compared
    fine: Tensor  # (B, 32, 2h, 2w), features of stride 4 for the mask's edge


class MiniSAM(BaseMiniSAM):
    """`BaseMiniSAM` and what makes it better or faster.

    - Features are fused in an `ImageEncoder`, and a click is answered at stride 8, a quarter of the positions.
    - The fine branch: features of stride 4 join in at the end, for the mask's edge.
    - Likeness: a position is also told how similar it is to what was clicked, as the cosine between keys at both, one
      for each of eight groups of channels; for a box, to the mean of the keys inside and to that of a frame around it.
    - The earlier mask is one more prompt.

    Two more, a closer look at a window and a second look, are those of `prompting.MiniSamPredictor`.

    Args:
        encoder: the part with ImageNet weights, which a training may freeze or train at a lower rate: features of
            strides 4, 8, 16 and 32, as `build_encoder("efficientnet_lite0")` gives them.
        num_classes: as for `BaseMiniSAM`.
    """

    image_encoder: "ImageEncoder"

    def __init__(self, encoder: Encoder, num_classes: int = 1):
        super().__init__(ImageEncoder(encoder), num_classes, DECODER)
        masks = CANDIDATES if num_classes == 1 else num_classes
        # In place of the base's:
        self.img_proj = separable(EMBEDDING)
        self.point_pos_embed = nn.Linear(POINT + HEADS, DECODER)
        self.box_embed = nn.Linear(BOX + 2 * HEADS, DECODER)
        self.mask_head = nn.Sequential(
            nn.BatchNorm2d(FINE), nn.ReLU(inplace=True), nn.Conv2d(FINE, masks, 3, padding=1)
        )
        # What it has more:
        self.key_proj = nn.Conv2d(EMBEDDING, KEYS, 1)
        self.decoder_proj = nn.Conv2d(EMBEDDING, DECODER, 1)
        self.fine_proj = nn.Conv2d(encoder.channels[0], FINE, 1)
        self.to_fine = nn.ConvTranspose2d(DECODER, FINE, 2, stride=2)
        self.mask_embed = nn.Linear(1, DECODER)

    @property
    def encoder(self) -> Encoder:
        """The encoder that was given."""
        return self.image_encoder.backbone

    def forward(
        self,
        images: Tensor,
        points: Tensor | None = None,
        point_labels: Tensor | None = None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As the base's, with one prompt more.

        Args:
            mask_input: float (B, 1, h, w), logits of an earlier answer, of the images' size or of any resolution of
                the stride-8 map; one that holds a NaN is none.
        """
        return self.decode(self.encode(images), points, point_labels, boxes, mask_input)

    def encode(self, images: Tensor) -> FineEmbedding:
        x, f4 = self.image_encoder(_checked_input(images))
        x = self.img_proj(x)
        # An odd number of rows at stride 4 is completed, so that there are twice as many as at stride 8.
        missing_y, missing_x = 2 * x.shape[2] - f4.shape[2], 2 * x.shape[3] - f4.shape[3]
        fine = self.fine_proj(F.pad(f4, (0, missing_x, 0, missing_y), mode="replicate"))
        return FineEmbedding(x, _size(images), self.decoder_proj(x), self.key_proj(x), fine)

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
        assert isinstance(embedding, FineEmbedding)
        check_prompts(len(embedding.keys), points, point_labels, boxes, mask_input)
        x = self.decoder(embedding.decoder_part + self.prompt_map(embedding, points, point_labels, boxes, mask_input))
        logits = self.mask_head(self.to_fine(x) + embedding.fine)
        return (self.enlarge(logits, embedding.size) if full_size else logits), self.iou_head(x, logits)

    def prompt_map(
        self,
        embedding: Embedding,
        points: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None,
        mask_input: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(embedding, FineEmbedding)
        keys, size = F.normalize(embedding.keys.unflatten(1, (HEADS, -1)), dim=2), embedding.size
        prompt = torch.zeros_like(embedding.decoder_part).movedim(1, 3)
        if points is not None and point_labels is not None and points.shape[1]:
            points = _given(points, point_labels)
            maps = torch.cat([point_maps(points, size), self._like_points(keys, points)], dim=-1)
            prompt = prompt + self.embed_points(maps, point_labels)
        if boxes is not None:
            maps = box_maps(_given_boxes(boxes), size)
            prompt = prompt + self.embed_boxes(torch.cat([maps, *self._like_box(keys, maps)], dim=-1), boxes)
        if mask_input is not None:
            prompt = prompt + self._embed_mask(mask_input, size, prompt)
        return self.mix(prompt).movedim(3, 1)

    def _like_points(self, keys: Tensor, points: Tensor) -> Tensor:
        """Cosine of the keys (B, heads, c, h, w) with those at each point (B, N, 2): (B, N, h, w, heads)."""
        clicked = at_points(keys.flatten(1, 2), points).unflatten(2, keys.shape[1:3])
        return torch.einsum("bgchw,bngc->bnhwg", keys, clicked)

    def _like_box(self, keys: Tensor, maps: Tensor) -> list[Tensor]:
        """Cosine of the keys with their means inside of a box and in a frame around it: two of (B, h, w, heads)."""
        relative, edge, soft, extent = maps[..., :2], maps[..., 2:3], maps[..., 3:4], maps[..., 4:6]
        frame = torch.sigmoid((edge + 0.15 * extent.amax(-1, keepdim=True)) / EDGE) - soft
        centre = soft * torch.exp(-relative.square().sum(-1, keepdim=True))
        means = [torch.einsum("bgchw,bhw->bgc", keys, weight[..., 0]) for weight in (centre, frame)]
        return [torch.einsum("bgchw,bgc->bhwg", keys, F.normalize(mean, dim=2)) for mean in means]

    def _embed_mask(self, mask_input: Tensor, size: Size, like: Tensor) -> Tensor:
        """What an earlier mask says at each position of `like` (B, h, w, C), in its shape."""
        valid = ~mask_input.isnan().flatten(1).any(1)
        probability = torch.where(valid[:, None, None, None], mask_input, 0).float().sigmoid()
        height, width = like.shape[1:3]
        if mask_input.shape[2:] == size:  # positions of stride 8 reach beyond an image of another size
            edges = (0, 8 * width - size[1], 0, 8 * height - size[0])
            probability = F.pad(probability, edges, mode="replicate")
        probability = F.interpolate(probability, (height, width), mode="bilinear", antialias=True)
        return F.relu(self.mask_embed(probability.movedim(1, 3))) * valid[:, None, None, None]


class ImageEncoder(nn.Module):
    """An encoder, its features fused from stride 32 up to 8 as in a feature pyramid (Lin et al., FPN, 2017)."""

    def __init__(self, backbone: Encoder):
        super().__init__()
        self.backbone = backbone
        _, c8, c16, c32 = backbone.channels
        self.channels = (EMBEDDING,)
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


def _checked_input(images: Tensor) -> Tensor:
    """Images (B, 3, H, W), uint8 or normalised, as the encoder takes them."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (B, 3, H, W), got {tuple(images.shape)}")
    return to_input(images) if images.dtype == torch.uint8 else images


def _size(images: Tensor) -> Size:
    return images.shape[2], images.shape[3]


def _given(points: Tensor, labels: Tensor) -> Tensor:
    """Points with 0 for those that only fill up: NaN times 0 would be NaN."""
    return torch.where((labels >= 0)[..., None], points, 0)


def _given_boxes(boxes: Tensor) -> Tensor:
    """Boxes with 0 for those that are none."""
    return torch.where(boxes.isnan().any(1, keepdim=True), 0, boxes)
