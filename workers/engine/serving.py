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
from workers.engine.block_manager import BlockManager
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
from workers.kv_transfer.link import Arrived, Inbox, Offered, Outbox, TransferKey
from workers.spec import SERVING_ROLES, Role

logger = logging.getLogger(__name__)
PREEMPTED = "preempted"  # the code that asks for a new attempt without counting as a loss


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
        self.receiving: Receiving | None = None
        self._worker_id = worker_id
        self._role = role
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
            self.receiving = Receiving(inbox=inbox, blocks=self.blocks, scheduler=self.scheduler)

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
            return UnavailableError(f"worker {self._worker_id} is draining; try another")
        if self._role not in SERVING_ROLES:
            return InternalError(f"worker {self._worker_id} is a {self._role} worker and takes no requests")
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
        if self.receiving is not None:
            for job in self.receiving.refuse_pending():
                self.jobs.remove(job)

    def end_overdue(self, now_s: float) -> None:
        for job in self.jobs:
            if job.seq.deadline_s <= now_s:
                self.end(job, DeadlineExceededError("the request's deadline has passed"))

    def end(self, job: Job, error: BatonError, *, code: str | None = None) -> None:
        """Ends a job with a final output for each of its choices. `code` replaces the error's own."""
        self._tell_error(job, error, code)
        self._discard(job)

    def _tell_error(self, job: Job, error: BatonError, code: str | None = None) -> None:
        for choice in job.choices:
            self._tell(job.seq.ingress_id, wire.final(job.seq, choice, FinishReason.ERROR, error, code=code))

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
                ended.append((job, UnavailableError("preempted while handing over")))
            elif self._role is Role.DECODE and seq.num_tokens > self._max_step_tokens:
                ended.append((job, UnavailableError("preempted: out of blocks")))
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

    def take_transfers(self) -> list[Job]:
        """Takes in what the links have to say; returns the jobs that came whole, and are decoded from now on."""
        if self.sending is not None:
            for job, error, acked in self.sending.ended():
                self._end_sent(job, error, acked)
        return self._receive(self.receiving) if self.receiving is not None else []

    def _end_sent(self, job: Job, error: BatonError | None, acked: bool) -> None:
        """A transfer that failed ends its choices with a retryable error, unless they were aborted before.

        Where the ack alone was lost, decode goes on and the ingress passes the error over (`Choice.has_left`).
        """
        if acked or error is None:
            return
        self._tell_error(job, error if error.retryable else UnavailableError(f"hand-over failed: {error.message}"))
        if job.seq.status is not Status.SENDING:  # still computing: stop it
            self._discard(job)

    def _receive(self, receiving: Receiving) -> list[Job]:
        offered, arrived, lost = receiving.offers()
        for offer in offered:
            self._take_offer(receiving, offer)
        started = [job for job, arrival in arrived if self._start_decoding(job, arrival)]
        for job, error in lost:
            # The prefill side, or the dispatcher that saw it die, tells the ingress: here only the room is given back.
            logger.info("transfer lost request_id=%s error=%s", job.seq.request_id, error)
            self.jobs.remove(job)
        receiving.grant()
        return started

    def _take_offer(self, receiving: Receiving, offer: Offered) -> None:
        if self.is_draining:
            receiving.refuse(offer.key, UnavailableError(f"worker {self._worker_id} is draining; try another"))
            return
        try:
            job = self._admit(offer.ingress_id, offer.submit, handing_over=False)
        except BatonError as error:
            receiving.refuse(offer.key, error)
            return
        if job is None:
            receiving.refuse(offer.key, UnavailableError("the request was aborted, or a newer attempt is here"))
            return
        job.handover = offer.key
        job.cached_reported = True
        job.seq.num_scored_tokens = len(job.seq.prompt_token_ids)  # whoever reads the prompt tells
        receiving.hold(job)
        self._preparing.prepare(job, partial(receiving.enqueue, job), partial(self._refuse_offer, receiving, job))

    def _refuse_offer(self, receiving: Receiving, job: Job, error: BatonError | None) -> None:
        if error is not None:
            self.jobs.remove(job)
            receiving.abort(job, error)

    def _start_decoding(self, job: Job, arrival: Arrived) -> bool:
        """False: none of its choices goes on."""
        seq = job.seq
        job.handover = None
        if (fault := self._fault(seq, arrival)) is not None:
            self._tell_error(job, fault)
            self.finish(job)
            return False
        seq.num_computed_tokens = arrival.num_tokens
        self.blocks.commit(seq)
        first_tokens = dict(arrival.first_tokens)
        going = [(choice, first_tokens[choice]) for choice in job.choices if choice in first_tokens]
        if not going:
            self.finish(job)
            return False
        self.scheduler.add_running(seq)
        self._forking.fork(job, going)
        return True

    def _fault(self, seq: Seq, arrival: Arrived) -> UnavailableError | None:
        """Why what a peer sent is of no use, if so."""
        name = arrival.key.request_id
        if arrival.num_tokens != seq.num_tokens:
            return UnavailableError(f"{name}: KV of {arrival.num_tokens} tokens came, the request has {seq.num_tokens}")
        highest = max((token for _, token in arrival.first_tokens), default=0)
        if self._vocab_size is not None and highest >= self._vocab_size:
            return UnavailableError(f"{name}: token id {highest} came, of a vocabulary of {self._vocab_size}")
        return None


def _now(do: Callable[[], None]) -> None:
    do()
