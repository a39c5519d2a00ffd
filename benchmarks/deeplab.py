"""What DeepLab's parts buy on the synthetic scenes, over several seeds, with the recipe of the smoke profile.

    python benchmarks/deeplab.py compare [--steps 400] [--seeds 0 1 2 3 4]
    python benchmarks/deeplab.py ablation [--steps 400] [--seeds 0 1 2]

``compare``: FCN-8s, DeepLabV3 and DeepLabV3+ at equal steps, then FCN-8s with as many more steps as fit into the time
that V3+ takes. ``ablation``: V3+ without ASPP (its 1x1 branch only), without ASPP's pooling branch, with small rates
that fit the map of the crop, and with the published rates, which do not. Beside mean IoU stand the classes that need
context: bus and train (the same drawing on a road and on rails), chair and sofa (the same cloth, another extent).

Prints Markdown; the numbers are kept in build/benchmarks/deeplab_*.json, trained models too, so that an interrupted run
goes on where it stopped.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LAB_PROFILE"] = "smoke"
os.environ["LAB_CHECKPOINTS"] = "build/benchmarks/deeplab"

import labhelpers  # noqa: F401, I001  (before torch)
import torch
from torch import Tensor, nn

from labhelpers import config
from labhelpers.data import Augmentation, cache, open_course_data, to_input, training_loader
from labhelpers.evaluation import count_parameters, evaluate
from labhelpers.models import ASPP, build
from labhelpers.models.deeplab import initialize
from labhelpers.training import Recipe, build_loss, build_optimizer, train_or_load

SCORES = {
    "mean_iou": "mIoU",
    "context_iou": "context classes IoU",
    "band_mean_iou": "band mIoU, 5 px",
    "band_foreground_iou": "band foreground IoU",
}
CONTEXT = ("bus", "train", "chair", "sofa")


def without_aspp(model: nn.Module) -> nn.Module:
    """V3+ whose ASPP is nothing but a 1x1 convolution with batch norm and ReLU."""
    model.head.aspp = model.head.aspp.conv1
    return model


class WithoutPooling(ASPP):
    """ASPP less its pooling branch."""

    def branches(self, x: Tensor) -> list[Tensor]:
        return super().branches(x)[:-1]


def without_pooling(model: nn.Module) -> nn.Module:
    """V3+ whose ASPP has the 1x1 and the atrous branches only."""
    aspp, mixed = model.head.aspp, model.head.aspp.conv_out[0]
    aspp.__class__ = WithoutPooling
    aspp.global_avg_pool = nn.Identity()
    aspp.conv_out[0] = nn.Conv2d(mixed.in_channels - mixed.out_channels, mixed.out_channels, 1, bias=False)
    initialize(aspp)
    return model


def contenders(mode: str) -> dict[str, dict]:
    """name -> model's name, its options, and what is done to it."""
    smoke = config.profile().deeplab.model_options
    if mode == "compare":
        return {
            "FCN-8s": {"model": "fcn8s", "options": {}},
            "DeepLabV3": {"model": "deeplabv3", "options": smoke},
            "DeepLabV3+": {"model": "deeplabv3plus", "options": smoke},
            "FCN-8s, equal time": {"model": "fcn8s", "options": {}, "time_of": "DeepLabV3+"},
        }
    return {
        "without ASPP": {"model": "deeplabv3plus", "options": smoke, "change": without_aspp},
        "without the pooling branch": {"model": "deeplabv3plus", "options": smoke, "change": without_pooling},
        f"rates {smoke['rates']}": {"model": "deeplabv3plus", "options": smoke, "run": "DeepLabV3+"},
        "rates (6, 12, 18)": {"model": "deeplabv3plus", "options": {**smoke, "rates": (6, 12, 18)}},
    }


def time_ratio(slow: dict, fast: dict, train_set) -> float:
    """Seconds of a training step of one contender over those of another, taking turns; rounded to a tenth."""
    profile = config.profile()
    numbers = {**vars(profile.recipe), "warmup_steps": 0}
    recipe = Recipe(steps=1, augmentation=Augmentation(**vars(profile.augmentation)), **numbers)
    images, targets, _ = next(iter(training_loader(train_set, recipe.augmentation, recipe.batch_size, steps=1)))
    seconds = {"slow": [], "fast": []}
    steps = {}
    for key, contender in (("slow", slow), ("fast", fast)):
        model = build(contender["model"], **profile.model_options, **contender["options"])
        steps[key] = (model, build_optimizer(model, recipe))
    loss = build_loss(recipe.loss)
    for _ in range(12):
        for key, (model, optimizer) in steps.items():
            start = time.perf_counter()
            loss(model(to_input(images)), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds[key].append(time.perf_counter() - start)
    return round(statistics.median(seconds["slow"][2:]) / statistics.median(seconds["fast"][2:]), 1)


def measure(name: str, contender: dict, seed: int, steps: int, train_set, val_set) -> dict[str, float]:
    """Train one model, or load it, and score it on the whole validation set."""
    profile = config.profile()
    recipe = Recipe(
        steps=steps,
        seed=seed,
        save_every=50,
        augmentation=Augmentation(**vars(profile.augmentation)),
        **vars(profile.recipe),
    )
    torch.manual_seed(seed)
    model = build(contender["model"], **profile.model_options, **contender["options"])
    run = train_or_load(
        contender.get("run", name), contender.get("change", lambda m: m)(model), train_set, val_set, recipe
    )
    found = evaluate(run.model, val_set, batch_size=25, bands=(5,))
    context = [float(found.scores.class_iou[val_set.class_names.index(label)]) for label in CONTEXT]
    return {
        "mean_iou": found.scores.mean_iou,
        "context_iou": statistics.mean(context),
        "band_mean_iou": found.band_mean_iou[5],
        "band_foreground_iou": found.band_foreground_iou[5],
        "seconds": 60 * run.minutes,
        "steps": steps,
        "parameters": count_parameters(model),
        "class_iou": found.scores.class_iou.tolist(),
    }


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown of {name: {seed: scores}}: one row each, mean and standard deviation over seeds."""
    lines = [f"| network | steps | s | {' | '.join(f'{title} (SD)' for title in SCORES.values())} |"]
    lines.append("|---" * (3 + len(SCORES)) + "|")
    for name, by_seed in rows.items():
        cells = []
        for score in SCORES:
            values = [scores[score] for scores in by_seed.values()]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):.3f} ({spread:.3f})")
        steps, seconds = (statistics.mean(scores[key] for scores in by_seed.values()) for key in ("steps", "seconds"))
        lines.append(f"| {name} | {steps:.0f} | {seconds:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def wins(rows: dict[str, dict[str, dict[str, float]]], better: str, worse: str) -> str:
    """For how many seeds one is above the other, and the differences."""
    lines = []
    for score, title in SCORES.items():
        gains = [rows[better][seed][score] - rows[worse][seed][score] for seed in rows[worse]]
        listed = ", ".join(f"{gain:+.3f}" for gain in gains)
        lines.append(
            f"{title}: {better} above {worse} for {sum(g > 0 for g in gains)} of {len(gains)} seeds ({listed})."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("compare", "ablation"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+")
    options = parser.parse_args()
    seeds = options.seeds or {"compare": [0, 1, 2, 3, 4], "ablation": [0, 1, 2]}[options.mode]
    torch.set_num_threads(1)
    train_set, val_set = (cache(split) for split in open_course_data(config.profile()))
    todo = contenders(options.mode)
    equal_time = {n: time_ratio(todo[c["time_of"]], c, train_set) for n, c in todo.items() if "time_of" in c}
    for name, ratio in equal_time.items():
        print(f"{name}: {ratio} times the steps")
    rows = {name: {} for name in todo}
    for seed in seeds:
        for name, contender in todo.items():
            steps = round(options.steps * equal_time.get(name, 1))
            rows[name][str(seed)] = scores = measure(name, contender, seed, steps, train_set, val_set)
            print(f"seed {seed} {name}: " + ", ".join(f"{k} {scores[k]:.3f}" for k in SCORES), flush=True)
    print("\n" + table(rows) + "\n")
    names = list(rows)
    for worse in (names[0], names[1], names[3]):  # the third is V3+ in either mode
        print(wins(rows, names[2], worse), end="\n\n")
    output = Path("build/benchmarks") / f"deeplab_{options.mode}_{options.steps}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
