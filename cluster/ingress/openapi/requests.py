"""The schemas of requests' bodies: from the very classes and rows that check them."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from cluster.ingress.fields import HARMLESS, UNSUPPORTED
from cluster.ingress.messages import ROLES
from cluster.ingress.openai import MAX_ID_DIGITS, MAX_PROMPTS, Body
from cluster.ingress.sampling import MAX_STOP_CHARACTERS, MAX_STOPS
from workers.model.sampling_params import ROWS, Row

Schema = dict[str, Any]
HARMLESS_FIELD: Schema = {"description": "Accepted, without effect."}
REF = "#/components/schemas/{model}"

_TYPES = {float: "number", int: "integer", bool: "boolean", str: "string"}
_IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_TEXT: Schema = {"type": "string", "minLength": 1}
_PROMPT: Schema = {
    "description": "A text, token ids, or a list of either.",
    "anyOf": [
        _TEXT,
        _IDS,
        {"type": "array", "items": {"anyOf": [_TEXT, _IDS]}, "minItems": 1, "maxItems": MAX_PROMPTS},
    ],
}
_PART: Schema = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": sorted(ROLES)},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART, "minItems": 1}, {"type": "null"}]},
    },
    "required": ["role"],
}
_MESSAGES: Schema = {"type": "array", "items": _MESSAGE, "minItems": 1}
_STOP: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
# What a field's class does not say: its own code checks it.
_BY_NAME: Mapping[str, Schema] = {
    "prompt": _PROMPT,
    "messages": _MESSAGES,
    "tools": {"type": "array", "items": {"type": "object"}},
    "tool_choice": {"anyOf": [{"type": "string"}, {"type": "object"}]},
    "response_format": {
        "type": "object",
        "properties": {"type": {"enum": ["text", "json_object", "json_schema", "structural_tag"]}},
        "required": ["type"],
    },
    "structured_outputs": {"type": "object"},
    "guided_json": {"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "boolean"}]},
    "guided_regex": {"type": "string"},
    "guided_grammar": {"type": "string"},
    "guided_choice": {"type": "array", "items": {"type": "string"}, "minItems": 1},
    "truncate_prompt_tokens": {"anyOf": [{"const": -1}, {"type": "integer", "minimum": 1}]},
    "stop": {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}]},
}
_ROWS_OF_OTHER_NAMES: Mapping[str, Row] = {
    "max_completion_tokens": ROWS["max_tokens"],
    "top_logprobs": ROWS["logprobs"],
}


def request_schemas(kinds: Sequence[type[Body]]) -> dict[str, Schema]:
    """By name: those of the bodies, and of what they are made of."""
    _, found = models_json_schema([(kind, "validation") for kind in kinds], ref_template=REF)
    schemas: dict[str, Schema] = found["$defs"]
    for kind in kinds:
        schemas[kind.__name__] = _whole(kind, schemas[kind.__name__])
    return {name: without_titles(schema) for name, schema in schemas.items()}


def _whole(kind: type[Body], schema: Schema) -> Schema:
    required = schema.get("required", [])
    properties = {
        name: _property(name, found) for name, found in schema["properties"].items() if name in kind.field_names()
    }
    others = sorted(kind.field_names() - properties.keys())
    properties |= {name: _BY_NAME.get(name) or row_schema(ROWS[name]) for name in others}
    properties = {name: found if name in required else nullable(found) for name, found in properties.items()}
    return {**schema, "properties": {**_tolerated(), **properties}}


def _property(name: str, schema: Schema) -> Schema:
    if name in _BY_NAME and schema.get("type") != "string" and not _takes_text_alone(schema):
        return _BY_NAME[name]
    row = _ROWS_OF_OTHER_NAMES.get(name)
    if name == "logprobs" and schema.get("type") != "boolean":
        row = ROWS["logprobs"]
    return row_schema(row) if row is not None else {key: value for key, value in schema.items() if value is not None}


def _takes_text_alone(schema: Schema) -> bool:
    return [one.get("type") for one in schema.get("anyOf", ())] == ["string", "null"]


def row_schema(row: Row) -> Schema:
    """What a field of sampling may be."""
    schema: Schema
    if row.kind == list[int]:
        schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    elif row.kind == list[str]:
        schema = {"type": "array", "items": {"type": "string"}}
    elif row.kind == dict[int, float]:
        keys = {"pattern": f"^[0-9]{{1,{MAX_ID_DIGITS}}}$"}
        schema = {"type": "object", "propertyNames": keys, "additionalProperties": {"type": "number", **_range(row)}}
    else:
        schema = {"type": _TYPES[row.kind], **_range(row)}
    if row.choices:
        schema["enum"] = list(row.choices)
    return schema | ({"description": f"It is {row.allowed}."} if row.allowed else {})


def _range(row: Row) -> Schema:
    bounds = {"minimum": row.low, "maximum": row.high, "exclusiveMinimum": row.above}
    return {name: bound for name, bound in bounds.items() if abs(bound) != float("inf")}


def _tolerated() -> dict[str, Schema]:
    """Fields that change nothing, and those that are not supported with the values that ask for nothing."""
    harmless: dict[str, Schema] = dict.fromkeys(sorted(HARMLESS), HARMLESS_FIELD)
    off = {
        name: {"enum": [*values, None], "description": "Not supported; these values ask for nothing."}
        for name, values in UNSUPPORTED.items()
        if values
    }
    return harmless | off


def nullable(schema: Schema) -> Schema:
    """A null means as much as a field that is left out."""
    if not schema or {"type": "null"} in schema.get("anyOf", ()):
        return schema
    return {"anyOf": [schema, {"type": "null"}]}


def without_titles(schema: Any) -> Any:
    """pydantic writes every name again as a title; and a default of null is none."""
    if isinstance(schema, list):
        return [without_titles(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: without_titles(one) for name, one in value.items()}
        if key == "properties"
        else without_titles(value)
        for key, value in schema.items()
        if key != "title" and not (key == "default" and value is None)
    }
