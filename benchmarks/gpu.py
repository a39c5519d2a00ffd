"""What only a machine with CUDA can show, in nine minutes and without a network: `make gpu`.

    python benchmarks/gpu.py [--wheels FOLDER]
    python benchmarks/gpu.py --quick        a small part of each, in a minute or two and on a CPU too, for trying it

The tests marked `gpu`; measurements; then the notebooks in the profile `lab` with two steps for each training, as far
as there is time. They work on the photographs in LAB_VOC_ROOT (VOC layout; some dozens are enough), else on synthetic
scenes; lab 07 on a tiny SAM with random weights unless LAB_SAM_WEIGHTS names one. Each part is a process of its own,
whose output is in build/gpu/, so that none that hangs or fails takes the others along.

Of --wheels, what is not installed here is put into build/gpu/packages. What is here stays as it is, torch above all.

The training step is `training_step.py`'s and the evaluation `evaluation_speed.py`'s: see there for the contenders.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "gpu"
PACKAGES = BUILD / "packages"
PAGE = ROOT / "docs" / "gpu.md"
MINUTES = 8.8  # of nine, so that what still runs can be stopped
STEPS = 2  # of each training in the notebooks
HANDOUT_MB = 6861  # peak of DeepLabV3+ with a batch of 8 crops of 513 px
HEAD = """# On a GPU

`make gpu` runs, on a machine with CUDA and in nine minutes, what no other machine can show: the tests marked `gpu`; the
speed and the memory of a training step, the speed of the evaluation and of Mini-SAM; and all notebooks in the profile
`lab`, two steps of each training, so that every cell runs and no score means anything. It needs no network; the torch
that is there is used. `LAB_VOC_ROOT=folder` names some dozens of photographs in VOC layout (without it, synthetic
scenes are drawn). `WHEELS=folder` names wheels: those of packages that are missing there are put into
build/gpu/packages. `PYTHON=.venv/bin/python` names the Python that has torch, where it is not `python3`. The table
takes the place of what follows. `QUICK=1` runs a small part of it on a CPU, and writes to build/gpu/gpu.md.

"""
NO_RUN = "**No run on a GPU has been made yet**: how fast the course is there and what memory it needs is not known.\n"


def training_step(quick: bool) -> Iterator[tuple[str, str]]:
    """Images per second and peak memory of DeepLabV3+, on the published crops: ours, smp's and a plain loop."""
    import torch
    from training_step import OURS, PLAIN, SMP, measure, networks, open_photos, prepare

    from labhelpers.data import Augmentation, training_loader
    from labhelpers.training import Recipe, resolve_precision

    half = resolve_precision("auto")  # what the course trains in here
    backbone, size, crop, rounds = ("resnet18", 2, 64, 3) if quick else ("resnet50", 8, 513, 7)
    cuda = torch.cuda.is_available()
    photos, steps, facts = open_photos(), {}, {}
    loader = training_loader(photos, Augmentation(crop), size, steps=1)
    batch = tuple(part.to("cuda" if cuda else "cpu") for part in next(iter(loader)))
    for precision in ("no", "bf16", "fp16") if cuda else ("no",):
        settings = {"optimizer": "sgd", "lr": 0.01, "backbone_factor": 0.1, "precision": precision}
        recipe = Recipe(10**6, size, augmentation=Augmentation(crop), **settings)
        for name in (PLAIN, OURS, SMP) if precision == "no" else (OURS, SMP):
            torch.manual_seed(0)
            title = name if name == PLAIN else f"{name}, {'fp32' if precision == 'no' else precision}"
            try:
                steps[title], facts[title] = prepare(name, networks(backbone, 64)[name](), photos, recipe, batch)
            except torch.OutOfMemoryError:
                yield f"training step, {title}", "out of memory"
    for title, seconds in (taken := measure(steps, rounds)).items():
        said = f"{size / statistics.median(seconds):,.1f} images/s"
        if title != PLAIN and PLAIN in taken:
            ratio = statistics.median(b / a for a, b in zip(seconds, taken[PLAIN], strict=True))
            said += f", {ratio:.2f} times the plain loop{' (goal: 3)' if title == f'{OURS}, {half}' else ''}"
        if cuda:
            said += f"; {facts[title]['peak_memory_mb']:,.0f} MB at its peak"
            said += f" (handout: {HANDOUT_MB:,})" if title.startswith(OURS) else ""
        yield f"training step, batch {size}, crop {crop}, {title}", said


def evaluation(quick: bool) -> Iterator[tuple[str, str]]:
    """Seconds for a few images, against a plain loop, and the pixels that get another label."""
    from evaluation_speed import PLAIN, contenders, measure, open_sets, ratio, trained, watch

    from labhelpers.training import resolve_precision

    images, largest, backbone, width = (4, 128, "resnet18", 24) if quick else (16, 513, "resnet50", 64)
    train_set, dataset = open_sets(images, largest)
    model, half = trained(train_set, dataset, backbone, width), resolve_precision("auto")
    runs = contenders(model, dataset, None if half == "no" else half)
    labels = {name: watch(model, run)[1] for name, run in runs.items()}
    seconds = measure(runs, dict.fromkeys(runs, 3))
    for name, taken in seconds.items():
        said = f"{statistics.median(taken):.2f} s, {ratio(seconds, name, PLAIN):.2f} times as fast as the plain loop"
        differ = (labels[name] != labels[PLAIN]).sum()
        yield (
            f"evaluation of {len(dataset)} images, {name}",
            f"{said}; {differ:,} of {labels[name].size:,} pixels have another label",
        )


def mini_sam(quick: bool) -> Iterator[tuple[str, str]]:
    """Milliseconds of a click on the shipped network, as the canvas asks it."""
    import torch
    from mini_sam import latencies

    from labhelpers.prompting import OneLook, load_predictor

    predictor = load_predictor("mini_sam", "cuda" if torch.cuda.is_available() else "cpu")
    for what, milliseconds in latencies(predictor, OneLook(predictor.model)).items():
        yield f"Mini-SAM, {what}", f"{milliseconds:.1f} ms"


MEASURED = {"training_step": training_step, "evaluation": evaluation, "mini_sam": mini_sam}


def parts(quick: bool) -> dict[str, tuple[list[str], float]]:
    """What is run: the command of each part, and the seconds that it may take of those that are left."""
    python, here = sys.executable, str(Path(__file__))
    marked = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if "mark.gpu" in path.read_text()]
    found = {"tests": ([python, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *marked], 200.0)}
    found |= {name: ([python, here, "--part", name, *["--quick"] * quick], 100.0) for name in MEASURED}
    labs = sorted((ROOT / "notebooks").glob("01*.ipynb" if quick else "0*.ipynb"))
    run = [python, "-m", "labhelpers.course.run", "--out", str(BUILD / "labs")]
    return found | {f"lab {path.name[:2]}": ([*run, str(path)], 60 * MINUTES) for path in labs}


def run(command: list[str], log: Path, seconds: float) -> int | None:
    """The exit code of a command, None where it was stopped after so many seconds; all it prints is in the log."""
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)  # it can still write what it has
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return None


def told(name: str, code: int | None, log: Path, seconds: float) -> list[tuple[str, str]]:
    """The rows of a part that has run for so many seconds."""
    said = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    lines, rows = ["it says nothing", *filter(None, said)], []
    if name in MEASURED:
        rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("| ")]
    if code is None:
        return [*rows, (name, f"**stopped after {seconds:.0f} s**")]
    if code:
        failed = [line for line in lines if line.startswith("FAILED")] or lines[-1:]
        return [*rows, (name, f"**failed**: {'; '.join(failed).replace('|', '/')}")]
    if name == "tests":
        return [(name, lines[-1].strip("= "))]
    return rows or [(name, f"every cell ran, {seconds:.0f} s")]


def install_missing(wheels: Path) -> None:
    """Puts what is not installed into a folder of its own, without what it needs: that must be there or a wheel too.

    Raises:
        SystemExit: there is no wheel, or pip refuses one; the message says why.
    """
    from packaging.utils import canonicalize_name, parse_wheel_filename

    here = {canonicalize_name(found.name) for found in importlib.metadata.distributions() if found.name}
    given = sorted(wheels.glob("*.whl"))
    if not given:
        raise SystemExit(f"no wheel in {wheels}: name a folder with files such as accelerate-1.15.0-py3-none-any.whl")
    missing = [str(path) for path in given if parse_wheel_filename(path.name)[0] not in here]
    if missing:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(PACKAGES)]
        done = subprocess.run([*command, *missing], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"pip cannot install from {wheels}:\n{done.stderr.strip()}")


def lacking() -> list[str]:
    """What labhelpers and the notebooks need and is not installed."""
    from packaging.requirements import Requirement

    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [*(Requirement(line).name for line in needed), "nbclient", "nbconvert"]
    paths = [*sys.path, str(PACKAGES)]
    return [name for name in names if not any(importlib.metadata.distributions(name=name, path=paths))]


def page(rows: list[tuple[str, str]] | None = None, about: str = "") -> str:
    """The whole of docs/gpu.md."""
    if rows is None:
        return HEAD + NO_RUN
    table = ["| what | result |", "|---|---|", *(f"| {what} | {said} |" for what, said in rows)]
    return HEAD + about + "\n\n" + "\n".join(table) + "\n"


def machine() -> str:
    """On what it ran."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    images = "the photographs of LAB_VOC_ROOT" if os.environ.get("LAB_VOC_ROOT") else "synthetic scenes"
    return f"**{gpu}**, {os.cpu_count()} CPU cores, {versions}, {datetime.date.today()}; {images}."


def prepare_environment() -> None:
    """For all parts: no network, and data and checkpoints of their own in build/gpu."""
    os.environ.pop("LAB_CHECKPOINTS", None)
    shutil.rmtree(BUILD / "home", ignore_errors=True)
    os.environ |= {"LAB_HOME": str(BUILD / "home"), "LAB_PROFILE": "lab", "LAB_STEPS": str(STEPS)}
    os.environ |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    places = (str(ROOT), os.environ.get("PYTHONPATH"), str(PACKAGES))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    os.environ.setdefault("JUPYTER_PATH", str(PACKAGES / "share" / "jupyter"))  # templates of a nbconvert that is there
    sys.path += [str(ROOT), str(ROOT / "tests"), str(PACKAGES)]
    from labhelpers.data import make_scenes

    if not os.environ.get("LAB_VOC_ROOT"):
        os.environ["LAB_VOC_ROOT"] = str(make_scenes(BUILD / "scenes", (40, 12), size=500))
    if not os.environ.get("LAB_SAM_WEIGHTS") and importlib.util.find_spec("transformers"):
        from tiny_sam import write_tiny_sam

        os.environ["LAB_SAM_WEIGHTS"] = str(write_tiny_sam(BUILD / "sam"))


def main() -> int:
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small part of each; the page goes to build/gpu/gpu.md")
    parser.add_argument("--wheels", type=Path, help="folder with wheels of packages that are missing here")
    parser.add_argument("--part", choices=MEASURED, help=argparse.SUPPRESS)  # how it calls itself
    given = parser.parse_args()
    if given.part:
        for what, said in MEASURED[given.part](given.quick):
            print(f"| {what} | {said} |", flush=True)
        return 0
    BUILD.mkdir(parents=True, exist_ok=True)
    if given.wheels:
        install_missing(given.wheels)
    if missing := lacking():
        print(f"Not installed here: {', '.join(missing)}. What needs them fails; wheels of them: WHEELS=folder")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as labhelpers does, which is not imported yet
    import torch

    if not (given.quick or torch.cuda.is_available()):
        raise SystemExit("torch sees no GPU here; QUICK=1 runs a small part of it on a CPU")
    target, about = BUILD / "gpu.md" if given.quick else PAGE, machine()
    prepare_environment()
    todo = parts(given.quick)
    rows = {name: [(name, "**not reached**: no time was left")] for name in todo}
    problems = dict.fromkeys(todo)
    for name, (command, most) in todo.items():
        began, log = time.monotonic(), BUILD / f"{name.replace(' ', '')}.log"
        left = 60 * MINUTES - (began - start)
        if left > 5:
            code = run(command, log, min(most, left))
            rows[name] = told(name, code, log, time.monotonic() - began)
            if code == 0:
                del problems[name]
            print(*(f"{what}: {said}" for what, said in rows[name]), sep="\n", flush=True)
        target.write_text(page(sum(rows.values(), []), about))
    print(f"\n{target} is written; outputs are in {BUILD}.")
    if problems:
        print(f"FAILED: {', '.join(problems)}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
