"""How files become arrays: one reading of pictures and one of label maps, for the data sets and the canvas.

A picture becomes uint8 RGB (H, W, 3):
    - It is turned as its orientation flag (EXIF) says, so that it lies as every viewer shows it.
    - Palette, grey, CMYK, YCbCr, Lab and HSV become RGB. What is transparent lies on white.
    - Of 16 bits the high byte counts: 65,535 is white. So do integers of 32 bits that fit into 16. Where no value
      reaches 4,096, as with 12 bits stored in 16, the picture would be nearly black: an error.
    - Floats go from 0, black, to 1, white; others are an error.

A label map becomes uint8 (H, W):
    - It is a PNG, a BMP or a TIFF without lossy compression, of one channel and without transparency.
    - The integers that are stored are the labels, at every depth: {0, 1} in 1, 4 or 16 bits alike. In a palette file
      these are the indices. (Some TIFFs say that 0 is white; which numbers they mean is open: an error.)
    - Where the labels are those of PASCAL VOC, its colours mean them as well: an RGB file in these colours is read, and
      a palette that has them at other indices is read by colour.
    - It lies on the picture as displayed: an orientation flag of its own turns it, the flag of the picture does not.

A file of several pages or frames is an error, as nobody said which one counts; of an MPO, a phone's photograph with a
preview behind it, the first does. So is whatever is damaged, truncated or too large; the error names the file.
"""

import contextlib
import re
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

_FORMATS = ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000"]
if find_spec("PIL.AvifImagePlugin"):  # since Pillow 11.3
    _FORMATS.append("AVIF")
_LOSSLESS_TIFF = {
    "raw", "tiff_raw_16", "tiff_ccitt", "group3", "group4", "packbits", "tiff_lzw", "tiff_adobe_deflate",
    "tiff_deflate", "lzma", "zstd",
}  # fmt: skip
_AS_NUMBERS = "Save the label numbers themselves, in one channel, as a PNG."


def voc_palette() -> np.ndarray:
    """Return the PASCAL VOC colour map as a uint8 array (256, 3), RGB.

    Bits 0, 1 and 2 of the label give the highest bit of red, green and blue, bits 3, 4 and 5 the next one,
    and so on, so that neighbouring labels get colours far apart. Label 255 comes out as (224, 224, 192), the
    rim colour.
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (labels >> (3 * level + channel)) & 1
            palette[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return palette


VOC_PALETTE = voc_palette()


class Header(NamedTuple):
    """What is known of a file before its pixels are decoded."""

    size: tuple[int, int]  # width, height as displayed
    turned: bool  # whether an orientation flag turned or mirrored it


class _Unfit(ValueError):
    """A file that can be decoded but not used; the message lacks the file's name."""


def read_image(file: Path | BinaryIO, name: str = "", side: int | None = None) -> np.ndarray:
    """Read a picture: uint8 RGB (H, W, 3), see above.

    Args:
        file: its path, or its bytes in a file object.
        name: what errors call it, if it is no path.
        side: reduce it until its longer side has that many pixels at most; at least one pixel is left of the other.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, no picture, too large, has several pages, or values whose meaning is open.
    """
    with _opened(file, name) as image:
        if side:
            image.draft("RGB", (side, side))  # JPEG: decode no more than is kept
        _refuse_container(image)
        _turn_upright(image)
        picture = _as_rgb(image)
        if side:
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        return np.array(picture)


def read_labels(path: Path, voc_labels: int = 0) -> np.ndarray:
    """Read a label map: uint8 (H, W), see above.

    Args:
        voc_labels: how many of PASCAL VOC's labels its colours may stand for, 255 apart; 0 for other classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or too large, or its format, compression, channels, pages or values are not a label
            map's.
    """
    with _opened(path) as image:
        _refuse_label_format(image, voc_labels)
        # Pillow stretches grey values of 1, 2 and 4 bits to 0..255.
        arguments = image.tile[0].args if image.tile else None
        raw = arguments if isinstance(arguments, str) else str((arguments or [""])[0])
        _turn_upright(image)
        if image.mode == "RGB":
            return _from_colours(np.asarray(image), voc_labels)
        labels = np.array(image)
        if image.mode == "P":
            return _from_palette(labels, image, voc_labels) if voc_labels else labels
        if image.mode in ("1", "L"):
            return labels // {"L;2": 85, "L;4": 17}.get(raw[:3], 1) if image.mode == "L" else labels.astype(np.uint8)
        if labels.min() < 0 or labels.max() > 255:
            raise _Unfit(f"holds the labels {labels.min()} to {labels.max()}: number the classes from 0, void as 255.")
        return labels.astype(np.uint8)


def read_header(path: Path, labels: bool = False, voc_labels: int = 0) -> Header:
    """Read what is known without decoding pixels; with `labels` raises ValueError for what cannot be a label map."""
    with _opened(path) as image:
        _refuse_label_format(image, voc_labels) if labels else _refuse_container(image)
        # Not that of a PNG, which decodes the picture because a flag may stand behind it.
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        swapped = orientation in (5, 6, 7, 8) and image.format != "TIFF"  # of a TIFF Pillow has done it
        return Header(image.size[::-1] if swapped else image.size, orientation != 1)


@contextlib.contextmanager
def _opened(file: Path | BinaryIO, name: str = "") -> Iterator[ImageFile.ImageFile]:
    """Open a file of pixels; whatever goes wrong with it here or inside becomes one error that names it."""
    name = name or str(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow thinks of metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Never by its path: Pillow would map a TIFF into memory, and one with a flag at a wrong width.
            opened = file.open("rb") if isinstance(file, Path) else contextlib.nullcontext(file)
            with opened as data, Image.open(data, formats=_FORMATS) as image:
                yield image
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} is missing. Put it back, or take its name out of the split's list.") from None
    except _Unfit as error:
        raise ValueError(f"{name} {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = int(re.findall(r"\d+", str(error))[0])
        raise ValueError(
            f"{name} has {pixels / 1e6:.0f} million pixels, and {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million are "
            "read: reduce it, or cut it into tiles. (PIL.Image.MAX_IMAGE_PIXELS is the limit; a pixel takes 3 bytes.)"
        ) from None
    except Exception as error:  # a damaged file makes Pillow raise nearly everything there is
        why = "no format that is known" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(
            f"{name} cannot be decoded ({why or type(error).__name__}). It is damaged or not an image: fetch or "
            "export it again, as a JPEG or PNG."
        ) from error


def _turn_upright(image: Image.Image) -> None:
    """Decode the pixels, and turn them as the flag says, in place."""
    image.load()
    with contextlib.suppress(Exception):  # metadata that nobody can read turn the picture in no viewer
        ImageOps.exif_transpose(image, in_place=True)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_as_bytes(image))
    elif image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else image.mode).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _as_bytes(image: Image.Image) -> np.ndarray:
    """Grey values of more than 8 bits as uint8 (H, W)."""
    values = np.array(image)
    values = values.astype(
        values.dtype.newbyteorder("=")
    )  # numpy 2.0 crashes in ">>" on numbers of the other byte order
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # false for NaN
            raise _Unfit(f"holds floats from {low:g} to {high:g}: scale them to 0..1, or save it with 8 bits.")
        return np.rint(255 * values).astype(np.uint8)
    if low < 0 or high > 65535:
        raise _Unfit(f"holds integers from {low} to {high}: scale them to 0..255 and save it with 8 bits.")
    tags = getattr(image, "tag_v2", {})
    if tags.get(258) == (12,):  # bits a value: a TIFF that says so
        values, high = values * 16, high * 16
    if 0 < high < 4096:
        raise _Unfit(
            f"holds values up to {high} of 65535, so that it would be nearly black: scale them to 0..255 and save it "
            "with 8 bits."
        )
    grey = (values >> 8).astype(np.uint8)
    if tags.get(262) == 0:  # a TIFF in which 0 is white
        grey = 255 - grey
    grey[values == image.info.get("transparency", -1)] = 255
    return grey


def _refuse_container(image: ImageFile.ImageFile) -> None:
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":
        raise _Unfit(f"holds {pages} pages or frames: save the one that counts as a file of its own.")
    if image.format == "BMP" and image.mode in ("1", "L") and image.fp:
        image.fp.seek(14)
        head = image.fp.read(16)  # its own length, and at its end (but for the oldest kind) the bits of a pixel
        if head[0] != 12 and head[14] != (1 if image.mode == "1" else 8):
            raise _Unfit(
                f"is a BMP of {head[14]} bits with a grey palette, which Pillow takes apart wrongly: save a PNG."
            )


def _refuse_label_format(image: ImageFile.ImageFile, voc_labels: int) -> None:
    kind, compression = image.format, image.info.get("compression", "raw")
    if kind in ("JPEG", "MPO", "WEBP", "JPEG2000", "AVIF") or (kind == "TIFF" and compression not in _LOSSLESS_TIFF):
        what = f"TIFF with {compression} compression" if kind == "TIFF" else kind
        raise _Unfit(
            f"is a {what}: its compression changes labels around every edge. Export the label map again as a "
            "PNG; converting this file cannot undo the damage."
        )
    if kind not in ("PNG", "TIFF", "BMP"):
        raise _Unfit(f"is a label map as {kind}, whose values need not be labels. {_AS_NUMBERS}")
    _refuse_container(image)
    if getattr(image, "tag_v2", {}).get(262) == 0:
        raise _Unfit(f"is a TIFF in which 0 is white, so that it is open which numbers are meant. {_AS_NUMBERS}")
    integers = image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16")
    if not (integers or (voc_labels and image.mode == "RGB")):
        raise _Unfit(
            f"is a label map of mode {image.mode}, not a single channel of integers. {_AS_NUMBERS} Where colours stand "
            "for classes, map them to numbers."
        )


def _voc_numbers(colours: np.ndarray, voc_labels: int) -> list[int | None]:
    """The label of each colour (N, 3); None for a colour that is none of VOC's."""
    known = {tuple(VOC_PALETTE[label].tolist()): label for label in (*range(voc_labels), 255)}
    return [known.get(tuple(colour)) for colour in colours.tolist()]


def _from_colours(pixels: np.ndarray, voc_labels: int) -> np.ndarray:
    colours, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    numbers = _voc_numbers(colours, voc_labels)
    if None in numbers:
        colour = tuple(colours[numbers.index(None)].tolist())
        raise _Unfit(f"is a label map in RGB with the colour {colour}, which is none of PASCAL VOC's. {_AS_NUMBERS}")
    return np.array(numbers, dtype=np.uint8)[places].reshape(pixels.shape[:2])


def _from_palette(indices: np.ndarray, image: Image.Image, voc_labels: int) -> np.ndarray:
    """The labels of a palette file: by colour, if each index has a VOC colour of its own, else as stored."""
    if image.palette and VOC_PALETTE.tobytes().startswith(image.palette.tobytes()):  # the quick way, nearly always
        return indices
    palette = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    if used[-1] >= len(palette) or (palette[used] == used[:, None]).all():  # no colours, or grey levels
        return indices
    numbers = _voc_numbers(palette[used], voc_labels)
    if None in numbers or len(set(numbers)) < len(numbers):
        return indices
    table = np.zeros(256, dtype=np.uint8)
    table[used] = np.array(numbers, dtype=np.uint8)
    return table[indices]
