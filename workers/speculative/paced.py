"""Drafts that cost time beside drafts that cost none: for each sequence the likelier, and no deeper than pays."""

import time
from collections.abc import Callable
from collections.abc import Sequence as List
from typing import Protocol

from workers.engine.drafting import Draft, Drafter
from workers.engine.sequence import Sequence
from workers.speculative.acceptance import Acceptance
from workers.speculative.pace import Pace, Plan


class CostlyDrafter(Protocol):
    """A drafter that the steps wait for."""

    num_read: int  # tokens of prompts, by the last `draft`

    def keep(self, seqs: List[Sequence]) -> None:
        """Forgets all other sequences."""
        ...

    def can_draft(self, seq: Sequence) -> bool:
        """Whether a draft would be of use, and the model can read so far."""
        ...

    def num_unread(self, seq: Sequence) -> int:
        """Tokens to read before it is drafted for; 0: at once."""
        ...

    def draft(self, seqs: List[Sequence], depth: int, read_at_once: int) -> List[Draft]:
        """Of some sequences; see `workers.speculative.draft_model`."""
        ...


class PacedDrafter:
    """See `workers.engine.drafting.Drafter`.

    Args:
        free: Whose drafts cost nothing; its kinds are other ones. None: there is none.
        clock: Seconds.
    """

    def __init__(
        self,
        costly: CostlyDrafter,
        pace: Pace,
        acceptance: Acceptance,
        *,
        free: Drafter | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._costly, self._pace, self._acceptance = costly, pace, acceptance
        self._free, self._clock = free, clock

    def propose(self, seqs: List[Sequence], depth: int) -> List[Draft]:
        drafts = list(self._free.propose(seqs, depth)) if self._free is not None else [Draft()] * len(seqs)
        self._costly.keep(seqs)
        wanted = [
            which
            for which, draft in enumerate(drafts)
            if not self._is_likelier(draft) and self._costly.can_draft(seqs[which])
        ]
        plan = self._pace.plan(len(wanted)) if wanted else None
        if plan is None or not plan.depth:
            return drafts
        wanted = self._served([(self._costly.num_unread(seqs[which]), which) for which in wanted], plan)
        if not wanted:
            return drafts
        began_s = self._clock()
        found = self._costly.draft([seqs[which] for which in wanted], min(depth, plan.depth), plan.num_read)
        self._pace.drafted(found, self._costly.num_read, self._clock() - began_s)
        for which, draft in zip(wanted, found, strict=True):
            if draft.token_ids:
                drafts[which] = draft
        return drafts

    def _served(self, unread: list[tuple[int, int]], plan: Plan) -> list[int]:
        """Of (tokens to read, which sequence) those that the plan has room for, in order."""
        able = sorted(one for one in unread if plan.num_read or not one[0])[: plan.num_seqs]
        return sorted(which for _, which in able)

    def _is_likelier(self, draft: Draft) -> bool:
        """Than the costly drafter's."""
        if not draft.token_ids:
            return False
        return self._acceptance.chances(draft.kind)[0] >= self._acceptance.chances(self._pace.kind)[0]
