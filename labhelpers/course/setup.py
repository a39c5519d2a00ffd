"""What the first two cells of every notebook do: find a place for checkpoints, then say what is about to run."""

import importlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from labhelpers import config

DRIVE = Path("/content/drive")
EXTRAS = {"05": ("monai", "weights"), "07": ("sam",)}
"""What a lab uses and the others do not, as pyproject.toml calls it."""
KEPT = ("torch", "torchvision", "numpy")
"""What other packages of a machine are built against."""


def setup() -> None:
    """Called by the setup cell. On Colab and Kaggle it adds what labhelpers needs, and on Colab it offers a Drive
    folder for checkpoints; elsewhere it does nothing.

    Raises:
        RuntimeError: what labhelpers needs cannot be installed; it says why.
    """
    if hosted():
        install()
    if not on_colab() or "LAB_CHECKPOINTS" in os.environ:
        return
    folder = DRIVE / "MyDrive" / "segmentation-labs"
    try:
        from google.colab import drive

        drive.mount(str(DRIVE))
        folder.mkdir(parents=True, exist_ok=True)
    except Exception as error:  # Colab raises several kinds when the student declines; all mean "no Drive"
        print(f"No Drive ({error}): checkpoints stay on this machine and are lost when it is given back.")
        return
    os.environ["LAB_CHECKPOINTS"] = str(folder)
    print(f"Checkpoints are kept in {folder}: a disconnected run resumes from there.")


def on_colab() -> bool:
    return "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules


def hosted() -> bool:
    """Whether this is Colab or Kaggle, where the notebook installs what it needs."""
    return on_colab() or "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def install(*extras: str) -> None:
    """Adds what labhelpers, with `extras`, needs and is not here.

    Nothing that is here is replaced, unless it is too old; then it is said, and torch and what is built against it
    stays in any case.

    Raises:
        RuntimeError: it cannot be installed; the message says why.
    """
    from packaging.requirements import Requirement  # every Jupyter kernel comes with it
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    here: dict[str, Version] = {}
    for found in importlib.metadata.distributions():
        with suppress(InvalidVersion, TypeError, AttributeError):  # what a system's package manager left behind
            here.setdefault(canonicalize_name(found.name), Version(found.version))
    needed: dict[str, str] = {}
    for requirement in map(Requirement, importlib.metadata.requires("labhelpers") or ()):
        name, marker = canonicalize_name(requirement.name), requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        if name not in here or not requirement.specifier.contains(here[name], prereleases=True):
            needed[name] = f"{name}{requirement.specifier}"
    if not needed:
        return
    old = {name: f"{name} {here[name]}, for {needed[name]} is needed" for name in needed if name in here}
    for name in KEPT:
        if name in old:
            raise RuntimeError(f"too old, and not to be replaced by a notebook: {old[name]}. Choose a newer runtime.")
    print(f"Installing {', '.join(needed)} ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "kept.txt"
        kept.write_text("".join(f"{name}=={version}\n" for name, version in here.items() if name not in needed))
        command = [sys.executable, "-m", "pip", "install", "-q", "-c", str(kept), *needed.values()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
        raise RuntimeError("\n".join([f"{', '.join(needed)} cannot be installed beside what is here:", *errors]))
    if old:
        print(f"Replaced: {'; '.join(old.values())}")
    importlib.invalidate_caches()


def begin(lab: str) -> config.Profile:
    """Prints profile, device, precision and the time to expect for `lab` ("01" to "08"), and returns the profile.

    On Colab and Kaggle it first adds what this lab uses and the others do not.

    Raises:
        ValueError: for an unknown `LAB_PROFILE` or a lab without a time estimate.
    """
    import torch

    from labhelpers.training import resolve_precision

    profile = config.profile()
    if lab not in profile.minutes:
        raise ValueError(f"unknown lab {lab!r}; known: {', '.join(profile.minutes)}")
    if lab in EXTRAS and hosted():
        try:
            install(*EXTRAS[lab])
        except RuntimeError as error:
            print(f"The lab goes on without {' and '.join(EXTRAS[lab])}: {error}")
    if not torch.cuda.is_available() and (os.cpu_count() or 1) <= 2 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # two virtual cores share one real one: small networks are slower on two threads
    if torch.cuda.is_available():
        device = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    else:
        threads = torch.get_num_threads()
        device = f"CPU, {threads} thread{'s' * (threads > 1)}"
    measured = "measured on 2 CPU cores" if profile.name in ("tiny", "smoke") else "an estimate for a T4, not measured"
    if profile.data == "own":
        measured = "an estimate for 2 CPU cores, from runs on 377 photographs to learn from and 41 to score"
    print(f"Profile    {profile.name}: {profile.purpose} (set LAB_PROFILE to change it)")
    precision = resolve_precision(profile.mask_rcnn.precision if lab == "08" else "auto")
    if profile.encoder_note and lab in ("02", "03"):
        print(f"Encoder    {profile.encoder_note}")
    print(f"Device     {device}; training precision {'fp32' if precision == 'no' else precision}")
    minutes = profile.minutes[lab]
    if profile.cut:
        print(f"Steps      at most {profile.cut} a training, by LAB_STEPS: nothing is learned, no number is a result")
        return profile
    print(f"Time       about {minutes:g} minute{'s' * (minutes != 1)} ({measured})")
    return profile
