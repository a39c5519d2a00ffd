"""Seconds of `evaluate` against a plain loop, image by image in fp32, and whether both count the same pixels.

    python benchmarks/evaluation_speed.py [--images 8] [--rounds 3]
    python benchmarks/evaluation_speed.py --backbone resnet18 --width 24 --largest 256        for trying it

DeepLabV3+ ResNet-50 at 21 classes, on photographs of LAB_VOC_ROOT's list val, else on synthetic scenes of four sizes,
from half the largest to the largest. The network is trained for 40 small steps first (kept, and loaded the next time),
so that it tells classes apart; its score says nothing else. All read the same cached images and normalise them alike.
The contenders take turns in rounds, so that a busy machine slows them alike; ratios are medians over rounds.

The plain loop: eval mode, `no_grad`, one image at a time, `argmax(1)`, the usual masked NumPy bincount. With one image
at a time `evaluate` must give its matrix to the last digit, else the run ends with an error. In batches of up to 8
(only equal sizes share one) convolutions may add in another order, and in half precision (what training chooses itself:
bf16, or fp16 on a GPU without) they round: there the pixels whose label differs are counted.
"""

import labhelpers  # noqa: F401, I001  before torch: it sets how OpenMP waits

# isort: split
import argparse
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from labhelpers.data import Augmentation, SegmentationDataset, SubsetDataset, VOCSegmentation, cache, make_scenes
from labhelpers.data.augment import to_input
from labhelpers.evaluation import evaluate, scores
from labhelpers.models import build
from labhelpers.training import Recipe, resolve_precision, train_or_load

PLAIN, OURS, EIGHT = "plain loop, argmax, NumPy", "evaluate, one image at a time", "evaluate, batches of up to 8"
BAND, HALF = "evaluate, boundary band too", "evaluate, {}"
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "benchmarks" / "evaluation_speed.json"


class Cropped(SubsetDataset):
    """The upper left corners of square images, in four sizes by turns."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, target = super().__getitem__(index)
        full, half = len(target), len(target) // 2
        between = (full + half) // 2
        height, width = ((half, half), (full, full), (between, full), (between, between))[index % 4]
        return image[:, :height, :width], target[:height, :width]


def open_sets(images: int, largest: int) -> tuple[SegmentationDataset, SegmentationDataset]:
    """What the network is trained on, and `images` others, cached."""
    if os.environ.get("LAB_VOC_ROOT"):
        train_set, val_set = (VOCSegmentation(os.environ["LAB_VOC_ROOT"], split) for split in ("train", "val"))
        return train_set, cache(SubsetDataset(val_set, range(min(images, len(val_set)))))
    root = make_scenes(RESULTS.parent / f"scenes{largest}", (40, images), size=largest)
    train_set, val_set = (VOCSegmentation(root, split) for split in ("train", "val"))
    return train_set, cache(Cropped(val_set, range(images)))


def trained(train_set, val_set, backbone: str, width: int) -> nn.Module:
    """A network whose predictions are not all alike."""
    os.environ["LAB_CHECKPOINTS"] = str(RESULTS.parent / "evaluation_speed")
    torch.manual_seed(0)
    model = build("deeplabv3plus", backbone=backbone, width=width)
    recipe = Recipe(40, batch_size=4, augmentation=Augmentation(64, scale=(0.25, 0.5)), lr=1e-3, warmup_steps=5)
    return train_or_load("deeplabv3plus", model, train_set, SubsetDataset(val_set, [0]), recipe).model


def plain_loop(model: nn.Module, dataset: SegmentationDataset) -> np.ndarray:
    """What one writes without thinking about speed."""
    model.eval()
    device = next(model.parameters()).device
    classes = dataset.num_classes
    matrix = np.zeros((classes, classes), dtype=np.int64)
    with torch.no_grad():
        for index in range(len(dataset)):
            image, target = dataset[index]
            logits = model(to_input(image[None].to(device)))
            prediction, target = logits.argmax(1)[0].cpu().numpy(), target.numpy()
            mask = target < classes
            joint = classes * target[mask].astype(int) + prediction[mask]
            matrix += np.bincount(joint, minlength=classes**2).reshape(classes, classes)
    return matrix


def contenders(model: nn.Module, dataset: SegmentationDataset, half: str | None) -> dict[str, Callable]:
    """Each returns the confusion matrix of the set; only BAND scores the boundary band as well."""
    options = {OURS: {"bands": ()}, EIGHT: {"bands": (), "batch_size": 8}, BAND: {}}
    if half:
        options[HALF.format(half)] = {"bands": (), "precision": half}
    ours = {name: lambda chosen=chosen: evaluate(model, dataset, **chosen).matrix for name, chosen in options.items()}
    return {PLAIN: lambda: plain_loop(model, dataset), **ours}


def watch(model: nn.Module, run: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The matrix, and the predicted labels of all pixels: images by size, then in the set's order."""
    labels = defaultdict(list)

    def keep(module: nn.Module, inputs: tuple, logits: torch.Tensor) -> None:
        labels[tuple(logits.shape[-2:])].extend(logits.max(1).indices.cpu().numpy())

    hook = model.register_forward_hook(keep)
    matrix = run()
    hook.remove()
    return matrix, np.concatenate([image.ravel() for size in sorted(labels) for image in labels[size]])


def measure(runs: dict[str, Callable], rounds: dict[str, int]) -> dict[str, list[float]]:
    """Seconds of each contender in each of its rounds."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds = {name: [] for name in runs}
    for count in range(max(rounds.values())):
        for name, run in runs.items():
            if count < rounds[name]:
                synchronize()
                start = time.perf_counter()
                run()
                synchronize()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, to: str) -> float:
    """How many times as fast as `to`."""
    return statistics.median(b / a for a, b in zip(seconds[name], seconds[to], strict=False))


def labels_from_logits(size: int, device: torch.device, rounds: int) -> dict[str, float]:
    """Milliseconds of the two ways to turn logits (1, 21, size, size) into labels."""
    logits = torch.randn(1, 21, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    ways = {"max": lambda: logits.max(1).indices, "argmax": lambda: logits.argmax(1)}
    assert torch.equal(ways["max"](), ways["argmax"]())
    seconds = measure(ways, dict.fromkeys(ways, rounds))
    return {name: 1000 * statistics.median(s) for name, s in seconds.items()} | {
        "ratio": ratio(seconds, "max", "argmax")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--largest", type=int, default=513, help="pixels, of the synthetic scenes")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--width", type=int, default=64, help="of the encoder's first stage")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="also where it is imitated (a hundred times slower)")
    given = parser.parse_args()
    train_set, dataset = open_sets(given.images, given.largest)
    model = trained(train_set, dataset, given.backbone, given.width)
    device = next(model.parameters()).device
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu

    native = resolve_precision("auto")
    half = ("bf16" if given.bf16 else None) if native == "no" else native
    runs = contenders(model, dataset, half)
    seen = {name: watch(model, run) for name, run in runs.items()}
    matrix, labels = seen[PLAIN]
    for name in (OURS, BAND):
        assert np.array_equal(seen[name][0], matrix), f"{name}: another matrix than the plain loop's"
        assert np.array_equal(seen[name][1], labels), f"{name}: other predictions than the plain loop's"
    imitated = [HALF.format(half)] if native == "no" else []
    seconds = measure(runs, {name: 1 if name in imitated else given.rounds for name in runs})

    sides = [side for index in range(len(dataset)) for side in dataset[index][1].shape]
    print(
        f"Evaluation of DeepLabV3+ {given.backbone}, width {given.width}, {len(dataset)} images of {dataset.name} with "
        f"sides of {min(sides)} to {max(sides)} px, {named}, median of {given.rounds} rounds\n"
    )
    print("| contender | s | times as fast as the plain loop | pixels with another label | mIoU minus plain's |")
    print("|---" * 5 + "|")
    rows, score = {}, scores(matrix).mean_iou
    for name, (own, predicted) in seen.items():
        row = {"s": statistics.median(seconds[name]), "ratio": ratio(seconds, name, PLAIN)}
        row |= {"pixels": int((predicted != labels).sum()), "mean_iou_change": scores(own).mean_iou - score}
        rows[name] = row
        cells = [name, f"{row['s']:.2f}", f"{row['ratio']:.2f}", f"{row['pixels']:,} of {labels.size:,}"]
        print("| " + " | ".join([*cells, f"{row['mean_iou_change']:+.1e}"]) + " |")
    print(
        "\nOne image at a time, evaluate counted exactly the plain loop's matrix. The network knows "
        f"{len(np.unique(labels))} labels after 40 steps (mIoU {score:.3f}): its scores serve this comparison only."
    )
    if imitated:
        print(f"No bf16 units here, bf16 is imitated: {'timed once' if half else 'left out (--bf16 includes it)'}.")
    ways = labels_from_logits(given.largest, device, 3 * given.rounds)
    print(
        f"Labels from logits 1x21x{given.largest}x{given.largest}: max(1).indices {ways['max']:.2f} ms, argmax(1) "
        f"{ways['argmax']:.2f} ms, {ways['ratio']:.1f} times as long"
    )
    settings = {**vars(given), "device": named, "torch": torch.__version__, "images": dataset.name}
    result = {"settings": settings, "rows": rows, "labels_from_logits": ways, "seconds": seconds}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
