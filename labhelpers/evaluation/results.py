"""The results table that refuses rows that cannot be compared, and the last one of the course, of all models."""

import html
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import numpy as np

from labhelpers import config
from labhelpers.evaluation.evaluator import Evaluation, Protocol
from labhelpers.evaluation.intervals import Comparison, bootstrap, paired_bootstrap
from labhelpers.files import locked, read_json, write_atomic

if TYPE_CHECKING:
    from pandas import DataFrame

BAND = 5
"""Width in pixels of the boundary band shown in the table."""

DASH = "–"
EXPECTED = "The course expects"

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
const rows = [...body.rows], text = row => row.cells[column].textContent;
const key = row => parseFloat(text(row).replaceAll(',', ''));
const numbers = column > 0 && rows.some(row => !isNaN(key(row))), sign = order === 'ascending' ? 1 : -1;
rows.sort((a, b) => {
  if (!numbers) return sign * text(a).localeCompare(text(b));
  const missing = isNaN(key(a)) - isNaN(key(b));
  return missing || (isNaN(key(a)) ? 0 : sign * (key(a) - key(b)));
});
body.append(...rows);
"""
_HANDLER = html.escape(" ".join(line.strip() for line in _SORT.strip().splitlines()))
_BUTTON = "background:none;border:0;padding:0;font:inherit;color:inherit;cursor:pointer;text-align:inherit"


@dataclass(frozen=True)
class Table:
    """A header, rows of text, what is to be said below them, and a title. A notebook shows it when it ends a cell.

    The first column names the row and is set left, the others hold numbers and are set right. In a notebook each head
    is a button: the first click sorts upwards, the next downwards, numbers as numbers, cells without one last either
    way. Screen readers are told which column is sorted, and how (`aria-sort`); without JavaScript nothing sorts.

    Raises:
        ValueError: the header is empty, or a row has more or fewer cells than it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    title: str = ""

    def __post_init__(self):
        if not self.header:
            raise ValueError("a Table needs at least one column: give the header")
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"a row has {len(row)} cells, the header {len(self.header)}: {list(row)} under {list(self.header)}"
                )

    def __repr__(self) -> str:
        return self.to_markdown()

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, the title as a heading above it, and the caption below."""
        cells = [[cell.replace("|", "\\|") for cell in line] for line in (self.header, *self.rows)]
        rule = ["---"] + ["---:"] * (len(self.header) - 1)
        table = "".join(f"| {' | '.join(line)} |\n" for line in (cells[0], rule, *cells[1:]))
        return (f"### {self.title}\n\n" if self.title else "") + table + (f"\n{self.caption}\n" if self.caption else "")

    def to_csv(self) -> str:
        """Header and rows, comma-separated; title and caption are left out."""
        from pandas import DataFrame

        return _csv(DataFrame(list(self.rows), columns=list(self.header)))

    def to_latex(self) -> str:
        """A tabular with plain rules, for a report; the caption follows as text."""
        head, *body = [
            " & ".join(cell.translate(_LATEX) for cell in line) + r" \\" for line in (self.header, *self.rows)
        ]
        columns = "l" + "r" * (len(self.header) - 1)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", head, r"\hline", *body, r"\hline", r"\end{tabular}"]
        return "\n".join([*lines, "", self.caption.translate(_LATEX), ""] if self.caption else [*lines, ""])

    def _repr_html_(self) -> str:
        title = f'<caption style="text-align:left;font-weight:bold">{html.escape(self.title)}</caption>'
        heads = "".join(
            f'<th scope="col"><button type="button" title="Sort" style="{_BUTTON}">{html.escape(name)}'
            '<span aria-hidden="true"></span></button></th>'
            for name in self.header
        )
        rows = "".join(f"<tr>{''.join(f'<td>{_html(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        caption = f'<p style="font-size:smaller;max-width:60em">{html.escape(self.caption)}</p>' if self.caption else ""
        return (
            f'<table>{title if self.title else ""}<thead onclick="{_HANDLER}"><tr>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table>{caption}"
        )


def _html(cell: str) -> str:
    text = html.escape(cell)
    return text.replace(" ", "&nbsp;") if re.match(r"\d[^a-z]*$", cell) else text  # an interval stays on one line


_LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    | {character: f"\\{character}" for character in "&%$#_{}"}
)


def _csv(frame: "DataFrame") -> str:
    return frame.to_csv(index=False, lineterminator="\n")


# What the course expects of its models, and which networks those figures describe.


@dataclass(frozen=True)
class CourseModel:
    """A model of labs 02 to 08 and what the course expects of it; "" where it states nothing."""

    name: str  # as in the results table; a variant's name follows after a comma ("FCN-8s, CE + Dice")
    lab: str
    mean_iou: str = ""  # percent
    parameters: str = ""  # millions
    inference_ms: str = ""
    describes: str = ""  # the protocol of these figures, as far as it is known


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
    # The other rows of lab 05 whose names would make them variants of a model of another lab.
    *(CourseModel(f"U-Net, {how}", "05") for how in ("by hand", "random weights")),
    *(
        CourseModel(f"{decoder}, tu-tf_efficientnet_lite{size}", "05")
        for decoder in ("U-Net", "DeepLabV3+")
        for size in range(3)
    ),
    CourseModel("Mini-SAM", "06", "65 to 68", "5", "60", "VOC; the prompts are not stated"),
    CourseModel("SAM (zero-shot)", "07", "75.0", "636", "1,050", _SAM),
    CourseModel("SAM (fine-tuned)", "07", "82.0", "636", "1,050", _SAM),
    CourseModel("Mask R-CNN", "08"),
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
    "parameters are those of its largest version, ViT-H, nearly all of them in the image encoder; ViT-B has a seventh "
    "of that, and SlimSAM, the default of lab 07 on a CPU, one in 65. SAM knows no classes, so a mean IoU is always "
    "that of SAM and of somebody who named its masks. If the truth gives boxes and names, the score measures outlines "
    "only, and no network that has to find and name objects itself can be compared with it. Milliseconds depend on the "
    "device, and the course names "
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
    header = [EXPECTED, "Lab", "mIoU (%)", "Parameters (M)", "Inference (ms)", "These figures describe"]
    rows = [[value or DASH for value in astuple(model)] for model in COURSE_MODELS if model.mean_iou]
    return Table(header, rows, NOTE, "What the course expects")


def published_average_precision() -> Table:
    """What papers and torchvision report for Mask R-CNN with a feature pyramid, and others on VOC, to compare with."""
    header = ["Published", "Mask AP", "Mask AP50", "Mask AP75", "Box AP", "On"]
    rows = [
        ["He et al. (2017), Table 2a: ResNet-50-FPN", "33.6", "55.2", "35.3", DASH, "COCO minival"],
        ["He et al. (2017), Tables 1 and 3: ResNet-101-FPN", "35.7", "58.0", "37.8", "38.2", "COCO test-dev"],
        ["torchvision, maskrcnn_resnet50_fpn", "34.6", DASH, DASH, "37.9", "COCO val2017"],
        ["Dai et al. (2016), MNC: VGG-16", DASH, "63.5", DASH, DASH, "VOC 2012 val"],
        ["Li et al. (2017), FCIS: ResNet-101", DASH, "65.7", DASH, DASH, "VOC 2012 val"],
    ]
    caption = (
        "Percent, for orientation only. COCO has 80 classes and many small objects, in pictures about 640 pixels wide; "
        "VOC has 20 and larger ones; there both networks, which knew no COCO, are scored by the area under the curve."
    )
    return Table(header, rows, caption, "What is published")


def compare(measured: Mapping[str, Evaluation], pairs: Iterable[tuple[str, str]]) -> Table:
    """Whether the second model of each pair is worse on resampled images, by more than the noise between images.

    Args:
        measured: each model's evaluation, all on the same images, with `per_image` and the band of 5 pixels.

    Raises:
        ValueError: two were not measured on the same images.
    """
    rows = []
    for better, worse in pairs:
        a, b = measured[better], measured[worse]
        whole = paired_bootstrap(a.matrices, b.matrices)
        band = paired_bootstrap(a.band_matrices[BAND], b.band_matrices[BAND], metric="foreground_iou")
        rows.append([f"{better} − {worse}", *_gain(whole), *_gain(band)])
    header = ["Difference", "mIoU", "above 0 in", f"Foreground IoU, {BAND} px band", "above 0 in"]
    caption = (
        "Points, 95 % interval, and share of 1,000 resamples of the same images for both. These images do not tell "
        "which is better where the interval contains 0."
    )
    return Table(header, rows, caption)


def _gain(found: Comparison) -> list[str]:
    gain = found.difference
    return [f"{100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]", f"{found.share:.0%}"]


# The results of the labs.


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
    class_iou: list[float | None] | None = None
    """Of each label; None where it does not occur."""
    average_precision: dict[str, float | None] | None = None
    """Of a model that finds objects, instead of the IoUs: see `InstanceEvaluation.scores`."""

    @property
    def expected(self) -> str:
        """The mean IoU in percent that the course expects of this model on VOC 2012 val; "" where it states none."""
        model = course_model(self.name)
        return model.mean_iou if model and model.name == self.name else ""


def measured_as_the_course(protocol: Protocol) -> bool:
    """Whether scores can stand beside those that the course expects: of all images of VOC 2012 val, nothing told.

    What a prompt told its figures for Mini-SAM and SAM, the course does not say: they stand beside none of ours.
    """
    measured = protocol.dataset, protocol.split, protocol.images, protocol.prompts
    return measured == ("VOC2012", "val", 1449, "none")


def course_note(rows: Sequence[Row]) -> str:
    """What the course expects of these models, as a sentence; "" where that cannot help or was measured alike."""
    stated = [f"{row.name} {row.expected}" for row in rows if row.expected]
    if not stated or rows[0].protocol.prompts != "none" or measured_as_the_course(rows[0].protocol):
        return ""
    return f"On VOC 2012 val, which is no comparison for these scores, the course expects {', '.join(stated)} %."


class _Sections:
    """What consists of tables of text, `sections()`, and of rows of numbers, `frame`, in the formats of both."""

    frame: "DataFrame"
    sections: Callable[[], list[Table]]

    def __repr__(self) -> str:
        return self.to_markdown()

    def to_markdown(self) -> str:
        """The sections in GitHub's Markdown, their protocols below."""
        return "\n".join(table.to_markdown() for table in self.sections())

    def to_latex(self) -> str:
        """The sections as tabulars with plain rules, each with its text below."""
        return "\n".join(table.to_latex() for table in self.sections())

    def to_csv(self) -> str:
        """`frame` as text; empty where undefined."""
        return _csv(self.frame)

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self.sections())


class ResultsTable(_Sections):
    """Results of several models under one protocol, kept in a JSON file.

    Rows are added in order and replaced by name; each change is on disk, whole or not at all, when `add` returns, and
    joins what other notebooks and commands have added there. Rows of models that learned nothing (`trained=False`, and
    everything in a profile that learns nothing) are shown as dashes and never stored.

    Args:
        path: the JSON file; it need not exist. Scores that cannot be compared need tables of their own, so
            `checkpoints_root() / f"results-{evaluation.protocol.key}.json"` is a good name.

    Raises:
        ValueError: the file exists and is no results table.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._untrained: dict[str, Row] = {}
        self._stored = self._read()

    def _read(self) -> dict[str, Row]:
        try:
            stored = read_json(self.path)["rows"] if self.path.exists() else []
            for row in stored:
                row.pop("expected", None)  # that version 0.1 wrote into each row
            rows = [_checked(Row(**{**row, "protocol": _checked(Protocol(**row["protocol"]))})) for row in stored]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.path} is not a results table ({error}). Move it away; each lab adds its rows again."
            ) from error
        return {row.name: row for row in rows}

    @property
    def rows(self) -> list[Row]:
        """The rows in the order in which they came; a model that has a result is not listed as untrained too."""
        return list({**self._untrained, **self._stored}.values())

    def add(
        self,
        name: str,
        evaluation: Any,
        *,
        trained: bool = True,
        seed: int | None = None,
        minutes: float | None = None,
        **costs: Any,
    ) -> Row:
        """Add a model's line, or replace the one of that name.

        Args:
            evaluation: an `Evaluation`, or an `InstanceEvaluation` of a model that finds objects.
            trained: False when the weights have learned nothing; the scores are then left out.
            seed, minutes: of the training.
            costs: what `costs` returns: any of parameters, flops, inference_ms, memory_mb, cost_size.

        Raises:
            ValueError: the scores cannot be compared with those in the table, or a value is of another type than its
                column; the message names what differs.
        """
        protocol = _checked(replace(evaluation.protocol, seed=seed, minutes=minutes))
        kinds: dict[str, float | None] | None = None if isinstance(evaluation, Evaluation) else {}
        row = _checked(Row(name, protocol, average_precision=kinds, **costs))
        if not trained or not config.profile().learns:
            self._untrained[name] = row
            return row

        with locked(self.path.with_name("results.lock")):  # others may have added rows since this one was read
            self._stored = self._merged(replace(row, **_scores(evaluation)))
        self._untrained.pop(name, None)
        return self._stored[name]

    def _merged(self, row: Row) -> dict[str, Row]:
        """The rows in the file, and this one, which is written there."""
        stored = self._read()
        for other in stored.values():
            differences = row.protocol.differences(other.protocol)
            if other.name != row.name and differences:
                raise ValueError(
                    f"{row.name} cannot join {self.path}: its protocol differs from that of {other.name} in "
                    f"{', '.join(differences)}. Evaluate both on the same images, or give {row.name} a table of its "
                    f"own: results-{row.protocol.key}.json."
                )
        stored[row.name] = row
        records = [asdict(row) for row in stored.values()]
        write_atomic(self.path, json.dumps({"rows": records}, indent=1, allow_nan=False).encode())
        return stored

    @property
    def frame(self) -> "DataFrame":
        """One line per row, every number of the row and its protocol, unrounded; missing where undefined."""
        return _frame(
            [asdict(row) | asdict(row.protocol) for row in self.rows], [*_ROW_FIELDS, *Protocol.__dataclass_fields__]
        )

    def sections(self) -> list[Table]:
        """One: the rows as text, and their protocol below.

        What the course expects is a column only where it was measured alike, else a note.
        """
        left_out = {"Lab", "Boundary IoU", "FLOPs (G)"}
        scores = _score_names(self.rows)
        left_out |= {*_IOUS, *_APS} - {*scores}
        if not self.rows:
            return [_table(_columns([], [name for name in _CELLS if name not in left_out]), "No results yet.")]
        shared = next(iter(self._stored.values()), self.rows[0]).protocol
        if not measured_as_the_course(shared) or scores == _APS:
            left_out.add(EXPECTED)
        columns = _columns(self.rows, [name for name in _CELLS if name not in left_out])
        caption = f"{shared}. {_explained(scores)}"
        sizes = sorted({row.cost_size for row in self.rows if row.cost_size})
        if sizes:
            caption += f" Inference and memory: one image of {' or '.join(sizes)} pixels."
        if self._untrained.keys() - self._stored.keys():
            caption += f" {DASH} in the scores: the model was not trained, so it has no result."
        caption += f" {course_note(self.rows)}".rstrip()
        return [_table(columns, caption)]


def _checked(read: Any) -> Any:
    """A dataclass as it was read from JSON; raises ValueError where a value is of another type than its field."""
    for name, kind in get_type_hints(type(read)).items():
        if not _fits(getattr(read, name), kind):
            raise ValueError(f"{name} is {getattr(read, name)!r:.60}")
    return read


def _fits(value: Any, kind: Any) -> bool:
    inside = get_args(kind)
    if get_origin(kind) is UnionType:
        return any(_fits(value, one) for one in inside)
    if isinstance(value, list) and get_origin(kind) is list:
        return all(_fits(one, inside[0]) for one in value)
    if isinstance(value, dict) and get_origin(kind) is dict:
        return all(_fits(one, inside[1]) for one in value.values())
    if kind in (int, float):
        return isinstance(value, (int, kind)) and abs(value) < 2**63  # nor is it NaN
    return isinstance(value, get_origin(kind) or kind)


def _scores(evaluation: Any) -> dict[str, Any]:
    """The scores of a row; None where undefined."""
    if not isinstance(evaluation, Evaluation):
        return {"average_precision": evaluation.scores}
    scores: dict[str, Any] = {
        "mean_iou": evaluation.scores.mean_iou,
        "pixel_accuracy": evaluation.scores.pixel_accuracy,
        "band_mean_iou": evaluation.band_mean_iou.get(BAND),
        "band_foreground_iou": evaluation.band_foreground_iou.get(BAND),
        "boundary_iou": evaluation.boundary_iou,
    }
    if evaluation.matrices is not None:
        interval = bootstrap(evaluation.matrices)
        scores |= {"mean_iou_low": interval.low, "mean_iou_high": interval.high}
    known = {key: None if value is None or math.isnan(value) else float(value) for key, value in scores.items()}
    class_iou = [None if math.isnan(value) else float(value) for value in evaluation.scores.class_iou]
    return {**known, "class_iou": class_iou}


_ROW_FIELDS = [name for name in Row.__dataclass_fields__ if name not in ("protocol", "class_iou")]


def _frame(records: list[dict[str, Any]], columns: list[str]) -> "DataFrame":
    from pandas import DataFrame

    return DataFrame(records, columns=columns, dtype=object).convert_dtypes()  # whole numbers stay whole beside gaps


def _table(columns: dict[str, list[str]], caption: str, title: str = "") -> Table:
    return Table(list(columns), list(zip(*columns.values(), strict=True)), caption, title)


def _shown(value: float | None, digits: int, unit: float = 1) -> str:
    return DASH if value is None else f"{value / unit:,.{digits}f}"


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f}"


def _mean_iou(row: Row) -> str:
    if row.mean_iou_low is None:
        return _percent(row.mean_iou)
    return f"{_percent(row.mean_iou)} [{_percent(row.mean_iou_low)}, {_percent(row.mean_iou_high)}]"


def _precision(score: str) -> Callable[[Row], str]:
    return lambda row: _percent((row.average_precision or {}).get(score))


# Heading -> the cell of a row, for both tables.
_CELLS: dict[str, Callable[[Row], str]] = {
    "Model": lambda row: row.name,
    "Lab": lambda row: _stated(course_model(row.name), "lab"),
    "mIoU": _mean_iou,
    "Pixel accuracy": lambda row: _percent(row.pixel_accuracy),
    f"mIoU, {BAND} px band": lambda row: _percent(row.band_mean_iou),
    f"Foreground IoU, {BAND} px band": lambda row: _percent(row.band_foreground_iou),
    "Boundary IoU": lambda row: _percent(row.boundary_iou),
    "Mask AP": _precision("mask_ap"),
    "Mask AP50": _precision("mask_ap50"),
    "Mask AP75": _precision("mask_ap75"),
    "Mask AP, small": _precision("mask_ap_small"),
    "Mask AP, medium": _precision("mask_ap_medium"),
    "Mask AP, large": _precision("mask_ap_large"),
    "Box AP": _precision("box_ap"),
    "Box AP50": _precision("box_ap50"),
    "Parameters (M)": lambda row: _shown(row.parameters, 2, 1e6),
    "FLOPs (G)": lambda row: _shown(row.flops, 1, 1e9),
    "Inference (ms)": lambda row: _shown(row.inference_ms, 1),
    "Memory (MB)": lambda row: _shown(row.memory_mb, 0),
    "Training (min)": lambda row: _shown(row.protocol.minutes, 1),
    "Seed": lambda row: DASH if row.protocol.seed is None else str(row.protocol.seed),
    "Device": lambda row: row.protocol.device_text,
    EXPECTED: lambda row: row.expected or DASH,
}


# Which of them are scores: of class labels, or of objects found one by one.
_IOUS = ("mIoU", "Pixel accuracy", f"mIoU, {BAND} px band", f"Foreground IoU, {BAND} px band", "Boundary IoU")
_APS = tuple(name for name in _CELLS if name.startswith(("Mask ", "Box ")))


def _score_names(rows: Sequence[Row]) -> tuple[str, ...]:
    """The scores that rows of one protocol have."""
    return _APS if rows and rows[0].average_precision is not None else _IOUS


def _explained(scores: tuple[str, ...]) -> str:
    return "Scores in percent" + (", 95 % intervals over the choice of images." if scores == _IOUS else ".")


def _columns(rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[str]]:
    return {name: [_CELLS[name](row) for row in rows] for name in names}


# The last table of the course: every model of labs 02 to 08, its scores, its costs and what the course expects.


class FinalTable(_Sections):
    """All results tables of a folder in one, each protocol with columns of its own.

    Scores under different protocols answer different questions, so a column never holds two of them: there is one
    table a protocol, and sorting and `against_latency` stay inside it. Models of the course without any result are
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
        """The models of labs 02 to 07 that have no result, neither themselves nor a variant.

        Lab 05 takes other encoders in each profile, so one result says that it was run. Lab 08 comes after this table.
        """
        run = {model for rows in self.rows.values() for row in rows if (model := course_model(row.name))}
        known = [model for model in COURSE_MODELS if model.lab < "08" and (model.lab != "05" or model.mean_iou)]
        all_of = {"05"} & {model.lab for model in run}
        return [model for model in known if model not in run and model.lab not in all_of]

    @property
    def frame(self) -> "DataFrame":
        """One line per model and protocol, every field of both, unrounded; then the models that have not been run.

        Columns that begin with `course_` hold what the course expects.
        """
        rows = [row for rows in self.rows.values() for row in rows]
        records = [asdict(row) | asdict(row.protocol) | {"protocol_key": row.protocol.key} for row in rows]
        records += [{"name": model.name} for model in self.missing]
        fields = {"lab": "lab", "course_mean_iou": "mean_iou", "course_parameters_m": "parameters",
                  "course_inference_ms": "inference_ms", "course_describes": "describes"}  # fmt: skip
        for record in records:
            model = course_model(record["name"])
            record |= {column: getattr(model, field) for column, field in fields.items()} if model else {}
        columns = ["lab", *_ROW_FIELDS, "protocol_key", *Protocol.__dataclass_fields__, *list(fields)[1:]]
        return _frame(records, columns)

    def sections(self) -> list[Table]:
        """One a protocol in the order of the labs, the models that have not been run, and the course's figures."""
        sections = [_section(rows) for rows in self.rows.values()]
        if self.missing:
            columns = {"Model": [m.name for m in self.missing], "Lab": [m.lab for m in self.missing]}
            columns["mIoU"] = [DASH for _ in self.missing]
            columns |= {name: [_stated(m, field) for m in self.missing] for name, field in _EXPECTED.items()}
            below = "Run the notebook of the lab. In the tiny profile nothing is learned, so nothing is kept."
            sections.append(_table(columns, below, "Not run yet"))
        return [*sections, expected_table()]

    def against_latency(self, key: str | None = None) -> dict[str, Any]:
        """Mean IoU against inference time: keyword arguments of `plots.scatter`, for one protocol.

        Only rows whose time was measured at one size, on one device, in one precision are comparable: the most frequent
        combination is taken, and the label of the axis names the models that are left out.

        Args:
            key: of the protocol; None takes the one with most models.

        Raises:
            ValueError: an unknown key, or no row with both a score and a time.
        """
        if key is None and self.rows:
            key = max(self.rows, key=lambda key: len(self.rows[key]))
        if key not in self.rows:
            raise ValueError(f"there is no result under the protocol {key!r}; known: {', '.join(self.rows) or 'none'}.")
        timed = [
            (row, row.inference_ms, 100 * row.mean_iou, row.parameters / 1e6)
            for row in self.rows[key]
            if row.mean_iou is not None and row.inference_ms and row.parameters
        ]
        if not timed:
            raise ValueError(f"no model under {key} has a score, a time and a count of parameters: run a lab again.")
        (condition, _), *_ = Counter(_condition(row) for row, *_ in timed).most_common(1)
        rows, x, y, sizes = map(list, zip(*(dot for dot in timed if _condition(dot[0]) == condition), strict=True))
        others = ", ".join(row.name for row in self.rows[key] if row not in rows)
        # The dots that no other one beats, from left to right: each is higher than all before it.
        order = np.lexsort((np.negative(y), x))
        heights = np.array(y)[order]
        best_before = np.maximum.accumulate(np.concatenate([[-np.inf], heights[:-1]]))
        models = [course_model(row.name) for row in rows]
        return {
            "x": x,
            "y": y,
            "names": [row.name for row in rows],
            "sizes": sizes,
            "groups": [f"lab {model.lab}" if model else "others" for model in models],
            "front": order[heights > best_before].tolist(),
            "xlabel": f"inference (ms, log scale), {condition}" + (f"\n(not timed so: {others})" if others else ""),
            "ylabel": f"mean IoU (%), {self.protocols[key].dataset} {self.protocols[key].split}",
            "size_label": "million parameters",
            "log_x": True,
        }


_COSTS = ("FLOPs (G)", "Inference (ms)", "Memory (MB)")
_EXPECTED = {
    "Course, VOC: mIoU": "mean_iou",
    "Course: parameters (M)": "parameters",
    "Course: inference (ms)": "inference_ms",
}


def _section(rows: list[Row]) -> Table:
    """The models under one protocol."""
    protocol, models = rows[0].protocol, [course_model(row.name) for row in rows]
    scores = _score_names(rows)
    shown = ("mIoU", "Pixel accuracy", "Boundary IoU") if scores == _IOUS else scores
    columns = _columns(rows, ("Model", "Lab", *shown, "Parameters (M)"))
    columns |= _columns(rows, _COSTS)
    measured = [_condition(row) if any(_CELLS[name](row) != DASH for name in _COSTS) else DASH for row in rows]
    conditions = sorted(set(measured) - {DASH})
    if len(conditions) > 1:  # numbers of two rows compare where this agrees
        columns["Measured with"] = measured
    columns |= _columns(rows, ["Training (min)"])
    if measured_as_the_course(protocol) and scores == _IOUS:
        columns |= {name: [_stated(model, field) for model in models] for name, field in _EXPECTED.items()}
    title = f"{protocol.dataset} {protocol.split}, {protocol.images} images"
    if scores == _APS:
        title += ", objects"
    if protocol.prompts != "none":
        title += f", prompted with {protocol.prompts}"
    caption = f"{protocol}. {_explained(scores)}"
    if len(conditions) == 1:
        caption += f" FLOPs, time and memory: {conditions[0]}."
    return _table(columns, caption, title)


def _stated(model: CourseModel | None, field: str) -> str:
    return (getattr(model, field) if model else "") or DASH


def _place(row: Row) -> int:
    model = course_model(row.name)
    return COURSE_MODELS.index(model) if model else len(COURSE_MODELS)


def _condition(row: Row) -> str:
    """Under what conditions a row's costs were measured."""
    size = f"one image of {row.cost_size} pixels" if row.cost_size else "one image of a size that was not noted"
    return f"{size} on {row.protocol.device_text}"
