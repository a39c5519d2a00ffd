"""A VOC-layout folder of a few small files, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

from labhelpers.data import voc_palette

TRAIN = ("2007_000032", "2007_000039", "2007_000063")
VAL = ("2007_000033", "2007_000042")


def save_labels(path: Path, labels: np.ndarray, mode: str = "P") -> None:
    """Write a label map (H, W) as a palette ("P") or grey ("L") PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    if mode == "P":
        image.putpalette(voc_palette().tobytes())
    image.save(path)


def save_photo(path: Path, width: int, height: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)


def make_labels(width: int, height: int, label: int) -> np.ndarray:
    """Background, a rectangle of one label, and its rim of void."""
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[4:-4, 4:-4] = 255
    labels[5:-5, 5:-5] = label
    return labels


def make_tiny_voc(root: Path, train=TRAIN, val=VAL, width: int = 24, height: int = 18) -> Path:
    """Item i of trainval has the class i + 1 and one object."""
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, ids in (("train", train), ("val", val), ("trainval", train + val)):
        (lists / f"{split}.txt").write_text("".join(f"{item}\n" for item in ids))
    for number, item in enumerate(train + val):
        save_photo(root / "JPEGImages" / f"{item}.jpg", width, height, seed=number)
        save_labels(root / "SegmentationClass" / f"{item}.png", make_labels(width, height, number + 1))
        save_labels(root / "SegmentationObject" / f"{item}.png", make_labels(width, height, 1))
    return root


def make_small_voc(
    root: Path, train: int, val: int, objects: bool, suffix: str = ".jpg", names: str = "2007_{:06}"
) -> Path:
    """Pictures of different sizes, each with one dog, the only class; `objects`: with SegmentationObject."""
    everything = [names.format(number) for number in range(train + val)]
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, ids in (("train", everything[:train]), ("val", everything[train:])):
        (lists / f"{split}.txt").write_text("".join(f"{item}\n" for item in ids))
    for number, item in enumerate(everything):
        width, height = ((128, 96), (60, 90), (100, 100))[number % 3]
        save_photo(root / "JPEGImages" / f"{item}{suffix}", width, height, seed=number)
        save_labels(root / "SegmentationClass" / f"{item}.png", make_labels(width, height, 12))
        if objects:
            save_labels(root / "SegmentationObject" / f"{item}.png", make_labels(width, height, 1))
    return root
