"""What stands around the code: workflows, licences, the citation, links from one file to another."""

import datetime
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
JOBS = [job for path in WORKFLOWS for job in yaml.safe_load(path.read_text())["jobs"].values()]
STEPS = [step for job in JOBS for step in job["steps"]]
FOLDERS = (".", "benchmarks", "checkpoints", "data")
# Hugging Face, GitHub, Weights & Biases, Amazon, a private key; and anything long that is given to a name of a key.
KEYS = re.compile(
    r"hf_[A-Za-z0-9]{30,}|gh[opsu]_[A-Za-z0-9]{36}|github_pat_\w{40,}|wandb_v1_\w{40,}|AKIA[0-9A-Z]{16}"
    r"|-BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?i:api_?key|token|secret|password)[\"']?\s*[=:]\s*\\?[\"'](?=[^\"']*\d)[\w-]{20,}"
)
DOCUMENTS = [path for folder in FOLDERS for path in sorted(ROOT.glob(f"{folder}/*.md"))]


def made(text: str) -> set[str]:
    """The targets of `make` in a script."""
    return set(re.findall(r"^ *make ([a-z]+)", text, re.MULTILINE))


def matrix(job: dict, name: str) -> list[str]:
    """The values of a variable in a job's matrix."""
    found = job.get("strategy", {}).get("matrix", {})
    return [*found.get(name, ()), *(entry[name] for entry in found.get("include", ()))]


def test_workflows_call_targets_that_exist_and_all_of_what_ci_runs():
    called = set().union(*(made(step.get("run", "")) for step in STEPS))
    assert called <= set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    assert made((ROOT / ".ci/run").read_text()) <= called


def test_workflows_name_files_and_extras_that_exist():
    constraints, extras = ({value for job in JOBS for value in matrix(job, name)} for name in ("constraints", "extras"))
    assert constraints == {"constraints-oldest.txt", ""}
    assert all((ROOT / name).exists() for name in constraints)
    assert set(",".join(extras).split(",")) <= set(PROJECT["optional-dependencies"])
    named = set(re.findall(r"[\w./-]+\.(?:txt|md|toml|py)\b", " ".join(step.get("run", "") for step in STEPS)))
    assert all((ROOT / name).is_file() for name in named), named
    kept = [step["with"]["path"] for step in STEPS if "upload-artifact" in step.get("uses", "")]
    assert all("/".join(path.split("/")[:2]) in MAKEFILE for path in kept), kept


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_commit_with_its_version_beside_it(path):
    uses = re.findall(r"uses: (.*)$", path.read_text(), re.MULTILINE)
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in uses), uses
    assert "permissions" in yaml.safe_load(path.read_text())


def test_workflows_test_each_python_that_is_supported():
    first, end = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert [f"3.{minor}" for minor in range(int(first), int(end))] == PYTHONS
    [tested] = [matrix(job, "python") for job in JOBS if any(step.get("run") == "make test" for step in job["steps"])]
    assert tested == PYTHONS
    others = [step["with"]["python-version"] for step in STEPS if "setup-python" in step.get("uses", "")]
    others += [python for job in JOBS for python in matrix(job, "python")]
    assert set(others) <= {*PYTHONS, "${{ matrix.python }}"}


def test_the_container_is_made_as_every_other_environment():
    """Codespaces and VS Code: `make install`, and so constraints.txt, on a supported Python, which notebooks find."""
    lines = (ROOT / ".devcontainer/devcontainer.json").read_text().splitlines()
    container = json.loads("\n".join(line for line in lines if not line.startswith("//")))
    assert container["postCreateCommand"] == "make install"
    assert container["image"].partition("python:")[2] in PYTHONS
    assert container["customizations"]["vscode"]["settings"] == {
        "python.defaultInterpreterPath": "${containerWorkspaceFolder}/.venv/bin/python"
    }
    assert "\nBIN := .venv/bin\n" in MAKEFILE
    assert "\nCONSTRAINTS ?= constraints.txt\n" in MAKEFILE


def test_the_release_fills_the_branch_that_is_opened_and_a_weekly_run_finds_it_stale():
    jobs = {path.stem: yaml.safe_load(path.read_text())["jobs"].values() for path in WORKFLOWS}
    runs = {name: [step.get("run", "") for job in each for step in job["steps"]] for name, each in jobs.items()}
    assert runs["release"].index("make release") < runs["release"].index(".ci/student --push")
    assert any(
        "pytest tests/test_release.py" in run for run in runs["release"][: runs["release"].index(".ci/student --push")]
    )
    assert ".ci/student" in runs["weekly"]
    assert yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["permissions"] == {"contents": "write"}


def test_pre_commit_has_the_ruff_of_the_constraints():
    repos = {repo["repo"]: repo for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]}
    pinned = re.search(r"^ruff==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert repos["https://github.com/astral-sh/ruff-pre-commit"]["rev"] == f"v{pinned[1]}"


def test_licences_are_said_alike():
    assert (ROOT / "LICENSE").read_text().split()[:2] == ["Apache", "License"]
    assert "Attribution 4.0 International" in (ROOT / "LICENSE-docs").read_text().splitlines()[0]
    assert PROJECT["license"] == "Apache-2.0 AND CC-BY-4.0"
    readme = (ROOT / "README.md").read_text()
    for name in PROJECT["license-files"]:
        assert (ROOT / name).is_file()
        assert f"({name})" in readme


def test_the_citation_is_of_this_version():
    """The keys that Citation File Format 1.2.0 requires, and what the project says elsewhere too."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["message"]
    assert citation["title"]
    assert all(author["name"] for author in citation["authors"])
    assert citation["type"] == "software"
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert " AND ".join(citation["license"]) == PROJECT["license"]
    released = dict(re.findall(r"^## \[(.+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE))
    assert citation["version"] == PROJECT["version"]
    assert citation["date-released"] == released[PROJECT["version"]]
    dates = [datetime.date.fromisoformat(date) for date in released.values() if date != "unreleased"]
    assert dates == sorted(dates, reverse=True)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)|<img src=\"([^\"]+)\"", path.read_text())
    files = [link for pair in links for link in pair if link and "://" not in link]
    assert all((path.parent / name).exists() for name in files), files


def test_no_file_holds_what_looks_like_a_key():
    """Outputs of notebooks too: a token that a cell has printed would be everybody's."""
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in tracked.split("\0") if name and (ROOT / name).is_file()]
    assert len(files) > 200
    assert [(path, found) for path in files if (found := KEYS.findall(path.read_text(errors="ignore")))] == []
    for key in ("hf_" + 34 * "a", "ghp_" + 36 * "b", "wandb_v1_" + 40 * "C", 'WANDB_API_KEY="' + 40 * "0" + '"'):
        assert KEYS.search(f"login({key!r})"), key
