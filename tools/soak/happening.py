"""What was done to the cluster, and which losses that explains."""

from collections.abc import Iterable
from dataclasses import dataclass

from tools.soak.outcome import Ending, Outcome
from tools.soak.schedule import Kind

SLACK_S = 0.5  # between a kill and what its clients' clocks say of it
NOTICE_S = 5.0  # within which a client on a busy machine reads that its connection is gone


@dataclass(slots=True, kw_only=True)
class Happening:
    """Seconds since the load began.

    Attributes:
        victim: Whom it met: worker, pid.
        over_s: When the cluster was whole again; None: not yet.
        error: Why it could not be done, or was not overcome.
    """

    kind: Kind
    begin_s: float
    victim: str = ""
    over_s: float | None = None
    error: str = ""
    note: str = ""


def explains(happening: Happening, outcome: Outcome) -> bool:
    """Whether documents promise no better: see docs/soak.md, "What may be lost"."""
    at_s, ending = happening.begin_s, outcome.ending
    was_open = outcome.begin_s <= at_s + SLACK_S and at_s - SLACK_S <= outcome.end_s <= at_s + NOTICE_S
    match happening.kind:
        case Kind.KILL_REPLICA:
            return was_open and (ending is Ending.CUT or (ending is Ending.LOST and outcome.api == "grpc"))
        case Kind.KILL_HAPROXY:
            return was_open and ending in (Ending.CUT, Ending.LOST)
        case Kind.KILL_PROXY_MANAGER:
            over_s = (at_s + 30.0 if happening.over_s is None else happening.over_s) + SLACK_S
            during = at_s - SLACK_S <= outcome.end_s and outcome.begin_s <= over_s
            told_to_wait = ending is Ending.STATUS and outcome.is_retryable
            return (was_open or during) and (ending in (Ending.CUT, Ending.LOST, Ending.REFUSED) or told_to_wait)
    return False


def explanation(happenings: Iterable[Happening], outcome: Outcome) -> Happening | None:
    return next((one for one in happenings if explains(one, outcome)), None)


def around(happenings: Iterable[Happening], outcome: Outcome, reach_s: float = 15.0) -> list[Happening]:
    """Those that were under way while it ran, or ended shortly before."""
    return [
        one
        for one in happenings
        if one.begin_s <= outcome.end_s and (one.over_s is None or one.over_s + reach_s >= outcome.begin_s)
    ]
