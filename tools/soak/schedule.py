"""What is done to the cluster, when: drawn from a seed. Pure; who does it is `troubles`.

Invariant: every kind that can be had comes once before any comes twice, as far as there is time.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

QUIET_BEGIN, QUIET_END = 0.08, 0.85  # shares of the run between which things happen; before and after, load alone


class Kind(enum.StrEnum):
    KILL_PREFILL = "kill prefill"
    KILL_DECODE = "kill decode"
    KILL_DRAFT = "kill draft"
    KILL_RANK = "kill rank"
    KILL_TWO = "kill prefill and decode"
    KILL_REPLICA = "kill ingress replica"
    KILL_HAPROXY = "kill HAProxy"
    KILL_PROXY_MANAGER = "kill HAProxy's manager"
    KILL_CONTROLLER = "kill controller"
    KILL_SERVE_CONTROLLER = "kill Serve's controller"
    KILL_PROXY = "kill Serve's own proxy"
    KILL_COMPILER = "kill grammar compiler"
    PAUSE_PREFILL = "pause prefill"
    PAUSE_DECODE = "pause decode"
    PAUSE_DRAFT = "pause draft"
    SILENCE_DECODE = "silence decode"
    SILENCE_PREFILL = "silence prefill"
    PAUSE_REPLICA = "pause ingress replica"
    PAUSE_HAPROXY = "pause HAProxy"
    PAUSE_CONTROLLER = "pause controller"
    CUT_LINK = "cut link"
    FLIP_ROLE = "flip role"
    ROLLING_CHANGE = "rolling change"
    ROLLING_INGRESS = "rolling change of the ingress"
    SCALE = "scale"
    ADAPTER = "adapter"
    BURST = "burst of long prompts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """`at_s`: since the load began; `lot` in [0, 1) chooses among several victims."""

    kind: Kind
    at_s: float
    lot: float


def schedule(seed: int, duration_s: float, every_s: float, kinds: Sequence[Kind]) -> list[Planned]:
    """
    Args:
        every_s: Mean gap between two events.
        kinds: That this cluster and machine can have.
    """
    rng = Random(f"schedule {seed}")
    planned: list[Planned] = []
    rest: list[Kind] = []
    at_s = duration_s * QUIET_BEGIN
    while at_s < duration_s * QUIET_END and kinds:
        if not rest:
            rest = list(kinds)
            rng.shuffle(rest)
        planned.append(Planned(kind=rest.pop(), at_s=at_s, lot=rng.random()))
        at_s += every_s * rng.uniform(0.7, 1.3)
    return planned


def default_gap_s(duration_s: float, num_kinds: int) -> float:
    """So that every kind comes, if no event then follows sooner than another may be over."""
    return min(40.0, max(12.0, duration_s * (QUIET_END - QUIET_BEGIN) / max(1, num_kinds)))
