"""What a stranger does to wear a public server out, and what the server makes of it.

    python -m tests.doors.attacks HTTP_PORT GRPC_PORT

Prints what became of each attack, and whether good requests are answered afterwards. Each is bounded in time and in
what it sends; a server with timeouts of a few seconds (`limits` of its configuration) makes it short.
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from tests.doors import probes

PATIENCE_S = 30.0
CHUNK = b"x" * (64 << 10)
POST = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
NUM_SLOW = 50


@dataclass(frozen=True, slots=True)
class Seen:
    """How a connection ended: the status (or "closed"), when, and what had been sent until then."""

    status: str
    took_s: float
    num_sent: int


class Raw:
    """A connection that sends without waiting, and hears when the server has had enough."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.num_sent = 0

    async def until_refused(self, first: bytes, again: bytes, pause_s: float, max_bytes: int) -> Seen:
        """Sends `first`, then `again` and again, until the server answers or hangs up."""
        begun_s = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        sending = asyncio.create_task(self._send(writer, first, again, pause_s, max_bytes))
        status = "HANG"
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = await reader.readline()
                status = line.split()[1].decode() if line.startswith(b"HTTP/") else "closed"
        except TimeoutError:
            pass
        except ConnectionError:
            status = "closed"
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await sending
            writer.transport.abort()
        return Seen(status, time.monotonic() - begun_s, self.num_sent)

    async def _send(
        self, writer: asyncio.StreamWriter, first: bytes, again: bytes, pause_s: float, max_bytes: int
    ) -> None:
        data = first
        while self.num_sent < max_bytes:
            writer.write(data)
            await writer.drain()
            self.num_sent += len(data)
            data = again
            await asyncio.sleep(pause_s)


async def long_header(port: int, max_bytes: int = 1 << 30) -> Seen:
    """Up to 1 GiB of one header, made as it is sent."""
    return await Raw(port).until_refused(POST + b"x-long: ", CHUNK, 0, max_bytes)


async def announced_body(port: int, num_bytes: int = 10 << 30) -> Seen:
    return await Raw(port).until_refused(POST + b"content-length: %d\r\n\r\n" % num_bytes, CHUNK, 0, num_bytes)


async def endless_body(port: int, max_bytes: int = 1 << 30) -> Seen:
    """In chunks, so that nobody knows its length."""
    chunk = b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK)
    return await Raw(port).until_refused(POST + b"transfer-encoding: chunked\r\n\r\n", chunk, 0, max_bytes)


async def slow_headers(port: int, count: int = NUM_SLOW) -> list[Seen]:
    """Each with a line now and then, never with the last."""
    work = (Raw(port).until_refused(POST, b"x-a: b\r\n", 0.1, 1 << 20) for _ in range(count))
    return list(await asyncio.gather(*work))


async def slow_bodies(port: int, count: int = NUM_SLOW, already: int = 0) -> list[Seen]:
    """Byte by byte, after `already` bytes at once."""
    head = POST + b"content-length: 900000\r\n\r\n" + b" " * already
    work = (Raw(port).until_refused(head, b" ", 0.1, 1 << 20) for _ in range(count))
    return list(await asyncio.gather(*work))


async def silence(port: int, count: int = NUM_SLOW) -> list[Seen]:
    """Connections that say nothing at all."""
    return list(await asyncio.gather(*(Raw(port).until_refused(b"", b"", 0.1, 1) for _ in range(count))))


async def rapid_resets(port: int, count: int = 20_000) -> tuple[int, int]:
    """HTTP/2 streams that are asked for and dropped at once; how many, and on how many connections."""
    num_streams = num_connections = 0
    begun_s = time.monotonic()
    while num_streams < count and time.monotonic() - begun_s < PATIENCE_S:
        num_connections += 1
        with suppress(ConnectionError, h2.exceptions.ProtocolError):
            async for some in _resets(port, count - num_streams):
                num_streams += some
    return num_streams, num_connections


async def _resets(port: int, count: int):  # type: ignore[no-untyped-def]  # an asynchronous generator of counts
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    connection.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", "/baton.v1.Inference/Generate")]
    headers += [("content-type", "application/grpc"), ("te", "trailers")]
    try:
        while count > 0:
            for _ in range(100):
                stream = connection.get_next_available_stream_id()
                connection.send_headers(stream, headers)
                connection.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
            writer.write(connection.data_to_send())
            await writer.drain()
            count -= 100
            yield 100
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    received = await reader.read(1 << 16)
                    if not received:
                        return
                    connection.receive_data(received)
    finally:
        writer.transport.abort()


async def long_message(port: int, num_bytes: int) -> str:
    """A gRPC message over the limit: its status."""
    import grpc

    from baton.v1.inference_pb2 import GenerateRequest

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        generate = channel.unary_stream(
            "/baton.v1.Inference/Generate", request_serializer=GenerateRequest.SerializeToString
        )
        try:
            async for _ in generate(GenerateRequest(prompt="a" * num_bytes), timeout=PATIENCE_S):
                pass
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
    return "OK"


async def half_messages(port: int, count: int = NUM_SLOW, path: str = "/baton.v1.Inference/Generate") -> Counter[str]:
    """gRPC calls whose message does not come to its end: what becomes of them."""
    return Counter(await asyncio.gather(*(_half_message(port, path) for _ in range(count))))


async def _half_message(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", path)]
    connection.send_headers(1, [*headers, ("content-type", "application/grpc"), ("te", "trailers")])
    connection.send_data(1, b"\0\0\0\xff\xff" + b"a" * 100)
    writer.write(connection.data_to_send())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while received := await reader.read(1 << 16):
                for event in connection.receive_data(received):
                    if isinstance(event, h2.events.StreamReset):
                        return "reset"
                    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                        found = {bytes(name): bytes(value) for name, value in event.headers}
                        if b"grpc-status" in found or found.get(b":status") not in (b"200", None):
                            return f"status {found.get(b'grpc-status', found.get(b':status', b'?')).decode()}"
                writer.write(connection.data_to_send())
            return "closed"
    except TimeoutError:
        return "HANG"
    except ConnectionError:
        return "closed"
    finally:
        writer.transport.abort()


async def all_of_them(http: int, grpc_port: int, *, max_body: int, say: Callable[[str], None]) -> None:
    say(f"a header of up to 1 GiB: {await long_header(http)}")
    say(f"a body that says it has 10 GiB: {await announced_body(http)}")
    say(f"a body in chunks without end: {await endless_body(http)}")
    for name, attack in (("headers line by line", slow_headers), ("bodies byte by byte", slow_bodies)):
        say(f"{NUM_SLOW} {name}: {_summary(await attack(http))}")
    say(f"{NUM_SLOW} bodies byte by byte after 200 KiB: {_summary(await slow_bodies(http, already=200 << 10))}")
    say(f"{NUM_SLOW} connections without a word: {_summary(await silence(http))}")
    say(f"a gRPC message of {max_body + 1} bytes: {await long_message(grpc_port, max_body + 1)}")
    say(f"{NUM_SLOW} gRPC messages that stop halfway: {dict(await half_messages(grpc_port))}")
    for port, name in ((grpc_port, "gRPC"), (http, "HTTP")):
        num_streams, num_connections = await rapid_resets(port)
        say(f"rapid resets at the {name} port: {num_streams} streams on {num_connections} connections")
    begun_s = time.monotonic()
    await asyncio.to_thread(probes.http, http)
    await asyncio.to_thread(probes.inference_soon, grpc_port)
    say(f"then a good request of each kind: answered, {time.monotonic() - begun_s:.2f} s")


def _summary(seen: list[Seen]) -> str:
    times = [one.took_s for one in seen]
    return f"{dict(Counter(one.status for one in seen))} after {min(times):.1f} to {max(times):.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("http", type=int)
    parser.add_argument("grpc", type=int)
    parser.add_argument("--max-body", type=int, default=16 << 20)
    options = parser.parse_args()
    asyncio.run(all_of_them(options.http, options.grpc, max_body=options.max_body, say=print))


if __name__ == "__main__":
    main()
