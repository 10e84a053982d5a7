"""What keys have used of their limits, whichever ingress replica they used it at.

`Ledger` is asked for shares of a key's limits and never gives out more than they are. One replica has it in its own
process; several ask the controller's. No clock here: `now_s` is an argument, in seconds, never going back.
"""

import math
from collections import deque
from dataclasses import dataclass

from cluster.config.api_key import KeyLimits

WINDOW_S = 60
SILENCE_S = 10.0  # a replica not heard of for so long has no requests any more
SLOT_RETRY_S = 1.0  # nobody knows when a running request ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Of one replica for one key. Numbers of slots are of all it has, so that to ask twice changes nothing.

    Attributes:
        slots: Requests that it wants to be able to run at once, those that run included.
        min_slots: With fewer it can do nothing.
        requests: New ones, on top of what it was given before; at least one where any; below 0: given back.
        tokens: The same.
        owed_tokens: Used beyond what it was given.
    """

    replica: str
    name: str
    limits: KeyLimits
    slots: int = 0
    min_slots: int = 0
    requests: int = 0
    tokens: int = 0
    owed_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What was asked for as far as there is; or nothing new, and why.

    Attributes:
        slots: Held now in all.
        requests: New ones, as the next.
        lacks: The limit that is used up; empty: granted.
        retry_after_s: Until there is room, if nobody else takes it.
    """

    slots: int
    requests: int = 0
    tokens: int = 0
    lacks: str = ""
    retry_after_s: float = 0.0


class Window:
    """A count over the last WINDOW_S seconds, in steps of a second: exact, and never more than 61 numbers."""

    def __init__(self) -> None:
        self.total = 0
        self._bins: deque[list[int]] = deque()  # [second, count], oldest first

    def add(self, count: int, now_s: float) -> None:
        self._forget(now_s)
        second = math.floor(now_s)
        if not self._bins or self._bins[-1][0] != second:
            self._bins.append([second, 0])
        self._bins[-1][1] += count
        self.total += count

    def give_back(self, count: int) -> None:
        """Of what was counted last: it was not used."""
        for entry in reversed(self._bins):
            back = min(count, entry[1])
            entry[1] -= back
            self.total -= back
            count -= back

    def room(self, limit: int, now_s: float) -> int:
        self._forget(now_s)
        return max(0, limit - self.total)

    def wait_s(self, limit: int, now_s: float) -> float:
        """Until there is room for one more."""
        self._forget(now_s)
        over = self.total + 1 - limit
        for second, count in self._bins:
            if over <= 0:
                break
            over -= count
            end_s = second + WINDOW_S + 1 - now_s
        return end_s if self.total >= limit else 0.0

    def _forget(self, now_s: float) -> None:
        while self._bins and self._bins[0][0] + WINDOW_S < math.floor(now_s):
            self.total -= self._bins.popleft()[1]


class _Book:
    """Of one key."""

    def __init__(self) -> None:
        self.requests = Window()
        self.tokens = Window()
        self._slots: dict[str, tuple[int, float]] = {}  # replica -> held, and when it last asked

    def settle(self, ask: Ask, now_s: float) -> None:
        """What needs no room: used already, or given back."""
        if ask.owed_tokens:
            self.tokens.add(ask.owed_tokens, now_s)
        self.tokens.give_back(max(0, -ask.tokens))
        self.requests.give_back(max(0, -ask.requests))
        self.hold(ask.replica, min(self.held(ask.replica), ask.slots), now_s)

    def held(self, replica: str) -> int:
        return self._slots.get(replica, (0, 0.0))[0]

    def hold(self, replica: str, num_slots: int, now_s: float) -> None:
        self._slots[replica] = (num_slots, now_s)

    def free_slots(self, limit: int, replica: str, now_s: float) -> int:
        """Of those that no other replica holds."""
        self._slots = {name: held for name, held in self._slots.items() if now_s - held[1] < SILENCE_S}
        return limit - sum(held for name, (held, _) in self._slots.items() if name != replica)


class Ledger:
    """Of the keys that were asked for in this process's life: a new one knows nothing of the minute before."""

    def __init__(self) -> None:
        self._books: dict[str, _Book] = {}

    def draw(self, ask: Ask, now_s: float) -> Grant:
        book = self._books.setdefault(ask.name, _Book())
        book.settle(ask, now_s)
        limits, slots, requests, tokens = ask.limits, ask.slots, max(0, ask.requests), max(0, ask.tokens)
        if limits.max_concurrent is not None:
            slots = min(slots, book.free_slots(limits.max_concurrent, ask.replica, now_s))
            if slots < ask.min_slots:
                return _refused(book, ask, "max_concurrent", SLOT_RETRY_S)
        if limits.requests_per_minute is not None and requests:
            requests = min(requests, book.requests.room(limits.requests_per_minute, now_s))
            if not requests:
                wait_s = book.requests.wait_s(limits.requests_per_minute, now_s)
                return _refused(book, ask, "requests_per_minute", wait_s)
        if limits.tokens_per_minute is not None and tokens:
            tokens = min(tokens, book.tokens.room(limits.tokens_per_minute, now_s))
            if not tokens:
                return _refused(book, ask, "tokens_per_minute", book.tokens.wait_s(limits.tokens_per_minute, now_s))
        book.hold(ask.replica, max(0, slots), now_s)
        book.requests.add(requests, now_s)
        book.tokens.add(tokens, now_s)
        return Grant(slots=max(0, slots), requests=requests, tokens=tokens)


def _refused(book: _Book, ask: Ask, lacks: str, retry_after_s: float) -> Grant:
    return Grant(slots=book.held(ask.replica), lacks=lacks, retry_after_s=retry_after_s)
