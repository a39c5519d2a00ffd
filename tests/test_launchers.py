"""Each launcher starts two processes on a CPU: one log, one checkpoint, the same for all; the examples of docs/ run."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from training_toys import free_port

from labhelpers import config
from labhelpers.course.plans import Experiment
from labhelpers.evaluation import evaluate
from labhelpers.training import History, resolve_precision

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = (DOCS / "instructors.md").read_text()
# Slurm's commands, for a job on two nodes that both are this machine.
SLURM = {
    "scontrol": "echo 127.0.0.1\necho 127.0.0.1",
    "srun": 'SLURM_NODEID=0 "$@" &\nSLURM_NODEID=1 "$@" && wait $!',
}


def block(language: str, word: str) -> str:
    """The guide's one example in that language with that word, on FCN-32s and two processes."""
    (found,) = (text for text in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL) if word in text)
    return found.replace("fcn8s", "fcn32s")


def shell(command: str, environment: dict[str, str]) -> str:
    run = subprocess.run(
        ["bash", "-c", command], env=environment, cwd=DOCS.parent, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def notebook(code: str, environment: dict[str, str]) -> str:
    """What a cell says, in a kernel that was started for it."""
    cell = nbformat.v4.new_code_cell(code.replace("processes=2", f"processes=2, use_port='{free_port()}'"))
    NotebookClient(nbformat.v4.new_notebook(cells=[cell]), timeout=300).execute(env=environment)
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


LAUNCHERS = {
    "accelerate": lambda environment: shell(block("bash", "accelerate launch"), environment),
    "torchrun": lambda environment: shell("bash docs/torchrun.sh fcn32s", environment),
    "slurm": lambda environment: shell("bash docs/slurm.sh fcn32s", environment),
    "notebook": lambda environment: notebook(block("python", "notebook_launcher"), environment),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    for name, script in SLURM.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module", params=LAUNCHERS)
def launched(request, home):
    """What FCN-32s left in its checkpoints' folder, and what was said."""
    checkpoints = home / request.param
    environment = os.environ | {
        "PATH": os.pathsep.join([str(home), sysconfig.get_path("scripts"), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "LAB_PROFILE": "tiny",
        "LAB_HOME": str(home),
        "LAB_CHECKPOINTS": str(checkpoints),
        "PROCESSES": "2",
        "SLURM_JOB_ID": str(free_port() - 10000),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
    }
    return checkpoints, LAUNCHERS[request.param](environment)


def test_two_processes_leave_one_run(launched, home, monkeypatch):
    checkpoints, said = launched
    (run,) = (checkpoints / "FCN-32s").glob("*")
    (log,) = checkpoints.rglob("*.csv")
    assert len(list(checkpoints.rglob("*.json"))) == 2  # run.json, and the checkpoint's
    for words in ("Data: ", "2/2 steps", "FCN-32s: trained (now"):
        assert said.count(words) == 1, said
    # One process finds what two have trained, and gives it the same scores.
    monkeypatch.setenv("LAB_HOME", str(home))
    monkeypatch.setenv("LAB_CHECKPOINTS", str(checkpoints))
    monkeypatch.setenv("LAB_PROFILE", "tiny")
    experiment = Experiment.open("fcn32s", config.profile())
    model = experiment.load(experiment.require())
    alone = evaluate(model, experiment.data.val, batch_size=2, precision=resolve_precision("auto"))
    row = History.read(log).rows[-1]
    assert alone.scores.mean_iou == pytest.approx(row["mean_iou"], rel=1e-6)
    assert (run / log.name).read_bytes() == next((home / "accelerate").rglob("log.csv")).read_bytes()
