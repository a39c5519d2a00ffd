"""Average precision: pycocotools against the definition, void, and the kinds of failures."""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from labhelpers.data import InstanceDataset, Instances, VOCSegmentation, boxes_of_masks, make_scenes
from labhelpers.evaluation import (
    FailureKind,
    average_precision,
    boxes_ap50,
    evaluate_instances,
    failures,
    instance_table,
    match_detections,
)
from labhelpers.evaluation import average_precision as function

module = sys.modules[function.__module__]  # the package gives its name to the function

SIDE = 112
AREAS = {"ap": (0, 1e10), "ap_small": (0, 32**2), "ap_medium": (32**2, 96**2), "ap_large": (96**2, 1e10)}
FOUND, MISSED, DOUBLED = FailureKind.FOUND, FailureKind.MISSED, FailureKind.DOUBLED
MERGED, WRONG = FailureKind.MERGED, FailureKind.WRONG_CLASS
BACKGROUND, VOID = FailureKind.BACKGROUND, FailureKind.VOID


class Toy:
    """A data set of given targets; image i holds the value i."""

    name, split, num_classes = "toy", "val", 4

    def __init__(self, targets):
        self.targets, self.ids = targets, [f"image{i}" for i in range(len(targets))]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return torch.full((3, SIDE, SIDE), index, dtype=torch.uint8), self.targets[index]


def evaluate(pairs):
    """Score (prediction, target) pairs, one for each image."""
    return evaluate_instances(lambda image: pairs[int(image[0, 0, 0])][0], Toy([target for _, target in pairs]))


def rectangles(boxes, side=SIDE):
    masks = torch.zeros(len(boxes), side, side, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


def instances(boxes, labels, scores=None, void=None):
    return Instances(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=rectangles(boxes),
        scores=None if scores is None else torch.tensor(scores, dtype=torch.float32),
        void=None if void is None else rectangles([void])[0],
    )


def random_pair(rng):
    """Rectangles of all sizes, predictions near them and elsewhere, with equal scores among them, and void."""

    def box():
        (x1, x2), (y1, y2) = (sorted(rng.choice(SIDE + 1, 2, replace=False).tolist()) for _ in range(2))
        return [x1, y1, x2, y2]

    painted = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    for number in range(1, rng.integers(1, 6)):
        painted[rectangles([box()])[0]] = number
    if rng.random() < 0.6:
        painted[rectangles([box()])[0]] = 255
    numbers = [n for n in painted.unique().tolist() if n not in (0, 255)]
    masks = torch.stack([painted == n for n in numbers]) if numbers else torch.zeros(0, SIDE, SIDE, dtype=torch.bool)
    labels = torch.from_numpy(rng.integers(1, 4, len(numbers)))
    target = Instances(boxes_of_masks(masks), labels, masks, void=painted == 255)

    guesses = []
    for x1, y1, x2, y2 in target.boxes.int().tolist() * 2:
        moved = np.clip(np.array([x1, y1, x2, y2]) + rng.integers(-6, 7, 4), 0, SIDE)
        if (moved[2:] > moved[:2]).all():
            guesses.append(moved.tolist())
    guesses += [box() for _ in range(rng.integers(0, 5))]
    names = rng.integers(1, 4, len(guesses))
    scores = np.sort(rng.choice([0.2, 0.4, 0.6, 0.8], len(guesses)))[::-1].astype(np.float32)
    shaped = rectangles(guesses)
    shaped &= torch.from_numpy(rng.random(shaped.shape) < 0.95)  # boxes and masks differ, and few masks are alike
    boxes = torch.tensor(guesses, dtype=torch.float32).reshape(-1, 4)
    return Instances(boxes, torch.from_numpy(names), shaped, torch.from_numpy(scores.copy())), target


def overlaps(kind, prediction, target):
    """IoU (P, T) of all predictions with all objects; masks without void pixels, and the last column is void."""
    seen, true = (masks.flatten(1).double() for masks in (prediction.masks & ~target.void, target.masks))
    if kind == "mask":
        common = seen @ true.T
        iou = common / (seen.sum(1)[:, None] + true.sum(1) - common)
    else:
        iou = box_iou(prediction.boxes.double(), target.boxes.double())
    void = (prediction.masks & target.void).sum((1, 2)) / prediction.masks.sum((1, 2)).double()
    return torch.nan_to_num(torch.column_stack([iou, void])).numpy()


def by_the_definition(pairs, kind, label, area):
    """Average precision of one class at each IoU threshold, from `match_detections` and `average_precision`."""
    num_targets, images = 0, []
    for prediction, target in pairs:
        chosen = torch.where(prediction.labels == label)[0][: module.MAX_DETECTIONS].numpy()
        mine = torch.where(target.labels == label)[0].numpy()
        (x1, y1, x2, y2) = prediction.boxes.double().T
        pixels = (prediction.masks & ~target.void).sum((1, 2))
        sizes = (pixels if kind == "mask" else (x2 - x1) * (y2 - y1)).numpy()[chosen]
        areas = target.masks.sum((1, 2)).numpy()[mine]
        ignored = np.append((areas < area[0]) | (areas > area[1]), True)
        num_targets += (~ignored).sum()
        iou = overlaps(kind, prediction, target)[chosen][:, np.append(mine, -1)]
        outside = (sizes < area[0]) | (sizes > area[1])
        images.append((iou, ignored, outside, prediction.scores.numpy()[chosen]))
    result = []
    for threshold in np.linspace(0.5, 0.95, 10):
        scores, hits = [], []
        for iou, ignored, outside, of_image in images:
            crowd = np.arange(len(ignored)) == len(ignored) - 1
            matches = match_detections(iou, threshold, ignored, crowd)
            counted = np.where(matches < 0, ~outside, ~ignored[matches])
            scores.append(of_image[counted])
            hits.append(matches[counted] >= 0)
        result.append(average_precision(np.concatenate(scores), np.concatenate(hits), num_targets))
    return result


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 100]))
def test_pycocotools_agrees_with_the_definition(seed, most):
    rng = np.random.default_rng(seed)
    pairs = [random_pair(rng) for _ in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_DETECTIONS", most)
        found = evaluate(pairs)
        for kind in ("mask", "box"):
            scores = getattr(found, kind)
            for name, area in AREAS.items():
                wanted = np.array([by_the_definition(pairs, kind, label, area) for label in (1, 2, 3)])  # (classes, 10)
                occurring = wanted[~np.isnan(wanted[:, 0])]
                np.testing.assert_allclose(getattr(scores, name), mean(occurring), atol=1e-12)
                if name == "ap":
                    np.testing.assert_allclose(scores.class_ap[1:], wanted.mean(1), atol=1e-12)
                    np.testing.assert_allclose(scores.ap50, mean(occurring[:, 0]), atol=1e-12)
                    np.testing.assert_allclose(scores.ap75, mean(occurring[:, 5]), atol=1e-12)


def mean(values):
    return values.mean() if values.size else np.nan


def test_average_precision_by_hand():
    # hit, miss, hit, miss: precision 1 up to recall 1/2, then 2/3 up to 1.
    scores, hits = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, hits, 2) == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert average_precision(scores[::-1], hits[::-1], 2) == average_precision(scores, hits, 2)
    assert average_precision(scores, hits, 4) == pytest.approx((26 * 1 + 25 * 2 / 3) / 101)  # half is never found
    assert average_precision(scores[:0], hits[:0], 2) == 0
    assert np.isnan(average_precision(scores, hits, 0))


def test_matching_by_hand():
    iou = np.array([[0.6, 0.7], [0.9, 0.8], [0.8, 0.4]])
    assert match_detections(iou).tolist() == [1, 0, -1]
    assert match_detections(iou, 0.75).tolist() == [-1, 0, -1]
    assert match_detections(np.array([[0.5]])).tolist() == [0]
    # An ignored object only where no other fits; a crowd is never used up.
    assert match_detections(iou, 0.5, ignored=np.array([False, True])).tolist() == [0, 1, -1]
    both = np.array([True, False])
    assert match_detections(iou, 0.5, ignored=both, crowd=both).tolist() == [1, 0, 0]


TRUE = [[10, 10, 50, 50], [60, 60, 100, 110]]


def test_a_perfect_prediction_has_full_marks_and_a_size_that_does_not_occur_none():
    target = instances(TRUE, [1, 3], void=[0, 100, 30, 112])
    found = evaluate([(instances(TRUE, [1, 3], [0.9, 0.8]), target)])
    assert found.mask.ap == found.box.ap == found.mask.ap_medium == pytest.approx(1)
    np.testing.assert_allclose(found.mask.class_ap, [np.nan, 1, np.nan, 1])
    assert found.scores["mask_ap"] == pytest.approx(1)
    assert found.scores["box_ap_large"] is None


def test_no_predictions_and_no_objects():
    nothing, none_true = instances([], [], []), instances([], [])
    assert evaluate([(nothing, instances(TRUE, [1, 3]))]).mask.ap == 0
    assert np.isnan(evaluate([(nothing, none_true)]).mask.ap)
    found = evaluate([(nothing, instances(TRUE, [1, 3])), (instances(TRUE, [1, 3], [0.9, 0.8]), none_true)])
    assert found.mask.ap == found.box.ap == 0
    assert len(found.prediction(0)) == 0


def test_predictions_in_void_are_no_errors_and_void_pixels_count_for_no_iou():
    void = [50, 0, 112, 60]
    target = instances([[10, 10, 50, 50]], [1], void=void)
    spurious, grown = [70, 5, 100, 40], [10, 10, 110, 50]  # the second reaches far into void
    found = evaluate([(instances([spurious, grown], [1, 1], [0.9, 0.8]), target)])
    assert found.mask.ap == pytest.approx(1)
    without = evaluate([(instances([spurious, grown], [1, 1], [0.9, 0.8]), instances([[10, 10, 50, 50]], [1]))])
    assert without.mask.ap == 0
    # Half in void: no error at an IoU of .5, but one at .75.
    target = instances([[10, 10, 50, 50]], [1], void=[20, 60, 30, 80])
    half = evaluate([(instances([[20, 60, 40, 80], [10, 10, 50, 50]], [1, 1], [0.9, 0.8]), target)])
    assert half.mask.ap50 == pytest.approx(1)
    assert half.mask.ap75 == pytest.approx(0.5)


def test_predictions_are_kept_as_they_were():
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng) for _ in range(3)]
    found = evaluate(pairs)
    for index, (prediction, _) in enumerate(pairs):
        kept = found.prediction(index)
        for name in ("boxes", "labels", "masks", "scores"):
            assert torch.equal(getattr(kept, name), getattr(prediction, name))


def test_the_protocol_tells_other_objects_and_other_void_apart():
    prediction = instances(TRUE, [1, 3], [0.9, 0.8])
    target, void = instances(TRUE, [1, 3]), instances(TRUE, [1, 3], void=[0, 0, 5, 5])
    truths = (target, target, instances(TRUE, [1, 2]), void)
    same, again, *others = (evaluate([(prediction, truth)]) for truth in truths)
    assert same.protocol.differences(again.protocol) == []
    assert (same.protocol.size, same.protocol.images) == ("112x112", 1)
    table = instance_table({"a": same, "b": again})
    assert table.header[:5] == ["Model", "AP", "AP50", "AP75", "small"]
    assert [row[0] for row in table.rows] == ["a, masks", "a, boxes", "b, masks", "b, boxes"]
    assert table.rows[3][1:7] == ["100.0", "100.0", "100.0", "–", "100.0", "–"]
    assert table.header[7:] == ["ms per image", "Device"]  # nobody said how the two were trained
    trained = dataclasses.replace(same, protocol=dataclasses.replace(same.protocol, seed=3))
    assert [row[8:] for row in instance_table({"a": trained, "b": same}).rows[::2]] == [
        ["3", "cpu, fp32"],
        ["–", "cpu, fp32"],
    ]
    for one in others:
        with pytest.raises(ValueError, match="b cannot join this table: its protocol differs in labels"):
            instance_table({"a": same, "b": one})


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (instances(TRUE, [1, 3]), "'image0' of toy has no scores"),
        (instances(TRUE, [1, 4], [0.9, 0.8]), "class 4 was predicted .* classes 1 to 3"),
        (
            Instances(torch.ones(0, 4), torch.ones(0, dtype=torch.int64), torch.ones(0, 9, 9) > 0, torch.ones(0)),
            r"\(9, 9\), the image is \(112, 112\)",
        ),
    ],
)
def test_predictions_that_do_not_fit_are_refused(prediction, message):
    with pytest.raises(ValueError, match=message):
        evaluate([(prediction, instances(TRUE, [1, 3]))])


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="holds no image"):
        evaluate([])


def test_nothing_is_printed(capsys):
    evaluate([(instances(TRUE, [1, 3], [0.9, 0.8]), instances(TRUE, [1, 3]))])
    assert capsys.readouterr().out == ""


def judge_the_truth(dataset):
    items = iter([dataset.load_instances(i) for i in range(len(dataset))])

    def oracle(image):
        true = next(items)
        return Instances(true.boxes, true.labels, true.masks, torch.ones(len(true)))

    return evaluate_instances(oracle, dataset)


def test_scenes_judged_by_their_own_truth_are_perfect(tmp_path):
    found = judge_the_truth(InstanceDataset(VOCSegmentation(make_scenes(tmp_path / "scenes", (1, 4), size=64), "val")))
    assert found.mask.ap == found.box.ap == pytest.approx(1)
    assert (found.protocol.dataset, found.protocol.size) == ("scenes", "64x64")


@pytest.mark.real_data
def test_photographs_judged_by_their_own_truth_are_perfect_although_void_is_around(real_data):
    found = judge_the_truth(InstanceDataset(VOCSegmentation(real_data / "coco_photos", "val")))
    assert found.mask.ap == found.box.ap == found.mask.ap_small == found.mask.ap_large == pytest.approx(1)


# --- failures ---

PAIR = [[10, 10, 30, 50], [34, 10, 54, 50]]


@pytest.mark.parametrize(
    ("boxes", "labels", "predictions", "targets"),
    [
        ([], [], [], [MISSED, MISSED]),
        (PAIR, [1, 2], [FOUND, FOUND], [FOUND, FOUND]),
        ([PAIR[0], [10, 12, 30, 50]], [1, 1], [FOUND, DOUBLED], [FOUND, MISSED]),
        ([PAIR[0]], [2], [WRONG], [WRONG, MISSED]),
        ([PAIR[0], PAIR[0]], [2, 1], [WRONG, FOUND], [FOUND, MISSED]),  # found all the same
        ([[10, 10, 54, 50]], [1], [MERGED], [MERGED, MERGED]),
        ([[10, 10, 54, 50], PAIR[1]], [1, 1], [MERGED, WRONG], [MERGED, WRONG]),
        ([[10, 10, 18, 50]], [1], [BACKGROUND], [MISSED, MISSED]),  # a part of an object
        ([[60, 60, 80, 80]], [1], [BACKGROUND], [MISSED, MISSED]),
        ([[70, 100, 80, 112]], [1], [VOID], [MISSED, MISSED]),
    ],
)
def test_failures_by_hand(boxes, labels, predictions, targets):
    target = instances(PAIR, [1, 2], void=[60, 95, 112, 112])
    scores = [0.9, 0.8][: len(boxes)]
    found = failures(instances(boxes, labels, scores), target)
    assert (list(found.predictions), list(found.targets)) == (predictions, targets)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5, 0.7]))
def test_each_prediction_and_each_object_is_of_one_kind(seed, score):
    prediction, target = random_pair(np.random.default_rng(seed))
    found = failures(prediction, target, score)
    assert len(found.predictions) == int((prediction.scores >= score).sum())
    assert len(found.targets) == len(target)
    assert found.predictions.count(FOUND) == found.targets.count(FOUND) == found.counts[FOUND]
    assert sum(found.counts.values()) == len(found.predictions) + found.targets.count(MISSED)
    assert {MISSED}.isdisjoint(found.predictions)
    assert {DOUBLED, BACKGROUND, VOID}.isdisjoint(found.targets)


def test_boxes_of_one_image_are_scored_as_the_definition_says():
    objects = torch.tensor([[x, 0, x + 10, 10] for x in (0, 20, 40)])
    detected = torch.tensor([[0, 0, 10, 8], [1, 0, 9, 10], [20, 0, 30, 4], [40, 0, 50, 6]])
    scores = np.array([0.9, 0.8, 0.6, 0.7])
    order = np.argsort(-scores)
    hits = match_detections(box_iou(detected, objects).numpy()[order]) >= 0
    assert boxes_ap50(objects, detected, scores) == pytest.approx(average_precision(scores[order], hits, 3), abs=1e-12)
    assert hits.tolist() == [True, False, True, False]
