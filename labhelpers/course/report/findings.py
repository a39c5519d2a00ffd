"""What there is to report, and what its numbers say in sentences: no more than they support."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from labhelpers import config
from labhelpers.course.plans import Experiment, FinishedRun, find_all
from labhelpers.course.report.document import Paragraph
from labhelpers.evaluation import ResultsTable
from labhelpers.evaluation.results import BAND, Row

FEW_IMAGES = 30


@dataclass(frozen=True)
class Results:
    """All that a report is made of."""

    profile: config.Profile
    trained: list[tuple[Experiment, FinishedRun]]  # in the order of the labs
    tables: list[list[Row]]  # one for each protocol, without empty ones

    def row(self, title: str) -> Row | None:
        """The row of that name, of whichever table."""
        return next((row for rows in self.tables for row in rows if row.name == title), None)


def gather(profile: config.Profile) -> Results:
    """The finished runs of this profile, and every results table.

    Raises:
        ValueError: the profile learns nothing. FileNotFoundError: nothing has been trained yet.
    """
    if not profile.learns:
        why = f"with LAB_STEPS={profile.cut}" if profile.cut else "in the profile tiny"
        raise ValueError(
            f"nothing is learned {why}, so there is no result to report: use --profile smoke, without LAB_STEPS"
        )
    trained = find_all(profile)
    paths = sorted(config.checkpoints_root().glob("results-*.json"))
    tables = [rows for rows in (ResultsTable(path).rows for path in paths) if rows]
    if not trained:
        raise FileNotFoundError(
            f"no finished training of the profile {profile.name} in {config.checkpoints_root()}, so there is nothing "
            "to report. Run: labhelpers train fcn8s, and labhelpers evaluate fcn8s; or a notebook from 02 on"
        )
    return Results(profile, trained, tables)


def discuss(results: Results) -> list[Paragraph]:
    """Best against second best under each protocol, skips, the decoder, and how the course's values are to be read."""
    texts = [text for rows in results.tables for text in _best(rows)]
    texts += [*_fcn(results), *_decoder(results), *_gaps(results)]
    return [Paragraph(text, "item") for text in texts]


def suggest(results: Results) -> list[Paragraph]:
    """Improvements that the logs themselves ask for."""
    rising = [experiment.plan.title for experiment, run in results.trained if _still_rising(run)]
    if not rising:
        return []
    verb = "were" if len(rising) > 1 else "was"
    text = f"{listed(rising)} {verb} best at the last evaluation: a longer training may raise the score."
    return [Paragraph(text, "item")]


def _best(rows: list[Row]) -> Iterator[str]:
    ranked = sorted(_scored(rows), key=lambda scored: -scored[0])
    if len(ranked) < 2:
        return
    (best, first), (next_best, second) = ranked[:2]
    protocol = first.protocol
    text = (
        f"On {protocol.dataset} {protocol.split}, {protocol.images} images, {first.name} has the highest mean IoU, "
        f"{_percent(best)}, {100 * (best - next_best):.1f} points above {second.name} with {_percent(next_best)}."
    )
    low, high = first.mean_iou_low, second.mean_iou_high
    if low is not None and high is not None:
        if low > high:
            text += " Their 95 % intervals do not overlap."
        else:
            text += (
                " Their 95 % intervals overlap: two separate intervals do not settle which is better; the paired "
                "comparison in the notebook is finer."
            )
    if protocol.images < FEW_IMAGES:
        text += f" {protocol.images} images are few: take it as a hint."
    yield text
    timed = [(row.inference_ms, iou, row) for iou, row in ranked if row.inference_ms]
    timed = [item for item in timed if item[2].protocol.device == protocol.device]
    if timed and first.inference_ms:
        ms, iou, fastest = min(timed, key=lambda item: item[0])
        if fastest is not first:
            yield (
                f"Of these {fastest.name} is the fastest ({ms:.0f} ms for an image on {protocol.device}); {first.name} "
                f"takes {first.inference_ms / ms:.1f} times as long, for {100 * (best - iou):.1f} more points."
            )


def _scored(rows: Iterable[Row | None]) -> list[tuple[float, Row]]:
    """Mean IoU and row of those that have one."""
    return [(row.mean_iou, row) for row in rows if row is not None and row.mean_iou is not None]


def _fcn(results: Results) -> Iterator[str]:
    found = _alike(results, ("FCN-32s", "FCN-16s", "FCN-8s"))
    if found:
        values = [iou for iou, _ in found]
        words = "Each skip raises" if values == sorted(values) else "Not every skip raises"
        text = f"{words} the mean IoU from FCN-32s to FCN-16s to FCN-8s: {', '.join(map(_percent, values))}"
        yield text + _band(found)


def _decoder(results: Results) -> Iterator[str]:
    found = _alike(results, ("DeepLabV3", "DeepLabV3+"))
    if found:
        points = 100 * (found[1][0] - found[0][0])
        yield f"The decoder of DeepLabV3+ changes the mean IoU of DeepLabV3 by {points:+.1f} points" + _band(found)


def _alike(results: Results, titles: tuple[str, ...]) -> list[tuple[float, Row]]:
    """Mean IoU and row of these networks; none unless all are there and can be compared."""
    found = _scored(map(results.row, titles))
    alike = not any(row.protocol.differences(found[0][1].protocol) for _, row in found)
    return found if alike and len(found) == len(titles) else []


def _band(found: list[tuple[float, Row]]) -> str:
    values = [row.band_foreground_iou for _, row in found if row.band_foreground_iou is not None]
    if len(values) < len(found):
        return "."
    return f"; the foreground IoU within {BAND} pixels of true edges: {', '.join(map(_percent, values))}."


def _gaps(results: Results) -> Iterator[str]:
    for experiment, run in results.trained:
        last = (run.history.evaluations or [{}])[-1]
        if "train_mean_iou" in last:
            gap = 100 * (last["train_mean_iou"] - last["mean_iou"])
            yield (
                f"{experiment.plan.title} ends its training with a mean IoU of {_percent(last['train_mean_iou'])} on "
                f"training and {_percent(last['mean_iou'])} on validation images: a gap of {gap:+.1f} points."
            )


def _still_rising(run: FinishedRun) -> bool:
    scored = run.history.evaluations
    return len(scored) > 1 and scored[-1]["step"] == run.info["best_step"]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def listed(names: list[str]) -> str:
    """The names as a phrase: "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
