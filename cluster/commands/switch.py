"""`baton switch`: all requests for a model to one of its versions."""

from typing import Annotated

import typer

from baton.errors import ConfigError


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As clients call the model.")],
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="The version, an entry of `models`.")],
) -> None:
    """Send all new requests for a model to one of its versions; the same with the other one rolls back.

    baton switch chat v2

    baton switch chat v1

    What runs is finished where it began. The other versions' workers stay, so that a way back takes no start.
    """
    from cluster.commands.status import find

    controller = find()[1]
    versions = [model.entry for model in controller.status().models if model.served_name == name and not model.leaving]
    if versions and entry not in versions:
        raise ConfigError(f"{entry}: is no version of {name}; its versions: {', '.join(versions)}")
    controller.weigh(name, {version: float(version == entry) for version in versions} or {entry: 1.0})
    typer.echo(f"{name} is {entry} alone")
