"""Mean IoU with and without prompts: the prompts belong to their image, and the protocol says where they come from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from prompting_toys import MemoryDataset, rectangles
from torch import nn

from labhelpers.data import denormalize
from labhelpers.evaluation import evaluate
from labhelpers.prompting import evaluate_semantic


class Plain(nn.Module):
    """Class 1 wherever there is any object, class 0 elsewhere, unless the points say more: see `forward`."""

    def __init__(self, num_classes: int = 4):
        super().__init__()
        self.num_classes = num_classes
        self.asked = []

    def forward(self, images, points=None, point_labels=None):
        """Each foreground click tells the class below it for all pixels of that colour."""
        red = denormalize(images)[:, 0].int()  # label times ten
        labels = (red[0] > 0).long()
        self.asked.append((red[0], points, point_labels))
        if points is not None:
            for (x, y), label in zip(points[0].long().tolist(), point_labels[0].tolist(), strict=True):
                if label:
                    labels[red[0] == red[0, y, x]] = int(red[0, y, x]) // 10 % self.num_classes
        return nn.functional.one_hot(labels, self.num_classes).permute(2, 0, 1)[None].float(), torch.zeros(1, 1)


@pytest.fixture
def toys() -> MemoryDataset:
    """Two sizes, three classes, one image without objects."""
    return MemoryDataset(
        [
            rectangles(48, 64, (2, 3, 30, 40, 2), (35, 10, 60, 44, 2)),
            rectangles(64, 40),
            rectangles(40, 64, (10, 5, 45, 30, 3), void=1),
            rectangles(48, 64, (2, 3, 30, 40, 1), (35, 10, 60, 44, 1)),
        ]
    )


def test_without_prompts_it_is_the_evaluation_of_every_network(toys):
    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Plain()

        def forward(self, images):
            return self.model(images)[0]

    ours, plain = evaluate_semantic(Plain(), toys), evaluate(Logits(), toys)
    assert ours.protocol == plain.protocol
    assert np.array_equal(ours.matrices, plain.matrices)
    assert ours.band_mean_iou == plain.band_mean_iou


def test_points_from_the_truth_belong_to_their_image_and_leak_the_answer(toys):
    model = Plain()
    told = evaluate_semantic(model, toys, "truth", points=5)
    assert told.scores.mean_iou == 1 > evaluate_semantic(Plain(), toys).scores.mean_iou
    assert len(model.asked) == 4
    for index, (red, points, labels) in enumerate(model.asked):
        assert points.shape == (1, 5, 2)
        assert labels.shape == (1, 5)
        assert (points.dtype, labels.dtype) == (torch.float32, torch.int64)
        x, y = points[0].long().T
        on_object = (red[y, x] > 0) & (red[y, x] != 200)
        assert torch.equal(labels[0][labels[0] == 1].bool(), on_object[labels[0] == 1])
        assert not on_object[labels[0] == 0].any()
        assert labels.sum() == (0 if index == 1 else 3)


def test_random_points_know_nothing(toys):
    model = Plain()
    evaluate_semantic(model, toys, "random", points=6)
    assert [labels.sum().item() for _, _, labels in model.asked] == [3, 3, 3, 3]
    on_object = [red[points[0, :, 1].long(), points[0, :, 0].long()] > 0 for red, points, _ in model.asked]
    labels = torch.cat([labels[0] for _, _, labels in model.asked]).bool()
    assert not torch.equal(torch.cat(on_object), labels)


@pytest.mark.parametrize("source", ["truth", "random"])
def test_points_follow_from_the_seed(toys, source):
    def drawn(seed):
        model = Plain()
        evaluate_semantic(model, toys, source, seed=seed)
        return torch.cat([points for _, points, _ in model.asked])

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert len(drawn(0).unique(dim=0)) == 4  # every image has its own


def test_the_protocol_names_the_source(toys):
    none, truth, random = (evaluate_semantic(Plain(), toys, source).protocol for source in ("none", "truth", "random"))
    assert "prompted with 5 points drawn from the truth (seed 0)" in str(truth)
    assert "at random places with random labels" in str(random)
    assert "prompt" not in str(none)
    assert len({none.key, truth.key, random.key}) == 3
    assert [difference.split(" ")[0] for difference in truth.differences(none)] == ["prompts"]
    assert replace(truth, prompts=none.prompts) == none


def test_bad_arguments(toys):
    with pytest.raises(
        ValueError, match="prompts must be one of truth, none, random, with points >= 1; got 'boxes', 5"
    ):
        evaluate_semantic(Plain(), toys, "boxes")
    with pytest.raises(ValueError, match="got 'truth', 0"):
        evaluate_semantic(Plain(), toys, "truth", points=0)
