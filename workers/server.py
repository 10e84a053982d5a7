"""The gRPC server of one rank: which calls it takes, and how large messages may be."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from workers.spec import WorkerSpec

SECRET_METADATA = "baton-secret"
MAX_MESSAGE_BYTES = 64 << 20
OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
]


def make_server(spec: WorkerSpec) -> grpc.aio.Server:
    """For the services that are added to it; call from the loop that it will run on."""
    return grpc.aio.server(interceptors=[SecretInterceptor(spec.secret)], options=OPTIONS)


class SecretInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses every call whose metadata does not carry the cluster's secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

        async def refuse(request: Any, context: grpc.aio.ServicerContext) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"metadata {SECRET_METADATA}: missing or wrong")

        self._refusal = grpc.unary_unary_rpc_method_handler(refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        given = dict(handler_call_details.invocation_metadata or ()).get(SECRET_METADATA, "")
        if not hmac.compare_digest(str(given).encode(), self._secret):
            return self._refusal
        return await continuation(handler_call_details)
