"""Checks of lab 01: colours, reading VOC, what is in the data, the scores, joint augmentation."""

import operator
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from labhelpers import data, evaluation
from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, kind_of, run_tuple
from labhelpers.data.base import png

# ---------------------------------------------------------- has_two_of_a_kind


def _has_two_of_a_kind(target: Tensor, objects: Tensor) -> bool:
    """Label maps uint8 (H, W) of classes and of objects: whether a class has two objects or more."""
    return len(objects.unique()) > len(target.unique())  # each object has one class, and so have background and void


def _kinds() -> Iterator[Case]:
    """Rows of (classes, objects): 8 and 16 are classes, 0 background, 255 the rims."""
    for when, classes, objects in (
        ("with two objects of one class", [0, 255, 8, 255, 8, 255], [0, 255, 1, 255, 2, 255]),
        ("with one object of each of two classes", [0, 255, 8, 255, 16, 255], [0, 255, 1, 255, 2, 255]),
        ("with one object", [0, 255, 8, 8, 255, 0], [0, 255, 1, 1, 255, 0]),
        ("with background alone", [0] * 6, [0] * 6),
        ("with three objects, two of them of class 16", [8, 8, 16, 16, 255, 16], [1, 1, 2, 2, 255, 3]),
        ("that an object fills", [8] * 6, [1] * 6),
    ):
        maps = (torch.tensor(row, dtype=torch.uint8).view(2, 3) for row in (classes, objects))
        yield Case(tuple(maps), f"for an image {when}", "the answer")


has_two_of_a_kind = Exercise(
    "has_two_of_a_kind",
    _has_two_of_a_kind,
    cases=_kinds,
    wrong={
        "two objects are there, but of two classes: look up the class of each object in the target.": {
            "len(objects.unique()) > len(target.unique())": "len(objects[objects % 255 > 0].unique()) > 1"
        },
        "it counts the classes: count how often each of them occurs among the objects.": {
            "len(objects.unique()) > len(target.unique())": "len(target[target % 255 > 0].unique()) > 1"
        },
        "it answers the other way round: True if a class occurs twice, False if each occurs once.": {"> len": "<= len"},
        "it is True for every image with an object: one object alone has no second of its kind.": {
            "return ": "return bool((target % 255 > 0).any()) or "
        },
    },
)

# ---------------------------------------------------------------- voc_palette

_BYTES = "the colours run from 0 to 1: make them bytes, 0 to 255, dtype uint8."

voc_palette = Exercise(
    "voc_palette",
    data.voc_palette,
    cases=lambda: [Case((), what="the palette")],
    errors={"Cannot cast ufunc": "the table is of bytes, the bits are not: turn them with `.astype(np.uint8)`."},
    wrong={
        "red and blue are exchanged: bit 0 of the label belongs to red, bit 2 to blue.": {
            "return palette": "return palette[:, ::-1]"
        },
        "only the 21 classes have a colour: make all 256 rows, since row 255 colours the rims.": {
            "return palette": "return palette[:21]"
        },
        "only 22 rows: make all 256, so that the label itself is the row, 255 for the rims too.": {
            "return palette": "return palette[:22]"
        },
        _BYTES: {"return palette": "return palette / 255"},
        "the bits are filled in from the lowest: the first three bits of the label give the highest bit (7) of red, "
        "green and blue, the next three bit 6, and so on (7 - j, not j).": {"7 - level": "level"},
        "every round reads bits 0, 1, 2 of the label again: move on to the next three bits (label >> 3) after each.": {
            "3 * level + channel": "channel"
        },
        "each round moves on by one bit of the label: it must move by three, one each for red, green and blue.": {
            "3 * level + channel": "level + channel"
        },
        "bits 0, 1, 2 of the label all go to red: they are for red, green and blue (channel k % 3, bit 7 - k // 3).": {
            "3 * level + channel": "3 * channel + level if level < 3 else 8"
        },
        # What is left of each colour is the last of the label's eight bits that belongs to it.
        "each bit wipes out the one before it in its colour: add it with `|=`, not `=`.": {
            "return palette": "return palette & [32, 32, 64]"
        },
    },
)

# -------------------------------------------------------------- decode_target


def _label_pictures() -> Iterator[Case]:
    """A tensor and an array with all classes and void, in an area that is not square; background alone."""
    target = np.random.default_rng(0).integers(0, 21, (7, 9), dtype=np.uint8)
    target[:3, :7] = np.arange(21).reshape(3, 7)
    target[3:5, 2:6] = 255
    yield Case((target,), "for an array as target", "the picture")
    yield Case((torch.from_numpy(target),), "for a tensor as target", "the picture")
    yield Case((np.zeros((2, 3), np.uint8),), "of background alone", "the picture")


decode_target = Exercise(
    "decode_target",
    data.decode_target,
    cases=_label_pictures,
    errors={"mask": "torch takes a uint8 tensor as index for a mask: turn the labels into integers with `.long()`."},
    wrong={
        "red and blue are exchanged (BGR): colours are RGB here.": {"[labels]": "[labels][..., ::-1]"},
        _BYTES: {"[labels]": "[labels] / 255"},
        "one value for each pixel: index the palette with the labels to get three, palette[target].": {
            "[labels]": "[labels].max(2)"
        },
        "the void pixels (255) are black: they get the rim colour (224, 224, 192).": {"[labels]": "[labels % 255]"},
        "the void pixels (255) are white: they get the rim colour (224, 224, 192).": {
            "VOC_PALETTE[labels]": "np.where(labels[..., None] == 255, 255, VOC_PALETTE[labels])"
        },
    },
)

# ----------------------------------------------------------------- VOCDataset

# As in the real lists, the order is not the one of a sorted folder; one picture belongs to no split.
_SPLITS = {"train": ("2008_000007", "2007_000032", "2007_000129"), "val": ("2007_000061", "2007_000033")}
_NAMES = [*_SPLITS["train"], *_SPLITS["val"], "2007_000001"]
_SIZES = ((20, 28), (24, 18), (17, 23), (22, 26), (19, 21), (16, 30))  # height, width


def _write_voc(root: Path) -> Path:
    """Write a folder of six small pictures in VOC layout, and return it."""
    for name in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for split, names in _SPLITS.items():
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for number, (name, (height, width)) in enumerate(zip(_NAMES, _SIZES, strict=True)):
        y, x = np.mgrid[:height, :width]
        # Smooth, so that every JPEG decoder agrees; a different slope in each channel, so that nothing is symmetric.
        channels = (20 + 30 * number + 2 * y, 230 - 4 * x, 60 + 3 * y + x)
        photo = Image.fromarray(np.stack(channels, 2).clip(0, 255).astype(np.uint8))
        photo.save(root / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
        labels = np.zeros((height, width), np.uint8)
        labels[3:-4, 4:-6] = 255
        labels[4:-5, 5:-7] = 15 + number
        labels[5:8, 6:9] = 20
        objects = np.where(labels == 20, 2, np.where(labels == 15 + number, 1, labels))
        for folder, values in (("SegmentationClass", labels), ("SegmentationObject", objects)):
            (root / folder / f"{name}.png").write_bytes(png(values.astype(np.uint8)))
    return root


def _read_split(check: Check, answer: Callable, case: Case) -> Parts:
    """Length of the split, and the pictures and labels in it, of a folder that exists only in the meantime."""
    (split,) = case.args
    with tempfile.TemporaryDirectory() as folder:
        dataset = check.call(answer, _write_voc(Path(folder)), split, when="while it is made")
        length = check.call(partial(len, dataset))
        found = Parts({f"its length for the split {split}": length})
        for index, name in enumerate(_SPLITS[split] if length == len(_SPLITS[split]) else ()):
            item = check.call(partial(operator.getitem, dataset), index, when=f"for item {index} of {split}")
            pair = isinstance(item, (tuple, list)) and len(item) == 2
            check.that(pair, f"item {index} is {kind_of(item)}, expected the pair (image, target).")
            swapped = getattr(item[0], "ndim", 0) == 2 and getattr(item[1], "ndim", 0) == 3
            check.that(not swapped, "the pair is (target, image), expected (image, target).")
            found[f"the image of item {index} ({name})"], found[f"the target of item {index} ({name})"] = item
    return found


def _changed(image: Callable = torch.as_tensor, target: Callable = torch.as_tensor) -> Callable:
    """The reader that changes what the right one reads; the check asks for no more of a data set than of a list."""

    def answer(root: Path, split: str) -> list[tuple[Tensor, Tensor]]:
        right = data.VOCSegmentation(root, split)
        return [(image(right.load_image(i)), torch.as_tensor(target(right.load_target(i)))) for i in range(len(right))]

    return answer


_LIST = "the list ImageSets/Segmentation/<split>.txt"

voc_dataset = Exercise(
    "VOCDataset",
    data.VOCSegmentation,
    cases=lambda: [Case((split,)) for split in _SPLITS],
    run=_read_split,
    # Decoders of JPEG may round differently by a level or two.
    tolerance=lambda expected: 2.5 if getattr(expected, "ndim", 0) == 3 else 0,
    wrong={
        f"it counts every file in the folder: only the names in {_LIST} belong to it.": {
            "read_names(listed, pictures)": "list(pictures)"
        },
        "does it count the empty line at the end of the list as a name? (`.split()` drops it.)": (
            lambda root, split: [*_SPLITS[split], ""]
        ),
        f"it reads the same names for every split: read {_LIST}.": {"self.root, split": "self.root, 'train'"},
        # Whichever picture stands in a place, one of these has it there.
        "it is another image than the list has there: keep names and order of the list, not of the sorted folder.": [
            {"read_names(listed, pictures)": f"np.roll([*pictures], {n})[: len(read_names(listed, pictures))].tolist()"}
            for n in range(len(_NAMES))
        ],
        "the channels are in the order BGR, as OpenCV reads them: they are RGB here.": _changed(lambda x: x.flip(0)),
        "the image is float from 0 to 1 (did ToTensor do that?): keep its bytes, uint8, and let the device convert.": (
            _changed(lambda x: x / 255)
        ),
        'the target holds colours, not class numbers: open the palette PNG without convert("RGB").': [
            _changed(target=data.decode_target),
            _changed(target=lambda x: data.decode_target(x).transpose(2, 0, 1)),
        ],
        'the target holds grey levels of the colours, not class numbers: open the palette PNG without convert("L").': (
            _changed(target=lambda x: np.array(Image.fromarray(data.decode_target(x)).convert("L")))
        ),
        "these are object numbers from SegmentationObject: the classes are in SegmentationClass.": {
            '"SegmentationClass"': '"SegmentationObject"'
        },
        "void (255) has become background: keep it, it is left out later.": _changed(target=lambda x: x % 255),
        "void has become 21: keep it as 255.": _changed(target=lambda x: torch.where(x == 255, 21, x)),
        "the target has an axis too many: its shape is (H, W), without one for channels.": (
            _changed(target=lambda x: x[None])
        ),
        "the labels are divided by 255 (did ToTensor do that?): they are class numbers, keep them as uint8.": [
            _changed(target=lambda x: x / 255),
            _changed(target=lambda x: x[None] / 255),
        ],
        "the labels are only 0 and 1: keep the class numbers.": _changed(target=lambda x: x.clamp_max(1)),
    },
)

# --------------------------------------------------------------- label_counts


def _label_counts(dataset: Any) -> Tensor:
    """A data set of N pairs (image, target) -> int64 (N, 256): how often each value occurs in each target."""
    counts = [torch.bincount(dataset[i][1].flatten(), minlength=256) for i in range(len(dataset))]
    return torch.stack(counts)


def _pairs() -> Iterator[Case]:
    """Three targets of different sizes, with void and with labels that occur once or nowhere."""
    targets = [[[0, 0, 0], [0, 15, 255]], [[3, 3], [3, 0], [255, 255]], [[20, 0, 0, 20, 0]]]
    labels = [torch.tensor(target, dtype=torch.uint8) for target in targets]
    yield Case(([(torch.full((3, *x.shape), 7, dtype=torch.uint8), x) for x in labels],), what="the table of counts")


label_counts = Exercise(
    "label_counts",
    _label_counts,
    cases=_pairs,
    errors=dict.fromkeys(
        ("must match the existing size", "equal size"),
        "bincount counts only up to the largest value it meets: use minlength=256.",
    ),
    wrong={
        "255 is not counted: make 256 columns, one for each value of a byte.": {"(counts)": "(counts)[:, :21]"},
        "it adds up the images: keep a row for each, the sum over all is taken later.": {"torch.stack": "sum"},
        "it says whether a label occurs (0 or 1), not in how many pixels: count them.": {"flatten()": "unique()"},
        "each row includes those before it: start every image at 0.": {"(counts)": "(counts).cumsum(0)"},
        "it counts the values of the image: an item is the pair (image, target).": {"[i][1]": "[i][0]"},
        "these are shares: return the counts, as integers.": {"256)": "256) / dataset[i][1].numel()"},
    },
)

# ------------------------------------------------------------ joint_crop_flip


def _joint_crop_flip(image: Tensor, target: Tensor, top: int, left: int, size: int, flip: bool) -> tuple[Tensor, ...]:
    """The same window, mirrored left to right if asked, of image (3, H, W) and target (H, W)."""

    def window(x: Tensor, top: int, left: int, flip: bool, fill: int) -> Tensor:
        x = F.pad(x, (size,) * 4, value=fill)[..., top + size : top + 2 * size, left + size : left + 2 * size]
        return x.flip(-1) if flip else x

    return window(image, top, left, flip, 0), window(target, top, left, flip, 255)


def _windows() -> Iterator[Case]:
    """Windows inside the image and across each of its edges, with and without flip."""
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
        window = f"for the window {where} (top {top}, left {left}, size {size}, flip {flip})"
        yield Case((image, target, top, left, size, flip), window)


_SMALLER = "the {x} is smaller than asked: fill what lies outside with {fill}"
_WRONG_WINDOWS = {
    "outside the image the {x} is {fill}, not {other}.": "window({x}, top, left, flip, {other})",
    "the {x} is not flipped: image and target need the same flip.": "window({x}, top, left, False, {fill})",
    "the {x} is flipped top to bottom: flip left to right, the last axis.": (
        "window({x}, top, left, False, {fill}).flip([-2] if flip else [])"
    ),
    "the {x} is flipped although flip is False: flip only if asked to.": "window({x}, top, left, True, {fill})",
    "the {x} is flipped before it is cropped, so it shows another window: crop first, then flip.": (
        "window({x}.flip([-1] if flip else []), top, left, False, {fill})"
    ),
    "top and left are exchanged for the {x}: top counts rows.": "window({x}, left, top, flip, {fill})",
    f"{_SMALLER}, so that its shape is always (size, size).": (
        "{x}[..., max(top, 0) : top + size, max(left, 0) : left + size].flip([-1] if flip else [])"
    ),
    f"{_SMALLER} (a slice stops at the edge, and a negative start counts from the other end).": (
        "{x}[..., top : top + size, left : left + size].flip([-1] if flip else [])"
    ),
    "the window of the {x} is moved back inside: keep it where it is and fill what lies outside with {fill}.": (
        "window({x}, max(0, min(top, {x}.shape[-2] - size)), max(0, min(left, {x}.shape[-1] - size)), flip, {fill})"
    ),
}
"""What is told and what is done of `x`, the image or the target, of which `fill` lies outside."""

joint_crop_flip = Exercise(
    "joint_crop_flip",
    _joint_crop_flip,
    cases=_windows,
    run=run_tuple("the pair (image, target)", "the image", "the target"),
    wrong={
        hint.format(**words): {"window({x}, top, left, flip, {fill})".format(**words): answer.format(**words)}
        for words in ({"x": "image", "fill": 0, "other": 255}, {"x": "target", "fill": 255, "other": 0})
        for hint, answer in _WRONG_WINDOWS.items()
    },
)

# ---------------------------------------------------------------- move_points


def _move_points(points: Tensor, top: int, left: int, size: int, flip: bool) -> Tensor:
    """Points (x, y), float (N, 2), of the image -> of the window that `joint_crop_flip` cuts: float (N, 2)."""
    x, y = (points - torch.tensor([left, top])).unbind(1)
    return torch.stack([size - 1 - x if flip else x, y], 1)


move_points = Exercise(
    "move_points",
    _move_points,
    cases=lambda: [
        Case((torch.tensor([[4.0, 1.0], [8.0, 5.0], [0.0, 9.0]]), top, left, 6, flip), when, "the tensor of points")
        for top, left in ((1, 3), (-2, 5))
        for flip in (False, True)
        for when in [f"for top {top}, left {left}, size 6, flip {flip}"]
    ],
    wrong={
        "top and left are exchanged: a point is (x, y), and left belongs to x.": {"[left, top]": "[top, left]"},
        "it adds the window's corner: what lies at (left, top) in the image is at (0, 0) in the window.": {
            "points - torch": "points + torch"
        },
        "the points are not moved: subtract the window's corner (left, top).": {" - torch.tensor([left, top])": ""},
        "mirrored, x lies one pixel too far right: the columns are 0 to size - 1, and 0 becomes size - 1.": {
            "size - 1 - x": "size - x"
        },
        "it mirrors y, top to bottom: flip left to right, which is x.": {
            "size - 1 - x if flip else x, y": "x, size - 1 - y if flip else y"
        },
        "it mirrors x and y: only x changes in a flip left to right.": {", y]": ", size - 1 - y if flip else y]"},
        "mirrored, x is negative: it becomes size - 1 - x.": {"size - 1 - x": "-x"},
        "with flip the points stay where they were: x becomes size - 1 - x.": {"size - 1 - x if flip else x": "x"},
        "it mirrors before it cuts: the image was cut first, then flipped.": {
            "size - 1 - x": "size - 1 - points[:, 0] - left"
        },
        "it mirrors although flip is False: only if asked to.": {" if flip else x": ""},
    },
)

# ------------------------------------------------------------------- mean_iou


def _mean_iou(matrix: Tensor) -> float:
    """matrix (K, K) int64, rows target -> mean IoU over the classes that occur in target or prediction."""
    matrix = matrix.double()
    hit, row, column = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    union = row + column - hit
    return (hit / union).nanmean().item()  # 0 / 0 is NaN: a class that occurs nowhere


_PERCENT = "it is in percent: return a fraction between 0 and 1."

# class 2 occurs nowhere, classes 3 and 5 are never predicted, class 4 is predicted but never there
_COUNTS = [[50, 3, 0, 0, 2, 0], [4, 20, 0, 0, 1, 0], [0] * 6, [6, 2, 0, 0, 0, 0], [0] * 6, [3, 0, 0, 0, 1, 0]]

mean_iou = Exercise(
    "mean_iou",
    _mean_iou,
    cases=lambda: [
        Case((torch.tensor(_COUNTS),), what=f"the mean IoU of the matrix {_COUNTS}"),
        Case((torch.diag(torch.tensor([7, 0, 2])),), "of a perfect prediction", "the mean IoU"),
        Case((torch.tensor([[3, 1], [1, 1]]) * 10**10,), "of counts beyond 32 bits", "the mean IoU"),
    ],
    wrong={
        "it counts the absent class (neither in target nor prediction) as 0: leave it out of the mean.": {
            "nanmean()": "nan_to_num(0).mean()"
        },
        "it counts the absent class as a perfect 1: leave it out of the mean.": {"nanmean": "nan_to_num(1).mean"},
        "it is nan, because 0 / 0 for the class that occurs nowhere enters the mean: leave that class out.": {
            "nanmean": "mean"
        },
        "its union is row sum + column sum, which counts the intersection twice: subtract the diagonal once.": {
            "row + column - hit": "row + column"
        },
        "this is Dice, 2 I / (row + column): IoU divides by the union.": {"hit / union": "2 * hit / (row + column)"},
        "class 4 of this matrix is predicted but not in the target: it counts, as 0.": {
            ".nanmean": "[row > 0].nanmean"
        },
        "class 3 of this matrix is in the target though never predicted: it counts, as 0.": {
            ".nanmean": "[column > 0].nanmean"
        },
        "it leaves out classes that occur but have no hit: they count, as 0.": {".nanmean": "[hit > 0].nanmean"},
        "this is mean accuracy (diagonal / row sum): IoU divides by the union.": {"hit / union": "hit / row"},
        "this is mean precision (diagonal / column sum): divide by the union.": {"hit / union": "hit / column"},
        "this is pixel accuracy: take the IoU of each class first, then their mean.": {
            "hit / union": "hit.sum() / row.sum()"
        },
        "it sums over classes before dividing: take the IoU of each class, then their mean.": {
            "hit / union": "hit.sum() / union.sum()"
        },
        "it weights classes by frequency: in the mean IoU each class counts the same.": {
            "(hit / union).nanmean()": "(row / row.sum() * hit / union).nansum()"
        },
        _PERCENT: {"hit / union": "100 * hit / union"},
        "is that an integer division (`//`)? Divide with `/`.": [
            {"hit / union": "hit // union"},
            {"hit / union": "0 * hit / union"},
        ],
    },
)

# --------------------------------------------------------------- pixel_scores


def _pixel_scores(matrix: Tensor) -> dict[str, float]:
    """matrix (K, K) int64, rows target -> pixel accuracy, mean accuracy and frequency-weighted IoU."""
    matrix = matrix.double()
    hit, row, column = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    occurs, recall, iou = row + column > 0, hit / row.clamp_min(1), hit / (row + column - hit)
    return {
        "pixel accuracy": float(hit.sum() / row.sum()),
        "mean accuracy": float(recall[occurs].mean()),
        "FreqW IoU": float((row * iou / row.sum()).nansum()),
    }


def _take_scores(check: Check, answer: Callable, case: Case) -> Parts:
    found = check.call(answer, *case.args, when=case.when)
    names = list(_pixel_scores(*case.args))
    given = isinstance(found, dict) and set(found) == set(names)
    check.that(given, f"it returns {kind_of(found)}, expected a dictionary with the keys {', '.join(names)}.")
    return Parts({f"the {name} {case.when}": found[name] for name in names})


pixel_scores = Exercise(
    "pixel_scores",
    _pixel_scores,
    cases=lambda: [
        Case((torch.tensor(_COUNTS),), f"of the matrix {_COUNTS}"),
        Case((torch.diag(torch.tensor([7, 0, 2])),), "of a perfect prediction"),
    ],
    run=_take_scores,
    wrong={
        "this is mean accuracy: pixel accuracy divides all hits by all pixels, once.": {
            "hit.sum() / row.sum()": "recall[occurs].mean()"
        },
        "it divides by the sum of the unions: divide the hits by the number of pixels, the sum of the matrix.": {
            "hit.sum() / row.sum()": "hit.sum() / (row + column - hit).sum()"
        },
        _PERCENT: {"hit.sum()": "100 * hit.sum()"},
        "it divides by the columns, which gives precision: divide each hit by its row sum.": {
            "row.clamp_min(1)": "column.clamp_min(1)"
        },
        "it is nan, because 0 / 0 for a class without target pixels enters the mean: it counts 0 if predicted, "
        "and is left out if not.": {"row.clamp_min(1)": "row"},
        "class 4 of this matrix is predicted but not in the target: it counts, as 0.": {"[occurs]": "[row > 0]"},
        "it counts the absent class (neither in target nor prediction) as 0: leave it out of the mean.": {
            "recall[occurs]": "recall"
        },
        "this is mean IoU: divide by the row sum, not by the union.": {"recall[occurs].mean()": "iou.nanmean()"},
        "this is pixel accuracy: divide for each class first, then take the mean.": {
            "recall[occurs].mean()": "hit.sum() / row.sum()"
        },
        "this is mean IoU: weight each class by its row sum.": {"(row * iou / row.sum()).nansum()": "iou.nanmean()"},
        "it weights by the columns, how often a class is predicted: weight by the rows, how often it is true.": {
            "row * iou / row.sum()": "column * iou / column.sum()"
        },
        "the weights do not add up to 1: divide the row sums by the number of pixels.": {"iou / row.sum()": "iou"},
        "it is nan, because the class that occurs nowhere has IoU 0 / 0: leave it out of the sum, its weight is 0.": {
            "nansum": "sum"
        },
        "it weights by the hits: weight by the row sums, all true pixels of the class.": {"row * iou": "hit * iou"},
    },
)

# ------------------------------------------------------------ mean_of_batches


def _mean_of_batches(matrices: Tensor, size: int) -> float:
    """Matrices (N, K, K) of N images -> mean over batches of `size` images (the last may be smaller) of mean IoU."""
    scores = [_mean_iou(batch.sum(0)) for batch in matrices.split(size)]
    return sum(scores) / len(scores)


def _batches_of_images() -> Iterator[Case]:
    matrices = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (5, 3, 3)))
    matrices[1, 2] = matrices[1, :, 2] = 0  # a class that this image does not have
    for size in (2, 1, 5, 3):
        yield Case((matrices, size), f"for five images in batches of {size}", "the mean")


mean_of_batches = Exercise(
    "mean_of_batches",
    _mean_of_batches,
    cases=_batches_of_images,
    wrong={
        "this is the score of one matrix over all images: score each batch, then take the mean.": {
            "matrices.split(size)": "[matrices]"
        },
        "the last batch is left out when it is smaller: it counts as the others do.": {
            "matrices.split(size)": "matrices[: len(matrices) // size * size].split(size)"
        },
        "it scores each image alone: add up the matrices of a batch first.": {"split(size)": "split(1)"},
        "it weights batches by their size: each batch counts the same here.": {
            "sum(scores) / len(scores)": "np.average(scores, weights=[len(batch) for batch in matrices.split(size)])"
        },
        "this is the sum over batches: divide by their number.": {" / len(scores)": ""},
        "it divides by the number of images: divide by the number of batches.": {"len(scores)": "len(matrices)"},
    },
)

# ----------------------------------------------------------- confusion_matrix


def _labels() -> Iterator[Case]:
    """Labels of 21 classes in one byte, a single picture, another ignore_index; rows are the target."""
    rng = np.random.default_rng(0)
    for num_classes, shape, ignore_index, dtype in (
        (21, (2, 12, 15), 255, torch.int64),
        (21, (12, 15), 255, torch.uint8),
        (3, (5, 4), 255, torch.uint8),
        (4, (2, 6, 5), 2, torch.int64),
    ):
        prediction = torch.from_numpy(rng.integers(0, num_classes, shape)).to(dtype)
        target = torch.from_numpy(rng.integers(0, num_classes, shape)).to(torch.uint8)
        target[..., :2, :] = ignore_index
        target[..., -1] = num_classes - 1
        when = f"for {num_classes} classes, void {ignore_index}, shape {tuple(shape)}, predictions of {dtype}"
        yield Case((prediction, target, num_classes, ignore_index), when, "the matrix")
    yield Case((prediction, target, num_classes), "for the default ignore_index", "the matrix")


confusion_matrix = Exercise(
    "confusion_matrix",
    evaluation.confusion_matrix,
    cases=_labels,
    errors={
        "invalid for input of size": "bincount counts only up to the largest value it meets: use "
        "minlength=num_classes**2, after leaving out void."
    },
    wrong={
        "rows and columns are exchanged: rows are the target, columns the prediction.": {".clone()": ".T"},
        "void pixels are counted as background: leave them out.": {
            "index = target.to": "index = torch.where(target == ignore_index, 0, target).to"
        },
        "void pixels are counted as the last class: leave them out.": {
            "index = target.to": "index = torch.where(target == ignore_index, num_classes - 1, target).to"
        },
        "target * num_classes overflows: in uint8 it wraps around at 256. Turn labels into int64 (`.long()`) first.": (
            lambda p, t, k, void=255: torch.bincount((t * k + p)[t != void], minlength=k * k)[: k * k].view(k, k)
        ),
        "it leaves out 255 always: leave out `ignore_index`.": {"counts[ignore_index]": "counts[255]"},
        "it counts the target alone: each pixel belongs at (target, prediction).": {".clone()": ".sum(1).diag()"},
        "it is normalised: return the counts.": {".clone()": " / counts.sum()"},
        "its rows are normalised: return the counts.": {".clone()": ".double().renorm(p=1, dim=0, maxnorm=1)"},
    },
)

# -------------------------------------------------------------- class_weights


def _class_weights(pixels: Tensor) -> Tensor:
    """pixels (K,) int64 -> float32 (K,): inverse square root of frequency, mean 1 over classes that occur, else 0."""
    occurs, frequency = pixels > 0, pixels.double() / pixels.sum()
    weights = torch.where(occurs, frequency.rsqrt(), 0)
    return (weights / weights[occurs].mean()).float()


_UNFINISHED = "divide by the mean over the classes that occur, so that the loss keeps its size."
_MEAN = "their mean over the classes that occur is to be 1."
_ABSENT = "they occur nowhere and get 0, before anything is averaged."

class_weights = Exercise(
    "class_weights",
    _class_weights,
    cases=lambda: [
        Case((torch.tensor(pixels) * times,), when, "the vector of weights")
        for pixels, times, when in (
            ([7300, 0, 400, 25, 0, 1600], 1, ""),
            ([7300, 0, 400, 25, 0, 1600], 10**7, "for 10**7 times as many pixels, which is to be the same"),
            ([50, 50, 0], 1, "of two equally frequent classes"),
        )
    ],
    wrong={
        "this is the inverse frequency: the square root of it is missing.": {"rsqrt": "reciprocal"},
        "frequent classes get the larger weight: it is the inverse of the square root.": {"rsqrt": "sqrt"},
        f"the weights are not normalised: {_UNFINISHED}": [
            {" / weights[occurs].mean()": ""},
            {" / weights[occurs].mean()": "", " / pixels.sum()": ""},
        ],
        f"neither square root nor normalisation: take the square root, then {_UNFINISHED}": {
            "weights / weights[occurs].mean()": "weights**2"
        },
        f"the weights sum to 1: {_MEAN}": {"weights[occurs].mean()": "weights.sum()"},
        f"the largest weight is 1: {_MEAN}": {"weights[occurs].mean()": "weights.max()"},
        f"the smallest weight is 1: {_MEAN}": {"weights[occurs].mean()": "weights[occurs].min()"},
        "the mean includes the absent classes: average only those that occur.": {"weights[occurs]": "weights"},
        f"the absent classes have weight 1: {_ABSENT}": {".float()": ".masked_fill(~occurs, 1).float()"},
        f"the absent classes have weight inf: {_ABSENT}": [
            {"frequency.rsqrt(), 0": "frequency.rsqrt(), torch.inf", " / weights[occurs].mean()": ""},
            {"frequency.rsqrt(), 0": "frequency.rsqrt(), torch.inf"},
        ],
        f"the absent classes have weight inf, which makes the mean inf and them nan: {_ABSENT}": {
            "frequency.rsqrt(), 0": "frequency.rsqrt(), torch.inf",
            "weights[occurs]": "weights",
        },
        f"the absent classes have weight nan: {_ABSENT}": {"frequency.rsqrt(), 0": "frequency.rsqrt(), torch.nan"},
    },
)

# ------------------------------------------------------------------ normalise


def _normalise(images: Tensor) -> Tensor:
    """Images uint8 (B, 3, H, W) -> float32, by the mean and standard deviation of ImageNet's channels."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (data.IMAGENET_MEAN, data.IMAGENET_STD))
    return (images / 255 - mean) / std


normalise = Exercise(
    "normalise",
    _normalise,
    cases=lambda: [
        Case((torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)),), when, "the input")
        for shape, when in (((2, 3, 4, 5), "for two images"), ((3, 3, 3, 3), "for a batch whose sides are all 3"))
    ],
    errors={
        "must match the size of tensor": "give mean and deviation the shape (3, 1, 1), so that they meet channels.",
        "'Tensor' and 'tuple'": "IMAGENET_MEAN and IMAGENET_STD are tuples: `torch.tensor(...).view(3, 1, 1)`.",
    },
    wrong={
        "the bytes are not divided by 255: mean and deviation are those of colours from 0 to 1.": {" / 255": ""},
        "mean and deviation meet the columns: give them the shape (3, 1, 1), to meet the channels.": {
            ".view(3, 1, 1)": ""
        },
        "the mean is not subtracted: (x / 255 - mean) / std.": {" - mean": ""},
        "the means of red and blue are exchanged: colours are RGB here.": {"IMAGENET_MEAN": "IMAGENET_MEAN[::-1]"},
        "it does not divide by the standard deviation: (x / 255 - mean) / std.": {" / std": ""},
        "it divides by the square: divide by the standard deviation.": {" / std": " / std**2"},
        "brackets are missing, only the mean is divided: (x / 255 - mean) / std.": {
            "(images / 255 - mean) / std": "images / 255 - mean / std"
        },
    },
)

# -------------------------------------------------------- labels_from_colours


def _labels_from_colours(rgb: np.ndarray) -> np.ndarray:
    """Colours uint8 (H, W, 3) -> labels uint8 (H, W).

    Raises:
        ValueError: a pixel has a colour that no label has.
    """
    same = (rgb[..., None, :] == data.voc_palette()).all(-1)
    if not same.any(-1).all():
        raise ValueError("a pixel has a colour that no label has")
    return same.argmax(-1).astype(np.uint8)


def _coloured() -> Iterator[Case]:
    """All 256 colours, a label map that is not square, and one with a pixel that is off by one."""
    yield Case((data.voc_palette().reshape(16, 16, 3),), "for an image with all 256 colours", "the label map")
    few = data.decode_target(np.array([[0, 15, 255], [20, 8, 8]], np.uint8))
    yield Case((few,), "for an image of 2 x 3 pixels", "the label map")
    few = few.copy()
    few[1, 1, 2] += 1
    yield Case((few,), _UNKNOWN)


_UNKNOWN = "for an image with a colour that no label has"


def _decode(check: Check, answer: Callable, case: Case) -> Any:
    def without_error(rgb: np.ndarray) -> Any:
        try:
            return answer(rgb)
        except (ValueError, KeyError, AssertionError) as error:
            return error

    found = check.call(without_error, *case.args, when=case.when)
    if case.when == _UNKNOWN:
        kind = type(found).__name__ if isinstance(found, Exception) else kind_of(found)
        remedy = "`raise ValueError(...)`: such a colour is the trace of JPEG or smoothing, not the nearest class."
        check.that(isinstance(found, ValueError), f"{case.when} it gives {kind}: {remedy}")
        return Parts()
    if isinstance(found, Exception):
        raise Mistake(f"{case.when} it raises {type(found).__name__} ({found}): each of its colours has a label.")
    return found


labels_from_colours = Exercise(
    "labels_from_colours",
    _labels_from_colours,
    cases=_coloured,
    run=_decode,
    wrong={
        "one channel that agrees is enough for it: all three must, `(rgb == colour).all(2)`.": {".all(-1)": ".any(-1)"},
        "the rim's colour (224, 224, 192) becomes background: it is label 255.": {"(np.uint8)": "(np.uint8) % 255"},
        "these are values of the colours: look up which label has the colour of each pixel.": lambda rgb: rgb.max(2),
    },
)

# ---------------------------------------------------------------- draw_labels


def _draw_labels(outlines: Sequence[tuple[int, list]], size: tuple[int, int], rim: int) -> np.ndarray:
    """Polygons (label, [(x, y), ...]) filled on background, later ones in front, each with a rim of 255 `rim` wide."""
    sheet = Image.new("L", size, 0)
    pen = ImageDraw.Draw(sheet)
    for label, outline in outlines:
        pen.polygon(outline, fill=label)
        if rim:
            pen.line([*outline, outline[0]], fill=255, width=rim)
    return np.array(sheet)


draw_labels = Exercise(
    "draw_labels",
    _draw_labels,
    cases=lambda: [
        Case((outlines, (24, 16), rim), f"for two outlines and a rim of {rim}", "the label map")
        for outlines in [[(2, [(2, 2), (14, 3), (12, 12), (3, 13)]), (1, [(9, 5), (20, 6), (16, 14)])]]
        for rim in (0, 3)
    ],
    wrong={
        "the order is reversed: later outlines lie in front of earlier ones.": {"in outlines": "in outlines[::-1]"},
        "x and y are exchanged: PIL's points are (x, y), as these are.": {
            "in outlines": "in [(label, [(y, x) for x, y in outline]) for label, outline in outlines]"
        },
        "every polygon is filled with 1: fill it with its own label.": {"fill=label": "fill=1"},
        "the rim is open between the last point and the first: close it with `[*outline, outline[0]]`.": {
            "[*outline, outline[0]]": "outline"
        },
        "the rim is missing: draw the outline with 255, `width=rim`.": {"if rim": "if False"},
        "with rim 0 there is still a line of 255: draw none then.": {"if rim": "if True", "=rim": "=max(rim, 1)"},
        "the rim is 1 wide: give the line `width=rim`.": {"width=rim": "width=1"},
        "its sides are exchanged: size is (width, height), as in PIL.": {'"L", size': '"L", size[::-1]'},
        "all rims are drawn at the end: draw each with its polygon, so that later ones cover it.": {
            "        if rim": "    for _, outline in outlines if rim else ()"
        },
    },
)
