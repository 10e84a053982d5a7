"""Follows one JSON value through text that arrives in pieces: where it ends, and where it stops being JSON.

It takes what RFC 8259 takes, without a limit on depth, and keeps nothing of the text but the word it is in.
"""

import re
from collections.abc import Callable

_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_WORD = re.compile(r"[-+.0-9A-Za-z]*")
_SCALAR = re.compile(r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_HEX = frozenset("0123456789abcdefABCDEF")


class JsonScanner:
    def __init__(self) -> None:
        self.is_done = False
        self.is_broken = False
        self._open: list[str] = []  # the brackets that will close what is open
        self._next: Callable[[str, int], int] = self._value
        self._word = ""
        self._is_key = False
        self._num_hex = 0

    def feed(self, text: str) -> int:
        """How much of the text belongs to the value: all of it unless it is then done or broken."""
        at = 0
        while at < len(text) and not self.is_done and not self.is_broken:
            at = self._next(text, at)
        return at

    def _broken(self, at: int) -> int:
        self.is_broken = True
        return at

    def _value(self, text: str, at: int, *, may_close: bool = False) -> int:
        at = _end(_SPACE, text, at)
        if at == len(text):
            return at
        character = text[at]
        if character == '"':
            return self._begin_string(at, is_key=False)
        if character in "{[":
            self._open.append("}" if character == "{" else "]")
            self._next = self._first_key if character == "{" else self._first_item
            return at + 1
        if may_close and character == "]":
            return self._close(at)
        self._word, self._next = "", self._in_word
        return at if character in "-0123456789tfn" else self._broken(at)

    def _first_item(self, text: str, at: int) -> int:
        return self._value(text, at, may_close=True)

    def _first_key(self, text: str, at: int) -> int:
        return self._key(text, at, may_close=True)

    def _key(self, text: str, at: int, *, may_close: bool = False) -> int:
        at = _end(_SPACE, text, at)
        if at == len(text):
            return at
        if text[at] == '"':
            return self._begin_string(at, is_key=True)
        return self._close(at) if may_close and text[at] == "}" else self._broken(at)

    def _colon(self, text: str, at: int) -> int:
        at = _end(_SPACE, text, at)
        if at == len(text):
            return at
        self._next = self._value
        return at + 1 if text[at] == ":" else self._broken(at)

    def _after(self, text: str, at: int) -> int:
        at = _end(_SPACE, text, at)
        if at == len(text):
            return at
        if text[at] == ",":
            self._next = self._key if self._open[-1] == "}" else self._value
            return at + 1
        return self._close(at) if text[at] == self._open[-1] else self._broken(at)

    def _close(self, at: int) -> int:
        self._open.pop()
        self._end_value()
        return at + 1

    def _end_value(self) -> None:
        self.is_done = not self._open
        self._next = self._after

    def _begin_string(self, at: int, *, is_key: bool) -> int:
        self._is_key, self._next = is_key, self._in_string
        return at + 1

    def _in_string(self, text: str, at: int) -> int:
        at = _end(_PLAIN, text, at)
        if at == len(text):
            return at
        if text[at] == "\\":
            self._next = self._escape
        elif text[at] != '"':
            return self._broken(at)
        elif self._is_key:
            self._next = self._colon
        else:
            self._end_value()
        return at + 1

    def _escape(self, text: str, at: int) -> int:
        self._num_hex = 4 if text[at] == "u" else 0
        self._next = self._hex if self._num_hex else self._in_string
        return at + 1 if text[at] in '"\\/bfnrtu' else self._broken(at)

    def _hex(self, text: str, at: int) -> int:
        if text[at] not in _HEX:
            return self._broken(at)
        self._num_hex -= 1
        if not self._num_hex:
            self._next = self._in_string
        return at + 1

    def _in_word(self, text: str, at: int) -> int:
        end = _end(_WORD, text, at)
        self._word += text[at:end]
        if end < len(text):
            self._end_value()
            if not _SCALAR.fullmatch(self._word):
                self.is_done = False
                return self._broken(end)
        return end


def _end(pattern: "re.Pattern[str]", text: str, at: int) -> int:
    found = pattern.match(text, at)
    assert found is not None  # each of them matches nothing too
    return found.end()
