"""Where Baton keeps what it can make or fetch again: compiled kernels, fetched models, folders made of GGUF files.

BATON_CACHE names the folder; without it, it is `baton` in the user's cache folder.
"""

import os
from pathlib import Path

from baton.errors import ConfigError

CACHE_VARIABLE = "BATON_CACHE"


def cache_folder(kind: str) -> Path:
    """The folder of one kind; perhaps not made yet."""
    root = os.environ.get(CACHE_VARIABLE)
    if not root:
        root = os.path.join(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "baton")
    return Path(root).expanduser().absolute() / kind


def made_cache_folder(kind: str) -> Path:
    """The same, there and private to its owner. Raises: ConfigError: it cannot be made."""
    folder = cache_folder(kind)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"BATON_CACHE: {folder} cannot be made ({error.strerror}); choose another folder") from error
    return folder
