"""Which web pages of other origins may use the API from a browser (CORS); by default none.

Preflights are answered here, before anybody asks for a key: browsers send none with them. Cookies are never allowed,
and no answer depends on any.
"""

from collections.abc import Collection, Mapping

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from cluster.config.origins import ANY

METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
EXPOSED = ("X-Request-Id", "Retry-After", "WWW-Authenticate")
MAX_AGE_S = 600  # how long a browser may remember a preflight


def cross_origin(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """`app`, open to pages of these origins; "*" is all."""
    if not origins:
        return app
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
