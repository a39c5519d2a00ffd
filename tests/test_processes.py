"""Killed and continued equals uninterrupted, and two processes train and evaluate as one.

Run as a script, this file trains in children, forked so that torch is imported once: those that kill themselves with
SIGKILL anywhere, each of which continues where the one before it died; then two processes beside one; then two that
want to train the same.
"""

import json
import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_evaluator import Pictures, Pooling
from training_toys import Squares, run_as_script, tiny_net, tiny_recipe

from labhelpers.evaluation import evaluate
from labhelpers.training import checkpoints, task, tracking, train, train_or_load

# Where a child dies: after this step's callback; or while the n-th file of its life is written (half of it on disk),
# or just before or after it gets its name.
KILLS = [
    ("step", 1),  # nothing is saved yet
    ("step", 3),  # saved at 2 and, with an evaluation, at 3
    ("half", 2),  # in the model file of step 4 (file 1 is the log)
    ("half", 3),  # in the optimizer file of step 4
    ("before", 4),  # all of step 4 is there but the JSON's name
    ("after", 4),  # step 4 is complete, nothing is pruned
    ("step", 7),  # one step after saving
    ("evaluation", 1),  # in the evaluation after step 9
    ("half", 6),  # step 9 again: then in the model file of step 10
    ("step", 12),  # done, but not closed
]
STEPS = 12


def main(folder: Path) -> None:
    import accelerate  # noqa: F401  (what takes seconds to import, before the forks)
    import torch._dynamo  # noqa: F401  (by the first optimizer)

    for precision, kills in {"no": KILLS, "bf16": KILLS[3:4]}.items():
        assert ended(fork(train_until, folder / f"whole-{precision}", None, 0, precision)) == 0
        for kill in kills:
            assert ended(fork(train_until, folder / f"killed-{precision}", kill, 2, precision)) == -signal.SIGKILL, kill
        assert ended(fork(train_until, folder / f"killed-{precision}", None, 2, precision)) == 0
    assert ended(fork(lose_a_worker, folder / "killed-worker")) == 0
    assert ended(fork(train_until, folder / "killed-worker", None, 2, "no")) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [("both", rank, 2) for rank in range(2)] + [("one", 0, 1)]
    children = [fork(share, folder, *node, port) for node in nodes]
    assert [ended(child) for child in children] == [0, 0, 0]
    for dies in (False, True):
        place = folder / f"meet-{dies}"
        place.mkdir()
        (place / "second").touch()
        first = fork(meet, place, "first", dies)
        wait_for((place / "there").exists)
        second = fork(meet, place, "second", False)
        wait_for(lambda: "Waiting" in (place / "second").read_text())  # noqa: B023
        (place / "go").touch()
        assert [ended(first), ended(second)] == [-signal.SIGKILL if dies else 0, 0]


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def meet(place: Path, name: str, dies: bool) -> None:
    """Trains "net" and writes to a file what is said; the first of two stays at step 5 until it may go on, or dies."""
    os.environ["LAB_CHECKPOINTS"] = str(place / "checkpoints")

    def stay(event):
        if name == "first" and event.step == 5:
            (place / "there").touch()
            wait_for((place / "go").exists)
            return die() if dies else None

    with open(place / name, "w", buffering=1) as said, redirect_stdout(said):
        print(os.getpid())
        train_or_load("net", tiny_net(), Squares(), Squares(4, "val"), tiny_recipe(workers=1), callbacks=[stay])


def fork(work, *arguments) -> int:
    child = os.fork()
    if not child:
        work(*arguments)
        os._exit(0)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train_until(folder: Path, kill: tuple[str, int] | None, workers: int, precision: str) -> None:
    callbacks = []
    where, count = kill or ("", 0)
    if where == "step":
        callbacks.append(lambda event: die() if event.step == count else None)
    elif where == "evaluation":
        task.evaluate = lambda *args, **options: die()
    elif where:
        checkpoints.write_atomic = deadly_write(checkpoints.write_atomic, where, count)
        tracking.write_atomic = checkpoints.write_atomic
    recipe = tiny_recipe(steps=STEPS, save_every=2, eval_every=3, workers=workers, precision=precision)
    train(tiny_net(), Squares(), Squares(3, "val"), recipe, folder, callbacks=callbacks)


def lose_a_worker(folder: Path) -> None:
    def shoot(event):
        if event.step == 3:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    recipe = tiny_recipe(steps=STEPS, save_every=2, eval_every=3, workers=2)
    try:
        train(tiny_net(), Squares(), Squares(3, "val"), recipe, folder, callbacks=[shoot])
    except RuntimeError as error:
        (folder / "said").write_text(str(error))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def deadly_write(write, where: str, count: int):
    """`write_atomic` that dies in its `count`-th call."""
    calls = []

    def wrapped(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) < count:
            return write(path, data)
        if where == "after":
            write(path, data)
        else:
            size = len(data) // 2 if where == "half" else len(data)
            path.with_name(path.name + ".partial").write_bytes(data[:size])
        return die()

    return wrapped


RECIPES = {
    "plain": tiny_recipe(clip_norm=0.5, accumulate=2),
    "frozen": tiny_recipe(freeze_encoder_steps=3, precision="bf16"),
}


def share(folder: Path, name: str, rank: int, world: int, port: int) -> None:
    from accelerate import Accelerator

    os.environ["LAB_CHECKPOINTS"] = str(folder / name)
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    for kind, recipe in RECIPES.items():
        # Batch norm and dropout would see parts of the batch.
        run = train_or_load(kind, tiny_net(norm=False, dropout=0.0), Squares(), Squares(5, "val"), recipe)
        save_file(run.model.state_dict(), folder / f"{name}-{rank}-{kind}.safetensors")
    found = evaluate(Pooling(), Pictures(), batch_size=2, accelerator=Accelerator(cpu=True))
    results = {"matrices": found.matrices, "labels": found.protocol.labels, "boundary_iou": found.boundary_iou}
    np.savez(folder / f"{name}-{rank}.npz", **results)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run_as_script(__file__, tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(("killed", "precision"), [("no", "no"), ("bf16", "bf16"), ("worker", "no")])
def test_killed_and_continued_equals_uninterrupted(folder, killed, precision):
    whole, killed = folder / f"whole-{precision}", folder / f"killed-{killed}"
    assert (killed / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
    assert len((whole / "log.csv").read_text().splitlines()) == STEPS + 1
    weights = sorted(path.name for path in whole.glob("*.safetensors"))
    assert weights == sorted(path.name for path in killed.glob("*.safetensors"))
    assert f"step-{STEPS:08d}.model.safetensors" in weights
    for name in weights:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_worker_that_was_killed_is_told(folder):
    place = folder / "killed-worker"
    said = (place / "said").read_text()
    assert said.startswith("a process that prepares batches ended, as when")
    assert said.endswith(f"training continues from the last checkpoint in {place}.")


@pytest.mark.parametrize("kind", ["plain", "frozen"])
def test_two_processes_train_as_one(folder, kind):
    one, first, second = (load_file(folder / f"{name}-{kind}.safetensors") for name in ("one-0", "both-0", "both-1"))
    for name in one:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], one[name], rtol=2e-2 if kind == "frozen" else 1e-4, atol=1e-4)
    infos = [next((folder / name / kind).glob("*/step-00000006.json")).read_text() for name in ("one", "both")]
    whole, part = (json.loads(info)["micro_batch"] for info in infos)
    assert whole == 2 * part  # each process takes half
    logs = [next((folder / name / kind).glob("*/log.csv")).read_text().splitlines() for name in ("one", "both")]
    assert len(logs[0]) == len(logs[1]) == 7
    scores = [[float(x) for x in log[-1].split(",")] for log in logs]
    assert scores[0] == pytest.approx(scores[1], rel=1e-2)


@pytest.mark.parametrize("dies", [False, True])
def test_of_two_that_train_the_same_the_second_waits_and_takes_over_from_one_that_was_killed(folder, dies):
    place = folder / f"meet-{dies}"
    pid, *first = (place / "first").read_text().splitlines()
    _, *second = (place / "second").read_text().splitlines()
    run = next(place.glob("checkpoints/net/*/run.json")).parent
    assert second[0] == f"Waiting for process {pid}, which is writing in {run}; interrupt to stop waiting."
    assert re.match(r"net: continued from step 4 \(now" if dies else r"net: loaded \(trained 20", second[-1])
    assert bool(first) is not dies
    assert (run / "log.csv").read_bytes() == next(folder.glob("meet-False/checkpoints/net/*/log.csv")).read_bytes()
    assert len((run / "log.csv").read_text().splitlines()) == 1 + 6


def test_two_processes_share_the_images_and_agree(folder):
    alone, *both = (np.load(folder / f"{name}.npz") for name in ("one-0", "both-0", "both-1"))
    for shared in both:
        np.testing.assert_equal(dict(shared), dict(alone))
    np.testing.assert_array_equal(alone["matrices"], evaluate(Pooling(), Pictures()).matrices)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
