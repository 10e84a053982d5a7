"""What one worker is serving: a job is one sequence, with the choices that will be forked off it.

Invariant: a (request, choice) belongs to at most one job, that of its newest attempt. Aborts are remembered for one
lease, so that an abort may overtake its request. No blocks here: whoever drops a job frees them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from baton.v1.worker_pb2 import DraftRoute, Submit
from workers.engine.job_trace import JobTrace
from workers.engine.sequence import Sequence as Seq
from workers.engine.stats import GuessCounts
from workers.kv_transfer.link import TransferKey


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """Attributes:
    choices: Those that this job still produces. More than one only until the prompt is read.
    handover: Key of the transfer to or from another worker while there is one.
    submit: As it came; kept while a transfer may need it.
    draft: Which worker drafts for it while it is decoded here; None: none.
    trace: Until it is told, with the next output; None: told, or nobody notes it.
    """

    seq: Seq
    choices: list[int]
    submit: Submit | None = None
    handover: TransferKey | None = None
    offered: bool = False
    cached_reported: bool = False
    draft: DraftRoute | None = None
    trace: JobTrace | None = None
    num_preemptions: int = 0


class JobWatch(Protocol):
    """Is told of sequences that another worker drafts for, from when they are known here until they are not.

    Of the engine's thread. One that is preempted and read again here stays known.
    """

    counts: GuessCounts

    def begins(self, seq: Seq, route: DraftRoute) -> None: ...

    def ends(self, key: tuple[str, int]) -> None:
        """Of any choice, drafted for or not."""
        ...

    def close(self) -> None:
        """The engine has ended."""
        ...


class Written(NamedTuple):
    """What a step wrote of one choice."""

    choice: int
    token_ids: Sequence[int]  # >= 1 of them; all but the last are draft tokens, so their KV is computed
    is_done: bool = False  # the last one ends the answer


@dataclass(slots=True)
class Tombstone:
    attempt: int
    choices: frozenset[int]  # empty: all
    expires_s: float


@dataclass(slots=True)
class JobTable:
    lease_s: float
    watch: JobWatch | None = None
    num_with_grammar: int = 0  # choices
    _jobs: dict[tuple[str, int], Job] = field(default_factory=dict)  # every choice of a job has a row
    _tombstones: dict[str, list[Tombstone]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        seen: set[int] = set()
        for job in list(self._jobs.values()):
            if id(job) not in seen:
                seen.add(id(job))
                yield job

    def add(self, job: Job) -> None:
        for choice in job.choices:
            assert (job.seq.request_id, choice) not in self._jobs, f"{job.seq.request_id}/{choice} is here already"
            self._jobs[job.seq.request_id, choice] = job
            self.num_with_grammar += bool(job.seq.grammar)
        self._begins(job)

    def remove(self, job: Job) -> None:
        for choice in job.choices:
            self._pop(job.seq.request_id, choice)

    def drop_choice(self, job: Job, choice: int) -> None:
        """Takes one choice off a job; the job's sequence then speaks for one that is left."""
        job.choices.remove(choice)
        self._pop(job.seq.request_id, choice)
        if job.choices and job.seq.choice == choice:
            job.seq.choice = job.choices[0]
            self._begins(job)
        job.seq.siblings = tuple(other for other in job.choices if other != job.seq.choice)

    def _begins(self, job: Job) -> None:
        if self.watch is not None and job.draft is not None:
            self.watch.begins(job.seq, job.draft)

    def _pop(self, request_id: str, choice: int) -> None:
        gone = self._jobs.pop((request_id, choice), None)
        self.num_with_grammar -= gone is not None and bool(gone.seq.grammar)
        if self.watch is not None and gone is not None and gone.draft is not None:
            self.watch.ends((request_id, choice))

    def of(self, seq: Seq) -> Job:
        return self._jobs[seq.key]

    def find(self, request_id: str, choice: int) -> Job | None:
        return self._jobs.get((request_id, choice))

    def of_request(self, request_id: str, choices: Iterable[int], max_attempt: int) -> list[tuple[Job, int]]:
        """(job, choice) of the request's choices (empty: all) whose attempt is at most `max_attempt`."""
        wanted = set(choices)
        return [
            (job, choice)
            for (rid, choice), job in list(self._jobs.items())
            if rid == request_id and job.seq.attempt <= max_attempt and (not wanted or choice in wanted)
        ]

    def note_abort(self, request_id: str, attempt: int, choices: Iterable[int], now_s: float) -> None:
        tombstone = Tombstone(attempt, frozenset(choices), now_s + self.lease_s)
        self._tombstones.setdefault(request_id, []).append(tombstone)

    def is_aborted(self, request_id: str, attempt: int, choice: int) -> bool:
        return any(
            attempt <= stone.attempt and (not stone.choices or choice in stone.choices)
            for stone in self._tombstones.get(request_id, ())
        )

    def expire(self, now_s: float) -> None:
        for request_id, stones in list(self._tombstones.items()):
            alive = [stone for stone in stones if stone.expires_s > now_s]
            if alive:
                self._tombstones[request_id] = alive
            else:
                del self._tombstones[request_id]
