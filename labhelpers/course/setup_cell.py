# Setup: the same cell in every lab. It installs labhelpers on Colab and Kaggle; elsewhere it does nothing.
import importlib.metadata as metadata
import importlib.util
import os
import pathlib
import subprocess
import sys

if importlib.util.find_spec("labhelpers") is None:
    if not {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"} & set(os.environ):
        raise ModuleNotFoundError("labhelpers is not installed here: start this notebook with `make lab`.")
    kept = [f"{d.name}=={d.version}" for d in metadata.distributions() if d.name in ("torch", "torchvision", "numpy")]
    pathlib.Path("kept.txt").write_text("\n".join(kept))  # pip may add packages, but never replaces these
    address = os.environ.get("LAB_PACKAGE", "git+https://github.com/segmentation-labs/segmentation-labs")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-c", "kept.txt", address], check=True)

import labhelpers.course  # before torch: it sets how torch's threads wait

labhelpers.course.setup()
