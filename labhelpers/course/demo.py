"""The demo as a page of this machine."""

import importlib.util
import subprocess
import sys
from pathlib import Path

from labhelpers import config

NOTEBOOK = "demo_minisam.ipynb"


def find_notebooks(folder: Path | None) -> Path:
    """The folder of the notebooks: the one given, else `notebooks` here or in the checkout.

    Raises:
        FileNotFoundError: there is none.
    """
    places = [folder] if folder is not None else [Path("notebooks"), config.home() / "notebooks"]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"no folder {' or '.join(map(str, places))}: name the folder of your notebooks with --notebooks"
    )


def serve(folder: Path | None) -> int:
    """Serves the demo on the loopback address until Ctrl-C; returns voila's exit code.

    Raises:
        FileNotFoundError: the notebook is missing. ImportError: voila is missing.
    """
    notebook = find_notebooks(folder) / NOTEBOOK
    if not notebook.is_file():
        raise FileNotFoundError(f"{notebook} is missing: git checkout it again, or give its folder with --notebooks")
    if importlib.util.find_spec("voila") is None:
        raise ImportError('the demo needs voila: pip install "labhelpers[course]"')
    return subprocess.run(
        [sys.executable, "-m", "voila", "--Voila.ip=127.0.0.1", str(notebook)], check=False
    ).returncode
