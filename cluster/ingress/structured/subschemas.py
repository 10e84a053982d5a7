"""Walks a JSON schema: only where schemas stand, so that a property called `not` is no keyword."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

_SCHEMA = (
    *("additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not"),
    *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
)
_LISTS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_NAMED = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
ROOT = "$"


def subschemas(schema: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each with its path, the outermost first: `$.properties.name`. Of any depth: nothing here calls itself."""
    waiting = deque([(ROOT, schema)])
    while waiting:
        path, one = waiting.popleft()
        if isinstance(one, Mapping):
            yield path, one
            waiting.extend(children(path, one))


def children(path: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Those right below one, with their paths."""
    for keyword in _SCHEMA:
        if isinstance(schema.get(keyword), Mapping):
            yield f"{path}.{keyword}", schema[keyword]
    for keyword in _LISTS:
        if isinstance(schema.get(keyword), list):
            yield from ((f"{path}.{keyword}[{i}]", child) for i, child in enumerate(schema[keyword]))
    for keyword in _NAMED:
        if isinstance(schema.get(keyword), Mapping):
            yield from ((f"{path}.{keyword}.{name}", child) for name, child in schema[keyword].items())


def num_levels(value: Any) -> int:
    """How deep JSON is nested; 0: it is no object and no list."""
    level, layer = 0, [value]
    while holders := [one for one in layer if isinstance(one, Mapping | list)]:
        level += 1
        layer = [child for one in holders for child in (one.values() if isinstance(one, Mapping) else one)]
    return level
