"""Points for what was handed in: `labhelpers grade` (`make grade`).

Students' answers are put into the instructor's notebooks and run in a sandbox (judging.py); nbgrader keeps the points,
those that people give too, and makes the feedback; schemes.toml says how points become marks, and what written answers
must hold.
"""

import copy
import csv
import datetime
import functools
import io
import os
import re
import sys
import tempfile
import textwrap
import tomllib
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import nbformat

from labhelpers.course import sandbox
from labhelpers.course.gathering import UNWRITTEN, lab_of
from labhelpers.course.judging import find_tests, judge
from labhelpers.course.run import DEMO, find_notebooks, read_notebook
from labhelpers.files import write_atomic

LARGEST = 50_000_000  # bytes of a notebook
LARGEST_ZIP = 4 * LARGEST  # bytes of all notebooks and reports in a ZIP
SCHEMES = Path(__file__).with_name("schemes.toml")
REPORT = "report"  # the assignment that is no notebook: cells for the parts of the report's points
# An answer that names one of these deserves a look: it may deal with the checks or the system, not with images.
_UNUSUAL = re.compile(r"\b(labhelpers\.course|checks|ctypes|inspect|socket|subprocess|sys|os|shutil|gc)\b")
SAFE = (
    "Submitted code runs without network, cannot change or see other files than its own, and has limits of time and "
    "memory."
)
UNSAFE = (
    "This system has no user namespaces: submitted code has limits of time and memory, but it can read, change and "
    "send whatever you can. Grade in a virtual machine or a container in which there is nothing else."
)

# ------------------------------------------------------------- what was handed in


@dataclass
class Submission:
    """What a student handed in: notebooks by the name of the instructor's, and what an instructor should know."""

    student: str
    time: datetime.datetime
    notebooks: dict[str, nbformat.NotebookNode] = field(default_factory=dict)
    report: str = ""  # the name and size of its PDF
    notes: list[str] = field(default_factory=list)


def submissions(folder: Path, expected: Sequence[str]) -> list[Submission]:
    """Reads `folder/NAME/*.ipynb`, `folder/NAME/*.zip` and `folder/lab05_NAME.zip`, in memory: nothing is unpacked.

    It arrived when its newest file was last changed, or when `timestamp.txt` says, as nbgrader writes it.

    Args:
        expected: names of the instructor's notebooks, without .ipynb; `lab_of` tells which one a file is.

    Raises:
        FileNotFoundError: there is nothing.
    """
    found = []
    for place in sorted(folder.glob("[!._]*")):
        paths = [place] if place.suffix == ".zip" else sorted(path for path in place.glob("*") if path.is_file())
        if place.is_file() and place.suffix != ".zip":
            continue
        arrived = max((path.stat().st_mtime for path in paths), default=0.0)
        student = re.sub(r"[^\w .@-]", "_", place.stem.removeprefix("lab05_") if place.is_file() else place.name)
        if not student.strip(" ."):  # no name, or one that leads to another folder
            student = place.stem
        one = Submission(student, datetime.datetime.fromtimestamp(arrived, datetime.UTC))
        for path in paths:
            if path.name == "timestamp.txt":
                one.time = _time(path)
            for name, data in _contents(path, one):
                _take(one, name, data, expected)
        found.append(one)
    names = [one.student for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"{folder} has two submissions of {twice}: keep the one that counts")
    if not found:
        raise FileNotFoundError(f"nothing was handed in: put notebooks into {folder}/NAME/, or ZIPs into {folder}")
    return found


def _time(path: Path) -> datetime.datetime:
    from dateutil.parser import ParserError, parse

    try:
        time = parse(path.read_text())
    except (ParserError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}: write a time like 2026-03-01 23:59 UTC") from error
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


def _contents(path: Path, one: Submission) -> Iterator[tuple[str, bytes]]:
    """The notebooks and reports of a file, by their names; of a ZIP, those that are in it."""
    if path.suffix in (".ipynb", ".pdf"):
        if path.stat().st_size > LARGEST:
            one.notes.append(f"{path.name} is larger than {LARGEST:,} bytes and was not read")
        else:
            yield path.name, path.read_bytes()
    elif path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                left = LARGEST_ZIP
                for entry in archive.infolist():
                    name = entry.filename.rpartition("/")[2]
                    if not name.endswith((".ipynb", "report.pdf")) or name.startswith("."):
                        continue
                    data = archive.open(entry).read(LARGEST + 1)  # what it says of its size may be a lie
                    left -= len(data)
                    if left < 0:
                        one.notes.append(
                            f"{path.name} holds more than {LARGEST_ZIP:,} bytes: what came last was not read"
                        )
                        break
                    if len(data) > LARGEST:
                        one.notes.append(f"{name} in {path.name} is larger than {LARGEST:,} bytes and was not read")
                    else:
                        yield name, data
        except Exception as error:  # a damaged ZIP makes zipfile raise nearly everything there is
            one.notes.append(f"{path.name} is damaged ({error}): ask for it again")


def _take(one: Submission, name: str, data: bytes, expected: Sequence[str]) -> None:
    if name == "report.pdf":
        one.report = f"{name}, {len(data) / 1e3:,.0f} kB"
        return
    known = next((stem for stem in expected if stem[:2] == lab_of(name) and name.endswith(".ipynb")), None)
    if name.endswith(".ipynb") and not lab_of(name) and name != DEMO:
        one.notes.append(f"{name} was left out: its name does not tell which lab it is")
    elif known in one.notebooks:
        one.notes.append(f"{name} is another {known}.ipynb and was left out: ask which one counts")
    elif known:
        try:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "notebook.ipynb").write_bytes(data)
                notebook = read_notebook(Path(folder) / "notebook.ipynb")
            if not all(isinstance(cell.get("metadata"), dict) and "cell_type" in cell for cell in notebook.cells):
                raise ValueError("notebook.ipynb has a cell without kind or metadata: ask for it again")
            one.notebooks[known] = notebook
        except ValueError as error:
            one.notes.append(f"{name}{str(error).partition('notebook.ipynb')[2]}")


def merge(given: nbformat.NotebookNode, handed_in: nbformat.NotebookNode) -> tuple[nbformat.NotebookNode, list[str]]:
    """The student version with a student's answers, and what an instructor should know.

    Only the text of answers is taken, and of code cells that the student added or changed, which go before the next
    answer: helpers may be written anywhere. All other cells are the instructor's.
    """
    from nbconvert.preprocessors.sanitize import SanitizeHTML

    clean = SanitizeHTML()  # a script in an answer would run in the browser of whoever grades it
    merged = copy.deepcopy(given)
    answers = {cell.metadata.nbgrader.grade_id: cell for cell in merged.cells if _is(cell, "solution")}
    graded = {cell.metadata.nbgrader.grade_id for cell in merged.cells if _is(cell, "grade")}
    texts = {cell.source.strip() for cell in given.cells}
    added: dict[str, list[nbformat.NotebookNode]] = {}
    pending: list[nbformat.NotebookNode] = []
    notes = []
    for cell in handed_in.cells:
        about = cell.metadata.get("nbgrader")
        name = str(about.get("grade_id")) if isinstance(about, dict) else ""
        if name in added:
            notes.append(f"{name} was handed in twice: the first is graded")
        elif name in answers:
            added[name], pending = pending, []
            if cell.source.strip() not in ("", UNWRITTEN):
                code = answers[name].cell_type == "code"
                answers[name].source = cell.source if code else clean.sanitize_html_tags(cell.source)
        elif cell.cell_type == "code" and name not in graded and cell.source.strip() not in texts:
            pending.append(nbformat.v4.new_code_cell(cell.source))
    for name, cell in answers.items():
        if name not in added:
            notes.append(f"{name} is missing")
        if cell.cell_type == "code" and (words := set(_UNUSUAL.findall(cell.source))):
            notes.append(f"{name} uses {', '.join(sorted(words))}: have a look")
    cells = []
    for cell in merged.cells:
        cells += [*added.get(cell.metadata.nbgrader.grade_id, ()), cell] if _is(cell, "solution") else [cell]
    merged.cells = [*cells, *pending]
    return merged, notes


def _is(cell: nbformat.NotebookNode, kind: str) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get(kind))


# ------------------------------------------------------------- points


@dataclass(frozen=True)
class Points:
    """What a graded cell has earned."""

    cell: str
    earned: float
    possible: float
    state: str  # "graded", "to grade" by a person, or "missing"


def marks(scheme: Mapping[str, Any], points: Sequence[Points]) -> dict[str, float]:
    """Percent for each part of a scheme, from all cells of a student.

    Raises:
        ValueError: a part names cells that are not among them.
    """
    earned = {}
    for part in scheme["parts"]:
        got = total = 0.0
        for item in part.get("items", [{"points": 1, "cells": part.get("cells", ())}]):
            mine = [p for p in points if any(fnmatch(p.cell.removesuffix("-grade"), name) for name in item["cells"])]
            possible = sum(p.possible for p in mine)
            if not possible:
                raise ValueError(f"no graded cell is called {' or '.join(item['cells'])}")
            got += item["points"] * sum(p.earned for p in mine) / possible
            total += item["points"]
        earned[part["name"]] = part["share"] * got / total
    return earned


@functools.cache
def table() -> dict[str, Any]:
    """schemes.toml, each scheme with its parts.

    Raises:
        ValueError: the shares of a scheme are not 100 percent.
    """
    read = tomllib.loads(SCHEMES.read_text(encoding="utf-8"))
    for name, scheme in read["schemes"].items():
        if "like" in scheme:
            parts = read["schemes"][scheme["like"]]["parts"]
            scheme["parts"] = [{**p, "share": s} for p, s in zip(parts, scheme["shares"], strict=True)]
        if sum(part["share"] for part in scheme["parts"]) != 100:
            raise ValueError(f"{SCHEMES.name}: the shares of {name} are not 100 percent together")
    return read


# ------------------------------------------------------------- nbgrader


CONFIG = '''\
"""Written by `labhelpers grade`: with it nbgrader grades in the sandbox, also from JupyterLab's formgrader."""

from functools import partial
from pathlib import Path

from labhelpers.course.grade import run_answers

c = get_config()
c.CourseDirectory.root = {root!r}
c.Autograde.autograde_preprocessors = [
    partial(run_answers, hide=[Path(folder) for folder in {hide!r}]),
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.ClearHiddenTests",  # feedback goes to the students
]
'''


def run_answers(notebook: nbformat.NotebookNode, resources: dict, hide: Sequence[Path] = ()) -> tuple:
    """A preprocessor in the place of nbgrader's `Execute`: what is wrong stands below the graded cells, and rubrics
    below written answers."""
    wrong = judge(notebook, f"{resources['nbgrader']['notebook']}.ipynb", hide)
    rubrics = table()["rubrics"]
    cells = []
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        cells.append(cell)
        if wrong.get(name):
            text = textwrap.fill(f"Not right yet: {wrong[name]}", 100, break_on_hyphens=False)
            cell.outputs = [nbformat.v4.new_output("error", ename="Hint", evalue=wrong[name], traceback=[text])]
        if name in rubrics and _is(cell, "grade"):
            cells.append(
                nbformat.v4.new_markdown_cell(f"*Rubric, points: {cell.metadata.nbgrader.points:g}.* {rubrics[name]}")
            )
    notebook.cells = cells
    return notebook, resources


class Course:
    """nbgrader's folders and gradebook, below `root`, for the instructor's notebooks.

    Raises:
        ValueError: a notebook is none, or a graded cell is not as it should be.
    """

    def __init__(self, root: Path, notebooks: Path, hide: Sequence[Path]):
        from traitlets.config import PyFileConfigLoader

        # nbgrader calls alembic by its name.
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        warnings.filterwarnings("ignore", message="Object of type", module="nbgrader")
        self.root = root.resolve()
        settings = CONFIG.format(root=str(self.root), hide=[str(folder.resolve()) for folder in hide])
        write_atomic(self.root / "nbgrader_config.py", settings.encode())
        self.config = PyFileConfigLoader("nbgrader_config.py", str(self.root)).load_config()
        sources = {path.stem: read_notebook(path) for path in find_notebooks(notebooks)}
        self.given: dict[str, nbformat.NotebookNode] = {}
        for name, source in {**sources, REPORT: _report_notebook()}.items():
            graded = [cell for cell in source.cells if _is(cell, "grade")]
            for cell in graded:
                if cell.cell_type == "code":
                    find_tests(cell.source, f"{name}.ipynb, {cell.metadata.nbgrader.grade_id}")
            if not graded:
                continue
            path, made = (self.root / step / name / f"{name}.ipynb" for step in ("source", "release"))
            text = nbformat.writes(source).encode()
            if not (made.exists() and path.exists() and path.read_bytes() == text):
                write_atomic(path, text)
                self.convert("GenerateAssignment", name)
            self.given[name] = read_notebook(made)

    def convert(self, step: str, name: str, student: str = ".") -> None:
        """Runs a converter of nbgrader's for one notebook of one student."""
        from nbgrader import converters
        from nbgrader.converters.base import NbGraderException
        from nbgrader.coursedir import CourseDirectory

        place = CourseDirectory(config=self.config, assignment_id=name, student_id=student)
        converter = getattr(converters, step)(coursedir=place, config=self.config)
        converter.log.setLevel("ERROR")
        converter.force = True
        try:
            converter.start()
        except NbGraderException as error:
            of = f" of {student}" if student != "." else ""
            raise RuntimeError(f"nbgrader cannot go on with {name}{of}; its own words are above") from error

    def gradebook(self) -> Any:
        from nbgrader.api import Gradebook

        return Gradebook(f"sqlite:///{self.root / 'gradebook.db'}")

    def set_due(self, path: Path) -> None:
        """Reads when which notebook is due: lines like `02 = 2026-03-01T23:59:00+01:00`."""
        try:
            due = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {error}: write lines like 02 = 2026-03-01T23:59:00+01:00") from error
        names = {name[:2]: name for name in self.given if name != REPORT} | {REPORT: REPORT}
        with self.gradebook() as book:
            for key, name in names.items():
                time = due.pop(key, None)
                if time is not None and not isinstance(time, datetime.datetime):
                    raise ValueError(f"{path}: {key} is {time}: write {key} = 2026-03-01T23:59:00+01:00")
                if time is not None and time.tzinfo:
                    time = time.astimezone(datetime.UTC).replace(tzinfo=None)
                book.update_or_create_assignment(name, duedate=time)
        if due:
            raise ValueError(f"{path} names {', '.join(due)}; known: {', '.join(names)}")

    def grade(self, one: Submission, name: str, again: bool) -> str:
        """Grades a notebook of a student, unless that was done before, and says how."""
        handed_in = one.notebooks[name] if name != REPORT else _report_notebook(one.report)
        merged, notes = merge(self.given[name], handed_in)
        one.notes += notes
        folder = self.root / "submitted" / one.student / name
        path, stamp = folder / f"{name}.ipynb", folder / "timestamp.txt"
        for number, cell in enumerate(merged.cells):
            cell["id"] = f"cell-{number}"  # else each run would write another notebook
        files = {path: nbformat.writes(merged).encode(), stamp: f"{one.time:%Y-%m-%d %H:%M:%S} UTC\n".encode()}
        done = self.root / "autograded" / one.student / name / path.name
        if done.exists() and not again and all(p.is_file() and p.read_bytes() == data for p, data in files.items()):
            return "as before"
        for file, data in files.items():
            write_atomic(file, data)
        self.convert("Autograde", name, one.student)
        return "graded"

    def points(self, student: str, name: str) -> tuple[list[Points], float]:
        """The points of each graded cell, and by how many seconds it came late."""
        from nbgrader.api import MissingEntry

        with self.gradebook() as book:
            try:
                submission = book.find_submission(name, student)
            except MissingEntry:
                cells = (cell.metadata.nbgrader for cell in self.given[name].cells if _is(cell, "grade"))
                return [Points(about.grade_id, 0, about.points, "missing") for about in cells], 0
            found = []
            for grade in submission.notebooks[0].grades:
                blank = grade.manual_score is None and grade.auto_score == 0 and grade.cell_type == "markdown"
                state = "missing" if blank else "to grade" if grade.needs_manual_grade else "graded"
                found.append(Points(grade.name, grade.score, grade.max_score, state))
            return found, submission.total_seconds_late


def _report_notebook(answer: str = "") -> nbformat.NotebookNode:
    """Cells for the points of the report, which nbgrader then treats as questions."""
    cells = [nbformat.v4.new_markdown_cell("# Report\n\nThe file is in what was handed in.")]
    for name, points in table()["report"].items():
        about = {"grade": True, "solution": True, "locked": False, "task": False, "schema_version": 3}
        about |= {"grade_id": name, "points": points}
        cells.append(nbformat.v4.new_markdown_cell(f"## {name.partition('-')[2].capitalize()}"))
        cells.append(nbformat.v4.new_markdown_cell(answer, metadata={"nbgrader": about}))
    for number, cell in enumerate(cells):
        cell["id"] = f"report-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def grade(submitted: Path, notebooks: Path, out: Path, again: bool = False) -> None:
    """Grades all that was handed in, and writes `out/NAME/*.html`, `out/points.csv` and `out/marks.csv`.

    Args:
        submitted: folder of what was handed in, see `submissions`; may hold `due.toml`.
        notebooks: the instructor's notebooks, with answers and hidden tests.
        out: its folder `nbgrader` keeps the gradebook, with the points that people give.
        again: also what has not changed since it was graded.

    Raises:
        FileNotFoundError, ValueError: nothing was handed in, or a file is not as it should be; the message names it.
    """
    print(SAFE if sandbox.isolated() else UNSAFE, flush=True)
    course = Course(out / "nbgrader", notebooks, [notebooks, notebooks.resolve().parent / ".git", submitted, out])
    course.set_due(submitted / "due.toml")
    rows, sheet = [], []
    left_out: dict[str, str] = {}  # schemes
    for one in submissions(submitted, [name for name in course.given if name != REPORT]):
        every: list[Points] = []
        here: dict[str, Any] = {"student": one.student}
        late, missing = [], []
        for name in course.given:
            said = "missing"
            if name in one.notebooks or (name == REPORT and one.report):
                said = course.grade(one, name, again)
            points, seconds = course.points(one.student, name)
            every += points
            waiting = sum(p.state == "to grade" for p in points)
            if said != "missing":
                course.convert("GenerateFeedback", name, one.student)
                html = course.root / "feedback" / one.student / name / f"{name}.html"
                write_atomic(out / one.student / html.name, _announced(html.read_text("utf-8"), waiting).encode())
            late += [f"{name} by {seconds / 3600:.1f} h"] if seconds else []
            missing += [name] if said == "missing" else []
            here[name] = sum(p.earned for p in points)
            total = sum(p.possible for p in points)
            rows += [[one.student, name, p.cell, f"{p.earned:g}", f"{p.possible:g}", p.state] for p in points]
            print(
                f"{one.student:24} {name:22} {here[name]:5g} of {total:g}  {said}"
                f"{f', {waiting} to grade by a person' * bool(waiting)}{', late' * bool(seconds)}",
                flush=True,
            )
        for scheme, about in table()["schemes"].items():
            try:
                parts = marks(about, every)
            except ValueError as error:
                left_out[scheme] = f"marks.csv has no {scheme}: {error}"
                continue
            here |= {f"{scheme}: {part}": round(percent, 1) for part, percent in parts.items()}
            here[scheme] = round(sum(parts.values()), 1)
        here["to grade"] = sum(p.state == "to grade" for p in every)
        here |= {"late": "; ".join(late), "missing": "; ".join(missing), "notes": "; ".join(one.notes)}
        sheet.append(here)
        for note in one.notes:
            print(f"{one.student:24} {note}")
    _write_csv(out / "points.csv", ["student", "notebook", "cell", "points", "of", "state"], rows)
    _write_csv(out / "marks.csv", list(sheet[0]), [list(row.values()) for row in sheet])
    print(*left_out.values(), sep="\n", end="\n" * bool(left_out))
    print(f"Feedback in {out}/NAME/, points of each cell in {out / 'points.csv'}, marks in {out / 'marks.csv'}.")


def _announced(html: str, waiting: int) -> str:
    """Feedback whose first line says how many answers wait for a person; nbgrader shows 0 points for them."""
    said = f"Answers that a person still has to grade: {waiting}. Until then they have 0 points here."
    notice = f'<p role="note" style="padding:1em;margin:0;background:#fff3cd;color:#222">{said}</p>' * bool(waiting)
    return re.sub(r"<body[^>]*>", lambda body: body[0] + notice, html, count=1)


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write_atomic(path, text.getvalue().encode())
