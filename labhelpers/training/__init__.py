"""How it learns: losses, optimizers and schedules, the loop, checkpoints, tracking, train-or-load."""

from .checkpoints import DamagedCheckpoint
from .loop import forward_backward, train
from .losses import LOSSES, Loss, build_loss, cross_entropy, dice, exponential_cross_entropy, focal
from .optim import Schedule, build_optimizer, build_schedule, learning_rates
from .recipe import OPTIMIZERS, PRECISIONS, SCHEDULES, Recipe
from .run import Run, load_finished, overfit_one_batch, train_or_load
from .session import Event, Session
from .tracking import History

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "PRECISIONS",
    "SCHEDULES",
    "DamagedCheckpoint",
    "Event",
    "History",
    "Loss",
    "Recipe",
    "Run",
    "Schedule",
    "Session",
    "build_loss",
    "build_optimizer",
    "build_schedule",
    "cross_entropy",
    "dice",
    "exponential_cross_entropy",
    "focal",
    "forward_backward",
    "learning_rates",
    "load_finished",
    "overfit_one_batch",
    "train",
    "train_or_load",
]
