"""Time and memory of the losses, forward and backward, in units of torch's cross-entropy.

    python benchmarks/losses.py [--rounds 15] [--size 256]

One thread, float32, 8x21x256x256 with 5 % void. The rounds are interleaved, so that a busy machine slows all alike; the
table holds medians. Peers: a Dice written with one-hot targets and autograd, as most libraries have it, and the same
Dice by gather. Writes build/benchmarks/losses.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import labhelpers  # noqa: F401  (before torch: it sets how OpenMP threads wait)

import torch  # isort: skip
from torch import Tensor  # isort: skip
import torch.nn.functional as F

from labhelpers.evaluation import peak_memory_mb  # isort: skip
from labhelpers.training import build_loss  # isort: skip

LIMITS = {"focal": 1.3, "dice": 2.5}


def one_hot_dice(logits: Tensor, target: Tensor) -> Tensor:
    valid = (target != 255)[:, None]
    one_hot = F.one_hot(torch.where(target == 255, 0, target).long(), logits.shape[1]).movedim(-1, 1)
    one_hot, p = one_hot.float() * valid, logits.softmax(1) * valid
    score = (2 * (p * one_hot).sum((0, 2, 3)) + 1) / (p.sum((0, 2, 3)) + one_hot.sum((0, 2, 3)) + 1)
    return (1 - score).mean()


def gather_dice(logits: Tensor, target: Tensor) -> Tensor:
    valid = target != 255
    index = torch.where(valid, target, 0).long()
    p = logits.softmax(1)
    own = (p.gather(1, index[:, None])[:, 0] * valid).flatten()
    hit = torch.zeros(logits.shape[1]).scatter_add(0, index.flatten(), own)
    true = torch.bincount(index.flatten(), valid.flatten().float(), logits.shape[1])
    return (1 - (2 * hit + 1) / ((p * valid[:, None]).sum((0, 2, 3)) + true + 1)).mean()


def measure(losses: dict[str, Callable[[Tensor, Tensor], Tensor]], size: int, rounds: int) -> dict[str, dict]:
    """Median seconds of forward and backward, and the bytes allocated at the peak beyond the inputs."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 21, size, size, generator=generator).requires_grad_()
    target = torch.randint(0, 21, (8, size, size), generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < 0.05] = 255

    def run(loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        logits.grad = None
        start = time.perf_counter()
        loss(logits, target).backward()
        return time.perf_counter() - start

    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for round_ in range(rounds + 1):
        for name, loss in losses.items():
            took = run(loss)
            if round_:  # the first warms up
                seconds[name].append(took)
    results = {}
    for name, times in seconds.items():
        logits.grad = None  # else its memory, freed inside, would be taken off
        results[name] = {
            "seconds": statistics.median(times),
            "peak_mb": peak_memory_mb(partial(run, losses[name]), torch.device("cpu")),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=256, help="pixels, square")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    results = measure(
        {
            "torch cross_entropy": lambda x, y: F.cross_entropy(x, y.long(), ignore_index=255),
            **{name: build_loss(name) for name in ("ce", "focal", "exp_ce", "dice", "ce+dice", "ce+dice+focal")},
            "Dice by gather, autograd": gather_dice,
            "Dice by one-hot, autograd": one_hot_dice,
        },
        arguments.size,
        arguments.rounds,
    )
    unit = results["torch cross_entropy"]["seconds"]
    size = f"8x21x{arguments.size}x{arguments.size}"
    print(f"Forward and backward, {size} float32, one thread, {arguments.rounds} rounds\n")
    print("| loss | ms | in units of cross-entropy | peak MB |\n|---|---|---|---|")
    for name, result in results.items():
        result["ratio"] = result["seconds"] / unit
        print(f"| {name} | {1000 * result['seconds']:.0f} | {result['ratio']:.2f} | {result['peak_mb']:.0f} |")
    path = Path("build/benchmarks/losses.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"torch": torch.__version__, "results": results, "limits": LIMITS}, indent=1) + "\n")
    missed = [name for name, limit in LIMITS.items() if results[name]["ratio"] > limit]
    print(f"\nWithin the limits {LIMITS}: " + ("no, missed by " + ", ".join(missed) if missed else "yes"))


if __name__ == "__main__":
    main()
