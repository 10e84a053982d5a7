"""Whether a JSON value can be a JSON schema at all: the first place where a known keyword has a value that it cannot
have. What a grammar can be made of is for whoever makes it to say."""

from collections.abc import Callable, Mapping
from typing import Any

from cluster.ingress.fields import shorten, shown_name

MAX_LEVELS = 64  # of a tool's parameters; grammars have their own bounds
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_SCHEMA = ("additionalItems", "additionalProperties", "contains", "else", "if", "not", "propertyNames", "then")
_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED_SCHEMAS = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_COUNTS = ("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties")


def schema_fault(schema: Any, path: str, level: int = 0) -> str:
    """What is wrong, with its path and value; "" where nothing is."""
    if isinstance(schema, bool):
        return ""
    if not isinstance(schema, Mapping):
        return f"{path} is {shorten(schema)}; a JSON schema is an object"
    if level > MAX_LEVELS:
        return f"{path} lies {level} levels deep; nest at most {MAX_LEVELS}"
    for keyword, value in schema.items():
        check = _CHECKS.get(keyword)
        if check is not None and (fault := check(value, f"{path}.{keyword}", level + 1)):
            return fault
    return ""


def _type(value: Any, path: str, level: int) -> str:
    names = value if isinstance(value, list) else [value]
    if names and all(isinstance(name, str) and name in _TYPES for name in names):
        return ""
    return f"{path} is {shorten(value)}; use one of {', '.join(_TYPES)}, or a list of them"


def _schemas(value: Any, path: str, level: int) -> str:
    if not isinstance(value, list) or not value:
        return f"{path} is {shorten(value)}; it must be a list of schemas"
    return next((fault for i, item in enumerate(value) if (fault := schema_fault(item, f"{path}[{i}]", level))), "")


def _named_schemas(value: Any, path: str, level: int) -> str:
    if not isinstance(value, Mapping):
        return f"{path} is {shorten(value)}; it must be an object of schemas"
    faults = (schema_fault(item, f"{path}.{shown_name(name)}", level) for name, item in value.items())
    return next((fault for fault in faults if fault), "")


def _items(value: Any, path: str, level: int) -> str:
    return _schemas(value, path, level) if isinstance(value, list) and value else schema_fault(value, path, level)


def _names(value: Any, path: str, level: int) -> str:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return ""
    return f"{path} is {shorten(value)}; it must be a list of names"


def _values(value: Any, path: str, level: int) -> str:
    return "" if isinstance(value, list) and value else f"{path} is {shorten(value)}; it must be a list of values"


def _count(value: Any, path: str, level: int) -> str:
    if type(value) is int and value >= 0:
        return ""
    return f"{path} is {shorten(value)}; it must be a whole number of at least 0"


def _text(value: Any, path: str, level: int) -> str:
    return "" if isinstance(value, str) else f"{path} is {shorten(value)}; it must be a string"


_CHECKS: Mapping[str, Callable[[Any, str, int], str]] = {
    "type": _type,
    "items": _items,
    "required": _names,
    "enum": _values,
    "pattern": _text,
    "$ref": _text,
    **dict.fromkeys(_SCHEMA, schema_fault),
    **dict.fromkeys(_SCHEMAS, _schemas),
    **dict.fromkeys(_NAMED_SCHEMAS, _named_schemas),
    **dict.fromkeys(_COUNTS, _count),
}
