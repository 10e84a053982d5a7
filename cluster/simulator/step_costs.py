"""What a simulated worker's steps take: its latency model, slower beside others of its machine, and hand-overs."""

from collections.abc import Callable, Sequence

from cluster.contracts.latency import LatencyModel, PromptChunk, Slowed
from cluster.contracts.simulation import SimCluster, SimPool
from cluster.simulator.machine import Machine
from workers.engine.scheduler import ScheduledChunk
from workers.model.contract import ChunkKind
from workers.spec import Role


class StepCosts:
    """Args:
    role: Of now.
    worker: Index among all.
    machine: Where its steps and others' cost each other; None: nowhere.
    """

    def __init__(
        self, *, pool: SimPool, role: Callable[[], Role], cluster: SimCluster, machine: Machine | None, worker: int
    ) -> None:
        self._role = role
        self._latency = pool.latency
        self._handover_s = cluster.handover_s
        self._receive_s = cluster.receive_s
        self._receive_token_s = pool.receive_token_s
        self._machine = machine
        self._worker = worker

    def step_s(self, chunks: Sequence[ScheduledChunk]) -> float:
        """A step that begins now, alone in the worker."""
        prompts, num_decodes, num_context = _composition(chunks)
        has_prompts = any(chunk.kind is ChunkKind.PREFILL for chunk in chunks)
        step_s = self._latency_now(has_prompts=has_prompts).step_s(prompts, num_decodes, num_context)
        return step_s + (self._handover_s if self._role() is Role.PREFILL else 0.0)

    def decode_latency(self) -> LatencyModel:
        """Of decode steps, the first of which begins now."""
        return self._latency_now(has_prompts=False)

    def receiving_s(self, num_prompts: int, num_tokens: int) -> float:
        """For how long steps stand still when so many prompts have come, with KV of so many tokens."""
        return num_prompts * self._receive_s + num_tokens * self._receive_token_s

    def _latency_now(self, *, has_prompts: bool) -> LatencyModel:
        factor = 1.0 if self._machine is None else self._machine.factor(self._worker, has_prompts=has_prompts)
        return self._latency if factor == 1.0 else Slowed(self._latency, factor)


def _composition(chunks: Sequence[ScheduledChunk]) -> tuple[list[PromptChunk], int, int]:
    """What a latency model asks of a step. Verifying drafts costs what reading as many tokens of a prompt does."""
    prompts: list[PromptChunk] = []
    num_decodes = num_context = 0
    for chunk in chunks:
        if chunk.kind is ChunkKind.DECODE and not chunk.draft_token_ids:
            num_decodes += 1
            num_context += chunk.seq.num_tokens
        else:
            num_tokens = chunk.num_tokens + len(chunk.draft_token_ids)
            prompts.append(PromptChunk(num_tokens, chunk.seq.num_computed_tokens))
    return prompts, num_decodes, num_context
