"""Confusion matrix update against torchmetrics, scikit-learn and the usual NumPy lines, on one thread.

    python benchmarks/confusion_matrix.py [rounds]

Prints the median of interleaved rounds, and how many times slower than ours the others are, as Markdown; the numbers
are kept in build/benchmarks/confusion_matrix.json.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import labhelpers  # noqa: F401, I001  (before torch)
import numpy as np
import torch
from sklearn.metrics import confusion_matrix as sklearn_matrix
from torchmetrics.classification import MulticlassConfusionMatrix

from labhelpers.evaluation import ConfusionMatrix

BATCH, SIZE, CLASSES = 8, 513, 21
SLOW = {"torchmetrics, default", "scikit-learn"}


def random_labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Every pixel on its own: no two methods get help from equal neighbours."""
    rng = torch.Generator().manual_seed(0)
    prediction, target = torch.randint(0, CLASSES, (2, BATCH, SIZE, SIZE), generator=rng, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=rng) < 0.05] = 255
    return prediction, target


def picture_labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Like VOC: regions, 73 % background, void, and a prediction that is right in 90 % of the cells."""
    rng = np.random.default_rng(0)
    cells = np.where(rng.random((BATCH, 19, 19)) < 0.73, 0, rng.integers(1, CLASSES, (BATCH, 19, 19)))
    guess = np.where(rng.random(cells.shape) < 0.9, cells, rng.integers(0, CLASSES, cells.shape))
    target, prediction = (labels.repeat(27, 1).repeat(27, 2).astype(np.uint8) for labels in (cells, guess))
    target[:, ::27] = 255
    return torch.from_numpy(prediction), torch.from_numpy(target)


def ours(prediction: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    gathered = ConfusionMatrix(CLASSES)
    gathered.update(prediction, target)
    return gathered.matrix.numpy()


def usual_numpy(prediction: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    prediction, target = prediction.numpy(), target.numpy()
    mask = (target >= 0) & (target < CLASSES)
    joint = CLASSES * target[mask].astype(int) + prediction[mask]
    return np.bincount(joint, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def torchmetrics_matrix(**options) -> Callable:
    metric = MulticlassConfusionMatrix(CLASSES, ignore_index=255, **options)

    def run(prediction: torch.Tensor, target: torch.Tensor) -> np.ndarray:
        metric.reset()
        metric.update(prediction, target)
        return metric.confmat.numpy()

    return run


def scikit_learn(prediction: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    keep = target != 255
    return sklearn_matrix(target[keep].numpy(), prediction[keep].numpy(), labels=np.arange(CLASSES))


def argmax_then_torchmetrics(logits: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    return torchmetrics_matrix(validate_args=False)(logits.argmax(1), target)


METHODS = {
    "labhelpers": ours,
    "usual NumPy": usual_numpy,
    "torchmetrics, validate_args=False": torchmetrics_matrix(validate_args=False),
    "torchmetrics, default": torchmetrics_matrix(),
    "scikit-learn": scikit_learn,
}
FROM_LOGITS = {"labhelpers": ours, "torchmetrics, validate_args=False": argmax_then_torchmetrics}


def compare(methods: dict[str, Callable], prediction: torch.Tensor, target: torch.Tensor, rounds: int) -> dict:
    """Time the methods in turn, round by round, so that what else the machine does hits all alike.

    The clock is that of the thread, which does all the work: it stands still while other processes have the core.
    """
    expected = ours(prediction, target)
    for name, method in methods.items():
        assert np.array_equal(method(prediction, target), expected), name
    times: dict[str, list[float]] = {name: [] for name in methods}
    for count in range(rounds):
        for name, method in methods.items():
            if name in SLOW and count % 4:
                continue
            start = time.thread_time()
            method(prediction, target)
            times[name].append(1000 * (time.thread_time() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {name: {"ms": ms, "ratio": ms / medians["labhelpers"]} for name, ms in medians.items()}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    torch.set_num_threads(1)
    pictures, noise = picture_labels(), random_labels()
    logits = torch.randn(BATCH, CLASSES, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    results = {
        "uint8 labels, regions as in pictures": compare(METHODS, *pictures, rounds),
        "uint8 labels, independent pixels": compare(METHODS, *noise, rounds),
        "float logits": compare(FROM_LOGITS, logits, noise[1], max(3, rounds // 5)),
    }
    print(
        f"Confusion matrix update, {BATCH}x{SIZE}x{SIZE}, {CLASSES} classes, one thread, medians of {rounds} rounds\n"
    )
    for title, rows in results.items():
        print(f"| {title} | ms | times ours |\n| --- | ---: | ---: |")
        for name, row in rows.items():
            print(f"| {name} | {row['ms']:.2f} | {row['ratio']:.1f} |")
        print()
    output = Path("build/benchmarks/confusion_matrix.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
