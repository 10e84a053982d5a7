"""Strangers at a gang's lobby: refused, and neither they nor their slowness keep its ranks out."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from baton.errors import BatonError
from workers.parallel import frames
from workers.parallel.doorway import HELLO_TIMEOUT_S
from workers.parallel.frames import HEADER, Kind
from workers.parallel.lobby import MAX_STRANGERS, Lobby, join
from workers.parallel.meeting import NO_GROUP

SECRET = "s3cret"


def _hello(**changes: object) -> bytes:
    return json.dumps({"channel": "steps", "rank": 1, "size": 2, "secret": SECRET} | changes).encode()


def _frame(payload: bytes, kind: int = Kind.HELLO) -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


STRANGE = {
    "no JSON": _frame(b"\xff"),
    "no object": _frame(b"[]"),
    "nested without end": _frame(b"[" * 60_000),
    "a secret in other letters": _frame(_hello(secret="s3cr\u00e9t")),
    "a secret that is no text": _frame(_hello(secret=[1])),
    "half a character": _frame(_hello(secret="\ud800")),
    "a channel that is a list": _frame(_hello(channel=["steps"])),
    "a rank that is true": _frame(_hello(rank=True)),
    "the leader's rank": _frame(_hello(rank=0)),
    "another size": _frame(_hello(size=3)),
    "no hello": _frame(_hello(), Kind.MESSAGE),
    "an unknown kind": _frame(b"", 77),
    "longer than a hello may be": HEADER.pack(Kind.HELLO, 1 << 30),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "nothing": b"",
}


class Gathering:
    """A lobby for two ranks that gathers, while `strangers` come."""

    def __init__(self, strangers: Callable[[str], object]) -> None:
        with Lobby(host="127.0.0.1", size=2, secret=SECRET, backend=NO_GROUP) as lobby, ThreadPoolExecutor(2) as pool:
            leading = pool.submit(lobby.gather, timeout_s=20, fail=print)
            strangers(lobby.address)
            begun_s = time.monotonic()
            arguments = {"rank": 1, "size": 2, "secret": SECRET, "host": "127.0.0.1", "timeout_s": 20}
            joining = pool.submit(join, lobby.address, fail=print, **arguments)  # type: ignore[arg-type]
            gangs = [leading.result(), joining.result()]
            self.took_s = time.monotonic() - begun_s
        for gang in gangs:
            gang.drop()


def _say(address: str, data: bytes) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), 5)
    connection.sendall(data)
    return connection


def test_strangers_are_let_go_and_the_ranks_come_in() -> None:
    let_go: list[str] = []

    def strangers(address: str) -> None:
        for name, data in STRANGE.items():
            with _say(address, data) as connection:
                connection.settimeout(HELLO_TIMEOUT_S - 1)
                if not data:
                    connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    assert connection.recv(1) == b"", name
                let_go.append(name)

    Gathering(strangers)
    assert let_go == list(STRANGE)


def test_random_bytes_keep_no_rank_out() -> None:
    rng = Random(7)

    def strangers(address: str) -> None:
        for _ in range(200):
            head = rng.choice([b"", HEADER.pack(Kind.HELLO, rng.randrange(100))])
            with contextlib.suppress(ConnectionError):  # the lobby may be quicker
                _say(address, head + rng.randbytes(40)).close()

    Gathering(strangers)


def test_strangers_that_say_nothing_hold_up_nobody() -> None:
    open_ones: list[socket.socket] = []

    def strangers(address: str) -> None:
        open_ones.extend(_say(address, b"\0") for _ in range(MAX_STRANGERS + 20))

    assert Gathering(strangers).took_s < HELLO_TIMEOUT_S - 1
    for connection in open_ones:
        connection.close()


def test_a_stranger_that_speaks_byte_by_byte_is_let_go_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.parallel import doorway

    monkeypatch.setattr(doorway, "HELLO_TIMEOUT_S", 0.3)
    with Lobby(host="127.0.0.1", size=2, secret=SECRET, backend=NO_GROUP) as lobby, ThreadPoolExecutor(1) as pool:
        leading = pool.submit(lobby.gather, timeout_s=3, fail=print)
        connection = _say(lobby.address, HEADER.pack(Kind.HELLO, 60_000))
        is_over = threading.Event()
        begun_s = time.monotonic()
        while not is_over.is_set() and time.monotonic() - begun_s < 2.5:
            try:
                connection.sendall(b"[")
                time.sleep(0.05)
            except OSError:
                is_over.set()
        assert is_over.is_set()
        assert isinstance(leading.exception(), Exception)


def test_a_frame_is_read_as_it_comes_and_nothing_behind_it() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    partial = frames.Partial(100)
    whole = _frame(b"hello") + b"next"
    for byte in whole[:-5]:
        theirs.sendall(bytes([byte]))
        assert partial.read(ours) is None
    theirs.sendall(whole[-5:])
    assert partial.read(ours) == (Kind.HELLO, bytearray(b"hello"))
    assert ours.recv(10) == b"next"
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "frame",
    [
        _frame(b"abc", Kind.BEAT),
        _frame(b"[]", Kind.FAULT),
        _frame(b"\xff", Kind.FAULT),
        _frame(b"", 77),
        HEADER.pack(Kind.MESSAGE, 2**32 - 1),
    ],
    ids=["a short beat", "a fault that is a list", "a fault that is no text", "an unknown kind", "4 GiB"],
)
def test_a_rank_that_talks_nonsense_fails_its_gang_by_name(frame: bytes) -> None:
    failures: list[BatonError] = []
    failed = threading.Event()

    def fail(error: BatonError) -> None:
        failures.append(error)
        failed.set()

    with Lobby(host="127.0.0.1", size=2, secret=SECRET, backend=NO_GROUP) as lobby, ThreadPoolExecutor(1) as pool:
        leading = pool.submit(lobby.gather, timeout_s=20, fail=fail)
        control, steps = (_say(lobby.address, _frame(_hello(channel=name))) for name in ("control", "steps"))
        gang = leading.result()
    control.sendall(frame)
    assert failed.wait(10)
    assert "rank 1 of the gang is gone" in failures[0].message
    gang.drop()
    control.close()
    steps.close()
