"""Each check of lab 01 accepts answers written in different ways and names the mistake of wrong ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from judging import assert_hint, assert_passes
from PIL import Image
from torch.nn import functional
from torch.utils.data import Dataset

from labhelpers import data

# ---------------------------------------------------------------- voc_palette


def palette(shift=3, place=lambda level: 7 - level, rows=256, order=(0, 1, 2)):
    """The bit formula as most people write it, with room for mistakes."""
    colours = np.zeros((rows, 3), dtype=np.uint8)
    for label in range(rows):
        rest = label
        for level in range(8):
            for channel, bit in zip(order, range(3), strict=True):
                colours[label, channel] |= ((rest >> bit) & 1) << place(level)
            rest >>= shift
    return colours


def palette_by_strings():
    def colour(label):
        bits = f"{label:024b}"[::-1]
        return [int(bits[channel::3], 2) for channel in range(3)]

    return np.array([colour(label) for label in range(256)], dtype="uint8")


@pytest.mark.parametrize("answer", [palette, palette_by_strings])
def test_palette_accepts(answer):
    assert_passes("voc_palette", answer)


def one_colour_off():
    colours = palette()
    colours[200, 1] ^= 1
    return colours


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda: palette(order=(2, 1, 0)), "red and blue"),
        (lambda: palette(place=lambda level: level), "7 - j"),
        (lambda: palette(shift=0), "again"),
        (lambda: palette(shift=1), "by three"),
        (lambda: palette(rows=21), "all 256"),
        (lambda: palette(rows=22), "255 for the rims"),
        (lambda: palette() / 255, "0 to 255"),
        (lambda: palette().astype(int), "dtype is int64; expected uint8"),
        (lambda: palette().T, "axes in another order"),
        (lambda: torch.from_numpy(palette()), "`.numpy()`"),
        (one_colour_off, "first at [200, 1]"),
    ],
)
def test_palette_rejects(answer, hint):
    assert_hint("voc_palette", answer, hint)


# -------------------------------------------------------------- decode_target


def decode_by_index(target):
    return palette()[np.asarray(target)]


def decode_by_loop(target):
    target = torch.as_tensor(target)
    out = np.empty((*target.shape, 3), np.uint8)
    for label, colour in enumerate(palette()):
        out[(target == label).numpy()] = colour
    return out


@pytest.mark.parametrize("answer", [decode_by_index, decode_by_loop])
def test_decode_target_accepts(answer):
    assert_passes("decode_target", answer)


def decode_with_void(colour):
    def answer(target):
        out = decode_by_index(target)
        out[np.asarray(target) == 255] = colour
        return out

    return answer


def decode_in_place(target):
    target[target == 255] = 0
    return decode_by_index(target)


def decode_by_mask(target):
    return torch.from_numpy(palette()[:22])[torch.as_tensor(target)].numpy()


def decode_one_pixel_off(target):
    out = decode_by_index(target).copy()
    out[-1, -1] = 7
    return out


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (decode_with_void((0, 0, 0)), "are black"),
        (decode_with_void((255, 255, 255)), "are white"),
        (lambda target: decode_by_index(target)[..., ::-1], "BGR"),
        (lambda target: decode_by_index(target) / 255, "0 to 255"),
        (lambda target: decode_by_index(target).transpose(2, 0, 1), "axes in another order"),
        (lambda target: decode_by_index(target).transpose(1, 0, 2), "axes in another order"),
        (lambda target: torch.from_numpy(decode_by_index(target)), "`.numpy()`"),
        (lambda target: decode_by_index(target.numpy()), "AttributeError for an array as target"),
        (lambda target: decode_by_index(target.astype(int)), "AttributeError for a tensor as target"),
        (decode_in_place, "in place"),
        (decode_by_mask, "`.long()`"),
        (decode_one_pixel_off, "first at [6, 8, 0]"),
    ],
)
def test_decode_target_rejects(answer, hint):
    assert_hint("decode_target", answer, hint)


# ----------------------------------------------------------------- VOCDataset


class VOCDataset(Dataset):
    """A student's reader, with a place for each mistake."""

    def __init__(self, root, split):
        self.root = Path(root)
        self.names = self.read_names(self.root / "ImageSets" / "Segmentation" / f"{split}.txt")

    def read_names(self, path):
        return path.read_text().split()

    def image(self, name):
        return Image.open(self.root / "JPEGImages" / f"{name}.jpg").convert("RGB")

    def mask(self, name):
        return Image.open(self.root / "SegmentationClass" / f"{name}.png")

    def to_image(self, image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def to_target(self, mask):
        return torch.from_numpy(np.array(mask))

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        return self.to_image(self.image(self.names[i])), self.to_target(self.mask(self.names[i]))


class ListOfFiles(Dataset):
    """The same without a method for each step, with lists and as_tensor."""

    def __init__(self, root, split):
        with open(f"{root}/ImageSets/Segmentation/{split}.txt") as lines:
            names = [line.strip() for line in lines]
        self.files = [(f"{root}/JPEGImages/{name}.jpg", f"{root}/SegmentationClass/{name}.png") for name in names]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        image, mask = (Image.open(file) for file in self.files[i])
        red, green, blue = (torch.as_tensor(np.array(channel)) for channel in image.split())
        return [torch.stack([red, green, blue]), torch.as_tensor(np.array(mask))]


@pytest.mark.parametrize("answer", [VOCDataset, ListOfFiles])
def test_voc_dataset_accepts(answer):
    assert_passes("voc_dataset", answer)


def variant(**methods):
    return type("VOCDataset", (VOCDataset,), methods)


def void_lost(self, mask):
    target = torch.from_numpy(np.array(mask))
    return torch.where(target == 255, 0, target)


def one_label_off(self, mask):
    target = torch.from_numpy(np.array(mask))
    target[-1, -1] = 3
    return target


WRONG_DATASETS = [
    (variant(mask=lambda self, name: VOCDataset.mask(self, name).convert("RGB")), 'without convert("RGB")'),
    (
        variant(
            mask=lambda self, name: VOCDataset.mask(self, name).convert("RGB"),
            to_target=lambda self, mask: VOCDataset.to_image(self, mask),
        ),
        'without convert("RGB")',
    ),
    (variant(mask=lambda self, name: VOCDataset.mask(self, name).convert("L")), 'without convert("L")'),
    (variant(to_image=lambda self, image: torch.from_numpy(np.array(image))), "axes in another order"),
    (variant(to_image=lambda self, image: VOCDataset.to_image(self, image).flip(0)), "BGR"),
    (variant(to_image=lambda self, image: VOCDataset.to_image(self, image) / 255), "ToTensor"),
    (variant(to_target=lambda self, mask: torch.from_numpy(np.array(mask))[None] / 255), "divided by 255"),
    (variant(to_target=lambda self, mask: torch.from_numpy(np.array(mask)).long()), "expected torch.uint8"),
    (variant(to_target=lambda self, mask: torch.from_numpy(np.array(mask))[None]), "an axis too many"),
    (variant(to_target=void_lost), "keep it"),
    (variant(to_target=one_label_off), "first at [19, 27]"),
    (
        variant(mask=lambda self, name: Image.open(self.root / "SegmentationObject" / f"{name}.png")),
        "SegmentationObject",
    ),
    (variant(read_names=lambda self, path: sorted(path.read_text().split())), "sorted folder"),
    (
        variant(read_names=lambda self, path: sorted(p.stem for p in path.parents[2].glob("JPEGImages/*"))),
        "every file",
    ),
    (variant(read_names=lambda self, path: path.read_text().split("\n")), "empty line"),
    (
        variant(read_names=lambda self, path: path.with_name("train.txt").read_text().split()),
        "its length for the split val is 3, expected 2",
    ),
    (variant(to_image=lambda self, image: np.array(image).transpose(2, 0, 1)), "torch.from_numpy"),
    (variant(to_image=lambda self, image: image), "a value of type Image, expected a torch tensor"),
    (variant(__getitem__=lambda self, i: VOCDataset.__getitem__(self, i)[::-1]), "(target, image)"),
    (variant(__getitem__=lambda self, i: VOCDataset.__getitem__(self, i)[0]), "expected the pair"),
    (variant(__getitem__=lambda self, i: None), "not written yet"),
    (variant(__getitem__=Dataset.__getitem__), "not written yet"),
    (variant(__len__=None), "TypeError"),
]


@pytest.mark.parametrize(("answer", "hint"), WRONG_DATASETS)
def test_voc_dataset_rejects(answer, hint):
    assert_hint("voc_dataset", answer, hint)


# ------------------------------------------------------------ joint_crop_flip


def crop_by_padding(image, target, top, left, size, flip):
    def window(x, fill):
        x = functional.pad(x, (size,) * 4, value=fill)[..., top + size :, left + size :][..., :size, :size]
        return x.flip(-1) if flip else x

    return window(image, 0), window(target, 255)


def crop_by_indices(image, target, top, left, size, flip):
    rows, columns = torch.arange(top, top + size), torch.arange(left, left + size)
    if flip:
        columns = columns.flip(0)
    height, width = target.shape
    outside = ((rows < 0) | (rows >= height))[:, None] | ((columns < 0) | (columns >= width))
    rows, columns = rows.clamp(0, height - 1)[:, None], columns.clamp(0, width - 1)
    image = torch.where(outside, torch.zeros((), dtype=torch.uint8), image[:, rows, columns])
    return image, target[rows, columns].masked_fill(outside, 255)


@pytest.mark.parametrize("answer", [crop_by_padding, crop_by_indices])
def test_joint_crop_flip_accepts(answer):
    assert_passes("joint_crop_flip", answer)


def crop_flips_image_only(image, target, top, left, size, flip):
    return (
        crop_by_padding(image, target, top, left, size, flip)[0],
        crop_by_padding(image, target, top, left, size, False)[1],
    )


def crop_vertical(image, target, top, left, size, flip):
    pair = crop_by_padding(image, target, top, left, size, False)
    return tuple(x.flip(-2) for x in pair) if flip else pair


def crop_background(image, target, top, left, size, flip):
    padded = torch.where(crop_by_padding(image, target + 0, top, left, size, flip)[1] == 255, 0, 1)
    image, target = crop_by_padding(image, target, top, left, size, flip)
    return image, (target * padded).to(torch.uint8)


def crop_white(image, target, top, left, size, flip):
    image, target = crop_by_padding(image, target, top, left, size, flip)
    return torch.where(target == 255, 255, image).to(torch.uint8), target


def crop_flip_first(image, target, top, left, size, flip):
    if flip:
        image, target = image.flip(-1), target.flip(-1)
    return crop_by_padding(image, target, top, left, size, False)


def crop_slices(image, target, top, left, size, flip):
    image, target = image[:, top : top + size, left : left + size], target[top : top + size, left : left + size]
    return (image.flip(-1), target.flip(-1)) if flip else (image, target)


def crop_moved_inside(image, target, top, left, size, flip):
    height, width = target.shape
    top, left = max(0, min(top, height - size)), max(0, min(left, width - size))
    return crop_by_padding(image, target, top, left, size, flip)


def crop_one_pixel_off(image, target, top, left, size, flip):
    image, target = crop_by_padding(image, target, top, left, size, flip)
    target = target.clone()
    target[0, 0] = 77
    return image, target


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (crop_flips_image_only, "the target is not flipped"),
        (lambda i, t, top, left, size, flip: crop_by_padding(i, t, top, left, size, False), "the image is not flipped"),
        (lambda i, t, top, left, size, flip: crop_by_padding(i, t, top, left, size, True), "although flip is False"),
        (crop_vertical, "top to bottom"),
        (crop_background, "the target is 255, not 0"),
        (crop_white, "the image is 0, not 255"),
        (crop_flip_first, "crop first, then flip"),
        (lambda i, t, top, left, size, flip: crop_by_padding(i, t, left, top, size, flip), "top and left"),
        (crop_slices, "fill what lies outside"),
        (crop_moved_inside, "moved back"),
        (
            crop_one_pixel_off,
            "first at [0, 0]",
        ),
        (lambda *given: crop_by_padding(*given)[0], "expected the pair"),
        (lambda *given: tuple(x.float() for x in crop_by_padding(*given)), "expected torch.uint8"),
    ],
)
def test_joint_crop_flip_rejects(answer, hint):
    assert_hint("joint_crop_flip", answer, hint)


def test_reference_reads_as_the_student_class_is_called(tmp_path):
    from labhelpers.course.checks.lab01 import _SPLITS, _write_voc

    dataset = data.VOCSegmentation(_write_voc(tmp_path), "train")
    assert dataset.ids == list(_SPLITS["train"])
