"""The JSON files that lie beside a model's weights."""

import json
from pathlib import Path
from typing import Any

from baton.errors import ConfigError


def read_json(path: Path) -> dict[str, Any]:
    """Empty where there is no such file. Raises: ConfigError: it is no JSON object."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"model: {path} is not JSON ({error}); fetch the model again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"model: {path} is no JSON object; fetch the model again")
    return content
