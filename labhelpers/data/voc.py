"""PASCAL VOC 2012 (Everingham et al., IJCV 2015) and every other folder with the same layout.

    VOC2012/ImageSets/Segmentation/{train,val,trainval}.txt   one image name per line
            JPEGImages/NAME.jpg                               the picture
            SegmentationClass/NAME.png                        palette PNG: 0 background, 1..20 class, 255 rim
            SegmentationObject/NAME.png                       palette PNG: 0 background, 1.. object, 255 rim
            SegmentationClassAug/NAME.png                     as SegmentationClass, from SBD (see `fetch_sbd`)

The last two are optional.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from labhelpers.data.base import SegmentationDataset, refuse_other_sizes
from labhelpers.data.loader import SubsetDataset
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
        ValueError: the split's list is empty, or the label maps hold nothing but 0 and 255.
    """

    voc_labels = len(VOC_CLASSES)

    def __init__(self, root: str | Path, split: str, name: str | None = None):
        self.root = _find_layout(Path(root))
        ids = _read_split(self.root, split)
        images = [self.root / "JPEGImages" / f"{item}.jpg" for item in ids]
        super().__init__(name or self.root.name, split, VOC_CLASSES, ids, images, self._find_labels(ids))
        _refuse_missing(images, f"{self.root / 'ImageSets/Segmentation'}/{split}.txt")
        self.refuse_drawn_masks()

    def _find_labels(self, ids: list[str]) -> list[Path]:
        """VOC's own label map where there is one, as it is more exact and has rims, else the one of SBD."""
        own, augmented = self.root / "SegmentationClass", self.root / "SegmentationClassAug"
        in_own, in_augmented = _names(own), _names(augmented)
        missing = [item for item in ids if f"{item}.png" not in in_own | in_augmented]
        if missing:
            raise FileNotFoundError(
                f"{own / missing[0]}.png is missing ({len(missing)} of {len(ids)} label maps are): put the "
                "label maps there, or take the names out of the split's list."
            )
        return [(own if f"{item}.png" in in_own else augmented) / f"{item}.png" for item in ids]

    def instances(self, index: int) -> torch.Tensor:
        path = self.root / "SegmentationObject" / f"{self.ids[index]}.png"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: this item has no instance mask. Use a split whose images have "
                "one (train, val and trainval of VOC 2012 do; SBD's do not)."
            )
        objects = read_labels(path, voc_labels=255)
        refuse_other_sizes(self._images[index], path, read_header(self._images[index]).size[::-1], objects.shape)
        return torch.from_numpy(objects)


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


def _read_split(root: Path, split: str) -> list[str]:
    lists = root / "ImageSets" / "Segmentation"
    path = lists / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
        raise FileNotFoundError(f"{path} is missing: there is no split {split!r} here. Splits found: {known}.")
    ids = path.read_text().split()
    if not ids:
        raise ValueError(f"{path} is empty: list at least one image name in it, one per line.")
    return ids


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _refuse_missing(files: list[Path], named_by: str) -> None:
    present = _names(files[0].parent)
    missing = [path for path in files if path.name not in present]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} is missing ({len(missing)} of {len(files)} images that {named_by} names are): put "
            "the images there, or take their names out of the list."
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
