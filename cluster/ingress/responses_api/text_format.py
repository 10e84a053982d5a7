"""`text` of /v1/responses: the form that an answer's text must have."""

from typing import Any

from cluster.ingress.fields import shorten
from cluster.ingress.reading import flag, mapping, member, only, refusal, text
from cluster.ingress.structured.output import JsonSchema

_SCHEMA_FIELDS = frozenset({"description", "name", "schema", "strict", "type"})


def parse_text(value: Any) -> JsonSchema | None:
    """None: any text. Raises: InvalidRequestError."""
    config = mapping(value, "text")
    if config.get("verbosity") not in (None, "medium"):
        raise refusal(
            "text",
            f"text.verbosity is {shorten(config['verbosity'])}; this server asks no model for one: say it in words",
        )
    only(config, ("format", "verbosity"), "text")
    if config.get("format") is None:
        return None
    form = mapping(config["format"], "text.format")
    kind = form.get("type")
    if kind == "json_schema":
        return _schema(form)
    only(form, ("type",), "text.format")
    if kind not in ("json_object", "text"):
        raise refusal("text", f"text.format.type is {shorten(kind)}; it must be one of json_object, json_schema, text")
    return JsonSchema({"type": "object"}, named="text.format") if kind == "json_object" else None


def _schema(form: dict[str, Any]) -> JsonSchema:
    """Strict or not: an answer follows it always."""
    only(form, _SCHEMA_FIELDS, "text.format")
    text(member(form, "name", "text.format"), "text.format.name")
    if form.get("strict") is not None:
        flag(form["strict"], "text.format.strict")
    schema = mapping(member(form, "schema", "text.format"), "text.format.schema")
    return JsonSchema(schema, named="text.format.schema")
