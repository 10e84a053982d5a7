"""Scheduler and block manager under random work: blocks add up and hold what they should, and everyone finishes."""

import math
import random
from collections.abc import Sequence as List
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.engine.sequences import make_sequence
from workers.engine.block_manager import BlockManager, OutOfBlocksError
from workers.engine.draft import Draft
from workers.engine.scheduler import Scheduler, StepPlan, is_decode
from workers.engine.sequence import Sequence, Status
from workers.model.contract import ChunkKind

BLOCK_SIZE = 4
NOTHING = -1


@dataclass
class World:
    """An engine reduced to its bookkeeping, and a memory of one token id per place."""

    num_blocks: int
    budget: int = 8
    max_sequences: int = 4
    chunked: bool = True
    prefix_cache: bool = True
    num_drafts: int = 0  # for each decode, at most
    receiving: list[Sequence] = field(default_factory=list)
    quarantined: set[tuple[str, int]] = field(default_factory=set)
    num_added: int = 0
    num_finished: int = 0
    num_preempted: int = 0
    num_accepted: int = 0
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.blocks = BlockManager(num_blocks=self.num_blocks, block_size=BLOCK_SIZE, prefix_cache=self.prefix_cache)
        self.scheduler = Scheduler(
            blocks=self.blocks,
            max_batched_tokens=self.budget,
            max_sequences=self.max_sequences,
            chunked_prefill=self.chunked,
        )
        self.memory = [[NOTHING] * BLOCK_SIZE for _ in range(self.num_blocks)]
        self.known: set[int] = set()

    @property
    def max_tokens(self) -> int:
        return self.num_blocks * BLOCK_SIZE

    @property
    def live(self) -> list[Sequence]:
        return [*self.scheduler.running, *self.scheduler.waiting, *self.receiving]

    def new(self, prompt: list[int], num_outputs: int, num_siblings: int = 0, patience_s: float = math.inf) -> Sequence:
        self.num_added += 1
        prompt = prompt[: self.max_tokens - 1]
        return make_sequence(
            prompt,
            name=str(self.num_added),
            max_tokens=min(num_outputs, self.max_tokens - len(prompt)),
            arrived_s=float(self.num_added),
            deadline_s=self.now_s + patience_s,
            siblings=tuple(range(1, num_siblings + 1)),
        )

    def receive(self, seq: Sequence) -> bool:
        if not self.scheduler.can_receive(seq, len(self.receiving)):
            return False
        assert all(older.arrived_s >= seq.arrived_s for older in self.scheduler.waiting), "passed an older one"
        self.blocks.allocate(seq)
        self.blocks.grow(seq, seq.num_tokens + 1)
        seq.status = Status.RECEIVING
        self.receiving.append(seq)
        return True

    def arrive(self, seq: Sequence) -> None:
        self.receiving.remove(seq)
        self.write(seq, seq.num_cached_tokens, seq.num_tokens)
        self.scheduler.add_running(seq)
        self.accept(seq)

    def lose(self, seq: Sequence) -> None:
        self.receiving.remove(seq)
        self.blocks.quarantine(seq)
        self.quarantined.add(seq.key)

    def abort(self, seq: Sequence) -> None:
        if seq in self.receiving:
            self.lose(seq)
        else:
            self.scheduler.remove(seq)
            self.blocks.free(seq)

    def step(self) -> StepPlan:
        before = list(self.scheduler.running)
        decodes = [seq for seq in before if is_decode(seq)]
        plan = self.scheduler.plan(self.now_s, {seq.key: Draft(self.draft(seq)) for seq in decodes})
        self.check_plan(plan)
        self.check_seniority(plan, before)
        self.check_decodes(plan, decodes)
        self.now_s += 1.0
        for chunk in plan.chunks:
            start = chunk.seq.num_computed_tokens
            self.write(chunk.seq, start, start + chunk.num_tokens, chunk.draft_token_ids)
        for chunk in plan.chunks:
            if chunk.seq.num_uncomputed_tokens == 0:
                self.accept(chunk.seq, chunk.draft_token_ids)
        self.num_preempted += len(plan.preempted)
        return plan

    def draft(self, seq: Sequence) -> list[int]:
        """What `accept` will append, up to a token that is wrong."""
        left = seq.params.max_tokens - len(seq.output_token_ids)
        mix = int(self.now_s) + seq.num_tokens
        num_drafts = max(min(mix % (self.num_drafts + 1), left - 1), 0)  # a sibling that was not forked may be done
        num_right = mix % (num_drafts + 1)
        return [(seq.num_tokens + index + seq.choice) % 3 + (index >= num_right) for index in range(num_drafts)]

    def check_plan(self, plan: StepPlan) -> None:
        assert all(chunk.num_tokens > 0 for chunk in plan.chunks)
        seqs = [chunk.seq for chunk in plan.chunks]
        assert len(set(map(id, seqs))) == len(seqs)
        assert not set(map(id, seqs)) & set(map(id, plan.preempted))
        assert all(seq in self.scheduler.running and seq.status is Status.RUNNING for seq in seqs)
        assert all(seq in self.scheduler.waiting and not seq.block_ids for seq in plan.preempted)
        decodes = [chunk.num_tokens == 1 and bool(chunk.seq.output_token_ids) for chunk in plan.chunks]
        num_tokens = sum(chunk.num_tokens + len(chunk.draft_token_ids) for chunk in plan.chunks)
        assert not any(chunk.draft_token_ids for chunk in plan.chunks) or num_tokens <= self.budget
        if self.chunked:
            assert num_tokens <= max(self.budget, sum(decodes))
        for chunk in plan.chunks:
            num_tokens = chunk.seq.num_computed_tokens + chunk.num_tokens + len(chunk.draft_token_ids)
            assert num_tokens <= len(chunk.seq.block_ids) * BLOCK_SIZE
            assert chunk.kind is (ChunkKind.DECODE if is_decode(chunk.seq) else ChunkKind.PREFILL)
            assert not chunk.draft_token_ids or chunk.kind is ChunkKind.DECODE

    def check_seniority(self, plan: StepPlan, before: list[Sequence]) -> None:
        """Blocks are lost to older ones alone, and nobody passes an older one that waits."""
        running, waiting = self.scheduler.running, self.scheduler.waiting
        stayed = [seq for seq in before if seq in running]
        assert stayed + plan.preempted[::-1] == before
        patient = [seq.arrived_s for seq in waiting if seq.deadline_s > self.now_s]
        for seq in plan.admitted:
            assert seq.deadline_s > self.now_s
            assert seq.arrived_s <= min(patient, default=math.inf)
        assert not (plan.admitted and plan.preempted)
        if plan.admitted and len(running) > 1:
            assert sum(1 + len(seq.siblings) for seq in running) <= self.max_sequences

    def check_decodes(self, plan: StepPlan, decodes: list[Sequence]) -> None:
        """Each decode that keeps its blocks gets on, before all prompts; only one that runs alone may lack a block."""
        chunks = [chunk.seq for chunk in plan.chunks]
        going = [seq for seq in decodes if seq not in plan.preempted]
        if not self.chunked and plan.admitted:
            assert chunks == plan.admitted
        elif len(self.scheduler.running) > 1:
            assert chunks[: len(going)] == going

    def expire(self) -> None:
        """What an engine does with the overdue."""
        for seq in [seq for seq in self.live if seq.deadline_s <= self.now_s]:
            self.abort(seq)

    def write(self, seq: Sequence, start: int, end: int, draft: List[int] = ()) -> None:
        """Computes positions [start, end) and those of drafts after them; what it builds on must be in the blocks."""
        self.read(seq)
        for position, token in enumerate([*seq.tokens(start, end), *draft], start):
            self.memory[seq.block_ids[position // BLOCK_SIZE]][position % BLOCK_SIZE] = token
        seq.num_computed_tokens = end
        self.read(seq)
        self.blocks.commit(seq)

    def read(self, seq: Sequence) -> None:
        for position, token in enumerate(seq.tokens(0, seq.num_computed_tokens)):
            found = self.memory[seq.block_ids[position // BLOCK_SIZE]][position % BLOCK_SIZE]
            assert found == token, f"{seq.key} position {position}: {found}, not {token}"

    def accept(self, seq: Sequence, draft: List[int] = ()) -> None:
        """One token more, and one for each draft that is right; siblings are forked off; the finished leave."""
        for choice in seq.siblings:
            self.fork(seq, choice)
        seq.siblings = ()
        seq.output_token_ids.append((seq.num_tokens + seq.choice) % 3)
        for token in draft:
            if seq.output_token_ids[-1] != token:
                break
            seq.num_computed_tokens += 1
            seq.output_token_ids.append((seq.num_tokens + seq.choice) % 3)
            self.num_accepted += 1
        self.read(seq)
        self.blocks.commit(seq)
        self.finish_if_done(seq)

    def fork(self, parent: Sequence, choice: int) -> None:
        child = make_sequence(
            parent.prompt_token_ids,
            name=parent.request_id,
            choice=choice,
            max_tokens=parent.params.max_tokens,
            arrived_s=parent.arrived_s,
            deadline_s=parent.deadline_s,
        )
        child.output_token_ids.append((child.num_tokens + choice) % 3)
        self.num_added += 1
        try:
            pairs = self.blocks.fork(parent, child)
        except OutOfBlocksError:
            self.scheduler.add(child)
            return
        for source, target in pairs:
            self.memory[target][:] = self.memory[source]
        self.read(child)
        self.scheduler.add_running(child)
        self.finish_if_done(child)

    def finish_if_done(self, seq: Sequence) -> None:
        if len(seq.output_token_ids) >= seq.params.max_tokens:
            self.abort(seq)
            self.num_finished += 1

    def check(self) -> None:
        self.blocks.check_integrity([*self.scheduler.running, *self.receiving])
        added, removed = self.blocks.drain_cache_events()
        assert not set(added) & self.known
        assert set(removed) <= self.known
        self.known = (self.known | set(added)) - set(removed)
        assert self.known == set(self.blocks._block_of)
        arrivals = [seq.arrived_s for seq in self.scheduler.running]
        assert arrivals == sorted(arrivals)
        arrivals = [seq.arrived_s for seq in self.scheduler.waiting]
        assert arrivals == sorted(arrivals)

    def run_out(self) -> None:
        """Everything that is left finishes: the oldest that runs gets on in every step, so steps are bounded.

        (Unchunked, whole prompts go before it, each at most once per decode step.)
        """
        for key in self.quarantined:
            self.blocks.release_quarantine(key)
        self.quarantined.clear()
        for seq in list(self.receiving):
            self.arrive(seq)
        bound = sum(seq.num_tokens + (1 + len(seq.siblings)) * self.max_tokens for seq in self.live) + 1
        for _ in range(2 * bound):
            if not self.live:
                break
            self.expire()
            oldest = self.scheduler.running[:1]
            plan = self.step()
            assert plan.chunks or not self.live, "nobody got on"
            if self.chunked:
                assert {chunk.seq.key for chunk in plan.chunks} >= {seq.key for seq in oldest}, "the oldest waits"
            self.check()
        assert not self.live
        self.blocks.check_integrity([])
        assert self.blocks.num_free_blocks == self.num_blocks


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=30)  # of two tokens, so that prefixes are often shared


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(2, 24),
        budget=st.integers(1, 16),
        max_sequences=st.integers(1, 6),
        chunked=st.booleans(),
        prefix_cache=st.booleans(),
        num_drafts=st.integers(0, 5),
    )
    def start(
        self, num_blocks: int, budget: int, max_sequences: int, chunked: bool, prefix_cache: bool, num_drafts: int
    ) -> None:
        budget = max(budget, max_sequences + 1)
        self.world = World(num_blocks, budget, max_sequences, chunked, prefix_cache, num_drafts)

    @rule(
        prompt=prompts,
        num_outputs=st.integers(1, 20),
        num_siblings=st.integers(0, 3),
        patience_s=st.sampled_from([math.inf, math.inf, 3.0, 10.0]),
    )
    def add(self, prompt: list[int], num_outputs: int, num_siblings: int, patience_s: float) -> None:
        self.world.scheduler.add(self.world.new(prompt, num_outputs, num_siblings, patience_s))

    @rule()
    def expire(self) -> None:
        self.world.expire()

    @rule(prompt=prompts, num_outputs=st.integers(1, 20), num_siblings=st.integers(0, 2))
    def receive(self, prompt: list[int], num_outputs: int, num_siblings: int) -> None:
        self.world.receive(self.world.new(prompt, num_outputs, num_siblings))

    @rule(data=st.data(), is_whole=st.booleans())
    def end_transfer(self, data: st.DataObject, is_whole: bool) -> None:
        if self.world.receiving:
            seq = data.draw(st.sampled_from(self.world.receiving))
            if is_whole:
                self.world.arrive(seq)
            else:
                self.world.lose(seq)

    @rule()
    def release(self) -> None:
        if self.world.quarantined:
            self.world.blocks.release_quarantine(self.world.quarantined.pop())

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if self.world.live:
            self.world.abort(data.draw(st.sampled_from(self.world.live)))

    @rule(num_steps=st.integers(1, 5))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.world.step()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.run_out()


SchedulerMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestRandomWork = SchedulerMachine.TestCase


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.booleans(), st.integers(0, 6))
def test_everyone_finishes_in_a_pool_that_is_far_too_small(
    seed: int, chunked: bool, prefix_cache: bool, num_drafts: int
) -> None:
    rng = random.Random(seed)
    world = World(rng.randint(4, 12), 16, 6, chunked, prefix_cache, num_drafts)
    for _ in range(12):
        prompt = [rng.randint(0, 1) for _ in range(rng.randint(1, 40))]
        world.scheduler.add(world.new(prompt, rng.randint(1, 30), rng.choice([0, 0, 0, 2])))
    world.run_out()
    assert world.num_finished == world.num_added


@pytest.mark.parametrize("num_drafts", [0, 5])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_crowded_pool_spends_little_on_preemption(chunked: bool, num_drafts: int) -> None:
    rng = random.Random(5)
    world = World(40, 32, 16, chunked, prefix_cache=False, num_drafts=num_drafts)
    for _ in range(60):
        world.scheduler.add(world.new([rng.randint(0, 9) for _ in range(rng.randint(1, 30))], rng.randint(1, 40)))
    world.run_out()
    assert world.num_finished == 60
    assert 0 < world.num_preempted <= 60
    assert (world.num_accepted > 100) == (num_drafts > 0)
