"""What a model costs: time, memory and parameters."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from labhelpers.evaluation.evaluator import inference


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, frozen ones included and shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def time_inference(
    model: nn.Module, size: tuple[int, int] = (512, 512), *, precision: str = "no", warmup: int = 3, runs: int = 15
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


def peak_memory_mb(step: Callable[[], object], device: torch.device) -> float | None:
    """Run `step`, say a training step, and return the most GPU memory in use in MB, model included; None on a CPU."""
    if device.type != "cuda":
        step()
        return None
    torch.cuda.reset_peak_memory_stats(device)
    step()
    _synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**20


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
