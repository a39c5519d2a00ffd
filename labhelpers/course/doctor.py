"""Is this machine ready? Looked at before anything is downloaded; each check is one small function."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from labhelpers import config
from labhelpers.data.download import ARCHIVES
from labhelpers.files import connection_problems

# GB that the labs 01 to 07 write in a profile: data with the archive they come in, and checkpoints. tiny and smoke are
# measured, lab and full estimated from the sizes of the networks.
NEEDS_GB = {"tiny": (0.1, 0.5), "smoke": (0.1, 2.0), "lab": (2.5, 12.0), "full": (2.5, 25.0)}
NEEDS_RAM_GB = 4  # the library networks of lab 05 beside a browser

HOSTS = {  # what comes from there, the address, and what happens without
    "PASCAL VOC": (ARCHIVES["voc2012"].urls[0], "the labs work on synthetic scenes, or on a folder in LAB_VOC_ROOT"),
    "ImageNet weights": ("https://download.pytorch.org", "encoders start from random weights"),
    "SAM": ("https://huggingface.co", "lab 07 goes on without SAM, or with weights in the folder LAB_SAM_WEIGHTS"),
    "Weights & Biases": ("https://api.wandb.ai", "logs stay on the disk, as CSV"),
}
SHOWN = ("torch", "torchvision", "numpy", "accelerate", "segmentation-models-pytorch", "transformers", "jupyterlab")


class Finding(NamedTuple):
    """What one check found."""

    what: str
    value: str
    ok: bool
    remedy: str = ""  # empty where ok


def examine() -> str:
    """All findings and the minutes of the labs as aligned text; the last line says what to do."""
    findings = [finding for check in CHECKS for finding in check()]
    lines = [f"{'ok' if f.ok else '!!'}  {f.what:28} {f.value}" for f in findings]
    remedies = [f"  {f.what}: {f.remedy}" for f in findings if not f.ok]
    return "\n".join([*lines, "", minutes_table(), "", *_advice(remedies)])


def _advice(remedies: list[str]) -> list[str]:
    profile = config.profile()
    start = f"Ready: make lab opens the notebooks; they run in the profile {profile.name}."
    if not remedies:
        return [start]
    return ["To be seen to:", *remedies, f"What is marked !! is missing; the labs say what they do without it. {start}"]


def check_versions() -> Iterator[Finding]:
    """Python, and the main libraries, against the ranges of the installed labhelpers."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    about = importlib.metadata.metadata("labhelpers")
    python, wanted = platform.python_version(), SpecifierSet(about["Requires-Python"])
    yield _judge("Python", python, wanted.contains(python), f"install Python {wanted}")
    ranges = {r.name: r.specifier for r in map(Requirement, importlib.metadata.requires("labhelpers") or ())}
    for name in SHOWN:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "not installed", False, f'pip install "{name}{ranges[name]}"')
            continue
        fits = ranges[name].contains(version, prereleases=True)
        yield _judge(name, version, fits, f'pip install "{name}{ranges[name]}"')


def check_gpu() -> Iterable[Finding]:
    """Each GPU with its memory, and whether it computes in bfloat16."""
    import torch

    if not torch.cuda.is_available():
        return [Finding("GPU", "none: the profile smoke is made for that", True)]
    found = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if about.major >= 8 else "fp16, no bf16"
        found.append(Finding(f"GPU {index}", f"{about.name}, {about.total_memory / 2**30:.0f} GB, {bf16}", True))
    return found


def check_processor() -> Iterable[Finding]:
    """Cores, and the memory that is there and free."""
    import psutil

    memory = psutil.virtual_memory()
    gb, free = memory.total / 2**30, memory.available / 2**30
    return [
        Finding("CPU cores", f"{os.cpu_count()} ({platform.machine()})", True),
        _judge(
            "Memory",
            f"{gb:.0f} GB, {free:.0f} GB of it free",
            free >= NEEDS_RAM_GB,
            f"close programs: {NEEDS_RAM_GB} GB should be free",
        ),
    ]


def check_disk() -> Iterable[Finding]:
    """Free space where data and checkpoints go, against what the labs of this profile write."""
    name = config.profile().name
    needs = dict(zip(("Data", "Checkpoints"), NEEDS_GB[name], strict=True))
    places = {
        "Data": config.home() / "data",
        "Checkpoints": Path(os.environ.get("LAB_CHECKPOINTS") or config.home() / "checkpoints"),
    }
    return [_space(what, places[what], needs[what], name) for what in needs]


def _space(what: str, folder: Path, needed: float, profile: str) -> Finding:
    there = folder
    while not there.exists():  # nothing is created by looking
        there = there.parent
    free = shutil.disk_usage(there).free / 1e9
    value = f"{free:.0f} GB free in {folder}, the labs need about {needed:g} in the profile {profile}"
    variable = "LAB_HOME" if what == "Data" else "LAB_CHECKPOINTS"
    return _judge(f"{what} on the disk", value, free >= needed, f"free some space, or set {variable} to another folder")


def check_network() -> Iterable[Finding]:
    """The hosts that downloads come from, all of them within a second."""
    problems = connection_problems([url for url, _ in HOSTS.values()])
    return [
        _judge(f"Network: {what}", problems.get(url, "reachable"), url not in problems, f"without it {instead}")
        for what, (url, instead) in HOSTS.items()
    ]


def check_notebooks() -> Iterable[Finding]:
    """What shows notebooks and the demo, and the weights that the demo needs."""
    from labhelpers.prompting.shipped import mini_sam_weights

    extra = 'pip install "labhelpers[course]"'
    modules = {"Jupyter": "jupyterlab", "The demo's page": "voila", "PDF of the report": "reportlab"}
    found = []
    for what, module in modules.items():
        there = importlib.util.find_spec(module) is not None
        found.append(_judge(what, f"{module} {'is installed' if there else 'is missing'}", there, extra))
    try:
        size = mini_sam_weights().stat().st_size / 1e6
        found.append(Finding("Mini-SAM's weights", f"{size:.1f} MB", True))
    except FileNotFoundError as error:
        found.append(Finding("Mini-SAM's weights", "missing", False, str(error)))
    return found


def minutes_table() -> str:
    """Minutes of each lab in each profile."""
    names = [name for name in config.PROFILES if name != "tiny"]
    labs = sorted({lab for name in names for lab in config.PROFILES[name].minutes})
    lines = [f"{'Minutes of lab':22}" + "".join(f"{lab:>7}" for lab in labs) + f"{'all':>8}"]
    for name in names:
        minutes = config.PROFILES[name].minutes
        cells = "".join(f"{minutes[lab]:7g}" if lab in minutes else f"{'–':>7}" for lab in labs)
        here = " *" if name == config.profile().name else ""
        lines.append(f"  {name + here:20}{cells}{sum(minutes.values()):8g}")
    lines.append("smoke: measured on 2 CPU cores. lab and full: estimates for a T4, not measured. * what runs here.")
    return "\n".join(lines)


def _judge(what: str, value: str, ok: bool, remedy: str) -> Finding:
    return Finding(what, value, ok, "" if ok else remedy)


CHECKS: tuple[Callable[[], Iterable[Finding]], ...] = (
    check_versions,
    check_gpu,
    check_processor,
    check_disk,
    check_network,
    check_notebooks,
)
