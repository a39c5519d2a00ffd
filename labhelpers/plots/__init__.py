"""Figures with one look: make one with a function of this package, show it with `show`, keep it with `save`.

Every function returns a matplotlib Figure that pyplot does not know of, so nothing stays open. Label maps appear in the
VOC colours with a legend, series in colours that colour-blind readers can tell apart and with their own markers and
dashes. matplotlib is imported when the first figure is made, not before.
"""

from labhelpers.data.base import decode_target as colorize
from labhelpers.plots.bars import bars, class_bars, class_distribution, confusion_heatmap, heat_images
from labhelpers.plots.curves import click_curves, curves, interval_curves, lines, training_gap, trimap_curve
from labhelpers.plots.grids import augmentation_grid, category_grid, image_grid
from labhelpers.plots.instances import object_grid, segment_map
from labhelpers.plots.maps import (
    difference_legend,
    difference_map,
    error_legend,
    error_map,
    heat_legend,
    heat_map,
    overlay,
)
from labhelpers.plots.output import save, show
from labhelpers.plots.prompts import prompt_grid
from labhelpers.plots.scatter import calibration_plot, scatter, seed_dots
from labhelpers.plots.schematics import architecture

__all__ = [
    "architecture",
    "augmentation_grid",
    "bars",
    "calibration_plot",
    "category_grid",
    "class_bars",
    "class_distribution",
    "click_curves",
    "colorize",
    "confusion_heatmap",
    "curves",
    "difference_legend",
    "difference_map",
    "error_legend",
    "error_map",
    "heat_images",
    "heat_legend",
    "heat_map",
    "image_grid",
    "interval_curves",
    "lines",
    "object_grid",
    "overlay",
    "prompt_grid",
    "save",
    "scatter",
    "seed_dots",
    "segment_map",
    "show",
    "training_gap",
    "trimap_curve",
]
