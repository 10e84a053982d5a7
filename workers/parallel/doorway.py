"""Connections to a gang's lobby that have not said yet who they are.

Each has HELLO_TIMEOUT_S for its first frame, all of them at the same time: one that says nothing, or says it byte by
byte, holds up nobody else. When there are too many the oldest is let go.
"""

import logging
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from workers.parallel.frames import ConnectionLost, Kind, Partial

logger = logging.getLogger(__name__)
HELLO_TIMEOUT_S = 5.0
MAX_HELLO_BYTES = 64 << 10  # of a peer that has not shown the secret yet


@dataclass(slots=True, eq=False)
class _Newcomer:
    connection: socket.socket
    until_s: float
    hello: Partial = field(default_factory=lambda: Partial(MAX_HELLO_BYTES))


class Doorway:
    """
    Args:
        listener: Stays the caller's.
        max_waiting: Newcomers at a time.
    """

    def __init__(self, listener: socket.socket, *, max_waiting: int) -> None:
        self._listener = listener
        self._max_waiting = max_waiting
        self._newcomers: dict[int, _Newcomer] = {}  # by descriptor, oldest first
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for newcomer in list(self._newcomers.values()):
            self._take_out(newcomer).close()
        self._selector.close()

    def hellos(self, deadline_s: float) -> Iterator[tuple[socket.socket, Kind, bytearray]]:
        """First frames, as they come; whoever sent it owns the connection's other end, and the caller this one.

        Ends at the deadline, a time of time.monotonic().
        """
        while (now_s := time.monotonic()) < deadline_s:
            self._let_go(now_s)
            until_s = min([deadline_s, *(newcomer.until_s for newcomer in self._newcomers.values())])
            for key, _ in self._selector.select(max(0.0, until_s - now_s)):
                if key.fileobj is self._listener:
                    self._accept()
                elif (newcomer := self._newcomers.get(key.fd)) is not None and (frame := self._hear(newcomer)):
                    yield newcomer.connection, *frame

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it was gone again
            return
        connection.setblocking(False)
        newcomer = _Newcomer(connection, time.monotonic() + HELLO_TIMEOUT_S)
        self._newcomers[connection.fileno()] = newcomer
        self._selector.register(connection, selectors.EVENT_READ)
        if len(self._newcomers) > self._max_waiting:
            self._refuse(next(iter(self._newcomers.values())), "too many have not said who they are")

    def _hear(self, newcomer: _Newcomer) -> tuple[Kind, bytearray] | None:
        try:
            frame = newcomer.hello.read(newcomer.connection)
        except ConnectionLost as error:
            self._refuse(newcomer, str(error))
            return None
        if frame is not None:
            self._take_out(newcomer)
        return frame

    def _let_go(self, now_s: float) -> None:
        for newcomer in [one for one in self._newcomers.values() if one.until_s <= now_s]:
            self._refuse(newcomer, f"it did not say who it is within {HELLO_TIMEOUT_S:g} s")

    def _refuse(self, newcomer: _Newcomer, reason: str) -> None:
        logger.warning("a connection to the gang was refused: %s", reason)
        self._take_out(newcomer).close()

    def _take_out(self, newcomer: _Newcomer) -> socket.socket:
        del self._newcomers[newcomer.connection.fileno()]
        self._selector.unregister(newcomer.connection)
        return newcomer.connection
