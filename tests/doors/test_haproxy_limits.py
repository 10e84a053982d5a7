"""HAProxy in front of the ingress: refuses what is too long or too slow in OpenAI's shape, and goes on."""

import asyncio
import tempfile
from collections.abc import AsyncIterator

import pytest

from cluster.host.ports import free_ports
from cluster.ingress.environment import find_haproxy
from cluster.ingress.limits import limits_variable
from cluster.ingress.origins_environment import origins_variable
from tests.doors import attacks, probes, processes
from tests.doors.ingress_process import LIMITS, PAGE
from tests.unit.ingress.test_haproxy import Proxied

pytestmark = pytest.mark.skipif(find_haproxy() is None, reason="no HAProxy binary on this platform")


@pytest.fixture
async def front(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxied]:
    for name, value in limits_variable(LIMITS).items():
        monkeypatch.setenv(name, value)
    with processes.ingress() as behind, tempfile.TemporaryDirectory(prefix="bl-", dir="/tmp") as folder:
        made = Proxied(folder)
        made.route([("replica0", behind.told["http"])], [("replica0", behind.told["grpc"])])
        await made.proxy.start()
        try:
            await _until_routed(made)
            yield made
            await asyncio.to_thread(probes.http, made.http)
            await asyncio.to_thread(probes.inference_soon, made.grpc)
            assert behind.is_alive
            assert "Traceback" not in behind.log
        finally:
            await made.proxy.stop()


async def _until_routed(front: Proxied) -> None:
    """HAProxy has found its servers healthy."""
    for _ in range(100):
        try:
            await asyncio.to_thread(probes.http, front.http)
            await asyncio.to_thread(probes.inference, front.grpc)
        except Exception:
            await asyncio.sleep(0.1)
        else:
            return


async def test_what_is_too_long_is_refused_early(front: Proxied) -> None:
    header = await attacks.long_header(front.http)
    assert header.status in ("400", "closed")  # who does not stop sending may hear no answer
    assert header.num_sent < 32 << 20
    for body in (await attacks.announced_body(front.http), await attacks.endless_body(front.http)):
        assert body.status in ("413", "closed")
        assert body.num_sent < 128 << 20
    assert await attacks.long_message(front.grpc, LIMITS.max_body_bytes + 1) == "RESOURCE_EXHAUSTED"
    async with front.client() as client:  # who stops sending hears why
        long_body = b" " * (4 * LIMITS.max_body_bytes)
        replies = [
            await client.post("/v1/completions", content=long_body),
            await client.get("/health", headers={"x-long": "a" * (100 << 10)}),
        ]
    assert [reply.status_code for reply in replies] == [413, 431]
    assert [reply.json()["error"]["code"] for reply in replies] == ["request_too_large"] * 2


async def test_the_slow_and_the_silent_are_let_go_in_time_and_resets_end_nothing(front: Proxied) -> None:
    headers, bodies, long_bodies, silent, half = await asyncio.gather(
        attacks.slow_headers(front.http, 10),
        attacks.slow_bodies(front.http, 10),
        attacks.slow_bodies(front.http, 10, already=200 << 10),
        attacks.silence(front.http, 10),
        attacks.half_messages(front.grpc, 10),
    )
    assert {seen.status for seen in (*headers, *bodies, *long_bodies)} == {"408"}
    assert {seen.status for seen in silent} <= {"408", "closed"}
    assert max(seen.took_s for seen in (*headers, *bodies, *long_bodies, *silent)) < 10
    assert half["HANG"] == 0
    for port in (front.http, front.grpc):
        num_streams, _ = await attacks.rapid_resets(port, 3_000)
        assert num_streams >= 3_000


@pytest.mark.parametrize("origins", [(PAGE,), ("https://other.example.com", PAGE), ("*",), ()])
async def test_answers_of_its_own_have_an_id_and_may_be_read_by_web_pages(
    monkeypatch: pytest.MonkeyPatch, origins: tuple[str, ...]
) -> None:
    for name, value in (limits_variable(LIMITS) | origins_variable(origins)).items():
        monkeypatch.setenv(name, value)
    with tempfile.TemporaryDirectory(prefix="bl-", dir="/tmp") as folder:
        made = Proxied(folder)
        (nobody,) = free_ports("127.0.0.1", 1)
        made.route([("replica0", nobody)], [("replica0", nobody)])
        await made.proxy.start()
        try:
            async with made.client() as client:
                head = {"origin": PAGE, "x-request-id": "mine"}
                lost, other = [
                    await client.get("/version", headers=headers)
                    for headers in (head, {"origin": "https://a.example.com", "x-request-id": "x" * 200})
                ]
        finally:
            await made.proxy.stop()
    assert (lost.status_code, lost.headers["retry-after"]) == (503, "1")
    assert lost.headers["x-request-id"] == "mine"
    assert len(other.headers["x-request-id"]) == 36
    shown = "*" if "*" in origins else PAGE if origins else None
    assert lost.headers.get("access-control-allow-origin") == shown
    assert other.headers.get("access-control-allow-origin") == ("*" if "*" in origins else None)
