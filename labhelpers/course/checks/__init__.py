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
    joint_crop_flip,
    mean_iou,
    voc_dataset,
    voc_palette,
)
from labhelpers.course.checks.lab02 import (
    bilinear_kernel,
    dice_loss,
    fcn8s,
    fcn16s,
    fcn32s,
    linear_to_conv,
    train_step,
    transposed_conv,
    transposed_output_size,
)
from labhelpers.course.checks.lab03 import (
    aspp,
    atrous_conv,
    cut_encoder,
    deeplab_head,
    deeplab_head_plus,
    deeplab_v3plus,
    dilate,
    effective_kernel,
    focal_loss,
    looked_at,
    own_loss,
    poly_lr,
    step_lr,
    train_scheduled,
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
    "binary_cross_entropy",
    "binary_scores",
    "box_embedding",
    "box_from_mask",
    "class_weights",
    "confusion_matrix",
    "cut_encoder",
    "decode_target",
    "deeplab_head",
    "deeplab_head_plus",
    "deeplab_v3plus",
    "dice_loss",
    "dilate",
    "disagreement",
    "double_conv",
    "effective_kernel",
    "fcn16s",
    "fcn32s",
    "fcn8s",
    "focal_loss",
    "grade",
    "iou_head",
    "is_reference",
    "joint_crop_flip",
    "label_masks",
    "linear_to_conv",
    "looked_at",
    "mean_iou",
    "micro_macro_iou",
    "next_click",
    "non_maximum_suppression",
    "number_of_clicks",
    "offset_maps",
    "own_loss",
    "pad_to_multiple",
    "pareto_front",
    "point_embedding",
    "poly_lr",
    "prompt_loss",
    "sample_points",
    "should_stop",
    "stability_score",
    "step_lr",
    "tile_starts",
    "train_scheduled",
    "train_step",
    "training_step",
    "transposed_conv",
    "transposed_output_size",
    "unet",
    "valid_output_size",
    "voc_dataset",
    "voc_palette",
]

BY_LAB: dict[str, dict[str, Exercise]] = {
    lab.__name__[-2:]: {item.title: item for item in vars(lab).values() if isinstance(item, Exercise)}
    for lab in (lab01, lab02, lab03, lab04, lab05, lab06, lab07)
}
"""The exercises of each lab, by what the notebook calls them: BY_LAB["02"]["FCN8s"]."""

EXERCISES.update({name: item for name, item in globals().items() if isinstance(item, Exercise)})
