"""What a prompt says at each position of the image.

A decoder made of convolutions sees the same numbers everywhere if the prompt is one vector; then it cannot know where
the click was. Segment Anything solves this by adding positional encodings to the image embedding. Here the prompt
itself is given as maps: at each position, how far away and in which direction each point lies, and where the position
lies relative to the box.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMAS = (0.03, 0.12)  # widths of the two bumps around a point, as a fraction of the image's longer side
POINT = 3 + len(SIGMAS)  # numbers that say where a position lies relative to a point
BOX = 8  # numbers that say where a position lies relative to a box
EDGE = 0.02  # width of the step at a box's edge, as a fraction of the image's longer side

Size = tuple[int, int]  # (H, W) of the images


def point_maps(points: Tensor, size: Size, stride: int = 8) -> Tensor:
    """Where each position lies relative to each point.

    Args:
        points: float (B, N, 2), pixels (x, y); the centre of the first pixel is (0, 0).
        size: (H, W) of the images.
        stride: pixels from one position to the next; h = ceil(H / stride), w = ceil(W / stride).

    Returns:
        (B, N, h, w, 5): dx, dy and distance, from the point to the position, in units of the image's longer side, and
        two bumps, exp(-distance^2 / (2 sigma^2)).
    """
    offset = positions(size, stride, points.device) - normalize(points, size)[:, :, None, None]
    squared = offset.square().sum(-1, keepdim=True)
    bumps = [torch.exp(-squared / (2 * sigma**2)) for sigma in SIGMAS]
    return torch.cat([offset, squared.sqrt(), *bumps], dim=-1)


def box_maps(boxes: Tensor, size: Size, stride: int = 8) -> Tensor:
    """Where each position lies relative to a box: arguments as for `point_maps`, boxes float (B, 4), x0, y0, x1, y1.

    Returns:
        (B, h, w, 8): x and y relative to the box (-1 and 1 at its edges, at most 2 away from 0); the distance to the
        nearest edge, negative outside; a soft step at the edges, 1 inside; the box's width and height; the distance to
        the nearer vertical and to the nearer horizontal edge in units of width and height.
    """
    here = positions(size, stride, boxes.device)
    low = normalize(boxes[:, None, None, :2] - 0.5, size)  # from the corner of the first pixel
    high = normalize(boxes[:, None, None, 2:] + 0.5, size)  # to that of the last
    extent = (high - low).clamp_min(1e-3)
    inner = torch.minimum(here - low, high - here)
    edge = inner.amin(-1, keepdim=True)
    relative = (2 * (here - low) / extent - 1).clamp(-2, 2)
    return torch.cat([relative, edge, torch.sigmoid(edge / EDGE), extent.expand_as(relative), inner / extent], dim=-1)


def check_prompts(
    batch: int, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, mask_input: Tensor | None = None
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


def positions(size: Size, stride: int, device: torch.device) -> Tensor:
    """The centres of all positions, as `normalize` measures them: (h, w, 2), x first."""
    y, x = ((torch.arange(-(-side // stride), device=device) + 0.5) * stride / max(size) for side in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def at_points(features: Tensor, points: Tensor, stride: int = 8) -> Tensor:
    """Features (B, C, h, w) at points (B, N, 2) in pixels, interpolated between positions: (B, N, C)."""
    extent = points.new_tensor(features.shape[:1:-1]) * stride  # (w, h) in pixels
    grid = (2 * (points + 0.5) / extent - 1)[:, :, None]
    values = F.grid_sample(features, grid, align_corners=False, padding_mode="border")
    return values[..., 0].transpose(1, 2)
