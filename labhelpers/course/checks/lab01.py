"""Checks of lab 01: colours, reading VOC, joint augmentation; confusion matrix, mean IoU, class weights."""

import operator
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from labhelpers import data, evaluation
from labhelpers.course.checks.core import Case, Check, Exercise, Parts, kind_of
from labhelpers.evaluation.confusion import scores

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
]

voc_palette = Exercise(
    "voc_palette", data.voc_palette, cases=lambda: [Case((), what="the palette")], wrong=_WRONG_PALETTES
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
_ORDER = "it is another picture than the list has there: keep names and order of the list, not of the sorted folder."
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

# ------------------------------------------------------------------- mean_iou


def _mean_iou(matrix: Tensor) -> float:
    """matrix (K, K) int64, rows target -> mean IoU over the classes that occur in target or prediction."""
    return scores(matrix.numpy()).mean_iou


def _score(formula: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor], float]:
    """The answer that makes its score of the diagonal, the row sums and the column sums, each float64 (K,)."""
    return lambda matrix: float(formula(matrix.diagonal().double(), matrix.sum(1).double(), matrix.sum(0).double()))


def _iou(hit: Tensor, row: Tensor, column: Tensor) -> Tensor:
    return (hit / (row + column - hit).clamp_min(1)).double()  # 0 for a class that occurs nowhere


# class 2 occurs nowhere, classes 3 and 5 are never predicted, class 4 is predicted but never there
_COUNTS = [[50, 3, 0, 0, 2, 0], [4, 20, 0, 0, 1, 0], [0] * 6, [6, 2, 0, 0, 0, 0], [0] * 6, [3, 0, 0, 0, 1, 0]]

_WRONG_IOU: list[tuple[Callable[[Tensor, Tensor, Tensor], Tensor], str]] = [
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
        Case((pixels,), when, "the weights")
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
