"""A progress bar that is live where someone watches, and one line afterwards."""

import sys
from types import TracebackType


class Progress:
    """Shows ``name``, step, time left, images per second and the values given to :meth:`update`; a context manager.

    In a notebook the bar is one output that is replaced in place (so an executed and saved notebook holds its last
    state, not hundreds of lines, and needs no widget to show it); in a terminal an ordinary tqdm bar; where the output
    goes to a file, only the last line is printed.
    """

    def __init__(self, name: str, start: int, total: int, batch_size: int):
        from tqdm import tqdm

        self._start, self._batch_size = start, batch_size

        self._stream = _NotebookLine() if _in_notebook() else sys.stderr
        self._live = isinstance(self._stream, _NotebookLine) or sys.stderr.isatty()
        self._nothing_to_do = start >= total
        self._bar = tqdm(
            desc=name,
            initial=start,
            total=total,
            file=self._stream if self._live else _Nowhere(),
            ascii=" =",
            mininterval=0.5,
            disable=self._nothing_to_do,
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
        if not self._live and not self._nothing_to_do:
            print(str(self._bar).strip())


class _Nowhere:
    def write(self, text: str) -> None:
        pass

    def flush(self) -> None:
        pass


class _NotebookLine:
    """A text stream whose last line is one output of the cell, replaced at each write."""

    def __init__(self) -> None:
        self._handle = None

    def write(self, text: str) -> None:
        from IPython.display import display

        line = text.strip("\r\n ")
        if not line:
            return
        output = {"text/plain": line}
        if self._handle is None:
            self._handle = display(output, raw=True, display_id=True)
        else:
            self._handle.update(output, raw=True)

    def flush(self) -> None:
        pass


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None
