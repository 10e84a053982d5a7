"""Keeps Serve's servers off networks that the configuration does not name.

Ray 2.60 binds three kinds of servers to all interfaces without a setting for it: the gRPC server of a proxy or replica
(`http.host` holds for HTTP alone), a replica's server for calls between deployments, which unpickles what it reads,
and HAProxy's statistics. Here the functions that bind are replaced in Serve's own processes, before any server is
started; HAProxy's configuration passes through `haproxy_config.amended`.
"""

import os
from typing import Any

from baton.errors import InternalError

HOST_VARIABLE = "BATON_INGRESS_HOST"


def bind_servers_to(host: str) -> None:
    """In a proxy or replica: gRPC goes to `host`, the server for calls between deployments stays unbound.

    Raises: InternalError: this version of Ray binds in another way, so that a port might be open to the network.
    """
    from ray.serve._private import default_impl, replica

    for module, name in ((default_impl, "add_grpc_address"), (replica, "add_port_to_grpc_server")):
        if not callable(getattr(module, name, None)):
            raise InternalError(f"this version of Ray Serve binds its servers in an unknown way ({name}); use ray 2.60")

    def add_grpc_address(grpc_server: Any, server_address: str) -> None:
        port = server_address.rsplit(":", 1)[1]
        grpc_server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def add_no_port(server: Any, address: str) -> int:
        return 0  # one deployment: nothing calls it

    default_impl.add_grpc_address = add_grpc_address
    replica.add_port_to_grpc_server = add_no_port  # type: ignore[attr-defined]


def on_proxy_start() -> list[Any]:
    """Serve calls this (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH) in every proxy and replica before servers start."""
    bind_servers_to(os.environ[HOST_VARIABLE])
    return []
