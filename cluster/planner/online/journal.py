"""The decisions, numbered, the newest kept; it outlives an autopilot that another config replaces."""

from collections import deque

from cluster.planner.online.decision import Decision, DecisionKind, DecisionState

MAX_DECISIONS = 32


class Journal:
    def __init__(self) -> None:
        self.decisions: deque[Decision] = deque(maxlen=MAX_DECISIONS)
        self._num_told = 0

    def say(
        self,
        at_s: float,
        kind: DecisionKind,
        state: DecisionState,
        what: str,
        why: str,
        *,
        before: float | None = None,
        after: float | None = None,
        measured: float | None = None,
    ) -> Decision:
        """Shares as in `Decision`."""
        self._num_told += 1
        told = Decision(
            number=self._num_told,
            at_s=at_s,
            kind=kind,
            state=state,
            what=what,
            why=why,
            predicted_before=before,
            predicted_after=after,
            measured=measured,
        )
        self.decisions.append(told)
        return told
