"""Scores near edges: the trimap curve, and Boundary IoU.

Most pixels lie far from any edge and are easy, so a score over the whole picture hardly moves when edges get better.
Kohli et al., "Robust higher order potentials for enforcing label consistency" (IJCV 2009), therefore score only a band
around the edges and plot the score over the band's width; the DeepLab papers (Chen et al., 2015 and later) do the same.
That band follows the truth alone. In Boundary IoU (Cheng et al., "Boundary IoU: improving object-centric image
segmentation evaluation", CVPR 2021) the prediction has a band of its own, so that a false edge far from any true one
costs as well.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from labhelpers.evaluation.confusion import METRICS, confusion_matrix

_BOUNDARY_SHARE = 0.02  # width of Boundary IoU's band, as a share of the picture's diagonal


def edge_distance(target: torch.Tensor, limit: int) -> torch.Tensor:
    """Return the distance from each pixel to the nearest pixel with another label.

    The distance is the chessboard one: d is the smallest number for which the square of side 2 d + 1 around the pixel
    holds another label. Void counts as a label here: in VOC the rim of 255 lies on the true edge and stands for it, so
    the distance is measured from both sides of the rim.

    Args:
        target: uint8 (..., H, W).
        limit: largest distance of interest, 1 to 254 pixels.

    Returns:
        uint8 (..., H, W): 1..limit, and limit + 1 where the nearest other label is farther away.
    """
    if not 1 <= limit <= 254:
        raise ValueError(f"the width of a band is 1 to 254 pixels, got {limit}.")
    distance = torch.full_like(target, limit + 1)
    highest, lowest = target, target
    for _ in range(limit):
        highest, lowest = _spread(highest, torch.maximum), _spread(lowest, torch.minimum)
        distance -= (highest != lowest).view(torch.uint8)  # then they differ in all larger squares too
    return distance


def _spread(labels: torch.Tensor, extreme: Callable) -> torch.Tensor:
    """Give each pixel the extreme of its 3x3 neighbourhood, cut at the border."""
    for dim in (-2, -1):
        inner = labels.shape[dim] - 1
        spread = labels.clone()
        for here, neighbour in ((0, 1), (1, 0)):
            side = spread.narrow(dim, here, inner)
            extreme(side, labels.narrow(dim, neighbour, inner), out=side)
        labels = spread
    return labels


def band_matrices(
    prediction: torch.Tensor, target: torch.Tensor, num_classes: int, widths: Sequence[int], ignore_index: int = 255
) -> torch.Tensor:
    """Return one confusion matrix per width, int64 (len(widths), K, K), each counting only the pixels in its band.

    Args:
        prediction: uint8 labels of the target's shape.
        target: uint8 (..., H, W).
    """
    distance = edge_distance(target, max(widths))
    targets = [target.masked_fill(distance > width, ignore_index) for width in widths]
    return torch.stack([confusion_matrix(prediction, inside, num_classes, ignore_index) for inside in targets])


def band_scores(widths: Sequence[int], matrices: np.ndarray) -> tuple[dict[int, float], dict[int, float]]:
    """Return the mean IoU and the foreground IoU by width, from one matrix (K, K) per width; NaN without edges.

    Foreground is every label but 0. Its IoU ignores which object was named, so that it measures the edge alone.
    """
    mean_iou, foreground = (METRICS[name](matrices).tolist() for name in ("mean_iou", "foreground_iou"))
    return dict(zip(widths, mean_iou, strict=True)), dict(zip(widths, foreground, strict=True))


def boundary_counts(
    prediction: torch.Tensor, target: torch.Tensor, num_classes: int, ignore_index: int = 255
) -> torch.Tensor:
    """Return what Boundary IoU needs of one image: summed over images, it goes into `boundary_iou`.

    A pixel belongs to the boundary of its label if another label, or the frame of the picture, is at most d pixels
    away in the chessboard distance; d is 2 % of the picture's diagonal, as in Cheng et al. Void is laid over the
    prediction too, so that both edges are measured from the same rim: then a perfect prediction scores 1.

    Args:
        prediction: uint8 labels (H, W).
        target: uint8 (H, W).

    Returns:
        int64 (3, K): per class the pixels of the true boundary, of the predicted one, and those that are in both.
    """
    height, width = target.shape
    reach = min(254, max(1, round(_BOUNDARY_SHARE * math.hypot(height, width))))
    scored = target != ignore_index
    # Void counts as a label in `edge_distance`, so that a frame of it makes the picture's border an edge.
    maps = torch.stack([target, prediction.masked_fill(~scored, ignore_index)])
    near = edge_distance(F.pad(maps, (1, 1, 1, 1), value=ignore_index), reach)[:, 1:-1, 1:-1] <= reach
    true, predicted = near & scored
    both = true & predicted & (prediction == target)
    labels = (target[true], prediction[predicted], target[both])
    return torch.stack([torch.bincount(found, minlength=num_classes) for found in labels]).cpu()


def boundary_iou(counts: np.ndarray) -> float:
    """Return the mean Boundary IoU over the classes that occur, from a sum of `boundary_counts`; NaN without any.

    A class's is `|G_d n P_d| / |G_d u P_d|`, G_d and P_d being its true and its predicted boundary in all images
    together (in Cheng et al. the masks are the single objects of one image).
    """
    true, predicted, both = np.asarray(counts, dtype=np.float64)
    union = true + predicted - both
    occurs = union > 0
    return float((both[occurs] / union[occurs]).mean()) if occurs.any() else float("nan")
