"""Windows of photographs, pasted objects and shapes: images that a prompt can be learned from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture import Library, ObjectMixture, Picture, blob, components, cutout, paste, pattern, place, window

from labhelpers.data import VOCSegmentation
from labhelpers.data.scenes import make_scenes
from labhelpers.data.voc import ObjectDataset, visible_objects


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    root = make_scenes(tmp_path_factory.mktemp("scenes") / "s", (6, 1), size=96)
    return Library([VOCSegmentation(root, "train")], smallest=60)


def test_a_library_holds_objects_with_their_boxes(library):
    for picture in library.pictures:
        assert picture.weights.sum() == pytest.approx(1)
        for number, (x0, y0, x1, y1) in picture.boxes.items():
            mask = picture.objects == number
            assert mask[y0:y1, x0:x1].sum() == mask.sum() >= 60
            assert all(edge.any() for edge in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))


def test_without_instances_regions_are_objects():
    target = np.zeros((40, 40), np.uint8)
    target[:10, :20], target[20:30, :20], target[35:37, :3], target[0, 39] = 4, 4, 5, 255
    objects = components(target, smallest=50)
    assert objects[0, 39] == 255
    assert objects[36, 1] == 0  # too small
    assert len({objects[5, 5], objects[25, 5], objects[38, 38]}) == 3
    assert (objects > 0).sum() == 40 * 40 - 6


def test_image_and_objects_come_from_the_same_window():
    """Each object has a colour of its own: wherever the map says so, the image must have it."""
    objects = np.zeros((60, 80), np.uint8)
    objects[5:30, 10:40], objects[20:55, 50:75] = 1, 2
    colours = np.array([[20, 20, 20], [250, 0, 0], [0, 0, 250]], np.uint8)
    picture = Picture(colours[objects], objects, {1: (10, 5, 40, 30), 2: (50, 20, 75, 55)}, np.array([0.5, 0.5]))
    rng = np.random.default_rng(0)
    for side in (20, 45, 78, 200):
        image, cut = window(picture, rng.uniform(-5, 20), rng.uniform(-5, 20), side, 64)
        for number in (1, 2):
            mask = cut == number
            if mask.sum() > 30:
                close = np.abs(image.astype(int) - colours[number]).max(-1) < 60
                assert close[mask].mean() > 0.8
    for _ in range(20):
        image, cut = place(picture, 1, 64, rng)
        assert (cut == 1).any()


@given(st.integers(0, 10**6), st.integers(8, 60))
@settings(max_examples=50)
def test_blobs_are_shapes(seed, size):
    mask = blob(size, np.random.default_rng(seed))
    assert mask.dtype == np.uint8
    assert 0 < max(mask.shape) <= size
    assert all(mask.any(axis)[[0, -1]].all() for axis in (0, 1))
    assert pattern(9, 13, np.random.default_rng(seed)).shape == (9, 13, 3)


def test_what_is_pasted_is_numbered(library):
    rng = np.random.default_rng(0)
    picture = library.pictures[0]
    colours, opacity = cutout(picture, next(iter(picture.boxes)), 40)
    assert max(opacity.shape) == 40
    image, objects = np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.uint8)
    assert paste(image, objects, 5, np.full_like(colours, 200), np.ones_like(opacity), rng)
    inside = objects == 5
    assert image[inside].mean() > 150
    assert image[~inside].mean() < 30


@pytest.mark.parametrize("kind", range(5))
def test_each_kind_gives_images_with_objects_that_depend_on_the_index_alone(library, kind):
    shares = tuple(float(k == kind) for k in range(5))
    mixture, other = (ObjectMixture(library, library, library, shares, size=64, length=8, seed=s) for s in (3, 4))
    items = [mixture[index] for index in range(8)]
    for index, (image, objects) in enumerate(items):
        assert (image.shape, objects.shape) == ((3, 64, 64), (64, 64))
        assert image.dtype == objects.dtype == torch.uint8
        assert all(torch.equal(a, b) for a, b in zip(mixture[index], (image, objects), strict=True))
    assert sum(bool(visible_objects(objects, 20)) for _, objects in items) >= 6
    assert other.fingerprint() != mixture.fingerprint()
    assert not torch.equal(other[0][0], mixture[0][0])
    with pytest.raises(IndexError):
        mixture[8]


def test_what_does_not_fit_is_refused(library, tmp_path):
    for arguments, message in (
        ((None, library), "0 for what is missing"),
        ((library, library, (1.0, 0.0)), "5 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            ObjectMixture(library, *arguments)
    root = make_scenes(tmp_path / "s", (1, 1), size=64)
    with pytest.raises(ValueError, match="no object of at least 99999 pixels"):
        Library([VOCSegmentation(root, "train")], smallest=99999)


def test_object_data_sets_number_things_or_classes(library, tmp_path):
    root = make_scenes(tmp_path / "s", (4, 1), size=64)
    scenes = VOCSegmentation(root, "train")
    things, classes = ObjectDataset(scenes), ObjectDataset(scenes, by="class")
    assert torch.equal(things[1][1], scenes.instances(1))
    assert torch.equal(classes[1][1], scenes[1][1])
    assert torch.equal(things[1][0], scenes[1][0])
    assert things.fingerprint() != classes.fingerprint() != scenes.fingerprint()
    with pytest.raises(ValueError, match="known: instance, class"):
        ObjectDataset(scenes, by="thing")
    counted = torch.tensor([[1, 1, 2], [255, 0, 2], [3, 2, 2]], dtype=torch.uint8)
    assert visible_objects(counted) == [1, 2, 3]
    assert visible_objects(counted, 2) == [1, 2]
