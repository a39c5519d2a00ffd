"""Imports run one way through the house, and importing it stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "labhelpers"
BELOW = {
    "files": set(),
    "config": set(),
    "data": {"files", "config"},
    "models": {"files", "config", "data"},
    "plots": {"files", "config", "data"},
    "evaluation": {"files", "config", "data"},
    "training": {"files", "config", "data", "models", "evaluation", "prompting"},
    "prompting": {"files", "config", "data", "models", "evaluation"},
    "course": {"files", "config", "data", "models", "plots", "prompting", "evaluation", "training"},
}
FILES = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in BELOW]


def rooms(path: Path) -> set[str]:
    """The parts of labhelpers that a file imports from, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module] if node.module != "labhelpers" else [f"labhelpers.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level > 1:
            names = [f"labhelpers.{node.module or ''}"]  # `from ..data import x` leaves the room
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("labhelpers.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert rooms(path) <= BELOW[own] | {own}


def test_importing_everything_loads_no_heavy_library():
    heavy = (
        "torchvision",
        "matplotlib.pyplot",
        "accelerate",
        "scipy.ndimage",
        "wandb",
        "transformers",
        "pandas",
        "cv2",
    )
    heavy += ("ipywidgets", "anywidget")
    code = (
        "import sys; from labhelpers import data, evaluation, models, plots, prompting, training;"
        "from labhelpers.course import checks;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
