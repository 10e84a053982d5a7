"""What other workers hand over to this one: which offers it takes, and when what has come is decoded.

Invariant: an offered job is in the table from when it is taken until its transfer is lost, refused or whole; then it is
decoded, or has ended. Tickets and blocks are `receiving.Receiving`'s.
"""

import logging
from collections.abc import Callable
from functools import partial

from baton.errors import BatonError, UnavailableError
from baton.v1.worker_pb2 import Submit
from workers.engine.block_manager import BlockManager
from workers.engine.forking import Forking
from workers.engine.jobs import Job, JobTable
from workers.engine.preparing import Preparing
from workers.engine.receiving import Receiving, fault_of
from workers.engine.scheduler import Scheduler
from workers.kv_transfer.link import Arrived, Offered

logger = logging.getLogger(__name__)


class Arrivals:
    """
    Args:
        refusal: Why no offer is taken now, if none is.
        admit: The job of a Submit and its ingress, in the table; None: nobody waits for it. Raises: BatonError.
        fail: Tells of a job that it ends with an error.
        finish: Ends a job without a word.
        vocab_size: Token ids are below it; None: nobody computes with them.
    """

    def __init__(
        self,
        *,
        receiving: Receiving,
        jobs: JobTable,
        blocks: BlockManager,
        scheduler: Scheduler,
        preparing: Preparing,
        forking: Forking,
        refusal: Callable[[], BatonError | None],
        admit: Callable[[str, Submit], Job | None],
        fail: Callable[[Job, BatonError], None],
        finish: Callable[[Job], None],
        vocab_size: int | None,
    ) -> None:
        self.receiving = receiving
        self._jobs = jobs
        self._blocks = blocks
        self._scheduler = scheduler
        self._preparing = preparing
        self._forking = forking
        self._refusal = refusal
        self._admit = admit
        self._fail = fail
        self._finish = finish
        self._vocab_size = vocab_size

    def take(self, now_s: float) -> list[Job]:
        """Takes in what the inbox has to say; returns the jobs that came whole, and are decoded from now on."""
        offered, arrived, lost = self.receiving.offers()
        for offer in offered:
            self._take_offer(offer)
        started = [job for job, arrival in arrived if self._start_decoding(job, arrival)]
        for job, error in lost:
            # The prefill side, or the dispatcher that saw it die, tells the ingress: here only the room is given back.
            logger.info("transfer lost request_id=%s error=%s", job.seq.request_id, error)
            self._jobs.remove(job)
        self.receiving.grant(now_s)
        for job in started:
            if job.trace is not None:
                job.trace.arrived_s = now_s
                job.trace.num_came_tokens = job.seq.num_computed_tokens
        return started

    def refuse(self, error: BatonError) -> None:
        """All that have no blocks yet."""
        for job in self.receiving.refuse_pending(error):
            self._jobs.remove(job)

    def _take_offer(self, offer: Offered) -> None:
        receiving = self.receiving
        if (refusal := self._refusal()) is not None:
            receiving.refuse(offer.key, refusal)
            return
        try:
            job = self._admit(offer.ingress_id, offer.submit)
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
        self._preparing.prepare(job, partial(receiving.enqueue, job), partial(self._refuse_offer, job))

    def _refuse_offer(self, job: Job, error: BatonError | None) -> None:
        if error is not None:
            self._jobs.remove(job)
            self.receiving.abort(job, error)

    def _start_decoding(self, job: Job, arrival: Arrived) -> bool:
        """False: none of its choices goes on."""
        seq = job.seq
        job.handover = None
        if (fault := fault_of(arrival, seq, self._vocab_size)) is not None:
            self._fail(job, fault)
            self._finish(job)
            return False
        seq.num_computed_tokens = arrival.num_tokens
        self._blocks.commit(seq)
        first_tokens = dict(arrival.first_tokens)
        going = [(choice, first_tokens[choice]) for choice in job.choices if choice in first_tokens]
        if not going:
            self._finish(job)
            return False
        self._scheduler.add_running(seq)
        self._forking.fork(job, going)
        return True
