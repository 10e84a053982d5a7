"""Takes decode steps of a simulated worker many at once: a run of them ends in one event, or in a few.

What happens while a run is in flight takes effect at the end of the step in flight, as it would in the engine; so news
shorten the run to that step. Nothing that others see depends on how many steps were jumped over; see `sync`.
"""

from collections.abc import Callable

from cluster.contracts.latency import LatencyModel
from cluster.simulator.alarm import StepAlarm
from cluster.simulator.decode_run import DecodeRun
from cluster.simulator.events import EventQueue
from workers.engine.block_manager import BlockManager
from workers.engine.scheduler import Scheduler, StepPlan
from workers.engine.sequence import Sequence as Seq
from workers.engine.stats import EngineStats
from workers.model.contract import ChunkKind


class Jumps:
    """Args:
    alarm: Rings when `reach` is due.
    hands_over: Whether a sequence goes to another worker when its prompt is read.
    max_jump: Steps taken at once, at most; fewer change nothing but the time it takes. 0: no runs, all step by step.
    """

    def __init__(
        self,
        *,
        queue: EventQueue,
        alarm: StepAlarm,
        blocks: BlockManager,
        scheduler: Scheduler,
        stats: EngineStats,
        hands_over: Callable[[Seq], bool],
        max_jump: int,
    ) -> None:
        self.run: DecodeRun | None = None  # in flight
        self._queue = queue
        self._alarm = alarm
        self._blocks = blocks
        self._scheduler = scheduler
        self._stats = stats
        self._hands_over = hands_over
        self._max_jump = max_jump

    def can_begin(self, plan: StepPlan) -> bool:
        """Whether the steps that follow the planned one will be of the same decodes."""
        if not self._max_jump or plan.admitted or plan.preempted or len(plan.chunks) != len(self._scheduler.running):
            return False
        # A hand-over's last token alone looks like a decode.
        return all(chunk.kind is ChunkKind.DECODE and not self._hands_over(chunk.seq) for chunk in plan.chunks)

    def begin(self, plan: StepPlan, latency: LatencyModel) -> None:
        seqs = [chunk.seq for chunk in plan.chunks]
        self.run = DecodeRun(seqs=seqs, latency=latency, blocks=self._blocks, start_s=self._queue.now_s)
        self._look_again(self.run)

    def shorten(self) -> None:
        """To the step in flight."""
        if (run := self.run) is None:
            return
        run.num_steps = min(run.num_steps, self._num_ended(run) + 1)
        if run.num_steps < run.target:
            self._look_again(run)

    def stall(self, duration_s: float) -> None:
        """The step in flight, then the run's last, takes so much longer."""
        if (run := self.run) is not None:
            self.shorten()
            run.delay_s += duration_s
            self._look_again(run)

    def reach(self) -> DecodeRun | None:
        """The run, or as much of it as may be taken at once, is done; returns a run that is over."""
        if (run := self.run) is None:
            return None
        run.advance(run.target, num_planned=run.target)
        self._stats.waiting_since_s = self._queue.now_s
        if run.target < run.num_steps:
            self._continue(run)
            return None
        self.run = None
        return run

    def sync(self) -> None:
        """Brings sequences and blocks to where the steps that have ended by now left them."""
        if (run := self.run) is None:
            return
        num_ended = self._num_ended(run)
        if num_ended > run.num_done:
            run.advance(num_ended, num_planned=num_ended + 1)
            self._stats.waiting_since_s = run.end_s(num_ended)

    def _continue(self, run: DecodeRun) -> None:
        """Step by step: the scheduler must say what the run foresaw."""
        plan = self._scheduler.plan(self._queue.now_s)
        assert [chunk.seq for chunk in plan.chunks] == run.seqs, "a run of decode steps that was none"
        assert not plan.preempted + plan.admitted, "a run of decode steps that was none"
        run.planned()
        self._look_again(run)

    def _look_again(self, run: DecodeRun) -> None:
        run.target = min(run.num_done + self._max_jump, run.num_steps)
        self._alarm.set(run.end_s(run.target))

    def _num_ended(self, run: DecodeRun) -> int:
        return run.num_ended(self._queue.now_s, self._alarm.has_passed_now)
