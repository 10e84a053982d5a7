"""The keys of a Baton config as the chart checks them: names for a file's text, a JSON schema for a map of values."""

import json
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any

from cluster.config.load import _RENAMED, _SIZES
from cluster.config.rules import BOUNDS, CHOICES
from cluster.config.schema import BatonConfig

TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
SIZE = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*([KMGT]iB)?$"}


def text() -> str:
    """Key -> true, or the keys below it."""
    return json.dumps(_names(BatonConfig, ""), indent=1, sort_keys=True) + "\n"


def schema() -> dict[str, Any]:
    return _section(BatonConfig, "")


def _names(cls: type[Any], path: str) -> dict[str, Any]:
    return {key: _names(hint, dotted) if is_dataclass(hint) else True for key, dotted, hint in _keys(cls, path)}


def _keys(cls: type[Any], path: str) -> list[tuple[str, str, Any]]:
    """Key, its dotted path, its type."""
    hints = typing.get_type_hints(cls)
    keys = [(_RENAMED.get(field.name, field.name), hints[field.name]) for field in fields(cls)]
    return [(key, f"{path}.{key}" if path else key, hint) for key, hint in keys]


def _section(cls: type[Any], path: str) -> dict[str, Any]:
    properties = {key: _value(hint, dotted) for key, dotted, hint in _keys(cls, path)}
    return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}


def _value(hint: Any, path: str) -> dict[str, Any]:
    if is_dataclass(hint):
        return _section(typing.cast("type[Any]", hint), path)
    if path in CHOICES:
        return {"enum": list(CHOICES[path])}
    kinds = [kind for kind in typing.get_args(hint) if kind is not NoneType] or [hint]
    if kinds[0] not in TYPES or _is_mapping(hint):
        return _mapping_or_any(hint)
    allowed: dict[str, Any] = {"type": TYPES[kinds[0]]}
    if path in BOUNDS:
        allowed["minimum"], allowed["maximum"] = BOUNDS[path]
    if path in _SIZES:
        return {"anyOf": [allowed, SIZE]}
    if NoneType in typing.get_args(hint):
        return {"anyOf": [allowed, {"enum": ["auto", None]}]}
    return allowed


def _mapping_or_any(hint: Any) -> dict[str, Any]:
    """Of a form of its own: Baton itself says what is wrong with it."""
    return {"type": "object"} if _is_mapping(hint) else {}


def _is_mapping(hint: Any) -> bool:
    return typing.get_origin(hint) in (dict, Mapping)
