"""Fetch PASCAL VOC 2012 and, on request, the extra label maps of SBD, keeping only what segmentation needs.

The terms of both are in data/README.md. VOC: Everingham et al., "The PASCAL Visual Object Classes Challenge:
a Retrospective", IJCV 2015. SBD: Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011.
"""

import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from labhelpers.data.base import voc_palette
from labhelpers.data.transfer import download


@dataclass(frozen=True)
class Archive:
    """A file on the network: its name, the addresses that serve it, preferred first, and its hashes."""

    name: str
    urls: tuple[str, ...]
    md5: str
    size: int
    sha256: str | None = None


ARCHIVES = {
    "voc2012": Archive(
        name="VOCtrainval_11-May-2012.tar",
        urls=(
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "https://data.pjreddie.com/files/VOCtrainval_11-May-2012.tar",
            "https://pjreddie.com/media/files/VOCtrainval_11-May-2012.tar",
        ),
        md5="6cd6e144f989b92b3379bac3b3de84fd",
        sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        size=1_999_639_040,
    ),
    "sbd": Archive(
        name="benchmark.tgz",
        urls=(
            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
            "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
        ),
        md5="82b4d87ceb2ed10f6038a1cba92111cb",
        size=1_419_539_633,
    ),
}

_LISTS = ("train", "val", "trainval")


def fetch_voc(root: str | Path, split: str = "trainval") -> Path:
    """Return `root`/VOCdevkit/VOC2012 after making sure that it is there and whole.

    Of the 2 GB archive, the 2,913 segmentation images, their class and object masks and the three lists are
    kept (about 0.3 GB). The folder appears at once, complete, with a manifest of sizes and checksums, by
    which it is checked on every later call; nothing is fetched again while it is intact.

    Args:
        root: the folder that downloads go to.
        split: train, val and trainval come together; trainaug adds SBD (see `fetch_sbd`).

    Raises:
        DownloadError: no address could be reached, or none delivered the archive; each is listed with its
        reason.
        ValueError: an unknown split.
    """
    if split not in (*_LISTS, "trainaug"):
        raise ValueError(f"VOC 2012 has no split {split!r}. Known: {', '.join(_LISTS)}, trainaug.")
    target = Path(root) / "VOCdevkit" / "VOC2012"
    if not _intact(target, "voc2012"):
        _install("voc2012", Path(root), target, _unpack_voc)
    return fetch_sbd(root) if split == "trainaug" else target


def fetch_sbd(root: str | Path) -> Path:
    """Add SBD's label maps to VOC 2012, fetched first when needed, as the split trainaug; return the folder.

    trainaug is VOC train plus every image of SBD's train and val that is not in VOC val: 10,582 images. Label
    maps of the added images go to SegmentationClassAug (they have no void rims and no instances); images that
    VOC itself has labelled keep VOC's label map, which is more exact.

    Raises:
        DownloadError: an archive could not be fetched.
    """
    target = fetch_voc(root)
    if not _intact(target, "sbd"):
        train, val = (set(_read_list(target, split)) for split in ("train", "val"))
        _install("sbd", Path(root), target, lambda tar, folder: _unpack_sbd(tar, folder, train, val))
    return target


def _install(key: str, root: Path, target: Path, unpack: Callable[[tarfile.TarFile, Path], None]) -> None:
    """Fetch an archive, unpack it beside `target`, move the result in; an archive that was there stays."""
    archive = ARCHIVES[key]
    path = root / archive.name
    was_there = path.exists()
    download(archive.urls, path, md5=archive.md5, sha256=archive.sha256, size=archive.size)
    fresh = target.with_name(f"{target.name}.{key}.partial")
    if fresh.exists():  # an interrupted call left it behind
        shutil.rmtree(fresh)
    fresh.mkdir(parents=True)
    with tarfile.open(path) as tar:
        unpack(tar, fresh)
    _write_manifest(fresh, key)
    _move_in(fresh, target, key)
    if not was_there:
        path.unlink()


def _unpack_voc(tar: tarfile.TarFile, folder: Path) -> None:
    """Keep the lists and, of each image they name, the picture and both masks."""
    members = {}
    for member in _bar(tar, "reading the archive"):
        parts = PurePosixPath(member.name).parts
        if member.isfile() and "VOC2012" in parts:
            members["/".join(parts[parts.index("VOC2012") + 1 :])] = member

    def keep(name: str) -> None:
        if name not in members:
            raise RuntimeError(f"{tar.name} does not hold VOC2012/{name}, so it is not the VOC 2012 release.")
        _save(folder, name, tar.extractfile(members[name]).read())

    for split in _LISTS:
        keep(f"ImageSets/Segmentation/{split}.txt")
    for item in _bar(_read_list(folder, "trainval"), "unpacking"):
        keep(f"JPEGImages/{item}.jpg")
        keep(f"SegmentationClass/{item}.png")
        keep(f"SegmentationObject/{item}.png")


def _unpack_sbd(tar: tarfile.TarFile, folder: Path, train: set[str], val: set[str]) -> None:
    """Keep what VOC lacks, in one pass: to go back in a .tgz is to unpack it again."""
    listed: set[str] = set()
    for member in _bar(tar, "unpacking"):
        path = PurePosixPath(member.name)
        if not member.isfile() or path.name.startswith("."):
            continue
        where = path.parts[-3:-1]
        if path.parts[-2:] in (("dataset", "train.txt"), ("dataset", "val.txt")):
            listed.update(tar.extractfile(member).read().decode().split())
        elif path.stem in train or path.stem in val:
            continue
        elif where == ("dataset", "img"):
            _save(folder, f"JPEGImages/{path.stem}.jpg", tar.extractfile(member).read())
        elif where == ("dataset", "cls"):
            _save(folder, f"SegmentationClassAug/{path.stem}.png", _to_png(tar.extractfile(member).read()))
    added = listed - train - val
    places = ("JPEGImages/{}.jpg", "SegmentationClassAug/{}.png")
    for item in sorted(added):
        if not all((folder / place.format(item)).is_file() for place in places):
            raise RuntimeError(f"{tar.name} lists {item} without its picture or label map: it is not SBD's release.")
    names = "".join(f"{item}\n" for item in sorted(train | added))
    _save(folder, "ImageSets/Segmentation/trainaug.txt", names.encode())


def _to_png(mat: bytes) -> bytes:
    """Turn SBD's MATLAB file of one label map into a palette PNG like VOC's."""
    from scipy.io import loadmat

    labels = loadmat(BytesIO(mat))["GTcls"][0]["Segmentation"][0].astype(np.uint8)
    image = Image.fromarray(labels)
    image.putpalette(voc_palette().tobytes())
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _read_list(folder: Path, split: str) -> list[str]:
    return (folder / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()


def _save(folder: Path, name: str, data: bytes) -> None:
    """Write `folder`/`name`; a name made from what an archive holds must not lead outside the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RuntimeError(f"The archive holds the file name {name!r}, which leads outside {folder}: do not use it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _manifest(folder: Path, key: str) -> Path:
    return folder / f"{key}-manifest.json"


def _write_manifest(folder: Path, key: str) -> None:
    files = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, zlib.crc32(path.read_bytes())]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    _manifest(folder, key).write_text(json.dumps(files))


def _intact(folder: Path, key: str) -> bool:
    """Whether every file of the manifest is there and unchanged; a sentence says which is not."""
    path = _manifest(folder, key)
    if not path.is_file():
        return False
    damaged = _first_damaged(folder, path)
    if damaged is not None:
        print(f"{damaged} is missing or damaged, so {ARCHIVES[key].name} is fetched again.")
    return damaged is None


def _first_damaged(folder: Path, manifest: Path) -> Path | None:
    try:
        files = json.loads(manifest.read_text())
    except ValueError:
        return manifest
    for name, (size, checksum) in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size or zlib.crc32(path.read_bytes()) != checksum:
            return path
    return None


def _move_in(fresh: Path, target: Path, key: str) -> None:
    """Rename the finished folder, or its files one by one when the target exists; the manifest comes last."""
    if not target.exists():
        os.replace(fresh, target)
        return
    last = _manifest(fresh, key)
    for path in [*(p for p in fresh.rglob("*") if p.is_file() and p != last), last]:
        place = target / path.relative_to(fresh)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
    shutil.rmtree(fresh)


def _bar(items: Iterable, what: str) -> Iterable:
    from tqdm.auto import tqdm

    return tqdm(items, desc=what, unit=" files")
