from collections.abc import AsyncIterator, Iterator

import grpc
import httpx
import openai
import pytest
from grpc_health.v1 import health_pb2_grpc

from baton.v1 import inference_pb2_grpc
from cluster.ingress.http_api import build_app
from cluster.ingress.service import Service
from tests.unit.ingress.fakes import FakeDispatcher, demo_service, serving
from tests.unit.ingress.servicer import Servicer


@pytest.fixture
def service_and_fake() -> Iterator[tuple[Service, FakeDispatcher]]:
    service, fake = demo_service()
    yield service, fake
    service.close()


@pytest.fixture
def service(service_and_fake: tuple[Service, FakeDispatcher]) -> Service:
    return service_and_fake[0]


@pytest.fixture
def fake(service_and_fake: tuple[Service, FakeDispatcher]) -> FakeDispatcher:
    return service_and_fake[1]


@pytest.fixture
async def url(service: Service) -> AsyncIterator[str]:
    async with serving(build_app(service)) as address:
        yield address


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        yield client


@pytest.fixture
async def channel(service: Service) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    servicer = Servicer(service)
    inference_pb2_grpc.add_InferenceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> inference_pb2_grpc.InferenceStub:
    return inference_pb2_grpc.InferenceStub(channel)
