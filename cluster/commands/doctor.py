"""`baton doctor`: prints what `cluster.local.doctor` finds."""

import typer

from cluster.commands.options import ConfigPath, Overrides, load_config


def command(config: ConfigPath = None, overrides: Overrides = None) -> None:
    """Check whether this machine can run the cluster; each failing line says what to do.

    baton doctor

    baton doctor cluster.yaml

    Exit code 1 when a check fails.
    """
    from rich.console import Console
    from rich.table import Table

    from cluster.local.doctor import Verdict, examine

    table = Table(show_header=False, box=None)
    colours = {Verdict.GOOD: "green", Verdict.NOTE: "yellow", Verdict.BAD: "red"}
    failed = False
    for check in examine(load_config(config, overrides)):
        failed = failed or check.verdict is Verdict.BAD
        colour = colours[check.verdict]
        table.add_row(f"[{colour}]{check.verdict.value}[/]", check.subject, check.found, check.fix)
    Console(highlight=False).print(table)
    raise typer.Exit(1 if failed else 0)
