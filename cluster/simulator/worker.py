"""One simulated worker: what `workers.engine.engine.Engine` does around a step, with a latency model for the model.

Scheduler, blocks, jobs, and both sides of hand-overs are production's own classes; the order of things in and between
steps is the engine's: take in what came, plan, run, say what came out. Left out: choices beyond the first, and
deadlines, which come as aborts from the ingress. Runs of decode steps of the same sequences are taken at once; what
comes in meanwhile takes effect at the end of the step in flight, as it would in the engine.

Tokens are told when somebody wants to know: the first at once, the others with the last, or when an attempt fails.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

from baton.errors import BatonError, InvalidRequestError, UnavailableError
from baton.v1.inference_pb2 import FINISH_REASON_ERROR, FINISH_REASON_LENGTH
from baton.v1.worker_pb2 import ROLE_DECODE, ROLE_MIXED, ROLE_PREFILL, Abort, Submit, TokenOutput, WorkerState
from cluster.planner.latency import PromptChunk
from cluster.router.workers import WorkerKey
from cluster.simulator.contract import SimCluster, SimPool
from cluster.simulator.events import EventQueue
from cluster.simulator.flight import DecodeFlight, PromptFlight
from cluster.simulator.links import Network, SimInbox, SimOutbox
from workers.engine.block_manager import BlockManager
from workers.engine.jobs import Job, JobTable
from workers.engine.receiving import Receiving
from workers.engine.scheduler import Scheduler, StepPlan, is_decode
from workers.engine.sending import Sending
from workers.engine.sequence import SamplingParams, Status
from workers.engine.sequence import Sequence as Seq
from workers.engine.stats import EngineStats
from workers.kv_transfer.link import Arrived, Offered, TransferKey
from workers.spec import Role

HOUSEKEEPING_S = 0.5  # the engine looks again after so long where a plan had nothing to compute
_ROLES = {Role.PREFILL: ROLE_PREFILL, Role.DECODE: ROLE_DECODE, Role.MIXED: ROLE_MIXED}


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker must know of a request that its Submit does not carry here."""

    num_prompt_tokens: int
    num_output_tokens: int
    block_hashes: list[int]  # of all blocks that prompt and output will fill; shared, not to be changed


@dataclass(slots=True, kw_only=True, eq=False)
class SimJob(Job):
    num_told: int = 0  # output tokens that the ingress was told of, or that another worker tells of
    told_first: bool = False


class SimWorker:
    """Args:
    request: By request id; None: it has ended meanwhile.
    tell: What one step has to say to the ingress.
    report_soon: Work has come to a worker that was not reporting.
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
        max_jump: int,
    ) -> None:
        engine = cluster.engine
        self.key = key
        self.index = index
        self.role = pool.role
        self.is_alive = True
        self.is_draining = False
        self.is_reporting = False  # the world's: a load report is due
        self.blocks = BlockManager(
            num_blocks=pool.num_blocks, block_size=engine.block_size, prefix_cache=engine.prefix_cache
        )
        self.scheduler = Scheduler(
            blocks=self.blocks,
            max_batched_tokens=engine.max_batched_tokens,
            max_sequences=engine.max_sequences,
            chunked_prefill=engine.chunked_prefill,
        )
        self.jobs = JobTable(lease_s=cluster.kv.lease_s)
        self.stats = EngineStats()
        self.busy_s = 0.0
        self.peak_blocks = 0
        self.outbox = SimOutbox(
            network=network,
            owner=key,
            token_bytes=cluster.token_bytes,
            num_layers=cluster.num_layers,
            notify=self.wake,
        )
        self.inbox = SimInbox(network=network, owner=key, notify=self.wake)
        self.sending = Sending(outbox=self.outbox, blocks=self.blocks)
        self.receiving = Receiving(inbox=self.inbox, blocks=self.blocks, scheduler=self.scheduler)
        network.outboxes[key], network.inboxes[key] = self.outbox, self.inbox
        self._cluster = cluster
        self._latency = pool.latency
        self._num_stages = pool.latency.pipeline_stages
        self._receive_token_s = pool.receive_token_s
        self._receiving_s = 0.0  # what KV that has come holds the next step up
        self._queue = queue
        self._network = network
        self._request = request
        self._tell = tell
        self._report_soon = report_soon
        self._max_jump = max_jump
        self._commands: deque[Callable[[], None]] = deque()
        self._outputs: list[TokenOutput] = []
        self._run: DecodeFlight | None = None
        self._steps: deque[PromptFlight] = deque()  # in flight; more than one in a pipeline
        self._next_step: int | None = None  # number of the pending event, at `_next_s`
        self._next_s = 0.0
        self._entry_s = 0.0  # no step begins before
        self._has_news = False
        self._is_stepping = False

    # Commands.

    def submit(self, submit: Submit) -> None:
        self._commands.append(partial(self._submit, submit))
        self.wake()

    def abort(self, abort: Abort) -> None:
        self._commands.append(partial(self._abort, abort))
        self.wake()

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

    def _shorten(self, run: DecodeFlight) -> None:
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

    # The loop.

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.running or self.scheduler.waiting or self._steps)

    @property
    def is_idle(self) -> bool:
        return not (self.has_work or self._commands or len(self.jobs) or self._in_transfer)

    @property
    def _in_transfer(self) -> int:
        return len(self.sending) + len(self.receiving)

    def _on_step(self, _: None) -> None:
        self._next_step = None
        self._is_stepping = True
        now_s = self._queue.now_s
        if self._run is not None:
            self._end_steps(self._run)
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

    def _begin(self, now_s: float) -> None:
        self._has_news = False
        self._take_in(now_s)
        if self._receiving_s:
            self._entry_s, self._receiving_s = now_s + self._receiving_s, 0.0
            self._has_news = True
            return
        held_back = self._hold_back() if self._num_stages > 1 else ()
        plan = self.scheduler.plan(now_s)
        for seq in held_back:
            self.scheduler.add_running(seq)
        self._handle_preempted(plan.preempted)
        self._note_peak()
        if plan.chunks:
            self.stats.step_begins(now_s)
            self._start(plan, now_s)
            return
        self.stats.no_step(now_s, is_stuck=self.has_work and not (self._in_transfer or self._steps))
        if plan.preempted and not self._has_news:
            self._entry_s, self._has_news = now_s + HOUSEKEEPING_S, True

    def _hold_back(self) -> Sequence[Seq]:
        """Decodes beyond this step's share: a pipeline is full when its steps share them out evenly."""
        ready = [seq for seq in self.scheduler.running if is_decode(seq)]
        num_flying = sum(step.num_decodes for step in self._steps)
        share = -(-(len(ready) + num_flying) // self._num_stages)
        for seq in ready[share:]:
            self.scheduler.remove(seq)
        return ready[share:]

    def _take_in(self, now_s: float) -> None:
        self.jobs.expire(now_s)
        while self._commands:
            self._commands.popleft()()
        for job, error, acked in self.sending.settled():
            self._settle_sent(job, error, acked)
        self._take_transfers(self.receiving)

    def _start(self, plan: StepPlan, now_s: float) -> None:
        chunks = plan.chunks
        decodes = [chunk.seq for chunk in chunks if is_decode(chunk.seq)]
        # A hand-over's last token alone looks like a decode.
        handing_over = self.role is Role.PREFILL and any(self.jobs.of(seq).handover is not None for seq in decodes)
        is_run = len(decodes) == len(self.scheduler.running) and not (plan.admitted or plan.preempted or handing_over)
        if is_run and self._num_stages == 1:
            self._run = DecodeFlight(seqs=decodes, latency=self._latency, blocks=self.blocks, start_s=now_s)
            self._look_again(self._run)
            return
        for chunk in chunks:
            job = self.jobs.of(chunk.seq)
            if job.handover is not None and not job.offered:
                self.sending.begin(job)
        prompts = [
            PromptChunk(chunk.num_tokens, chunk.seq.num_computed_tokens) for chunk in chunks if not is_decode(chunk.seq)
        ]
        num_context = sum(seq.num_tokens for seq in decodes)
        step_s = self._latency.step_s(prompts, len(decodes), num_context)
        end_s = max(now_s + step_s, self._steps[-1].end_s if self._steps else 0.0)  # no step overtakes another
        self._steps.append(PromptFlight(chunks=chunks, start_s=now_s, end_s=end_s, num_decodes=len(decodes)))
        if self._num_stages > 1:
            self._entry_s, self._has_news = now_s + step_s / self._num_stages, True
            for chunk in chunks:
                self.scheduler.remove(chunk.seq)

    def _end_steps(self, run: DecodeFlight) -> None:
        """The run, or as much of it as may be taken at once, is done."""
        now_s = self._queue.now_s
        run.settle(run.target, num_planned=run.target)
        self.stats.waiting_since_s = now_s
        if run.target < run.num_steps:
            self._continue(run)
            return
        self._note_peak()
        self._run = None
        self.busy_s += now_s - run.start_s
        for seq in run.seqs:
            if len(seq.output_token_ids) >= seq.params.max_tokens:
                job = self._job_of(seq)
                self._tell_tokens(job, finished=True)
                self._drop(job)
        if not self.has_work:
            self.stats.waiting_since_s = None

    def _continue(self, run: DecodeFlight) -> None:
        """Step by step: the scheduler must say what the run foresaw."""
        plan = self.scheduler.plan(self._queue.now_s)
        assert [chunk.seq for chunk in plan.chunks] == run.seqs, "a run of decode steps that was none"
        assert not (plan.preempted or plan.admitted), "a run of decode steps that was none"
        run.planned()
        self._look_again(run)

    def _end_step(self, step: PromptFlight) -> None:
        now_s = self._queue.now_s
        self.busy_s += now_s - step.start_s
        self.outbox.step_began_s = step.start_s
        chunks = step.chunks
        if self._num_stages > 1:
            chunks = [chunk for chunk in chunks if self._is_served(chunk.seq)]
            for chunk in chunks:
                self.scheduler.add_running(chunk.seq)
        jobs = [self._job_of(chunk.seq) for chunk in chunks]
        push = self.sending.on_layer(chunks, jobs)
        if push is not None:
            push(0)
        for chunk in chunks:
            chunk.seq.num_computed_tokens += chunk.num_tokens
            self.blocks.commit(chunk.seq)
        for job in jobs:
            if job.seq.num_uncomputed_tokens == 0:
                self._accept(job)
        self.outbox.flush()
        plan = StepPlan(chunks=list(step.chunks))
        self.stats.step_done(now_s, step.start_s, plan, is_idle=not self.has_work)

    def _is_served(self, seq: Seq) -> bool:
        """Whether it was not aborted while its step was in flight."""
        job = self.jobs.find(*seq.key)
        return job is not None and job.seq is seq

    # What a step's tokens mean.

    def _job_of(self, seq: Seq) -> SimJob:
        job = self.jobs.of(seq)
        assert isinstance(job, SimJob)
        return job

    def _accept(self, job: SimJob) -> None:
        """One token of `job` was sampled."""
        seq = job.seq
        num_cached_tokens = 0
        if not job.cached_reported:
            num_cached_tokens = min(seq.num_cached_tokens, len(seq.prompt_token_ids))
            job.cached_reported = True
        finished = len(seq.output_token_ids) + 1 >= seq.params.max_tokens
        seq.output_token_ids.append(0)
        if finished or not job.told_first:
            self._tell_tokens(job, finished=finished, num_cached_tokens=num_cached_tokens)
        if job.handover is not None:
            self._hand_over(job, [] if finished else [(0, 0)])
        elif finished:
            self._drop(job)

    def _tell_tokens(self, job: SimJob, *, finished: bool = False, num_cached_tokens: int = 0) -> None:
        message = _output(job.seq, job.num_told, len(job.seq.output_token_ids))
        message.num_cached_tokens = num_cached_tokens
        if finished:
            message.finish_reason = FINISH_REASON_LENGTH
        job.num_told = len(job.seq.output_token_ids)
        job.told_first = True
        self._outputs.append(message)

    def _hand_over(self, job: SimJob, going: list[tuple[int, int]]) -> None:
        job.seq.output_token_ids.pop()  # its KV is the decode worker's to compute
        self.scheduler.remove(job.seq)
        self.jobs.remove(job)
        job.choices = [choice for choice, _ in going]
        if self.sending.is_sending(job):
            self.sending.complete(job, going)
        else:  # the transfer ended before the prompt did
            self.blocks.free(job.seq)

    # Requests coming and going.

    def _submit(self, submit: Submit) -> None:
        handing_over = submit.HasField("decode")
        job = self._admit(submit, handing_over=handing_over)
        if job is None:
            return
        if handing_over:
            job.handover = TransferKey(submit.request_id, submit.attempt, job.seq.choice)
            job.submit = submit
        self.scheduler.add(job.seq)

    def _admit(self, submit: Submit, *, handing_over: bool) -> SimJob | None:
        """A new job in the table; None when it is old news, or was refused with a final output."""
        if self.jobs.is_buried(submit.request_id, submit.attempt, 0):
            return None
        existing = self.jobs.find(submit.request_id, 0)
        if existing is not None and existing.seq.attempt >= submit.attempt:
            return None
        if existing is not None:
            self._discard(existing)
        request = self._request(submit.request_id)
        if request is None:
            return None
        seq = self._sequence(submit, request)
        refusal = self._refusal(seq, handing_over=handing_over)
        if refusal is not None:
            self._outputs.append(_final(seq, refusal))
            return None
        job = SimJob(seq=seq, choices=[0], num_told=len(seq.output_token_ids))
        self.jobs.add(job)
        return job

    def _sequence(self, submit: Submit, request: Request) -> Seq:
        outputs = list(submit.choices[0].output_token_ids)
        now_s = self._queue.now_s
        return Seq(
            request_id=submit.request_id,
            choice=0,
            attempt=submit.attempt,
            ingress_id="",
            prompt_token_ids=range(request.num_prompt_tokens),  # type: ignore[arg-type]  # never read
            output_token_ids=outputs,
            params=_params(request.num_output_tokens),
            arrived_s=now_s,
            deadline_s=now_s + submit.timeout_s,
            block_hashes=request.block_hashes,
            num_started_outputs=len(outputs),
        )

    def _refusal(self, seq: Seq, *, handing_over: bool) -> BatonError | None:
        """Of `workers.engine.batching.misfit` the rules that lengths alone decide."""
        if self.is_draining:
            return UnavailableError(f"worker {self.key.worker_id} is draining; try another")
        max_model_len = self._cluster.max_model_len
        if seq.num_tokens >= max_model_len:
            return InvalidRequestError(
                f"prompt: {seq.num_tokens} tokens, but the model takes {max_model_len}", "prompt"
            )
        max_tokens = 1 if handing_over else seq.params.max_tokens - len(seq.output_token_ids)
        needed = -(-min(seq.num_tokens + max_tokens, max_model_len) // self.blocks.block_size)
        if needed > self.blocks.num_blocks:
            text = f"prompt: with max_tokens it needs {needed} blocks, a worker has {self.blocks.num_blocks}"
            return InvalidRequestError(text, "prompt")
        return None

    def _abort(self, abort: Abort) -> None:
        choices = list(abort.choices)
        self.jobs.bury(abort.request_id, abort.attempt, choices, self._queue.now_s)
        for job, _ in self.jobs.of_request(abort.request_id, choices, abort.attempt):
            self._discard(job)
        self.sending.abort_request(abort.request_id, abort.attempt, choices)

    def _discard(self, job: Job) -> None:
        """Ends a job without a word; its blocks are free now, or when its transfer lets go of them."""
        self.jobs.remove(job)
        if job.seq.status is Status.RECEIVING:
            self.receiving.abort(job)
            return
        self.scheduler.remove(job.seq)
        if self.sending.is_sending(job):
            self.sending.abort(job)
            return
        self.blocks.free(job.seq)
        job.seq.status = Status.FINISHED

    def _drop(self, job: Job) -> None:
        """The job has sent its last token."""
        self.scheduler.remove(job.seq)
        self.blocks.free(job.seq)
        self.jobs.remove(job)
        job.seq.status = Status.FINISHED

    def _end(self, job: Job, error: BatonError, *, code: str | None = None) -> None:
        assert isinstance(job, SimJob)
        if job.num_told < len(job.seq.output_token_ids):
            self._tell_tokens(job)
        self._outputs.append(_final(job.seq, error, code=code))
        self._discard(job)

    def _handle_preempted(self, preempted: Sequence[Seq]) -> None:
        """Short ones are read again here; long ones of a decode worker, and hand-overs, are worth a new attempt."""
        self.stats.num_preemptions += len(preempted)
        for seq in preempted:
            job = self.jobs.of(seq)
            if job.handover is not None and self.sending.is_sending(job):
                self.sending.forget_blocks(job)
                self._end(job, UnavailableError("preempted while handing over"), code="preempted")
            elif self.role is Role.DECODE and seq.num_tokens > self._cluster.engine.max_batched_tokens:
                self._end(job, UnavailableError("preempted: out of blocks"), code="preempted")

    # Transfers.

    def _settle_sent(self, job: Job, error: BatonError | None, acked: bool) -> None:
        """A transfer that failed ends its choices with a retryable error, unless they were aborted before."""
        if acked or error is None:
            return
        retryable = error if error.retryable else UnavailableError(f"hand-over failed: {error.message}")
        self._outputs += [_final(job.seq, retryable) for _ in job.choices]
        if job.seq.status is not Status.SENDING:  # still computing: stop it
            self._discard(job)

    def _take_transfers(self, receiving: Receiving) -> None:
        offered, arrived, lost = receiving.offers()
        for offer in offered:
            self._take_offer(receiving, offer)
        for job, arrival in arrived:
            self._start_decoding(job, arrival)
        for job, _ in lost:
            self.jobs.remove(job)
        receiving.grant()

    def _take_offer(self, receiving: Receiving, offer: Offered) -> None:
        if self.is_draining:
            receiving.refuse(offer.key, UnavailableError(f"worker {self.key.worker_id} is draining; try another"))
            return
        job = self._admit(offer.submit, handing_over=False)
        if job is None:
            receiving.refuse(offer.key, UnavailableError("the request was aborted, or a newer attempt is here"))
            return
        job.handover = offer.key
        job.cached_reported = True
        receiving.enqueue(job)

    def _start_decoding(self, job: Job, arrival: Arrived) -> None:
        seq = job.seq
        assert isinstance(job, SimJob)
        assert arrival.num_tokens == seq.num_tokens, f"{arrival.key}: {arrival.num_tokens} of {seq.num_tokens} tokens"
        seq.num_computed_tokens = arrival.num_tokens
        self._receiving_s += arrival.num_tokens * self._receive_token_s
        job.handover = None
        self.blocks.commit(seq)
        if not arrival.first_tokens:
            self._drop(job)
            return
        self.scheduler.add_running(seq)
        seq.output_token_ids.append(0)
        job.num_told = len(seq.output_token_ids)  # the prefill worker tells of it
        job.told_first = True

    # What faults and the fleet do.

    def kill(self) -> None:
        """Dead at once. What its steps have told by now is on its way, the rest is lost with it."""
        self.settle()
        for job in self.jobs:
            if job.seq.status is Status.RUNNING and self._job_of(job.seq).num_told < len(job.seq.output_token_ids):
                self._tell_tokens(self._job_of(job.seq))
        self._say()
        self.is_alive = False
        if self._run is not None:
            self.busy_s += self._queue.now_s - self._run.start_s
        if self._next_step is not None:
            self._queue.cancel(self._next_step)
        self.outbox.close()
        self.inbox.close()
        self._network.forget(self.key)

    def drain(self) -> None:
        """Takes nothing new, finishes what runs; see `is_idle`."""
        self._commands.append(self._drain)
        self.wake()

    def _drain(self) -> None:
        self.is_draining = True
        for job in self.receiving.refuse_pending():
            self.jobs.remove(job)

    def stall(self, duration_s: float) -> None:
        """Finishes no step for `duration_s`: the one in flight, or the next, takes so much longer."""
        now_s = self._queue.now_s
        self._entry_s = max(self._entry_s, now_s) + duration_s
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
        job = self.jobs.find(request_id, 0)
        if job is None or self._run is None:
            return None
        self.settle()
        assert isinstance(job, SimJob)
        if job.num_told >= len(job.seq.output_token_ids):
            return None
        self._tell_tokens(job)
        return self._outputs.pop()

    def report(self) -> WorkerState:
        """A load report, with the cache's changes since the last one."""
        self.settle()
        blocks, scheduler = self.blocks, self.scheduler
        added, removed = blocks.drain_cache_events()
        return WorkerState(
            worker_id=self.key.worker_id,
            incarnation=self.key.incarnation,
            role=_ROLES[self.role],
            draining=self.is_draining,
            block_size=blocks.block_size,
            max_model_len=self._cluster.max_model_len,
            max_sequences=self._cluster.engine.max_sequences,
            num_blocks=blocks.num_blocks,
            num_free_blocks=blocks.num_free_blocks,
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting) + self.receiving.num_pending,
            num_waiting_tokens=scheduler.num_waiting_tokens,
            prefill_tokens_per_s=self.stats.prefill_tokens_per_s,
            since_progress_s=self.stats.since_progress_s(self._queue.now_s),
            added_block_hashes=added,
            removed_block_hashes=removed,
        )

    def _say(self) -> None:
        if self._outputs:
            outputs, self._outputs = self._outputs, []
            self._tell(self.key, outputs)

    def _note_peak(self) -> None:
        num_used = self.blocks.num_referenced_blocks + self.blocks.num_quarantined_blocks
        self.peak_blocks = max(self.peak_blocks, num_used)


@cache
def _params(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, ignore_eos=True)


def _output(seq: Seq, start: int, end: int) -> TokenOutput:
    return TokenOutput(
        request_id=seq.request_id, choice=0, attempt=seq.attempt, index=start, token_ids=seq.output_token_ids[start:end]
    )


def _final(seq: Seq, error: BatonError, *, code: str | None = None) -> TokenOutput:
    message = _output(seq, len(seq.output_token_ids), len(seq.output_token_ids))
    message.finish_reason = FINISH_REASON_ERROR
    message.error.code = code or error.code
    message.error.message = error.message
    message.error.retryable = error.retryable
    return message
