"""Keyword arguments that say what form an answer must have, as a message."""

import json
from collections.abc import Mapping
from typing import Any

from baton.errors import InvalidRequestError
from baton.types import Schema
from baton.v1 import inference_pb2 as pb

KEYWORDS = ("json_object", "regex", "choice", "grammar", "structural_tag", "no_whitespace")


def structured_output(schema: Schema | None, options: Mapping[str, Any]) -> pb.StructuredOutput | None:
    """
    Args:
        options: Those of KEYWORDS that were given.
    Returns: None where any text will do.
    Raises: InvalidRequestError: more than one form, or a value that no message can hold; others are the server's to
        refuse.
    """
    asked = {name: value for name, value in options.items() if name != "no_whitespace" and value not in (None, False)}
    if schema is not None:
        asked["schema"] = schema
    no_whitespace = bool(options.get("no_whitespace"))
    if not asked:
        if no_whitespace:
            raise InvalidRequestError("no_whitespace goes with schema or json_object; give one", field="no_whitespace")
        return None
    if len(asked) > 1:
        raise InvalidRequestError(f"{' and '.join(asked)} are given; an answer has one form: give one", [*asked][-1])
    ((name, value),) = asked.items()
    try:
        return pb.StructuredOutput(no_whitespace=no_whitespace, **_field(name, value))
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{name} is {_brief(value)}; it must be {_EXPECTED[name]}", field=name) from error


def _field(name: str, value: Any) -> dict[str, Any]:
    """Raises: TypeError, ValueError."""
    if name == "schema":
        return {"json_schema": _schema_text(value)}
    if name == "choice":
        if isinstance(value, str):
            raise TypeError
        return {"choice": pb.Choices(texts=value)}
    if name == "structural_tag" and not isinstance(value, str):
        return {"structural_tag": json.dumps(value)}
    return {name: value}


def _schema_text(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    if isinstance(schema, type) and hasattr(schema, "model_json_schema"):
        return json.dumps(_closed(schema.model_json_schema()))
    if not isinstance(schema, Mapping | bool):
        raise TypeError
    return json.dumps(schema)


def _closed(value: Any) -> Any:
    """A model's schema with no more properties than its fields, where it says nothing of others: it would drop them."""
    if isinstance(value, list):
        return [_closed(item) for item in value]
    if not isinstance(value, dict):
        return value
    closed = {name: _closed(item) for name, item in value.items()}
    if value.get("type") == "object" and isinstance(value.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_EXPECTED = {
    "schema": "a JSON schema: a dict, its JSON text, or a pydantic model",
    "json_object": "True or False",
    "regex": "Unicode text",
    "choice": "a list of texts",
    "grammar": "Unicode text",
    "structural_tag": "a dict of JSON, or its text",
}
