from collections.abc import Iterator

import pytest

from tests.grpc_server import FakeGrpcServer


@pytest.fixture
def server() -> Iterator[FakeGrpcServer]:
    with FakeGrpcServer() as running:
        yield running


@pytest.fixture
def dead_target() -> str:
    """An address where a server was."""
    with FakeGrpcServer() as stopped:
        return stopped.target
