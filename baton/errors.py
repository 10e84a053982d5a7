"""The one error tree of Baton, shared by client, ingress and workers.

Each error has a `code` (stable, sent over the wire) and says whether the same call may succeed when tried again.
A plane that catches foreign errors (gRPC, Ray, torch) maps them to these at its boundary.
"""

from typing import ClassVar


class BatonError(Exception):
    """Base of all; raised itself only for a code that this version does not know."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InternalError(BatonError):
    """A bug of Baton's."""


class InvalidRequestError(BatonError):
    """The caller must change the request; `field` names what."""

    code = "invalid_request"
    http_status = 400
    grpc_status = "INVALID_ARGUMENT"

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ModelNotFoundError(InvalidRequestError):
    code = "model_not_found"
    http_status = 404
    grpc_status = "NOT_FOUND"


class UnknownRequestError(InvalidRequestError):
    """No replica remembers the request, or it was sent with another API key."""

    code = "request_not_found"
    http_status = 404
    grpc_status = "NOT_FOUND"


class RequestTooLargeError(InvalidRequestError):
    """Its body, headers or message are over a limit of the server's."""

    code = "request_too_large"
    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"


class RequestTimeoutError(InvalidRequestError):
    """The request itself did not arrive in time."""

    code = "request_timeout"
    http_status = 408
    grpc_status = "DEADLINE_EXCEEDED"


class ConfigError(BatonError):
    """The YAML or a command's option is wrong; the message names key, value and fix."""

    code = "invalid_config"


class UnauthenticatedError(BatonError):
    """No API key, or none that the server knows; between workers: another cluster's secret."""

    code = "unauthenticated"
    http_status = 401
    grpc_status = "UNAUTHENTICATED"


class PermissionDeniedError(BatonError):
    """The API key is known, but is not for what was asked."""

    code = "permission_denied"
    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class OverloadedError(BatonError):
    """Shed by admission; worth another try after `retry_after_s`."""

    code = "overloaded"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    retryable = True

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimitError(OverloadedError):
    """The API key has used up what it may have of requests or tokens; the server itself has room."""

    code = "rate_limited"


class UnavailableError(BatonError):
    """No worker of a pool is there, or all tries were lost with their workers."""

    code = "unavailable"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    retryable = True


class DeadlineExceededError(BatonError):
    code = "deadline_exceeded"
    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"


class CancelledError(BatonError):
    """The caller or an operator ended the request."""

    code = "cancelled"
    http_status = 499
    grpc_status = "CANCELLED"


class IncompleteAnswerError(BatonError):
    """An answer that was to become an instance was cut off; `text` is what came of it. Of clients alone."""

    code = "incomplete_answer"

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text


def _tree(root: type[BatonError]) -> list[type[BatonError]]:
    return [root, *(error for child in root.__subclasses__() for error in _tree(child))]


def all_codes() -> dict[str, int]:
    """Every code -> its HTTP status."""
    return {error.code: error.http_status for error in reversed(_tree(BatonError))}


def from_code(code: str, message: str) -> BatonError:
    """The error that `code` names; a BatonError for a code of a newer version."""
    by_code = {error.code: error for error in reversed(_tree(BatonError)[1:])}  # a class before its kinds
    return by_code.get(code, BatonError)(message)
