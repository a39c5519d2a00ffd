import subprocess
import sys
import types
from pathlib import Path

import pytest

from labhelpers import config, course

ROOT = Path(__file__).parent.parent
CELL = ROOT / "labhelpers" / "course" / "setup_cell.py"


@pytest.fixture
def colab_python(tmp_path) -> Path:
    """The interpreter of an environment that has everything, torch included, except labhelpers: what Colab is."""
    environment = tmp_path / "colab"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    packages = next((environment / "lib").glob("python*/site-packages"))
    (packages / "preinstalled.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")) + "\n")
    return environment / "bin" / "python"


def run_cell(python: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    code = CELL.read_text() + "\nimport torch\nprint('torch', torch.__version__, torch.__file__)\n"
    code += "print('labhelpers', labhelpers.__file__)\n"
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LAB_PACKAGE": str(ROOT), **environment}
    # The registry's settings of this machine, whatever they are, must reach pip.
    import os

    variables |= {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k.lower().endswith("_proxy")}
    return subprocess.run([python, "-c", code], cwd=folder, env=variables, capture_output=True, text=True)


def test_the_setup_cell_installs_labhelpers_on_colab_and_leaves_torch_alone(colab_python, tmp_path):
    import torch

    (tmp_path / "google").mkdir()
    (tmp_path / "google" / "colab.py").write_text(
        "class drive:\n    @staticmethod\n    def mount(path):\n        raise ValueError('mount failed')\n"
    )
    run = run_cell(colab_python, tmp_path, COLAB_RELEASE_TAG="release-colab", PYTHONPATH=str(tmp_path))
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert f"torch {torch.__version__} {torch.__file__}" in lines
    assert any(line.startswith(f"labhelpers {tmp_path}") for line in lines), lines
    assert "No Drive (mount failed): checkpoints stay on this machine" in run.stdout
    assert not list((tmp_path / "colab").glob("lib/python*/site-packages/torch*"))


def test_elsewhere_a_missing_labhelpers_is_one_clear_error(colab_python, tmp_path):
    run = run_cell(colab_python, tmp_path)
    assert run.returncode != 0
    assert "labhelpers is not installed here: start this notebook with `make lab`." in run.stderr


def test_checkpoints_go_to_the_drive_when_the_student_agrees(monkeypatch, capsys):
    colab = types.ModuleType("google.colab")
    colab.drive = types.SimpleNamespace(mount=lambda path: None)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setenv("LAB_CHECKPOINTS", "")
    monkeypatch.delenv("LAB_CHECKPOINTS")
    course.setup()
    import os

    assert os.environ["LAB_CHECKPOINTS"] == "/content/drive/MyDrive/segmentation-labs"
    assert "resumes from there" in capsys.readouterr().out
    monkeypatch.delenv("LAB_CHECKPOINTS")


def test_elsewhere_setup_does_nothing(capsys):
    course.setup()
    assert capsys.readouterr().out == ""


def test_begin_says_what_is_about_to_run(monkeypatch, capsys):
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    assert course.begin("01") is config.PROFILES["tiny"]
    printed = capsys.readouterr().out
    for word in ("tiny", "nothing is learned", "Device", "precision", "minutes"):
        assert word in printed
    with pytest.raises(ValueError, match="unknown lab '99'; known: 01"):
        course.begin("99")
