"""Finds rules of a grammar in Lark that never end: each text of theirs would have to hold another of the same rule.

The grammar library compiles them, and an answer would go on until it is cut off. Syntax that is not known here makes
the whole grammar count as one that ends.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|\#[^\n]*)
    |(?P<text>"(?:\\.|[^"\\])*"i?|/(?:\\.|[^/\\\n])+/[a-z]*|<[^>\s]*>|@[\w-]+)
    |(?P<json>%(?:json|regex|lark)\s*(?=\{))
    |(?P<directive>%(?:ignore|import|llguidance)[^\n]*)
    |(?P<name>[?!]?[A-Za-z_][\w-]*)
    |(?P<times>~\s*\d+(?:\s*\.\.\s*\d+)?|\{\s*\d*\s*,?\s*\d*\s*\})
    |(?P<range>\.\.)
    |(?P<sign>[()\[\]|*+?:=,.&~]|->)
    |(?P<number>-?\d+(?:\.\d+)?)""",
    re.VERBOSE,
)


class _Unknown(Exception):
    """Syntax that is not understood here."""


def endless_rule(lark: str) -> str | None:
    """The first rule on the way from `start` that never ends; None: there is none, as far as is known."""
    try:
        rules = _Reader(_tokens(lark)).rules()
    except (_Unknown, RecursionError):
        return None
    finite: set[str] = set()
    while new := {name for name, body in rules.items() if name not in finite and body.ends(finite, rules)}:
        finite |= new
    return next((name for name in _reached(rules) if name not in finite), None)


def special_tokens(lark: str) -> list[str]:
    """Those that it names, or whose ids it does."""
    try:
        return [text for _, text in _tokens(lark) if text.startswith("<")]
    except _Unknown:
        return []


def _reached(rules: "Mapping[str, _Body]") -> list[str]:
    found = [name for name in ("start",) if name in rules]
    for name in found:
        found.extend(other for other in rules[name].names() if other in rules and other not in found)
    return list(dict.fromkeys(found))


@dataclass(slots=True)
class _Body:
    """Alternatives, each of which is what must be there: names of rules, or bodies in brackets. And what may be."""

    alternatives: list[list["str | _Body"]] = field(default_factory=list)
    optional: list["str | _Body"] = field(default_factory=list)

    def ends(self, finite: set[str], rules: Mapping[str, "_Body"]) -> bool:
        return any(all(_ends(part, finite, rules) for part in parts) for parts in self.alternatives)

    def names(self) -> Iterator[str]:
        for part in (part for parts in (*self.alternatives, self.optional) for part in parts):
            if isinstance(part, _Body):
                yield from part.names()
            else:
                yield part


def _ends(part: "str | _Body", finite: set[str], rules: Mapping[str, _Body]) -> bool:
    if isinstance(part, _Body):
        return part.ends(finite, rules)
    return part in finite or part not in rules


def _tokens(lark: str) -> list[tuple[str, str]]:
    found = []
    place = 0
    while place < len(lark):
        match = _TOKEN.match(lark, place)
        if match is None:
            raise _Unknown
        place = match.end()
        kind = str(match.lastgroup)
        if kind == "json":
            place = _end_of_json(lark, place)
            found.append(("text", ""))
        elif kind not in ("skip", "directive"):
            found.append((kind, match[0]))
    return found


def _end_of_json(lark: str, place: int) -> int:
    if lark[:place].rstrip().endswith("lark"):
        raise _Unknown
    try:
        return json.JSONDecoder().raw_decode(lark, place)[1]
    except ValueError as error:
        raise _Unknown from error


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0

    def rules(self) -> dict[str, _Body]:
        found: dict[str, _Body] = {}
        while self._at < len(self._tokens):
            name = self._head()
            found[name] = self._body()
        return found

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        place = self._at + ahead
        return self._tokens[place] if place < len(self._tokens) else ("end", "")

    def _take(self, text: str) -> bool:
        if self._peek()[1] != text:
            return False
        self._at += 1
        return True

    def _head(self) -> str:
        """`name:`, `name[options]:` or `NAME.1:`."""
        kind, name = self._peek()
        if kind != "name":
            raise _Unknown
        self._at += 1
        if self._take("["):
            while not self._take("]"):
                if self._peek()[0] == "end":
                    raise _Unknown
                self._at += 1
        if not self._take(":"):
            raise _Unknown
        return name.lstrip("?!")

    def _begins_rule(self) -> bool:
        if self._peek()[0] != "name":
            return False
        if self._peek(1)[1] == "[":  # options: of a rule, where `]:` ends them
            ahead = 2
            while self._peek(ahead)[1] not in ("]", ":", "|") and self._peek(ahead)[0] != "end":
                ahead += 1
            return self._peek(ahead)[1] == "]" and self._peek(ahead + 1)[1] == ":"
        return self._peek(1)[1] == ":"

    def _body(self) -> _Body:
        body = _Body([[]])
        while self._peek()[0] != "end" and self._peek()[1] not in (")", "]") and not self._begins_rule():
            if self._take("|"):
                body.alternatives.append([])
            else:
                part, is_optional = self._item()
                (body.optional if is_optional else body.alternatives[-1]).extend(part)
        return body

    def _item(self) -> "tuple[list[str | _Body], bool]":
        """What one expression needs; whether it may be missing."""
        kind, text = self._peek()
        self._at += 1
        part: list[str | _Body] = []
        if text in ("(", "["):
            part = [self._body()]
            if not self._take(")" if text == "(" else "]"):
                raise _Unknown
        elif kind == "name":
            part = [text.lstrip("?!")]
        elif text == "->":
            self._at += 1  # an alias
        elif kind not in ("text", "range") and text not in ("&", "~"):
            raise _Unknown
        may_be_missing = self._may_be_missing()
        return part, may_be_missing or text == "["

    def _may_be_missing(self) -> bool:
        kind, text = self._peek()
        if text in ("*", "?", "+") or kind == "times":
            self._at += 1
        return text in ("*", "?") or (kind == "times" and not re.search(r"[1-9]", text.split(",")[0].split("..")[0]))
