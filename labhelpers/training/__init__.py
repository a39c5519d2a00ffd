"""How it learns: losses, optimizers and schedules, the loop, checkpoints, tracking, train-or-load."""

from labhelpers.training.checkpoints import DamagedCheckpoint
from labhelpers.training.loop import forward_backward, train
from labhelpers.training.losses import LOSSES, Loss, build_loss, cross_entropy, dice, exponential_cross_entropy, focal
from labhelpers.training.optim import Schedule, build_optimizer, build_schedule, learning_rates
from labhelpers.training.prompt_loss import prompt_loss, true_iou
from labhelpers.training.prompted import PromptRecipe
from labhelpers.training.prompted_semantic import SemanticPromptRecipe
from labhelpers.training.recipe import OPTIMIZERS, PRECISIONS, SCHEDULES, Recipe
from labhelpers.training.run import Run, load_finished, overfit_one_batch, train_or_load
from labhelpers.training.sam_loss import sam_loss
from labhelpers.training.sam_tuning import SamRecipe, TunedSam, tune_sam_decoder
from labhelpers.training.session import Event, Session
from labhelpers.training.tracking import History

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
