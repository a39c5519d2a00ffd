"""A document as one HTML file, pictures inside."""

import base64
from html import escape

from labhelpers.course.report.document import Block, Document, Paragraph, Picture
from labhelpers.evaluation import Table

STYLE = """\
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222 }
h1 { margin-bottom: 0 } .subtitle { color: #555; margin-top: .3rem } h2 { margin-top: 2.5rem }
figure { margin: 1.5rem 0 } img { max-width: 100% } figcaption, .caption { font-size: .9rem; color: #555 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left } th { border-bottom: 2px solid #888 }
.gap { color: #a33; font-style: italic }"""


def to_html(document: Document) -> str:
    """The whole page as text."""
    parts = [f"<h1>{escape(document.title)}</h1>", f'<p class="subtitle">{escape(document.subtitle)}</p>']
    for section in document.sections:
        parts += [f"<section><h2>{escape(section.title)}</h2>", *map(_block, section.blocks), "</section>"]
    head = f'<meta charset="utf-8"><title>{escape(document.title)}</title><style>\n{STYLE}\n</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{chr(10).join(parts)}\n</body></html>\n'


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        text = escape(block.text)
        return f"<ul><li>{text}</li></ul>" if block.kind == "item" else f'<p class="{block.kind}">{text}</p>'
    if isinstance(block, Picture):
        source = f"data:{block.mime};base64,{base64.b64encode(block.data).decode()}"
        image = f'<img src="{source}" alt="{escape(block.alt)}">'
        return f"<figure>{image}<figcaption>{escape(block.caption)}</figcaption></figure>"
    return _table(block)


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    caption = f'<p class="caption">{escape(table.caption)}</p>'
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{caption}'
