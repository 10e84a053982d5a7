"""What the bodies of HTTP requests ask of an answer's form: OpenAI's field, vLLM's, and vLLM's older ones."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from baton.errors import InvalidRequestError
from cluster.ingress.fields import shorten, shown_name
from cluster.ingress.structured.output import Choice, JsonSchema, Lark, Regex, StructuredOutput
from cluster.ingress.structured.structural_tags import parse_structural_tag

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
_RESPONSE_FORMAT, _STRUCTURED_OUTPUTS = "response_format", "structured_outputs"


def parse_structured(body: Mapping[str, Any]) -> StructuredOutput | None:
    """The form that an answer must have; None: any text.

    Args:
        body: Fields of a request, those of `FIELDS` among them; null is as good as left out.
    Raises: InvalidRequestError: one cannot be understood, or two contradict each other.
    """
    asked: dict[str, StructuredOutput] = {}
    for name, parse in _PARSERS.items():
        value = body.get(name)
        form = parse(value, name) if value is not None else None
        if form is not None:
            asked[name] = form
    if not asked:
        return None
    (first, form), *others = asked.items()
    for name, other in others:
        if other != form:
            raise InvalidRequestError(
                f"{first} and {name} ask for different forms of the same answer; send one of them", field=name
            )
    return form


def parse_response_format(value: Any, named: str = _RESPONSE_FORMAT) -> StructuredOutput | None:
    """OpenAI's `response_format`; None: text. Raises: InvalidRequestError."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "structural_tag":
        return parse_structural_tag(value, named)
    if kind == "json_schema":
        _check_keys(value, ("type", "json_schema"), named)
        return parse_json_schema(value.get("json_schema"), f"{named}.json_schema")
    if kind not in ("text", "json_object"):
        _refuse(
            named, f'is {shorten(value)}; its type must be "text", "json_object", "json_schema" or "structural_tag"'
        )
    if "schema" in value:
        _refuse(f"{named}.schema", f'does not go with type "{kind}"; send type "json_schema" and json_schema.schema')
    _check_keys(value, ("type",), named)
    return JsonSchema(_ANY_OBJECT, named=named) if kind == "json_object" else None


def parse_json_schema(value: Any, named: str) -> JsonSchema:
    """OpenAI's wrapping of a schema. `strict` changes nothing: it is always followed. Raises: InvalidRequestError."""
    if not isinstance(value, Mapping):
        _refuse(named, f'is {shorten(value)}; send an object, for example {{"name": "answer", "schema": {{...}}}}')
    _check_keys(value, ("name", "description", "schema", "strict"), named)
    for key in ("name", "description"):
        if not isinstance(value.get(key) or "", str):
            _refuse(f"{named}.{key}", f"is {shorten(value[key])}; it must be a text")
    if not isinstance(value.get("strict") or False, bool):
        _refuse(f"{named}.strict", f"is {shorten(value['strict'])}; it must be true or false")
    if "schema" not in value:
        _refuse(f"{named}.schema", "is missing; send a JSON schema")
    return JsonSchema(_schema(value["schema"], f"{named}.schema"), named=f"{named}.schema")


def _structured_outputs(value: Any, named: str) -> StructuredOutput | None:
    if not isinstance(value, Mapping):
        _refuse(named, f"is {shorten(value)}; send an object with one of {', '.join(_KINDS)}")
    _check_keys(value, (*_KINDS, *_OPTIONS), named)
    for option, (off, fix) in _OPTIONS.items():
        if value.get(option) not in (None, *off):
            _refuse(f"{named}.{option}", f"is {shorten(value[option])}, which is not supported; {fix}")
    compact = value.get("disable_any_whitespace")
    asked = {kind: value[kind] for kind in _KINDS if value.get(kind) not in (None, False)}
    if len(asked) > 1:
        _refuse(named, f"has {' and '.join(asked)}; send one of them")
    if not asked:
        _refuse(named, f"asks for nothing; send one of {', '.join(_KINDS)}")
    ((kind, one),) = asked.items()
    form = _KINDS[kind](one, f"{named}.{kind}")
    if not compact:
        return form
    if not isinstance(form, JsonSchema):
        _refuse(f"{named}.disable_any_whitespace", f"is true, which is for json alone, not for {kind}; leave it out")
    return JsonSchema(form.schema, whitespace=False, named=form.named)


def parse_schema_text(value: Any, named: str) -> JsonSchema:
    """A schema as an object, or as JSON text. Raises: InvalidRequestError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except RecursionError:
            _refuse(named, "is nested too deeply; nest less")
        except ValueError as error:
            _refuse(named, f"is {shorten(value)}, which is no JSON ({error}); send a JSON schema")
    return JsonSchema(_schema(value, named), named=named)


def parse_regex(value: Any, named: str) -> Regex:
    return Regex(_text(value, named), named=named)


def parse_choice(value: Any, named: str) -> Choice:
    """Raises: InvalidRequestError."""
    if not isinstance(value, list | tuple) or not value or not all(isinstance(text, str) for text in value):
        _refuse(named, f"is {shorten(value)}; it must be a list of texts, not empty")
    return Choice(tuple(dict.fromkeys(value)), named=named)


def parse_grammar(value: Any, named: str) -> Lark:
    return Lark(_text(value, named), named=named)


def _json_object(value: Any, named: str) -> JsonSchema:
    if value is not True:
        _refuse(named, f"is {shorten(value)}; it must be true or false")
    return JsonSchema(_ANY_OBJECT, named=named)


def _schema(value: Any, named: str) -> Mapping[str, Any] | bool:
    if not isinstance(value, Mapping | bool):
        _refuse(named, f"is {shorten(value)}; a JSON schema is an object")
    return value


def _text(value: Any, named: str) -> str:
    if not isinstance(value, str) or not value:
        _refuse(named, f"is {shorten(value)}; it must be a text, not empty")
    return value


def _check_keys(value: Mapping[str, Any], known: tuple[str, ...], named: str) -> None:
    for key in value:
        if key not in known:
            _refuse(f"{named}.{shown_name(key)}", f"is not known here; leave it out (known: {', '.join(known)})")


def _refuse(named: str, reason: str) -> NoReturn:
    raise InvalidRequestError(f"{named} {reason}", field=named.split(".")[0])


_Parse = Callable[[Any, str], StructuredOutput | None]
_KINDS: Mapping[str, _Parse] = {
    "json": parse_schema_text,
    "regex": parse_regex,
    "choice": parse_choice,
    "grammar": parse_grammar,
    "json_object": _json_object,
    "structural_tag": parse_structural_tag,
}
# Of `structured_outputs`: the values that ask for nothing, and the fix.
_OPTIONS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "disable_any_whitespace": ((True, False), "send true or false"),
    "whitespace_pattern": ((), "leave it out, or send disable_any_whitespace: true for JSON without blanks"),
    "disable_additional_properties": ((False,), "say additionalProperties: false in the schema"),
    "disable_fallback": ((True, False), "leave it out: there is nothing to fall back to"),
}
_PARSERS: Mapping[str, _Parse] = {
    _RESPONSE_FORMAT: parse_response_format,
    _STRUCTURED_OUTPUTS: _structured_outputs,
    "guided_json": parse_schema_text,
    "guided_regex": parse_regex,
    "guided_choice": parse_choice,
    "guided_grammar": parse_grammar,
}
FIELDS = tuple(_PARSERS)
