"""Reads the bodies of HTTP requests, within a size (as they come, and made plain) and a time.

What is left of one that is refused is read and forgotten by `cluster.ingress.http_protocol`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from baton.errors import CancelledError, RequestTimeoutError, RequestTooLargeError
from cluster.config.schema import LimitsConfig
from cluster.ingress.encodings import Inflater, encoding_of
from cluster.ingress.fields import parse_object
from cluster.ingress.tracing.visit import phase

INLINE_BYTES = 64 << 10  # parsed within 2 ms
T = TypeVar("T")


class Bodies:
    def __init__(self, limits: LimitsConfig) -> None:
        self._max_bytes = limits.max_body_bytes
        self._timeout_s = limits.body_timeout_s

    async def read(self, request: Request, parse: Callable[[dict[str, Any]], T]) -> T:
        """What `parse` makes of the body, a JSON object; of a long one on a thread, so that streams go on meanwhile.

        Raises: what `parse` raises, and
            InvalidRequestError: None, over a limit, or in an encoding that is unknown or not its own.
            CancelledError: The client went away before it had sent all.
        """
        encoding = encoding_of(request.headers.get("content-encoding", ""))
        inflater = Inflater(encoding) if encoding else None
        try:
            with phase("receive"):
                body = None if self._says_too_much(request) else await self._read(request.stream(), inflater)
        except ClientDisconnect as error:
            raise CancelledError("the client went away before it had sent its request") from error
        if body is None:
            plain = f" when it is no {encoding} any more" if encoding else ""
            raise RequestTooLargeError(
                f"the body is over {self._max_bytes} bytes{plain}, the limit of this server (limits.max_body); "
                "send less"
            )
        plain_body = bytes(body)
        with phase("parse"):
            return await self._parsed(plain_body, parse)

    async def _parsed(self, plain_body: bytes, parse: Callable[[dict[str, Any]], T]) -> T:
        if len(plain_body) <= INLINE_BYTES:
            return parse(parse_object(plain_body))
        return await asyncio.to_thread(lambda: parse(parse_object(plain_body)))

    def _says_too_much(self, request: Request) -> bool:
        announced = request.headers.get("content-length", "")
        return announced.isdecimal() and int(announced) > self._max_bytes

    async def _read(self, chunks: AsyncIterator[bytes], inflater: Inflater | None) -> bytearray | None:
        """None: it is too long. Raises: RequestTimeoutError, InvalidRequestError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._plain(chunks) if inflater is None else await self._inflated(chunks, inflater)
        except TimeoutError as error:
            raise RequestTimeoutError(
                f"the request's body did not come within {self._timeout_s:g} s, the limit of this server "
                "(limits.body_timeout_s)"
            ) from error

    async def _plain(self, chunks: AsyncIterator[bytes]) -> bytearray | None:
        body = bytearray()
        async for chunk in chunks:
            body += chunk
            if len(body) > self._max_bytes:
                return None
        return body

    async def _inflated(self, chunks: AsyncIterator[bytes], inflater: Inflater) -> bytearray | None:
        body, num_sent = bytearray(), 0
        async for chunk in chunks:
            num_sent += len(chunk)
            if num_sent > self._max_bytes:
                return None
            inflater.push(chunk)
            while piece := inflater.read():
                body += piece
                if len(body) > self._max_bytes:
                    return None
                await asyncio.sleep(0)
        inflater.finish()
        return body
