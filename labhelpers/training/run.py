"""Train or load, and say which; what has been trained, found again; and what to try when a model does not learn."""

import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from labhelpers import config
from labhelpers.data.base import SegmentationDataset
from labhelpers.files import read_json, set_aside, write_atomic
from labhelpers.training import checkpoints
from labhelpers.training.checkpoints import DamagedCheckpoint
from labhelpers.training.loop import train
from labhelpers.training.recipe import Recipe, source
from labhelpers.training.task import CLASS_LABELS, Event, Task, alone, make_accelerator
from labhelpers.training.tracking import History, Wandb

# What a run's name, which becomes a folder, must not be: Windows keeps these for devices, with any ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

_LOSSES = ("loss", "step_loss")  # a recipe's, and that of a task with prompts


@dataclass(frozen=True)
class FinishedRun:
    """A finished training on the disk."""

    folder: Path  # log.csv, checkpoints, run.json
    history: History
    facts: dict[str, Any]  # run.json: all that decides about the result, see `describe`, and the run's name
    info: dict[str, Any]  # bookkeeping of the last step: seconds, best_step, best_score, saved_at
    steps: int  # that were made

    @property
    def key(self) -> str:
        """Hash of model, data, loss, recipe and seed."""
        return self.folder.name

    @property
    def minutes(self) -> float:
        """Of the training, interruptions left out."""
        return self.info["seconds"] / 60

    @property
    def weights(self) -> Path:
        """The safetensors file of the best evaluation."""
        return self.folder / f"step-{self.info['best_step']:08d}.model.safetensors"

    def load(self, model: nn.Module) -> nn.Module:
        """Gives the model, of any class, the weights of the best evaluation, by name; in eval mode, where one trains.

        Raises:
            DamagedCheckpoint: a file is missing or altered.
            ValueError: names or shapes differ, which the message tells; the model is untouched.
        """
        best = checkpoints.read(self.folder, self.info["best_step"], parts=("model",))
        checkpoints.load_model(model, best.parts["model"], self.folder)
        return model.to(make_accelerator().device).eval()

    def __str__(self) -> str:
        return f"trained {_day(self.info['saved_at'])} in {self.minutes:.1f} min, key {self.key}"


@dataclass(frozen=True)
class Run(FinishedRun):
    """A trained model, whether it was trained just now or earlier."""

    model: nn.Module  # with the weights of the best evaluation, in eval mode, on the device that trains
    loaded: bool  # True: nothing was trained in this call


def train_or_load(
    name: str,
    model: nn.Module,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    recipe: Recipe,
    *,
    task: Task = CLASS_LABELS,
    callbacks: Sequence[Callable[[Event], None]] = (),
) -> Run:
    """Trains the model, continues an interrupted training, or loads a finished one; says in one line which.

    The run's folder is `checkpoints/<name>/<key>`. The key is a hash of all that decides about the result: the model
    (class, its code if it is the notebook's own, layers, shapes, initial weights), both data sets, task, loss, recipe
    and seed; `run.json` in the folder spells it out. A changed recipe has another key, so that a stale weight is
    never loaded. Build the model right after `torch.manual_seed`: other random weights are another run.

    Another process that trains the same is waited for, and its result loaded. A finished run with a damaged file is
    trained again; the file is set aside, and a sentence says so.

    Raises:
        RuntimeError, ValueError: as `train` does; or the name is none for a folder, or the model is the result of the
            very run that must be trained again. An interrupted or failed call gives the model its initial weights back,
            so that the same call continues from the last checkpoint.
    """
    main = make_accelerator().is_main_process
    facts = {"name": name, **describe(model, train_set, val_set, recipe, task)}
    earlier, now = getattr(model, "_trained_by", None), facts["initial_weights"]
    if earlier is not None and earlier["result"] == now:  # the same cell run twice: the model holds its result already
        again = {**facts, "initial_weights": earlier["initial_weights"]}
        if _key(again) == earlier["key"]:
            facts = again
    folder = runs_folder(name) / _key(facts)
    with alone(folder):
        if main:
            _keep_facts(folder / "run.json", facts)
        try:
            return _load(_finished(folder, facts, recipe), model, recipe, None)
        except DamagedCheckpoint as error:
            if main and error.path != folder:
                kept = f"it is kept as {set_aside(error.path).name}, and " if error.path.exists() else ""
                print(f"{name}: {error}; {kept}the run is trained again.")
                checkpoints.discard_after(folder, 0)
        found = checkpoints.latest(folder)
        if found is None and facts["initial_weights"] != now:
            raise RuntimeError(
                f"{name}: {folder} is lost or damaged, and this model is its result: build it anew first"
            )
        how = "trained (now" if found is None else f"continued from step {found.step} (now"
        initial = {k: v.detach().to("cpu", copy=True) for k, v in model.state_dict().items()}
        try:
            train(model, train_set, val_set, recipe, folder, task=task, callbacks=callbacks, name=name)
        except BaseException as error:
            model.load_state_dict(initial)
            if isinstance(error, KeyboardInterrupt):
                print(
                    f"{name}: interrupted; the same call continues from the last checkpoint (every "
                    f"{recipe.save_every} steps, and at each best evaluation)"
                )
            raise
        if main:
            checkpoints.discard_optimizer(folder)
        return _load(_finished(folder, facts, recipe), model, recipe, how)


def load_finished(
    name: str,
    model: nn.Module,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    recipe: Recipe,
    *,
    task: Task = CLASS_LABELS,
    any_loss: bool = False,
) -> Run | None:
    """Loads what was trained under this name earlier, whatever its class; says so in one line.

    Of the runs that `finished_runs` finds, the newest whose weights have the names and shapes of this model's. The
    initial weights and the class need not be the same, unlike in `train_or_load`: the class of an earlier lab stood in
    that notebook, so its code is part of the run's key, and this one is the library's. That both compute the same is
    what that lab's check was for.

    Returns:
        The run with `loaded=True` and the weights of its best evaluation in the model; None, the model untouched
        and nothing printed, if there is no such run. A warning names what is damaged.
    """
    for run in finished_runs(name, train_set, val_set, recipe, task=task, any_loss=any_loss):
        try:
            return _load(run, model, recipe, None)
        except DamagedCheckpoint as error:
            _pass_over(run.folder, error)
        except ValueError:  # the weights have other names or shapes
            continue
    return None


def finished_runs(
    name: str,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    recipe: Recipe,
    *,
    task: Task = CLASS_LABELS,
    any_loss: bool = False,
) -> list[FinishedRun]:
    """The finished runs of that name with equal data sets, recipe (seed with it) and task, of any class, newest first.

    Unfinished and other ones are passed over, and damaged ones with a warning. Whether the weights are whole is seen
    when they are loaded.

    Args:
        any_loss: the loss need not be the same: where it is an exercise, anybody's own counts.
    """

    def comparable(facts: dict[str, Any]) -> dict[str, Any]:
        """What two runs must agree in."""
        kept = {key: facts[key] for key in ("name", "train_set", "val_set", "recipe")}
        return kept | {"recipe": {k: v for k, v in facts["recipe"].items() if not (any_loss and k in _LOSSES)}}

    wanted = comparable({"name": name, **_circumstances(train_set, val_set, recipe, task)})
    found = []
    for path in runs_folder(name).glob("*/run.json"):
        try:
            facts = read_json(path)
            if _key(facts) != path.parent.name:
                raise ValueError("it is not as it was written")
            if comparable(facts) == wanted:
                found.append(_finished(path.parent, facts, recipe))
        except DamagedCheckpoint as error:
            if error.path != path.parent:
                _pass_over(path.parent, error)
        except (ValueError, TypeError) as error:
            _pass_over(path.parent, f"{path.name} is damaged: {error}")
        except (KeyError, OSError):  # of another version; or just removed
            continue
    return sorted(found, key=lambda run: run.info["saved_at"], reverse=True)


def _pass_over(folder: Path, why: object) -> None:
    warnings.warn(f"the run in {folder} is passed over ({why}); the call that trained it mends it", stacklevel=3)


def _finished(folder: Path, facts: dict[str, Any], recipe: Recipe) -> FinishedRun:
    """The finished run; puts its log, as the checkpoint holds it, back into a `log.csv` that was changed or removed.

    Raises:
        DamagedCheckpoint: the log is not whole; or there is no finished run, `path` is the folder then.
    """
    last = checkpoints.latest(folder, parts=())
    if last is None or not recipe.finished(last.step, last.info["best_step"]):
        raise DamagedCheckpoint(folder, "it holds no finished run")
    path, log = folder / checkpoints.LOG, last.info.pop("log", "")
    try:
        history = History.parse(log)
    except ValueError as error:
        raise DamagedCheckpoint(path, error) from error
    if len(history.rows) != last.step:
        raise DamagedCheckpoint(path, f"it holds {len(history.rows)} of {last.step} rows")
    if make_accelerator().is_main_process:
        _put_back(path, log.encode())
    return FinishedRun(folder, history, facts, last.info, last.step)


def _keep_facts(path: Path, facts: dict[str, Any]) -> None:
    try:
        if read_json(path) == facts:
            return
    except (OSError, ValueError):
        pass
    _put_back(path, json.dumps(facts, indent=1).encode())


def _put_back(path: Path, data: bytes) -> None:
    """Makes `path` hold the data; what it held instead is set aside, and a sentence says so."""
    if path.exists():
        if path.read_bytes() == data:
            return
        try:
            print(f"{path} is not as it was written; it is kept as {set_aside(path).name}, and written anew.")
        except OSError as error:  # whose folder, perhaps, is not ours
            print(f"{path} is not as it was written, and cannot be written anew ({error.strerror}).")
            return
    write_atomic(path, data)


def _load(run: FinishedRun, model: nn.Module, recipe: Recipe, how: str | None) -> Run:
    """Puts the run's weights into the model, and says how they came about; None: loaded."""
    run.load(model)
    trained_by = {"key": run.key, "initial_weights": run.facts["initial_weights"], "result": weights_hash(model)}
    object.__setattr__(model, "_trained_by", trained_by)
    score = abs(run.info["best_score"])  # a loss is kept with a minus, so that more is better
    done = f"{recipe.best_metric} {score:.3f} at step {run.info['best_step']} of {recipe.steps}"
    if run.steps < recipe.steps:
        done += f", stopped early at step {run.steps}"
    if how is None and Wandb.wanted(recipe.wandb):
        done += "; nothing new goes to Weights & Biases"
    if make_accelerator().is_main_process:
        start = how or f"loaded (trained {_day(run.info['saved_at'])}"
        print(f"{run.facts['name']}: {start}, {run.minutes:.1f} min, key {run.key}): {done}")
    return Run(**vars(run), model=model, loaded=how is None)


def describe(
    model: nn.Module,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    recipe: Recipe,
    task: Task = CLASS_LABELS,
) -> dict[str, Any]:
    """What decides about a run's result, as JSON."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    own = {kind for kind in (type(task), *map(type, model.modules())) if kind.__module__ == "__main__"}
    code = {
        kind.__name__: {name: source(method) for name, method in vars(kind).items() if isinstance(method, FunctionType)}
        for kind in own
    }
    text = json.dumps([type(model).__name__, repr(model), shapes, code], sort_keys=True)
    return {
        "model": type(model).__name__,
        "architecture": hashlib.sha256(text.encode()).hexdigest()[:16],
        "initial_weights": weights_hash(model),
        **_circumstances(train_set, val_set, recipe, task),
    }


def _circumstances(
    train_set: SegmentationDataset, val_set: SegmentationDataset, recipe: Recipe, task: Task
) -> dict[str, Any]:
    """What decides about a run's result beside the model."""
    return {
        "train_set": f"{train_set.name} {train_set.split} {len(train_set)} {train_set.fingerprint()}",
        "val_set": f"{val_set.name} {val_set.split} {len(val_set)} {val_set.fingerprint()}",
        "recipe": {**recipe.identity(), **task.identity()},
    }


def weights_hash(model: nn.Module) -> str:
    """A hash of all weights but their last bits, which differ from one kind of CPU to another.

    Of each tensor count its norm and a projection of all its numbers, each rounded to a ten-thousandth: rounding the
    numbers themselves would leave some of millions on either side of an edge.
    """
    rounded = []
    for name, tensor in model.state_dict().items():
        values = tensor.detach().cpu().flatten().double()
        rows = F.pad(values, (0, 1024 - len(values) % 1024)).view(-1, 1024)
        down, across = ((1.9 * torch.arange(1, side + 1, dtype=torch.float64)).sin() for side in rows.shape)
        norm = float(values.norm())
        projection = round(float(down @ (rows @ across)) / (norm or 1), 4) + 0.0  # no -0.0
        rounded.append(f"{name} {norm:.4e} {projection}")
    return hashlib.sha256("\n".join(rounded).encode()).hexdigest()[:16]


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def runs_folder(name: str) -> Path:
    """The folder of all runs of that name, in `checkpoints/`: all but letters, digits, ".", "_" and "-" becomes "-".

    Raises:
        ValueError: that is no name of a folder, on any system.
    """
    folder = re.sub(r"[^\w.-]+", "-", name)
    if folder.endswith(".") or not folder or len(folder.encode()) > 200 or _DEVICES.fullmatch(folder):
        shown = f"{name!r:.60}"
        raise ValueError(
            f"name={shown}: a run's name becomes that of a folder, so it must be short, not end with a dot, and not be "
            'a name that Windows keeps for a device ("nul"). Give it one such as "fcn8s, weighted".'
        )
    return config.checkpoints_root() / folder


def _key(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
