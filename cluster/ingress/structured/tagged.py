"""Rules of Lark for free text with tags in it.

A trigger that begins with a special token is that token or, where the model spells it with others, its text. Of the
special tokens free text may have those alone that it is told of, and none that would begin a tag.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.ingress.structured.json_rule import json_rule
from cluster.ingress.structured.output import Tag, Tagged
from cluster.ingress.structured.vocabulary import Vocabulary, quoted, token

_TEXT = "TEXT: /(.|\\n)*/"


def tagged_rules(tagged: Tagged, vocabulary: Vocabulary) -> list[str]:
    """Rules that say what `answer` is."""
    if tagged.required:
        return _required(tagged, vocabulary)
    triggers = _triggers(tagged, vocabulary)
    free = vocabulary.free
    bodies = [_body(trigger, tagged, vocabulary) for trigger in triggers]
    heads = [f"head_{one.number}[lazy]: TEXT {quoted(one.text)}" for one in triggers]
    flow = _one(triggers, free) if tagged.at_most_one else _many(triggers, free)
    return [*flow, *heads, *bodies, *_segments(triggers), _TEXT]


@dataclass(frozen=True, slots=True)
class _Trigger:
    """
    Attributes:
        first: The special token that it begins with; `rest` is the text behind it, `opening` both as an expression.
    """

    number: int
    text: str
    first: int | None
    rest: str
    opening: str


def _required(tagged: Tagged, vocabulary: Vocabulary) -> list[str]:
    tags = _any_of(f"{vocabulary.literal(tag.begin)} {_behind(tag, vocabulary)}" for tag in tagged.tags)
    answer = f"answer: tag{'' if tagged.at_most_one else f' ({quoted(chr(10))}? tag)*'}"
    if tagged.instead is not None:
        answer += f" | {vocabulary.literal(tagged.instead.begin)} {_behind(tagged.instead, vocabulary)}"
    return [answer, f"tag: {tags}"]


def _many(triggers: Sequence[_Trigger], free: Sequence[int]) -> list[str]:
    written = _any_of(f"head_{one.number} body_{one.number}" for one in triggers)
    steps = [*(f"{call} text" for call in _calls(triggers)), *_free_steps(triggers, free, "text")]
    return [f"answer: text{_repeated(steps)}", f"text: ({written})* TEXT", *_steps(steps)]


def _one(triggers: Sequence[_Trigger], free: Sequence[int]) -> list[str]:
    steps = _free_steps(triggers, free, "TEXT")
    calls = _calls(triggers)
    last = f" ({_any_of(calls)})?" if calls else ""
    leads = [f"TEXT {token(one)}" for one in free if one not in {trigger.first for trigger in triggers}]
    lead = f"({_any_of(leads)})* " if leads else ""
    written = _any_of(f"head_{one.number} body_{one.number}" for one in triggers)
    return [f"answer: TEXT{_repeated(steps)}{last} | {lead}({written})", *_steps(steps)]


def _calls(triggers: Sequence[_Trigger]) -> list[str]:
    return [f"{one.opening} body_{one.number}" for one in triggers if one.first is not None]


def _free_steps(triggers: Sequence[_Trigger], free: Sequence[int], text: str) -> list[str]:
    """A special token and what may follow it: `text`, but no rest of a trigger that begins with it."""
    begun = {one.first for one in triggers}
    alone = {one.first for one in triggers if not one.rest}
    return [f"{token(one)} {f'SEGMENT_{one}' if one in begun else text}" for one in free if one not in alone]


def _segments(triggers: Sequence[_Trigger]) -> list[str]:
    rests: dict[int, list[str]] = {}
    for one in triggers:
        if one.first is not None and one.rest:
            rests.setdefault(one.first, []).append(f"~/{_escaped(one.rest)}(?s:.*)/")
    return [f"SEGMENT_{first}: {' & '.join(['/(?s:.*)/', *others])}" for first, others in rests.items()]


def _steps(steps: Sequence[str]) -> list[str]:
    return [f"step: {_any_of(steps)}"] if steps else []


def _repeated(steps: Sequence[str]) -> str:
    return " step*" if steps else ""


def _triggers(tagged: Tagged, vocabulary: Vocabulary) -> list[_Trigger]:
    """Those with which tags begin."""
    found = []
    for number, text in enumerate(dict.fromkeys(_trigger_of(tag, tagged) for tag in tagged.tags)):
        first = next(vocabulary.pieces(text))
        special = next((special for special, one in vocabulary.specials.items() if one == first), "")
        found.append(
            _Trigger(
                number, text, first if isinstance(first, int) else None, text[len(special) :], vocabulary.literal(text)
            )
        )
    return found


def _trigger_of(tag: Tag, tagged: Tagged) -> str:
    return max((one for one in tagged.triggers if tag.begin.startswith(one)), key=len)


def _body(trigger: _Trigger, tagged: Tagged, vocabulary: Vocabulary) -> str:
    """What follows a trigger, of all tags that begin with it."""
    tags = [tag for tag in tagged.tags if _trigger_of(tag, tagged) == trigger.text]
    bodies = (f"{vocabulary.literal(tag.begin[len(trigger.text) :])} {_behind(tag, vocabulary)}" for tag in tags)
    return f"body_{trigger.number}: {_any_of(bodies)}"


def _behind(tag: Tag, vocabulary: Vocabulary) -> str:
    return f"{json_rule(tag.schema)} {vocabulary.literal(tag.end)}"


def _any_of(alternatives: Iterable[str]) -> str:
    return " | ".join(alternatives)


def _escaped(text: str) -> str:
    """For a regular expression between slashes."""
    return re.escape(text).replace("/", "\\/").replace("\n", "\\n")
