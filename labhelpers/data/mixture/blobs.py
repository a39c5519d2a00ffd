"""Shapes and textures without a meaning."""

import numpy as np


def blob(size: int, rng: np.random.Generator) -> np.ndarray:
    """A wobbly disc, a polygon or an ellipse, turned and stretched, one in five with a hole: uint8 (h, w)."""
    import cv2

    kind = rng.random()
    if kind < 0.75:  # a circle whose radius is a sum of waves
        angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        wobble, radius = rng.uniform(0.05, 0.5), np.ones(96)
        for k in range(1, 7):
            radius += wobble / k * rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
        radius = np.clip(radius, 0.12, None)
    elif kind < 0.9:
        corners = int(rng.integers(3, 8))
        angle, radius = np.sort(rng.uniform(0, 2 * np.pi, corners)), rng.uniform(0.5, 1, corners)
    else:
        angle, radius = np.linspace(0, 2 * np.pi, 96, endpoint=False), np.ones(96)
    x, y = radius * np.cos(angle), radius * np.sin(angle) * rng.uniform(0.3, 1)
    turn = rng.uniform(0, 2 * np.pi)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    x, y = (x - x.min()) / (np.ptp(x) + 1e-6), (y - y.min()) / (np.ptp(y) + 1e-6)
    aspect = np.exp(rng.uniform(-0.7, 0.7))
    width, height = (1, aspect) if aspect < 1 else (1 / aspect, 1)
    mask = np.zeros((size, size), dtype=np.uint8)
    outline = np.stack([x * width * (size - 1), y * height * (size - 1)], axis=1)
    cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
    if rng.random() < 0.2:
        centre = (int(size * width / 2), int(size * height / 2))
        cv2.circle(mask, centre, max(1, int(size * rng.uniform(0.08, 0.2))), 0, -1)
    if not mask.any():  # nothing but a hole
        return np.ones_like(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def pattern(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A colour with soft noise, a slope of brightness and, one in three, stripes: uint8 (height, width, 3)."""
    import cv2

    cells = (max(2, height // int(rng.integers(2, 9))), max(2, width // int(rng.integers(2, 9))))
    noise = rng.normal(size=(*cells, 1 if rng.random() < 0.6 else 3)).astype(np.float32)
    noise = cv2.resize(noise, (width, height)).reshape(height, width, -1)
    y, x = np.mgrid[:height, :width]
    direction = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(direction) + y * np.sin(direction)
    out = rng.uniform(0, 255, 3) + noise * rng.uniform(3, 50)
    out = out + (along / max(height, width) * rng.uniform(-60, 60))[..., None]
    if rng.random() < 0.3:
        out = out + (np.sign(np.sin(2 * np.pi * along / rng.uniform(3, 12))) * rng.uniform(10, 60))[..., None]
    return np.clip(out, 0, 255).astype(np.uint8)
