"""Runs the student versions as on Colab: `make colab`, after which build/colab/labs has the executed notebooks.

Needs nothing but Python, so that it also runs where the project is not installed.

Colab here is an environment with the packages of one of its runtimes, `colab-runtime.txt`, and without labhelpers. Each
notebook is run from its first cell, which installs labhelpers as a wheel of this checkout, in the profile tiny, and the
environment is put back after it, since on Colab each notebook has a machine of its own. It fails if a cell does, if a
package that was there has another version afterwards, or if the setup cell takes longer than 90 s.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 90
REPLACED = {
    "filelock"
}  # the runtime's waits forever where a drive has no locks; the setup cell says that it is too old
EXECUTE = """
import sys, nbformat, nbclient
source, out, folder = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
resources = {"metadata": {"path": folder}}
try:
    nbclient.NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=resources).execute()
finally:
    nbformat.write(notebook, out)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=ROOT / "build/colab/environment", help="made when missing")
    parser.add_argument("--python", default="python3.12", help="the Python to make it with")
    parser.add_argument(
        "--packages", nargs="*", default=[], help="others than the runtime's: torch torchvision are the newest"
    )
    parser.add_argument("notebooks", type=Path, nargs="*", help="default: those in build/release/student")
    options = parser.parse_args()
    python = options.environment / "bin/python"
    if not python.exists():
        run(options.python, "-m", "venv", options.environment)
        run(python, "-m", "pip", "install", "-q", "-r", ROOT / ".ci/colab-runtime.txt")
        if options.packages:
            run(python, "-m", "pip", "install", "-q", "--upgrade", *options.packages)
    wheels = ROOT / "build/colab/wheel"
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, ROOT)
    work, out = ROOT / "build/colab/content", ROOT / "build/colab/labs"
    for folder in (work, out):
        folder.mkdir(parents=True, exist_ok=True)
    colab = {"COLAB_RELEASE_TAG": "simulated", "LAB_PACKAGE": str(max(wheels.glob("labhelpers-*.whl")))}
    os.environ |= {**colab, "LAB_PROFILE": "tiny", "WANDB_MODE": "disabled"}
    os.environ.pop("PYTHONPATH", None)
    problems = []
    before = versions(python)
    for notebook in options.notebooks or sorted((ROOT / "build/release/student").glob("0*.ipynb")):
        done = subprocess.run([python, "-c", EXECUTE, notebook, out / notebook.name, work], check=False)
        cells = [cell for cell in json.loads((out / notebook.name).read_text())["cells"] if cell["cell_type"] == "code"]
        after = versions(python)
        added = {name: version for name, version in after.items() if name not in before}
        replaced = {
            name: f"{version} -> {after.get(name)}"
            for name, version in before.items()
            if after.get(name) != version and name not in REPLACED
        }
        setup = seconds(cells[0])
        print(
            f"{notebook.name}: setup cell {setup:.0f} s, all {sum(map(seconds, cells)):.0f} s; added {added}",
            flush=True,
        )
        problems += [f"{notebook.name}: a cell fails"] * (done.returncode != 0)
        problems += [f"{notebook.name}: replaced {replaced}"] * bool(replaced)
        problems += [f"{notebook.name}: the setup cell takes {setup:.0f} s"] * (setup > SECONDS)
        if added:
            run(python, "-m", "pip", "uninstall", "-q", "-y", *added)
    print(*problems or ["All run; nothing was replaced."], sep="\n")
    return int(bool(problems))


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)


def versions(python: Path) -> dict[str, str]:
    """The packages of an environment."""
    code = "import importlib.metadata as m; print(*{f'{d.name} {d.version}' for d in m.distributions()}, sep='\\n')"
    listed = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    return dict(sorted(line.split() for line in listed.splitlines()))


def seconds(cell: dict) -> float:
    """How long a cell has run, 0 if it was not reached."""
    times = cell["metadata"].get("execution", {})
    start, end = (times.get(name) for name in ("iopub.execute_input", "shell.execute_reply"))
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() if start and end else 0.0


if __name__ == "__main__":
    sys.exit(main())
