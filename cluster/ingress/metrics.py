"""What one ingress replica counts, and what it knows of the workers, for Prometheus.

Each replica counts its own requests. With several of them, the one that a scrape reaches asks the others, and each
one's samples carry its name as `replica`; what is known of the workers is the asked one's.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from baton.v1.worker_pb2 import WorkerState
from cluster.router.workers import WorkerView

Families = list[Metric]
Gather = Callable[[], Awaitable[Mapping[str, Families]]]  # replica -> what it counted, the asking one included
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_TTFT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ITL_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
_E2E_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

_GAUGES: dict[str, tuple[str, Callable[[WorkerState], float]]] = {
    "baton_worker_blocks": ("KV blocks in all", lambda s: s.num_blocks),
    "baton_worker_blocks_free": ("KV blocks free, or cached and unreferenced", lambda s: s.num_free_blocks),
    "baton_worker_blocks_used": ("KV blocks referenced by a request or a lease", lambda s: s.num_referenced_blocks),
    "baton_worker_blocks_quarantined": (
        "KV blocks an aborted write may still touch",
        lambda s: s.num_quarantined_blocks,
    ),
    "baton_worker_states": ("Slots for states of linear attention", lambda s: s.num_states),
    "baton_worker_states_free": ("Slots free, or of the prefix cache", lambda s: s.num_free_states),
    "baton_worker_requests_running": ("Sequences in the batch", lambda s: s.num_running),
    "baton_worker_requests_waiting": ("Sequences that wait", lambda s: s.num_waiting),
    "baton_worker_waiting_tokens": ("Prompt tokens still to compute", lambda s: s.num_waiting_tokens),
    "baton_worker_step_seconds": ("Moving average of a step's length", lambda s: s.step_s),
    "baton_worker_since_progress_seconds": (
        "Time since the last step while work is pending",
        lambda s: s.since_progress_s,
    ),
    "baton_worker_drafts_per_decode": (
        "Moving average of draft tokens verified for each sequence in a step",
        lambda s: s.drafts_per_decode,
    ),
    "baton_worker_transfers": ("KV transfers in flight", lambda s: s.num_transfers),
    "baton_worker_draft_peers": (
        "Draft workers that it is joined with; of a draft worker, workers that decode",
        lambda s: s.num_draft_peers,
    ),
    "baton_worker_draft_workers_rest": (
        "1 while draft workers are told nothing, since steps are better off without their guesses",
        lambda s: s.draft_workers_rest,
    ),
}
_COUNTERS: dict[str, tuple[str, Callable[[WorkerState], float]]] = {
    "baton_worker_steps": ("Engine steps", lambda s: s.num_steps),
    "baton_worker_preemptions": ("Sequences preempted", lambda s: s.num_preemptions),
    "baton_worker_kv_sent_bytes": ("KV sent to other workers", lambda s: s.kv_bytes_sent),
    "baton_worker_kv_received_bytes": ("KV received from other workers", lambda s: s.kv_bytes_received),
    "baton_worker_transfers_failed": ("KV transfers that failed", lambda s: s.num_failed_transfers),
    "baton_worker_prefix_hit_tokens": ("Prompt tokens found in the prefix cache", lambda s: s.num_prefix_hit_tokens),
    "baton_worker_prompt_tokens": ("Prompt tokens read", lambda s: s.num_prompt_tokens),
    "baton_worker_output_tokens": ("Tokens written; of a draft worker, guessed", lambda s: s.num_output_tokens),
    "baton_worker_draft_tokens_cut": (
        "Draft tokens that a step had neither budget nor blocks for",
        lambda s: s.num_cut_draft_tokens,
    ),
    "baton_worker_drafting_seconds": ("Time that steps waited for drafts", lambda s: s.drafting_s),
    "baton_worker_verifying_seconds": ("Time of steps that verified drafts", lambda s: s.verifying_s),
    "baton_worker_guess_hits": (
        "Guesses of draft workers that were there when asked for; of a draft worker, news that it had foreseen",
        lambda s: s.num_guess_hits,
    ),
    "baton_worker_guess_misses": ("Guesses that were not", lambda s: s.num_guess_misses),
    "baton_worker_draft_waits": ("Steps that waited for guesses on their way", lambda s: s.num_draft_waits),
    "baton_worker_draft_wait_seconds": ("How long, of the time drafting", lambda s: s.draft_wait_s),
}


_BY_PLACE: dict[str, tuple[str, Callable[[WorkerState], Sequence[int]]]] = {
    "baton_worker_draft_tokens": (
        "Draft tokens verified, by their place in the draft, the first 1",
        lambda s: s.drafted_by_place,
    ),
    "baton_worker_accepted_tokens": ("Draft tokens that were right, by place", lambda s: s.accepted_by_place),
}


class Metrics:
    """Not thread-safe beyond what prometheus_client is; one per replica, never the process-wide registry.

    Args:
        gather: Asks all replicas; None: this is the only one.
    """

    def __init__(self, states: Callable[[], Sequence[WorkerView]], gather: Gather | None = None) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self._workers = _WorkerCollector(states)
        self._gather = gather
        self.requests = Counter(
            "baton_requests", "Requests ended, by route and status", ["route", "status"], registry=registry
        )
        self.open = Gauge("baton_requests_open", "Requests that are being answered or wait", registry=registry)
        self.waiting = Gauge("baton_requests_waiting", "Open requests without a first token", registry=registry)
        self.prompt_tokens = Counter("baton_prompt_tokens", "Prompt tokens of answered requests", registry=registry)
        self.cached_tokens = Counter("baton_cached_tokens", "Of them found in a prefix cache", registry=registry)
        self.output_tokens = Counter("baton_output_tokens", "Tokens sent to clients", registry=registry)
        self.ttft = Histogram("baton_ttft_seconds", "Time to first token", buckets=_TTFT_S, registry=registry)
        self.itl = Histogram("baton_itl_seconds", "Gap between tokens of a choice", buckets=_ITL_S, registry=registry)
        self.e2e = Histogram("baton_e2e_seconds", "Time to the end of the answer", buckets=_E2E_S, registry=registry)

    def families(self) -> Families:
        """What this replica counted."""
        return list(self.registry.collect())

    async def text(self) -> bytes:
        families = self.families() if self._gather is None else _merged(await self._gather())
        return generate_latest(_Collected([*families, *self._workers.collect()]))


class _Collected(CollectorRegistry):
    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _merged(by_replica: Mapping[str, Families]) -> Families:
    merged: dict[str, Metric] = {}
    for replica, families in sorted(by_replica.items()):
        for family in families:
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.samples.append(sample._replace(labels={**sample.labels, "replica": replica}))
    return list(merged.values())


class _WorkerCollector:
    def __init__(self, states: Callable[[], Sequence[WorkerView]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        views = self._states()
        up = GaugeMetricFamily("baton_worker_up", "1: its stream stands and it has reported", labels=["worker", "role"])
        for view in views:
            up.add_metric([view.entry.worker_id, view.entry.role.value], float(view.up))
        yield up
        for name, (text, value) in _GAUGES.items():
            yield _filled(GaugeMetricFamily(name, text, labels=["worker", "role"]), views, value)
        for name, (text, value) in _COUNTERS.items():
            yield _filled(CounterMetricFamily(name, text, labels=["worker", "role"]), views, value)
        for name, (text, by_place) in _BY_PLACE.items():
            yield _filled_by_place(CounterMetricFamily(name, text, labels=["worker", "role", "place"]), views, by_place)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily,
    views: Sequence[WorkerView],
    value: Callable[[WorkerState], float],
) -> Metric:
    for view in views:
        if view.state is not None:
            family.add_metric([view.entry.worker_id, view.entry.role.value], float(value(view.state)))
    return family


def _filled_by_place(
    family: CounterMetricFamily, views: Sequence[WorkerView], counts: Callable[[WorkerState], Sequence[int]]
) -> CounterMetricFamily:
    for view in views:
        for place, count in enumerate(counts(view.state) if view.state is not None else (), start=1):
            family.add_metric([view.entry.worker_id, view.entry.role.value, str(place)], count)
    return family
