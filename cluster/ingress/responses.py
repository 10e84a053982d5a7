"""Sends an answer over ASGI, whole or as server-sent events, while the client is there.

Nothing is sent before the first delta, so that a request that is refused or shed gets its own status code. A client
that goes away ends the answer at once, whether or not tokens flow.
"""

import asyncio
import json
import logging
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from baton.errors import BatonError
from cluster.ingress.answer import Delta
from cluster.ingress.errors import error_body, error_event, error_headers
from cluster.ingress.formats import DONE, Format, join_deltas
from cluster.ingress.long_json import long_json
from cluster.ingress.request_ids import request_id_of
from cluster.ingress.service import OpenCall

INLINE_LOGPROBS = 128  # tokens; more are written on a thread: 3 ms where each has 20 likely ones

logger = logging.getLogger(__name__)

EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class AnswerResponse(Response):
    """`usage`: a stream ends with an event that carries it."""

    def __init__(self, run: OpenCall, shape: Format, *, stream: bool, usage: bool) -> None:
        super().__init__()
        self._run = run
        self._shape = shape
        self._stream = stream
        self._usage = usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = self._send_events(send, request_id_of(scope)) if self._stream else self._send_whole(send)
        await while_connected(receive, work)

    async def _send_whole(self, send: Send) -> None:
        choices: dict[int, Delta] = {}
        try:
            async with aclosing(self._run.deltas()) as batches:
                async for batch in batches:
                    for delta in batch:
                        join_deltas(choices.setdefault(delta.choice, Delta(choice=delta.choice)), delta)
        except BatonError as error:
            await send_json(send, error.http_status, error_body(error), error_headers(error))
            return
        ordered = [choices[index] for index in sorted(choices)]
        if sum(len(choice.prompt or ()) + len(choice.logprobs) for choice in ordered) <= INLINE_LOGPROBS:
            await send_json(send, 200, self._shape.whole(ordered, self._run.usage), {})
            return
        usage = self._run.usage
        content = await asyncio.to_thread(lambda: long_json(self._shape.whole(ordered, usage)))
        await send_content(send, 200, content, {})

    async def _send_events(self, send: Send, request_id: str) -> None:
        event = self._shape.event
        has_begun = False
        try:
            async with aclosing(self._run.deltas()) as batches:
                async for batch in batches:
                    if not has_begun:
                        has_begun = True
                        await send({"type": "http.response.start", "status": 200, "headers": EVENT_HEADERS})
                    text = "".join([event(delta) for delta in batch])
                    if text:
                        await send_body(send, text, more=True)
            ending = (self._shape.usage_event(self._run.usage) if self._usage else "") + DONE
        except BatonError as error:
            if not has_begun:
                await send_json(send, error.http_status, error_body(error), error_headers(error))
                return
            logger.warning("a stream ended with an error request_id=%s code=%s", request_id, error.code)
            ending = error_event(error)
        await send_body(send, ending, more=False)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` to its end, or cancels it and waits for its clean-up when the client disconnects."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_until_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def send_json(send: Send, status: int, body: dict[str, Any], headers: dict[str, str]) -> None:
    await send_content(send, status, json.dumps(body).encode(), headers)


async def send_content(send: Send, status: int, content: bytes, headers: dict[str, str]) -> None:
    """JSON."""
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})


async def send_body(send: Send, text: str, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": more})
