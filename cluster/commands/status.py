"""`baton status`."""

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from baton.errors import UnavailableError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from cluster.fleet.client import ControllerClient
    from cluster.fleet.status import FleetStatus, WorkerStatus
    from cluster.state import ClusterState

PHASE_COLOURS = {"ready": "green", "starting": "yellow", "draining": "yellow", "failed": "red", "stopped": "dim"}


def command(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until Ctrl-C.")] = False,
) -> None:
    """Pools, workers, blocks, requests and KV transfers of the running cluster.

    baton status

    baton status --watch

    baton status --json | jq '.workers[].num_running'

    Exit code 1 where nothing runs.
    """
    cluster, controller = _find()
    if as_json:
        fleet = dataclasses.asdict(controller.status())
        typer.echo(json.dumps({"http": cluster.http, "grpc": cluster.grpc, **fleet}, indent=1))
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not watch:
        console.print(worker_table(cluster, controller.status()))
        return
    with Live(worker_table(cluster, controller.status()), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(1.0)
            live.update(worker_table(cluster, controller.status()), refresh=True)


def _find() -> "tuple[ClusterState, ControllerClient]":
    from cluster import local_ray, state

    cluster = state.read()
    if cluster is None or not local_ray.is_running(cluster):
        raise UnavailableError(f"no cluster runs (BATON_HOME is {state.home()}); start one with `baton up`")
    local_ray.connect(cluster, namespace="baton")
    from cluster.fleet.client import ControllerClient

    controller = ControllerClient.find()
    if controller is None:
        raise UnavailableError(f"Ray at {cluster.address} has no controller; run `baton up` again")
    return cluster, controller


def worker_table(cluster: "ClusterState", status: "FleetStatus") -> "Group":
    """A heading, a row per worker that fits 80 columns, and a line for each worker that had trouble."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from cluster.config_load import loads

    pools = ", ".join(f"{pool.role} {pool.num_ready}/{pool.num_desired}" for pool in status.pools)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("worker", "role", "state", "cores"):
        table.add_column(heading, no_wrap=True)
    for heading in ("blocks", "run", "wait", "pre", "KV out", "KV in", "move"):
        table.add_column(heading, justify="right", no_wrap=True)
    for worker in status.workers:
        table.add_row(*_row(worker))
    trouble = [_trouble(worker) for worker in status.workers if worker.error]
    pools += f", ingress {status.num_ingress_replicas}/{loads(status.config).http.replicas}" if status.config else ""
    return Group(Text(f"{cluster.http}  gRPC {cluster.grpc}  {pools}"), table, *trouble)


def _trouble(worker: "WorkerStatus") -> "Text":
    from rich.text import Text

    times = "once" if worker.num_failures == 1 else f"{worker.num_failures} times in a row"
    if worker.phase == "ready":
        return Text(f"{worker.worker_id} is back after it failed {times}: {worker.error}", style="yellow")
    return Text(f"{worker.worker_id} failed {times}: {worker.error}", style="red")


def _row(worker: "WorkerStatus") -> list[str]:
    phase = str(worker.phase)
    failed = f" ({worker.num_failed_transfers} failed)" if worker.num_failed_transfers else ""
    return [
        worker.worker_id,
        worker.role,
        f"[{PHASE_COLOURS[phase]}]{phase}[/]",
        ",".join(map(str, worker.cores)),
        f"{worker.num_blocks - worker.num_free_blocks}/{worker.num_blocks}",
        str(worker.num_running),
        str(worker.num_waiting),
        str(worker.num_preemptions),
        size_text(worker.kv_bytes_sent),
        size_text(worker.kv_bytes_received),
        f"{worker.num_transfers}{failed}",
    ]


def size_text(num_bytes: int) -> str:
    """In the largest binary unit that leaves at least 1."""
    amount = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
