"""One worker's loop: take what came in, plan a step, run it, say what came out.

`step()` is the whole of it. The engine owns its jobs and their blocks; commands and link events are queued by other
threads and taken at the start of a step, so nothing here needs a lock. Which worker serves what is the router's
business, moving KV is the links'.
"""

import contextlib
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from baton.errors import BatonError, DeadlineExceededError, InternalError, UnavailableError
from baton.v1 import worker_pb2
from workers.engine import wire
from workers.engine.batching import finish_reason, make_batch, misfit
from workers.engine.block_manager import BlockManager, OutOfBlocksError
from workers.engine.jobs import Job, JobTable
from workers.engine.receiving import Receiving
from workers.engine.scheduler import Scheduler, StepPlan
from workers.engine.sending import Sending
from workers.engine.sequence import FinishReason, Status
from workers.engine.sequence import Sequence as Seq
from workers.engine.stats import EngineStats
from workers.kv_transfer.link import Arrived, Inbox, Offered, Outbox, TransferKey
from workers.model.contract import ModelRunner, Sampled
from workers.spec import Role, WorkerSpec

logger = logging.getLogger(__name__)
HOUSEKEEPING_S = 0.5


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step has to tell; `outputs` by ingress id."""

    outputs: dict[str, list[worker_pb2.TokenOutput]]
    added_hashes: list[int]
    removed_hashes: list[int]


class Engine:
    """Drives one runner. `submit`, `abort`, `disconnect`, `drain`, `wake` and `stop` may be called from any thread.

    Args:
        emit: Called from the engine's thread with each step's report, if there is anything in it.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        runner: ModelRunner,
        spec: WorkerSpec,
        emit: Callable[[StepReport], None],
        clock: Callable[[], float],
    ) -> None:
        engine = spec.engine
        self.runner = runner
        self.spec = spec
        self.blocks = BlockManager(
            num_blocks=runner.num_blocks, block_size=engine.block_size, prefix_cache=engine.prefix_cache
        )
        self.scheduler = Scheduler(
            blocks=self.blocks,
            max_batched_tokens=engine.max_batched_tokens,
            max_sequences=engine.max_sequences,
            chunked_prefill=engine.chunked_prefill,
        )
        self.jobs = JobTable(lease_s=spec.kv.lease_s)
        self.stats = EngineStats()
        self.draining = False
        self.outbox: Outbox | None = None
        self.inbox: Inbox | None = None
        self.sending: Sending | None = None
        self.receiving: Receiving | None = None
        self._emit = emit
        self._clock = clock
        self._commands: deque[Callable[[], None]] = deque()
        self._wake = threading.Event()
        self._stopped = False
        self._outputs: dict[str, list[worker_pb2.TokenOutput]] = defaultdict(list)
        self._housekeeping_s = 0.0

    def connect(self, outbox: Outbox | None, inbox: Inbox | None) -> None:
        """Attaches the links; before the first step."""
        self.outbox, self.inbox = outbox, inbox
        if outbox is not None:
            self.sending = Sending(outbox=outbox, blocks=self.blocks)
        if inbox is not None:
            self.receiving = Receiving(inbox=inbox, blocks=self.blocks, scheduler=self.scheduler)

    # Commands, from any thread.

    def submit(self, ingress_id: str, submit: worker_pb2.Submit) -> None:
        self._command(partial(self._submit, ingress_id, submit))

    def abort(self, abort: worker_pb2.Abort) -> None:
        self._command(partial(self._abort, abort.request_id, abort.attempt, list(abort.choices)))

    def disconnect(self, ingress_id: str) -> None:
        """The ingress is gone: ends all that it asked for."""
        self._command(partial(self._disconnect, ingress_id))

    def drain(self) -> None:
        self._command(self._drain)

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
        while not self._stopped:
            self._wake.clear()
            if not self.step():
                self._wake.wait(HOUSEKEEPING_S)

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.running or self.scheduler.waiting)

    @property
    def is_idle(self) -> bool:
        """Nothing computed, nothing in transfer, nothing asked."""
        return not (self.has_work or self._commands or len(self.jobs) or self._in_transfer)

    @property
    def _in_transfer(self) -> int:
        return (len(self.sending) if self.sending else 0) + (len(self.receiving) if self.receiving else 0)

    def transfer_counters(self) -> worker_pb2.WorkerState:
        """The fields of a WorkerState that the links count, alone."""
        outbox, inbox = self.outbox, self.inbox
        return worker_pb2.WorkerState(
            kv_bytes_sent=outbox.bytes_sent if outbox else 0,
            kv_bytes_received=inbox.bytes_received if inbox else 0,
            num_transfers=self._in_transfer,
            num_failed_transfers=(outbox.num_failed if outbox else 0) + (inbox.num_failed if inbox else 0),
        )

    def step(self) -> bool:
        """One step; whether the next one should follow at once."""
        now_s = self._clock()
        self._take_in(now_s)
        plan = self.scheduler.plan(now_s)
        self._handle_preempted(plan.preempted)
        if plan.chunks:
            self.stats.step_begins(now_s)
            self._run(plan)
            self.stats.step_done(self._clock(), now_s, plan, is_idle=not self.has_work)
        else:
            # What waits for blocks that transfers hold is held back, not stuck: leases bound it.
            self.stats.no_step(self._clock(), is_stuck=self.has_work and not self._in_transfer)
        self._report()
        return bool(plan.chunks or self._commands)

    def _take_in(self, now_s: float) -> None:
        while self._commands:
            self._commands.popleft()()
        if self.sending is not None:
            for job, error, acked in self.sending.settled():
                self._settle_sent(job, error, acked)
        if self.receiving is not None:
            self._take_transfers(self.receiving)
        if now_s - self._housekeeping_s >= HOUSEKEEPING_S:
            self._housekeeping_s = now_s
            self.jobs.expire(now_s)
            self._end_overdue(now_s)
            if self.is_idle:
                self.blocks.check_integrity()

    def _run(self, plan: StepPlan) -> None:
        chunks = plan.chunks
        jobs = [self.jobs.of(chunk.seq) for chunk in chunks]
        on_layer = None
        if self.sending is not None:
            for job in jobs:
                if job.handover is not None and not job.offered:
                    self.sending.begin(job)
            on_layer = self.sending.on_layer(chunks, jobs)
        batch, owners = make_batch(plan, jobs)
        try:
            sampled = self.runner.run(batch, on_layer)
        except Exception as error:
            logger.exception("step failed sequences=%d", len(chunks))
            for job in jobs:
                self._end(job, FinishReason.ERROR, InternalError(f"the step failed: {error}"))
            return
        for chunk in chunks:
            chunk.seq.num_computed_tokens += chunk.num_tokens
            self.blocks.commit(chunk.seq)
        tokens: dict[int, list[tuple[int, Sampled]]] = defaultdict(list)
        for (index, choice), token in zip(owners, sampled, strict=True):
            tokens[index].append((choice, token))
        for index, news in tokens.items():
            self._accept(jobs[index], news)

    # What a step's tokens mean.

    def _accept(self, job: Job, news: list[tuple[int, Sampled]]) -> None:
        """Sends one token of each choice, ends those that are done, forks or hands over the rest."""
        seq = job.seq
        going: list[tuple[int, int]] = []
        for choice, sampled in news:
            message = wire.output(seq, choice, sampled)
            if not job.cached_reported:
                message.num_cached_tokens = min(seq.num_cached_tokens, len(seq.prompt_token_ids))
            reason, stop_reason = finish_reason(seq, sampled.token_id, self.runner)
            if reason is not None:
                wire.finish(message, reason, stop_reason)
            else:
                going.append((choice, sampled.token_id))
            self._outputs[seq.ingress_id].append(message)
        if not job.cached_reported:
            self.stats.num_prefix_hit_tokens += seq.num_cached_tokens
            job.cached_reported = True
        self.stats.num_output_tokens += len(news)
        if job.handover is not None and self.sending is not None:
            self._hand_over(job, going, self.sending)
        elif not going:
            self._drop(job)
        else:
            self._go_on(job, going)

    def _hand_over(self, job: Job, going: list[tuple[int, int]], sending: Sending) -> None:
        self.scheduler.remove(job.seq)
        self.jobs.remove(job)
        job.choices = [choice for choice, _ in going]
        if sending.is_sending(job):
            sending.complete(job, going)
        else:  # the transfer ended before the prompt did
            self.blocks.free(job.seq)

    def _go_on(self, job: Job, going: list[tuple[int, int]]) -> None:
        """Appends the tokens; every choice after the first becomes a job of its own."""
        choices = {choice for choice, _ in going}
        for choice in [choice for choice in job.choices if choice not in choices]:
            self.jobs.drop_choice(job, choice)
        forks = [(choice, token) for choice, token in going if choice != job.seq.choice]
        for choice, token in forks:
            self._fork(job, choice, token)
        job.seq.siblings = ()
        job.seq.output_token_ids.append(next(token for choice, token in going if choice == job.seq.choice))

    def _fork(self, job: Job, choice: int, token: int) -> None:
        parent = job.seq
        child = Seq(
            request_id=parent.request_id,
            choice=choice,
            attempt=parent.attempt,
            ingress_id=parent.ingress_id,
            prompt_token_ids=parent.prompt_token_ids,
            output_token_ids=[*parent.output_token_ids],
            params=parent.params,
            arrived_s=parent.arrived_s,
            deadline_s=parent.deadline_s,
            num_started_outputs=parent.num_started_outputs,
        )
        self.jobs.drop_choice(job, choice)
        self.jobs.add(Job(seq=child, choices=[choice], cached_reported=True))
        try:
            pairs = self.blocks.fork(parent, child)
        except OutOfBlocksError:
            child.output_token_ids.append(token)
            self.scheduler.add(child)  # reads the prompt again when there is room, mostly from the cache
            return
        self.runner.copy_blocks(pairs)
        child.output_token_ids.append(token)
        self.scheduler.add_running(child)

    # Requests coming and going.

    def _submit(self, ingress_id: str, submit: worker_pb2.Submit) -> None:
        handing_over = submit.HasField("decode")
        job = self._admit(ingress_id, submit, handing_over=handing_over)
        if job is None:
            return
        if handing_over:
            job.handover = TransferKey(submit.request_id, submit.attempt, job.seq.choice)
            job.submit = submit
        self.stats.num_prompt_tokens += len(job.seq.prompt_token_ids)
        self.scheduler.add(job.seq)

    def _admit(self, ingress_id: str, submit: worker_pb2.Submit, *, handing_over: bool) -> Job | None:
        """A new job in the table; None when it is old news, or was refused with a final output."""
        seq = wire.sequence(submit, ingress_id, self._clock())
        choices = [choice.choice for choice in submit.choices]
        if all(self.jobs.is_buried(seq.request_id, seq.attempt, choice) for choice in choices):
            return None
        for choice in choices:
            existing = self.jobs.find(seq.request_id, choice)
            if existing is not None and existing.seq.attempt >= seq.attempt:
                return None
            if existing is not None:
                self._discard(existing)
        refusal = self._refusal(seq, handing_over=handing_over)
        if refusal is not None:
            for choice in choices:
                self._outputs[ingress_id].append(wire.final(seq, choice, FinishReason.ERROR, refusal))
            return None
        job = Job(seq=seq, choices=choices)
        self.jobs.add(job)
        for choice in choices:
            if self.jobs.is_buried(seq.request_id, seq.attempt, choice):
                self.jobs.drop_choice(job, choice)
        return job

    def _refusal(self, seq: Seq, *, handing_over: bool) -> BatonError | None:
        if self.draining:
            return UnavailableError(f"worker {self.spec.worker_id} is draining; try another")
        if handing_over and self.sending is None:
            return InternalError(f"worker {self.spec.worker_id} has no link to hand over with")
        return misfit(seq, self.runner, self.spec.engine.block_size, handing_over=handing_over)

    def _abort(self, request_id: str, attempt: int, choices: Sequence[int]) -> None:
        self.jobs.bury(request_id, attempt, choices, self._clock())
        for job, choice in self.jobs.of_request(request_id, choices, attempt):
            if len(job.choices) > 1:
                self.jobs.drop_choice(job, choice)
            else:
                self._discard(job)
        if self.sending is not None:
            self.sending.abort_request(request_id, attempt, choices)

    def _disconnect(self, ingress_id: str) -> None:
        for job in self.jobs:
            if job.seq.ingress_id == ingress_id:
                self._discard(job)
        if self.sending is not None:
            self.sending.abort_ingress(ingress_id)

    def _drain(self) -> None:
        self.draining = True
        if self.receiving is not None:
            for job in self.receiving.refuse_pending():
                self.jobs.remove(job)

    def _discard(self, job: Job) -> None:
        """Ends a job without a word; its blocks are free now, or when its transfer lets go of them."""
        self.jobs.remove(job)
        if job.seq.status is Status.RECEIVING:
            assert self.receiving is not None
            self.receiving.abort(job)
            return
        self.scheduler.remove(job.seq)
        if self.sending is not None and self.sending.is_sending(job):
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

    def _end(self, job: Job, reason: FinishReason, error: BatonError, *, code: str | None = None) -> None:
        """Ends a job with a final output for each of its choices."""
        for choice in job.choices:
            message = wire.final(job.seq, choice, reason, error, code=code)
            self._outputs[job.seq.ingress_id].append(message)
        self._discard(job)

    def _end_overdue(self, now_s: float) -> None:
        for job in self.jobs:
            if job.seq.deadline_s <= now_s:
                self._end(job, FinishReason.ERROR, DeadlineExceededError("the request's deadline has passed"))

    def _handle_preempted(self, preempted: Sequence[Seq]) -> None:
        """Short ones are read again here; long ones of a decode worker, and hand-overs, are worth a new attempt."""
        self.stats.num_preemptions += len(preempted)
        for seq in preempted:
            job = self.jobs.of(seq)
            if job.handover is not None and self.sending is not None and self.sending.is_sending(job):
                self.sending.forget_blocks(job)
                self._end(job, FinishReason.ERROR, UnavailableError("preempted while handing over"), code="preempted")
            elif self.spec.role is Role.DECODE and seq.num_tokens > self.spec.engine.max_batched_tokens:
                self._end(job, FinishReason.ERROR, UnavailableError("preempted: out of blocks"), code="preempted")

    # Transfers.

    def _settle_sent(self, job: Job, error: BatonError | None, acked: bool) -> None:
        """A transfer that failed ends its choices with a retryable error, unless they were aborted before."""
        if acked or error is None:
            return
        retryable = error if error.retryable else UnavailableError(f"hand-over failed: {error.message}")
        for choice in job.choices:
            message = wire.final(job.seq, choice, FinishReason.ERROR, retryable)
            self._outputs[job.seq.ingress_id].append(message)
        if job.seq.status is not Status.SENDING:  # still computing: stop it
            self._discard(job)

    def _take_transfers(self, receiving: Receiving) -> None:
        offered, arrived, lost = receiving.offers()
        for offer in offered:
            self._take_offer(receiving, offer)
        for job, arrival in arrived:
            self._start_decoding(job, arrival)
        for job, error in lost:
            # The prefill side, or the dispatcher that saw it die, tells the ingress: here only the room is given back.
            logger.info("transfer lost request_id=%s error=%s", job.seq.request_id, error)
            self.jobs.remove(job)
        receiving.grant()

    def _take_offer(self, receiving: Receiving, offer: Offered) -> None:
        if self.draining:
            receiving.refuse(offer.key, UnavailableError(f"worker {self.spec.worker_id} is draining; try another"))
            return
        job = None
        with contextlib.suppress(BatonError):
            job = self._admit(offer.ingress_id, offer.submit, handing_over=False)
        if job is None:
            receiving.refuse(offer.key, UnavailableError("the request was aborted, or a newer attempt is here"))
            return
        job.handover = offer.key
        job.cached_reported = True
        receiving.enqueue(job)

    def _start_decoding(self, job: Job, arrival: Arrived) -> None:
        seq = job.seq
        assert arrival.num_tokens == seq.num_tokens, f"{arrival.key}: {arrival.num_tokens} of {seq.num_tokens} tokens"
        seq.num_computed_tokens = arrival.num_tokens
        job.handover = None
        self.blocks.commit(seq)
        going = [(choice, token) for choice, token in arrival.first_tokens if choice in job.choices]
        if not going:
            self._drop(job)
            return
        self.scheduler.add_running(seq)
        self._go_on(job, going)

    def _report(self) -> None:
        added, removed = self.blocks.drain_cache_events()
        if self._outputs or added or removed:
            outputs, self._outputs = self._outputs, defaultdict(list)
            self._emit(StepReport(outputs, added, removed))
