"""The costs that stand beside every score: parameters, floating-point operations, time and memory.

Time, memory and operations grow with the image, so a cost is worth nothing without the size at which it was measured.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from labhelpers.evaluation.evaluator import inference

Size = tuple[int, int]


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, frozen ones included and shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def time_inference(
    model: nn.Module, size: Size = (512, 512), *, precision: str = "no", warmup: int = 3, runs: int = 15
) -> float:
    """Return the milliseconds of one forward pass with one image: the median of `runs`, after `warmup` unmeasured ones.

    Normalised input to logits, where the model is; the device has finished before the clock is read.

    Args:
        size: height and width in pixels, to be stated beside the number.
    """
    with inference(model, precision) as device:
        image = torch.randn(1, 3, *size, device=device)
        times = []
        for _ in range(warmup + runs):
            _synchronize(device)
            start = time.perf_counter()
            model(image)
            _synchronize(device)
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[warmup:])


def inference_memory_mb(model: nn.Module, size: Size = (512, 512), *, precision: str = "no") -> float:
    """Return the MB (2**20 bytes) that one forward pass with one image needs at its peak, weights included.

    Args:
        size: height and width in pixels, to be stated beside the number.
    """
    with inference(model, precision) as device:
        image = torch.randn(1, 3, *size, device=device)
        model(image)  # the first pass also allocates what libraries keep
        return weights_mb(model) + peak_memory_mb(lambda: model(image), device)


def weights_mb(model: nn.Module) -> float:
    """Return the MB (2**20 bytes) of a model's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())) / 2**20


def peak_memory_mb(step: Callable[[], object], device: torch.device) -> float:
    """Run `step`, say a training step, and return the most memory in use at once, beyond what was before, in MB.

    What PyTorch's allocator hands out is counted, on a GPU and on a CPU; what other libraries take is not.
    """
    if device.type == "cuda":
        _synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        _synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler writes its own log into the notebook
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    live = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / 2**20


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
        "cost_size": size_text(size),
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
        return total_flops(lambda: model(image))


def total_flops(step: Callable[[], object]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def size_text(size: Size) -> str:
    height, width = size
    return f"{width} x {height}"
