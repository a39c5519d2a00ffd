"""What the numbers say, in sentences: no more than they support, and nothing that is not on the disk."""

from collections.abc import Iterator

from labhelpers.course.report.document import Paragraph
from labhelpers.course.report.gather import Results, Trained
from labhelpers.evaluation.results import BAND, Row

FEW_IMAGES = 30
FCN = ("FCN-32s", "FCN-16s", "FCN-8s")


def discuss(results: Results) -> list[Paragraph]:
    """Best against second best under each protocol, skips, the decoder, and how the course's values are to be read."""
    texts = [text for rows in results.tables for text in _best(rows)]
    texts += [*_fcn(results), *_decoder(results), *_expected(results), *_gaps(results.trained)]
    return [Paragraph(text, "item") for text in texts]


def suggest(results: Results) -> list[Paragraph]:
    """Improvements that the logs themselves ask for."""
    rising = [t.plan.title for t in results.trained if _still_rising(t)]
    if not rising:
        return []
    names = _listed(rising)
    verb = "were" if len(rising) > 1 else "was"
    return [Paragraph(f"{names} {verb} best at the last evaluation: a longer training may raise the score.", "item")]


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
    rows = [results.row(title) for title in FCN]
    if all(row is not None and row.mean_iou is not None for row in rows) and _comparable(rows):
        values = [row.mean_iou for row in rows]
        words = "Each skip raises" if values == sorted(values) else "Not every skip raises"
        text = f"{words} the mean IoU from FCN-32s to FCN-16s to FCN-8s: {', '.join(map(_percent, values))}"
        yield text + _band(rows)


def _decoder(results: Results) -> Iterator[str]:
    rows = [results.row(title) for title in ("DeepLabV3", "DeepLabV3+")]
    if all(row is not None and row.mean_iou is not None for row in rows) and _comparable(rows):
        points = 100 * (rows[1].mean_iou - rows[0].mean_iou)
        yield f"The decoder of DeepLabV3+ changes the mean IoU of DeepLabV3 by {points:+.1f} points" + _band(rows)


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


def _gaps(trained: list[Trained]) -> Iterator[str]:
    for one in trained:
        last = (one.run.history.evaluations or [{}])[-1]
        if "train_mean_iou" in last:
            gap = 100 * (last["train_mean_iou"] - last["mean_iou"])
            yield (
                f"{one.plan.title} ends its training with a mean IoU of {_percent(last['train_mean_iou'])} on training "
                f"and {_percent(last['mean_iou'])} on validation images: a gap of {gap:+.1f} points."
            )


def _still_rising(one: Trained) -> bool:
    scored = one.run.history.evaluations
    return len(scored) > 1 and scored[-1]["step"] == one.run.info["best_step"]


def _comparable(rows: list[Row]) -> bool:
    return not any(row.protocol.differences(rows[0].protocol) for row in rows)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
