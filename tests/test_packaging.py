"""What an installed labhelpers holds, and what it needs."""

import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from labhelpers.models.shipped import SHIPPED

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WEIGHTS = {f"labhelpers/weights/{file}": ROOT / "checkpoints" / file for file in SHIPPED}
CONDA_NAMES = {"torch": "pytorch", "huggingface-hub": "huggingface_hub", "opencv-python-headless": "py-opencv"}
CONDA_NAMES["playwright"] = "playwright-python"
GROUPS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
REQUIREMENTS = [Requirement(line) for group in GROUPS.values() for line in group]


def test_environment_yml_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    lines = [line for line in environment["dependencies"] if isinstance(line, str)]
    python, conda = lines[0], {Requirement(line).name: str(Requirement(line).specifier) for line in lines[1:]}
    conda.pop("pip")
    assert python == f"python{PROJECT['requires-python']}"
    axe = next(line for line in GROUPS["dev"] if line.startswith("axe-"))
    lite0 = next(line for line in PROJECT["dependencies"] if line.startswith("efficientnet-lite0-"))
    by_pip = {Requirement(line).name for line in (lite0, *GROUPS["weights"], axe)}  # conda-forge does not have them
    assert {"pip": ["-e .[weights]", axe]} in environment["dependencies"]
    there = [r for r in REQUIREMENTS if r.name not in by_pip]
    assert conda == {CONDA_NAMES.get(r.name, r.name): str(r.specifier) for r in there}


def pins(name: str) -> dict[str, list[Version]]:
    """The versions that a file of constraints names for each package."""
    found = defaultdict(list)
    for package, version in re.findall(r"^([\w.-]+)==([^ ;\n]+)", (ROOT / name).read_text(), re.MULTILINE):
        found[package.lower()].append(Version(version))
    return found


def test_constraints_pin_every_requirement_inside_its_range_and_no_range_has_an_end_that_would_break_colab():
    pinned = pins("constraints.txt")
    for requirement in REQUIREMENTS:
        versions = pinned[requirement.name.lower()]
        assert versions, requirement
        assert all(requirement.specifier.contains(version) for version in versions), requirement
        assert {s.operator for s in requirement.specifier} == {">="}, requirement


def test_the_oldest_constraints_are_the_lower_ends_of_the_ranges():
    pinned = pins("constraints-oldest.txt")
    for requirement in (Requirement(line) for name, group in GROUPS.items() if name != "sam" for line in group):
        [lowest], [version] = requirement.specifier, pinned[requirement.name.lower()]
        release = Version(lowest.version).release
        assert version.release[: len(release)] == release, requirement


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


# --- a wheel, built by the project's own backend without a network ---


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(out)!r}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return out / run.stdout.split()[-1]


def test_a_wheel_holds_every_file_of_the_package_and_the_weights(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        assert all(file.read(name) == path.read_bytes() for name, path in WEIGHTS.items())
    own = [path for path in (ROOT / "labhelpers").rglob("*.*") if path.suffix in {".py", ".js", ".css"}]
    assert {str(path.relative_to(ROOT)) for path in own} <= names


def test_a_wheel_says_its_licences(wheel):
    with zipfile.ZipFile(wheel) as file:
        [name] = (name for name in file.namelist() if name.endswith("/METADATA"))
        metadata = file.read(name).decode()
        for licence in PROJECT["license-files"]:
            assert f"{Path(name).parent}/licenses/{licence}" in file.namelist()
    assert f"License-Expression: {PROJECT['license']}\n" in metadata


def test_an_installed_copy_finds_its_weights(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path)
    code = "from labhelpers.models.shipped import SHIPPED, shipped_weights; print(*map(shipped_weights, SHIPPED))"
    # -P: neither the current folder nor that of a script is searched; the checkout comes after PYTHONPATH.
    environment = {"PYTHONPATH": str(tmp_path), "OMP_WAIT_POLICY": "PASSIVE"}
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(tmp_path / name) for name in WEIGHTS]


def test_an_editable_install_gets_no_second_labhelpers():
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))["WeightsInWheel"]
    included = {version: {"force_include": {}} for version in ("editable", "standard")}
    for version, data in included.items():
        hook.initialize(None, version, data)
    assert not included["editable"]["force_include"]
    assert list(included["standard"]["force_include"].values()) == list(WEIGHTS)
