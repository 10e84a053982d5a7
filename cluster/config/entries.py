"""The `models` of a config: several fleets, each with the keys of one model, behind one ingress. Pure.

What an entry leaves out it has from the same key of the config itself, so that what they share is written once.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from baton.errors import ConfigError
from cluster.config.checks import check_shared
from cluster.config.schema import BatonConfig, ModelEntry

MAX_MODELS = 64
MAX_WEIGHT = 1e6
OF_ONE_MODEL = ("model", "served_name", "pools")  # that a config with `models` has in its entries alone
SHARED = frozenset(("http", "grpc", "tls", "auth", "limits", "structured", "tracing", "logging", "metrics", "models"))
ENTRY_KEYS = tuple(field.name for field in fields(BatonConfig) if field.name not in SHARED)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_WHOLE = ("adapters", "pools")  # an entry's own replaces the config's, key by key nothing of it is left

Build = Callable[[Mapping[str, Any]], BatonConfig]  # the config of one model


def several(tree: Mapping[str, Any], build: Build, bare: Build) -> BatonConfig:
    """
    Args:
        tree: With `models`.
        bare: What stands beside `models`, each key by itself.
    Raises: ConfigError: names the key, with the entry before it where it stands there.
    """
    beside = {key: value for key, value in tree.items() if key != "models"}
    for key in OF_ONE_MODEL:
        if beside.get(key) is not None:
            raise ConfigError(
                f"{key}: is of one model, and `models` has several; move it into an entry, e.g. "
                f"`models: {{chat: {{{key}: ...}}}}`"
            )
    config = bare(beside)
    check_shared(config)
    entries = {check_entry_name(name): _entry(name, told, beside, build) for name, told in _named(tree["models"])}
    _check_weights(entries)
    _check_names(entries)
    return replace(config, models=entries)


def to_entry_tree(entry: ModelEntry, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Of an entry whose config is `tree`."""
    return {**{key: tree[key] for key in ENTRY_KEYS}, "weight": entry.weight}


def fleets_of(config: BatonConfig) -> Iterator[tuple[str, BatonConfig]]:
    """Entry's name and what its fleet is told, of each model; a config without `models` is one, without a name."""
    if not config.models:
        yield "", config
    for name, entry in config.models.items():
        yield name, entry.config


def with_each(config: BatonConfig, change: Callable[[BatonConfig], BatonConfig]) -> BatonConfig:
    """The config with each model's changed. Raises: what `change` does, with the entry's name."""
    if not config.models:
        return change(config)
    entries = {}
    for name, entry in config.models.items():
        with named(name):
            entries[name] = replace(entry, config=change(entry.config))
    return replace(config, models=entries)


def with_shared(config: BatonConfig, **sections: Any) -> BatonConfig:
    """With other sections of the whole cluster's."""
    entries = {name: replace(entry, config=replace(entry.config, **sections)) for name, entry in config.models.items()}
    return replace(config, **sections, models=entries)


class named:
    """Puts an entry's name before the key of a ConfigError that leaves the block."""

    def __init__(self, entry: str) -> None:
        self._entry = entry

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self._entry and isinstance(error, ConfigError):
            error.args = (f"models.{self._entry}.{error.message}",)
            error.message = error.args[0]


def check_entry_name(name: Any) -> str:
    """Raises: ConfigError: it cannot be one."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"models: {str(name)[:60]!r} is no name for an entry; give up to 63 letters, digits, - and _, beginning "
            "with a letter or digit (`served_name` is what clients call it)"
        )
    return name


def served_names(entries: Mapping[str, ModelEntry]) -> dict[str, list[str]]:
    """Served name -> its versions' entries."""
    found: dict[str, list[str]] = {}
    for name, entry in entries.items():
        found.setdefault(entry.config.served_name, []).append(name)
    return found


def _named(models: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    if not isinstance(models, Mapping) or not models:
        raise ConfigError(
            f"models: {str(models)[:60]!r} names no model; write an entry for each, e.g. "
            "`models: {chat: {model: smollm2}}`, or leave it out and set `model`"
        )
    if len(models) > MAX_MODELS:
        raise ConfigError(f"models: {len(models)} entries; {MAX_MODELS} are the most")
    for name, told in models.items():
        if told is not None and not isinstance(told, Mapping):
            raise ConfigError(
                f"models.{name}: {str(told)[:60]!r} is not a section; write its keys below it, e.g. "
                f"`models: {{{name}: {{model: {told}}}}}`"
            )
        yield name, told or {}


def _entry(name: str, told: Mapping[str, Any], beside: Mapping[str, Any], build: Build) -> ModelEntry:
    for key in told:
        _check_key(name, key)
    own = {key: value for key, value in told.items() if key != "weight" and value is not None}
    with named(name):
        config = build(_over({"served_name": name, **beside}, own))
    return ModelEntry(config=config, weight=check_weight(told.get("weight", 1.0), f"models.{name}.weight"))


def _check_key(name: str, key: Any) -> None:
    if key in SHARED:
        raise ConfigError(f"models.{name}.{key}: is of the whole cluster; set it beside `models`")
    known = [*ENTRY_KEYS, "weight"]
    if key not in known:
        near = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
        raise ConfigError(f"models.{name}.{key}: unknown key; {hint}")


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        is_section = isinstance(value, Mapping) and isinstance(old, Mapping) and key not in _WHOLE
        merged[key] = {**old, **value} if is_section else value  # type: ignore[dict-item]
    return merged


def check_weight(value: Any, dotted: str) -> float:
    """Raises: ConfigError: no number of 0 to MAX_WEIGHT."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not 0 <= value <= MAX_WEIGHT:
        raise ConfigError(
            f"{dotted}: {value!r} is no weight; give a number of 0 to {MAX_WEIGHT:g}, e.g. `{dotted}: 10`"
        )
    return float(value)


def _check_weights(entries: Mapping[str, ModelEntry]) -> None:
    for served, names in served_names(entries).items():
        if not any(entries[name].weight for name in names):
            raise ConfigError(
                f"models.{names[0]}.weight: every weight of {served} is 0, nobody would answer; give one of "
                f"{', '.join(names)} more than 0"
            )


def _check_names(entries: Mapping[str, ModelEntry]) -> None:
    """What a request names is one model, or versions of one."""
    whose = {served: (served, f"models.{names[0]}.served_name") for served, names in served_names(entries).items()}
    for served in whose:
        if "@" in served:
            raise ConfigError(
                f"{whose[served][1]}: {served!r} has an @, which stands between a served name and an entry "
                "(chat@v2); leave it out"
            )
    whose |= {f"{entry.config.served_name}@{name}": ("", f"models.{name}") for name, entry in entries.items()}
    for name, entry in entries.items():
        served = entry.config.served_name
        for adapter in entry.config.adapters:
            other, key = whose.setdefault(adapter, (served, f"models.{name}.adapters"))
            if other != served or key.endswith(".served_name"):
                raise ConfigError(
                    f"models.{name}.adapters: {adapter} is a name of {key} too; a request could mean either, rename one"
                )
