"""How the ranks of a gang find each other: the leader opens a `Lobby`, each follower joins with its address.

A follower connects twice (messages, steps) and shows the cluster's secret; once all are there, each is told where the
store of the process group is and under which prefix, which nobody can guess.
"""

import hmac
import json
import logging
import secrets
import socket
import time
from datetime import timedelta
from typing import Any, Self

from baton.errors import ConfigError, UnavailableError
from workers.parallel import frames
from workers.parallel.doorway import HELLO_TIMEOUT_S, Doorway
from workers.parallel.frames import ConnectionLost, Kind
from workers.parallel.gang import LEADER, SILENCE_S, Fail, Gang
from workers.parallel.meeting import NO_GROUP, Meeting, Told

logger = logging.getLogger(__name__)
CONTROL, STEPS = "control", "steps"
MAX_STRANGERS = 64  # connections at a time, beside the ranks' own, that have not said who they are
RETRY_S = 0.05
ALL = "all"  # the group of all ranks


class Lobby:
    """The leader's listener; its port is the OS's choice.

    Args:
        host: The address to listen on, and of the process group.
        backend: gloo, nccl or `NO_GROUP`.
    """

    def __init__(self, *, host: str, size: int, secret: str, backend: str = "gloo") -> None:
        self._host, self._size, self._secret, self._backend = host, size, secret, backend
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=2 * size + MAX_STRANGERS)
        self.address = f"{host}:{self._listener.getsockname()[1]}"

    def gather(self, *, timeout_s: float, fail: Fail) -> Gang:
        """Waits for all followers. See `Gang` for `fail`.

        Raises: UnavailableError: not all of them came in time; whoever came is let go.
        """
        found: dict[str, dict[int, socket.socket]] = {CONTROL: {}, STEPS: {}}
        deadline = time.monotonic() + timeout_s
        try:
            self._admit_all(found, deadline)
            meeting = self._open_meeting(found[STEPS], timeout_s)
            group = meeting.group(ALL, LEADER, self._size)
        except BaseException:
            for connection in (*found[CONTROL].values(), *found[STEPS].values()):
                connection.close()
            raise
        finally:
            self.close()
        return Gang(
            rank=LEADER,
            size=self._size,
            controls=found[CONTROL],
            steps=found[STEPS],
            group=group,
            subgroup=meeting.group,
            fail=fail,
        )

    def close(self) -> None:
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _admit_all(self, found: dict[str, dict[int, socket.socket]], deadline: float) -> None:
        """Raises: UnavailableError: not all of them came in time."""
        num_missing = 2 * (self._size - 1)
        with Doorway(self._listener, max_waiting=num_missing + MAX_STRANGERS) as doorway:
            for connection, kind, payload in doorway.hellos(deadline):
                num_missing -= self._admit(found, connection, kind, payload)
                if not num_missing:
                    return
        here = sorted({LEADER, *found[CONTROL]} & {LEADER, *found[STEPS]})
        raise UnavailableError(f"of a gang of {self._size}, ranks {here} came in time; the others did not")

    def _admit(
        self, found: dict[str, dict[int, socket.socket]], connection: socket.socket, kind: Kind, payload: bytearray
    ) -> bool:
        """Whether it is one of ours."""
        try:
            hello = json.loads(payload) if kind is Kind.HELLO else {}
            self._check(hello, found)
        except (ValueError, RecursionError) as error:
            logger.warning("a connection to the gang was refused: %s", error)
            connection.close()
            return False
        _tune(connection, SILENCE_S if hello["channel"] == CONTROL else None)
        found[hello["channel"]][hello["rank"]] = connection
        return True

    def _check(self, hello: Any, found: dict[str, dict[int, socket.socket]]) -> None:
        """Raises: ValueError: no rank of this gang, or one that is here already."""
        if not isinstance(hello, dict):
            raise ValueError("its first frame is no hello")
        if not hmac.compare_digest(str(hello.get("secret", "")).encode(errors="replace"), self._secret.encode()):
            raise ValueError("its secret is missing or wrong")
        rank, channel = hello.get("rank"), hello.get("channel")
        if channel not in (CONTROL, STEPS) or type(rank) is not int or not LEADER < rank < self._size:
            raise ValueError(f"rank {rank!r}, channel {channel!r} is none of a gang of {self._size}")
        if hello.get("size") != self._size or rank in found[channel]:
            raise ValueError(f"rank {rank} is here already, or counts {hello.get('size')} ranks and not {self._size}")

    def _open_meeting(self, steps: dict[int, socket.socket], timeout_s: float) -> Meeting:
        store, address = None, ""
        if self._backend != NO_GROUP:
            from workers.process_groups import host_store

            store, address = host_store(self._host, timedelta(seconds=timeout_s))
        told = Told(store=address, prefix=secrets.token_hex(16), backend=self._backend)
        for connection in steps.values():
            frames.send(connection, Kind.HELLO, json.dumps(told._asdict()).encode())
        return Meeting(told, host=self._host, timeout_s=timeout_s, store=store)


def join(address: str, *, rank: int, size: int, secret: str, host: str, timeout_s: float, fail: Fail) -> Gang:
    """A follower's way in. See `Gang` for `fail`.

    Args:
        address: Of the leader's lobby.
        host: This rank's address.
    Raises: UnavailableError: the leader is not there, or lets this rank not in.
    """
    deadline = time.monotonic() + timeout_s
    opened = {}
    try:
        for channel in (CONTROL, STEPS):
            opened[channel] = _connect(address, deadline)
            hello = {"channel": channel, "rank": rank, "size": size, "secret": secret}
            frames.send(opened[channel], Kind.HELLO, json.dumps(hello).encode())
        opened[STEPS].settimeout(max(0.001, deadline - time.monotonic()))
        told = Told(**json.loads(frames.receive(opened[STEPS])[1]))
        meeting = Meeting(told, host=host, timeout_s=timeout_s)
        group = meeting.group(ALL, rank, size)
    except (ConnectionLost, OSError, RuntimeError) as error:
        for connection in opened.values():
            connection.close()
        raise UnavailableError(f"rank {rank} did not get into the gang at {address}: {error}") from error
    _tune(opened[CONTROL], SILENCE_S)
    _tune(opened[STEPS], None)
    return Gang(
        rank=rank,
        size=size,
        controls={LEADER: opened[CONTROL]},
        steps={LEADER: opened[STEPS]},
        group=group,
        subgroup=meeting.group,
        fail=fail,
    )


def choose_backend(device: str, *, shares_device: bool) -> str:
    """gloo or nccl: NCCL takes one rank per GPU.

    Raises: ConfigError: this torch has none for `device`.
    """
    import torch.distributed as dist

    if device == "cuda" and not shares_device and dist.is_nccl_available():
        return "nccl"
    if not dist.is_gloo_available():
        raise ConfigError("pools: workers of several ranks need a torch built with gloo; set the degrees to 1")
    return "gloo"


def _connect(address: str, deadline: float) -> socket.socket:
    """Tries until the deadline: the leader may be on its way still. Raises: OSError."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            connection = socket.create_connection((host, int(port)), max(0.001, deadline - time.monotonic()))
        except OSError:
            if time.monotonic() + RETRY_S > deadline:
                raise
            time.sleep(RETRY_S)
        else:
            _tune(connection, HELLO_TIMEOUT_S)
            return connection


def _tune(connection: socket.socket, timeout_s: float | None) -> None:
    connection.settimeout(timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
