"""`baton status`."""

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from baton.errors import UnavailableError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from cluster.fleet.client import ControllerClient
    from cluster.fleet.status import FleetStatus, ModelStatus, WorkerStatus
    from cluster.host.state import ClusterState

PIPED_WIDTH = 200  # columns, where no terminal has a width: a program reads there, and folded cells help nobody
PHASE_COLOURS = {
    "waiting": "yellow",
    "ready": "green",
    "starting": "yellow",
    "draining": "yellow",
    "failed": "red",
    "stopped": "dim",
}


def command(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until Ctrl-C.")] = False,
) -> None:
    """Pools, workers, blocks, requests and KV transfers of the running cluster.

    baton status

    baton status --watch

    baton status --json | jq '.workers[].num_running'

    blocks: in use of all, below them slots of models with states; preempt: sequences preempted so far; KV out, KV in:
    bytes so far; transfers: under way now. A worker of several ranks shows the node and the cores of each.

    Exit code 1 where nothing runs.
    """
    cluster, controller = find()
    if as_json:
        fleet = dataclasses.asdict(controller.status())
        typer.echo(json.dumps({"http": cluster.http, "grpc": cluster.grpc, **fleet}, indent=1))
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not (console.is_terminal or "COLUMNS" in os.environ):
        console.width = PIPED_WIDTH
    if not watch:
        console.print(worker_table(cluster, controller.status()))
        return
    with Live(worker_table(cluster, controller.status()), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(1.0)
            live.update(worker_table(cluster, controller.status()), refresh=True)


def find() -> "tuple[ClusterState, ControllerClient]":
    from cluster.host import state
    from cluster.local import ray_node as local_ray

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
    """A heading; a row per worker, below it one for its slots of states and one per rank where there are several; and
    lines of the workers on a GPU, of those that verified drafts, and of those that had trouble.

    A row fits 80 columns for a worker of few cores; where it does not, cells are folded, never cut.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from cluster.commands.autopilot_lines import autopilot_lines
    from cluster.config.load import loads

    pools = ", ".join(f"{pool.name} {pool.num_ready}/{pool.num_desired}" for pool in status.pools)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("worker", "state", "cores"):
        table.add_column(heading, overflow="fold")
    for heading in ("blocks", "run", "wait", "preempt", "KV out", "KV in", "transfers"):
        table.add_column(heading, justify="right", overflow="fold")
    for worker in status.workers:
        table.add_row(*_row(worker))
        if worker.num_states:
            table.add_row("  states", "", "", f"{worker.num_states - worker.num_free_states}/{worker.num_states}")
        if len(worker.ranks) > 1:
            for number, rank in enumerate(worker.ranks):
                table.add_row(f"  rank {number}", rank.node or "-", _ranges(rank.cores))
    trouble = [*_rollout(status)]
    trouble += [Text(worker.loading, style="yellow") for worker in status.workers if worker.loading]
    trouble += [Text(pool.waits, style="yellow") for pool in status.pools if pool.waits]
    trouble += [Text(refused, style="red") for refused in status.refused]
    trouble += [line for worker in status.workers for line in _trouble(worker)]
    pools += f", ingress {status.num_ingress_replicas}/{loads(status.config).http.replicas}" if status.config else ""
    drafts = [line for worker in status.workers for line in (*_attention(worker), *_drafts(worker))]
    models = [line for model in status.models for line in _model(model)]
    pilot = autopilot_lines(status.autopilot)
    head = Text(f"{cluster.http}  gRPC {cluster.grpc}  {pools}")
    return Group(head, *models, table, *drafts, *pilot, *trouble)


def _model(model: "ModelStatus") -> "Iterator[Text]":
    from rich.text import Text

    from cluster.commands.autopilot_lines import autopilot_lines

    phase = "leaving" if model.leaving else "ready" if model.ready else "not ready"
    share = "" if model.leaving else f", {model.share:.0%} of {model.served_name} (weight {model.weight:g})"
    calls = _counted(model.num_open, "open request")
    yield Text(f"{model.entry}: {model.model}, {phase}{share}, {calls}", style="" if model.ready else "yellow")
    if model.weight != model.file_weight and not model.leaving:
        yield Text(
            f"{model.entry}: weight {model.weight:g} was set by `baton weights`; the config says {model.file_weight:g}",
            style="yellow",
        )
    yield from autopilot_lines(model.autopilot)
    if model.error:
        yield Text(f"{model.entry}: {model.error}", style="red")


def _rollout(status: "FleetStatus") -> "Iterator[Text]":
    from rich.text import Text

    if status.drained:
        ids = ", ".join(node_id[:8] for node_id in status.drained)
        yield Text(f"no worker is placed on {ids}; see `baton drain`", style="yellow")
    if status.rollout is None:
        return
    done = f"{status.rollout.why}: {status.rollout.num_replaced} of {status.rollout.num_wanted} workers are as wanted"
    if status.rollout.halted:
        halted = f"halted, {status.rollout.halted}; `baton up` with a mended file goes on, with the old one goes back"
        yield Text(f"{done}; {halted}", style="red")
    else:
        yield Text(done, style="yellow")


def _attention(worker: "WorkerStatus") -> "Iterator[Text]":
    from rich.text import Text

    if worker.attention:
        yield Text(f"{worker.worker_id}: attends by {worker.attention}")


def _drafts(worker: "WorkerStatus") -> "Iterator[Text]":
    from rich.text import Text

    if not worker.serves and worker.guess_share is not None:
        yield Text(
            f"{worker.worker_id}: drafts for {_counted(worker.num_running, 'sequence')} of "
            f"{_counted(worker.num_draft_peers, 'worker')}, "
            f"{worker.num_output_tokens} tokens so far; foresaw {worker.guess_share:.0%} of what was written"
        )
    drafted, accepted = worker.drafted_by_place, worker.accepted_by_place
    if not drafted:
        return
    right = [*accepted, *[0] * (len(drafted) - len(accepted))]
    shares = " ".join(f"{100 * a // d}" for a, d in zip(right, drafted, strict=True))
    yield Text(
        f"{worker.worker_id}: {sum(right)} of {sum(drafted)} draft tokens right, by place {shares} %; "
        f"now {worker.drafts_per_decode:.1f} a decode; {worker.drafting_s:.1f} s drafting, "
        f"{worker.verifying_s:.1f} s verifying{_by(worker)}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _by(worker: "WorkerStatus") -> str:
    """Who drafts, and how often draft workers' guesses were in time."""
    who = f"; by {', '.join(worker.drafters)}" if worker.drafters else ""
    if worker.guess_share is None:
        return who
    rest = "; draft workers rest now" if worker.draft_workers_rest else ""
    share = f"{worker.guess_share:.0%} of the time (waited {worker.draft_wait_s:.1f} s)"
    return f"{who}, whose guesses were there {share}{rest}"


def _trouble(worker: "WorkerStatus") -> "Iterator[Text]":
    from rich.text import Text

    if worker.error and worker.phase == "ready":
        yield Text(f"{worker.worker_id} is back after it {worker.failure}", style="yellow")
    elif worker.error:
        yield Text(f"{worker.worker_id} {worker.failure}", style="red")
    if worker.num_failed_transfers:
        yield Text(
            f"{worker.worker_id}: {_counted(worker.num_failed_transfers, 'KV transfer')} failed so far", style="yellow"
        )


def _row(worker: "WorkerStatus") -> list[str]:
    phase = str(worker.phase)
    has_role_of_its_name = worker.worker_id.rpartition(".")[2].startswith(f"{worker.role}-")
    return [
        worker.worker_id if has_role_of_its_name else f"{worker.worker_id} as {worker.role}",
        f"[{PHASE_COLOURS[phase]}]{phase}[/]",
        _ranges(worker.cores),
        f"{worker.num_blocks - worker.num_free_blocks}/{worker.num_blocks}",
        str(worker.num_running),
        str(worker.num_waiting),
        str(worker.num_preemptions),
        size_text(worker.kv_bytes_sent),
        size_text(worker.kv_bytes_received),
        str(worker.num_transfers),
    ]


def _ranges(cores: Sequence[int]) -> str:
    """0, 1, 2, 5 as 0-2,5."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def size_text(num_bytes: int) -> str:
    """In the largest binary unit that leaves at least 1, in 7 characters at most."""
    amount = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f}{unit}" if unit == "B" or amount >= 100 else f"{amount:.1f}{unit}"
        amount /= 1024
    return f"{amount:.1f}TiB"
