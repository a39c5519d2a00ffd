"""What a report consists of, whatever it is printed as."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from labhelpers.evaluation import Table


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
