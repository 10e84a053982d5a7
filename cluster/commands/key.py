"""`baton key`: makes, lists and revokes API keys in a file of hashes, which a running server reads again by itself."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from baton.errors import ConfigError

if TYPE_CHECKING:
    from cluster.config.api_key import APIKey

DEFAULT_FILE = Path("keys.yaml")

File = Annotated[Path, typer.Option("--file", help="The keys file, `auth.keys_file` of the config.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of whom; in logs and metrics it stands for the key.")]
Limit = Annotated[int | None, typer.Option(min=1, show_default=False, help="Default: no limit.")]

command = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@command.callback()
def _group() -> None:
    """API keys, for `auth: {keys_file: keys.yaml}` in the config.

    baton key create alice --file keys.yaml --requests-per-minute 60

    baton key list --file keys.yaml

    baton key revoke alice --file keys.yaml

    The file holds hashes: a key is shown once, when it is made. A server that runs takes a change within seconds.
    """


@command.command()
def create(
    name: Name,
    file: File = DEFAULT_FILE,
    models: Annotated[
        list[str] | None, typer.Option("--model", help="That it may use; may be repeated. Default: every one.")
    ] = None,
    requests_per_minute: Limit = None,
    tokens_per_minute: Limit = None,
    max_concurrent: Limit = None,
    expires: Annotated[str, typer.Option(help="A date, e.g. 2030-01-31. Default: never.", show_default=False)] = "",
    print_only: Annotated[
        bool, typer.Option("--print-only", help="Print the entry too, and change no file: for a Secret elsewhere.")
    ] = False,
) -> None:
    """Make a key and show it, once, on standard output."""
    from cluster.config.api_key import APIKey, KeyLimits
    from cluster.config.api_keys import check_name, parse_expiry
    from cluster.doors.key_file import change_keys, hashed, new_key

    made = new_key()
    until, until_s = parse_expiry(expires, "--expires") if expires else ("", float("inf"))
    if until_s <= time.time():
        raise ConfigError(f"--expires {expires} has passed; give a day to come, or leave it out")
    entry = APIKey(
        name=check_name(name, "NAME"),
        sha256=hashed(made),
        models=tuple(models or ()),
        limits=KeyLimits(
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            max_concurrent=max_concurrent,
        ),
        expires=until,
        expires_s=until_s,
    )
    if print_only:
        _print_entry(entry)
    else:
        change_keys(file, lambda keys: _with(keys, entry, file))
        typer.echo(f"{file}: key {name} added; it is shown this once, keep it safe:", err=True)
    typer.echo(made)


@command.command("list")
def list_keys(file: File = DEFAULT_FILE) -> None:
    """Names and limits; the keys themselves are nowhere."""
    from rich.console import Console
    from rich.table import Table

    from cluster.doors.key_file import read_keys
    from cluster.doors.key_ring import days_left

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "models", "requests/min", "tokens/min", "at once", "expires"):
        table.add_column(heading)
    for key in read_keys(str(file), "--file"):
        limits = key.limits
        shown = (limits.requests_per_minute, limits.tokens_per_minute, limits.max_concurrent)
        table.add_row(
            key.name, ", ".join(key.models) or "all", *(str(one or "-") for one in shown), days_left(key, time.time())
        )
    Console(soft_wrap=True).print(table)


@command.command()
def revoke(name: Name, file: File = DEFAULT_FILE) -> None:
    """Take a key away: new requests with it are refused within seconds, answers that have begun are finished."""
    from cluster.doors.key_file import change_keys

    change_keys(file, lambda keys: _without(keys, name, file))
    typer.echo(f"{file}: key {name} revoked", err=True)


def _with(keys: Sequence["APIKey"], entry: "APIKey", file: Path) -> Sequence["APIKey"]:
    if any(key.name == entry.name for key in keys):
        raise ConfigError(f"NAME {entry.name}: {file} has a key of that name; revoke it first, or choose another name")
    return [*keys, entry]


def _without(keys: Sequence["APIKey"], name: str, file: Path) -> Sequence["APIKey"]:
    left = [key for key in keys if key.name != name]
    if len(left) == len(keys):
        known = ", ".join(key.name for key in keys) or "none"
        raise ConfigError(f"NAME {name}: {file} has no such key; it has {known}")
    return left


def _print_entry(entry: "APIKey") -> None:
    import yaml

    from cluster.config.api_keys import plain_keys

    typer.echo(yaml.safe_dump(plain_keys([entry]), sort_keys=False), err=True, nl=False)
