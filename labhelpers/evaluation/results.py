"""The table that grows from lab 02 to lab 07, and refuses rows that cannot be compared."""

import csv
import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from labhelpers import config
from labhelpers.evaluation.evaluator import Evaluation
from labhelpers.evaluation.intervals import bootstrap
from labhelpers.evaluation.protocol import Protocol
from labhelpers.evaluation.table import Table

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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            with open(partial, "w", encoding="utf-8") as file:
                json.dump({"rows": [asdict(row) for row in rows.values()]}, file, indent=1, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)


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
