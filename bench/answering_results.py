"""What `bench.speculation_questions` found: tokens a second by side, way and round, beside each side's own none."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NONE = "none"


@dataclass(slots=True)
class Tally:
    """Of one side's way on one category."""

    seconds: dict[int, float] = field(default_factory=lambda: defaultdict(float))  # by round
    num_tokens: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    written: list[Any] = field(default_factory=list)  # each time, in order
    why_not: str = ""

    def add(self, number: int, answer: Mapping[str, Any]) -> None:
        """An answer of round `number`, as `bench.answering` gives it."""
        self.seconds[number] += answer["seconds"]
        self.num_tokens[number] += answer["num_timed"]
        self.written.append(answer["token_ids"])

    @property
    def rate(self) -> float | None:
        """Tokens a second, the median of the rounds; None: nothing was timed."""
        rates = [count / self.seconds[number] for number, count in self.num_tokens.items() if count]
        return None if self.why_not or not rates else statistics.median(rates)


Tallies = dict[tuple[str, str], Tally]  # by side and way


def lines(title: str, tallies: Tallies) -> list[str]:
    sides = dict.fromkeys(side for side, _ in tallies)
    return [f"{title:15} {side:18} {_ways(side, tallies)}" for side in sides]


def _ways(side: str, tallies: Tallies) -> str:
    mine = {way: tally for (name, way), tally in tallies.items() if name == side}
    plain = mine.get(NONE)
    return " | ".join(_cell(way, tally, plain) for way, tally in mine.items())


def _cell(way: str, tally: Tally, plain: Tally | None) -> str:
    if tally.rate is None:
        return f"{way} -"
    words = f"{way} {tally.rate:.1f}"
    if plain is None or way == NONE or not plain.rate:
        return words
    num_other = sum(one != other for one, other in zip(tally.written, plain.written, strict=False))
    note = f", {num_other} of {len(tally.written)} in other words" if num_other else ""
    return f"{words} ({tally.rate / plain.rate:.2f} x{note})"


def joined(several: Sequence[Tallies]) -> Tallies:
    """All categories as one: their tokens by their seconds."""
    whole: Tallies = {}
    for tallies in several:
        for key, tally in tallies.items():
            total = whole.setdefault(key, Tally())
            total.why_not = total.why_not or tally.why_not
            total.written += tally.written
            for number, seconds in tally.seconds.items():
                total.seconds[number] += seconds
                total.num_tokens[number] += tally.num_tokens[number]
    return whole


def figures(tallies: Tallies) -> dict[str, dict[str, float | None]]:
    """Tokens a second by side and way."""
    found: dict[str, dict[str, float | None]] = defaultdict(dict)
    for (side, way), tally in tallies.items():
        found[side][way] = tally.rate
    return dict(found)
