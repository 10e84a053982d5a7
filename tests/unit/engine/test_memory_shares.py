import pytest

from workers.memory_shares import MemoryShares, memory_for, share_memory, state_spacing
from workers.spec import EngineSpec


def test_a_model_without_states_has_blocks_alone() -> None:
    engine = EngineSpec(memory_bytes=1000, block_size=4, max_sequences=8)
    assert share_memory(engine, token_nbytes=10, state_nbytes=0) == MemoryShares(25)


def test_each_sequence_has_a_slot_and_each_spacing_of_tokens_another() -> None:
    engine = EngineSpec(memory_bytes=8 * 100 + 3200, block_size=4, max_sequences=8, state_cache_spacing=16)
    # 16 tokens take 160 bytes of KV and 100 of a state
    assert share_memory(engine, token_nbytes=10, state_nbytes=100) == MemoryShares(49, 8 + 12, 16)
    without = EngineSpec(memory_bytes=8 * 100 + 3200, block_size=4, max_sequences=8, prefix_cache=False)
    assert share_memory(without, token_nbytes=10, state_nbytes=100) == MemoryShares(80, 8)


def test_memory_that_does_not_hold_the_slots_holds_no_block() -> None:
    engine = EngineSpec(memory_bytes=799, block_size=4, max_sequences=8)
    assert share_memory(engine, token_nbytes=10, state_nbytes=100).num_blocks == 0


@pytest.mark.parametrize(("state_nbytes", "spacing"), [(100, 64), (10_000, 1000), (10_001, 1004)])
def test_by_default_states_cost_no_step_and_no_more_than_the_kv_between_them(state_nbytes: int, spacing: int) -> None:
    engine = EngineSpec(block_size=4, max_batched_tokens=63, max_sequences=8)
    assert state_spacing(engine, token_nbytes=10, state_nbytes=state_nbytes) == spacing


@pytest.mark.parametrize("num_blocks", [1, 7, 100, 12_345])
@pytest.mark.parametrize("state_nbytes", [0, 96, 5000])
def test_memory_for_so_many_blocks_holds_them(num_blocks: int, state_nbytes: int) -> None:
    engine = EngineSpec(block_size=16, max_sequences=8)
    held = memory_for(engine, num_blocks, token_nbytes=24, state_nbytes=state_nbytes)
    found = share_memory(
        EngineSpec(block_size=16, max_sequences=8, memory_bytes=held), token_nbytes=24, state_nbytes=state_nbytes
    )
    assert num_blocks <= found.num_blocks <= num_blocks + 1 + state_nbytes // (16 * 24)
