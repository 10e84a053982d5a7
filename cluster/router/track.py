"""What became of one request, noted as it happens: its wait, its attempts and the workers of each, its outputs.

Invariant: times are those of one monotonic clock, whatever the workers' clocks say; a track is bounded however long an
answer gets (`Marks`, `MAX_ATTEMPTS`). No text and no token is kept. Who keeps tracks, and shows them, is
`cluster.ingress.tracing`'s to say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from baton.v1.worker_pb2 import TokenOutput
from cluster.router.marks import MAX_MARKS, Marks
from cluster.router.worker_story import WorkerStory, told

MAX_ATTEMPTS = 64  # of a request, each; later ones are counted alone
OK, LOST = "ok", "lost"


@dataclass(slots=True, kw_only=True)
class Attempt:
    """
    Attributes:
        prefill_id: None: who decodes reads the prompt.
        num_expected_tokens: Of the prompt, that the router thought to be in the cache of who reads it.
        num_cached_tokens: That were; None: not told yet.
        end: ok, lost (a worker of it died), or the code of the worker's error; None: it goes on, or nobody knows.
    """

    number: int
    choices: tuple[int, ...]
    sent_s: float
    prefill_id: str | None
    decode_id: str
    draft_id: str | None
    num_expected_tokens: int
    num_cached_tokens: int | None = None
    stories: list[WorkerStory] = field(default_factory=list)
    ended_s: float | None = None
    end: str | None = None
    error: str = ""

    @property
    def reader_id(self) -> str:
        return self.prefill_id or self.decode_id


class Track:
    """Of one prompt and its choices; of a request's life at the ingress the part that is the router's."""

    def __init__(self, num_prompt_tokens: int, num_choices: int) -> None:
        self.num_prompt_tokens = num_prompt_tokens
        self.queued_s: float | None = None
        self.admitted_s: float | None = None
        self.attempts: list[Attempt] = []
        self.num_attempts = 0
        most = max(MAX_MARKS // max(num_choices, 1) // 2 * 2, 16)
        self.marks = [Marks(most) for _ in range(num_choices)]

    def queued(self, now_s: float) -> None:
        self.queued_s = now_s

    def admitted(self, now_s: float) -> None:
        """Idempotent."""
        if self.admitted_s is None:
            self.admitted_s = now_s

    def sent(self, attempt: Attempt) -> None:
        self.num_attempts += 1
        if len(self.attempts) < MAX_ATTEMPTS:
            self.attempts.append(attempt)

    def heard(self, output: TokenOutput, worker_id: str, now_s: float) -> None:
        """A worker's first word of an attempt, as it came."""
        attempt = self._attempt(output.attempt)
        if attempt is None:
            return
        if worker_id == attempt.reader_id and attempt.num_cached_tokens is None:
            attempt.num_cached_tokens = output.num_cached_tokens
        if output.HasField("trace") and len(attempt.stories) < MAX_ATTEMPTS:
            attempt.stories.append(told(output.trace, worker_id, attempt.sent_s, now_s))

    def wrote(self, outputs: Iterable[TokenOutput], now_s: float) -> None:
        """Delivered to whoever reads the answer; the hot path."""
        for output in outputs:
            num_tokens = len(output.token_ids)
            if num_tokens:
                self.marks[output.choice].add(now_s, num_tokens, output.num_drafted)

    def attempt_ended(self, number: int, end: str, error: str, now_s: float) -> None:
        """By a worker, or with one. Of several choices the last one's end counts, or the first one's that is not ok."""
        attempt = self._attempt(number)
        if attempt is not None and attempt.end in (None, OK):
            attempt.ended_s, attempt.end, attempt.error = now_s, end, error

    @property
    def num_cached_tokens(self) -> int:
        """Of the first attempt that told."""
        return next((one.num_cached_tokens for one in self.attempts if one.num_cached_tokens is not None), 0)

    def _attempt(self, number: int) -> Attempt | None:
        attempts = self.attempts
        if number < len(attempts) and attempts[number].number == number:  # they are numbered from 0 without gaps
            return attempts[number]
        return None


def first_s(tracks: Sequence[Track]) -> float | None:
    """When the first token of any of them came."""
    return min((mark.first_s for track in tracks for mark in track.marks if mark.first_s is not None), default=None)
