"""Sends an answer over ASGI, whole or as typed server-sent events, while the client is there.

A request that is refused or shed at once gets its own status code. One that waits for longer than `PING_S` for its
first token is told so: its stream begins, and goes on with pings, so that nobody on the way takes it for dead; a fault
is an event then.
"""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from baton.errors import BatonError
from cluster.ingress.answer import Delta, TokenUsage
from cluster.ingress.errors import error_headers
from cluster.ingress.long_json import long_json
from cluster.ingress.responses import (
    EVENT_HEADERS,
    INLINE_LOGPROBS,
    send_body,
    send_content,
    send_json,
    while_connected,
)
from cluster.ingress.service import OpenCall

PING_S = 10.0


class Shape(Protocol):
    """One answer's shape: takes deltas, and says what a client is sent of them."""

    ping: str
    headers: Mapping[str, str]

    def begin(self, usage: TokenUsage) -> str: ...

    def event(self, delta: Delta) -> str:
        """Events for a delta, "" where it has nothing that the client could see."""
        ...

    def end(self, usage: TokenUsage) -> str: ...

    def failure(self, error: BatonError, usage: TokenUsage) -> str:
        """What ends a stream that has begun."""
        ...

    def whole(self, usage: TokenUsage) -> dict[str, Any]:
        """The answer at once, after the last delta was taken."""
        ...

    def error_body(self, error: BatonError) -> dict[str, Any]: ...


class TypedResponse(Response):
    def __init__(self, run: OpenCall, shape: Shape, *, stream: bool) -> None:
        super().__init__()
        self._run = run
        self._shape = shape
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._send_events(send) if self._stream else self._send_whole(send))

    async def _send_whole(self, send: Send) -> None:
        shape = self._shape
        try:
            async with aclosing(self._run.deltas()) as batches:
                async for batch in batches:
                    for delta in batch:
                        shape.event(delta)
        except BatonError as error:
            await self._refuse(send, error)
            return
        shape.end(self._run.usage)
        usage = self._run.usage
        if usage.completion_tokens <= INLINE_LOGPROBS:
            await send_json(send, 200, shape.whole(usage), dict(shape.headers))
            return
        content = await asyncio.to_thread(lambda: long_json(shape.whole(usage)))
        await send_content(send, 200, content, dict(shape.headers))

    async def _send_events(self, send: Send) -> None:
        shape, run = self._shape, self._run
        stream = _Stream(send, shape, run)
        event, write = shape.event, stream.write
        pinging = asyncio.create_task(stream.keep_awake())
        try:
            async with aclosing(run.deltas()) as batches:
                async for batch in batches:
                    if not stream.has_begun:
                        await write("")
                    text = event(batch[0]) if len(batch) == 1 else "".join([event(delta) for delta in batch])
                    if text:
                        await write(text)
            await stream.close(shape.end(run.usage))
        except BatonError as error:
            if stream.has_begun:
                await stream.close(shape.failure(error, run.usage))
            else:
                pinging.cancel()
                await self._refuse(send, error)
        finally:
            pinging.cancel()

    async def _refuse(self, send: Send, error: BatonError) -> None:
        headers = dict(self._shape.headers) | error_headers(error)
        await send_json(send, error.http_status, self._shape.error_body(error), headers)


class _Stream:
    """The events of one answer on their way; two tasks write them, one at a time."""

    def __init__(self, send: Send, shape: Shape, run: OpenCall) -> None:
        self.has_begun = False
        self._send = send
        self._shape = shape
        self._run = run
        self._turn = asyncio.Lock()
        self._is_awake = False  # something was written since the last look

    async def write(self, text: str) -> None:
        self._is_awake = True
        async with self._turn:
            if not self.has_begun:
                text = await self._begin() + text
            await send_body(self._send, text, more=True)

    async def keep_awake(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            if not self._is_awake:
                await self.write(self._shape.ping)
            self._is_awake = False

    async def close(self, ending: str) -> None:
        async with self._turn:
            await send_body(self._send, ending, more=False)

    async def _begin(self) -> str:
        self.has_begun = True
        more = [(name.lower().encode(), value.encode()) for name, value in self._shape.headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": [*EVENT_HEADERS, *more]})
        return self._shape.begin(self._run.usage)
