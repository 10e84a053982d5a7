"""Looks at a draft model's folder beside the served one's before anything starts, and says what memory it takes."""

from pathlib import Path
from typing import Any

from baton.errors import ConfigError
from cluster.config.schema import BatonConfig
from cluster.ingress.model_json import read_json
from cluster.local.preflight import text_config
from cluster.models.draft_memory import draft_memory_bytes, own_draft_bytes
from workers.model import specs
from workers.model.gguf.folder import gguf_source

ALONE = 2  # a model's first and last layer: each is computed by itself


def check_draft(draft: Path, model: Path, config: BatonConfig) -> None:
    """Raises: ConfigError: what is in folder `draft` cannot guess for what is in `model`, or not as the config asks."""
    named = f"pools.draft.model: {config.pools.draft.model}"
    if config.load_format == "fake":
        return
    own, target = _told(draft), _told(model)
    sizes = [getattr(told, "vocab_size", None) for told in (own, target)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise ConfigError(
            f"{named} has a vocabulary of {sizes[0]} tokens, {config.shown_name} has one of {sizes[1]}; give a draft "
            "model with the same vocabulary, or leave it out"
        )
    if getattr(own, "model_type", None) in specs.LINEAR_FAMILIES:
        raise ConfigError(
            f"{named} has linear attention: a guess that proves wrong cannot be taken out of its states; give a model "
            "of softmax attention alone"
        )
    _check_layers(own, config)
    if config.load_format == "auto" and gguf_source(draft) is None:
        _check_weights(draft)


def draft_ranks_bytes(config: BatonConfig, draft: Path, model: Path, weights: int) -> int:
    """What all copies of the draft model take, weights and KV, beside what its process takes anyway.

    Args:
        weights: Bytes of one copy. Ranks that divide layers each have most of it.
    """
    pools = config.pools
    if config.drafts_locally:
        return (pools.decode.workers + pools.mixed.workers) * (weights + own_draft_bytes(config, model, draft))
    return pools.draft.workers * (pools.draft.layer_parallel * weights + draft_memory_bytes(config, model, draft))


def _told(folder: Path) -> Any:
    return text_config(read_json(folder / "config.json"))


def _check_layers(told: Any, config: BatonConfig) -> None:
    num_layers, degree = getattr(told, "num_hidden_layers", None), config.pools.draft.layer_parallel
    if not isinstance(num_layers, int) or degree <= max(num_layers - ALONE, 1) or not config.pools.draft.workers:
        return
    raise ConfigError(
        f"pools.draft.layer_parallel: {degree} is above the {max(num_layers - ALONE, 1)} layers of "
        f"{config.pools.draft.model} that can be computed at once: it has {num_layers}, and the first and the last are "
        "computed alone; lower it"
    )


def _check_weights(folder: Path) -> None:
    try:
        specs.weight_scheme(folder)
        specs.num_parameters(specs.weight_files(folder))
    except ConfigError as error:
        raise ConfigError(f"pools.draft.model: {error.message.removeprefix('model: ')}") from error
