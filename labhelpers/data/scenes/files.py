"""Writing a synthetic data set so that an interrupted run can be continued and a finished one is left alone."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from labhelpers.data.base import voc_palette
from labhelpers.files import write_atomic

PALETTE = voc_palette().tobytes()


def claim(root: Path, settings: dict[str, object], settings_name: str) -> None:
    """Make `root` the folder for a data set of these settings, recorded in the JSON file `settings_name`.

    Raises:
        ValueError: `root` holds something else, or the same kind of data set with other settings.
    """
    record = root / settings_name
    if record.is_file():
        try:
            found = json.loads(record.read_text())
        except ValueError:
            raise ValueError(f"{record} is damaged: delete the folder {root} and run this again.") from None
        if found != settings:
            differing = [key for key in settings if not isinstance(found, dict) or found.get(key) != settings[key]]
            there = ", ".join(f"{key}={found.get(key)!r}" for key in differing) if isinstance(found, dict) else found
            asked = ", ".join(f"{key}={settings[key]!r}" for key in differing)
            raise ValueError(
                f"{root} was made with {there}, but {asked} is asked for. Give another folder, or delete this one."
            )
        return
    if root.exists() and any(root.iterdir()):
        raise ValueError(
            f"{root} is not empty and has no {settings_name}, so it was not made here and is left alone. "
            "Give a new or an empty folder."
        )
    root.mkdir(parents=True, exist_ok=True)
    write(record, (json.dumps(settings, indent=1) + "\n").encode())


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; a file that holds these bytes already is not touched."""
    if not (path.is_file() and path.read_bytes() == data):
        write_atomic(path, data, sync=False)  # after a power cut, delete the folder: pictures are drawn in minutes


def jpeg(image: np.ndarray) -> bytes:
    """Encode uint8 RGB (H, W, 3) at quality 95."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def png(labels: np.ndarray, palette: bool = True) -> bytes:
    """Encode uint8 labels (H, W) without loss: with the VOC colours as palette, or as grey values."""
    image = Image.fromarray(labels)
    if palette:
        image.putpalette(PALETTE)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
