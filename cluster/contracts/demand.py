"""What an ingress replica tells the controller of its requests, about once a second, and what it is answered."""

from dataclasses import dataclass

from cluster.contracts.finished import FinishedRequest
from cluster.contracts.tuning import UNTUNED, Tuning

MAX_FINISHED = 4096  # of one report; of more the newest
MAX_OPEN = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """One that waits or is being answered. Counts are those of now."""

    arrived_s: float
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    ttft_s: float | None  # None: it waits for its first token


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandReport:
    """Times are of the replica's clock, on which it is `now_s`.

    Attributes:
        finished: Since the last report that was answered.
        is_whole: False: more finished than a report holds.
    """

    ingress_id: str
    now_s: float
    finished: tuple[FinishedRequest, ...] = ()
    open: tuple[OpenRequest, ...] = ()
    is_whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandAnswer:
    """`wants`: whether the requests themselves are of use to anybody; else an empty report now and then is enough."""

    wants: bool = False
    tuning: Tuning = UNTUNED
