"""Which data a notebook works on: decided in one place, and always said."""

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from labhelpers import config
from labhelpers.data.base import SegmentationDataset
from labhelpers.data.download import DownloadError, fetch_voc
from labhelpers.data.folder import CAMVID_CLASSES, FolderSegmentation
from labhelpers.data.jigsaw import JIGSAW_CLASSES, make_jigsaw
from labhelpers.data.loader import SubsetDataset, subset
from labhelpers.data.scenes.make import make_scenes
from labhelpers.data.voc import VOCSegmentation

SOURCES = ("course", "voc", "scenes", "jigsaw")
"""What `open_splits` knows by name; anything else is the path of a folder."""

HELD_OUT, AT_LEAST = 0.15, 4
"""Share and smallest number of the training images that select models where a set has no images of its own for that."""


class Splits(NamedTuple):
    """Models learn on `train`, are selected on `val` and reported on `test`."""

    train: SegmentationDataset
    val: SegmentationDataset
    test: SegmentationDataset


def open_course_data(profile: config.Profile) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Open the training and validation sets for a profile, and print one sentence that says which they are.

    The folder in `LAB_VOC_ROOT` wins, if that is set. Otherwise the profile decides between the synthetic
    scenes and VOC 2012; when VOC 2012 cannot be fetched, a sentence says why and the scenes take its place.

    Raises:
        FileNotFoundError, ValueError: `LAB_VOC_ROOT` does not hold a usable VOC-layout folder.
    """
    what, train, val = _course(profile)
    print(f"Data: {what}: {len(train)} training and {len(val)} validation images.")
    return train, val


def open_splits(
    source: str | Path,
    profile: config.Profile,
    *,
    jigsaw_size: int = 512,
    jigsaw_counts: tuple[int, int, int] = (10, 4, 4),
) -> Splits:
    """Open a data set in three parts, and print one sentence that says which images are which.

    A test split of the set's own is used. Where there is none, validation images are what scores are reported on, as in
    `open_course_data` (the same images, so the same protocol), and a fixed choice of 15 % of the training images, at
    least four, is held out to select models on; that part is called `"train-held-out"`. In a set of video frames
    (CamVid) they resemble the frames around them, so that the score they select by is higher than that of the test.

    Args:
        source: `"course"` (what `open_course_data` opens), `"voc"` (PASCAL VOC 2012), `"scenes"`, `"jigsaw"`, or a
            folder: in VOC layout, or images/SPLIT beside labels/SPLIT with the splits train and val or test or both.
            There a classes.txt, one name per line, names the labels; 11 classes in a folder called after CamVid have
            CamVid's names.
        profile: size and number of the scenes, and what `"course"` is.
        jigsaw_size, jigsaw_counts: see `make_jigsaw`.

    Raises:
        ValueError: an unknown source, or too few training images to hold some out.
        FileNotFoundError: a folder in neither layout.
        DownloadError: `"voc"` cannot be fetched.
    """
    two_parts = {"course": lambda: _course(profile), "voc": _voc, "scenes": lambda: _scenes(profile)}
    if source in two_parts:
        (what, train, test), val = two_parts[source](), None
    elif source == "jigsaw":
        what, train, val, test = _jigsaw(jigsaw_size, jigsaw_counts)
    else:
        what, train, val, test = _folder(source)
    if val is None:
        train, val = _hold_out(train)
    print(
        f"Data: {what}: {_count(train)} to train on, {_count(val)} to select models on and {_count(test)} to report on."
    )
    return Splits(train, val, test)


def _course(profile: config.Profile) -> tuple[str, SegmentationDataset, SegmentationDataset]:
    own = os.environ.get("LAB_VOC_ROOT")
    if own:
        train, val = VOCSegmentation(own, "train"), VOCSegmentation(own, "val")
        return f"{train.name} from LAB_VOC_ROOT", train, val
    if profile.data == "voc":
        try:
            return _voc()
        except DownloadError as error:
            reasons = "; ".join(f"{urlsplit(url).hostname}: {reason}" for url, reason in error.reasons.items())
            print(f"PASCAL VOC 2012 cannot be fetched ({reasons}), so the synthetic scenes take its place.")
    return _scenes(profile)


def _voc() -> tuple[str, SegmentationDataset, SegmentationDataset]:
    root = fetch_voc(config.data_root())
    return "PASCAL VOC 2012", VOCSegmentation(root, "train"), VOCSegmentation(root, "val")


def _scenes(profile: config.Profile) -> tuple[str, SegmentationDataset, SegmentationDataset]:
    train, val = profile.scenes
    folder = config.data_root() / "scenes" / f"{profile.scene_size}px-{train}-{val}"
    root = make_scenes(folder, (train, val), size=profile.scene_size)
    sets = [VOCSegmentation(root, split, name="scenes") for split in ("train", "val")]
    return f"synthetic scenes of {profile.scene_size} px", *sets


def _jigsaw(
    size: int, counts: tuple[int, int, int]
) -> tuple[str, SegmentationDataset, SegmentationDataset, SegmentationDataset]:
    folder = config.data_root() / "jigsaw" / f"{size}px-{'-'.join(map(str, counts))}"
    root = make_jigsaw(folder, size=size, counts=counts)
    sets = [FolderSegmentation.from_root(root, s, JIGSAW_CLASSES, name="jigsaw") for s in ("train", "val", "test")]
    return f"jigsaw pictures of {size} px", *sets


def _folder(
    source: str | Path,
) -> tuple[str, SegmentationDataset, SegmentationDataset | None, SegmentationDataset]:
    """What it is, and its parts: those to train on, to select models on (None where there are none), to report on."""
    root = Path(source).expanduser()
    if not root.is_dir():
        raise ValueError(f"unknown source {str(source)!r}: neither a folder nor one of {', '.join(SOURCES)}")
    if any((root / place / "ImageSets" / "Segmentation").is_dir() for place in ("", "VOC2012", "VOCdevkit/VOC2012")):
        train, val = VOCSegmentation(root, "train"), VOCSegmentation(root, "val")
        return train.name, train, None, val
    if not (root / "images" / "train").is_dir():
        raise FileNotFoundError(
            f"{root} has neither images/train (beside labels/train) nor ImageSets/Segmentation (VOC layout). Give the "
            "folder that holds one of them."
        )
    train = FolderSegmentation.from_root(root, "train", _class_names(root))
    if train.num_classes == len(CAMVID_CLASSES) and "camvid" in train.name.lower():
        train = FolderSegmentation.from_root(root, "train", _class_names(root) or CAMVID_CLASSES)
    found = [s for s in ("val", "test") if (root / "images" / s).is_dir() and (root / "labels" / s).is_dir()]
    if not found:
        raise FileNotFoundError(
            f"{root} has nothing to test on: put images into images/val or images/test, and their label maps into "
            "labels/val or labels/test."
        )
    *val, test = [FolderSegmentation.from_root(root, split, train.class_names) for split in found]
    return train.name, train, val[0] if val else None, test


def _class_names(root: Path) -> list[str] | None:
    path = root / "classes.txt"
    if not path.is_file():
        return None
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{path} is empty: write one class name per line, in label order, or remove it.")
    return names


def _hold_out(train: SegmentationDataset) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training set in two: what is left to train on, and what selects models."""
    count = max(AT_LEAST, round(HELD_OUT * len(train)))
    if len(train) < 2 * count:
        raise ValueError(
            f"{train.name}/{train.split} has {len(train)} images, too few to hold {count} out to select models on. Add "
            "training images, or give the set a val and a test split."
        )
    val = subset(train, count)
    val.split = f"{train.split}-held-out"
    rest = SubsetDataset(train, sorted(set(range(len(train))) - set(val.indices)))
    return rest, val


def _count(dataset: SegmentationDataset) -> str:
    return f"{len(dataset)} image{'s' * (len(dataset) != 1)} ({dataset.split})"
