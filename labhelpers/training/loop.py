"""The training loop, on one page; what surrounds a step is in `task`.

Devices, mixed precision and several GPUs come from `accelerate`: the same function trains on a CPU, on one GPU and,
started by `accelerate launch` or `accelerate.notebook_launcher`, on several.

Whatever is random in step s depends on (seed, s) alone: the batch (see `data.loader`) and dropout, because torch is
seeded anew at each step. A run that is interrupted and continued therefore ends with the same weights and the same log.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from labhelpers.data.augment import to_input
from labhelpers.data.base import SegmentationDataset
from labhelpers.training import checkpoints
from labhelpers.training.recipe import Recipe
from labhelpers.training.task import CLASS_LABELS, Event, Task, TrainingState, alone, explained_workers
from labhelpers.training.tracking import History


def train(
    model: nn.Module,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    recipe: Recipe,
    run_dir: str | Path,
    *,
    task: Task = CLASS_LABELS,
    callbacks: Sequence[Callable[[Event], None]] = (),
    name: str = "train",
) -> History:
    """Trains the model in place; an interrupted run found in `run_dir` is continued, another process there waited for.

    The model ends with the weights of the last step, on the device it was trained on; `run_dir` also keeps those of
    the best evaluation. Each callback is called with an `Event` after every step. `name` labels the bar.

    Raises:
        RuntimeError: the loss is not finite, the memory is too small for one image, the disk is full, a process that
            prepares batches was killed; checkpoints stay.
        ValueError: `run_dir` holds a run of another recipe or architecture, or the task cannot follow the recipe.
    """
    with (
        explained_workers(Path(run_dir)),
        alone(Path(run_dir)),
        TrainingState(model, train_set, val_set, recipe, Path(run_dir), task) as run,
        run.progress(name) as progress,
    ):
        for images, targets, colour in run.batches():
            lr = run.schedule.step(run.step)
            run.prepare_step()  # seeds torch, sets the train mode, freezes or unfreezes the encoder

            loss = run.retry_smaller(forward_backward, images, targets, colour)
            if not math.isfinite(loss):
                raise RuntimeError(run.explain(loss))
            if recipe.clip_norm is not None:
                run.accelerator.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            run.optimizer.step()
            run.optimizer.zero_grad()
            run.step += 1

            row = {"step": run.step, "loss": loss, "lr": lr, **run.parts}
            evaluation = None
            if run.step == recipe.steps or (recipe.eval_every and run.step % recipe.eval_every == 0):
                evaluation = run.evaluate(row)  # adds the scores to the row, tells the schedule, remembers the best
            run.log(row)
            finished = recipe.finished(run.step, run.best_step)
            if finished or run.step == run.best_step or run.step % recipe.save_every == 0:
                run.save()
            event = Event(run.step, row, model, val_set, evaluation, partial(task.predictions, run))
            for callback in (run.show, *callbacks):
                callback(event)
            progress.update(loss=loss)
            if finished:
                break
    return History.read(run.run_dir / checkpoints.LOG)


def forward_backward(run: TrainingState, images: Tensor, targets: Tensor, colour: Tensor) -> float:
    """Gradients of the whole batch's loss, computed one micro-batch after another; returns that loss.

    `total` is what the loss divides by, counted over all micro-batches and processes: each part is divided by the
    whole, so that the parts add up to exactly the loss of the batch, however unevenly void pixels are spread.
    """
    images, targets, colour = (t.to(run.device, non_blocking=True) for t in (images, targets, colour))
    total = run.accelerator.reduce(run.task.total(run, targets).to(run.device), "sum")
    rng = np.random.default_rng(np.random.SeedSequence((run.recipe.seed, run.step), spawn_key=(1,)))
    loss_sum = torch.zeros((), device=run.device)
    size = run.micro_batch
    for x, y, c in zip(images.split(size), targets.split(size), colour.split(size), strict=True):
        loss = run.task.step(run, run.layout(to_input(x, c)), y, total, rng)
        run.accelerator.backward(loss * run.accelerator.num_processes)  # processes average their gradients
        loss_sum += loss.detach()
    return run.accelerator.reduce(loss_sum, "sum").item()
