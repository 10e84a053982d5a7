"""Ports that are free, and stay free until their server binds them."""

import socket

import pytest

from baton.errors import ConfigError
from cluster.host import ports


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


@pytest.mark.parametrize("host", ["192.0.2.77", "no.such.host.invalid", "300.1.1.1", "::ffff:zz"])
def test_a_host_that_is_not_this_machines_is_refused_as_such(host: str) -> None:
    for look in (lambda: ports.check_port(host, 8000, "http.port"), lambda: ports.free_port(host)):
        with pytest.raises(ConfigError, match=r"http\.host: .* is no address of this machine"):
            look()


def test_a_taken_port_is_refused_by_its_key() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(ConfigError, match=r"grpc\.port: \d+ cannot be bound"):
            ports.check_port("127.0.0.1", server.getsockname()[1], "grpc.port")


def test_windows_of_ports_are_whole_and_lie_apart_by_chance() -> None:
    windows = [ports.free_window(400) for _ in range(20)]
    assert {len(window) for window in windows} == {400}
    assert min(window.start for window in windows) >= ports.FIRST_PORT
    assert max(window.stop for window in windows) <= 65_536
    assert len({window.start for window in windows}) > 15
