"""What a model's folder says before anything is loaded.

Of its config: whether it can be served, how long a sequence may be, which tokens end an answer. Of its safetensors
files: how many parameters there are. Every refusal names the model or the file, what is wrong with it, and the fix.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from baton.errors import ConfigError
from workers.model.quantized.formats import Scheme, scheme_of

SERVED_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
LINEAR = "linear_attention"  # which means another thing in each family; `workers.model.hybrid` knows these
LINEAR_FAMILIES = frozenset(
    {"minimax", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "bamba", "granitemoehybrid", "kimi_linear"}
)
TEXT_LOADS_ALONE = frozenset({"qwen3_5", "qwen3_5_moe"})  # multimodal checkpoints out of which transformers does that
LENGTH_DEPENDENT_ROPE = frozenset({"longrope", "dynamic"})


def text_config(config: Any) -> Any:
    """Of a multimodal checkpoint whose text model can be loaded alone that model's config, else the config itself."""
    return config.get_text_config() if config.model_type in TEXT_LOADS_ALONE else config


def check_supported(config: Any, causal_types: frozenset[str] | set[str]) -> None:
    """Raises ConfigError for what the config alone shows; `workers.model.binding.probe` finds the rest.

    Args:
        config: The transformers config as it came from the folder or the GGUF file.
        causal_types: The model types that have a causal language model class.
    """
    name = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(f"model: {name!r} is an encoder-decoder; give a decoder-only model")
    if config.get_text_config() is not config:
        raise ConfigError(
            f"model: {name!r} is a multimodal config; give a checkpoint of its text model alone "
            f"({config.get_text_config().model_type!r})"
        )
    if name not in causal_types:
        raise ConfigError(f"model: {name!r} has no causal language model in transformers; give a decoder-only model")
    check_layer_types(name, getattr(config, "layer_types", None) or ())
    for flag in ("use_bidirectional_attention", "alibi", "num_kv_shared_layers"):
        if getattr(config, flag, None):
            raise ConfigError(f"model: {name!r} sets {flag}, which the paged attention does not do; give another model")


def check_layer_types(family: str, layer_types: Iterable[str]) -> None:
    """Raises: ConfigError: there are layers of a type that is not served; names all that are."""
    known = SERVED_LAYER_TYPES | ({LINEAR} if family in LINEAR_FAMILIES else set())
    others = sorted({str(one) for one in layer_types} - known)
    if others:
        served = f"{', '.join(sorted(SERVED_LAYER_TYPES))}, and {LINEAR} of {', '.join(sorted(LINEAR_FAMILIES))}"
        raise ConfigError(f"model: {family!r} has layers of type {', '.join(others)}; served are {served}")


def max_positions(config: Any) -> int:
    """Length in tokens up to which the model's positions are defined and no key depends on its sequence's length.

    `longrope` and `dynamic` change the frequencies of all keys once a sequence grows past the length they were
    trained at. Keys in shared blocks cannot follow; up to that length they are as any other.

    Raises:
        ConfigError: The config has no max_position_embeddings.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int):
        raise ConfigError(f"model: {config.model_type!r} does not say max_position_embeddings; add it to config.json")
    for rope in _ropes(config):
        if rope.get("rope_type") == "longrope":
            limit = min(limit, int(rope.get("original_max_position_embeddings") or limit))
    return limit


def check_length(config: Any, max_model_len: int) -> None:
    """Raises ConfigError when sequences of `max_model_len` tokens cannot be computed rightly."""
    limit = max_positions(config)
    if max_model_len <= limit:
        return
    kinds = sorted({rope.get("rope_type", "default") for rope in _ropes(config)} & LENGTH_DEPENDENT_ROPE)
    why = (
        f"past that, {' and '.join(kinds)} RoPE depends on the whole sequence's length, which cached keys cannot follow"
        if kinds
        else f"the model {config.model_type!r} has no more positions"
    )
    raise ConfigError(f"engine.max_model_len: {max_model_len} is over {limit} ({why}); set at most {limit}, or auto")


def _ropes(config: Any) -> Iterator[dict[str, Any]]:
    """The parameters of each RoPE; some models have one per layer type."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    yield from nested or [parameters]


def weight_scheme(folder: Path) -> Scheme | None:
    """In which the folder's weights are quantized, as its config.json says; None: they are not, or it has none.

    Raises: ConfigError: In one that is not served.
    """
    path = folder / "config.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return scheme_of(told) if isinstance(told, dict) else None


def eos_token_ids(folder: Path, config: Any) -> frozenset[int]:
    """Those of generation_config.json, else the config's.

    Raises:
        ConfigError: The file is no JSON, or what it gives are no token ids.
    """
    path = folder / "generation_config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"model: {path} is not JSON ({error}); fetch the model again") from error
    found = content.get("eos_token_id") if isinstance(content, dict) else None
    if found is None:
        path, found = folder / "config.json", config.eos_token_id
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(one) is int and one >= 0 for one in ids):
        raise ConfigError(f"model: {path}: eos_token_id is {found!r}; it must be a token id or a list of them")
    return frozenset(ids)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files, sorted.

    Raises:
        ConfigError: There are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConfigError(
            f"model: {folder} has no *.safetensors; convert the weights, or set load_format: dummy for random ones"
        )
    return files


def num_parameters(files: list[Path]) -> int:
    """Counted from the headers alone. Raises: ConfigError, as `_header` does."""
    return sum(_product(entry["shape"]) for path in files for entry in _header(path))


def _header(path: Path) -> Iterator[dict[str, Any]]:
    """One entry per weight. Raises: ConfigError: the file is shorter than its header says, or has none."""
    cut_short = ConfigError(f"model: {path} is cut short or no safetensors file; fetch it again")
    length = path.stat().st_size
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if 8 + size > length:
            raise cut_short
        try:
            header = json.loads(file.read(size))
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((entry["data_offsets"][1] for entry in entries), default=0)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise cut_short from error
    if 8 + size + end > length:
        raise cut_short
    yield from entries


def _product(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
