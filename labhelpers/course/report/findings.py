"""What there is to report, and what its numbers say in sentences: no more than they support."""

from collections.abc import Iterator
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
    if profile.name == "tiny":
        raise ValueError("nothing is learned in the profile tiny, so there is no result to report: use --profile smoke")
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
    texts += [*_fcn(results), *_decoder(results), *_expected(results), *_gaps(results)]
    return [Paragraph(text, "item") for text in texts]


def suggest(results: Results) -> list[Paragraph]:
    """Improvements that the logs themselves ask for."""
    rising = [experiment.plan.title for experiment, run in results.trained if _still_rising(run)]
    if not rising:
        return []
    verb = "were" if len(rising) > 1 else "was"
    text = f"{_listed(rising)} {verb} best at the last evaluation: a longer training may raise the score."
    return [Paragraph(text, "item")]


def _best(rows: list[Row]) -> Iterator[str]:
    ranked = sorted((row for row in rows if row.mean_iou is not None), key=lambda row: -row.mean_iou)
    if len(ranked) < 2:
        return
    first, second = ranked[:2]
    where = f"{first.protocol.dataset} {first.protocol.split}, {first.protocol.images} images"
    points = 100 * (first.mean_iou - second.mean_iou)
    text = (
        f"On {where}, {first.name} has the highest mean IoU, {_percent(first.mean_iou)}, {points:.1f} points above "
        f"{second.name} with {_percent(second.mean_iou)}."
    )
    if None not in (first.mean_iou_low, second.mean_iou_high):
        if first.mean_iou_low > second.mean_iou_high:
            text += " Their 95 % intervals do not overlap."
        else:
            text += (
                " Their 95 % intervals overlap: two separate intervals do not settle which is better; the paired "
                "comparison in the notebook is finer."
            )
    if first.protocol.images < FEW_IMAGES:
        text += f" {first.protocol.images} images are few: take it as a hint."
    yield text
    timed = [row for row in ranked if row.inference_ms and row.protocol.device == first.protocol.device]
    fastest = min(timed, key=lambda row: row.inference_ms, default=None)
    if fastest is not None and first in timed and fastest is not first:
        yield (
            f"Of these {fastest.name} is the fastest ({fastest.inference_ms:.0f} ms for an image on "
            f"{fastest.protocol.device}); {first.name} takes {first.inference_ms / fastest.inference_ms:.1f} times as "
            f"long, for {100 * (first.mean_iou - fastest.mean_iou):.1f} more points."
        )


def _fcn(results: Results) -> Iterator[str]:
    rows = _rows(results, ("FCN-32s", "FCN-16s", "FCN-8s"))
    if rows:
        values = [row.mean_iou for row in rows]
        words = "Each skip raises" if values == sorted(values) else "Not every skip raises"
        text = f"{words} the mean IoU from FCN-32s to FCN-16s to FCN-8s: {', '.join(map(_percent, values))}"
        yield text + _band(rows)


def _decoder(results: Results) -> Iterator[str]:
    rows = _rows(results, ("DeepLabV3", "DeepLabV3+"))
    if rows:
        points = 100 * (rows[1].mean_iou - rows[0].mean_iou)
        yield f"The decoder of DeepLabV3+ changes the mean IoU of DeepLabV3 by {points:+.1f} points" + _band(rows)


def _rows(results: Results, titles: tuple[str, ...]) -> list[Row]:
    """The rows of these networks; none unless all are there and can be compared."""
    rows = [row for row in map(results.row, titles) if row is not None and row.mean_iou is not None]
    alike = not any(row.protocol.differences(rows[0].protocol) for row in rows)
    return rows if alike and len(rows) == len(titles) else []


def _band(rows: list[Row]) -> str:
    values = [row.band_foreground_iou for row in rows]
    if None in values:
        return "."
    return f"; the foreground IoU within {BAND} pixels of true edges: {', '.join(map(_percent, values))}."


def _expected(results: Results) -> Iterator[str]:
    rows = [row for rows in results.tables for row in rows if row.expected]
    others = sorted({row.protocol.dataset for row in rows} - {"VOC2012"})
    if others:
        yield (
            "The course's values are for PASCAL VOC 2012 and encoders with ImageNet weights. The scores here are on "
            f"{_listed(others)}, so the two columns cannot be compared."
        )


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


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
