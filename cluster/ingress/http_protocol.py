"""uvicorn's HTTP/1.1 protocol with bounds on what is no body (bytes), on what is slow (time), and on connections.

uvicorn's own has none of them: headers may be as long, and take as long, as the client likes. A refusal is an error in
OpenAI's shape and the end of the connection. How long a body may be is the application's to say, and it is the first to
lose patience (`cluster.ingress.bodies`). Where it answers without having read one, what is left is read and forgotten
before the answer goes out, for a while; if it is not whole then, the answer is the connection's last. Else HAProxy,
which sends many clients' requests down one connection, may send one where this server expects the rest of a body.

A client that sends what nobody wants, and listens when all is sent, so hears an answer if that is at most LINGER_BYTES:
one bound for what is forgotten before an answer and after it.
"""

import asyncio
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from baton.errors import BatonError, InvalidRequestError, RequestTimeoutError, RequestTooLargeError, UnavailableError
from cluster.config.schema import LimitsConfig
from cluster.ingress.cross_origin import headers_for
from cluster.ingress.errors import error_body, error_headers
from cluster.ingress.request_ids import HEADER, id_of_headers, stamped

LINGER_S, LINGER_BYTES = 2.0, 64 << 20  # before an answer, and as long again after it; bytes: of both together
STALL_S = 10.0  # for which a viewer of the cluster's events may read nothing
EVENTS_PATH = "/cluster/events"
GRACE_S = 3.0  # beyond what the application gives a body: its own refusal, and its lingering, come first


class HeadersTooLargeError(RequestTooLargeError):
    http_status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class BoundedProtocol(HttpToolsProtocol):
    def __init__(self, limits: LimitsConfig, cors_origins: Collection[str] = (), **arguments: Any) -> None:
        """`cors_origins`: of web pages that may read what is refused here."""
        super().__init__(**arguments)
        self._limits = limits
        self._cors_origins = cors_origins
        self._awaits_headers = True
        self._is_overhead = True  # all that was received last: of headers, of trailers, or between chunks
        self._num_overhead_bytes = 0  # since a request, its headers or a piece of its body came to an end
        self._timer: asyncio.TimerHandle | None = None  # of headers or of a body
        self._refusal: BatonError | None = None
        self._num_lingering_bytes = 0
        self._last_answer: RequestResponseCycle | None = None  # after it the connection ends
        self._stall: asyncio.TimerHandle | None = None  # while a viewer of events does not read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            most = self._limits.max_connections
            self._refuse(UnavailableError(f"{most} connections are open, the most that this server takes"))
        else:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """What was sent is not read. Answers wait for slow readers; events go on, and are no use to them."""
        super().pause_writing()
        if self.cycle is not None and self.cycle.scope["path"].endswith(EVENTS_PATH):
            self._stall = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_stall()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None or (self._last_answer is not None and self._last_answer.response_complete):
            self._linger(len(data))
            return
        self._is_overhead = True
        if self._awaits_headers:
            self._await_headers()
        super().data_received(data)
        if self._is_overhead and self._refusal is None:
            self._num_overhead_bytes += len(data)
            if self._num_overhead_bytes > self._limits.max_header_bytes:
                self._refuse(self._too_large())

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._awaits_headers = False
        self._overhead_ends()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self._limits.max_header_bytes:
            self._refusal = self._too_large()
            raise self._refusal  # ends the parser, and so comes to `send_400_response`
        self._await_body()
        self.headers[:] = stamped(self.headers, id_of_headers(self.headers))  # Serve repeats, and logs, whatever it is
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            self.cycle.send = partial(self._answer, self.cycle)  # type: ignore[method-assign]

    def on_body(self, body: bytes) -> None:
        self._overhead_ends()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._awaits_headers = True
        self._overhead_ends()
        self._num_lingering_bytes = 0
        super().on_message_complete()
        if self._was_answered_early() and self.timeout_keep_alive_task is None:
            # uvicorn waits for the next request from an answer on, and not again from a body's end.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls where the parser fails."""
        self._refuse(self._refusal or InvalidRequestError("this is no HTTP/1.1 request"))

    async def _answer(self, cycle: RequestResponseCycle, message: Any) -> None:
        """`cycle.send`, of which a request whose body has not come to its end has the connection's last answer."""
        if message["type"] == "http.response.start":
            request_id = id_of_headers(cycle.scope["headers"])
            message = message | {"headers": stamped(message.get("headers", ()), request_id)}  # Serve adds another
            if cycle.more_body and not cycle.waiting_for_100_continue:
                await self._forget_body(cycle)
            if cycle.more_body:
                message["headers"].append((b"connection", b"close"))
                self._last_answer = cycle
        await RequestResponseCycle.send(cycle, message)
        if cycle is self._last_answer:
            cycle.keep_alive = True  # uvicorn would hang up at once, and a client that is still sending hear no answer
            if cycle.response_complete:
                self._end_writing()

    def _too_large(self) -> BatonError:
        return HeadersTooLargeError(
            f"the request's headers are over {self._limits.max_header_bytes} bytes, the limit of this server "
            "(limits.max_header); send what is long in the body"
        )

    def _overhead_ends(self) -> None:
        self._is_overhead = False
        self._num_overhead_bytes = 0

    def _was_answered_early(self) -> bool:
        """The request that was received last; one that became another protocol's has no cycle."""
        return self.cycle is not None and self.cycle.scope is self.scope and self.cycle.response_complete

    def _await_headers(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._limits.header_timeout_s, self._time_is_up)

    def _await_body(self) -> None:
        self._timer = self.loop.call_later(self._limits.body_timeout_s + GRACE_S, self._body_is_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _body_is_late(self) -> None:
        if self.flow.read_paused:  # by us, while the application is at what came before
            self._await_body()
        else:
            self.transport.close()  # it was answered, or has begun to be

    def _time_is_up(self) -> None:
        seconds = self._limits.header_timeout_s
        self._refuse(RequestTimeoutError(f"the request's headers did not come within {seconds:g} s"))

    def _refuse(self, error: BatonError) -> None:
        self._refusal = error
        self._stop_timer()
        self._unset_keepalive_if_required()
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering or self.transport.is_closing():  # it would end up amid the answer
            self.transport.close()
            return
        self.transport.write(written(error, self._headers_of_refusal()))
        self._end_writing()

    def _headers_of_refusal(self) -> dict[str, str]:
        """By what has come of the request's own headers."""
        sent = self.headers or []
        origin = next((value.decode("latin-1") for name, value in sent if name == b"origin"), None)
        return {HEADER: id_of_headers(sent), **headers_for(origin, self._cors_origins)}

    def _end_writing(self) -> None:
        """What is still being sent is read for a while, so that its sender hears the answer."""
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            with suppress(OSError):  # the peer has reset the connection, and we have not read of it yet
                self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _linger(self, num_bytes: int) -> None:
        """What comes after a refusal is forgotten: a client that is still sending when the connection ends would hear
        no answer."""
        self._num_lingering_bytes += num_bytes
        if self._num_lingering_bytes > LINGER_BYTES:
            self.transport.close()

    async def _forget_body(self, cycle: RequestResponseCycle) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while cycle.more_body and not cycle.disconnected and self._num_lingering_bytes <= LINGER_BYTES:
                    message: Any = await cycle.receive()
                    self._num_lingering_bytes += len(message.get("body", b""))


def written(error: BatonError, more: Mapping[str, str]) -> bytes:
    """A whole HTTP/1.1 response, after which the connection ends. `more`: further headers."""
    body = json.dumps(error_body(error))
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    status = HTTPStatus(error.http_status)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in (headers | error_headers(error) | dict(more)).items()]
    return "\r\n".join([*lines, "", body]).encode()
