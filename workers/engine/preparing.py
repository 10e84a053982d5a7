"""Jobs whose grammar is being compiled: they are in the table, and queued nowhere yet.

Compiling runs on a thread of its own, so that a grammar that takes long delays nobody else. A job that is ended
meanwhile is forgotten when its grammar is there.
"""

from collections.abc import Callable
from functools import partial

from baton.errors import BatonError, InvalidRequestError
from workers.engine.following import Follower, Grammars
from workers.engine.jobs import Job, JobTable

GoOn = Callable[[], None]
GiveUp = Callable[[BatonError | None], None]  # why, or None: the job is gone


class Preparing:
    """
    Args:
        grammars: None: this worker's model has none.
        later: Has something done by the engine's thread; from any thread.
    """

    def __init__(
        self, *, jobs: JobTable, grammars: Grammars | None, later: Callable[[Callable[[], None]], None]
    ) -> None:
        self._jobs = jobs
        self._grammars = grammars
        self._later = later

    def prepare(self, job: Job, go_on: GoOn, give_up: GiveUp) -> None:
        """Calls one of the two, now or from a command of the engine's thread."""
        if not job.seq.grammar:
            go_on()
            return
        if self._grammars is None:
            give_up(InvalidRequestError("grammar: this worker's model has no tokenizer to follow one with", "grammar"))
            return

        def done(found: Follower | BatonError) -> None:
            self._later(partial(self._ready, job, found, go_on, give_up))

        found = self._grammars.follower(job.seq.grammar, done)
        if found is not None:
            self._ready(job, found, go_on, give_up)

    def _ready(self, job: Job, found: Follower | BatonError, go_on: GoOn, give_up: GiveUp) -> None:
        if self._jobs.find(*job.seq.key) is not job:
            give_up(None)
        elif isinstance(found, BatonError):
            give_up(found)
        else:
            job.seq.follower = found
            found.sync(job.seq.output_token_ids)
            go_on()
