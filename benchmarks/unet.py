"""What lab 04 teaches with one seed, over several: overfitting and its cures, and what U-Net's parts are good for.

    python benchmarks/unet.py [--seeds 0 1 2 3 4] [--variants "no augmentation" U-Net ...]

Data, recipe and network are those of the lab in `smoke`. Without augmentation, that with an early stop, and with
augmentation ("U-Net"); then, augmented, with weight decay or one part exchanged. Prints Markdown, and for how many
seeds each variant lies below U-Net. A run of all variants is stored in labhelpers/course/benchmarks.json, for the
notebook.
Trained models are kept below build/benchmarks/unet, so that an interrupted run goes on.
"""

import argparse
import json
import os
import statistics
from dataclasses import replace

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LAB_PROFILE"] = "smoke"
os.environ["LAB_CHECKPOINTS"] = "build/benchmarks/unet"

import labhelpers  # noqa: F401, I001  (before torch)
import torch

from labhelpers import config
from labhelpers.course import plans
from labhelpers.data import Augmentation
from labhelpers.evaluation import evaluate
from labhelpers.evaluation import scores as scores_of
from labhelpers.models import build
from labhelpers.training import train_or_load

PROFILE = config.PROFILES["smoke"]
PLAN = plans.find_plan("unet")
PLAIN = {"augmentation": Augmentation(crop=PROFILE.unet.jigsaw_size, scale=(1.0, 1.0), flip=False)}
CHANGES = {  # what differs from U-Net: of the recipe, of the model
    "no augmentation": (PLAIN, {}),
    "no augmentation, early stop": ({**PLAIN, "patience": PROFILE.unet.patience}, {}),
    "U-Net": ({}, {}),
    "weight decay": ({"weight_decay": 1e-3}, {}),
    "bilinear": ({}, {"up": "bilinear"}),
    "without skips": ({}, {"skip": "none"}),
    "skips added": ({}, {"skip": "add"}),
    "strided convolution": ({}, {"down": "conv"}),
}
SCORES = {
    "steps": "steps",
    "lowest_loss": "lowest validation loss",
    "last_loss": "last",
    "gap": "gap",
    "val_mean_iou": "best validation mIoU",
    "test_mean_iou": "test mIoU",
    "first_four": "of the first four",
    "piece_iou": "IoU of pieces",
    "band": "foreground IoU, 5 px band",
}


def measure(name: str, seed: int, experiment: plans.Experiment) -> dict[str, float]:
    """Train one variant, or load it, and score it on the test pictures."""
    of_recipe, of_model = CHANGES[name]
    recipe = replace(experiment.recipe, seed=seed, **of_recipe)
    torch.manual_seed(seed)
    model = build("unet", experiment.data.train.num_classes, **experiment.plan.options(PROFILE), **of_model)
    run = train_or_load(name, model, experiment.data.train, experiment.data.val, recipe)
    found = evaluate(run.model, experiment.data.test, batch_size=8)
    evaluations = run.history.evaluations
    return {
        "steps": run.steps,
        "lowest_loss": min(row["val_loss"] for row in evaluations),
        "last_loss": evaluations[-1]["val_loss"],
        "gap": evaluations[-1]["train_mean_iou"] - evaluations[-1]["mean_iou"],
        "val_mean_iou": max(row["mean_iou"] for row in evaluations),
        "test_mean_iou": found.scores.mean_iou,
        "first_four": scores_of(found.matrices[:4].sum(0)).mean_iou,
        "piece_iou": float(found.scores.class_iou[1]),
        "band": found.band_foreground_iou[5],
    }


def table(scores: dict[str, dict[str, list[float]]]) -> str:
    """Markdown of {variant: {score: [of each seed]}}."""
    lines = [f"| variant | {' | '.join(SCORES.values())} |", "|---" * (1 + len(SCORES)) + "|"]
    for name, found in scores.items():
        cells = [f"{statistics.mean(found['steps']):.0f}"]
        for values in list(found.values())[1:]:
            spread = f" ({statistics.stdev(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    base = scores.get("U-Net", {})
    for name, found in scores.items():
        counts = [
            f"{title} {sum(a < b for a, b in zip(found[score], base[score], strict=True))}"
            for score, title in SCORES.items()
            if base and name != "U-Net"
        ]
        if counts:
            lines.append(f"- {name}: below U-Net for so many of {len(found['gap'])} seeds: {', '.join(counts)}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variants", nargs="+", choices=CHANGES, default=list(CHANGES))
    options = parser.parse_args()
    experiment = plans.Experiment.open("unet", PROFILE)
    scores = {}
    for name in options.variants:
        rows = [measure(name, seed, experiment) for seed in options.seeds]
        scores[name] = {score: [round(row[score], 4) for row in rows] for score in SCORES}
    print(f"\n{table(scores)}")
    if options.variants == list(CHANGES):
        recipe, sizes = experiment.recipe, "/".join(str(len(part)) for part in experiment.data)
        protocol = (
            f"benchmarks/unet.py: {sizes} jigsaw pictures of {PROFILE.unet.jigsaw_size} px to train on, to choose the "
            f"best evaluation by mean IoU, and to report on; {PROFILE.unet.base_channels} base channels, "
            f"at most {recipe.steps} steps of {recipe.batch_size} pictures, augmented unless it says "
            "'no augmentation', on a CPU"
        )
        stored = json.loads(plans.BENCHMARKS.read_text()) if plans.BENCHMARKS.exists() else {}
        stored["unet"] = {"protocol": protocol, "seeds": options.seeds, "scores": scores}
        plans.BENCHMARKS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
