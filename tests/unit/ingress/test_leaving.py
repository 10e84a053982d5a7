"""A stand-in for Serve's Python proxy: it cancels its replica where it waits for a message, and nowhere else."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from cluster.ingress.leaving import cancelling


class Context:
    """gRPC's, which must not be touched once the call is gone."""

    is_over = False

    def peer(self) -> str:
        assert not self.is_over
        return "ipv4:127.0.0.1:1"

    def set_code(self, code: Any) -> None:
        assert not self.is_over


class Proxy:
    def __init__(self, num_ready: int = 1) -> None:
        self.is_cancelled = False
        self.peer = ""
        self._num_ready = num_ready

    async def handle(self, request: Any, context: Any) -> AsyncGenerator[int, None]:
        for number in range(self._num_ready):
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.is_cancelled = True
                return
            yield number
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            context.set_code("CANCELLED")
            self.peer = context.peer()
            self.is_cancelled = True


async def test_what_is_dropped_between_messages_is_cancelled_where_it_next_waits() -> None:
    for num_ready in (1, 3):
        proxy, context = Proxy(num_ready), Context()
        messages = cancelling(proxy.handle)(None, context)
        assert await anext(messages) == 0
        context.is_over = True
        await messages.aclose()
        assert proxy.is_cancelled


async def test_a_handler_that_ends_by_itself_is_left_alone() -> None:
    async def handle(request: Any, context: Any) -> AsyncGenerator[int, None]:
        yield request
        yield context.peer()

    assert [message async for message in cancelling(handle)(1, Context())] == [1, "ipv4:127.0.0.1:1"]


async def test_one_that_was_ended_at_its_last_message_has_nothing_to_cancel() -> None:
    async def handle(request: Any, context: Any) -> AsyncGenerator[int, None]:
        yield 1

    messages = cancelling(handle)(None, Context())
    assert await anext(messages) == 1
    await messages.aclose()
