"""Errors in Anthropic's shape: those of paths below /v1/messages, whoever refuses them."""

from typing import Any

from baton.errors import BatonError

_ROOT = "/v1/messages"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def is_of_messages(path: str) -> bool:
    return path == _ROOT or path.startswith(f"{_ROOT}/")


def messages_error(error: BatonError, request_id: str) -> dict[str, Any]:
    return messages_error_of(error.http_status, error.message, request_id)


def messages_error_of(status: int, message: str, request_id: str) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 499 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
