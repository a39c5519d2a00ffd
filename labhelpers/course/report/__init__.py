"""The report of a course: a PDF and a web page from the runs on the disk, and from what the student writes."""

from pathlib import Path

from labhelpers import config
from labhelpers.course.report import own_words
from labhelpers.course.report.gather import gather
from labhelpers.course.report.html import to_html
from labhelpers.course.report.pdf import to_pdf
from labhelpers.course.report.sections import build
from labhelpers.files import write_atomic

__all__ = ["PAGES", "write_report"]

PAGES = (3, 5)
"""Fewest and most pages that the course asks for."""


def write_report(folder: Path, profile: config.Profile) -> str:
    """Writes `report.pdf` and `report.html` into the folder, and `report.md` if it is not there; says what it did.

    Raises:
        ValueError: the profile learns nothing, or a heading is missing in `report.md`.
        FileNotFoundError: nothing has been trained yet.
        ImportError: ReportLab is missing.
    """
    results = gather(profile)
    words = folder / "report.md"
    own_words.create(words)
    document = build(results, own_words.read(words))
    pdf, pages = to_pdf(document)
    write_atomic(folder / "report.pdf", pdf)
    write_atomic(folder / "report.html", to_html(document).encode())
    lines = [f"{folder / 'report.pdf'} ({pages} pages), {folder / 'report.html'}"]
    if not PAGES[0] <= pages <= PAGES[1]:
        lines.append(f"The course asks for {PAGES[0]} to {PAGES[1]} pages: shorten or extend {words}.")
    missing = own_words.unwritten(words)
    if missing:
        lines.append(f"Still to be written in {words}: {', '.join(missing)}.")
    return "\n".join(lines)
