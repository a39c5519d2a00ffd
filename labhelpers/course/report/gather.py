"""What there is to report: finished runs and results tables on the disk."""

from dataclasses import dataclass

from labhelpers import config
from labhelpers.course.finished import FinishedRun, find_all
from labhelpers.course.plans import Plan, Task
from labhelpers.evaluation import ResultsTable, count_parameters
from labhelpers.evaluation.results import Row


@dataclass(frozen=True)
class Trained:
    """A network of the course, its training, and its number of parameters."""

    plan: Plan
    task: Task
    run: FinishedRun
    parameters: int


@dataclass(frozen=True)
class Results:
    """All that a report is made of."""

    profile: config.Profile
    trained: list[Trained]  # in the order of the labs
    tables: list[list[Row]]  # one for each protocol, without empty ones

    def row(self, title: str) -> Row | None:
        """The row of that name, of whichever table."""
        return next((row for rows in self.tables for row in rows if row.name == title), None)


def gather(profile: config.Profile) -> Results:
    """The finished runs of this profile, and every results table.

    Raises:
        ValueError: the profile learns nothing. FileNotFoundError: nothing has been trained yet.
    """
    if profile.name == "tiny":
        raise ValueError("nothing is learned in the profile tiny, so there is no result to report: use --profile smoke")
    trained = [
        Trained(plan, task, run, count_parameters(plan.new_model(profile, task, to_train=False)))
        for plan, task, run in find_all(profile)
    ]
    paths = sorted(config.checkpoints_root().glob("results-*.json"))
    tables = [rows for rows in (ResultsTable(path).rows for path in paths) if rows]
    if not trained:
        raise FileNotFoundError(
            f"no finished training of the profile {profile.name} in {config.checkpoints_root()}, so there is nothing "
            "to report. Run: labhelpers train fcn8s, and labhelpers evaluate fcn8s; or a notebook from 02 on"
        )
    return Results(profile, trained, tables)
