"""One worker's load as the policy sees it: its last report, and what this ingress has sent it since.

Plain numbers, so that a decision costs microseconds with a thousand workers; the simulator fills the same class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from workers.adapters.adapter import AdapterName
from workers.spec import Role


@dataclass(slots=True, kw_only=True)
class WorkerLoad:
    """Mutable; owned by `cluster.router.table`. Counts are of the last report unless named otherwise."""

    worker_id: str
    role: Role
    family: str = ""  # equal where one may hand requests over to the other
    block_size: int
    num_blocks: int
    max_model_len: int
    max_sequences: int
    num_free_blocks: int
    num_running: int = 0
    num_waiting: int = 0
    num_waiting_tokens: int = 0
    prefill_tokens_per_s: float = 0.0  # 0: not measured yet
    reported_s: float = 0.0
    num_sent_tokens: int = 0  # dispatched by this ingress since the report, as are the next two
    num_sent_sequences: int = 0
    num_sent_blocks: int = 0
    adapters: Mapping[str, str] = field(default_factory=dict)  # LoRA, that requests may name -> hash of its content
    num_outstanding: int = 0  # sequences of this ingress that will be or are written there

    @property
    def max_request_tokens(self) -> int:
        """Prompt and output of one sequence that can ever fit."""
        return min(self.max_model_len, self.num_blocks * self.block_size)

    @property
    def num_sequences(self) -> int:
        """Running, waiting, or on the way. This ingress knows of its own while they are still at prefill."""
        return max(self.num_running + self.num_waiting + self.num_sent_sequences, self.num_outstanding)

    def has(self, adapter: AdapterName | None) -> bool:
        """Whether it computes with it; None: the model as it is."""
        return adapter is None or self.adapters.get(adapter.name) == adapter.content_hash

    def num_queued_tokens(self, now_s: float) -> float:
        """Prompt tokens still to compute, less what the worker will have computed since its report."""
        computed = self.prefill_tokens_per_s * max(now_s - self.reported_s, 0.0)
        return max(self.num_waiting_tokens + self.num_sent_tokens - computed, 0.0)

    def reported(self, now_s: float) -> None:
        """The counts are those of now: what was sent before is among them."""
        self.reported_s = now_s
        self.num_sent_tokens = self.num_sent_sequences = self.num_sent_blocks = 0

    def sent(self, *, num_tokens: int, num_sequences: int, num_blocks: int) -> None:
        self.num_sent_tokens += num_tokens
        self.num_sent_sequences += num_sequences
        self.num_sent_blocks += num_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """The workers that may be chosen: connected, not draining, not wedged.

    A decode worker that no prefill worker serves reads prompts itself; a mixed one always does.
    """

    prefill: Sequence[WorkerLoad] = ()
    decode: Sequence[WorkerLoad] = ()  # roles decode and mixed
    prefill_of: Mapping[str, Sequence[WorkerLoad]] = field(default_factory=dict)  # family -> its part of them
    draft: Sequence[WorkerLoad] = ()  # they guess ahead, and take no requests
    draft_homes: Mapping[str, WorkerLoad] = field(default_factory=dict)  # decode worker -> who drafts for it if it can
    by_id: Mapping[str, WorkerLoad] = field(default_factory=dict)

    @staticmethod
    def of(loads: Sequence[WorkerLoad]) -> "Pools":
        decode = tuple(load for load in loads if load.role.decodes)
        prefill = tuple(load for load in loads if load.role is Role.PREFILL)
        draft = tuple(load for load in loads if load.role is Role.DRAFT)
        return Pools(
            prefill=prefill,
            decode=decode,
            prefill_of=_by_family(prefill),
            draft=draft,
            draft_homes=dict(zip((load.worker_id for load in decode), cycle(draft), strict=False)),
            by_id={load.worker_id: load for load in loads},
        )


def _by_family(loads: Sequence[WorkerLoad]) -> Mapping[str, Sequence[WorkerLoad]]:
    families = {load.family for load in loads}
    if len(families) == 1:
        return dict.fromkeys(families, loads)
    return {family: tuple(load for load in loads if load.family == family) for family in families}
