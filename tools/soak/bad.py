"""Requests that must be refused, and how."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """`body` goes out as it is; the answer has `status`, and `says` in its text."""

    path: str
    body: bytes
    status: int
    says: str
    headers: Mapping[str, str] | None = None


BAD = (
    Bad(path="/v1/completions", body=b'{"prompt": "a", "max_tokens": -3}', status=400, says="max_tokens is -3"),
    Bad(path="/v1/completions", body=b'{"promt": "a"}', status=400, says="did you mean prompt"),
    Bad(path="/v1/completions", body=b'{"prompt": "a"', status=400, says="JSON"),
    Bad(path="/v1/completions", body=b'{"prompt": "a", "model": "nobody"}', status=404, says="nobody"),
    Bad(path="/v1/completions", body=b'{"prompt": "a", "stream": true, "n": 0}', status=400, says="n is 0"),
    Bad(path="/v1/chat/completions", body=b'{"messages": [{"role": "wizard"}]}', status=400, says="role"),
    Bad(path="/v1/messages", body=b'{"messages": []}', status=400, says="max_tokens is missing"),
    Bad(path="/v1/responses", body=b'{"input": 7}', status=400, says="input"),
    Bad(path="/v1/nothing", body=b"{}", status=404, says=""),
    Bad(
        path="/v1/completions",
        body=b'{"prompt": "' + b"word " * 4000 + b'", "max_tokens": 4}',
        status=400,
        says="tokens",
    ),
)
