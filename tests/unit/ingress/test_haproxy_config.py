import json

import pytest

from baton.errors import InternalError
from cluster.ingress.haproxy_config import amended, response_for_a_lost_request

WRITTEN = """\
frontend prometheus
    bind :9101
frontend http_frontend
    bind 10.0.0.1:8000
    acl routes path -i /-/routes
frontend grpc_frontend
    bind 10.0.0.1:9000 proto h2
listen stats
  bind *:8404
"""


def test_public_ports_are_inherited_and_statistics_move_to_loopback() -> None:
    lines = [line.strip() for line in amended(WRITTEN, {"10.0.0.1:8000": 7, "10.0.0.1:9000": 8}).splitlines()]
    assert [line for line in lines if line.startswith("bind")] == [
        "bind 127.0.0.1:9101",
        "bind fd@7",
        "bind fd@8 proto h2",
        "bind 127.0.0.1:8404",
    ]
    assert lines[lines.index("bind fd@7") + 1].startswith("http-request wait-for-body ")


def test_a_public_port_on_every_interface_is_not_taken_for_statistics() -> None:
    changed = amended(WRITTEN.replace("10.0.0.1:", "*:"), {"*:8000": 7, "*:9000": 8})
    assert "bind fd@7\n" in changed
    assert "bind 127.0.0.1:8404\n" in changed


def test_a_file_without_the_public_port_is_another_version_of_ray() -> None:
    with pytest.raises(InternalError, match=r"use ray 2\.60"):
        amended(WRITTEN, {"10.0.0.1:8001": 7})


def test_a_lost_request_is_a_503_in_openais_shape_that_may_be_sent_again() -> None:
    head, body = response_for_a_lost_request().split("\r\n\r\n")
    assert head.splitlines()[0] == "HTTP/1.1 503 Service Unavailable"
    assert "Retry-After: 1" in head.splitlines()
    assert f"Content-Length: {len(body)}" in head.splitlines()
    assert json.loads(body)["error"]["code"] == "unavailable"
