"""What a notebook runs first: the setup cell and `begin`, here and on simulated hosts."""

import importlib.metadata
import os
import subprocess
import sys
import types
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from labhelpers import config, course

ROOT = Path(__file__).parent.parent
first = sys.modules["labhelpers.course.setup"]  # the name `setup` of the package is its function
SETUP_CELL = ROOT / "labhelpers" / "course" / "setup_cell.py"


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """Neither Colab nor Kaggle, unless a test says so."""
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)


# --- the cell, in an environment that has everything but labhelpers: what Colab is ---


@pytest.fixture
def colab_python(tmp_path) -> Path:
    """The interpreter of an environment that has everything, torch included, except labhelpers."""
    environment = tmp_path / "colab"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = next((environment / "lib").glob("python*/site-packages"))
    (packages / "preinstalled.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")) + "\n")
    return environment / "bin" / "python"


def run_cell(python: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    code = SETUP_CELL.read_text() + "\nimport torch\nprint('torch', torch.__version__, torch.__file__)\n"
    code += "print('labhelpers', labhelpers.__file__)\n"
    variables = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LAB_PACKAGE": str(ROOT), **environment}
    # The registry's settings of this machine, whatever they are, must reach pip.
    variables |= {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k.lower().endswith("_proxy")}
    return subprocess.run([python, "-c", code], cwd=folder, env=variables, capture_output=True, text=True)


def test_the_setup_cell_installs_labhelpers_on_colab_and_leaves_torch_alone(colab_python, tmp_path):
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
    added = {path.name.split("-")[0] for path in (tmp_path / "colab").glob("lib/python*/site-packages/*.dist-info")}
    assert added == {"labhelpers"}


def test_elsewhere_a_missing_labhelpers_is_one_clear_error(colab_python, tmp_path):
    run = run_cell(colab_python, tmp_path)
    assert run.returncode != 0
    assert "labhelpers is not installed here: start this notebook with `make lab`, or after: pip install" in run.stderr


# --- what is installed ---


@pytest.fixture
def machine(monkeypatch):
    """A Colab with the packages that a test names; pip's command and constraints are kept, nothing is installed."""
    found = SimpleNamespace(here={}, commands=[], kept=[], fails="")

    def pip(command, **options):
        found.commands.append(command)
        found.kept.append(set(Path(command[command.index("-c") + 1]).read_text().split()))
        return SimpleNamespace(returncode=int(bool(found.fails)), stderr=found.fails)

    def distributions():
        return [SimpleNamespace(name=name, version=version) for name, version in found.here.items()]

    needs = ["torch>=2.6", "numpy>=2.0", "Plot_Lib>=1", "locks>=3.30", 'old; python_version < "3"']
    needs += ['transformers>=5.0; extra == "sam"', 'ruff; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    monkeypatch.setattr(importlib.metadata, "distributions", distributions)
    monkeypatch.setattr(first.subprocess, "run", pip)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "simulated")
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    monkeypatch.setenv("LAB_CHECKPOINTS", "somewhere")
    found.here = {"torch": "2.9.0+cu126", "numpy": "2.0.2", "plot-lib": "1.2", "Locks": "3.31", "other": "1"}
    return found


def test_where_all_is_here_nothing_is_installed(machine, capsys):
    course.setup()
    assert machine.commands == []
    assert capsys.readouterr().out == ""


def test_what_is_missing_is_added_and_every_version_that_is_here_is_kept(machine, capsys):
    del machine.here["plot-lib"]
    machine.here |= {"python-apt": "0.0.0-unknown build", None: None}  # not every version is one
    first.install()
    assert machine.commands[0][-1] == "plot-lib>=1"
    assert machine.commands[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert machine.kept == [{"torch==2.9.0+cu126", "numpy==2.0.2", "locks==3.31", "other==1"}]
    assert capsys.readouterr().out == "Installing plot-lib ...\n"


def test_only_what_is_too_old_is_replaced_which_is_said_and_torch_never(machine, capsys):
    machine.here["Locks"] = "3.20"
    first.install()
    assert machine.commands[0][-1] == "locks>=3.30"
    assert not any(line.startswith("locks") for line in machine.kept[0])
    assert capsys.readouterr().out.endswith("Replaced: locks 3.20, for locks>=3.30 is needed\n")
    machine.here["torch"] = "2.5.1+cu124"
    with pytest.raises(
        RuntimeError, match=r"^too old, .*: torch 2\.5\.1\+cu124, for torch>=2\.6 is needed\. Choose a newer"
    ):
        course.setup()


def test_a_lab_installs_what_only_it_uses(machine, capsys):
    course.begin("01")
    assert machine.commands == []
    course.begin("07")
    assert machine.commands[0][-1] == "transformers>=5.0"
    machine.fails = "ERROR: no network"
    course.begin("07")
    printed = capsys.readouterr().out
    assert (
        "The lab goes on without sam: transformers cannot be installed beside what is here:\nERROR: no network\n"
        in printed
    )
    assert printed.count("Profile    tiny") == 3


def test_a_core_package_that_cannot_be_installed_ends_the_cell_with_pips_reason(machine):
    del machine.here["numpy"]
    machine.fails = "ERROR: no network"
    with pytest.raises(RuntimeError, match="numpy cannot be installed beside what is here:\nERROR: no network"):
        course.setup()


def test_kaggle_installs_too_and_a_machine_of_ones_own_never(machine, monkeypatch):
    del machine.here["numpy"]
    monkeypatch.delenv("COLAB_RELEASE_TAG")
    course.setup()
    course.begin("07")
    assert machine.commands == []
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    course.setup()
    assert machine.commands[0][-1] == "numpy>=2.0"


def test_the_labs_extras_are_those_of_the_project():
    assert set(first.EXTRAS) <= set(config.PROFILES["tiny"].minutes)
    try:
        extras = set(importlib.metadata.metadata("labhelpers").get_all("Provides-Extra"))
    except PackageNotFoundError:
        pytest.skip("labhelpers is not installed, only on the path")
    assert {extra for of_lab in first.EXTRAS.values() for extra in of_lab} <= extras


# --- Drive ---


class Refused(Exception):
    """As google.colab.errors.AccountError and others: what a student who declines gets."""


def refuse(path):
    raise Refused("credential propagation was unsuccessful")


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """A stand-in for google.colab.drive; LAB_CHECKPOINTS, which `setup` may set, is taken back."""
    stand_in = types.SimpleNamespace(mount=lambda path: (Path(path) / "MyDrive").mkdir(parents=True, exist_ok=True))
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(drive=stand_in))
    monkeypatch.setattr(first, "DRIVE", tmp_path / "drive")
    monkeypatch.setattr(first, "install", lambda *extras: None)
    monkeypatch.setenv("LAB_CHECKPOINTS", "")
    del os.environ["LAB_CHECKPOINTS"]
    return stand_in


@pytest.mark.parametrize("before", [False, True], ids=["first time", "folder there"])
def test_checkpoints_go_to_a_folder_in_the_drive_when_the_student_agrees(before, drive, tmp_path, capsys):
    folder = tmp_path / "drive" / "MyDrive" / "segmentation-labs"
    if before:
        (folder / "kept").mkdir(parents=True)
    course.setup()
    assert os.environ["LAB_CHECKPOINTS"] == str(folder)
    assert config.checkpoints_root() == folder
    assert (folder / "kept").exists() is before
    assert capsys.readouterr().out == f"Checkpoints are kept in {folder}: a disconnected run resumes from there.\n"


def absent(drive, monkeypatch):
    """Colab's variable without its module, as in a container of one's own."""
    monkeypatch.setitem(sys.modules, "google.colab", None)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "local")


def refused(drive, monkeypatch):
    drive.mount = refuse


def full(drive, monkeypatch):
    """Mounted, and nothing can be written."""
    drive.mount = lambda path: (Path(path).mkdir(), (Path(path) / "MyDrive").write_text(""))


@pytest.mark.parametrize("how", [absent, refused, full])
def test_without_a_drive_one_sentence_says_so_and_checkpoints_stay(how, drive, monkeypatch, capsys):
    how(drive, monkeypatch)
    course.setup()
    assert "LAB_CHECKPOINTS" not in os.environ
    printed = capsys.readouterr().out
    assert printed.startswith("No Drive (")
    assert printed.endswith("): checkpoints stay on this machine and are lost when it is given back.\n")
    assert printed.count("\n") == 1


def test_a_folder_that_is_named_already_is_kept_and_nobody_is_asked(drive, monkeypatch, capsys):
    monkeypatch.setenv("LAB_CHECKPOINTS", "/mine")
    drive.mount = refuse
    course.setup()
    assert os.environ["LAB_CHECKPOINTS"] == "/mine"
    assert capsys.readouterr().out == ""


# --- elsewhere ---


def test_elsewhere_nothing_happens(capsys):
    course.setup()
    assert capsys.readouterr().out == ""
    assert "LAB_CHECKPOINTS" not in os.environ


def test_begin_says_what_is_about_to_run(monkeypatch, capsys):
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    assert course.begin("01") is config.PROFILES["tiny"]
    printed = capsys.readouterr().out
    for word in ("tiny", "nothing is learned", "Device", "precision", "minutes"):
        assert word in printed
    with pytest.raises(ValueError, match="unknown lab '99'; known: 01"):
        course.begin("99")


def test_begin_says_the_precision_in_which_the_lab_trains(monkeypatch, capsys):
    monkeypatch.setattr("labhelpers.training.resolve_precision", {"auto": "bf16", "no": "no"}.get)
    for lab, precision in (("07", "bf16"), ("08", "fp32")):
        course.begin(lab)
        assert f"training precision {precision}\n" in capsys.readouterr().out
