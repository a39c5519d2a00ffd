"""Student versions, made from the notebooks: `python -m labhelpers.course.release notebooks --out build/release`.

nbgrader's own preprocessors take out the answers, the hidden tests and the outputs; nothing is written by hand, so the
two versions cannot drift apart. `student/` is what the branch `student` holds, `student.zip` the same as one file.

The address of the repository stands in pyproject.toml. All others, in the setup cell, the notebooks, README and
wherever else, are stamped from it by `set_repository`.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat

from labhelpers.course.run import find_notebooks, read_notebook

ROOT = Path(__file__).resolve().parents[2]
SETUP_CELL = "labhelpers/course/setup_cell.py"
BRANCH = "student"
MODEL_ANSWER = re.compile(r"<details><summary>Model answers?</summary>.*?</details>", re.DOTALL)
"""Outside of a graded cell; what is called `Answer` is for a question without points, and stays."""
BADGES = {  # what opens a student version -> its picture, and the address for a repository "owner/name" and a file
    "Open in Colab": (
        "https://colab.research.google.com/assets/colab-badge.svg",
        "https://colab.research.google.com/github/{repository}/blob/{branch}/{file}",
    ),
    "Open in Kaggle": (
        "https://kaggle.com/static/images/open-in-kaggle.svg",
        "https://kaggle.com/kernels/welcome?src=https://github.com/{repository}/blob/{branch}/{file}",
    ),
    "Launch Binder": (
        "https://mybinder.org/badge_logo.svg",
        "https://mybinder.org/v2/gh/{repository}/{branch}?labpath={file}",
    ),
}
INDEX = """\
# Segmentation Labs: student versions

Made by `make release` from [the course]({address}), where everything else about it is said; changes made here are
overwritten. Take a lab in one of these ways:

- **Colab, Kaggle, Binder:** click on a badge and run all. On Kaggle switch the accelerator and the internet on. Binder
  has no GPU and little memory.
- **A machine of your own**, with Python 3.11 to 3.13: `jupyter lab` in the folder of these notebooks, after
  `pip install "labhelpers[course,sam,monai,weights] @ git+{address}"`

{labs}
Text and figures: [CC BY 4.0]({address}/blob/main/LICENSE-docs); code: [Apache-2.0]({address}/blob/main/LICENSE).
"""


def student_version(source: Path) -> nbformat.NotebookNode:
    """The notebook without answers, model answers, hidden tests and outputs, with badges, and with links into the
    repository.

    Raises:
        ValueError: it is no notebook.
        RuntimeError: from nbgrader, when a BEGIN mark has no END or cells share a grade_id; it names the cell.
    """
    from nbgrader.preprocessors import CheckCellMetadata, ClearHiddenTests, ClearOutput, ClearSolutions

    notebook = read_notebook(source)
    resources: dict = {}
    for preprocessor in (CheckCellMetadata(), ClearSolutions(), ClearHiddenTests(), ClearOutput()):
        notebook, resources = preprocessor.preprocess(notebook, resources)
    address = repository(ROOT)
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    for cell in prose:
        cell.source = MODEL_ANSWER.sub("YOUR ANSWER HERE", cell.source).replace("](../", f"]({address}/blob/main/")
    if prose:
        prose[0].source = f"{badges(source.name, address)}\n\n{prose[0].source}"
    return notebook


def badges(file: str, address: str) -> str:
    """Markdown that opens the student version of a notebook where it can be run."""
    names = {"repository": "/".join(owner_and_name(address)), "branch": BRANCH, "file": file}
    return " ".join(f"[![{title}]({picture})]({link.format(**names)})" for title, (picture, link) in BADGES.items())


def index(readme: str, address: str) -> str:
    """The page of the branch: how to start, and the labs as README lists them."""
    labs = re.search(r"^## The labs\n\n((?:\|.*\n)+)", readme, re.MULTILINE)
    if labs is None:
        raise ValueError('README.md has no table below "## The labs", from which the index is made: put it back')
    return INDEX.format(address=address, labs=labs[1])


# --- the address of the repository ---


def owner_and_name(address: str) -> tuple[str, str]:
    """Of a repository on GitHub, the only place from which Colab, Kaggle and Binder all open notebooks.

    Raises:
        ValueError: the address is of another form.
    """
    found = re.fullmatch(r"https://github\.com/([A-Za-z\d-]+)/([\w.-]+?)(?:\.git)?/?", address)
    if found is None:
        raise ValueError(f"{address!r} is no repository on GitHub: write https://github.com/OWNER/NAME")
    return found[1], found[2]


def repository(root: Path) -> str:
    """The address that the checkout at `root` gives as its own."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def set_repository(address: str, root: Path) -> list[Path]:
    """Gives the checkout another address of its own: in every tracked file, also as part of what leads to Colab or
    Binder, or to the project's pages. The setup cell is written into the notebooks anew.

    Returns:
        The files that changed.

    Raises:
        ValueError: the address is none, or `root` is no checkout.
    """
    owner, name = owner_and_name(address)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode or not (root / "pyproject.toml").is_file():
        raise ValueError(
            f"{root} is no checkout of the course: clone your fork, run make install, and call it in there"
        )
    old_owner, old_name = map(re.escape, owner_and_name(repository(root)))
    hosts = r"github\.com|colab\.research\.google\.com/github|mybinder\.org/v2/gh|codespaces\.new"
    in_path = re.compile(rf"\b({hosts})/{old_owner}/{old_name}(?![\w-])")
    in_host = re.compile(rf"\b{old_owner}\.github\.io/{old_name}(?![\w-])")

    def stamped(text: str) -> str:
        return in_host.sub(f"{owner}.github.io/{name}", in_path.sub(rf"\1/{owner}/{name}", text))

    setup_cell = stamped((root / SETUP_CELL).read_text(encoding="utf-8"))
    changed = []
    for path in (root / file for file in listed.stdout.split("\0") if file):
        try:
            text = path.read_bytes().decode()
        except (FileNotFoundError, UnicodeDecodeError):  # deleted, or weights and pictures
            continue
        new = stamped(text)
        if path.parent == root / "notebooks":
            new = with_setup_cell(new, setup_cell)
        if new != text:
            path.write_bytes(new.encode())  # in place: a script stays executable
            changed.append(path)
    return changed


def with_setup_cell(notebook: str, setup_cell: str) -> str:
    """The JSON of a notebook with this code in its first code cell, and nothing else changed."""
    content = json.loads(notebook)
    first = next(cell for cell in content["cells"] if cell["cell_type"] == "code")
    first["source"] = setup_cell.strip().splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the student version of every notebook, an index and a ZIP.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/release"))
    options = parser.parse_args(arguments)
    address = repository(ROOT)
    notebooks = {path.name: student_version(path) for path in find_notebooks(options.folder)}
    folder = options.out / BRANCH
    shutil.rmtree(folder, ignore_errors=True)  # so that nothing of an older release stays
    folder.mkdir(parents=True)
    for name, notebook in notebooks.items():
        nbformat.write(notebook, folder / name)
        print(folder / name)
    (folder / "README.md").write_text(
        index((ROOT / "README.md").read_text(encoding="utf-8"), address), encoding="utf-8"
    )
    # What Binder builds: the packages of the checkout, with labhelpers from the repository.
    environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
    environment = re.sub(r"- -e \.(\[.*\])", rf"- labhelpers\1 @ git+{address}", environment)
    (folder / "environment.yml").write_text(environment, encoding="utf-8")
    print(shutil.make_archive(str(folder), "zip", options.out, BRANCH))
    return 0


if __name__ == "__main__":
    sys.exit(main())
