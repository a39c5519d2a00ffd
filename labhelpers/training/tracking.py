"""What a run leaves behind to look at: a CSV log, a bar, and Weights & Biases on request."""

import csv
import io
import netrc
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import urlparse

import numpy as np
from torch import Tensor

from labhelpers.data.base import IGNORE_INDEX
from labhelpers.files import reachable, write_atomic


class CsvLog:
    """The log: one row for each step; the columns of the scores are empty where nothing was evaluated.

    Each checkpoint holds it up to there, and writes the copy to look at, `log.csv`. Times stay out of it, so that an
    interrupted and continued run leaves the same bytes as one that was not.
    """

    def __init__(self, path: Path, columns: Sequence[str], before: str = ""):
        """Goes on after `before`, what the checkpoint holds that is continued."""
        self._path, self._text = path, io.StringIO()
        self._text.write(before)
        self._writer = csv.DictWriter(self._text, list(columns), lineterminator="\n")
        if not before:
            self._writer.writeheader()

    @property
    def text(self) -> str:
        return self._text.getvalue()

    def write(self, row: dict[str, float]) -> None:
        """Adds the row of one step."""
        self._writer.writerow({k: v if isinstance(v, int) else f"{v:.8g}" for k, v in row.items()})

    def close(self) -> None:
        """Writes the rows since the last checkpoint, too; a full disk has ended the run already, or nothing is lost."""
        with suppress(OSError):
            write_atomic(self._path, self.text.encode())


@dataclass(frozen=True)
class History:
    """A run's log: for each step the training loss and the learning rate, for each evaluation the scores.

    `rows` are dicts without the columns that are empty in that row.
    """

    rows: list[dict[str, float]]

    @classmethod
    def read(cls, path: Path) -> "History":
        """Reads a `log.csv`; raises ValueError, which names it, for a file that is none."""
        try:
            return cls.parse(path.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{path} is no log of a run, or was changed since ({error})") from error

    @classmethod
    def parse(cls, text: str) -> "History":
        """As `read`, of a log's text, be it as a spreadsheet with decimal commas writes it."""
        try:
            lines = list(csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=text.partition("\n")[0].count)))
        except csv.Error as error:
            raise ValueError(str(error)) from error
        rows = []
        for number, row in enumerate(lines, 1):
            if None in row or None in row.values():
                raise ValueError(f"row {number} has not as many cells as the header")
            values = {name: float(value.replace(",", ".")) for name, value in row.items() if value}
            if values.get("step") != number:
                raise ValueError(f"row {number} is not of step {number}")
            rows.append({**values, "step": number})
        return cls(rows)

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a column where it is not empty: int64 and float64 (N,). `loss`, `mean_iou`, ...

        Raises:
            ValueError: no row has it; lists the columns there are.
        """
        found = [(row["step"], row[name]) for row in self.rows if name in row]
        if not found:
            known = dict.fromkeys(key for row in self.rows for key in row)
            raise ValueError(f"no column {name!r} in this history; known: {', '.join(known)}")
        steps, values = zip(*found, strict=True)
        return np.array(steps), np.array(values)

    @property
    def evaluations(self) -> list[dict[str, float]]:
        """The rows that hold scores."""
        return [row for row in self.rows if "mean_iou" in row or "mask_ap" in row]


class Wandb:
    """Sends rows and pictures to Weights & Biases: online when the user is logged in, else offline.

    It never asks, waits for a network at most `START_SECONDS` at the beginning and `FINISH_SECONDS` at the end, and
    never ends a run: what fails in it is said in one sentence, and the CSV log goes on. It says where the run can be
    seen, or how to send it later. Columns have the names of the CSV's: `loss`, `val_loss`, `mean_iou`, ...; the project
    is `WANDB_PROJECT`, else segmentation-labs.
    """

    START_SECONDS, FINISH_SECONDS = 15, 30

    def __init__(self, run_dir: Path, config: dict[str, Any]):
        """Starts a run below `run_dir/wandb`; `config` is the recipe."""
        self._run: Any = None
        url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
        first = os.environ.get("WANDB_MODE") or ("online" if _logged_in(url) else "offline")
        if first == "online" and not reachable(url):
            print(f"wandb: {url} cannot be reached; logging offline, `wandb sync` sends it later.")
            first = "offline"
        for mode in dict.fromkeys((first, "offline")):
            try:
                self._run = self._start(mode, run_dir, config)
                if not self._run.offline:
                    print(f"wandb: {self._run.url}")
                break
            except Exception as error:  # of any kind: a broken tracker must not end a run
                instead = "log.csv has it all" if mode == "offline" else "logging offline"
                print(f"wandb: {mode} does not work here ({_reason(error)}); {instead}.")

    @staticmethod
    def wanted(asked: bool) -> bool:
        """Whether to log there: what `WANDB_MODE` says (`disabled` or a mode), else what the recipe asks."""
        mode = os.environ.get("WANDB_MODE", "")
        return mode in ("online", "offline") or (asked and mode != "disabled")

    def write(self, row: dict[str, float]) -> None:
        """Logs the row of one step."""
        values = {k: v for k, v in row.items() if k != "step"}
        self._try(lambda run: run.log(values, step=int(row["step"])))

    def images(
        self, step: int, predictions: Sequence[tuple[Tensor, Tensor, Tensor]], class_names: Sequence[str]
    ) -> None:
        """Logs pictures with their true and predicted masks, as layers to switch on and off, below the row of `step`.

        Args:
            step: of the evaluation whose row was written last; W&B takes no earlier step.
            predictions: (image (3, H, W), target (H, W), prediction (H, W)), uint8, as of `Event.predictions`.
            class_names: one per label; 255 is called void.
        """
        labels = {**dict(enumerate(class_names)), IGNORE_INDEX: "void"}

        def log(run: Any) -> None:
            import wandb

            pictures = []
            for image, target, prediction in predictions:
                maps = {"truth": target, "prediction": prediction}
                masks = {name: {"mask_data": mask.numpy(), "class_labels": labels} for name, mask in maps.items()}
                # JPEG, for these are photographs, several at each evaluation.
                pictures.append(wandb.Image(image.permute(1, 2, 0).numpy(), masks=masks, file_type="jpg"))
            run.log({"predictions": pictures}, step=step)

        self._try(log)

    def close(self) -> None:
        """Ends the run; says the command that sends what stays on the disk."""

        def finish(run: Any) -> None:
            run.finish()
            if run.offline:
                folder = os.path.relpath(Path(run.dir).parent)
                print(f"wandb: send it with: wandb sync {shlex.quote(folder)}")

        self._try(finish)

    @classmethod
    def _start(cls, mode: Any, run_dir: Path, config: dict[str, Any]) -> Any:
        import wandb

        settings = wandb.Settings(silent=True, console="off", init_timeout=cls.START_SECONDS)
        if hasattr(settings, "finish_timeout"):  # newer versions
            settings.finish_timeout = cls.FINISH_SECONDS
        name = "-".join(run_dir.parts[-2:])
        where: dict[str, Any] = {"mode": mode, "dir": str(run_dir), "settings": settings}
        project = os.environ.get("WANDB_PROJECT", "segmentation-labs")
        return wandb.init(project=project, name=name, config=config, **where)

    def _try(self, action: Callable[[Any], None]) -> None:
        """Calls it with the run, if there still is one; an error ends the tracking rather than the training."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run = None
            print(f"wandb: logging ends here ({_reason(error)}); the run goes on, and log.csv has it all.")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _logged_in(url: str) -> bool:
    """Whether wandb would find an API key, without asking it: its own check opens a prompt."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(urlparse(url).hostname or "") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


class Progress:
    """Shows `name`, step, time left, images per second and the values given to `update`; a context manager.

    In a notebook the bar is one output that is replaced in place (so an executed and saved notebook holds its last
    state, not hundreds of lines, and needs no widget to show it); in a terminal an ordinary tqdm bar; where the output
    goes to a file, only the last line is printed.
    """

    def __init__(self, name: str, start: int, total: int, batch_size: int, shown: bool = True):
        from tqdm import tqdm

        self._start, self._batch_size = start, batch_size
        stream: TextIO | None = _NotebookLine() if _in_notebook() else sys.stderr if sys.stderr.isatty() else None
        shown = shown and start < total
        self._only_last_line = stream is None and shown
        self._bar = tqdm(
            desc=name,
            initial=start,
            total=total,
            file=stream or io.StringIO(),
            ascii=" =",
            mininterval=0.5,
            disable=not shown,
            bar_format="{desc}: {percentage:3.0f}%|{bar:20}| {n}/{total} steps [{elapsed}<{remaining}{postfix}]",
        )

    def update(self, **values: float) -> None:
        """One more step is done; the values are shown behind the bar."""
        images = (self._bar.n + 1 - self._start) * self._batch_size
        rate = images / max(self._bar.format_dict["elapsed"], 1e-9)
        shown = [f"{name} {value:.3g}" for name, value in values.items()]
        self._bar.set_postfix_str(", ".join([*shown, f"{rate:.3g} images/s"]), refresh=False)
        self._bar.update()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.close()
        if self._only_last_line:
            print(str(self._bar).strip())


class _NotebookLine(io.StringIO):
    """A text stream whose last line is one output of the cell, replaced at each write."""

    _handle: Any = None

    def write(self, text: str) -> int:
        from IPython.display import display

        line = {"text/plain": text.strip("\r\n ")}
        if line["text/plain"] and self._handle is None:
            self._handle = display(line, raw=True, display_id=True)
        elif line["text/plain"]:
            self._handle.update(line, raw=True)
        return len(text)


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    session = getattr(kernel, "session", None)  # which drops what a forked process sends; other kernels have none
    return kernel is not None and getattr(session, "pid", os.getpid()) == os.getpid()
