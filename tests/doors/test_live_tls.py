"""TLS at the doors of servers of this process, as on a Ray cluster of the user's: uvicorn and gRPC."""

import asyncio
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.errors import UnavailableError
from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc
from cluster.doors.live_tls import LiveTLS
from cluster.ingress.http_api import build_app
from cluster.local.health import wait_for_health
from tests.doors.certificates import Issued, issue
from tests.doors.handshakes import channel, client_context, get, served_serial
from tests.doors.keyed import until
from tests.unit.ingress.fakes import FakeDispatcher, demo_service, serving
from tests.unit.ingress.servicer import Servicer


class Doors:
    """HTTP and gRPC of one ingress behind one LiveTLS."""

    def __init__(self, issued: Issued, fake: FakeDispatcher, http: int, grpc_port: int) -> None:
        self.issued = issued
        self.fake = fake
        self.http = http
        self.grpc = grpc_port

    async def check(self, pair: tuple[str, str] | None = None) -> str:
        """Of gRPC's health: SERVING, or the status of the failure."""
        async with channel(self.grpc, self.issued, pair) as made:
            try:
                await health_pb2_grpc.HealthStub(made).Check(health_pb2.HealthCheckRequest(), timeout=10)
            except grpc.aio.AioRpcError as error:
                return error.code().name
        return "SERVING"


@pytest.fixture
async def doors(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Doors]:
    issued = issue(tmp_path)
    live = LiveTLS(issued.tls(mutual=getattr(request, "param", False)))
    service, fake = demo_service()
    server = grpc.aio.server()
    servicer = Servicer(service)
    inference_pb2_grpc.add_InferenceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_secure_port("127.0.0.1:0", live.grpc_credentials())
    await server.start()
    async with serving(build_app(service), tls=live.ssl_context) as url:
        yield Doors(issued, fake, int(url.rsplit(":", 1)[1]), port)
    await server.stop(None)


async def test_both_doors_speak_tls_alone_and_go_on_after_what_they_refuse(doors: Doors) -> None:
    good = client_context(doors.issued)
    assert await get(doors.http, good) == "HTTP/1.1 200 OK"
    assert await doors.check() == "SERVING"
    for _ in range(3):
        assert (await get(doors.http, None)).startswith("refused")  # plain HTTP
        assert (await get(doors.grpc, None)).startswith("refused")
        assert await get(doors.http, ssl.create_default_context()) == "refused: SSLCertVerificationError"
        async with grpc.aio.insecure_channel(f"127.0.0.1:{doors.grpc}") as plain:
            with pytest.raises(grpc.aio.AioRpcError):
                await health_pb2_grpc.HealthStub(plain).Check(health_pb2.HealthCheckRequest(), timeout=5)
    old = client_context(doors.issued)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    assert (await get(doors.http, old)).startswith("refused")
    assert await get(doors.http, good) == "HTTP/1.1 200 OK"
    assert await doors.check() == "SERVING"


@pytest.mark.parametrize("doors", [True], indirect=True)
async def test_mutual_tls_wants_a_certificate_of_the_named_authority_that_is_in_its_time(doors: Doors) -> None:
    good = doors.issued.client("good")
    bad = [
        None,
        doors.issued.client("expired", expired=True),
        doors.issued.client("stranger", doors.issued.ca),  # the server's authority is not the clients'
    ]
    for pair in bad:
        assert (await get(doors.http, client_context(doors.issued, pair))).startswith("refused")
        assert await doors.check(pair) == "UNAVAILABLE"
    assert await get(doors.http, client_context(doors.issued, good)) == "HTTP/1.1 200 OK"
    assert await doors.check(good) == "SERVING"


def resumes(port: int, context: ssl.SSLContext) -> bool:
    """Whether a second connection goes on with the first one's session."""
    session, is_reused = None, None
    for _ in range(2):
        plain = socket.create_connection(("127.0.0.1", port), 10)
        with context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while connection.recv(4096):
                continue
            session, is_reused = connection.session, connection.session_reused
    return bool(is_reused)


@pytest.mark.parametrize("doors", [True], indirect=True)
async def test_with_mutual_tls_every_connection_shows_its_certificate(doors: Doors) -> None:
    """One that went on with a session of before would come in by an authority that has been taken away."""
    context = client_context(doors.issued, doors.issued.client("good"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    assert not await asyncio.to_thread(resumes, doors.http, context)


@pytest.mark.parametrize("doors", [True, False], indirect=True)
async def test_up_sees_that_it_answers_though_it_has_no_certificate_to_show(
    doors: Doors, request: pytest.FixtureRequest
) -> None:
    url = f"https://127.0.0.1:{doors.http}/health"
    await asyncio.to_thread(wait_for_health, url, 10.0, wants_certificate=True)
    if not request.node.callspec.params["doors"]:
        await asyncio.to_thread(wait_for_health, url, 10.0)
    with pytest.raises(UnavailableError, match="is not healthy"):
        await asyncio.to_thread(wait_for_health, "https://127.0.0.1:1/health", 0.1, wants_certificate=True)


async def test_new_files_are_for_new_connections_and_streams_go_on(
    doors: Doors, caplog: pytest.LogCaptureFixture
) -> None:
    context, issued = client_context(doors.issued), doors.issued
    doors.fake.step_s = 0.05
    body = {"model": "demo", "prompt": "Once", "max_tokens": 100, "stream": True, "ignore_eos": True}
    url = f"https://127.0.0.1:{doors.http}"
    first = await served_serial(doors.http, context)
    async with (
        httpx.AsyncClient(base_url=url, verify=context, timeout=30) as http,
        channel(doors.grpc, issued) as made,
    ):
        call = inference_pb2_grpc.InferenceStub(made).Generate(
            pb.GenerateRequest(prompt="Once", sampling=pb.SamplingParams(max_tokens=100, ignore_eos=True))
        )
        async with http.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            answers = aiter(call)
            assert (await anext(answers)).deltas
            second = issued.renew()

            async def is_new() -> bool:
                return await served_serial(doors.http, context) == second

            await until(is_new)
            async with channel(doors.grpc, issued) as other:
                await health_pb2_grpc.HealthStub(other).Check(health_pb2.HealthCheckRequest(), timeout=10)
            rest = [line async for line in lines if line]
            responses = [response async for response in answers]
    assert first != second
    assert rest[-1] == "data: [DONE]"
    assert responses[-1].usage.completion_tokens > 0

    (issued.folder / "tls.key").write_text("no key")

    async def is_told() -> bool:
        await served_serial(doors.http, context)
        return "the certificate of before stays" in caplog.text

    await until(is_told)
    assert await served_serial(doors.http, context) == second
    assert await doors.check() == "SERVING"


async def test_a_new_authority_of_clients_holds_for_new_connections(tmp_path: Path) -> None:
    issued = issue(tmp_path)
    live = LiveTLS(issued.tls(mutual=True))
    service, _ = demo_service()
    old = issued.client("old")
    async with serving(build_app(service), tls=live.ssl_context) as url:
        port = int(url.rsplit(":", 1)[1])
        assert await get(port, client_context(issued, old)) == "HTTP/1.1 200 OK"
        issued.ca.cert_pem.write_to_path(tmp_path / "clients.crt")
        new = issued.client("new", issued.ca)

        async def is_turned() -> bool:
            return await get(port, client_context(issued, new)) == "HTTP/1.1 200 OK"

        await until(is_turned)
        assert (await get(port, client_context(issued, old))).startswith("refused")


def test_the_private_key_is_left_in_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    LiveTLS(issue(tmp_path).tls())
    assert list(folder.iterdir()) == []


async def test_many_that_only_knock_do_not_keep_others_out(doors: Doors) -> None:
    knocking = [await asyncio.open_connection("127.0.0.1", doors.http) for _ in range(50)]
    assert await get(doors.http, client_context(doors.issued)) == "HTTP/1.1 200 OK"
    for _, writer in knocking:
        writer.close()
