"""What an encoder that has seen photographs is worth on a student's own: FCN-8s and DeepLabV3+ from three encoders.

    python benchmarks/photographs.py FOLDER [--seeds 0] [--models fcn8s deeplabv3plus]

FOLDER is in VOC layout. Each network is trained with the recipe that the profile `smoke` has for such a folder, on its
list train, and scored on its list val: on EfficientNet-Lite0 with ImageNet's weights, frozen, as the labs do it; on the
same encoder from random weights, all of it trained at the full rate, in as many steps, which take several times as
long; and as the labs do it where the extra `weights` is not installed: on the slim ResNet-18 that has seen drawings.

Prints Markdown; the numbers are kept in build/benchmarks/photographs.json, trained models too, so that an interrupted
run goes on where it stopped.
"""

import argparse
import json
import os
import statistics
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LAB_CHECKPOINTS"] = "build/benchmarks/photographs"

import labhelpers  # noqa: F401, I001  (before torch)
import torch

from labhelpers import config
from labhelpers.course import plans
from labhelpers.data import VOCSegmentation, cache
from labhelpers.evaluation import evaluate
from labhelpers.models import build
from labhelpers.training import train_or_load

OUTPUT = Path("build/benchmarks/photographs.json")
SHOWN = ("person", "cat", "dog", "diningtable", "train", "bottle")
PROFILES = {
    "ImageNet, frozen": config.PHOTOGRAPHS,
    "random, all trained": replace(
        config.PHOTOGRAPHS, pretrained=False, recipe=replace(config.PHOTOGRAPHS.recipe, backbone_factor=1.0)
    ),
    "slim ResNet-18, drawings": config.WITHOUT_WEIGHTS,
}


def measure(plan: plans.Plan, profile: config.Profile, seed: int, train_set, val_set) -> dict[str, float]:
    """Train one network, or load it, and score it on all validation images."""
    recipe = replace(plan.recipe(profile, train_set), seed=seed, eval_every=0, save_every=50)
    torch.manual_seed(seed)
    model = build(plan.name, train_set.num_classes, **plan.options(profile))
    run = train_or_load(plan.run, model, train_set, val_set, recipe)
    found = evaluate(run.model, val_set, batch_size=8, bands=()).scores
    of_class = dict(zip(val_set.class_names, found.class_iou.tolist(), strict=True))
    scores = {"steps": recipe.steps, "minutes": run.minutes}
    scores |= {"mIoU": float(found.mean_iou), "pixel accuracy": float(found.pixel_accuracy)}
    return scores | {name: of_class[name] for name in SHOWN}


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown of {network: {seed: scores}}: means over seeds, of mean IoU the range too."""
    names = list(next(iter(next(iter(rows.values())).values())))
    lines = [f"| network | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for network, by_seed in rows.items():
        values = {name: [scores[name] for scores in by_seed.values()] for name in names}
        digits = {"steps": 0, "minutes": 1}
        cells = [f"{statistics.mean(found):.{digits.get(name, 3)}f}" for name, found in values.items()]
        if len(by_seed) > 1:
            cells[names.index("mIoU")] += f" ({min(values['mIoU']):.3f} to {max(values['mIoU']):.3f})"
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", default=["fcn8s", "deeplabv3plus"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    train_set, val_set = (cache(VOCSegmentation(options.folder, split)) for split in ("train", "val"))
    rows = {}
    for seed in options.seeds:
        for plan in map(plans.find_plan, options.models):
            for encoder, profile in PROFILES.items():
                scores = measure(plan, profile, seed, train_set, val_set)
                rows.setdefault(f"{plan.title}, {encoder}", {})[seed] = scores
                print(f"seed {seed} {plan.title}, {encoder}: mIoU {scores['mIoU']:.3f}", flush=True)
    print("\n" + table(rows))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
