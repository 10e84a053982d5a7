"""How much memory a draft worker's KV gets."""

from pathlib import Path

from baton.errors import ConfigError
from cluster.config.schema import BatonConfig
from cluster.models.model_file import spec_of_file

MIN_BYTES = 1 << 16  # as of engine.memory
GUESSES = 2  # KV of the texts themselves, and as much again of guesses at how they go on


def draft_memory_bytes(config: BatonConfig, model: Path, draft: Path) -> int:
    """Of one draft worker: its share of the texts that workers which decode can hold, `engine.memory` at most.

    Args:
        model: Folder of the served model, as `draft` of the one that drafts for it.
    """
    limit, pools = config.engine.memory_bytes, config.pools
    try:
        target_bytes, draft_bytes = (_token_bytes(folder) for folder in (model, draft))
    except ConfigError:  # a layout that nobody here can size: its worker will say
        return limit
    num_tokens = (pools.decode.workers + pools.mixed.workers) * limit / target_bytes
    needed = int(GUESSES * num_tokens * draft_bytes / max(pools.draft.workers, 1))
    return max(MIN_BYTES, min(needed, limit))


def _token_bytes(folder: Path) -> int:
    """KV of a token, in bfloat16: both models have the dtype of the config."""
    return max(1, spec_of_file(folder / "config.json", dtype="bfloat16").kv_bytes_per_token)
