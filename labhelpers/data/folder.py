"""A folder of images beside a folder of label maps, the layout that most labelling tools can export."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset, refuse_other_sizes
from labhelpers.data.names import IMAGE_SUFFIXES, ImageFolder
from labhelpers.data.reading import read_header, read_image, read_labels
from labhelpers.data.voc import VOC_CLASSES

CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "signsymbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
"""CamVid (Brostow et al., PRL 2009) in the 11 classes of SegNet (Badrinarayanan et al., TPAMI 2017)."""

VOID_NAMES = ("void", "unlabelled", "unlabeled", "unknown", "ignore", "ignored", "don't care")


class FolderSegmentation(SegmentationDataset):
    """Images and label maps in two folders, paired by stem: images/a.jpg with labels/a.png.

    Files are read as `labhelpers.data.reading` says: the integers in a label map are the labels, 255 is void. The
    headers of all files are checked when the set is made, so that a wrong file is found now and not in epoch 3.

    Args:
        images, labels: the two folders. Files that are not images, and hidden ones, are ignored.
        class_names: one name per label. A last one called void (or unlabelled, ignore, ...) is no class: its label
            is read as 255.
        num_classes: alone, it names the classes "class 0", "class 1", ... With neither of the two, all label
            maps are read once, and the number of classes is the largest label found (255 apart) plus one, at
            least two.
        split: what to call this part of the data.
        name: the data set's name; None takes the name of the folder that holds `images`.

    Raises:
        FileNotFoundError: a folder is missing, an image has no label map, or a label map has no image.
        ValueError: a folder is empty, two images or two classes share a name, a label map is a JPEG or has several
            channels, image and label map differ in size, a file is not an image, `class_names` and `num_classes`
            disagree, or the label maps hold nothing but 0 and 255, or few labels of many up to the largest.
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        split: str = "all",
        name: str | None = None,
    ):
        images, labels = Path(images), Path(labels)
        image_files, label_files = _image_folder(images), _image_folder(labels)
        _refuse_unpaired(image_files, label_files)
        _refuse_unpaired(label_files, image_files)
        ids = sorted(image_files)
        pairs = [(image_files[item], label_files[item]) for item in ids]
        if tuple(class_names or ()) == VOC_CLASSES:
            self.voc_labels = len(VOC_CLASSES)
        for image, label in pairs:
            _check_headers(image, label, self.voc_labels)
        if class_names is None:
            count = _count_classes(label for _, label in pairs) if num_classes is None else num_classes
            class_names = [f"class {k}" for k in range(count)]
        elif num_classes not in (None, len(class_names)):
            raise ValueError(f"num_classes is {num_classes}, but class_names has {len(class_names)} names. Give one.")
        name = name or images.resolve().parent.name
        image_paths, label_paths = zip(*pairs, strict=True)
        if len(class_names) > 1 and class_names[-1].strip().lower() in VOID_NAMES:
            self.void, class_names = len(class_names) - 1, class_names[:-1]
        super().__init__(name, split, class_names, ids, image_paths, label_paths)
        self.refuse_drawn_masks()

    @classmethod
    def from_root(
        cls,
        root: str | Path,
        split: str,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        name: str | None = None,
    ) -> "FolderSegmentation":
        """Open `root`/images/`split` and `root`/labels/`split`.

        With neither `class_names` nor `num_classes`, the label maps of all splits are read once, so that
        every split gets the same number of classes.

        Raises:
            FileNotFoundError: the root or the split is missing.
            ValueError: see the class.
        """
        root = Path(root)
        images, labels = root / "images", root / "labels"
        if not (images / split).is_dir():
            known = ", ".join(sorted(p.name for p in images.iterdir() if p.is_dir())) if images.is_dir() else ""
            raise FileNotFoundError(
                f"{images / split} does not exist. A folder data set holds images/SPLIT and labels/SPLIT; "
                f"splits found: {known or 'none'}."
            )
        if class_names is None and num_classes is None and labels.is_dir():
            folders = [folder for folder in labels.glob("[!.]*") if folder.is_dir()]
            num_classes = _count_classes(path for folder in folders for path in ImageFolder(folder).values())
        name = name or root.resolve().name
        return cls(images / split, labels / split, class_names, num_classes, split, name)


def _image_folder(path: Path) -> ImageFolder:
    if not path.is_dir():
        raise FileNotFoundError(f"The folder {path} does not exist. Make it, or correct the path.")
    files = ImageFolder(path)
    if not files:
        raise ValueError(f"The folder {path} holds no images ({', '.join(IMAGE_SUFFIXES)}). Put some there.")
    return files


def _refuse_unpaired(files: ImageFolder, partners: ImageFolder) -> None:
    alone = [name for name in files if name not in partners]
    if alone:
        raise FileNotFoundError(
            f"{files[alone[0]]} has no partner called {alone[0]} in {partners.path} ({len(alone)} of {len(files)} "
            f"files have none{partners.like(alone[0])}): add the missing file, or remove this one."
        )


def _check_headers(image: Path, label: Path, voc_labels: int) -> None:
    if read_header(image).size != read_header(label, True, voc_labels).size:
        # The pixels decide: the flag of a PNG may stand behind them.
        refuse_other_sizes(image, label, read_image(image).shape[:2], read_labels(label, voc_labels).shape)


def _count_classes(labels: Iterable[Path]) -> int:
    paths, found = list(labels), {0, 1}  # a set with one class has nothing to segment
    for path in paths:
        found |= set(np.flatnonzero(np.bincount(read_labels(path).ravel())).tolist())
    count = max(found - {IGNORE_INDEX}) + 1
    if count > max(32, 2 * len(found)):  # grey values that were drawn to be seen
        raise ValueError(
            f"The label maps in {paths[0].parent} hold labels up to {count - 1} and few between: number the classes 0, "
            f"1, 2, ..., or pass class_names or num_classes={count}."
        )
    return count
