"""`baton weights`: how the requests for a model are shared among its versions, now."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from baton.errors import ConfigError

if TYPE_CHECKING:
    from cluster.fleet.status import FleetStatus


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As clients call the model.")],
    weights: Annotated[
        list[str] | None, typer.Argument(metavar="[ENTRY=WEIGHT]...", help="Of its versions, entries of `models`.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Those of the config that was applied.")] = False,
) -> None:
    """Share a model's requests among its versions, at once; without weights, show how they are shared.

    baton weights chat

    baton weights chat v1=90 v2=10

    baton weights chat --reset

    Entries that are not named keep their weight; 0 takes no requests by NAME, and is still there as NAME@ENTRY. What
    runs is finished where it began. They hold until the config says another weight than before.
    """
    from cluster.commands.status import find

    if reset and weights:
        raise ConfigError("--reset: gives the config's weights, and others are named too; leave one of them out")
    controller = find()[1]
    if reset or weights:
        controller.weigh(name, None if reset else all_parsed(weights or ()))
    _show(name, controller.status())


def all_parsed(texts: Sequence[str]) -> dict[str, float]:
    """Raises: ConfigError: as `parsed`, or an entry is named twice."""
    weights: dict[str, float] = {}
    for entry, weight in map(parsed, texts):
        if entry in weights:
            raise ConfigError(f"{entry}: has two weights, {weights[entry]:g} and {weight:g}; give it one")
        weights[entry] = weight
    return weights


def parsed(text: str) -> tuple[str, float]:
    """Raises: ConfigError: no ENTRY=WEIGHT."""
    entry, separator, weight = text.partition("=")
    try:
        if entry and separator:
            return entry.strip(), float(weight)
    except ValueError:
        pass
    raise ConfigError(f"{text}: is not ENTRY=WEIGHT; e.g. v2=10")


def _served(status: "FleetStatus") -> str:
    """Of what there are some."""
    names = dict.fromkeys(model.served_name for model in status.models if not model.leaving)
    return f", here {', '.join(names)} have" if names else ""


def _show(name: str, status: "FleetStatus") -> None:
    models = [model for model in status.models if model.served_name == name and not model.leaving]
    if not models:
        raise ConfigError(f"{name[:60]}: has no versions{_served(status)}; `models` of the config gives a model some")
    for model in models:
        file = "" if model.weight == model.file_weight else f", {model.file_weight:g} in the config"
        typer.echo(f"{model.entry}: {model.share:.1%} (weight {model.weight:g}{file})")
