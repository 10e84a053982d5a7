"""A fake `baton.v1.Inference` server whose answers a test scripts, call by call.

Without a script, Generate writes `max_tokens` tokens (default 3): ids 100, 101, ..., texts "t0 ", "t1 ", ...
As a program it serves until killed, one process of its own for measuring a client:
    python -m tests.grpc_server --interval-ms 20
"""

import argparse
import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from baton.v1 import inference_pb2 as pb
from baton.v1.inference_pb2_grpc import InferenceServicer, add_InferenceServicer_to_server
from tests.background import BackgroundLoop


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """Ends the call with this status and trailing metadata."""

    status: grpc.StatusCode
    details: str = "scripted"
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Hang:
    """Waits until the client cancels or the deadline passes."""


Step = pb.GenerateResponse | Fail | Hang


def token(index: int, *, choice: int = 0, finish: pb.FinishReason | None = None) -> pb.GenerateResponse:
    """A message with one token."""
    delta = pb.ChoiceDelta(choice=choice, text=f"t{index} ", token_ids=[100 + index])
    if finish is not None:
        delta.finish_reason = finish
    return pb.GenerateResponse(request_id="r1", deltas=[delta])


def written(text: str, finish: pb.FinishReason = pb.FINISH_REASON_STOP) -> "list[Step]":
    """An answer of one message and the last one."""
    delta = pb.ChoiceDelta(text=text, token_ids=[100], finish_reason=finish)
    return [pb.GenerateResponse(request_id="r1", deltas=[delta]), last(completion_tokens=1)]


def last(prompt_tokens: int = 5, completion_tokens: int = 3, cached_tokens: int = 0) -> pb.GenerateResponse:
    """The final message."""
    counts = pb.Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cached_tokens=cached_tokens)
    return pb.GenerateResponse(request_id="r1", usage=counts)


class _Servicer(InferenceServicer):
    def __init__(self, owner: "FakeGrpcServer") -> None:
        self._owner = owner

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        owner = self._owner
        owner.deadlines_s.append(context.time_remaining())
        steps = owner.scripts.popleft() if owner.scripts else _default(request)
        end = owner.note(request, context)
        owner.received.set()
        for step in steps:
            if isinstance(step, Fail | Hang):
                await _do(step, context, end)
            else:
                yield step
                if owner.interval_s:
                    await asyncio.sleep(owner.interval_s)
        end()

    async def _unary(self, request: Any, context: Any) -> None:
        owner = self._owner
        end = owner.note(request, context)
        step = owner.unary_scripts.popleft() if owner.unary_scripts else None
        if step is not None:
            await _do(step, context, end)
        end()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Any) -> pb.TokenizeResponse:
        await self._unary(request, context)
        text = request.text or "".join(message.content for message in request.chat.messages)
        return pb.TokenizeResponse(token_ids=list(text.encode()), max_model_len=2048)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Any) -> pb.DetokenizeResponse:
        await self._unary(request, context)
        return pb.DetokenizeResponse(text=bytes(request.token_ids).decode())

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        await self._unary(request, context)
        return pb.ListModelsResponse(models=[pb.Model(id="fake", max_model_len=2048, vocab_size=500)])


async def _do(step: Fail | Hang, context: Any, end: Callable[[], None]) -> None:
    if isinstance(step, Hang):
        await asyncio.Event().wait()
    else:
        end()
        await context.abort(step.status, step.details, step.metadata)


def _default(request: pb.GenerateRequest) -> list[Step]:
    count = request.sampling.max_tokens or 3
    prompt_tokens = len(request.prompt_token_ids.ids) or len(request.prompt.split()) or 1
    tokens: list[Step] = [token(index) for index in range(count - 1)]
    return [*tokens, token(count - 1, finish=pb.FINISH_REASON_LENGTH), last(prompt_tokens, count)]


class FakeGrpcServer:
    """Serves between `__enter__` and `__exit__` on a port of the system's.

    Attributes:
        scripts: One list of steps per Generate call, in order.
        unary_scripts: One failure (or None for success) per unary call.
        requests: Every request received.
        metadata: What came with each of `requests`.
        deadlines_s: What each Generate call was allowed.
        received: Set when a Generate call has come.
        cancelled: Set when a call ended before its script: its client left or its deadline passed, wherever it stood.
        health: The standard health service.
    """

    def __init__(self, *, interval_s: float = 0.0, credentials: grpc.ServerCredentials | None = None) -> None:
        self.interval_s = interval_s
        self._credentials = credentials
        self.scripts: deque[list[Step]] = deque()
        self.unary_scripts: deque[Fail | Hang | None] = deque()
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.deadlines_s: list[float] = []
        self.received = threading.Event()
        self.cancelled = threading.Event()
        self.health = health.aio.HealthServicer()
        self.target = ""

    def note(self, request: Any, context: Any) -> Callable[[], None]:
        """Of a call that begins; what it returns is to be called when the script, and not the client, ends it.

        gRPC may cancel a handler while it writes, and a handler that is never resumed cannot tell.
        """
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        ended = threading.Event()
        context.add_done_callback(lambda _: ended.is_set() or self.cancelled.set())
        return ended.set

    async def set_health(self, is_serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self.health.set("", status.SERVING if is_serving else status.NOT_SERVING)

    async def start(self) -> None:
        self._server = grpc.aio.server()
        add_InferenceServicer_to_server(_Servicer(self), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        await self.set_health(True)
        address = "127.0.0.1:0"
        if self._credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, self._credentials)
        self.target = f"127.0.0.1:{port}"
        await self._server.start()

    def __enter__(self) -> Self:
        self.background = BackgroundLoop()
        self.background.run(self.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.background.run(self._server.stop(None))
        self.background.stop()


async def _serve(interval_s: float) -> None:
    server = FakeGrpcServer(interval_s=interval_s)
    await server.start()
    print(server.target, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interval-ms", type=float, default=20.0)
    asyncio.run(_serve(parser.parse_args().interval_ms / 1000))
