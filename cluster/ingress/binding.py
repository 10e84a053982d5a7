"""Keeps a replica's gRPC server on the address that the configuration names.

Ray 2.60 binds the gRPC server behind its HAProxy to all interfaces and has no setting for it, while the HTTP server
beside it follows `http.host`. The function that binds is replaced in the replica's own process, before Serve starts
the server.
"""

from typing import Any

from baton.errors import InternalError


def bind_grpc_to(host: str) -> None:
    """Raises: InternalError: this version of Ray binds in another way, so that a port might be open to the network."""
    from ray.serve._private import default_impl

    if not callable(getattr(default_impl, "add_grpc_address", None)):
        raise InternalError("this version of Ray Serve binds its gRPC server in a way that is not known here; use 2.60")

    def add_grpc_address(server: Any, address: str) -> None:
        port = address.rsplit(":", 1)[1]
        server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    default_impl.add_grpc_address = add_grpc_address  # type: ignore[assignment]
