"""How we judge: one evaluator, its scores, their uncertainty, and the table they go into."""

from labhelpers.evaluation.average_precision import (
    AveragePrecision,
    FailureKind,
    Failures,
    InstanceEvaluation,
    average_precision,
    boxes_ap50,
    evaluate_instances,
    failures,
    instance_table,
    match_detections,
)
from labhelpers.evaluation.boundary import (
    boundary_counts,
    boundary_iou,
    edge_distance,
)
from labhelpers.evaluation.confusion import (
    METRICS,
    ConfusionMatrix,
    Scores,
    confusion_matrix,
    foreground_iou,
    scores,
)
from labhelpers.evaluation.costs import (
    costs,
    count_flops,
    count_parameters,
    inference_memory_mb,
    peak_memory_mb,
    time_inference,
)
from labhelpers.evaluation.evaluator import (
    Evaluation,
    FoundEdges,
    Protocol,
    SizeScore,
    edges_of_found,
    evaluate,
    inference,
    object_recall,
    predict,
    scores_by_size,
    side_by_side,
)
from labhelpers.evaluation.intervals import Comparison, Interval, bootstrap, paired_bootstrap
from labhelpers.evaluation.panoptic import PanopticQuality, merge_panoptic, panoptic_quality
from labhelpers.evaluation.results import (
    COURSE_MODELS,
    CourseModel,
    FinalTable,
    ResultsTable,
    Table,
    compare,
    course_model,
    expected_table,
)
from labhelpers.evaluation.tiles import tile_starts, tiled_logits

__all__ = [
    "COURSE_MODELS", "METRICS", "AveragePrecision", "Comparison", "ConfusionMatrix", "CourseModel", "Evaluation",
    "FailureKind", "Failures", "FinalTable", "FoundEdges", "InstanceEvaluation", "Interval", "PanopticQuality",
    "Protocol", "ResultsTable", "Scores", "SizeScore", "Table", "average_precision", "bootstrap", "boundary_counts",
    "boundary_iou", "boxes_ap50", "compare", "confusion_matrix", "costs", "count_flops", "count_parameters",
    "course_model", "edge_distance", "edges_of_found", "evaluate", "evaluate_instances", "expected_table",
    "failures", "foreground_iou", "inference", "inference_memory_mb", "instance_table", "match_detections",
    "merge_panoptic", "object_recall", "paired_bootstrap", "panoptic_quality", "peak_memory_mb", "predict",
    "scores", "scores_by_size", "side_by_side", "tile_starts", "tiled_logits", "time_inference",
]  # fmt: skip
