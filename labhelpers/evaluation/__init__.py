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
from labhelpers.evaluation.table import Table
from labhelpers.evaluation.tiles import predict_tiles, tile_starts, tiled_logits
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
    "Table",
    "bootstrap",
    "boundary_band",
    "confusion_matrix",
    "count_parameters",
    "edge_distance",
    "evaluate",
    "foreground_iou",
    "inference",
    "inference_memory_mb",
    "normalized",
    "object_recall",
    "paired_bootstrap",
    "peak_memory_mb",
    "predict",
    "predict_tiles",
    "scores",
    "scores_by_size",
    "tile_starts",
    "tiled_logits",
    "time_inference",
    "trimap_curve",
]
