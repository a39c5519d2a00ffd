"""What a prompt says at each position of the image.

A decoder made of convolutions sees the same numbers everywhere if the prompt is one vector; then it cannot know where
the click was. Segment Anything solves this by adding positional encodings to the image embedding. Here the prompt
itself is given as a map: at each position, how far away and in which direction each point lies, and how similar the
position is to what was clicked.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 8  # groups of key channels, each of which compares positions in its own way
SIGMAS = (0.03, 0.12)  # widths of the two bumps around a point, as a fraction of the image's longer side
OFFSET = 3 + len(SIGMAS)  # numbers that say where a position lies relative to a point
BOX = 8  # numbers that say where a position lies relative to a box

Size = tuple[int, int]  # (H, W) of the images


class SpatialPrompts(nn.Module):
    """Prompts -> a map (B, C, h, w) that differs from position to position.

    For position p and point k: what `point_pos_embed` makes of the offset p - k and of the similarity of p and k, plus
    the embedding of the point's type; over the points the maximum. Similarity is the cosine between the keys at p and
    at k, one for each of eight groups of channels. For the box: offsets relative to its edges and size, and the
    similarity of p to the mean of the keys inside and to that of a frame around it.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.point_type_embed = nn.Embedding(2, channels)
        self.point_pos_embed = nn.Linear(OFFSET + HEADS, channels)
        self.box_embed = nn.Linear(BOX + 2 * HEADS, channels)
        self.mask_embed = nn.Linear(1, channels)
        self.mix = nn.Linear(channels, channels)

    def forward(
        self,
        keys: Tensor,
        size: Size,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        mask_input: Tensor | None,
    ) -> Tensor:
        """keys (B, K, h, w) of images of `size` (H, W), and prompts as for `MiniSAM.forward`."""
        height, width = keys.shape[2:]
        keys, positions = unit_keys(keys), grid_positions(height, width, size, keys.device)
        embedding = keys.new_zeros(len(keys), height * width, self.mix.in_features)
        if points is not None and labels is not None and points.shape[1]:
            embedding = embedding + self._points(keys, positions, size, points, labels)
        if boxes is not None:
            embedding = embedding + self._box(keys, positions, size, boxes)
        if mask_input is not None:
            embedding = embedding + self._mask(mask_input, size, height, width)
        return self.mix(embedding).transpose(1, 2).unflatten(2, (height, width))

    def _points(self, keys: Tensor, positions: Tensor, size: Size, points: Tensor, labels: Tensor) -> Tensor:
        valid = labels >= 0
        points = normalize(torch.where(valid[..., None], points, 0), size)
        offset = positions - points[:, :, None]  # (B, N, P, 2)
        squared = offset.square().sum(-1, keepdim=True)
        bumps = [torch.exp(-squared / (2 * sigma**2)) for sigma in SIGMAS]
        clicked = sample_keys(keys, points, size)
        similarity = torch.einsum("bgcp,bngc->bnpg", keys.flatten(3), clicked)  # (B, N, P, heads)
        features = torch.cat([offset, squared.sqrt(), *bumps, similarity], dim=-1)
        embedding = self.point_pos_embed(features) + self.point_type_embed(labels.clamp_min(0))[:, :, None]
        return (F.relu(embedding) * valid[:, :, None, None]).amax(1)  # none is below 0: a padded point is silent

    def _box(self, keys: Tensor, positions: Tensor, size: Size, boxes: Tensor) -> Tensor:
        valid = ~boxes.isnan().any(1)
        boxes = torch.where(valid[:, None], boxes, 0)
        low = normalize(boxes[:, None, :2] - 0.5, size)  # from the corner of the first pixel
        high = normalize(boxes[:, None, 2:] + 0.5, size)  # to that of the last
        extent = (high - low).clamp_min(1e-3)
        inner = torch.minimum(positions - low, high - positions)  # (B, P, 2), to the nearer edge, negative outside
        edge = inner.amin(-1, keepdim=True)
        relative = (2 * (positions - low) / extent - 1).clamp(-2, 2)  # -1 and 1 at the edges
        soft = torch.sigmoid(edge / 0.02)
        frame = torch.sigmoid((edge + 0.15 * extent.amax(-1, keepdim=True)) / 0.02) - soft
        centre = soft * torch.exp(-relative.square().sum(-1, keepdim=True))
        similarity = [self._similarity(keys, weight[..., 0]) for weight in (centre, frame)]
        features = torch.cat([relative, edge, soft, extent.expand_as(relative), inner / extent, *similarity], dim=-1)
        return F.relu(self.box_embed(features)) * valid[:, None, None]

    @staticmethod
    def _similarity(keys: Tensor, weight: Tensor) -> Tensor:
        """Cosine of the keys (B, heads, c, h, w) with their mean weighted by (B, P): (B, P, heads)."""
        keys = keys.flatten(3)
        mean = F.normalize(torch.einsum("bgcp,bp->bgc", keys, weight), dim=2)
        return torch.einsum("bgcp,bgc->bpg", keys, mean)

    def _mask(self, mask_input: Tensor, size: Size, height: int, width: int) -> Tensor:
        valid = ~mask_input.isnan().flatten(1).any(1)
        probability = torch.where(valid[:, None, None, None], mask_input, 0).float().sigmoid()
        if mask_input.shape[2:] == size:  # positions of stride 8 reach beyond an image of another size
            edges = (0, 8 * width - size[1], 0, 8 * height - size[0])
            probability = F.pad(probability, edges, mode="replicate")
        probability = F.interpolate(probability, (height, width), mode="bilinear", antialias=True)
        return F.relu(self.mask_embed(probability.flatten(2).transpose(1, 2))) * valid[:, None, None]


class BroadcastPrompts(nn.Module):
    """Prompts -> one vector, repeated at every position: the sketch of the course.

    A point's vector is the embedding of its type plus that of its coordinates, the mean over the points; to it the
    vector of the box is added.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.point_type_embed = nn.Embedding(2, channels)
        self.point_pos_embed = nn.Linear(2, channels)
        self.box_embed = nn.Sequential(nn.Linear(4, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels))
        self.mix = nn.Linear(channels, channels)

    def forward(
        self,
        keys: Tensor,
        size: Size,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        mask_input: Tensor | None,
    ) -> Tensor:
        """As for `SpatialPrompts`; `mask_input` is a map and cannot be said in one vector: it is left out."""
        embedding = keys.new_zeros(len(keys), self.mix.in_features)
        if points is not None and labels is not None and points.shape[1]:
            valid = (labels >= 0).float()[..., None]
            points = normalize(torch.where(valid > 0, points, 0), size)
            vectors = self.point_type_embed(labels.clamp_min(0)) + self.point_pos_embed(points)
            embedding = embedding + (vectors * valid).sum(1) / valid.sum(1).clamp_min(1)
        if boxes is not None:
            valid = ~boxes.isnan().any(1, keepdim=True)
            corners = torch.where(valid, boxes, 0).unflatten(1, (2, 2))
            embedding = embedding + self.box_embed(normalize(corners, size).flatten(1)) * valid
        return self.mix(F.relu(embedding))[:, :, None, None].expand(-1, -1, *keys.shape[2:])


def check_prompts(
    batch: int, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, mask_input: Tensor | None
) -> None:
    """Raises ValueError where the prompts' shapes do not fit each other or the batch."""
    if points is not None and labels is not None:
        if points.ndim != 3 or points.shape[2] != 2 or len(points) != batch:
            raise ValueError(f"points must have shape ({batch}, N, 2), (x, y) in pixels, got {tuple(points.shape)}")
        if labels.shape != points.shape[:2]:
            raise ValueError(f"point_labels must have shape {tuple(points.shape[:2])}, got {tuple(labels.shape)}")
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError("point_labels must be integers: 1 foreground, 0 background, -1 padding")
    elif points is not None or labels is not None:
        raise ValueError("points and point_labels belong together: give both or none")
    if boxes is not None and boxes.shape != (batch, 4):
        raise ValueError(f"boxes must have shape ({batch}, 4), (x0, y0, x1, y1) in pixels, got {tuple(boxes.shape)}")
    if mask_input is not None and (mask_input.ndim != 4 or mask_input.shape[:2] != (batch, 1)):
        raise ValueError(f"mask_input must have shape ({batch}, 1, h, w), got {tuple(mask_input.shape)}")
    if mask_input is not None and not mask_input.is_floating_point():
        raise ValueError(f"mask_input must be logits, float, got {mask_input.dtype}; for a mask: 16.0 * mask - 8")


def normalize(xy: Tensor, size: Size) -> Tensor:
    """Pixels (..., 2) to positions measured from the image's corner, its longer side being 1."""
    return (xy.float() + 0.5) / max(size)


def grid_positions(height: int, width: int, size: Size, device: torch.device) -> Tensor:
    """The centres of all positions of stride 8, row by row, as `normalize` measures them: (P, 2)."""
    y = (torch.arange(height, device=device) + 0.5) * 8 / max(size)
    x = (torch.arange(width, device=device) + 0.5) * 8 / max(size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def unit_keys(keys: Tensor) -> Tensor:
    """Keys (B, K, h, w) in groups of length 1: (B, heads, K / heads, h, w)."""
    return F.normalize(keys.unflatten(1, (HEADS, -1)), dim=2)


def sample_keys(keys: Tensor, points: Tensor, size: Size) -> Tensor:
    """The keys of `unit_keys` at points (B, N, 2), as `normalize` gives them, interpolated: (B, N, heads, c)."""
    height, width = keys.shape[3:]
    extent = points.new_tensor([width * 8, height * 8]) / max(size)
    grid = (2 * points / extent - 1)[:, :, None]
    values = F.grid_sample(keys.flatten(1, 2), grid, align_corners=False, padding_mode="border")
    return values[..., 0].transpose(1, 2).unflatten(2, (HEADS, -1))
