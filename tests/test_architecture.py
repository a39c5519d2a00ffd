"""Imports run one way through the house, and importing it stays cheap."""

import ast
import graphlib
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
    "training": {"files", "config", "data", "models", "evaluation"},
    "prompting": {"files", "config", "data", "models", "evaluation", "training"},
    "course": {"files", "config", "data", "models", "plots", "prompting", "evaluation", "training"},
}
FILES = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in BELOW]
MODULES = {path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", "."): path for path in FILES}


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports, anywhere in it; `from a import b` counts as a.b and as a."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write `from labhelpers.room.file import name`"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("labhelpers.")}
    assert rooms <= BELOW[own] | {own}


def test_no_files_import_each_other_in_a_circle():
    graph = {name: {target for target in imported(path) if target in MODULES} for name, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


def test_importing_everything_loads_no_heavy_library():
    heavy = ["torchvision", "matplotlib.pyplot", "accelerate", "scipy.ndimage", "wandb", "transformers", "pandas",
             "cv2", "ipywidgets", "anywidget"]  # fmt: skip
    code = (
        "import sys; from labhelpers import data, evaluation, models, plots, prompting, training;"
        "from labhelpers.course import checks;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
