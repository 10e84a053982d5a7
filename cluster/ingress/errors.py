"""Errors in OpenAI's shape, and their numbers for HTTP and gRPC."""

import json
import math
from collections.abc import Sequence
from typing import Any

from baton.errors import (
    BatonError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    RequestTimeoutError,
    RequestTooLargeError,
)
from cluster.ingress.fields import shorten

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
}


def error_body(error: BatonError) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "type": _TYPES.get(error.http_status, "server_error"),
            "param": error.field if isinstance(error, InvalidRequestError) else None,
            "code": error.code,
        }
    }


def error_headers(error: BatonError) -> dict[str, str]:
    """`Retry-After` in whole seconds, rounded up, where the same call may succeed later; what ends the connection; what
    a 401 must say.
    """
    if error.http_status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, RequestTooLargeError | RequestTimeoutError):
        return {"Connection": "close"}  # what is left of the request is not read
    if isinstance(error, OverloadedError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    return {"Retry-After": "1"} if error.http_status == 503 else {}


def error_event(error: BatonError) -> str:
    """What ends a stream that has begun: the client raises it."""
    return f"data: {json.dumps(error_body(error))}\n\n"


def error_metadata(error: BatonError) -> list[tuple[str, str]]:
    """Trailing metadata of a failed gRPC call; the status alone cannot say which field or how long to wait."""
    metadata = [("baton-error-code", error.code)]
    if isinstance(error, InvalidRequestError) and error.field:
        metadata.append(("baton-error-field", error.field))
    if isinstance(error, OverloadedError):
        metadata.append(("retry-after", f"{error.retry_after_s:g}"))
    return metadata


def model_not_found(name: str, served: Sequence[str]) -> ModelNotFoundError:
    """`served`: names; a model's alone, or its and its adapters'."""
    known = ", ".join(map(json.dumps, served)) + (" alone" if len(served) == 1 else "")
    return ModelNotFoundError(f"model is {shorten(name)}; this server serves {known}", "model")
