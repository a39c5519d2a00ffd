"""Checks of lab 01, the data: colours, reading VOC, joint augmentation."""

import operator
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labhelpers import data
from labhelpers.course.checks import references
from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, exercise
from labhelpers.course.checks.voc_folder import SPLITS, decoys, write_voc


@exercise("voc_palette", data.voc_palette)
def voc_palette(check: Check, answer) -> None:
    """All 256 colours of the VOC bit formula, uint8 (256, 3), RGB."""
    expected = data.voc_palette()
    labels = np.arange(256)

    def by_bits(shift, place):
        palette = np.zeros((256, 3), np.uint8)
        for level in range(8):
            for channel in range(3):
                palette[:, channel] |= (((labels >> shift(level, channel)) & 1) << place(level)).astype(np.uint8)
        return palette

    mistakes = [
        (expected[:, ::-1], "red and blue are exchanged: bit 0 of the label belongs to red, bit 2 to blue."),
        (expected[:21], "only the 21 classes have a colour: make all 256 rows, since row 255 colours the rims."),
        (expected[:22], "only 22 rows: make all 256, so that the label itself is the row, 255 for the rims too."),
        (expected / 255, "the colours run from 0 to 1: make them bytes, 0 to 255, dtype uint8."),
        (
            by_bits(lambda level, channel: 3 * level + channel, lambda level: level),
            "the bits are filled in from the lowest: the first three bits of the label give the highest bit (7) of "
            "red, green and blue, the next three bit 6, and so on (7 - j, not j).",
        ),
        (
            by_bits(lambda level, channel: channel, lambda level: 7 - level),
            "every round reads bits 0, 1, 2 of the label again: move on to the next three bits (label >> 3) after "
            "each.",
        ),
        (
            by_bits(lambda level, channel: level + channel, lambda level: 7 - level),
            "each round moves on by one bit of the label: it must move by three, one each for red, green and blue.",
        ),
    ]
    check.equal(check.call(answer), expected, "the palette", mistakes)


@exercise("decode_target", data.decode_target)
def decode_target(check: Check, answer) -> None:
    """A tensor and an array, all classes and void, an area that is not square; the input must stay as it was."""
    target = np.random.default_rng(0).integers(0, 21, (7, 9), dtype=np.uint8)
    target[:3, :7] = np.arange(21).reshape(3, 7)
    target[3:5, 2:6] = 255
    expected = data.decode_target(target)
    mistakes = [
        (expected[..., ::-1], "red and blue are exchanged (BGR): colours are RGB here."),
        (expected / 255, "the colours run from 0 to 1: make them bytes, 0 to 255, dtype uint8."),
        (expected.max(2), "one value for each pixel: index the palette with the labels to get three, palette[target]."),
    ]
    for colour, name in (((0, 0, 0), "black"), ((255, 255, 255), "white")):
        lost = np.where((target == 255)[..., None], np.array(colour, np.uint8), expected)
        mistakes.append((lost, f"the void pixels (255) are {name}: they get the rim colour (224, 224, 192)."))
    as_mask = {"mask": "torch takes a uint8 tensor as index for a mask: turn the labels into integers with `.long()`."}
    for kind, given in (("an array", target), ("a tensor", torch.from_numpy(target))):
        found = check.call(answer, given, when=f"for {kind} as target", errors=as_mask)
        check.equal(found, expected, f"the picture of {kind}", mistakes)
    background = np.zeros((2, 3), np.uint8)
    check.equal(check.call(answer, background), np.zeros((2, 3, 3), np.uint8), "the picture of background alone")


@exercise("VOCDataset", data.VOCSegmentation)
def voc_dataset(check: Check, answer) -> None:
    """A folder of six small files in VOC layout: length, order, pixels and labels of both splits."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_voc(Path(folder))
        for split, names in SPLITS.items():
            dataset = check.call(answer, root, split, when="while it is made")
            _check_length(check, check.call(partial(len, dataset)), split, root)
            expected = data.VOCSegmentation(root, split)
            for index, name in enumerate(names):
                item = check.call(partial(operator.getitem, dataset), index, when=f"for item {index} of {split}")
                pair = isinstance(item, (tuple, list)) and len(item) == 2
                check.that(pair, f"item {index} is {kind_of(item)}, expected the pair (image, target).")
                image, target = item
                swapped = getattr(image, "ndim", 0) == 2 and getattr(target, "ndim", 0) == 3
                check.that(not swapped, "the pair is (target, image), expected (image, target).")
                wrong_images, wrong_targets = decoys(root, split, name)
                # Decoders of JPEG may round differently by a level or two.
                check.equal(image, expected[index][0], f"the image of item {index} ({name})", wrong_images, 2.5)
                check.equal(target, expected[index][1], f"the target of item {index} ({name})", wrong_targets)


def _check_length(check: Check, found: int, split: str, root: Path) -> None:
    expected, everything = len(SPLITS[split]), len(list((root / "JPEGImages").iterdir()))
    hints = {
        everything: f"it counts every file in the folder: only the names in ImageSets/Segmentation/{split}.txt belong "
        "to it.",
        expected + 1: f"does it count the empty line at the end of {split}.txt as a name? (`.split()` drops it.)",
    }
    hint = hints.get(found, f"read the names in ImageSets/Segmentation/{split}.txt, one per line.")
    check.that(found == expected, f"its length for the split {split} is {found}, expected {expected}: {hint}")


@exercise("joint_crop_flip", references.joint_crop_flip)
def joint_crop_flip(check: Check, answer) -> None:
    """Windows inside the image and across each of its edges, with and without flip; image and target separately."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(1, 256, (3, 9, 12), dtype=np.uint8))
    target = torch.from_numpy(rng.integers(1, 21, (9, 12), dtype=np.uint8))
    for where, top, left, size, flip in (
        ("inside", 1, 4, 5, False),
        ("inside", 1, 4, 5, True),
        ("across the bottom right corner", 5, 8, 6, False),
        ("across the top left corner", -2, -3, 6, False),
        ("across the top right corner", -1, 8, 7, True),
        ("larger than the image", -2, -1, 15, True),
    ):
        window = f"the window {where} (top {top}, left {left}, size {size}, flip {flip})"
        found = check.call(answer, image, target, top, left, size, flip, when=f"for {window}")
        pair = isinstance(found, (tuple, list)) and len(found) == 2
        check.that(pair, f"it returns {kind_of(found)}, expected the pair (image, target).")
        for name, given, result, fill, other in (
            ("image", image, found[0], 0, 255),
            ("target", target, found[1], 255, 0),
        ):
            plain = references.crop(given, top, left, size, fill)
            expected = plain.flip(-1) if flip else plain
            mistakes = _window_mistakes(name, given, top, left, size, flip, fill, other)
            check.equal(result, expected, f"the {name} of {window}", mistakes)


def _window_mistakes(name: str, x: Tensor, top: int, left: int, size: int, flip: bool, fill: int, other: int) -> list:
    def mirrored(window):
        return window.flip(-1) if flip else window

    plain = references.crop(x, top, left, size, fill)
    inside = [min(max(start, 0), max(side - size, 0)) for start, side in ((top, x.shape[-2]), (left, x.shape[-1]))]
    clipped = x[..., max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
    sliced = x[..., top : top + size, left : left + size]
    smaller = f"the {name} is smaller than asked: fill what lies outside with {fill}"
    return [
        (mirrored(references.crop(x, top, left, size, other)), f"outside the image the {name} is {fill}, not {other}."),
        (plain, f"the {name} is not flipped: image and target need the same flip."),
        (plain.flip(-2), f"the {name} is flipped top to bottom: flip left to right, the last axis."),
        (plain.flip(-1), f"the {name} is flipped although flip is False."),
        (
            references.crop(x.flip(-1), top, left, size, fill),
            f"the {name} is flipped before it is cropped, so it shows another window: crop first, then flip.",
        ),
        (mirrored(references.crop(x, left, top, size, fill)), "top and left are exchanged: top counts rows."),
        (mirrored(clipped), f"{smaller}, so that its shape is always ({size}, {size})."),
        (
            mirrored(sliced),
            f"{smaller} (a slice stops at the edge, and a negative start counts from the other end).",
        ),
        (
            mirrored(references.crop(x, *inside, size, fill)),
            f"the window is moved back into the image: keep it where it is and fill what lies outside with {fill}.",
        ),
    ]
