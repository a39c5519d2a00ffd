"""Every number of a training run, checked when it is written down."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from labhelpers.data.augment import Augmentation
from labhelpers.training.code import fingerprint
from labhelpers.training.losses import LossFunction, parse_loss

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("constant", "step", "milestones", "poly", "cosine", "plateau")
SCORES = ("mean_iou", "pixel_accuracy", "mean_accuracy", "freq_weighted_iou", "precision", "recall", "f1")
METRICS = (*SCORES, "val_loss")
PRECISIONS = ("auto", "no", "bf16", "fp16")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Two runs with equal recipes, models and data end with equal weights (on one kind of CPU).

    The budgets' own numbers stand in ``config.py``; the defaults here are the course's: AdamW 1e-4, weight decay 1e-4,
    batch 8, crop 256. Raises ValueError naming the argument, what was found and what is allowed.
    """

    steps: int  # optimizer steps of the whole run
    batch_size: int = 8  # images per optimizer step, all micro-batches and processes together
    accumulate: int = 1  # micro-batches per optimizer step, when the batch does not fit into memory at once
    augmentation: Augmentation = field(default_factory=Augmentation)
    oversample_rare: bool = False  # draw images with rare classes more often

    loss: str | LossFunction = "ce"  # see losses.LOSSES; sums such as "ce+0.5*dice"; or a function, see losses.OwnLoss
    class_weights: str | tuple[float, ...] | None = None  # a method of data.class_weights, or numbers; weighted_ losses

    optimizer: str = "adamw"
    lr: float = 1e-4
    weight_decay: float = 1e-4
    momentum: float = 0.9  # of sgd
    backbone_factor: float = 1.0  # learning rate of model.encoder over that of the rest; 0.1 for a pretrained encoder
    clip_norm: float | None = None  # largest norm of the gradient
    freeze_encoder_steps: int = 0  # for so many steps the encoder stays as it is, batch-norm statistics included

    schedule: str = "poly"
    warmup_steps: int = 0  # linear from lr / warmup_steps to lr, before and on top of any schedule
    power: float = 0.9  # of poly
    milestones: tuple[int, ...] = ()  # steps after which the rate is multiplied by gamma
    step_size: int = 0  # of step: the rate is multiplied by gamma every so many steps
    gamma: float = 0.1  # of step and milestones
    plateau_patience: int = 5  # evaluations without a better best_metric before the rate is multiplied ...
    plateau_factor: float = 0.5  # ... by this

    precision: str = "auto"  # bf16 where the device computes in it, else fp16 on a GPU, else no (float32)
    eval_every: int = 0  # steps between evaluations; 0: only at the end
    best_metric: str = "mean_iou"  # the best checkpoint is chosen by this score, or by the loss, of the validation set
    patience: int = 0  # so many evaluations in a row without a better best_metric end the run; 0: it runs to the end
    score_train: int = 0  # training images scored at each evaluation as well, without augmentation: shows the gap
    seed: int = 0  # of the data order, the augmentation and dropout

    save_every: int = 200  # steps between checkpoints; there is one of the best evaluation and of the end, too
    workers: int = 0  # processes that read and augment; has no influence on the result
    wandb: bool = False  # log to Weights & Biases too; WANDB_MODE wins

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "plateau_patience", "save_every"):
            self._require(name, "a whole number >= 1", _whole(getattr(self, name)) and getattr(self, name) >= 1)
        counts = ("freeze_encoder_steps", "warmup_steps", "step_size", "eval_every", "patience", "score_train")
        for name in (*counts, "workers", "seed"):
            self._require(name, "a whole number >= 0", _whole(getattr(self, name)) and getattr(self, name) >= 0)
        for name in ("lr", "power", "gamma", "plateau_factor"):
            self._require(name, "a number > 0", _real(getattr(self, name)) and getattr(self, name) > 0)
        for name in ("weight_decay", "momentum", "backbone_factor"):
            self._require(name, "a number >= 0", _real(getattr(self, name)) and getattr(self, name) >= 0)
        for name, known in {
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "best_metric": METRICS,
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        self._require("momentum", "below 1", self.momentum < 1)
        self._require("plateau_factor", "below 1", self.plateau_factor < 1)
        self._require("clip_norm", "None or a number > 0", self.clip_norm is None or self.clip_norm > 0)
        self._require("accumulate", f"at most batch_size={self.batch_size}", self.accumulate <= self.batch_size)
        self._require("augmentation", "an Augmentation", isinstance(self.augmentation, Augmentation))
        self._require("warmup_steps", f"below steps={self.steps}", self.warmup_steps < self.steps)
        if self.schedule == "step":
            self._require("step_size", "a whole number >= 1 with schedule='step'", self.step_size >= 1)
        if self.schedule == "milestones":
            rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
            self._require("milestones", "rising steps with schedule='milestones'", self.milestones and rising)
        if self.schedule == "plateau":
            self._require("eval_every", ">= 1 with schedule='plateau', which follows the score", self.eval_every >= 1)
        self._require("patience", "0 without eval_every", not self.patience or self.eval_every >= 1)
        self._check_loss()

    def finished(self, step: int, best_step: int | None) -> bool:
        """Whether a run whose best evaluation was at ``best_step`` is over after ``step`` steps."""
        if step >= self.steps:
            return True
        return bool(self.patience) and best_step is not None and step - best_step >= self.patience * self.eval_every

    def _check_loss(self) -> None:
        if isinstance(self.loss, str):
            weighted = any(term.startswith("weighted_") for _, term in parse_loss(self.loss))
        else:
            self._require("loss", "a name or a function of logits and target", callable(self.loss))
            fingerprint(self.loss)  # raises ValueError where it cannot be told from another
            weighted = False
        if weighted != (self.class_weights is not None):
            raise ValueError(
                f"loss={self.loss!r} and class_weights={self.class_weights!r} do not belong together: class weights "
                "are for 'weighted_ce' and 'weighted_focal', and these need them"
            )

    def identity(self) -> dict[str, Any]:
        """What decides about the result, as JSON: all but where and how often things are written, and the workers.

        A loss function stands as its name and a hash of what it does at this moment, see :func:`code.fingerprint`.
        """
        numbers = {**vars(self), "augmentation": dataclasses.asdict(self.augmentation)}
        if callable(self.loss):
            numbers["loss"] = fingerprint(self.loss)
        for name in ("save_every", "workers", "wandb"):
            del numbers[name]
        return json.loads(json.dumps(numbers))

    def _require(self, name: str, rule: str, holds: object) -> None:
        if not holds:
            raise ValueError(f"Recipe({name}={getattr(self, name)!r}): must be {rule}")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _real(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
