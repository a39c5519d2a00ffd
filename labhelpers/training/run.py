"""Train or load, and say which; and the first thing to try when a model does not learn."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import torch
from torch import Tensor, nn

from labhelpers import config
from labhelpers.data.base import SegmentationDataset
from labhelpers.data.colour import to_input

from . import checkpoints
from .checkpoints import write_atomic
from .loop import train
from .losses import Loss, build_loss
from .recipe import Recipe
from .session import Callback, make_accelerator
from .tracking import History


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
    folder = config.checkpoints_root() / re.sub(r"[^\w.-]+", "-", name) / key
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "run.json", json.dumps({"name": name, **facts}, indent=1).encode())

    found = checkpoints.latest(folder)
    start = 0 if found is None else found.step
    if start < recipe.steps:
        initial = {k: v.detach().to("cpu", copy=True) for k, v in model.state_dict().items()}
        try:
            train(model, train_set, val_set, recipe, folder, callbacks=callbacks, name=name)
        except BaseException as error:
            model.load_state_dict(initial)
            if isinstance(error, KeyboardInterrupt):
                print(
                    f"{name}: interrupted; the same call continues from the last checkpoint (every "
                    f"{recipe.save_every} steps, and at each evaluation)"
                )
            raise

    last = checkpoints.read(folder, recipe.steps, parts=())
    best = checkpoints.read(folder, last.info["best_step"], parts=("model",))
    checkpoints.load_model(model, best.parts["model"], folder)
    model.to(accelerator.device).eval()
    model._trained_by = {"key": key, "initial_weights": facts["initial_weights"], "result": sketch(model)}
    minutes = last.info["seconds"] / 60
    done = f"{recipe.best_metric} {last.info['best_score']:.3f} at step {best.step} of {recipe.steps}"
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(last.info["saved_at"]))
    how = {recipe.steps: f"loaded (trained {date}", 0: "trained (now"}.get(start, f"continued from step {start} (now")
    if accelerator.is_main_process:
        print(f"{name}: {how}, {minutes:.1f} min, key {key}): {done}")
    return Run(model, History.read(folder / "log.csv"), start == recipe.steps, minutes, key, folder)


def describe(
    model: nn.Module, train_set: SegmentationDataset, val_set: SegmentationDataset, recipe: Recipe
) -> dict[str, object]:
    """What decides about a run's result, as JSON."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    own = {type(module) for module in model.modules() if type(module).__module__ == "__main__"}
    code = {kind.__name__: _code(kind) for kind in own}
    text = json.dumps([type(model).__name__, repr(model), shapes, code], sort_keys=True)
    return {
        "model": type(model).__name__,
        "architecture": hashlib.sha256(text.encode()).hexdigest()[:16],
        "initial_weights": sketch(model),
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


def _code(thing: object) -> object:
    """A class or function as JSON that changes with what it does: a notebook's class has no version but its code."""
    if isinstance(thing, type):
        return {name: _code(member.__code__) for name, member in vars(thing).items() if hasattr(member, "__code__")}
    if isinstance(thing, CodeType):
        return [thing.co_code.hex(), thing.co_names, [_code(constant) for constant in thing.co_consts]]
    return sorted(map(repr, thing)) if isinstance(thing, frozenset) else repr(thing)


def _key(name: str, facts: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps([name, facts], sort_keys=True).encode()).hexdigest()[:10]


def overfit_one_batch(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    steps: int = 100,
    lr: float = 1e-3,
    loss: str | Loss | Callable[[Tensor, Tensor], Tensor] = "ce",
) -> list[float]:
    """Trains on one batch over and over; the loss of every step. If it does not fall far, look for a bug, not for data.

    Args:
        images: (B, 3, H, W) uint8, normalised here as in training; targets: (B, H, W) uint8.
        loss: a name of ``LOSSES``, or any function of logits and targets.

    Raises:
        RuntimeError: the loss is not finite.
    """
    device = next(model.parameters()).device
    loss_function = build_loss(loss) if isinstance(loss, str) else loss
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
