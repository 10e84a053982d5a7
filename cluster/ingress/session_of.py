"""What a client says its request has in common with others, which shall go to the same version of a model."""

from collections.abc import Mapping
from typing import Any

FIELDS = ("prompt_cache_key", "safety_identifier", "user")  # the first that is there


def session_of(sent: Mapping[str, Any]) -> str:
    """Of a body as OpenAI's clients send it; empty: nothing."""
    return next((value for name in FIELDS if isinstance(value := sent.get(name), str) and value), "")
