"""Where gRPC's errors become Baton's, and the few bytes of gRPC's health protocol the SDK needs."""

import contextlib
from typing import Any

from baton.errors import (
    BatonError,
    CancelledError,
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RequestTooLargeError,
    UnauthenticatedError,
    UnavailableError,
    from_code,
)
from baton.types import HealthStatus

CODE_KEY = "baton-error-code"
FIELD_KEY = "baton-error-field"
RETRY_AFTER_KEYS = {"retry-after": 1.0, "retry-after-ms": 0.001}  # in seconds

HEALTH_METHOD = "/grpc.health.v1.Health/Check"
_HEALTH: dict[bytes, HealthStatus] = {b"\x08\x01": "serving", b"\x08\x02": "not_serving"}  # field 1, a varint

_TOO_LARGE = ("larger than max", "metadata size exceeds")  # gRPC's own limits: it would be too large again

_BY_STATUS: dict[str, type[BatonError]] = {
    error.grpc_status: error
    for error in (
        InvalidRequestError,
        ModelNotFoundError,
        UnauthenticatedError,
        PermissionDeniedError,
        OverloadedError,
        UnavailableError,
        DeadlineExceededError,
        CancelledError,
    )
}


def from_rpc_error(rpc_error: Any, target: str) -> BatonError:
    """The one place where a `grpc.RpcError`, sync or aio, becomes a BatonError with it as the cause.

    The trailing metadata decides where the server sent any: `baton-error-code` names the class,
    `baton-error-field` the field, `retry-after` (s) or `retry-after-ms` the pause. Else the status does.
    """
    metadata = {str(key): value for key, value in (rpc_error.trailing_metadata() or ())}
    status: str = rpc_error.code().name
    details: str = rpc_error.details() or status
    code = metadata.get(CODE_KEY)
    error = from_code(str(code), details) if code else _from_status(status, details, target)
    if isinstance(error, InvalidRequestError):
        error.field = metadata.get(FIELD_KEY)
    if isinstance(error, OverloadedError):
        for key in RETRY_AFTER_KEYS.keys() & metadata:
            with contextlib.suppress(ValueError):  # a proxy's malformed value leaves the default pause
                error.retry_after_s = max(0.0, float(metadata[key]) * RETRY_AFTER_KEYS[key])
    error.__cause__ = rpc_error
    return error


def _from_status(status: str, details: str, target: str) -> BatonError:
    if "RST_STREAM" in details:  # neither the caller nor Baton ends a call so: what stood between, or the process, did
        return UnavailableError(f"{target} lost the request ({details}); try again")
    if status == "UNIMPLEMENTED":
        return InternalError(f"{target} does not serve baton.v1.Inference ({details}); is it Baton's gRPC port?")
    if status == "UNAVAILABLE" and (refusal := _tls_refusal(details, target)):
        return UnavailableError(f"{refusal} ({details})")
    if status == "UNAVAILABLE" and "connect" in details:
        return UnavailableError(f"no server answers at {target}; start one with `baton up` or `make serve` ({details})")
    if status == "UNAVAILABLE" and "resol" in details:
        return UnavailableError(f"target {target!r} is no address; give host:port ({details})")
    if status == "DEADLINE_EXCEEDED":
        return DeadlineExceededError(f"{target} did not answer within timeout_s; raise it ({details})")
    if status == "RESOURCE_EXHAUSTED" and any(words in details for words in _TOO_LARGE):
        return RequestTooLargeError(f"the request is too large for {target}: {details}")
    return _BY_STATUS.get(status, InternalError)(details)


def _tls_refusal(details: str, target: str) -> str:
    """What stands between a client and a server that is there; empty where it is something else."""
    if "Hostname Verification" in details:
        return (
            f"the certificate of {target} is for another name; give the one it is for: tls=baton.TLS(server_name=...)"
        )
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return f"the certificate of {target} does not hold; name who signed it: tls=baton.TLS(ca=...)"
    if "WRONG_VERSION_NUMBER" in details:
        return f"{target} does not speak TLS; leave tls out"
    if "connect" in details and "Socket closed" in details:
        return (
            f"{target} closed the connection; if it speaks TLS give tls=True, if mutual TLS baton.TLS(certificate=...)"
        )
    return ""


def health_status(response: bytes) -> HealthStatus:
    """Of a serialized `grpc.health.v1.HealthCheckResponse`; its package would be a third dependency."""
    return _HEALTH.get(response, "unknown")
