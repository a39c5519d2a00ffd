"""What a report consists of, and how it becomes a web page and a PDF.

The page is one HTML file with its pictures inside; the PDF is made by ReportLab: A4, text and tables that break over
pages, fonts and pictures inside.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labhelpers.evaluation import Table

if TYPE_CHECKING:
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Flowable

STYLE = """\
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222 }
h1 { margin-bottom: 0 } .subtitle { color: #555; margin-top: .3rem } h2 { margin-top: 2.5rem }
figure { margin: 1.5rem 0 } img { max-width: 100% } figcaption { font-size: .9rem; color: #555 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left } th { border-bottom: 2px solid #888 }
.wide p { color: #555 } .gap { color: #a33; font-style: italic }"""
FONT = "DejaVuSans"  # comes with matplotlib, and has the letters of most names
MARGIN = 51  # points, 18 mm
CELL, PADDING = 7, 2  # of a table: size of the letters, space beside them, points
HIGHEST = 0.42  # of the page's height: the largest picture


@dataclass(frozen=True)
class Paragraph:
    """Plain text. `kind`: "text", "item" of a list, or "gap" for what the student has not written yet."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Picture:
    """An encoded picture, PNG or JPEG, with the words below it, and what a reader who cannot see it should know."""

    data: bytes = field(repr=False)
    mime: str
    caption: str
    alt: str


Block = Paragraph | Picture | Table


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; on paper some begin a page."""

    title: str
    blocks: Sequence[Block]
    new_page: bool = False


@dataclass(frozen=True)
class Document:
    """Title, a line or two below it, sections."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def to_html(document: Document) -> str:
    """The whole page as text."""
    parts = [f"<h1>{escape(document.title)}</h1>", f'<p class="subtitle">{escape(document.subtitle)}</p>']
    for section in document.sections:
        parts += [f"<section><h2>{escape(section.title)}</h2>", *map(_block_html, section.blocks), "</section>"]
    head = f'<meta charset="utf-8"><title>{escape(document.title)}</title><style>\n{STYLE}\n</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{chr(10).join(parts)}\n</body></html>\n'


def _block_html(block: Block) -> str:
    if isinstance(block, Paragraph):
        text = escape(block.text)
        return f"<ul><li>{text}</li></ul>" if block.kind == "item" else f'<p class="{block.kind}">{text}</p>'
    if isinstance(block, Picture):
        source = f"data:{block.mime};base64,{base64.b64encode(block.data).decode()}"
        image = f'<img src="{source}" alt="{escape(block.alt)}">'
        return f"<figure>{image}<figcaption>{escape(block.caption)}</figcaption></figure>"
    return f'<div class="wide">{block._repr_html_()}</div>'


def to_pdf(document: Document) -> tuple[bytes, int]:
    """The file and its number of pages. Equal documents give equal bytes.

    Raises:
        ImportError: ReportLab is missing.
    """
    try:
        from reportlab.lib.pagesizes import A4
        from reportlab.platypus import PageBreak, SimpleDocTemplate
    except ImportError as error:
        raise ImportError('the PDF needs ReportLab: pip install "labhelpers[course]"') from error
    styles = _styles()
    flow = [_text(document.title, styles["title"]), _text(document.subtitle, styles["subtitle"])]
    width, height = A4[0] - 2 * MARGIN, A4[1] - 2 * MARGIN
    for section in document.sections:
        flow += [PageBreak()] if section.new_page else []
        flow.append(_text(section.title, styles["heading"]))
        for block in section.blocks:
            flow += _flowables(block, styles, width, height)
    buffer = io.BytesIO()
    pages: Any = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        title=document.title,
        subject=document.subtitle,
        invariant=True,
        **dict.fromkeys(("leftMargin", "rightMargin", "topMargin", "bottomMargin"), MARGIN),
    )
    pages.build(flow, onFirstPage=_number, onLaterPages=_number)
    return buffer.getvalue(), pages.page


def _number(canvas: Any, pages: Any) -> None:
    canvas.setFont(FONT, 8)
    canvas.drawCentredString(canvas._pagesize[0] / 2, MARGIN / 2, str(pages.page))


def _flowables(block: Block, styles: dict, width: float, height: float) -> "list[Flowable]":
    from reportlab.platypus import KeepTogether

    if isinstance(block, Paragraph):
        return [_text(f"•  {block.text}" if block.kind == "item" else block.text, styles[block.kind])]
    caption = _text(block.caption, styles["caption"])
    if isinstance(block, Picture):
        return [KeepTogether([_image(block, width, HIGHEST * height), caption])]
    return [_table(block, styles, width), caption]


def _image(picture: Picture, width: float, height: float) -> "Flowable":
    from reportlab.platypus import Image

    image = Image(io.BytesIO(picture.data))
    scale = min(width / image.imageWidth, height / image.imageHeight)
    image.drawWidth, image.drawHeight = scale * image.imageWidth, scale * image.imageHeight
    return image


def _table(table: Table, styles: dict, width: float) -> "Flowable":
    from reportlab.lib.colors import HexColor
    from reportlab.platypus import Table as Grid

    rows = [
        [_text(cell, styles["cell" if column == 0 else "number"]) for column, cell in enumerate(row)]
        for row in (table.header, *table.rows)
    ]
    grid = Grid(rows, colWidths=_column_widths(table, width), repeatRows=1, spaceBefore=4, spaceAfter=4)
    padding = {"LEFTPADDING": PADDING, "RIGHTPADDING": PADDING, "TOPPADDING": 1.5, "BOTTOMPADDING": 1.5}
    grid.setStyle(
        [
            ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
            ("LINEBELOW", (0, 0), (-1, 0), 0.8, HexColor("#888888")),
            ("LINEBELOW", (0, 1), (-1, -1), 0.3, HexColor("#DDDDDD")),
            *((side, (0, 0), (-1, -1), points) for side, points in padding.items()),
        ]
    )
    return grid


def _column_widths(table: Table, width: float) -> list[float]:
    """Each column as wide as its longest cell and the longest word above it; the rest is shared out evenly.

    Where there is too little room the widest column, of names, has to break its lines.
    """
    from reportlab.pdfbase.pdfmetrics import stringWidth

    widths = []
    for column, head in enumerate(table.header):
        texts = [*head.split(), *(row[column] for row in table.rows)]
        widths.append(max(stringWidth(text, FONT, CELL) for text in texts) + 2 * PADDING + 1)
    spare = width - sum(widths)
    if spare < 0:
        widths[widths.index(max(widths))] += spare
        return widths
    return [each + spare / len(widths) for each in widths]


def _text(text: str, style: "ParagraphStyle") -> "Flowable":
    from reportlab.platypus import Paragraph as Text

    return Text(escape(text), style)


def _styles() -> "dict[str, ParagraphStyle]":
    import matplotlib
    from reportlab.lib.colors import HexColor
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name in (FONT, f"{FONT}-Bold", f"{FONT}-Oblique"):
        pdfmetrics.registerFont(TTFont(name, folder / f"{name}.ttf"))
    faint, alert = HexColor("#555555"), HexColor("#AA3333")

    def style(name: str, size: float, font: str = FONT, **more: object) -> ParagraphStyle:
        return ParagraphStyle(name, fontName=font, fontSize=size, leading=1.35 * size, **more)

    return {
        "title": style("title", 18, f"{FONT}-Bold", spaceAfter=4),
        "subtitle": style("subtitle", 9, textColor=faint, spaceAfter=8),
        "heading": style("heading", 12.5, f"{FONT}-Bold", spaceBefore=10, spaceAfter=5, keepWithNext=True),
        "text": style("text", 9.2, spaceAfter=5),
        "item": style("item", 9.2, leftIndent=12, firstLineIndent=-9, spaceAfter=3),
        "gap": style("gap", 9.2, f"{FONT}-Oblique", textColor=alert, spaceAfter=5),
        "caption": style("caption", 7.8, textColor=faint, spaceAfter=9),
        "cell": style("cell", CELL),
        "number": style("number", CELL, alignment=2),
    }
