"""Ports that are free, and stay free until their server binds them."""

import socket

import pytest

from baton.errors import ConfigError
from cluster import ports


def test_free_ports_are_different_and_can_be_bound() -> None:
    found = ports.free_ports("127.0.0.1", 20)
    assert len(set(found)) == 20
    for port in found:
        ports.check_port("127.0.0.1", port, "http.port")


def test_free_ports_are_not_those_of_outgoing_connections() -> None:
    low = ports._first_ephemeral_port()
    if low <= ports.FIRST_PORT + 1000:
        pytest.skip("this machine gives nearly all its ports to outgoing connections")
    assert all(ports.FIRST_PORT <= port < low for port in ports.free_ports("127.0.0.1", 20))


def test_a_taken_port_is_refused_by_its_key() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(ConfigError, match=r"grpc\.port: \d+ cannot be bound"):
            ports.check_port("127.0.0.1", server.getsockname()[1], "grpc.port")
