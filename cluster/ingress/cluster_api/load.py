"""What all workers do together, from one look to the next: sums of what they hold, rates of what they count."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from baton.v1.worker_pb2 import WorkerState
from cluster.router.workers import WorkerKey, WorkerView
from workers.spec import SERVING_ROLES

_Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Rates are per s, of the time since the look before; blocks are those of workers that take requests."""

    num_running: int = 0
    num_waiting: int = 0
    num_transfers: int = 0
    num_blocks: int = 0
    num_used_blocks: int = 0
    prompt_tokens_per_s: float = 0.0
    cached_tokens_per_s: float = 0.0
    output_tokens_per_s: float = 0.0
    kv_bytes_per_s: float = 0.0
    drafted_per_s: float = 0.0
    accepted_per_s: float = 0.0
    preemptions_per_s: float = 0.0


LOAD_FIELDS = tuple(one.name for one in fields(Load))
_RATES = LOAD_FIELDS[5:]


def _counts(state: WorkerState) -> _Counts:
    """In the order of the rates."""
    return (
        state.num_prompt_tokens,
        state.num_prefix_hit_tokens,
        state.num_output_tokens,
        state.kv_bytes_sent,
        sum(state.drafted_by_place),
        sum(state.accepted_by_place),
        state.num_preemptions,
    )


class LoadMeter:
    """Of workers that are new since the last look, what they have counted before is left out."""

    def __init__(self) -> None:
        self._last: dict[WorkerKey, _Counts] = {}
        self._last_s: float | None = None

    def measure(self, views: Iterable[WorkerView], now_s: float) -> Load:
        """Takes some ms among 1,000 workers: not for the event loop. `now_s`: of any clock that does not jump."""
        states = [
            (WorkerKey(view.entry.worker_id, view.entry.incarnation), view.state)
            for view in views
            if view.state is not None and view.entry.role in SERVING_ROLES
        ]
        counts = {key: _counts(state) for key, state in states}
        rates = self._rates(counts, now_s)
        self._last, self._last_s = counts, now_s
        return Load(
            num_running=sum(state.num_running for _, state in states),
            num_waiting=sum(state.num_waiting for _, state in states),
            num_transfers=sum(state.num_transfers for _, state in states),
            num_blocks=sum(state.num_blocks for _, state in states),
            num_used_blocks=sum(state.num_referenced_blocks for _, state in states),
            **dict(zip(_RATES, rates, strict=True)),
        )

    def _rates(self, counts: dict[WorkerKey, _Counts], now_s: float) -> Sequence[float]:
        totals = [0] * len(_RATES)
        for key, new in counts.items():
            old = self._last.get(key, new)
            if old != new:
                totals = [total + max(now - before, 0) for total, now, before in zip(totals, new, old, strict=True)]
        span_s = now_s - self._last_s if self._last_s is not None else 0.0
        return [total / span_s if span_s > 0 else 0.0 for total in totals]
