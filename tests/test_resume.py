"""A run killed with SIGKILL anywhere and started again ends with the same bytes as one that was not.

Run as a script, this file trains in forked children (so that torch is imported once) that kill themselves.
"""

import os
import signal
import sys
from pathlib import Path

import pytest
from training_toys import Squares, run_as_script, tiny_net, tiny_recipe

# Where a child dies: after this step's callback; or while the n-th file of its life is written (half of it on disk),
# or just before or after it gets its name. Each child continues where the one before it died.
KILLS = [
    ("step", 1),  # nothing is saved yet
    ("step", 3),  # saved at 2 and, with an evaluation, at 3
    ("half", 2),  # in the model file of step 4 (file 1 is the log, cut to its length)
    ("half", 3),  # in the optimizer file of step 4
    ("before", 4),  # all of step 4 is there but the JSON's name
    ("after", 4),  # step 4 is complete, nothing is pruned
    ("step", 7),  # one step after saving
    ("evaluation", 1),  # in the evaluation after step 9
    ("half", 5),  # step 9 again: then in the model file of step 10
    ("step", 12),  # done, but not closed
]
STEPS = 12


def main(folder: Path) -> None:
    import accelerate  # noqa: F401  (what takes seconds to import, before the forks)
    import safetensors.torch  # noqa: F401
    import torch._dynamo  # noqa: F401  (by the first optimizer)

    from labhelpers.training import checkpoints, task, tracking, train

    def one_run(name: str, kill: tuple[str, int] | None, workers: int, precision: str) -> int:
        """Trains in a child process; returns how it ended."""
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        callbacks = []
        if kill is not None:
            where, count = kill
            if where == "step":
                callbacks.append(lambda event: die() if event.step == count else None)
            elif where == "evaluation":
                task.evaluate = lambda *args, **options: die()
            else:
                checkpoints.write_atomic = deadly_write(checkpoints.write_atomic, where, count)
                tracking.write_atomic = checkpoints.write_atomic
        recipe = tiny_recipe(steps=STEPS, save_every=2, eval_every=3, workers=workers, precision=precision)
        train(tiny_net(), Squares(), Squares(3, "val"), recipe, folder / name, callbacks=callbacks)
        os._exit(0)

    for precision, kills in {"no": KILLS, "bf16": KILLS[3:4]}.items():
        assert one_run(f"whole-{precision}", None, 0, precision) == 0
        for kill in kills:
            assert one_run(f"killed-{precision}", kill, 2, precision) == -signal.SIGKILL, kill
        assert one_run(f"killed-{precision}", None, 2, precision) == 0


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run_as_script(__file__, tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_killed_and_continued_equals_uninterrupted(folder, precision):
    whole, killed = folder / f"whole-{precision}", folder / f"killed-{precision}"
    assert (killed / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()
    assert len((whole / "log.csv").read_text().splitlines()) == STEPS + 1
    weights = sorted(path.name for path in whole.glob("*.safetensors"))
    assert weights == sorted(path.name for path in killed.glob("*.safetensors"))
    assert f"step-{STEPS:08d}.model.safetensors" in weights
    for name in weights:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
