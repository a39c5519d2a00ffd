"""The ZIP that the course asks for: what belongs into it, what of that is missing, and the file."""

import io
import json
import re
import unicodedata
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from labhelpers import config
from labhelpers.course import gathering, scripts
from labhelpers.course.demo import NOTEBOOK, find_notebooks
from labhelpers.course.finished import find_all
from labhelpers.course.plans import PLANS
from labhelpers.course.report import own_words
from labhelpers.files import write_atomic

LABS = tuple(f"{number:02d}" for number in range(1, 8))
REQUIRED = ("fcn8s", "deeplabv3plus", "mini_sam")
"""Networks whose weights and logs must be handed in; the logs of the others come along if they are there."""

SCRIPTS = ("train_fcn.py", "train_deeplab.py", "train_minisam.py")
STUDENT = "lab05_student.py"


@dataclass
class Contents:
    """What the ZIP will hold: name -> bytes, and what is missing, each with its remedy."""

    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"ok  {name:44} {len(data) / 1e3:10,.1f} kB" for name, data in self.files.items()]
        return "\n".join([*lines, *(f"!!  {problem}" for problem in self.missing)])


def collect(notebooks: Path | None, report: Path, profile: config.Profile) -> Contents:
    """Looks for everything that belongs into the submission.

    Args:
        notebooks: folder of the student's notebooks; None looks for `notebooks`.
        report: folder of `report.pdf`, `report.html` and `report.md`.
        profile: whose runs are handed in.

    Raises:
        FileNotFoundError: there is no folder of notebooks.
    """
    contents = Contents()
    _add_notebooks(contents, find_notebooks(notebooks))
    for name in SCRIPTS:
        contents.files[name] = (Path(scripts.__file__).parent / name).read_bytes()
    _add_runs(contents, profile)
    _add_report(contents, report)
    return contents


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
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.zip"
    write_atomic(path, buffer.getvalue())
    return path


def ascii_name(name: str) -> str:
    """A name as a part of a file name: lower case, without accents, other characters as hyphens: "nguyen-van".

    Raises:
        ValueError: nothing is left of it.
    """
    plain = name.lower().translate(str.maketrans({"đ": "d", "ø": "o", "ł": "l", "ß": "ss", "æ": "ae", "œ": "oe"}))
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if not plain:
        raise ValueError(f"the name {name!r} has no letter from a to z: write it in Latin letters")
    return plain


def _add_notebooks(contents: Contents, folder: Path) -> None:
    found = []
    for lab in LABS:
        paths = sorted(folder.glob(f"{lab}_*.ipynb"))
        found += paths[:1]
        if not paths:
            contents.missing.append(f"notebook {lab}_*.ipynb: not in {folder}; put it there, or give --notebooks")
        if len(paths) > 1:
            contents.missing.append(f"notebook {lab}: {', '.join(p.name for p in paths)}: keep the one to hand in")
    demo = folder / NOTEBOOK
    if demo.is_file():
        contents.files[NOTEBOOK] = demo.read_bytes()
    else:
        contents.missing.append(f"{NOTEBOOK}: not in {folder}; git checkout it again")
    student = gathering.gather(found)
    contents.files[STUDENT] = student.source.encode()
    contents.missing += student.problems
    contents.files |= {f"notebooks/{path.name}": path.read_bytes() for path in found}


def _add_runs(contents: Contents, profile: config.Profile) -> None:
    found = {plan.name: (plan, run) for plan, _, run in find_all(profile)}
    for plan, run in found.values():
        contents.files[f"logs/{plan.name}.csv"] = (run.folder / "log.csv").read_bytes()
    for name in REQUIRED:
        if name not in found:
            where = f"not trained in the profile {profile.name}"
            contents.missing.append(f"weights of {PLANS[name].title}: {where}; run labhelpers train {name}")
            continue
        plan, run = found[name]
        about = {"network": plan.title, "profile": profile.name, "run": run.folder.name, **run.facts}
        about |= {"best_step": run.info["best_step"], "best_score": run.info["best_score"], "minutes": run.minutes}
        contents.files[f"checkpoints/{name}.json"] = json.dumps(about, indent=1).encode()
        contents.files[f"checkpoints/{name}.safetensors"] = run.weights.read_bytes()


def _add_report(contents: Contents, folder: Path) -> None:
    words, pdf = folder / "report.md", folder / "report.pdf"
    for name in ("report.pdf", "report.html"):
        if (folder / name).is_file():
            contents.files[name] = (folder / name).read_bytes()
        else:
            contents.missing.append(f"{name}: not in {folder}; run labhelpers report")
    if not pdf.is_file():
        return
    unwritten = own_words.unwritten(words)
    if unwritten:
        contents.missing.append(f"your own words in {words}: {', '.join(unwritten)}; write them, run labhelpers report")
    elif words.stat().st_mtime > pdf.stat().st_mtime:
        contents.missing.append(f"{words} is newer than report.pdf; run labhelpers report again")
