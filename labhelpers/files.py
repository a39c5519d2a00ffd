"""Files that are whole or absent, the hash of a file, and whether a host can be reached within about a second."""

import hashlib
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

CONNECT_SECONDS = 1.0  # an address that does not answer by then counts as unreachable


def write_atomic(path: Path, data: bytes, sync: bool = True) -> None:
    """Write a file that is there with all its bytes or, whatever happens, not at all; an older one stays till then.

    Its folder is made when needed. A process that is killed leaves a file that ends in ".partial".

    Args:
        sync: wait until the disk has the data, which takes milliseconds; without it, only a power cut can lose them.

    Raises:
        OSError: the disk is full or not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # two processes do not write into each other's
    try:
        with open(partial, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal hash of a file's bytes, by any algorithm of hashlib."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def reachable(url: str, seconds: float = CONNECT_SECONDS) -> bool:
    """Whether a connection to the host of `url` succeeds within `seconds`."""
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

    threads = [threading.Thread(target=attempt, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    answers = {url: outcome.get(url, f"no connection within {seconds:g} s") for url in urls}
    return {url: reason for url, reason in answers.items() if reason is not None}


def _host_and_port(url: str) -> tuple[str, int]:
    """Where a request for `url` connects to: the proxy the environment names for it, else its own host."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
