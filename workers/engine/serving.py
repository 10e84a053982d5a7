"""What one worker makes of its news: requests, aborts, offers, KV that has come or is lost, blocks taken away.

Invariant: a job leaves the table when its last token is out, when it fails, when it is aborted and when it is handed
over; then its blocks are free, or a transfer holds them and frees them when it ends. Each job ends with one final
output per choice, unless it was aborted, a newer attempt took its place, or another worker goes on with it.
No steps here and no clock: the engine computes and samples, the simulator's engine counts tokens in virtual time.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from baton.errors import BatonError, DeadlineExceededError, InternalError, UnavailableError
from baton.v1.worker_pb2 import Abort, Submit, TokenOutput
from workers.engine import wire
from workers.engine.adapter_table import AdapterTable
from workers.engine.arrivals import Arrivals
from workers.engine.block_manager import BlockManager
from workers.engine.duty import Duty
from workers.engine.following import Grammars
from workers.engine.forking import CopyBlocks, Forking
from workers.engine.jobs import Job, JobTable, Written
from workers.engine.preparing import Preparing
from workers.engine.receiving import Receiving
from workers.engine.scheduler import ScheduledChunk, Scheduler
from workers.engine.sending import Sending
from workers.engine.sequence import FinishReason, Status
from workers.engine.sequence import Sequence as Seq
from workers.engine.stats import EngineStats
from workers.kv_transfer.link import Inbox, Outbox, TransferKey
from workers.preempted import PreemptedError
from workers.spec import Role

logger = logging.getLogger(__name__)


class Serving:
    """
    Args:
        max_step_tokens: Budget of a step; a preempted sequence that fits into one is short.
        read: The job of a Submit and its ingress; None: nobody waits for it any more. Raises: BatonError: it is
            malformed.
        unservable: Why this worker can never serve a sequence (and whether it shall be handed over), or None.
        tell: An ingress id, and an output for it.
        copy_blocks: See `Forking`.
        vocab_size: Token ids are below it; None: nobody computes with them.
        grammars: None: requests that have one are refused.
        later: See `Preparing`; given with `grammars`.
        adapters: That requests may name; None: none.
    """

    def __init__(
        self,
        *,
        worker_id: str,
        role: Role,
        max_step_tokens: int,
        blocks: BlockManager,
        scheduler: Scheduler,
        lease_s: float,
        read: Callable[[str, Submit], Job | None],
        unservable: Callable[[Seq, bool], BatonError | None],
        tell: Callable[[str, TokenOutput], None],
        copy_blocks: CopyBlocks,
        vocab_size: int | None = None,
        grammars: Grammars | None = None,
        later: Callable[[Callable[[], None]], None] | None = None,
        adapters: AdapterTable | None = None,
    ) -> None:
        self.blocks = blocks
        self.scheduler = scheduler
        self.adapters = adapters or AdapterTable(worker_id)
        self.jobs = JobTable(lease_s=lease_s)
        self.stats = EngineStats()
        self.is_draining = False
        self.sending: Sending | None = None
        self._arrivals: Arrivals | None = None
        self._worker_id = worker_id
        self._duty = Duty(worker_id, role)
        self._may_leave = False  # some that the role has no place for may be here
        self._max_step_tokens = max_step_tokens
        self._read = read
        self._unservable = unservable
        self._tell = tell
        self._vocab_size = vocab_size
        self._preparing = Preparing(jobs=self.jobs, grammars=grammars, later=later or _now)
        self._forking = Forking(jobs=self.jobs, scheduler=scheduler, blocks=blocks, copy_blocks=copy_blocks)

    def connect(self, outbox: Outbox | None, inbox: Inbox | None) -> None:
        """Attaches the links; before the first request."""
        if outbox is not None:
            self.sending = Sending(outbox=outbox, blocks=self.blocks)
        if inbox is not None:
            self._arrivals = Arrivals(
                receiving=Receiving(inbox=inbox, blocks=self.blocks, scheduler=self.scheduler),
                jobs=self.jobs,
                blocks=self.blocks,
                scheduler=self.scheduler,
                preparing=self._preparing,
                forking=self._forking,
                refusal=self._offers_refusal,
                admit=partial(self._admit, handing_over=False),
                fail=self._tell_error,
                finish=self.finish,
                vocab_size=self._vocab_size,
            )

    @property
    def receiving(self) -> Receiving | None:
        return self._arrivals.receiving if self._arrivals is not None else None

    @property
    def role(self) -> Role:
        return self._duty.role

    @property
    def num_in_transfer(self) -> int:
        num_sending = len(self.sending) if self.sending is not None else 0
        return num_sending + (len(self.receiving) if self.receiving is not None else 0)

    # Requests coming and going.

    def submit(self, ingress_id: str, submit: Submit) -> None:
        handing_over = submit.HasField("decode")
        try:
            job = self._admit(ingress_id, submit, handing_over=handing_over)
        except BatonError as error:  # malformed: it costs its sender an answer, not everybody the worker
            for output in wire.refusals(submit, error):
                self._tell(ingress_id, output)
            return
        if job is None:
            return
        if handing_over and job.seq.params.max_tokens - len(job.seq.output_token_ids) > 1:  # else nothing is left
            job.handover = TransferKey(submit.request_id, submit.attempt, job.seq.choice)
            job.submit = submit
            if self.sending is not None and self.sending.is_offered(job.handover):  # said again while it is on its way
                self.jobs.remove(job)
                return
        self.stats.num_prompt_tokens += len(job.seq.prompt_token_ids)
        self._preparing.prepare(job, partial(self._queue, job), partial(self._give_up, job))

    def _queue(self, job: Job) -> None:
        if job.seq.follower is not None and job.seq.follower.is_complete:  # by what earlier attempts have written
            for choice in job.choices:
                self._tell(job.seq.ingress_id, wire.final(job.seq, choice, FinishReason.STOP))
            self.finish(job)
        else:
            self.scheduler.add(job.seq)

    def _give_up(self, job: Job, error: BatonError | None) -> None:
        if error is not None:
            self.end(job, error)

    def _admit(self, ingress_id: str, submit: Submit, *, handing_over: bool) -> Job | None:
        """A new job in the table; None when it is old news, or was refused with a final output."""
        request_id, attempt = submit.request_id, submit.attempt
        choices = [choice.choice for choice in submit.choices]
        aborted = [choice for choice in choices if self.jobs.is_aborted(request_id, attempt, choice)]
        if (choices and aborted == choices) or not self._give_way(request_id, attempt, choices):
            return None
        job = self._read(ingress_id, submit)
        if job is None:
            return None
        refusal = self._refusal(job.seq, handing_over=handing_over)
        if refusal is not None:
            for choice in choices:
                self._tell(ingress_id, wire.final(job.seq, choice, FinishReason.ERROR, refusal))
            return None
        if submit.HasField("draft") and not handing_over:
            job.draft = submit.draft
        self.jobs.add(job)
        for choice in aborted:
            self.jobs.drop_choice(job, choice)
        return job

    def _give_way(self, request_id: str, attempt: int, choices: Iterable[int]) -> bool:
        """Ends older attempts; False: there is a newer one, or this one is here."""
        for choice in choices:
            existing = self.jobs.find(request_id, choice)
            if existing is not None and existing.seq.attempt >= attempt:
                return False
            if existing is not None:
                self._discard(existing)
        return True

    def _refusal(self, seq: Seq, *, handing_over: bool) -> BatonError | None:
        if self.is_draining:
            return self._draining()
        if (refusal := self._duty.refusal(seq, handing_over=handing_over)) is not None:
            return refusal
        if handing_over and self.sending is None:
            return InternalError(f"worker {self._worker_id} has no link to hand over with")
        return self._unservable(seq, handing_over)

    def abort(self, abort: Abort, now_s: float) -> None:
        """Without a word; no choices means all."""
        choices = list(abort.choices)
        self.jobs.note_abort(abort.request_id, abort.attempt, choices, now_s)
        for job, choice in self.jobs.of_request(abort.request_id, choices, abort.attempt):
            if len(job.choices) > 1:
                self.jobs.drop_choice(job, choice)
            else:
                self._discard(job)
        if self.sending is not None:
            self.sending.abort_request(abort.request_id, abort.attempt, choices)

    def disconnect(self, ingress_id: str) -> None:
        """The ingress is gone: ends all that it asked for."""
        for job in self.jobs:
            if job.seq.ingress_id == ingress_id:
                self._discard(job)
        if self.sending is not None:
            self.sending.abort_ingress(ingress_id)

    def drain(self) -> None:
        """Takes nothing new, finishes what runs."""
        self.is_draining = True
        if self._arrivals is not None:
            self._arrivals.refuse(self._draining())

    def set_role(self, role: Role) -> None:
        """From now on; see `leaving`."""
        self._duty.role = role
        self._may_leave = not role.decodes
        if not role.decodes and self._arrivals is not None:
            self._arrivals.refuse(self._duty.not_here())

    def leaving(self) -> list[tuple[Job, BatonError]]:
        """What the role has no place for any more, for the caller to `end`: it goes on elsewhere."""
        if not self._may_leave:
            return []
        self._may_leave = False
        return [(job, self._duty.not_here()) for job in self.jobs if self._duty.gives_back(job)]

    def _offers_refusal(self) -> BatonError | None:
        if self.is_draining:
            return self._draining()
        return None if self.role.decodes else self._duty.not_here()

    def _draining(self) -> PreemptedError:
        return PreemptedError(f"worker {self._worker_id} is draining; try another")

    def end_overdue(self, now_s: float) -> None:
        for job in self.jobs:
            if job.seq.deadline_s <= now_s:
                self.end(job, DeadlineExceededError("the request's deadline has passed"))

    def end(self, job: Job, error: BatonError) -> None:
        """Ends a job with a final output for each of its choices."""
        self._tell_error(job, error)
        self._discard(job)

    def _tell_error(self, job: Job, error: BatonError) -> None:
        for choice in job.choices:
            self._tell(job.seq.ingress_id, wire.final(job.seq, choice, FinishReason.ERROR, error))

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

    # Around a step.

    def preempted(self, seqs: Sequence[Seq]) -> list[tuple[Job, BatonError]]:
        """Of sequences that have lost their blocks those that are worth a new attempt, for the caller to `end`.

        Short ones are read again here. Long ones of a decode worker are read sooner by prefill; of a hand-over, what
        was promised to the other side is gone.
        """
        self.stats.num_preemptions += len(seqs)
        ended: list[tuple[Job, BatonError]] = []
        for seq in seqs:
            job = self.jobs.of(seq)
            if self.sending is not None and self.sending.is_sending(job):
                self.sending.forget_blocks(job)
                ended.append((job, PreemptedError("preempted while handing over")))
            elif self.role is Role.DECODE and seq.num_tokens > self._max_step_tokens:
                ended.append((job, PreemptedError("preempted: out of blocks")))
        return ended

    def offer(self, jobs: Iterable[Job]) -> None:
        """Hand-overs begin with the step that admits their prompts."""
        if self.sending is None:
            return
        for job in jobs:
            if job.handover is not None and not job.offered:
                self.sending.begin(job)

    def computed(self, chunks: Iterable[ScheduledChunk]) -> None:
        """The KV of `chunks` is in their blocks. That of draft tokens counts when they are accepted: see `advance`."""
        for chunk in chunks:
            chunk.seq.num_computed_tokens += chunk.num_tokens
            self.blocks.commit(chunk.seq)

    def advance(self, job: Job, written: Sequence[Written]) -> None:
        """All of the job's tokens are computed, and those that follow are out: hands it over, ends it or goes on.

        Args:
            written: Of each choice of the job, in order.
        """
        if len(written) == 1 and job.handover is None:
            self._append(job.seq, written[0].token_ids)
            if written[0].is_done:
                self.finish(job)
            return
        going = [(choice, token_ids[-1]) for choice, token_ids, is_done in written if not is_done]
        assert all(len(one.token_ids) == 1 for one in written), "drafts are for choices that decode here, each alone"
        if job.handover is not None:
            self._hand_over(job, going)
        elif going:
            self._forking.fork(job, going)
        else:
            self.finish(job)

    def _append(self, seq: Seq, token_ids: Sequence[int]) -> None:
        """The KV of all but the last is in the blocks: they were draft tokens."""
        seq.output_token_ids += token_ids
        if len(token_ids) > 1:
            seq.num_computed_tokens += len(token_ids) - 1
            self.blocks.commit(seq)

    def finish(self, job: Job) -> None:
        """The job has sent its last token."""
        self.scheduler.remove(job.seq)
        self.blocks.free(job.seq)
        self.jobs.remove(job)
        job.seq.status = Status.FINISHED

    def _hand_over(self, job: Job, going: Sequence[tuple[int, int]]) -> None:
        self.scheduler.remove(job.seq)
        self.jobs.remove(job)
        job.choices = [choice for choice, _ in going]
        if self.sending is not None and self.sending.is_sending(job):
            self.sending.complete(job, going)
        else:  # the transfer ended before the prompt did
            self.blocks.free(job.seq)

    # Transfers.

    def take_transfers(self, now_s: float) -> list[Job]:
        """Takes in what the links have to say; returns the jobs that came whole, and are decoded from now on."""
        if self.sending is not None:
            for job, error, acked in self.sending.ended():
                self._end_sent(job, error, acked)
        started = self._arrivals.take(now_s) if self._arrivals is not None else []
        self._may_leave |= bool(started) and not self.role.decodes
        return started

    def _end_sent(self, job: Job, error: BatonError | None, acked: bool) -> None:
        """A transfer that failed ends its choices with a retryable error, unless they were aborted before.

        Where the ack alone was lost, decode goes on and the ingress passes the error over (`Choice.has_left`).
        """
        if acked or error is None:
            return
        self._tell_error(job, error if error.retryable else UnavailableError(f"hand-over failed: {error.message}"))
        if job.seq.status is not Status.SENDING:  # still computing: stop it
            self._discard(job)


def _now(do: Callable[[], None]) -> None:
    do()
