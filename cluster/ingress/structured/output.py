"""A form that an answer must have, as a request asks for it.

`named` is what the request calls it, for errors; it is no part of the form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """JSON that a schema allows. `schema` {}: any; `{"type": "object"}`: any object.

    Attributes:
        whitespace: Between its tokens there may be some; else there is none.
    """

    schema: Mapping[str, Any] | bool
    whitespace: bool = True
    named: str = field(default="response_format", compare=False)


@dataclass(frozen=True, slots=True)
class Regex:
    """Text that the whole expression matches."""

    pattern: str
    named: str = field(default="regex", compare=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these texts."""

    texts: tuple[str, ...]
    named: str = field(default="choice", compare=False)


@dataclass(frozen=True, slots=True)
class Lark:
    """Text of a context-free grammar, in llguidance's variant of Lark, or in GBNF."""

    grammar: str
    named: str = field(default="grammar", compare=False)


@dataclass(frozen=True, slots=True)
class Tag:
    """A part of an answer: `begin`, then JSON of the schema, then `end`."""

    begin: str
    schema: Mapping[str, Any] | bool
    end: str


@dataclass(frozen=True, slots=True)
class Tagged:
    """Free text with tags in it.

    Attributes:
        triggers: Wherever the text has one of them, a tag that begins with it must follow; each tag begins with one.
        required: The answer is tags alone, at least one; else there may be none, and free text around them.
        at_most_one: The answer ends with the first tag.
        instead: Where tags are required, what the answer may be without them.
    """

    tags: tuple[Tag, ...]
    triggers: tuple[str, ...]
    required: bool = False
    at_most_one: bool = False
    instead: Tag | None = None
    named: str = field(default="tools", compare=False)


StructuredOutput = JsonSchema | Regex | Choice | Lark | Tagged
