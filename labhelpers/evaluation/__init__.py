"""How we judge: one evaluator, its scores, their uncertainty, and the table they go into."""

from labhelpers.evaluation.boundary import BoundaryScores, boundary_band, edge_distance, trimap_curve
from labhelpers.evaluation.confusion import (
    METRICS,
    ConfusionMatrix,
    Scores,
    confusion_matrix,
    foreground_iou,
    normalized,
    scores,
)
from labhelpers.evaluation.evaluator import Evaluation, evaluate, inference, predict
from labhelpers.evaluation.intervals import Comparison, Interval, bootstrap, paired_bootstrap
from labhelpers.evaluation.protocol import Protocol
from labhelpers.evaluation.results import ResultsTable
from labhelpers.evaluation.sizes import SizeScore, object_recall, scores_by_size
from labhelpers.evaluation.timing import count_parameters, inference_memory_mb, peak_memory_mb, time_inference

__all__ = [
    "METRICS",
    "BoundaryScores",
    "Comparison",
    "ConfusionMatrix",
    "Evaluation",
    "Interval",
    "Protocol",
    "ResultsTable",
    "Scores",
    "SizeScore",
    "bootstrap",
    "boundary_band",
    "confusion_matrix",
    "count_parameters",
    "edge_distance",
    "evaluate",
    "foreground_iou",
    "inference",
    "normalized",
    "object_recall",
    "paired_bootstrap",
    "inference_memory_mb",
    "peak_memory_mb",
    "predict",
    "scores",
    "scores_by_size",
    "time_inference",
    "trimap_curve",
]
