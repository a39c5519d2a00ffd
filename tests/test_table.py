"""A table of text in four formats."""

import csv
import io
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labhelpers.evaluation import Table


class _Cells(HTMLParser):
    """The text of the cells of a page, row by row."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_formats():
    table = Table(["Model", "mIoU"], [["a|b & <c>_1", "59.4 %"], ["–", "1"]], "camvid val; 50 %")
    assert table.to_markdown().splitlines() == [
        "| Model | mIoU |",
        "| --- | ---: |",
        r"| a\|b & <c>_1 | 59.4 % |",
        "| – | 1 |",
        "",
        "camvid val; 50 %",
    ]
    assert table.to_csv() == "Model,mIoU\na|b & <c>_1,59.4 %\n–,1\n"
    assert table.to_latex().splitlines() == [
        r"\begin{tabular}{lr}",
        r"\hline",
        r"Model & mIoU \\",
        r"\hline",
        r"a|b \& <c>\_1 & 59.4 \% \\",
        r"-- & 1 \\",
        r"\hline",
        r"\end{tabular}",
        "",
        r"camvid val; 50 \%",
    ]
    page = table._repr_html_()
    assert _Cells(page).rows == [["Model", "mIoU"], ["a|b & <c>_1", "59.4 %"], ["–", "1"]]
    assert page.endswith("camvid val; 50 %</p>")


def test_without_a_caption_nothing_follows():
    table = Table(["Model"], [["a"]])
    assert table.to_markdown() == "| Model |\n| --- |\n| a |\n"
    assert table.to_latex().endswith("\\end{tabular}\n")
    assert table._repr_html_().endswith("</table>")


@given(
    st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(st.text("a&<>\"',|é"), min_size=n, max_size=n), min_size=1))
)
def test_no_cell_breaks_a_format(lines):
    header, *rows = lines
    table = Table(header, rows, "below")
    assert list(csv.reader(io.StringIO(table.to_csv()))) == lines
    assert _Cells(table._repr_html_()).rows == lines
    body = table.to_markdown().splitlines()[: len(lines) + 1]
    assert {line.replace("\\|", "").count("|") for line in body} == {len(header) + 1}


def test_a_table_must_be_rectangular():
    with pytest.raises(ValueError, match=r"a row has 1 cells, the header 2: \['a'\] under \['Model', 'mIoU'\]"):
        Table(["Model", "mIoU"], [["a"]])
    with pytest.raises(ValueError, match="at least one column"):
        Table([], [])
