"""Why a JSON schema is not taken: the keyword, its place and value, and the fix.

Whatever the grammar library enforces is taken. What it would pass over in silence is found here; what it refuses itself
is told in its words, with the place that it does not know.
"""

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from cluster.ingress.fields import shorten
from cluster.ingress.structured.endless import endless_path
from cluster.ingress.structured.subschemas import num_levels, subschemas

MAX_LEVELS = 100  # of JSON; the library's parser takes 128
MAX_PROPERTIES = 2000
MAX_VALUES = 5000  # of all enums together
FORMATS = "date-time, time, date, duration, email, hostname, ipv4, ipv6, uuid or uri"

_ENFORCED = (
    *("$ref", "additionalProperties", "allOf", "anyOf", "const", "enum", "exclusiveMaximum", "exclusiveMinimum"),
    *("format", "items", "maxItems", "maxLength", "maxProperties", "maximum", "minItems", "minLength"),
    *("minProperties", "minimum", "multipleOf", "oneOf", "pattern", "patternProperties", "prefixItems", "properties"),
    *("required", "type"),
)
_FIXES = {
    "format": f"use {FORMATS}, or a pattern",
    "oneOf": "use anyOf, or give each option a required property with a const of its own",
    "uniqueItems": "leave it out, and let your program see to it",
}
_UNIMPLEMENTED = re.compile(r"Unimplemented keys: (\[.*?\])")
_SOURCE_LINE = re.compile(r"\n\s*\d+ \| .*", re.DOTALL)


def schema_refusal(schema: Mapping[str, Any] | bool) -> str | None:
    """In words that follow the field's name; None: it can be enforced."""
    if schema is False:
        return "is false, which allows nothing; send a schema that allows something"
    if schema is True:
        return None
    levels = num_levels(schema)
    if levels > MAX_LEVELS:
        return f"is nested {levels} levels deep; nest at most {MAX_LEVELS}, or use $ref"
    return _too_many(schema) or _passed_over(schema) or _refused(schema) or _endless(schema)


def brief(message: str) -> str:
    """A library's message without the source that it quotes, on one line."""
    message = _SOURCE_LINE.sub("", message.removeprefix("ERROR: "))
    message = re.sub(r"^(at )?\d+\(\d+\): (failed to compile JSON schema: )?", "", message)
    return " ".join(message.split("\n<state>")[0].split())[:200]


def _too_many(schema: Mapping[str, Any]) -> str | None:
    num_properties = num_values = 0
    for _, one in subschemas(schema):
        num_properties += len(one["properties"]) if isinstance(one.get("properties"), Mapping) else 0
        num_values += len(one["enum"]) if isinstance(one.get("enum"), list) else 0
    if num_properties > MAX_PROPERTIES:
        return f"has {num_properties} properties; send at most {MAX_PROPERTIES}"
    if num_values > MAX_VALUES:
        return f"has {num_values} values in enum; send at most {MAX_VALUES}"
    return None


def _passed_over(schema: Mapping[str, Any]) -> str | None:
    for path, one in subschemas(schema):
        if "x-guidance" in one:
            return f"has {path}.x-guidance; options of the grammar library are not taken: leave it out"
        least, required = one.get("minProperties"), one.get("required")
        num_required = len(set(map(str, required))) if isinstance(required, list) else 0
        if isinstance(least, int) and least > num_required + 1:
            return (
                f"has {path}.minProperties {least}, which cannot be enforced: a name could come twice; "
                f"lower it to {num_required + 1}, or name more properties in required"
            )
        for keyword in one:
            near = difflib.get_close_matches(keyword, _ENFORCED, n=1, cutoff=0.85)
            if near and near[0] != keyword:
                return f"has {path}.{keyword}, which is no keyword of JSON Schema; did you mean {near[0]}?"
    return None


def _refused(schema: Mapping[str, Any]) -> str | None:
    from llguidance import LLMatcher

    grammar = json.dumps({"grammars": [{"json_schema": schema}]})
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if not is_error:
        return None
    message = brief(messages[0])
    keyword = _keyword_of(message)
    if keyword is None:
        return f"cannot be compiled: {message}; change that"
    if "nsatisfiable" in message:
        return f"allows nothing: {message}; send a schema that allows something"
    path, value = _place(schema, keyword, message)
    fix = _FIXES.get(keyword, f"leave {keyword} out, or change it")
    if message.startswith("Unimplemented"):
        return f"has {path}.{keyword} {shorten(value)}, and {keyword} is not supported; {fix}"
    return f"has {path}.{keyword} {shorten(value)}, which cannot be enforced ({message}); {fix}"


def _keyword_of(message: str) -> str | None:
    unimplemented = _UNIMPLEMENTED.search(message)
    if unimplemented is not None:
        return str(json.loads(unimplemented[1])[0])
    for sign, keyword in {
        "Unknown format": "format",
        "oneOf constraints": "oneOf",
        "regex parse error": "pattern",
        "lookaround": "pattern",
        "patternProperty": "patternProperties",
        "min/maxProperties": "minProperties",
        "Invalid type": "type",
        "Failed to generate regex for": "multipleOf",
        "Resource ": "$ref",
        "Pointer ": "$ref",
        "Anchor ": "$ref",
    }.items():
        if sign in message:
            return keyword
    return next((word for word in re.findall(r"[A-Za-z$]+", message) if word in _ENFORCED), None) or (
        "schema" if "nsatisfiable" in message else None
    )


def _place(schema: Mapping[str, Any], keyword: str, message: str) -> tuple[str, Any]:
    """Where it stands; of several places, the first whose value the message quotes."""
    places = [(path, one[keyword]) for path, one in subschemas(schema) if keyword in one]
    quoted = [place for place in places if isinstance(place[1], str | int) and str(place[1]) in message]
    return next(iter(quoted or places), ("$", None))


def _endless(schema: Mapping[str, Any]) -> str | None:
    path = endless_path(schema)
    if path is None:
        return None
    return (
        f"never ends: what {path} asks for would have to hold another of its kind without end; "
        "make a property on that way optional, or allow another type"
    )
