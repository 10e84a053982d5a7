from collections.abc import Iterator

import pytest

from tests.grpc_server import FakeGrpcServer
from tests.http_server import FakeOpenAIServer


@pytest.fixture
def http() -> Iterator[FakeOpenAIServer]:
    with FakeOpenAIServer() as running:
        yield running


@pytest.fixture
def grpc_server() -> Iterator[FakeGrpcServer]:
    with FakeGrpcServer() as running:
        yield running
