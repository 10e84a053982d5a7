"""What one worker tells of itself: its load at one moment, and the message that routers and the controller get.

Invariant: a LoadReport is made by whoever owns the engine's state and never changes, so any thread may read it.
`WorkerStates` alone makes WorkerState messages, for workers and for the simulator's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from baton.v1.worker_pb2 import Measures, WorkerState
from workers.adapters.adapter import AdapterName
from workers.engine.serving import Serving
from workers.engine.stats import since_progress_s
from workers.engine.wire_roles import TO_WIRE
from workers.kv_transfer.link import Inbox, Outbox
from workers.spec import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """Fields named as in WorkerState mean what its comments say."""

    role: Role
    is_idle: bool  # nothing computed, nothing in transfer, nothing asked
    waiting_since_s: float | None  # since when work has waited for a step to finish; None while there is none
    draining: bool
    num_free_blocks: int
    num_referenced_blocks: int
    num_quarantined_blocks: int
    num_states: int
    num_free_states: int
    num_running: int
    num_waiting: int
    num_waiting_tokens: int
    num_preemptions: int
    num_steps: int
    step_s: float
    prefill_tokens_per_s: float
    num_prefix_hit_tokens: int
    num_prompt_tokens: int
    num_output_tokens: int
    kv_bytes_sent: int
    kv_bytes_received: int
    num_transfers: int
    num_failed_transfers: int
    adapters: tuple[AdapterName, ...] = ()
    drafted_by_place: tuple[int, ...] = ()
    accepted_by_place: tuple[int, ...] = ()
    drafting_s: float = 0.0
    verifying_s: float = 0.0
    drafts_per_decode: float = 0.0
    num_cut_draft_tokens: int = 0
    num_guess_hits: int = 0
    num_guess_misses: int = 0
    num_draft_peers: int = 0
    num_draft_waits: int = 0
    draft_wait_s: float = 0.0
    draft_workers_rest: bool = False
    num_cached_blocks: int = 0
    num_prefix_query_tokens: int = 0
    num_drafts: int = 0
    measures: Measures | None = None  # the same object until there are newer ones; None: nothing was measured
    num_decode_steps: int = 0
    num_decode_step_sequences: int = 0
    decode_steps_s: float = 0.0
    num_prompt_step_tokens: int = 0
    prompt_steps_s: float = 0.0


_OWN = ("role", "is_idle", "waiting_since_s", "adapters", "measures")
_SAME_NAME = tuple(one.name for one in fields(LoadReport) if one.name not in _OWN)


def load_report(
    serving: Serving,
    outbox: Outbox | None,
    inbox: Inbox | None,
    *,
    is_idle: bool,
    num_in_flight: int = 0,
    measures: Measures | None = None,
) -> LoadReport:
    """The load of now, for the thread that owns `serving`.

    Args:
        num_in_flight: Running sequences that the scheduler does not hold: a simulated pipeline's.
    """
    blocks, scheduler, stats = serving.blocks, serving.scheduler, serving.stats
    num_pending = serving.receiving.num_pending if serving.receiving is not None else 0
    return LoadReport(
        role=serving.role,
        is_idle=is_idle,
        waiting_since_s=stats.waiting_since_s,
        draining=serving.is_draining,
        num_free_blocks=blocks.num_free_blocks,
        num_referenced_blocks=blocks.num_referenced_blocks,
        num_quarantined_blocks=blocks.num_quarantined_blocks,
        num_states=blocks.num_states,
        num_free_states=blocks.num_free_states,
        num_running=len(scheduler.running) + num_in_flight,
        num_waiting=len(scheduler.waiting) + num_pending,
        num_waiting_tokens=scheduler.num_waiting_tokens,
        num_preemptions=stats.num_preemptions,
        num_steps=stats.num_steps,
        step_s=stats.step_s,
        prefill_tokens_per_s=stats.prefill_tokens_per_s,
        num_prefix_hit_tokens=stats.num_prefix_hit_tokens,
        num_prompt_tokens=stats.num_prompt_tokens,
        num_output_tokens=stats.num_output_tokens,
        kv_bytes_sent=outbox.bytes_sent if outbox is not None else 0,
        kv_bytes_received=inbox.bytes_received if inbox is not None else 0,
        num_transfers=serving.num_in_transfer,
        num_failed_transfers=(outbox.num_failed if outbox else 0) + (inbox.num_failed if inbox else 0),
        adapters=serving.adapters.names,
        drafted_by_place=tuple(stats.drafted_by_place),
        accepted_by_place=tuple(stats.accepted_by_place),
        drafting_s=stats.drafting_s,
        verifying_s=stats.verifying_s,
        drafts_per_decode=stats.drafts_per_decode,
        num_cut_draft_tokens=stats.num_cut_draft_tokens,
        num_guess_hits=stats.guesses.num_hits,
        num_guess_misses=stats.guesses.num_misses,
        num_draft_peers=stats.guesses.num_peers,
        num_draft_waits=stats.guesses.num_waits,
        draft_wait_s=stats.guesses.wait_s,
        draft_workers_rest=stats.guesses.draft_workers_rest,
        num_cached_blocks=blocks.num_cached_blocks,
        num_prefix_query_tokens=stats.num_prefix_query_tokens,
        num_drafts=stats.num_drafts,
        measures=measures,
        num_decode_steps=stats.num_decode_steps,
        num_decode_step_sequences=stats.num_decode_step_sequences,
        decode_steps_s=stats.decode_steps_s,
        num_prompt_step_tokens=stats.num_prompt_step_tokens,
        prompt_steps_s=stats.prompt_steps_s,
    )


class WorkerStates:
    """The messages of one life of one worker; its constants are told with each.

    Args:
        drafters: Who may draft for it while it decodes.
        attention: How its GPU attends; empty: on a CPU.
    """

    def __init__(
        self,
        *,
        worker_id: str,
        incarnation: str,
        fingerprint: str,
        block_size: int,
        num_blocks: int,
        max_model_len: int,
        max_sequences: int,
        drafters: Sequence[str] = (),
        served_name: str = "",
        attention: str = "",
    ) -> None:
        self._constants = WorkerState(
            worker_id=worker_id,
            incarnation=incarnation,
            fingerprint=fingerprint,
            block_size=block_size,
            num_blocks=num_blocks,
            max_model_len=max_model_len,
            max_sequences=max_sequences,
            served_name=served_name,
            attention=attention,
        )
        self._drafters = drafters

    def say_ranks(self, addresses: Sequence[str]) -> None:
        """Of a gang: host:port of each rank, the leader's first. Before the first message."""
        self._constants.rank_addresses.extend(addresses)

    def say_metrics(self, address: str) -> None:
        """Where this worker tells them itself: host:port. Before the first message, too."""
        self._constants.metrics_address = address

    def of(self, load: LoadReport, now_s: float) -> WorkerState:
        """Without the cache's changes and the measures.

        Args:
            now_s: On the clock of the engine that made the report.
        """
        state = WorkerState(since_progress_s=since_progress_s(load.waiting_since_s, now_s))
        state.MergeFrom(self._constants)
        state.role = TO_WIRE[load.role]
        if load.role.decodes:
            state.drafters.extend(self._drafters)
        for adapter in load.adapters:
            state.adapters.add(name=adapter.name, hash=adapter.content_hash)
        for name in _SAME_NAME:
            value = getattr(load, name)
            if isinstance(value, tuple):
                getattr(state, name).extend(value)
            else:
                setattr(state, name, value)
        return state
