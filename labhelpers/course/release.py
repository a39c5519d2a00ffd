"""Student versions, made from the notebooks: `python -m labhelpers.course.release notebooks --out build/release`.

nbgrader's own preprocessors take out the answers, the hidden tests and the outputs; nothing is written by hand, so the
two versions cannot drift apart.
"""

import argparse
import sys
from pathlib import Path

import nbformat

from labhelpers.course.run import find_notebooks, read_notebook


def student_version(source: Path) -> nbformat.NotebookNode:
    """The notebook without answers, hidden tests and outputs.

    Raises:
        ValueError: it is no notebook.
        RuntimeError: from nbgrader, when a BEGIN mark has no END or cells share a grade_id; it names the cell.
    """
    from nbgrader.preprocessors import CheckCellMetadata, ClearHiddenTests, ClearOutput, ClearSolutions

    notebook = read_notebook(source)
    resources: dict = {}
    for preprocessor in (CheckCellMetadata(), ClearSolutions(), ClearHiddenTests(), ClearOutput()):
        notebook, resources = preprocessor.preprocess(notebook, resources)
    return notebook


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the student version of every notebook.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/release"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for source in find_notebooks(options.folder):
        nbformat.write(student_version(source), options.out / source.name)
        print(options.out / source.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
