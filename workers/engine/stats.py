"""Counters and moving averages of one engine, of its own thread; others read them in a `LoadReport`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from workers.engine.scheduler import ScheduledChunk
from workers.model.contract import ChunkKind

SMOOTHING = 0.1  # weight of the newest step in the moving averages


@dataclass(slots=True)
class GuessCounts:
    """Of the guesses of draft workers, as one that decodes has asked for them; fields as in WorkerState."""

    num_hits: int = 0
    num_misses: int = 0
    num_peers: int = 0
    num_waits: int = 0
    wait_s: float = 0.0
    draft_workers_rest: bool = False


@dataclass(slots=True)
class EngineStats:
    num_steps: int = 0
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_prefix_query_tokens: int = 0
    num_prefix_hit_tokens: int = 0
    num_output_tokens: int = 0
    # Draft tokens computed, of the first place of a draft, the second, ...; and of them right, whether the answer went
    # so far or ended before.
    drafted_by_place: list[int] = field(default_factory=list)
    accepted_by_place: list[int] = field(default_factory=list)
    num_drafts: int = 0  # verified, of one sequence in one step each
    num_cut_draft_tokens: int = 0  # draft tokens that a step had neither budget nor blocks for
    drafting_s: float = 0.0  # that steps waited for drafts
    verifying_s: float = 0.0  # of steps that computed draft tokens
    drafts_per_decode: float = 0.0  # moving average, of each sequence that decodes in a step
    guesses: GuessCounts = field(default_factory=GuessCounts)
    step_s: float = 0.0
    prefill_tokens_per_s: float = 0.0
    num_decode_steps: int = 0  # of decodes alone
    num_decode_step_sequences: int = 0  # in them, summed
    decode_steps_s: float = 0.0
    num_prompt_step_tokens: int = 0  # prompt tokens that all other steps computed
    prompt_steps_s: float = 0.0
    waiting_since_s: float | None = None  # since when work has waited for a step to finish; None while idle

    @property
    def num_draft_tokens(self) -> int:
        return sum(self.drafted_by_place)

    @property
    def num_accepted_tokens(self) -> int:
        return sum(self.accepted_by_place)

    def step_begins(self, now_s: float) -> None:
        if self.waiting_since_s is None:
            self.waiting_since_s = now_s

    def drafted(
        self, outcomes: Iterable[tuple[Sequence[int], int]], num_decodes: int, took_s: float, drafting_s: float
    ) -> None:
        """A step of an engine that speculates: of each sequence, (places of the draft tokens computed, from 1; how many
        were right).
        """
        self.drafting_s = drafting_s
        if not num_decodes:
            return
        num_before = self.num_draft_tokens
        for places, num_accepted in outcomes:
            self.count_draft(places, num_accepted)
        num_drafts = self.num_draft_tokens - num_before
        self.verifying_s += took_s if num_drafts else 0.0
        self.drafts_per_decode += (num_drafts / num_decodes - self.drafts_per_decode) * SMOOTHING

    def count_draft(self, places: Sequence[int], num_accepted: int) -> None:
        """Of one sequence in a step; a tree may have several tokens at a place."""
        self.num_drafts += bool(places)
        _count_places(self.drafted_by_place, places)
        _count_places(self.accepted_by_place, range(1, num_accepted + 1))

    def step_done(self, now_s: float, started_s: float, chunks: Sequence[ScheduledChunk], *, is_idle: bool) -> None:
        took_s = max(now_s - started_s, 1e-9)
        self.num_steps += 1
        self.step_s += (took_s - self.step_s) * (SMOOTHING if self.num_steps > 1 else 1.0)
        prefill_tokens = sum(chunk.num_tokens for chunk in chunks if chunk.kind is ChunkKind.PREFILL)
        if prefill_tokens:
            rate = prefill_tokens / took_s
            first = self.prefill_tokens_per_s == 0.0
            self.prefill_tokens_per_s += (rate - self.prefill_tokens_per_s) * (1.0 if first else SMOOTHING)
            self.num_prompt_step_tokens += prefill_tokens
            self.prompt_steps_s += took_s
        else:
            self._count_decodes(1, len(chunks), took_s)
        self.waiting_since_s = None if is_idle else now_s

    def decoded(self, num_steps: int, num_sequences: int, took_s: float) -> None:
        """A run of steps of the same decodes, in a simulation that takes them at once."""
        self.num_steps += num_steps
        self._count_decodes(num_steps, num_sequences, took_s)

    def _count_decodes(self, num_steps: int, num_sequences: int, took_s: float) -> None:
        self.num_decode_steps += num_steps
        self.num_decode_step_sequences += num_steps * num_sequences
        self.decode_steps_s += took_s

    def no_step(self, now_s: float, *, is_stuck: bool) -> None:
        """Nothing could be scheduled; `is_stuck`: though there is work, and nothing else to wait for."""
        if not is_stuck:
            self.waiting_since_s = None
        elif self.waiting_since_s is None:
            self.waiting_since_s = now_s


def _count_places(counts: list[int], places: Sequence[int]) -> None:
    counts += [0] * (max(places, default=0) - len(counts))
    for place in places:
        counts[place - 1] += 1


def since_progress_s(waiting_since_s: float | None, now_s: float) -> float:
    """Since work has waited for a step to finish; 0 while there is none."""
    return 0.0 if waiting_since_s is None else max(now_s - waiting_since_s, 0.0)
