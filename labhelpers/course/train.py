"""Training by name: `labhelpers train fcn8s`, and the scripts that a submission holds."""

import argparse
import os
from collections.abc import Sequence

from labhelpers import config
from labhelpers.course.finished import FinishedRun, find_run, require_run
from labhelpers.course.plans import Plan, find_plan
from labhelpers.course.setup import begin
from labhelpers.training import train_or_load


def train(plan: Plan, profile: config.Profile) -> FinishedRun:
    """Finds a finished training of the plan, or trains the library's network; prints which."""
    task = plan.task(profile)
    found = find_run(plan, task, profile)
    if found is not None:
        score = f"{task.recipe.best_metric} {found.info['best_score']:.3f} at step {found.info['best_step']}"
        print(f"{plan.run}: found, {found}: {score}")
        return found
    train_or_load(plan.run, plan.new_model(profile, task), task.train_set, task.val_set, task.recipe)
    return require_run(plan, task, profile)


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
    plans = [find_plan(name) for name in options.names or names]
    profile = begin(plans[0].lab)
    for plan in plans:
        train(plan, profile)
    return 0
