import pytest

from tests.unit.engine.sequences import make_sequence
from workers.engine.block_hash import block_hashes
from workers.engine.block_manager import BlockManager, OutOfBlocksError
from workers.engine.free_blocks import RUN, FreeBlocks
from workers.engine.sequence import Sequence


def make(num_blocks: int = 8, block_size: int = 4, prefix_cache: bool = True) -> BlockManager:
    return BlockManager(num_blocks=num_blocks, block_size=block_size, prefix_cache=prefix_cache)


def compute(blocks: BlockManager, seq: Sequence, num_tokens: int | None = None) -> Sequence:
    """Takes blocks for the sequence (up to `num_tokens`) and computes its tokens."""
    if not seq.block_ids:
        blocks.allocate(seq)
    num_tokens = seq.num_tokens if num_tokens is None else num_tokens
    blocks.grow(seq, num_tokens)
    seq.num_computed_tokens = num_tokens
    blocks.commit(seq)
    return seq


def test_grow_takes_nothing_when_out_of_blocks() -> None:
    blocks = make(num_blocks=3)
    holder = compute(blocks, make_sequence(4))
    seq = make_sequence(9)
    with pytest.raises(OutOfBlocksError, match="need 3 blocks, 2 free"):
        blocks.grow(seq, 9)
    assert seq.block_ids == []
    assert blocks.num_free_blocks == 2
    blocks.check_integrity([holder])


def test_out_of_blocks_is_retryable() -> None:
    assert OutOfBlocksError("need 1 blocks, 0 free").retryable


def test_grow_takes_only_what_is_missing() -> None:
    blocks = make()
    seq = make_sequence(5)
    blocks.grow(seq, 5)
    held = list(seq.block_ids)
    assert blocks.num_missing_blocks(seq, 8) == 0
    blocks.grow(seq, 8)
    assert seq.block_ids == held
    assert blocks.num_missing_blocks(seq, 9) == 1
    blocks.grow(seq, 9)
    assert seq.block_ids[:2] == held
    assert blocks.num_referenced_blocks == 3


@pytest.mark.parametrize(
    ("num_tokens", "num_cached"),
    [(1, 0), (3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (13, 12), (16, 12), (17, 16), (30, 16)],
)
def test_a_prompt_finds_its_full_blocks_and_leaves_one_token_to_compute(num_tokens: int, num_cached: int) -> None:
    blocks = make()
    blocks.free(compute(blocks, make_sequence(18)))
    seq = make_sequence(num_tokens)
    assert blocks.admission_cost(seq)[0] == num_cached
    assert blocks.allocate(seq) == num_cached
    assert seq.num_computed_tokens == seq.num_cached_tokens == num_cached
    assert len(seq.block_ids) == num_cached // 4
    blocks.check_integrity([seq])


def test_a_prefix_matches_only_up_to_the_first_difference() -> None:
    blocks = make()
    blocks.free(compute(blocks, make_sequence([1, 2, 3, 4, 5, 6, 7, 8, 9])))
    assert blocks.allocate(make_sequence([1, 2, 3, 4, 5, 6, 7, 0, 9])) == 4
    assert blocks.allocate(make_sequence([0, 2, 3, 4, 5, 6, 7, 8, 9])) == 0


def test_outputs_are_found_like_prompts() -> None:
    blocks = make()
    blocks.free(compute(blocks, make_sequence(6, outputs=[7, 8, 9])))
    assert blocks.allocate(make_sequence(9)) == 8


def test_nothing_is_found_with_the_prefix_cache_off() -> None:
    blocks = make(prefix_cache=False)
    blocks.free(compute(blocks, make_sequence(16)))
    assert blocks.num_cached_blocks == 0
    assert blocks.allocate(make_sequence(16)) == 0
    assert blocks.drain_cache_events() == ([], [])


def test_blocks_not_yet_computed_are_not_found() -> None:
    blocks = make()
    seq = make_sequence(12)
    blocks.grow(seq, 12)
    compute(blocks, seq, 6)
    other = make_sequence(12, name="other")
    assert blocks.allocate(other) == 4
    assert other.block_ids == seq.block_ids[:1]


def test_a_running_sequence_shares_its_blocks() -> None:
    blocks = make()
    first = compute(blocks, make_sequence(9))
    second = compute(blocks, make_sequence(10, name="second"))
    assert second.block_ids[:2] == first.block_ids[:2]
    assert blocks.num_referenced_blocks == 4
    blocks.free(first)
    assert blocks.num_referenced_blocks == 3
    blocks.check_integrity([second])


def test_a_block_whose_content_is_cached_already_stays_private() -> None:
    blocks = make()
    first, second = make_sequence(8), make_sequence(8, name="second")
    blocks.allocate(first)
    blocks.allocate(second)  # before the first is computed
    compute(blocks, first)
    compute(blocks, second)
    assert blocks.drain_cache_events() == (block_hashes(first.prompt_token_ids, 4), [])
    blocks.free(second)
    assert blocks.num_cached_blocks == 0
    blocks.free(first)
    assert blocks.num_cached_blocks == 2
    blocks.check_integrity([])


def test_the_least_recently_used_prefix_is_evicted_first_and_from_its_end() -> None:
    blocks = make(num_blocks=4)
    old, new = make_sequence([1] * 8), make_sequence([2] * 8, name="new")
    blocks.free(compute(blocks, old))
    blocks.free(compute(blocks, new))
    blocks.drain_cache_events()
    compute(blocks, make_sequence([3] * 4, name="third"))
    assert blocks.drain_cache_events()[1] == [block_hashes([1] * 8, 4)[1]]
    assert blocks.allocate(make_sequence([1] * 9)) == 4
    assert blocks.allocate(make_sequence([2] * 9)) == 8


def test_use_of_a_prefix_renews_it() -> None:
    blocks = make(num_blocks=2)
    blocks.free(compute(blocks, make_sequence([1] * 4)))
    blocks.free(compute(blocks, make_sequence([2] * 4)))
    blocks.free(compute(blocks, make_sequence([1] * 4 + [5], name="again"), 4))
    compute(blocks, make_sequence([3] * 4))
    assert blocks.allocate(make_sequence([2] * 5)) == 0
    assert blocks.allocate(make_sequence([1] * 5)) == 4


def test_cached_blocks_count_as_free() -> None:
    blocks = make(num_blocks=4)
    blocks.free(compute(blocks, make_sequence(16)))
    assert (blocks.num_free_blocks, blocks.num_cached_blocks) == (4, 4)
    blocks.grow(make_sequence(16), 16)
    assert (blocks.num_free_blocks, blocks.num_cached_blocks) == (0, 0)


def test_cache_events_are_net() -> None:
    blocks = make(num_blocks=1)
    blocks.free(compute(blocks, make_sequence([1] * 4)))
    blocks.free(compute(blocks, make_sequence([2] * 4)))
    assert blocks.drain_cache_events() == (block_hashes([2] * 4, 4), [])
    blocks.free(compute(blocks, make_sequence([1] * 4)))
    blocks.free(compute(blocks, make_sequence([2] * 4)))
    assert blocks.drain_cache_events() == ([], [])
    blocks.free(compute(blocks, make_sequence([3] * 4)))
    assert blocks.drain_cache_events() == (block_hashes([3] * 4, 4), block_hashes([2] * 4, 4))


def test_admission_cost_is_what_admission_takes() -> None:
    blocks = make(num_blocks=16)
    running = compute(blocks, make_sequence([1] * 8))
    blocks.free(compute(blocks, make_sequence([1] * 8 + [2] * 4, name="done")))
    seq = make_sequence([1] * 8 + [2] * 4 + [3] * 5, name="new")
    num_free = blocks.num_free_blocks
    assert blocks.admission_cost(seq) == (12, 3)  # two blocks are running's, one leaves the cache, two are new
    compute(blocks, seq)
    assert num_free - blocks.num_free_blocks == 3
    blocks.check_integrity([running, seq])


def test_free_is_idempotent_and_resets_the_cursors() -> None:
    blocks = make()
    seq = compute(blocks, make_sequence(10))
    held = seq.block_ids
    blocks.free(seq)
    blocks.free(seq)
    assert (seq.block_ids, seq.num_computed_tokens, seq.num_committed_blocks) == ([], 0, 0)
    assert len(held) == 3  # whoever still looks at the old list sees it whole
    assert blocks.num_free_blocks == 8
    blocks.check_integrity([])


def test_a_preempted_sequence_finds_its_own_blocks_again() -> None:
    blocks = make()
    seq = compute(blocks, make_sequence(8, outputs=[1, 2, 3]))
    blocks.free(seq)
    assert blocks.allocate(seq) == 8
    blocks.check_integrity([seq])


@pytest.mark.parametrize(("num_tokens", "num_copied"), [(8, 0), (9, 1), (11, 1), (3, 1)])
def test_a_fork_shares_full_blocks_and_copies_the_last(num_tokens: int, num_copied: int) -> None:
    blocks = make()
    parent = compute(blocks, make_sequence(num_tokens))
    child = make_sequence(num_tokens, choice=1)
    pairs = blocks.fork(parent, child)
    num_full = num_tokens // 4
    assert child.block_ids[:num_full] == parent.block_ids[:num_full]
    assert pairs == list(zip(parent.block_ids[num_full:], child.block_ids[num_full:], strict=True))
    assert len(pairs) == num_copied
    assert not set(child.block_ids[num_full:]) & set(parent.block_ids)
    assert child.num_computed_tokens == num_tokens
    blocks.check_integrity([parent, child])
    for seq, token in ((parent, 50), (child, 60)):
        seq.output_token_ids += [token] * 6
        compute(blocks, seq)
    blocks.check_integrity([parent, child])
    blocks.free(parent)
    blocks.free(child)
    blocks.check_integrity([])
    assert blocks.allocate(make_sequence([*parent.prompt_token_ids, *[60] * 6])) == (num_tokens + 5) // 4 * 4


def test_a_fork_takes_nothing_when_out_of_blocks() -> None:
    blocks = make(num_blocks=2)
    parent = compute(blocks, make_sequence(6))
    child = make_sequence(6, choice=1)
    with pytest.raises(OutOfBlocksError, match="need 1 blocks, 0 free"):
        blocks.fork(parent, child)
    assert child.block_ids == []
    blocks.check_integrity([parent])


def test_quarantine_holds_what_a_transfer_may_write_and_drops_the_shared_prefix() -> None:
    blocks = make()
    blocks.free(compute(blocks, make_sequence(8)))
    seq = make_sequence(15)
    blocks.allocate(seq)
    blocks.grow(seq, 16)
    blocks.quarantine(seq)
    assert (blocks.num_quarantined_blocks, blocks.num_cached_blocks, blocks.num_referenced_blocks) == (2, 2, 0)
    assert blocks.num_free_blocks == 6
    with pytest.raises(OutOfBlocksError):
        blocks.grow(make_sequence(28), 28)
    blocks.check_integrity([])
    blocks.release_quarantine(seq.key)
    blocks.release_quarantine(seq.key)
    assert (blocks.num_quarantined_blocks, blocks.num_free_blocks) == (0, 8)
    blocks.check_integrity([])


def test_attempts_can_be_told_apart_in_quarantine() -> None:
    blocks = make()
    for attempt in (0, 1):
        seq = make_sequence(4)
        blocks.grow(seq, 4)
        blocks.quarantine(seq, key=("r", attempt))
    blocks.release_quarantine(("r", 0))
    assert blocks.num_quarantined_blocks == 1


def test_integrity_names_what_is_off() -> None:
    blocks = make()
    seq = compute(blocks, make_sequence(8))
    blocks.check_integrity([seq])
    with pytest.raises(AssertionError, match=r"blocks \[0, 1\]: \[0, 0\] holders"):
        blocks.check_integrity([])
    blocks._num_referenced = 3
    with pytest.raises(AssertionError, match=r"free 6 \+ cached 0 \+ referenced 3 \+ quarantined 0 = 9, not 8"):
        blocks.check_integrity()


def test_a_prompt_lies_in_consecutive_blocks() -> None:
    blocks = make(num_blocks=64, prefix_cache=False)
    seq = make_sequence(4 * 40)
    blocks.grow(seq, 4 * 40)
    assert seq.block_ids == list(range(40))


def test_sequences_that_grow_side_by_side_do_not_interleave() -> None:
    blocks = make(num_blocks=8 * RUN, prefix_cache=False)
    seqs = [make_sequence(1, name=str(index)) for index in range(8)]
    for num_tokens in range(1, 4 * RUN + 1):
        for seq in seqs:
            blocks.grow(seq, num_tokens)
    for seq in seqs:
        assert seq.block_ids == list(range(seq.block_ids[0], seq.block_ids[0] + RUN))
    assert blocks.num_free_blocks == 0


@pytest.mark.parametrize("num_blocks", [1, RUN - 1, RUN, RUN + 1, 3 * RUN + 5])
def test_free_blocks_gives_out_each_block_once(num_blocks: int) -> None:
    free = FreeBlocks(num_blocks)
    for _ in range(2):
        taken = [free.take(after=num_blocks) for _ in range(num_blocks)]
        assert sorted(taken) == list(range(num_blocks))
        assert len(free) == 0
        for block_id in taken:
            free.add(block_id)
    assert len(free) == num_blocks
