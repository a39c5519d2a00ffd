"""The simulated user, and what is counted: clicks, failures, and how well a predictor knows itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompting_toys import Answers, MemoryDataset, rectangles
from scipy import stats

from labhelpers.prompting import ClickCurve, calibration, click_curve, objects
from labhelpers.prompting.clicks import THRESHOLDS


@pytest.fixture
def toys() -> MemoryDataset:
    return MemoryDataset(
        [rectangles(64, 96, (2, 3, 41, 42, 1), (50, 10, 89, 49, 2)), rectangles(48, 64, (10, 5, 45, 40, 3))]
    )


def curve(ious, images=None) -> ClickCurve:
    ious = np.array(ious, dtype=float)
    return ClickCurve("toy", "toys", ious, ious, np.arange(len(ious)) if images is None else np.array(images))


# --- the user ---


def disc(image, points, labels, box, mask_input):
    """The earlier mask, and a disc of 12 pixels around the last click more or less."""
    mask = np.zeros(image.shape[:2], dtype=bool) if mask_input is None else mask_input.copy()
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    mask[(x - points[-1, 0]) ** 2 + (y - points[-1, 1]) ** 2 <= 12**2] = bool(labels[-1])
    return mask, 0.1 * len(points)


def test_a_user_clicks_into_the_error_of_the_answer_that_came_before(toys):
    predictor = Answers(disc)
    item = objects(toys)[0]
    result = click_curve(predictor, [item], max_clicks=6)
    assert predictor.images == 1
    assert len(predictor.asked) == 6
    answer = np.zeros(item.mask.shape, dtype=bool)
    for number, prompt in enumerate(predictor.asked, 1):
        assert (prompt["mask_input"] is None) == (number == 1)
        if number > 1:
            assert np.array_equal(prompt["mask_input"], answer)
            assert np.array_equal(prompt["points"][:-1], predictor.asked[number - 2]["points"])  # all clicks so far
        assert prompt["points"].shape == (number, 2)
        assert prompt["labels"].shape == (number,)
        x, y = prompt["points"][-1].astype(int)
        assert item.mask[y, x] == (prompt["labels"][-1] == 1) != answer[y, x]
        answer, _ = disc(item.image, **prompt)
        inside, outside = (answer & item.mask).sum(), (answer | item.mask).sum()
        assert result.ious[0, number - 1] == inside / outside
    np.testing.assert_allclose(result.predicted[0], 0.1 * np.arange(1, 7))


def test_nothing_is_asked_once_nothing_is_wrong(toys):
    def right_at_once(image, points, labels, box, mask_input):
        x, y = points[0].astype(int)
        return image[..., 0] == image[y, x, 0], 0.9

    predictor = Answers(right_at_once)
    result = click_curve(predictor, toys, max_clicks=5)
    assert (predictor.images, len(predictor.asked)) == (2, 3)
    assert (result.ious == 1).all()
    assert (result.predicted[:, 0] == 0.9).all()
    assert np.isnan(result.predicted[:, 1:]).all()
    assert result.images.tolist() == [0, 0, 1]
    assert "clicks drawn from the truth" in result.protocol


def test_void_is_no_error():
    labels, numbers = rectangles(64, 64, (10, 10, 49, 49, 1), void=3)
    whole = np.zeros((64, 64), dtype=bool)
    whole[10:50, 10:50] = True
    predictor = Answers(lambda image, **prompt: (whole, 1.0))
    assert click_curve(predictor, MemoryDataset([(labels, numbers)]), max_clicks=4).ious.tolist() == [[1, 1, 1, 1]]
    assert len(predictor.asked) == 1


def test_a_less_exact_user_is_repeatable_and_another(toys):
    def clicks(seed):
        predictor = Answers(disc)
        click_curve(predictor, toys, max_clicks=3, seed=seed)
        return np.concatenate([prompt["points"] for prompt in predictor.asked])

    assert np.array_equal(clicks(1), clicks(1))
    assert not np.array_equal(clicks(1), clicks(2))
    assert not np.array_equal(clicks(1), clicks(None))


def test_no_clicks(toys):
    with pytest.raises(ValueError, match="max_clicks must be at least 1, got 0"):
        click_curve(Answers(disc), toys, max_clicks=0)


# --- counting ---


def test_failures_are_counted_and_not_hidden():
    found = curve([[0.5, 0.86, 0.91, 0.95], [0.9, 0.9, 0.9, 0.9], [0.1, 0.2, 0.3, 0.4], [0.2, 0.87, 0.6, 0.7]])
    assert found.noc(0.85) == pytest.approx((2 + 1 + 2) / 3)
    assert (found.failures(0.85), found.failures(0.90), found.failures(0.99)) == (1, 2, 4)
    assert found.noc_capped(0.85) == pytest.approx((2 + 1 + 4 + 2) / 4)
    assert found.noc(0.90) == pytest.approx((3 + 1) / 2)
    assert found.noc_capped(0.90) == pytest.approx((3 + 1 + 4 + 4) / 4)
    assert np.isnan(found.noc(0.99))
    assert found.noc_capped(0.99) == 4
    assert "NoC@85: 1.7 clicks for the 3 of 4 objects that get there, 1 never do; 2.2 if each of those counts 4" in str(
        found
    )
    assert "NoC@90: 2.0 clicks for the 2 of 4 objects that get there, 2 never do; 3.0" in str(found)
    assert "NoC@85: none of 1 objects gets there in 2 clicks" in str(curve([[0.1, 0.2]]))
    assert THRESHOLDS == (0.85, 0.90)


@pytest.mark.parametrize("threshold", [85, 0, -0.1, 1.01])
def test_thresholds_are_shares(threshold):
    with pytest.raises(ValueError, match="NoC@90 has the threshold 0.90"):
        curve([[0.5]]).noc(threshold)


def test_the_mean_lies_in_its_band_and_equal_objects_have_none():
    rng = np.random.default_rng(0)
    found = curve(rng.random((30, 4)), images=np.arange(30) // 3)
    low, high = found.band
    assert (low < found.mean).all()
    assert (found.mean < high).all()
    same = curve(np.tile([0.25, 0.5, 0.75], (6, 1)))
    np.testing.assert_array_equal(same.band, [same.mean, same.mean])


# --- calibration ---

IOUS = st.lists(st.tuples(st.floats(0, 1, width=16), st.floats(0, 1, width=16)), min_size=2, max_size=60)


@given(IOUS, st.integers(1, 12))
def test_calibration_against_its_definition(pairs, bins):
    predicted, true = np.array(pairs).T
    found = calibration(predicted, true, bins)
    assert found.bin_counts.sum() == len(true)
    assert np.ptp(found.bin_counts) <= 1  # equal count
    assert (np.diff(found.bin_predicted) >= -1e-12).all()
    assert found.bias == pytest.approx((predicted - true).mean(), abs=1e-9)
    assert np.average(found.bin_true, weights=found.bin_counts) == pytest.approx(true.mean())
    assert abs(found.bias) - 1e-9 <= found.error <= np.abs(predicted - true).mean() + 1e-9  # by the triangle inequality
    if np.ptp(predicted) > 0 and np.ptp(true) > 0:
        assert found.pearson == pytest.approx(stats.pearsonr(predicted, true).statistic, abs=1e-6)
        assert found.spearman == pytest.approx(stats.spearmanr(predicted, true).statistic, abs=1e-6)
    else:
        assert np.isnan(found.pearson)
        assert np.isnan(found.spearman)


def test_a_network_that_is_too_sure_by_a_fifth():
    true = np.linspace(0, 0.8, 41)
    found = calibration(true + 0.2, true)
    assert [found.error, found.bias] == pytest.approx([0.2, 0.2])
    assert found.pearson == pytest.approx(1)
    assert found.spearman == pytest.approx(1)
    np.testing.assert_allclose(found.bin_predicted - found.bin_true, 0.2)
    assert "over 41 answers: Pearson 1.00, Spearman 1.00, expected calibration error 0.200, bias +0.200" in str(found)


def test_ranks_see_what_a_straight_line_does_not():
    true = np.linspace(0.05, 1, 30)
    found = calibration(true**6, true)
    assert found.spearman == pytest.approx(1)
    assert found.pearson < 0.95


def test_errors_of_opposite_bins_do_not_cancel():
    predicted, true = np.array([0.2, 0.2, 0.8, 0.8]), np.array([0.5, 0.5, 0.5, 0.5])
    assert calibration(predicted, true, bins=2).error == pytest.approx(0.3)
    assert calibration(predicted, true, bins=2).bias == pytest.approx(0)
    assert calibration(predicted, true, bins=1).error == pytest.approx(0)


def test_answers_that_were_never_given_are_left_out():
    found = calibration(np.array([[0.5, np.nan], [0.7, 0.9]]), np.array([[0.4, 1.0], [0.6, 0.8]]))
    assert found.true.tolist() == [0.4, 0.6, 0.8]
    with pytest.raises(ValueError, match="no answer has a predicted IoU"):
        calibration(np.array([np.nan]), np.array([0.5]))
    with pytest.raises(ValueError, match=r"same shape and at least 1 bin, got \(2,\), \(3,\)"):
        calibration(np.zeros(2), np.zeros(3))
