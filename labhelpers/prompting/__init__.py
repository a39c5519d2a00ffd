"""How we ask: prompts simulated from masks, predictors that answer them, a session and a canvas to click on."""

from typing import Any

from labhelpers.prompting.clicks import ClickCurve, click_curve
from labhelpers.prompting.everything import click_candidates, paint
from labhelpers.prompting.grabcut import BoxEllipse, FilledBox, GrabCut, grabcut_box
from labhelpers.prompting.objects import ObjectRef, clustered_bootstrap, mask_iou, objects
from labhelpers.prompting.predictor import MiniSamPredictor, OneLook, Predictor, Prompt
from labhelpers.prompting.sam import SamPredictor, load_sam
from labhelpers.prompting.sam_tuning import SamRecipe, TunedSam, sam_loss, tune_sam_decoder
from labhelpers.prompting.sampling import box_from_mask, centre_click, next_click, random_click, sample_points
from labhelpers.prompting.scores import (
    PROMPTS,
    Calibration,
    PromptScores,
    RightObject,
    calibration,
    evaluate_prompted_classes,
    evaluate_prompts,
    evaluate_semantic,
    prompt_costs,
    right_object,
)
from labhelpers.prompting.session import Answer, PromptSession
from labhelpers.prompting.shipped import load_mini_sam, load_predictor
from labhelpers.prompting.task import (
    Prompts,
    PromptTask,
    SemanticPromptTask,
    prompt_loss,
    sample_prompts,
    step_loss,
    true_iou,
)

__all__ = [
    "PROMPTS",
    "Answer",
    "BoxEllipse",
    "Calibration",
    "ClickCurve",
    "FilledBox",
    "GrabCut",
    "MiniSamPredictor",
    "ObjectRef",
    "OneLook",
    "Predictor",
    "Prompt",
    "PromptCanvas",
    "PromptScores",
    "PromptSession",
    "PromptTask",
    "Prompts",
    "RightObject",
    "SamPredictor",
    "SamRecipe",
    "SemanticPromptTask",
    "TunedSam",
    "box_from_mask",
    "calibration",
    "centre_click",
    "click_candidates",
    "click_curve",
    "clustered_bootstrap",
    "evaluate_prompted_classes",
    "evaluate_prompts",
    "evaluate_semantic",
    "grabcut_box",
    "load_mini_sam",
    "load_predictor",
    "load_sam",
    "mask_iou",
    "next_click",
    "objects",
    "paint",
    "prompt_costs",
    "prompt_loss",
    "random_click",
    "right_object",
    "sam_loss",
    "sample_points",
    "sample_prompts",
    "step_loss",
    "true_iou",
    "tune_sam_decoder",
]


def __getattr__(name: str) -> Any:
    """The canvas is loaded where it is used: all else works, and is imported, without widgets."""
    if name == "PromptCanvas":
        from labhelpers.prompting.canvas import PromptCanvas

        return PromptCanvas
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
