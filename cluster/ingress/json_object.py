"""A JSON object that comes as a text within a body: the arguments of a call."""

import json
from typing import Any

from cluster.ingress.fields import shorten
from cluster.ingress.reading import refusal, text


def json_object(value: Any, path: str) -> dict[str, Any]:
    """Nothing at all is an object without members. Raises: InvalidRequestError."""
    written = text(value, path)
    try:
        found = json.loads(written or "{}")
    except (ValueError, RecursionError) as error:
        raise refusal(path, f"{path} is {shorten(written)}, which is not JSON ({error}); send one object") from error
    if not isinstance(found, dict):
        raise refusal(path, f"{path} is {shorten(written)}; it must be one JSON object, written as a string")
    return found
