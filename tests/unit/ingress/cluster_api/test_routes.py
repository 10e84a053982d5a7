"""/cluster, its event stream and the page's files, over HTTP."""

import asyncio
import json
import socket
from collections.abc import Callable
from functools import partial

import httpx
import pytest

from cluster.config.schema import LimitsConfig
from cluster.ingress import http_protocol
from cluster.ingress.accepts import prefers_html
from cluster.ingress.cluster_api import view as view_module
from cluster.ingress.cluster_api.view import ClusterView, Fleet
from cluster.ingress.http_api import build_app
from tests.unit.ingress.cluster_api.fleets import GOOD
from tests.unit.ingress.fakes import demo_service, serving

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


async def test_the_root_is_a_page_for_browsers_and_health_for_all_others(http: httpx.AsyncClient) -> None:
    for headers in ({}, {"accept": "*/*"}, {"accept": "application/json, text/html;q=0.5"}):
        reply = await http.get("/", headers=headers)
        assert (reply.json(), reply.headers["vary"]) == ({"status": "ok"}, "Accept"), headers
    page = await http.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "Accept" in page.headers["vary"]
    head = await http.head("/", headers=BROWSER)
    assert (head.status_code, head.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (await http.head("/")).headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", True),
        ("text/html;q=0", False),
        ("application/json,text/html;q=0.9", False),
        ("TEXT/HTML;q=0.9,application/json;q=0.8", True),
        ("text/html;q=x", False),
    ],
)
def test_who_names_html_wants_the_page(accept: str, is_page: bool) -> None:
    assert prefers_html(accept) is is_page


async def test_files_are_asked_for_once(http: httpx.AsyncClient) -> None:
    first = await http.get("/web/index.html")
    assert first.headers["cache-control"] == "no-cache"
    again = await http.get("/web/index.html", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = await http.get("/web/index.html", headers={"accept-encoding": "identity"})
    assert plain.content == first.content
    assert plain.headers["etag"] != first.headers["etag"]
    for name in ("nothing.js", "..%2Fdocs.html", "%2e%2e/docs.html"):
        assert (await http.get(f"/web/{name}")).status_code == 404, name


async def test_cluster_is_json_and_head_of_both_is_answered(http: httpx.AsyncClient) -> None:
    found = (await http.get("/cluster")).json()
    assert [worker["id"] for worker in found["workers"]] == ["decode-0"]
    assert found["workers"][0]["num_quarantined_blocks"] == 1
    assert (await http.head("/cluster")).status_code == 200
    head = await http.head("/cluster/events")
    assert head.headers["content-type"].startswith("text/event-stream")


async def test_the_stream_begins_with_a_picture_and_lets_go_of_who_leaves() -> None:
    service, fake = demo_service()
    fleets = [Fleet(model="demo", dispatcher=fake)]
    view = ClusterView(lambda: fleets, GOOD)
    async with serving(build_app(service, view=view)) as url, httpx.AsyncClient(base_url=url) as http:
        async with http.stream("GET", "/cluster/events") as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            lines = reply.aiter_lines()
            assert await anext(lines) == "event: picture"
            assert json.loads((await anext(lines)).removeprefix("data: "))["model"] == "demo"
            assert len(view.viewers) == 1
        await until(lambda: not len(view.viewers))
        async with http.stream("GET", "/cluster/events") as reply:
            view.leave()
            text = "".join([part async for part in reply.aiter_text()])
        assert "event: bye" in text
        refused = await http.get("/cluster/events")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    await view.close()
    service.close()


async def test_a_viewer_that_reads_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "STALL_S", 0.3)
    monkeypatch.setattr(view_module, "BEAT", b": " + b"x" * (1 << 20) + b"\n\n")
    monkeypatch.setattr(view_module, "INTERVAL_S", 0.02)
    service, fake = demo_service()
    fleets = [Fleet(model="demo", dispatcher=fake)]
    view = ClusterView(lambda: fleets, GOOD)
    lost = []

    class Watched(http_protocol.BoundedProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(self)
            super().connection_lost(exc)

    async with serving(build_app(service, view=view), protocol=partial(Watched, LimitsConfig())) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as viewer:
            viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            viewer.sendall(b"GET /cluster/events HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: len(view.viewers) == 1)
            await until(lambda: view.viewers.num_dropped == 1)
            await until(lambda: len(lost) == 1)
    assert not len(view.viewers)
    await view.close()
    service.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
