"""Synthetic scenes in the exact layout of PASCAL VOC: what every lab runs on when VOC is not at hand.

Pictures before JPEG encoding and label maps are the same bytes on every platform: the dice are NumPy's PCG64 seeded by
(seed, split, index), of which only integers and uniform floats are drawn, and the drawing uses correctly rounded
operations alone (see drawing.py). JPEG files may differ by a few grey levels between versions of the encoder.
"""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from labhelpers.data.base import png
from labhelpers.data.scenes.composition import SPLITS, draw_scene
from labhelpers.files import read_json, write_atomic

GENERATOR = 1  # raise it when a change in this folder alters any picture
FOLDERS = {"JPEGImages": ".jpg", "SegmentationClass": ".png", "SegmentationObject": ".png"}


def make_scenes(root: str | Path, n: int | tuple[int, int], seed: int = 0, size: int = 256) -> Path:
    """Write synthetic scenes in VOC layout and return `root`, ready for `VOCSegmentation(root, "train")`.

    Scene i of a split is the same picture whatever `n` is, and every 20 training scenes in a row show all 20
    categories. A finished folder is used as it is, one that was interrupted or holds fewer scenes is completed; the
    split lists always name exactly the scenes asked for.

    Args:
        root: a new folder, or one that this function wrote with the same seed and size.
        n: number of scenes, (train, val); a single number is split 4 to 1.
        seed: another seed gives other scenes.
        size: height and width in pixels, at least 64.

    Raises:
        ValueError: `n` or `size` is too small, or `root` holds something else or scenes with other settings.
    """
    root = Path(root)
    counts = (n - n // 5, n // 5) if isinstance(n, int) else tuple(n)
    if len(counts) != 2 or min(counts) < 1:
        raise ValueError(f"n={n!r}: make_scenes needs (train, val), each at least 1, or one number of at least 5.")
    if size < 64:
        raise ValueError(f"size={size}: scenes need at least 64 pixels, smaller ones lose their objects.")
    claim(root, {"generator": GENERATOR, "seed": seed, "size": size}, "scenes.json")
    names: dict[str, list[str]] = {}
    for split, count in zip(SPLITS, counts, strict=True):
        names[split] = [f"{split}_{index:05d}" for index in range(count)]
        for index, name in enumerate(names[split]):
            if any(not (root / folder / (name + suffix)).is_file() for folder, suffix in FOLDERS.items()):
                scene = draw_scene(seed, split, index, size)
                write(root / "JPEGImages" / f"{name}.jpg", jpeg(scene.image))
                write(root / "SegmentationClass" / f"{name}.png", png(scene.classes))
                write(root / "SegmentationObject" / f"{name}.png", png(scene.objects))
    for split, members in {**names, "trainval": names["train"] + names["val"]}.items():
        write(root / "ImageSets" / "Segmentation" / f"{split}.txt", ("\n".join(members) + "\n").encode())
    return root


# Files of a drawn data set: an interrupted run is continued, a finished one left alone.


def claim(root: Path, settings: dict[str, object], settings_name: str) -> None:
    """Make `root` the folder for a data set of these settings, recorded in the JSON file `settings_name`.

    Raises:
        ValueError: `root` holds something else, or the same kind of data set with other settings.
    """
    record = root / settings_name
    if record.is_file():
        try:
            found = read_json(record)
        except ValueError:
            raise ValueError(f"{record} is damaged: delete the folder {root} and run this again.") from None
        if found != settings:
            differing = [key for key in settings if not isinstance(found, dict) or found.get(key) != settings[key]]
            there = ", ".join(f"{key}={found.get(key)!r}" for key in differing) if isinstance(found, dict) else found
            asked = ", ".join(f"{key}={settings[key]!r}" for key in differing)
            raise ValueError(
                f"{root} was made with {there}, but {asked} is asked for. Give another folder, or delete this one."
            )
        return
    # A process that was killed may have left a part of the record.
    if root.exists() and any(path.suffix != ".partial" for path in root.iterdir()):
        raise ValueError(
            f"{root} is not empty and has no {settings_name}, so it was not made here and is left alone. "
            "Give a new or an empty folder."
        )
    write(record, (json.dumps(settings, indent=1) + "\n").encode())


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; a file that holds these bytes already is not touched."""
    if not (path.is_file() and path.read_bytes() == data):
        write_atomic(path, data, sync=False)  # after a power cut, delete the folder: pictures are drawn in minutes


def jpeg(image: np.ndarray) -> bytes:
    """Encode uint8 RGB (H, W, 3) at quality 95."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
