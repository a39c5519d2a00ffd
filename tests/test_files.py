"""Files that are whole or absent, locks, and hashes."""

import builtins
import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labhelpers import files
from labhelpers.files import file_hash, file_hashes, locked, read_json, read_lines, sealed, set_aside, write_atomic


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_and_its_folder_appear_whole(tmp_path, sync):
    path = tmp_path / "new" / "file.json"
    for data in (b"first", b"second, longer"):
        write_atomic(path, data, sync)
        assert path.read_bytes() == data
    assert os.listdir(path.parent) == ["file.json"]


@pytest.mark.parametrize("make", [lambda: OSError(28, "No space left on device"), KeyboardInterrupt])
@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, where, make):
    error = make()
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
    with pytest.raises(type(error)) as caught:
        write_atomic(path, b"new")
    assert str(caught.value) == (
        "" if isinstance(error, KeyboardInterrupt) else f"[Errno 28] No space left on device: '{path}'"
    )
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["file.json"]
    assert path.read_bytes() == b"old"


def test_a_damaged_file_is_set_aside_and_none_before_it_is_lost(tmp_path):
    for number in (1, 2):
        (tmp_path / "log.csv").write_text(str(number))
        assert set_aside(tmp_path / "log.csv") == tmp_path / f"damaged-{number}-log.csv"
    assert [(tmp_path / f"damaged-{number}-log.csv").read_text() for number in (1, 2)] == ["1", "2"]


HOLDER = """
import os, sys, time
from pathlib import Path
from labhelpers.files import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # as a loader's worker
        if sys.argv[2] == "child ends":
            sys.exit()
        time.sleep(30)
    print("held", flush=True)
    time.sleep(30)
"""


@pytest.mark.parametrize("child", ["child ends", "child stays"])
def test_a_lock_is_waited_for_until_its_process_ends_or_is_killed(tmp_path, capsys, child):
    path = tmp_path / "new" / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path, child], stdout=subprocess.PIPE, process_group=0)
    assert holder.stdout.readline() == b"held\n"
    entered = []

    def enter():
        with locked(path):
            entered.append(time.monotonic())

    waiting = threading.Thread(target=enter)
    waiting.start()
    time.sleep(0.5)
    assert not entered
    killed = time.monotonic()
    holder.kill()
    waiting.join(10)
    os.killpg(holder.pid, signal.SIGKILL)
    holder.wait()
    assert entered[0] - killed < 2, "the child that lives on does not keep it"
    said = f"Waiting for process {holder.pid}, which is writing in {path.parent}; interrupt to stop waiting.\n"
    assert capsys.readouterr().out == said


def test_a_lock_can_be_taken_again_by_its_thread_and_not_by_another(tmp_path):
    path, entered = tmp_path / "lock", []

    def enter():
        with locked(path):
            entered.append(1)

    with locked(path):
        enter()
        other = threading.Thread(target=enter)
        other.start()
        other.join(0.3)
        assert entered == [1]
    other.join(10)
    assert entered == [1, 1]


@pytest.mark.parametrize("error", [errno.ENOTSUP, errno.ENOLCK, errno.EINVAL])
def test_without_locks_it_goes_on_and_says_so(tmp_path, monkeypatch, capsys, error):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "lock"), pytest.raises(OSError, match="^mine$"):
        raise OSError("mine")
    said = f"{tmp_path / 'lock'} cannot be locked ([Errno {error}] {os.strerror(error)})"
    assert capsys.readouterr().out.startswith(said)


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
    for damaged in (b"[damaged", re.sub(rb'[0-9a-f]"', b'x"', cache.read_bytes())):  # no JSON; other hashes
        cache.write_bytes(damaged)
        assert (read_now(), read_now()) == ("abc", "")
    cache = tmp_path / "a" / "hashes.json"  # where a file is, no folder can be made
    assert (read_now(), read_now()) == ("abc", "abc")


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4)


@settings(deadline=None)
@given(st.dictionaries(st.text().filter(lambda key: key != "seal"), VALUES, min_size=1), st.data())
def test_what_was_sealed_is_read_as_it_was_written_or_not_at_all(tmp_path_factory, record, data):
    path, text = tmp_path_factory.mktemp("json") / "record.json", json.dumps(sealed(record))
    path.write_text(text)
    assert repr(read_json(path)) == repr(record)  # as NaN is not itself
    place = data.draw(st.integers(0, text.index('"seal": ')))
    path.write_text(text[:place] + data.draw(st.characters(codec="utf-8")) + text[place + 1 :])
    with suppress(ValueError):
        assert repr(read_json(path)) == repr(record)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\0", b"\xe4", b"[" * 10**5])
def test_what_is_no_json_is_one_kind_of_error(tmp_path, text):
    (tmp_path / "record.json").write_bytes(text)
    with pytest.raises(ValueError):  # noqa: PT011  (the callers' messages name the file)
        read_json(tmp_path / "record.json")


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
