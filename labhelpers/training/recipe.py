"""Every number of a training run, checked when it is written down, and what makes two runs the same."""

import ast
import contextlib
import dataclasses
import dis
import hashlib
import json
import linecache
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labhelpers.data.augment import Augmentation
from labhelpers.training.losses import LossFunction, function_name, parse_loss

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("constant", "step", "milestones", "poly", "cosine", "plateau")
SCORES = ("mean_iou", "pixel_accuracy", "mean_accuracy", "freq_weighted_iou", "precision", "recall", "f1")
METRICS = (*SCORES, "val_loss", "mask_ap")
PRECISIONS = ("auto", "no", "bf16", "fp16")


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Two runs with equal recipes, models and data end with equal weights (on one kind of CPU).

    The budgets' own numbers stand in `config.py`; the defaults here are the course's: AdamW 1e-4, weight decay 1e-4,
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
    sync_batch_norm: bool = False  # on several GPUs: batch norm over the whole batch, as in one process
    wandb: bool = False  # log to Weights & Biases too; WANDB_MODE wins

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "plateau_patience", "save_every"):
            require_count(self, name)
        counts = ("freeze_encoder_steps", "warmup_steps", "step_size", "eval_every", "patience", "score_train")
        for name in (*counts, "workers", "seed"):
            require_count(self, name, least=0)
        for name in ("lr", "power", "gamma", "plateau_factor"):
            require_number(self, name, above_zero=True)
        for name in ("weight_decay", "momentum", "backbone_factor"):
            require_number(self, name)
        for name, known in {
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "best_metric": METRICS,
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        require(self, "momentum", "below 1", self.momentum < 1)
        require(self, "plateau_factor", "below 1", self.plateau_factor < 1)
        require(self, "clip_norm", "None or a number > 0", self.clip_norm is None or self.clip_norm > 0)
        require(self, "accumulate", f"at most batch_size={self.batch_size}", self.accumulate <= self.batch_size)
        require(self, "augmentation", "an Augmentation", isinstance(self.augmentation, Augmentation))
        require(self, "warmup_steps", f"below steps={self.steps}", self.warmup_steps < self.steps)
        if self.schedule == "step":
            require(self, "step_size", "a whole number >= 1 with schedule='step'", self.step_size >= 1)
        if self.schedule == "milestones":
            rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
            require(self, "milestones", "rising steps with schedule='milestones'", self.milestones and rising)
        if self.schedule == "plateau":
            require(self, "eval_every", ">= 1 with schedule='plateau', which follows the score", self.eval_every >= 1)
        require(self, "patience", "0 without eval_every", not self.patience or self.eval_every >= 1)
        self._check_loss()

    def _check_loss(self) -> None:
        if isinstance(self.loss, str):
            weighted = any(term.startswith("weighted_") for _, term in parse_loss(self.loss))
        else:
            require(self, "loss", "a name or a function of logits and target", callable(self.loss))
            fingerprint(self.loss)  # raises ValueError where it cannot be told from another
            weighted = False
        if weighted != (self.class_weights is not None):
            raise ValueError(
                f"loss={self.loss!r} and class_weights={self.class_weights!r} do not belong together: class weights "
                "are for 'weighted_ce' and 'weighted_focal', and these need them"
            )

    def finished(self, step: int, best_step: int | None) -> bool:
        """Whether a run whose best evaluation was at `best_step` is over after `step` steps."""
        if step >= self.steps:
            return True
        return bool(self.patience) and best_step is not None and step - best_step >= self.patience * self.eval_every

    def identity(self) -> dict[str, Any]:
        """What decides about the result, as JSON: all but what is written when, and how the work is shared.

        Of the sharing batch norm notices something: each process has statistics of its part of the batch, unless
        `sync_batch_norm` makes them those of one process.
        """
        return identity(self, without=("save_every", "workers", "sync_batch_norm", "wandb"))


def require(settings: object, name: str, rule: str, holds: object) -> None:
    """Raises ValueError that names the field `name` of some settings, its value and the rule, unless that holds."""
    if not holds:
        raise ValueError(f"{type(settings).__name__}({name}={getattr(settings, name)!r}): must be {rule}")


def require_count(settings: object, name: str, least: int = 1) -> None:
    """As `require`: a whole number of at least `least`."""
    value = getattr(settings, name)
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(settings, name, f"a whole number >= {least}", whole and value >= least)


def require_number(settings: object, name: str, above_zero: bool = False) -> None:
    """As `require`: a finite number of at least 0, or above it."""
    value = getattr(settings, name)
    real = isinstance(value, int | float) and math.isfinite(value)
    large = real and (value > 0 if above_zero else value >= 0)
    require(settings, name, f"a number {'>' if above_zero else '>='} 0", large)


def identity(settings: object, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass as JSON; a function stands as its `fingerprint` at this moment."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        return fingerprint(value) if callable(value) else value

    return json.loads(json.dumps({name: plain(v) for name, v in vars(settings).items() if name not in without}))


# What code of one's own does, in a notebook or beside it: it has no version but its source, so a run's key holds it.


def fingerprint(function: Callable) -> str:
    """Name and hash of a function, `"my_loss 5f0c31d2a9b7"`: equal as long as it does the same.

    The hash covers the source without comments and layout, the defaults, and the values that the function reads from
    around it (closure, globals): numbers, strings, tensors, arrays, containers of them, the attributes of dataclasses
    and modules, and the source of functions and classes of the same notebook or file. Of anything else it covers the
    name of the type or library. A `functools.partial` counts as its function and arguments.

    Raises:
        ValueError: a callable that is not a Python function, or one without a source.
    """
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    if not isinstance(inner, FunctionType | MethodType):
        raise ValueError(
            f"{inner!r} is not a Python function: a change of it could not be told, and results of the old one would "
            "be loaded for the new. Wrap it: def my_loss(logits, target): return ..."
        )
    text = json.dumps(_Reader(inner.__module__).read(function))
    return f"{function_name(function)} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def source(function: FunctionType) -> str:
    """The source of a function without comments and layout.

    Raises:
        ValueError: it stands in no file and no cell.
    """
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    places = set(code.co_positions())  # lambdas of one line are told apart by where their bodies stand
    for node in ast.walk(ast.parse("".join(lines))):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            if code.co_firstlineno in (node.lineno, *(decorator.lineno for decorator in node.decorator_list)):
                return ast.unparse(node)
        elif isinstance(node, ast.Lambda):
            body = node.body
            if (body.lineno, body.end_lineno, body.col_offset, body.end_col_offset) in places:
                return ast.unparse(node)
    raise ValueError(f"{code.co_qualname} has no source to know it by: define it in a cell or in a file")


_PLAIN = (int, float, complex, str, bytes, type(None), np.generic, torch.dtype, torch.device)


class _Reader:
    """Turns values into JSON; the source of functions and classes counts if they are of `module` or the notebook."""

    def __init__(self, module: str):
        self.own = ("__main__", module)
        self.seen: set[int] = set()  # functions and objects may name themselves

    def read(self, thing: Any) -> object:
        if isinstance(thing, _PLAIN):
            return repr(thing)
        if isinstance(thing, tuple | list):
            return [type(thing).__name__, *map(self.read, thing)]
        if isinstance(thing, dict):
            return [type(thing).__name__, *([self.read(key), self.read(value)] for key, value in thing.items())]
        if isinstance(thing, set | frozenset):
            return ["set", *sorted(json.dumps(self.read(item)) for item in thing)]
        if isinstance(thing, Tensor):
            data = thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            return [str(thing.dtype), list(thing.shape), hashlib.sha256(data).hexdigest()]
        if isinstance(thing, np.ndarray):
            whole = self.read(thing.tolist()) if thing.dtype.hasobject else hashlib.sha256(thing.tobytes()).hexdigest()
            return [str(thing.dtype), list(thing.shape), whole]
        if isinstance(thing, partial):
            return ["partial", self.read(thing.func), self.read(thing.args), self.read(thing.keywords)]
        if isinstance(thing, MethodType):
            return ["method", self.read(thing.__func__), self.read(thing.__self__)]
        return thing.__name__ if isinstance(thing, ModuleType) else self._code_or_object(thing)

    def _code_or_object(self, thing: Any) -> object:
        named = thing if hasattr(thing, "__name__") else type(thing)
        module = getattr(named, "__module__", None)  # NumPy's functions have none
        name, own = f"{module}.{named.__name__}", module in self.own
        if id(thing) in self.seen:
            return name
        self.seen.add(id(thing))
        if isinstance(thing, FunctionType):
            return self._function(thing) if own else name
        if isinstance(thing, type):
            members = {k: v for k, v in vars(thing).items() if isinstance(v, FunctionType) or not k.startswith("__")}
            return [self.read(thing.__bases__), self.read(members)] if own else name
        if own or dataclasses.is_dataclass(thing) or isinstance(thing, nn.Module | SimpleNamespace):
            return [name, self.read(type(thing)), self.read(getattr(thing, "__dict__", {}))]
        return name

    def _function(self, function: FunctionType) -> object:
        code, around = function.__code__, function.__globals__
        closure = {}
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a variable without a value yet
                closure[name] = cell.cell_contents
        around = {name: around[name] for name in sorted(set(_global_names(code))) if name in around}
        values = [function.__defaults__, function.__kwdefaults__, closure, around]
        return [source(function), *map(self.read, values)]


def _global_names(code: CodeType) -> Iterator[str]:
    """Global names that the code and the functions inside it read; attributes' names are not among them."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)
