"""What scores say: one prompt an object, clicks until it is right, class maps from masks, and what a box alone does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from prompting_toys import Answers, MemoryDataset, clicked_label, rectangles
from scipy import stats
from torch import nn

from labhelpers.data import SubsetDataset, VOCSegmentation, denormalize
from labhelpers.data.voc import ObjectDataset
from labhelpers.evaluation import evaluate
from labhelpers.prompting import (
    PROMPTS,
    BoxEllipse,
    ClickCurve,
    FilledBox,
    GrabCut,
    calibration,
    click_curve,
    clustered_bootstrap,
    evaluate_prompted_classes,
    evaluate_prompts,
    evaluate_semantic,
    grabcut_box,
    mask_iou,
    objects,
    paint,
    right_object,
)
from labhelpers.prompting.clicks import THRESHOLDS

MASKS = arrays(bool, (5, 6))
# Two images of other sizes: two objects and one too thin to be judged in the first, one in the second.
TOYS = MemoryDataset(
    [
        rectangles(64, 96, (2, 3, 41, 42, 1), (50, 10, 89, 49, 2), (4, 50, 80, 60, 3)),
        rectangles(48, 64, (10, 5, 45, 40, 3)),
    ]
)
# Two objects of one class, none at all, one with a rim of void, one on another.
CLASSES = MemoryDataset(
    [
        rectangles(48, 64, (2, 3, 30, 40, 2), (35, 10, 60, 44, 2)),
        rectangles(64, 40),
        rectangles(40, 64, (10, 5, 45, 30, 3), void=1),
        rectangles(40, 64, (10, 5, 45, 30, 3), (20, 10, 30, 20, 1)),
    ]
)


def always(inside, estimate: float = 0.5) -> Answers:
    """Answers with `inside(picture)`, bool (H, W), whatever is asked."""
    return Answers(lambda image, **prompt: (inside(image[..., 0]), estimate))


def asked(judged, prompt: str, seed: int = 0) -> list[dict]:
    predictor = always(lambda red: red >= 0)
    evaluate_prompts(predictor, judged, prompts=(prompt,), seed=seed)
    return predictor.asked


def curve(ious, images=None) -> ClickCurve:
    ious = np.array(ious, dtype=float)
    return ClickCurve("toy", "toys", ious, ious, np.arange(len(ious)) if images is None else np.array(images))


# --- which objects ---
def test_objects_are_those_with_a_large_box():
    found = objects(TOYS)
    assert [(item.index, item.number, item.label) for item in found] == [(0, 1, 1), (0, 2, 2), (1, 1, 3)]
    assert [int(item.mask.sum()) for item in found] == [1600, 1600, 36 * 36]
    assert found[2].image.shape == (48, 64, 3)
    assert [len(objects(TOYS, min_side=side)) for side in (11, 12, 36, 37)] == [4, 3, 3, 2]  # the thin one: 77x11
    part = objects(SubsetDataset(TOYS, [1]))  # counted in the subset
    assert [(item.index, item.label, item.image.shape) for item in part] == [(0, 3, (48, 64, 3))]


def test_void_belongs_to_no_object():
    labels, numbers = rectangles(48, 48, (5, 5, 44, 44, 1), void=1)
    numbers[5:10] = 1  # an object map that knows of no rim
    item = objects(MemoryDataset([(labels, numbers)]))[0]
    assert item.mask.sum() == 38 * 38 + 5 * 8  # void in the labels is void here too; rows 5..9 reach both borders
    assert item.ignore.sum() == 40 * 40 - 38 * 38
    assert not (item.mask & item.ignore).any()


def test_classes_as_objects_where_there_are_no_instances():
    found = objects(ObjectDataset(MemoryDataset([CLASSES.maps[0]]), by="class"))
    assert [(item.number, item.label, int(item.mask.sum())) for item in found] == [(2, 2, 29 * 38 + 26 * 35)]
    assert [item.label for item in objects(ObjectDataset(TOYS))] == [1, 2, 3]


@given(MASKS, MASKS, MASKS)
def test_iou_is_that_of_the_pixels_that_are_not_ignored(a, b, ignore):
    both, either = (a & b & ~ignore).sum(), ((a | b) & ~ignore).sum()
    expected = both / either if either else np.nan
    assert np.array_equal([mask_iou(a, b, ignore), mask_iou(b, a, ignore)], [expected] * 2, equal_nan=True)
    assert np.array_equal(mask_iou(a, b), mask_iou(a, b, np.zeros_like(a)), equal_nan=True)


def test_resamples_take_all_objects_of_an_image():
    """Against the plain loop: draw images, take the mean over all their objects."""
    rng = np.random.default_rng(0)
    images, values = rng.integers(0, 12, 40), rng.random(40)
    interval = clustered_bootstrap(values, images, n=80, seed=3)
    names = np.unique(images)
    draws = np.random.default_rng(3).multinomial(len(names), np.full(len(names), 1 / len(names)), size=80)
    means = [np.concatenate([values[images == i] for i in np.repeat(names, draw)]).mean() for draw in draws]
    expected = [*np.percentile(means, [2.5, 97.5]), values.mean()]
    assert [interval.low, interval.high, interval.value] == pytest.approx(expected)
    assert np.isnan(clustered_bootstrap(np.array([]), np.array([])).value)


# --- one prompt ---
def test_each_image_is_set_once_and_each_object_asked_once_per_prompt():
    predictor = always(lambda red: red >= 0, 0.25)
    scores = evaluate_prompts(predictor, TOYS, prompts=tuple(PROMPTS))
    assert (predictor.images, len(predictor.asked)) == (2, 3 * len(PROMPTS))
    assert scores.ious.keys() == PROMPTS.keys()
    for kind in PROMPTS:
        np.testing.assert_allclose(scores.ious[kind], [1600 / (64 * 96), 1600 / (64 * 96), 36 * 36 / (48 * 64)])
        assert (scores.predicted[kind] == 0.25).all()
    assert scores.images.tolist() == [0, 0, 1]


def test_prompts_are_what_they_are_called():
    found, boxes = objects(TOYS), [[2, 3, 41, 42], [50, 10, 89, 49], [10, 5, 45, 40]]
    assert [prompt["box"].tolist() for prompt in asked(TOYS, "box")] == boxes
    for kind, reach in (("centre_click", 18), ("jittered_click", 10), ("random_click", 1)):
        for (x0, y0, x1, y1), prompt in zip(boxes, asked(TOYS, kind), strict=True):
            assert (prompt["labels"].tolist(), prompt["box"]) == ([1], None)
            x, y = prompt["points"][0]
            assert min(x - x0, x1 - x, y - y0, y1 - y) + 1 >= reach
    for n in range(3, 11):
        for item, prompt in zip(found, asked(TOYS, f"{n}_points"), strict=True):
            assert (len(prompt["points"]), prompt["labels"].sum()) == (n, (n + 1) // 2)
            x, y = prompt["points"].astype(int).T
            assert item.mask[y, x].tolist() == (prompt["labels"] == 1).tolist()
    moved = np.array([asked(TOYS, "jittered_box", seed)[1]["box"] for seed in range(60)])
    assert 2 < (moved - moved.mean(0)).std() < 6  # 0.1 of 40 pixels


@pytest.mark.parametrize("kind", ["jittered_box", "jittered_click", "random_click", "5_points"])
def test_all_predictors_and_all_parts_of_a_set_are_asked_the_same(kind):
    name = "box" if kind == "jittered_box" else "points"
    first, again, other = (np.stack([p[name] for p in asked(TOYS, kind, seed)]) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(asked(objects(TOYS)[2:], kind)[0][name], first[2])


def test_void_counts_neither_way():
    """Two holes in a rectangle that the filled box covers: one is background and wrong, the other one void."""
    labels, numbers = rectangles(64, 64, (10, 10, 45, 45, 1))
    numbers[20:30, 20:30] = labels[20:30, 20:30] = 0
    numbers[32:37, 32:37] = labels[32:37, 32:37] = 255
    scores = evaluate_prompts(FilledBox(), MemoryDataset([(labels, numbers)]), prompts=("box",))
    assert scores.ious["box"].tolist() == [(36 * 36 - 100 - 25) / (36 * 36 - 25)]


def test_means_by_size_and_in_words():
    judged = MemoryDataset([TOYS.maps[1], rectangles(300, 400, (1, 1, 32, 32, 1), (50, 50, 90, 90, 2))])
    scores = evaluate_prompts(always(lambda red: red > 0), judged, prompts=("box",))
    assert scores.sizes.tolist() == ["large", "medium", "medium"]  # 32 px of 400x300 is more than COCO's share
    scores.ious["box"][:] = [0.2, 0.6, 1.0]
    means = [scores.mean("box", size).value for size in (None, "medium", "small")]
    assert means == pytest.approx([0.6, 0.8, np.nan], nan_ok=True)
    with pytest.raises(ValueError, match="'centre_click' was not among the prompts; asked were: box"):
        scores.mean("centre_click")
    with pytest.raises(ValueError, match="unknown size 'tiny'; known: small, medium, large"):
        scores.mean("box", "tiny")
    table = scores.table()
    assert list(table.header) == ["toy", "mean IoU [95 %], 3 objects", "small (0)", "medium (2)", "large (1)"]
    assert [table.rows[0][0], *table.rows[0][2:]] == ["box", "–", "0.800", "0.200"]
    for text in (str(scores), table.caption):
        assert "toys val, 3 objects in 2 images" in text
        assert "no side of a box below 32 pixels" in text
        assert "prompts drawn from the truth (seed 0)" in text


@pytest.mark.parametrize(
    ("predictor", "share"),
    [
        (Answers(clicked_label), 1.0),
        # Who does not look where the click is, is right in half of the pairs at most.
        (always(lambda red: red == 10), 0.5),
        (always(lambda red: red > 0), 0.0),
        (always(lambda red: red < 0), 0.0),
    ],
)
def test_who_looks_at_the_click_marks_the_right_object(predictor, share):
    result = right_object(predictor, TOYS)
    assert (result.share, result.pairs) == (share, 2)
    assert share < 1 or "1.000 [1.000, 1.000] of 2 clicks" in str(result)


def test_three_objects_are_six_pairs():
    predictor = Answers(clicked_label)
    assert right_object(predictor, objects(TOYS, min_side=5)).pairs == 6
    assert (predictor.images, len(predictor.asked)) == (1, 3)  # the second image has no pair


@pytest.mark.real_data
def test_photographs(real_data):
    """The numbers that every later model is compared with."""
    found = objects(VOCSegmentation(real_data / "voc_style_photos", "val"))
    assert len(found) == 54
    for predictor, expected in ((FilledBox(), 0.584), (BoxEllipse(), 0.611)):
        value = evaluate_prompts(predictor, found, prompts=("box",)).mean("box").value
        assert value == pytest.approx(expected, abs=0.001)


# --- a user who clicks ---


def disc(image, points, labels, box, mask_input):
    """The earlier mask, and a disc of 12 pixels around the last click more or less."""
    mask = np.zeros(image.shape[:2], dtype=bool) if mask_input is None else mask_input.copy()
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    mask[(x - points[-1, 0]) ** 2 + (y - points[-1, 1]) ** 2 <= 12**2] = bool(labels[-1])
    return mask, 0.1 * len(points)


def test_a_user_clicks_into_the_error_of_the_answer_that_came_before():
    predictor, item = Answers(disc), objects(TOYS)[0]
    result = click_curve(predictor, [item], max_clicks=6)
    assert (predictor.images, len(predictor.asked)) == (1, 6)
    answer = np.zeros(item.mask.shape, dtype=bool)
    for number, prompt in enumerate(predictor.asked, 1):
        assert (prompt["mask_input"] is None) == (number == 1)
        if number > 1:
            assert np.array_equal(prompt["mask_input"], answer)
            assert np.array_equal(prompt["points"][:-1], predictor.asked[number - 2]["points"])  # all clicks so far
        assert (prompt["points"].shape, prompt["labels"].shape) == ((number, 2), (number,))
        x, y = prompt["points"][-1].astype(int)
        assert item.mask[y, x] == (prompt["labels"][-1] == 1) != answer[y, x]
        answer, _ = disc(item.image, **prompt)
        assert result.ious[0, number - 1] == mask_iou(answer, item.mask)
    np.testing.assert_allclose(result.predicted[0], 0.1 * np.arange(1, 7))


def test_nothing_is_asked_once_nothing_is_wrong():
    predictor = Answers(clicked_label)
    result = click_curve(predictor, TOYS, max_clicks=5)
    assert (predictor.images, len(predictor.asked)) == (2, 3)
    assert (result.ious == 1).all()
    assert (result.predicted[:, 0] == 0.5).all()
    assert np.isnan(result.predicted[:, 1:]).all()
    assert result.images.tolist() == [0, 0, 1]
    assert "clicks drawn from the truth" in result.protocol


def test_void_is_no_error():
    toys = MemoryDataset([rectangles(64, 64, (10, 10, 49, 49, 1), void=3)])
    predictor = always(lambda red: red > 0)  # the rim too
    assert click_curve(predictor, toys, max_clicks=4).ious.tolist() == [[1, 1, 1, 1]]
    assert len(predictor.asked) == 1


def test_a_less_exact_user_is_repeatable_and_another():
    def clicks(seed):
        predictor = Answers(disc)
        click_curve(predictor, TOYS, max_clicks=3, seed=seed)
        return np.concatenate([prompt["points"] for prompt in predictor.asked])

    assert np.array_equal(clicks(1), clicks(1))
    assert not np.array_equal(clicks(1), clicks(2))
    assert not np.array_equal(clicks(1), clicks(None))


def test_failures_are_counted_and_not_hidden():
    found = curve([[0.5, 0.86, 0.91, 0.95], [0.9, 0.9, 0.9, 0.9], [0.1, 0.2, 0.3, 0.4], [0.2, 0.87, 0.6, 0.7]])
    for threshold, noc, capped, failures in (
        (0.85, (2 + 1 + 2) / 3, (2 + 1 + 4 + 2) / 4, 1),
        (0.90, (3 + 1) / 2, (3 + 1 + 4 + 4) / 4, 2),
        (0.99, np.nan, 4, 4),
    ):
        counted = [found.noc(threshold), found.noc_capped(threshold), found.failures(threshold)]
        assert counted == pytest.approx([noc, capped, failures], nan_ok=True)
    for text in (
        "NoC@85: 1.7 clicks for the 3 of 4 objects that get there, 1 never do; 2.2 if each of those counts 4",
        "NoC@90: 2.0 clicks for the 2 of 4 objects that get there, 2 never do; 3.0",
    ):
        assert text in str(found)
    assert "NoC@85: none of 1 objects gets there in 2 clicks" in str(curve([[0.1, 0.2]]))
    assert THRESHOLDS == (0.85, 0.90)


def test_the_mean_lies_in_its_band_and_equal_objects_have_none():
    rng = np.random.default_rng(0)
    found = curve(rng.random((30, 4)), images=np.arange(30) // 3)
    low, high = found.band
    assert (low < found.mean).all()
    assert (found.mean < high).all()
    same = curve(np.tile([0.25, 0.5, 0.75], (6, 1)))
    np.testing.assert_array_equal(same.band, [same.mean, same.mean])


# --- calibration ---
@given(
    st.lists(st.tuples(st.floats(0, 1, width=16), st.floats(0, 1, width=16)), min_size=2, max_size=60),
    st.integers(1, 12),
)
def test_calibration_against_its_definition(pairs, bins):
    predicted, true = np.array(pairs).T
    found = calibration(predicted, true, bins)
    assert found.bin_counts.sum() == len(true)
    assert len(found.bin_counts) == min(bins, len(true))
    assert np.ptp(found.bin_counts) <= 1  # equal count
    assert (np.diff(found.bin_predicted) >= -1e-12).all()
    assert found.bias == pytest.approx((predicted - true).mean(), abs=1e-9)
    assert np.average(found.bin_true, weights=found.bin_counts) == pytest.approx(true.mean())
    gaps = np.abs(found.bin_predicted - found.bin_true)  # bin by bin: opposite errors do not cancel
    assert found.error == pytest.approx(np.average(gaps, weights=found.bin_counts))
    assert abs(found.bias) - 1e-9 <= found.error <= np.abs(predicted - true).mean() + 1e-9  # by the triangle inequality
    if np.ptp(predicted) > 0 and np.ptp(true) > 0:
        assert found.pearson == pytest.approx(stats.pearsonr(predicted, true).statistic, abs=1e-6)
        assert found.spearman == pytest.approx(stats.spearmanr(predicted, true).statistic, abs=1e-6)
    else:
        assert np.isnan([found.pearson, found.spearman]).all()


def test_calibration_in_words_and_without_answers_that_were_never_given():
    true = np.linspace(0, 0.8, 41)
    found = str(calibration(true + 0.2, true))
    assert "over 41 answers: Pearson 1.00, Spearman 1.00, expected calibration error 0.200, bias +0.200" in found
    found = calibration(np.array([[0.5, np.nan], [0.7, 0.9]]), np.array([[0.4, 1.0], [0.6, 0.8]]))
    assert found.true.tolist() == [0.4, 0.6, 0.8]


# --- class maps from masks: painted in order ---
@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8))
def test_every_pixel_has_the_class_of_the_smallest_mask_on_it(seed, n):
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, 12, 15), dtype=bool)
    for mask in masks:
        (y0, x0), (height, width) = rng.integers(0, (8, 9)), rng.integers(1, 8, 2)
        mask[y0 : y0 + height, x0 : x0 + width] = True
    scores, classes = rng.random(n), rng.integers(-1, 5, n)
    painted = paint(masks, scores, classes)
    assert painted.dtype == np.uint8
    for y, x in np.ndindex(painted.shape):
        on = [i for i in range(n) if masks[i, y, x] and classes[i] >= 0]
        assert painted[y, x] == (classes[min(on, key=lambda i: (masks[i].sum(), -scores[i]))] if on else 0)


def test_equal_sizes_leave_the_surer_on_top_and_minus_one_is_left_out():
    masks = np.zeros((3, 1, 4), dtype=bool)
    masks[0, 0, :3], masks[1, 0, 1:], masks[2, 0, 1] = True, True, True
    assert paint(masks, np.array([0.9, 0.1, 0.0]), np.array([4, 5, -1])).tolist() == [[4, 4, 4, 5]]
    assert paint(masks, np.array([0.1, 0.9, 0.0]), np.array([4, 5, -1])).tolist() == [[4, 5, 5, 5]]
    assert paint(masks, np.array([0.1, 0.9, 0.0]), np.array([4, 5, 0])).tolist() == [[4, 0, 5, 5]]


def inside_of_box(image, points, labels, box, mask_input):
    x0, y0, x1, y1 = box.astype(int)
    mask = np.zeros(image.shape[:2], dtype=bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask, 0.5


class Red(nn.Module):
    """A perfect network: the label is the red channel over ten; void, which is 200, becomes class 1."""

    def forward(self, images):
        red = denormalize(images)[:, 0].long()
        labels = torch.where(red == 200, 1, red // 10)
        return nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()


def test_answers_to_true_boxes_get_their_objects_class():
    predictor = Answers(inside_of_box)
    evaluation = evaluate_prompted_classes(predictor, CLASSES, bands=(2,))
    assert evaluation.scores.mean_iou == 1  # rectangles fill their boxes, and the smaller is painted on the larger
    assert evaluation.boundary_iou == 1
    assert (predictor.images, len(predictor.asked)) == (3, 5)  # nothing is asked about an image without objects
    assert evaluation.matrices.shape == (4, 4, 4)
    plain = evaluate(Red(), CLASSES, bands=(2,))
    assert evaluation.protocol.differences(plain.protocol) == [
        "prompts (the box of every true object, whose class the answer gets against none)"
    ]
    assert evaluation.protocol.key != plain.protocol.key
    assert "prompted with the box of every true object" in str(evaluation.protocol)
    missed = evaluate_prompted_classes(always(lambda red: red < 0), CLASSES)
    assert missed.matrix[:, 1:].sum() == 0
    assert missed.scores.class_iou[1:].tolist() == [0, 0, 0]


def test_what_a_predictor_keeps_can_be_trained_on_later():
    """`evaluate` runs in inference mode, whose tensors autograd refuses."""
    kept = []

    def keeps(image, **prompt):
        kept.append(torch.ones(1))
        return inside_of_box(image, **prompt)

    evaluate_prompted_classes(Answers(keeps), CLASSES)
    assert not any(tensor.is_inference() for tensor in kept)


# --- mean IoU of a network that takes points ---
class Plain(nn.Module):
    """Class 1 wherever there is any object, class 0 elsewhere, unless a foreground click tells the class below it."""

    num_classes = 4

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, images, points=None, point_labels=None):
        red = denormalize(images)[:, 0].int()  # label times ten
        labels = (red[0] > 0).long()
        self.asked.append((red[0], points, point_labels))
        if points is not None:
            for (x, y), label in zip(points[0].long().tolist(), point_labels[0].tolist(), strict=True):
                if label:
                    labels[red[0] == red[0, y, x]] = int(red[0, y, x]) // 10 % 4
        return nn.functional.one_hot(labels, 4).permute(2, 0, 1)[None].float(), torch.zeros(1, 1)


def test_without_prompts_it_is_the_evaluation_of_every_network():
    class Logits(Plain):
        def forward(self, images):
            return super().forward(images)[0]

    ours, plain = evaluate_semantic(Plain(), CLASSES), evaluate(Logits(), CLASSES)
    assert ours.protocol == plain.protocol
    assert np.array_equal(ours.matrices, plain.matrices)
    assert ours.band_mean_iou == plain.band_mean_iou


def test_points_from_the_truth_belong_to_their_image_and_leak_the_answer():
    model = Plain()
    told = evaluate_semantic(model, CLASSES, "truth", points=5)
    assert told.scores.mean_iou == 1 > evaluate_semantic(Plain(), CLASSES).scores.mean_iou
    assert len(model.asked) == 4
    for index, (red, points, labels) in enumerate(model.asked):
        assert (points.shape, points.dtype) == ((1, 5, 2), torch.float32)
        assert (labels.shape, labels.dtype) == ((1, 5), torch.int64)
        x, y = points[0].long().T
        on_object = (red[y, x] > 0) & (red[y, x] != 200)
        assert torch.equal(labels[0].bool(), on_object)
        assert labels.sum() == (0 if index == 1 else 3)


def test_random_points_know_nothing():
    model = Plain()
    evaluate_semantic(model, CLASSES, "random", points=6)
    assert [labels.sum().item() for _, _, labels in model.asked] == [3, 3, 3, 3]
    on_object = [red[points[0, :, 1].long(), points[0, :, 0].long()] > 0 for red, points, _ in model.asked]
    labels = torch.cat([labels[0] for _, _, labels in model.asked]).bool()
    assert not torch.equal(torch.cat(on_object), labels)


@pytest.mark.parametrize("source", ["truth", "random"])
def test_points_follow_from_the_seed(source):
    def drawn(seed):
        model = Plain()
        evaluate_semantic(model, CLASSES, source, seed=seed)
        return torch.cat([points for _, points, _ in model.asked])

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert len(drawn(0).unique(dim=0)) == 4  # every image has its own


def test_the_protocol_names_the_source():
    none, truth, random = (
        evaluate_semantic(Plain(), CLASSES, source).protocol for source in ("none", "truth", "random")
    )
    assert "prompted with 5 points drawn from the truth (seed 0)" in str(truth)
    assert "at random places with random labels" in str(random)
    assert "prompt" not in str(none)
    assert len({none.key, truth.key, random.key}) == 3
    assert [difference.split(" ")[0] for difference in truth.differences(none)] == ["prompts"]
    assert replace(truth, prompts=none.prompts) == none


# --- what a box gives without a network ---
BOX = np.array([15, 10, 48, 45])


def noisy_ball(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A reddish ball on greenish ground, uint8 (64, 64, 3), and its mask; it fills BOX but for the corners."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[:64, :64]
    mask = ((x - 31.5) / 17) ** 2 + ((y - 27.5) / 18) ** 2 <= 1
    image = rng.normal([60, 140, 80], noise, (64, 64, 3))
    image[mask] = rng.normal([170, 80, 70], noise, (mask.sum(), 3))
    return image.clip(0, 255).astype(np.uint8), mask


def ask(predictor, image, **prompt):
    predictor.set_image(image)
    return predictor.predict(**prompt)


def test_grabcut_finds_what_differs_in_colour_and_nothing_outside_the_box():
    image, truth = noisy_ball(18)
    found = grabcut_box(image, BOX)
    assert (found.dtype, found.shape) == (bool, (64, 64))
    assert mask_iou(found, truth) > 0.97
    assert mask_iou(ask(FilledBox(), image, box=BOX)[0], truth) < 0.8
    assert mask_iou(grabcut_box(image, BOX + [-8, -6, 9, 10]), truth) > 0.97
    cut = grabcut_box(image, np.array([15, 10, 48, 42]))  # the ball's last three rows stick out
    assert mask_iou(cut[:43], truth[:43]) > 0.97
    assert truth[43:].any()
    assert not cut[43:].any()
    for all_of_it in ([0, 0, 63, 63], [-3, -2, 70, 64]):  # no background to learn: the box
        assert grabcut_box(image, np.array(all_of_it)).all()
    assert grabcut_box(image, np.array([20, 20, 20, 20])).sum() <= 1


def test_the_same_each_time():
    """In so much noise the start of the mixtures decides between the ball and nothing at all."""
    import cv2

    image, _ = noisy_ball(44, seed=1)
    found = set()
    for state in range(6):
        cv2.setRNGSeed(state)
        found.add(int(grabcut_box(image, BOX).sum()))
    assert len(found) == 1


def test_a_filled_box_holds_its_extreme_pixels_and_an_ellipse_touches_them():
    image, _ = noisy_ball(18)
    for box in ([3, 5, 6, 5], [2.6, 4.6, 6.4, 5.4]):
        mask, estimate = ask(FilledBox(), image, box=np.array(box))
        assert np.argwhere(mask).tolist() == [[5, x] for x in (3, 4, 5, 6)]
        assert np.isnan(estimate)
    mask, _ = ask(BoxEllipse(), image, box=BOX)
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    assert [columns[0], rows[0], columns[-1], rows[-1]] == BOX.tolist()
    assert mask.sum() == pytest.approx(np.pi / 4 * 34 * 36, rel=0.02)
    small, _ = ask(BoxEllipse(), image, box=np.array([7, 9, 7, 9]))
    assert np.argwhere(small).tolist() == [[9, 7]]


@pytest.mark.parametrize("predictor", [FilledBox(), BoxEllipse(), GrabCut()], ids=lambda p: p.name)
def test_they_answer_boxes_only_and_are_scored_like_every_predictor(predictor):
    image, click = noisy_ball(18)[0], {"points": np.array([[30, 30]]), "labels": np.array([1])}
    for prompt, message in (
        (click, rf"{predictor.name} needs a box and takes nothing else, got points, labels: it"),
        ({"box": BOX, **click}, "got points, labels beside it"),
        ({"box": BOX, "multimask": True}, "got multimask beside it"),
        ({}, "needs a box and takes nothing else, got nothing"),
        ({"box": BOX[::-1]}, "box must be x0, y0, x1, y1"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(predictor, image, **prompt)
    with pytest.raises(RuntimeError, match="call set_image first"):
        type(predictor)().predict(box=BOX)
    assert predictor.class_name is None
    scores = evaluate_prompts(predictor, TOYS, prompts=("box", "jittered_box"))
    full = np.pi / 4 if isinstance(predictor, BoxEllipse) else 1
    assert scores.mean("box").value == pytest.approx(full, rel=0.02)
    assert isinstance(predictor, GrabCut) or scores.mean("jittered_box").value < scores.mean("box").value


# --- mistakes ---
FLAT = np.zeros((4, 4), dtype=bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: objects(TOYS, min_side=200),
            r"toys/val has no object whose box is at least 200x200 pixels: lower min_side",
        ),
        (lambda: evaluate_prompts(FilledBox(), []), "the list is empty"),
        (
            lambda: evaluate_prompts(FilledBox(), TOYS, prompts=("box", "scribble")),
            r"unknown prompt 'scribble'; known: box, jittered_box, .*, 10_points",
        ),
        (lambda: evaluate_prompts(FilledBox(), TOYS, prompts=()), "unknown prompt"),
        *(
            (lambda no=no: mask_iou(no, FLAT), r"must be bool \(4, 4\), got .*logits > 0")
            for no in (np.zeros((4, 4)), np.zeros((4, 5), dtype=bool), FLAT[None])
        ),
        (lambda: right_object(Answers(None), objects(TOYS)[2:]), "no image holds two of these objects"),
        (lambda: click_curve(Answers(disc), TOYS, max_clicks=0), "max_clicks must be at least 1, got 0"),
        *((lambda no=no: curve([[0.5]]).noc(no), "NoC@90 has the threshold 0.90") for no in (85, 0, -0.1, 1.01)),
        (lambda: calibration(np.array([np.nan]), np.array([0.5])), "no answer has a predicted IoU"),
        (lambda: calibration(np.zeros(2), np.zeros(3)), r"same shape and at least 1 bin, got \(2,\), \(3,\)"),
        (
            lambda: evaluate_semantic(Plain(), CLASSES, "boxes"),
            "prompts must be one of truth, none, random, with points >= 1; got 'boxes', 5",
        ),
        (lambda: evaluate_semantic(Plain(), CLASSES, "truth", points=0), "got 'truth', 0"),
        (
            lambda: grabcut_box(noisy_ball(18)[0], np.array([70.0, 5.0, 80.0, 9.0])),
            r"box must lie in the image of 64 x 64 pixels .* got \[70.0, 5.0, 80.0, 9.0\]",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
