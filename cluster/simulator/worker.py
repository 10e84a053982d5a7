"""One simulated worker: when it looks at its steps, what it does then, and what others do to it.

The order of things is `workers.engine.engine.Engine.step`'s: take in what came, plan, run, say what came out. What they
mean is `engine.SimEngine`'s, what a step takes is that of `step_costs`. Steps of prompts are `steps`' (or, of several
stages, `pipeline`'s); runs of decode steps of the same sequences are taken at once, see `jumps`. What comes in
meanwhile takes effect at the end of the step in flight, as it would in the engine.
"""

from collections.abc import Callable

from baton.v1.worker_pb2 import TokenOutput, WorkerState
from cluster.contracts.simulation import SimCluster, SimPool
from cluster.router.workers import WorkerKey
from cluster.simulator.alarm import StepAlarm
from cluster.simulator.decode_run import DecodeRun
from cluster.simulator.engine import SimEngine
from cluster.simulator.events import EventQueue
from cluster.simulator.jobs import Request
from cluster.simulator.jumps import Jumps
from cluster.simulator.machine import Machine
from cluster.simulator.network import Network
from cluster.simulator.occupancy import Occupancy
from cluster.simulator.pipeline import steps_of
from cluster.simulator.spans import Spans
from cluster.simulator.step_costs import StepCosts
from cluster.simulator.steps import StepInFlight
from workers.engine.scheduler import StepPlan
from workers.engine.sequence import Status
from workers.spec import Role

HOUSEKEEPING_S = 0.5  # the engine looks again after so long where a plan had nothing to compute


class SimWorker:
    """Args:
    role: That it begins in.
    request: By request id; None: it has ended meanwhile.
    tell: What one step has to say to the ingress.
    report_soon: Work has come to a worker that was not reporting.
    report_now: It has another role.
    machine: Where its steps and others' cost each other; None: nowhere.
    spans: Where to note what is done when, if anywhere.
    max_jump: See `jumps`.
    """

    def __init__(
        self,
        *,
        key: WorkerKey,
        index: int,
        pool: SimPool,
        role: Role,
        cluster: SimCluster,
        queue: EventQueue,
        network: Network,
        request: Callable[[str], Request | None],
        tell: Callable[[WorkerKey, list[TokenOutput]], None],
        report_soon: Callable[["SimWorker"], None],
        report_now: Callable[["SimWorker"], None],
        machine: Machine | None,
        spans: Spans | None,
        max_jump: int,
    ) -> None:
        self.key = key
        self.index = index
        self.is_alive = True
        self.died_s = 0.0
        self.is_reporting = False  # the world's: a load report is due
        engine = self.engine = SimEngine(
            key=key,
            pool=pool,
            role=role,
            cluster=cluster,
            queue=queue,
            network=network,
            request=request,
            notify=self.wake,
            spans=spans,
            worker=index,
        )
        self.blocks, self.scheduler, self.jobs, self.stats = engine.blocks, engine.scheduler, engine.jobs, engine.stats
        self.sending, self.receiving = engine.sending, engine.receiving
        self._queue = queue
        self._tell = tell
        self._report_soon = report_soon
        self._report_now = report_now
        self._told_role = role
        self._alarm = StepAlarm(queue, index, self._on_step)
        self._steps = steps_of(pool, engine.scheduler, is_served=engine.is_served, seed=index)
        self._jumps = Jumps(
            queue=queue,
            alarm=self._alarm,
            blocks=engine.blocks,
            scheduler=engine.scheduler,
            stats=engine.stats,
            hands_over=engine.hands_over,
            max_jump=max_jump if self._steps.num_stages == 1 and not engine.has_drafts else 0,
        )
        self._costs = StepCosts(pool=pool, role=lambda: self.role, cluster=cluster, machine=machine, worker=index)
        self.occupancy = Occupancy(
            worker_id=key.worker_id, blocks=engine.blocks, num_stages=self._steps.num_stages, spans=spans
        )
        self._machine = machine
        if machine is not None:
            machine.join(index, self._machine_changed)
        self._has_news = self._is_stepping = False

    @property
    def role(self) -> Role:
        """Of now."""
        return self.engine.serving.role

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
        if self.is_alive and not self._is_stepping:
            self._expect_step()

    def _machine_changed(self) -> None:
        """The step in flight takes what it began with; the next one does not."""
        if self.is_alive:
            self._jumps.shorten()

    def _expect_step(self) -> None:
        if self._jumps.run is not None:
            if self._has_news:
                self._jumps.shorten()
        elif (at_s := self._steps.next_s(self._queue.now_s, has_news=self._has_news)) is not None:
            self._alarm.set(at_s)

    # Steps.

    def _on_step(self) -> None:
        """A step ends, or one may begin, or both."""
        self._is_stepping = True
        now_s = self._queue.now_s
        if self._jumps.run is not None:
            self._has_news = self._end_jump()
        while (step := self._steps.take_ended(now_s)) is not None:
            self._end_step(step)
            self._has_news = True
        self._say()
        if self._jumps.run is None and self._steps.may_begin(now_s):
            self._begin(now_s)
        self._is_stepping = False
        self._expect_step()
        self._say()
        if self._machine is not None:
            self._machine.computes(self.index, self._jumps.run is not None or bool(self._steps))

    def _begin(self, now_s: float) -> None:
        engine = self.engine
        self._has_news = False
        engine.take_in(now_s)
        receiving_s = self._costs.receiving_s(*engine.take_received())
        if receiving_s:
            self._steps.receive(receiving_s, now_s)
            self._has_news = True
            return
        plan = self._steps.plan(now_s, engine.drafts)
        engine.note_plan(plan)
        self.occupancy.look_at_blocks()
        if plan.chunks:
            self.stats.step_begins(now_s)
            self._start(plan, now_s)
            return
        self._steps.found_nothing()
        self.stats.no_step(now_s, is_stuck=self.has_work and not (engine.num_in_transfer or self._steps))
        if plan.preempted and not self._has_news:
            self._steps.wait_until(now_s + HOUSEKEEPING_S)
            self._has_news = True

    def _start(self, plan: StepPlan, now_s: float) -> None:
        if self._jumps.can_begin(plan):
            self._jumps.begin(plan, self._costs.decode_latency())
            return
        self.engine.offer(plan.chunks)
        self._steps.begin(plan.chunks, self.engine.drafting_s + self._costs.step_s(plan.chunks), now_s)
        self._has_news = self._has_news or self._steps.num_stages > 1

    def _end_jump(self) -> bool:
        """False: the run of decode steps goes on."""
        run = self._jumps.reach()
        if run is None:
            return False
        self.occupancy.look_at_blocks()
        self._note_run(run)
        for seq in run.seqs:
            if len(seq.output_token_ids) >= seq.params.max_tokens:
                self.engine.finish(seq)
        if not self.has_work:
            self.stats.waiting_since_s = None
        return True

    def _end_step(self, step: StepInFlight) -> None:
        now_s = self._queue.now_s
        self.occupancy.add_steps(step.kind, step.start_s, now_s, len(step.chunks))
        self.engine.computed(self._steps.computed(step), step.start_s)
        self.stats.step_done(now_s, step.start_s, step.chunks, is_idle=not self.has_work)

    def _note_run(self, run: DecodeRun) -> None:
        self.stats.decoded(run.num_done, len(run.seqs), self._queue.now_s - run.start_s)
        self.occupancy.add_steps("decode", run.start_s, self._queue.now_s, len(run.seqs))

    # What faults and the fleet do.

    def kill(self) -> None:
        """Dead at once. What its steps have told by now is on its way, the rest is lost with it."""
        self.sync()
        for job in self.jobs:
            if job.seq.status is Status.RUNNING:
                self.engine.outputs.tell_rest(job)
        self._say()
        self.is_alive = False
        self.died_s = self._queue.now_s
        if self._jumps.run is not None:
            self._note_run(self._jumps.run)
        self._alarm.cancel()
        if self._machine is not None:
            self._machine.computes(self.index, False)
        self.engine.close()

    def stall(self, duration_s: float) -> None:
        """Finishes no step for `duration_s`: the one in flight, or the next, takes so much longer."""
        self._steps.stall(duration_s, self._queue.now_s)
        if self._jumps.run is not None:
            self._jumps.stall(duration_s)
        else:
            self._alarm.delay(duration_s)

    # What others see.

    def sync(self) -> None:
        """Brings sequences and blocks to where the steps that have ended by now left them."""
        self._jumps.sync()

    def flush(self, request_id: str) -> TokenOutput | None:
        """The tokens of the request that the ingress would have been told of by now."""
        self.sync()
        job = self.jobs.find(request_id, 0)
        return self.engine.outputs.take_rest(job) if job is not None and job.seq.status is Status.RUNNING else None

    def report(self) -> WorkerState:
        """A load report, with the cache's changes since the last one."""
        self.sync()
        num_taken = self._steps.num_sequences_taken
        return self.engine.load_reports.next(self._queue.now_s, is_idle=self.is_idle, num_in_flight=num_taken)

    def _say(self) -> None:
        if self.role is not self._told_role:  # who was given back must not be sent here again
            self._told_role = self.role
            self._report_now(self)
        if outputs := self.engine.outputs.take():
            self._tell(self.key, outputs)
