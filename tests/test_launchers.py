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
from labhelpers.training import resolve_precision

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = (DOCS / "instructors.md").read_text()
# Slurm's commands, for a job on two nodes that both are this machine.
SLURM = {
    "scontrol": "echo 127.0.0.1\necho 127.0.0.1",
    "srun": '"$@" &\n"$@"; code=$?\nwait $! && exit $code',
}


def block(language: str, word: str) -> str:
    """The guide's one example in that language with that word, on FCN-32s and two processes."""
    (found,) = (text for text in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL) if word in text)
    return found.replace("fcn8s", "fcn32s")


def shell(command: str, environment: dict[str, str]) -> str:
    bash = ["timeout", "600", "bash", "-c", command]  # ends what bash has started, too
    run = subprocess.run(bash, env=environment, cwd=DOCS.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def notebook(code: str, environment: dict[str, str]) -> str:
    """What a cell says, in a kernel that was started for it."""
    cell = nbformat.v4.new_code_cell(code.replace("processes=2", f"processes=2, use_port='{free_port()}'"))
    NotebookClient(nbformat.v4.new_notebook(cells=[cell]), timeout=600).execute(env=environment)
    return "".join(output.get("text") or output.data["text/plain"] for output in cell.outputs)


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


def test_two_processes_leave_one_run(launched, home):
    checkpoints, said = launched
    (run,) = (checkpoints / "FCN-32s").glob("*")
    assert (run / "step-00000002.json").exists()
    assert len(list(checkpoints.rglob("log.csv"))) == 1
    assert len({log.read_bytes() for log in home.rglob("log.csv")}) == 1  # whatever has launched them
    for words in ("Profile    tiny", "2/2 steps", "FCN-32s: trained (now"):
        assert said.count(words) == 1, said


@pytest.mark.parametrize("launched", ["torchrun"], indirect=True)
def test_one_process_finds_what_two_have_trained_and_gives_it_their_scores(launched, home, monkeypatch):
    for name, value in {"LAB_HOME": home, "LAB_CHECKPOINTS": launched[0], "LAB_PROFILE": "tiny"}.items():
        monkeypatch.setenv(name, str(value))
    experiment = Experiment.open("fcn32s", config.profile())
    run = experiment.require()
    precision = resolve_precision("auto")
    alone = evaluate(experiment.load(run), experiment.data.val, batch_size=2, precision=precision)
    assert alone.scores.mean_iou == pytest.approx(run.history.rows[-1]["mean_iou"], rel=1e-6)
