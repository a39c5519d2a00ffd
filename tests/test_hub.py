"""Weights from the hub: cached, downloaded or done without, and never waited for."""

import hashlib
import shutil
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save

from labhelpers.models import hub
from labhelpers.models.hub import hub_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = save({"weight": torch.arange(6.0)})


class _Hub(BaseHTTPRequestHandler):
    """What the hub answers for one file; `server.behaviour` says how it fails."""

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool):
        self.server.requests.append((self.command, self.path, self.headers.get("Authorization")))
        if self.server.behaviour == "hangs up":
            return
        if self.server.behaviour == "busy":
            self.send_error(503)
            return
        if self.server.behaviour == "missing" or not self.path.startswith("/group/tiny/resolve/"):
            self.send_error(404)
            return
        content = CONTENT
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(bytes(reversed(content)) if self.server.behaviour == "wrong" else content)

    def log_message(self, *_):
        pass


@contextmanager
def serve(behaviour: str):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.behaviour, server.requests = behaviour, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def point_to(url: str, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


@pytest.fixture
def online(cache, monkeypatch):
    """Serve from a hub on loopback: `with online("good") as server`."""

    @contextmanager
    def start(behaviour: str):
        with serve(behaviour) as server:
            point_to(f"http://127.0.0.1:{server.server_port}", monkeypatch)
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
