"""What is asked of a compiling process, as JSON: a form, and how it stands in the answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.ingress.structured.output import Choice, JsonSchema, Lark, Regex, StructuredOutput, Tag, Tagged
from cluster.ingress.structured.vocabulary import NO_SPECIALS, Vocabulary
from cluster.ingress.weight import is_light


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Attributes: reasoning_ends, reasoning_begins: as of `grammar_text`."""

    structured: StructuredOutput
    reasoning_ends: str | None = None
    reasoning_begins: str | None = None
    vocabulary: Vocabulary = NO_SPECIALS

    def exceeds(self, num_bytes: int) -> bool:
        """Whether it surely has more as JSON, found out without writing all of it."""
        return not is_light(_plain(self.structured), max_values=num_bytes, max_characters=num_bytes)

    def dump(self) -> str:
        """Raises: RecursionError: JSON that is nested too deeply to be written."""
        return json.dumps(
            {
                "form": _plain(self.structured),
                "reasoning": [self.reasoning_ends, self.reasoning_begins],
                "specials": dict(self.vocabulary.specials),
                "ends": sorted(self.vocabulary.ends),
            }
        )


def load(text: str) -> Job:
    plain = json.loads(text)
    ends, begins = plain["reasoning"]
    vocabulary = Vocabulary(specials=plain["specials"], ends=frozenset(plain["ends"]))
    return Job(structured=_form(*plain["form"]), reasoning_ends=ends, reasoning_begins=begins, vocabulary=vocabulary)


def _plain(form: StructuredOutput) -> list[Any]:
    if isinstance(form, JsonSchema):
        return ["json", form.schema, form.whitespace]
    if isinstance(form, Regex):
        return ["regex", form.pattern]
    if isinstance(form, Choice):
        return ["choice", form.texts]
    if isinstance(form, Lark):
        return ["lark", form.grammar]
    instead = None if form.instead is None else _plain_tag(form.instead)
    tags = [_plain_tag(tag) for tag in form.tags]
    return ["tagged", tags, form.triggers, form.required, form.at_most_one, instead]


def _plain_tag(tag: Tag) -> list[Any]:
    return [tag.begin, tag.schema, tag.end]


def _form(kind: str, *values: Any) -> StructuredOutput:
    if kind == "choice":
        return Choice(tuple(values[0]))
    if kind == "tagged":
        tags, triggers, required, at_most_one, instead = values
        content = None if instead is None else Tag(*instead)
        return Tagged(tuple(Tag(*tag) for tag in tags), tuple(triggers), required, at_most_one, content)
    makers: Mapping[str, Any] = {"json": JsonSchema, "regex": Regex, "lark": Lark}
    form: StructuredOutput = makers[kind](*values)
    return form
