"""What is exported of a worker's state: one row each. The worker's own page and the ingress's have the same rows."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from baton.v1.worker_pb2 import LinkMeasures, Measures, WorkerState
from workers.telemetry.described import Described, Labels, counter, gauge

OWN = ("worker", "role", "model")  # labels that every metric of a worker has


Values = Callable[[WorkerState, Measures], Iterable[tuple[Labels, float]]]


class Row(NamedTuple):
    """
    Attributes:
        values: Of a state and the last measures; beside the labels of `OWN`, each has those that the description names.
    """

    described: Described
    values: Values


def _one(described: Described, value: Callable[[WorkerState], float]) -> Row:
    return Row(described, lambda state, measures: [((), value(state))])


def _blocks(state: WorkerState, measures: Measures) -> Iterable[tuple[Labels, float]]:
    return (
        (("free",), state.num_free_blocks - state.num_cached_blocks),
        (("cached",), state.num_cached_blocks),
        (("referenced",), state.num_referenced_blocks),
        (("quarantined",), state.num_quarantined_blocks),
    )


def _slots(state: WorkerState, measures: Measures) -> Iterable[tuple[Labels, float]]:
    used = state.num_states - state.num_free_states
    return ((("free",), state.num_free_states), (("used",), used)) if state.num_states else ()


def _by_place(counts: Sequence[int]) -> Iterable[tuple[Labels, float]]:
    return (((str(place),), count) for place, count in enumerate(counts, start=1))


def _of_links(of: Callable[[LinkMeasures], int]) -> Values:
    return lambda state, measures: [((link.transport,), float(of(link))) for link in measures.links]


ROWS: Sequence[Row] = (
    Row(
        gauge(
            "baton_worker_blocks",
            "blocks",
            "KV blocks by state; together they are all of the worker's. free: "
            "hold nothing; cached: known to the prefix cache and given out when needed; referenced: by a request or "
            "a lease; quarantined: an aborted write may still touch them",
            "state",
        ),
        _blocks,
    ),
    Row(
        gauge(
            "baton_worker_state_slots",
            "slots",
            "Slots for states of linear attention; free counts those of the "
            "prefix cache. None where the model has no such layer",
            "state",
        ),
        _slots,
    ),
    _one(gauge("baton_worker_block_tokens", "tokens", "That one KV block holds"), lambda s: s.block_size),
    _one(gauge("baton_worker_requests_running", "sequences", "In the batch"), lambda s: s.num_running),
    _one(
        gauge("baton_worker_requests_waiting", "sequences", "That wait to be admitted, or for blocks of a hand-over"),
        lambda s: s.num_waiting,
    ),
    _one(gauge("baton_worker_max_sequences", "sequences", "That may run at once"), lambda s: s.max_sequences),
    _one(
        gauge("baton_worker_waiting_tokens", "tokens", "Of prompts, still to compute"), lambda s: s.num_waiting_tokens
    ),
    _one(
        gauge(
            "baton_worker_prefill_tokens_per_second",
            "tokens/s",
            "Moving average while prompts are read; 0: not measured yet",
        ),
        lambda s: s.prefill_tokens_per_s,
    ),
    _one(
        gauge(
            "baton_worker_since_progress_seconds", "seconds", "Since the last step while work is pending; 0: none is"
        ),
        lambda s: s.since_progress_s,
    ),
    _one(gauge("baton_worker_draining", "1", "1: takes nothing new"), lambda s: s.draining),
    _one(gauge("baton_worker_transfers", "transfers", "Of KV, under way"), lambda s: s.num_transfers),
    _one(
        gauge(
            "baton_worker_drafts_per_decode",
            "tokens",
            "Draft tokens verified for each sequence in a step, moving average",
        ),
        lambda s: s.drafts_per_decode,
    ),
    _one(
        gauge(
            "baton_worker_draft_peers",
            "workers",
            "Draft workers that it is joined with; of a draft worker, workers that decode",
        ),
        lambda s: s.num_draft_peers,
    ),
    _one(
        gauge(
            "baton_worker_draft_workers_rest",
            "1",
            "1: draft workers are told nothing, since steps are better off without their guesses",
        ),
        lambda s: s.draft_workers_rest,
    ),
    _one(counter("baton_worker_steps_total", "steps", "Of the engine"), lambda s: s.num_steps),
    _one(
        counter("baton_worker_preemptions_total", "sequences", "That lost their blocks to older ones"),
        lambda s: s.num_preemptions,
    ),
    _one(
        counter("baton_worker_prompt_tokens_total", "tokens", "Of prompts that came to be read"),
        lambda s: s.num_prompt_tokens,
    ),
    _one(
        counter("baton_worker_output_tokens_total", "tokens", "Written; of a draft worker, guessed"),
        lambda s: s.num_output_tokens,
    ),
    _one(
        counter(
            "baton_worker_prefix_query_tokens_total", "tokens", "Of prompts that were looked up in the prefix cache"
        ),
        lambda s: s.num_prefix_query_tokens,
    ),
    _one(
        counter("baton_worker_prefix_hit_tokens_total", "tokens", "Of them found there"),
        lambda s: s.num_prefix_hit_tokens,
    ),
    Row(
        counter(
            "baton_worker_kv_sent_bytes_total",
            "bytes",
            "Of KV, to other workers, by what carried them; other: by a gang's other ranks",
            "transport",
        ),
        _of_links(lambda link: link.bytes_sent),
    ),
    Row(
        counter("baton_worker_kv_received_bytes_total", "bytes", "Of KV, from other workers", "transport"),
        _of_links(lambda link: link.bytes_received),
    ),
    _one(
        counter("baton_worker_transfers_failed_total", "transfers", "Of KV, that ended with an error"),
        lambda s: s.num_failed_transfers,
    ),
    _one(
        counter("baton_worker_drafts_total", "drafts", "Verified, each of one sequence in one step"),
        lambda s: s.num_drafts,
    ),
    Row(
        counter(
            "baton_worker_draft_tokens_total",
            "tokens",
            "Drafted and verified, by their place in the draft, the first 1",
            "place",
        ),
        lambda s, _: _by_place(s.drafted_by_place),
    ),
    Row(
        counter("baton_worker_accepted_tokens_total", "tokens", "Of them right, by place", "place"),
        lambda s, _: _by_place(s.accepted_by_place),
    ),
    _one(
        counter(
            "baton_worker_draft_tokens_cut_total", "tokens", "Drafted, for which a step had neither budget nor blocks"
        ),
        lambda s: s.num_cut_draft_tokens,
    ),
    _one(
        counter("baton_worker_drafting_seconds_total", "seconds", "That steps waited for drafts"),
        lambda s: s.drafting_s,
    ),
    _one(
        counter("baton_worker_verifying_seconds_total", "seconds", "Of steps that verified drafts"),
        lambda s: s.verifying_s,
    ),
    _one(
        counter(
            "baton_worker_guess_hits_total",
            "guesses",
            "Of draft workers, that were there when asked for; of a draft worker, news that it had foreseen",
        ),
        lambda s: s.num_guess_hits,
    ),
    _one(counter("baton_worker_guess_misses_total", "guesses", "That were not"), lambda s: s.num_guess_misses),
    _one(
        counter("baton_worker_draft_waits_total", "steps", "That waited for guesses on their way"),
        lambda s: s.num_draft_waits,
    ),
    _one(
        counter("baton_worker_draft_wait_seconds_total", "seconds", "How long, of the time drafting"),
        lambda s: s.draft_wait_s,
    ),
)
