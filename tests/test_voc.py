"""Data sets: the VOC layout, folders of pairs, and what is said where one is not whole."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from tiny_voc import TRAIN, VAL, make_labels, make_tiny_voc, save_labels, save_photo

from labhelpers.data import (
    CAMVID_CLASSES,
    VOC_CLASSES,
    FolderSegmentation,
    VOCSegmentation,
    cache,
    decode_target,
    subset,
    voc_palette,
)
from labhelpers.data.base import SegmentationDataset
from labhelpers.data.voc import COMPARISON_IDS, comparison_indices


@pytest.fixture
def voc(tmp_path):
    return make_tiny_voc(tmp_path / "VOC2012")


def test_palette_is_the_published_one():
    palette = voc_palette()
    assert (palette.shape, palette.dtype) == ((256, 3), np.uint8)
    assert len(np.unique(palette, axis=0)) == 256
    published = {"background": (0, 0, 0), "aeroplane": (128, 0, 0), "bicycle": (0, 128, 0), "cat": (64, 0, 0)}
    for name, colour in (published | {"person": (192, 128, 128), "tvmonitor": (0, 64, 128)}).items():
        assert tuple(palette[VOC_CLASSES.index(name)]) == colour
    assert tuple(palette[255]) == (224, 224, 192)


def test_items_are_the_files(voc):
    dataset = VOCSegmentation(voc, "train")
    assert (dataset.name, dataset.split, dataset.num_classes) == ("VOC2012", "train", 21)
    assert (dataset.ids, dataset.class_names, dataset.ignore_index) == (list(TRAIN), VOC_CLASSES, 255)
    for index, item in enumerate(TRAIN):
        image, target = dataset[index]
        assert image.dtype == target.dtype == torch.uint8
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
    assert (colours.shape, colours.dtype) == ((*labels.shape, 3), np.uint8)
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


def test_fingerprint_follows_the_bytes_not_the_place(tmp_path):
    first = make_tiny_voc(tmp_path / "a" / "VOC2012")
    second = make_tiny_voc(tmp_path / "b" / "VOC2012")
    prints = [VOCSegmentation(root, "train").fingerprint() for root in (first, second)]
    assert prints[0] == prints[1]
    assert prints[0] != VOCSegmentation(first, "val").fingerprint()
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png"), ("SegmentationObject", "png")):
        path = second / folder / f"{TRAIN[0]}.{suffix}"
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # the same size
        prints.append(VOCSegmentation(second, "train").fingerprint())
    (second / f"SegmentationObject/{TRAIN[1]}.png").unlink()
    prints.append(VOCSegmentation(second, "train").fingerprint())
    assert len(set(prints)) == len(prints) - 1


def rename(voc, old, new):
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        for path in (voc / folder).glob(f"{old}.*"):
            path.rename(path.with_name(new + path.suffix))


@pytest.mark.parametrize(
    ("file", "line", "name"),
    [
        ("my photo (1)", "my photo (1)", "my photo (1)"),
        ("a -1", "a -1", "a -1"),  # a picture of that name, so no flag
        ("IMG_1", " IMG_1.JPG\t", "IMG_1"),
        ("v1.2.png", "v1.2.png", "v1.2.png"),
        ("#1", "#1", "#1"),
        ("cafe\u0301", "caf\u00e9", "caf\u00e9"),  # decomposed on the disk, composed in the list
        ("caf\u00e9", "cafe\u0301", "caf\u00e9"),
        ("天空", "天空", "天空"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".PNG"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_line_of_a_list_is_a_name(voc, file, line, name, suffix, encoding):
    rename(voc, VAL[0], file)
    photo = voc / "JPEGImages" / f"{file}.jpg"
    photo.rename(photo.with_name(file + suffix))
    for other in (".DS_Store", f"._{file}.jpg", "Thumbs.db", f"{file}.txt"):
        (voc / "JPEGImages" / other).touch()
    (voc / "ImageSets/Segmentation/val.txt").write_bytes(f"{line}\r\n\r\n{VAL[1]} \r\n".encode(encoding))
    dataset = VOCSegmentation(voc, "val")
    assert dataset.ids == [name, VAL[1]]
    np.testing.assert_array_equal(dataset[0][1].numpy(), make_labels(24, 18, 4))
    np.testing.assert_array_equal(dataset.instances(0).numpy(), make_labels(24, 18, 1))


def test_it_tells_whether_objects_are_told_apart_and_names_are_voc_s(voc):
    dataset = VOCSegmentation(voc, "val")
    assert dataset.has_instances
    assert dataset.named_as_voc
    (voc / f"SegmentationObject/{VAL[1]}.png").unlink()
    assert not subset(cache(VOCSegmentation(voc, "val")), 1).has_instances
    lists = voc / "ImageSets/Segmentation/val.txt"
    for text in (f"{VAL[0]}.jpg\n", f"\ufeff{VAL[0]}\n"):
        lists.write_text(text, encoding="utf-8")
        assert not VOCSegmentation(voc, "val").named_as_voc
    lists.write_text(VAL[0])
    assert VOCSegmentation(voc, "val").named_as_voc
    rename(voc, VAL[0], "my photo")
    lists.write_text("my photo")
    assert not VOCSegmentation(voc, "val").named_as_voc


def test_a_c_locale_does_not_matter(voc):
    rename(voc, VAL[0], "cafe\u0301 (1)")
    (voc / "ImageSets/Segmentation/val.txt").write_text("caf\u00e9 (1)\n", encoding="utf-8")
    code = (
        "import sys; from labhelpers.data import VOCSegmentation; dataset = VOCSegmentation(sys.argv[1], 'val');"
        "print(ascii(dataset.ids), dataset[0][1].sum().item(), dataset.fingerprint(), sys.getfilesystemencoding())"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = subprocess.run([sys.executable, "-c", code, voc], env=os.environ | plain, capture_output=True, text=True)
    here = VOCSegmentation(voc, "val")
    assert run.stdout == f"{ascii(here.ids)} {here[0][1].sum().item()} {here.fingerprint()} ascii\n", run.stderr


def test_trainaug_takes_sbd_only_where_voc_has_nothing(voc):
    extra = "2008_000002"
    save_photo(voc / f"JPEGImages/{extra}.jpg", 24, 18)
    save_labels(voc / f"SegmentationClassAug/{extra}.png", make_labels(24, 18, 20))
    save_labels(voc / f"SegmentationClassAug/{TRAIN[0]}.png", make_labels(24, 18, 19))
    (voc / "ImageSets/Segmentation/trainaug.txt").write_text(f"{TRAIN[0]}\n{extra}\n")
    dataset = VOCSegmentation(voc, "trainaug")
    assert dataset.load_target(0).unique().tolist() == [0, 1, 255]
    assert dataset.load_target(1).unique().tolist() == [0, 20, 255]


def test_the_fixed_five_of_voc(tmp_path, capsys):
    ids = COMPARISON_IDS["VOC2012"]
    assert len(set(ids)) == 5
    root = make_tiny_voc(tmp_path / "VOC2012", val=("2007_000001", *reversed(ids)))
    dataset = VOCSegmentation(root, "val")
    assert [dataset.ids[i] for i in comparison_indices(dataset)] == list(ids)
    assert capsys.readouterr().out == ""


@given(st.integers(1, 300))
def test_five_evenly_spaced_images_elsewhere(count):
    other = SegmentationDataset("other", "val", ["a"], [str(i) for i in range(count)], [], [])
    indices = comparison_indices(other)
    assert len(indices) == len(set(indices)) == min(5, count)
    assert indices == sorted(indices)
    assert 0 <= indices[0] <= indices[-1] < count
    steps = set(np.diff(indices))
    assert not steps or max(steps) - min(steps) <= 1


def test_it_says_which_images_are_compared(voc, capsys):
    comparison_indices(VOCSegmentation(voc, "val"))
    assert f"evenly spaced: {VAL[0]}, {VAL[1]}." in capsys.readouterr().out


LISTS, LABELS, PHOTOS = "ImageSets/Segmentation", "SegmentationClass", "JPEGImages"


def write_list(voc, text):
    (voc / LISTS / "val.txt").write_text(text, encoding="utf-8")


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
        (lambda voc: [rename(voc, VAL[0], "Img"), write_list(voc, "iMG\n")], "val", FileNotFoundError,
         r"iMG\.jpg is missing \(1 of 1 .*; there is Img\.jpg, and upper and lower case must agree\)"),
        (lambda voc: write_list(voc, f"\n{VAL[0]}  1\n{VAL[1]} -1\n"), "val", ValueError,
         rf"Line 2 of .*val\.txt, '{VAL[0]}  1', has a flag behind the name .* ImageSets/Main do: list only"),
        (lambda voc: write_list(voc, f"{VAL[0]}\n{VAL[1]}\n{VAL[0]}.jpg\n"), "val", ValueError,
         rf"val\.txt names '{VAL[0]}' in lines 1 and 3: remove one"),
        (lambda voc: save_photo(voc / PHOTOS / f"{VAL[0]}.JPG", 24, 18), "val", ValueError,
         rf"{VAL[0]}\.jpg and {VAL[0]}\.JPG share a name.*remove one"),
        (lambda voc: [rename(voc, VAL[0], "\u00e9"), save_photo(voc / PHOTOS / "e\u0301.jpg", 24, 18),
                      write_list(voc, "\u00e9\n")], "val", ValueError, "share a name.*remove one"),
        (lambda voc: (voc / LISTS / "val.txt").write_bytes("Straße".encode("cp1252")), "val", ValueError,
         r"val\.txt is neither UTF-8 nor .* save it as UTF-8"),
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
        (lambda path: save_as(path, "RGBA", "PNG"), " is a label map of mode RGBA, .*Save the label"),
        (lambda path: save_as(path, "L", "JPEG"), " is a JPEG: .*Export the label map again"),
    ],
)
def test_a_wrong_label_map_is_named_when_it_is_read(voc, spoil, message):
    spoil(voc / LABELS / f"{VAL[1]}.png")
    dataset = VOCSegmentation(voc, "val")
    dataset[0]
    with pytest.raises(ValueError, match=rf"{VAL[1]}\.png{message}"):
        dataset[1]


def turn(photo, orientation=6):
    """Set the flag of a photo: 6 shows it turned by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(photo) as image:
        image.save(photo, exif=exif, quality=95)


def test_labels_lie_on_the_picture_as_displayed(voc):
    photo, path = voc / f"{PHOTOS}/{VAL[0]}.jpg", voc / f"{LABELS}/{VAL[0]}.png"
    upright = np.asarray(Image.open(photo).rotate(-90, expand=True)).astype(int)
    turn(photo)
    with pytest.raises(ValueError, match=rf"{VAL[0]}\.jpg is 18x24 .*24x18 .*The orientation flag of \S*jpg counts"):
        VOCSegmentation(voc, "val")[0]
    with pytest.raises(ValueError, match=rf"{VAL[0]}\.jpg is 18x24 .*SegmentationObject\S* is 24x18 .*jpg counts"):
        VOCSegmentation(voc, "val").instances(0)
    save_labels(path, make_labels(18, 24, 3))
    image, target = VOCSegmentation(voc, "val")[0]
    assert np.abs(image.permute(1, 2, 0).numpy() - upright).mean() < 20  # noise, saved as a JPEG twice
    np.testing.assert_array_equal(target.numpy(), make_labels(18, 24, 3))


def test_colours_mean_vocs_classes_where_the_classes_are_vocs(voc):
    labels = make_labels(24, 18, 15)
    path, objects = (voc / f"{folder}/{VAL[0]}.png" for folder in (LABELS, "SegmentationObject"))
    for file in (path, objects):
        Image.fromarray(voc_palette()[labels]).save(file)
    dataset = VOCSegmentation(voc, "val")
    np.testing.assert_array_equal(dataset.load_target(0).numpy(), labels)
    np.testing.assert_array_equal(dataset.instances(0).numpy(), labels)


# Masks drawn black and white: 255 marks an object there, and void everywhere here.


@pytest.mark.parametrize("layout", ["voc", "folder"])
def test_masks_of_0_and_255_alone_are_refused_when_the_set_is_opened(tmp_path, layout, capsys):
    def write(label, count=3):
        root = tmp_path / f"{label}" / "own"
        for i in range(count):
            images, labels = (PHOTOS, LABELS) if layout == "voc" else ("images/train", "labels/train")
            save_photo(root / images / f"{i}.jpg", 24, 18)
            save_labels(root / labels / f"{i}.png", make_labels(24, 18, label if i == count - 1 else 255), mode="L")
        if layout == "folder":
            return FolderSegmentation.from_root(root, "train")
        (root / LISTS).mkdir(parents=True)
        (root / LISTS / "train.txt").write_text("\n".join(map(str, range(count))))
        return VOCSegmentation(root, "train")

    with pytest.raises(ValueError, match=r"own/train .* hold 0 and 255 alone, .* save 1 instead .*labels // 255"):
        write(255)
    assert len(write(1)) == 3  # one map says what the labels are
    assert capsys.readouterr().out == ""


def test_a_set_of_background_alone_is_said(voc, capsys):
    for item in VAL:
        save_labels(voc / f"{LABELS}/{item}.png", np.zeros((18, 24)))
    VOCSegmentation(voc, "val")
    assert "No label map of VOC2012/val holds anything but background (0): there is nothing" in capsys.readouterr().out


@pytest.mark.real_data
def test_real_photographs(real_data):
    for split, count in (("train", 43), ("val", 22)):
        dataset = VOCSegmentation(real_data / "voc_style_photos", split)
        assert len(dataset) == count
        seen = set()
        for index in range(count):
            image, target = dataset[index]
            instances = dataset.instances(index)
            assert image.shape[1:] == target.shape == instances.shape
            assert torch.equal(target == 0, instances == 0)
            seen |= set(target.unique().tolist())
        assert {0, 255} < seen <= {*range(21), 255}


# --- folders of images and label maps -----------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """Two splits of photos and grey label maps; the largest label, 4, occurs only in train."""
    root = tmp_path / "streets"
    for split, count in {"train": 3, "val": 2}.items():
        for i in range(count):
            save_photo(root / f"images/{split}/{split}_{i}.jpg", 24, 18, seed=i)
            label = 4 if (split, i) == ("train", 0) else i
            save_labels(root / f"labels/{split}/{split}_{i}.png", make_labels(24, 18, label), mode="L")
    return root


def pair(root, split):
    return root / "images" / split, root / "labels" / split


def test_items_are_the_paired_files(root):
    dataset = FolderSegmentation(*pair(root, "train"), split="train")
    assert (dataset.split, dataset.ids) == ("train", ["train_0", "train_1", "train_2"])
    for (image, target), label in zip((dataset[i] for i in range(3)), (4, 1, 2), strict=True):
        assert image.dtype == target.dtype == torch.uint8
        assert image.shape == (3, 18, 24)
        np.testing.assert_array_equal(target.numpy(), make_labels(24, 18, label))


def test_class_names_and_number(root):
    for split, count, alone in (("train", 3, 5), ("val", 2, 2)):
        dataset = FolderSegmentation.from_root(root, split)
        assert (dataset.name, dataset.split, len(dataset)) == ("streets", split, count)
        assert dataset.class_names == ("class 0", "class 1", "class 2", "class 3", "class 4")  # of all splits
        assert FolderSegmentation(*pair(root, split)).num_classes == alone
    names = ["road", "car", "tree", "sky", "sign", "void of meaning"]
    assert FolderSegmentation(*pair(root, "train"), class_names=names).num_classes == 6
    assert FolderSegmentation.from_root(root, "train", num_classes=7).num_classes == 7
    with pytest.raises(ValueError, match="num_classes is 5, but class_names has 6 names"):
        FolderSegmentation(*pair(root, "train"), class_names=names, num_classes=5)
    with pytest.raises(ValueError, match="class_names calls the labels 1 and 4 'car': give every label a name of its"):
        FolderSegmentation(*pair(root, "train"), class_names=[*names[:4], "car"])


def test_pairs_are_found_whatever_the_form_of_their_names(root):
    images, labels = pair(root, "val")
    (images / "val_0.jpg").rename(images / "e\u0301.JPG")
    (labels / "val_0.png").rename(labels / "\u00e9.PNG")
    dataset = FolderSegmentation(images, labels, num_classes=5)
    assert dataset.ids == ["val_1", "\u00e9"]
    np.testing.assert_array_equal(dataset[1][1].numpy(), make_labels(24, 18, 0))
    (labels / "val_1.png").rename(labels / "VAL_1.png")
    with pytest.raises(FileNotFoundError, match=r"\(1 of 2 files have none; there is VAL_1\.png, and upper and lower"):
        FolderSegmentation(images, labels)


@pytest.mark.parametrize("void", ["void", " Void", "Unlabelled", "ignore"])
def test_a_last_class_called_void_is_none(root, void):
    names = ["road", "car", "tree", "sky"]
    dataset = FolderSegmentation.from_root(root, "train", [*names, void])
    assert (dataset.class_names, dataset.num_classes) == (tuple(names), 4)
    assert dataset[0][1].unique().tolist() == [0, 255]  # of 0, 4 and 255
    assert dataset[2][1].unique().tolist() == [0, 2, 255]
    assert FolderSegmentation.from_root(root, "train", [void, *names]).num_classes == 5  # only the last one


def test_labels_drawn_as_grey_values_are_refused(root):
    save_labels(root / "labels/train/train_1.png", make_labels(24, 18, 128), mode="L")
    with pytest.raises(ValueError, match=r"labels/\w+ hold labels up to 128 and few .* pass .*num_classes=129"):
        FolderSegmentation.from_root(root, "train")
    assert FolderSegmentation.from_root(root, "train", num_classes=129)[1][1].unique().tolist() == [0, 128, 255]


def test_flags_of_folders_are_seen_when_the_set_is_opened(root):
    photo, label = root / "images/val/val_1.jpg", root / "labels/val/val_1.png"
    turn(photo)
    with pytest.raises(
        ValueError, match=r"val_1\.jpg is 18x24 .* The orientation flag of \S*val_1\.jpg counts: labels"
    ):
        FolderSegmentation.from_root(root, "val")
    save_labels(label, make_labels(18, 24, 1), mode="L")
    assert FolderSegmentation.from_root(root, "val")[1][0].shape == (3, 24, 18)


def test_vocs_colours_in_a_folder_need_vocs_classes(root):
    labels = make_labels(24, 18, 4)
    Image.fromarray(voc_palette()[labels]).save(root / "labels/train/train_0.png")
    dataset = FolderSegmentation.from_root(root, "train", VOC_CLASSES)
    np.testing.assert_array_equal(dataset.load_target(0).numpy(), labels)
    with pytest.raises(ValueError, match=r"train_0\.png is a label map of mode RGB, .* map them to numbers"):
        FolderSegmentation.from_root(root, "train", num_classes=21)


def test_palette_label_maps_png_images_and_other_files(root):
    images, labels = pair(root, "val")
    with Image.open(images / "val_0.jpg") as photo:
        photo.save(images / "val_0.PNG")
    (images / "val_0.jpg").unlink()
    save_labels(labels / "val_0.png", make_labels(24, 18, 3), mode="P")
    for ignored in ("Thumbs.db", ".hidden.png", "README.txt"):
        (labels / ignored).write_text("no image")
    (root / "labels/.ipynb_checkpoints").mkdir()
    assert FolderSegmentation.from_root(root, "val").num_classes == 5
    assert FolderSegmentation(images, labels)[0][1].unique().tolist() == [0, 3, 255]


@pytest.mark.parametrize(
    ("name", "mode", "format", "message"),
    [("val_1.png", mode, "PNG", f"a label map of mode {mode}, .*Save the") for mode in ("RGB", "RGBA", "LA")]
    + [(f"val_1.{end}", mode, "JPEG", "a JPEG: .*Export") for end in ("jpg", "png") for mode in ("L", "RGB")],
)
def test_a_label_map_without_label_numbers(root, name, mode, format, message):
    (root / "labels/val/val_1.png").unlink()
    save_as(root / "labels/val" / name, mode, format)
    with pytest.raises(ValueError, match=f"{name} is {message}"):
        FolderSegmentation.from_root(root, "val", num_classes=5)


AGAIN = "(Export it again|fetch or export it again)"


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda root: shutil.rmtree(root / "images/val"), FileNotFoundError, r"not exist\..* splits found: train"),
        (lambda root: shutil.rmtree(root), FileNotFoundError, "splits found: none"),
        (lambda root: (root / "labels").rename(root / "masks"), FileNotFoundError,
         "labels/val does not exist. Make it, or correct the path"),
        (lambda root: [path.unlink() for path in (root / "images/val").iterdir()], ValueError,
         r"images/val holds no images .*Put some there"),
        (lambda root: (root / "labels/val/val_1.png").unlink(), FileNotFoundError,
         r"val_1\.jpg has no partner called val_1 .*\(1 of 2 .*add the missing"),
        (lambda root: (root / "images/val/val_1.jpg").unlink(), FileNotFoundError,
         r"val_1\.png has no partner called val_1 .*\(1 of 2 .*add the missing"),
        (lambda root: save_photo(root / "images/val/val_0.png", 24, 18), ValueError,
         r"val_0\.png and val_0\.jpg share a name.*remove one"),
        (lambda root: save_labels(root / "labels/val/val_1.png", make_labels(24, 20, 1), mode="L"), ValueError,
         r"val_1\.jpg is 24x18 but its label map .*val_1\.png is 24x20 .*export"),
        (lambda root: (root / "images/val/val_1.jpg").write_text("<html>404</html>"), ValueError, fr"\.jpg .*{AGAIN}"),
        (lambda root: (root / "labels/val/val_1.png").write_text("<html>404</html>"), ValueError, fr"\.png .*{AGAIN}"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_data_set_is_refused_when_it_is_opened(root, spoil, error, message):
    spoil(root)
    with pytest.raises(error, match=message):
        FolderSegmentation.from_root(root, "val")


def test_what_is_wrong_with_one_item_is_said_when_it_is_read(root):
    path = root / "images/val/val_1.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"val_1\.jpg cannot be decoded"):
        FolderSegmentation.from_root(root, "val")[1]
    dataset = FolderSegmentation(*pair(root, "train"), num_classes=3)
    with pytest.raises(ValueError, match=r"train_0\.png holds the label 4 .*labels 0\.\.2, and 255"):
        dataset[0]
    with pytest.raises(FileNotFoundError, match="streets has no instance masks"):
        FolderSegmentation.from_root(root, "val").instances(0)


@pytest.mark.real_data
def test_camvid(real_data):
    root = real_data / "camvid"
    sets = {split: FolderSegmentation.from_root(root, split, CAMVID_CLASSES) for split in ("train", "val")}
    assert {split: len(dataset) for split, dataset in sets.items()} == {"train": 367, "val": 101}
    assert FolderSegmentation.from_root(root, "val").num_classes == len(CAMVID_CLASSES) == 11
    image, target = sets["train"][0]
    assert (image.shape, target.shape) == ((3, 360, 480), (360, 480))
    # The order of the names: the sky is above and bright, the road below.
    labels = np.stack([sets["val"].load_target(index).numpy() for index in range(0, 101, 10)])
    height = {name: np.nonzero(labels == label)[1].mean() for label, name in enumerate(CAMVID_CLASSES)}
    assert min(height, key=height.get) == "sky"
    assert max(height, key=height.get) == "road"
    assert height["building"] < height["fence"] < height["car"] < height["pavement"]
