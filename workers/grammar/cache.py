"""Compiled grammars by their text: those used last stay, and a text that is being compiled is compiled once."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CompiledCache(Generic[T]):
    """For any thread.

    Args:
        most: Grammars kept.
        most_characters: Of their texts together; the last one stays whatever its size.
    """

    def __init__(self, most: int, most_characters: int) -> None:
        self._most, self._most_characters = most, most_characters
        self._compiled: OrderedDict[str, T] = OrderedDict()
        self._num_characters = 0
        self._waiting: dict[str, list[Callable[[T | Exception], None]]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._compiled)

    def get(self, text: str) -> T | None:
        with self._lock:
            if text in self._compiled:
                self._compiled.move_to_end(text)
            return self._compiled.get(text)

    def wait(self, text: str, done: Callable[[T | Exception], None]) -> bool:
        """Has `done` called with what becomes of it; whether the caller is the first, and must see to it."""
        with self._lock:
            waiting = self._waiting.setdefault(text, [])
            waiting.append(done)
            return len(waiting) == 1

    def settle(self, text: str, found: T | Exception) -> None:
        """What became of it; errors are not kept."""
        with self._lock:
            if not isinstance(found, Exception):
                self._put(text, found)
            waiting = self._waiting.pop(text, [])
        for done in waiting:
            done(found)

    def _put(self, text: str, compiled: T) -> None:
        if text not in self._compiled:
            self._num_characters += len(text)
        self._compiled[text] = compiled
        self._compiled.move_to_end(text)
        while len(self._compiled) > 1 and (
            len(self._compiled) > self._most or self._num_characters > self._most_characters
        ):
            oldest, _ = self._compiled.popitem(last=False)
            self._num_characters -= len(oldest)
