"""An HTTP server that answers as its test says, in threads, on a port of the system's choice."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


Respond = Callable[[str, dict[str, Any]], Reply | None]  # path and body in; None: the connection is closed


@dataclass(slots=True)
class FakeServer:
    """`seen` counts requests by what they say of themselves, `max_at_once` those that were open together."""

    url: str = ""
    seen: Counter[str] = field(default_factory=Counter)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    max_at_once: int = 0


def echo(path: str, body: dict[str, Any]) -> Reply:
    return Reply(body={"id": f"cmpl-{body['prompt']}", "path": path, "model": body.get("model")})


@contextmanager
def serving(respond: Respond = echo) -> Iterator[FakeServer]:
    server = FakeServer()
    lock = threading.Lock()
    at_once = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal at_once
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.seen[body["prompt"]] += 1
                server.headers.append(dict(self.headers))
                at_once += 1
                server.max_at_once = max(server.max_at_once, at_once)
            reply = respond(self.path, body)
            with lock:
                at_once -= 1
            if reply is None:
                self.close_connection = True
                return
            data = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(data)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Tests read what was seen instead."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
