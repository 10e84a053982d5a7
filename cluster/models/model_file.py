"""Finds a model's `config.json`: its path, or that of a folder, a GGUF file, a Hub id, a bundled or a known name."""

import json
from pathlib import Path

from baton.errors import ConfigError
from cluster.planner.models.known_models import CONFIGS, known_model
from cluster.planner.models.model_spec import ModelSpec
from workers.model.registry import BUNDLED_NAMES, is_path, resolve_model


def read_model_spec(name: str, *, dtype: str | None = None) -> ModelSpec:
    """
    Args:
        dtype: Of weights and KV; None: what the config says.
    Raises:
        ConfigError: No such model, or a config that the planner cannot size.
    """
    is_known = name.lower() in {known.lower() for known in CONFIGS}
    if is_known and name not in BUNDLED_NAMES and not is_path(name):
        return known_model(name, dtype=dtype)
    given = Path(name).expanduser()
    path = given if given.suffix == ".json" and given.is_file() else resolve_model(name) / "config.json"
    return spec_of_file(path, name=name, dtype=dtype)


def spec_of_file(path: Path, *, name: str = "", dtype: str | None = None) -> ModelSpec:
    """As `read_model_spec`, of a `config.json`."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model: {path} is no JSON that can be read; fetch it again") from error
    if not isinstance(config, dict):
        raise ConfigError(f"model: {path} holds no object; fetch it again")
    return ModelSpec.from_config(config, name=name, dtype=dtype)
