"""What goes in: data sets, downloads, synthetic scenes, joint transforms, loaders and statistics."""

from labhelpers.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augmentation, View, denormalize, sample_rng, to_input
from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset, decode_target
from labhelpers.data.download import DownloadError, fetch_sbd, fetch_voc
from labhelpers.data.folder import CAMVID_CLASSES, FolderSegmentation
from labhelpers.data.instances import InstanceDataset, Instances, boxes_of_masks, instance_target
from labhelpers.data.jigsaw import JIGSAW_CLASSES, make_jigsaw
from labhelpers.data.loader import (
    CachedDataset,
    SubsetDataset,
    cache,
    steps_per_epoch,
    subset,
    training_loader,
)
from labhelpers.data.open import Splits, open_course_data, open_splits
from labhelpers.data.packaged import PHOTOGRAPHS, photographs
from labhelpers.data.reading import voc_palette
from labhelpers.data.scenes import make_scenes
from labhelpers.data.statistics import (
    WEIGHT_METHODS,
    ClassStatistics,
    class_statistics,
    class_weights,
    rare_class_sample_weights,
)
from labhelpers.data.voc import COMPARISON_IDS, VOC_CLASSES, VOCSegmentation, comparison_indices

__all__ = [
    "CAMVID_CLASSES", "COMPARISON_IDS", "IGNORE_INDEX", "IMAGENET_MEAN", "IMAGENET_STD",
    "JIGSAW_CLASSES", "PHOTOGRAPHS", "VOC_CLASSES", "WEIGHT_METHODS", "Augmentation", "CachedDataset",
    "ClassStatistics", "DownloadError", "FolderSegmentation", "InstanceDataset", "Instances", "SegmentationDataset",
    "Splits", "SubsetDataset", "VOCSegmentation", "View", "boxes_of_masks", "cache", "class_statistics",
    "class_weights", "comparison_indices", "decode_target", "denormalize", "fetch_sbd", "fetch_voc", "instance_target",
    "make_jigsaw", "make_scenes", "open_course_data", "open_splits", "photographs", "rare_class_sample_weights",
    "sample_rng", "steps_per_epoch", "subset", "to_input", "training_loader", "voc_palette",
]  # fmt: skip
