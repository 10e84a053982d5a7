"""The page at / and the files that it is made of, all from this package; addresses in them are relative, so that a
proxy may serve them below any path.

The page needs nothing of another server and no script or style written into it, and its policy says so to browsers.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from cluster.ingress.accepts import prefers_html

_FOLDER = Path(__file__).parent / "web" / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Cache-Control": "no-cache",  # ask whether it is still the same: 304 if so
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    content: bytes
    packed: bytes  # by gzip
    media_type: str
    tag: str


@cache
def page_files() -> dict[str, PageFile]:
    """By name."""
    return {path.name: _read(path) for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    return PageFile(
        content=content,
        packed=gzip.compress(content, mtime=0),
        media_type=_TYPES[path.suffix],
        tag=hashlib.sha256(content).hexdigest()[:32],
    )


def add_page_routes(app: FastAPI) -> None:
    app.add_api_route("/web/{name}", _file, methods=["GET", "HEAD"], response_model=None)


async def _file(request: Request) -> Response:
    found = page_files().get(request.path_params["name"])
    if found is None:
        raise HTTPException(404)
    return file_response(found, request)


def wants_page(request: Request) -> bool:
    """Browsers say that they take HTML; probes and clients do not."""
    return prefers_html(request.headers.get("accept", ""))


def page_response(request: Request) -> Response:
    return file_response(page_files()["index.html"], request, vary="Accept, Accept-Encoding")


def file_response(found: PageFile, request: Request, vary: str = "Accept-Encoding") -> Response:
    is_packed = "gzip" in request.headers.get("accept-encoding", "")
    tag = f'"{found.tag}{"-gz" if is_packed else ""}"'
    headers = HEADERS | {"ETag": tag, "Vary": vary}
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if tag in known:
        return Response(status_code=304, headers=headers)
    if is_packed:
        headers |= {"Content-Encoding": "gzip"}
    return Response(found.packed if is_packed else found.content, headers=headers, media_type=found.media_type)
