"""Whether memory stays where it is: over thousands of steps, in the cache, over an evaluation of any length. Linux.

    python benchmarks/memory.py [--steps 2000]

Memory is what Linux calls the proportional set size, of this process and of its workers: pages that several processes
share count once. Each part runs in a process of its own. The network is DeepLabV3+ of the profile `tiny` on scenes of
64 px, with two workers; what it learns does not matter here. Prints Markdown.
"""

import labhelpers  # noqa: F401, I001  before torch: it sets how OpenMP waits

# isort: split
import argparse
import dataclasses
import gc
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from labhelpers import config
from labhelpers.course.plans import find_plan
from labhelpers.data import SubsetDataset, VOCSegmentation, cache, make_scenes
from labhelpers.evaluation import evaluate
from labhelpers.training import Event, train

CACHE_MB = 32


def used_mb() -> float:
    """Proportional set size of this process and its children, MB."""
    gc.collect()
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    found = 0.0
    for process in (own, *children):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return found


def training(root: Path, steps: int) -> dict[str, float]:
    """Memory after a tenth, a quarter, half and all of the steps, at which the network is evaluated and saved, too."""
    profile = dataclasses.replace(config.PROFILES["tiny"], steps=steps)
    plan = find_plan("deeplabv3plus")
    train_set, val_set = (VOCSegmentation(root, split) for split in ("train", "val"))
    model = plan.build(train_set.num_classes, **plan.options(profile))
    recipe = dataclasses.replace(
        plan.recipe(profile, train_set), steps=steps, eval_every=steps // 20, save_every=steps // 20, workers=2
    )
    found: dict[str, float] = {}

    def look(event: Event) -> None:
        if event.step in (steps // 10, steps // 4, steps // 2, steps):
            found[f"training, after step {event.step}"] = used_mb()

    train(model, train_set, val_set, recipe, root / "run", callbacks=[look])
    return found


def caching(root: Path) -> dict[str, float]:
    """A set that is larger than what the cache may hold."""
    scenes = VOCSegmentation(root, "train")
    large = SubsetDataset(scenes, [index % len(scenes) for index in range(10_000)])
    before = used_mb()
    cached = cache(large, max_mb=CACHE_MB)
    found = {f"a cache of at most {CACHE_MB} MB": used_mb() - before}
    for index in range(len(cached)):
        cached[index]
    return found | {"the same, when each of 10,000 images was read": used_mb() - before}


def evaluating(root: Path, images: int) -> dict[str, float]:
    """Memory after an evaluation, with one matrix an image for intervals, as the labs ask for."""
    profile = config.PROFILES["tiny"]
    plan = find_plan("deeplabv3plus")
    scenes = VOCSegmentation(root, "val")
    model = plan.build(scenes.num_classes, **plan.options(profile)).eval()
    evaluate(model, scenes)  # what is allocated once
    before = used_mb()
    many = SubsetDataset(scenes, [index % len(scenes) for index in range(images)])
    found = evaluate(model, many, batch_size=8)
    return {f"evaluation of {found.protocol.images} images, which is kept": used_mb() - before}


def apart(work: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """What `work` returns, from a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_scenes(root, 60, size=64)
        rows = apart(training, root, steps) | apart(caching, root)
        for images in (100, 1000, 3000):
            rows |= apart(evaluating, root, images)
    print("\n| | MB |\n|---|---:|")
    for name, mb in rows.items():
        print(f"| {name} | {mb:.0f} |")


if __name__ == "__main__":
    main()
