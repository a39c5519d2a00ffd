"""How it learns: losses, optimizers and schedules, the loop, checkpoints, tracking, train-or-load."""

from .checkpoints import DamagedCheckpoint
from .loop import forward_backward, train
from .losses import LOSSES, Loss, build_loss, cross_entropy, dice, exponential_cross_entropy, focal
from .optim import Schedule, build_optimizer, build_schedule, learning_rates
from .prompt_loss import prompt_loss, true_iou
from .prompted import PromptRecipe
from .prompted_semantic import SemanticPromptRecipe
from .recipe import OPTIMIZERS, PRECISIONS, SCHEDULES, Recipe
from .run import Run, load_finished, overfit_one_batch, train_or_load
from .sam_loss import sam_loss
from .sam_tuning import SamRecipe, TunedSam, tune_sam_decoder
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
    "PromptRecipe",
    "Recipe",
    "Run",
    "SamRecipe",
    "Schedule",
    "SemanticPromptRecipe",
    "Session",
    "TunedSam",
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
    "prompt_loss",
    "sam_loss",
    "train",
    "train_or_load",
    "true_iou",
    "tune_sam_decoder",
]
