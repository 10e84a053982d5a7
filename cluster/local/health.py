"""Asks a cluster's public HTTP port whether it answers, whoever it would let in."""

import socket
import ssl
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from baton.errors import UnavailableError

POLL_S = 0.1
TIMEOUT_S = 5.0


def wait_for_health(url: str, timeout_s: float, *, wants_certificate: bool = False) -> None:
    """
    Args:
        wants_certificate: Of its clients: we have none to show, so that it speaks TLS must do.
    Raises:
        UnavailableError: Not healthy within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            _shake_hands(url) if wants_certificate else _get(url)
            return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise UnavailableError(f"{url} is not healthy after {timeout_s:g} s: {error}") from error
        time.sleep(POLL_S)


def _get(url: str) -> None:
    context = _trusting_context() if url.startswith("https:") else None
    with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context):
        return


def _shake_hands(url: str) -> None:
    """Ends well once the server has shown its certificate; that we show none it finds out after that."""
    parts = urlsplit(url)
    with (
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=TIMEOUT_S) as plain,
        _trusting_context().wrap_socket(plain),
    ):
        return


def _trusting_context() -> ssl.SSLContext:
    """Nothing secret is sent, and the certificate is for another name than the address of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
