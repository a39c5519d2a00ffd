"""Checkpoints that survive a crash: safetensors for the tensors, a small JSON for the rest, no pickle.

A checkpoint of step 120 is three files:

    step-00000120.model.safetensors      the model's state
    step-00000120.optimizer.safetensors  the optimizer's state
    step-00000120.json                   bookkeeping, the log up to there, the SHA-256 of the two, and one of itself

Each file appears under its name only when it is complete on the disk, and the JSON last: a checkpoint without a JSON
was never finished, and one whose hashes differ is damaged. The two last checkpoints are kept, and the best's model.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labhelpers.files import read_json, sealed, write_atomic

PARTS = ("model", "optimizer")
LOG = "log.csv"
_NUMBERED = "step-" + 8 * "[0-9]"


class DamagedCheckpoint(RuntimeError):
    """A checkpoint that is incomplete or not what was written: `path` is the file, missing or damaged."""

    def __init__(self, path: Path, reason: object):
        self.path = path
        super().__init__(f"{path} is damaged: {reason}")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory: `parts["model"]` and `parts["optimizer"]` map names to tensors on the CPU."""

    step: int
    info: dict[str, Any]
    parts: dict[str, dict[str, Tensor]]


def save(run_dir: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], info: dict[str, Any]) -> None:
    """Writes the checkpoint of `step` and removes those no longer needed; `info["best_step"]` is kept.

    `info["log"]`, if there is one, is written to `log.csv` as well.

    Raises:
        RuntimeError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    from safetensors.torch import save as to_bytes

    run_dir.mkdir(parents=True, exist_ok=True)
    hashes = {}
    try:
        if "log" in info:
            write_atomic(run_dir / LOG, info["log"].encode())
        for part, tensors in parts.items():
            own = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
            data = to_bytes(own)
            hashes[part] = hashlib.sha256(data).hexdigest()
            write_atomic(_file(run_dir, step, part), data)
        text = json.dumps(sealed({"step": step, "sha256": hashes, **info}), indent=1)
        write_atomic(_file(run_dir, step), text.encode())
    except OSError as error:
        kept = [s for s in _steps(run_dir) if s != step]
        raise RuntimeError(
            f"could not save the checkpoint of step {step} in {run_dir}: {error.strerror or error}. "
            + (f"The one of step {kept[0]} is intact. " if kept else "There is none before it. ")
            + "Free some space there (or set LAB_CHECKPOINTS to another folder) and run again: training continues."
        ) from error
    _prune(run_dir)


def read(run_dir: Path, step: int, parts: tuple[str, ...] = PARTS) -> Checkpoint:
    """Reads and verifies one checkpoint.

    Raises:
        DamagedCheckpoint: a file is missing, cut short or altered.
    """
    from safetensors.torch import load as from_bytes

    path, log = _file(run_dir, step), run_dir / LOG
    try:
        info = read_json(path)
        if info["step"] != step or not {"best_step", "sha256"} <= info.keys():
            raise ValueError("it is not what was written")
        if "log" not in info and log.exists():  # of an earlier version: a header, and a row for each step
            lines = log.read_text(encoding="utf-8-sig", errors="replace").splitlines(keepends=True)
            info["log"] = "".join(lines[: step + 1])
        tensors = {}
        for part in parts:
            path = _file(run_dir, step, part)
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != info["sha256"][part]:
                raise ValueError("its SHA-256 is not the one written down in its JSON")
            tensors[part] = from_bytes(data)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(path, error) from error
    return Checkpoint(step, info, tensors)


def latest(run_dir: Path, parts: tuple[str, ...] = PARTS) -> Checkpoint | None:
    """The newest undamaged checkpoint, None if there is none. Warns of each damaged one that it passes over."""
    steps = _steps(run_dir)
    for step, before in zip_longest(steps, steps[1:]):
        try:
            return read(run_dir, step, parts)
        except DamagedCheckpoint as error:
            then = "nothing is left to continue from" if before is None else f"falling back to step {before}"
            warnings.warn(f"{error}; {then}.", stacklevel=2)
    return None


def discard_after(run_dir: Path, step: int) -> None:
    """Removes what is newer than `step` (damaged or unfinished), so that it cannot be taken for a result later."""
    for path in run_dir.glob(f"{_NUMBERED}.*"):
        if int(path.name[5:13]) > step or path.name.endswith(".partial"):
            path.unlink()


def discard_optimizer(run_dir: Path) -> None:
    """Removes what only continuing needs, two thirds of a run's disk space: for a run that is finished."""
    for path in run_dir.glob(f"{_NUMBERED}.optimizer.*"):
        path.unlink()


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copies weights into the model.

    Raises:
        ValueError: they belong to another architecture; names the first differences and the remedy.
    """
    own = model.state_dict()
    problems = [f"{k}: shape {tuple(tensors[k].shape)} saved, {tuple(v.shape)} in the model" for k, v in own.items()
                if k in tensors and tensors[k].shape != v.shape]  # fmt: skip
    problems += [f"{k}: not in the checkpoint" for k in own if k not in tensors]
    problems += [f"{k}: not in the model" for k in tensors if k not in own]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(
            f"the checkpoint in {source} is of another architecture than this {type(model).__name__}: "
            f"{'; '.join(problems[:3])}{more}. Build the model with the options it was trained with (backbone, width, "
            "num_classes), or use another run directory."
        )
    model.load_state_dict(dict(tensors))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: `"3.exp_avg"` belongs to parameter 3."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": t for i, values in state.items() for name, t in values.items() if t is not None}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restores what `optimizer_tensors` gave, on each parameter's device and in its memory layout."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, values in optimizer.state.items():
        for name, tensor in values.items():
            if tensor.shape == parameter.shape:  # fused kernels need one layout (channels_last) for all
                values[name] = torch.empty_like(parameter).copy_(tensor)


def _file(run_dir: Path, step: int, part: str | None = None) -> Path:
    return run_dir / (f"step-{step:08d}.json" if part is None else f"step-{step:08d}.{part}.safetensors")


def _steps(run_dir: Path) -> list[int]:
    """Steps of the finished checkpoints, newest first."""
    return sorted((int(path.name[5:13]) for path in run_dir.glob(f"{_NUMBERED}.json")), reverse=True)


def _prune(run_dir: Path) -> None:
    last = [step for step in _steps(run_dir) if _file(run_dir, step, "optimizer").exists()][:2]
    best = {_best_step(run_dir, step) for step in last}
    for path in run_dir.glob(f"{_NUMBERED}.*"):
        step = int(path.name[5:13])
        if step not in last and (step not in best or ".optimizer." in path.name):
            path.unlink()


def _best_step(run_dir: Path, step: int) -> int | None:
    with suppress(DamagedCheckpoint):  # latest() says so when it matters
        return read(run_dir, step, parts=()).info["best_step"]
    return None
