"""Asks every HTTP request for its API key before anything of its body is read. Probes need none, and neither
has one who reads how the API is used: browsers cannot show a key there."""

import hmac
import json

from starlette.types import ASGIApp, Receive, Scope, Send

from baton.errors import BatonError
from cluster.config.api_key import APIKey
from cluster.doors.guard import Guard, Pass
from cluster.ingress.error_answers import error_answer
from cluster.ingress.messages_errors import is_of_messages
from cluster.ingress.metrics import Metrics
from cluster.ingress.route_names import route_name
from cluster.ingress.tracing.visit import current_visit, note_error

OPEN_PATHS = frozenset(("/", "/health", "/healthz", "/ping", "/openapi.json", "/docs"))
METRICS_PATHS = frozenset(("/metrics", "/metrics/targets"))
OPEN_FOLDER = "/web/"  # files of the page at /, which asks for a key itself
PASS, KEY = "baton.pass", "baton.key"  # in a request's scope


class KeyedPaths:
    """What generates or tokenizes counts against its key's limits; the rest only needs a key.

    Args:
        metrics_token: Does for a key at `METRICS_PATHS`; empty: nothing does.
    """

    def __init__(self, app: ASGIApp, guard: Guard, metrics: Metrics, metrics_token: str = "") -> None:
        self._app = app
        self._guard = guard
        self._metrics = metrics
        self._metrics_token = f"Bearer {metrics_token}".encode() if metrics_token else b""
        self._open = OPEN_PATHS | (METRICS_PATHS if guard.has_public_metrics else set())

    def _is_open(self, path: str) -> bool:
        return path in self._open or path.startswith(OPEN_FOLDER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        authorization = _authorization(scope)
        try:
            if self._shows_metrics_token(scope["path"], authorization):
                admitted = None
            elif scope["method"] == "POST":
                admitted = await self._guard.admit(authorization)
            else:
                key = scope[KEY] = self._guard.identify(authorization)
                _note(key.name)
                admitted = None
        except BatonError as error:
            self._metrics.requests.labels(route_name(scope["path"]), error.code).inc()
            note_error(error.code)
            await _refuse(scope, send, error)
            return
        if admitted is None:
            await self._app(scope, receive, send)
            return
        scope[PASS] = admitted
        _note(admitted.key_name)
        try:
            await self._app(scope, receive, send)
        finally:
            admitted.leave()

    def _shows_metrics_token(self, path: str, authorization: str | None) -> bool:
        if path not in METRICS_PATHS or not self._metrics_token or authorization is None:
            return False
        return hmac.compare_digest(authorization.encode("utf-8", "replace"), self._metrics_token)


def _note(key_name: str) -> None:
    """Whose key this visit came with."""
    visit = current_visit()
    if visit is not None:
        visit.key_name = key_name


def pass_of(scope: Scope) -> Pass | None:
    """None: the server has no keys."""
    found: Pass | None = scope.get(PASS)
    return found


def key_of(scope: Scope) -> APIKey | None:
    found: APIKey | None = scope.get(KEY)
    return found


def _authorization(scope: Scope) -> str | None:
    """The header Authorization; where Anthropic's clients have none, their `x-api-key` stands for it."""
    found = _header(scope, b"authorization")
    if found is None and is_of_messages(scope["path"]):
        key = _header(scope, b"x-api-key")
        return None if key is None else f"Bearer {key}"
    return found


def _header(scope: Scope, wanted: bytes) -> str | None:
    for name, value in scope["headers"]:
        if name == wanted:
            text: str = value.decode("latin-1")
            return text
    return None


async def _refuse(scope: Scope, send: Send, error: BatonError) -> None:
    answer, more = error_answer(scope, error)
    body = json.dumps(answer).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **more}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.http_status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
