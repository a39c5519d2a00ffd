"""How we teach: the setup cell, the checks with hints, the notebook runner."""

from labhelpers.course.setup import begin, setup

__all__ = ["begin", "setup"]
