"""Images per second of one training step of DeepLabV3+ at output stride 16, against a plain loop and another library.

    python benchmarks/training_step.py [--optimizer adamw] [--rounds 9]
    python benchmarks/training_step.py --backbone resnet18 --batch 2 --crop 64 --rounds 3       for trying it

Forward, loss, backward and optimizer step on one batch (of LAB_VOC_ROOT's photographs, else of synthetic scenes), which
lies on the device already. The contenders take turns, forwards and backwards, so that a busy machine slows them alike;
ratios are medians over rounds. GFLOPs are of the forward pass, a multiplication and an addition counted as two.

- labhelpers: `TrainingState` and `forward_backward`, the training loop with all it decides by itself: precision "auto",
  memory layout, fused optimizer, loss, normalising uint8 images on the device.
- labhelpers, torch.compile: the same with the network compiled, on a GPU only (on a CPU it took minutes for nothing).
- plain fp32 loop: the same network, `F.cross_entropy`, float32 (on a GPU with TF32 in convolutions, PyTorch's
  default), contiguous, images normalised beforehand, an optimizer that is not fused but otherwise as PyTorch makes it.
- labhelpers, separable: the 3x3 convolutions behind the encoder depthwise separable, as smp has them. Encoder, ASPP
  (rates 6, 12, 18), projection to 48 and the 304 -> 256 convolution at stride 4 are the same work as smp's. But smp's
  256 -> 256 convolution stands behind ASPP at stride 16, and ours refines at stride 4, on 16 times the positions.
- labhelpers, smp's order: ours moved to where smp has its own. Equal parameters, equal GFLOPs, equal work.
- smp DeepLabV3+ in our `TrainingState`: equal loss, precision, layout and optimizer. It drops half of ASPP's result
  (we a tenth) and aligns corners when it enlarges, at the same cost.
"""

import labhelpers  # noqa: F401, I001  before torch: it sets how OpenMP waits

# isort: split
import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from labhelpers.data import Augmentation, SegmentationDataset, VOCSegmentation, make_scenes, to_input, training_loader
from labhelpers.evaluation import count_parameters, peak_memory_mb
from labhelpers.models import build
from labhelpers.training import Recipe, TrainingState, forward_backward

OURS, PLAIN, SMP, SEPARABLE = "labhelpers", "plain fp32 loop", "smp DeepLabV3+", "labhelpers, separable"
COMPILED, EQUAL = "labhelpers, torch.compile", "labhelpers, smp's order"
Step = Callable[[], float]  # makes one step, returns its loss
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "benchmarks" / "training_step.json"
RATES = {"sgd": 0.01, "adamw": 1e-4}  # sgd: as the profile `full` trains DeepLabV3+, momentum 0.9 with it


def loop_step(run: TrainingState, batch: tuple) -> Step:
    """One turn of the loop in `labhelpers.training.loop`, without log, evaluation and checkpoints."""

    def step() -> float:
        run.schedule.step(run.step)
        run.prepare_step()
        loss = forward_backward(run, *batch)
        run.optimizer.step()
        run.optimizer.zero_grad()
        return loss

    return step


def plain_step(model: nn.Module, recipe: Recipe, batch: tuple) -> Step:
    """What one writes without thinking about speed."""
    images, targets, colour = batch
    x, y = to_input(images, colour), targets.long()
    model.to(x.device).train()
    encoder = list(model.encoder.parameters())
    rest = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
    groups = [{"params": rest}, {"params": encoder, "lr": recipe.lr * recipe.backbone_factor}]
    make = partial(torch.optim.SGD, momentum=recipe.momentum) if recipe.optimizer == "sgd" else torch.optim.AdamW
    optimizer = make(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=False)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y, ignore_index=255)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def networks(backbone: str, width: int) -> dict[str, Callable[[], nn.Module]]:
    """The contenders on this machine."""

    def ours(separable: bool = False) -> nn.Module:
        return build("deeplabv3plus", backbone=backbone, width=width, separable=separable)

    def smp() -> nn.Module:
        from segmentation_models_pytorch import DeepLabV3Plus

        options = {"encoder_output_stride": 16, "decoder_atrous_rates": (6, 12, 18), "decoder_channels": 256}
        return DeepLabV3Plus(backbone, encoder_weights=None, classes=21, **options)

    def as_smp() -> nn.Module:
        model = ours(separable=True)
        first, second = model.head.refine
        model.head.aspp, model.head.refine = nn.Sequential(model.head.aspp, second), first
        return model

    found = {OURS: ours, COMPILED: ours, PLAIN: ours, SEPARABLE: lambda: ours(separable=True), EQUAL: as_smp, SMP: smp}
    left_out = {COMPILED: not torch.cuda.is_available(), SMP: width != 64}  # smp has one width
    return {name: make for name, make in found.items() if not left_out.get(name)}


def prepare(name: str, model: nn.Module, photos: SegmentationDataset, recipe: Recipe, batch: tuple) -> tuple:
    """The contender's step, after the first two, and what is to be said about it."""
    device, crop = batch[0].device, recipe.augmentation.crop
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, crop, crop))
    cuda = device.type == "cuda"
    before = torch.cuda.memory_allocated() if cuda else 0
    precision = "no"
    if name == PLAIN:
        step = plain_step(model, recipe, batch)
    else:
        with tempfile.TemporaryDirectory() as folder:  # a run looks for a run to continue and finds none
            run = TrainingState(model, photos, photos, recipe, Path(folder))
        if name == COMPILED:
            run.wrapped_model = torch.compile(model)
        step, precision = loop_step(run, batch), run.precision
    start = time.perf_counter()
    step()  # makes the optimizer's state, chooses algorithms, compiles
    facts = {"precision": precision, "first_step_s": time.perf_counter() - start}
    facts |= {"parameters": count_parameters(model), "gflops": counter.get_total_flops() / 1e9}
    if cuda:
        kept = (torch.cuda.memory_allocated() - before) / 2**20  # weights, gradients, the optimizer's state
        facts["peak_memory_mb"] = kept + peak_memory_mb(step, device)
    return step, facts


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds = {name: [] for name in steps}
    for count in range(rounds):
        for name in list(steps)[:: -1 if count % 2 else 1]:
            synchronize()
            start = time.perf_counter()
            steps[name]()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def open_photos() -> SegmentationDataset:
    if os.environ.get("LAB_VOC_ROOT"):
        return VOCSegmentation(os.environ["LAB_VOC_ROOT"], "train")
    return VOCSegmentation(make_scenes(RESULTS.parent / "scenes500", (40, 1), size=500), "train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--width", type=int, default=64, help="of the encoder's first stage; another leaves out smp")
    parser.add_argument("--optimizer", choices=RATES, default="sgd")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    chosen = {"optimizer": given.optimizer, "lr": RATES[given.optimizer], "backbone_factor": 0.1}
    recipe = Recipe(10**6, given.batch, augmentation=Augmentation(given.crop), **chosen)
    photos, steps, rows = open_photos(), {}, {}
    loader = training_loader(photos, recipe.augmentation, given.batch, steps=1)
    batch = tuple(part.to("cuda" if cuda else "cpu") for part in next(iter(loader)))
    for name, make in networks(given.backbone, given.width).items():
        torch.manual_seed(0)
        steps[name], rows[name] = prepare(name, make(), photos, recipe, batch)
    seconds = measure(steps, given.rounds)

    def times(name: str, other: str) -> float:
        """How many times the other's images per second."""
        return statistics.median(b / a for a, b in zip(seconds[name], seconds[other], strict=True))

    print(
        f"Training step of DeepLabV3+ {given.backbone}, width {given.width}, output stride 16, 21 classes, batch "
        f"{given.batch}, crop {given.crop}, {given.optimizer}, {device}, median of {given.rounds} rounds\n"
    )
    print("| contender | precision | images/s | ms | x ours | parameters | forward GFLOPs an image |", end="")
    print(" peak MB | first step s |" if cuda else "")
    print("|---" * (9 if cuda else 7) + "|")
    for name, row in rows.items():
        row |= {"ms": 1000 * statistics.median(seconds[name]), "ratio_to_ours": times(name, OURS)}
        row["images_per_second"] = 1000 * given.batch / row["ms"]
        cells = [name, row["precision"], f"{row['images_per_second']:.2f}", f"{row['ms']:.0f}"]
        cells += [f"{row['ratio_to_ours']:.2f}", f"{row['parameters']:,}", f"{row['gflops']:.1f}"]
        cells += [f"{row['peak_memory_mb']:,.0f}", f"{row['first_step_s']:.0f}"] if cuda else []
        print("| " + " | ".join(cells) + " |")
    print(f"\nlabhelpers: {times(OURS, PLAIN):.2f} times the images per second of the plain fp32 loop")
    for name in (EQUAL, SEPARABLE) if SMP in rows else ():
        work = rows[name]["gflops"] / rows[SMP]["gflops"]
        print(f"{name}: {times(name, SMP):.2f} times those of smp, with {work:.3f} times its GFLOPs")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    settings = {**vars(given), "device": device, "torch": torch.__version__, "images": photos.name}
    RESULTS.write_text(json.dumps({"settings": settings, "rows": rows, "seconds": seconds}, indent=1) + "\n")
    print(f"\nwritten to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
