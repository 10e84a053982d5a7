"""Around a simulated worker's steps: production's `Serving`, with lengths for tokens and virtual time.

Left out of `workers.engine.engine.Engine`: choices beyond the first, and deadlines, which come as aborts from the
ingress.

Owns what comes in and what a step's tokens mean. What it tells is `outputs`', its load is that of `load_reports`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from baton.errors import BatonError
from baton.v1.worker_pb2 import Abort, Submit
from cluster.contracts.simulation import SimCluster, SimPool
from cluster.contracts.tuning import Tuning
from cluster.router.workers import WorkerKey
from cluster.simulator.drafting import Drafting
from cluster.simulator.events import EventQueue
from cluster.simulator.inbox import SimInbox
from cluster.simulator.jobs import Request, SimJob, new_job
from cluster.simulator.load_reports import LoadReports
from cluster.simulator.network import Network
from cluster.simulator.outbox import SimOutbox
from cluster.simulator.outputs import Outputs
from cluster.simulator.phases import Phases
from cluster.simulator.spans import Spans
from workers.engine.batching import too_long
from workers.engine.jobs import Job, Written
from workers.engine.receiving import Receiving
from workers.engine.scheduler import Drafts, ScheduledChunk, Scheduler, StepPlan, is_decode
from workers.engine.sending import Sending
from workers.engine.sequence import Sequence as Seq
from workers.engine.serving import Serving
from workers.engine.stateful_blocks import new_blocks
from workers.memory_shares import MemoryShares
from workers.spec import Role


class SimEngine:
    """Args:
    role: That it begins in; its costs are those of its pool in any.
    request: By request id; None: it has ended meanwhile.
    notify: There is news for the next step.
    spans: Where to note what requests go through, if anywhere.
    worker: Index among all.
    """

    def __init__(
        self,
        *,
        key: WorkerKey,
        pool: SimPool,
        role: Role,
        cluster: SimCluster,
        queue: EventQueue,
        network: Network,
        request: Callable[[str], Request | None],
        notify: Callable[[], None],
        spans: Spans | None,
        worker: int,
    ) -> None:
        engine = cluster.engine
        self.key = key
        self.outputs = Outputs()
        self.blocks = new_blocks(
            MemoryShares(pool.num_blocks, pool.num_states, pool.state_spacing),
            block_size=engine.block_size,
            prefix_cache=engine.prefix_cache,
            copy_states=lambda pairs: None,  # they hold nothing
        )
        self.scheduler = Scheduler(
            blocks=self.blocks,
            max_batched_tokens=engine.max_batched_tokens,
            max_sequences=engine.max_sequences,
            chunked_prefill=engine.chunked_prefill,
            state_spacing=pool.state_spacing,
        )
        self.serving = Serving(
            worker_id=key.worker_id,
            role=role,
            max_step_tokens=engine.max_batched_tokens,
            blocks=self.blocks,
            scheduler=self.scheduler,
            lease_s=cluster.kv.lease_s,
            read=self._read,
            unservable=self._unservable,
            tell=self.outputs.pass_on,
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
        network.outboxes[key], network.inboxes[key] = self.outbox, self.inbox
        self.load_reports = LoadReports(
            key=key, pool=pool, cluster=cluster, serving=self.serving, outbox=self.outbox, inbox=self.inbox
        )
        self._num_received = 0  # prompts that have come, since somebody asked
        self._num_received_tokens = 0  # whose KV has come, since then
        self._cluster = cluster
        self._network = network
        self._queue = queue
        self._request = request
        self._notify = notify
        self._phases = Phases(spans, queue)
        self.has_drafts = pool.drafts is not None or pool.drafter is not None
        self._drafting = Drafting(pool, self.stats, max_model_len=cluster.max_model_len, worker=worker)
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

    def tune(self, tuning: Tuning) -> None:
        self.scheduler.set_budget(tuning.engine(self._cluster.engine).max_batched_tokens)
        self._drafting.limit(tuning.max_draft_tokens)

    def abort(self, abort: Abort) -> None:
        self._commands.append(lambda: self.serving.abort(abort, self._queue.now_s))
        self._notify()

    def drain(self) -> None:
        """Takes nothing new, finishes what runs; see `is_idle`."""
        self._commands.append(self.serving.drain)
        self._notify()

    def set_role(self, role: Role) -> None:
        self._commands.append(partial(self.serving.set_role, role))
        self._notify()

    def take_in(self, now_s: float) -> None:
        self.jobs.expire(now_s)
        while self._commands:
            self._commands.popleft()()
        for job in self.serving.take_transfers(now_s):
            self._note_received(self._job_of(job.seq))
        self._give_back(self.serving.leaving())

    def _give_back(self, jobs: Sequence[tuple[Job, BatonError]]) -> None:
        """They go on elsewhere, with the tokens that they have."""
        for job, error in jobs:
            self.outputs.tell_rest(job)
            self.serving.end(job, error)

    def _note_received(self, job: SimJob) -> None:
        """Its KV has come, and with it a token of which the prefill worker tells."""
        self._num_received += 1
        self._num_received_tokens += job.seq.num_computed_tokens
        self._phases.received(job)
        job.num_told = len(job.seq.output_token_ids)
        job.told_first = True

    def take_received(self) -> tuple[int, int]:
        """Prompts, and tokens of KV, that have come since this was last asked."""
        received = self._num_received, self._num_received_tokens
        self._num_received = self._num_received_tokens = 0
        return received

    # A step: what it begins with, and what its tokens mean.

    def drafts(self) -> Drafts | None:
        """As the engine asks for them, of all that decode here; None: there is no drafter."""
        guesses = self.has_drafts and self.serving.role.decodes
        decodes = [seq for seq in self.scheduler.running if is_decode(seq)] if guesses else []
        return self._drafting.propose(decodes, [seq for seq in decodes if self.jobs.of(seq).handover is None])

    @property
    def drafting_s(self) -> float:
        """That the step which was planned last waits for its drafts."""
        return self._drafting.waited_s

    def note_plan(self, plan: StepPlan) -> None:
        self._phases.admitted(plan.admitted)
        for seq in plan.preempted:
            self._phases.preempted(self._job_of(seq))
        if plan.preempted:
            self._give_back(self.serving.preempted(plan.preempted))

    def offer(self, chunks: Sequence[ScheduledChunk]) -> None:
        self.serving.offer(self.jobs.of(chunk.seq) for chunk in chunks)

    def computed(self, chunks: Sequence[ScheduledChunk], began_s: float) -> None:
        """A step that began at `began_s` is done: pushes KV, books tokens."""
        jobs = [self._job_of(chunk.seq) for chunk in chunks]
        push = self.sending.on_layer(chunks, jobs)
        if push is not None:
            push(0)
        self._phases.read(chunks)
        self.serving.computed(chunks)
        for chunk, job in zip(chunks, jobs, strict=True):
            if job.seq.num_uncomputed_tokens == 0:
                self._accept(job, 1 + self._drafting.accept(chunk))
        self._drafting.learn(chunks, self._queue.now_s - began_s)
        self.outbox.flush(began_s)

    def finish(self, seq: Seq) -> None:
        """Its last token is written, and booked."""
        job = self._job_of(seq)
        self.outputs.tell(job, len(seq.output_token_ids), finished=True)
        self._phases.written(job)
        self.serving.finish(job)

    def is_served(self, seq: Seq) -> bool:
        """Whether it was not aborted while its step was in flight."""
        job = self.jobs.find(*seq.key)
        return job is not None and job.seq is seq

    def hands_over(self, seq: Seq) -> bool:
        """Whether it goes to another worker when its prompt is read."""
        return self.jobs.of(seq).handover is not None

    def close(self) -> None:
        """The worker is dead."""
        self.outbox.close()
        self.inbox.close()
        self._network.forget(self.key)

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
            self.outputs.tell(job, num_outputs, finished=finished, num_cached_tokens=num_cached_tokens)
        if finished and job.handover is None:
            self._phases.written(job)
        token_ids = (0,) * (num_outputs - len(seq.output_token_ids))
        self.serving.advance(job, (Written(seq.choice, token_ids, finished),))

    # What serving asks.

    def _read(self, ingress_id: str, submit: Submit) -> SimJob | None:
        request = self._request(submit.request_id)
        return new_job(request, submit, ingress_id, self._queue.now_s) if request is not None else None

    def _unservable(self, seq: Seq, handing_over: bool) -> BatonError | None:
        return too_long(
            seq,
            max_model_len=self._cluster.max_model_len,
            num_blocks=self.blocks.num_blocks,
            block_size=self.blocks.block_size,
            handing_over=handing_over,
        )
