"""What DeepLab's parts buy on the synthetic scenes, over several seeds, with the recipe of the smoke profile.

    python benchmarks/deeplab.py compare [--steps 120] [--seeds 0 1 2 3 4]
    python benchmarks/deeplab.py ablation [--steps 120] [--seeds 0 1 2 3 4]
    python benchmarks/deeplab.py context [--steps 80] [--seeds 0 1 2 3 4]

``compare``: FCN-32s, FCN-8s, DeepLabV3 and DeepLabV3+ at equal steps, then FCN-8s with as many more steps as fit into
the time that V3+ takes. ``ablation``: V3+ without ASPP (its 1x1 branch only), without ASPP's pooling branch, with small
rates that fit the map of the crop, and with the published rates, which do not. ``context``: V3+ on an encoder that ends
at stride 8 and sees little, behind it the 1x1 branch only, that and pooling, or ASPP with two sets of rates; whole
scenes. Beside mean IoU stand the classes that need context: bus and train (the same drawing on a road and on rails),
chair and sofa (the same cloth, another extent). Without ``--steps`` they are those of the profile `smoke`.

Prints Markdown; the numbers are kept in build/benchmarks/deeplab_*.json, trained models too, so that an interrupted run
goes on where it stopped.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LAB_PROFILE"] = "smoke"
os.environ["LAB_CHECKPOINTS"] = "build/benchmarks/deeplab"

import labhelpers  # noqa: F401, I001  (before torch)
import torch
from torch import Tensor, nn

from labhelpers import config
from labhelpers.course import plans
from labhelpers.data import Splits, to_input, training_loader
from labhelpers.evaluation import count_parameters, evaluate
from labhelpers.models import ASPP, CutEncoder, build, build_encoder
from labhelpers.models.deeplab import DeepLabV3Plus, initialize
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


def shallow(num_classes: int, rates: tuple[int, ...]) -> nn.Module:
    """V3+ on the encoder of the profile `smoke`, cut after its second stage."""
    profile = config.profile()
    encoder = CutEncoder(build_encoder(**profile.model_options))
    return DeepLabV3Plus(encoder, num_classes, rates, profile.deeplab.channels)


def contenders(mode: str) -> dict[str, dict]:
    """name -> model's name, its options, and what is done to it."""
    smoke = config.profile().deeplab.model_options
    if mode == "compare":
        return {
            "FCN-32s": {"model": "fcn32s", "options": {}},
            "FCN-8s": {"model": "fcn8s", "options": {}},
            "DeepLabV3": {"model": "deeplabv3", "options": smoke},
            "DeepLabV3+": {"model": "deeplabv3plus", "options": smoke},
            "FCN-8s, equal time": {"model": "fcn8s", "options": {}, "time_of": "DeepLabV3+"},
        }
    if mode == "context":
        return {
            "1x1 only": {"rates": (2, 4, 6), "change": without_aspp},
            "1x1 and pooling": {"rates": ()},
            "ASPP, rates (1, 2, 3)": {"rates": (1, 2, 3)},
            "ASPP, rates (2, 4, 6)": {"rates": (2, 4, 6)},
        }
    return {
        "without ASPP": {"model": "deeplabv3plus", "options": smoke, "change": without_aspp},
        "without the pooling branch": {"model": "deeplabv3plus", "options": smoke, "change": without_pooling},
        f"rates {smoke['rates']}": {"model": "deeplabv3plus", "options": smoke, "run": "DeepLabV3+"},
        "rates (6, 12, 18)": {"model": "deeplabv3plus", "options": {**smoke, "rates": (6, 12, 18)}},
    }


# better, worse: which of each mode's contenders are compared seed by seed
PAIRS = {
    "compare": [
        ("FCN-8s", "FCN-32s"),
        ("DeepLabV3", "FCN-32s"),
        ("DeepLabV3+", "FCN-8s"),
        ("DeepLabV3+", "FCN-8s, equal time"),
    ],
    "ablation": [
        ("rates (1, 2, 3)", "without ASPP"),
        ("rates (1, 2, 3)", "without the pooling branch"),
        ("rates (1, 2, 3)", "rates (6, 12, 18)"),
    ],
    "context": [
        ("ASPP, rates (2, 4, 6)", "1x1 only"),
        ("ASPP, rates (2, 4, 6)", "1x1 and pooling"),
        ("ASPP, rates (2, 4, 6)", "ASPP, rates (1, 2, 3)"),
    ],
}


def new_model(contender: dict, num_classes: int, seed: int) -> nn.Module:
    """The contender before training, from the same random numbers every time."""
    torch.manual_seed(seed)
    if "rates" in contender:
        model = shallow(num_classes, contender["rates"])
    else:
        model = build(contender["model"], num_classes, **config.profile().model_options, **contender["options"])
    return contender.get("change", lambda m: m)(model)


def time_ratio(slow: dict, fast: dict, recipe: Recipe, scenes: Splits) -> float:
    """Seconds of a training step of one contender over those of another, taking turns; rounded to a tenth."""
    images, targets, _ = next(iter(training_loader(scenes.train, recipe.augmentation, recipe.batch_size, steps=1)))
    seconds = {"slow": [], "fast": []}
    steps = {}
    for key, contender in (("slow", slow), ("fast", fast)):
        model = new_model(contender, scenes.train.num_classes, seed=0)
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


def measure(name: str, contender: dict, recipe: Recipe, scenes: Splits) -> dict[str, float]:
    """Train one model, or load it, and score it on the whole validation set."""
    model = new_model(contender, scenes.train.num_classes, recipe.seed)
    run = train_or_load(contender.get("run", name), model, scenes.train, scenes.val, recipe)
    found = evaluate(run.model, scenes.test, batch_size=25, bands=(5,))
    context = [float(found.scores.class_iou[scenes.test.class_names.index(label)]) for label in CONTEXT]
    return {
        "mean_iou": found.scores.mean_iou,
        "context_iou": statistics.mean(context),
        "band_mean_iou": found.band_mean_iou[5],
        "band_foreground_iou": found.band_foreground_iou[5],
        "seconds": 60 * run.minutes,
        "steps": recipe.steps,
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
    parser.add_argument("mode", choices=("compare", "ablation", "context"))
    parser.add_argument("--steps", type=int, help="those of the profile smoke")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    profile, plan = config.profile(), plans.find_plan("deeplabv3plus")
    if options.mode == "context":
        _, scenes, recipe = plan.context(profile)
    else:
        scenes = plan.open(profile)
        recipe = plan.recipe(profile, scenes.train)
    recipe = replace(recipe, steps=options.steps or recipe.steps, eval_every=0, save_every=50)
    todo = contenders(options.mode)
    ratios = {n: time_ratio(todo[c["time_of"]], c, recipe, scenes) for n, c in todo.items() if "time_of" in c}
    for name, ratio in ratios.items():
        print(f"{name}: {ratio} times the steps")
    rows = {name: {} for name in todo}
    for seed in options.seeds:
        for name, contender in todo.items():
            own = replace(recipe, seed=seed, steps=round(recipe.steps * ratios.get(name, 1)))
            rows[name][str(seed)] = scores = measure(name, contender, own, scenes)
            print(f"seed {seed} {name}: " + ", ".join(f"{k} {scores[k]:.3f}" for k in SCORES), flush=True)
    print("\n" + table(rows) + "\n")
    for better, worse in PAIRS[options.mode]:
        print(wins(rows, better, worse), end="\n\n")
    output = Path("build/benchmarks") / f"deeplab_{options.mode}_{recipe.steps}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
