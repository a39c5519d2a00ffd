"""A web server on loopback whose files misbehave on request, for tests of downloads."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    """The first part of the address says how to behave, the rest is the file: /drops/archive.tar."""

    def do_GET(self):
        _, behaviour, name = self.path.split("/", 2)
        server = self.server
        server.requests.append((behaviour, self.headers.get("Range")))
        data = server.files[name]
        if behaviour == "missing":
            self.send_error(404)
            return
        if behaviour == "moved":
            self.send_response(301)
            self.send_header("Location", f"/good/{name}")
            self.end_headers()
            return
        if behaviour == "wrong":
            data = bytes(reversed(data))
        if behaviour == "short":
            data = data[:-1]
        start = 0
        asked = self.headers.get("Range")
        if asked and behaviour != "no-range":
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            if behaviour == "other-range":
                start = 0
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        if behaviour != "no-length":
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self._send(behaviour, data[start:])

    def _send(self, behaviour, body):
        if behaviour == "drops":  # a third of the file with each connection
            self.wfile.write(body[: len(self.server.files["archive.tar"]) // 3 + 1])
        elif behaviour == "dead":  # promises, and sends nothing
            pass
        elif behaviour == "silent":
            self.server.released.wait(10)
        elif behaviour in ("slow", "crawls"):
            step = len(body) // 8 + 1 if behaviour == "slow" else 1
            for at in range(0, min(len(body), 100 * step), step):
                if self.server.released.is_set():
                    return
                self.wfile.write(body[at : at + step])
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):  # a client that hangs up is part of the tests
        pass


@contextmanager
def serve(files: dict[str, bytes]):
    """Serve `files`; yields the server, with `.url(behaviour, name)` and the list `.requests`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.files, server.requests, server.released = files, [], threading.Event()
    server.url = lambda behaviour, name: f"http://127.0.0.1:{server.server_port}/{behaviour}/{name}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
