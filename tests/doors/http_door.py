"""Requests as bytes, to the ingress's HTTP port; what becomes of each is one word."""

import asyncio
import json
from random import Random
from typing import Any

from tests.doors import mutations
from tests.doors.mutations import with_changed_bytes

PATIENCE_S = 10.0
_MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Once upon a time"}]
_SAMPLING: dict[str, Any] = {"max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "seed": 7, "n": 2, "stop": ["x"]}
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"model": "demo", "prompt": "Once", **_SAMPLING, "logit_bias": {"5": 1.5}, "stream": True}),
    ("/v1/completions", {"model": "demo", "prompt": [[1, 2, 3], [4]], "max_tokens": 2, "logprobs": 1}),
    ("/v1/chat/completions", {"messages": _MESSAGES, **_SAMPLING, "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", {"messages": _MESSAGES, "max_tokens": 2, "stream": True, "stream_options": {}}),
    ("/tokenize", {"messages": _MESSAGES}),
    ("/tokenize", {"prompt": "Once upon", "add_special_tokens": False}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]


class HTTPDoor:
    """One connection after another; not for two tasks at once."""

    def __init__(self, port: int, rng: Random) -> None:
        self._port, self._rng = port, rng
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def bad_body(self) -> str:
        path, good = self._rng.choice(GOOD)
        body = mutations.body(good, self._rng)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return await self._outcome(head.encode() + body)

    async def bad_head(self) -> str:
        """Something may be missing: nothing more comes, which the server is told."""
        path, good = self._rng.choice(GOOD)
        body = json.dumps(good).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        if self._rng.random() < 0.3:
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{len(body):x}\r\n".encode()
            body += b"\r\n0\r\n\r\n"
        return await self._outcome(with_changed_bytes(head, self._rng) + body, is_last=True)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def _outcome(self, request: bytes, *, is_last: bool = False) -> str:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._answer(request, is_last)
        except TimeoutError:
            self.close()
            return "HANG"
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return "closed"

    async def _answer(self, request: bytes, is_last: bool) -> str:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(request)
        if is_last:
            self._writer.write_eof()
        head = await self._reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines if ": " in line)
        if "content-length" in fields:
            await self._reader.readexactly(int(fields["content-length"]))
        elif fields.get("transfer-encoding") == "chunked":
            await self._chunks()
        if is_last or fields.get("connection") == "close":
            self.close()
        return status.split()[1]

    async def _chunks(self) -> None:
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            await self._reader.readexactly(size + 2)
        await self._reader.readexactly(2)
