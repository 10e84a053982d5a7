"""What `engine.memory` holds of a model, or an error that says what it does not hold."""

from collections.abc import Sequence

import torch

from baton.errors import ConfigError
from workers.memory_shares import MemoryShares, share_memory
from workers.model.kv_store import LayerShape, Shape, count_blocks
from workers.model.state_shape import StateShape
from workers.spec import EngineSpec


def plan_memory(shapes: Sequence[Shape], engine: EngineSpec, dtype: torch.dtype) -> MemoryShares:
    """Raises: ConfigError: It does not hold one sequence's blocks, or not the slots."""
    attending = [shape for shape in shapes if isinstance(shape, LayerShape)]
    state_nbytes = sum(shape.nbytes for shape in shapes if isinstance(shape, StateShape))
    if not state_nbytes:
        _check_no_spacing(engine)
        num_blocks = count_blocks(
            attending,
            block_size=engine.block_size,
            dtype=dtype,
            memory_bytes=engine.memory_bytes,
            max_model_len=engine.max_model_len,
        )
        return MemoryShares(num_blocks)
    token_nbytes = sum(shape.token_nbytes(dtype) for shape in attending)
    if not token_nbytes:
        raise ConfigError("model: none of its layers attends to tokens; give one that has layers of both kinds")
    shares = share_memory(engine, token_nbytes=token_nbytes, state_nbytes=state_nbytes)
    needed = -(-engine.max_model_len // engine.block_size) if engine.max_model_len is not None else 1
    if shares.num_blocks < needed:
        raise ConfigError(
            f"engine.memory: {engine.memory_bytes} bytes hold {shares.num_blocks} KV blocks of "
            f"{engine.block_size * token_nbytes} bytes beside states of {state_nbytes} bytes, one for each of "
            f"engine.max_sequences {engine.max_sequences}; {needed} blocks are needed; raise engine.memory or lower "
            "engine.max_sequences"
        )
    return shares


def _check_no_spacing(engine: EngineSpec) -> None:
    if engine.state_cache_spacing is not None:
        raise ConfigError(
            f"engine.state_cache_spacing: {engine.state_cache_spacing} is for models with layers of linear attention, "
            "this one has none; leave it out"
        )
