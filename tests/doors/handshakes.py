"""What a TLS port says to clients of all kinds."""

import asyncio
import contextlib
import ssl
from typing import Any

import grpc

from tests.doors.certificates import Issued


def client_context(issued: Issued, pair: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=issued.ca_file)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


async def served_serial(port: int, context: ssl.SSLContext) -> str:
    """Of the certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
    try:
        shown: Any = writer.get_extra_info("peercert")
        return str(shown["serialNumber"])
    finally:
        writer.close()


async def get(port: int, context: ssl.SSLContext | None, path: str = "/health") -> str:
    """The status line, or `refused: ...` with the reason's class."""
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1" if context else None),
            10,
        )
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), 10)
        with contextlib.suppress(OSError):
            writer.close()
    except (ssl.SSLError, ConnectionError, TimeoutError, asyncio.IncompleteReadError) as error:
        return f"refused: {type(error).__name__}"
    return line.decode("latin-1").strip() or "refused: closed"


def channel(port: int, issued: Issued, pair: tuple[str, str] | None = None) -> grpc.aio.Channel:
    files = [open(path, "rb").read() for path in (issued.ca_file, *(pair or ()))]  # noqa: SIM115
    ca, *rest = files
    certificate, key = rest if rest else (None, None)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(ca, key, certificate))
