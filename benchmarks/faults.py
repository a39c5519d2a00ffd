"""Faults: what was killed, found the disk full, lost a worker or met another process ends as if nothing had happened.

    python benchmarks/faults.py [kills] [full] [workers] [meetings] [notebooks] [--kills 40]

One piece of work writes all that labhelpers writes: a download from a server on loopback, drawn data, counts, a
training with evaluations and checkpoints, a results table. It is disturbed at seeded moments, done again from the
beginning, and all of its files are compared with those of undisturbed work, byte by byte. Prints a table of counts.
"""

import argparse
import builtins
import errno
import hashlib
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401  (what takes seconds to import, before the forks)
import numpy as np
import torch._dynamo  # noqa: F401  (by the first optimizer)

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from test_fetch import make_tar, voc_files  # noqa: E402
from test_processes import ended, fork  # noqa: E402
from tiny_server import serve  # noqa: E402
from training_toys import Squares, free_port, tiny_net, tiny_recipe  # noqa: E402

from labhelpers.data import VOCSegmentation, cache, class_statistics, download, scenes, statistics  # noqa: E402
from labhelpers.evaluation import ResultsTable, evaluate  # noqa: E402
from labhelpers.files import read_json  # noqa: E402
from labhelpers.training import checkpoints, loop, task, train_or_load  # noqa: E402

MOMENTS: dict[str, tuple[Any, str]] = {
    "training step": (loop, "forward_backward"),
    "evaluation": (task, "evaluate"),
    "checkpoint write": (checkpoints, "save"),
    "download": (download, "_continue"),
    "unpacking": (download, "_unpack_voc"),
    "cache building": (scenes, "write"),
    "counting": (statistics, "write_atomic"),
    "table write": (ResultsTable, "_merged"),
}
UNLIKE = {"seconds", "saved_at"}  # what differs between two runs
LABS = Path(__file__).parent.parent / "notebooks"
MINUTE = 60.0


def work(folder: Path, workers: int = 0, callback: Callable[[Any], None] = lambda event: None) -> None:
    """Writes all that labhelpers writes, below `folder`."""
    os.environ["LAB_HOME"] = str(folder)
    download.fetch_voc(folder / "data")
    root = scenes.make_scenes(folder / "data" / "scenes", (6, 3), size=64)
    train_set, val_set = (cache(VOCSegmentation(root, split)) for split in ("train", "val"))
    class_statistics(train_set)
    recipe = tiny_recipe(steps=12, save_every=2, eval_every=3, workers=workers)
    run = train_or_load("net", tiny_net(num_classes=21), train_set, val_set, recipe, callbacks=[callback])
    scored = evaluate(run.model, val_set)
    table = ResultsTable(folder / "checkpoints" / f"results-{scored.protocol.key}.json")
    for name in ("FCN-32s", "FCN-16s", "FCN-8s"):
        table.add(name, scored, seed=0)


def together(folder: Path, rank: int, port: int, callback: Callable[[Any], None] = lambda event: None) -> None:
    """One of two processes that train as one."""
    os.environ |= {"LAB_HOME": str(folder), "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    recipe = tiny_recipe(steps=12, save_every=2, eval_every=3)
    train_or_load("net", tiny_net(norm=False, dropout=0.0), Squares(), Squares(5, "val"), recipe, callbacks=[callback])


def start(function: Callable[..., None], folder: Path, *arguments: Any) -> int:
    """Runs it in a child whose output goes to a file; the exit code tells whether it raised."""

    def quietly() -> None:
        with open(f"{folder}.output", "a") as file, redirect_stdout(file), redirect_stderr(file):
            try:
                function(folder, *arguments)
            except BaseException:
                traceback.print_exc()
                file.flush()
                os._exit(1)

    return fork(quietly)


def output(folder: Path) -> str:
    return Path(f"{folder}.output").read_text()


def contents(folder: Path) -> dict[str, object]:
    """What two runs must agree in: each file's hash, of a checkpoint's bookkeeping all but the times."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        passing = path.suffix in (".lock", ".partial") or path.name in ("lock", "files.json")  # that holds times
        if path.is_file() and not passing:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            if path.name.startswith("step-") and path.suffix == ".json":
                found[name] = {key: value for key, value in read_json(path).items() if key not in UNLIKE}
    return found


def differences(folder: Path, whole: dict[str, object]) -> list[str]:
    found = contents(folder)
    return sorted(name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name))


class Count:
    """Lines of the table: how often something was done, and what was wrong afterwards."""

    def __init__(self) -> None:
        self.lines: dict[str, list[int]] = {}

    def add(self, what: str, folder: Path, code: int, wrong: list[str], unclear: bool = False) -> None:
        """Notes one disturbance: the exit code of what was run again, files that differ, an error without remedy."""
        line = self.lines.setdefault(what, [0, 0, 0, 0])
        for place, found in enumerate((True, code != 0, bool(wrong), unclear)):
            line[place] += found
        if code or wrong or unclear:
            print(f"{what}: exit code {code}, {wrong}, in\n{output(folder)[-1500:]}", file=sys.stderr, flush=True)

    def show(self) -> None:
        """Prints the lines since the last call."""
        for what, line in self.lines.items():
            print(f"| {what} | {' | '.join(map(str, line))} |", flush=True)
        self.lines.clear()


# --- killed ---


def watched(moment: str, number: int, pipe: int) -> None:
    """From here on, the call `number` of a moment writes a byte when it begins, and another when it ends."""
    owner, name = MOMENTS[moment]
    function, calls = getattr(owner, name), []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if number in (0, len(calls)):
            os.write(pipe, b"(")
        try:
            return function(*arguments, **options)
        finally:
            if number in (0, len(calls)):
                os.write(pipe, b")")

    setattr(owner, name, wrapped)


def timed(moment: str, folder: Path) -> tuple[int, float]:
    """How often a moment comes in the work, and how many seconds it takes."""
    reading, writing = os.pipe()

    def child(folder: Path) -> None:
        watched(moment, 0, writing)
        work(folder)

    pid = start(child, folder)
    os.close(writing)
    times = []
    while os.read(reading, 1):
        times.append(time.monotonic())
    os.close(reading)
    assert ended(pid) == 0, output(folder)
    return len(times) // 2, float(np.mean(np.diff(times)[::2]))


def kill(folder: Path, moment: str, number: int, delay: float) -> int:
    """Kills the work in call `number` of a moment, `delay` seconds after it began; returns the exit code."""
    reading, writing = os.pipe()

    def child(folder: Path) -> None:
        watched(moment, number, writing)
        work(folder)

    pid = start(child, folder)
    os.close(writing)
    os.read(reading, 1)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    os.close(reading)
    return ended(pid)


def kills(place: Path, count: Count, whole: dict[str, object], times: int) -> None:
    rng = np.random.default_rng(0)
    each = {moment: timed(moment, place / f"time {moment}") for moment in MOMENTS}
    for trial in range(times):
        moment = list(MOMENTS)[trial % len(MOMENTS)]
        calls, seconds = each[moment]
        folder = place / f"kill {trial}"
        killed = kill(folder, moment, int(rng.integers(1, calls + 1)), float(rng.random()) * seconds)
        if killed != -signal.SIGKILL:
            print(f"{moment}: over before it was killed", file=sys.stderr)
            continue
        code = ended(start(work, folder))
        count.add(f"SIGKILL, {moment}", folder, code, differences(folder, whole))
    kills_of_two(place, count, max(1, times // len(MOMENTS)))


def kills_of_two(place: Path, count: Count, times: int) -> None:
    """Kills one of two processes that train together after a random step, or both."""
    rng = np.random.default_rng(1)

    def both(folder: Path, callback: Callable[[Any], None] = lambda event: None) -> list[int]:
        port = free_port()
        return [start(together, folder, rank, port, callback) for rank in range(2)]

    assert [ended(pid) for pid in both(place / "two")] == [0, 0], output(place / "two")
    whole = contents(place / "two")
    for trial in range(times):
        folder, step, delay = place / f"kill two {trial}", int(rng.integers(1, 12)), float(rng.random()) * 0.02
        reading, writing = os.pipe()

        def tell(event: Any, step: int = step, writing: int = writing) -> None:
            if event.step == step and os.environ["RANK"] == "0":
                os.write(writing, b".")

        pids = both(folder, tell)
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        time.sleep(delay)
        dying = pids if trial % 3 == 2 else [pids[trial % 3]]
        for pid in dying:
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + MINUTE
        left = set(pids)
        while left and time.monotonic() < end:
            left -= {pid for pid in left if os.waitpid(pid, os.WNOHANG)[0]}
            time.sleep(0.02)
        for pid in left:
            print("the other one of two had to be ended", file=sys.stderr)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        code = max(ended(pid) for pid in both(folder))
        count.add("SIGKILL, one or both of two processes", folder, code, differences(folder, whole), bool(left))


# --- the disk is full ---


class Nearly(io.FileIO):
    """A file on a disk with room for `left` more writes; of the next one, half is written."""

    left = 0

    def write(self, data: Any) -> int:
        Nearly.left -= 1
        if Nearly.left >= 0:
            return super().write(data)
        super().write(memoryview(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill(folder: Path, left: int) -> None:
    """From here on, files below the folder are on a disk with room for `left` writes."""
    real, Nearly.left = io.open, left

    def nearly(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        inside = isinstance(file, str | Path) and Path(file).is_relative_to(folder)
        if not inside or not set(mode) & set("wax+"):
            return real(file, mode, buffering, *arguments, **options)
        buffered = io.BufferedWriter(Nearly(file, mode.replace("b", "").replace("t", "")))
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *arguments, **options)

    builtins.open = io.open = nearly  # type: ignore[assignment]


def full(place: Path, count: Count, whole: dict[str, object], _: int) -> None:
    def child(folder: Path, left: int) -> None:
        fill(folder, left)
        work(folder)
        print(f"writes: {left - Nearly.left}")

    folder = place / "roomy"
    assert ended(start(child, folder, 10**9)) == 0, output(folder)
    writes = int(output(folder).rpartition("writes: ")[2])
    for left in range(writes):
        folder = place / f"full {left}"
        failed = ended(start(child, folder, left)) != 0
        last = output(folder).strip().splitlines()[-1]
        clear = not failed or ("No space left on device" in last and str(folder) in last)
        code = ended(start(work, folder))
        what = "disk full, and the work ends" if failed else "disk full, and the work goes on without that file"
        count.add(what, folder, code, differences(folder, whole), not clear)


# --- a worker that dies, two at once ---


def workers(place: Path, count: Count, whole: dict[str, object], _: int) -> None:
    """Kills one of the two processes that prepare batches, after each step."""
    for step in range(1, 9):

        def shoot(event: Any, step: int = step) -> None:
            if event.step == step:
                os.kill(multiprocessing.active_children()[step % 2].pid or 0, signal.SIGKILL)
                time.sleep(0.1)

        folder = place / f"worker {step}"
        failed = ended(start(work, folder, 2, shoot)) != 0
        clear = not failed or "training continues from the last checkpoint in" in output(folder).splitlines()[-1]
        count.add(
            "a loader's worker killed", folder, ended(start(work, folder, 2)), differences(folder, whole), not clear
        )


def meetings(place: Path, count: Count, whole: dict[str, object], _: int) -> None:
    """The same work twice at once, in one folder."""
    rng = np.random.default_rng(2)
    for trial in range(5):
        folder = place / f"meeting {trial}"
        first = start(work, folder)
        time.sleep(float(rng.random()))
        codes = [ended(pid) for pid in (start(work, folder), first)]
        count.add("two runs in one folder", folder, max(codes), differences(folder, whole))


# --- a kernel killed midway ---


def run_lab(path: Path, home: Path, kill_at: float | None = None) -> int:
    """Runs a notebook; with `kill_at` its kernel is killed after that share of its cells. Returns the exit code."""
    command = [sys.executable, "-m", "labhelpers.course.run", str(path), "--out", str(home / "out")]
    environment = {**os.environ, "LAB_HOME": str(home), "LAB_PROFILE": "tiny"}
    with open(f"{home}.output", "a") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, env=environment, text=True)
        for line in process.stdout or ():
            file.write(line)
            done, slash, cells = line.strip().partition(" ")[0].partition("/")
            if kill_at is not None and slash and done.isdigit() and int(done) >= kill_at * int(cells):
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                time.sleep(0.2)  # into the next cell
                os.kill(int(children[0]), signal.SIGKILL)
                kill_at = None
    return process.wait()


def trained(home: Path) -> dict[str, object]:
    return {name: found for name, found in contents(home).items() if name.endswith((".safetensors", "log.csv"))}


def notebooks(place: Path, count: Count, _: dict[str, object], __: int) -> None:
    """Kills the kernel of each lab midway and runs the lab from the top, in the home of the labs before it."""
    rng, whole, home = np.random.default_rng(3), place / "labs", place / "labs killed"
    for path in sorted(LABS.glob("0*.ipynb")):
        assert run_lab(path, whole) == 0, output(whole)[-3000:]
        if run_lab(path, home, float(rng.uniform(0.3, 0.9))) == 0:
            print(f"{path.name}: over before its kernel was killed", file=sys.stderr)
        code, expected, found = run_lab(path, home), trained(whole), trained(home)
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        count.add(f"kernel killed, {path.stem}", home, code, wrong)


PARTS: dict[str, Callable[[Path, Count, dict[str, object], int], None]] = {
    part.__name__: part for part in (kills, workers, meetings, full, notebooks)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--kills", type=int, default=40, help="how many moments")
    options = parser.parse_args()
    count = Count()
    with tempfile.TemporaryDirectory() as name, serve({}) as server:
        place = Path(name).resolve()
        os.environ |= {"no_proxy": "*", "WANDB_MODE": "disabled", "LAB_PROFILE": "smoke"}
        data = make_tar(place / "voc.tar", voc_files(place / "source"))
        server.files["voc.tar"] = data
        url = server.url("slow", "voc.tar")  # in eight pieces
        archive = download.Archive("voc.tar", (url,), hashlib.md5(data).hexdigest(), len(data))
        download.ARCHIVES["voc2012"] = archive
        assert ended(start(work, place / "whole")) == 0, output(place / "whole")
        whole = contents(place / "whole")
        assert ended(start(work, place / "again")) == 0
        assert differences(place / "again", whole) == [], json.dumps(differences(place / "again", whole))
        print(
            "| disturbed | times | lost | not as undisturbed | unclear error |\n|---|---:|---:|---:|---:|", flush=True
        )
        for part in options.parts:
            PARTS[part](place, count, whole, options.kills)
            count.show()


if __name__ == "__main__":
    main()
