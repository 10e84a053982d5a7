"""The asyncio client. `baton.client` is its blocking twin, method for method, and holds the docstrings.

Create and use a client on one running event loop. Cancelling a task that awaits a call cancels the call.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import grpc
import grpc.aio

from baton import _convert
from baton._boundary import HEALTH_METHOD, from_rpc_error, health_status
from baton._connection import Connection
from baton._retry import Attempts
from baton.tls import TLS
from baton.types import Completion, Delta, HealthStatus, M, Model, Options, Prompt, Schema, TokenLogprobs, Usage
from baton.v1 import inference_pb2 as pb
from baton.v1.inference_pb2_grpc import InferenceStub

_Reply = TypeVar("_Reply")


class AsyncStream(AsyncIterator[Delta]):
    """The deltas of one request; see `baton.client.Stream`."""

    def __init__(self, start: Callable[[float], Any], attempts: Attempts, target: str) -> None:
        """`start(timeout_s)` sends the request and returns gRPC's call."""
        self._start = start
        self._attempts = attempts
        self._target = target
        self._answer = _convert.Answer()
        self._pending: deque[Delta] = deque()
        self._is_closed = False
        self._is_whole = False  # nobody sees a part: one that is cut off may begin anew
        self._call = start(attempts.remaining_s())

    @property
    def request_id(self) -> str:
        """The server's name for the request; empty until its first message."""
        return self._answer.request_id

    @property
    def usage(self) -> Usage | None:
        """Token counts; None until the stream has ended by itself."""
        return self._answer.usage

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...] | None:
        """Of the prompt's tokens, the first one's None; all once a delta has a token."""
        return tuple(self._answer.prompt_logprobs) or None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while not self._pending:
            await self._receive()
        return self._pending.popleft()

    async def _receive(self) -> None:
        if self._is_closed:
            raise StopAsyncIteration
        try:
            response = await self._call.read()
        except grpc.RpcError as rpc_error:
            await self._send_again(rpc_error)
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_closed and not (task and task.cancelling()):  # by `close()` in another task
                raise StopAsyncIteration from None
            raise
        if response is grpc.aio.EOF:
            self._is_closed = True
            self._answer.check_whole()
            raise StopAsyncIteration
        self._pending.extend(self._answer.add(response))

    async def _send_again(self, rpc_error: grpc.RpcError) -> None:
        error = from_rpc_error(rpc_error, self._target)
        if self._answer.has_begun and not self._is_whole:
            raise error
        await asyncio.sleep(self._attempts.pause_s(error))
        if self._is_closed:
            raise StopAsyncIteration
        self._answer = _convert.Answer()
        self._call = self._start(self._attempts.remaining_s())

    async def completion(self) -> Completion:
        """Reads to the end and gives the whole answer, deltas already iterated included."""
        self._is_whole = not self._answer.has_begun
        async for _ in self:
            continue
        return self._answer.completion()

    def close(self) -> None:
        """Cancels the request unless it has ended; iterating afterwards ends at once."""
        self._is_closed = True
        self._pending.clear()
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """A connection to one Baton server's gRPC port; see `baton.client.Client`."""

    def __init__(
        self,
        target: str = "127.0.0.1:9000",
        *,
        api_key: str | None = None,
        tls: bool | TLS = False,
        timeout_s: float = 600.0,
        max_retries: int = 2,
        allow_plain_key: bool | None = None,
    ) -> None:
        """
        Args:
            target: host:port, or any name gRPC resolves.
            api_key: Goes with every call; None: what BATON_API_KEY holds, if anything; "": none.
            tls: True: the server's certificate must be of a public authority; else as `baton.TLS` says.
            timeout_s: Deadline of each call, retries and pauses included, unless the call gives its own.
            max_retries: Further tries after an error whose `retryable` is true.
            allow_plain_key: Send the key without TLS to other machines too, for all on the way to read; None: whether
                BATON_ALLOW_PLAIN_KEY is 1.
        Raises:
            ConfigError: A file of `tls` cannot be used, no header can hold `api_key`, or it would go out in plain text.
        """
        self.target = target
        self.timeout_s = timeout_s
        self.max_retries = max_retries
        self._rng = random.Random()
        self._connection = Connection(target, api_key=api_key, tls=tls, allow_plain_key=allow_plain_key)
        self._channel = self._connection.aio_channel()
        self._stub: Any = InferenceStub(self._channel)

    @overload
    async def generate(
        self,
        prompt: Prompt,
        *,
        schema: type[M],
        model: str = "",
        chat_template: str = "",
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> M: ...

    @overload
    async def generate(
        self,
        prompt: Prompt,
        *,
        schema: Mapping[str, Any] | str | bool | None = None,
        model: str = "",
        chat_template: str = "",
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Completion: ...

    async def generate(
        self,
        prompt: Prompt,
        *,
        schema: Schema | None = None,
        model: str = "",
        chat_template: str = "",
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """The whole answer to `prompt`; arguments and errors as `baton.Client.generate`."""
        _convert.check_one_instance(schema, options)
        async with self.stream(
            prompt, schema=schema, model=model, chat_template=chat_template, timeout_s=timeout_s, **options
        ) as stream:
            completion = await stream.completion()
        return completion.parse(schema) if isinstance(schema, type) else completion

    def stream(
        self,
        prompt: Prompt,
        *,
        schema: Schema | None = None,
        model: str = "",
        chat_template: str = "",
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncStream:
        """As `generate`, but sends the request and returns at once; errors come while iterating."""
        params = _convert.sampling_params(schema, **options)
        attempts = self._attempts(timeout_s)
        request = _convert.generate_request(
            prompt, model=model, chat_template=chat_template, sampling=params, timeout_s=0
        )

        def start(remaining_s: float) -> Any:
            request.timeout_s = remaining_s
            return self._stub.Generate(request, timeout=remaining_s, metadata=self._connection.metadata)

        return AsyncStream(start, attempts, self.target)

    async def tokenize(
        self, text: Prompt, *, model: str = "", chat_template: str = "", timeout_s: float | None = None
    ) -> list[int]:
        """The token ids that `text`, or a chat's messages under the chat template, would be read as."""
        request = _convert.tokenize_request(text, model=model, chat_template=chat_template)
        reply: pb.TokenizeResponse = await self._unary(self._stub.Tokenize, request, timeout_s)
        return list(reply.token_ids)

    async def detokenize(self, token_ids: Sequence[int], *, model: str = "", timeout_s: float | None = None) -> str:
        """The text of `token_ids`, special tokens left out."""
        request = _convert.detokenize_request(token_ids, model=model)
        reply: pb.DetokenizeResponse = await self._unary(self._stub.Detokenize, request, timeout_s)
        return reply.text

    async def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """What is served."""
        reply: pb.ListModelsResponse = await self._unary(self._stub.ListModels, pb.ListModelsRequest(), timeout_s)
        return _convert.models(reply)

    async def health(self, *, timeout_s: float = 5.0) -> HealthStatus:
        """What the server's standard health service says of itself; UnavailableError when nothing answers."""
        check = self._channel.unary_unary(HEALTH_METHOD)
        reply: bytes = await self._unary(check, b"", timeout_s)
        return health_status(reply)

    def _attempts(self, timeout_s: float | None) -> Attempts:
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        return Attempts(timeout_s=limit_s, max_retries=self.max_retries, rng=self._rng)

    async def _unary(
        self, method: Callable[..., Awaitable[_Reply]], request: object, timeout_s: float | None
    ) -> _Reply:
        attempts = self._attempts(timeout_s)
        while True:
            try:
                return await method(request, timeout=attempts.remaining_s(), metadata=self._connection.metadata)
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error, self.target)
            await asyncio.sleep(attempts.pause_s(error))

    async def close(self) -> None:
        """Cancels what runs and drops the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
