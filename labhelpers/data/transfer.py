"""Fetch one file from several addresses: resumed where it broke off, checked, moved in place at once."""

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from labhelpers.network import connection_problems

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
    _refuse_full_disk(part, size)
    reasons = connection_problems(urls)
    for url in urls:
        if url in reasons:
            continue
        try:
            _fetch_checked(url, part, hashes, size)
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
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in hashes}
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            for digest in digests.values():
                digest.update(chunk)
    for name, digest in digests.items():
        if digest.hexdigest() != hashes[name].lower():
            return f"{name} {digest.hexdigest()}, expected {hashes[name].lower()}"
    return None


def _refuse_full_disk(part: Path, size: int | None) -> None:
    if size is None:
        return
    free, needed = shutil.disk_usage(part.parent).free, size - _size(part)
    if free < needed:
        raise OSError(
            f"{part.parent} has {free / 1e9:.2f} GB free, but {needed / 1e9:.2f} GB are still to be fetched. "
            "Make room there, or choose another folder."
        )


def _fetch_checked(url: str, part: Path, hashes: dict[str, str], size: int | None) -> None:
    """Complete `part` and check it; a wrong hash may be the old part's fault, so start over once."""
    resumed = _size(part) > 0
    _fetch(url, part, size)
    problem = find_damage(part, hashes, size)
    if problem is not None and resumed:
        part.unlink()
        _fetch(url, part, size)
        problem = find_damage(part, hashes, size)
    if problem is not None:
        part.unlink()
        raise _AddressFailed(f"delivered another file ({problem})")


def _fetch(url: str, part: Path, size: int | None) -> None:
    """Complete `part`, connecting again whenever the connection breaks, as long as that gains ground."""
    fruitless = 0
    while True:
        before = _size(part)
        try:
            _continue(url, part, size)
            return
        except _ConnectionBroke as broken:
            fruitless = 0 if _size(part) - before >= _PROGRESS else fruitless + 1
            if fruitless == ATTEMPTS:
                raise _AddressFailed(f"{broken}; gave up after {ATTEMPTS} connections in a row") from broken
            time.sleep(RETRY_SECONDS * fruitless)


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
        with part.open("ab" if resumes else "wb") as file, _progress(part, done, total) as bar:
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


def _progress(part: Path, done: int, total: int | None):
    from tqdm.auto import tqdm

    return tqdm(desc=part.stem, initial=done, total=total, unit="B", unit_scale=True, unit_divisor=1000)
