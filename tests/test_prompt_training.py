"""Training by prompts: what is asked, what is learned, the loss against its formula, and that a run is repeatable."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train_mini_sam import quarter, refining_step_loss
from training_toys import Squares, Stop, assert_same, stop_at

from labhelpers.data.augment import Augmentation
from labhelpers.data.voc import ObjectDataset
from labhelpers.models import BaseMiniSAM, MiniSAM, build_encoder
from labhelpers.prompting.task import (
    Prompts,
    PromptTask,
    SemanticPromptTask,
    mean_iou,
    prompt_loss,
    sample_prompts,
    step_loss,
    true_iou,
)
from labhelpers.training import Recipe, finished_runs, train, train_or_load

TASK = PromptTask(prompts=2, smallest=20, eval_objects=2)
SETS = tuple(ObjectDataset(Squares(n, split), by="class") for n, split in ((4, "train"), (2, "val")))
MAPS = np.zeros((3, 32, 32), np.uint8)  # two objects and void, one object and a speck, none
MAPS[0, 2:12, 2:12], MAPS[0, 16:30, 16:30], MAPS[0, 12:14] = 1, 2, 255
MAPS[1, 5:25, 5:25], MAPS[1, 0, 0] = 7, 8
steps = pytest.mark.parametrize(
    ("kind", "step"), [(BaseMiniSAM, step_loss), (MiniSAM, refining_step_loss)], ids=["base", "full"]
)


def recipe(**changes) -> Recipe:
    whole = Augmentation(crop=40, scale=(1.0, 1.0))
    return Recipe(**({"steps": 2, "batch_size": 2, "augmentation": whole} | changes))


def mini_sam(num_classes: int = 1, kind: type[BaseMiniSAM] = BaseMiniSAM) -> BaseMiniSAM:
    torch.manual_seed(0)
    return kind(build_encoder("resnet18", width=8), num_classes)


def asked(seed: int, maps: np.ndarray = MAPS, **changes) -> Prompts:
    return sample_prompts(maps, replace(TASK, **changes), np.random.default_rng(seed))


# --- what is asked ---
def test_every_object_is_asked_for_and_specks_are_not():
    prompts = asked(0)
    areas = prompts.masks.sum((1, 2)).tolist()
    assert sorted(areas[:2]) == [100, 196]
    assert areas[2:] == [400, 400, 0, 0]
    assert prompts.void.sum((1, 2)).tolist() == [64, 64, 0, 0, 0, 0]


def test_prompts_lie_where_they_say_and_the_shares_of_kinds_hold():
    kinds = set()
    for seed in range(30):
        prompts = asked(seed)
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
    many = [asked(seed, MAPS[1:2], kinds=(0.25, 0.75, 0.0), prompts=4) for seed in range(100)]
    boxes = np.mean([not np.isnan(box).any() for p in many for box in p.boxes])
    assert boxes == pytest.approx(0.25, abs=0.07)
    assert all(len(clicks) >= 3 for clicks in asked(0, MAPS[1:2], kinds=(0.0, 0.0, 1.0)).clicks)


def test_a_next_click_goes_into_the_error():
    prompts = asked(1)
    before = [len(clicks) for clicks in prompts.clicks]
    predictions = prompts.masks.copy()
    predictions[0] = False  # nothing found
    predictions[4] = True  # marked though nothing was there
    prompts.add_next_click(predictions, np.random.default_rng(0))
    added = [len(clicks) - n for clicks, n in zip(prompts.clicks, before, strict=True)]
    assert added == [1, 0, 0, 0, 1, 0]
    (x, y), label = prompts.clicks[0][-1]
    assert (label, prompts.clicks[4][-1][1]) == (1, 0)
    assert prompts.masks[0][int(y), int(x)]


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
    share = quarter(masks, torch.device("cpu"))
    assert share.shape == (1, 6, 4)  # the logits of a 20 x 12 image: 3 x 2 positions of stride 8, twice as many here
    assert share[0, 0, 0] == 0.5
    assert share.sum() == 0.5
    images = torch.zeros(1, 3, 20, 12)
    with torch.inference_mode():
        model = mini_sam(kind=MiniSAM).eval()
        assert model.decode(model.encode(images), full_size=False)[0].shape[2:] == share.shape[1:]


# --- what a step asks ---
@steps
def test_each_round_but_the_last_adds_a_click_where_the_answer_is_wrong(kind, step):
    """The images are encoded once; every answer counts the same, so that the mean over rounds is learned."""
    model, images, encoded, clicks, losses = mini_sam(kind=kind).eval(), torch.randn(3, 3, 32, 32), [], [], []
    encode, decode = model.encode, model.decode
    model.encode = lambda images: encoded.append(len(images)) or encode(images)

    def watched(embedding, points, labels, *rest, **how):
        clicks.append(int((labels >= 0).sum()))
        return decode(embedding, points, labels, *rest, **how)

    model.decode = watched
    for rounds in (1, 2, 3):
        encoded.clear(), clicks.clear()
        prompts = asked(0)
        loss = step(model, images, prompts, rounds)
        assert encoded == [3]
        assert len(clicks) == rounds
        assert clicks == sorted(set(clicks))  # an untrained network is wrong somewhere each time
        assert sum(map(len, prompts.clicks)) == clicks[-1]
        loss.backward()
        losses.append(loss.item())
    assert losses == pytest.approx([losses[0]] * 3, rel=0.3)  # a mean, not a sum
    assert model.mask_embed.weight.grad.abs().sum() > 0 if kind is MiniSAM else True


def test_the_loss_of_one_answer_is_that_of_the_masks_and_their_ious():
    model, images, prompts = mini_sam().eval(), torch.randn(3, 3, 32, 32), asked(0)
    with torch.inference_mode():
        found = step_loss(model, images, prompts, 1)
        answer = model(images.repeat_interleave(2, 0), *prompts.tensors(torch.device("cpu")))
        expected = prompt_loss(*answer, torch.from_numpy(prompts.masks), torch.from_numpy(~prompts.void))
    torch.testing.assert_close(found, expected)


# --- what is learned ---
@steps
def test_a_run_is_a_function_of_its_seed_and_resumes(tmp_path, kind, step):
    run, task = recipe(steps=4, eval_every=2, save_every=2), replace(TASK, step_loss=step)
    whole, parts, again, other = (mini_sam(kind=kind) for _ in range(4))
    history = train(whole, *SETS, run, tmp_path / "whole", task=task)
    assert {"box_iou", "click_iou", "mean_iou"} <= history.rows[-1].keys()
    with pytest.raises(Stop):
        train(parts, *SETS, run, tmp_path / "parts", task=task, callbacks=[stop_at(3)])
    train(again, *SETS, run, tmp_path / "parts", task=task)
    assert_same(whole, again)
    train(other, *SETS, replace(run, seed=1), tmp_path / "other", task=task)
    assert not torch.equal(other.mix.weight, whole.mix.weight)


def test_micro_batches_and_predictions_for_tracking(tmp_path):
    """Batch norm and the order of draws differ, so only that it runs and every image counts is asked."""
    shown = []
    run = recipe(accumulate=2, steps=1)
    rows = train(mini_sam(), *SETS, run, tmp_path, task=TASK, callbacks=[shown.append]).rows
    assert np.isfinite(rows[0]["loss"])
    image, target, prediction = shown[-1].predictions()[0]
    assert (image.shape, target.shape, prediction.shape) == ((3, 40, 40), (40, 40), (40, 40))
    assert set(target.unique().tolist()) == {0, 1}


def test_the_task_is_part_of_the_key_and_of_what_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CHECKPOINTS", str(tmp_path))

    def half(model, images, prompts, rounds):
        return 0.5 * step_loss(model, images, prompts, rounds)

    run = recipe(steps=1)
    tasks = [TASK, replace(TASK, step_loss=half), replace(TASK, prompts=1)]
    keys = {train_or_load("m", mini_sam(), *SETS, run, task=task).key for task in tasks}
    assert len(keys) == 3
    assert train_or_load("m", mini_sam(), *SETS, run, task=TASK).loaded
    assert [len(finished_runs("m", *SETS, run, task=TASK, any_loss=any_loss)) for any_loss in (False, True)] == [1, 2]
    assert not finished_runs("m", *SETS, run)


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


# --- the loss of candidate masks ---


def candidate(logits, target, weight):
    """Cross-entropy + Dice and IoU of one mask, pixel by pixel."""
    ce = total = overlap = areas = both = either = 0.0
    for z, t, w in zip(logits.flatten().tolist(), target.flatten().tolist(), weight.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        ce -= w * (t * math.log(p) + (1 - t) * math.log(1 - p))
        total += w
        overlap += w * p * t
        areas += w * (p + t)
        both += w * (z > 0 and t > 0.5)
        either += w * (z > 0 or t > 0.5)
    return ce / max(total, 1) + 1 - (2 * overlap + 1) / (areas + 1), both / max(either, 1)


@st.composite
def batches(draw):
    b, m, h, w = (draw(st.integers(1, high)) for high in (3, 4, 5, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    logits = draw(st.sampled_from([0.1, 1, 4])) * torch.randn(b, m, h, w, generator=generator)
    target, weight, iou = (torch.rand(shape, generator=generator) for shape in ((b, h, w), (b, h, w), (b, m)))
    kind = draw(st.sampled_from(["soft", "binary", "empty"]))
    target = target if kind == "soft" else (target > 0.5).float() * (kind == "binary")
    counts = draw(st.sampled_from([torch.ones_like(weight), 1 + 3 * weight]))
    weight = torch.where(weight > draw(st.sampled_from([0.0, 0.4, 1.0])), counts, 0)  # nothing, some, everything void
    return logits, iou, target, weight


@given(batches())
@settings(max_examples=60, deadline=None)
def test_value_is_that_of_the_formula(batch):
    logits, predicted_iou, target, weight = batch
    masks, ious = [], []
    for i, image in enumerate(logits):
        losses, true = zip(*(candidate(mask, target[i], weight[i]) for mask in image), strict=True)
        masks.append(min(losses) + 0.1 * sum(losses) / len(losses))
        ious.append(true)
    ious = torch.tensor(ious)
    torch.testing.assert_close(true_iou(logits, target, weight), ious)
    expected = sum(masks) / len(masks) + 0.1 * (predicted_iou - ious).square().mean().item()
    assert prompt_loss(*batch).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert not true_iou(logits.requires_grad_(), target, weight).requires_grad


@given(batches())
@settings(max_examples=20, deadline=None)
def test_void_pixels_change_nothing(batch):
    logits, iou, target, weight = batch
    void = weight == 0
    other = torch.where(void[:, None], -3 * logits + 1, logits)
    expected = prompt_loss(logits, iou, target, weight)
    torch.testing.assert_close(prompt_loss(other, iou, torch.where(void, 1 - target, target), weight), expected)


def scene():
    """Logits, predicted IoU, target, weight; the first image's second candidate and the second's third fit."""
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(2, 6, 8)
    target[:, 1:4, 2:6] = 1
    logits = torch.randn(2, 3, 6, 8, generator=generator)
    logits[0, 1], logits[1, 2] = 4 * target[0] - 2, 4 * target[1] - 2
    iou = torch.rand(2, 3, generator=generator)
    return logits.requires_grad_(), iou.requires_grad_(), target, torch.ones_like(target)


def test_the_best_candidate_of_each_image_learns_most():
    logits, iou, target, weight = scene()
    prompt_loss(logits, iou, target, weight).backward()
    # d(min + 0.1 mean) is (1 + 0.1 / 3) dl for the best and (0.1 / 3) dl for the others
    alone = logits.detach().clone().requires_grad_()
    sum(prompt_loss(alone[:, [j]], iou[:, [j]], target, weight) for j in range(3)).backward()
    share = logits.grad / alone.grad * 1.1  # alone, a candidate's loss counts 1 + 0.1
    best = torch.tensor([[False, True, False], [False, False, True]])[:, :, None, None]
    torch.testing.assert_close(share, (best + 0.1 / 3).expand_as(share), rtol=1e-3, atol=1e-3)


def test_predicted_iou_learns_the_true_one_and_the_masks_do_not_learn_from_it():
    logits, iou, target, weight = scene()
    truth = true_iou(logits, target, weight)
    assert truth[0, 1] == truth[1, 2] == 1
    at_logits, at_iou = torch.autograd.grad(prompt_loss(logits, iou, target, weight), (logits, iou))
    torch.testing.assert_close(at_iou, 0.2 * (iou.detach() - truth) / iou.numel())
    again = torch.autograd.grad(prompt_loss(logits, 1 - iou.detach(), target, weight), logits)[0]
    assert torch.equal(at_logits, again)


def test_half_precision_and_bool_targets_give_the_same():
    logits, iou, target, weight = scene()
    half = (logits * 5e3).half()  # a sum over the pixels in half precision would be infinite
    found = prompt_loss(half, iou.half(), target.bool(), weight.bool())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, prompt_loss(half.float(), iou.half().float(), target, weight))
    assert found.isfinite()


# --- mistakes ---
@pytest.mark.parametrize(
    ("position", "wrong", "message"),
    [
        (0, (2, 6, 8), r"logits must have shape \(B, M, h, w\), got \(2, 6, 8\)"),
        (1, (2, 1), r"predicted_iou must have shape \(2, 3\), got \(2, 1\)"),
        (2, (2, 3, 6, 8), r"target must have shape \(2, 6, 8\).*got \(2, 3, 6, 8\)"),
        (3, (2, 12, 16), r"weight must have shape \(2, 6, 8\).*got \(2, 12, 16\); resize it"),
    ],
)
def test_shapes_that_do_not_fit_are_named(position, wrong, message):
    given = [*scene()]
    given[position] = torch.zeros(wrong)
    with pytest.raises(ValueError, match=message):
        prompt_loss(*given)


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (PromptTask, "prompts", 0),
        (PromptTask, "kinds", (0.5, 0.6, 0.1)),
        (PromptTask, "points", (5, 3)),
        (PromptTask, "rounds", 0),
        (PromptTask, "box_jitter", -1),
        (PromptTask, "step_loss", 3),
        (SemanticPromptTask, "prompted", 2),
    ],
)
def test_bad_numbers_are_refused(make, name, value):
    with pytest.raises(ValueError, match=rf"{make.__name__}\({name}="):
        make(**{name: value})


@pytest.mark.parametrize("changes", [{"score_train": 2}, {"best_metric": "val_loss"}, {"loss": "dice"}])
def test_recipes_that_prompts_cannot_follow_are_refused(tmp_path, changes):
    with pytest.raises(ValueError, match=rf"Recipe\({next(iter(changes))}=.* for prompts"):
        train(mini_sam(), *SETS, recipe(**changes), tmp_path, task=TASK)
