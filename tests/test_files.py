"""Files that are whole or absent, and their hashes."""

import builtins
import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labhelpers import files
from labhelpers.files import file_hash, file_hashes, read_lines, write_atomic


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_and_its_folder_appear_whole(tmp_path, sync):
    path = tmp_path / "new" / "file.json"
    for data in (b"first", b"second, longer"):
        write_atomic(path, data, sync)
        assert path.read_bytes() == data
    assert os.listdir(path.parent) == ["file.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, where, error):
    path = tmp_path / "file.json"
    path.write_bytes(b"old")

    def fail(*_):
        raise error

    def unwritable(*arguments, real=open, **options):
        file = real(*arguments, **options)
        monkeypatch.setattr(builtins, "open", real)
        file.close()
        fail()

    if where == "write":
        monkeypatch.setattr(builtins, "open", unwritable)
    else:
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(type(error)):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["file.json"]
    assert path.read_bytes() == b"old"


def test_hash_of_a_file(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert file_hash(tmp_path / "file") == hashlib.sha256(data).hexdigest()
    assert file_hash(tmp_path / "file", "md5") == hashlib.md5(data).hexdigest()


def test_only_what_has_changed_is_read_again(tmp_path, monkeypatch):
    paths, cache, read = [tmp_path / name for name in "abc"], tmp_path / "new" / "hashes.json", []
    monkeypatch.setattr(files, "file_hash", lambda path: read.append(path.name) or file_hash(path))

    def read_now() -> str:
        read.clear()
        assert file_hashes(paths, cache) == {path: file_hash(path) for path in paths}
        return "".join(read)

    for path in paths:
        path.write_bytes(path.name.encode() * 9)
    assert (read_now(), read_now()) == ("abc", "abc")  # so young that the next change may bear the same time
    monkeypatch.setattr(files.time, "time_ns", lambda now=files.time.time_ns: now() + 10**10)
    assert (read_now(), read_now()) == ("abc", "")
    times = paths[1].stat()
    paths[1].write_bytes(b"B" * 9)  # of the same size, in the same inode
    os.utime(paths[1], ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (read_now(), read_now()) == ("b", "")
    cache.write_bytes(b"[damaged")
    assert (read_now(), read_now()) == ("abc", "")
    cache = tmp_path / "a" / "hashes.json"  # where a file is, no folder can be made
    assert (read_now(), read_now()) == ("abc", "abc")


ENCODINGS = {"utf-8": b"", "utf-8-sig": b"", "utf-16": b"", "utf-16-le": b"", "utf-16-be": b"\xfe\xff"}
LINES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"], exclude_characters="\ufeff"))


@given(st.lists(LINES, min_size=1), st.sampled_from(sorted(ENCODINGS)), st.sampled_from(["\n", "\r\n", " \t\r\n"]))
def test_lines_are_read_whatever_editor_wrote_them(tmp_path_factory, lines, encoding, end):
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_bytes(ENCODINGS[encoding] + "".join(line + end for line in lines).encode(encoding))
    assert read_lines(path) == lines


@pytest.mark.parametrize("encoding", ["cp1252", "cp1251", "utf-32"])
def test_other_encodings_are_not_guessed(tmp_path, encoding):
    path = tmp_path / "list.txt"
    path.write_bytes({"cp1251": "небо"}.get(encoding, "Straße\n").encode(encoding))
    with pytest.raises(ValueError, match=r"list\.txt is neither UTF-8 nor .* save it as UTF-8"):
        read_lines(path)
