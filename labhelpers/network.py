"""Can a host be reached? Decided within about a second, so that a notebook without a network goes on at once."""

import socket
import threading
from urllib.parse import urlsplit


def reachable(url: str, timeout: float = 1.0) -> bool:
    """Whether a TCP connection to the host of ``url`` succeeds within ``timeout`` seconds.

    The look-up of the name has no time limit of its own in the standard library, so the attempt runs in a thread that
    is left behind when the time is over.
    """
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    answer = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname, port), timeout=timeout).close()
        except OSError:
            return
        answer.set()

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(timeout)
    return answer.is_set()
