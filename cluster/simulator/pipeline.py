"""The steps of a simulated worker of several stages: as many in flight, each of its own sequences.

A sequence that a step computes is taken out of the scheduler until the step has passed all stages: its next token needs
the last one. Which decodes go together is `batches`' business, when a step passes which stage is that of `stages`.
"""

from collections.abc import Callable, Sequence

from cluster.contracts.simulation import Pipelining, SimPool
from cluster.simulator.batches import Batches
from cluster.simulator.stages import Stages
from cluster.simulator.steps import StepInFlight, Steps
from workers.engine.scheduler import Drafts, ScheduledChunk, Scheduler, StepPlan, is_decode
from workers.engine.sequence import Sequence as Seq


class Pipeline(Steps):
    """Args:
    is_served: Whether a sequence was not aborted while its step was in flight.
    seed: Of the lots that batches draw.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        num_stages: int,
        how: Pipelining,
        is_served: Callable[[Seq], bool],
        seed: int,
    ) -> None:
        super().__init__(scheduler)
        self.num_stages = num_stages
        self._in_turns = how.in_turns
        self._stages = Stages(num_stages, how)
        self._batches = Batches(num_stages, how, seed)
        self._is_served = is_served

    @property
    def num_sequences_taken(self) -> int:
        return sum(len(step.chunks) for step in self._flying)

    def receive(self, cost_s: float, now_s: float) -> None:
        """Every stage takes in its layers' share, after the steps that it has."""
        self._entry_s = max(now_s, self._stages.all_free_s) + cost_s

    def plan(self, now_s: float, drafts: Callable[[], Drafts | None]) -> StepPlan:
        held_back = self._hold_back(now_s)
        plan = self._scheduler.plan(now_s, drafts())
        for seq in held_back:
            self._scheduler.add_running(seq)
        if held_back and not (plan.chunks or self._flying):  # blocks are with those held back
            preempted, plan = plan.preempted, self._scheduler.plan(now_s, drafts())
            plan.preempted = preempted + plan.preempted
        return plan

    def _hold_back(self, now_s: float) -> Sequence[Seq]:
        """Decodes of other batches than the one whose turn it is."""
        ready = [seq for seq in self._scheduler.running if is_decode(seq)]
        flying = [chunk.seq for step in self._flying for chunk in step.chunks if is_decode(chunk.seq)]
        chosen = {seq.key for seq in self._batches.next_up(ready, flying, now_s)}
        held_back = [seq for seq in ready if seq.key not in chosen]
        for seq in held_back:
            self._scheduler.remove(seq)
        return held_back

    def found_nothing(self) -> None:
        if self._in_turns and self._flying:
            self._entry_s = self._flying[0].end_s

    def begin(self, chunks: Sequence[ScheduledChunk], step_s: float, now_s: float) -> None:
        before_s = self._flying[-1].end_s if self._flying else 0.0
        end_s = self._stages.pass_through(now_s, step_s, len(chunks), before_s)
        self._flying.append(StepInFlight(chunks=chunks, start_s=now_s, end_s=end_s))
        self._entry_s = now_s if self._in_turns else self._stages.first_free_s
        for chunk in chunks:
            self._scheduler.remove(chunk.seq)

    def computed(self, step: StepInFlight) -> Sequence[ScheduledChunk]:
        """Gives sequences back to the scheduler."""
        chunks = [chunk for chunk in step.chunks if self._is_served(chunk.seq)]
        for chunk in chunks:
            self._scheduler.add_running(chunk.seq)
        return chunks

    def stall(self, duration_s: float, now_s: float) -> None:
        super().stall(duration_s, now_s)
        self._stages.stall(duration_s, now_s)


def steps_of(pool: SimPool, scheduler: Scheduler, *, is_served: Callable[[Seq], bool], seed: int) -> Steps:
    """Of one of the pool's workers."""
    num_stages = pool.latency.pipeline_stages
    if num_stages == 1:
        return Steps(scheduler)
    return Pipeline(scheduler=scheduler, num_stages=num_stages, how=pool.pipelining, is_served=is_served, seed=seed)
