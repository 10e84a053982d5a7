"""An ingress without Ray whose doors want keys, over HTTP and gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2_grpc

from baton.v1 import inference_pb2_grpc
from cluster.config.api_keys import parse_keys
from cluster.config.schema import AuthConfig
from cluster.doors.accounts import KeyMetrics
from cluster.doors.budget import Ask, Grant, Ledger
from cluster.doors.guard import Guard
from cluster.doors.key_file import change_keys, hashed, new_key
from cluster.ingress.http_api import build_app
from cluster.ingress.metrics import Metrics
from cluster.ingress.service import Service
from tests.unit.ingress.fakes import FakeDispatcher, demo_service, serving
from tests.unit.ingress.servicer import Servicer


@dataclass
class Keyed:
    file: Path
    service: Service
    fake: FakeDispatcher
    url: str
    target: str

    @property
    def guard(self) -> Guard:
        assert self.service.guard is not None
        return self.service.guard

    async def add(self, name: str, **fields: object) -> str:
        """A new key, in force at once."""
        key = add_key(self.file, name, **fields)
        await self.guard.reload()
        return key

    def http(self, key: str | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=10, verify=False)


async def until(is_so: Callable[[], Awaitable[bool]], timeout_s: float = 10.0) -> None:
    """Asks until it is."""
    async with asyncio.timeout(timeout_s):
        while not await is_so():  # noqa: ASYNC110, another process or task makes it so
            await asyncio.sleep(0.05)


def add_key(path: Path, name: str, **fields: object) -> str:
    key = new_key()
    row = {"name": name, "sha256": hashed(key), **fields}
    change_keys(path, lambda keys: [*keys, *parse_keys([row], "test")])
    return key


METRICS_TOKEN = "of-prometheus"


@asynccontextmanager
async def keyed_ingress(file: Path, *, public_metrics: bool = False) -> AsyncIterator[Keyed]:
    change_keys(file, lambda keys: keys)
    ledger = Ledger()

    async def draw(ask: Ask) -> Grant:
        return ledger.draw(ask, time.monotonic())

    def make_guard(metrics: Metrics) -> Guard:
        auth = AuthConfig(keys_file=str(file), public_metrics=public_metrics)
        counts = KeyMetrics(metrics.registry)
        return Guard(
            auth,
            model="demo",
            draw=draw,
            replica="one",
            num_replicas=1,
            metrics=counts,
            adapters=lambda: fake.adapters,
        )

    service, fake = demo_service(make_guard=make_guard)
    assert service.guard is not None
    server = grpc.aio.server()
    servicer = Servicer(service)
    inference_pb2_grpc.add_InferenceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    service.guard.start()
    async with serving(build_app(service, metrics_token=METRICS_TOKEN)) as url:
        yield Keyed(file=file, service=service, fake=fake, url=url, target=f"127.0.0.1:{port}")
    await service.guard.close()
    await server.stop(None)
