"""How it learns: losses, optimizers and schedules, the loop, checkpoints, tracking, train-or-load."""

from labhelpers.training.checkpoints import DamagedCheckpoint
from labhelpers.training.instances import InstanceTask, ObjectMaps
from labhelpers.training.loop import forward_backward, train
from labhelpers.training.losses import LOSSES, Loss, build_loss, cross_entropy, dice, exponential_cross_entropy, focal
from labhelpers.training.optim import Schedule, build_optimizer, learning_rates
from labhelpers.training.recipe import OPTIMIZERS, PRECISIONS, SCHEDULES, Recipe
from labhelpers.training.run import FinishedRun, Run, finished_runs, load_finished, train_or_load
from labhelpers.training.task import CLASS_LABELS, Event, Task, TrainingState, resolve_precision
from labhelpers.training.tracking import History

__all__ = [
    "CLASS_LABELS",
    "LOSSES",
    "OPTIMIZERS",
    "PRECISIONS",
    "SCHEDULES",
    "DamagedCheckpoint",
    "Event",
    "FinishedRun",
    "History",
    "InstanceTask",
    "Loss",
    "ObjectMaps",
    "Recipe",
    "Run",
    "Schedule",
    "Task",
    "TrainingState",
    "build_loss",
    "build_optimizer",
    "cross_entropy",
    "dice",
    "exponential_cross_entropy",
    "finished_runs",
    "focal",
    "forward_backward",
    "learning_rates",
    "load_finished",
    "resolve_precision",
    "train",
    "train_or_load",
]
