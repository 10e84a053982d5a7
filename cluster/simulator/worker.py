"""One simulated worker: its steps in virtual time, with a latency model for the model.

The order of things is `workers.engine.engine.Engine.step`'s: take in what came, plan, run, say what came out; what
they mean is `engine.SimEngine`'s. Runs of decode steps of the same sequences are taken at once; what comes in
meanwhile takes effect at the end of the step in flight, as it would in the engine.
"""

from collections import deque
from collections.abc import Callable, Sequence

from baton.v1.worker_pb2 import TokenOutput, WorkerState
from cluster.planner.latency import LatencyModel, PromptChunk, Slowed
from cluster.router.workers import WorkerKey
from cluster.simulator.contract import SimCluster, SimPool
from cluster.simulator.engine import SimEngine
from cluster.simulator.events import EventQueue
from cluster.simulator.flight import DecodeFlight, PromptFlight
from cluster.simulator.jobs import Request
from cluster.simulator.machine import Machine
from cluster.simulator.network import Network
from cluster.simulator.pipeline import Batches, Stages, decodes_of
from cluster.simulator.spans import Spans
from workers.engine.scheduler import ScheduledChunk, StepPlan, is_decode
from workers.engine.sequence import Sequence as Seq
from workers.engine.sequence import Status
from workers.model.contract import ChunkKind
from workers.spec import Role

HOUSEKEEPING_S = 0.5  # the engine looks again after so long where a plan had nothing to compute


class SimWorker:
    """Args:
    request: By request id; None: it has ended meanwhile.
    tell: What one step has to say to the ingress.
    report_soon: Work has come to a worker that was not reporting.
    machine: Where its steps and others' cost each other; None: nowhere.
    spans: Where to note what is done when, if anywhere.
    max_jump: Steps taken at once, at most; fewer change nothing but the time it takes.
    """

    def __init__(
        self,
        *,
        key: WorkerKey,
        index: int,
        pool: SimPool,
        cluster: SimCluster,
        queue: EventQueue,
        network: Network,
        request: Callable[[str], Request | None],
        tell: Callable[[WorkerKey, list[TokenOutput]], None],
        report_soon: Callable[["SimWorker"], None],
        machine: Machine | None,
        spans: Spans | None,
        max_jump: int,
    ) -> None:
        self.key = key
        self.index = index
        self.role = pool.role
        self.is_alive = True
        self.died_s = 0.0
        self.is_reporting = False  # the world's: a load report is due
        self.busy_s = 0.0
        self.peak_blocks = 0
        engine = self.engine = SimEngine(
            key=key,
            pool=pool,
            cluster=cluster,
            queue=queue,
            network=network,
            request=request,
            notify=self.wake,
            spans=spans,
        )
        self.blocks, self.scheduler, self.jobs, self.stats = engine.blocks, engine.scheduler, engine.jobs, engine.stats
        self.sending, self.receiving = engine.sending, engine.receiving
        self._latency = pool.latency
        self._num_stages = pool.latency.pipeline_stages
        self._has_drafter = pool.drafter is not None
        self._in_turns = pool.pipelining.in_turns
        self._stages = Stages(self._num_stages, pool.pipelining)
        self._batches = Batches(self._num_stages, pool.pipelining, seed=index)
        self._handover_s = cluster.handover_s
        self._receive_s = cluster.receive_s
        self._receive_token_s = pool.receive_token_s
        self._machine = machine
        if machine is not None:
            machine.join(index, self._machine_changed)
        self._queue = queue
        self._network = network
        self._tell = tell
        self._report_soon = report_soon
        self._spans = spans
        self._max_jump = max_jump
        self._run: DecodeFlight | None = None
        self._steps: deque[PromptFlight] = deque()  # in flight; more than one in a pipeline
        self._next_step: int | None = None  # number of the pending event, at `_next_s`
        self._next_s = 0.0
        self._entry_s = 0.0  # no step begins before
        self._has_news = False
        self._is_stepping = False

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.running or self.scheduler.waiting or self._steps)

    @property
    def is_idle(self) -> bool:
        return not (self.has_work or self.engine.has_commands or len(self.jobs) or self.engine.num_in_transfer)

    # When to look again.

    def wake(self) -> None:
        """There is news: for the step that follows the one in flight, or for now."""
        self._has_news = True
        if not self.is_reporting:
            self._report_soon(self)
        if not self.is_alive or self._is_stepping:
            return
        if self._run is not None:
            self._shorten(self._run)
        else:
            self._expect_step()

    def _machine_changed(self) -> None:
        """The step in flight takes what it began with; the next one does not."""
        if self._run is not None and self.is_alive:
            self._shorten(self._run)

    def _shorten(self, run: DecodeFlight) -> None:
        """To the step in flight."""
        run.num_steps = min(run.num_steps, run.num_ended(self._queue.now_s, self._has_passed_now()) + 1)
        if run.num_steps < run.target:
            self._look_again(run)

    def _look_again(self, run: DecodeFlight) -> None:
        run.target = min(run.num_done + self._max_jump, run.num_steps)
        self._look_at(run.end_s(run.target))

    def _expect_step(self) -> None:
        """Looks again when the first step in flight ends, or when another may begin if there is news."""
        times = [self._steps[0].end_s] if self._steps else []
        if self._has_news and len(self._steps) < self._num_stages:
            times.append(max(self._queue.now_s, self._entry_s))
        if times:
            self._look_at(min(times))

    def _look_at(self, at_s: float) -> None:
        if self._next_step is not None:
            if at_s == self._next_s:
                return
            self._queue.cancel(self._next_step)
        self._next_s = at_s
        self._next_step = self._queue.push_step(at_s, self.index, self._on_step)

    def _has_passed_now(self) -> bool:
        return self._queue.has_passed(self._queue.now_s, self.index)

    # Steps.

    def _on_step(self, _: None) -> None:
        """A step ends, or one may begin, or both."""
        self._next_step = None
        self._is_stepping = True
        now_s = self._queue.now_s
        if self._run is not None:
            self._end_run(self._run)
            self._has_news = self._run is None
        while self._steps and self._steps[0].end_s <= now_s:
            self._end_step(self._steps.popleft())
            self._has_news = True
        self._say()
        if self._run is None and len(self._steps) < self._num_stages and self._entry_s <= now_s:
            self._begin(now_s)
        self._is_stepping = False
        if self._run is None:
            self._expect_step()
        elif self._has_news:
            self._shorten(self._run)
        self._say()
        if self._machine is not None:
            self._machine.computes(self.index, self._run is not None or bool(self._steps))

    def _begin(self, now_s: float) -> None:
        engine = self.engine
        self._has_news = False
        engine.take_in(now_s)
        if engine.num_received and (self._receive_s or self._receive_token_s):
            cost_s = engine.num_received * self._receive_s + engine.num_received_tokens * self._receive_token_s
            # Every stage takes in its layers' share, after the steps that it has.
            self._entry_s = max(now_s, self._stages.all_free_s) + cost_s
            engine.num_received = engine.num_received_tokens = 0
            self._has_news = True
            return
        held_back = self._hold_back(now_s) if self._num_stages > 1 else ()
        plan = self.scheduler.plan(now_s, engine.drafts())
        for seq in held_back:
            self.scheduler.add_running(seq)
        if held_back and not (plan.chunks or self._steps):  # blocks are with those held back
            preempted, plan = plan.preempted, self.scheduler.plan(now_s, engine.drafts())
            plan.preempted = preempted + plan.preempted
        engine.note_plan(plan, now_s)
        self._note_peak()
        if plan.chunks:
            self.stats.step_begins(now_s)
            self._start(plan, now_s)
            return
        if self._in_turns and self._steps:
            self._entry_s = self._steps[0].end_s
        self.stats.no_step(now_s, is_stuck=self.has_work and not (engine.num_in_transfer or self._steps))
        if plan.preempted and not self._has_news:
            self._entry_s, self._has_news = now_s + HOUSEKEEPING_S, True

    def _hold_back(self, now_s: float) -> Sequence[Seq]:
        """Decodes of other batches than the one whose turn it is."""
        ready = [seq for seq in self.scheduler.running if is_decode(seq)]
        chosen = {seq.key for seq in self._batches.next_up(ready, decodes_of(self._steps), now_s)}
        held_back = [seq for seq in ready if seq.key not in chosen]
        for seq in held_back:
            self.scheduler.remove(seq)
        return held_back

    def _start(self, plan: StepPlan, now_s: float) -> None:
        chunks = plan.chunks
        decodes = [chunk.seq for chunk in chunks if chunk.kind is ChunkKind.DECODE]
        # A hand-over's last token alone looks like a decode.
        handing_over = self.role is Role.PREFILL and any(self.jobs.of(seq).handover is not None for seq in decodes)
        is_run = len(decodes) == len(self.scheduler.running) and not (plan.admitted or plan.preempted or handing_over)
        if is_run and self._num_stages == 1 and not self._has_drafter:
            latency = self._latency_now(has_prompts=False)
            self._run = DecodeFlight(seqs=decodes, latency=latency, blocks=self.blocks, start_s=now_s)
            self._look_again(self._run)
            return
        self.engine.offer(chunks)
        latency = self._latency_now(has_prompts=len(decodes) < len(chunks))
        step_s = latency.step_s(*_composition(chunks))
        if self._handover_s and self.role is Role.PREFILL:
            step_s += self._handover_s
        before = self._steps[-1] if self._steps else None
        end_s = self._stages.pass_through(now_s, step_s, len(chunks), before)
        self._steps.append(PromptFlight(chunks=chunks, start_s=now_s, end_s=end_s, num_decodes=len(decodes)))
        if self._num_stages > 1:
            self._entry_s, self._has_news = now_s if self._in_turns else self._stages.first_free_s, True
            for chunk in chunks:
                self.scheduler.remove(chunk.seq)

    def _latency_now(self, *, has_prompts: bool) -> LatencyModel:
        """Of a step that begins now."""
        factor = 1.0 if self._machine is None else self._machine.factor(self.index, has_prompts=has_prompts)
        return self._latency if factor == 1.0 else Slowed(self._latency, factor)

    def _end_run(self, run: DecodeFlight) -> None:
        """The run, or as much of it as may be taken at once, is done."""
        now_s = self._queue.now_s
        run.settle(run.target, num_planned=run.target)
        self.stats.waiting_since_s = now_s
        if run.target < run.num_steps:
            self._continue(run)
            return
        self._note_peak()
        self._run = None
        self._note_busy("decode", run.start_s, now_s, len(run.seqs))
        for seq in run.seqs:
            if len(seq.output_token_ids) >= seq.params.max_tokens:
                self.engine.finish(seq)
        if not self.has_work:
            self.stats.waiting_since_s = None

    def _continue(self, run: DecodeFlight) -> None:
        """Step by step: the scheduler must say what the run foresaw."""
        plan = self.scheduler.plan(self._queue.now_s)
        assert [chunk.seq for chunk in plan.chunks] == run.seqs, "a run of decode steps that was none"
        assert not plan.preempted + plan.admitted, "a run of decode steps that was none"
        run.planned()
        self._look_again(run)

    def _end_step(self, step: PromptFlight) -> None:
        now_s = self._queue.now_s
        num_prompts = len(step.chunks) - step.num_decodes
        kind = "decode" if not num_prompts else "mixed" if step.num_decodes else "prefill"
        self._note_busy(kind, step.start_s, now_s, len(step.chunks))
        chunks = step.chunks
        if self._num_stages > 1:
            chunks = [chunk for chunk in chunks if self.engine.is_served(chunk.seq)]
            for chunk in chunks:
                self.scheduler.add_running(chunk.seq)
        self.engine.computed(chunks, step.start_s)
        self.stats.step_done(now_s, step.start_s, StepPlan(chunks=list(step.chunks)), is_idle=not self.has_work)

    # What faults and the fleet do.

    def kill(self) -> None:
        """Dead at once. What its steps have told by now is on its way, the rest is lost with it."""
        self.settle()
        for job in self.jobs:
            if job.seq.status is Status.RUNNING:
                self.engine.tell_rest(job)
        self._say()
        self.is_alive = False
        now_s = self.died_s = self._queue.now_s
        if self._run is not None:
            self._note_busy("decode", self._run.start_s, now_s, len(self._run.seqs))
        if self._next_step is not None:
            self._queue.cancel(self._next_step)
        if self._machine is not None:
            self._machine.computes(self.index, False)
        self.engine.outbox.close()
        self.engine.inbox.close()
        self._network.forget(self.key)

    def drain(self) -> None:
        """Takes nothing new, finishes what runs; see `is_idle`."""
        self.engine.drain()

    def stall(self, duration_s: float) -> None:
        """Finishes no step for `duration_s`: the one in flight, or the next, takes so much longer."""
        self._entry_s = max(self._entry_s, self._queue.now_s) + duration_s
        self._stages.stall(duration_s, self._queue.now_s)
        for step in self._steps:
            step.end_s += duration_s
        if self._run is not None:
            self._shorten(self._run)
            self._run.delay_s += duration_s
            self._look_again(self._run)
        elif self._next_step is not None:
            self._look_at(self._next_s + duration_s)

    # What others see.

    def settle(self) -> None:
        """Brings sequences and blocks to where the steps that have ended by now left them."""
        run = self._run
        if run is not None:
            num_ended = run.num_ended(self._queue.now_s, self._has_passed_now())
            if num_ended > run.num_done:
                run.settle(num_ended, num_planned=num_ended + 1)
                self.stats.waiting_since_s = run.end_s(num_ended)

    def flush(self, request_id: str) -> TokenOutput | None:
        """The tokens of the request that the ingress would have been told of by now."""
        self.settle()
        job = self.jobs.find(request_id, 0)
        return self.engine.rest(job) if job is not None and job.seq.status is Status.RUNNING else None

    def report(self) -> WorkerState:
        """A load report, with the cache's changes since the last one."""
        self.settle()
        num_in_flight = sum(len(step.chunks) for step in self._steps) if self._num_stages > 1 else 0
        return self.engine.state(is_idle=self.is_idle, num_in_flight=num_in_flight)

    def _say(self) -> None:
        outputs = self.engine.outputs
        if outputs:
            self.engine.outputs = []
            self._tell(self.key, outputs)

    def _note_busy(self, kind: str, start_s: float, end_s: float, num_sequences: int) -> None:
        """Steps that overlap in a pipeline take their share each."""
        self.busy_s += (end_s - start_s) / self._num_stages
        if self._spans is not None:
            self._spans.worker(self.key.worker_id, kind, start_s, end_s, num_sequences)

    def _note_peak(self) -> None:
        num_used = self.blocks.num_referenced_blocks + self.blocks.num_quarantined_blocks
        self.peak_blocks = max(self.peak_blocks, num_used)


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
