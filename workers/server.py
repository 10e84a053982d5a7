"""The gRPC server of one rank: which calls it takes, and how large messages may be."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from workers.requests import guarded
from workers.spec import WorkerSpec

SECRET_METADATA = "baton-secret"
MAX_MESSAGE_BYTES = 64 << 20
MAX_METADATA_BYTES = 16 << 10
MAX_STREAMS = 256  # of one connection; each peer has its own, with one stream or two
HANDSHAKE_TIMEOUT_MS = 10_000  # of a connection that says nothing
MESSAGE_TIMEOUT_S = 60.0  # of a call that has one
OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.so_reuseport", 0),
]


def make_server(spec: WorkerSpec) -> grpc.aio.Server:
    """For the services that are added to it; call from the loop that it will run on."""
    return grpc.aio.server(
        interceptors=[SecretInterceptor(spec.secret), RequestGuard(MESSAGE_TIMEOUT_S)], options=OPTIONS
    )


class SecretInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses every call whose metadata does not carry the cluster's secret, before any of its messages is read."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

        async def refuse(requests: Any, context: grpc.aio.ServicerContext) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"metadata {SECRET_METADATA}: missing or wrong")

        # Of streams whatever the method is: of a single request the message would be read before it is refused.
        self._refusal = grpc.stream_stream_rpc_method_handler(refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        given = dict(handler_call_details.invocation_metadata or ()).get(SECRET_METADATA, "")
        if not hmac.compare_digest(str(given).encode(), self._secret):
            return self._refusal
        return await continuation(handler_call_details)


class RequestGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """A message that cannot be read, or does not come, ends its call; see `guarded`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(handler_call_details)
        return guarded(handler, self._timeout_s) if handler is not None else None
