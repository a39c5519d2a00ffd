"""A process for code that nobody has read: it gets limits of time, memory and files, and where Linux allows it no
network, a file system that it cannot change, and none of the folders that are not its business.

The parent calls `run`; what it starts calls `enter` before it does anything else, and `limit` before it runs that code.
"""

import contextlib
import ctypes
import functools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

MEMORY = 3 * 2**30  # bytes beyond what the libraries take
FILES = 2**28  # bytes in its own folder, which lies in memory; a single file gets a quarter of that
PROCESSES = 256  # threads included
STARTING = 600.0  # seconds until the libraries are imported, on a slow machine that does other things too

# Its own users, mounts, network, messages and processes; when unshare is killed, all that it started ends.
_UNSHARE = ("unshare", "--user", "--map-root-user", "--mount", "--mount-proc", "--net", "--ipc", "--pid", "--fork",
            "--kill-child")  # fmt: skip
_MS_BIND, _MS_REC, _RDONLY, _AT_FDCWD, _AT_RECURSIVE = 0x1000, 0x4000, 1, -100, 0x8000
_NEWUSER, _MOUNT_SETATTR, _NO_NEW_PRIVS = 0x10000000, 442, 38


def run(code: str, job: bytes, seconds: float, hide: Sequence[Path] = ()) -> tuple[bytes, str]:
    """Runs Python code that calls `enter`, with `job` on its standard input, until it ends or is silent for too long.

    Args:
        seconds: how long it may write nothing; the first word may take `STARTING` longer.
        hide: folders that it must not see, the outer ones first.

    Returns:
        What it wrote to its standard output, and why it was stopped, "" if it ended by itself.
    """
    confined = isolated()
    place = Path(tempfile.mkdtemp(prefix="labhelpers-")).resolve()
    needed = {sys.prefix, sys.base_prefix, *filter(os.path.isdir, sys.path), str(Path(__file__).parents[2])}
    settings = {
        "confined": confined,
        "place": str(place),
        # What lies in these folders is somebody's: other processes' files and sockets, keys, the other submissions.
        "hide": [str(p.resolve()) for p in (Path(tempfile.gettempdir()), *_PRIVATE, Path.home(), *hide)],
        "keep": sorted(os.path.realpath(path) for path in needed),
    }
    environment = {
        "PATH": os.defpath, "HOME": str(place), "TMPDIR": str(place), "LANG": "C.UTF-8", "PYTHONPATH": os.pathsep.join(
            filter(os.path.isdir, sys.path)), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": "", "LAB_PROFILE": "tiny",
        "LAB_HOME": str(place), "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [*(_UNSHARE if confined else ()), sys.executable, "-c", code, json.dumps(settings)]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        given.write(job)
        given.seek(0)
        process = subprocess.Popen(
            command, stdin=given, stdout=said, stderr=errors, cwd=place, env=environment, start_new_session=True
        )
        stopped, size, until = "", 0, time.monotonic() + seconds + STARTING
        try:
            while process.poll() is None and not stopped:
                time.sleep(0.02)
                if (now := os.fstat(said.fileno()).st_size) != size:
                    size, until = now, time.monotonic() + seconds
                elif time.monotonic() > until:
                    stopped = f"it was stopped after {seconds:g} seconds, the limit: does a loop never end?"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            shutil.rmtree(place, ignore_errors=True)
        said.seek(0)
        errors.seek(0)
        output = said.read()
        if not output:
            last = errors.read()[-500:].decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"no process could be started for the submitted code: {last or stopped}")
        return output, stopped


@functools.cache
def isolated() -> bool:
    """Whether this system lets an ordinary user shut a process in: Linux 5.12 or newer with user namespaces."""
    code = "from labhelpers.course import sandbox; sandbox._shut_in('/tmp', [], [])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(os.path.isdir, sys.path))}
    try:
        return not subprocess.run(
            [*_UNSHARE, sys.executable, "-c", code], env=environment, capture_output=True
        ).returncode
    except OSError:
        return False


def enter() -> None:
    """Shuts this process in, if `run` found that it can be."""
    settings = json.loads(sys.argv.pop())
    if settings["confined"]:
        _shut_in(settings["place"], settings["hide"], settings["keep"])
        _set_limit("RLIMIT_NPROC", PROCESSES)


def limit(seconds: float) -> None:
    """Sets what this process and those that it starts may take from now on, each of them; there is no way back."""
    _set_limit("RLIMIT_CORE", 0)
    _set_limit("RLIMIT_FSIZE", FILES // 4)
    _set_limit("RLIMIT_CPU", int(20 * seconds) + 60)
    with contextlib.suppress(OSError):  # only Linux says how much it has
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _set_limit("RLIMIT_AS", pages * os.sysconf("SC_PAGE_SIZE") + MEMORY)


def _set_limit(name: str, value: int) -> None:
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):  # Windows has none, macOS not all
        import resource

        resource.setrlimit(getattr(resource, name), (value, value))


_PRIVATE = (Path("/tmp"), Path("/var/tmp"), Path("/run"), Path("/dev/shm"), Path("/mnt"), Path("/media"))


def _shut_in(place: str, hide: Sequence[str], keep: Sequence[str]) -> None:
    """In new namespaces: hides folders, makes everything read-only but `place`, and gives up the right to undo it.

    Raises:
        OSError: the kernel does not allow it.
    """
    for folder in dict.fromkeys(hide):
        _hide(Path(folder), [Path(path) for path in keep])
    os.makedirs(place, exist_ok=True)
    _call("mount", b"tmpfs", place.encode(), b"tmpfs", 0, f"size={FILES}".encode())
    _read_only("/", True)
    _read_only(place, False)
    os.chdir(place)
    # Mounts of a namespace can be undone only by its owner, and from here on that is somebody else.
    _call("unshare", _NEWUSER)
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)


def _hide(folder: Path, keep: Sequence[Path]) -> None:
    """Lays an empty folder over one, and what is needed of the old one back into it."""
    if not folder.is_dir():
        return
    inside = [path for path in keep if folder in path.parents]
    inside = [path for path in inside if not any(other in path.parents for other in inside)]
    opened = [os.open(path, os.O_PATH) for path in inside]
    _call("mount", b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=1m")
    for path, number in zip(inside, opened, strict=True):
        path.mkdir(parents=True)
        _call("mount", f"/proc/self/fd/{number}".encode(), bytes(path), None, _MS_BIND | _MS_REC, None)
        os.close(number)


def _read_only(path: str, yes: bool) -> None:
    """Makes a mount read-only, with all those below it, or writable again."""
    attributes = struct.pack("QQQQ", _RDONLY if yes else 0, 0 if yes else _RDONLY, 0, 0)
    _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, attributes, len(attributes))


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
