"""Whether answers are right, without trusting them: what each gives in the cases of its check is recorded in a sandbox,
comes back as plain numbers, and is compared with the reference out here. A process that only claims to be right gains
nothing.

With the answers runs what they need, and nothing else of a notebook.
"""

import ast
import base64
import copy
import json
import os
import secrets
import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import torch

from labhelpers.course import sandbox
from labhelpers.course.answers import ENDS, run_cell
from labhelpers.course.checks import EXERCISES, core, is_reference
from labhelpers.course.gathering import gather

SECONDS = core.CHECK_SECONDS  # what a check may take; after twice that without a word the process is stopped
START, END = "start", "end"  # steps beside the cells and the exercises
_WORKER = (
    "from labhelpers.course import sandbox; sandbox.enter(); from labhelpers.course.judging import work_on; work_on()"
)


def judge(notebook: nbformat.NotebookNode, name: str, hide: Sequence[Path] = ()) -> dict[str, str]:
    """Runs the answers of a notebook in a sandbox and grades its cells with hidden tests.

    Args:
        notebook: with the answers, and with the hidden tests.
        name: of its file; the first two characters say which lab it is.
        hide: folders that the answers must not see.

    Returns:
        For each of these cells, by its grade_id: "" for full points, else what is wrong.

    Raises:
        ValueError: such a cell tests nothing, or in a way that is not known; the message names it.
        RuntimeError: no process could be started.
    """
    asked: dict[str, tuple[str, str, str]] = {}  # step -> grade_id, exercise, name of the answer
    own: dict[str, str] = {}  # words for a cell -> grade_id, where the instructor's own statements test
    without, with_own = copy.deepcopy(notebook), copy.deepcopy(notebook)
    number = 0
    for cell, same in zip(without.cells, with_own.cells, strict=True):
        number += cell.cell_type == "code"
        about = cell.metadata.get("nbgrader", {})
        if cell.cell_type != "code" or not about.get("grade"):
            continue
        calls, others = find_tests(cell.source, f"{name}, cell {about['grade_id']}")
        asked |= {f"{about['grade_id']} {exercise}": (about["grade_id"], exercise, a) for exercise, a in calls}
        cell.source = ""
        if others:
            own[f"{name}, code cell {number}"] = about["grade_id"]
            same.metadata.nbgrader.solution = True  # so that it runs, in its place, with all that it reads
    outcome = _run(name, without, asked, hide) if asked else {}
    graded: dict[str, str] = {}
    for step, (cell, _, _) in asked.items():
        graded[cell] = graded.get(cell) or outcome[step]
    if own:  # in a process of which nothing comes back but whether they pass, for it can read them
        outcome = _run(name, with_own, {}, hide)
        for where, cell in own.items():
            graded[cell] = graded.get(cell) or (outcome.get(where, ENDS) and "a hidden test fails.")
    return graded


def _run(name: str, notebook: nbformat.NotebookNode, asked: dict[str, tuple], hide: Sequence[Path]) -> dict[str, str]:
    """What came of each cell that was run, by the words for it, and of each step in `asked`."""
    outcome: dict[str, str] = {}
    job = {"name": name, "notebook": nbformat.writes(notebook), "asked": asked, "seconds": SECONDS, "skip": []}
    ended = _attempt(job, outcome, hide)
    while ended and ended != START:  # without what ended it, for the sake of the others
        job["skip"].append(ended)
        ended = _attempt(job, outcome, hide)
    return dict.fromkeys(asked, outcome.get(START, ENDS)) | outcome


def find_tests(source: str, where: str) -> tuple[list[tuple[str, str]], bool]:
    """The exercises that a graded cell asks for, with the names of their answers, and whether it does more.

    Raises:
        ValueError: it tests nothing, or asks in a way that is not known; the message begins with `where`.
    """
    calls = []
    statements = ast.parse(source).body
    for statement in statements:
        match statement:
            case ast.Expr(
                ast.Call(ast.Attribute(ast.Name("checks"), "grade"), [ast.Constant(str(exercise)), ast.Name(answer)])
            ):
                if exercise not in EXERCISES:
                    raise ValueError(
                        f"{where} asks for an unknown exercise {exercise!r}; known: {', '.join(EXERCISES)}"
                    )
                calls.append((exercise, answer))
            case ast.Expr(ast.Call(ast.Attribute(ast.Name("checks"), _))):
                raise ValueError(f'{where}: write checks.grade("exercise", answer), each a name')
    if not statements:
        raise ValueError(f"{where} tests nothing, so that everybody would get its points: write a hidden test")
    return calls, len(calls) < len(statements)


def _attempt(job: Mapping[str, Any], outcome: dict[str, str], hide: Sequence[Path]) -> str:
    """Runs what has no outcome yet and adds what came of it; the step that ended the process, "" if none did."""
    nonce = secrets.token_hex(16)
    told = json.dumps({**job, "nonce": nonce, "known": outcome}).encode()
    output, stopped = sandbox.run(_WORKER, told, 2 * SECONDS, hide)
    begun, done = START, set()
    for line in output.splitlines():
        try:
            key, step, *rest = json.loads(line)
            if key != nonce or not isinstance(step, str) or len(rest) not in (0, 2):
                raise ValueError
        except (ValueError, TypeError, RecursionError):
            continue  # not from us: whatever it is, it is no result
        if step == END:
            return ""
        if not rest:
            begun = step
            continue
        hint, recording = rest
        if step in done:
            hint = "its result was written twice: somebody tampered with the grading."
        elif not hint and step in job["asked"]:
            hint = _confirm(EXERCISES[job["asked"][step][1]], recording)
        done.add(step)
        outcome[step] = str(hint)
    if begun in done or begun in job["skip"]:  # it ended where nothing was being run: no more attempts
        begun = START
    outcome[begun] = stopped or ENDS
    return begun


def work_on() -> None:
    """In the sandbox: runs the cells that the answers need, then records what each answer gives."""
    job = json.load(sys.stdin)
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)

    def say(*words: object) -> None:
        results.write(json.dumps([job["nonce"], *words]) + "\n")
        results.flush()

    say(START)
    path, known = Path(job["name"]), job["known"]
    path.write_text(job["notebook"], encoding="utf-8")
    core.CHECK_SECONDS = job["seconds"]
    sandbox.limit(job["seconds"])
    notebook = gather(path)
    space = sys.modules["notebook"] = types.ModuleType("notebook")  # dataclasses look their module up
    failed: dict[str, str] = {}
    for where, pieces in notebook.cells.items():
        if where not in job["skip"]:
            say(where)
            known[where] = run_cell(where, notebook.code(where), vars(space))
            say(where, known[where], None)
        failed |= {name: known[where] for piece in pieces for name in piece.binds if known[where]}
    for step, (_, title, name) in job["asked"].items():
        exercise = EXERCISES[title]
        if step not in known:
            say(step)
            if name in vars(space):
                known[step], recording = _record(exercise, vars(space)[name])
            else:
                missing = notebook.broken.get(name) or failed.get(name) or f"no cell defines {name}."
                known[step], recording = missing, None
            say(step, known[step], recording)
        if known[step]:  # as in the notebook, so that those that build on it can still be right
            setattr(space, name, exercise.reference)
    say(END)


def _record(exercise: core.Exercise, answer: Any) -> tuple[str, list | None]:
    """What is wrong with an answer; if nothing is, what it gave in each case."""
    if is_reference(answer):
        return "this is the library's answer, not one of your own.", None
    recording = []

    def run(check: core.Check, given: Any, case: core.Case) -> Any:
        value = exercise.run(check, given, case)
        if given is answer:
            recording.append(_plain(value))
        return value

    try:
        hint = replace(exercise, run=run).judge(answer)[1]
    except BaseException as error:
        hint = f"{type(error).__name__}: {ENDS}"
    return hint, None if hint else recording


def _confirm(exercise: core.Exercise, recording: Any) -> str:
    """Compares what was recorded with the reference: "" or what is wrong."""

    def replay() -> None:
        """In the place of the answer."""

    def run(check: core.Check, given: Any, case: core.Case) -> Any:
        return _value(next(values)) if given is replay else exercise.run(check, given, case)

    values = iter(recording if isinstance(recording, list) else ())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as there: a sum in another order is another number, and small batch norms enlarge that
    try:
        return replace(exercise, run=run, inspect=None).judge(replay)[1]
    finally:
        torch.set_num_threads(threads)


def _plain(value: Any) -> Any:
    """A value as JSON: a number, a text, or a list that begins with what it is."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        return ["tensor", str(value.dtype).removeprefix("torch."), list(value.shape), base64.b64encode(data).decode()]
    if isinstance(value, np.ndarray | np.generic):
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return [kind, value.dtype.str, list(value.shape), data] if value.dtype.kind in "biufc" else ["other", "object"]
    if isinstance(value, int | float):
        return float(value) if isinstance(value, float) else ["int", hex(value)]
    if isinstance(value, dict):
        return [
            "Parts" if isinstance(value, core.Parts) else "dict",
            [[_plain(key), _plain(item)] for key, item in value.items()],
        ]
    if isinstance(value, list | tuple):
        return ["list" if isinstance(value, list) else "tuple", [_plain(item) for item in value]]
    return ["other", type(value).__name__]


def _value(plain: Any) -> Any:
    """What `_plain` was given. Whatever else it is given raises an error, and runs nothing."""
    match plain:
        case ["tensor", str(name), list(shape), str(data)]:
            dtype, stored = getattr(torch, name), bytearray(base64.b64decode(data))
            return (torch.frombuffer(stored, dtype=dtype) if stored else torch.zeros(0, dtype=dtype)).reshape(shape)
        case ["array" | "scalar" as kind, str(name), list(shape), str(data)]:
            array = np.frombuffer(base64.b64decode(data), np.dtype(name)).reshape(shape)
            return array.copy() if kind == "array" else array[()]
        case ["int", str(digits)]:
            return int(digits, 16)
        case ["list", list(items)]:
            return [_value(item) for item in items]
        case ["tuple", list(items)]:
            return tuple(_value(item) for item in items)
        case ["dict" | "Parts" as kind, list(items)]:
            return (core.Parts if kind == "Parts" else dict)((_value(key), _value(item)) for key, item in items)
        case [_, *_]:
            return type(str(plain[1]), (), {})()
    return plain
