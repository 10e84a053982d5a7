"""Baton's client SDK; needs grpcio and protobuf alone.

    import baton

    with baton.Client("127.0.0.1:9000") as client:
        print(client.generate("Once upon", max_tokens=32).text)

Names load on first use, so that `import baton` costs nothing: the servers import `baton.errors` through here.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baton.aio import AsyncClient, AsyncStream
    from baton.client import Client, Stream
    from baton.errors import (
        BatonError,
        CancelledError,
        ConfigError,
        DeadlineExceededError,
        IncompleteAnswerError,
        InternalError,
        InvalidRequestError,
        ModelNotFoundError,
        OverloadedError,
        PermissionDeniedError,
        RateLimitError,
        RequestTimeoutError,
        RequestTooLargeError,
        UnauthenticatedError,
        UnavailableError,
    )
    from baton.tls import TLS
    from baton.types import (
        Choice,
        Completion,
        Delta,
        FinishReason,
        HealthStatus,
        Message,
        Model,
        Options,
        Sampling,
        TokenLogprob,
        TokenLogprobs,
        Usage,
    )

__all__ = [
    "TLS",
    "AsyncClient",
    "AsyncStream",
    "BatonError",
    "CancelledError",
    "Choice",
    "Client",
    "Completion",
    "ConfigError",
    "DeadlineExceededError",
    "Delta",
    "FinishReason",
    "HealthStatus",
    "IncompleteAnswerError",
    "InternalError",
    "InvalidRequestError",
    "Message",
    "Model",
    "ModelNotFoundError",
    "Options",
    "OverloadedError",
    "PermissionDeniedError",
    "RateLimitError",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "Sampling",
    "Stream",
    "TokenLogprob",
    "TokenLogprobs",
    "UnauthenticatedError",
    "UnavailableError",
    "Usage",
]

_HOMES = {
    "AsyncClient": "baton.aio",
    "AsyncStream": "baton.aio",
    "Client": "baton.client",
    "Stream": "baton.client",
    "TLS": "baton.tls",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'baton' has no attribute {name!r}")
    home = _HOMES.get(name, "baton.errors" if name.endswith("Error") else "baton.types")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
