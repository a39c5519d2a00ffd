import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from tiny_voc import TRAIN, VAL, make_labels, make_tiny_voc, save_labels, save_photo

from labhelpers.data import (
    COMPARISON_IDS,
    VOC_CLASSES,
    VOCSegmentation,
    comparison_indices,
    decode_target,
    voc_palette,
)


@pytest.fixture
def voc(tmp_path):
    return make_tiny_voc(tmp_path / "VOC2012")


def test_palette_is_the_published_one():
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    assert len({tuple(colour) for colour in palette}) == 256
    published = {
        "background": (0, 0, 0),
        "aeroplane": (128, 0, 0),
        "bicycle": (0, 128, 0),
        "cat": (64, 0, 0),
        "person": (192, 128, 128),
        "tvmonitor": (0, 64, 128),
    }
    for name, colour in published.items():
        assert tuple(palette[VOC_CLASSES.index(name)]) == colour
    assert tuple(palette[255]) == (224, 224, 192)


def test_items_are_the_files(voc):
    dataset = VOCSegmentation(voc, "train")
    assert (dataset.name, dataset.split, dataset.num_classes) == ("VOC2012", "train", 21)
    assert dataset.ids == list(TRAIN)
    assert dataset.class_names == VOC_CLASSES
    assert dataset.ignore_index == 255
    for index, item in enumerate(TRAIN):
        image, target = dataset[index]
        assert image.dtype == target.dtype == torch.uint8
        assert (image.shape, target.shape) == ((3, 18, 24), (18, 24))
        with Image.open(voc / "JPEGImages" / f"{item}.jpg") as photo:
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(photo))
        np.testing.assert_array_equal(target.numpy(), make_labels(24, 18, index + 1))
        assert torch.equal(dataset.load_target(index), target)
        assert torch.equal(dataset.load_image(index), image)


def test_root_may_be_any_of_the_nested_folders(tmp_path):
    root = make_tiny_voc(tmp_path / "VOCdevkit" / "VOC2012")
    for start in (tmp_path, tmp_path / "VOCdevkit", root, str(root)):
        assert VOCSegmentation(start, "trainval").ids == list(TRAIN + VAL)


def test_grey_label_maps_and_grey_photos_are_read(voc):
    save_labels(voc / f"SegmentationClass/{VAL[0]}.png", make_labels(24, 18, 20), mode="L")
    Image.new("L", (24, 18), 77).save(voc / f"JPEGImages/{VAL[0]}.jpg")
    image, target = VOCSegmentation(voc, "val")[0]
    assert image.unique().tolist() == [77]
    assert target.unique().tolist() == [0, 20, 255]


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)))
def test_decode_target_gives_each_label_its_colour(labels):
    colours = decode_target(torch.from_numpy(labels))
    assert colours.shape == (*labels.shape, 3)
    assert colours.dtype == np.uint8
    for place in np.ndindex(labels.shape):
        bits = [sum(((int(labels[place]) >> (3 * j + c)) & 1) << (7 - j) for j in range(3)) for c in range(3)]
        assert colours[place].tolist() == bits


@pytest.mark.parametrize("wrong", [torch.rand(4, 4), torch.tensor([[0, 256]]), torch.tensor([[-1, 3]])])
def test_decode_target_refuses_what_is_not_a_label_map(wrong):
    with pytest.raises(ValueError, match="integer labels in 0..255"):
        decode_target(wrong)


def test_instances(voc):
    dataset = VOCSegmentation(voc, "train")
    np.testing.assert_array_equal(dataset.instances(2).numpy(), make_labels(24, 18, 1))
    (voc / f"SegmentationObject/{TRAIN[2]}.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{TRAIN[2]}\.png is missing.*no instance mask"):
        dataset.instances(2)


def test_fingerprint_follows_the_files_not_the_place(tmp_path):
    first = make_tiny_voc(tmp_path / "a" / "VOC2012")
    second = make_tiny_voc(tmp_path / "b" / "VOC2012")
    prints = [VOCSegmentation(root, "train").fingerprint() for root in (first, second)]
    assert prints[0] == prints[1]
    assert prints[0] != VOCSegmentation(first, "val").fingerprint()
    save_photo(second / f"JPEGImages/{TRAIN[0]}.jpg", 30, 18)
    assert prints[0] != VOCSegmentation(second, "train").fingerprint()


def test_trainaug_takes_sbd_only_where_voc_has_nothing(voc):
    extra = "2008_000002"
    save_photo(voc / f"JPEGImages/{extra}.jpg", 24, 18)
    save_labels(voc / f"SegmentationClassAug/{extra}.png", make_labels(24, 18, 20))
    save_labels(voc / f"SegmentationClassAug/{TRAIN[0]}.png", make_labels(24, 18, 19))
    (voc / "ImageSets/Segmentation/trainaug.txt").write_text(f"{TRAIN[0]}\n{extra}\n")
    dataset = VOCSegmentation(voc, "trainaug")
    assert dataset.load_target(0).unique().tolist() == [0, 1, 255]
    assert dataset.load_target(1).unique().tolist() == [0, 20, 255]


class TestComparison:
    def test_fixed_ids_of_voc(self, tmp_path, capsys):
        ids = COMPARISON_IDS["VOC2012"]
        assert len(set(ids)) == 5
        root = make_tiny_voc(tmp_path / "VOC2012", val=("2007_000001", *reversed(ids)))
        dataset = VOCSegmentation(root, "val")
        assert [dataset.ids[i] for i in comparison_indices(dataset)] == list(ids)
        assert capsys.readouterr().out == ""

    @given(st.integers(1, 300))
    def test_evenly_spaced_elsewhere(self, count):
        class Other:
            name, split, ids = "other", "val", [str(i) for i in range(count)]
            __len__ = lambda self: count  # noqa: E731

        indices = comparison_indices(Other())
        assert len(indices) == len(set(indices)) == min(5, count)
        assert indices == sorted(indices)
        assert 0 <= indices[0] <= indices[-1] < count
        steps = np.diff(indices)
        assert steps.size == 0 or steps.max() - steps.min() <= 1

    def test_it_says_which(self, voc, capsys):
        comparison_indices(VOCSegmentation(voc, "val"))
        assert f"evenly spaced: {VAL[0]}, {VAL[1]}." in capsys.readouterr().out


LISTS, LABELS, PHOTOS = "ImageSets/Segmentation", "SegmentationClass", "JPEGImages"


def save_as(path, mode, format):
    Image.new(mode, (24, 18)).save(path, format=format)


@pytest.mark.parametrize(
    ("spoil", "split", "error", "message"),
    [
        (lambda voc: voc.rename(voc.parent / "x"), "train", FileNotFoundError, r"does not exist\. Give the folder"),
        (lambda voc: shutil.rmtree(voc / LISTS), "train", FileNotFoundError, f"no {LISTS}.*Give the folder"),
        (lambda voc: None, "tain", FileNotFoundError, r"no split 'tain' here\. .*: train, trainval, val"),
        (lambda voc: (voc / LISTS / "train.txt").write_text("\n  \n"), "train", ValueError, "train.txt is empty: list"),
        (lambda voc: (voc / PHOTOS / f"{VAL[1]}.jpg").unlink(), "val", FileNotFoundError,
         rf"{VAL[1]}\.jpg is missing \(1 of 2 images.*put the"),
        (lambda voc: (voc / LABELS / f"{VAL[1]}.png").unlink(), "val", FileNotFoundError,
         rf"{VAL[1]}\.png is missing \(1 of 2 label maps.*put the"),
        (lambda voc: shutil.rmtree(voc / LABELS), "val", FileNotFoundError, "2 of 2 label maps"),
    ],
)  # fmt: skip
def test_a_set_that_is_not_whole_is_refused_when_it_is_opened(voc, spoil, split, error, message):
    spoil(voc)
    with pytest.raises(error, match=message):
        VOCSegmentation(voc, split)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("file", [f"{PHOTOS}/{VAL[0]}.jpg", f"{LABELS}/{VAL[0]}.png"])
def test_a_truncated_file_is_named_when_it_is_read(voc, file, keep):
    path = voc / file
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=rf"{path.name} cannot be decoded .*fetch or export it again"):
        VOCSegmentation(voc, "val")[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: save_labels(path, make_labels(24, 18, 21)), r" holds the label 21 \(112 .*Correct the"),
        (lambda path: save_labels(path, make_labels(24, 18, 254)), r" holds the label 254 \(112 .*Correct the"),
        (lambda path: save_labels(path, make_labels(18, 24, 1)), " is 18x24 .*Put the original pair"),
        (lambda path: save_as(path, "RGB", "PNG"), " is a label map of mode RGB, .*Save the label"),
        (lambda path: save_as(path, "I;16", "PNG"), " is a label map of mode I;16, .*Save the label"),
        (lambda path: save_as(path, "L", "JPEG"), " is a JPEG: .*Export the label map again"),
    ],
)
def test_a_wrong_label_map_is_named_when_it_is_read(voc, spoil, message):
    spoil(voc / LABELS / f"{VAL[1]}.png")
    dataset = VOCSegmentation(voc, "val")
    dataset[0]
    with pytest.raises(ValueError, match=rf"{VAL[1]}\.png{message}"):
        dataset[1]


@pytest.mark.real_data
@pytest.mark.skipif("LAB_REAL_DATA" not in os.environ, reason="LAB_REAL_DATA names no folder of real photographs")
def test_real_photographs():
    root = Path(os.environ["LAB_REAL_DATA"]) / "voc_style_photos"
    for split, count in (("train", 43), ("val", 22)):
        dataset = VOCSegmentation(root, split)
        assert len(dataset) == count
        seen = set()
        for index in range(count):
            image, target = dataset[index]
            instances = dataset.instances(index)
            assert image.shape[1:] == target.shape == instances.shape
            assert torch.equal(target == 0, instances == 0)
            seen |= set(target.unique().tolist())
        assert {0, 255} < seen <= {*range(21), 255}
