"""What each of the shipped Mini-SAM's additions buys: the base that lab 06 builds, all of them, all but one.

    python benchmarks/mini_sam_additions.py networks [--steps 240] [--seeds 0 1 2]
    python benchmarks/mini_sam_additions.py costs
    python benchmarks/mini_sam_additions.py looks [PHOTOS]

``networks``: data, encoder, crops, prompts and recipe of lab 06 in `smoke`; every network has the same loss, and is
asked with one look. The step of all but the base is that of the shipped network: masks of stride 4, the earlier one
handed over, further clicks beside the middle of an error instead of in it. ``costs``: CPU time of a training step and
of a click, as multiples of the base's. ``looks``: the shipped weights with one look and with the closer ones, on the
scenes and on PHOTOS, a folder in VOC layout with instance masks.

Prints Markdown; trained networks are kept below build/benchmarks, so that an interrupted run goes on.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["LAB_PROFILE"] = "smoke"
os.environ["LAB_CHECKPOINTS"] = "build/benchmarks/mini_sam_additions"

import labhelpers  # noqa: F401, I001  (before torch)
import numpy as np
import torch
from torch import Tensor, nn
from train_mini_sam import refining_step_loss

from labhelpers import config
from labhelpers.course import plans
from labhelpers.data import VOCSegmentation, subset, training_loader, to_input
from labhelpers.models import BaseMiniSAM, MiniSAM
from labhelpers.models.mini_sam import HEADS, Embedding
from labhelpers.prompting import (
    MiniSamPredictor,
    ObjectRef,
    OneLook,
    Predictor,
    Prompt,
    Prompts,
    click_curve,
    evaluate_prompts,
    load_mini_sam,
    objects,
    prompt_loss,
    sample_prompts,
    step_loss,
)
from labhelpers.prompting.predictor import SURE
from labhelpers.prompting.sampling import centre_click
from labhelpers.training import build_optimizer, train_or_load

PROFILE = config.PROFILES["smoke"]
JUDGED = 60  # validation images
SCORES = ("box", "one click", "three clicks")


class WithoutFineBranch(MiniSAM):
    """Masks are still drawn at stride 4, but no feature of stride 4 joins in."""

    def encode(self, images: Tensor) -> Any:
        embedding = super().encode(images)
        return replace(embedding, fine=torch.zeros_like(embedding.fine))


class WithoutLikeness(MiniSAM):
    """All cosines are 0."""

    def _like_points(self, keys: Tensor, points: Tensor) -> Tensor:
        return keys.new_zeros(*points.shape[:2], *keys.shape[3:], HEADS)

    def _like_box(self, keys: Tensor, maps: Tensor) -> list[Tensor]:
        return 2 * [keys.new_zeros(*maps.shape[:3], HEADS)]


class WithoutEarlierMask(MiniSAM):
    """The earlier mask is not handed over, neither in training nor at a click."""

    def prompt_map(self, embedding: Embedding, points: Any, labels: Any, boxes: Any, mask_input: Any = None) -> Tensor:
        return super().prompt_map(embedding, points, labels, boxes)


class Refining(OneLook):
    """One look that also hands the network the earlier mask."""

    model: MiniSAM

    @torch.inference_mode()
    def answer(self, prompt: Prompt, multimask: bool) -> tuple[np.ndarray, np.ndarray]:
        if prompt.mask is None:
            return super().answer(prompt, multimask)
        layer = torch.from_numpy(prompt.mask)[None].to(torch.uint8).mul(255)
        earlier = SURE * (self._window.cut(layer)[None].float() / 127.5 - 1)
        points = torch.from_numpy(self._window.points(prompt.points))[None]
        labels = torch.from_numpy(prompt.labels)[None]
        logits, ious = self.model.decode(self._embedding, points, labels, None, earlier)
        best = ious[0].argmax()[None]
        return (self._window.paste(logits[0, best], self._size, -SURE) > 0).numpy(), ious[0, best].numpy()


def additions_step_loss(model: MiniSAM, images: Tensor, prompts: Prompts, rounds: int) -> Tensor:
    """The shipped network's step with the loss of lab 06, so that it is held to what the base is held to."""
    return refining_step_loss(model, images, prompts, rounds, prompt_loss)


# name: the network, its step, and how it is asked
NETWORKS: dict[str, tuple[type[BaseMiniSAM], Callable, type[OneLook]]] = {
    "base": (BaseMiniSAM, step_loss, OneLook),
    "all additions": (MiniSAM, additions_step_loss, Refining),
    "without the fine branch": (WithoutFineBranch, additions_step_loss, Refining),
    "without likeness": (WithoutLikeness, additions_step_loss, Refining),
    "without the earlier mask": (WithoutEarlierMask, additions_step_loss, OneLook),
}


def new_model(network: type[BaseMiniSAM], experiment: plans.Experiment, seed: int) -> nn.Module:
    """The network before training, on the encoder that has seen drawings."""
    encoder = experiment.plan.encoder(PROFILE)
    torch.manual_seed(seed)
    return network(encoder)


def score(predictor: Predictor, judged: list[ObjectRef]) -> dict[str, float]:
    """Mean IoU of a box, of one click and of three."""
    box = evaluate_prompts(predictor, judged, ("box",)).mean("box").value
    clicks = click_curve(predictor, judged, max_clicks=3).mean
    return dict(zip(SCORES, (box, float(clicks[0]), float(clicks[2])), strict=True))


def measure(name: str, seed: int, steps: int, experiment: plans.Experiment, judged: list[ObjectRef]) -> dict:
    """Train one network, or load it, and score it."""
    network, step, asked = NETWORKS[name]
    recipe = replace(experiment.recipe, seed=seed, steps=steps, eval_every=0, save_every=40)
    task = replace(experiment.task, step_loss=step)
    model = new_model(network, experiment, seed)
    run = train_or_load(name, model, experiment.data.train, experiment.data.val, recipe, task=task)
    return score(asked(run.model, name, PROFILE.mini_sam.augmentation.crop), judged)


def networks(steps: int, seeds: list[int]) -> None:
    """Trains and scores; the differences are of one seed each."""
    experiment = plans.Experiment.open("mini_sam", PROFILE)
    judged = objects(subset(experiment.data.test.dataset, JUDGED), PROFILE.mini_sam.min_side)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in NETWORKS}
    for seed in seeds:
        for name in NETWORKS:
            rows[name].append(measure(name, seed, steps, experiment, judged))
            print(f"seed {seed}, {name}: " + ", ".join(f"{k} {v:.3f}" for k, v in rows[name][-1].items()), flush=True)
    print(f"\n{len(judged)} objects in {JUDGED} images, {steps} steps\n")
    print(f"| network | {' | '.join(f'{key}, mean (seeds)' for key in SCORES)} |")
    print("|---" * (1 + len(SCORES)) + "|")
    for name, found in rows.items():
        values = [[row[key] for row in found] for key in SCORES]
        cells = [f"{statistics.mean(of):.3f} ({', '.join(f'{value:.3f}' for value in of)})" for of in values]
        print(f"| {name} | {' | '.join(cells)} |")


def costs(rounds: int = 15) -> None:
    """Seconds of CPU time, all networks taking turns: what other processes take does not count."""
    experiment = plans.Experiment.open("mini_sam", PROFILE)
    recipe, crop = experiment.recipe, PROFILE.mini_sam.augmentation.crop
    loader = training_loader(experiment.data.train, recipe.augmentation, recipe.batch_size, steps=1)
    images, targets, _ = next(iter(loader))
    item = objects(experiment.data.test.dataset, PROFILE.mini_sam.min_side)[0]
    click = {"points": centre_click(item.mask)[None], "labels": np.array([1])}
    contenders = {}
    for name, (network, step, asked) in NETWORKS.items():
        model, asks = (new_model(network, experiment, 0) for _ in range(2))
        task = replace(experiment.task, step_loss=step)
        contenders[name] = (model, task, build_optimizer(model, recipe), asked(asks, name, crop))
    print("| network | a step, ms | x base | set_image, ms | a click, ms | x base |\n|---|---|---|---|---|---|")
    seconds: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (model, task, optimizer, predictor) in contenders.items():
            prompts = sample_prompts(targets.numpy(), task, np.random.default_rng(0))
            marks = [time.process_time()]
            with torch.autocast("cpu", torch.bfloat16):
                loss = task.step_loss(model.train(), to_input(images), prompts, 2)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            marks.append(time.process_time())
            predictor.set_image(item.image)
            marks.append(time.process_time())
            predictor.predict(**click)
            seconds[name].append([b - a for a, b in zip(marks, [*marks[1:], time.process_time()], strict=True)])
    medians = {name: 1e3 * np.median(np.array(found[2:]), axis=0) for name, found in seconds.items()}
    for name, (step, image, one) in medians.items():
        of_base = medians["base"]
        cells = (f"{step:.0f}", f"{step / of_base[0]:.2f}", f"{image:.1f}", f"{one:.2f}", f"{one / of_base[2]:.2f}")
        print(f"| {name} | {' | '.join(cells)} |")


def looks(photos: Path | None) -> None:
    """The shipped weights: a window for a box, a second look for a click, against one look for either."""
    scenes = plans.Experiment.open("mini_sam", PROFILE).data.test.dataset
    sets = {"scenes": objects(subset(scenes, JUDGED), PROFILE.mini_sam.min_side)}
    if photos is not None:
        sets["photographs"] = objects(VOCSegmentation(photos, "val"))
    model = load_mini_sam()
    print(f"| shipped weights | objects | {' | '.join(SCORES)} |\n{'|---' * (2 + len(SCORES))}|")
    for title, judged in sets.items():
        for predictor in (OneLook(model), Refining(model, "one look, the earlier mask"), MiniSamPredictor(model)):
            found = score(predictor, judged)
            cells = " | ".join(f"{value:.3f}" for value in found.values())
            print(f"| {predictor.name}, {title} | {len(judged)} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("networks", "costs", "looks"))
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=PROFILE.mini_sam.steps)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.mode == "networks":
        networks(options.steps, options.seeds)
    elif options.mode == "costs":
        costs()
    else:
        looks(options.photos)


if __name__ == "__main__":
    main()
