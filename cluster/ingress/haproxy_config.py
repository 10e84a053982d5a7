"""What is changed in the configuration that Serve writes for HAProxy, and what HAProxy says of a lost request."""

import json
from collections.abc import Mapping

from baton.errors import InternalError, UnavailableError
from cluster.ingress.errors import error_body, error_headers

# HAProxy can send a request again only if it had all of it when it sent it first. gRPC's other services may have
# clients that wait for an answer before they say more.
_WHOLE_REQUESTS = (
    "    http-request wait-for-body time 60s if METH_POST !{ req.hdr(content-type) -m beg application/grpc }\n"
    "    http-request wait-for-body time 60s if { path_beg /baton.v1.Inference/ }"
)


def amended(config: str, listeners: Mapping[str, int]) -> str:
    """The public addresses become descriptors that HAProxy inherits, and requests are read whole before they are sent
    on, up to a buffer's size; statistics move to loopback.

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
            line = line.replace(address, f"fd@{listeners[address]}", 1) + "\n" + _WHOLE_REQUESTS
        elif address.startswith((":", "*:")):
            line = line.replace(address, "127.0.0.1:" + address.rsplit(":", 1)[1], 1)
        lines.append(line)
    if sorted(found) != sorted(listeners):
        raise InternalError(
            f"this version of Ray Serve writes HAProxy's configuration in an unknown way (bound {found}, expected "
            f"{sorted(listeners)}); use ray 2.60"
        )
    return "\n".join(lines) + "\n"


def response_for_a_lost_request() -> str:
    """Whole, as HAProxy sends it; to gRPC's clients its status is UNAVAILABLE."""
    error = UnavailableError("the ingress replica that had this request was lost; try again")
    body = json.dumps(error_body(error))
    lines = ["HTTP/1.1 503 Service Unavailable", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in error_headers(error).items()]
    return "\r\n".join([*lines, "", body])
