"""Around a simulated worker's steps: requests that come and go, tokens, hand-overs.

The rules of `workers.engine.engine.Engine`, in its order, over production's own classes: scheduler, blocks, jobs, and
both sides of hand-overs. Left out: choices beyond the first, and deadlines, which come as aborts from the ingress.

Tokens are told when somebody wants to know: the first at once, the others with the last, or when an attempt fails.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from baton.errors import BatonError, InvalidRequestError, UnavailableError
from baton.v1.inference_pb2 import FINISH_REASON_LENGTH
from baton.v1.worker_pb2 import ROLE_DECODE, ROLE_MIXED, ROLE_PREFILL, Abort, Submit, TokenOutput, WorkerState
from cluster.router.workers import WorkerKey
from cluster.simulator.contract import SimCluster, SimPool
from cluster.simulator.events import EventQueue
from cluster.simulator.jobs import Request, SimJob, final, output, params
from cluster.simulator.links import SimInbox, SimOutbox
from cluster.simulator.network import Network
from cluster.simulator.spans import Spans
from workers.engine.block_manager import BlockManager
from workers.engine.jobs import Job, JobTable
from workers.engine.receiving import Receiving
from workers.engine.scheduler import ScheduledChunk, Scheduler, StepPlan, is_decode
from workers.engine.sending import Sending
from workers.engine.sequence import Sequence as Seq
from workers.engine.sequence import Status
from workers.engine.stats import EngineStats
from workers.kv_transfer.link import Arrived, Offered, TransferKey
from workers.spec import Role

_ROLES = {Role.PREFILL: ROLE_PREFILL, Role.DECODE: ROLE_DECODE, Role.MIXED: ROLE_MIXED}


class SimEngine:
    """Args:
    request: By request id; None: it has ended meanwhile.
    notify: There is news for the next step.
    spans: Where to note what requests go through, if anywhere.
    """

    def __init__(
        self,
        *,
        key: WorkerKey,
        pool: SimPool,
        cluster: SimCluster,
        queue: EventQueue,
        network: Network,
        request: Callable[[str], Request | None],
        notify: Callable[[], None],
        spans: Spans | None,
    ) -> None:
        engine = cluster.engine
        self.key = key
        self.role = pool.role
        self.is_draining = False
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
        self.outbox = SimOutbox(
            network=network, owner=key, token_bytes=cluster.token_bytes, num_layers=cluster.num_layers, notify=notify
        )
        self.inbox = SimInbox(network=network, owner=key, notify=notify)
        self.sending = Sending(outbox=self.outbox, blocks=self.blocks)
        self.receiving = Receiving(inbox=self.inbox, blocks=self.blocks, scheduler=self.scheduler)
        self.outputs: list[TokenOutput] = []  # to be told
        self.num_received_tokens = 0  # whose KV has come, since somebody set this to 0
        network.outboxes[key], network.inboxes[key] = self.outbox, self.inbox
        self._cluster = cluster
        self._queue = queue
        self._request = request
        self._notify = notify
        self._spans = spans
        self._commands: deque[Callable[[], None]] = deque()

    @property
    def num_in_transfer(self) -> int:
        return len(self.sending) + len(self.receiving)

    @property
    def has_commands(self) -> bool:
        return bool(self._commands)

    # Commands.

    def submit(self, submit: Submit) -> None:
        self._commands.append(partial(self._submit, submit))
        self._notify()

    def abort(self, abort: Abort) -> None:
        self._commands.append(partial(self._abort, abort))
        self._notify()

    def drain(self) -> None:
        """Takes nothing new, finishes what runs; see `is_idle`."""
        self._commands.append(self._drain)
        self._notify()

    def _drain(self) -> None:
        self.is_draining = True
        for job in self.receiving.refuse_pending():
            self.jobs.remove(job)

    def take_in(self, now_s: float) -> None:
        self.jobs.expire(now_s)
        while self._commands:
            self._commands.popleft()()
        for job, error, acked in self.sending.settled():
            self._settle_sent(job, error, acked)
        self._take_transfers(self.receiving)

    # A step: what it begins with, and what its tokens mean.

    def note_plan(self, plan: StepPlan, now_s: float) -> None:
        if self._spans is not None:
            for seq in plan.admitted:
                self._spans.passed(seq.request_id, "queued", now_s)
        if plan.preempted:
            self._handle_preempted(plan.preempted)

    def offer(self, chunks: Sequence[ScheduledChunk]) -> None:
        """Hand-overs begin with the step that admits their prompts."""
        for chunk in chunks:
            job = self.jobs.of(chunk.seq)
            if job.handover is not None and not job.offered:
                self.sending.begin(job)

    def computed(self, chunks: Sequence[ScheduledChunk], began_s: float) -> None:
        """A step that began at `began_s` is done: pushes KV, books tokens."""
        jobs = [self._job_of(chunk.seq) for chunk in chunks]
        push = self.sending.on_layer(chunks, jobs)
        if push is not None:
            push(0)
        if self._spans is not None:
            self._note_read(chunks, self._spans)
        for chunk in chunks:
            chunk.seq.num_computed_tokens += chunk.num_tokens
            self.blocks.commit(chunk.seq)
        for job in jobs:
            if job.seq.num_uncomputed_tokens == 0:
                self._accept(job)
        self.outbox.flush(began_s)

    def _note_read(self, chunks: Sequence[ScheduledChunk], spans: Spans) -> None:
        """Prompts that end with this step."""
        for chunk in chunks:
            if not is_decode(chunk.seq) and chunk.seq.num_uncomputed_tokens == chunk.num_tokens:
                spans.passed(chunk.seq.request_id, "prefill", self._queue.now_s)

    def finish(self, seq: Seq) -> None:
        """Its last token is written, and booked."""
        job = self._job_of(seq)
        self._tell_tokens(job, finished=True)
        self._drop(job)

    def tell_rest(self, job: Job) -> None:
        """Tokens that are written and not told of."""
        assert isinstance(job, SimJob)
        if job.num_told < len(job.seq.output_token_ids):
            self._tell_tokens(job)

    def rest(self, job: Job) -> TokenOutput | None:
        """The same, for the caller to tell."""
        num_outputs = len(self.outputs)
        self.tell_rest(job)
        return self.outputs.pop() if len(self.outputs) > num_outputs else None

    def is_served(self, seq: Seq) -> bool:
        """Whether it was not aborted while its step was in flight."""
        job = self.jobs.find(*seq.key)
        return job is not None and job.seq is seq

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
        message = output(job.seq, job.num_told, len(job.seq.output_token_ids))
        message.num_cached_tokens = num_cached_tokens
        if finished:
            message.finish_reason = FINISH_REASON_LENGTH
        job.num_told = len(job.seq.output_token_ids)
        job.told_first = True
        self.outputs.append(message)

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
            self.outputs.append(final(seq, refusal))
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
            params=params(request.num_output_tokens),
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
        if self._spans is not None:
            self._spans.passed(job.seq.request_id, "decode", self._queue.now_s)
        self.scheduler.remove(job.seq)
        self.blocks.free(job.seq)
        self.jobs.remove(job)
        job.seq.status = Status.FINISHED

    def _end(self, job: Job, error: BatonError, *, code: str | None = None) -> None:
        assert isinstance(job, SimJob)
        self.tell_rest(job)
        self.outputs.append(final(job.seq, error, code=code))
        self._discard(job)

    def _handle_preempted(self, preempted: Sequence[Seq]) -> None:
        """Short ones are read again here; long ones of a decode worker, and hand-overs, are worth a new attempt."""
        self.stats.num_preemptions += len(preempted)
        for seq in preempted:
            job = self._job_of(seq)
            if self._spans is not None:
                self._spans.passed(seq.request_id, "decode" if job.told_first else "prefill", self._queue.now_s)
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
        self.outputs += [final(job.seq, retryable) for _ in job.choices]
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
        self.num_received_tokens += arrival.num_tokens
        job.handover = None
        self.blocks.commit(seq)
        if not arrival.first_tokens:
            self._drop(job)
            return
        self.scheduler.add_running(seq)
        seq.output_token_ids.append(0)
        if self._spans is not None:
            self._spans.passed(seq.request_id, "transfer", self._queue.now_s)
        job.num_told = len(seq.output_token_ids)  # the prefill worker tells of it
        job.told_first = True

    def state(self, *, num_in_flight: int) -> WorkerState:
        """A load report, with the cache's changes since the last one.

        Args:
            num_in_flight: Sequences that a pipeline's steps have taken out of the scheduler.
        """
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
            num_running=len(scheduler.running) + num_in_flight,
            num_waiting=len(scheduler.waiting) + self.receiving.num_pending,
            num_waiting_tokens=scheduler.num_waiting_tokens,
            prefill_tokens_per_s=self.stats.prefill_tokens_per_s,
            since_progress_s=self.stats.since_progress_s(self._queue.now_s),
            added_block_hashes=added,
            removed_block_hashes=removed,
        )
