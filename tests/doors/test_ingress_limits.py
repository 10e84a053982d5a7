"""The ingress's own servers, without a proxy in front, bound what comes before anybody has looked at it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import httpx
import psutil
import pytest

from cluster.ingress.http_protocol import LINGER_BYTES
from tests.doors import attacks, probes, processes
from tests.doors.ingress_process import LIMITS, PAGE
from tests.doors.processes import ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with processes.ingress() as made:
        probes.http(made.told["http"])
        yield made
        probes.http(made.told["http"])
        probes.inference(made.told["grpc"])


async def test_a_header_without_end_is_refused_early_and_not_held(server: ServerProcess) -> None:
    before = psutil.Process(server.process.pid).memory_info().rss
    seen = await attacks.long_header(server.told["http"])
    assert seen.status in ("431", "closed")
    assert seen.num_sent < 32 << 20  # what sockets hold
    assert psutil.Process(server.process.pid).memory_info().rss - before < 32 << 20


async def test_a_trailer_without_end_is_refused_early_and_not_held(server: ServerProcess) -> None:
    before = psutil.Process(server.process.pid).memory_info().rss
    first = attacks.POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx-long: "
    seen = await attacks.Raw(server.told["http"]).until_refused(first, attacks.CHUNK, 0, 1 << 30)
    assert seen.status in ("431", "closed")
    assert seen.num_sent < 32 << 20
    assert psutil.Process(server.process.pid).memory_info().rss - before < 32 << 20


@pytest.mark.parametrize("attack", [attacks.announced_body, attacks.endless_body])
async def test_a_body_that_is_too_long_is_refused_and_not_held(
    server: ServerProcess, attack: Callable[[int], Awaitable[attacks.Seen]]
) -> None:
    before = psutil.Process(server.process.pid).memory_info().rss
    seen = await attack(server.told["http"])
    assert seen.status == "413"
    assert seen.num_sent < 128 << 20
    assert psutil.Process(server.process.pid).memory_info().rss - before < 32 << 20


async def test_a_client_that_asks_first_is_told_before_it_sends(server: ServerProcess) -> None:
    head = b"content-length: %d\r\nexpect: 100-continue\r\n\r\n" % (LIMITS.max_body_bytes + 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.told["http"])
    writer.write(attacks.POST + head)
    assert (await asyncio.wait_for(reader.readline(), 1.5)).split()[1] == b"413"
    writer.close()


async def test_the_slow_and_the_silent_are_let_go_in_time(server: ServerProcess) -> None:
    port = server.told["http"]
    headers, bodies, silent = await asyncio.gather(
        attacks.slow_headers(port, 10), attacks.slow_bodies(port, 10), attacks.silence(port, 10)
    )
    assert {seen.status for seen in (*headers, *bodies, *silent)} == {"408"}
    assert min(seen.took_s for seen in headers) >= LIMITS.header_timeout_s - 0.1
    assert min(seen.took_s for seen in bodies) >= LIMITS.body_timeout_s - 0.1


async def test_a_body_that_nobody_reads_keeps_no_connection_open(server: ServerProcess) -> None:
    """Of requests that were answered before it came: one byte now and then, or the last one and then silence."""

    async def trickle(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.1)

    async def until_closed(length: int, *, slowly: bool) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.told["http"])
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % length)
        status = await reader.readline()
        sending = asyncio.create_task(trickle(writer))
        if not slowly:
            await asyncio.sleep(0.05)
            sending.cancel()
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 20)
        sending.cancel()
        writer.transport.abort()
        return status.split()[1]

    answers = await asyncio.gather(until_closed(1_000_000, slowly=True), until_closed(1, slowly=False))
    assert answers == [b"200", b"200"]


async def test_a_grpc_message_over_the_limit_is_refused_and_half_of_one_is_let_go(server: ServerProcess) -> None:
    port = server.told["grpc"]
    assert await attacks.long_message(port, LIMITS.max_body_bytes + 1) == "RESOURCE_EXHAUSTED"
    assert dict(await attacks.half_messages(port, 10)) == {"status 4": 10}  # DEADLINE_EXCEEDED


async def test_rapid_resets_end_no_server(server: ServerProcess) -> None:
    num_streams, _ = await attacks.rapid_resets(server.told["grpc"], 2_000)
    assert num_streams >= 2_000
    await asyncio.to_thread(probes.inference_soon, server.told["grpc"])


@pytest.mark.parametrize(
    "num_bytes", [LIMITS.max_header_bytes + 1, LIMITS.max_body_bytes - 100, LIMITS.max_body_bytes * 4]
)
async def test_a_long_body_is_no_header_and_one_that_is_too_long_is_answered_when_all_was_sent(
    server: ServerProcess, num_bytes: int
) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.told['http']}", timeout=20) as client:
        for _ in range(3):  # on one connection where it can be
            reply = await client.post("/tokenize", content=b" " * num_bytes + b'{"prompt": "Once"}')
            assert reply.status_code == (413 if num_bytes > LIMITS.max_body_bytes else 200)


async def test_an_answer_before_the_end_of_a_body_is_the_connections_last(server: ServerProcess) -> None:
    """Else what a proxy sends next down this connection, of another client, would be taken for the rest of the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.told["http"])
    writer.write(b"POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n" + b"a" * 1000)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.split()[1] == b"404"
    assert b"connection: close" in head.lower()
    await asyncio.wait_for(reader.read(), 20)
    writer.close()


async def test_a_body_that_nobody_wanted_is_read_to_its_end_and_the_connection_serves_on(server: ServerProcess) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.told["http"])
    writer.write(b"POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 300000\r\n\r\n" + b"a" * 300_000)
    writer.write(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    answers = await asyncio.wait_for(reader.read(), 20)
    assert answers.startswith(b"HTTP/1.1 404")
    assert b"HTTP/1.1 200" in answers
    writer.close()


@pytest.mark.parametrize(("path", "status"), [(b"/tokenize", b"413"), (b"/nowhere", b"404")])
async def test_who_sends_up_to_the_bound_before_it_listens_hears_the_answer_whoever_gives_it(
    server: ServerProcess, path: bytes, status: bytes
) -> None:
    num_bytes = LINGER_BYTES * 3 // 4
    reader, writer = await asyncio.open_connection("127.0.0.1", server.told["http"])
    writer.write(b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (path, num_bytes))
    for _ in range(num_bytes // len(attacks.CHUNK)):
        writer.write(attacks.CHUNK)
        await asyncio.wait_for(writer.drain(), 20)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.split()[1] == status
    writer.transport.abort()


async def test_what_the_server_itself_refuses_has_an_id_and_may_be_read_by_web_pages(server: ServerProcess) -> None:
    head = b"GET /health HTTP/1.1\r\nhost: a\r\norigin: %s\r\nx-request-id: mine\r\nx-long: %s\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.told["http"])
    writer.write(head % (PAGE.encode(), b"x" * LIMITS.max_header_bytes))
    answer = (await asyncio.wait_for(reader.read(), 20)).decode()
    assert answer.startswith("HTTP/1.1 431 ")
    assert "\r\nx-request-id: mine\r\n" in answer
    assert f"\r\nAccess-Control-Allow-Origin: {PAGE}\r\n" in answer
    writer.close()


async def test_an_id_that_something_between_adds_is_not_there_twice(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.told['http']}", timeout=20) as client:
        for sent in ("mine", "x" * 5000):
            reply = await client.get("/-/repeats", headers={"x-request-id": sent})
            (found,) = reply.headers.get_list("x-request-id")
            assert reply.text == found
            assert (found == sent) is (sent == "mine")
