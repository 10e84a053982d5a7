"""Keeps Serve's servers off networks that the configuration does not name; limits what they take, and puts TLS on those
that are public.

Ray 2.60 binds three kinds of servers to all interfaces without a setting for it: the gRPC server of a proxy or replica
(`http.host` holds for HTTP alone), a replica's server for calls between deployments, which unpickles what it reads,
and HAProxy's statistics. Here the functions that bind are replaced in Serve's own processes, before any server is
started; HAProxy's configuration passes through `haproxy_config.amended`.

Where HAProxy stands in front, it is on the same machine as all that it passes requests to: TLS is its, and Serve's own
servers speak plainly on loopback (`host_of_servers`), whatever `http.host` is.
"""

import os
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from baton.errors import InternalError
from cluster.config.schema import LimitsConfig
from cluster.doors.live_tls import LiveTLS
from cluster.ingress.limits import grpc_options, limits_of_environment
from cluster.ingress.origins_environment import origins_of_environment
from cluster.ingress.tls_environment import tls_of_environment
from workers.requests import guarded

HOST_VARIABLE = "BATON_INGRESS_HOST"
ENABLE_HAPROXY_VARIABLE = "RAY_SERVE_ENABLE_HA_PROXY"
LOOPBACK = "127.0.0.1"


def host_of_servers(host: str) -> str:
    """Where Serve's own servers listen. `host`: `http.host` of the configuration."""
    return LOOPBACK if os.environ.get(ENABLE_HAPROXY_VARIABLE) == "1" else host


def bind_servers_to(host: str) -> None:
    """In a proxy or replica: gRPC goes to `host`, the server for calls between deployments stays unbound; with TLS in
    front of HTTP and gRPC where they are public.

    Raises: InternalError: this version of Ray binds in another way, so that a port might be open to the network.
    ConfigError: the files of `tls` cannot be used on this node.
    """
    from ray.serve._private import default_impl, grpc_util, http_util, replica

    wanted = (
        (default_impl, "add_grpc_address"),
        (grpc_util, "gRPCGenericServer"),
        (replica, "add_port_to_grpc_server"),
        (http_util, "uvicorn"),
    )
    for module, name in wanted:
        if not hasattr(module, name):
            raise InternalError(f"this version of Ray Serve binds its servers in an unknown way ({name}); use ray 2.60")
    if getattr(default_impl.add_grpc_address, "is_ours", False):
        return
    tls = tls_of_environment()
    live = LiveTLS(tls) if tls.is_on and os.environ.get(ENABLE_HAPROXY_VARIABLE) != "1" else None
    default_impl.add_grpc_address = _grpc_adder(host_of_servers(host), live)
    grpc_util.gRPCGenericServer = _keeping_ports_apart(grpc_util.gRPCGenericServer)  # type: ignore[misc]
    replica.add_port_to_grpc_server = _add_no_port  # type: ignore[attr-defined]
    if live is not None:
        _put_tls_on_http(http_util, live)


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


def _keeping_ports_apart(server: Any) -> Any:
    """Ray says "0" for a port that is not to be shared; gRPC knows numbers alone, warns, and shares it. Two clusters'
    replicas then take one port together, and each is sent requests of the other's."""

    class Server(server):  # type: ignore[misc]
        def __init__(self, factory: Any, *, extra_options: Any = None) -> None:
            super().__init__(factory, extra_options=[(name, int(value)) for name, value in extra_options or ()])

    return Server


def _put_tls_on_http(http_util: Any, live: LiveTLS) -> None:
    """Serve's own setting for it neither asks for clients' certificates nor reads files again. Its proxy's class comes
    to it by value, so that the function which makes the server cannot be replaced there; what that one uses can.
    """
    import uvicorn

    configured = partial(uvicorn.Config, ssl_context_factory=live.ssl_context)
    http_util.uvicorn = SimpleNamespace(Server=uvicorn.Server, Config=configured)


def _add_no_port(server: Any, address: str) -> int:
    return 0  # one deployment: nothing calls it


def limit_servers(limits: LimitsConfig, origins: Sequence[str]) -> None:
    """In a proxy or replica, before its servers start.

    Args:
        origins: `http.cors_origins`.

    Raises: InternalError: this version of Ray Serve or uvicorn makes its servers in another way.
    """
    from ray.serve._private import grpc_util
    from uvicorn import config

    from cluster.ingress.http_protocol import BoundedProtocol

    options = getattr(grpc_util, "DEFAULT_GRPC_SERVER_OPTIONS", None)
    handler_of = getattr(grpc_util.gRPCGenericServer, "_override_method_handler", None)
    if not isinstance(options, list) or handler_of is None or "auto" not in config.HTTP_PROTOCOLS:
        raise InternalError("this version of Ray Serve makes its servers in an unknown way; use ray 2.60")
    config.HTTP_PROTOCOLS["auto"] = partial(BoundedProtocol, limits, tuple(origins))  # type: ignore[assignment]
    ours = grpc_options(limits)
    options[:] = [*(one for one in options if one[0] not in dict(ours)), *ours]
    if not hasattr(handler_of, "guards"):  # a replica comes here twice

        def guarded_handler(self: Any, service_method: str, method_handler: Any) -> Any:
            return guarded(handler_of(self, service_method, method_handler), limits.body_timeout_s)

        guarded_handler.guards = True  # type: ignore[attr-defined]
        grpc_util.gRPCGenericServer._override_method_handler = guarded_handler  # type: ignore[method-assign]


def on_proxy_start() -> list[Any]:
    """Serve calls this (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH) in every proxy and replica before servers start."""
    from cluster.ingress.leaving import cancel_what_clients_leave

    cancel_what_clients_leave()
    bind_servers_to(os.environ[HOST_VARIABLE])
    limit_servers(limits_of_environment(), origins_of_environment())
    return []
