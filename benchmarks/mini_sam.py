"""Scores of the shipped Mini-SAM on photographs, and how long a click takes; the tables of checkpoints/mini_sam.md.

    python benchmarks/mini_sam.py PHOTOS [--split val] [--weights FILE]

PHOTOS is a folder in VOC layout with instance masks. Every predictor gets the same prompts, drawn from the true masks.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from labhelpers.data import VOCSegmentation
from labhelpers.prompting import (
    BoxEllipse,
    FilledBox,
    GrabCut,
    MiniSamPredictor,
    OneLook,
    calibration,
    click_curve,
    evaluate_prompts,
    load_mini_sam,
    objects,
    right_object,
)
from labhelpers.prompting.sampling import box_from_mask, centre_click

KINDS = ("box", "jittered_box", "centre_click", "jittered_click", "random_click", "3_points", "5_points", "10_points")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--weights", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)

    judged = objects(VOCSegmentation(args.photos, args.split))
    model = load_mini_sam(args.weights)
    predictor, plain = MiniSamPredictor(model), OneLook(model)
    for one in (predictor, plain):
        scores = evaluate_prompts(one, judged, KINDS)
        print(scores.table().to_markdown(), "\n")
        answers = [np.concatenate(list(values.values())) for values in (scores.predicted, scores.ious)]
        print(calibration(*answers), "\n")
        print(right_object(one, judged), "\n")
    for baseline in (FilledBox(), BoxEllipse(), GrabCut()):
        print(evaluate_prompts(baseline, judged, ("box", "jittered_box")).table().to_markdown(), "\n")
    curve = click_curve(predictor, judged)
    print("clicks:", ", ".join(f"{n}: {curve.mean[n - 1]:.3f}" for n in (1, 2, 3, 5, 10, 20)))
    print(curve, "\n")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for what, milliseconds in latencies(predictor, plain).items():
            print(f"{threads} thread(s), {what}: {milliseconds:.1f} ms")


@torch.inference_mode()
def latencies(predictor: MiniSamPredictor, plain: OneLook) -> dict[str, float]:
    """Milliseconds where the predictors are, medians of 30, on one synthetic scene of 512 px."""
    from labhelpers.data.scenes import draw_scene

    scene = draw_scene(0, "val", 0, 512)
    image, masks = scene.image, [scene.objects == number for number in np.unique(scene.objects) if 0 < number < 255]
    # The smallest object that can be clicked at: found in a window, while of a large one the whole image is the window.
    mask = min((mask for mask in masks if mask.sum() > 1000), key=np.sum)
    click = {"points": centre_click(mask)[None], "labels": np.array([1])}
    box = {"box": box_from_mask(mask)}
    x, at = torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(click["points"])[None]
    x, at, one = (part.to(predictor.device) for part in (x, at, torch.ones(1, 1, dtype=torch.long)))
    embedding = predictor.model.encode(x)
    rows = {
        "set_image, 512 px picture": lambda: predictor.set_image(image),
        "click, one look": lambda: plain.predict(**click),
        "click, a second look at a window": lambda: fresh(predictor, image, click),
        "further click in the same window": lambda: predictor.predict(**click),
        "box, a look at its window": lambda: fresh(predictor, image, box),
        "network: encode 512x512": lambda: predictor.model.encode(x),
        "network: decode one click at 512x512": lambda: predictor.model.decode(embedding, at, one),
    }
    plain.set_image(image)
    return {what: median(call) for what, call in rows.items()}


def fresh(predictor: MiniSamPredictor, image: np.ndarray, prompt: dict[str, np.ndarray]) -> float:
    """Seconds of a prompt on an image that was just set: none of its windows is known yet."""
    predictor.set_image(image)
    synchronize()
    start = time.perf_counter()
    predictor.predict(**prompt)
    return time.perf_counter() - start


def synchronize() -> None:
    """Waits for what a GPU still computes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median(call) -> float:
    """Milliseconds: of what the call says it took, else of the call."""
    times = []
    for _ in range(30):
        start = time.perf_counter()
        said = call()
        synchronize()
        times.append(said if isinstance(said, float) else time.perf_counter() - start)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    main()
