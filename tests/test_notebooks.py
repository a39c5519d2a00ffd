"""What every notebook of the course has in common; nbval runs their cells."""

import re
from pathlib import Path

import nbformat
import pytest
from nbgrader.nbgraderformat import read as nbgrader_read

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LABS = [path for path in NOTEBOOKS if path.stem[:2].isdigit()]  # the others, such as the demo, have no exercises
SETUP_CELL = (ROOT / "labhelpers" / "course" / "setup_cell.py").read_text().strip()
EXERCISES = {"01": 5, "02": 6, "03": 6, "04": 8, "05": 4, "06": 9, "07": 4}


in_labs = pytest.mark.parametrize("path", LABS, indirect=True, ids=lambda path: path.stem)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def cells(path):
    return nbformat.read(path, as_version=4).cells


def code(cells):
    return [cell for cell in cells if cell.cell_type == "code"]


def test_the_series_is_complete_so_far():
    names = ["data_pipeline", "fcn", "deeplabv3plus", "unet", "smp_backbones", "mini_sam", "sam_comparison"]
    assert [path.stem for path in LABS] == [f"{number:02d}_{name}" for number, name in enumerate(names, 1)]


def test_first_code_cell_is_the_setup_cell(cells):
    assert code(cells)[0].source.strip() == SETUP_CELL


@in_labs
def test_a_lab_says_its_profile_before_anything_else(cells):
    assert code(cells)[1].source.strip().startswith("from labhelpers.course import begin")


def test_stored_run_is_whole_and_without_errors(path, cells):
    counts = [cell.execution_count for cell in code(cells)]
    assert counts == list(range(1, len(counts) + 1))
    for cell in code(cells):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert "Warning" not in output.get("text", ""), cell.source
    assert path.stat().st_size < 1_000_000


def test_pictures_are_small(cells):
    for cell in code(cells):
        for output in cell.outputs:
            for kind, data in output.get("data", {}).items():
                if kind.startswith("image/"):
                    assert len(data) * 3 / 4 <= 102_400, cell.source


@in_labs
def test_opens_and_closes_as_every_lab_does(cells):
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for heading in ("Objectives", "Prerequisites", "Minutes", "Pitfalls", "Questions", "References"):
        assert re.search(rf"^#+ .*{heading}", prose, re.MULTILINE | re.IGNORECASE), heading
    for name in ("tiny", "smoke", "lab", "full"):
        assert name in prose


@in_labs
def test_exercises_have_nbgrader_metadata(path):
    nb = nbgrader_read(str(path), as_version=nbformat.NO_CONVERT)  # validates nbgrader's schema
    graded = {"solution": [], "grade": []}
    for cell in nb.cells:
        meta = cell.metadata.get("nbgrader", {})
        if meta.get("solution"):
            assert cell.source.count("### BEGIN SOLUTION") == cell.source.count("### END SOLUTION") >= 1
            graded["solution"].append(meta["grade_id"])
        elif meta.get("grade"):
            assert meta["points"] > 0
            assert "### BEGIN HIDDEN TESTS" in cell.source
            assert "checks.grade(" in cell.source
            graded["grade"].append(meta["grade_id"].removesuffix("-grade"))
        else:
            assert "BEGIN SOLUTION" not in cell.source
    assert graded["solution"] == graded["grade"]
    assert len(graded["solution"]) >= EXERCISES[path.stem[:2]]


@in_labs
def test_deterministic_cells_are_checked(cells):
    """nbval compares the stored output of marked cells; a notebook without any would test nothing."""
    marked = [cell for cell in code(cells) if "# NBVAL_CHECK_OUTPUT" in cell.source]
    assert len(marked) >= 5
    assert all(cell.outputs for cell in marked)
