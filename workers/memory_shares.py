"""How `engine.memory` is shared out between KV blocks and slots for states, by workers and in plans. Pure."""

from typing import NamedTuple

from baton.errors import ConfigError
from workers.spec import EngineSpec


class MemoryShares(NamedTuple):
    num_blocks: int  # 0: it does not even hold the slots
    num_states: int = 0  # slots; 0: the model keeps no states
    state_spacing: int | None = None  # tokens between the states that the prefix cache keeps; None: it keeps none


def share_memory(engine: EngineSpec, *, token_nbytes: int, state_nbytes: int) -> MemoryShares:
    """A slot for each of `max_sequences`; of what is left blocks and, with a prefix cache, a slot for each spacing of
    tokens that the blocks hold.

    Args:
        token_nbytes: Of a token's KV, all layers.
        state_nbytes: Of a sequence's state, all layers; 0: the model keeps none.
    """
    spacing = state_spacing(engine, token_nbytes=token_nbytes, state_nbytes=state_nbytes)
    left = engine.memory_bytes - engine.max_sequences * state_nbytes
    block_nbytes = engine.block_size * (token_nbytes + (state_nbytes / spacing if spacing is not None else 0))
    num_blocks = max(int(left // block_nbytes), 0)
    return with_slots(engine, num_blocks, token_nbytes=token_nbytes, state_nbytes=state_nbytes)


def with_slots(engine: EngineSpec, num_blocks: int, *, token_nbytes: int, state_nbytes: int) -> MemoryShares:
    """So many blocks, and the slots that a worker has beside them."""
    if not state_nbytes:
        return MemoryShares(num_blocks)
    spacing = state_spacing(engine, token_nbytes=token_nbytes, state_nbytes=state_nbytes)
    num_cached = num_blocks * engine.block_size // spacing if spacing is not None else 0
    return MemoryShares(num_blocks, engine.max_sequences + num_cached, spacing)


def memory_for(engine: EngineSpec, num_blocks: int, *, token_nbytes: int, state_nbytes: int) -> int:
    """The bytes of `engine.memory` that hold so many blocks and the slots beside them."""
    spacing = state_spacing(engine, token_nbytes=token_nbytes, state_nbytes=state_nbytes)
    num_cached = -(-num_blocks * engine.block_size // spacing) if spacing is not None else 0
    return num_blocks * engine.block_size * token_nbytes + (engine.max_sequences + num_cached) * state_nbytes


def state_spacing(engine: EngineSpec, *, token_nbytes: int, state_nbytes: int) -> int | None:
    """By default states take no more memory than the KV between them, and no chunk is shorter than a step's budget."""
    if not state_nbytes or not engine.prefix_cache:
        return None
    if engine.state_cache_spacing is not None:
        return engine.state_cache_spacing
    wanted = max(engine.max_batched_tokens, -(-state_nbytes // max(token_nbytes, 1)))
    return -(-wanted // engine.block_size) * engine.block_size


def check_spacing(engine: EngineSpec, max_model_len: int) -> None:
    """Raises: ConfigError: states are to be kept so far apart that no sequence of `max_model_len` tokens meets one."""
    spacing = engine.state_cache_spacing
    if spacing is not None and spacing >= max_model_len:
        raise ConfigError(
            f"engine.state_cache_spacing: {spacing} tokens are not below the longest sequence, {max_model_len}: no "
            "prompt would go on from a kept state; lower it, or set engine.prefix_cache: false instead"
        )
