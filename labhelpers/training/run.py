"""Train or load, and say which; and the first thing to try when a model does not learn."""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from labhelpers import config
from labhelpers.data.augment import to_input
from labhelpers.data.base import SegmentationDataset
from labhelpers.files import write_atomic
from labhelpers.training import checkpoints
from labhelpers.training.checkpoints import DamagedCheckpoint
from labhelpers.training.code import code_of
from labhelpers.training.loop import train
from labhelpers.training.losses import Loss, LossFunction, OwnLoss, build_loss
from labhelpers.training.recipe import Recipe
from labhelpers.training.session import Callback, make_accelerator
from labhelpers.training.tracking import History

if TYPE_CHECKING:
    from accelerate import Accelerator

# What a run's folder is passed over for: a file is missing, cut short or altered, the weights do not fit the model.
_UNUSABLE = (DamagedCheckpoint, OSError, ValueError, KeyError)


@dataclass(frozen=True)
class Run:
    """A trained model, whether it was trained just now or earlier."""

    model: nn.Module  # with the weights of the best evaluation, in eval mode, on the device that trains
    history: History
    loaded: bool  # True: nothing was trained in this call
    minutes: float  # of the training, interruptions left out
    key: str  # hash of model, data, loss, recipe and seed
    folder: Path  # log.csv, checkpoints, run.json


def train_or_load(
    name: str,
    model: nn.Module,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    recipe: Recipe,
    *,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Trains the model, continues an interrupted training, or loads a finished one; says in one line which.

    The run's folder is ``checkpoints/<name>/<key>``. The key is a hash of all that decides about the result: the
    model (class, its code if it is the notebook's own, layers, shapes, initial weights), both data sets, loss, recipe
    and seed; ``run.json`` in the folder spells it out. A changed recipe has another key, so that a stale weight is
    never loaded. Build the model right after ``torch.manual_seed``: other random weights are another run.

    Raises:
        RuntimeError, ValueError: as :func:`loop.train` does. An interrupted or failed call gives the model its initial
            weights back, so that the same call continues from the last checkpoint.
    """
    accelerator = make_accelerator()
    facts = describe(model, train_set, val_set, recipe)
    earlier = getattr(model, "_trained_by", None)  # the same cell run twice: the model holds its result already
    if earlier is not None and earlier["result"] == facts["initial_weights"]:
        again = {**facts, "initial_weights": earlier["initial_weights"]}
        if _key(name, again) == earlier["key"]:
            facts = again
    key = _key(name, facts)
    folder = _runs(name) / key
    if accelerator.is_main_process:
        write_atomic(folder / "run.json", json.dumps({"name": name, **facts}, indent=1).encode())

    last = checkpoints.latest(folder, parts=("model",))
    how = None
    if last is None or not recipe.finished(last.step, last.info["best_step"]):
        found = checkpoints.latest(folder)
        how = "trained (now" if found is None else f"continued from step {found.step} (now"
        initial = {k: v.detach().to("cpu", copy=True) for k, v in model.state_dict().items()}
        try:
            train(model, train_set, val_set, recipe, folder, callbacks=callbacks, name=name)
        except BaseException as error:
            model.load_state_dict(initial)
            if isinstance(error, KeyboardInterrupt):
                print(
                    f"{name}: interrupted; the same call continues from the last checkpoint (every "
                    f"{recipe.save_every} steps, and at each best evaluation)"
                )
            raise
        if accelerator.is_main_process:
            checkpoints.discard_optimizer(folder)
    return _finished(name, model, recipe, folder, facts, how, accelerator)


def load_finished(
    name: str,
    model: nn.Module,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    recipe: Recipe,
) -> Run | None:
    """Loads what an earlier notebook trained under this name, whatever its class; says so in one line.

    A run counts if it is finished, its data sets and recipe (seed and loss with it) are equal to these, and its weights
    have the names and shapes of this model's. The initial weights and the class need not be the same, unlike in
    :func:`train_or_load`: the class of an earlier lab stood in that notebook, so its code is part of the run's key,
    and this one is the library's. That both compute the same is what that lab's check was for. Of several runs the
    newest is taken; unfinished, damaged and other ones are passed over.

    Returns:
        The run with ``loaded=True`` and the weights of its best evaluation in the model; None, the model untouched
        and nothing printed, if there is no such run.
    """
    accelerator = make_accelerator()
    wanted = {"name": name, **_circumstances(train_set, val_set, recipe)}
    found = []
    for path in _runs(name).glob("*/run.json"):
        try:
            facts = json.loads(path.read_bytes())
            if wanted.items() <= facts.items():
                found.append((_last(path.parent, recipe).info["saved_at"], path.parent, facts))
        except _UNUSABLE:
            continue
    for _, folder, facts in sorted(found, key=lambda run: run[0], reverse=True):
        try:
            return _finished(name, model, recipe, folder, facts, None, accelerator)
        except _UNUSABLE:
            continue
    return None


def _finished(
    name: str,
    model: nn.Module,
    recipe: Recipe,
    folder: Path,
    facts: dict[str, Any],
    how: str | None,
    accelerator: "Accelerator",
) -> Run:
    """Puts the best weights of the finished run into the model, and says how they came about; None: loaded.

    Raises, before it touches the model, for files that are damaged (see ``checkpoints.read``) or do not fit.
    """
    last = _last(folder, recipe)
    best = checkpoints.read(folder, last.info["best_step"], parts=("model",))
    history, initial, key = History.read(folder / "log.csv"), facts["initial_weights"], folder.name
    minutes = last.info["seconds"] / 60
    score = abs(last.info["best_score"])  # a loss is kept with a minus, so that more is better
    done = f"{recipe.best_metric} {score:.3f} at step {best.step} of {recipe.steps}"
    if last.step < recipe.steps:
        done += f", stopped early at step {last.step}"
    loaded = how is None
    if loaded:
        how = f"loaded (trained {time.strftime('%Y-%m-%d %H:%M', time.localtime(last.info['saved_at']))}"

    checkpoints.load_model(model, best.parts["model"], folder)
    model.to(accelerator.device).eval()
    model._trained_by = {"key": key, "initial_weights": initial, "result": sketch(model)}
    if accelerator.is_main_process:
        print(f"{name}: {how}, {minutes:.1f} min, key {key}): {done}")
    return Run(model, history, loaded, minutes, key, folder)


def _last(folder: Path, recipe: Recipe) -> checkpoints.Checkpoint:
    """The bookkeeping of a finished run's last step. Raises DamagedCheckpoint where there is none."""
    last = checkpoints.latest(folder, parts=())
    if last is None or not recipe.finished(last.step, last.info["best_step"]):
        raise DamagedCheckpoint(f"{folder} holds no finished run")
    return last


def describe(
    model: nn.Module, train_set: SegmentationDataset, val_set: SegmentationDataset, recipe: Recipe
) -> dict[str, object]:
    """What decides about a run's result, as JSON."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    own = {type(module) for module in model.modules() if type(module).__module__ == "__main__"}
    code = {kind.__name__: code_of(kind) for kind in own}
    text = json.dumps([type(model).__name__, repr(model), shapes, code], sort_keys=True)
    return {
        "model": type(model).__name__,
        "architecture": hashlib.sha256(text.encode()).hexdigest()[:16],
        "initial_weights": sketch(model),
        **_circumstances(train_set, val_set, recipe),
    }


def _circumstances(train_set: SegmentationDataset, val_set: SegmentationDataset, recipe: Recipe) -> dict[str, object]:
    """What decides about a run's result beside the model."""
    return {
        "train_set": f"{train_set.name} {train_set.split} {len(train_set)} {train_set.fingerprint()}",
        "val_set": f"{val_set.name} {val_set.split} {len(val_set)} {val_set.fingerprint()}",
        "recipe": recipe.identity(),
    }


def sketch(model: nn.Module) -> list[int]:
    """Two whole numbers that tell weights apart, but not the last bits: those differ from one kind of CPU to another.

    Two fixed random projections of the first numbers of every tensor, rounded to a thousandth of their spread.
    """
    heads = [t.detach().flatten()[:64].double().cpu() for t in model.state_dict().values()]
    values = torch.cat(heads)
    waves = torch.arange(1, len(values) + 1, dtype=torch.float64) * torch.tensor([[0.7], [1.9]], dtype=torch.float64)
    spread = values.square().sum().sqrt().clamp_min(1e-12)
    return ((waves.sin() @ values) / spread * 1000).round().long().tolist()


def _runs(name: str) -> Path:
    """The folder of all runs of that name."""
    return config.checkpoints_root() / re.sub(r"[^\w.-]+", "-", name)


def _key(name: str, facts: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps([name, facts], sort_keys=True).encode()).hexdigest()[:10]


def overfit_one_batch(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    steps: int = 100,
    lr: float = 1e-3,
    loss: str | Loss | OwnLoss | LossFunction = "ce",
) -> list[float]:
    """Trains on one batch over and over; the loss of every step. If it does not fall far, look for a bug, not for data.

    Args:
        images: (B, 3, H, W) uint8, normalised here as in training; targets: (B, H, W) uint8.
        loss: as in ``Recipe``, or what ``build_loss`` gave; a function may be any callable here.

    Raises:
        RuntimeError: the loss is not finite.
    """
    device = next(model.parameters()).device
    loss_function = loss if isinstance(loss, Loss | OwnLoss) else build_loss(loss)
    x, y = to_input(images.to(device)), targets.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    losses = []
    for step in range(steps):
        value = loss_function(model(x), y)
        if not value.isfinite():
            raise RuntimeError(f"the loss is {value.item()} at step {step + 1}: lower lr={lr}, or look at the batch")
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses
