"""Remembers for one lease what a worker must refuse: aborted keys, and attempts older than one it has seen."""

from collections.abc import Iterable
from typing import TypeVar

from workers.kv_transfer.link import TransferKey

K = TypeVar("K")


class Tombstones:
    def __init__(self, *, lease_s: float) -> None:
        self._lease_s = lease_s
        self._aborted: dict[TransferKey, float] = {}  # to when; oldest first
        self._newest: dict[tuple[str, int], tuple[int, float]] = {}  # (request, choice) to (attempt, when)

    def __len__(self) -> int:
        return len(self._aborted) + len(self._newest)

    def note_abort(self, key: TransferKey, now_s: float) -> None:
        self._aborted.pop(key, None)
        self._aborted[key] = now_s + self._lease_s

    def note_offer(self, key: TransferKey, now_s: float) -> None:
        name = (key.request_id, key.choice)
        attempt = max(key.attempt, self._newest.pop(name, (0, 0.0))[0])
        self._newest[name] = (attempt, now_s + self._lease_s)

    def why_refused(self, key: TransferKey, now_s: float) -> str | None:
        """None: the key may be offered."""
        self._prune(now_s)
        if key in self._aborted:
            return "aborted before its offer came"
        newest = self._newest.get((key.request_id, key.choice))
        if newest is not None and key.attempt < newest[0]:
            return f"attempt {key.attempt} is older than attempt {newest[0]}"
        return None

    def _prune(self, now_s: float) -> None:
        for key in _until_fresh(self._aborted.items(), now_s):
            del self._aborted[key]
        for name in _until_fresh(((name, seen[1]) for name, seen in self._newest.items()), now_s):
            del self._newest[name]


def _until_fresh(items: Iterable[tuple[K, float]], now_s: float) -> list[K]:
    """Keys of the leading items whose time is over; items are in order of time."""
    old = []
    for key, expires_s in items:
        if expires_s > now_s:
            break
        old.append(key)
    return old
