"""A VOC-layout folder of six small pictures for the check of VOCDataset, and what wrong readers make of it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from labhelpers.data import voc_palette

# As in the real lists, the order is not the one of a sorted folder; one picture belongs to no split.
SPLITS = {"train": ("2008_000007", "2007_000032", "2007_000129"), "val": ("2007_000061", "2007_000033")}
_UNLISTED = "2007_000001"
_SIZES = ((20, 28), (24, 18), (17, 23), (22, 26), (19, 21), (16, 30))  # height, width

Decoys = list[tuple[np.ndarray | torch.Tensor, str]]


def write_voc(root: Path) -> Path:
    """Write the folder and return it."""
    for name in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for split, names in SPLITS.items():
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    names = [*SPLITS["train"], *SPLITS["val"], _UNLISTED]
    for number, (name, (height, width)) in enumerate(zip(names, _SIZES, strict=True)):
        y, x = np.mgrid[:height, :width]
        # Smooth, so that every JPEG decoder agrees; a different slope in each channel, so that nothing is symmetric.
        channels = (20 + 30 * number + 2 * y, 230 - 4 * x, 60 + 3 * y + x)
        photo = Image.fromarray(np.stack(channels, 2).clip(0, 255).astype(np.uint8))
        photo.save(root / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
        labels = np.zeros((height, width), np.uint8)
        labels[3:-4, 4:-6] = 255
        labels[4:-5, 5:-7] = 15 + number
        labels[5:8, 6:9] = 20
        _save_labels(root / "SegmentationClass" / f"{name}.png", labels)
        objects = np.where(labels == 20, 2, np.where(labels == 15 + number, 1, labels))
        _save_labels(root / "SegmentationObject" / f"{name}.png", objects.astype(np.uint8))
    return root


def decoys(root: Path, split: str, name: str) -> tuple[Decoys, Decoys]:
    """What wrong readers return for an item: (images, targets), each with the hint."""
    image = _read(root / "JPEGImages" / f"{name}.jpg", "RGB").transpose(2, 0, 1)
    images: Decoys = [
        (image[::-1], "the channels are in the order BGR, as OpenCV reads them: they are RGB here."),
        (
            image / np.float32(255),
            "the image is float from 0 to 1 (did ToTensor do that?): keep its bytes, uint8, and let the device "
            "convert.",
        ),
    ]
    for other in sorted((root / "JPEGImages").glob("*.jpg")):
        if other.stem != name:
            hint = (
                f"this is {other.name}, but the list {split}.txt has {name} here: keep the names and the order of the "
                "list, not of the sorted folder."
            )
            images.append((_read(other, "RGB").transpose(2, 0, 1), hint))

    mask = root / "SegmentationClass" / f"{name}.png"
    labels = _read(mask)
    colours = _read(mask, "RGB")
    in_colour = 'the target holds colours, not class numbers: open the palette PNG without convert("RGB").'
    scaled = "the labels are divided by 255 (did ToTensor do that?): they are class numbers, keep them as uint8."
    targets: Decoys = [
        (colours, in_colour),
        (colours.transpose(2, 0, 1), in_colour),
        (
            _read(mask, "L"),
            "the target holds grey levels of the colours, not class numbers: open the palette PNG "
            'without convert("L").',
        ),
        (np.where(labels == 255, 0, labels), "void (255) has become background: keep it, it is left out later."),
        (np.where(labels == 255, 21, labels), "void has become 21: keep it as 255."),
        (
            labels[None],
            f"the target has an axis too many: expected (H, W) = {labels.shape}, found {(1, *labels.shape)}.",
        ),
        (labels / np.float32(255), scaled),
        (labels[None] / np.float32(255), scaled),
        (
            _read(root / "SegmentationObject" / f"{name}.png"),
            "these are object numbers from SegmentationObject: the classes are in SegmentationClass.",
        ),
        (np.clip(labels, 0, 1), "the labels are only 0 and 1: keep the class numbers."),
    ]
    return images, targets


def _save_labels(path: Path, labels: np.ndarray) -> None:
    image = Image.fromarray(labels)
    image.putpalette(voc_palette().tobytes())
    image.save(path)


def _read(path: Path, mode: str | None = None) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert(mode) if mode else image)
