"""The calls that a replica has had lately, and those that it is answering.

Invariant: of those that have ended at most `keep`, the newest; those that are open are bounded by admission.
"""

from collections import deque
from collections.abc import Callable, Iterator

from cluster.ingress.tracing.record import CallRecord

PREFIXES = ("chatcmpl-", "cmpl-", "resp_", "msg_")  # that the APIs put before an answer's id


class Ring:
    def __init__(self, keep: int = 1024) -> None:
        self.keep = keep
        self.on_ended: list[Callable[[CallRecord], None]] = []  # each is told of every call that ended
        self._open: dict[str, CallRecord] = {}
        self._ended: deque[CallRecord] = deque()
        self._by_id: dict[str, CallRecord] = {}
        self._by_header: dict[tuple[str | None, str], CallRecord] = {}  # the newest of each key's X-Request-Id

    def begin(self, record: CallRecord) -> None:
        self._open[record.request_id] = record
        self._by_id[record.request_id] = record
        if record.x_request_id:
            self._by_header[record.key_name, record.x_request_id] = record

    def end(self, record: CallRecord) -> None:
        """Its end is noted in it."""
        self._open.pop(record.request_id, None)
        self._ended.append(record)
        while len(self._ended) > self.keep:
            self._forget(self._ended.popleft())
        for tell in self.on_ended:
            tell(record)

    def find(self, name: str, key_name: str | None = None) -> CallRecord | None:
        """By an answer's id, with the prefix of its API or without, or by `X-Request-Id`.

        Args:
            key_name: Whose call it is: clients choose `X-Request-Id`, and two may be equal; None: there are no keys.
        """
        return self._by_id.get(bare(name)) or self._by_header.get((key_name, name))

    def __iter__(self) -> Iterator[CallRecord]:
        """The newest first, those that are open before those that have ended."""
        yield from reversed(self._open.values())
        yield from reversed(self._ended)

    def __len__(self) -> int:
        return len(self._open) + len(self._ended)

    def _forget(self, record: CallRecord) -> None:
        self._by_id.pop(record.request_id, None)
        name = (record.key_name, record.x_request_id)
        if self._by_header.get(name) is record:
            del self._by_header[name]


def bare(name: str) -> str:
    """An answer's id as workers know it."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name
