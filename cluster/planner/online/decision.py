"""What the autopilot decided and why, as data: for `baton status`, the page and the log."""

import enum
from dataclasses import dataclass


class DecisionState(enum.StrEnum):
    ADVISED = "advised"  # said, not done
    APPLIED = "applied"  # on probation from now
    KEPT = "kept"  # its probation is over
    ROLLED_BACK = "rolled back"
    REFUSED = "refused"  # nothing is changed, though something might be wrong


class DecisionKind(enum.StrEnum):
    ROLE = "role"
    WORKERS = "workers"
    LIMIT = "limit"
    TRUST = "trust"  # in what is simulated
    BY_HAND = "by hand"  # somebody else changed something


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Shares are attainment: of requests that meet both limits of the SLO; None: not known, or of no meaning.

    Attributes:
        number: From 1.
        at_s: Of the looker's clock; `age_s` is for others.
        predicted_before, predicted_after: Simulated, without the change and with it.
        measured: Before the change; of one that is kept or rolled back, since it.
    """

    number: int
    at_s: float
    kind: DecisionKind
    state: DecisionState
    what: str
    why: str
    predicted_before: float | None = None
    predicted_after: float | None = None
    measured: float | None = None

    def __str__(self) -> str:
        return f"{self.state}: {self.what}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotStatus:
    """What it makes of things, for `baton status`.

    Attributes:
        mode: As in `planner.mode`.
        doing: In words: looking, changing, on probation, cooling down, what it waits for.
        costs: Where the costs of steps come from, in words.
        error: Of the simulation against what was measured, at the last look; None: nothing to compare yet.
        rate, expected_rate: Requests/s that arrived of late, and that are expected.
        attainment: Measured over the window; None: no request.
        look_s: CPU seconds of the last look, one process's.
        cpu_share: Of one core, that looks take on average.
        decisions: The newest last.
    """

    mode: str = "off"
    doing: str = ""
    costs: str = ""
    is_trusted: bool = True
    error: float | None = None
    rate: float = 0.0
    expected_rate: float = 0.0
    attainment: float | None = None
    look_s: float = 0.0
    cpu_share: float = 0.0
    decisions: tuple[Decision, ...] = ()


NO_AUTOPILOT = AutopilotStatus()
