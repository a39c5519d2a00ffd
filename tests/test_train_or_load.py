"""Train or load: what makes two runs the same, what is loaded and what is not, and which it says."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_voc import TRAIN, make_labels, make_tiny_voc, save_labels
from torch import nn
from training_toys import SETS, Squares, TinyNet, assert_same, own_ce, stop_at, tiny_net, tiny_recipe, weights

from labhelpers.data import VOCSegmentation, cache
from labhelpers.data.augment import Augmentation
from labhelpers.training import checkpoints, finished_runs, load_finished, train_or_load
from labhelpers.training.run import describe, weights_hash

OTHER_SETS = (Squares(8), SETS[1]), (SETS[0], Squares(3, "val"))


def test_it_trains_once_and_says_which(capsys):
    first = train_or_load("net", tiny_net(), *SETS, tiny_recipe())
    assert not first.loaded
    said = capsys.readouterr().out
    assert re.search(r"^net: trained \(now, [\d.]+ min, key \w{10}\): mean_iou 0.\d+ at step", said, re.MULTILINE)
    second = train_or_load("net", tiny_net(), *SETS, tiny_recipe(workers=1, save_every=9))
    assert capsys.readouterr().out.startswith("net: loaded (trained 20")
    assert (second.key, second.history, second.minutes) == (first.key, first.history, first.minutes)
    assert_same(first.model, second.model)
    assert not second.model.training
    again = train_or_load("net", second.model, *SETS, tiny_recipe())  # the cell run twice: the same run
    assert second.loaded is again.loaded is True
    assert again.key == first.key


def test_it_returns_the_best_weights():
    run = train_or_load("net, CE/Dice", tiny_net(), *SETS, tiny_recipe(steps=12, lr=0.1))
    assert run.folder.parent.name == "net-CE-Dice"
    steps, scores = run.history.column("mean_iou")
    best = int(steps[scores.argmax()])
    assert run.weights == run.folder / f"step-{best:08d}.model.safetensors"
    assert_same(checkpoints.read(run.folder, best, ("model",)).parts["model"], run.model)


def test_whatever_decides_about_the_result_changes_the_key():
    recipe = tiny_recipe(steps=1)
    runs = [
        train_or_load(name, tiny_net(**options), *sets, replace(recipe, **changes))
        for name, options, sets, changes in (
            ("net", {}, SETS, {}),
            ("other", {}, SETS, {}),
            ("net", {}, SETS, {"lr": 0.02}),
            *(("net", {}, SETS, {"loss": loss}) for loss in ("dice", own_ce)),
            ("net", {}, SETS, {"seed": 1}),
            ("net", {}, SETS, {"augmentation": Augmentation(32)}),
            *(("net", {}, sets, {}) for sets in OTHER_SETS),
            *(("net", options, SETS, {}) for options in ({"width": 4}, {"dropout": 0.5}, {"seed": 1})),
        )
    ]
    # Trained weights as a start are another run than random ones.
    runs.append(train_or_load("net", runs[0].model, *SETS, replace(recipe, lr=0.02)))
    assert not any(run.loaded for run in runs)
    assert len({run.key for run in runs}) == len(runs)


def test_a_label_changed_in_place_is_another_run(tmp_path):
    path = make_tiny_voc(tmp_path / "voc") / "SegmentationClass" / f"{TRAIN[0]}.png"

    def sets() -> list:
        return [cache(VOCSegmentation(tmp_path / "voc", split)) for split in ("train", "val")]

    def run(sets: list):
        return train_or_load("net", tiny_net(num_classes=21), *sets, tiny_recipe(steps=1))

    save_labels(path, make_labels(24, 18, 7))
    opened, size = sets(), path.stat().st_size
    first = run(opened)
    save_labels(path, make_labels(24, 18, 8))
    assert path.stat().st_size == size
    with pytest.raises(ValueError, match="files of voc/train have changed since they were read into memory: open the"):
        run(opened)
    second = run(sets())
    assert (first.loaded, second.loaded, run(sets()).loaded) == (False, False, True)


def test_every_weight_counts_and_the_last_bits_do_not():
    """The last bits differ from one kind of CPU to another."""
    model = tiny_net()
    tensors = model.state_dict().values()
    hashes = [weights_hash(model)]
    for tensor in tensors:
        for place in {0, tensor.numel() - 1}:
            before = tensor.clone()
            tensor.view(-1)[place] += max(0.1 * float(tensor.abs().max()), 0.1) if tensor.is_floating_point() else 1
            hashes.append(weights_hash(model))
            tensor.copy_(before)
    for factor in (1 + torch.finfo(torch.float32).eps, 2):
        with torch.no_grad():
            nn.utils.vector_to_parameters(
                factor * nn.utils.parameters_to_vector(model.parameters()), model.parameters()
            )
        hashes.append(weights_hash(model))
    assert hashes.pop(-2) == hashes[0]
    assert len(set(hashes)) == len(hashes) == 2 + sum(1 + (tensor.numel() > 1) for tensor in tensors)


def notebook_class(forward):
    """A class as a cell defines it."""
    return type("Net", (TinyNet,), {"forward": forward, "__module__": "__main__"})


def test_a_changed_forward_of_a_notebook_s_class_is_another_run():
    def facts(forward):
        torch.manual_seed(0)
        return describe(notebook_class(forward)(), *SETS, tiny_recipe())

    once = facts(lambda self, x: self.head(self.encoder(x)))
    assert once == facts(lambda self, x: self.head(self.encoder(x)))  # moved, with a comment
    for other in (lambda self, x: self.head(self.encoder(x)) * 2, lambda self, x: self.head(self.encoder(x).relu())):
        assert once != facts(other)


def test_an_interrupted_cell_continues_when_it_is_run_again(capsys):
    model = tiny_net()
    before = weights(model)
    with pytest.raises(KeyboardInterrupt):
        train_or_load("net", model, *SETS, tiny_recipe(), callbacks=[stop_at(5, KeyboardInterrupt)])
    assert_same(before, model)
    assert "net: interrupted; the same call continues" in capsys.readouterr().out
    run = train_or_load("net", model, *SETS, tiny_recipe())
    assert "continued from step 4 (now" in capsys.readouterr().out
    assert not run.loaded
    whole = train_or_load("whole", tiny_net(), *SETS, tiny_recipe())
    assert_same(whole.model, run.model)
    assert (whole.folder / "log.csv").read_bytes() == (run.folder / "log.csv").read_bytes()


def test_an_early_end_is_an_end(capsys):
    """It says so, is loaded and not trained again, and is found by a later notebook."""
    # A rate of almost nothing: no evaluation after the first is better.
    recipe = tiny_recipe(steps=30, lr=1e-12, eval_every=3, patience=2, weight_decay=0.0)
    first, again = (train_or_load("still", tiny_net(norm=False, dropout=0.0), *SETS, recipe) for _ in range(2))
    assert "at step 3 of 30, stopped early at step 9" in capsys.readouterr().out
    assert (first.loaded, again.loaded) == (False, True)
    assert not list(first.folder.glob("*.optimizer.*")), "what only continuing needs is gone"
    assert again.history.rows[-1]["step"] == again.steps == 9
    assert load_finished("still", tiny_net(norm=False, dropout=0.0), *SETS, recipe).loaded
    assert "loaded (trained" in capsys.readouterr().out


# --- finished runs, found again ---


def test_load_finished_finds_the_run_of_another_class(capsys):
    torch.manual_seed(0)
    earlier = train_or_load("net", notebook_class(lambda self, x: self.head(self.encoder(x)))(), *SETS, tiny_recipe())
    assert train_or_load("other", tiny_net(seed=3), *SETS, tiny_recipe()).key != earlier.key
    capsys.readouterr()
    model = tiny_net(seed=3)
    run = load_finished("net", model, *SETS, tiny_recipe(workers=1))
    pattern = rf"net: loaded \(trained 20[\d: -]+, [\d.]+ min, key {earlier.key}\): mean_iou 0.\d+ at step \d of 6\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)
    assert run == replace(earlier, model=model, loaded=True)
    assert not model.training
    assert_same(earlier.model, model)
    [found] = finished_runs("net", *SETS, tiny_recipe())
    assert re.fullmatch(rf"trained 20[\d: -]+ in [\d.]+ min, key {earlier.key}", str(found))
    assert_same(found.load(tiny_net(seed=4)), model)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("step-00000006.json", Path.unlink),  # unfinished
        ("step-00000006.json", cut),
        ("*.model.safetensors", cut),
        ("log.csv", Path.unlink),
        ("run.json", cut),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is damaged")  # which it says as it passes over
def test_load_finished_passes_over_what_is_not_whole(file, damage, capsys):
    for path in list(train_or_load("net", tiny_net(), *SETS, tiny_recipe()).folder.glob(file)):
        damage(path)
    assert_nothing_is_loaded(capsys, "net")


def test_load_finished_wants_equal_name_data_recipe_and_shapes(capsys):
    train_or_load("net CE", tiny_net(), *SETS, tiny_recipe())
    for name in ("absent", "net-CE"):  # the second has the same folder
        assert_nothing_is_loaded(capsys, name)
    for sets in OTHER_SETS:
        assert_nothing_is_loaded(capsys, "net CE", sets=sets)
    for changes in ({"lr": 0.02}, {"steps": 3}, {"loss": own_ce}):
        assert_nothing_is_loaded(capsys, "net CE", **changes)
    for options in ({"width": 4}, {"norm": False}):
        assert_nothing_is_loaded(capsys, "net CE", tiny_net(**options))
    assert load_finished("net CE", tiny_net(seed=1), *SETS, tiny_recipe())
    assert load_finished("net CE", tiny_net(seed=1), *SETS, tiny_recipe(loss=own_ce), any_loss=True)
    with pytest.raises(ValueError, match="of another architecture"):
        finished_runs("net CE", *SETS, tiny_recipe())[0].load(tiny_net(width=4))


def assert_nothing_is_loaded(capsys, name, model=None, sets=SETS, **changes):
    model = model or tiny_net(seed=1)
    before = weights(model)
    capsys.readouterr()
    assert load_finished(name, model, *sets, tiny_recipe(**changes)) is None
    assert capsys.readouterr().out == ""
    assert_same(before, model)
    assert model.training


def test_load_finished_takes_the_newest_that_fits():
    recipe = tiny_recipe(steps=1)
    keys = [train_or_load("net", tiny_net(seed=s), *SETS, recipe).key for s in range(3)]
    train_or_load("net", tiny_net(width=4), *SETS, recipe)  # newer, and does not fit
    train_or_load("net", tiny_net(seed=0), *SETS, recipe)  # loading does not make a run newer
    run = load_finished("net", tiny_net(seed=9), *SETS, recipe)
    assert run.key == keys[2]
    assert train_or_load("net", run.model, *SETS, recipe).key == keys[2]  # known as that run's result
