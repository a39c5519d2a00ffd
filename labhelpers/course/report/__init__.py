"""The report of a course: a PDF and a web page from the runs on the disk, and from what the student writes.

The student's part is `report.md`, a heading for each section that only the student can write.
"""

import re
from pathlib import Path

from labhelpers import config
from labhelpers.course.report.document import Paragraph, to_html, to_pdf
from labhelpers.course.report.findings import gather
from labhelpers.course.report.sections import build
from labhelpers.files import write_atomic

PAGES = (3, 5)
"""Fewest and most pages that the course asks for."""

HEADINGS = {
    "Discussion": "What do the numbers and pictures say? Which result surprised you, and how do you explain it?",
    "Challenges faced": "What did not work at first? How did you find the reason, and what did you change?",
    "Further improvements": "What would you try next, and why should it help?",
}
TEMPLATE = """\
Your own words for the report. Write plain text below the headings; a line that begins with "- " is an item of a list.
What stands in <!-- --> is left out. Then run `labhelpers report` again.

{sections}"""


def write_report(folder: Path, profile: config.Profile) -> str:
    """Writes `report.pdf` and `report.html` into the folder, and `report.md` if it is not there; says what it did.

    Raises:
        ValueError: the profile learns nothing, or a heading is missing in `report.md`.
        FileNotFoundError: nothing has been trained yet.
        ImportError: ReportLab is missing.
    """
    results = gather(profile)
    words = folder / "report.md"
    create_own_words(words)
    document = build(results, read_own_words(words))
    pdf, pages = to_pdf(document)
    write_atomic(folder / "report.pdf", pdf)
    write_atomic(folder / "report.html", to_html(document).encode())
    lines = [f"{folder / 'report.pdf'} ({pages} pages), {folder / 'report.html'}"]
    if not PAGES[0] <= pages <= PAGES[1]:
        lines.append(f"The course asks for {PAGES[0]} to {PAGES[1]} pages: shorten or extend {words}.")
    missing = unwritten(words)
    if missing:
        lines.append(f"Still to be written in {words}: {', '.join(missing)}.")
    return "\n".join(lines)


def create_own_words(path: Path) -> None:
    """Writes the file with its three headings, unless it is there."""
    if path.exists():
        return
    sections = "\n".join(f"## {heading}\n\n<!-- {hint} -->\n" for heading, hint in HEADINGS.items())
    write_atomic(path, TEMPLATE.format(sections=sections).encode())


def read_own_words(path: Path) -> dict[str, list[Paragraph]]:
    """What stands below each heading; a single paragraph of the kind "gap" where nothing does.

    Raises:
        ValueError: a heading is missing. UnicodeDecodeError, a ValueError: the file is not UTF-8.
    """
    text = re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8-sig"), flags=re.DOTALL)
    _, *parts = re.split(r"^##[ \t]+(.+?)[ \t]*$", text, flags=re.MULTILINE)
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    missing = [heading for heading in HEADINGS if heading not in found]
    if missing:
        raise ValueError(f"{path} has no heading {missing[0]!r}: add the line “## {missing[0]}”")
    gap = f"Not written yet: your own sentences go into {path.name}, below “%s”."
    return {heading: _paragraphs(found[heading]) or [Paragraph(gap % heading, "gap")] for heading in HEADINGS}


def unwritten(path: Path) -> list[str]:
    """The headings below which nothing stands; all of them where there is no file."""
    if not path.exists():
        return list(HEADINGS)
    return [heading for heading, blocks in read_own_words(path).items() if blocks[0].kind == "gap"]


def _paragraphs(text: str) -> list[Paragraph]:
    found = []
    for part in re.split(r"\n\s*\n|\n(?=[-*] )", text.strip()):
        line = " ".join(part.split())
        if line:
            item = line.startswith(("- ", "* "))
            found.append(Paragraph(line[2:] if item else line, "item" if item else "text"))
    return found
