"""What a config says of LoRA adapters: their names and folders, and which folders clients may load more from. Pure."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from baton.errors import ConfigError

MAX_ADAPTERS = 256  # of a cluster: every worker tells of all with each report
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")


def parse_adapters(value: Any, dotted: str) -> dict[str, str]:
    """Absolute folders by name. Raises: ConfigError: no map of names to folders, or a name that cannot be one."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{dotted}: {value!r} is no map of names to folders; e.g. `{dotted}: {{sql: /models/sql}}`")
    if len(value) > MAX_ADAPTERS:
        raise ConfigError(f"{dotted}: {len(value)} adapters; {MAX_ADAPTERS} are the most")
    return {check_name(name, dotted): _folder(folder, f"{dotted}.{name}") for name, folder in value.items()}


def check_name(name: Any, dotted: str) -> str:
    """Raises: ConfigError: requests could not name it."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{dotted}: {str(name)[:60]!r} is no name for an adapter; give up to 128 letters, digits and . _ : @ / -, "
            "beginning with a letter or digit"
        )
    return name


def parse_folders(value: Any, dotted: str) -> tuple[str, ...]:
    """Raises: ConfigError: no list of folders."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{dotted}: {value!r} is no list of folders; e.g. `{dotted}: [/models/adapters]`")
    return tuple(_folder(folder, dotted) for folder in value)


def _folder(value: Any, dotted: str) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{dotted}: {value!r} is no folder; give the path of one that PEFT's save_pretrained wrote")
    return str(Path(value).expanduser().absolute())
