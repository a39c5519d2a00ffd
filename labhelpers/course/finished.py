"""What has been trained, found again: the runs of a plan on the disk, whoever trained them."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labhelpers import config, evaluation
from labhelpers.course.plans import PLANS, Plan, Task
from labhelpers.training import History, checkpoints
from labhelpers.training.run import describe

CLOSE = 0.01  # how far a score may lie from that of the training, which may have been in another precision


@dataclass(frozen=True)
class FinishedRun:
    """A finished training on the disk."""

    folder: Path
    history: History
    facts: dict[str, Any]  # run.json
    info: dict[str, Any]  # bookkeeping of the last step: seconds, best_step, best_score, saved_at
    steps: int  # that were made

    @property
    def minutes(self) -> float:
        return self.info["seconds"] / 60

    @property
    def weights(self) -> Path:
        """The safetensors file of the best evaluation."""
        return self.folder / f"step-{self.info['best_step']:08d}.model.safetensors"

    def __str__(self) -> str:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.info["saved_at"]))
        return f"trained {day} in {self.minutes:.1f} min, key {self.folder.name}"


def find_run(plan: Plan, task: Task, profile: config.Profile) -> FinishedRun | None:
    """The newest finished run of the plan: same data, recipe and seed, any class, and any loss if that is an exercise.

    Unfinished, damaged and other runs (of another profile, say) are passed over.
    """
    model = plan.new_model(profile, task, to_train=False)
    wanted = _comparable(describe(model, task.train_set, task.val_set, task.recipe), plan.own_loss)
    found = []
    for path in config.checkpoints_root().glob("*/*/run.json"):
        try:
            facts = json.loads(path.read_bytes())
            if facts["name"] != plan.run or _comparable(facts, plan.own_loss) != wanted:
                continue
            last = checkpoints.latest(path.parent, parts=())
            if last is not None and task.recipe.finished(last.step, last.info["best_step"]):
                history = History.read(path.parent / "log.csv")
                found.append(FinishedRun(path.parent, history, facts, last.info, last.step))
        except (OSError, ValueError, KeyError):
            continue
    return max(found, key=lambda run: run.info["saved_at"], default=None)


def find_all(profile: config.Profile) -> list[tuple[Plan, Task, FinishedRun]]:
    """The finished runs of all plans, in the order of the labs.

    Data are opened, which may mean a download, only where a run of that name is on the disk, and once for each kind.
    """
    names, tasks, found = set(_names_on_disk()), {}, []
    for plan in PLANS.values():
        if plan.run in names:
            if plan.task not in tasks:
                tasks[plan.task] = plan.task(profile)
            run = find_run(plan, tasks[plan.task], profile)
            if run is not None:
                found.append((plan, tasks[plan.task], run))
    return found


def _names_on_disk() -> Iterator[str]:
    """The names of all runs, finished or not."""
    for path in config.checkpoints_root().glob("*/*/run.json"):
        try:
            yield json.loads(path.read_bytes())["name"]
        except (ValueError, KeyError):  # damaged; no run is loaded from it either
            continue


def require_run(plan: Plan, task: Task, profile: config.Profile) -> FinishedRun:
    """As :func:`find_run`.

    Raises:
        FileNotFoundError: there is none; says how to train it.
    """
    run = find_run(plan, task, profile)
    if run is None:
        raise FileNotFoundError(
            f"{plan.title} is not trained in the profile {profile.name} (looked in {config.checkpoints_root()}). "
            f"Run: labhelpers train {plan.name}"
        )
    return run


def _comparable(facts: dict[str, Any], any_loss: bool) -> dict[str, Any]:
    """What two runs must agree in."""
    recipe = {name: value for name, value in facts["recipe"].items() if not (any_loss and name == "loss")}
    return {"train_set": facts["train_set"], "val_set": facts["val_set"], "recipe": recipe}


def load_model(run: FinishedRun, plan: Plan, task: Task, profile: config.Profile) -> nn.Module:
    """The library's network with the weights of the run's best evaluation, in eval mode, on the device that trains.

    A student's class may wrap its layers in other containers than the library's, so that "conv1.0.weight" here is
    "conv1.weight" there. Such weights are matched in the order of their names, where their shapes allow it, and taken
    only if the network then reaches the score that the training has written down.

    Raises:
        DamagedCheckpoint: a file is missing or altered.
        ValueError: the weights do not fit the library's network; says where they lie.
    """
    model = plan.new_model(profile, task, to_train=False)
    weights = checkpoints.read(run.folder, run.info["best_step"], parts=("model",)).parts["model"]
    by_name = weights.keys() == model.state_dict().keys()
    fitting = weights if by_name else matched(model.state_dict(), weights, plan.renamed)
    checkpoints.load_model(model, fitting, run.folder)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    if not by_name:
        _check_score(model, run, task)
    return model


def matched(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], renamed: Mapping[str, str] | None = None
) -> Mapping[str, Tensor]:
    """`weights` under the names of `own`, matched in the order of their names; as they are where shapes disagree.

    Args:
        renamed: what the beginning of a name is replaced by before they are put in order.
    """

    def place(name: str) -> list[tuple[bool, int, str]]:
        for old, new in (renamed or {}).items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split(".")]

    theirs, mine = sorted(weights, key=place), sorted(own, key=place)
    if [weights[name].shape for name in theirs] != [own[name].shape for name in mine]:
        return weights
    return {name: weights[found] for name, found in zip(mine, theirs, strict=True)}


def _check_score(model: nn.Module, run: FinishedRun, task: Task) -> None:
    score = evaluation.evaluate(model, task.val_set, batch_size=8, bands=(), per_image=False).scores.mean_iou
    if abs(score - run.info["best_score"]) > CLOSE:
        raise ValueError(
            f"the layers of the network in {run.folder} have other names than the library's, and in the order of "
            f"their names they do not fit: mean IoU {score:.3f} instead of {run.info['best_score']:.3f}. Give your "
            "layers the library's names, and train again."
        )
