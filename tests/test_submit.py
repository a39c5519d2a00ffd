"""The ZIP to hand in: opened again, its module imported, its weights loaded, its scripts run."""

import dataclasses
import json
import os
import re
import runpy
import shutil
import sys
import types
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
from labhelpers.course import answers, gathering, submit
from labhelpers.course.checks import BY_LAB
from labhelpers.course.plans import Experiment
from labhelpers.training import History, checkpoints

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
OWN = "## Discussion\n\na\n\n## Challenges faced\n\nb\n\n## Further improvements\n\nc\n"


def hand_in_own(path: Path) -> None:
    """Takes the marks of answers away, which a student's notebook does not have."""
    book = nbformat.read(path, 4)
    for cell in book.cells:
        cell.source = re.sub(r"^ *### (BEGIN|END) SOLUTION\n?", "", cell.source, flags=re.MULTILINE)
    nbformat.write(book, path)


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """A home with the three networks, a complete folder of notebooks, a report, and the ZIP of it all, unpacked."""
    folder = tmp_path_factory.mktemp("student")
    notebooks = folder / "notebooks"
    shutil.copytree(NOTEBOOKS, notebooks)
    for path in notebooks.glob("0*.ipynb"):
        hand_in_own(path)
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
    right = lambda code, lab="": dict.fromkeys([*code, *BY_LAB.get(lab, ())], "")  # noqa: E731
    monkeypatch.setattr(submit, "examine", right)  # the answers are run once, for what is handed in above
    return course_toys.use_short_profile(monkeypatch, handed_in / "home")


def test_everything_the_course_asks_for_is_in_it(unpacked):
    names = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    wanted = {"lab05_student.py", "demo_minisam.ipynb", "report.pdf", "report.html", *submit.SCRIPTS}
    wanted |= {f"checkpoints/{n}.{end}" for n in submit.REQUIRED for end in ("safetensors", "json")}
    wanted |= {f"logs/{name}.csv" for name in submit.REQUIRED}
    assert wanted <= names
    assert set(submit.SCRIPTS) == {"train_fcn.py", "train_deeplab.py", "train_minisam.py"}
    assert sorted(name[10:12] for name in names if name.startswith("notebooks/")) == [f"0{n}" for n in range(1, 9)]
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
        if cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution")
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
    next((tmp_path / "notebooks").glob("05_*.ipynb")).write_text('<<<<<<< HEAD\n{"cells": []}')
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
        "and so its exercises effective_kernel, atrous_conv, looked_at,",
        "05_smp_backbones.ipynb holds the marks of a merge conflict (<<<<<<<): put a whole version in its place",
        "Exercises that cannot be read: micro_macro_iou, always_first, best_epoch, pareto_front, disagreement",
        "ok  07_sam_comparison.ipynb: answered: click_grid, iou_matrix, stability_score",
        "!!  demo_minisam.ipynb: not in",
        "!!  weights of FCN-8s: not trained in the profile smoke; run labhelpers train fcn8s",
        "!!  report.pdf: not in",
        "!!  report.html: not in",
    ):
        assert words in printed.out
    assert "6 missing or not right yet, so no ZIP was written" in printed.err
    assert not (tmp_path / "out").exists()

    assert cli.main([*arguments, "--incomplete"]) == 0
    with zipfile.ZipFile(tmp_path / "out" / "lab05_doe_jane.zip") as archive:
        listed = archive.read("lab05_doe_jane/MISSING.txt").decode()
    assert listed.count("\n") == 6
    assert "weights of FCN-8s" in listed


def test_the_courses_own_notebook_is_not_handed_in(profile, handed_in, tmp_path, monkeypatch):
    shutil.copytree(handed_in / "notebooks", tmp_path / "mine")
    shutil.copy(NOTEBOOKS / "02_fcn.ipynb", tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")  # a folder that holds labs needs no --notebooks
    contents = submit.collect(None, handed_in / "report", profile)
    assert "02_fcn.ipynb: the course's own notebook, with its answers; name the folder" in contents.missing[0]
    assert "notebooks/02_fcn.ipynb" not in contents.files
    assert "notebooks/03_deeplabv3plus.ipynb" in contents.files


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


def notebook(path: Path, *cells: str | tuple[str, str]) -> gathering.Notebook:
    """Gathers from cells of code; a pair is an exercise: its id and its code."""
    made = []
    for cell in cells:
        given, code = cell if isinstance(cell, tuple) else (None, cell)
        made.append(nbformat.v4.new_code_cell(code))
        if given is not None:
            made[-1].metadata["nbgrader"] = {"solution": True} | ({"grade_id": given} if given else {})
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return gathering.gather(path)


def exercise(value: str) -> tuple[str, str]:
    return ("", f"def f():\n    return {value}")


def test_helpers_and_imports_come_along_and_nothing_else(tmp_path):
    gathered = notebook(
        tmp_path / "02_x.ipynb",
        "!pip list",
        "import math\nimport json\nfrom pathlib import Path as P\nprint('runs')",
        "FACTOR = 3\nbig = json.loads('1')\ndef helper(x):\n    return math.floor(x) * FACTOR\ndef unused(): pass",
        ("02-a", "def a(x: P) -> float:\n    ### BEGIN SOLUTION\n    return helper(x)\n    ### END SOLUTION\nprint(a)"),
        "a = checks.a(a)",
    )
    source, problems = gathering.module([gathered])
    assert problems == gathered.problems == []
    space: dict = {}
    exec(source, space)
    assert space["a"](2.5) == 6
    assert "    ### END SOLUTION" in source
    for word in ("runs", "unused", "json", "check", "print"):
        assert word not in source


@pytest.mark.parametrize(
    ("cells", "value"),
    [
        (["K = 1", exercise("K"), "K = 21"], 21),
        (
            ["K = [1]", "K += [2]", "K.append(3)", "for i in range(4, 6):\n    K.append(i)", exercise("K")],
            [1, 2, 3, 4, 5],
        ),
        (["def h(): return 1", exercise("h()"), "def h(): return 2", "def h(): return 1"], 1),
        (["d = {}", "d['a'] = 4; d.update(b=3)", "x = d.pop('a')", exercise("(x, d)")], (4, {"b": 3})),
        (["import heapq\nL = [3, 1, 2]", "heapq.heapify(L)", exercise("L")], [1, 3, 2]),
        (["import numpy as np\nM = np.zeros(3)\nM[1:] = 2\nM *= 2", exercise("M.tolist()")], [0.0, 4.0, 4.0]),
        (["K = 1\ndef set_it():\n    global K\n    K = 7", "set_it()", exercise("K")], 7),
        (["H, W = 3, 4", "A = H * W", exercise("A")], 12),
        (["if (n := 5) > 3:\n    m: int = n", exercise("(n, m)")], (5, 5)),
        (["match 3:\n    case n:\n        pass", exercise("n")], 3),
        (["class P: pass", "P.x = 5", exercise("P.x")], 5),
        (["from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int' = 3", exercise("P(4).x")], 4),
        (["import torch\n@torch.no_grad()\ndef h():\n    return torch.is_grad_enabled()", exercise("h()")], False),
        (["from math import *", exercise("floor(2.5)")], 2),
        (["try:\n    import nowhere as q\nexcept ImportError:\n    q = 5", exercise("q")], 5),
        (["import os\nimport os.path", exercise("os.path.basename('a/b')")], "b"),
        (["%%time\n%%capture\nK = 7", exercise("K")], 7),
        (["%matplotlib inline\n!ls\nK = 8\nK?", exercise("K")], 8),
        (["%time K = 9", "%%bash\nK=5", exercise("K")], 9),
    ],
)
def test_the_module_has_what_the_notebook_had_after_its_last_cell(tmp_path, monkeypatch, cells, value):
    gathered = notebook(tmp_path / "02_x.ipynb", *cells)
    source, problems = gathering.module([gathered])
    assert problems == gathered.problems == []
    student = types.ModuleType("student")
    monkeypatch.setitem(sys.modules, "student", student)
    exec(source, vars(student))
    assert student.f() == value


A_RETURNS_1 = ("02-a", "def a():\n    return 1")


@pytest.mark.parametrize(
    ("books", "problem"),
    [
        ({"02": [("02-a", "def a(:")]}, "line 1 of code cell 1 is not Python"),
        ({"02": [("02-a", "def a():\n    return nowhere")]}, "nowhere is used in an exercise, but no cell defines it"),
        ({"02": ["files = !ls", ("02-a", "def a():\n    return files")]}, "a command of the shell or of the notebook"),
        ({"02": ["from nowhere import *", A_RETURNS_1]}, "code cell 1: No module named 'nowhere'"),
        ({"02": [A_RETURNS_1, A_RETURNS_1]}, "code cell 2: a copy of 02-a stands above; this one is taken"),
        ({"02": [A_RETURNS_1], "03": [("03-a", "def a():\n    return 2\nb = a()")]},
         "a is another one in 02_x.ipynb: rename one of the two"),
        ({"02": ["import math as m", ("02-a", "def a(): return m.pi")],
          "03": ["import cmath as m", ("03-b", "def b(): return m.pi")]}, "m is another one in 02_x.ipynb"),
        ({"02": [A_RETURNS_1], "03": [A_RETURNS_1]}, None),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_notebook_is_said(tmp_path, books, problem):
    gathered = [notebook(tmp_path / f"{lab}_x.ipynb", *cells) for lab, cells in books.items()]
    source, problems = gathering.module(gathered)
    problems += [problem for book in gathered for problem in book.problems]
    assert len(problems) == (problem is not None)
    for text in problems:
        assert text.startswith(f"{max(books)}_x.ipynb")
        assert problem in text
    compile(source, "student", "exec")


@pytest.mark.parametrize(("text", "unwritten"), [("YOUR ANSWER HERE\n", True), ("", True), ("Because.", False)])
def test_questions_without_words_are_listed(text, unwritten, tmp_path, monkeypatch):
    cell = nbformat.v4.new_markdown_cell(text, metadata={"nbgrader": {"grade_id": "02-question-1", "solution": True}})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "02_fcn.ipynb")
    monkeypatch.setattr(submit, "examine", examine_here)
    contents = submit.Contents()
    submit._add_answers(contents, gathering.gather(tmp_path / "02_fcn.ipynb"))
    assert ("02_fcn.ipynb: no words yet: 02-question-1; write them" in contents.missing) is unwritten


# --- what became of each exercise ---


def examine_here(code: dict[str, str], lab: str) -> dict[str, str | None]:
    """`answers.examine` without a process."""
    return dict(zip([*code, *BY_LAB[lab]], answers.outcomes(code, lab, {}, {}), strict=True))


REGION = re.compile(r"^( *)### BEGIN SOLUTION.*?### END SOLUTION", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("left", ["pass", "...", "return None", "raise NotImplementedError()", ""])
@pytest.mark.parametrize("lab", sorted(BY_LAB))
def test_every_emptied_answer_is_noticed(lab, left, tmp_path, monkeypatch):
    monkeypatch.setattr(submit, "examine", examine_here)
    path = next(NOTEBOOKS.glob(f"{lab}_*.ipynb"))
    book = nbformat.read(path, as_version=4)
    for cell in list(book.cells):
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = REGION.sub(rf"\1{left}", cell.source)
            if not left:
                book.cells.remove(cell)
    nbformat.write(book, tmp_path / path.name)
    contents = submit.Contents()
    submit._add_answers(contents, gathering.gather(tmp_path / path.name))
    assert contents.answered == []
    kind = "unanswered" if left else "missing"
    assert contents.missing[0].startswith(f"{path.name}: {kind}: {', '.join(BY_LAB[lab])}; ")


def test_answers_that_never_end_or_end_python_are_stopped_and_the_others_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "GRACE", 1.0)
    gathered = notebook(
        tmp_path / "05_x.ipynb",
        ("05-micro_macro_iou", "import os\ndef micro_macro_iou(matrix):\n    os._exit(0)"),
        ("05-best_epoch", "def best_epoch(losses):\n    while True: pass"),
        "def pareto_front(latency, score):\n    exit()",  # pasted into a cell of the student's own
        "import torch\nwhile True:\n    try: torch.ones(9)\n    except BaseException: pass\n    EVER = 1",
        (
            "05-disagreement",
            REGION.sub("", "def disagreement(predictions, num_classes):\n    EVER\n    return predictions"),
        ),
    )
    code = {where: gathered.code(where) for where in gathered.cells}
    monkeypatch.setattr(submit, "examine", lambda code, lab: answers.examine(code, lab, seconds=1.0))
    contents = submit.Contents()
    submit._add_answers(contents, gathered)
    stopped = "it was stopped after 1 seconds, the limit: does a loop never end?"
    said = dict(line.removeprefix("05_x.ipynb").lstrip(":, ").split(": ", 1) for line in contents.missing)
    assert said["code cell 4"] == stopped
    assert said["micro_macro_iou fails its check"] == answers.ENDS
    assert said["best_epoch fails its check"] == "not done after 1 seconds, the limit: does a loop never end?"
    assert said["pareto_front fails its check"] == f"SystemExit: {answers.ENDS}"
    assert said["disagreement fails its check"].startswith("NameError")
    assert said["missing"].startswith("always_first, vote_by_level, HandUNet, count_parts,")
    assert len(said) == len(code) + 1 == 6


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["def best_epoch(v):\n    raise KeyError('x')"], "fails its check: KeyError for best_epoch([0.9,"),
        ([("", "@nowhere\ndef best_epoch(v): return 1")], "fails its check: NameError in line 1 (`@nowhere`)"),
        ([("05-best_epoch", "def best_epoch(v:\n    return 1")], "fails its check: line 1 of code cell 1 is"),
        ([("05-best_epoch", "def best_epoch(v):\n    i = 1")], "fails its check: not written yet: it returns None"),
        (["from labhelpers.course.checks import lab05\nbest_epoch = lab05.best_epoch.reference"],
         "fails its check: this is the library's answer"),
        (["best_epoch = None"], "unanswered: best_epoch;"),
        (["best_epoch = lambda losses: ..."], "unanswered: best_epoch;"),
        (["x = 1"], "missing: micro_macro_iou, always_first, best_epoch,"),
    ],
)  # fmt: skip
def test_an_exercise_is_failing_unanswered_or_missing(tmp_path, monkeypatch, cells, said):
    monkeypatch.setattr(submit, "examine", examine_here)
    contents = submit.Contents()
    submit._add_answers(contents, notebook(tmp_path / "05_x.ipynb", *cells))
    (line,) = [line for line in contents.missing if "best_epoch" in line and "code cell 1: " not in line]
    assert said in line
