"""How much of what was drafted a step verifies: as much as makes most tokens a second (SmartSpec), 0 included.

Of all draft tokens of all sequences the likeliest to be right go first, so a good guess is verified far and a bad one
is not. Tokens expected of a step are those of its sequences, and the chances of the draft tokens; what it takes was
learnt from steps like it. How much better than nothing drafts must look, `account.Account` says, one for each load.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from workers.engine.drafting import Draft
from workers.speculative.acceptance import Acceptance
from workers.speculative.account import MIN_GAIN, Account
from workers.speculative.step_times import StepTimes

REFRESH_STEPS = 100  # so often a step without drafts tells what one takes, and one with a few whether they pay again
LEAST_REFRESH_STEPS = 10  # the first where drafts gain next to nothing: there a step without costs nothing
PROBE_TOKENS = 3
FIRST_TOKENS = 4  # tried of a batch whose drafts' cost is not known; then up to twice as many as were seen, and these


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one sequence's draft, as far as it was verified.

    Attributes:
        tree: Given where tokens differ in kind or place.
        right: Places in `tree` of the tokens that were.
    """

    kind: int
    num_drafts: int
    num_accepted: int
    tree: Draft | None = None
    right: Sequence[int] = ()


class Goodput:
    """One engine's; plain arithmetic, no clock."""

    def __init__(self, max_tokens: int) -> None:
        self.acceptance = Acceptance(max_tokens)
        self.times = StepTimes()
        self._accounts: dict[int, Account] = {}  # by the doublings of decodes
        self._num_right = 0  # in the step that was learnt of last
        self._num_drafting = 0  # steps with drafts since the last one without
        self._num_silent = 0  # steps without since the last one with drafts, though there were some

    def choose(self, drafts: Sequence[Draft], num_decodes: int) -> list[int]:
        """How many tokens of each draft to verify, its first; those of a tree are ordered by `likeliest_first`.

        Args:
            num_decodes: Sequences that decode in this step, with drafts or without.
        """
        lengths = [0] * len(drafts)
        if not any(draft.token_ids for draft in drafts):
            self._num_drafting = 0
            return lengths
        if self.takes_plain(num_decodes):
            self._num_drafting = 0
            return lengths
        order = self._likeliest_first(drafts)[: self.num_considered(num_decodes)]
        best = self._best_count([chance for chance, *_ in order], num_decodes)
        if best == 0 and self._num_silent >= REFRESH_STEPS:
            which = order[0][2]
            lengths[which] = min(PROBE_TOKENS, len(drafts[which].token_ids))
        for _, _, which in order[:best]:
            lengths[which] += 1
        drafting = any(lengths)
        self._num_drafting = self._num_drafting + 1 if drafting else 0
        self._num_silent = 0 if drafting else self._num_silent + 1
        return lengths

    def takes_plain(self, num_decodes: int) -> bool:
        """Whether the next step verifies nothing, whatever is drafted, so that it is known what such a step takes."""
        if not self.times.knows(num_decodes):
            return True
        gain = self._account(num_decodes).gain
        return self._num_drafting >= min(max(2 * REFRESH_STEPS * gain, LEAST_REFRESH_STEPS), REFRESH_STEPS)

    def least_gain(self, num_decodes: int) -> float:
        """How many times as many tokens a second drafts must promise, so many as a step without makes."""
        return self._account(num_decodes).least_gain

    def num_considered(self, num_decodes: int) -> int:
        """Of all tokens that are drafted for a step: the likeliest, at most."""
        return FIRST_TOKENS + (2 * self.times.most_drafts(num_decodes) if self.times.knows(num_decodes) else 0)

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Of a step, whatever else was in it."""
        self._num_right = sum(outcome.num_accepted for outcome in outcomes)
        for outcome in outcomes:
            if outcome.tree is not None:
                self.acceptance.learn_tree(outcome.tree, outcome.right)
            else:
                self.acceptance.learn(outcome.kind, outcome.num_drafts, outcome.num_accepted)

    def took(self, num_decodes: int, num_drafts: int, seconds: float) -> None:
        """A step that only decoded, and was learnt of last."""
        if not num_drafts:
            self._account(num_decodes).rest()
        elif self.times.knows(num_decodes) and (plain_s := self.times.plain_s(num_decodes)):
            self._account(num_decodes).book(self._num_right / num_decodes - (seconds / plain_s - 1))
        self.times.learn(num_decodes, num_drafts, seconds)

    def _account(self, num_decodes: int) -> Account:
        return self._accounts.setdefault(num_decodes.bit_length(), Account())

    def _likeliest_first(self, drafts: Sequence[Draft]) -> list[tuple[float, int, int]]:
        """(chance, -place, draft): of one draft in order of places, since chances fall."""
        found = [
            (chance, -place, which)
            for which, draft in enumerate(drafts)
            for place, chance in enumerate(self.acceptance.of(draft))
        ]
        return sorted(found, reverse=True)

    def _best_count(self, chances: Sequence[float], num_decodes: int) -> int:
        tokens = list(accumulate(chances, initial=float(num_decodes)))
        took_s = self.times.expected_s(num_decodes, len(chances))
        return best_rate(tokens, took_s, self.least_gain(num_decodes))


def best_rate(tokens: Sequence[float], took_s: Sequence[float], least_gain: float = MIN_GAIN) -> int:
    """The place at which most tokens are made in a second; the first, unless another one gains enough.

    Args:
        tokens: Expected of a step, by how much is drafted in it, from nothing on.
        took_s: What that takes.
        least_gain: How many times the first one's rate another must have.
    """
    best, best_tokens, best_s = 0, tokens[0] * least_gain, took_s[0]
    for place, (expected, seconds) in enumerate(zip(tokens[1:], took_s[1:], strict=True), start=1):
        if expected * best_s > best_tokens * seconds:  # rates, without dividing by a clock that stood still
            best, best_tokens, best_s = place, expected, seconds
    return best
