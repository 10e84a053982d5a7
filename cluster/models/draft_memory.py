"""How much memory a draft model's KV gets, on a draft worker or in one that decodes."""

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
    ratio = _ratio(model, draft)
    if ratio is None:
        return limit
    num_targets = pools.decode.workers + pools.mixed.workers
    needed = int(GUESSES * num_targets * limit * ratio / max(pools.draft.workers, 1))
    return max(MIN_BYTES, min(needed, limit))


def own_draft_bytes(config: BatonConfig, model: Path, draft: Path) -> int:
    """Of the draft model that a worker which decodes runs itself: KV of the texts that it can hold, at most."""
    ratio = _ratio(model, draft)
    return int(config.engine.memory_bytes * ratio) if ratio is not None else 0


def _ratio(model: Path, draft: Path) -> float | None:
    """A token's KV in the draft model for each byte of it in the served one; None: nobody here can size one of them,
    and its worker will say."""
    try:
        target_bytes, draft_bytes = (_token_bytes(folder) for folder in (model, draft))
    except ConfigError:
        return None
    return draft_bytes / target_bytes


def _token_bytes(folder: Path) -> int:
    """KV of a token, in bfloat16: both models have the dtype of the config."""
    return max(1, spec_of_file(folder / "config.json", dtype="bfloat16").kv_bytes_per_token)
