"""A profile that takes seconds, though its results count, and networks trained in it, for tests of the course."""

import dataclasses
from pathlib import Path

import pytest

from labhelpers import config
from labhelpers.course.plans import Experiment

SECRET = 10 * "7ab1"


def hold_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts keys of services into the environment, as where somebody is logged in."""
    for name in ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "KAGGLE_KEY", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, SECRET)


def written_keys(*folders: Path) -> list[Path]:
    """The files below the folders that hold such a key; there are files."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if SECRET.encode() in path.read_bytes()]


def use_short_profile(monkeypatch: pytest.MonkeyPatch, home: Path) -> config.Profile:
    """Puts the numbers of `tiny`, with fewer scenes, in the place of `smoke`, whose results are kept."""
    profile = dataclasses.replace(config.PROFILES["tiny"], name="smoke", scenes=(12, 6))
    monkeypatch.setitem(config.PROFILES, "smoke", profile)
    monkeypatch.setenv("LAB_PROFILE", "smoke")
    monkeypatch.setenv("LAB_HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("LAB_CHECKPOINTS", raising=False)
    monkeypatch.delenv("LAB_VOC_ROOT", raising=False)
    return profile


def train_named(names: list[str], monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Trains networks in the short profile, below `home`."""
    profile = use_short_profile(monkeypatch, home)
    for name in names:
        Experiment.open(name, profile).train()
