"""Drafts that cost time: as deep as pays, never lastingly slower than none, and tried again when they might pay."""

import random
from collections.abc import Sequence as List
from dataclasses import dataclass, field

import pytest

from tests.unit.speculative.test_draft_model import sequence
from workers.engine.drafting import Draft
from workers.engine.sequence import Sequence
from workers.speculative.drafting_times import DraftingTimes
from workers.speculative.goodput import Goodput, Outcome
from workers.speculative.pace import HALT, RESUME, Pace
from workers.speculative.paced import PacedDrafter

KIND, FREE = 4, 0
STEP_S = 1.0


@dataclass
class World:
    """Sequences that decode in steps of 1 s; a drafter takes `draft_s` a token, verifying one token `verify_s`."""

    num_seqs: int
    chance: float
    draft_s: float
    verify_s: float = 0.01
    read_s: float = 0.02  # a token
    noise: float = 0.05
    free_chance: float | None = None  # of drafts that cost nothing, which half of the steps have
    too_long: str = ""  # which sequences the draft model cannot read so far
    now_s: float = 0.0
    num_tokens: int = 0
    depths: list[int] = field(default_factory=list)
    num_read: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(3)
        self.seqs = [sequence(str(n), [1, 2, 3]) for n in range(self.num_seqs)]
        self.unread = dict.fromkeys((seq.key for seq in self.seqs), 0)
        self.goodput = Goodput(8)
        self.pace = Pace(self.goodput, kind=KIND, max_tokens=8)
        free = self if self.free_chance is not None else None
        self.drafter = PacedDrafter(self, self.pace, self.goodput.acceptance, free=free, clock=lambda: self.now_s)

    def propose(self, seqs: List[Sequence], depth: int) -> list[Draft]:
        return [Draft([1] * depth, FREE) if self.rng.random() < 0.5 else Draft() for _ in seqs]

    def keep(self, seqs: List[Sequence]) -> None: ...

    def can_draft(self, seq: Sequence) -> bool:
        return seq.request_id not in self.too_long

    def num_unread(self, seq: Sequence) -> int:
        return self.unread[seq.key]

    def draft(self, seqs: List[Sequence], depth: int, read_at_once: int) -> list[Draft]:
        self.num_read, drafts = 0, []
        for seq in seqs:
            assert self.can_draft(seq)
            num_read = min(self.unread[seq.key], read_at_once - self.num_read)
            self.num_read += num_read
            self.unread[seq.key] -= num_read
            drafts.append(Draft() if self.unread[seq.key] else Draft([1] * depth, KIND))
        self.now_s += self.read_s * self.num_read
        self.now_s += self.draft_s * depth if any(draft.token_ids for draft in drafts) else 0.0
        return drafts

    def step(self) -> None:
        began_s = self.now_s
        self.pace.begin(self.num_seqs)
        drafts = self.drafter.propose(self.seqs, 8)
        lengths = self.pace.verified(drafts, self.goodput.choose(drafts, self.num_seqs))
        outcomes = [self._outcome(draft, length) for draft, length in zip(drafts, lengths, strict=True)]
        num_drafts = sum(lengths)
        self.depths.append(max(len(draft.token_ids) for draft in drafts))
        self.now_s += (STEP_S + self.verify_s * num_drafts) * self.rng.gauss(1, self.noise)
        self.num_tokens += self.num_seqs + sum(outcome.num_accepted for outcome in outcomes)
        step_s = self.now_s - began_s - self.pace.spent_s
        verified = [outcome for outcome in outcomes if outcome.num_drafts]
        self.goodput.learn(verified)
        self.pace.step_done(verified, step_s)
        self.goodput.took(self.num_seqs, num_drafts, step_s)

    def _outcome(self, draft: Draft, length: int) -> Outcome:
        chance = self.chance if draft.kind == KIND else self.free_chance or 0.0
        right = next((at for at in range(length) if self.rng.random() >= chance), length)
        return Outcome(draft.kind, length, right)

    def run(self, num_steps: int) -> float:
        """Tokens a second of these steps, 1 without drafts."""
        began_s, num_before = self.now_s, self.num_tokens
        for _ in range(num_steps):
            self.step()
        return (self.num_tokens - num_before) / (self.now_s - began_s) / self.num_seqs * STEP_S


def best_rate(world: World) -> float:
    """Of all depths, with all known beforehand."""
    rates = [1.0]
    for depth in range(1, 9):
        tokens = 1 + sum(world.chance**place for place in range(1, depth + 1))
        rates.append(tokens / (STEP_S + depth * world.draft_s + world.num_seqs * depth * world.verify_s))
    return max(rates)


def check_pays(num_seqs: int, chance: float, draft_s: float, num_steps: int) -> None:
    world = World(num_seqs, chance, draft_s)
    faster = world.run(num_steps)
    assert faster > 0.97
    assert faster > 1 + (best_rate(world) - 1) * 0.7 - 0.06


@pytest.mark.parametrize(("num_seqs", "draft_s"), [(1, 0.05), (1, 0.2), (1, 0.6), (16, 0.05), (16, 0.6)])
@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_never_lastingly_slower_than_without(num_seqs: int, draft_s: float, chance: float) -> None:
    check_pays(num_seqs, chance, draft_s, 800)


@pytest.mark.slow
@pytest.mark.parametrize("num_seqs", [1, 4, 16, 64])
@pytest.mark.parametrize("draft_s", [0.05, 0.1, 0.2, 0.4, 0.6])
@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_never_lastingly_slower_than_without_anywhere(num_seqs: int, draft_s: float, chance: float) -> None:
    check_pays(num_seqs, chance, draft_s, 1500)


@pytest.mark.parametrize("verify_s", [0.05, 0.2])
@pytest.mark.parametrize("free_chance", [0.1, 0.9])
def test_beside_drafts_that_cost_nothing_too(verify_s: float, free_chance: float) -> None:
    for chance in (0.1, 0.8):
        world = World(4, chance, 0.1, verify_s=verify_s, free_chance=free_chance)
        assert world.run(1000) > 0.97


@pytest.mark.parametrize("chance", [0.05, 0.9])
def test_prompts_that_are_read_for_nothing_cost_little(chance: float) -> None:
    """Every answer has 40 tokens, of a prompt of 500, which take half a plain step for each 25."""
    world = World(4, chance, 0.1)
    began_s = world.now_s
    for turn in range(80):
        for number in range(4):
            world.seqs[number] = sequence(f"{turn}-{number}", [1])
            world.unread[world.seqs[number].key] = 500
        world.run(10)
    assert world.num_tokens / 4 / (world.now_s - began_s) > 0.97


def test_drafts_come_back_when_they_pay_again() -> None:
    world = World(1, 0.05, 0.1)
    world.run(1500)
    assert sum(depth > 0 for depth in world.depths[-500:]) < 25
    world.chance = 0.9
    world.run(1500)
    assert sum(depth > 0 for depth in world.depths[-500:]) > 450
    assert world.run(300) > 1.8


def test_the_load_decides_as_well() -> None:
    """Where a token more costs as much as it brings, nothing is drafted, and again when the load falls."""
    few, many = World(1, 0.7, 0.1, verify_s=0.02), World(32, 0.7, 0.1, verify_s=0.04)
    assert few.run(400) > 1.4
    assert many.run(400) > 0.97
    assert sum(few.depths[-100:]) > 200
    assert sum(many.depths[-100:]) < 20


def test_times_of_drafting_are_told_by_the_nearest_number_of_sequences() -> None:
    times = DraftingTimes()
    assert times.token_s(4) is None
    times.learn(1, 2, 0.2)
    times.learn(16, 4, 4.0)
    assert times.token_s(1) == times.token_s(3) == pytest.approx(0.1)
    assert times.token_s(14) == times.token_s(64) == pytest.approx(1.0)
    times.learn(1, 1, 100.0)  # something was compiled
    assert times.token_s(1) < 0.15  # type: ignore[operator]


def test_sequences_that_the_draft_model_cannot_read_take_no_probes() -> None:
    world = World(2, 0.9, 0.05, too_long="0")
    assert world.run(200) > 1.2
    assert world.goodput.acceptance.chances(KIND)[0] > 0.8


@dataclass
class Asked:
    """A costly drafter that notes whom it is asked for."""

    num_read: int = 0
    kept: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def keep(self, seqs: List[Sequence]) -> None:
        self.kept = [seq.request_id for seq in seqs]

    def can_draft(self, seq: Sequence) -> bool:
        return True

    def num_unread(self, seq: Sequence) -> int:
        return 0

    def draft(self, seqs: List[Sequence], depth: int, read_at_once: int) -> list[Draft]:
        self.asked = [seq.request_id for seq in seqs]
        return [Draft([9], KIND) for _ in seqs]


class Free:
    """Guesses for the sequences `a` and `b`, surely for `a`."""

    def propose(self, seqs: List[Sequence], depth: int) -> list[Draft]:
        return [Draft([1] * depth, "ba".index(seq.request_id)) if seq.request_id in "ab" else Draft() for seq in seqs]


def test_each_sequence_gets_the_likelier_draft() -> None:
    goodput, asked = Goodput(4), Asked()
    pace = Pace(goodput, kind=KIND, max_tokens=4)
    drafter = PacedDrafter(asked, pace, goodput.acceptance, free=Free(), clock=lambda: 0.0)
    for _ in range(2):
        goodput.took(3, 0, 1.0)
    for _ in range(50):
        goodput.learn([Outcome(1, 4, 4), Outcome(0, 4, 0), Outcome(KIND, 4, 2)])
    seqs = [sequence(name, [1, 2, 3]) for name in "abc"]
    pace.begin(3)
    drafts = drafter.propose(seqs, 4)
    assert drafts == [Draft([1] * 4, 1), Draft([9], KIND), Draft([9], KIND)]
    assert asked.asked == ["b", "c"]
    assert asked.kept == ["a", "b", "c"]


def test_before_it_is_known_what_a_plain_step_takes_only_what_costs_nothing_is_drafted() -> None:
    goodput, asked = Goodput(4), Asked()
    pace = Pace(goodput, kind=KIND, max_tokens=4)
    drafter = PacedDrafter(asked, pace, goodput.acceptance, free=Free(), clock=lambda: 0.0)
    pace.begin(2)
    seqs = [sequence(name, [1, 2, 3]) for name in "bc"]
    assert drafter.propose(seqs, 4) == [Draft([1] * 4, 0), Draft()]
    assert asked.asked == []


def test_deep_in_debt_nothing_is_drafted_until_it_is_paid() -> None:
    """As where what is measured keeps promising what does not come."""
    goodput = Goodput(4)
    pace = Pace(goodput, kind=KIND, max_tokens=4)
    for _ in range(2):
        goodput.took(1, 0, 1.0)
    plans = []
    for _ in range(3000):
        pace.begin(1)
        plan = pace.plan(1)
        plans.append(plan.depth)
        pace.drafted([Draft([1] * plan.depth, KIND)] if plan.depth else [], 0, 0.001)
        pace.step_done([Outcome(KIND, plan.depth, 0)] if plan.depth else [], 1.5 if plan.depth else 1.0)
    assert sum(map(bool, plans)) * 0.5 < 26 + 0.011 * len(plans)


def test_a_load_at_which_drafting_has_stopped_stops_no_other() -> None:
    pace = World(4, 0.1, 0.1).pace
    pace.begin(16)
    pace._balance = HALT - 1
    assert pace._halts()
    pace.begin(1)
    pace._balance = (HALT + RESUME) / 2
    assert not pace._halts()
    pace.begin(16)
    pace._balance = (HALT + RESUME) / 2
    assert pace._halts()  # until there is no debt
    pace._balance = RESUME
    assert not pace._halts()
