"""The blocking client. `baton.aio` is its asyncio twin, method for method.

A client holds one channel, connects on first use, and may be shared between threads; a stream may not.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

import grpc

from baton import _convert
from baton._boundary import HEALTH_METHOD, from_rpc_error, health_status
from baton._connection import Connection
from baton._retry import Attempts
from baton.tls import TLS
from baton.types import Completion, Delta, HealthStatus, M, Model, Options, Prompt, Schema, TokenLogprobs, Usage
from baton.v1 import inference_pb2 as pb
from baton.v1.inference_pb2_grpc import InferenceStub

_Reply = TypeVar("_Reply")


class Stream(Iterator[Delta]):
    """The deltas of one request, in the order sent; leaving its `with` block or `close()` cancels the request.

    Iterating raises any BatonError. The request is sent again after a retryable one as long as no delta has come.
    """

    def __init__(self, start: Callable[[float], Any], attempts: Attempts, target: str) -> None:
        """`start(timeout_s)` sends the request and returns gRPC's call."""
        self._start = start
        self._attempts = attempts
        self._target = target
        self._answer = _convert.Answer()
        self._pending: deque[Delta] = deque()
        self._closed = threading.Event()
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

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        while not self._pending:
            self._receive()
        return self._pending.popleft()

    def _receive(self) -> None:
        if self._closed.is_set():
            raise StopIteration
        try:
            response = next(self._call)
        except StopIteration:
            self._closed.set()
            self._answer.check_whole()
            raise
        except grpc.RpcError as rpc_error:
            if self._closed.is_set():  # by `close()` on another thread
                raise StopIteration from None
            self._send_again(rpc_error)
            return
        self._pending.extend(self._answer.add(response))

    def _send_again(self, rpc_error: grpc.RpcError) -> None:
        error = from_rpc_error(rpc_error, self._target)
        if self._answer.has_begun and not self._is_whole:
            raise error
        if self._closed.wait(self._attempts.pause_s(error)):
            raise StopIteration
        self._answer = _convert.Answer()
        self._call = self._start(self._attempts.remaining_s())
        if self._closed.is_set():  # by another thread, which has cancelled the call before
            self._call.cancel()

    def completion(self) -> Completion:
        """Reads to the end and gives the whole answer, deltas already iterated included.

        Where none was iterated, a request that is cut off half-way is sent again too.
        """
        self._is_whole = not self._answer.has_begun
        deque(self, maxlen=0)
        return self._answer.completion()

    def close(self) -> None:
        """Cancels the request unless it has ended; iterating afterwards ends at once."""
        self._closed.set()
        self._pending.clear()
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """A connection to one Baton server's gRPC port."""

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
        self._channel = self._connection.channel()
        self._stub: Any = InferenceStub(self._channel)

    @overload
    def generate(
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
    def generate(
        self,
        prompt: Prompt,
        *,
        schema: Mapping[str, Any] | str | bool | None = None,
        model: str = "",
        chat_template: str = "",
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Completion: ...

    def generate(
        self,
        prompt: Prompt,
        *,
        schema: Schema | None = None,
        model: str = "",
        chat_template: str = "",
        timeout_s: float | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """The whole answer to `prompt`: a text, token ids, or the messages of a chat.

        Args:
            prompt: Not empty.
            model: Empty: the model that is served.
            chat_template: For messages: the name of one of the model's templates; empty: its default.
            timeout_s: Overrides the client's.
            schema: Of the answer, which is JSON: a JSON schema as a dict or text, or a pydantic model. With a model an
                instance of it is given back, not a Completion.
            **options: See `baton.types.Options`.
        Raises:
            IncompleteAnswerError: `max_tokens` or a stop text cut off what was to become an instance.
            InvalidRequestError: `field` names what the server refused.
            OverloadedError: Shed, and the retries too.
            UnavailableError: No server or no worker, and the retries found none.
            DeadlineExceededError: `timeout_s` has passed.
        """
        _convert.check_one_instance(schema, options)
        with self.stream(
            prompt, schema=schema, model=model, chat_template=chat_template, timeout_s=timeout_s, **options
        ) as stream:
            completion = stream.completion()
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
    ) -> Stream:
        """As `generate`, but sends the request and returns at once; errors come while iterating."""
        params = _convert.sampling_params(schema, **options)
        attempts = self._attempts(timeout_s)
        request = _convert.generate_request(
            prompt, model=model, chat_template=chat_template, sampling=params, timeout_s=0
        )

        def start(remaining_s: float) -> Any:
            request.timeout_s = remaining_s
            return self._stub.Generate(request, timeout=remaining_s, metadata=self._connection.metadata)

        return Stream(start, attempts, self.target)

    def tokenize(
        self, text: Prompt, *, model: str = "", chat_template: str = "", timeout_s: float | None = None
    ) -> list[int]:
        """The token ids that `text`, or a chat's messages under the chat template, would be read as."""
        request = _convert.tokenize_request(text, model=model, chat_template=chat_template)
        reply: pb.TokenizeResponse = self._unary(self._stub.Tokenize, request, timeout_s)
        return list(reply.token_ids)

    def detokenize(self, token_ids: Sequence[int], *, model: str = "", timeout_s: float | None = None) -> str:
        """The text of `token_ids`, special tokens left out."""
        request = _convert.detokenize_request(token_ids, model=model)
        reply: pb.DetokenizeResponse = self._unary(self._stub.Detokenize, request, timeout_s)
        return reply.text

    def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """What is served."""
        reply: pb.ListModelsResponse = self._unary(self._stub.ListModels, pb.ListModelsRequest(), timeout_s)
        return _convert.models(reply)

    def health(self, *, timeout_s: float = 5.0) -> HealthStatus:
        """What the server's standard health service says of itself; UnavailableError when nothing answers."""
        check = self._channel.unary_unary(HEALTH_METHOD)
        reply: bytes = self._unary(check, b"", timeout_s)
        return health_status(reply)

    def _attempts(self, timeout_s: float | None) -> Attempts:
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        return Attempts(timeout_s=limit_s, max_retries=self.max_retries, rng=self._rng)

    def _unary(self, method: Callable[..., _Reply], request: object, timeout_s: float | None) -> _Reply:
        attempts = self._attempts(timeout_s)
        while True:
            try:
                return method(request, timeout=attempts.remaining_s(), metadata=self._connection.metadata)
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error, self.target)
            time.sleep(attempts.pause_s(error))

    def close(self) -> None:
        """Cancels what runs and drops the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
