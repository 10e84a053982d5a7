"""What is changed in the configuration that Serve writes for HAProxy, and what HAProxy says of requests that it refuses
or that are lost."""

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from baton.errors import (
    BatonError,
    InternalError,
    RequestTimeoutError,
    UnavailableError,
)
from cluster.config.schema import LimitsConfig
from cluster.ingress.errors import error_body, error_headers

_LOST = UnavailableError("the ingress replica that had this request was lost, or none is ready yet; try again")
# Serve's answer while it knows no route: ours has them all, so it means that a new HAProxy was told of none yet.
_NO_ROUTE = re.compile(r"http-request return status (404|200 content-type application/grpc hdr grpc-status 5) .*")
# What HAProxy refuses by itself. What is no HTTP at all it answers with 400 and HTML, which cannot be changed.
_REFUSALS: Mapping[int, BatonError] = {
    408: RequestTimeoutError("the request's body did not come in time (limits.body_timeout_s)"),
}


def front_rules(limits: LimitsConfig, error_files: Mapping[int, str]) -> list[str]:
    """Of a public port. HAProxy can send a request again only if it had all of it when it sent it first; gRPC's other
    services may have clients that wait for an answer before they say more; what has no body waits for none. How long a
    body may be is the replica's to say (`bodies`): HAProxy would hang up on a client that is still sending, which then
    hears no answer."""
    wait = f"http-request wait-for-body time {_ms(limits.body_timeout_s)}"
    return [
        f"maxconn {limits.max_connections}",
        f"timeout http-request {_ms(limits.header_timeout_s)}",
        *(f"errorfile {status} {path}" for status, path in error_files.items()),
        f"{wait} if !{{ {_IS_GRPC} }}",
        f"{wait} if {{ path_beg /baton.v1.Inference/ }}",
    ]


_IS_GRPC = "req.hdr(content-type) -m beg application/grpc"


def amended(config: str, listeners: Mapping[str, int], rules: Sequence[str]) -> str:
    """The public addresses become descriptors that HAProxy inherits, and have rules of their own (`front_rules`);
    statistics move to loopback; what finds no route is told to try again (`response_for_a_lost_request`).

    Args:
        listeners: Address, as the file writes it -> descriptor of the socket that listens there.
    Raises:
        InternalError: An address does not stand in the file once: another version of Ray wrote it.
    """
    lines, found = [], []
    for line in config.splitlines():
        words = line.split()
        address = words[1] if words[:1] == ["bind"] else ""
        if address in listeners:
            found.append(address)
            line = line.replace(address, f"fd@{listeners[address]}", 1)
            line = "\n    ".join([line, *rules])
        elif address.startswith((":", "*:")):
            line = line.replace(address, "127.0.0.1:" + address.rsplit(":", 1)[1], 1)
        lines.append(_NO_ROUTE.sub("http-request deny deny_status 503", line))
    if sorted(found) != sorted(listeners):
        raise InternalError(
            f"this version of Ray Serve writes HAProxy's configuration in an unknown way (bound {found}, expected "
            f"{sorted(listeners)}); use ray 2.60"
        )
    return "\n".join(lines) + "\n"


def refusals() -> dict[int, str]:
    """Status -> the whole response, as HAProxy sends it."""
    return {status: _response(error) for status, error in _REFUSALS.items()}


def response_for_a_lost_request() -> str:
    """Whole, as HAProxy sends it; to gRPC's clients its status is UNAVAILABLE.

    It ends the connection: the next request on it would come to the same HAProxy, which may be one that was told of no
    replica and has been replaced since.
    """
    return _response(_LOST, "Connection: close")


def _response(error: BatonError, *headers: str) -> str:
    body = json.dumps(error_body(error))
    status = HTTPStatus(error.http_status)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *headers]
    lines += [f"{name}: {value}" for name, value in error_headers(error).items()]
    return "\r\n".join([*lines, "", body])


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
