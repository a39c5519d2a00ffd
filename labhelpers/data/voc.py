"""PASCAL VOC 2012 (Everingham et al., IJCV 2015) and every other folder with the same layout.

    VOC2012/ImageSets/Segmentation/{train,val,trainval}.txt   one image name per line, UTF-8
            JPEGImages/NAME.jpg                               the picture
            SegmentationClass/NAME.png                        palette PNG: 0 background, 1..20 class, 255 rim
            SegmentationObject/NAME.png                       palette PNG: 0 background, 1.. object, 255 rim
            SegmentationClassAug/NAME.png                     as SegmentationClass, from SBD (see `fetch_sbd`)

The last two are optional. Pictures and label maps may have the suffix of another format, in either case.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from labhelpers.data.base import SegmentationDataset, refuse_other_sizes
from labhelpers.data.loader import SubsetDataset
from labhelpers.data.names import ImageFolder, read_names
from labhelpers.data.reading import read_header, read_labels

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

COMPARISON_IDS = {
    "VOC2012": ("2007_000033", "2007_000042", "2007_000061", "2007_000123", "2007_000129"),
    "scenes": ("val_00000", "val_00004", "val_00007", "val_00008", "val_00009"),
}
"""The five validation images that every comparison shows, for each data set that has a fixed list."""


class VOCSegmentation(SegmentationDataset):
    """A split of a folder in VOC layout.

    Args:
        root: VOCdevkit, VOC2012, the folder that holds VOCdevkit, or any folder with the layout above.
        split: train, val, trainval, or any other list in ImageSets/Segmentation.
        name: the data set's name; None takes the name of the folder ("VOC2012").

    Raises:
        FileNotFoundError: the root, its layout, the split's list, or a file that the list names is missing.
        ValueError: the split's list is empty or cannot be read, has a name twice or flags behind the names, two files
            share a name that it has, or the label maps hold nothing but 0 and 255.
    """

    voc_labels = len(VOC_CLASSES)

    def __init__(self, root: str | Path, split: str, name: str | None = None):
        self.root = _find_layout(Path(root))
        listed = _find_list(self.root, split)
        pictures, own, augmented, self._objects = (
            ImageFolder(self.root / folder)
            for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "SegmentationObject")
        )
        ids = read_names(listed, pictures)
        _refuse_missing(ids, "images", ".jpg", listed, pictures)
        _refuse_missing(ids, "label maps", ".png", listed, own, augmented)
        images = [pictures[item] for item in ids]
        # VOC's own label map where there is one, as it is more exact and has rims, else the one of SBD.
        labels = [own[item] if item in own else augmented[item] for item in ids]
        super().__init__(name or self.root.name, split, VOC_CLASSES, ids, images, labels)
        self.refuse_drawn_masks()

    @property
    def named_as_voc(self) -> bool:
        """Whether a reader finds all with the list's words and the suffixes .jpg and .png, as lab 01 builds one."""
        words = _find_list(self.root, self.split).read_bytes().split()
        places = ("JPEGImages/{}.jpg", "SegmentationClass/{}.png")
        there = ((self.root / place.format(item)).is_file() for item in self.ids for place in places)
        return words == [item.encode("utf-8", "replace") for item in self.ids] and all(there)

    @property
    def has_instances(self) -> bool:
        return all(item in self._objects for item in self.ids)

    def instances(self, index: int) -> torch.Tensor:
        item = self.ids[index]
        path = self._objects.get(item, self._objects.path / f"{item}.png")
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: this item has no instance mask. Use a split whose images have "
                "one (train, val and trainval of VOC 2012 do; SBD's do not)."
            )
        objects = read_labels(path, voc_labels=255)
        refuse_other_sizes(self._images[index], path, read_header(self._images[index]).size[::-1], objects.shape)
        return torch.from_numpy(objects)

    def _files(self) -> Sequence[Path | None]:
        return [*super()._files(), *map(self._objects.get, self.ids)]


def comparison_indices(dataset: SegmentationDataset, say: bool = True) -> list[int]:
    """Return the indices of the five images shown in every comparison: `COMPARISON_IDS`, if all are there.

    Otherwise five evenly spaced ones are taken (all, if it has fewer than five), and a printed sentence says
    which, unless `say` is False.
    """
    chosen = COMPARISON_IDS.get(dataset.name, ())
    positions = {item: index for index, item in enumerate(dataset.ids)}
    if chosen and all(item in positions for item in chosen):
        return [positions[item] for item in chosen]
    count = min(5, len(dataset))
    indices = [(2 * i + 1) * len(dataset) // (2 * count) for i in range(count)]
    names = ", ".join(dataset.ids[i] for i in indices)
    if say:
        print(f"Images shown from {dataset.name}/{dataset.split}, evenly spaced: {names}.")
    return indices


def _find_layout(root: Path) -> Path:
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "ImageSets" / "Segmentation").is_dir():
            return folder.resolve()
    remedy = "Give the folder that holds ImageSets, JPEGImages and SegmentationClass, or run fetch_voc first."
    if not root.is_dir():
        raise FileNotFoundError(f"The data folder {root} does not exist. {remedy}")
    raise FileNotFoundError(f"{root} has no ImageSets/Segmentation, so it is not in VOC layout. {remedy}")


def _find_list(root: Path, split: str) -> Path:
    lists = root / "ImageSets" / "Segmentation"
    path = lists / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in lists.glob("[!.]*.txt"))) or "none"
        raise FileNotFoundError(f"{path} is missing: there is no split {split!r} here. Splits found: {known}.")
    return path


def _refuse_missing(
    names: list[str], what: str, suffix: str, listed: Path, folder: ImageFolder, *more: ImageFolder
) -> None:
    missing = [name for name in names if name not in folder and all(name not in other for other in more)]
    if missing:
        raise FileNotFoundError(
            f"{folder.path / missing[0]}{suffix} is missing ({len(missing)} of {len(names)} {what} that {listed} names "
            f"are{folder.like(missing[0])}): put the {what} there, or take their names out of the list."
        )


# Objects instead of classes: the same images, with a number for each thing that can be pointed at.


class ObjectDataset(SubsetDataset):
    """A data set whose label maps number objects: items are `(image, objects)`, uint8 (3, H, W) and uint8 (H, W).

    In `objects` 0 is background, 255 void, and every other number one object.

    Args:
        dataset: a data set with `instances(index)`, if `by` is "instance".
        by: "instance": each thing on its own. "class": all pixels of a class are one object, as in "the cars".

    Raises:
        ValueError: an unknown `by`.
        FileNotFoundError: when an item is read that has no instance map.
    """

    def __init__(self, dataset: SegmentationDataset, by: str = "instance"):
        if by not in ("instance", "class"):
            raise ValueError(f"unknown by={by!r}; known: instance, class")
        super().__init__(dataset, range(len(dataset)))
        self.by = by
        self.class_names, self.num_classes = ("background", "object"), 2

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.load_image(index), self.load_target(index)

    def load_target(self, index: int) -> torch.Tensor:
        index = self.indices[index]
        return self.dataset.instances(index) if self.by == "instance" else self.dataset.load_target(index)

    def instances(self, index: int) -> torch.Tensor:
        """The objects of item `index`, uint8 (H, W)."""
        return self.load_target(index)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.dataset.fingerprint()} by {self.by}".encode()).hexdigest()[:16]


def visible_objects(objects: torch.Tensor | np.ndarray, smallest: int = 1) -> list[int]:
    """The numbers in an object map (H, W), uint8, of objects with at least `smallest` pixels; void is none."""
    counts = np.bincount(np.asarray(objects).ravel(), minlength=256)
    counts[[0, 255]] = 0
    return np.flatnonzero(counts >= max(1, smallest)).tolist()
