"""TLS for servers of this process, uvicorn's and gRPC's: new connections have the files as they are now.

What is there is looked at when a client comes, not in between. Files that cannot be used change nothing, and the log
says so; connections that stand go on with what they began with.
"""

import logging
import ssl
import threading
import time
from typing import Any

import grpc

from baton.errors import ConfigError
from cluster.config.schema import TLSConfig
from cluster.doors.tls_files import Credentials, read_credentials, server_context
from cluster.doors.watched import LOOK_S, Watched

logger = logging.getLogger(__name__)


class LiveTLS:
    """Thread-safe: gRPC asks from threads of its own. Raises: ConfigError: the files cannot be used now."""

    def __init__(self, tls: TLSConfig) -> None:
        self._tls = tls
        self._watched = Watched([tls.certificate, tls.key, tls.client_ca])
        self._credentials = read_credentials(tls)
        self._context = server_context(self._credentials)
        self._looked_s = time.monotonic()
        self._lock = threading.Lock()

    def ssl_context(self, *_: Any) -> ssl.SSLContext:
        """For uvicorn's `ssl_context_factory`, whose arguments are of no use here."""
        front = server_context(self._credentials)

        def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            connection.context = self._now()[1]

        front.sni_callback = choose  # called for clients that name no server too
        return front

    def grpc_credentials(self) -> Any:
        given = self._credentials

        def fetch() -> Any:
            nonlocal given
            now = self._now()[0]
            if now is given:
                return None
            given = now
            return _grpc_configuration(now)

        return grpc.dynamic_ssl_server_credentials(_grpc_configuration(given), fetch, bool(self._tls.client_ca))

    def _now(self) -> tuple[Credentials, ssl.SSLContext]:
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._looked_s >= LOOK_S:
                self._looked_s = now_s
                if self._watched.changed():
                    self._take()
            return self._credentials, self._context

    def _take(self) -> None:
        try:
            self._credentials = read_credentials(self._tls)
        except ConfigError as error:
            logger.error("the certificate of before stays, the changed files are NOT used: %s", error.message)
            return
        self._context = server_context(self._credentials)
        logger.info("certificate read again expires=%s", self._credentials.expires.isoformat())


def _grpc_configuration(credentials: Credentials) -> Any:
    pairs = [(credentials.key, credentials.certificate)]
    return grpc.ssl_server_certificate_configuration(pairs, credentials.client_ca or None)
