"""Which web pages of other origins may use the API from a browser (CORS); by default none.

Preflights are answered here, before anybody asks for a key: browsers send none with them. Cookies are never allowed,
and no answer depends on any. What a page may send without a preflight, a form or plain text, is refused here too: it
could not read the answer, but it would be done.
"""

import json
from collections.abc import Collection, Mapping

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from baton.errors import PermissionDeniedError
from cluster.config.origins import ANY
from cluster.ingress.error_answers import error_answer

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
EXPOSED = ("X-Request-Id", "traceresponse", "Retry-After", "WWW-Authenticate")
MAX_AGE_S = 600  # how long a browser may remember a preflight


def cross_origin(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """`app`, open to pages of these origins; "*" is all."""
    if ANY in origins:
        return _allowing(app, origins)
    guarded = OwnPages(app, origins)
    return _allowing(guarded, origins) if origins else guarded


class OwnPages:
    """Refuses what pages of origins that are not named would change or compute; reading is for browsers to forbid."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and origin not in self._origins and not _is_own(origin, headers):
                body, extra = error_answer(scope, _refusal(origin))
                answer = Response(json.dumps(body), 403, extra, media_type="application/json")
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_own(origin: str, headers: Headers) -> bool:
    """Whether a page of this very server asks; a proxy that changes Host tells the first one, which no page can."""
    host = origin.partition("://")[2]
    return bool(host) and host in (headers.get("host"), headers.get("x-forwarded-host"))


def _refusal(origin: str) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"Origin is {origin[:200]!r}: pages of other origins may not use this server; "
        "whoever runs it names them in http.cors_origins"
    )


def _allowing(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=("*",),
        allow_private_network=True,  # a page from the network may use a server on its reader's own machine
        expose_headers=EXPOSED,
        max_age=MAX_AGE_S,
    )


def headers_for(origin: str | None, origins: Collection[str]) -> Mapping[str, str]:
    """Of an answer that no app makes. `origin`: what the request says of where it comes from."""
    if origin is None or not (ANY in origins or origin in origins):
        return {}
    shown = {"Access-Control-Expose-Headers": ", ".join(EXPOSED)}
    if ANY in origins:
        return {"Access-Control-Allow-Origin": ANY} | shown
    return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} | shown
