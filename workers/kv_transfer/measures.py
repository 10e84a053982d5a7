"""How much KV goes over a link and how long that takes, for those who watch. Under the lock of whoever owns it.

A transfer begins here with its first range and ends with its ack; what of it comes after the prompt is computed was
not hidden behind computing. Gaps are the device's time where there is one: what a layer waits to be pushed, and what
the receiver has nothing to write while a transfer is under way.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from baton.v1.worker_pb2 import LinkMeasures as Message
from workers.telemetry.bounds import GAP_S, LINK_S
from workers.telemetry.histogram import Histogram

OTHERS = "other"  # in place of a transport: what the other ranks of a gang moved


def _histogram() -> Histogram:
    return Histogram(LINK_S)


def _gaps() -> Histogram:
    return Histogram(GAP_S)


@dataclass(slots=True)
class LinkMeasures:
    """Of one transport, both ways."""

    bytes_sent: int = 0
    bytes_received: int = 0
    ticket_s: Histogram = field(default_factory=_histogram)
    transfer_s: Histogram = field(default_factory=_histogram)
    exposed_s: Histogram = field(default_factory=_histogram)
    wait_s: Histogram = field(default_factory=_gaps)
    idle_s: Histogram = field(default_factory=_gaps)

    def message(self, transport: str) -> Message:
        return Message(
            transport=transport,
            bytes_sent=self.bytes_sent,
            bytes_received=self.bytes_received,
            ticket_s=self.ticket_s.message(),
            transfer_s=self.transfer_s.message(),
            exposed_s=self.exposed_s.message(),
            wait_s=self.wait_s.message(),
            idle_s=self.idle_s.message(),
        )

    def add(self, other: "LinkMeasures") -> None:
        self.bytes_sent += other.bytes_sent
        self.bytes_received += other.bytes_received
        self.ticket_s.add(other.ticket_s)
        self.transfer_s.add(other.transfer_s)
        self.exposed_s.add(other.exposed_s)
        self.wait_s.add(other.wait_s)
        self.idle_s.add(other.idle_s)


ByTransport = dict[str, LinkMeasures]


def messages(measured: Iterable[ByTransport]) -> list[Message]:
    """One for each transport, of all links together."""
    total: ByTransport = {}
    for each in measured:
        for transport, measures in list(each.items()):
            total.setdefault(transport, LinkMeasures()).add(measures)
    return [measures.message(transport) for transport, measures in sorted(total.items())]


@dataclass(slots=True)
class _Times:
    offered_s: float
    pushed_s: float = 0.0  # first; 0: nothing yet
    computed_s: float = 0.0  # 0: not yet


class SendingTimes:
    """Of the transfers of one outbox. Times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self.by_transport: ByTransport = {}
        self._times: dict[Hashable, _Times] = {}

    def offered(self, key: Hashable, now_s: float) -> None:
        self._times[key] = _Times(now_s)

    def ticketed(self, key: Hashable, transport: str, now_s: float) -> None:
        if (times := self._times.get(key)) is not None:
            self._of(transport).ticket_s.observe(now_s - times.offered_s)

    def pushes(self, keys: Iterable[Hashable], now_s: float) -> None:
        for key in keys:
            if (times := self._times.get(key)) is not None and not times.pushed_s:
                times.pushed_s = now_s

    def waited(self, transport: str, seconds: Iterable[float]) -> None:
        """Of layers, each from being computed until its first range was pushed."""
        for each in seconds:
            self._of(transport).wait_s.observe(each)

    def sent(self, transport: str, nbytes: int) -> None:
        self._of(transport).bytes_sent += nbytes

    def computed(self, key: Hashable, now_s: float) -> None:
        """The whole prompt is."""
        if (times := self._times.get(key)) is not None:
            times.computed_s = now_s

    def ended(self, key: Hashable, transport: str, now_s: float, *, is_acked: bool) -> None:
        times = self._times.pop(key, None)
        if times is not None and is_acked and times.pushed_s:
            self._of(transport).transfer_s.observe(now_s - times.pushed_s)
            self._of(transport).exposed_s.observe(now_s - max(times.computed_s, times.pushed_s))

    def _of(self, transport: str) -> LinkMeasures:
        return self.by_transport.setdefault(transport, LinkMeasures())
