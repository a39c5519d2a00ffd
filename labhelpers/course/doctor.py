"""Is this machine ready, and which data are here? Looked at before anything is downloaded.

Each check is one small function.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from labhelpers import config, data
from labhelpers.data.download import ARCHIVES
from labhelpers.files import connection_problems

# GB that the labs 01 to 08 write in a profile: data with the archive they come in, and checkpoints. tiny and smoke are
# measured, lab and full estimated from the sizes of the networks.
NEEDS_GB = {"tiny": (0.1, 0.5), "smoke": (0.1, 2.0), "lab": (2.5, 12.0), "full": (2.5, 25.0)}
NEEDS_RAM_GB = 4  # the library networks of lab 05 beside a browser

HOSTS = {  # what comes from there, the address, and what happens without
    "PASCAL VOC": (ARCHIVES["voc2012"].urls[0], "the labs work on synthetic scenes, or on a folder in LAB_VOC_ROOT"),
    "ImageNet weights": ("https://download.pytorch.org", "encoders start from random weights"),
    "SAM": ("https://huggingface.co", "lab 07 goes on without SAM, or with weights in the folder LAB_SAM_WEIGHTS"),
    "Weights & Biases": ("https://api.wandb.ai", "logs stay on the disk, as CSV"),
}
DATA = ("course", "scenes", "jigsaw", "voc", "sbd")
SHOWN = ("torch", "torchvision", "numpy", "accelerate", "segmentation-models-pytorch", "transformers", "jupyterlab")


class Finding(NamedTuple):
    """What one check found, and what to do if it is not ok."""

    what: str
    value: str
    ok: bool | None = True  # None: an extra that is not installed, which is no fault
    remedy: str = ""


def examine() -> str:
    """All findings and the minutes of the labs as aligned text; the last line says what to do."""
    findings = [finding for check in CHECKS for finding in check()]
    marks = {True: "ok", None: "--", False: "!!"}
    lines = [f"{marks[f.ok]}  {f.what:28} {f.value}" for f in findings]
    remedies = [f"  {f.what}: {f.remedy}" for f in findings if f.ok is False]
    opens = "`jupyter lab` opens the notebooks (in a clone: `make lab`)"
    advice = f"Ready: {opens}; they run in the profile {config.profile().name}."
    if remedies:
        remedies = ["To be seen to:", *remedies]
        advice = f"What is marked !! is missing; the labs say what they do without it. {advice}"
    return "\n".join([*lines, "", minutes_table(), "", *remedies, advice])


def check_versions() -> Iterator[Finding]:
    """Python, and the main libraries, against the ranges of the installed labhelpers."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    about = importlib.metadata.metadata("labhelpers")
    python, wanted = platform.python_version(), SpecifierSet(about["Requires-Python"])
    yield Finding("Python", python, wanted.contains(python), f"install Python {wanted}")
    needed = {r.name: r for r in map(Requirement, importlib.metadata.requires("labhelpers") or ())}
    for name in SHOWN:
        requirement = needed[name]
        remedy = f'pip install "{name}{requirement.specifier}"'
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            extra = re.search(r'extra == "(\w+)"', str(requirement.marker))
            yield _missing_extra(name, extra[1]) if extra else Finding(name, "not installed", False, remedy)
            continue
        yield Finding(name, version, requirement.specifier.contains(version, prereleases=True), remedy)


def _missing_extra(what: str, extra: str) -> Finding:
    return Finding(what, f'not installed; what needs it says so: pip install "labhelpers[{extra}]"', None)


def check_gpu() -> Iterator[Finding]:
    """Each GPU with its memory, and whether it computes in bfloat16."""
    import torch

    if not torch.cuda.is_available():
        yield Finding("GPU", "none: the profile smoke is made for that")
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if about.major >= 8 else "fp16, no bf16"
        yield Finding(f"GPU {index}", f"{about.name}, {about.total_memory / 2**30:.0f} GB, {bf16}")


def check_processor() -> Iterator[Finding]:
    """Cores, and the memory that is there and free."""
    import psutil

    memory = psutil.virtual_memory()
    gb, free = memory.total / 2**30, memory.available / 2**30
    yield Finding("CPU cores", f"{os.cpu_count()} ({platform.machine()})")
    remedy = f"close programs: {NEEDS_RAM_GB} GB should be free"
    yield Finding("Memory", f"{gb:.0f} GB, {free:.0f} GB of it free", free >= NEEDS_RAM_GB, remedy)


def check_disk() -> Iterator[Finding]:
    """Whether data and checkpoints can be written, and the free space against what the labs of this profile write."""
    name = config.profile().name
    places = {  # the folder, and the variable that names another
        "Data": (config.data_root(create=False), "LAB_HOME"),
        "Checkpoints": (config.checkpoints_root(create=False), "LAB_CHECKPOINTS"),
    }
    for (what, (folder, variable)), needed in zip(places.items(), NEEDS_GB[name], strict=True):
        there = next(path for path in (folder, *folder.parents) if path.exists())  # nothing is left by looking
        free = shutil.disk_usage(there).free / 1e9
        value = f"{free:.0f} GB free in {folder}, the labs need about {needed:g} in the profile {name}"
        yield Finding(
            f"{what} on the disk", value, free >= needed, f"free some space, or set {variable} to another folder"
        )
        try:
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            value = f"{there} cannot be written ({error.strerror})"
            yield Finding(f"{what} can be written", value, False, f"set {variable} to a folder that can")


def check_network() -> Iterator[Finding]:
    """The hosts that downloads come from, all of them within a second."""
    problems = connection_problems([url for url, _ in HOSTS.values()])
    for what, (url, instead) in HOSTS.items():
        found = problems.get(url, "reachable")
        yield Finding(f"Network: {what}", found, url not in problems, f"without it {instead}")


def check_notebooks() -> Iterator[Finding]:
    """What shows notebooks and the demo, and the weights that the demo needs."""
    from labhelpers.models.shipped import SHIPPED, shipped_weights

    modules = {"Jupyter": "jupyterlab", "The demo's page": "voila", "PDF of the report": "reportlab"}
    for what, module in modules.items():
        there = importlib.util.find_spec(module) is not None
        yield Finding(what, f"{module} is installed") if there else _missing_extra(what, "course")
    try:
        sizes = (f"{Path(file).stem} {shipped_weights(file).stat().st_size / 1e6:.1f} MB" for file in SHIPPED)
        yield Finding("Weights of the course", ", ".join(sizes))
    except (FileNotFoundError, ValueError) as error:
        yield Finding("Weights of the course", "missing or damaged", False, str(error))


def minutes_table() -> str:
    """Minutes of each lab in each profile."""
    here = config.profile()
    profiles = (here if profile.name == here.name else profile for profile in config.PROFILES.values())
    shown = {profile.name: profile.minutes for profile in profiles if profile.name != "tiny"}
    labs = sorted({lab for minutes in shown.values() for lab in minutes})
    lines = [f"{'Minutes of lab':22}" + "".join(f"{lab:>7}" for lab in labs) + f"{'all':>8}"]
    for name, minutes in shown.items():
        cells = "".join(f"{minutes[lab]:7g}" if lab in minutes else f"{'–':>7}" for lab in labs)
        mark = " *" if name == here.name else ""
        lines.append(f"  {name + mark:20}{cells}{sum(minutes.values()):8g}")
    lines.append("smoke: measured on 2 CPU cores. lab and full: estimates for a T4, not measured. * what runs here.")
    return "\n".join(lines)


CHECKS = (check_versions, check_gpu, check_processor, check_disk, check_network, check_notebooks)


def inventory(profile: config.Profile) -> str:
    """What lies in the data folder, one line each, and what the labs of this profile work on."""
    root = config.data_root()
    voc = root / "VOCdevkit" / "VOC2012"
    places = {
        "scenes": sorted((root / "scenes").glob("*px-*")),
        "jigsaw": sorted((root / "jigsaw").glob("*px-*")),
        "voc": [voc] if voc.is_dir() else [],
        "sbd": [voc / "SegmentationClassAug"] if (voc / "SegmentationClassAug").is_dir() else [],
    }
    lines = [f"Data in {root}"]
    for name, found in places.items():
        lines += [f"  {name:7} {path.name:22} {_megabytes(path):8,.1f} MB" for path in found]
        if not found:
            lines.append(f"  {name:7} not here         labhelpers data {name}")
    own = config.path_from("LAB_VOC_ROOT")
    what = "PASCAL VOC 2012" if profile.data == "voc" else f"synthetic scenes of {profile.scene_size} px"
    what = f"the photographs in {own}" if own else what
    lines.append(f"The profile {profile.name} works on {what}; jigsaw pictures in lab 04.")
    return "\n".join(lines)


def provide(name: str, profile: config.Profile) -> None:
    """Fetches or makes the data of that name, unless they are here, and prints which they are.

    Raises:
        ValueError: an unknown name. DownloadError: no address delivered the data.
    """
    if name not in DATA:
        raise ValueError(f"unknown data {name!r}; known: {', '.join(DATA)}")
    if name == "sbd":
        print(f"SBD's label maps: {data.fetch_sbd(config.data_root()) / 'SegmentationClassAug'}")
    elif name == "course":
        data.open_course_data(profile)
    else:
        data.open_splits(name, profile, jigsaw_size=profile.unet.jigsaw_size)


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
