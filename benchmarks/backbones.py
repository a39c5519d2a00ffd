"""What lab 05 shows with one seed, over several: library networks on lab 04's pictures, and what pretraining buys.

    python benchmarks/backbones.py [--seeds 0 1 2]

Data and recipe are those of the lab in `smoke`. Two decoders on three encoders with ImageNet's weights, which stay as
they are, and U-Net on the first encoder from random weights, all trained. Prints Markdown, and which of the claims hold
for how many seeds; stores the scores in labhelpers/course/benchmarks.json, for the notebook. Trained models are kept
below build/benchmarks/backbones, so that an interrupted run goes on.
"""

import argparse
import json
import os
import statistics
from itertools import combinations, product

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LAB_PROFILE"] = "smoke"
os.environ["LAB_CHECKPOINTS"] = "build/benchmarks/backbones"

import labhelpers  # noqa: F401, I001  (before torch)
import torch
from torch import nn

from labhelpers import config
from labhelpers.course import plans
from labhelpers.data import Splits, cache, open_splits
from labhelpers.evaluation import evaluate
from labhelpers.models import build_smp
from labhelpers.training import train_or_load

PROFILE = config.PROFILES["smoke"]
SETTINGS = PROFILE.backbones
TITLES = {"unet": "U-Net", "deeplabv3plus": "DeepLabV3+"}
RANDOM = "U-Net, random weights"
SCORES = {
    "test_mean_iou": "test mIoU",
    "piece_iou": "IoU of pieces",
    "val_loss": "validation loss",
    "minutes": "minutes",
}


def measure(name: str, architecture: str, encoder: str, pretrained: bool, seed: int, data: Splits) -> dict[str, float]:
    """Train one network, or load it, and score it on the test pictures."""
    torch.manual_seed(seed)
    model = build_smp(architecture, encoder, data.train.num_classes, pretrained=pretrained)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = SETTINGS.norm_momentum
    recipe = plans.backbones_recipe(PROFILE, pretrained, seed)
    run = train_or_load(name, model, data.train, data.val, recipe)
    found = evaluate(run.model, data.test, batch_size=8)
    lowest = min(row["val_loss"] for row in run.history.evaluations)
    return {
        "test_mean_iou": found.scores.mean_iou,
        "piece_iou": float(found.scores.class_iou[1]),
        "val_loss": lowest,
        "minutes": run.minutes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    data = Splits(*map(cache, open_splits("jigsaw", PROFILE, jigsaw_size=PROFILE.unet.jigsaw_size)))
    networks = {f"{TITLES[a]}, {e}": (a, e, True) for a, e in product(TITLES, SETTINGS.encoders)}
    networks[RANDOM] = ("unet", SETTINGS.encoders[0], False)
    scores = {}
    for name, network in networks.items():
        rows = [measure(name, *network, seed, data) for seed in seeds]
        scores[name] = {score: [round(row[score], 4) for row in rows] for score in SCORES}

    print(f"\n| network | {' | '.join(SCORES.values())} |\n{'|---' * (1 + len(SCORES))}|")
    for name, found in scores.items():
        cells = [f"{statistics.mean(v):.3f} ({statistics.stdev(v):.3f})" for v in found.values()]
        print(f"| {name} | {' | '.join(cells)} |")
    print()
    for a, b in combinations(scores, 2):
        above = sum(x > y for x, y in zip(*(scores[n]["test_mean_iou"] for n in (a, b)), strict=True))
        print(f"- test mIoU of {a} above that of {b}: {above} of {len(seeds)} seeds")

    sizes = "/".join(str(len(part)) for part in data)
    protocol = (
        f"benchmarks/backbones.py: {sizes} jigsaw pictures of {PROFILE.unet.jigsaw_size} px to train on, to choose the "
        f"best evaluation by loss, and to report on; {SETTINGS.steps} steps of {SETTINGS.batch_size} crops of "
        f"{SETTINGS.augmentation.crop} px, AdamW {SETTINGS.lr:g}, pretrained encoders frozen, on a CPU"
    )
    stored = json.loads(plans.BENCHMARKS.read_text()) if plans.BENCHMARKS.exists() else {}
    stored["backbones"] = {"protocol": protocol, "seeds": seeds, "scores": scores}
    plans.BENCHMARKS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
