"""How we ask: prompts simulated from masks, predictors that answer them, a session and a canvas to click on."""

from typing import Any

from labhelpers.prompting.everything import FoundMasks, segment_everything
from labhelpers.prompting.predictor import MiniSamPredictor, Predictor
from labhelpers.prompting.sam import SamPredictor, load_sam
from labhelpers.prompting.sampling import box_from_mask, centre_click, next_click, random_click, sample_points
from labhelpers.prompting.session import PromptSession
from labhelpers.prompting.shipped import load_mini_sam, load_predictor, mini_sam_weights
from labhelpers.prompting.steps import Answer

__all__ = [
    "Answer",
    "FoundMasks",
    "MiniSamPredictor",
    "Predictor",
    "PromptCanvas",
    "PromptSession",
    "SamPredictor",
    "box_from_mask",
    "centre_click",
    "load_mini_sam",
    "load_predictor",
    "load_sam",
    "mini_sam_weights",
    "next_click",
    "random_click",
    "sample_points",
    "segment_everything",
]


def __getattr__(name: str) -> Any:
    """The canvas is loaded where it is used: all else works, and is imported, without widgets."""
    if name == "PromptCanvas":
        from labhelpers.prompting.canvas import PromptCanvas

        return PromptCanvas
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
