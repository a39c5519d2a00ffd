"""The checks of lab 01 accept answers written in different ways; wrong ones, written anew, get the hint they need."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import assert_hint, assert_passes, rows
from PIL import Image, ImageDraw
from torch.utils.data import Dataset

from labhelpers import data
from labhelpers.course import checks
from labhelpers.course.checks.lab01 import _SPLITS, _write_voc
from labhelpers.evaluation import ConfusionMatrix

# ---------------------------------------------------------- has_two_of_a_kind


def two_by_pairs(target, objects):
    pairs = {(a, b) for a, b in zip(target.flatten().tolist(), objects.flatten().tolist(), strict=True) if b % 255}
    labels = [label for label, _ in pairs]
    return len(labels) > len(set(labels))


def two_by_first_pixel(target, objects):
    numbers = [n for n in objects.unique().tolist() if n not in (0, 255)]
    labels = [target[objects == n][0].item() for n in numbers]
    return len(set(labels)) < len(labels)


# ------------------------------------------------- voc_palette, decode_target


def palette(shift=3, rows=256):
    """The bit formula as most people write it."""
    colours = np.zeros((rows, 3), dtype=np.uint8)
    for label in range(rows):
        rest = label
        for level in range(8):
            for channel in range(3):
                colours[label, channel] |= ((rest >> channel) & 1) << (7 - level)
            rest >>= shift
    return colours


def palette_by_strings():
    def colour(label):
        bits = f"{label:024b}"[::-1]
        return [int(bits[channel::3], 2) for channel in range(3)]

    return np.array([colour(label) for label in range(256)], dtype="uint8")


def palette_in_one_step():
    colours, labels = np.zeros((256, 3), dtype=np.uint8), np.arange(256)
    for k in range(8):
        colours[:, k % 3] |= ((labels >> k) & 1) << (7 - k // 3)
    return colours


def palette_by_bits(place, add=True):
    colours = np.zeros((256, 3), dtype=np.uint8)
    for label in range(256):
        for k in range(8):
            channel, level = place(k)
            colours[label, channel] = ((label >> k) & 1) << (7 - level) | (colours[label, channel] if add else 0)
    return colours


def one_colour_off():
    colours = palette()
    colours[200, 1] ^= 1
    return colours


def decode_by_index(target):
    return palette()[np.asarray(target)]


def decode_by_loop(target):
    target = torch.as_tensor(target)
    out = np.empty((*target.shape, 3), np.uint8)
    for label, colour in enumerate(palette()):
        out[(target == label).numpy()] = colour
    return out


def decode_in_place(target):
    target[target == 255] = 0
    return decode_by_index(target)


def decode_by_mask(target):
    return torch.from_numpy(palette()[:22])[torch.as_tensor(target)].numpy()


def decode_one_pixel_off(target):
    out = decode_by_index(target).copy()
    out[-1, -1] = 7
    return out


# ----------------------------------------------------------------- VOCDataset


class VOCDataset(Dataset):
    """A student's reader, with a place for each mistake."""

    def __init__(self, root, split):
        self.root = Path(root)
        self.names = self.read_names(self.root / "ImageSets" / "Segmentation" / f"{split}.txt")

    def read_names(self, path):
        return path.read_text().split()

    def mask(self, name):
        return Image.open(self.root / "SegmentationClass" / f"{name}.png")

    def to_image(self, image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def to_target(self, mask):
        return torch.from_numpy(np.array(mask))

    def __len__(self):
        return len(self.names)

    def __getitem__(self, i):
        image = Image.open(self.root / "JPEGImages" / f"{self.names[i]}.jpg").convert("RGB")
        return self.to_image(image), self.to_target(self.mask(self.names[i]))


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


def reader(**methods):
    return type("VOCDataset", (VOCDataset,), methods)


def one_label_off(self, mask):
    target = torch.from_numpy(np.array(mask))
    target[-1, -1] = 3
    return target


# --------------------------------------------------------------- label_counts


def counts_by_loop(dataset):
    counts = torch.zeros(len(dataset), 256, dtype=torch.long)
    for index, (_, target) in enumerate(dataset):
        for label in target.flatten().tolist():
            counts[index, label] += 1
    return counts


def counts_by_bincount(dataset, minlength=256):
    counts = torch.zeros(len(dataset), 256, dtype=torch.long)
    for index in range(len(dataset)):
        counts[index] = torch.bincount(dataset[index][1].flatten(), minlength=minlength)
    return counts


# ------------------------------------------------------------ joint_crop_flip


def crop_by_padding(image, target, top, left, size, flip):
    def window(x, fill):
        x = F.pad(x, (size,) * 4, value=fill)[..., top + size :, left + size :][..., :size, :size]
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


def crop_slices(image, target, top, left, size, flip):
    image, target = image[:, top : top + size, left : left + size], target[top : top + size, left : left + size]
    return (image.flip(-1), target.flip(-1)) if flip else (image, target)


def crop_moved_inside(image, target, top, left, size, flip):
    height, width = target.shape
    top, left = max(0, min(top, height - size)), max(0, min(left, width - size))
    return crop_by_padding(image, target, top, left, size, flip)


def crop_background(*given):
    image, target = crop_by_padding(*given)
    return image, torch.where(target == 255, 0, target).to(torch.uint8)


def crop_one_pixel_off(*given):
    image, target = crop_by_padding(*given)
    target[0, 0] = 77
    return image, target


def points_by_column(points, top, left, size, flip):
    x, y = points[:, 0] - left, points[:, 1] - top
    return torch.stack([size - 1 - x if flip else x, y], dim=1)


def points_in_place(points, top, left, size, flip):
    points -= torch.tensor([left, top])
    return points


# ------------------------------------ mean_iou, confusion_matrix, class_weights


def parts(matrix):
    m = matrix.double()
    return m.diagonal(), m.sum(1), m.sum(0)


def iou_nanmean(matrix):
    hit, row, column = parts(matrix)
    return torch.nanmean(hit / (row + column - hit)).item()


def iou_loop(matrix):
    m, values = matrix.numpy(), []
    for k in range(len(m)):
        union = m[k].sum() + m[:, k].sum() - m[k, k]
        if union:
            values.append(m[k, k] / union)
    return np.mean(values)


def matrix_by_bincount(prediction, target, num_classes, ignore_index=255):
    valid = target != ignore_index
    index = target[valid].long() * num_classes + prediction[valid].long()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def matrix_by_one_hot(prediction, target, num_classes, ignore_index=255):
    valid = (target != ignore_index).flatten()
    rows = F.one_hot(target.flatten()[valid].long(), num_classes)
    columns = F.one_hot(prediction.flatten()[valid].long(), num_classes)
    return rows.T @ columns


def matrix_void_as_background(prediction, target, num_classes, ignore_index=255):
    return matrix_by_bincount(prediction, torch.where(target == ignore_index, 0, target), num_classes)


def matrix_overflow(prediction, target, num_classes, ignore_index=255):
    valid = target != ignore_index
    index = target[valid] * num_classes + prediction[valid]
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def matrix_with_void(prediction, target, num_classes, ignore_index=255):
    index = target.flatten().long() * num_classes + prediction.flatten()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def matrix_no_minlength(prediction, target, num_classes, ignore_index=255):
    valid = target != ignore_index
    return torch.bincount(target[valid].long() * num_classes + prediction[valid]).view(num_classes, num_classes)


def matrix_one_off(*given):
    matrix = matrix_by_bincount(*given)
    matrix[-1, 0] += 1
    return matrix


def weights_by_mask(pixels):
    frequency = pixels / pixels.sum()
    weights = torch.zeros(len(pixels))
    weights[pixels > 0] = frequency[pixels > 0].rsqrt()
    return weights / weights[pixels > 0].mean()


def weights_by_list(pixels):
    raw = [count**-0.5 if count else 0.0 for count in pixels.tolist()]
    mean = sum(raw) / sum(1 for weight in raw if weight)
    return torch.tensor([weight / mean for weight in raw])


def weights_one_off(pixels):
    weights = weights_by_mask(pixels)
    weights[-1] += 0.001
    return weights


# ------------------------------------------- pixel_scores, mean_of_batches


def scores_by_loop(matrix):
    m, recalls, weighted = matrix.numpy(), [], 0.0
    for k in range(len(m)):
        row, column, hit = m[k].sum(), m[:, k].sum(), m[k, k]
        if row + column:
            recalls.append(hit / row if row else 0.0)
            weighted += row / m.sum() * hit / (row + column - hit)
    return {"pixel accuracy": m.trace() / m.sum(), "mean accuracy": np.mean(recalls), "FreqW IoU": weighted}


def scores_by_formula(matrix):
    hit, row, column = parts(matrix)
    occurs = row + column > 0
    return {
        "FreqW IoU": torch.nansum(row / row.sum() * hit / (row + column - hit)).item(),
        "mean accuracy": (hit / row.clamp(min=1))[occurs].mean().item(),
        "pixel accuracy": (hit.sum() / row.sum()).item(),
    }


def scores_with(**changed):
    return lambda matrix: scores_by_formula(matrix) | {name: f(*parts(matrix)) for name, f in changed.items()}


def batches_by_split(matrices, size):
    scores = [iou_nanmean(batch.sum(0)) for batch in matrices.split(size)]
    return sum(scores) / len(scores)


def batches_by_range(matrices, size):
    return np.mean([iou_loop(matrices[i : i + size].sum(0)) for i in range(0, len(matrices), size)])


# ------------------------------------- normalise, labels_from_colours, draw_labels


def normalised_by_channel(images):
    channels = zip(images.unbind(1), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    return torch.stack([(x / 255 - mean) / std for x, mean, std in channels], dim=1)


def normalised_without_brackets(images):
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (data.IMAGENET_MEAN, data.IMAGENET_STD))
    return images / 255 - mean / std


def labels_by_class(rgb):
    labels, known = np.zeros(rgb.shape[:2], np.uint8), np.zeros(rgb.shape[:2], bool)
    for label, colour in enumerate(palette()):
        same = (rgb == colour).all(2)
        labels[same] = label
        known |= same
    if not known.all():
        raise ValueError("unknown colour")
    return labels


def labels_by_lookup(rgb):
    table = {tuple(colour): label for label, colour in enumerate(palette().tolist())}
    return np.array([[table[tuple(pixel)] for pixel in row] for row in rgb.tolist()], dtype=np.uint8)


def labels_by_dictionary(rgb):
    try:
        return labels_by_lookup(rgb)
    except KeyError as error:
        raise ValueError(f"no label has the colour {error}") from error


def labels_nearest(rgb):
    distance = np.abs(rgb[:, :, None].astype(int) - palette().astype(int)).sum(3)
    return distance.argmin(2).astype(np.uint8)


def drawn(outlines, size, rim, mode="L", close=True):
    sheet = Image.new(mode, size, 0)
    pen = ImageDraw.Draw(sheet)
    for label, outline in outlines:
        pen.polygon(outline, fill=label)
        if rim:
            pen.line(outline + outline[:1] * close, fill=255, width=rim)
    return sheet


def drawn_rims_last(outlines, size, rim):
    sheet = drawn(outlines, size, 0)
    for _, outline in outlines if rim else ():
        ImageDraw.Draw(sheet).line(outline + outline[:1], fill=255, width=rim)
    return np.array(sheet)


RIGHT = {
    "has_two_of_a_kind": [two_by_pairs, two_by_first_pixel],
    "label_counts": [counts_by_loop, counts_by_bincount],
    "move_points": [points_by_column],
    "pixel_scores": [scores_by_loop, scores_by_formula],
    "mean_of_batches": [batches_by_split, batches_by_range],
    "normalise": [normalised_by_channel],
    "labels_from_colours": [labels_by_class, labels_by_dictionary],
    "draw_labels": [lambda *given: np.array(drawn(*given)), lambda *given: np.asarray(drawn(*given, mode="P"))],
    "voc_palette": [palette, palette_by_strings],
    "decode_target": [decode_by_index, decode_by_loop],
    "voc_dataset": [VOCDataset, ListOfFiles],
    "joint_crop_flip": [crop_by_padding, crop_by_indices],
    "mean_iou": [iou_nanmean, iou_loop],
    "confusion_matrix": [matrix_by_bincount, matrix_by_one_hot],
    "class_weights": [weights_by_mask, weights_by_list],
}
WRONG = {
    "has_two_of_a_kind": [
        (lambda target, objects: len(objects.unique()) > 3, "of two classes"),
        (lambda target, objects: not two_by_pairs(target, objects), "the other way round"),
        (lambda target, objects: torch.tensor(two_by_pairs(target, objects)), "`.item()`"),
        (lambda target, objects: True, "is True, expected False"),
    ],
    "label_counts": [
        (lambda dataset: counts_by_bincount(dataset, minlength=21), "use minlength=256"),
        (lambda dataset: counts_by_loop(dataset)[:, :21], "255 is not counted"),
        (lambda dataset: counts_by_loop(dataset).sum(0), "keep a row for each"),
        (lambda dataset: counts_by_loop(dataset).numpy(), "torch.from_numpy"),
        (lambda dataset: counts_by_loop(dataset).float(), "expected torch.int64"),
        (lambda dataset: counts_by_loop(dataset) + 1, "first at [0, 0]: expected 4, found 5"),
    ],
    "move_points": [
        (points_in_place, "in place"),
        (lambda points, top, left, size, flip: points_by_column(points, left, top, size, flip), "left belongs to x"),
        (
            lambda points, top, left, size, flip: points_by_column(points, top, left, size + flip, flip),
            "one pixel too far right",
        ),
        (lambda points, *where: points_by_column(points, *where[:3], False), "stay where they were"),
        (lambda points, *where: points_by_column(points, *where[:3], True), "although flip is False"),
        (lambda *given: points_by_column(*given).long(), "expected torch.float32"),
    ],
    "pixel_scores": [
        (scores_with(**{"mean accuracy": lambda i, r, c: (i / r).nanmean().item()}), "class 4 of this matrix"),
        (scores_with(**{"mean accuracy": lambda i, r, c: (i / r).mean().item()}), "0 / 0"),
        (scores_with(**{"FreqW IoU": lambda i, r, c: (r * i / (r + c - i)).nansum().item()}), "add up to 1"),
        (scores_with(**{"FreqW IoU": lambda i, r, c: (r * i / (r + c - i)).sum().item() / 92}), "occurs nowhere"),
        (scores_with(**{"pixel accuracy": lambda i, r, c: i.sum() / r.sum()}), "`.item()`"),
        (scores_with(IoU=lambda i, r, c: 0.0), "expected a dictionary with the keys pixel accuracy, mean accuracy"),
        (lambda matrix: tuple(scores_by_formula(matrix).values()), "expected a dictionary"),
    ],
    "mean_of_batches": [
        (lambda matrices, size: batches_by_split(matrices, 1), "each image alone"),
        (lambda matrices, size: iou_loop(matrices.sum(0)), "one matrix over all images"),
        (lambda matrices, size: batches_by_split(matrices[: len(matrices) // size * size], size), "the last batch"),
        (lambda matrices, size: torch.tensor(batches_by_split(matrices, size)), "`.item()`"),
    ],
    "normalise": [
        (lambda images: normalised_by_channel(images * 255.0), "divided by 255"),
        (lambda images: normalised_by_channel(images.flip(1)), "first at [0, 0, 0, 0]"),
        (lambda images: normalised_by_channel(images).double(), "expected torch.float32"),
        (lambda images: (images / 255 - torch.tensor(data.IMAGENET_MEAN)) / 0.225, "the shape (3, 1, 1)"),
        (lambda images: (images / 255 - data.IMAGENET_MEAN) / data.IMAGENET_STD, "are tuples"),
        (normalised_without_brackets, "brackets"),
    ],
    "labels_from_colours": [
        (labels_nearest, "it gives a NumPy array: `raise ValueError"),
        (lambda rgb: labels_by_class(rgb).astype(int), "expected uint8"),
        (lambda rgb: torch.from_numpy(labels_by_class(rgb)), "`.numpy()`"),
        (lambda rgb: labels_by_dictionary(rgb[:, ::-1]), "first at [0, 0]"),
        (lambda rgb: labels_by_class(rgb[..., ::-1]), "each of its colours has a label"),
        (labels_by_lookup, "it gives KeyError: `raise ValueError"),
    ],
    "draw_labels": [
        (drawn, "a value of type Image, expected a NumPy array"),
        (lambda *given: np.array(drawn(*given, close=False)), "the rim is open"),
        (lambda outlines, size, rim: np.array(drawn(outlines[::-1], size, rim)), "the order is reversed"),
        (lambda outlines, size, rim: np.array(drawn(outlines, size[::-1], rim)), "(width, height)"),
        (drawn_rims_last, "all rims are drawn at the end"),
    ],
    "voc_palette": [
        (lambda: palette(shift=0), "again"),
        (lambda: palette(rows=21), "all 256"),
        (lambda: palette() / 255, "0 to 255"),
        (lambda: palette().astype(int), "dtype is int64; expected uint8"),
        (lambda: palette().T, "axes in another order"),
        (lambda: torch.from_numpy(palette()), "`.numpy()`"),
        (one_colour_off, "first at [200, 1]"),
        (palette_in_one_step, "`.astype(np.uint8)`"),
        (lambda: palette_by_bits(lambda k: (k // 3, k % 3)), "all go to red"),
        (lambda: palette_by_bits(lambda k: (k % 3, k // 3), add=False), "`|=`, not `=`"),
    ],
    "decode_target": [
        (lambda target: decode_by_index(target)[..., ::-1], "BGR"),
        (lambda target: decode_by_index(target).transpose(2, 0, 1), "axes in another order"),
        (lambda target: decode_by_index(target.numpy()), "AttributeError for an array as target"),
        (lambda target: decode_by_index(target.astype(int)), "AttributeError for a tensor as target"),
        (decode_in_place, "in place"),
        (decode_by_mask, "`.long()`"),
        (decode_one_pixel_off, "first at [6, 8, 0]"),
    ],
    "voc_dataset": [
        (reader(mask=lambda self, name: VOCDataset.mask(self, name).convert("RGB")), 'without convert("RGB")'),
        (reader(mask=lambda self, name: VOCDataset.mask(self, name).convert("L")), 'without convert("L")'),
        (reader(to_image=lambda self, image: torch.from_numpy(np.array(image))), "axes in another order"),
        (reader(to_image=lambda self, image: np.array(image).transpose(2, 0, 1)), "torch.from_numpy"),
        (reader(to_image=lambda self, image: image), "a value of type Image, expected a torch tensor"),
        (reader(to_image=lambda self, image: VOCDataset.to_image(self, image) / 255), "ToTensor"),
        (reader(to_target=lambda self, mask: torch.from_numpy(np.array(mask)).long()), "expected torch.uint8"),
        (reader(to_target=one_label_off), "first at [19, 27]"),
        (reader(read_names=lambda self, path: sorted(path.read_text().split())), "sorted folder"),
        (
            reader(read_names=lambda self, path: sorted(p.stem for p in path.parents[2].glob("JPEGImages/*"))),
            "every file",
        ),
        (reader(read_names=lambda self, path: path.read_text().split("\n")), "empty line"),
        (
            reader(read_names=lambda self, path: path.with_name("train.txt").read_text().split()),
            "its length for the split val is 3, expected 2",
        ),
        (reader(__getitem__=lambda self, i: VOCDataset.__getitem__(self, i)[::-1]), "(target, image)"),
        (reader(__getitem__=lambda self, i: VOCDataset.__getitem__(self, i)[0]), "expected the pair"),
        (reader(__getitem__=lambda self, i: None), "not written yet"),
        (reader(__getitem__=Dataset.__getitem__), "not written yet"),
        (reader(__len__=None), "TypeError"),
    ],
    "joint_crop_flip": [
        (lambda i, t, *w: crop_by_padding(i, t, *w[:3], False), "the image is not flipped"),
        (
            lambda i, t, *w: (crop_by_padding(i, t, *w)[0], crop_by_padding(i, t, *w[:3], False)[1]),
            "the target is not flipped",
        ),
        (lambda i, t, *w: crop_by_padding(i, t, *w[:3], True), "although flip is False"),
        (crop_background, "the target is 255, not 0"),
        (crop_slices, "fill what lies outside"),
        (crop_moved_inside, "moved back"),
        (lambda i, t, top, left, size, flip: crop_by_padding(i, t, left, top, size, flip), "top and left"),
        (crop_one_pixel_off, "first at [0, 0]"),
        (lambda *given: crop_by_padding(*given)[0], "expected the pair"),
        (lambda *given: tuple(x.float() for x in crop_by_padding(*given)), "expected torch.uint8"),
    ],
    "mean_iou": [
        (lambda m: float((parts(m)[0] / (m.sum(0) + m.sum(1) - m.diagonal() + 1e-9)).mean()), "absent class", "as 0"),
        (lambda m: float(sum(m.diagonal()) / m.sum()), "pixel accuracy"),
        (lambda m: 0.9, "of the matrix [[50, 3, 0, 0, 2, 0], [4"),
        (lambda matrix: torch.tensor(iou_nanmean(matrix)), "`.item()`"),
        (lambda matrix: iou_nanmean(matrix) + 0.01, "expected 0.2"),
        (lambda matrix: iou_nanmean(matrix.int()), "beyond 32 bits"),
    ],
    "confusion_matrix": [
        (matrix_void_as_background, "as background"),
        (matrix_overflow, "overflows"),
        (matrix_with_void, "leaving out void"),
        (matrix_no_minlength, "minlength"),
        (lambda p, t, k, ignore_index=255: matrix_by_bincount(p, t, k, 255), "leave out `ignore_index`"),
        (lambda *given: matrix_by_bincount(*given).float(), "expected torch.int64"),
        (lambda *given: matrix_by_bincount(*given).numpy(), "torch.from_numpy"),
        (matrix_one_off, "first at [20, 0]"),
    ],
    "class_weights": [
        (lambda n: torch.where(n > 0, 1 / n, 0) / (1 / n[n > 0]).mean(), "square root of it is missing"),
        (lambda n: n.float().rsqrt() / n.float().rsqrt().mean(), "nan"),
        (lambda n: torch.where(n > 0, weights_by_mask(n), 1.0), "weight 1"),
        (lambda n: weights_by_mask(n).double(), "expected torch.float32"),
        (lambda n: weights_by_mask(n).numpy(), "torch.from_numpy"),
        (weights_one_off, "first at [5]"),
    ],
}


@pytest.mark.parametrize(("name", "answer"), rows(RIGHT))
def test_accepts(name, answer):
    assert_passes(name, answer)


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize(("name", "answer", "words"), rows(WRONG))
def test_rejects(name, answer, words):
    assert_hint(name, answer, *words)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=21).filter(any))
@settings(max_examples=50, deadline=None)
def test_reference_weights_have_mean_one_over_classes_that_occur(pixels):
    weights = checks.class_weights.reference(torch.tensor(pixels))
    occurs = torch.tensor(pixels) > 0
    assert weights[occurs].mean().item() == pytest.approx(1, rel=1e-5)
    assert not weights[~occurs].any()


def test_reference_mean_iou_is_the_one_of_the_evaluator():
    counter = ConfusionMatrix(5)
    counter.update(torch.randint(0, 4, (30, 30)), torch.randint(0, 4, (30, 30)))
    assert checks.mean_iou.reference(counter.matrix) == counter.compute().mean_iou


def test_reference_reads_as_the_student_class_is_called(tmp_path):
    dataset = data.VOCSegmentation(_write_voc(tmp_path), "train")
    assert dataset.ids == list(_SPLITS["train"])
