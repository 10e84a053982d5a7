"""Options of commands that talk to a server that may want an API key or speak TLS."""

import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from cluster.doors.client_door import ClientDoor

DOOR = "Key and TLS"


def _option(variable: str, text: str) -> object:
    return typer.Option(envvar=variable, help=text, rich_help_panel=DOOR, show_default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorOptions:
    api_key: Annotated[
        str | None,
        _option("BATON_API_KEY", "As an option it shows in `ps` and in the shell's history: set the variable."),
    ] = None
    tls: Annotated[
        bool | None,
        typer.Option(
            "--tls/--no-tls",
            help="Of gRPC. Default: as the running cluster, or where an option below is given.",
            rich_help_panel=DOOR,
            show_default=False,
        ),
    ] = None
    tls_ca: Annotated[str, _option("BATON_TLS_CA", "Who may have signed the server's certificate (PEM).")] = ""
    tls_certificate: Annotated[str, _option("BATON_TLS_CERTIFICATE", "Of this client (PEM), for mutual TLS.")] = ""
    tls_key: Annotated[str, _option("BATON_TLS_KEY", "Its private key (PEM).")] = ""
    tls_server_name: Annotated[
        str, _option("BATON_TLS_SERVER_NAME", "That the certificate is for (default: the address).")
    ] = ""


def open_door(options: DoorOptions) -> ClientDoor:
    """Warns of a key that stands on the command line."""
    if any(word == "--api-key" or word.startswith("--api-key=") for word in sys.argv):
        typer.echo(
            "warning: --api-key shows the key in `ps` and in the shell's history; set BATON_API_KEY instead", err=True
        )
    return ClientDoor(
        api_key=options.api_key.strip() if options.api_key is not None else None,  # a variable may end with a line
        tls=options.tls,
        ca=options.tls_ca,
        certificate=options.tls_certificate,
        key=options.tls_key,
        server_name=options.tls_server_name,
    )
