# Setup: the same cell in every lab. It installs labhelpers on Colab and Kaggle; elsewhere it does nothing.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("labhelpers") is None:
    address = os.environ.get("LAB_PACKAGE", "git+https://github.com/segmentation-labs/segmentation-labs")
    if not {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"} & set(os.environ):
        here = f'`make lab`, or after: pip install "labhelpers[course,sam,monai,weights] @ {address}"'
        raise ModuleNotFoundError(f"labhelpers is not installed here: start this notebook with {here}")
    # Alone: setup() then adds what it needs, and keeps the versions of all that is here.
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", address], check=True)

import labhelpers.course  # before torch: it sets how torch's threads wait

labhelpers.course.setup()
