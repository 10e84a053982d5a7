"""A fake OpenAI-compatible HTTP server whose answers a test scripts, call by call.

Without a script, a completion streams `max_tokens` tokens (default 3), "t0 ", "t1 ", ..., `interval_s` apart.
As a program it serves until killed, one process of its own for measuring a client:
    python -m tests.http_server --interval-ms 20
"""

import argparse
import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.background import BackgroundLoop


@dataclass(frozen=True, slots=True)
class Fail:
    """Answers with this HTTP status and an error body in OpenAI's shape."""

    status: int
    message: str = "scripted"


@dataclass(frozen=True, slots=True)
class Hang:
    """Sends nothing more until the client disconnects."""


@dataclass(frozen=True, slots=True)
class Break:
    """Cuts the connection."""


Step = dict[str, Any] | Fail | Hang | Break


def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    """One event of /v1/completions."""
    return {"id": "c1", "choices": [{"index": 0, "text": text, "finish_reason": finish}]}


def chat_chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    """One event of /v1/chat/completions."""
    return {"id": "c1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """The event that `stream_options.include_usage` asks for."""
    return {
        "id": "c1",
        "choices": [],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }


class FakeOpenAIServer:
    """Serves between `__enter__` and `__exit__` on a port of the system's.

    Attributes:
        scripts: One list of steps per completion call, in order.
        bodies: Every completion's body.
        sent_s: Per completion, the monotonic times at which its token events were written.
        hanging: Set when a call began to hang.
        cancelled: Set when a client left a call that hung.
        models: The reply to /v1/models.
        peak: The most completions at once.
    """

    def __init__(self, *, interval_s: float = 0.0) -> None:
        self.interval_s = interval_s
        self.scripts: deque[list[Step]] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.sent_s: list[list[float]] = []
        self.hanging = threading.Event()
        self.cancelled = threading.Event()
        self.models: dict[str, Any] = {"data": [{"id": "fake", "max_model_len": 2048, "vocab_size": 500}]}
        self.peak = 0
        self._running = 0
        self.url = ""

    async def _list_models(self, request: web.Request) -> web.Response:
        return web.json_response(self.models)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self._running += 1
        self.peak = max(self.peak, self._running)
        try:
            return await self._answer(request)
        finally:
            self._running -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        times_s: list[float] = []
        self.sent_s.append(times_s)
        steps = self.scripts.popleft() if self.scripts else None
        if steps and isinstance(steps[0], Fail):
            error = {"error": {"message": steps[0].message, "type": "invalid_request_error"}}
            return web.json_response(error, status=steps[0].status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for event in self._events(steps, body, "chat" in request.path):
            if isinstance(event, Break):
                assert request.transport is not None
                request.transport.abort()
                return response
            times_s.append(time.perf_counter())
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _events(
        self, steps: list[Step] | None, body: dict[str, Any], is_chat: bool
    ) -> AsyncIterator[dict[str, Any] | Break]:
        for step in steps if steps is not None else _default(body, is_chat):
            if isinstance(step, Hang):
                self.hanging.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.cancelled.set()
            assert isinstance(step, dict | Break)
            yield step
            if self.interval_s:
                await asyncio.sleep(self.interval_s)

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def __enter__(self) -> Self:
        self.background = BackgroundLoop()
        self.background.run(self.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.background.run(self._runner.cleanup())
        self.background.stop()


def _default(body: dict[str, Any], is_chat: bool) -> list[Step]:
    count = body.get("max_tokens") or body.get("max_completion_tokens") or 3
    events: list[Step] = [chat_chunk({"role": "assistant", "content": ""})] if is_chat else []
    for index in range(count):
        finish = "length" if index == count - 1 else None
        text = f"t{index} "
        events.append(chat_chunk({"content": text}, finish) if is_chat else chunk(text, finish))
    prompt = body.get("prompt", "")
    return [*events, usage(len(prompt) if isinstance(prompt, list) else len(prompt.split()), count)]


async def _serve(interval_s: float) -> None:
    server = FakeOpenAIServer(interval_s=interval_s)
    await server.start()
    print(server.url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interval-ms", type=float, default=20.0)
    asyncio.run(_serve(parser.parse_args().interval_ms / 1000))
