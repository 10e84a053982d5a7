"""Around a simulated worker's steps: production's `Serving`, with lengths for tokens and virtual time.

Left out of `workers.engine.engine.Engine`: choices beyond the first, and deadlines, which come as aborts from the
ingress.

Tokens are told when somebody wants to know: the first at once, the others with the last, or when an attempt fails.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from baton.errors import BatonError
from baton.v1.inference_pb2 import FINISH_REASON_LENGTH
from baton.v1.worker_pb2 import Abort, Submit, TokenOutput, WorkerState
from cluster.router.workers import WorkerKey
from cluster.simulator.contract import SimCluster, SimPool
from cluster.simulator.events import EventQueue
from cluster.simulator.inbox import SimInbox
from cluster.simulator.jobs import Request, SimJob, output, params
from cluster.simulator.network import Network
from cluster.simulator.outbox import SimOutbox
from cluster.simulator.spans import Spans
from workers.engine.batching import too_long
from workers.engine.block_manager import BlockManager
from workers.engine.cache_news import CacheNews
from workers.engine.drafting import proposed
from workers.engine.jobs import Job, Written
from workers.engine.load_report import WorkerStates, load_report
from workers.engine.receiving import Receiving
from workers.engine.scheduler import Drafts, ScheduledChunk, Scheduler, StepPlan, is_decode
from workers.engine.sending import Sending
from workers.engine.sequence import Sequence as Seq
from workers.engine.serving import PREEMPTED, Serving
from workers.model.contract import ChunkKind

VOCAB_SIZE = 1  # what a token is does not matter


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
        self.blocks = BlockManager(
            num_blocks=pool.num_blocks, block_size=engine.block_size, prefix_cache=engine.prefix_cache
        )
        self.scheduler = Scheduler(
            blocks=self.blocks,
            max_batched_tokens=engine.max_batched_tokens,
            max_sequences=engine.max_sequences,
            chunked_prefill=engine.chunked_prefill,
        )
        self.serving = Serving(
            worker_id=key.worker_id,
            role=pool.role,
            max_step_tokens=engine.max_batched_tokens,
            blocks=self.blocks,
            scheduler=self.scheduler,
            lease_s=cluster.kv.lease_s,
            read=self._read,
            unservable=self._unservable,
            tell=self._tell,
            copy_blocks=lambda pairs: None,  # they hold nothing
        )
        self.jobs, self.stats = self.serving.jobs, self.serving.stats
        self.outbox = SimOutbox(
            network=network,
            owner=key,
            token_bytes=cluster.token_bytes,
            state_bytes=cluster.state_bytes,
            num_layers=cluster.num_layers,
            notify=notify,
        )
        self.inbox = SimInbox(network=network, owner=key, notify=notify)
        self.serving.connect(self.outbox, self.inbox)
        self.outputs: list[TokenOutput] = []  # to be told
        self.num_received = 0  # prompts that have come, since somebody set this to 0
        self.num_received_tokens = 0  # whose KV has come, since somebody set this to 0
        network.outboxes[key], network.inboxes[key] = self.outbox, self.inbox
        self._states = WorkerStates(
            worker_id=key.worker_id,
            incarnation=key.incarnation,
            role=pool.role,
            fingerprint="",
            block_size=engine.block_size,
            num_blocks=pool.num_blocks,
            max_model_len=cluster.max_model_len,
            max_sequences=engine.max_sequences,
        )
        self._cache_news = CacheNews()
        self._cluster = cluster
        self._queue = queue
        self._request = request
        self._notify = notify
        self._spans = spans
        self._drafter = pool.drafter
        self._commands: deque[Callable[[], None]] = deque()

    @property
    def num_in_transfer(self) -> int:
        return self.serving.num_in_transfer

    @property
    def sending(self) -> Sending:
        assert self.serving.sending is not None
        return self.serving.sending

    @property
    def receiving(self) -> Receiving:
        assert self.serving.receiving is not None
        return self.serving.receiving

    @property
    def has_commands(self) -> bool:
        return bool(self._commands)

    # Commands.

    def submit(self, submit: Submit) -> None:
        self._commands.append(partial(self.serving.submit, "", submit))
        self._notify()

    def abort(self, abort: Abort) -> None:
        self._commands.append(lambda: self.serving.abort(abort, self._queue.now_s))
        self._notify()

    def drain(self) -> None:
        """Takes nothing new, finishes what runs; see `is_idle`."""
        self._commands.append(self.serving.drain)
        self._notify()

    def take_in(self, now_s: float) -> None:
        self.jobs.expire(now_s)
        while self._commands:
            self._commands.popleft()()
        for job in self.serving.take_transfers():
            self._note_received(self._job_of(job.seq))

    def _note_received(self, job: SimJob) -> None:
        """Its KV has come, and with it a token of which the prefill worker tells."""
        self.num_received += 1
        self.num_received_tokens += job.seq.num_computed_tokens
        if self._spans is not None:
            self._spans.passed(job.seq.request_id, "transfer", self._queue.now_s)
        job.num_told = len(job.seq.output_token_ids)
        job.told_first = True

    # A step: what it begins with, and what its tokens mean.

    def drafts(self) -> Drafts | None:
        """As the engine asks for them."""
        if self._drafter is None:
            return None
        seqs = [seq for seq in self.scheduler.running if is_decode(seq) and self.jobs.of(seq).handover is None]
        return proposed(self._drafter, seqs, max_model_len=self._cluster.max_model_len, vocab_size=VOCAB_SIZE)

    def note_plan(self, plan: StepPlan, now_s: float) -> None:
        if self._spans is not None:
            for seq in plan.admitted:
                self._spans.passed(seq.request_id, "queued", now_s)
            for seq in plan.preempted:
                kind = "decode" if self._job_of(seq).told_first else "prefill"
                self._spans.passed(seq.request_id, kind, now_s)
        for job, error in self.serving.preempted(plan.preempted) if plan.preempted else ():
            self.tell_rest(job)
            self.serving.end(job, error, code=PREEMPTED)

    def offer(self, chunks: Sequence[ScheduledChunk]) -> None:
        self.serving.offer(self.jobs.of(chunk.seq) for chunk in chunks)

    def computed(self, chunks: Sequence[ScheduledChunk], began_s: float) -> None:
        """A step that began at `began_s` is done: pushes KV, books tokens."""
        jobs = [self._job_of(chunk.seq) for chunk in chunks]
        push = self.sending.on_layer(chunks, jobs)
        if push is not None:
            push(0)
        if self._spans is not None:
            self._note_read(chunks, self._spans)
        self.serving.computed(chunks)
        for chunk, job in zip(chunks, jobs, strict=True):
            if job.seq.num_uncomputed_tokens == 0:
                self._accept(job, self._num_sampled(chunk))
        self.outbox.flush(began_s)

    def _num_sampled(self, chunk: ScheduledChunk) -> int:
        if not chunk.draft_token_ids:
            return 1
        assert self._drafter is not None
        num_drafts, num_accepted = len(chunk.draft_token_ids), self._drafter.num_accepted(chunk)
        self.stats.num_draft_tokens += num_drafts
        self.stats.num_accepted_tokens += num_accepted
        return 1 + num_accepted

    def _note_read(self, chunks: Sequence[ScheduledChunk], spans: Spans) -> None:
        """Prompts that end with this step."""
        for chunk in chunks:
            if chunk.kind is ChunkKind.PREFILL and chunk.seq.num_uncomputed_tokens == chunk.num_tokens:
                spans.passed(chunk.seq.request_id, "prefill", self._queue.now_s)

    def finish(self, seq: Seq) -> None:
        """Its last token is written, and booked."""
        job = self._job_of(seq)
        self._tell_tokens(job, len(seq.output_token_ids), finished=True)
        self._note_written(job)
        self.serving.finish(job)

    def tell_rest(self, job: Job) -> None:
        """Tokens that are written and not told of."""
        assert isinstance(job, SimJob)
        if job.num_told < len(job.seq.output_token_ids):
            self._tell_tokens(job, len(job.seq.output_token_ids))

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

    def _accept(self, job: SimJob, num_sampled: int) -> None:
        """So many tokens of `job` were sampled."""
        seq = job.seq
        num_cached_tokens = 0
        if not job.cached_reported:
            num_cached_tokens = min(seq.num_cached_tokens, len(seq.prompt_token_ids))
            job.cached_reported = True
        num_outputs = min(len(seq.output_token_ids) + num_sampled, seq.params.max_tokens)
        finished = num_outputs >= seq.params.max_tokens
        if finished or not job.told_first:
            self._tell_tokens(job, num_outputs, finished=finished, num_cached_tokens=num_cached_tokens)
        if finished and job.handover is None:
            self._note_written(job)
        token_ids = (0,) * (num_outputs - len(seq.output_token_ids))
        self.serving.advance(job, (Written(seq.choice, token_ids, finished),))

    def _tell_tokens(
        self, job: SimJob, num_outputs: int, *, finished: bool = False, num_cached_tokens: int = 0
    ) -> None:
        """Those up to `num_outputs`."""
        message = output(job.seq, job.num_told, num_outputs)
        message.num_cached_tokens = num_cached_tokens
        if finished:
            message.finish_reason = FINISH_REASON_LENGTH
        job.num_told = num_outputs
        job.told_first = True
        self.outputs.append(message)

    def _note_written(self, job: Job) -> None:
        if self._spans is not None:
            self._spans.passed(job.seq.request_id, "decode", self._queue.now_s)

    # What serving asks.

    def _read(self, ingress_id: str, submit: Submit) -> SimJob | None:
        request = self._request(submit.request_id)
        if request is None:
            return None
        outputs = list(submit.choices[0].output_token_ids)
        now_s = self._queue.now_s
        seq = Seq(
            request_id=submit.request_id,
            choice=0,
            attempt=submit.attempt,
            ingress_id=ingress_id,
            prompt_token_ids=range(request.num_prompt_tokens),  # type: ignore[arg-type]  # never read
            output_token_ids=outputs,
            params=params(request.num_output_tokens),
            arrived_s=now_s,
            deadline_s=now_s + submit.timeout_s,
            block_hashes=request.block_hashes,
            num_started_outputs=len(outputs),
        )
        return SimJob(seq=seq, choices=[0], num_told=len(outputs))

    def _unservable(self, seq: Seq, handing_over: bool) -> BatonError | None:
        return too_long(
            seq,
            max_model_len=self._cluster.max_model_len,
            num_blocks=self.blocks.num_blocks,
            block_size=self.blocks.block_size,
            handing_over=handing_over,
        )

    def _tell(self, ingress_id: str, message: TokenOutput) -> None:
        self.outputs.append(message)

    def state(self, *, is_idle: bool, num_in_flight: int) -> WorkerState:
        """A load report, with the cache's changes since the last one.

        Args:
            num_in_flight: Sequences that a pipeline's steps have taken out of the scheduler.
        """
        load = load_report(self.serving, self.outbox, self.inbox, is_idle=is_idle, num_in_flight=num_in_flight)
        state = self._states.of(load, self._queue.now_s)
        self._cache_news.note(*self.blocks.drain_cache_events())
        self._cache_news.fill(state)
        return state
