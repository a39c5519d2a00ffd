"""What every data set has in common: how files become tensors, and how labels become colours."""

import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from labhelpers import config
from labhelpers.data.names import refuse_repeats
from labhelpers.files import file_hashes

IGNORE_INDEX = 255
"""The label of void pixels: object rims, crowds, and what augmentation pulls in from outside the picture."""


def voc_palette() -> np.ndarray:
    """Return the PASCAL VOC colour map as a uint8 array (256, 3), RGB.

    Bits 0, 1 and 2 of the label give the highest bit of red, green and blue, bits 3, 4 and 5 the next one,
    and so on, so that neighbouring labels get colours far apart. Label 255 comes out as (224, 224, 192), the
    rim colour.
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (labels >> (3 * level + channel)) & 1
            palette[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return palette


_PALETTE = voc_palette()


def decode_target(target: torch.Tensor | np.ndarray) -> np.ndarray:
    """Colour integer labels (H, W) in 0..255: a uint8 RGB array (H, W, 3), in which 255 has the rim colour.

    Raises:
        ValueError: the labels are not integers in 0..255.
    """
    labels = np.asarray(target.cpu() if isinstance(target, torch.Tensor) else target)
    if labels.dtype.kind not in "iu" or (labels.size and (labels.min() < 0 or labels.max() > 255)):
        raise ValueError(
            f"decode_target needs integer labels in 0..255, got {labels.dtype} of shape {labels.shape}. "
            "Turn logits (K, H, W) into labels first: logits.argmax(0)."
        )
    return _PALETTE[labels]


class SegmentationDataset(Dataset):
    """Pairs of image and label files, read when asked for.

    An item is `(image, target)`: uint8 RGB (3, H, W) and uint8 labels (H, W), in which 255 is void. Nothing is
    normalised or cast here: bytes are cheap to cache and to move, and arithmetic is faster on the device.

    Attributes:
        name: the data set's name, as it appears in protocols and result tables.
        split: "train", "val", ...
        class_names: one name per label, in label order, none of them twice (else a ValueError).
        num_classes: `len(class_names)`.
        ids: one name per item, as in the split's list: no suffix, composed Unicode (NFC).
    """

    ignore_index = IGNORE_INDEX

    def __init__(
        self,
        name: str,
        split: str,
        class_names: Sequence[str],
        ids: Sequence[str],
        images: Sequence[Path],
        labels: Sequence[Path],
    ):
        refuse_repeats(class_names, "class_names")
        self.name = name
        self.split = split
        self.class_names = tuple(class_names)
        self.num_classes = len(self.class_names)
        self.ids = list(ids)
        self._images = list(images)
        self._labels = list(labels)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Read item `index`.

        Raises:
            FileNotFoundError: one of its files is gone.
            ValueError: a file is damaged, image and label map differ in size, or the label map holds an
            unknown label.
        """
        image, target = self.load_image(index), self.load_target(index)
        if image.shape[1:] != target.shape:
            raise ValueError(
                f"{self._images[index]} is {_size(image)} but its label map {self._labels[index]} is "
                f"{_size(target)} (width x height). Put the original pair back, or draw the label map again."
            )
        return image, target

    def load_image(self, index: int) -> torch.Tensor:
        """Read only the picture of item `index`: uint8 RGB (3, H, W)."""
        pixels = np.asarray(open_image(self._images[index]).convert("RGB"))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def load_target(self, index: int) -> torch.Tensor:
        """Read only the label map of item `index`, uint8 (H, W), without decoding its picture."""
        labels = read_labels(self._labels[index])
        unknown = (labels >= self.num_classes) & (labels != self.ignore_index)
        if unknown.any():
            raise ValueError(
                f"{self._labels[index]} holds the label {labels[unknown][0]} ({unknown.sum()} unknown pixels), "
                f"but {self.name} has the labels 0..{self.num_classes - 1}, and 255 for void. Correct the file, "
                "or give the data set as many classes as its files use."
            )
        return torch.from_numpy(labels)

    @property
    def has_instances(self) -> bool:
        """Whether `instances` can tell the objects of every item apart."""
        return False

    def instances(self, index: int) -> torch.Tensor:
        """Read the objects of item `index`: uint8 (H, W), 0 background, 255 void, else the object's number.

        Raises:
            FileNotFoundError: the data set, or this item, has no instance mask.
        """
        raise FileNotFoundError(
            f"{self.name} has no instance masks: only VOC-layout folders with SegmentationObject do."
        )

    def fingerprint(self) -> str:
        """Return a short hash of what the set holds: its name, classes, ids, and the bytes of its files.

        The path is left out, so that the same files elsewhere have the same fingerprint.
        """
        files = self._files()
        cache = config.home() / "data" / "statistics" / "files.json"  # beside the data: they may be read-only
        hashes = file_hashes([path for path in files if path is not None], cache)
        content = [path and hashes[path] for path in files]
        facts = (self.name, self.split, self.class_names, self.ids, content)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def _files(self) -> Sequence[Path | None]:
        """All files that items are read from, in a fixed order; None for one that an item lacks."""
        return [*self._images, *self._labels]


def open_image(path: Path) -> Image.Image:
    """Open and decode an image file, whole.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated or not an image.
    """
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing. Put it back, or take its name out of the split's list.") from None
    except (OSError, SyntaxError) as error:  # PIL reports a broken PNG chunk as a SyntaxError
        raise ValueError(
            f"{path} cannot be decoded ({error}). It is damaged or not an image: fetch or export it again, "
            "or take its name out of the split's list."
        ) from error
    return image


def read_labels(path: Path) -> np.ndarray:
    """Read a label map: uint8 (H, W) from a single-channel palette or grey PNG; the values are the labels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, a JPEG (whose compression invents labels at every edge), or not 8-bit
            single-channel.
    """
    image = open_image(path)
    refuse_label_format(path, image)
    return np.array(image)


def png(labels: np.ndarray, palette: bool = True) -> bytes:
    """Encode uint8 labels (H, W) without loss: with the VOC colours as palette, or as grey values."""
    image = Image.fromarray(labels)
    if palette:
        image.putpalette(_PALETTE.tobytes())
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def refuse_label_format(path: Path, image: Image.Image) -> None:
    """Raise ValueError unless the opened file is lossless and has one 8-bit channel."""
    if image.format == "JPEG":
        raise ValueError(
            f"{path} is a JPEG: its compression changes labels around every edge. Export the label map again "
            "as a PNG; converting this file cannot undo the damage."
        )
    if image.mode not in ("P", "L"):
        raise ValueError(
            f"{path} is a label map of mode {image.mode}, not a single channel of 8 bits (palette P or grey "
            "L). Save the label numbers themselves; where colours stand for classes, map them to numbers."
        )


def _size(array: torch.Tensor) -> str:
    return f"{array.shape[-1]}x{array.shape[-2]}"
