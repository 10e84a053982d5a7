"""Which model a config means, and where its folder is; fetches what is fetched by name."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from baton.errors import BatonError, ConfigError
from cluster.config.checks import check_draft_model
from cluster.config.entries import with_each
from cluster.config.schema import AUTO, DEFAULT_DRAFTS, DEFAULT_MODEL, FALLBACK_MODEL, BatonConfig
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
    """The config with models that are named, and at hand where they are fetched by name, in its dtype; paths in full.

    Raises:
        ConfigError, UnavailableError: A model that the config names cannot be fetched, or it asks for drafts by a model
            and there is none. A model that it leaves to us is replaced by a smaller one, and `show` says so.
    """
    return with_each(config, partial(_resolved, show=show))


def _resolved(config: BatonConfig, show: Show) -> BatonConfig:
    config = with_draft(_with_target(config, show))
    if config.pools.draft.model in FETCHED:
        fetch(config.pools.draft.model, show)
    return config


def _with_target(config: BatonConfig, show: Show) -> BatonConfig:
    if is_path(config.model):
        return replace(config, model=str(Path(config.model).expanduser().absolute()))
    if config.model in FETCHED:
        fetch(config.model, show)
    elif config.model == AUTO:
        config = replace(config, model=_default(config, show))
    package = PACKAGES.get(config.model)
    return replace(config, dtype=package.dtype) if package is not None and config.dtype == AUTO else config


def with_draft(config: BatonConfig) -> BatonConfig:
    """The config with the name of a draft model where it asks for one, a path in full; `config.model` is no `auto`.

    Raises: ConfigError: it names none, and the served model has none of its own.
    """
    check_draft_model(config)
    name = config.pools.draft.model
    if not name and config.wants_draft_model:
        name = DEFAULT_DRAFTS[config.model]
    return draft_in_full(_with_draft_named(config, name))


def draft_in_full(config: BatonConfig) -> BatonConfig:
    """The config with the path of a draft model in full: who reads it next may stand in another folder."""
    name = config.pools.draft.model
    return _with_draft_named(config, str(Path(name).expanduser().absolute())) if name and is_path(name) else config


def _with_draft_named(config: BatonConfig, name: str) -> BatonConfig:
    return replace(config, pools=replace(config.pools, draft=replace(config.pools.draft, model=name)))


def find_draft(config: BatonConfig) -> str:
    """The draft model's folder on this machine; empty where nothing drafts with one. Raises: as `find_model`."""
    name = config.pools.draft.model
    try:
        return str(find_model(name)) if name else ""
    except ConfigError as error:
        raise ConfigError(f"pools.draft.model: {error.message.removeprefix('model: ')}") from error


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
