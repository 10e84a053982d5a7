"""How gRPC servers take messages in: one that cannot be read, or does not come, is the caller's fault and said so.

grpc.aio never answers a call without streams whose only message is missing or cut off, and calls a message that it
cannot parse an unknown error of the server's. So handlers of such calls are registered as those of a stream of one
message, and streams end at a message that cannot be read.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

logger = logging.getLogger(__name__)
_UNREADABLE = "a message of this call cannot be read; send what the .proto says"
_MISSING = "the message of this call is missing or incomplete; send one"


def guarded(handler: grpc.RpcMethodHandler, timeout_s: float) -> grpc.RpcMethodHandler:
    """A handler that does the same for good messages.

    Args:
        handler: Its function is a coroutine function, or an asynchronous generator function of several responses.
        timeout_s: In which the message of a call that has one must have come.
    """
    if handler.request_streaming:
        return handler._replace(**_of_streams(handler))
    ours = _of_one(handler, timeout_s)
    return handler._replace(request_streaming=True, unary_unary=None, unary_stream=None, **ours)


def _of_streams(handler: grpc.RpcMethodHandler) -> dict[str, Any]:
    whole, parts = handler.stream_unary, handler.stream_stream

    async def stream_unary(requests: Any, context: grpc.aio.ServicerContext) -> Any:
        return await whole(readable(requests, context), context)

    async def stream_stream(requests: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for response in parts(readable(requests, context), context):
            yield response

    return {"stream_stream": stream_stream} if handler.response_streaming else {"stream_unary": stream_unary}


def _of_one(handler: grpc.RpcMethodHandler, timeout_s: float) -> dict[str, Any]:
    whole, parts = handler.unary_unary, handler.unary_stream

    async def stream_unary(requests: Any, context: grpc.aio.ServicerContext) -> Any:
        return await whole(await _only(requests, context, timeout_s), context)

    async def stream_stream(requests: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for response in parts(await _only(requests, context, timeout_s), context):
            yield response

    return {"stream_stream": stream_stream} if handler.response_streaming else {"stream_unary": stream_unary}


async def _only(requests: Any, context: grpc.aio.ServicerContext, timeout_s: float) -> Any:
    """The message of a call that has one. Ends the call where it is none."""
    try:
        async with asyncio.timeout(timeout_s):
            async for request in requests:
                return request
    except TimeoutError:
        text = f"the message of this call did not come within {timeout_s:g} s, the limit of this server"
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, text)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _UNREADABLE)
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _MISSING)


async def readable(requests: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
    """The messages of a stream, up to one that cannot be read."""
    try:
        async for request in requests:
            yield request
    except DecodeError:
        logger.warning("a peer's message cannot be read, its stream ends peer=%s", context.peer())
        with contextlib.suppress(grpc.aio.UsageError):  # the call is over
            context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
            context.set_details(_UNREADABLE)
