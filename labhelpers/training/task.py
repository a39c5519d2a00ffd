"""What a run learns, and what surrounds each of its steps.

A `Task` says what the loop asks for: here class labels; masks and labels for prompts are in `prompting.task`. A
`TrainingState` is one run: its device and precision, where it continues, its log, its checkpoints, its best evaluation.
"""

import json
import math
import os
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labhelpers.data.base import SegmentationDataset
from labhelpers.data.loader import subset, training_loader
from labhelpers.data.voc import comparison_indices
from labhelpers.evaluation import Evaluation, evaluate, predict
from labhelpers.evaluation.evaluator import check_logits
from labhelpers.files import locked
from labhelpers.training import checkpoints
from labhelpers.training.losses import build_loss, check_class_weights, check_target
from labhelpers.training.optim import Schedule, build_optimizer, encoder_of
from labhelpers.training.recipe import SCORES, Recipe, identity
from labhelpers.training.tracking import CsvLog, Progress, Wandb

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Task:
    """What is learned: here class labels, by the loss that the recipe names.

    Another task inherits from this one and answers what differs: which loss, what one step does with a part of a batch,
    what is scored, and the log's columns. Its fields, if it has any, are part of a run's key.
    """

    unused_parameters: ClassVar[bool] = False  # a step may use only some of the parameters that learn

    def identity(self) -> dict[str, Any]:
        """What decides about the result, as JSON: the task's name and fields."""
        return {"task": type(self).__name__, **identity(self)}

    def build_loss(self, run: "TrainingState") -> Any:
        """Called once at the beginning; kept as `run.loss`.

        Raises:
            ValueError: the recipe is one that this task cannot follow.
        """
        weights: Any = run.recipe.class_weights
        if isinstance(weights, str):
            from labhelpers.data.statistics import class_statistics, class_weights

            weights = class_weights(class_statistics(run.train_set), weights)
        check_class_weights(weights, run.train_set.num_classes)
        return build_loss(run.recipe.loss, weights, run.train_set.ignore_index)

    def prepare(self, run: "TrainingState") -> None:
        """Called at the beginning of each step, when the model is in train mode."""

    def module(self, run: "TrainingState") -> nn.Module:
        """What `step` calls as `run.wrapped_model`: processes exchange gradients of what its `forward` has used."""
        return run.model

    def total(self, run: "TrainingState", targets: Tensor) -> Tensor:
        """What the loss of a batch is divided by, for `step`; must add up over parts of a batch.

        Raises:
            ValueError: a label is neither a class nor void; on a GPU no later error would be readable.
        """
        check_target(targets, run.train_set.num_classes, run.train_set.ignore_index)
        return run.loss.total(targets)

    def step(self, run: "TrainingState", x: Tensor, y: Tensor, total: Tensor, rng: np.random.Generator) -> Tensor:
        """The share of a part of a batch in the batch's loss.

        Args:
            x: float (B, 3, H, W), normalised, on the device.
            y: uint8 (B, H, W), on the device.
            total: as the method of that name returned for the whole batch, all processes' parts added.
            rng: for what is drawn at random; the same for all parts of a batch, a function of seed and step.
        """
        with run.accelerator.autocast():
            logits = check_logits(run.wrapped_model(x), x, run.train_set.num_classes)
        return run.loss(logits, y, total)

    def columns(self, run: "TrainingState") -> list[str]:
        """The log's columns after step, loss and learning rate."""
        train = ["train_loss", "train_mean_iou"] if run.train_sample else []
        return ["val_loss", *SCORES, *train, *(f"iou_{name}" for name in run.val_set.class_names)]

    def score(self, run: "TrainingState") -> tuple[Any, dict[str, float]]:
        """The validation set's evaluation, each process its share of it, and a value for each of the columns."""
        evaluation = self.evaluate(run, run.val_set)
        scores = evaluation.scores
        row: dict[str, Any] = {"val_loss": evaluation.loss, **{name: float(getattr(scores, name)) for name in SCORES}}
        row |= {f"iou_{n}": float(v) for n, v in zip(run.val_set.class_names, scores.class_iou, strict=True)}
        if run.train_sample:
            train = self.evaluate(run, run.train_sample)
            row |= {"train_loss": train.loss, "train_mean_iou": float(train.scores.mean_iou)}
        return evaluation, row

    def evaluate(self, run: "TrainingState", dataset: SegmentationDataset) -> Evaluation:
        """Scores and loss of the model as it is."""
        return evaluate(
            run.model,
            dataset,
            batch_size=run.recipe.batch_size,
            device=run.device,
            precision=run.precision,
            bands=(),
            per_image=False,
            loss=run.loss,
            accelerator=run.accelerator,
        )

    def predictions(self, run: "TrainingState") -> list[tuple[Tensor, Tensor, Tensor]]:
        """(image (3, H, W), target (H, W), prediction (H, W)), uint8, of the images shown in every comparison."""
        pairs = [run.val_set[index] for index in comparison_indices(run.val_set, say=False)]
        return [(image, target, self.predict(run, image)) for image, target in pairs]

    def predict(self, run: "TrainingState", image: Tensor) -> Tensor:
        """Class labels of one image, uint8 (3, H, W) -> uint8 (H, W)."""
        return predict(run.model, image)


CLASS_LABELS = Task()


@dataclass(frozen=True)
class Event:
    """What a callback sees after a step; `evaluation` is None unless the step ended with one."""

    step: int  # optimizer steps done
    row: dict[str, float]  # the row of the log: step, loss, lr, and the scores of an evaluation
    model: nn.Module
    val_set: SegmentationDataset
    evaluation: Any  # evaluation.Evaluation, or what another task scores, such as prompting.PromptScores
    predictions: Callable[[], list[tuple[Tensor, Tensor, Tensor]]]  # as `Task.predictions`


class TrainingState:
    """One run of `train`, as a context manager; continues what its folder holds."""

    def __init__(
        self,
        model: nn.Module,
        train_set: SegmentationDataset,
        val_set: SegmentationDataset,
        recipe: Recipe,
        run_dir: Path,
        task: Task = CLASS_LABELS,
    ):
        self.model: Any = model  # a task asks it for more than a module has
        self.train_set, self.val_set = train_set, val_set
        self.recipe, self.task, self.run_dir = recipe, task, run_dir
        # Once: what a loss function keeps in a list may change while it trains.
        self.identity = {**recipe.identity(), **task.identity()}
        self.precision = resolve_precision(recipe.precision)
        self.accelerator = make_accelerator(self.precision, task.unused_parameters)
        self.device, processes = self.accelerator.device, self.accelerator.num_processes
        batch = min(recipe.batch_size, len(train_set))
        if batch % processes:
            raise ValueError(
                f"a batch has {batch} images, which {processes} processes cannot share evenly: change batch_size="
                f"{recipe.batch_size}, the {len(train_set)} training images or the number of processes"
            )
        self.synchronised = recipe.sync_batch_norm and processes > 1
        if self.synchronised and self.device.type == "cpu":
            raise ValueError(
                "sync_batch_norm=True needs GPUs: torch's SyncBatchNorm does not run on a CPU. Leave it False there: "
                "each process takes its statistics from its own part of the batch"
            )
        self.encoder: Any = encoder_of(model)
        if recipe.freeze_encoder_steps and self.encoder is None:
            raise ValueError(f"freeze_encoder_steps needs model.encoder, and {type(model).__name__} has none")

        model.to(self.device)
        if self.device.type == "cuda":
            model.to(memory_format=torch.channels_last)  # tensor cores want it; on a CPU it does not pay
        self.loss = task.build_loss(self)
        optimizer = build_optimizer(model, recipe)
        self.schedule = Schedule(optimizer, recipe)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.train_sample = subset(train_set, min(recipe.score_train, len(train_set))) if recipe.score_train else None
        self.micro_batch = -(-recipe.batch_size // processes // recipe.accumulate)
        self.halved = False  # whether the memory was too small for that
        self.kept: dict[str, Any] = {}  # what the task computes only once
        self.parts: dict[str, float] = {}  # of the loss of this step, where the task logs them apart
        self.step, self.seconds, self.log_before = 0, 0.0, ""
        self.best_step: int | None = None
        self.best_score = -math.inf
        self._continue()
        self.wrapped_model = task.module(self)  # by accelerate, where there are several processes
        self._wrapped_frozen: bool | None = None

    # --- the run's beginning and end -------------------------------------------------------------------------------

    def __enter__(self) -> "TrainingState":
        devices = [self.device] if self.device.type == "cuda" else []
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices))  # the caller's random numbers go on undisturbed
            if self.synchronised:
                stack.enter_context(synchronised_batch_norm(self.model))
            self._start = time.monotonic() - self.seconds
            self._logs: list[Any] = []  # of the main process: the CSV, and W&B if it is wanted
            self.accelerator.wait_for_everyone()  # all have read the checkpoint
            if self.accelerator.is_main_process:
                self.run_dir.mkdir(parents=True, exist_ok=True)
                checkpoints.discard_after(self.run_dir, self.step)
                columns = ["step", "loss", "lr", *self.task.columns(self)]
                self._logs.append(CsvLog(self.run_dir / checkpoints.LOG, columns, self.log_before))
                if Wandb.wanted(self.recipe.wandb):
                    self._logs.append(Wandb(self.run_dir, self.identity))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for log in self._logs:
            log.close()
        if self.recipe.freeze_encoder_steps:
            self.encoder.requires_grad_(True)
        self.optimizer.zero_grad()
        self._unwrap()
        self._stack.close()
        if error is None:
            self.accelerator.wait_for_everyone()  # the main process has written its last checkpoint

    def batches(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """The remaining batches, one for each step: this process' part of each."""
        recipe = self.recipe
        weights = None
        if recipe.oversample_rare:
            from labhelpers.data.statistics import rare_class_sample_weights

            weights = rare_class_sample_weights(self.train_set)
        loader = training_loader(
            self.train_set,
            recipe.augmentation,
            recipe.batch_size,
            steps=recipe.steps,
            start_step=self.step,
            seed=recipe.seed,
            workers=recipe.workers,
            sample_weights=weights,
        )
        return self.accelerator.prepare(loader) if self.accelerator.num_processes > 1 else loader

    def progress(self, name: str) -> Progress:
        """The bar of this run."""
        shown = self.accelerator.is_main_process
        return Progress(name, self.step, self.recipe.steps, self.recipe.batch_size, shown)

    # --- around one step -------------------------------------------------------------------------------------------

    def prepare_step(self) -> None:
        """Seeds torch for this step and sets the train mode; a frozen encoder keeps its batch-norm statistics too."""
        seed = np.random.SeedSequence((self.recipe.seed, self.step, self.accelerator.process_index))
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
        frozen = self.step < self.recipe.freeze_encoder_steps
        self.model.train()
        if frozen:
            self.encoder.eval()
        if self.recipe.freeze_encoder_steps:
            self.encoder.requires_grad_(not frozen)
        self.task.prepare(self)
        if self.accelerator.num_processes > 1 and frozen != self._wrapped_frozen:  # which gradients are exchanged
            self._unwrap()
            self.wrapped_model, self._wrapped_frozen = self.accelerator.prepare(self.wrapped_model), frozen

    def _unwrap(self) -> None:
        self.wrapped_model = self.accelerator.unwrap_model(self.wrapped_model, keep_fp32_wrapper=False)

    def own(self, count: int) -> slice:
        """Where this process' `count` items lie among those of all processes, as `accelerator.gather` returns them."""
        first = self.accelerator.process_index * count
        return slice(first, first + count)

    def layout(self, x: Tensor) -> Tensor:
        """The memory format of the model."""
        return x.contiguous(memory_format=torch.channels_last) if self.device.type == "cuda" else x

    def retry_smaller(self, forward_backward: Callable[..., float], *batch: Tensor) -> float:
        """Calls it; while the memory is too small, halves the micro-batch and calls it again for the same batch."""
        while True:
            try:
                with explained_batch_norm():
                    return forward_backward(self, *batch)
            except torch.OutOfMemoryError as error:
                reason = str(error).split(". ")[0]
            # Outside `except`: the traceback held the activations.
            self.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._halve(reason)
            self.prepare_step()

    def _halve(self, reason: str) -> None:
        before = self.micro_batch
        if before == 1 or self.accelerator.num_processes > 1:
            more = "or use precision='auto'" if before == 1 else f"or set accumulate={2 * self.recipe.accumulate}"
            raise RuntimeError(
                f"out of memory at step {self.step + 1} with {before} image(s) at once ({reason}). Lower the crop "
                f"({self.recipe.augmentation.crop}), the backbone's size or its width, {more}."
            )
        self.micro_batch, self.halved = -(-before // 2), True
        print(
            f"out of memory at step {self.step + 1}: {before} images at once are too many, continuing with "
            f"{self.micro_batch} and gradient accumulation. The batch stays {self.recipe.batch_size}, and losses that "
            f"are means over pixels the same; Dice is averaged, batch norm sees {self.micro_batch} images at a time."
        )

    def explain(self, loss: float) -> str:
        """What to do about a loss that is not finite."""
        last = checkpoints.latest(self.run_dir, parts=())
        kept = f"the checkpoint of step {last.step} in {self.run_dir} is kept" if last else "there is no checkpoint yet"
        return (
            f"the loss is {loss} at step {self.step + 1} (lr {self.schedule.lr:.3g}, precision {self.precision}); "
            f"training stops before it reaches the weights, {kept}. Remedies, in this order: a lower lr, "
            "warmup_steps, clip_norm=1.0, precision='no'; then look for broken images or class weights."
        )

    # --- scores, log, checkpoints ----------------------------------------------------------------------------------

    def evaluate(self, row: dict[str, float]) -> Any:
        """Evaluates, adds loss and scores to `row`, tells the schedule and remembers the best."""
        from accelerate.utils import broadcast

        for buffer in self.model.buffers():  # each process has its own batch-norm statistics; those of the first count
            broadcast(buffer)
        evaluation, scores = self.task.score(self)
        row |= scores
        value = row[self.recipe.best_metric]
        score = -value if self.recipe.best_metric == "val_loss" else value  # higher is better
        self.schedule.observe(score)
        better = score > self.best_score or (math.isnan(self.best_score) and not math.isnan(score))
        if self.best_step is None or better:
            self.best_step, self.best_score = self.step, score
        return evaluation

    def log(self, row: dict[str, float]) -> None:
        """Writes one row everywhere."""
        for log in self._logs:
            log.write(row)

    def show(self, event: Event) -> None:
        """Sends the predictions of an evaluation to Weights & Biases, if the run is tracked there."""
        for log in self._logs[1:] if event.evaluation is not None else ():
            log.images(event.step, event.predictions(), self.val_set.class_names)

    def save(self) -> None:
        """Writes a checkpoint, and the log's rows up to here."""
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        info = {
            "best_step": self.best_step,
            "best_score": self.best_score,
            "schedule": self.schedule.state,
            "scaler": None if scaler is None else scaler.state_dict(),
            "micro_batch": self.micro_batch,
            "halved": self.halved,
            "seconds": time.monotonic() - self._start,
            "saved_at": time.time(),
            "recipe": self.identity,
            "log": self._logs[0].text,
        }
        optimizer = checkpoints.optimizer_tensors(self.optimizer.optimizer)
        checkpoints.save(self.run_dir, self.step, {"model": self.model.state_dict(), "optimizer": optimizer}, info)

    def _continue(self) -> None:
        """Takes up the newest undamaged checkpoint, if there is one."""
        saved = checkpoints.latest(self.run_dir)
        if saved is None:
            return
        info, own, there = saved.info, self.identity, saved.info["recipe"]
        if info.get("log", "").count("\n") != saved.step + 1:  # of an earlier version, which kept it in log.csv alone
            print(
                f"{self.run_dir / checkpoints.LOG} is not that of the checkpoint of step {saved.step}: training anew."
            )
            return
        differing = "; ".join(f"{k}: {there.get(k)!r} there, {v!r} now" for k, v in own.items() if there.get(k) != v)
        if differing:
            raise ValueError(f"{self.run_dir} holds a run of another recipe ({differing}); use another folder for this")
        checkpoints.load_model(self.model, saved.parts["model"], self.run_dir)
        checkpoints.load_optimizer(self.optimizer.optimizer, saved.parts["optimizer"])
        self.schedule.state = info["schedule"]
        if info["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(info["scaler"])
        self.halved = info.get("halved", True)  # version 0.1 does not tell
        if self.halved:  # else it is this number of processes that counts
            self.micro_batch = min(self.micro_batch, info["micro_batch"])
        self.step, self.best_step, self.best_score = saved.step, info["best_step"], info["best_score"]
        self.seconds, self.log_before = info["seconds"], info["log"]


@contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder, and waits for one that trains there: see `files.locked`.

    Of several processes that train together the first holds the lock, and the others wait for it.

    Raises:
        RuntimeError: processes that train together train different things, or do not see the same files.
    """
    accelerator = make_accelerator()
    with locked(run_dir / "lock") if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        seen = json.dumps([run_dir.name, sorted(path.name for path in run_dir.glob("*"))])
        hashes = accelerator.gather(torch.tensor([zlib.crc32(seen.encode())], device=accelerator.device))
        if (hashes != hashes[0]).any():  # they would wait for each other in vain, or one would learn something else
            raise RuntimeError(
                f"the {len(hashes)} processes do not find the same in {run_dir} (here: {seen}). All must train the "
                "same: seed torch before the model is built; on several machines, LAB_HOME must be on a disk they share"
            )
        yield


@contextmanager
def synchronised_batch_norm(model: nn.Module) -> Iterator[None]:
    """Inside, batch norm takes its statistics from all processes' parts of a batch; parameters and names stay."""
    from timm.layers import convert_sync_batchnorm

    own = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    convert_sync_batchnorm(model)  # torch's own would drop the activation that timm's norms bring along
    for name, module in own.items():
        model.get_submodule(name).train(module.training)  # timm 1.0.0 forgets it
    try:
        yield
    finally:
        for name, module in own.items():
            model.set_submodule(name, module)


@contextmanager
def explained_workers(run_dir: Path) -> Iterator[None]:
    """Says what to do where a process that prepares batches was killed: torch raises it anywhere, or a pipe breaks."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        through = {Path(frame.filename).parent for frame in traceback.extract_tb(error.__traceback__)}
        broken_pipe = not isinstance(error, RuntimeError) and Path(torch.utils.data.__file__).parent in through
        if not broken_pipe and "DataLoader worker (pid" not in str(error):
            raise
        raise RuntimeError(
            f"a process that prepares batches ended, as when the system kills it for lack of memory ({error}). Run "
            "again, with fewer workers if it lacks memory: training continues from the last checkpoint in "
            f"{run_dir}."
        ) from error


@contextmanager
def explained_batch_norm() -> Iterator[None]:
    """Says what to do where batch norm sees one value per channel: in one image as small as the network's stride."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"one image of this size leaves batch norm one value per channel, which has no spread ({error}). Train on "
            "2 images at once or more (batch_size over accumulate), or on a larger crop: 64 pixels do for all networks "
            "of the course"
        ) from error


def make_accelerator(precision: str = "no", unused_parameters: bool = False) -> "Accelerator":
    """accelerate's view of this machine: the device, the processes, mixed precision; see `Task.unused_parameters`."""
    from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # it refuses a second run of another precision in the same process
    split = DataLoaderConfiguration(split_batches=True)  # each process takes its part of every batch
    # Without a GPU, accelerate would take processes that torchrun has started for strangers.
    on_cpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    exchange = DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)
    return Accelerator(cpu=on_cpu, mixed_precision=precision, dataloader_config=split, kwargs_handlers=[exchange])


def resolve_precision(precision: str) -> str:
    """`auto` -> what this machine computes fast: bf16 or fp16 on a GPU, bf16 on a CPU that has it, else `no`."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    on_cpu = not torch.backends.mps.is_available()
    return "bf16" if on_cpu and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()) else "no"
