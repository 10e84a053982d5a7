"""The block manager against a model of it: a list of what is empty, and a list of cached prefixes by age."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.engine.sequences import make_sequence
from workers.engine.block_hash import block_hashes
from workers.engine.block_manager import BlockManager, OutOfBlocksError
from workers.engine.sequence import Sequence

SIZE = 3
Prefix = tuple[int, ...]  # all tokens up to a block's end: what its content depends on


@dataclass
class Model:
    """Blocks by state. A known block's content is named by the tokens themselves, not by their hash."""

    num_empty: int
    prefix_cache: bool
    block_of: dict[Prefix, int] = field(default_factory=dict)
    cached: list[Prefix] = field(default_factory=list)  # known and unreferenced, the next to be evicted first
    quarantined: dict[str, int] = field(default_factory=dict)

    @property
    def prefix_of(self) -> dict[int, Prefix]:
        return {block_id: prefix for prefix, block_id in self.block_of.items()}

    def matching(self, tokens: Prefix) -> list[int]:
        found: list[int] = []
        for end in range(SIZE, len(tokens), SIZE):  # one token at least stays to be computed
            if tokens[:end] not in self.block_of:
                break
            found.append(self.block_of[tokens[:end]])
        return found

    def take(self, num_blocks: int) -> None:
        for _ in range(num_blocks):
            if self.num_empty:
                self.num_empty -= 1
            else:
                del self.block_of[self.cached.pop(0)]

    def drop(self, block_id: int) -> None:
        """Its last reference is gone."""
        prefix = self.prefix_of.get(block_id)
        if prefix is None:
            self.num_empty += 1
        else:
            self.cached.append(prefix)


class BlockManagerMachine(RuleBasedStateMachine):
    """Few tokens, few blocks: prefixes are shared, forked, evicted and found again."""

    @initialize(num_blocks=st.integers(1, 20), prefix_cache=st.booleans())
    def start(self, num_blocks: int, prefix_cache: bool) -> None:
        self.blocks = BlockManager(num_blocks=num_blocks, block_size=SIZE, prefix_cache=prefix_cache)
        self.model = Model(num_empty=num_blocks, prefix_cache=prefix_cache)
        self.held: list[Sequence] = []
        self.told: set[int] = set()
        self.count = 0

    def num_holders(self, block_id: int) -> int:
        return sum(block_id in seq.block_ids for seq in self.held)

    def draw(self, data: st.DataObject) -> Sequence:
        return data.draw(st.sampled_from(self.held))

    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=4 * SIZE + 1))
    def allocate(self, prompt: list[int]) -> None:
        self.count += 1
        seq = make_sequence(prompt, name=f"r{self.count}")
        expected = self.model.matching(tuple(prompt))
        num_free = self.blocks.num_free_blocks
        cost = self.blocks.admission_cost(seq)
        assert self.blocks.allocate(seq) == cost[0] == len(expected) * SIZE
        assert seq.block_ids == expected
        self.model.cached = [one for one in self.model.cached if self.model.block_of[one] not in expected]
        num_new = self.blocks.num_missing_blocks(seq, seq.num_tokens)
        assert num_free - self.blocks.num_free_blocks + num_new == cost[1]
        self.held.append(seq)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), num_tokens=st.integers(1, 3 * SIZE))
    def grow(self, data: st.DataObject, num_tokens: int) -> None:
        seq = self.draw(data)
        before = list(seq.block_ids)
        end = seq.num_computed_tokens + num_tokens
        num_missing = max(-(-end // SIZE) - len(before), 0)
        assert self.blocks.num_missing_blocks(seq, end) == num_missing
        if num_missing > self.blocks.num_free_blocks:
            with pytest.raises(OutOfBlocksError, match=f"need {num_missing} blocks"):
                self.blocks.grow(seq, end)
            assert seq.block_ids == before
            return
        self.blocks.grow(seq, end)
        self.model.take(num_missing)
        assert seq.block_ids[: len(before)] == before
        assert len(seq.block_ids) == len(before) + num_missing

    @precondition(lambda self: self.held)
    @rule(data=st.data(), num_tokens=st.integers(1, 2 * SIZE), token=st.integers(0, 1))
    def compute_and_commit(self, data: st.DataObject, num_tokens: int, token: int) -> None:
        """As far as the blocks reach; beyond its tokens a sequence writes new ones."""
        seq = self.draw(data)
        end = min(seq.num_computed_tokens + num_tokens, len(seq.block_ids) * SIZE)
        seq.output_token_ids += [token] * (end - seq.num_tokens)
        seq.num_computed_tokens = max(end, seq.num_computed_tokens)
        self.blocks.commit(seq)
        if not self.model.prefix_cache:
            return
        known = set(self.model.block_of.values())
        for index in range(seq.num_computed_tokens // SIZE):
            prefix, block_id = tuple(seq.tokens(0, (index + 1) * SIZE)), seq.block_ids[index]
            if prefix not in self.model.block_of and block_id not in known:
                self.model.block_of[prefix] = block_id

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        parent = self.draw(data)
        self.count += 1
        computed = parent.tokens(0, parent.num_computed_tokens)
        child = make_sequence([*computed, self.count % 2], name=f"r{self.count}")
        num_copied = int(parent.num_computed_tokens % SIZE > 0)
        if num_copied > self.blocks.num_free_blocks:
            with pytest.raises(OutOfBlocksError):
                self.blocks.fork(parent, child)
            assert child.block_ids == []
            return
        pairs = self.blocks.fork(parent, child)
        self.model.take(num_copied)
        num_full = parent.num_computed_tokens // SIZE
        assert child.block_ids[:num_full] == parent.block_ids[:num_full]
        copied = slice(num_full, num_full + num_copied)
        assert pairs == list(zip(parent.block_ids[copied], child.block_ids[copied], strict=True))
        assert not any(self.num_holders(target) for _, target in pairs)
        assert child.num_computed_tokens == parent.num_computed_tokens
        self.held.append(child)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        seq = self.draw(data)
        self.held.remove(seq)
        for block_id in reversed(seq.block_ids):
            if not self.num_holders(block_id):
                self.model.drop(block_id)
        self.blocks.free(seq)
        self.blocks.free(seq)
        assert (seq.block_ids, seq.num_computed_tokens) == ([], 0)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), has_key=st.booleans())
    def quarantine(self, data: st.DataObject, has_key: bool) -> None:
        seq = self.draw(data)
        self.held.remove(seq)
        lasting = [block_id for block_id in reversed(seq.block_ids) if not self.num_holders(block_id)]
        known = set(self.model.block_of.values())
        for block_id in lasting:
            if block_id in known:
                self.model.drop(block_id)
        if num_own := len(set(lasting) - known):
            self.model.quarantined[seq.request_id] = num_own
        # The key is the sequence's own, or one that the caller names.
        self.blocks.quarantine(seq, key=seq.key if has_key else None)
        assert (seq.block_ids, seq.num_computed_tokens) == ([], 0)

    @rule(data=st.data())
    def release_quarantine(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([*self.model.quarantined, "nobody"]))
        self.model.num_empty += self.model.quarantined.pop(name, 0)
        self.blocks.release_quarantine((name, 0))

    @rule()
    def hear_of_the_cache(self) -> None:
        """Who adds up the events knows what the cache holds, and is never told the same thing twice."""
        added, removed = self.blocks.drain_cache_events()
        assert not set(added) & self.told
        assert set(removed) <= self.told
        self.told = (self.told | set(added)) - set(removed)
        assert self.told == {block_hashes(prefix, SIZE)[-1] for prefix in self.model.block_of}

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "blocks"):
            return
        self.blocks.check_integrity(self.held)
        assert self.blocks.num_cached_blocks == len(self.model.cached)
        assert self.blocks.num_quarantined_blocks == sum(self.model.quarantined.values())
        assert self.blocks.num_free_blocks == self.model.num_empty + len(self.model.cached)
        assert self.blocks.num_referenced_blocks == len({one for seq in self.held for one in seq.block_ids})

    def teardown(self) -> None:
        """Whoever is left lets go: nothing is lost."""
        if not hasattr(self, "blocks"):
            return
        for seq in self.held:
            self.blocks.free(seq)
        for name in self.model.quarantined:
            self.blocks.release_quarantine((name, 0))
        self.blocks.check_integrity([])
        assert self.blocks.num_free_blocks == self.blocks.num_blocks


TestBlockManagerMachine = BlockManagerMachine.TestCase
TestBlockManagerMachine.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
