"""Checks of the exercises: `FCN8s = checks.fcn8s(FCN8s)`.

A right answer is handed back, with one line that says so. A wrong one gives a hint that names the likely mistake, and
the library's answer is handed back instead, so that the notebook goes on. Graded cells call `grade`: it raises.
"""

from labhelpers.course.checks import lab01, lab02, lab03, lab04, lab05, lab06, lab07
from labhelpers.course.checks.core import EXERCISES, Exercise, grade, is_reference
from labhelpers.course.checks.lab01 import (
    class_weights,
    confusion_matrix,
    decode_target,
    draw_labels,
    has_two_of_a_kind,
    joint_crop_flip,
    label_counts,
    labels_from_colours,
    mean_iou,
    mean_of_batches,
    move_points,
    normalise,
    pixel_scores,
    voc_dataset,
    voc_palette,
)
from labhelpers.course.checks.lab02 import (
    bilinear_kernel,
    bilinear_layer,
    crop_like,
    dice_loss,
    fcn8s,
    fcn16s,
    fcn32s,
    linear_to_conv,
    parameter_groups,
    resnet_features,
    score_layer,
    shares,
    train_loop,
    train_step,
    transposed_conv,
    transposed_output_size,
    upsample_layer,
    warmup_poly,
)
from labhelpers.course.checks.lab03 import (
    aspp,
    atrous_conv,
    deeplab_head_plus,
    effective_kernel,
    exponential_cross_entropy,
    poly_lr,
)
from labhelpers.course.checks.lab04 import (
    binary_cross_entropy,
    binary_scores,
    double_conv,
    pad_to_multiple,
    should_stop,
    tile_starts,
    unet,
    valid_output_size,
)
from labhelpers.course.checks.lab05 import best_epoch, disagreement, micro_macro_iou, pareto_front
from labhelpers.course.checks.lab06 import (
    box_embedding,
    box_from_mask,
    iou_head,
    next_click,
    offset_maps,
    point_embedding,
    prompt_loss,
    sample_points,
    training_step,
)
from labhelpers.course.checks.lab07 import label_masks, non_maximum_suppression, number_of_clicks, stability_score

__all__ = [
    "aspp",
    "atrous_conv",
    "best_epoch",
    "bilinear_kernel",
    "bilinear_layer",
    "binary_cross_entropy",
    "binary_scores",
    "box_embedding",
    "box_from_mask",
    "class_weights",
    "confusion_matrix",
    "crop_like",
    "decode_target",
    "deeplab_head_plus",
    "dice_loss",
    "disagreement",
    "double_conv",
    "draw_labels",
    "effective_kernel",
    "exponential_cross_entropy",
    "fcn16s",
    "fcn32s",
    "fcn8s",
    "grade",
    "has_two_of_a_kind",
    "iou_head",
    "is_reference",
    "joint_crop_flip",
    "label_counts",
    "label_masks",
    "labels_from_colours",
    "linear_to_conv",
    "mean_iou",
    "mean_of_batches",
    "micro_macro_iou",
    "move_points",
    "next_click",
    "non_maximum_suppression",
    "normalise",
    "number_of_clicks",
    "offset_maps",
    "pad_to_multiple",
    "parameter_groups",
    "pareto_front",
    "pixel_scores",
    "point_embedding",
    "poly_lr",
    "prompt_loss",
    "resnet_features",
    "sample_points",
    "score_layer",
    "shares",
    "should_stop",
    "stability_score",
    "tile_starts",
    "train_loop",
    "train_step",
    "training_step",
    "transposed_conv",
    "transposed_output_size",
    "unet",
    "upsample_layer",
    "valid_output_size",
    "voc_dataset",
    "voc_palette",
    "warmup_poly",
]

BY_LAB: dict[str, dict[str, Exercise]] = {
    lab.__name__[-2:]: {item.title: item for item in vars(lab).values() if isinstance(item, Exercise)}
    for lab in (lab01, lab02, lab03, lab04, lab05, lab06, lab07)
}
"""The exercises of each lab, by what the notebook calls them: BY_LAB["02"]["FCN8s"]."""

EXERCISES.update({name: item for name, item in globals().items() if isinstance(item, Exercise)})
