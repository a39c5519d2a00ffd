"""Runs notebooks top to bottom: `python -m labhelpers.course.run notebooks --out build/labs` (`make labs`).

Every cell is announced with its seconds; executed notebooks and HTML go to the output folder; a failing cell ends the
run with the notebook, the cell and the error, and exit code 1. The demo runs as a page instead.
"""

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat

from labhelpers import config

DEMO = "demo_minisam.ipynb"


class CellFailed(Exception):
    """A cell raised; the message names the notebook, the cell and the error."""


def find_notebooks(where: Path) -> list[Path]:
    """The notebooks of a folder in their order, or the single file that is named.

    Raises:
        FileNotFoundError: when there is none.
    """
    if where.is_file():
        return [where]
    if not where.is_dir():
        raise FileNotFoundError(f"there is no {where}: name a notebook, or a folder of notebooks such as `notebooks`")
    found = sorted(path for path in where.glob("*.ipynb") if not path.name.startswith("."))
    if not found:
        raise FileNotFoundError(f"no notebook in {where}: expected files like 01_data_pipeline.ipynb")
    return found


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook in the current format; older formats and files with a byte order mark or in UTF-16 are read too.

    Raises:
        OSError: there is no such file. ValueError: it is no notebook; the message names it and what to do.
    """
    stored = path.read_bytes()
    try:
        notebook = nbformat.reads(stored.decode(json.detect_encoding(stored)), as_version=4)
        for cell in notebook.cells:
            if not isinstance(cell.source, str):
                raise TypeError(f"the source of a {cell.cell_type} cell is no text")
    except Exception as error:  # nbformat checks after it has read: what is odd raises whatever it happens to
        what = f"is not a notebook ({type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''})"
        if not stored.strip():
            what = "is empty"
        elif b"<<<<<<< " in stored:
            what = "holds the marks of a merge conflict (<<<<<<<)"
        remedy = "put a whole version in its place, from git or from the folder .ipynb_checkpoints beside it"
        raise ValueError(f"{path} {what}: {remedy}") from error
    return notebook


def run_notebook(source: Path, out: Path, in_place: bool = False, cell_timeout: float | None = None) -> float:
    """Executes one notebook in its own folder, writes `out/NAME.ipynb` and `out/NAME.html`, returns the seconds.

    What was executed is written even when a cell fails, so that the error can be read in place.

    Args:
        cell_timeout: seconds that one cell may take; None takes the profile's `cell_hours`.

    Raises:
        CellFailed: when a cell raises or takes too long, or the kernel dies. ValueError: it is no notebook.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    limit = cell_timeout or 3600 * config.profile().cell_hours
    notebook = read_notebook(source)
    code_cells = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()]
    started: dict[int, float] = {}

    def cell_starts(cell, cell_index):
        started[cell_index] = time.perf_counter()

    def cell_ends(cell, cell_index, execute_reply):
        if cell_index in code_cells:
            seconds = time.perf_counter() - started[cell_index]
            number = code_cells.index(cell_index) + 1
            print(f"  {number:3d}/{len(code_cells)} {seconds:6.1f} s  {first_words(cell.source)}", flush=True)

    client = NotebookClient(
        notebook,
        timeout=math.ceil(limit),
        coalesce_streams=True,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # each start would warn of its loopback connection
        resources={"metadata": {"path": str(source.parent)}},
        on_cell_start=cell_starts,
        on_cell_executed=cell_ends,
    )
    start = time.perf_counter()
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        index = max(started, default=0)
        where = f"{source.name}, code cell {code_cells.index(index) + 1} ({first_words(notebook.cells[index].source)})"
        what = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else str(error)
        if isinstance(error, CellTimeoutError):
            what = f"It was stopped at the limit of {limit:,g} seconds for one cell: does a loop never end? "
            what += "A cell that needs longer gets it with --cell-timeout SECONDS."
        raise CellFailed(f"{where}\n{what}") from error
    finally:
        clean_metadata(notebook)
        out.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, out / source.name)
        write_html(notebook, source.stem, out)
    if in_place:
        nbformat.write(notebook, source)
    return time.perf_counter() - start


def first_words(source: str, length: int = 70) -> str:
    """The first line of a cell that says something, cut to `length` characters."""
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("# NBVAL")]
    line = lines[0] if lines else ""
    return line if len(line) <= length else line[: length - 1] + "…"


def clean_metadata(notebook: nbformat.NotebookNode) -> None:
    """Drops what differs from run to run, so that a stored notebook changes only with its content."""
    notebook.metadata.pop("widgets", None)
    if "language_info" in notebook.metadata:
        notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)


def write_html(notebook: nbformat.NotebookNode, title: str, out: Path) -> None:
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_notebook_node(notebook, resources={"metadata": {"name": title}})
    (out / f"{title}.html").write_text(body, encoding="utf-8")


def results_markdown() -> str:
    """The results tables as text, one for each protocol, or a sentence when no notebook has filled one yet."""
    from labhelpers.evaluation import ResultsTable

    tables = [ResultsTable(path) for path in sorted(config.checkpoints_root().glob("results-*.json"))]
    if not tables:
        return "No results yet: nothing was trained, or only in the profile tiny or with LAB_STEPS."
    return "\n".join(table.to_markdown() for table in tables)


def notebooks_folder(folder: Path | None) -> Path:
    """The folder of notebooks: the one given, else this one if it holds labs, else `notebooks` here or in the checkout.

    Raises:
        FileNotFoundError: there is none.
    """
    here = [Path(".")] if any(Path(".").glob("*0[1-9]_*.ipynb")) else []
    places = [folder] if folder is not None else [*here, Path("notebooks"), config.home() / "notebooks"]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"no folder {' or '.join(map(str, places))}: name the folder of your notebooks with --notebooks"
    )


def serve_demo(folder: Path | None) -> int:
    """Serves the demo on the loopback address until Ctrl-C; returns voila's exit code.

    Raises:
        FileNotFoundError: the notebook is missing. ImportError: voila is missing.
    """
    notebook = notebooks_folder(folder) / DEMO
    if not notebook.is_file():
        raise FileNotFoundError(f"{notebook} is missing: git checkout it again, or give its folder with --notebooks")
    if importlib.util.find_spec("voila") is None:
        raise ImportError('the demo needs voila: pip install "labhelpers[course]"')
    return subprocess.run(
        [sys.executable, "-m", "voila", "--Voila.ip=127.0.0.1", str(notebook)], check=False
    ).returncode


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute notebooks in order and stop at the first failing cell.")
    parser.add_argument("sources", type=Path, nargs="+", help="folder with the notebooks, or single notebooks")
    parser.add_argument("--out", type=Path, default=Path("build/labs"), help="where executed notebooks and HTML go")
    parser.add_argument("--in-place", action="store_true", help="also store the outputs in the notebooks themselves")
    parser.add_argument(
        "--cell-timeout",
        type=float,
        metavar="SECONDS",
        help="what one cell may take (default: an hour in tiny and smoke, a day in lab, four in full)",
    )
    options = parser.parse_args(arguments)
    if options.cell_timeout is not None and not 0 < options.cell_timeout < float("inf"):
        parser.error(f"--cell-timeout {options.cell_timeout:g}: give the seconds that one cell may take, above 0")
    # Without a checkout, a path relative to where the command is called must hold where the kernels run.
    paths = {
        name: config.path_from(name) for name in ("LAB_VOC_ROOT", "LAB_HOME", "LAB_CHECKPOINTS", "LAB_SAM_WEIGHTS")
    }
    os.environ |= {name: str(path) for name, path in paths.items() if path}
    profile = config.profile()
    try:
        notebooks = [path for where in options.sources for path in find_notebooks(where)]
    except FileNotFoundError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    expected = f"about {sum(profile.minutes.get(path.name[:2], 0) for path in notebooks):g} minutes"
    expected = f"at most {profile.cut} steps a training" if profile.cut else expected
    print(f"{len(notebooks)} notebooks in profile {profile.name}, {expected}", flush=True)
    start = time.perf_counter()
    for position, path in enumerate(notebooks, 1):
        print(f"\n[{position}/{len(notebooks)}] {path.stem}", flush=True)
        try:
            seconds = run_notebook(path, options.out, options.in_place, options.cell_timeout)
        except CellFailed as error:
            print(f"\nFAILED in {error}\nThe notebook up to there: {options.out / path.name}", file=sys.stderr)
            return 1
        except ValueError as error:
            print(f"\nFAILED: {error}", file=sys.stderr)
            return 1
        print(f"  done in {seconds / 60:.1f} min", flush=True)
    print(f"\nAll done in {(time.perf_counter() - start) / 60:.1f} min.\n\n{results_markdown()}")
    print(f"\nExecuted notebooks and HTML pages: {options.out.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
