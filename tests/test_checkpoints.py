"""Checkpoints: what is kept, full disks, damage, other architectures, memory layouts."""

import builtins
import errno
import json
import os

import pytest
import torch
from training_toys import SETS, assert_same, tiny_net, tiny_recipe

from labhelpers.training import build_optimizer, checkpoints, train


def save(folder, step, best_step=None, value=None):
    tensor = torch.full((3,), float(step if value is None else value))
    parts = {"model": {"w": tensor}, "optimizer": {"0.exp_avg": tensor}}
    checkpoints.save(folder, step, parts, {"best_step": best_step, "note": "x"})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_is_exact(tmp_path):
    model = tiny_net()
    checkpoints.save(tmp_path, 7, {"model": model.state_dict(), "optimizer": {}}, {"best_step": 7, "x": [1.5, None]})
    found = checkpoints.latest(tmp_path)
    assert (found.step, found.info["x"]) == (7, [1.5, None])
    other = tiny_net(seed=1)
    checkpoints.load_model(other, found.parts["model"], tmp_path)
    assert_same(model, other)


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    assert checkpoints.latest(tmp_path / "missing") is None


def test_two_last_and_the_best_model_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, best_step=1 if step < 4 else 4)
    kept = [f"step-0000000{s}.{end}" for s in (3, 4) for end in ("json", "model.safetensors", "optimizer.safetensors")]
    assert names(tmp_path) == sorted([*kept, "step-00000001.json", "step-00000001.model.safetensors"])
    save(tmp_path, 5, best_step=4)  # now neither of the two last names step 1 as the best
    assert not [name for name in names(tmp_path) if "00000001" in name]


class FullDisk:
    """Stands in for an open file: takes some bytes, then the disk is full."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("ending", [".model.safetensors", ".optimizer.safetensors", ".json"])
def test_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, ending):
    save(tmp_path, 1)
    before = names(tmp_path)
    real_open = builtins.open

    def full(path, mode="r", **options):
        file = real_open(path, mode, **options)
        return FullDisk(file) if "w" in mode and str(path).endswith(f"{ending}.{os.getpid()}.partial") else file

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", full)
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


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("ending", ["model.safetensors", "optimizer.safetensors", "json"])
def test_damage_falls_back_to_the_one_before_and_says_so(tmp_path, damage, ending):
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(tmp_path / f"step-00000002.{ending}")
    if ending == "json" and not (tmp_path / "step-00000002.json").exists():
        assert checkpoints.latest(tmp_path).step == 1  # without a JSON it was never finished
        return
    with pytest.warns(UserWarning, match=rf"step-00000002.{ending} is damaged.*falling back to step 1"):
        found = checkpoints.latest(tmp_path)
    assert found.parts["model"]["w"].tolist() == [1, 1, 1]


def test_all_damaged_says_that_nothing_is_left(tmp_path):
    save(tmp_path, 1)
    flip(tmp_path / "step-00000001.model.safetensors")
    with pytest.warns(UserWarning, match="nothing is left"):
        assert checkpoints.latest(tmp_path) is None


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path):
    train(tiny_net(), *SETS, tiny_recipe(), tmp_path)
    result, log = (tmp_path / "step-00000006.model.safetensors").read_bytes(), (tmp_path / "log.csv").read_bytes()
    flip(tmp_path / "step-00000006.model.safetensors")
    with pytest.warns(UserWarning, match="falling back to step 4"):
        train(tiny_net(), *SETS, tiny_recipe(), tmp_path)
    assert (tmp_path / "step-00000006.model.safetensors").read_bytes() == result
    assert (tmp_path / "log.csv").read_bytes() == log


def test_another_architecture_names_keys_and_shapes(tmp_path):
    recipe = tiny_recipe(steps=1)
    train(tiny_net(), *SETS, recipe, tmp_path)
    before = names(tmp_path)
    with pytest.raises(ValueError, match=r"encoder.0.weight: shape \(8, 3, 3, 3\) saved, \(4, 3, 3, 3\) in the model"):
        train(tiny_net(width=4), *SETS, recipe, tmp_path)
    with pytest.raises(ValueError, match=r"encoder.1.* not in the model.*Build the model with"):
        train(tiny_net(norm=False), *SETS, recipe, tmp_path)
    assert names(tmp_path) == before


def test_another_recipe_in_the_same_folder_is_refused(tmp_path):
    train(tiny_net(), *SETS, tiny_recipe(steps=1), tmp_path)
    with pytest.raises(ValueError, match=r"another recipe \(lr: 0.01 there, 0.02 now\)"):
        train(tiny_net(), *SETS, tiny_recipe(steps=1, lr=0.02), tmp_path)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimizer_continues_exactly_also_in_channels_last(name):
    def step(model, optimizer):
        model(torch.ones(1, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    recipe = tiny_recipe(optimizer=name)
    model = tiny_net(dropout=0.0).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, recipe)
    step(model, optimizer)
    tensors = {k: v.clone().contiguous() for k, v in checkpoints.optimizer_tensors(optimizer).items()}
    other = tiny_net(seed=1, dropout=0.0).to(memory_format=torch.channels_last)
    other.load_state_dict(model.state_dict())
    continued = build_optimizer(other, recipe)
    checkpoints.load_optimizer(continued, tensors)
    for _ in range(2):
        step(model, optimizer)
        step(other, continued)
    assert_same(model, other)


def test_the_bookkeeping_is_plain_json(tmp_path):
    train(tiny_net(), *SETS, tiny_recipe(steps=1), tmp_path)
    info = json.loads((tmp_path / "step-00000001.json").read_text())
    assert set(info["sha256"]) == {"model", "optimizer"}
    assert info["recipe"]["lr"] == 0.01
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pt", ".pth", ".bin", ".pkl")]
