"""How long an attempt's KV was on its way, and how much of that passed while the prompt was still being read."""

from typing import NamedTuple

from cluster.router.track import Attempt


class Transfer(NamedTuple):
    """`hidden_s`: of its time the part during which the prompt was being computed: it cost nobody anything."""

    start_s: float
    end_s: float
    hidden_s: float
    num_bytes: int


def transfer_of(attempt: Attempt) -> Transfer | None:
    """From when the decode worker had blocks until all was there; None: there was none, or nobody has told."""
    taken = next((story for story in attempt.stories if story.arrived_s is not None), None)
    if taken is None or taken.arrived_s is None:
        return None
    start_s = taken.received_s if taken.granted_s is None else taken.granted_s
    read_s = max(
        (chunk.end_s for story in attempt.stories for chunk in story.chunks if story is not taken), default=start_s
    )
    hidden_s = max(min(read_s, taken.arrived_s) - start_s, 0.0)
    return Transfer(start_s, taken.arrived_s, hidden_s, taken.num_bytes)
