"""How we judge: one evaluator, its scores, their uncertainty, and the table they go into."""

from labhelpers.evaluation.boundary import (
    BoundaryScores,
    boundary_band,
    boundary_counts,
    boundary_iou,
    edge_distance,
    trimap_curve,
)
from labhelpers.evaluation.clicks import ClickCurve, click_curve
from labhelpers.evaluation.confidence import Calibration, calibration
from labhelpers.evaluation.confusion import (
    METRICS,
    ConfusionMatrix,
    Scores,
    confusion_matrix,
    foreground_iou,
    normalized,
    scores,
)
from labhelpers.evaluation.costs import costs, count_flops, prompt_costs
from labhelpers.evaluation.evaluator import Evaluation, evaluate, inference, predict
from labhelpers.evaluation.expected import COURSE_MODELS, CourseModel, course_model, expected_table
from labhelpers.evaluation.final import FinalTable
from labhelpers.evaluation.grabcut import BoxEllipse, FilledBox, GrabCut, grabcut_box
from labhelpers.evaluation.instances import ObjectRef, clustered_bootstrap, mask_iou, objects
from labhelpers.evaluation.intervals import Comparison, Interval, bootstrap, paired_bootstrap
from labhelpers.evaluation.labelled import by_overlap, by_vote, paint
from labhelpers.evaluation.prompted import PROMPTS, PromptScores, RightObject, evaluate_prompts, right_object
from labhelpers.evaluation.prompted_classes import evaluate_everything, evaluate_prompted_classes
from labhelpers.evaluation.protocol import Protocol
from labhelpers.evaluation.results import ResultsTable
from labhelpers.evaluation.semantic import evaluate_semantic
from labhelpers.evaluation.sizes import SizeScore, object_recall, scores_by_size
from labhelpers.evaluation.table import Table
from labhelpers.evaluation.tiles import predict_tiles, tile_starts, tiled_logits
from labhelpers.evaluation.timing import count_parameters, inference_memory_mb, peak_memory_mb, time_inference

__all__ = [
    "COURSE_MODELS",
    "METRICS",
    "PROMPTS",
    "BoundaryScores",
    "BoxEllipse",
    "Calibration",
    "ClickCurve",
    "Comparison",
    "ConfusionMatrix",
    "CourseModel",
    "Evaluation",
    "FilledBox",
    "FinalTable",
    "GrabCut",
    "Interval",
    "ObjectRef",
    "PromptScores",
    "Protocol",
    "ResultsTable",
    "RightObject",
    "Scores",
    "SizeScore",
    "Table",
    "bootstrap",
    "boundary_band",
    "boundary_counts",
    "boundary_iou",
    "by_overlap",
    "by_vote",
    "calibration",
    "click_curve",
    "clustered_bootstrap",
    "confusion_matrix",
    "costs",
    "count_flops",
    "course_model",
    "count_parameters",
    "edge_distance",
    "evaluate",
    "evaluate_everything",
    "evaluate_prompted_classes",
    "evaluate_prompts",
    "evaluate_semantic",
    "expected_table",
    "foreground_iou",
    "grabcut_box",
    "inference",
    "inference_memory_mb",
    "mask_iou",
    "normalized",
    "object_recall",
    "objects",
    "paint",
    "paired_bootstrap",
    "peak_memory_mb",
    "predict",
    "predict_tiles",
    "prompt_costs",
    "right_object",
    "scores",
    "scores_by_size",
    "tile_starts",
    "tiled_logits",
    "time_inference",
    "trimap_curve",
]
