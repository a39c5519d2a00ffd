"""`report.md`: the part of the report that only the student can write."""

import re
from pathlib import Path

from labhelpers.course.report.document import Paragraph
from labhelpers.files import write_atomic

HEADINGS = {
    "Discussion": "What do the numbers and pictures say? Which result surprised you, and how do you explain it?",
    "Challenges faced": "What did not work at first? How did you find the reason, and what did you change?",
    "Further improvements": "What would you try next, and why should it help?",
}
TEMPLATE = """\
Your own words for the report. Write plain text below the headings; a line that begins with "- " is an item of a list.
What stands in <!-- --> is left out. Then run `labhelpers report` again.

{sections}"""
NOT_WRITTEN = "Not written yet: your own sentences go into {path}, below “{heading}”."


def create(path: Path) -> None:
    """Writes the file with its three headings, unless it is there."""
    if path.exists():
        return
    sections = "\n".join(f"## {heading}\n\n<!-- {hint} -->\n" for heading, hint in HEADINGS.items())
    write_atomic(path, TEMPLATE.format(sections=sections).encode())


def read(path: Path) -> dict[str, list[Paragraph]]:
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
    return {heading: _paragraphs(found[heading]) or [_gap(path, heading)] for heading in HEADINGS}


def unwritten(path: Path) -> list[str]:
    """The headings below which nothing stands; all of them where there is no file."""
    if not path.exists():
        return list(HEADINGS)
    return [heading for heading, blocks in read(path).items() if blocks[0].kind == "gap"]


def _gap(path: Path, heading: str) -> Paragraph:
    return Paragraph(NOT_WRITTEN.format(path=path.name, heading=heading), "gap")


def _paragraphs(text: str) -> list[Paragraph]:
    found = []
    for part in re.split(r"\n\s*\n|\n(?=[-*] )", text.strip()):
        line = " ".join(part.split())
        if line:
            item = line.startswith(("- ", "* "))
            found.append(Paragraph(line[2:] if item else line, "item" if item else "text"))
    return found
