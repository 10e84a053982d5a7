"""Looks at this machine's TCP ports before a server is told to take one."""

import random
import socket
from pathlib import Path

from baton.errors import ConfigError

FIRST_PORT = 20_000  # above Ray's own range for workers
MAX_TRIES = 200


def check_port(host: str, port: int, key: str) -> None:
    """Raises: ConfigError: the port is taken, or the host is not this machine's."""
    check_host(host)
    with _socket(host) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{key}: {port} cannot be bound on {host} ({error.strerror}); "
                f"end what uses it, or choose another with --set {key}=0 (any free port)"
            ) from error


def check_host(host: str) -> None:
    """Raises: ConfigError: `http.host` is no address that servers on this machine can have."""
    with _socket(host) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            raise ConfigError(
                f"http.host: {host!r} is no address of this machine ({error.strerror}); "
                "give 127.0.0.1, 0.0.0.0 for all of them, or one of its own"
            ) from error


def free_port(host: str) -> int:
    """A port that nothing listens on now, and that no outgoing connection will take before its server binds it.

    Raises: ConfigError: the host is not this machine's.
    """
    check_host(host)
    return free_ports(host, 1)[0]


def free_ports(host: str, count: int) -> list[int]:
    """Different ones, below those that the OS gives to outgoing connections; from there if it has none below.

    A port that `bind(0)` names comes from that range itself: in the seconds until a server binds it, any connection
    on this machine may be given it.
    """
    below = range(FIRST_PORT, _first_ephemeral_port())
    chosen: list[int] = []
    for port in random.SystemRandom().sample(below, min(len(below), MAX_TRIES)):
        if len(chosen) == count:
            break
        if _is_free(host, port):
            chosen.append(port)
    while len(chosen) < count:
        with _socket(host) as probe:
            probe.bind((host, 0))
            if probe.getsockname()[1] not in chosen:
                chosen.append(int(probe.getsockname()[1]))
    return chosen


def free_window(size: int) -> range:
    """`size` ports in a row somewhere below those of outgoing connections, where there is room: another cluster on this
    machine will hardly have been given the same. Some of them may be taken."""
    end = max(_first_ephemeral_port(), FIRST_PORT + 2 * size)
    first = random.SystemRandom().randrange(FIRST_PORT, end - size)
    return range(first, first + size)


def _first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return 49152  # the start of IANA's dynamic range, which other systems use


def _is_free(host: str, port: int) -> bool:
    with _socket(host) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _socket(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
