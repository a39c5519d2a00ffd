"""What the first two cells of every notebook do: find a place for checkpoints, then say what is about to run."""

import os
import sys
from pathlib import Path

from labhelpers import config

DRIVE = Path("/content/drive")


def setup() -> None:
    """Called by the setup cell. On Colab it offers a Drive folder for checkpoints; elsewhere it does nothing."""
    if not on_colab() or "LAB_CHECKPOINTS" in os.environ:
        return
    from google.colab import drive

    try:
        drive.mount(str(DRIVE))
    except Exception as error:  # Colab raises several kinds when the student declines; all mean "no Drive"
        print(f"No Drive ({error}): checkpoints stay on this machine and are lost when it is given back.")
        return
    os.environ["LAB_CHECKPOINTS"] = str(DRIVE / "MyDrive" / "segmentation-labs")
    print(f"Checkpoints are kept in {os.environ['LAB_CHECKPOINTS']}: a disconnected run resumes from there.")


def on_colab() -> bool:
    return "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules


def begin(lab: str) -> config.Profile:
    """Prints profile, device, precision and the time to expect for `lab` ("01" to "07"), and returns the profile.

    Raises:
        ValueError: for an unknown `LAB_PROFILE` or a lab without a time estimate.
    """
    import torch

    from labhelpers.training import resolve_precision

    profile = config.profile()
    if lab not in profile.minutes:
        raise ValueError(f"unknown lab {lab!r}; known: {', '.join(profile.minutes)}")
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
    precision = resolve_precision("auto")
    if profile.encoder_note and lab in ("02", "03"):
        print(f"Encoder    {profile.encoder_note}")
    print(f"Device     {device}; training precision {'fp32' if precision == 'no' else precision}")
    minutes = profile.minutes[lab]
    print(f"Time       about {minutes:g} minute{'s' * (minutes != 1)} ({measured})")
    return profile
