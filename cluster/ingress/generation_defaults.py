"""Sampling values that a model's folder recommends, for requests that leave the fields out.

Read from `generation_config.json`, as vLLM does; of its many fields those that `NEUTRAL` names. `do_sample: false` is
greedy, as in transformers (vLLM does not look at it). What else the file says of lengths and beams is not taken.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from baton.errors import ConfigError
from cluster.ingress.model_json import read_json
from workers.model.sampling_params import NEUTRAL, ROWS

_FILE = "generation_config.json"
_KINDS = {float: (int, float), int: (int,), bool: (bool,)}
_KIND_NAMES = {float: "a number", int: "a whole number", bool: "true or false"}


def generation_defaults(folder: str, source: str) -> dict[str, Any]:
    """The model's word by names of `NEUTRAL`; where it has none, a field is not there.

    Args:
        source: The config's `generation_defaults`: model, or neutral for none.
    Raises: ConfigError: The file is no JSON, or a value cannot be one of its field.
    """
    if source == "neutral":
        return {}
    path = Path(folder, _FILE)
    content = read_json(path)
    defaults = {name: _checked(path, name, content[name]) for name in NEUTRAL if content.get(name) is not None}
    do_sample = content.get("do_sample")
    if do_sample is not None:
        _check_kind(path, "do_sample", do_sample, bool)
    return defaults | {"temperature": 0.0} if do_sample is False else defaults


def effective(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What holds for a request that says nothing; every name of `NEUTRAL`."""
    return {**NEUTRAL, **defaults}


def _checked(path: Path, name: str, value: Any) -> Any:
    row = ROWS[name]
    _check_kind(path, name, value, row.kind)
    refusal = row.refusal(name, value)
    if refusal is not None:
        raise _wrong(path, refusal)
    return value


def _check_kind(path: Path, name: str, value: Any, kind: type) -> None:
    if type(value) not in _KINDS[kind]:
        raise _wrong(path, f"{name} is {value!r}; it must be {_KIND_NAMES[kind]}")


def _wrong(path: Path, refusal: str) -> ConfigError:
    return ConfigError(f"model: {path}: {refusal}. Correct it, or set generation_defaults: neutral")
