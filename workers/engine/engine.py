"""One worker's loop: take what came in, plan a step, run it, say what came out.

`step()` is the whole of it. Where the runner has a device of its own, a step is launched before the one before it has
landed, as far as what it computes is known then: `workers.engine.flight`. The engine owns its jobs and their blocks;
commands and link events are queued by other threads and taken at the start of a step, so nothing here needs a lock.
What they mean is `serving.Serving`'s to say. Which worker serves what is the router's business, KV the links'.
"""

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from baton.errors import BatonError
from baton.v1 import worker_pb2
from workers.engine import wire
from workers.engine.adapter_commands import AdapterCommands
from workers.engine.adapter_table import AdapterTable
from workers.engine.answers import Answers
from workers.engine.batching import keep_right, make_batch, unservable
from workers.engine.draft import FORCED
from workers.engine.drafting import Speculation, forced
from workers.engine.flight import Done, Flight, must_land
from workers.engine.following import Grammars
from workers.engine.job_trace import JobTrace
from workers.engine.jobs import Job
from workers.engine.landing import Landing
from workers.engine.load_report import LoadReport, load_report
from workers.engine.measures import EngineMeasures
from workers.engine.receiving import Receiving
from workers.engine.role_commands import RoleCommands
from workers.engine.scheduler import Drafts, ScheduledChunk, Scheduler, StepPlan, is_decode
from workers.engine.sending import Sending
from workers.engine.sequence import Sequence as Seq
from workers.engine.serving import Serving
from workers.engine.stateful_blocks import new_blocks
from workers.kv_transfer.link import Inbox, Outbox
from workers.memory_shares import MemoryShares
from workers.model.contract import Batch, ChunkKind, DeviceLostError, Launched, ModelRunner
from workers.spec import WorkerSpec

logger = logging.getLogger(__name__)
HOUSEKEEPING_S = 0.5


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step, or its beginning, has to tell; `outputs` by ingress id."""

    outputs: dict[str, list[worker_pb2.TokenOutput]]
    added_hashes: list[int]
    removed_hashes: list[int]
    load: LoadReport  # after the step


class Engine:
    """Drives one runner. `submit`, `abort`, `disconnect`, `drain`, `wake` and `stop` may be called from any thread.

    Args:
        emit: Called from the engine's thread with each step's report, if there is anything new in it, and before a
            step with what has come in since the last one: a step may take long.
        clock: Seconds, monotonic.
        speculation: Proposes draft tokens; None: every step gives each sequence one token, and what grammars force.
        grammars: Of answers that must follow one; None: such requests are refused.
    """

    def __init__(
        self,
        *,
        runner: ModelRunner,
        spec: WorkerSpec,
        emit: Callable[[StepReport], None],
        clock: Callable[[], float],
        speculation: Speculation | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        engine = spec.engine
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self.runner = runner
        self.spec = spec
        self.blocks = new_blocks(
            MemoryShares(runner.num_blocks, runner.num_states, runner.state_spacing),
            block_size=engine.block_size,
            prefix_cache=engine.prefix_cache,
            copy_states=runner.copy_states,
        )
        self.scheduler = Scheduler(
            blocks=self.blocks,
            max_batched_tokens=engine.max_batched_tokens,
            max_sequences=engine.max_sequences,
            chunked_prefill=engine.chunked_prefill,
            state_spacing=runner.state_spacing,
        )
        self.serving = Serving(
            worker_id=spec.worker_id,
            role=spec.role,
            max_step_tokens=engine.max_batched_tokens,
            blocks=self.blocks,
            scheduler=self.scheduler,
            lease_s=spec.kv.lease_s,
            read=self._read,
            unservable=self._unservable,
            tell=self._tell,
            copy_blocks=runner.copy_blocks,
            vocab_size=runner.vocab_size,
            grammars=grammars,
            later=self._command,
            adapters=AdapterTable(spec.worker_id, spec.adapters),
        )
        self.jobs, self.stats = self.serving.jobs, self.serving.stats
        self._measures = EngineMeasures()
        self._landing = Landing(
            serving=self.serving,
            answers=Answers(runner=runner, serving=self.serving, tell=self._tell),
            measures=self._measures,
            clock=clock,
        )
        self.adapters = AdapterCommands(
            runner=runner, table=self.serving.adapters, jobs=self.jobs, command=self._command
        )
        self.roles = RoleCommands(serving=self.serving, command=self._command, give_back=self._give_back)
        self.outbox: Outbox | None = None
        self.inbox: Inbox | None = None
        self._emit = emit
        self._clock = clock
        self._speculation: Speculation | None = None
        self._max_draft_tokens: int | None = None  # None: as the speculation began
        self.speculate(speculation)
        self._grammars = grammars
        self._flight: Flight | None = None
        self._num_launched = 0  # steps
        self._stopped = False
        self._outputs: dict[str, list[worker_pb2.TokenOutput]] = defaultdict(list)
        self._housekeeping_s = 0.0
        self.load = self._load()  # the last one told

    def connect(self, outbox: Outbox | None, inbox: Inbox | None) -> None:
        """Attaches the links; before the first step."""
        self.outbox, self.inbox = outbox, inbox
        self.serving.connect(outbox, inbox)

    def speculate(self, speculation: Speculation | None) -> None:
        """From now on; None: not at all. Before the first step, or of the engine's thread."""
        self._speculation = speculation
        if speculation is not None and self._max_draft_tokens is not None:
            speculation.limit(self._max_draft_tokens)
        if speculation is not None and speculation.job_watch is not None:
            self.jobs.watch, self.stats.guesses = speculation.job_watch, speculation.job_watch.counts

    @property
    def sending(self) -> Sending | None:
        return self.serving.sending

    @property
    def receiving(self) -> Receiving | None:
        return self.serving.receiving

    # Commands, from any thread.

    def submit(self, ingress_id: str, submit: worker_pb2.Submit) -> None:
        self._command(partial(self.serving.submit, ingress_id, submit))

    def abort(self, abort: worker_pb2.Abort) -> None:
        self._command(lambda: self.serving.abort(abort, self._clock()))

    def disconnect(self, ingress_id: str) -> None:
        """The ingress is gone: ends all that it asked for."""
        self._command(partial(self.serving.disconnect, ingress_id))

    def drain(self) -> None:
        self._command(self.serving.drain)

    def tune(self, max_batched_tokens: int, max_draft_tokens: int) -> None:
        """Limits from the next step on; which tokens are written does not depend on them."""
        self._command(partial(self._tune, max_batched_tokens, max_draft_tokens))

    def _tune(self, max_batched_tokens: int, max_draft_tokens: int) -> None:
        self.scheduler.set_budget(max_batched_tokens)
        self._max_draft_tokens = max_draft_tokens
        if self._speculation is not None:
            self._speculation.limit(max_draft_tokens)

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def _command(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._wake.set()

    # The loop.

    def run(self) -> None:
        """Steps until `stop`; sleeps while there is nothing to do."""
        try:
            while not self._stopped:
                self._wake.clear()
                if not self.step():
                    self._wake.wait(HOUSEKEEPING_S)
        finally:
            if self.jobs.watch is not None:
                self.jobs.watch.close()

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.running or self.scheduler.waiting)

    @property
    def is_idle(self) -> bool:
        """Nothing computed, nothing in transfer, nothing asked. For the engine's thread; others look at reports."""
        is_asked = bool(self._commands or len(self.jobs) or self.serving.num_in_transfer)
        return not (self.has_work or is_asked or self._flight is not None)

    def step(self) -> bool:
        """One step; whether the next one should follow at once."""
        may_draft = not self._passes()
        if may_draft:
            self._land()
        now_s = self._clock()
        has_news = self._take_in(now_s)
        was_in_flight = self._flight is not None
        plan = self._plan(now_s, may_draft=may_draft)
        if plan.admitted:
            self._measures.admitted(plan.admitted, self._clock())
        for job, error in self.serving.preempted(plan.preempted) if plan.preempted else ():
            self.serving.end(job, error)
        self._trace_anew(plan.preempted)
        if plan.chunks:
            self.stats.step_begins(now_s)
            if has_news or plan.admitted or plan.preempted:
                self._report()
            self._launch(plan, now_s)
        elif self._flight is not None:
            self._land()
        else:
            # What waits for blocks that transfers hold is held back, not stuck: leases bound it.
            self.stats.no_step(self._clock(), is_stuck=self.has_work and not self.serving.num_in_transfer)
        self._report()
        return bool(plan.chunks or self._commands or was_in_flight)

    def _passes(self) -> bool:
        """Whether the next step goes without guesses, so that it may be planned while one is in flight."""
        if self._speculation is None:
            return True
        return self.runner.runs_ahead and self._speculation.passes(len(self.scheduler.running))

    def _plan(self, now_s: float, *, may_draft: bool) -> StepPlan:
        plan = self.scheduler.plan(now_s, self._drafts(may_draft=may_draft), is_ahead=self._flight is not None)
        if not plan.is_short:
            return plan
        self._land()
        return self.scheduler.plan(now_s, self._drafts(may_draft=may_draft))

    def _take_in(self, now_s: float) -> bool:
        """Whether anything was there."""
        has_news = bool(self._commands)
        while self._commands:
            self._commands.popleft()()
        has_news |= bool(self.serving.take_transfers(now_s))
        self._give_back()
        if now_s - self._housekeeping_s >= HOUSEKEEPING_S:
            self._housekeeping_s = now_s
            self.jobs.expire(now_s)
            self.serving.end_overdue(now_s)
            if self.is_idle:
                self.blocks.check_integrity()
        return has_news

    def _give_back(self) -> int:
        """Ends what the role has no place for any more; how many choices those were."""
        leaving = self.serving.leaving()
        num_choices = sum(len(job.choices) for job, _ in leaving)
        for job, error in leaving:
            self.serving.end(job, error)
        return num_choices

    def _drafts(self, *, may_draft: bool) -> Drafts | None:
        """For all that go on decoding here: of a hand-over, this worker writes one token.

        Args:
            may_draft: Guesses too; else what grammars force alone.
        """
        speculation = self._speculation if may_draft else None
        if speculation is None and not self.jobs.num_with_grammar:
            return None
        decodes = [seq for seq in self.scheduler.running if is_decode(seq)]
        seqs = [seq for seq in decodes if self.jobs.of(seq).handover is None]
        drafts: Drafts = {}
        if speculation is not None:
            drafts = speculation.drafts([seq for seq in seqs if seq.params.speculation], len(decodes))
        if self.jobs.num_with_grammar:
            drafts = {**drafts, **forced(seqs, self.runner.max_model_len)}
        return drafts

    def _learn(self, speculation: Speculation, chunks: list[ScheduledChunk], took_s: float) -> None:
        num_right = [len(chunk.right) for chunk in chunks]
        speculation.learn(chunks, num_right, took_s)
        drafted = [
            (chunk.draft.depths, right)
            for chunk, right in zip(chunks, num_right, strict=True)
            if chunk.draft.kind != FORCED  # what a grammar forces is no guess
        ]
        num_decodes = sum(chunk.kind is ChunkKind.DECODE for chunk in chunks)
        self.stats.drafted(drafted, num_decodes, took_s, speculation.drafting_s)
        self.stats.num_cut_draft_tokens = self.scheduler.num_cut_draft_tokens

    def _launch(self, plan: StepPlan, now_s: float) -> None:
        """Launches a step, and then lands the one before it; itself, where nothing may be launched before that."""
        chunks = plan.chunks
        jobs = [self.jobs.of(chunk.seq) for chunk in chunks]
        self.serving.offer(jobs)
        on_layer = self.sending.on_layer(chunks, jobs) if self.sending is not None else None
        watch = self._speculation.watch if self._speculation else None
        batch, owners = make_batch(plan, jobs, watch, self._grammars if self.jobs.num_with_grammar else None)
        runs_ahead = self.runner.runs_ahead
        try:
            launch = self.runner.launch if runs_ahead else self._run
            launched = launch(batch, on_layer)
        except DeviceLostError:  # the worker ends, and others go on with what it had
            raise
        except Exception as error:
            self._landing.fail(jobs, error)
            self._land()
            return
        self._num_launched += 1
        flight = Flight(
            number=self._num_launched,
            chunks=chunks,
            jobs=jobs,
            batch=batch,
            owners=owners,
            launched=launched,
            began_s=now_s,
        )
        is_last = not runs_ahead or must_land(batch, chunks, self.runner.state_spacing)
        flight.takes_off(self.runner.max_model_len)
        self._land(is_followed=True)
        self._flight = flight
        if is_last:
            if self._outputs:  # those who wait for them shall not wait for this step
                self._report()
            self._land()

    def _run(self, batch: Batch, on_layer: Callable[[int], None] | None) -> Launched:
        return Done(self.runner.run(batch, on_layer))

    def _land(self, *, is_followed: bool = False) -> None:
        """Waits for the step in flight, if there is one, and says what it gave. `is_followed`: another one flies."""
        flight, self._flight = self._flight, None
        if flight is None:
            return
        chunks = flight.chunks
        try:
            sampled = flight.launched.result()
            if moves := keep_right(chunks, flight.owners, sampled, self.blocks.block_size):
                self.runner.copy_tokens(moves)
        except DeviceLostError:
            raise
        except Exception as error:
            flight.lands()
            self._landing.fail(flight.jobs, error)
        else:
            flight.lands()
            began_s, ended_s = self._landing.take(flight, sampled)
            if self._speculation is not None:
                self._learn(self._speculation, chunks, ended_s - began_s)
            self.stats.step_done(ended_s, began_s, chunks, is_idle=not (self.has_work or is_followed))
            self._measures.step(chunks, ended_s - began_s)
        self.blocks.landed(flight.number)

    def _trace_anew(self, preempted: list[Seq]) -> None:
        for seq in preempted:
            job = self.jobs.find(*seq.key)
            if job is not None:
                job.num_preemptions += 1
                job.trace = JobTrace(num_preemptions=job.num_preemptions)

    # What serving asks.

    def _read(self, ingress_id: str, submit: worker_pb2.Submit) -> Job:
        seq = wire.sequence(submit, ingress_id, self._clock())
        if (wanted := wire.adapter_name(submit)) is not None:
            held = self.serving.adapters.find(wanted)
            seq.adapter_id, seq.root_hash = held.adapter_id, held.root_hash
        return Job(seq=seq, choices=[choice.choice for choice in submit.choices], trace=JobTrace())

    def _unservable(self, seq: Seq, handing_over: bool) -> BatonError | None:
        return unservable(seq, self.runner, self.spec.engine.block_size, handing_over=handing_over)

    def _tell(self, ingress_id: str, message: worker_pb2.TokenOutput) -> None:
        self._outputs[ingress_id].append(message)

    def _load(self) -> LoadReport:
        measures = self._measures.message(self._clock(), self.outbox, self.inbox)
        return load_report(self.serving, self.outbox, self.inbox, is_idle=self.is_idle, measures=measures)

    def _report(self) -> None:
        added, removed = self.blocks.drain_cache_events()
        load = self._load()
        if self._outputs or added or removed or load != self.load:
            self.load = load
            outputs, self._outputs = self._outputs, defaultdict(list)
            self._emit(StepReport(outputs, added, removed, load))
