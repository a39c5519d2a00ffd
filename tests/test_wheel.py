"""What an installed labhelpers holds: built by the project's own backend, without a network."""

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WEIGHTS = "labhelpers/weights/mini_sam.safetensors"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(out)!r}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return out / run.stdout.split()[-1]


def test_a_wheel_holds_every_file_of_the_package_and_the_weights(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        found = hashlib.sha256(file.read(WEIGHTS)).hexdigest()
    assert found == hashlib.sha256((ROOT / "checkpoints/mini_sam.safetensors").read_bytes()).hexdigest()
    own = [path for path in (ROOT / "labhelpers").rglob("*.*") if path.suffix in {".py", ".js", ".css"}]
    assert {str(path.relative_to(ROOT)) for path in own} <= names


def test_an_installed_copy_finds_its_weights(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path)
    code = "from labhelpers.prompting import mini_sam_weights; print(mini_sam_weights())"
    # -P: neither the current folder nor that of a script is searched; the checkout comes after PYTHONPATH.
    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(run.stdout.strip()) == tmp_path / WEIGHTS


def test_an_editable_install_gets_no_second_labhelpers():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    included = {}
    for version in ("editable", "standard"):
        included[version] = {"force_include": {}}
        module.WeightsInWheel.initialize(None, version, included[version])
    assert not included["editable"]["force_include"]
    assert WEIGHTS in included["standard"]["force_include"].values()
