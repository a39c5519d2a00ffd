"""The costs that stand beside every score: parameters, floating-point operations, time and memory.

Time, memory and operations grow with the image, so a cost is worth nothing without the size at which it was measured.
"""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from labhelpers.evaluation.evaluator import inference
from labhelpers.evaluation.timing import (
    count_parameters,
    inference_memory_mb,
    peak_memory_mb,
    time_inference,
    weights_mb,
)
from labhelpers.prompting.predictor import Predictor

Size = tuple[int, int]


def costs(
    model: nn.Module, size: Size = (512, 512), *, precision: str = "no", warmup: int = 3, runs: int = 15
) -> dict[str, Any]:
    """What one image costs a network, where it is: keyword arguments of `ResultsTable.add`.

    Args:
        model: maps float (1, 3, H, W) to anything.
        size: height and width of the image in pixels.
        precision: "no" (float32), "bf16" or "fp16" autocast.
        warmup, runs: of the timing; see `time_inference`.

    Returns:
        `parameters`, `flops` (see `count_flops`), `inference_ms` (median), `memory_mb` (peak, weights included) and
        `cost_size`, the size as text.
    """
    return {
        "parameters": count_parameters(model),
        "flops": count_flops(model, size),
        "inference_ms": time_inference(model, size, precision=precision, warmup=warmup, runs=runs),
        "memory_mb": inference_memory_mb(model, size, precision=precision),
        "cost_size": _text(size),
    }


def prompt_costs(predictor: Predictor, size: Size = (512, 512), *, warmup: int = 1, runs: int = 5) -> dict[str, Any]:
    """What one image and one box in it cost a promptable network: as `costs`, from `set_image` to the mask.

    The embedding is computed anew each time; a second prompt on the same image costs only the decoder's share.

    Args:
        predictor: one with a `model`, in its own precision.
        size: height and width of the image in pixels; what the network makes of it inside is its own choice.
    """
    height, width = size
    device = next(predictor.model.parameters()).device
    rng = np.random.default_rng(0)
    box = np.array([width // 4, height // 4, 3 * width // 4, 3 * height // 4], dtype=np.float64)

    def ask() -> None:
        # A new picture each time: a predictor may keep the embeddings of the last ones.
        predictor.set_image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        predictor.predict(box=box)

    times = []
    for _ in range(warmup + runs):
        start = time.perf_counter()
        ask()  # the mask is an array in the computer's memory, so the device has finished
        times.append(time.perf_counter() - start)
    held = [copy.copy(value) for value in vars(predictor).values()]  # else the last embedding's end counts as a gain
    peak = peak_memory_mb(ask, device)
    del held
    return {
        "parameters": count_parameters(predictor.model),
        "flops": _flops(ask),
        "inference_ms": 1000 * statistics.median(times[warmup:]),
        "memory_mb": weights_mb(predictor.model) + peak,
        "cost_size": _text(size),
    }


def count_flops(model: nn.Module, size: Size = (512, 512)) -> int:
    """The floating-point operations of one forward pass with one image.

    Convolutions, matrix products and attention are counted, by PyTorch's own counter, and a multiplication with its
    addition as 2: papers that count "multiply-adds" state half of it. Normalisation, activations and resizing, together
    a few percent, are left out.

    Args:
        size: height and width in pixels.
    """
    with inference(model) as device:
        image = torch.randn(1, 3, *size, device=device)
        return _flops(lambda: model(image))


def _flops(step: Callable[[], object]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _text(size: Size) -> str:
    height, width = size
    return f"{width} x {height}"
