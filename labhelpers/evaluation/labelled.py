"""Class maps from masks without classes: somebody else has to name them before there can be a mean IoU.

SAM and Mini-SAM answer with masks and know no class names. Their mean IoU is therefore that of a pair: the masks, and
whoever named them. The oracle takes the names from the truth and asks "how good could labels on these masks be?"; a
semantic network's vote asks "how good are that network's labels with these outlines?".
"""

import numpy as np

from labhelpers.data.base import IGNORE_INDEX


def by_overlap(
    masks: np.ndarray, scores: np.ndarray, target: np.ndarray, ignore_index: int = IGNORE_INDEX
) -> np.ndarray:
    """Give each mask the class of the truth that most of its pixels have: an oracle, an upper bound for any namer.

    Args:
        masks: bool (N, H, W), any number of them, which may overlap.
        scores: (N,), a predicted IoU each; see `paint`.
        target: uint8 (H, W), the truth. Its void has no vote: a mask with nothing but void is left out.

    Returns:
        uint8 (H, W) as `paint` makes it; it has no void.

    Raises:
        ValueError: the shapes do not fit, or the masks are not bool.
    """
    masks, scores = _checked(masks, scores, target)
    return paint(masks, scores, _majority(masks, target, ignore_index))


def by_vote(masks: np.ndarray, scores: np.ndarray, class_map: np.ndarray) -> np.ndarray:
    """Give each mask the class that a semantic network sees in most of its pixels.

    Args:
        masks, scores: as in `by_overlap`.
        class_map: uint8 (H, W), the network's prediction for the same image: `evaluation.predict`.

    Returns:
        uint8 (H, W) as `paint` makes it. Where no mask is there is background, whatever the network saw there.

    Raises:
        ValueError: the shapes do not fit, or the masks are not bool.
    """
    masks, scores = _checked(masks, scores, class_map)
    return paint(masks, scores, _majority(masks, class_map, None))


def paint(masks: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Put masks on top of each other, the largest first, so that a small one is seen on the one that holds it.

    Of two of the same size the one with the higher score is on top. Pixels in no mask are background, 0.

    Args:
        masks: bool (N, H, W).
        scores: (N,).
        classes: int (N,), 0..254, or -1 for a mask to leave out.

    Returns:
        uint8 (H, W).
    """
    painted = np.zeros(masks.shape[1:], dtype=np.uint8)
    sizes = masks.sum((1, 2))
    for index in np.lexsort((scores, -sizes)):
        if classes[index] >= 0:
            painted[masks[index]] = classes[index]
    return painted


def _majority(masks: np.ndarray, labels: np.ndarray, ignore_index: int | None) -> np.ndarray:
    """The most frequent label inside each mask, the lowest of equally frequent ones; -1 where there is none."""
    classes = np.full(len(masks), -1)
    for index, mask in enumerate(masks):
        counts = np.bincount(labels[mask], minlength=256)
        if ignore_index is not None:
            counts[ignore_index] = 0
        if counts.any():
            classes[index] = counts.argmax()
    return classes


def _checked(masks: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    masks, scores = np.asarray(masks), np.asarray(scores)
    if len(masks) == 0:
        return np.zeros((0, *labels.shape), dtype=bool), np.zeros(0)
    if masks.dtype != bool or masks.ndim != 3 or masks.shape[1:] != labels.shape or scores.shape != (len(masks),):
        raise ValueError(
            f"masks must be bool (N, {labels.shape[0]}, {labels.shape[1]}), as large as the label map, with one score "
            f"each; got {masks.dtype} {masks.shape} and scores {scores.shape}. Threshold logits at the image's size."
        )
    return masks, scores
