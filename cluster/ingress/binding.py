"""Keeps Serve's servers off networks that the configuration does not name, and puts TLS on those that are public.

Ray 2.60 binds three kinds of servers to all interfaces without a setting for it: the gRPC server of a proxy or replica
(`http.host` holds for HTTP alone), a replica's server for calls between deployments, which unpickles what it reads,
and HAProxy's statistics. Here the functions that bind are replaced in Serve's own processes, before any server is
started; HAProxy's configuration passes through `haproxy_config.amended`.

Where HAProxy stands in front, it is on the same machine as all that it passes requests to: TLS is its, and Serve's own
servers speak plainly on loopback, whatever `http.host` is.
"""

import os
from typing import Any

from baton.errors import InternalError
from cluster.doors.live_tls import LiveTLS
from cluster.ingress.tls_environment import tls_of_environment

HOST_VARIABLE = "BATON_INGRESS_HOST"
ENABLE_HAPROXY_VARIABLE = "RAY_SERVE_ENABLE_HA_PROXY"


LOOPBACK = "127.0.0.1"


def bind_servers_to(host: str) -> None:
    """In a proxy or replica: HTTP and gRPC go to `host`, the server for calls between deployments stays unbound.

    Raises: InternalError: this version of Ray binds in another way, so that a port might be open to the network.
    ConfigError: the files of `tls` cannot be used on this node.
    """
    from ray.serve._private import default_impl, proxy, replica

    wanted = (
        (default_impl, "add_grpc_address"),
        (replica, "add_port_to_grpc_server"),
        (proxy, "start_asgi_http_server"),
        (replica, "start_asgi_http_server"),
    )
    for module, name in wanted:
        if not callable(getattr(module, name, None)):
            raise InternalError(f"this version of Ray Serve binds its servers in an unknown way ({name}); use ray 2.60")
    if getattr(default_impl.add_grpc_address, "is_ours", False):
        return
    is_behind = os.environ.get(ENABLE_HAPROXY_VARIABLE) == "1"
    host = LOOPBACK if is_behind else host
    tls = tls_of_environment()
    live = LiveTLS(tls) if tls.is_on and not is_behind else None
    default_impl.add_grpc_address = _grpc_adder(host, live)
    replica.add_port_to_grpc_server = _add_no_port  # type: ignore[attr-defined]
    start = _http_starter(host, live, proxy.start_asgi_http_server)  # type: ignore[attr-defined]
    proxy.start_asgi_http_server = replica.start_asgi_http_server = start  # type: ignore[attr-defined]


def _grpc_adder(host: str, live: LiveTLS | None) -> Any:
    shown = f"[{host}]" if ":" in host else host

    def add_grpc_address(grpc_server: Any, server_address: str) -> None:
        address = f"{shown}:{server_address.rsplit(':', 1)[1]}"
        if live is None:
            grpc_server.add_insecure_port(address)
        else:
            grpc_server.add_secure_port(address, live.grpc_credentials())

    add_grpc_address.is_ours = True  # type: ignore[attr-defined]
    return add_grpc_address


def _http_starter(host: str, live: LiveTLS | None, start: Any) -> Any:
    async def start_asgi_http_server(app: Any, http_options: Any, **kwargs: Any) -> tuple[Any, Any]:
        task, server = await start(app, http_options.model_copy(update={"host": host}), **kwargs)
        if live is not None:
            server.config.ssl_context_factory = live.ssl_context  # it is read when `task` runs first
        return task, server

    return start_asgi_http_server


def _add_no_port(server: Any, address: str) -> int:
    return 0  # one deployment: nothing calls it


def on_proxy_start() -> list[Any]:
    """Serve calls this (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH) in every proxy and replica before servers start."""
    bind_servers_to(os.environ[HOST_VARIABLE])
    return []
