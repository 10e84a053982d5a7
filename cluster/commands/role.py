"""`baton role`: what each worker does, and to have one do something else."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from baton.errors import InvalidRequestError
from workers.spec import SERVING_ROLES, Role

if TYPE_CHECKING:
    from rich.table import Table

    from cluster.fleet.role_keeper import WorkerRole


def command(
    worker: Annotated[
        str | None,
        typer.Argument(metavar="WORKER", help="Its id, as `baton status` shows it. Left out: all are listed."),
    ] = None,
    role: Annotated[
        str | None, typer.Argument(metavar="ROLE", help="prefill: reads prompts; decode: writes answers; mixed: both.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Back to the role of its pool.")] = False,
) -> None:
    """Change what a worker does while it serves. Its weights and its prefix cache stay; nothing is lost.

    baton role

    baton role decode-1 prefill

    baton role decode-1 --reset

    Answers that it was writing go on elsewhere. It keeps the role when it is replaced, until `--reset`, `baton down` or
    a `baton up` with fewer workers in its pool.
    """
    wanted = _wanted(worker, role, reset=reset)
    from cluster.commands.status import find
    from cluster.local.every_fleet import EveryFleet

    controller = EveryFleet(find()[1])
    if worker is None:
        from rich.console import Console

        Console(soft_wrap=True).print(role_table(controller.roles()))
        return
    typer.echo(f"{worker} {controller.set_role(worker, wanted).text}")


def _wanted(worker: str | None, role: str | None, *, reset: bool) -> Role | None:
    """Raises: InvalidRequestError: names what is wrong and the fix."""
    if reset and (worker is None or role is not None):
        raise InvalidRequestError("--reset: give the worker, and no role: baton role decode-1 --reset", "reset")
    if worker is not None and role is None and not reset:
        raise InvalidRequestError(
            f"role: what shall {worker} be? Give {', '.join(SERVING_ROLES)}, or --reset for its pool's", "role"
        )
    if role is None:
        return None
    if role not in SERVING_ROLES:
        raise InvalidRequestError(f"role: {role!r} is none; give {', '.join(SERVING_ROLES)}", "role")
    return Role(role)


def role_table(workers: "Sequence[WorkerRole]") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("worker", "pool", "role", "state"):
        table.add_column(heading)
    for worker in workers:
        table.add_row(worker.worker_id, worker.pool, worker.role, worker.phase)
    return table
