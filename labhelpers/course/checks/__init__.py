"""Checks of the exercises: `FCN8s = checks.fcn8s(FCN8s)`.

A right answer is handed back, with one line that says so. A wrong one gives a hint that names the likely mistake, and
the library's answer is handed back instead, so that the notebook goes on. Graded cells call `grade`: it raises.
"""

from labhelpers.course.checks import lab01, lab02, lab03, lab04, lab05, lab06, lab07, lab08
from labhelpers.course.checks.core import EXERCISES, Exercise, grade, is_reference

_LABS = (lab01, lab02, lab03, lab04, lab05, lab06, lab07, lab08)

BY_LAB: dict[str, dict[str, Exercise]] = {
    lab.__name__[-2:]: {item.title: item for item in vars(lab).values() if isinstance(item, Exercise)} for lab in _LABS
}
"""The exercises of each lab, by what the notebook calls them: BY_LAB["02"]["FCN8s"]."""

EXERCISES.update({name: item for lab in _LABS for name, item in vars(lab).items() if isinstance(item, Exercise)})
globals().update(EXERCISES)  # `checks.fcn8s` for each
__all__ = ["grade", "is_reference", *EXERCISES]
