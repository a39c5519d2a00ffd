"""Pictures in and out of the canvas: an uploaded file becomes an array, a session becomes a picture.

Pillow alone does it, so that a picture appears where neither a browser nor matplotlib runs.
"""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from labhelpers.prompting.session import PromptSession

MAX_BYTES = 20_000_000  # of an uploaded file
MAX_PIXELS = 60_000_000  # of an uploaded picture: twice what a good camera has, 180 MB as an array
LONGER_SIDE = 1024  # to which a larger upload is reduced: what SAM sees, and more than Mini-SAM does

# Points and box: Okabe and Ito, "Color universal design" (2008), which colour-blind readers can tell apart; a sign in
# each point says the same again. The mask: magenta, which photographs hardly have, with a white outline.
COLOURS = {"mask": "#D6278A", "foreground": "#009E73", "background": "#D55E00", "box": "#F0E442"}
OPACITY = 0.5


def decode_upload(data: bytes, name: str) -> np.ndarray:
    """An uploaded picture upright and in RGB, uint8 (H, W, 3), its longer side at most 1024 pixels.

    Raises:
        ValueError: the file is too large, or no picture that Pillow can read; the message says which and what to do.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"{name} has {len(data) / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f} MB: choose a smaller one."
        )
    try:
        picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        picture.draft("RGB", (LONGER_SIDE, LONGER_SIDE))  # JPEG: decode no more than is kept
        picture = ImageOps.exif_transpose(picture)  # a copy, so that it is decoded here
    except Image.DecompressionBombError as error:
        limit = f"{MAX_PIXELS / 1e6:.0f} million pixels"
        raise ValueError(f"{name} has more than {limit}: choose a smaller one.") from error
    except (OSError, SyntaxError) as error:  # Pillow's errors for a broken PNG are SyntaxErrors
        raise ValueError(f"{name} is no picture that can be read: choose a JPEG, PNG or WebP.") from error
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    picture = picture.convert("RGB")
    picture.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.LANCZOS)
    return np.array(picture)


def draw(session: PromptSession) -> Image.Image:
    """The current image with the mask, its outline, the box and the points, as the canvas shows them."""
    mask = session.mask
    picture = session.image.astype(np.float32)
    picture[mask] += OPACITY * (np.array(_rgb("mask")) - picture[mask])
    picture[_outline(mask)] = 255
    drawn = Image.fromarray(np.rint(picture).astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    unit = max(1, round(max(drawn.size) / 256))  # a line's width
    if session.box is not None:
        x0, y0, x1, y1 = session.box.tolist()
        pen.rectangle((x0, y0, x1, y1), outline="black", width=2 * unit)
        pen.rectangle((x0, y0, x1, y1), outline=COLOURS["box"], width=unit)
    for (x, y), label in zip(session.points.tolist(), session.labels.tolist(), strict=True):
        _draw_point(pen, x, y, label, unit)
    return drawn


def encode_jpeg(picture: Image.Image, limit: int | None = None) -> bytes:
    """JPEG of high quality, or of what quality fits into `limit` bytes."""
    for quality in (90, 80, 70, 60, 50, 40, 30):
        buffer = io.BytesIO()
        picture.save(buffer, "jpeg", quality=quality, subsampling=0)
        if limit is None or buffer.tell() <= limit:
            return buffer.getvalue()
    smaller = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS)
    return encode_jpeg(smaller, limit)


def _draw_point(pen: ImageDraw.ImageDraw, x: float, y: float, label: int, unit: int) -> None:
    radius, arm = 3.5 * unit, 2 * unit
    colour = COLOURS["foreground" if label else "background"]
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="white", width=unit)
    pen.line((x - arm, y, x + arm, y), fill="white", width=unit)
    if label:
        pen.line((x, y - arm, x, y + arm), fill="white", width=unit)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The mask's pixels that have a neighbour beyond it, above, below, left or right; the image's edge is none."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _rgb(name: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(COLOURS[name][1:]))
