"""Train or load: what makes two runs the same, what is loaded and what is not, and which it says."""

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_voc import TRAIN, make_labels, make_tiny_voc, save_labels
from torch import nn
from training_toys import SETS, Squares, TinyNet, assert_same, own_ce, stop_at, tiny_net, tiny_recipe, weights

from labhelpers import config
from labhelpers.data import VOCSegmentation, cache
from labhelpers.data.augment import Augmentation
from labhelpers.files import read_json
from labhelpers.training import checkpoints, finished_runs, load_finished, train_or_load
from labhelpers.training.run import describe, runs_folder, weights_hash

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
    moved = facts(lambda self, x: self.head(self.encoder(x)))  # with a comment
    assert once == moved
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


def test_load_finished_passes_over_an_unfinished_run(capsys):
    next(train_or_load("net", tiny_net(), *SETS, tiny_recipe()).folder.glob("step-00000006.json")).unlink()
    assert_nothing_is_loaded(capsys, "net")


# --- damage ---


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def rewrite(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def spreadsheet(text):
    """As one saves it where the decimal point is a comma."""
    header, *rows = csv.reader(io.StringIO(text.decode()))
    file = io.StringIO()
    rows = [header, *([value.replace(".", ",") for value in row] for row in rows)]
    csv.writer(file, delimiter=";", quoting=csv.QUOTE_ALL).writerows(rows)
    return file.getvalue().encode("utf-8-sig")


LOG_DAMAGE = {
    "emptied": lambda text: b"",
    "halved": lambda text: text[: len(text) // 2],
    "header only": lambda text: text[: text.index(b"\n") + 1],
    "spreadsheet": spreadsheet,
    "zeros": lambda text: bytes(len(text)),
    "not utf-8": lambda text: b"\xff" + text,
    "another score": lambda text: text.replace(b"0.", b"0.9"),
    "gone": None,
}


@pytest.mark.parametrize("damage", LOG_DAMAGE.values(), ids=LOG_DAMAGE)
@pytest.mark.parametrize("load", [train_or_load, load_finished])
def test_a_changed_log_is_put_back_as_the_checkpoint_holds_it(load, damage, capsys):
    first = train_or_load("net", tiny_net(), *SETS, tiny_recipe())
    log = first.folder / "log.csv"
    whole = log.read_bytes()
    bad = None if damage is None else damage(whole)
    log.unlink() if bad is None else log.write_bytes(bad)
    capsys.readouterr()
    for _ in range(2):
        again = load("net", tiny_net(), *SETS, tiny_recipe())
        assert again.loaded
        assert again.history == first.history
        assert log.read_bytes() == whole
    kept = [path.read_bytes() for path in first.folder.glob("damaged-*")]
    assert kept == ([] if bad is None else [bad])
    said = f"{log} is not as it was written; it is kept as damaged-1-log.csv, and written anew.\n"
    assert capsys.readouterr().out.count(said) == len(kept)


@pytest.mark.parametrize("damage", LOG_DAMAGE.values(), ids=LOG_DAMAGE)
def test_a_log_that_no_checkpoint_holds_is_read_where_it_can_be(damage, capsys):
    """As runs of an earlier version left it."""
    first = train_or_load("net", tiny_net(), *SETS, tiny_recipe())
    log, info = first.folder / "log.csv", first.folder / "step-00000006.json"
    whole = log.read_bytes()
    info.write_text(json.dumps({key: value for key, value in read_json(info).items() if key != "log"}))
    log.unlink() if damage is None else log.write_bytes(damage(whole))
    capsys.readouterr()
    again = train_or_load("net", tiny_net(), *SETS, tiny_recipe())
    readable = damage in (LOG_DAMAGE["spreadsheet"], LOG_DAMAGE["another score"])
    assert again.loaded is readable
    if damage is not LOG_DAMAGE["another score"]:
        assert again.history == first.history
    said = capsys.readouterr().out
    assert ("the run is trained again" in said) is not readable
    assert readable or str(log) in said


@pytest.mark.parametrize(
    ("file", "damage", "kept"),
    [
        ("step-{best}.model.safetensors", cut, 1),
        ("step-{best}.model.safetensors", rewrite(lambda data: data[:-1] + bytes([data[-1] ^ 1])), 1),
        ("step-{best}.model.safetensors", rewrite(lambda data: b""), 1),
        ("step-{best}.model.safetensors", Path.unlink, 0),
        ("step-{best}.json", cut, 1),
        *(
            ("step-00000006.json", rewrite(lambda _, text=text: text), 0)
            for text in (b"", b'{"step": 6}', b"[]", b"\0" * 9)
        ),
        ("step-00000006.json", Path.unlink, 0),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(is damaged|passed over)")
def test_a_finished_run_with_a_damaged_file_is_trained_again(file, damage, kept, capsys):
    recipe, still = tiny_recipe(lr=1e-12, weight_decay=0.0), {"norm": False, "dropout": 0.0}
    first = train_or_load("net", tiny_net(**still), *SETS, recipe)
    best = first.info["best_step"]
    assert best == 3, "no evaluation after the first is better"
    path = first.folder / file.format(best=f"{best:08d}")
    damage(path)
    bad = path.read_bytes() if path.exists() else None
    capsys.readouterr()
    assert load_finished("net", tiny_net(**still), *SETS, recipe) is None
    again = train_or_load("net", tiny_net(**still), *SETS, recipe)
    said = capsys.readouterr().out
    assert not again.loaded
    assert_same(first.model, again.model)
    assert again.history == first.history
    assert [p.read_bytes() for p in first.folder.glob("damaged-*")] == [bad] * kept
    assert f"it is kept as damaged-1-{path.name}, and the run is trained again" in said or not kept
    assert train_or_load("net", tiny_net(**still), *SETS, recipe).loaded


def test_a_model_that_is_the_result_is_not_trained_on_when_its_run_is_lost():
    run = train_or_load("net", tiny_net(), *SETS, tiny_recipe())
    shutil.rmtree(run.folder)
    with pytest.raises(RuntimeError, match=r"is lost or damaged, and this model is its result: build it anew"):
        train_or_load("net", run.model, *SETS, tiny_recipe())
    assert not train_or_load("net", tiny_net(), *SETS, tiny_recipe()).loaded


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0", '{"name": "net"}', '{"recipe": []}', "[" * 10**5])
def test_a_damaged_run_json_is_named_and_mended_by_the_call_that_wrote_it(text, capsys):
    path = train_or_load("net", tiny_net(), *SETS, tiny_recipe()).folder / "run.json"
    path.write_text(text)
    with pytest.warns(UserWarning, match=r"run\.json is damaged: .*the call that trained it mends it"):
        assert_nothing_is_loaded(capsys, "net")
    assert train_or_load("net", tiny_net(), *SETS, tiny_recipe()).loaded
    assert "run.json is not as it was written; it is kept as damaged-1-run.json" in capsys.readouterr().out
    assert load_finished("net", tiny_net(), *SETS, tiny_recipe()).loaded


def test_a_finished_run_is_loaded_from_a_folder_that_cannot_be_written(monkeypatch, capsys):
    first = train_or_load("net", tiny_net(), *SETS, tiny_recipe())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    monkeypatch.setattr("labhelpers.training.run.write_atomic", refuse)
    monkeypatch.setattr("labhelpers.training.run.set_aside", refuse)
    (first.folder / "log.csv").write_text("")
    assert train_or_load("net", tiny_net(), *SETS, tiny_recipe()).history == first.history
    assert "log.csv is not as it was written, and cannot be written anew (Permission denied)" in capsys.readouterr().out


# --- names ---


@pytest.mark.parametrize(
    "name", ["/abs", "a/b", "../../up", "a\0b", 'a<b>:"|?*', "  ", "FCN-8s, Gewicht ä", "\\\\host\\x"]
)
def test_every_name_stays_in_the_checkpoints_folder(name):
    folder = runs_folder(name)
    assert folder.parent == config.checkpoints_root()
    assert not set(folder.name) & set('/\\<>:"|?*\0 ')


@pytest.mark.parametrize("name", ["", ".", "..", "...", "end.", "nul", "COM1", "aux.net", "x" * 300, "ä" * 150])
def test_what_cannot_be_a_folder_on_any_system_is_no_name(name):
    for load in (train_or_load, load_finished):
        with pytest.raises(ValueError, match=r"^name=.*becomes that of a folder"):
            load(name, tiny_net(), *SETS, tiny_recipe())
    assert not config.checkpoints_root(create=False).exists() or not list(config.checkpoints_root().iterdir())


# --- which run is found ---


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
