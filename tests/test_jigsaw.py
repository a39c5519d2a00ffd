"""The jigsaw pictures: same bytes everywhere, honest masks, folder layout, and a folder that survives interruption."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from labhelpers.data import FolderSegmentation
from labhelpers.data.jigsaw import JIGSAW_CLASSES, draw_table, make_jigsaw

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

# Whoever changes a picture on purpose raises GENERATOR in labhelpers/data/jigsaw.py and renews these.
EXPECTED = {
    (0, "train", 0, 512): "542cbf0006eeeb982aed6ebdcca9aa134a9d7b58afb4e9e37412953100c12d4e",
    (0, "test", 1, 256): "2f7169e49d7c434dc7416ba974795e9f706d909e5a67a845e48f440f5591bf94",
}


@pytest.mark.parametrize("key", EXPECTED, ids=str)
def test_pictures_are_these_bytes(key):
    image, target = draw_table(*key)
    assert hashlib.sha256(image.tobytes() + target.tobytes()).hexdigest() == EXPECTED[key]


def test_pieces_take_a_reasonable_share_in_every_split():
    shares = [draw_table(0, split, i, 128)[1].mean() for split in ("train", "val", "test") for i in range(4)]
    assert min(shares) > 0.05
    assert max(shares) < 0.35


@pytest.fixture(scope="module")
def jigsaw(tmp_path_factory):
    return make_jigsaw(tmp_path_factory.mktemp("jigsaw") / "set", seed=1, size=128, counts=(2, 1, 1))


def test_folder_layout(jigsaw):
    train = FolderSegmentation.from_root(jigsaw, "train", class_names=JIGSAW_CLASSES)
    image, target = train[1]
    pixels, labels = draw_table(1, "train", 1, 128)
    np.testing.assert_array_equal(target.numpy(), labels)
    assert np.abs(image.numpy().transpose(1, 2, 0).astype(int) - pixels).mean() < 6
    assert set(np.unique(labels)) == {0, 1}
    with Image.open(jigsaw / "labels/train/table_000.png") as label:
        assert label.mode == "L"
    assert {split: len(FolderSegmentation.from_root(jigsaw, split)) for split in ("train", "val", "test")} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }


def test_finished_folder_is_left_alone_and_a_missing_file_drawn_again(jigsaw):
    path, other = jigsaw / "labels/val/table_000.png", jigsaw / "images/val/table_000.jpg"
    before, time = path.read_bytes(), other.stat().st_mtime_ns
    path.unlink()
    make_jigsaw(jigsaw, seed=1, size=128, counts=(2, 1, 1))
    assert path.read_bytes() == before
    assert other.stat().st_mtime_ns == time


def test_other_settings_and_bad_arguments_are_refused(jigsaw, tmp_path):
    with pytest.raises(ValueError, match="seed=1, but seed=2 is asked for"):
        make_jigsaw(jigsaw, seed=2, size=128, counts=(2, 1, 1))
    with pytest.raises(ValueError, match="^counts="):
        make_jigsaw(tmp_path / "a", counts=(1, 1, 0))
    with pytest.raises(ValueError, match="^size="):
        make_jigsaw(tmp_path / "a", size=64)
