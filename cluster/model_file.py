"""Finds a model's `config.json`: a bundled name, a folder, a name that the planner knows, or a Hub id in the cache."""

import json
from pathlib import Path

from baton.errors import ConfigError
from cluster.planner.known_models import CONFIGS, known_model
from cluster.planner.model_spec import ModelSpec
from workers.model.registry import BUNDLED_NAMES, resolve_model


def read_model_spec(name: str, *, dtype: str | None = None) -> ModelSpec:
    """
    Args:
        dtype: Of weights and KV; None: what the config says.
    Raises:
        ConfigError: No such model, or a config that the planner cannot size.
    """
    is_known = name.lower() in {known.lower() for known in CONFIGS}
    if is_known and name not in BUNDLED_NAMES and not Path(name).expanduser().is_dir():
        return known_model(name, dtype=dtype)
    path = resolve_model(name) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model: {path} is no JSON that can be read; fetch it again") from error
    if not isinstance(config, dict):
        raise ConfigError(f"model: {path} holds no object; fetch it again")
    return ModelSpec.from_config(config, name=name, dtype=dtype)
