"""Fetch PASCAL VOC 2012 and, on request, the extra label maps of SBD, keeping only what segmentation needs.

The terms of both are in data/README.md. VOC: Everingham et al., "The PASCAL Visual Object Classes Challenge:
a Retrospective", IJCV 2015. SBD: Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011.
"""

import http.client
import json
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from labhelpers.data.base import png
from labhelpers.files import connection_problems, file_hash, locked, named, read_json, sealed, write_atomic


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
LARGEST = 20_000_000  # bytes of a file in an archive; the largest that is wanted has 0.3 million


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
    if _damage(target, "voc2012") is not None:
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
    if _damage(target, "sbd") is not None:
        train, val = (set(_read_list(target, split)) for split in ("train", "val"))
        _install("sbd", Path(root), target, lambda tar, folder: _unpack_sbd(tar, folder, train, val))
    return target


def _install(key: str, root: Path, target: Path, unpack: Callable[[tarfile.TarFile, Path], None]) -> None:
    """Fetch an archive, unpack it beside `target`, move the result in; an archive that was there stays."""
    archive = ARCHIVES[key]
    path = root / archive.name
    with locked(root / "download.lock"):
        damaged = _damage(target, key)
        if damaged is None:  # another process has fetched it meanwhile
            return
        if _manifest(target, key).exists():
            print(f"{target / damaged} is missing or damaged, so {archive.name} is fetched again.")
        fetched = path.with_name(f"{path.name}.fetched")  # it marks an archive that nobody has put there by hand
        ours = fetched.exists() or not path.exists()
        download(archive.urls, path, md5=archive.md5, sha256=archive.sha256, size=archive.size)
        if ours:
            fetched.touch()
        fresh = target.with_name(f"{target.name}.{key}.partial")
        if fresh.exists():  # an interrupted call left it behind
            shutil.rmtree(fresh)
        fresh.mkdir(parents=True)
        try:
            with tarfile.open(path) as tar:
                unpack(tar, fresh)
        except Exception as error:  # of any kind where an archive is none; the system's have a number
            if type(error) is RuntimeError or isinstance(error, ImportError) or getattr(error, "errno", None):
                raise
            raise RuntimeError(
                f"{path} cannot be unpacked ({error!r}), although its hash is the right one: please report this, with "
                "what `labhelpers doctor` prints."
            ) from error
        files = {
            p.relative_to(fresh).as_posix(): _size_and_checksum(p) for p in sorted(fresh.rglob("*")) if p.is_file()
        }
        write_atomic(_manifest(fresh, key), json.dumps(sealed(files)).encode(), sync=False)
        _move_in(fresh, target, key)
        if ours:
            fetched.unlink()
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
            raise _other_release(tar, f"does not hold VOC2012/{name}, so it is not the VOC 2012 release.")
        _save(folder, name, _read(tar, members[name]))

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
            listed.update(_read(tar, member).decode().split())
        elif path.stem in train or path.stem in val:
            continue
        elif where == ("dataset", "img"):
            _save(folder, f"JPEGImages/{path.stem}.jpg", _read(tar, member))
        elif where == ("dataset", "cls"):
            _save(folder, f"SegmentationClassAug/{path.stem}.png", _to_png(_read(tar, member)))
    added = listed - train - val
    for item in sorted(added):
        places = (f"JPEGImages/{item}.jpg", f"SegmentationClassAug/{item}.png")
        if not all((folder / place).is_file() for place in places):
            raise _other_release(tar, f"lists {item} without its picture or label map: it is not SBD's release.")
    names = "".join(f"{item}\n" for item in sorted(train | added))
    _save(folder, "ImageSets/Segmentation/trainaug.txt", names.encode())


def _to_png(mat: bytes) -> bytes:
    """Turn SBD's MATLAB file of one label map into a palette PNG like VOC's."""
    from scipy.io import loadmat

    return png(loadmat(BytesIO(mat))["GTcls"][0]["Segmentation"][0].astype(np.uint8))


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > LARGEST:
        raise _other_release(tar, f"holds {member.name} of {member.size:,} bytes: do not use it.")
    file = tar.extractfile(member)
    return file.read() if file is not None else b""


def _other_release(tar: tarfile.TarFile, what: str) -> RuntimeError:
    return RuntimeError(f"{os.fsdecode(tar.name or '')} {what}")


def _read_list(folder: Path, split: str) -> list[str]:
    return (folder / "ImageSets" / "Segmentation" / f"{split}.txt").read_text(encoding="utf-8").split()


def _save(folder: Path, name: str, data: bytes) -> None:
    """Write `folder`/`name`; a name made from what an archive holds must not lead outside the folder."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RuntimeError(f"The archive holds the file name {name!r}, which leads outside {folder}: do not use it.")
    write_atomic(path, data, sync=False)


def _manifest(folder: Path, key: str) -> Path:
    return folder / f"{key}-manifest.json"


def _size_and_checksum(path: Path) -> list[int]:
    return [path.stat().st_size, zlib.crc32(path.read_bytes())]


def _damage(folder: Path, key: str) -> str | None:
    """The name of a file of the manifest, or of the manifest, that is missing or changed; None if all is well."""
    manifest = _manifest(folder, key)
    try:
        files = read_json(manifest).items()
        return next(
            (n for n, facts in files if not (folder / n).is_file() or _size_and_checksum(folder / n) != facts), None
        )
    except (FileNotFoundError, ValueError, AttributeError):
        return manifest.name


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


def _bar(items: Iterable | None, desc: str, unit: str = " files", **options: Any) -> Any:
    from tqdm.auto import tqdm

    return tqdm(items, desc=desc, unit=unit, **options)


# Fetch one file from several addresses: resumed where it broke off, checked, moved in place at once.

READ_SECONDS = 20.0  # silence after which a connection counts as broken
RATE_WINDOW_SECONDS = 30.0  # over each such window ...
LOWEST_RATE = 20_000  # ... an address must deliver at least this many bytes a second (2 GB would take a day)
ATTEMPTS = 3  # connections to one address that may end, one after the other, with less than _PROGRESS gained
RETRY_SECONDS = 0.5  # pause before the second of them, twice that before the third, ...
_PROGRESS = 1 << 20
_CHUNK = 1 << 20


class DownloadError(RuntimeError):
    """No address delivered the file. The message, and `reasons`, give each address with its own reason."""

    def __init__(self, path: Path, reasons: dict[str, str]):
        self.reasons = reasons
        tried = "".join(f"\n  {url}: {reason}" for url, reason in reasons.items())
        super().__init__(
            f"{path.name} could not be fetched. Check the network, or put the file at {path} by hand. Tried:{tried}"
        )


class _AddressFailed(Exception):
    """One address will not deliver the file; its message is the reason."""


class _ConnectionBroke(Exception):
    """The connection ended early: what has arrived is kept, and it is worth continuing."""


def download(
    urls: Sequence[str],
    path: str | Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
) -> Path:
    """Return `path` after making sure that it holds the file with the given hash.

    A file that is there already is checked, too, and fetched again when it is damaged. The addresses are
    tried in order. What has arrived is kept in `path` + ".part", so that a broken download continues where it
    stopped, in this call or a later one, from any of the addresses.

    Args:
        urls: http(s) addresses of the same file, the preferred one first.
        path: where the file belongs; its folder is made when needed.
        md5, sha256: hexadecimal hashes; at least one is needed, and all that are given are checked.
        size: the file's bytes, where known; an address that offers another size is passed over at once.

    Raises:
        DownloadError: no address delivered it.
        ValueError: no address or no hash was given.
        OSError: the file cannot be written (no space, no permission); what has arrived is kept.
    """
    if not urls or not (md5 or sha256):
        raise ValueError("download needs at least one address, and an md5 or sha256 to check the file with.")
    path = Path(path)
    hashes = {name: value for name, value in (("md5", md5), ("sha256", sha256)) if value}
    if path.exists():
        problem = find_damage(path, hashes, size)
        if problem is None:
            return path
        print(f"{path} is damaged ({problem}), so it is fetched again.")
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if size is not None:
        _refuse_full_disk(part, size)
    reasons = connection_problems(urls)
    for url in urls:
        if url in reasons:
            continue
        try:
            _fetch(url, part, hashes, size)
        except _AddressFailed as failure:
            reasons[url] = str(failure)
        else:
            os.replace(part, path)
            return path
    raise DownloadError(path, {url: reasons[url] for url in urls})


def find_damage(path: Path, hashes: dict[str, str], size: int | None) -> str | None:
    """Say how the file differs from its size and its hashes, {"md5": ...}; None when it does not."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"{found:,} bytes, expected {size:,}"
    for name, expected in hashes.items():
        digest = file_hash(path, name)
        if digest != expected.lower():
            return f"{name} {digest}, expected {expected.lower()}"
    return None


def _refuse_full_disk(part: Path, size: int) -> None:
    free, needed = shutil.disk_usage(part.parent).free, size - _size(part)
    if free < needed:
        raise OSError(
            f"{part.parent} has {free / 1e9:.2f} GB free, but {needed / 1e9:.2f} GB are still to be fetched. "
            "Make room there, or choose another folder."
        )


def _fetch(url: str, part: Path, hashes: dict[str, str], size: int | None) -> None:
    """Complete `part` and check it, connecting again whenever the connection breaks, as long as that gains ground."""
    again, fruitless = _size(part) > 0, 0  # a wrong hash may be the old part's fault, so start over once
    while True:
        before = _size(part)
        try:
            _continue(url, part, size)
        except _ConnectionBroke as broken:
            fruitless = 0 if _size(part) - before >= _PROGRESS else fruitless + 1
            if fruitless == ATTEMPTS:
                raise _AddressFailed(f"{broken}; gave up after {ATTEMPTS} connections in a row") from broken
            time.sleep(RETRY_SECONDS * fruitless)
            continue
        problem = find_damage(part, hashes, size)
        if problem is None:
            return
        part.unlink()
        if not again:
            raise _AddressFailed(f"delivered another file ({problem})")
        again = False


def _continue(url: str, part: Path, size: int | None) -> None:
    """Ask for what `part` lacks and append it; if the server sends the whole file instead, start anew."""
    start = _size(part)
    if size is not None and start == size:
        return
    with _open(url, start, part) as response:
        resumes = response.status == http.client.PARTIAL_CONTENT
        if resumes and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()
            raise _ConnectionBroke("answered with another range than asked for")
        done = start if resumes else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else size
        if size is not None and total != size:
            raise _AddressFailed(f"offers {total:,} bytes, expected {size:,}")
        bar = _bar(None, part.stem, "B", initial=done, total=total, unit_scale=True, unit_divisor=1000)
        with named(part), part.open("ab" if resumes else "wb") as file, bar:
            for chunk in _chunks(response):
                done += len(chunk)
                if total is not None and done > total:
                    raise _AddressFailed(f"sends more than the expected {total:,} bytes")
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and done < total:
        raise _ConnectionBroke(f"connection closed after {done:,} of {total:,} bytes")


def _open(url: str, start: int, part: Path) -> http.client.HTTPResponse:
    headers = {"User-Agent": "labhelpers"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=READ_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            raise _ConnectionBroke("the part on disk does not belong to this file") from error
        raise _AddressFailed(f"HTTP {error.code} {error.reason}") from error
    except (urllib.error.URLError, TimeoutError) as error:  # asking again at once would not help
        raise _AddressFailed(f"no answer ({getattr(error, 'reason', error)})") from error
    except (http.client.HTTPException, OSError) as error:
        raise _ConnectionBroke(f"connection broke ({error})") from error


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what arrives as it arrives, and give up on a connection that falls silent or crawls."""
    window_start, window_bytes = time.monotonic(), 0
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (http.client.HTTPException, OSError) as error:
            raise _ConnectionBroke(f"connection broke ({error})") from error
        if not chunk:
            return
        yield chunk
        window_bytes += len(chunk)
        seconds = time.monotonic() - window_start
        if seconds >= RATE_WINDOW_SECONDS:
            if window_bytes / seconds < LOWEST_RATE:
                raise _AddressFailed(f"too slow ({window_bytes / seconds:,.0f} bytes a second)")
            window_start, window_bytes = time.monotonic(), 0


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
