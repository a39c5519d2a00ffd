"""Checkpoints: what is kept, full disks, damage, other architectures, memory layouts."""

import builtins
import errno
import json
import os
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from training_toys import SETS, assert_same, own_ce, tiny_net, tiny_recipe

from labhelpers.training import build_optimizer, checkpoints, train


def save(folder, step, best_step=None):
    tensor = torch.full((3,), float(step))
    parts = {"model": {"w": tensor}, "optimizer": {"0.exp_avg": tensor}}
    checkpoints.save(folder, step, parts, {"best_step": best_step})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_is_exact(tmp_path):
    assert checkpoints.latest(tmp_path) is checkpoints.latest(tmp_path / "missing") is None
    model, other = tiny_net(), tiny_net(seed=1)
    checkpoints.save(tmp_path, 7, {"model": model.state_dict(), "optimizer": {}}, {"best_step": 7, "x": [1.5, None]})
    found = checkpoints.latest(tmp_path)
    assert (found.step, found.info["x"]) == (7, [1.5, None])
    checkpoints.load_model(other, found.parts["model"], tmp_path)
    assert_same(model, other)


def test_two_last_and_the_best_model_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, best_step=1 if step < 4 else 4)
    kept = [f"step-0000000{s}.{end}" for s in (3, 4) for end in ("json", "model.safetensors", "optimizer.safetensors")]
    assert names(tmp_path) == sorted([*kept, "step-00000001.json", "step-00000001.model.safetensors"])
    save(tmp_path, 5, best_step=4)  # now neither of the two last names step 1 as the best
    assert not [name for name in names(tmp_path) if "00000001" in name]


@pytest.mark.parametrize("ending", [".model.safetensors", ".optimizer.safetensors", ".json"])
def test_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, ending):
    save(tmp_path, 1)
    before, real_open = names(tmp_path), builtins.open

    def nearly_full(path, mode="r", **options):
        file = real_open(path, mode, **options)
        if "w" not in mode or not str(path).endswith(f"{ending}.{os.getpid()}.partial"):
            return file

        def write(data):
            file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        disk = MagicMock()
        disk.__enter__.return_value.write = write
        disk.__exit__.side_effect = lambda *_: file.close()
        return disk

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", nearly_full)
        with pytest.raises(RuntimeError, match=r"step 2 .*No space left on device.*step 1 is intact.*run again"):
            save(tmp_path, 2)
    assert checkpoints.latest(tmp_path).parts["model"]["w"].tolist() == [1, 1, 1]
    assert not list(tmp_path.glob("*.partial"))
    assert set(before) <= set(names(tmp_path))
    save(tmp_path, 2)
    assert checkpoints.latest(tmp_path).step == 2


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("ending", ["model.safetensors", "optimizer.safetensors", "json"])
def test_damage_falls_back_to_the_one_before_and_says_so(tmp_path, damage, ending):
    for step in (1, 2):
        save(tmp_path, step)
    damage(tmp_path / f"step-00000002.{ending}")
    unfinished = ending == "json" and damage is Path.unlink  # without a JSON it was never a checkpoint
    said = pytest.warns(UserWarning, match=rf"step-00000002.{ending} is damaged.*falling back to step 1")
    with nullcontext() if unfinished else said:
        assert checkpoints.latest(tmp_path).parts["model"]["w"].tolist() == [1, 1, 1]
    for path in tmp_path.glob("step-00000002.*"):
        path.unlink()
    flip(tmp_path / "step-00000001.model.safetensors")
    with pytest.warns(UserWarning, match="nothing is left"):
        assert checkpoints.latest(tmp_path) is None


@pytest.mark.parametrize("text", ['"best_step": 1', '"best_step": [1]', '"best_step": ' + "[" * 10**5])
def test_bookkeeping_that_was_changed_is_damage(tmp_path, text):
    for step in (1, 2):
        save(tmp_path, step)
    path = tmp_path / "step-00000002.json"
    path.write_text(path.read_text().replace('"best_step": null', text))
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged: .*falling back to step 1"):
        assert checkpoints.latest(tmp_path).step == 1
    save(tmp_path, 3)  # which asks the earlier ones for the best
    assert checkpoints.latest(tmp_path).step == 3


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path):
    train(tiny_net(), *SETS, tiny_recipe(), tmp_path)
    files = tmp_path / "step-00000006.model.safetensors", tmp_path / "log.csv"
    before = [file.read_bytes() for file in files]
    flip(files[0])
    with pytest.warns(UserWarning, match="falling back to step 4"):
        train(tiny_net(), *SETS, tiny_recipe(), tmp_path)
    assert [file.read_bytes() for file in files] == before


def test_another_architecture_or_recipe_in_the_same_folder_is_refused(tmp_path):
    train(tiny_net(), *SETS, tiny_recipe(steps=1), tmp_path)
    before = names(tmp_path)
    for options, changes, message in (
        ({"width": 4}, {}, r"encoder.0.weight: shape \(8, 3, 3, 3\) saved, \(4, 3, 3, 3\) in the model"),
        ({"norm": False}, {}, r"encoder.1.* not in the model.*Build the model with"),
        ({}, {"lr": 0.02}, r"another recipe \(lr: 0.01 there, 0.02 now\)"),
        ({}, {"loss": own_ce}, r"another recipe \(loss: 'ce' there, 'own_ce \w{12}' now\)"),
    ):
        with pytest.raises(ValueError, match=message):
            train(tiny_net(**options), *SETS, tiny_recipe(steps=1, **changes), tmp_path)
    assert names(tmp_path) == before
    info = json.loads((tmp_path / "step-00000001.json").read_text())  # the bookkeeping is plain JSON
    assert set(info["sha256"]) == {"model", "optimizer"}
    assert info["recipe"]["lr"] == 0.01
    assert not {path.suffix for path in tmp_path.iterdir()} & {".pt", ".pth", ".bin", ".pkl"}


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimizer_continues_exactly_also_in_channels_last(name):
    def step(model, optimizer):
        model(torch.ones(1, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, other = (tiny_net(seed, dropout=0.0).to(memory_format=torch.channels_last) for seed in (0, 1))
    optimizer, continued = (build_optimizer(net, tiny_recipe(optimizer=name)) for net in (model, other))
    step(model, optimizer)
    other.load_state_dict(model.state_dict())
    tensors = {k: v.clone().contiguous() for k, v in checkpoints.optimizer_tensors(optimizer).items()}
    checkpoints.load_optimizer(continued, tensors)
    for _ in range(2):
        step(model, optimizer)
        step(other, continued)
    assert_same(model, other)
