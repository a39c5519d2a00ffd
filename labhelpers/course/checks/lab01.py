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
from labhelpers.course.checks.core import Case, Check, Exercise, Mistake, Parts, kind_of, variants
from labhelpers.evaluation.confusion import scores

# ---------------------------------------------------------- has_two_of_a_kind


def _has_two_of_a_kind(target: Tensor, objects: Tensor) -> bool:
    """Label maps uint8 (H, W) of classes and of objects: whether a class has two objects or more."""
    return len(objects.unique()) > len(target.unique())  # each object has one class, and so have background and void


_WRONG_KINDS: list[tuple[Callable, str]] = [
    (
        lambda target, objects: len(objects[objects % 255 > 0].unique()) > 1,
        "two objects are there, but of two classes: look up the class of each object in the target.",
    ),
    (
        lambda target, objects: len(target[target % 255 > 0].unique()) > 1,
        "it counts the classes: count how often each of them occurs among the objects.",
    ),
    (
        lambda target, objects: len(objects.unique()) <= len(target.unique()),
        "it answers the other way round: True if a class occurs twice, False if each occurs once.",
    ),
    (
        lambda target, objects: _has_two_of_a_kind(target, objects) or bool((target % 255 > 0).any()),
        "it is True for every image with an object: one object alone has no second of its kind.",
    ),
]


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


has_two_of_a_kind = Exercise("has_two_of_a_kind", _has_two_of_a_kind, cases=_kinds, wrong=_WRONG_KINDS)

# ---------------------------------------------------------------- voc_palette


def _by_bits(shift: Callable[[int, int], int], place: Callable[[int], int] = lambda level: 7 - level) -> np.ndarray:
    """The palette from bit `shift(level, channel)` of the label at bit `place(level)` of the colour."""
    labels, palette = np.arange(256), np.zeros((256, 3), np.uint8)
    for level in range(8):
        for channel in range(3):
            palette[:, channel] |= (((labels >> shift(level, channel)) & 1) << place(level)).astype(np.uint8)
    return palette


_BYTES = "the colours run from 0 to 1: make them bytes, 0 to 255, dtype uint8."
_WRONG_PALETTES: list[tuple[Callable, str]] = [
    (
        lambda: data.voc_palette()[:, ::-1],
        "red and blue are exchanged: bit 0 of the label belongs to red, bit 2 to blue.",
    ),
    (
        lambda: data.voc_palette()[:21],
        "only the 21 classes have a colour: make all 256 rows, since row 255 colours the rims.",
    ),
    (
        lambda: data.voc_palette()[:22],
        "only 22 rows: make all 256, so that the label itself is the row, 255 for the rims too.",
    ),
    (lambda: data.voc_palette() / 255, _BYTES),
    (
        lambda: _by_bits(lambda level, channel: 3 * level + channel, lambda level: level),
        "the bits are filled in from the lowest: the first three bits of the label give the highest bit (7) of red, "
        "green and blue, the next three bit 6, and so on (7 - j, not j).",
    ),
    (
        lambda: _by_bits(lambda level, channel: channel),
        "every round reads bits 0, 1, 2 of the label again: move on to the next three bits (label >> 3) after each.",
    ),
    (
        lambda: _by_bits(lambda level, channel: level + channel),
        "each round moves on by one bit of the label: it must move by three, one each for red, green and blue.",
    ),
    (
        lambda: _by_bits(lambda level, channel: 3 * channel + level if level < 3 else 8),
        "bits 0, 1, 2 of the label all go to red: they are for red, green and blue (channel k % 3, bit 7 - k // 3).",
    ),
    (
        lambda: data.voc_palette() & np.array([32, 32, 64], np.uint8),
        "each bit wipes out the one before it in its colour: add it with `|=`, not `=`.",
    ),
]

voc_palette = Exercise(
    "voc_palette",
    data.voc_palette,
    cases=lambda: [Case((), what="the palette")],
    errors={"Cannot cast ufunc": "the table is of bytes, the bits are not: turn them with `.astype(np.uint8)`."},
    wrong=_WRONG_PALETTES,
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


def _void_in(colour: int) -> Callable:
    return lambda target: np.where((np.asarray(target) == 255)[..., None], np.uint8(colour), data.decode_target(target))


_WRONG_PICTURES: list[tuple[Callable, str]] = [
    (lambda target: data.decode_target(target)[..., ::-1], "red and blue are exchanged (BGR): colours are RGB here."),
    (lambda target: data.decode_target(target) / 255, _BYTES),
    (
        lambda target: data.decode_target(target).max(2),
        "one value for each pixel: index the palette with the labels to get three, palette[target].",
    ),
    (_void_in(0), "the void pixels (255) are black: they get the rim colour (224, 224, 192)."),
    (_void_in(255), "the void pixels (255) are white: they get the rim colour (224, 224, 192)."),
]

decode_target = Exercise(
    "decode_target",
    data.decode_target,
    cases=_label_pictures,
    errors={"mask": "torch takes a uint8 tensor as index for a mask: turn the labels into integers with `.long()`."},
    wrong=_WRONG_PICTURES,
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
            mask = Image.fromarray(values.astype(np.uint8))
            mask.putpalette(data.voc_palette().tobytes())
            mask.save(root / folder / f"{name}.png")
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


class _Reader:
    """A reader of VOC with a function for each step: the names, the opened label map, image and target as tensors."""

    def __init__(self, root: Path, split: str, order: Callable, mask: Callable, image: Callable, target: Callable):
        listed = (root / "ImageSets/Segmentation" / f"{split}.txt").read_text().split()
        self.root, self.names, self.mask, self.image, self.target = root, order(listed), mask, image, target

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        name = self.names[index]
        photo = Image.open(self.root / "JPEGImages" / f"{name}.jpg")
        labels = self.mask(self.root / "SegmentationClass" / f"{name}.png")
        image, target = (torch.from_numpy(np.array(picture)) for picture in (photo, labels))
        return self.image(image.movedim(2, 0)), self.target(target)


def _same(x: Any) -> Any:
    return x


def _reader(order: Callable = _same, mask: Callable = Image.open, image: Callable = _same, target: Callable = _same):
    return lambda root, split: _Reader(root, split, order, mask, image, target)


def _other_picture(shift: int) -> Callable:
    """Every item is another picture than the list has there."""
    return _reader(lambda listed: [_NAMES[(_NAMES.index(name) + shift) % 6] for name in listed])


def _object_map(path: Path) -> Image.Image:
    return Image.open(path.parents[1] / "SegmentationObject" / path.name)


_LIST = "the list ImageSets/Segmentation/<split>.txt"
_ORDER = "it is another image than the list has there: keep names and order of the list, not of the sorted folder."
_IN_COLOUR = 'the target holds colours, not class numbers: open the palette PNG without convert("RGB").'
_SCALED = "the labels are divided by 255 (did ToTensor do that?): they are class numbers, keep them as uint8."
_WRONG_READERS = [
    (_reader(lambda names: _NAMES), f"it counts every file in the folder: only the names in {_LIST} belong to it."),
    (
        _reader(lambda names: [*names, ""]),
        "does it count the empty line at the end of the list as a name? (`.split()` drops it.)",
    ),
    (_reader(lambda names: _SPLITS["train"]), f"it reads the same names for every split: read {_LIST}."),
    *((_other_picture(shift), _ORDER) for shift in range(1, 6)),
    (
        _reader(image=lambda pixels: pixels.flip(0)),
        "the channels are in the order BGR, as OpenCV reads them: they are RGB here.",
    ),
    (
        _reader(image=lambda pixels: pixels / 255),
        "the image is float from 0 to 1 (did ToTensor do that?): keep its bytes, uint8, and let the device convert.",
    ),
    (_reader(mask=lambda path: Image.open(path).convert("RGB")), _IN_COLOUR),
    (
        _reader(mask=lambda path: Image.open(path).convert("RGB"), target=lambda colours: colours.movedim(2, 0)),
        _IN_COLOUR,
    ),
    (
        _reader(mask=lambda path: Image.open(path).convert("L")),
        'the target holds grey levels of the colours, not class numbers: open the palette PNG without convert("L").',
    ),
    (
        _reader(mask=_object_map),
        "these are object numbers from SegmentationObject: the classes are in SegmentationClass.",
    ),
    (
        _reader(target=lambda labels: torch.where(labels == 255, 0, labels)),
        "void (255) has become background: keep it, it is left out later.",
    ),
    (_reader(target=lambda labels: torch.where(labels == 255, 21, labels)), "void has become 21: keep it as 255."),
    (
        _reader(target=lambda labels: labels[None]),
        "the target has an axis too many: its shape is (H, W), without one for channels.",
    ),
    (_reader(target=lambda labels: labels / 255), _SCALED),
    (_reader(target=lambda labels: labels[None] / 255), _SCALED),
    (_reader(target=lambda labels: labels.clamp_max(1)), "the labels are only 0 and 1: keep the class numbers."),
]

voc_dataset = Exercise(
    "VOCDataset",
    data.VOCSegmentation,
    cases=lambda: [Case((split,)) for split in _SPLITS],
    run=_read_split,
    # Decoders of JPEG may round differently by a level or two.
    tolerance=lambda expected: 2.5 if getattr(expected, "ndim", 0) == 3 else 0,
    wrong=_WRONG_READERS,
)

# --------------------------------------------------------------- label_counts


def _label_counts(dataset: Any) -> Tensor:
    """A data set of N pairs (image, target) -> int64 (N, 256): how often each value occurs in each target."""
    return torch.stack([torch.bincount(dataset[i][1].flatten(), minlength=256) for i in range(len(dataset))])


def _pairs() -> Iterator[Case]:
    """Three targets of different sizes, with void and with labels that occur once or nowhere."""
    targets = [[[0, 0, 0], [0, 15, 255]], [[3, 3], [3, 0], [255, 255]], [[20, 0, 0, 20, 0]]]
    labels = [torch.tensor(target, dtype=torch.uint8) for target in targets]
    yield Case(([(torch.full((3, *x.shape), 7, dtype=torch.uint8), x) for x in labels],), what="the table of counts")


_WRONG_COUNTS: list[tuple[Callable, str]] = [
    (lambda pairs: _label_counts(pairs)[:, :21], "255 is not counted: make 256 columns, one for each value of a byte."),
    (
        lambda pairs: _label_counts(pairs).sum(0),
        "it adds up the images: keep a row for each, the sum over all is taken later.",
    ),
    (
        lambda pairs: (_label_counts(pairs) > 0).long(),
        "it says whether a label occurs (0 or 1), not in how many pixels: count them.",
    ),
    (lambda pairs: _label_counts(pairs).cumsum(0), "each row includes those before it: start every image at 0."),
    (
        lambda pairs: _label_counts([(target, image) for image, target in pairs]),
        "it counts the values of the image: an item is the pair (image, target).",
    ),
    (
        lambda pairs: F.normalize(_label_counts(pairs).double(), 1),
        "these are shares: return the counts, as integers.",
    ),
]

label_counts = Exercise(
    "label_counts",
    _label_counts,
    cases=_pairs,
    errors={
        "must match the existing size": "bincount counts only up to the largest value it meets: use minlength=256.",
        "equal size": "bincount counts only up to the largest value it meets: use minlength=256.",
    },
    wrong=_WRONG_COUNTS,
)

# ------------------------------------------------------------ joint_crop_flip


def _crop(x: Tensor, top: int, left: int, size: int, fill: int) -> Tensor:
    """The window (..., size, size) of x (..., H, W) that starts at (top, left); `fill` where it leaves x."""
    padded = F.pad(x, (size, size, size, size), value=fill)
    return padded[..., top + size : top + 2 * size, left + size : left + 2 * size]


def _mirror(x: Tensor, flip: bool) -> Tensor:
    return x.flip(-1) if flip else x


def _window(x: Tensor, top: int, left: int, size: int, flip: bool, fill: int) -> Tensor:
    return _mirror(_crop(x, top, left, size, fill), flip)


def _crop_flip(image: Callable = _window, target: Callable = _window) -> Callable:
    """The answer that takes one window of the image, where 0 lies outside, and one of the target, 255."""
    return lambda pixels, labels, *where: (image(pixels, *where, 0), target(labels, *where, 255))


def _joint_crop_flip(
    image: Tensor, target: Tensor, top: int, left: int, size: int, flip: bool
) -> tuple[Tensor, Tensor]:
    """The same window, mirrored left to right if asked, of image (3, H, W) and target (H, W)."""
    return _crop_flip()(image, target, top, left, size, flip)


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


def _take_window(check: Check, answer: Callable, case: Case) -> Parts:
    found = check.call(answer, *case.args, when=case.when)
    pair = isinstance(found, (tuple, list)) and len(found) == 2
    check.that(pair, f"it returns {kind_of(found)}, expected the pair (image, target).")
    return Parts({f"the image {case.when}": found[0], f"the target {case.when}": found[1]})


def _moved_inside(x: Tensor, top: int, left: int, size: int) -> tuple[int, int]:
    top, left = (min(max(a, 0), max(side - size, 0)) for a, side in zip((top, left), x.shape[-2:], strict=True))
    return top, left


_SMALLER = "the {name} is smaller than asked: fill what lies outside with {fill}"
_WRONG_WINDOWS: list[tuple[Callable, str]] = [
    (
        lambda x, i, j, n, flip, fill: _window(x, i, j, n, flip, 255 - fill),
        "outside the image the {name} is {fill}, not {other}.",
    ),
    (
        lambda x, i, j, n, flip, fill: _crop(x, i, j, n, fill),
        "the {name} is not flipped: image and target need the same flip.",
    ),
    (
        lambda x, i, j, n, flip, fill: _crop(x, i, j, n, fill).flip([-2] if flip else []),
        "the {name} is flipped top to bottom: flip left to right, the last axis.",
    ),
    (
        lambda x, i, j, n, flip, fill: _window(x, i, j, n, True, fill),
        "the {name} is flipped although flip is False: flip only if asked to.",
    ),
    (
        lambda x, i, j, n, flip, fill: _crop(_mirror(x, flip), i, j, n, fill),
        "the {name} is flipped before it is cropped, so it shows another window: crop first, then flip.",
    ),
    (
        lambda x, i, j, n, flip, fill: _window(x, j, i, n, flip, fill),
        "top and left are exchanged for the {name}: top counts rows.",
    ),
    (
        lambda x, i, j, n, flip, fill: _mirror(x[..., max(i, 0) : max(i + n, 0), max(j, 0) : max(j + n, 0)], flip),
        f"{_SMALLER}, so that its shape is always (size, size).",
    ),
    (
        lambda x, i, j, n, flip, fill: _mirror(x[..., i : i + n, j : j + n], flip),
        f"{_SMALLER} (a slice stops at the edge, and a negative start counts from the other end).",
    ),
    (
        lambda x, i, j, n, flip, fill: _window(x, *_moved_inside(x, i, j, n), n, flip, fill),
        "the window of the {name} is moved back inside: keep it where it is and fill what lies outside with {fill}.",
    ),
]

joint_crop_flip = Exercise(
    "joint_crop_flip",
    _joint_crop_flip,
    cases=_windows,
    run=_take_window,
    wrong=[
        (_crop_flip(**{name: window}), hint.format(name=name, fill=fill, other=255 - fill))
        for name, fill in (("image", 0), ("target", 255))
        for window, hint in _WRONG_WINDOWS
    ],
)

# ---------------------------------------------------------------- move_points


def _points(
    move: Callable[[Tensor, int, int], Tensor] = lambda xy, top, left: xy - torch.tensor([left, top]),
    mirror: Callable[[Tensor, int], Tensor] = lambda xy, size: torch.stack([size - 1 - xy[:, 0], xy[:, 1]], 1),
    first: bool = False,
) -> Callable:
    """The answer that moves points (N, 2) by its way to cut and its way to mirror, mirrored first or last."""

    def answer(points: Tensor, top: int, left: int, size: int, flip: bool) -> Tensor:
        if first and flip:
            points = mirror(points, size)
        points = move(points, top, left)
        return mirror(points, size) if flip and not first else points

    return answer


def _move_points(points: Tensor, top: int, left: int, size: int, flip: bool) -> Tensor:
    """Points (x, y), float (N, 2), of the image -> of the window that `joint_crop_flip` cuts: float (N, 2)."""
    return _points()(points, top, left, size, flip)


_WRONG_POINTS = [
    *variants(
        _points,
        move=[
            (
                lambda xy, top, left: xy - torch.tensor([top, left]),
                "top and left are exchanged: a point is (x, y), and left belongs to x.",
            ),
            (
                lambda xy, top, left: xy + torch.tensor([left, top]),
                "it adds the window's corner: what lies at (left, top) in the image is at (0, 0) in the window.",
            ),
            (lambda xy, top, left: xy, "the points are not moved: subtract the window's corner (left, top)."),
        ],
        mirror=[
            (
                lambda xy, size: torch.stack([size - xy[:, 0], xy[:, 1]], 1),
                "mirrored, x lies one pixel too far right: the columns are 0 to size - 1, and 0 becomes size - 1.",
            ),
            (
                lambda xy, size: torch.stack([xy[:, 0], size - 1 - xy[:, 1]], 1),
                "it mirrors y, top to bottom: flip left to right, which is x.",
            ),
            (lambda xy, size: size - 1 - xy, "it mirrors x and y: only x changes in a flip left to right."),
            (
                lambda xy, size: torch.stack([-xy[:, 0], xy[:, 1]], 1),
                "mirrored, x is negative: it becomes size - 1 - x.",
            ),
            (lambda xy, size: xy, "with flip the points stay where they were: x becomes size - 1 - x."),
        ],
        first=[(True, "it mirrors before it cuts: the image was cut first, then flipped.")],
    ),
    (lambda xy, *where: _move_points(xy, *where[:3], True), "it mirrors although flip is False: only if asked to."),
]

move_points = Exercise(
    "move_points",
    _move_points,
    cases=lambda: [
        Case((torch.tensor([[4.0, 1.0], [8.0, 5.0], [0.0, 9.0]]), top, left, 6, flip), when, "the tensor of points")
        for top, left in ((1, 3), (-2, 5))
        for flip in (False, True)
        for when in [f"for top {top}, left {left}, size 6, flip {flip}"]
    ],
    wrong=_WRONG_POINTS,
)

# ------------------------------------------------------------------- mean_iou

_Formula = Callable[[Tensor, Tensor, Tensor], Tensor]  # of the diagonal, the row sums and the column sums


def _mean_iou(matrix: Tensor) -> float:
    """matrix (K, K) int64, rows target -> mean IoU over the classes that occur in target or prediction."""
    return scores(matrix.numpy()).mean_iou


def _score(formula: _Formula) -> Callable[[Tensor], float]:
    """The answer that makes its score of the diagonal, the row sums and the column sums, each float64 (K,)."""
    return lambda matrix: float(formula(matrix.diagonal().double(), matrix.sum(1).double(), matrix.sum(0).double()))


def _iou(hit: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return (hit / (row + column - hit).clamp_min(1)).double()  # 0 for a class that occurs nowhere


# class 2 occurs nowhere, classes 3 and 5 are never predicted, class 4 is predicted but never there
_COUNTS = [[50, 3, 0, 0, 2, 0], [4, 20, 0, 0, 1, 0], [0] * 6, [6, 2, 0, 0, 0, 0], [0] * 6, [3, 0, 0, 0, 1, 0]]

_WRONG_IOU: list[tuple[_Formula, str]] = [
    (
        lambda i, r, c: _iou(i, r, c).mean(),
        "it counts the absent class (neither in target nor prediction) as 0: leave it out of the mean.",
    ),
    (
        lambda i, r, c: (_iou(i, r, c) + (r + c == 0)).mean(),
        "it counts the absent class as a perfect 1: leave it out of the mean.",
    ),
    (
        lambda i, r, c: (i / (r + c - i)).mean(),
        "it is nan, because 0 / 0 for the class that occurs nowhere enters the mean: leave that class out.",
    ),
    (
        lambda i, r, c: (i / (r + c)).nanmean(),
        "its union is row sum + column sum, which counts the intersection twice: subtract the diagonal once.",
    ),
    (lambda i, r, c: (2 * i / (r + c)).nanmean(), "this is Dice, 2 I / (row + column): IoU divides by the union."),
    (
        lambda i, r, c: _iou(i, r, c)[r > 0].mean(),
        "class 4 of this matrix is predicted but not in the target: it counts, as 0.",
    ),
    (
        lambda i, r, c: _iou(i, r, c)[c > 0].mean(),
        "class 3 of this matrix is in the target though never predicted: it counts, as 0.",
    ),
    (
        lambda i, r, c: _iou(i, r, c)[i > 0].mean(),
        "it leaves out classes that occur but have no hit: they count, as 0.",
    ),
    (lambda i, r, c: (i / r).nanmean(), "this is mean accuracy (diagonal / row sum): IoU divides by the union."),
    (lambda i, r, c: (i / c).nanmean(), "this is mean precision (diagonal / column sum): divide by the union."),
    (lambda i, r, c: i.sum() / r.sum(), "this is pixel accuracy: take the IoU of each class first, then their mean."),
    (
        lambda i, r, c: i.sum() / (r + c - i).sum(),
        "it sums over classes before dividing: take the IoU of each class, then their mean.",
    ),
    (
        lambda i, r, c: (r * _iou(i, r, c)).sum() / r.sum(),
        "it weights classes by frequency: in the mean IoU each class counts the same.",
    ),
    (
        lambda i, r, c: 100 * (i / (r + c - i)).nanmean(),
        "it is in percent: return a fraction between 0 and 1.",
    ),
    (lambda i, r, c: 0 * i.sum(), "is that an integer division (`//`)? Divide with `/`."),
    (lambda i, r, c: (i // (r + c - i)).nanmean(), "is that an integer division (`//`)? Divide with `/`."),
]

mean_iou = Exercise(
    "mean_iou",
    _mean_iou,
    cases=lambda: [
        Case((torch.tensor(_COUNTS),), what=f"the mean IoU of the matrix {_COUNTS}"),
        Case((torch.diag(torch.tensor([7, 0, 2])),), "of a perfect prediction", "the mean IoU"),
        Case((torch.tensor([[3, 1], [1, 1]]) * 10**10,), "of counts beyond 32 bits", "the mean IoU"),
    ],
    wrong=[(_score(formula), hint) for formula, hint in _WRONG_IOU],
)

# --------------------------------------------------------------- pixel_scores


def _mean_recall(hit: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return (hit / row.clamp_min(1))[row + column > 0].mean()


def _by_frequency(hit: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return (row * _iou(hit, row, column)).sum() / row.sum()


def _three_scores(
    accuracy: _Formula = lambda hit, row, column: hit.sum() / row.sum(),
    mean: _Formula = _mean_recall,
    weighted: _Formula = _by_frequency,
) -> Callable[[Tensor], dict[str, float]]:
    formulas = {"pixel accuracy": accuracy, "mean accuracy": mean, "FreqW IoU": weighted}
    return lambda matrix: {name: _score(formula)(matrix) for name, formula in formulas.items()}


def _pixel_scores(matrix: Tensor) -> dict[str, float]:
    """matrix (K, K) int64, rows target -> pixel accuracy, mean accuracy and frequency-weighted IoU."""
    found = scores(matrix.numpy())
    names = {"pixel accuracy": "pixel_accuracy", "mean accuracy": "mean_accuracy", "FreqW IoU": "freq_weighted_iou"}
    return {name: getattr(found, field) for name, field in names.items()}


def _take_scores(check: Check, answer: Callable, case: Case) -> Parts:
    found = check.call(answer, *case.args, when=case.when)
    names = list(_three_scores()(case.args[0]))
    given = isinstance(found, dict) and set(found) == set(names)
    check.that(given, f"it returns {kind_of(found)}, expected a dictionary with the keys {', '.join(names)}.")
    return Parts({f"the {name} {case.when}": found[name] for name in names})


_PERCENT = "it is in percent: return a fraction between 0 and 1."
_WRONG_SCORES = variants(
    _three_scores,
    accuracy=[
        (_mean_recall, "this is mean accuracy: pixel accuracy divides all hits by all pixels, once."),
        (
            lambda i, r, c: i.sum() / (r + c - i).sum(),
            "it divides by the sum of the unions: divide the hits by the number of pixels, the sum of the matrix.",
        ),
        (lambda i, r, c: 100 * i.sum() / r.sum(), _PERCENT),
    ],
    mean=[
        (
            lambda i, r, c: (i / c.clamp_min(1))[r + c > 0].mean(),
            "it divides by the columns, which gives precision: divide each hit by its row sum.",
        ),
        (
            lambda i, r, c: (i / r).mean(),
            "it is nan, because 0 / 0 for a class without target pixels enters the mean: it counts 0 if predicted, "
            "and is left out if not.",
        ),
        (
            lambda i, r, c: (i / r).nanmean(),
            "class 4 of this matrix is predicted but not in the target: it counts, as 0.",
        ),
        (
            lambda i, r, c: (i / r.clamp_min(1)).mean(),
            "it counts the absent class (neither in target nor prediction) as 0: leave it out of the mean.",
        ),
        (lambda i, r, c: _iou(i, r, c)[r + c > 0].mean(), "this is mean IoU: divide by the row sum, not by the union."),
        (lambda i, r, c: i.sum() / r.sum(), "this is pixel accuracy: divide for each class first, then take the mean."),
    ],
    weighted=[
        (lambda i, r, c: _iou(i, r, c)[r + c > 0].mean(), "this is mean IoU: weight each class by its row sum."),
        (
            lambda i, r, c: (c * _iou(i, r, c)).sum() / c.sum(),
            "it weights by the columns, how often a class is predicted: weight by the rows, how often it is true.",
        ),
        (
            lambda i, r, c: (r * _iou(i, r, c)).sum(),
            "the weights do not add up to 1: divide the row sums by the number of pixels.",
        ),
        (
            lambda i, r, c: (r * (i / (r + c - i))).sum() / r.sum(),
            "it is nan, because the class that occurs nowhere has IoU 0 / 0: leave it out of the sum, its weight is 0.",
        ),
        (
            lambda i, r, c: (i * _iou(i, r, c)).sum() / r.sum(),
            "it weights by the hits: weight by the row sums, all true pixels of the class.",
        ),
    ],
)

pixel_scores = Exercise(
    "pixel_scores",
    _pixel_scores,
    cases=lambda: [
        Case((torch.tensor(_COUNTS),), f"of the matrix {_COUNTS}"),
        Case((torch.diag(torch.tensor([7, 0, 2])),), "of a perfect prediction"),
    ],
    run=_take_scores,
    wrong=_WRONG_SCORES,
)

# ------------------------------------------------------------ mean_of_batches


def _mean_of_batches(matrices: Tensor, size: int) -> float:
    """Matrices (N, K, K) of N images -> mean over batches of `size` images (the last may be smaller) of mean IoU."""
    return float(np.mean([_mean_iou(batch.sum(0)) for batch in matrices.split(size)]))


def _batches_of_images() -> Iterator[Case]:
    matrices = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (5, 3, 3)))
    matrices[1, 2] = matrices[1, :, 2] = 0  # a class that this image does not have
    for size in (2, 1, 5, 3):
        yield Case((matrices, size), f"for five images in batches of {size}", "the mean")


_WRONG_BATCHES: list[tuple[Callable, str]] = [
    (
        lambda matrices, size: _mean_iou(matrices.sum(0)),
        "this is the score of one matrix over all images: score each batch, then take the mean.",
    ),
    (
        lambda matrices, size: _mean_of_batches(matrices[: len(matrices) // size * size], size),
        "the last batch is left out when it is smaller: it counts as the others do.",
    ),
    (
        lambda matrices, size: _mean_of_batches(matrices, 1),
        "it scores each image alone: add up the matrices of a batch first.",
    ),
    (
        lambda matrices, size: float(
            sum(len(batch) * _mean_iou(batch.sum(0)) for batch in matrices.split(size)) / len(matrices)
        ),
        "it weights batches by their size: each batch counts the same here.",
    ),
    (
        lambda matrices, size: sum(_mean_iou(batch.sum(0)) for batch in matrices.split(size)),
        "this is the sum over batches: divide by their number.",
    ),
    (
        lambda matrices, size: sum(_mean_iou(batch.sum(0)) for batch in matrices.split(size)) / len(matrices),
        "it divides by the number of images: divide by the number of batches.",
    ),
]

mean_of_batches = Exercise("mean_of_batches", _mean_of_batches, cases=_batches_of_images, wrong=_WRONG_BATCHES)

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


def _count(index: Tensor, k: int) -> Tensor:
    return torch.bincount(index.flatten().long(), minlength=k * k)[: k * k].view(k, k)


def _void_as(label: Callable[[int], int]) -> Callable:
    def answer(prediction: Tensor, target: Tensor, k: int, ignore_index: int = 255) -> Tensor:
        return _count(torch.where(target == ignore_index, label(k), target).long() * k + prediction, k)

    return answer


_WRONG_MATRICES: list[tuple[Callable, str]] = [
    (
        lambda *given: evaluation.confusion_matrix(*given).T,
        "rows and columns are exchanged: rows are the target, columns the prediction.",
    ),
    (_void_as(lambda k: 0), "void pixels are counted as background: leave them out."),
    (_void_as(lambda k: k - 1), "void pixels are counted as the last class: leave them out."),
    (
        lambda prediction, target, k, void=255: _count((target * k + prediction)[target != void], k),
        "target * num_classes overflows: in uint8 it wraps around at 256. Turn labels into int64 (`.long()`) first.",
    ),
    (
        lambda prediction, target, k, void=255: _count((target.long() * k + prediction)[target != 255], k),
        "it leaves out 255 always: leave out `ignore_index`.",
    ),
    (
        lambda prediction, target, k, void=255: _count(target[target != void].long() * (k + 1), k),
        "it counts the target alone: each pixel belongs at (target, prediction).",
    ),
    (
        lambda *given: evaluation.confusion_matrix(*given) / evaluation.confusion_matrix(*given).sum(),
        "it is normalised: return the counts.",
    ),
    (
        lambda *given: F.normalize(evaluation.confusion_matrix(*given).double(), 1, 1),
        "its rows are normalised: return the counts.",
    ),
]

confusion_matrix = Exercise(
    "confusion_matrix",
    evaluation.confusion_matrix,
    cases=_labels,
    errors={
        "invalid for input of size": "bincount counts only up to the largest value it meets: use "
        "minlength=num_classes**2, after leaving out void."
    },
    wrong=_WRONG_MATRICES,
)

# -------------------------------------------------------------- class_weights


def _class_weights(pixels: Tensor) -> Tensor:
    """pixels (K,) int64 -> float32 (K,): inverse square root of frequency, mean 1 over classes that occur, else 0."""
    occurs = pixels > 0
    weights = torch.where(occurs, pixels.clamp_min(1).double().rsqrt(), 0)
    return (weights / weights[occurs].mean()).float()


def _weights(of: Callable[[Tensor], Tensor], absent: float = 0.0) -> Callable[[Tensor], Tensor]:
    """The answer whose weights for the classes that occur are made of their frequencies, a tensor of sum 1."""

    def answer(pixels: Tensor) -> Tensor:
        occurs = pixels > 0
        counts = pixels[occurs].float()
        return torch.full(pixels.shape, absent).masked_scatter(occurs, of(counts / counts.sum()))

    return answer


def _mean_one(weights: Tensor) -> Tensor:
    return weights / weights.mean()


_UNFINISHED = "divide by the mean over the classes that occur, so that the loss keeps its size."
_MEAN = "their mean over the classes that occur is to be 1."
_ABSENT = "the absent classes have weight {}: they occur nowhere and get 0, before anything is averaged."
_WRONG_WEIGHTS: list[tuple[Callable, str]] = [
    (_weights(lambda f: _mean_one(1 / f)), "this is the inverse frequency: the square root of it is missing."),
    (
        _weights(lambda f: _mean_one(f.sqrt())),
        "frequent classes get the larger weight: it is the inverse of the square root.",
    ),
    (_weights(torch.rsqrt), f"the weights are not normalised: {_UNFINISHED}"),
    (lambda n: torch.where(n > 0, n.float().rsqrt(), 0), f"the weights are not normalised: {_UNFINISHED}"),
    (_weights(torch.reciprocal), f"neither square root nor normalisation: take the square root, then {_UNFINISHED}"),
    (_weights(lambda f: f.rsqrt() / f.rsqrt().sum()), f"the weights sum to 1: {_MEAN}"),
    (_weights(lambda f: f.rsqrt() / f.rsqrt().max()), f"the largest weight is 1: {_MEAN}"),
    (_weights(lambda f: f.rsqrt() / f.rsqrt().min()), f"the smallest weight is 1: {_MEAN}"),
    (
        lambda n: _mean_one(_weights(torch.rsqrt)(n)),
        "the mean includes the absent classes: average only those that occur.",
    ),
    (_weights(lambda f: _mean_one(f.rsqrt()), absent=1.0), _ABSENT.format(1)),
    (_weights(torch.rsqrt, absent=torch.inf), _ABSENT.format("inf")),
    (_weights(lambda f: _mean_one(f.rsqrt()), absent=torch.inf), _ABSENT.format("inf")),
    (_weights(torch.zeros_like, absent=torch.nan), _ABSENT.format("inf, which makes the mean inf and them nan")),
    (_weights(lambda f: _mean_one(f.rsqrt()), absent=torch.nan), _ABSENT.format("nan")),
]

class_weights = Exercise(
    "class_weights",
    _class_weights,
    cases=lambda: [
        Case((pixels,), when, "the vector of weights")
        for pixels, when in [
            (torch.tensor([7300, 0, 400, 25, 0, 1600]), ""),
            (
                torch.tensor([7300, 0, 400, 25, 0, 1600]) * 10**7,
                "for 10**7 times as many pixels, which is to be the same",
            ),
            (torch.tensor([50, 50, 0]), "of two equally frequent classes"),
        ]
    ],
    wrong=_WRONG_WEIGHTS,
)

# ------------------------------------------------------------------ normalise


def _normalise(images: Tensor) -> Tensor:
    """Images uint8 (B, 3, H, W) -> float32, by the mean and standard deviation of ImageNet's channels."""
    return data.to_input(images)


def _normalised(
    shape: tuple[int, ...] = (3, 1, 1),
    scale: float = 255,
    mean: Sequence[float] = data.IMAGENET_MEAN,
    std: Sequence[float] = data.IMAGENET_STD,
) -> Callable[[Tensor], Tensor]:
    return lambda images: (images / scale - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


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
    wrong=[
        *variants(
            _normalised,
            scale=[(1, "the bytes are not divided by 255: mean and deviation are those of colours from 0 to 1.")],
            shape=[((3,), "mean and deviation meet the columns: give them the shape (3, 1, 1), to meet the channels.")],
            mean=[
                ((0, 0, 0), "the mean is not subtracted: (x / 255 - mean) / std."),
                (data.IMAGENET_MEAN[::-1], "the means of red and blue are exchanged: colours are RGB here."),
            ],
            std=[
                ((1, 1, 1), "it does not divide by the standard deviation: (x / 255 - mean) / std."),
                (tuple(x**2 for x in data.IMAGENET_STD), "it divides by the square: divide by the standard deviation."),
            ],
        ),
        (
            _normalised(
                mean=[m / s for m, s in zip(data.IMAGENET_MEAN, data.IMAGENET_STD, strict=True)], std=(1, 1, 1)
            ),
            "brackets are missing, only the mean is divided: (x / 255 - mean) / std.",
        ),
    ],
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
    wrong=[
        (
            lambda rgb: (rgb[..., None, :] == data.voc_palette()).any(-1).argmax(-1).astype(np.uint8),
            "one channel that agrees is enough for it: all three must, `(rgb == colour).all(2)`.",
        ),
        (
            lambda rgb: np.where((rgb == data.voc_palette()[255]).all(2), 0, _labels_from_colours(rgb)).astype(
                np.uint8
            ),
            "the rim's colour (224, 224, 192) becomes background: it is label 255.",
        ),
        (lambda rgb: rgb.max(2), "these are values of the colours: look up which label has the colour of each pixel."),
    ],
)

# ---------------------------------------------------------------- draw_labels


def _draw_labels(outlines: Sequence[tuple[int, list]], size: tuple[int, int], rim: int) -> np.ndarray:
    """Polygons (label, [(x, y), ...]) filled on background, later ones in front, each with a rim of 255 `rim` wide."""
    return _drawn()(outlines, size, rim)


def _rims_last(outlines: Sequence[tuple[int, list]], size: tuple[int, int], rim: int) -> np.ndarray:
    rims = [_draw_labels([(0, outline)], size, rim) for _, outline in outlines]
    return np.maximum.reduce([_draw_labels(outlines, size, 0), *rims])


def _drawn(
    order: Callable = list,
    points: Callable = list,
    fill: Callable[[int], int] = lambda label: label,
    line: Callable = lambda outline: [*outline, outline[0]],
    rim: Callable[[int], int] = lambda rim: rim,
    size: Callable = tuple,
) -> Callable:
    def answer(outlines: Sequence[tuple[int, list]], shape: tuple[int, int], width: int) -> np.ndarray:
        sheet = Image.new("L", size(shape), 0)
        pen = ImageDraw.Draw(sheet)
        for label, outline in order(outlines):
            pen.polygon(points(outline), fill=fill(label))
            if rim(width):
                pen.line(points(line(outline)), fill=255, width=rim(width))
        return np.array(sheet)

    return answer


draw_labels = Exercise(
    "draw_labels",
    _draw_labels,
    cases=lambda: [
        Case((outlines, (24, 16), rim), f"for two outlines and a rim of {rim}", "the label map")
        for outlines in [[(2, [(2, 2), (14, 3), (12, 12), (3, 13)]), (1, [(9, 5), (20, 6), (16, 14)])]]
        for rim in (0, 3)
    ],
    wrong=[
        *variants(
            _drawn,
            order=[
                (
                    lambda outlines: list(outlines)[::-1],
                    "the order is reversed: later outlines lie in front of earlier ones.",
                )
            ],
            points=[
                (
                    lambda outline: [(y, x) for x, y in outline],
                    "x and y are exchanged: PIL's points are (x, y), as these are.",
                )
            ],
            fill=[(lambda label: 1, "every polygon is filled with 1: fill it with its own label.")],
            line=[
                (list, "the rim is open between the last point and the first: close it with `[*outline, outline[0]]`.")
            ],
            rim=[
                (lambda rim: 0, "the rim is missing: draw the outline with 255, `width=rim`."),
                (lambda rim: max(rim, 1), "with rim 0 there is still a line of 255: draw none then."),
                (lambda rim: min(rim, 1), "the rim is 1 wide: give the line `width=rim`."),
            ],
            size=[(lambda size: size[::-1], "its sides are exchanged: size is (width, height), as in PIL.")],
        ),
        (_rims_last, "all rims are drawn at the end: draw each with its polygon, so that later ones cover it."),
    ],
)
