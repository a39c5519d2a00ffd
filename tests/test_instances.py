"""Objects as boxes, classes and masks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_voc import TRAIN, make_tiny_voc, save_labels

from labhelpers.data import InstanceDataset, Instances, VOCSegmentation, boxes_of_masks, instance_target, make_scenes

MAP = np.array(
    [
        [0, 1, 1, 255, 2, 2],
        [0, 1, 1, 255, 2, 2],
        [3, 3, 3, 0, 4, 255],
    ]
)
CLASSES = np.array(
    [
        [0, 7, 7, 255, 9, 9],
        [0, 7, 255, 255, 9, 0],
        [0, 0, 0, 0, 5, 255],
    ]
)


@pytest.fixture
def voc(tmp_path):
    """The first training image has two objects, one without a class, and one of a single pixel."""
    root = make_tiny_voc(tmp_path / "VOC2012")
    for folder, labels in (("SegmentationObject", MAP), ("SegmentationClass", CLASSES)):
        save_labels(root / folder / f"{TRAIN[0]}.png", np.kron(labels, np.ones((6, 4), dtype=int)))
    return VOCSegmentation(root, "train")


def toy(**changes) -> Instances:
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, :2, :2] = masks[1, 2:, 3:] = True
    values = {"boxes": boxes_of_masks(masks), "labels": torch.tensor([1, 3]), "masks": masks}
    return Instances(**(values | changes))


def test_an_object_has_its_commonest_class_and_what_is_left_out_is_void(voc):
    found = instance_target(voc, 0, smallest=30)
    assert found.labels.tolist() == [7, 9]
    assert found.boxes.tolist() == [[4, 0, 12, 12], [16, 0, 24, 12]]
    at = found.masks[:, ::6, ::4].int()
    assert at[0].tolist() == [[0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0] * 6]  # without what is void in the classes
    assert at[1].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1], [0] * 6]  # with its pixel of no class
    void = [[0, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0], [1, 1, 1, 0, 1, 1]]  # rims, a thing of no class, a small one
    assert found.void[::6, ::4].int().tolist() == void
    assert instance_target(voc, 0).labels.tolist() == [7, 9, 5]


@given(
    hnp.arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 3, 255])),
    hnp.arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 255])),
    st.integers(1, 5),
)
def test_every_pixel_is_background_or_void_or_of_one_object(objects, labels, smallest):
    class Maps:
        def instances(self, index):
            return torch.from_numpy(objects)

        def load_target(self, index):
            return torch.from_numpy(labels)

    found = instance_target(Maps(), 0, smallest)
    claims = found.masks.sum(0) + found.void.int()
    assert (claims <= 1).all()
    background = (objects == 0) & (labels != 255)
    np.testing.assert_array_equal(claims.numpy() == 0, background)
    for box, mask in zip(found.boxes.int(), found.masks, strict=True):
        x1, y1, x2, y2 = box.tolist()
        inside = torch.zeros_like(mask)
        inside[y1:y2, x1:x2] = True
        assert mask.sum() >= smallest
        assert not (mask & ~inside).any()
        assert all(edge.any() for edge in (mask[y1], mask[y2 - 1], mask[:, x1], mask[:, x2 - 1]))


def test_items_of_a_data_set_of_objects(voc):
    dataset = InstanceDataset(voc, smallest=30)
    image, found = dataset[0]
    assert torch.equal(image, voc.load_image(0))
    assert found.labels.tolist() == [7, 9]
    assert (len(dataset), dataset.num_classes, dataset.ids) == (3, 21, voc.ids)
    assert dataset.fingerprint() not in (voc.fingerprint(), InstanceDataset(voc).fingerprint())


def test_sets_without_instances_are_refused(voc):
    (voc.root / f"SegmentationObject/{TRAIN[2]}.png").unlink()
    with pytest.raises(ValueError, match="VOC2012/train does not tell objects apart"):
        InstanceDataset(VOCSegmentation(voc.root, "train"))


def test_an_empty_mask_has_no_box():
    masks = torch.ones(2, 3, 3, dtype=torch.bool)
    masks[1] = False
    with pytest.raises(ValueError, match="mask 1 of 2 is empty"):
        boxes_of_masks(masks)
    assert boxes_of_masks(masks[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([1, 2, 3])}, r"needs boxes torch.float32 \(3, 4\)"),
        ({"labels": torch.tensor([1.0, 2.0])}, "needs labels torch.int64"),
        ({"masks": torch.ones(2, 3, 3)}, "needs masks torch.bool"),
        ({"void": torch.ones(3, 3, dtype=torch.bool)}, r"needs void torch.bool \(4, 5\)"),
        ({"boxes": torch.tensor([[0.0, 0, 2, 2], [3, 1, 3, 2]])}, "no width or no height"),
        ({"boxes": torch.tensor([[0.0, 0, 2, 2], [3, 1, torch.nan, 2]])}, "no width or no height"),
        ({"labels": torch.tensor([0, 1])}, "background is no object"),
        ({"scores": torch.tensor([0.5, 0.6])}, "descending"),
        ({"scores": torch.tensor([torch.nan, 0.6])}, "finite"),
    ],
)
def test_what_are_no_instances_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        toy(**changes)


def test_predictions_above_a_score_and_on_another_device():
    found = toy(scores=torch.tensor([0.9, 0.5]))
    assert [len(found.above(score)) for score in (0.4, 0.5, 0.6, 1.0)] == [2, 2, 1, 0]
    assert found.above(0.6).labels.tolist() == [1]
    assert len(toy().above(0.6)) == 2
    moved = found.to("cpu")
    assert torch.equal(moved.scores, found.scores)
    assert moved.void is None


def test_scenes_have_objects_of_the_classes_that_their_label_maps_show(tmp_path):
    scenes = VOCSegmentation(make_scenes(tmp_path / "scenes", (4, 1), size=64), "train")
    for index, (_, found) in enumerate(InstanceDataset(scenes)):
        shown = set(scenes.load_target(index).unique().tolist()) - {0, 255}
        assert set(found.labels.tolist()) == shown


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["coco_photos", "voc_style_photos", "voc2007_photos"])
def test_photographs(real_data, folder):
    longest = max((real_data / folder / "ImageSets" / "Segmentation").glob("*.txt"), key=lambda p: p.stat().st_size)
    dataset = InstanceDataset(VOCSegmentation(real_data / folder, longest.stem))
    objects = 0
    for index in range(len(dataset)):
        found, labels = dataset.load_instances(index), dataset.load_target(index)
        objects += len(found)
        for label, mask in zip(found.labels, found.masks, strict=True):
            assert (labels[mask] == label).all()
        assert not (found.void & found.masks.any(0)).any()
    assert objects > 100
