"""Prompts drawn from a mask: what a user would click, simulated.

Points are pixel indices (x, y), the centre of the first pixel being (0, 0); boxes (x0, y0, x1, y1) hold the extreme
pixel indices, inclusive. Masks are bool (H, W). The rule for the next click is that of Sofiiuk, Petrov, Konushin:
Reviving Iterative Training with Mask Guidance for Interactive Segmentation (RITM), ICIP 2022.
"""

import numpy as np


def sample_points(
    mask: np.ndarray, n: int, rng: np.random.Generator, ignore: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `n` points, half of them (rounded up) on the object and half beside it, uniformly.

    Args:
        ignore: bool (H, W), void pixels, on which no point falls.

    Returns:
        points float32 (n, 2), foreground first, and labels int64 (n,), 1 foreground, 0 background. A mask that covers
        the whole image has no background: then all points are foreground.

    Raises:
        ValueError: the mask is empty or no bool (H, W) array, or `n` is below 1.
    """
    mask = _checked(mask)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    beside = ~mask if ignore is None else ~mask & ~ignore
    inside = (n + 1) // 2 if beside.any() else n
    points = [_draw(mask, inside, rng)]
    if inside < n:
        points.append(_draw(beside, n - inside, rng))
    labels = np.zeros(n, dtype=np.int64)
    labels[:inside] = 1
    return np.concatenate(points), labels


def box_from_mask(mask: np.ndarray, jitter: float = 0.0, rng: np.random.Generator | None = None) -> np.ndarray:
    """The smallest box around the mask, float32 (4,), drawn as loosely as a person would.

    Args:
        jitter: standard deviation of each edge, as a fraction of the box's width or height; the result is clipped to
            the image and keeps its corners in order.
        rng: needed with jitter.

    Raises:
        ValueError: the mask is empty or no bool (H, W) array, or jitter comes without `rng`.
    """
    mask = _checked(mask)
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    box: np.ndarray = np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)
    if jitter:
        if rng is None:
            raise ValueError("box_from_mask needs rng to jitter the box")
        sides = np.tile(box[2:] - box[:2] + 1, 2)
        box = box + jitter * sides * rng.standard_normal(4)
        low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
        limit = np.array(mask.shape[::-1]) - 1
        box = np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)])
    return box.astype(np.float32)


def centre_click(mask: np.ndarray) -> np.ndarray:
    """The point deepest inside the mask, float32 (2,): unlike the centroid it never lies beside the object.

    Raises:
        ValueError: the mask is empty or no bool (H, W) array.
    """
    inside = depth(_checked(mask))
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return np.array([x, y], dtype=np.float32)


def random_click(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A point of the mask, drawn uniformly: float32 (2,). Raises ValueError as `centre_click` does."""
    return _draw(_checked(mask), 1, rng)[0]


def next_click(
    prediction: np.ndarray,
    truth: np.ndarray,
    ignore: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, int] | None:
    """Where a user would click next: in the middle of the largest error.

    Missed pixels and wrongly marked ones are two regions; the click goes to the deepest point of the deeper one, with
    label 1 where the object was missed and 0 where too much was marked.

    Args:
        prediction, truth: bool (H, W).
        ignore: bool (H, W), void pixels, which are no errors.
        rng: draws among the points at least half as deep instead, since people are not that exact; for training.

    Returns:
        (point float32 (2,), label), or None when there is no error.
    """
    wrong = prediction != truth
    if ignore is not None:
        wrong &= ~ignore
    if not wrong.any():
        return None
    missed, excess = depth(wrong & truth), depth(wrong & ~truth)
    label = int(missed.max() >= excess.max())
    inside = missed if label else excess
    if rng is not None:
        return _draw(inside >= inside.max() / 2, 1, rng)[0], label
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    return np.array([x, y], dtype=np.float32), label


def depth(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels of each pixel of the mask to the nearest one outside; the image's edge counts as outside."""
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]


def _draw(mask: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.nonzero(mask)
    chosen = rng.integers(len(x), size=n)
    return np.stack([x[chosen], y[chosen]], axis=1).astype(np.float32)


def _checked(mask: np.ndarray) -> np.ndarray:
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != bool:
        what = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ValueError(f"mask must be a bool array (H, W), got {what}; compare labels first: mask = labels == 3")
    if not mask.any():
        raise ValueError("mask is empty: there is no object to draw prompts from")
    return mask
