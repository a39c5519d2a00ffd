import nbformat
import pytest

from labhelpers.course import run


def notebook(path, *cells):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(nb, path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def test_runs_in_order_shows_progress_and_writes_html(folder, tmp_path, capsys):
    notebook(folder / "02_second.ipynb", "print(open('note.txt').read())")
    notebook(folder / "01_first.ipynb", "value = 6 * 7", "open('note.txt', 'w').write(f'answer {value}')")
    assert run.main([str(folder), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.index("[1/2] 01_first") < printed.index("[2/2] 02_second")
    assert "1/2" in printed
    assert "value = 6 * 7" in printed
    assert "No results yet" in printed
    assert str(tmp_path / "out") in printed
    assert "answer 42" in (tmp_path / "out" / "02_second.html").read_text()
    executed = nbformat.read(tmp_path / "out" / "01_first.ipynb", as_version=4)
    assert [cell.execution_count for cell in executed.cells] == [1, 2]
    assert "outputs" in executed.cells[0]
    assert nbformat.read(folder / "01_first.ipynb", as_version=4).cells[0].execution_count is None


def test_a_failing_cell_stops_with_notebook_cell_and_error(folder, tmp_path, capsys):
    notebook(folder / "01_first.ipynb", "a = 1", "b = 1 / 0", "c = 3")
    notebook(folder / "02_second.ipynb", "d = 4")
    assert run.main([str(folder), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "FAILED in 01_first.ipynb, code cell 2 (b = 1 / 0)" in printed.err
    assert "ZeroDivisionError: division by zero" in printed.err
    assert "02_second" not in printed.out
    assert "ZeroDivisionError" in (tmp_path / "out" / "01_first.html").read_text()


def test_in_place_stores_outputs(folder, tmp_path):
    path = notebook(folder / "01_first.ipynb", "print('kept')")
    assert run.main([str(path), "--out", str(tmp_path / "out"), "--in-place"]) == 0
    assert nbformat.read(path, as_version=4).cells[0].outputs[0].text == "kept\n"


def test_an_empty_folder_is_an_error(folder):
    with pytest.raises(FileNotFoundError, match="no notebook in"):
        run.find_notebooks(folder)
