"""Jigsaw pieces on a busy table: few, large pictures of two classes, for training on ten images (lab 04).

The pieces carry a printed picture (a synthetic scene), lie turned, some face down, between things of similar colour and
shape that are no pieces. As the scenes, pictures before encoding and label maps are the same on every platform.
"""

from pathlib import Path

import numpy as np

from labhelpers.data.base import png
from labhelpers.data.scenes import claim, draw_scene, jpeg, write
from labhelpers.data.scenes.drawing import (
    Colour,
    Look,
    Part,
    Points,
    blend,
    finish,
    grain,
    paint,
    shadow,
    smooth_noise,
    window,
)

JIGSAW_CLASSES = ("table", "piece")
JIGSAW_SPLITS = ("train", "val", "test")
GENERATOR = 1  # raise it when a change alters any picture

PRINT, CROP = 512, 192  # pixels of the printed picture, and of what one piece shows of it
WOODS = (((176, 124, 78), (146, 96, 56)), ((206, 168, 122), (182, 140, 94)), ((122, 82, 58), (96, 62, 44)))
CARD, INK, PAPER = (172, 160, 142), (52, 54, 64), (236, 232, 220)


def make_jigsaw(root: str | Path, seed: int = 0, size: int = 512, counts: tuple[int, int, int] = (10, 12, 40)) -> Path:
    """Write the jigsaw pictures and return `root`, ready for `FolderSegmentation.from_root(root, "train")`.

    root/images/{train,val,test}/NAME.jpg are RGB, root/labels/{train,val,test}/NAME.png single-channel with 0 for the
    table and 1 for a piece. A finished folder is used as it is, an interrupted one is completed.

    Args:
        root: a new folder, or one that this function wrote with the same arguments.
        seed: another seed gives other pictures.
        size: height and width in pixels, at least 128.
        counts: number of pictures (train, val, test).

    Raises:
        ValueError: `counts` or `size` is too small, or `root` holds something else or was made with other arguments.
    """
    root = Path(root)
    if len(counts) != 3 or min(counts) < 1:
        raise ValueError(f"counts={counts!r}: make_jigsaw needs (train, val, test), each at least 1.")
    if size < 128:
        raise ValueError(f"size={size}: the pieces need pictures of at least 128 pixels.")
    settings = {"generator": GENERATOR, "seed": seed, "size": size, "counts": list(counts)}
    claim(root, settings, "jigsaw.json")
    for split, count in zip(JIGSAW_SPLITS, counts, strict=True):
        images, labels = root / "images" / split, root / "labels" / split
        for index in range(count):
            name = f"table_{index:03d}"
            if not ((images / f"{name}.jpg").is_file() and (labels / f"{name}.png").is_file()):
                image, target = draw_table(seed, split, index, size)
                write(images / f"{name}.jpg", jpeg(image))
                write(labels / f"{name}.png", png(target, palette=False))
    return root


def draw_table(seed: int, split: str, index: int, size: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture: uint8 RGB (size, size, 3), and uint8 labels (size, size), 0 table, 1 piece."""
    code = JIGSAW_SPLITS.index(split)
    rng = np.random.Generator(np.random.PCG64((seed, code, index, 512)))
    picture = _table(rng, size)
    mask = np.zeros((size, size), dtype=bool)
    prints = [draw_scene(seed, "train", 1000 * (code + 1) + 2 * index + i, PRINT).image for i in range(2)]
    for kind in rng.permutation(16):  # 7 to 10 pieces between 6 other things, in any order
        if kind < 6:
            _clutter(rng, picture, mask, kind, prints)
        elif kind < 13 or rng.random() < 0.5:
            _piece(rng, picture, mask, prints[int(rng.integers(2))])
    light = smooth_noise(rng, size, size, 2, 2)
    picture *= np.float32(0.72) + np.float32(0.42) * light[:, :, None]
    grain(rng, picture, 7)
    return finish(picture), mask.astype(np.uint8)


def _table(rng: np.random.Generator, size: int) -> np.ndarray:
    """Wooden planks whose grain is bent by noise."""
    light, dark = (np.asarray(c, dtype=np.float32) for c in WOODS[int(rng.integers(len(WOODS)))])
    y = np.arange(size, dtype=np.float32)[:, None] / np.float32(size)
    bend = smooth_noise(rng, size, size, 6, 2) + np.float32(0.35) * smooth_noise(rng, size, size, 40, 4)
    phase = y * 14 + bend * np.float32(2.2)
    rings = np.abs(2 * (phase - np.floor(phase)) - 1)
    fibres = smooth_noise(rng, size, size, size // 4, 6)
    picture = light + (dark - light) * (np.float32(0.6) * rings + np.float32(0.4) * fibres)[:, :, None]
    plank = y[:, 0] * 4 + np.float32(rng.random())
    joint = plank - np.floor(plank)
    picture *= (1 - np.float32(0.45) * (joint < np.float32(0.015)))[:, None, None]
    return picture


def _piece(rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray, print_: np.ndarray) -> None:
    """One piece: a square with a knob, a hole or a straight edge on each side, turned, with shadow and bevel."""
    size = picture.shape[0]
    side = size * (0.11 + 0.07 * rng.random())
    x, y = size * (0.06 + 0.88 * rng.random()), size * (0.06 + 0.88 * rng.random())
    tilt, face_down = 2 * rng.random() - 1, rng.random() < 0.15
    cos, sin = (1 - tilt * tilt) / (1 + tilt * tilt), 2 * tilt / (1 + tilt * tilt)
    sides = [int(v) for v in rng.integers(-1, 2, size=4)]
    sides[int(rng.integers(4))] = 1  # at least one knob: without any it would be a card
    corner = (PRINT - CROP) * rng.random(), (PRINT - CROP) * rng.random()

    where, px, py = window((x - side, y - side, x + 1.1 * side, y + 1.1 * side), size, size)
    fall = np.float32(0.05 * side)
    behind = _piece_distance(*_turned(px - x - fall, py - y - fall, cos, sin), side, sides)
    blend(picture[where], np.float32(16), behind, opacity=0.5, soft=0.12 * side)

    u, v = _turned(px - x, py - y, cos, sin)
    distance = _piece_distance(u, v, side, sides)
    if face_down:
        fibre = smooth_noise(rng, len(distance), distance.shape[1], 24, 24)[:, :, None]
        colour = np.asarray(CARD, dtype=np.float32) * (np.float32(0.9) + np.float32(0.2) * fibre)
    else:
        zoom = np.float32(CROP / (2 * side))
        column = np.clip((u + side) * zoom + np.float32(corner[0]), 0, PRINT - 1).astype(np.int64)
        row = np.clip((v + side) * zoom + np.float32(corner[1]), 0, PRINT - 1).astype(np.int64)
        colour = print_[row, column].astype(np.float32)
    edge = np.minimum(np.maximum(1 + distance / np.float32(0.04 * side), 0), 1)
    slope = np.zeros_like(distance)
    slope[1:-1, 1:-1] = (distance[2:, 2:] - distance[:-2, :-2]) / 4  # positive where the edge faces down and right
    colour = colour * (1 - np.float32(0.5) * (edge * slope))[:, :, None]
    blend(picture[where], colour, distance)
    mask[where] |= distance <= 0


def _turned(x: np.ndarray, y: np.ndarray, cos: float, sin: float) -> tuple[np.ndarray, np.ndarray]:
    return cos * x + sin * y, cos * y - sin * x


def _piece_distance(u: np.ndarray, v: np.ndarray, side: float, sides: list[int]) -> np.ndarray:
    """Signed distance at piece coordinates (u, v) (h, w): a square of length `side`; 1 knob, 0 straight, -1 hole."""
    half, radius = np.float32(side / 2), np.float32(0.125 * side)
    a, b = np.abs(u) - half, np.abs(v) - half
    outside = np.sqrt(np.maximum(a, 0) * np.maximum(a, 0) + np.maximum(b, 0) * np.maximum(b, 0))
    distance = outside + np.minimum(np.maximum(a, b), 0)
    for (du, dv), kind in zip(((1, 0), (0, 1), (-1, 0), (0, -1)), sides, strict=True):
        reach = half + kind * np.float32(0.095 * side)
        cu, cv = u - du * reach, v - dv * reach
        disc = np.sqrt(cu * cu + cv * cv) - radius
        if kind > 0:
            distance = np.minimum(distance, disc)
        elif kind < 0:
            distance = np.maximum(distance, -disc)
    return distance


def _clutter(
    rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray, kind: int, prints: list[np.ndarray]
) -> None:
    """A thing that is no piece; it covers what lies beneath it."""
    size = picture.shape[0]
    unit = size / 512
    x, y, tilt = rng.random(), rng.random(), 2 * rng.random() - 1
    tone = tuple(int(c) for c in prints[0][int(rng.integers(PRINT)), int(rng.integers(PRINT))])  # a colour of the print

    def add(shape: str, points: Points, colour: Colour, radius: float = 0.0, second: Colour | None = None) -> None:
        look = Look(colour, second, "checks" if second else "solid", 13 * unit, 2 * unit)
        part = Part(shape, points, radius, look).placed(x * size, y * size, size, False, tilt, unit)
        drop = Part(shape, [(px + 4 * unit, py + 5 * unit) for px, py in part.points], part.radius, shadow)
        paint(picture, drop, opacity=0.4)
        covered = np.zeros_like(mask)
        paint(picture, part, covered)
        mask[covered] = False

    if kind == 0:  # pencil
        add("stroke", [(-0.16, 0.0), (0.14, 0.0)], tone, 0.012)
        add("polygon", [(0.14, -0.012), (0.14, 0.012), (0.18, 0.0)], (224, 190, 140))
        add("stroke", [(0.172, 0.0), (0.18, 0.0)], INK, 0.003)
    elif kind == 1:  # coins
        for dx, dy in ((0.0, 0.0), (0.045, 0.03)):
            add("ellipse", [(dx, dy), (dx + 0.03, dy), (dx, dy + 0.03)], (196, 168, 96))
            add("ring", [(dx, dy), (dx + 0.022, dy), (dx, dy + 0.022)], (156, 128, 66), 0.002)
    elif kind == 2:  # card, as square and as colourful as a piece
        add("polygon", [(-0.06, -0.06), (0.06, -0.06), (0.06, 0.06), (-0.06, 0.06)], tone, 0.006, PAPER)
    elif kind == 3:  # note with lines
        add("polygon", [(-0.1, -0.07), (0.1, -0.07), (0.1, 0.07), (-0.1, 0.07)], PAPER)
        for row in range(4):
            add("stroke", [(-0.08, 0.045 - 0.03 * row), (0.075, 0.045 - 0.03 * row)], (120, 126, 150), 0.0015)
    elif kind == 4:  # mug, from above
        add("ring", [(0.07, 0.0), (0.105, 0.0), (0.07, 0.03)], tone, 0.01)
        add("ellipse", [(0.0, 0.0), (0.085, 0.0), (0.0, 0.085)], tone)
        add("ellipse", [(0.0, 0.0), (0.07, 0.0), (0.0, 0.07)], (84, 48, 30))
    else:  # paper clips
        for dx in (-0.05, 0.02):
            clip = [(dx, 0.0), (dx + 0.06, 0.0), (dx + 0.06, 0.014), (dx + 0.01, 0.014), (dx + 0.01, 0.006)]
            add("stroke", clip, (150, 158, 172), 0.0022)
