"""Dates and times that there are: the grammar library takes 29 February of any year, year 0, and second 60 anywhere.

What it lets pass is taken out by a pattern beside the format.
"""

import json
from collections.abc import Mapping
from typing import Any

from cluster.ingress.structured.subschemas import subschemas

_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = f"(?:{_LEAP_YEAR}-02-29|{_YEAR}-02-(?:[01][0-9]|2[0-8])|{_YEAR}-(?:0[13-9]|1[0-2])-[0-3][0-9])"
_TIME = "[0-9]{2}:[0-9]{2}:[0-5][0-9].*"
_PATTERNS: Mapping[str, str] = {"date": f"^{_DAY}$", "date-time": f"^{_DAY}.{_TIME}$", "time": f"^{_TIME}$"}


def with_exact_formats(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema itself where it has no such format."""
    if not any(_pattern(one) for _, one in subschemas(schema)):
        return schema
    copied: dict[str, Any] = json.loads(json.dumps(schema))
    for _, one in list(subschemas(copied)):
        pattern = _pattern(one)
        if pattern is None or not isinstance(one, dict):
            continue
        if "pattern" in one:
            one["allOf"] = [*one.get("allOf", []), {"pattern": pattern}]
        else:
            one["pattern"] = pattern
    return copied


def _pattern(schema: Mapping[str, Any]) -> str | None:
    kind = schema.get("format")
    return _PATTERNS.get(kind) if isinstance(kind, str) else None
