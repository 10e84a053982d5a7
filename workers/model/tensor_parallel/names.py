"""How files name a model's weights, and what of them makes one weight: transformers' own rules."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from baton.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Attributes:
    parts: Names in the files, of each part of the weight's outputs one after the other. Where each expert is in the
        files by itself, of each part one name for every expert.
    is_by_expert: Whether that is so.
    """

    parts: tuple[tuple[str, ...], ...]
    is_by_expert: bool = False


def sources_of(model: Any, stored: Iterable[str]) -> Mapping[str, Source]:
    """Of those weights of `model` that there are in files, by their names in the model.

    Args:
        model: Of transformers; may be on the device `meta`.
        stored: All names in the files.
    Raises:
        ConfigError: A weight is made of what the files have in a way that parts cannot be read of.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    known: dict[str, Any] = model.state_dict()
    found: dict[str, dict[str | None, list[str]]] = {}
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = _renamed(key, model.base_model_prefix, known, renamings, converters)
        found.setdefault(name, {}).setdefault(pattern, []).append(key)
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    return {name: _source(name, parts, by_pattern) for name, parts in found.items() if name in known}


def _renamed(
    key: str, prefix: str, known: dict[str, Any], renamings: list[Any], converters: list[Any]
) -> tuple[str, str | None]:
    """The name in the model, and the converter's pattern that it matches; a name that is known already stays."""
    from transformers.core_model_loading import rename_source_key

    name, pattern = rename_source_key(key, renamings, converters, prefix, known)
    if name not in known and key in known:
        return key, None
    return name, pattern


def _source(name: str, keys: Mapping[str | None, list[str]], by_pattern: Mapping[str, Any]) -> Source:
    patterns = [pattern for pattern in keys if pattern is not None]
    if not patterns:
        return Source(parts=tuple(tuple(part) for part in keys.values()))
    converter = by_pattern[patterns[0]]
    operations = [type(operation).__name__ for operation in converter.operations]
    if not set(operations) <= {"MergeModulelist", "Concatenate"}:
        raise ConfigError(
            f"tensor_parallel: parts of the weight {name} cannot be read: what the files have becomes it by "
            f"{' and '.join(operations)}; set tensor_parallel: 1"
        )
    ordered = [keys[pattern] for pattern in converter.source_patterns if pattern in keys]
    return Source(parts=tuple(tuple(part) for part in ordered), is_by_expert="MergeModulelist" in operations)
