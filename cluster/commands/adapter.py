"""`baton adapter`: loads, unloads and lists LoRA adapters while the cluster serves."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from baton.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from cluster.fleet.client import ControllerClient

LOAD_TIMEOUT_S = 180.0

Name = Annotated[str, typer.Argument(metavar="NAME", help="What clients call it, as `model` of a request.")]

Model = Annotated[
    str | None, typer.Option("--model", metavar="ENTRY", help="Of several models: the entry of `models` it is for.")
]

command = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@command.callback()
def _group() -> None:
    """LoRA adapters of the running cluster, beside those of its config's `adapters`.

    baton adapter load sql /models/adapters/sql

    baton adapter list

    baton adapter unload sql

    The folder is one that PEFT's save_pretrained wrote, on every worker's node, below one of the config's
    `adapters_dynamic: {folders: [/models/adapters]}`.
    """


@command.command()
def load(
    name: Name,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of the adapter, as PEFT saves it.")],
    model: Model = None,
) -> None:
    """Load an adapter on every worker; requests may name it when this returns."""
    _controller(model).load_adapter(name, str(folder.expanduser().absolute()), LOAD_TIMEOUT_S)
    typer.echo(f"{name} is loaded")


@command.command()
def unload(name: Name, model: Model = None) -> None:
    """Take an adapter away: answers that are being written are finished, new requests get 404."""
    _controller(model).unload_adapter(name)
    typer.echo(f"{name} is unloaded")


@command.command("list")
def list_adapters(model: Model = None) -> None:
    """Names and folders of what the workers have."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "folder", "content"):
        table.add_column(heading)
    for adapter in _controller(model).adapters():
        table.add_row(adapter.name, adapter.folder, adapter.content_hash)
    Console(soft_wrap=True).print(table)


def _controller(model: str | None) -> "ControllerClient":
    """Of the model's workers. Raises: ConfigError: there are several and none is named, or there is no such model."""
    from cluster.commands.status import find

    first = find()[1]
    from cluster.fleet.client import ControllerClient  # Ray reads at its import where the cluster's token is

    rows = [row for row in first.model_table().staying() if row.entry]
    if not rows and model is None:
        return first
    having = [row for row in rows if model in (None, row.entry)]
    if len(having) != 1:
        known = ", ".join(row.entry for row in rows) or "the config has no `models`, leave it out"
        raise ConfigError(f"--model {model or 'is left out'}: names no entry of `models`; choose one: {known}")
    controller = ControllerClient.find(name=having[0].controller)
    if controller is None:
        raise UnavailableError(f"the controller of {having[0].entry} is away; try again in a few seconds")
    return controller
