"""What is to be thought of an outcome."""

import enum
from collections.abc import Iterable

from tools.soak.happening import Happening, explanation
from tools.soak.outcome import Ending, Outcome


class Verdict(enum.StrEnum):
    OK = "ok"  # whole, and as known
    ENDED = "ended by its client"  # it left or its time was over; what had come was as known
    REJECTED = "rejected as it must be"
    EXPECTED_LOSS = "expected loss"  # what carried it was killed, and nothing better is promised
    WRONG = "wrong"
    FAILED = "failed"


BAD_ONES = (Verdict.WRONG, Verdict.FAILED)


def judge(outcome: Outcome, happenings: Iterable[Happening]) -> Verdict:
    if outcome.family == "bad" and outcome.ending is Ending.FINISHED and not outcome.differs:
        return Verdict.REJECTED
    if outcome.differs and outcome.family != "bad":
        return Verdict.WRONG
    match outcome.ending:
        case Ending.FINISHED if not outcome.differs:
            return Verdict.OK
        case Ending.LEFT | Ending.DEADLINE:
            return Verdict.ENDED
        case Ending.CUT | Ending.LOST | Ending.REFUSED | Ending.STATUS:
            return Verdict.EXPECTED_LOSS if explanation(happenings, outcome) else Verdict.FAILED
    return Verdict.FAILED
