"""From a figure to at most 100 kB: palette PNG where colours are few, plain PNG where it fits, else JPEG."""

import base64
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from labhelpers.plots.style import STYLE, stamp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BYTES = 100_000
SHOWN_BYTES = 56_000
"""What a photograph takes in a notebook: a dozen of them, as text (a third longer), stay below 1 MB."""
# JPEG quality and chroma subsampling, best first: 0 keeps the colours of sharp edges (4:4:4), 2 halves them (4:2:0).
_LADDER = ((85, 0), (75, 0), (65, 0), (75, 2), (65, 2), (55, 2), (45, 2), (35, 2), (30, 2))
_FEW_COLOURS = 20_000  # a chart has hundreds to thousands (smoothed edges), a photograph more
_UNSEEN = 24  # the largest distance in RGB (0 to 255 each) that a colour on a smoothed edge may move


def show(figure: "Figure", alt: str | None = None) -> None:
    """Display a figure in the notebook as a picture, and close it; outside IPython, only close it.

    A chart takes at most 100 kB, a photograph 56 kB.

    Args:
        figure: from this package, or a figure of pyplot.
        alt: what a reader who cannot see it should know; None takes the description that this package's functions give.
    """
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        data, mime = encode(figure)
        description = alt or figure.get_label() or "figure"
        from IPython.display import display

        display(
            {mime: base64.b64encode(data).decode(), "text/plain": description},
            metadata={mime: {"alt": description}},
            raw=True,
        )
    _close(figure)


def save(figure: "Figure", path: str | Path) -> Path:
    """Write a figure as a picture of at most 100 kB, close it, and return the path.

    Raises:
        ValueError: the name ends in neither .png nor .jpg, or the figure does not fit 100 kB as a PNG.
    """
    path = Path(path)
    image = _render(figure)
    if path.suffix == ".png":
        data = _chart_png(image) or _png(image)
        if len(data) > MAX_BYTES:
            raise ValueError(f"{path} takes {len(data)} bytes as a PNG, more than {MAX_BYTES}: name it .jpg instead.")
    elif path.suffix == ".jpg":
        data = _jpeg(image, MAX_BYTES)
    else:
        raise ValueError(f"{path} must end in .png or .jpg, the formats in which figures are saved.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    _close(figure)
    return path


def encode(figure: "Figure") -> tuple[bytes, str]:
    """Return `(data, mime)`: the figure as "image/png" of at most 100 kB or as "image/jpeg" of at most 56 kB."""
    image = _render(figure)
    data = _chart_png(image)
    return (data, "image/png") if data and len(data) <= MAX_BYTES else (_jpeg(image, SHOWN_BYTES), "image/jpeg")


def _render(figure: "Figure") -> Image.Image:
    import matplotlib

    stamp(figure)  # again, for figures made elsewhere
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        # "tight" grows the picture around whatever sticks out, so that no label is ever clipped.
        figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.06, pil_kwargs={"compress_level": 0})
    return Image.open(buffer).convert("RGB")


def _close(figure: "Figure") -> None:
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:  # never imported: then no figure is open
        pyplot.close(figure)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _chart_png(image: Image.Image) -> bytes | None:
    """Encode a picture of few colours, with a palette of 256 where no colour is seen to move; a photograph gives None.

    Half of the palette are the most frequent colours, so that flat areas (a class in a mask, a line) stay exact; the
    other half is chosen farthest from all before, so that no rare colour is lost. Median cut would average both.
    """
    pixels = np.asarray(image).astype(np.uint32)
    packed = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    colours, index, counts = np.unique(packed, return_inverse=True, return_counts=True)
    if len(colours) > _FEW_COLOURS:
        return None
    rgb = np.stack([colours >> 16, (colours >> 8) & 255, colours & 255], axis=1).astype(np.int32)
    chosen, distance = list(np.argsort(-counts, kind="stable")[:128]), np.full(len(rgb), np.iinfo(np.int32).max)
    nearest = np.zeros(len(rgb), dtype=np.uint8)
    for place in range(256):
        if place == len(chosen):
            chosen.append(distance.argmax())
        to_new = ((rgb - rgb[chosen[place]]) ** 2).sum(1)
        nearest[to_new < distance] = place
        distance = np.minimum(distance, to_new)
    if distance.max() > _UNSEEN**2:
        return _png(image)
    coded = Image.fromarray(nearest[index].reshape(packed.shape))
    coded.putpalette(rgb[chosen].astype(np.uint8).tobytes())
    return _png(coded)


def _jpeg(image: Image.Image, limit: int) -> bytes:
    """Encode with the best of the ladder that fits into `limit` bytes; where none does, smaller."""
    while True:
        for quality, subsampling in _LADDER:
            plain, packed = io.BytesIO(), io.BytesIO()
            image.save(plain, "jpeg", quality=quality, subsampling=subsampling)
            # Packing saves about a tenth; beyond a byte a pixel Pillow fails at it: try it only where it can help.
            if plain.tell() > min(1.2 * limit, image.width * image.height):
                continue
            image.save(packed, "jpeg", quality=quality, subsampling=subsampling, optimize=True, progressive=True)
            if packed.tell() <= limit:
                return packed.getvalue()
        image = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)
