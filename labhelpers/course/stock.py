"""The data of the labs: which are here, and how to get the others."""

from pathlib import Path

from labhelpers import config, data

NAMES = ("course", "scenes", "jigsaw", "voc", "sbd")


def inventory(profile: config.Profile) -> str:
    """What lies in the data folder, one line each, and what the labs of this profile work on."""
    root = config.data_root()
    voc = root / "VOCdevkit" / "VOC2012"
    places = {
        "scenes": sorted((root / "scenes").glob("*px-*")),
        "jigsaw": sorted((root / "jigsaw").glob("*px-*")),
        "voc": [voc] if voc.is_dir() else [],
        "sbd": [voc / "SegmentationClassAug"] if (voc / "SegmentationClassAug").is_dir() else [],
    }
    lines = [f"Data in {root}"]
    for name, found in places.items():
        lines += [f"  {name:7} {path.name:22} {_megabytes(path):8,.1f} MB" for path in found]
        if not found:
            lines.append(f"  {name:7} not here         labhelpers data {name}")
    what = "PASCAL VOC 2012" if profile.data == "voc" else f"synthetic scenes of {profile.scene_size} px"
    lines.append(f"The profile {profile.name} works on {what}; jigsaw pictures in lab 04.")
    return "\n".join(lines)


def provide(name: str, profile: config.Profile) -> None:
    """Fetches or makes the data of that name, unless they are here, and prints which they are.

    Raises:
        ValueError: an unknown name. DownloadError: no address delivered the data.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data {name!r}; known: {', '.join(NAMES)}")
    if name == "sbd":
        print(f"SBD's label maps: {data.fetch_sbd(config.data_root()) / 'SegmentationClassAug'}")
    elif name == "course":
        data.open_course_data(profile)
    else:
        size = {"jigsaw_size": profile.unet["jigsaw_size"]} if name == "jigsaw" else {}
        data.open_splits(name, profile, **size)


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
