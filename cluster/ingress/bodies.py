"""Reads the bodies of HTTP requests, within a size and a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from baton.errors import CancelledError, RequestTimeoutError, RequestTooLargeError
from cluster.config.schema import LimitsConfig
from cluster.ingress.fields import parse_object

LINGER_S, LINGER_BYTES = 2.0, 64 << 20  # of what comes after the limit


class Bodies:
    def __init__(self, limits: LimitsConfig) -> None:
        self._max_bytes = limits.max_body_bytes
        self._timeout_s = limits.body_timeout_s

    async def read_object(self, request: Request) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            InvalidRequestError: None, or over a limit.
            CancelledError: The client went away before it had sent all.
        """
        chunks = request.stream()
        try:
            body = None if self._says_too_much(request) else await self._read(chunks)
            if body is None and request.headers.get("expect", "").lower() != "100-continue":
                await _linger(chunks)
        except ClientDisconnect as error:
            raise CancelledError("the client went away before it had sent its request") from error
        if body is None:
            raise RequestTooLargeError(
                f"the body is over {self._max_bytes} bytes, the limit of this server (limits.max_body); send less"
            )
        return parse_object(bytes(body))

    def _says_too_much(self, request: Request) -> bool:
        announced = request.headers.get("content-length", "")
        return announced.isdecimal() and int(announced) > self._max_bytes

    async def _read(self, chunks: AsyncIterator[bytes]) -> bytearray | None:
        """None: it is too long. Raises: RequestTimeoutError."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk in chunks:
                    body += chunk
                    if len(body) > self._max_bytes:
                        return None
        except TimeoutError as error:
            raise RequestTimeoutError(
                f"the request's body did not come within {self._timeout_s:g} s, the limit of this server "
                "(limits.body_timeout_s)"
            ) from error
        return body


async def _linger(chunks: AsyncIterator[bytes]) -> None:
    """Reads on for a while, and forgets it: a client that is still sending when the connection ends hears no answer."""
    num_bytes = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            async for chunk in chunks:
                num_bytes += len(chunk)
                if num_bytes > LINGER_BYTES:
                    return
