"""Files that are whole or absent, locks, hashes, text and JSON, and whether a host can be reached in a second."""

import codecs
import hashlib
import io
import json
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_SEAL = "seal"
CONNECT_SECONDS = 1.0  # an address that does not answer by then counts as unreachable


def write_atomic(path: Path, data: bytes, sync: bool = True) -> None:
    """Write a file that is there with all its bytes or, whatever happens, not at all; an older one stays till then.

    Its folder is made when needed. A process that is killed leaves a file that ends in ".partial".

    Args:
        sync: wait until the disk has the data, which takes milliseconds; without it, only a power cut can lose them.

    Raises:
        OSError: the disk is full or not writable; names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # two processes do not write into each other's
    try:
        with named(path):
            with open(partial, "wb") as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Inside, the system's errors name a file: where the disk is full, they do not say by themselves which one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def set_aside(path: Path) -> Path:
    """Renames a damaged file to `damaged-1-` and its name, or 2, 3, ... where there are such; returns the new path."""
    free = (path.with_name(f"damaged-{number}-{path.name}") for number in count(1))
    return path.rename(next(aside for aside in free if not aside.exists()))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, made when needed: of all processes that do so, one at a time goes on.

    While another one has it, it says so and waits. The same thread may take it again. The lock is the system's: that of
    a process which ended or was killed holds nobody up. Where there are no locks (some network drives) it says so and
    goes on without.
    """
    from filelock import FileLock, Timeout

    path = path.absolute()
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            holder = path.read_text(errors="replace") if path.exists() else ""
            lock = FileLock(path, is_singleton=True)
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout:
                who = f"process {holder}" if holder.isdigit() else "another process"
                print(f"Waiting for {who}, which is writing in {path.parent}; interrupt to stop waiting.", flush=True)
                stack.enter_context(lock.acquire())
            with suppress(OSError):  # Windows keeps a locked file from being written
                path.write_text(str(os.getpid()))
        except (OSError, NotImplementedError) as error:
            print(f"{path} cannot be locked ({error}): let no other process write there at the same time.")
        yield


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal hash of a file's bytes, by any algorithm of hashlib."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def file_hashes(paths: Iterable[Path], cache: Path) -> dict[Path, str]:
    """The hash of each file's bytes; only files that have changed since the last call with this `cache` are read.

    They have if their size, inode or a time of change is another. Of these times a program can set one back (mtime),
    not the other (ctime). Files younger than two seconds are read each time: a file system's clock may be that coarse.

    Args:
        cache: a JSON file, made when needed. Where it cannot be written, all files are read each time.
    """
    try:
        known = dict(read_json(cache))
    except (OSError, ValueError, TypeError):
        known = {}
    hashes, new, old_enough = {}, {}, time.time_ns() - 2 * 10**9
    for path in paths:
        facts = path.stat()
        state = [facts.st_size, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns]
        key = os.path.abspath(path)
        *before, hashes[path] = known.get(key, [""])
        if before != state:
            hashes[path] = file_hash(path)
            if max(state[2:]) < old_enough:
                new[key] = [*state, hashes[path]]
    if new:
        with suppress(OSError):
            write_atomic(cache, json.dumps(sealed({**known, **new})).encode(), sync=False)
    return hashes


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a hash of itself, for JSON that programs alone write: `read_json` finds any other value in it."""
    text = json.dumps(record, sort_keys=True)
    return {**record, _SEAL: hashlib.sha256(text.encode()).hexdigest()}


def read_json(path: Path) -> Any:
    """What a JSON file holds, without the seal that `sealed` may have put on it.

    Raises:
        OSError: there is no such file.
        ValueError: it is no JSON, or sealed and not as it was written; the message lacks the file's name.
    """
    try:
        found = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("brackets in brackets, too deep to be read") from error
    if isinstance(found, dict) and _SEAL in found:
        seal = found.pop(_SEAL)
        if sealed(found)[_SEAL] != seal:
            raise ValueError("it is not as it was written")
    return found


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without blanks at their ends; line ends may be those of any system.

    The file is UTF-8 or UTF-16, each with or without a byte-order mark. Nothing else is guessed at: what Windows calls
    ANSI differs from country to country.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is in another encoding.
    """
    data = path.read_bytes()
    encoding = "utf-8"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in data:  # half of each line end, digit and Latin letter in UTF-16, and never in UTF-8
        encoding = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    try:
        text = data.decode(encoding).replace("\ufeff", "")  # marks also stand where two files were joined
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-32, or no text at all
        raise ValueError(f"{path} is neither UTF-8 nor UTF-16 text. Open it in an editor and save it as UTF-8.")
    return [line.strip() for line in io.StringIO(text, newline=None)]


def reachable(url: str, seconds: float = CONNECT_SECONDS) -> bool:
    """Whether a connection to the host of `url` succeeds within `seconds`; says when a proxy's address is wrong."""
    try:
        _host_and_port(url)
    except ValueError as error:
        print(error)
    return not connection_problems([url], seconds)


def connection_problems(urls: Sequence[str], seconds: float = CONNECT_SECONDS) -> dict[str, str]:
    """Connect to the hosts of all addresses at the same time; return the reason for each that fails.

    Takes at most `seconds` for all of them together. Looking a name up has no time limit in the standard library, so
    the attempts run in threads that are left behind when the time is over.
    """
    outcome: dict[str, str | None] = {}

    def attempt(url: str) -> None:
        try:
            socket.create_connection(_host_and_port(url), timeout=seconds).close()
            outcome[url] = None
        except OSError as error:
            outcome[url] = f"cannot connect ({error.strerror or error})"
        except ValueError as error:
            outcome[url] = str(error)

    threads = [threading.Thread(target=attempt, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    answers = {url: outcome.get(url, f"no connection within {seconds:g} s") for url in urls}
    return {url: reason for url, reason in answers.items() if reason is not None}


def _host_and_port(url: str) -> tuple[str, int]:
    """Where a request for `url` connects to: the proxy the environment names for it, else its own host.

    Raises:
        ValueError: it is no address; names the variable of a proxy.
    """
    what = f"{url} is no address"
    try:
        parts = urlsplit(url)
        proxy = urllib.request.getproxies().get(parts.scheme)
        if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
            name = next(
                (name for name in os.environ if name.lower() == f"{parts.scheme}_proxy"), "the system's settings"
            )
            what = f"the proxy in {name} is no address: write it as http://host:port, or take it out"
            parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if not parts.hostname:
            raise ValueError("it has no host")
        return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ValueError(f"{what} ({error})") from error
