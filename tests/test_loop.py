"""The training loop: what it computes, what it leaves behind, and how it ends when something is wrong."""

import math
import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from training_toys import SETS, Squares, Stop, TinyNet, assert_same, own_ce, stop_at, tiny_net, tiny_recipe, weights

from labhelpers.data.augment import to_input
from labhelpers.data.loader import subset
from labhelpers.evaluation import evaluate
from labhelpers.training import History, Recipe, Task, build_loss, checkpoints, overfit_one_batch, train


def train_tiny(folder, model=None, **changes) -> History:
    return train(model or tiny_net(), *SETS, tiny_recipe(**changes), folder)


# --- what a run is -------------------------------------------------------------------------------------------------


def test_it_learns_and_logs(tmp_path):
    events = []
    history = train(tiny_net(), *SETS, tiny_recipe(steps=60, eval_every=20), tmp_path, callbacks=[events.append])
    steps, loss = history.column("loss")
    assert steps.tolist() == list(range(1, 61))
    assert loss[-10:].mean() < 0.7 * loss[:10].mean()
    assert [row["step"] for row in history.evaluations] == [20, 40, 60]
    assert history.evaluations[-1]["mean_iou"] > 0.8
    assert set(history.evaluations[0]) >= {"iou_background", "iou_square", "iou_dog, hot", "pixel_accuracy", "f1"}
    assert history.rows == History.read(tmp_path / "log.csv").rows

    assert [event.step for event in events] == list(range(1, 61))
    assert [event.step for event in events if event.evaluation] == [20, 40, 60]
    image, target, prediction = events[-1].predictions()[0]
    assert image.shape == (3, 40, 40)
    assert target.shape == prediction.shape == (40, 40)
    with pytest.raises(ValueError, match="no column 'miou'.*known: step, loss, lr"):
        history.column("miou")


@pytest.mark.parametrize(("metric", "best"), [("pixel_accuracy", "argmax"), ("val_loss", "argmin")])
def test_the_best_checkpoint_is_that_of_the_best_score(tmp_path, metric, best):
    steps, scores = train_tiny(tmp_path, steps=12, lr=0.1, best_metric=metric).column(metric)
    assert len(set(scores)) > 1
    step = int(steps[getattr(scores, best)()])
    assert checkpoints.read(tmp_path, 12, parts=()).info["best_step"] == step
    assert (tmp_path / f"step-{step:08d}.model.safetensors").exists()


def test_neither_workers_nor_scored_training_images_change_a_weight_and_seeds_do(tmp_path):
    models = []
    for changes in ({}, {"workers": 2, "save_every": 5}, {"score_train": 5}, {"seed": 1}):
        models.append(tiny_net())
        train_tiny(tmp_path / str(len(models)), models[-1], **changes)
    assert_same(models[0], models[1])
    assert_same(models[0], models[2])
    assert not torch.equal(models[0].encoder[0].weight, models[3].encoder[0].weight)


def test_the_callers_random_numbers_go_on_undisturbed(tmp_path):
    model = tiny_net()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_tiny(tmp_path, model, steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_clipping_bounds_the_step(tmp_path):
    model = tiny_net()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    sgd = {"optimizer": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    train_tiny(tmp_path, model, steps=1, clip_norm=1e-3, eval_every=0, **sgd)
    moved = (nn.utils.parameters_to_vector(model.parameters()) - before).norm().item()
    assert moved == pytest.approx(1e-3, rel=0.02)


def test_a_frozen_encoder_keeps_weights_and_statistics_until_it_is_freed(tmp_path):
    model, seen = tiny_net(), {}
    before = weights(model.encoder)

    def look(event):
        seen[event.step] = weights(event.model.encoder), weights(event.model.head)

    train(model, *SETS, tiny_recipe(freeze_encoder_steps=4), tmp_path, callbacks=[look])
    assert_same(before, seen[4][0])
    assert not torch.equal(seen[1][1]["1.weight"], seen[4][1]["1.weight"])
    assert not torch.equal(before["0.weight"], seen[5][0]["0.weight"])
    assert seen[6][0]["1.num_batches_tracked"] == 2
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_freezing_needs_an_encoder(tmp_path):
    with pytest.raises(ValueError, match="freeze_encoder_steps needs model.encoder, and Conv2d has none"):
        train_tiny(tmp_path, nn.Conv2d(3, 3, 1), freeze_encoder_steps=1)


def test_plateau_lowers_the_rate_of_a_run(tmp_path):
    model = tiny_net(norm=False)  # batch-norm statistics would move the score
    history = train_tiny(tmp_path, model, steps=8, lr=1e-9, schedule="plateau", eval_every=1, plateau_patience=1)
    lr = history.column("lr")[1]
    assert lr[0] == 1e-9
    assert lr[-1] < 0.3e-9


def test_class_weights_come_from_the_data(tmp_path):
    changes = {"steps": 1, "loss": "weighted_ce", "oversample_rare": True}
    methods = ("inverse", "inverse_sqrt")
    a, b = (train_tiny(tmp_path / method, class_weights=method, **changes).column("loss")[1][0] for method in methods)
    assert a != b


def test_bf16_is_near_float32(tmp_path):
    a, b = (train_tiny(tmp_path / p, precision=p).column("loss")[1] for p in ("no", "bf16"))
    assert a == pytest.approx(b, rel=0.02)
    assert (a != b).any()


# --- another task, another recipe ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CountsClasses(Task):
    """Learns as the other, and is judged by one number of its own."""

    factor: float = 2.0

    def columns(self, run):
        return ["mean_iou", "classes"]

    def score(self, run):
        evaluation, row = super().score(run)
        return evaluation, {"mean_iou": row["mean_iou"], "classes": self.factor * run.val_set.num_classes}


def test_a_task_decides_what_is_scored_and_is_part_of_what_is_continued(tmp_path):
    history = train(tiny_net(), *SETS, tiny_recipe(), tmp_path, task=CountsClasses())
    assert history.rows[-1].keys() == {"step", "loss", "lr", "mean_iou", "classes"}
    assert history.column("classes")[1].tolist() == [6, 6]
    with pytest.raises(ValueError, match=r"another recipe \(factor: 2.0 there, 3.0 now\)"):
        train(tiny_net(), *SETS, tiny_recipe(), tmp_path, task=CountsClasses(3.0))
    with pytest.raises(ValueError, match=r"another recipe \(task: 'CountsClasses' there, 'Task' now\)"):
        train(tiny_net(), *SETS, tiny_recipe(), tmp_path)


@dataclass(frozen=True)
class NamedRecipe(Recipe):
    note: str = "mine"


def test_a_recipe_may_have_more_fields(tmp_path):
    recipe = NamedRecipe(**vars(tiny_recipe(steps=1)))
    assert train(tiny_net(), *SETS, recipe, tmp_path).rows[-1]["step"] == 1
    assert recipe.identity()["note"] == "mine"
    with pytest.raises(ValueError, match=r"NamedRecipe\(steps=0\): must be a whole number >= 1"):
        NamedRecipe(steps=0)


# --- what is watched, and runs that end early by it ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ce", "bce", "weighted_ce", "focal"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_loss_of_a_set_is_that_of_all_its_pixels_at_once(name, batch_size):
    loss = build_loss(name, [1.0, 2.0, 0.5] if name == "weighted_ce" else None)
    model = tiny_net().eval()
    images, targets = (torch.stack(part) for part in zip(*SETS[1].items, strict=True))
    with torch.no_grad():
        expected = loss(model(to_input(images)), targets).item()
    assert evaluate(model, SETS[1], loss=loss, batch_size=batch_size).loss == pytest.approx(expected, rel=1e-5)
    assert evaluate(model, SETS[1]).loss is None


def test_sums_of_losses_and_own_losses_have_a_loss_too():
    model = tiny_net().eval()
    losses = ("ce", "dice", "ce+0.5*dice", own_ce)
    ce, dice, both, own = (evaluate(model, SETS[1], loss=build_loss(loss)).loss for loss in losses)
    assert both == pytest.approx(ce + 0.5 * dice)
    assert own == pytest.approx(ce, rel=1e-5)


@pytest.mark.parametrize("score_train", [0, 5, 500])  # more than there are means all
def test_each_evaluation_logs_losses_and_scores_of_both_sets(tmp_path, score_train):
    model, loss = tiny_net(), build_loss("ce")
    last = train_tiny(tmp_path, model, score_train=score_train).evaluations[-1]
    assert last["val_loss"] == pytest.approx(evaluate(model, SETS[1], loss=loss).loss)
    if score_train:
        seen = evaluate(model, subset(SETS[0], min(score_train, 12)), loss=loss)
        assert last["train_loss"] == pytest.approx(seen.loss)
        assert last["train_mean_iou"] == pytest.approx(seen.scores.mean_iou)
    else:
        assert "train_loss" not in last


# A rate of almost nothing: no evaluation after the first is better, so that the run ends `patience` evaluations later.
STANDSTILL = {"steps": 30, "lr": 1e-12, "eval_every": 3, "patience": 2, "weight_decay": 0.0}


@pytest.mark.parametrize(("patience", "last"), [(2, 3 + 2 * 3), (0, 30), (4, 3 + 4 * 3)])
def test_a_run_ends_when_nothing_gets_better(tmp_path, patience, last):
    changes = STANDSTILL | {"patience": patience}
    assert train_tiny(tmp_path, tiny_net(norm=False, dropout=0.0), **changes).rows[-1]["step"] == last


def test_a_run_that_gets_better_goes_on(tmp_path):
    changes = {"steps": 12, "lr": 1e-3, "eval_every": 3, "patience": 1, "best_metric": "val_loss"}
    history = train_tiny(tmp_path, tiny_net(dropout=0.0), **changes)
    losses = history.column("val_loss")[1]
    assert (losses[1:] < losses[:-1]).all()
    assert history.rows[-1]["step"] == 12


def test_patience_survives_an_interruption(tmp_path):
    """The evaluations without a better score are counted across it."""
    recipe = tiny_recipe(**STANDSTILL)
    with pytest.raises(Stop):
        train(tiny_net(norm=False, dropout=0.0), *SETS, recipe, tmp_path, callbacks=[stop_at(7)])
    history = train(tiny_net(norm=False, dropout=0.0), *SETS, recipe, tmp_path)
    assert history.rows[-1]["step"] == 9
    assert History.read(tmp_path / "log.csv").rows == history.rows


# --- micro-batches and memory --------------------------------------------------------------------------------------


class Unequal(Squares):
    """Void is spread unevenly over the images, so that means of means would differ from the mean."""

    def __getitem__(self, index):
        image, target = self.items[index]
        target = target.clone()
        target[: 3 * index] = 255
        return image, target


@pytest.mark.parametrize("loss", ["ce", "weighted_ce", "focal"])
def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path, loss):
    changes = {"loss": loss, "class_weights": (0.2, 1.0, 3.0) if "weighted" in loss else None}
    results = []
    for accumulate in (1, 2, 3, 4):
        results.append(tiny_net(norm=False, dropout=0.0))
        recipe = tiny_recipe(**changes, accumulate=accumulate, optimizer="sgd", lr=0.3, eval_every=0)
        train(results[-1], Unequal(), SETS[1], recipe, tmp_path / str(accumulate))
        assert_same(results[0], results[-1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_own_loss_trains_as_the_library_s(tmp_path, accumulate):
    models, losses = [], []
    for name, loss in {"theirs": "ce", "own": own_ce}.items():
        models.append(tiny_net(norm=False))  # AdamW would blow up the rounding in biases before batch norm
        recipe = tiny_recipe(loss=loss, accumulate=accumulate)
        losses.append(train(models[-1], Unequal(), SETS[1], recipe, tmp_path / name).column("loss")[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_same(*models, rtol=1e-5, atol=1e-6)


class Greedy(TinyNet):
    """Memory for `limit` images at once."""

    limit = 2

    def forward(self, x):
        if self.training and len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return super().forward(x)


def greedy(limit, **options):
    torch.manual_seed(0)
    model = Greedy(**options)
    model.limit = limit
    return model


def test_out_of_memory_halves_the_batch_and_keeps_the_effective_one(tmp_path, capsys):
    model, plain = greedy(1, norm=False, dropout=0.0), tiny_net(norm=False, dropout=0.0)
    train_tiny(tmp_path / "greedy", model)
    said = capsys.readouterr().out
    assert re.search(r"step 1: 4 images at once are too many, continuing with 2 .*batch norm sees 2 images", said)
    assert "continuing with 1" in said
    train_tiny(tmp_path / "plain", plain)
    assert_same(plain, model, rtol=1e-4, atol=1e-6)
    assert checkpoints.read(tmp_path / "greedy", 6, parts=()).info["micro_batch"] == 1


def test_out_of_memory_at_one_image_says_what_to_lower(tmp_path):
    with pytest.raises(RuntimeError, match=r"out of memory at step 1 with 1 image.*Lower the crop \(32\).*width"):
        train_tiny(tmp_path, greedy(0))


# --- stopping and continuing ---------------------------------------------------------------------------------------


class TurnsBad(TinyNet):
    """Its output is not finite from the `bad_call`-th training forward on."""

    bad_call = math.inf
    calls = 0

    def forward(self, x):
        self.calls += self.training
        return super().forward(x) * (torch.nan if self.calls >= self.bad_call else 1.0)


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    torch.manual_seed(0)
    model = TurnsBad()
    model.bad_call = 6
    with pytest.raises(RuntimeError, match=r"the loss is nan at step 6 .*checkpoint of step 4 in .*kept.*lower lr"):
        train_tiny(tmp_path, model)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 5

    model.bad_call, whole = math.inf, tiny_net()
    train_tiny(tmp_path, model)
    train_tiny(tmp_path / "whole", whole)
    assert_same(whole, model)


def test_inf_loss_before_any_checkpoint(tmp_path):
    model = tiny_net()
    nn.init.constant_(model.head[1].bias, torch.inf)
    with pytest.raises(RuntimeError, match=r"loss is (nan|inf) at step 1.*no checkpoint yet"):
        train_tiny(tmp_path, model)


def test_a_shortened_log_is_noticed(tmp_path):
    train_tiny(tmp_path, steps=2)
    (tmp_path / "log.csv").unlink()
    with pytest.raises(RuntimeError, match=r"log.csv holds 0 rows.*step 2"):
        train_tiny(tmp_path, steps=2)


def test_a_loss_that_keeps_a_list_continues(tmp_path):
    def build():
        seen = []

        def my_loss(logits, target):
            seen.append(len(logits))
            return own_ce(logits, target)

        return tiny_recipe(loss=my_loss)

    with pytest.raises(Stop):
        train(tiny_net(), *SETS, build(), tmp_path / "a", callbacks=[stop_at(5)])
    model, whole = tiny_net(), tiny_net()
    train(model, *SETS, build(), tmp_path / "a")  # as in a new kernel
    train(whole, *SETS, build(), tmp_path / "b")
    assert_same(whole, model)


def test_overfit_one_batch():
    images, targets = (torch.stack(t) for t in zip(*(SETS[0][i] for i in range(4)), strict=True))
    losses = overfit_one_batch(tiny_net(dropout=0.0), images, targets, steps=60, lr=1e-2)
    assert len(losses) == 60
    assert losses[-1] < 0.2 * losses[0]
    named, own = (overfit_one_batch(tiny_net(), images, targets, steps=3, loss=x) for x in ("ce", own_ce))
    assert named[0] == pytest.approx(own[0])
    with pytest.raises(RuntimeError, match="at step 1"):
        overfit_one_batch(tiny_net(), images, targets, loss=lambda x, y: x.sum() * torch.nan)
