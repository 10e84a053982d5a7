"""What a step gave that has landed: counted, traced, told to those who wait for it; or why it gave nothing."""

import logging
from collections.abc import Callable, Iterable, Sequence

from baton.errors import InternalError
from workers.engine.answers import Answers
from workers.engine.flight import Flight
from workers.engine.jobs import Job
from workers.engine.measures import EngineMeasures
from workers.engine.serving import Serving
from workers.model.contract import ChunkKind, Sampled

logger = logging.getLogger(__name__)


class Landing:
    """Args:
    clock: Of the engine.
    """

    def __init__(
        self, *, serving: Serving, answers: Answers, measures: EngineMeasures, clock: Callable[[], float]
    ) -> None:
        self._serving = serving
        self._answers = answers
        self._measures = measures
        self._clock = clock
        self._landed_s = 0.0  # when the last one had

    def take(self, flight: Flight, sampled: Sequence[Sequence[Sampled]]) -> tuple[float, float]:
        """Of a flight that has landed; when its step began, or the one before it was over, and when it was over.

        Jobs that have ended since it was launched are told nothing.
        """
        chunks = flight.chunks
        began_s, ended_s = max(flight.began_s, self._landed_s), self._clock()
        here = [job if self._is_here(job) else None for job in flight.jobs]
        running = [chunk for chunk, job in zip(chunks, here, strict=True) if job is not None]
        for chunk, job in zip(chunks, here, strict=True):
            if job is not None and job.trace is not None:  # what goes on decoding has none
                job.trace.computed(chunk, began_s, ended_s, is_offered=job.offered)
        self._serving.computed(running)
        if chunks[-1].kind is ChunkKind.PREFILL:  # decodes come first
            self._measures.computed(running, ended_s)
        self._answers.take(flight.batch, chunks, here, flight.owners, sampled)
        self._landed_s = self._clock()
        return began_s, self._landed_s

    def fail(self, jobs: Iterable[Job], error: Exception) -> None:
        """Their step failed: those that are here end by name."""
        here = [job for job in jobs if self._is_here(job)]
        logger.error("step failed sequences=%d", len(here), exc_info=error)
        for job in here:
            self._serving.end(job, InternalError(f"the step failed: {error}"))

    def _is_here(self, job: Job) -> bool:
        return self._serving.jobs.find(*job.seq.key) is job
