"""What an ingress keeps of one call: who asked for what, its phases, the tracks of its prompts, how it ended.

No text and no token of prompt or answer. Times are of `time.monotonic`; `arrived_at` ties them to the calendar.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.ingress.tracing.context import TraceContext
from cluster.router.track import Track, first_s


class Phase(NamedTuple):
    """What the ingress itself did before the request was queued: receive, parse, render, tokenize, grammar."""

    name: str
    start_s: float
    end_s: float


class Asked(NamedTuple):
    """Of the sampling fields those that traces carry; None: left to the model's default."""

    max_tokens: int
    num_choices: int  # per prompt
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class CallRecord:
    """
    Attributes:
        request_id: Of the answer, without its prefix.
        x_request_id: Of `X-Request-Id`; empty: the call came from nowhere.
        key_name: None: there are no keys.
        first_choices: Of each track, the client's number of its first choice.
        status: ok, cancelled, or an error's code; None: it is being answered.
        error: The error's text.
        finish_reasons: Of the client's choices that have ended.
    """

    request_id: str
    x_request_id: str
    trace: TraceContext | None
    key_name: str | None
    model: str
    served_model: str
    route: str
    arrived_s: float
    arrived_at: float
    asked: Asked
    phases: list[Phase]
    tracks: list[Track]
    first_choices: list[int]
    status: str | None = None
    error: str = ""
    ended_s: float | None = None
    finish_reasons: dict[int, str] = field(default_factory=dict)

    def end(self, status: str, error: str, now_s: float) -> None:
        self.status, self.error, self.ended_s = status, error, now_s

    @property
    def num_prompt_tokens(self) -> int:
        return sum(track.num_prompt_tokens for track in self.tracks)

    @property
    def num_cached_tokens(self) -> int:
        return sum(track.num_cached_tokens for track in self.tracks)

    @property
    def num_output_tokens(self) -> int:
        return sum(marks.num_tokens for track in self.tracks for marks in track.marks)

    @property
    def num_drafted_tokens(self) -> int:
        return sum(marks.num_drafted for track in self.tracks for marks in track.marks)

    @property
    def num_accepted_tokens(self) -> int:
        return sum(marks.num_accepted for track in self.tracks for marks in track.marks)

    @property
    def ttft_s(self) -> float | None:
        """Since it arrived; None: no token has come."""
        first = first_s(self.tracks)
        return None if first is None else first - self.arrived_s

    @property
    def tpot_s(self) -> float | None:
        """Mean gap between tokens of a choice; None: none has two."""
        writing_s, num_gaps = 0.0, 0
        for marks in (marks for track in self.tracks for marks in track.marks):
            if marks.first_s is not None and marks.last_s is not None and marks.num_tokens > 1:
                writing_s += marks.last_s - marks.first_s
                num_gaps += marks.num_tokens - 1
        return writing_s / num_gaps if num_gaps else None

    def e2e_s(self, now_s: float) -> float:
        """So far, while it runs."""
        return (now_s if self.ended_s is None else self.ended_s) - self.arrived_s
