"""Web pages of other origins: which may use the API from a browser, and that they may read errors too."""

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager

import httpx
import pytest

from baton.errors import OverloadedError
from cluster.config.api_keys import parse_keys
from cluster.config.schema import AuthConfig, LimitsConfig
from cluster.doors.accounts import KeyMetrics
from cluster.doors.guard import Guard
from cluster.ingress.controller_link import LocalLedger
from cluster.ingress.cross_origin import headers_for
from cluster.ingress.http_api import build_app
from cluster.ingress.metrics import Metrics
from tests.unit.ingress.fakes import demo_service

PAGE = "https://app.example.com"
ASKS = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


def keyed(metrics: Metrics) -> Guard:
    auth = AuthConfig(keys=parse_keys([{"name": "a", "sha256": "0" * 64}], "keys"))
    return Guard(
        auth, model="demo", draw=LocalLedger(), replica="r", num_replicas=1, metrics=KeyMetrics(metrics.registry)
    )


def browser(origins: Collection[str], *, keys: bool = False) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    service, fake = demo_service(make_guard=keyed if keys else None)
    fake.failure = OverloadedError("full")
    app = build_app(service, LimitsConfig(max_body_bytes=100), cors_origins=origins)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://x", headers={"origin": PAGE})


async def test_by_default_no_page_may_use_the_api() -> None:
    async with browser(()) as http:
        preflight = await http.options("/v1/chat/completions", headers=ASKS)
        assert preflight.status_code == 405
        answer = await http.get("/v1/models")
    assert not [name for name in (*preflight.headers, *answer.headers) if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("origins", "sent", "status"),
    [
        ((), {"origin": PAGE}, 403),
        ((), {"origin": "null"}, 403),
        ((), {"origin": "http://[x"}, 403),
        (("https://other.example.com",), {"origin": PAGE}, 403),
        ((PAGE,), {"origin": PAGE}, 429),
        (("*",), {"origin": "null"}, 429),
        ((), {"origin": "http://x"}, 429),
        ((), {"origin": "https://pages.example.com", "x-forwarded-host": "pages.example.com"}, 429),
    ],
)
async def test_a_page_that_needs_no_preflight_has_nothing_done(
    origins: tuple[str, ...], sent: dict[str, str], status: int
) -> None:
    async with browser(origins) as http:
        plain = {"content-type": "text/plain", **sent}
        reply = await http.post("/v1/completions", content='{"prompt": "a"}', headers=plain)
    assert reply.status_code == status
    if status == 403:
        assert "http.cors_origins" in reply.json()["error"]["message"]
        assert reply.headers["x-request-id"]


@pytest.mark.parametrize("origins", [("*",), (PAGE,), ("https://other.example.com", PAGE)])
async def test_a_preflight_is_answered_before_anybody_asks_for_a_key(origins: tuple[str, ...]) -> None:
    async with browser(origins, keys=True) as http:
        reply = await http.options("/v1/chat/completions", headers=ASKS)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] in ("*", PAGE)
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert "x-stainless-os" in reply.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in reply.headers
    assert reply.headers["x-request-id"]


async def test_a_page_of_another_origin_is_told_no() -> None:
    async with browser(("https://other.example.com",)) as http:
        preflight = await http.options("/v1/completions", headers=ASKS)
        assert (preflight.status_code, preflight.text) == (400, "Disallowed CORS origin")
        answer = await http.get("/v1/models")
        assert answer.headers["vary"] == "Origin"
    for reply in (preflight, answer):
        assert "access-control-allow-origin" not in reply.headers


async def test_a_page_of_the_network_may_use_a_server_on_its_readers_machine() -> None:
    async with browser((PAGE,)) as http:
        asks = ASKS | {"access-control-request-private-network": "true"}
        reply = await http.options("/v1/completions", headers=asks)
    assert reply.headers["access-control-allow-private-network"] == "true"


async def test_errors_of_every_kind_may_be_read_by_the_page() -> None:
    body = {"prompt": [1], "max_tokens": 1}
    async with browser((PAGE,)) as http, browser((PAGE,), keys=True) as keyed_http:
        replies = [
            await http.post("/v1/completions", json=body),
            await http.post("/v1/completions", json={"prompt": "x" * 200}),
            await http.post("/v1/completions", content=b"{"),
            await http.get("/v1/nothing"),
            await keyed_http.get("/v1/models"),
        ]
    assert [reply.status_code for reply in replies] == [429, 413, 400, 404, 401]
    for reply in replies:
        assert reply.headers["access-control-allow-origin"] == PAGE
        assert {"X-Request-Id", "Retry-After"} <= set(reply.headers["access-control-expose-headers"].split(", "))
        assert reply.headers["x-request-id"]


async def test_a_fault_of_ours_may_be_read_by_the_page_and_has_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    async with browser(("*",)) as http:
        monkeypatch.setattr("cluster.ingress.http_api.version", lambda name: 1 / 0)
        reply = await http.get("/version", headers={"x-request-id": "mine"})
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal"
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["x-request-id"] == "mine"


def test_what_no_app_answers_may_be_read_by_the_same_pages() -> None:
    assert headers_for(None, ("*",)) == headers_for(PAGE, ()) == headers_for(PAGE, ("https://b",)) == {}
    assert headers_for(PAGE, ("*",))["Access-Control-Allow-Origin"] == "*"
    assert headers_for(PAGE, (PAGE,)).items() >= {"Access-Control-Allow-Origin": PAGE, "Vary": "Origin"}.items()
