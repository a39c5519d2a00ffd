"""Mask R-CNN, trained for several seeds with the recipe of the smoke profile on the synthetic scenes.

    python benchmarks/mask_rcnn.py [seed ...]          (default: 0 1 2)

Prints average precision of masks and boxes over all validation scenes, by pycocotools, for each seed and their mean, as
Markdown; the numbers are kept in build/benchmarks/mask_rcnn.json. Trained models are kept too, so that an interrupted
run goes on where it stopped.
"""

import dataclasses
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LAB_PROFILE"] = "smoke"
os.environ["LAB_CHECKPOINTS"] = "build/benchmarks/mask_rcnn"

import labhelpers  # noqa: F401, I001  (before torch)
import torch

from labhelpers import config
from labhelpers.course.plans import Experiment
from labhelpers.training import train_or_load

OUTPUT = Path("build/benchmarks/mask_rcnn.json")
SCORES = {
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "mask_ap75": "mask AP75",
    "box_ap": "box AP",
    "box_ap50": "box AP50",
}
COSTS = {"seconds": "s", "cpu_seconds": "CPU s", "ms": "ms per image"}


def measure(experiment: Experiment, seed: int) -> dict[str, float]:
    """Train one network, or load it, and score it on the whole validation set."""
    plan, profile = experiment.plan, experiment.profile
    torch.manual_seed(seed)
    model = plan.build(experiment.data.train.num_classes, **plan.options(profile))
    recipe = dataclasses.replace(experiment.recipe, seed=seed, save_every=25)
    start = time.process_time()
    run = train_or_load(plan.run, model, *experiment.data[:2], recipe, task=experiment.task)
    cpu = time.process_time() - start
    found = plan.evaluate(run.model, experiment.data.test)
    costs = {"seconds": 60 * run.minutes, "cpu_seconds": cpu, "ms": 1e3 * found.seconds_per_image}
    return {name: found.scores[name] for name in SCORES} | costs


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown of {seed: scores}: a line for each seed, and the mean and standard deviation of the scores."""
    lines = [f"| seed | {' | '.join([*SCORES.values(), *COSTS.values()])} |", "|---" * (1 + len(SCORES | COSTS)) + "|"]
    for seed, row in rows.items():
        cells = [*(f"{row[name]:.3f}" for name in SCORES), *(f"{row[name]:.0f}" for name in COSTS)]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    if len(rows) > 1:
        columns = [[row[name] for row in rows.values()] for name in SCORES]
        cells = [f"{statistics.mean(values):.3f} ({statistics.stdev(values):.3f})" for values in columns]
        lines.append(f"| mean (SD) | {' | '.join(cells)} |" + " |" * len(COSTS))
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    experiment = Experiment.open("mask_rcnn", config.profile())
    rows = {}
    for seed in [int(seed) for seed in sys.argv[1:]] or [0, 1, 2]:
        rows[str(seed)] = scores = measure(experiment, seed)
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()), flush=True)
    print("\n" + table(rows))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
