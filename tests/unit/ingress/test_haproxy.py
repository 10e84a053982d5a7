"""A real HAProxy, in front of servers of this process that stand for ingress replicas."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from cluster.host.ports import free_ports
from cluster.ingress.environment import find_haproxy, serve_environment

pytestmark = pytest.mark.skipif(find_haproxy() is None, reason="no HAProxy binary on this platform")
GENERATE = "/baton.v1.Inference/Generate"
HEALTHY = b"\n\x07success"  # what HAProxy looks for in an answer to Serve's own gRPC health check


class Replica:
    """Answers a POST with its body's length; a lost one hangs up when it has read a request."""

    def __init__(self, *, is_lost: bool = False) -> None:
        self.num_requests = 0
        self._is_lost = is_lost

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if b"content-length:" in line]
                body = await reader.readexactly(int(lengths[0])) if lengths else b""
                if b"/-/healthz" not in head:
                    self.num_requests += 1
                    if self._is_lost:
                        break
                if b"/slow" in head:
                    await asyncio.sleep(1)
                answer = str(len(body)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.transport.abort()


class GRPCReplica(grpc.GenericRpcHandler):
    """Streams three messages, whatever is called."""

    def service(self, details: Any) -> Any:
        async def health(request: bytes, context: Any) -> bytes:
            return HEALTHY

        async def generate(request: bytes, context: Any) -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x"

        if details.method != GENERATE:
            return grpc.unary_unary_rpc_method_handler(health)
        return grpc.unary_stream_rpc_method_handler(generate)


async def lost_grpc_replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes a request and hangs up."""
    writer.write(b"\0\0\0\4\0\0\0\0\0")  # HTTP/2: no settings
    read = b""
    while b"HELLO" not in read and (data := await reader.read(1 << 16)):
        read += data
    writer.transport.abort()


@asynccontextmanager
async def served(*replicas: Callable[..., Any]) -> AsyncIterator[list[tuple[str, int]]]:
    """On ports of their own; yields (name, port) of each."""
    servers = [await asyncio.start_server(replica, "127.0.0.1", 0) for replica in replicas]
    try:
        yield [(f"replica{index}", one.sockets[0].getsockname()[1]) for index, one in enumerate(servers)]
    finally:
        for server in servers:
            server.close()


class Proxied:
    """A SteadyHAProxy and its two public ports."""

    def __init__(self, folder: str) -> None:
        settings = serve_environment(folder)
        from ray.serve._private import haproxy
        from ray.serve.config import HTTPOptions, gRPCOptions

        from cluster.ingress.haproxy import SteadyHAProxy

        self.http, self.grpc = free_ports("127.0.0.1", 2)
        self._module = haproxy
        self.proxy = SteadyHAProxy(
            haproxy.HAProxyConfig(
                http_options=HTTPOptions(host="127.0.0.1", port=self.http),
                grpc_options=gRPCOptions(
                    port=self.grpc,
                    grpc_servicer_functions=["grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server"],
                ),
                is_head=True,
                socket_path=f"{folder}/admin.sock",
                server_state_base=folder,
                server_state_file=f"{folder}/server-state",
                metrics_enabled=False,
                stats_port=int(settings["RAY_SERVE_HAPROXY_STATS_PORT"]),
                metrics_port=int(settings["RAY_SERVE_HAPROXY_METRICS_PORT"]),
                retry_on=settings["RAY_SERVE_HAPROXY_RETRY_ON"],
                bufsize=int(settings["RAY_SERVE_HAPROXY_TUNE_BUFSIZE"]),
            ),
            config_file_path=f"{folder}/haproxy.cfg",
        )

    def route(self, http: list[tuple[str, int]], grpc_: list[tuple[str, int]]) -> None:
        from ray.serve._private.common import RequestProtocol

        backends = {}
        for protocol, servers in ((RequestProtocol.HTTP, http), (RequestProtocol.GRPC, grpc_)):
            name = protocol.value.lower()
            backends[name] = self._module.BackendConfig(
                name=name,
                path_prefix="/",
                app_name="baton",
                protocol=protocol,
                servers=[self._module.ServerConfig(server, "127.0.0.1", port) for server, port in servers],
            )
        self.proxy.set_backend_configs(backends)

    def client(self) -> httpx.AsyncClient:
        """A connection for every request."""
        limits = httpx.Limits(max_keepalive_connections=0)
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.http}", limits=limits, timeout=20)

    async def generate(self, num_bytes: int = 10) -> int:
        """Messages of one call."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc}") as channel:
            call = channel.unary_stream(GENERATE)(b"HELLO" * (num_bytes // 5))
            return len([message async for message in call])


@pytest.fixture
async def proxied() -> AsyncIterator[Proxied]:
    with tempfile.TemporaryDirectory(prefix="bx-", dir="/tmp") as folder:
        made = Proxied(folder)
        try:
            yield made
        finally:
            await made.proxy.stop()


async def test_no_connection_is_refused_while_haproxy_is_killed_again_and_again(proxied: Proxied) -> None:
    async with served(Replica()) as http, proxied.client() as client:
        proxied.route(http, [])
        await proxied.proxy.start()
        requests, killed = [], set()
        for index in range(60):
            process = proxied.proxy._proc
            if index % 20 == 10 and process.pid not in killed:
                killed.add(process.pid)
                os.kill(process.pid, signal.SIGKILL)
            requests.append(asyncio.create_task(client.get("/")))
            await asyncio.sleep(0.02)
        replies = await asyncio.gather(*requests, return_exceptions=True)
    assert not [reply for reply in replies if isinstance(reply, httpx.ConnectError)]
    cut = [reply for reply in replies if isinstance(reply, BaseException)]
    assert len(cut) <= 2 * len(killed), cut  # what a HAProxy held as it died
    assert len(killed) >= 2


async def test_a_post_whose_replica_dies_unanswered_goes_to_another_one(proxied: Proxied) -> None:
    lost, good = Replica(is_lost=True), Replica()
    async with served(lost, good) as http, proxied.client() as client:
        proxied.route(http, [])
        await proxied.proxy.start()
        for num_bytes in (10, 120_000):
            replies = await asyncio.gather(*(client.post("/v1/completions", content=b"a" * num_bytes) for _ in "1234"))
            assert [(reply.status_code, reply.text) for reply in replies] == [(200, str(num_bytes))] * 4
    assert lost.num_requests >= 2
    assert good.num_requests == 8


async def test_a_post_too_large_to_be_kept_is_a_503_when_its_replica_dies(proxied: Proxied) -> None:
    async with served(Replica(is_lost=True)) as http, proxied.client() as client:
        proxied.route(http, [])
        await proxied.proxy.start()
        reply = await client.post("/v1/completions", content=b"a" * 400_000)
    assert (reply.status_code, reply.json()["error"]["code"], reply.headers["retry-after"]) == (503, "unavailable", "1")


async def test_a_grpc_call_whose_replica_dies_unanswered_goes_to_another_one(proxied: Proxied) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((GRPCReplica(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with served(lost_grpc_replica) as lost:
        proxied.route([], [*lost, ("good", port)])
        await proxied.proxy.start()
        assert await asyncio.gather(*(proxied.generate(size) for size in (10, 10, 120_000, 120_000))) == [3] * 4
    await server.stop(None)


async def test_a_change_of_replicas_cuts_nothing_that_runs(proxied: Proxied) -> None:
    async with served(Replica()) as http, proxied.client() as client:
        proxied.route(http, [])
        await proxied.proxy.start()
        first = proxied.proxy._proc.pid
        slow = asyncio.create_task(client.get("/slow"))
        await asyncio.sleep(0.1)
        await proxied.proxy.reload()
        assert proxied.proxy._proc.pid != first
        assert (await client.get("/")).status_code == 200
        assert (await slow).status_code == 200


async def test_a_haproxy_that_a_killed_manager_left_ends_when_the_next_one_starts(proxied: Proxied) -> None:
    async with served(Replica()) as http, proxied.client() as client:
        proxied.route(http, [])
        await proxied.proxy.start()
        left = proxied.proxy._proc
        proxied.proxy._proc = None  # as a new manager that never heard of it, and of no replica yet
        proxied.proxy.cfg.has_received_routes = False
        starting = asyncio.create_task(proxied.proxy.start())
        await asyncio.sleep(0.2)
        assert (await client.get("/")).status_code == 200
        assert left.returncode is None
        proxied.proxy.cfg.has_received_routes = True
        await starting
        assert await asyncio.wait_for(left.wait(), 5) == 0
        assert (await client.get("/")).status_code == 200


async def test_who_was_told_that_no_replica_is_known_comes_to_the_haproxy_that_knows_one(proxied: Proxied) -> None:
    async with served(Replica()) as http, httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxied.http}") as client:
        await proxied.proxy.start()
        assert (await client.get("/")).status_code == 503
        proxied.route(http, [])
        proxied.proxy.cfg.has_received_routes = True
        await proxied.proxy.reload()
        assert (await client.get("/")).status_code == 200


def test_the_hook_of_serves_controller_puts_our_manager_in_its_place(tmp_path: Path) -> None:
    from ray.serve._private import controller

    from cluster.ingress.haproxy import SteadyHAProxyManager, on_controller_start

    served_class = controller.HAProxyManager
    try:
        on_controller_start()
        assert issubclass(controller.HAProxyManager.__ray_metadata__.modified_class, SteadyHAProxyManager)
    finally:
        controller.HAProxyManager = served_class
