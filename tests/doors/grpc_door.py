"""Calls over HTTP/2 whose messages, or frames, are not what they should be; what becomes of each is one word.

A method's messages go out as they are given, several calls on one connection; `bad_frames` sends a call's bytes with
some of them changed, on a connection of its own.
"""

import asyncio
import struct
from collections.abc import Sequence
from random import Random

import h2.connection
import h2.events
import h2.exceptions
import hpack
from grpc import StatusCode
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from tests.doors.mutations import with_changed_bytes

PATIENCE_S = 10.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_NAMES = {str(code.value[0]): code.name for code in StatusCode}
Headers = list[tuple[str, str]]


def framed(message: bytes) -> bytes:
    """As gRPC frames a message: a flag, four bytes of length."""
    return struct.pack(">BI", 0, len(message)) + message


def badly_framed(message: bytes, rng: Random) -> bytes:
    """Another length, the flag of a compression that was not agreed to, half of it, two of them, or more behind."""
    flag, length = rng.choice([0, 0, 1, 255]), rng.choice([0, 1, len(message) + 1, 2**31, 2**32 - 1, len(message)])
    whole = struct.pack(">BI", flag, length) + message
    return rng.choice([whole, whole[: rng.randint(0, 6)], framed(message) * 2, framed(message) + b"\0\0", whole])


class GRPCDoor:
    """One connection after another; not for two tasks at once."""

    def __init__(self, port: int, path: str, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self._port = port
        self._headers: Headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *metadata,
        ]
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._h2: h2.connection.H2Connection

    async def call(self, data: bytes) -> str:
        """One call whose whole request body is `data`."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._call(data)
        except TimeoutError:
            self.close()
            return "HANG"
        except (ConnectionError, h2.exceptions.ProtocolError):
            self.close()
            return "closed"

    async def bad_frames(self, data: bytes, rng: Random) -> str:
        """Sends a call with changed frames, and no more; whether the server has closed the connection by then."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(self._broken(data, rng))
                    writer.write_eof()
                    return _last_word(await reader.read())
                finally:
                    writer.transport.abort()
        except TimeoutError:
            return "HANG"
        except OSError:  # also of write_eof, where the server was quicker
            return "closed"

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None

    async def _call(self, data: bytes) -> str:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            self._h2 = h2.connection.H2Connection()
            self._h2.initiate_connection()
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, self._headers)
        for at in range(0, len(data), 16_000):
            self._h2.send_data(stream, data[at : at + 16_000])
        self._h2.end_stream(stream)
        self._writer.write(self._h2.data_to_send())
        while True:
            received = await self._reader.read(1 << 16)
            if not received:
                raise ConnectionResetError
            for event in self._h2.receive_data(received):
                if (word := self._word(event, stream)) is not None:
                    return word
            self._writer.write(self._h2.data_to_send())

    def _word(self, event: h2.events.Event, stream: int) -> str | None:
        if isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.ConnectionTerminated):
            raise ConnectionResetError
        elif getattr(event, "stream_id", None) != stream:
            return None
        elif isinstance(event, h2.events.StreamReset):
            return "reset"
        elif isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
            said = {_text(name): _text(value) for name, value in event.headers}
            if "grpc-status" in said:  # gRPC itself calls a compression that was not agreed to an internal error
                is_compressed = said.get("grpc-message", "").startswith("Compression bit set")
                return "compressed" if is_compressed else _NAMES.get(said["grpc-status"], "?")
        return None

    def _broken(self, data: bytes, rng: Random) -> bytes:
        headers = HeadersFrame(1, data=hpack.Encoder().encode(self._headers), flags=["END_HEADERS"])
        frames: list[Frame] = [SettingsFrame(), headers, DataFrame(1, data=data, flags=["END_STREAM"])]
        for _ in range(rng.randint(0, 3)):
            frames.insert(rng.randrange(len(frames) + 1), _any_frame(rng))
        written = [frame.serialize() for frame in frames]
        at = rng.randrange(len(written))
        written[at] = with_changed_bytes(written[at], rng)
        preface = PREFACE if rng.random() < 0.95 else with_changed_bytes(PREFACE, rng)
        return preface + b"".join(written)


def _any_frame(rng: Random) -> Frame:
    stream = rng.choice([1, 1, 3, 2, 2**31 - 1])
    return rng.choice(
        [
            RstStreamFrame(stream, error_code=rng.randrange(16)),
            PingFrame(0, opaque_data=rng.randbytes(8)),
            WindowUpdateFrame(rng.choice([0, 1]), window_increment=rng.choice([1, 2**31 - 1])),
            SettingsFrame(0, settings={rng.randrange(1, 9): rng.choice([0, 1, 2**31 - 1, 2**32 - 1])}),
            DataFrame(stream, data=rng.randbytes(rng.randint(0, 64))),
            HeadersFrame(stream, data=rng.randbytes(rng.randint(0, 64)), flags=["END_HEADERS"]),
        ]
    )


def _last_word(received: bytes) -> str:
    """Of frames that the server sent before it closed the connection."""
    words, at = set(), 0
    while at + 9 <= len(received):
        length, kind = int.from_bytes(received[at : at + 3]), received[at + 3]
        words.add(kind)
        at += 9 + length
    return "goaway" if 7 in words else "reset" if 3 in words else "answered" if 1 in words else "closed"


def _text(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
