"""What goes in: data sets, downloads, synthetic scenes, joint transforms, loaders and statistics."""

from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset, decode_target, voc_palette
from labhelpers.data.fetch import fetch_sbd, fetch_voc
from labhelpers.data.folder import CAMVID_CLASSES, FolderSegmentation
from labhelpers.data.open import open_course_data
from labhelpers.data.transfer import DownloadError, download
from labhelpers.data.voc import COMPARISON_IDS, VOC_CLASSES, VOCSegmentation, comparison_indices

__all__ = [
    "CAMVID_CLASSES",
    "COMPARISON_IDS",
    "IGNORE_INDEX",
    "VOC_CLASSES",
    "DownloadError",
    "FolderSegmentation",
    "SegmentationDataset",
    "VOCSegmentation",
    "comparison_indices",
    "decode_target",
    "download",
    "fetch_sbd",
    "fetch_voc",
    "open_course_data",
    "voc_palette",
]
