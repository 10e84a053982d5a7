"""Asks a cluster's public HTTP port whether it answers, whoever it would let in."""

import ssl
import time
import urllib.error
import urllib.request

from baton.errors import UnavailableError

POLL_S = 0.1
# What a server that wants a client's certificate says to us, who have none: it is there, and speaks TLS.
_WANTS_A_CERTIFICATE = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "ALERT_UNKNOWN_CA")


def wait_for_health(url: str, timeout_s: float) -> None:
    """Raises: UnavailableError: not healthy within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5.0, context=_trusting_context(url)):
                return
        except (urllib.error.URLError, OSError) as error:
            if _wants_a_certificate(error):
                return
            if time.monotonic() > deadline:
                raise UnavailableError(f"{url} is not healthy after {timeout_s:g} s: {error}") from error
        time.sleep(POLL_S)


def _trusting_context(url: str) -> ssl.SSLContext | None:
    """Nothing secret is sent, and the certificate is for another name than the address of this machine."""
    if not url.startswith("https:"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _wants_a_certificate(error: BaseException) -> bool:
    reason = getattr(error, "reason", error)
    cause = reason if isinstance(reason, ssl.SSLError) else error
    return isinstance(cause, ssl.SSLError) and any(word in str(cause.reason) for word in _WANTS_A_CERTIFICATE)
