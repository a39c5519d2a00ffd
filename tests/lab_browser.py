"""A real Jupyter server on the loopback and a real browser without a window, for the tests of the canvas."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START = 120  # seconds that a server or a kernel may take to start on a busy machine
CHROMIUM = "chromium"
# No window, no sandbox (which containers lack), and nothing that asks the network for updates.
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def why_no_browser() -> str:
    """Why the tests with a browser cannot run here; empty where they can."""
    if shutil.which(CHROMIUM) is None:
        return f"no browser: `{CHROMIUM}` is not installed (apt-get install chromium)"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "no browser driver: playwright is not installed (pip install playwright)"
    return ""


@dataclass
class Server:
    """A running server: its address, and the token that its pages and its API ask for."""

    address: str
    token: str

    def page(self, path: str) -> str:
        return f"{self.address}/{path}?token={self.token}"

    def get(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.address}/{path}", headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def wait_for_kernel(self, notebook: str) -> None:
        """Until the notebook's kernel is idle and the page is connected to it: what is run earlier is lost."""
        end = time.monotonic() + START
        while time.monotonic() < end:
            kernels = [s["kernel"] for s in self.get("api/sessions") if s["path"] == notebook]
            if any(kernel["execution_state"] == "idle" and kernel["connections"] for kernel in kernels):
                return
            time.sleep(0.1)
        raise TimeoutError(f"no kernel for {notebook} within {START} s")


def jupyter_lab(folder: Path) -> AbstractContextManager[Server]:
    """JupyterLab on a folder; its application is visible to scripts in the page, as `jupyterapp`."""
    options = ["--expose-app-in-browser", "--allow-root", "--IdentityProvider.token={token}"]
    return serve(folder, ["jupyterlab", *options])


def voila(folder: Path, notebook: Path) -> AbstractContextManager[Server]:
    """A notebook as a page, at the server's address; `folder` takes the log and settings."""
    return serve(folder, ["voila", str(notebook), "--token={token}"])


@contextmanager
def serve(folder: Path, command: list[str]) -> Iterator[Server]:
    """Run `python -m` COMMAND with a free port, a token and settings of its own, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}", secrets.token_hex(16))
    home = folder / "jupyter"
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # Otherwise JupyterLab asks whether to fetch news, in a box that covers buttons.
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        # For prompting_toys in the kernel.
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    arguments = [part.format(token=server.token) for part in (*command, "--no-browser", f"--port={port}")]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            _wait(port, process, folder / "server.log")
            yield server
        finally:
            process.terminate()  # it ends its kernels
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which(CHROMIUM), args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()


def run_all(page: Any, server: Server, notebook: str) -> None:
    """Open a notebook in JupyterLab and run all its cells."""
    page.goto(server.page(f"lab/tree/{notebook}"))
    server.wait_for_kernel(notebook)
    page.wait_for_function(
        """() => {
          const session = window.jupyterapp?.shell.currentWidget?.sessionContext;
          return session?.isReady && session.session?.kernel?.connectionStatus === "connected";
        }""",
        timeout=1000 * START,
    )
    page.evaluate("() => void jupyterapp.commands.execute('notebook:run-all-cells')")  # without waiting for its end


def _wait(port: int, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the server did not start; its log ends with\n{log.read_text()[-3000:]}")
