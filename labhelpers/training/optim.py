"""Optimizers and learning-rate schedules."""

import math
from typing import Any

import torch
from torch import nn

from labhelpers.training.recipe import Recipe


def encoder_of(model: nn.Module) -> nn.Module | None:
    """The part with pretrained weights: `model.encoder`; Mini-SAM's `image_encoder`, a detector's `backbone.body`."""
    parts = [getattr(model, name, None) for name in ("encoder", "image_encoder")]
    parts.append(getattr(getattr(model, "backbone", None), "body", None))
    return next((part for part in parts if isinstance(part, nn.Module)), None)


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer, fused where the device has it (two to three times faster, on a CPU too).

    Two groups of parameters: those of `encoder_of(model)` at `lr * backbone_factor` and the rest at `lr`. A frozen
    encoder is in its group too and joins when it gets gradients. The model must be on its device already.

    Raises:
        ValueError: a backbone factor without `model.encoder`.
    """
    part = encoder_of(model)
    encoder = list(part.parameters()) if part is not None else []
    if not encoder and recipe.backbone_factor != 1:
        raise ValueError(
            f"backbone_factor={recipe.backbone_factor} needs model.encoder, and {type(model).__name__} has none; name "
            "the pretrained part `encoder`, or set backbone_factor=1"
        )
    known = {id(p) for p in encoder}
    rest = [p for p in model.parameters() if id(p) not in known]
    rates = [(rest, recipe.lr), (encoder, recipe.lr * recipe.backbone_factor)]
    groups = [{"params": parameters, "lr": lr} for parameters, lr in rates if parameters]
    fused = all(p.device.type in ("cpu", "cuda", "mps") and p.is_floating_point() for p in model.parameters())
    options: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": fused}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, **options)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimizer](groups, **options)


def lr_factor(recipe: Recipe, step: int) -> float:
    """The schedule at `step` (0 to steps - 1) as a factor on the learning rate; `plateau` is left to the scores.

    `poly`: (1 - s / S)^0.9 as in DeepLab (Chen et al., 2017); `cosine`: Loshchilov and Hutter, SGDR (2017), equation 5
    without restarts. s counts from the end of the warm-up.
    """
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    if recipe.schedule == "poly":
        return (1 - progress) ** recipe.power
    if recipe.schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if recipe.schedule == "step":
        return recipe.gamma ** (step // recipe.step_size)
    if recipe.schedule == "milestones":
        return recipe.gamma ** sum(step >= milestone for milestone in recipe.milestones)
    return 1.0


def learning_rates(recipe: Recipe) -> list[float]:
    """The learning rate of the head at each step, for a plot (`plateau` as if every score were a better one)."""
    return [recipe.lr * lr_factor(recipe, step) for step in range(recipe.steps)]


class Schedule:
    """Sets the learning rate of each step; a function of the step, except that `plateau` remembers scores.

    The learning rates that the optimizer has at the beginning are the full ones.

    >>> schedule.step(0)         # before the optimizer's first step
    >>> schedule.observe(score)  # after an evaluation
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe):
        self.optimizer, self.recipe = optimizer, recipe
        self.full = [group["lr"] for group in optimizer.param_groups]
        self.state: dict[str, Any] = {"scale": 1.0, "best": None, "worse": 0}

    def step(self, step: int) -> float:
        """Sets the rates of `step`; returns that of the head."""
        factor = lr_factor(self.recipe, step) * self.state["scale"]
        for group, full in zip(self.optimizer.param_groups, self.full, strict=True):
            group["lr"] = full * factor
        self.lr = self.optimizer.param_groups[0]["lr"]
        return self.lr

    def observe(self, score: float) -> None:
        """Plateau: multiplies the rate by its factor after more than `plateau_patience` scores that are no better."""
        if self.recipe.schedule != "plateau":
            return
        if self.state["best"] is None and math.isnan(score):  # there is nothing yet that it could be worse than
            return
        if self.state["best"] is None or score > self.state["best"]:
            self.state |= {"best": score, "worse": 0}
            return
        self.state["worse"] += 1
        if self.state["worse"] > self.recipe.plateau_patience:
            self.state |= {"scale": self.state["scale"] * self.recipe.plateau_factor, "worse": 0}
