"""Scenes and jigsaws: same bytes everywhere, honest masks, folders as they are read, which survive interruption."""

import hashlib
import os
import shutil
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labhelpers.data import JIGSAW_CLASSES, VOC_CLASSES, FolderSegmentation, VOCSegmentation
from labhelpers.data.jigsaw import draw_table, make_jigsaw
from labhelpers.data.scenes import draw_scene, make_scenes
from labhelpers.data.scenes.drawing import Look, Part, grow, paint
from labhelpers.data.scenes.figures import FIGURES, Kit

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

# sha256 of image, class map and object map, in that order. Whoever changes a picture on purpose raises GENERATOR in
# labhelpers/data/scenes or jigsaw.py (so that old folders are refused) and renews these.
EXPECTED = {
    (0, "train", 0, 128): "04e96ce911512208e18eb64c50b9618b09d3b918adf02c8553ccd6d12db736da",
    (0, "train", 7, 256): "a5c24f36ecb81caf0d6e41481309a2cd8ea4f4d54f70296977bef91b18cd6ad4",
    (0, "val", 3, 128): "c8d21e7f1fe7a38b77b51ca5d4429dc99f492f1e2b8532ce40508e48bc8ae132",
    (5, "train", 41, 200): "ea59a26220c716071c66416598b2ddc9d87273e260d1117b940ee4a7aa70f38a",
}
EXPECTED_JIGSAWS = {
    (0, "train", 0, 512): "542cbf0006eeeb982aed6ebdcca9aa134a9d7b58afb4e9e37412953100c12d4e",
    (0, "test", 1, 256): "2f7169e49d7c434dc7416ba974795e9f706d909e5a67a845e48f440f5591bf94",
}


def digest(*key):
    scene = draw_scene(*key)
    return hashlib.sha256(scene.image.tobytes() + scene.classes.tobytes() + scene.objects.tobytes()).hexdigest()


@pytest.mark.parametrize("key", EXPECTED, ids=str)
def test_scenes_are_these_bytes(key):
    assert digest(*key) == EXPECTED[key]


@pytest.mark.parametrize("key", EXPECTED_JIGSAWS, ids=str)
def test_jigsaws_are_these_bytes(key):
    image, target = draw_table(*key)
    assert hashlib.sha256(image.tobytes() + target.tobytes()).hexdigest() == EXPECTED_JIGSAWS[key]


def test_scenes_do_not_depend_on_the_instruction_set():
    """NumPy picks other code on other processors; without its wide instructions the bytes must be the same."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    wide = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    if not wide:
        pytest.skip("this NumPy build has no wider instructions to turn off on this processor")
    key = (0, "train", 7, 256)
    code = f"import sys; sys.path.insert(0, 'tests'); import test_scenes; print(test_scenes.digest(*{key!r}))"
    env = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(wide)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == EXPECTED[key]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**63), st.sampled_from(["train", "val"]), st.integers(0, 10**6), st.integers(64, 160))
def test_any_scene_is_consistent(seed, split, index, size):
    scene = draw_scene(seed, split, index, size)
    assert scene.image.shape == (size, size, 3)
    assert scene.classes.shape == scene.objects.shape == (size, size)
    numbers = sorted(set(np.unique(scene.objects)) - {0, 255})
    assert numbers == list(range(1, len(numbers) + 1))
    assert 1 <= len(numbers) <= 6
    for number in numbers:
        assert len(np.unique(scene.classes[scene.objects == number])) == 1  # an object has one class
    np.testing.assert_array_equal(scene.objects == 255, scene.classes == 255)
    np.testing.assert_array_equal(scene.objects == 0, scene.classes == 0)


@pytest.mark.parametrize("size", [128, 256])
def test_rims_separate_objects_and_are_about_one_pixel_at_128(size):
    for index in range(6):
        objects = draw_scene(0, "train", index, size).objects
        for a, b in ((objects[1:], objects[:-1]), (objects[:, 1:], objects[:, :-1])):
            assert not ((a != b) & (a != 255) & (b != 255)).any()
        known = objects != 255
        assert (grow(known, size // 128) | known).mean() > 0.99  # void is thin: growing what is known closes it


@pytest.mark.parametrize("block", [0, 3])
def test_every_block_of_twenty_shows_every_category(block):
    scenes = (draw_scene(0, "train", 20 * block + index, 64).classes for index in range(20))
    assert set(np.unique(np.stack(list(scenes)))) >= set(range(1, 21))


def test_statistics_are_like_voc():
    pixels, images, longest = np.zeros(256, dtype=int), np.zeros(256, dtype=int), []
    for index in range(160):
        scene = draw_scene(0, "train", index, 128)
        pixels += np.bincount(scene.classes.ravel(), minlength=256)
        images[np.unique(scene.classes)] += 1
        for number in range(1, scene.objects[scene.objects < 255].max() + 1):
            rows, columns = np.nonzero(scene.objects == number)
            longest.append(1 + max(np.ptp(rows), np.ptp(columns)))
    assert 0.69 < pixels[0] / pixels[:21].sum() < 0.77
    assert images[15] == images[1:21].max()  # persons are the most frequent, several times as frequent as the rarest
    assert 5 < images[15] / images[1:21].min() < 10
    assert max(longest) / min(longest) > 8


def test_pieces_take_a_reasonable_share_in_every_split():
    shares = [draw_table(0, split, i, 128)[1].mean() for split in ("train", "val", "test") for i in range(4)]
    assert min(shares) > 0.05
    assert max(shares) < 0.35


def parts_of(name, seed=1):
    kit = Kit(np.random.default_rng(seed), 1.0)
    FIGURES[name](kit)
    return kit.parts


def test_classes_that_only_context_tells_apart_share_their_look():
    assert parts_of("bus") == parts_of("train")  # on a road, or on rails
    one, three = parts_of("chair"), parts_of("sofa")  # one seat wide, or three
    assert {p.shader for p in one} == {p.shader for p in three}
    assert {p.radius for p in one} == {p.radius for p in three}
    extent = [max(p.box()[2] for p in parts) - min(p.box()[0] for p in parts) for parts in (one, three)]
    assert extent[1] > 2 * extent[0]
    assert [max(p.box()[3] for p in parts) for parts in (one, three)] == pytest.approx([0.56, 0.56])


def test_all_voc_categories_have_a_silhouette_of_their_size():
    assert set(FIGURES) == set(VOC_CLASSES[1:])
    for name in FIGURES:
        x0, y0, x1, y1 = (np.array([p.box() for p in parts_of(name)]).T[i] for i in range(4))
        assert 0.5 < max(x1.max() - x0.min(), y1.max() - y0.min()) <= 1.1, name
        assert -0.06 <= y0.min() <= 0.06, name  # it stands on the ground


def test_polygon_covers_exactly_the_pixels_inside():
    square, concave = np.zeros((2, 9, 9), dtype=bool)
    for mask, corners in (
        (square, [(2, 1), (6, 1), (6, 4), (2, 4)]),
        (concave, [(0, 0), (9, 0), (9, 9), (6, 9), (6, 3), (3, 3), (3, 9), (0, 9)]),
    ):
        paint(np.zeros((9, 9, 3), dtype=np.float32), Part("polygon", corners, 0.0, Look((200, 100, 0))), mask)
    assert (square.sum(), square[1:4, 2:6].all()) == (12, True)
    assert (concave.sum(), concave[3:, 3:6].any()) == (81 - 18, False)


def test_thin_strokes_keep_their_width_and_leave_no_gap():
    part = Part("stroke", [(0.0, 0.0), (1.0, 0.37)], 0.001, Look((0, 0, 0))).placed(10, 90, 80, False, 0.0, 0.65)
    mask = np.zeros((100, 100), dtype=bool)
    paint(np.zeros((100, 100, 3), dtype=np.float32), part, mask)
    assert mask[:, 12:88].any(axis=0).all()
    assert mask.sum() == pytest.approx(1.3 * 80 * (1 + 0.37**2) ** 0.5, rel=0.1)


def snapshot(root):
    return {p.relative_to(root): (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()}


MADE = {
    "scenes": (make_scenes, {"n": (4, 2), "seed": 3, "size": 64}),
    "jigsaw": (make_jigsaw, {"counts": (2, 1, 1), "seed": 3, "size": 128}),
}


def made_once(name):
    @pytest.fixture(scope="module")
    def folder(tmp_path_factory):
        make, settings = MADE[name]
        return make(tmp_path_factory.mktemp(name) / "set", **settings)

    return folder


scenes, jigsaw = made_once("scenes"), made_once("jigsaw")


def test_folder_is_read_as_voc(scenes):
    counts = [len(VOCSegmentation(scenes, split)) for split in ("train", "val", "trainval")]
    assert counts == [4, 2, 6]
    train, drawn = VOCSegmentation(scenes, "train"), draw_scene(3, "train", 1, 64)
    image, target = train[1]
    np.testing.assert_array_equal(target.numpy(), drawn.classes)
    np.testing.assert_array_equal(train.instances(1).numpy(), drawn.objects)
    assert np.abs(image.numpy().transpose(1, 2, 0).astype(int) - drawn.image).mean() < 6  # JPEG at quality 95
    for folder in ("SegmentationClass", "SegmentationObject"):
        with Image.open(scenes / folder / "train_00000.png") as label:
            assert label.mode == "P"
            assert label.getpalette()[3 * 15 : 3 * 15 + 3] == [192, 128, 128]  # person
            assert label.getpalette()[-3:] == [224, 224, 192]


def test_jigsaw_is_read_as_folders(jigsaw):
    counts = [len(FolderSegmentation.from_root(jigsaw, split)) for split in ("train", "val", "test")]
    assert counts == [2, 1, 1]
    image, target = FolderSegmentation.from_root(jigsaw, "train", class_names=JIGSAW_CLASSES)[1]
    pixels, labels = draw_table(3, "train", 1, 128)
    np.testing.assert_array_equal(target.numpy(), labels)
    assert np.abs(image.numpy().transpose(1, 2, 0).astype(int) - pixels).mean() < 6
    assert set(np.unique(labels)) == {0, 1}
    with Image.open(jigsaw / "labels/train/table_000.png") as label:
        assert label.mode == "L"


def test_a_missing_file_is_drawn_again_and_the_others_are_left_alone(jigsaw):
    before, (make, settings) = snapshot(jigsaw), MADE["jigsaw"]
    path = jigsaw / "labels/val/table_000.png"
    path.unlink()
    make(jigsaw, **settings)
    after = snapshot(jigsaw)
    assert {name for name in before if before[name] != after[name]} == {path.relative_to(jigsaw)}
    assert path.read_bytes() == before[path.relative_to(jigsaw)][0]


def test_finished_folder_is_left_alone_and_larger_one_completed(scenes, tmp_path):
    root = shutil.copytree(scenes, tmp_path / "set")
    before = snapshot(root)
    make_scenes(root, (4, 2), seed=3, size=64)
    assert snapshot(root) == before
    make_scenes(root, (6, 2), seed=3, size=64)
    after = snapshot(root)
    assert len(VOCSegmentation(root, "train")) == 6
    assert all(after[path] == before[path] for path in before if path.suffix != ".txt")
    make_scenes(root, (3, 1), seed=3, size=64)
    assert VOCSegmentation(root, "trainval").ids == ["train_00000", "train_00001", "train_00002", "val_00000"]


def test_interrupted_folder_is_completed_with_the_same_bytes(scenes, tmp_path, monkeypatch):
    root, replace = tmp_path / "set", os.replace
    ends = iter([*[replace] * 5, Mock(side_effect=KeyboardInterrupt)])  # the power is cut at the sixth file
    monkeypatch.setattr(os, "replace", lambda *paths: next(ends)(*paths))
    with pytest.raises(KeyboardInterrupt):
        make_scenes(root, (4, 2), seed=3, size=64)
    monkeypatch.undo()
    assert not (root / "ImageSets/Segmentation/train.txt").exists()
    make_scenes(root, (4, 2), seed=3, size=64)
    whole, again = ({path: data for path, (data, _) in snapshot(folder).items()} for folder in (scenes, root))
    assert again == whole


@pytest.mark.parametrize(("change", "named"), [({"seed": 4}, "seed=3, but seed=4"), ({"size": 160}, "size=")])
@pytest.mark.parametrize("made", ["scenes", "jigsaw"])
def test_other_settings_are_refused(made, change, named, request):
    folder = request.getfixturevalue(made)
    before = snapshot(folder)
    make, settings = MADE[made]
    with pytest.raises(ValueError, match=rf"{named}.* is asked for.*another folder"):
        make(folder, **settings | change)
    assert snapshot(folder) == before


def test_a_folder_whose_first_file_was_killed_halfway_is_gone_on_with(tmp_path):
    (tmp_path / "scenes.json.123.partial").write_text("{")
    assert len(VOCSegmentation(make_scenes(tmp_path, (1, 1), size=64), "train")) == 1


def test_foreign_and_damaged_folders_are_refused(tmp_path):
    (tmp_path / "foreign/JPEGImages").mkdir(parents=True)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/scenes.json").write_text("{")
    for name, message in (("foreign", "not made here"), ("own", r"scenes\.json is damaged")):
        with pytest.raises(ValueError, match=message):
            make_scenes(tmp_path / name, 10)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (make_scenes, {"n": 4, "size": 64}, "n="),
        (make_scenes, {"n": (3, 0), "size": 64}, "n="),
        (make_scenes, {"n": (1, 2, 3), "size": 64}, "n="),
        (make_scenes, {"n": 10, "size": 32}, "size="),
        (make_jigsaw, {"counts": (1, 1, 0)}, "counts="),
        (make_jigsaw, {"size": 64}, "size="),
    ],
)
def test_bad_arguments(tmp_path, make, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()


def test_one_number_is_split_four_to_one(tmp_path):
    root = make_scenes(tmp_path / "set", 5, size=64)
    assert (len(VOCSegmentation(root, "train")), len(VOCSegmentation(root, "val"))) == (4, 1)
