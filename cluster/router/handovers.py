"""How many requests go from which prefill to which decode worker, counted as they are sent out.

Taken by whoever shows it (`cluster.ingress.cluster_api.view`), every few seconds.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

MAX_PAIRS = 4096  # of one look; what is beyond is counted to no pair


class Pair(NamedTuple):
    prefill: str
    decode: str


class Handed(NamedTuple):
    num_requests: int
    num_prompt_tokens: int


class Handovers:
    def __init__(self) -> None:
        self._by_pair: dict[Pair, Handed] = {}

    def add(self, prefill: str, decode: str, num_prompt_tokens: int) -> None:
        """Under 1 us."""
        pair = Pair(prefill, decode)
        old = self._by_pair.get(pair)
        if old is not None:
            self._by_pair[pair] = Handed(old.num_requests + 1, old.num_prompt_tokens + num_prompt_tokens)
        elif len(self._by_pair) < MAX_PAIRS:
            self._by_pair[pair] = Handed(1, num_prompt_tokens)

    def take(self) -> Mapping[Pair, Handed]:
        """Since the last time."""
        taken, self._by_pair = self._by_pair, {}
        return taken


def joined(parts: Iterable[Mapping[Pair, Handed]]) -> dict[Pair, Handed]:
    whole: dict[Pair, Handed] = {}
    for part in parts:
        for pair, one in part.items():
            old = whole.get(pair, Handed(0, 0))
            whole[pair] = Handed(old.num_requests + one.num_requests, old.num_prompt_tokens + one.num_prompt_tokens)
    return whole
