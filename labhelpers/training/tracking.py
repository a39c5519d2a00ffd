"""What a run leaves behind to look at: a CSV log (the source of truth), and Weights & Biases on request."""

import csv
import netrc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

from .checkpoints import write_atomic


class CsvLog:
    """``log.csv``: one row for each step; the columns of the scores are empty where nothing was evaluated.

    Times stay out of it, so that an interrupted and continued run leaves the same bytes as one that was not.
    """

    def __init__(self, path: Path, columns: Sequence[str], start_step: int = 0):
        """Opens the log to continue after ``start_step`` rows: later rows, of steps that will be repeated, are cut."""
        rows = path.read_text(encoding="utf-8").splitlines(keepends=True)[1:] if path.exists() else []
        if len(rows) < start_step:
            raise RuntimeError(
                f"{path} holds {len(rows)} rows, but the checkpoint beside it is of step {start_step}: the log was "
                "shortened or removed. Put it back, or remove the folder to train again from the start."
            )
        header = ",".join(_quote(column) for column in columns) + "\n"
        write_atomic(path, (header + "".join(rows[:start_step])).encode())
        self.columns = list(columns)
        self._file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115 (open as long as the run)
        self._writer = csv.DictWriter(self._file, self.columns, lineterminator="\n")

    def write(self, row: dict[str, float]) -> None:
        """Adds the row of one step."""
        self._writer.writerow({k: v if isinstance(v, int) else f"{v:.8g}" for k, v in row.items()})

    def sync(self) -> None:
        """Forces the rows so far onto the disk; called before the checkpoint that counts on them."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _quote(name: str) -> str:
    return f'"{name}"' if "," in name else name


@dataclass(frozen=True)
class History:
    """A run's log: for each step the training loss and the learning rate, for each evaluation the scores.

    ``rows`` are dicts without the columns that are empty in that row.
    """

    rows: list[dict[str, float]]

    @classmethod
    def read(cls, path: Path) -> "History":
        """Reads a ``log.csv``."""
        with open(path, encoding="utf-8", newline="") as file:
            rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
        return cls([{**row, "step": int(row["step"])} for row in rows])

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a column where it is not empty: int64 and float64 (N,). ``loss``, ``mean_iou``, ...

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
        return [row for row in self.rows if "mean_iou" in row]

    def smoothed_loss(self, window: int = 20) -> tuple[np.ndarray, np.ndarray]:
        """(steps, mean loss of the last ``window`` steps), for a curve that can be read."""
        steps, loss = self.column("loss")
        window = max(1, min(window, len(loss)))
        total = np.cumsum(np.concatenate([[0.0], loss]))
        return steps[window - 1 :], (total[window:] - total[:-window]) / window


class Wandb:
    """Sends rows to Weights & Biases: online when the user is logged in, else offline. Never asks, never waits long."""

    def __init__(self, run_dir: Path, config: dict[str, Any]):
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
        settings = wandb.Settings(silent=True, console="off", init_timeout=15)
        if hasattr(settings, "finish_timeout"):  # newer versions: do not wait for a network that has gone meanwhile
            settings.finish_timeout = 30
        options = {"project": "segmentation-labs", "dir": str(run_dir), "config": config, "settings": settings}
        name = "-".join(run_dir.parts[-2:])
        try:
            self._run = wandb.init(mode=mode, name=name, **options)
        except wandb.errors.Error as error:
            print(f"wandb: {mode} does not work here ({error}); logging offline.")
            self._run = wandb.init(mode="offline", name=name, **options)

    @staticmethod
    def wanted(asked: bool) -> bool:
        """Whether to log there: what ``WANDB_MODE`` says (``disabled`` or a mode), else what the recipe asks."""
        mode = os.environ.get("WANDB_MODE", "")
        return mode in ("online", "offline") or (asked and mode != "disabled")

    def write(self, row: dict[str, float]) -> None:
        self._run.log({k: v for k, v in row.items() if k != "step"}, step=int(row["step"]))

    def close(self) -> None:
        self._run.finish()


def _logged_in() -> bool:
    """Whether wandb would find an API key, without asking it: its own check opens a prompt."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
