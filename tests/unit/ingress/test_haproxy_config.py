import json

import pytest

from baton.errors import InternalError
from cluster.config.schema import LimitsConfig
from cluster.ingress.haproxy_config import amended, front_rules, refusals, response_for_a_lost_request

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
RULES = front_rules(LimitsConfig(header_timeout_s=0.5), {408: "/x/408.http"})


def test_public_ports_are_inherited_and_statistics_move_to_loopback() -> None:
    lines = [line.strip() for line in amended(WRITTEN, {"10.0.0.1:8000": 7, "10.0.0.1:9000": 8}, RULES).splitlines()]
    assert [line for line in lines if line.startswith("bind")] == [
        "bind 127.0.0.1:9101",
        "bind fd@7",
        "bind fd@8 proto h2",
        "bind 127.0.0.1:8404",
    ]
    assert lines[lines.index("bind fd@7") + 1 :][: len(RULES)] == RULES
    assert lines[lines.index("bind fd@8 proto h2") + 1 :][: len(RULES)] == RULES


def test_what_finds_no_route_is_told_to_try_again_and_not_that_there_is_no_such_path() -> None:
    """Of a HAProxy that has just started and knows no replica yet."""
    none = [
        """    http-request return status 404 content-type text/plain lf-string "Path '%[path]' not found." """,
        '    http-request return status 200 content-type application/grpc hdr grpc-status 5 hdr grpc-message "No"',
    ]
    healthy = "    http-request return status 200 content-type application/grpc hdr grpc-status 0 if is_healthz\n"
    changed = amended("\n".join([WRITTEN, *none, healthy]), {"10.0.0.1:8000": 7, "10.0.0.1:9000": 8}, RULES)
    assert changed.count("    http-request deny deny_status 503\n") == 2
    assert "grpc-status 5" not in changed
    assert healthy in changed


def test_limits_become_rules() -> None:
    assert {"timeout http-request 500ms", "errorfile 408 /x/408.http", "maxconn 4096"} <= set(RULES)
    actions = [rule for rule in RULES if rule.startswith("http-request ")]
    assert actions
    assert all("wait-for-body time 60000ms" in action for action in actions)


def test_what_haproxy_refuses_is_said_in_openais_shape() -> None:
    for status, response in refusals().items():
        head, body = response.split("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert f"Content-Length: {len(body)}" in head.splitlines()
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_a_public_port_on_every_interface_is_not_taken_for_statistics() -> None:
    changed = amended(WRITTEN.replace("10.0.0.1:", "*:"), {"*:8000": 7, "*:9000": 8}, RULES)
    assert "bind fd@7\n" in changed
    assert "bind 127.0.0.1:8404\n" in changed


def test_a_file_without_the_public_port_is_another_version_of_ray() -> None:
    with pytest.raises(InternalError, match=r"use ray 2\.60"):
        amended(WRITTEN, {"10.0.0.1:8001": 7}, RULES)


def test_a_lost_request_is_a_503_in_openais_shape_that_may_be_sent_again() -> None:
    head, body = response_for_a_lost_request().split("\r\n\r\n")
    assert head.splitlines()[0] == "HTTP/1.1 503 Service Unavailable"
    assert "Retry-After: 1" in head.splitlines()
    assert f"Content-Length: {len(body)}" in head.splitlines()
    assert json.loads(body)["error"]["code"] == "unavailable"
