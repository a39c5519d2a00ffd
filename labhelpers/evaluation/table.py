"""A plain table of text, in the formats that notebooks, reports and spreadsheets read."""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass


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
