import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from labhelpers import config
from labhelpers.files import reachable


def test_unknown_profile_lists_the_known(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "huge")
    with pytest.raises(ValueError, match="LAB_PROFILE='huge'; known: tiny, smoke, lab, full"):
        config.profile()


@pytest.mark.parametrize("name", config.PROFILES)
def test_every_profile_makes_a_valid_recipe_and_augmentation(name, monkeypatch):
    from labhelpers.data import Augmentation
    from labhelpers.training import Recipe

    monkeypatch.setenv("LAB_PROFILE", name)
    profile = config.profile()
    assert profile.name == name
    recipe = Recipe(steps=profile.training_steps(1464), **profile.recipe)
    assert recipe.warmup_steps < recipe.steps
    assert Augmentation(**profile.augmentation).crop <= profile.scene_size
    deeplab = replace(recipe, **profile.deeplab_recipe)
    assert deeplab.warmup_steps < deeplab.steps
    assert profile.deeplab_crop <= profile.scene_size


@pytest.mark.parametrize("name", config.PROFILES)
def test_every_profile_makes_a_valid_recipe_for_prompts(name):
    from labhelpers.data import Augmentation
    from labhelpers.training import PromptRecipe

    settings = config.PROFILES[name].mini_sam
    recipe = PromptRecipe(augmentation=Augmentation(**settings["augmentation"]), **settings["training"])
    assert recipe.warmup_steps < recipe.steps
    assert 0 < recipe.freeze_encoder_steps <= recipe.steps
    assert settings["encoder"] in ("shipped", "imagenet")
    assert recipe.smallest < recipe.augmentation.crop**2 / 20


def test_the_courses_recipe_of_mini_sam():
    recipe = config.PROFILES["lab"].mini_sam["training"]
    assert config.PROFILES["lab"].mini_sam["images"] == 500
    assert {key: recipe[key] for key in ("lr", "weight_decay", "clip_norm", "batch_size", "schedule")} == {
        "lr": 3e-4,
        "weight_decay": 1e-4,
        "clip_norm": 1.0,
        "batch_size": 16,
        "schedule": "cosine",
    }
    assert recipe["steps"] // (500 // 16) == 30  # epochs


@pytest.mark.parametrize("name", config.PROFILES)
def test_deeplab_has_rates_for_its_map(name):
    """At least a third of the largest rate's weights must read the map of a crop, and the options build a model."""
    import torch

    from labhelpers.models import build

    profile = config.PROFILES[name]
    with torch.device("meta"):
        model = build("deeplabv3plus", **{**profile.model_options, "pretrained": False}, **profile.deeplab)
    side = -(-profile.deeplab_crop // profile.deeplab["output_stride"])
    rate = max(conv[0].dilation[0] for conv in model.head.aspp.atrous_convs)
    axis = 1 + 2 * max(0, side - rate) / side  # of three weights along an axis, those inside, on average
    assert axis**2 / 9 > 1 / 3


def test_the_published_recipe_of_deeplab():
    recipe = dict(config.PROFILES["full"].recipe) | dict(config.PROFILES["full"].deeplab_recipe)
    assert {key: recipe[key] for key in ("optimizer", "lr", "momentum", "weight_decay", "batch_size", "steps")} == {
        "optimizer": "sgd",
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": 8,
        "steps": 5000,
    }
    assert recipe["lr"] * recipe["backbone_factor"] == pytest.approx(0.001)
    assert (recipe["schedule"], recipe["step_size"], recipe["gamma"]) == ("step", 1000, 0.1)


def test_steps_follow_the_epochs():
    assert config.PROFILES["full"].training_steps(1464) == 50 * (1464 // 16)
    assert config.PROFILES["full"].training_steps(3) == 50


def test_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "a"))
    assert config.data_root() == tmp_path / "a" / "data"
    assert config.checkpoints_root().is_dir()
    monkeypatch.setenv("LAB_CHECKPOINTS", str(tmp_path / "drive"))
    assert config.checkpoints_root() == tmp_path / "drive"
    assert (tmp_path / "drive").is_dir()


def python(code: str, **environment: str) -> str:
    import os

    kept = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**kept, **environment}, check=True
    )
    return run.stdout + run.stderr


def test_importing_labhelpers_makes_threads_wait_passively():
    code = "import labhelpers, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    assert python(code) == "PASSIVE False\n"
    assert python(code, OMP_WAIT_POLICY="ACTIVE") == "ACTIVE False\n"


def test_torch_first_gives_one_warning_with_the_remedy():
    printed = python("import torch, labhelpers, labhelpers.models")
    assert printed.count("Warning") == 1
    assert "import labhelpers before torch" in printed
    assert python("import torch, labhelpers", OMP_WAIT_POLICY="PASSIVE") == ""


def test_reachable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable(f"http://127.0.0.1:{port}/file")
    assert not reachable(f"http://127.0.0.1:{port}/file")


def test_an_unanswered_look_up_does_not_hold_anybody_up(monkeypatch):
    def never_answers(*_, **__):
        time.sleep(3)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", never_answers)
    start = time.perf_counter()
    assert not reachable("https://example.invalid/file", seconds=0.2)
    assert time.perf_counter() - start < 2
