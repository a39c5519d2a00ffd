"""One switch for the data: what each source opens, and which images are for what."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_voc import VAL, make_labels, make_tiny_voc, save_labels, save_photo

from labhelpers import config
from labhelpers.data import CAMVID_CLASSES, JIGSAW_CLASSES, VOC_CLASSES, DownloadError, open_course_data, open_splits
from labhelpers.data import open as open_module
from labhelpers.data.base import SegmentationDataset
from labhelpers.data.open import HELD_OUT

PROFILE = replace(config.PROFILES["tiny"], scenes=(12, 3), scene_size=64)
NAMES = tuple(f"2007_{i:06d}" for i in range(15))


def make_folder(root: Path, counts: dict[str, int], largest: int = 2) -> Path:
    for split, count in counts.items():
        for i in range(count):
            save_photo(root / f"images/{split}/{split}_{i:02d}.jpg", 24, 18, seed=i)
            save_labels(root / f"labels/{split}/{split}_{i:02d}.png", make_labels(24, 18, largest), mode="L")
    return root


def assert_held_out(splits, train: int, held_out: int, test: int):
    """Training images of the set in two parts, and the reported ones a split of their own."""
    assert [len(part) for part in splits] == [train, held_out, test]
    assert [part.split for part in splits] == ["train", "train-held-out", "val"]
    assert not set(splits.train.ids) & set(splits.val.ids)
    assert len({part.fingerprint() for part in splits}) == 3


def test_scenes_report_on_the_images_of_the_other_labs(capsys):
    splits = open_splits("scenes", PROFILE)
    assert_held_out(splits, 8, 4, 3)
    assert capsys.readouterr().out == (
        "Data: synthetic scenes of 64 px: 8 images (train) to train on, 4 images (train-held-out) to select models on "
        "and 3 images (val) to report on.\n"
    )
    train, val = open_course_data(PROFILE)
    assert (train.name, train[0][0].shape) == ("scenes", (3, 64, 64))
    assert capsys.readouterr().out == "Data: synthetic scenes of 64 px: 12 training and 3 validation images.\n"
    assert splits.test.fingerprint() == val.fingerprint()
    assert sorted(splits.train.ids + splits.val.ids) == train.ids
    again = open_splits("scenes", PROFILE)
    assert [part.fingerprint() for part in again] == [part.fingerprint() for part in splits]
    same = train[train.ids.index(splits.val.ids[0])]
    assert all(part.equal(expected) for part, expected in zip(splits.val[0], same, strict=True))


def test_course_is_what_the_other_labs_open(monkeypatch, tmp_path, capsys):
    assert open_splits("course", PROFILE).test.name == "scenes"
    root = make_tiny_voc(tmp_path / "own", train=NAMES[:12], val=NAMES[12:])
    monkeypatch.setenv("LAB_VOC_ROOT", str(root))
    splits = open_splits("course", PROFILE)
    assert_held_out(splits, 8, 4, 3)
    assert splits.test.ids == list(NAMES[12:])
    assert "Data: own from LAB_VOC_ROOT: 8 images (train)" in capsys.readouterr().out
    assert [part.name for part in open_course_data(replace(PROFILE, data="voc"))] == ["own", "own"]
    assert capsys.readouterr().out == "Data: own from LAB_VOC_ROOT: 12 training and 3 validation images.\n"
    assert open_splits("scenes", PROFILE).test.name == "scenes"  # asked for by name


def test_a_lab_about_objects_passes_over_photographs_without_any(monkeypatch, tmp_path, capsys):
    root = make_tiny_voc(tmp_path / "own", width=40, height=36)
    monkeypatch.setenv("LAB_VOC_ROOT", str(root))
    profile = replace(PROFILE, mini_sam=replace(PROFILE.mini_sam, min_side=26))
    assert [part.name for part in open_course_data(profile, objects=True)] == ["own", "own"]
    large = replace(PROFILE, mini_sam=replace(PROFILE.mini_sam, min_side=27))  # the height of the objects is 26
    assert [part.name for part in open_course_data(large, objects=True)] == ["scenes", "scenes"]
    assert "an object of at least 27 x 27 pixels. own in LAB_VOC_ROOT lacks them, so other" in capsys.readouterr().out
    next((root / "SegmentationObject").iterdir()).unlink()
    for objects, name in ((False, "own"), (True, "scenes")):
        assert [part.name for part in open_course_data(profile, objects)] == [name, name]


def test_photographs_with_nothing_labelled_are_refused(monkeypatch, tmp_path):
    root = make_tiny_voc(tmp_path / "own")
    monkeypatch.setenv("LAB_VOC_ROOT", str(root))
    for item in VAL:
        save_labels(root / f"SegmentationClass/{item}.png", np.zeros((18, 24)))
    with pytest.raises(ValueError, match=r"label maps of own/val, .* nothing but background and void: label the"):
        open_course_data(PROFILE)


def test_voc_by_name_is_voc_or_an_error(monkeypatch, tmp_path, capsys):
    root = make_tiny_voc(tmp_path / "VOC2012", train=NAMES[:12], val=NAMES[12:])
    monkeypatch.setattr(open_module, "fetch_voc", lambda folder: root)
    assert_held_out(open_splits("voc", PROFILE), 8, 4, 3)
    capsys.readouterr()
    assert [part.name for part in open_course_data(replace(PROFILE, data="voc"))] == ["VOC2012", "VOC2012"]
    assert capsys.readouterr().out == "Data: PASCAL VOC 2012: 12 training and 3 validation images.\n"

    error = DownloadError(Path("voc.tar"), {"http://a.invalid/x": "no connection"})
    monkeypatch.setattr(open_module, "fetch_voc", Mock(side_effect=error))
    with pytest.raises(DownloadError):
        open_splits("voc", PROFILE)
    assert open_splits("course", replace(PROFILE, data="voc")).test.name == "scenes"
    said = "PASCAL VOC 2012 cannot be fetched (a.invalid: no connection), so the synthetic scenes take its place.\n"
    assert capsys.readouterr().out.startswith(said)


def test_jigsaw_has_parts_of_its_own(capsys):
    splits = open_splits("jigsaw", PROFILE, jigsaw_size=128, jigsaw_counts=(2, 1, 1))
    assert [(part.name, part.split, len(part)) for part in splits] == [
        ("jigsaw", split, count) for split, count in (("train", 2), ("val", 1), ("test", 1))
    ]
    assert splits.train.class_names == JIGSAW_CLASSES
    assert splits.train[0][0].shape == (3, 128, 128)
    said = "2 images (train) to train on, 1 image (val) to select models on and 1 image (test)"
    assert said in capsys.readouterr().out


def test_a_folder_in_voc_layout(tmp_path):
    make_tiny_voc(tmp_path / "photos" / "VOCdevkit" / "VOC2012", train=NAMES[:12], val=NAMES[12:])
    splits = open_splits(tmp_path / "photos", PROFILE)
    assert_held_out(splits, 8, 4, 3)
    assert splits.train.class_names == VOC_CLASSES


def test_a_folder_of_images_and_labels(tmp_path, capsys):
    root = make_folder(tmp_path / "streets", {"train": 9, "val": 2})
    save_photo(root / "images/test/a.jpg", 24, 18)  # without a label map it is no test split
    splits = open_splits(str(root), PROFILE)
    assert_held_out(splits, 5, 4, 2)
    assert splits.test.class_names == ("class 0", "class 1", "class 2")
    (root / "images/test/a.jpg").unlink()
    make_folder(root, {"test": 1})
    assert [(part.split, len(part)) for part in open_splits(root, PROFILE)] == [("train", 9), ("val", 2), ("test", 1)]
    assert "Data: streets: 9 images (train) to train on" in capsys.readouterr().out
    for path in (root / "images/val", root / "labels/val"):
        shutil.rmtree(path)
    assert [part.split for part in open_splits(root, PROFILE)] == ["train", "train-held-out", "test"]


@pytest.mark.parametrize(
    ("name", "largest", "known"), [("CamVid-small", 10, True), ("camvid", 9, False), ("a", 10, False)]
)
def test_camvid_is_known_by_its_name_and_its_labels(tmp_path, name, largest, known):
    splits = open_splits(make_folder(tmp_path / name, {"train": 8, "val": 1}, largest), PROFILE)
    expected = CAMVID_CLASSES[:2] if known else ("class 0", "class 1")
    assert [part.class_names[:2] for part in splits] == [expected] * 3
    assert splits.test.num_classes == largest + 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_names_the_classes(tmp_path, encoding):
    root = make_folder(tmp_path / "camvid", {"train": 8, "val": 1}, 10)
    names = tuple(f"thing {k}" for k in range(10)) + ("caf\u00e9",)
    (root / "classes.txt").write_bytes(("# in label order\n" + " \n\n".join(names)).encode(encoding))
    assert open_splits(root, PROFILE).test.class_names == names
    for wrong, message in {
        "\n": "is empty: write one class name per line",
        "sky\nroad\nsky": "calls the labels 0 and 2 'sky': give every label a name of its own",
    }.items():
        (root / "classes.txt").write_text(wrong)
        with pytest.raises(ValueError, match=rf"classes\.txt {message}"):
            open_splits(root, PROFILE)


def test_it_says_which_images_are_in_both_lists(tmp_path, capsys):
    open_splits(make_tiny_voc(tmp_path / "own", train=NAMES[:12], val=NAMES[10:13]), PROFILE)
    assert f"2 of the 3 validation images of own are training images too ({NAMES[10]})" in capsys.readouterr().out


def test_a_name_for_void_that_counts_as_a_class_is_said(tmp_path, capsys):
    root = make_folder(tmp_path / "own", {"train": 8, "val": 1})
    (root / "classes.txt").write_text("unlabelled\nroad\ncar")
    assert open_splits(root, PROFILE).test.num_classes == 3
    assert "Label 0 of own, 'unlabelled', counts as a class: save it as 255" in capsys.readouterr().out


@pytest.mark.parametrize("names", [None, [*CAMVID_CLASSES, "Void"]])
def test_the_twelfth_label_of_camvid_is_void_and_that_is_said(tmp_path, capsys, names):
    root = make_folder(tmp_path / ("CamVid" if names is None else "own"), {"train": 8, "val": 1}, 11)
    save_labels(root / "labels/val/val_00.png", make_labels(24, 18, 10), mode="L")
    if names:
        (root / "classes.txt").write_text("\n".join(names))
    splits = open_splits(root, PROFILE)
    assert [part.class_names for part in splits] == [CAMVID_CLASSES] * 3
    assert [part[0][1].unique().tolist() for part in splits] == [[0, 255], [0, 255], [0, 10, 255]]
    assert (
        f"Data: {root.name} (label 11 is void, so that it is neither learned nor scored): " in capsys.readouterr().out
    )


def test_bad_sources(tmp_path):
    with pytest.raises(ValueError, match="unknown source 'cityscapes': neither a folder nor one of course, voc,"):
        open_splits("cityscapes", PROFILE)
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path} has neither images/train (beside")):
        open_splits(tmp_path, PROFILE)
    root = make_folder(tmp_path / "streets", {"train": 7})
    with pytest.raises(FileNotFoundError, match="streets has nothing to test on: put images into images/val or"):
        open_splits(root, PROFILE)
    make_folder(root, {"val": 1})
    with pytest.raises(ValueError, match=r"streets/train has 7 images, too few to hold 4 out .* Add training images"):
        open_splits(root, PROFILE)


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 300))
def test_about_a_seventh_is_held_out(count):
    nowhere = [Path("nowhere")] * count
    whole = SegmentationDataset("set", "train", ["a", "b"], [f"{i:03d}" for i in range(count)], nowhere, nowhere)
    rest, held_out = open_module._hold_out(whole)
    assert sorted(rest.ids + held_out.ids) == whole.ids
    assert abs(len(held_out) - max(4, HELD_OUT * count)) <= 0.5
    assert (rest.split, held_out.split) == ("train", "train-held-out")


@pytest.mark.real_data
def test_real_camvid(real_data):
    splits = open_splits(real_data / "camvid", PROFILE)
    assert_held_out(splits, 312, 55, 101)
    assert splits.test.class_names == CAMVID_CLASSES
