"""TLS where a real HAProxy owns the ports, in front of servers of this process that stand for ingress replicas."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import grpc
import pytest

from cluster.ingress.environment import find_haproxy
from cluster.ingress.haproxy_tls import HAProxyTLS
from cluster.ingress.tls_environment import TLS_VARIABLE
from cluster.local.health import wait_for_health
from tests.doors.certificates import Issued, issue
from tests.doors.handshakes import channel, client_context, get, served_serial
from tests.doors.keyed import until
from tests.unit.ingress.test_haproxy import GENERATE, GRPCReplica, Proxied, Replica, served

pytestmark = pytest.mark.skipif(find_haproxy() is None, reason="no HAProxy binary on this platform")


class Behind(Proxied):
    """With TLS on both ports."""

    def __init__(self, folder: str, issued: Issued) -> None:
        super().__init__(folder)
        self.issued = issued

    async def messages(self, pair: tuple[str, str] | None = None) -> int | str:
        """Of one gRPC call, or its failure's status."""
        async with channel(self.grpc, self.issued, pair) as made:
            try:
                return len([message async for message in made.unary_stream(GENERATE)(b"HELLO", timeout=10)])
            except grpc.aio.AioRpcError as error:
                return error.code().name


@pytest.fixture
async def behind(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Behind]:
    issued = issue(tmp_path)
    tls = issued.tls(mutual=getattr(request, "param", False))
    monkeypatch.setenv(TLS_VARIABLE, json.dumps(asdict(tls)))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((GRPCReplica(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with tempfile.TemporaryDirectory(prefix="bx-", dir="/tmp") as folder:
        made = Behind(folder, issued)
        try:
            async with served(Replica()) as http:
                made.route(http, [("good", port)])
                await made.proxy.start()
                yield made
        finally:
            await made.proxy.stop()
            await server.stop(None)


async def test_both_ports_speak_tls_alone_and_go_on_after_what_they_refuse(behind: Behind) -> None:
    good = client_context(behind.issued)
    for _ in range(3):
        assert (await get(behind.http, None)).startswith("refused")
        assert (await get(behind.grpc, None)).startswith("refused")
        assert await get(behind.http, good) == "HTTP/1.1 200 OK"
        assert await behind.messages() == 3


@pytest.mark.parametrize("behind", [True], indirect=True)
async def test_mutual_tls_wants_a_certificate_of_the_named_authority_that_is_in_its_time(behind: Behind) -> None:
    good = behind.issued.client("good")
    bad = [None, behind.issued.client("old", expired=True), behind.issued.client("stranger", behind.issued.ca)]
    for pair in bad:
        assert (await get(behind.http, client_context(behind.issued, pair))).startswith("refused")
        assert await behind.messages(pair) == "UNAVAILABLE"
    assert await get(behind.http, client_context(behind.issued, good)) == "HTTP/1.1 200 OK"
    assert await behind.messages(good) == 3
    url = f"https://127.0.0.1:{behind.http}/health"
    await asyncio.to_thread(wait_for_health, url, 10.0, wants_certificate=True)
    behind.issued.ca.cert_pem.write_to_path(behind.issued.folder / "clients.crt")
    new = client_context(behind.issued, behind.issued.client("new", behind.issued.ca))

    async def is_turned() -> bool:
        return await get(behind.http, new) == "HTTP/1.1 200 OK"

    await until(is_turned)
    assert (await get(behind.http, client_context(behind.issued, good))).startswith("refused")


async def test_a_new_pair_ends_no_connection_and_a_haproxy_that_dies_comes_back_with_it(behind: Behind) -> None:
    context = client_context(behind.issued)
    process = behind.proxy._proc
    first = await served_serial(behind.http, context)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", behind.http, ssl=context, server_hostname="127.0.0.1"
    )  # one request before the change, the next one after it
    writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    second = behind.issued.renew()

    async def is_new() -> bool:
        return await served_serial(behind.http, context) == second

    await until(is_new)
    assert await behind.messages() == 3
    assert behind.proxy._proc is process
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"HTTP/1.1 200" in await asyncio.wait_for(reader.readline(), 10)  # after the first answer's one byte
    writer.close()

    (behind.issued.folder / "tls.crt").write_text("broken")
    os.kill(process.pid, signal.SIGKILL)

    async def is_back() -> bool:
        return await get(behind.http, context) == "HTTP/1.1 200 OK"

    await until(is_back)
    assert await served_serial(behind.http, context) == second != first


async def test_what_haproxy_refuses_is_said_without_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The socket is one that answers nothing but no."""
    issued = issue(tmp_path)
    tls = HAProxyTLS(issued.tls(), tmp_path)

    async def no(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(b"Can't load the payload\n")
        writer.close()

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = f"{folder}/admin.sock"
        server = await asyncio.start_unix_server(no, path)
        following = asyncio.create_task(tls.follow(path))
        issued.renew()

        async def is_told() -> bool:
            return "did not take the new certificate" in caplog.text

        await until(is_told)
        following.cancel()
        server.close()
    assert "HAProxy refused public.pem: Can't load the payload" in caplog.text
    assert "PRIVATE KEY" not in caplog.text
    assert (tmp_path / "public.pem").stat().st_mode & 0o777 == 0o600
