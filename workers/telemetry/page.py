"""One worker's own `/metrics`, over HTTP on a port of the OS.

On threads of its own, so that neither tokens nor whoever asks wait for the other; at most `MAX_CONNECTIONS` at once,
and none for longer than `TIMEOUT_S` without a word.
"""

import contextlib
import hmac
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from baton.v1.worker_pb2 import WorkerState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_CONNECTIONS = 16
TIMEOUT_S = 5.0


class MetricsPage:
    """
    Args:
        host: Address to bind.
        token: What a request shows as `Authorization: Bearer`; None: nobody needs to.
        state: The worker's of now; from any thread.
    """

    def __init__(self, *, host: str, token: str | None, state: Callable[[], WorkerState]) -> None:
        self._server = _Server((host, 0), token, state)
        self.address = f"{host}:{self._server.server_port}"
        threading.Thread(target=self._accept, name="metrics", daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes who waits in `accept`
        self._server.server_close()

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._server.get_request()
            except OSError:
                return
            self._server.process_request(connection, address)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, place: tuple[str, int], token: str | None, state: Callable[[], WorkerState]) -> None:
        super().__init__(place, _Handler)
        self.authorization = None if token is None else f"Bearer {token}".encode()
        self.state = state
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)

    def server_bind(self) -> None:
        """As the parent's, without its question to DNS for the host's name."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone: nobody's trouble."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        wanted = self.server.authorization
        if self.path.split("?")[0] != "/metrics":
            self._answer(404, b"no such path; metrics are at /metrics\n")
        elif wanted is not None and not hmac.compare_digest(self._shown(), wanted):
            self._answer(401, b"Authorization: missing or wrong; send `Bearer` and the cluster's metrics token\n")
        else:
            self._answer(200, text_of(self.server.state()))

    do_HEAD = do_GET

    def _shown(self) -> bytes:
        return (self.headers.get("Authorization") or "").encode("utf-8", "replace")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no news."""


def text_of(state: WorkerState) -> bytes:
    """The page: the worker's own metrics, and its process's."""
    from prometheus_client import CollectorRegistry, ProcessCollector

    from workers.telemetry.exposition import text
    from workers.telemetry.families import of_itself, worker_families

    process = ProcessCollector(registry=CollectorRegistry()).collect()
    return text([*worker_families([of_itself(state)]), *process])
