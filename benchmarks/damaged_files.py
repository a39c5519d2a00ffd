"""Damaged files of every kind that labhelpers reads: whatever is in them, it reads them or says which one is damaged.

    python benchmarks/damaged_files.py [--files 500] [--kinds PNG ...]

Valid files, and archives that are made to do harm, are damaged by a seeded choice of bit flips, cuts, splices, huge
numbers, turned bytes and odd values, and read by the functions that the labs call, in a child with 1 GiB of memory to
spare. An audit hook of Python watches what it writes and whether a pickle loads anything. A table of what came of it
is printed as Markdown; every defect is printed with the seed of its file.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import stat
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torchvision.models import ResNet18_Weights

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from test_fetch import sbd_files, voc_files  # noqa: E402
from tiny_voc import make_labels, make_tiny_voc  # noqa: E402
from training_toys import SETS, tiny_net, tiny_recipe  # noqa: E402

from labhelpers.course import grade, plans  # noqa: E402
from labhelpers.data import VOCSegmentation, class_statistics, download  # noqa: E402
from labhelpers.data.base import png  # noqa: E402
from labhelpers.data.names import read_class_names  # noqa: E402
from labhelpers.data.reading import read_header, read_image, read_labels  # noqa: E402
from labhelpers.data.scenes import make_scenes  # noqa: E402
from labhelpers.evaluation import Protocol, ResultsTable  # noqa: E402
from labhelpers.evaluation.results import Row  # noqa: E402
from labhelpers.files import file_hashes, sealed  # noqa: E402
from labhelpers.models import encoders  # noqa: E402
from labhelpers.models.encoders import published_state  # noqa: E402
from labhelpers.models.shipped import read_weights  # noqa: E402
from labhelpers.prompting.sam_tuning import _hash, _read  # noqa: E402
from labhelpers.training import checkpoints, finished_runs, train_or_load  # noqa: E402
from labhelpers.training.tracking import History  # noqa: E402

SECONDS, SPARE = 10, 2**30  # what one file may take: seconds of the processor, bytes of memory
PATIENCE = 300  # seconds until a child that waits is ended
OUTCOMES = ("as it was", "other values", "error with its name", "other error", "unnoticed", "crash", "memory",
            "written outside", "pickle", "too long")  # fmt: skip
GOOD = OUTCOMES[:3]
ODD = [b"null", b"-1", b"1e999", b"NaN", b'"x"', b"[]", b"{}", b"[[1]]", b'"\\ud800"', b"9" * 30, b"9" * 5000, b"0.5"]
ODD += [b"true", b"../../../evil", b"[" * 10**5, b"\xff\xfe", b"\0", b"\r", b"", b" ", b'"""', b";", b"," * 2000]


def damaged(data: bytes, seed: int) -> bytes:
    """The data with one or two kinds of damage, half of them near the beginning, where headers are."""
    rng = np.random.default_rng(seed)
    for _ in range(rng.integers(1, 3)):
        end = len(data) if rng.random() < 0.5 else min(64, len(data))
        where, length = (int(rng.integers(0, most + 1)) for most in (end, 40))
        old = data[where : where + length]
        match rng.integers(9):
            case 0 | 1:
                flipped = bytes([data[where] ^ 1 << rng.integers(8)]) if where < len(data) else b""
                data = data[:where] + flipped + data[where + 1 :]
            case 2:
                data = data[:where]
            case 3:
                data = data[:where] + data[where + length :]
            case 4:
                to = int(rng.integers(0, len(data) + 1))
                data = data[:to] + old + data[to:]
            case 5:
                size = 2 ** int(rng.integers(4))
                value = rng.choice([b"", b"\x7f", b"\x80", b"\xff"]) * size
                data = data[:where] + value + data[where + size :]
            case 6:
                size = 2 ** int(rng.integers(1, 4))
                data = data[:where] + data[where : where + size][::-1] + data[where + size :]
            case 7:
                data = data[:where] + rng.bytes(length) + data[where + (length if rng.random() < 0.5 else 0) :]
            case 8:  # a word or a number of a text
                words = list(re.finditer(rb'"[^"\n]*"|[\w.+-]+', data[: 10**5]))
                if words:
                    word = words[rng.integers(len(words))]
                    data = data[: word.start()] + ODD[rng.integers(len(ODD))] + data[word.end() :]
    return data if rng.random() < 0.98 else b""


@dataclass(frozen=True)
class Kind:
    """What is damaged, and how it is read."""

    path: Path
    bases: Sequence[bytes]  # valid, or made to do harm
    read: Callable[[], Any]
    exact: bool = False  # a hash in or beside it shows any change of its values
    inside: Path | None = None  # where reading it may write, if not only in its folder
    named: str = ""  # what else an error may call it


def digest(array: np.ndarray) -> tuple[tuple[int, ...], str]:
    return array.shape, hashlib.sha256(array).hexdigest()


def pictures(folder: Path) -> Iterator[tuple[str, Kind]]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (24, 20, 3), np.uint8)
    smooth = np.linspace(0, 255, 3 * 24 * 20).reshape(24, 20, 3).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.arange(4 * 480, dtype=np.uint16).reshape(4, 480) * 30
    labels = make_labels(20, 24, 7)

    def encoded(image: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
        picture, buffer = Image.fromarray(image), io.BytesIO()
        (picture.convert(mode) if mode else picture).save(buffer, kind, **options)
        return buffer.getvalue()

    def read(path: Path):
        return lambda: (digest(read_image(path)), read_image(path, side=8).shape, read_header(path))

    yield (
        "JPEG",
        Kind(
            path := folder / "photo.jpg",
            [
                encoded(smooth, "JPEG", exif=exif),
                encoded(noise, "JPEG", progressive=True),
                encoded(noise, "JPEG", "CMYK"),
            ],
            read(path),
        ),
    )
    yield "PNG", Kind(
        path := folder / "photo.png",
        [encoded(noise, "PNG", exif=exif), encoded(smooth, "PNG", "P"), encoded(noise, "PNG", "RGBA"),
         encoded(deep, "PNG")],
        read(path),
    )  # fmt: skip
    ways = (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg")
    yield (
        "TIFF",
        Kind(
            path := folder / "photo.tif",
            [*(encoded(smooth, "TIFF", compression=way, exif=exif) for way in ways), encoded(deep, "TIFF")],
            read(path),
        ),
    )

    def read_map(path: Path):
        return lambda: (digest(read_labels(path, 21)), read_header(path, labels=True, voc_labels=21))

    maps = [png(labels), png(labels, palette=False), encoded(labels, "PNG", "1"), encoded(deep % 21, "PNG")]
    yield "PNG, labels", Kind(path := folder / "labels.png", maps, read_map(path))
    lossless = [encoded(labels, "TIFF", compression=way) for way in ways[:4]]
    yield (
        "TIFF, labels",
        Kind(
            path := folder / "labels.tif",
            [*lossless, encoded(labels, "TIFF", "1", compression="group4")],
            read_map(path),
        ),
    )


def weights(folder: Path) -> Iterator[tuple[str, Kind]]:
    run = train_or_load("net", tiny_net(), *SETS, tiny_recipe())
    step = run.info["best_step"]

    def checkpoint(parts: tuple[str, ...] = ("model",)):
        def read():
            found = checkpoints.read(run.folder, step, parts)
            return found.info, {name: tensor.tolist() for part in found.parts.values() for name, tensor in part.items()}

        return read

    yield "safetensors, checkpoint", Kind(run.weights, [run.weights.read_bytes()], checkpoint(), exact=True)
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3).half(), "b": torch.ones(4, dtype=torch.int64)}
    file = folder / "weights.safetensors"
    yield (
        "safetensors, weights",
        Kind(file, [save(tensors, {"steps": "3"})], lambda: {k: v.tolist() for k, v in read_weights(file).items()}),
    )
    kept = {"features.0": torch.rand(1, 2, 3, 3).half(), "sizes": torch.tensor([[40, 40], [64, 64]])}
    embedding = folder / "embedding.safetensors"
    yield (
        "safetensors, embedding",
        Kind(
            embedding,
            [save(kept, {"sha256": _hash(kept)})],
            lambda: ((found := _read(embedding)).size, found.seen, [part.tolist() for part in found.features]),
            exact=True,
        ),
    )
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    published = folder / "checkpoints" / f"net-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    published.parent.mkdir()

    def read_published():
        url = property(lambda _: f"https://localhost/{published.name}")
        with (
            patch.object(torch.hub, "get_dir", lambda: str(folder)),
            patch.object(ResNet18_Weights, "url", url),
            patch.object(encoders, "reachable", lambda _: False),
        ):
            state = published_state("resnet18", "ImageNet's")
        return state and {name: tensor.tolist() for name, tensor in state.items()}

    yield "pth, published weights", Kind(published, [buffer.getvalue()], read_published, exact=True)
    facts = run.folder / f"step-{step:08d}.json"
    yield "JSON, checkpoint", Kind(facts, [facts.read_bytes()], checkpoint(()), exact=True)
    yield (
        "JSON, run.json",
        Kind(
            run.folder / "run.json",
            [(run.folder / "run.json").read_bytes()],
            lambda: [one.facts for one in finished_runs("net", *SETS, tiny_recipe())],
            exact=True,
        ),
    )
    log = folder / "log.csv"
    text = (run.folder / "log.csv").read_bytes()
    spreadsheet = text.replace(b",", b";").replace(b".", b",")
    yield "CSV, log.csv", Kind(log, [text, spreadsheet, b"\xef\xbb\xbf" + text], lambda: History.read(log).rows)


def texts(folder: Path) -> Iterator[tuple[str, Kind]]:
    protocol = Protocol("scenes", "val", 30, 3, labels="1f", size="128x128")
    table = ResultsTable(folder / f"results-{protocol.key}.json")
    table.path.parent.mkdir(exist_ok=True)
    scored = {"mean_iou": 0.5, "mean_iou_low": 0.4, "mean_iou_high": 0.6, "class_iou": [0.1, None, 0.3]}
    with patch.dict(os.environ, LAB_PROFILE="smoke"):
        table._merged(Row("FCN-8s", protocol, **scored, parameters=2_000_000, inference_ms=1.5, cost_size="64 x 64"))
        table._merged(Row("Mask R-CNN", protocol, average_precision={"mask_ap": 0.5, "box_ap": None}))

    def shown():
        found = ResultsTable(table.path)
        return found.to_markdown(), found._repr_html_(), found.to_latex(), found.to_csv(), found.rows

    yield "JSON, results table", Kind(table.path, [table.path.read_bytes()], shown)
    scenes = make_scenes(folder / "scenes", (1, 1), size=64)
    record = scenes / "scenes.json"
    yield (
        "JSON, scenes.json",
        Kind(record, [record.read_bytes()], lambda: make_scenes(scenes, (1, 1), size=64), exact=True),
    )
    voc = make_tiny_voc(folder / "voc")
    dataset = VOCSegmentation(voc, "train")
    home = Path(os.environ["LAB_HOME"]) / "data" / "statistics"
    class_statistics(dataset)
    counts = home / f"{dataset.fingerprint()}.json"
    yield (
        "JSON, class counts",
        Kind(counts, [counts.read_bytes()], lambda: class_statistics(dataset).image_pixels.tolist(), exact=True),
    )
    files, cache = sorted(voc.rglob("*.png")), folder / "files.json"
    for path in files:
        os.utime(path, (0, 0))
    with patch("labhelpers.files.time.time_ns", lambda: 2**62):
        file_hashes(files, cache)
    yield (
        "JSON, hashes of files",
        Kind(cache, [cache.read_bytes()], lambda: [*file_hashes(files, cache).values()], exact=True),
    )
    stored = folder / "benchmarks.json"

    def read_benchmark():
        with patch.object(plans, "BENCHMARKS", stored):
            return plans.benchmark("unet")

    yield "JSON, benchmarks", Kind(stored, [plans.BENCHMARKS.read_bytes()], read_benchmark)
    names = voc / "ImageSets/Segmentation/train.txt"
    listed = "2007_000032\n2007_000039\r\n\n2007_000063.jpg\n"
    yield (
        "list of a split",
        Kind(
            names,
            [listed.encode(way) for way in ("utf-8", "utf-8-sig", "utf-16")],
            lambda: VOCSegmentation(voc, "train").ids,
        ),
    )
    classes = folder / "classes.txt"
    yield "list of classes", Kind(classes, ["# names\nWand\nTür\nvoid\n".encode()], lambda: read_class_names(classes))


def toy_notebook(answer: str = "def f(x):\n    return x") -> bytes:
    about = {"nbgrader": {"grade": False, "solution": True, "grade_id": "01-f", "schema_version": 3}}
    cells = [nbformat.v4.new_markdown_cell("# Toy"), nbformat.v4.new_code_cell(answer, metadata=about)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells)).encode()


def zipped(files: dict[str, bytes | tuple[int, bytes]]) -> bytes:
    """A ZIP; a pair is the mode of an entry, such as a symlink's, and its content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            mode, content = data if isinstance(data, tuple) else (stat.S_IFREG | 0o644, data)
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def overlapping(count: int, size: int) -> bytes:
    """A ZIP whose entries all have the same compressed bytes: `count` times `size` from a file of some kB."""
    one = zipped({"01_toy.ipynb": bytes(size)})
    directory = one[one.index(b"PK\1\2") : one.index(b"PK\5\6")]
    end = bytearray(one[one.index(b"PK\5\6") :])
    end[8:16] = count.to_bytes(2, "little") * 2 + (count * len(directory)).to_bytes(4, "little")
    return one[: one.index(b"PK\1\2")] + directory * count + bytes(end)


def handed_in(folder: Path) -> Iterator[tuple[str, Kind]]:
    toy, place = toy_notebook(), folder / "submitted" / "ann"
    given = nbformat.reads(toy, as_version=4)
    place.mkdir(parents=True)

    def read():
        [one] = grade.submissions(place.parent, ["01_toy"])
        for note in one.notes:
            print(f"{one.student}: {note}")
        merged = [grade.merge(given, notebook)[0] for notebook in one.notebooks.values()]
        return merged, one.report, one.notes

    yield "JSON, notebook", Kind(place / "01_toy.ipynb", [toy, toy_notebook("x = 1\n" * 50)], read, named="ann: ")
    hostile = {
        "ZIP": {"lab05_a_b/notebooks/01_toy.ipynb": toy, "lab05_a_b/report.pdf": b"%PDF"},
        "ZIP, path traversal": {
            "../../../../evil/01_toy.ipynb": toy,
            "/evil/report.pdf": b"%PDF",
            "..\\01_x.ipynb": b"",
        },
        "ZIP, symlink": {"01_toy.ipynb": (stat.S_IFLNK | 0o777, b"/etc/passwd"), "a/01_toy.ipynb": toy},
        "ZIP, bomb": {"01_toy.ipynb": bytes(6 * 10**7), "01_other.ipynb": b"[" * 10**6},
    }
    for name, files in hostile.items():
        bases = [zipped(files)] + ([overlapping(2000, 10**7)] if "bomb" in name else [])
        yield name, Kind(place / "all.zip", bases, read, named="ann: ")


def tarred(
    files: dict[str, bytes], links: Sequence[tuple[str, bytes, str]] = (), lies: Mapping[str, int] | None = None
) -> bytes:
    """A tar of links (name, kind, where to), then files, then names with the size that they claim and nothing else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, leads in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, leads
            tar.addfile(info)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, size in (lies or {}).items():
            info = tarfile.TarInfo(name)
            info.size = size
            head = info.tobuf()  # Python 3.13's addfile no longer writes one without its file
            buffer.write(head)
            tar.offset += len(head)
    return buffer.getvalue()


def fetched(folder: Path) -> Iterator[tuple[str, Kind]]:
    """Archives whose hash is the one that is expected, so that what unpacks them sees all of the damage."""
    source, root = folder / "source", folder / "data"
    source.mkdir()
    inside, lists = "VOCdevkit/VOC2012/", "VOCdevkit/VOC2012/ImageSets/Segmentation/"
    voc, sbd = voc_files(source), sbd_files(source)
    evil = {f"{lists}{split}.txt": b"../../../../evil\n" for split in ("train", "val", "trainval")}
    for kind, end in (("JPEGImages", "jpg"), ("SegmentationClass", "png"), ("SegmentationObject", "png")):
        evil[f"{inside}{kind}/../../../../evil.{end}"] = b"x"
    links = [
        (f"{inside}JPEGImages", tarfile.SYMTYPE, str(folder)),
        (f"{lists}train.txt", tarfile.LNKTYPE, "/etc/passwd"),
        (f"{lists}val.txt", tarfile.CHRTYPE, ""),
        ("fifo", tarfile.FIFOTYPE, ""),
    ]
    bases = {
        "tar": ("voc.tar", [tarred(voc)]),
        "tar, path traversal": ("voc.tar", [tarred(evil)]),
        "tar, links and devices": ("voc.tar", [tarred(voc, [link]) for link in links]),
        "tar, bomb": ("voc.tar", [tarred(voc, lies={f"{lists}train.txt": 10**10})]),
        "tgz": ("sbd.tgz", [gzip.compress(tarred(sbd), 1, mtime=0)]),
        "tgz, damaged before it was compressed": ("sbd.tgz", [tarred(sbd)]),
        "tgz, bomb": ("sbd.tgz", [gzip.compress(tarred({"a/dataset/img/x.jpg": bytes(3 * 10**7)}), 1, mtime=0)]),
    }

    def read_archive(path: Path, sbd: bool, compress: bool):
        def read():
            target = root / "VOCdevkit"
            shutil.rmtree(target, ignore_errors=True)
            if sbd:
                make_tiny_voc(target / "VOC2012")
                files = {p.relative_to(target / "VOC2012").as_posix(): download._size_and_checksum(p)
                         for p in target.rglob("*.*")}  # fmt: skip
                (target / "VOC2012/voc2012-manifest.json").write_text(json.dumps(files))
            if compress:
                path.write_bytes(gzip.compress(path.read_bytes(), 1, mtime=0))
            data = path.read_bytes()
            archive = download.Archive(path.name, ("http://127.0.0.1:9/x",), hashlib.md5(data).hexdigest(), len(data))
            with patch.dict(download.ARCHIVES, {"sbd" if sbd else "voc2012": archive}):
                found = download.fetch_sbd(root) if sbd else download.fetch_voc(root)
            return {p.relative_to(found).as_posix(): p.read_bytes() for p in sorted(found.rglob("*")) if p.is_file()}

        return read

    for name, (file, kinds) in bases.items():
        read = read_archive(root / file, file == "sbd.tgz", "before" in name)
        yield name, Kind(root / file, kinds, read, inside=root)
    make_tiny_voc(root / "VOCdevkit/VOC2012")
    kept = root / "VOCdevkit/VOC2012/voc2012-manifest.json"
    files = {p.relative_to(kept.parent).as_posix(): download._size_and_checksum(p) for p in kept.parent.rglob("*.*")}

    def read_manifest():
        (root / "voc.tar").unlink(missing_ok=True)
        nowhere = download.Archive("voc.tar", ("http://127.0.0.1:9/x",), "0" * 32, 1)
        with patch.dict(download.ARCHIVES, voc2012=nowhere):
            return download.fetch_voc(root)

    yield "JSON, manifest of a download", Kind(kept, [json.dumps(sealed(files)).encode()], read_manifest, inside=root)


GROUPS = (pictures, weights, texts, handed_in, fetched)


def all_kinds(folder: Path) -> dict[str, Kind]:
    """Every kind by its name; each group has its own folder below `folder`."""
    found = {}
    for group in GROUPS:
        (folder / group.__name__).mkdir(parents=True)
        found |= dict(group(folder / group.__name__))
    return found


def told(kind: Kind) -> tuple[Any, str, BaseException | None]:
    """What reading gives, what it says, and what it raises."""
    said, value, error = io.StringIO(), None, None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter("always")
        try:
            value = kind.read()
        except Exception as raised:
            error = raised
    return value, said.getvalue() + "".join(str(w.message) for w in ws) + str(error or ""), error


def outcome(kind: Kind, seed: int, whole: Sequence[Any]) -> tuple[str, str]:
    """What comes of a damaged file, one of `OUTCOMES`, and what was said."""
    base = seed % len(kind.bases)
    kind.path.parent.mkdir(parents=True, exist_ok=True)
    kind.path.write_bytes(damaged(kind.bases[base], seed))
    value, said, error = told(kind)
    kind.path.write_bytes(kind.bases[base])  # other kinds may need it
    if isinstance(error, MemoryError):
        return "memory", said
    names = any(name in said for name in (kind.path.name, str(kind.path.parent), kind.named) if name)
    if error is not None and isinstance(error, (ValueError, FileNotFoundError, RuntimeError)) and names:
        return "error with its name", said
    if error is not None:
        return "other error", f"{type(error).__name__}: {said}"
    if repr(value) == whole[base]:
        return "as it was", said
    return ("error with its name" if names else "unnoticed" if kind.exact else "other values"), said


def wholes(kind: Kind) -> list[str]:
    """What the undamaged files give, as text."""
    found = []
    for base in kind.bases:
        kind.path.parent.mkdir(parents=True, exist_ok=True)
        kind.path.write_bytes(base)
        found.append(repr(told(kind)[0]))
    return found


def watch(allowed: Sequence[Path], caught: list[str]) -> None:
    """Notes from here on what is written outside of some folders, and what pickles load."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    changing = {"os.mkdir", "os.rename", "os.symlink", "os.link", "os.remove", "os.rmdir", "os.truncate", "os.chmod"}

    def hook(event: str, arguments: tuple) -> None:
        if event == "pickle.find_class":
            caught.append(f"pickle: {arguments}")
        if event in changing or (event == "open" and arguments[2] & writing):
            for path in arguments[: 1 if event == "open" else 2]:
                if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path) != os.devnull:
                    near = isinstance(arguments[-1], int) and event != "open" and arguments[-1] >= 0  # dir_fd
                    real = Path(os.path.realpath(f"/proc/self/fd/{arguments[-1]}" if near else "."), os.fsdecode(path))
                    real = Path(os.path.realpath(real))
                    if not any(real.is_relative_to(folder) for folder in allowed):
                        caught.append(f"written outside: {event} {real}")

    sys.addaudithook(hook)


def child(pipe: Connection, kind: Kind, seeds: range) -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + SPARE, size + SPARE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole, caught = wholes(kind), []
    watch([kind.inside or kind.path.parent, Path(tempfile.gettempdir()), Path(os.environ["LAB_HOME"])], caught)
    for seed in seeds:
        caught.clear()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # ends the process, also where it never returns to Python
        found, said = outcome(kind, seed, whole)
        if caught:
            found, said = caught[0].partition(":")[0], caught[0]
        pipe.send((found, said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def run(name: str, kind: Kind, count: int) -> tuple[Counter, int]:
    """Reads `count` damaged files; how often each outcome came, and the highest peak of memory in kB."""
    counts: Counter = Counter()
    context, peak, seed = multiprocessing.get_context("fork"), 0, 0
    while seed < count:
        here, there = context.Pipe()
        process = context.Process(target=child, args=(there, kind, range(seed, count)))
        process.start()
        there.close()
        found = ""
        while seed < count and found not in ("crash", "too long"):
            try:
                found, said, used = here.recv() if here.poll(PATIENCE) else ("too long", "it waits", 0)
            except EOFError:  # the child has ended
                process.join()
                found = "too long" if process.exitcode == -signal.SIGPROF else "crash"
                said, used = f"exit code {process.exitcode}", 0
            counts[found], peak, seed = counts[found] + 1, max(peak, used), seed + 1
            if found not in GOOD:
                print(f"{name}, seed {seed - 1}: {found}: {said[-300:]!r}", file=sys.stderr, flush=True)
        process.kill()
        process.join()
    return counts, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=500, help="damaged files of each kind")
    parser.add_argument("--kinds", nargs="*", default=[""], help="only kinds that begin so")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        os.environ |= {"LAB_HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "no_proxy": "*"}
        (folder / "tmp").mkdir()
        tempfile.tempdir = str(folder / "tmp")
        kinds = all_kinds(folder / "files")
        print(f"| file | {' | '.join(OUTCOMES)} | peak MB |\n|---{'|---:' * (len(OUTCOMES) + 1)}|")
        for name, kind in kinds.items():
            if name.startswith(tuple(options.kinds)):
                counts, peak = run(name, kind, options.files)
                print(f"| {name} | {' | '.join(str(counts[o]) for o in OUTCOMES)} | {peak / 1024:.0f} |", flush=True)


if __name__ == "__main__":
    main()
