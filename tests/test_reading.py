"""How picture and label files are read: each depth, mode, palette, orientation and container, and what is refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from labhelpers.data.reading import read_header, read_image, read_labels, voc_palette

PILLOW_12 = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 12, reason="Pillow 11 cannot read its own YCbCr TIFF"
)

GREY, INDEXED = 0, 3  # colour types of a PNG
quick = settings(max_examples=30, deadline=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path, values: np.ndarray, bits: int, colour: int = GREY, extra: bytes = b"", late: bytes = b""):
    """A PNG of any depth, byte by byte: Pillow writes grey with 1, 8 and 16 bits only."""
    height, width = values.shape
    each = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(height, width, 2), axis=2)[:, :, 16 - bits :]
    rows = np.packbits(each.reshape(height, width * bits), axis=1)
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = chunk(b"IHDR", head), extra, chunk(b"IDAT", body), late, chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


# --- label maps ---------------------------------------------------------------------------------------------------


@quick
@given(st.data(), st.sampled_from([(bits, GREY) for bits in (1, 2, 4, 8, 16)] + [(bits, 3) for bits in (1, 2, 4, 8)]))
def test_the_stored_integers_are_the_labels_at_every_depth(folder, data, kind):
    bits, colour = kind
    labels = data.draw(
        hnp.arrays(
            np.uint8,
            hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
            elements=st.integers(0, 2 ** min(bits, 8) - 1),
        )
    )
    ramp = chunk(b"PLTE", bytes(value for level in range(2**bits) for value in 3 * [255 - level])) if colour else b""
    path = write_png(folder / "labels.png", labels, bits, colour, ramp)
    for voc_labels in (0, 21):
        read = read_labels(path, voc_labels)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits", "group4"])
@pytest.mark.parametrize(
    ("mode", "end"),
    [
        ("1", "tif"),
        ("L", "tif"),
        ("P", "tif"),
        ("I;16", "tif"),
        ("I;16B", "tif"),
        ("I", "tif"),
        ("1", "bmp"),
        ("L", "bmp"),
        ("P", "bmp"),
    ],
)
def test_lossless_containers_give_the_labels(folder, mode, end, compression):
    if end == "bmp" and compression or compression == "group4" and mode != "1":
        pytest.skip("no such file")
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8) % (2 if mode == "1" else 48)
    dtype = {"1": bool, "I": np.int32, "I;16": "<u2", "I;16B": ">u2"}.get(mode, np.uint8)
    image = Image.fromarray(labels.astype(dtype))
    if mode == "P":
        image.putpalette(bytes(range(255, -1, -1)) * 3)
    path = save(folder / f"labels.{end}", image, **({"compression": compression} if compression else {}))
    np.testing.assert_array_equal(read_labels(path), labels)


def colours_of(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(voc_palette()[labels])


voc_maps = hnp.arrays(np.uint8, (5, 6), elements=st.sampled_from([*range(21), 255]))


@quick
@given(voc_maps, st.permutations(range(256)), st.sampled_from(["permuted", "adaptive", "colours"]))
def test_vocs_colours_mean_vocs_labels_whatever_the_index(folder, labels, order, how):
    if how == "permuted":
        image = Image.fromarray(np.argsort(order).astype(np.uint8)[labels])
        image.putpalette(voc_palette()[order].tobytes())
    else:
        image = colours_of(labels) if how == "colours" else colours_of(labels).quantize(256)
    np.testing.assert_array_equal(read_labels(save(folder / "voc.png", image), 21), labels)
    if how == "permuted":  # where the classes are not VOC's, the indices are the labels
        np.testing.assert_array_equal(read_labels(folder / "voc.png"), np.asarray(image))


def test_other_palettes_leave_the_indices_alone(folder):
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    for colours in (
        [(0, 0, 0), (255, 0, 0), (0, 128, 0), (9, 9, 9)],
        [(0, 0, 0)] * 4,
    ):  # a colour not VOC's; no colours
        palette = np.zeros((256, 3), np.uint8)
        palette[labels[0]] = colours
        image = Image.fromarray(labels)
        image.putpalette(palette.tobytes())
        np.testing.assert_array_equal(read_labels(save(folder / "own.png", image), 21), labels)


def pages(mode: str = "L", count: int = 2) -> dict:
    return {"save_all": True, "append_images": [Image.new(mode, (6, 4), 1)] * (count - 1)}


@pytest.mark.parametrize(
    ("mode", "name", "options", "message"),
    [
        ("L", "a.jpg", {}, "is a JPEG: its compression changes labels .* Export the label map again as a PNG"),
        ("L", "a.webp", {"lossless": True}, "is a WEBP: .* Export"),
        ("L", "a.jp2", {}, "is a JPEG2000: .* Export"),
        ("L", "a.tif", {"compression": "jpeg"}, "is a TIFF with jpeg compression: .* Export"),
        ("L", "a.gif", {}, "is a label map as GIF, .* Save the label numbers"),
        ("L", "a.pgm", {}, "is a label map as PPM, .* Save the label numbers"),
        ("L", "a.tif", {"tiffinfo": {262: 0}}, "is a TIFF in which 0 is white, .* Save the label numbers"),
        ("L", "a.tif", pages(), "holds 2 pages or frames: save the one that counts"),
        ("L", "a.png", pages(count=3), "holds 3 pages or frames: save the one that counts"),
        ("LA", "a.png", {}, "is a label map of mode LA, .* Save the label numbers"),
        ("RGBA", "a.png", {}, "is a label map of mode RGBA, .* Save the label numbers"),
        ("RGB", "a.png", {}, "is a label map in RGB with the colour .1, 0, 0., .* Save the label numbers"),
        ("F", "a.tif", {}, "is a label map of mode F, .* Save the label numbers"),
        ("I;16", "a.png", {}, "holds the labels 0 to 256: number the classes from 0"),
    ],
)  # fmt: skip
def test_what_is_no_label_map(folder, mode, name, options, message):
    image = Image.new(mode, (6, 4))
    image.putpixel((0, 0), {"RGB": (1, 0, 0), "I;16": 256}.get(mode, image.getpixel((0, 0))))
    path = save(folder / name, image, **options)
    with pytest.raises(ValueError, match=rf"{name} {message}"):
        read_labels(path, 21)
    if mode not in ("I;16", "RGB"):  # of those the pixels tell
        with pytest.raises(ValueError, match=rf"{name} {message}"):
            read_header(path, labels=True)


# --- pictures -----------------------------------------------------------------------------------------------------

SKY = (40, 120, 200)
DEEP = 257 * 200


def solid(mode: str, value) -> Image.Image:
    return Image.new(mode, (6, 4), value)


def indexed() -> Image.Image:
    image = solid("P", 7)
    image.putpalette(bytes(21) + bytes(SKY))
    return image


@pytest.mark.parametrize("upload", [False, True])
@pytest.mark.parametrize(
    ("image", "end", "options", "rgb"),
    [
        (solid("1", 1), "png", {}, (255, 255, 255)),
        (solid("L", 90), "png", {}, (90, 90, 90)),
        (solid("L", 90), "png", {"transparency": 90}, (255, 255, 255)),
        (solid("LA", (90, 255)), "png", {}, (90, 90, 90)),
        (solid("LA", (90, 0)), "png", {}, (255, 255, 255)),
        (indexed(), "png", {}, SKY),
        (indexed(), "png", {"transparency": 7}, (255, 255, 255)),
        (indexed(), "gif", {}, SKY),
        (solid("RGB", SKY), "png", {}, SKY),
        (solid("RGB", SKY), "png", {"transparency": SKY}, (255, 255, 255)),
        (solid("RGBA", (*SKY, 255)), "png", {}, SKY),
        (solid("RGBA", (0, 0, 0, 0)), "webp", {"lossless": True}, (255, 255, 255)),
        (solid("RGBA", (0, 0, 0, 51)), "tif", {}, (204, 204, 204)),
        (solid("CMYK", (255, 0, 0, 0)), "tif", {}, (0, 255, 255)),
        (solid("CMYK", (255, 0, 0, 0)), "jpg", {"quality": 100}, (0, 255, 255)),
        pytest.param(solid("RGB", SKY).convert("YCbCr"), "tif", {}, SKY, marks=PILLOW_12),
        (solid("LAB", (255, 128, 128)), "tif", {}, (255, 255, 255)),
        (solid("I;16", DEEP), "png", {}, (200, 200, 200)),
        (solid("I;16", 65535), "png", {}, (255, 255, 255)),
        (solid("I;16", 0), "tif", {}, (0, 0, 0)),
        (Image.fromarray(np.full((4, 6), DEEP, ">u2")), "tif", {}, (200, 200, 200)),
        (solid("I", DEEP), "tif", {}, (200, 200, 200)),
        (solid("F", 1.0), "tif", {}, (255, 255, 255)),
        (solid("F", 0.4), "tif", {}, (102, 102, 102)),
        (solid("RGB", SKY), "jp2", {}, SKY),
        (solid("RGB", SKY), "ppm", {}, SKY),
        (solid("RGB", SKY), "bmp", {}, SKY),
    ],
)  # fmt: skip
def test_every_kind_of_picture_becomes_rgb(folder, image, end, options, rgb, upload):
    path = save(folder / f"picture.{end}", image, **options)
    pixels = read_image(io.BytesIO(path.read_bytes()), path.name, side=1024) if upload else read_image(path)
    assert (pixels.shape, pixels.dtype) == ((4, 6, 3), np.uint8)
    assert np.abs(pixels.astype(int) - rgb).max() <= {"YCbCr": 3, "LAB": 3, "RGBA": 1}.get(image.mode, 0)


def test_a_bmp_whose_grey_palette_has_few_entries_is_refused(folder):
    """Pillow takes 8 bits with a palette of black and white for 1 bit, and gives other pixels."""
    palette, rows = bytes([0, 0, 0, 0, 255, 255, 255, 0]), bytes([0, 1, 0, 1, 1, 1, 0, 0]) * 2
    info = struct.pack("<IiiHHIIiiII", 40, 8, 2, 1, 8, 0, len(rows), 0, 0, 2, 0)
    path = folder / "two.bmp"
    path.write_bytes(b"BM" + struct.pack("<IHHI", 62 + len(rows), 0, 0, 62) + info + palette + rows)
    for read in (read_image, read_labels):
        with pytest.raises(ValueError, match=r"two\.bmp is a BMP of 8 bits with a grey palette, .*: save a PNG"):
            read(path)


def test_of_sixteen_bits_in_colour_the_high_byte_counts(folder):
    values = np.array([[0, 257 * 40, 65535, 257 * 7, 257 * 8, 257 * 9]])  # two pixels
    path = write_png(folder / "deep.png", values, 16)
    data = path.read_bytes()
    head = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    path.write_bytes(data[:8] + chunk(b"IHDR", head) + data[33:])
    assert read_image(path).tolist() == [[[0, 40, 255], [7, 8, 9]]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.uint16([[0, 4095]]), "holds values up to 4095 of 65535, so that it would be nearly black: scale"),
        (np.int32([[0, 255]]), "holds values up to 255 of 65535"),
        (np.int32([[0, 70000]]), "holds integers from 0 to 70000: scale them to 0..255"),
        (np.int32([[-1, 9000]]), "holds integers from -1 to 9000"),
        (np.float32([[0, 255]]), "holds floats from 0 to 255: scale them to 0..1"),
        (np.float32([[-0.5, 0.5]]), "holds floats from -0.5 to 0.5"),
        (np.float32([[0, np.nan]]), "holds floats from nan to nan"),
        (np.float32([[0, np.inf]]), "holds floats from 0 to inf"),
    ],
)
def test_values_whose_meaning_is_open(folder, values, message):
    path = save(folder / "open.tif", Image.fromarray(values))
    with pytest.raises(ValueError, match=rf"open\.tif {message}"):
        read_image(path)


@pytest.mark.parametrize("end", ["tif", "gif", "png", "webp"])
def test_a_file_of_several_pages_is_refused_but_not_a_phones_photograph(folder, end):
    path = save(folder / f"pages.{end}", solid("RGB", SKY), **pages("RGB"))
    for read in (read_image, read_header):
        with pytest.raises(ValueError, match=rf"pages\.{end} holds 2 pages or frames: save the one that counts"):
            read(path)
    preview = [Image.new("RGB", (3, 2))]
    path = save(folder / "phone.jpg", solid("RGB", SKY), format="MPO", save_all=True, append_images=preview, quality=95)
    assert Image.open(path).format == "MPO"
    assert read_image(path).shape == (4, 6, 3)


# --- orientation --------------------------------------------------------------------------------------------------

UPRIGHT = {  # EXIF 2.3, tag 274: where the file's first row and first column are to be seen
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def flagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("flag", UPRIGHT)
@pytest.mark.parametrize(
    ("end", "options"),
    [
        ("png", {}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("jpg", {"quality": 100, "subsampling": 0}),
        ("webp", {"lossless": True}),
    ],
)
def test_pictures_and_label_maps_are_turned_as_their_flag_says(folder, flag, end, options):
    values = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    expected = UPRIGHT[flag](values)
    path = save(folder / f"turned.{end}", Image.fromarray(values).convert("RGB"), exif=flagged(flag), **options)
    for pixels in (read_image(path), read_image(io.BytesIO(path.read_bytes()), path.name, side=1024)):
        np.testing.assert_array_equal(pixels.shape, (*expected.shape, 3))
        assert np.abs(pixels.astype(int) - expected[..., None]).max() <= 2
    assert read_header(path) == (expected.shape[::-1], flag != 1)
    if end in ("png", "tif"):
        labels = Image.fromarray(values)
        labels.putpalette(voc_palette().tobytes())
        save(path, labels, exif=flagged(flag), **options)
        np.testing.assert_array_equal(read_labels(path, 21), expected)


def test_a_flag_that_nobody_can_read_turns_nothing(folder):
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f"):
        path = save(folder / "odd.jpg", solid("RGB", SKY), exif=exif)
        assert read_image(path).shape == (4, 6, 3)


# --- what cannot be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1500, 700])  # of Pillow: it warns beyond it, and refuses beyond twice as much
def test_a_picture_that_is_too_large_is_named(folder, monkeypatch, limit):
    path = save(folder / "large.png", Image.new("L", (50, 40)))
    assert read_image(path).shape == (40, 50, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for read in (
        read_image,
        read_labels,
        read_header,
        lambda path: read_image(io.BytesIO(path.read_bytes()), path.name),
    ):
        with pytest.raises(ValueError, match=r"large\.png has 0 million pixels, and 0 million are read: reduce it"):
            read(path)


def test_very_long_pictures_keep_one_pixel(folder):
    path = save(folder / "long.png", Image.new("RGB", (70000, 1), SKY))
    assert read_image(path).shape == (1, 70000, 3)
    assert read_image(path, side=1024).shape == (1, 1024, 3)


def damaged(seed: int) -> tuple[str, bytes]:
    """A small file in one of many formats with some bytes changed, left out or cut off."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    grey, exif = noise.convert("L"), flagged(6)
    kinds = [
        ("jpg", noise, {}), ("jpg", noise, {"progressive": True, "exif": exif}), ("jpg", noise.convert("CMYK"), {}),
        ("png", noise.quantize(20), {"exif": exif}), ("png", noise, {}), ("png", grey, {}), ("bmp", grey, {}),
        ("tif", grey, {}), ("tif", noise, {"compression": "tiff_deflate", "exif": exif}), ("webp", noise, {}),
        ("gif", noise, {"save_all": True, "append_images": [noise]}), ("jp2", noise, {}), ("ppm", noise, {}),
    ]  # fmt: skip
    end, image, options = kinds[seed % len(kinds)]
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "jpeg", "tif": "tiff", "jp2": "jpeg2000"}.get(end, end), **options)
    data = bytearray(buffer.getvalue())
    where = rng.integers(len(data) if seed % 2 else 60)
    match rng.integers(4):
        case 0:
            del data[where:]
        case 1:
            del data[where : where + rng.integers(1, 60)]
        case 2:
            data[where] = rng.choice([0, 127, 128, 255])
        case _:
            some = rng.integers(0, 256, rng.integers(1, 40), dtype=np.uint8).tobytes()
            data[where : where + len(some)] = some
    return end, bytes(data)


def outcome(read, path: Path):
    """What was read, or what was said."""
    try:
        return read(path)
    except ValueError as error:
        return str(error)


@pytest.mark.filterwarnings("error")
def test_whatever_is_damaged_is_named_and_nothing_is_printed(folder):
    said = []
    for seed in range(200):
        end, data = damaged(seed)
        path = folder / f"damaged_{seed}.{end}"
        path.write_bytes(data)
        outcomes = [outcome(read, path) for read in (read_image, read_labels, read_header)]
        said += [(path.name, found) for found in outcomes if isinstance(found, str)]
    assert len(said) > 200
    assert [message for name, message in said if name not in message] == []


@pytest.mark.parametrize("end", ["jpg", "png", "tif", "bmp", "webp", "gif"])
def test_a_truncated_picture_is_an_error_and_no_grey_half(folder, end):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    path = save(folder / f"whole.{end}", Image.fromarray(noise))
    data, whole, refused = path.read_bytes(), read_image(path), 0
    for keep in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:keep])
        found = outcome(read_image, path)
        if isinstance(found, str):
            refused += 1
            assert f"whole.{end} cannot be decoded" in found
            assert "fetch or export it again" in found
        else:  # it lacks nothing but its end
            np.testing.assert_array_equal(found, whole)
    assert refused > 35
