"""Which data a notebook works on: decided in one place, and always said."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from labhelpers import config
from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset
from labhelpers.data.download import DownloadError, fetch_voc
from labhelpers.data.folder import CAMVID_CLASSES, VOID_NAMES, FolderSegmentation
from labhelpers.data.jigsaw import JIGSAW_CLASSES, JIGSAW_SPLITS, make_jigsaw
from labhelpers.data.loader import SubsetDataset, subset
from labhelpers.data.names import read_class_names
from labhelpers.data.scenes import make_scenes
from labhelpers.data.voc import VOCSegmentation, visible_objects

SOURCES = ("course", "voc", "scenes", "jigsaw")
"""What `open_splits` knows by name; anything else is the path of a folder."""

HELD_OUT, AT_LEAST = 0.15, 4
"""Share and smallest number of the training images that select models where a set has no images of its own for that."""


class Splits(NamedTuple):
    """Models learn on `train`, are selected on `val` and reported on `test`."""

    train: SegmentationDataset
    val: SegmentationDataset
    test: SegmentationDataset


def open_course_data(profile: config.Profile, objects: bool = False) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Open the training and validation sets for a profile, and print one sentence that says which they are.

    The folder in `LAB_VOC_ROOT` wins, if that is set. Otherwise the profile decides between the synthetic
    scenes and VOC 2012; when VOC 2012 cannot be fetched, a sentence says why and the scenes take its place.

    Args:
        objects: the lab is about objects: a folder in `LAB_VOC_ROOT` that does not tell any apart is passed over, and
            a sentence says so.

    Raises:
        FileNotFoundError, ValueError: `LAB_VOC_ROOT` does not hold a usable VOC-layout folder, or nothing but
            background is labelled there.
    """
    what, train, val = _course(profile, objects)
    print(f"Data: {what}: {len(train)} training and {len(val)} validation images.")
    return train, val


def open_splits(
    source: str | Path,
    profile: config.Profile,
    *,
    jigsaw_size: int = 512,
    jigsaw_counts: tuple[int, int, int] = (10, 12, 40),
) -> Splits:
    """Open a data set in three parts, and print one sentence that says which images are which.

    A test split of the set's own is used. Where there is none, validation images are what scores are reported on, as in
    `open_course_data` (the same images, so the same protocol), and a fixed choice of 15 % of the training images, at
    least four, is held out to select models on; that part is called `"train-held-out"`. In a set of video frames
    (CamVid) they resemble the frames around them, so that the score they select by is higher than that of the test.

    Args:
        source: `"course"` (what `open_course_data` opens), `"voc"` (PASCAL VOC 2012), `"scenes"`, `"jigsaw"`, or a
            folder: in VOC layout, or images/SPLIT beside labels/SPLIT with the splits train and val or test or both.
            There a classes.txt, one name per line in label order, names the labels, the last of them perhaps void; 11
            labels in a folder called after CamVid have CamVid's names, and a twelfth is void.
        profile: size and number of the scenes, and what `"course"` is.
        jigsaw_size, jigsaw_counts: see `make_jigsaw`.

    Raises:
        ValueError: an unknown source, or too few training images to hold some out.
        FileNotFoundError: a folder in neither layout.
        DownloadError: `"voc"` cannot be fetched.
    """
    parts: Sequence[SegmentationDataset]
    if source in ("course", "voc", "scenes"):
        what, *parts = {"course": lambda: _course(profile), "voc": _voc, "scenes": lambda: _scenes(profile)}[source]()
    elif source == "jigsaw":
        what = f"jigsaw pictures of {jigsaw_size} px"
        folder = config.data_root() / "jigsaw" / f"{jigsaw_size}px-{'-'.join(map(str, jigsaw_counts))}"
        root = make_jigsaw(folder, size=jigsaw_size, counts=jigsaw_counts)
        parts = [FolderSegmentation.from_root(root, split, JIGSAW_CLASSES, name="jigsaw") for split in JIGSAW_SPLITS]
    elif (root := Path(source).expanduser()).is_dir():
        parts = _folder(root)
        what = parts[0].name
        if parts[0].void != IGNORE_INDEX:
            what += f" (label {parts[0].void} is void, so that it is neither learned nor scored)"
    else:
        raise ValueError(f"unknown source {str(source)!r}: neither a folder nor one of {', '.join(SOURCES)}")
    splits = Splits(*parts) if len(parts) == 3 else Splits(*_hold_out(parts[0]), parts[1])
    learn, select, report = (f"{len(part)} image{'s' * (len(part) != 1)} ({part.split})" for part in splits)
    print(f"Data: {what}: {learn} to train on, {select} to select models on and {report} to report on.")
    return splits


Opened = tuple[str, SegmentationDataset, SegmentationDataset]
"""What it is, and the parts to train and to report on."""


def _course(profile: config.Profile, objects: bool = False) -> Opened:
    own = config.path_from("LAB_VOC_ROOT")
    if own:
        name, train, val = _voc_layout(own)
        for part in (train, val):
            if not any((part.load_target(index) % IGNORE_INDEX).any() for index in range(len(part))):
                raise ValueError(
                    f"The label maps of {name}/{part.split}, in {own}, hold nothing but background and void: label "
                    "the objects of at least one image in SegmentationClass, or list images that have some."
                )
        side = profile.mini_sam.min_side if objects else 0
        if _has_object(train, side) and _has_object(val, side):
            return f"{name} from LAB_VOC_ROOT", train, val
        print(
            f"This lab needs objects that are told apart: a map in SegmentationObject for each image, and in train and "
            f"in val an object of at least {side} x {side} pixels. {name} in LAB_VOC_ROOT lacks them, so other data "
            "take its place."
        )
    if profile.data == "voc":
        try:
            return _voc()
        except DownloadError as error:
            reasons = "; ".join(f"{urlsplit(url).hostname}: {reason}" for url, reason in error.reasons.items())
            print(f"PASCAL VOC 2012 cannot be fetched ({reasons}), so the synthetic scenes take its place.")
    return _scenes(profile)


def _has_object(dataset: SegmentationDataset, side: int) -> bool:
    """Whether objects are told apart and one has a box of at least `side` pixels a side; always where that is 0."""

    def sides(index: int) -> Iterator[int]:
        numbered = dataset.instances(index).numpy()
        for number in visible_objects(numbered):
            yield min(np.ptp(places) + 1 for places in (numbered == number).nonzero())

    return not side or dataset.has_instances and any(max(sides(i), default=0) >= side for i in range(len(dataset)))


def _voc_layout(root: str | Path, name: str | None = None) -> Opened:
    train, val = (VOCSegmentation(root, split, name=name) for split in ("train", "val"))
    both = sorted(set(train.ids) & set(val.ids))
    if both:
        print(
            f"{len(both)} of the {len(val)} validation images of {train.name} are training images too ({both[0]}), so "
            "scores on them say nothing about new images: take them out of one of the lists."
        )
    return train.name, train, val


def _voc() -> Opened:
    return "PASCAL VOC 2012", *_voc_layout(fetch_voc(config.data_root()))[1:]


def _scenes(profile: config.Profile) -> Opened:
    folder = config.data_root() / "scenes" / f"{profile.scene_size}px-{'-'.join(map(str, profile.scenes))}"
    root = make_scenes(folder, profile.scenes, size=profile.scene_size)
    return f"synthetic scenes of {profile.scene_size} px", *_voc_layout(root, "scenes")[1:]


def _folder(root: Path) -> Sequence[SegmentationDataset]:
    """Its parts: to train on, to select models on (where it has such images), to report on."""
    if any((root / place / "ImageSets" / "Segmentation").is_dir() for place in ("", "VOC2012", "VOCdevkit/VOC2012")):
        return _voc_layout(root)[1:]
    if not (root / "images" / "train").is_dir():
        raise FileNotFoundError(
            f"{root} has neither images/train (beside labels/train) nor ImageSets/Segmentation (VOC layout). Give the "
            "folder that holds one of them."
        )
    names: Sequence[str] | None = read_class_names(root / "classes.txt") if (root / "classes.txt").is_file() else None
    train = FolderSegmentation.from_root(root, "train", names)
    if names is None and "camvid" in train.name.lower() and train.num_classes - len(CAMVID_CLASSES) in (0, 1):
        names = (*CAMVID_CLASSES, "void")[: train.num_classes]
        train = FolderSegmentation.from_root(root, "train", names)
    found = [s for s in ("val", "test") if (root / "images" / s).is_dir() and (root / "labels" / s).is_dir()]
    if not found:
        raise FileNotFoundError(
            f"{root} has nothing to test on: put images into images/val or images/test, and their label maps into "
            "labels/val or labels/test."
        )
    for label, name in enumerate(train.class_names):
        if name.lower() in VOID_NAMES:
            print(f"Label {label} of {train.name}, {name!r}, counts as a class: save it as 255 to leave it out.")
    names = names or train.class_names
    return train, *(FolderSegmentation.from_root(root, split, names) for split in found)


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
