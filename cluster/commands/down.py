"""`baton down`."""

import typer

from cluster.commands.options import DrainTimeout


def command(drain_timeout_s: DrainTimeout = 30.0) -> None:
    """Let running requests finish, then end the cluster and every process of it.

    baton down

    baton down --drain-timeout-s 0     at once

    On a Ray cluster of somebody else's (RAY_ADDRESS), only what Baton started there ends.
    """
    from cluster.local.bring_up import take_down

    found = take_down(drain_timeout_s, lambda text: typer.echo(text, err=True))
    typer.echo("down" if found else "nothing runs here")
