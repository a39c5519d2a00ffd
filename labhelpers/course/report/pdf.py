"""A document as PDF by ReportLab: A4, text and tables that break over pages, fonts and pictures inside."""

import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from labhelpers.course.report.document import Block, Document, Paragraph, Picture, Section
from labhelpers.evaluation import Table

if TYPE_CHECKING:
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import Flowable

FONT = "DejaVuSans"  # comes with matplotlib, and has the letters of most names
MARGIN = 51  # points, 18 mm
CELL, PADDING = 7, 2  # of a table: size of the letters, space beside them, points
HIGHEST = 0.42  # of the page's height: the largest picture


def to_pdf(document: Document) -> tuple[bytes, int]:
    """The file and its number of pages. Equal documents give equal bytes.

    Raises:
        ImportError: ReportLab is missing.
    """
    try:
        from reportlab.lib.pagesizes import A4
        from reportlab.platypus import SimpleDocTemplate
    except ImportError as error:
        raise ImportError('the PDF needs ReportLab: pip install "labhelpers[course]"') from error
    styles = _styles()
    flow = [_text(document.title, styles["title"]), _text(document.subtitle, styles["subtitle"])]
    width, height = A4[0] - 2 * MARGIN, A4[1] - 2 * MARGIN
    for section in document.sections:
        flow += _section(section, styles, width, height)
    buffer = io.BytesIO()
    pages = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        title=document.title,
        subject=document.subtitle,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        invariant=True,
    )
    pages.build(flow, onFirstPage=_number, onLaterPages=_number)
    return buffer.getvalue(), pages.page


def _number(canvas: object, pages: object) -> None:
    canvas.setFont(FONT, 8)
    canvas.drawCentredString(canvas._pagesize[0] / 2, MARGIN / 2, str(pages.page))


def _section(section: Section, styles: dict, width: float, height: float) -> "list[Flowable]":
    from reportlab.platypus import PageBreak

    flow = [PageBreak()] if section.new_page else []
    flow.append(_text(section.title, styles["heading"]))
    for block in section.blocks:
        flow += _block(block, styles, width, height)
    return flow


def _block(block: Block, styles: dict, width: float, height: float) -> "list[Flowable]":
    from reportlab.platypus import KeepTogether

    if isinstance(block, Paragraph):
        return [_text(f"•  {block.text}" if block.kind == "item" else block.text, styles[block.kind])]
    if isinstance(block, Picture):
        return [KeepTogether([_image(block, width, HIGHEST * height), _text(block.caption, styles["caption"])])]
    return [_table(block, styles, width), _text(block.caption, styles["caption"])]


def _image(picture: Picture, width: float, height: float) -> "Flowable":
    from reportlab.platypus import Image

    image = Image(io.BytesIO(picture.data))
    scale = min(width / image.imageWidth, height / image.imageHeight)
    return Image(io.BytesIO(picture.data), scale * image.imageWidth, scale * image.imageHeight)


def _table(table: Table, styles: dict, width: float) -> "Flowable":
    from reportlab.lib.colors import HexColor
    from reportlab.platypus import Table as Grid

    rows = [
        [_text(cell, styles["cell" if column == 0 else "number"]) for column, cell in enumerate(row)]
        for row in (table.header, *table.rows)
    ]
    grid = Grid(rows, colWidths=_column_widths(table, width), repeatRows=1, spaceBefore=4, spaceAfter=4)
    grid.setStyle(
        [
            ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
            ("LINEBELOW", (0, 0), (-1, 0), 0.8, HexColor("#888888")),
            ("LINEBELOW", (0, 1), (-1, -1), 0.3, HexColor("#DDDDDD")),
            ("LEFTPADDING", (0, 0), (-1, -1), PADDING),
            ("RIGHTPADDING", (0, 0), (-1, -1), PADDING),
            ("TOPPADDING", (0, 0), (-1, -1), 1.5),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5),
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
