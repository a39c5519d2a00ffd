"""Which data a notebook works on: decided in one place, and always said."""

import os
from urllib.parse import urlsplit

from labhelpers import config
from labhelpers.data.base import SegmentationDataset
from labhelpers.data.fetch import fetch_voc
from labhelpers.data.scenes import make_scenes
from labhelpers.data.transfer import DownloadError
from labhelpers.data.voc import VOCSegmentation


def open_course_data(profile: config.Profile) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Open the training and validation sets for a profile, and print one sentence that says which they are.

    The folder in `LAB_VOC_ROOT` wins, if that is set. Otherwise the profile decides between the synthetic
    scenes and VOC 2012; when VOC 2012 cannot be fetched, a sentence says why and the scenes take its place.

    Raises:
        FileNotFoundError, ValueError: `LAB_VOC_ROOT` does not hold a usable VOC-layout folder.
    """
    own = os.environ.get("LAB_VOC_ROOT")
    if own:
        return _say("Data: {name} from LAB_VOC_ROOT", VOCSegmentation(own, "train"), VOCSegmentation(own, "val"))
    if profile.data == "voc":
        try:
            root = fetch_voc(config.data_root())
        except DownloadError as error:
            reasons = "; ".join(f"{urlsplit(url).hostname}: {reason}" for url, reason in error.reasons.items())
            print(f"PASCAL VOC 2012 cannot be fetched ({reasons}), so the synthetic scenes take its place.")
        else:
            return _say("Data: PASCAL VOC 2012", VOCSegmentation(root, "train"), VOCSegmentation(root, "val"))
    return _open_scenes(profile)


def _open_scenes(profile: config.Profile) -> tuple[SegmentationDataset, SegmentationDataset]:
    train, val = profile.scenes
    folder = config.data_root() / "scenes" / f"{profile.scene_size}px-{train}-{val}"
    root = make_scenes(folder, (train, val), size=profile.scene_size)
    sets = [VOCSegmentation(root, split, name="scenes") for split in ("train", "val")]
    return _say(f"Data: synthetic scenes of {profile.scene_size} px", *sets)


def _say(
    what: str, train: SegmentationDataset, val: SegmentationDataset
) -> tuple[SegmentationDataset, SegmentationDataset]:
    print(f"{what.format(name=train.name)}: {len(train)} training and {len(val)} validation images.")
    return train, val
