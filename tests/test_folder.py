import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_voc import make_labels, save_labels, save_photo

from labhelpers.data import CAMVID_CLASSES, FolderSegmentation

COUNTS = {"train": 3, "val": 2}


@pytest.fixture
def root(tmp_path):
    """Two splits of photos and grey label maps; the largest label, 4, occurs only in train."""
    root = tmp_path / "streets"
    for split, count in COUNTS.items():
        for i in range(count):
            save_photo(root / f"images/{split}/{split}_{i}.jpg", 24, 18, seed=i)
            label = 4 if (split, i) == ("train", 0) else i
            save_labels(root / f"labels/{split}/{split}_{i}.png", make_labels(24, 18, label), mode="L")
    return root


def pair(root, split):
    return root / "images" / split, root / "labels" / split


def test_items_are_the_paired_files(root):
    dataset = FolderSegmentation(*pair(root, "train"), split="train")
    assert dataset.ids == ["train_0", "train_1", "train_2"]
    assert dataset.split == "train"
    for index, label in enumerate((4, 1, 2)):
        image, target = dataset[index]
        assert image.dtype == target.dtype == torch.uint8
        assert image.shape == (3, 18, 24)
        np.testing.assert_array_equal(target.numpy(), make_labels(24, 18, label))


def test_from_root_gives_every_split_the_same_classes(root):
    for split, count in COUNTS.items():
        dataset = FolderSegmentation.from_root(root, split)
        assert (dataset.name, dataset.split, len(dataset)) == ("streets", split, count)
        assert dataset.num_classes == 5
        assert dataset.class_names == ("class 0", "class 1", "class 2", "class 3", "class 4")


def test_one_folder_alone_counts_its_own_classes(root):
    assert FolderSegmentation(*pair(root, "train")).num_classes == 5
    assert FolderSegmentation(*pair(root, "val")).num_classes == 2


def test_class_names_and_number(root):
    names = ["road", "car", "tree", "sky", "sign", "void of meaning"]
    assert FolderSegmentation(*pair(root, "train"), class_names=names).num_classes == 6
    assert FolderSegmentation.from_root(root, "train", num_classes=7).num_classes == 7
    with pytest.raises(ValueError, match="num_classes is 5, but class_names has 6 names"):
        FolderSegmentation(*pair(root, "train"), class_names=names, num_classes=5)


def test_palette_label_maps_png_images_and_other_files(root):
    images, labels = pair(root, "val")
    with Image.open(images / "val_0.jpg") as photo:
        photo.save(images / "val_0.PNG")
    (images / "val_0.jpg").unlink()
    save_labels(labels / "val_0.png", make_labels(24, 18, 3), mode="P")
    for ignored in ("Thumbs.db", ".hidden.png", "README.txt"):
        (labels / ignored).write_text("no image")
    dataset = FolderSegmentation(images, labels)
    assert dataset[0][1].unique().tolist() == [0, 3, 255]


def save_as(path, mode, format):
    Image.new(mode, (24, 18)).save(path, format=format)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "I;16"])
def test_a_label_map_without_label_numbers(root, mode):
    save_as(root / "labels/val/val_1.png", mode, "PNG")
    with pytest.raises(ValueError, match=rf"val_1\.png is a label map of mode {mode}, .*Save the label numbers"):
        FolderSegmentation.from_root(root, "val", num_classes=5)


@pytest.mark.parametrize("name", ["val_1.jpg", "val_1.png"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_label_map(root, name, mode):
    (root / "labels/val/val_1.png").unlink()
    save_as(root / "labels/val" / name, mode, "JPEG")
    with pytest.raises(ValueError, match=rf"{name} is a JPEG: .*Export the label map again as a PNG"):
        FolderSegmentation.from_root(root, "val")


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda root: shutil.rmtree(root / "images/val"), FileNotFoundError,
         r"val does not exist\..* splits found: train"),
        (lambda root: shutil.rmtree(root), FileNotFoundError, "splits found: none"),
        (lambda root: (root / "labels").rename(root / "masks"), FileNotFoundError,
         "labels/val does not exist. Make it, or correct the path"),
        (lambda root: empty(root / "images/val"), ValueError, r"images/val holds no images .*Put some there"),
        (lambda root: (root / "labels/val/val_1.png").unlink(), FileNotFoundError,
         r"val_1\.jpg has no partner called val_1 .*\(1 of 2 .*add the missing"),
        (lambda root: (root / "images/val/val_1.jpg").unlink(), FileNotFoundError,
         r"val_1\.png has no partner called val_1 .*\(1 of 2 .*add the missing"),
        (lambda root: save_photo(root / "images/val/val_0.png", 24, 18), ValueError,
         r"val_0\.png and val_0\.jpg share a name.*remove one"),
        (lambda root: save_labels(root / "labels/val/val_1.png", make_labels(24, 20, 1), mode="L"), ValueError,
         r"val_1\.jpg is 24x18 but its label map .*val_1\.png is 24x20 .*Export"),
        (lambda root: (root / "images/val/val_1.jpg").write_text("<html>404</html>"), ValueError,
         r"val_1\.jpg .*(Export it again|fetch or export it again)"),
        (lambda root: (root / "labels/val/val_1.png").write_text("<html>404</html>"), ValueError,
         r"val_1\.png .*(Export it again|fetch or export it again)"),
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
@pytest.mark.skipif("LAB_REAL_DATA" not in os.environ, reason="LAB_REAL_DATA names no folder of real photographs")
def test_camvid():
    root = Path(os.environ["LAB_REAL_DATA"]) / "camvid"
    sets = {split: FolderSegmentation.from_root(root, split, CAMVID_CLASSES) for split in ("train", "val")}
    assert {split: len(dataset) for split, dataset in sets.items()} == {"train": 367, "val": 101}
    assert FolderSegmentation.from_root(root, "val").num_classes == len(CAMVID_CLASSES) == 11
    image, target = sets["train"][0]
    assert (image.shape, target.shape) == ((3, 360, 480), (360, 480))
    # The order of the names: the sky is above and bright, the road below.
    rows = {name: [] for name in CAMVID_CLASSES}
    for index in range(0, 101, 10):
        labels = sets["val"].load_target(index).numpy()
        for label, name in enumerate(CAMVID_CLASSES):
            rows[name].append(np.nonzero(labels == label)[0])
    height = {name: np.concatenate(places).mean() / 360 for name, places in rows.items()}
    assert min(height, key=height.get) == "sky"
    assert max(height, key=height.get) == "road"
    assert height["building"] < height["fence"] < height["car"] < height["pavement"]
