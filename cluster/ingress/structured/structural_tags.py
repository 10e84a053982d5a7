"""Structural tags as vLLM's requests write them: free text in which a trigger begins a tag that follows a schema.

Of the newer shape (`format`) what says the same, `triggered_tags` with JSON in them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from baton.errors import InvalidRequestError
from cluster.ingress.fields import shorten, shown_name
from cluster.ingress.structured.output import Tag, Tagged

MAX_TAGS = 512  # and triggers: each tag is held against each trigger
_EXAMPLE = '{"structures": [{"begin": "<f>", "schema": {...}, "end": "</f>"}], "triggers": ["<f"]}'


def parse_structural_tag(value: Any, named: str) -> Tagged:
    """
    Args:
        value: An object, or its JSON as text.
        named: What the request calls it.
    Raises: InvalidRequestError.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            _refuse(named, f"is {shorten(value)}, which is no JSON ({error}); send {_EXAMPLE}")
    if not isinstance(value, Mapping):
        _refuse(named, f"is {shorten(value)}; send {_EXAMPLE}")
    if value.get("type", "structural_tag") != "structural_tag":
        _refuse(f"{named}.type", f'is {shorten(value["type"])}; it must be "structural_tag"')
    if "format" in value:
        _check_keys(value, ("type", "format"), named)
        return _triggered_tags(value["format"], f"{named}.format")
    _check_keys(value, ("type", "structures", "triggers"), named)
    structures = _list(value.get("structures"), f"{named}.structures", "objects")
    tags = tuple(_structure(item, f"{named}.structures[{i}]") for i, item in enumerate(structures))
    return _tagged(tags, value.get("triggers"), named)


def _triggered_tags(value: Any, named: str) -> Tagged:
    kind = value.get("type") if isinstance(value, Mapping) else value
    if kind != "triggered_tags":
        _refuse(named, f'is of type {shorten(kind)}; this server has "triggered_tags" alone')
    _check_keys(value, ("type", "triggers", "tags", "at_least_one", "stop_after_first"), named)
    if value.get("at_least_one"):
        _refuse(f"{named}.at_least_one", "is true, which is not supported; leave it out")
    stop_after_first = value.get("stop_after_first", False)
    if not isinstance(stop_after_first, bool):
        _refuse(f"{named}.stop_after_first", f"is {shorten(stop_after_first)}; it must be true or false")
    items = _list(value.get("tags"), f"{named}.tags", "objects")
    tags = tuple(_tag(item, f"{named}.tags[{i}]") for i, item in enumerate(items))
    return _tagged(tags, value.get("triggers"), named, at_most_one=stop_after_first)


def _tagged(tags: tuple[Tag, ...], triggers: Any, named: str, *, at_most_one: bool = False) -> Tagged:
    texts = tuple(
        _text(text, f"{named}.triggers[{i}]", may_be_empty=False)
        for i, text in enumerate(_list(triggers, f"{named}.triggers", "texts"))
    )
    for tag in tags:
        if not tag.begin.startswith(texts):
            _refuse(named, f"has a tag that begins with {shorten(tag.begin)}; it must begin with one of triggers")
    return Tagged(tags, texts, at_most_one=at_most_one, named=named)


def _structure(value: Any, named: str) -> Tag:
    if not isinstance(value, Mapping):
        _refuse(named, f"is {shorten(value)}; it must be an object of begin, schema and end")
    _check_keys(value, ("begin", "schema", "end"), named)
    return _made(value, value.get("schema", True), f"{named}.schema", named)


def _tag(value: Any, named: str) -> Tag:
    if not isinstance(value, Mapping):
        _refuse(named, f"is {shorten(value)}; it must be an object of begin, content and end")
    _check_keys(value, ("type", "begin", "content", "end"), named)
    content = value.get("content")
    if not isinstance(content, Mapping) or content.get("type") != "json_schema":
        _refuse(f"{named}.content", f'is {shorten(content)}; this server has content of type "json_schema" alone')
    return _made(value, content.get("json_schema", True), f"{named}.content.json_schema", named)


def _made(value: Mapping[str, Any], schema: Any, schema_named: str, named: str) -> Tag:
    if not isinstance(schema, Mapping | bool):
        _refuse(schema_named, f"is {shorten(schema)}; a JSON schema is an object")
    begin = _text(value.get("begin"), f"{named}.begin", may_be_empty=False)
    return Tag(begin, schema, _text(value.get("end", ""), f"{named}.end"))


def _list(value: Any, named: str, of: str) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        _refuse(named, f"is {shorten(value)}; it must be a list of {of}, not empty")
    if len(value) > MAX_TAGS:
        _refuse(named, f"has {len(value)} {of}; send at most {MAX_TAGS}")
    return value


def _text(value: Any, named: str, *, may_be_empty: bool = True) -> str:
    if not isinstance(value, str) or not (value or may_be_empty):
        _refuse(named, f"is {shorten(value)}; it must be a text{'' if may_be_empty else ', not empty'}")
    return value


def _check_keys(value: Mapping[str, Any], known: Sequence[str], named: str) -> None:
    for key in value:
        if key not in known:
            _refuse(f"{named}.{shown_name(key)}", f"is not known here; leave it out (known: {', '.join(known)})")


def _refuse(named: str, reason: str) -> NoReturn:
    raise InvalidRequestError(f"{named} {reason}", field=named.split(".")[0])
