import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {
    "torch": "pytorch",
    "huggingface-hub": "huggingface_hub",
    "opencv-python-headless": "py-opencv",
    "playwright": "playwright-python",
}


def requirements() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def test_environment_yml_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    lines = [line for line in environment["dependencies"] if isinstance(line, str)]
    python, conda = lines[0], {Requirement(line).name: str(Requirement(line).specifier) for line in lines[1:]}
    conda.pop("pip")
    assert python == f"python{PROJECT['requires-python']}"
    assert conda == {CONDA_NAMES.get(r.name, r.name): str(r.specifier) for r in requirements()}


def test_constraints_pin_every_requirement_inside_its_range():
    pins: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = re.match(r"([\w.-]+)==([^ ;]+)", line).groups()
            pins.setdefault(name.lower(), []).append(version)
    for requirement in requirements():
        versions = pins[requirement.name.lower()]
        assert all(requirement.specifier.contains(Version(version)) for version in versions), requirement


def test_no_upper_bound_and_no_pin_would_break_colab():
    for requirement in requirements():
        assert {s.operator for s in requirement.specifier} == {">="}, requirement


def test_tracked_files_are_clean():
    """No index addresses, and no large files."""
    run = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip("not a git checkout")
    hosts = re.compile("py" + r"pi\.org|python" + r"hosted|--(extra-)?index-url")
    for name in run.stdout.splitlines():
        path = ROOT / name
        if path.exists() and path.suffix not in {".png", ".safetensors"}:
            assert not hosts.search(path.read_text(encoding="utf-8")), name
