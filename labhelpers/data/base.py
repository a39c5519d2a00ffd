"""What every data set has in common: how files become tensors, and how labels become colours."""

import contextlib
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
from labhelpers.data.reading import VOC_PALETTE, read_header, read_image, read_labels
from labhelpers.files import file_hashes

IGNORE_INDEX = 255
"""The label of void pixels: object rims, crowds, and what augmentation pulls in from outside the picture."""


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
    return VOC_PALETTE[labels]


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
    void = IGNORE_INDEX  # the label that marks void in the files; read as 255
    voc_labels = 0  # how many of VOC's labels its colours may stand for in label maps

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
        refuse_other_sizes(self._images[index], self._labels[index], image.shape[1:], target.shape)
        return image, target

    def load_image(self, index: int) -> torch.Tensor:
        """Read only the picture of item `index`: uint8 RGB (3, H, W)."""
        return torch.from_numpy(np.ascontiguousarray(read_image(self._images[index]).transpose(2, 0, 1)))

    def load_target(self, index: int) -> torch.Tensor:
        """Read only the label map of item `index`, uint8 (H, W), without decoding its picture."""
        labels = read_labels(self._labels[index], self.voc_labels)
        if self.void != self.ignore_index:
            labels[labels == self.void] = self.ignore_index
        unknown = (labels >= self.num_classes) & (labels != self.ignore_index)
        if unknown.any():
            raise ValueError(
                f"{self._labels[index]} holds the label {labels[unknown][0]} ({unknown.sum()} unknown pixels), "
                f"but {self.name} has the labels 0..{self.num_classes - 1}, and 255 for void. Correct the file, "
                "or name as many classes as the files use; a label called void is no class."
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

    def refuse_drawn_masks(self) -> None:
        """Say that there is nothing to learn where no label map has a label besides background and void.

        One file tells it, where it holds another label. What is damaged is said when it is read.

        Raises:
            ValueError: the only labels are 0 and 255, as in masks that were drawn black and white.
        """
        found: set[int] = set()
        for path in self._labels:
            with contextlib.suppress(ValueError):
                found |= set(np.flatnonzero(np.bincount(read_labels(path, self.voc_labels).ravel())).tolist())
            if found - {0, self.ignore_index}:
                return
        if found == {0, self.ignore_index}:
            raise ValueError(
                f"The label maps of {self.name}/{self.split} ({self._labels[0]}, ...) hold 0 and 255 alone, and 255 is "
                "void, which no network learns. If it marks the object, save 1 instead (`labels // 255`); if it is "
                "void, add images that show a class."
            )
        if found:
            which = "background (0)" if found == {0} else "void (255)"
            print(f"No label map of {self.name}/{self.split} holds anything but {which}: there is nothing to learn.")

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


def png(labels: np.ndarray, palette: bool = True) -> bytes:
    """Encode uint8 labels (H, W) without loss: with the VOC colours as palette, or as grey values."""
    image = Image.fromarray(labels)
    if palette:
        image.putpalette(VOC_PALETTE.tobytes())
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def refuse_other_sizes(image: Path, label: Path, size: Sequence[int], label_size: Sequence[int]) -> None:
    """Raise ValueError unless a picture and its label map, (H, W) as displayed, have the same size."""
    if tuple(size) != tuple(label_size):
        turned = [str(path) for path in (image, label) if read_header(path).turned]
        flags = f" The orientation flag of {' and of '.join(turned)} counts: labels lie on the picture as displayed."
        raise ValueError(
            f"{image} is {size[1]}x{size[0]} but its label map {label} is {label_size[1]}x{label_size[0]} (width x "
            f"height).{flags if turned else ''} Put the original pair back, or export the label map at that size."
        )
