"""The ZIP that the course asks for: what belongs into it, what of that is missing, and the file."""

import argparse
import io
import json
import os
import re
import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from labhelpers import config, course
from labhelpers.course.answers import examine
from labhelpers.course.checks import BY_LAB
from labhelpers.course.gathering import Notebook, gather, lab_of, module
from labhelpers.course.plans import PLANS, Experiment, find_all
from labhelpers.course.report import unwritten
from labhelpers.course.report.findings import listed
from labhelpers.course.run import DEMO, notebooks_folder
from labhelpers.files import write_atomic

LABS = ("01", "02", "03", "04", "05", "06", "07")
EXTRA = ("08",)  # comes along if it is there
REQUIRED = ("fcn8s", "deeplabv3plus", "mini_sam")
"""Networks whose weights and logs must be handed in; the logs of the others come along if they are there."""

STUDENT = "lab05_student.py"
SCRIPTS = {
    "train_fcn.py": ("fcn32s", "fcn16s", "fcn8s"),
    "train_deeplab.py": ("deeplabv3", "deeplabv3plus"),
    "train_minisam.py": ("mini_sam",),
}
SCRIPT = '''\
"""Trains {titles} as in lab {lab}, or finds what was trained.

    python {file:34}{default}
    python {profile:34}with the recipe for a GPU

Needs labhelpers, the library of the course, which holds the training loop and the recipe.
"""

import sys

from labhelpers.course.submit import script

if __name__ == "__main__":
    sys.exit(script(__doc__, {names}))
'''


@dataclass
class Contents:
    """What the ZIP will hold: name -> bytes, what is answered, and what is missing or wrong, each with its remedy."""

    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    answered: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, path: Path, remedy: str) -> None:
        """Takes a file in, or notes that it is missing."""
        if path.is_file():
            self.files[path.name] = path.read_bytes()
        else:
            self.missing.append(f"{path.name}: not in {path.parent}; {remedy}")

    def __str__(self) -> str:
        lines = [f"ok  {name:44} {len(data) / 1e3:10,.1f} kB" for name, data in self.files.items()]
        lines += [f"ok  {answers}" for answers in self.answered]
        return "\n".join([*lines, *(f"!!  {problem}" for problem in self.missing)])


def collect(notebooks: Path | None, report: Path, profile: config.Profile) -> Contents:
    """Looks for everything that belongs into the submission.

    Args:
        notebooks: folder of the student's notebooks; None looks here, then for `notebooks`.
        report: folder of `report.pdf`, `report.html` and `report.md`.
        profile: whose runs are handed in.

    Raises:
        FileNotFoundError: there is no folder of notebooks.
    """
    contents = Contents()
    _add_notebooks(contents, notebooks_folder(notebooks))
    for file, names in SCRIPTS.items():
        default = "all of them; name one to train only that" if len(names) > 1 else "on the data of the default profile"
        about = {"titles": listed([PLANS[name].title for name in names]), "lab": PLANS[names[0]].lab}
        text = SCRIPT.format(file=file, profile=f"{file} --profile lab", default=default, names=names, **about)
        contents.files[file] = text.encode()
    _add_runs(contents, profile)
    _add_report(contents, report)
    return contents


def script(description: str, names: Sequence[str], arguments: list[str] | None = None) -> int:
    """The command line of a training script: trains those of `names` that are asked for, else all."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(names)} (default: all)")
    parser.add_argument("--profile", choices=list(config.PROFILES), help="how much time it may take")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in names]
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; known: {', '.join(names)}")
    if options.profile:
        os.environ["LAB_PROFILE"] = options.profile
    profile = course.begin(PLANS[names[0]].lab)
    for name in options.names or names:
        Experiment.open(name, profile).train()
    return 0


def write_zip(contents: Contents, folder: Path, lastname: str, firstname: str) -> Path:
    """Writes the ZIP; what is missing is listed inside in MISSING.txt. Equal contents give equal bytes.

    Raises:
        ValueError: a name without a letter from a to z.
    """
    name = f"lab05_{ascii_name(lastname)}_{ascii_name(firstname)}"
    files = dict(contents.files)
    if contents.missing:
        files["MISSING.txt"] = "".join(f"{problem}\n" for problem in contents.missing).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(f"{name}/{path}", date_time=(2026, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    written = folder / f"{name}.zip"
    write_atomic(written, buffer.getvalue())
    return written


def ascii_name(name: str) -> str:
    """A name as a part of a file name: lower case, without accents, other characters as hyphens: "nguyen-van".

    Raises:
        ValueError: nothing is left of it.
    """
    plain = name.lower()
    for letter, latin in {"đ": "d", "ø": "o", "ł": "l", "ß": "ss", "æ": "ae", "œ": "oe"}.items():
        plain = plain.replace(letter, latin)
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not plain:
        raise ValueError(f"the name {name!r} has no letter from a to z: write it in Latin letters")
    return plain


def _add_notebooks(contents: Contents, folder: Path) -> None:
    gathered = []
    for lab in LABS + EXTRA:
        paths = sorted(path for path in folder.glob("*.ipynb") if lab_of(path.name) == lab)
        if not paths and lab in EXTRA:
            continue
        if not paths:
            exercises = f"and so its exercises {', '.join(BY_LAB[lab])}"
            where = f"not in {folder}, {exercises}; put it there, or give --notebooks"
            contents.missing.append(f"notebook {lab}_*.ipynb: {where}")
            continue
        if len(paths) > 1:
            contents.missing.append(f"notebook {lab}: {', '.join(p.name for p in paths)}: keep the one to hand in")
        text = paths[0].read_bytes()
        if b"### BEGIN SOLUTION" in text:
            what = "the course's own notebook, with its answers; name the folder of yours with --notebooks"
            contents.missing.append(f"{paths[0]}: {what}")
            continue
        contents.files[f"notebooks/{paths[0].name}"] = text
        try:
            gathered.append(gather(paths[0]))
        except ValueError as error:
            contents.missing.append(f"{error}. Exercises that cannot be read: {', '.join(BY_LAB[lab])}")
    contents.add(folder / DEMO, "git checkout it again")
    for notebook in gathered:
        _add_answers(contents, notebook)
    source, problems = module(gathered)
    contents.files[STUDENT] = source.encode()
    contents.missing += problems
    if not any(notebook.problems for notebook in gathered):
        problem = examine({STUDENT: source})[STUDENT]
        contents.missing += [f"{STUDENT} cannot be imported: {problem}"] if problem else []


def _add_answers(contents: Contents, notebook: Notebook) -> None:
    """Runs and checks the answers of a notebook, and sorts its exercises by what came of them."""
    outcome = examine({where: notebook.code(where) for where in notebook.cells}, notebook.lab)
    notebook.problems += [f"{where}: {outcome[where]}" for where in notebook.cells if outcome[where]]
    kinds: dict[str, list[str]] = {"answered": [], "unanswered": [], "missing": []}
    for title in BY_LAB[notebook.lab]:
        hint = outcome[title]
        if hint is None:  # its cell may have failed before
            stopped = [outcome[where] for where, pieces in notebook.cells.items() for p in pieces if title in p.binds]
            hint = notebook.broken.get(title) or next(filter(None, stopped), None)
        if hint == "":
            kinds["answered"].append(title)
        elif title in notebook.empty:
            kinds["unanswered"].append(title)
        elif hint is None:
            kinds["missing"].append(title)
        else:
            notebook.problems.append(f"{notebook.path.name}: {title} fails its check: {hint}")
    if kinds["answered"]:
        contents.answered.append(f"{notebook.path.name}: answered: {', '.join(kinds['answered'])}")
    remedies = {"unanswered": "write them", "missing": "copy their cells from the course's notebook, and write them"}
    for kind, remedy in remedies.items():
        if kinds[kind]:
            contents.missing.append(f"{notebook.path.name}: {kind}: {', '.join(kinds[kind])}; {remedy}")
    if notebook.unwritten:
        contents.missing.append(f"{notebook.path.name}: no words yet: {', '.join(notebook.unwritten)}; write them")
    contents.missing += notebook.problems


def _add_runs(contents: Contents, profile: config.Profile) -> None:
    found = {experiment.plan.name: run for experiment, run in find_all(profile)}
    for name, run in found.items():
        contents.files[f"logs/{name}.csv"] = (run.folder / "log.csv").read_bytes()
    for name in REQUIRED:
        if name not in found:
            where = f"not trained in the profile {profile.name}"
            contents.missing.append(f"weights of {PLANS[name].title}: {where}; run labhelpers train {name}")
            continue
        run = found[name]
        about = {"network": PLANS[name].title, "profile": profile.name, "run": run.folder.name, **run.facts}
        about |= {"best_step": run.info["best_step"], "best_score": run.info["best_score"], "minutes": run.minutes}
        contents.files[f"checkpoints/{name}.json"] = json.dumps(about, indent=1).encode()
        contents.files[f"checkpoints/{name}.safetensors"] = run.weights.read_bytes()


def _add_report(contents: Contents, folder: Path) -> None:
    words, pdf = folder / "report.md", folder / "report.pdf"
    for path in (pdf, folder / "report.html"):
        contents.add(path, "run labhelpers report")
    if not pdf.is_file():
        return
    gaps = unwritten(words)
    if gaps:
        contents.missing.append(f"your own words in {words}: {', '.join(gaps)}; write them, run labhelpers report")
    elif words.stat().st_mtime > pdf.stat().st_mtime:
        contents.missing.append(f"{words} is newer than report.pdf; run labhelpers report again")
