"""What each skip connection buys: FCN-32s, 16s and 8s, trained for several seeds with the recipe of the smoke profile.

    python benchmarks/fcn_ordering.py [seed ...]          (default: 0 1 2 3 4)

Prints mean IoU and class-agnostic foreground IoU in the 5-pixel band around true edges, mean and standard deviation
over seeds, and for how many seeds 32s < 16s < 8s holds, as Markdown; the numbers are kept in
build/benchmarks/fcn_ordering.json. Trained models are kept too, so that an interrupted run goes on where it stopped.
"""

import json
import os
import statistics
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LAB_PROFILE"] = "smoke"
os.environ["LAB_CHECKPOINTS"] = "build/benchmarks/fcn_ordering"

import labhelpers  # noqa: F401, I001  (before torch)
import torch

from labhelpers import config
from labhelpers.data import Augmentation, cache, open_course_data
from labhelpers.evaluation import evaluate
from labhelpers.models import build
from labhelpers.training import Recipe, train_or_load

OUTPUT = Path("build/benchmarks/fcn_ordering.json")
MODELS = ("fcn32s", "fcn16s", "fcn8s")
SCORES = {"mean_iou": "mIoU", "band_mean_iou": "band mIoU, 5 px", "band_foreground_iou": "band foreground IoU"}
ORDERED = ("mean_iou", "band_foreground_iou")


def measure(name: str, seed: int, train_set, val_set) -> dict[str, float]:
    """Train one model, or load it, and score it on the whole validation set."""
    profile = config.profile()
    recipe = Recipe(
        steps=profile.steps,
        seed=seed,
        save_every=50,
        augmentation=Augmentation(**vars(profile.augmentation)),
        **vars(profile.recipe),
    )
    torch.manual_seed(seed)
    run = train_or_load(name, build(name, **profile.model_options), train_set, val_set, recipe)
    found = evaluate(run.model, val_set, batch_size=25, bands=(5,))
    return {
        "mean_iou": found.scores.mean_iou,
        "band_mean_iou": found.band_mean_iou[5],
        "band_foreground_iou": found.band_foreground_iou[5],
        "seconds": 60 * run.minutes,
        "class_iou": found.scores.class_iou.tolist(),
    }


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown of {model: {seed: scores}}: one row for each model, one line for each score that must rise."""
    lines = [f"| model | s | {' | '.join(f'{title} (SD)' for title in SCORES.values())} |", "|---" * 5 + "|"]
    for name, by_seed in rows.items():
        cells = []
        for score in SCORES:
            values = [scores[score] for scores in by_seed.values()]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):.3f} ({spread:.3f})")
        seconds = statistics.mean(scores["seconds"] for scores in by_seed.values())
        lines.append(f"| {name} | {seconds:.0f} | {' | '.join(cells)} |")
    lines.append("")
    for score in ORDERED:
        rising, found = 0, []
        for seed in rows[MODELS[0]]:
            values = [rows[name][seed][score] for name in MODELS]
            rising += values == sorted(set(values))
            found.append(" < ".join(f"{value:.3f}" for value in values))
        lines.append(f"{SCORES[score]} rises 32s < 16s < 8s for {rising} of {len(found)} seeds: {'; '.join(found)}.")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in sys.argv[1:]] or [0, 1, 2, 3, 4]
    train_set, val_set = (cache(split) for split in open_course_data(config.profile()))
    rows = {name: {} for name in MODELS}
    for seed in seeds:
        for name in MODELS:
            rows[name][str(seed)] = scores = measure(name, seed, train_set, val_set)
            print(f"seed {seed} {name}: " + ", ".join(f"{k} {scores[k]:.3f}" for k in SCORES), flush=True)
    print("\n" + table(rows))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
