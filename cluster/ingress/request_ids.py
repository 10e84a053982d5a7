"""The id of a request, in every answer and every line logged about it: the client's own where it is fit to be repeated.

Not the id that workers know a request by: a client may send one id twice.
"""

import logging
import uuid
from collections.abc import Awaitable, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.ingress.tracing.context import TRACEPARENT, TRACERESPONSE, TRACESTATE
from cluster.ingress.tracing.visit import HTTP, Visit, Visits

HEADER = "x-request-id"
MAX_LENGTH = 128
_HEADER = HEADER.encode()
_ID = "baton.request_id"  # in a request's scope
_TRACE_HEADERS = frozenset((TRACEPARENT.encode(), TRACESTATE.encode()))

Headers = list[tuple[bytes, bytes]]

logger = logging.getLogger(__name__)


class RequestIds:
    """The outermost of an app's layers: answers of all others go through it, and a visit lasts as long as it is in."""

    def __init__(self, app: ASGIApp, visits: Visits | None = None) -> None:
        self._app = app
        self._visits = visits or Visits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = id_of_headers(scope["headers"])
        visit = self._begin(request_id, scope)

        def answer(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                visit.status = str(message["status"])
                message = {**message, "headers": self._headers(message, visit)}
                if message["status"] >= 500 and scope["method"] == "POST":
                    _log(request_id, scope, message["status"])
            return send(message)

        try:
            await self._app({**scope, _ID: request_id}, receive, answer)
        finally:
            self._visits.end(visit)

    def _begin(self, request_id: str, scope: Scope) -> Visit:
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name in _TRACE_HEADERS
        ]
        return self._visits.begin(request_id, headers, protocol=HTTP, method=scope["method"], path=scope["path"])

    def _headers(self, message: Message, visit: Visit) -> Headers:
        headers = stamped(message.get("headers", ()), visit.request_id)
        if visit.trace is not None and self._visits.are_collected:
            headers.append((TRACERESPONSE.encode(), visit.trace.response.encode()))
        return headers


def request_id_of(scope: Scope) -> str:
    """The same for all who ask of a request that came through `RequestIds`."""
    return str(scope.get(_ID) or id_of_headers(scope["headers"]))


def sane_id(sent: bytes | str | None) -> str:
    """What a client sent, if it is printable ASCII of at most MAX_LENGTH characters; else a new one."""
    text = sent.decode("latin-1") if isinstance(sent, bytes) else sent
    return text if text and len(text) <= MAX_LENGTH and text.isascii() and text.isprintable() else uuid.uuid4().hex


def id_of_headers(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Of a request: the client's, or a new one."""
    return sane_id(next((value for name, value in headers if name == _HEADER), None))


def stamped(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> Headers:
    """With this id, and no other."""
    return [*(pair for pair in headers if pair[0].lower() != _HEADER), (_HEADER, request_id.encode())]


def _log(request_id: str, scope: Scope, status: int) -> None:
    logger.warning("answered with an error request_id=%s status=%s path=%s", request_id, status, scope["path"])
