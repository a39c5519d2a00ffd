"""The answers of lab 06 that the library holds in another form: what a prompt says, a judge of masks, a step."""

import torch
from torch import Tensor, nn

from labhelpers.prompting.task import prompt_loss


def normalize(xy: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels (..., 2) to positions measured from the image's corner, its longer side being 1."""
    return (xy + 0.5) / max(size)


class PointEmbedding(nn.Module):
    """Points -> one vector, the mean over the points of what their type and their position say."""

    def __init__(self, channels: int):
        super().__init__()
        self.point_type_embed = nn.Embedding(2, channels)  # 0 background, 1 foreground
        self.point_pos_embed = nn.Linear(2, channels)

    def forward(self, points: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """points float (B, N, 2), labels int64 (B, N), -1 padding, size (H, W) -> (B, C), zeros without a point."""
        given = (labels >= 0)[..., None]
        said = self.point_type_embed(labels.clamp_min(0)) + self.point_pos_embed(normalize(points, size))
        return (said * given).sum(1) / given.sum(1).clamp_min(1)


class BoxEmbedding(nn.Module):
    """A box -> a vector."""

    def __init__(self, channels: int):
        super().__init__()
        self.box_embed = nn.Sequential(nn.Linear(4, channels), nn.ReLU(), nn.Linear(channels, channels))

    def forward(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """boxes float (B, 4), pixels (x0, y0, x1, y1), a row of NaN for none, size (H, W) -> (B, C)."""
        given = ~boxes.isnan().any(1, keepdim=True)
        # Replaced before the layers: what comes out of them for NaN has a gradient of NaN, even if it is not used.
        known = torch.where(given, boxes, 0)
        return self.box_embed(normalize(known, size)) * given


def offset_maps(points: Tensor, size: tuple[int, int], stride: int = 8) -> Tensor:
    """dx, dy, distance from each point to each position of a map, the image's longer side being 1.

    points float (B, N, 2), size (H, W) -> (B, N, h, w, 3), h = ceil(H / stride), w = ceil(W / stride). The centre of
    position (i, j) lies at x = (j + 0.5) stride, y = (i + 0.5) stride, measured from the image's corner.
    """
    rows, columns = (torch.arange(-(-side // stride), device=points.device) for side in size)
    y, x = torch.meshgrid((rows + 0.5) * stride, (columns + 0.5) * stride, indexing="ij")
    offset = torch.stack([x, y], -1) / max(size) - normalize(points, size)[:, :, None, None]
    return torch.cat([offset, offset.norm(dim=-1, keepdim=True)], -1)


class IoUHead(nn.Module):
    """How good are these masks? Judged by the features inside each of them."""

    def __init__(self, channels: int, masks: int):
        super().__init__()
        self.iou_head = nn.Sequential(
            nn.Linear(channels * (1 + masks), channels), nn.ReLU(), nn.Linear(channels, masks)
        )

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """features float (B, C, h, w), logits (B, M, h, w) -> predicted IoUs (B, M), 0..1."""
        weights = logits.detach().sigmoid()  # the masks say where to look, and do not change to please the judge
        total = weights.sum((2, 3)).clamp_min(1e-3)
        inside = torch.einsum("bmhw,bchw->bmc", weights, features) / total[..., None]
        seen = torch.cat([features.mean((2, 3))[:, None], inside], 1)
        return self.iou_head(seen.flatten(1)).sigmoid()


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    points: Tensor,
    labels: Tensor,
    boxes: Tensor,
    target: Tensor,
    weight: Tensor,
) -> float:
    """One step of ``prompt_loss`` with the gradient's norm clipped at 1; target and weight (B, H, W) -> the loss."""
    model.train()
    optimizer.zero_grad()
    logits, predicted_iou = model(images, points, labels, boxes)
    loss = prompt_loss(logits, predicted_iou, target, weight)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()
