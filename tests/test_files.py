"""Files that are whole or absent, and their hashes."""

import builtins
import hashlib
import os

import pytest

from labhelpers.files import file_hash, write_atomic


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
