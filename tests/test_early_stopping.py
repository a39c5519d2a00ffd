"""What is watched at each evaluation (losses, and scores of training images), and runs that end early by it."""

import pytest
import torch
from training_toys import Squares, tiny_net, tiny_recipe

from labhelpers.data.loader import subset
from labhelpers.evaluation import evaluate
from labhelpers.training import History, Recipe, build_loss, checkpoints, load_finished, train, train_or_load


@pytest.fixture(scope="module")
def sets():
    return Squares(), Squares(4, "val")


@pytest.mark.parametrize("name", ["ce", "bce", "weighted_ce", "focal"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_loss_of_a_set_is_that_of_all_its_pixels_at_once(sets, name, batch_size):
    loss = build_loss(name, [1.0, 2.0, 0.5] if name == "weighted_ce" else None)
    model = tiny_net().eval()
    images, targets = (torch.stack(part) for part in zip(*sets[1].items, strict=True))
    from labhelpers.data.augment import to_input

    with torch.no_grad():
        expected = loss(model(to_input(images)), targets).item()
    assert evaluate(model, sets[1], loss=loss, batch_size=batch_size).loss == pytest.approx(expected, rel=1e-5)
    assert evaluate(model, sets[1]).loss is None


def test_sums_of_losses_and_own_losses_have_a_loss_too(sets):
    model = tiny_net().eval()
    parts = [evaluate(model, sets[1], loss=build_loss(name)).loss for name in ("ce", "dice", "ce+0.5*dice")]
    assert parts[2] == pytest.approx(parts[0] + 0.5 * parts[1])

    def own(logits, target):
        return torch.nn.functional.cross_entropy(logits, target, ignore_index=255)

    assert evaluate(model, sets[1], loss=build_loss(own)).loss == pytest.approx(parts[0], rel=1e-5)


def test_each_evaluation_logs_losses_and_scores_of_both_sets(sets, tmp_path):
    events = []
    model, recipe = tiny_net(), tiny_recipe(score_train=5)
    history = train(model, *sets, recipe, tmp_path, callbacks=[events.append])
    last = history.evaluations[-1]
    loss = build_loss("ce")
    val, seen = (evaluate(model, part, loss=loss) for part in (sets[1], subset(sets[0], 5)))
    assert last["val_loss"] == pytest.approx(val.loss)
    assert last["train_loss"] == pytest.approx(seen.loss)
    assert last["train_mean_iou"] == pytest.approx(seen.scores.mean_iou)
    assert "train_loss" not in train(tiny_net(), *sets, tiny_recipe(), tmp_path / "without").evaluations[-1]


def test_scoring_training_images_changes_no_weight(sets, tmp_path):
    one, other = tiny_net(), tiny_net()
    train(one, *sets, tiny_recipe(), tmp_path / "a")
    train(other, *sets, tiny_recipe(score_train=5), tmp_path / "b")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_more_training_images_than_there_are_means_all(sets, tmp_path):
    history = train(tiny_net(), *sets, tiny_recipe(score_train=500), tmp_path)
    assert "train_loss" in history.evaluations[-1]


def test_the_best_loss_is_the_lowest(sets, tmp_path):
    history = train(tiny_net(), *sets, tiny_recipe(steps=12, lr=0.1, best_metric="val_loss"), tmp_path)
    steps, losses = history.column("val_loss")
    assert len(set(losses)) > 1
    assert checkpoints.read(tmp_path, 12, parts=()).info["best_step"] == int(steps[losses.argmin()])


# A rate of almost nothing: no evaluation after the first is better, so that the run ends `patience` evaluations later.
STANDSTILL = {"steps": 30, "lr": 1e-12, "eval_every": 3, "patience": 2, "weight_decay": 0.0}


def standstill(sets, folder, **changes):
    model = tiny_net(norm=False, dropout=0.0)
    return train(model, *sets, tiny_recipe(**{**STANDSTILL, **changes}), folder)


def test_a_run_ends_when_nothing_gets_better(sets, tmp_path):
    assert standstill(sets, tmp_path / "a").rows[-1]["step"] == 3 + 2 * 3
    assert standstill(sets, tmp_path / "b", patience=0).rows[-1]["step"] == 30
    assert standstill(sets, tmp_path / "c", patience=4).rows[-1]["step"] == 3 + 4 * 3


def test_a_run_that_gets_better_goes_on(sets, tmp_path):
    recipe = tiny_recipe(steps=12, lr=1e-3, eval_every=3, patience=1, best_metric="val_loss")
    history = train(tiny_net(dropout=0.0), *sets, recipe, tmp_path)
    losses = history.column("val_loss")[1]
    assert (losses[1:] < losses[:-1]).all()
    assert history.rows[-1]["step"] == 12


def test_an_early_end_is_an_end(sets, capsys, monkeypatch, tmp_path):
    """It says so, is loaded and not trained again, and is found by a later notebook."""
    monkeypatch.setenv("LAB_CHECKPOINTS", str(tmp_path))
    recipe = tiny_recipe(**STANDSTILL)
    first = train_or_load("still", tiny_net(norm=False, dropout=0.0), *sets, recipe)
    assert "at step 3 of 30, stopped early at step 9" in capsys.readouterr().out
    assert not first.loaded
    assert not list(first.folder.glob("*.optimizer.*")), "what only continuing needs is gone"
    again = train_or_load("still", tiny_net(norm=False, dropout=0.0), *sets, recipe)
    assert again.loaded
    assert again.history.rows[-1]["step"] == 9
    assert load_finished("still", tiny_net(norm=False, dropout=0.0), *sets, recipe).loaded
    assert "loaded (trained" in capsys.readouterr().out


def test_patience_survives_an_interruption(sets, tmp_path):
    """The evaluations without a better score are counted across it."""

    class Stop(Exception):
        pass

    def stop(event):
        if event.step == 7:
            raise Stop

    recipe = tiny_recipe(**STANDSTILL)
    with pytest.raises(Stop):
        train(tiny_net(norm=False, dropout=0.0), *sets, recipe, tmp_path, callbacks=[stop])
    history = train(tiny_net(norm=False, dropout=0.0), *sets, recipe, tmp_path)
    assert history.rows[-1]["step"] == 9
    assert History.read(tmp_path / "log.csv").rows == history.rows


def test_patience_needs_evaluations():
    with pytest.raises(ValueError, match="patience=3.*eval_every"):
        Recipe(steps=10, patience=3)
