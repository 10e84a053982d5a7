from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from cluster.ingress.http_api import build_app
from cluster.ingress.service import Service
from tests.unit.ingress.fakes import FakeDispatcher, demo_service, serving


@pytest.fixture
def service_and_fake() -> tuple[Service, FakeDispatcher]:
    return demo_service()


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
