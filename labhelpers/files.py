"""Can a host be reached? Decided within about a second, so that a notebook without a network goes on at once."""

import socket
import threading
import time
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

CONNECT_SECONDS = 1.0  # an address that does not answer by then counts as unreachable


def reachable(url: str, seconds: float = CONNECT_SECONDS) -> bool:
    """Whether a connection to the host of `url` succeeds within `seconds`."""
    return not connection_problems([url], seconds)


def connection_problems(urls: Sequence[str], seconds: float = CONNECT_SECONDS) -> dict[str, str]:
    """Connect to the hosts of all addresses at the same time; return the reason for each that fails.

    Takes at most `seconds` for all of them together. Looking a name up has no time limit in the standard library, so
    the attempts run in threads that are left behind when the time is over.
    """
    outcome: dict[str, str | None] = {}

    def attempt(url: str) -> None:
        try:
            socket.create_connection(_host_and_port(url), timeout=seconds).close()
            outcome[url] = None
        except OSError as error:
            outcome[url] = f"cannot connect ({error.strerror or error})"

    threads = [threading.Thread(target=attempt, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    answers = {url: outcome.get(url, f"no connection within {seconds:g} s") for url in urls}
    return {url: reason for url, reason in answers.items() if reason is not None}


def _host_and_port(url: str) -> tuple[str, int]:
    """Where a request for `url` connects to: the proxy the environment names for it, else its own host."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
