"""Checks of the exercises: ``FCN8s = checks.fcn8s(FCN8s)``.

A right answer is handed back, with one line that says so. A wrong one gives a hint that names the likely mistake, and
the library's answer is handed back instead, so that the notebook goes on. Graded cells call :func:`grade`: it raises.
"""

from labhelpers.course.checks.aspp import aspp
from labhelpers.course.checks.atrous import atrous_conv, effective_kernel
from labhelpers.course.checks.convolutions import (
    bilinear_kernel,
    linear_to_conv,
    transposed_conv,
    transposed_output_size,
)
from labhelpers.course.checks.core import grade, is_reference
from labhelpers.course.checks.data import decode_target, joint_crop_flip, voc_dataset, voc_palette
from labhelpers.course.checks.deeplab import deeplab_head_plus
from labhelpers.course.checks.exponential import exponential_cross_entropy
from labhelpers.course.checks.fcn import fcn8s, fcn16s, fcn32s
from labhelpers.course.checks.recipe import parameter_groups, poly_lr
from labhelpers.course.checks.scores import class_weights, confusion_matrix, mean_iou
from labhelpers.course.checks.training import dice_loss, train_step

__all__ = [
    "aspp",
    "atrous_conv",
    "bilinear_kernel",
    "class_weights",
    "confusion_matrix",
    "decode_target",
    "deeplab_head_plus",
    "dice_loss",
    "effective_kernel",
    "exponential_cross_entropy",
    "fcn16s",
    "fcn32s",
    "fcn8s",
    "grade",
    "is_reference",
    "joint_crop_flip",
    "linear_to_conv",
    "mean_iou",
    "parameter_groups",
    "poly_lr",
    "train_step",
    "transposed_conv",
    "transposed_output_size",
    "voc_dataset",
    "voc_palette",
]
