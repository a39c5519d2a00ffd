from pathlib import Path

import nbformat
import pytest

from labhelpers.course.release import main, student_version

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def exercise() -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell(
        "def area(box):\n    ### BEGIN SOLUTION\n    return box[2] * box[3]\n    ### END SOLUTION\nprint('kept')"
    )
    cell.metadata["nbgrader"] = {
        "grade": False,
        "grade_id": "area",
        "locked": False,
        "schema_version": 3,
        "solution": True,
        "task": False,
    }
    cell.outputs = [nbformat.v4.new_output("stream", text="42")]
    return cell


def test_answers_and_outputs_are_taken_out(tmp_path):
    (tmp_path / "in").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[exercise()]), tmp_path / "in" / "01_lab.ipynb")
    assert main([str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    cell = nbformat.read(tmp_path / "out" / "01_lab.ipynb", as_version=4).cells[0]
    assert "return box[2]" not in cell.source
    assert "raise NotImplementedError" in cell.source
    assert "print('kept')" in cell.source
    assert cell.outputs == []


def test_a_mark_without_an_end_is_refused(tmp_path):
    cell = exercise()
    cell.source = cell.source.replace("### END SOLUTION", "")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "01_lab.ipynb")
    with pytest.raises(RuntimeError, match="no end solution|END SOLUTION"):
        student_version(tmp_path / "01_lab.ipynb")


@pytest.mark.parametrize("source", [n for n in NOTEBOOKS if n.stem[:2].isdigit()], ids=lambda path: path.stem)
def test_no_answer_of_the_course_leaks(source):
    """Every line between the marks is gone, unless the same line also stands elsewhere in the notebook."""
    answers, elsewhere, inside = [], set(), False
    for cell in nbformat.read(source, as_version=4).cells:
        for line in cell.source.splitlines():
            if "### BEGIN" in line or "### END" in line:
                inside = "### BEGIN" in line
            elif inside:
                answers.append(line.strip())
            else:
                elsewhere.add(line.strip())
    assert answers
    lines = {
        line.strip() for cell in student_version(source).cells for line in cell.source.splitlines() if line.strip()
    }
    assert lines & (set(answers) - elsewhere) == set()
