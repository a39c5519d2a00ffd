"""Weights from the hub: cached, downloaded or done without, and never waited for."""

import shutil
import time
from contextlib import contextmanager

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save
from tiny_hub import COMMIT, empty_cache, point_to, serve

from labhelpers.models import library as hub
from labhelpers.models.library import hub_file, hub_weights

CONTENT = save({"weight": torch.arange(6.0)})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    empty_cache(tmp_path / "hub", monkeypatch)
    return tmp_path / "hub"


@pytest.fixture
def online(cache, monkeypatch):
    """Serve from a hub on loopback: `with online("good") as server`."""

    @contextmanager
    def start(behaviour: str):
        with serve({hub.FILE: CONTENT}, behaviour) as server:
            point_to(server.url, monkeypatch)
            yield server

    return start


def fetch(revision: str = COMMIT):
    return hub_weights("group/tiny", revision, "unet on tiny")


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_downloaded_once_and_then_read_without_a_network(online, revision, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with online("good") as server:
        assert load_file(fetch(revision))["weight"].tolist() == [0, 1, 2, 3, 4, 5]
        assert all(token is None for *_, token in server.requests)
        count = len(server.requests)
        fetch(revision)
        assert len(server.requests) == count
    monkeypatch.setattr(hub, "reachable", lambda url: False)
    assert fetch(revision).read_bytes() == CONTENT  # the server is gone
    assert capsys.readouterr().out == ""


def test_without_a_network_one_sentence_at_once(cache, monkeypatch, capsys):
    point_to("http://hub.invalid", monkeypatch)
    start = time.perf_counter()
    assert fetch() is None
    assert time.perf_counter() - start < 2
    assert capsys.readouterr().out == (
        "No network: unet on tiny starts from random weights instead of ImageNet's (looked for group/tiny in the "
        "cache of huggingface_hub).\n"
    )


def test_offline_mode_asks_nobody(online, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with online("good") as server:
        assert fetch() is None
        assert server.requests == []
    assert capsys.readouterr().out.startswith("No network: ")


@pytest.mark.parametrize("behaviour", ["missing", "busy", "hangs up"])
def test_a_hub_that_refuses_is_told_at_once(online, capsys, behaviour):
    start = time.perf_counter()
    with online(behaviour):
        assert fetch() is None
    assert time.perf_counter() - start < 2
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith("127.0.0.1 does not give group/tiny (")
    assert printed.endswith(": unet on tiny starts from random weights instead of ImageNet's.\n")


def test_other_content_than_the_hub_named_is_refused_each_time(online):
    with online("wrong"):
        for _ in range(2):  # after the download, and from the cache
            with pytest.raises(
                ValueError, match=r"safetensors is damaged: its SHA-256 is \w+, not \w+\. Delete \S+tiny and"
            ):
                fetch()


def test_a_damaged_cache_is_found(online, cache):
    with online("good"):
        path = fetch()
        path.resolve().write_bytes(CONTENT[:-1])
        with pytest.raises(ValueError, match="is damaged"):
            fetch()
        shutil.rmtree(cache / "models--group--tiny")  # what the error says
        assert fetch().read_bytes() == CONTENT


def test_the_size_is_told_before_a_download_and_only_then(online):
    told = []
    with online("good"):
        for _ in range(2):
            hub_file("group/tiny", COMMIT, hub.FILE, told.append)
    assert told == [len(CONTENT)]
