"""The last table of the course: every model of labs 02 to 07, its scores, its costs and what the course expects."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from labhelpers import config
from labhelpers.evaluation.expected import COURSE_MODELS, CourseModel, course_model, expected_table
from labhelpers.evaluation.protocol import Protocol
from labhelpers.evaluation.results import DASH, ResultsTable, Row, mean_iou_text, percent
from labhelpers.evaluation.sortable import Cell, sortable_html
from labhelpers.evaluation.table import Table


@dataclass(frozen=True)
class Section:
    """One of the sub-tables, for example the models that were measured under one protocol."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    caption: str

    def table(self) -> Table:
        """The same as plain text."""
        return Table(self.header, [[cell.text for cell in row] for row in self.rows], self.caption)


class FinalTable:
    """All results tables of a folder in one, each protocol with columns of its own.

    Scores under different protocols answer different questions, so a column never holds two of them: there is one
    sub-table a protocol, and sorting and `against_latency` stay inside it. Models of the course without any result are
    listed last, as not run.

    Args:
        folder: where the labs left `results-*.json`; None takes `config.checkpoints_root()`.

    Raises:
        ValueError: a file is no results table, or two files have the same model under the same protocol.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = Path(folder) if folder is not None else config.checkpoints_root()
        self.rows: dict[str, list[Row]] = {}
        """Key of a protocol -> its rows, in the order of the labs."""
        found: dict[tuple[str, str], Path] = {}
        for path in sorted(self.folder.glob("results-*.json")):
            for row in ResultsTable(path).rows:
                key = row.protocol.key
                if (key, row.name) in found:
                    raise ValueError(
                        f"{path} and {found[key, row.name]} both hold {row.name} under the same protocol. Move one of "
                        "the files away."
                    )
                found[key, row.name] = path
                self.rows.setdefault(key, []).append(row)
        for rows in self.rows.values():
            rows.sort(key=_place)
        self.rows = dict(sorted(self.rows.items(), key=lambda item: (_place(item[1][0]), item[0])))

    @property
    def protocols(self) -> dict[str, Protocol]:
        """Each protocol by its key."""
        return {key: rows[0].protocol for key, rows in self.rows.items()}

    @property
    def missing(self) -> list[CourseModel]:
        """The models of the course that have no result, neither themselves nor a variant."""
        run = {course_model(row.name) for rows in self.rows.values() for row in rows}
        return [model for model in COURSE_MODELS if model not in run]

    def sections(self) -> list[Section]:
        """One a protocol in the order of the labs, the models that have not been run, and the course's figures."""
        sections = [_section(rows) for rows in self.rows.values()]
        if self.missing:
            sections.append(_not_run(self.missing))
        expected = expected_table()
        rows = [[Cell(text, _first_number(text)) for text in row] for row in expected.rows]
        return [*sections, Section("What the course expects", list(expected.header), rows, expected.caption)]

    def against_latency(self, key: str | None = None) -> dict[str, Any]:
        """Mean IoU against inference time: keyword arguments of `plots.scatter`, for one protocol.

        Only rows whose time was measured at one size, on one device, in one precision are comparable: the most frequent
        combination is taken, and a printed sentence names the models that are left out.

        Args:
            key: of the protocol; None takes the one with most models.

        Raises:
            ValueError: an unknown key, or no row with both a score and a time.
        """
        if key is None and self.rows:
            key = max(self.rows, key=lambda key: len(self.rows[key]))
        if key not in self.rows:
            raise ValueError(f"there is no result under the protocol {key!r}; known: {', '.join(self.rows) or 'none'}.")
        rows = [row for row in self.rows[key] if row.mean_iou is not None and row.inference_ms and row.parameters]
        if not rows:
            raise ValueError(f"no model under {key} has a score, a time and a count of parameters: run a lab again.")
        (condition, _), *_ = Counter(map(_condition, rows)).most_common(1)
        chosen = [row for row in rows if _condition(row) == condition]
        if len(chosen) < len(self.rows[key]):
            others = ", ".join(row.name for row in self.rows[key] if row not in chosen)
            print(f"Not drawn, since not timed with {condition}: {others}.")
        x, y = [row.inference_ms for row in chosen], [100 * row.mean_iou for row in chosen]
        models = [course_model(row.name) for row in chosen]
        return {
            "x": x,
            "y": y,
            "names": [row.name for row in chosen],
            "sizes": [row.parameters / 1e6 for row in chosen],
            "groups": [f"lab {model.lab}" if model else "others" for model in models],
            "front": _front(x, y),
            "xlabel": f"inference (ms, log scale), {condition}",
            "ylabel": f"mean IoU (%), {self.protocols[key].dataset} {self.protocols[key].split}",
            "size_label": "million parameters",
            "log_x": True,
        }

    def to_markdown(self) -> str:
        """The sections in GitHub's Markdown, each under a heading."""
        return "\n".join(f"### {section.title}\n\n{section.table().to_markdown()}" for section in self.sections())

    def to_latex(self) -> str:
        """The sections as tabulars with plain rules, each with its text below: for wide pages, or small print."""
        return "\n".join(section.table().to_latex() for section in self.sections())

    def to_csv(self) -> str:
        """One line per model and protocol, every field of both, unrounded; then the models that have not been run.

        Columns that begin with `course_` hold what the course expects.
        """
        names = ["lab", *Row.__dataclass_fields__, "protocol_key", *Protocol.__dataclass_fields__]
        for name in ("protocol", "expected"):
            names.remove(name)
        names += ["course_mean_iou", "course_parameters_m", "course_inference_ms", "course_describes"]
        records = [
            {**asdict(row), **asdict(row.protocol), "protocol_key": key, **_course_fields(course_model(row.name))}
            for key, rows in self.rows.items()
            for row in rows
        ]
        records += [{"name": model.name, **_course_fields(model)} for model in self.missing]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def _repr_html_(self) -> str:
        return "".join(sortable_html(s.title, s.header, s.rows, s.caption) for s in self.sections())


def _section(rows: list[Row]) -> Section:
    protocol = rows[0].protocol
    conditions = sorted({_condition(row) for row in rows if _timed(row)})
    columns: dict[str, Callable[[Row], Cell]] = {
        "Model": lambda row: Cell(row.name),
        "Lab": lambda row: _lab(course_model(row.name)),
        "mIoU": lambda row: Cell(mean_iou_text(row), row.mean_iou),
        "Pixel accuracy": lambda row: Cell(percent(row.pixel_accuracy), row.pixel_accuracy),
        "Boundary IoU": lambda row: Cell(percent(row.boundary_iou), row.boundary_iou),
        "Parameters (M)": lambda row: _number(row.parameters, 1e6, 2),
    }
    for condition in conditions:  # times for images of two sizes do not share a column either
        where = f", {condition}" if len(conditions) > 1 else ""
        for name, field, unit, digits in _COSTS:
            columns[name + where] = partial(_cost, condition=condition, field=field, unit=unit, digits=digits)
    columns["Training (min)"] = lambda row: _number(row.protocol.minutes, 1, 1)
    models = [course_model(row.name) for row in rows]
    for name, field in _EXPECTED.items():
        if any(model and getattr(model, field) for model in models):
            columns[name] = partial(_expected, field=field)
    title = f"{protocol.dataset} {protocol.split}, {protocol.images} images"
    if protocol.prompts != "none":
        title += f", prompted with {protocol.prompts}"
    caption = f"{protocol}. Scores in percent, 95 % intervals over the choice of images."
    if len(conditions) == 1:
        caption += f" FLOPs, time and memory: {conditions[0]}."
    return Section(title, list(columns), [[cell(row) for cell in columns.values()] for row in rows], caption)


def _not_run(models: list[CourseModel]) -> Section:
    rows = [
        [Cell(model.name), _lab(model), Cell(DASH), *(_stated(model, field) for field in _EXPECTED.values())]
        for model in models
    ]
    below = "Run the notebook of the lab. In the tiny profile nothing is learned, so nothing is kept."
    return Section("Not run yet", ["Model", "Lab", "mIoU", *_EXPECTED], rows, below)


_COSTS = (("FLOPs (G)", "flops", 1e9, 1), ("Inference (ms)", "inference_ms", 1, 1), ("Memory (MB)", "memory_mb", 1, 0))
_EXPECTED = {
    "Course, VOC: mIoU": "mean_iou",
    "Course: parameters (M)": "parameters",
    "Course: inference (ms)": "inference_ms",
}


def _place(row: Row) -> int:
    model = course_model(row.name)
    return COURSE_MODELS.index(model) if model else len(COURSE_MODELS)


def _timed(row: Row) -> bool:
    return any(getattr(row, field) is not None for _, field, _, _ in _COSTS)


def _condition(row: Row) -> str:
    """Under what conditions a row's costs were measured."""
    size = f"one image of {row.cost_size} pixels" if row.cost_size else "one image of a size that was not noted"
    return f"{size} on {row.protocol.device_text}"


def _cost(row: Row, condition: str, field: str, unit: float, digits: int) -> Cell:
    return _number(getattr(row, field) if _condition(row) == condition else None, unit, digits)


def _expected(row: Row, field: str) -> Cell:
    return _stated(course_model(row.name), field)


def _stated(model: CourseModel | None, field: str) -> Cell:
    text = getattr(model, field) if model else ""
    return Cell(text or DASH, _first_number(text))


def _lab(model: CourseModel | None) -> Cell:
    return Cell(model.lab, float(model.lab)) if model else Cell(DASH)


def _number(value: float | None, unit: float, digits: int) -> Cell:
    return Cell(DASH) if value is None else Cell(f"{value / unit:,.{digits}f}", value)


def _first_number(text: str) -> float | None:
    """1050 for "1,050", 65 for "65 to 68"; None for a text that does not begin with a number."""
    found = re.match(r"\d[\d,]*(\.\d+)?", text)
    return float(found.group().replace(",", "")) if found else None


def _front(x: list[float], y: list[float]) -> list[int]:
    """The dots that no other one beats, from left to right: each is higher than all before it."""
    front: list[int] = []
    for index in sorted(range(len(x)), key=lambda i: (x[i], -y[i])):
        if not front or y[index] > y[front[-1]]:
            front.append(index)
    return front


def _course_fields(model: CourseModel | None) -> dict[str, str]:
    if model is None:
        return {}
    return {
        "lab": model.lab,
        "course_mean_iou": model.mean_iou,
        "course_parameters_m": model.parameters,
        "course_inference_ms": model.inference_ms,
        "course_describes": model.describes,
    }
