"""One prompt for each object: which objects are judged, what is asked, and what the scores mean."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from prompting_toys import Answers, MemoryDataset, clicked_label, rectangles

from labhelpers.data import SubsetDataset, VOCSegmentation
from labhelpers.data.voc import ObjectDataset
from labhelpers.prompting import (
    PROMPTS,
    BoxEllipse,
    FilledBox,
    clustered_bootstrap,
    evaluate_prompts,
    mask_iou,
    objects,
    right_object,
)

MASKS = arrays(bool, (5, 6))


@pytest.fixture
def toys() -> MemoryDataset:
    """Two images of other sizes: two objects and a thin one in the first, one in the second."""
    return MemoryDataset(
        [
            rectangles(64, 96, (2, 3, 41, 42, 1), (50, 10, 89, 49, 2), (4, 50, 80, 60, 3)),
            rectangles(48, 64, (10, 5, 45, 40, 3)),
        ]
    )


# --- which objects ---


def test_objects_are_those_with_a_large_box(toys):
    found = objects(toys)
    assert [(item.index, item.number, item.label) for item in found] == [(0, 1, 1), (0, 2, 2), (1, 1, 3)]
    assert [int(item.mask.sum()) for item in found] == [1600, 1600, 36 * 36]
    assert found[2].image.shape == (48, 64, 3)
    assert len(objects(toys, min_side=11)) == 4  # the third of the first image is 77x11
    assert len(objects(toys, min_side=12)) == 3
    assert len(objects(toys, min_side=36)) == 3
    assert len(objects(toys, min_side=37)) == 2


def test_void_belongs_to_no_object():
    labels, numbers = rectangles(48, 48, (5, 5, 44, 44, 1), void=1)
    numbers[5:10] = 1  # an object map that knows of no rim
    item = objects(MemoryDataset([(labels, numbers)]))[0]
    assert item.mask.sum() == 38 * 38 + 5 * 8  # void in the labels is void here too; rows 5..9 reach both borders
    assert item.ignore.sum() == 40 * 40 - 38 * 38
    assert not (item.mask & item.ignore).any()


def test_classes_as_objects_where_there_are_no_instances(toys):
    two = rectangles(64, 96, (2, 3, 41, 42, 1), (50, 10, 89, 49, 1))
    found = objects(ObjectDataset(MemoryDataset([two]), by="class"))
    assert [(item.number, item.label, int(item.mask.sum())) for item in found] == [(1, 1, 3200)]
    found = objects(ObjectDataset(toys))
    assert [item.label for item in found] == [1, 2, 3]


def test_objects_of_a_subset_are_counted_in_it(toys):
    found = objects(SubsetDataset(toys, [1]))
    assert [(item.index, item.label) for item in found] == [(0, 3)]
    assert found[0].image.shape == (48, 64, 3)


def test_no_objects(toys):
    with pytest.raises(
        ValueError, match=r"toys/val has no object whose box is at least 200x200 pixels: lower min_side"
    ):
        objects(toys, min_side=200)
    with pytest.raises(ValueError, match="the list is empty"):
        evaluate_prompts(FilledBox(), [])


# --- IoU and its interval ---


def test_iou_by_hand():
    a, b = np.zeros((2, 4, 4), dtype=bool)
    a[:2], b[1:3] = True, True
    assert mask_iou(a, b) == 4 / 12
    ignore = np.zeros((4, 4), dtype=bool)
    ignore[0] = True
    assert mask_iou(a, b, ignore) == 4 / 8
    assert np.isnan(mask_iou(a, a, a))


@given(MASKS, MASKS, MASKS)
def test_iou_is_that_of_the_pixels_that_are_not_ignored(a, b, ignore):
    kept = ~ignore
    value = mask_iou(a[kept][None], b[kept][None])
    assert np.array_equal([mask_iou(a, b, ignore)], [value], equal_nan=True)
    assert np.array_equal([mask_iou(b, a, ignore)], [value], equal_nan=True)
    assert np.isnan(value) or 0 <= value <= 1


@pytest.mark.parametrize(
    "prediction", [np.zeros((4, 4)), np.zeros((4, 5), dtype=bool), np.zeros((1, 4, 4), dtype=bool)]
)
def test_a_prediction_that_is_no_mask(prediction):
    with pytest.raises(ValueError, match=r"must be bool \(4, 4\), got .*logits > 0"):
        mask_iou(prediction, np.ones((4, 4), dtype=bool))


def test_resamples_take_all_objects_of_an_image():
    """Against the plain loop: draw images, take the mean over all their objects."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 12, 40)
    values = rng.random(40)
    interval = clustered_bootstrap(values, images, n=80, seed=3)
    count = len(np.unique(images))
    draws = np.random.default_rng(3).multinomial(count, np.full(count, 1 / count), size=80)
    means = []
    for draw in draws:
        chosen = np.concatenate([values[images == image] for image in np.repeat(np.unique(images), draw)])
        means.append(chosen.mean())
    assert interval.low == pytest.approx(np.percentile(means, 2.5))
    assert interval.high == pytest.approx(np.percentile(means, 97.5))
    assert interval.value == pytest.approx(values.mean())


def test_objects_of_one_image_are_not_independent():
    values = np.repeat(np.random.default_rng(0).random(20), 5)
    together = clustered_bootstrap(values, np.repeat(np.arange(20), 5))
    alone = clustered_bootstrap(values, np.arange(100))
    assert 1.8 < (together.high - together.low) / (alone.high - alone.low) < 2.7  # about the root of five
    assert np.isnan(clustered_bootstrap(np.array([]), np.array([])).value)


# --- what is asked ---


def test_each_image_is_set_once_and_each_object_asked_once_per_prompt(toys):
    predictor = Answers(lambda image, **prompt: (np.ones(image.shape[:2], dtype=bool), 0.25))
    scores = evaluate_prompts(predictor, toys, prompts=tuple(PROMPTS))
    assert predictor.images == 2
    assert len(predictor.asked) == 3 * len(PROMPTS)
    share = [1600 / (64 * 96), 1600 / (64 * 96), 36 * 36 / (48 * 64)]
    assert scores.ious.keys() == PROMPTS.keys()
    for kind in PROMPTS:
        np.testing.assert_allclose(scores.ious[kind], share)
        assert (scores.predicted[kind] == 0.25).all()
    assert scores.images.tolist() == [0, 0, 1]


def asked(kind: str, judged, seed: int = 0) -> list[dict]:
    predictor = Answers(lambda image, **prompt: (np.ones(image.shape[:2], dtype=bool), 0.0))
    evaluate_prompts(predictor, judged, prompts=(kind,), seed=seed)
    return predictor.asked


def test_prompts_are_what_they_are_called(toys):
    found = objects(toys)
    assert [prompt["box"].tolist() for prompt in asked("box", toys)] == [
        [2, 3, 41, 42],
        [50, 10, 89, 49],
        [10, 5, 45, 40],
    ]
    for kind, reach in (("centre_click", 20), ("jittered_click", 10), ("random_click", 1)):
        for item, prompt in zip(found, asked(kind, toys), strict=True):
            assert prompt["labels"].tolist() == [1]
            assert prompt["box"] is None
            (x, y), (x0, y0, x1, y1) = prompt["points"][0], asked("box", [item])[0]["box"]
            depth = min(x - x0, x1 - x, y - y0, y1 - y) + 1
            assert depth >= min(reach, 18)
    for n in range(3, 11):
        for item, prompt in zip(found, asked(f"{n}_points", toys), strict=True):
            assert prompt["labels"].sum() == (n + 1) // 2
            x, y = prompt["points"].astype(int).T
            assert item.mask[y, x].tolist() == (prompt["labels"] == 1).tolist()
            assert len(prompt["points"]) == n


@pytest.mark.parametrize("kind", ["jittered_box", "jittered_click", "random_click", "5_points"])
def test_all_predictors_and_all_parts_of_a_set_are_asked_the_same(toys, kind):
    name = "box" if kind == "jittered_box" else "points"
    first, again, other = (asked(kind, toys, seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a[name], b[name]) for a, b in zip(first, other, strict=True))
    last = asked(kind, objects(toys)[2:])
    assert np.array_equal(last[0][name], first[2][name])


def test_jitter_moves_the_box_by_so_much(toys):
    moved = np.array([asked("jittered_box", toys, seed=seed)[1]["box"] for seed in range(60)])
    assert 2 < (moved - moved.mean(0)).std() < 6  # 0.1 of 40 pixels


def test_unknown_prompts(toys):
    with pytest.raises(ValueError, match=r"unknown prompt 'scribble'; known: box, jittered_box, .*, 10_points"):
        evaluate_prompts(FilledBox(), toys, prompts=("box", "scribble"))
    with pytest.raises(ValueError, match="unknown prompt"):
        evaluate_prompts(FilledBox(), toys, prompts=())


# --- what the scores say ---


def test_void_counts_neither_way():
    """Two holes in a rectangle that the filled box covers: one is background and wrong, the other one void."""
    labels, numbers = rectangles(64, 64, (10, 10, 45, 45, 1))
    numbers[20:30, 20:30] = labels[20:30, 20:30] = 0
    numbers[32:37, 32:37] = labels[32:37, 32:37] = 255
    scores = evaluate_prompts(FilledBox(), MemoryDataset([(labels, numbers)]), prompts=("box",))
    assert scores.ious["box"].tolist() == [(36 * 36 - 100 - 25) / (36 * 36 - 25)]


def test_means_by_size_and_in_words():
    large, small = rectangles(48, 64, (10, 5, 45, 40, 3)), rectangles(300, 400, (1, 1, 32, 32, 1), (50, 50, 90, 90, 2))
    judged = MemoryDataset([large, small])
    right = Answers(lambda image, box, **prompt: (image[..., 0] == image[int(box[1]), int(box[0]), 0], 1.0))
    scores = evaluate_prompts(right, judged, prompts=("box",))
    assert scores.sizes.tolist() == ["large", "medium", "medium"]  # 32 px of 400x300 is more than COCO's share
    scores.ious["box"][:] = [0.2, 0.6, 1.0]
    assert scores.mean("box").value == pytest.approx(0.6)
    assert scores.mean("box", "medium").value == pytest.approx(0.8)
    assert np.isnan(scores.mean("box", "small").value)
    with pytest.raises(ValueError, match="'centre_click' was not among the prompts; asked were: box"):
        scores.mean("centre_click")
    with pytest.raises(ValueError, match="unknown size 'tiny'; known: small, medium, large"):
        scores.mean("box", "tiny")
    table = scores.table()
    assert list(table.header) == ["toy", "mean IoU [95 %], 3 objects", "small (0)", "medium (2)", "large (1)"]
    assert table.rows[0][0] == "box"
    assert table.rows[0][2:] == ["–", "0.800", "0.200"]
    for text in (str(scores), table.caption):
        assert "toys val, 3 objects in 2 images" in text
        assert "no side of a box below 32 pixels" in text
        assert "prompts drawn from the truth (seed 0)" in text


# --- the right one of two ---


def test_who_looks_at_the_click_marks_the_right_object(toys):
    result = right_object(Answers(clicked_label), toys)
    assert (result.share, result.pairs) == (1.0, 2)
    assert "1.000 [1.000, 1.000] of 2 clicks" in str(result)


def test_who_does_not_look_is_right_in_half_of_the_pairs_at_most(toys):
    first_only = Answers(lambda image, **prompt: (image[..., 0] == 10, 0.5))
    both = Answers(lambda image, **prompt: (image[..., 0] > 0, 0.5))
    nothing = Answers(lambda image, **prompt: (np.zeros(image.shape[:2], dtype=bool), 0.5))
    assert right_object(first_only, toys).share == 0.5
    assert right_object(both, toys).share == 0
    assert right_object(nothing, toys).share == 0


def test_three_objects_are_six_pairs(toys):
    predictor = Answers(clicked_label)
    assert right_object(predictor, objects(toys, min_side=5)).pairs == 6
    assert (predictor.images, len(predictor.asked)) == (1, 3)  # the second image has no pair
    with pytest.raises(ValueError, match="no image holds two of these objects"):
        right_object(predictor, objects(toys)[1:])


@pytest.mark.real_data
@pytest.mark.skipif("LAB_REAL_DATA" not in os.environ, reason="LAB_REAL_DATA names no folder of real photographs")
def test_photographs():
    """The numbers that every later model is compared with."""
    photos = VOCSegmentation(Path(os.environ["LAB_REAL_DATA"]) / "voc_style_photos", "val")
    found = objects(photos)
    assert len(found) == 54
    assert evaluate_prompts(FilledBox(), found, prompts=("box",)).mean("box").value == pytest.approx(0.584, abs=0.001)
    assert evaluate_prompts(BoxEllipse(), found, prompts=("box",)).mean("box").value == pytest.approx(0.611, abs=0.001)
