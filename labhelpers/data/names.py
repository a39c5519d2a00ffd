"""Which file a name means: the images of a folder, the lists of a split, and the names of classes."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from labhelpers.files import read_lines

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class ImageFolder(Mapping[str, Path]):
    """The image files of a folder by their names, in order; hidden files and those of other kinds are passed over.

    A name is what stands before the suffix, whose case does not matter, in composed Unicode (NFC): macOS may write "é"
    as two characters, a list as one. A folder that does not exist holds nothing.
    """

    def __init__(self, path: Path):
        self.path = path
        self._files: dict[str, list[str]] = {}
        for file in sorted(os.listdir(path)) if path.is_dir() else ():
            stem, suffix = os.path.splitext(file)
            if suffix.lower() in IMAGE_SUFFIXES and not file.startswith("."):
                # The bytes on the disk are UTF-8, also where Python (in a C locale) does not know.
                name = _composed(os.fsencode(stem).decode("utf-8", "backslashreplace"))
                self._files.setdefault(name, []).append(file)

    def __getitem__(self, name: str) -> Path:
        """Raises ValueError where two files share the name."""
        file, *others = self._files[name]
        if others:
            raise ValueError(f"{self.path / others[0]} and {file} share a name, so pairing is unclear: remove one.")
        return self.path / file

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def like(self, name: str) -> str:
        """A remark about a name that is not here where one is that differs in case only, else nothing."""
        found = next((files[0] for other, files in self._files.items() if other.casefold() == name.casefold()), None)
        return f"; there is {found}, and upper and lower case must agree" if found else ""


def read_names(path: Path, images: ImageFolder) -> list[str]:
    """The names in a split's list, which has one a line: all of the line, blanks inside included, without the suffix.

    Blank lines do not count. Names of no image are returned too.

    Raises:
        ValueError: no name, a name twice, or names with a flag behind them, as the lists of VOC's ImageSets/Main have.
    """
    numbers: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        name = _composed(line)
        stem, suffix = os.path.splitext(name)
        if name not in images and suffix.lower() in IMAGE_SUFFIXES:
            name = stem
        flagged = re.fullmatch(r"(.*\S)\s+(-1|0|1)", name)
        if flagged and name not in images and flagged[1] in images:
            raise ValueError(
                f"Line {number} of {path}, {line!r}, has a flag behind the name (1 in the picture, 0 hard to see, "
                "-1 not in it), as the lists of ImageSets/Main do: list only the images that are wanted, without flags."
            )
        if name in numbers:
            raise ValueError(f"{path} names {name!r} in lines {numbers[name]} and {number}: remove one of them.")
        if name:
            numbers[name] = number
    if not numbers:
        raise ValueError(f"{path} is empty: list at least one image name in it, one per line.")
    return list(numbers)


def read_class_names(path: Path) -> list[str]:
    """The names in a classes.txt, one a line in label order; blank lines and those that start with # do not count.

    Raises:
        ValueError: no name, or a name twice.
    """
    names = [_composed(line) for line in read_lines(path) if line and not line.startswith("#")]
    if not names:
        raise ValueError(f"{path} is empty: write one class name per line, in label order, or remove it.")
    refuse_repeats(names, str(path))
    return names


def refuse_repeats(class_names: Sequence[str], where: str) -> None:
    """Raise ValueError where two labels have the same name."""
    name, count = Counter(class_names).most_common(1)[0] if class_names else ("", 0)
    if count > 1:
        labels = " and ".join(str(label) for label, other in enumerate(class_names) if other == name)
        raise ValueError(f"{where} calls the labels {labels} {name!r}: give every label a name of its own.")


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)
