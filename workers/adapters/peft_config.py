"""What a PEFT folder's adapter_config.json asks for: what is honoured, and all else refused by name. No torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from baton.errors import ConfigError

# Where PEFT puts nothing of the kind into an adapter: other values change what is computed, or say that nothing is.
HARMLESS = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "peft_version", "revision", "inference_mode", "lora_dropout"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
        *("runtime_config", "ensure_weight_tying", "velora_config", "task_type", "peft_type"),
    }
)
HONOURED = frozenset(
    {
        *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"),
        *("layers_to_transform", "layers_pattern", "init_lora_weights"),
    }
)
REFUSED: Mapping[str, str] = {  # value that changes the sum -> what to do
    "use_dora": "train without DoRA, or merge the adapter into the model",
    "lora_bias": "train with lora_bias: false",
    "bias": "train with bias: none",
    "modules_to_save": "train without it, or merge the adapter into the model",
    "fan_in_fan_out": "give an adapter of nn.Linear layers",
    "trainable_token_indices": "train without it, or merge the adapter into the model",
    "target_parameters": "target linear layers alone: experts' weights cannot be adapted here",
    "layer_replication": "serve the replicated model itself",
    "alora_invocation_tokens": "train a plain LoRA adapter",
    "use_qalora": "train a plain LoRA adapter",
}
KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal")  # of init_lora_weights: the base stays as it is


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftConfig:
    """
    Attributes:
        targets: Ends of modules' names, or one regular expression of whole names.
        layers: Of which alone; empty: all.
    """

    rank: int
    alpha: float
    is_rank_stabilized: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: tuple[str, ...] | str
    excluded: tuple[str, ...] | str
    layers: tuple[int, ...]
    layers_pattern: tuple[str, ...]

    def rank_of(self, module: str) -> int:
        return self.rank_pattern.get(_pattern_of(module, self.rank_pattern), self.rank)

    def scale_of(self, module: str) -> float:
        """By what B A x is multiplied."""
        alpha, rank = self.alpha_pattern.get(_pattern_of(module, self.alpha_pattern), self.alpha), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.is_rank_stabilized else alpha / rank

    def is_target(self, module: str, *, is_head: bool) -> bool:
        """Whether PEFT adapts a linear layer of this name; `is_head`: it is the output layer."""
        if _matches(self.excluded, module):
            return False
        if self.targets == "all-linear":
            return not is_head
        if not _matches(self.targets, module):
            return False
        return isinstance(self.targets, str) or not self.layers or self._layer_of(module) in self.layers

    def _layer_of(self, module: str) -> int | None:
        """As PEFT finds it: the first number in the name, after a part that `layers_pattern` has where that is said."""
        patterns = [rf"(?:^|.*?\.){pattern}\.(\d+)\." for pattern in self.layers_pattern] or [r".*?\.[^.]*\.(\d+)\."]
        found = next((match for pattern in patterns if (match := re.match(pattern, module))), None)
        return int(found[1]) if found else None


def parse_config(told: Mapping[str, Any], where: str) -> PeftConfig:
    """
    Args:
        where: What to begin an error with.
    Raises:
        ConfigError: It is no LoRA adapter, or one that asks for what is not done here.
    """
    kind = told.get("peft_type")
    if kind != "LORA":
        raise ConfigError(f"{where}peft_type: {kind!r} is not supported; give a LORA adapter of PEFT")
    if told.get("task_type") not in (None, "CAUSAL_LM"):
        raise ConfigError(f"{where}task_type: {told['task_type']!r} is not supported; give one of CAUSAL_LM")
    for name, value in told.items():
        _check_field(name, value, where)
    rank_pattern = _pattern(told, "rank_pattern", where)
    return PeftConfig(
        rank=int(_number(told.get("r", 8), "r", where)),
        alpha=_number(told.get("lora_alpha", 8), "lora_alpha", where),
        is_rank_stabilized=bool(told.get("use_rslora")),
        rank_pattern={key: int(value) for key, value in rank_pattern.items()},
        alpha_pattern=_pattern(told, "alpha_pattern", where),
        targets=_names(told, "target_modules", where),
        excluded=_names(told, "exclude_modules", where),
        layers=_layers(told.get("layers_to_transform"), where),
        layers_pattern=_tuple(_names(told, "layers_pattern", where)),
    )


def _check_field(name: str, value: Any, where: str) -> None:
    if name == "init_lora_weights" and (not isinstance(value, bool | str | None) or value not in KEEPS_BASE):
        raise ConfigError(
            f"{where}init_lora_weights: {value!r} changes the base model's own weights; convert the adapter to a "
            "plain one (PEFT: save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if name in HARMLESS or name in HONOURED or not value or (name, value) == ("bias", "none"):
        return
    fix = REFUSED.get(name, "train without it, or merge the adapter into the model")
    raise ConfigError(f"{where}{name}: {_short(value)} is not supported; {fix}")


def _names(told: Mapping[str, Any], field: str, where: str) -> tuple[str, ...] | str:
    value = told.get(field)
    if value is None:
        return ()
    if isinstance(value, str):
        if value != "all-linear":
            _check_regex(value, field, where)
        return value
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise ConfigError(f"{where}{field}: {_short(value)} is no list of names; save the adapter again with PEFT")


def _pattern(told: Mapping[str, Any], field: str, where: str) -> dict[str, float]:
    value = told.get(field) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}{field}: {_short(value)} is no mapping of names; save the adapter again with PEFT")
    for key in value:
        _check_regex(key, field, where)
    return {key: _number(one, f"{field}.{key}", where) for key, one in value.items()}


def _check_regex(text: str, field: str, where: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise ConfigError(
            f"{where}{field}: {_short(text)} is no regular expression ({error}); save the adapter again with PEFT"
        ) from error


def _number(value: Any, field: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(f"{where}{field}: {_short(value)} is no number above 0; save the adapter again with PEFT")
    return value


def _layers(value: Any, where: str) -> tuple[int, ...]:
    layers = [] if value is None else [value] if isinstance(value, int) else value
    if isinstance(layers, list) and all(isinstance(one, int) for one in layers):
        return tuple(layers)
    raise ConfigError(
        f"{where}layers_to_transform: {_short(value)} is no list of layers; save the adapter again with PEFT"
    )


def _matches(names: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _pattern_of(module: str, patterns: Mapping[str, Any]) -> str:
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)


def _tuple(names: tuple[str, ...] | str) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
