"""What lab 04 teaches with one seed, over several: overfitting and its cure, and what U-Net's parts are good for.

    python benchmarks/unet.py [--seeds 0 1 2] [--steps 90] [--variants "no augmentation" U-Net ...]

Ten jigsaw pictures and the recipe of the smoke profile. For each seed: without augmentation, with it, with weight decay
and early stopping too; then with augmentation and one part exchanged. Prints Markdown: the gap between training and
validation mean IoU at the last evaluation, scores of the test pictures, and for how many seeds each lies below U-Net.
Trained models are kept below build/benchmarks/unet, so that an interrupted run goes on.
"""

import argparse
import os
import statistics

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LAB_PROFILE"] = "smoke"
os.environ["LAB_CHECKPOINTS"] = "build/benchmarks/unet"

import labhelpers  # noqa: F401, I001  (before torch)
import torch

from labhelpers import config
from labhelpers.data import Augmentation, Splits, cache, open_splits, steps_per_epoch
from labhelpers.evaluation import evaluate
from labhelpers.models import build
from labhelpers.training import Recipe, train_or_load

BASE = "U-Net"
CHANGES = {  # what differs from the base: of the recipe, of the model
    "no augmentation": ({"augmentation": None}, {}),
    BASE: ({}, {}),
    "weight decay, early stop": ({"weight_decay": 1e-3, "patience": config.PROFILES["smoke"].unet.patience}, {}),
    "bilinear": ({}, {"up": "bilinear"}),
    "without skips": ({}, {"skip": "none"}),
    "skips added": ({}, {"skip": "add"}),
    "strided convolution": ({}, {"down": "conv"}),
}
SCORES = {
    "gap": "gap",
    "val_mean_iou": "best validation mIoU",
    "test_mean_iou": "test mIoU",
    "piece_iou": "IoU of pieces",
    "band": "foreground IoU, 5 px band",
}


def measure(name: str, seed: int, steps: int, splits: Splits) -> dict[str, float]:
    """Train one variant, or load it, and score it on the test pictures."""
    numbers = config.profile().unet
    size = numbers.jigsaw_size
    of_recipe, of_model = CHANGES[name]
    recipe = {
        "augmentation": Augmentation(
            crop=size,
            scale=(0.8, 1.25),
            rotation=15,
            elastic=size / 32,
            brightness=0.2,
            contrast=0.2,
            saturation=0.2,
        ),
        "weight_decay": 0.0,
        **of_recipe,
    }
    if recipe["augmentation"] is None:
        recipe["augmentation"] = Augmentation(crop=size, scale=(1.0, 1.0), flip=False)
    recipe = Recipe(
        steps=steps,
        batch_size=numbers.batch_size,
        lr=numbers.lr,
        warmup_steps=numbers.warmup_steps,
        loss="bce",
        optimizer="adam",
        eval_every=steps_per_epoch(splits.train, numbers.batch_size),
        score_train=len(splits.train),
        seed=seed,
        **recipe,
    )
    torch.manual_seed(seed)
    model = build("unet", 2, base_channels=numbers.base_channels, **of_model)
    run = train_or_load(name, model, splits.train, splits.val, recipe)
    found = evaluate(run.model, splits.test)
    last = run.history.evaluations[-1]
    return {
        "gap": last["train_mean_iou"] - last["mean_iou"],
        "val_mean_iou": max(row["mean_iou"] for row in run.history.evaluations),
        "test_mean_iou": found.scores.mean_iou,
        "piece_iou": found.scores.class_iou[1],
        "band": found.band_foreground_iou[5],
        "steps": last["step"],
    }


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Markdown of {variant: scores of each seed}."""
    lines = [f"| variant | steps | {' | '.join(f'{title} (SD)' for title in SCORES.values())} |", "|---" * 7 + "|"]
    for name, by_seed in rows.items():
        steps = statistics.mean(scores["steps"] for scores in by_seed)
        cells = []
        for score in SCORES:
            values = [scores[score] for scores in by_seed]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):.3f} ({spread:.3f})")
        lines.append(f"| {name} | {steps:.0f} | {' | '.join(cells)} |")
    lines.append("")
    for name, by_seed in rows.items():
        if name == BASE or BASE not in rows:
            continue
        below = {
            title: sum(own[score] < base[score] for own, base in zip(by_seed, rows[BASE], strict=True))
            for score, title in SCORES.items()
        }
        counts = ", ".join(f"{title} {count}" for title, count in below.items())
        lines.append(f"- {name}: below {BASE} for so many of {len(by_seed)} seeds: {counts}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=config.profile().unet.steps)
    parser.add_argument("--variants", nargs="+", choices=CHANGES, default=list(CHANGES))
    options = parser.parse_args()
    splits = open_splits("jigsaw", config.profile(), jigsaw_size=config.profile().unet.jigsaw_size)
    splits = Splits(*(cache(part) for part in splits))
    rows = {name: [measure(name, seed, options.steps, splits) for seed in options.seeds] for name in options.variants}
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
