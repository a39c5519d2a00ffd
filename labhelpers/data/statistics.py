"""How often each class occurs, counted once per data set, and the weights that follow from it."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from labhelpers import config
from labhelpers.data.base import SegmentationDataset
from labhelpers.files import read_json, sealed, write_atomic

WEIGHT_METHODS = ("inverse", "inverse_sqrt", "median_frequency", "effective_number")


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """Counts over a data set of N images and K classes.

    Attributes:
        class_names: (K,).
        image_pixels: int64 (N, K), pixels of each class in each image.
        image_void: int64 (N,), void pixels (255) in each image; they belong to no class.
    """

    class_names: tuple[str, ...]
    image_pixels: np.ndarray
    image_void: np.ndarray

    @cached_property
    def pixels(self) -> np.ndarray:
        """int64 (K,): pixels of each class."""
        return self.image_pixels.sum(0)

    @cached_property
    def images(self) -> np.ndarray:
        """int64 (K,): images that hold each class."""
        return (self.image_pixels > 0).sum(0)

    @property
    def void(self) -> int:
        """Void pixels."""
        return int(self.image_void.sum())

    @property
    def frequency(self) -> np.ndarray:
        """float64 (K,): share of each class in all pixels that are not void; sums to 1."""
        return self.pixels / max(1, self.pixels.sum())


def class_statistics(dataset: SegmentationDataset) -> ClassStatistics:
    """Count the classes of a data set in one pass over its label maps; no picture is decoded.

    The counts are kept in `data/statistics/` under the data set's fingerprint: the second call reads them, and a
    changed data set is counted anew. So are damaged counts, and those that cannot be kept there; a sentence says so.
    """
    path = config.data_root(create=False) / "statistics" / f"{dataset.fingerprint()}.json"
    counts = _kept(path, (len(dataset), dataset.num_classes + 1))
    if counts is None:
        targets = (dataset.load_target(index).numpy().ravel() for index in range(len(dataset)))
        kept = [*range(dataset.num_classes), dataset.ignore_index]
        counts = np.stack([np.bincount(target, minlength=256)[kept] for target in targets])
        head = {"dataset": dataset.name, "split": dataset.split, "columns": [*dataset.class_names, "void"]}
        try:
            write_atomic(path, json.dumps(sealed({**head, "counts": counts.tolist()})).encode())
        except OSError as error:
            print(f"{path} cannot be written ({error.strerror}): the classes of {dataset.name} are counted each time.")
    return ClassStatistics(tuple(dataset.class_names), counts[:, :-1], counts[:, -1])


def _kept(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The counts in the file, int64; None where there are none, or not such."""
    if not path.exists():
        return None
    try:
        counts = np.array(read_json(path)["counts"])
        if counts.shape != shape or counts.dtype != np.int64 or counts.min() < 0:
            raise ValueError(f"not {shape[0]} x {shape[1]} counts")
    except (ValueError, KeyError, TypeError) as error:
        print(f"{path} is damaged ({error}), so the classes are counted again.")
        return None
    return counts


def class_weights(stats: ClassStatistics, method: str = "inverse_sqrt", beta: float = 0.999) -> np.ndarray:
    """Weights for a loss: the rarer a class, the larger its weight.

    Scaled to a mean of 1 over the classes that occur. A class that never occurs gets 0, not infinity: it has no pixel
    to weigh, and in other data its pixels count as little as void.

    Args:
        method:
            - inverse: 1 / frequency. With a background of 73 % and classes near 0.5 % that is a factor of 150, often
              too much.
            - inverse_sqrt: its square root, milder.
            - median_frequency: median frequency / frequency, where a class's frequency is its share of the pixels of
              the images that hold it (Eigen and Fergus, ICCV 2015, section 6.3.2): rare in pixels, not in images,
              counts.
            - effective_number: (1 - beta) / (1 - beta^n) (Cui et al., CVPR 2019, equation 2), where n is the number of
              images that hold the class: neighbouring pixels are nearly copies of each other, so it is images that
              count as samples. beta = 0 gives no weighting, beta -> 1 the inverse of n.

    Returns:
        float32 (K,).

    Raises:
        ValueError: an unknown method (the message lists the known), or a beta outside 0..1.
    """
    if method not in WEIGHT_METHODS:
        raise ValueError(f"unknown class weight method {method!r}; known: {', '.join(WEIGHT_METHODS)}")
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be at least 0 and below 1, got {beta}.")
    present = stats.pixels > 0
    pixels, images = stats.pixels[present], stats.images[present]
    if method == "inverse":
        weights = 1 / pixels
    elif method == "inverse_sqrt":
        weights = 1 / np.sqrt(pixels)
    elif method == "median_frequency":
        labelled = stats.image_pixels.sum(1)
        frequency = pixels / ((stats.image_pixels > 0).T @ labelled)[present]
        weights = np.median(frequency) / frequency
    else:
        weights = (1 - beta) / (1 - beta**images)
    result = np.zeros(len(stats.pixels), dtype=np.float32)
    result[present] = weights / weights.mean()
    return result


def rare_class_sample_weights(dataset: SegmentationDataset) -> np.ndarray:
    """Weights for `training_loader(sample_weights=...)`: draw images that hold a rare class more often.

    The repeat factor of Gupta et al. (LVIS, CVPR 2019, section 4.4), with threshold 1: an image counts as its rarest
    class does, and a class counts 1 / sqrt(f), where f is the share of images that hold it.

    Returns:
        float64 (N,), mean 1. An image of void alone counts like one with nothing but the commonest class.
    """
    stats = class_statistics(dataset)
    share = np.maximum(stats.images, 1) / len(stats.image_pixels)
    factor = np.where(stats.image_pixels > 0, 1 / np.sqrt(share), 1 / np.sqrt(share.max())).max(1)
    return factor / factor.mean()
