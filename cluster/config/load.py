"""Reads the YAML into `cluster.config.schema`, and writes it back: the one place where a config is checked.

Every error is a ConfigError of one line that names the key, the value and the fix. `load(dump(c)) == c`.
"""

import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from baton.errors import ConfigError
from cluster.config.adapter_names import parse_adapters, parse_folders
from cluster.config.api_keys import parse_keys, plain_keys
from cluster.config.checks import check
from cluster.config.entries import OF_ONE_MODEL, several, to_entry_tree
from cluster.config.node_terms import parse_labels, parse_resources
from cluster.config.origins import parse_origins
from cluster.config.rules import BOUNDS, CHOICES, REFUSED
from cluster.config.schema import BatonConfig

# What PyYAML raises where text has a value's form and is none, 2030-02-31 for example, or lists hold lists without end.
BAD_VALUES = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
_KEY = re.compile(r"bt-[0-9a-f]{6,}")
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_WITH_KEYS_OF_THE_USERS = (".resources", ".labels", "adapters")  # no sections: what stands below is one value
_RENAMED = {
    "memory_bytes": "memory",
    "max_body_bytes": "max_body",
    "max_header_bytes": "max_header",
    "max_size_bytes": "max_size",
    "cache_bytes": "cache",
}  # field -> YAML key
_SIZES = {"engine.memory", "limits.max_body", "limits.max_header", "structured.max_size", "structured.cache"}
_AUTO_IS_NONE = {
    *("engine.max_model_len", "engine.state_cache_spacing", "speculation.tree_width"),
    *(f"pools.{pool}.cores" for pool in ("prefill", "decode", "mixed", "draft")),
}
_PATHS = {"tls.certificate", "tls.key", "tls.client_ca", "auth.keys_file", "planner.profile"}


def load(path: Path | None, overrides: Mapping[str, str] | None = None) -> BatonConfig:
    """The config of a file, or the defaults where `path` is None.

    Args:
        overrides: Dotted key -> value in YAML, applied over the file: {"pools.decode.workers": "2"}.
    Raises:
        ConfigError: Not readable, an unknown key, a wrong type, out of range, or not supported yet.
    """
    tree = _parse(read_text(path), str(path)) if path is not None else {}
    for key, text in (overrides or {}).items():
        _override(tree, key, text)
    return from_tree(tree)


def loads(text: str) -> BatonConfig:
    """As `load`, of YAML text."""
    return from_tree(_parse(text, "the config"))


def from_tree(tree: Mapping[str, Any]) -> BatonConfig:
    if tree.get("models") is not None:
        return several(tree, _of_one_model, _unchecked)
    return _of_one_model({key: value for key, value in tree.items() if key != "models"})


def _of_one_model(tree: Mapping[str, Any]) -> BatonConfig:
    config = _unchecked(tree)
    check(config)
    return config


def _unchecked(tree: Mapping[str, Any]) -> BatonConfig:
    """Each key by itself is right."""
    tree = {**tree, "pools": _with_default_pools(tree.get("pools"))}
    config: BatonConfig = _build(BatonConfig, tree, "")
    return config


def to_tree(config: BatonConfig) -> dict[str, Any]:
    """Plain YAML values under the YAML's own keys; pools without workers, or a model of theirs, are left out."""
    tree: dict[str, Any] = _plain(config, "")
    tree["pools"] = {name: pool for name, pool in tree["pools"].items() if pool["workers"] or pool.get("model")}
    entries = {name: to_entry_tree(entry, to_tree(entry.config)) for name, entry in tree.pop("models").items()}
    if not entries:
        return tree
    return {key: value for key, value in tree.items() if key not in OF_ONE_MODEL} | {"models": entries}


def dump(config: BatonConfig) -> str:
    return yaml.safe_dump(to_tree(config), sort_keys=False)


def flatten(config: BatonConfig) -> dict[str, Any]:
    """Dotted key -> value, every key of every section: to compare two configs."""
    flat: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict) and not f"{prefix}{key}".endswith(_WITH_KEYS_OF_THE_USERS):
                walk(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    walk(_plain(config, ""), "")
    return flat


class _Loader(yaml.SafeLoader):
    """YAML as it is meant: of a key that stands twice, PyYAML would drop the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigError(f"{key}: stands twice in one section, again at line {line}; remove one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_text(path: Path) -> str:
    """Of a config's file. Raises: ConfigError: not readable."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; give the path of a YAML file") from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}: is no YAML{line}; check indentation and quotes there") from error
    except BAD_VALUES as error:
        raise ConfigError(f"{where}: has a value that cannot be, e.g. a date like 2030-02-31; quote it") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: holds {_shown(tree)}, not keys; begin with e.g. `model: smollm2`")
    return tree


def _override(tree: dict[str, Any], key: str, text: str) -> None:
    *parents, last = key.split(".")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, *BAD_VALUES) as error:
        raise ConfigError(f"--set {key}={text}: the value is no YAML; quote it") from error
    node = tree
    for part in parents:
        child = node.get(part)
        node[part] = dict(child) if isinstance(child, dict) else {}
        node = node[part]
    node[last] = value


def _with_default_pools(pools: Any) -> Any:
    """A pool that is named has one worker unless it says; without `mixed`, prefill and decode are always there."""
    if pools is None:
        pools = {}
    if not isinstance(pools, dict):
        return pools
    named = {
        name: {"workers": 1} if pool is None else {"workers": 1, **pool} if isinstance(pool, dict) else pool
        for name, pool in pools.items()
    }
    if isinstance(named.get("mixed"), dict) and named["mixed"]["workers"] != 0:
        return named
    return {"prefill": {"workers": 1}, "decode": {"workers": 1}, **named}


def _build(cls: type[Any], tree: Any, path: str) -> Any:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path}: {_shown(tree)} is not a section; write its keys below it, e.g. `{path}: {{...}}`")
    hints = typing.get_type_hints(cls)
    by_key = {_RENAMED.get(field.name, field.name): field.name for field in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{path}.{key}" if path else str(key)
        _refuse(dotted, value)
        if key in by_key:
            values[by_key[key]] = _value(hints[by_key[key]], value, dotted)
        elif dotted not in REFUSED:
            raise ConfigError(_unknown(dotted, str(key), sorted(by_key)))
    return cls(**values)


def _refuse(dotted: str, value: Any) -> None:
    if dotted in REFUSED:
        accepted, fix = REFUSED[dotted]
        if not accepted(value):
            raise ConfigError(f"{dotted}: {_shown(value)} is not supported yet; {fix}")


def _unknown(dotted: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    return f"{dotted}: unknown key; {hint}"


def _value(hint: Any, value: Any, dotted: str) -> Any:
    if is_dataclass(hint):
        return _build(typing.cast("type[Any]", hint), value, dotted)
    if dotted in _AUTO_IS_NONE and (value is None or value == "auto"):
        return None
    if dotted in _SIZES:
        value = _size(value, dotted)
    elif dotted.endswith(".cores"):
        return _cores(value, dotted)
    elif dotted == "auth.keys":
        return parse_keys(value, dotted)
    elif dotted == "adapters":
        return parse_adapters(value, dotted)
    elif dotted == "adapters_dynamic.folders":
        return parse_folders(value, dotted)
    elif dotted == "http.cors_origins":
        return parse_origins(value, dotted)
    elif dotted.endswith(".resources"):
        return parse_resources(value, dotted)
    elif dotted.endswith(".labels"):
        return parse_labels(value, dotted)
    if value is False and OFF in CHOICES.get(dotted, ()):
        value = OFF  # what YAML 1.1 makes of a bare `off`
    value = _typed(hint, value, dotted)
    if dotted in CHOICES and value not in CHOICES[dotted]:
        raise ConfigError(f"{dotted}: {_shown(value)} is unknown; choose one of {', '.join(CHOICES[dotted])}")
    if dotted in BOUNDS:
        low, high = BOUNDS[dotted]
        if not low <= value <= high:
            raise ConfigError(f"{dotted}: {_shown(value)} is out of range; give {low} to {high}")
    return str(Path(value).expanduser().absolute()) if dotted in _PATHS and value else value


OFF = "off"
_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _typed(hint: Any, value: Any, dotted: str) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kind = next(kind for kind in kinds if kind is not types.NoneType)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) is not (kind is bool) or not isinstance(value, kind):
        raise ConfigError(f"{dotted}: {_shown(value)} is not {_TYPE_NAMES[kind]}; e.g. `{dotted}: {_example(dotted)}`")
    return value


def _example(dotted: str) -> str:
    lines: list[str] = yaml.safe_dump(flatten(BatonConfig()).get(dotted, 1), default_flow_style=True).splitlines()
    return lines[0]


def _size(value: Any, dotted: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", value.strip()) if isinstance(value, str) else None
    if match is None or match[2] not in _UNITS:
        raise ConfigError(f"{dotted}: {_shown(value)} is no size; give bytes or KiB, MiB, GiB, e.g. `{dotted}: 64MiB`")
    return int(float(match[1]) * _UNITS[match[2]])


def _cores(value: Any, dotted: str) -> tuple[tuple[int, ...], ...]:
    good = isinstance(value, list) and all(
        isinstance(row, list) and row and all(type(core) is int and core >= 0 for core in row) for row in value
    )
    if not good:
        raise ConfigError(f"{dotted}: {_shown(value)} is no list of core numbers per worker; e.g. [[0, 1], [2, 3]]")
    return tuple(tuple(row) for row in value)


def _plain(node: Any, path: str) -> Any:
    if is_dataclass(node):
        return {
            key: _plain(getattr(node, field.name), f"{path}.{key}" if path else key)
            for field in fields(node)
            for key in (_RENAMED.get(field.name, field.name),)
        }
    if path in _AUTO_IS_NONE and node is None:
        return "auto"
    if path == "auth.keys":
        return plain_keys(node)
    if path in _SIZES:
        return next((f"{node // size}{unit}" for unit, size in reversed(_UNITS.items()) if node % size == 0), node)
    if path.endswith(_WITH_KEYS_OF_THE_USERS):
        return dict(node)
    return [list(row) if isinstance(row, tuple) else row for row in node] if isinstance(node, tuple) else node


def _shown(value: Any) -> str:
    text = _KEY.sub("bt-...", repr(value))  # one may stand where it does not belong
    return text if len(text) <= 60 else text[:57] + "..."
