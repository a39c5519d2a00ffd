"""The command line: help that stands alone, exit codes, and what the commands do."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from course_toys import use_short_profile

from labhelpers import cli, config
from labhelpers.course import run
from labhelpers.course.plans import PLANS
from labhelpers.evaluation import ResultsTable


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "demo", "data", "doctor", "report", "submit", "grade", "course"]
)
def test_help_of_a_command_stands_alone(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    assert f"labhelpers {command}" in printed.split("\n\n", 1)[1]  # an example
    for word in ("NAME is one of" if command == "data" else "Takes:", "--profile"):
        assert word in printed
    if command in ("train", "evaluate"):
        assert f"NAME is one of: {' '.join(PLANS)}" in printed


def test_help_appears_at_once():
    code = "import sys, labhelpers.cli; print(sorted({'torch', 'numpy', 'matplotlib', 'nbformat'} & set(sys.modules)))"
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
    assert time.perf_counter() - start < 5  # 0.1 s on an idle machine


def test_python_m_labhelpers():
    run = subprocess.run([sys.executable, "-m", "labhelpers", "train"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "required: NAME" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "vgg"], "unknown model 'vgg'; known: fcn32s,"),
        (["evaluate", "fcn8s"], "FCN-8s is not trained in the profile smoke"),
        (["data", "coco"], "unknown data 'coco'; known: course, scenes, jigsaw, voc, sbd"),
        (["demo", "--notebooks", "nowhere"], "no folder nowhere"),
        (["report"], "there is nothing to report. Run: labhelpers train fcn8s"),
        (["report", "--profile", "tiny"], "nothing is learned in the profile tiny"),
    ],
)
def test_an_expected_error_is_one_line_and_exit_code_1(arguments, words, short, tmp_path, capsys):
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"labhelpers {arguments[0]}: ")
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report").exists()


@pytest.fixture
def short(monkeypatch, tmp_path):
    """What takes seconds, in the place of `smoke`."""
    use_short_profile(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)


def test_train_then_find_then_evaluate(short, capsys):
    for how in ("trained (now", "loaded (trained 20"):
        assert cli.main(["train", "fcn8s"]) == 0
        assert f"FCN-8s: {how}" in capsys.readouterr().out
    assert cli.main(["evaluate", "fcn8s"]) == 0
    assert "scenes val, 6 images, 128x128 pixels, 21 classes" in capsys.readouterr().out
    (path,) = config.checkpoints_root().glob("results-*.json")
    (row,) = ResultsTable(path).rows
    assert row.name == "FCN-8s"
    assert row.mean_iou is not None


def test_mini_sam_is_scored_by_prompts(short, capsys):
    assert [cli.main([command, "mini_sam"]) for command in ("train", "evaluate")] == [0, 0]
    printed = capsys.readouterr().out
    for words in ("| box | 0.", "| centre click |", "prompts drawn from the truth"):
        assert words in printed
    assert not list(config.checkpoints_root().glob("results-*.json"))


def test_tiny_is_no_result(monkeypatch, capsys):
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    assert [cli.main([command, "unet"]) for command in ("train", "evaluate")] == [0, 0]
    assert "this is not a result, and it is not stored" in capsys.readouterr().out
    assert not list(config.checkpoints_root().glob("results-*.json"))


def test_data_are_listed_and_made(short, capsys):
    assert [cli.main(arguments) for arguments in (["data", "scenes"], ["data"])] == [0, 0]
    printed = capsys.readouterr().out
    assert "128px-12-6" in printed
    assert "labhelpers data voc" in printed


def test_the_demo_is_served_on_loopback(monkeypatch):
    served = Mock(return_value=SimpleNamespace(returncode=0))
    monkeypatch.setattr(run.subprocess, "run", served)
    assert cli.main(["demo", "--notebooks", str(Path(__file__).parent.parent / "notebooks")]) == 0
    (command,) = served.call_args.args
    assert command[1:4] == ["-m", "voila", "--Voila.ip=127.0.0.1"]
    assert command[4].endswith("demo_minisam.ipynb")
