"""A hub on loopback with the files of one repository, `group/tiny`, that misbehaves on request."""

import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from huggingface_hub import constants, file_download

COMMIT = "0123456789abcdef0123456789abcdef01234567"
START = "/group/tiny/resolve/"


class _Hub(BaseHTTPRequestHandler):
    """What the hub answers; `server.behaviour` says how it fails."""

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool):
        server = self.server
        server.requests.append((self.command, self.path, self.headers.get("Authorization")))
        if server.behaviour == "hangs up":
            return
        if server.behaviour == "busy":
            self.send_error(503)
            return
        name = self.path.removeprefix(START).partition("/")[2]  # after the revision
        if server.behaviour == "missing" or not self.path.startswith(START) or name not in server.files:
            self.send_error(404)
            return
        content = server.files[name]
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(bytes(reversed(content)) if server.behaviour == "wrong" else content)

    def log_message(self, *_):
        pass


@contextmanager
def serve(files: dict[str, bytes], behaviour: str = "good"):
    """Yields the server, with `.url` and the list `.requests` of (command, path, authorization)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.files, server.behaviour, server.requests = files, behaviour, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def point_to(url: str, monkeypatch) -> None:
    """Have huggingface_hub take `url` for the hub."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # before version 1 the second had it under its own name
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


def empty_cache(folder, monkeypatch) -> None:
    """Have huggingface_hub keep its files in `folder`, and go online."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
