"""Class maps from masks without classes: painted in order, named by the truth or by a vote."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prompting_toys import Answers, MemoryDataset, rectangles
from torch import nn

from labhelpers.data import denormalize
from labhelpers.evaluation import evaluate
from labhelpers.prompting import by_overlap, by_vote, evaluate_everything, evaluate_prompted_classes, paint
from labhelpers.prompting.everything import FoundMasks


def some_masks(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n rectangles of different areas, their scores, and a label map with void."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, 12, 15), dtype=bool)
    for mask in masks:
        (y0, x0), (height, width) = rng.integers(0, (8, 9)), rng.integers(1, 8, 2)
        mask[y0 : y0 + height, x0 : x0 + width] = True
    labels = rng.choice([0, 1, 2, 7, 255], (3, 3)).repeat(4, 0).repeat(5, 1).astype(np.uint8)
    return masks, rng.random(n), labels


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
def test_every_pixel_has_the_class_of_the_smallest_mask_on_it(seed, n):
    masks, scores, labels = some_masks(seed, n)
    painted = by_overlap(masks, scores, labels)
    assert painted.dtype == np.uint8
    for y, x in np.ndindex(labels.shape):
        on = [i for i in range(n) if masks[i, y, x] and (labels[masks[i]] != 255).any()]
        if not on:
            assert painted[y, x] == 0
            continue
        top = min(on, key=lambda i: (masks[i].sum(), -scores[i]))
        inside = labels[masks[top]]
        counts = np.bincount(inside[inside != 255], minlength=256)
        assert counts[painted[y, x]] == counts.max()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_matter(seed, n, random):
    masks, scores, labels = some_masks(seed, n)
    order = list(range(n))
    random.shuffle(order)
    assert np.array_equal(by_overlap(masks, scores, labels), by_overlap(masks[order], scores[order], labels))
    prediction = np.where(labels == 255, 3, labels).astype(np.uint8)
    assert np.array_equal(by_vote(masks, scores, prediction), by_vote(masks[order], scores[order], prediction))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_masks_that_are_the_regions_give_the_map_back(seed):
    _, _, labels = some_masks(seed, 0)
    regions = np.stack([labels == label for label in np.unique(labels)])
    scored = labels != 255
    assert np.array_equal(by_overlap(regions, np.ones(len(regions)), labels)[scored], labels[scored])


def test_equal_sizes_leave_the_surer_on_top_and_minus_one_is_left_out():
    masks = np.zeros((3, 1, 4), dtype=bool)
    masks[0, 0, :3], masks[1, 0, 1:], masks[2, 0, 1] = True, True, True
    assert paint(masks, np.array([0.9, 0.1, 0.0]), np.array([4, 5, -1])).tolist() == [[4, 4, 4, 5]]
    assert paint(masks, np.array([0.1, 0.9, 0.0]), np.array([4, 5, -1])).tolist() == [[4, 5, 5, 5]]
    assert paint(masks, np.array([0.1, 0.9, 0.0]), np.array([4, 5, 0])).tolist() == [[4, 0, 5, 5]]


def test_without_masks_all_is_background():
    labels = np.full((3, 4), 2, dtype=np.uint8)
    for none in ([], np.zeros((0, 3, 4), dtype=bool), np.zeros((2, 3, 4), dtype=bool)):
        assert not by_overlap(none, np.ones(len(none)), labels).any()
        assert not by_vote(none, np.ones(len(none)), labels).any()


@pytest.mark.parametrize(
    ("masks", "scores"),
    [
        (np.zeros((2, 3, 5), dtype=bool), np.ones(2)),
        (np.zeros((2, 3, 4)), np.ones(2)),
        (np.zeros((2, 3, 4), dtype=bool), np.ones(3)),
        (np.zeros((3, 4), dtype=bool), np.ones(3)),
    ],
)
def test_masks_that_do_not_fit_are_an_error(masks, scores):
    with pytest.raises(ValueError, match=r"masks must be bool \(N, 3, 4\).*one score each; got "):
        by_vote(masks, scores, np.zeros((3, 4), dtype=np.uint8))


# --- whole sets ---


@pytest.fixture
def toys() -> MemoryDataset:
    """Two objects of one class, none at all, one with a rim of void, one on another."""
    return MemoryDataset(
        [
            rectangles(48, 64, (2, 3, 30, 40, 2), (35, 10, 60, 44, 2)),
            rectangles(64, 40),
            rectangles(40, 64, (10, 5, 45, 30, 3), void=1),
            rectangles(40, 64, (10, 5, 45, 30, 3), (20, 10, 30, 20, 1)),
        ]
    )


def inside_of_box(image, points, labels, box, mask_input):
    x0, y0, x1, y1 = box.astype(int)
    mask = np.zeros(image.shape[:2], dtype=bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask, 0.5


def regions(predictor, image):
    """Each colour of the picture is a mask, void included."""
    masks = np.stack([image[..., 0] == value for value in np.unique(image[..., 0])])
    return FoundMasks(masks, np.ones(len(masks)), "by colour")


class Red(nn.Module):
    """A perfect network: the label is the red channel over ten; void, which is 200, becomes class 1."""

    def forward(self, images):
        red = denormalize(images)[:, 0].long()
        labels = torch.where(red == 200, 1, red // 10)
        return nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()


def test_answers_to_true_boxes_get_their_objects_class(toys):
    asked = Answers(inside_of_box)
    evaluation = evaluate_prompted_classes(asked, toys, bands=(2,))
    assert evaluation.scores.mean_iou == 1  # rectangles fill their boxes, and the smaller is painted on the larger
    assert evaluation.boundary_iou == 1
    assert (asked.images, len(asked.asked)) == (3, 5)  # nothing is asked about an image without objects
    assert evaluation.matrices.shape == (4, 4, 4)
    plain = evaluate(Red(), toys, bands=(2,))
    assert evaluation.protocol.differences(plain.protocol) == [
        "prompts (the box of every true object, whose class the answer gets against none)"
    ]
    assert evaluation.protocol.key != plain.protocol.key
    assert "prompted with the box of every true object" in str(evaluation.protocol)


def test_an_answer_that_is_too_small_costs(toys):
    def nothing(image, **prompt):
        return np.zeros(image.shape[:2], dtype=bool), 0.0

    evaluation = evaluate_prompted_classes(Answers(nothing), toys)
    assert evaluation.matrix[:, 1:].sum() == 0
    assert evaluation.scores.class_iou[1:].tolist() == [0, 0, 0]


def test_everything_is_named_by_the_truth_or_by_a_vote(toys):
    oracle = evaluate_everything(Answers(None), toys, segment=regions)
    assert oracle.scores.mean_iou == 1
    assert "prompted with by colour; each mask gets the true class it overlaps most (oracle)" in str(oracle.protocol)

    class Never2(Red):
        def forward(self, images):
            return super().forward(images) * torch.tensor([1, 1, 0, 1])[:, None, None]

    vote = evaluate_everything(Answers(None), toys, Red(), "Red", regions)
    assert vote.scores.mean_iou == 1
    blind = evaluate_everything(Answers(None), toys, Never2(), "Never2", regions)
    assert blind.scores.class_iou.tolist()[2:] == [0, 1]
    assert "the class Red votes for" in str(vote.protocol)
    assert len({oracle.protocol.key, vote.protocol.key, blind.protocol.key}) == 3
    with pytest.raises(ValueError, match="voter and voter_name belong together"):
        evaluate_everything(Answers(None), toys, Red())


def test_what_a_predictor_keeps_can_be_trained_on_later(toys):
    """`evaluate` runs in inference mode, whose tensors autograd refuses."""
    kept = []

    def keeps(image, **prompt):
        kept.append(torch.ones(1))
        return inside_of_box(image, **prompt)

    evaluate_prompted_classes(Answers(keeps), toys)
    assert not any(tensor.is_inference() for tensor in kept)
