"""How deep to draft where each token costs time: before drafting, from what came of it so far.

The depth is that which makes most tokens a second, drafting and verifying paid (SmartSpec), 0 included. Beside that
stands an account for each load, so that what cannot be known beforehand (prompts that are read for nothing, probes,
estimates that are wrong) costs a bounded share: it gets a small allowance with each step and what drafts gain, and pays
what they take. Prompts are read and drafts probed while there is something in it; in debt more must be promised, and
deep in debt nothing is drafted.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from workers.engine.drafting import Draft
from workers.speculative.draft_model import READ_AT_ONCE
from workers.speculative.drafting_times import DraftingTimes
from workers.speculative.goodput import REFRESH_STEPS, Goodput, Outcome, best_rate

PROBE_DEPTH = 2
FIRST_DEPTH = 2  # of drafts whose cost is not known; then up to twice as deep as was drafted
ALLOWANCE = 0.01  # plain steps, with each step
FIRST, MOST, LEAST = 2.0, 6.0, -100.0  # plain steps in an account: at first, and at most; of debt no more is remembered
HALT, RESUME = -4.0, 0.0  # drafting stops at the one, and goes on at the other
PRICE = 0.1  # more to be promised for each plain step of debt
MOST_LOST = 5.0  # plain steps by one step: more was a disturbance


class Plan(NamedTuple):
    """Of one step's drafting."""

    depth: int = 0
    num_seqs: int = 0  # of those that may be drafted for
    num_read: int = 0  # tokens to read, of sequences whose prompts are not read yet


class Pace:
    """One engine's; plain arithmetic, no clock.

    Args:
        kind: Of the drafts whose depth this chooses.
    """

    def __init__(self, goodput: Goodput, *, kind: int, max_tokens: int) -> None:
        self.kind = kind
        self.times = DraftingTimes()
        self._goodput = goodput
        self._max_tokens = max_tokens
        self._deepest = 0
        self._balances: dict[int, float] = {}  # by the doublings of decodes
        self._halted: set[int] = set()  # loads at which nothing is drafted
        self._num_silent, self._interval = 0, 1  # steps without drafts, and after how many there is a probe
        self._is_probing = False
        self._num_decodes = 0
        self.spent_s = 0.0  # on drafting, in this step

    def begin(self, num_decodes: int) -> None:
        """A step in which so many sequences decode."""
        self._num_decodes, self.spent_s = num_decodes, 0.0

    @property
    def _balance(self) -> float:
        """Of the step's load."""
        return self._balances.get(self._num_decodes.bit_length(), FIRST)

    @_balance.setter
    def _balance(self, balance: float) -> None:
        self._balances[self._num_decodes.bit_length()] = balance

    def plan(self, num_seqs: int) -> Plan:
        """Args: num_seqs: Sequences that may be drafted for, >= 1."""
        if self._goodput.takes_plain(self._num_decodes) or self._halts():
            return Plan()
        depth = self._best_depth(num_seqs)
        can_invest = self._balance > 0
        if depth:
            self._is_probing, self._num_silent = False, 0
            return Plan(depth, num_seqs, READ_AT_ONCE if can_invest else 0)
        self._num_silent += 1
        self._is_probing |= self._num_silent >= self._interval
        if self._is_probing and can_invest:
            return Plan(min(PROBE_DEPTH, self._max_tokens), 1, READ_AT_ONCE)
        return Plan()

    def drafted(self, drafts: Sequence[Draft], num_read: int, took_s: float) -> None:
        """What became of the plan: a probe goes on until there was a draft."""
        self.spent_s += took_s
        lengths = [len(draft.token_ids) for draft in drafts if draft.token_ids]
        if not lengths:
            return
        self._deepest = max(self._deepest, *lengths)
        if not num_read:
            self.times.learn(len(lengths), max(lengths), took_s)
        if self._num_silent:
            self._num_silent = 0
            self._interval = min(2 * self._interval, REFRESH_STEPS)

    def verified(self, drafts: Sequence[Draft], lengths: Sequence[int]) -> list[int]:
        """How many of each draft, if goodput chose `lengths`: of a probe all."""
        if not self._is_probing:
            return list(lengths)
        self._is_probing = not any(draft.kind == self.kind and draft.token_ids for draft in drafts)
        return [
            len(draft.token_ids) if draft.kind == self.kind else length
            for draft, length in zip(drafts, lengths, strict=True)
        ]

    def step_done(self, outcomes: Sequence[Outcome], step_s: float | None) -> None:
        """Args: step_s: What the step took without drafting; None: it did other work than to decode."""
        if not self._goodput.times.knows(self._num_decodes):
            return
        mine = [outcome for outcome in outcomes if outcome.kind == self.kind]
        num_drafts, num_all = (sum(outcome.num_drafts for outcome in some) for some in (mine, outcomes))
        expected_s = self._goodput.times.expected_s(self._num_decodes, num_all)
        plain_s = expected_s[0]
        if (self.spent_s or num_drafts) and plain_s > 0:
            verifying_s = (expected_s[-1] if step_s is None else step_s) - plain_s
            costs = (self.spent_s + verifying_s * num_drafts / max(num_all, 1)) / plain_s
            gained = sum(outcome.num_accepted for outcome in mine) / self._num_decodes
            self._balance += max(gained - costs, -MOST_LOST)
        self._balance = min(max(self._balance + ALLOWANCE, LEAST), MOST)
        if self._balance == MOST and mine:
            self._interval = 1  # drafts pay: if they ever stop to, it is soon seen when they do again

    def _halts(self) -> bool:
        size = self._num_decodes.bit_length()
        if self._balance < (RESUME if size in self._halted else HALT):
            self._halted.add(size)
        else:
            self._halted.discard(size)
        return size in self._halted

    def _best_depth(self, num_seqs: int) -> int:
        token_s = self.times.token_s(num_seqs) or 0.0
        most = min(self._max_tokens, FIRST_DEPTH + 2 * self._deepest)
        chances = self._goodput.acceptance.chances(self.kind)[:most]
        tokens = list(accumulate((num_seqs * chance for chance in chances), initial=float(self._num_decodes)))
        step_s = self._goodput.times.expected_s(self._num_decodes, num_seqs * most)
        took_s = [token_s * depth + step_s[num_seqs * depth] for depth in range(len(tokens))]
        least_gain = self._goodput.least_gain(self._num_decodes) + PRICE * max(-self._balance, 0.0)
        return best_rate(tokens, took_s, least_gain)
