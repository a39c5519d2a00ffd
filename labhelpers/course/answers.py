"""What became of each exercise: its answer is run and checked, in a process of its own that can be stopped."""

import __future__

import linecache
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

from labhelpers.course.checks import BY_LAB, core, is_reference

GRACE = 10.0  # seconds in which a check that is over its limit should have said so itself
STARTED = "started"
ENDS = "it ends Python itself, with exit() or a crash: take out what does"

# Where it can be, the library is imported once, and each process begins as a copy of that.
_METHODS = multiprocessing.get_all_start_methods()
_PROCESSES = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")
_PROCESSES.set_forkserver_preload([__name__, "torchvision"])


def examine(code: Mapping[str, str], lab: str = "", seconds: float = core.CHECK_SECONDS) -> dict[str, str | None]:
    """Runs cells one after the other, then checks each exercise of a lab.

    As in the notebook, the reference takes the place of an answer that is not right, for those that build on it.

    Args:
        code: the cells, each by the words that say where it stands.
        lab: whose exercises, "02"; none by default.
        seconds: the most that a cell or a check may take.

    Returns:
        For each cell, by its words, and for each exercise, by its name: "" if all is right, else what is wrong; None
        for an exercise that the cells do not define.
    """
    exercises = BY_LAB.get(lab, {})
    outcome: dict[str, str | None] = {}
    stopped: set[str] = set()
    while pending := [step for step in (*code, *exercises) if step not in outcome]:
        here, there = _PROCESSES.Pipe()
        rest = {where: text for where, text in code.items() if where not in stopped}
        process = _PROCESSES.Process(target=_work, args=(there, rest, lab, outcome, seconds))
        process.start()
        there.close()
        step = STARTED
        try:
            here.recv()
            for step in [*rest, *(step for step in pending if step in exercises)]:
                if not here.poll(seconds + GRACE):
                    outcome[step] = f"it was stopped after {seconds:g} seconds, the limit: does a loop never end?"
                    stopped.add(step)
                    break
                outcome[step] = here.recv()
        except EOFError:
            if step == STARTED:
                raise RuntimeError("no process could be started to check the exercises: is memory left?") from None
            outcome[step] = ENDS
            stopped.add(step)
        finally:
            process.kill()
            process.join()
            here.close()
    return outcome


def _work(pipe: Connection, code: Mapping[str, str], lab: str, known: dict[str, str | None], seconds: float) -> None:
    """Runs the cells, then the checks whose outcome is not known yet, and sends what came of each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked, which stops this one
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    core.CHECK_SECONDS = seconds
    space = sys.modules["notebook"] = types.ModuleType("notebook")  # dataclasses look their module up
    pipe.send(STARTED)
    for outcome in outcomes(code, lab, known, vars(space)):
        pipe.send(outcome)


def outcomes(
    code: Mapping[str, str], lab: str, known: Mapping[str, str | None], space: dict[str, Any]
) -> Iterator[str | None]:
    """The outcome of each cell, then of each exercise that has none yet; all run in the namespace `space`."""
    for where, text in code.items():
        yield run_cell(where, text, space)
    for title, exercise in BY_LAB.get(lab, {}).items():
        outcome = known[title] if title in known else _judge(exercise, space[title]) if title in space else None
        if title not in known:
            yield outcome
        if outcome != "":
            space[title] = exercise.reference


def run_cell(where: str, text: str, space: dict) -> str:
    """What goes wrong when a cell is run in `space`, "" if nothing does."""
    linecache.cache[where] = (len(text), None, text.splitlines(keepends=True), where)  # for hints that quote a line
    future = isinstance(space.get("annotations"), type(__future__.annotations)) and __future__.annotations.compiler_flag
    try:
        exec(compile(text, where, "exec", int(future), dont_inherit=True), space)
    except Exception as error:
        return core.exception_hint(error, "", {})
    except BaseException as error:
        return f"{type(error).__name__}: {ENDS}"
    return ""


def _judge(exercise: core.Exercise, answer: object) -> str:
    if is_reference(answer):
        return "this is the library's answer, not one of your own."
    try:
        return exercise.judge(answer)[1]
    except BaseException as error:  # the others are hints already
        return f"{type(error).__name__}: {ENDS}"
