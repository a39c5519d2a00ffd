"""The training loop: what it computes, what it leaves behind, and how it ends when something is wrong."""

import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_toys import Squares, TinyNet, tiny_net, tiny_recipe

from labhelpers.data.augment import Augmentation
from labhelpers.training import History, checkpoints, load_finished, overfit_one_batch, train, train_or_load
from labhelpers.training.run import describe
from labhelpers.training.tracking import Progress, Wandb


@pytest.fixture(scope="module")
def sets():
    return Squares(), Squares(4, "val")


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(a, b, exact=True):
    for name in a:
        if exact:
            assert torch.equal(a[name], b[name]), name
        else:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6, msg=name)


# --- what a run is -------------------------------------------------------------------------------------------------


def test_it_learns_and_logs(sets, tmp_path):
    events = []
    history = train(tiny_net(), *sets, tiny_recipe(steps=60, eval_every=20), tmp_path, callbacks=[events.append])
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


def test_the_best_checkpoint_is_that_of_the_best_score(sets, tmp_path):
    history = train(tiny_net(), *sets, tiny_recipe(steps=12, lr=0.1, best_metric="pixel_accuracy"), tmp_path)
    steps, scores = history.column("pixel_accuracy")
    best = int(steps[scores.argmax()])
    assert checkpoints.read(tmp_path, 12, parts=()).info["best_step"] == best
    assert (tmp_path / f"step-{best:08d}.model.safetensors").exists()


def test_workers_change_nothing_and_seeds_do(sets, tmp_path):
    results = []
    for name, changes in {"a": {}, "b": {"workers": 2, "save_every": 5}, "c": {"seed": 1}}.items():
        model = tiny_net()
        train(model, *sets, tiny_recipe(**changes), tmp_path / name)
        results.append(weights(model))
    assert_same(results[0], results[1])
    assert not torch.equal(results[0]["encoder.0.weight"], results[2]["encoder.0.weight"])


def test_the_callers_random_numbers_go_on_undisturbed(sets, tmp_path):
    model = tiny_net()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(model, *sets, tiny_recipe(steps=2), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_clipping_bounds_the_step(sets, tmp_path):
    model = tiny_net()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    recipe = tiny_recipe(steps=1, optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=1e-3, eval_every=0)
    train(model, *sets, recipe, tmp_path)
    moved = (nn.utils.parameters_to_vector(model.parameters()) - before).norm().item()
    assert moved == pytest.approx(1e-3, rel=0.02)


def test_a_frozen_encoder_keeps_weights_and_statistics_until_it_is_freed(sets, tmp_path):
    model, seen = tiny_net(), {}
    before = weights(model.encoder)

    def look(event):
        seen[event.step] = weights(event.model.encoder), weights(event.model.head)

    train(model, *sets, tiny_recipe(freeze_encoder_steps=4), tmp_path, callbacks=[look])
    assert_same(before, seen[4][0])
    assert not torch.equal(seen[1][1]["1.weight"], seen[4][1]["1.weight"])
    assert not torch.equal(before["0.weight"], seen[5][0]["0.weight"])
    assert seen[6][0]["1.num_batches_tracked"] == 2
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_plateau_lowers_the_rate_of_a_run(sets, tmp_path):
    model = tiny_net(norm=False)  # batch-norm statistics would move the score
    recipe = tiny_recipe(steps=8, lr=1e-9, schedule="plateau", eval_every=1, plateau_patience=1)
    lr = train(model, *sets, recipe, tmp_path).column("lr")[1]
    assert lr[0] == 1e-9
    assert lr[-1] < 0.3e-9


def test_class_weights_come_from_the_data(sets, tmp_path):
    losses = []
    for method in ("inverse", "inverse_sqrt"):
        recipe = tiny_recipe(steps=1, loss="weighted_ce", class_weights=method, oversample_rare=True)
        losses.append(train(tiny_net(), *sets, recipe, tmp_path / method).column("loss")[1][0])
    assert losses[0] != losses[1]


def test_bf16_is_near_float32(sets, tmp_path):
    a, b = (train(tiny_net(), *sets, tiny_recipe(precision=p), tmp_path / p).column("loss")[1] for p in ("no", "bf16"))
    assert a == pytest.approx(b, rel=0.02)
    assert (a != b).any()


# --- micro-batches and memory --------------------------------------------------------------------------------------


class Unequal(Squares):
    """Void is spread unevenly over the images, so that means of means would differ from the mean."""

    def __getitem__(self, index):
        image, target = self.items[index]
        target = target.clone()
        target[: 3 * index] = 255
        return image, target


@pytest.mark.parametrize("loss", ["ce", "weighted_ce", "focal"])
def test_accumulation_gives_the_gradient_of_the_whole_batch(sets, tmp_path, loss):
    results = []
    for accumulate in (1, 2, 3, 4):
        model = tiny_net(norm=False, dropout=0.0)
        recipe = tiny_recipe(
            loss=loss,
            class_weights=(0.2, 1.0, 3.0) if "weighted" in loss else None,
            accumulate=accumulate,
            optimizer="sgd",
            lr=0.3,
            eval_every=0,
        )
        train(model, Unequal(), sets[1], recipe, tmp_path / str(accumulate))
        results.append(weights(model))
    for result in results[1:]:
        assert_same(results[0], result, exact=False)


def own_ce(logits, target):
    return F.cross_entropy(logits, target, ignore_index=255)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_own_loss_trains_as_the_library_s(sets, tmp_path, accumulate):
    results, losses = [], []
    for name, loss in {"theirs": "ce", "own": own_ce}.items():
        model = tiny_net(norm=False)  # AdamW would blow up the rounding in biases before batch norm
        history = train(model, Unequal(), sets[1], tiny_recipe(loss=loss, accumulate=accumulate), tmp_path / name)
        results.append(weights(model))
        losses.append(history.column("loss")[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-5, atol=1e-6, msg=name)


class Greedy(TinyNet):
    """Memory for ``limit`` images at once."""

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


def test_out_of_memory_halves_the_batch_and_keeps_the_effective_one(sets, tmp_path, capsys):
    model, plain = greedy(1, norm=False, dropout=0.0), tiny_net(norm=False, dropout=0.0)
    train(model, *sets, tiny_recipe(), tmp_path / "greedy")
    said = capsys.readouterr().out
    assert re.search(r"step 1: 4 images at once are too many, continuing with 2 .*batch norm sees 2 images", said)
    assert "continuing with 1" in said
    train(plain, *sets, tiny_recipe(), tmp_path / "plain")
    assert_same(weights(plain), weights(model), exact=False)
    assert checkpoints.read(tmp_path / "greedy", 6, parts=()).info["micro_batch"] == 1


def test_out_of_memory_at_one_image_says_what_to_lower(sets, tmp_path):
    with pytest.raises(RuntimeError, match=r"out of memory at step 1 with 1 image.*Lower the crop \(32\).*width"):
        train(greedy(0), *sets, tiny_recipe(), tmp_path)


# --- stopping and continuing ---------------------------------------------------------------------------------------


class TurnsBad(TinyNet):
    """Its output is not finite from the ``bad_call``-th training forward on."""

    bad_call = math.inf
    calls = 0

    def forward(self, x):
        self.calls += self.training
        return super().forward(x) * (torch.nan if self.calls >= self.bad_call else 1.0)


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(sets, tmp_path):
    torch.manual_seed(0)
    model = TurnsBad()
    model.bad_call = 6
    message = r"the loss is nan at step 6 .*the checkpoint of step 4 in .*kept.*lower lr"
    with pytest.raises(RuntimeError, match=message):
        train(model, *sets, tiny_recipe(), tmp_path)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 5

    model.bad_call = math.inf
    train(model, *sets, tiny_recipe(), tmp_path)
    torch.manual_seed(0)
    whole = TurnsBad()
    train(whole, *sets, tiny_recipe(), tmp_path / "whole")
    assert_same(weights(whole), weights(model))


def test_inf_loss_before_any_checkpoint(sets, tmp_path):
    model = tiny_net()
    nn.init.constant_(model.head[1].bias, torch.inf)
    with pytest.raises(RuntimeError, match=r"loss is (nan|inf) at step 1.*no checkpoint yet"):
        train(model, *sets, tiny_recipe(), tmp_path)


def test_a_shortened_log_is_noticed(sets, tmp_path):
    train(tiny_net(), *sets, tiny_recipe(steps=2), tmp_path)
    (tmp_path / "log.csv").unlink()
    with pytest.raises(RuntimeError, match=r"log.csv holds 0 rows.*step 2"):
        train(tiny_net(), *sets, tiny_recipe(steps=2), tmp_path)


def test_train_or_load_trains_once_and_says_which(sets, capsys):
    first = train_or_load("net", tiny_net(), *sets, tiny_recipe())
    assert not first.loaded
    said = capsys.readouterr().out
    assert re.search(r"^net: trained \(now, [\d.]+ min, key \w{10}\): mean_iou 0.\d+ at step", said, re.MULTILINE)
    second = train_or_load("net", tiny_net(), *sets, tiny_recipe(workers=1, save_every=9))
    assert second.loaded
    assert capsys.readouterr().out.startswith("net: loaded (trained 20")
    assert (second.key, second.history, second.minutes) == (first.key, first.history, first.minutes)
    assert_same(weights(first.model), weights(second.model))
    assert not second.model.training

    again = train_or_load("net", second.model, *sets, tiny_recipe())  # the cell run twice: the same run
    assert again.loaded
    assert again.key == first.key


def test_train_or_load_returns_the_best_weights(sets):
    run = train_or_load("net, CE/Dice", tiny_net(), *sets, tiny_recipe(steps=12, lr=0.1))
    assert run.folder.parent.name == "net-CE-Dice"
    steps, scores = run.history.column("mean_iou")
    best = int(steps[scores.argmax()])
    assert_same(checkpoints.read(run.folder, best, ("model",)).parts["model"], weights(run.model))


def test_whatever_decides_about_the_result_changes_the_key(sets):
    train_set, val_set = sets
    recipe = tiny_recipe(steps=1)
    runs = [
        train_or_load("net", tiny_net(), train_set, val_set, recipe),
        train_or_load("other", tiny_net(), train_set, val_set, recipe),
        train_or_load("net", tiny_net(), train_set, val_set, tiny_recipe(steps=1, lr=0.02)),
        train_or_load("net", tiny_net(), train_set, val_set, tiny_recipe(steps=1, loss="dice")),
        train_or_load("net", tiny_net(), train_set, val_set, tiny_recipe(steps=1, seed=1)),
        train_or_load("net", tiny_net(), train_set, val_set, tiny_recipe(steps=1, augmentation=Augmentation(32))),
        train_or_load("net", tiny_net(), Squares(8), val_set, recipe),
        train_or_load("net", tiny_net(), train_set, Squares(3, "val"), recipe),
        train_or_load("net", tiny_net(width=4), train_set, val_set, recipe),
        train_or_load("net", tiny_net(dropout=0.5), train_set, val_set, recipe),
        train_or_load("net", tiny_net(seed=1), train_set, val_set, recipe),
    ]
    assert not any(run.loaded for run in runs)
    assert len({run.key for run in runs}) == len(runs)
    tuned = train_or_load("net", runs[0].model, train_set, val_set, tiny_recipe(steps=1, lr=0.02))
    assert not tuned.loaded  # trained weights as a start are another run than random ones
    assert tuned.key != runs[2].key


def test_own_loss_is_part_of_the_key_and_of_what_is_continued(sets, tmp_path):
    def powered(gamma):
        def my_loss(logits, target):
            return own_ce(logits, target) ** gamma

        return tiny_recipe(steps=2, loss=my_loss)

    runs = [train_or_load("net", tiny_net(), *sets, powered(gamma)) for gamma in (1.0, 2.0, 1.0)]
    assert [run.loaded for run in runs] == [False, False, True]
    assert runs[0].key == runs[2].key != runs[1].key
    assert_same(weights(runs[0].model), weights(runs[2].model))

    train(tiny_net(), *sets, powered(1.0), tmp_path)
    train(tiny_net(), *sets, powered(1.0), tmp_path)  # continues after its last step
    with pytest.raises(ValueError, match=r"another recipe \(loss: 'my_loss \w{12}' there, 'my_loss \w{12}' now\)"):
        train(tiny_net(), *sets, powered(2.0), tmp_path)


def test_a_loss_that_keeps_a_list_continues(sets, tmp_path):
    def build():
        seen = []

        def my_loss(logits, target):
            seen.append(len(logits))
            return own_ce(logits, target)

        return tiny_recipe(loss=my_loss)

    def interrupt(event):
        if event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_net(), *sets, build(), tmp_path / "a", callbacks=[interrupt])
    model, whole = tiny_net(), tiny_net()
    train(model, *sets, build(), tmp_path / "a")  # as in a new kernel
    train(whole, *sets, build(), tmp_path / "b")
    assert_same(weights(whole), weights(model))


def notebook_class(forward):
    """A class as a cell defines it."""
    members = {"forward": forward, "__module__": "__main__"}
    return type("Net", (TinyNet,), members)


def test_a_changed_forward_of_a_notebook_s_class_is_another_run(sets):
    def facts(forward):
        torch.manual_seed(0)
        return describe(notebook_class(forward)(), *sets, tiny_recipe())

    once = facts(lambda self, x: self.head(self.encoder(x)))
    assert once == facts(lambda self, x: self.head(self.encoder(x)))
    assert once != facts(lambda self, x: self.head(self.encoder(x)) * 2)
    assert once != facts(lambda self, x: self.head(self.encoder(x).relu()))


def test_load_finished_finds_the_run_of_another_class(sets, capsys):
    torch.manual_seed(0)
    earlier = train_or_load("net", notebook_class(lambda self, x: self.head(self.encoder(x)))(), *sets, tiny_recipe())
    capsys.readouterr()
    model = tiny_net(seed=3)
    assert train_or_load("other", tiny_net(seed=3), *sets, tiny_recipe()).key != earlier.key
    capsys.readouterr()
    run = load_finished("net", model, *sets, tiny_recipe(workers=1))
    said = capsys.readouterr().out
    assert re.fullmatch(
        rf"net: loaded \(trained 20[\d: -]+, [\d.]+ min, key {earlier.key}\): mean_iou 0.\d+ at step \d of 6\n", said
    )
    assert run.model is model
    assert run.loaded
    assert not model.training
    assert_same(weights(earlier.model), weights(model))
    assert (run.key, run.folder, run.minutes, run.history) == (
        earlier.key,
        earlier.folder,
        earlier.minutes,
        earlier.history,
    )


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


DAMAGES = {
    "unfinished": lambda folder: (folder / "step-00000006.json").unlink(),
    "best weights cut": lambda folder: [cut(path) for path in folder.glob("*.model.safetensors")],
    "bookkeeping cut": lambda folder: cut(folder / "step-00000006.json"),
    "no log": lambda folder: (folder / "log.csv").unlink(),
    "description cut": lambda folder: cut(folder / "run.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.filterwarnings("ignore:.*is damaged")  # which it says as it passes over
def test_load_finished_passes_over_what_is_not_whole(sets, damage, capsys):
    DAMAGES[damage](train_or_load("net", tiny_net(), *sets, tiny_recipe()).folder)
    assert_nothing_is_loaded("net", tiny_net(seed=1), *sets, tiny_recipe(), capsys)


def test_load_finished_wants_equal_name_data_recipe_and_shapes(sets, capsys):
    train_set, val_set = sets
    train_or_load("net CE", tiny_net(), *sets, tiny_recipe())
    for name, model, sets_, recipe in (
        ("absent", tiny_net(), sets, tiny_recipe()),
        ("net-CE", tiny_net(), sets, tiny_recipe()),  # the same folder
        ("net CE", tiny_net(), (Squares(8), val_set), tiny_recipe()),
        ("net CE", tiny_net(), (train_set, Squares(3, "val")), tiny_recipe()),
        ("net CE", tiny_net(), sets, tiny_recipe(lr=0.02)),
        ("net CE", tiny_net(), sets, tiny_recipe(steps=3)),
        ("net CE", tiny_net(), sets, tiny_recipe(loss=own_ce)),
        ("net CE", tiny_net(width=4), sets, tiny_recipe()),
        ("net CE", tiny_net(norm=False), sets, tiny_recipe()),
    ):
        assert_nothing_is_loaded(name, model, *sets_, recipe, capsys)
    assert load_finished("net CE", tiny_net(seed=1), *sets, tiny_recipe())


def assert_nothing_is_loaded(name, model, train_set, val_set, recipe, capsys):
    before = weights(model)
    capsys.readouterr()
    assert load_finished(name, model, train_set, val_set, recipe) is None
    assert capsys.readouterr().out == ""
    assert_same(before, weights(model))
    assert model.training


def test_load_finished_takes_the_newest_that_fits(sets):
    keys = [train_or_load("net", tiny_net(seed=s), *sets, tiny_recipe(steps=1)).key for s in range(3)]
    train_or_load("net", tiny_net(width=4), *sets, tiny_recipe(steps=1))  # newer, and does not fit
    train_or_load("net", tiny_net(seed=0), *sets, tiny_recipe(steps=1))  # loading does not make a run newer
    assert load_finished("net", tiny_net(seed=9), *sets, tiny_recipe(steps=1)).key == keys[2]

    model = load_finished("net", tiny_net(seed=2), *sets, tiny_recipe(steps=1)).model
    assert train_or_load("net", model, *sets, tiny_recipe(steps=1)).loaded  # its own class: known as that run's result


def test_freezing_needs_an_encoder(sets, tmp_path):
    with pytest.raises(ValueError, match="freeze_encoder_steps needs model.encoder, and Conv2d has none"):
        train(nn.Conv2d(3, 3, 1), *sets, tiny_recipe(freeze_encoder_steps=1), tmp_path)


def test_an_interrupted_cell_continues_when_it_is_run_again(sets, capsys):
    def interrupt(event):
        if event.step == 5:
            raise KeyboardInterrupt

    model = tiny_net()
    before = weights(model)
    with pytest.raises(KeyboardInterrupt):
        train_or_load("net", model, *sets, tiny_recipe(), callbacks=[interrupt])
    assert_same(before, weights(model))
    assert "net: interrupted; the same call continues" in capsys.readouterr().out
    run = train_or_load("net", model, *sets, tiny_recipe())
    assert "continued from step 4 (now" in capsys.readouterr().out
    assert not run.loaded
    whole = train_or_load("whole", tiny_net(), *sets, tiny_recipe())
    assert_same(weights(whole.model), weights(run.model))
    assert (whole.folder / "log.csv").read_bytes() == (run.folder / "log.csv").read_bytes()


# --- helpers -------------------------------------------------------------------------------------------------------


def test_overfit_one_batch(sets):
    images, targets = (torch.stack(t) for t in zip(*(sets[0][i] for i in range(4)), strict=True))
    losses = overfit_one_batch(tiny_net(dropout=0.0), images, targets, steps=60, lr=1e-2)
    assert len(losses) == 60
    assert losses[-1] < 0.2 * losses[0]
    named, own = (overfit_one_batch(tiny_net(), images, targets, steps=3, loss=x) for x in ("ce", own_ce))
    assert named[0] == pytest.approx(own[0])
    with pytest.raises(RuntimeError, match="at step 1"):
        overfit_one_batch(tiny_net(), images, targets, loss=lambda x, y: x.sum() * torch.nan)


def test_progress_in_a_notebook_is_one_output(monkeypatch):
    updates = []
    handle = SimpleNamespace(update=lambda data, raw: updates.append(data["text/plain"]))
    shown = []
    ipython = SimpleNamespace(
        get_ipython=lambda: SimpleNamespace(kernel=object()),
        display=SimpleNamespace(display=lambda data, raw, display_id: shown.append(data) or handle),
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    with Progress("net", 0, 50, batch_size=4) as progress:
        for _ in range(50):
            progress.update(loss=0.5)
    assert len(shown) == 1
    assert re.search(r"net: 100%.*50/50 steps.*loss 0.5, .* images/s", updates[-1])


def test_progress_without_a_terminal_is_one_line(capsys):
    with Progress("net", 0, 50, batch_size=4) as progress:
        for _ in range(50):
            progress.update(loss=0.5)
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert said.err == ""


@pytest.mark.parametrize(
    ("mode", "asked", "wanted"),
    [("", False, False), ("", True, True), ("offline", False, True), ("disabled", True, False), ("online", True, True)],
)
def test_wandb_mode_wins(monkeypatch, mode, asked, wanted):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert Wandb.wanted(asked) is wanted


@pytest.mark.parametrize("logged_in", [False, True])
def test_wandb_is_offline_unless_logged_in_and_survives_a_dead_network(monkeypatch, tmp_path, capsys, logged_in):
    class Error(Exception):
        pass

    modes, rows = [], []

    def init(mode, **options):
        modes.append(mode)
        if mode == "online":
            raise Error("timed out")
        return SimpleNamespace(log=lambda row, step: rows.append((step, row)), finish=lambda: None)

    fake = SimpleNamespace(init=init, Settings=dict, errors=SimpleNamespace(Error=Error))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if logged_in:
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    else:
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr("labhelpers.training.tracking.reachable", lambda url: True)
    log = Wandb(tmp_path / "net" / "key", {})
    log.write({"step": 3, "loss": 0.5})
    log.close()
    assert modes == (["online", "offline"] if logged_in else ["offline"])
    assert ("logging offline" in capsys.readouterr().out) is logged_in
    assert rows == [(3, {"loss": 0.5})]
