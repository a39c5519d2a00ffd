"""Killed and continued equals uninterrupted, and two processes train and evaluate as one.

Run as a script, this file trains in children, forked so that torch is imported once: those that kill themselves with
SIGKILL anywhere, each of which continues where the one before it died; then two processes beside one, and one after
two; then two of which one dies, or that cannot train together; then two that want to train the same.
"""

import json
import multiprocessing
import os
import re
import signal
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_evaluator import SIZES, Pictures, Pooling
from timm.layers import BatchNormAct2d
from torch import nn
from training_toys import Squares, free_port, run_as_script, tiny_net, tiny_recipe

from labhelpers.data.voc import ObjectDataset
from labhelpers.evaluation import evaluate
from labhelpers.models import BaseMiniSAM, build_encoder
from labhelpers.models.deeplab import PooledBatchNorm2d
from labhelpers.prompting.task import PromptTask, SemanticPromptTask
from labhelpers.training import History, InstanceTask, checkpoints, task, tracking, train, train_or_load
from labhelpers.training.task import CLASS_LABELS, make_accelerator

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
    children = [*together(share, folder, "both"), fork(share, folder, "one")]
    assert [ended(child) for child in children] == [0, 0, 0]
    for name, before, after in (("one-two", alone, together), ("two-one", together, alone)):
        assert {ended(child) for child in before(resume, folder / name, True)} == {-signal.SIGKILL}
        assert {ended(child) for child in after(resume, folder / name, False)} == {0}
    assert {ended(child) for child in together(refuse, folder)} == {0}
    assert ended(fork(launch_one_that_dies, folder)) == 0
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


def alone(work, *arguments) -> list[int]:
    return [fork(work, *arguments)]


def together(work, *arguments) -> list[int]:
    """Two processes that train together, as torchrun would start them on a CPU."""
    port = free_port()

    def as_one_of_two(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        work(*arguments)

    return [fork(as_one_of_two, rank) for rank in range(2)]


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


MASKS = [ObjectDataset(Squares(n, split), by="class") for n, split in ((12, "train"), (5, "val"))]
SETS = Squares(), Squares(5, "val")  # of five images two processes score three and two
ONE_STEP = {"steps": 1, "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0, "schedule": "constant"}
RUNS = {
    "plain": (SETS, tiny_recipe(clip_norm=0.5, accumulate=2), CLASS_LABELS),
    "frozen": (SETS, tiny_recipe(freeze_encoder_steps=3, precision="bf16"), CLASS_LABELS),
    # A step of 1 down the gradient: the weights differ by it, and so by that of a batch twice as large in one process.
    "gradient": (SETS, tiny_recipe(**ONE_STEP, loss="weighted_ce", class_weights=(1.0, 2.0, 3.0)), CLASS_LABELS),
    "prompts": (MASKS, tiny_recipe(steps=2, eval_every=2, lr=1e-3), PromptTask(prompts=2, smallest=20)),
    "semantic": (
        SETS,
        tiny_recipe(steps=2, eval_every=2, lr=1e-3, loss="ce+focal"),
        SemanticPromptTask(freeze_image_encoder=True),
    ),
}


def network(kind: str, seed: int = 0) -> nn.Module:
    """Without batch norm and dropout, which see parts of the batch."""
    if kind not in ("prompts", "semantic"):
        return tiny_net(seed, norm=False, dropout=0.0)
    torch.manual_seed(seed)
    model = BaseMiniSAM(build_encoder("resnet18", width=8), 3 if kind == "semantic" else 1)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, nn.GroupNorm(1, module.num_features))
    return model


def share(folder: Path, name: str) -> None:
    rank = os.environ.get("RANK", "0")
    os.environ["LAB_CHECKPOINTS"] = str(folder / name)
    for kind, (sets, recipe, learned) in RUNS.items():
        run = train_or_load(kind, network(kind), *sets, recipe, task=learned)
        save_file(run.model.state_dict(), folder / f"{name}-{rank}-{kind}.safetensors")
    results = {}
    for images, sizes in (("", SIZES), ("few ", SIZES[:1])):  # of one image a process has none
        found = evaluate(Pooling(), Pictures(sizes), batch_size=2, accelerator=make_accelerator())
        values = {"matrices": found.matrices, "labels": found.protocol.labels, "boundary_iou": found.boundary_iou}
        results |= {images + what: value for what, value in values.items()}
    np.savez(folder / f"{name}-{rank}.npz", **results)


def resume(place: Path, dies: bool) -> None:
    os.environ["LAB_CHECKPOINTS"] = str(place)
    callbacks = [lambda event: die() if dies and event.step == 3 else None]
    sets, recipe, _ = RUNS["plain"]
    run = train_or_load("plain", network("plain"), *sets, recipe, callbacks=callbacks)
    if os.environ.get("RANK", "0") == "0":
        save_file(run.model.state_dict(), place / "end.safetensors")


REFUSED = {
    "sync": (tiny_recipe(sync_batch_norm=True), CLASS_LABELS, "sync_batch_norm=True needs GPUs"),
    "uneven": (tiny_recipe(batch_size=3), CLASS_LABELS, "a batch has 3 images, which 2 processes cannot share evenly"),
    "instances": (tiny_recipe(best_metric="mask_ap"), InstanceTask(), "instances are trained by one process"),
    "unseeded": (tiny_recipe(), CLASS_LABELS, "the 2 processes do not find the same in"),
}


def refuse(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    os.environ["LAB_CHECKPOINTS"] = str(folder / "refused")
    said = {}
    for kind, (recipe, learned, _) in REFUSED.items():
        try:
            train_or_load(kind, network(kind, seed=rank * (kind == "unseeded")), *SETS, recipe, task=learned)
        except (ValueError, RuntimeError) as error:
            said[kind] = str(error)
    (folder / f"refused-{rank}.json").write_text(json.dumps(said))


def launch_one_that_dies(folder: Path) -> None:
    """The second of two dies at step 2, while the first goes on to exchange gradients with it."""
    from accelerate import notebook_launcher

    def work() -> None:
        os.environ["LAB_CHECKPOINTS"] = str(folder / "dies")
        callbacks = [lambda event: die() if event.step == 2 and os.environ["RANK"] == "1" else None]
        train_or_load("dies", network("dies"), *SETS, tiny_recipe(), callbacks=callbacks)

    start = time.monotonic()
    try:
        notebook_launcher(work, num_processes=2, use_port=str(free_port()))
        said = "nothing"
    except Exception as error:
        said = str(error)
    (folder / "dies.json").write_text(json.dumps([time.monotonic() - start, said]))


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


@pytest.mark.parametrize("kind", RUNS)
def test_two_processes_train_as_one(folder, kind):
    one, first, second = (load_file(folder / f"{name}-{kind}.safetensors") for name in ("one-0", "both-0", "both-1"))
    tolerances = {"frozen": {"rtol": 2e-2, "atol": 1e-4}, "gradient": {"rtol": 0, "atol": 1e-5}}
    for name in one:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], one[name], **tolerances.get(kind, {"rtol": 1e-4, "atol": 1e-4}))
    runs = [next((folder / name / kind).glob("*")) for name in ("one", "both")]  # one folder, of the same key
    assert runs[0].name == runs[1].name
    last = f"step-{RUNS[kind][1].steps:08d}.json"
    whole, part = (json.loads((run / last).read_text())["micro_batch"] for run in runs)
    assert whole == 2 * part  # each process takes half
    logs = [History.read(run / "log.csv").rows for run in runs]
    assert len(logs[0]) == len(logs[1]) == RUNS[kind][1].steps
    for here, there in zip(*logs, strict=True):
        assert here == pytest.approx(there, rel=1e-2 if kind == "frozen" else 1e-3, nan_ok=True)


@pytest.mark.parametrize("name", ["one-two", "two-one"])
def test_another_number_of_processes_continues_a_run(folder, name):
    expected, found = load_file(folder / "one-0-plain.safetensors"), load_file(folder / name / "end.safetensors")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    recipe = RUNS["plain"][1]
    (log,) = (folder / name).glob("plain/*/log.csv")
    assert len(History.read(log).rows) == recipe.steps
    micro_batch = checkpoints.read(log.parent, recipe.steps, parts=()).info["micro_batch"]
    processes = 2 if name == "one-two" else 1  # the last ones
    assert micro_batch == recipe.batch_size / recipe.accumulate / processes


@pytest.mark.parametrize("kind", REFUSED)
def test_what_processes_cannot_train_together_both_refuse(folder, kind):
    for rank in range(2):
        assert json.loads((folder / f"refused-{rank}.json").read_text())[kind].startswith(REFUSED[kind][2])


def test_synchronised_batch_norm_shares_all_with_what_is_put_back():
    """Statistics over several GPUs are torch's own; this is what stands around them."""
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 2, 1), PooledBatchNorm2d(2)))
    own, state = list(model.modules()), {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    with task.synchronised_batch_norm(model):
        assert [isinstance(module, nn.SyncBatchNorm) for module in model.modules()] == [False, True, False, False, True]
        assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == state
    assert list(model.modules()) == own


def test_synchronised_batch_norm_keeps_the_activations_of_timms_norms():
    model, images = (
        nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4, act_layer=nn.ReLU6)).eval(),
        torch.randn(2, 3, 8, 8),
    )
    expected = model(images)
    with task.synchronised_batch_norm(model):
        assert isinstance(model[1], nn.SyncBatchNorm)
        assert torch.equal(model(images), expected)
    assert expected.min() == 0


def test_a_process_that_dies_ends_the_others_at_once(folder):
    seconds, said = json.loads((folder / "dies.json").read_text())
    # Whichever the launcher sees first: the signal, or the other process that lost its partner.
    assert re.search(r"Signal 9 \(SIGKILL\) received|Connection (closed|reset) by peer", said)
    assert seconds < 60  # that of starting and training, not the half hour that processes wait for each other
    assert not list(folder.glob("dies/dies/*/step-00000006.json"))


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
