import hashlib
import io
import re
import socket
import tarfile
import threading
import time
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from scipy.io import savemat
from tiny_server import serve
from tiny_voc import TRAIN, VAL, make_labels, make_tiny_voc, save_photo

from labhelpers.data import DownloadError, VOCSegmentation, fetch_sbd, fetch_voc
from labhelpers.data import download as module
from labhelpers.data.download import download

EXTRA = ("2008_000002", "2009_000006")  # images that only SBD has labelled
DATA = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(DATA).hexdigest()
SHA256 = hashlib.sha256(DATA).hexdigest()
THIRD = len(DATA) // 3 + 1  # what a connection that drops brings


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Limits of about a second, and no proxy between the tests and loopback."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "READ_SECONDS", 1.2)  # long enough for a busy machine
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)


@pytest.fixture
def server():
    with serve({"archive.tar": DATA}) as running:
        yield running


BAD = {
    "missing": "HTTP 404",
    "wrong": f"another file (md5 {hashlib.md5(DATA[::-1]).hexdigest()}, expected {MD5})",
    "short": "offers 299,999 bytes, expected 300,000",
    "dead": "after 0 of 300,000 bytes; gave up after 3 connections",
    "silent": "timed out",
    "crawls": "too slow",
}


def get(server, tmp_path, *behaviours, **hashes):
    urls = [server.url(behaviour, "archive.tar") for behaviour in behaviours]
    return download(urls, tmp_path / "archive.tar", **(hashes or {"md5": MD5, "size": len(DATA)}))


def behaviours(server):
    return [behaviour for behaviour, _ in server.requests]


class TestDownload:
    @pytest.mark.parametrize("behaviour", ["good", "slow", "no-length", "moved"])
    @pytest.mark.parametrize("hashes", [{"md5": MD5, "size": len(DATA)}, {"sha256": SHA256}])
    def test_arrives_whole(self, server, tmp_path, behaviour, hashes):
        assert get(server, tmp_path, behaviour, **hashes).read_bytes() == DATA
        assert [p.name for p in tmp_path.iterdir()] == ["archive.tar"]

    @pytest.mark.parametrize(
        ("part", "behaviour", "asked"),
        [
            (b"", "drops", [None, f"bytes={THIRD}-", f"bytes={2 * THIRD}-"]),
            (DATA[:1000], "good", ["bytes=1000-"]),  # a part from an earlier call
            (DATA, "good", []),
            (DATA[:1000], "no-range", ["bytes=1000-"]),  # which the server ignores
            (DATA[:1000], "other-range", ["bytes=1000-", None]),  # the part is thrown away, and all asked for
        ],
    )
    def test_a_part_is_resumed(self, server, tmp_path, part, behaviour, asked):
        if part:
            (tmp_path / "archive.tar.part").write_bytes(part)
        assert get(server, tmp_path, behaviour).read_bytes() == DATA
        assert server.requests == [(behaviour, range) for range in asked]
        assert [p.name for p in tmp_path.iterdir()] == ["archive.tar"]

    def test_an_interrupted_call_keeps_what_arrived(self, server, tmp_path, monkeypatch):
        # In the pause after the first broken connection.
        monkeypatch.setattr(module.time, "sleep", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            get(server, tmp_path, "drops")
        assert (tmp_path / "archive.tar.part").read_bytes() == DATA[:THIRD]

    @pytest.mark.parametrize("part", [b"x" * 1000, b"x" * len(DATA), b"x" * (len(DATA) + 1)])
    @pytest.mark.parametrize("hashes", [{"md5": MD5, "size": len(DATA)}, {"md5": MD5}])
    def test_a_foreign_part_does_not_spoil_the_file(self, server, tmp_path, part, hashes):
        (tmp_path / "archive.tar.part").write_bytes(part)
        assert get(server, tmp_path, "good", **hashes).read_bytes() == DATA
        assert len(server.requests) <= 2

    def test_the_next_address_continues_the_part(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "ATTEMPTS", 1)
        assert get(server, tmp_path, "drops", "good").read_bytes() == DATA
        assert server.requests[1] == ("good", f"bytes={THIRD}-")

    @pytest.mark.parametrize("bad", BAD)
    def test_addresses_are_tried_in_order(self, server, tmp_path, monkeypatch, bad):
        monkeypatch.setattr(module, "RATE_WINDOW_SECONDS", 0.2)
        assert get(server, tmp_path, bad, "good").read_bytes() == DATA
        assert set(behaviours(server)[:-1]) == {bad}
        assert behaviours(server)[-1] == "good"
        assert len(server.requests) <= module.ATTEMPTS + 1

    def test_the_error_lists_each_address_with_its_reason(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "RATE_WINDOW_SECONDS", 0.2)
        with socket.socket() as unused:  # bound but not listening: connections are refused
            unused.bind(("127.0.0.1", 0))
            reasons = {server.url(behaviour, "archive.tar"): reason for behaviour, reason in BAD.items()}
            reasons[f"http://127.0.0.1:{unused.getsockname()[1]}/archive.tar"] = "cannot connect"
            with pytest.raises(DownloadError) as caught:
                download(list(reasons), tmp_path / "archive.tar", md5=MD5, size=len(DATA))
        head, *lines = str(caught.value).splitlines()
        assert "put the file at" in head
        for (url, reason), line in zip(reasons.items(), lines, strict=True):
            assert url in line
            assert reason in line
        assert not (tmp_path / "archive.tar").exists()

    def test_without_a_network_the_decision_takes_about_a_second(self, tmp_path, monkeypatch):
        over = threading.Event()

        def hang(*_, **__):
            over.wait(20)
            raise TimeoutError

        monkeypatch.setattr(socket, "create_connection", hang)
        urls = [f"https://mirror{i}.example/archive.tar" for i in range(6)]
        start = time.monotonic()
        with pytest.raises(DownloadError, match="no connection within 1 s") as caught:
            download(urls, tmp_path / "archive.tar", md5=MD5)
        assert time.monotonic() - start < 2
        assert all(url in str(caught.value) for url in urls)
        over.set()

    def test_the_proxy_is_what_must_be_reachable(self, tmp_path, monkeypatch, server):
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        assert module.connection_problems(["http://no.such.host.invalid/archive.tar"]) == {}
        monkeypatch.setenv("no_proxy", "*")
        assert module.connection_problems(["http://no.such.host.invalid/archive.tar"])

    def test_a_proxy_that_is_no_address_is_named(self, tmp_path, monkeypatch, capfd):
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("http_proxy", "http://localhost:99999")
        with pytest.raises(DownloadError, match="archive.tar: the proxy in http_proxy is no address: write it as"):
            download(["http://no.such.host.invalid/archive.tar"], tmp_path / "archive.tar", md5=MD5)
        assert capfd.readouterr().err == ""

    def test_a_whole_file_needs_no_network(self, server, tmp_path, capsys):
        (tmp_path / "archive.tar").write_bytes(DATA)
        get(server, tmp_path, "good")
        assert server.requests == []
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("damage", [DATA[:-1], b"x" + DATA[1:], b""])
    def test_a_damaged_file_is_fetched_again_and_said(self, server, tmp_path, capsys, damage):
        (tmp_path / "archive.tar").write_bytes(damage)
        assert get(server, tmp_path, "good").read_bytes() == DATA
        assert re.fullmatch(r".*archive\.tar is damaged \(.*\), so it is fetched again\.\n", capsys.readouterr().out)

    def test_a_full_disk_is_found_before_the_download(self, server, tmp_path, monkeypatch):
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(OSError, match=r"0\.00 GB free.*Make room"):
            get(server, tmp_path, "good")
        assert server.requests == []

    def test_a_hash_and_a_known_split_are_needed(self, tmp_path):
        with pytest.raises(ValueError, match="an md5 or sha256"):
            download(["http://127.0.0.1/x"], tmp_path / "x")
        with pytest.raises(ValueError, match="no split 'test'. Known: train, val, trainval, trainaug"):
            fetch_voc(tmp_path, "test")


def make_tar(path, files: dict[str, bytes], mode="w") -> bytes:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path.read_bytes()


def voc_files(folder) -> dict[str, bytes]:
    """The members of a tiny VOC archive: what is wanted, and pictures without label maps, annotations and so on."""
    root = make_tiny_voc(folder / "VOC2012")
    save_photo(root / "JPEGImages/2008_000001.jpg", 20, 20)
    for name, text in (("Annotations/2007_000032.xml", "<annotation/>"), ("ImageSets/Main/train.txt", "2008_000001\n")):
        (root / name).parent.mkdir()
        (root / name).write_text(text)
    paths = sorted((p for p in root.rglob("*") if p.is_file()), reverse=True)  # the lists do not come first
    return {f"VOCdevkit/VOC2012/{p.relative_to(root).as_posix()}": p.read_bytes() for p in paths}


def mat(labels) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {"GTcls": {"Segmentation": labels, "CategoriesPresent": np.unique(labels[labels > 0])}})
    return buffer.getvalue()


def sbd_files(folder) -> dict[str, bytes]:
    """The members of a tiny SBD archive: images of VOC train and val (to be left out) and two of its own."""
    save_photo(folder / "photo.jpg", 24, 18)
    files = {"benchmark_RELEASE/benchmark_code_RELEASE/demo/datadir/cls/2008_000051.mat": b"not this one"}
    for number, item in enumerate((TRAIN[0], VAL[0], *EXTRA)):
        labels = np.where(make_labels(24, 18, number + 11) == number + 11, np.uint8(number + 11), np.uint8(0))
        files[f"benchmark_RELEASE/dataset/cls/{item}.mat"] = mat(labels)
        files[f"benchmark_RELEASE/dataset/img/{item}.jpg"] = (folder / "photo.jpg").read_bytes()
    files["benchmark_RELEASE/dataset/train.txt"] = f"{VAL[0]}\n{EXTRA[1]}\n".encode()
    files["benchmark_RELEASE/dataset/val.txt"] = f"{TRAIN[0]}\n{EXTRA[0]}\n".encode()
    return files


def entry(server, name, data, behaviours=("good",)) -> module.Archive:
    server.files[name] = data
    urls = tuple(server.url(behaviour, name) for behaviour in behaviours)
    return module.Archive(name=name, urls=urls, md5=hashlib.md5(data).hexdigest(), size=len(data))


@pytest.fixture
def archives(server, tmp_path, monkeypatch):
    """The table of archives, replaced by tiny ones on loopback."""
    source = tmp_path / "source"
    source.mkdir()
    table = {
        "voc2012": entry(server, "voc.tar", make_tar(source / "voc.tar", voc_files(source))),
        "sbd": entry(server, "sbd.tgz", make_tar(source / "sbd.tgz", sbd_files(source), "w:gz")),
    }
    monkeypatch.setattr(module, "ARCHIVES", table)
    return table


def tree(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


class TestFetchVOC:
    def test_keeps_the_segmentation_part_and_nothing_else(self, archives, tmp_path):
        root = fetch_voc(tmp_path / "data")
        assert root == tmp_path / "data/VOCdevkit/VOC2012"
        wanted = [f"ImageSets/Segmentation/{split}.txt" for split in ("train", "val", "trainval")]
        kinds = {"JPEGImages": "jpg", "SegmentationClass": "png", "SegmentationObject": "png"}
        wanted += [f"{kind}/{item}.{end}" for kind, end in kinds.items() for item in TRAIN + VAL]
        wanted += ["voc2012-manifest.json"]
        assert tree(tmp_path / "data") == sorted(["download.lock", *(f"VOCdevkit/VOC2012/{name}" for name in wanted)])
        source = tmp_path / "source/VOC2012"
        assert all((root / name).read_bytes() == (source / name).read_bytes() for name in wanted[:-1])
        assert VOCSegmentation(root, "train")[2][1].unique().tolist() == [0, 3, 255]

    def test_neither_an_archive_put_there_by_hand_nor_a_whole_set_is_fetched(self, archives, tmp_path, server, capsys):
        archive = tmp_path / "data/voc.tar"
        archive.parent.mkdir()
        archive.write_bytes(server.files["voc.tar"])
        fetch_voc(tmp_path / "data")
        assert archive.exists()
        archive.unlink()
        capsys.readouterr()
        for split in ("train", "val", "trainval"):
            fetch_voc(tmp_path / "data", split)
        assert server.requests == []
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("change", [lambda data: None, lambda data: data[:-3], lambda data: data[:-1] + b"?"])
    def test_a_damaged_folder_is_completed_and_said(self, archives, tmp_path, capsys, change):
        root = fetch_voc(tmp_path / "data")
        path = root / f"SegmentationClass/{VAL[0]}.png"
        whole = path.read_bytes()
        (root / "notes.txt").write_text("mine")
        path.unlink()
        if change(whole) is not None:
            path.write_bytes(change(whole))
        fetch_voc(tmp_path / "data")
        assert path.read_bytes() == whole
        assert (root / "notes.txt").read_text() == "mine"
        assert re.fullmatch(rf".*{VAL[0]}\.png is missing or damaged, so voc\.tar .*\n", capsys.readouterr().out)
        assert tree(root.parent) == [f"VOC2012/{name}" for name in tree(root)]

    def test_a_damaged_manifest(self, archives, tmp_path):
        manifest = fetch_voc(tmp_path / "data") / "voc2012-manifest.json"
        whole = manifest.read_text()
        manifest.write_text(whole[:100])
        fetch_voc(tmp_path / "data")
        assert manifest.read_text() == whole

    def test_what_an_interrupted_call_left_is_no_data_set(self, archives, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(module, "_move_in", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                fetch_voc(tmp_path / "data")
        assert not (tmp_path / "data/VOCdevkit/VOC2012").exists()
        assert (tmp_path / "data/voc.tar").exists()
        assert len(VOCSegmentation(fetch_voc(tmp_path / "data"), "trainval")) == 5
        assert [p.name for p in (tmp_path / "data/VOCdevkit").iterdir()] == ["VOC2012"]
        assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["VOCdevkit", "download.lock"]

    def test_of_two_at_once_the_second_waits_and_fetches_nothing(self, archives, tmp_path, server):
        archives["voc2012"] = entry(server, "voc.tar", server.files["voc.tar"], ("slow",))
        both = [threading.Thread(target=fetch_voc, args=(tmp_path / "data",)) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join(20)
        assert len(VOCSegmentation(tmp_path / "data/VOCdevkit", "trainval")) == 5
        assert behaviours(server) == ["slow"]

    def test_another_mirror_steps_in(self, archives, tmp_path, server):
        archives["voc2012"] = entry(server, "voc.tar", server.files["voc.tar"], ("missing", "wrong", "good"))
        assert len(VOCSegmentation(fetch_voc(tmp_path / "data"), "val")) == 2
        assert behaviours(server) == ["missing", "wrong", "good"]


class TestFetchSBD:
    def test_trainaug_is_train_and_sbd_without_val(self, archives, tmp_path, server):
        root = fetch_sbd(tmp_path / "data")
        dataset = VOCSegmentation(root, "trainaug")
        assert dataset.ids == [*TRAIN, *EXTRA]
        labels = [target.unique().tolist() for _, target in (dataset[i] for i in range(5))]
        assert labels == [[0, 1, 255], [0, 2, 255], [0, 3, 255], [0, 13], [0, 14]]
        assert sorted(p.stem for p in (root / "SegmentationClassAug").iterdir()) == list(EXTRA)
        assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["VOCdevkit", "download.lock"]
        server.requests.clear()
        assert fetch_voc(tmp_path / "data", "trainaug") == root
        assert server.requests == []


EVIL = {"ImageSets/Segmentation/trainval.txt": b"../../../evil", "JPEGImages/../../../evil.jpg": b"bad"}
EVIL |= {"SegmentationClass/../../../evil.png": b"bad"}


@pytest.mark.parametrize(
    ("fetch", "changes", "message"),
    [
        (fetch_voc, {f"VOCdevkit/VOC2012/{name}": data for name, data in EVIL.items()}, "leads outside"),
        (fetch_voc, {f"VOCdevkit/VOC2012/SegmentationObject/{TRAIN[1]}.png": None},
         rf"does not hold VOC2012/SegmentationObject/{TRAIN[1]}\.png"),
        (fetch_voc, {"VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt": bytes(module.LARGEST + 1)},
         r"voc\.tar holds \S*val\.txt of 20,000,001 bytes"),
        (fetch_voc, {"VOCdevkit/VOC2012/ImageSets/Segmentation/trainval.txt": b"\xff"}, r"voc\.tar cannot be unpacked"),
        (fetch_sbd, {f"benchmark_RELEASE/dataset/cls/{EXTRA[1]}.mat": b"no MATLAB"}, r"sbd\.tgz cannot be unpacked"),
        (fetch_sbd, {f"benchmark_RELEASE/dataset/img/{EXTRA[1]}.jpg": None}, rf"lists {EXTRA[1]} without"),
    ],
)  # fmt: skip
def test_an_archive_with_other_members_is_refused(archives, tmp_path, server, fetch, changes, message):
    key, make = ("voc2012", voc_files) if fetch is fetch_voc else ("sbd", sbd_files)
    files = {name: data for name, data in (make(tmp_path / "bad") | changes).items() if data is not None}
    archives[key] = entry(server, archives[key].name, make_tar(tmp_path / "bad.tar", files))
    with pytest.raises(RuntimeError, match=message):
        fetch(tmp_path / "data")
    lists = tmp_path / "data/VOCdevkit/VOC2012/ImageSets/Segmentation"
    assert not (lists / "trainaug.txt").exists()
    assert lists.exists() == (fetch is fetch_sbd)  # which has fetched VOC before
    assert not list(tmp_path.rglob("evil*"))


def test_the_real_table():
    voc, sbd = module.ARCHIVES["voc2012"], module.ARCHIVES["sbd"]
    assert (voc.md5, voc.size) == ("6cd6e144f989b92b3379bac3b3de84fd", 1_999_639_040)
    assert sbd.md5 == "82b4d87ceb2ed10f6038a1cba92111cb"
    assert "robots.ox.ac.uk" in voc.urls[0]
    for archive in (voc, sbd):
        assert len(set(archive.urls)) == len(archive.urls) >= 2
        assert all(url.endswith(f"/{archive.name}") for url in archive.urls)
