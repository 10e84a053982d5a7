"""What the ingress replicas told of their requests, on the controller's clock. Demand is what arrives: requests that
wait, or were shed, count as those that were answered do.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile

from cluster.contracts.demand import DemandReport, OpenRequest
from cluster.contracts.finished import FinishedRequest
from cluster.planner.online.observation import SeenRequest

MAX_KEPT = 20_000  # requests; of a load with more of them the window is shorter
SILENCE_S = 6.0  # after which a replica, and what is open there, is forgotten
MAX_CHOICES = 16  # of one request that count apart


@dataclass(slots=True)
class _Replica:
    told_s: float
    open: list[SeenRequest]


class Demand:
    def __init__(self, now_s: float) -> None:
        self._since_s = now_s  # all that ended later is here
        self._ended: deque[SeenRequest] = deque()
        self._replicas: dict[str, _Replica] = {}

    @property
    def num_replicas(self) -> int:
        """At least 1."""
        return max(len(self._replicas), 1)

    def take(self, report: DemandReport, now_s: float) -> None:
        """The report has just come."""
        shift_s = now_s - report.now_s
        if not report.is_whole:
            self._since_s = now_s
        for finished in report.finished:
            self._ended.extend(_ended(finished, shift_s))
        while len(self._ended) > MAX_KEPT:
            self._since_s = max(self._since_s, self._ended.popleft().ended_s or 0.0)
        self._replicas[report.ingress_id] = _Replica(now_s, [_open(one, shift_s) for one in report.open])

    def requests(self, now_s: float, window_s: float) -> tuple[list[SeenRequest], float]:
        """Those that ended within the window or are open, and from when on arrivals are all there."""
        begin_s = now_s - window_s
        self._ended = deque(dropwhile(lambda one: (one.ended_s or 0.0) < begin_s, self._ended))
        self._replicas = {name: one for name, one in self._replicas.items() if now_s - one.told_s < SILENCE_S}
        opened = [one for replica in self._replicas.values() for one in replica.open]
        return [*self._ended, *opened], self._since_s

    def forget(self, now_s: float) -> None:
        self._ended.clear()
        self._since_s = now_s


def _ended(one: FinishedRequest, shift_s: float) -> Iterator[SeenRequest]:
    """One for each choice, which share what the first has read."""
    for choice in range(min(max(one.num_choices, 1), MAX_CHOICES)):
        yield SeenRequest(
            arrived_s=one.arrived_s + shift_s,
            num_prompt_tokens=one.num_prompt_tokens,
            num_cached_tokens=one.num_prompt_tokens if choice else one.num_cached_tokens,
            num_output_tokens=one.num_output_tokens // max(one.num_choices, 1),
            ended_s=one.ended_s + shift_s,
            ttft_s=one.ttft_s,
            tpot_s=one.tpot_s,
            status=one.status,
        )


def _open(one: OpenRequest, shift_s: float) -> SeenRequest:
    return SeenRequest(
        arrived_s=one.arrived_s + shift_s,
        num_prompt_tokens=one.num_prompt_tokens,
        num_cached_tokens=one.num_cached_tokens,
        num_output_tokens=one.num_output_tokens,
        ttft_s=one.ttft_s,
    )
