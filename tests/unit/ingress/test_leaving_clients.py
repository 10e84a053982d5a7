"""A gRPC client that leaves while the server writes: nothing resumes the handler then, gRPC and Serve forget it.

What it holds must come free at once, and not when garbage is next collected: collection is off here.
"""

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest

from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc
from baton.v1.worker_pb2 import TokenOutput
from cluster.ingress.grpc_api import GRPCRoutes
from cluster.ingress.service import Service
from cluster.router.dispatcher import DispatchRequest
from tests.unit.ingress.fakes import FakeDispatcher
from tests.unit.ingress.servicer import Servicer

NUM_STEPS = 900


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def steps(fake: FakeDispatcher) -> list[int]:
    """One entry for each step that the ingress has asked `fake` for; they are far more than any window holds."""
    taken: list[int] = []
    generate = fake.generate

    async def counted(request: DispatchRequest) -> AsyncGenerator[list[TokenOutput], None]:
        outputs = generate(request)
        try:
            async for batch in outputs:
                taken.append(len(batch))
                yield batch
        finally:
            await outputs.aclose()

    fake.generate = counted  # type: ignore[method-assign]
    fake.answer = "times " * NUM_STEPS
    return taken


@pytest.fixture
async def stub(service: Service) -> AsyncIterator[Any]:
    """Of a client with a small window, which does not grow."""
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServicer_to_server(Servicer(service), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield inference_pb2_grpc.InferenceStub(channel)
    await server.stop(None)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # generators have no events
            await asyncio.sleep(0.001)


async def until_no_more(steps: list[int]) -> None:
    """The client reads no more: soon the next message waits for room."""
    last = 0
    while last != len(steps) or not steps:
        last = len(steps)
        await asyncio.sleep(0.2)


async def test_a_client_that_leaves_while_a_message_waits_for_room_frees_its_workers(
    stub: Any, fake: FakeDispatcher, steps: list[int]
) -> None:
    call = stub.Generate(pb.GenerateRequest(prompt="Once", sampling=pb.SamplingParams(n=8, logprobs=20)))
    await call.read()
    await until_no_more(steps)
    assert len(steps) < NUM_STEPS
    assert fake.closed == []
    call.cancel()
    await until(lambda: bool(fake.closed))
    assert fake.closed == [fake.requests[0].request_id]


class _Context:
    def invocation_metadata(self) -> Any:
        return ()

    def set_code(self, code: Any) -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, metadata: Any) -> None: ...


async def test_an_answer_that_is_dropped_where_it_stands_frees_its_workers(
    service: Service, fake: FakeDispatcher, steps: list[int]
) -> None:
    answer = GRPCRoutes(service).generate(pb.GenerateRequest(prompt="Once"), _Context())
    assert (await anext(answer)).deltas
    del answer
    await until(lambda: bool(fake.closed))
    assert len(steps) == 1
