"""The training loop: what it computes, what it leaves behind, and how it ends when something is wrong."""

import json
import math
import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from training_toys import SETS, Squares, Stop, TinyNet, assert_same, own_ce, stop_at, tiny_net, tiny_recipe, weights

from labhelpers.data.augment import Augmentation, to_input
from labhelpers.data.loader import subset
from labhelpers.evaluation import evaluate
from labhelpers.files import read_json
from labhelpers.models import build
from labhelpers.training import History, Recipe, Task, build_loss, checkpoints, train


def train_tiny(folder, model=None, recipe=None, callbacks=(), **changes) -> History:
    return train(model or tiny_net(), *SETS, recipe or tiny_recipe(**changes), folder, callbacks=callbacks)


# --- what a run is ---


def test_it_learns_and_logs(tmp_path):
    events = []
    history = train_tiny(tmp_path, callbacks=[events.append], steps=60, eval_every=20)
    steps, loss = history.column("loss")
    assert steps.tolist() == [event.step for event in events] == list(range(1, 61))
    assert loss[-10:].mean() < 0.7 * loss[:10].mean()
    assert [row["step"] for row in history.evaluations] == [20, 40, 60]
    assert [event.step for event in events if event.evaluation] == [20, 40, 60]
    assert history.evaluations[-1]["mean_iou"] > 0.8
    assert set(history.evaluations[0]) >= {"iou_background", "iou_square", "iou_dog, hot", "pixel_accuracy", "f1"}
    assert history.rows == History.read(tmp_path / "log.csv").rows
    assert [part.shape for part in events[-1].predictions()[0]] == [(3, 40, 40), (40, 40), (40, 40)]
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
    models = [tiny_net() for _ in range(4)]
    for model, changes in zip(
        models, ({}, {"workers": 2, "save_every": 5}, {"score_train": 5}, {"seed": 1}), strict=True
    ):
        train_tiny(tmp_path / str(id(model)), model, **changes)
    assert_same(models[0], models[1])
    assert_same(models[0], models[2])
    assert not torch.equal(models[0].encoder[0].weight, models[3].encoder[0].weight)


def test_the_callers_random_numbers_go_on_undisturbed(tmp_path):
    model, before = tiny_net(), torch.get_rng_state()
    train_tiny(tmp_path, model, steps=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_clipping_bounds_the_step(tmp_path):
    model = tiny_net()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    sgd = {"optimizer": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    train_tiny(tmp_path, model, steps=1, clip_norm=1e-3, eval_every=0, **sgd)
    moved = nn.utils.parameters_to_vector(model.parameters()) - before
    assert moved.norm().item() == pytest.approx(1e-3, rel=0.02)


def test_a_frozen_encoder_keeps_weights_and_statistics_until_it_is_freed(tmp_path):
    model, encoder, head = tiny_net(), {}, {}
    before = weights(model.encoder)

    def look(event):
        encoder[event.step], head[event.step] = weights(event.model.encoder), weights(event.model.head)

    train_tiny(tmp_path, model, callbacks=[look], freeze_encoder_steps=4)
    assert_same(before, encoder[4])
    assert not torch.equal(head[1]["1.weight"], head[4]["1.weight"])
    assert not torch.equal(before["0.weight"], encoder[5]["0.weight"])
    assert encoder[6]["1.num_batches_tracked"] == 2
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="freeze_encoder_steps needs model.encoder, and Conv2d has none"):
        train_tiny(tmp_path / "conv", nn.Conv2d(3, 3, 1), freeze_encoder_steps=1)


def test_plateau_lowers_the_rate_of_a_run(tmp_path):
    model = tiny_net(norm=False)  # batch-norm statistics would move the score
    history = train_tiny(tmp_path, model, steps=8, lr=1e-9, schedule="plateau", eval_every=1, plateau_patience=1)
    _, lr = history.column("lr")
    assert lr[0] == 1e-9 > 0.3e-9 > lr[-1]


def test_class_weights_come_from_the_data(tmp_path):
    changes = {"steps": 1, "loss": "weighted_ce", "oversample_rare": True}
    losses = {train_tiny(tmp_path / m, class_weights=m, **changes).rows[0]["loss"] for m in ("inverse", "inverse_sqrt")}
    assert len(losses) == 2


def test_bf16_is_near_float32(tmp_path):
    a, b = (train_tiny(tmp_path / p, precision=p).column("loss")[1] for p in ("no", "bf16"))
    assert a == pytest.approx(b, rel=0.02)
    assert (a != b).any()


# --- another task, another recipe ---


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
    assert train_tiny(tmp_path, recipe=recipe).rows[-1]["step"] == 1
    assert recipe.identity()["note"] == "mine"
    with pytest.raises(ValueError, match=r"NamedRecipe\(steps=0\): must be a whole number >= 1"):
        NamedRecipe(steps=0)


# --- what is watched, and runs that end early by it ---


@pytest.mark.parametrize("loss", ["ce", "bce", "weighted_ce", "focal", own_ce])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_loss_of_a_set_is_that_of_all_its_pixels_at_once(loss, batch_size):
    loss = build_loss(loss, [1.0, 2.0, 0.5] if loss == "weighted_ce" else None)
    model = tiny_net().eval()
    images, targets = (torch.stack(part) for part in zip(*SETS[1].items, strict=True))
    with torch.no_grad():
        expected = loss(model(to_input(images)), targets).item()
    assert evaluate(model, SETS[1], loss=loss, batch_size=batch_size).loss == pytest.approx(expected, rel=1e-5)
    assert evaluate(model, SETS[1]).loss is None


def test_the_loss_of_a_set_adds_up_over_terms():
    model = tiny_net().eval()
    ce, dice, both = (evaluate(model, SETS[1], loss=build_loss(x)).loss for x in ("ce", "dice", "ce+0.5*dice"))
    assert both == pytest.approx(ce + 0.5 * dice)


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
    assert train_tiny(tmp_path, still_net(), **STANDSTILL | {"patience": patience}).rows[-1]["step"] == last


def still_net() -> nn.Module:
    return tiny_net(norm=False, dropout=0.0)


def test_patience_survives_an_interruption(tmp_path):
    """The evaluations without a better score are counted across it."""
    with pytest.raises(Stop):
        train_tiny(tmp_path, still_net(), callbacks=[stop_at(7)], **STANDSTILL)
    history = train_tiny(tmp_path, still_net(), **STANDSTILL)
    assert history.rows[-1]["step"] == 9
    assert History.read(tmp_path / "log.csv").rows == history.rows


@dataclass(frozen=True)
class Told(Task):
    """Is scored by what it was told, evaluation by evaluation; the last goes on."""

    told: tuple[float, ...] = ()

    def columns(self, run):
        return ["mean_iou"]

    def score(self, run):
        number = min(run.step // run.recipe.eval_every, len(self.told)) - 1
        return None, {"mean_iou": self.told[number]}


@pytest.mark.parametrize(
    ("told", "best", "last"),
    [
        ((math.nan, 0.5, 0.4, 0.6, 0.1), 12, 12 + 2 * 3),
        ((math.nan, 0.5, 0.4, 0.3), 6, 6 + 2 * 3),
        ((math.nan,), 3, 3 + 2 * 3),  # there is a checkpoint, but none is better than another
        ((0.5, math.nan, 0.6, math.nan), 9, 9 + 2 * 3),
    ],
)
def test_an_undefined_score_is_never_better_than_another(tmp_path, told, best, last):
    recipe = tiny_recipe(**STANDSTILL)
    history = train(still_net(), *SETS, recipe, tmp_path, task=Told(told))
    assert history.rows[-1]["step"] == last
    assert checkpoints.read(tmp_path, last, parts=()).info["best_step"] == best


# --- what does not fit ---


def giving(change, num_classes=3) -> nn.Module:
    model = tiny_net(num_classes=num_classes)
    model.register_forward_hook(lambda module, given, output: change(output))
    return model


def mislabelled() -> Squares:
    data = Squares()
    for _, target in data.items:
        target[0] = 7
    return data


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (giving(lambda y: {"out": y}), {}, r"returned a dict .*output\['out'\]"),
        (giving(lambda y: (y, y)), {}, r"returned a tuple .*output\[0\]"),
        (giving(lambda y: y[..., ::2, ::2]), {}, r"logits \(4, 3, 16, 16\) .*wanted \(4, 3, 32, 32\)"),
        (tiny_net(num_classes=21), {}, r"logits \(4, 21, 32, 32\), so it has K = 21 classes, but the data has 3"),
        (tiny_net(num_classes=2), {"loss": own_ce}, "K = 2 classes, but the data has 3"),
        (tiny_net(), {"loss": "weighted_ce", "class_weights": (1.0, 2.0)}, "holds 2 numbers, and there are K = 3"),
        (tiny_net(), {"loss": "weighted_focal", "class_weights": (1.0,) * 21}, "holds 21 numbers, and there are K = 3"),
    ],
)
def test_a_model_or_class_weights_that_do_not_fit_the_data(tmp_path, model, changes, message):
    with pytest.raises(ValueError, match=message):
        train_tiny(tmp_path, model, **changes)


def test_a_label_beyond_the_classes_is_named_before_the_loss(tmp_path):
    with pytest.raises(ValueError, match=r"the target holds the label 7, .* K = 3 classes 0\.\.2 nor ignore_index 255"):
        train(tiny_net(), mislabelled(), SETS[1], tiny_recipe(loss=own_ce), tmp_path)


@pytest.mark.parametrize("name", ["fcn8s", "mini_sam"])
def test_one_small_image_in_train_mode_has_a_remedy(tmp_path, name):
    options = {"backbone": "resnet18", "width": 8} if name == "fcn8s" else {}
    model = build(name, 3, **options)
    if name == "mini_sam":
        model.register_forward_hook(lambda module, given, output: output[0])
    remedy = r"one value per channel.*2 images at once or more \(batch_size over accumulate\), .*larger crop"
    with pytest.raises(ValueError, match=remedy):
        train_tiny(tmp_path, model, batch_size=1, augmentation=Augmentation(crop=32))
    train_tiny(tmp_path, model, batch_size=2, augmentation=Augmentation(crop=32), steps=1)


# --- micro-batches and memory ---


class Unequal(Squares):
    """Void is spread unevenly over the images, so that means of means would differ from the mean."""

    def __getitem__(self, index):
        image, target = self.items[index]
        target = target.clone()
        target[: 3 * index] = 255
        return image, target


@pytest.mark.parametrize("loss", ["ce", "weighted_ce", "focal", own_ce])
def test_accumulation_gives_the_gradient_of_the_whole_batch(tmp_path, loss):
    changes = {"loss": loss, "class_weights": (0.2, 1.0, 3.0) if loss == "weighted_ce" else None}
    models = [still_net() for _ in range(4)]
    for accumulate, model in enumerate(models, 1):
        recipe = tiny_recipe(**changes, accumulate=accumulate, optimizer="sgd", lr=0.3, eval_every=0)
        train(model, Unequal(), SETS[1], recipe, tmp_path / str(accumulate))
        assert_same(models[0], model, rtol=1e-4, atol=1e-6)


class Greedy(TinyNet):
    """Memory for `limit` images at once."""

    def __init__(self, limit):
        torch.manual_seed(0)
        super().__init__(norm=False, dropout=0.0)
        self.limit = limit

    def forward(self, x):
        if self.training and len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return super().forward(x)


def test_out_of_memory_halves_the_batch_and_keeps_the_effective_one(tmp_path, capsys):
    model, plain = Greedy(1), still_net()
    train_tiny(tmp_path / "greedy", model)
    said = capsys.readouterr().out
    assert re.search(r"step 1: 4 images at once are too many, continuing with 2 .*batch norm sees 2 images", said)
    assert "continuing with 1" in said
    train_tiny(tmp_path / "plain", plain)
    assert_same(plain, model, rtol=1e-4, atol=1e-6)
    assert checkpoints.read(tmp_path / "greedy", 6, parts=()).info["micro_batch"] == 1


def test_a_batch_that_was_halved_stays_so_when_the_run_continues(tmp_path, capsys):
    with pytest.raises(Stop):
        train_tiny(tmp_path, Greedy(2), callbacks=[stop_at(3)])
    assert "continuing with 2" in capsys.readouterr().out
    train_tiny(tmp_path, Greedy(2))
    assert "out of memory" not in capsys.readouterr().out


def test_out_of_memory_at_one_image_says_what_to_lower(tmp_path):
    with pytest.raises(RuntimeError, match=r"out of memory at step 1 with 1 image.*Lower the crop \(32\).*width"):
        train_tiny(tmp_path, Greedy(0))


# --- stopping and continuing ---


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    model, whole, calls = tiny_net(), tiny_net(), []

    def turn_bad(module, given, output):
        calls.append(module.training)
        return output * torch.nan if sum(calls) >= 6 else output

    hook = model.register_forward_hook(turn_bad)
    with pytest.raises(RuntimeError, match=r"the loss is nan at step 6 .*checkpoint of step 4 in .*kept.*lower lr"):
        train_tiny(tmp_path, model)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 5
    hook.remove()
    train_tiny(tmp_path, model)
    train_tiny(tmp_path / "whole", whole)
    assert_same(whole, model)


def test_inf_loss_before_any_checkpoint(tmp_path):
    model = tiny_net()
    nn.init.constant_(model.head[1].bias, torch.inf)
    with pytest.raises(RuntimeError, match=r"loss is (nan|inf) at step 1.*no checkpoint yet"):
        train_tiny(tmp_path, model)


def test_a_log_that_was_changed_between_two_runs_is_written_anew(tmp_path):
    with pytest.raises(Stop):
        train_tiny(tmp_path / "a", callbacks=[stop_at(5)])
    (tmp_path / "a" / "log.csv").write_text("step;loss")
    history = train_tiny(tmp_path / "a")
    assert history == train_tiny(tmp_path / "b")
    assert (tmp_path / "a" / "log.csv").read_bytes() == (tmp_path / "b" / "log.csv").read_bytes()


def test_a_checkpoint_of_before_it_held_the_log_goes_on_with_log_csv(tmp_path, capsys):
    whole = train_tiny(tmp_path / "whole")
    for name, change in {"kept": lambda text: text, "cut": lambda text: text[:40]}.items():
        with pytest.raises(Stop):
            train_tiny(tmp_path / name, callbacks=[stop_at(5)])
        for path in (tmp_path / name).glob("*.json"):
            info = read_json(path)  # without its seal, which those had not either
            del info["log"]
            path.write_text(json.dumps(info))
        log = tmp_path / name / "log.csv"
        log.write_text(change(log.read_text()))
        steps = []
        assert train_tiny(tmp_path / name, callbacks=[lambda event: steps.append(event.step)]) == whole  # noqa: B023
        assert steps[0] == {"kept": 5, "cut": 1}[name]
    assert "log.csv is not that of the checkpoint of step 4: training anew" in capsys.readouterr().out


def test_a_loss_that_keeps_a_list_continues(tmp_path):
    def recipe():
        seen = []

        def my_loss(logits, target):
            seen.append(len(logits))
            return own_ce(logits, target)

        return tiny_recipe(loss=my_loss)

    model, whole = tiny_net(), tiny_net()
    with pytest.raises(Stop):
        train_tiny(tmp_path / "a", recipe=recipe(), callbacks=[stop_at(5)])
    train_tiny(tmp_path / "a", model, recipe())  # as in a new kernel
    train_tiny(tmp_path / "b", whole, recipe())
    assert_same(whole, model)


def test_what_a_callback_raises_is_not_taken_for_a_lost_worker(tmp_path):
    def log_elsewhere(_event):
        raise ConnectionResetError("the server has gone")

    with pytest.raises(ConnectionResetError, match="the server has gone"):
        train_tiny(tmp_path, callbacks=[log_elsewhere], workers=1)
