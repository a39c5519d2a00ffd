"""U-Net on real street scenes: does it learn more than where things usually are?

    python benchmarks/camvid.py FOLDER [--epochs 2] [--channels 32] [--seeds 0]

FOLDER holds CamVid as images/train, images/val, labels/train, labels/val: 11 classes, 255 void, 480x360 pixels. U-Net
works at half size (240x180), from random weights; its logits are enlarged to the label maps, and the score is that of
the papers: void ignored, macro mean IoU over 11 classes, at 480x360. Beside it the *position prior*: at each pixel the
class that is most frequent there in the training set, whatever the picture.

Prints Markdown. Trained models are kept below build/benchmarks/camvid, so that an interrupted run goes on.
"""

import argparse
import os
from pathlib import Path

os.environ["LAB_CHECKPOINTS"] = "build/benchmarks/camvid"

import labhelpers  # noqa: F401, I001  (before torch)
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.data import CAMVID_CLASSES, Augmentation, FolderSegmentation, SegmentationDataset, steps_per_epoch
from labhelpers.evaluation import ConfusionMatrix, count_parameters, evaluate
from labhelpers.models import build
from labhelpers.training import Recipe, train_or_load


class HalfSize(nn.Module):
    """A network that works at half the image's height and width."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        small = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
        return F.interpolate(self.network(small), size, mode="bilinear", align_corners=False)


def position_prior(train: SegmentationDataset, val: SegmentationDataset) -> float:
    """Mean IoU of the most frequent class at each pixel of the training set."""
    height, width = train.load_target(0).shape
    counts = torch.zeros(train.num_classes, height, width, dtype=torch.int32)
    for index in range(len(train)):
        target = train.load_target(index)
        for label in range(train.num_classes):
            counts[label] += target == label
    guess = counts.argmax(0).to(torch.uint8)
    matrix = ConfusionMatrix(train.num_classes)
    for index in range(len(val)):
        matrix.update(guess, val.load_target(index))
    return matrix.compute().mean_iou


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    train, val = (
        FolderSegmentation.from_root(options.folder, split, class_names=CAMVID_CLASSES, name="camvid")
        for split in ("train", "val")
    )
    batch_size = 8
    epoch = steps_per_epoch(train, batch_size)
    prior = position_prior(train, val)

    results = []
    for seed in options.seeds:
        torch.manual_seed(seed)
        model = HalfSize(build("unet", train.num_classes, base_channels=options.channels))
        recipe = Recipe(
            steps=options.epochs * epoch,
            batch_size=batch_size,
            augmentation=Augmentation(crop=None, scale=(1.0, 1.0)),
            lr=2e-3,
            warmup_steps=10,
            save_every=10,
            seed=seed,
        )
        name = f"unet-{options.channels}-{options.epochs}-epochs"
        run = train_or_load(name, model, train, val, recipe)
        results.append((seed, run, evaluate(run.model, val, bands=())))

    print(f"\nPosition prior: {prior:.3f} mean IoU. {results[0][2].protocol}.\n")
    print(f"| seed | epochs | mean IoU | pixel accuracy | minutes | above the prior |\n|---{5 * '|---:'}|")
    for seed, run, result in results:
        score = result.scores
        verdict = "yes" if score.mean_iou > prior else "NO"
        print(
            f"| {seed} | {options.epochs} | {score.mean_iou:.3f} | {score.pixel_accuracy:.3f} | {run.minutes:.1f} "
            f"| {verdict} |"
        )
    print("\nIoU of each class, first seed: ", end="")
    print(", ".join(f"{n} {v:.2f}" for n, v in zip(val.class_names, results[0][2].scores.class_iou, strict=True)))
    print(
        f"\n{count_parameters(results[0][1].model) / 1e6:.2f} million parameters, {recipe.steps} steps of {batch_size}."
    )


if __name__ == "__main__":
    main()
