"""Class counts against counting by hand, and the weights against their formulas."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_voc import TRAIN, make_labels, make_tiny_voc, save_labels

from labhelpers import config
from labhelpers.data import VOCSegmentation
from labhelpers.data.base import SegmentationDataset
from labhelpers.data.statistics import WEIGHT_METHODS, ClassStatistics, class_statistics, class_weights
from labhelpers.data.statistics import rare_class_sample_weights as sample_weights

TARGETS = [
    [[0, 0, 0, 255], [0, 0, 1, 255]],
    [[0, 0, 0, 0], [0, 0, 0, 0]],
    [[0, 0, 2, 2], [1, 1, 2, 2]],
    [[0, 0, 0, 1], [255, 255, 1, 1]],
]


class Labels(SegmentationDataset):
    """Label maps without pictures: whoever decodes an image fails."""

    def __init__(self, targets=TARGETS, key="labels"):
        super().__init__(
            "labels", "train", ["ground", "a", "b", "never"], [str(i) for i in range(len(targets))], [], []
        )
        self.targets, self.key, self.reads = targets, key, 0

    def load_target(self, index):
        self.reads += 1
        return torch.tensor(self.targets[index], dtype=torch.uint8)

    def fingerprint(self):
        return self.key


def test_counts_are_kept_until_the_set_changes():
    stats = class_statistics(Labels())
    assert stats.pixels.tolist() == [18, 6, 4, 0]
    assert stats.images.tolist() == [4, 3, 1, 0]
    assert (stats.void, stats.class_names) == (4, ("ground", "a", "b", "never"))
    np.testing.assert_allclose(stats.frequency, np.array([18, 6, 4, 0]) / 28)
    again, changed = Labels(), Labels(TARGETS[:2], key="changed")
    assert class_statistics(again).pixels.tolist() == [18, 6, 4, 0]
    assert class_statistics(changed).images.tolist() == [2, 1, 0, 0]
    assert (again.reads, changed.reads) == (0, 2)


def test_a_label_changed_in_place_is_counted(tmp_path):
    path = make_tiny_voc(tmp_path / "voc") / "SegmentationClass" / f"{TRAIN[0]}.png"
    sizes = set()
    for label in (7, 8):
        save_labels(path, make_labels(24, 18, label))
        sizes.add(path.stat().st_size)
        assert class_statistics(VOCSegmentation(tmp_path / "voc", "train")).images[[7, 8]].tolist() == [
            label == 7,
            label == 8,
        ]
    assert len(sizes) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: "\0" * 9,
        lambda text: text.replace("[6, 0, 0, 0, 2]", "[6, 0, 0, 2]"),
        lambda text: text.replace("[6, 0, 0, 0, 2], ", ""),
        lambda text: text.replace("[6, 0", "[6.5, 0"),
        lambda text: text.replace("[6, 0", "[-6, 0"),
        lambda text: text.replace("[6, 0", "[" + "9" * 30 + ", 0"),
        lambda text: "[" * 10**5,
    ],
)
def test_damaged_counts_are_counted_again(change, capsys):
    whole = class_statistics(Labels())
    [path] = (config.data_root() / "statistics").iterdir()
    before = path.read_text()
    unsealed = re.sub(r', "seal": "\w+"', "", before)
    path.write_text(change(unsealed.replace("[5, 1, 0, 0, 2]", "[6, 0, 0, 0, 2]")))
    again = Labels()
    np.testing.assert_array_equal(class_statistics(again).image_pixels, whole.image_pixels)
    assert again.reads == 4
    assert capsys.readouterr().out.startswith(f"{path} is damaged (")
    assert path.read_text() == before
    class_statistics(again)
    assert (again.reads, capsys.readouterr().out) == (4, "")


def test_other_counts_than_were_written_are_counted_again(capsys):
    whole = class_statistics(Labels())
    [path] = (config.data_root() / "statistics").iterdir()
    path.write_text(path.read_text().replace("[5, 1, 0, 0, 2]", "[6, 0, 0, 0, 2]"))
    np.testing.assert_array_equal(class_statistics(Labels()).image_pixels, whole.image_pixels)
    assert capsys.readouterr().out.startswith(f"{path} is damaged (it is not as it was written)")


def test_counts_need_no_folder_that_can_be_written(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "file"))
    assert class_statistics(Labels()).pixels.tolist() == [18, 6, 4, 0]
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'file' / 'data' / 'statistics' / 'labels.json'} cannot be written (")
    assert said.endswith("): the classes of labels are counted each time.\n")


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("inverse", {}, (1 / 18, 1 / 6, 1 / 4)),
        ("inverse_sqrt", {}, (18**-0.5, 6**-0.5, 4**-0.5)),
        # Labelled pixels of the images that hold the class: 28, 6 + 8 + 6 = 20, 8.
        ("median_frequency", {}, (28 / 18, 20 / 6, 8 / 4)),
        ("effective_number", {"beta": 0.9}, [(1 - 0.9) / (1 - 0.9**n) for n in (4, 3, 1)]),
        ("effective_number", {"beta": 0}, (1, 1, 1)),
        ("effective_number", {"beta": 1 - 1e-9}, (1 / 4, 1 / 3, 1)),
    ],
)
def test_weights_follow_their_formulas(method, options, expected):
    weights = class_weights(class_statistics(Labels()), method, **options)
    np.testing.assert_allclose(weights, [*(np.array(expected) / np.mean(expected)), 0], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(0, 10**6), min_size=5, max_size=5), min_size=1, max_size=8),
    method=st.sampled_from(WEIGHT_METHODS),
)
def test_weights_are_finite_and_mean_one_over_present_classes(counts, method):
    counts = np.array(counts)
    counts[0, 0] += 1  # some pixel has a class
    stats = ClassStatistics(tuple("abcde"), counts, np.zeros(len(counts), dtype=np.int64))
    weights = class_weights(stats, method)
    present = stats.pixels > 0
    assert weights.dtype == np.float32
    assert (weights[present] > 0).all()
    assert (weights[~present] == 0).all()
    assert weights.sum() / present.sum() == pytest.approx(1, rel=1e-4)  # so that all are finite
    if method in ("inverse", "inverse_sqrt"):
        order = np.argsort(stats.pixels[present])
        assert (np.diff(weights[present][order]) <= 1e-6).all()


def test_unknown_method_lists_the_known():
    for method, options, message in (
        ("inverted", {}, "'inverted'; known: inverse, inverse_sqrt, median_frequency"),
        ("effective_number", {"beta": 1}, "beta"),
    ):
        with pytest.raises(ValueError, match=message):
            class_weights(class_statistics(Labels()), method, **options)


def test_images_with_rare_classes_weigh_more():
    weights = sample_weights(Labels([*TARGETS, [[255, 255]]], key="with void"))
    # Shares of the five images: ground 4/5, a 3/5, b 1/5; the last image is void alone.
    expected = np.sqrt([5 / 3, 5 / 4, 5, 5 / 3, 5 / 4])
    np.testing.assert_allclose(weights, expected / expected.mean())
