"""Looks at this machine's TCP ports before a server is told to take one."""

import socket

from baton.errors import ConfigError


def check_port(host: str, port: int, key: str) -> None:
    """Raises: ConfigError: the port is taken, or the host is not this machine's."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{key}: {port} cannot be bound on {host} ({error.strerror}); "
                f"end what uses it, or choose another with --set {key}=0 (any free port)"
            ) from error


def free_port(host: str) -> int:
    """A port that nothing listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
