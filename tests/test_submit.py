"""The ZIP to hand in: opened again, its module imported, its weights loaded, its scripts run."""

import dataclasses
import json
import os
import re
import runpy
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import course_toys
import nbformat
import pytest
import torch
from safetensors.torch import load_file
from training_toys import assert_same

from labhelpers import cli, config, models
from labhelpers.course import gathering, submit
from labhelpers.course.plans import Experiment
from labhelpers.training import History, checkpoints

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
OWN = "## Discussion\n\na\n\n## Challenges faced\n\nb\n\n## Further improvements\n\nc\n"


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """A home with the three networks, a complete folder of notebooks, a report, and the ZIP of it all, unpacked."""
    folder = tmp_path_factory.mktemp("student")
    notebooks = folder / "notebooks"
    shutil.copytree(NOTEBOOKS, notebooks)
    if not list(notebooks.glob("07_*.ipynb")):
        shutil.copy(notebooks / "01_data_pipeline.ipynb", notebooks / "07_sam_comparison.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        course_toys.train_named(["fcn8s", "deeplabv3plus", "mini_sam"], patch, folder / "home")
        (folder / "report").mkdir()
        (folder / "report" / "report.md").write_text(OWN)
        patch.chdir(folder)
        assert cli.main(["report"]) == 0
        assert cli.main(["submit", "--lastname", "Müller-Đặng", "--firstname", "Anna Lena"]) == 0
    path = folder / "lab05_muller-dang_anna-lena.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        archive.extractall(folder / "unpacked")
    return folder


@pytest.fixture
def unpacked(handed_in):
    return handed_in / "unpacked" / "lab05_muller-dang_anna-lena"


@pytest.fixture
def profile(handed_in, monkeypatch):
    monkeypatch.chdir(handed_in)
    return course_toys.use_short_profile(monkeypatch, handed_in / "home")


def test_everything_the_course_asks_for_is_in_it(unpacked):
    names = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    wanted = {"lab05_student.py", "demo_minisam.ipynb", "report.pdf", "report.html", *submit.SCRIPTS}
    wanted |= {f"checkpoints/{n}.{end}" for n in submit.REQUIRED for end in ("safetensors", "json")}
    wanted |= {f"logs/{name}.csv" for name in submit.REQUIRED}
    assert wanted <= names
    assert set(submit.SCRIPTS) == {"train_fcn.py", "train_deeplab.py", "train_minisam.py"}
    assert sorted(name[10:12] for name in names if name.startswith("notebooks/")) == [f"0{n}" for n in range(1, 8)]
    assert "MISSING.txt" not in names
    for path in (unpacked / "notebooks").glob("*.ipynb"):
        nbformat.validate(nbformat.read(path, as_version=4))


def test_the_students_module_is_imported_and_its_networks_run(unpacked, capsys):
    student = SimpleNamespace(**runpy.run_path(str(unpacked / "lab05_student.py")))
    assert capsys.readouterr().out == ""  # importing runs nothing
    encoder = models.ResNetEncoder("resnet18", False, 8)
    x = torch.zeros(1, 3, 64, 64)
    for network in (student.FCN32s, student.FCN16s, student.FCN8s):
        assert network(encoder, 5).eval()(x).shape == (1, 5, 64, 64)
    assert student.UNet(2, 4).eval()(x).shape == (1, 2, 64, 64)
    assert student.ASPP(8, 16, (1, 2)).eval()(torch.zeros(1, 8, 6, 6)).shape == (1, 16, 6, 6)


def test_every_exercise_is_in_the_module(unpacked):
    names = [
        cell.metadata.nbgrader.grade_id.split("-", 1)[1]
        for path in NOTEBOOKS.glob("0*.ipynb")
        for cell in nbformat.read(path, as_version=4).cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    ]
    assert len(names) > 40
    defined = re.findall(r"(?:def|class) (\w+)\(", (unpacked / "lab05_student.py").read_text())
    assert set(names) <= set(defined)


@pytest.mark.parametrize("name", submit.REQUIRED)
def test_weights_and_logs_are_those_of_the_best_evaluation(name, profile, unpacked):
    experiment = Experiment.open(name, profile)
    run = experiment.require()
    weights = load_file(unpacked / "checkpoints" / f"{name}.safetensors")
    assert_same(weights, experiment.load(run).to("cpu"))
    checkpoints.load_model(experiment.new_model(pretrained=False), weights, name)
    about = json.loads((unpacked / "checkpoints" / f"{name}.json").read_text())
    assert (about["network"], about["best_score"]) == (experiment.plan.title, run.info["best_score"])
    log = unpacked / "logs" / f"{name}.csv"
    assert log.read_bytes() == (run.folder / "log.csv").read_bytes()
    assert len(History.read(log).rows) == run.steps


@pytest.mark.parametrize("script", submit.SCRIPTS)
def test_scripts_run(script, unpacked, profile, monkeypatch, capsys):
    names = {"train_fcn.py": ["fcn8s"], "train_deeplab.py": ["deeplabv3plus"], "train_minisam.py": []}[script]
    monkeypatch.setenv("LAB_PROFILE", "tiny")  # so that what the script sets is taken back
    monkeypatch.setitem(config.PROFILES, "tiny", dataclasses.replace(profile, name="tiny"))
    for arguments, said in (
        ([*names, "--profile", "tiny"], "loaded (trained 20"),  # the numbers are those of what was trained above
        (["--help"], f"python {script}"),
    ):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(unpacked / script), run_name="__main__")
        assert end.value.code == 0
        assert said in capsys.readouterr().out


def test_what_is_missing_is_listed_with_its_remedy(profile, handed_in, tmp_path, monkeypatch, capsys):
    shutil.copytree(handed_in / "notebooks", tmp_path / "notebooks")
    next((tmp_path / "notebooks").glob("03_*.ipynb")).unlink()
    (tmp_path / "notebooks" / "demo_minisam.ipynb").unlink()
    for folder in (handed_in / "home" / "checkpoints").iterdir():
        if folder.is_dir() and "FCN" not in folder.name:
            shutil.copytree(folder, tmp_path / "checkpoints" / folder.name)
    monkeypatch.setenv("LAB_CHECKPOINTS", str(tmp_path / "checkpoints"))
    arguments = ["submit", "--lastname", "Doe", "--firstname", "Jane", "--notebooks", str(tmp_path / "notebooks")]
    arguments += ["--report", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 1
    printed = capsys.readouterr()
    for words in (
        "!!  notebook 03_*.ipynb: not in",
        "!!  demo_minisam.ipynb: not in",
        "!!  weights of FCN-8s: not trained in the profile smoke; run labhelpers train fcn8s",
        "!!  report.pdf: not in",
        "!!  report.html: not in",
    ):
        assert words in printed.out
    assert "5 missing, so no ZIP was written" in printed.err
    assert not (tmp_path / "out").exists()

    assert cli.main([*arguments, "--incomplete"]) == 0
    with zipfile.ZipFile(tmp_path / "out" / "lab05_doe_jane.zip") as archive:
        listed = archive.read("lab05_doe_jane/MISSING.txt").decode()
    assert listed.count("\n") == 5
    assert "weights of FCN-8s" in listed


def test_a_report_without_own_words_or_older_than_them_is_incomplete(profile, handed_in, tmp_path):
    shutil.copytree(handed_in / "report", tmp_path, dirs_exist_ok=True)
    words = tmp_path / "report.md"
    os.utime(words, (2e9, 2e9))
    contents = submit.collect(handed_in / "notebooks", tmp_path, profile)
    assert contents.missing == [f"{words} is newer than report.pdf; run labhelpers report again"]
    words.write_text(OWN.replace("b", ""))
    contents = submit.collect(handed_in / "notebooks", tmp_path, profile)
    assert "Challenges faced; write them" in contents.missing[0]


def test_names_become_parts_of_a_file_name():
    names = {"Doe": "doe", "Nguyễn Văn": "nguyen-van", "O'Neill": "o-neill", "Straße": "strasse"}
    assert {name: submit.ascii_name(name) for name in names} == names
    with pytest.raises(ValueError, match="has no letter from a to z"):
        submit.ascii_name("李")


# --- gathering ---


def notebook(path: Path, *cells: str | tuple[str, str]) -> Path:
    """Cells of code; a pair is an exercise: its id and its code."""
    made = []
    for cell in cells:
        given, code = cell if isinstance(cell, tuple) else (None, cell)
        made.append(nbformat.v4.new_code_cell(code))
        if given:
            made[-1].metadata["nbgrader"] = {"solution": True, "grade_id": given, "schema_version": 3, "grade": False}
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


def test_helpers_and_imports_come_along_and_nothing_else(tmp_path):
    path = notebook(
        tmp_path / "02_x.ipynb",
        "!pip list",
        "import math\nimport json\nfrom pathlib import Path as P\nprint('runs')",
        "FACTOR = 3\nbig = json.loads('1')\ndef helper(x):\n    return math.floor(x) * FACTOR\ndef unused(): pass",
        ("02-a", "def a(x: P) -> float:\n    ### BEGIN SOLUTION\n    return helper(x)\n    ### END SOLUTION"),
        "a = check(a)",
    )
    module = gathering.gather([path])
    assert module.problems == []
    assert module.exercises == ["02-a"]
    space: dict = {}
    exec(module.source, space)
    assert space["a"](2.5) == 6
    for word in ("runs", "unused", "json", "check"):
        assert word not in module.source


A_RETURNS_1 = ("02-a", "def a():\n    return 1")


@pytest.mark.parametrize(
    ("books", "problem"),
    [
        ({"02": [("02-a", "def a(:")]}, "exercise 02-a: line 1 is not Python"),
        ({"02": [("02-a", "def a():\n    raise NotImplementedError()")]}, "exercise 02-a is not solved yet"),
        ({"02": [("02-a", "def a():\n    return nowhere")]}, "nowhere is used in an exercise, but no cell defines it"),
        ({"02": ["x = 1"]}, "no exercise cell in it"),
        ({"02": [A_RETURNS_1], "03": [("03-a", "def a():\n    return 2")]},
         "a is another one in 02_x.ipynb: rename one of the two"),
        ({"02": [A_RETURNS_1], "03": [A_RETURNS_1]}, None),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_exercise_is_said(tmp_path, books, problem):
    module = gathering.gather([notebook(tmp_path / f"{lab}_x.ipynb", *cells) for lab, cells in books.items()])
    assert len(module.problems) == (problem is not None)
    for text in module.problems:
        assert text.startswith(f"{max(books)}_x.ipynb")
        assert problem in text
    compile(module.source, "student", "exec")
