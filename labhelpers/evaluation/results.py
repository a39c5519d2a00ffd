"""The table that grows from lab 02 to lab 07, and refuses rows that cannot be compared."""

import csv
import html
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from labhelpers import config
from labhelpers.evaluation.evaluator import Evaluation, Protocol
from labhelpers.evaluation.intervals import bootstrap
from labhelpers.files import write_atomic

# A plain table of text, in the formats that notebooks, reports and spreadsheets read.


@dataclass(frozen=True)
class Table:
    """A header, rows of text, and what is to be said below them. A notebook shows it when it ends a cell.

    The first column names the row and is set left, the others hold numbers and are set right.

    Raises:
        ValueError: the header is empty, or a row has more or fewer cells than it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __post_init__(self):
        if not self.header:
            raise ValueError("a Table needs at least one column: give the header")
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"a row has {len(row)} cells, the header {len(self.header)}: {list(row)} under {list(self.header)}"
                )

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, and the caption below."""
        cells = [[cell.replace("|", "\\|") for cell in line] for line in (self.header, *self.rows)]
        rule = ["---"] + ["---:"] * (len(self.header) - 1)
        table = "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))
        return f"{table}\n\n{self.caption}\n" if self.caption else f"{table}\n"

    def to_csv(self) -> str:
        """Header and rows, comma-separated; the caption is left out."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue()

    def to_latex(self) -> str:
        """A tabular with plain rules, for a report; the caption follows as text."""
        head, *body = [" & ".join(_latex(cell) for cell in line) + r" \\" for line in (self.header, *self.rows)]
        columns = "l" + "r" * (len(self.header) - 1)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", head, r"\hline", *body, r"\hline", r"\end{tabular}"]
        return "\n".join([*lines, "", _latex(self.caption), ""] if self.caption else [*lines, ""])

    def _repr_html_(self) -> str:
        head, *body = [[html.escape(cell) for cell in line] for line in (self.header, *self.rows)]
        rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in body)
        heads = "".join(f"<th>{cell}</th>" for cell in head)
        caption = f'<p style="font-size:smaller;max-width:60em">{html.escape(self.caption)}</p>' if self.caption else ""
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{caption}"


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


# A table whose columns a reader sorts with a click, in a notebook and in a page made from it.


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and the number it is sorted by; None sorts by the text, and in a column of numbers last."""

    text: str
    value: float | None = None


# One handler for the whole head, as an attribute: a script would need an id that is unique in the page, and is not run
# everywhere. Where attributes are taken off as well, a plain table stays.
_SORT = """
const button = event.target.closest('button');
if (!button) return;
const head = button.closest('th'), body = this.parentNode.tBodies[0], column = head.cellIndex;
const order = head.getAttribute('aria-sort') === 'ascending' ? 'descending' : 'ascending';
for (const other of this.querySelectorAll('th')) other.removeAttribute('aria-sort');
head.setAttribute('aria-sort', order);
for (const mark of this.querySelectorAll('span')) mark.textContent = '';
button.querySelector('span').textContent = order === 'ascending' ? ' ▲' : ' ▼';
const rows = [...body.rows], cell = row => row.cells[column], key = row => Number(cell(row).dataset.value);
const numbers = rows.some(row => 'value' in cell(row).dataset), sign = order === 'ascending' ? 1 : -1;
rows.sort((a, b) => {
  if (!numbers) return sign * cell(a).textContent.localeCompare(cell(b).textContent);
  const missing = isNaN(key(a)) - isNaN(key(b));
  return missing || (isNaN(key(a)) ? 0 : sign * (key(a) - key(b)));
});
body.append(...rows);
"""
_BUTTON = "background:none;border:0;padding:0;font:inherit;color:inherit;cursor:pointer;text-align:inherit"


def sortable_html(title: str, header: Sequence[str], rows: Sequence[Sequence[Cell]], below: str = "") -> str:
    """A table with a button in each head: the first click sorts upwards, the next downwards.

    Numbers are sorted as numbers, and cells without one come last either way. Screen readers are told which column is
    sorted, and how (`aria-sort`).

    Args:
        title: the caption, above.
        header: names of the columns; the first one names the rows.
        rows: as many cells each as there are columns.
        below: what is to be said about the table.

    Returns:
        HTML that shows the same without JavaScript, but does not sort.
    """
    heads = "".join(
        f'<th scope="col"><button type="button" title="Sort" style="{_BUTTON}">{html.escape(name)}'
        '<span aria-hidden="true"></span></button></th>'
        for name in header
    )
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    handler = html.escape(" ".join(line.strip() for line in _SORT.strip().splitlines()))
    caption = f'<caption style="text-align:left;font-weight:bold">{html.escape(title)}</caption>'
    text = f'<p style="font-size:smaller;max-width:60em">{html.escape(below)}</p>' if below else ""
    return f'<table>{caption}<thead onclick="{handler}"><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{text}'


def _cell(cell: Cell) -> str:
    if cell.value is None:
        return f"<td>{html.escape(cell.text)}</td>"
    unbroken = html.escape(cell.text).replace(" ", "&nbsp;")
    return f'<td data-value="{cell.value:.10g}">{unbroken}</td>'


# What the course expects of its models, and which networks those figures describe.


@dataclass(frozen=True)
class CourseModel:
    """A model of labs 02 to 07 and what the course expects of it; "" where it states nothing.

    Attributes:
        name: as in the results table; a variant's name follows after a comma ("FCN-8s, CE + Dice").
        lab: the lab that makes it, "02" to "07".
        mean_iou: percent.
        parameters: millions.
        inference_ms: milliseconds for an image.
        describes: the protocol of these figures, as far as it is known.
    """

    name: str
    lab: str
    mean_iou: str = ""
    parameters: str = ""
    inference_ms: str = ""
    describes: str = ""


_FCN = "VOC 2012 val; 140 M are an FCN on VGG-16"
_SMP = "VOC, with a pretrained encoder"
_SAM = "VOC; 636 M are SAM ViT-H; who named the masks is not stated"

COURSE_MODELS = (
    CourseModel("FCN-32s", "02", "59.4", "140", "35", _FCN),
    CourseModel("FCN-16s", "02", "61.2", "140", "38", _FCN),
    CourseModel("FCN-8s", "02", "63.1", "140", "42", _FCN),
    CourseModel("DeepLabV3", "03"),
    CourseModel("DeepLabV3+", "03", "77.5", "60", "80", "VOC 2012 val; 60 M are a DeepLabV3+ on ResNet-101"),
    CourseModel("U-Net", "04"),
    CourseModel("U-Net, bilinear", "04"),
    *(
        CourseModel(f"{decoder}, {encoder}", "05", "75 to 85", describes=_SMP)
        for decoder in ("U-Net", "DeepLabV3+")
        for encoder in ("resnet34", "efficientnet-b0", "mobilenet_v2")
    ),
    CourseModel("Mini-SAM", "06", "65 to 68", "5", "60", "VOC; the prompts are not stated"),
    CourseModel("SAM (zero-shot)", "07", "75.0", "636", "1,050", _SAM),
    CourseModel("SAM (fine-tuned)", "07", "82.0", "636", "1,050", _SAM),
)
"""The models of the final table, in the order of the labs."""

NOTE = (
    "The course's figures stand beside ours for orientation only: some describe other networks, and all of them "
    "another protocol. FCN: 140 M parameters are about those of the original on VGG-16, nine tenths of which lie in "
    "fc6 and fc7, fully connected layers turned into convolutions; on ResNet-50 FCN-8s has 24 M (lab 02 counts both). "
    "59.4 % is also what Long et al. (2015) report for FCN-32s, on a part of VOC 2011 val, beside 62.4 and 62.7 for "
    "FCN-16s and FCN-8s. DeepLabV3+: with 60 M parameters it stands on a ResNet-101; on the ResNet-50 of lab 03 it "
    "has 40 M. The paper's scores also owe to SBD's labels and to longer training. Mini-SAM: ours does have 5 M "
    "parameters; what 65 to 68 % mean depends on the prompts, and the course does not state them. SAM: 636 M "
    "parameters are those of its largest version, ViT-H, nearly all of them in the image encoder; ViT-B, the default "
    "of lab 07, has a seventh of that. SAM knows no classes, so a mean IoU is always that of SAM and of somebody who "
    "named its masks. If the truth gives boxes and names, the score measures outlines only, and no network that has "
    "to find and name objects itself can be compared with it. Milliseconds depend on the device, and the course names "
    "none."
)
"""Which of the course's figures describe other networks than ours: a paragraph for the notebook and the report."""


def course_model(name: str) -> CourseModel | None:
    """The model of the course that a row of the results table is, or is a variant of; None if it is neither.

    "FCN-8s" and "FCN-8s, CE + Dice" are both FCN-8s; "U-Net, resnet34" is itself, not a variant of "U-Net".
    """
    found = [model for model in COURSE_MODELS if name == model.name or name.startswith(f"{model.name}, ")]
    return max(found, key=lambda model: len(model.name), default=None)


def expected_table() -> Table:
    """The course's figures by themselves, with what they describe."""
    stated = [model for model in COURSE_MODELS if model.mean_iou]
    rows = [[m.name, m.lab, m.mean_iou, m.parameters or "–", m.inference_ms or "–", m.describes] for m in stated]
    header = ["The course expects", "Lab", "mIoU (%)", "Parameters (M)", "Inference (ms)", "These figures describe"]
    return Table(header, rows, NOTE)


BAND = 5
"""Width in pixels of the boundary band shown in the table."""

DASH = "–"


@dataclass(frozen=True)
class Row:
    """One model's line. Scores are in 0..1; None is shown as a dash."""

    name: str
    protocol: Protocol
    mean_iou: float | None = None
    mean_iou_low: float | None = None
    mean_iou_high: float | None = None
    pixel_accuracy: float | None = None
    band_mean_iou: float | None = None
    band_foreground_iou: float | None = None
    boundary_iou: float | None = None
    parameters: int | None = None
    flops: int | None = None
    inference_ms: float | None = None
    memory_mb: float | None = None
    cost_size: str = ""
    """Width x height of the image for which flops, inference_ms and memory_mb were measured; "" where not stated."""
    expected: str = ""


class ResultsTable:
    """Results of several models under one protocol, kept in a JSON file.

    Rows are added in order and replaced by name; each change is on disk, whole or not at all, when `add` returns. Rows
    of models that learned nothing (`trained=False`, and everything in the tiny profile) are shown as dashes and never
    stored.

    Args:
        path: the JSON file; it need not exist. Scores that cannot be compared need tables of their own, so
            `checkpoints_root() / f"results-{evaluation.protocol.key}.json"` is a good name.

    Raises:
        ValueError: the file exists and is no results table.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._stored = {row.name: row for row in self._read()}
        self._untrained: dict[str, Row] = {}

    @property
    def rows(self) -> list[Row]:
        """The rows in the order in which they came; a model that has a result is not listed as untrained too."""
        return list({**self._untrained, **self._stored}.values())

    def add(
        self,
        name: str,
        evaluation: Evaluation,
        *,
        trained: bool = True,
        seed: int | None = None,
        minutes: float | None = None,
        parameters: int | None = None,
        flops: int | None = None,
        inference_ms: float | None = None,
        memory_mb: float | None = None,
        cost_size: str = "",
        expected: str = "",
    ) -> Row:
        """Add a model's line, or replace the one of that name.

        Args:
            trained: False when the weights have learned nothing; the scores are then left out.
            seed, minutes: of the training.
            parameters, flops, inference_ms, memory_mb, cost_size: what `costs` returns.
            expected: what the course expects here, as text.

        Raises:
            ValueError: the scores cannot be compared with those in the table; the message names what differs.
        """
        protocol = replace(evaluation.protocol, seed=seed, minutes=minutes)
        row = Row(
            name,
            protocol,
            parameters=parameters,
            flops=flops,
            inference_ms=inference_ms,
            memory_mb=memory_mb,
            cost_size=cost_size,
            expected=expected,
        )
        if not trained or config.profile().name == "tiny":
            self._untrained[name] = row
            return row

        for other in self._stored.values():
            differences = protocol.differences(other.protocol)
            if other.name != name and differences:
                raise ValueError(
                    f"{name} cannot join {self.path}: its protocol differs from that of {other.name} in "
                    f"{', '.join(differences)}. Evaluate both on the same images, or give {name} a table of its own: "
                    f"results-{protocol.key}.json."
                )
        interval = bootstrap(evaluation.matrices) if evaluation.matrices is not None else None
        row = replace(
            row,
            mean_iou=_number(evaluation.scores.mean_iou),
            mean_iou_low=_number(interval.low) if interval else None,
            mean_iou_high=_number(interval.high) if interval else None,
            pixel_accuracy=_number(evaluation.scores.pixel_accuracy),
            band_mean_iou=_number(evaluation.band_mean_iou.get(BAND)),
            band_foreground_iou=_number(evaluation.band_foreground_iou.get(BAND)),
            boundary_iou=_number(evaluation.boundary_iou),
        )
        self._write({**self._stored, name: row})
        self._stored[name] = row
        self._untrained.pop(name, None)
        return row

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, and its protocol below."""
        return self._table().to_markdown()

    def to_csv(self) -> str:
        """One line per row, every field of the row and of its protocol, unrounded; empty where undefined."""
        records = [{**asdict(row), **asdict(row.protocol)} for row in self.rows]
        names = [*Row.__dataclass_fields__, *Protocol.__dataclass_fields__]
        names.remove("protocol")
        text = io.StringIO()
        writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def to_latex(self) -> str:
        """A tabular with plain rules, for a report; its protocol follows as text."""
        return self._table().to_latex()

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()

    def _table(self) -> Table:
        rows = [[cell(row) for cell in _COLUMNS.values()] for row in self.rows]
        return Table(list(_COLUMNS), rows, self._caption())

    def _caption(self) -> str:
        if not self.rows:
            return "No results yet."
        shared = next(iter(self._stored.values()), self.rows[0]).protocol
        caption = f"{shared}. Scores in percent, 95 % intervals over the choice of images."
        sizes = sorted({row.cost_size for row in self.rows if row.cost_size})
        if sizes:
            caption += f" Inference and memory: one image of {' or '.join(sizes)} pixels."
        if any(name not in self._stored for name in self._untrained):
            caption += f" {DASH} in the scores: the model was not trained, so it has no result."
        return caption

    def _read(self) -> list[Row]:
        if not self.path.exists():
            return []
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))["rows"]
            return [Row(**{**row, "protocol": Protocol(**row["protocol"])}) for row in stored]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path} is not a results table ({error}). Move it away; each lab adds its rows again."
            ) from error

    def _write(self, rows: dict[str, Row]) -> None:
        text = json.dumps({"rows": [asdict(row) for row in rows.values()]}, indent=1, allow_nan=False)
        write_atomic(self.path, text.encode())


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def percent(value: float | None) -> str:
    """A score in 0..1 as the tables show it."""
    return DASH if value is None else f"{100 * value:.1f}"


def mean_iou_text(row: Row) -> str:
    """The mean IoU with its interval, as the tables show it."""
    if row.mean_iou_low is None:
        return percent(row.mean_iou)
    return f"{percent(row.mean_iou)} [{percent(row.mean_iou_low)}, {percent(row.mean_iou_high)}]"


def _plain(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "Model": lambda row: row.name,
    "mIoU": mean_iou_text,
    "Pixel accuracy": lambda row: percent(row.pixel_accuracy),
    f"mIoU, {BAND} px band": lambda row: percent(row.band_mean_iou),
    f"Foreground IoU, {BAND} px band": lambda row: percent(row.band_foreground_iou),
    "Parameters (M)": lambda row: DASH if row.parameters is None else f"{row.parameters / 1e6:.2f}",
    "Inference (ms)": lambda row: _plain(row.inference_ms, 1),
    "Memory (MB)": lambda row: _plain(row.memory_mb, 0),
    "Training (min)": lambda row: _plain(row.protocol.minutes, 1),
    "Seed": lambda row: _plain(row.protocol.seed, 0),
    "Device": lambda row: row.protocol.device_text,
    "The course expects": lambda row: row.expected or DASH,
}


# The last table of the course: every model of labs 02 to 07, its scores, its costs and what the course expects.


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
        "Parameters (M)": lambda row: _as_number(row.parameters, 1e6, 2),
    }
    for condition in conditions:  # times for images of two sizes do not share a column either
        where = f", {condition}" if len(conditions) > 1 else ""
        for name, field, unit, digits in _COSTS:
            columns[name + where] = partial(_cost, condition=condition, field=field, unit=unit, digits=digits)
    columns["Training (min)"] = lambda row: _as_number(row.protocol.minutes, 1, 1)
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
    return _as_number(getattr(row, field) if _condition(row) == condition else None, unit, digits)


def _expected(row: Row, field: str) -> Cell:
    return _stated(course_model(row.name), field)


def _stated(model: CourseModel | None, field: str) -> Cell:
    text = getattr(model, field) if model else ""
    return Cell(text or DASH, _first_number(text))


def _lab(model: CourseModel | None) -> Cell:
    return Cell(model.lab, float(model.lab)) if model else Cell(DASH)


def _as_number(value: float | None, unit: float, digits: int) -> Cell:
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
