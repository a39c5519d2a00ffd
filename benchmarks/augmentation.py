"""Images per second from a data set to a normalised float batch: labhelpers, torchvision v2 and albumentations.

All do the same: scale 0.5 to 2 with antialias, random crop, flip, brightness, contrast and saturation, ImageNet
normalisation, a batch of 8 images and label maps; then the same with a rotation of up to 10 degrees. One thread, no
workers. The contenders take turns in rounds, so that a busy machine slows them alike; ratios are medians over rounds.

    python benchmarks/augmentation.py [--rounds 9]       LAB_VOC_ROOT names the images, else scenes of 500 px are made
"""

import labhelpers  # noqa: F401, I001  before torch: it sets how OpenMP waits

# isort: split
import argparse
import json
import os
import statistics
import time
from math import ceil, cos, radians, sin
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from labhelpers.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augmentation, to_input
from labhelpers.data.base import SegmentationDataset
from labhelpers.data.loader import cache, training_loader
from labhelpers.data.voc import VOCSegmentation

BATCH, SCALE, JITTER, ANGLE = 8, (0.5, 2.0), 0.4, 10.0
FILL = tuple(round(255 * m) for m in IMAGENET_MEAN)
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "benchmarks" / "augmentation.json"


def before_rotation(crop: int) -> int:
    """The crop that a rotation about its centre needs, so that its corners are picture and not padding."""
    return ceil(crop * (cos(radians(ANGLE)) + sin(radians(ANGLE))))


class Transformed(Dataset):
    """Reads with `read(index)` and transforms with `transform(image, target)`; draws its images at random."""

    def __init__(self, read, transform, length):
        self.read, self.transform, self.length = read, transform, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.transform(*self.read(index))


def endless(dataset):
    while True:
        yield from DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)


def ours(voc: SegmentationDataset, crop: int, cached: bool, rotation: bool):
    augmentation = Augmentation(
        crop, SCALE, rotation=ANGLE if rotation else 0, brightness=JITTER, contrast=JITTER, saturation=JITTER
    )
    for images, targets, colour in training_loader(cache(voc) if cached else voc, augmentation, BATCH, steps=10**9):
        yield to_input(images, colour), targets


def torchvision_v2(voc: SegmentationDataset, crop: int, cached: bool, rotation: bool):
    from torchvision import tv_tensors
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    class RandomScale(v2.Transform):
        """ScaleJitter scales towards a fixed size; this scales the image itself."""

        def make_params(self, flat_inputs):
            height, width = flat_inputs[0].shape[-2:]
            scale = float(torch.empty(1).uniform_(*SCALE))
            return {"size": [round(height * scale), round(width * scale)]}

        def transform(self, inpt, params):
            return self._call_kernel(v2.functional.resize, inpt, **params, antialias=True)

    fill = {tv_tensors.Image: FILL, tv_tensors.Mask: 255}
    steps = [RandomScale(), v2.RandomCrop(before_rotation(crop) if rotation else crop, pad_if_needed=True, fill=fill)]
    if rotation:
        steps += [v2.RandomRotation(ANGLE, v2.InterpolationMode.BILINEAR, fill=fill), v2.CenterCrop(crop)]
    transform = v2.Compose(
        [
            *steps,
            v2.RandomHorizontalFlip(),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.ColorJitter(JITTER, JITTER, JITTER),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def read(index):
        image = decode_image(str(voc._images[index]), ImageReadMode.RGB)
        target = torch.from_numpy(np.array(Image.open(voc._labels[index])))
        return tv_tensors.Image(image), tv_tensors.Mask(target)

    yield from endless(Transformed(preloaded(read, voc) if cached else read, transform, len(voc)))


def albumentations(voc: SegmentationDataset, crop: int, cached: bool, rotation: bool):
    import albumentations as a
    import cv2

    cv2.setNumThreads(1)
    first = before_rotation(crop) if rotation else crop
    steps = [
        a.RandomScale((SCALE[0] - 1, SCALE[1] - 1), cv2.INTER_LINEAR, area_for_downscale="image", p=1),
        a.RandomCrop(first, first, pad_if_needed=True, pad_position="random", fill=FILL, fill_mask=255, p=1),
    ]
    if rotation:
        steps += [a.Rotate(ANGLE, cv2.INTER_LINEAR, fill=FILL, fill_mask=255, p=1), a.CenterCrop(crop, crop, p=1)]
    low_high = (1 - JITTER, 1 + JITTER)
    compose = a.Compose(
        [
            *steps,
            a.HorizontalFlip(),
            a.ColorJitter(low_high, low_high, low_high, hue=(0, 0), p=1),
            a.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            a.ToTensorV2(),
        ]
    )

    def read(index):
        image = cv2.cvtColor(cv2.imread(str(voc._images[index])), cv2.COLOR_BGR2RGB)
        return image, np.array(Image.open(voc._labels[index]))

    def transform(image, target):
        out = compose(image=image, mask=target)
        return out["image"], out["mask"]

    yield from endless(Transformed(preloaded(read, voc) if cached else read, transform, len(voc)))


def preloaded(read, voc: SegmentationDataset):
    return [read(index) for index in range(len(voc))].__getitem__


CONTENDERS = {"labhelpers": ours, "torchvision v2": torchvision_v2, "albumentations": albumentations}


def measure(voc: SegmentationDataset, crop: int, cached: bool, rotation: bool, rounds: int, batches: int) -> dict:
    """Images per second of each contender in each round."""
    streams = {name: make(voc, crop, cached, rotation) for name, make in CONTENDERS.items()}
    speeds = {name: [] for name in streams}
    for stream in streams.values():  # the first batches pay for imports, caches and memory
        next(stream)
        images, targets = next(stream)
        assert (images.shape, images.dtype) == ((BATCH, 3, crop, crop), torch.float32)
        assert (targets.shape, targets.dtype) == ((BATCH, crop, crop), torch.uint8)
    for _ in range(rounds):
        for name, stream in streams.items():
            start = time.perf_counter()
            for _ in range(batches):
                next(stream)
            speeds[name].append(BATCH * batches / (time.perf_counter() - start))
    return speeds


def open_images() -> SegmentationDataset:
    if os.environ.get("LAB_VOC_ROOT"):
        return VOCSegmentation(os.environ["LAB_VOC_ROOT"], "train")
    from labhelpers.data.scenes import make_scenes

    return VOCSegmentation(make_scenes(RESULTS.parent / "scenes500", (40, 1), size=500), "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, default=4, help="per round and contender")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    voc = open_images()
    print(f"{len(voc)} images of {voc.name}, one thread, batch {BATCH}, median of {arguments.rounds} rounds\n")
    print("| crop | images | rotation | " + " images/s | ".join(CONTENDERS) + " images/s | x v2 | x albumentations |")
    print("|---" * 8 + "|")
    rows = []
    for crop in (256, 513):
        for cached in (True, False):
            for rotation in (False, True):
                speeds = measure(voc, crop, cached, rotation, arguments.rounds, arguments.batches)
                own = speeds["labhelpers"]
                row = {"crop": crop, "cached": cached, "rotation": ANGLE if rotation else 0}
                row["images_per_second"] = {name: statistics.median(values) for name, values in speeds.items()}
                row["ratio"] = {
                    name: statistics.median(a / b for a, b in zip(own, values, strict=True))
                    for name, values in speeds.items()
                }
                rows.append(row)
                cells = [f"{crop}", "cached" if cached else "disk", f"{ANGLE:.0f}°" if rotation else "no"]
                cells += [f"{value:,.0f}" for value in row["images_per_second"].values()]
                cells += [f"{row['ratio'][name]:.1f}" for name in list(CONTENDERS)[1:]]
                print("| " + " | ".join(cells) + " |", flush=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"images": voc.name, "batch": BATCH, "threads": 1, "rows": rows}, indent=1))
    print(f"\nwritten to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
