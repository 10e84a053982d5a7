"""Which model a config means, and where its folder is; fetches what is fetched by name."""

import os
from dataclasses import replace
from pathlib import Path

from baton.errors import BatonError, ConfigError
from cluster.config.schema import AUTO, DEFAULT_MODEL, FALLBACK_MODEL, BatonConfig
from cluster.models.download import Show
from cluster.models.fetch import fetch
from cluster.models.packages import PACKAGES
from workers.model.cache_folder import CACHE_VARIABLE
from workers.model.registry import FETCHED, is_path, resolve_model


class Silent:
    """A `Show` for where nobody looks."""

    def say(self, text: str) -> None:
        pass

    def bytes_done(self, done: int, total: int) -> None:
        pass


def resolve_config(config: BatonConfig, show: Show) -> BatonConfig:
    """The config with a model that is named, and at hand where it is fetched by name, in its dtype; a path in full.

    Raises:
        ConfigError, UnavailableError: A model that the config names cannot be fetched. One that it leaves to us is
            replaced by a smaller one then, and `show` says so.
    """
    if is_path(config.model):
        return replace(config, model=str(Path(config.model).expanduser().absolute()))
    if config.model in FETCHED:
        fetch(config.model, show)
    elif config.model == AUTO:
        config = replace(config, model=_default(config, show))
    package = PACKAGES.get(config.model)
    return replace(config, dtype=package.dtype) if package is not None and config.dtype == AUTO else config


def find_model(name: str) -> Path:
    """The model's folder on this machine, fetched where it is fetched by name and not here yet.

    Raises: ConfigError, UnavailableError: there is no such model, or it cannot be fetched.
    """
    if name in FETCHED:
        return fetch(name, Silent())
    return resolve_model(name)


def _default(config: BatonConfig, show: Show) -> str:
    if config.load_format == "fake":  # no weights are loaded: nothing to fetch
        return FALLBACK_MODEL
    try:
        fetch(DEFAULT_MODEL, show)
    except BatonError as error:
        if isinstance(error, ConfigError) and CACHE_VARIABLE in os.environ:
            raise  # the user chose that folder
        show.say(f"serving the small model {FALLBACK_MODEL} instead of {DEFAULT_MODEL}: {error.message}")
        return FALLBACK_MODEL
    return DEFAULT_MODEL
