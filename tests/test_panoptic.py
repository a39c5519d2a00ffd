"""Panoptic maps and their quality."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labhelpers.data import Instances, VOCSegmentation, boxes_of_masks, instance_target, make_scenes
from labhelpers.evaluation import merge_panoptic, panoptic_quality


def labels_and_ids(rows):
    """A panoptic map from text: "." background, "?" void, "a1" thing 1 of class 1 ("b" is class 2, and so on)."""
    cells = [row.split() for row in rows]
    labels = [[{".": 0, "?": 255}.get(cell[0], ord(cell[0]) - 96) for cell in row] for row in cells]
    ids = [[int(cell[1:] or 0) for cell in row] for row in cells]
    return torch.tensor(labels, dtype=torch.uint8), torch.tensor(ids, dtype=torch.int32)


def predicted(masks, labels, scores=None):
    masks = torch.tensor(masks) > 0
    scores = None if scores is None else torch.tensor(scores)
    return Instances(boxes_of_masks(masks), torch.tensor(labels), masks, scores)


def same(found, rows):
    return all(torch.equal(a, b) for a, b in zip(found, labels_and_ids(rows), strict=True))


# --- merging ---

SEMANTIC = torch.tensor([[0, 1, 1, 1, 2, 0]], dtype=torch.uint8)


def test_the_better_object_takes_the_pixels_that_two_claim_and_things_without_an_object_are_void():
    objects = predicted([[[0, 1, 1, 0, 0, 0]], [[0, 0, 1, 1, 1, 0]]], [1, 1], [0.9, 0.8])
    assert same(merge_panoptic(SEMANTIC, objects), [". a1 a1 a2 a2 ."])  # although the label map says b
    assert same(merge_panoptic(SEMANTIC, objects, score=0.85), [". a1 a1 ? ? ."])
    assert same(merge_panoptic(SEMANTIC, objects, stuff=(0, 2), score=0.85), [". a1 a1 ? b ."])


def test_an_object_that_is_mostly_hidden_by_better_ones_is_left_out():
    objects = predicted([[[0, 1, 1, 0, 0, 0]], [[0, 0, 1, 1, 0, 0]]], [1, 1], [0.9, 0.8])
    assert same(merge_panoptic(SEMANTIC, objects), [". a1 a1 ? ? ."])  # exactly half is free
    assert same(merge_panoptic(SEMANTIC, objects, overlap=0.4), [". a1 a1 a2 ? ."])


def test_predictions_without_a_pixel_are_left_out():
    masks = torch.zeros(1, 1, 6, dtype=torch.bool)
    empty = Instances(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([1]), masks, torch.tensor([0.9]))
    assert same(merge_panoptic(SEMANTIC, empty), [". ? ? ? ? ."])


def test_what_does_not_fit_is_refused():
    objects = predicted([[[0, 1, 1, 0, 0, 0]]], [1], [0.9])
    with pytest.raises(ValueError, match=r"label map is \(2, 6\), the masks are \(1, 6\)"):
        merge_panoptic(SEMANTIC.repeat(2, 1), objects)
    with pytest.raises(ValueError, match="label 1, which is stuff"):
        merge_panoptic(SEMANTIC, objects, stuff=(0, 1))


def test_the_truth_of_scenes_is_complete_and_perfect(tmp_path):
    scenes = VOCSegmentation(make_scenes(tmp_path / "scenes", (1, 3), size=64), "val")
    maps = []
    for index in range(3):
        semantic, objects = scenes.load_target(index), instance_target(scenes, index)
        maps.append(merge_panoptic(semantic, objects))
        assert torch.equal(maps[-1][0], semantic)
        assert len(maps[-1][1].unique()) == len(objects) + 1
    quality = panoptic_quality(zip(maps, maps, strict=True), 21)
    assert quality.pq == quality.sq == quality.rq == quality.pq_things == quality.pq_stuff == 1


# --- quality ---

TARGET = labels_and_ids([". . a1 a1 a1 a1", ". . b1 b1 ? ?"])


def test_quality_by_hand():
    # The background has an IoU of 4/5, a of 3/4; b is in two parts of an IoU of .5, which is no match.
    found = labels_and_ids([". . . a7 a7 a7", ". . b1 b2 b3 ?"])
    quality = panoptic_quality([(found, TARGET)], 4)
    np.testing.assert_allclose(quality.class_sq, [4 / 5, 3 / 4, 0, np.nan])
    np.testing.assert_allclose(
        quality.class_rq, [1, 1, 0, np.nan]
    )  # b3 lies in void, else it would change nothing here
    assert quality.pq == pytest.approx((4 / 5 + 3 / 4 + 0) / 3)
    assert quality.pq_things == pytest.approx((3 / 4 + 0) / 2)
    assert quality.pq_stuff == pytest.approx(4 / 5)


def test_void_of_the_target_is_neither_right_nor_wrong():
    into_void = labels_and_ids([". . a1 a1 a1 a1", ". . b1 b1 b1 b1"])  # half of b is void: its IoU is 1
    spurious = labels_and_ids([". . a1 a1 a1 a1", ". . b1 b1 b2 b2"])  # all of b2 is
    for found in (into_void, spurious):
        assert panoptic_quality([(found, TARGET)], 3).pq == 1
    straddling = labels_and_ids([". . a1 a1 a1 b2", ". . b1 b1 b2 ?"])  # half of b2 is void: an error
    assert panoptic_quality([(straddling, TARGET)], 3).class_rq[2] == pytest.approx(1 / 1.5)
    swallowed = labels_and_ids([". . a1 a1 a1 a1", ". . b1 b1 c1 c1"])  # of a class that does not occur
    assert np.isnan(panoptic_quality([(swallowed, TARGET)], 4).class_pq[3])


def test_void_of_the_prediction_misses():
    silent = labels_and_ids([". . ? ? ? ?", ". . b1 b1 ? ?"])
    np.testing.assert_array_equal(panoptic_quality([(silent, TARGET)], 3).class_pq, [1, 0, 1])


def test_other_sizes_and_unknown_labels_are_refused():
    with pytest.raises(ValueError, match=r"prediction is \(1, 6\), the target \(2, 6\)"):
        panoptic_quality([((TARGET[0][:1], TARGET[1][:1]), TARGET)], 3)
    with pytest.raises(ValueError, match="holds the label 2"):
        panoptic_quality([(TARGET, TARGET)], 2)


maps = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def random_map(rng):
    """Two by two blocks of few labels and ids, so that segments meet and match."""
    labels = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (4, 4))
    ids = np.where((labels > 0) & (labels < 255), rng.integers(1, 4, (4, 4)), 0).astype(np.int32)
    return tuple(torch.from_numpy(np.kron(part, np.ones((2, 2), dtype=part.dtype))) for part in (labels, ids))


def near(rng, panoptic):
    """The same map with some pixels replaced by those of another."""
    other, changed = random_map(rng), torch.from_numpy(rng.random((8, 8)) < 0.2)
    return tuple(torch.where(changed, b, a) for a, b in zip(panoptic, other, strict=True))


def by_loops(prediction, target, label):
    """Equation 1 for one class and image, segment by segment."""

    def segments(panoptic):
        labels, ids = panoptic
        return [(labels == label) & (ids == n) for n in ids[labels == label].unique()]

    void, ious, free = target[0] == 255, [], segments(target)
    wrong, truth = 0, len(free)
    for segment in segments(prediction):
        seen = segment & ~void
        matched = [float((seen & true).sum() / (seen | true).sum()) for true in free]
        ious += [iou for iou in matched if iou > 0.5]
        wrong += not any(iou > 0.5 for iou in matched) and bool((segment & void).sum() <= segment.sum() / 2)
    total = len(ious) + wrong / 2 + (truth - len(ious)) / 2
    return sum(ious) / total if total else float("nan")


@given(maps)
def test_quality_is_equation_1_and_the_product_of_its_parts(rng):
    target = random_map(rng)
    prediction = near(rng, target)
    quality = panoptic_quality([(prediction, target)], 3)
    np.testing.assert_allclose(quality.class_pq, [by_loops(prediction, target, label) for label in range(3)], rtol=1e-6)
    np.testing.assert_array_equal(quality.class_pq, quality.class_sq * quality.class_rq)


@given(maps)
def test_other_numbers_for_the_things_change_nothing_and_the_truth_is_perfect(rng):
    target = random_map(rng)
    prediction = near(rng, target)
    order = torch.from_numpy(np.append(0, rng.permutation(3) + 1).astype(np.int32))
    renumbered = prediction[0], order[prediction[1].long()]
    a, b = (panoptic_quality([(found, target)], 3) for found in (prediction, renumbered))
    np.testing.assert_allclose(a.class_pq, b.class_pq)
    perfect = panoptic_quality([(target, target)], 3)
    assert (perfect.class_pq[~np.isnan(perfect.class_pq)] == 1).all()
