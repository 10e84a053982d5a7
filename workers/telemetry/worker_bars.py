"""The distributions that are exported of a worker, beside `worker_rows`."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from baton.v1.worker_pb2 import Histogram, LinkMeasures, Measures
from workers.telemetry.bounds import BATCH_SEQUENCES, BATCH_TOKENS, GAP_S, LINK_S, PREFILL_S, QUEUE_S, STEP_S
from workers.telemetry.described import Described, Labels, histogram


class Bars(NamedTuple):
    """A distribution's. `bounds` are those that workers count with."""

    described: Described
    bounds: Sequence[float]
    histograms: Callable[[Measures], Iterable[tuple[Labels, Histogram]]]


def _steps(measures: Measures) -> Iterable[tuple[Labels, Histogram]]:
    told = (
        (("prefill",), measures.prefill_step_s),
        (("decode",), measures.decode_step_s),
        (("mixed",), measures.mixed_step_s),
        (("draft",), measures.draft_step_s),
    )
    return (one for one in told if sum(one[1].counts))


def _links(of: Callable[[LinkMeasures], Histogram]) -> Callable[[Measures], Iterable[tuple[Labels, Histogram]]]:
    return lambda measures: (((link.transport,), of(link)) for link in measures.links if link.bytes_sent)


def _idle(measures: Measures) -> Iterable[tuple[Labels, Histogram]]:
    return (((link.transport,), link.idle_s) for link in measures.links if link.bytes_received and link.idle_s.counts)


def _waits(measures: Measures) -> Iterable[tuple[Labels, Histogram]]:
    """A worker from before there were any tells none."""
    return (((link.transport,), link.wait_s) for link in measures.links if link.bytes_sent and link.wait_s.counts)


BARS: Sequence[Bars] = (
    Bars(
        histogram(
            "baton_worker_step_seconds",
            "seconds",
            "Of one engine step, by what it did: prefill, decode, mixed (both), draft (a draft worker's)",
            "kind",
        ),
        STEP_S,
        _steps,
    ),
    Bars(
        histogram("baton_worker_batch_sequences", "sequences", "In one step"),
        BATCH_SEQUENCES,
        lambda m: [((), m.batch_sequences)],
    ),
    Bars(
        histogram("baton_worker_batch_tokens", "tokens", "Computed in one step, draft tokens included"),
        BATCH_TOKENS,
        lambda m: [((), m.batch_tokens)],
    ),
    Bars(
        histogram(
            "baton_worker_queue_seconds",
            "seconds",
            "From a request's arrival at the worker until it was admitted to the batch",
        ),
        QUEUE_S,
        lambda m: [((), m.queue_s)],
    ),
    Bars(
        histogram("baton_worker_prefill_seconds", "seconds", "From then until its prompt was read"),
        PREFILL_S,
        lambda m: [((), m.prefill_s)],
    ),
    Bars(
        histogram(
            "baton_worker_kv_ticket_seconds",
            "seconds",
            "From the offer of a hand-over until the other worker had blocks for it",
            "transport",
        ),
        LINK_S,
        _links(lambda link: link.ticket_s),
    ),
    Bars(
        histogram(
            "baton_worker_kv_transfer_seconds",
            "seconds",
            "From a hand-over's first range until all of it was acknowledged",
            "transport",
        ),
        LINK_S,
        _links(lambda link: link.transfer_s),
    ),
    Bars(
        histogram(
            "baton_worker_kv_exposed_seconds",
            "seconds",
            "Of the transfer time, what came after the prompt was computed: not hidden behind computing",
            "transport",
        ),
        LINK_S,
        _links(lambda link: link.exposed_s),
    ),
    Bars(
        histogram(
            "baton_worker_kv_wait_seconds",
            "seconds",
            "What a layer's KV waits from being computed until it is pushed to the other worker",
            "transport",
        ),
        GAP_S,
        _waits,
    ),
    Bars(
        histogram(
            "baton_worker_kv_idle_seconds",
            "seconds",
            "What a link has nothing to write for, between ranges of hand-overs that are under way",
            "transport",
        ),
        GAP_S,
        _idle,
    ),
)
