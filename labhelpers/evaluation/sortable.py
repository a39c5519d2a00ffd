"""A table whose columns a reader sorts with a click, in a notebook and in a page made from it."""

import html
from collections.abc import Sequence
from dataclasses import dataclass


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
