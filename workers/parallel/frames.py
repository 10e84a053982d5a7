"""Framed messages over a socket: a kind, a length, that many bytes. No pickle, nothing is interpreted here."""

import enum
import selectors
import socket
import struct

HEADER = struct.Struct("<BI")
MAX_FRAME_BYTES = 256 << 20


class Kind(enum.IntEnum):
    HELLO = 0  # the first of a connection
    BEAT = 1  # a sign of life, with how many collectives the sender has begun
    MESSAGE = 2
    FAULT = 3  # the sender cannot go on, and says why
    BYE = 4  # the sender ends as wanted
    READY = 5  # the sender has loaded its share


class ConnectionLost(Exception):
    """The other side is gone, or sends what is no frame."""


def send(connection: socket.socket, kind: Kind, payload: bytes | bytearray = b"") -> None:
    """Blocks while the other side is slow. One thread at a time. Raises: ConnectionLost."""
    try:
        connection.sendall(HEADER.pack(kind, len(payload)) + payload)
    except OSError as error:
        raise ConnectionLost(str(error)) from error


def receive(connection: socket.socket, max_bytes: int = MAX_FRAME_BYTES) -> tuple[Kind, bytearray]:
    """Blocks until a frame is there. Raises: ConnectionLost."""
    header = _exactly(connection, HEADER.size)
    length = _length(header, max_bytes)
    return Kind(header[0]), _exactly(connection, length)


def _length(header: bytes | bytearray, max_bytes: int) -> int:
    """Of the payload. Raises: ConnectionLost: it is too long, or of no kind that we know."""
    kind, length = HEADER.unpack(header)
    if length > max_bytes or kind not in iter(Kind):
        raise ConnectionLost(f"a frame of kind {kind} and {length} bytes is none of ours")
    return int(length)


class Partial:
    """One frame that comes bit by bit over a connection that does not block; nothing behind it is read."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._found = bytearray()

    def read(self, connection: socket.socket) -> tuple[Kind, bytearray] | None:
        """None: more of it is to come. Raises: ConnectionLost."""
        while missing := self._num_missing():
            try:
                data = connection.recv(missing)
            except BlockingIOError:
                return None
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            if not data:
                raise ConnectionLost("the connection is closed")
            self._found += data
        return Kind(self._found[0]), self._found[HEADER.size :]

    def _num_missing(self) -> int:
        if len(self._found) < HEADER.size:
            return HEADER.size - len(self._found)
        return HEADER.size + _length(bytes(self._found[: HEADER.size]), self._max_bytes) - len(self._found)


def is_readable(connection: socket.socket) -> bool:
    """Whether something has come that was not read yet, or the connection is closed."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))


def _exactly(connection: socket.socket, size: int) -> bytearray:
    found = bytearray(size)
    view = memoryview(found)
    at = 0
    while at < size:
        try:
            count = connection.recv_into(view[at:])
        except OSError as error:
            raise ConnectionLost(str(error)) from error
        if count == 0:
            raise ConnectionLost("the connection is closed")
        at += count
    return found
