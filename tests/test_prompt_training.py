"""Training by prompts: what is asked, what is learned, and that a run is repeatable."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_toys import Squares, Stop, assert_same, stop_at

from labhelpers.data.augment import Augmentation
from labhelpers.data.voc import ObjectDataset
from labhelpers.models import build
from labhelpers.models.mini_sam import MiniSAM
from labhelpers.prompting.task import (
    Prompts,
    PromptTask,
    SemanticPromptTask,
    _quarter,
    mean_iou,
    prompt_loss,
    sample_prompts,
)
from labhelpers.training import Recipe, finished_runs, train, train_or_load

WHOLE = Augmentation(crop=40, scale=(1.0, 1.0))


TASK = PromptTask(prompts=2, smallest=20, eval_objects=2)


def recipe(**changes) -> Recipe:
    return Recipe(**({"steps": 2, "batch_size": 2, "augmentation": WHOLE} | changes))


def objects(n: int = 4, split: str = "train") -> ObjectDataset:
    return ObjectDataset(Squares(n, split), by="class")


def mini_sam(num_classes: int = 1) -> MiniSAM:
    torch.manual_seed(0)
    return build("mini_sam", num_classes)


@pytest.fixture
def maps() -> np.ndarray:
    """Three maps: two objects and void, one object and a speck, none."""
    maps = np.zeros((3, 32, 32), np.uint8)
    maps[0, 2:12, 2:12], maps[0, 16:30, 16:30], maps[0, 12:14] = 1, 2, 255
    maps[1, 5:25, 5:25], maps[1, 0, 0] = 7, 8
    return maps


def asked(maps: np.ndarray, seed: int, **changes) -> Prompts:
    return sample_prompts(maps, replace(TASK, **changes), np.random.default_rng(seed))


def test_every_object_is_asked_for_and_specks_are_not(maps):
    prompts = asked(maps, 0)
    areas = prompts.masks.sum((1, 2)).tolist()
    assert sorted(areas[:2]) == [100, 196]
    assert areas[2:] == [400, 400, 0, 0]
    assert prompts.void.sum((1, 2)).tolist() == [64, 64, 0, 0, 0, 0]


def test_prompts_lie_where_they_say(maps):
    kinds = set()
    for seed in range(30):
        prompts = asked(maps, seed)
        for mask, void, clicks, box in zip(prompts.masks, prompts.void, prompts.clicks, prompts.boxes, strict=True):
            for (x, y), label in clicks:
                assert mask[int(y), int(x)] == bool(label)
                assert mask.any() or not void[int(y), int(x)]
            if mask.any():
                kinds.add("box" if not np.isnan(box).any() else "click" if len(clicks) == 1 else "points")
                assert len(clicks) in (0, 1, *range(3, 11))
                assert bool(clicks) == np.isnan(box).all()
            else:
                assert [label for _, label in clicks] == [0]
    assert kinds == {"box", "click", "points"}


def test_shares_of_kinds_hold(maps):
    prompts = [asked(maps[1:2], seed, kinds=(0.25, 0.75, 0.0), prompts=4) for seed in range(100)]
    boxes = np.mean([not np.isnan(box).any() for p in prompts for box in p.boxes])
    assert boxes == pytest.approx(0.25, abs=0.07)
    assert all(len(c) >= 3 for c in asked(maps[1:2], 0, kinds=(0.0, 0.0, 1.0)).clicks)


def test_a_next_click_goes_into_the_error(maps):
    prompts = asked(maps, 1)
    before = [len(clicks) for clicks in prompts.clicks]
    predictions = prompts.masks.copy()
    predictions[0] = False  # nothing found
    predictions[4] = True  # marked though nothing was there
    prompts.add_next_click(predictions, np.random.default_rng(0))
    added = [len(clicks) - n for clicks, n in zip(prompts.clicks, before, strict=True)]
    assert added == [1, 0, 0, 0, 1, 0]
    (x, y), label = prompts.clicks[0][-1]
    assert label == 1
    assert prompts.masks[0][int(y), int(x)]
    assert prompts.clicks[4][-1][1] == 0


def test_tensors_are_padded():
    one, three = [(np.array([1.0, 2.0]), 1)], [(np.array([3.0, 4.0]), 0)] * 3
    prompts = Prompts(np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool), [one, three], [np.full(4, np.nan)] * 2)
    points, labels, boxes = prompts.tensors(torch.device("cpu"))
    assert points.shape == (2, 3, 2)
    assert labels.tolist() == [[1, -1, -1], [0, 0, 0]]
    assert boxes.isnan().all()


def test_targets_of_stride_4_are_shares_of_covered_pixels():
    masks = np.zeros((1, 20, 12), bool)
    masks[0, :4, :2] = True
    quarter = _quarter(masks, torch.device("cpu"))
    assert quarter.shape == (1, 6, 4)  # the logits of a 20 x 12 image: 3 x 2 positions of stride 8, twice as many here
    assert quarter[0, 0, 0] == 0.5
    assert quarter.sum() == 0.5
    images = torch.zeros(1, 3, 20, 12)
    with torch.inference_mode():
        model = mini_sam().eval()
        assert model.decode(model.encode(images), full_size=False)[0].shape[2:] == quarter.shape[1:]


def test_a_run_is_a_function_of_its_seed_and_resumes(tmp_path):
    run = recipe(steps=4, eval_every=2, save_every=2)
    whole, parts = mini_sam(), mini_sam()
    history = train(whole, objects(), objects(2, "val"), run, tmp_path / "whole", task=TASK)
    assert {"box_iou", "click_iou", "mean_iou"} <= history.rows[-1].keys()

    with pytest.raises(Stop):
        train(parts, objects(), objects(2, "val"), run, tmp_path / "parts", task=TASK, callbacks=[stop_at(3)])
    again = mini_sam()
    train(again, objects(), objects(2, "val"), run, tmp_path / "parts", task=TASK)
    assert_same(whole, again)
    other = mini_sam()
    train(other, objects(), objects(2, "val"), replace(run, seed=1), tmp_path / "other", task=TASK)
    assert not torch.equal(other.img_proj[0][0].weight, whole.img_proj[0][0].weight)


def test_micro_batches_see_the_same_images(tmp_path):
    """Batch norm and the order of draws differ, so only that it runs and every image counts is asked."""
    rows = train(mini_sam(), objects(), objects(2, "val"), recipe(accumulate=2, steps=1), tmp_path, task=TASK).rows
    assert np.isfinite(rows[0]["loss"])


def test_the_task_is_part_of_the_key_and_of_what_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CHECKPOINTS", str(tmp_path))

    def half(logits, iou, target, weight):
        return 0.5 * prompt_loss(logits, iou, target, weight)

    sets, run = (objects(), objects(2, "val")), recipe(steps=1)
    tasks = [TASK, replace(TASK, loss=half), replace(TASK, prompts=1)]
    keys = {train_or_load("m", mini_sam(), *sets, run, task=task).key for task in tasks}
    assert len(keys) == 3
    assert train_or_load("m", mini_sam(), *sets, run, task=TASK).loaded
    assert [len(finished_runs("m", *sets, run, task=TASK, any_loss=any_loss)) for any_loss in (False, True)] == [1, 2]
    assert not finished_runs("m", *sets, run)


def test_predictions_are_shown_for_tracking(tmp_path):
    shown = []
    train(mini_sam(), objects(), objects(2, "val"), recipe(), tmp_path, task=TASK, callbacks=[shown.append])
    image, target, prediction = shown[-1].predictions()[0]
    assert image.shape == (3, 40, 40)
    assert target.shape == prediction.shape == (40, 40)
    assert set(target.unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    "changes",
    [{"prompts": 0}, {"kinds": (0.5, 0.6, 0.1)}, {"points": (5, 3)}, {"rounds": 0}, {"box_jitter": -1}, {"loss": 3}],
)
def test_bad_numbers_are_refused(changes):
    with pytest.raises(ValueError, match=rf"PromptTask\({next(iter(changes))}="):
        PromptTask(**changes)
    with pytest.raises(ValueError, match=r"SemanticPromptTask\(prompted=2\): must be a share"):
        SemanticPromptTask(prompted=2)


@pytest.mark.parametrize("changes", [{"score_train": 2}, {"best_metric": "val_loss"}, {"loss": "dice"}])
def test_recipes_that_prompts_cannot_follow_are_refused(tmp_path, changes):
    with pytest.raises(ValueError, match=rf"Recipe\({next(iter(changes))}=.* for prompts"):
        train(mini_sam(), objects(), objects(2, "val"), recipe(**changes), tmp_path, task=TASK)


def test_the_semantic_head_learns_classes_and_can_leave_the_encoder_alone(tmp_path):
    run, task = recipe(lr=1e-3, loss="ce+dice"), SemanticPromptTask(freeze_image_encoder=True)
    model, before = mini_sam(3), mini_sam(3)
    history = train(model, Squares(4), Squares(2, "val"), run, tmp_path, task=task)
    assert {"val_loss", "mean_iou"} <= history.rows[-1].keys()
    for name, value in before.state_dict().items():
        same = torch.equal(value, model.state_dict()[name])
        if name.startswith("image_encoder"):
            assert same, name
        elif name.startswith(("mask_head", "decoder", "iou_head", "img_proj")) and name.endswith("weight"):
            assert not same, name


def test_a_share_of_the_images_comes_with_points():
    targets = np.zeros((200, 16, 16), np.uint8)
    targets[:, 4:9, 4:9] = 3
    points, labels = SemanticPromptTask(prompted=0.3).draw_points(targets, np.random.default_rng(0))
    with_points = (labels >= 0).any(1)
    assert with_points.float().mean() == pytest.approx(0.3, abs=0.1)
    for row in with_points.nonzero()[:, 0].tolist():
        given = labels[row] >= 0
        assert 3 <= given.sum() <= 10
        x, y = points[row][given].long().unbind(1)
        assert ((targets[row][y, x] == 3) == (labels[row][given] == 1).numpy()).all()


def test_mean_iou_of_an_image_is_over_its_classes():
    target = torch.zeros(2, 4, 4, dtype=torch.uint8)
    target[0, :2] = 1
    target[1] = 255
    logits = torch.zeros(2, 3, 4, 4)
    logits[0, 1, :1] = 5
    logits[0, 0, 1:] = 5
    assert mean_iou(logits, target).tolist() == pytest.approx([(8 / 12 + 4 / 8) / 2, 0])
