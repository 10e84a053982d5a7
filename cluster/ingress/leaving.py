"""Frees a replica of what it does for a gRPC client that has left Serve's Python proxy.

Ray 2.60's proxy cancels a replica's work only where its handler waits for the next message. One whose client leaves
while it writes is dropped where it stands, and the replica would write its answer to the end for nobody. HAProxy needs
none of this: replicas then serve clients themselves.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from baton.errors import InternalError

Handler = Callable[[Any, Any], Any]


def cancel_what_clients_leave() -> None:
    """In a proxy. Raises: InternalError: this version of Ray makes its handlers in another way."""
    from ray.serve._private import proxy
    from ray.serve._private.proxy_request_response import gRPCStreamingType

    make = getattr(proxy.gRPCProxy, "service_handler_factory", None)
    if getattr(make, "is_ours", False):
        return
    if not callable(make):
        raise InternalError("this version of Ray Serve makes its gRPC handlers in an unknown way; use ray 2.60")

    def service_handler_factory(self: Any, service_method: str, streaming_type: Any) -> Handler:
        handler: Handler = make(self, service_method, streaming_type)
        return cancelling(handler) if streaming_type == gRPCStreamingType.UNARY_STREAM else handler

    service_handler_factory.is_ours = True  # type: ignore[attr-defined]
    proxy.gRPCProxy.service_handler_factory = service_handler_factory  # type: ignore[method-assign]


def cancelling(handler: Handler) -> Handler:
    """`handler`, a generator of messages, which is cancelled where it next waits when it is dropped or closed."""

    async def messages(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        line = _Line(context)
        inner = handler(request, line)
        try:
            async for message in inner:
                yield message
        except GeneratorExit:
            line.hang_up()
            await _cancel(inner)
            raise

    return messages


class _Line:
    """The context of a call for as long as there is one: gRPC's own crashes the process when it is asked afterwards."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._peer = context.peer()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def peer(self) -> Any:
        return self._peer

    def hang_up(self) -> None:
        self._context = _Nobody()


class _Nobody:
    """Takes a status and metadata that nobody will get."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


async def _cancel(inner: AsyncGenerator[Any, None]) -> None:
    """Resumes it until it waits, and cancels it there."""
    while True:
        waiting = asyncio.ensure_future(anext(inner))
        await asyncio.sleep(0)  # it begins
        waiting.cancel()
        try:
            await waiting
        except (asyncio.CancelledError, StopAsyncIteration):
            return
