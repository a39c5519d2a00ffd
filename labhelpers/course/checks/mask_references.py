"""The answers of lab 07: which masks of many to keep, what classes they get, and how many clicks a mask takes."""

import numpy as np


def stability_score(logits: np.ndarray, offset: float = 1.0) -> np.ndarray:
    """logits (N, H, W) -> float64 (N,): IoU of the masks above ``offset`` and above ``-offset``; 0 without a pixel."""
    smaller = (logits > offset).sum((1, 2))
    larger = (logits > -offset).sum((1, 2))  # it holds all of the smaller one
    return smaller / np.maximum(larger, 1)


def non_maximum_suppression(masks: np.ndarray, scores: np.ndarray, threshold: float = 0.7) -> list[int]:
    """masks bool (N, H, W), scores (N,) -> indices of the kept, best first: no two have an IoU above ``threshold``."""
    pixels = masks.shape[1] * masks.shape[2]
    flat = masks.reshape(len(masks), pixels).astype(np.float32)  # a product of floats is fast, one of bools is not
    both = flat @ flat.T
    areas = flat.sum(1)
    ious = both / np.maximum(areas[:, None] + areas - both, 1)
    kept: list[int] = []
    for index in np.argsort(-scores):
        if all(ious[index, other] <= threshold for other in kept):
            kept.append(int(index))
    return kept


def label_masks(masks: np.ndarray, guide: np.ndarray) -> np.ndarray:
    """masks bool (N, H, W), guide uint8 (H, W), 255 void -> class map uint8 (H, W), small masks on top of large."""
    labels = np.zeros(guide.shape, dtype=np.uint8)
    for mask in sorted(masks, key=np.count_nonzero, reverse=True):
        inside = guide[mask & (guide != 255)]
        if len(inside):
            labels[mask] = np.bincount(inside).argmax()
    return labels


def number_of_clicks(ious: np.ndarray, threshold: float) -> tuple[float, int]:
    """ious (N, C) after 1 .. C clicks -> mean clicks to the threshold, a failure counting C, and the failures."""
    reached = ious >= threshold
    clicks = np.where(reached.any(1), reached.argmax(1) + 1, ious.shape[1])
    return float(clicks.mean()), int((~reached.any(1)).sum())
